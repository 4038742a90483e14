"""How is a view shown to a person? Tables that fit 80 columns, plain when nobody looks or `NO_COLOR` is set.

Titles, branches, names and messages come from strangers: everything passes `plain`, which makes control characters
visible, and no cell is ever read as markup.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Self

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from controller.decisions.health import ServiceHealth
from controller.decisions.slot_checks import Aspect
from controller.decisions.smoke import SmokeReport
from controller.doors.views import (
    DeliveryView,
    DriftView,
    ForcePushView,
    OverrideView,
    ReleaseChange,
    ReleaseView,
    RunView,
    SlotView,
    StatusView,
    StepView,
    UnitView,
)

#: What takes longer says so.
SILENT_S = 1.0
_GOOD = "green"
_BAD = "bold red"
_BUSY = "yellow"
_DIM = "dim"
_STYLES = {
    "live": _GOOD,
    "ok": _GOOD,
    "done": _GOOD,
    "published": _GOOD,
    "failed": _BAD,
    "rolled_back": _BAD,
    "stalled": _BAD,
    "dead": _BAD,
    "unreadable": _BAD,
    "free": _DIM,
    "empty": _DIM,
    "ignored": _DIM,
    "superseded": _DIM,
    "note": _BUSY,
}


def plain(text: str) -> str:
    """Return text that cannot move a cursor, ring a bell or turn its reader's direction."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


class _Console(Console):
    """A console whose reader may go away at any time: who has seen enough is no error."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0)


def open_console(*, errors: bool = False) -> Console:
    """Return a console on stdout (or stderr): no markup, no guesses, no colour where it is not wanted."""
    stream = sys.stderr if errors else sys.stdout
    coloured = stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return _Console(
        file=stream,
        markup=False,
        highlight=False,
        emoji=False,
        soft_wrap=False,
        color_system="auto" if coloured else None,
        force_terminal=None if coloured else False,
    )


@contextmanager
def progress(text: str) -> Iterator[None]:
    """Say on stderr what is being done, once it takes longer than a second: a spinner, or one line without a tty."""
    console = open_console(errors=True)
    if console.is_terminal:
        with console.status(Text(plain(text))):
            yield
        return
    timer = threading.Timer(SILENT_S, lambda: print(f"{plain(text)} ...", file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def short(sha: str | None) -> str:
    """Return the first digits of a commit id."""
    return "-" if sha is None else sha[:7]


def ago(at: datetime | None, *, now: datetime) -> str:
    """Return how long ago something was, in one unit."""
    if at is None:
        return "-"
    seconds = (now - at).total_seconds()
    if seconds < 0:
        return f"in {_span(-seconds)}"
    return f"{_span(seconds)} ago" if seconds >= 1 else "now"


def _span(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def size(size_bytes: int | None) -> str:
    """Return a size in the largest unit of which it has at least one."""
    if size_bytes is None:
        return "-"
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def clock(at: datetime | None) -> str:
    """Return the local time of day."""
    return "-" if at is None else at.astimezone().strftime("%H:%M:%S")


def _table(*columns: str, flexible: str) -> Table:
    """Return a table whose columns keep their words whole, but the flexible one."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for column in columns:
        if column == flexible:
            table.add_column(column, overflow="fold", ratio=1)
        else:
            table.add_column(column, no_wrap=True, overflow="ellipsis")
    return table


def _cell(text: str, *, style: str = "") -> Text:
    return Text(plain(text), style=style or _STYLES.get(text, ""))


def _row(table: Table, cells: Iterable[str | Text]) -> None:
    table.add_row(*(cell if isinstance(cell, Text) else _cell(cell) for cell in cells))


