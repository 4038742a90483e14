"""Decides which entries of the forge's merge queue are still to be checked, and what is said of those that wait.

The forge merges a pull request onto its base, on a branch of the queue, and goes on once the required checks pass at
that commit. An entry is built and gated like a preview, in a preview slot, and never switched to. Each commit is
checked once, whatever comes of it: the forge takes an entry whose check failed out of the queue, and makes a new commit
when the pull request is queued again. So nothing of it is quarantined.
https://docs.github.com/repositories/configuring-branches-and-merges-in-your-repository/configuring-pull-request-merges/managing-a-merge-queue
"""

from __future__ import annotations

from controller.model.names import queue_domain
from controller.model.nouns import Lease, QueueEntry, Run
from controller.model.states import RUN_TERMINAL, RunState
from controller.model.world import Observed

#: Why the lease of an entry ends.
CHECKED = "its entry in the merge queue is checked"
DROPPED = "the merge queue no longer has its entry"
#: What its status says.
PASSED = "passed its gate for the merge queue; not deployed"


def entry_of(observed: Observed, lease: Lease) -> QueueEntry | None:
    """Return the entry that a lease is for; None for the lease of a preview, and once the entry is gone."""
    if not lease.in_queue:
        return None
    return next((entry for entry in observed.queue_entries if entry.number == lease.pull_request), None)


def is_checked(observed: Observed, entry: QueueEntry) -> bool:
    """Say whether a run has shown how this very commit does, and no person has asked for another try since."""
    domain, head = queue_domain(entry.number), entry.head
    runs = [run for slot in observed.slots for run in (slot.run, *slot.recent_runs) if run is not None]
    mine: list[Run] = [run for run in runs if (run.domain, run.head.sha) == (domain, head.sha)]
    newest = max(mine, key=lambda run: run.generation, default=None)
    if newest is None or newest.state not in RUN_TERMINAL or newest.state is RunState.SUPERSEDED:
        return False
    return not any((r.domain, r.sha) == (domain, head.sha) and r.at > newest.begun_at for r in observed.retries)
