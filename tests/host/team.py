"""A team with a host of its own: Oroboros installed by its command, a forge beside it, and a developer with a clone.

The forge is the development one, as a unit of the test's; everything else is what `scripts/install.sh` made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from controller.development.forge_limits import AT_THE_SITE
from tests.host.host import Host, new_host

SOURCE = "/usr/src/oroboros"
#: The developer's clone, on the host.
CLONE = "/usr/src/clone"
FORGE_URL = "http://127.0.0.1:8070"
REPOSITORY = "acme/shop"
TOKEN_FILE = "/usr/src/forge/token"
BASE_HOST = "example.com"
#: A push is live, and its window has passed, within this time on a machine that does other things too.
LIVE_WITHIN_S = 60.0

APP = """\
import http.server, json, os, subprocess

class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = {"version": VERSION, "slot": os.environ["OROBOROS_SLOT"], "release": os.environ["OROBOROS_RELEASE"]}
        status = STATUS
        if "DATABASE_URL" in os.environ:
            insert = "INSERT INTO hits DEFAULT VALUES RETURNING id"
            words = ["psql", "-X", "-A", "-t", "-q", os.environ["DATABASE_URL"], "-c", insert]
            done = subprocess.run(words, capture_output=True, text=True)
            body["hit"] = done.stdout.strip() or done.stderr.strip()
            status = status if done.returncode == 0 else 500
        if self.path == "/do":
            body["done"] = DO()
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.do_GET()

    def log_message(self, *words):
        pass

def DO():
    DOES

http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Answers).serve_forever()
"""
RECIPE = '[api]\ncommand = "python3 app.py"\n[gate]\nwindow_s = 3\n'
WITH_DATABASE = (
    '[database]\nmigrate = "psql -X -q ${DATABASE_URL} -f migrations/1.sql"\n'
    "[build]\ncommand = \"python3 -c 'open(chr(98), chr(119)).write(chr(98))'\"\n"
)


@dataclass
class Team:
    """The host, its forge and its developer."""

    host: Host

    # -- the developer ------------------------------------------------------------------------------------------------

    def git(self, *words: str) -> str:
        return self.host.run(["git", *words], folder=CLONE, timeout_s=60).stdout.strip()

    def commit(self, title: str, files: dict[str, str]) -> str:
        for name, text in files.items():
            self.host.write(f"{CLONE}/{name}", text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", title)
        return self.git("rev-parse", "HEAD")

    def push(
        self, version: int, *, status: int = 200, do: str = 'return ""', recipe: str = RECIPE, title: str = ""
    ) -> str:
        """Commit a version of the app to the branch that the clone is on, and push it."""
        does = do.strip().replace("\n", "\n    ")
        app = APP.replace("VERSION", str(version)).replace("STATUS", str(status)).replace("DOES", does)
        files = {"app.py": app, "deploy.toml": recipe}
        if "[database]" in recipe:
            files["migrations/1.sql"] = "CREATE TABLE IF NOT EXISTS hits (id serial PRIMARY KEY);\n"
        sha = self.commit(title or f"Version {version}", files)
        self.git("push", "-q", "origin", "HEAD")
        return sha

    def api(self, method: str, path: str, body: dict[str, object] | None = None) -> object:
        """Call the forge's API, as the developer."""
        words = [
            "curl",
            "-s",
            "-X",
            method,
            "-H",
            f"@{TOKEN_FILE}.header",
            f"{FORGE_URL}/api/v3/repos/{REPOSITORY}{path}",
        ]
        if body is not None:
            words += ["-d", json.dumps(body)]
        return json.loads(self.host.run(words).stdout)

    def open_pull(self, branch: str, version: int, *, do: str = 'return ""', recipe: str = RECIPE) -> int:
        """Push a version to a branch and open a pull request of it; return its number."""
        self.git("switch", "-q", "-C", branch, "origin/main")
        self.push(version, do=do, recipe=recipe)
        self.git("switch", "-q", "main")
        made = self.api("POST", "/pulls", {"title": branch, "head": branch, "base": "main"})
        assert isinstance(made, dict), made
        return int(made["number"])

    def close_pull(self, number: int) -> None:
        self.api("PATCH", f"/pulls/{number}", {"state": "closed"})

    def status(self, sha: str, context: str = "oroboros/production") -> tuple[str, str]:
        """Return the newest status of a commit and its description."""
        told = self.api("GET", f"/commits/{sha}/statuses")
        assert isinstance(told, list)
        mine = [one for one in told if one["context"] == context]
        return (mine[0]["state"], mine[0]["description"]) if mine else ("", "")

    # -- what a visitor sees ------------------------------------------------------------------------------------------

    def get(self, label: str, path: str = "/") -> dict[str, object]:
        """Return what a host name answers through the edge; {} for anything but a good answer."""
        words = ["curl", "-s", "-f", "-m", "10", "-H", f"Host: {label}.{BASE_HOST}", f"http://127.0.0.1:8088{path}"]
        done = self.host.run(words, check=False)
        try:
            value = json.loads(done.stdout)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    def wait(self, there: Callable[[], object], what: str, *, timeout_s: float = LIVE_WITHIN_S) -> None:
        def told() -> str:
            return f"{what}\n{self.host.run(['oroboros', 'status'], check=False).stdout[-1500:]}"

        self.host.wait_until(there, told, timeout_s=timeout_s)

    def wait_live(self, label: str, version: int) -> None:
        self.wait(lambda: self.get(label).get("version") == version, f"{label} is to serve version {version}")

    def wait_status(self, sha: str, state: str, context: str = "oroboros/production") -> str:
        self.wait(
            lambda: self.status(sha, context)[0] == state, f"{sha[:7]} is to be {state}: {self.status(sha, context)}"
        )
        return self.status(sha, context)[1]

    def settle(self) -> None:
        """Wait until no run is under way."""
        query = "SELECT count(*) FROM runs WHERE ended_at IS NULL"
        self.wait(lambda: self.sql(query) == "0", "no run is to be under way")

    def sql(self, query: str, database: str = "builder_control") -> str:
        return self.host.run(
            ["runuser", "-u", "postgres", "--", "psql", "-X", "-A", "-t", "-c", query, database]
        ).stdout.strip()

    def unit_of(self, slot: str) -> str:
        """Return the instance unit of a slot that runs."""
        told = self.host.text("systemctl", "list-units", "--plain", "--no-legend", f"ouroboros-instance@{slot}-*")
        found = re.findall(r"ouroboros-instance@\S+\.service(?= +loaded +active)", told)
        return found[0] if found else ""


