"""`oroboros maintenance reset-audit`: gathers what `decisions.integrity` compares, and shows what contradicts itself.

Facts are read one after the other while the loop works, so what is seen only once may have been a moment between two of
them: a finding counts when a second look, a little later, finds it too. Nothing is changed. Unavailable when a part
does not answer: an audit that could not look says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg.rows import DictRow
from rich.console import Console
from rich.text import Text

from controller.decisions.integrity import (
    DatabaseFact,
    Finding,
    HostFacts,
    LeaseFact,
    RunFact,
    SlotFacts,
    judge_integrity,
)
from controller.decisions.leftovers import LEFT_BEHIND, Leftover
from controller.doors import tables
from controller.doors.leftovers import count_overdue, find_leftovers
from controller.doors.policies import read_policy
from controller.doors.stacks import open_databases, open_runtime, utc_now
from controller.doors.views import read_host_slot
from controller.effects.store import Store
from controller.model.config import Settings
from controller.model.errors import Stalled
from controller.model.names import MAIN, PULL_DOMAIN, QUEUE_DOMAIN, Domain, Layout, SlotName, Topology, slot_of_unit
from controller.model.nouns import ProcessFact
from controller.model.states import RunState

#: Between the two looks: longer than a step takes, and a poll of the loop.
SECOND_LOOK_S = 2.0
RUNS_MAX = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditView:
    """What was compared, and what contradicts itself."""

    ok: bool
    lookback_hours: float
    running_grace_minutes: float
    slots: int
    runs: int
    findings: tuple[Finding, ...]


def audit(
    settings: Settings, store: Store, topology: Topology, *, lookback_hours: float, running_grace_minutes: float
) -> AuditView:
    """Look, and look again at what was found."""

    def look() -> tuple[HostFacts, tuple[Finding, ...]]:
        now = utc_now()
        facts = gather(settings, store, topology, since=now - timedelta(hours=lookback_hours))
        return facts, judge_integrity(facts, grace_s=running_grace_minutes * 60.0, now=now)

    facts, findings = confirm(look, pause_s=SECOND_LOOK_S)
    findings += _left_behind(settings, store, topology, grace_s=running_grace_minutes * 60.0)
    return AuditView(
        ok=not findings,
        lookback_hours=lookback_hours,
        running_grace_minutes=running_grace_minutes,
        slots=len(facts.slots),
        runs=len(facts.runs),
        findings=findings,
    )


def _left_behind(settings: Settings, store: Store, topology: Topology, *, grace_s: float) -> tuple[Finding, ...]:
    """Return what outlived its owner: paths of the root, and rows."""
    layout, runtime, history = settings.layout, open_runtime(settings), store.load_history()
    left = find_leftovers(layout, topology, store, runtime, history, grace_s=grace_s)
    try:
        retention = read_policy(settings, history.repository).retention
    except Stalled:
        return tuple(map(_finding, left))  # while it cannot be known, no row goes
    overdue = count_overdue(layout, topology, store, runtime, history, retention, now=utc_now())
    return tuple(map(_finding, (*left, *overdue)))


def _finding(left: Leftover) -> Finding:
    return Finding(slot=SlotName("-"), reason=LEFT_BEHIND, message=f"{left.path}: {left.message}")


def confirm(
    look: Callable[[], tuple[HostFacts, tuple[Finding, ...]]], *, pause_s: float
) -> tuple[HostFacts, tuple[Finding, ...]]:
    """Return the findings of a second look that the first one had as well; the second is not needed when there are
    none."""
    facts, first = look()
    if not first:
        return facts, ()
    time.sleep(pause_s)
    facts, second = look()
    seen = {(finding.slot, finding.reason) for finding in first}
    return facts, tuple(finding for finding in second if (finding.slot, finding.reason) in seen)


def gather(settings: Settings, store: Store, topology: Topology, *, since: datetime) -> HostFacts:
    """Return everything that is compared: rows, links, folders, units, databases."""
    here = [store.repository_id, store.host]
    slots = {str(row["name"]): row for row in store.load_rows("SELECT * FROM slots WHERE host = %s", [store.host])}
    leases = [
        _lease(row)
        for row in store.load_rows(
            "SELECT * FROM leases WHERE repository_id = %s AND host = %s"
            " AND (ended_at IS NULL OR ended_at >= %s OR fence IN"
            "  (SELECT max(fence) FROM leases WHERE host = %s AND ended_at IS NOT NULL GROUP BY slot))"
            " ORDER BY fence DESC LIMIT %s",
            [*here, since, store.host, RUNS_MAX],
        )
    ]
    # Before the runs: a unit's run is written before the unit is started.
    processes = open_runtime(settings).observe()
    alive = [process.generation for process in processes]
    runs = [
        _run(row)
        for row in store.load_rows(
            "SELECT generation, slot, domain, fence, state, begun_at, ended_at FROM runs"
            " WHERE repository_id = %s AND host = %s"
            " AND (ended_at IS NULL OR begun_at >= %s OR generation = ANY(%s))"
            " ORDER BY generation = ANY(%s) DESC, generation DESC LIMIT %s",
            [*here, since, alive, alive, RUNS_MAX],
        )
    ]
    databases: dict[SlotName, DatabaseFact] | None = None
    opened = open_databases(settings)
    if opened is not None:
        try:
            databases = {fact.slot: fact for fact in opened.survey()}
        finally:
            opened.close()
    return HostFacts(
        slots=tuple(
            gather_slot(
                settings.layout,
                name,
                row=slots.get(name),
                leases=[lease for lease in leases if lease.slot == name],
                database=None if databases is None else databases.get(name, DatabaseFact(slot=name)),
                processes=tuple(process for process in processes if slot_of_unit(process.unit) == name),
            )
            for name in topology.slots
        ),
        runs=tuple(runs),
        leases=tuple(leases),
        builds=_builds(settings.layout),
        strangers=tuple(fact for name, fact in (databases or {}).items() if name not in topology.slots),
        roles_are_installed=settings.app_database_roles == "installed",
    )


def gather_slot(
    layout: Layout,
    slot: SlotName,
    *,
    row: DictRow | None,
    leases: list[LeaseFact],
    database: DatabaseFact | None,
    processes: tuple[ProcessFact, ...],
) -> SlotFacts:
    """Return one slot, by its rows and by what lies and runs. `leases` are the slot's, newest first."""
    live, _, problem = read_host_slot(layout, slot)
    return SlotFacts(
        slot=slot,
        provisioned_fence=0 if row is None else int(row["provisioned_fence"]),
        wiped_fence=0 if row is None else int(row["wiped_fence"]),
        lease=next((lease for lease in leases if lease.ended_at is None), None),
        ended=next((lease for lease in leases if lease.ended_at is not None), None),
        live=live,
        live_problem=problem if live is None else "",
        database=None if slot == MAIN else database,
        # On a host the folder is always there, and its content is its user's alone to see.
        data=not layout.closes_releases and layout.slot_data(slot).exists(),
        processes=processes,
    )


