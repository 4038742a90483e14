"""Kill the worker with -9 between any two effects: what serves goes on serving, and the world converges.

Each case arms one failpoint, plays a story in which it is reached, lets the worker die there, and then asserts the
invariants of a calm world: I1 `current` names a whole release, I2 one run at a time, I3 no delivery without an end,
I4 slots and pull requests one to one, I6 the forge says what the store says, I7 nothing of a freed slot lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from controller.development.armed import FAILPOINT_FILE
from controller.effects.mirror import Mirror
from controller.effects.publish import verify_release
from controller.model.names import Layout, Sha
from controller.model.threads import LASTING
from tests.acceptance.conftest import WINDOW_S, World, logs_of, open_world

PUSH = (
    "step.before.BeginRun",
    "step.after.BeginRun",
    "step.before.Checkout",
    "publish.after_mkdir",
    "publish.after_write",
    "publish.after_sync",
    "publish.between_renames",
    "publish.before_parent_sync",
    "publish.after_rename",
    "step.before.AdvanceRun",
    "step.after.AdvanceRun",
    "step.before.StartInstance",
    "step.after.StartInstance",
    "step.before.StartGate",
    "step.after.StartGate",
    "step.before.Switch",
    "live.before_rename",
    "live.after_rename",
    "current.before_rename",
    "current.after_rename",
    "step.after.Switch",
    "step.before.StartWatch",
    "step.after.StartWatch",
    "step.before.StopUnit",
    "step.after.StopUnit",
    "step.before.EndRun",
    "step.after.EndRun",
    "fetch.before_prune",
    "tick.before_report",
    "report.before_ack",
)
PREVIEW = (
    "step.before.ClaimSlot",
    "step.after.ClaimSlot",
    "step.before.ProvisionSlot",
    "step.after.ProvisionSlot",
    "step.before.EndLease",
    "step.after.EndLease",
    "step.before.FreeSlot",
    "step.after.FreeSlot",
    "step.before.WipeSlot",
    "step.after.WipeSlot",
)
ROLLBACK = (
    "step.before.Quarantine",
    "step.after.Quarantine",
    "step.before.SwitchBack",
    "step.after.SwitchBack",
)


COMMAND = ("answer.before_write", "answer.after_write", "answer.before_cursor")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_world() as world:
        first = world.release("ok", "The first release")
        world.author.push()
        world.await_serving(first)
        world.author.await_status(first, "success", says="live since")
        yield world


def await_death(world: World, before: int) -> None:
    """Wait until the armed worker died there: another process is the worker now."""
    world.author.wait(
        lambda: world.pids().get("worker", before) != before, lambda: "the worker is to die at its failpoint"
    )


def armed_pid(world: World, name: str) -> int:
    """Have the worker die at `name`; return which process that is, once it is armed."""
    before = world.pids()["worker"]
    path = world.arm(name)
    world.author.wait(lambda: not path.exists(), lambda: f"the worker is to arm {name}")
    return before


def unlike_at_forge(world: World) -> list[tuple[object, ...]]:
    """Return the newest statuses that are pending, or that the forge does not show as the store has them."""
    unlike: list[tuple[object, ...]] = []
    for state, description, sha, context in world.rows(
        "SELECT wanted->>'state', wanted->>'description', wanted->>'sha', wanted->>'context' FROM reports"
        " WHERE surface = 'status' ORDER BY updated_at DESC LIMIT 5"
    ):
        seen = world.author.status(str(sha), "main" if "production" in str(context) else "preview-1")
        if state == "pending" or seen != (state, description):
            unlike.append((sha, (state, description), seen))
    return unlike


def assert_calm(world: World, serving: str) -> None:
    """The invariants, once nothing is left to do."""

    def is_calm() -> bool:
        return (
            world.rows("SELECT 1 FROM runs WHERE ended_at IS NULL") == []
            and world.rows("SELECT 1 FROM deliveries WHERE state = 'pending'") == []
            and world.rows("SELECT 1 FROM reports WHERE sent_generation < generation") == []
            and world.rows("SELECT 1 FROM leases WHERE ended_at IS NULL") == []
            # A step may have ended what the next look has yet to report: until then nothing is unsent.
            and unlike_at_forge(world) == []
        )

    world.author.wait(
        is_calm,
        lambda: (
            f"calm: {world.rows('SELECT slot, state, reason, message FROM runs')[-3:]},"
            f" told and shown differ: {unlike_at_forge(world)}"
        ),
    )
    assert world.serves() == serving
    current = Path(os.readlink(str(world.stack["current"])))
    assert current.name == serving
    layout = Layout(world.root)
    mirror = Mirror(layout.mirror, f"{world.stack['forge']}/{world.author.repository}.git")
    assert verify_release(mirror, layout, Sha(serving)) == ()
    assert world.author.get("preview-1", "/")[0] == 503


@contextmanager
def pull_request(world: World, name: str) -> Iterator[tuple[int, str]]:
    """Open a pull request with a release of its own; yield its number and head. No later case finds it open."""
    world.author.git("checkout", "-q", "-B", "feature", "main")
    sha = world.release("ok", f"{name} {time.monotonic_ns()}")
    world.author.git("push", "-q", "-f", "origin", "HEAD:refs/heads/feature")
    world.author.git("checkout", "-q", "main")
    number = world.author.open_pull("feature", name)
    try:
        yield number, sha
    finally:
        world.author.close_pull(number)


@pytest.mark.parametrize("name", PUSH)
def test_a_push_survives_a_worker_that_dies_at(world: World, name: str) -> None:
    before = armed_pid(world, name)
    sha = world.release("ok", f"{name} {time.monotonic_ns()}")
    world.author.push()
    await_death(world, before)

    world.await_serving(sha)
    world.author.await_status(sha, "success", says="live since")
    assert_calm(world, sha)


@pytest.mark.parametrize("name", PREVIEW)
def test_a_preview_survives_a_worker_that_dies_at(world: World, name: str) -> None:
    serving = world.serves()
    before = armed_pid(world, name)
    with pull_request(world, name) as (number, sha):
        world.await_serving(sha, "preview-1")
        world.author.await_status(sha, "success", slot="preview-1")
        world.author.close_pull(number)
        await_death(world, before)

    world.author.wait(lambda: world.author.get("preview-1", "/")[0] == 503, lambda: "the closed preview is to be free")
    assert_calm(world, serving)


@pytest.mark.parametrize("name", COMMAND)
def test_a_command_is_answered_once_by_a_worker_that_dies_at(world: World, name: str) -> None:
    serving = world.serves()
    with pull_request(world, name) as (number, sha):
        world.await_serving(sha, "preview-1")
        world.author.await_status(sha, "success", slot="preview-1")
        before = armed_pid(world, name)
        said = world.author.forge.post(f"/issues/{number}/comments", json={"body": "/preview stop"}).json()["id"]
        await_death(world, before)

        def reactions() -> list[str]:
            return [str(one["content"]) for one in world.author.forge.get(f"/issues/comments/{said}/reactions").json()]

        world.author.wait(lambda: world.author.get("preview-1", "/")[0] == 503, lambda: "the preview is to end")
        world.author.wait(lambda: reactions() == ["+1"], lambda: f"one reaction: {reactions()}")
        told = world.rows("SELECT 1 FROM audit WHERE action = 'comment.stop' AND subject = %s", f"#{number}")
        assert told == [(1,)]
    assert_calm(world, serving)


@pytest.mark.parametrize("name", ROLLBACK)
def test_a_rollback_survives_a_worker_that_dies_at(world: World, name: str) -> None:
    serving = world.release("ok", f"Good before {name} {time.monotonic_ns()}")
    world.author.push()
    world.await_serving(serving)
    world.author.await_status(serving, "success", says="live since")
    before = armed_pid(world, name)
    bad = world.release("turns-bad", f"{name} {time.monotonic_ns()}", window_s=WINDOW_S)
    world.author.push()
    world.turn(bad)
    await_death(world, before)

    world.author.await_status(bad, "failure", says="rolled back")
    world.await_serving(serving)
    assert_calm(world, serving)


def test_a_commit_that_kills_the_worker_again_and_again_stalls_and_the_rest_goes_on(world: World) -> None:
    """A poison commit: three workers died over it, the fourth gives it up, says so, and works on."""
    serving = world.serves()
    path = world.arm("step.before.Checkout", times=4)
    world.author.wait(lambda: '"times": 3' in path.read_text(), lambda: "the worker is to arm its failpoint")
    poison = world.release("ok", f"Poison {time.monotonic_ns()}")
    world.author.push()

    said = world.author.await_status(poison, "error")
    assert "WorkerDied" in said
    assert world.serves() == serving
    world.author.wait(lambda: not path.exists(), lambda: "the last armed worker is to have come")
    next_one = world.release("ok", f"After the poison {time.monotonic_ns()}")
    world.author.push()
    world.await_serving(next_one)
    world.author.await_status(next_one, "success", says="live since")


def break_at(world: World, kind: str) -> int:
    """Have the worker run into a bug in the next thread of this kind; return which process that is.

    Those that live as long as the worker begin with the next one, which is armed before it starts any."""
    path, before = world.run / FAILPOINT_FILE, world.pids()["worker"]
    order = json.dumps({"command": "worker", "name": f"thread.{kind}", "bug": True})
    if kind in ("bell", "health", "reporter", "runtime watch"):
        path.write_text(order)
        world.kill("worker")
    else:
        world.arm(f"thread.{kind}", bug=True)
    world.author.wait(lambda: not path.exists(), lambda: f"the worker is to arm a bug in {kind}")
    return before


#: These two need a receiver of notifications and a GitHub App: tests/forge breaks their loops.
NOT_HERE = {"notifier", "sweeper"}


@pytest.mark.parametrize("kind", ["gate", "refresh", *(kind for kind in LASTING if kind not in NOT_HERE)])
def test_a_bug_in_a_thread_ends_the_worker_with_its_traceback_and_the_next_one_goes_on(world: World, kind: str) -> None:
    told = f"ZeroDivisionError: a bug at thread.{kind}"
    before = break_at(world, kind)
    sha = world.release("ok", f"A bug in {kind} {time.monotonic_ns()}")
    world.author.push()
    if kind == "health request":
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(str(world.stack["worker_health"]), trust_env=False, timeout=5)
    await_death(world, before)
    world.author.wait(lambda: told in logs_of(world.root)["worker.log"], lambda: f"the worker is to end with {told}")

    world.await_serving(sha)
    world.author.await_status(sha, "success", says="live since")
    assert f"{kind} ended by a bug" in logs_of(world.root)["worker.log"] or kind in ("gate", "watch")


def deliver(world: World, count: int) -> set[str]:
    """Send signed deliveries, 32 at a time; return the ids of those that were answered with 202."""
    secret = Path(str(world.stack["webhook_secret_file"])).read_text().strip().encode()
    return asyncio.run(deliver_all(world, count, secret=secret, head=world.author.git("rev-parse", "HEAD")))


async def deliver_all(world: World, count: int, *, secret: bytes, head: str) -> set[str]:
    accepted: set[str] = set()
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        gate = asyncio.Semaphore(32)

        async def one(k: int) -> None:
            name = str(uuid.uuid4())
            value = {"ref": "refs/heads/main", "before": head, "after": head, "n": f"{k} {name}"}
            body = json.dumps({**value, "repository": {"full_name": world.author.repository}}).encode()
            headers = {
                "Content-Type": "application/json",
                "X-GitHub-Event": "push",
                "X-GitHub-Delivery": name,
                "X-Hub-Signature-256": "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest(),
            }
            async with gate:
                try:
                    answer = await client.post(str(world.stack["receiver"]), content=body, headers=headers)
                except httpx.HTTPError:
                    return  # nobody said that it was accepted
                if answer.status_code == 202:
                    accepted.add(name)

        await asyncio.gather(*(one(k) for k in range(count)))
    return accepted


def await_every_end(world: World) -> None:
    """Wait until no delivery is pending, also while Postgres is coming back."""

    def is_back() -> bool:
        try:
            return world.rows("SELECT 1 FROM deliveries WHERE state = 'pending'") == []
        except psycopg.OperationalError:
            return False

    world.author.wait(is_back, lambda: "every accepted delivery is to have an end")


def test_no_accepted_delivery_is_lost_when_the_receiver_is_killed_again_and_again(world: World) -> None:
    stop = threading.Event()

    def kill_now_and_then() -> None:
        for _ in range(3):
            stop.wait(0.4)
            world.kill("api")
            world.author.wait(lambda: receiver_answers(world), lambda: "the receiver is to come back")

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    accepted: set[str] = set()
    while killer.is_alive():
        accepted |= deliver(world, 200)
    killer.join()

    assert accepted
    await_every_end(world)
    kept = {str(row[0]) for row in world.rows("SELECT id FROM deliveries WHERE state = 'done'")}
    assert accepted - kept == set()


def receiver_answers(world: World) -> bool:
    """Say whether the receiver's health is good."""
    try:
        return httpx.get(f"{world.stack['api']}/health", trust_env=False, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def test_2000_accepted_deliveries_survive_a_kill_of_everything(world: World) -> None:
    """`kill -9` of worker, receiver, Redis and Postgres at once, with the inbox full."""
    serving = world.serves()
    os.kill(world.pids()["worker"], signal.SIGSTOP)  # nothing is looked at meanwhile
    accepted = deliver(world, 2000)
    pids = world.pids()
    for part in ("worker", "api", "redis", "postgres"):
        os.kill(pids[part], signal.SIGKILL)

    assert len(accepted) == 2000
    await_every_end(world)
    kept = {str(row[0]) for row in world.rows("SELECT id FROM deliveries WHERE state = 'done'")}
    assert accepted - kept == set()
    world.author.wait(lambda: world.serves() == serving, lambda: "production is to serve as before")
