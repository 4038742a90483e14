"""An entry of the merge queue is built and gated in a preview slot, told at its commit, and never switched to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.decisions.merge_queue import CHECKED, DROPPED
from controller.decisions.plan import desired, plan_slot
from controller.decisions.projection import project_all
from controller.decisions.slots import QueuePlace, assign_slots
from controller.model.config import Policy, Previews
from controller.model.names import SlotName, Topology, queue_domain
from controller.model.nouns import QueueEntry, Retry, Run
from controller.model.reports import FORGE_SURFACES, WantedCheck, WantedDeployment, WantedNotification, WantedStatus
from controller.model.states import Outcome, RunState
from controller.model.steps import BeginRun, ClaimSlot, EndLease, EndRun, Quarantine, StartGate, Step, StopUnit, Switch
from controller.model.world import Hold, Observed, SlotObserved, Wanted
from tests.builders import (
    APP,
    PREVIEW_1,
    at,
    free,
    head,
    instance,
    lease,
    observed,
    pull,
    run,
    sha,
    verdict,
)

PREVIEW_2 = SlotName("preview-2")
DOMAIN = queue_domain(7)
ENTRY = QueueEntry(number=7, base_branch="main", head=head(20))
LEASE = replace(lease(7), in_queue=True)
CLEAN = SlotObserved(slot=PREVIEW_1, live=free(PREVIEW_1))
HELD = replace(CLEAN, lease=LEASE, provisioned_fence=50, recipe=APP, published=True)


def of_entry(state: RunState, *, number: int = 20, **more: str) -> Run:
    return run(9, number, state, slot=PREVIEW_1, domain=DOMAIN, fence=50, **more)


def world(*slots: SlotObserved, entries: tuple[QueueEntry, ...] = (ENTRY,), **more: object) -> Observed:
    return replace(observed(*slots, pulls=(pull(7, 19),)), queue_entries=entries, **more)


def plan(seen: Observed) -> tuple[Step, ...]:
    (slot,) = seen.slots
    return plan_slot(desired(seen, slot), seen, slot, now=at(100))


def told(seen: Observed, number: int = 20) -> tuple[str, str, str | None, str]:
    """Return state, text and address of the status at a commit, and the state of its check."""
    queue = assign_slots(seen, now=at(100)).queue
    found = project_all(seen, queue, Topology(), surfaces=FORGE_SURFACES, now=at(100))
    assert not any(isinstance(one, WantedDeployment | WantedNotification) for one in found)
    (status,) = (one for one in found if isinstance(one, WantedStatus) and one.sha == sha(number))
    (check,) = (one for one in found if isinstance(one, WantedCheck) and one.sha == sha(number))
    assert (status.context, check.context) == ("oroboros/preview", "oroboros/preview")
    return str(status.state), status.description, status.target_url, str(check.state)


def test_an_entry_gets_a_free_slot_before_the_preview_that_waits() -> None:
    claimed = assign_slots(world(CLEAN), now=at(0))
    assert claimed.steps == (ClaimSlot(slot=PREVIEW_1, pull_request=7, in_queue=True),)
    assert claimed.queue == (QueuePlace(pull_request=7, position=1),)


def test_without_a_free_slot_it_waits_says_so_and_lets_no_merge_pass() -> None:
    other = replace(CLEAN, lease=lease(3), provisioned_fence=50)
    seen = replace(world(other), pulls=(pull(3), pull(7, 19)))
    assert assign_slots(seen, now=at(0)).queue[0] == QueuePlace(pull_request=7, in_queue=True, position=1)
    assert told(seen) == ("pending", "merge queue: waits for a slot, position 1; slots held by #3", None, "queued")


def test_its_own_preview_and_its_entry_hold_a_slot_each() -> None:
    own = replace(CLEAN, slot=PREVIEW_2, live=free(PREVIEW_2), lease=lease(7, fence=51, slot=PREVIEW_2))
    assert assign_slots(world(HELD, own), now=at(0)).steps == ()


def test_where_previews_are_off_nothing_of_it_runs() -> None:
    off = world(CLEAN, policy=Policy(previews=Previews(enabled=False)))
    assert assign_slots(off, now=at(0)).steps == ()


def test_its_commit_is_what_is_wanted_in_a_domain_of_its_own() -> None:
    (begun,) = (step for step in plan(world(HELD)) if isinstance(step, BeginRun))
    assert (begun.head, begun.domain, begun.fence) == (ENTRY.head, "queue-7", 50)
    assert told(world(HELD))[:2] == ("pending", "accepted")


def test_a_gate_that_passed_ends_its_run_and_nothing_is_switched() -> None:
    gating = of_entry(RunState.GATING)
    working = replace(HELD, run=gating, processes=(instance(gating),))
    assert any(isinstance(step, StartGate) for step in plan(world(working)))
    passed = plan(world(replace(working, verdicts=(verdict(gating, "gate", Outcome.PASS),))))
    assert [step.state for step in passed if isinstance(step, EndRun)] == [RunState.PASSED]
    assert not any(isinstance(step, Switch) for step in passed)
    assert told(world(working)) == ("pending", "gating", None, "in_progress")


def test_a_gate_that_failed_ends_its_run_and_quarantines_nothing() -> None:
    gating = of_entry(RunState.GATING)
    failing = replace(
        HELD, run=gating, processes=(instance(gating),), verdicts=(verdict(gating, "gate", Outcome.FAIL),)
    )
    steps = plan(world(failing))
    assert [step.state for step in steps if isinstance(step, EndRun)] == [RunState.FAILED]
    assert not any(isinstance(step, Quarantine) for step in steps)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (RunState.PASSED, ("success", "passed its gate for the merge queue; not deployed", None, "success")),
        (RunState.FAILED, ("failure", "GateFailed: it answered 500", None, "failure")),
        (RunState.STALLED, ("error", "GateFailed: it answered 500", None, "failure")),
    ],
)
def test_once_it_is_checked_its_slot_is_given_back_and_its_word_stays(
    state: RunState, said: tuple[str, str, str | None, str]
) -> None:
    ended = of_entry(state, reason="GateFailed", message="it answered 500")
    done = replace(HELD, recent_runs=(ended,), processes=(instance(ended),))
    wanted = desired(world(done), done)
    assert isinstance(wanted, Hold)
    assert [type(step) for step in plan(world(done))] == [StopUnit]
    assert assign_slots(world(done), now=at(0)).steps == (EndLease(slot=PREVIEW_1, fence=50, reason=CHECKED),)
    assert told(world(done)) == said
    given_back = replace(done, lease=None, ended_fence=50, wiped_fence=50, processes=())
    claimed = assign_slots(world(given_back), now=at(0)).steps
    assert claimed == (ClaimSlot(slot=PREVIEW_1, pull_request=7),)
    assert told(world(given_back)) == said


def test_a_new_commit_or_another_try_is_checked_again() -> None:
    failed = replace(HELD, recent_runs=(of_entry(RunState.FAILED),))
    newer = world(failed, entries=(replace(ENTRY, head=head(21)),))
    assert isinstance(desired(newer, failed), Wanted)
    asked = world(failed, retries=(Retry(domain=DOMAIN, sha=sha(20), at=at(1)),))
    assert isinstance(desired(asked, failed), Wanted)
    elsewhere = world(failed, retries=(Retry(domain=queue_domain(8), sha=sha(20), at=at(1)),))
    assert isinstance(desired(elsewhere, failed), Hold)


def test_an_entry_that_the_queue_dropped_ends_its_lease_and_its_status() -> None:
    gone = world(replace(HELD, run=of_entry(RunState.BUILDING)), entries=())
    (ended,) = assign_slots(gone, now=at(0)).steps
    assert ended == EndLease(slot=PREVIEW_1, fence=50, reason=DROPPED)
    superseded = of_entry(RunState.SUPERSEDED, reason="LeaseEnded", message="the preview's lease ended")
    empty = world(replace(CLEAN, recent_runs=(superseded,)), entries=())
    assert told(empty) == ("error", "merge queue: not checked to its end", None, "cancelled")


def test_nothing_ends_before_all_is_listed() -> None:
    unlisted = replace(world(HELD, entries=()), pulls_listed=False)
    assert assign_slots(unlisted, now=at(0)).steps == ()


def test_one_whose_time_was_up_waits_again_and_is_not_said_to_have_ended() -> None:
    superseded = of_entry(RunState.SUPERSEDED, reason="LeaseEnded", message="the preview's lease ended")
    other = replace(CLEAN, lease=lease(3), recent_runs=(superseded,), provisioned_fence=50)
    seen = replace(world(other), pulls=(pull(3), pull(7, 19)))
    assert told(seen)[0] == "pending"
