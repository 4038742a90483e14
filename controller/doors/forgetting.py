"""What does the daily job let go of? Rows, journals and logs, as `[retention]` says, a bounded part at a time.

Which runs go is decided in `decisions.forget`; the folder of a run's logs goes before its row, so that a job that was
killed in between is repeated. The policy is that of the production branch; while it cannot be known, nothing goes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from controller.decisions.forget import Needed, select_forgettable
from controller.disk import remove_tree
from controller.doors.policies import read_policy
from controller.effects.live import read_live
from controller.effects.runtime import Runtime
from controller.effects.store import History, Store
from controller.model.config import Retention, Settings
from controller.model.errors import OroborosError, Stalled
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
    problem: str = ""


def forget(
    settings: Settings, store: Store, topology: Topology, runtime: Runtime, history: History, *, now: datetime
) -> Forgotten:
    """Let go of what the policy lets go. Safe to repeat. What cannot be known or removed stays, and is told."""
    try:
        retention = read_policy(settings, history.repository).retention
        needed = find_needed(settings.layout, topology, runtime, history)
    except OroborosError as error:
        log.warning("retention: %s", error, extra={"action": "retention.waits"})
        return Forgotten(problem=str(error))
    runs, problem = _forget_runs(settings.layout, store, needed, retention, now=now)
    deliveries_before = now - timedelta(days=retention.deliveries_days)
    reports_before = now - timedelta(days=retention.runs_days)
    audit_before = now - timedelta(days=retention.audit_days)
    return Forgotten(
        runs=runs,
        deliveries=_in_rounds(
            lambda: store.forget_deliveries(
                before=deliveries_before, keep=retention.deliveries_keep, at_most=ROWS_AT_ONCE
            )
        ),
        reports=_in_rounds(lambda: store.forget_reports(before=reports_before, at_most=ROWS_AT_ONCE)),
        audit=_in_rounds(lambda: store.forget_audit(before=audit_before, at_most=ROWS_AT_ONCE)),
        problem=problem,
    )


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
    layout: Layout, store: Store, needed: Needed, retention: Retention, *, now: datetime
) -> tuple[int, str]:
    chosen = select_forgettable(store.load_ended_runs(), needed, retention=retention, now=now)
    forgotten, problem = 0, ""
    for first in range(0, min(len(chosen), ROWS_AT_ONCE * ROUNDS_MAX), ROWS_AT_ONCE):
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


def _in_rounds(some: Callable[[], int]) -> int:
    total = 0
    for _ in range(ROUNDS_MAX):
        count = some()
        total += count
        if count < ROWS_AT_ONCE:
            break
    return total
