"""Which ended runs may be forgotten, with their journal and their logs?

Nothing of a slot whose `live` cannot be read. Otherwise a run stays if any rule keeps it:

1. It ended less than `runs_days` ago, or is among the newest `runs_keep` of its slot.
2. It is served: `live` names it, or what serves or is under way would fall back to it; or a process is still its own.
3. It is the newest proof of a release on the disk in its domain: what says that this release may be gone back to.
4. It is the newest that migrated its slot's database: what says at which migrations that is.
5. Its lease was not wiped yet: what says which builds go with it.
6. An order by hand that is in force names its commit.

A quarantine is forgotten once it is old and nothing that a plan could ask about has its tree: no head, order, release,
run or slot of this tick, whatever its domain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from controller.model.config import Retention
from controller.model.names import MAIN, Domain, Sha, SlotName, TreeId
from controller.model.nouns import Quarantined
from controller.model.world import Observed


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRun:
    """An ended run, as far as forgetting it goes."""

    generation: int
    slot: SlotName
    domain: Domain
    fence: int
    sha: Sha
    release: Sha
    ended_at: datetime
    proven: bool = False
    migrated: bool = False
    #: The run that it would have fallen back to.
    fallback: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """What is still needed of the past, by the host's word and by the rows."""

    #: Generations that `live` names, of runs under way, and of processes.
    generations: frozenset[int] = frozenset()
    #: What a run under way would fall back to.
    fallbacks: frozenset[int] = frozenset()
    #: Slots whose `live` cannot be read.
    unreadable: frozenset[SlotName] = frozenset()
    releases: frozenset[Sha] = frozenset()
    #: The last lease of each slot of which nothing is left.
    wiped: tuple[tuple[SlotName, int], ...] = ()
    #: Commits of the orders by hand that are in force.
    ordered: frozenset[Sha] = frozenset()


def select_forgettable(
    runs: Sequence[EndedRun], needed: Needed, *, retention: Retention, now: datetime
) -> tuple[int, ...]:
    """Return the generations that no rule keeps, oldest first."""
    newest_first = sorted(runs, key=lambda run: run.generation, reverse=True)
    kept = set(_kept(newest_first, needed, retention=retention))
    before = now - timedelta(days=retention.runs_days)
    wiped = dict(needed.wiped)
    return tuple(
        run.generation
        for run in reversed(newest_first)
        if run.ended_at < before
        and run.generation not in kept
        and run.slot not in needed.unreadable
        and run.sha not in needed.ordered
        and (run.slot == MAIN or run.fence <= wiped.get(run.slot, 0))
    )


def _kept(newest_first: Sequence[EndedRun], needed: Needed, *, retention: Retention) -> Iterator[int]:
    yield from needed.generations
    yield from needed.fallbacks
    of_slot: dict[SlotName, int] = {}
    proofs: set[tuple[Domain, Sha]] = set()
    migrated: set[SlotName] = set()
    for run in newest_first:
        of_slot[run.slot] = of_slot.get(run.slot, 0) + 1
        if of_slot[run.slot] <= retention.runs_keep:
            yield run.generation
        if run.generation in needed.generations and run.fallback is not None:
            yield run.fallback
        if run.proven and run.release in needed.releases and (run.domain, run.release) not in proofs:
            proofs.add((run.domain, run.release))
            yield run.generation
        if run.migrated and run.slot not in migrated:
            migrated.add(run.slot)
            yield run.generation


def select_spent_quarantines(observed: Observed, *, before: datetime) -> tuple[Quarantined, ...]:
    """Return what of the quarantine no plan can ask about any more; () while what is wanted is not known."""
    if not observed.pulls_listed or observed.production_head is None:
        return ()
    known = set(_trees(observed))
    return tuple(one for one in observed.quarantined if one.at < before and one.tree not in known)


def _trees(observed: Observed) -> Iterator[TreeId]:
    heads = [observed.production_head, observed.accepted_head, *(pull.head for pull in observed.pulls)]
    heads += [override.head for override in observed.overrides]
    yield from (head.tree for head in heads if head is not None)
    yield from (release.tree for release in observed.releases)
    yield from (proven.tree for proven in observed.proven)
    for slot in observed.slots:
        runs = (slot.run, slot.live_run, slot.fallback_run, *slot.recent_runs)
        yield from (run.head.tree for run in runs if run is not None)
        lives = (slot.live, slot.fallback_live)
        yield from (live.tree for live in lives if live is not None and live.tree is not None)
