"""Does a reset that went wrong show, each kind by its reason, and is work under way left alone?"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest

from controller.decisions.integrity import (
    DatabaseFact,
    HostFacts,
    LeaseFact,
    RunFact,
    SlotFacts,
    judge_integrity,
)
from controller.model.names import MAIN, PRODUCTION, Domain, SlotName
from controller.model.states import ProcessState, RunState
from tests.builders import PREVIEW_1, at, free, instance, live, run

GRACE_S = 90 * 60.0
NOW = at(GRACE_S * 4)
LONG_AGO, JUST_NOW = at(0), at(GRACE_S * 4 - 60)
LEASE = LeaseFact(fence=50, slot=PREVIEW_1, pull_request=1, claimed_at=LONG_AGO)
ENDED = replace(LEASE, ended_at=at(600))
SERVED = run(60, 101, RunState.LIVE, slot=PREVIEW_1, fence=50)
RUN = RunFact(
    generation=60,
    slot=PREVIEW_1,
    domain=Domain("pr-1"),
    fence=50,
    state=RunState.LIVE,
    begun_at=at(10),
    ended_at=at(60),
)
DATABASE = DatabaseFact(slot=PREVIEW_1, database=True, role=True, made_for=50)
#: A slot that is leased, made ready and serves; and one whose lease ended and of which nothing is left.
LEASED = SlotFacts(
    slot=PREVIEW_1,
    lease=LEASE,
    provisioned_fence=50,
    live=live(SERVED),
    database=DATABASE,
    data=True,
    processes=(instance(SERVED),),
)
RESET = SlotFacts(
    slot=PREVIEW_1,
    ended=ENDED,
    provisioned_fence=50,
    wiped_fence=50,
    live=free(PREVIEW_1),
    database=DatabaseFact(slot=PREVIEW_1),
)


def reasons(facts: HostFacts, *, now: datetime = NOW) -> list[str]:
    return [finding.reason for finding in judge_integrity(facts, grace_s=GRACE_S, now=now)]


def of(*slots: SlotFacts, runs: tuple[RunFact, ...] = (RUN,)) -> HostFacts:
    return HostFacts(slots=slots, runs=runs, leases=(LEASE,))


@pytest.mark.parametrize(
    "slot",
    [
        LEASED,
        RESET,
        SlotFacts(slot=PREVIEW_1),
        # Just claimed: what lies there may still be anybody's.
        replace(LEASED, lease=replace(LEASE, fence=70, claimed_at=JUST_NOW), ended=ENDED, wiped_fence=50),
        # Just ended: being wiped.
        replace(LEASED, lease=None, ended=replace(LEASE, ended_at=JUST_NOW)),
        # Without a database server for apps.
        replace(LEASED, database=None),
        # Its app has no database.
        replace(LEASED, database=DatabaseFact(slot=PREVIEW_1)),
    ],
)
def test_a_slot_in_order_or_under_way_is_no_contradiction(slot: SlotFacts) -> None:
    assert reasons(of(slot)) == []


LEFT = "LeftAfterReset"


@pytest.mark.parametrize(
    ("slot", "expected"),
    [
        # 1. Fences.
        (replace(LEASED, provisioned_fence=90), ["FenceUnknown", "NeverProvisioned"]),
        (replace(RESET, provisioned_fence=90), ["FenceUnknown"]),
        (replace(LEASED, wiped_fence=50), ["WipedTooSoon"]),
        (replace(RESET, wiped_fence=90), ["WipedTooSoon"]),
        # 2. Made ready, wiped.
        (replace(LEASED, provisioned_fence=0), ["NeverProvisioned"]),
        (replace(RESET, wiped_fence=0), ["WipeNeverFinished"]),
        # 3. Nothing is left.
        (replace(RESET, live=live(SERVED)), [LEFT]),
        (replace(RESET, database=DATABASE), [LEFT]),
        (replace(RESET, data=True), [LEFT]),
        (replace(RESET, processes=(instance(SERVED),)), [LEFT]),
        (replace(LEASED, lease=None), ["FenceUnknown", LEFT]),
        (replace(LEASED, lease=None, ended=ENDED), ["WipeNeverFinished", LEFT]),
        # 4. It is this lease's.
        (replace(LEASED, live=replace(live(SERVED), fence=40)), ["LiveOfOtherLease"]),
        (replace(LEASED, live=None, live_problem="makes no sense"), ["LiveUnreadable"]),
        (replace(LEASED, database=replace(DATABASE, made_for=40)), ["DatabaseOfOtherLease"]),
        (replace(LEASED, database=replace(DATABASE, made_for=None)), ["DatabaseOfOtherLease"]),
        (replace(LEASED, database=replace(DATABASE, owned=False)), ["DatabaseWithoutRole"]),
        (replace(LEASED, database=replace(DATABASE, role=False)), ["DatabaseWithoutRole"]),
        (replace(LEASED, database=replace(DATABASE, database=False)), ["RoleWithoutDatabase"]),
        (replace(RESET, database=replace(DATABASE, database=False)), ["RoleWithoutDatabase", LEFT]),
    ],
)
def test_a_contradiction_of_a_slot_has_its_reason(slot: SlotFacts, expected: list[str]) -> None:
    assert reasons(of(slot)) == expected


def test_a_unit_of_the_lease_before_is_named() -> None:
    old = replace(RUN, generation=40, fence=30, begun_at=at(-500), ended_at=at(-400))
    before = replace(LEASE, fence=30, claimed_at=at(-900), ended_at=at(-100))
    left = instance(run(40, 101, RunState.LIVE, slot=PREVIEW_1, fence=30, colour="b"))
    slot = replace(LEASED, ended=before, wiped_fence=30, processes=(*LEASED.processes, left))
    (finding,) = judge_integrity(of(slot, runs=(RUN, old)), grace_s=GRACE_S, now=NOW)

    assert (finding.slot, finding.reason) == (PREVIEW_1, "UnitOfOtherLease")
    assert "preview-1-b" in finding.message


@pytest.mark.parametrize("state", [ProcessState.RUNNING, ProcessState.EXITED])
def test_a_unit_of_no_run_that_there_is_is_named(state: ProcessState) -> None:
    stranger = instance(run(7, 101, RunState.LIVE, slot=PREVIEW_1, colour="b"), state=state)
    slot = replace(LEASED, processes=(*LEASED.processes, stranger))
    (finding,) = judge_integrity(of(slot), grace_s=GRACE_S, now=NOW)

    assert (finding.slot, finding.reason) == (PREVIEW_1, "UnitOfNoRun")
    assert "generation 7" in finding.message


def test_says_all_that_is_left_in_one_sentence() -> None:
    slot = replace(RESET, live=live(SERVED), database=DATABASE, data=True)
    (finding,) = judge_integrity(of(slot), grace_s=GRACE_S, now=NOW)

    assert finding.message == (
        f"nobody holds the slot, and it serves {SERVED.release[:7]}, has a database and its role, has a data folder"
    )


@pytest.mark.parametrize(
    ("fact", "expected"),
    [
        (replace(RUN, state=RunState.GATING, ended_at=None), ["RunNeverEnded"]),
        (replace(RUN, state=RunState.GATING, ended_at=None, begun_at=JUST_NOW), []),
        (replace(RUN, fence=40), ["RunOfOtherLease"]),
        (replace(RUN, domain=Domain("pr-2")), ["RunOfOtherLease"]),
        (replace(RUN, slot=SlotName("preview-2")), ["RunOfOtherLease"]),
        (replace(RUN, begun_at=at(-10)), ["RunOfOtherLease"]),
        (replace(RUN, fence=0), ["RunOfOtherLease"]),
        (replace(RUN, slot=MAIN, domain=PRODUCTION, fence=0), []),
        (
            replace(RUN, slot=MAIN, domain=PRODUCTION, fence=0, state=RunState.BUILDING, ended_at=None),
            ["RunNeverEnded"],
        ),
    ],
)
def test_a_run_ends_in_time_and_belongs_to_its_lease(fact: RunFact, expected: list[str]) -> None:
    assert reasons(HostFacts(slots=(replace(LEASED, processes=()),), runs=(fact,))) == expected


def test_a_run_that_began_after_its_lease_ended_is_named() -> None:
    assert reasons(of(RESET, runs=(replace(RUN, begun_at=at(700)),))) == ["RunOfOtherLease"]


@pytest.mark.parametrize(
    ("slot", "expected"),
    [
        (LEASED, []),
        (RESET, ["BuildsLeft"]),
        (replace(RESET, wiped_fence=0, ended=replace(LEASE, ended_at=JUST_NOW)), []),
        (SlotFacts(slot=PREVIEW_1), ["BuildsLeft"]),
    ],
)
def test_builds_of_a_pull_request_go_with_its_lease(slot: SlotFacts, expected: list[str]) -> None:
    assert reasons(HostFacts(slots=(replace(slot, processes=()),), builds=(Domain("pr-1"),))) == expected


def test_a_database_of_a_slot_that_the_host_does_not_have_is_named() -> None:
    stranger = DatabaseFact(slot=SlotName("preview-9"), database=True, role=True)

    assert reasons(HostFacts(slots=(), strangers=(stranger,))) == ["DatabaseOfNoSlot"]


def test_roles_that_install_made_stay_without_a_database() -> None:
    role = DatabaseFact(slot=PREVIEW_1, role=True)
    stranger = replace(role, slot=SlotName("preview-9"))
    facts = HostFacts(slots=(replace(RESET, database=role),), strangers=(stranger,), roles_are_installed=True)

    assert reasons(facts) == []


@pytest.mark.parametrize("slot", [LEASED, RESET])
def test_a_role_that_install_made_and_is_gone_is_named(slot: SlotFacts) -> None:
    facts = replace(of(replace(slot, database=DatabaseFact(slot=PREVIEW_1))), roles_are_installed=True)

    assert reasons(facts) == ["InstalledRoleMissing"]
    assert reasons(replace(facts, roles_are_installed=False)) == []


def test_production_is_never_reset() -> None:
    served = run(5, 1, RunState.LIVE)
    main = SlotFacts(slot=MAIN, live=live(served), data=True, processes=(instance(served),))

    assert reasons(HostFacts(slots=(main,))) == []
