"""Is an installed host what the contract says, row by row, and may each part do only what it must?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.decisions.host_units import UNITS, enabled_units, render_units, worker_units
from controller.model.names import CONTRACT, slot_user, unit_instance
from tests.host.host import DENIED, Host
from tests.host.team import BASE_HOST, Team, install, new_team


@pytest.fixture(scope="module")
def team(image: Path, hosts_folder: Path) -> Iterator[Team]:
    with new_team(image, hosts_folder) as team:
        yield team


def listener(host: Host, port: int) -> str:
    """Return the cgroup of whoever listens on a port, as the kernel tells it."""
    told = host.text("ss", "-Htlnp", "--cgroup", f"sport = :{port}")
    found = re.search(r"cgroup:(\S+)", told)
    return found[1] if found else ""


#: Unit, user, ports, health address; the contract's table.
ROWS = [
    ("ouroboros-caddy.service", "caddy", (8088,)),
    ("ouroboros-web@main.service", "oroboros", (3100,)),
    ("ouroboros-web@preview1.service", "oroboros", (3101, 8101)),
    ("ouroboros-web@preview2.service", "oroboros", (3102, 8102)),
    ("ouroboros-web@preview3.service", "oroboros", (3103, 8103)),
    ("ouroboros-worker.service", "oroboros-worker", (8090,)),
]


@pytest.mark.parametrize(("unit", "user", "ports"), ROWS, ids=[row[0] for row in ROWS])
def test_a_service_runs_as_its_user_and_holds_its_ports(
    host: Host, unit: str, user: str, ports: tuple[int, ...]
) -> None:
    shown = host.unit(unit, "ActiveState", "User", "MainPID")
    assert (shown["ActiveState"], shown["User"]) == ("active", user)
    is_passed = not unit.startswith("ouroboros-worker")
    for port in ports:
        if is_passed:
            listens = host.text("systemctl", "show", "-p", "Listen", unit.replace(".service", ".socket"))
            assert f"127.0.0.1:{port} " in listens
            assert f"pid={shown['MainPID']}," in host.text("ss", "-Htlnp", f"sport = :{port}")
        else:
            assert listener(host, port).endswith(unit)
        assert host.text("ss", "-Htln", f"sport = :{port}").split()[3] == f"127.0.0.1:{port}"


def test_a_shell_completes_the_commands_and_man_has_a_page(host: Host) -> None:
    script = "/usr/local/share/bash-completion/completions/oroboros"
    asking = f"source {script}; COMP_WORDS=(oroboros ro); COMP_CWORD=1; _oroboros_completion oroboros; echo $COMPREPLY"
    assert host.text("bash", "--norc", "-c", asking, user="oroboros") == "rollback"
    assert ".SS oroboros rollback" in host.read("/usr/local/share/man/man1/oroboros.1")


def test_the_api_is_behind_a_socket_of_systemd(host: Host) -> None:
    shown = host.unit("ouroboros-api.service", "ActiveState", "User")
    assert (shown["ActiveState"], shown["User"]) == ("active", "oroboros")
    assert "127.0.0.1:8000" in host.text("systemctl", "show", "-p", "Listen", "ouroboros-api.socket")


@pytest.mark.parametrize("unit", ["postgresql.service", "redis.service"])
def test_postgres_and_redis_are_the_distributions(host: Host, unit: str) -> None:
    assert host.is_active(unit)
    assert host.text("pg_isready", "-h", "127.0.0.1", "-U", "postgres", "-d", "builder_control").endswith(
        "accepting connections"
    )
    assert host.text("redis-cli", "-h", "127.0.0.1", "ping") == "PONG"
    assert "NOPERM" in host.text("redis-cli", "-h", "127.0.0.1", "set", "a", "b")


@pytest.mark.parametrize("label", ["app", "preview1", "preview2", "preview3", "api", "worker"])
def test_a_host_name_leads_to_its_service(host: Host, label: str) -> None:
    path = "health" if label in ("api", "worker") else ".well-known/oroboros/health"
    told = host.text("curl", "-s", "-m", "5", "-H", f"Host: {label}.{BASE_HOST}", f"http://127.0.0.1:8088/{path}")
    slot = {"app": "main"}.get(label, label.replace("preview", "preview-"))
    assert '"status"' in told if label in ("api", "worker") else f'"slot": "{slot}"' in told


def test_every_health_endpoint_answers(host: Host) -> None:
    told = host.run(["/opt/oroboros/app/scripts/runtime-health-check.sh", "--wait", "30"], check=False)
    assert told.returncode == 0, told.stdout
    assert "all 12 are well" in told.stdout


@pytest.mark.parametrize("port", [3100, 3101, 3102, 3103, 8000, 8090, 8101, 8102, 8103])
def test_a_health_endpoint_of_the_table_answers(host: Host, port: int) -> None:
    told = host.text("curl", "-sf", "-m", "5", f"http://127.0.0.1:{port}/health")
    assert json.loads(told), told


@pytest.mark.parametrize(
    ("port", "path", "without", "to_operator"),
    [
        (8000, "/api/status", 401, '"slots"'),
        (8000, "/health", 200, '"database"'),
        (8090, "/health", 200, '"last_error"'),
    ],
)
def test_the_operators_token_opens_what_is_closed_to_others(
    host: Host, port: int, path: str, without: int, to_operator: str
) -> None:
    ask = f"curl -s -m 5 -w '%{{http_code}}' http://127.0.0.1:{port}{path}"
    told = host.text("sh", "-c", ask)
    assert told.endswith(str(without)), told
    assert to_operator not in told
    token = '"Authorization: Bearer $(cat /etc/oroboros/operator-token)"'
    opened = host.text("sh", "-c", f"{ask} -H {token}")
    assert opened.endswith("200"), opened
    assert to_operator in opened
    assert host.run(["cat", "/etc/oroboros/operator-token"], user="oroboros", check=False).returncode != 0


def test_the_preview_backends_helper_tells_of_each_slot(host: Host) -> None:
    for slot in CONTRACT.preview_slots:
        told = host.run(["/opt/oroboros/app/scripts/preview-backend-runtime.sh", "status", slot], check=False)
        assert slot in told.stdout, told


#: File, value, and what it is; the contract's "core environment values", but for the user and password.
VALUES = [
    ("api", "DATABASE_URL", r"postgresql\+psycopg://oroboros_api:\S+@127\.0\.0\.1:5432/builder_control"),
    ("worker", "REDIS_URL", r"redis://\S+@127\.0\.0\.1:6379/0"),
    ("worker", "WORKER_POLL_INTERVAL_SECONDS", "5"),
    ("worker", "WORKER_HEALTH_PORT", "8090"),
    ("worker", "WORKER_ARTIFACT_ROOT", "/srv/oroboros/artifacts/runs"),
    ("web-main", "WEB_ROOT", "/srv/oroboros/current/infra/web"),
    ("web-main", "WEB_PORT", "3100"),
    *((f"web-preview{k}", "WEB_ROOT", "/srv/oroboros/current/infra/web") for k in (1, 2, 3)),
    *((f"web-preview{k}", "WEB_PORT", f"310{k}") for k in (1, 2, 3)),
    *((f"web-preview{k}", "WEB_API_PROXY_TARGET", f"http://127\\.0\\.0\\.1:810{k}") for k in (1, 2, 3)),
]


@pytest.mark.parametrize(("name", "value", "pattern"), VALUES, ids=[f"{row[0]}-{row[1]}" for row in VALUES])
def test_an_environment_value_is_the_contracts(host: Host, name: str, value: str, pattern: str) -> None:
    lines = dict(line.split("=", 1) for line in host.read(f"/etc/oroboros/{name}.env").splitlines() if "=" in line)
    assert re.fullmatch(pattern, lines[value]), f"{value} of {name}.env"


@pytest.mark.parametrize(
    ("job", "calendar", "command", "is_random"),
    [
        ("stale-leases", "*:00/15:00", "maintenance-stale-lease-cleanup.sh", False),
        (
            "preview-reset-audit",
            "*:00:00",
            "maintenance-preview-reset-integrity.sh --lookback-hours 24 --running-grace-minutes 90",
            False,
        ),
        (
            "daily-health-summary",
            "*-*-* 03:30:00",
            "maintenance-daily-health-summary.sh --output-dir /srv/oroboros/artifacts/maintenance",
            True,
        ),
    ],
)
def test_a_maintenance_job_has_its_timer_and_runs(
    host: Host, job: str, calendar: str, command: str, *, is_random: bool
) -> None:
    unit = f"ouroboros-maintenance-{job}"
    assert host.is_active(f"{unit}.timer")
    assert calendar.replace("*-*-* ", "") in host.unit(f"{unit}.timer", "TimersCalendar")["TimersCalendar"]
    assert (host.unit(f"{unit}.timer", "RandomizedDelayUSec")["RandomizedDelayUSec"] != "0") is is_random
    assert f"scripts/{command} ;" in host.unit(f"{unit}.service", "ExecStart")["ExecStart"]
    host.run(["systemctl", "start", f"{unit}.service"], timeout_s=120)
    assert host.unit(f"{unit}.service", "Result")["Result"] == "success"


def test_the_daily_summary_is_where_the_contract_says(host: Host) -> None:
    host.run(["systemctl", "start", "ouroboros-maintenance-daily-health-summary.service"], timeout_s=120)
    assert re.fullmatch(r"daily-health-summary-\d{8}\.json", host.text("ls", "/srv/oroboros/artifacts/maintenance"))


def test_a_second_installation_changes_nothing_and_doctor_is_content(host: Host) -> None:
    assert "nothing to do" in install(host)
    told = host.run(["oroboros", "doctor"], check=False)
    assert told.returncode == 0, told.stdout
    assert host.text("systemctl", "--failed", "--no-legend") == ""


def test_secrets_are_closed_and_none_is_in_an_environment_or_an_argument(host: Host) -> None:
    modes = host.text("find", "/etc/oroboros", "-name", "*.env", "-o", "-name", "*secret*", "-o", "-name", "*token*")
    for path in modes.splitlines():
        assert host.text("stat", "-c", "%a %U", path) == "600 root", path
    secret = host.read("/etc/oroboros/webhook-secrets").strip()
    looking = "grep -laFf /etc/oroboros/webhook-secrets /proc/[0-9]*/environ /proc/[0-9]*/cmdline"
    assert host.run(["sh", "-c", looking], check=False).stdout == ""
    assert secret not in host.text("sh", "-c", "systemctl show '*' ")


# -- what the worker may not ---------------------------------------------------------------------------------------


def as_worker(host: Host, *words: str) -> bool:
    """Say whether the worker's user may; what fails for another reason than that it may not is no answer."""
    done = host.run(["systemctl", "--no-ask-password", *words], user="oroboros-worker", check=False)
    assert done.returncode == 0 or DENIED.search(done.stderr), f"{words}: {done.stderr}"
    return done.returncode == 0


