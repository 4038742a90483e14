"""What does one slot need next? One rule of the plan a test."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal

import pytest

from controller.decisions.plan import ATTEMPTS_MAX, NEVER, RETRIES_MAX, desired, plan_slot, repaired, retry_at
from controller.model.config import DatedFreeze, Policy, Production
from controller.model.names import JOB_NOT_PREPARED, MAIN, PRODUCTION, pull_request_domain
from controller.model.nouns import HoldOrder, Override, ProcessFact, Quarantined, Retry, Run
from controller.model.states import Cause, Outcome, ProcessState, RunState
from controller.model.steps import (
    AdvanceRun,
    BeginRun,
    Checkout,
    EndOverride,
    EndRun,
    FreeSlot,
    Quarantine,
    RenewLease,
    RepairCurrent,
    SealBuild,
    StartGate,
    StartInstance,
    StartJob,
    StartWatch,
    Step,
    StopUnit,
    Switch,
    SwitchBack,
    WipeSlot,
)
from controller.model.world import RECENT_RUNS_MAX, Activity, HeadRefused, Hold, Observed, SlotObserved, Wanted
from tests.builders import (
    BUILT_APP,
    DATABASE_APP,
    PREVIEW_1,
    at,
    free,
    head,
    instance,
    lease,
    live,
    observed,
    process,
    proven,
    pull,
    quarantined,
    release,
    run,
    serving,
    sha,
    stop,
    tree,
    verdict,
)

NOW = at(1000)
R1 = run(1, 1, RunState.LIVE)
PR1 = pull_request_domain(1)


def plan(world: Observed, slot: SlotObserved | None = None) -> tuple[Step, ...]:
    slot = world.slots[0] if slot is None else slot
    return plan_slot(desired(world, slot), world, slot, now=NOW)


def one_begin(steps: tuple[Step, ...]) -> BeginRun:
    begun = [step for step in steps if isinstance(step, BeginRun)]
    assert len(begun) == 1, steps
    return begun[0]


def one_end(steps: tuple[Step, ...]) -> EndRun:
    ended = [step for step in steps if isinstance(step, EndRun)]
    assert len(ended) == 1, steps
    return ended[0]


def working(of: Run, **fields: Any) -> SlotObserved:
    """Slot main, where run 1 serves and this run runs."""
    slot = replace(serving(R1), run=of, fallback_run=R1, fallback_live=live(R1), published=True)
    return replace(slot, **fields)


def world(slot: SlotObserved, number: int = 2, *, bad: int | None = None) -> Observed:
    """The head is commit `number`; release 1 is proven."""
    return observed(
        slot,
        at_head=head(number),
        releases=(release(1), release(2)),
        proven=(proven(1, generation=1),),
        quarantined=() if bad is None else (quarantined(bad, at_s=50),),
    )


class TestNothingRuns:
    def test_a_slot_that_serves_the_head_needs_nothing(self) -> None:
        assert plan(world(serving(R1), 1)) == ()

    def test_a_new_head_begins_on_the_other_colour_and_can_fall_back_to_what_is_proven(self) -> None:
        begun = one_begin(plan(world(serving(R1))))
        assert (begun.head.sha, begun.cause, begun.colour, begun.fallback) == (sha(2), Cause.PUSH, "b", 1)

    def test_a_head_with_the_content_of_what_serves_needs_no_run(self) -> None:
        assert plan(observed(serving(R1), at_head=head(9, content=1))) == ()

    def test_a_head_with_the_content_of_a_proven_release_is_a_revert_to_that_release(self) -> None:
        r2 = run(2, 2, RunState.LIVE)
        slot = replace(serving(r2), recent_runs=(r2, R1))
        seen = observed(
            slot, at_head=head(3, content=1), releases=(release(1), release(2)), proven=(proven(1, generation=1),)
        )
        begun = one_begin(plan(seen))
        assert (begun.head.sha, begun.release, begun.cause) == (sha(3), sha(1), Cause.REVERT)

    def test_what_another_domain_has_proven_makes_no_revert(self) -> None:
        seen = observed(
            serving(R1), at_head=head(2), releases=(release(2),), proven=(proven(2, generation=7, domain=PR1),)
        )
        assert one_begin(plan(seen)).cause is Cause.PUSH

    def test_a_quarantined_head_is_not_begun(self) -> None:
        assert plan(world(serving(R1), bad=2)) == ()

    def test_what_failed_in_a_preview_is_begun_in_production(self) -> None:
        seen = replace(world(serving(R1)), quarantined=(quarantined(2, domain=PR1),))
        assert one_begin(plan(seen)).head.sha == sha(2)

    def test_a_lost_instance_is_started_again(self) -> None:
        begun = one_begin(plan(world(replace(serving(R1), processes=()), 1)))
        assert (begun.head.sha, begun.cause, begun.colour) == (sha(1), Cause.REPAIR, "b")

    def test_static_files_need_no_instance_and_no_repair(self) -> None:
        slot = replace(serving(R1), processes=(), live=replace(live(R1), address=None, colour=None))
        assert plan(world(slot, 1)) == ()

    def test_current_follows_live(self) -> None:
        assert plan(world(replace(serving(R1), current=sha(7)), 1)) == (RepairCurrent(slot=MAIN, release=sha(1)),)

    def test_a_slot_that_never_served_says_that_it_is_free(self) -> None:
        assert plan(observed(SlotObserved(slot=MAIN))) == (FreeSlot(slot=MAIN, fence=0),)

    def test_what_serves_without_proof_is_proven_again_when_nothing_newer_took_over(self) -> None:
        cut_short = run(2, 2, RunState.SUPERSEDED, switched_s=5, confirmed_s=8, fallback=1)
        slot = replace(serving(cut_short), recent_runs=(cut_short, R1))
        begun = one_begin(plan(world(slot, 3, bad=3)))
        assert (begun.head.sha, begun.cause, begun.fallback) == (sha(2), Cause.REPAIR, 1)


class TestTriesAgain:
    def failed(self, count: int, *, number: int = 2, reason: str = "DatabaseAway") -> tuple[Run, ...]:
        return tuple(run(20 - k, number, RunState.FAILED, reason=reason, ended_s=900.0 - 100 * k) for k in range(count))

    def asked(self, recent: tuple[Run, ...], number: int = 2) -> timedelta | None:
        slot = replace(serving(R1), recent_runs=recent)
        seen = world(slot, number)
        wanted = desired(seen, slot)
        assert isinstance(wanted, Wanted)
        due = retry_at(seen, slot, wanted)
        return None if due == NEVER else due - at(900)

    @pytest.mark.parametrize(("count", "pause_s"), [(1, 2), (2, 4), (3, 8), (RETRIES_MAX - 1, 32)])
    def test_the_pause_grows_with_each_failure_that_was_nobodys_fault(self, count: int, pause_s: float) -> None:
        assert self.asked(self.failed(count)) == timedelta(seconds=pause_s)

    def test_a_human_must_act_after_the_last_try(self) -> None:
        assert self.asked(self.failed(RETRIES_MAX)) is None

    def test_another_commit_of_the_same_content_has_tries_of_its_own(self) -> None:
        slot = replace(serving(R1), recent_runs=self.failed(RETRIES_MAX))
        assert one_begin(plan(observed(slot, at_head=head(9, content=2)))).head.sha == sha(9)

    def test_a_repair_in_between_does_not_give_new_tries(self) -> None:
        repair = run(30, 1, RunState.LIVE, cause=Cause.REPAIR)
        assert self.asked((repair, *self.failed(RETRIES_MAX))) is None

    @pytest.mark.parametrize("reason", ["DatabaseAway", "MigrationsDiffer"])
    def test_who_asks_for_another_try_gets_it_whatever_failed_before(self, reason: str) -> None:
        failed = self.failed(RETRIES_MAX, reason=reason)
        seen = world(replace(serving(R1), recent_runs=failed), 2)
        for at_s, wanted in ((1, 2), (-1, None)):
            asked = replace(seen, retries=(Retry(domain=PRODUCTION, sha=sha(2), at=at(at_s)),))
            begun = [step.head.sha for step in plan(asked) if isinstance(step, BeginRun)]
            assert begun == ([] if wanted is None else [sha(wanted)])
        elsewhere = replace(seen, retries=(Retry(domain=pull_request_domain(1), sha=sha(2), at=at(1)),))
        assert plan(elsewhere) == ()

    def test_a_refusal_is_not_tried_again(self) -> None:
        assert self.asked(self.failed(1, reason="MigrationsDiffer")) is None

    def test_a_commit_that_killed_the_worker_is_not_tried_again(self) -> None:
        assert self.asked((run(2, 2, RunState.STALLED, ended_s=10),)) is None

    @pytest.mark.parametrize(
        "ended",
        [
            (run(2, 2, RunState.FAILED, reason="MigrationsDiffer", switched_s=5),),
            (run(2, 2, RunState.STALLED, reason="WorkerDied", switched_s=5),),
            # Starting it again has ended so too.
            (
                run(3, 2, RunState.FAILED, reason="MigrationsDiffer", cause=Cause.REPAIR, switched_s=30),
                run(2, 2, RunState.FAILED, reason="MigrationsDiffer", switched_s=5),
            ),
            (
                run(3, 2, RunState.STALLED, reason="WorkerDied", cause=Cause.REPAIR),
                run(2, 2, RunState.FAILED, reason="MigrationsDiffer", switched_s=5),
            ),
        ],
        ids=["not rolled back", "stalled", "not rolled back twice", "stalled as it was started again"],
    )
    @pytest.mark.parametrize("meanwhile", ["nothing", "hold", "freeze", "order refused", "moved by force"])
    def test_what_serves_is_started_again_also_when_its_commit_was_given_up(
        self, ended: tuple[Run, ...], meanwhile: str
    ) -> None:
        served = next(one for one in ended if one.switched_at is not None)
        slot = replace(serving(served), recent_runs=(*ended, R1))
        held_head = HeadRefused(reason="ForcePushed", message="held", keeps_accepted=True)
        order = Override(
            id=1,
            slot=MAIN,
            kind="deploy",
            head=head(3),
            ordered_at_head=sha(2),
            accept_migrations=False,
            actor="ann",
            reason="",
            at=at(0),
        )
        wall = [moment.replace(tzinfo=None) for moment in (at(0), at(2000))]
        freeze = DatedFreeze(from_local=wall[0], until_local=wall[1], timezone="UTC", reason="x")
        changes: dict[str, dict[str, Any]] = {
            "nothing": {},
            "hold": {"holds": (HoldOrder(id=8, slot=MAIN, fence=0, until=None, actor="ann", reason="x", at=at(0)),)},
            "freeze": {"policy": Policy(production=Production(freeze=(freeze,)))},
            "order refused": {"overrides": (order,), "order_refused": replace(held_head, is_pending=True)},
            "moved by force": {"head_refused": held_head, "accepted_head": head(2), "production_head": head(3)},
        }
        bad = 2 if ended[-1].state is RunState.FAILED else None
        runs = replace(world(slot, bad=bad), **changes[meanwhile])
        assert plan(runs) == (), "it runs: nothing better may be switched to, and nothing is to be proven"
        begun = one_begin(plan(runs, replace(slot, processes=())))
        assert (begun.head.sha, begun.cause) == (sha(2), Cause.REPAIR)

    def test_a_preview_that_was_given_up_and_is_held_is_started_again_too(self) -> None:
        bad = run(9, 101, RunState.FAILED, slot=PREVIEW_1, fence=50, reason="MigrationsDiffer", switched_s=5)
        seen = observed(serving(bad), pulls=(pull(1),), quarantined=(quarantined(101, domain=PR1),))
        hold = HoldOrder(id=8, slot=PREVIEW_1, fence=50, until=None, actor="ann", reason="x", at=at(0))
        seen = replace(seen, holds=(hold,))
        assert plan(seen) == ()
        assert one_begin(plan(seen, replace(serving(bad), processes=()))).cause is Cause.REPAIR

    def test_what_ends_so_each_time_it_is_started_again_waits_longer_each_time(self) -> None:
        served = run(2, 2, RunState.STALLED, reason="WorkerDied", switched_s=5, ended_s=10)
        again = tuple(run(9 - k, 2, RunState.STALLED, cause=Cause.REPAIR, ended_s=900 - k) for k in range(3))
        slot = replace(serving(served), recent_runs=(*again, served))
        assert retry_at(world(slot), slot, repaired(served)) == at(900 + 16)

    def test_a_repair_goes_on_while_the_head_must_wait(self) -> None:
        repair = run(30, 1, cause=Cause.REPAIR, colour="b")
        slot = working(repair, recent_runs=(*self.failed(RETRIES_MAX), R1), processes=())
        assert not any(isinstance(step, EndRun) for step in plan(world(slot)))

    def test_a_repair_gives_way_to_a_head_that_can_begin(self) -> None:
        repair = run(30, 1, cause=Cause.REPAIR, colour="b")
        assert one_end(plan(world(working(repair)))).state is RunState.SUPERSEDED

    def test_only_a_new_head_moves_the_end_of_a_lease(self) -> None:
        failed = run(9, 101, RunState.FAILED, slot=PREVIEW_1, fence=50, reason="DiskFull")
        slot = SlotObserved(slot=PREVIEW_1, live=free(PREVIEW_1), lease=lease(1), provisioned_fence=50)
        for recent, renews in (((), True), ((failed,), False)):
            steps = plan(observed(replace(slot, recent_runs=recent), pulls=(pull(1),)))
            assert any(isinstance(step, RenewLease) for step in steps) is renews


class TestARunGoesOn:
    R2 = run(2, 2, colour="b", fallback=1)

    def at(self, state: RunState, **fields: Any) -> tuple[Step, ...]:
        return plan(world(working(replace(self.R2, state=state), **fields)))

    def test_what_is_not_published_is_checked_out(self) -> None:
        assert self.at(RunState.PLANNED, published=False) == (Checkout(slot=MAIN, generation=2, release=sha(2)),)

    def test_a_checkout_that_runs_is_waited_for(self) -> None:
        assert self.at(RunState.PLANNED, published=False, activities=frozenset({"checkout"})) == ()

    def test_without_build_the_gate_begins_at_once(self) -> None:
        assert self.at(RunState.PLANNED) == (
            AdvanceRun(slot=MAIN, generation=2, state=RunState.GATING),
            StartInstance(slot=MAIN, generation=2, colour="b", release=sha(2)),
            StartGate(slot=MAIN, generation=2, release=sha(2)),
        )

    def test_a_build_is_a_job(self) -> None:
        steps = self.at(RunState.PLANNED, recipe=BUILT_APP)
        assert steps[-1] == StartJob(slot=MAIN, generation=2, kind="build", release=sha(2))

    @pytest.mark.parametrize("activity", ["job", "seal"])
    def test_a_job_that_a_thread_prepares_is_waited_for(self, activity: Activity) -> None:
        seen = {"recipe": BUILT_APP, "activities": frozenset({activity}), "processes": (instance(R1),)}
        assert self.at(RunState.BUILDING, **seen) == ()

    def test_a_job_waits_until_that_of_an_earlier_run_is_gone_from_the_folder(self) -> None:
        earlier = process("build-main", 1)
        steps = self.at(RunState.BUILDING, recipe=BUILT_APP, processes=(instance(R1), earlier))
        assert steps == (StopUnit(slot=MAIN, unit="build-main", generation=1),)

    def test_a_build_that_the_host_could_not_prepare_blames_nobody(self) -> None:
        done = process("build-main", 2, state=ProcessState.EXITED, exit_code=JOB_NOT_PREPARED)
        lines = (("build-main", "oroboros: DiskFull: no space left"),)
        steps = self.at(RunState.BUILDING, recipe=BUILT_APP, processes=(instance(R1), done), error_lines=lines)
        end = one_end(steps)
        assert (end.state, end.reason, "DiskFull" in end.message) == (RunState.FAILED, "BuildNotPrepared", True)
        assert not any(isinstance(step, Quarantine) for step in steps)

    def test_a_build_that_ended_well_is_sealed_before_anything_runs_from_it(self) -> None:
        done = process("build-main", 2, state=ProcessState.EXITED, exit_code=0)
        steps = self.at(RunState.BUILDING, recipe=BUILT_APP, processes=(instance(R1), done))
        assert steps == (SealBuild(slot=MAIN, generation=2, release=sha(2)),)

    @pytest.mark.parametrize(("exit_code", "is_blamed"), [(1, True), (-9, True), (-15, False)])
    def test_a_build_that_fails_is_blamed_unless_it_was_stopped_from_outside(
        self, exit_code: int, is_blamed: bool
    ) -> None:
        done = process("build-main", 2, state=ProcessState.EXITED, exit_code=exit_code)
        lines = (("build-main", "make: no rule"),)
        steps = self.at(RunState.BUILDING, recipe=BUILT_APP, processes=(instance(R1), done), error_lines=lines)
        end = one_end(steps)
        assert (end.state, end.reason) == (RunState.FAILED, "BuildFailed")
        assert end.message.endswith("make: no rule")
        assert any(isinstance(step, Quarantine) for step in steps) is is_blamed

    def test_a_passed_gate_switches(self) -> None:
        r2 = replace(self.R2, state=RunState.GATING)
        steps = self.at(
            RunState.GATING, verdicts=(verdict(r2, "gate", Outcome.PASS),), processes=(instance(R1), instance(r2))
        )
        assert Switch(slot=MAIN, generation=2, release=sha(2), colour="b") in steps
        assert StartWatch(slot=MAIN, generation=2, release=sha(2)) in steps

    @pytest.mark.parametrize("state", [RunState.GATING, RunState.SWITCHING])
    def test_a_passed_gate_does_not_switch_to_an_instance_that_is_gone(self, state: RunState) -> None:
        verdicts = (verdict(self.R2, "gate", Outcome.PASS),)
        lost = one_end(self.at(state, verdicts=verdicts))
        assert (lost.state, lost.reason) == (RunState.FAILED, "InstanceLost")
        exited = instance(self.R2, state=ProcessState.EXITED, exit_code=1)
        steps = self.at(state, verdicts=verdicts, processes=(instance(R1), exited))
        assert one_end(steps).reason == "InstanceExited"
        assert any(isinstance(step, Quarantine) for step in steps)

    def test_a_verdict_about_another_release_does_not_count(self) -> None:
        other = verdict(replace(self.R2, release=sha(8)), "gate", Outcome.PASS)
        steps = self.at(RunState.GATING, verdicts=(other,), processes=(instance(R1), instance(self.R2)))
        assert steps == (StartGate(slot=MAIN, generation=2, release=sha(2)),)

    def test_a_failed_gate_quarantines_and_leaves_the_old_release_alone(self) -> None:
        steps = self.at(RunState.GATING, verdicts=(verdict(self.R2, "gate", Outcome.FAIL),))
        assert [type(step) for step in steps] == [Quarantine, EndRun]
        assert one_end(steps).state is RunState.FAILED

    def test_a_gate_that_failed_for_a_part_that_was_away_quarantines_nothing(self) -> None:
        steps = self.at(RunState.GATING, verdicts=(verdict(self.R2, "gate", Outcome.FAIL, blames_release=False),))
        assert [type(step) for step in steps] == [EndRun]

    def test_a_worker_that_died_between_quarantine_and_end_finishes_the_sentence(self) -> None:
        end = one_end(plan(world(working(replace(self.R2, state=RunState.GATING)), bad=2)))
        assert (end.state, end.reason, end.message) == (RunState.FAILED, "GateFailed", "it answered 500")

    def test_an_instance_waits_until_the_one_before_has_drained(self) -> None:
        r0 = run(0, 9, RunState.LIVE, colour="b", switched_s=990)
        slot = working(replace(self.R2, state=RunState.GATING), processes=(instance(R1), instance(r0)))
        slot = replace(slot, recent_runs=(R1, r0))
        seen = world(slot)
        assert plan_slot(desired(seen, slot), seen, slot, now=at(994)) == ()
        assert plan_slot(desired(seen, slot), seen, slot, now=at(996)) == (
            StopUnit(slot=MAIN, unit="main-b", generation=0),
        )

    def test_a_newer_head_supersedes_a_run_and_is_named(self) -> None:
        end = one_end(plan(world(working(replace(self.R2, state=RunState.BUILDING)), 3)))
        assert (end.state, end.successor) == (RunState.SUPERSEDED, sha(3))

    def test_a_run_that_may_have_switched_is_finished_before_it_is_judged(self) -> None:
        r2 = replace(self.R2, state=RunState.SWITCHING)
        steps = plan(world(working(r2, live=live(r2), processes=(instance(R1), instance(r2)), current=sha(2)), 3))
        assert AdvanceRun(slot=MAIN, generation=2, state=RunState.WATCHING) in steps
        assert not any(isinstance(step, Switch | EndRun) for step in steps)

    def test_a_commit_that_killed_the_worker_too_often_stalls(self) -> None:
        r2 = replace(self.R2, attempts=ATTEMPTS_MAX)
        assert not any(isinstance(step, EndRun) for step in plan(world(working(r2))))
        assert one_end(plan(world(working(replace(r2, attempts=ATTEMPTS_MAX + 1))))).state is RunState.STALLED


class TestWhatServesIsLostMeanwhile:
    """A build takes minutes and a freeze days: what serves does not wait for that."""

    AGAIN = StartInstance(slot=MAIN, generation=1, colour="a", release=sha(1))

    def at(self, state: RunState, *processes: ProcessFact, **fields: Any) -> list[Step]:
        slot = working(run(2, 2, state, colour="b"), recipe=BUILT_APP, processes=processes, **fields)
        return [step for step in plan(world(slot)) if isinstance(step, StartInstance | StopUnit)]

    def ended(self, at_s: float) -> ProcessFact:
        return replace(process("main-a", 1, state=ProcessState.EXITED, exit_code=-9), ended_at=at(at_s))

    def test_it_is_started_again_beside_the_run(self) -> None:
        built = process("build-main", 2)
        assert self.at(RunState.BUILDING, built) == [self.AGAIN]
        assert self.at(RunState.PLANNED, published=False) == [self.AGAIN]

    def test_what_ended_is_cleared_away_first_and_not_in_a_circle(self) -> None:
        built = process("build-main", 2)
        assert self.at(RunState.BUILDING, built, self.ended(995)) == []
        assert self.at(RunState.BUILDING, built, self.ended(990)) == [StopUnit(slot=MAIN, unit="main-a", generation=1)]

    def test_where_a_run_waits_for_the_end_of_a_hold_too(self) -> None:
        slot = working(run(2, 2, RunState.BUILDING, colour="b"), recipe=BUILT_APP, build_sealed=True, processes=())
        hold = HoldOrder(id=8, slot=MAIN, fence=0, until=None, actor="ann", reason="the moon", at=at(0))
        assert plan(replace(world(slot), holds=(hold,))) == (self.AGAIN,)

    def test_a_switch_and_what_restores_it_are_not_disturbed(self) -> None:
        assert self.AGAIN not in self.at(RunState.SWITCHING, process("main-b", 2))
        repair = replace(run(2, 1, RunState.GATING, colour="b"), cause=Cause.REPAIR)
        assert self.AGAIN not in plan(world(working(repair, processes=()), number=1))

    def test_what_a_person_stopped_is_not_started(self) -> None:
        slot = working(run(2, 2, RunState.BUILDING, colour="b"), recipe=BUILT_APP, processes=())
        assert self.AGAIN not in plan(replace(world(slot), stops=(stop(),)))


class TestTheWindow:
    R2 = run(2, 2, RunState.WATCHING, colour="b", fallback=1, switched_s=990)

    def watching(self, **fields: Any) -> SlotObserved:
        slot = working(
            self.R2,
            live=live(self.R2),
            live_run=self.R2,
            current=sha(2),
            processes=(instance(R1), instance(self.R2)),
            activities=frozenset({"watch"}),
        )
        return replace(slot, **fields)

    def test_what_it_would_fall_back_to_is_kept_while_it_is_open(self) -> None:
        seen = world(self.watching())
        assert plan_slot(desired(seen, seen.slots[0]), seen, seen.slots[0], now=at(9999)) == ()

    def test_a_passed_window_proves_the_release(self) -> None:
        end = one_end(plan(world(self.watching(verdicts=(verdict(self.R2, "watch", Outcome.PASS),)))))
        assert (end.state, end.proven) == (RunState.LIVE, True)

    def test_a_passed_window_counts_even_if_a_newer_head_is_there(self) -> None:
        end = one_end(plan(world(self.watching(verdicts=(verdict(self.R2, "watch", Outcome.PASS),)), 3)))
        assert end.state is RunState.LIVE

    def test_a_newer_head_ends_an_open_window(self) -> None:
        assert one_end(plan(world(self.watching(), 3))).state is RunState.SUPERSEDED

    def failed(self, **fields: Any) -> tuple[Step, ...]:
        return plan(world(self.watching(verdicts=(verdict(self.R2, "watch", Outcome.FAIL),), **fields)))

    def test_a_failed_window_goes_back_at_once(self) -> None:
        steps = self.failed()
        assert [type(step) for step in steps] == [Quarantine, SwitchBack, EndRun]
        assert one_end(steps).state is RunState.ROLLED_BACK
        end = one_end(steps)
        assert (end.message, end.successor, end.switched_back) == ("it answered 500", sha(1), True)

    def test_going_back_comes_before_a_newer_head(self) -> None:
        slot = self.watching(verdicts=(verdict(self.R2, "watch", Outcome.FAIL),))
        assert any(isinstance(step, SwitchBack) for step in plan(world(slot, 3)))

    def test_when_the_old_instance_is_gone_a_rollback_run_follows(self) -> None:
        steps = self.failed(processes=(instance(self.R2),))
        assert not any(isinstance(step, SwitchBack) for step in steps)
        end = one_end(steps)
        assert (end.message, end.successor, end.switched_back) == ("it answered 500", sha(1), False)
        ended = replace(self.R2, state=RunState.ROLLED_BACK, ended_at=at(999))
        slot = replace(self.watching(), run=None, live_run=ended, recent_runs=(ended, R1))
        begun = one_begin(plan(world(slot, bad=2)))
        assert (begun.head.sha, begun.cause) == (sha(1), Cause.ROLLBACK)

    def test_other_migrations_are_not_gone_back_to(self) -> None:
        steps = self.failed(database_migration_head="new")
        assert not any(isinstance(step, SwitchBack) for step in steps)
        assert one_end(steps).reason == "MigrationsDiffer"

    def test_a_refused_rollback_is_not_tried_as_a_run(self) -> None:
        ended = replace(self.R2, state=RunState.FAILED, reason="MigrationsDiffer", ended_at=at(999))
        slot = replace(self.watching(), run=None, live_run=ended, recent_runs=(ended, R1))
        assert not any(isinstance(step, BeginRun) for step in plan(world(slot, bad=2)))

    def test_what_the_host_lost_is_not_blamed(self) -> None:
        for verdicts in ((), (verdict(self.R2, "watch", Outcome.FAIL),)):
            steps = plan(world(self.watching(processes=(), verdicts=verdicts, activities=frozenset())))
            assert [type(step) for step in steps] == [EndRun]
            assert one_end(steps).reason == "InstanceLost"

    def test_a_dead_worker_leaves_a_window_that_is_watched_again(self) -> None:
        steps = plan(world(self.watching(activities=frozenset())))
        assert steps == (StartWatch(slot=MAIN, generation=2, release=sha(2)),)

    def test_it_never_goes_back_to_what_is_quarantined(self) -> None:
        slot = self.watching(verdicts=(verdict(self.R2, "watch", Outcome.FAIL),))
        assert not any(isinstance(step, SwitchBack) for step in plan(world(slot, bad=1)))

    def test_a_release_that_is_proven_is_not_quarantined_by_its_repair(self) -> None:
        repair = replace(self.R2, head=head(1), release=sha(1), cause=Cause.REPAIR)
        slot = self.watching(run=repair, live=live(repair), live_run=repair)
        slot = replace(slot, verdicts=(verdict(repair, "watch", Outcome.FAIL),), current=sha(1))
        assert [type(step) for step in plan(world(slot, 1))] == [EndRun]


class TestMovedByForceMeanwhile:
    HELD = HeadRefused(reason="ForcePushed", message="held")

    @pytest.mark.parametrize(
        ("cause", "accepted", "goes_on"),
        [(Cause.REVERT, 3, True), (Cause.PUSH, 3, False), (Cause.REVERT, 4, False)],
    )
    def test_a_revert_of_the_last_accepted_head_goes_on(self, cause: Cause, accepted: int, goes_on: bool) -> None:
        slot = working(replace(run(3, 3, RunState.GATING, colour="b"), cause=cause))
        seen = replace(world(slot, 5), head_refused=self.HELD, accepted_head=head(accepted))
        assert any(isinstance(step, EndRun) for step in plan(seen)) != goes_on


class TestOneRollback:
    BAD = run(2, 2, RunState.ROLLED_BACK, colour="b", switched_s=5)

    def after(self, *recent: Run) -> Wanted | Hold | None:
        slot = replace(serving(self.BAD), recent_runs=(*recent, self.BAD, R1))
        return desired(world(slot, bad=2), slot)

    def test_it_is_wanted_while_the_bad_release_serves(self) -> None:
        wanted = self.after()
        assert isinstance(wanted, Wanted)
        assert wanted.cause is Cause.ROLLBACK

    def test_a_failed_one_is_not_repeated(self) -> None:
        failed = run(3, 1, RunState.FAILED, cause=Cause.ROLLBACK)
        assert isinstance(self.after(failed), Hold)

    def test_nor_after_a_repair_of_the_bad_release(self) -> None:
        failed = run(3, 1, RunState.FAILED, cause=Cause.ROLLBACK)
        assert isinstance(self.after(run(4, 2, RunState.FAILED, cause=Cause.REPAIR), failed), Hold)

    def test_nor_when_the_push_is_out_of_sight(self) -> None:
        repairs = tuple(run(20 - k, 2, RunState.FAILED, cause=Cause.REPAIR) for k in range(RECENT_RUNS_MAX))
        slot = replace(serving(self.BAD), recent_runs=repairs)
        assert isinstance(desired(world(slot, bad=2), slot), Hold)

    def test_a_preview_goes_back_too(self) -> None:
        bad = replace(self.BAD, slot=PREVIEW_1, domain=PR1, fence=50)
        seen = observed(
            serving(bad),
            pulls=(pull(1, 2),),
            releases=(release(1), release(2)),
            proven=(proven(1, generation=1, domain=PR1),),
            quarantined=(quarantined(2, domain=PR1),),
        )
        assert one_begin(plan(seen)).cause is Cause.ROLLBACK


class TestMigrations:
    def restoring(self, cause: Cause, *, at_head: str | None, accept: bool = False) -> tuple[Step, ...]:
        of = run(5, 3, content=1, release_of=1, cause=cause, colour="b", migration_head="old")
        slot = working(
            of,
            live=free(),
            live_run=None,
            processes=(),
            recipe=DATABASE_APP,
            database_ready=True,
            wanted_migration_head="old",
            database_migration_head=at_head,
            accept_migrations=accept,
            current=None,
        )
        return plan(
            observed(slot, at_head=head(3, content=1), releases=(release(1),), proven=(proven(1, generation=1),))
        )

    def test_a_revert_across_migrations_is_refused_with_the_reason(self) -> None:
        end = one_end(self.restoring(Cause.REVERT, at_head="new"))
        assert (end.state, end.reason) == (RunState.FAILED, "MigrationsDiffer")

    def test_a_revert_across_migrations_goes_on_when_told_to(self) -> None:
        steps = self.restoring(Cause.REVERT, at_head="new", accept=True)
        assert any(isinstance(step, StartInstance) for step in steps)

    def test_a_repair_is_never_refused_since_it_serves_this_database(self) -> None:
        steps = self.restoring(Cause.REPAIR, at_head="new")
        assert any(isinstance(step, StartInstance) for step in steps)

    def test_a_revert_runs_no_migration(self) -> None:
        steps = self.restoring(Cause.REVERT, at_head="old")
        assert not any(isinstance(step, StartJob) for step in steps)

    def test_a_new_database_is_migrated_even_for_a_proven_release(self) -> None:
        steps = self.restoring(Cause.REVERT, at_head=None)
        assert StartJob(slot=MAIN, generation=5, kind="migrate", release=sha(1)) in steps


class TestOrdersByHand:
    def ordered(self, *, kind: str, at_head: int, head_now: int, bad: int | None = None) -> Observed:
        order = Override(
            id=1,
            slot=MAIN,
            kind="deploy" if kind == "deploy" else "rollback",
            head=head(1),
            ordered_at_head=sha(at_head),
            accept_migrations=False,
            actor="ann",
            reason="told to",
            at=at(0),
        )
        r2 = run(2, 2, RunState.LIVE)
        return replace(world(serving(r2), head_now, bad=bad), overrides=(order,))

    def test_an_order_rules_until_a_later_head(self) -> None:
        begun = one_begin(plan(self.ordered(kind="rollback", at_head=2, head_now=2)))
        assert (begun.head.sha, begun.cause) == (sha(1), Cause.OVERRIDE)

    def test_a_deploy_by_hand_ends_at_the_first_later_head(self) -> None:
        steps = plan(self.ordered(kind="deploy", at_head=2, head_now=3))
        assert steps[0] == EndOverride(slot=MAIN, id=1, reason="a later head takes over")
        assert one_begin(steps).head.sha == sha(3)

    def test_a_rollback_by_hand_outlasts_a_later_head_that_is_quarantined(self) -> None:
        seen = self.ordered(kind="rollback", at_head=2, head_now=3, bad=3)
        assert one_begin(plan(seen)).head.sha == sha(1)

    def test_an_order_lifts_nothing_by_itself_once_its_release_failed_again(self) -> None:
        assert plan(self.ordered(kind="deploy", at_head=2, head_now=2, bad=1)) == ()

    LEFT = replace(quarantined(2), reason="RolledBackByHand")

    def rolling_back(self, state: RunState, kind: Literal["gate", "watch"], left: Quarantined) -> Observed:
        """Release 2 was rolled back by hand to release 1, whose run fails now."""
        r2 = run(2, 2, RunState.LIVE)
        r3 = run(3, 1, state, cause=Cause.OVERRIDE, colour="b", fallback=2, switched_s=990)
        slot = working(
            r3,
            live=live(r3) if state is RunState.WATCHING else live(r2),
            live_run=r3 if state is RunState.WATCHING else r2,
            fallback_run=r2,
            fallback_live=live(r2),
            current=sha(1) if state is RunState.WATCHING else sha(2),
            processes=(instance(r2), instance(r3)),
            verdicts=(verdict(r3, kind, Outcome.FAIL),),
            recent_runs=(r2, R1),
        )
        seen = self.ordered(kind="rollback", at_head=2, head_now=2)
        return replace(seen, slots=(slot,), quarantined=(left,))

    def test_a_rollback_whose_window_fails_goes_back_to_what_it_left(self) -> None:
        steps = plan(self.rolling_back(RunState.WATCHING, "watch", self.LEFT))
        assert [type(step) for step in steps] == [Quarantine, SwitchBack, EndRun]
        assert (steps[0].tree, steps[0].lifts) == (tree(1), tree(2))  # type: ignore[union-attr]
        assert one_end(steps).successor == sha(2)

    def test_a_rollback_whose_gate_fails_leaves_what_serves_as_good_as_before(self) -> None:
        steps = plan(self.rolling_back(RunState.GATING, "gate", self.LEFT))
        assert [type(step) for step in steps] == [Quarantine, EndRun]
        assert steps[0].lifts == tree(2)  # type: ignore[union-attr]

    def test_what_failed_by_itself_is_not_lifted_with_an_order(self) -> None:
        steps = plan(self.rolling_back(RunState.WATCHING, "watch", quarantined(2)))
        assert not any(isinstance(step, SwitchBack) for step in steps)
        assert all(step.lifts is None for step in steps if isinstance(step, Quarantine))


class TestPreviews:
    RUN = run(7, 101, RunState.BUILDING, slot=PREVIEW_1, fence=50)

    def test_a_preview_whose_listing_is_missing_goes_on(self) -> None:
        slot = SlotObserved(slot=PREVIEW_1, live=free(PREVIEW_1), lease=lease(1), provisioned_fence=50, run=self.RUN)
        assert not any(isinstance(step, EndRun) for step in plan(observed(slot)))

    def test_a_run_under_an_older_lease_is_superseded(self) -> None:
        slot = SlotObserved(
            slot=PREVIEW_1, live=free(PREVIEW_1), lease=lease(1, fence=60), provisioned_fence=60, run=self.RUN
        )
        assert one_end(plan(observed(slot, pulls=(pull(1),)))).state is RunState.SUPERSEDED

    def test_closing_during_a_build_ends_the_run_says_free_and_stops_the_job(self) -> None:
        job = process("build-preview-1", 7)
        slot = SlotObserved(slot=PREVIEW_1, live=live(self.RUN), ended_fence=50, processes=(job,), run=self.RUN)
        steps = plan(observed(slot))
        assert [type(step) for step in steps] == [EndRun, FreeSlot, StopUnit]

    @pytest.mark.parametrize("activity", ["wipe", "database", "checkout"])
    def test_the_wipe_waits_for_every_thread_of_the_slot(self, activity: Activity) -> None:
        slot = SlotObserved(slot=PREVIEW_1, live=free(PREVIEW_1), ended_fence=50)
        assert plan(observed(slot)) == (WipeSlot(slot=PREVIEW_1, fence=50),)
        busy = replace(slot, activities=frozenset({activity}))
        assert plan(observed(busy)) == ()

    def test_a_wiped_slot_needs_nothing(self) -> None:
        assert plan(observed(SlotObserved(slot=PREVIEW_1, live=free(PREVIEW_1), ended_fence=50, wiped_fence=50))) == ()


class TestStoppedByHand:
    def test_what_serves_is_stopped_and_stays_named(self) -> None:
        seen = observed(serving(R1), at_head=head(1), stops=(stop(),))

        assert plan(seen) == (StopUnit(slot=MAIN, unit="main-a", generation=1),)

    def test_nothing_is_repaired_and_no_newer_head_begins(self) -> None:
        seen = observed(replace(serving(R1), processes=()), at_head=head(2), stops=(stop(),))

        assert plan(seen) == ()
        assert desired(seen, seen.slots[0]) == Hold(
            slot=MAIN, reason="StoppedByHand", message="stopped by hand by ann: too loud"
        )

    @pytest.mark.parametrize(
        "state",
        [RunState.PLANNED, RunState.BUILDING, RunState.MIGRATING, RunState.GATING, RunState.WATCHING],
    )
    def test_a_run_ends_without_blame(self, state: RunState) -> None:
        slot = working(run(2, 2, state, colour="b"))
        steps = plan(replace(world(slot), stops=(stop(),)))

        ended = one_end(steps)
        assert (ended.state, ended.reason) == (RunState.SUPERSEDED, "StoppedByHand")
        assert not [step for step in steps if isinstance(step, Quarantine)]

    def test_a_window_that_failed_because_of_the_stop_is_not_held_against_the_release(self) -> None:
        watching = run(2, 2, RunState.WATCHING, colour="b", switched_s=10)
        slot = working(watching, live=live(watching), verdicts=(verdict(watching, "watch", Outcome.FAIL),))
        steps = plan(replace(world(slot), stops=(stop(),)))

        assert (one_end(steps).reason, [s for s in steps if isinstance(s, Quarantine | SwitchBack)]) == (
            "StoppedByHand",
            [],
        )

    def test_a_window_that_passed_before_is_a_proof(self) -> None:
        watching = run(2, 2, RunState.WATCHING, colour="b", switched_s=10)
        slot = working(watching, live=live(watching), verdicts=(verdict(watching, "watch", Outcome.PASS),))

        assert one_end(plan(replace(world(slot), stops=(stop(),)))).proven

    def test_a_switch_that_may_have_happened_is_finished_first(self) -> None:
        switching = run(2, 2, RunState.SWITCHING, colour="b")
        slot = working(switching, live=live(switching), processes=(instance(switching),))
        steps = plan(replace(world(slot), stops=(stop(),)))

        assert AdvanceRun(slot=MAIN, generation=2, state=RunState.WATCHING) in steps

    def test_units_that_ended_are_forgotten_too(self) -> None:
        ended = instance(R1, state=ProcessState.EXITED, exit_code=0)
        seen = observed(replace(serving(R1), processes=(ended,)), at_head=head(1), stops=(stop(),))

        assert plan(seen) == (StopUnit(slot=MAIN, unit="main-a", generation=1),)

    def test_it_is_started_again_as_a_repair_once_the_order_has_ended(self) -> None:
        begun = one_begin(plan(observed(replace(serving(R1), processes=()), at_head=head(1))))

        assert (begun.cause, begun.head) == (Cause.REPAIR, head(1))

    def test_a_restart_ends_by_itself_once_nothing_runs(self) -> None:
        again = stop(kind="restart")
        up = observed(serving(R1), at_head=head(1), stops=(again,))
        down = observed(replace(serving(R1), processes=()), at_head=head(1), stops=(again,))

        assert plan(up) == (StopUnit(slot=MAIN, unit="main-a", generation=1),)
        (end,) = plan(down)
        assert isinstance(end, EndOverride)
        assert end.id == again.id

    def test_a_stop_does_not_concern_the_next_tenant(self) -> None:
        r5 = run(5, 101, RunState.LIVE, slot=PREVIEW_1, fence=50)
        old = stop(PREVIEW_1, fence=49)
        seen = observed(serving(r5), pulls=(pull(1),), stops=(old,))

        assert plan(seen) == (EndOverride(slot=PREVIEW_1, id=old.id, reason="the lease ended"),)
        assert isinstance(desired(seen, seen.slots[0]), Wanted)

    def test_an_empty_slot_ends_it_too(self) -> None:
        slot = SlotObserved(slot=PREVIEW_1, live=free(PREVIEW_1), ended_fence=50, wiped_fence=50)
        old = stop(PREVIEW_1, fence=50)

        assert plan(observed(slot, stops=(old,))) == (EndOverride(slot=PREVIEW_1, id=old.id, reason="the lease ended"),)


class TestEnvironment:
    """An app's own values changed since what serves was started."""

    def test_what_serves_is_started_anew_and_proven_like_a_release(self) -> None:
        slot = replace(serving(R1), environment_changed=True)

        (begin,) = plan(world(slot, 1))

        assert isinstance(begin, BeginRun)
        assert (begin.cause, begin.release, begin.colour) == (Cause.REPAIR, R1.release, "b")

    def test_a_new_head_takes_the_new_values_along(self) -> None:
        slot = replace(serving(R1), environment_changed=True)

        (begin,) = plan(world(slot, 2))

        assert isinstance(begin, BeginRun)
        assert begin.head == head(2)
