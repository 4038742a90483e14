"""What does one slot need next? `desired` says what it is to serve, `plan_slot` the steps towards it.

Theory of operation. A slot has at most one running run, which brings one head to it through the states of
`RunState`. Each tick looks at the host again and plans only what is certain now; where an outcome matters (checkout,
job, gate, window), the plan ends and a later tick sees the verdict. A run whose head is no longer wanted ends as
superseded. The switch is a step like any other, planned only behind a passed gate.

Rules that hold at every prefix of every plan:
1. `live` only ever names a release that is on the disk and passed its gate in this run.
2. No unit that `live` names is stopped while it serves, but by an order by hand; the one before it goes only after its
   drain time.
3. A tree that is quarantined in the domain is never begun, except by an order by hand, which lifts the quarantine, and
   to start again what serves already when there is nothing better to go back to.
4. There is one automatic rollback per push.
5. Nothing is removed while what is wanted is unknown.
6. Only what a release did itself is held against it: what the host lost or stopped is started again.
7. What a person has stopped is not started again, until that order ends.
8. In a slot that is held or frozen nothing new migrates, starts or switches: see `holds`.
9. An entry of the merge queue is never switched to: its run ends once its gate has passed.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from controller.decisions.drift import STOPPED_FROM_OUTSIDE, holds_current, holds_stopped
from controller.decisions.holds import describe_held, held_run, held_slot
from controller.decisions.merge_queue import CHECKED, DROPPED, entry_of, is_checked
from controller.decisions.order import is_news_awaited
from controller.decisions.orders import describe_other_migrations
from controller.decisions.quarantine import is_quarantined, last_proven, quarantine_of, rollback_was_tried
from controller.decisions.slots import may_preview
from controller.model.names import (
    COLOURS,
    JOB_NOT_PREPARED,
    MAIN,
    PRODUCTION,
    Colour,
    Domain,
    Sha,
    TreeId,
    instance_unit,
    is_of_queue,
    job_unit,
    pull_request_domain,
)
from controller.model.nouns import WORKER, Head, Lease, Live, Override, ProcessFact, Proven, Run, Stop, Verdict
from controller.model.states import Cause, Outcome, ProcessState, RunState
from controller.model.steps import (
    AdvanceRun,
    BeginRun,
    Checkout,
    EndOverride,
    EndRun,
    EnsureDatabase,
    FreeSlot,
    HandOver,
    ProvisionSlot,
    Quarantine,
    RenewLease,
    RepairCurrent,
    SealBuild,
    StartGate,
    StartInstance,
    StartJob,
    StartWatch,
    Step,
    StopUnit,
    Switch,
    SwitchBack,
    WipeSlot,
)
from controller.model.world import (
    MIGRATIONS_DIFFER,
    NEWER_HEAD,
    ROLLED_BACK_BY_HAND,
    STOPPED_BY_HAND,
    Held,
    Hold,
    Observed,
    SlotObserved,
    Wanted,
)

#: A worker that died this often over one run has met a poison commit: the run stalls and the rest goes on.
ATTEMPTS_MAX = 3
#: Failures in a row that were nobody's fault, after which a human must look.
RETRIES_MAX = 6
RETRY_BASE_S = 2.0
RETRY_CAP_S = 300.0
#: What serves is started again so long after it ended, where a run is under way.
RESTART_PAUSE_S = 10.0
NEVER = datetime.max.replace(tzinfo=UTC)
AT_ONCE = datetime.min.replace(tzinfo=UTC)
#: Ends that are decisions about the release or the schema, not accidents: trying again changes nothing.
REFUSALS = frozenset({MIGRATIONS_DIFFER})
#: Nobody pushed for these: they restore what has served here.
RESTORING = frozenset({Cause.REPAIR, Cause.ROLLBACK})
#: The reason of a run that a hold caught at its gate: it is begun anew when nothing holds its slot.
HELD = "Held"
SAME_CONTENT_FAILED = "the same content failed here before"


def desired(observed: Observed, slot: SlotObserved) -> Wanted | Hold | None:
    """Return what the slot is to serve; a Hold keeps what serves; None empties a preview (and leaves main alone)."""
    stop = stop_in_force(observed, slot)
    if stop is not None:
        return Hold(slot=slot.slot, reason=STOPPED_BY_HAND, message=_why_stopped(stop))
    if slot.slot == MAIN:
        return _desired_production(observed, slot)
    if slot.lease is None:
        return None
    if slot.lease.in_queue:
        return _desired_entry(observed, slot, slot.lease)
    pull = next((p for p in observed.pulls if p.number == slot.lease.pull_request), None)
    if pull is None or not may_preview(pull, observed):
        # Rule 5: the listing decides about leases, in `slots`; until it has, what serves goes on.
        return Hold(slot=slot.slot, reason="Unlisted", message="the last listing does not say that it may preview")
    if pull.head is None or (not pull.same_repository and pull.head.sha != pull.head_sha):
        return Hold(slot=slot.slot, reason="NotFetched", message=f"commit {pull.head_sha[:7]} is not fetched yet")
    domain = pull_request_domain(pull.number)
    if is_quarantined(observed, domain, pull.head.tree):
        return _after_quarantine(observed, slot, domain=domain, fence=slot.lease.fence, message=SAME_CONTENT_FAILED)
    return Wanted(
        slot=slot.slot,
        domain=domain,
        fence=slot.lease.fence,
        head=pull.head,
        cause=_cause(observed, pull.head, domain, otherwise=Cause.PUSH),
    )


def _desired_entry(observed: Observed, slot: SlotObserved, lease: Lease) -> Wanted | Hold:
    entry = entry_of(observed, lease)
    if entry is None or is_checked(observed, entry):
        # The lease ends, in `slots`.
        return Hold(slot=slot.slot, reason="MergeQueue", message=DROPPED if entry is None else CHECKED)
    return Wanted(slot=slot.slot, domain=lease.domain, fence=lease.fence, head=entry.head, cause=Cause.PUSH)


def _desired_production(observed: Observed, slot: SlotObserved) -> Wanted | Hold | None:
    override = active_override(observed, slot)
    if override is not None and observed.order_refused is not None:
        return Hold(slot=slot.slot, reason=observed.order_refused.reason, message=observed.order_refused.message)
    if override is not None:
        if is_quarantined(observed, PRODUCTION, override.head.tree):
            # The order lifted any older quarantine: this one is newer, the release failed again.
            message = "what was ordered by hand failed"
            return _after_quarantine(observed, slot, domain=PRODUCTION, fence=0, message=message)
        return Wanted(
            slot=slot.slot,
            domain=PRODUCTION,
            fence=0,
            head=override.head,
            cause=Cause.OVERRIDE,
            accept_migrations=override.accept_migrations,
        )
    head, refused = observed.production_head, observed.head_refused
    if head is None:
        return None
    if refused is not None and refused.keeps_accepted and observed.accepted_head is not None:
        head = observed.accepted_head
    elif refused is not None:
        stays = _after_quarantine(observed, slot, domain=PRODUCTION, fence=0, message=refused.message)
        return replace(stays, reason=refused.reason) if isinstance(stays, Hold) else stays
    if not is_quarantined(observed, PRODUCTION, head.tree):
        pushed = Cause.RESYNC if observed.production_head_found_by_resync else Cause.PUSH
        cause = _cause(observed, head, PRODUCTION, otherwise=pushed)
        return Wanted(slot=slot.slot, domain=PRODUCTION, fence=0, head=head, cause=cause)
    return _after_quarantine(observed, slot, domain=PRODUCTION, fence=0, message=SAME_CONTENT_FAILED)


def _after_quarantine(
    observed: Observed, slot: SlotObserved, *, domain: Domain, fence: int, message: str
) -> Wanted | Hold:
    """The head may not serve. If something good does, hold it; if the bad tree itself does, go back, once."""
    hold = Hold(slot=slot.slot, reason="Quarantined", message=message)
    live = slot.live
    serves_bad = (
        live is not None
        and live.state == "live"
        and live.fence == fence
        and live.tree is not None
        and is_quarantined(observed, domain, live.tree)
    )
    goes_back = slot.run is not None and slot.run.cause is Cause.ROLLBACK
    if not serves_bad and not goes_back:
        return hold
    target = last_proven(observed, domain)
    if target is None or rollback_was_tried(slot.recent_runs):
        return hold
    return Wanted(
        slot=slot.slot,
        domain=domain,
        fence=fence,
        head=Head(sha=target.sha, tree=target.tree),
        cause=Cause.ROLLBACK,
    )


def _cause(observed: Observed, head: Head, domain: Domain, *, otherwise: Cause) -> Cause:
    """A head whose tree is a retained, proven release of the domain is a revert, whatever brought it."""
    on_disk = {release.sha for release in observed.releases}
    known = any(proven.sha in on_disk for proven in _proven_like(observed, domain, head.tree))
    return Cause.REVERT if known else otherwise


def active_override(observed: Observed, slot: SlotObserved) -> Override | None:
    """Return the order by hand that rules the slot now; None once a later head ended it."""
    override = next((o for o in observed.overrides if o.slot == slot.slot), None)
    if override is None or _why_override_ends(observed, override):
        return None
    return override


def _why_override_ends(observed: Observed, override: Override) -> str:
    """Return why the order is over; "" while it stands."""
    head, refused = observed.production_head, observed.order_refused
    if override.slot == MAIN and refused is not None and not refused.is_pending:
        return f"{refused.reason}: {refused.message}"
    if head is None or head.sha == override.ordered_at_head or observed.head_refused is not None:
        return ""
    is_over = override.kind == "deploy" or not is_quarantined(observed, PRODUCTION, head.tree)
    return "a later head takes over" if is_over else ""


def stop_in_force(observed: Observed, slot: SlotObserved) -> Stop | None:
    """Return the order by hand that keeps the slot stopped now; one about an earlier lease counts no more."""
    fence = slot.lease.fence if slot.lease is not None else 0
    if slot.slot != MAIN and slot.lease is None:
        return None
    return next((stop for stop in observed.stops if (stop.slot, stop.fence) == (slot.slot, fence)), None)


def _why_stopped(stop: Stop) -> str:
    return ": ".join(part for part in (stopped_by(stop.actor), stop.reason) if part)


def stopped_by(actor: str) -> str:
    """Return who ordered a stop, in words."""
    return "stopped by the worker" if actor == WORKER else f"stopped by hand by {actor}"


def release_for(observed: Observed, wanted: Wanted) -> Sha:
    """Return the release that is to serve: the head's own if it is on the disk, else a proven one of the same tree."""
    on_disk = {release.sha for release in observed.releases}
    if wanted.head.sha in on_disk:
        return wanted.head.sha
    same = [p for p in _proven_like(observed, wanted.domain, wanted.head.tree) if p.sha in on_disk]
    newest = max(same, key=lambda p: p.generation, default=None)
    return wanted.head.sha if newest is None else newest.sha