OTHERS = (
    *("dbus.service", "systemd-logind.service", "systemd-journald.service", "polkit.service", "cron.service"),
    "ssh.service",
    *(
        "postgresql.service",
        "postgresql@15-main.service",
        "redis-server.service",
        "getty@tty1.service",
        "test-forge.service",
    ),
    *(
        "ouroboros-caddy.service",
        "ouroboros-web@main.service",
        "ouroboros-web@preview1.service",
        "ouroboros-api.socket",
    ),
    *("ouroboros-forward@preview1-a.socket", "ouroboros-maintenance-stale-leases.timer", "multi-user.target"),
    *("ouroboros-instance@preview9-a.service", "ouroboros-instance@main-c.service", "system.slice", "poweroff.target"),
)


#: systemd looks for the unit before it asks who may; one that is not there can be in nobody's way.
NEEDS_LOADED = ("kill", "reset-failed")


@pytest.mark.parametrize("unit", OTHERS)
def test_the_worker_may_touch_no_other_unit(host: Host, unit: str) -> None:
    for verb in ("start", "stop", "restart", "kill", "reset-failed"):
        if verb not in NEEDS_LOADED or host.unit(unit, "ActiveState")["ActiveState"] != "inactive":
            assert not as_worker(host, verb, unit), f"{verb} {unit}"


