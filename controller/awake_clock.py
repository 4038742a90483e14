"""How long has somebody waited, if a machine that stood still meanwhile is not to count?"""

from __future__ import annotations

import time


class AwakeClock:
    """Seconds since its beginning, without those in which the machine stood still: a virtual machine that is moved or
    saved, a laptop that sleeps. Whoever reads it does so at least every `round_s`; a longer pause counts as that."""

    def __init__(self, round_s: float) -> None:
        self._round_s = round_s
        self._elapsed_s, self._read_at = 0.0, time.monotonic()

    def elapsed_s(self) -> float:
        """Return the seconds that count."""
        now = time.monotonic()
        self._elapsed_s += min(now - self._read_at, self._round_s)
        self._read_at = now
        return self._elapsed_s
