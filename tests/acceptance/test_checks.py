"""Do the contract's checks and the slots' backends work on a whole stack, through its scripts?"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.acceptance.conftest import CHECKOUT, World


@pytest.fixture(scope="module")
def previewed(world: World) -> Iterator[str]:
    """Production and a pull request serve; the pull request's commit is returned."""
    live = world.release("ok", f"Production {time.monotonic_ns()}")
    world.author.push()
    world.author.git("checkout", "-q", "-B", "topic", "main")
    sha = world.release("ok", f"Previewed {time.monotonic_ns()}")
    world.author.push("topic")
    world.author.git("checkout", "-q", "main")
    number = world.author.open_pull("topic", "Previewed")
    world.await_serving(live)
    world.await_serving(sha, "preview-1")
    world.author.await_status(sha, "success", slot="preview-1", says="live since")
    yield sha
    world.author.close_pull(number)


def worker_says(world: World) -> tuple[int, dict[str, object]]:
    token = Path(str(world.stack["operator_token_file"])).read_text().strip()
    answer = httpx.get(
        str(world.stack["worker_health"]), headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=5
    )
    return answer.status_code, answer.json()


@pytest.mark.usefixtures("previewed")
def test_the_worker_says_that_redis_is_away_and_stays_fit_and_that_the_database_is_and_does_not(world: World) -> None:
    wait = world.author.wait
    wait(lambda: worker_says(world)[1]["status"] == "ok", lambda: f"fit: {worker_says(world)}")
    redis, postgres = (world.pids()[part] for part in ("redis", "postgres"))
    os.kill(redis, signal.SIGSTOP)
    try:
        wait(lambda: worker_says(world)[1]["bell"] is False, lambda: f"no bell: {worker_says(world)}")
        code, told = worker_says(world)
        assert (code, told["status"], told["queue"], told["database"]) == (200, "degraded", "degraded", True)
    finally:
        os.kill(redis, signal.SIGCONT)
    wait(lambda: worker_says(world)[1]["status"] == "ok", lambda: f"fit again: {worker_says(world)}")

    backends = Path(f"/proc/{postgres}/task/{postgres}/children").read_text().split()
    stopped = [postgres, *map(int, backends)]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        wait(lambda: worker_says(world)[0] == 503, lambda: f"unfit: {worker_says(world)}")
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    wait(lambda: worker_says(world)[0] == 200, lambda: f"fit again: {worker_says(world)}")


