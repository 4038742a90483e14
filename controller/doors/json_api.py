"""What may the console read? JSON under `/api/`, the same views as the commands print; nothing can be changed here.

Rules. (1) Reading only, in a read-only transaction with the store's own deadlines; every list is bounded. (2) No
secret and no body of a delivery is in any view. (3) Titles, branches and reasons of a private repository are: whoever
asks must know the operator's token, which the server checks before a route of ours is called (`decisions/access`).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable

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
        "/api/runs/{generation}": _read_run,
        "/api/releases": lambda s, topology, request: {
            "releases": views.read_releases(s, layout, topology),
            "history": views.read_release_history(s, limit=_limit(request)),
        },
        "/api/deliveries": lambda s, _, request: {"deliveries": views.read_deliveries(s, limit=_limit(request))},
    }
    return [Route(path, _endpoint(settings, limiter, reader), methods=["GET"]) for path, reader in readers.items()]


def _endpoint(
    settings: Settings, limiter: anyio.CapacityLimiter, reader: Reader
) -> Callable[[Request], Awaitable[Response]]:
    def read(request: Request) -> object:
        topology = read_topology(settings.layout)
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
    text = request.path_params["generation"]
    if not (text.isascii() and text.isdecimal()):
        raise Refused("RunUnknown", "a run is known by its number, as in /api/runs/7", status_hint=404)
    generation = int(text) if len(text) < 19 else 0
    found = views.read_run(store, generation)
    if found is None:
        raise Refused("RunUnknown", f"there is no run {text:.40}", status_hint=404)
    return found


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", str(views.LIMIT_DEFAULT))
    if not (text.isascii() and text.isdecimal() and len(text) <= 6 and 1 <= int(text) <= views.LIMIT_MAX):
        raise Refused("LimitInvalid", f"limit must be a number from 1 to {views.LIMIT_MAX}", status_hint=400)
    return int(text)


def _status(error: OroborosError) -> int:
    match error:
        case Refused():
            return error.status_hint
        case Unavailable() | ConfigInvalid():
            return 503
    return 500


def _answer(content: object, status: int) -> Response:
    return JSONResponse(content, status_code=status, headers={"Cache-Control": "no-store"})
