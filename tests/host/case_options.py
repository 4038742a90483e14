"""Does an installation beside others' databases leave them alone, and do the options make each contract row exact?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge.test_tls import write_certificate
from tests.host.host import Host, new_host
from tests.host.team import BASE_HOST, SOURCE, install

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
    """The same, where Oroboros was installed beside them."""
    install(bare, "--base-host", BASE_HOST)
    return bare


def as_postgres(host: Host, statement: str) -> str:
    return host.text("runuser", "-u", "postgres", "--", "psql", "-XAtc", statement)


def enters(host: Host, role: str, database: str, *, password: str, address: str = "127.0.0.1") -> str:
    """Return "" when a role gets into a database, else what Postgres says."""
    words = ["psql", "-X", "-A", "-t", "-h", address, "-U", role, "-d", database, "-c", "SELECT"]
    done = host.run(words, check=False, environment={"PGPASSWORD": password})
    return "" if done.returncode == 0 else done.stderr


def test_all_that_keeps_a_host_from_being_installed_is_told_before_anything_is_changed(bare: Host) -> None:
    for port in (3101, 8088):
        serve = ["python3", "-m", "http.server", "--bind", "127.0.0.1", str(port)]
        bare.run(["systemd-run", "--quiet", "--collect", f"--unit=stranger-{port}", "--", *serve])
    bare.run(["redis-cli", "set", "theirs", "1"])
    listening = ["ss", "-Htln", "sport = :3101 or sport = :8088"]
    bare.wait_until(lambda: len(bare.text(*listening).splitlines()) == 2, "strangers are to listen")
    try:
        for words in ([], ["--dry-run"]):
            done = bare.run([f"{SOURCE}/scripts/install.sh", *words], check=False, timeout_s=120)
            said = " ".join(done.stderr.split())
            assert done.returncode == 2, said
            assert re.search(
                r"port 3101 \(preview-1 web\) is held by python3 \(process \d+ of root, stranger-3101", said
            )
            assert re.search(r"port 8088 \(edge\) is held by python3 \(process \d+ of root, stranger-8088", said)
            assert "this Redis has 1 keys" in said
        for path in ("/etc/oroboros", "/srv/oroboros", "/usr/local/bin/oroboros"):
            assert bare.run(["test", "-e", path], check=False).returncode == 1
    finally:
        bare.run(["systemctl", "stop", "stranger-3101", "stranger-8088"])
        bare.run(["redis-cli", "flushall"])


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