def slots_table(slots: Sequence[SlotView], *, now: datetime) -> Table:
    """Return what each slot serves, since when, by whom, and where."""
    table = _table("slot", "serves", "run", "since", "by", "what", flexible="what")
    for slot in slots:
        what = Text(plain(slot.title))
        for note in (
            f"{slot.run.state} {short(slot.run.release)} (run {slot.run.run})" if slot.run is not None else "",
            slot.problem,
            slot.stopped,
            "" if slot.agrees or slot.problem else f"current names {short(slot.current)}",
        ):
            if note:
                what.append(("\n" if what else "") + plain(note), style=_BUSY)
        what.append(("\n" if what else "") + plain(slot.url), style=_DIM)
        serves = _cell(short(slot.release), style=_GOOD) if slot.release is not None else _cell(slot.state)
        by = slot.by or (f"#{slot.pull_request}" if slot.pull_request is not None else "")
        run = "" if slot.live_run is None else str(slot.live_run)
        _row(table, [slot.slot, serves, run, ago(slot.since, now=now) if slot.release else "", by[:24], what])
    return table


def print_status(console: Console, status: StatusView, *, now: datetime) -> None:
    """Print the whole state: what serves, then only what is not as it should be or is under way."""
    for trouble in status.troubles:
        console.print(Text(plain(trouble.said), style="bold red"))
    branch = status.production_branch or "not known yet"
    console.print(Text(plain(f"{status.repository} on {status.host}, production branch {branch}"), style="bold"))
    console.print(
        Text(
            f"worker since {ago(status.worker_started_at, now=now)}, last fetch {ago(status.fetched_at, now=now)},"
            f" last listing {ago(status.listed_at, now=now)}",
            style=_DIM,
        )
    )
    console.print()
    console.print(slots_table(status.slots, now=now))
    lines: list[tuple[str, str]] = [("policy", problem) for problem in status.policy_problems]
    lines += [
        ("running", f"run {run.run}: {run.slot} is {run.state} {short(run.sha)} {run.title}".rstrip())
        for run in status.running
    ]
    lines += [
        ("order", f"{_order_words(o)} by {o.actor}, {ago(o.at, now=now)}: {_why_ordered(o)}") for o in status.overrides
    ]
    lines += [("held", hold.said) for hold in status.holds]
    lines += [
        (f"waiting {w.position}" if w.position is not None else "held", f"#{w.pull_request} {w.title}: {w.why}")
        for w in status.waiting
    ]
    lines += [
        ("quarantined", f"{short(q.sha)} in {q.domain}: {q.reason}: {q.message}".rstrip(": "))
        for q in status.quarantined
    ]
    if status.last_failure is not None:
        lines.append(("last failure", f"{ago(status.last_failure.ended_at, now=now)}: {failure(status.last_failure)}"))
    if status.renamed_to is not None:
        lines.append(("renamed", f"the repository is called {status.renamed_to} now: set OROBOROS_REPOSITORY"))
    if status.replaced_by is not None:
        said = f"RepositoryReplaced: the name is of another repository by now (id {status.replaced_by})"
        lines.append(("held", f"{said}: nothing is taken from it until `oroboros repo set`"))
    if status.undelivered:
        said = f"{status.undelivered} that the forge could not hand over, asked for again"
        if status.undelivered_given_up:
            said += f"; {status.undelivered_given_up} given up: `oroboros github check`"
        lines.append(("undelivered", said))
    if status.refused_head is not None:
        refused = status.refused_head
        lines.append(
            ("HELD", f"{short(refused.sha)} is the head and does not go live: {refused.reason}: {refused.message}")
        )
    lines += [("force push", force_push_line(moved, now=now)) for moved in status.force_pushes]
    lines += [("missed", f"{short(m.sha)} on {m.ref}: no webhook came, found by resync") for m in status.missed]
    lines += [("drift", drift_line(drift, now=now)) for drift in status.drifts]
    if status.deliveries_pending:
        oldest = ago(status.oldest_pending_at, now=now)
        lines.append(("deliveries", f"{status.deliveries_pending} not looked at yet, the oldest came {oldest}"))
    if status.deliveries_dead:
        lines.append(("deliveries", f"{status.deliveries_dead} given up; see `oroboros deliveries`"))
    if status.reports_unsent:
        why = f": {status.report_error}" if status.report_error else ""
        lines.append(("reports", f"{status.reports_unsent} not sent to the forge yet{why}"))
    if status.reports_stalled:
        lines.append(("reports", f"{status.reports_stalled} given up: {status.report_error}"))
    if status.notifications_unsent:
        why = f": {status.notification_error}" if status.notification_error else ""
        lines.append(("notifications", f"{status.notifications_unsent} not sent yet{why}"))
    if status.notifications_stalled:
        lines.append(("notifications", f"{status.notifications_stalled} given up: {status.notification_error}"))
    if not lines:
        return
    console.print()
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold", ratio=1)
    for name, text in lines:
        _row(table, [Text(name), text])
    console.print(table)


