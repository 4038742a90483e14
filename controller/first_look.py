"""Print what keeps a host from being installed, before any package of ours is there: install.sh asks, of any Python 3.

Ports that are chosen badly or held by others, the disk, the clock. `oroboros install` looks at them again, and at what
the packages bring.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from controller.listeners import describe_process, holder_of, taking_loopback
from controller.model.machine_needs import (
    CLOCK_SLACK_S,
    CONTRACT_PORTS,
    FREE_BYTES_MIN,
    MIB,
    POSTGRES_PORT,
    PREVIEWS,
    REDIS_PORT,
    listening,
    parse_ports,
    port_problems,
)

TOPOLOGY = Path("/etc/oroboros/topology.json")
#: Without it nothing of ours runs: `oroboros uninstall` leaves the topology.
UNIT = Path("/usr/local/lib/systemd/system/ouroboros-api.service")
LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"
WRITTEN = ("/opt/oroboros", "/srv/oroboros", "/etc/oroboros", "/var/lib/postgresql")
#: What listens on a port as soon as a package of Debian's is installed.
BROUGHT = {"postgresql": POSTGRES_PORT, "redis-server": REDIS_PORT}


class _Words(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def wanted(words: Sequence[str], installed: Mapping[str, object]) -> tuple[list[tuple[str, int]], list[str]]:
    """Return (what, port) for all that an installation with these options listens on, and what is wrong with them."""
    parser = _Words(add_help=False, allow_abbrev=False)
    for name in ("port", "unset"):
        parser.add_argument(f"--{name}", action="append", default=[])
    parser.add_argument("--previews", type=int)
    parser.add_argument("--backend-port", type=int)
    parser.add_argument("--tls")
    parser.add_argument("--control-plane")
    try:
        given = parser.parse_known_args(words)[0]
    except ValueError as error:
        return [], [str(error)]
    before = {name: value for name, value in installed.items() if name.replace("_", "-") not in given.unset}
    if "backend-port" in given.unset or installed.get("control_plane") == "current":
        before.pop("production_backend_port", None)  # in the second case it follows the api's
    remembered = before.get("ports")
    chosen, problems = parse_ports(given.port)
    first = dict(CONTRACT_PORTS)
    if isinstance(remembered, dict):
        first.update({name: port for name, port in remembered.items() if f"port-{name}" not in given.unset})
    first.update(chosen)

    def value(said: object, name: str, default: object) -> object:
        return before.get(name, default) if said is None else said

    backend = value(given.backend_port, "production_backend_port", None)
    if value(given.control_plane, "control_plane", "installed") == "current":
        backend = first["api"]
    told = value(given.previews, "previews", PREVIEWS)
    previews = told if isinstance(told, int) else PREVIEWS
    has_tls = value(given.tls, "tls", "off") != "off"
    stable = backend if isinstance(backend, int) else None
    problems += port_problems(first, previews=previews, has_tls=has_tls, backend=stable)
    return listening(first, previews=previews, has_tls=has_tls, backend=stable), problems


def main(words: Sequence[str]) -> None:
    """Print a line for each problem. WORDS: the packages that are missing, `--`, the options of the installation."""
    missing, options = words[: words.index("--")], words[words.index("--") + 1 :]
    try:
        installed = json.loads(TOPOLOGY.read_text())
    except (OSError, ValueError):
        installed = {}
    ports, problems = wanted(options, installed)
    of_others = {port for name, port in BROUGHT.items() if name not in missing}
    runs = UNIT.exists()
    # Of a host that runs, what is taken is a warning of `oroboros install`: an upgrade may be what mends the rest.
    kept = set(wanted([], installed)[0]) if runs else set()
    taking = taking_loopback()
    for what, port in ports:
        if port not in taking or port in of_others or (what, port) in kept:
            continue
        pid = holder_of(taking[port])
        # There systemd itself holds our ports, and lets go of one before another of ours opens it.
        if not (runs and pid in (None, 1)):
            problems.append(f"port {port} ({what}) is held by {describe_process(pid)}")
    for folder in WRITTEN:
        there = next(path for path in (Path(folder), *Path(folder).parents) if path.is_dir())
        status = os.statvfs(there)
        if status.f_bavail * status.f_frsize < FREE_BYTES_MIN:
            free = status.f_bavail * status.f_frsize // MIB
            problems.append(f"{folder} has {free} MiB free, {FREE_BYTES_MIN // MIB} are needed")
    if time.time() < LOCK.stat().st_mtime - CLOCK_SLACK_S:
        problems.append("the clock is more than a day before this checkout was made: timedatectl set-ntp true")
    for problem in problems:
        print(problem)


if __name__ == "__main__":
    main(sys.argv[1:])
