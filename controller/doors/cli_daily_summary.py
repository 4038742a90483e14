"""`oroboros maintenance daily-summary`: what was of this day, written for machines, and said for people.

What the host itself shows is always there; what only the rows know is missing, as null, when their database is away.
The schema is docs/daily-health-summary.schema.json; docs/daily-health-summary.md explains it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.text import Text

from controller.decisions.daily import DayFacts, DiskFact, Unresolved, judge_unresolved, needs_attention
from controller.decisions.health import ServiceHealth
from controller.doors import tables, views
from controller.doors.cli_health import read_health
from controller.doors.policies import read_freezes, read_policy
from controller.doors.stacks import Stack, open_mirror, open_runtime
from controller.doors.views import DriftView, HoldView, OverrideView, QuarantineView, StatusView, WaitingView
from controller.effects.day_files import (
    FolderSize,
    measure_disk,
    measure_folder,
    remove_old_summaries,
    write_summary,
)
from controller.effects.store import History, Store
from controller.loop.forgetting import Forgotten, forget
from controller.model.config import Policy, Settings
from controller.model.errors import OroborosError, Unavailable
from controller.model.names import MAIN, Layout, Topology
from controller.model.nouns import Drift, Head

SCHEMA_VERSION = 1
WINDOW = timedelta(hours=24)
#: For counting what the folders take.
MEASURE_S = 60.0
FAILURES_MAX = 50

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveLine:
    """What a slot serves, by the host's own word; title, since and by are the rows'."""

    slot: str
    url: str
    state: str
    release: str | None
    since: datetime | None
    title: str
    by: str
    pull_request: int | None
    #: Who stopped its backend by hand, and why; "" when nobody did.
    stopped: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureLine:
    """A run of the window that did not go live."""

    run: int
    slot: str
    sha: str
    title: str
    state: str
    reason: str
    message: str
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsOfDay:
    """Runs that began in the window."""

    begun: int
    #: State to how many, those under way too.
    by_state: Mapping[str, int]
    #: Reason to how many, of those that did not go live.
    by_reason: Mapping[str, int]
    failures: tuple[FailureLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveriesOfDay:
    """Deliveries that came in the window, and those that wait now."""

    received: int
    ignored: int
    dead: int
    #: Ids or bytes that came once more.
    repeated: int
    pending: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotsNow:
    """The preview slots."""

    previews: int
    leased: int
    waiting: tuple[WaitingView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportsNow:
    """Reports to the forge that were not sent."""

    unsent: int
    stalled: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What only the rows know."""

    runs: RunsOfDay
    stalled_runs: int
    quarantined: tuple[QuarantineView, ...]
    overrides: tuple[OverrideView, ...]
    holds: tuple[HoldView, ...]
    slots: SlotsNow
    deliveries: DeliveriesOfDay
    #: Heads of the window that no webhook told of: resync found them.
    missed: tuple[views.MissedView, ...]
    refused_head: views.RefusedHeadView | None
    #: Of the day.
    force_pushes: tuple[views.ForcePushView, ...]
    reports: ReportsNow
    notifications: ReportsNow
    drifts: tuple[DriftView, ...]
    policy_problems: tuple[str, ...]
    forgotten: Forgotten


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskView:
    """How full the disk is, and what fills it."""

    now: DiskFact
    releases: FolderSize
    builds: FolderSize
    artifacts: FolderSize


@dataclass(frozen=True, slots=True, kw_only=True)
class DailySummary:
    """The whole of it. The names of the fields are those of the JSON."""

    version: int
    day: str
    written_at: datetime
    window_hours: float
    host: str
    repository: str
    production_head: str | None
    needs_attention: tuple[str, ...]
    unresolved_rollbacks: tuple[Unresolved, ...]
    live: tuple[LiveLine, ...]
    health: tuple[ServiceHealth, ...]
    disk: DiskView
    #: Null when the control plane's database is away.
    record: Record | None
    record_problem: str


