"""Lets go of rows, journals and logs, as `[retention]` says, a bounded part at a time.

Which runs go is decided in `decisions.forget`; the folder of a run's logs goes before its row, so that a worker that
was killed in between repeats it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from controller.decisions.forget import Needed, select_forgettable
from controller.disk import remove_tree
from controller.effects.live import read_live
from controller.effects.runtime import Runtime
from controller.effects.store import History, Store
from controller.model.config import Retention
from controller.model.errors import Stalled
from controller.model.names import Layout, SlotName, Topology
from controller.model.nouns import Live

ROWS_AT_ONCE = 500
#: A job that has much to catch up with goes on the next day.
ROUNDS_MAX = 40

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """How much of each was let go of; `problem` says why it was not more."""

    deliveries: int = 0
    runs: int = 0
    reports: int = 0
    audit: int = 0
    #: Orders by hand, holds and leases that are over.
    orders: int = 0
    #: Heads that were seen, and pull requests that are closed.
    heads: int = 0
    #: What releases became.
    standings: int = 0
    problem: str = ""
    #: There was more than the rounds allowed.
    is_more_left: bool = False

    @property
    def rows(self) -> int:
        return self.deliveries + self.runs + self.reports + self.audit + self.orders + self.heads + self.standings


def forget(
    layout: Layout,
    store: Store,
    topology: Topology,
    runtime: Runtime,
    history: History,
    retention: Retention,
    *,
    rounds: int = ROUNDS_MAX,
    now: datetime,
) -> Forgotten:
    """Let go of what the policy lets go. Safe to repeat, and beside another who does. What cannot be removed stays, and
    is told. Unavailable when the host's processes cannot be seen."""
    needed = find_needed(layout, topology, runtime, history)
    runs, problem = _forget_runs(layout, store, needed, retention, rounds=rounds, now=now)
    deliveries_before = now - timedelta(days=retention.deliveries_days)
    reports_before = now - timedelta(days=retention.runs_days)
    audit_before = now - timedelta(days=retention.audit_days)

    def in_rounds(some: Callable[[], int]) -> int:
        return _in_rounds(some, rounds=rounds)

    found = Forgotten(
        runs=runs,
        deliveries=in_rounds(
            lambda: store.forget_deliveries(
                before=deliveries_before, keep=retention.deliveries_keep, at_most=ROWS_AT_ONCE
            )
        ),
        reports=in_rounds(lambda: store.forget_reports(before=reports_before, at_most=ROWS_AT_ONCE)),
        audit=in_rounds(lambda: store.forget_audit(before=audit_before, at_most=ROWS_AT_ONCE)),
        orders=in_rounds(lambda: store.forget_orders(before=audit_before, at_most=ROWS_AT_ONCE)),
        heads=in_rounds(lambda: store.forget_heads(before=reports_before, at_most=ROWS_AT_ONCE)),
        standings=in_rounds(lambda: store.forget_standings(before=reports_before, at_most=ROWS_AT_ONCE)),
        problem=problem,
    )
    kinds = (found.runs, found.deliveries, found.reports, found.audit, found.orders, found.heads, found.standings)
    most = max(kinds)
    return replace(found, is_more_left=most >= rounds * ROWS_AT_ONCE)


def find_needed(layout: Layout, topology: Topology, runtime: Runtime, history: History) -> Needed:
    """Return what is still needed of the past. Unavailable when the host's processes cannot be seen."""
    lives: dict[SlotName, Live] = {}
    unreadable: set[SlotName] = set()
    for slot in topology.slots:
        try:
            live = read_live(layout, slot)
        except Stalled:
            unreadable.add(slot)
            continue
        if live is not None:
            lives[slot] = live
    running = [row.run for row in history.slots if row.run is not None]
    named = {live.generation for live in lives.values()}
    return Needed(
        generations=frozenset(named | {run.generation for run in running} | {p.generation for p in runtime.observe()}),
        fallbacks=frozenset(run.fallback for run in running if run.fallback is not None),
        # A slot that is no longer installed has a `live` that nobody reads here.
        unreadable=frozenset(unreadable | {row.name for row in history.slots if row.name not in topology.slots}),
        releases=frozenset(release.sha for release in history.releases),
        wiped=tuple((row.name, row.wiped_fence) for row in history.slots),
        ordered=frozenset(override.head.sha for override in history.overrides),
    )


def _forget_runs(
    layout: Layout, store: Store, needed: Needed, retention: Retention, *, rounds: int, now: datetime
) -> tuple[int, str]:
    chosen = select_forgettable(store.load_ended_runs(), needed, retention=retention, now=now)
    forgotten, problem = 0, ""
    for first in range(0, min(len(chosen), ROWS_AT_ONCE * rounds), ROWS_AT_ONCE):
        gone: list[int] = []
        for generation in chosen[first : first + ROWS_AT_ONCE]:
            folder = layout.run_artifacts(generation)
            try:
                remove_tree(os.fsencode(folder))
            except OSError as error:
                problem = f"{folder} could not be removed: {error.strerror or error}"
                log.warning("retention: %s", problem, extra={"action": "retention.left"})
                continue
            gone.append(generation)
        forgotten += store.forget_runs(gone)
    return forgotten, problem


def _in_rounds(some: Callable[[], int], *, rounds: int) -> int:
    total = 0
    for _ in range(rounds):
        count = some()
        total += count
        if count < ROWS_AT_ONCE:
            break
    return total
