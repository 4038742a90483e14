"""How long has somebody waited, if a machine that stood still meanwhile is not to count?"""

from __future__ import annotations

import time


class AwakeClock:
    """Seconds since its beginning, without those in which the machine stood still, as a virtual one that is saved or
    moved. Whoever reads it does so at least every `round_s`; a longer pause counts as that. (The kernel's own clock
    leaves out only what it slept by itself: clock_gettime(2).)"""

    def __init__(self, round_s: float) -> None:
        self._round_s = round_s
        self._elapsed_s, self._read_at = 0.0, time.monotonic()

    def elapsed_s(self) -> float:
        """Return the seconds that count."""
        now = time.monotonic()
        self._elapsed_s += min(now - self._read_at, self._round_s)
        self._read_at = now
        return self._elapsed_s
