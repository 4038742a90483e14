"""Is the worker fit, and what of its four parts says so: tick, database, runtime, queue?

Unfit means that merging does not deploy and a person should look: answered with 503, which the judge of a new release
of Oroboros takes for a failure too. Degraded means that it does, more slowly. Rules:

1. The last finished tick is young.
2. Database and runtime keep no tick from its end; that one does for a moment, while it is started anew, is no news.
3. The queue is worked off: a delivery that waits for longer than any look takes is stuck, unless looks at the forge
   fail. Those are the forge's failures: deliveries are kept, and the polls go on.
4. Without the bell, Redis, the worker learns of a delivery by its next poll: degraded.
5. A failure that lasts, whatever fails, is degraded at least.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from controller.model.nouns import Trouble

#: A tick older than this many poll intervals (and at least this many seconds) is too old.
FIT_TICKS = 5
FIT_AGE_S = 15.0
#: A part that was away for less may only have been started anew.
AWAY_AFTER_S = 5.0
#: Longer than the longest look: a first fetch of a large repository.
STUCK_AFTER_S = 1_800.0
#: Reasons of a tick that was not finished, by the part that is away.
DATABASE_TROUBLES = frozenset({"DatabaseAway", "AppDatabaseAway"})
RUNTIME_TROUBLES = frozenset({"SystemdAway", "SystemdRefused", "RuntimeAway", "RuntimeRefused"})

Status = Literal["ok", "degraded", "unfit"]
Queue = Literal["ok", "degraded", "stuck"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFacts:
    """What the worker knows of itself."""

    started_at: datetime
    last_tick_at: datetime | None = None
    #: Why ticks are not finished, and since when; "" while they are.
    trouble: str = ""
    trouble_since: datetime | None = None
    #: When the oldest delivery that no look has covered came.
    oldest_pending_at: datetime | None = None
    #: The last look at the forge failed.
    looks_fail: bool = False
    #: The worker hears when it is rung for.
    hears_bell: bool = True
    #: What fails for so long that a person must be told.
    troubles: tuple[Trouble, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitness:
    """How the worker is, and each part of it."""

    status: Status
    tick: bool
    database: bool
    runtime: bool
    queue: Queue


def judge_fitness(facts: WorkerFacts, *, now: datetime, poll_interval_s: float) -> Fitness:
    """Judge the worker by what it knows of itself."""
    tick = facts.last_tick_at is not None and _age_s(facts.last_tick_at, now) <= max(
        FIT_AGE_S, FIT_TICKS * poll_interval_s
    )
    is_away = facts.trouble_since is not None and _age_s(facts.trouble_since, now) > AWAY_AFTER_S
    database = not (is_away and facts.trouble in DATABASE_TROUBLES)
    runtime = not (is_away and facts.trouble in RUNTIME_TROUBLES)
    queue = _queue(facts, now=now)
    status: Status = "ok" if queue == "ok" and not facts.troubles else "degraded"
    if not (tick and database and runtime) or queue == "stuck":
        status = "unfit"
    return Fitness(status=status, tick=tick, database=database, runtime=runtime, queue=queue)


def _queue(facts: WorkerFacts, *, now: datetime) -> Queue:
    if facts.oldest_pending_at is not None and not facts.looks_fail:
        # What another worker left is ours to work off since we began.
        waiting_since = max(facts.oldest_pending_at, facts.started_at)
        if _age_s(waiting_since, now) > STUCK_AFTER_S:
            return "stuck"
    return "ok" if facts.hears_bell and not facts.looks_fail else "degraded"


def _age_s(at: datetime, now: datetime) -> float:
    return (now - at).total_seconds()
