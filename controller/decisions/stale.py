"""Which leases and slots are stale, by the forge's own list and by the host? Findings, with a reason each.

Rows alone never make a lease stale: what is held against it is a complete listing that was asked for just now, and what
lies and runs on the host. This names only; the loop's `assign_slots` ends leases, and `plan_slot` empties slots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from controller.decisions.admission import approval_in_force
from controller.model.names import MAIN, SlotName
from controller.model.nouns import Lease, Live, PreviewOrder, ProcessFact, PullRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotHeld:
    """Who holds one preview slot by the rows, and what the host shows of it."""

    slot: SlotName
    #: False for a slot that was installed once and is no longer.
    exists: bool = True
    lease: Lease | None = None
    live: Live | None = None
    #: Why `live` cannot be read; "" when it can.
    live_problem: str = ""
    processes: tuple[ProcessFact, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale:
    """One thing that nobody holds any more."""

    slot: SlotName
    reason: str
    message: str
    pull_request: int | None = None
    #: Of the lease that is meant; 0 when there is none.
    fence: int = 0
    #: Of what runs without a lease; "" otherwise.
    unit: str = ""

    @property
    def key(self) -> tuple[str, str, int, str]:
        """What makes it the same finding when one looks again."""
        return (self.slot, self.reason, self.fence, self.unit)


def judge_leases(
    slots: Sequence[SlotHeld], listed: Sequence[PullRequest], *, orders: Sequence[PreviewOrder] = (), now: datetime
) -> tuple[Stale, ...]:
    """Return what is stale, slot by slot. `listed` is complete: a pull request that is not in it is closed."""
    open_pulls = {pull.number: pull for pull in listed}
    strange = {pull.number for pull in listed if not pull.same_repository and approval_in_force(pull, orders) is None}
    return tuple(
        stale
        for slot in slots
        if slot.slot != MAIN
        for stale in (*_lease(slot, open_pulls, strange, now), *_host(slot))
    )


def _lease(slot: SlotHeld, open_pulls: dict[int, PullRequest], strange: set[int], now: datetime) -> Iterator[Stale]:
    lease = slot.lease
    if lease is None or lease.in_queue:
        return  # the merge queue's branches are git's, and the worker's business
    number, pull = lease.pull_request, open_pulls.get(lease.pull_request)
    reason = message = ""
    if pull is None:
        late = " and its time was up" if now >= lease.expires_at else ""
        reason, message = "LeaseClosed", f"#{number} is closed at the forge{late}, but its lease was not ended"
    elif number in strange:
        reason, message = "LeaseNotEligible", f"#{number} comes from a fork, or its repository is gone"
    elif not slot.exists:
        reason, message = "LeaseOfNoSlot", f"#{number} holds a slot that this host no longer has"
    if reason:
        yield Stale(slot=slot.slot, reason=reason, message=message, pull_request=number, fence=lease.fence)


def _host(slot: SlotHeld) -> Iterator[Stale]:
    fence = slot.lease.fence if slot.lease is not None else 0
    if slot.live_problem:
        yield Stale(slot=slot.slot, reason="LiveUnreadable", message=slot.live_problem)
    live = slot.live
    if live is not None and live.state == "live" and live.fence != fence:
        of = f"lease {live.fence}" if live.fence else "no lease"
        held = f"lease {fence} holds the slot" if fence else "nobody holds the slot"
        yield Stale(
            slot=slot.slot,
            reason="LiveWithoutLease",
            message=f"serves {(live.release or '')[:7] or 'a release'} of {of}, and {held}",
            fence=live.fence,
        )
    if slot.lease is not None:
        return
    for process in slot.processes:
        yield Stale(
            slot=slot.slot,
            reason="UnitWithoutLease",
            message=f"{process.unit} of run {process.generation} is {process.state}, and nobody holds the slot",
            unit=process.unit,
        )