def summarize(stack: Stack, settings: Settings, store: Store, topology: Topology, *, now: datetime) -> DailySummary:
    """Gather the day, and let go of what the policy lets go."""
    layout = settings.layout
    head = _production_head(settings)
    record: Record | None = None
    status: StatusView | None = None
    unresolved: tuple[Unresolved, ...] = ()
    problem = ""
    serves = next((live for live in _by_host(layout, topology) if live.slot == MAIN), None)
    try:
        history = store.load_history()
        forgotten = _forget(settings, store, topology, history, now=now)
        freezes = read_freezes(settings, store)
        status = views.read_status(store, layout, topology, freezes=freezes, now=now)
        record = read_record(store, status, topology, forgotten, now=now)
        unresolved = judge_unresolved(
            head,
            serves=views.release_of_main(layout) if serves is not None and not serves.problem else None,
            quarantined=history.quarantined,
            overrides=history.overrides,
            now=now,
        )
    except Unavailable as error:
        problem = str(error)
    live = _by_host(layout, topology) if status is None else tuple(_live_line(slot) for slot in status.slots)
    health = read_health(lambda: stack, wait_s=0)
    disk = _disk(layout)
    return DailySummary(
        version=SCHEMA_VERSION,
        day=now.strftime("%Y-%m-%d"),
        written_at=now,
        window_hours=WINDOW.total_seconds() / 3600.0,
        host=settings.host,
        repository=settings.repository,
        production_head=None if head is None else head.sha,
        needs_attention=needs_attention(_facts(record, unresolved, live, health, disk.now, problem, now=now)),
        unresolved_rollbacks=unresolved,
        live=live,
        health=health,
        disk=disk,
        record=record,
        record_problem=problem,
    )


def keep_summary(settings: Settings, store: Store, summary: DailySummary, folder: Path) -> Path:
    """Write the day's file and remove the oldest; return its path."""
    path = write_summary(folder, summary.written_at.date(), to_text(summary))
    try:
        keep = read_policy(settings, store.load_repository()).retention.summaries
    except OroborosError:
        keep = Policy().retention.summaries
    remove_old_summaries(folder, keep=keep)
    return path


def to_text(summary: DailySummary) -> str:
    """Return the summary as the JSON that its schema describes."""
    return json.dumps(views.to_json(summary), indent=2) + "\n"


def _forget(settings: Settings, store: Store, topology: Topology, history: History, *, now: datetime) -> Forgotten:
    """Let go of what the policy of the production branch lets go; while that cannot be known, nothing goes."""
    try:
        retention = read_policy(settings, history.repository).retention
        return forget(settings.layout, store, topology, open_runtime(settings), history, retention, now=now)
    except OroborosError as error:
        log.warning("retention: %s", error, extra={"action": "retention.waits"})
        return Forgotten(problem=str(error))


def read_record(store: Store, status: StatusView, topology: Topology, forgotten: Forgotten, *, now: datetime) -> Record:
    """Return what the rows know of the day."""
    since = now - WINDOW
    counted = store.load_rows(
        "SELECT count(*) FILTER (WHERE received_at >= since) AS received,"
        " count(*) FILTER (WHERE received_at >= since AND state = 'ignored') AS ignored,"
        " count(*) FILTER (WHERE received_at >= since AND state = 'dead') AS dead,"
        " coalesce(sum(seen_count - 1) FILTER (WHERE received_at >= since), 0)::bigint AS repeated,"
        " count(*) FILTER (WHERE state = 'pending') AS pending"
        " FROM deliveries, (SELECT %s::timestamptz AS since) AS asked WHERE received_at >= since OR state = 'pending'",
        [since],
    )[0]
    missed = store.load_rows(
        "SELECT ref, sha, seen_at FROM refs_seen r WHERE repository_id = %s AND NOT by_webhook AND seen_at >= %s"
        " AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.sha = r.sha) ORDER BY seen_at DESC LIMIT %s",
        [store.repository_id, since, views.LIST_MAX],
    )
    stalled = store.load_rows(
        "SELECT count(*) AS stalled FROM (SELECT DISTINCT ON (slot) state FROM runs"
        " WHERE repository_id = %s AND host = %s ORDER BY slot, generation DESC) newest WHERE state = 'stalled'",
        [store.repository_id, store.host],
    )[0]
    return Record(
        runs=_runs(store, since=since),
        stalled_runs=int(stalled["stalled"]),
        quarantined=status.quarantined,
        overrides=status.overrides,
        holds=status.holds,
        slots=SlotsNow(
            previews=topology.previews,
            leased=sum(slot.pull_request is not None for slot in status.slots),
            waiting=status.waiting,
        ),
        deliveries=DeliveriesOfDay(
            received=int(counted["received"]),
            ignored=int(counted["ignored"]),
            dead=int(counted["dead"]),
            repeated=int(counted["repeated"]),
            pending=int(counted["pending"]),
        ),
        missed=tuple(
            views.MissedView(ref=str(row["ref"]), sha=str(row["sha"]), seen_at=row["seen_at"]) for row in missed
        ),
        refused_head=status.refused_head,
        force_pushes=status.force_pushes,
        reports=ReportsNow(unsent=status.reports_unsent, stalled=status.reports_stalled, error=status.report_error),
        notifications=ReportsNow(
            unsent=status.notifications_unsent,
            stalled=status.notifications_stalled,
            error=status.notification_error,
        ),
        drifts=status.drifts,
        policy_problems=status.policy_problems,
        forgotten=forgotten,
    )


