"""The embedded runtime with real processes: generations, limits, strays, adoption, and nothing left."""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from controller.development.embedded_runtime import EmbeddedRuntime
from controller.development.keeper import write_json
from controller.development.supervisor import Supervisor, Unit
from controller.effects.runtime import ProcessSpec
from controller.model.errors import Unavailable
from controller.model.names import JOB_NOT_PREPARED, MAIN, Layout
from controller.model.nouns import ProcessFact
from controller.model.states import ProcessState

CHECKOUT = Path(__file__).resolve().parents[2]


class Host:
    """One supervisor, its client, and a mark by which everything that it ever started is found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = secrets.token_hex(16)
        self.runtime = EmbeddedRuntime(folder / "s", Layout(folder, folder))
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, *more: str) -> list[str]:
        return [
            *(sys.executable, "-m", "controller.development.supervisor"),
            *("--socket", str(self.folder / "s"), "--state", str(self.folder / "state"), *more),
        ]

    def start_supervisor(self) -> None:
        with (self.folder / "supervisor.log").open("ab") as log:
            self.process = subprocess.Popen(self.command(), cwd=CHECKOUT, stderr=log)
        self.wait(self.answers)

    def kill_supervisor(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def wait_for_line(self, unit: str, text: str) -> None:
        self.wait(lambda: self.log(unit).exists() and text in self.log(unit).read_text())

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
        return ProcessSpec(
            unit=unit,
            generation=generation,
            argv=("/bin/sh", "-c", script, "sh", "$WORD"),
            working_directory=self.folder,
            environment={"TEST_MARK": self.mark, "WORD": "two words"},
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


def test_no_value_of_its_environment_reaches_a_log_whole_split_or_cut(host: Host) -> None:
    secret, login = "s3cr3t/with'every\"sign", "postgres://app:pa%2Fss-w0rd@/shop?host=/run"
    script = """
      echo "bad key: $KEY"; echo "cannot reach $DATABASE_URL"; printf '%s' "$KEY" | base64
      printf 'asked '; sleep 0.6; printf 's3cr3t/wi'; sleep 0.6; printf "th'every\\"sign and on\\n"
      printf 'cut: '; printf '%s' "$KEY" | head -c 17
      printf '\\n%070000d%s\\n' 0 "$KEY"; echo "in $MODE, port $NUMBER"
    """
    (host.folder / "script").write_text(script)
    spec = host.spec("build-main", 1, ". ./script")
    environment = {**spec.environment, "KEY": secret, "DATABASE_URL": login, "MODE": "production", "NUMBER": "3000"}
    host.runtime.start(replace(spec, environment=environment))
    host.wait_for_line("build-main", "asked")  # a line that has not ended shows
    host.wait(lambda: host.has_ended("build-main"))

    lines = host.log("build-main").read_text().splitlines()
    assert lines[:3] == ["bad key: [secret]", "cannot reach postgres://app:[secret]@/shop?host=/run", "[secret]g=="]
    assert lines[3:5] == ["asked [secret] and on", "cut: [secret]"]
    assert lines[5:] == ["0" * 70_000 + "[secret]", "in production, port 3000"]


def a_build(host: Host, script: str, *, files: int = 0, generation: int = 1) -> ProcessSpec:
    release = host.folder / "release"
    if not release.exists():
        (release / "many").mkdir(parents=True)
        (release / "page").write_text("page")
        for number in range(files):
            (release / "many" / str(number)).write_text(str(number))
    spec = host.spec("build-main", generation, script)
    return replace(spec, working_directory=host.folder / "builds" / "made", copy_of=release)


def test_a_build_that_is_ordered_again_keeps_its_folder_while_it_runs_and_after_it(host: Host) -> None:
    spec = a_build(host, "echo begun; while test ! -e ../go; do sleep 0.01; done; cp page built", files=1_000)
    for _ in range(100):
        host.runtime.start(spec)
    host.wait_for_line("build-main", "begun")
    for _ in range(100):
        host.runtime.start(spec)
    (spec.working_directory.parent / "go").touch()
    host.wait(lambda: host.has_ended("build-main"))
    for _ in range(100):
        host.runtime.start(spec)

    fact = host.fact("build-main")
    assert fact is not None
    assert fact.exit_code == 0, host.log("build-main").read_text()
    assert (spec.working_directory / "built").read_text() == "page"
    assert host.log("build-main").read_text() == "begun\n"


def test_a_later_build_in_the_same_folder_waits_until_the_earlier_has_ended(host: Host) -> None:
    first = a_build(host, "trap '' TERM; echo begun; while :; do cp page \"late-$(date +%N)\"; sleep 0.01; done")
    host.runtime.start(first)
    host.wait_for_line("build-main", "begun")
    host.runtime.start(a_build(host, "cp page built", generation=2))
    host.wait(lambda: host.has_ended("build-main", 2))

    assert {path.name for path in first.working_directory.iterdir()} == {"many", "page", "built"}


def test_a_stop_reaches_a_build_that_is_still_copied(host: Host) -> None:
    host.runtime.start(a_build(host, "echo begun", files=3_000))
    host.wait(lambda: (host.folder / "builds" / "made").exists())
    host.runtime.stop("build-main", 1, grace_s=0.0)
    host.wait(lambda: host.fact("build-main") is None)


def test_a_build_whose_files_cannot_be_made_says_so_by_its_code(host: Host) -> None:
    (host.folder / "builds").write_text("no folder")
    host.runtime.start(a_build(host, "true"))
    host.wait(lambda: host.has_ended("build-main"))

    fact = host.fact("build-main")
    assert fact is not None
    assert fact.exit_code == JOB_NOT_PREPARED
    assert "DiskRefused" in host.log("build-main").read_text()


def test_an_instance_that_is_ordered_again_keeps_the_environment_that_it_has(host: Host) -> None:
    spec = host.spec("main-a", 1, "echo begun; while :; do sleep 1; done")
    host.runtime.start(spec)
    host.runtime.start(replace(spec, environment={**spec.environment, "OROBOROS_NONCE": "another"}))

    assert host.runtime.environment("main-a") == spec.environment


def test_a_job_that_ended_before_anybody_looked_has_ended(tmp_path: Path) -> None:
    """On a busy machine a quick keeper is gone before its supervisor can read when it began."""
    write_json(tmp_path / "exit.json", {"code": 9, "timed_out": False, "ended_at": time.time()})
    unit = Unit(name="build-main", generation=1, folder=tmp_path, mark="", started_at=time.time(), keeper=gone_pid())
    Supervisor(state=tmp_path, selector=selectors.DefaultSelector()).look_at(unit)

    assert unit.ended
    assert unit.exit_code == 9


def gone_pid() -> int:
    """Return the id of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        return process.pid


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
            environment=spec.environment,
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
        EmbeddedRuntime(short_dir / "nobody", Layout(short_dir)).observe()


