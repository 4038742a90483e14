"""What may the console read? JSON under `/api/`, the same views as the commands print; nothing can be changed here.

Rules. (1) Reading only, in a read-only transaction with the store's own deadlines; every list is bounded. (2) No
secret and no body of a delivery is in any view. (3) Every path of the whole server says in `ACCESS` who may call it,
and a test holds that against the routes. (4) `PUBLIC_READ` is for loopback: the edge, the console and people on this
host; another client, or a Host header that is not ours (a page that rebinds its own name to 127.0.0.1), is refused.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum

import anyio
import anyio.to_thread
import psycopg
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from controller.doors import views
from controller.doors.policies import read_freezes
from controller.doors.stacks import utc_now
from controller.effects.stack_files import read_topology
from controller.effects.store import Store
from controller.model.config import Settings
from controller.model.errors import ConfigInvalid, OroborosError, Refused, Unavailable
from controller.model.names import Topology

#: Readers at a time: the receiver's connections to Postgres are worth more.
READERS_MAX = 4

log = logging.getLogger(__name__)


class Access(StrEnum):
    """Who may call a path."""

    SIGNED = "signed"  # who knows a webhook secret: verified by the receiver itself
    PUBLIC_READ = "public read"  # whoever reaches loopback; reading only
    PUBLIC_HEALTH = "public health"  # says only whether we are fit


#: Every path of the server, and who may call it.
ACCESS: Mapping[str, Access] = {
    "/webhooks/github": Access.SIGNED,
    "/health": Access.PUBLIC_HEALTH,
    "/api/status": Access.PUBLIC_READ,
    "/api/slots": Access.PUBLIC_READ,
    "/api/runs": Access.PUBLIC_READ,
    "/api/runs/{generation:int}": Access.PUBLIC_READ,
    "/api/releases": Access.PUBLIC_READ,
    "/api/deliveries": Access.PUBLIC_READ,
}

#: Reads of the store and of this host's links: (store, topology, request) to something `views.to_json` takes.
Reader = Callable[[Store, Topology, Request], object]


def routes(settings: Settings) -> list[Route]:
    """Return the routes of the JSON API. Each request reads over a connection of its own, few at a time."""
    layout = settings.layout
    limiter = anyio.CapacityLimiter(READERS_MAX)
    readers: dict[str, Reader] = {
        "/api/status": lambda s, topology, _: views.read_status(
            s, layout, topology, freezes=read_freezes(settings, s), now=utc_now()
        ),
        "/api/slots": lambda s, topology, _: {"slots": views.read_slots(s, layout, topology)},
        "/api/runs": lambda s, _, request: {"runs": views.read_runs(s, limit=_limit(request))},
        "/api/runs/{generation:int}": _read_run,
        "/api/releases": lambda s, topology, _: {"releases": views.read_releases(s, layout, topology)},
        "/api/deliveries": lambda s, _, request: {"deliveries": views.read_deliveries(s, limit=_limit(request))},
    }
    return [
        Route(path, _endpoint(settings, limiter, reader), methods=["GET"])
        for path, reader in readers.items()
        if ACCESS[path] is Access.PUBLIC_READ
    ]


def _endpoint(
    settings: Settings, limiter: anyio.CapacityLimiter, reader: Reader
) -> Callable[[Request], Awaitable[Response]]:
    def read(request: Request) -> object:
        topology = read_topology(settings.layout)
        _require_ours(request, topology)
        store = Store(settings.database_url, repository=settings.repository, host=settings.host)
        with contextlib.closing(store):
            return views.to_json(reader(store, topology, request))

    async def endpoint(request: Request) -> Response:
        try:
            return _answer(await anyio.to_thread.run_sync(read, request, limiter=limiter), 200)
        except OroborosError as error:
            return _answer({"error": error.reason, "message": error.message}, _status(error))
        except psycopg.Error:
            log.exception("api: the store refused a reading query", extra={"action": "api.query"})
            return _answer({"error": "DatabaseRefused", "message": "the store cannot be read right now"}, 503)

    return endpoint


def _read_run(store: Store, _topology: Topology, request: Request) -> object:
    generation = int(request.path_params["generation"])
    found = views.read_run(store, generation) if generation < 1 << 63 else None
    if found is None:
        raise Refused("RunUnknown", f"there is no run {generation}", status_hint=404)
    return found


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", str(views.LIMIT_DEFAULT))
    if not (text.isascii() and text.isdecimal() and len(text) <= 6 and 1 <= int(text) <= views.LIMIT_MAX):
        raise Refused("LimitInvalid", f"limit must be a number from 1 to {views.LIMIT_MAX}", status_hint=400)
    return int(text)


def _require_ours(request: Request, topology: Topology) -> None:
    """Refuse who does not come over loopback, or calls us by a name that is not ours."""
    client = request.client.host if request.client is not None else ""
    if client and not _is_loopback(client):
        raise Refused("LoopbackOnly", "this API answers on this host only")
    host = request.headers.get("host", "")
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    if not is_our_name(name, topology):
        raise Refused("HostUnknown", "this host is not called that", status_hint=403)


def is_our_name(name: str, topology: Topology) -> bool:
    """Say whether a Host header's name is one of ours. Pure."""
    name = name.strip("[]").lower().rstrip(".")
    return (
        name == "localhost"
        or name.endswith((".localhost", f".{topology.base_host}"))
        or name == topology.base_host
        or _is_loopback(name)
    )


def _is_loopback(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False


def _status(error: OroborosError) -> int:
    match error:
        case Refused():
            return error.status_hint
        case Unavailable() | ConfigInvalid():
            return 503
    return 500


def _answer(content: object, status: int) -> Response:
    return JSONResponse(content, status_code=status, headers={"Cache-Control": "no-store"})