def _runs(store: Store, *, since: datetime) -> RunsOfDay:
    here = [store.repository_id, store.host, since]
    grouped = store.load_rows(
        "SELECT state, CASE WHEN state = 'live' THEN '' ELSE reason END AS reason, count(*) AS runs FROM runs"
        " WHERE repository_id = %s AND host = %s AND begun_at >= %s GROUP BY 1, 2 ORDER BY 1, 2",
        here,
    )
    failures = store.load_rows(
        "SELECT generation, slot, sha, title, state, reason, message, successor, switched_back, ended_at FROM runs"
        " WHERE repository_id = %s AND host = %s AND begun_at >= %s AND state IN ('failed', 'rolled_back', 'stalled')"
        " ORDER BY generation DESC LIMIT %s",
        [*here, FAILURES_MAX],
    )
    by_state: dict[str, int] = {}
    by_reason: dict[str, int] = {}
    for row in grouped:
        state, reason, runs = str(row["state"]), str(row["reason"]), int(row["runs"])
        by_state[state] = by_state.get(state, 0) + runs
        if reason:
            by_reason[reason] = by_reason.get(reason, 0) + runs
    return RunsOfDay(
        begun=sum(by_state.values()),
        by_state=by_state,
        by_reason=by_reason,
        failures=tuple(
            FailureLine(
                run=int(row["generation"]),
                slot=str(row["slot"]),
                sha=str(row["sha"]),
                title=str(row["title"]),
                state=str(row["state"]),
                reason=str(row["reason"]),
                message=views.said_at_end(row),
                ended_at=row["ended_at"],
            )
            for row in failures
        ),
    )


def _live_line(slot: views.SlotView) -> LiveLine:
    return LiveLine(
        slot=slot.slot,
        url=slot.url,
        state=slot.state,
        release=slot.release,
        since=slot.since,
        title=slot.title,
        by=slot.by,
        pull_request=slot.pull_request,
        stopped=slot.stopped,
        problem=slot.problem,
    )


def _by_host(layout: Layout, topology: Topology) -> tuple[LiveLine, ...]:
    lines: list[LiveLine] = []
    for slot in topology.slots:
        live, _, problem = views.read_host_slot(layout, slot)
        serves = live is not None and live.state == "live"
        lines.append(
            LiveLine(
                slot=slot,
                url=topology.url(slot),
                state=live.state if live is not None else "unreadable" if problem else "empty",
                release=live.release if live is not None and serves else None,
                since=None,
                title="",
                by="",
                pull_request=None,
                stopped="",
                problem=problem,
            )
        )
    return tuple(lines)


def _production_head(settings: Settings) -> Head | None:
    try:
        return open_mirror(settings).production_head()
    except OroborosError:
        return None  # never fetched, or unreadable: doctor says which


def _disk(layout: Layout) -> DiskView:
    deadline_s = time.monotonic() + MEASURE_S
    measure: Callable[[Path], FolderSize] = lambda path: measure_folder(path, deadline_s=deadline_s)  # noqa: E731
    return DiskView(
        now=measure_disk(layout.root),
        releases=measure(layout.releases),
        builds=measure(layout.builds),
        artifacts=measure(layout.artifacts),
    )


