"""What is there to see? Rows of the store and links of the host, shaped for people's tables and for JSON alike.

`read_…` asks the store through `Rows` and the host through `Layout`, changes nothing, and returns frozen views; every
list is bounded. What a slot serves is read from the host: rows only explain it. No view holds a secret or the body of
a delivery, so whatever is here may be shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import LiteralString, Protocol

from controller.decisions.explain import end_of_run
from controller.decisions.github.sweep import ASKS_MAX
from controller.decisions.holds import HELD_BY_HAND, describe_held, judge_held
from controller.decisions.plan import stopped_by
from controller.decisions.standings import Judged, ProductionHistory, Standing, describe_origin, judge_releases
from controller.decisions.troubles import describe, lasting
from controller.effects.checkout import built_bytes
from controller.effects.live import read_current, read_live
from controller.model.config import Freeze
from controller.model.errors import Stalled
from controller.model.names import MAIN, Domain, Layout, Sha, SlotName, Topology, TreeId
from controller.model.nouns import Live, Trouble
from controller.model.world import Held

LIMIT_DEFAULT = 20
LIMIT_MAX = 200
STEPS_MAX = 500
LIST_MAX = 50
#: For how long a drift that is over is still shown.
DRIFT_TOLD_HOURS = 24.0
#: For how long a branch that was moved by force is told.
FORCE_PUSH_TOLD = timedelta(days=1)


class Rows(Protocol):
    """What views need of the store."""

    def load_rows(self, statement: LiteralString, parameters: Sequence[object] = ()) -> list[dict[str, object]]:
        """Return the rows of a reading query."""

    def load_production_history(self) -> ProductionHistory:
        """Return what releases and runs tell of what each release is to production."""

    def load_troubles(self) -> tuple[Trouble, ...]:
        """Return what the host's worker tries in vain."""

    @property
    def repository_id(self) -> int:
        """The repository's id in the store."""

    @property
    def host(self) -> str:
        """This host's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """One attempt to bring a release to a slot."""

    run: int
    slot: str
    domain: str
    sha: str
    release: str
    title: str
    cause: str
    state: str
    reason: str
    message: str
    proof: str
    attempts: int
    served: bool
    proven: bool
    begun_at: datetime
    switched_at: datetime | None
    watch_until: datetime | None
    ended_at: datetime | None
    #: Rows of the host's health that were unwell right before its switch, and are not held against it.
    unwell_before: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """A line of a run's journal; `after_s` counts from the run's begin and is negative for what came before it."""

    step: str
    began_at: datetime
    ended_at: datetime | None
    after_s: float
    took_s: float | None
    detail: Mapping[str, object]
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictView:
    """What a checkout, gate, confirmation or window said."""

    kind: str
    outcome: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDetail:
    """A run with its journal and verdicts."""

    run: RunView
    steps: tuple[StepView, ...]
    verdicts: tuple[VerdictView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotView:
    """One slot: what it serves by the host's own word, and what the store knows of it."""

    slot: str
    url: str
    #: "live", "free", "empty" (never written) or "unreadable".
    state: str
    release: str | None
    title: str
    #: The run that switched to what it serves.
    live_run: int | None
    since: datetime | None
    #: How what serves came here: a push, an order and whose, a pull request and its author; or that an entry of the
    #: merge queue is checked in it.
    by: str
    current: str | None
    #: `current` names what `live` serves.
    agrees: bool
    pull_request: int | None
    lease_expires_at: datetime | None
    run: RunView | None
    problem: str
    #: Who stopped its backend by hand, and why; "" when nobody did.
    stopped: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseView:
    """A release that is on the disk, or on its way there or from it."""

    release: str
    tree: str
    title: str
    #: Of its row: "publishing", "published" or "removing".
    state: str
    #: What it is to production: `decisions.standings`; since when, by which run, and by whom.
    standing: str
    since: datetime | None
    run: int | None
    by: str
    files: int | None
    #: Of its commit's files, of which it shares with other releases what did not change.
    size_bytes: int | None
    #: What builds made of it; 0 without one.
    build_bytes: int
    published_at: datetime | None
    #: Domains in which it passed its window.
    proven_in: tuple[str, ...]
    serves: tuple[str, ...]
    quarantined_in: tuple[str, ...]
    pinned: bool
    on_disk: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseChange:
    """What a release became to production, since when, by which run, and by what or whose order."""

    release: str
    standing: str
    since: datetime
    run: int | None
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryView:
    """A delivery without its body."""

    id: str
    event: str
    state: str
    reason: str
    target: str
    sha: str | None
    received_at: datetime
    done_at: datetime | None
    seen_count: int
    looks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineView:
    """A tree that may not be tried again in a domain."""

    domain: str
    sha: str
    tree: str
    reason: str
    message: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideView:
    """An order by hand that is in force."""

    id: int
    slot: str
    kind: str
    sha: str
    title: str
    actor: str
    reason: str
    accept_migrations: bool
    at: datetime
    #: Why it goes although the slot is held; "" when it does not.
    despite_hold: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldView:
    """What keeps new releases from a slot: an order by hand, or a freeze of the policy that is on now."""

    slot: str
    #: "by_hand" or "freeze".
    kind: str
    reason: str
    #: Who ordered it; "policy" for a freeze.
    by: str
    at: datetime | None
    until: datetime | None
    #: All of it in a line.
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingView:
    """A pull request without a slot: it waits in the queue (`position` counts from 1), or for an approval."""

    pull_request: int
    position: int | None
    sha: str
    title: str
    author: str
    why: str
    since: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MissedView:
    """A head that no webhook told of: resync found it."""

    ref: str
    sha: str
    seen_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedHeadView:
    """The head of the production branch, where production may not move to it."""

    sha: str
    reason: str
    message: str
    since: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForcePushView:
    """The production branch was moved by force."""

    old: str
    new: str
    #: "back", or "aside" to another history.
    kind: str
    #: "held", "followed", or "no_move" where production had nothing to go back from.
    outcome: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftView:
    """Something that neither a push nor we changed on the host."""

    reason: str
    slot: str | None
    subject: str
    message: str
    #: "heals", "held" or "by_hand".
    handling: str
    found_at: datetime
    heal_ordered_at: datetime | None
    #: When it was no longer so; None while it is.
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TroubleView:
    """Something that the worker tries again and again in vain."""

    subject: str
    reason: str
    message: str
    since: datetime
    tries: int
    #: All of it in a line.
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusView:
    """Everything that somebody who asks "how is it?" wants to know."""

    repository: str
    host: str
    production_branch: str | None
    worker_started_at: datetime | None
    fetched_at: datetime | None
    listed_at: datetime | None
    policy_problems: tuple[str, ...]
    slots: tuple[SlotView, ...]
    running: tuple[RunView, ...]
    last_failure: RunView | None
    quarantined: tuple[QuarantineView, ...]
    overrides: tuple[OverrideView, ...]
    holds: tuple[HoldView, ...]
    waiting: tuple[WaitingView, ...]
    deliveries_pending: int
    oldest_pending_at: datetime | None
    deliveries_dead: int
    reports_unsent: int
    reports_stalled: int
    report_error: str
    notifications_unsent: int
    notifications_stalled: int
    notification_error: str
    missed: tuple[MissedView, ...]
    refused_head: RefusedHeadView | None
    #: Those of the last day.
    force_pushes: tuple[ForcePushView, ...]
    #: The repository's name at the forge, when the settings have another.
    renamed_to: str | None
    #: The id of another repository, to which the name leads by now: nothing is taken from it.
    replaced_by: int | None
    #: Deliveries that the forge could not hand over and that we have asked for; and those that were given up.
    undelivered: int
    undelivered_given_up: int
    #: Those that are, and those of the last day.
    drifts: tuple[DriftView, ...]
    #: What fails for so long that a person must be told, the oldest first.
    troubles: tuple[TroubleView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitView:
    """An instance or job of the slot, as the runtime shows it."""

    unit: str
    systemd: str
    generation: int
    state: str
    pid: int | None
    exit_code: int | None
    since: datetime
    #: It is what `live` names.
    serves: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendView:
    """What runs in a slot, and whether that is as it should be."""

    slot: str
    #: "free", "files only", "running", "stopped", "starting", "not running".
    state: str
    release: str | None
    address: str
    healthy: bool
    said: str
    stopped: str
    units: tuple[UnitView, ...]

    @property
    def ok(self) -> bool:
        """It is as it should be: what is to run does, and its surface says that it is well."""
        return self.state in ("stopped", "starting") or (self.state != "not running" and self.healthy)


_RUN_COLUMNS: LiteralString = (
    "generation, slot, domain, sha, release, title, cause, state, reason, message, successor, switched_back, proof,"
    " attempts, served, proven, begun_at, switched_at, watch_until, ended_at, unwell_before"
)


def said_at_end(row: Mapping[str, object]) -> str:
    """Return how a run of which this is the row ended, in words."""
    return end_of_run(
        _text(row["state"]),
        _text(row["reason"]),
        _text(row["message"]),
        successor=_text(row["successor"]),
        switched_back=bool(row["switched_back"]),
    )


def bounded_limit(limit: int) -> int:
    """Return how many rows may be listed."""
    return max(1, min(LIMIT_MAX, limit))


def read_troubles(rows: Rows, *, now: datetime) -> tuple[TroubleView, ...]:
    """Return what fails for so long that a person must be told, the oldest first."""
    return tuple(
        TroubleView(
            subject=trouble.subject,
            reason=trouble.reason,
            message=trouble.message,
            since=trouble.since,
            tries=trouble.tries,
            said=describe(trouble),
        )
        for trouble in lasting(rows.load_troubles(), now=now)
    )


def read_status(
    rows: Rows, layout: Layout, topology: Topology, *, freezes: Sequence[Freeze], now: datetime
) -> StatusView:
    """Return the state of everything. `freezes` are those of the policy."""
    repository = _first(rows.load_rows("SELECT * FROM repositories WHERE id = %s", [rows.repository_id]))
    worker = _first(
        rows.load_rows(
            "SELECT started_at FROM workers WHERE repository_id = %s AND host = %s", [rows.repository_id, rows.host]
        )
    )
    running = _runs(rows, "repository_id = %s AND host = %s AND ended_at IS NULL", [rows.repository_id, rows.host])
    failed = _runs(
        rows,
        "repository_id = %s AND host = %s AND state IN ('failed', 'rolled_back', 'stalled')",
        [rows.repository_id, rows.host],
        limit=1,
    )
    pending = _first(
        rows.load_rows(
            "SELECT count(*) FILTER (WHERE state = 'pending') AS pending,"
            " min(received_at) FILTER (WHERE state = 'pending') AS oldest,"
            " count(*) FILTER (WHERE state = 'dead') AS dead"
            " FROM deliveries WHERE state IN ('pending', 'dead')"
        )
    )
    reports = _first(
        rows.load_rows(
            "SELECT count(*) FILTER (WHERE NOT stalled) AS unsent, count(*) FILTER (WHERE stalled) AS stalled,"
            " coalesce((array_agg(error ORDER BY updated_at DESC) FILTER (WHERE error <> ''))[1], '') AS error"
            " FROM reports WHERE repository_id = %s AND sent_generation < generation AND surface <> 'notification'",
            [rows.repository_id],
        )
    )
    notifications = _first(
        rows.load_rows(
            "SELECT count(*) FILTER (WHERE NOT stalled) AS unsent, count(*) FILTER (WHERE stalled) AS stalled,"
            " coalesce((array_agg(error ORDER BY updated_at DESC) FILTER (WHERE error <> ''))[1], '') AS error"
            " FROM reports WHERE repository_id = %s AND sent_generation < generation AND surface = 'notification'",
            [rows.repository_id],
        )
    )
    missed = rows.load_rows(
        "SELECT ref, sha, seen_at FROM refs_seen r WHERE repository_id = %s AND NOT by_webhook"
        " AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.sha = r.sha) ORDER BY seen_at DESC LIMIT 5",
        [rows.repository_id],
    )
    undelivered = _first(
        rows.load_rows(
            "SELECT count(*) AS open, count(*) FILTER (WHERE asked_count >= %s) AS given_up"
            " FROM missed_deliveries WHERE repository_id = %s AND taken_at IS NULL",
            [ASKS_MAX, rows.repository_id],
        )
    )
    return StatusView(
        troubles=read_troubles(rows, now=now),
        repository=_text(repository.get("full_name")),
        host=rows.host,
        production_branch=_text_or_none(repository.get("production_branch")),
        worker_started_at=_instant(worker.get("started_at")),
        fetched_at=_instant(repository.get("fetched_at")),
        listed_at=_instant(repository.get("listed_at")),
        policy_problems=_texts(repository.get("policy_problems")),
        slots=read_slots(rows, layout, topology),
        running=running,
        last_failure=failed[0] if failed else None,
        quarantined=read_quarantined(rows),
        overrides=read_overrides(rows),
        holds=read_holds(rows, freezes, now=now),
        waiting=read_waiting(rows),
        deliveries_pending=_number(pending.get("pending")),
        oldest_pending_at=_instant(pending.get("oldest")),
        deliveries_dead=_number(pending.get("dead")),
        reports_unsent=_number(reports.get("unsent")),
        reports_stalled=_number(reports.get("stalled")),
        report_error=_text(reports.get("error")),
        notifications_unsent=_number(notifications.get("unsent")),
        notifications_stalled=_number(notifications.get("stalled")),
        notification_error=_text(notifications.get("error")),
        missed=tuple(
            MissedView(ref=_text(row["ref"]), sha=_text(row["sha"]), seen_at=_must(_instant(row["seen_at"])))
            for row in missed
        ),
        refused_head=_refused_head(repository),
        force_pushes=_read_force_pushes(rows, now=now),
        renamed_to=_text_or_none(repository.get("renamed_to")),
        replaced_by=None if repository.get("replaced_by") is None else _number(repository.get("replaced_by")),
        undelivered=_number(undelivered.get("open")),
        undelivered_given_up=_number(undelivered.get("given_up")),
        drifts=read_drifts(rows),
    )


def read_slots(rows: Rows, layout: Layout, topology: Topology) -> tuple[SlotView, ...]:
    """Return every slot of the host, main first."""
    leases = {
        _text(row["slot"]): row
        for row in rows.load_rows(
            "SELECT l.slot, l.pull_request, l.in_queue, l.expires_at, p.author, p.title FROM leases l"
            " LEFT JOIN pull_requests p ON p.repository_id = l.repository_id AND p.number = l.pull_request"
            " WHERE l.repository_id = %s AND l.host = %s AND l.ended_at IS NULL",
            [rows.repository_id, rows.host],
        )
    }
    stops = read_stops(rows)
    running = {
        run.slot: run
        for run in _runs(rows, "repository_id = %s AND host = %s AND ended_at IS NULL", [rows.repository_id, rows.host])
    }
    return tuple(
        _slot_view(
            layout,
            topology,
            slot,
            rows=rows,
            lease=leases.get(slot, {}),
            run=running.get(slot),
            stopped=stops.get(slot, ""),
        )
        for slot in topology.slots
    )


def read_slots_on_disk(layout: Layout, topology: Topology) -> tuple[SlotView, ...]:
    """Return every slot as the host alone tells it, main first: what serves, and since when."""
    return tuple(_slot_view(layout, topology, slot) for slot in topology.slots)


def _slot_view(
    layout: Layout,
    topology: Topology,
    slot: SlotName,
    *,
    rows: Rows | None = None,
    lease: Mapping[str, object] = MappingProxyType({}),
    run: RunView | None = None,
    stopped: str = "",
) -> SlotView:
    live, current, problem = read_host_slot(layout, slot)
    serves = live is not None and live.state == "live"
    came = _first(
        rows.load_rows(
            "SELECT r.title, r.cause, r.switched_at, o.actor FROM runs r"
            " LEFT JOIN LATERAL (SELECT actor FROM overrides o WHERE o.host = r.host AND o.slot = r.slot"
            "  AND o.sha = r.sha AND o.kind IN ('deploy', 'rollback') AND o.at <= r.begun_at"
            "  ORDER BY o.id DESC LIMIT 1) o ON true"
            " WHERE r.generation = %s AND r.host = %s",
            [live.generation, rows.host],
        )
        if live is not None and serves and rows is not None
        else []
    )
    return SlotView(
        slot=slot,
        url=topology.url(slot),
        state=_slot_state(live, problem),
        release=live.release if live is not None and serves else None,
        title=_text(came.get("title")),
        live_run=live.generation if live is not None and serves else None,
        since=_instant(came.get("switched_at")) or (_linked_at(layout, slot) if serves else None),
        by=describe_origin(
            cause=_text(came.get("cause")),
            actor=_text(came.get("actor")),
            pull_request=_number_or_none(lease.get("pull_request")),
            author=_text(lease.get("author")),
        )
        if serves
        else (f"#{lease['pull_request']} in the merge queue" if lease.get("in_queue") else ""),
        current=current,
        agrees=not problem and current == (live.release if live is not None and serves else current),
        pull_request=_number_or_none(lease.get("pull_request")),
        lease_expires_at=_instant(lease.get("expires_at")),
        run=run,
        problem=problem,
        stopped=stopped,
    )


def read_stops(rows: Rows) -> dict[str, str]:
    """Return who stopped a slot's backend by hand, and why, slot by slot."""
    stops = rows.load_rows(
        "SELECT slot, actor, reason FROM overrides"
        " WHERE repository_id = %s AND host = %s AND ended_at IS NULL AND kind IN ('stopped', 'restart')",
        [rows.repository_id, rows.host],
    )
    return {
        _text(row["slot"]): ": ".join(part for part in (stopped_by(_text(row["actor"])), _text(row["reason"])) if part)
        for row in stops
    }


def read_host_slot(layout: Layout, slot: SlotName) -> tuple[Live | None, Sha | None, str]:
    """Return what `live` and `current` of a slot say, and what is wrong with them."""
    try:
        live = read_live(layout, slot)
    except Stalled as error:
        return None, None, error.message
    try:
        return live, read_current(layout, slot), ""
    except Stalled as error:
        return live, None, error.message


def _linked_at(layout: Layout, slot: SlotName) -> datetime | None:
    """Return when the link `live` was made: a rename keeps its time."""
    try:
        return datetime.fromtimestamp(layout.live(slot).lstat().st_mtime, UTC)
    except OSError:
        return None


def _slot_state(live: Live | None, problem: str) -> str:
    if live is None:
        return "unreadable" if problem else "empty"
    return live.state


def read_runs(rows: Rows, *, limit: int = LIMIT_DEFAULT, slot: SlotName | None = None) -> tuple[RunView, ...]:
    """Return the newest runs, newest first."""
    if slot is not None:
        return _runs(
            rows, "repository_id = %s AND host = %s AND slot = %s", [rows.repository_id, rows.host, slot], limit=limit
        )
    return _runs(rows, "repository_id = %s AND host = %s", [rows.repository_id, rows.host], limit=limit)


def read_run(rows: Rows, generation: int) -> RunDetail | None:
    """Return one run with its steps and verdicts, or None."""
    found = _runs(
        rows,
        "generation = %s AND repository_id = %s AND host = %s",
        [generation, rows.repository_id, rows.host],
        limit=1,
    )
    if not found:
        return None
    verdicts = _first(
        rows.load_rows(
            "SELECT checkout_verdict, gate_verdict, confirm_verdict, watch_verdict FROM runs WHERE generation = %s",
            [generation],
        )
    )
    return RunDetail(
        run=found[0],
        steps=read_steps(rows, generation, begun_at=found[0].begun_at),
        verdicts=tuple(
            VerdictView(
                kind=kind,
                outcome=_text(value.get("outcome")),
                reason=_text(value.get("reason")),
                message=_text(value.get("message")),
            )
            for kind in ("checkout", "gate", "confirm", "watch")
            if isinstance(value := verdicts.get(f"{kind}_verdict"), dict)
        ),
    )


def read_steps(rows: Rows, generation: int, *, begun_at: datetime) -> tuple[StepView, ...]:
    """Return the journal of a run, in the order in which it was written."""
    found = rows.load_rows(
        "SELECT step, began_at, ended_at, detail, error FROM run_steps WHERE generation = %s ORDER BY id LIMIT %s",
        [generation, STEPS_MAX],
    )
    return tuple(_step_view(row, begun_at=begun_at) for row in found)


def _step_view(row: Mapping[str, object], *, begun_at: datetime) -> StepView:
    began_at, ended_at = _must(_instant(row["began_at"])), _instant(row["ended_at"])
    detail = row["detail"]
    return StepView(
        step=_text(row["step"]),
        began_at=began_at,
        ended_at=ended_at,
        after_s=round(((ended_at or began_at) - begun_at).total_seconds(), 3),
        took_s=None if ended_at is None else round((ended_at - began_at).total_seconds(), 3),
        detail=detail if isinstance(detail, dict) else {},
        error=_text(row["error"]),
    )


def read_releases(rows: Rows, layout: Layout, topology: Topology) -> tuple[ReleaseView, ...]:
    """Return every release of this host, newest first."""
    serving: dict[str, list[str]] = {}
    built = built_bytes(layout)
    for slot in topology.slots:
        live, _, _ = read_host_slot(layout, slot)
        if live is not None and live.state == "live" and live.release is not None:
            serving.setdefault(live.release, []).append(slot)
    found = rows.load_rows(
        "SELECT x.*, coalesce((SELECT title FROM runs r WHERE r.repository_id = x.repository_id AND r.sha = x.sha"
        "  AND r.title <> '' ORDER BY generation DESC LIMIT 1), '') AS title,"
        " coalesce((SELECT array_agg(DISTINCT r.domain) FROM runs r WHERE r.repository_id = x.repository_id"
        "  AND r.host = x.host AND r.release = x.sha AND r.proven), '{}') AS proven_in,"
        " coalesce((SELECT array_agg(DISTINCT q.domain) FROM quarantine q WHERE q.repository_id = x.repository_id"
        "  AND q.tree = x.tree AND q.lifted_at IS NULL), '{}') AS quarantined_in"
        " FROM releases x WHERE x.repository_id = %s AND x.host = %s"
        " ORDER BY x.published_at DESC NULLS FIRST, x.sha LIMIT %s",
        [rows.repository_id, rows.host, LIMIT_MAX],
    )
    history = rows.load_production_history()
    on_disk = frozenset(sha for sha in history.published if layout.release(sha).is_dir())
    standings = judge_releases(history, on_disk=on_disk, live=read_host_slot(layout, MAIN)[0])

    def judged(row: Mapping[str, object]) -> Judged:
        # One that was removed since the first query has no row any more.
        return standings.get(Sha(_text(row["sha"])), Judged(standing=Standing.REMOVED))

    return tuple(
        ReleaseView(
            standing=judged(row).standing,
            since=judged(row).since,
            run=judged(row).run,
            by=judged(row).by,
            release=_text(row["sha"]),
            tree=_text(row["tree"]),
            title=_text(row["title"]),
            state=_text(row["state"]),
            files=_number_or_none(row["files"]),
            size_bytes=_number_or_none(row["bytes"]),
            build_bytes=built.get(TreeId(_text(row["tree"])), 0),
            published_at=_instant(row["published_at"]),
            proven_in=_texts(row["proven_in"]),
            serves=tuple(serving.get(_text(row["sha"]), ())),
            quarantined_in=_texts(row["quarantined_in"]),
            pinned=bool(row["pinned"]),
            on_disk=Sha(_text(row["sha"])) in on_disk,
        )
        for row in found
    )


def read_release_history(rows: Rows, *, limit: int = LIMIT_DEFAULT) -> tuple[ReleaseChange, ...]:
    """Return what releases became, newest first, with those that were removed."""
    found = rows.load_rows(
        "SELECT sha, standing, coalesce(since, at) AS since, run, ordered_by FROM release_history"
        " WHERE repository_id = %s AND host = %s ORDER BY id DESC LIMIT %s",
        [rows.repository_id, rows.host, bounded_limit(limit)],
    )
    return tuple(
        ReleaseChange(
            release=_text(row["sha"]),
            standing=_text(row["standing"]),
            since=_must(_instant(row["since"])),
            run=_number_or_none(row["run"]),
            by=_text(row["ordered_by"]),
        )
        for row in found
    )


def read_deliveries(rows: Rows, *, limit: int = LIMIT_DEFAULT) -> tuple[DeliveryView, ...]:
    """Return the newest deliveries, newest first, without their bodies."""
    found = rows.load_rows(
        "SELECT id, event, state, reason, target, sha, received_at, done_at, seen_count, looks"
        " FROM deliveries ORDER BY seq DESC LIMIT %s",
        [bounded_limit(limit)],
    )
    return tuple(
        DeliveryView(
            id=_text(row["id"]),
            event=_text(row["event"]),
            state=_text(row["state"]),
            reason=_text(row["reason"]),
            target=_text(row["target"]),
            sha=_text_or_none(row["sha"]),
            received_at=_must(_instant(row["received_at"])),
            done_at=_instant(row["done_at"]),
            seen_count=_number(row["seen_count"]),
            looks=_number(row["looks"]),
        )
        for row in found
    )


def read_quarantined(rows: Rows) -> tuple[QuarantineView, ...]:
    """Return what may not be tried again, newest first."""
    found = rows.load_rows(
        "SELECT domain, sha, tree, reason, message, at FROM quarantine"
        " WHERE repository_id = %s AND lifted_at IS NULL ORDER BY at DESC LIMIT %s",
        [rows.repository_id, LIST_MAX],
    )
    return tuple(
        QuarantineView(
            domain=_text(row["domain"]),
            sha=_text(row["sha"]),
            tree=_text(row["tree"]),
            reason=_text(row["reason"]),
            message=_text(row["message"]),
            at=_must(_instant(row["at"])),
        )
        for row in found
    )


def read_overrides(rows: Rows) -> tuple[OverrideView, ...]:
    """Return the orders by hand that are in force."""
    found = rows.load_rows(
        "SELECT id, slot, kind, sha, title, actor, reason, accept_migrations, at, despite_hold FROM overrides"
        " WHERE repository_id = %s AND host = %s AND ended_at IS NULL ORDER BY id DESC LIMIT %s",
        [rows.repository_id, rows.host, LIST_MAX],
    )
    return tuple(
        OverrideView(
            id=_number(row["id"]),
            slot=_text(row["slot"]),
            kind=_text(row["kind"]),
            sha=_text(row["sha"]),
            title=_text(row["title"]),
            actor=_text(row["actor"]),
            reason=_text(row["reason"]),
            accept_migrations=bool(row["accept_migrations"]),
            at=_must(_instant(row["at"])),
            despite_hold=_text(row["despite_hold"]),
        )
        for row in found
    )


def _refused_head(repository: Mapping[str, object]) -> RefusedHeadView | None:
    sha = _text_or_none(repository.get("refused_sha"))
    if sha is None:
        return None
    return RefusedHeadView(
        sha=sha,
        reason=_text(repository.get("refused_reason")),
        message=_text(repository.get("refused_message")),
        since=_instant(repository.get("refused_at")),
    )


def _read_force_pushes(rows: Rows, *, now: datetime) -> tuple[ForcePushView, ...]:
    found = rows.load_rows(
        "SELECT at, detail FROM audit WHERE repository_id = %s AND host = %s AND action = 'force_push' AND at > %s"
        " ORDER BY id DESC LIMIT %s",
        [rows.repository_id, rows.host, now - FORCE_PUSH_TOLD, LIST_MAX],
    )
    return tuple(
        ForcePushView(
            old=_text(detail.get("old")),
            new=_text(detail.get("new")),
            kind=_text(detail.get("kind")),
            outcome=_text(detail.get("outcome")),
            at=_must(_instant(row["at"])),
        )
        for row in found
        if isinstance(detail := row["detail"], dict)
    )


def read_holds(rows: Rows, freezes: Sequence[Freeze], *, now: datetime) -> tuple[HoldView, ...]:
    """Return the orders to hold that are in force, and the freezes that are on."""
    found = rows.load_rows(
        "SELECT slot, actor, reason, at, until FROM holds h WHERE repository_id = %s AND host = %s"
        " AND ended_at IS NULL AND (until IS NULL OR until > %s)"
        " AND (fence = 0 OR EXISTS (SELECT 1 FROM leases l WHERE l.fence = h.fence AND l.ended_at IS NULL))"
        " ORDER BY id LIMIT %s",
        [rows.repository_id, rows.host, now, LIST_MAX],
    )
    by_hand = tuple(
        _hold_view(
            _text(row["slot"]),
            Held(reason=HELD_BY_HAND, why=_text(row["reason"]), by=_text(row["actor"]), until=_instant(row["until"])),
            at=_instant(row["at"]),
        )
        for row in found
    )
    frozen = judge_held((), freezes, slot=MAIN, fence=0, now=now)
    return by_hand if frozen is None else (*by_hand, _hold_view(MAIN, frozen, at=None))


def _hold_view(slot: str, held: Held, *, at: datetime | None) -> HoldView:
    return HoldView(
        slot=slot,
        kind="by_hand" if held.reason == HELD_BY_HAND else "freeze",
        reason=held.why,
        by=held.by,
        at=at,
        until=held.until,
        said=f"{slot} is {describe_held(held)}",
    )


def read_drifts(rows: Rows, *, hours: float = DRIFT_TOLD_HOURS) -> tuple[DriftView, ...]:
    """Return what drifted and still does, and what was found in the last hours, newest first."""
    found = rows.load_rows(
        "SELECT * FROM drifts WHERE repository_id = %s AND host = %s"
        " AND (ended_at IS NULL OR found_at > now() - make_interval(secs => %s))"
        " ORDER BY ended_at IS NULL DESC, id DESC LIMIT %s",
        [rows.repository_id, rows.host, hours * 3600.0, LIST_MAX],
    )
    return tuple(
        DriftView(
            reason=_text(row["reason"]),
            slot=_text_or_none(row["slot"]),
            subject=_text(row["subject"]),
            message=_text(row["message"]),
            handling=_text(row["handling"]),
            found_at=_must(_instant(row["found_at"])),
            heal_ordered_at=_instant(row["heal_ordered_at"]),
            ended_at=_instant(row["ended_at"]),
        )
        for row in found
    )


def read_last_run(rows: Rows, *, domain: Domain) -> RunView | None:
    """Return the newest run of a domain, or None."""
    found = _runs(
        rows, "repository_id = %s AND host = %s AND domain = %s", [rows.repository_id, rows.host, domain], limit=1
    )
    return found[0] if found else None


def read_void_approval(rows: Rows, number: int) -> str:
    """Return what was approved of a pull request last and why that no longer counts; "" when there is no such."""
    found = rows.load_rows(
        "SELECT sha, actor, end_reason FROM preview_orders WHERE repository_id = %s AND pull_request = %s"
        " AND kind = 'approval' AND ended_at IS NOT NULL ORDER BY id DESC LIMIT 1",
        [rows.repository_id, number],
    )
    if not found:
        return ""
    return f"{_text(found[0]['sha'])[:7]} was approved by {_text(found[0]['actor'])}; {_text(found[0]['end_reason'])}"


def read_waiting(rows: Rows) -> tuple[WaitingView, ...]:
    """Return the open pull requests that hold no slot: the queue in its order, then those that may not run by
    themselves or that git refused."""
    found = rows.load_rows(
        "SELECT p.* FROM pull_requests p WHERE p.repository_id = %s AND p.state = 'open'"
        " AND NOT EXISTS (SELECT 1 FROM leases l WHERE l.repository_id = p.repository_id"
        "  AND l.pull_request = p.number AND NOT l.in_queue AND l.ended_at IS NULL)"
        " ORDER BY p.waiting_since NULLS LAST, p.opened_at, p.number LIMIT %s",
        [rows.repository_id, LIST_MAX],
    )
    position = 0
    views: list[WaitingView] = []
    for row in found:
        queued = row["waiting_since"] is not None
        position += int(queued)
        if queued:
            why = "waits for a free slot"
        elif row["refused_reason"]:
            why = f"{row['refused_reason']}: {row['refused_message']}"
        elif not row["same_repository"]:
            why = "needs approval: it comes from a fork"
        else:
            why = f"no preview: `oroboros explain pr {row['number']}` names the rule"
        views.append(
            WaitingView(
                pull_request=_number(row["number"]),
                position=position if queued else None,
                sha=_text(row["head_sha"]),
                title=_text(row["title"]),
                author=_text(row["author"]),
                why=why,
                since=_instant(row["waiting_since"]),
            )
        )
    return tuple(views)


def _runs(
    rows: Rows, where: LiteralString, parameters: Sequence[object], *, limit: int = LIMIT_MAX
) -> tuple[RunView, ...]:
    statement: LiteralString = (
        "SELECT " + _RUN_COLUMNS + " FROM runs WHERE " + where + " ORDER BY generation DESC LIMIT %s"  # noqa: S608 - literals only
    )
    found = rows.load_rows(statement, [*parameters, bounded_limit(limit)])
    return tuple(
        RunView(
            run=_number(row["generation"]),
            slot=_text(row["slot"]),
            domain=_text(row["domain"]),
            sha=_text(row["sha"]),
            release=_text(row["release"]),
            title=_text(row["title"]),
            cause=_text(row["cause"]),
            state=_text(row["state"]),
            reason=_text(row["reason"]),
            message=said_at_end(row),
            proof=_text(row["proof"]),
            attempts=_number(row["attempts"]),
            served=bool(row["served"]),
            proven=bool(row["proven"]),
            begun_at=_must(_instant(row["begun_at"])),
            switched_at=_instant(row["switched_at"]),
            watch_until=_instant(row["watch_until"]),
            ended_at=_instant(row["ended_at"]),
            unwell_before=_texts(row["unwell_before"]),
        )
        for row in found
    )


def release_of_main(layout: Layout) -> Sha | None:
    """Return the release that production serves, by the host's own word; None when it serves none."""
    live, _, problem = read_host_slot(layout, MAIN)
    if live is None and problem:
        raise Stalled("LiveUnreadable", problem)
    return live.release if live is not None and live.state == "live" else None


def to_json(value: object) -> object:
    """Return a view, or anything made of views, as what `json.dumps` takes."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, StrEnum | Path):
        return str(value)
    if isinstance(value, str | int | float) or value is None:
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Iterable):
        return [to_json(item) for item in value]
    raise TypeError(f"not to be shown: {type(value).__name__}")


def _first(rows: list[dict[str, object]]) -> Mapping[str, object]:
    return rows[0] if rows else {}


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _text_or_none(value: object) -> str | None:
    return None if value is None else str(value)


def _texts(value: object) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _number_or_none(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _instant(value: object) -> datetime | None:
    return value if isinstance(value, datetime) else None


def _must(value: datetime | None) -> datetime:
    assert value is not None
    return value