def install(host: Host, *words: str) -> str:
    """Run the installer of the checkout that was copied; return what it printed."""
    return host.run([f"{SOURCE}/scripts/install.sh", *words], timeout_s=180).stdout


def start_forge(host: Host, *, api_port: int = 8000) -> None:
    """Start the development forge as a unit, and register its repository, as an operator would."""
    host.run(["mkdir", "-p", "-m", "700", "/usr/src/forge"])
    host.run(
        ["sh", "-c", f"test -s {TOKEN_FILE} || head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \\n' > {TOKEN_FILE}"]
    )
    headers = f"Authorization: Bearer %s\\n{AT_THE_SITE}: yes\\n"
    host.run(["sh", "-c", f"printf '{headers}' \"$(cat {TOKEN_FILE})\" > {TOKEN_FILE}.header"])
    words = (
        "/opt/oroboros/venv/bin/python -m controller.development.forge --root /usr/src/forge/data --port 8070"
        f" --repository {REPOSITORY} --webhook-url http://127.0.0.1:{api_port}/webhooks/github"
        f" --webhook-secret-file /etc/oroboros/webhook-secrets --token-file {TOKEN_FILE}"
    )
    unit = f"[Service]\nEnvironment=PYTHONPATH={SOURCE}\nExecStart={words}\n[Install]\nWantedBy=multi-user.target\n"
    host.write("/etc/systemd/system/test-forge.service", unit)
    host.run(["systemctl", "daemon-reload"])
    host.run(["systemctl", "enable", "-q", "--now", "test-forge"])
    host.wait_until(
        lambda: host.run(["curl", "-sf", f"{FORGE_URL}/health"], check=False).returncode == 0, "the forge is to answer"
    )
    told = f"oroboros repo set {REPOSITORY} --forge-url {FORGE_URL} --token-stdin < {TOKEN_FILE}"
    host.run(["sh", "-c", told], timeout_s=90)


def clone(host: Host) -> None:
    """Give the developer a working clone."""
    code = (
        "import sys; from pathlib import Path; from controller.development.forge_client import clone_for_author;"
        "clone_for_author(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))"
    )
    host.run(
        ["/opt/oroboros/venv/bin/python", "-c", code, FORGE_URL, REPOSITORY, TOKEN_FILE, CLONE],
        environment={"PYTHONPATH": SOURCE},
    )


@contextmanager
def new_team(
    image: Path, folder: Path, *words: str, look_before: Callable[[Host], None] = lambda _: None
) -> Iterator[Team]:
    """A host with Oroboros installed, a forge, and a developer; nothing is deployed yet."""
    with new_host(image, folder) as host:
        look_before(host)
        host.copy_checkout(SOURCE)
        install(host, "--base-host", BASE_HOST, *words)
        start_forge(host)
        clone(host)
        yield Team(host)


@contextmanager
def serving_team(image: Path, folder: Path, *, recipe: str = RECIPE) -> Iterator[Team]:
    """The same, where version 1 of the app serves and has survived its window."""
    with new_team(image, folder) as team:
        team.push(1, recipe=recipe)
        team.wait_live("app", 1)
        team.settle()
        yield team
