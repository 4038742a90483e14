"""What should the forge say about each commit? One rule of the projection a test."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.decisions.report import DESCRIPTION_CHARS_MAX, describe, project
from controller.decisions.slots import QueuePlace
from controller.model.config import Permissions, Policy
from controller.model.names import MAIN, Topology, pull_request_domain
from controller.model.nouns import Override, Run
from controller.model.reports import WantedStatus
from controller.model.states import RUN_TERMINAL, Cause, RunState, StatusState
from controller.model.world import DeliveryHint, Observed, SlotObserved
from tests.builders import (
    PREVIEW_1,
    at,
    free,
    head,
    lease,
    observed,
    proven,
    pull,
    quarantined,
    run,
    serving,
    sha,
    stop,
)

TOPOLOGY = Topology()
R1 = run(1, 1, RunState.LIVE, proof="owner")
PRODUCTION = "oroboros/production"
PREVIEW = "oroboros/preview"


def reports(seen: Observed, *queue: QueuePlace) -> dict[tuple[str, str], WantedStatus]:
    said = project(seen, queue, TOPOLOGY, now=at(5000))
    assert len({(report.sha, report.context) for report in said}) == len(said)
    assert all(len(report.description) <= DESCRIPTION_CHARS_MAX for report in said)
    assert project(replace(seen, slots=tuple(reversed(seen.slots))), queue, TOPOLOGY, now=at(9000)) == said
    return {(report.sha, report.context): report for report in said}


def of(seen: Observed, number: int, *queue: QueuePlace, context: str = PRODUCTION) -> tuple[str, str]:
    report = reports(seen, *queue)[sha(number), context]
    return str(report.state), report.description


def with_run(this: Run) -> Observed:
    """Slot main serves release 1, and this run runs or has ended."""
    slot = serving(R1)
    slot = replace(slot, recent_runs=(this, R1)) if this.state in RUN_TERMINAL else replace(slot, run=this)
    return observed(slot, at_head=this.head, proven=(proven(1, generation=1),))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (RunState.PLANNED, "checking out"),
        (RunState.BUILDING, "building"),
        (RunState.MIGRATING, "migrating"),
        (RunState.GATING, "gating"),
        (RunState.SWITCHING, "switching"),
        (RunState.WATCHING, "watching"),
    ],
)
def test_a_running_run_is_pending_in_words(state: RunState, words: str) -> None:
    assert of(with_run(run(2, 2, state)), 2) == ("pending", words)


def test_three_probes_after_the_switch_make_it_live_and_watched() -> None:
    seen = with_run(run(2, 2, RunState.WATCHING, confirmed_s=12))
    assert of(seen, 2) == ("success", "live, watched until 12:00 UTC")
    assert reports(seen)[sha(2), PRODUCTION].target_url == TOPOLOGY.url(MAIN)


def test_a_proven_release_says_since_when_and_how_it_was_proven() -> None:
    assert of(observed(serving(R1), at_head=head(1)), 1) == (
        "success",
        "live since 2026-03-01 12:00 UTC (proof: owner)",
    )


def test_a_revert_names_the_release_that_it_restored() -> None:
    state, text = of(with_run(run(3, 3, RunState.LIVE, content=1, release_of=1)), 3)
    assert (state, text) == ("success", f"restored release {sha(1)[:7]}, live since 2026-03-01 12:00 UTC")


def test_a_head_without_a_run_whose_content_serves_is_live() -> None:
    assert of(observed(serving(R1), at_head=head(9, content=1)), 9) == (
        "success",
        f"live: same content as {sha(1)[:7]}",
    )


def test_a_head_that_must_wait_is_accepted() -> None:
    seen = observed(replace(serving(R1), run=run(2, 2, RunState.SWITCHING)), at_head=head(3))
    assert of(seen, 3) == ("pending", f"accepted; switching {sha(2)[:7]}")


def test_a_failure_gives_reason_and_message() -> None:
    seen = with_run(run(2, 2, RunState.FAILED, reason="GateFailed", message="it answered 500"))
    assert of(seen, 2) == ("failure", "GateFailed: it answered 500")


def test_a_stalled_run_is_an_error() -> None:
    seen = with_run(run(2, 2, RunState.STALLED, reason="WorkerDied", message="three times"))
    assert of(seen, 2) == ("error", "WorkerDied: three times")


class TestRolledBack:
    BAD = run(2, 2, RunState.ROLLED_BACK, reason="WatchFailed", message="it answered 500", successor=1)

    def test_it_names_what_serves_again(self) -> None:
        seen = with_run(replace(self.BAD, switched_back=True))
        assert of(seen, 2) == ("failure", f"rolled back to {sha(1)[:7]}: WatchFailed: it answered 500")

    @pytest.mark.parametrize(
        "written",
        [f"x; rolled back to {sha(7)[:7]}", f"superseded by {sha(7)[:7]}", "; rolling back to ; rolled back to x"],
    )
    def test_what_an_app_writes_changes_nothing_of_what_is_told_of_it(self, written: str) -> None:
        wrote = replace(self.BAD, message=written)
        assert of(with_run(replace(wrote, switched_back=True)), 2)[1].startswith(
            f"rolled back to {sha(1)[:7]}: WatchFailed: {written}"
        )
        failed = run(2, 2, RunState.FAILED, reason="GateFailed", message=written)
        assert of(with_run(failed), 2) == ("failure", f"GateFailed: {written}")

    def test_until_then_it_is_on_its_way(self) -> None:
        slot = replace(serving(self.BAD), recent_runs=(self.BAD, R1))
        seen = observed(slot, at_head=head(2), quarantined=(quarantined(2),))
        assert of(seen, 2) == ("failure", f"rolling back to {sha(1)[:7]}: WatchFailed: it answered 500")

    def test_a_rollback_run_that_serves_ends_it(self) -> None:
        back = run(3, 1, RunState.LIVE, cause=Cause.ROLLBACK)
        slot = replace(serving(back), recent_runs=(back, self.BAD, R1))
        assert of(observed(slot, at_head=head(2)), 2)[1].startswith(f"rolled back to {sha(1)[:7]}: ")

    def test_a_newer_head_that_came_before_it_is_named(self) -> None:
        newer = run(3, 3, RunState.LIVE)
        slot = replace(serving(newer), recent_runs=(newer, self.BAD, R1))
        assert of(observed(slot, at_head=head(3)), 2)[1].startswith(f"failed; {sha(3)[:7]} took over: ")


def test_superseded_before_it_served_is_an_error_that_names_the_newer_one() -> None:
    gone = run(2, 2, RunState.SUPERSEDED, reason="NewerHead", successor=3)
    assert of(with_run(gone), 2) == ("error", f"superseded by {sha(3)[:7]}")


def test_superseded_after_it_was_confirmed_is_a_success() -> None:
    gone = run(2, 2, RunState.SUPERSEDED, reason="NewerHead", successor=3, confirmed_s=9)
    slot = replace(serving(run(3, 3, RunState.WATCHING, switched_s=10)), recent_runs=(gone, R1))
    assert of(observed(slot, at_head=head(3)), 2) == ("success", f"was live; {sha(3)[:7]} took over")


def test_what_a_newer_head_superseded_is_live_until_something_else_serves() -> None:
    gone = run(2, 2, RunState.SUPERSEDED, reason="NewerHead", successor=3, switched_s=5, confirmed_s=9)
    newer = run(3, 3, RunState.BUILDING)
    slot = replace(serving(gone), run=newer, recent_runs=(gone, R1))
    assert of(observed(slot, at_head=head(3)), 2) == ("success", "live")
    failed = run(3, 3, RunState.FAILED, reason="BuildFailed", message="no")
    slot = replace(serving(gone), recent_runs=(failed, gone, R1))
    assert of(observed(slot, at_head=head(3)), 2) == ("success", "live")
    later = run(4, 4, RunState.LIVE, switched_s=30)
    slot = replace(serving(later), recent_runs=(later, failed, gone, R1))
    assert of(observed(slot, at_head=head(4)), 2) == ("success", f"was live; {sha(4)[:7]} took over")


def test_a_proven_release_was_live_once_another_serves() -> None:
    newer = run(2, 2, RunState.LIVE, switched_s=30)
    slot = replace(serving(newer), recent_runs=(newer, R1))
    seen = observed(slot, at_head=head(2))
    assert of(seen, 1) == ("success", f"was live; {sha(2)[:7]} took over")
    assert reports(seen)[sha(1), PRODUCTION].target_url is None


class TestRepair:
    """An app that crashes again and again says it once, not with four statuses each time."""

    WORDS = ("success", "live; started again whenever it is lost")

    @pytest.mark.parametrize("state", [RunState.GATING, RunState.WATCHING, RunState.LIVE])
    def test_of_what_was_proven_it_says_one_sentence_from_beginning_to_end(self, state: RunState) -> None:
        assert of(with_run(run(2, 1, state, cause=Cause.REPAIR)), 1) == self.WORDS

    def test_of_what_was_never_proven_it_says_each_state(self) -> None:
        seen = replace(with_run(run(2, 1, RunState.GATING, cause=Cause.REPAIR)), proven=())
        assert of(seen, 1) == ("pending", "starting again: gating")

    def test_that_failed_is_a_failure_and_the_one_after_it_says_each_state(self) -> None:
        failed = run(2, 1, RunState.FAILED, cause=Cause.REPAIR, reason="NeverBound", message="nothing listens")
        seen = with_run(failed)
        assert of(seen, 1) == ("failure", "NeverBound: nothing listens")
        (slot,) = seen.slots
        again = replace(slot, run=run(3, 1, RunState.GATING, cause=Cause.REPAIR))
        assert of(replace(seen, slots=(again,)), 1) == ("pending", "starting again: gating")
        well = replace(slot, recent_runs=(run(3, 1, RunState.LIVE, cause=Cause.REPAIR), *slot.recent_runs))
        assert of(replace(seen, slots=(well,)), 1)[1].startswith("live since")


def test_a_superseded_repair_takes_nothing_from_a_proven_commit() -> None:
    gone = run(2, 1, RunState.SUPERSEDED, reason="NewerHead", successor=3, cause=Cause.REPAIR)
    assert of(with_run(gone), 1) == ("success", "live")


def test_a_run_that_a_person_stopped_is_an_error_unless_it_had_been_live() -> None:
    def stopped(**fields: float) -> Run:
        message = "stopped by hand by ann: too loud"
        return run(2, 2, RunState.SUPERSEDED, reason="StoppedByHand", message=message, **fields)

    assert of(with_run(stopped()), 2) == ("error", "not deployed: stopped by hand by ann: too loud")
    assert of(with_run(stopped(switched_s=10, confirmed_s=12)), 2) == (
        "success",
        "was live; stopped by hand by ann: too loud",
    )


def test_a_head_that_came_while_a_person_had_stopped_the_slot_waits_and_says_for_whom() -> None:
    seen = observed(serving(R1), at_head=head(2), stops=(stop(),))

    assert of(seen, 2) == ("pending", "accepted; waits: stopped by hand by ann: too loud")


def test_a_quarantined_head_without_a_run_names_the_one_that_failed() -> None:
    seen = observed(serving(R1), at_head=head(9, content=2), quarantined=(quarantined(2),))
    assert of(seen, 9) == (
        "failure",
        f"not deployed: same content failed as {sha(2)[:7]} (GateFailed); to try again: oroboros deploy {sha(9)[:7]}",
    )


def test_a_push_that_was_overtaken_before_anybody_looked_is_superseded() -> None:
    hint = DeliveryHint(seq=1, target="ref:refs/heads/x", sha=sha(2), received_at=at(0), on_production=True)
    seen = replace(observed(serving(R1), at_head=head(1)), hints=(hint,))
    assert of(seen, 2) == ("error", f"superseded by {sha(1)[:7]}")
    foreign = replace(seen, hints=(replace(hint, on_production=False),))
    assert (sha(2), PRODUCTION) not in reports(foreign)
    assert of(replace(seen, hints=(replace(hint, sha=sha(1)),)), 1)[0] == "success"


def test_found_by_resync_is_said() -> None:
    seen = with_run(run(2, 2, RunState.GATING, cause=Cause.RESYNC))
    assert of(seen, 2) == ("pending", "gating (found by resync: no webhook came)")


def test_an_order_by_hand_is_said_with_its_actor_and_reason() -> None:
    order = Override(
        id=1,
        slot=MAIN,
        kind="deploy",
        head=head(2),
        ordered_at_head=sha(1),
        accept_migrations=False,
        actor="ann",
        reason="night shift",
        at=at(0),
    )
    seen = replace(with_run(run(2, 2, RunState.GATING, cause=Cause.OVERRIDE)), overrides=(order,))
    assert of(seen, 2) == ("pending", "gating (by hand: ann: night shift)")


def test_an_invalid_policy_is_an_error_that_names_the_first_key() -> None:
    seen = replace(
        observed(serving(R1), at_head=head(1)),
        policy_problems=("previews.slots: is 99, at most 9", "limits.x: unknown"),
    )
    assert of(seen, 1) == (
        "error",
        "DeployTomlInvalid: previews.slots: is 99, at most 9 (and 1 more); the last valid policy stays",
    )


class TestPreviews:
    HELD = SlotObserved(slot=PREVIEW_1, live=free(PREVIEW_1), lease=lease(12), provisioned_fence=50)

    def test_who_waits_is_told_its_place_and_who_holds_the_slots(self) -> None:
        seen = observed(self.HELD, pulls=(pull(12), pull(13)))
        place = QueuePlace(pull_request=13, position=1)
        assert of(seen, 113, place, context=PREVIEW) == ("pending", "queued, position 1; slots held by #12")

    def test_who_lost_its_slot_to_a_smaller_host_is_told_so(self) -> None:
        seen = replace(observed(self.HELD, pulls=(pull(12), pull(13))), slot_removed=frozenset({13}))
        place = QueuePlace(pull_request=13, position=1)
        text = "queued, position 1; SlotRemoved: this host gets fewer slots; slots held by #12"
        assert of(seen, 113, place, context=PREVIEW) == ("pending", text)

    def test_a_fork_is_told_that_it_needs_approval(self) -> None:
        seen = observed(self.HELD, pulls=(pull(12), pull(13, same_repository=False)))
        text = "needs approval: a fork's code does not run by itself"
        assert of(seen, 113, context=PREVIEW) == ("pending", text)

    def test_a_fork_is_told_nothing_where_forks_never_preview(self) -> None:
        policy = Policy(permissions=Permissions(forks="never"))
        seen = replace(observed(self.HELD, pulls=(pull(12), pull(13, same_repository=False))), policy=policy)
        assert (sha(113), PREVIEW) not in reports(seen)

    def test_a_pull_request_that_git_refuses_says_why(self) -> None:
        refused = replace(pull(13), head=None, refused_reason="ObjectsRefused", refused_message="a tree holds .git")
        seen = observed(self.HELD, pulls=(pull(12), refused))
        assert of(seen, 113, context=PREVIEW) == ("failure", "ObjectsRefused: a tree holds .git")

    def test_a_closed_pull_request_ends_what_was_pending(self) -> None:
        gone = run(7, 101, RunState.SUPERSEDED, slot=PREVIEW_1, fence=40, reason="LeaseEnded", message="ended")
        slot = SlotObserved(slot=PREVIEW_1, live=free(PREVIEW_1), ended_fence=40, recent_runs=(gone,))
        assert of(observed(slot), 101, context=PREVIEW) == ("error", "preview ended: pull request closed")
        moved_on = observed(slot, pulls=(pull(1, 102),))
        assert of(moved_on, 101, context=PREVIEW)[1] == "preview ended: its time was up and others wait"

    def test_a_closed_pull_request_keeps_the_success_of_what_was_live(self) -> None:
        done = run(7, 101, RunState.LIVE, slot=PREVIEW_1, fence=40)
        slot = SlotObserved(slot=PREVIEW_1, live=free(PREVIEW_1), ended_fence=40, recent_runs=(done,))
        assert of(observed(slot), 101, context=PREVIEW)[0] == "success"

    def test_production_and_previews_speak_in_contexts_of_their_own(self) -> None:
        preview = serving(run(7, 1, RunState.LIVE, slot=PREVIEW_1, fence=50, domain=pull_request_domain(1)))
        seen = observed(serving(R1), preview, at_head=head(1), pulls=(pull(1, 1),))
        assert set(reports(seen)) == {(sha(1), PRODUCTION), (sha(1), PREVIEW)}


class TestWhatIsStillPending:
    def pending(self, number: int, context: str) -> WantedStatus:
        return WantedStatus(
            sha=sha(number),
            context=context,
            state=StatusState.PENDING,
            description="queued, position 1",
            target_url=None,
            generation=4,
        )

    def test_a_commit_that_nothing_speaks_for_ends(self) -> None:
        pending = (self.pending(7, PRODUCTION), self.pending(8, PREVIEW))
        seen = replace(observed(serving(R1), at_head=head(1)), open_reports=pending)
        assert of(seen, 7) == ("error", f"superseded by {sha(1)[:7]}")
        assert of(seen, 8, context=PREVIEW)[0] == "error"
        assert reports(seen)[sha(7), PRODUCTION].generation == 4

    def test_an_open_pull_request_and_an_unknown_listing_go_on_waiting(self) -> None:
        seen = replace(observed(serving(R1), at_head=head(1)), open_reports=(self.pending(108, PREVIEW),))
        assert of(replace(seen, pulls=(pull(8),)), 108, context=PREVIEW)[0] == "pending"
        assert of(replace(seen, pulls_listed=False), 108, context=PREVIEW)[0] == "pending"


def test_the_newest_run_of_a_commit_speaks_for_it() -> None:
    older = run(2, 1, RunState.FAILED, reason="DiskFull", message="no space")
    newer = run(4, 1, RunState.GATING)
    seen = observed(replace(serving(R1), run=newer, recent_runs=(older, R1)), at_head=head(1))
    assert reports(seen)[sha(1), PRODUCTION].generation == 4


@pytest.mark.parametrize("detail", ["x" * 500, "\N{SNAKE}" * 500, "é" * 500, "a\x1b[31m\n\u2028b" * 40, ""])
@pytest.mark.parametrize("tail", ["", " (found by resync: no webhook came)", f" (by hand: {'y' * 300})"])
def test_a_description_is_one_line_that_fits_and_keeps_its_reason(detail: str, tail: str) -> None:
    text = describe("MigrationsDiffer", f": {detail}", tail)
    assert len(text.encode("utf-16-le")) // 2 <= DESCRIPTION_CHARS_MAX
    assert text.isprintable()
    assert all(ord(c) <= 0xFFFF for c in text)
    assert text.startswith("MigrationsDiffer")


def test_a_description_spells_what_the_forge_does_not_take_or_nobody_sees() -> None:
    assert describe("Reason", ": \N{BUG} \u26a0\ufe0f\x00\ud800\u3164\U000e0041é") == (
        "Reason: \\U0001f41b \u26a0\\x00\\ud800\\u3164\\U000e0041é"
    )


def test_what_is_cut_ends_with_an_ellipsis() -> None:
    assert describe("Reason", "x" * 200).endswith("x…")
    assert len(describe("Reason", "x" * 200)) == DESCRIPTION_CHARS_MAX