def running(command_line: str) -> list[int]:
    """Return the processes whose command line holds this: for those that dropped every mark."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ")
                if command_line.encode() in words and int(name) != os.getpid():
                    found.append(int(name))
    return found


def test_a_stray_without_any_mark_ends_with_its_unit(host: Host) -> None:
    stray = f"sleep 9{secrets.randbelow(10**8):08d}"
    script = (
        f"(setsid env -i sh -c 'trap \"\" TERM; exec {stray}' </dev/null >/dev/null 2>&1 &); echo up; exec sleep 60"
    )
    host.runtime.start(host.spec("main-a", 1, script))
    host.wait(lambda: bool(running(stray)))
    host.runtime.stop("main-a", 1, grace_s=0.2)
    host.wait(lambda: host.fact("main-a") is None)

    assert running(stray) == []


def test_a_stray_without_any_mark_ends_also_when_its_keeper_is_killed(host: Host) -> None:
    stray = f"sleep 9{secrets.randbelow(10**8):08d}"
    script = (
        f"(setsid env -i sh -c 'trap \"\" TERM; exec {stray}' </dev/null >/dev/null 2>&1 &); echo up; exec sleep 60"
    )
    host.runtime.start(host.spec("main-a", 1, script))
    host.wait(lambda: bool(running(stray)))
    fact = host.fact("main-a")
    assert fact is not None
    assert fact.pid is not None
    os.kill(fact.pid, signal.SIGKILL)
    host.wait(lambda: host.has_ended("main-a"))

    assert running(stray) == []


def test_a_keeper_killed_while_no_supervisor_runs_leaves_nothing_behind(host: Host) -> None:
    host.runtime.start(host.spec("main-a", 1, STRAY + "echo up; sleep 60"))
    host.wait_for_line("main-a", "up")
    fact = host.fact("main-a")
    assert fact is not None
    assert fact.pid is not None
    host.kill_supervisor()
    os.kill(fact.pid, signal.SIGKILL)
    host.start_supervisor()
    host.wait(lambda: host.has_ended("main-a"))

    assert host.marked() == []


def test_a_limit_holds_while_no_supervisor_runs(host: Host) -> None:
    host.runtime.start(host.spec("build-main", 1, "echo up; sleep 60", limit_s=0.4))
    host.wait_for_line("build-main", "up")
    host.kill_supervisor()
    host.wait(lambda: host.marked() == [])
    host.start_supervisor()
    host.wait(lambda: host.has_ended("build-main"))

    fact = host.fact("build-main")
    assert fact is not None
    assert fact.timed_out


def test_a_unit_that_was_never_begun_is_not_adopted_and_can_be_started(host: Host) -> None:
    host.kill_supervisor()
    folder = host.folder / "state" / "main-a.1.abc"
    folder.mkdir()
    (folder / "unit.json").write_text('{"unit": "main-a", "generation": 1, "mark": "m", "started_at": 1.0}')
    host.start_supervisor()

    assert host.fact("main-a") is None
    host.runtime.start(host.spec("main-a", 1, "echo up; sleep 60"))
    host.wait_for_line("main-a", "up")


def test_a_start_of_an_older_generation_is_refused(host: Host) -> None:
    host.runtime.start(host.spec("main-a", 5, "sleep 60"))
    with pytest.raises(Unavailable, match="StaleGeneration"):
        host.runtime.start(host.spec("main-a", 4, "sleep 60"))

    assert [fact.generation for fact in host.runtime.observe()] == [5]


def test_a_newer_generation_begins_when_nothing_of_the_older_is_left(host: Host) -> None:
    """Both have the same address: side by side, the newer could not have it."""
    host.runtime.start(host.spec("main-a", 1, STRAY + "mkdir held; echo up; while :; do sleep 0.05; done"))
    host.wait_for_line("main-a", "up")
    older = set(host.marked())
    assert len(older) >= 2
    script = f"for p in {' '.join(map(str, older))}; do [ -d /proc/$p ] && echo alive; done; echo newer; sleep 60"
    host.runtime.start(host.spec("main-a", 2, script))
    host.wait_for_line("main-a", "newer")

    assert "alive" not in host.log("main-a").read_text()
    assert [fact.generation for fact in host.runtime.observe()] == [2]


def test_a_second_supervisor_of_the_same_state_refuses(host: Host) -> None:
    second = subprocess.run(host.command(), cwd=CHECKOUT, capture_output=True, text=True, timeout=20, check=False)

    assert second.returncode == 1
    assert "another supervisor" in second.stderr
    assert host.answers()


def test_a_client_that_says_nothing_keeps_nobody_waiting(host: Host) -> None:
    silent = [socket.socket(socket.AF_UNIX) for _ in range(80)]
    try:
        for one in silent:
            one.connect(str(host.folder / "s"))
        silent[-1].sendall(b'{"op": "obs')
        began = time.monotonic()
        host.runtime.observe()
        assert time.monotonic() - began < 1.5  # the client itself would give up at 2
    finally:
        for one in silent:
            one.close()


@pytest.mark.parametrize(
    "request_", [b"", b"[]\n", b"nonsense\n", b'{"op": "start"}\n', b'{"op": "stop"}\n', b"[" * 100_000 + b"\n"]
)
def test_nonsense_is_answered_with_an_error_or_not_at_all(host: Host, request_: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(5)
        one.connect(str(host.folder / "s"))
        one.sendall(request_)
        one.shutdown(socket.SHUT_WR)
        answer = one.recv(65_536)

    assert answer == b"" or b'"error"' in answer
    assert host.answers()


@pytest.mark.parametrize("unit", ["../x", "a/b", "", "-x", "a" * 65, "A"])
def test_a_unit_that_would_leave_the_state_folder_is_refused(host: Host, unit: str) -> None:
    with pytest.raises(Unavailable, match="BadOrder"):
        host.runtime.start(replace(host.spec("main-a", 1, "exit 0"), unit=unit))


def test_the_socket_is_for_us_alone(host: Host) -> None:
    assert stat.S_IMODE((host.folder / "s").stat().st_mode) == 0o600


def test_a_process_of_a_unit_is_not_answered(host: Host) -> None:
    script = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect('" + str(host.folder / "s") + "');"
        's.sendall(b\'{"op": "observe"}\\n\'); print(s.recv(1000).decode())'
    )
    (host.folder / "ask.py").write_text(script)
    host.runtime.start(host.spec("preview-1-a", 1, f"{sys.executable} ask.py"))
    host.wait(lambda: host.has_ended("preview-1-a"))

    assert "NotForUnits" in host.log("preview-1-a").read_text()


def test_an_end_rings_also_when_somebody_else_saw_it_first(host: Host) -> None:
    rung = threading.Event()
    host.runtime.watch(rung.set)
    host.wait(rung.is_set)
    for generation in range(1, 6):
        rung.clear()
        host.runtime.start(host.spec("build-main", generation, "exit 0"))
        host.wait(partial(host.has_ended, "build-main", generation))
        assert rung.wait(5)


def test_a_log_that_never_ends_is_bounded_and_its_end_kept(host: Host) -> None:
    host.runtime.start(host.spec("build-main", 1, "yes | head -c 60000000; echo; echo the end"))
    host.wait(lambda: host.has_ended("build-main"))

    text = host.log("build-main").read_bytes()
    assert len(text) <= (8 << 20) + 100
    assert text.startswith(b"oroboros: older lines were cut\ny\n")
    assert text.endswith(b"the end\n")


def test_values_of_the_environment_arrive_byte_for_byte_and_expand_only_once(host: Host) -> None:
    spec = host.spec("build-main", 1, '(printf "%s|" "$1"; printenv ODD EMPTY) | od -An -v -tx1')
    value = b"a=b \"'$HOME `id`\r\t\xff\xc3\xa4 #"
    environment = {**spec.environment, "ODD": os.fsdecode(value), "EMPTY": ""}
    host.runtime.start(replace(spec, environment=environment, argv=(*spec.argv[:-1], "${ODD}${NOT_THERE}")))
    host.wait(lambda: host.has_ended("build-main"))

    told = bytes.fromhex(host.log("build-main").read_text())
    assert told == value + b"${NOT_THERE}|" + value + b"\n\n"


def test_an_app_has_no_capability_no_file_of_ours_and_no_core(host: Host) -> None:
    script = "grep CapEff /proc/self/status; ls -l /proc/self/fd; ulimit -c; cut -d' ' -f19 /proc/self/stat; echo $HOME"
    host.runtime.start(host.spec("build-preview-1", 1, script))
    host.wait(lambda: host.has_ended("build-preview-1"))

    lines = host.log("build-preview-1").read_text().splitlines()
    assert lines[0].split() == ["CapEff:", "0000000000000000"]
    targets = [line.split(" -> ")[1] for line in lines if " -> " in line]
    # Its log is not open in it: what it writes goes through a pipe.
    assert targets[0] == "/dev/null"
    assert targets[1] == targets[2]
    assert targets[1].startswith("pipe:")
    assert len([t for t in targets if not t.startswith("/proc/")]) == 3
    assert lines[-3] == "0"
    assert int(lines[-2]) >= 10
    assert lines[-1] == str(host.folder)


def test_a_home_is_the_slots_data_and_not_the_release(host: Host) -> None:
    spec = host.spec("build-main", 1, "echo $HOME")
    (host.folder / "data").mkdir()
    host.runtime.start(replace(spec, environment={"OROBOROS_DATA": f"{host.folder}/data"}))
    host.wait(lambda: host.has_ended("build-main"))

    assert host.log("build-main").read_text() == f"{host.folder}/data\n"


def test_the_data_folder_of_production_is_there_private_and_kept_from_release_to_release(host: Host) -> None:
    data = Layout(host.folder, host.folder).slot_data(MAIN)
    for generation in (1, 2):
        spec = host.spec("main-a", generation, "echo $OROBOROS_RELEASE >>$OROBOROS_DATA/uploads; cat $OROBOROS_DATA/*")
        values = {**spec.environment, "OROBOROS_DATA": str(data), "OROBOROS_RELEASE": f"release {generation}"}
        host.runtime.start(replace(spec, environment=values))
        host.wait(partial(host.has_ended, "main-a", generation))

    assert host.log("main-a").read_text().splitlines() == ["release 1", "release 1", "release 2"]
    assert stat.S_IMODE(data.stat().st_mode) == 0o700


def test_an_app_that_kills_its_group_ends_alone(host: Host) -> None:
    host.runtime.start(host.spec("main-a", 1, "kill -9 0"))
    host.wait(lambda: host.has_ended("main-a"))

    fact = host.fact("main-a")
    assert fact is not None
    assert fact.exit_code == -9
    assert "was killed" not in (host.folder / "supervisor.log").read_text()  # the keeper lived on


def test_the_walls_that_are_missing_are_told(host: Host) -> None:
    told = " ".join(host.runtime.limitations())

    assert all(word in told for word in ("memory", "network", "one user"))
    assert ("root" in told) == (os.geteuid() == 0)


def test_everything_ends_with_the_parent_that_was_named(short_dir: Path) -> None:
    host = Host(short_dir)
    with (
        subprocess.Popen(["sleep", "60"]) as parent,
        subprocess.Popen(host.command("--parent-pid", str(parent.pid)), cwd=CHECKOUT) as supervisor,
    ):
        host.wait(host.answers)
        host.runtime.start(host.spec("main-a", 1, STRAY + "echo up; exec sleep 60"))
        host.wait_for_line("main-a", "up")
        parent.kill()
        parent.wait()
        assert supervisor.wait(20) == 0

    assert host.marked() == []
