"""What the maintenance jobs find on a running stack whose loop would not look by itself for a day."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator

import psycopg
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


def audit(world: World) -> tuple[int, list[tuple[str, str]]]:
    done = world.command("maintenance", "reset-audit", "--lookback-hours", "24", "--json")
    findings = json.loads(done.stdout).get("findings", [])
    return done.returncode, [(finding["slot"], finding["reason"]) for finding in findings]


def test_the_audit_finds_nothing_in_order_and_names_what_a_reset_left(quiet_world: World) -> None:
    world = quiet_world
    number = open_preview(world, "audited")
    assert audit(world) == (0, [])
    world.author.close_pull(number)
    world.author.wait(lambda: world.rows("SELECT 1 FROM slots WHERE wiped_fence > 0") != [], lambda: "wiped")
    assert audit(world) == (0, [])

    data = world.root / "slots" / "preview-1" / "data"
    data.mkdir()
    builds = world.root / "builds" / f"pr-{number}"
    builds.mkdir(parents=True)
    admin = json.loads((world.root / "environment.json").read_text())["OROBOROS_APP_DATABASE_ADMIN_URL"]
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("CREATE ROLE preview_2")
        connection.execute("CREATE DATABASE preview_50")

    assert audit(world) == (
        1,
        [
            ("preview-1", "LeftAfterReset"),
            ("preview-2", "RoleWithoutDatabase"),
            ("preview-2", "LeftAfterReset"),
            ("preview-1", "BuildsLeft"),
            ("preview-50", "DatabaseOfNoSlot"),
        ],
    )
    data.rmdir()
    builds.rmdir()
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("DROP ROLE preview_2")
        connection.execute("DROP DATABASE preview_50")


def test_names_what_is_stale_when_no_worker_answers_and_changes_nothing(quiet_world: World) -> None:
    world = quiet_world
    number = open_preview(world, "paused")
    close_without_a_webhook(world, number)
    worker = world.pids()["worker"]
    os.kill(worker, signal.SIGSTOP)
    try:
        done = world.command("maintenance", "stale-leases", "--json")
    finally:
        os.kill(worker, signal.SIGCONT)
    told = json.loads(done.stdout)

    assert (done.returncode, told["error"], told["exit_code"]) == (4, "WorkerAway", 4)
    assert [(one["pull_request"], one["reclaimed"]) for one in told["found"]] == [(number, False)]
    assert open_leases(world) == [number]
    assert world.command("maintenance", "stale-leases").returncode == 0
    assert open_leases(world) == []
