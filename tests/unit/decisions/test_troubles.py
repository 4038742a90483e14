"""A failure lasts once a person must be told of it, and it is over when its subject works or nothing tries it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from controller.decisions.fitness import WorkerFacts, judge_fitness
from controller.decisions.health import Answered, Endpoint, judge
from controller.decisions.report import project
from controller.decisions.troubles import AGAIN_WITHIN_S, describe, is_lasting, lasting, note_failure
from controller.model.errors import Failed, OroborosError, Stalled, Unavailable
from controller.model.names import Sha, Topology
from controller.model.nouns import Trouble
from controller.model.states import StatusState
from controller.model.world import Observed

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
AWAY = Unavailable("ForgeUnreachable", "the remote did not answer")
REFUSED = Failed("ObjectsRefused", "git refuses objects of it")


def after(error: OroborosError, *seconds: float, sha: Sha | None = None) -> Trouble:
    """Return what is known after tries at these instants that failed."""
    known = None
    for second in seconds:
        at = NOW + timedelta(seconds=second)
        known = note_failure(known, "fetch", error, now=at, again_at=None, sha=sha)
    assert known is not None
    return known


@pytest.mark.parametrize(
    ("error", "tries", "lasts"),
    [
        (AWAY, (0,), False),
        (AWAY, (0, 1, 3, 7, 15, 31), False),
        (AWAY, (0, 61), False),
        (AWAY, (0, 1, 61), True),
        (REFUSED, (0,), False),
        (REFUSED, (0, 1), True),
        (Stalled("RepositoryReplaced", "another one"), (0, 1), True),
    ],
)
def test_what_time_may_end_lasts_after_a_minute_and_what_it_does_not_at_once(
    error: OroborosError, tries: tuple[float, ...], lasts: bool
) -> None:
    trouble = after(error, *tries)
    assert is_lasting(trouble, now=trouble.last_at) is lasts
    assert trouble.since == NOW


def test_what_nothing_tries_any_more_is_over_and_what_said_when_it_is_tried_again_is_not() -> None:
    trouble = after(REFUSED, 0, 1)
    assert is_lasting(trouble, now=trouble.last_at + timedelta(seconds=AGAIN_WITHIN_S))
    assert not is_lasting(trouble, now=trouble.last_at + timedelta(seconds=AGAIN_WITHIN_S + 1))
    later = NOW + timedelta(hours=1)
    told = after(Unavailable("ForgeRateLimited", "wait", retry_at=later), 0, 30, 90)
    assert is_lasting(told, now=later)


def test_the_oldest_comes_first_with_its_reason_and_since_when() -> None:
    old, new = after(REFUSED, 0, 1), after(AWAY, 100, 120, 170)
    assert lasting([new, old], now=NOW + timedelta(seconds=170)) == (old, new)
    assert (
        describe(old) == "fetch fails since 2026-03-01 12:00 UTC (2 tries): ObjectsRefused: git refuses objects of it"
    )


def test_the_head_that_is_kept_back_says_why() -> None:
    sha = Sha("a" * 40)
    observed = Observed(troubles=(after(REFUSED, 0, 1, sha=sha), after(AWAY, 0, 1, 61)))
    (status,) = project(observed, (), Topology(), now=NOW)
    assert (status.sha, status.state) == (sha, StatusState.ERROR)
    said = "ObjectsRefused: fetch fails since 2026-03-01 12:00 UTC: git refuses objects of it"
    assert status.description == said


def test_a_worker_with_a_failure_that_lasts_is_degraded_and_not_well() -> None:
    trouble = after(REFUSED, 0, 1)
    facts = WorkerFacts(started_at=NOW, last_tick_at=NOW, troubles=(trouble,))
    assert judge_fitness(facts, now=NOW, poll_interval_s=5).status == "degraded"
    worker = Endpoint(service="worker", unit="ouroboros-worker.service", kind="http", address="127.0.0.1:1")
    body = f'{{"status": "degraded", "troubles": ["{describe(trouble)}"]}}'
    found = judge(worker, Answered(status=200, said=body), took_ms=1)
    assert (found.ok, found.said[:50]) == (False, describe(trouble)[:50])
    bare = judge(worker, Answered(status=200, said='{"status": "degraded"}'), took_ms=1)
    assert (bare.ok, bare.said) == (True, "degraded")
