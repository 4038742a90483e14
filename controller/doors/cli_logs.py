"""What did the jobs and instances of a run write? Their log files, the last lines first, then as they grow.

Log files are what strangers' programs print: colours are taken out, other control characters made visible, secrets
masked by their form (those of the app's environment were masked when they were written). Following ends when the run
that is followed has ended and does not serve, or at Ctrl-C; whoever names a slot follows one run after the other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import click

from controller.decisions.log_lines import visible_text, without_colours
from controller.doors import views
from controller.doors.views import RunView
from controller.effects.store import Store
from controller.effects.systemd import read_journal
from controller.model.config import Settings
from controller.model.errors import Refused
from controller.model.names import MAIN, Layout, SlotName, Topology, parse_slot
from controller.model.redaction import redact
from controller.model.states import RUN_TERMINAL, Cause, RunState

LOOK_EVERY_S = 0.2
#: Read from the end of a file: lines that are further back are not shown.
TAIL_BYTES_MAX = 4 << 20
LINE_CHARS_MAX = 2_000
ALL_LINES = 1_000_000


def choose_run(store: Store, layout: Layout, topology: Topology, *, what: str | None, run_id: int | None) -> RunView:
    """Return the run that is meant: by its number, or the one that runs or serves in a slot. A number that is also a
    slot's means the slot; `--run` always means the run."""
    if run_id is None and what is not None:
        if not is_run(what, run_id, topology):
            return _run_in(store, layout, parse_slot(what))
        if not what.isdecimal() or not what.isascii() or len(what) > 18:
            allowed = ", ".join(topology.slots)
            raise click.UsageError(f"{what!r:.40} is neither a slot ({allowed}) nor a run")
        run_id = int(what)
    if run_id is not None:
        found = views.read_run(store, run_id)
        if found is None:
            raise Refused("RunUnknown", f"there is no run {run_id} on this host")
        return found.run
    return _run_in(store, layout, MAIN)


def is_run(what: str | None, run_id: int | None, topology: Topology) -> bool:
    """Say whether one run was named, and not a slot. Pure."""
    if run_id is not None or what is None:
        return run_id is not None
    try:
        return parse_slot(what) not in topology.slots
    except ValueError:
        return True


def _run_in(store: Store, layout: Layout, slot: SlotName) -> RunView:
    """Return the run of a slot whose logs are of interest: the newest, if it is under way or failed, also if what
    served before is brought back since; else what serves; else the newest."""
    recent = views.read_runs(store, slot=slot, limit=views.LIMIT_MAX)
    if not recent:
        raise Refused("NoRuns", f"nothing ran in {slot} yet")
    newest = recent[0]
    tried = next((run for run in recent if not _brings_back(run)), newest)
    if tried.ended_at is None or tried.state in _FAILED:
        return tried
    if newest.ended_at is None:
        return newest
    serving = _serving(layout, slot)
    return next((run for run in recent if run.run == serving), newest)


_FAILED = (RunState.FAILED, RunState.ROLLED_BACK, RunState.STALLED)


def _brings_back(run: RunView) -> bool:
    return run.cause in (Cause.REPAIR, Cause.ROLLBACK) and run.state not in _FAILED


def _serving(layout: Layout, slot: SlotName) -> int | None:
    live, _, _ = views.read_host_slot(layout, slot)
    return live.generation if live is not None and live.state == "live" else None


def describe_choice(run: RunView, *, serving: int | None) -> str:
    """Say which run is shown, and how to see the one that serves. Pure."""
    state = f"{run.state} ({run.reason})" if run.reason else run.state
    if run.run == serving:
        return f"run {run.run} of {run.slot}, which serves {run.release[:7]}"
    other = "" if serving is None else f"; run {serving} serves: `oroboros logs --run {serving}`"
    return f"run {run.run} of {run.slot}, {run.sha[:7]}: {state}{other}"


