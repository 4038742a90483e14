"""What does the host contract call healthy? Every endpoint of a host, and the judgement of what each answered.

The contract's "Health Endpoints": the web surface and the backend of each slot, api, worker, Postgres, Redis; and the
reverse proxy, whose row has no endpoint of its own, so it is asked for production's. A surface says which slot it is:
another program that answers 200 on its port is not well. A free slot is well when its surface says that it is free.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from controller.model.names import MAIN, SlotName, Topology, unit_instance

#: The contract's path, on a port of loopback and under a name of loopback. Under a public name it is the app's.
HEALTH_PATH = "/health"
#: Below it lies what we ask ourselves through surface and edge, under a public name; no app is asked for it.
RESERVED_PATH = "/.well-known/oroboros"
#: Of a slot: is it well? It names no release.
PUBLIC_HEALTH_PATH = f"{RESERVED_PATH}/health"
SAID_CHARS_MAX = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Something that is asked how it is."""

    service: str
    unit: str
    kind: Literal["http", "postgres", "redis"]
    #: `127.0.0.1:3100`, or the path of a Unix socket.
    address: str
    #: The Host header of "http".
    host: str = "127.0.0.1"
    #: The path of "http".
    path: str = HEALTH_PATH
    #: The slot that must answer, of a surface.
    slot: SlotName | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What an endpoint said, or what kept it from saying anything."""

    status: int | None = None
    said: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceHealth:
    """One line of the answer."""

    service: str
    unit: str
    address: str
    ok: bool
    said: str
    took_ms: int


def release_path(release: str) -> str:
    """Return the path at which a surface says 200 while it serves this release, and 404 while it does not."""
    return f"{RESERVED_PATH}/release/{release}"


def gate_path(release: str) -> str:
    """Return the path at which a surface asks the instance of this release what its gate asks, and answers with the
    instance's status and proof, without its body; 404 while it serves another release."""
    return f"{RESERVED_PATH}/gate/{release}"


def endpoints(topology: Topology, *, postgres: str, redis: str) -> tuple[Endpoint, ...]:
    """Return every endpoint of a host with this topology, in the contract's order; the last two at these addresses."""
    ports = topology.ports

    def http(
        service: str,
        unit: str,
        port: int,
        *,
        slot: SlotName | None = None,
        host: str = "127.0.0.1",
        path: str = HEALTH_PATH,
    ) -> Endpoint:
        return Endpoint(
            service=service,
            unit=f"{unit}.service",
            kind="http",
            address=f"127.0.0.1:{port}",
            host=host,
            path=path,
            slot=slot,
        )

    return (
        http(
            "reverse-proxy", "ouroboros-caddy", ports.edge, slot=MAIN, host=topology.host(MAIN), path=PUBLIC_HEALTH_PATH
        ),
        *(http(f"web-{slot}", surface_unit(slot), ports.web(slot), slot=slot) for slot in topology.slots),
        http("api", "ouroboros-api", ports.api),
        # The surface listens there for the slot's instance, whichever of the two serves.
        *(
            http(f"api-{slot}", surface_unit(slot), topology.backend_port(slot), slot=slot)
            for slot in topology.preview_slots
        ),
        http("worker", "ouroboros-worker", ports.worker_health),
        Endpoint(service="postgres", unit="postgresql.service", kind="postgres", address=postgres),
        Endpoint(service="redis", unit="redis.service", kind="redis", address=redis),
    )


#: What a switch of production answers for, besides `web-main`. The rows of previews change with their pull requests;
#: while the worker or Postgres is away nothing is judged at all, and the window begins anew.
SHARED_ROWS = frozenset({"reverse-proxy", "api", "redis"})


def rows_of_production(topology: Topology, *, redis: str) -> tuple[Endpoint, ...]:
    """Return the rows that a switch of production answers for."""
    every = endpoints(topology, postgres="", redis=redis)
    return tuple(row for row in every if row.service in SHARED_ROWS or row.service == f"web-{MAIN}")


def surface_unit(slot: SlotName) -> str:
    """Return the unit of a slot's surface, without its ending: `ouroboros-web@preview1`."""
    return f"ouroboros-web@{unit_instance(slot)}"


def describe_unwell(unwell: Iterable[ServiceHealth]) -> str:
    """Return which services are not well and why, in one line."""
    return "; ".join(f"{one.service}: {one.said}" for one in unwell)


def judge(endpoint: Endpoint, answered: Answered, *, took_ms: int) -> ServiceHealth:
    """Return whether an endpoint is well, in words."""
    problem = _problem(endpoint, answered)
    said = problem or _in_short(answered)
    return ServiceHealth(
        service=endpoint.service,
        unit=endpoint.unit,
        address=endpoint.address,
        ok=not problem,
        said=said if len(said) <= SAID_CHARS_MAX else f"{said[: SAID_CHARS_MAX - 1]}…",
        took_ms=took_ms,
    )


def _problem(endpoint: Endpoint, answered: Answered) -> str:
    if answered.problem:
        return answered.problem
    if endpoint.kind != "http":
        return ""
    if answered.status != 200:
        return f"answers {answered.status}: {_in_short(answered)}".rstrip(": ")
    if endpoint.slot is None:
        return "; ".join(_troubles_in(answered.said))
    who = surface_says(answered.said).get("slot")
    return "" if who == endpoint.slot else f"another program answers: it does not say that it is {endpoint.slot}"


def surface_says(body: str) -> dict[str, object]:
    """Return what a surface says of its slot; {} when it was no surface that answered."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) and isinstance(value.get("slot"), str) else {}


def _in_short(answered: Answered) -> str:
    surface = surface_says(answered.said)
    if not surface and answered.status == 200:
        return "; ".join([_status_in(answered.said), *_troubles_in(answered.said)]) or _one_line(answered.said)
    if surface:
        release = surface.get("release")
        words = [str(surface.get("state")), str(release)[:7] if isinstance(release, str) else ""]
        words += [] if surface.get("healthy") is True else ["not healthy"]
        return " ".join(word for word in words if word)
    return _one_line(answered.said)


def _status_in(body: str) -> str:
    try:
        value = json.loads(body)
    except ValueError:
        return ""
    status = value.get("status") if isinstance(value, dict) else None
    return status if isinstance(status, str) else ""


def _troubles_in(body: str) -> list[str]:
    """Return what the worker tells its operator that fails for long."""
    try:
        value = json.loads(body)
    except ValueError:
        return []
    troubles = value.get("troubles") if isinstance(value, dict) else None
    return [str(one) for one in troubles] if isinstance(troubles, list) else []


def _one_line(text: str) -> str:
    return " ".join(text.split())
