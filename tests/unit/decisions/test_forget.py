"""Which ended runs may be forgotten? One rule that keeps a run a test."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from controller.decisions.forget import EndedRun, Needed, select_forgettable, select_spent_quarantines
from controller.model.config import Retention
from controller.model.names import MAIN, PRODUCTION, Domain
from controller.model.states import RunState
from controller.model.world import Observed
from tests.builders import PREVIEW_1, START_AT, head, observed, proven, pull, quarantined, release, run, serving, sha

NOW = START_AT + timedelta(days=1000)
RETENTION = Retention(runs_days=90, runs_keep=20)
#: Older and with a smaller number than the twenty that are kept of each slot.
OLD = EndedRun(
    generation=5, slot=MAIN, domain=PRODUCTION, fence=0, sha=sha(5), release=sha(5), ended_at=NOW - timedelta(days=91)
)
NEWER = tuple(replace(OLD, generation=100 + k, sha=sha(99), release=sha(99)) for k in range(20))
PREVIEW = replace(OLD, slot=PREVIEW_1, domain=Domain("pr-1"), fence=3)
NEWER_PREVIEWS = tuple(replace(PREVIEW, generation=200 + k) for k in range(20))
WIPED = Needed(wiped=((PREVIEW_1, 3),))


def forgotten(*runs: EndedRun, needed: Needed = WIPED) -> tuple[int, ...]:
    return select_forgettable((*runs, *NEWER, *NEWER_PREVIEWS), needed, retention=RETENTION, now=NOW)


def test_an_old_run_that_nothing_needs_goes_the_oldest_first() -> None:
    assert forgotten(replace(OLD, generation=6), OLD, replace(PREVIEW, generation=4)) == (4, 5, 6)


def test_a_young_run_stays() -> None:
    assert forgotten(replace(OLD, ended_at=NOW - timedelta(days=89))) == ()


def test_the_newest_of_a_slot_stay_however_old() -> None:
    assert select_forgettable(NEWER, Needed(), retention=RETENTION, now=NOW) == ()


@pytest.mark.parametrize(
    ("run", "needed"),
    [
        (OLD, replace(WIPED, generations=frozenset({5}))),
        (OLD, replace(WIPED, fallbacks=frozenset({5}))),
        (OLD, replace(WIPED, unreadable=frozenset({MAIN}))),
        (OLD, replace(WIPED, ordered=frozenset({sha(5)}))),
        (replace(OLD, proven=True), replace(WIPED, releases=frozenset({sha(5)}))),
        (replace(OLD, migrated=True), WIPED),
        (PREVIEW, Needed(wiped=((PREVIEW_1, 2),))),
        (PREVIEW, Needed()),
    ],
)
def test_what_is_needed_stays(run: EndedRun, needed: Needed) -> None:
    assert 5 not in forgotten(run, needed=needed)


def test_what_serves_keeps_what_it_would_fall_back_to() -> None:
    serves = replace(OLD, generation=6, fallback=5)

    assert forgotten(OLD, serves, needed=replace(WIPED, generations=frozenset({6}))) == ()


@pytest.mark.parametrize(
    "newer",
    [
        replace(OLD, generation=8, proven=True, release=sha(5)),
        replace(OLD, generation=8, migrated=True),
    ],
)
def test_an_older_proof_or_migration_goes_where_there_is_a_newer(newer: EndedRun) -> None:
    older = replace(newer, generation=5)

    assert forgotten(older, newer, needed=replace(WIPED, releases=frozenset({sha(5)}))) == (5,)


def test_a_proof_in_another_domain_is_another_proof() -> None:
    production = replace(OLD, proven=True, generation=8)
    preview = replace(PREVIEW, proven=True, generation=5)

    assert forgotten(production, preview, needed=replace(WIPED, releases=frozenset({sha(5)}))) == ()


def test_the_proof_of_a_release_that_is_gone_goes() -> None:
    assert forgotten(replace(OLD, proven=True)) == (5,)


def known_of(**fields: object) -> Observed:
    seen = observed(serving(run(5, 5, RunState.LIVE)), at_head=head(5), quarantined=(quarantined(9),))
    return replace(seen, **fields)  # type: ignore[arg-type]


def test_an_old_quarantine_that_nothing_could_ask_about_is_forgotten() -> None:
    assert select_spent_quarantines(known_of(), before=NOW) == (quarantined(9),)
    assert select_spent_quarantines(known_of(), before=START_AT) == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"production_head": head(9)},
        {"accepted_head": head(9)},
        {"pulls": (replace(pull(1), head=head(9)),)},
        {"releases": (release(9),)},
        {"proven": (proven(9, generation=1),)},
        {"slots": (serving(run(5, 9, RunState.LIVE)),)},
        {"slots": (replace(serving(run(5, 5, RunState.LIVE)), recent_runs=(run(4, 9, RunState.FAILED),)),)},
        {"pulls_listed": False},
        {"production_head": None},
    ],
)
def test_a_quarantine_that_a_plan_may_ask_about_stays_however_old(fields: dict[str, object]) -> None:
    assert select_spent_quarantines(known_of(**fields), before=NOW) == ()
