"""When may we ask the forge again? Its limits in the shapes that GitHub documents, and our own manners.

- Told to wait, we wait: `retry-after`; else, with nothing remaining, until `x-ratelimit-reset`; else a minute, and
  twice as long each time in a row, up to an hour: whoever pushes on while limited may be banned. After
  `LIMITS_IN_A_ROW_MAX` of those a person must look, while we go on to ask at that pace.
- Our App itself and its installation have limits of their own: one that is limited keeps the other from nothing, so
  that git has its password.
- A restart changes none of this: the pace is kept.
- One write at a time, a second after the one before it, and no more in a minute and an hour than GitHub takes. Some of
  the hour is kept for what is urgent.
https://docs.github.com/rest/using-the-rest-api/best-practices-for-using-the-rest-api
https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, NoReturn

from controller.decisions.github.wire import Reply, Request
from controller.model.errors import Unavailable

#: What GitHub asks of whoever is limited and was not told for how long; doubled each time in a row.
LIMIT_PAUSE_S: Final = 60
LIMIT_PAUSE_MAX_S: Final = 3_600
LIMITS_IN_A_ROW_MAX: Final = 8
#: A limit that was told before a restart is not believed for longer.
QUIET_RESTORED_MAX: Final = timedelta(days=1)
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
class Quiet:
    """What the forge told of its limits."""

    #: No request before this: the forge said so.
    until: datetime | None = None
    #: Replies in a row that said that we are limited.
    in_a_row: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What we remember of our last exchanges, to know when the next may be."""

    #: Between two writes; 0 for a forge on this machine.
    write_pause_s: float = WRITE_PAUSE_S
    quiet: Quiet = Quiet()
    #: Of our App itself.
    app_quiet: Quiet = Quiet()
    #: When the writes of the last hour ended, the oldest first.
    writes_at: tuple[datetime, ...] = ()

    def quiet_of(self, request: Request) -> Quiet:
        """Return what was told to whoever asks this."""
        return self.app_quiet if request.is_of_app else self.quiet


def restored(kept: Pace, *, write_pause_s: float, now: datetime) -> Pace:
    """Return the pace that was kept before a restart, as far as it is still to be believed."""
    latest = now + QUIET_RESTORED_MAX

    def bounded(quiet: Quiet) -> Quiet:
        return quiet if quiet.until is None else replace(quiet, until=min(quiet.until, latest))

    return Pace(
        write_pause_s=write_pause_s,
        quiet=bounded(kept.quiet),
        app_quiet=bounded(kept.app_quiet),
        writes_at=tuple(at for at in kept.writes_at if now - _HOUR < at <= now),
    )


def may_ask_at(pace: Pace, request: Request, *, now: datetime) -> datetime:
    """Return when this request may be sent; `now` when at once."""
    instants = [now]
    quiet = pace.quiet_of(request)
    if quiet.until is not None:
        instants.append(quiet.until)
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
    told = _quiet_after(reply, pace.quiet_of(request), now=now)
    return replace(pace, app_quiet=told) if request.is_of_app else replace(pace, quiet=told)


def _quiet_after(reply: Reply, quiet: Quiet, *, now: datetime) -> Quiet:
    limited_until = limited_until_at(reply, limits_in_a_row=quiet.in_a_row, now=now)
    if limited_until is not None:
        return Quiet(until=limited_until, in_a_row=quiet.in_a_row + 1)
    # The last request that the primary limit allowed: the next one would be refused.
    reset = _reset(reply) if _is_spent(reply) else None
    return Quiet(until=reset if reset is not None and reset > now else None)


def raise_quiet(quiet: Quiet, *, at: datetime, what: str) -> NoReturn:
    """Raise that a request must wait until `at`, in words for a person when we were limited again and again."""
    if quiet.in_a_row >= LIMITS_IN_A_ROW_MAX:
        raise Unavailable(
            "ForgeLimitedForLong",
            f"{what}: the forge has limited us {quiet.in_a_row} times in a row, now until {at:%H:%M:%S} UTC;"
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
