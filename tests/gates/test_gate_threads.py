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
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from controller.effects.probe import ask, strangers_at
from controller.loop.gate_threads import GateOrder, GateThreads, Instance, StaticFile, WatchOrder
from controller.model.config import Gate
from controller.model.errors import Unavailable
from controller.model.names import MAIN, Sha
from controller.model.nouns import ProcessFact, Verdict
from controller.model.states import Outcome, ProcessState

SERVERS = Path(__file__).with_name("servers.py")
RELEASE = Sha("a" * 40)
NONCE = "5" * 32
GATE = Gate(start_timeout_s=0.8, probe_timeout_s=0.3, window_s=1.0, window_failures=3)
ECHO = Gate(start_timeout_s=2.0, probe_timeout_s=0.3, proof="echo")
Run = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def run(port: int) -> Iterator[Run]:
    started: list[subprocess.Popen[bytes]] = []

    def start(
        kind: str, *, wait: bool = True, release: str = RELEASE, nonce: str = NONCE, where: str = ""
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, str(SERVERS), kind, where or str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
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


def instance_of(
    process: subprocess.Popen[bytes], port: int, *, log: str = "", address: str = "", away: str = ""
) -> Instance:
    def fact() -> ProcessFact:
        code = process.poll()
        return ProcessFact(
            unit="main-a",
            generation=1,
            state=ProcessState.RUNNING if code is None else ProcessState.EXITED,
            exit_code=code,
            started_at=datetime.now(UTC),
        )

    where = address or f"127.0.0.1:{port}"

    def process_ids() -> frozenset[int]:
        return frozenset([process.pid] if process.poll() is None else [])

    return Instance(
        address=where,
        nonce=NONCE,
        process_ids=process_ids,
        strangers=lambda: strangers_at(where, process_ids),
        fact=fact,
        last_log_line=lambda: log,
        part_away=lambda: away,
    )


def judge(
    instance: Instance, gate: Gate = GATE, *, before_pass: Callable[[], None] = lambda: None
) -> tuple[Verdict, str]:
    """Run one gate to its end."""
    told: list[tuple[Verdict, str]] = []
    ended = threading.Event()
    began = time.monotonic()

    def record(verdict: Verdict, proof: str, took_s: float) -> None:
        assert 0 < took_s <= time.monotonic() - began
        told.append((verdict, proof))
        ended.set()

    order = GateOrder(slot=MAIN, generation=1, release=RELEASE, gate=gate, instance=instance, before_pass=before_pass)
    assert GateThreads(record).start_gate(order)
    assert ended.wait(15)
    return told[0]


def test_the_very_process_passes_and_the_level_of_proof_is_told(run: Run, port: int) -> None:
    verdict, proof = judge(instance_of(run("good"), port))

    assert (verdict.outcome, proof) == (Outcome.PASS, "owner")


def test_what_is_to_be_found_out_before_a_switch_is_done_once_it_passed_and_never_else(run: Run, port: int) -> None:
    done: list[str] = []
    good = run("good")
    verdict, _ = judge(instance_of(good, port), before_pass=lambda: done.append("asked"))
    assert (verdict.outcome, done) == (Outcome.PASS, ["asked"])
    good.kill()
    good.wait()
    verdict, _ = judge(instance_of(run("old"), port), ECHO, before_pass=lambda: done.append("asked again"))
    assert (verdict.outcome, done) == (Outcome.FAIL, ["asked"])


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
        ("drip-head", "GateTimedOut"),
        ("endless-head", "GateTimedOut"),
        ("only-announced", "GateTimedOut"),
        ("cut", "GateTimedOut"),
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


@pytest.mark.parametrize("kind", ["announced", "chunked"])
def test_an_unusual_but_whole_answer_passes(run: Run, port: int, kind: str) -> None:
    verdict, _ = judge(instance_of(run(kind), port), ECHO)

    assert verdict.outcome is Outcome.PASS


def test_a_process_that_never_binds_is_told_so(run: Run, port: int) -> None:
    verdict, _ = judge(instance_of(run("never-binds", wait=False), port))

    assert verdict.reason == "NeverBound"
    assert verdict.blames_release
    assert f"127.0.0.1:{port}" in verdict.message


def test_a_machine_that_stood_still_does_not_use_up_the_time_to_start(run: Run, port: int) -> None:
    instance = instance_of(run("good"), port)
    stands_still = iter([4.0])

    def fact() -> ProcessFact | None:
        # As if all stood still: the first look takes longer than the whole gate may.
        time.sleep(next(stands_still, 0.0))
        return instance.fact()

    verdict, _ = judge(replace(instance, fact=fact), Gate(start_timeout_s=3.0, probe_timeout_s=0.3))

    assert verdict.outcome is Outcome.PASS


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


def test_an_app_that_ends_because_its_port_is_taken_is_not_to_blame(run: Run, port: int) -> None:
    run("good")
    new = run("good", wait=False)
    new.wait(10)
    verdict, _ = judge(instance_of(new, port, log="Address already in use"))

    assert (verdict.reason, verdict.blames_release) == ("NotOurs", False)
    assert "exited with 1" in verdict.message
    assert "already in use" in verdict.message


def test_a_squatter_beside_the_release_on_the_same_port_is_found(run: Run, port: int) -> None:
    """SO_REUSEPORT: the kernel would send some requests to either."""
    new = run("shared")
    squatter = run("shared")
    verdict, _ = judge(instance_of(new, port), ECHO)

    assert (verdict.reason, verdict.blames_release) == ("NotOurs", False)
    assert f"process {squatter.pid} " in verdict.message


def test_a_listener_on_another_address_is_no_squatter(run: Run, port: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.2", port))
        other.listen()
        verdict, _ = judge(instance_of(run("good"), port))

    assert verdict.outcome is Outcome.PASS


def test_a_unix_socket_passes_whatever_the_path_was_when_it_was_bound(run: Run, port: int, short_dir: Path) -> None:
    new = run("good", where=str(short_dir / "new"))
    (short_dir / "new").rename(short_dir / "app")
    verdict, proof = judge(instance_of(new, port, address=f"unix/{short_dir}/app"))

    assert (verdict.outcome, proof) == (Outcome.PASS, "owner")


def test_a_socket_that_was_moved_over_the_path_does_not_pass(run: Run, port: int, short_dir: Path) -> None:
    new = run("good", where=str(short_dir / "app"))
    squatter = run("good", where=str(short_dir / "other"))
    (short_dir / "other").rename(short_dir / "app")
    verdict, _ = judge(instance_of(new, port, address=f"unix/{short_dir}/app"))

    assert (verdict.reason, verdict.blames_release) == ("NotOurs", False)
    assert f"process {squatter.pid} " in verdict.message


def test_a_doubled_proof_proves_nothing(run: Run, port: int) -> None:
    verdict, _ = judge(instance_of(run("doubled"), port), ECHO)

    assert verdict.reason == "WrongRelease"


def test_an_instance_that_somebody_else_stopped_is_not_to_blame(run: Run, port: int) -> None:
    process = run("never-binds", wait=False)
    process.terminate()
    process.wait()
    verdict, _ = judge(instance_of(process, port))

    assert (verdict.reason, verdict.blames_release) == ("InstanceExited", False)


def test_an_instance_whose_database_is_away_is_not_to_blame(run: Run, port: int) -> None:
    away = "its database does not answer"
    process = run("never-binds", wait=False)
    process.kill()
    process.wait()
    verdict, _ = judge(instance_of(process, port, away=away))

    assert (verdict.reason, verdict.blames_release) == ("InstanceExited", False)
    assert away in verdict.message


def test_a_runtime_that_does_not_answer_is_not_the_release(run: Run, port: int) -> None:
    def away() -> ProcessFact | None:
        raise Unavailable("RuntimeAway", "the supervisor does not answer")

    verdict, _ = judge(replace(instance_of(run("good"), port), fact=away))

    assert (verdict.outcome, verdict.reason, verdict.blames_release) == (Outcome.FAIL, "RuntimeAway", False)


def test_an_instance_that_the_host_lost_is_not_to_blame(run: Run, port: int) -> None:
    verdict, _ = judge(replace(instance_of(run("good"), port), fact=lambda: None))

    assert (verdict.reason, verdict.blames_release) == ("InstanceLost", False)


def test_an_echo_of_another_release_fails_and_names_both(run: Run, port: int) -> None:
    verdict, _ = judge(instance_of(run("old"), port), ECHO)

    assert verdict.reason == "WrongRelease"
    assert "ffff" in verdict.message
    assert "aaaa" in verdict.message


def watch(order: WatchOrder) -> list[Verdict]:
    told: list[Verdict] = []
    ended = threading.Event()

    def record(verdict: Verdict, _proof: str, _took_s: float) -> None:
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
    gates = GateThreads(lambda verdict, _proof, _took_s: told.append(verdict))
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


def test_a_window_whose_time_passed_while_no_worker_ran_is_judged_by_probes_of_its_own(run: Run, port: int) -> None:
    told = watch(replace(order_for(instance_of(run("good"), port), port), window_left_s=0.0))

    assert [(v.kind, v.outcome) for v in told] == [("confirm", Outcome.PASS), ("watch", Outcome.PASS)]


def test_a_window_waits_for_our_own_doors(run: Run, port: int) -> None:
    """A surface that is restarted is not the release's failure."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        door = probe.getsockname()[1]
    order = order_for(instance_of(run("good"), port), port)
    opened = threading.Timer(1.5, lambda: run("good", where=str(door)))
    opened.start()
    told = watch(replace(order, doors=(*order.doors, (f"127.0.0.1:{door}", "app.localhost"))))
    opened.join()

    assert [(v.kind, v.outcome) for v in told] == [("confirm", Outcome.PASS), ("watch", Outcome.PASS)]


def test_a_release_that_turns_bad_in_its_window_fails(run: Run, port: int) -> None:
    told = watch(order_for(instance_of(run("flapping"), port), port))

    assert told[-1].kind == "watch"
    assert told[-1].outcome is Outcome.FAIL
    assert told[-1].blames_release


def test_a_gate_runs_once_however_often_it_is_begun(run: Run, port: int) -> None:
    process = run("never-binds", wait=False)
    gates = GateThreads(lambda _verdict, _proof, _took_s: None)
    order = GateOrder(slot=MAIN, generation=7, release=RELEASE, gate=GATE, instance=instance_of(process, port))

    assert [gates.start_gate(order), gates.start_gate(order)] == [True, False]
    assert gates.running() == {("gate", MAIN, 7)}
    gates.cancel(MAIN, 7)


def test_paths_that_could_carry_a_request_of_their_own_are_not_asked_for(run: Run, port: int) -> None:
    run("good")

    assert "no path" in ask(f"127.0.0.1:{port}", "/a HTTP/1.1\r\nX: y", host="h", timeout_s=1).problem
    assert ask(f"127.0.0.1:{port}", "/a", host="h", timeout_s=1).status == 200


def test_a_body_in_chunks_is_read_whole(run: Run, port: int) -> None:
    run("chunked")

    assert ask(f"127.0.0.1:{port}", "/", host="h", timeout_s=2).body == b"0\r\n\r\nabcde"
