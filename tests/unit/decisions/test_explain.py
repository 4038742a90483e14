"""Why does one slot get these steps? A sentence for each kind of look."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.decisions.explain import why
from controller.decisions.plan import desired, plan_slot
from controller.model.states import Outcome, RunState
from controller.model.world import Observed, SlotObserved
from tests.builders import (
    PREVIEW_1,
    at,
    free,
    head,
    lease,
    live,
    observed,
    pull,
    quarantined,
    run,
    serving,
    sha,
    stop,
    verdict,
)

R1 = run(1, 1, RunState.LIVE)
R2 = run(2, 2, RunState.GATING, colour="b")
GATING = replace(serving(R1), run=R2, activities=frozenset({"gate"}))
CLOSED = SlotObserved(slot=PREVIEW_1, live=free(PREVIEW_1), ended_fence=50)


@pytest.mark.parametrize(
    ("seen", "sentence"),
    [
        (observed(serving(R1), at_head=head(1)), f"keeps {sha(1)[:7]}: it is what {sha(1)[:7]} wants"),
        (observed(serving(R1), at_head=head(2)), f"begins {sha(2)[:7]}: it is the newest commit"),
        (
            observed(serving(R1), at_head=head(2), quarantined=(quarantined(2),)),
            f"keeps {sha(1)[:7]}: the same content failed here before (Quarantined)",
        ),
        (observed(serving(R1)), f"keeps {sha(1)[:7]}: no production branch is known yet"),
        (observed(replace(serving(R1), live=None)), "says that nothing serves yet"),
        (
            observed(replace(GATING, verdicts=(verdict(R2, "gate", Outcome.FAIL),)), at_head=head(2)),
            f"ends {sha(2)[:7]} as failed: GateFailed: it answered 500",
        ),
        (
            observed(serving(R1), at_head=head(2), stops=(stop(),)),
            "stops everything: stopped by hand by ann: too loud",
        ),
        (
            observed(replace(serving(R1), processes=()), at_head=head(2), stops=(stop(),)),
            f"keeps {sha(1)[:7]}: stopped by hand by ann: too loud (StoppedByHand)",
        ),
        (
            observed(GATING, at_head=head(2), stops=(stop(reason=""),)),
            f"ends {sha(2)[:7]} as superseded: StoppedByHand: stopped by hand by ann",
        ),
        (observed(CLOSED), "wipes the slot: its lease ended and nothing runs in it"),
        (observed(replace(CLOSED, wiped_fence=50)), "stays free: nobody holds it"),
        (
            observed(replace(CLOSED, lease=lease(12, fence=60)), pulls=(pull(12),)),
            "is made ready for #12",
        ),
        (
            observed(replace(CLOSED, live=live(run(3, 101, slot=PREVIEW_1)))),
            "says that it is free: nobody holds it",
        ),
    ],
)
def test_every_look_has_a_reason_in_one_sentence(seen: Observed, sentence: str) -> None:
    slot = seen.slots[0]
    wanted = desired(seen, slot)
    assert why(wanted, slot, plan_slot(wanted, seen, slot, now=at(1000))) == sentence


def test_a_run_that_works_says_what_it_does() -> None:
    seen = observed(GATING, at_head=head(2))
    assert why(desired(seen, GATING), GATING, ()) == f"is gating {sha(2)[:7]}: it is the newest commit"