def _facts(
    record: Record | None,
    unresolved: tuple[Unresolved, ...],
    live: tuple[LiveLine, ...],
    health: tuple[ServiceHealth, ...],
    disk: DiskFact,
    problem: str,
    *,
    now: datetime,
) -> DayFacts:
    unwell = tuple((one.service, one.said) for one in health if not one.ok)
    unreadable = tuple((line.slot, line.problem) for line in live if line.problem)
    if record is None:
        return DayFacts(unwell=unwell, unreadable=unreadable, disk=disk, store_away=problem)
    return DayFacts(
        unresolved=unresolved,
        unwell=unwell,
        unreadable=unreadable,
        drifts=tuple(_drift(view) for view in record.drifts if view.ended_at is None),
        policy_problems=record.policy_problems,
        head_refused=""
        if record.refused_head is None
        else f"{record.refused_head.reason}: {record.refused_head.message}",
        force_pushes=tuple(tables.force_push_line(moved, now=now) for moved in record.force_pushes),
        holds=tuple(hold.said for hold in record.holds if hold.kind == "by_hand"),
        stalled_runs=record.stalled_runs,
        dead_deliveries=record.deliveries.dead,
        stalled_reports=record.reports.stalled,
        stalled_notifications=record.notifications.stalled,
        missed=len(record.missed),
        disk=disk,
    )


def _drift(view: DriftView) -> Drift:
    return Drift(
        reason=view.reason,
        slot=None,
        subject=view.subject,
        message=view.message,
        handling="by_hand" if view.handling == "by_hand" else "held" if view.handling == "held" else "heals",
    )


def print_summary(console: Console, summary: DailySummary, path: Path) -> None:
    """Print what a person wants to know in the morning."""

    def say(text: str, style: str = "") -> None:
        console.print(Text(tables.plain(text), style=style))

    say(f"{summary.repository} on {summary.host}, {summary.day}", "bold")
    for sentence in summary.needs_attention:
        say(f"! {sentence}", "yellow")
    if not summary.needs_attention:
        say("nothing needs attention", "green")
    for line in summary.live:
        since = f" since {line.since:%Y-%m-%d %H:%M} UTC" if line.since is not None else ""
        what = f"{tables.short(line.release)} {line.title}" if line.release is not None else line.state
        say(f"{line.slot}: {what}{since}".rstrip())
    record = summary.record
    if record is not None:
        states = ", ".join(f"{count} {state}" for state, count in sorted(record.runs.by_state.items())) or "none"
        say(f"runs: {states}")
        for failure in record.runs.failures:
            said = ": ".join(part for part in (failure.reason, failure.message) if part)
            say(f"  {failure.slot} {tables.short(failure.sha)} {failure.state}: {said}")
        came = record.deliveries
        say(
            f"deliveries: {came.received} received, {came.ignored} ignored, {came.repeated} repeated, {came.dead} given"
            f" up, {came.pending} wait; missed: {len(record.missed)}"
        )
        say(f"previews: {record.slots.leased} of {record.slots.previews} leased, {len(record.slots.waiting)} wait")
        for hold in record.holds:
            say(hold.said)
        for drift in record.drifts:
            say(f"drift: {tables.drift_line(drift, now=summary.written_at)}")
        gone = record.forgotten
        say(
            f"removed: {gone.deliveries} deliveries, {gone.runs} runs, {gone.reports} reports,"
            f" {gone.audit} lines of the audit, {gone.orders} orders and leases,"
            f" {gone.heads} heads and pull requests" + (f"; {gone.problem}" if gone.problem else "")
        )
    disk = summary.disk
    sizes = ", ".join(
        f"{name} {tables.size(found.size_bytes)}"
        for name, found in (("releases", disk.releases), ("builds", disk.builds), ("artifacts", disk.artifacts))
    )
    say(f"disk: {tables.size(disk.now.free_bytes)} of {tables.size(disk.now.total_bytes)} free; {sizes}")
    say(f"written: {path}")