def _proven_like(observed: Observed, domain: Domain, tree: TreeId) -> list[Proven]:
    return [p for p in observed.proven if (p.domain, p.tree) == (domain, tree)]


def plan_slot(
    wanted: Wanted | Hold | None, observed: Observed, slot: SlotObserved, *, now: datetime
) -> tuple[Step, ...]:
    """Return the steps that bring one slot from what we observed closer to what is wanted; () when it is there."""
    override = next((o for o in observed.overrides if o.slot == slot.slot), None)
    steps: list[Step] = []
    if override is not None and (why := _why_override_ends(observed, override)):
        steps.append(EndOverride(slot=slot.slot, id=override.id, reason=why))
    stop = stop_in_force(observed, slot)
    steps.extend(
        EndOverride(slot=slot.slot, id=over.id, reason="the lease ended")
        for over in observed.stops
        if over.slot == slot.slot and over != stop
    )
    if slot.slot != MAIN and slot.lease is None:
        return (*steps, *_plan_emptying(slot))
    if slot.lease is not None and slot.provisioned_fence != slot.lease.fence:
        if "wipe" not in slot.activities:
            steps.append(ProvisionSlot(slot=slot.slot, fence=slot.lease.fence))
        return tuple(steps)
    if stop is None:
        steps.extend(_sweep(observed, slot, now=now))
    if slot.live is None:
        steps.append(FreeSlot(slot=slot.slot, fence=0))
    elif slot.live.state == "live" and slot.live.release not in (None, slot.current):
        assert slot.live.release is not None
        if not holds_current(observed, slot):
            steps.append(RepairCurrent(slot=slot.slot, release=slot.live.release))
    if stop is not None:
        steps.extend(_plan_stopped(observed, slot, stop, now=now))
    elif slot.run is None:
        steps.extend(_plan_without_run(wanted, observed, slot, now=now))
    elif (half := _half_remembered(observed, slot.run)) is not None:
        steps.append(half)
    elif _is_unwanted(wanted, observed, slot, slot.run, now=now):
        steps.append(_supersede(wanted, observed, slot, slot.run))
    else:
        steps.extend(_plan_run(observed, slot, slot.run, now=now))
        steps.extend(_keep_serving(observed, slot, slot.run, now=now))
    return tuple(steps)


