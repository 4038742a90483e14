"""Work out what an installation needs of a machine: every port that it listens on, room, and a clock.

For any Python 3: `install.sh` asks before it has brought one that runs the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

#: The host contract's numbers, by the names of `--port`. Those of slots are production's: preview n is n above.
CONTRACT_PORTS: Mapping[str, int] = {
    "edge": 8088,
    "http": 80,
    "https": 443,
    "api": 8000,
    "worker": 8090,
    "web": 3100,
    "backend": 8100,
    "instance": 8200,
}
#: By so much the instances of colour b lie above those of colour a. There are fewer previews than that.
COLOUR_STEP = 100
PREVIEWS = 3
POSTGRES_PORT, REDIS_PORT = 5432, 6379
PORT_MAX = 65_535
MIB = 1 << 20
#: Below, code, packages and one release do not fit.
FREE_BYTES_MIN = 512 * MIB
#: By how much the clock may lie before the time at which the checkout was made.
CLOCK_SLACK_S = 86_400.0
#: Only root, or a process with CAP_NET_BIND_SERVICE, binds a port below this: ip(7), ip_unprivileged_port_start.
UNPRIVILEGED_MIN = 1024
UNPRIVILEGED = frozenset({"worker", "instance"})
PROBLEMS_SHOWN_MAX = 10
_NUMBER = re.compile(r"[0-9]{1,9}\Z", re.ASCII)


def parse_ports(words: Iterable[str]) -> tuple[dict[str, int], list[str]]:
    """Return the ports that words of the form NAME=NUMBER choose, by name, and every problem with the words."""
    chosen: dict[str, int] = {}
    problems: list[str] = []
    for word in words:
        name, _, number = word.partition("=")
        if name not in CONTRACT_PORTS:
            problems.append(f"--port {word!r:.60}: {name!r:.40} is none of {', '.join(CONTRACT_PORTS)}")
        elif not _NUMBER.match(number):
            problems.append(f"--port {word!r:.60}: write {name}=NUMBER")
        elif chosen.setdefault(name, int(number)) != int(number):
            problems.append(f"--port {name} is given twice: {chosen[name]} and {int(number)}")
    return chosen, problems


def listening(
    first: Mapping[str, int], *, previews: int, has_tls: bool, backend: int | None = None
) -> list[tuple[str, int]]:
    """Return (what, port) for every port of a host, those of Postgres and Redis included.

    `first` has a number for each name. `backend` is production's stable port where it is another than the first of
    its kind; the api's own port: the api is that backend."""
    found = [("api", first["api"]), ("Postgres", POSTGRES_PORT), ("Redis", REDIS_PORT)]
    found += [("edge", first["edge"]), ("worker health", first["worker"])]
    if has_tls:
        found += [("edge, HTTPS", first["https"]), ("edge, HTTP", first["http"])]
    for slot in range(previews + 1):
        name = f"preview-{slot}" if slot else "main"
        stable = backend if backend is not None and slot == 0 else first["backend"] + slot
        found.append((f"{name} web", first["web"] + slot))
        if stable != first["api"] or slot or backend is None:
            found.append((f"{name} backend", stable))
        found.append((f"{name} instance a", first["instance"] + slot))
        found.append((f"{name} instance b", first["instance"] + COLOUR_STEP + slot))
    return found


def port_problems(
    first: Mapping[str, int], *, previews: int, has_tls: bool, backend: int | None = None
) -> tuple[str, ...]:
    """Return why a host cannot listen on these ports: out of range, or two parts on one. Arguments: `listening`."""
    problems: list[str] = []
    for name, lowest in first.items():
        highest = lowest + {"web": previews, "backend": previews, "instance": previews + COLOUR_STEP}.get(name, 0)
        least = UNPRIVILEGED_MIN if name in UNPRIVILEGED else 1
        if lowest < least or highest > PORT_MAX:
            needs = f"takes {lowest} to {highest}, which is" if highest > lowest else "is"
            problems.append(f"--port {name}={lowest} {needs} not within {least} to {PORT_MAX}")
    if first["edge"] == CONTRACT_PORTS["https"]:
        problems.append("--port edge=443: the edge speaks HTTP on loopback, and Caddy refuses that at 443")
    by_port: dict[int, list[str]] = {}
    for what, port in listening(first, previews=previews, has_tls=has_tls, backend=backend):
        by_port.setdefault(port, []).append(what)
    shared = [f"port {port} would be that of {' and '.join(whose)}" for port, whose in by_port.items() if whose[1:]]
    more = len(shared) - PROBLEMS_SHOWN_MAX
    problems += [*shared[:PROBLEMS_SHOWN_MAX], *([f"and {more} more ports would be those of two"] if more > 0 else [])]
    return tuple(problems)
