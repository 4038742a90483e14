"""Ask the endpoints of the host contract how they are, for `oroboros health`, orders by hand and gates.

It needs no database row and no password, so that it can say which part is away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from controller.decisions.health import (
    HEALTH_PATH,
    Answered,
    Endpoint,
    ServiceHealth,
    endpoints,
    judge,
    rows_of_production,
)
from controller.effects.ping import ping_postgres, ping_redis, postgres_address, redis_address
from controller.effects.probe import ask
from controller.model.names import Topology

#: A surface itself waits up to 3 s for its instance.
ASK_TIMEOUT_S = 5.0
#: libpq knows no shorter one.
POSTGRES_TIMEOUT_S = 2.0


def ask_all(topology: Topology, *, database_url: str, redis_url: str, token: bytes | None) -> tuple[ServiceHealth, ...]:
    """Ask every row of the health check at once."""
    every = endpoints(topology, postgres=postgres_address(database_url), redis=redis_address(redis_url))
    asked = [endpoint for endpoint in every if endpoint.kind != "postgres"]
    with ThreadPoolExecutor(max_workers=max(1, len(asked))) as pool:
        futures = [
            (endpoint, pool.submit(_ask, endpoint, redis_url, token, timeout_s=ASK_TIMEOUT_S)) for endpoint in asked
        ]
        found = {endpoint.service: future.result() for endpoint, future in futures}
    # Last and by itself: libpq stops every thread of ours while it waits.
    for endpoint in every:
        if endpoint.kind == "postgres":
            found[endpoint.service] = _timed(endpoint, lambda: _postgres(database_url))
    return tuple(found[endpoint.service] for endpoint in every)


def ask_of_production(
    topology: Topology, *, redis_url: str, timeout_s: float, but: Sequence[str] = ()
) -> tuple[ServiceHealth, ...]:
    """Ask the rows that a switch of production answers for, one after another, but the services in `but`."""
    rows = rows_of_production(topology, redis=redis_address(redis_url))
    return tuple(_ask(row, redis_url, None, timeout_s=timeout_s) for row in rows if row.service not in but)


def _ask(endpoint: Endpoint, redis_url: str, token: bytes | None, *, timeout_s: float) -> ServiceHealth:
    if endpoint.kind == "redis":
        return _timed(endpoint, lambda: _redis(redis_url, timeout_s=timeout_s))
    mine = token if endpoint.service == "worker" else None

    def question() -> Answered:
        return ask_http(endpoint.address, host=endpoint.host, path=endpoint.path, token=mine, timeout_s=timeout_s)

    return _timed(endpoint, question)


def _timed(endpoint: Endpoint, question: Callable[[], Answered]) -> ServiceHealth:
    began = time.monotonic()
    answered = question()
    return judge(endpoint, answered, took_ms=round((time.monotonic() - began) * 1000))


def ask_http(
    address: str,
    *,
    host: str,
    path: str = HEALTH_PATH,
    token: bytes | None = None,
    timeout_s: float = ASK_TIMEOUT_S,
) -> Answered:
    """GET a path at an address of loopback, under a host name, with the operator's token where one is given."""
    authorization = {} if token is None else {"Authorization": f"Bearer {token.decode('ascii')}"}
    answer = ask(address, path, headers={"Host": host, **authorization}, timeout_s=timeout_s)
    return Answered(status=answer.status, said=answer.body.decode("utf-8", "replace"), problem=answer.problem)


def _postgres(url: str) -> Answered:
    said, problem = ping_postgres(url, timeout_s=POSTGRES_TIMEOUT_S)
    return Answered(said=said, problem=problem)


def _redis(url: str, *, timeout_s: float) -> Answered:
    said, problem = ping_redis(url, timeout_s=timeout_s)
    return Answered(said=said, problem=problem)
