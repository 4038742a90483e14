"""How does a slot's surface start on a host? Its environment becomes a configuration, and this process becomes Caddy.

It needs neither database nor topology: what a surface must know is in its environment, so it comes back after a reboot
with everything else away. A port that systemd opened is taken over; any other the surface opens itself.
On a host it runs on the system's Python, with the standard library alone: see `controller.control_launcher`.

    python3 -m controller.doors.surface SLOT --caddy CADDY
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from controller.decisions.surfaces import (
    FIRST_PASSED,
    WEB_PAGES,
    read_surface_environment,
    render_surface,
    surface_ports,
)
from controller.edge_launcher import await_ports, why_not_here
from controller.effects.stack_files import write_private
from controller.model.errors import ConfigInvalid, OroborosError, Unavailable
from controller.model.names import HOST_APP, HOST_CADDY, HOST_LAYOUT, SURFACE_CONFIG, Layout, SlotName, parse_slot

_OUR_CODE = Path(__file__).resolve().parents[2]
#: Of an installation by its link: the configuration is the same after an upgrade that leaves it alone.
_OUR_PAGES = (HOST_APP if HOST_APP.resolve() == _OUR_CODE else _OUR_CODE) / WEB_PAGES


#: Journald's prefix of an error, see sd-daemon(3).
_ERROR = "<3>"


def main(words: list[str]) -> NoReturn:
    """Become the surface of a host's slot; never returns."""
    slot, *more = words
    caddy = Path(more[more.index("--caddy") + 1]) if "--caddy" in more else HOST_CADDY
    root, run = (os.environ.get(name, "").strip() for name in ("OROBOROS_ROOT", "OROBOROS_RUN"))
    layout = Layout(Path(root) if root else HOST_LAYOUT.root, Path(run) if run else None)
    try:
        become_surface(parse_slot(slot), layout, os.environ, caddy=caddy)
    except (OroborosError, ValueError) as error:
        print(f"{_ERROR}oroboros: surface of {slot}: {error}", file=sys.stderr, flush=True)
        sys.exit(1)


def become_surface(slot: SlotName, layout: Layout, environ: Mapping[str, str], *, caddy: Path) -> NoReturn:
    """Write the configuration of a slot's surface, and become the Caddy that runs it."""
    prepared = prepare_surface(slot, layout, environ, caddy=caddy)
    await_ports(prepared.binds, why_not_here)
    os.execve(prepared.argv[0], prepared.argv, dict(prepared.environment))  # noqa: S606 - no shell, on purpose


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What this process is to become."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    #: Ports that systemd did not open for it.
    binds: tuple[int, ...]


def prepare_surface(slot: SlotName, layout: Layout, environ: Mapping[str, str], *, caddy: Path) -> Prepared:
    """Write the configuration of a slot's surface, and return the Caddy that runs it. Safe to repeat.

    `RUNTIME_DIRECTORY` and `LOGS_DIRECTORY` are systemd's names of the unit's own folders."""
    told = read_surface_environment(environ)
    folders = {name: environ.get(name, "").partition(":")[0] for name in ("RUNTIME_DIRECTORY", "LOGS_DIRECTORY")}
    problems = tuple(f"{name}: is not set to a folder" for name, path in folders.items() if not path.startswith("/"))
    if problems:
        raise ConfigInvalid("EnvironmentInvalid", "; ".join(problems), problems=problems)
    if not os.access(caddy, os.X_OK):
        raise Unavailable("PartMissing", f"{caddy} is no program; install again, or name a Caddy with --caddy")
    home = Path(folders["RUNTIME_DIRECTORY"])
    opened = passed_listeners(environ)
    config = render_surface(
        layout,
        slot,
        told,
        log_dir=Path(folders["LOGS_DIRECTORY"]),
        our_pages=_OUR_PAGES,
        passed={port: opened[port] for port in surface_ports(told) if port in opened},
    )
    try:
        write_private(home / SURFACE_CONFIG, json.dumps(config))
    except OSError as error:
        raise Unavailable("NotWritten", f"{home / SURFACE_CONFIG}: {error.strerror or error}") from error
    return Prepared(
        argv=(str(caddy), "run", "--config", str(home / SURFACE_CONFIG)),
        # Caddy keeps small files of its own, which nobody misses after a restart.
        environment={**environ, "HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_CONFIG_HOME": str(home)},
        binds=tuple(port for port in surface_ports(told) if port not in opened),
    )


def passed_listeners(environ: Mapping[str, str]) -> dict[int, int]:
    """Return the loopback ports that systemd passes to this process, with their descriptors (sd_listen_fds(3))."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    found: dict[int, int] = {}
    for descriptor in range(FIRST_PASSED, FIRST_PASSED + int(environ.get("LISTEN_FDS", "0"))):
        with socket.socket(fileno=os.dup(descriptor)) as listener:
            host, port = listener.getsockname()[:2]
        if host == "127.0.0.1":
            found[port] = descriptor
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
