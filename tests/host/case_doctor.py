"""Does each remedy that doctor prints mend the very state that it is printed for?

One host is brought into each state in turn. Doctor names the fault, its commands are run as printed, and the fault is
gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.decisions.remedies import Fault, host_commands
from tests.host.host import Host
from tests.host.team import CLONE, RECIPE, TOKEN_FILE, Team, serving_team

#: What a remedy starts is well within this time.
MENDED_WITHIN_S = 45.0
UNITS, SLOTS = "/usr/local/lib/systemd/system", "/srv/oroboros/slots"
AS_POSTGRES = "runuser -u postgres -- psql -X -q builder_control -c"
FAILING = "/run/systemd/system/ouroboros-maintenance-stale-leases.service.d/failing.conf"

#: An app that is well until somebody asks it for /sicken, and then unwell until it is started again.
SICKENS = """\
import http.server, json, os

class Answers(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self):
        if self.path == "/sicken":
            Answers.status = 503
        data = json.dumps({"version": VERSION}).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Answers).serve_forever()
"""

#: What brings a host into the states that remedies are for: states that do not hide each other are had at once, and
#: their remedies run in this order. `oroboros install` ends well once nothing fails, so it is the last of a group.
GROUPS: dict[str, dict[Fault, str]] = {
    "the installation": {
        Fault.UNITS_OVERRIDDEN: (
            "install -D /dev/stdin /etc/systemd/system/ouroboros-worker.service.d/nice.conf <<<'[Service]\nNice=1';"
            " systemctl daemon-reload"
        ),
        Fault.UNITS_DOWN: "systemctl stop 'ouroboros-web@preview[23].s*'",
        Fault.SETTINGS_UNREADABLE: "sed -i /^DATABASE_URL=/d /etc/oroboros/worker.env",
        Fault.INSTALLATION_CHANGED: (
            f"echo '# mine' >>{UNITS}/ouroboros-wipe@.service; chmod 777 /srv/oroboros/releases;"
            " systemctl disable -q ouroboros-maintenance-stale-leases.timer"
        ),
    },
    "the parts": {
        Fault.GIT_UNFIT: "dpkg -r --force-depends git",
        Fault.MIGRATIONS_MISSING: (
            f"""systemctl stop ouroboros-worker; {AS_POSTGRES} "ALTER TABLE runs DROP COLUMN unwell_before;"""
            """ DELETE FROM schema_migrations WHERE name LIKE '0060%'" """
        ),
        Fault.SECRETS_OPEN: "chmod 644 /etc/oroboros/app-main.env",
        Fault.REDIS_AWAY: "systemctl stop redis-server.service",
        Fault.SURFACE_DOWN: "systemctl stop ouroboros-web@preview1.socket ouroboros-web@preview1.service",
        Fault.WEBHOOK_SECRET_UNFIT: "echo changeme >/etc/oroboros/webhook-secrets",
    },
    "the forge": {
        Fault.MIRROR_BROKEN: "rm /srv/oroboros/repo.git/HEAD",
        Fault.TOKEN_REFUSED: "echo nonsense-that-no-forge-knows >/etc/oroboros/forge-token",
        Fault.PORTS_TAKEN: "systemd-run -q --collect -- python3 -m http.server --bind 127.0.0.1 8303",
        Fault.OPERATOR_TOKEN_UNFIT: "echo short >/etc/oroboros/operator-token",
    },
    "the slots": {
        Fault.CURRENT_LAGS: "systemctl stop ouroboros-worker; ln -sfn /srv/oroboros/releases /srv/oroboros/current",
        Fault.PREVIEW_UNWELL: "curl -s -H 'Host: preview1.example.com' http://127.0.0.1:8088/sicken",
        Fault.EDGE_MISLEADS: "sed -i s/3101/3102/ /etc/oroboros/Caddyfile; systemctl restart ouroboros-caddy.service",
    },
    "the database": {
        Fault.EDGE_DOWN: "systemctl stop ouroboros-caddy.socket ouroboros-caddy.service",
        Fault.PART_DOWN: "systemctl stop ouroboros-api.socket ouroboros-api.service",
        Fault.DATABASE_REFUSES: f"""{AS_POSTGRES} "ALTER ROLE oroboros_worker PASSWORD 'other'" """,
    },
    "the policy": {
        Fault.MAINTENANCE_FAILED: (
            f"install -D /dev/stdin {FAILING} <<<'[Service]\nExecStart=\nExecStart=/bin/false';"
            " systemctl daemon-reload; ! systemctl start ouroboros-maintenance-stale-leases.service;"
            f" rm -r {FAILING}; systemctl daemon-reload"
        ),
        Fault.SLOT_STOPPED: "oroboros backend stop preview-1",
        Fault.POLICY_WAITS: (
            f"cd {CLONE}; printf '[walls]\\npreview_tasks = 200\\n' >>deploy.toml;"
            " git commit -qam Walls; git push -q origin main"
        ),
    },
    "what serves": {
        Fault.DATABASE_AWAY: "systemctl stop 'postgresql@*'",
        Fault.LIVE_UNREADABLE: f"echo nonsense >{SLOTS}/preview-1/live/live.json",
        Fault.PRODUCTION_UNWELL: "curl -s -H 'Host: app.example.com' http://127.0.0.1:8088/sicken",
    },
}
STATES = {fault: state for group in GROUPS.values() for fault, state in group.items()}
#: What a remedy is to be given besides.
TYPED = {Fault.TOKEN_REFUSED: TOKEN_FILE}


