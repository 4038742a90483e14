"""Right before a switch the forge is asked once more what production is: a push that nobody told of is not missed then,
and a forge that does not answer holds nothing up."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from controller.decisions.order import HEAD_FRESH_S
from tests.acceptance.conftest import World, open_world

#: Longer than a fetch counts as fresh.
STALE_AFTER_S = HEAD_FRESH_S + 0.2


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Its resync is so slow that nothing else finds a push in time."""
    with open_world(resync_s=600) as world:
        yield world


def begun(world: World, title: str) -> tuple[str, Path]:
    """Push a release that waits; return it once it is at its gate, and the file that lets it go."""
    base = world.release("ok", f"Before {title}")
    world.author.push()
    world.await_serving(base)
    world.author.await_status(base, "success", says="live since")
    behaviour, go = world.waiting()
    sha = world.release(behaviour, title)
    world.author.push()
    world.author.wait(lambda: states(world, sha) == ["gating"], lambda: f"{title} is at {states(world, sha)}")
    return sha, go


def states(world: World, sha: str) -> list[str]:
    return [str(row[0]) for row in world.rows("SELECT state FROM runs WHERE sha = %s ORDER BY generation", sha)]


def has_served(world: World, sha: str) -> bool:
    return bool(world.rows("SELECT 1 FROM runs WHERE sha = %s AND served", sha))


def push_untold(world: World, *, force: bool = False) -> None:
    answer = world.author.forge_development.post("/_development/drop", json={"count": 1})
    assert answer.status_code < 300
    world.author.git("push", "-q", *(["--force"] if force else []), "origin", "main")


@contextmanager
def stopped(world: World, part: str) -> Iterator[None]:
    number = world.pids()[part]
    os.kill(number, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(number, signal.SIGCONT)


def test_a_push_that_nobody_told_of_is_seen_before_the_switch(world: World) -> None:
    older, go = begun(world, "The older one")
    newer = world.release("ok", "The newer one")
    push_untold(world)
    time.sleep(STALE_AFTER_S)
    go.touch()
    world.await_serving(newer)
    assert not has_served(world, older)
    assert states(world, older) == ["superseded"]
    world.author.await_status(older, "error", says=f"superseded by {newer[:7]}")


def test_a_branch_that_is_moved_by_force_before_the_switch_follows_its_policy(world: World) -> None:
    older, go = begun(world, "To be moved away")
    serving = world.serves()
    world.author.git("reset", "-q", "--hard", f"{older}~2")
    aside = world.release("ok", "Another history")
    push_untold(world, force=True)
    time.sleep(STALE_AFTER_S)
    go.touch()
    world.author.await_status(aside, "error", says="to another history by force")
    assert not has_served(world, older)
    assert world.serves() == serving
    world.author.git("reset", "-q", "--hard", older)
    world.author.git("push", "-q", "--force", "origin", "main")


def test_a_forge_that_does_not_answer_holds_no_switch_up(world: World) -> None:
    sha, go = begun(world, "While the forge hangs")
    with stopped(world, "forge"):
        time.sleep(STALE_AFTER_S)
        go.touch()
        world.await_serving(sha)
    world.author.await_status(sha, "success", says="live since")
