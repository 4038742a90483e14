"""Does a port lead to the socket as if it were one connection, and is it gone with the process that opened it?"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
#: Opens the door, says so, and becomes another program, as the launcher does.
CALLER = """
import os, sys
from controller.loopback_door import open_door
open_door(int(sys.argv[1]), sys.argv[2])
print("open", flush=True)
os.execvp("sleep", ["sleep", "60"])
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Upper:
    """A server on a Unix socket that answers each piece in capitals, and knows how many have left."""

    def __init__(self, path: Path) -> None:
        self.left = 0
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(100)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                one, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(one,), daemon=True).start()

    def answer(self, one: socket.socket) -> None:
        with one:
            while data := one.recv(65_536):
                one.sendall(data.upper())
        self.left += 1


@pytest.fixture
def server(short_dir: Path) -> Iterator[Upper]:
    server = Upper(short_dir / "s")
    yield server
    server.listener.close()


@pytest.fixture
def port(short_dir: Path, server: Upper) -> Iterator[int]:
    port = free_port()
    words = [sys.executable, "-c", CALLER, str(port), str(short_dir / "s")]
    caller = subprocess.Popen(words, cwd=CHECKOUT, stdout=subprocess.PIPE)
    assert caller.stdout is not None
    assert caller.stdout.readline() == b"open\n"
    yield port
    # The app's own end is asked of every process of its unit; the door stays until the app is gone.
    assert answers(port)
    caller.terminate()
    caller.wait()
    # Nothing holds its output open: who reads it would wait for ever.
    assert caller.stdout.read() == b""
    caller.stdout.close()
    wait_until(lambda: not answers(port))


def exchange(connection: socket.socket, body: bytes) -> bytes:
    threading.Thread(
        target=lambda: (connection.sendall(body), connection.shutdown(socket.SHUT_WR)), daemon=True
    ).start()
    got = bytearray()
    while piece := connection.recv(65_536):
        got += piece
    return bytes(got)


def test_many_at_once_are_served_whole_and_the_end_of_each_is_told(port: int, server: Upper) -> None:
    bodies = [os.urandom(8).hex().encode() * 40_000 for _ in range(8)] + [b"", b"a"]
    got: dict[int, bytes] = {}

    def ask(number: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            got[number] = exchange(connection, bodies[number])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert got == {number: body.upper() for number, body in enumerate(bodies)}
    wait_until(lambda: server.left >= len(bodies))


def test_more_than_it_takes_wait_and_are_served(port: int) -> None:
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(70)]
    for connection in idle[:20]:
        connection.close()

    assert exchange(idle[-1], b"later") == b"LATER"
    for connection in idle:
        connection.close()


def test_a_server_that_is_away_ends_the_connection_and_not_the_door(port: int, server: Upper, short_dir: Path) -> None:
    server.listener.close()
    (short_dir / "s").unlink()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        assert connection.recv(1) == b""
    again = Upper(short_dir / "s")

    with socket.create_connection(("127.0.0.1", port)) as connection:
        assert exchange(connection, b"back") == b"BACK"
    again.listener.close()
