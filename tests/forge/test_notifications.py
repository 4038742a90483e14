"""Notifications over real HTTP: the documented receiver takes them, and no receiver holds us up or leads us away."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from controller.decisions.notifications import Posted, post
from controller.effects.notifier import post_notification
from controller.loop.notifying import notification_sender
from controller.loop.reporter import Outgoing
from controller.model.errors import OroborosError, Stalled, Unavailable
from controller.model.names import Sha
from controller.model.reports import WantedNotification

DOCS = Path(__file__).resolve().parents[2] / "docs"
SECRET = b"a secret of twenty bytes or more"
WANTED = WantedNotification(
    event="rolled_back",
    generation=118,
    slot="main",
    pull_request=None,
    url="http://app.localhost:8088",
    sha=Sha("a" * 40),
    title="Faster\u2028 'checkout'",
    release=Sha("b" * 40),
    cause="push",
    reason="WindowFailed",
    message="three probes failed; rolled back to 9a8b7c6",
    at="2026-11-25T03:47:32+00:00",
)


def posted(*, secret: bytes = SECRET, now: datetime | None = None) -> Posted:
    return post(WANTED, repository="acme/shop", host="host-1", secret=secret, now=now or datetime.now(UTC))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def receiver(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[tuple[str, list[str]]]:
    """A server that answers so; yields its address and the paths that were asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        timeout = 5

        def do_POST(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            answer(self)

        def log_message(self, format: str, *args: object) -> None:
            """A test says what it needs itself."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook/secret-path", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def says(status: int, *headers: tuple[str, str]) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers:
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def test_what_is_sent_is_what_the_schema_and_the_page_say() -> None:
    schema = json.loads((DOCS / "notification.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    validator.validate(json.loads(posted().body))
    (example,) = re.findall(r"```json\n(.*?)```", (DOCS / "notifications.md").read_text(), re.DOTALL)
    validator.validate(json.loads(example))


@pytest.fixture
def documented(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The receiver of the documentation, as it stands there."""
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "notifications.md").read_text(), re.DOTALL)
    (tmp_path / "receiver.py").write_text(code)
    (tmp_path / "secret").write_bytes(SECRET + b"\n")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "receiver.py"],
        cwd=tmp_path,
        env={"SECRET_FILE": "secret", "PORT": str(port)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield f"http://127.0.0.1:{port}/", process
    finally:
        process.kill()
        process.communicate()


def test_the_documented_receiver_takes_what_is_ours_and_fresh_and_nothing_else(
    documented: tuple[str, subprocess.Popen[str]],
) -> None:
    url, process = documented
    forged, stale = posted(secret=b"another secret of many bytes"), posted(now=datetime(2020, 1, 1, tzinfo=UTC))
    for wrong in (forged, stale):
        with pytest.raises(Unavailable, match="answered 401"):
            post_notification(url, wrong.body, wrong.headers)
    ours = posted()
    with pytest.raises(Unavailable, match="answered 401"):
        post_notification(url, ours.body.replace(b"main", b"MAIN"), ours.headers)
    post_notification(url, ours.body, ours.headers)
    assert process.stdout is not None
    assert "'event': 'rolled_back'" in process.stdout.readline()


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_any_success_is_one(status: int) -> None:
    with receiver(says(status)) as (url, asked):
        post_notification(url, posted().body, posted().headers)
    assert asked == ["/hook/secret-path"]


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_anything_else_is_tried_again_and_the_error_names_the_host_alone(status: int) -> None:
    with receiver(says(status)) as (url, _), pytest.raises(Unavailable, match=f"answered {status}") as caught:
        post_notification(url, posted().body, posted().headers)
    assert "secret" not in str(caught.value)


def test_a_redirect_is_not_followed() -> None:
    with receiver(says(204)) as (elsewhere, asked), receiver(says(307, ("Location", elsewhere))) as (url, _):
        with pytest.raises(Unavailable, match="redirects are not followed"):
            post_notification(url, posted().body, posted().headers)
        assert asked == []


def test_a_receiver_that_is_gone_is_given_up() -> None:
    with receiver(says(410)) as (url, _), pytest.raises(Stalled, match="NotifyGone"):
        post_notification(url, posted().body, posted().headers)


def drips(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for _ in range(100):
        try:
            handler.wfile.write(b"X-Slow: 1\r\n")
            handler.wfile.flush()
        except OSError:
            return
        time.sleep(0.05)


def test_a_receiver_that_drips_has_one_deadline_for_all() -> None:
    with receiver(drips) as (url, _), pytest.raises(Unavailable, match="NotifyTimedOut"):
        post_notification(url, posted().body, posted().headers, timeout_s=0.5)


def test_nobody_there_is_tried_again() -> None:
    with pytest.raises(Unavailable, match="NotifyUnreachable"):
        post_notification(f"http://127.0.0.1:{free_port()}/hook", posted().body, posted().headers)


@pytest.mark.parametrize("secret", [b"", b"short"])
def test_nothing_is_sent_with_a_secret_that_could_be_guessed(secret: bytes) -> None:
    outgoing = Outgoing(wanted=WANTED, made_id=None, is_doubtful=False, remember=lambda _: None)
    with receiver(says(204)) as (url, asked):
        send = notification_sender(
            url, repository="acme/shop", host="h", read_secret=lambda: secret, clock=lambda: datetime.now(UTC)
        )
        with pytest.raises(OroborosError, match="NotifySecretShort"):
            send(outgoing)
        assert asked == []
