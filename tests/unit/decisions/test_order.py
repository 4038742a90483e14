"""May production move to the head of its branch? By ancestry, and never back by accident."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decisions.order import (
    FORCE_PUSHED,
    HeadFacts,
    HeadVerdict,
    is_head_to_be_asked,
    is_news_awaited,
    judge_head,
)
from controller.decisions.plan import desired, plan_slot
from controller.decisions.report import project
from controller.model.names import MAIN, Topology
from controller.model.nouns import Head, Override
from controller.model.states import Cause, Outcome, RunState, StatusState
from controller.model.steps import BeginRun, EndRun, Switch
from controller.model.world import HeadRefused, Hold, Observed, Wanted
from tests.builders import (
    PREVIEW_1,
    at,
    head,
    instance,
    live,
    observed,
    proven,
    quarantined,
    release,
    run,
    serving,
    sha,
    verdict,
)

NOW = at(1000)
R1 = run(1, 1, RunState.LIVE)
REFUSED = HeadRefused(reason=FORCE_PUSHED, message="the branch was moved back by force")


def facts(*, accepted: int | None = 2, served: int | None = 2, head_number: int = 3, **said: bool) -> HeadFacts:
    return HeadFacts(
        head=head(head_number),
        accepted=None if accepted is None else sha(accepted),
        serves=None if served is None else head(served),
        follows_accepted=said.get("follows_accepted", False),
        follows_served=said.get("follows_served", False),
        is_behind=said.get("is_behind", False),
    )


class TestJudging:
    def test_the_first_head_and_every_one_that_follows_the_last_is_accepted(self) -> None:
        assert judge_head(facts(accepted=None, served=None), force_push="hold") == HeadVerdict()
        assert judge_head(facts(follows_accepted=True), force_push="hold") == HeadVerdict()

    @pytest.mark.parametrize(("behind", "kind"), [(True, "back"), (False, "aside")])
    def test_a_branch_that_was_moved_by_force_is_held_and_told(self, behind: bool, kind: str) -> None:
        found = judge_head(facts(is_behind=behind), force_push="hold")
        assert found.refused is not None
        assert found.refused.reason == FORCE_PUSHED
        assert found.force_push is not None
        assert (found.force_push.kind, found.force_push.outcome) == (kind, "held")

    def test_policy_can_follow_and_it_is_told_all_the_same(self) -> None:
        found = judge_head(facts(is_behind=True), force_push="follow")
        assert found.refused is None
        assert found.force_push is not None
        assert found.force_push.outcome == "followed"

    @pytest.mark.parametrize(
        "moved",
        [
            facts(served=1, follows_served=True),  # what was dropped never served
            facts(served=None),
            replace(facts(), serves=Head(sha=sha(9), tree=head(3).tree)),  # the same content
        ],
    )
    def test_production_that_has_nothing_to_go_back_from_goes_on_and_it_is_told(self, moved: HeadFacts) -> None:
        found = judge_head(moved, force_push="hold")
        assert found.refused is None
        assert found.force_push is not None
        assert found.force_push.outcome == "no_move"

    @given(
        parents=st.lists(st.integers(0, 30), min_size=1, max_size=12),
        story=st.lists(st.tuples(st.integers(0, 11), st.booleans()), max_size=20),
    )
    def test_what_serves_never_moves_to_its_ancestor_while_policy_holds(
        self, parents: list[int], story: list[tuple[int, bool]]
    ) -> None:
        """Commit k's parent is one before it; the branch jumps anywhere; what is accepted serves, or fails to."""
        parent = {k: p % k for k, p in enumerate(parents) if k}

        def behind(number: int) -> set[int]:
            return {number} | (behind(parent[number]) if number in parent else set())

        accepted: int | None = None
        served: int | None = None
        for target, goes_live in story:
            number = target % len(parents)
            seen = HeadFacts(
                head=head(number),
                accepted=None if accepted is None else sha(accepted),
                serves=None if served is None else head(served),
                follows_accepted=accepted is not None and accepted in behind(number),
                follows_served=served is not None and served in behind(number),
                is_behind=accepted is not None and number in behind(accepted),
            )
            found = judge_head(seen, force_push="hold")
            if found.refused is not None:
                assert served is not None
                assert served not in behind(number)
                continue
            if goes_live:
                assert served is None or served in behind(number) or number not in behind(served) or number == served
                served = number
            accepted = number


def refused_world(*, overrides: tuple[Override, ...] = (), head_number: int = 2) -> Observed:
    seen = observed(
        serving(R1),
        at_head=head(head_number),
        releases=(release(1), release(2)),
        proven=(proven(1, generation=1),),
        overrides=overrides,
    )
    return replace(seen, head_refused=REFUSED)


