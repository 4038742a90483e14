"""When must the loop look again although nothing rings? One kind of instant a test."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from controller.decisions.order import NEWS_AWAITED_S
from controller.decisions.plan import RESTART_PAUSE_S, RETRY_BASE_S, desired, plan_slot
from controller.decisions.timers import JUDGE_LOOK_S, next_look_at
from controller.model.states import ProcessState, RunState
from controller.model.world import Held, Observed, SlotObserved
from tests.builders import at, head, instance, observed, run, serving

R1, R2 = run(1, 1, RunState.LIVE), run(2, 2, RunState.BUILDING, colour="b")
NOW = at(1000)


def seen_of(slot: SlotObserved, *, wants: int = 1) -> Observed:
    return observed(slot, at_head=head(wants))


def look(slot: SlotObserved, *, wants: int = 1, held: Held | None = None, now: datetime = NOW) -> datetime | None:
    seen = seen_of(slot, wants=wants)
    return next_look_at(desired(seen, slot), seen, slot, held=held, now=now)


def test_what_rings_by_itself_is_not_looked_after() -> None:
    assert look(serving(R1)) is None
    for state in (RunState.PLANNED, RunState.BUILDING, RunState.MIGRATING, RunState.GATING, RunState.WATCHING):
        assert look(replace(serving(R1), run=replace(R2, state=state)), wants=2) is None


def test_the_end_of_a_drain() -> None:
    old = run(1, 1, RunState.LIVE, colour="a")
    new = run(2, 2, RunState.LIVE, colour="b", switched_s=999)
    slot = replace(serving(new), processes=(instance(new), instance(old)), recent_runs=(new, old))
    drained_at = look(slot, wants=2)
    assert drained_at is not None
    seen = seen_of(slot, wants=2)
    assert plan_slot(desired(seen, slot), seen, slot, now=NOW) == ()
    assert plan_slot(desired(seen, slot), seen, slot, now=drained_at) != ()
    assert look(slot, wants=2, now=drained_at) is None


def test_the_end_of_a_pause_before_the_next_try() -> None:
    failed = run(2, 2, RunState.FAILED, reason="DiskFull", ended_s=1000)
    slot = replace(serving(R1), recent_runs=(failed, R1))
    assert look(slot, wants=2) == at(1000 + RETRY_BASE_S)


def test_the_end_of_a_pause_before_what_serves_is_started_again() -> None:
    ended = replace(instance(R1), state=ProcessState.EXITED, exit_code=1, ended_at=at(999))
    slot = replace(serving(R1), run=R2, processes=(ended,))
    assert look(slot, wants=2) == at(999 + RESTART_PAUSE_S)


def test_the_end_of_a_hold_that_is_known() -> None:
    held = Held(reason="HeldByHand", why="x", by="ann", until=at(2000))
    slot = replace(serving(R1), run=replace(R2, state=RunState.GATING))
    assert look(slot, wants=2, held=held) == at(2000)
    assert look(slot, wants=2, held=replace(held, until=None)) is None


def test_the_end_of_waiting_for_a_push_that_is_not_fetched() -> None:
    slot = replace(serving(R1), run=replace(R2, state=RunState.SWITCHING))
    seen = replace(seen_of(slot, wants=2), unfetched_push_at=at(995))
    assert next_look_at(desired(seen, slot), seen, slot, held=None, now=NOW) == at(995 + NEWS_AWAITED_S)


def test_a_judge_rings_nobody() -> None:
    slot = replace(serving(R1), run=replace(R2, state=RunState.SWITCHING), deploys_itself=True)
    assert look(slot, wants=2) == at(1000 + JUDGE_LOOK_S)
