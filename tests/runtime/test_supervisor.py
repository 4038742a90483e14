"""The embedded runtime with real processes: generations, limits, strays, adoption, and nothing left."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controller.development.embedded_runtime import EmbeddedRuntime
from controller.effects.runtime import ProcessSpec
from controller.model.errors import Unavailable
from controller.model.nouns import ProcessFact
from controller.model.states import ProcessState

CHECKOUT = Path(__file__).resolve().parents[2]


class Host:
    """One supervisor, its client, and a mark by which everything that it ever started is found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = secrets.token_hex(16)
        self.runtime = EmbeddedRuntime(folder / "s")
        self.process: subprocess.Popen[bytes] | None = None

    def start_supervisor(self) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "controller.development.supervisor"),
                *("--socket", str(self.folder / "s"), "--state", str(self.folder / "state")),
            ],
            cwd=CHECKOUT,
        )
        self.wait(self.answers)

    def answers(self) -> bool:
        with contextlib.suppress(Unavailable):
            self.runtime.observe()
            return True
        return False

    def wait(self, there: Callable[[], bool], *, timeout_s: float = 15.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not there():
            assert time.monotonic() < deadline, self.runtime.observe()
            time.sleep(0.01)

    def spec(self, unit: str, generation: int, script: str, *, limit_s: float | None = None) -> ProcessSpec:
        environment = self.folder / f"{unit}.env"
        environment.write_text(f"TEST_MARK={self.mark}\nWORD=two words\n")
        return ProcessSpec(
            unit=unit,
            generation=generation,
            argv=("/bin/sh", "-c", script, "sh", "$WORD"),
            working_directory=self.folder,
            environment_file=environment,
            log_file=self.log(unit),
            time_limit_s=limit_s,
        )

    def log(self, unit: str) -> Path:
        return self.folder / f"{unit}.log"

    def fact(self, unit: str, generation: int = 1) -> ProcessFact | None:
        facts = self.runtime.observe()
        return next((f for f in facts if (f.unit, f.generation) == (unit, generation)), None)

    def has_ended(self, unit: str, generation: int = 1) -> bool:
        fact = self.fact(unit, generation)
        return fact is not None and fact.state is ProcessState.EXITED

    def marked(self) -> list[int]:
        needle = f"TEST_MARK={self.mark}".encode()
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError):
                    if needle in Path(f"/proc/{name}/environ").read_bytes():
                        found.append(int(name))
        return found


@pytest.fixture
def host(short_dir: Path) -> Iterator[Host]:
    host = Host(short_dir)
    host.start_supervisor()
    yield host
    assert host.process is not None
    host.process.terminate()
    host.process.wait(20)
    assert host.marked() == []


STRAY = (
    "trap '' TERM; (setsid sh -c 'trap \"\" TERM HUP; exec >/dev/null 2>&1 </dev/null; while :; do sleep 1; done' &) ; "
)


def test_a_job_ends_with_its_exit_code_and_its_log(host: Host) -> None:
    host.runtime.start(host.spec("build-main", 1, 'echo "$1"; echo bad >&2; exit 3'))
    host.wait(lambda: host.has_ended("build-main"))

    fact = host.fact("build-main")
    assert fact is not None
    assert (fact.exit_code, fact.timed_out) == (3, False)
    assert host.log("build-main").read_text() == "two words\nbad\n"


def test_a_job_that_runs_into_its_limit_is_killed_with_all_that_it_started(host: Host) -> None:
    host.runtime.start(host.spec("build-main", 1, STRAY + "sleep 60", limit_s=0.3))
    host.wait(lambda: host.has_ended("build-main"))

    fact = host.fact("build-main")
    assert fact is not None
    assert fact.timed_out
    assert host.marked() == []


def test_what_an_ended_job_left_behind_is_ended(host: Host) -> None:
    host.runtime.start(host.spec("build-main", 1, STRAY + "exit 0"))
    host.wait(lambda: host.has_ended("build-main"))

    assert host.marked() == []


def test_a_command_that_is_not_there_fails_with_a_line_in_the_log(host: Host) -> None:
    spec = host.spec("build-main", 1, "")
    host.runtime.start(
        ProcessSpec(
            unit=spec.unit,
            generation=1,
            argv=("no-such-command",),
            working_directory=spec.working_directory,
            environment_file=spec.environment_file,
            log_file=spec.log_file,
        )
    )
    host.wait(lambda: host.has_ended("build-main"))

    fact = host.fact("build-main")
    assert fact is not None
    assert fact.exit_code == 127
    assert "no-such-command" in host.log("build-main").read_text()