def _plan_stopped(observed: Observed, slot: SlotObserved, stop: Stop, *, now: datetime) -> list[Step]:
    """A person wants nothing to run here: end the run, without blame, then stop everything. What `live` names stays
    named, so that its surface says that it is unwell, and it is what is started again at the end."""
    run, watch = slot.run, slot.verdict("watch")
    if run is not None:
        has_proof = run.state is RunState.WATCHING and watch is not None and watch.outcome is Outcome.PASS
        if has_proof or run.state is RunState.SWITCHING:
            return _plan_run(
                observed, slot, run, now=now
            )  # the rename may have happened: finish; a proof that is there counts
        return [_end(run, RunState.SUPERSEDED, STOPPED_BY_HAND, _why_stopped(stop))]
    if slot.processes:
        return [_stop(slot, process) for process in slot.processes]
    if stop.kind == "restart":
        return [EndOverride(slot=slot.slot, id=stop.id, reason="nothing runs any more: it is started again")]
    return []


def _plan_emptying(slot: SlotObserved) -> list[Step]:
    """Nobody holds the slot: end its run, say free, stop everything, and only then wipe."""
    steps: list[Step] = []
    if slot.run is not None:
        steps.append(_end(slot.run, RunState.SUPERSEDED, "LeaseEnded", "the preview's lease ended"))
    if slot.live is None or slot.live.state != "free":
        steps.append(FreeSlot(slot=slot.slot, fence=slot.ended_fence))
    steps.extend(_stop(slot, process) for process in slot.processes)
    # A thread of the ended run may still make the database that the wipe is to remove: it ends first.
    if not steps and slot.wiped_fence < slot.ended_fence and not slot.activities:
        steps.append(WipeSlot(slot=slot.slot, fence=slot.ended_fence))
    return steps


def _end(
    run: Run,
    state: RunState,
    reason: str,
    message: str,
    *,
    proven: bool = False,
    successor: str = "",
    switched_back: bool = False,
) -> EndRun:
    return EndRun(
        slot=run.slot,
        generation=run.generation,
        state=state,
        reason=reason,
        message=message,
        proven=proven,
        successor=successor,
        switched_back=switched_back,
    )


def _stop(slot: SlotObserved, process: ProcessFact) -> StopUnit:
    return StopUnit(slot=slot.slot, unit=process.unit, generation=process.generation)


def _process(slot: SlotObserved, unit: str, generation: int) -> ProcessFact | None:
    return next((p for p in slot.processes if (p.unit, p.generation) == (unit, generation)), None)


def other_colour(live: Live | None) -> Colour:
    """Return the colour that `live` does not name."""
    return COLOURS[1] if live is not None and live.colour == COLOURS[0] else COLOURS[0]


