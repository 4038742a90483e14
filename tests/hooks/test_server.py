"""The api as a process of its own: what strangers with sockets can do to it, and what restarts around it cost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import httpx
import pytest

from controller.development.parts import Part, prepare_postgres
from controller.effects.store import migrate
from tests.hooks.conftest import CHECKOUT, Api, Rows, start_api, stop_api, until
from tests.hooks.deliveries import PATH, deliver, headers, push

MIB = 1 << 20


def request_head(given: list[tuple[str, str]], *more: str) -> bytes:
    lines = [f"POST {PATH} HTTP/1.1", "Host: receiver", *(f"{name}: {value}" for name, value in given), *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def delivered(api: Api, body: bytes | None = None) -> tuple[int, str]:
    body = push() if body is None else body
    answer = httpx.post(f"{api.url}{PATH}", content=body, headers=headers(body), timeout=20)
    return answer.status_code, answer.json().get("state") or answer.json()["error"]


def test_an_endless_chunked_body_is_refused_and_costs_little_memory(api: Api) -> None:
    assert delivered(api) == (202, "accepted")
    before = api.rss_bytes()
    api.forget_peak()
    chunk = b"%x\r\n" % 65_536 + b"x" * 65_536 + b"\r\n"
    answer, sent = b"", 0
    with api.connect() as connection:
        connection.sendall(request_head(headers(b"whatever"), "Transfer-Encoding: chunked"))
        connection.setblocking(False)
        deadline = time.monotonic() + 30
        # It goes on sending after the answer, until it is thrown out.
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < deadline:
                with contextlib.suppress(BlockingIOError):
                    sent += connection.send(chunk[sent % len(chunk) :])
                with contextlib.suppress(BlockingIOError):
                    if not (piece := connection.recv(4096)):
                        break
                    answer += piece
            else:
                pytest.fail("never thrown out")

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert sent < 100 * MIB
    assert api.rss_bytes("VmHWM") - before < 8 * MIB
    assert delivered(api) == (202, "accepted")


def test_endless_heads_chunk_frames_and_trailers_are_cut_off(api: Api) -> None:
    good = headers(b"{}")
    before = api.rss_bytes()
    api.forget_peak()
    chunked = request_head(good, "Transfer-Encoding: chunked")
    for start, again in (
        (b"GET /", b"a" * 65_536),
        (f"POST {PATH} HTTP/1.1\r\n".encode(), b"X-More: " + b"a" * 65_526 + b"\r\n"),
        (f"POST {PATH} HTTP/1.1\r\nX-Long: ".encode(), b"a" * 65_536),
        (chunked + b"2\r\n{}\r\n0\r\nX-Trailer: ", b"a" * 65_536),
        (chunked + b"2\r\n{}\r\n0\r\n", b"X-Trailer: " + b"a" * 65_523 + b"\r\n"),
        (chunked + b"2;", b"extension" * 8_000),
    ):
        sent = 0
        with api.connect() as connection, contextlib.suppress(ConnectionError):
            connection.sendall(start)
            while sent < 64 * MIB:
                connection.sendall(again)
                sent += len(again)
        assert sent < 64 * MIB, start[:20]
    assert api.rss_bytes("VmHWM") - before < 16 * MIB
    assert delivered(api) == (202, "accepted")


@pytest.mark.parametrize(
    "raw",
    [
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://evil.example HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /%ff%00/../ HTTP/1.1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"POST /webhooks/github HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /webhooks/github HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /webhooks/github HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /webhooks/github HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\n{}",
        request_head([("X-Hub-Signature-256", "a"), ("X-Hub-Signature-256", "b")], "Content-Length: 0"),
        b"POST /webhooks/github HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
    ],
    ids=lambda raw: repr(raw[:40]),
)
def test_odd_requests_are_never_a_5xx(api: Api, raw: bytes) -> None:
    with api.connect() as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(4096):
                answer += piece
    assert not answer or answer.split(b" ", 2)[1][:1] == b"4", answer
    assert delivered(api) == (202, "accepted")


def test_a_hundred_large_unsigned_bodies_at_once_hinder_no_delivery(api: Api) -> None:
    unsigned = b"x" * (5 * MIB)
    wrong = headers(b"other bytes")
    missing = [pair for pair in wrong if not pair[0].startswith("X-Hub")]

    async def story() -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=api.url, timeout=60, limits=limits) as client:

            async def attack(given: list[tuple[str, str]]) -> int:
                try:
                    return (await client.post(PATH, content=unsigned, headers=given)).status_code
                except httpx.TransportError:
                    return 0  # cut off while it was still sending

            attacks = [asyncio.create_task(attack(missing if n % 2 else wrong)) for n in range(100)]
            real = []
            while not all(task.done() for task in attacks):
                real.append((await deliver(client, push())).status_code)
                await asyncio.sleep(0.02)
            assert set(real) == {202}
            statuses = {task.result() for task in attacks}
            assert statuses <= {0, 401, 503}, statuses
            assert 401 in statuses

    before = api.rss_bytes()
    api.forget_peak()
    asyncio.run(story())
    # 500 MB came in; what may be in flight is capped, and most of that is on the disk.
    assert api.rss_bytes("VmHWM") - before < 96 * MIB


def test_two_thousand_half_open_connections_hinder_no_delivery(api: Api) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4_096) if hard > 0 else 4_096, hard))
    good = request_head(headers(b"{}"), "Content-Length: 1000")
    beginnings = (b"", b"POST /webhooks/git", f"POST {PATH} HTTP/1.1\r\nX-Slow: ".encode(), good, good + b"{")
    try:
        with contextlib.ExitStack() as stack:
            half_open = []
            for n in range(2_000):
                connection = stack.enter_context(api.connect())
                connection.sendall(beginnings[n % len(beginnings)])
                half_open.append(connection)
                if n % 200 == 0:
                    assert delivered(api) == (202, "accepted")
            for _ in range(20):
                assert delivered(api) == (202, "accepted")

            def is_closed(connection: socket.socket) -> bool:
                connection.setblocking(False)
                try:
                    while connection.recv(4096):
                        pass
                except BlockingIOError:
                    return False
                except ConnectionError:
                    return True
                return True

            def drips() -> bool:
                # Another byte now and then buys no more time.
                for connection in half_open[2::5]:
                    with contextlib.suppress(OSError):
                        connection.send(b"x")
                return all(is_closed(connection) for connection in half_open)

            until(drips, patience_s=30)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_same_id_on_eight_connections_is_one_row(api: Api, rows: Rows) -> None:
    body, delivery = push(), str(uuid.uuid4())

    async def story() -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(httpx.AsyncClient(base_url=api.url)) for _ in range(8)]
            answers = await asyncio.gather(*(deliver(client, body, delivery=delivery) for client in clients))
            assert {(answer.status_code, answer.json()["state"]) for answer in answers} == {(202, "accepted")}

    asyncio.run(story())

    assert rows.query("SELECT id, seen_count FROM deliveries") == [(delivery, 8)]


def test_what_was_accepted_is_there_after_the_receiver_was_killed(
    environment: dict[str, str], tmp_path: Path, rows: Rows
) -> None:
    accepted: set[str] = set()

    async def story(api: Api) -> None:
        enough = asyncio.Event()
        async with httpx.AsyncClient(base_url=api.url) as client:

            async def load() -> None:
                with contextlib.suppress(httpx.TransportError):
                    while True:
                        answer = await deliver(client, push())
                        assert answer.status_code == 202
                        accepted.add(answer.json()["delivery"])
                        if len(accepted) == 200:
                            enough.set()

            loads = [asyncio.create_task(load()) for _ in range(16)]
            await asyncio.wait_for(enough.wait(), timeout=30)
            api.process.kill()
            await asyncio.gather(*loads)

    api = start_api(environment, tmp_path / "api.log")
    try:
        asyncio.run(story(api))
    finally:
        api.process.kill()
        api.process.wait()

    assert accepted <= {row[0] for row in rows.query("SELECT id FROM deliveries")}


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_postgres_that_is_frozen_killed_and_started_again(
    environment: dict[str, str], tmp_path: Path, short_dir: Path
) -> None:
    postgres = prepare_postgres(data=short_dir / "pg", run=short_dir / "run")
    with Part(postgres.spec) as part:
        url = postgres.url()
        migrate(url)
        api = start_api(environment | {"DATABASE_URL": url}, tmp_path / "api.log")
        try:
            until(lambda: delivered(api) == (202, "accepted"))
            assert part.pid is not None
            frozen = [part.pid, *children_of(part.pid)]
            for pid in frozen:
                os.kill(pid, signal.SIGSTOP)
            began = time.monotonic()
            assert delivered(api) == (503, "InboxAway")
            assert time.monotonic() - began < 5
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
            until(lambda: delivered(api) == (202, "accepted"))

            part.kill()
            assert delivered(api) == (503, "InboxAway")
            part.start()
            until(lambda: delivered(api) == (202, "accepted"))
            until(lambda: httpx.get(f"{api.url}/health").status_code == 200)
        finally:
            stop_api(api)
    assert "Traceback" not in api.log


def test_it_exits_with_2_and_a_clear_message_when_it_may_not_start(
    environment: dict[str, str], secrets_file: Path
) -> None:
    def exit_of(*arguments: str, **changes: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "controller.doors.api_server", *arguments],
            cwd=CHECKOUT,
            env={**os.environ, **environment, **changes},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.returncode, done.stderr

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, said = exit_of("--port", str(taken.getsockname()[1]))
    assert (code, "\nPortBusy: api port" in f"\n{said}") == (2, True), said
    secrets_file.write_text("changeme\n")
    code, said = exit_of("--port", "0")
    assert (code, said.startswith("WebhookSecretInvalid: ")) == (2, True), said


def test_health_is_json(api: Api) -> None:
    answer = httpx.get(f"{api.url}/health")

    assert (answer.status_code, json.loads(answer.content)) == (200, {"status": "ok"})
