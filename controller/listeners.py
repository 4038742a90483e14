"""Where do processes listen? Reads /proc/net and /proc/<pid>/fd (proc_pid_net(5), proc_pid_fd(5))."""

from __future__ import annotations

import os
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
