"""Is there so little room left on the disk that previews must stop? Strangers' code does not fill production's disk.

A preview's data folder is its user's alone to see, and no file system quota is asked for: so nobody counts what one
preview wrote, and all of them stop when the disk that they share with releases and the database is nearly full. Each
stop is an order like one by hand: it says why, frees nothing, and ends by hand, with the lease, or with an order of a
release. Production goes on, and so do builds and migrations of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from controller.decisions.plan import stop_in_force
from controller.model.names import MAIN, SlotName
from controller.model.states import ProcessState
from controller.model.world import Observed

DISK_LOW = "DiskLow"


@dataclass(frozen=True, slots=True, kw_only=True)
class StopForRoom:
    """A preview that is to be stopped, and why."""

    slot: SlotName
    fence: int
    reason: str
    message: str


def previews_to_stop(observed: Observed) -> Iterator[StopForRoom]:
    """Give every preview that runs although the disk has less room than the policy keeps free."""
    free, wanted = observed.disk_free_bytes, observed.policy.previews.disk_free_bytes_min
    if free is None or free >= wanted:
        return
    for slot in observed.slots:
        if slot.slot == MAIN or slot.lease is None or stop_in_force(observed, slot) is not None:
            continue
        if any(process.state is ProcessState.RUNNING for process in slot.processes):
            said = f"{free >> 20:,} MiB are free, and previews.disk_free_bytes_min keeps {wanted >> 20:,} MiB"
            yield StopForRoom(slot=slot.slot, fence=slot.lease.fence, reason=DISK_LOW, message=said)
