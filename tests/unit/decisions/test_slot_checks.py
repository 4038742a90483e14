"""When does a slot contradict itself, and what only looks like it?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.decisions.health import Answered
from controller.decisions.integrity import DatabaseFact, Finding, LeaseFact, SlotFacts
from controller.decisions.slot_checks import Asked, SlotSeen, check_slot, confirmed
from controller.model.states import ProcessState, RunState
from tests.builders import PREVIEW_1, at, free, instance, live, run, sha

R5 = run(5, 1, RunState.LIVE, slot=PREVIEW_1, fence=3)
LEASE = LeaseFact(fence=3, slot=PREVIEW_1, pull_request=7, claimed_at=at(0))


def says(state: str = "live", release: str | None = sha(1), *, slot: str = "preview-1", healthy: bool = True) -> str:
    shown = "null" if release is None else f'"{release}"'
    return f'{{"slot": "{slot}", "state": "{state}", "release": {shown}, "healthy": {str(healthy).lower()}}}'


def asked(*answers: Answered) -> tuple[Asked, ...]:
    names = ("web port", "backend port", "edge host")
    return tuple(Asked(aspect=name, address="127.0.0.1:1", answered=a) for name, a in zip(names, answers, strict=True))


GOOD = Answered(status=200, said=says())
DOWN = Answered(status=503, said=says(healthy=False))
SERVING = SlotSeen(
    facts=SlotFacts(
        slot=PREVIEW_1,
        provisioned_fence=3,
        lease=LEASE,
        live=live(R5),
        processes=(instance(R5),),
        database=DatabaseFact(slot=PREVIEW_1, database=True, role=True, made_for=3),
    ),
    asked=asked(GOOD, GOOD, GOOD),
    wants_database=True,
)
EMPTY = SlotSeen(
    facts=SlotFacts(slot=PREVIEW_1, live=free(PREVIEW_1), database=DatabaseFact(slot=PREVIEW_1)),
    asked=asked(*[Answered(status=200, said=says("free", None))] * 3),
)
NO_INSTANCE = replace(SERVING, facts=replace(SERVING.facts, processes=()))


def problems(seen: SlotSeen, *findings: Finding) -> dict[str, str]:
    return {aspect.aspect: aspect.problem for aspect in check_slot(seen, findings).aspects if aspect.problem}


def test_every_aspect_is_told_of_a_slot_that_serves() -> None:
    found = {one.aspect: (one.expected, one.observed) for one in check_slot(SERVING, ()).aspects}

    assert found == {
        "lease": ("one pull request, or nobody", "#7, lease 3"),
        "serves": ("a release of lease 3, once one is live", "live 0000001 for lease 3"),
        "web port": ("live 0000001", "127.0.0.1:1: 200 live 0000001"),
        "backend port": ("live 0000001", "127.0.0.1:1: 200 live 0000001"),
        "edge host": ("live 0000001", "127.0.0.1:1: 200 live 0000001"),
        "unit": (
            "ouroboros-instance@preview1-a.service of run 5",
            "ouroboros-instance@preview1-a.service of run 5",
        ),
        "database": ("preview_1", "preview_1, its role"),
    }
    assert check_slot(SERVING, ()).ok


@pytest.mark.parametrize(
    "seen",
    [
        EMPTY,
        replace(NO_INSTANCE, has_run=True, asked=asked(DOWN, DOWN, DOWN)),
        replace(NO_INSTANCE, stopped=True, asked=asked(DOWN, DOWN, DOWN)),
        replace(SERVING, wants_database=None),
        replace(EMPTY, facts=replace(EMPTY.facts, lease=LEASE, provisioned_fence=3)),
    ],
    ids=["free", "being started", "stopped by hand", "recipe unknown", "leased and not live yet"],
)
def test_what_only_looks_like_a_contradiction(seen: SlotSeen) -> None:
    assert problems(seen) == {}


@pytest.mark.parametrize(
    ("seen", "aspect", "problem"),
    [
        (replace(SERVING, asked=asked(Answered(problem="nobody listens"), GOOD, GOOD)), "web port", "nobody listens"),
        (
            replace(SERVING, asked=asked(GOOD, Answered(status=200, said="hello"), GOOD)),
            "backend port",
            "another program answers 200",
        ),
        (
            replace(SERVING, asked=asked(GOOD, GOOD, Answered(status=200, said=says(slot="preview-2")))),
            "edge host",
            "preview-2 answers there",
        ),
        (
            replace(SERVING, asked=asked(Answered(status=200, said=says(release=sha(9))), GOOD, GOOD)),
            "web port",
            "says live 0000009",
        ),
        (
            replace(SERVING, asked=asked(Answered(status=200, said=says("free", None)), GOOD, GOOD)),
            "web port",
            "says free",
        ),
        (replace(SERVING, asked=asked(DOWN, GOOD, GOOD)), "web port", "is not healthy"),
        (NO_INSTANCE, "unit", "what serves does not run"),
        (
            replace(
                SERVING,
                facts=replace(SERVING.facts, processes=(instance(R5, state=ProcessState.EXITED, exit_code=1),)),
            ),
            "unit",
            "what serves does not run",
        ),
        (
            replace(SERVING, stopped=True),
            "unit",
            "runs, though it is stopped by hand: ouroboros-instance@preview1-a.service of run 5",
        ),
        (replace(SERVING, release_there=False), "serves", "the release that serves is not on the disk"),
        (
            replace(SERVING, facts=replace(SERVING.facts, database=DatabaseFact(slot=PREVIEW_1))),
            "database",
            "the recipe of what serves asks for it",
        ),
    ],
)
def test_a_contradiction_is_named_where_it_is(seen: SlotSeen, aspect: str, problem: str) -> None:
    assert problems(seen) == {aspect: problem}


@pytest.mark.parametrize(
    ("reason", "aspect"),
    [("LiveOfOtherLease", "serves"), ("DatabaseOfOtherLease", "database"), ("WipeNeverFinished", "lease")],
)
def test_what_the_audit_finds_is_shown_where_it_belongs(reason: str, aspect: str) -> None:
    finding = Finding(slot=PREVIEW_1, reason=reason, message="so it is")

    assert problems(SERVING, finding) == {aspect: f"{reason}: so it is"}


def test_what_was_seen_once_was_a_moment() -> None:
    bad = [check_slot(NO_INSTANCE, ())]
    good = [check_slot(SERVING, ())]

    assert confirmed(good, bad)[0].ok
    assert confirmed(bad, good)[0].ok
    assert not confirmed(bad, bad)[0].ok


def test_what_a_stranger_answers_is_shown_bounded() -> None:
    hostile = Answered(status=200, said=says(slot="x" * 9_000, release="y" * 9_000))

    for aspect in check_slot(replace(SERVING, asked=asked(hostile, GOOD, GOOD)), ()).aspects:
        assert len(aspect.observed) <= 160
        assert len(aspect.problem) <= 160
