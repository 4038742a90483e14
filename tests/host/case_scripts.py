"""Do the host contract's commands work on a host, word for word, and does each refuse what it does not understand?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.host.host import Host
from tests.host.team import RECIPE, SOURCE, WITH_DATABASE, Team, install, new_team

APP = "/opt/oroboros/app"
SCRIPTS = f"{APP}/scripts"
COMMANDS = (
    *("deploy.sh", "rollback.sh", "runtime-health-check.sh", "preview-slots-provision.sh"),
    *("preview-slots-health-check.sh", "preview-backend-runtime.sh", "maintenance-stale-lease-cleanup.sh"),
    *("maintenance-preview-reset-integrity.sh", "maintenance-daily-health-summary.sh", "preview-smoke-e2e.sh"),
)
FOUR_SLOTS = ("--previews", "4", "--base-host", "other.test")
FORGE_DROP = "http://127.0.0.1:8070/_development/drop"
#: Long enough to stop something in the window, on a machine that does other things too.
WATCHED = RECIPE.replace("window_s = 3", "window_s = 8") + WITH_DATABASE
SMOKE = ("--preview-url", "http://preview1.example.com", "--proxy-origin", "http://127.0.0.1:8088")


@pytest.fixture(scope="module")
def team(image: Path, hosts_folder: Path) -> Iterator[Team]:
    """Production serves, and one pull request has a preview."""
    with new_team(image, hosts_folder) as team:
        team.push(1, recipe=WATCHED)
        team.wait_live("app", 1)
        team.open_pull("feature", 2, recipe=RECIPE + WITH_DATABASE)
        team.wait_live("preview1", 2)
        team.settle()
        yield team


def script(host: Host, name: str, *words: str, expect: int = 0, user: str = "root") -> str:
    """Run one of the contract's scripts; return what it printed."""
    done = host.run([f"{SCRIPTS}/{name}", *words], check=False, timeout_s=180, user=user)
    assert done.returncode == expect, (name, words, done.returncode, done.stdout[-1500:], done.stderr[-1500:])
    return done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_not_understood_is_answered_with_the_usage(team: Team, name: str) -> None:
    done = team.host.run([f"{SCRIPTS}/{name}", "--no-such-option"], check=False)
    assert done.returncode == 2, done
    assert "usage" in (done.stdout + done.stderr).lower() or "no such option" in (done.stdout + done.stderr).lower()


def test_provisioning_again_changes_nothing(team: Team) -> None:
    assert "nothing to do" in script(team.host, "preview-slots-provision.sh", "--dry-run")
    script(team.host, "preview-slots-provision.sh")
    assert team.get("preview1")["version"] == 2


def test_the_slots_are_well_and_a_contradiction_is_told(team: Team) -> None:
    told = json.loads(script(team.host, "preview-slots-health-check.sh", "--json"))
    assert "preview-1" in json.dumps(told)
    team.host.run(["systemctl", "stop", "ouroboros-web@preview1.socket", "ouroboros-web@preview1.service"])
    assert "preview-1" in script(team.host, "preview-slots-health-check.sh", expect=1)
    team.host.run(["systemctl", "start", "ouroboros-web@preview1.service"])
    team.wait(
        lambda: team.host.run([f"{SCRIPTS}/preview-slots-health-check.sh"], check=False).returncode == 0,
        "the slots are to be well again",
    )


def test_a_preview_s_backend_is_stopped_started_and_restarted_by_hand(team: Team) -> None:
    backend = "preview-backend-runtime.sh"
    script(team.host, backend, "status", "preview-1")
    before = team.host.unit(team.unit_of("preview1"), "MainPID")["MainPID"]
    script(team.host, backend, "stop", "preview-1", "--reason", "a case")
    assert team.unit_of("preview1") == ""
    assert team.get("preview1") == {}
    # As it should be: somebody said so.
    assert "is stopped" in script(team.host, backend, "status", "preview-1")
    script(team.host, backend, "start", "preview-1")
    assert team.get("preview1")["version"] == 2
    script(team.host, backend, "restart", "preview1")
    assert team.get("preview1")["version"] == 2
    assert team.host.unit(team.unit_of("preview1"), "MainPID")["MainPID"] != before
    script(team.host, backend, "stop", "main", expect=3)
    assert team.get("app")["version"] == 1


