"""Does an installation beside others' databases leave them alone, and do the options make each contract row exact?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge.test_tls import write_certificate
from tests.host.host import Host, new_host
from tests.host.team import BASE_HOST, SOURCE, Team, clone, install, start_forge

#: Of our ports others have these, and Oroboros is installed at these instead.
STRANGERS = (8000, 3101)
CHOSEN = ("--port", "api=8010", "--port", "web=3200")
FOREIGN = "CREATE ROLE billing LOGIN PASSWORD 'billing';CREATE DATABASE invoices;CREATE ROLE preview_9 LOGIN"


@pytest.fixture(scope="module")
def bare(image: Path, hosts_folder: Path) -> Iterator[Host]:
    """A host where others already use Postgres."""
    with new_host(image, hosts_folder) as host:
        host.copy_checkout(SOURCE)
        for statement in FOREIGN.split(";"):
            as_postgres(host, statement)
        yield host


@pytest.fixture(scope="module")
def host(bare: Host) -> Host:
    """The same, where Oroboros was installed beside them, and beside who has two of its ports."""
    start_strangers(bare)
    install(bare, "--base-host", BASE_HOST, *CHOSEN)
    return bare


def start_strangers(host: Host) -> None:
    """Have programs of others listen on two of our ports. Safe to repeat."""
    for port in STRANGERS:
        if not host.is_active(f"stranger-{port}"):
            serve = ["python3", "-m", "http.server", "--bind", "127.0.0.1", str(port)]
            host.run(["systemd-run", "--quiet", "--collect", f"--unit=stranger-{port}", "--", *serve])
    host.wait_until(lambda: set(STRANGERS) <= listening(host), "strangers are to listen")


def listening(host: Host) -> set[int]:
    """Return every port that something listens on."""
    return {int(line.split()[3].rpartition(":")[2]) for line in host.text("ss", "-Htln").splitlines()}


def as_postgres(host: Host, statement: str) -> str:
    return host.text("runuser", "-u", "postgres", "--", "psql", "-XAtc", statement)


def enters(host: Host, role: str, database: str, *, password: str, address: str = "127.0.0.1") -> str:
    """Return "" when a role gets into a database, else what Postgres says."""
    words = ["psql", "-X", "-A", "-t", "-h", address, "-U", role, "-d", database, "-c", "SELECT"]
    done = host.run(words, check=False, environment={"PGPASSWORD": password})
    return "" if done.returncode == 0 else done.stderr


def test_all_that_keeps_a_host_from_being_installed_is_told_before_anything_is_changed(bare: Host) -> None:
    start_strangers(bare)
    bare.run(["redis-cli", "set", "theirs", "1"])
    try:
        for words in ([], ["--dry-run"], ["--port", "edge=5432", "--port", "worker=80"]):
            done = bare.run([f"{SOURCE}/scripts/install.sh", *words], check=False, timeout_s=120)
            said = " ".join(done.stderr.split())
            assert done.returncode == 2, said
            assert re.search(
                r"port 3101 \(preview-1 web\) is held by python3 \(process \d+ of root, stranger-3101", said
            )
            assert re.search(r"port 8000 \(api\) is held by python3 \(process \d+ of root, stranger-8000", said)
            assert "this Redis has 1 keys" in said
            assert ("port 5432 would be that of Postgres and edge" in said) is ("--port" in words)
            assert ("--port worker=80 is not within 1024 to 65535" in said) is ("--port" in words)
        for path in ("/etc/oroboros", "/srv/oroboros", "/usr/local/bin/oroboros"):
            assert bare.run(["test", "-e", path], check=False).returncode == 1
    finally:
        bare.run(["redis-cli", "flushall"])


def test_a_first_look_that_has_no_package_yet_names_the_same(bare: Host) -> None:
    start_strangers(bare)
    words = ["python3", "-m", "controller.first_look", "--", "--port", "web=3101", "--port", "ssh=22"]
    told = bare.run(words, environment={"PYTHONPATH": SOURCE}).stdout.splitlines()
    assert told[0].startswith("--port 'ssh=22': 'ssh' is none of edge, http, https, api")
    assert [line.partition(" is held by python3 ")[0] for line in told[1:]] == [
        "port 8000 (api)",
        "port 3101 (main web)",
    ]


def test_databases_of_others_keep_their_rights_and_let_none_of_our_roles_in(host: Host) -> None:
    assert enters(host, "billing", "invoices", password="billing") == ""
    assert enters(host, "billing", "postgres", password="billing") == ""
    assert "permission denied" in enters(host, "billing", "builder_control", password="billing")
    for role in ("app_main", "preview_1", "preview_2", "preview_9"):
        as_postgres(host, f"ALTER ROLE {role} PASSWORD 'known'")
        for address in ("127.0.0.1", "::1", "/run/postgresql"):
            for database in ("invoices", "postgres", "builder_control", "preview_3"):
                said = enters(host, role, database, password="known", address=address)
                assert "pg_hba.conf rejects" in said, (role, address, database, said)
    api = dict(line.split("=", 1) for line in host.read("/etc/oroboros/api.env").splitlines())["DATABASE_URL"]
    password = api.split(":")[2].partition("@")[0]
    assert enters(host, "oroboros_api", "builder_control", password=password) == ""
    assert "pg_hba.conf rejects" in enters(host, "oroboros_api", "invoices", password=password)


def test_databases_of_others_are_closed_when_the_option_says_so(host: Host) -> None:
    done = host.run([f"{SOURCE}/scripts/install.sh", "--dry-run", "--close-databases"], timeout_s=120)
    assert "close to everybody: invoices, postgres" in done.stdout
    assert "here live the database invoices, the role billing" in done.stderr
    done = host.run([f"{SOURCE}/scripts/install.sh", "--dry-run"], timeout_s=120)
    assert "Postgres also has the database invoices, the role billing" in done.stderr
    assert "nothing to do" in done.stdout


def test_with_the_options_for_it_each_row_of_the_contract_is_literally_true(host: Host) -> None:
    words = [f"{SOURCE}/scripts/install.sh", "--contract-database", "--control-plane", "current", "--redis-shared"]
    done = host.run(words, stdin="redis://127.0.0.1:6379/0\n", timeout_s=180)
    assert "can enter as its administrator" in done.stderr
    assert "the address of Redis has no password" in done.stderr
    api, worker = (host.read(f"/etc/oroboros/{name}.env").splitlines() for name in ("api", "worker"))
    assert "DATABASE_URL=postgresql+psycopg://postgres:postgres@127.0.0.1:5432/builder_control" in api
    assert "REDIS_URL=redis://127.0.0.1:6379/0" in worker
    assert enters(host, "postgres", "builder_control", password="postgres") == ""
    ready = host.text("pg_isready", "-h", "127.0.0.1", "-U", "postgres", "-d", "builder_control")
    assert ready.endswith("accepting connections")
    assert host.text("redis-cli", "-h", "127.0.0.1", "ping") == "PONG"
    assert host.text("redis-cli", "-h", "127.0.0.1", "publish", "oro:bell", "x").isdigit()
    assert host.run(["oroboros", "doctor"], check=False).returncode == 0
    assert "nothing to do" in install(host)

    install(host, "--no-contract-database", "--no-redis-shared", "--unset", "control-plane")
    assert "password authentication failed" in enters(host, "postgres", "builder_control", password="postgres")
    assert "NOPERM" in host.text("redis-cli", "-h", "127.0.0.1", "publish", "oro:bell", "x")
    assert "postgres:postgres" not in host.read("/etc/oroboros/api.env")
    assert "nothing to do" in install(host)


def test_the_public_edge_answers_over_ipv6_and_8088_is_on_127_0_0_1_alone(host: Host) -> None:
    write_certificate(Path(f"/proc/{host.pid}/root") / "etc/oroboros", [f"*.{BASE_HOST}"])
    host.run(["sh", "-c", "chmod 600 /etc/oroboros/edge-certificate*.pem"])
    install(host, "--tls", "files")
    asking = ["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code} %header{x-oroboros-surface}", "-m", "5"]
    for address in ("127.0.0.1", "[::1]"):
        to = ["--connect-to", f"::{address}:"]
        url = f"https://app.{BASE_HOST}/.well-known/oroboros/health"
        assert host.text(*asking, *to, url).endswith(" main"), address
        assert host.text(*asking, *to, f"http://app.{BASE_HOST}/") == "308", address
    assert [line.split()[3] for line in host.text("ss", "-Htln", "sport = :8088").splitlines()] == ["127.0.0.1:8088"]
    assert json.loads(host.read("/etc/oroboros/topology.json"))["said"]["tls"] == "files"


def app_at(host: Host, edge: int) -> int | None:
    """Return the version of the app that serves at this port of the edge."""
    words = ["curl", "-s", "-f", "-m", "10", "-H", f"Host: app.{BASE_HOST}", f"http://127.0.0.1:{edge}/"]
    done = host.run(words, check=False)
    return int(json.loads(done.stdout)["version"]) if done.returncode == 0 else None


def what_is_wrong(host: Host) -> str:
    """Return "" when every part is well at the port where it is asked, else what is not."""
    for words in (["oroboros", "doctor"], ["oroboros", "health"], ["oroboros", "slots", "--check"]):
        done = host.run(words, check=False)
        if done.returncode != 0:
            return f"{words}: {done.stdout[-1500:]} {done.stderr[-500:]}"
    return ""


@pytest.mark.timeout(600)  # three installations, each of which ends with doctor
def test_a_push_is_served_at_the_ports_that_were_chosen_and_they_may_be_chosen_anew(host: Host) -> None:
    start_forge(host, api_port=8010)
    clone(host)
    team = Team(host)
    team.push(1)
    team.wait_live("app", 1)
    team.settle()
    assert {8010, 3200, 3201, *STRANGERS} <= listening(host)
    assert 3100 not in listening(host)
    host.wait_until(lambda: not what_is_wrong(host), lambda: what_is_wrong(host))

    done = host.run([f"{SOURCE}/scripts/install.sh", "--unset", "port-api"], check=False, timeout_s=120)
    assert done.returncode == 2
    assert "port 8000 (api) is held by python3" in " ".join(done.stderr.split())
    assert "option port-api: 8010 → 8000 (deploy.toml or default)" in done.stdout
    assert app_at(host, 8088) == 1

    host.run(["systemctl", "stop", *(f"stranger-{port}" for port in STRANGERS)])
    # Edge and api change places; surfaces go back to their own ports.
    moved = ["--port", "edge=8010", "--port", "api=8088", "--unset", "port-web", "--port", "instance=8400"]
    told = install(host, *moved)
    assert "option port-web: 3200 → 3100 (deploy.toml or default)" in told
    assert app_at(host, 8010) == 1
    assert {3100, 3101, 8010, 8088} <= listening(host)
    assert {3200, 3201, 8000}.isdisjoint(listening(host))
    # What serves is started anew at a port of its own, through the gate.
    host.wait_until(lambda: {8400, 8500} & listening(host), "an instance is to be started at its new port")
    host.wait_until(lambda: {8200, 8300}.isdisjoint(listening(host)), "the one before is to end")
    team.settle()
    assert app_at(host, 8010) == 1
    host.wait_until(lambda: not what_is_wrong(host), lambda: what_is_wrong(host))
    assert "nothing to do" in install(host)

    install(host, "--unset", "port-edge", "--unset", "port-api", "--unset", "port-instance")
    assert app_at(host, 8088) == 1
    assert {8000, 8088, 3100} <= listening(host)
    assert 8010 not in listening(host)
    assert json.loads(host.read("/etc/oroboros/topology.json"))["ports"] == {}
