"""What holds a slot that nobody holds any more? One kind of staleness a test."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.decisions.stale import SlotHeld, judge_leases
from controller.model.names import MAIN, SlotName
from controller.model.states import RunState
from tests.builders import PREVIEW_1, at, free, instance, lease, live, pull, run

NOW = at(1000)
PREVIEW_9 = SlotName("preview-9")
SERVED = run(60, 101, RunState.LIVE, slot=PREVIEW_1, fence=50)
HELD = SlotHeld(slot=PREVIEW_1, lease=lease(1, expires_s=9999), live=live(SERVED), processes=(instance(SERVED),))


def reasons(*slots: SlotHeld, pulls: tuple[int, ...] = (1,)) -> list[tuple[str, str]]:
    found = judge_leases(slots, [pull(number) for number in pulls], now=NOW)
    return [(stale.slot, stale.reason) for stale in found]


def test_a_slot_whose_pull_request_is_open_is_not_stale() -> None:
    assert reasons(HELD) == []


def test_a_lease_whose_time_is_up_is_not_stale_while_its_pull_request_is_open() -> None:
    assert reasons(replace(HELD, lease=lease(1, expires_s=1))) == []


def test_a_lease_whose_pull_request_is_not_listed_is_stale_whatever_it_serves() -> None:
    assert reasons(HELD, pulls=(2,)) == [(PREVIEW_1, "LeaseClosed")]
    assert reasons(SlotHeld(slot=PREVIEW_1, lease=lease(1)), pulls=()) == [(PREVIEW_1, "LeaseClosed")]


def test_says_when_the_time_of_a_closed_one_was_up_as_well() -> None:
    (stale,) = judge_leases([replace(HELD, lease=lease(1, expires_s=1))], [], now=NOW)

    assert "its time was up" in stale.message
    assert (stale.pull_request, stale.fence) == (1, 50)


def test_a_lease_of_a_fork_is_stale() -> None:
    (stale,) = judge_leases([HELD], [pull(1, same_repository=False)], now=NOW)

    assert stale.reason == "LeaseNotEligible"


def test_a_lease_of_a_slot_that_the_host_no_longer_has_is_stale() -> None:
    gone = SlotHeld(slot=PREVIEW_9, exists=False, lease=lease(1, slot=PREVIEW_9))

    assert reasons(gone) == [(PREVIEW_9, "LeaseOfNoSlot")]


@pytest.mark.parametrize("held", [None, lease(2, fence=70)])
def test_what_serves_for_a_lease_that_does_not_hold_the_slot_is_stale(held: object) -> None:
    slot = replace(HELD, lease=held, processes=())

    assert reasons(slot, pulls=(1, 2)) == [(PREVIEW_1, "LiveWithoutLease")]


def test_whatever_runs_in_a_slot_that_nobody_holds_is_stale() -> None:
    slot = SlotHeld(slot=PREVIEW_1, live=free(PREVIEW_1), processes=(instance(SERVED),))

    assert reasons(slot) == [(PREVIEW_1, "UnitWithoutLease")]


def test_a_live_that_cannot_be_read_is_named() -> None:
    assert reasons(SlotHeld(slot=PREVIEW_1, live_problem="makes no sense")) == [(PREVIEW_1, "LiveUnreadable")]


def test_production_is_never_stale() -> None:
    served = run(5, 1, RunState.LIVE)

    assert reasons(SlotHeld(slot=MAIN, live=live(served), processes=(instance(served),))) == []
