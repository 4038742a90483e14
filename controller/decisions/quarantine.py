"""Which trees may not be tried again, and what is wanted instead?

Only failures of the release itself quarantine its tree, and only in its own domain: nothing that a preview failed
touches production. A part that was away, a full disk or a squatted port never does.
"""

from __future__ import annotations

from controller.model.names import Domain, TreeId
from controller.model.nouns import Proven, Run
from controller.model.states import Cause, RunState
from controller.model.world import Observed


def is_quarantined(observed: Observed, domain: Domain, tree: TreeId) -> bool:
    """Say whether this tree failed in this domain by its own fault and was not lifted since."""
    return any((q.domain, q.tree) == (domain, tree) for q in observed.quarantined)


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
    """Say whether the automatic rollback of this push already failed: there is one at most, never a ping-pong."""
    for run in recent_runs:  # newest first
        if run.cause is not Cause.ROLLBACK:
            return False
        if run.state in (RunState.FAILED, RunState.ROLLED_BACK, RunState.STALLED):
            return True
    return False
