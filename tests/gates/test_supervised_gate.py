"""A gate of an instance that the supervisor keeps: an unmodified app proves itself by owning its socket."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.development.embedded_runtime import EmbeddedRuntime
from controller.effects.runtime import ProcessSpec
from controller.loop.gate_threads import GateOrder, GateThreads, Instance
from controller.model.config import Gate
from controller.model.names import MAIN, Layout, Sha
from controller.model.nouns import Verdict
from controller.model.states import Outcome

CHECKOUT = Path(__file__).resolve().parents[2]
RELEASE = Sha("a" * 40)


@pytest.fixture
def runtime(short_dir: Path) -> Iterator[EmbeddedRuntime]:
    rung = threading.Event()
    runtime = EmbeddedRuntime(short_dir / "s", Layout(short_dir, short_dir))
    command = [sys.executable, "-m", "controller.development.supervisor"]
    with subprocess.Popen(
        [*command, "--socket", str(short_dir / "s"), "--state", str(short_dir / "state")], cwd=CHECKOUT
    ) as process:
        try:
            runtime.watch(rung.set)
            assert rung.wait(60)
            yield runtime
        finally:
            process.terminate()
            process.wait(20)


def judge(runtime: EmbeddedRuntime, folder: Path, *argv: str, port: int, start_timeout_s: float = 15.0) -> Verdict:
    runtime.start(
        ProcessSpec(
            unit="main-a",
            generation=1,
            argv=argv,
            working_directory=folder,
            environment={"PORT": str(port), "HOST": "127.0.0.1"},
            log_file=folder / "log",
        )
    )
    told: list[Verdict] = []
    ended = threading.Event()

    def record(verdict: Verdict, _proof: str, _took_s: float) -> None:
        told.append(verdict)
        ended.set()

    instance = Instance(
        address=f"127.0.0.1:{port}",
        nonce="",
        process_ids=lambda: runtime.process_ids("main-a", 1),
        strangers=lambda: runtime.strangers_at("main-a", 1, f"127.0.0.1:{port}"),
        told=f"127.0.0.1:{port}",
        listens=lambda: runtime.listeners("main-a", 1),
        beside=lambda: tuple(one for one in runtime.listeners("main-b", 1) if not one.endswith(f":{port}")),
        fact=lambda: next((f for f in runtime.observe() if f.unit == "main-a"), None),
        error_line=lambda: (folder / "log").read_text(errors="replace").strip().rpartition("\n")[2],
    )
    gate = Gate(start_timeout_s=start_timeout_s)
    order = GateOrder(
        slot=MAIN, generation=1, release=RELEASE, gate=gate, instance=instance, url="http://app.localhost"
    )
    assert GateThreads(record).start_gate(order)
    assert ended.wait(25)
    return told[0]


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_an_unmodified_app_passes(runtime: EmbeddedRuntime, short_dir: Path, port: int) -> None:
    argv = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "$PORT")

    assert judge(runtime, short_dir, *argv, port=port).outcome is Outcome.PASS


def test_an_app_behind_a_launcher_that_forked_it_away_passes(
    runtime: EmbeddedRuntime, short_dir: Path, port: int
) -> None:
    script = f"setsid {sys.executable} -m http.server --bind 127.0.0.1 {port} & wait"

    assert judge(runtime, short_dir, "sh", "-c", script, port=port).outcome is Outcome.PASS


def test_an_app_whose_port_is_taken_is_not_to_blame(runtime: EmbeddedRuntime, short_dir: Path, port: int) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        argv = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "$PORT")
        verdict = judge(runtime, short_dir, *argv, port=port)

    assert (verdict.reason, verdict.blames_release) == ("NotOurs", False)


def test_an_app_that_exits_at_once_is_told_with_its_code_and_last_line(
    runtime: EmbeddedRuntime, short_dir: Path, port: int
) -> None:
    verdict = judge(runtime, short_dir, "sh", "-c", "echo no config; exit 7", port=port)

    assert (verdict.reason, verdict.blames_release) == ("InstanceExited", True)
    assert "exited with 7" in verdict.message
    assert "no config" in verdict.message


LISTENS = """
import os, socket, sys, time
PORT = int(os.environ["PORT"])
family, host, port, only = sys.argv[1:]
listener = socket.socket(getattr(socket, family))
if only:
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only))
listener.bind((host, PORT + int(port)))
listener.listen()
while True:
    connection, _ = listener.accept()
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
    connection.close()
