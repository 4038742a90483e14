"""Check what other processes can do to a host: one that has a port of ours, and one that has taken over the worker."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.host.host import Host
from tests.host.team import BASE_HOST, RECIPE, SOURCE, Team, install, serving_team

WORKER = "oroboros-worker"
NEW, FORMER = "/etc/oroboros/topology.json", "/srv/oroboros/topology.json"
SUPERUSERS = "SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolsuper"


@pytest.fixture(scope="module")
def team(image: Path, hosts_folder: Path) -> Iterator[Team]:
    with serving_team(image, hosts_folder) as team:
        yield team


def as_worker(host: Host, script: str, *, stdin: str = "") -> None:
    host.run(["sh", "-e", "-c", script], user=WORKER, stdin=stdin)


def psql(host: Host, text: str, *, user: str, role: str, database: str) -> str:
    return host.run(["psql", "-X", "-A", "-t", "-q", "-U", role, "-d", database], user=user, stdin=text).stdout.strip()


@contextmanager
def stranger_at(host: Host, port: int, *, status: int, units: tuple[str, ...]) -> Iterator[None]:
    """Another user's service has a port that these units of ours listen on, and answers everything with a status."""
    answers = f"def do_GET(self): self.send_response({status}); self.end_headers(); self.wfile.write(b'theirs')"
    code = (
        "import http.server\nclass Answers(http.server.BaseHTTPRequestHandler):\n"
        f" {answers}\nhttp.server.HTTPServer(('127.0.0.1', {port}), Answers).serve_forever()"
    )
    # With its socket, where systemd holds the port.
    host.run(["systemctl", "stop", *(f"{unit}.*" for unit in units)])
    words = ["--quiet", "--collect", "--unit=stranger", "--property=User=nobody", "--", "python3", "-c", code]
    host.run(["systemd-run", *words])
    host.wait_until(
        lambda: host.run(["curl", "-s", f"http://127.0.0.1:{port}/"], check=False).stdout == "theirs", "it is to answer"
    )
    host.run(["systemctl", "start", "--no-block", *units])
    try:
        yield
    finally:
        host.run(["systemctl", "stop", "stranger"])


def told_of(port: int, what: str) -> str:
    return rf"port {port} \({what}\) is held by python3 \(process \d+ of nobody, stranger.service\)"


def wait_told(team: Team, sha: str, context: str, told: str) -> None:
    """Wait until a commit waits, and says for which port and process."""

    def is_told() -> bool:
        state, text = team.status(sha, context)
        return state == "pending" and re.match(f"waits: {told}", text) is not None

    team.wait(is_told, f"{sha[:7]} is to wait: {team.status(sha, context)}")


@pytest.mark.parametrize(
    ("version", "port", "what", "status"),
    [(2, 3101, "preview-1 web", 200), (3, 3101, "preview-1 web", 500), (4, 8101, "preview-1 backend", 200)],
)
def test_a_commit_waits_while_another_process_has_a_port_of_its_slot(
    team: Team, host: Host, version: int, port: int, what: str, status: int
) -> None:
    with stranger_at(host, port, status=status, units=("ouroboros-web@preview1",)):
        number = team.open_pull(f"port-{version}", version)
        sha = team.git("rev-parse", f"port-{version}")
        wait_told(team, sha, "oroboros/preview", told_of(port, what))
        for command in ("status", "doctor"):
            assert re.search(told_of(port, what), " ".join(host.run(["oroboros", command], check=False).stdout.split()))
        assert team.sql("SELECT count(*) FROM quarantine") == "0"
        assert team.sql("SELECT count(*) FROM runs WHERE state = 'failed'") == "0"
        # The surface waits for its port, in place of ending again and again.
        assert host.unit("ouroboros-web@preview1.service", "NRestarts", "ActiveState") == {
            "NRestarts": "0",
            "ActiveState": "active",
        }
    team.wait_live("preview1", version)
    team.wait_status(sha, "success", "oroboros/preview")
    team.close_pull(number)
    left = "SELECT count(*) FROM leases l JOIN slots s ON s.name = l.slot WHERE l.fence > s.wiped_fence"
    team.wait(lambda: team.sql(left) == "0", "nothing is to be left of the preview")


def test_a_window_waits_while_another_process_has_the_port(team: Team, host: Host) -> None:
    sha = team.push(5, recipe=RECIPE.replace("window_s = 3", "window_s = 6"))
    team.wait_live("app", 5)
    with stranger_at(host, 3100, status=500, units=("ouroboros-web@main",)):
        wait_told(team, sha, "oroboros/production", told_of(3100, "main web"))
        assert team.sql("SELECT state FROM runs ORDER BY generation DESC LIMIT 1") == "watching"
    team.wait_live("app", 5)
    team.settle()
    assert team.status(sha)[0] == "success"
    assert team.sql("SELECT count(*) FROM quarantine") == "0"


