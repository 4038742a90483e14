"""The embedded runtime's own process: it starts instances and jobs, ends them, and knows how they ended.

Each unit has a keeper (`keeper.py`): a fork of this process, without exec, so that it begins in milliseconds, and in
need of nobody. So this process may be killed at any moment: its successor reads the state folder and goes on; a pid
counts only together with its start time. A unit's folder holds `unit.json` (before the fork), `keeper.json` (before
the app) and `exit.json` (after its last process).

Protocol: one JSON object a line over a Unix socket, one answer a line: start, stop, observe, pids, limitations; `watch`
keeps the connection and sends a line whenever a unit ends. A process of a unit is not answered.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import logging
import os
import re
import secrets
import selectors
import shutil
import signal
import socket
import struct
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from controller.development.keeper import (
    PR_SET_CHILD_SUBREAPER,
    Order,
    descendants,
    keep,
    marked_processes,
    prctl,
    send,
    start_ticks,
    write_json,
)
from controller.doors.log_output import log_to_stderr
from controller.effects.stack_files import write_private
from controller.model.profiles import PREVIEW, PRODUCTION

#: One request holds the words and the environment of a process; execve(2) takes about 2 MiB.
REQUEST_BYTES_MAX = 2 << 20
CONVERSATIONS_MAX = 64
CONVERSATION_S = 2.0
ANSWER_S = 0.5
WORDS_MAX = 1_024
#: While something has to be waited for; ends of keepers are told by the kernel.
LOOK_EVERY_S = 0.02
IDLE_LOOK_S = 1.0
KILL_AGAIN_S = 0.2
STOP_GRACE_S = 5.0
#: Below the ten seconds after which whoever started us would kill us.
END_ALL_S = 8.0
#: How long the strays of a keeper that was killed are hunted before its unit counts as ended all the same.
HUNT_S = 5.0

_UNIT = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")

log = logging.getLogger("supervisor")


class NotTaken(ValueError):
    """A request that is not done, with the reason that its sender is told."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(slots=True)
class Unit:
    """One unit of one generation: waiting for an older one to end, running, or ended."""

    name: str
    generation: int
    folder: Path
    mark: str
    started_at: float
    #: Not yet started.
    waiting: Order | None = None
    keeper: int = 0
    #: None: it had ended before we could ask.
    keeper_ticks: int | None = None
    pidfd: int | None = None
    exit_code: int | None = None
    timed_out: bool = False
    ended_at: float | None = None
    stopping: bool = False
    grace_s: float = 0.0
    #: TERM has reached a process.
    asked: bool = False
    kill_at: float | None = None
    hunted_since: float | None = None

    @property
    def ended(self) -> bool:
        return self.ended_at is not None

    def processes(self) -> set[int]:
        """Return the app's processes, without the keeper."""
        if self.ended or self.waiting is not None:
            return set()
        # By their mark on kernels that do not list children (CONFIG_PROC_CHILDREN).
        return descendants(self.keeper) or (marked_processes(self.mark) - {self.keeper})


