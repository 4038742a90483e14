"""The loop: observe → plan → execute → report, again and again; the one place where expected errors are decided about.

A tick settles leases for the whole host first, then plans and executes slot by slot, so that a broken preview cannot
hold production back. It waits for nothing: what is slow runs beside it and rings the bell at its end. Between ticks
there is one wait, over the bell and the next timer. No state in memory survives a tick but what it would be wrong to
lose only for politeness: when a look at the forge last failed, and which plan was tried last.

Accepted races. (A) A ring between observe and wait is kept by the event, so the next tick comes at once. (B) A
delivery committed while a tick runs is pending for the next one. (C) Another worker may take over at any moment: every
write of ours is fenced by the epoch, and the switch by lock, epoch, run and lease.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial

from controller.decisions.admission import forks_to_fetch
from controller.decisions.disk_floor import previews_to_stop
from controller.decisions.drift import (
    BY_HAND,
    PORT,
    PORT_TAKEN,
    RELEASE_EDITED,
    SEEN_BY_TICK,
    describe_taken,
    judge_drift,
    port_subject,
)
from controller.decisions.explain import why
from controller.decisions.fitness import DATABASE_TROUBLES, RUNTIME_TROUBLES, WorkerFacts
from controller.decisions.forget import select_spent_quarantines
from controller.decisions.github.repository import Repository, require_ours
from controller.decisions.holds import held_run, held_slot
from controller.decisions.order import describe_force_push
from controller.decisions.plan import desired, plan_slot
from controller.decisions.projection import project_all
from controller.decisions.quarantine import freed_by_values
from controller.decisions.refresh import Hint, Looks, is_reading_due, pause_ends_at, plan_refresh
from controller.decisions.retention import select_prunable, select_spent_builds
from controller.decisions.slots import SlotPlan, assign_slots, may_preview
from controller.decisions.standings import judge_releases
from controller.decisions.timers import next_look_at
from controller.effects.github_http import Forge
from controller.effects.mirror import Mirror, PullNotFetched
from controller.effects.store import History, LostEpoch
from controller.failpoints import failpoint
from controller.loop.answering import Answering
from controller.loop.execute import HEAD_ASKED_S, Hands
from controller.loop.housekeeping import Housekeeping
from controller.loop.observe import observe, observe_releases, production_ref
from controller.loop.troubles import Troubles
from controller.model.config import Policy
from controller.model.errors import OroborosError, Stalled, Unavailable, Waiting
from controller.model.names import MAIN, Sha, SlotName, pull_request_domain
from controller.model.nouns import WORKER, Drift, PullRequest, Signature, Trouble
from controller.model.reports import Surface
from controller.model.states import ProcessState
from controller.model.steps import DropBuild, Prune, Step
from controller.model.world import Held, Hold, Observed, SlotObserved, Wanted

#: A timer is looked at so long after its instant: never before it.
TIMER_SLACK_S = 0.01
#: The same plan again means that its steps take effect slowly, or not: no busy loop.
PAUSE_MIN_S = 0.05
PAUSE_MAX_S = 5.0
#: Between two signs of life: a fraction of the watchdog of a host's unit, `host_units.WORKER_WATCHDOG_S`.
ALIVE_EVERY_S = 10.0
#: Between two turns of housekeeping, and what one takes out of use at most.
HOUSE_EVERY_S = 30.0
LET_GO_MAX = 500
#: A commit whose signature was refused is looked at again.
VERIFY_AGAIN_S = 60.0

#: Subjects of troubles: a look has two halves.
FETCH, LIST = "fetch", "list"
TICK_SUBJECTS = ("database", "runtime", "tick")
#: With less, the next release hardly fits.
DISK_FREE_BYTES_MIN = 64 << 20

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotDecision:
    """What a tick decided about one slot, and why: `oroboros plan` prints it."""

    slot: SlotName
    wanted: Wanted | Hold | None
    steps: tuple[Step, ...]
    because: str
    #: What keeps its run, or the next one, from going on.
    held: Held | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a tick decided about the whole host."""

    slots: SlotPlan
    each: tuple[SlotDecision, ...]
    prune: tuple[Prune | DropBuild, ...]

    @property
    def steps(self) -> tuple[Step, ...]:
        return (*self.slots.steps, *(step for one in self.each for step in one.steps), *self.prune)