def app(version: int) -> dict[str, str]:
    return {"app.py": SICKENS.replace("VERSION", str(version)), "deploy.toml": RECIPE}


@pytest.fixture(scope="module")
def team(image: Path, hosts_folder: Path) -> Iterator[Team]:
    with serving_team(image, hosts_folder) as team:
        # A minimal Debian has none, and who tests is root.
        team.host.write("/usr/local/bin/sudo", '#!/bin/sh\nexec "$@"\n', mode="0755")
        # Without a network apt has what is in its cache, and not what that only recommends.
        team.host.write("/etc/apt/apt.conf.d/lean", 'APT::Install-Recommends "false";\n')
        team.git("switch", "-q", "-c", "sickly")
        team.commit("A preview", app(2))
        team.git("push", "-q", "origin", "sickly")
        team.git("switch", "-q", "main")
        team.api("POST", "/pulls", {"title": "sickly", "head": "sickly", "base": "main"})
        team.commit("Production", app(3))
        team.git("push", "-q", "origin", "main")
        team.wait_live("app", 3)
        team.wait_live("preview1", 2)
        team.settle()
        yield team


def findings(host: Host) -> list[dict[str, Any]]:
    told = json.loads(host.run(["oroboros", "doctor", "--json"], check=False).stdout)
    checks = told["checks"]
    assert isinstance(checks, list)
    return checks


def test_every_remedy_with_commands_is_run_on_its_state() -> None:
    assert {fault for fault in Fault if host_commands(fault)} == STATES.keys()


@pytest.mark.parametrize("group", GROUPS)
def test_what_doctor_prints_mends_what_it_found(team: Team, group: str) -> None:
    host, states = team.host, GROUPS[group]
    team.settle()
    for state in states.values():
        host.run(["bash", "-c", state])
    found: dict[str, dict[str, Any]] = {}

    def all_found() -> bool:
        found.update({one["fault"]: one for one in findings(host) if one["fault"] in states})
        return found.keys() == states.keys()

    host.wait_until(all_found, lambda: f"to find: {states.keys() - found.keys()}", timeout_s=MENDED_WITHIN_S)
    done = ""
    for fault in states:
        assert found[fault]["remedy"].startswith("; then ".join(found[fault]["commands"]))
        for command in found[fault]["commands"]:
            if command == done:
                continue  # one installation mends several
            done = command
            stdin = host.read(TYPED[fault]) if fault in TYPED else ""
            host.run(["bash", "-c", command], timeout_s=120, stdin=stdin)

    def left() -> list[str]:
        return [f"{one['fault']}: {one['found']}" for one in findings(host) if one["fault"] in states]

    host.wait_until(lambda: left() == [], lambda: f"to be mended: {left()}", timeout_s=MENDED_WITHIN_S)


def test_what_was_mended_is_well_as_a_whole(team: Team) -> None:
    def failed() -> list[str]:
        return [f"{one['name']}: {one['found']}" for one in findings(team.host) if one["outcome"] == "failed"]

    team.host.wait_until(lambda: failed() == [], lambda: f"nothing is to fail: {failed()}", timeout_s=60)
    assert team.host.text("systemctl", "--failed", "--no-legend") == ""