@dataclass(slots=True)
class Supervisor:
    """All units of one stack."""

    state: Path
    selector: selectors.BaseSelector
    units: dict[tuple[str, int], Unit] = field(default_factory=dict)
    watchers: list[socket.socket] = field(default_factory=list)

    def adopt(self) -> None:
        """Take over what an earlier supervisor started."""
        for folder in sorted(self.state.iterdir()):
            if not folder.is_dir():
                continue
            unit = read_unit(folder)
            if unit is None:
                # Never begun. Its keeper, should it be about to, finds the folder gone and starts nothing; should it
                # have said its name meanwhile, it is known after all.
                gone = set_aside(folder)
                if not (gone / "keeper.json").exists():
                    shutil.rmtree(gone, ignore_errors=True)
                    continue
                os.rename(gone, folder)
                unit = read_unit(folder)
                if unit is None:
                    remove_folder(folder)
                    continue
            self.units[unit.name, unit.generation] = unit
            self.attend(unit)
            self.look_at(unit)
            log.info("adopted %s of run %d: %s", unit.name, unit.generation, "ended" if unit.ended else "running")

    def attend(self, unit: Unit) -> None:
        """Have the kernel tell when the unit's keeper ends, also when it is no child of ours."""
        with contextlib.suppress(OSError):
            unit.pidfd = os.pidfd_open(unit.keeper)
            self.selector.register(unit.pidfd, selectors.EVENT_READ, unit)

    def look_at(self, unit: Unit) -> None:
        """Learn whether a unit has ended, and how."""
        if unit.ended or unit.waiting is not None:
            return
        if unit.keeper_ticks is not None and start_ticks(unit.keeper) == unit.keeper_ticks:
            return
        try:
            end = json.loads((unit.folder / "exit.json").read_text())
            unit.exit_code, unit.timed_out = int(end["code"]), bool(end["timed_out"])
            unit.ended_at = float(end["ended_at"])
        except (OSError, ValueError, KeyError):
            self.leave(unit)
            # The keeper was killed: what it kept must not live on unseen.
            unit.hunted_since = unit.hunted_since or time.monotonic()
            strays = marked_processes(unit.mark) | self.orphans()
            send(strays, signal.SIGKILL)
            if strays and time.monotonic() - unit.hunted_since < HUNT_S:
                return
            unit.exit_code, unit.ended_at = -int(signal.SIGKILL), time.time()
            log.warning("the keeper of %s of run %d was killed", unit.name, unit.generation)
        self.leave(unit)
        self.tell(unit)

    def leave(self, unit: Unit) -> None:
        """Undo `attend`. Safe to repeat."""
        if unit.pidfd is not None:
            self.selector.unregister(unit.pidfd)
            os.close(unit.pidfd)
            unit.pidfd = None

    def orphans(self) -> set[int]:
        """Return what fell to us, since we are a subreaper too, from keepers that were killed."""
        keepers = {unit.keeper for unit in self.units.values()}
        path = Path(f"/proc/self/task/{os.getpid()}/children")
        with contextlib.suppress(OSError):
            children = {int(pid) for pid in path.read_text().split()} - keepers
            return children.union(*(descendants(child) for child in children))
        return set()

    def start(self, order: Order) -> None:
        """Start a unit; the same unit and generation once only; older generations of it end first."""
        key = (order.unit, order.generation)
        if key in self.units:
            return
        others = [unit for unit in self.units.values() if unit.name == order.unit]
        newer = [unit.generation for unit in others if unit.generation > order.generation]
        if newer:
            message = f"{order.unit}: run {order.generation} is older than run {max(newer)}, which has been started"
            raise NotTaken("StaleGeneration", message)
        # Only now: what is repeated changes nothing of what runs.
        lines = (f"{key}={value}\n" for key, value in sorted(order.environment.items()))
        write_private(Path(order.environment_file), "".join(lines))
        for unit in others:
            self.stop(unit, grace_s=0.0)
        mark = secrets.token_hex(16)
        folder = self.state / f"{order.unit}.{order.generation}.{mark[:8]}"
        self.units[key] = Unit(
            name=order.unit,
            generation=order.generation,
            folder=folder,
            mark=mark,
            started_at=time.time(),
            waiting=order,
        )
        self.look()

    def launch(self, unit: Unit, order: Order) -> None:
        """Fork the keeper of a unit."""
        unit.folder.mkdir(mode=0o700)
        unit.started_at = time.time()
        described = {
            "unit": unit.name,
            "generation": unit.generation,
            "mark": unit.mark,
            "started_at": unit.started_at,
        }
        write_json(unit.folder / "unit.json", described)
        pid = os.fork()
        if pid == 0:
            keep(order, unit.mark, unit.folder)
        unit.waiting, unit.keeper, unit.keeper_ticks = None, pid, start_ticks(pid)
        self.attend(unit)

    def stop(self, unit: Unit, *, grace_s: float) -> None:
        """Ask a unit to end, and see to it that it does. A later, shorter grace counts."""
        unit.stopping = True
        kill_at = time.monotonic() + grace_s
        unit.kill_at = kill_at if unit.kill_at is None else min(unit.kill_at, kill_at)

    def look(self) -> None:
        """Notice ends, ask and kill what is to end, forget what has, and start what waited for that."""
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0] != 0:
                pass
        now = time.monotonic()
        for key, unit in list(self.units.items()):
            self.look_at(unit)
            if unit.stopping and (unit.ended or unit.waiting is not None):
                remove_folder(unit.folder)
                del self.units[key]
            elif unit.kill_at is not None and now >= unit.kill_at:
                send(unit.processes() | (marked_processes(unit.mark) - {unit.keeper}), signal.SIGKILL)
                unit.kill_at = now + KILL_AGAIN_S
            elif unit.stopping and not unit.asked:
                processes = unit.processes()  # none yet, right after the start: then again at the next look
                send(processes, signal.SIGTERM)
                unit.asked = bool(processes)
        for unit in list(self.units.values()):
            older = any(u.name == unit.name and u.generation < unit.generation for u in self.units.values())
            if unit.waiting is not None and not older:
                try:
                    self.launch(unit, unit.waiting)
                except OSError as error:
                    remove_folder(unit.folder)
                    del self.units[unit.name, unit.generation]
                    raise NotTaken("NotStarted", f"{unit.name} could not be started: {error}") from error

    @property
    def waits(self) -> bool:
        """Whether something has to be looked at again soon."""
        return any(u.stopping or u.waiting is not None or u.hunted_since for u in self.units.values() if not u.ended)

    def tell(self, unit: Unit) -> None:
        """Send every watcher a line. One that does not read loses its connection, and so learns that it missed some."""
        line = json.dumps({"unit": unit.name, "generation": unit.generation}).encode() + b"\n"
        for watcher in list(self.watchers):
            try:
                watcher.send(line)
            except OSError:
                self.drop(watcher)

    def drop(self, watcher: socket.socket) -> None:
        """Forget a watcher."""
        self.watchers.remove(watcher)
        self.selector.unregister(watcher)
        watcher.close()

    def answer(self, request: Mapping[str, object]) -> dict[str, object]:
        """Do what one request asks; return the answer."""
        match request.get("op"):
            case "start":
                self.start(read_order(request))
                return {}
            case "stop":
                unit = self.find(request)
                if unit is not None:
                    self.stop(unit, grace_s=float(str(request["grace_s"])))
                    self.look()
                return {}
            case "observe":
                for unit in self.units.values():
                    self.look_at(unit)
                return {"units": [describe(unit) for unit in self.units.values()]}
            case "pids":
                unit = self.find(request)
                return {"pids": sorted(unit.processes()) if unit is not None else []}
            case "limitations":
                return {"limitations": limitations(as_root=os.geteuid() == 0)}
            case other:
                raise NotTaken("UnknownRequest", f"unknown request {str(other)[:40]}")

    def find(self, request: Mapping[str, object]) -> Unit | None:
        """Return the unit of exactly the generation that a request names."""
        return self.units.get((str(request["unit"]), int(str(request["generation"]))))

    def is_inside(self, pid: int) -> bool:
        """Say whether a process belongs to a unit: a keeper is among its ancestors."""
        keepers = {unit.keeper for unit in self.units.values() if not unit.ended}
        while pid > 1:
            if pid in keepers:
                return True
            try:
                pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                return True  # gone before it could be known
        return False

    def end_all(self) -> None:
        """Stop every unit and wait until nothing of any is left."""
        for unit in self.units.values():
            self.stop(unit, grace_s=STOP_GRACE_S)
        deadline = time.monotonic() + END_ALL_S
        while self.units and time.monotonic() < deadline:
            self.look()
            time.sleep(LOOK_EVERY_S)
        for unit in self.units.values():
            send(unit.processes() | marked_processes(unit.mark), signal.SIGKILL)


