"""Who may hand in a delivery, and what is answered? The checks, in their order:

405 method · 415 content type · 415 content encoding · 413 cap · 401 signature · 400 event or delivery header · from
here on always stored · 400 unreadable or disagreeing (kept as ignored) · 202. Postgres away: 503 with Retry-After.

- Nothing is parsed, and nothing is kept, before the signature over the exact bytes is verified.
- A signature that cannot be right (missing, doubled, malformed) is refused before a byte of the body is read; uvicorn
  reads on what the client still sends, and the server's limits end it.
- A body counts as in flight from its first byte to its answer. Large ones may fill only part of that room, so that
  strangers with large bodies do not keep small deliveries out.
- An error that is none of ours leaves here as it is: the application that holds the route answers 503 and logs it
  (`internal_error`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Self

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from controller.model.errors import Refused, Unavailable
from hooks.inbox import Inbox, Incoming
from hooks.payload import Hint, Ours, read_form_hint, read_hint
from hooks.signature import Verifier, read_signature

WEBHOOK_PATH = "/webhooks/github"
BODY_BYTES_MAX = 25 << 20
#: Larger bodies go to an unlinked file while their HMAC runs.
SPOOL_BYTES = 1 << 20
IN_FLIGHT_BYTES_MAX = 64 << 20
#: What is left to small bodies alone, and what is small: most pushes are.
SMALL_ROOM_BYTES = 14 << 20
SMALL_BYTES = 64 << 10
BODY_TIMEOUT_S = 10.0
#: A body that is parsed beside the loop, not in it.
PARSE_IN_LOOP_BYTES_MAX = 64 << 10
RETRY_AFTER_S = 5
#: The same kind of refusal is logged once in this time, with how many there were.
LOG_EVERY_S = 10.0

_DELIVERY = re.compile(r"[A-Za-z0-9-]{1,100}\Z")
#: Every name that GitHub documents, and room for those to come: `projects_v2_item`, `sub_issues`.
_EVENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\Z")
_JSON, _FORM = b"application/json", b"application/x-www-form-urlencoded"
_RETRY: tuple[tuple[bytes, bytes], ...] = ((b"retry-after", str(RETRY_AFTER_S).encode()),)
_ALLOW: tuple[tuple[bytes, bytes], ...] = ((b"allow", b"POST"),)

_Headers = Sequence[tuple[bytes, bytes]]

log = logging.getLogger(__name__)


class _ClientGone(Exception):
    """Nobody is left to answer."""


@dataclass(slots=True)
class Room:
    """How many bytes of bodies are in this process now."""

    taken: int = 0

    def take(self, count: int, *, of: int) -> None:
        """Count `count` more bytes of a body that has `of` bytes so far; Unavailable when there is no room for them."""
        limit = IN_FLIGHT_BYTES_MAX if of <= SMALL_BYTES else IN_FLIGHT_BYTES_MAX - SMALL_ROOM_BYTES
        if self.taken + count > limit:
            raise Unavailable("TooBusy", "too many bytes are being received; send it again")
        self.taken += count


class _Body(AbstractContextManager["_Body"]):
    """One body as it comes in: counted, fed to the HMAC, spooled once it is large."""

    def __init__(self, verifier: Verifier, room: Room) -> None:
        self._verifier = verifier
        self._room = room
        self._size = 0
        self._pieces: list[bytes] = []
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._room.taken -= self._size
        if self._file is not None:
            self._file.close()

    def add(self, piece: bytes) -> None:
        size = self._size + len(piece)
        if size > BODY_BYTES_MAX:
            raise _too_large()
        self._room.take(len(piece), of=size)
        self._size = size
        self._verifier.feed(piece)
        if self._file is None:
            self._pieces.append(piece)
            if size <= SPOOL_BYTES:
                return
            piece = b"".join(self._pieces)
            self._pieces.clear()
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed at our own exit
            self._file.write(piece)
        except OSError as error:
            raise Unavailable("SpoolFailed", f"a large body could not be spooled: {error.strerror}") from error

    async def read(self) -> bytes:
        """Return the whole body. Only for bytes that are verified: a spooled body comes back into memory here."""
        if self._file is None:
            return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._file.seek(0)
        return await asyncio.to_thread(self._file.read)


@dataclass(slots=True)
class Receiver:
    """The webhook endpoint of one process, as an ASGI application."""

    inbox: Inbox
    #: Asked at every delivery, so that secrets can be rotated under load.
    secrets: Callable[[], Sequence[bytes]]
    repository: str
    room: Room = field(default_factory=Room)
    _refusals: dict[str, tuple[float, int]] = field(default_factory=dict)

    def route(self) -> Route:
        """Return the one route of the receiver; every method comes here, since 405 has its place in the order."""
        return Route(WEBHOOK_PATH, self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: 202, 4xx or 503."""
        extra: tuple[tuple[bytes, bytes], ...] = ()
        try:
            status, answer = await self._answer(scope, receive)
        except Refused as error:
            self._note(error)
            status, answer = error.status_hint, {"error": error.reason, "message": error.message}
            extra = _ALLOW if status == 405 else ()
        except Unavailable as error:
            self._note(error)
            status, answer = 503, {"error": error.reason, "message": error.message}
            extra = _RETRY
        except _ClientGone:
            return
        content = json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode()), *extra]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, dict[str, str]]:
        headers: _Headers = scope["headers"]
        if scope["method"] != "POST":
            raise Refused("MethodNotAllowed", "deliveries are POSTed", status_hint=405)
        is_form = _check_content(headers)
        claimed = read_signature(headers)
        verifier = Verifier(self.secrets())
        with _Body(verifier, self.room) as body:
            await _read(body, receive)
            which = verifier.matches(claimed)
            if which is None:
                raise Refused("SignatureWrong", "the signature is not of these bytes under our secret", status_hint=401)
            if which > 0:
                log.info("receiver: signed with secret %d", which + 1, extra={"action": "receiver.old_secret"})
            event = _one_header(headers, b"x-github-event", _EVENT, "EventHeaderInvalid")
            delivery = _one_header(headers, b"x-github-delivery", _DELIVERY, "DeliveryHeaderInvalid")
            return await self._keep(delivery, event, signature=claimed, body=await body.read(), is_form=is_form)

    async def _keep(
        self, delivery: str, event: str, *, signature: bytes, body: bytes, is_form: bool
    ) -> tuple[int, dict[str, str]]:
        hint = await _read_hint(body, event, Ours(name=self.repository), is_form=is_form)
        if hint.is_of_another:
            # Seldom: what the forge calls our repository by now is in the database.
            hint = await _read_hint(body, event, await self.inbox.load_ours(self.repository), is_form=is_form)
        state = await self.inbox.keep(_incoming(delivery, event, signature=signature, body=body, hint=hint))
        if hint.state == "malformed":
            raise Refused("PayloadMalformed", f"kept, but not acted on: {hint.reason}", status_hint=400)
        return 202, {"delivery": delivery, "state": state}

    def _note(self, error: Refused | Unavailable) -> None:
        """Log a refusal, but let nobody fill the disk with them."""
        now = time.monotonic()
        logged_at, count = self._refusals.get(error.reason, (-LOG_EVERY_S, 0))
        if now - logged_at < LOG_EVERY_S:
            self._refusals[error.reason] = (logged_at, count + 1)
            return
        self._refusals[error.reason] = (now, 0)
        log.warning(
            "receiver: %s, and %d more like it before: %s",
            error.reason,
            count,
            error.message,
            extra={"action": "receiver.refused"},
        )


