"""What does an installation leave alone when it is made again, brought up to newer code, or removed?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from tests.host.host import DENIED, Host
from tests.host.team import BASE_HOST, RECIPE, SOURCE, WITH_DATABASE, Team, install, serving_team

#: What Go's HTTP/1 server does, when it shuts down, to a connection that it has accepted and not read yet: the edge has
#: nobody in front of it who would ask again. Every other failure, and more than one each time, is ours.
CLOSED_UNREAD = "RemoteDisconnected('Remote end closed connection without response')"
#: The edge is restarted for its unit, and reads a Caddyfile for more slots and for fewer.
EDGE_CHANGES = 3
SLOT_UNIT = "ouroboros-instance@preview3-a.service"


@pytest.fixture(scope="module")
def team(image: Path, hosts_folder: Path) -> Iterator[Team]:
    with serving_team(image, hosts_folder) as team:
        yield team


def state_of(host: Host) -> tuple[list[str], list[str]]:
    """Return what install made on the disk, with modes, owners and times, and when what runs was started."""
    listing = ["find", "/etc", "/usr/local", "/opt/oroboros", "-not", "-name", "__pycache__", "-not", "-name", "*.pyc"]
    files = host.text(*listing, "-not", "-path", "/opt/oroboros/venvs/*", "-printf", "%p %y %m %u %g %T@ %l\\n")
    started = host.text("systemctl", "show", "--property=Id,ExecMainStartTimestampMonotonic", "ouroboros-*", "redis*")
    return sorted(files.splitlines()), sorted(unit for unit in started.split("\n\n") if ".service" in unit)


def test_installing_again_touches_no_file_and_restarts_nothing(host: Host) -> None:
    before = state_of(host)
    assert "nothing to do" in install(host)
    assert state_of(host) == before


def test_newer_code_is_installed_without_touching_the_app(team: Team, host: Host) -> None:
    unit = team.unit_of("main")
    before = host.unit(unit, "MainPID"), host.unit("ouroboros-worker.service", "MainPID")
    host.run(["sh", "-c", f"echo '# newer' >>{SOURCE}/controller/__init__.py"])
    assert "all is well" in install(host)
    assert host.read("/opt/oroboros/app/controller/__init__.py").endswith("# newer\n")
    assert host.unit(unit, "MainPID") == before[0]
    assert host.unit("ouroboros-worker.service", "MainPID") != before[1]
    team.push(2)
    team.wait_live("app", 2)
    team.settle()


def test_what_somebody_changed_by_hand_is_put_right_by_installing_again(host: Host) -> None:
    secret = host.read("/etc/oroboros/webhook-secrets")
    unit = "/usr/local/lib/systemd/system/ouroboros-worker.service"
    whole = host.read(unit)
    host.run(["sed", "-i", "/NoNewPrivileges/d", unit])
    host.run(["chmod", "644", "/etc/oroboros/worker.env"])
    host.run(["systemctl", "disable", "--quiet", "ouroboros-web@preview2.service"])
    host.run(["sh", "-c", "echo '# mine' >>/opt/oroboros/app/controller/launcher.py"])
    doctor = host.run(["oroboros", "doctor"], check=False)
    assert doctor.returncode == 1
    for changed in (unit, "/etc/oroboros/worker.env", "/opt/oroboros/app"):
        assert changed in doctor.stdout.replace("\n", "").replace(" ", "")
    told = install(host)
    assert "all is well" in told
    assert host.read(unit) == whole
    assert "# mine" not in host.read("/opt/oroboros/app/controller/launcher.py")
    assert host.text("stat", "-c", "%a", "/etc/oroboros/worker.env") == "600"
    assert host.text("systemctl", "is-enabled", "ouroboros-web@preview2.service") == "enabled"
    assert host.read("/etc/oroboros/webhook-secrets") == secret


def test_the_remedy_that_doctor_prints_brings_edited_code_back_as_it_was_installed(host: Host) -> None:
    file = "/opt/oroboros/app/controller/doors/tables.py"
    whole = host.read(file)
    host.run(["sh", "-c", f"echo '# mine' >>{file}"])
    told = json.loads(host.run(["oroboros", "doctor", "--json"], check=False).stdout)
    (wrong,) = [finding for finding in told["checks"] if finding["name"] == "files"]
    assert file in wrong["found"]
    (command,) = wrong["commands"]
    # The test's host has no sudo(8), and it is root who runs this.
    done = host.run(["sh", "-c", command.removeprefix("sudo ")], timeout_s=120)
    assert f"edited since it was installed: {file}" in done.stdout
    assert "all is well" in done.stdout
    assert host.read(file) == whole


def test_code_whose_kept_copy_was_edited_too_is_refused_and_a_checkout_mends_it(host: Host) -> None:
    link = host.text("readlink", "/opt/oroboros/app")
    copies = (link, link.replace("/apps/", "/kept/"))
    for copy in copies:
        host.run(["sh", "-c", f"echo '# mine' >>{copy}/controller/launcher.py"])
    done = host.run(["oroboros", "install"], check=False)
    assert (done.returncode, "CodeEdited" in done.stderr, "a checkout that you trust" in done.stderr) == (3, True, True)
    assert "all is well" in install(host)
    for copy in copies:
        assert "# mine" not in host.read(f"{copy}/controller/launcher.py")


def test_what_an_operator_adds_and_the_hosts_name_in_the_tables_outlive_an_installation(host: Host) -> None:
    file = "/etc/oroboros/worker.env"
    name = next(line for line in host.read(file).splitlines() if line.startswith("OROBOROS_HOST="))
    host.run(["sed", "-i", "s/^WORKER_POLL_INTERVAL_SECONDS=.*/WORKER_POLL_INTERVAL_SECONDS=4/", file])
    host.run(["sh", "-c", f"echo HTTPS_PROXY=http://127.0.0.1:3128 >>{file}"])
    host.run(["hostname", "renamed"])
    install(host)
    host.run(["hostname", host.name])
    told = host.read(file).splitlines()
    assert {"WORKER_POLL_INTERVAL_SECONDS=4", "HTTPS_PROXY=http://127.0.0.1:3128", name} <= set(told)
    assert "nothing to do" in install(host)


@contextmanager
def steady_load(host: Host) -> Iterator[dict[str, object]]:
    """A load of GETs and POSTs on app, preview and receiver meanwhile; afterwards, what became of it."""
    end, tally = "/run/load-ends", dict[str, object]()
    host.run(["rm", "-f", end])
    load = host.start(["python3", f"{SOURCE}/tests/host/steady_load.py", end])
    try:
        yield tally
    finally:
        host.run(["touch", end])
        told, problems = load.communicate(timeout=60)
        assert load.returncode == 0, problems
        tally.update(json.loads(told))


def change_code(host: Host, file: str, old: str, new: str) -> None:
    """Change a line of the checkout that is installed from."""
    assert old in host.read(f"{SOURCE}/{file}")
    host.run(["sed", "-i", f"s/{old}/{new}/", f"{SOURCE}/{file}"])


def test_no_request_fails_over_upgrades_and_changes_of_slots(team: Team, host: Host) -> None:
    """The first upgrade changes nothing of a surface; the second what it does, its unit, and the edge's."""
    recipe = RECIPE.replace("window_s = 3", "window_s = 1")
    number = team.open_pull("loaded", 6, recipe=recipe)
    team.push(5, recipe=recipe, do="import time\ntime.sleep(1)\nreturn ''")
    team.wait_live("app", 5)
    team.wait_live("preview1", 6)
    team.settle()
    surface, edge, api = "ouroboros-web@main.service", "ouroboros-caddy.service", "ouroboros-api.service"

    def pids() -> list[str]:
        return [host.unit(unit, "MainPID")["MainPID"] for unit in (surface, edge, api)]

    def changed(before: list[str], after: list[str]) -> list[bool]:
        return [old != new for old, new in zip(before, after, strict=True)]

    with steady_load(host) as tally:
        seen = [pids()]
        change_code(host, "controller/decisions/plan.py", "What does one slot need", "What does a slot need")
        install(host)
        seen.append(pids())
        change_code(host, "controller/decisions/surfaces.py", 'HEALTH_TIMEOUT = "2s"', 'HEALTH_TIMEOUT = "3s"')
        change_code(host, "controller/decisions/host_units.py", "TasksMax=256", "TasksMax=260")
        install(host)
        seen.append(pids())
        install(host, "--previews", "5")
        assert team.get("preview5", "/.well-known/oroboros/health")["state"] == "free"
        install(host, "--previews", "3")
        assert team.get("preview5", "/.well-known/oroboros/health") == {}
        seen.append(pids())
    failed = tally["failed"]
    assert isinstance(failed, list)
    assert [one for one in failed if not one.endswith(CLOSED_UNREAD)] == [], tally
    assert len(failed) <= EDGE_CHANGES, tally
    assert [changed(before, after) for before, after in pairwise(seen)] == [
        [False, False, True],
        [True, True, True],
        [False, False, True],
    ]
    team.close_pull(number)


