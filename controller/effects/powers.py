"""How does a command of root's go on as a user who may do less? For commands that work in that user's folders."""

from __future__ import annotations

import os
import pwd
import select
import signal
import time
from collections.abc import Callable

from controller.model.errors import OroborosError, Unavailable

#: Of an answer that is whole.
END = b"."


def become(user: str) -> bool:
    """Become a user of the host for good, with the groups that it is in; False when there is no such user."""
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        return False
    if os.geteuid() == found.pw_uid:
        return True
    # Who gives an order stays who it was, and nothing is looked for in root's home.
    os.environ.setdefault("LOGNAME", "root")
    os.environ["HOME"] = found.pw_dir
    os.initgroups(user, found.pw_gid)
    os.setresgid(found.pw_gid, found.pw_gid, found.pw_gid)
    os.setresuid(found.pw_uid, found.pw_uid, found.pw_uid)
    return True


def ask_as(user: str, question: Callable[[], bytes], *, bytes_max: int, timeout_s: float) -> bytes:
    """Return what a child that has become a user answers: whatever it reads, it can do no more than that user may.

    Unavailable when it does not answer in time, answers too much, or there is no such user."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()  # without our terminal
            if become(user):
                with os.fdopen(writing, "wb") as answer:
                    answer.write(question() + END)
        except OroborosError as error:
            os.write(2, f"{error}\n".encode("utf-8", "replace"))
        finally:
            os._exit(1)
    os.close(writing)
    try:
        answered = _read_all(reading, bytes_max=bytes_max + len(END), deadline_s=time.monotonic() + timeout_s)
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if not answered.endswith(END):
        raise Unavailable("HostToolFailed", f"{user} has no answer")
    return answered.removesuffix(END)


def _read_all(descriptor: int, *, bytes_max: int, deadline_s: float) -> bytes:
    parts: list[bytes] = []
    while select.select([descriptor], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
        part = os.read(descriptor, bytes_max + 1)
        parts.append(part)
        if not part:
            return b"".join(parts)
        if sum(map(len, parts)) > bytes_max:
            raise Unavailable("HostToolFailed", f"the answer has more than {bytes_max} bytes")
    raise Unavailable("HostToolFailed", "there was no answer in time")
