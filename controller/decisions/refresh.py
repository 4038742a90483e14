"""Is it time to look at the forge again, and at what? Deliveries are hints, and a slow resync repeats every hint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from controller.model.nouns import RERUN_TARGET

#: After a look that failed.
RETRY_BASE_S = 1.0
RETRY_CAP_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """A pending delivery, as far as this decision cares."""

    target: str
    armed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """When the last good looks at the forge began, and how the looks since went."""

    fetched_at: datetime | None
    listed_at: datetime | None
    #: When the last good reading of comments began.
    comments_read_at: datetime | None = None
    failures_in_a_row: int = 0
    #: When the last one that failed began.
    last_failure_at: datetime | None = None
    #: When the forge is to be asked again, by its own word in that failure: a limit ends then.
    told_retry_at: datetime | None = None
    #: Looks that began before this instant missed something: the worker or the receiver was down meanwhile, or
    #: somebody asked for a new one.
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refresh:
    """What the next look does. A listing is always followed by a fetch, so that heads are never older than it."""

    listing: bool
    because: str


def is_answered(hint: Hint, looks: Looks) -> bool:
    """Say whether a look that began after the hint came has seen its target."""
    if hint.target.startswith(RERUN_TARGET):
        return False  # it is done once it was judged, and then no hint any more
    if is_from_people(hint):
        return looks.comments_read_at is not None and looks.comments_read_at > hint.armed_at
    if looks.fetched_at is None or looks.fetched_at <= hint.armed_at:
        return False
    if not hint.target.startswith("pull:"):
        return True
    return looks.listed_at is not None and looks.listed_at > hint.armed_at


def plan_refresh(hints: Sequence[Hint], looks: Looks, *, resync_s: float, now: datetime) -> Refresh | None:
    """Return the look that is due now, or None."""
    hints = [hint for hint in hints if not is_from_people(hint)]
    if _pauses(hints, looks, now=now):
        return None
    if looks.listed_at is None or looks.fetched_at is None:
        return Refresh(listing=True, because="first look")
    oldest = min(looks.listed_at, looks.fetched_at)
    if looks.not_before is not None and oldest < looks.not_before:
        return Refresh(listing=True, because="a part of ours was away, or somebody asked")
    if now >= oldest + timedelta(seconds=resync_s):
        return Refresh(listing=True, because="resync")
    open_hints = [hint for hint in hints if not is_answered(hint, looks)]
    if not open_hints:
        return None
    listing = any(hint.target.startswith("pull:") for hint in open_hints)
    return Refresh(listing=listing, because="delivery")


def is_from_people(hint: Hint) -> bool:
    """Say whether a delivery reports an order by a person: a comment, or Re-run."""
    return hint.target.startswith(("comments:", RERUN_TARGET))


def is_reading_due(hints: Sequence[Hint], looks: Looks, *, resync_s: float, now: datetime) -> bool:
    """Say whether it is time to read what people ordered: at a delivery, and at the pace of the resync. Of `looks`, the
    failures are those of reading comments."""
    hints = [hint for hint in hints if is_from_people(hint)]
    if _pauses(hints, looks, now=now):
        return False
    if looks.comments_read_at is None or now >= looks.comments_read_at + timedelta(seconds=resync_s):
        return True
    if looks.not_before is not None and looks.comments_read_at < looks.not_before:
        return True
    return any(not is_answered(hint, looks) for hint in hints)


def _pauses(hints: Sequence[Hint], looks: Looks, *, now: datetime) -> bool:
    """Say whether a failure is so near that we wait, unless there is news."""
    failed_at = looks.last_failure_at
    until = pause_ends_at(looks.failures_in_a_row, failed_at, told_retry_at=looks.told_retry_at)
    if failed_at is None or until is None or any(hint.armed_at > failed_at for hint in hints):
        return False
    return now < until


def pause_ends_at(
    failures_in_a_row: int, last_failure_at: datetime | None, *, told_retry_at: datetime | None
) -> datetime | None:
    """Return when looks that failed are tried again; None when the last one did not fail.

    git has no limit as the API has, so that a look goes on at its own pace meanwhile; at `told_retry_at` at the
    latest."""
    if last_failure_at is None or failures_in_a_row == 0:
        return None
    pause_s = min(RETRY_CAP_S, RETRY_BASE_S * 2 ** (failures_in_a_row - 1))
    ends_at = last_failure_at + timedelta(seconds=pause_s)
    return ends_at if told_retry_at is None or told_retry_at <= last_failure_at else min(ends_at, told_retry_at)
