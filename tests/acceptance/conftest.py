"""A whole stack for each module, as `oroboros up` makes it, and an author who uses it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import pytest

from controller.development.armed import ARM_SIGNAL, FAILPOINT_FILE
from controller.development.author import PATIENCE_S, Author
from controller.doors.stacks import open_runtime
from controller.effects.live import read_live
from controller.effects.stack_files import read_stack
from controller.model.config import read_settings
from controller.model.errors import Unavailable
from controller.model.names import MAIN, instance_unit
from tests.conftest import claim_port_offset, remove_tree

CHECKOUT = Path(__file__).resolve().parents[2]
LOG_LINES_SHOWN = 60
#: A window that a slow machine does not outlast before a test has turned what serves.
WINDOW_S = 60.0
START_TIMEOUT_S = 20
WAITS = "waits:"
#: As long as a test may need until it lets such a release go.
WAITING_TIMEOUT_S = 120
APP = Path(__file__).resolve().parent / "app"
RECIPE = """
[api]
command = "python3 -u app.py"

[gate]
window_s = {window_s}
start_timeout_s = {start_timeout_s}

[production]
drain_s = 0.2
"""


@dataclass
class World:
    """A running stack and its author."""

    root: Path
    stack: dict[str, object]
    author: Author
    process: subprocess.Popen[bytes]

    def release(self, behaviour: str, title: str, *, window_s: float = 1.0) -> str:
        """Commit an app that behaves so; return the sha."""
        for file in APP.iterdir():
            if file.is_file():
                shutil.copyfile(file, self.author.clone / file.name)
        (self.author.clone / "behaviour").write_text(behaviour + "\n")
        (self.author.clone / "title").write_text(title + "\n")  # another title is another tree
        start_timeout_s = WAITING_TIMEOUT_S if behaviour.startswith(WAITS) else START_TIMEOUT_S
        recipe = RECIPE.format(window_s=window_s, start_timeout_s=start_timeout_s)
        (self.author.clone / "deploy.toml").write_text(recipe)
        return self.author.commit(title)

    def waiting(self) -> tuple[str, Path]:
        """Return a behaviour, and the file without which a release that behaves so does not start."""
        file = self.root / f"go-{time.monotonic_ns()}"
        return f"{WAITS}{file}", file

    @property
    def run(self) -> Path:
        """The folder of sockets, and of what the parts tell each other."""
        return Path(json.loads((self.root / "environment.json").read_text())["OROBOROS_RUN"])

    def pids(self) -> dict[str, int]:
        """Return the process that each part is; one that is about to be started again is not there."""
        parts: dict[str, int | None] = json.loads((self.run / "parts.json").read_text())
        return {name: pid for name, pid in parts.items() if pid is not None}

    def arm(self, name: str, **more: object) -> Path:
        """Have the worker die at the failpoint `name`, or what `more` says; return the file that is gone once it is
        armed for the last time."""
        path = self.run / FAILPOINT_FILE
        path.write_text(json.dumps({"command": "worker", "name": name, **more}))
        # One that is just being started reads the file by itself.
        with contextlib.suppress(ProcessLookupError, KeyError):
            os.kill(self.pids()["worker"], ARM_SIGNAL)
        return path

    def kill(self, part: str) -> None:
        os.kill(self.pids()[part], signal.SIGKILL)

    def signal_instance(self, number: signal.Signals) -> None:
        """Send a signal to what serves production, as somebody with a shell would."""
        settings = read_settings(json.loads((self.root / "environment.json").read_text()))
        live = read_live(settings.layout, MAIN)
        assert live is not None
        assert live.colour is not None
        for pid in open_runtime(settings).process_ids(instance_unit(MAIN, live.colour), live.generation):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if b"app.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, number)

    def turn(self, sha: str) -> None:
        """Have a release of production that waits for it turn bad, or exit, once it serves."""
        self.await_serving(sha)
        headers = {"Host": self.author.host(MAIN)}
        answer = httpx.post(f"http://127.0.0.1:{self.author.edge_port}/", headers=headers, timeout=10, trust_env=False)
        assert (answer.status_code, answer.text) == (200, sha)

    def end_of_log(self) -> str:
        """Return what the worker did last: a test that fails shows it."""
        return "\n".join(logs_of(self.root)["worker.log"].splitlines()[-LOG_LINES_SHOWN:])

    def rows(self, statement: str, *parameters: object) -> list[tuple[object, ...]]:
        with psycopg.connect(str(self.stack["database_url"])) as connection:
            return connection.execute(statement, parameters).fetchall()  # type: ignore[arg-type]

    def serves(self, slot: str = "main") -> str:
        """Return the release that answers at a slot's URL, "" when none does."""
        status, body = self.author.get(slot, "/")
        return body.decode() if status == 200 else ""

    def await_serving(self, sha: str, slot: str = "main", *, timeout_s: float = PATIENCE_S) -> None:
        self.author.wait(
            lambda: self.serves(slot) == sha,
            lambda: f"{slot} is to serve {sha[:7]}, it serves {self.serves(slot)[:7]!r}",
            timeout_s=timeout_s,
        )

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run an `oroboros` command on this stack."""
        return subprocess.run(
            [sys.executable, "-m", "controller.doors.cli", "--root", str(self.root), *words],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def bring_up(
    root: Path,
    *,
    port_offset: int,
    resync_s: float = 4,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a stack; return once its stack file is there."""
    options = ["--root", str(root), "--port-base", str(port_offset), "--resync", str(resync_s)]
    with (root.parent / f"{root.name}.up.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "controller.doors.cli", "up", *options],
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, (root.parent / f"{root.name}.up.log").read_text()[-2000:]
        try:
            read_stack(root)
            return process
        except Unavailable:
            time.sleep(0.05)
    process.kill()
    raise AssertionError("the stack did not come up")


def bring_down(process: subprocess.Popen[bytes]) -> None:
    """End a stack as Ctrl-C would."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def remove_stack(root: Path) -> None:
    """Remove what a stack that was brought down has left."""
    remove_tree(root)
    (root.parent / f"{root.name}.up.log").unlink(missing_ok=True)


def logs_of(root: Path) -> dict[str, str]:
    """Return what each part of a stack has logged, by the log's name."""
    logs = {log.name: log.read_text(errors="replace") for log in sorted((root / "log").glob("*.log"))}
    assert "worker.log" in logs
    return logs


@contextmanager
def open_world(*, resync_s: float = 4, environment: Mapping[str, str] | None = None) -> Iterator[World]:
    """Bring a stack up, yield it with its author, and leave nothing of it."""
    root = Path(tempfile.mkdtemp(prefix="oro-acc-"))
    # Claimed, not only free: the ports of instances have no listener most of the time.
    with claim_port_offset() as port_offset:
        process = bring_up(root, port_offset=port_offset, resync_s=resync_s, environment=environment)
        author = None
        try:
            stack = read_stack(root)
            author = Author(stack, token_file=root / "etc" / "forge-token", while_waiting=lambda: None)
            yield World(root=root, stack=stack, author=author, process=process)
        finally:
            if author is not None:
                author.close()
            bring_down(process)
            remove_stack(root)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_world() as world:
        yield world
