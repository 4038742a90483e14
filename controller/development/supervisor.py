"""The embedded runtime's own process: it starts instances and jobs, ends them, and knows how they ended.

Each unit has a keeper: a fork of this process, without exec, so that it begins in milliseconds. The keeper is a session
and a child subreaper, starts the app, waits for everything that the app left behind, enforces a job's time limit,
bounds the log, and writes how it ended by one rename. So this process may be killed at any moment: its successor reads
the state folder and goes on (a pid counts only together with its start time). Every process of a unit carries a random
mark in its environment, by which strays are found that left their session, their parent and their terminal behind.

Protocol: one JSON object a line over a Unix socket, one answer a line: start, stop, observe, pids, limitations; `watch`
keeps the connection and sends a line whenever a unit ends.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import logging
import os
import re
import resource
import secrets
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

REQUEST_BYTES_MAX = 256 << 10
LOG_BYTES_MAX = 8 << 20
OPEN_FILES_MAX = 4_096
FILE_BYTES_MAX = 4 << 30
PROCESSES_MAX = 4_096
LOOK_EVERY_S = 0.02
KEEPER_LOOK_EVERY_S = 0.05
CLIENT_TIMEOUT_S = 2.0
STOP_GRACE_S = 5.0
#: From <sys/prctl.h>.
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
CLONE_NEWUSER = 0x1000_0000
MARK = "OROBOROS_UNIT_MARK"
SANE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
EXIT_NOT_STARTED = 127

_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")

log = logging.getLogger("supervisor")
libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process; OSError when the kernel refuses."""
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def start_ticks(pid: int) -> int | None:
    """Return when a process began, in clock ticks since boot; None when there is none. pid and this are one process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def expand(word: str, values: Mapping[str, str]) -> str:
    """Replace `$NAME` and `${NAME}` by values; names that are not there stay as they are. No shell."""
    return _VARIABLE.sub(lambda m: values.get(m[1] or m[2], m[0]), word)


def read_environment(path: str) -> dict[str, str]:
    """Read KEY=VALUE lines."""
    values: dict[str, str] = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            key, equals, value = line.rstrip("\n").partition("=")
            if equals and key:
                values[key] = value
    return values


def marked_processes(mark: str, *, among: Iterable[int] | None = None) -> set[int]:
    """Return every process that carries the mark in its environment."""
    needle = f"{MARK}={mark}".encode()
    found = set()
    pids = among if among is not None else (int(name) for name in os.listdir("/proc") if name.isdigit())
    for pid in pids:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if needle in file.read():
                    found.add(pid)
        except OSError:
            continue
    return found


def descendants(pid: int) -> set[int]:
    """Return every process below `pid`."""
    found: set[int] = set()
    pending = [pid]
    while pending:
        one = pending.pop()
        try:
            threads = os.listdir(f"/proc/{one}/task")
            children = [int(c) for t in threads for c in Path(f"/proc/{one}/task/{t}/children").read_text().split()]
        except OSError:
            continue
        for child in children:
            if child not in found:
                found.add(child)
                pending.append(child)
    return found


# -- the keeper: everything below runs in the fork ------------------------------------------------------------------


def keep(spec: Mapping[str, object], mark: str, folder: Path) -> None:
    """Be the keeper of one unit; never returns. `folder` receives `keeper.json` first and `exit.json` last."""
    code, timed_out = EXIT_NOT_STARTED, False
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        os.closerange(3, OPEN_FILES_MAX)
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # ends when what it keeps has ended
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        write_json(folder / "keeper.json", {"pid": os.getpid(), "ticks": start_ticks(os.getpid())})
        log_path = str(spec["log_file"])
        log_fd = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        child = os.fork()
        if child == 0:
            become(spec, mark, log_fd)
        code, timed_out = wait_for_all(child, mark, spec, log_path)
    except (OSError, ValueError, KeyError) as error:
        with contextlib.suppress(OSError), open(str(spec["log_file"]), "a", encoding="utf-8") as file:
            file.write(f"oroboros: could not be kept: {error}\n")
    finally:
        with contextlib.suppress(OSError):
            write_json(folder / "exit.json", {"code": code, "timed_out": timed_out, "ended_at": time.time()})
        os._exit(0)


def become(spec: Mapping[str, object], mark: str, log_fd: int) -> None:
    """Become the app; never returns. No inherited files, no powers, nothing of our environment."""
    try:
        values = read_environment(str(spec["environment_file"]))
        environment = {
            "PATH": SANE_PATH,
            "HOME": str(spec["working_directory"]),
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            **values,
            MARK: mark,
        }
        argv = spec["argv"]
        if not isinstance(argv, list) or not argv:
            raise ValueError("no command")
        words = [expand(str(word), environment) for word in argv]
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(log_fd, 1)
        os.dup2(log_fd, 2)
        os.closerange(3, OPEN_FILES_MAX)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        drop_powers(background=str(spec["unit"]) != "main-a" and str(spec["unit"]) != "main-b")
        os.chdir(str(spec["working_directory"]))
        os.umask(0o027)
        os.execvpe(words[0], words, environment)  # noqa: S606 - no shell is the point
    except (OSError, ValueError, KeyError) as error:
        os.write(2, f"oroboros: cannot start {spec['argv']}: {error}\n".encode("utf-8", "replace"))
    os._exit(EXIT_NOT_STARTED)


def drop_powers(*, background: bool) -> None:
    """Give up what an app must not have. As root: become user 1000 of a user namespace, without any capability over
    the host, who still owns our own files, so that folders of root stay reachable."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = min(OPEN_FILES_MAX, hard) if hard != resource.RLIM_INFINITY else OPEN_FILES_MAX
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, FILE_BYTES_MAX))
    if background:
        os.nice(5)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("500")
    if os.geteuid() == 0:
        uid, gid = os.geteuid(), os.getegid()
        if libc.unshare(CLONE_NEWUSER) != 0:
            raise OSError(ctypes.get_errno(), "unshare: no user namespace; run as a normal user instead")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"1000 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"1000 {gid} 1")
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def wait_for_all(child: int, mark: str, spec: Mapping[str, object], log_path: str) -> tuple[int, bool]:
    """Wait until the app and everything that it left behind has ended; return its exit code and whether it was killed
    for its time. What an app leaves behind is ended with it."""
    limit = spec.get("time_limit_s")
    deadline = None if limit is None else time.monotonic() + float(str(limit))
    code: int | None = None
    timed_out = False
    kill_at: float | None = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            if code is None:
                code = EXIT_NOT_STARTED
            strays = marked_processes(mark) - {os.getpid()}
            if not strays:
                return code, timed_out
            send(strays, signal.SIGKILL)
            time.sleep(LOOK_EVERY_S)
            continue
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            kill_at = time.monotonic() + 1.0
            send(descendants(os.getpid()), signal.SIGTERM)
        if pid == 0:
            now = time.monotonic()
            if deadline is not None and now > deadline and not timed_out:
                timed_out, kill_at = True, now + STOP_GRACE_S
                send(descendants(os.getpid()), signal.SIGTERM)
            if kill_at is not None and now > kill_at:
                send(descendants(os.getpid()) | (marked_processes(mark) - {os.getpid()}), signal.SIGKILL)
            bound_log(log_path)
            # Returns at once when a child ends.
            signal.sigtimedwait({signal.SIGCHLD}, LOOK_EVERY_S if code is not None else KEEPER_LOOK_EVERY_S)


