"""What did whoever asks the development forge send? Bodies, queries and pages, bounded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, TypeVar
from urllib.parse import quote, urlencode

from starlette.requests import ClientDisconnect, Request

from controller.development.forge_events import Problem, invalid
from controller.development.forge_shapes import Json, Object

BODY_BYTES_MAX: Final = 1 << 20
PAGE_SIZE: Final = 30
PAGE_SIZE_MAX: Final = 100
KNOB_MAX: Final = 86_400.0

_T = TypeVar("_T")


async def read_body(request: Request) -> bytes:
    """Return the body of a request, bounded."""
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > BODY_BYTES_MAX:
                raise Problem(413, "Payload Too Large")
    except ClientDisconnect as error:
        raise Problem(400, "Problems parsing JSON") from error
    return bytes(body)


async def read_object(request: Request) -> Object:
    """Return the JSON object that a request brings; one without a body brings none of its keys."""
    body = await read_body(request)
    try:
        content: Json = json.loads(body) if body else {}
    except (ValueError, RecursionError) as error:
        raise Problem(400, "Problems parsing JSON") from error
    if not isinstance(content, dict):
        raise Problem(400, "Body should be a JSON object")
    # SQLite and git take no NUL, and no encoding has lone surrogates.
    return {key: storable(value) if isinstance(value, str) else value for key, value in content.items()}


def storable(words: str) -> str:
    """Return a text without what SQLite, git and encodings do not take."""
    return words.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def require_bmp(content: Object, key: str, resource: str) -> None:
    """Refuse a text with characters beyond U+FFFF, as GitHub does."""
    value = content.get(key)
    if isinstance(value, str) and any(ord(c) > 0xFFFF for c in value):
        raise invalid(resource, key, message=f"{key} doesn't accept 4-byte Unicode")


def text(content: Object, key: str, resource: str) -> str:
    """Return a text that must be there."""
    value = content.get(key)
    if not isinstance(value, str) or not value:
        raise invalid(resource, key, code="missing_field")
    return value


def knob(value: Json, key: str) -> float:
    """Return a number for a knob."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= KNOB_MAX:
        raise Problem(422, f"{key} is a number from 0 to {KNOB_MAX:g}")
    return float(value)


def page(request: Request, found: Sequence[_T]) -> tuple[Sequence[_T], dict[str, str]]:
    """Return the page that was asked for, and the Link header that names the others."""
    size = number(request.query_params.get("per_page"), PAGE_SIZE, PAGE_SIZE_MAX)
    at = number(request.query_params.get("page"), 1, 1_000_000)
    last = max(1, -(-len(found) // size))
    links = []
    for relation, where in (("prev", at - 1), ("next", at + 1), ("last", last), ("first", 1)):
        is_wanted = where < at if relation in ("prev", "first") else where > at
        if is_wanted and 1 <= where <= last:
            query = urlencode({**dict(request.query_params), "per_page": size, "page": where})
            links.append(f'<{own_url(request)}?{query}>; rel="{relation}"')
    return found[(at - 1) * size : at * size], {"Link": ", ".join(links)} if links else {}


def number(words: str | None, default: int, highest: int) -> int:
    """Return a number of a query, bounded."""
    if words is None or not (words.isascii() and words.isdigit() and len(words) < 9):
        return default
    return max(1, min(highest, int(words)))


def own_url(request: Request) -> str:
    """Return the address that was asked, without its query."""
    return f"{request.url.scheme}://{request.url.netloc}{quote(request.url.path, safe='/%')}"
