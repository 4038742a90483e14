"""`oroboros api`: the receiver and the JSON API on one port; the one place that imports both halves.

Exit codes: 0 stopped on request · 2 configuration (no secret, a bad one, a busy port).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import starlette
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from controller.model.config import Settings
from controller.model.errors import ConfigInvalid
from hooks.app import Receiver
from hooks.inbox import Inbox
from hooks.signature import SecretsFile

#: A connection that has not sent its request's head by then is closed: slow strangers hold no sockets.
HEAD_TIMEOUT_S = 10.0
KEEP_ALIVE_S = 30
BACKLOG = 2_048
#: Below this, known holes in request parsing (Host header, form limits).
STARLETTE_MIN = (1, 5, 1)

log = logging.getLogger(__name__)


class HeadTimeoutProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with a limit on how long a new connection may take to send the head of its request."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._close_idle)

    def on_headers_complete(self) -> None:
        self._stop_head_timer()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    def _close_idle(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def build_app(settings: Settings, *, more: Sequence[BaseRoute] = ()) -> Starlette:
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

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await inbox.start()
        try:
            yield
        finally:
            await inbox.close()

    async def health(_request: Request) -> Response:
        reachable = await inbox.is_reachable()
        body = {"status": "ok" if reachable else "unfit", "database": reachable}
        return JSONResponse(body, status_code=200 if reachable else 503)

    return Starlette(routes=[receiver.route(), Route("/health", health), *more], lifespan=lifespan)


def serve(settings: Settings, *, port: int, more: Sequence[BaseRoute] = (), fd: int | None = None) -> int:
    """Serve until TERM or Ctrl-C; return the exit code. With `fd`, on a socket that was passed in."""
    config = uvicorn.Config(
        build_app(settings, more=more),
        host="127.0.0.1",
        port=port,
        fd=fd,
        http=HeadTimeoutProtocol,
        loop="uvloop",
        ws="none",
        lifespan="on",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=5,
        backlog=BACKLOG,
        limit_concurrency=None,
    )
    server = uvicorn.Server(config)
    server.run()
    return 0 if server.started else 2


def _require_starlette() -> None:
    numbers: list[Any] = [int(part) for part in starlette.__version__.split(".")[:3] if part.isdigit()]
    if tuple(numbers) < STARLETTE_MIN:
        wanted = ".".join(map(str, STARLETTE_MIN))
        raise ConfigInvalid("StarletteTooOld", f"starlette {starlette.__version__} has known holes; {wanted} is needed")
