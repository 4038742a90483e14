"""Start the edge's public listener once its ports can be bound. Root's fixed launcher; it runs as the edge's user.

    edge_launcher.py PORT… -- COMMAND…

While another process has a port it waits, with a growing pause, and the journal has one line of it: a Caddy that cannot
bind would end at once, again and again. Then this process becomes the command. A surface waits in the same way.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

PAUSE_MIN_S, PAUSE_MAX_S = 0.25, 5.0
#: Journald's prefix of an error, see sd-daemon(3).
ERROR = "<3>"
NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


def main(words: list[str]) -> NoReturn:
    """Wait for the ports, then become the command; never returns."""
    at = words.index("--")
    ports, command = [int(word) for word in words[:at]], words[at + 1 :]
    await_ports(ports, why_not)
    os.execv(command[0], command)  # noqa: S606 - no shell is the point


def await_ports(ports: Sequence[int], why_not: Callable[[int], str]) -> None:
    """Wait until each port can be bound, and say it once while another process has one."""
    told: list[str] = []
    pause_s = PAUSE_MIN_S
    while problems := [problem for port in ports if (problem := why_not(port))]:
        if problems != told:
            told = problems
            said = f"{'; '.join(problems)}: waiting; `sudo oroboros doctor` names the process that has it"
            print(f"{ERROR}{said}", file=sys.stderr, flush=True)
        time.sleep(pause_s)
        pause_s = min(PAUSE_MAX_S, pause_s * 2)


def why_not_here(port: int) -> str:
    """Return why a port of loopback cannot be listened on; "" when it can."""
    try:
        _listen(socket.AF_INET, "127.0.0.1", port)
    except OSError as error:
        return f"port {port} cannot be bound: {error.strerror}"
    return ""


def why_not(port: int) -> str:
    """Return why a port cannot be listened on at every address; "" when it can."""
    try:
        _listen(socket.AF_INET6, "::", port)
    except OSError as error:
        if error.errno not in NO_IPV6:
            return f"port {port} cannot be bound: {error.strerror}"
        try:
            _listen(socket.AF_INET, "0.0.0.0", port)  # noqa: S104 - as the edge does
        except OSError as without:
            return f"port {port} cannot be bound: {without.strerror}"
    return ""


def _listen(family: socket.AddressFamily, host: str, port: int) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        probe.bind((host, port))
        probe.listen(1)


if __name__ == "__main__":
    main(sys.argv[1:])
