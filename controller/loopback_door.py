"""Lead a TCP port of a private network to a Unix socket outside of it, for drivers that take no path for an address.

A preview's processes have a network of their own, in which nobody listens but they. Postgres is reached over its
socket, which is bound into their file system. The process that forwards is one of the slot's: the server sees the
slot's user at the other end, and the door gives nobody more than the socket gives already.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
from contextlib import suppress
from typing import Final, NoReturn

#: Connections at a time; more wait in the listener's queue.
CONNECTIONS_MAX: Final = 64
_PIECE_BYTES: Final = 64 << 10
_SIGNALS_OF_THE_APP: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)


def open_door(port: int, target: str) -> None:
    """Forward `127.0.0.1:port` to the socket at `target` from another process, until the calling process has ended.

    Returns once the port listens. The other process is no child of the caller's, who may become any program meanwhile.
    OSError when the port is taken or no process can be made."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with listener:
        listener.bind(("127.0.0.1", port))
        listener.listen(CONNECTIONS_MAX)
        caller = os.pidfd_open(os.getpid())
        try:
            child = os.fork()
            if child == 0:
                _become_door(listener, target, caller)
            os.waitpid(child, 0)
        finally:
            os.close(caller)


def _become_door(listener: socket.socket, target: str, caller: int) -> NoReturn:
    code = 1
    try:
        if os.fork() != 0:
            os._exit(0)
        # systemd asks every process of a unit to end: the app needs its database until it has.
        for number in _SIGNALS_OF_THE_APP:
            signal.signal(number, signal.SIG_IGN)
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nothing, standard)
        _Door(listener, target, caller).serve()
        code = 0
    finally:
        os._exit(code)


class _Way:
    """One direction of a connection: what was read at one end and not yet written at the other."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self.waiting = b""
        #: The source has said all; once that is written, the sink is told.
        self.has_ended = self.is_over = False

    def move(self) -> None:
        """Read when there is nothing to write, and write what there is. OSError when an end is gone."""
        if not self.waiting and not self.has_ended:
            with suppress(BlockingIOError):
                self.waiting = self.source.recv(_PIECE_BYTES)
                self.has_ended = not self.waiting
        if self.waiting:
            with suppress(BlockingIOError):
                self.waiting = self.waiting[self.sink.send(self.waiting) :]
        if self.has_ended and not self.waiting and not self.is_over:
            self.is_over = True
            self.sink.shutdown(socket.SHUT_WR)


class _Door:
    def __init__(self, listener: socket.socket, target: str, caller: int) -> None:
        self._listener, self._target, self._caller = listener, target, caller
        self._selector = selectors.DefaultSelector()
        self._ways: dict[socket.socket, tuple[_Way, _Way]] = {}

    def serve(self) -> None:
        """Forward until the caller has ended."""
        self._listener.setblocking(False)
        # A descriptor of a process can be read once it has ended (pidfd_open(2)).
        self._selector.register(self._caller, selectors.EVENT_READ)
        self._selector.register(self._listener, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj == self._caller:
                    return
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._ways:
                    self._move(key.fileobj)

    def _accept(self) -> None:
        try:
            near, _ = self._listener.accept()
        except OSError:
            return
        far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            far.connect(self._target)
        except OSError:
            near.close()  # the driver sees a server that is away, and says so
            far.close()
            return
        there, back = _Way(near, far), _Way(far, near)
        for end in (near, far):
            end.setblocking(False)
            self._ways[end] = (there, back)
            self._selector.register(end, selectors.EVENT_READ)
        if len(self._ways) >= 2 * CONNECTIONS_MAX:
            self._selector.unregister(self._listener)

    def _move(self, end: socket.socket) -> None:
        there, back = self._ways[end]
        try:
            there.move()
            back.move()
        except OSError:
            there.is_over = back.is_over = True
        if there.is_over and back.is_over:
            self._close(there)
            return
        for one, reads, writes in ((there.source, there, back), (there.sink, back, there)):
            wanted = selectors.EVENT_WRITE if writes.waiting else 0
            wanted |= 0 if reads.waiting or reads.has_ended else selectors.EVENT_READ
            if not wanted:
                with suppress(KeyError):
                    self._selector.unregister(one)
            elif one in self._selector.get_map():
                self._selector.modify(one, wanted)
            else:
                self._selector.register(one, wanted)

    def _close(self, way: _Way) -> None:
        if len(self._ways) >= 2 * CONNECTIONS_MAX:
            self._selector.register(self._listener, selectors.EVENT_READ)
        for end in (way.source, way.sink):
            del self._ways[end]
            with suppress(KeyError):
                self._selector.unregister(end)
            end.close()