class TestWhatFollows:
    def test_what_serves_stays_while_the_head_is_refused(self) -> None:
        seen = refused_world()
        wanted = desired(seen, seen.slots[0])
        assert isinstance(wanted, Hold)
        assert wanted.reason == FORCE_PUSHED
        assert plan_slot(wanted, seen, seen.slots[0], now=NOW) == ()

    def test_a_run_of_what_was_dropped_ends(self) -> None:
        seen = refused_world(head_number=3)
        slot = replace(seen.slots[0], run=run(2, 2, colour="b"))
        steps = plan_slot(desired(seen, slot), seen, slot, now=NOW)
        assert [step.state for step in steps if isinstance(step, EndRun)] == [RunState.SUPERSEDED]

    def test_an_order_by_hand_goes_and_a_refused_head_does_not_end_one(self) -> None:
        order = Override(
            id=1,
            slot=MAIN,
            kind="deploy",
            head=head(2),
            ordered_at_head=sha(9),
            accept_migrations=False,
            actor="ann",
            reason="",
            at=at(0),
        )
        seen = refused_world(overrides=(order,))
        wanted = desired(seen, seen.slots[0])
        assert isinstance(wanted, Wanted)
        assert (wanted.head, wanted.cause) == (head(2), Cause.OVERRIDE)
        assert [type(step) for step in plan_slot(wanted, seen, seen.slots[0], now=NOW)] == [BeginRun]

    def test_production_still_goes_back_from_what_turned_out_bad(self) -> None:
        r2 = run(2, 2, RunState.ROLLED_BACK, colour="b", fallback=1, switched_s=10)
        slot = replace(serving(r2), live=live(r2), recent_runs=(r2, R1))
        seen = observed(
            slot,
            at_head=head(3),
            releases=(release(1), release(2)),
            proven=(proven(1, generation=1),),
            quarantined=(quarantined(2, at_s=50),),
        )
        wanted = desired(replace(seen, head_refused=REFUSED), slot)
        assert isinstance(wanted, Wanted)
        assert (wanted.head.sha, wanted.cause) == (sha(1), Cause.ROLLBACK)

    @pytest.mark.parametrize(("blames", "state"), [(False, StatusState.ERROR), (True, StatusState.FAILURE)])
    def test_the_commit_says_why_it_does_not_go_live(self, blames: bool, state: StatusState) -> None:
        seen = replace(refused_world(head_number=1), head_refused=replace(REFUSED, blames_commit=blames))
        (said,) = [one for one in project(seen, (), Topology(), now=NOW) if getattr(one, "sha", "") == sha(1)]
        assert (said.state, said.description) == (state, "ForcePushed: the branch was moved back by force")


class TestNews:
    def gated(self, state: Literal["gating", "switching"] = "gating") -> Observed:
        new = run(2, 2, RunState(state), colour="b")
        slot = replace(
            serving(R1),
            run=new,
            fallback_run=R1,
            processes=(instance(R1), instance(new)),
            verdicts=(verdict(new, "gate", Outcome.PASS),),
        )
        return observed(slot, at_head=head(2), releases=(release(1), release(2)), proven=(proven(1, generation=1),))

    def switches(self, seen: Observed) -> bool:
        slot = seen.slots[0]
        return any(isinstance(step, Switch) for step in plan_slot(desired(seen, slot), seen, slot, now=NOW))

    def test_a_push_that_was_told_of_and_not_fetched_defers_the_switch_for_a_bounded_time(self) -> None:
        assert self.switches(self.gated())
        assert not self.switches(replace(self.gated(), unfetched_push_at=at(995)))
        assert not self.switches(replace(self.gated("switching"), unfetched_push_at=at(995)))
        assert self.switches(replace(self.gated("switching"), unfetched_push_at=at(980)))

    def test_the_head_is_asked_for_once_more_unless_a_fetch_has_just_begun(self) -> None:
        new = run(2, 2)
        assert is_head_to_be_asked(new, fetched_at=None, now=NOW)
        assert is_head_to_be_asked(new, fetched_at=at(998), now=NOW)
        assert not is_head_to_be_asked(new, fetched_at=at(999.5), now=NOW)
        assert not is_head_to_be_asked(replace(new, slot=PREVIEW_1), fetched_at=None, now=NOW)
        assert not is_head_to_be_asked(run(2, 2, cause=Cause.ROLLBACK), fetched_at=None, now=NOW)

    @pytest.mark.parametrize("cause", [Cause.ROLLBACK, Cause.REPAIR, Cause.OVERRIDE])
    def test_nothing_else_waits_for_a_push(self, cause: Cause) -> None:
        seen = replace(self.gated(), unfetched_push_at=at(999))
        assert not is_news_awaited(seen, run(2, 2, cause=cause), now=NOW)

    def test_a_run_that_was_about_to_switch_is_superseded_by_a_newer_head(self) -> None:
        seen = replace(self.gated("switching"), production_head=head(3))
        slot = seen.slots[0]
        steps = plan_slot(desired(seen, slot), seen, slot, now=NOW)
        assert [step.state for step in steps if isinstance(step, EndRun)] == [RunState.SUPERSEDED]
        switched = replace(slot, live=live(slot.run)) if slot.run is not None else slot
        steps = plan_slot(desired(seen, switched), seen, switched, now=NOW)
        assert not any(isinstance(step, EndRun) for step in steps)
