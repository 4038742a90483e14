"""A development forge of its own for each test, a receiver that keeps what it is sent, and authors with clones."""

from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from controller.development.forge_client import clone_for_author
from controller.development.parts import Part, PartSpec
from controller.effects.github_http import Forge
from controller.model.names import Ports

REPOSITORY = "acme/shop"
#: Nothing may ever show it: no log, no error, no clone.
CANARY = "ghs_canary." + "Tk0" * 170
SECRET = "w3bh00k-s3cret-of-the-tests"
PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A delivery as it came."""

    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> str:
        return self.headers["x-github-event"]

    @property
    def payload(self) -> dict[str, Any]:
        content = json.loads(self.body)
        assert isinstance(content, dict)
        return content

    @property
    def what(self) -> str:
        """`push refs/heads/main`, `pull_request opened #1`."""
        content = self.payload
        if self.event == "push":
            return f"push {content['ref']}"
        return f"{self.event} {content['action']} #{content['number']}"

    def is_signed(self) -> bool:
        mac = hmac.new(SECRET.encode(), self.body, hashlib.sha256).hexdigest()
        return self.headers["x-hub-signature-256"] == f"sha256={mac}"


@dataclass(slots=True)
class Receiver:
    """What a webhook points at."""

    url: str
    received: list[Received] = field(default_factory=list)
    answer: int = 202

    def whats(self) -> list[str]:
        return [one.what for one in self.received]

    def await_count(self, count: int) -> list[Received]:
        """Return the deliveries once there are `count` of them."""
        await_true(lambda: len(self.received) >= count, lambda: f"{count} deliveries, {self.whats()}")
        return self.received


def await_true(there: Callable[[], bool], what: Callable[[], str]) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not there():
        if time.monotonic() > deadline:
            pytest.fail(f"never came: {what()}")
        time.sleep(0.01)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """An HTTP server that keeps every delivery."""
    kept = Receiver(url="")

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kept.received.append(
                Received(headers={name.lower(): value for name, value in self.headers.items()}, body=body)
            )
            self.send_response(kept.answer)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Not worth a line."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    kept.url = f"http://127.0.0.1:{server.server_address[1]}/webhooks/github"
    yield kept
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass(slots=True)
class Clone:
    """A working clone of an author."""

    path: Path

    def git(self, *words: str, fails: bool = False) -> str:
        done = subprocess.run(
            ["git", *words], cwd=self.path, capture_output=True, text=True, timeout=30, check=False, env=QUIET
        )
        assert (done.returncode != 0) == fails, done.stderr
        return (done.stderr if fails else done.stdout).strip()

    def commit(self, title: str, **files: str) -> str:
        for name, content in files.items():
            (self.path / name).write_text(content)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", title)
        return self.git("rev-parse", "HEAD")

    def push(self, branch: str = "main", *, force: bool = False) -> None:
        self.git("push", "-q", *(["--force"] if force else []), "origin", f"HEAD:refs/heads/{branch}")


QUIET = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}


@dataclass(slots=True)
class ForgeUnderTest:
    """A development forge in its own process."""

    folder: Path
    url: str
    part: Part
    api: httpx.Client
    knobs: httpx.Client
    client: Forge
    token_file: Path
    log_file: Path

    def clone(self, name: str = "work") -> Clone:
        clone_for_author(self.url, REPOSITORY, self.token_file, self.folder / name)
        return Clone(self.folder / name)

    def open_pull(self, branch: str, title: str = "A title") -> dict[str, Any]:
        answer = self.api.post("/pulls", json={"title": title, "head": branch, "base": "main"})
        assert answer.status_code == 201, answer.text
        content = answer.json()
        assert isinstance(content, dict)
        return content

    def knob(self, name: str, **content: object) -> dict[str, Any]:
        answer = self.knobs.post(f"/_development/{name}", json=content)
        assert answer.status_code in (200, 201), answer.text
        found = answer.json()
        assert isinstance(found, dict)
        return found


@pytest.fixture
def forge(short_dir: Path, receiver: Receiver, free_port_offset: int) -> Iterator[ForgeUnderTest]:
    """An empty forge whose webhook points at `receiver`."""
    token_file, secret_file, log_file = short_dir / "token", short_dir / "secret", short_dir / "forge.log"
    token_file.write_text(CANARY + "\n")
    secret_file.write_text(SECRET + "\n")
    port = Ports(offset=free_port_offset).forge
    url = f"http://127.0.0.1:{port}"
    spec = PartSpec(
        name="forge",
        argv=(
            *("setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "controller.development.forge"),
            *("--root", str(short_dir / "forge"), "--port", str(port), "--repository", REPOSITORY),
            *("--webhook-url", receiver.url, "--webhook-secret-file", str(secret_file)),
            *("--token-file", str(token_file)),
        ),
        log_file=log_file,
        is_ready=lambda: answers(url + "/health"),
        environment={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    authorization = {"Authorization": f"Bearer {CANARY}"}
    with (
        Part(spec) as part,
        httpx.Client(base_url=f"{url}/api/v3/repos/{REPOSITORY}", headers=authorization, trust_env=False) as api,
        httpx.Client(base_url=url, headers=authorization, trust_env=False) as knobs,
        Forge(url, REPOSITORY, token_file) as client,
    ):
        yield ForgeUnderTest(
            folder=short_dir,
            url=url,
            part=part,
            api=api,
            knobs=knobs,
            client=client,
            token_file=token_file,
            log_file=log_file,
        )
    log = log_file.read_text()
    assert CANARY not in log
    assert SECRET not in log
    assert "Traceback" not in log, log[-3000:]


def answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=1.0) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False
