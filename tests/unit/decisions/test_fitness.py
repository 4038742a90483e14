"""Is the worker fit? One rule a test: what decides about 503, and what is only said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.decisions.fitness import AWAY_AFTER_S, FIT_AGE_S, STUCK_AFTER_S, Fitness, WorkerFacts, judge_fitness
from tests.builders import at

NOW = 10_000.0
FIT = WorkerFacts(started_at=at(0), last_tick_at=at(NOW - 1))


def judged(facts: WorkerFacts, *, poll_interval_s: float = 1.0) -> Fitness:
    return judge_fitness(facts, now=at(NOW), poll_interval_s=poll_interval_s)


def test_a_worker_that_ticks_and_has_all_its_parts_is_fit() -> None:
    assert judged(FIT) == Fitness(status="ok", tick=True, database=True, runtime=True, queue="ok")


@pytest.mark.parametrize("last_tick_at", [None, at(NOW - FIT_AGE_S - 1)])
def test_without_a_young_tick_it_is_unfit(last_tick_at: None) -> None:
    found = judged(replace(FIT, last_tick_at=last_tick_at))
    assert (found.status, found.tick) == ("unfit", False)


def test_a_tick_is_young_for_some_polls() -> None:
    assert judged(replace(FIT, last_tick_at=at(NOW - FIT_AGE_S - 1)), poll_interval_s=FIT_AGE_S).status == "ok"


@pytest.mark.parametrize(
    ("trouble", "database", "runtime", "status"),
    [
        ("DatabaseAway", False, True, "unfit"),
        ("SystemdAway", True, False, "unfit"),
        ("SlotLocked", True, True, "ok"),
    ],
)
def test_a_part_that_stays_away_is_named_and_decides(trouble: str, database: bool, runtime: bool, status: str) -> None:
    away = replace(FIT, trouble=trouble, trouble_since=at(NOW - AWAY_AFTER_S - 1))
    found = judged(away)

    assert (found.database, found.runtime, found.status) == (database, runtime, status)
    assert judged(replace(away, trouble_since=at(NOW - AWAY_AFTER_S + 1))).status == "ok", "it may be on its way up"


def test_a_delivery_that_nobody_works_off_makes_it_unfit() -> None:
    stuck = replace(FIT, oldest_pending_at=at(NOW - STUCK_AFTER_S - 1))

    assert (judged(stuck).queue, judged(stuck).status) == ("stuck", "unfit")
    assert judged(replace(stuck, oldest_pending_at=at(NOW - STUCK_AFTER_S + 1))).status == "ok"
    assert judged(replace(stuck, started_at=at(NOW - 1))).status == "ok", "it was left by a worker before"


def test_an_outage_of_the_forge_or_of_redis_is_said_and_does_not_decide() -> None:
    waiting = replace(FIT, oldest_pending_at=at(NOW - STUCK_AFTER_S - 1), looks_fail=True)

    for facts in (waiting, replace(FIT, hears_bell=False)):
        assert (judged(facts).queue, judged(facts).status) == ("degraded", "degraded")
