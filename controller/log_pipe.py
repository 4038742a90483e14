"""Stand between a process and its log: what it writes goes through a pipe, and loses its environment's secrets.

Shared by the keeper of `oroboros up` and a host's launcher. Whole lines are passed on at once; a line that has not
ended is passed on after a moment, but for what may be the beginning of a secret. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable
from typing import NoReturn

from controller.model.secret_values import SecretValues

READ_BYTES = 1 << 16
#: A longer line is passed on in pieces.
LINE_BYTES_MAX = 1 << 16
#: How long the end of a line is waited for.
LINE_WITHIN_S = 0.25
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class MaskedLines:
    """Masks a stream of bytes: takes pieces as they come, and gives back what may be passed on."""

    def __init__(self, secrets: SecretValues) -> None:
        self._secrets = secrets
        self._rest = b""

    @property
    def waits(self) -> bool:
        """Say whether something is held back."""
        return bool(self._rest)

    def feed(self, data: bytes) -> bytes:
        """Return the lines that are whole now, without secrets."""
        if self._secrets.is_empty:
            return data
        whole, newline, rest = (self._rest + data).rpartition(b"\n")
        self._rest = rest
        shown = self._secrets.mask(whole + newline) if newline else b""
        return shown if len(rest) <= LINE_BYTES_MAX else shown + self._without_end(self._secrets.bytes_max)

    def pause(self) -> bytes:
        """Return what may be passed on when nothing came for a while: all but the beginning of a secret."""
        return self._without_end(self._secrets.begun_at_end_of(self._rest))

    def end(self) -> bytes:
        """Return the rest, at the end of the stream."""
        shown, self._rest = self._secrets.mask(self._rest), b""
        return shown

    def _without_end(self, kept: int) -> bytes:
        # Whole secrets go first: none can stand across the place where this is cut.
        masked = self._secrets.mask_whole(self._rest)
        at = max(0, len(masked) - kept)
        self._rest = masked[at:]
        return self._secrets.mask_pieces(masked[:at])


def pass_on(source: int, write: Callable[[bytes], object], secrets: SecretValues) -> None:
    """Read a pipe to its end, and write what it gave without secrets."""
    lines = MaskedLines(secrets)
    is_quiet = False
    while True:
        if lines.waits and not is_quiet and not select.select([source], [], [], LINE_WITHIN_S)[0]:
            is_quiet = True
            write(lines.pause())
            continue
        data = os.read(source, READ_BYTES)
        if not data:
            break
        is_quiet = False
        write(lines.feed(data))
    write(lines.end())


def put_between(secrets: SecretValues) -> None:
    """Give this process, and what it becomes, a pipe as output; a process of its own passes on to what was there.

    That one ends with the last process that writes, and belongs to no one who waits for children. Without secrets the
    output stays as it is."""
    if secrets.is_empty:
        return
    source, target = os.pipe()
    between = os.fork()
    if between == 0:
        if os.fork() == 0:
            os.close(target)
            _be_between(source, secrets)
        os._exit(0)
    os.waitpid(between, 0)
    os.close(source)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)


def _be_between(source: int, secrets: SecretValues) -> NoReturn:
    try:
        # What ends the unit ends the app; what the app says then is still to be passed on.
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        pass_on(source, lambda data: write_all(1, data), secrets)
    finally:
        os._exit(0)


def write_all(target: int, data: bytes) -> None:
    """Write all of it; what the target does not take is lost, and the process goes on."""
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(target, data) :]