@pytest.mark.parametrize(
    "words",
    [
        ("enable", "ouroboros-worker.service"),
        ("disable", "ouroboros-worker.service"),
        ("mask", "ouroboros-worker.service"),
        ("daemon-reload",),
        ("daemon-reexec",),
        ("set-property", "ouroboros-instance@main-a.service", "MemoryMax=infinity"),
        ("set-environment", "A=B"),
        ("stop", "ouroboros-worker.service"),
        ("stop", "ouroboros-api.service"),
        ("kill", "ouroboros-worker.service"),
        ("isolate", "rescue.target"),
        ("poweroff",),
    ],
    ids=" ".join,
)
def test_the_worker_may_not(host: Host, words: tuple[str, ...]) -> None:
    assert not as_worker(host, *words)


def test_the_worker_may_start_no_unit_of_its_own_making(host: Host) -> None:
    running = ["systemd-run", "--no-ask-password", "--unit=ouroboros-instance@main-z", "id"]
    assert DENIED.search(host.run(running, user="oroboros-worker", check=False).stderr)


def test_the_worker_may_start_and_stop_its_own(host: Host) -> None:
    for unit in worker_units(CONTRACT):
        assert as_worker(host, "stop", unit), unit
    assert as_worker(host, "restart", "ouroboros-api.service")