def script(world: World, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run one of the contract's scripts on this stack, from a folder that is not the checkout."""
    return subprocess.run(
        [CHECKOUT / "scripts" / name, "--root", str(world.root), *words]
        if name != "preview-backend-runtime.sh"
        else [CHECKOUT / "scripts" / name, *words, "--root", str(world.root)],
        cwd=world.root,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/nonexistent")},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def backend(world: World, *words: str) -> tuple[int, dict[str, object]]:
    done = script(world, "preview-backend-runtime.sh", *words, "--json")
    assert done.stdout, done.stderr
    value = json.loads(done.stdout)
    found = value.get("backend", value)
    assert isinstance(found, dict)
    return done.returncode, found


def test_all_is_well_and_every_endpoint_of_the_contract_was_asked(world: World, previewed: str) -> None:
    done = script(world, "runtime-health-check.sh", "--wait", "20", "--json")

    assert done.returncode == 0, done.stdout + done.stderr
    services = {one["service"]: one for one in json.loads(done.stdout)["services"]}
    assert set(services) >= {"web-main", "web-preview-3", "api", "api-preview-1", "worker", "postgres", "redis"}
    assert services["api-preview-1"]["said"] == f"live {previewed[:7]}"
    assert services["api-preview-2"]["said"] == "free"


def test_a_preview_is_smoked_and_what_it_said_is_kept_with_its_run(world: World, previewed: str) -> None:
    (run,) = world.rows("SELECT max(generation) FROM runs WHERE sha = %s AND proven", previewed)
    urls = world.stack["urls"]
    assert isinstance(urls, dict)
    words = (
        "--preview-url",
        str(urls["preview-1"]),
        "--proxy-origin",
        str(world.stack["edge"]),
        "--changed-route",
        "/page",
    )

    done = script(world, "preview-smoke-e2e.sh", *words, "--run-id", str(run[0]), "--persist-validation")

    assert done.returncode == 0, done.stdout + done.stderr
    kept = world.rows("SELECT name, passed FROM validation_checks WHERE generation = %s ORDER BY id", run[0])
    surface = f"GET /.well-known/oroboros/release/{previewed}"
    assert kept == [("GET /", True), (surface, True), ("GET /page", True)]
    assert world.rows("SELECT path FROM run_artifacts WHERE generation = %s", run[0]) == [
        (str(world.root / "artifacts" / "runs" / str(run[0]) / "smoke.json"),)
    ]


def test_a_backend_that_was_stopped_stays_stopped_until_it_is_started(world: World, previewed: str) -> None:
    code, stopped = backend(world, "stop", "preview-1", "--reason", "too loud")
    assert (code, stopped["state"], stopped["units"], stopped["healthy"]) == (0, "stopped", [], False), stopped

    # The loop goes on: production is deployed, and the preview's own next commit waits.
    sha = world.release("ok", f"Meanwhile {time.monotonic_ns()}")
    world.author.push()
    world.await_serving(sha)
    assert backend(world, "status", "1")[1]["state"] == "stopped"
    assert world.author.get("preview-1", "/.well-known/oroboros/health")[0] == 503
    said = world.command("status").stdout
    assert "preview-1 stopped by" in said
    assert "too loud" in said
    assert world.rows("SELECT 1 FROM quarantine WHERE domain <> 'production'") == []

    code, started = backend(world, "start", "preview1")
    assert (code, started["state"], started["healthy"]) == (0, "running", True), started
    assert world.serves("preview-1") == previewed


def test_a_restart_is_another_instance_of_the_same_release(world: World, previewed: str) -> None:
    _, before = backend(world, "status", "preview-1")

    code, after = backend(world, "restart", "preview-1")

    assert (code, after["state"], after["release"]) == (0, "running", previewed), after
    assert after["units"] != before["units"]
    assert world.rows("SELECT kind FROM overrides WHERE ended_at IS NULL") == []
    assert world.rows("SELECT 1 FROM quarantine WHERE domain <> 'production'") == []


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (("stop", "main"), 3, "ProductionRefused"),
        (("restart", "main"), 3, "ProductionRefused"),
        (("stop", "preview-3"), 3, "SlotFree"),
        (("start", "preview-3"), 3, "SlotFree"),
        (("restart", "preview-3"), 3, "NothingServes"),
        (("stop", "preview-9"), 2, "Usage"),
        (("stop", "nothing"), 2, "Usage"),
    ],
)
def test_what_may_not_be_ordered_is_refused(
    world: World, previewed: str, words: tuple[str, ...], code: int, reason: str
) -> None:
    del previewed
    found, value = backend(world, *words)

    assert (found, value["error"]) == (code, reason)
    assert world.rows("SELECT 1 FROM overrides WHERE ended_at IS NULL") == []


def test_production_is_restarted_when_that_is_said(world: World, previewed: str) -> None:
    del previewed
    serving = world.serves()

    code, after = backend(world, "restart", "main", "--yes-production")

    assert (code, after["state"], after["healthy"]) == (0, "running", True), after
    assert world.serves() == serving


def test_a_free_slot_is_well(world: World) -> None:
    code, view = backend(world, "status", "3")

    assert (code, view["state"], view["said"], view["units"]) == (0, "free", "free", [])


def test_every_slot_agrees_with_itself(world: World, previewed: str) -> None:
    done = script(world, "preview-slots-health-check.sh", "--json")

    assert done.returncode == 0, done.stdout + done.stderr
    slots = {one["slot"]: one["aspects"] for one in json.loads(done.stdout)["slots"]}
    assert list(slots) == ["preview-1", "preview-2", "preview-3"]
    observed = {aspect["aspect"]: aspect["observed"] for aspect in slots["preview-1"]}
    assert set(observed) == {"lease", "serves", "web port", "backend port", "edge host", "unit", "database"}
    assert f"live {previewed[:7]}" in observed["edge host"]
    assert world.command("slots", "--check").returncode == 0


def test_a_slot_whose_surface_is_away_contradicts_itself(world: World, previewed: str) -> None:
    del previewed
    surface = world.pids()["surface-preview2"]
    os.kill(surface, signal.SIGSTOP)
    try:
        done = script(world, "preview-slots-health-check.sh")
    finally:
        os.kill(surface, signal.SIGCONT)

    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 of 3 slots contradict themselves: preview-2" in done.stdout


def test_without_a_worker_a_backend_is_stopped_all_the_same_and_stays_so(world: World, previewed: str) -> None:
    worker = world.pids()["worker"]
    os.kill(worker, signal.SIGSTOP)
    try:
        code, stopped = backend(world, "stop", "preview-1", "--timeout", "20")
        assert (code, stopped["state"]) == (0, "stopped"), stopped
    finally:
        os.kill(worker, signal.SIGCONT)

    code, started = backend(world, "start", "preview-1")
    assert (code, started["state"]) == (0, "running"), started
    assert world.serves("preview-1") == previewed
    assert world.rows("SELECT 1 FROM quarantine WHERE domain <> 'production'") == []