def decide(observed: Observed, *, now: datetime) -> Decision:
    """Return everything that one tick would do. Pure: the dry run is the run without its hands."""
    each: list[SlotDecision] = []
    for slot in observed.slots:
        wanted = desired(observed, slot)
        steps = plan_slot(wanted, observed, slot, now=now)
        run = slot.run
        held = held_slot(observed, slot, now=now) if run is None else held_run(observed, slot, run, now=now)
        because = why(wanted, slot, steps, held=held)
        each.append(SlotDecision(slot=slot.slot, wanted=wanted, steps=steps, because=because, held=held))
    return Decision(
        slots=assign_slots(observed, now=now),
        each=tuple(each),
        prune=(*select_prunable(observed, now=now), *select_spent_builds(observed)),
    )


@dataclass(slots=True)
class Health:
    """What the worker says about itself on its health port."""

    started_at: datetime
    last_tick_at: datetime | None = None
    last_error: str = ""
    last_error_at: datetime | None = None
    pending_deliveries: int = 0
    oldest_pending_at: datetime | None = None
    #: The last look at the forge failed.
    looks_fail: bool = False
    #: How many ticks were finished.
    ticks: int = 0
    #: What fails for so long that a person must be told.
    troubles: Callable[[], tuple[Trouble, ...]] = tuple
    #: Why the last tick was not finished, and since when none was; "" when it was.
    trouble: str = ""
    trouble_since: datetime | None = None

    def note_error(self, error: str, *, now: datetime) -> None:
        """Keep the last error, which may be over long since, with its time."""
        self.last_error, self.last_error_at = error, now

    def note_trouble(self, reason: str, *, now: datetime) -> None:
        """Keep why a tick was not finished; the time is that of the first in a row."""
        self.trouble, self.trouble_since = reason, self.trouble_since or now

    def facts(self, *, hears_bell: bool) -> WorkerFacts:
        """Return what decides whether the worker is fit."""
        return WorkerFacts(
            started_at=self.started_at,
            last_tick_at=self.last_tick_at,
            trouble=self.trouble,
            trouble_since=self.trouble_since,
            oldest_pending_at=self.oldest_pending_at,
            looks_fail=self.looks_fail,
            hears_bell=hears_bell,
            troubles=self.troubles(),
        )