def serves(slot: SlotObserved, head: Head, *, fence: int) -> bool:
    """Say whether the slot serves that head: equal trees, under the same lease."""
    live = slot.live
    return live is not None and live.state == "live" and live.tree == head.tree and live.fence == fence


def _sweep(observed: Observed, slot: SlotObserved, *, now: datetime) -> list[Step]:
    """Stop every unit that neither serves, nor works for the run, nor is kept to fall back to, nor still drains."""
    keep: set[tuple[str, int]] = set()
    live, run = slot.live, slot.run
    if live is not None and live.colour is not None:
        keep.add((instance_unit(slot.slot, live.colour), live.generation))
    if run is not None:
        keep |= {(job_unit(kind, slot.slot), run.generation) for kind in ("build", "migrate")}
        if run.colour is not None:
            keep.add((instance_unit(slot.slot, run.colour), run.generation))
        if run.state is RunState.WATCHING and slot.fallback_run is not None and slot.fallback_run.colour is not None:
            keep.add((instance_unit(slot.slot, slot.fallback_run.colour), slot.fallback_run.generation))
    return [
        _stop(slot, process)
        for process in slot.processes
        if (process.unit, process.generation) not in keep and now >= (drains_until(observed, slot, process) or AT_ONCE)
    ]


def drains_until(observed: Observed, slot: SlotObserved, process: ProcessFact) -> datetime | None:
    """Return until when requests may still run in an instance that served before; None for any other unit."""
    if process.state is ProcessState.EXITED:
        return None
    known = [r for r in (slot.run, slot.live_run, slot.fallback_run, *slot.recent_runs) if r is not None]
    if not any(r.generation == process.generation and r.switched_at is not None for r in known):
        return None
    switches = [r.switched_at for r in known if r.switched_at is not None]
    switches += [r.ended_at for r in known if r.state is RunState.ROLLED_BACK and r.ended_at is not None]
    return max(switches) + timedelta(seconds=observed.policy.production.drain_s)


def _half_remembered(observed: Observed, run: Run) -> EndRun | None:
    """A worker died after it had remembered the failure and before it ended the run: end it in the same words."""
    if run.state in (RunState.SWITCHING, RunState.WATCHING):
        return None
    known = quarantine_of(observed, run.domain, run.head.tree)
    if known is None or known.at < run.begun_at:
        return None
    return _end(run, RunState.FAILED, known.reason, known.message)


def _is_unwanted(
    wanted: Wanted | Hold | None, observed: Observed, slot: SlotObserved, run: Run, *, now: datetime
) -> bool:
    if run.state is RunState.SWITCHING and (slot.deploys_itself or _has_switched(slot, run)):
        return False  # a judge may be about to, or the rename has happened: finish, then judge
    if run.state is RunState.WATCHING:
        watch = slot.verdict("watch")
        if watch is not None:
            return False  # what the window said comes first: the proof, or going back
    match wanted:
        case None:
            return False
        case Hold():
            kept = run.state is RunState.WATCHING or run.cause in RESTORING
            if wanted.reason == "Quarantined":
                return not kept
            refused = observed.head_refused
            # A branch that is moved by force meanwhile leaves what serves alone, and the way back from it too.
            goes_back = run.cause is Cause.REVERT and run.head == observed.accepted_head
            return refused is not None and wanted.reason == refused.reason and not (kept or goes_back)
        case Wanted():
            if run.fence == wanted.fence and run.head.tree == wanted.head.tree:
                return False
            # What serves is started again while the wanted head must wait for its next try: else neither would go on.
            return run.cause is not Cause.REPAIR or retry_at(observed, slot, wanted) <= now


def _supersede(wanted: Wanted | Hold | None, observed: Observed, slot: SlotObserved, run: Run) -> EndRun:
    if isinstance(wanted, Wanted):
        by: str = wanted.head.sha
    elif slot.slot == MAIN and observed.production_head is not None:
        by = observed.production_head.sha
    else:
        by = ""
    return _end(run, RunState.SUPERSEDED, NEWER_HEAD, "", successor=by)


def _plan_without_run(
    wanted: Wanted | Hold | None, observed: Observed, slot: SlotObserved, *, now: datetime
) -> list[Step]:
    if not isinstance(wanted, Wanted) or serves(slot, wanted.head, fence=wanted.fence):
        return _repair(observed, slot, now=now, comes_next=False)
    due_at = retry_at(observed, slot, wanted)
    if due_at <= now:
        return _begin(wanted, observed, slot)
    return _repair(observed, slot, now=now, comes_next=due_at != NEVER)


