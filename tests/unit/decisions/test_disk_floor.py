"""When do previews stop because the disk is nearly full, and which of them?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.decisions.disk_floor import previews_to_stop
from controller.model.config import Policy, Previews
from controller.model.nouns import Stop
from controller.model.states import ProcessState, RunState
from controller.model.world import Observed, SlotObserved
from tests.builders import PREVIEW_1, at, instance, lease, observed, pull, run, serving

FLOOR = 1 << 30
SERVED = run(60, 101, RunState.LIVE, slot=PREVIEW_1, fence=50)
PREVIEW = replace(serving(SERVED), lease=lease(1, slot=PREVIEW_1, fence=50))
PRODUCTION = serving(run(5, 1, RunState.LIVE))


def stopped(*slots: SlotObserved, free: int | None, stops: tuple[Stop, ...] = ()) -> list[str]:
    seen: Observed = replace(
        observed(*slots, pulls=(pull(1),)),
        policy=Policy(previews=Previews(disk_free_bytes_min=FLOOR)),
        disk_free_bytes=free,
        stops=stops,
    )
    return [one.slot for one in previews_to_stop(seen)]


@pytest.mark.parametrize(("free", "expected"), [(FLOOR - 1, [PREVIEW_1]), (FLOOR, []), (None, [])])
def test_previews_that_run_stop_below_the_floor_and_production_does_not(free: int | None, expected: list[str]) -> None:
    assert stopped(PRODUCTION, PREVIEW, free=free) == expected


def test_a_preview_of_which_nothing_runs_needs_no_stop() -> None:
    over = instance(SERVED, state=ProcessState.EXITED, exit_code=0)

    assert stopped(replace(PREVIEW, processes=(over,)), free=0) == []
    assert stopped(replace(PREVIEW, lease=None), free=0) == [], "what nobody holds is stopped anyway"


def test_a_preview_that_is_stopped_is_not_stopped_again() -> None:
    stop = Stop(id=1, slot=PREVIEW_1, kind="stopped", fence=50, actor="worker", reason="", at=at(900))

    assert stopped(PREVIEW, free=0, stops=(stop,)) == []
    assert stopped(PREVIEW, free=0, stops=(replace(stop, fence=40),)) == [PREVIEW_1], "that was of another lease"