def _why_ordered(order: OverrideView) -> str:
    said = order.reason or "no reason"
    return f"{said}; despite a hold: {order.despite_hold}" if order.despite_hold else said


def _order_words(order: OverrideView) -> str:
    if order.kind in ("deploy", "rollback"):
        return f"{order.kind} {short(order.sha)} in {order.slot}"
    return f"{order.slot} {'stopped' if order.kind == 'stopped' else 'started again'}"


def force_push_line(moved: ForcePushView, *, now: datetime) -> str:
    """Return in a line how the production branch was moved by force, and what became of it."""
    how = "back" if moved.kind == "back" else "to another history"
    became = {"held": "held", "followed": "followed, as policy says"}.get(
        moved.outcome, "production had not to go back"
    )
    return (
        f"the branch was moved {how} by force, from {short(moved.old)} to {short(moved.new)},"
        f" {ago(moved.at, now=now)}: {became}"
    )


def drift_line(drift: DriftView, *, now: datetime) -> str:
    """Return in a line what somebody else changed, and what becomes of it."""
    found = f"{drift.reason}: {drift.message}, found {ago(drift.found_at, now=now)}"
    if drift.ended_at is not None:
        over = "over" if drift.handling == "by_hand" else "put right"
        return f"{found}, {over} {ago(drift.ended_at, now=now)}"
    if drift.handling == "by_hand":
        return f"{found}; mend it by hand"
    if drift.handling == "heals" or drift.heal_ordered_at is not None:
        return f"{found}; is being put right"
    return f'HELD: {found}; `oroboros heal` puts it right, or [production] drift = "heal"'


def failure(run: RunView) -> str:
    """Return in a line what came of a run that did not go live."""
    said = ": ".join(part for part in (run.reason, run.message) if part)
    return f"{run.slot} {short(run.sha)} {run.state} (run {run.run}){': ' + said if said else ''}"


def releases_table(releases: Sequence[ReleaseView], *, now: datetime) -> Table:
    """Return the releases of this host."""
    table = _table("release", "is", "since", "run", "size", "builds", "serves", "what", flexible="what")
    for release in releases:
        title = Text(plain(release.title))
        notes = [release.by] if release.by else []
        notes += [f"quarantined in {domain}" for domain in release.quarantined_in]
        notes += [f"proven in {', '.join(release.proven_in)}"] if release.proven_in else []
        notes += [release.state] if release.state != "published" else []
        notes += ["pinned"] if release.pinned else []
        notes += [] if release.on_disk else ["not on the disk"]
        if notes:
            title.append(("\n" if title else "") + ", ".join(notes), style=_BUSY)
        _row(
            table,
            [
                short(release.release),
                _cell(release.standing, style=_GOOD) if release.standing == "live" else release.standing,
                ago(release.since, now=now) if release.since is not None else "-",
                "-" if release.run is None else str(release.run),
                size(release.size_bytes),
                size(release.build_bytes) if release.build_bytes else "-",
                ", ".join(release.serves) or "-",
                title,
            ],
        )
    return table


def release_history_table(history: Sequence[ReleaseChange], *, now: datetime) -> Table:
    """Return what releases became."""
    table = _table("since", "release", "became", "run", "by", flexible="by")
    for one in history:
        run = "-" if one.run is None else str(one.run)
        _row(table, [ago(one.since, now=now), short(one.release), one.standing, run, one.by or "-"])
    return table