def test_fewer_slots_leave_nothing_of_a_lease_and_its_pull_request_waits(team: Team, host: Host) -> None:
    """Three slots, one, and three again; before, the third one's run never ended and its database stayed."""
    recipe = WITH_DATABASE + RECIPE.replace("window_s = 3", "window_s = 1")
    branches = {team.open_pull(f"slot-{k}", 10 + k, recipe=recipe): f"slot-{k}" for k in (1, 2, 3)}
    labels = ("preview1", "preview2", "preview3")
    team.wait(lambda: all(team.get(label).get("hit") for label in labels), "three previews serve from their databases")
    team.settle()
    kept = team.get("preview1")["version"]
    held = "SELECT pull_request FROM leases WHERE ended_at IS NULL AND slot = 'preview-3'"
    sha = team.git("rev-parse", branches[int(team.sql(held))])
    team.wait_status(sha, "success", "oroboros/preview")
    told = install(host, "--previews", "1")
    assert "leaving: preview-2, preview-3" in told
    assert team.sql("SELECT string_agg(slot, ',') FROM leases WHERE ended_at IS NULL") == "preview-1"
    assert team.sql("SELECT count(*) FROM runs WHERE ended_at IS NULL AND slot <> 'preview-1'") == "0"
    assert team.sql("SELECT string_agg(datname, ',') FROM pg_database WHERE datname LIKE 'preview%'") == "preview_1"
    assert host.text("find", "/srv/oroboros/slots/preview-3/data", "-mindepth", "1") == ""
    units = host.text("systemctl", "list-units", "--all", "--plain", "--no-legend", "ouroboros-*preview3*")
    assert units == ""
    team.wait(
        lambda: (
            "SlotRemoved" in team.status(sha, "oroboros/preview")[1]
            and team.status(sha, "oroboros/preview")[0] == "pending"
        ),
        f"the third one waits: {team.status(sha, 'oroboros/preview')}",
    )
    assert team.get("preview1")["version"] == kept
    assert "all is well" in install(host, "--previews", "3")
    team.wait_status(sha, "success", "oroboros/preview")
    team.wait(lambda: all(team.get(label).get("hit") for label in labels), "three previews serve again")
    for number in branches:
        team.close_pull(number)