def test_the_worker_may_make_no_role(host: Host) -> None:
    rights = "SELECT rolsuper, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = 'oroboros_worker'"
    told = host.run(["runuser", "-u", "postgres", "--", "psql", "-XAtc", rights])
    assert told.stdout.strip() == "f|f|t"
    done = host.run(
        ["psql", "-X", "-h", "/run/postgresql", "-U", "oroboros_worker", "postgres", "-c", "CREATE ROLE more"],
        user="oroboros-worker",
        check=False,
    )
    assert "permission denied" in done.stderr


def test_nobody_enters_the_database_of_another(host: Host) -> None:
    asking = ["psql", "-X", "-h", "/run/postgresql", "-c", "SELECT 1"]
    for slot in CONTRACT.preview_slots:
        for database in ("builder_control", "postgres", "app_main"):
            for role in (slot.replace("-", "_"), "postgres", "oroboros_worker", "app_main"):
                done = host.run([*asking, "-U", role, database], user=slot_user(slot), check=False)
                assert done.returncode != 0, (slot, role, database)


# -- units ----------------------------------------------------------------------------------------------------------


def test_systemd_finds_nothing_to_say_about_the_units(host: Host) -> None:
    names = [str(file.path) for file in render_units(CONTRACT) if file.path.parent == UNITS]
    done = host.run(["systemd-analyze", "verify", *names], check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")


@pytest.mark.parametrize(
    ("unit", "tenths"),
    [
        ("ouroboros-api.service", 20),
        ("ouroboros-worker.service", 20),
        ("ouroboros-judge.service", 20),
        ("ouroboros-caddy.service", 20),
        ("ouroboros-web@main.service", 20),
        *((f"ouroboros-instance@{unit_instance(slot)}-a.service", 15) for slot in CONTRACT.preview_slots),
    ],
)
def test_a_unit_is_no_more_exposed_than_it_may_be(host: Host, unit: str, tenths: int) -> None:
    done = host.run(["systemd-analyze", "security", "--no-pager", f"--threshold={tenths}", unit], check=False)
    assert done.returncode == 0, done.stdout[-300:]


def test_every_unit_that_is_to_start_at_boot_is_enabled(host: Host) -> None:
    for unit in enabled_units(CONTRACT):
        assert host.text("systemctl", "is-enabled", unit) == "enabled", unit
