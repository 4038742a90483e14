"""A release of Oroboros itself is switched to by a judge, and only what the judge found goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.decisions.plan import desired, plan_slot
from controller.doors.judge import RESTARTS_MAX, Seen, gives_up, judge_parts
from controller.model.config import Recipe, Web
from controller.model.nouns import Verdict
from controller.model.states import Outcome, RunState
from controller.model.steps import AdvanceRun, EndRun, HandOver, Quarantine, StartWatch, Step
from controller.model.world import SlotObserved
from tests.builders import at, head, live, observed, release, run, serving, sha, verdict

WEB_ONLY = Recipe(web=Web(static="infra/web"))
OLD = run(1, 1, RunState.LIVE, colour=None)
NEW = run(2, 2, RunState.SWITCHING, colour=None, fallback=1)


def slot(*, switched: bool, judged: Verdict | None = None) -> SlotObserved:
    """Production with a gated run of a release of ours."""
    serves = live(NEW if switched else OLD)
    return replace(
        serving(OLD),
        live=replace(serves, address=None, static_root="/x"),
        current=serves.release,
        run=NEW,
        verdicts=(verdict(NEW, "gate", Outcome.PASS), *((judged,) if judged is not None else ())),
        recipe=WEB_ONLY,
        deploys_itself=True,
    )


def plan(of: SlotObserved) -> tuple[Step, ...]:
    world = observed(of, at_head=head(2), releases=(release(1), release(2)))
    return plan_slot(desired(world, of), world, of, now=at(5))


def test_a_gated_release_is_handed_to_the_judge_and_nothing_is_switched_here() -> None:
    assert plan(slot(switched=False)) == (HandOver(slot=NEW.slot, generation=2, release=sha(2), colour=None),)


def test_nothing_is_concluded_while_the_judge_looks() -> None:
    assert plan(slot(switched=True)) == ()


def test_what_the_judge_passed_is_watched_as_any_release() -> None:
    steps = plan(slot(switched=True, judged=verdict(NEW, "judge", Outcome.PASS)))

    assert [type(step) for step in steps] == [AdvanceRun, StartWatch]


def test_what_the_judge_took_back_is_quarantined_and_not_handed_over_again() -> None:
    steps = plan(slot(switched=False, judged=verdict(NEW, "judge", Outcome.FAIL)))

    assert [type(step) for step in steps] == [Quarantine, EndRun]


def test_a_release_whose_requirements_are_missing_is_not_blamed() -> None:
    judged = verdict(NEW, "judge", Outcome.FAIL, blames_release=False)

    assert [type(step) for step in plan(slot(switched=False, judged=judged))] == [EndRun]


def test_the_judgement_of_an_older_run_counts_for_nothing() -> None:
    of_another = replace(verdict(NEW, "judge", Outcome.PASS), generation=1)

    assert plan(slot(switched=True, judged=of_another)) == ()


WELL = Seen(answers=True, is_well=True, release=sha(2), ticks=1)


@pytest.mark.parametrize(
    ("api", "worker", "said"),
    [
        (WELL, WELL, ""),
        (Seen(answers=False), WELL, "the api does not answer"),
        (WELL, Seen(answers=False), "the worker does not answer"),
        (replace(WELL, release=sha(1)), WELL, f"the api runs {sha(1)[:12]}, not {sha(2)[:12]}"),
        (WELL, replace(WELL, release=None), f"the worker runs what was installed, not {sha(2)[:12]}"),
        (WELL, replace(WELL, ticks=0), "the worker has finished no tick"),
        (WELL, replace(WELL, is_well=False), "the worker says that it is not fit"),
        (replace(WELL, is_well=False), WELL, "the api says that it is not fit"),
    ],
)
def test_both_parts_must_answer_from_the_new_release_and_the_worker_must_have_ticked(
    api: Seen, worker: Seen, said: str
) -> None:
    assert judge_parts(api, worker, release=sha(2)) == said


def test_parts_that_end_again_and_again_are_not_waited_for() -> None:
    assert gives_up("the worker does not answer", RESTARTS_MAX - 1) == ""
    assert gives_up("the worker does not answer", RESTARTS_MAX).startswith("the worker does not answer, and systemd")
    assert gives_up("", RESTARTS_MAX) == ""
