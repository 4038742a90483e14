"""Do the pages of a preview answer as pages should? Which are asked, where a redirect may lead, and what is well.

Plain HTTP: a status below 400, a content type, a body, within time and size. A redirect is followed on the preview's
own host only, and never from https to http: what lies elsewhere says nothing about the preview.
The report is what the artifact holds; docs/preview-smoke.md describes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Literal
from urllib.parse import urljoin, urlsplit

from controller.decisions.health import PUBLIC_HEALTH_PATH, release_path, surface_says

SCHEMA = "oroboros.smoke/1"
ROUTES_MAX = 100
ROUTE_CHARS_MAX = 2_000
REDIRECTS_MAX = 5
BODY_BYTES_MAX = 16 << 20
#: Of a body, for judging what the surface says.
SAID_BYTES_MAX = 4 << 10

_ROUTE = re.compile(r"/(?!/)[!-~]*\Z")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Scheme, host and port: where a preview is, or where to connect for it."""

    scheme: Literal["http", "https"]
    host: str
    port: int

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_header}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """One redirect, as it was given."""

    status: int
    location: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What came of asking for one route, to the end of its redirects."""

    route: str
    #: None: nothing answered.
    status: int | None = None
    content_type: str = ""
    body_bytes: int = 0
    #: The first bytes of the body.
    said: bytes = b""
    redirects: tuple[Redirect, ...] = ()
    took_ms: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeCheck:
    """One route, judged."""

    name: str
    route: str
    url: str
    passed: bool
    problems: tuple[str, ...]
    status: int | None
    content_type: str
    body_bytes: int
    took_ms: int
    redirects: tuple[Redirect, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeReport:
    """What the artifact holds."""

    schema: str
    preview_url: str
    proxy_origin: str | None
    run: int | None
    slot: str | None
    release: str | None
    began_at: datetime
    took_ms: int
    passed: bool
    #: False when nothing answered at all.
    answered: bool
    checks: tuple[SmokeCheck, ...]


def parse_origin(text: str) -> Origin:
    """Return the origin that a URL without a path names; ValueError for any other text."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ValueError(f"{text!r:.100} is not a URL") from error
    if parts.scheme not in _DEFAULT_PORTS or not host or not host.isascii():
        raise ValueError(f"{text!r:.100} is not http(s)://host or http(s)://host:port")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a user or password does not belong in it")
    if parts.path not in ("", "/") or parts.query or parts.fragment or not all("!" <= c <= "~" for c in text):
        raise ValueError(f"{text!r:.100} says more than a host: name pages as routes")
    scheme: Literal["http", "https"] = "https" if parts.scheme == "https" else "http"
    return Origin(scheme=scheme, host=host, port=_DEFAULT_PORTS[scheme] if port is None else port)


def parse_route(text: str) -> str:
    """Return the route; ValueError unless it is a path on one host, percent-encoded as it is to be asked for."""
    if not _ROUTE.match(text) or "#" in text or len(text) > ROUTE_CHARS_MAX:
        raise ValueError(f"{text!r:.100} is not a route: begin with one /, percent-encode what is not plain ASCII")
    return text


def choose_routes(*, release: str | None, of_recipe: Iterable[str], changed: Iterable[str]) -> tuple[str, ...]:
    """Return every route to ask for, each once: the page, what the surface says, the recipe's, the changed ones.

    The surface is asked whether it serves `release`; where that is not known, whether the slot is well."""
    surface = PUBLIC_HEALTH_PATH if release is None else release_path(release)
    return tuple(dict.fromkeys(("/", surface, *of_recipe, *changed)))


def connects_to(preview: Origin, proxy: Origin | None) -> Origin:
    """Return where to connect for a preview. `*.localhost` is this machine, though only browsers know (RFC 6761)."""
    target = preview if proxy is None else proxy
    is_local = target.host == "localhost" or target.host.endswith(".localhost")
    return Origin(scheme=target.scheme, host="127.0.0.1", port=target.port) if is_local else target


