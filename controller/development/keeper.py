"""What does one unit need around it, from its first process to its last? A keeper: a fork of the supervisor.

The keeper is a session and a child subreaper: it starts the app, waits for all that the app left behind, enforces a
job's time limit, masks the environment's secrets in the log, bounds it, and says how it ended by one rename.
It needs nobody: the supervisor may die.
Every process of a unit carries a random mark in its environment, by which strays are found that left their session,
their parent and their terminal behind; those that drop the mark are still the keeper's descendants.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import resource
import secrets
import signal
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from controller.effects.checkout import copy_for_build
from controller.log_pipe import pass_on, write_all
from controller.model.command import expand, process_environment
from controller.model.errors import OroborosError
from controller.model.names import JOB_NOT_PREPARED
from controller.model.profiles import Profile, profile_of
from controller.model.secret_values import SecretValues
from controller.start_failure import EXIT_NOT_STARTED, execute_program

LOG_BYTES_MAX = 8 << 20
LOG_CUT_LINE = b"oroboros: older lines were cut\n"
LOOK_EVERY_S = 0.25
#: Of what an app left behind, from TERM to KILL.
LEFTOVER_GRACE_S = 1.0
#: Of a job that ran into its limit.
LIMIT_GRACE_S = 3.0
STRAY_LOOK_S = 0.02
#: From the end of an app to that of its log.
LOG_WITHIN_S = 5.0
#: From <sys/prctl.h>, <linux/sched.h>, <linux/ioprio.h>.
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
CLONE_NEWUSER = 0x1000_0000
IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
IOPRIO_WHO_PROCESS, IOPRIO_LOWEST = 1, (2 << 13) | 7
MARK = "OROBOROS_UNIT_MARK"

libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to run, as it came through the protocol and was checked."""

    unit: str
    generation: int
    argv: tuple[str, ...]
    working_directory: str
    environment: Mapping[str, str]
    #: Where the supervisor leaves that environment for others to read.
    environment_file: str
    log_file: str
    time_limit_s: float | None
    #: Of a build: the release that the working directory is to be a private copy of.
    copy_of: str | None


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


def marked_processes(mark: str) -> set[int]:
    """Return every process that carries the mark in its environment. Reads all of /proc: for ends only."""
    needle = f"{MARK}={mark}".encode()
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if needle in file.read():
                    found.add(int(name))
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


def close_all() -> None:
    """Close every file but the standard three."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):  # the one that lists them is closed already
                os.close(int(name))


def keep(order: Order, mark: str, folder: Path) -> None:
    """Be the keeper of one unit; never returns. `folder` receives `keeper.json` first and `exit.json` last. When the
    folder is gone, nobody would know of the unit: nothing is started."""
    code, timed_out = EXIT_NOT_STARTED, False
    try:
        # Blocked, not ignored: what is sent to the app before it has become one reaches it when it has.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
        os.setsid()
        signal.set_wakeup_fd(-1)
        close_all()
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        write_json(folder / "keeper.json", {"pid": os.getpid(), "ticks": start_ticks(os.getpid())})
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        log_fd = os.open(order.log_file, flags, 0o640)
        code = 0 if order.copy_of is None else copy_release(order.copy_of, order.working_directory, log_fd)
        if code == 0:
            code, timed_out = run(order, mark, log_fd)
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError), open(order.log_file, "a", encoding="utf-8") as file:
            file.write(f"oroboros: could not be kept: {error}\n")
    finally:
        with contextlib.suppress(OSError):
            write_json(folder / "exit.json", {"code": code, "timed_out": timed_out, "ended_at": time.time()})
        os._exit(0)


def copy_release(release: str, destination: str, log_fd: int) -> int:
    """Make the private copy that a build works in; return how the process that made it ended, 0 when it is whole.

    A process of its own, so that a stop reaches it while it copies."""
    keeper = os.getpid()
    child = os.fork()
    if child != 0:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == keeper:
            copy_for_build(Path(release), Path(destination))
            os._exit(0)
    except (OroborosError, OSError) as error:
        os.write(log_fd, f"oroboros: {error}\n".encode("utf-8", "replace"))
    os._exit(JOB_NOT_PREPARED)


def run(order: Order, mark: str, log_fd: int) -> tuple[int, bool]:
    """Start the app and wait for its end, and for that of all it left; return its code and whether its time was up."""
    environment = environment_of(order, mark)
    output, written = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        become(order, environment, written)
    os.close(written)
    log = threading.Thread(target=pass_on, args=(output, partial(append, log_fd), SecretValues.of(environment)))
    log.daemon = True
    log.start()
    ended = wait_for_all(child, mark, order.time_limit_s)
    # All that could write has ended, so what it wrote is soon read.
    log.join(LOG_WITHIN_S)
    return ended


def become(order: Order, environment: Mapping[str, str], output: int) -> None:
    """Become the app; never returns. No inherited files, no powers, nothing of our environment."""
    try:
        keeper = os.getppid()
        os.setsid()  # an app that signals its whole group does not mean us
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        close_all()
        words = [expand(word, environment) for word in order.argv]
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        drop_powers(profile_of(order.unit))
        # Should the keeper be killed, its app ends with it. After `drop_powers`: new credentials reset it.
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:
            os._exit(EXIT_NOT_STARTED)
        os.chdir(order.working_directory)
        os.umask(0o027)
        execute_program(words, environment)
    except (OSError, ValueError) as error:
        os.write(2, f"oroboros: cannot start {list(order.argv)}: {error}\n".encode("utf-8", "replace"))
    os._exit(EXIT_NOT_STARTED)


def environment_of(order: Order, mark: str) -> dict[str, str]:
    """Return the app's environment: its values over a few sane ones, and the mark."""
    values = order.environment
    data = values.get("OROBOROS_DATA", "")
    has_data = bool(data) and os.path.isdir(data)
    environment = process_environment(
        values,
        working_directory=order.working_directory,
        data_folder=data if has_data else "",
        is_build=order.unit.startswith("build-"),
    )
    return {**environment, MARK: mark}


