"""Is a slot held, until when, and by whom? Orders by hand and the policy's freezes, at one instant.

What is held still fetches, checks out and builds. It does not migrate, does not start its instance and does not
switch: each of these touches what serves (its database, its queues, its memory), and a gate that passed before a
weekend proves nothing after it. So a run waits where it is, without blame and without a limit, and goes on by itself
once nothing holds it; one that was at its gate already ends without blame and is begun anew then.

A slot is held too while another process has one of its ports, or the edge's: no probe could tell its answers from the
release's.

What goes all the same: the way back of a release whose window fails, what restores or starts again what served, and an
order by hand that says why. A freeze is production's alone; an order to hold is about one slot, and one lease of it.

A freeze's instants are what the clock on the wall shows. Where that shows one twice or never, when clocks are changed,
the freeze is the longer one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from controller.decisions.drift import PORT_TAKEN, describe_taken
from controller.model.config import DatedFreeze, Freeze, WeeklyFreeze
from controller.model.names import MAIN, SlotName
from controller.model.nouns import HoldOrder, Run
from controller.model.states import Cause
from controller.model.world import Held, Observed, SlotObserved

HELD_BY_HAND = "HeldByHand"
FROZEN = "Frozen"
#: The actor of a freeze.
POLICY = "policy"
#: Holds that follow on each other are told as one; beyond so many no end is told.
CHAIN_MAX = 100
REASON_CHARS_MAX = 500
WEEK = timedelta(days=7)


def judge_held(
    orders: Sequence[HoldOrder], freezes: Sequence[Freeze], *, slot: SlotName, fence: int, now: datetime
) -> Held | None:
    """Return what holds a slot under a lease now, until nothing does; None when nothing holds it."""
    mine = [order for order in orders if (order.slot, order.fence) == (slot, fence)]
    windows = freezes if slot == MAIN else ()
    last = first = _longest(mine, windows, now)
    for _ in range(CHAIN_MAX):
        if first is None or last is None or last.until is None:
            return _until(first, None)
        following = _longest(mine, windows, last.until)
        if following is None:
            return _until(first, last)
        last = following
    return _until(first, None)


def _until(first: Held | None, last: Held | None) -> Held | None:
    """Tell of the first what holds when, and of the last when it ends."""
    if first is None:
        return None
    until, timezone = (None, first.timezone) if last is None else (last.until, last.timezone)
    return Held(reason=first.reason, why=first.why, by=first.by, until=until, timezone=timezone)


def _longest(orders: Sequence[HoldOrder], freezes: Sequence[Freeze], now: datetime) -> Held | None:
    """Return what holds at this instant and ends last; of two that end at once, the order by hand."""
    longest: Held | None = None
    for held in _holding(orders, freezes, now):
        if longest is None or (longest.until is not None and (held.until is None or held.until > longest.until)):
            longest = held
    return longest


def _holding(orders: Sequence[HoldOrder], freezes: Sequence[Freeze], now: datetime) -> Iterator[Held]:
    for order in orders:
        if order.until is None or now < order.until:
            yield Held(reason=HELD_BY_HAND, why=order.reason, by=order.actor, until=order.until)
    for freeze in freezes:
        until = frozen_until(freeze, now)
        if until is not None:
            yield Held(reason=FROZEN, why=freeze.reason, by=POLICY, until=until, timezone=freeze.timezone)


def frozen_until(freeze: Freeze, now: datetime) -> datetime | None:
    """Return when the window that `now` is in ends, None when it is in none."""
    zone = ZoneInfo(freeze.timezone)
    ends = (ends_at for begins_at, ends_at in _windows(freeze, zone, now) if begins_at <= now < ends_at)
    return max(ends, default=None)


def _windows(freeze: Freeze, zone: ZoneInfo, now: datetime) -> Iterator[tuple[datetime, datetime]]:
    match freeze:
        case DatedFreeze():
            yield _first(freeze.from_local, zone), _last(freeze.until_local, zone)
        case WeeklyFreeze():
            today = now.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
            monday = today - timedelta(days=today.weekday())
            length = timedelta(minutes=freeze.until_minute - freeze.from_minute)
            for week in (monday - WEEK, monday):
                begins = week + timedelta(minutes=freeze.from_minute)
                ends = begins + (length if length > timedelta() else length + WEEK)
                yield _first(begins, zone), _last(ends, zone)


def _first(local: datetime, zone: ZoneInfo) -> datetime:
    return min(local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))


def _last(local: datetime, zone: ZoneInfo) -> datetime:
    return max(local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))


def describe_taken_ports(observed: Observed, slot: SlotName) -> str:
    """Return which ports of a slot, or of the edge in front of it, other processes have; "" for none."""
    return "; ".join(describe_taken(fact) for fact in observed.taken_ports if slot in fact.blocks)


def held_slot(observed: Observed, slot: SlotObserved, *, now: datetime) -> Held | None:
    """Return what holds a slot now, whatever runs there."""
    taken = describe_taken_ports(observed, slot.slot)
    if taken:
        return Held(reason=PORT_TAKEN, why=taken, by="", until=None)
    fence = slot.lease.fence if slot.lease is not None else 0
    freezes = observed.policy.production.freeze
    return judge_held(observed.holds, freezes, slot=slot.slot, fence=fence, now=now)


def held_run(observed: Observed, slot: SlotObserved, run: Run, *, now: datetime) -> Held | None:
    """Return what keeps this run from migrating, starting and switching now; None when nothing does."""
    if run.cause in (Cause.REPAIR, Cause.ROLLBACK) or goes_despite(observed, run):
        return None
    return held_slot(observed, slot, now=now)


def goes_despite(observed: Observed, run: Run) -> bool:
    """Say whether the run is that of an order by hand that says why it goes although the slot is held."""
    return run.cause is Cause.OVERRIDE and any(
        order.despite_hold and (order.slot, order.head.tree) == (run.slot, run.head.tree)
        for order in observed.overrides
    )


def freeze_to_json(freeze: Freeze) -> dict[str, object]:
    """Return a freeze as the store keeps it."""
    told: dict[str, object] = {"timezone": freeze.timezone, "reason": freeze.reason}
    match freeze:
        case WeeklyFreeze():
            return {**told, "from_minute": freeze.from_minute, "until_minute": freeze.until_minute}
        case DatedFreeze():
            return {**told, "from": freeze.from_local.isoformat(), "until": freeze.until_local.isoformat()}


def freeze_from_json(value: Mapping[str, object]) -> Freeze:
    """Return the freeze that the store keeps."""
    timezone, reason = str(value["timezone"]), str(value["reason"])
    if "from_minute" in value:
        begins, ends = int(str(value["from_minute"])), int(str(value["until_minute"]))
        return WeeklyFreeze(from_minute=begins, until_minute=ends, timezone=timezone, reason=reason)
    from_local, until_local = (datetime.fromisoformat(str(value[key])) for key in ("from", "until"))
    return DatedFreeze(from_local=from_local, until_local=until_local, timezone=timezone, reason=reason)


def describe_held(held: Held) -> str:
    """Return in one line what holds, until when, why and by whom."""
    return f"{describe_end(held)}: {describe_cause(held)}"


def describe_cause(held: Held) -> str:
    """Return why something is held, and by whom."""
    return f"{held.why} (by {held.by})" if held.by else held.why


def describe_end(held: Held) -> str:
    """Return that something is held, and until when."""
    if held.reason == PORT_TAKEN:
        return "waits"
    return f"held until {describe_instant(held.until, held.timezone)}" if held.until is not None else "held"


def describe_instant(instant: datetime, timezone: str) -> str:
    """Return an instant as people of that time zone say it, to the minute."""
    return f"{instant.astimezone(ZoneInfo(timezone)):%Y-%m-%d %H:%M} {timezone}"
