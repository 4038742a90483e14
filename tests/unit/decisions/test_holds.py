"""What holds a slot, and until when? Orders by hand, windows of the policy, weeks, clocks that are changed."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decisions.explain import why
from controller.decisions.holds import (
    describe_held,
    freeze_from_json,
    freeze_to_json,
    frozen_until,
    goes_despite,
    held_run,
    judge_held,
)
from controller.decisions.plan import HELD, desired, plan_slot
from controller.decisions.report import project
from controller.model.config import DatedFreeze, Freeze, Policy, Production, WeeklyFreeze
from controller.model.names import MAIN, SlotName, Topology
from controller.model.nouns import HoldOrder, Override, PortFact, Run
from controller.model.states import Cause, Outcome, RunState, StatusState
from controller.model.steps import AdvanceRun, BeginRun, Checkout, EndRun, StartGate, StartInstance, StartJob, Switch
from controller.model.world import Held, Observed, SlotObserved
from tests.builders import (
    BUILT_APP,
    DATABASE_APP,
    PREVIEW_1,
    at,
    head,
    instance,
    live,
    observed,
    process,
    proven,
    release,
    run,
    serving,
    verdict,
)

NOW = at(1000)
ZURICH = ZoneInfo("Europe/Zurich")
WEEKEND = WeeklyFreeze(
    from_minute=(4 * 24 + 16) * 60, until_minute=8 * 60, timezone="Europe/Zurich", reason="nobody is here"
)
R1 = run(1, 1, RunState.LIVE)


def hold(
    *, slot: SlotName = MAIN, fence: int = 0, until: datetime | None = None, by: str = "ann", number: int = 1
) -> HoldOrder:
    return HoldOrder(id=number, slot=slot, fence=fence, until=until, actor=by, reason="the moon", at=at(0))


def wall(text: str) -> datetime:
    return datetime.fromisoformat(text)


def zurich(text: str) -> datetime:
    return wall(text).replace(tzinfo=ZURICH).astimezone(UTC)


def frozen(freeze: Freeze, now: datetime) -> str | None:
    until = frozen_until(freeze, now)
    return None if until is None else f"{until.astimezone(ZoneInfo(freeze.timezone)):%a %Y-%m-%d %H:%M}"


class TestWindows:
    @pytest.mark.parametrize(
        ("now", "until"),
        [
            ("2026-11-27 15:59", None),  # a Friday
            ("2026-11-27 16:00", "Mon 2026-11-30 08:00"),
            ("2026-11-28 00:00", "Mon 2026-11-30 08:00"),
            ("2026-11-29 23:59", "Mon 2026-11-30 08:00"),
            ("2026-11-30 07:59", "Mon 2026-11-30 08:00"),
            ("2026-11-30 08:00", None),
            ("2026-12-02 12:00", None),
        ],
    )
    def test_a_weekly_window_goes_over_midnight_and_over_the_end_of_the_week(self, now: str, until: str | None) -> None:
        assert frozen(WEEKEND, zurich(now)) == until

    def test_a_weekly_window_follows_the_clock_on_the_wall_when_clocks_are_changed(self) -> None:
        begins, ends = zurich("2026-03-27 16:00"), zurich("2026-03-30 08:00")  # an hour is missing on the Sunday

        assert frozen_until(WEEKEND, begins) == ends
        assert ends - begins == timedelta(hours=63)

    def test_a_window_that_ends_in_an_hour_that_comes_twice_ends_with_the_second(self) -> None:
        night = WeeklyFreeze(from_minute=6 * 1440, until_minute=6 * 1440 + 150, timezone="Europe/Zurich", reason="x")
        second_half_past_two = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)

        assert frozen_until(night, second_half_past_two - timedelta(minutes=1)) == second_half_past_two
        assert frozen_until(night, second_half_past_two) is None

    def test_a_window_that_begins_in_an_hour_that_never_comes_is_there(self) -> None:
        night = WeeklyFreeze(
            from_minute=6 * 1440 + 150, until_minute=6 * 1440 + 240, timezone="Europe/Zurich", reason="x"
        )

        assert frozen(night, datetime(2026, 3, 29, 1, 5, tzinfo=UTC)) == "Sun 2026-03-29 04:00"

    def test_a_window_is_kept_as_it_is(self) -> None:
        once = DatedFreeze(
            from_local=wall("2026-12-24 12:00"), until_local=wall("2026-12-27"), timezone="UTC", reason="x"
        )
        for freeze in (WEEKEND, once):
            assert freeze_from_json(json.loads(json.dumps(freeze_to_json(freeze)))) == freeze

    def test_a_dated_window_comes_once(self) -> None:
        feast = DatedFreeze(
            from_local=wall("2026-12-24 12:00"),
            until_local=wall("2026-12-27"),
            timezone="Europe/Zurich",
            reason="x",
        )

        assert frozen(feast, zurich("2026-12-24 11:59")) is None
        assert frozen(feast, zurich("2026-12-24 12:00")) == "Sun 2026-12-27 00:00"
        assert frozen(feast, zurich("2026-12-27 00:00")) is None
        assert frozen(feast, zurich("2027-12-25 00:00")) is None

    @given(
        begins=st.integers(0, 7 * 1440 - 1),
        ends=st.integers(0, 7 * 1440 - 1),
        now=st.datetimes(wall("2024-01-01"), wall("2030-01-01"), timezones=st.just(UTC)),
        zone=st.sampled_from(["UTC", "Europe/Zurich", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"]),
    )
    def test_it_is_frozen_when_the_clock_on_the_wall_is_inside(
        self, begins: int, ends: int, now: datetime, zone: str
    ) -> None:
        if begins == ends:
            return
        freeze = WeeklyFreeze(from_minute=begins, until_minute=ends, timezone=zone, reason="x")
        local = now.astimezone(ZoneInfo(zone))
        minute = (local.weekday() * 24 + local.hour) * 60 + local.minute
        inside = begins <= minute < ends if begins < ends else minute >= begins or minute < ends
        until = frozen_until(freeze, now)

        if inside:
            assert until is not None
        elif until is not None:  # only where clocks were changed within the last hours
            offsets = {(now + timedelta(hours=h)).astimezone(ZoneInfo(zone)).utcoffset() for h in (-26, 0, 26)}
            assert len(offsets) > 1
        assert until is None or now < until <= now + timedelta(days=7, hours=26)


class TestJudging:
    def judge(self, *orders: HoldOrder, freezes: tuple[Freeze, ...] = (), slot: SlotName = MAIN) -> Held | None:
        return judge_held(orders, freezes, slot=slot, fence=0 if slot == MAIN else 50, now=NOW)

    def test_nothing_holds_without_an_order_or_a_window(self) -> None:
        assert self.judge() is None

    def test_an_order_holds_its_own_slot_and_lease_until_its_time(self) -> None:
        assert self.judge(hold(until=at(1001))) == Held(
            reason="HeldByHand", why="the moon", by="ann", until=at(1001), timezone="UTC"
        )
        assert self.judge(hold(until=at(1000))) is None
        assert self.judge(hold(), slot=PREVIEW_1) is None
        assert self.judge(hold(slot=PREVIEW_1, fence=49), slot=PREVIEW_1) is None
        assert self.judge(hold(slot=PREVIEW_1, fence=50), slot=PREVIEW_1) is not None

    def test_a_freeze_is_productions_alone(self) -> None:
        always = DatedFreeze(from_local=wall("2000-01-01"), until_local=wall("2200-01-01"), timezone="UTC", reason="x")
        assert self.judge(freezes=(always,), slot=PREVIEW_1) is None
        assert self.judge(freezes=(always,)) is not None

    def test_what_ends_last_is_told_and_holds_that_follow_on_each_other_are_one(self) -> None:
        short, long = hold(until=at(1010)), hold(until=at(1020), by="bob", number=2)
        next_one = DatedFreeze(
            from_local=at(1020).replace(tzinfo=None),
            until_local=at(1030).replace(tzinfo=None),
            timezone="UTC",
            reason="x",
        )

        found = self.judge(short, long, freezes=(next_one,))
        assert found is not None
        assert (found.by, found.until) == ("bob", at(1030))

    def test_one_order_without_an_end_has_none(self) -> None:
        found = self.judge(hold(until=at(2000)), hold(by="bob", number=2))
        assert found is not None
        assert (found.by, found.until) == ("bob", None)
        assert describe_held(found) == "held: the moon (by bob)"

    def test_windows_that_cover_the_whole_week_have_no_end(self) -> None:
        halves = (
            WeeklyFreeze(from_minute=0, until_minute=4 * 1440, timezone="UTC", reason="x"),
            WeeklyFreeze(from_minute=4 * 1440, until_minute=0, timezone="UTC", reason="x"),
        )
        found = self.judge(freezes=halves)
        assert found is not None
        assert found.until is None

    @given(
        spans=st.lists(st.tuples(st.integers(0, 100), st.integers(1, 50)), max_size=6),
        after_s=st.integers(0, 200),
    )
    def test_at_its_end_nothing_holds_and_before_it_something_does(
        self, spans: list[tuple[int, int]], after_s: int
    ) -> None:
        freezes = tuple(
            DatedFreeze(
                from_local=at(begins).replace(tzinfo=None),
                until_local=at(begins + length).replace(tzinfo=None),
                timezone="UTC",
                reason="x",
            )
            for begins, length in spans
        )
        now = at(after_s)
        held = judge_held((), freezes, slot=MAIN, fence=0, now=now)
        inside = any(begins <= after_s < begins + length for begins, length in spans)
        assert (held is not None) == inside
        if held is not None:
            assert held.until is not None
            assert judge_held((), freezes, slot=MAIN, fence=0, now=held.until) is None
            for second in range(int((held.until - now).total_seconds())):
                assert judge_held((), freezes, slot=MAIN, fence=0, now=now + timedelta(seconds=second)) is not None


def working(of: Run, **fields: Any) -> SlotObserved:
    slot = replace(serving(R1), run=of, fallback_run=R1, fallback_live=live(R1), recent_runs=(R1,))
    return replace(slot, **fields)


def held_world(slot: SlotObserved, *, overrides: tuple[Override, ...] = ()) -> Observed:
    seen = observed(
        slot,
        at_head=head(2),
        releases=(release(1), release(2)),
        proven=(proven(1, generation=1),),
        overrides=overrides,
    )
    return replace(seen, holds=(hold(),))


def plan(seen: Observed) -> tuple[object, ...]:
    slot = seen.slots[0]
    return plan_slot(desired(seen, slot), seen, slot, now=NOW)


def order(*, despite_hold: str) -> Override:
    return Override(
        id=1,
        slot=MAIN,
        kind="deploy",
        head=head(2),
        ordered_at_head=head(2).sha,
        accept_migrations=False,
        actor="ann",
        reason="",
        at=at(0),
        despite_hold=despite_hold,
    )


class TestWhatGoesOn:
    def test_a_run_is_begun_checked_out_and_built(self) -> None:
        assert [type(step) for step in plan(held_world(serving(R1)))] == [BeginRun]
        new = run(2, 2, colour="b")
        assert [type(step) for step in plan(held_world(working(new, published=False)))] == [Checkout]
        steps = plan(held_world(working(new, recipe=BUILT_APP)))
        assert [type(step) for step in steps] == [AdvanceRun, StartJob]

    def test_a_built_run_waits_and_nothing_of_it_is_started(self) -> None:
        assert plan(held_world(working(run(2, 2, colour="b")))) == ()
        building = run(2, 2, RunState.BUILDING, colour="b")
        assert plan(held_world(working(building, recipe=BUILT_APP, build_sealed=True))) == ()

    def test_a_run_does_not_begin_to_migrate_and_one_that_migrates_ends_that(self) -> None:
        migrating = run(2, 2, RunState.MIGRATING, colour="b")
        assert plan(held_world(working(run(2, 2, colour="b"), recipe=DATABASE_APP, database_ready=True))) == ()
        assert plan(held_world(working(migrating, recipe=DATABASE_APP, database_ready=True))) == ()
        runs = (instance(R1), process("migrate-main", 2))
        assert plan(held_world(working(migrating, recipe=DATABASE_APP, processes=runs))) == ()
        done = replace(process("migrate-main", 2), exit_code=0)
        done = replace(done, state=type(done.state)("exited"))
        steps = plan(held_world(working(migrating, recipe=DATABASE_APP, processes=(instance(R1), done))))
        assert steps == (AdvanceRun(slot=MAIN, generation=2, state=RunState.GATING),)

    def test_a_run_at_its_gate_ends_without_blame_and_is_begun_anew(self) -> None:
        gating = run(2, 2, RunState.GATING, colour="b")
        passed = verdict(gating, "gate", Outcome.PASS)
        for fields in (
            {"processes": (instance(R1), instance(gating))},
            {"verdicts": (passed,)},
            {"activities": frozenset({"gate"})},
        ):
            ends = [step for step in plan(held_world(working(gating, **fields))) if isinstance(step, EndRun)]
            assert [(end.state, end.reason) for end in ends] == [(RunState.SUPERSEDED, HELD)]
        ended = run(2, 2, RunState.SUPERSEDED, colour="b", reason=HELD, message="held: the moon (by ann)")
        again = plan(held_world(replace(serving(R1), recent_runs=(ended, R1))))
        assert [type(step) for step in again] == [BeginRun]

    def test_a_gate_that_failed_ends_the_run_as_ever(self) -> None:
        gating = run(2, 2, RunState.GATING, colour="b")
        failed = verdict(gating, "gate", Outcome.FAIL)
        ends = [step for step in plan(held_world(working(gating, verdicts=(failed,)))) if isinstance(step, EndRun)]
        assert [end.state for end in ends] == [RunState.FAILED]

    def test_a_run_that_was_about_to_switch_does_not(self) -> None:
        switching = run(2, 2, RunState.SWITCHING, colour="b")
        slot = working(
            switching,
            verdicts=(verdict(switching, "gate", Outcome.PASS),),
            processes=(instance(R1), instance(switching)),
        )
        steps = plan(held_world(slot))
        assert not any(isinstance(step, Switch) for step in steps)
        assert [step.reason for step in steps if isinstance(step, EndRun)] == [HELD]

    def test_a_window_that_has_begun_goes_on_and_goes_back_if_it_fails(self) -> None:
        watching = run(2, 2, RunState.WATCHING, colour="b", fallback=1, switched_s=990)
        slot = working(
            watching,
            live=live(watching),
            current=watching.release,
            processes=(instance(R1), instance(watching)),
            verdicts=(verdict(watching, "watch", Outcome.FAIL),),
        )
        kinds = [type(step).__name__ for step in plan(held_world(slot))]
        assert kinds == ["Quarantine", "SwitchBack", "EndRun"]

    @pytest.mark.parametrize("cause", [Cause.REPAIR, Cause.ROLLBACK])
    def test_what_restores_what_served_goes_all_the_same(self, cause: Cause) -> None:
        seen = held_world(working(run(2, 2, cause=cause)))
        assert held_run(seen, seen.slots[0], run(2, 2, cause=cause), now=NOW) is None

    def test_an_order_by_hand_waits_unless_it_says_why_it_does_not(self) -> None:
        ordered = run(2, 2, cause=Cause.OVERRIDE, colour="b")
        waits = held_world(working(ordered), overrides=(order(despite_hold=""),))
        assert plan(waits) == ()
        goes = held_world(working(ordered), overrides=(order(despite_hold="it burns"),))
        assert goes_despite(goes, ordered)
        assert [type(step) for step in plan(goes)] == [AdvanceRun, StartInstance, StartGate]

    def test_a_worker_that_is_restarted_while_a_run_waits_does_not_use_up_its_tries(self) -> None:
        ends = [
            step for step in plan(held_world(working(run(2, 2, colour="b", attempts=2)))) if isinstance(step, EndRun)
        ]
        assert [(end.state, end.reason) for end in ends] == [(RunState.SUPERSEDED, HELD)]

    def test_new_values_of_what_serves_wait_too(self) -> None:
        slot = replace(serving(R1), environment_changed=True)
        seen = replace(observed(slot, at_head=head(1), releases=(release(1),)), holds=(hold(),))
        assert plan(seen) == ()
        assert [type(step) for step in plan(replace(seen, holds=()))] == [BeginRun]


class TestWhatIsSaid:
    def said(self, seen: Observed, of: int = 2) -> tuple[StatusState, str]:
        found = project(seen, (), Topology(), now=NOW)
        (one,) = [report for report in found if getattr(report, "sha", None) == head(of).sha]
        return one.state, one.description

    def test_the_waiting_head_says_until_when_why_and_by_whom(self) -> None:
        seen = replace(held_world(working(run(2, 2, colour="b"))), holds=(hold(until=at(86_400)),))
        assert self.said(seen) == (StatusState.PENDING, "held until 2026-03-02 12:00 UTC: the moon (by ann)")

    def test_a_freeze_tells_its_end_in_its_own_time_zone(self) -> None:
        seen = held_world(working(run(2, 2, colour="b")))
        policy = Policy(production=Production(freeze=(replace(WEEKEND, until_minute=10 * 60),)))
        seen = replace(seen, holds=(), policy=policy)  # NOW is a Sunday
        assert self.said(seen)[1] == "held until 2026-03-02 10:00 Europe/Zurich: nobody is here (by policy)"

    def test_a_run_that_was_caught_at_its_gate_still_waits(self) -> None:
        ended = run(2, 2, RunState.SUPERSEDED, colour="b", reason=HELD, message="held: the moon (by ann)")
        seen = held_world(replace(serving(R1), recent_runs=(ended, R1)))
        assert self.said(seen) == (StatusState.PENDING, "held: the moon (by ann)")
        later = replace(seen, production_head=head(3))
        assert self.said(later) == (StatusState.ERROR, f"superseded by {head(3).sha[:7]}")

    def test_an_order_that_goes_despite_a_hold_says_so(self) -> None:
        gating = run(2, 2, RunState.GATING, cause=Cause.OVERRIDE, colour="b")
        seen = held_world(working(gating), overrides=(order(despite_hold="it burns"),))
        assert self.said(seen)[1] == "gating (by hand, despite a hold: ann: it burns)"

    def test_the_plan_says_what_it_waits_for(self) -> None:
        slot = working(run(2, 2, colour="b"))
        held = Held(reason="HeldByHand", why="the moon", by="ann", until=None)
        assert why(None, slot, (), held=held) == f"waits with {head(2).sha[:7]}: held: the moon (by ann)"
        idle = why(desired(held_world(serving(R1)), serving(R1)), serving(R1), (), held=held)
        assert idle.endswith("; held: the moon (by ann)")


class TestTakenPorts:
    OWNER = "python3 (process 7 of bob, session-3.scope)"

    def taken(self, slot: SlotObserved, **more: Any) -> Observed:
        fact = PortFact(what="main web", port=3100, owner=self.OWNER, blocks=(MAIN,))
        return replace(held_world(slot), holds=(), taken_ports=(replace(fact, **more),))

    def test_a_run_waits_while_another_process_has_a_port_of_its_slot(self) -> None:
        assert plan(self.taken(working(run(2, 2, colour="b")))) == ()
        assert plan(self.taken(working(run(2, 2, colour="b")), blocks=())) != ()

    def test_its_commit_says_which_port_and_whose_process(self) -> None:
        said = (StatusState.PENDING, f"waits: port 3100 (main web) is held by {self.OWNER}")
        watched = replace(run(2, 2, RunState.WATCHING, colour="b"), confirmed_at=NOW)
        for one in (run(2, 2, colour="b"), watched):
            assert TestWhatIsSaid().said(self.taken(working(one))) == said
