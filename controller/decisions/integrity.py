"""Does what a reset left behind contradict itself? Slot, lease, live, database, units, builds, runs, compared.

Facts come from the rows and from the host, gathered within a moment of each other. Rules, each with a reason:

1. Fences only grow, and are of leases that there are: what was made ready is leased, what was wiped has ended.
2. A lease is made ready within the grace; a lease that ended is wiped within it.
3. After a wipe nothing is left: no database or role, no data, no build of its pull request, no unit, `live` says free.
4. What a leased slot has is this lease's: `live`, units, and the database with its role. A unit is of a run that there
   is. A role that install made is there, whoever holds the slot.
5. A run ends within the grace, and belongs to the lease whose fence it carries, in its slot and for its pull request.

What is still within the grace is work, not a contradiction. Production is never reset: only rule 5 is about it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from controller.model.names import MAIN, Domain, SlotName, domain_of
from controller.model.nouns import Live, ProcessFact
from controller.model.states import RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFact:
    """What the apps' database server has for one slot."""

    slot: SlotName
    database: bool = False
    role: bool = False
    #: The database belongs to the slot's role.
    owned: bool = True
    #: The lease that its secret was drawn for; None without one.
    made_for: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseFact:
    """A lease, live or ended."""

    fence: int
    slot: SlotName
    pull_request: int
    in_queue: bool = False
    claimed_at: datetime
    ended_at: datetime | None = None

    @property
    def domain(self) -> Domain:
        return domain_of(self.pull_request, in_queue=self.in_queue)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFact:
    """A run of the time that is looked at, one that is not ended, or one of which something runs. `fence` is 0 for
    main."""

    generation: int
    slot: SlotName
    domain: Domain
    fence: int
    state: RunState
    begun_at: datetime
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFacts:
    """One preview slot, by rows and host."""

    slot: SlotName
    provisioned_fence: int = 0
    wiped_fence: int = 0
    #: The live lease, and the newest that ended.
    lease: LeaseFact | None = None
    ended: LeaseFact | None = None
    live: Live | None = None
    live_problem: str = ""
    #: None when this host has no database server for apps.
    database: DatabaseFact | None = None
    #: The folder for uploads and the like is there.
    data: bool = False
    processes: tuple[ProcessFact, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """Everything that is compared."""

    slots: tuple[SlotFacts, ...]
    runs: tuple[RunFact, ...] = ()
    #: Leases that the runs name, beside those of the slots.
    leases: tuple[LeaseFact, ...] = ()
    #: Domains of pull requests that have builds on the disk.
    builds: tuple[Domain, ...] = ()
    #: Databases and roles of slots that this host does not have.
    strangers: tuple[DatabaseFact, ...] = ()
    #: Roles were made by install and stay: one without a database is as it should be.
    roles_are_installed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One contradiction."""

    slot: SlotName
    reason: str
    message: str


def judge_integrity(facts: HostFacts, *, grace_s: float, now: datetime) -> tuple[Finding, ...]:
    """Return every contradiction, slot by slot, then those of runs, then those of the whole host."""
    late = now - timedelta(seconds=grace_s)
    found: list[Finding] = []
    for slot in facts.slots:
        if slot.slot == MAIN:
            continue
        found += _fences(slot)
        if slot.live_problem:
            found.append(Finding(slot=slot.slot, reason="LiveUnreadable", message=slot.live_problem))
        found += _database(slot.slot, slot.database, roles_are_installed=facts.roles_are_installed)
        found += _leased(slot, facts, late=late) if slot.lease is not None else _reset(slot, facts, late=late)
    found += _runs(facts, late=late)
    found += _builds(facts, late=late)
    found += [
        Finding(
            slot=one.slot,
            reason="DatabaseOfNoSlot",
            message=f"{_server_has(one)} there, and this host has no such slot",
        )
        for one in facts.strangers
        if one.database or (one.role and not facts.roles_are_installed)
    ]
    return tuple(found)


def _fences(slot: SlotFacts) -> Iterator[Finding]:
    lease = slot.lease.fence if slot.lease is not None else 0
    ended = slot.ended.fence if slot.ended is not None else 0
    if slot.provisioned_fence > max(lease, ended):
        message = f"made ready for lease {slot.provisioned_fence}, and there was none later than {max(lease, ended)}"
        yield Finding(slot=slot.slot, reason="FenceUnknown", message=message)
    if slot.wiped_fence > ended:
        what = "which still holds the slot" if slot.wiped_fence == lease else f"and the last that ended is {ended}"
        message = f"wiped after lease {slot.wiped_fence}, {what}"
        yield Finding(slot=slot.slot, reason="WipedTooSoon", message=message)


def _database(slot: SlotName, fact: DatabaseFact | None, *, roles_are_installed: bool) -> Iterator[Finding]:
    if fact is None:
        return
    if fact.role and not fact.database and not roles_are_installed:
        yield Finding(slot=slot, reason="RoleWithoutDatabase", message="its role is there, and no database is")
    if roles_are_installed and not fact.role and not fact.database:
        message = "its role is not there; install made it, and makes it again"
        yield Finding(slot=slot, reason="InstalledRoleMissing", message=message)
    if fact.database and not (fact.role and fact.owned):
        who = "belongs to another role" if fact.role else "is there without its role"
        yield Finding(slot=slot, reason="DatabaseWithoutRole", message=f"its database {who}")


def _leased(slot: SlotFacts, facts: HostFacts, *, late: datetime) -> Iterator[Finding]:
    assert slot.lease is not None
    lease = slot.lease
    name, fence = slot.slot, lease.fence
    if slot.provisioned_fence != fence:
        if lease.claimed_at <= late:
            message = (
                f"#{lease.pull_request} has held the slot since {_minute(lease.claimed_at)}; it was not made ready"
            )
            yield Finding(slot=name, reason="NeverProvisioned", message=message)
        return  # until then nothing in it is this lease's
    if slot.live is not None and slot.live.state == "live" and slot.live.fence != fence:
        message = f"serves for lease {slot.live.fence}, and lease {fence} holds the slot"
        yield Finding(slot=name, reason="LiveOfOtherLease", message=message)
    database = slot.database
    if database is not None and database.database and database.made_for != fence:
        of = "no lease" if database.made_for is None else f"lease {database.made_for}"
        message = f"its database was made for {of}, and lease {fence} holds the slot"
        yield Finding(slot=name, reason="DatabaseOfOtherLease", message=message)
    fences = {run.generation: run.fence for run in facts.runs}
    for process in slot.processes:
        of_fence = fences.get(process.generation)
        if of_fence is None:
            message = (
                f"{process.unit} is {process.state} with generation {process.generation}, and there is no such run"
            )
            yield Finding(slot=name, reason="UnitOfNoRun", message=message)
        elif of_fence != fence:
            message = f"{process.unit} is {process.state} for lease {of_fence}, and lease {fence} holds the slot"
            yield Finding(slot=name, reason="UnitOfOtherLease", message=message)


def _reset(slot: SlotFacts, facts: HostFacts, *, late: datetime) -> Iterator[Finding]:
    """Nobody holds the slot: a wipe that is under way may take its time, and after it nothing is left."""
    ended, name = slot.ended, slot.slot
    if ended is not None and slot.wiped_fence < ended.fence:
        if ended.ended_at is None or ended.ended_at > late:
            return
        message = f"the lease of #{ended.pull_request} ended {_minute(ended.ended_at)}; it was never wiped"
        yield Finding(slot=name, reason="WipeNeverFinished", message=message)
    left: list[str] = []
    if slot.live is not None and slot.live.state == "live":
        left.append(f"serves {(slot.live.release or '')[:7]}".rstrip())
    database = slot.database
    if database is not None and (database.database or (database.role and not facts.roles_are_installed)):
        left.append(f"has {_server_has(database).removesuffix(' is').removesuffix(' are')}")
    if slot.data:
        left.append("has a data folder")
    left += [f"has {process.unit} ({process.state})" for process in slot.processes]
    if left:
        message = f"nobody holds the slot, and it {', '.join(left)}"
        yield Finding(slot=name, reason="LeftAfterReset", message=message)


def _runs(facts: HostFacts, *, late: datetime) -> Iterator[Finding]:
    slots = [lease for slot in facts.slots for lease in (slot.lease, slot.ended) if lease is not None]
    leases = {lease.fence: lease for lease in (*facts.leases, *slots)}
    for run in facts.runs:
        if run.ended_at is None and run.begun_at <= late:
            message = f"run {run.generation} began {_minute(run.begun_at)} and is still {run.state}"
            yield Finding(slot=run.slot, reason="RunNeverEnded", message=message)
        if run.slot == MAIN and run.fence == 0:
            continue
        lease = leases.get(run.fence)
        if lease is None:
            what = f"carries lease {run.fence}, which is not known"
        elif (lease.slot, lease.domain) != (run.slot, run.domain):
            what = (
                f"is of {run.domain} in {run.slot}, and lease {run.fence} is of #{lease.pull_request} in {lease.slot}"
            )
        elif run.begun_at < lease.claimed_at or (lease.ended_at is not None and run.begun_at > lease.ended_at):
            what = f"began {_minute(run.begun_at)}, outside of its lease {run.fence}"
        else:
            continue
        yield Finding(slot=run.slot, reason="RunOfOtherLease", message=f"run {run.generation} {what}")


def _builds(facts: HostFacts, *, late: datetime) -> Iterator[Finding]:
    """A pull request's builds go with its lease."""
    kept: set[Domain] = set()
    slots: dict[Domain, SlotName] = {}
    for slot in facts.slots:
        for lease in (slot.lease, slot.ended):
            if lease is None:
                continue
            domain = lease.domain
            slots.setdefault(domain, slot.slot)
            is_wiped_later = lease is slot.ended and slot.wiped_fence < lease.fence
            if lease is slot.lease or (is_wiped_later and lease.ended_at is not None and lease.ended_at > late):
                kept.add(domain)
    for domain in sorted(set(facts.builds) - kept):
        where = slots.get(domain, next((run.slot for run in facts.runs if run.domain == domain), SlotName("-")))
        message = f"builds of {domain} are on the disk, and it holds no slot"
        yield Finding(slot=where, reason="BuildsLeft", message=message)


def _server_has(fact: DatabaseFact) -> str:
    if fact.database and fact.role:
        return "a database and its role are"
    return "a database is" if fact.database else "a role is"


def _minute(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M UTC")
