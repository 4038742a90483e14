"""What does something answer, and whose is the socket that answered? One probe at a time, bounded in time and bytes.

A probe has one deadline for all of it, follows no redirect, uses no proxy, and keeps at most a few KiB however much is
sent. Whose a port is, is read from /proc/net and /proc/<pid>/fd (proc_pid_net(5), proc_pid_fd(5)), before the question
and after the answer. Whose a Unix socket is, the kernel tells of the very connection (SO_PEERCRED, unix(7)): the path
proves nothing, since another socket can be moved over it.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import socket
import string
import struct
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from controller.listeners import LISTEN_STATE, describe_process, holder_of, rows_of, socket_inodes

HEAD_BYTES_MAX = 32 << 10
#: Answers like 103 that only announce the real one.
INTERIM_MAX = 4
CHUNK_LINE_BYTES_MAX = 4 << 10
#: A page may be large; an endless one is not a page.
BODY_BYTES_MAX = 4 << 20
#: Of a body, for messages.
BODY_KEPT_BYTES_MAX = 256 << 10
RECEIVE_BYTES = 64 << 10
#: Before a stranger is called one.
STRANGER_LOOKS = 2
STRANGER_PAUSE_S = 0.01
CLOSED_EARLY = "the connection was closed before an answer"
UNIX_LISTEN_FLAG = 0x10000


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back, whole; or why nothing usable did, in `problem`."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    #: The first bytes of the body, without transfer encoding.
    body: bytes = b""
    #: Of a body that was to be compared: how many bytes were read, and their SHA-256 in hex.
    read_bytes: int = 0
    sha256: str = ""
    problem: str = ""
    #: The connection was not accepted at all: nobody listens (yet).
    refused: bool = False
    #: The process that listens on the Unix socket that was asked, as the kernel knows it.
    listener: int | None = None
    #: Of `ask_instance`: who else it was that answers at the address; "" when only the instance does.
    stranger: str = ""


def ask(
    address: str,
    path: str,
    *,
    headers: Mapping[str, str],
    timeout_s: float,
    compare_bytes: int = 0,
) -> Answer:
    """GET `path` at `127.0.0.1:port` or `unix//path`; return the answer or what was wrong with it. Never raises.

    `headers` hold the Host, and more if it is asked as a visitor's request is handed on.
    With `compare_bytes` that much of a body is read at most, and hashed instead of kept: a longer one is no problem."""
    if not path.startswith("/") or any(c <= " " or c == "\x7f" for c in path) or not _are_plain(headers):
        return Answer(problem=f"{path[:80]!r} is no path that could be asked for")
    deadline = time.monotonic() + timeout_s
    listener = None
    try:
        with _connect(address, deadline) as connection:
            listener = _listener_of(connection)
            lines = {**headers, "User-Agent": "oroboros-gate", "Accept": "*/*", "Connection": "close"}
            request = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
            connection.sendall(f"GET {path} HTTP/1.1\r\n{request}\r\n".encode("ascii", "replace"))
            return replace(_read(connection, deadline, compare_bytes), listener=listener)
    except ConnectionRefusedError:
        return Answer(problem="nobody listens", refused=True)
    except FileNotFoundError:
        return Answer(problem="the socket is not there", refused=True)
    except TimeoutError:
        return Answer(problem=f"no whole answer within {timeout_s:g} s", listener=listener)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answer(problem=_visible(f"{type(error).__name__}: {error}")[:160], listener=listener)


def ask_instance(
    address: str,
    path: str,
    *,
    headers: Mapping[str, str],
    timeout_s: float,
    process_ids: Callable[[], frozenset[int]],
    strangers: Callable[[], str | None],
) -> Answer:
    """Ask as `ask` does, and say in `stranger` when it was not (only) these processes that could have answered.

    `strangers` says who else listens at the address, "" for nobody else, None when nobody does."""
    if address.startswith("unix/"):
        answer = ask(address, path, headers=headers, timeout_s=timeout_s)
        if answer.refused or answer.listener in process_ids():
            return answer
        if answer.listener is not None and answer.listener > 0 and Path(f"/proc/{answer.listener}").exists():
            return replace(answer, stranger=describe_process(answer.listener))
        # Who called listen(2) has ended; who holds the socket now?
        return replace(answer, stranger=strangers() or "")
    stranger = strangers()
    if stranger is None:
        return Answer(problem="nobody listens", refused=True)
    if stranger:
        return Answer(stranger=stranger)
    answer = ask(address, path, headers=headers, timeout_s=timeout_s)
    # Once more: a listener that came in between could have been the one that answered.
    return replace(answer, stranger=strangers() or "")


def ask_forwarded(address: str, path: str, *, headers: Mapping[str, str], timeout_s: float) -> Answer:
    """Ask behind a socket whose holder accepts in any case and forwards to the instance alone.

    A connection that ends before a byte of an answer means that nobody listens there."""
    answer = ask(address, path, headers=headers, timeout_s=timeout_s)
    nobody = answer.status is None and (
        answer.problem.endswith(CLOSED_EARLY) or answer.problem.startswith(ConnectionResetError.__name__)
    )
    return Answer(problem="nobody listens", refused=True) if nobody else answer


def _are_plain(headers: Mapping[str, str]) -> bool:
    names, values = "".join(headers), "".join(headers.values())
    return all("!" <= c <= "~" for c in names) and all(" " <= c <= "~" for c in values)


def _connect(address: str, deadline: float) -> socket.socket:
    if address.startswith("unix/"):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        target: str | tuple[str, int] = address.removeprefix("unix/")
    else:
        host, _, port = address.rpartition(":")
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        target = (host, int(port))
    try:
        connection.settimeout(_left(deadline))
        connection.connect(target)
    except BaseException:
        connection.close()
        raise
    return connection


def _listener_of(connection: socket.socket) -> int | None:
    if connection.family != socket.AF_UNIX:
        return None
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, _uid, _gid = struct.unpack("3i", credentials)
    return int(pid)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _read(connection: socket.socket, deadline: float, compare_bytes: int) -> Answer:
    data = b""
    for _ in range(1 + INTERIM_MAX):
        head, data = _read_head(connection, deadline, data)
        status_line, _, lines = head.partition(b"\r\n")
        words = status_line.split(b" ", 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not (words[1].isdigit() and len(words[1]) == 3):
            return Answer(problem=f"not HTTP: {status_line[:40]!r}")
        status = int(words[1])
        if not 100 <= status < 200:
            break
    else:
        return Answer(problem="only answers that announce an answer")
    headers: dict[str, str] = {}
    for key, value in http.client.parse_headers(io.BytesIO(lines + b"\r\n\r\n")).items():
        # Doubled headers are joined, so that a doubled proof equals nothing that is wanted.
        headers[key.lower()] = f"{headers[key.lower()]}, {value}" if key.lower() in headers else str(value)
    if compare_bytes:
        return _compare(connection, deadline, data, headers, status, compare_bytes)
    body, problem = _read_body(connection, deadline, data, headers, status)
    return Answer(status=status, headers=headers, body=body, problem=problem)


def _compare(
    connection: socket.socket, deadline: float, rest: bytes, headers: dict[str, str], status: int, bytes_max: int
) -> Answer:
    """Read and hash the first bytes of a body whose length is declared, as that of a file is."""
    length = headers.get("content-length", "")
    if not (length.isascii() and length.isdigit()):
        return Answer(status=status, headers=headers, problem="the length of the body is not said")
    digest, wanted, size, piece = hashlib.sha256(), min(int(length), bytes_max), 0, rest
    while True:
        digest.update(piece[: wanted - size])
        size += min(len(piece), wanted - size)
        if size == wanted:
            return Answer(status=status, headers=headers, read_bytes=size, sha256=digest.hexdigest())
        piece = _receive(connection, deadline)
        if not piece:
            return Answer(status=status, headers=headers, problem="the body was cut")


def _read_head(connection: socket.socket, deadline: float, rest: bytes) -> tuple[bytes, bytes]:
    data = bytearray(rest)
    while b"\r\n\r\n" not in data:
        if len(data) > HEAD_BYTES_MAX:
            raise ValueError("the head of the answer is too long")
        piece = _receive(connection, deadline)
        if not piece:
            raise ValueError("half an answer" if data else CLOSED_EARLY)
        data += piece
    head, _, after = bytes(data).partition(b"\r\n\r\n")
    return head, after


def _read_body(
    connection: socket.socket, deadline: float, rest: bytes, headers: dict[str, str], status: int
) -> tuple[bytes, str]:
    if status in (204, 304):
        return b"", ""
    chunks = _Chunks() if "chunked" in headers.get("transfer-encoding", "").lower() else None
    length = headers.get("content-length", "")
    if length and not (length.isascii() and length.isdigit()) and chunks is None:
        return b"", f"a length of {_visible(length)[:40]}"
    wanted = int(length) if length and chunks is None else None
    if wanted is not None and wanted > BODY_BYTES_MAX:
        return b"", f"a body of {wanted} bytes is too long for a health answer"
    kept, size, piece = bytearray(), 0, rest
    while True:
        size += len(piece)
        body = chunks.feed(piece) if chunks is not None else piece
        kept += body[: BODY_KEPT_BYTES_MAX - len(kept)]
        if (wanted is not None and size >= wanted) or (chunks is not None and chunks.ended):
            return bytes(kept if wanted is None else kept[:wanted]), ""
        if size > BODY_BYTES_MAX:
            return bytes(kept), "an endless body"
        piece = _receive(connection, deadline)
        if not piece:
            # Without a length, the end of the connection is the end of the body.
            return bytes(kept), "" if chunks is None and wanted is None else "the body was cut"


def _receive(connection: socket.socket, deadline: float) -> bytes:
    connection.settimeout(_left(deadline))
    return connection.recv(RECEIVE_BYTES)


class _Chunks:
    """Takes the chunked transfer encoding off a body, piece by piece (RFC 9112, 7.1)."""

    def __init__(self) -> None:
        self.ended = False
        self._left = 0
        self._line = b""
        self._expects = "size"

    def feed(self, data: bytes) -> bytes:
        """Return what of the body is in the next bytes; ValueError when they are not chunks."""
        body = bytearray()
        at = 0
        while at < len(data) and not self.ended:
            if self._left:
                piece = data[at : at + self._left]
                body += piece
                at, self._left = at + len(piece), self._left - len(piece)
                continue
            newline = data.find(b"\n", at)
            end = newline + 1 if newline >= 0 else len(data)
            self._line += data[at:end]
            at = end
            if len(self._line) > CHUNK_LINE_BYTES_MAX:
                raise ValueError("a chunk's line is too long")
            if newline >= 0:
                line, self._line = self._line.rstrip(b"\r\n"), b""
                self._take(line)
        return bytes(body)

    def _take(self, line: bytes) -> None:
        if self._expects == "size":
            size = line.split(b";", 1)[0].strip()
            if not 0 < len(size) <= 16 or size.strip(string.hexdigits.encode()):
                raise ValueError(f"not a chunk: {line[:40]!r}")
            self._left = int(size, 16)
            self._expects = "the end of the chunk" if self._left else "trailers"
        elif self._expects == "trailers":
            self.ended = not line
        elif line:
            raise ValueError("a chunk longer than it says")
        else:
            self._expects = "size"


def strangers_at(address: str, process_ids: Callable[[], frozenset[int]]) -> str | None:
    """Return who else listens at the address, "" when only these processes do, None when nobody listens."""
    for _ in range(STRANGER_LOOKS):
        inodes = _listening_inodes(address)
        if not inodes:
            return None
        # Asked for after the listeners were read: a worker that the app forked in between is among them. One that
        # ended in between is gone from the listeners at the second look.
        inodes -= socket_inodes(process_ids())
        if not inodes:
            return ""
        time.sleep(STRANGER_PAUSE_S)
    return describe_process(holder_of(inodes))


def _listening_inodes(address: str) -> set[str]:
    if address.startswith("unix/"):
        path = address.removeprefix("unix/")
        rows = [line.split() for line in rows_of("/proc/net/unix")]
        return {row[6] for row in rows if len(row) == 8 and row[7] == path and int(row[3], 16) & UNIX_LISTEN_FLAG}
    host, _, port = address.rpartition(":")
    locals_ = {f"{told}:{int(port):04X}" for told in _addresses_that_take(host)}
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for row in (line.split() for line in rows_of(table)):
            if len(row) > 9 and row[3] == LISTEN_STATE and row[1] in locals_:
                found.add(row[9])
    return found


def _addresses_that_take(host: str) -> tuple[str, ...]:
    """Return how /proc/net spells the local addresses that get a connection to `host`: its own, and the wildcards."""
    own = f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}"
    mapped = f"{0:08X}{0:08X}{int.from_bytes(bytes((0, 0, 255, 255)), sys.byteorder):08X}{own}"
    return own, f"{0:08X}", f"{0:032X}", mapped


def _visible(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
