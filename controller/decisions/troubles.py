"""Decide which failures last: what a person must be told although every try is repeated by itself.

Most failures end with the next try, and a word about each would be noise. One that only time may end lasts after some
tries and a minute. One that time does not end, such as objects that git refuses, lasts from the second try on. A
trouble is over when its subject works, or when nothing tries it any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from controller.model.errors import OroborosError, Unavailable, Waiting
from controller.model.names import Sha
from controller.model.nouns import Trouble

#: Of a failure that may pass by itself: a restart of what is away takes less.
LASTS_AFTER_TRIES: Final = 3
LASTS_AFTER_S: Final = 60.0
#: Of one that does not: the first may have met something in the middle of a change.
FIRM_AFTER_TRIES: Final = 2
#: Everything is tried again within minutes, unless a failure says when.
AGAIN_WITHIN_S: Final = 600.0
MESSAGE_CHARS_MAX: Final = 500
#: More subjects than a host has threads, slots and destinations.
TROUBLES_MAX: Final = 100


def note_failure(
    known: Trouble | None,
    subject: str,
    error: OroborosError,
    *,
    now: datetime,
    again_at: datetime | None,
    sha: Sha | None,
) -> Trouble:
    """Return what is known of a subject after one more try in vain. `again_at`: when the next one comes, if said."""
    told = error.retry_at if isinstance(error, Unavailable | Waiting) else None
    return Trouble(
        subject=subject,
        reason=error.reason,
        message=error.message[:MESSAGE_CHARS_MAX],
        since=now if known is None else known.since,
        last_at=now,
        tries=1 if known is None else known.tries + 1,
        passes=isinstance(error, Unavailable | Waiting),
        again_by=max(filter(None, (now, told, again_at))) + timedelta(seconds=AGAIN_WITHIN_S),
        sha=sha,
    )


def is_lasting(trouble: Trouble, *, now: datetime) -> bool:
    """Say whether a person must be told of it."""
    if now > trouble.again_by:
        return False
    if not trouble.passes:
        return trouble.tries >= FIRM_AFTER_TRIES
    lasts_s = (trouble.last_at - trouble.since).total_seconds()
    return trouble.tries >= LASTS_AFTER_TRIES and lasts_s >= LASTS_AFTER_S


def lasting(troubles: Iterable[Trouble], *, now: datetime) -> tuple[Trouble, ...]:
    """Return those that last, the oldest first."""
    found = (trouble for trouble in troubles if is_lasting(trouble, now=now))
    return tuple(sorted(found, key=lambda trouble: (trouble.since, trouble.subject)))


def describe(trouble: Trouble) -> str:
    """Return one line: what fails, since when, and why."""
    return f"{head_of(trouble)}: {trouble.reason}: {trouble.message}"


def head_of(trouble: Trouble) -> str:
    """Return what fails and since when, without the reason."""
    return f"{trouble.subject} fails since {trouble.since:%Y-%m-%d %H:%M} UTC ({trouble.tries:,} tries)"