def _lease(row: DictRow) -> LeaseFact:
    return LeaseFact(
        fence=row["fence"],
        slot=SlotName(row["slot"]),
        pull_request=row["pull_request"],
        in_queue=row["in_queue"],
        claimed_at=row["claimed_at"],
        ended_at=row["ended_at"],
    )


def _run(row: DictRow) -> RunFact:
    return RunFact(
        generation=row["generation"],
        slot=SlotName(row["slot"]),
        domain=Domain(row["domain"]),
        fence=row["fence"],
        state=RunState(row["state"]),
        begun_at=row["begun_at"],
        ended_at=row["ended_at"],
    )


def _builds(layout: Layout) -> tuple[Domain, ...]:
    try:
        with os.scandir(layout.builds) as entries:
            return tuple(
                sorted(Domain(entry.name) for entry in entries if entry.name.startswith((PULL_DOMAIN, QUEUE_DOMAIN)))
            )
    except FileNotFoundError:
        return ()


def print_audit(console: Console, view: AuditView) -> None:
    """Print the contradictions as a table, and a line that sums up."""
    if view.findings:
        rows = [(finding.slot, finding.reason, finding.message) for finding in view.findings]
        console.print(tables.findings_table(("slot", "reason", "what"), rows))
    what = f"{len(view.findings)} contradictions" if view.findings else "nothing contradicts itself"
    console.print(Text(f"{what}: {view.slots} slots, {view.runs} runs of the last {view.lookback_hours:g} h"))