def test_what_an_option_said_stays_until_it_is_unsaid(host: Host) -> None:
    topology, dry = "/etc/oroboros/topology.json", "--dry-run"
    assert "option previews: 3 → 4 (said at install)" in install(host, "--previews", "4")
    assert "nothing to do" in install(host)
    assert "option tls: off → auto (said at install)" in install(host, dry, "--tls", "auto")
    # An installation of before kept no record.
    former = {key: value for key, value in json.loads(host.read(topology)).items() if key != "said"}
    host.write(topology, json.dumps(former))
    assert "option previews: 4 is taken to have been said at install" in install(host, dry)
    assert json.loads(host.read(topology))["previews"] == 4
    assert "option previews: 4 → 3 (deploy.toml or default)" in install(host, "--unset", "previews")
    assert json.loads(host.read(topology))["said"] == {"base_host": BASE_HOST}
    assert "nothing to do" in install(host)


USERS = ("oroboros", "oroboros-worker", "oroboros-main", "oroboros-preview-1", "caddy")


@pytest.mark.parametrize("user", USERS)
def test_no_user_of_ours_may_keep_a_service_manager_of_its_own(user: str, host: Host) -> None:
    """Its processes would have none of the walls of our units."""
    for words in (["enable-linger"], ["enable-linger", user]):
        assert host.run(["loginctl", "--no-ask-password", *words], user=user, check=False).returncode != 0
    assert host.run(["pgrep", "-u", user, "-f", "systemd --user"], check=False).stdout == ""