def test_a_preview_is_asked_for_its_pages_and_what_they_said_is_kept(team: Team) -> None:
    team.settle()
    run = team.sql("SELECT generation FROM runs WHERE slot = 'preview-1' ORDER BY generation DESC LIMIT 1")
    told = script(
        team.host,
        "preview-smoke-e2e.sh",
        *SMOKE,
        *("--changed-route", "/cart", "--changed-route", "/checkout", "--run-id", run, "--persist-validation"),
    )
    artifact = json.loads(team.host.read(told.strip().rpartition("artifact: ")[2]))
    assert artifact["passed"] is True
    surface = f"/.well-known/oroboros/release/{artifact['release']}"
    assert {"/", surface, "/cart", "/checkout"} <= {check["route"] for check in artifact["checks"]}
    assert int(team.sql(f"SELECT count(*) FROM validation_checks WHERE generation = {run} AND passed")) >= 4
    assert team.sql(f"SELECT path FROM run_artifacts WHERE generation = {run}") != ""
    nowhere = ("--preview-url", "http://preview9.example.com", "--proxy-origin", "http://127.0.0.1:9")
    script(team.host, "preview-smoke-e2e.sh", *nowhere, "--output", "/tmp/nowhere.json", expect=4)


def test_every_endpoint_is_asked_and_one_that_is_down_is_named(team: Team) -> None:
    told = json.loads(script(team.host, "runtime-health-check.sh", "--json"))
    assert (told["ok"], len(told["services"])) == (True, 12)
    team.host.run(["systemctl", "stop", "redis-server.service"])
    told = json.loads(script(team.host, "runtime-health-check.sh", "--json", expect=1))
    assert "redis" in [service["service"] for service in told["services"] if not service["ok"]]
    team.host.run(["systemctl", "start", "redis-server.service"])
    script(team.host, "runtime-health-check.sh", "--wait", "30")


def test_the_maintenance_jobs_find_nothing_on_a_host_that_is_well(team: Team) -> None:
    team.settle()
    script(team.host, "maintenance-stale-lease-cleanup.sh")
    integrity = ("--lookback-hours", "24", "--running-grace-minutes", "90")
    script(team.host, "maintenance-preview-reset-integrity.sh", *integrity)
    folder = "/srv/oroboros/artifacts/maintenance"
    script(team.host, "maintenance-daily-health-summary.sh", "--output-dir", folder)
    name = f"daily-health-summary-{team.host.text('date', '-u', '+%Y%m%d')}.json"
    assert json.loads(team.host.read(f"{folder}/{name}"))


def test_a_script_in_a_clone_runs_the_installed_command_and_makes_no_environment(team: Team) -> None:
    """The host has no network, and `doctor` finds every file that a script leaves in the installed code."""
    calls = [("runtime-health-check.sh",), ("preview-slots-health-check.sh",), ("preview-smoke-e2e.sh", *SMOKE)]
    calls += [("preview-backend-runtime.sh", "status", "main"), ("maintenance-stale-lease-cleanup.sh", "--dry-run")]
    calls += [("maintenance-preview-reset-integrity.sh",), ("preview-slots-provision.sh", "--dry-run")]
    for name, *words in calls:
        done = team.host.run([f"{SOURCE}/scripts/{name}", *words], check=False, folder=APP)
        assert done.returncode == 0, (name, done.stdout[-1500:], done.stderr[-1500:])
    assert json.loads(team.host.read("/srv/oroboros/artifacts/smoke.json"))["passed"]
    assert team.host.run(["test", "-e", f"{SOURCE}/.venv"], check=False).returncode == 1
    doctor = team.host.run(["oroboros", "doctor"], check=False)
    assert doctor.returncode == 0, doctor.stdout


def test_an_artifact_is_not_written_into_the_installed_code(team: Team) -> None:
    refused = team.host.run(
        [f"{SCRIPTS}/preview-smoke-e2e.sh", *SMOKE, "--output", "smoke.json"], check=False, folder=APP
    )
    assert (refused.returncode, "installed code" in refused.stderr) == (2, True), refused.stderr
    worked_in = team.host.run([f"{APP}/scripts/test.sh"], check=False, environment={"OROBOROS_CHECKOUT": "1"})
    assert worked_in.returncode != 0


def test_a_rollback_from_a_clone_needs_no_network(team: Team) -> None:
    before = team.git("rev-parse", "HEAD")
    team.push(4, recipe=RECIPE + WITH_DATABASE)
    team.wait_live("app", 4)
    team.settle()
    back = [f"{SOURCE}/scripts/rollback.sh", before, "--reason", "a case"]
    team.host.run(back, timeout_s=120, folder=SOURCE)
    assert team.get("app")["version"] == 1
    told = json.loads(team.host.text("oroboros", "releases", "--json"))["releases"]
    standings = {one["release"]: (one["standing"], one["by"]) for one in told}
    assert standings[before] == ("live", "ordered by root")
    assert standings[team.git("rev-parse", "HEAD")] == ("rolled back", "ordered by root")
    asking = "runuser -u postgres -- psql -XAtc 'SELECT sha, standing FROM releases' builder_control"
    written = dict(line.split("|") for line in team.host.text("sh", "-c", asking).splitlines())
    assert (written[before], written[team.git("rev-parse", "HEAD")]) == ("live", "rolled back")