def follow(preview: Origin, route: str, redirect: Redirect, *, followed: int) -> tuple[str, str]:
    """Return the route to which a redirect leads, and ""; or "" and why it is not followed."""
    if followed >= REDIRECTS_MAX:
        return "", f"redirects more than {REDIRECTS_MAX} times"
    try:
        parts = urlsplit(urljoin(f"{preview}{route}", redirect.location))
        host, port, scheme = parts.hostname or "", parts.port, parts.scheme
        target = parse_route((parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
    except ValueError:
        return "", f"redirects to what is no URL: {redirect.location!r:.100}"
    if scheme not in _DEFAULT_PORTS or (scheme == "http" and preview.scheme == "https"):
        return "", f"redirects from {preview.scheme} to {scheme or 'nothing'}"
    # The edge's own port, or https in front of it: both are the preview.
    same_port = (port or _DEFAULT_PORTS[scheme]) in (preview.port, _DEFAULT_PORTS["https"])
    if host != preview.host or not same_port:
        return "", f"redirects to another host: {parts.netloc!r:.100}"
    if scheme != preview.scheme:
        return "", f"redirects to https://{parts.netloc}: give that as the preview's URL"
    return target, ""


def judge(preview: Origin, fetched: Fetched, *, slot: str | None = None) -> SmokeCheck:
    """Return the check of one route; `slot` must be the one that answers, where it is known."""
    problems = tuple(_problems(fetched, slot))
    return SmokeCheck(
        name=f"GET {fetched.route}",
        route=fetched.route,
        url=f"{preview}{fetched.route}",
        passed=not problems,
        problems=problems,
        status=fetched.status,
        content_type=fetched.content_type,
        body_bytes=fetched.body_bytes,
        took_ms=fetched.took_ms,
        redirects=fetched.redirects,
    )


def _problems(fetched: Fetched, slot: str | None) -> Iterable[str]:
    if fetched.problem:
        yield fetched.problem
        return
    if fetched.status is None:
        yield "nothing answered"
        return
    if fetched.route == PUBLIC_HEALTH_PATH or fetched.route.startswith(release_path("")):
        yield from _problems_of_surface(fetched, fetched.status, slot)
        return
    if fetched.status >= 400:
        yield f"answers {fetched.status}"
        return
    if fetched.status >= 300:
        yield f"answers {fetched.status} without saying where to go"
        return
    if not fetched.body_bytes:
        yield "an empty body"
    elif not fetched.content_type:
        yield "no content type"


def _problems_of_surface(fetched: Fetched, status: int, slot: str | None) -> Iterable[str]:
    says = surface_says(fetched.said.decode("utf-8", "replace"))
    who = says.get("slot")
    if not says:
        yield f"answers {status}, and does not say which slot it is: another program"
    elif slot is not None and who != slot:
        yield f"{who!s:.40} answers, not {slot}"
    elif says.get("state") == "free":
        yield f"{who!s:.40} is free: nothing is deployed there"
    elif status == 404:
        yield f"{who!s:.40} serves another release"
    elif status != 200:
        yield f"answers {status}: {who!s:.40} is not well"


def report(
    preview: Origin,
    every: Sequence[Fetched],
    *,
    proxy: Origin | None,
    run: int | None,
    slot: str | None,
    release: str | None,
    began_at: datetime,
    took_ms: int,
) -> SmokeReport:
    """Return the whole report, in the order in which the routes were named."""
    checks = tuple(judge(preview, fetched, slot=slot) for fetched in every)
    return SmokeReport(
        schema=SCHEMA,
        preview_url=str(preview),
        proxy_origin=None if proxy is None else str(proxy),
        run=run,
        slot=slot,
        release=release,
        began_at=began_at,
        took_ms=took_ms,
        passed=all(check.passed for check in checks),
        answered=any(check.status is not None for check in checks),
        checks=checks,
    )


def detail_of(check: SmokeCheck) -> Mapping[str, object]:
    """Return what is kept of a check beside its name and whether it passed."""
    kept = {field.name: getattr(check, field.name) for field in fields(check) if field.name not in ("name", "passed")}
    redirects = [{"status": one.status, "location": one.location} for one in check.redirects]
    return {**kept, "problems": list(check.problems), "redirects": redirects}
