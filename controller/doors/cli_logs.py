"""What did the jobs and instances of a run write? Their log files, the last lines first, then as they grow.

Log files are what strangers' programs print: control characters are made visible. Following ends when the run that
is followed has ended and does not serve, or at Ctrl-C; whoever names a slot follows one run after the other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import click

from controller.doors import views
from controller.doors.views import RunView
from controller.effects.store import Store
from controller.effects.systemd import read_journal
from controller.model.config import Settings
from controller.model.errors import Refused
from controller.model.names import MAIN, Layout, SlotName, Topology, parse_slot
from controller.model.states import RUN_TERMINAL, RunState

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
    """Return the run of a slot whose logs are of interest: the one under way, else what serves, else the newest."""
    recent = views.read_runs(store, slot=slot, limit=views.LIMIT_MAX)
    if not recent:
        raise Refused("NoRuns", f"nothing ran in {slot} yet")
    live, _, _ = views.read_host_slot(layout, slot)
    serving = live.generation if live is not None and live.state == "live" else None
    return next(
        (run for run in recent if run.ended_at is None),
        next((run for run in recent if run.run == serving), recent[0]),
    )


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
            found += [(path.name, visible_line(line)) for line in (every[-lines:] if lines else [])]
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
                found += [(name, visible_line(line)) for line in whole.split(b"\n")]
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
        return [(unit, visible_line(line)) for unit, line in found]


def open_tail(settings: Settings, run: RunView) -> LogTail | JournalTail:
    """Return where this stack keeps what a run wrote."""
    if settings.runtime == "systemd":
        return JournalTail(parse_slot(run.slot), run.run)
    return LogTail(settings.layout.run_artifacts(run.run))


def visible_line(line: bytes) -> str:
    """Return a line of a log as text that only shows: tabs stay, other control characters are spelled. Pure."""
    text = line.rstrip(b"\r").decode("utf-8", "replace")[:LINE_CHARS_MAX]
    return "".join(c if c.isprintable() or c == "\t" else f"\\x{ord(c):02x}" for c in text)


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
