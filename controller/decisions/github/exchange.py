"""What follows a reply before it is read: follow a redirect, ask for a new token, or nothing? And what did 304 mean?

Redirects are followed verbatim, as GitHub documents, and only to the same origin: a token never goes to another host.
A 301 or 308 means that the address has changed for good: the repository was renamed.
https://docs.github.com/rest/using-the-rest-api/best-practices-for-using-the-rest-api#follow-redirects
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from controller.decisions.github.wire import Reply, Request
from controller.model.errors import Unavailable

REDIRECTS_MAX: Final = 3
_MOVED: Final = (301, 302, 307, 308)
_MOVED_FOR_GOOD: Final = (301, 308)
#: Entity tags are quoted, and may be weak: https://datatracker.ietf.org/doc/html/rfc9110#field.etag
_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]{0,200}"\Z')


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request that was sent, and what was tried before it."""

    request: Request
    redirects: int = 0
    #: Some redirect said that the address has changed for good.
    is_moved: bool = False
    #: A new token was had for it already.
    is_renewed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """The reply is the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send this instead."""

    asked: Asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Renew:
    """Have a new token, if that is possible, and send the same again."""

    asked: Asked


Next = Read | Send | Renew


def after(asked: Asked, reply: Reply, *, base_url: str) -> Next:
    """Return what follows a reply; Unavailable for a redirect that is not followed."""
    if reply.status == 401 and not asked.is_renewed:
        return Renew(asked=replace(asked, is_renewed=True))
    if reply.status not in _MOVED:
        return Read()
    what = f"{asked.request.method} {asked.request.path.partition('?')[0]}"
    if asked.redirects >= REDIRECTS_MAX:
        raise Unavailable("ForgeMoved", f"{what}: more than {REDIRECTS_MAX} redirects")
    path = _path_at(base_url, reply.headers.get("location", ""))
    if path is None:
        raise Unavailable("ForgeMoved", f"{what}: the forge redirects elsewhere, which is not followed")
    return Send(
        asked=Asked(
            request=replace(asked.request, path=path),
            redirects=asked.redirects + 1,
            is_moved=asked.is_moved or reply.status in _MOVED_FOR_GOOD,
            is_renewed=asked.is_renewed,
        )
    )


def _path_at(base_url: str, location: str) -> str | None:
    """Return the path below the API's base that a redirect names, None when it leads elsewhere."""
    if not location.isascii() or not location.isprintable() or len(location) > 2_000 or "\\" in location:
        return None
    base = urlsplit(base_url)
    try:
        parts = urlsplit(location)
        has_user = parts.username is not None or parts.password is not None
    except ValueError:
        return None
    if (parts.scheme, parts.netloc) not in ((base.scheme, base.netloc), ("", "")) or has_user:
        return None
    path = parts.path.removeprefix(base.path) if parts.path.startswith(base.path + "/") else None
    # A path that climbs would leave the base.
    if path is None or not path.startswith("/") or path.startswith("//") or ".." in path.split("/"):
        return None
    return f"{path}?{parts.query}" if parts.query else path


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A reply that we have, and the tag by which the forge knows it."""

    etag: str
    reply: Reply


def conditional(request: Request, known: Known | None) -> Request:
    """Return the request, asking only for what changed: a 304 does not count against the limit."""
    if known is None or request.is_write:
        return request
    return replace(request, headers={**request.headers, "If-None-Match": known.etag})


def settled(reply: Reply, known: Known | None) -> Reply:
    """Return what a reply says: 304 means the one that we have."""
    if reply.status != 304 or known is None:
        return reply
    # Only the body and where its pages go on are of the old one.
    kept = {name: value for name, value in known.reply.headers.items() if name == "link"}
    return Reply(status=known.reply.status, headers={**reply.headers, **kept}, body=known.reply.body)


def to_know(request: Request, reply: Reply) -> Known | None:
    """Return what is worth knowing of a reply, for the next time."""
    etag = reply.headers.get("etag", "").strip()
    if request.is_write or reply.status != 200 or not _ETAG.match(etag):
        return None
    return Known(etag=etag, reply=reply)
