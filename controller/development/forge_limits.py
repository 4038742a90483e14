"""How often may the development forge be asked? GitHub's limits, counted always and enforced where a test asks for it.

Primary: so many requests an hour, told in headers of every answer; a 304 is free. Secondary: requests at once, points a
minute (a write costs five), writes a minute and an hour.
https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api
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
    _write_ended_s: float = -math.inf

    def begin(self, *, is_write: bool) -> None:
        """Count a request that comes; Problem when a limit is exceeded."""
        now_s = time.time()
        if now_s >= self.hour_began_s + HOUR_S:
            self.used, self.hour_began_s = 0, now_s
        if self.used >= self.per_hour:
            self.refused += 1
            raise Problem(403, "API rate limit exceeded for installation ID 77.")
        self._forget(now_s)
        if is_write:
            self.write_gap_min_s = min(self.write_gap_min_s, now_s - self._write_ended_s)
            self.writes_at_s.append(now_s)
        self.points.append((now_s, 5 if is_write else 1))
        if self.is_strict and self._is_too_much(now_s):
            self.refused += 1
            raise Problem(403, SECONDARY, headers={"Retry-After": "60"})
        self.used += 1
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)

    def end(self, *, is_write: bool, is_free: bool) -> None:
        """Count a request that was answered; one that changed nothing is free."""
        self.in_flight -= 1
        if is_free:
            self.used -= 1
        if is_write:
            self._write_ended_s = time.time()

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
            self.in_flight >= AT_ONCE_MAX
            or sum(points for _, points in self.points) > POINTS_PER_MINUTE_MAX
            or sum(at > now_s - MINUTE_S for at in self.writes_at_s) > WRITES_PER_MINUTE_MAX
            or len(self.writes_at_s) > WRITES_PER_HOUR_MAX
        )