def retry_at(observed: Observed, slot: SlotObserved, wanted: Wanted) -> datetime:
    """Return when this head may be tried (again): AT_ONCE, after a growing pause, or NEVER (a human must act; a repair
    never waits for one).

    Only failures that were nobody's fault come here: a release's own failure quarantines its tree. Each commit has
    tries of its own, also one with the content of another: pushing again is a way to say "once more"."""
    override = next((o for o in observed.overrides if o.slot == slot.slot), None)
    asked = [r.at for r in observed.retries if (r.domain, r.sha) == (wanted.domain, wanted.head.sha)]
    if override is not None and wanted.cause is Cause.OVERRIDE:
        asked.append(override.at)
    failures: list[Run] = []
    for run in slot.recent_runs:  # newest first
        if any(run.begun_at < at for at in asked):
            break
        if (run.domain, run.fence, run.head.sha) != (wanted.domain, wanted.fence, wanted.head.sha):
            if run.cause in RESTORING:
                continue  # it ran because the wanted head could not: it says nothing about it
            break
        if run.state not in (RunState.FAILED, RunState.STALLED):
            break
        failures.append(run)
    if not failures or failures[0].ended_at is None:
        return AT_ONCE
    newest = failures[0]
    gave_up = newest.state is RunState.STALLED or newest.reason in REFUSALS or len(failures) >= RETRIES_MAX
    # What serves is not given up: a refusal was about going back from it, and without it nothing serves at all.
    if gave_up and wanted.cause is not Cause.REPAIR:
        return NEVER
    pause_s = min(RETRY_CAP_S, RETRY_BASE_S * 2 ** (len(failures) - 1))
    return newest.ended_at + timedelta(seconds=pause_s) if newest.ended_at is not None else AT_ONCE


def _begin(wanted: Wanted, observed: Observed, slot: SlotObserved) -> list[Step]:
    steps: list[Step] = []
    tried = any((r.fence, r.head.sha) == (wanted.fence, wanted.head.sha) for r in slot.recent_runs)
    if slot.lease is not None and not tried:
        # Only a new head moves the end of a lease: a preview that crashes all day does not keep others waiting.
        steps.append(RenewLease(slot=slot.slot, fence=slot.lease.fence))
    live_run, fallback = slot.live_run, None
    if live_run is not None and slot.live is not None and slot.live.state == "live":
        fallback = live_run.generation if live_run.proven else live_run.fallback
    steps.append(
        BeginRun(
            slot=slot.slot,
            domain=wanted.domain,
            fence=wanted.fence,
            head=wanted.head,
            release=release_for(observed, wanted),
            cause=wanted.cause,
            colour=other_colour(slot.live),
            fallback=fallback,
        )
    )
    return steps


def _repair(observed: Observed, slot: SlotObserved, *, now: datetime, comes_next: bool) -> list[Step]:
    """Nothing new can be done now: bring what `live` names back to what it was promised to be.

    It is started again if the host lost it (a crash, a reboot), or if its own environment was changed since it began,
    and proven again if its window was cut short or ended without a judgement and nothing newer took over or comes
    next."""
    live, live_run = slot.live, slot.live_run
    if live is None or live.state != "live" or live_run is None:
        return []
    if holds_stopped(observed, slot):
        return []
    # Other values for what serves are a change like any other: they wait until nothing holds the slot.
    takes_values = slot.environment_changed and held_slot(observed, slot, now=now) is None
    must_start = _is_lost(slot, live) or takes_values
    if not must_start and (comes_next or not _lacks_proof(observed, live_run)):
        return []
    again = repaired(live_run)
    return _begin(again, observed, slot) if retry_at(observed, slot, again) <= now else []


def repaired(live_run: Run) -> Wanted:
    """Return what starts again what a run serves."""
    return Wanted(
        slot=live_run.slot, domain=live_run.domain, fence=live_run.fence, head=live_run.head, cause=Cause.REPAIR
    )


def _keep_serving(observed: Observed, slot: SlotObserved, run: Run, *, now: datetime) -> list[Step]:
    """What serves was lost while a run works or waits, for minutes of a build or days of a freeze: it is started again
    as at a boot, by what `live` names. A repair of its own would have to wait for that run."""
    live = slot.live
    has_begun_to_switch = run.state in (RunState.SWITCHING, RunState.WATCHING)
    if live is None or live.state != "live" or has_begun_to_switch or run.cause in RESTORING:
        return []
    if not _is_lost(slot, live) or holds_stopped(observed, slot):
        return []
    assert live.colour is not None
    assert live.release is not None
    process = _process(slot, instance_unit(slot.slot, live.colour), live.generation)
    if process is None:
        return [StartInstance(slot=slot.slot, generation=live.generation, colour=live.colour, release=live.release)]
    # One that ends at once is not started in a circle.
    if process.ended_at is not None and now < process.ended_at + timedelta(seconds=RESTART_PAUSE_S):
        return []
    return [_stop(slot, process)]


def _is_lost(slot: SlotObserved, live: Live) -> bool:
    if live.address is None or live.colour is None:
        return False  # static files only
    process = _process(slot, instance_unit(slot.slot, live.colour), live.generation)
    return process is None or process.state is not ProcessState.RUNNING


def _lacks_proof(observed: Observed, live_run: Run) -> bool:
    return live_run.state in (RunState.FAILED, RunState.SUPERSEDED) and not (
        _has_proof(observed, live_run) or is_quarantined(observed, live_run.domain, live_run.head.tree)
    )


def _has_proof(observed: Observed, run: Run) -> bool:
    return run.proven or bool(_proven_like(observed, run.domain, run.head.tree))


