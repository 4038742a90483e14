"""Is a host the GitHub App that it was made, and does it hold, ask for approval and tell others as it promises?"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.host import Host
from tests.host.team import CLONE, FORGE_URL, RECIPE, SOURCE, TOKEN_FILE, Team, serving_team

POLICY = f"{RECIPE}[permissions]\naccept_fork_risk = true\n"
SECRET_FILE = "/etc/oroboros/notify-secret"
TOLD = "/usr/src/told.jsonl"
#: Keeps what it is told, with its signature.
SINK = f"""\
import http.server, json
class Keeps(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        with open("{TOLD}", "a") as file:
            file.write(json.dumps([self.headers["X-Oroboros-Signature-256"], body]) + "\\n")
        self.send_response(204); self.end_headers()
    def log_message(self, *words): pass
http.server.HTTPServer(("127.0.0.1", 9911), Keeps).serve_forever()
"""
#: Does in a browser's place what a person does with the page of `oroboros github setup`, and installs the App.
PERSON = r"""
import html, re, subprocess, sys, urllib.parse, urllib.request
forge, token, *words = sys.argv[1:]
setup = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
page_url = re.search(r"http://127\.0\.0\.1:\d+/", setup.stderr.readline())[0]
page = urllib.request.urlopen(page_url).read().decode()
found = re.search(r'action="([^"]+)".*?name=manifest value="([^"]+)"', page, re.S)
address, manifest = map(html.unescape, found.groups())
urllib.request.urlopen(address, urllib.parse.urlencode({"manifest": manifest}).encode())
bearer = {"Authorization": "Bearer " + open(token).read().strip(), "Content-Type": "application/json"}
urllib.request.urlopen(urllib.request.Request(forge + "/_development/install", b"{}", bearer))
sys.stderr.write(setup.communicate(timeout=60)[1])
sys.exit(setup.returncode)
"""


@pytest.fixture(scope="module")
def team(image: Path, hosts_folder: Path) -> Iterator[Team]:
    with serving_team(image, hosts_folder, recipe=POLICY) as team:
        yield team


def knob(team: Team, name: str, **content: object) -> dict[str, object]:
    words = ["curl", "-sf", "-X", "POST", "-H", f"@{TOKEN_FILE}.header", "-H", "Content-Type: application/json"]
    said = team.host.run([*words, f"{FORGE_URL}/_development/{name}", "-d", json.dumps(content)]).stdout
    value = json.loads(said)
    assert isinstance(value, dict)
    return value


def restart_worker(team: Team) -> None:
    team.host.run(["systemctl", "restart", "ouroboros-worker"], timeout_s=90)
    team.wait(lambda: team.host.is_active("ouroboros-worker"), "the worker is to be up")


def test_what_comes_while_production_is_held_waits_and_then_goes_on(team: Team) -> None:
    team.host.run(["oroboros", "hold", "--reason", "a demo"])
    sha = team.push(2, recipe=POLICY)
    team.wait(lambda: "a demo" in team.status(sha, "oroboros/production")[1], "the commit is to say why it waits")
    assert team.status(sha, "oroboros/production")[0] == "pending"
    assert team.get("app")["version"] == 1
    # What serves does not wait for the end of the hold when it is lost.
    unit = team.unit_of("main")
    killed = team.host.unit(unit, "MainPID")["MainPID"]
    team.host.run(["systemctl", "kill", "--signal=KILL", unit])
    team.wait(lambda: team.host.unit(unit, "MainPID")["MainPID"] not in (killed, "0"), "it is to be started again")
    team.wait_live("app", 1)
    assert team.status(sha, "oroboros/production")[0] == "pending"
    team.host.run(["oroboros", "unhold"])
    team.wait_live("app", 2)
    team.wait_status(sha, "success")
    team.settle()


def test_a_strangers_code_runs_once_it_is_approved_and_not_before(team: Team) -> None:
    team.git("switch", "-q", "-C", "stranger", "origin/main")
    sha = team.push(3, recipe=POLICY)
    team.git("switch", "-q", "main")
    number = knob(team, "fork_pull", title="From a stranger", head_sha_branch="stranger")["number"]
    team.wait(lambda: "needs approval" in team.status(sha, "oroboros/preview")[1], "it is to ask for approval")
    assert team.unit_of("preview1") == ""
    assert team.host.run(["test", "-e", f"/srv/oroboros/releases/{sha}"], check=False).returncode != 0
    knob(team, "comment", pull=number, author="developer", body=f"/preview {sha}")
    team.wait_live("preview1", 3)
    team.close_pull(int(str(number)))
    team.wait(lambda: team.unit_of("preview1") == "", "the preview is to end with its pull request")


def test_a_notification_is_signed_with_the_credential_of_the_host(team: Team, host: Host) -> None:
    host.write("/usr/src/sink.py", SINK)
    host.run(["systemd-run", "--unit=test-sink", "python3", "/usr/src/sink.py"])
    host.run(["sh", "-c", f"od -An -tx1 -N 32 /dev/urandom | tr -d ' \\n' | install -m 0600 /dev/stdin {SECRET_FILE}"])
    host.run(["sh", "-c", "echo OROBOROS_NOTIFY_URL=http://127.0.0.1:9911/told >> /etc/oroboros/worker.env"])
    restart_worker(team)
    sha = team.push(4, recipe=POLICY)
    team.wait_live("app", 4)

    def told() -> list[tuple[str, str]]:
        lines = host.run(["cat", TOLD], check=False).stdout.splitlines()
        return [(signature, body) for signature, body in map(json.loads, lines) if json.loads(body)["sha"] == sha]

    team.wait(lambda: any(json.loads(body)["event"] == "deployed" for _, body in told()), "it is to be told")
    secret = host.read(SECRET_FILE).strip().encode()
    for signature, body in told():
        assert signature == "sha256=" + hmac.new(secret, body.encode(), hashlib.sha256).hexdigest()
    looking = f"grep -laFf {SECRET_FILE} /proc/[0-9]*/environ /proc/[0-9]*/cmdline"
    assert host.run(["sh", "-c", looking], check=False).stdout == ""
    team.settle()


def test_a_host_that_was_made_an_app_deploys_and_writes_its_check_runs(team: Team, host: Host) -> None:
    host.write("/usr/src/person.py", PERSON)
    hook = "http://127.0.0.1:8000/webhooks/github"
    setting_up = ["oroboros", "github", "setup", "--webhook-url", hook, "--forge-url", FORGE_URL]
    host.run(["python3", "/usr/src/person.py", FORGE_URL, TOKEN_FILE, *setting_up], timeout_s=90)
    key = "/etc/oroboros/github-app-key"
    assert host.text("stat", "-c", "%a %U", key) == "600 root"
    host.run(["systemctl", "restart", "ouroboros-api"])
    restart_worker(team)
    sha = team.push(5, recipe=POLICY)
    team.wait_live("app", 5)
    team.wait_status(sha, "success")

    def checks() -> list[tuple[str, str]]:
        found = team.api("GET", f"/commits/{sha}/check-runs")
        assert isinstance(found, dict)
        return [(one["name"], one["conclusion"]) for one in found["check_runs"]]

    team.wait(lambda: ("oroboros/production", "success") in checks(), f"its check run is to be there: {checks()}")
    assert host.run(["oroboros", "github", "check"], check=False).returncode == 0
    assert (
        host.run(
            ["sh", "-c", f"grep -la -e BEGIN.*PRIVATE {CLONE}/.git/config /proc/[0-9]*/environ"], check=False
        ).stdout
        == ""
    )
    assert "nothing to do" in host.run([f"{SOURCE}/scripts/install.sh"], timeout_s=180).stdout
