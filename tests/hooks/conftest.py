"""The receiver, in this process or as a process of its own, on a real Postgres and a real Redis."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from starlette.applications import Starlette

from controller.doors.api_server import build_app
from controller.model.config import read_settings
from tests.hooks.deliveries import REPOSITORY, SECRET

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def secrets_file(tmp_path: Path) -> Path:
    file = tmp_path / "webhook-secrets"
    file.write_bytes(SECRET + b"\n")
    return file


@pytest.fixture
def environment(postgres_url: str, redis_url: str, secrets_file: Path, tmp_path: Path) -> dict[str, str]:
    return {
        "DATABASE_URL": postgres_url,
        "REDIS_URL": redis_url,
        "OROBOROS_ROOT": str(tmp_path / "root"),
        "OROBOROS_REPOSITORY": REPOSITORY,
        "OROBOROS_WEBHOOK_SECRETS_FILE": str(secrets_file),
    }


@pytest.fixture
def app(environment: dict[str, str]) -> Starlette:
    return build_app(read_settings(environment))


@dataclass
class Api:
    """A running `oroboros api`."""

    process: subprocess.Popen[bytes]
    port: int
    log_file: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def rss_bytes(self, line: str = "VmRSS") -> int:
        for status in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if status.startswith(f"{line}:"):
                return int(status.split()[1]) << 10
        raise AssertionError(f"no {line} of a running process")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


def start_api(environment: dict[str, str], log_file: Path, *, code: str | None = None) -> Api:
    """Start an api on a socket that was bound before it, so that no port is guessed."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(2_048)
        port = int(listening.getsockname()[1])
        serve = code or (
            "import os, sys\n"
            "from controller.doors.api_server import serve\n"
            "from controller.model.config import read_settings\n"
            "sys.exit(serve(read_settings(os.environ), port=0, fd=int(sys.argv[1])))\n"
        )
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", serve, str(listening.fileno())],
                cwd=CHECKOUT,
                env={**os.environ, **environment},
                pass_fds=[listening.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
    return Api(process, port, log_file)


def stop_api(api: Api) -> None:
    if api.process.poll() is None:
        api.process.send_signal(signal.SIGTERM)
    try:
        api.process.wait(timeout=15)
    finally:
        api.process.kill()
        api.process.wait()


@pytest.fixture
def api(environment: dict[str, str], tmp_path: Path) -> Iterator[Api]:
    """A running api; its log must tell of no error of its own in the end."""
    running = start_api(environment, tmp_path / "api.log")
    with ExitStack() as stack:
        stack.callback(stop_api, running)
        until(lambda: b"200" in _health(running), patience_s=20)
        yield running
    assert "Traceback" not in running.log, running.log
    assert running.process.returncode == 0, running.log


def _health(api: Api) -> bytes:
    with api.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return connection.recv(64)


def until(is_so: Callable[[], bool], *, patience_s: float = 10.0) -> None:
    deadline = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < deadline, f"not so within {patience_s:g} s"
        time.sleep(0.02)


@dataclass
class Rows:
    """The table of deliveries, as a test looks at it."""

    url: str

    def query(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(statement.encode(), values).fetchall()

    def count(self) -> int:
        (row,) = self.query("SELECT count(*) FROM deliveries")
        assert isinstance(row[0], int)
        return row[0]

    def execute(self, statement: str, *values: object) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.encode(), values)


@pytest.fixture
def rows(postgres_url: str) -> Rows:
    return Rows(postgres_url)
