"""When may we ask the forge again? Its limits in the shapes that GitHub documents, and our own manners.

- Told to wait, we wait: `retry-after`; else, with nothing remaining, until `x-ratelimit-reset`; else a minute, and
  twice as long each time in a row, up to an hour: whoever pushes on while limited may be banned. After
  `LIMITS_IN_A_ROW_MAX` of those a person must look, while we go on to ask at that pace.
- One write at a time, a second after the one before it, and no more in a minute and an hour than GitHub takes. Some of
  the hour is kept for what is urgent.
https://docs.github.com/rest/using-the-rest-api/best-practices-for-using-the-rest-api
https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from controller.decisions.github.wire import Reply, Request
from controller.model.errors import Unavailable

#: What GitHub asks of whoever is limited and was not told for how long; doubled each time in a row.
LIMIT_PAUSE_S: Final = 60
LIMIT_PAUSE_MAX_S: Final = 3_600
LIMITS_IN_A_ROW_MAX: Final = 8
WRITE_PAUSE_S: Final = 1.0
#: Requests that create content, of any kind.
WRITES_PER_MINUTE_MAX: Final = 80
WRITES_PER_HOUR_MAX: Final = 500
#: Of those, what only commit statuses and tokens may use: a busy hour of comments must not hide how a commit fares.
WRITES_KEPT_FOR_URGENT: Final = 150

_SECONDS = re.compile(r"[0-9]{1,9}\Z")
_EPOCH = re.compile(r"[0-9]{1,11}\Z")
_HOUR: Final = timedelta(hours=1)
_MINUTE: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What we remember of our last exchanges, to know when the next may be."""

    #: Between two writes; 0 for a forge on this machine.
    write_pause_s: float = WRITE_PAUSE_S
    #: No request before this: the forge said so.
    quiet_until: datetime | None = None
    #: Replies in a row that said that we are limited.
    limits_in_a_row: int = 0
    #: When the writes of the last hour ended, the oldest first.
    writes_at: tuple[datetime, ...] = ()


def may_ask_at(pace: Pace, request: Request, *, now: datetime) -> datetime:
    """Return when this request may be sent; `now` when at once."""
    instants = [now]
    if pace.quiet_until is not None:
        instants.append(pace.quiet_until)
    if request.is_write and pace.writes_at and pace.write_pause_s > 0:
        instants.append(pace.writes_at[-1] + timedelta(seconds=pace.write_pause_s))
        hourly = WRITES_PER_HOUR_MAX - (0 if request.is_urgent else WRITES_KEPT_FOR_URGENT)
        for allowed, span in ((WRITES_PER_MINUTE_MAX, _MINUTE), (hourly, _HOUR)):
            if len(pace.writes_at) >= allowed:
                instants.append(pace.writes_at[-allowed] + span)
    return max(instants)


def paced(pace: Pace, request: Request, reply: Reply | None, *, now: datetime) -> Pace:
    """Return the pace after a reply to `request`; None: it was cut, so the forge may have seen it all the same."""
    if request.is_write:
        kept = tuple(at for at in pace.writes_at if at > now - _HOUR)[-WRITES_PER_HOUR_MAX + 1 :]
        pace = replace(pace, writes_at=(*kept, now))
    if reply is None:
        return pace
    limited_until = limited_until_at(reply, limits_in_a_row=pace.limits_in_a_row, now=now)
    if limited_until is not None:
        return replace(pace, quiet_until=limited_until, limits_in_a_row=pace.limits_in_a_row + 1)
    # The last request that the primary limit allowed: the next one would be refused.
    reset = _reset(reply) if _is_spent(reply) else None
    return replace(pace, quiet_until=reset if reset is not None and reset > now else None, limits_in_a_row=0)


def raise_if_quiet(pace: Pace, *, at: datetime, what: str) -> None:
    """Raise that a request must wait until `at`, in words for a person when we were limited again and again."""
    if pace.limits_in_a_row >= LIMITS_IN_A_ROW_MAX:
        raise Unavailable(
            "ForgeLimitedForLong",
            f"{what}: the forge has limited us {pace.limits_in_a_row} times in a row, now until {at:%H:%M:%S} UTC;"
            " look at what else uses this identity",
            retry_at=at,
        )
    raise Unavailable("ForgeLimited", f"{what}: not asked before {at:%H:%M:%S} UTC", retry_at=at)


def limited_until_at(reply: Reply, *, limits_in_a_row: int = 0, now: datetime) -> datetime | None:
    """Return until when a reply says that we are limited, None when it does not."""
    if reply.status not in (403, 429):
        return None
    after = retry_after(reply, now=now)
    if after is not None:
        return after
    if _is_spent(reply):
        reset = _reset(reply)
        return max(now, reset) if reset is not None else now + timedelta(seconds=LIMIT_PAUSE_S)
    # A secondary limit may come as a 403 that says so only in words; any other 403 is about permissions.
    if reply.status == 429 or b"rate limit" in reply.body[:4096].lower():
        pause_s = min(LIMIT_PAUSE_MAX_S, LIMIT_PAUSE_S * 2 ** min(limits_in_a_row, 16))
        return now + timedelta(seconds=pause_s)
    return None


def retry_after(reply: Reply, *, now: datetime) -> datetime | None:
    """Return the instant that `retry-after` names."""
    text = reply.headers.get("retry-after", "").strip()
    return now + timedelta(seconds=int(text)) if _SECONDS.match(text) else None


def _is_spent(reply: Reply) -> bool:
    return reply.headers.get("x-ratelimit-remaining", "").strip() == "0"


def _reset(reply: Reply) -> datetime | None:
    reset = reply.headers.get("x-ratelimit-reset", "").strip()
    return datetime.fromtimestamp(int(reset), UTC) if _EPOCH.match(reset) else None