def bound_log(path: str) -> None:
    """Cut a log that has grown too large: its newest half stays."""
    try:
        if os.stat(path).st_size <= LOG_BYTES_MAX:
            return
        with open(path, "r+b") as file:
            file.seek(-LOG_BYTES_MAX // 2, os.SEEK_END)
            tail = file.read()
            file.seek(0)
            file.truncate()
            file.write(b"oroboros: older lines were cut\n" + tail)
    except OSError:
        return


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Signal processes; those that are gone are fine."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def write_json(path: Path, value: object) -> None:
    """Replace a small file by one rename."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    temporary.write_text(json.dumps(value))
    os.replace(temporary, path)


# -- the supervisor ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Unit:
    """One unit of one generation, running or ended."""

    name: str
    generation: int
    folder: Path
    mark: str
    started_at: float
    keeper: int | None = None
    keeper_ticks: int | None = None
    exit_code: int | None = None
    timed_out: bool = False
    ended_at: float | None = None
    stopping: bool = False
    kill_at: float | None = None

    @property
    def ended(self) -> bool:
        return self.ended_at is not None

    def processes(self) -> set[int]:
        """Return the app's processes, without the keeper."""
        if self.ended or self.keeper is None:
            return set()
        found = descendants(self.keeper)
        return found or (marked_processes(self.mark) - {self.keeper})


@dataclass(slots=True)
class Supervisor:
    """All units of one stack."""

    state: Path
    units: dict[tuple[str, int], Unit] = field(default_factory=dict)
    watchers: list[socket.socket] = field(default_factory=list)

    def adopt(self) -> None:
        """Take over what an earlier supervisor started."""
        for folder in sorted(self.state.iterdir()):
            try:
                known = json.loads((folder / "unit.json").read_text())
                unit = Unit(
                    name=str(known["unit"]),
                    generation=int(known["generation"]),
                    folder=folder,
                    mark=str(known["mark"]),
                    started_at=float(known["started_at"]),
                )
            except (OSError, ValueError, KeyError):
                remove_folder(folder)
                continue
            self.units[unit.name, unit.generation] = unit
            self.look_at(unit)

    def look_at(self, unit: Unit) -> None:
        """Learn from the state folder how a unit is."""
        if unit.ended:
            return
        if unit.keeper is None:
            with contextlib.suppress(OSError, ValueError):
                keeper = json.loads((unit.folder / "keeper.json").read_text())
                unit.keeper, unit.keeper_ticks = int(keeper["pid"]), keeper["ticks"]
        alive = unit.keeper is not None and start_ticks(unit.keeper) == unit.keeper_ticks
        if alive:
            return
        try:
            end = json.loads((unit.folder / "exit.json").read_text())
            unit.exit_code, unit.timed_out = int(end["code"]), bool(end["timed_out"])
            unit.ended_at = float(end["ended_at"])
        except (OSError, ValueError):
            if unit.keeper is None and time.time() - unit.started_at < 1.0:
                return  # the keeper has not said its name yet
            # The keeper was killed: what it kept must not live on unseen.
            send(marked_processes(unit.mark), signal.SIGKILL)
            unit.exit_code, unit.ended_at = -int(signal.SIGKILL), time.time()

    def start(self, request: Mapping[str, object]) -> None:
        """Start a unit; the same unit and generation once only; older generations of it are stopped."""
        name, generation = str(request["unit"]), int(str(request["generation"]))
        if (name, generation) in self.units:
            return
        for unit in self.units.values():
            if unit.name == name and unit.generation < generation:
                self.stop(unit, grace_s=0.0)
        mark = secrets.token_hex(16)
        folder = self.state / f"{name}.{generation}"
        remove_folder(folder)
        folder.mkdir(mode=0o700)
        started_at = time.time()
        unit = Unit(name=name, generation=generation, folder=folder, mark=mark, started_at=started_at)
        described = {"unit": name, "generation": generation, "mark": mark, "started_at": started_at}
        write_json(folder / "unit.json", described)
        pid = os.fork()
        if pid == 0:
            for watcher in self.watchers:
                watcher.close()
            keep(request, mark, folder)
        unit.keeper, unit.keeper_ticks = pid, start_ticks(pid)
        self.units[name, generation] = unit

    def stop(self, unit: Unit, *, grace_s: float) -> None:
        """Ask a unit to end, and see to it that it does."""
        unit.stopping = True
        kill_at = time.monotonic() + grace_s
        unit.kill_at = kill_at if unit.kill_at is None else min(unit.kill_at, kill_at)
        if not unit.ended:
            send(unit.processes(), signal.SIGTERM if grace_s > 0 else signal.SIGKILL)

    def look(self) -> None:
        """Notice ends, kill what does not end in time, forget what was stopped and has ended."""
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0] != 0:
                pass
        for key, unit in list(self.units.items()):
            was_running = not unit.ended
            self.look_at(unit)
            if unit.ended:
                if was_running:
                    self.tell(unit)
                if unit.stopping:
                    remove_folder(unit.folder)
                    del self.units[key]
            elif unit.kill_at is not None and time.monotonic() >= unit.kill_at:
                send(unit.processes() | (marked_processes(unit.mark) - {unit.keeper or 0}), signal.SIGKILL)
                unit.kill_at = time.monotonic() + 0.2

    def tell(self, unit: Unit) -> None:
        """Send every watcher a line."""
        line = json.dumps({"unit": unit.name, "generation": unit.generation}).encode() + b"\n"
        for watcher in list(self.watchers):
            try:
                watcher.send(line)
            except OSError:
                watcher.close()
                self.watchers.remove(watcher)

    def answer(self, request: Mapping[str, object]) -> dict[str, object]:
        """Do what one request asks; return the answer."""
        match request.get("op"):
            case "start":
                self.start(request)
                return {}
            case "stop":
                unit = self.units.get((str(request["unit"]), int(str(request["generation"]))))
                if unit is not None:
                    self.stop(unit, grace_s=float(str(request["grace_s"])))
                return {}
            case "observe":
                for unit in self.units.values():
                    self.look_at(unit)
                return {"units": [describe(unit) for unit in self.units.values()]}
            case "pids":
                unit = self.units.get((str(request["unit"]), int(str(request["generation"]))))
                return {"pids": sorted(unit.processes()) if unit is not None else []}
            case other:
                return {"error": f"unknown request {str(other)[:40]}"}

    def end_all(self) -> None:
        """Stop every unit and wait until nothing of any is left."""
        for unit in self.units.values():
            self.stop(unit, grace_s=STOP_GRACE_S)
        deadline = time.monotonic() + STOP_GRACE_S * 2
        while self.units and time.monotonic() < deadline:
            self.look()
            time.sleep(LOOK_EVERY_S)
        for unit in self.units.values():
            send(marked_processes(unit.mark), signal.SIGKILL)