async def internal_error(_request: Request, _error: Exception) -> Response:
    """Answer for an application whose code raised: Starlette's outermost layer calls this, then lets the server log the
    traceback. A stranger learns no more than that it was our fault."""
    return JSONResponse(
        {"error": "InternalError", "message": "an error of our own; send it again"},
        status_code=503,
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )


async def _read(body: _Body, receive: Receive) -> None:
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise _ClientGone
                if piece := message.get("body"):
                    body.add(piece)
                if not message.get("more_body"):
                    return
    except TimeoutError:
        raise Refused("BodyTooSlow", f"the body did not arrive within {BODY_TIMEOUT_S:g} s", status_hint=408) from None


async def _read_hint(body: bytes, event: str, ours: Ours, *, is_form: bool) -> Hint:
    read = read_form_hint if is_form else read_hint
    if len(body) <= PARSE_IN_LOOP_BYTES_MAX:
        return read(body, event, ours=ours)
    return await asyncio.to_thread(read, body, event, ours=ours)


def _incoming(delivery: str, event: str, *, signature: bytes, body: bytes, hint: Hint) -> Incoming:
    return Incoming(
        id=delivery,
        event=event,
        signature=signature,
        body=body,
        state="pending" if hint.state == "pending" else "ignored",
        reason=hint.reason,
        repository=hint.repository,
        target=hint.target,
        sha=hint.sha,
    )


def _check_content(headers: _Headers) -> bool:
    """Return whether the body is a form, GitHub's default, rather than JSON; Refused when it is neither, or too long.

    https://docs.github.com/webhooks/using-webhooks/creating-webhooks"""
    kinds = [value.split(b";", 1)[0].strip().lower() for name, value in headers if name == b"content-type"]
    if kinds not in ([_JSON], [_FORM]):
        message = "set the webhook's content type to application/json or application/x-www-form-urlencoded"
        raise Refused("ContentTypeUnsupported", message, status_hint=415)
    encodings = [value.strip().lower() for name, value in headers if name == b"content-encoding"]
    if any(encoding not in (b"", b"identity") for encoding in encodings):
        raise Refused("ContentEncodingUnsupported", "encoded bodies are not read", status_hint=415)
    lengths = [value for name, value in headers if name == b"content-length"]
    # More than one, or no number, does not get past the server; the streamed cap holds whatever is declared.
    if lengths and lengths[0].isdigit() and (len(lengths[0]) > 15 or int(lengths[0]) > BODY_BYTES_MAX):
        raise _too_large()
    return kinds == [_FORM]


def _too_large() -> Refused:
    return Refused("BodyTooLarge", f"more than {BODY_BYTES_MAX >> 20} MiB", status_hint=413)


def _one_header(headers: _Headers, name: bytes, shape: re.Pattern[str], reason: str) -> str:
    found = [value for key, value in headers if key == name]
    text = found[0].decode("latin-1") if len(found) == 1 else ""
    if not shape.match(text):
        raise Refused(reason, f"{name.decode()} is missing, doubled or odd", status_hint=400)
    return text