def _plan_run(observed: Observed, slot: SlotObserved, run: Run, *, now: datetime) -> list[Step]:
    if run.attempts > ATTEMPTS_MAX:
        message = f"the worker died {ATTEMPTS_MAX} times over this commit; push another or deploy it by hand"
        return [_end(run, RunState.STALLED, "WorkerDied", message)]
    checkout = slot.verdict("checkout")
    has_switched = run.state in (RunState.SWITCHING, RunState.WATCHING)
    if checkout is not None and checkout.outcome is Outcome.FAIL and not has_switched:
        return _fail(observed, run, checkout)
    judged = slot.verdict("judge")
    if judged is not None and judged.outcome is Outcome.FAIL and has_switched:
        return _fail(observed, run, judged)  # the judge has switched back, and restarted what was before
    held = held_run(observed, slot, run, now=now)
    match run.state:
        case RunState.PLANNED:
            return _plan_source(observed, slot, run, held, now=now)
        case RunState.BUILDING:
            return _plan_build(observed, slot, run, held, now=now)
        case RunState.MIGRATING:
            return _plan_migration(observed, slot, run, held, now=now)
        case RunState.GATING:
            return _plan_gate(observed, slot, run, held, now=now)
        case RunState.SWITCHING:
            return _plan_switch(observed, slot, run, held, now=now)
        case RunState.WATCHING:
            return _plan_watch(observed, slot, run)
        case _:
            raise AssertionError(f"run {run.generation} is {run.state} but not ended")


def _fail(observed: Observed, run: Run, verdict: Verdict) -> list[Step]:
    """The run ends; its tree is remembered only if the release itself is to blame."""
    steps: list[Step] = []
    if _blames(observed, run, verdict) and not is_of_queue(run.domain):
        steps.append(_quarantine(observed, run, verdict))
    steps.append(_end(run, RunState.FAILED, verdict.reason, verdict.message))
    return steps


def _blames(observed: Observed, run: Run, verdict: Verdict) -> bool:
    """Never over the repair or rollback of a release that has proven itself: then something else has changed."""
    return verdict.blames_release and not (run.cause in RESTORING and _has_proof(observed, run))


def _quarantine(observed: Observed, run: Run, verdict: Verdict) -> Quarantine:
    return Quarantine(
        domain=run.domain,
        tree=run.head.tree,
        sha=run.head.sha,
        reason=verdict.reason,
        message=verdict.message,
        lifts=_left_by_order(observed, run),
    )


def _left_by_order(observed: Observed, run: Run) -> TreeId | None:
    """Return what the order to roll back that this run carries out has put in quarantine, to leave it: once the order
    fails, that is what production stays at or goes back to."""
    slot = observed.slot(run.slot)
    order = active_override(observed, slot)
    if order is None or order.kind != "rollback" or order.head.tree != run.head.tree:
        return None
    served = [slot.live.tree] if slot.live is not None and slot.live.tree is not None else []
    served += [slot.fallback_run.head.tree] if slot.fallback_run is not None else []
    for tree in served:
        known = quarantine_of(observed, run.domain, tree)
        if known is not None and known.reason == ROLLED_BACK_BY_HAND and known.at >= order.at:
            return known.tree
    return None


def _verdict(run: Run, reason: str, message: str, *, blames_release: bool = True) -> Verdict:
    """What the plan itself concludes from facts, in the form in which threads say it."""
    return Verdict(
        kind="checkout",
        slot=run.slot,
        generation=run.generation,
        release=run.release,
        outcome=Outcome.FAIL,
        reason=reason,
        message=message,
        blames_release=blames_release,
    )


def _is_restore(observed: Observed, run: Run) -> bool:
    """Say whether the run goes back to content that has served in this domain: no build, no migration, at once."""
    return run.cause is Cause.REPAIR or bool(_proven_like(observed, run.domain, run.head.tree))


def _plan_source(observed: Observed, slot: SlotObserved, run: Run, held: Held | None, *, now: datetime) -> list[Step]:
    if slot.recipe_problem:
        return _fail(observed, run, _verdict(run, "DeployTomlInvalid", slot.recipe_problem))
    if slot.recipe is None:
        return []
    at = slot.database_migration_head
    # A repair is not asked: that release serves this very database already.
    refuses = _is_restore(observed, run) and run.cause is not Cause.REPAIR and not slot.accept_migrations
    if refuses and at is not None and at != slot.wanted_migration_head:
        message = describe_other_migrations(run.release, slot.wanted_migration_head, database_at=at)
        return [_end(run, RunState.FAILED, MIGRATIONS_DIFFER, message)]
    steps: list[Step] = []
    if not slot.published and "checkout" not in slot.activities:
        steps.append(Checkout(slot=run.slot, generation=run.generation, release=run.release))
    if slot.recipe.database is not None and not slot.database_ready and "database" not in slot.activities:
        steps.append(EnsureDatabase(slot=run.slot, generation=run.generation))
    if not slot.published or (slot.recipe.database is not None and not slot.database_ready):
        return steps
    if slot.recipe.build is not None and not slot.build_sealed:
        return [
            AdvanceRun(slot=run.slot, generation=run.generation, state=RunState.BUILDING),
            *_start_job(slot, run, "build"),
        ]
    return _after_build(observed, slot, run, held, now=now)


def _after_build(observed: Observed, slot: SlotObserved, run: Run, held: Held | None, *, now: datetime) -> list[Step]:
    if held is not None:
        return _wait(run, held)  # whatever comes next touches what serves
    database = slot.recipe.database if slot.recipe is not None else None
    # What is restored finds the schema that it had, unless the database is new (a preview that was opened again).
    is_migrated = slot.database_migration_head is not None and _is_restore(observed, run)
    if database is not None and database.migrate is not None and not is_migrated:
        return [
            AdvanceRun(slot=run.slot, generation=run.generation, state=RunState.MIGRATING),
            *_start_job(slot, run, "migrate"),
        ]
    return [
        AdvanceRun(slot=run.slot, generation=run.generation, state=RunState.GATING),
        *_plan_gate(observed, slot, run, held, now=now),
    ]


