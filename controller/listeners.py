"""Find where processes listen, and which process holds a socket, from /proc (proc_pid_net(5), proc_pid_fd(5))."""

from __future__ import annotations

import os
import pwd
import socket
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

LISTEN_STATE = "0A"
_TABLES = {socket.AF_INET: "tcp", socket.AF_INET6: "tcp6"}


def listeners_of(process_ids: Iterable[int]) -> tuple[str, ...]:
    """Return every TCP address at which these processes listen, in order."""
    ids = list(process_ids)
    inodes = socket_inodes(ids)
    return tuple(sorted(address for address, inode in _listening(ids) if inode in inodes))


def listeners_in_network_of(process_ids: Iterable[int]) -> tuple[str, ...]:
    """Return every TCP address at which something listens in the network of these processes, in order: whose it is
    need not be seen where the network is theirs alone."""
    return tuple(sorted({address for address, _ in _listening(process_ids)}))


def _listening(process_ids: Iterable[int]) -> Iterator[tuple[str, str]]:
    """Yield (address, inode) of every listener in the network of the first of these processes that is still there."""
    for pid in process_ids:
        tables = {family: rows_of(f"/proc/{pid}/net/{name}") for family, name in _TABLES.items()}
        if any(tables.values()):
            for family, lines in tables.items():
                for row in (line.split() for line in lines):
                    if len(row) > 9 and row[3] == LISTEN_STATE:
                        yield _spelled(family, row[1]), row[9]
            return


def _spelled(family: socket.AddressFamily, local: str) -> str:
    """Return an address as people write it: /proc/net has words of 32 bits in the machine's order."""
    told, _, port = local.partition(":")
    words = [int(told[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(told), 8)]
    host = socket.inet_ntop(family, b"".join(words))
    return f"[{host}]:{int(port, 16)}" if family == socket.AF_INET6 else f"{host}:{int(port, 16)}"


def rows_of(path: str) -> list[str]:
    """Return the lines of a table of the kernel's below its heading; none when it cannot be read."""
    try:
        return Path(path).read_text(errors="replace").splitlines()[1:]
    except OSError:
        return []


def socket_inodes(process_ids: Iterable[int]) -> set[str]:
    """Return the inodes of every socket that these processes hold, as far as we may see."""
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


def taking_loopback() -> dict[int, set[str]]:
    """Return the inodes of the sockets that get connections to 127.0.0.1, by their port: those bound to that address,
    else those bound to a wildcard."""
    bound: dict[int, set[str]] = {}
    wildcard: dict[int, set[str]] = {}
    for address, inode in _listening([os.getpid()]):
        host, _, port = address.rpartition(":")
        if host in ("127.0.0.1", "[::ffff:127.0.0.1]"):
            bound.setdefault(int(port), set()).add(inode)
        elif host in ("0.0.0.0", "[::]"):  # noqa: S104 - what others listen at
            wildcard.setdefault(int(port), set()).add(inode)
    return {**wildcard, **bound}


def holder_of(inodes: set[str], *, among: Iterable[int] | None = None) -> int | None:
    """Return a process that holds one of these sockets, as far as we may see."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit()) if among is None else among
    return next((pid for pid in pids if socket_inodes([pid]) & inodes), None)


def describe_process(pid: int | None) -> str:
    """Return a process in words: its name, its id, its user, and its systemd unit if it has one."""
    if pid is None:
        return "a process that we cannot see"
    try:
        command = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return f"process {pid}, which has ended"
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    unit = _unit_of(pid)
    shown = "".join(c if c.isprintable() else "?" for c in command)
    return f"{shown} (process {pid} of {user}{f', {unit}' if unit else ''})"


def _unit_of(pid: int) -> str:
    """Return the innermost unit in a process' control group (cgroups(7)); "" when there is none."""
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return ""
    # Hybrid hosts have systemd's units in the hierarchy of that name as well.
    paths = [line.split(":", 2)[2] for line in groups if line.startswith("0::") or ":name=systemd:" in line]
    names = [name for path in paths for name in reversed(path.split("/"))]
    return next((name for name in names if name.endswith((".service", ".scope", ".socket"))), "")
