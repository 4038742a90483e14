"""`oroboros api`: the receiver and the JSON API on one port; the one place that imports both halves.

uvicorn limits neither how long a request's head may take nor how long it may be, so `BoundedProtocol` does. Its rules:
(1) A connection on which no request is in progress ends within `IDLE_TIMEOUT_S`, whatever it sends: nothing, half a
head, or the rest of a body that was answered already. (2) What is sent beside bodies (heads, chunk frames, trailers) is
counted and capped. (3) When there are too many connections, the one that is idle for longest makes room.
A request in progress has a limit of its own: the receiver's on reading the body, the inbox's on storing it.

Exit codes: 0 stopped on request · 2 configuration (no secret, a bad one, a busy port).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import cast

import starlette
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from controller.decisions.access import API_ACCESS, Access
from controller.doors.log_output import log_to_stderr
from controller.doors.operator_token import is_operator, operator_token
from controller.model.config import Settings, read_settings
from controller.model.errors import ConfigInvalid, Refused
from controller.service_manager import notify
from hooks.app import Receiver, internal_error
from hooks.inbox import Inbox
from hooks.signature import SecretsFile

#: Longer than uvicorn's own limit on connections that are kept and silent.
IDLE_TIMEOUT_S = 10.0
KEEP_ALIVE_S = 5
SWEEP_EVERY_S = 1.0
HEAD_BYTES_MAX = 64 << 10
#: A chunk's frame may be this many times as long as what it brings: one byte at a time still passes.
FRAME_BYTES_PER_BYTE = 8
#: Of a body that was answered before it was read; then the connection ends.
UNREAD_BYTES_MAX = 32 << 20
CONNECTIONS_MAX = 4_096
#: File descriptors that are not connections of ours.
DESCRIPTORS_SPARE = 128
BACKLOG = 2_048
STOP_TIMEOUT_S = 5
#: Of a connection that was accepted just before a stop, until its request has come.
FRESH_GRACE_S = 1.0
#: Below this, known holes in request parsing (Host header, form limits).
STARLETTE_MIN = (1, 5, 1)

log = logging.getLogger(__name__)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with limits on what comes before, between and after requests."""

    #: Since when no request is in progress; None while one is.
    idle_since: float | None = None
    connections_max = CONNECTIONS_MAX
    _beside_bodies = 0
    _in_bodies = 0
    _unread = 0
    _asked = _stopping = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        self.idle_since = self.loop.time()
        if len(self.connections) > self.connections_max:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        self._beside_bodies += len(data)
        super().data_received(data)
        if self._beside_bodies > HEAD_BYTES_MAX + FRAME_BYTES_PER_BYTE * self._in_bodies:
            self._refuse_head()
        elif self._unread > UNREAD_BYTES_MAX:
            self.end()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.idle_since, self._asked = None, True
        if self._stopping:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._beside_bodies -= len(body)
        self._in_bodies += len(body)
        if self.cycle.response_complete:
            self._unread += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._beside_bodies = self._in_bodies = self._unread = 0

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # A request that came while this one was answered is in progress now.
        if self.cycle.response_complete:
            self.idle_since = self.loop.time()

    def shutdown(self) -> None:
        """Stop in order: a connection on which nothing was asked yet may carry a request by now, so it gets its time.

        Whoever connected just before a restart would else be cut, though the socket itself stays open (systemd)."""
        self._stopping = True
        if self._asked:
            super().shutdown()
        else:
            self.loop.call_later(FRESH_GRACE_S, self._end_unless_asked)

    def _end_unless_asked(self) -> None:
        if not self._asked:
            self.end()

    def end(self) -> None:
        """Close the connection, unless that is under way."""
        if not self.transport.is_closing():
            self.transport.close()

    def _refuse_head(self) -> None:
        if self.transport.is_closing():
            return
        if self.idle_since is not None:
            self.transport.write(
                b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
        self.transport.close()

    def _make_room(self) -> None:
        idle = [one for one in self.connections if isinstance(one, BoundedProtocol) and one.idle_since is not None]
        # This very one is idle too; with all others at work it is the one that has to go.
        min(idle, key=lambda one: one.idle_since or 0.0).end()


class _Server(uvicorn.Server):
    """uvicorn's server, which also ends connections on which no request is in progress for too long."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        notify("READY=1")
        self._sweeper = asyncio.create_task(self._sweep_for_ever(), name="sweep")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._sweeper.cancel()
        await super().shutdown(sockets)

    async def _sweep_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            oldest = loop.time() - IDLE_TIMEOUT_S
            for one in tuple(self.server_state.connections):
                if isinstance(one, BoundedProtocol) and one.idle_since is not None and one.idle_since < oldest:
                    one.end()


@dataclass(frozen=True, slots=True)
class _OperatorOnly:
    """An application that answers the operator, and 401 to anybody else."""

    app: ASGIApp
    token: bytes | None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _asks_as_operator(scope, self.token):
            await self.app(scope, receive, send)
            return
        refused = Refused(
            "TokenRequired",
            "for the operator alone: send their token as a Bearer credential; `oroboros doctor` says where it lies",
            status_hint=401,
        )
        answer = JSONResponse(
            {"error": refused.reason, "message": refused.message},
            status_code=refused.status_hint,
            headers={"WWW-Authenticate": "Bearer", "Cache-Control": "no-store"},
        )
        await answer(scope, receive, send)


def _asks_as_operator(scope: Scope, token: bytes | None) -> bool:
    return is_operator([value for name, value in scope["headers"] if name == b"authorization"], token)


def _guarded(route: Route, token: bytes | None) -> Route:
    """Return a route that is closed unless `API_ACCESS` opens it; one that is not there at all is a bug."""
    access = API_ACCESS.get(route.path)
    if access is None:
        raise RuntimeError(f"{route.path}: API_ACCESS does not say who may see it")
    if access is Access.OPERATOR:
        route.app = _OperatorOnly(route.app, token)
    return route


def build_app(settings: Settings, *, more: Sequence[Route] = ()) -> Starlette:
    """Return the application; ConfigInvalid when there is no good webhook secret."""
    _require_starlette()
    if settings.webhook_secrets_file is None:
        raise ConfigInvalid(
            "WebhookSecretMissing", "OROBOROS_WEBHOOK_SECRETS_FILE is not set: nobody could be believed"
        )
    secrets = SecretsFile(settings.webhook_secrets_file)
    secrets.secrets()  # refuses to start without a good one
    inbox = Inbox(settings.database_url, settings.redis_url)
    receiver = Receiver(inbox=inbox, secrets=secrets.secrets, repository=settings.repository)
    token, problem = operator_token(settings.operator_token_file)
    if token is None:
        log.warning("api: closed to everybody, but for deliveries: %s", problem, extra={"action": "api.closed"})

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await inbox.start()
        try:
            yield
        finally:
            await inbox.close()

    async def health(request: Request) -> Response:
        reachable = await inbox.is_reachable()
        body: dict[str, object] = {"status": "ok" if reachable else "unfit"}
        if settings.own_release is not None:
            # The judge of a new release of ourselves, which is the code of the release before, goes by it.
            body["release"] = settings.own_release
        if _asks_as_operator(request.scope, token):
            body |= {"database": reachable, "release": settings.own_release}
        headers = {"Cache-Control": "no-store"}
        return JSONResponse(body, status_code=200 if reachable else 503, headers=headers)

    app = Starlette(
        routes=[_guarded(route, token) for route in (receiver.route(), Route("/health", health), *more)],
        lifespan=lifespan,
        exception_handlers={Exception: internal_error},
    )
    # A redirect would be built from the Host header, which anybody may write.
    app.router.redirect_slashes = False
    return app


def build_app_without_repository() -> Starlette:
    """Return the application of a host that was not told which repository it is about: 503 with the remedy, to every
    request. It takes no delivery, so that the forge keeps each as failed."""
    _require_starlette()
    told = Refused(
        "RepositoryUnset",
        "this host has no repository yet: sudo oroboros repo set OWNER/NAME --token-stdin",
        status_hint=503,
    )
    log.warning("api: %s", told.message, extra={"action": "api.waits", "reason": told.reason})
    body = {"status": "unfit", "error": told.reason, "message": told.message}

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            answer = JSONResponse(body, status_code=told.status_hint, headers={"Cache-Control": "no-store"})
            await answer(scope, receive, send)

    return Starlette(routes=[Mount("/", refuse)])


def serve(settings: Settings, *, port: int, more: Sequence[Route] = (), fd: int | None = None) -> int:
    """Serve until TERM or Ctrl-C; return the exit code. With `fd`, on a socket that was passed in."""
    return serve_app(build_app(settings, more=more), port=port, fd=fd)


def serve_app(app: Starlette, *, port: int, fd: int | None = None) -> int:
    """Serve an application as `serve` does its own."""
    BoundedProtocol.connections_max = min(CONNECTIONS_MAX, _raise_descriptor_limit() - DESCRIPTORS_SPARE)
    with _listening_socket(port=port, fd=fd) as listening:
        config = uvicorn.Config(
            app,
            http=BoundedProtocol,
            loop="uvloop",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            # Its warnings are about strangers' odd requests, a line for each.
            log_level="error",
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=STOP_TIMEOUT_S,
            backlog=BACKLOG,
        )
        server = _Server(config)
        if threading.current_thread() is threading.main_thread():
            # uvicorn stops in order, then raises the signal again: for us that was the whole request.
            signal.signal(signal.SIGTERM, lambda _number, _frame: None)
        server.run(sockets=[listening])
    return 0 if server.started else 2


def _listening_socket(*, port: int, fd: int | None) -> socket.socket:
    if fd is not None:
        return socket.socket(fileno=fd)  # its family is asked, not guessed
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
    except OSError as error:
        listening.close()
        raise ConfigInvalid("PortBusy", f"api port {port} cannot be bound: {error.strerror}") from error
    return listening


def _raise_descriptor_limit() -> int:
    """Allow ourselves as many open files as we may; return how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + DESCRIPTORS_SPARE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else soft


def _require_starlette() -> None:
    numbers = tuple(int(part) for part in starlette.__version__.split(".")[:3] if part.isdigit())
    if numbers < STARLETTE_MIN:
        wanted = ".".join(map(str, STARLETTE_MIN))
        raise ConfigInvalid("StarletteTooOld", f"starlette {starlette.__version__} has known holes; {wanted} is needed")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the api by itself, from environment values, without the command line around it."""
    parser = argparse.ArgumentParser(prog="python -m controller.doors.api_server")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args(argv)
    log_to_stderr("%(levelname)s %(name)s %(message)s")
    try:
        return serve(read_settings(os.environ), port=options.port)
    except ConfigInvalid as error:
        print(f"{error.reason}: {error.message}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
