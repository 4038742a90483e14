"""A gate against real processes on real sockets: nothing passes that is not the new release itself."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from controller.loop.gate_threads import GateOrder, GateThreads, Instance, StaticFile, WatchOrder
from controller.model.config import Gate
from controller.model.names import MAIN, Sha
from controller.model.nouns import ProcessFact, Verdict
from controller.model.states import Outcome, ProcessState

SERVERS = Path(__file__).with_name("servers.py")
RELEASE = Sha("a" * 40)
NONCE = "5" * 32
GATE = Gate(start_timeout_s=2.0, probe_timeout_s=0.5, window_s=1.0, window_failures=3)
ECHO = Gate(start_timeout_s=2.0, probe_timeout_s=0.5, proof="echo")
Run = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def run(port: int) -> Iterator[Run]:
    started: list[subprocess.Popen[bytes]] = []

    def start(kind: str, *, wait: bool = True, release: str = RELEASE, nonce: str = NONCE) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, str(SERVERS), kind, str(port)],
            stdout=subprocess.PIPE,
            env={**os.environ, "OROBOROS_RELEASE": release, "OROBOROS_NONCE": nonce},
        )
        started.append(process)
        if wait:
            assert process.stdout is not None
            process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def instance_of(process: subprocess.Popen[bytes], port: int, *, log: str = "") -> Instance:
    def fact() -> ProcessFact:
        code = process.poll()
        return ProcessFact(
            unit="main-a",
            generation=1,
            state=ProcessState.RUNNING if code is None else ProcessState.EXITED,
            exit_code=code,
            started_at=datetime.now(UTC),
        )

    return Instance(
        address=f"127.0.0.1:{port}",
        nonce=NONCE,
        process_ids=lambda: frozenset([process.pid]),
        fact=fact,
        last_log_line=lambda: log,
    )


def judge(instance: Instance, gate: Gate = GATE) -> tuple[Verdict, str]:
    """Run one gate to its end."""
    told: list[tuple[Verdict, str]] = []
    ended = threading.Event()

    def record(verdict: Verdict, proof: str) -> None:
        told.append((verdict, proof))
        ended.set()

    order = GateOrder(slot=MAIN, generation=1, release=RELEASE, gate=gate, instance=instance)
    assert GateThreads(record).start_gate(order)
    assert ended.wait(15)
    return told[0]


def test_the_very_process_passes_and_the_level_of_proof_is_told(run: Run, port: int) -> None:
    verdict, proof = judge(instance_of(run("good"), port))

    assert (verdict.outcome, proof) == (Outcome.PASS, "owner")


def test_an_echo_of_release_and_nonce_passes(run: Run, port: int) -> None:
    verdict, proof = judge(instance_of(run("good"), port), ECHO)

    assert (verdict.outcome, proof) == (Outcome.PASS, "echo")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("204", "WrongStatus"),
        ("301", "WrongStatus"),
        ("500", "WrongStatus"),
        ("endless", "GateTimedOut"),
        ("endless-chunked", "GateTimedOut"),
        ("huge", "GateTimedOut"),
        ("hang", "GateTimedOut"),
        ("drip", "GateTimedOut"),
        ("not-http", "GateTimedOut"),
        ("flapping", "Flapping"),
    ],
)
def test_a_bad_answer_never_passes(run: Run, port: int, kind: str, reason: str) -> None:
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    verdict, _ = judge(instance_of(run(kind), port))

    assert (verdict.outcome, verdict.reason) == (Outcome.FAIL, reason)
    assert verdict.blames_release
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 24 << 10


def test_a_process_that_never_binds_times_out(run: Run, port: int) -> None:
    verdict, _ = judge(instance_of(run("never-binds", wait=False), port))

    assert verdict.reason == "GateTimedOut"


def test_a_process_that_binds_and_exits_fails_at_once_with_code_and_last_line(run: Run, port: int) -> None:
    process = run("binds-then-exits")
    time.sleep(0.3)
    verdict, _ = judge(instance_of(process, port, log="cannot find the frobnicator"))

    assert verdict.reason == "InstanceExited"
    assert "7" in verdict.message
    assert "frobnicator" in verdict.message


def test_an_old_process_that_still_answers_does_not_pass_for_the_new_one(run: Run, port: int) -> None:
    run("good", release="f" * 40)
    new = run("never-binds", wait=False)
    verdict, _ = judge(instance_of(new, port))

    assert (verdict.outcome, verdict.reason, verdict.blames_release) == (Outcome.FAIL, "NotOurs", False)


def test_a_squatter_who_copies_the_headers_does_not_pass(run: Run, port: int) -> None:
    """T-H11: right release and nonce, wrong process."""
    run("good")
    new = run("never-binds", wait=False)
    verdict, _ = judge(instance_of(new, port), ECHO)

    assert verdict.reason == "NotOurs"


def test_an_echo_of_another_release_fails_and_names_both(run: Run, port: int) -> None:
    verdict, _ = judge(instance_of(run("old"), port), ECHO)

    assert verdict.reason == "WrongRelease"
    assert "ffff" in verdict.message
    assert "aaaa" in verdict.message


def watch(order: WatchOrder) -> list[Verdict]:
    told: list[Verdict] = []
    ended = threading.Event()

    def record(verdict: Verdict, _proof: str) -> None:
        told.append(verdict)
        if verdict.kind == "watch":
            ended.set()

    assert GateThreads(record).start_watch(order)
    assert ended.wait(15)
    return told


def order_for(instance: Instance | None, port: int, *, static: tuple[StaticFile, ...] = ()) -> WatchOrder:
    return WatchOrder(
        slot=MAIN,
        generation=1,
        release=RELEASE,
        gate=GATE,
        instance=instance,
        static=static,
        doors=((f"127.0.0.1:{port}", "app.localhost"),),
        window_left_s=1.0,
    )


def test_a_window_confirms_then_passes(run: Run, port: int) -> None:
    told = watch(order_for(instance_of(run("good"), port), port))

    assert [(v.kind, v.outcome) for v in told] == [("confirm", Outcome.PASS), ("watch", Outcome.PASS)]


def test_a_window_fails_when_the_instance_dies(run: Run, port: int) -> None:
    process = run("good")
    threading.Timer(0.4, process.kill).start()
    told = watch(order_for(instance_of(process, port), port))

    assert told[-1].outcome is Outcome.FAIL
    assert told[-1].reason == "InstanceExited"


def test_a_static_release_must_answer_its_own_bytes(run: Run, port: int) -> None:
    run("good")
    other = StaticFile(url_path="/style.css", sha256="0" * 64)
    told = watch(order_for(None, port, static=(other,)))

    assert told[-1].reason == "WindowFailed"
    assert "style.css" in told[-1].message


def test_a_cancelled_gate_says_nothing(run: Run, port: int) -> None:
    told: list[Verdict] = []
    gates = GateThreads(lambda verdict, _proof: told.append(verdict))
    process = run("never-binds", wait=False)
    gates.start_gate(
        GateOrder(slot=MAIN, generation=1, release=RELEASE, gate=GATE, instance=instance_of(process, port))
    )
    gates.cancel(MAIN, 1)
    deadline = time.monotonic() + 5
    while gates.running() and time.monotonic() < deadline:
        time.sleep(0.01)

    assert told == []
    assert gates.running() == frozenset()