def drop_powers(profile: Profile) -> None:
    """Give up what an app must not have. As root: become user 1000 of a user namespace, without any capability over
    the host, who still owns our own files, so that folders of root stay reachable."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for kind, wanted in (
        (resource.RLIMIT_NOFILE, profile.open_files_max),
        (resource.RLIMIT_FSIZE, profile.file_bytes_max),
    ):
        _, hard = resource.getrlimit(kind)
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (limit, limit))
    # Nicer only: what is nice already (a job of the control plane's own) stays so.
    os.nice(max(0, profile.niceness - os.getpriority(os.PRIO_PROCESS, 0)))
    if profile.niceness and platform.machine() in IOPRIO_SET:
        libc.syscall(IOPRIO_SET[platform.machine()], IOPRIO_WHO_PROCESS, 0, IOPRIO_LOWEST)  # a courtesy, not a wall
    if profile.oom_score_adjust:
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(profile.oom_score_adjust))
    if os.geteuid() == 0:
        uid, gid = os.geteuid(), os.getegid()
        if libc.unshare(CLONE_NEWUSER) != 0:
            raise OSError(ctypes.get_errno(), "unshare: no user namespace; run as a normal user instead")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"1000 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"1000 {gid} 1")
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def wait_for_all(child: int, mark: str, limit_s: float | None) -> tuple[int, bool]:
    """Wait until the app and everything that it left behind has ended; return its exit code and whether it was killed
    for its time. What an app leaves behind is ended with it."""
    deadline = None if limit_s is None else time.monotonic() + limit_s
    code: int | None = None
    timed_out = False
    kill_at: float | None = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            strays = marked_processes(mark) - {os.getpid()}
            if not strays:
                return EXIT_NOT_STARTED if code is None else code, timed_out
            send(strays, signal.SIGKILL)
            time.sleep(STRAY_LOOK_S)
            continue
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            kill_at = time.monotonic() + LEFTOVER_GRACE_S
            send(descendants(os.getpid()), signal.SIGTERM)
        if pid != 0:
            continue
        now = time.monotonic()
        if code is None and deadline is not None and now >= deadline and not timed_out:
            timed_out, kill_at = True, now + LIMIT_GRACE_S
            send(descendants(os.getpid()), signal.SIGTERM)
        if kill_at is not None and now >= kill_at:
            send(descendants(os.getpid()) | (marked_processes(mark) - {os.getpid()}), signal.SIGKILL)
        pause_s = LOOK_EVERY_S
        if kill_at is not None:
            pause_s = STRAY_LOOK_S
        elif deadline is not None:
            pause_s = min(pause_s, deadline - now)
        signal.sigtimedwait({signal.SIGCHLD}, max(0.0, pause_s))  # returns at once when a child ends


def append(log_fd: int, data: bytes) -> None:
    """Write to a log and keep it bounded. Whoever writes also cuts: nothing is written while the log is being cut."""
    write_all(log_fd, data)
    bound_log(log_fd)


def bound_log(log_fd: int) -> None:
    """Cut a log that has grown too large: about its newest half stays."""
    with contextlib.suppress(OSError):
        size = os.fstat(log_fd).st_size
        if size <= LOG_BYTES_MAX:
            return
        kept = os.pread(log_fd, LOG_BYTES_MAX // 2, size - LOG_BYTES_MAX // 2)
        os.ftruncate(log_fd, 0)
        # Appended, as the app's own writes are: none is written over.
        os.write(log_fd, LOG_CUT_LINE + kept.partition(b"\n")[2])
