"""Which pull request holds which preview slot? First come, first served, and nobody is moved needlessly.

Rules, in order:
1. A lease ends when its pull request is not in a complete listing of the open ones, or a rule no longer admits it.
   An incomplete listing ends nothing.
2. A lease whose time is up ends only if somebody waits for whom no slot is free or becoming free, the one that is up
   longest first; otherwise it is renewed.
3. A slot is free once nothing of its last lease is left: no lease, no process, `live` says free, wiped.
4. Those who wait get free slots in the order in which they began to wait, entries of the merge queue before previews.
   An update never waits: it has its slot.
5. The lease of an entry ends once its commit is checked, or the merge queue dropped it.
6. A slot that the host is about to lose takes nobody, and its lease ends whatever was listed: its tenant waits again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from controller.decisions.admission import Admission, admission
from controller.decisions.merge_queue import CHECKED, DROPPED, entry_of, is_checked
from controller.model.names import MAIN
from controller.model.nouns import Lease, PullRequest
from controller.model.steps import ClaimSlot, EndLease, RenewLease, Step
from controller.model.world import Observed, SlotObserved

#: How the reason of a lease begins that a rule ended; the rule follows.
NO_LONGER_ADMITTED = "no longer admitted: "
#: The reason of a lease whose slot goes.
SLOT_REMOVED = "SlotRemoved"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePlace:
    """A pull request, or its entry in the merge queue, that waits; `position` counts from 1."""

    pull_request: int
    in_queue: bool = False
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotPlan:
    """The lease steps of one tick, for the whole host, and who waits where."""

    steps: tuple[Step, ...]
    queue: tuple[QueuePlace, ...]


def may_preview(pull: PullRequest, observed: Observed) -> bool:
    """Say whether this pull request's code may run at all, as `admission` judges."""
    return admission(pull, observed).admits


def is_clean(slot: SlotObserved) -> bool:
    """Say whether nothing of a former lease is left in the slot, by the host's own word."""
    return (
        slot.slot != MAIN
        and slot.lease is None
        and not slot.processes
        and slot.run is None
        and not slot.activities
        and (slot.live is None or slot.live.state == "free")
        and slot.wiped_fence >= slot.ended_fence
    )


def assign_slots(observed: Observed, *, now: datetime) -> SlotPlan:
    """Return which leases end, are renewed and begin, and the queue that remains."""
    open_pulls = {pull.number: pull for pull in observed.pulls}
    admissions = {number: admission(pull, observed) for number, pull in open_pulls.items()}
    eligible = {_Tenant(number, in_queue=False) for number, found in admissions.items() if found.admits}
    undecided = {_Tenant(number, in_queue=False) for number, found in admissions.items() if found.is_open}
    if observed.policy.previews.enabled:
        to_check = (entry for entry in observed.queue_entries if not is_checked(observed, entry))
        eligible |= {_Tenant(entry.number, in_queue=True) for entry in to_check}
    leaving = [slot.lease for slot in observed.slots if slot.leaves and slot.lease is not None]
    held = {_tenant(slot.lease) for slot in observed.slots if slot.lease is not None and not slot.leaves}
    since = dict(observed.waiting_since)

    def began_to_wait(tenant: _Tenant) -> tuple[bool, datetime, datetime, int]:
        # What is in the merge queue takes minutes, and others wait behind it.
        if tenant.in_queue:
            return (False, now, now, tenant.number)
        return (True, since.get(tenant.number, now), open_pulls[tenant.number].opened_at, tenant.number)

    waiting = sorted(eligible - held, key=began_to_wait)
    steps: list[Step] = [EndLease(slot=lease.slot, fence=lease.fence, reason=SLOT_REMOVED) for lease in leaving]
    free = [slot.slot for slot in observed.slots if is_clean(slot) and not slot.leaves]
    overdue: list[Lease] = []
    #: Slots that somebody who waits will get without anybody being moved: free, or on the way to it.
    coming = sum(slot.slot != MAIN and slot.lease is None and not slot.leaves for slot in observed.slots)
    for lease in (slot.lease for slot in observed.slots if slot.lease is not None and not slot.leaves):
        if observed.pulls_listed and _tenant(lease) not in eligible | undecided:
            reason = _why_ended(observed, lease, admissions.get(lease.pull_request))
            steps.append(EndLease(slot=lease.slot, fence=lease.fence, reason=reason))
            coming += 1
        elif now >= lease.expires_at:
            overdue.append(lease)
    for lease in sorted(overdue, key=lambda lease: (lease.expires_at, lease.fence)):
        if coming < len(waiting):
            steps.append(EndLease(slot=lease.slot, fence=lease.fence, reason="expired"))
            coming += 1
        else:
            steps.append(RenewLease(slot=lease.slot, fence=lease.fence))
    steps.extend(
        ClaimSlot(slot=slot, pull_request=tenant.number, in_queue=tenant.in_queue)
        for slot, tenant in zip(free, waiting, strict=False)
    )
    return SlotPlan(
        steps=tuple(steps),
        queue=tuple(
            QueuePlace(pull_request=tenant.number, in_queue=tenant.in_queue, position=k)
            for k, tenant in enumerate(waiting[len(free) :], start=1)
        ),
    )


class _Tenant(NamedTuple):
    """Who may hold a slot: a pull request, or its entry in the merge queue."""

    number: int
    in_queue: bool


def _tenant(lease: Lease) -> _Tenant:
    return _Tenant(lease.pull_request, in_queue=lease.in_queue)


def _why_ended(observed: Observed, lease: Lease, found: Admission | None) -> str:
    if lease.in_queue:
        return DROPPED if entry_of(observed, lease) is None else CHECKED
    return "closed" if found is None else f"{NO_LONGER_ADMITTED}{found.rule}"
