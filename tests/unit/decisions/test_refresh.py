"""When is it time to look at the forge again?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.decisions.refresh import Hint, Looks, Refresh, is_answered, is_reading_due, plan_refresh
from tests.builders import at

RESYNC_S = 300.0
RESTING = Looks(fetched_at=at(0), listed_at=at(0))
FAILING = replace(RESTING, failures_in_a_row=6, last_failure_at=at(100))


def due(looks: Looks, *hints: Hint, now_s: float) -> Refresh | None:
    return plan_refresh(hints, looks, resync_s=RESYNC_S, now=at(now_s))


def push(armed_s: float) -> Hint:
    return Hint(target="ref:refs/heads/trunk", armed_at=at(armed_s))


def test_nothing_is_looked_at_until_somebody_tells_or_the_resync_is_due() -> None:
    assert due(RESTING, now_s=299) is None
    assert due(RESTING, now_s=300) == Refresh(listing=True, because="resync")


@pytest.mark.parametrize(("target", "listing"), [("ref:refs/heads/trunk", False), ("pull:7", True)])
def test_a_delivery_is_looked_at_at_once_a_pull_request_with_a_listing(target: str, listing: bool) -> None:
    hint = Hint(target=target, armed_at=at(10))

    assert due(RESTING, hint, now_s=10) == Refresh(listing=listing, because="delivery")


def test_a_look_that_somebody_asked_for_since_is_due() -> None:
    asked = replace(RESTING, not_before=at(20))

    assert due(asked, now_s=20) is not None
    assert due(replace(asked, fetched_at=at(21), listed_at=at(21)), now_s=22) is None


def test_failures_in_a_row_grow_the_pause() -> None:
    assert due(FAILING, push(90), now_s=131) is None
    assert due(FAILING, push(90), now_s=132) is not None


def test_what_came_while_the_look_that_failed_was_under_way_does_not_wait() -> None:
    assert due(FAILING, push(101), now_s=102) == Refresh(listing=False, because="delivery")


def test_a_rerun_is_judged_where_comments_are_read_and_until_it_is_done() -> None:
    rested = replace(RESTING, comments_read_at=at(200))
    rerun = Hint(target="rerun:*:ann", armed_at=at(100))
    assert due(rested, rerun, now_s=201) is None
    assert reading(rested, rerun, now_s=201)
    assert not is_answered(rerun, rested)


def comments(armed_s: float) -> Hint:
    return Hint(target="comments:7", armed_at=at(armed_s))


def reading(looks: Looks, *hints: Hint, now_s: float) -> bool:
    return is_reading_due(hints, looks, resync_s=RESYNC_S, now=at(now_s))


READ = replace(RESTING, comments_read_at=at(0))


def test_comments_are_read_at_a_delivery_and_at_the_pace_of_the_resync() -> None:
    assert reading(RESTING, now_s=1)
    assert not reading(READ, now_s=299)
    assert reading(READ, now_s=300)
    assert reading(READ, comments(10), now_s=10)
    assert not reading(READ, push(10), now_s=10)
    assert reading(replace(READ, not_before=at(5)), now_s=6)


def test_a_delivery_about_comments_is_answered_by_reading_them_and_by_nothing_else() -> None:
    assert due(RESTING, comments(10), now_s=10) is None
    assert not is_answered(comments(10), replace(READ, fetched_at=at(20), listed_at=at(20)))
    assert is_answered(comments(10), replace(READ, comments_read_at=at(11)))


def test_reading_that_failed_pauses_longer_and_longer_unless_there_is_news() -> None:
    failing = replace(READ, failures_in_a_row=6, last_failure_at=at(400))
    assert not reading(failing, now_s=431)
    assert reading(failing, now_s=432)
    assert reading(failing, comments(410), now_s=411)


def test_a_look_that_a_limit_failed_is_tried_when_the_limit_ends_and_by_git_before() -> None:
    """The pause has grown to a minute; the forge said when to ask again."""

    def due(seconds: float, *, told_s: float | None) -> bool:
        told = None if told_s is None else at(told_s)
        looks = Looks(
            fetched_at=at(-3_600),
            listed_at=at(-3_600),
            failures_in_a_row=12,
            last_failure_at=at(0),
            told_retry_at=told,
        )
        return plan_refresh([], looks, resync_s=300, now=at(seconds)) is not None

    assert (due(16, told_s=17), due(17, told_s=17)) == (False, True)
    assert (due(59, told_s=3_000), due(60, told_s=3_000)) == (False, True)
    assert (due(59, told_s=None), due(59, told_s=-1)) == (False, False)
