"""What the maintenance jobs find on a running stack whose loop would not look by itself for a day."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from controller.doors.leftovers import find_leftovers
from controller.doors.stacks import open_runtime
from controller.effects.stack_files import read_topology
from controller.effects.store import Store
from controller.model.config import read_settings
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
    assert [row[0] for row in world.rows("SELECT detail->>'fence' FROM audit WHERE action = 'lease.wiped'")] == [
        str(dry["found"][0]["fence"])
    ]
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
    world.author.wait(lambda: world.rows("SELECT 1 FROM runs WHERE ended_at IS NULL") == [], lambda: "no run")
    control = json.loads((world.root / "environment.json").read_text())["DATABASE_URL"]
    with psycopg.connect(control.replace("postgresql+psycopg:", "postgresql:"), autocommit=True) as connection:
        for table, column in (("runs", "begun_at"), ("leases", "claimed_at")):
            connection.execute(f"UPDATE {table} SET {column} = {column} - interval '2 days'")  # type: ignore[arg-type]
    assert audit(world) == (0, []), "the run of what runs is known, however old it is"
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


def test_the_daily_job_lets_go_of_what_is_old_and_of_nothing_that_is_needed(quiet_world: World, tmp_path: Path) -> None:
    world = quiet_world
    world.release("ok", f"With a short memory {time.monotonic_ns()}")
    recipe = world.author.clone / "deploy.toml"
    recipe.write_text(recipe.read_text() + "\n[retention]\ndeliveries_keep = 0\nruns_keep = 20\nsummaries = 2\n")
    sha = world.author.commit("With a short memory, indeed")
    world.author.push()
    world.await_serving(sha)
    world.author.await_status(sha, "success", says="live since")
    serving = world.rows("SELECT generation FROM runs WHERE sha = %s AND proven", sha)[0][0]
    with psycopg.connect(str(world.stack["database_url"])) as connection:
        connection.execute(
            "UPDATE deliveries SET received_at = t, armed_at = t, done_at = t FROM (SELECT now() -"
            " interval '40 days' AS t) AS old WHERE state <> 'pending'"
        )
        # Forty failures since what serves, and forty before it.
        connection.execute(
            "INSERT INTO runs (generation, repository_id, host, slot, domain, fence, sha, tree, release, cause, state,"
            " worker, begun_at, ended_at) SELECT g, repository_id, host, 'main', 'production', 0, sha, tree, release,"
            " 'push', 'failed', 'test', old, old FROM runs r, (SELECT now() - interval '100 days' AS old) AS at,"
            " generate_series(100001, 100080) AS g WHERE r.generation = %s",
            [serving],
        )
        connection.execute("UPDATE runs SET ended_at = now() - interval '100 days' WHERE ended_at IS NOT NULL")
    for generation in (100_001, serving):
        logs = world.root / "artifacts" / "runs" / str(generation)
        logs.mkdir(parents=True, exist_ok=True)
        (logs / "main-a.log").write_text("a line\n")
    for name in ("20200101", "20200102", "20200103"):
        (tmp_path / f"daily-health-summary-{name}.json").write_text("{}")

    done = world.command("maintenance", "daily-summary", "--output-dir", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["record"]["forgotten"]["problem"] == ""
    assert told["record"]["forgotten"]["runs"] >= 60
    assert told["record"]["forgotten"]["deliveries"] > 0
    assert [one for one in told["health"] if not one["ok"]] == []
    left = {row[0] for row in world.rows("SELECT generation FROM runs WHERE slot = 'main'")}
    assert serving in left
    assert {generation for generation in left if generation > 100_000} == set(range(100_061, 100_081))
    assert not (world.root / "artifacts" / "runs" / "100001").exists()
    assert (world.root / "artifacts" / "runs" / str(serving)).exists()
    assert world.rows("SELECT 1 FROM deliveries") == []
    assert min(path.name for path in tmp_path.iterdir()) == "daily-health-summary-20200103.json"
    assert len(list(tmp_path.iterdir())) == 2

    # The loop goes on as before: the same head serves, and nothing is begun anew.
    world.author.wait(
        lambda: world.command("plan").stdout.rstrip().endswith("nothing to do"),
        lambda: f"there is something to do: {world.command('plan').stdout}",
    )
    assert world.serves() == sha


def test_everything_on_a_used_stack_has_its_owner_and_what_is_planted_is_found(quiet_world: World) -> None:
    world = quiet_world
    settings = read_settings(json.loads((world.root / "environment.json").read_text()))
    layout, topology = settings.layout, read_topology(settings.layout)
    store = Store(settings.database_url, repository=settings.repository, host=settings.host)

    def found() -> list[str]:
        left = find_leftovers(layout, topology, store, open_runtime(settings), store.load_history(), grace_s=0)
        return sorted(one.path for one in left)

    sha, tree = "ab" * 20, "cd" * 20
    folders = [
        f"releases/{sha}",
        f"releases/.tmp-{sha}-1",
        f"builds/production/{tree}-12",
        "builds/production/.gone-12",
        "builds/pr-999",
        "slots/preview-77",
        "artifacts/runs/999999",
        "supervisor/main-a.999999.12",
        "core-dumps",
    ]
    files = [
        f"releases/{'12' * 20}.manifest",
        f"builds/production/{tree}-34.sealed",
        "builds/pr-999/a-file-of-nobody",
        "slots/main/.live.12",
        "run/env/preview-77-a.env",
        "run/env/.main-a.env.12",
    ]
    world.author.wait(lambda: found() == [], lambda: f"left on a used stack: {found()}")

    def where(path: str) -> Path:
        return layout.run / path.removeprefix("run/") if path.startswith("run/") else layout.root / path

    for folder in folders:
        where(folder).mkdir(parents=True)
    for file in files:
        where(file).parent.mkdir(parents=True, exist_ok=True)
        where(file).touch()
    try:
        # What is being removed is gone at any moment.
        passing = {f"releases/.tmp-{sha}-1", "builds/production/.gone-12", files[0], files[1]}
        assert set(folders + files) - set(found()) <= passing
        assert set(found()) <= set(folders + files)
    finally:
        for path in [*files, *reversed(folders)]:
            if where(path).is_dir():
                where(path).rmdir()
            where(path).unlink(missing_ok=True)
        store.close()
