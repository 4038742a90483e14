"""What of a day needs a person, and which rollback is still not cleared?"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from controller.decisions.daily import DayFacts, DiskFact, Unresolved, judge_unresolved, needs_attention
from controller.model.names import MAIN, SlotName, pull_request_domain
from controller.model.nouns import Drift, Override
from tests.builders import at, head, quarantined, sha

NOW = at(0) + timedelta(days=3)
ROLLBACK = Override(
    id=1,
    slot=MAIN,
    kind="rollback",
    head=head(1),
    ordered_at_head=sha(2),
    accept_migrations=False,
    actor="ann",
    reason="prices are wrong",
    at=at(0),
)


def unresolved(**given: object) -> list[tuple[str, int, str]]:
    arguments = {"serves": sha(1), "quarantined": (), "overrides": (), "now": NOW, **given}
    found = judge_unresolved(arguments.pop("head", head(2)), **arguments)  # type: ignore[arg-type]
    return [(one.kind, one.days, one.message) for one in found]


def test_nothing_is_unresolved_while_the_head_may_serve() -> None:
    assert unresolved() == []
    assert unresolved(quarantined=(quarantined(9), quarantined(2, domain=pull_request_domain(1)))) == []


def test_a_head_in_quarantine_is_unresolved_however_old() -> None:
    assert unresolved(quarantined=(quarantined(2),)) == [("head_quarantined", 3, "it answered 500")]


def test_the_same_content_under_another_commit_is_unresolved_too() -> None:
    assert unresolved(head=head(7, content=2), quarantined=(quarantined(2),)) == [
        ("head_quarantined", 3, "it answered 500")
    ]


def test_an_order_to_roll_back_is_unresolved_while_it_is_in_force() -> None:
    assert unresolved(overrides=(ROLLBACK,), head=None) == [
        ("rollback_in_force", 3, "ordered by ann: prices are wrong")
    ]


@pytest.mark.parametrize("change", [{"kind": "deploy"}, {"slot": SlotName("preview-1")}])
def test_another_order_is_not(change: dict[str, object]) -> None:
    assert unresolved(overrides=(replace(ROLLBACK, **change),)) == []  # type: ignore[arg-type]


ONE = Unresolved(
    kind="head_quarantined", head=sha(2), serves=sha(1), since=at(0), days=3, reason="GateFailed", message="500"
)
ROOMY = DiskFact(free_bytes=50, total_bytes=100, free_inodes=50, total_inodes=100)


def drift(handling: str) -> Drift:
    return Drift(reason="CurrentChanged", slot=MAIN, subject="current", message="moved", handling=handling)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (DayFacts(unresolved=(ONE,)), "rollback not cleared for 3 days"),
        (DayFacts(store_away="no answer"), "database is away"),
        (DayFacts(unwell=(("redis", "refused"),)), "redis is not well: refused"),
        (DayFacts(unreadable=(("main", "makes no sense"),)), "main: makes no sense"),
        (DayFacts(stalled_runs=1), "1 runs stalled"),
        (DayFacts(drifts=(drift("held"),)), "held: CurrentChanged: moved"),
        (DayFacts(drifts=(drift("by_hand"),)), "by hand: CurrentChanged"),
        (DayFacts(policy_problems=("previews.slots: no",)), "previews.slots: no"),
        (DayFacts(stalled_reports=2), "2 reports"),
        (DayFacts(dead_deliveries=2), "2 deliveries"),
        (DayFacts(missed=2), "no webhook told"),
        (DayFacts(disk=DiskFact(free_bytes=9, total_bytes=100, free_inodes=50, total_inodes=100)), "nearly full"),
        (DayFacts(disk=DiskFact(free_bytes=50, total_bytes=100, free_inodes=9, total_inodes=100)), "inodes"),
    ],
)
def test_what_is_not_as_it_should_be_is_one_sentence(facts: DayFacts, says: str) -> None:
    (sentence,) = needs_attention(facts)

    assert says in sentence


def test_a_good_day_needs_nobody() -> None:
    # btrfs counts no inodes.
    unlimited = DiskFact(free_bytes=50, total_bytes=100, free_inodes=0, total_inodes=0)

    assert needs_attention(DayFacts(disk=ROOMY, drifts=(drift("heals"),))) == ()
    assert needs_attention(DayFacts(disk=unlimited)) == ()


def test_the_rollback_comes_first() -> None:
    first, *_ = needs_attention(DayFacts(unresolved=(ONE,), unwell=(("redis", "refused"),), missed=1))

    assert first.startswith("rollback")
