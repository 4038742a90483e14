"""What one tick knows: everything that was observed, gathered into one frozen value before anything is decided.

`observe` builds it, `plan` and its neighbours read it, nothing else is asked. A property test can build it too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from controller.model.config import Policy, Recipe
from controller.model.names import Domain, Sha, SlotName
from controller.model.nouns import (
    BuildFolder,
    CommandAnswer,
    Head,
    HoldOrder,
    Lease,
    Live,
    Override,
    PortFact,
    PreviewOrder,
    ProcessFact,
    Proven,
    PullRequest,
    Quarantined,
    QueueEntry,
    Release,
    Retry,
    Run,
    Stop,
    Trouble,
    Verdict,
)
from controller.model.reports import WantedReport
from controller.model.states import Cause, Outcome

Activity = Literal["checkout", "database", "job", "seal", "gate", "watch", "wipe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotObserved:
    """One slot of this host, as the host and the store show it."""

    slot: SlotName
    #: None: never written.
    live: Live | None = None
    #: What `current` names; None when it is missing or names no release.
    current: Sha | None = None
    #: The live lease; None for main and for a slot that nobody holds.
    lease: Lease | None = None
    #: The newest lease of the slot that ended; 0 when there was none.
    ended_fence: int = 0
    #: The lease that the slot was made ready for, and the last one of which nothing is left.
    provisioned_fence: int = 0
    wiped_fence: int = 0
    #: Until when an order by hand last kept the slot's units stopped; None when there was none.
    stopped_at: datetime | None = None
    #: Every unit of the slot, instances and jobs, running or ended and not yet forgotten.
    processes: tuple[ProcessFact, ...] = ()
    #: The run that is not ended.
    run: Run | None = None
    verdicts: tuple[Verdict, ...] = ()
    #: Bounded threads of this worker that work for the running run; "wipe" for the lease that ended. Asked before
    #: everything else of the slot, so that what a thread that is not in it has done is seen.
    activities: frozenset[Activity] = frozenset()
    #: Newest first, ended ones, at most `RECENT_RUNS_MAX`.
    recent_runs: tuple[Run, ...] = ()
    #: The run whose generation `live` names, and the one that it would fall back to.
    live_run: Run | None = None
    #: (of the running run, else of the live one)
    fallback_run: Run | None = None
    #: What `live` said while the fallback served, still on the disk; None when it or its release is gone.
    fallback_live: Live | None = None
    #: Unit and the line of its log that names the error, for units that ended; escaped, bounded, without secrets.
    error_lines: tuple[tuple[str, str], ...] = ()
    #: Of the running run's release:
    published: bool = False
    recipe: Recipe | None = None
    recipe_problem: str = ""
    build_sealed: bool = False
    #: The slot's database and role exist, made for this lease.
    database_ready: bool = False
    #: Tree id of the migrations folder at the running run's release; "" when there is none.
    wanted_migration_head: str = ""
    #: The migration head that the slot's database is at: that of the newest run that migrated it.
    database_migration_head: str | None = None
    #: The app's own environment file is another than when what `live` names was started.
    environment_changed: bool = False
    #: The version of the slot's own values that a run would begin with now, as `Run.configured`.
    configured: str = ""
    #: Its releases are of Oroboros itself, and replace api and worker: a judge switches to them.
    deploys_itself: bool = False
    #: The newest accepted order by hand says that differing migrations are accepted.
    accept_migrations: bool = False
    #: The host gets fewer slots, and this one goes once nothing of a lease is left in it.
    leaves: bool = False

    def verdict(self, kind: Literal["checkout", "gate", "confirm", "watch", "judge"]) -> Verdict | None:
        """Return the verdict of that kind about the running run, or None: one about anything else does not count."""
        if self.run is None:
            return None
        for verdict in self.verdicts:
            about_us = (verdict.generation, verdict.release) == (self.run.generation, self.run.release)
            if verdict.kind == kind and about_us and verdict.outcome is not Outcome.PENDING:
                return verdict
        return None


RECENT_RUNS_MAX = 10
#: At one pull request.
COMMANDS_SHOWN_MAX = 5
#: The reason of a run that was not restored because the database's migrations are not its own.
MIGRATIONS_DIFFER = "MigrationsDiffer"
#: The reason of a quarantine of what an order to roll back leaves.
ROLLED_BACK_BY_HAND = "RolledBackByHand"
#: The reason of a run that ended because another commit is wanted.
NEWER_HEAD = "NewerHead"
#: The reason of a hold, and of a run that ended, because a person wants nothing to run in the slot.
STOPPED_BY_HAND = "StoppedByHand"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Why nothing new is switched to in a slot now: an order by hand, or a freeze of the policy."""

    reason: str
    #: What the order or the policy says.
    why: str
    #: Who ordered it; "policy" for a freeze, "" for a port that is taken.
    by: str
    #: The first instant at which nothing holds it; None when no end is known.
    until: datetime | None
    #: The time zone to tell `until` in.
    timezone: str = "UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForcePush:
    """The production branch was moved to a commit that does not descend from the last accepted one."""

    old: Sha
    new: Sha
    kind: Literal["back", "aside"]
    #: "no_move": production had nothing to go back from.
    outcome: Literal["held", "followed", "no_move"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRefused:
    """Why production may not move to the head of its branch."""

    reason: str
    message: str
    #: The commit itself is at fault, not the way in which it came.
    blames_commit: bool = False
    #: It is being looked at: nothing is said against it yet.
    is_pending: bool = False
    #: The last accepted head is still wanted, since this one only adds to it.
    keeps_accepted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryHint:
    """A pending delivery that a fetch or listing, begun after it came, has answered."""

    seq: int
    #: "ref:<full ref>" or "pull:<number>".
    target: str
    sha: Sha | None
    received_at: datetime
    #: The sha is reachable from the production branch as just fetched.
    on_production: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The whole host and what the mirror and the last complete listing say is wanted."""

    production_head: Head | None = None
    #: Why production may not move to that head; None: it may.
    head_refused: HeadRefused | None = None
    #: The last head that production may move to.
    accepted_head: Head | None = None
    #: Why what was ordered by hand for production may not serve.
    order_refused: HeadRefused | None = None
    #: Commits whose signature must be verified before production may serve them.
    to_verify: tuple[Sha, ...] = ()
    #: That head came by force.
    force_push: ForcePush | None = None
    #: When the oldest push to the production branch was told of, or a look asked for, that no fetch has answered yet.
    unfetched_push_at: datetime | None = None
    #: No webhook told of this head: resync found it.
    production_head_found_by_resync: bool = False
    #: Open pull requests by the last complete listing, heads as fetched.
    pulls: tuple[PullRequest, ...] = ()
    #: When each waiting pull request began to wait; those not in it begin now.
    waiting_since: tuple[tuple[int, datetime], ...] = ()
    #: Of those, the pull requests that wait since this host has fewer slots.
    slot_removed: frozenset[int] = frozenset()
    #: False until a listing was complete: then nothing may be concluded from a missing pull request.
    pulls_listed: bool = False
    #: Entries of the merge queue, as fetched; one a pull request.
    queue_entries: tuple[QueueEntry, ...] = ()
    slots: tuple[SlotObserved, ...] = ()
    releases: tuple[Release, ...] = ()
    builds: tuple[BuildFolder, ...] = ()
    proven: tuple[Proven, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    overrides: tuple[Override, ...] = ()
    stops: tuple[Stop, ...] = ()
    #: The newest of each domain.
    retries: tuple[Retry, ...] = ()
    #: What is free where releases, builds and data folders lie; None when nobody can tell.
    disk_free_bytes: int | None = None
    #: What people said of single previews, as long as it counts.
    preview_orders: tuple[PreviewOrder, ...] = ()
    #: Ports of ours that other processes listen on.
    taken_ports: tuple[PortFact, ...] = ()
    #: Not ended by anybody; their time may be over.
    holds: tuple[HoldOrder, ...] = ()
    #: The last commands whose answer is shown, of each pull request that is open, or was lately, or that was given
    #: one lately: `COMMANDS_SHOWN_MAX` of those who may write, and as many of others.
    commands: tuple[CommandAnswer, ...] = ()
    hints: tuple[DeliveryHint, ...] = ()
    #: Reports that were wanted last and are open: those that nothing speaks for any more must still end.
    open_reports: tuple[WantedReport, ...] = ()
    policy: Policy = field(default_factory=Policy)
    policy_problems: tuple[str, ...] = ()
    #: What fails for so long that a person must be told.
    troubles: tuple[Trouble, ...] = ()
    #: (reason, subject) of the drifts that somebody ordered to heal.
    heal_ordered: frozenset[tuple[str, str]] = frozenset()
    #: The host's service manager keeps a unit that ended, and starts at boot what serves: one that is not there was
    #: stopped by somebody.
    ended_units_stay: bool = False

    def slot(self, name: SlotName) -> SlotObserved:
        return next(s for s in self.slots if s.slot == name)

    def quarantine_of(self, domain: Domain, head: Head) -> Quarantined | None:
        return next((q for q in self.quarantined if (q.domain, q.tree) == (domain, head.tree)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What one slot is to serve."""

    slot: SlotName
    domain: Domain
    fence: int
    head: Head
    cause: Cause
    accept_migrations: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Nothing new may go to the slot, and why: what serves goes on serving."""

    slot: SlotName
    reason: str
    message: str
