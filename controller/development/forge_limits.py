"""How often may the development forge be asked? GitHub's limits, counted always and enforced where a test asks for it.

Primary: so many requests an hour, told in headers of every answer; a 304 is free. Secondary: requests at once, points a
minute (a write costs five), writes a minute and an hour. What GitHub only asks of us is not refused, but counted as a
violation: one request at a time, a second between writes, nothing before a limit that was told has ended. What a person
does at the site, as the header `x-development-at-the-site` says, is not counted.
https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api
https://docs.github.com/rest/using-the-rest-api/best-practices-for-using-the-rest-api
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from controller.development.forge_events import Problem

PER_HOUR: Final = 5_000
AT_ONCE_MAX: Final = 100
POINTS_PER_MINUTE_MAX: Final = 900
WRITES_PER_MINUTE_MAX: Final = 80
WRITES_PER_HOUR_MAX: Final = 500
HOUR_S: Final = 3_600.0
MINUTE_S: Final = 60.0
WRITE_PAUSE_S: Final = 1.0
#: A limit that was told without a time.
SECONDARY_PAUSE_S: Final = 60.0
#: The clocks of both sides are floats.
CLOCK_GRAIN_S: Final = 0.01
VIOLATIONS_KEPT: Final = 20
#: Who sends this header is a person at the site: that costs a token nothing, however often they look.
AT_THE_SITE: Final = "x-development-at-the-site"
SECONDARY: Final = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."


@dataclass(slots=True)
class Limits:
    """What was asked of the API lately."""

    #: Whether the secondary limits are enforced; the primary one always is.
    is_strict: bool = False
    per_hour: int = PER_HOUR
    used: int = 0
    hour_began_s: float = field(default_factory=time.time)
    in_flight: int = 0
    in_flight_max: int = 0
    refused: int = 0
    #: When writes came, within the hour; and (instant, points) within the minute.
    writes_at_s: deque[float] = field(default_factory=deque)
    points: deque[tuple[float, int]] = field(default_factory=deque)
    #: The shortest time between the end of a write and the begin of the next.
    write_gap_min_s: float = math.inf
    violations: deque[str] = field(default_factory=lambda: deque(maxlen=VIOLATIONS_KEPT))
    #: Both clocks run so much faster than time: a test does not last an hour.
    speed: float = 1.0
    began_s: float = field(default_factory=time.time)
    _write_ended_s: float = -math.inf
    _quiet_until_s: float = -math.inf

    def now_s(self) -> float:
        """Return the instant by the clock of the limits."""
        return self.began_s + (time.time() - self.began_s) * self.speed

    def restart(self, *, is_strict: bool, per_hour: int, speed: float, used: int | None = None) -> None:
        """Begin to count, with other limits and another clock; what this hour's requests have used stays used, unless
        `used` says otherwise."""
        if used is not None:
            self.used = used
        self.is_strict, self.per_hour = is_strict, per_hour
        self.speed, self.began_s = speed, time.time()
        self.hour_began_s = min(self.hour_began_s, self.began_s)
        self.in_flight_max, self.refused, self.write_gap_min_s = 0, 0, math.inf
        self._write_ended_s = self._quiet_until_s = -math.inf
        for counted in (self.writes_at_s, self.points, self.violations):
            counted.clear()

    def enter(self, what: str) -> None:
        """Count a request that is in flight from now on."""
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        if self.in_flight > 1:
            self.violations.append(f"{what}: {self.in_flight} requests at once")

    def leave(self) -> None:
        """Count a request that was answered."""
        self.in_flight -= 1

    def tell(self, until_s: float) -> None:
        """Remember until when somebody was told to ask nothing."""
        self._quiet_until_s = max(self._quiet_until_s, until_s)

    def begin(self, what: str, *, is_write: bool) -> None:
        """Count a request that comes; Problem when a limit is exceeded."""
        now_s = self.now_s()
        if now_s < self._quiet_until_s - CLOCK_GRAIN_S:
            self.violations.append(f"{what}: {self._quiet_until_s - now_s:.2f} s before the limit ended")
        if now_s >= self.hour_began_s + HOUR_S:
            self.used, self.hour_began_s = 0, now_s
        if self.used >= self.per_hour:
            self.refused += 1
            self.tell(self.hour_began_s + HOUR_S)
            raise Problem(403, "API rate limit exceeded for installation ID 77.")
        self._forget(now_s)
        if is_write:
            gap_s = now_s - self._write_ended_s
            self.write_gap_min_s = min(self.write_gap_min_s, gap_s)
            if gap_s < WRITE_PAUSE_S - CLOCK_GRAIN_S:
                self.violations.append(f"{what}: {gap_s:.2f} s after the write before it")
            self.writes_at_s.append(now_s)
        self.points.append((now_s, 5 if is_write else 1))
        if self.is_strict and self._is_too_much(now_s):
            self.refused += 1
            self.tell(now_s + SECONDARY_PAUSE_S)
            raise Problem(403, SECONDARY, headers={"Retry-After": f"{SECONDARY_PAUSE_S:.0f}"})
        self.used += 1

    def end(self, *, is_write: bool, is_free: bool) -> None:
        """Count a request that was answered; one that changed nothing is free."""
        if is_free:
            self.used -= 1
        if is_write:
            self._write_ended_s = self.now_s()

    def headers(self) -> dict[str, str]:
        """Return what every answer says of the primary limit."""
        return {
            "X-RateLimit-Limit": str(self.per_hour),
            "X-RateLimit-Remaining": str(max(0, self.per_hour - self.used)),
            "X-RateLimit-Used": str(self.used),
            "X-RateLimit-Reset": str(math.ceil(self.hour_began_s + HOUR_S)),
            "X-RateLimit-Resource": "core",
        }

    def _forget(self, now_s: float) -> None:
        while self.writes_at_s and self.writes_at_s[0] <= now_s - HOUR_S:
            self.writes_at_s.popleft()
        while self.points and self.points[0][0] <= now_s - MINUTE_S:
            self.points.popleft()

    def _is_too_much(self, now_s: float) -> bool:
        return (
            self.in_flight > AT_ONCE_MAX
            or sum(points for _, points in self.points) > POINTS_PER_MINUTE_MAX
            or sum(at > now_s - MINUTE_S for at in self.writes_at_s) > WRITES_PER_MINUTE_MAX
            or len(self.writes_at_s) > WRITES_PER_HOUR_MAX
        )
