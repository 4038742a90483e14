"""What of a day needs a person, and which rollback is still not cleared? Judged over what the day's summary shows.

A rollback is unresolved while the head of the production branch is in quarantine there, whoever put it there, or while
an order to roll back is in force: until a later commit, or an order, clears it. It is told again every day.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from controller.model.names import MAIN, PRODUCTION, Sha
from controller.model.nouns import Drift, Head, Override, Quarantined

#: Less of the disk, or of its inodes, than this share is worth a word.
FREE_SHARE_MIN = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Unresolved:
    """A rollback that nobody has cleared yet."""

    kind: Literal["head_quarantined", "rollback_in_force"]
    #: What does not serve: the head of the production branch.
    head: Sha | None
    #: What serves instead.
    serves: Sha | None
    since: datetime
    days: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFact:
    """The disk under the root."""

    free_bytes: int
    total_bytes: int
    free_inodes: int
    total_inodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DayFacts:
    """What is looked at for things that need a person."""

    unresolved: tuple[Unresolved, ...] = ()
    #: (service, what it says) of the parts that are not well.
    unwell: tuple[tuple[str, str], ...] = ()
    #: (slot, what is wrong) of slots whose links make no sense.
    unreadable: tuple[tuple[str, str], ...] = ()
    drifts: tuple[Drift, ...] = ()
    policy_problems: tuple[str, ...] = ()
    #: Why the head of the production branch does not go live; "" when nothing keeps it.
    head_refused: str = ""
    #: How the production branch was moved by force, each in a line.
    force_pushes: tuple[str, ...] = ()
    #: Orders to hold that are in force, each in a line: somebody has to end them, or they are forgotten.
    holds: tuple[str, ...] = ()
    stalled_runs: int = 0
    dead_deliveries: int = 0
    stalled_reports: int = 0
    stalled_notifications: int = 0
    missed: int = 0
    disk: DiskFact | None = None
    #: The control plane's database did not answer.
    store_away: str = ""


def judge_unresolved(
    head: Head | None,
    *,
    serves: Sha | None,
    quarantined: Sequence[Quarantined],
    overrides: Sequence[Override],
    now: datetime,
) -> tuple[Unresolved, ...]:
    """Return the rollbacks of production that are not cleared, oldest first."""
    found: list[Unresolved] = []
    for order in overrides:
        if order.slot == MAIN and order.kind == "rollback":
            said = f"ordered by {order.actor}" + (f": {order.reason}" if order.reason else "")
            found.append(_unresolved("rollback_in_force", head, serves, order.at, "RolledBackByHand", said, now))
    found.extend(
        _unresolved("head_quarantined", head, serves, one.at, one.reason, one.message, now)
        for one in quarantined
        if head is not None and (one.domain, one.tree) == (PRODUCTION, head.tree)
    )
    return tuple(sorted(found, key=lambda one: (one.since, one.kind)))


def _unresolved(
    kind: Literal["head_quarantined", "rollback_in_force"],
    head: Head | None,
    serves: Sha | None,
    since: datetime,
    reason: str,
    message: str,
    now: datetime,
) -> Unresolved:
    return Unresolved(
        kind=kind,
        head=None if head is None else head.sha,
        serves=serves,
        since=since,
        days=max(0, (now - since).days),
        reason=reason,
        message=message,
    )


def needs_attention(facts: DayFacts) -> tuple[str, ...]:
    """Return a sentence for each thing that a person should look at, the gravest first."""
    return tuple(_sentences(facts))


def _sentences(facts: DayFacts) -> Iterator[str]:
    for one in facts.unresolved:
        head = "the head" if one.head is None else f"head {one.head[:7]}"
        serves = "nothing" if one.serves is None else one.serves[:7]
        since = f"for {one.days} days" if one.days else "since today"
        yield f"rollback not cleared {since}: {head} does not serve, {serves} does: {one.reason}: {one.message}"
    if facts.head_refused:
        yield f"the head of the production branch does not go live: {facts.head_refused}"
    yield from facts.force_pushes
    if facts.store_away:
        yield f"the control plane's database is away, so the record is missing: {facts.store_away}"
    yield from (f"{service} is not well: {said}" for service, said in facts.unwell)
    yield from (f"{slot}: {problem}" for slot, problem in facts.unreadable)
    if facts.stalled_runs:
        yield f"{facts.stalled_runs} runs stalled: they wait for a person"
    for drift in facts.drifts:
        if drift.handling == "held":
            yield f"held: {drift.reason}: {drift.message}"
        elif drift.handling == "by_hand":
            yield f"to be mended by hand: {drift.reason}: {drift.message}"
    yield from facts.holds
    yield from (f"deploy.toml of the production branch is wrong: {problem}" for problem in facts.policy_problems)
    if facts.stalled_reports:
        yield f"{facts.stalled_reports} reports to the forge were given up"
    if facts.stalled_notifications:
        yield f"{facts.stalled_notifications} notifications were given up"
    if facts.dead_deliveries:
        yield f"{facts.dead_deliveries} deliveries were given up"
    if facts.missed:
        yield f"{facts.missed} heads were found by resync: no webhook told of them"
    disk = facts.disk
    if disk is not None:
        if disk.total_bytes and disk.free_bytes < FREE_SHARE_MIN * disk.total_bytes:
            yield f"the disk is nearly full: {disk.free_bytes >> 20} MiB are free"
        if disk.total_inodes and disk.free_inodes < FREE_SHARE_MIN * disk.total_inodes:
            yield f"the disk is nearly out of inodes: {disk.free_inodes} are free"
