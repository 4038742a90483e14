"""Which releases and builds may go? Those that nothing serves, needs, wants or could go back to.

Nothing goes on incomplete knowledge: pull requests not listed yet, no production head, a slot whose `live` is unknown,
a process of a run that we do not know. Otherwise a release stays if any rule keeps it:

1. It is served: a slot's `live` or `current` names it, or static files of it still answer for older pages.
2. Work needs it: a running run's release, what that run or `live` would fall back to, a process that still runs.
3. It is the previous good one: the newest proven release beside the live one, per domain, quarantined or not, and the
   newest that is not quarantined. Domains count while they can serve: production, and pull requests with a lease.
4. It is pinned, by policy or by hand.
5. It is wanted: the production head, the head of an open pull request, an order by hand, or what serves for one of
   these because its tree is the same.
6. It is young: published a moment ago, perhaps for something that this tick does not see yet.
7. It is among the newest `retention.keep` proven releases of such a domain. Only what served and passed its window
   counts, so that a night of failures does not push out what works.

A build is kept for the release that it was made of: it stays while a release with its tree is on the disk, while a slot
serves from it, and while a run of its domain is about its tree. Builds of a pull request without a slot are not ours to
judge: the wipe of its lease removes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from controller.decisions.plan import release_for
from controller.decisions.quarantine import is_quarantined
from controller.model.names import MAIN, PRODUCTION, Domain, Sha, TreeId, pull_request_domain, queue_domain
from controller.model.nouns import BuildFolder, Head, Proven, Run
from controller.model.states import Cause
from controller.model.steps import DropBuild, Prune
from controller.model.world import Observed, SlotObserved, Wanted

GRACE_S = 600.0


def select_prunable(observed: Observed, *, now: datetime) -> tuple[Prune, ...]:
    """Return a step for each release that no rule keeps, oldest first."""
    if not _is_known(observed):
        return ()
    kept = set(_kept(observed))
    pinned = tuple(prefix.lower() for prefix in observed.policy.retention.pinned if prefix)
    young_after = now - timedelta(seconds=GRACE_S)
    return tuple(
        Prune(release=release.sha)
        for release in sorted(observed.releases, key=lambda release: (release.published_at, release.sha))
        if release.sha not in kept
        and not release.pinned
        and not (pinned and release.sha.startswith(pinned))
        and release.published_at <= young_after
    )


def select_spent_builds(observed: Observed) -> tuple[DropBuild, ...]:
    """Return a step for each build that nothing keeps, by domain and name."""
    if not _is_known(observed):
        return ()
    on_disk = {release.tree for release in observed.releases}
    slots = dict(_domains(observed))
    return tuple(
        DropBuild(slot=slots[build.domain].slot, domain=build.domain, name=build.name)
        for build in sorted(observed.builds, key=lambda build: (build.domain, build.name))
        if build.domain in slots
        and build.tree not in on_disk
        and build.tree not in _trees_worked_for(slots[build.domain])
        and not any(_serves_from(slot, build) for slot in observed.slots)
    )


def _trees_worked_for(slot: SlotObserved) -> set[TreeId]:
    alive = {process.generation for process in slot.processes}
    found = {run.head.tree for run in (slot.run, slot.live_run, slot.fallback_run) if run is not None}
    found |= {run.head.tree for run in _runs(slot) if run.generation in alive}
    if slot.live is not None and slot.live.tree is not None:
        found.add(slot.live.tree)
    return found


def _serves_from(slot: SlotObserved, build: BuildFolder) -> bool:
    below = f"/{build.domain}/{build.name}/"
    roots = [
        root
        for live in (slot.live, slot.fallback_live)
        if live is not None
        for root in (live.static_root, live.previous_static_root)
        if root is not None
    ]
    return any(below in f"{root}/" for root in roots)


def _is_known(observed: Observed) -> bool:
    if not observed.pulls_listed or observed.production_head is None or not observed.slots:
        return False
    return all(_is_slot_known(slot) for slot in observed.slots)


def _is_slot_known(slot: SlotObserved) -> bool:
    live = slot.live
    if live is None or (live.state == "live" and (live.release is None or slot.live_run is None)):
        return False
    known = {run.generation for run in _runs(slot)}
    return all(process.generation in known for process in slot.processes)


def _runs(slot: SlotObserved) -> Iterator[Run]:
    yield from (run for run in (slot.run, slot.live_run, slot.fallback_run, *slot.recent_runs) if run is not None)


def _kept(observed: Observed) -> Iterator[Sha]:
    for slot in observed.slots:
        yield from _served(observed, slot)
        yield from _worked_for(slot)
    for domain, slot in _domains(observed):
        proven = _newest_first(observed, domain)
        yield from _previous_good(observed, proven, slot)
        yield from (p.sha for p in proven[: observed.policy.retention.keep])
    yield from _wanted(observed)


def _served(observed: Observed, slot: SlotObserved) -> Iterator[Sha]:
    if slot.current is not None:
        yield slot.current
    for live in (slot.live, slot.fallback_live):
        if live is None:
            continue
        if live.release is not None:
            yield live.release
        for root in (live.static_root, live.previous_static_root):
            if root is not None:
                folders = set(root.split("/"))
                yield from (release.sha for release in observed.releases if release.sha in folders)


def _worked_for(slot: SlotObserved) -> Iterator[Sha]:
    yield from (run.release for run in (slot.run, slot.live_run, slot.fallback_run) if run is not None)
    alive = {process.generation for process in slot.processes}
    yield from (run.release for run in slot.recent_runs if run.generation in alive)


def _domains(observed: Observed) -> Iterator[tuple[Domain, SlotObserved]]:
    for slot in observed.slots:
        if slot.slot == MAIN:
            yield PRODUCTION, slot
        elif slot.lease is not None:
            yield slot.lease.domain, slot


def _newest_first(observed: Observed, domain: Domain) -> list[Proven]:
    on_disk = {release.sha for release in observed.releases}
    mine = (p for p in observed.proven if p.domain == domain and p.sha in on_disk)
    return sorted(mine, key=lambda p: p.generation, reverse=True)


def _previous_good(observed: Observed, proven: list[Proven], slot: SlotObserved) -> Iterator[Sha]:
    live = slot.live.release if slot.live is not None else None
    others = [p for p in proven if p.sha != live]
    yield from (p.sha for p in others[:1])
    healthy = (p.sha for p in others if not is_quarantined(observed, p.domain, p.tree))
    yield from (sha for sha in [next(healthy, None)] if sha is not None)


def _wanted(observed: Observed) -> Iterator[Sha]:
    heads: list[tuple[Domain, Head]] = []
    if observed.production_head is not None:
        heads.append((PRODUCTION, observed.production_head))
    heads.extend((PRODUCTION, override.head) for override in observed.overrides)
    heads.extend((pull_request_domain(pull.number), pull.head) for pull in observed.pulls if pull.head is not None)
    heads.extend((queue_domain(entry.number), entry.head) for entry in observed.queue_entries)
    for domain, head in heads:
        yield head.sha
        yield release_for(observed, Wanted(slot=MAIN, domain=domain, fence=0, head=head, cause=Cause.PUSH))
