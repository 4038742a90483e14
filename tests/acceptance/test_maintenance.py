"""What the maintenance jobs find on a running stack whose loop would not look by itself for a day."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.acceptance.conftest import World, open_world


@pytest.fixture(scope="module")
def quiet_world() -> Iterator[World]:
    """A stack that looks at its forge only when it is told of something."""
    with open_world(resync_s=86_400) as world:
        sha = world.release("ok", f"Production {time.monotonic_ns()}")
        world.author.push()
        world.await_serving(sha)
        yield world


def open_preview(world: World, branch: str) -> int:
    world.author.git("checkout", "-q", "-B", branch, "main")
    sha = world.release("ok", f"Preview of {branch} {time.monotonic_ns()}")
    world.author.push(branch)
    world.author.git("checkout", "-q", "main")
    number = world.author.open_pull(branch, branch)
    world.await_serving(sha, "preview-1")
    return number


def close_without_a_webhook(world: World, number: int) -> None:
    world.author.forge_development.post("/_development/drop", json={"count": 1})
    world.author.close_pull(number)


def open_leases(world: World) -> list[object]:
    return [row[0] for row in world.rows("SELECT pull_request FROM leases WHERE ended_at IS NULL")]


def test_a_close_that_no_webhook_told_of_is_found_and_reclaimed_by_the_loop(quiet_world: World) -> None:
    world = quiet_world
    number = open_preview(world, "untold")
    close_without_a_webhook(world, number)

    dry = json.loads(world.command("maintenance", "stale-leases", "--dry-run", "--json").stdout)
    assert [(one["slot"], one["reason"], one["reclaimed"]) for one in dry["found"]] == [
        ("preview-1", "LeaseClosed", False)
    ]
    assert open_leases(world) == [number]

    done = world.command("maintenance", "stale-leases", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["reclaimed"], told["left"]) == (0, 1, 0), done.stderr
    assert f"reclaimed: preview-1: LeaseClosed: #{number} is closed" in done.stderr
    assert open_leases(world) == []
    assert world.rows("SELECT actor, subject FROM audit WHERE action = 'lease.reclaimed'") == [
        ("maintenance", "preview-1")
    ]


def test_nothing_is_concluded_while_the_forge_does_not_answer(quiet_world: World) -> None:
    world = quiet_world
    number = open_preview(world, "outage")
    world.author.forge_development.post("/_development/outage", json={"seconds": 60})

    away = world.command("maintenance", "stale-leases", "--json")
    assert away.returncode == 4, away.stdout
    assert json.loads(away.stdout)["error"].startswith("Forge")
    assert open_leases(world) == [number]
    world.author.forge_development.post("/_development/outage", json={"seconds": 0})
    world.author.close_pull(number)
    world.author.wait(lambda: open_leases(world) == [], lambda: "the lease is to end")
