"""The things that Oroboros talks about, as frozen data: what is wanted, what was observed, what happened.

Everything here is a value: no I/O, no clock. Instants are aware UTC and end in `_at`; quantities end in their unit.
Facts of the host (`Live`, `ProcessFact`) are observations that age; facts of the store (`Run`, `Lease`) are history.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from controller.model.names import Colour, Domain, Sha, SlotName, TreeId, domain_of
from controller.model.states import Cause, Outcome, ProcessState, RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A commit that something wants served, and the tree that is its content."""

    sha: Sha
    tree: TreeId
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PullRequest:
    """An open pull request as the forge lists it. Only listings write these; a delivery is a hint to list again."""

    number: int
    head_sha: Sha
    head_branch: str
    title: str
    author: str
    #: False for a fork and for a pull request whose head repository is gone: never fetched, never run.
    same_repository: bool
    opened_at: datetime
    labels: tuple[str, ...] = ()
    is_draft: bool = False
    #: Where it is to be merged to; "" while no listing has told.
    base_branch: str = ""
    #: Its author is a program, by the forge's word.
    author_is_bot: bool = False
    #: The head as the mirror holds it after a fetch; None until then.
    head: Head | None = None
    #: What differs from where it left the production branch; None: unknown, or not asked for.
    changed_paths: tuple[str, ...] | None = None
    #: Why git would not take its objects, when that is its own fault; "" otherwise.
    refused_reason: str = ""
    refused_message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewOrder:
    """What somebody who may write said about one preview: run this very commit of it, or none."""

    pull_request: int
    kind: Literal["approval", "stop"]
    #: Of an approval: the commit, and the branch that it is to be merged to. Any other is not approved.
    sha: Sha | None = None
    base_branch: str = ""
    actor: str
    comment_id: int
    at: datetime


Permission = Literal["none", "read", "triage", "write", "maintain", "admin"]
#: The least first.
PERMISSIONS: tuple[Permission, ...] = ("none", "read", "triage", "write", "maintain", "admin")
WRITERS: tuple[Permission, ...] = PERMISSIONS[PERMISSIONS.index("write") :]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comment:
    """What somebody said at a pull request, or at an issue, as the forge shows it."""

    id: int
    pull_request: int
    #: False: at an issue that is no pull request.
    is_on_pull: bool
    author: str
    #: Neither a bot, nor written by a program in somebody's name.
    is_person: bool
    text: str
    #: By the forge's clock.
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandAnswer:
    """A command that somebody gave in a comment, and what became of it."""

    pull_request: int
    comment_id: int
    author: str
    permission: Permission
    #: `/preview`, `/preview stop`, `/rollback` and so on, with what followed.
    said: str
    state: Literal["done", "refused"]
    reason: str
    message: str
    #: The commit that it is bound to.
    sha: Sha | None
    commented_at: datetime
    decided_at: datetime


#: What a delivery about a Re-run is about begins so.
RERUN_TARGET = "rerun:"
#: Of a whole suite: every context at the commit.
EVERY_CONTEXT = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerun:
    """A person's click on Re-run at a commit's check, as a delivery told of it."""

    #: `oroboros/production`, `oroboros/preview`, or `EVERY_CONTEXT`.
    context: str
    login: str

    @property
    def target(self) -> str:
        """How a delivery names it; `read_rerun` reads it."""
        return f"{RERUN_TARGET}{self.context}:{self.login}"


