"""When must the loop look again although nothing rings?

Jobs, instances, gates, windows, checkouts and looks ring when they end, and a delivery rings when it comes. What is
left are the instants at which time alone changes a decision: the end of a drain, of a pause before a retry, of a hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from controller.decisions.order import NEWS_AWAITED_S
from controller.decisions.plan import NEVER, RESTART_PAUSE_S, drains_until, repaired, retry_at
from controller.model.states import RunState
from controller.model.world import Held, Hold, Observed, SlotObserved, Wanted

#: A judge of another release works and rings nobody.
JUDGE_LOOK_S = 0.25


def next_look_at(
    wanted: Wanted | Hold | None, observed: Observed, slot: SlotObserved, *, held: Held | None, now: datetime
) -> datetime | None:
    """Return the next instant after now at which another plan of this slot may come of the same facts; None for
    never."""
    return min((at for at in _instants(wanted, observed, slot, held, now) if now < at < NEVER), default=None)


def _instants(
    wanted: Wanted | Hold | None, observed: Observed, slot: SlotObserved, held: Held | None, now: datetime
) -> Iterator[datetime]:
    for process in slot.processes:
        drained_at = drains_until(observed, slot, process)
        if drained_at is not None:
            yield drained_at
        if process.ended_at is not None:
            yield process.ended_at + timedelta(seconds=RESTART_PAUSE_S)
    if isinstance(wanted, Wanted):
        yield retry_at(observed, slot, wanted)
    if slot.live_run is not None:
        yield retry_at(observed, slot, repaired(slot.live_run))
    if held is not None and held.until is not None:
        yield held.until
    if slot.run is not None and observed.unfetched_push_at is not None:
        yield observed.unfetched_push_at + timedelta(seconds=NEWS_AWAITED_S)
    if slot.deploys_itself and slot.run is not None and slot.run.state is RunState.SWITCHING:
        yield now + timedelta(seconds=JUDGE_LOOK_S)
