"""Which trees may not be tried again, and what is wanted instead?

Only failures of the release itself quarantine its tree, and only in its own domain: nothing that a preview failed
touches production. A part that was away, a full disk or a squatted port never does.
"""

from __future__ import annotations

from controller.model.names import Domain, TreeId
from controller.model.nouns import Head, Proven, Quarantined, Run
from controller.model.states import Cause, RunState
from controller.model.world import MIGRATIONS_DIFFER, RECENT_RUNS_MAX, Observed


def quarantine_of(observed: Observed, domain: Domain, tree: TreeId) -> Quarantined | None:
    """Return what is remembered against this tree in this domain and was not lifted since, or None."""
    return next((q for q in observed.quarantined if (q.domain, q.tree) == (domain, tree)), None)


def is_quarantined(observed: Observed, domain: Domain, tree: TreeId) -> bool:
    """Say whether this tree failed in this domain by its own fault and was not lifted since."""
    return quarantine_of(observed, domain, tree) is not None


def freed_by_values(observed: Observed) -> tuple[tuple[Domain, Head], ...]:
    """Return what failed with other values of its slot than those of now: it may be tried again with these.

    Not what was quarantined by hand, whose reason is no run's."""
    found: list[tuple[Domain, Head]] = []
    for slot in observed.slots:
        for run in slot.recent_runs:
            known = quarantine_of(observed, run.domain, run.head.tree)
            newest = next(
                one for one in slot.recent_runs if one.domain == run.domain and one.head.tree == run.head.tree
            )
            has_failed = run is newest and run.state in (RunState.FAILED, RunState.ROLLED_BACK)
            if known is None or not has_failed or run.reason != known.reason:
                continue
            if run.configured is not None and run.configured != slot.configured:
                found.append((run.domain, run.head))
    return tuple(found)


def last_proven(observed: Observed, domain: Domain) -> Proven | None:
    """Return the newest proven release of the domain whose tree is not quarantined and whose files are on the disk."""
    on_disk = {release.sha for release in observed.releases}
    candidates = [
        proven
        for proven in observed.proven
        if proven.domain == domain and proven.sha in on_disk and not is_quarantined(observed, domain, proven.tree)
    ]
    return max(candidates, key=lambda proven: proven.generation, default=None)


def rollback_was_tried(recent_runs: tuple[Run, ...]) -> bool:
    """Say whether the automatic rollback of this push has failed or was refused: there is one at most, no ping-pong."""
    for run in recent_runs:  # newest first
        if run.cause is Cause.REPAIR:
            continue  # nobody pushed: it started again what served
        if run.cause is not Cause.ROLLBACK:
            return run.state is RunState.FAILED and run.reason == MIGRATIONS_DIFFER
        if run.state in (RunState.FAILED, RunState.ROLLED_BACK, RunState.STALLED):
            return True
    # The push is further back than we can see: then assume that it had its rollback.
    return len(recent_runs) >= RECENT_RUNS_MAX
