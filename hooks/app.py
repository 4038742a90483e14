"""Who may hand in a delivery, and what is answered? The checks, in their order, as docs/architecture.md tells them.

405 method · 415 content type · 415 content encoding · 413 cap · 401 signature · 400 event or delivery header · from
here on always stored · 400 unreadable or disagreeing (kept as ignored) · 202. Postgres away: 503 with Retry-After.
Nothing is parsed, and nothing is kept, before the signature over the exact bytes is verified.
"""

from __future__ import annotations

import asyncio
import logging
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from controller.model.errors import OroborosError, Refused, Unavailable
from hooks.inbox import Inbox, Incoming
from hooks.payload import Hint, read_hint
from hooks.signature import Verifier, read_signature

WEBHOOK_PATH = "/webhooks/github"
BODY_BYTES_MAX = 25 << 20
#: Larger bodies go to an unlinked file while their HMAC runs.
SPOOL_BYTES = 1 << 20
IN_FLIGHT_BYTES_MAX = 64 << 20
BODY_TIMEOUT_S = 20.0
#: A body that is parsed beside the loop, not in it.
PARSE_IN_LOOP_BYTES_MAX = 64 << 10
RETRY_AFTER_S = 5

_DELIVERY = re.compile(r"[A-Za-z0-9-]{1,100}\Z")
_EVENT = re.compile(r"[a-z_]{1,60}\Z")

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Receiver:
    """The webhook endpoint of one process."""

    inbox: Inbox
    secrets: Callable[[], Sequence[bytes]]
    repository: str
    in_flight_bytes: int = 0

    def route(self) -> Route:
        """Return the one route of the receiver."""
        return Route(WEBHOOK_PATH, self.receive, methods=None)

    async def receive(self, request: Request) -> Response:
        """Answer one request; never anything but 202, 4xx or 503."""
        try:
            return await self._receive(request)
        except Refused as error:
            return _refusal(error.status_hint, error)
        except Unavailable as error:
            return _refusal(503, error, headers={"Retry-After": str(RETRY_AFTER_S)})
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:
            # A stranger's request must never learn more than "try again".
            log.exception("receiver: an internal error", extra={"action": "receiver.bug"})
            bug = Unavailable("InternalError", "the receiver met an error of its own; send it again")
            return _refusal(503, bug, headers={"Retry-After": str(RETRY_AFTER_S)})

    async def _receive(self, request: Request) -> Response:
        headers: list[tuple[bytes, bytes]] = request.scope["headers"]
        _check_method(request)
        _check_content(headers)
        declared = _declared_length(headers)
        claimed = read_signature(headers)
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
            verifier = Verifier(self.secrets())
            size = await self._read(request, spool, verifier, declared=declared)
            try:
                which = verifier.matches(claimed)
                if which is None:
                    raise Refused(
                        "SignatureWrong", "the signature is not of these bytes under our secret", status_hint=401
                    )
                if which > 0:
                    log.info("receiver: signed with secret %d", which + 1, extra={"action": "receiver.old_secret"})
                event = _one_header(headers, b"x-github-event", _EVENT, "EventHeaderInvalid")
                delivery = _one_header(headers, b"x-github-delivery", _DELIVERY, "DeliveryHeaderInvalid")
                spool.seek(0)
                body = spool.read()
                return await self._keep(delivery, event, claimed, body)
            finally:
                self.in_flight_bytes -= size

    async def _read(self, request: Request, spool: IO[bytes], verifier: Verifier, *, declared: int | None) -> int:
        """Read the body into the spool under its caps; return its size, which is counted as in flight."""
        if declared is not None and declared > BODY_BYTES_MAX:
            raise _too_large()
        size = 0
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                async for piece in request.stream():
                    if size + len(piece) > BODY_BYTES_MAX:
                        raise _too_large()
                    if self.in_flight_bytes + len(piece) > IN_FLIGHT_BYTES_MAX:
                        raise Unavailable("TooBusy", "too many bytes are being received; send it again")
                    size += len(piece)
                    self.in_flight_bytes += len(piece)
                    verifier.feed(piece)
                    spool.write(piece)
        except TimeoutError:
            self.in_flight_bytes -= size
            raise Refused(
                "BodyTooSlow", f"the body did not arrive within {BODY_TIMEOUT_S:g} s", status_hint=408
            ) from None
        except BaseException:
            self.in_flight_bytes -= size
            raise
        return size

    async def _keep(self, delivery: str, event: str, signature: bytes, body: bytes) -> Response:
        if len(body) <= PARSE_IN_LOOP_BYTES_MAX:
            hint = read_hint(body, event, repository=self.repository)
        else:
            hint = await asyncio.to_thread(read_hint, body, event, repository=self.repository)
        answer = await self.inbox.keep(_incoming(delivery, event, signature, body, hint))
        if hint.state == "malformed":
            return _refusal(400, Refused("PayloadMalformed", f"kept, but not acted on: {hint.reason}", status_hint=400))
        return JSONResponse({"delivery": delivery, "state": answer}, status_code=202)


def _incoming(delivery: str, event: str, signature: bytes, body: bytes, hint: Hint) -> Incoming:
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


def _refusal(status: int, error: OroborosError, *, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": error.reason, "message": error.message}, status_code=status, headers=headers)


def _check_method(request: Request) -> None:
    if request.method != "POST":
        raise Refused("MethodNotAllowed", "deliveries are POSTed", status_hint=405)


def _check_content(headers: Sequence[tuple[bytes, bytes]]) -> None:
    kinds = [value for name, value in headers if name == b"content-type"]
    if len(kinds) != 1 or kinds[0].split(b";", 1)[0].strip().lower() != b"application/json":
        raise Refused("ContentTypeUnsupported", "set the webhook's content type to application/json", status_hint=415)
    encodings = [value.strip().lower() for name, value in headers if name == b"content-encoding"]
    if any(encoding not in (b"", b"identity") for encoding in encodings):
        raise Refused("ContentEncodingUnsupported", "encoded bodies are not read", status_hint=415)


def _declared_length(headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    found = [value for name, value in headers if name == b"content-length"]
    if not found:
        return None
    if len(found) > 1 or not found[0].isdigit() or len(found[0]) > 15:
        raise Refused("LengthInvalid", "Content-Length is not one number", status_hint=400)
    length = int(found[0])
    if length > BODY_BYTES_MAX:
        raise _too_large()
    return length


def _too_large() -> Refused:
    return Refused("BodyTooLarge", f"more than {BODY_BYTES_MAX >> 20} MiB", status_hint=413)


def _one_header(headers: Sequence[tuple[bytes, bytes]], name: bytes, shape: re.Pattern[str], reason: str) -> str:
    found = [value for key, value in headers if key == name]
    text = found[0].decode("latin-1") if len(found) == 1 else ""
    if not shape.match(text):
        raise Refused(reason, f"{name.decode()} is missing, doubled or odd", status_hint=400)
    return text
