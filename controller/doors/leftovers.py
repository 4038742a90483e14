"""Looks for what outlived its owner: gathers the paths of a stack and who may own them, for `decisions.leftovers`.

Nothing is read but names, sizes and times, and no folder is entered that an app, a build or git writes. Rows are
counted by doing what the daily job would have done two days ago, and undoing it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from controller.decisions.forget import select_forgettable
from controller.decisions.leftovers import Leftover, Owners, PathFact, judge_leftovers
from controller.effects.live import read_live
from controller.effects.runtime import Runtime
from controller.effects.store import History, Store
from controller.loop.forgetting import find_needed
from controller.model.config import Retention
from controller.model.errors import Stalled
from controller.model.names import MAIN, PRODUCTION, Layout, Topology
from controller.model.nouns import Run

#: Longer than a build or a turn of housekeeping takes.
GRACE_S = 3 * 3_600.0
#: Rows that should have gone so long ago are left.
ROWS_GRACE = timedelta(days=2)
ROWS_COUNTED_MAX = 1_000
#: Folders whose content is judged, as paths below the root; below the others nothing is looked at.
_ENTERED = ("releases", "builds", "slots", "artifacts", "artifacts/runs", "orders", "judge", "supervisor", "log")
#: Among the sockets.
_ENTERED_RUN = ("env", "worker/armed")


def find_leftovers(
    layout: Layout,
    topology: Topology,
    store: Store,
    runtime: Runtime,
    history: History,
    *,
    grace_s: float = GRACE_S,
) -> tuple[Leftover, ...]:
    """Return the paths that outlived their owner. Rows and host are read first: what is made meanwhile is young."""
    owners = find_owners_of_paths(layout, topology, store, runtime, history)
    return judge_leftovers(list_paths(layout), owners, grace_s=grace_s)


def list_paths(layout: Layout) -> Iterator[PathFact]:
    """Return every path that is judged, relative to the root; what is among the sockets below `run/`."""
    root = layout.root
    yield from _things_in(root, "")
    for folder in _ENTERED:
        yield from _things_in(root / folder, folder)
    for domain in _folders_in(layout.builds):
        yield from _things_in(domain, f"builds/{domain.name}")
    for slot in _folders_in(root / "slots"):
        yield from _things_in(slot, f"slots/{slot.name}")
    for folder in _ENTERED_RUN:
        yield from _things_in(layout.run / folder, f"run/{folder}")


def find_owners_of_paths(
    layout: Layout, topology: Topology, store: Store, runtime: Runtime, history: History
) -> Owners:
    """Return who may own a path. Unavailable when the host's processes cannot be seen."""
    held = [
        row for row in history.slots if row.name == MAIN or row.lease is not None or row.wiped_fence < row.ended_fence
    ]
    releases = store.load_rows(
        "SELECT sha, tree FROM releases WHERE repository_id = %s AND host = %s", [store.repository_id, store.host]
    )
    runs = store.load_rows(
        "SELECT generation FROM runs WHERE repository_id = %s AND host = %s", [store.repository_id, store.host]
    )
    domains = {row.lease.domain for row in held if row.lease is not None}
    for row in held:
        if row.lease is None and row.name != MAIN:
            domains |= set(store.domains_of_lease(row.ended_fence))
    known = [run for row in history.slots for run in (row.run, *row.recent_runs) if run is not None]
    return Owners(
        slots=frozenset(topology.slots),
        held=frozenset(row.name for row in held),
        domains=frozenset(domains),
        releases=frozenset(row["sha"] for row in releases),
        trees=frozenset(row["tree"] for row in releases),
        builds=frozenset(_builds_in_use(layout, topology, known)),
        runs=frozenset(int(row["generation"]) for row in runs),
        units=frozenset((fact.unit, fact.generation) for fact in runtime.observe()),
    )


def count_overdue(
    layout: Layout,
    topology: Topology,
    store: Store,
    runtime: Runtime,
    history: History,
    retention: Retention,
    *,
    now: datetime,
) -> tuple[Leftover, ...]:
    """Return which rows should have gone by retention days ago, a line a kind."""
    at = now - ROWS_GRACE
    runs = select_forgettable(
        store.load_ended_runs(), find_needed(layout, topology, runtime, history), retention=retention, now=at
    )
    deliveries_before = at - timedelta(days=retention.deliveries_days)
    runs_before, audit_before = (at - timedelta(days=days) for days in (retention.runs_days, retention.audit_days))
    counts = {"runs": len(runs)}
    with store.undone():
        counts["deliveries"] = store.forget_deliveries(
            before=deliveries_before, keep=retention.deliveries_keep, at_most=ROWS_COUNTED_MAX
        )
        counts["reports"] = store.forget_reports(before=runs_before, at_most=ROWS_COUNTED_MAX)
        counts["heads and pull requests"] = store.forget_heads(before=runs_before, at_most=ROWS_COUNTED_MAX)
        counts["lines of the audit, commands and drifts"] = store.forget_audit(
            before=audit_before, at_most=ROWS_COUNTED_MAX
        )
        counts["orders, holds and leases"] = store.forget_orders(before=audit_before, at_most=ROWS_COUNTED_MAX)
    return tuple(
        Leftover(path=f"rows: {what}", message=f"{count} or more should have gone two days ago; they end: retention")
        for what, count in counts.items()
        if count
    )


def _builds_in_use(layout: Layout, topology: Topology, known: list[Run]) -> Iterator[str]:
    trees = {(run.domain, run.head.tree) for run in known if run.ended_at is None}
    for slot in topology.slots:
        try:
            live = read_live(layout, slot)
        except Stalled:
            live = None
        if live is None or live.state != "live":
            continue
        for root in (live.static_root, live.previous_static_root):
            build = None if root is None else layout.build_above(Path(root))
            if build is not None:
                yield str(build.relative_to(layout.builds))
        if live.tree is not None:
            of = next((run.domain for run in known if run.generation == live.generation), PRODUCTION)
            trees.add((of, live.tree))
    for domain, tree in trees:
        for build in _folders_in(layout.builds / domain):
            if build.name.startswith(tree):
                yield f"{domain}/{build.name}"


def _things_in(folder: Path, name: str) -> Iterator[PathFact]:
    now = time.time()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                yield PathFact(
                    path=f"{name}/{entry.name}" if name else entry.name,
                    age_s=now - max(status.st_mtime, status.st_ctime),
                    size_bytes=status.st_size,
                    entries=_count(Path(entry.path)) if _is_counted(name, entry.name) else 0,
                )
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return


def _is_counted(folder: str, name: str) -> bool:
    return name == "live.d" or folder == "builds"


def _count(folder: Path) -> int:
    try:
        return len(os.listdir(folder))
    except OSError:
        return 0


def _folders_in(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