@pytest.mark.parametrize("user", [*USERS[:1], *USERS[2:], "redis"])
def test_nobody_but_the_worker_may_start_the_units_of_slots(user: str, host: Host) -> None:
    done = host.run(["systemctl", "--no-ask-password", "restart", SLOT_UNIT], user=user, check=False)
    assert done.returncode != 0
    assert DENIED.search(done.stderr), done.stderr


@pytest.mark.parametrize(
    "words",
    [
        f"systemctl freeze {SLOT_UNIT}",
        f"systemctl clean --what=all {SLOT_UNIT}",
        f"systemctl bind {SLOT_UNIT} /etc /mnt",
        f"systemctl mask --runtime {SLOT_UNIT}",
        "systemctl link /tmp/some.service",
        "systemctl edit --full --runtime --stdin ouroboros-worker.service",
        "systemctl log-level debug",
        "systemctl set-default rescue.target",
        "systemctl set-property --runtime ouroboros.slice TasksMax=1",
        "systemctl kill --signal=KILL ouroboros-caddy.service",
        "systemd-run /bin/true",
        "systemd-run --uid=0 --unit=ouroboros-instance@preview3-a.service /bin/true",
        "systemd-run --scope /bin/true",
        "hostnamectl set-hostname mine",
        "loginctl terminate-user root",
    ],
)
def test_the_worker_may_not(words: str, host: Host) -> None:
    host.write("/tmp/some.service", "[Service]\nExecStart=/bin/true\n")
    program, *more = words.split()
    asking = {"--no-ask-password"} if program != "systemctl" or "edit" not in more else set()
    done = host.run([program, *asking, *more], user="oroboros-worker", check=False)
    assert done.returncode != 0, done
    assert host.text("hostname") == host.name
    assert host.text("systemctl", "is-system-running") == "running"


def test_uninstall_leaves_data_and_installing_takes_it_up_again(team: Team, host: Host) -> None:
    release, secret = str(team.get("app")["release"]), host.read("/etc/oroboros/webhook-secrets")
    # In place of a network for the packages: what was installed once.
    host.run(["cp", "-al", "/opt/oroboros/venvs", "/usr/src/venvs"])
    team.push(9, recipe='[build]\ncommand = "sleep 200"\n' + RECIPE)
    building = ["pgrep", "-x", "-u", "oroboros-main", "sleep"]
    team.wait(lambda: host.run(building, check=False).returncode == 0, "a build is to be on its way")
    host.run(["oroboros", "uninstall"], timeout_s=120)
    assert host.text("systemctl", "list-units", "--all", "--plain", "--no-legend", "ouroboros-*") == ""
    assert host.text("find", "/usr/local/lib/systemd", "/etc/systemd", "-name", "ouroboros-*") == ""
    assert team.get("app") == {}
    assert host.run(["pgrep", "-u", "oroboros-worker,oroboros,oroboros-main,caddy"], check=False).stdout == ""
    host.run(["test", "-s", f"/srv/oroboros/releases/{release}/app.py"])
    host.run(["mkdir", "-p", "/opt/oroboros"])
    host.run(["cp", "-al", "/usr/src/venvs", "/opt/oroboros/venvs"])
    team.push(3)  # without that build, which would go on first
    assert "all is well" in install(host, "--base-host", BASE_HOST)
    team.wait_live("app", 3)
    assert team.sql("SELECT count(*) FROM quarantine") == "0", "no release is to blame for an end that we ordered"
    assert host.read("/etc/oroboros/webhook-secrets") == secret
    team.push(4)
    team.wait_live("app", 4)
