"""What does a URL answer, as a client from outside would get it? GETs, a few at once, each with one deadline.

TLS is verified, no proxy of the environment is used, and nothing is decoded, so that sizes are those of the wire.
Where to connect and which host to ask for are two things: a preview behind a local edge has a name that need not
resolve. At most `BODY_BYTES_MAX` of a body are read, and only its first bytes are kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import httpx

from controller.decisions.smoke import (
    BODY_BYTES_MAX,
    SAID_BYTES_MAX,
    Fetched,
    Origin,
    Redirect,
    connects_to,
    follow,
)

AT_ONCE_MAX = 4
PROBLEM_CHARS_MAX = 160
LOCATION_CHARS_MAX = 4_000


def fetch_all(preview: Origin, routes: Sequence[str], *, proxy: Origin | None, timeout_s: float) -> tuple[Fetched, ...]:
    """Ask for every route; return what came, in the same order. Never raises for what a server does."""
    return asyncio.run(_fetch_all(preview, routes, connects_to(preview, proxy), timeout_s=timeout_s))


async def _fetch_all(
    preview: Origin, routes: Sequence[str], target: Origin, *, timeout_s: float
) -> tuple[Fetched, ...]:
    few = asyncio.Semaphore(AT_ONCE_MAX)
    async with httpx.AsyncClient(
        # SSL_CERT_FILE of the environment counts, its proxies do not.
        verify=httpx.create_ssl_context(),
        trust_env=False,
        follow_redirects=False,
        timeout=timeout_s,
        headers={"User-Agent": "oroboros-smoke", "Accept": "*/*", "Accept-Encoding": "identity"},
    ) as client:

        async def one(route: str) -> Fetched:
            async with few:
                return await _fetch(client, preview, route, target, timeout_s=timeout_s)

        return tuple(await asyncio.gather(*(one(route) for route in routes)))


async def _fetch(
    client: httpx.AsyncClient, preview: Origin, route: str, target: Origin, *, timeout_s: float
) -> Fetched:
    """Ask for one route and follow where it leads, all within `timeout_s`."""
    began = time.monotonic()
    redirects: list[Redirect] = []
    status: int | None = None
    try:
        async with asyncio.timeout(timeout_s):
            at = route
            while True:
                found, redirect = await _get(client, preview, at, target)
                status = found.status
                if redirect is None:
                    break
                redirects.append(redirect)
                at, problem = follow(preview, at, redirect, followed=len(redirects) - 1)
                if problem:
                    found = Fetched(route=route, status=status, problem=problem)
                    break
    except TimeoutError:
        found = Fetched(route=route, status=status, problem=f"no whole answer within {timeout_s:g} s")
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
        said = "".join(c if c.isprintable() else "?" for c in f"{type(error).__name__}: {error}".strip(": "))
        found = Fetched(route=route, status=status, problem=said[:PROBLEM_CHARS_MAX])
    return Fetched(
        route=route,
        status=found.status,
        content_type=found.content_type,
        body_bytes=found.body_bytes,
        said=found.said,
        redirects=tuple(redirects),
        took_ms=round((time.monotonic() - began) * 1000),
        problem=found.problem,
    )


async def _get(
    client: httpx.AsyncClient, preview: Origin, route: str, target: Origin
) -> tuple[Fetched, Redirect | None]:
    url = httpx.URL(scheme=target.scheme, host=target.host, port=target.port, raw_path=route.encode("ascii"))
    headers = {"Host": preview.host_header}
    if target != connects_to(preview, None):
        # What a proxy in front would say of the visitor.
        headers |= {"X-Forwarded-Host": preview.host_header, "X-Forwarded-Proto": preview.scheme}
    extensions = {"sni_hostname": preview.host} if target.scheme == "https" else {}
    async with client.stream("GET", url, headers=headers, extensions=extensions) as answer:
        content_type = answer.headers.get("content-type", "")
        location = answer.headers.get("location", "")
        if answer.is_redirect and location:
            redirect = Redirect(status=answer.status_code, location=location[:LOCATION_CHARS_MAX])
            return Fetched(route=route, status=answer.status_code), redirect
        size, said, problem = 0, b"", ""
        async for piece in answer.aiter_raw():
            size += len(piece)
            said += piece[: SAID_BYTES_MAX - len(said)]
            if size > BODY_BYTES_MAX:
                problem = f"a body of more than {BODY_BYTES_MAX >> 20} MiB"
                break
    return (
        Fetched(
            route=route,
            status=answer.status_code,
            content_type=content_type[:PROBLEM_CHARS_MAX],
            body_bytes=size,
            said=said,
            problem=problem,
        ),
        None,
    )
