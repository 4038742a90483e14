"""How does a notification reach the address of one's own? One POST, bounded, and never to another address.

Redirects are not followed, no proxy of the environment is used, TLS is verified, and of an answer only its status
counts. One deadline is for all of it, however slowly the bytes drip. The address may hold a secret, so errors name its
host alone. Safe to repeat: the same notification has the same id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import httpx

from controller.model.errors import Stalled, Unavailable

POST_TIMEOUT_S: Final = 10.0
GONE: Final = 410


def post_notification(url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float = POST_TIMEOUT_S) -> None:
    """Send one notification. Unavailable: try again. Stalled: the receiver says that nobody is there any more."""
    host = urlsplit(url).hostname or "the receiver"
    try:
        status = asyncio.run(_post(url, body, headers, timeout_s=timeout_s))
    except TimeoutError as error:
        raise Unavailable("NotifyTimedOut", f"{host} did not answer within {timeout_s:g} s") from error
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
        raise Unavailable("NotifyUnreachable", f"{host} cannot be reached: {type(error).__name__}") from error
    if status == GONE:
        raise Stalled("NotifyGone", f"{host} answered {status}: nobody wants notifications there any more")
    if not 200 <= status < 300:
        followed = "; redirects are not followed" if 300 <= status < 400 else ""
        raise Unavailable("NotifyRefused", f"{host} answered {status}{followed}")


async def _post(url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float) -> int:
    async with (
        asyncio.timeout(timeout_s),
        httpx.AsyncClient(
            verify=httpx.create_ssl_context(), trust_env=False, follow_redirects=False, timeout=timeout_s
        ) as client,
        client.stream("POST", url, content=body, headers=dict(headers)) as answer,
    ):
        return answer.status_code