def read_order(request: Mapping[str, object]) -> Order:
    """Check a start request; NotTaken tells what is wrong with it."""
    unit, argv, limit = request.get("unit"), request.get("argv"), request.get("time_limit_s")
    environment, copy_of = request.get("environment"), request.get("copy_of")
    if not isinstance(unit, str) or _UNIT.fullmatch(unit) is None:
        raise NotTaken("BadOrder", f"unit: {str(unit)[:80]!r} is no name of a unit")
    if not isinstance(argv, list) or not argv or len(argv) > WORDS_MAX or not all(isinstance(w, str) for w in argv):
        raise NotTaken("BadOrder", "argv: not a list of words")
    paths = [str(request.get(key)) for key in ("working_directory", "environment_file", "log_file")]
    paths += [] if copy_of is None else [str(copy_of)]
    if not all(path.startswith("/") and "\0" not in path for path in paths):
        raise NotTaken("BadOrder", f"paths are absolute, not {paths}")
    if not isinstance(environment, dict) or not all(isinstance(value, str) for value in environment.values()):
        raise NotTaken("BadOrder", "environment: not an object of texts")
    return Order(
        unit=unit,
        generation=int(str(request.get("generation"))),
        argv=tuple(argv),
        working_directory=paths[0],
        environment=environment,
        environment_file=paths[1],
        log_file=paths[2],
        time_limit_s=None if limit is None else float(str(limit)),
        copy_of=None if copy_of is None else str(copy_of),
    )