def _plan_build(observed: Observed, slot: SlotObserved, run: Run, held: Held | None, *, now: datetime) -> list[Step]:
    if slot.build_sealed:
        return _after_build(observed, slot, run, held, now=now)
    process = _process(slot, job_unit("build", run.slot), run.generation)
    if process is None:
        return _start_job(slot, run, "build")
    if process.state is ProcessState.RUNNING or "seal" in slot.activities:
        return []
    if process.exit_code == 0 and not process.timed_out:
        return [SealBuild(slot=run.slot, generation=run.generation, release=run.release)]
    if process.exit_code == JOB_NOT_PREPARED:
        message = _how_it_ended("the preparation of the build", process, slot)
        return _fail(observed, run, _verdict(run, "BuildNotPrepared", message, blames_release=False))
    return _fail(observed, run, _job_failed(slot, run, process, "BuildFailed", "the build"))


def _plan_migration(
    observed: Observed, slot: SlotObserved, run: Run, held: Held | None, *, now: datetime
) -> list[Step]:
    process = _process(slot, job_unit("migrate", run.slot), run.generation)
    if process is None and held is not None:
        return _wait(run, held)
    if process is None:
        return _start_job(slot, run, "migrate")
    if process.state is ProcessState.RUNNING:
        return []
    if process.exit_code == 0 and not process.timed_out:
        return [
            AdvanceRun(slot=run.slot, generation=run.generation, state=RunState.GATING),
            *_plan_gate(observed, slot, run, held, now=now),
        ]
    return _fail(observed, run, _job_failed(slot, run, process, "MigrationFailed", "the migration"))


def _start_job(slot: SlotObserved, run: Run, kind: Literal["build", "migrate"]) -> list[Step]:
    """Start the job, unless that is under way, or a job of an earlier run still has to end: the sweep stops it. Both
    may work in the same folder."""
    of_earlier_run = any(process.unit == job_unit(kind, run.slot) for process in slot.processes)
    if "job" in slot.activities or "seal" in slot.activities or of_earlier_run:
        return []
    return [StartJob(slot=run.slot, generation=run.generation, kind=kind, release=run.release)]


def _job_failed(slot: SlotObserved, run: Run, process: ProcessFact, reason: str, what: str) -> Verdict:
    own = process.timed_out or process.exit_code not in STOPPED_FROM_OUTSIDE
    return _verdict(run, reason, _how_it_ended(what, process, slot), blames_release=own)


def _how_it_ended(what: str, process: ProcessFact, slot: SlotObserved) -> str:
    if process.timed_out:
        end = "ran into its time limit"
    elif process.exit_code is not None and process.exit_code < 0:
        end = f"was killed by signal {-process.exit_code}"
    else:
        end = f"exited with {process.exit_code}"
    error = next((line for unit, line in slot.error_lines if unit == process.unit), "")
    return f"{what} {end}" + (f": {error}" if error else "")


def _instance_failed(slot: SlotObserved, run: Run) -> Verdict | None:
    """Say what became of the run's instance, if its recipe has one and it does not run: ended by itself, or lost."""
    if slot.recipe is None or slot.recipe.api is None or run.colour is None:
        return None
    process = _process(slot, instance_unit(run.slot, run.colour), run.generation)
    if process is None:
        message = "the host lost the instance (was it restarted?); it is started again"
        return _verdict(run, "InstanceLost", message, blames_release=False)
    if process.state is ProcessState.RUNNING:
        return None
    own = process.exit_code not in STOPPED_FROM_OUTSIDE
    return _verdict(run, "InstanceExited", _how_it_ended("the instance", process, slot), blames_release=own)


def _plan_gate(observed: Observed, slot: SlotObserved, run: Run, held: Held | None, *, now: datetime) -> list[Step]:
    if slot.recipe is None:
        return []
    verdict = slot.verdict("gate")
    if verdict is not None and verdict.outcome is Outcome.FAIL:
        return _fail(observed, run, verdict)
    if held is not None:
        return _wait_at_gate(slot, run, held)
    if verdict is not None:
        lost = _instance_failed(slot, run)
        if lost is not None:
            return _fail(observed, run, lost)  # the verdict is about a process that is gone
        if is_of_queue(run.domain):
            return [_end(run, RunState.PASSED, "", "")]
        return [
            AdvanceRun(slot=run.slot, generation=run.generation, state=RunState.SWITCHING),
            *_plan_switch(observed, slot, run, held, now=now),
        ]
    steps: list[Step] = []
    if slot.recipe.api is not None and run.colour is not None:
        unit = instance_unit(run.slot, run.colour)
        if any(p.unit == unit and p.generation != run.generation for p in slot.processes):
            return []  # the sweep stops it, once it has drained
        if _process(slot, unit, run.generation) is None:
            steps.append(
                StartInstance(slot=run.slot, generation=run.generation, colour=run.colour, release=run.release)
            )
    if "gate" not in slot.activities:
        steps.append(StartGate(slot=run.slot, generation=run.generation, release=run.release))
    return steps


