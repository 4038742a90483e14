"""A gate of an instance that the supervisor keeps: an unmodified app proves itself by owning its socket."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
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
        runtime.watch(rung.set)
        assert rung.wait(15)
        yield runtime
        process.terminate()
        process.wait(20)


def judge(runtime: EmbeddedRuntime, folder: Path, *argv: str, port: int) -> Verdict:
    runtime.start(
        ProcessSpec(
            unit="main-a",
            generation=1,
            argv=argv,
            working_directory=folder,
            environment={"PORT": str(port)},
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
        fact=lambda: next((f for f in runtime.observe() if f.unit == "main-a"), None),
        error_line=lambda: (folder / "log").read_text(errors="replace").strip().rpartition("\n")[2],
    )
    gate = Gate(start_timeout_s=15.0)
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
