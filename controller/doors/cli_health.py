"""Is everything well that the host contract names? `oroboros health`: one question to each endpoint, all at once.

It needs no database row and no password, so that it can say which part is away: the topology that was installed, and
two addresses. Whoever may not read them on a host asks at the contract's addresses.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.text import Text

from controller.decisions.health import ServiceHealth
from controller.doors import tables
from controller.doors.operator_token import operator_token
from controller.doors.stacks import Stack
from controller.effects.stack_files import read_topology
from controller.loop.health_rows import ask_all
from controller.model.config import REDIS_URL_DEFAULT, libpq_url
from controller.model.errors import ConfigInvalid, Unavailable
from controller.model.names import Layout

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
    # Whoever may not read it on a host learns whether the worker is well, and not why.
    file = stack.environ.get("OROBOROS_OPERATOR_TOKEN_FILE", "").strip()
    token, _ = operator_token(Path(file) if file else None)
    return ask_all(topology, database_url=database_url, redis_url=redis_url, token=token)


def print_health(console: Console, found: tuple[ServiceHealth, ...]) -> None:
    """Print one line a service, and how many are not well."""
    console.print(tables.health_table(found))
    bad = [one.service for one in found if not one.ok]
    if bad:
        console.print(Text(f"{len(bad)} of {len(found)} not well: {', '.join(bad)}", style="bold red"))
    else:
        console.print(Text(f"all {len(found)} are well", style="green"))