@dataclass(slots=True)
class LogTail:
    """The log files of one run, each with how far it was read."""

    folder: Path
    _read: dict[str, int] = field(default_factory=dict)
    _rest: dict[str, bytes] = field(default_factory=dict)

    def last(self, lines: int) -> list[tuple[str, str]]:
        """Return the last lines of each file, and remember where they end."""
        found: list[tuple[str, str]] = []
        for path in self._files():
            with path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - TAIL_BYTES_MAX))
                body = file.read(TAIL_BYTES_MAX)
                self._read[path.name] = max(0, size - TAIL_BYTES_MAX) + len(body)
            whole, _, rest = body.rpartition(b"\n")
            every = whole.split(b"\n") if whole else []
            if lines and rest:
                every.append(rest)  # what was begun is shown; its end follows as a line of its own
            found += [(path.name, line) for line in shown_lines(every[-lines:] if lines else [])]
        return found

    def more(self) -> list[tuple[str, str]]:
        """Return the whole lines that were written since; a file that shrank is read anew."""
        found: list[tuple[str, str]] = []
        for path in self._files():
            name = path.name
            with path.open("rb") as file:
                if file.seek(0, 2) < self._read.get(name, 0):
                    self._read[name] = 0
                    self._rest.pop(name, None)
                file.seek(self._read.get(name, 0))
                body = file.read(TAIL_BYTES_MAX)
            self._read[name] = self._read.get(name, 0) + len(body)
            whole, newline, rest = (self._rest.pop(name, b"") + body).rpartition(b"\n")
            self._rest[name] = rest[-TAIL_BYTES_MAX:]
            if newline:
                found += [(name, line) for line in shown_lines(whole.split(b"\n"))]
        return found

    def _files(self) -> list[Path]:
        try:
            return sorted(path for path in self.folder.iterdir() if path.suffix == ".log" and path.is_file())
        except FileNotFoundError:
            return []


@dataclass(slots=True)
class JournalTail:
    """The journal of one run's units on a host, and how far it was read."""

    slot: SlotName
    generation: int
    _cursor: str = ""

    def last(self, lines: int) -> list[tuple[str, str]]:
        """Return the last lines, and remember where they end."""
        return self._read(lines)

    def more(self) -> list[tuple[str, str]]:
        """Return what was written since."""
        return self._read(ALL_LINES)

    def _read(self, lines: int) -> list[tuple[str, str]]:
        found, self._cursor = read_journal(self.slot, self.generation, lines=lines, after=self._cursor)
        # Units of one run write one after the other, but for moments; a secret of many lines is one unit's.
        return [
            (unit, line)
            for unit, rows in groupby(found, itemgetter(0))
            for line in shown_lines([row[1] for row in rows])
        ]


def open_tail(settings: Settings, run: RunView) -> LogTail | JournalTail:
    """Return where this stack keeps what a run wrote."""
    if settings.runtime == "systemd":
        return JournalTail(parse_slot(run.slot), run.run)
    return LogTail(settings.layout.run_artifacts(run.run))


def shown_lines(lines: Sequence[bytes]) -> list[str]:
    """Return lines of a log as text that only shows, without secrets, each bounded. Pure."""
    if not lines:
        return []
    text = b"\n".join(line.rstrip(b"\r") for line in lines).decode("utf-8", "replace")
    return [visible_text(line)[:LINE_CHARS_MAX] for line in redact(without_colours(text)).split("\n")]


def show_logs(
    store: Store,
    settings: Settings,
    run: RunView,
    *,
    lines: int,
    follow: bool,
    as_json: bool,
    next_run: Callable[[], RunView] | None = None,
) -> None:
    """Print what a run wrote; with `follow`, go on with what it writes until it is over, and then with the run that
    `next_run` names: whoever follows a slot follows what comes after, too."""
    if next_run is not None and not as_json:
        # A slot was named: which of its runs is meant is our choice.
        slot = SlotName(run.slot)
        click.echo(describe_choice(run, serving=_serving(settings.layout, slot)), err=True)
    tail = open_tail(settings, run)
    printer = _Printer(as_json=as_json, run=run.run)
    found = tail.last(lines)
    if not found and not follow and not as_json:
        click.echo(f"run {run.run} of {run.slot} ({run.state}) wrote nothing", err=True)
    printer.print(found)
    while follow:
        over = _is_over(store, settings.layout, run)
        printer.print(tail.more())
        if over and next_run is None:
            return
        if next_run is not None and (newer := next_run()).run != run.run:
            run, tail = newer, open_tail(settings, newer)
            printer = _Printer(as_json=as_json, run=run.run)
            printer.print(tail.last(lines or ALL_LINES))
        time.sleep(LOOK_EVERY_S)


def _is_over(store: Store, layout: Layout, run: RunView) -> bool:
    present = views.read_run(store, run.run)
    if present is None or RunState(present.run.state) not in RUN_TERMINAL:
        return present is None
    live, _, _ = views.read_host_slot(layout, SlotName(run.slot))
    return live is None or live.generation != run.run or live.state != "live"


@dataclass(slots=True)
class _Printer:
    as_json: bool
    run: int
    _last: str = ""

    def print(self, lines: Iterable[tuple[str, str]]) -> None:
        for name, line in lines:
            unit = name.removesuffix(".log")
            if self.as_json:
                click.echo(json.dumps({"run": self.run, "unit": unit, "line": line}))
                continue
            if name != self._last:
                click.echo(f"== {unit}, run {self.run} ==")
                self._last = name
            click.echo(line)