def findings_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return what a check or a job found, a row each; the last column folds."""
    table = _table(*columns, flexible=columns[-1])
    for row in rows:
        _row(table, row)
    return table


def aspects_table(aspects: Sequence[Aspect]) -> Table:
    """Return what is to be and what is, of one slot."""
    table = _table("", "what", "expected", "observed", flexible="observed")
    for aspect in aspects:
        observed = Text(plain(aspect.observed))
        if aspect.problem:
            observed.append("\n" + plain(aspect.problem), style=_BAD)
        state = _cell("failed", style=_BAD) if aspect.problem else _cell("ok", style=_GOOD)
        _row(table, [state, aspect.aspect, aspect.expected[:40], observed])
    return table


def deliveries_table(deliveries: Sequence[DeliveryView], *, now: datetime) -> Table:
    """Return the newest deliveries."""
    table = _table("received", "event", "state", "target", "id", flexible="id")
    for delivery in deliveries:
        name = Text(plain(delivery.id), style=_DIM)
        again = f"came {delivery.seen_count} times" if delivery.seen_count > 1 else ""
        for note in (delivery.reason, again):
            if note:
                name.append("\n" + plain(note))
        target = delivery.target.removeprefix("ref:refs/heads/").removeprefix("ref:").replace("pull:", "#")
        _row(
            table,
            [
                ago(delivery.received_at, now=now),
                delivery.event[:20],
                delivery.state,
                f"{target[:24]} {delivery.sha[:7] if delivery.sha else ''}".strip(),
                name,
            ],
        )
    return table


def health_table(found: Sequence[ServiceHealth]) -> Table:
    """Return how each service of the host is."""
    table = _table("service", "", "unit and address", "ms", "said", flexible="said")
    for one in found:
        unit = Text(plain(one.unit))
        unit.append("\n" + plain(one.address), style=_DIM)
        state = _cell("ok", style=_GOOD) if one.ok else _cell("failed", style=_BAD)
        _row(table, [one.service, state, unit, str(one.took_ms), one.said])
    return table


def smoke_table(report: SmokeReport) -> Table:
    """Return what each route of a preview answered."""
    table = _table("", "route", "status", "size", "ms", "said", flexible="said")
    for check in report.checks:
        state = _cell("ok", style=_GOOD) if check.passed else _cell("failed", style=_BAD)
        said = "; ".join(check.problems) or check.content_type
        if check.passed and check.redirects:
            said += f", after {len(check.redirects)} redirect{'s' if len(check.redirects) > 1 else ''}"
        status = "-" if check.status is None else str(check.status)
        _row(table, [state, check.route[:30], status, size(check.body_bytes), str(check.took_ms), said])
    return table


def units_table(units: Sequence[UnitView], *, now: datetime) -> Table:
    """Return the instances and jobs of a slot."""
    table = _table("unit", "run", "state", "since", "", flexible="")
    for unit in units:
        notes = [f"pid {unit.pid}"] if unit.pid is not None and unit.exit_code is None else []
        notes += [f"exit code {unit.exit_code}"] if unit.exit_code is not None else []
        notes += ["serves"] if unit.serves else []
        _row(table, [unit.systemd, str(unit.generation), unit.state, ago(unit.since, now=now), ", ".join(notes)])
    return table


def step_line(step: StepView) -> str:
    """Return one line of a run's journal, with the time since the run began."""
    detail = ", ".join(f"{key} {value}" for key, value in step.detail.items())
    took = f" in {step.took_s:.3f} s" if step.took_s else ""
    error = f": {step.error}" if step.error else ""
    return plain(f"{step.after_s:+8.3f} s  {step.step}{took}{f' ({detail})' if detail else ''}{error}")


class Ticker:
    """Lines as they come, with a spinner below them for a person and steady lines for a file."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._console = open_console(errors=quiet)
        self._status = None if quiet or not self._console.is_terminal else self._console.status(Text(""))
        self._told_at = time.monotonic()

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def line(self, text: str) -> None:
        """Print a line for good."""
        if not self._quiet:
            self._console.print(Text(plain(text)), soft_wrap=True)
            self._told_at = time.monotonic()

    def waiting(self, text: str, *, every_s: float = 5.0) -> None:
        """Say what is being waited for: beside the spinner, or as a line when nothing was said for a while."""
        if self._status is not None:
            self._status.update(Text(plain(text)))
        elif not self._quiet and time.monotonic() - self._told_at >= every_s:
            self.line(f"{text} ...")
