"""What do we tell the service manager about ourselves? sd_notify(3), without a library; nothing where there is none."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(text: str) -> None:
    """Send `READY=1`, `WATCHDOG=1`, `STATUS=…` and the like. A service manager that is away is not our failure."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
        # A name that begins with @ is of the abstract namespace (unix(7)).
        to.sendto(text.encode(), "\0" + address[1:] if address.startswith("@") else address)
