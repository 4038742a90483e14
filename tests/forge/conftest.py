"""A development forge of its own for each test, a receiver that keeps what it is sent, and authors with clones."""

from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from controller.effects.github_http import Client
from controller.model.names import Ports
from tests.forge.our_app import Ours, Skewed, set_up
from tests.forge_fixture import SECRET, ForgeUnderTest, run_forge

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
        number = content["issue"]["number"] if "issue" in content else content["number"]
        return f"{self.event} {content['action']} #{number}"

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


@pytest.fixture
def forge(short_dir: Path, receiver: Receiver, free_port_offset: int) -> Iterator[ForgeUnderTest]:
    """An empty forge whose webhook points at `receiver`."""
    with run_forge(short_dir, webhook_url=receiver.url, port=Ports(offset=free_port_offset).forge) as running:
        yield running


@pytest.fixture
def ours(forge: ForgeUnderTest, receiver: Receiver, tmp_path: Path) -> Iterator[Ours]:
    """An App that was set up and installed."""
    created = set_up(forge, receiver.url, tmp_path)
    clock = Skewed()
    with Client(forge.url, clock=clock, write_pause_s=0) as client:
        found = Ours(forge=forge, created=created, clock=clock, client=client)
        found.install()
        yield found