def describe(unit: Unit) -> dict[str, object]:
    """Return a unit as the protocol shows it."""
    return {
        "unit": unit.name,
        "generation": unit.generation,
        "state": "exited" if unit.ended else "running",
        "pid": None if unit.ended or unit.waiting is not None else unit.keeper,
        "exit_code": unit.exit_code,
        "timed_out": unit.timed_out,
        "started_at": unit.started_at,
        "ended_at": unit.ended_at,
    }


def limitations(*, as_root: bool) -> list[str]:
    """Return, a sentence each, the walls of the profiles that plain processes do not have."""
    mib = {name: profile.memory_bytes_max >> 20 for name, profile in (("main", PRODUCTION), ("preview", PREVIEW))}
    said = [
        f"memory is not limited: profiles want {mib['main']} MiB for production, {mib['preview']} for a preview",
        f"processes are not counted: profiles want at most {PRODUCTION.tasks_max}, {PREVIEW.tasks_max} for a preview",
        "the processor is not shared out: previews and builds are only nicer than production",
        "the network is not walled off: an app can reach every port on loopback, the control plane's too",
        "all instances and jobs are one user: a preview can read and signal what another slot's app can",
    ]
    if as_root:
        said.append(
            "we run as root: apps hold no capability, but what root owns is theirs to write; start oroboros as an"
            " ordinary user"
        )
    return said


