"""Nothing new serves while production is held, and everything goes on by itself at the end."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.acceptance.conftest import WINDOW_S, World


@pytest.fixture(autouse=True)
def _no_hold_outlives_its_test(world: World) -> Iterator[None]:
    yield
    if world.rows("SELECT 1 FROM holds WHERE ended_at IS NULL"):
        world.command("unhold")


def await_held(world: World, sha: str, *, says: str) -> str:
    return world.author.await_status(sha, "pending", says=says)


def serving(world: World, title: str) -> str:
    sha = world.release("ok", title)
    world.author.push()
    world.await_serving(sha)
    world.author.await_status(sha, "success", says="live since")
    return sha


def test_a_push_waits_while_production_is_held_and_goes_live_by_itself_at_the_end(world: World) -> None:
    before = serving(world, "Before the hold")
    held = json.loads(world.command("hold", "--reason", "we count the till", "--for", "5m", "--json").stdout)
    assert (held["slot"], held["reason"]) == ("main", "we count the till")
    first = world.release("ok", "Waits, and is overtaken")
    world.author.push()
    await_held(world, first, says="held until")
    newest = world.release("ok", "Waits")
    world.author.push()
    said = await_held(world, newest, says="we count the till (by ")
    assert "UTC" in said
    world.author.await_status(first, "error", says="superseded")
    assert world.serves() == before
    assert (world.root / "releases" / newest).is_dir()

    told = " ".join(world.command("status").stdout.split())
    assert "main is held until" in told
    assert "we count the till" in " ".join(world.command("plan").stdout.split())
    day = world.root / "day"
    summary = json.loads(world.command("maintenance", "daily-summary", "--output-dir", str(day), "--json").stdout)
    assert [hold["kind"] for hold in summary["record"]["holds"]] == ["by_hand"]
    assert any("main is held" in sentence for sentence in summary["needs_attention"])

    refused = world.command("deploy", newest[:12])
    assert (refused.returncode, "HeldByHand" in refused.stderr) == (3, True)
    # It ends a moment from now, and nobody tells the worker.
    assert world.command("hold", "--reason", "almost", "--for", "3s").returncode == 0
    world.await_serving(newest)
    world.author.await_status(newest, "success", says="live since")
    assert world.rows("SELECT DISTINCT attempts FROM runs WHERE sha = %s", newest) == [(1,)]


@pytest.mark.parametrize("step", ["StartInstance", "Switch"])
def test_an_order_that_comes_while_a_plan_is_done_stops_it_before_it_touches_what_serves(
    world: World, step: str
) -> None:
    """The worker has decided and is about to act; the order is answered as given, so nothing new may serve after it."""
    before = serving(world, f"Before the hold at {step}")
    armed = world.arm(f"step.before.{step}", signal="SIGSTOP")
    world.author.wait(lambda: not armed.exists(), lambda: "the worker is to be armed")
    waits = world.release("ok", f"Comes at {step}")
    world.author.push()
    worker = world.pids()["worker"]
    world.author.wait(lambda: is_stopped(worker), lambda: f"the worker is to come to {step}")
    assert world.command("hold", "--reason", f"at {step}").returncode == 0
    os.kill(worker, signal.SIGCONT)
    await_held(world, waits, says=f"at {step}")
    assert world.serves() == before
    assert world.rows("SELECT 1 FROM runs WHERE sha = %s AND served", waits) == []
    assert world.pids()["worker"] == worker
    assert world.command("unhold").returncode == 0
    world.await_serving(waits)
    world.author.await_status(waits, "success", says="live since")


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_what_serves_is_started_again_while_a_push_waits(world: World) -> None:
    before = serving(world, "Before the weekend")
    assert world.command("hold", "--reason", "the weekend").returncode == 0
    waits = world.release("ok", "Comes on Monday")
    world.author.push()
    await_held(world, waits, says="the weekend")
    world.signal_instance(signal.SIGKILL)
    world.author.wait(lambda: world.author.get("main", "/")[0] != 200, lambda: "it is to be away")
    world.await_serving(before)
    assert world.rows("SELECT state FROM runs WHERE sha = %s", waits) == [("planned",)]
    assert world.command("unhold").returncode == 0
    world.await_serving(waits)


def test_an_order_that_says_why_goes_despite_the_hold_and_is_written_down(world: World) -> None:
    before = serving(world, "Before the fire")
    after = serving(world, "The fire")
    assert world.command("hold", "--reason", "nobody touches this").returncode == 0

    done = world.command("deploy", before, "--override-hold", "the shop is on fire", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert world.serves() == before
    said = world.author.await_status(before, "success", says="despite a hold")
    assert "the shop is on fire" in said
    (detail,) = [row[0] for row in world.rows("SELECT detail FROM audit WHERE action = 'override.deploy'")]
    assert isinstance(detail, dict)
    assert detail["despite_hold"] == "the shop is on fire"
    ended = json.loads(world.command("unhold", "--json").stdout)
    assert [one.partition(" (by ")[0] for one in ended["ended"]] == ["nobody touches this"]
    actions = [row[0] for row in world.rows("SELECT action FROM audit WHERE action IN ('hold', 'unhold') ORDER BY id")]
    assert actions[-2:] == ["hold", "unhold"]
    assert after != before


def test_a_window_that_has_begun_goes_back_by_itself_though_production_is_held(world: World) -> None:
    good = serving(world, "Good")
    bad = world.release("turns-bad", "Turns bad", window_s=WINDOW_S)
    world.author.push()
    world.await_serving(bad)
    assert world.command("hold", "--reason", "too late").returncode == 0
    world.turn(bad)
    world.author.await_status(bad, "failure", says="rolled back")
    world.await_serving(good)
    assert world.command("unhold").returncode == 0


def test_previews_go_on_in_a_freeze_of_production_and_a_push_that_ends_it_counts(world: World) -> None:
    world.author.git("checkout", "-q", "main")
    now = datetime.now(UTC)
    window = f'{{ from = "{now - timedelta(days=1):%Y-%m-%d}", until = "{now + timedelta(days=3):%Y-%m-%d}"'
    before = serving(world, "Before the freeze")
    world.release("ok", "Frozen")
    recipe = world.author.clone / "deploy.toml"
    plain = recipe.read_text()
    recipe.write_text(plain + f'freeze = [{window}, timezone = "Europe/Zurich", reason = "holidays" }}]\n')
    frozen = world.author.commit("Freeze")
    world.author.push()
    said = await_held(world, frozen, says="Europe/Zurich: holidays (by policy)")
    assert said.startswith("held until")
    assert world.serves() == before
    assert "holidays" in " ".join(world.command("status").stdout.split())

    world.author.git("checkout", "-q", "-B", "topic", "main")
    preview = world.release("ok", "A preview in a freeze")
    world.author.push("topic")
    number = world.author.open_pull("topic", "A preview")
    world.await_serving(preview, "preview-1")
    world.author.close_pull(number)
    world.author.git("checkout", "-q", "main")

    recipe.write_text(plain)
    thawed = world.author.commit("No freeze any more")
    world.author.push()
    world.await_serving(thawed)