"""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("AF_INET6", "::1", "0", ""), "it listens at [::1]:{port}: bind HOST (127.0.0.1)"),
        (("AF_INET6", "::", "0", "1"), "it listens at [::]:{port}: bind HOST (127.0.0.1)"),
        (("AF_INET", "127.0.0.2", "0", ""), "it listens at 127.0.0.2:{port}: bind HOST (127.0.0.1)"),
        (("AF_INET", "127.0.0.1", "1", ""), "it listens at 127.0.0.1:{other}: bind PORT ({port})"),
        (("AF_INET6", "::1", "1", ""), "it listens at [::1]:{other}: bind PORT ({port})"),
    ],
)
def test_an_app_that_listens_elsewhere_is_told_where(
    runtime: EmbeddedRuntime, short_dir: Path, port: int, words: tuple[str, ...], told: str
) -> None:
    verdict = judge(runtime, short_dir, sys.executable, "-c", LISTENS, *words, port=port, start_timeout_s=1.5)

    assert verdict.reason == "NeverBound"
    assert told.format(port=port, other=port + 1) in verdict.message


@pytest.mark.parametrize(
    ("words", "exposed"),
    [
        (("AF_INET", "127.0.0.1", "0", ""), ""),
        (("AF_INET", "0.0.0.0", "0", ""), "0.0.0.0:{port}"),
        (("AF_INET6", "::", "0", "0"), "[::]:{port}"),
    ],
)
def test_an_app_on_all_interfaces_passes_and_that_is_noted(
    runtime: EmbeddedRuntime, short_dir: Path, port: int, words: tuple[str, ...], exposed: str
) -> None:
    verdict = judge(runtime, short_dir, sys.executable, "-c", LISTENS, *words, port=port)

    assert verdict.outcome is Outcome.PASS
    assert verdict.message.endswith(exposed.format(port=port))
    assert bool(verdict.message) is bool(exposed)


def test_a_second_port_that_what_serves_holds_is_named(runtime: EmbeddedRuntime, short_dir: Path, port: int) -> None:
    serves = (sys.executable, "-c", LISTENS, "AF_INET", "127.0.0.1", "1", "")
    runtime.start(
        ProcessSpec(
            unit="main-b", generation=1, argv=serves, working_directory=short_dir,
            environment={"PORT": str(port)}, log_file=short_dir / "log-b",
        )
    )  # fmt: skip
    deadline = time.monotonic() + 15
    while not runtime.listeners("main-b", 1) and time.monotonic() < deadline:
        time.sleep(0.02)
    verdict = judge(runtime, short_dir, *serves, port=port)

    assert verdict.reason == "InstanceExited"
    assert f"exited with 1: 127.0.0.1:{port + 1} is in use by what serves" in verdict.message
    assert "Address already in use" in verdict.message


def test_a_program_that_goes_to_the_background_is_told_to_stay(
    runtime: EmbeddedRuntime, short_dir: Path, port: int
) -> None:
    verdict = judge(runtime, short_dir, "sh", "-c", "sleep 60 & exit 0", port=port)

    assert (verdict.reason, verdict.blames_release) == ("InstanceExited", True)
    assert "exited with 0: it must stay in the foreground" in verdict.message


@pytest.mark.parametrize(
    ("program", "body", "mode", "told"),
    [
        ("nodee", None, 0, "cannot start nodee: no program of that name is in PATH"),
        ("./gone.sh", None, 0, "cannot start ./gone.sh: there is no such file"),
        ("./run.sh", b"#!/bin/sh\r\nexec x\r\n", 0o755, "its first line #!/bin/sh ends with \\r (CRLF line endings)"),
        ("./run.sh", b"#!/usr/bin/env sh\r\nexec x\r\n", 0o755, "its first line #!/usr/bin/env sh ends with \\r (CRLF"),
        ("./run.sh", b"#!/usr/bin/nodee --x\n", 0o755, "its first line names /usr/bin/nodee, which is not there"),
        ("./run.sh", b"#!/bin/sh\nexec x\n", 0o644, "no right to execute it"),
        ("./run.sh", b"\xef\xbb\xbf#!/bin/sh\n", 0o755, "it begins with a byte order mark"),
        ("./run.sh", b"exec x\n", 0o755, "its first line must begin with #!"),
        ("./run.sh", b"", 0o755, "its first line must begin with #!"),
        ("./", None, 0, "it is a folder"),
    ],
)
def test_a_program_that_cannot_be_started_is_told_why(
    runtime: EmbeddedRuntime, short_dir: Path, port: int, program: str, body: bytes | None, mode: int, told: str
) -> None:
    if body is not None:
        (short_dir / program).write_bytes(body)
        (short_dir / program).chmod(mode)
    verdict = judge(runtime, short_dir, program, port=port)

    assert (verdict.reason, verdict.blames_release) == ("InstanceExited", True)
    assert told in verdict.message