def read_rerun(target: str) -> Rerun:
    """Return what `Rerun.target` wrote."""
    context, _, login = target.removeprefix(RERUN_TARGET).partition(":")
    return Rerun(context=context, login=login)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortFact:
    """A port of ours that another process listens on."""

    what: str
    port: int
    #: The process, its user and its unit, in words.
    owner: str
    #: The slots that visitors cannot reach because of it.
    blocks: tuple[SlotName, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Something that the worker tries again and again in vain."""

    #: "fetch", "list", "comments", "database", "redis", "disk", "report status", "checkout main".
    subject: str
    #: Of the last try.
    reason: str
    message: str
    #: When the first try in a row failed, and when the last one did.
    since: datetime
    last_at: datetime
    tries: int
    #: It may end by itself, as when a part is away.
    passes: bool
    #: Not tried again by then: nothing tries it any more.
    again_by: datetime
    #: The head of the production branch that it keeps from being fetched, if the forge says it.
    sha: Sha | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """A person asked to try a commit anew: what failed before counts no more, whoever's fault it was."""

    domain: Domain
    sha: Sha
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueEntry:
    """A pull request in the forge's merge queue: merged onto its base, on a branch of the queue, and not there yet."""

    number: int
    #: The branch that it is to be merged to.
    base_branch: str
    head: Head


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A claim on a preview slot: a pull request's, or that of its entry in the merge queue. `fence` grows with each
    lease; every effect in the slot checks it."""

    fence: int
    slot: SlotName
    pull_request: int
    #: It is the entry's, and not the pull request's own.
    in_queue: bool = False
    claimed_at: datetime
    expires_at: datetime

    @property
    def domain(self) -> Domain:
        return domain_of(self.pull_request, in_queue=self.in_queue)

    def is_of(self, pull_request: int) -> bool:
        """Say whether it is the pull request's own."""
        return not self.in_queue and self.pull_request == pull_request


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A published release: `releases/<sha>` holds the tree, complete."""

    sha: Sha
    tree: TreeId
    published_at: datetime
    #: Tree id of the recipe's migrations folder at this commit; "" when there is none.
    migration_head: str = ""
    pinned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildFolder:
    """A folder of builds on the disk, whole or not: `builds/<domain>/<name>`."""

    domain: Domain
    #: The tree that it was built from, a dash, and what the recipe is known by.
    name: str

    @property
    def tree(self) -> TreeId:
        return TreeId(self.name.partition("-")[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """A release passed its gate, served and survived its window in a domain, in the run `generation`."""

    domain: Domain
    sha: Sha
    tree: TreeId
    generation: int
    proven_at: datetime
    migration_head: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What a slot serves: the content of `slots/<slot>/live`, the truth of the switch."""

    slot: SlotName
    state: Literal["free", "live"]
    #: The run that switched (its id); 0 for a slot that never served.
    generation: int
    #: The lease that owned the slot at the switch; 0 for main and for a free slot.
    fence: int = 0
    release: Sha | None = None
    tree: TreeId | None = None
    colour: Colour | None = None
    #: `127.0.0.1:8200` or `unix//run/x.sock` (Caddy's spelling of a dial address); None when nothing runs.
    address: str | None = None
    #: Absolute, resolved folder; None when the release has no static files.
    static_root: str | None = None
    #: The static root of the release before, for assets of pages that are still open.
    previous_static_root: str | None = None
    #: File under the static root that answers paths which no file has (single-page apps); None: 404.
    fallback: str | None = None
    #: Requests under this prefix go to the instance, never to files. "/" when there are no static files.
    api_prefix: str = "/"
    #: What the gate asks of the instance, and so does the surface's own health.
    health_path: str = "/"
    #: The instance's status that is well; None without an instance, and where `live` was written before it was kept:
    #: whatever is no error.
    health_status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFact:
    """An instance or a job as the runtime shows it, running or ended. `unit` is `names.instance_unit` or `job_unit`."""

    unit: str
    generation: int
    state: ProcessState
    pid: int | None = None
    #: None while running; negative: killed by that signal.
    exit_code: int | None = None
    timed_out: bool = False
    started_at: datetime
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a gate, a confirmation (3 probes through surface and edge) or a watch window said of one run.

    Keyed by (slot, generation, release): a verdict about anything else is not about us.
    """

    kind: Literal["checkout", "gate", "confirm", "watch", "judge"]
    slot: SlotName
    generation: int
    release: Sha
    outcome: Outcome
    reason: str = ""
    message: str = ""
    #: False when a part was away (database, disk, squatted port): the release is not to blame, no quarantine.
    blames_release: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One attempt to bring one release to one slot. Its id is the generation: it grows with every attempt."""

    generation: int
    slot: SlotName
    domain: Domain
    fence: int
    #: The commit that is to be live, and what the status is about.
    head: Head
    #: The release that serves it; another sha than the head's after a revert, since the trees are equal.
    release: Sha
    cause: Cause
    state: RunState
    colour: Colour | None
    #: How many workers have worked on it: each but the last died over it.
    attempts: int
    begun_at: datetime
    switched_at: datetime | None = None
    #: Set when 3 probes passed after the switch.
    confirmed_at: datetime | None = None
    watch_until: datetime | None = None
    ended_at: datetime | None = None
    migration_head: str = ""
    #: Which version of the slot's own values it began with, "" for none; None: before that was kept.
    configured: str | None = None
    #: The generation that served before this one's switch: what a failed window goes back to.
    fallback: int | None = None
    #: True once the window passed.
    proven: bool = False
    #: Level of proof that the gate reached: "owner", "echo", "static".
    proof: str = ""
    reason: str = ""
    #: Why it ended, in words that may be an app's own: shown, never read.
    message: str = ""
    #: The commit that took over, or the release that production goes back to; "" without one. Its first 7 digits at
    #: least.
    successor: str = ""
    #: Of one that was rolled back: `live` was made to say at once what it said before.
    switched_back: bool = False
    #: Rows of the host's health that were unwell right before the switch; None: it is not judged by the host.
    unwell_before: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """A tree that failed in a domain by its own fault; lifted by an order by hand or a changed environment file."""

    domain: Domain
    tree: TreeId
    sha: Sha
    reason: str
    message: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """An order by hand: this sha shall be live in this slot, until lifted. A rollback ends at the first later head
    whose tree is not quarantined; a deploy ends at the first later head."""

    id: int
    slot: SlotName
    kind: Literal["deploy", "rollback"]
    head: Head
    #: The production head when the order was given: "later" means any other.
    ordered_at_head: Sha | None
    accept_migrations: bool
    actor: str
    reason: str
    at: datetime
    #: Why it goes although the slot is held or frozen; "": it waits like a push.
    despite_hold: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What verifying a commit came to."""

    sha: Sha
    #: The version of the host's files that say who may sign.
    signers: str
    #: Why it does not count; "" when it is good.
    reason: str
    #: Who signed, or what is wrong.
    said: str
    checked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldOrder:
    """An order by hand: nothing new is switched to in this slot, as long as this lease holds it, until then."""

    id: int
    slot: SlotName
    #: The lease that it is about; 0 for main.
    fence: int
    #: None: until somebody ends it.
    until: datetime | None
    actor: str
    reason: str
    at: datetime


#: Who orders what nobody ordered by hand.
WORKER = "worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """An order, by hand or by the worker where the disk is nearly full: nothing of this slot shall run, as long as this
    lease holds it. It ends by hand, or by itself: with the lease, with an order of a release, and, of a restart, once
    nothing runs any more."""

    id: int
    slot: SlotName
    kind: Literal["stopped", "restart"]
    #: The lease that it is about; 0 for main.
    fence: int
    actor: str
    reason: str
    at: datetime


Handling = Literal["heals", "held", "by_hand"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Something on the host that somebody else changed, and what becomes of it."""

    reason: str
    #: None when it is not of one slot.
    slot: SlotName | None
    #: What differs: a link, a unit, a file, a port. With the reason it tells one drift from another.
    subject: str
    message: str
    #: "heals": the loop puts it right. "held": policy keeps it. "by_hand": it belongs to root.
    handling: Handling


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenDrift:
    """A drift as it was remembered, of which no look has said that it is over."""

    id: int
    drift: Drift
    found_at: datetime
    #: Somebody ordered to heal it, whatever the policy says.
    heal_ordered: bool = False
