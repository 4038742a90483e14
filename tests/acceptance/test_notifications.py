"""What becomes of runs is told to an address of one's own, and a receiver that is down holds nothing up."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.acceptance.conftest import WINDOW_S, World, open_world

SECRET = b"a canary of a secret, 32 bytes or"


class Told:
    """A receiver that can be down, and what it was told."""

    def __init__(self) -> None:
        self.told: list[dict[str, object]] = []
        self.refused = 0
        self.is_down = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                expected = "sha256=" + hmac.new(SECRET, body, hashlib.sha256).hexdigest()
                status = 503 if outer.is_down else 204
                if not hmac.compare_digest(expected, self.headers["X-Oroboros-Signature-256"]):
                    status = 401
                if status == 204:
                    outer.told.append(json.loads(body))
                else:
                    outer.refused += 1
                self.send_response(status)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """The test says what it needs."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever)

    def of(self, sha: str) -> list[str]:
        return [str(one["event"]) for one in self.told if one["sha"] == sha]


@pytest.fixture
def told() -> Iterator[Told]:
    receiver = Told()
    receiver.thread.start()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()
    receiver.thread.join()


@pytest.fixture
def world(told: Told, tmp_path: Path) -> Iterator[World]:
    secret = tmp_path / "notify-secret"
    secret.write_bytes(SECRET + b"\n")
    secret.chmod(0o600)
    environment = {
        **os.environ,
        "OROBOROS_NOTIFY_URL": f"http://127.0.0.1:{told.server.server_port}/hook",
        "OROBOROS_NOTIFY_SECRET_FILE": str(secret),
    }
    with open_world(environment=environment) as world:
        yield world


def test_each_thing_that_came_of_a_run_is_told_once_and_a_receiver_that_is_down_holds_nothing_up(
    world: World, told: Told
) -> None:
    author = world.author
    good = world.release("ok", "Good")
    author.push()
    author.wait(lambda: told.of(good) == ["deployed"], lambda: f"deployed is to be told, there is {told.told}")
    author.await_status(good, "success", says="live since")
    bad = world.release("500", "Bad")
    author.push()
    author.wait(lambda: told.of(bad) == ["failed"], lambda: f"failed is to be told, there is {told.told}")
    late = world.release("turns-bad", "Turns bad", window_s=WINDOW_S)
    author.push()
    author.wait(lambda: told.of(late) == ["deployed"], lambda: f"deployed is to be told, there is {told.told}")
    world.turn(late)
    author.wait(lambda: told.of(late) == ["deployed", "rolled_back"], lambda: f"rolled back, there is {told.told}")
    (back,) = [one for one in told.told if one["event"] == "rolled_back"]
    assert f"rolled back to {good[:7]}" in str(back["message"])

    told.is_down = True
    assert world.command("hold", "--reason", "wait").returncode == 0
    waits = world.release("ok", "Waits")
    author.push()
    author.await_status(waits, "pending", says="held")
    assert world.command("unhold").returncode == 0
    world.await_serving(waits)
    author.await_status(waits, "success", says="live since")
    author.wait(lambda: told.refused > 1, lambda: "the receiver is to be asked again")
    assert told.of(waits) == []
    assert "not sent yet" in " ".join(world.command("status").stdout.split())
    told.is_down = False
    author.wait(
        lambda: sorted(told.of(waits)) == ["deployed", "held"], lambda: f"both are to come, there is {told.told}"
    )
    ids = [one["id"] for one in told.told]
    assert len(ids) == len(set(ids))
    log = (world.root.parent / f"{world.root.name}.up.log").read_text()
    assert SECRET.decode() not in log