def test_the_port_of_the_api_and_of_the_worker_are_told_and_taken_again(team: Team, host: Host) -> None:
    for port, what, units in (
        (8000, "api", ("ouroboros-api",)),
        (8090, "worker health", ("ouroboros-worker",)),
    ):
        with stranger_at(host, port, status=200, units=units):
            team.wait(
                lambda port=port, what=what: re.search(
                    told_of(port, what), " ".join(host.run(["oroboros", "status"], check=False).stdout.split())
                ),
                f"{port} is to be told of",
            )
        healthy = ["curl", "-sf", "-m", "5", f"http://127.0.0.1:{port}/health"]
        team.wait(lambda words=healthy: "status" in host.run(words, check=False).stdout, f"{port} is to be ours")
    team.wait(lambda: "PortTaken" not in host.run(["oroboros", "status"], check=False).stdout, "all is to be well")


def test_nginx_on_port_80_keeps_no_other_port_of_the_edge_closed(team: Team, host: Host) -> None:
    serve = ["python3", "-m", "http.server", "--bind", "0.0.0.0", "80"]
    # Installed on a port that is held it is refused; here the other comes later.
    host.run([f"{SOURCE}/scripts/install.sh", "--tls", "auto", "--base-host", BASE_HOST], check=False, timeout_s=180)
    host.run(["systemctl", "stop", "ouroboros-caddy-public"])
    host.run(["systemd-run", "--quiet", "--collect", "--slice=system.slice", "--unit=nginx", "--", *serve])
    host.run(["systemctl", "start", "--no-block", "ouroboros-caddy-public"])
    try:
        assert "version" in team.get("app")
        held = r"80 \(edge, HTTP\) is held by python3 \(process \d+ of root, nginx.service\)"

        def names_it(command: str) -> bool:
            told = " ".join(host.run(["oroboros", command], check=False).stdout.split())
            return re.search(held, told) is not None

        for command in ("status", "doctor"):
            team.wait(lambda command=command: names_it(command), f"{command} is to name the process on port 80")
        said = host.text("journalctl", "--quiet", "--output=cat", "-p", "err", "-u", "ouroboros-caddy-public")
        assert "\n".join(line for line in said.splitlines() if "cannot be bound" in line) == (
            "port 80 cannot be bound: Address already in use: waiting;"
            " `sudo oroboros doctor` names the process that has it"
        )
        for unit in ("ouroboros-caddy", "ouroboros-caddy-public"):
            shown = host.unit(f"{unit}.service", "NRestarts", "ActiveState")
            assert shown == {"NRestarts": "0", "ActiveState": "active"}
        host.run(["systemctl", "stop", "nginx"])
        asked = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", f"Host: app.{BASE_HOST}", "127.0.0.1"]
        team.wait(lambda: host.run(asked, check=False).stdout == "308", "the edge is to answer on port 80")
    finally:
        host.run(["systemctl", "stop", "nginx"], check=False)
        install(host, "--tls", "off", "--base-host", BASE_HOST)
    assert not host.is_active("ouroboros-caddy-public")


def test_a_view_in_place_of_a_table_makes_nobody_a_superuser(host: Host) -> None:
    plant = (
        "ALTER TABLE schema_migrations RENAME TO kept;"
        " CREATE FUNCTION rise() RETURNS text LANGUAGE plpgsql AS"
        " $$ BEGIN ALTER ROLE oroboros_worker SUPERUSER; RETURN 'risen'; END $$;"
        " CREATE VIEW schema_migrations AS SELECT rise() AS name;"
        ' CREATE DATABASE "x"" FROM PUBLIC; ALTER ROLE oroboros_worker SUPERUSER; --";'
    )
    control = {"user": WORKER, "role": "oroboros_worker", "database": "builder_control"}
    psql(host, plant, **control)

    host.run(["oroboros", "install", "--dry-run"], timeout_s=120)
    host.run(["oroboros", "doctor"], check=False, timeout_s=120)
    told = host.text("runuser", "-u", "postgres", "--", "psql", "-X", "-A", "-t", "-c", SUPERUSERS)
    assert told == "postgres"

    repair = "DROP VIEW schema_migrations; DROP FUNCTION rise(); ALTER TABLE kept RENAME TO schema_migrations;"
    psql(host, repair, **control)
    assert "nothing to do" in install(host)  # the database with that name is not ours to close
    assert host.text("runuser", "-u", "postgres", "--", "psql", "-X", "-A", "-t", "-c", SUPERUSERS) == "postgres"


