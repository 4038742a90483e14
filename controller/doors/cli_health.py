"""Is everything well that the host contract names? `oroboros health`: one question to each endpoint, all at once.

It needs no database row and no password, so that it can say which part is away: the topology that was installed, and
two addresses. Whoever may not read them on a host asks at the contract's addresses.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.text import Text

from controller.decisions.health import HEALTH_PATH, Answered, Endpoint, ServiceHealth, endpoints, judge
from controller.doors import tables
from controller.doors.operator_token import operator_token
from controller.doors.stacks import Stack
from controller.effects.ping import ping_postgres, ping_redis, postgres_address, redis_address
from controller.effects.probe import ask
from controller.effects.stack_files import read_topology
from controller.model.config import REDIS_URL_DEFAULT, libpq_url
from controller.model.errors import ConfigInvalid, Unavailable
from controller.model.names import Layout

#: A surface itself waits up to 3 s for its instance.
ASK_TIMEOUT_S = 5.0
#: libpq knows no shorter one.
POSTGRES_TIMEOUT_S = 2.0
LOOK_EVERY_S = 0.25
#: Where the contract has the control plane's database, for those who may not read the environment of its services.
CONTRACT_DATABASE_URL = "postgresql://postgres@127.0.0.1:5432/builder_control"


def read_health(find: Callable[[], Stack], *, wait_s: float) -> tuple[ServiceHealth, ...]:
    """Ask everything, again and again for `wait_s`, until all is well; Unavailable when there is no stack to ask."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            found = _ask_all(find())
            if all(one.ok for one in found) or time.monotonic() >= deadline:
                return found
        except Unavailable:
            if time.monotonic() >= deadline:
                raise
        time.sleep(LOOK_EVERY_S)


def _ask_all(stack: Stack) -> tuple[ServiceHealth, ...]:
    if not stack.is_up():
        raise Unavailable("NoStack", f"no stack runs under {stack.root}; start it with `oroboros up`")
    run = stack.environ.get("OROBOROS_RUN", "").strip()
    try:
        topology = read_topology(Layout(stack.root, Path(run) if run else None))
    except ConfigInvalid as error:
        raise Unavailable("NoStack", f"{error.message}; or name a stack with --root DIR") from error
    database_url = libpq_url(stack.environ.get("DATABASE_URL", "").strip()) or CONTRACT_DATABASE_URL
    redis_url = stack.environ.get("REDIS_URL", "").strip() or REDIS_URL_DEFAULT
    every = endpoints(topology, postgres=postgres_address(database_url), redis=redis_address(redis_url))
    asked = [endpoint for endpoint in every if endpoint.kind != "postgres"]
    # Whoever may not read it on a host learns whether the worker is well, and not why.
    file = stack.environ.get("OROBOROS_OPERATOR_TOKEN_FILE", "").strip()
    token, _ = operator_token(Path(file) if file else None)
    with ThreadPoolExecutor(max_workers=max(1, len(asked))) as pool:
        futures = [(endpoint, pool.submit(_ask, endpoint, redis_url, token)) for endpoint in asked]
        found = {endpoint.service: future.result() for endpoint, future in futures}
    # Last and by itself: libpq stops every thread of ours while it waits.
    for endpoint in every:
        if endpoint.kind == "postgres":
            found[endpoint.service] = _timed(endpoint, lambda: _postgres(database_url))
    return tuple(found[endpoint.service] for endpoint in every)


def _ask(endpoint: Endpoint, redis_url: str, token: bytes | None) -> ServiceHealth:
    if endpoint.kind == "redis":
        return _timed(endpoint, lambda: _redis(redis_url))
    mine = token if endpoint.service == "worker" else None
    return _timed(endpoint, lambda: ask_http(endpoint.address, host=endpoint.host, path=endpoint.path, token=mine))


def _timed(endpoint: Endpoint, question: Callable[[], Answered]) -> ServiceHealth:
    began = time.monotonic()
    answered = question()
    return judge(endpoint, answered, took_ms=round((time.monotonic() - began) * 1000))


def ask_http(address: str, *, host: str, path: str = HEALTH_PATH, token: bytes | None = None) -> Answered:
    """GET a path at an address of loopback, under a host name, with the operator's token where one is given."""
    authorization = {} if token is None else {"Authorization": f"Bearer {token.decode('ascii')}"}
    answer = ask(address, path, headers={"Host": host, **authorization}, timeout_s=ASK_TIMEOUT_S)
    return Answered(status=answer.status, said=answer.body.decode("utf-8", "replace"), problem=answer.problem)


def _postgres(url: str) -> Answered:
    said, problem = ping_postgres(url, timeout_s=POSTGRES_TIMEOUT_S)
    return Answered(said=said, problem=problem)


def _redis(url: str) -> Answered:
    said, problem = ping_redis(url, timeout_s=ASK_TIMEOUT_S)
    return Answered(said=said, problem=problem)


def print_health(console: Console, found: tuple[ServiceHealth, ...]) -> None:
    """Print one line a service, and how many are not well."""
    console.print(tables.health_table(found))
    bad = [one.service for one in found if not one.ok]
    if bad:
        console.print(Text(f"{len(bad)} of {len(found)} not well: {', '.join(bad)}", style="bold red"))
    else:
        console.print(Text(f"all {len(found)} are well", style="green"))
