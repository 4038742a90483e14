"""What does something answer, and whose is the socket that answered? One probe at a time, bounded in time and bytes.

A probe has one deadline for all of it, follows no redirect, uses no proxy, and keeps at most a few KiB however much is
sent. The owner of a listener is read from /proc/net and /proc/<pid>/fd (proc_pid_net(5), proc_pid_fd(5)).
"""

from __future__ import annotations

import http.client
import io
import os
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

HEAD_BYTES_MAX = 32 << 10
#: A page may be large; an endless one is not a page.
BODY_BYTES_MAX = 4 << 20
#: Of a body, for messages and for comparing small static files.
BODY_KEPT_BYTES_MAX = 256 << 10
RECEIVE_BYTES = 64 << 10
LISTEN_STATE = "0A"
UNIX_LISTEN_FLAG = 0x10000


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back, whole; or why nothing usable did, in `problem`."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    #: The first bytes of the body as it was sent, without transfer encoding.
    body: bytes = b""
    problem: str = ""
    #: The connection was not accepted at all: nobody listens (yet).
    refused: bool = False


def ask(address: str, path: str, *, host: str, timeout_s: float) -> Answer:
    """GET `path` at `127.0.0.1:port` or `unix//path`; return the answer or what was wrong with it. Never raises."""
    deadline = time.monotonic() + timeout_s
    try:
        with _connect(address, deadline) as connection:
            request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: oroboros-gate\r\nAccept: */*\r\n"
            connection.sendall((request + "Connection: close\r\n\r\n").encode("ascii", "replace"))
            return _read(connection, deadline)
    except ConnectionRefusedError:
        return Answer(problem="nobody listens", refused=True)
    except FileNotFoundError:
        return Answer(problem="the socket is not there", refused=True)
    except TimeoutError:
        return Answer(problem=f"no whole answer within {timeout_s:g} s")
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answer(problem=f"{type(error).__name__}: {error}"[:160])


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


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _read(connection: socket.socket, deadline: float) -> Answer:
    data = bytearray()
    while b"\r\n\r\n" not in data:
        if len(data) > HEAD_BYTES_MAX:
            return Answer(problem="the head of the answer is too long")
        piece = _receive(connection, deadline)
        if not piece:
            return Answer(problem="the connection was closed before an answer" if not data else "half an answer")
        data += piece
    head, _, rest = bytes(data).partition(b"\r\n\r\n")
    status_line, _, lines = head.partition(b"\r\n")
    words = status_line.split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        return Answer(problem=f"not HTTP: {status_line[:40]!r}")
    message = http.client.parse_headers(io.BytesIO(lines + b"\r\n\r\n"))
    headers = {key.lower(): str(value) for key, value in message.items()}
    status = int(words[1])
    body, problem = _read_body(connection, deadline, rest, headers, status)
    return Answer(status=status, headers=headers, body=body, problem=problem)


def _read_body(
    connection: socket.socket, deadline: float, rest: bytes, headers: dict[str, str], status: int
) -> tuple[bytes, str]:
    chunked = "chunked" in headers.get("transfer-encoding", "").lower()
    length = headers.get("content-length")
    wanted = int(length) if length is not None and length.isdigit() and not chunked else None
    if status in (204, 304):
        return b"", ""
    if wanted is not None and wanted > BODY_BYTES_MAX:
        return rest[:BODY_KEPT_BYTES_MAX], f"a body of {wanted} bytes is too long for a health answer"
    kept, size = bytearray(rest[:BODY_KEPT_BYTES_MAX]), len(rest)
    tail = rest[-5:]
    while not (wanted is not None and size >= wanted) and not (chunked and tail.endswith(b"0\r\n\r\n")):
        if size > BODY_BYTES_MAX:
            return bytes(kept), "an endless body"
        piece = _receive(connection, deadline)
        if not piece:
            if chunked or wanted is not None:
                return bytes(kept), "the body was cut"
            break
        size += len(piece)
        tail = (tail + piece)[-5:]
        if len(kept) < BODY_KEPT_BYTES_MAX:
            kept += piece[: BODY_KEPT_BYTES_MAX - len(kept)]
    return (_unchunk(bytes(kept)) if chunked else bytes(kept)), ""


def _receive(connection: socket.socket, deadline: float) -> bytes:
    connection.settimeout(_left(deadline))
    return connection.recv(RECEIVE_BYTES)


def _unchunk(data: bytes) -> bytes:
    body = bytearray()
    while data:
        line, _, data = data.partition(b"\r\n")
        try:
            size = int(line.split(b";", 1)[0], 16)
        except ValueError:
            break
        if size == 0:
            break
        body += data[:size]
        data = data[size + 2 :]
    return bytes(body)


def strangers_at(address: str, process_ids: Iterable[int]) -> str | None:
    """Return who else listens at the address, "" when only these processes do, None when nobody listens."""
    inodes = _listening_inodes(address)
    if not inodes:
        return None
    ours = _socket_inodes(process_ids)
    if inodes <= ours:
        return ""
    return _owner_of(inodes - ours)


def _listening_inodes(address: str) -> set[str]:
    if address.startswith("unix/"):
        path = address.removeprefix("unix/")
        rows = [line.split() for line in _lines("/proc/net/unix")]
        return {row[6] for row in rows if len(row) == 8 and row[7] == path and int(row[3], 16) & UNIX_LISTEN_FLAG}
    port = f"{int(address.rpartition(':')[2]):04X}"
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for row in (line.split() for line in _lines(table)):
            if len(row) > 9 and row[3] == LISTEN_STATE and row[1].endswith(f":{port}"):
                found.add(row[9])
    return found


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()[1:]
    except OSError:
        return []


def _socket_inodes(process_ids: Iterable[int]) -> set[str]:
    found = set()
    for pid in process_ids:
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for name in names:
            try:
                target = os.readlink(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue
            if target.startswith("socket:["):
                found.add(target[8:-1])
    return found


def _owner_of(inodes: set[str]) -> str:
    for name in os.listdir("/proc"):
        if name.isdigit() and _socket_inodes([int(name)]) & inodes:
            try:
                command = Path(f"/proc/{name}/comm").read_text().strip()
            except OSError:
                command = "?"
            return f"process {name} ({''.join(c for c in command if c.isprintable())[:30]})"
    return "a process that we cannot see"