def test_what_the_worker_says_was_installed_counts_for_nothing(host: Host) -> None:
    topology = json.loads(host.read(NEW))
    topology["walls"]["build_memory_bytes"] = "1\nExecStartPre=+/bin/touch /var/taken"
    topology["base_host"] = "taken.example"
    as_worker(host, f"rm -f {FORMER}; cat >{FORMER}", stdin=json.dumps(topology))
    settings = {"DATABASE_URL": "postgresql://elsewhere", "OROBOROS_REPOSITORY": "taken/over"}
    as_worker(host, "umask 077; cat >/srv/oroboros/environment.json", stdin=json.dumps(settings))

    assert "nothing to do" in install(host)
    status = host.text("oroboros", "status")
    assert "taken" not in status
    host.run(["oroboros", "--root", "/srv/oroboros", "status"])

    # Nor where it was before there was a file of root's.
    host.run(["mv", NEW, "/var/topology.json"])
    assert host.run(["oroboros", "status"], check=False).returncode == 2
    host.run(["mv", "/var/topology.json", NEW])
    as_worker(host, f"rm {FORMER} /srv/oroboros/environment.json")


def test_a_topology_of_roots_in_its_former_place_is_taken_up(host: Host) -> None:
    whole = host.read(NEW)
    host.run(["mv", NEW, FORMER])
    assert "app" in host.text("oroboros", "status")

    assert f"write {NEW}" in install(host)

    assert host.read(NEW) == whole
    assert host.text("stat", "-c", "%a %U %G", NEW) == "644 root root"
    assert "nothing to do" in install(host)
    host.run(["rm", FORMER])


def test_a_link_of_the_workers_leads_root_nowhere(team: Team, host: Host) -> None:
    host.run(["mkdir", "-p", "-m", "700", "/var/aim"])
    run = json.loads(host.read("/srv/oroboros/slots/main/live/live.json"))["generation"]
    maintenance, runs = "/srv/oroboros/artifacts/maintenance", "/srv/oroboros/artifacts/runs"
    for folder in (maintenance, runs):
        as_worker(host, f"mv {folder} {folder}.kept; ln -s /var/aim {folder}")

    summary = ["oroboros", "maintenance", "daily-summary", "--output-dir", maintenance]
    smoke = ["oroboros", "smoke", "--preview-url", "http://app.example.com", "--proxy-origin", "http://127.0.0.1:8088"]
    assert host.run(summary, check=False, timeout_s=120).returncode != 0
    assert host.run([*smoke, "--run-id", str(run)], check=False).returncode == 2
    assert host.run([*smoke, "--output", f"{runs}/smoke.json"], check=False).returncode == 2

    assert host.text("find", "/var/aim", "-mindepth", "1") == ""
    for folder in (maintenance, runs):
        as_worker(host, f"rm {folder}; mv {folder}.kept {folder}")
    host.run(summary, timeout_s=120)
    host.run([*smoke, "--run-id", str(run)])
    assert host.text("stat", "-c", "%U", f"{runs}/{run}/smoke.json") == WORKER


def test_install_reads_the_policy_of_the_mirror_as_the_worker(team: Team, host: Host) -> None:
    sha = team.commit("Four slots", {"deploy.toml": RECIPE + "[previews]\nslots = 4\n"})
    team.git("push", "-q", "origin", "HEAD")
    team.wait_status(sha, "success")
    done = host.run([f"{SOURCE}/scripts/install.sh", "--dry-run"], timeout_s=120)
    assert "make user oroboros-preview-4" in done.stdout
    assert "left out" not in done.stderr

    # What is no file that the worker may read, root does not read for it.
    packs = "/srv/oroboros/repo.git/objects"
    as_worker(host, f"mv {packs} {packs}.kept")
    host.run(["cp", "-a", f"{packs}.kept", "/var/objects"])
    host.run(["chown", "-R", "root:root", "/var/objects"])
    host.run(["chmod", "-R", "go=", "/var/objects"])
    as_worker(host, f"ln -s /var/objects {packs}")
    done = host.run([f"{SOURCE}/scripts/install.sh", "--dry-run"], timeout_s=120)
    assert "oroboros-preview-4" not in done.stdout
    as_worker(host, f"rm {packs}; mv {packs}.kept {packs}")
