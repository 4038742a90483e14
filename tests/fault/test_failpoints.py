"""Kill the worker with -9 between any two effects: what serves goes on serving, and the world converges.

Each case arms one failpoint, plays a story in which it is reached, lets the worker die there, and then asserts the
invariants of a calm world: I1 `current` names a whole release, I2 one run at a time, I3 no delivery without an end,
I4 slots and pull requests one to one, I6 the forge says what the store says, I7 nothing of a freed slot lives.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from controller.effects.mirror import Mirror
from controller.effects.publish import verify_release
from controller.model.names import Layout, Sha
from tests.acceptance.conftest import World, open_world

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


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_world() as world:
        first = world.release("ok", "The first release")
        world.author.push()
        world.await_serving(first)
        world.author.await_status(first, "success", says="live since")
        yield world


def arm(world: World, name: str) -> Path:
    """Have the next worker die at `name`; return the file that is gone once it is armed."""
    path = Path(json.loads((world.root / "environment.json").read_text())["OROBOROS_RUN"]) / "failpoint.json"
    path.write_text(json.dumps({"command": "worker", "name": name}))
    world.kill("worker")
    world.author.wait(lambda: not path.exists(), lambda: f"the worker is to arm {name}")
    return path


def await_death(world: World, before: int) -> None:
    """Wait until the armed worker died there: another process is the worker now."""
    world.author.wait(
        lambda: world.pids()["worker"] not in (before, None), lambda: "the worker is to die at its failpoint"
    )


def armed_pid(world: World, name: str) -> int:
    arm(world, name)
    return world.pids()["worker"]


def assert_calm(world: World, serving: str) -> None:
    """The invariants, once nothing is left to do."""

    def is_calm() -> bool:
        return (
            world.rows("SELECT 1 FROM runs WHERE ended_at IS NULL") == []
            and world.rows("SELECT 1 FROM deliveries WHERE state = 'pending'") == []
            and world.rows("SELECT 1 FROM reports WHERE sent_generation < generation") == []
            and world.rows("SELECT 1 FROM leases WHERE ended_at IS NULL") == []
        )

    world.author.wait(is_calm, lambda: f"calm: {world.rows('SELECT slot, state, reason, message FROM runs')[-3:]}")
    assert world.serves() == serving
    current = Path(os.readlink(str(world.stack["current"])))
    assert current.name == serving
    layout = Layout(world.root)
    mirror = Mirror(layout.mirror, f"{world.stack['forge']}/{world.author.repository}.git")
    assert verify_release(mirror, layout, Sha(serving)) == ()
    assert world.rows("SELECT state FROM runs WHERE state = 'stalled'") == []
    for state, description, sha, context in world.rows(
        "SELECT wanted->>'state', wanted->>'description', wanted->>'sha', wanted->>'context' FROM reports"
        " ORDER BY updated_at DESC LIMIT 5"
    ):
        assert state != "pending"
        seen = world.author.status(str(sha), "main" if "production" in str(context) else "preview-1")
        assert seen == (state, description)
    assert world.author.get("preview-1", "/")[0] == 503


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
    world.author.git("checkout", "-q", "-B", "feature", "main")
    sha = world.release("ok", f"{name} {time.monotonic_ns()}")
    world.author.git("push", "-q", "-f", "origin", "HEAD:refs/heads/feature")
    world.author.git("checkout", "-q", "main")
    number = world.author.open_pull("feature", name)
    world.await_serving(sha, "preview-1")
    world.author.await_status(sha, "success", slot="preview-1")
    world.author.close_pull(number)
    await_death(world, before)

    world.author.wait(lambda: world.author.get("preview-1", "/")[0] == 503, lambda: "the closed preview is to be free")
    assert_calm(world, serving)


@pytest.mark.parametrize("name", ROLLBACK)
def test_a_rollback_survives_a_worker_that_dies_at(world: World, name: str) -> None:
    serving = world.release("ok", f"Good before {name} {time.monotonic_ns()}")
    world.author.push()
    world.await_serving(serving)
    world.author.await_status(serving, "success", says="live since")
    before = armed_pid(world, name)
    bad = world.release("bad-after:1", f"{name} {time.monotonic_ns()}", window_s=10)
    world.author.push()
    await_death(world, before)

    world.author.await_status(bad, "failure", says="rolled back")
    world.await_serving(serving)
    assert_calm(world, serving)


def test_2000_accepted_deliveries_survive_a_kill_of_everything(world: World) -> None:
    """`kill -9` of worker, receiver, Redis and Postgres at once, with the inbox full."""
    secret = Path(str(world.stack["webhook_secret_file"])).read_text().strip().encode()
    head = world.author.git("rev-parse", "HEAD")

    async def deliver(count: int) -> int:
        accepted = 0
        async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
            gate = asyncio.Semaphore(32)

            async def one(k: int) -> None:
                nonlocal accepted
                body = json.dumps(
                    {
                        "ref": "refs/heads/main",
                        "before": head,
                        "after": head,
                        "n": k,
                        "repository": {"full_name": world.author.repository},
                    }
                ).encode()
                headers = {
                    "Content-Type": "application/json",
                    "X-GitHub-Event": "push",
                    "X-GitHub-Delivery": str(uuid.uuid4()),
                    "X-Hub-Signature-256": "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest(),
                }
                async with gate:
                    answer = await client.post(str(world.stack["receiver"]), content=body, headers=headers)
                    accepted += answer.status_code == 202

            await asyncio.gather(*(one(k) for k in range(count)))
        return accepted

    serving = world.serves()
    earlier = world.rows("SELECT count(*) FROM deliveries")[0][0]
    os.kill(world.pids()["worker"], signal.SIGSTOP)  # nothing is looked at meanwhile
    accepted = asyncio.run(deliver(2000))
    pids = world.pids()
    for part in ("worker", "api", "redis", "postgres"):
        os.kill(pids[part], signal.SIGKILL)

    assert accepted == 2000

    def is_back() -> bool:
        try:
            return world.rows("SELECT 1 FROM deliveries WHERE state = 'pending'") == []
        except psycopg.OperationalError:
            return False

    world.author.wait(is_back, lambda: "every accepted delivery is to have an end", timeout_s=60)
    assert world.rows("SELECT count(*) FROM deliveries")[0][0] == earlier + 2000  # type: ignore[operator]
    assert world.rows("SELECT state, count(*) FROM deliveries GROUP BY state ORDER BY 1")[0][0] == "done"
    assert_calm(world, serving)
