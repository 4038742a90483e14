"""Which pull request holds which preview slot? One rule of the assignment a test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controller.decisions.slots import QueuePlace, assign_slots, is_clean
from controller.model.config import Policy, Previews
from controller.model.names import MAIN, SlotName
from controller.model.nouns import Live
from controller.model.steps import ClaimSlot, EndLease, RenewLease
from controller.model.world import SlotObserved
from tests.builders import PREVIEW_1, at, free, lease, observed, process, pull, run, serving

NOW = at(1000)
PREVIEW_2 = SlotName("preview-2")
FREE_1, FREE_2 = (SlotObserved(slot=name, live=free(name)) for name in (PREVIEW_1, PREVIEW_2))


def held(slot: SlotName, pull_request: int, *, fence: int = 50, expires_s: float = 9999.0) -> SlotObserved:
    return SlotObserved(
        slot=slot, live=free(slot), lease=lease(pull_request, fence=fence, slot=slot, expires_s=expires_s)
    )


def test_a_pull_request_gets_a_free_slot() -> None:
    plan = assign_slots(observed(FREE_1, FREE_2, pulls=(pull(1),)), now=NOW)
    assert plan.steps == (ClaimSlot(slot=PREVIEW_1, pull_request=1),)
    assert plan.queue == ()


def test_main_is_never_given_away() -> None:
    plan = assign_slots(observed(SlotObserved(slot=MAIN, live=free()), pulls=(pull(1),)), now=NOW)
    assert plan.queue == (QueuePlace(pull_request=1, position=1),)


def test_who_waits_longest_is_first_whatever_the_order_of_the_listing() -> None:
    seen = replace(
        observed(FREE_1, pulls=(pull(1), pull(2), pull(3))), waiting_since=((1, at(30)), (2, at(10)), (3, at(20)))
    )
    for pulls in (seen.pulls, tuple(reversed(seen.pulls))):
        plan = assign_slots(replace(seen, pulls=pulls), now=NOW)
        assert plan.steps == (ClaimSlot(slot=PREVIEW_1, pull_request=2),)
        assert [(place.pull_request, place.position) for place in plan.queue] == [(3, 1), (1, 2)]


def test_an_update_never_waits() -> None:
    assert assign_slots(observed(held(PREVIEW_1, 1), pulls=(pull(1, 999),)), now=NOW).queue == ()


def test_a_pull_request_that_git_refuses_gets_no_slot_and_loses_the_one_it_had() -> None:
    refused = replace(pull(1), head=None, refused_reason="ObjectsRefused", refused_message="a tree holds .git")
    assert assign_slots(observed(FREE_1, pulls=(refused,)), now=NOW).steps == ()
    ended = EndLease(slot=PREVIEW_1, fence=50, reason="no longer admitted: ObjectsRefused")
    assert assign_slots(observed(held(PREVIEW_1, 1), pulls=(refused,)), now=NOW).steps == (ended,)


def test_a_fork_gets_no_slot_and_no_place_in_the_queue() -> None:
    plan = assign_slots(observed(FREE_1, pulls=(pull(1, same_repository=False),)), now=NOW)
    assert (plan.steps, plan.queue) == ((), ())


def test_a_closed_pull_request_loses_its_lease() -> None:
    plan = assign_slots(observed(held(PREVIEW_1, 1)), now=NOW)
    assert plan.steps == (EndLease(slot=PREVIEW_1, fence=50, reason="closed"),)


def test_an_incomplete_listing_ends_nothing() -> None:
    assert assign_slots(replace(observed(held(PREVIEW_1, 1)), pulls_listed=False), now=NOW).steps == ()


def test_previews_that_are_switched_off_lose_their_leases() -> None:
    seen = replace(observed(held(PREVIEW_1, 1), pulls=(pull(1),)), policy=Policy(previews=Previews(enabled=False)))
    assert assign_slots(seen, now=NOW).steps == (
        EndLease(slot=PREVIEW_1, fence=50, reason="no longer admitted: previews.enabled"),
    )


def test_a_lease_whose_time_is_up_is_renewed_while_nobody_waits() -> None:
    seen = observed(held(PREVIEW_1, 1, expires_s=10), pulls=(pull(1),))
    assert assign_slots(seen, now=NOW).steps == (RenewLease(slot=PREVIEW_1, fence=50),)


def test_for_one_who_waits_only_the_lease_that_is_up_longest_ends() -> None:
    first, second = held(PREVIEW_1, 1, expires_s=20), held(PREVIEW_2, 2, fence=51, expires_s=10)
    plan = assign_slots(observed(first, second, pulls=(pull(1), pull(2), pull(3))), now=NOW)
    assert plan.steps == (
        EndLease(slot=PREVIEW_2, fence=51, reason="expired"),
        RenewLease(slot=PREVIEW_1, fence=50),
    )


@pytest.mark.parametrize("other", [FREE_2, replace(FREE_2, ended_fence=40), held(PREVIEW_2, 9, fence=51)])
def test_nobody_is_moved_while_a_slot_is_free_or_becomes_free(other: SlotObserved) -> None:
    plan = assign_slots(observed(held(PREVIEW_1, 1, expires_s=10), other, pulls=(pull(1), pull(3))), now=NOW)
    assert RenewLease(slot=PREVIEW_1, fence=50) in plan.steps


SERVING = serving(run(3, 101, slot=PREVIEW_1, fence=40)).live


@pytest.mark.parametrize(
    ("left", "live"),
    [
        ({"ended_fence": 40}, free(PREVIEW_1)),
        ({"processes": (process("preview-1-a", 3),)}, free(PREVIEW_1)),
        ({"run": run(3, 101, slot=PREVIEW_1)}, free(PREVIEW_1)),
        ({"activities": frozenset({"wipe"})}, free(PREVIEW_1)),
        ({}, SERVING),
    ],
    ids=["not wiped", "a process", "a run", "a thread", "it serves"],
)
def test_a_slot_with_anything_left_is_given_to_nobody(left: dict[str, Any], live: Live) -> None:
    slot = SlotObserved(slot=PREVIEW_1, live=live, **left)
    assert not is_clean(slot)
    assert assign_slots(observed(slot, pulls=(pull(1),)), now=NOW).steps == ()


def test_a_slot_that_goes_takes_nobody_and_its_tenant_waits_again_whatever_was_listed() -> None:
    going = replace(held(PREVIEW_2, 2, fence=60), leaves=True)
    seen = observed(held(PREVIEW_1, 1), going, replace(FREE_2, leaves=True), pulls=(pull(1), pull(2)))
    for listed in (True, False):
        plan = assign_slots(replace(seen, pulls_listed=listed), now=NOW)
        assert plan.steps == (EndLease(slot=PREVIEW_2, fence=60, reason="SlotRemoved"),)
        assert plan.queue == (QueuePlace(pull_request=2, position=1),)
