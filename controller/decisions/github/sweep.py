"""Which deliveries did the forge fail to hand over, and which of them do we ask for again?

GitHub never repeats a delivery by itself, keeps its log for three days, and tells attempts at one delivery by their
guid. What never succeeded is asked for again, so that it comes under the same guid and the inbox knows it: at growing
pauses, a few times, and then a person must look. What our receiver refused as malformed stays refused.
https://docs.github.com/webhooks/using-webhooks/handling-failed-webhook-deliveries
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from controller.decisions.github.app import LoggedDelivery

#: How long GitHub keeps its log, and redelivers from it.
LOG_KEPT: Final = timedelta(days=3)
#: A delivery may be logged later than another that came after it.
OVERLAP: Final = timedelta(minutes=15)
#: Time for the attempt that was asked for.
ASK_PAUSE_S: Final = 60.0
ASKS_MAX: Final = 6
#: An attempt that has no code for so long got no answer: GitHub waits for ten seconds.
UNANSWERED_S: Final = 120.0
#: Asked for in one sweep: each is a write.
ASKS_AT_ONCE: Final = 50
#: The receiver's own words for a request that is no delivery.
_REFUSED: Final = frozenset({400, 405, 413, 415})


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """A delivery that no attempt handed over."""

    guid: str
    #: The newest attempt; redelivery is asked for by its id.
    attempt_id: int
    event: str
    status_code: int
    delivered_at: datetime
    asked_count: int = 0
    asked_at: datetime | None = None

    @property
    def is_given_up(self) -> bool:
        """Say whether it was asked for often enough."""
        return self.asked_count >= ASKS_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What follows from the log."""

    missed: tuple[Missed, ...]
    #: Deliveries that were missed and came after all.
    taken: tuple[str, ...]
    #: What is asked for now, the oldest first.
    ask: tuple[Missed, ...]


def sweep_since(began_at: datetime | None, *, now: datetime) -> datetime:
    """Return how far back the log is read; `began_at` is when the last whole sweep began."""
    oldest = now - LOG_KEPT
    return oldest if began_at is None else max(oldest, began_at - OVERLAP)


def plan_sweep(
    log: Iterable[LoggedDelivery], known: Sequence[Missed], *, repository_id: int | None, now: datetime
) -> Sweep:
    """Return what is missed, what came after all, and what to ask for. `known` is what was missed before."""
    attempts: dict[str, list[LoggedDelivery]] = {}
    for one in log:
        # An App that serves several repositories has one log for all.
        if repository_id is None or one.repository_id in (None, repository_id):
            attempts.setdefault(one.guid, []).append(one)
    before = {one.guid: one for one in known}
    taken = {guid for guid, tries in attempts.items() if any(one.is_taken for one in tries)}
    missed = {guid: one for guid, one in before.items() if guid not in taken and now - one.delivered_at < LOG_KEPT}
    for guid, tries in attempts.items():
        newest = max(tries, key=lambda one: (one.delivered_at, one.id))
        if guid in taken or newest.status_code in _REFUSED or _is_under_way(newest, now=now):
            continue
        old = before.get(guid)
        missed[guid] = Missed(
            guid=guid,
            attempt_id=newest.id,
            event=newest.event,
            status_code=newest.status_code,
            delivered_at=min(one.delivered_at for one in tries) if old is None else old.delivered_at,
            asked_count=0 if old is None else old.asked_count,
            asked_at=None if old is None else old.asked_at,
        )
    ordered = sorted(missed.values(), key=lambda one: (one.delivered_at, one.guid))
    return Sweep(
        missed=tuple(ordered),
        taken=tuple(sorted(taken & set(before))),
        ask=tuple(one for one in ordered if _is_due(one, now=now))[:ASKS_AT_ONCE],
    )


def _is_under_way(attempt: LoggedDelivery, *, now: datetime) -> bool:
    """Say whether an attempt may have its answer yet to come: it has no code."""
    return attempt.status_code == 0 and now < attempt.delivered_at + timedelta(seconds=UNANSWERED_S)


def _is_due(one: Missed, *, now: datetime) -> bool:
    if one.is_given_up:
        return False
    pause_s = ASK_PAUSE_S * 2.0 ** max(0, one.asked_count - 1)
    return one.asked_at is None or now >= one.asked_at + timedelta(seconds=pause_s)