def describe(unit: Unit) -> dict[str, object]:
    """Return a unit as the protocol shows it."""
    return {
        "unit": unit.name,
        "generation": unit.generation,
        "state": "exited" if unit.ended else "running",
        "pid": None if unit.ended else unit.keeper,
        "exit_code": unit.exit_code,
        "timed_out": unit.timed_out,
        "started_at": unit.started_at,
        "ended_at": unit.ended_at,
    }


def remove_folder(folder: Path) -> None:
    """Remove a unit's folder and its files."""
    with contextlib.suppress(OSError):
        for entry in folder.iterdir():
            entry.unlink(missing_ok=True)
        folder.rmdir()


def serve(socket_path: Path, state: Path) -> int:
    """Answer requests until TERM; then end every unit."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    supervisor = Supervisor(state=state)
    supervisor.adopt()
    socket_path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(socket_path))
    socket_path.chmod(0o600)
    listener.listen(64)
    listener.setblocking(False)
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    # An end wakes the loop at once.
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    os.set_blocking(wake_read, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(wake_read, selectors.EVENT_READ)
        while not stopping:
            busy = any(unit.stopping or not unit.ended for unit in supervisor.units.values())
            for key, _ in selector.select(KEEPER_LOOK_EVERY_S if busy else 1.0):
                if key.fileobj is listener:
                    with contextlib.suppress(BlockingIOError):
                        connection, _address = listener.accept()
                        converse(supervisor, connection)
                else:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake_read, 4096)
            supervisor.look()
    supervisor.end_all()
    listener.close()
    socket_path.unlink(missing_ok=True)
    return 0


def converse(supervisor: Supervisor, connection: socket.socket) -> None:
    """Answer the one request of a connection; a watcher's stays open."""
    connection.settimeout(CLIENT_TIMEOUT_S)
    try:
        data = b""
        while not data.endswith(b"\n") and len(data) <= REQUEST_BYTES_MAX:
            piece = connection.recv(65_536)
            if not piece:
                break
            data += piece
        request = json.loads(data)
        if not isinstance(request, dict):
            raise ValueError("not an object")
        if request.get("op") == "watch":
            connection.setblocking(False)
            supervisor.watchers.append(connection)
            return
        answer = supervisor.answer(request)
    except (OSError, ValueError, KeyError) as error:
        answer = {"error": f"{type(error).__name__}: {error}"[:200]}
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(answer).encode() + b"\n")
    connection.close()


def main() -> int:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description="the embedded runtime of one stack")
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    return serve(arguments.socket, arguments.state)


if __name__ == "__main__":
    sys.exit(main())