def read_unit(folder: Path) -> Unit | None:
    """Return the unit whose folder this is; None when it was never begun."""
    try:
        known = json.loads((folder / "unit.json").read_text())
        keeper = json.loads((folder / "keeper.json").read_text())
        return Unit(
            name=str(known["unit"]),
            generation=int(known["generation"]),
            folder=folder,
            mark=str(known["mark"]),
            started_at=float(known["started_at"]),
            keeper=int(keeper["pid"]),
            keeper_ticks=int(keeper["ticks"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def set_aside(folder: Path) -> Path:
    """Take a folder away at once from whoever still writes into it; return where it is."""
    gone = folder.with_name(f".gone.{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(folder, gone)
    return gone


def remove_folder(folder: Path) -> None:
    """Remove a unit's folder."""
    shutil.rmtree(set_aside(folder), ignore_errors=True)


# -- conversations ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Conversation:
    """A connection whose request has not come whole."""

    connection: socket.socket
    deadline: float
    data: bytes = b""


@dataclass(slots=True)
class Door:
    """The socket at which requests come. Nobody who is slow keeps others waiting."""

    supervisor: Supervisor
    listener: socket.socket
    open: list[Conversation] = field(default_factory=list)

    def accept(self) -> None:
        """Begin a conversation."""
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            connection, _address = self.listener.accept()
            connection.setblocking(False)
            conversation = Conversation(connection=connection, deadline=time.monotonic() + CONVERSATION_S)
            self.supervisor.selector.register(connection, selectors.EVENT_READ, conversation)
            self.open.append(conversation)
            if len(self.open) > CONVERSATIONS_MAX:
                self.end(self.open[0])

    def end(self, conversation: Conversation, *, close: bool = True) -> None:
        """End a conversation."""
        self.open.remove(conversation)
        self.supervisor.selector.unregister(conversation.connection)
        if close:
            conversation.connection.close()

    def end_slow(self) -> None:
        """End the conversations whose time is up."""
        now = time.monotonic()
        for conversation in [c for c in self.open if now >= c.deadline]:
            self.end(conversation)

    def hear(self, conversation: Conversation) -> None:
        """Take what came; answer once the request is whole."""
        try:
            piece = conversation.connection.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        conversation.data += piece
        if not piece or len(conversation.data) > REQUEST_BYTES_MAX:
            self.end(conversation)
        elif conversation.data.endswith(b"\n"):
            self.end(conversation, close=False)
            self.reply(conversation.connection, conversation.data)

    def reply(self, connection: socket.socket, data: bytes) -> None:
        """Do what a request asks and answer it; a watcher's connection stays open."""
        supervisor = self.supervisor
        answer: dict[str, object]
        try:
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            if supervisor.is_inside(struct.unpack("3i", credentials)[0]):
                raise NotTaken("NotForUnits", "a process of a unit is not answered")
            request = json.loads(data)
            if not isinstance(request, dict):
                raise NotTaken("BadRequest", "not an object")
            if request.get("op") == "watch":
                supervisor.watchers.append(connection)
                supervisor.selector.register(connection, selectors.EVENT_READ, connection)
                return
            answer = supervisor.answer(request)
        except NotTaken as error:
            answer = {"error": str(error), "reason": error.reason}
        except (OSError, ValueError, KeyError, RecursionError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:200], "reason": "BadRequest"}
        connection.settimeout(ANSWER_S)
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps(answer).encode() + b"\n")
        connection.close()


def serve(socket_path: Path, state: Path, parent: int | None) -> int:
    """Answer requests until TERM, or until the parent ends; then end every unit."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"another supervisor looks after {state}", file=sys.stderr)
        return 1
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    parent_ticks = start_ticks(parent) if parent is not None else None
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    # A signal wakes the loop; a child that fell to us is reaped at once.
    signal.signal(signal.SIGCHLD, lambda *_: None)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    os.set_blocking(wake_read, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    with selectors.DefaultSelector() as selector, listen_at(socket_path) as listener:
        supervisor = Supervisor(state=state, selector=selector)
        supervisor.adopt()
        door = Door(supervisor=supervisor, listener=listener)
        selector.register(listener, selectors.EVENT_READ)
        selector.register(wake_read, selectors.EVENT_READ)
        listener.listen(CONVERSATIONS_MAX)
        while not stopping:
            pause_s = LOOK_EVERY_S if supervisor.waits else IDLE_LOOK_S
            for key, _ in selector.select(pause_s):
                if key.fileobj is listener:
                    door.accept()
                elif isinstance(key.data, Conversation):
                    if key.data in door.open:
                        door.hear(key.data)
                elif isinstance(key.data, socket.socket):
                    if key.data in supervisor.watchers and not _is_there(key.data):
                        supervisor.drop(key.data)
                elif key.fileobj == wake_read:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake_read, 4096)
            door.end_slow()
            with contextlib.suppress(NotTaken):
                supervisor.look()
            if parent is not None and start_ticks(parent) != parent_ticks:
                stopping = True
        supervisor.end_all()
    socket_path.unlink(missing_ok=True)
    return 0


def listen_at(path: Path) -> socket.socket:
    """Bind a socket that only we can reach; it does not listen yet."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.setblocking(False)
    return listener


def _is_there(watcher: socket.socket) -> bool:
    try:
        return bool(watcher.recv(4096))
    except BlockingIOError:
        return True
    except OSError:
        return False


def main() -> int:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description="the embedded runtime of one stack")
    parser.add_argument("--socket", type=Path, required=True, help="where requests come")
    parser.add_argument("--state", type=Path, required=True, help="what a successor has to know")
    parser.add_argument("--parent-pid", type=int, help="end everything when this process ends")
    arguments = parser.parse_args()
    log_to_stderr("%(asctime)s %(message)s")
    return serve(arguments.socket, arguments.state, arguments.parent_pid)


if __name__ == "__main__":
    sys.exit(main())