def test_the_same_unit_and_generation_is_started_once(host: Host) -> None:
    spec = host.spec("main-a", 1, "echo started; sleep 60")
    for _ in range(3):
        host.runtime.start(spec)
    host.wait(lambda: host.log("main-a").exists() and "started" in host.log("main-a").read_text())
    time.sleep(0.2)

    assert host.log("main-a").read_text() == "started\n"


def test_a_stop_of_another_generation_changes_nothing(host: Host) -> None:
    host.runtime.start(host.spec("main-a", 5, "sleep 60"))
    host.runtime.stop("main-a", 4, grace_s=0)
    host.runtime.stop("main-a", 6, grace_s=0)
    time.sleep(0.2)

    fact = host.fact("main-a", 5)
    assert fact is not None
    assert fact.state is ProcessState.RUNNING


def test_a_newer_generation_ends_the_older(host: Host) -> None:
    host.runtime.start(host.spec("main-a", 1, "sleep 60"))
    host.runtime.start(host.spec("main-a", 2, "sleep 60"))
    host.wait(lambda: host.fact("main-a", 1) is None)

    fact = host.fact("main-a", 2)
    assert fact is not None
    assert fact.state is ProcessState.RUNNING


def test_a_stop_lets_the_app_end_by_itself_within_its_grace(host: Host) -> None:
    host.runtime.start(host.spec("main-a", 1, "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done"))
    host.wait(lambda: host.log("main-a").exists() and "up" in host.log("main-a").read_text())
    host.runtime.stop("main-a", 1, grace_s=5)
    host.wait(lambda: host.fact("main-a") is None)

    assert "bye" in host.log("main-a").read_text()


def test_an_app_that_ignores_the_request_is_killed_with_its_strays(host: Host) -> None:
    host.runtime.start(host.spec("main-a", 1, STRAY + "echo up; while :; do sleep 0.05; done"))
    host.wait(lambda: host.log("main-a").exists() and "up" in host.log("main-a").read_text())
    host.runtime.stop("main-a", 1, grace_s=0.3)
    host.wait(lambda: host.fact("main-a") is None)

    assert host.marked() == []


def test_units_live_on_and_are_adopted_when_the_supervisor_is_killed(host: Host) -> None:
    host.runtime.start(host.spec("main-a", 1, "while :; do echo tick; sleep 0.05; done"))
    host.runtime.start(host.spec("build-main", 2, "sleep 0.5; exit 9"))
    host.wait(lambda: len(host.marked()) >= 2)
    pids = host.runtime.process_ids("main-a", 1)
    assert host.process is not None
    host.process.send_signal(signal.SIGKILL)
    host.process.wait()
    time.sleep(0.7)  # the job ends while nobody looks
    before = host.log("main-a").stat().st_size
    host.start_supervisor()

    fact = host.fact("main-a")
    assert fact is not None
    assert fact.state is ProcessState.RUNNING
    assert pids & host.runtime.process_ids("main-a", 1)
    job = host.fact("build-main", 2)
    assert job is not None
    assert job.exit_code == 9
    host.wait(lambda: host.log("main-a").stat().st_size > before)


def test_a_unit_whose_keeper_was_killed_is_seen_as_ended_and_leaves_nothing(host: Host) -> None:
    host.runtime.start(host.spec("main-a", 1, "sleep 60"))
    host.wait(lambda: bool(host.marked()))
    fact = host.fact("main-a")
    assert fact is not None
    assert fact.pid is not None
    os.kill(fact.pid, signal.SIGKILL)
    host.wait(lambda: host.has_ended("main-a"))

    host.wait(lambda: host.marked() == [])


def test_an_end_rings(host: Host) -> None:
    rung = threading.Event()
    host.runtime.watch(rung.set)
    host.wait(rung.is_set)  # once connected
    rung.clear()
    host.runtime.start(host.spec("build-main", 1, "exit 0"))

    assert rung.wait(5)


def test_an_app_has_no_powers_and_nothing_of_our_environment(host: Host) -> None:
    host.runtime.start(
        host.spec("build-main", 1, "id -u; env | sort; ls /proc/self/fd | wc -l; grep NoNew /proc/self/status")
    )
    host.wait(lambda: host.has_ended("build-main"))

    told = host.log("build-main").read_text()
    assert told.splitlines()[0] != "0"
    assert "PYTHONPATH" not in told
    assert "NoNewPrivs:\t1" in told


def test_a_supervisor_that_is_away_is_named(short_dir: Path) -> None:
    with pytest.raises(Unavailable, match="RuntimeAway"):
        EmbeddedRuntime(short_dir / "nobody").observe()
