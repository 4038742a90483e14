"""Names every thread of the worker, by its kind. A test breaks each: the worker ends with its traceback."""

from __future__ import annotations

from typing import Literal, get_args

#: What runs beside the ticks, one at a time for each slot.
Activity = Literal[
    "checkout",
    "comments",
    "database",
    "gate",
    "house",
    "integrity",
    "job",
    "links",
    "prune",
    "refresh",
    "seal",
    "signature",
    "spare",
    "verify",
    "wipe",
]
#: The window of a release; what lives as long as the worker; and a request at its health port.
Lasting = Literal["watch", "bell", "health", "health request", "notifier", "reporter", "runtime watch", "sweeper"]

ACTIVITIES: tuple[Activity, ...] = get_args(Activity)
LASTING: tuple[Lasting, ...] = get_args(Lasting)