def _wait_at_gate(slot: SlotObserved, run: Run, held: Held) -> list[Step]:
    """Where nothing has begun, the run waits. Where an instance was started or judged, it ends: no instance runs beside
    what serves for as long as a hold lasts, and what a gate said then is old news at its end."""
    has_instance = any(
        process.generation == run.generation and process.unit in {instance_unit(run.slot, c) for c in COLOURS}
        for process in slot.processes
    )
    if not has_instance and slot.verdict("gate") is None and "gate" not in slot.activities:
        return _wait(run, held)
    return [_end(run, RunState.SUPERSEDED, HELD, describe_held(held))]


def _wait(run: Run, held: Held) -> list[Step]:
    """A worker that ends while a run waits died over nothing: the run is begun anew, and with it the count."""
    return [] if run.attempts == 1 else [_end(run, RunState.SUPERSEDED, HELD, describe_held(held))]


def _has_switched(slot: SlotObserved, run: Run) -> bool:
    return slot.live is not None and slot.live.state == "live" and slot.live.generation == run.generation


def _plan_switch(observed: Observed, slot: SlotObserved, run: Run, held: Held | None, *, now: datetime) -> list[Step]:
    steps: list[Step] = []
    if not _has_switched(slot, run):
        lost = _instance_failed(slot, run)
        if lost is not None:
            return _fail(observed, run, lost)
        if held is not None and not slot.deploys_itself:
            return _wait_at_gate(slot, run, held)
        if is_news_awaited(observed, run, now=now):
            return []
        if slot.deploys_itself:
            return [HandOver(slot=run.slot, generation=run.generation, release=run.release, colour=run.colour)]
        steps.append(Switch(slot=run.slot, generation=run.generation, release=run.release, colour=run.colour))
    if slot.deploys_itself and slot.verdict("judge") is None:
        return []  # the judge still looks at what it started
    return [
        *steps,
        AdvanceRun(slot=run.slot, generation=run.generation, state=RunState.WATCHING),
        StartWatch(slot=run.slot, generation=run.generation, release=run.release),
    ]


def _plan_watch(observed: Observed, slot: SlotObserved, run: Run) -> list[Step]:
    verdict = slot.verdict("watch")
    lost = _instance_failed(slot, run) if _has_switched(slot, run) else None
    if lost is not None and lost.reason == "InstanceLost" and (verdict is None or verdict.outcome is Outcome.FAIL):
        # A restart of the host is not the release's failure, also if the window saw it first: the repair judges anew.
        return _fail(observed, run, lost)
    if verdict is None:
        if not _has_switched(slot, run):
            message = "what the slot serves was changed by something else; it is brought back"
            return _fail(observed, run, _verdict(run, "SwitchUndone", message, blames_release=False))
        if "watch" in slot.activities:
            return []
        return [StartWatch(slot=run.slot, generation=run.generation, release=run.release)]
    if verdict.outcome is Outcome.PASS:
        return [_end(run, RunState.LIVE, "", "", proven=True)]
    return _roll_back(observed, slot, run, verdict)


def _roll_back(observed: Observed, slot: SlotObserved, run: Run, verdict: Verdict) -> list[Step]:
    """The window failed. Go back at once if what served before still can; else the next tick begins a rollback run."""
    if not _blames(observed, run, verdict):
        return _fail(observed, run, verdict)
    fallback, back = slot.fallback_run, slot.fallback_live
    quarantine = _quarantine(observed, run, verdict)
    steps: list[Step] = [quarantine]
    nothing = [*steps, _end(run, RunState.FAILED, verdict.reason, f"{verdict.message}; nothing to go back to")]
    if fallback is None or fallback.head.tree == run.head.tree:
        return nothing
    schema_differs = (
        slot.database_migration_head is not None
        and fallback.migration_head != slot.database_migration_head
        and not slot.accept_migrations
    )
    if schema_differs:
        message = f"{verdict.message}; not rolled back: {fallback.release[:7]} has other migrations than the database"
        return [*steps, _end(run, RunState.FAILED, MIGRATIONS_DIFFER, message)]
    went_back = slot.live is not None and slot.live.generation == fallback.generation
    is_good = fallback.head.tree == quarantine.lifts or not is_quarantined(observed, run.domain, fallback.head.tree)
    if went_back or (is_good and back is not None and _can_serve(slot, fallback, back)):
        steps.append(SwitchBack(slot=run.slot, generation=run.generation, fallback=fallback.generation))
        return [*steps, _end_rolled_back(run, verdict, to=fallback.release, switched_back=True)]
    target = last_proven(observed, run.domain)
    if target is None or target.tree == run.head.tree:
        return nothing
    return [*steps, _end_rolled_back(run, verdict, to=target.sha, switched_back=False)]


def _end_rolled_back(run: Run, verdict: Verdict, *, to: Sha, switched_back: bool) -> EndRun:
    return _end(run, RunState.ROLLED_BACK, verdict.reason, verdict.message, successor=to, switched_back=switched_back)


def _can_serve(slot: SlotObserved, fallback: Run, back: Live) -> bool:
    if back.address is None:
        return True  # static files only: they are on the disk
    if fallback.colour is None:
        return False
    process = _process(slot, instance_unit(slot.slot, fallback.colour), fallback.generation)
    return process is not None and process.state is ProcessState.RUNNING