@dataclass(slots=True)
class Reconciler:
    """One worker's loop."""

    hands: Hands
    forge: Forge
    answering: Answering
    housekeeping: Housekeeping
    production_branch: str | None
    poll_interval_s: float
    resync_s: float
    #: Where reports are shown.
    surfaces: tuple[Surface, ...]
    wake_reports: Callable[[], None]
    #: Called in each round of the loop, and every `ALIVE_EVERY_S` of a wait: we do not hang.
    tell_alive: Callable[[], None]
    clock: Callable[[], datetime]
    health: Health
    troubles: Troubles
    #: The worker hears when it is rung for.
    hears_bell: Callable[[], bool]
    bell: threading.Event = field(default_factory=threading.Event)
    _reading_failures: int = 0
    _reading_failed_at: datetime | None = None
    _reading_told_retry_at: datetime | None = None
    _failures: int = 0
    _failed_at: datetime | None = None
    _told_retry_at: datetime | None = None
    _last_plan: tuple[Step, ...] = ()
    _same_plan_count: int = 0
    _house_kept_at: datetime | None = None
    _told_plan: tuple[Step, ...] = ()
    #: Run and process of each instance when it was last seen to run, by unit.
    _ran: dict[str, tuple[int, int]] = field(default_factory=dict)
    _verified_at: datetime | None = None
    #: What the standings that were written last followed from.
    _standings_of: object = None
    #: Orders to heal a release that a look has begun for.
    _heals_begun: frozenset[int] = frozenset()

    def run(self, stop: threading.Event) -> None:
        """Tick until `stop` is set. Raises `LostEpoch` when another worker took over, and every bug."""
        pause_s = PAUSE_MIN_S
        while not stop.is_set():
            self.bell.clear()
            self.tell_alive()
            try:
                wait_s = self.tick()
                pause_s = PAUSE_MIN_S
            except LostEpoch:
                raise
            except (Unavailable, Waiting, Stalled) as error:
                # The old releases go on serving; nothing switches while we cannot see or remember.
                self._note_error(error)
                self.health.note_trouble(error.reason, now=self.clock())
                self.troubles.failed(_subject_of_tick(error.reason), error)
                wait_s, pause_s = pause_s, min(PAUSE_MAX_S, pause_s * 2)
            wait_alive(self.bell, min(wait_s, self.resync_s), self.tell_alive)

    def tick(self) -> float:
        """Observe, plan, execute, report once; return how many seconds may pass before the next tick, unless rung."""
        self.hands.background.raise_bugs()
        now = self.clock()
        observed, history = observe(self.hands.sight)
        self._note_parts(observed)
        self._tell_restarts(observed)
        observed = replace(observed, troubles=self.troubles.lasting())
        self._refresh(history, observed.policy, now=now)
        self._read_comments(history, observed, now=now)
        self._free(observed, now=now)
        decision = decide(observed, now=now)
        self._note_head(observed, history, now=now)
        self._verify_signatures(observed, history, now=now)
        self._note_drifts(observed, history)
        self._verify_released(observed, history, now=now)
        keeps_house = self._house_kept_at is None or now >= self._house_kept_at + timedelta(seconds=HOUSE_EVERY_S)
        steps = decision.steps if keeps_house else decision.steps[: len(decision.steps) - len(decision.prune)]
        self._tell(decision, steps)
        self._execute_leases(observed, decision.slots, now=now)
        self._keep_room(observed, now=now)
        for one in decision.each:
            self._execute_slot(one, observed, now=now)
        self._keep_house(observed, decision, is_due=keeps_house, now=now)
        self._note_standings(observed, history, now=now)
        self._report(observed, decision, now=now)
        self._note_tick(history, now=now)
        return self._wait_s(observed, decision, steps, now=now)

    # -- parts of a tick --------------------------------------------------------------------------------------------

    def _free(self, observed: Observed, *, now: datetime) -> None:
        """Let be tried again what failed before the values of its slot were changed; the next tick begins it."""
        for domain, head in freed_by_values(observed):
            self.hands.store.try_anew(domain=domain, head=head, actor="changed values", now=now)
            log.info(
                "values: %s of %s failed with other values, and is tried again", head.sha[:7], domain,
                extra={"action": "values.freed", "sha": head.sha},
            )  # fmt: skip

    def _refresh(self, history: History, policy: Policy, *, now: datetime) -> None:
        """Begin a look at the forge if one is due; it ends in the store and the mirror."""
        looks = Looks(
            fetched_at=history.repository.fetched_at,
            listed_at=history.repository.listed_at,
            failures_in_a_row=self._failures,
            last_failure_at=self._failed_at,
            told_retry_at=self._told_retry_at,
            not_before=self._not_before(history),
        )
        hints = [Hint(target=delivery.target, armed_at=delivery.armed_at) for delivery in history.pending]
        refresh = plan_refresh(hints, looks, resync_s=self.resync_s, now=now)
        if refresh is None:
            return
        branch, replaced = history.repository.production_branch, history.repository.replaced_by is not None
        seqs = [delivery.seq for delivery in history.pending]
        known = history.pulls
        pushed = _pushed_last(history)
        self.hands.background.start(
            ("refresh", None),
            lambda: self._look(
                listing=refresh.listing,
                branch=branch,
                replaced=replaced,
                known=known,
                policy=policy,
                seqs=seqs,
                pushed=pushed,
            ),
        )

    def _read_comments(self, history: History, observed: Observed, *, now: datetime) -> None:
        """Begin to read what people said, if that is due."""
        looks = Looks(
            fetched_at=history.repository.fetched_at,
            listed_at=history.repository.listed_at,
            comments_read_at=history.repository.comments_read_at,
            failures_in_a_row=self._reading_failures,
            last_failure_at=self._reading_failed_at,
            told_retry_at=self._reading_told_retry_at,
            not_before=self._not_before(history),
        )
        hints = [Hint(target=delivery.target, armed_at=delivery.armed_at) for delivery in history.pending]
        # Without a listing nothing is known of the heads that a comment may mean; before the first one of this worker
        # not whether the repository is still the one that we know, so that its people may order something here.
        is_listed = looks.listed_at is not None and looks.listed_at >= self.health.started_at
        if history.repository.replaced_by is not None or not is_listed:
            return
        if is_reading_due(hints, looks, resync_s=self.resync_s, now=now):
            self.hands.background.start(("comments", None), lambda: self._answer(observed))

    def _answer(self, observed: Observed) -> None:
        """Read and answer; runs in a thread of its own."""
        began_at = self.clock()
        try:
            self.answering.read(observed)
        except LostEpoch:
            raise
        except OroborosError as error:
            self._reading_failures += 1
            self._reading_failed_at, self._reading_told_retry_at = began_at, _told_retry_at(error)
            log.warning("comments: %s", error, extra={"action": "comments.failed"})
            self.health.note_error(str(error), now=self.clock())
            self.troubles.failed("comments", error)
            return
        self._reading_failures, self._reading_failed_at = 0, None
        self.troubles.worked("comments")

    def _not_before(self, history: History) -> datetime:
        """Looks that began before this instant missed something."""
        repository = history.repository
        instants = (self.health.started_at, repository.receiver_started_at, repository.look_asked_at)
        return max(filter(None, instants))

    def _look(
        self,
        *,
        listing: bool,
        branch: str | None,
        replaced: bool,
        known: tuple[PullRequest, ...],
        policy: Policy,
        seqs: list[int],
        pushed: Sha | None,
    ) -> None:
        """List (when asked) and fetch; runs in a thread of its own. A fork's commit is fetched if it is approved.

        A list that cannot be had keeps nothing from being fetched: production goes by git alone. It fails the look, so
        that it is tried again soon, and the list that we have stays. `replaced`: the name of the repository led to
        another one when it was last asked for; nothing is fetched before that is over. `pushed` is the newest head of
        production that a delivery named."""
        side = self.hands.side
        look_began_at = self.clock()
        not_listed: Unavailable | None = None
        subject = FETCH
        try:
            if seqs:
                side.record_looks(seqs)
            # What failed may fail slowly, and again.
            fetch_first = branch is not None and not replaced and (not listing or self._failures > 0)
            if branch is not None and fetch_first:
                self._fetch(branch, known, policy)
            if listing or branch is None or replaced:
                listed_at, subject = self.clock(), LIST
                try:
                    found = self._identify()
                    if branch is None:
                        branch = self.production_branch or found.default_branch
                        side.record_branch(branch)
                    pulls = self.forge.open_pulls()
                    self.troubles.worked(LIST)
                except Unavailable as error:
                    if branch is None or replaced:
                        raise
                    not_listed = error
                else:
                    subject = FETCH
                    self._fetch(branch, pulls, policy, listed_at=listed_at)
            if not_listed is not None:
                subject = FETCH
                if branch is not None and not fetch_first:
                    self._fetch(branch, known, policy)
                subject = LIST
                raise not_listed
        except LostEpoch:
            raise
        except OroborosError as error:
            self._failures += 1
            # Not when it ended: a push that came meanwhile is news, and does not wait for a pause that has grown.
            self._failed_at, self._told_retry_at = look_began_at, _told_retry_at(error)
            level = logging.ERROR if isinstance(error, Stalled) else logging.WARNING
            log.log(level, "look: %s", error, extra={"action": "look.failed"})
            self.health.note_error(str(error), now=self.clock())
            kept_back = self._head_kept_back(branch, pushed) if subject == FETCH else None
            self.troubles.failed(subject, error, sha=kept_back)
            return
        self._failures, self._failed_at = 0, None

    def _fetch(
        self, branch: str, pulls: tuple[PullRequest, ...], policy: Policy, *, listed_at: datetime | None = None
    ) -> None:
        """Fetch the heads of production and of these pull requests, and remember both. `listed_at`: they are a new
        list, which counts once its heads are here."""
        side, began_at = self.hands.side, self.clock()
        approved = forks_to_fetch(pulls, policy, side.load_preview_orders())
        own = [pull.number for pull in pulls if pull.same_repository]
        mirror, refused = self._ask_git(branch, own, approved)
        if listed_at is not None:
            side.record_listing(pulls, began_at=listed_at)
        side.record_fetch(
            production=mirror.production_head(),
            ref=f"refs/heads/{branch}",
            refused=[(pull.number, pull.reason, pull.message) for pull in refused],
            began_at=began_at,
        )
        self.troubles.worked(FETCH)

    def _head_kept_back(self, branch: str | None, pushed: Sha | None) -> Sha | None:
        """Return the head of the production branch that a fetch did not bring, as git says, or else a delivery."""
        if branch is None:
            return None
        mirror = self.hands.open_mirror()
        try:
            found = mirror.ask_head(branch, timeout_s=HEAD_ASKED_S)
        except OroborosError:
            found = pushed  # the fetch failed by more than its objects
        try:
            known = mirror.production_head()
        except OroborosError:
            known = None
        return None if known is not None and known.sha == found else found

    def _note_parts(self, observed: Observed) -> None:
        """Note what of database, runtime, Redis and disk works at this tick, and what does not."""
        self.troubles.worked(*TICK_SUBJECTS)
        if self.hears_bell():
            self.troubles.worked("redis")
        else:
            said = "the worker does not hear Redis, and learns of a delivery by its next poll only"
            self.troubles.failed("redis", Unavailable("RedisAway", said))
        free = observed.disk_free_bytes
        if free is not None and free < DISK_FREE_BYTES_MIN:
            said = f"{free >> 20} MiB are free where releases lie: nothing new may fit"
            self.troubles.failed("disk", Unavailable("DiskFull", said))
        else:
            self.troubles.worked("disk")
        self._note_ports(observed)

    def _note_ports(self, observed: Observed) -> None:
        """Note which ports of ours other processes have. What listens there tries again by itself, but for systemd,
        which gives up a socket that it could not bind."""
        now_free = self.troubles.still_failing(PORT, (port_subject(fact) for fact in observed.taken_ports))
        for subject in now_free:
            log.warning("%s is ours again", subject, extra={"action": "port.free"})
        for fact in observed.taken_ports:
            if self.troubles.failed(port_subject(fact), Stalled(PORT_TAKEN, describe_taken(fact))):
                log.error("%s", describe_taken(fact), extra={"action": "port.taken", "reason": PORT_TAKEN})
        if f"{PORT}{self.hands.topology.ports.api}" in now_free:
            try:
                self.hands.runtime.reopen_api_port()
            except Unavailable as error:
                self._note_error(error)

    def _note_head(self, observed: Observed, history: History, *, now: datetime) -> None:
        """Remember which head production may move to, and tell when its branch was moved by force, once."""
        head, refused, known = observed.production_head, observed.head_refused, history.repository
        if head is None or (refused is not None and refused.is_pending):
            return
        told = (known.refused_sha, known.refused_reason) if refused is None else (head.sha, refused.reason)
        is_new = refused is not None and (known.refused_sha, known.refused_reason) != told
        is_over = refused is None and (known.accepted_sha != head.sha or known.refused_sha is not None)
        if not is_new and not is_over:
            return
        self.hands.store.record_head(head.sha, refused=refused, force_push=observed.force_push, now=now)
        if observed.force_push is not None:
            said = describe_force_push(observed.force_push)
            log.warning("order: %s: %s", said, observed.force_push.outcome, extra={"action": "order.forced"})
        if refused is not None:
            log.warning(
                "order: %s: %s",
                refused.reason,
                refused.message,
                extra={"action": "order.refused", "reason": refused.reason},
            )

    def _verify_signatures(self, observed: Observed, history: History, *, now: datetime) -> None:
        """Begin to verify the commits of which it is not known who signed them, those that were refused again later:
        what is missing on the host may have come, and a key may count by now."""
        signatures = self.hands.sight.signatures
        signers = signatures.version() if observed.to_verify else ""
        for sha in observed.to_verify:
            known = next((one for one in history.signatures if (one.sha, one.signers) == (sha, signers)), None)
            again_at = None if known is None else known.checked_at + timedelta(seconds=VERIFY_AGAIN_S)
            if known is None or (known.reason and again_at is not None and again_at <= now):
                self.hands.background.start(("signature", None), partial(self._verify, sha))
                return

    def _verify(self, sha: Sha) -> None:
        """Verify one commit; runs in a thread of its own. What could not be found out is tried again."""
        signatures, now = self.hands.sight.signatures, self.clock()
        signers = signatures.version()
        try:
            found = signatures.verify(sha, now=now)
        except OroborosError as error:
            found = Signature(sha=sha, signers=signers, reason=error.reason, said=error.message, checked_at=now)
        if found.reason:
            log.warning(
                "signature: %s: %s: %s",
                sha,
                found.reason,
                found.said,
                extra={"action": "signature.refused", "sha": sha, "reason": found.reason},
            )
        try:
            self.hands.side.record_signature(found)
        except Unavailable as error:
            self.health.note_error(str(error), now=self.clock())

    def _note_drifts(self, observed: Observed, history: History) -> None:
        """Remember and tell what somebody else changed, before any of it is put right."""
        drifts = judge_drift(observed)
        known = {_key(o.drift) for o in history.drifts if o.drift.reason in SEEN_BY_TICK}
        if known != {_key(drift) for drift in drifts}:
            self.hands.note_drifts(self.hands.store, drifts, looked_at=SEEN_BY_TICK)

    def _verify_released(self, observed: Observed, history: History, *, now: datetime) -> None:
        """Begin to verify what serves, at the pace of the resync, and once at an order to heal."""
        edited = tuple(o for o in history.drifts if o.drift.reason in {RELEASE_EDITED, *BY_HAND})
        ordered = {o.id for o in edited if o.heal_ordered}
        if self._verified_at is None:
            self._verified_at = now
        if now < self._verified_at + timedelta(seconds=self.resync_s) and ordered <= self._heals_begun:
            return
        if self.hands.background.start(("integrity", None), lambda: self.hands.verify_released(observed, edited)):
            self._verified_at, self._heals_begun = now, frozenset(ordered)

    def _ask_git(
        self, branch: str, pulls: list[int], approved: Sequence[tuple[int, Sha]]
    ) -> tuple[Mirror, tuple[PullNotFetched, ...]]:
        """Fetch; git follows no redirect, so a repository that was renamed is asked for its new address first."""
        if self.forge.is_moved:
            self._learn_name()
        mirror = self.hands.open_mirror()
        mirror.ensure()
        try:
            return mirror, mirror.fetch(branch=branch, pulls=pulls, approved=approved)
        except Unavailable as error:
            if error.reason != "RedirectRefused":
                raise
        self._learn_name()
        mirror = self.hands.open_mirror()
        return mirror, mirror.fetch(branch=branch, pulls=pulls, approved=approved)

    def _identify(self) -> Repository:
        """Ask for the repository; Stalled when its name leads to another one than we know."""
        found = self.forge.repository()
        self.hands.side.record_repository(found)
        require_ours(found, pinned=self.hands.side.load_repository().forge_id)
        return found

    def _learn_name(self) -> None:
        found = self._identify()
        log.warning(
            "look: the repository is called %s now; set OROBOROS_REPOSITORY",
            found.full_name,
            extra={"action": "look.renamed"},
        )

    def _execute_leases(self, observed: Observed, plan: SlotPlan, *, now: datetime) -> None:
        for step in plan.steps:
            self._attempt(step, observed, now=now)
        since = dict(observed.waiting_since)
        new = [p.pull_request for p in plan.queue if p.pull_request not in since and not p.in_queue]
        if new:
            self.hands.store.record_waiting(new, now=now)
        gone = [pull.number for pull in observed.pulls if pull.number in since and not may_preview(pull, observed)]
        if gone:
            self.hands.store.forget_waiting(gone)

    def _keep_room(self, observed: Observed, *, now: datetime) -> None:
        """Stop previews before they fill the disk of all; the next tick sees the orders, and comes at once."""
        for one in previews_to_stop(observed):
            live, why = observed.slot(one.slot).live, f"{one.reason}: {one.message}"
            self.hands.store.record_stop(
                slot=one.slot, kind="stopped", fence=one.fence, live=live, actor=WORKER, reason=why, now=now
            )
            log.error("%s is stopped: %s", one.slot, why, extra={"action": "disk.low", "slot": one.slot})
            self.bell.set()

    def _execute_slot(self, one: SlotDecision, observed: Observed, *, now: datetime) -> None:
        """Execute one slot's straight line; an error ends it, and never reaches another slot."""
        for step in one.steps:
            if not self._attempt(step, observed, now=now):
                return

    def _attempt(self, step: Step, observed: Observed, *, now: datetime) -> bool:
        try:
            self.hands.execute(step, observed, now=now)
        except LostEpoch:
            raise
        except OroborosError as error:
            self._note_error(error, step=step)
            if isinstance(error, Unavailable | Stalled):  # what is a release's own fault is said at its commit
                self.troubles.failed(_subject_of_step(step), error)
            return False
        self.troubles.worked(_subject_of_step(step))
        return True

    def _keep_house(self, observed: Observed, decision: Decision, *, is_due: bool, now: datetime) -> None:
        """Take out of use what may go, and begin a turn of removing. One that ended early goes on between runs."""
        held = {one.slot for one in decision.each if one.held is not None}
        works = any(slot.run is not None and slot.slot not in held for slot in observed.slots)
        if not is_due and (works or not self.housekeeping.is_more_left):
            return
        if is_due:
            self._house_kept_at = now
            try:
                if decision.prune:
                    self.hands.let_go(decision.prune[:LET_GO_MAX])
            except LostEpoch:
                raise
            except OroborosError as error:
                self._note_error(error)
        retention = observed.policy.retention if observed.production_head is not None else None
        before = now - timedelta(days=observed.policy.retention.audit_days)
        spent = select_spent_quarantines(observed, before=before)
        slots = {
            pull_request_domain(slot.lease.pull_request): slot.slot for slot in observed.slots if slot.lease is not None
        }
        self.hands.background.start(
            ("house", None), lambda: self.housekeeping.turn(retention=retention, slots=slots, quarantined=spent)
        )

    def _note_standings(self, observed: Observed, history: History, *, now: datetime) -> None:
        """Write what each release is to production, when what that follows from has changed."""
        main = next((slot for slot in observed.slots if slot.slot == MAIN), SlotObserved(slot=MAIN))
        follows_from = (main.live, main.recent_runs, history.releases)
        if follows_from != self._standings_of:
            store, on_disk = self.hands.store, observe_releases(self.hands.layout)
            store.record_standings(
                judge_releases(store.load_production_history(), on_disk=on_disk, live=main.live), now=now
            )
            self._standings_of = follows_from

    def _report(self, observed: Observed, decision: Decision, *, now: datetime) -> None:
        failpoint("tick.before_report")
        reports = project_all(observed, decision.slots.queue, self.hands.topology, surfaces=self.surfaces, now=now)
        # A hint whose sha is reported as superseded, or whose target was looked at, is answered by this very tick.
        changed = self.hands.store.record_tick(reports, done=[hint.seq for hint in observed.hints], now=now)
        if changed:
            self.wake_reports()

    def _tell(self, decision: Decision, steps: tuple[Step, ...]) -> None:
        """One decision trail line per tick that does something new."""
        if steps and steps != self._told_plan:
            self._told_plan = steps
            trail = "; ".join(f"{one.slot}: {one.because}" for one in decision.each if one.steps)
            counted = Counter(type(step).__name__ for step in steps)
            names = ", ".join(name if count == 1 else f"{count} {name}" for name, count in counted.items())
            log.info("tick: %s (%s)", names, trail or "leases", extra={"action": "tick"})

    def _note_error(self, error: OroborosError, *, step: Step | None = None) -> None:
        where = f"{type(step).__name__}: " if step is not None else ""
        self.health.note_error(f"{where}{error}", now=self.clock())
        level = logging.ERROR if isinstance(error, Stalled) else logging.WARNING
        about = {"slot": getattr(step, "slot", ""), "run": getattr(step, "generation", "")}
        log.log(level, "tick: %s%s", where, error, extra={"action": "tick.error", **about})

    def _tell_restarts(self, observed: Observed) -> None:
        """Log each instance that ended; production's systemd starts again, and waits for no tick."""
        for slot in observed.slots:
            for fact in slot.processes:
                live, known = slot.live, self._ran.get(fact.unit)
                if live is None or live.generation != fact.generation:
                    continue
                before = known[1] if known is not None and known[0] == fact.generation else None
                if fact.pid is not None:
                    self._ran[fact.unit] = (fact.generation, fact.pid)
                has_ended = fact.state is ProcessState.EXITED
                if before is None or (not has_ended and fact.pid in (None, before)):
                    continue
                if has_ended:
                    del self._ran[fact.unit]
                log.error(
                    "%s: the instance of run %d ended%s",
                    slot.slot,
                    fact.generation,
                    "" if has_ended else ", and was started again",
                    extra={
                        "action": "instance.ended",
                        "slot": slot.slot,
                        "run": fact.generation,
                        "sha": live.release or "",
                    },
                )

    def _note_tick(self, history: History, *, now: datetime) -> None:
        self.health.last_tick_at = now
        self.health.pending_deliveries = len(history.pending)
        self.health.oldest_pending_at = min((one.received_at for one in history.pending), default=None)
        self.health.looks_fail = self._failures > 0
        self.health.ticks += 1
        self.health.trouble, self.health.trouble_since = "", None
        self.troubles.write(self.hands.store)

    def _wait_s(self, observed: Observed, decision: Decision, steps: tuple[Step, ...], *, now: datetime) -> float:
        """After steps look again at once; the same plan again and again grows its pause; an empty one waits for the
        bell, or for the next instant at which time changes something."""
        if steps:
            self._same_plan_count = self._same_plan_count + 1 if steps == self._last_plan else 0
            self._last_plan = steps
            if self._same_plan_count == 0:
                return 0.0
            return min(PAUSE_MAX_S, PAUSE_MIN_S * 2.0 ** min(self._same_plan_count, 10))
        self._last_plan, self._same_plan_count = (), 0
        instants = [
            next_look_at(one.wanted, observed, observed.slot(one.slot), held=one.held, now=now) for one in decision.each
        ]
        instants += [
            pause_ends_at(self._failures, self._failed_at, told_retry_at=self._told_retry_at),
            pause_ends_at(self._reading_failures, self._reading_failed_at, told_retry_at=self._reading_told_retry_at),
        ]
        due = min((at for at in instants if at is not None and at > now), default=None)
        wait_s = self.poll_interval_s if due is None else (due - now).total_seconds()
        return min(self.poll_interval_s, wait_s + TIMER_SLACK_S)


