"""How does a person hold a slot, and let go of it? `oroboros hold` and `oroboros unhold`.

A hold is a row: it is written, the bell is rung, and from the next look on nothing new is switched to in the slot; the
switch itself reads the rows once more. What was switched to before is watched to the end of its window, and goes back
if that fails.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from rich.console import Console
from rich.text import Text

from controller.decisions.holds import HELD_BY_HAND, REASON_CHARS_MAX, describe_held
from controller.doors import tables, views
from controller.doors.cli_orders import actor
from controller.doors.policies import read_freezes
from controller.doors.views import HoldView
from controller.effects.store import Store
from controller.effects.wake import Bell
from controller.model.config import Settings
from controller.model.errors import Refused
from controller.model.names import MAIN, SlotName
from controller.model.states import RunState
from controller.model.world import Held

#: What lasts longer is forgotten; without an end it is told every day.
HOLD_MAX = timedelta(days=366)

_DURATION = re.compile(r"(\d{1,6})(s|m|h|d)\Z", re.ASCII)
_UNITS = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedHold:
    """A hold that was written, and what goes on all the same."""

    slot: str
    until: datetime | None
    reason: str
    by: str
    said: str
    #: The run that had switched already: it is watched to its end.
    goes_on: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedHolds:
    """Holds that were ended, and what still holds the slot."""

    slot: str
    ended: tuple[str, ...]
    still: tuple[HoldView, ...]


def parse_end(until: str | None, duration: str | None, *, now: datetime) -> datetime | None:
    """Return the end of a hold, None for one without; ValueError with what is wrong. A date without an offset is what
    this machine's clock on the wall shows."""
    if until is not None and duration is not None:
        raise ValueError("--until and --for both say when it ends: give one")
    if duration is not None:
        found = _DURATION.match(duration)
        if found is None:
            raise ValueError(
                f"--for {duration!r:.40} is not a number of seconds, minutes, hours or days, such as 90s, 30m or 7d"
            )
        ends_at = now + int(found[1]) * _UNITS[found[2]]
    elif until is not None:
        try:
            ends_at = datetime.fromisoformat(until).astimezone(now.tzinfo)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"--until {until!r:.40} is not a date, such as 2026-12-24 12:00") from error
    else:
        return None
    if ends_at <= now:
        raise ValueError("a hold must end in the future")
    if ends_at > now + HOLD_MAX:
        raise ValueError(f"a hold lasts {HOLD_MAX.days} days at most; without an end it stays until it is ended")
    return ends_at


def place_hold(
    settings: Settings, store: Store, slot: SlotName, *, until: datetime | None, reason: str, now: datetime
) -> PlacedHold:
    """Write the order and ring."""
    why, by = " ".join(reason.split())[:REASON_CHARS_MAX], actor()
    fence = fence_of(store, slot)
    if store.record_hold(slot=slot, fence=fence, until=until, actor=by, reason=why, now=now) is None:
        raise Refused("SlotFree", f"nobody holds {slot} any more: there is nothing to hold")
    Bell(settings.redis_url).ring()
    held = Held(reason=HELD_BY_HAND, why=why, by=by, until=until)
    running = next((run for run in views.read_runs(store, limit=1, slot=slot) if run.ended_at is None), None)
    return PlacedHold(
        slot=slot,
        until=until,
        reason=why,
        by=by,
        said=f"{slot} is {describe_held(held)}",
        goes_on=running.run if running is not None and running.state == RunState.WATCHING else None,
    )


def end_holds(settings: Settings, store: Store, slot: SlotName, *, now: datetime) -> EndedHolds:
    """End every order to hold the slot, and ring. Safe to repeat."""
    ended = store.end_holds(slot, actor=actor(), now=now)
    Bell(settings.redis_url).ring()
    still = views.read_holds(store, read_freezes(settings, store), now=now)
    return EndedHolds(
        slot=slot,
        ended=tuple(f"{hold.reason} (by {hold.actor})" for hold in ended),
        still=tuple(hold for hold in still if hold.slot == slot),
    )


def fence_of(store: Store, slot: SlotName) -> int:
    """Return the lease that an order about this slot is about, 0 for production; Refused when nobody holds it."""
    if slot == MAIN:
        return 0
    rows = store.load_rows(
        "SELECT fence FROM leases WHERE host = %s AND slot = %s AND ended_at IS NULL", [store.host, slot]
    )
    if not rows:
        raise Refused("SlotFree", f"nobody holds {slot}: there is nothing to hold")
    return int(str(rows[0]["fence"]))


def print_hold(console: Console, view: PlacedHold) -> None:
    """Say what is held, and what is not any more."""
    console.print(Text(tables.plain(view.said)), soft_wrap=True)
    if view.goes_on is not None:
        console.print(Text(f"run {view.goes_on} has switched already: it is watched to the end of its window"))
    ends = f"`oroboros unhold {view.slot}` ends it" if view.until is None else "it ends by itself"
    console.print(Text(f"what comes is built and waits; {ends}"))


def print_unhold(console: Console, view: EndedHolds) -> None:
    """Say what was ended, and what holds the slot still."""
    for one in view.ended:
        console.print(Text(tables.plain(f"{view.slot} is no longer held: {one}")), soft_wrap=True)
    if not view.ended:
        console.print(Text(f"nobody had ordered to hold {view.slot}"))
    for hold in view.still:
        console.print(Text(tables.plain(f"still: {hold.said}"), style="yellow"), soft_wrap=True)