@contextmanager
def without_redis(host: Host) -> Iterator[None]:
    """Redis is down, and is not started with a worker that wants it."""
    host.run(["systemctl", "mask", "--runtime", "--now", "redis-server.service"])
    try:
        yield
    finally:
        host.run(["systemctl", "unmask", "--runtime", "redis-server.service"])
        host.run(["systemctl", "start", "redis-server.service"])
    script(host, "runtime-health-check.sh", "--wait", "30")


def test_a_row_that_turns_unwell_in_the_window_of_a_push_rolls_it_back(team: Team) -> None:
    """Also where the worker restarts in the window: what was well before the switch is kept with the run."""
    team.settle()
    sha = team.push(5, recipe=WATCHED)
    team.wait_live("app", 5)
    with without_redis(team.host):
        team.host.run(["systemctl", "restart", "ouroboros-worker.service"])
        told = team.wait_status(sha, "failure")
    assert "HealthGateFailed" in told, told
    assert "redis: does not answer" in team.sql(f"SELECT message FROM runs WHERE sha = '{sha}'")
    assert team.get("app")["version"] == 1


def test_a_row_that_was_unwell_before_a_deploy_is_named_and_blames_nobody(team: Team) -> None:
    team.settle()
    sha, orders = team.git("rev-parse", "HEAD"), "SELECT count(*) FROM overrides"
    before = team.sql(orders)
    with without_redis(team.host):
        refused = team.host.run([f"{SCRIPTS}/deploy.sh", sha, "--require-healthy"], check=False)
        assert (refused.returncode, team.sql(orders)) == (3, before), refused
        assert "HostUnwell" in refused.stderr, refused
        assert "redis: does not answer" in refused.stderr, refused
        said = script(team.host, "deploy.sh", sha)
        assert "unwell before, and not held against it: redis: does not answer" in " ".join(said.split())
        assert team.get("app")["version"] == 5
        assert "unwell before: redis" in team.wait_status(sha, "success")


def test_a_rollback_that_makes_a_row_unwell_restores_the_previous_target(team: Team) -> None:
    team.settle()
    previous = team.host.text("readlink", "/srv/oroboros/current")
    first = team.sql("SELECT release FROM runs WHERE proven AND domain = 'production' ORDER BY generation LIMIT 1")
    going = team.host.start([f"{SCRIPTS}/rollback.sh", first])
    team.wait_live("app", 1)
    with without_redis(team.host):
        said, _ = going.communicate(timeout=90)
    assert going.returncode == 1, said
    assert "HealthGateFailed" in said, said
    team.settle()
    assert (team.get("app")["version"], team.host.text("readlink", "/srv/oroboros/current")) == (5, previous)


def test_a_lease_whose_end_nobody_told_is_found(team: Team) -> None:
    number = team.open_pull("forgotten", 3)
    team.wait_live("preview2", 3)
    team.settle()
    token = json.dumps({"count": 5})
    team.host.run(["curl", "-sf", "-H", "@/usr/src/forge/token.header", "-d", token, FORGE_DROP])
    team.close_pull(number)
    told = script(team.host, "maintenance-stale-lease-cleanup.sh")
    assert f"#{number}" in told or "preview-2" in told, told
    team.wait(lambda: team.unit_of("preview2") == "", "the slot is to be emptied")
    assert team.get("preview1")["version"] == 2


def test_a_dry_run_says_every_change_and_makes_none(team: Team) -> None:
    before = what_is_installed(team.host)
    told = install(team.host, "--dry-run", *FOUR_SLOTS)
    assert "preview-4" in told
    assert what_is_installed(team.host) == before


def what_is_installed(host: Host) -> str:
    places = ["/etc/oroboros", "/etc/systemd", "/usr/local/lib/systemd", "/etc/polkit-1/rules.d", "/etc/passwd"]
    return host.text(
        "sh", "-c", f"find {' '.join(places)} -type f -exec sha256sum {{}} + | sort; ls /srv/oroboros/slots"
    )


def test_another_number_of_slots_and_other_names_take_effect_at_install(team: Team) -> None:
    team.settle()
    host = team.host
    done = host.run([f"{SOURCE}/scripts/install.sh", *FOUR_SLOTS], check=False, timeout_s=180)
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert (done.returncode, failed) == (0, []), done.stdout[:3000]
    assert host.is_active("ouroboros-web@preview4.service")
    assert host.text("id", "-un", "oroboros-preview-4") == "oroboros-preview-4"
    asking = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:8088/", "-H"]
    team.wait(lambda: host.text(*asking, "Host: app.other.test") == "200", "production is to have its new name")
    assert host.text(*asking, "Host: preview4.other.test") == "503"
    assert host.text(*asking, "Host: app.example.com") == "404"
    script(host, "runtime-health-check.sh", "--wait", "30")
    assert host.run(["oroboros", "doctor"], check=False).returncode == 0