def wait_alive(
    bell: threading.Event, wait_s: float, tell_alive: Callable[[], None], *, every_s: float = ALIVE_EVERY_S
) -> None:
    """Wait for the bell, at most so long, and say meanwhile that we live: a poll may be longer than a watchdog."""
    left_s = wait_s
    while left_s > 0 and not bell.wait(min(left_s, every_s)):
        left_s -= every_s
        tell_alive()


def _pushed_last(history: History) -> Sha | None:
    """Return the newest head of the production branch that a delivery named and no fetch has answered."""
    target = f"ref:{production_ref(history)}"
    return next((one.sha for one in reversed(history.pending) if one.target == target and one.sha is not None), None)


def _subject_of_step(step: Step) -> str:
    slot = getattr(step, "slot", None)
    return f"step {type(step).__name__}" if slot is None else f"step {type(step).__name__} of {slot}"


def _subject_of_tick(reason: str) -> str:
    if reason in DATABASE_TROUBLES:
        return "database"
    return "runtime" if reason in RUNTIME_TROUBLES else "tick"


def _told_retry_at(error: OroborosError) -> datetime | None:
    return error.retry_at if isinstance(error, Unavailable) else None


def _key(drift: Drift) -> tuple[str, str, str]:
    return (drift.reason, drift.subject, drift.handling)
