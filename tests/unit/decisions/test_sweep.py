"""Is what the forge could not hand over asked for again, a few times, and nothing else?"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controller.decisions.github.app import LoggedDelivery
from controller.decisions.github.sweep import (
    ASK_PAUSE_S,
    ASKS_AT_ONCE,
    ASKS_MAX,
    LOG_KEPT,
    OVERLAP,
    UNANSWERED_S,
    Missed,
    Sweep,
    plan_sweep,
    sweep_since,
)

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def attempt(number: int, guid: str, status_code: int, *, minutes_ago: float = 5, **changed: Any) -> LoggedDelivery:
    fields: dict[str, Any] = {
        "id": number,
        "guid": guid,
        "event": "push",
        "status_code": status_code,
        "delivered_at": NOW - timedelta(minutes=minutes_ago),
        "redelivery": False,
        "repository_id": 7,
    }
    return LoggedDelivery(**{**fields, **changed})


def missed(guid: str, **changed: Any) -> Missed:
    fields: dict[str, Any] = {
        "guid": guid,
        "attempt_id": 1,
        "event": "push",
        "status_code": 502,
        "delivered_at": NOW - timedelta(minutes=5),
    }
    return Missed(**{**fields, **changed})


def plan(log: list[LoggedDelivery], *known: Missed, now: datetime = NOW) -> Sweep:
    return plan_sweep(log, known, repository_id=7, now=now)


def test_t_g2_what_no_attempt_handed_over_is_asked_for_by_its_newest_attempt() -> None:
    found = plan([attempt(1, "a", 502), attempt(2, "b", 202), attempt(3, "a", 503, minutes_ago=2)])
    assert [(one.guid, one.attempt_id, one.status_code) for one in found.ask] == [("a", 3, 503)]
    assert found.missed == found.ask
    assert found.taken == ()


def test_t_g3_what_one_attempt_handed_over_is_not_missed_whatever_became_of_the_others() -> None:
    assert plan([attempt(1, "a", 202), attempt(2, "a", 502, minutes_ago=1)]) == Sweep(missed=(), taken=(), ask=())
    found = plan([attempt(2, "a", 202, minutes_ago=1)], missed("a", asked_count=1))
    assert (found.missed, found.taken, found.ask) == ((), ("a",), ())


@pytest.mark.parametrize("status_code", [0, 400, 405, 413, 415])
def test_what_has_no_answer_yet_and_what_was_refused_as_no_delivery_is_not_asked_for(status_code: int) -> None:
    assert plan([attempt(1, "a", status_code, minutes_ago=1)]).missed == ()


def test_what_has_no_answer_for_long_is_asked_for() -> None:
    late = UNANSWERED_S / 60
    assert plan([attempt(1, "a", 0, minutes_ago=late - 1)]).missed == ()
    assert len(plan([attempt(1, "a", 0, minutes_ago=late)]).ask) == 1


@pytest.mark.parametrize("status_code", [401, 403, 404, 408, 429, 500, 502, 503, 504])
def test_what_may_be_taken_the_next_time_is_asked_for(status_code: int) -> None:
    assert len(plan([attempt(1, "a", status_code)]).ask) == 1


def test_it_is_asked_for_at_growing_pauses_a_few_times_and_then_stays_as_an_alarm() -> None:
    known, now, pauses = missed("a"), NOW, []
    asked_at = None
    while not known.is_given_up:
        due = plan([], known, now=now).ask
        if not due:
            now += timedelta(seconds=ASK_PAUSE_S / 2)
            continue
        if asked_at is not None:
            pauses.append((now - asked_at).total_seconds())
        asked_at = now
        known = missed("a", asked_count=known.asked_count + 1, asked_at=now)
    assert pauses == [ASK_PAUSE_S * 2**n for n in range(ASKS_MAX - 1)]
    found = plan([], known, now=now + timedelta(hours=5))
    assert (found.missed, found.ask) == ((known,), ())


def test_what_the_forge_has_forgotten_is_let_go() -> None:
    assert plan([], missed("a", delivered_at=NOW - LOG_KEPT)).missed == ()


def test_another_repository_of_the_same_app_is_not_ours() -> None:
    assert plan([attempt(1, "a", 502, repository_id=8)]).missed == ()
    assert len(plan([attempt(1, "a", 502, repository_id=None)]).missed) == 1
    assert len(plan_sweep([attempt(1, "a", 502, repository_id=8)], (), repository_id=None, now=NOW).missed) == 1


def test_the_oldest_come_first_and_not_too_many_at_once() -> None:
    log = [attempt(n, f"{n:03}", 502, minutes_ago=n) for n in range(1, 100)]
    found = plan(log)
    assert [one.attempt_id for one in found.ask] == list(range(99, 99 - ASKS_AT_ONCE, -1))
    assert len(found.missed) == 99


def test_a_sweep_reads_back_to_before_the_last_whole_one_and_never_beyond_the_log() -> None:
    assert sweep_since(None, now=NOW) == NOW - LOG_KEPT
    assert sweep_since(NOW - timedelta(hours=1), now=NOW) == NOW - timedelta(hours=1) - OVERLAP
    assert sweep_since(NOW - timedelta(days=9), now=NOW) == NOW - LOG_KEPT
