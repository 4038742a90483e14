"""What does one slot need next? `desired` says what it is to serve, `plan_slot` the steps towards it.

Theory of operation. A slot has at most one running run, which brings one head to it through the states of
`RunState`. Each tick looks at the host again and plans only what is certain now; where an outcome matters (checkout,
job, gate, window), the plan ends and a later tick sees the verdict. A run whose head is no longer wanted ends as
superseded. The switch is a step like any other, planned only behind a passed gate.

Rules that hold at every prefix of every plan:
1. `live` only ever names a release that is on the disk and passed its gate in this run.
2. No unit that `live` names is stopped while it serves; the one before it goes only after its drain time.
3. A tree that is quarantined in the domain is never begun, except by an order by hand, which lifts the quarantine.
4. There is one automatic rollback per push.
5. Nothing is removed while what is wanted is unknown.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from controller.decisions.quarantine import is_quarantined, last_proven, rollback_was_tried
from controller.decisions.slots import may_preview
from controller.model.names import (
    COLOURS,
    MAIN,
    PRODUCTION,
    Colour,
    Domain,
    Sha,
    TreeId,
    instance_unit,
    job_unit,
    pull_request_domain,
)
from controller.model.nouns import Head, Live, Override, ProcessFact, Proven, Run, Verdict
from controller.model.states import Cause, Outcome, ProcessState, RunState
from controller.model.steps import (
    AdvanceRun,
    BeginRun,
    Checkout,
    EndOverride,
    EndRun,
    EnsureDatabase,
    FreeSlot,
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
from controller.model.world import Hold, Observed, SlotObserved, Wanted

#: A worker that died this often over one run has met a poison commit: the run stalls and the rest goes on.
ATTEMPTS_MAX = 3
#: Failures in a row that were nobody's fault, after which a human must look.
RETRIES_MAX = 6
RETRY_BASE_S = 2.0
RETRY_CAP_S = 300.0
#: Ends that are decisions about the release or the schema, not accidents: trying again changes nothing.
REFUSALS = frozenset({"MigrationsDiffer"})


def desired(observed: Observed, slot: SlotObserved) -> Wanted | Hold | None:
    """Return what the slot is to serve; a Hold keeps what serves; None empties a preview (and leaves main alone)."""
    if slot.slot == MAIN:
        return _desired_production(observed, slot)
    if slot.lease is None:
        return None
    pull = next((p for p in observed.pulls if p.number == slot.lease.pull_request), None)
    if pull is None or not may_preview(pull, observed):
        # Rule 5: the listing decides about leases, in `slots`; until it has, what serves goes on.
        return Hold(slot=slot.slot, reason="Unlisted", message="the pull request is not in the last listing")
    if pull.head is None:
        return Hold(slot=slot.slot, reason="NotFetched", message=f"commit {pull.head_sha[:7]} is not fetched yet")
    domain = pull_request_domain(pull.number)
    if is_quarantined(observed, domain, pull.head.tree):
        return Hold(slot=slot.slot, reason="Quarantined", message="the same content failed here before")
    return Wanted(
        slot=slot.slot,
        domain=domain,
        fence=slot.lease.fence,
        head=pull.head,
        cause=_cause(observed, pull.head, domain, otherwise=Cause.PUSH),
    )


def _desired_production(observed: Observed, slot: SlotObserved) -> Wanted | Hold | None:
    override = active_override(observed, slot)
    if override is not None:
        if is_quarantined(observed, PRODUCTION, override.head.tree):
            # The order lifted any older quarantine: this one is newer, the release failed again.
            return Hold(slot=slot.slot, reason="Quarantined", message="what was ordered by hand failed")
        return Wanted(
            slot=slot.slot,
            domain=PRODUCTION,
            fence=0,
            head=override.head,
            cause=Cause.OVERRIDE,
            accept_migrations=override.accept_migrations,
        )
    head = observed.production_head
    if head is None:
        return None
    if not is_quarantined(observed, PRODUCTION, head.tree):
        pushed = Cause.RESYNC if observed.production_head_found_by_resync else Cause.PUSH
        cause = _cause(observed, head, PRODUCTION, otherwise=pushed)
        return Wanted(slot=slot.slot, domain=PRODUCTION, fence=0, head=head, cause=cause)
    return _after_quarantine(observed, slot)


def _after_quarantine(observed: Observed, slot: SlotObserved) -> Wanted | Hold:
    """The head may not serve. If something good does, hold it; if the bad tree itself does, go back, once."""
    hold = Hold(slot=slot.slot, reason="Quarantined", message="the same content failed here before")
    live = slot.live
    serves_bad = (
        live is not None
        and live.state == "live"
        and live.tree is not None
        and is_quarantined(observed, PRODUCTION, live.tree)
    )
    goes_back = slot.run is not None and slot.run.cause is Cause.ROLLBACK
    if not serves_bad and not goes_back:
        return hold
    target = last_proven(observed, PRODUCTION)
    if target is None or rollback_was_tried(slot.recent_runs):
        return hold
    return Wanted(
        slot=slot.slot,
        domain=PRODUCTION,
        fence=0,
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
    if override is None or _override_has_ended(observed, override):
        return None
    return override


def _override_has_ended(observed: Observed, override: Override) -> bool:
    head = observed.production_head
    if head is None or head.sha == override.ordered_at_head:
        return False
    return override.kind == "deploy" or not is_quarantined(observed, PRODUCTION, head.tree)


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
    if override is not None and _override_has_ended(observed, override):
        steps.append(EndOverride(slot=slot.slot, id=override.id, reason="a later head takes over"))
    if slot.slot != MAIN and slot.lease is None:
        return (*steps, *_plan_emptying(slot))
    if slot.lease is not None and slot.provisioned_fence != slot.lease.fence:
        return (*steps, ProvisionSlot(slot=slot.slot, fence=slot.lease.fence))
    steps.extend(_sweep(observed, slot, now=now))
    if slot.live is None:
        steps.append(FreeSlot(slot=slot.slot, fence=0))
    elif slot.live.state == "live" and slot.live.release is not None and slot.current != slot.live.release:
        steps.append(RepairCurrent(slot=slot.slot, release=slot.live.release))
    if slot.run is None:
        steps.extend(_plan_without_run(wanted, observed, slot, now=now))
    elif _is_unwanted(wanted, slot, slot.run):
        steps.append(_supersede(wanted, slot.run))
    else:
        steps.extend(_plan_run(observed, slot, slot.run))
    return tuple(steps)


def _plan_emptying(slot: SlotObserved) -> list[Step]:
    """Nobody holds the slot: end its run, say free, stop everything, and only then wipe."""
    steps: list[Step] = []
    if slot.run is not None:
        steps.append(_end(slot.run, RunState.SUPERSEDED, "LeaseEnded", "the preview's lease ended"))
    if slot.live is None or slot.live.state != "free":
        steps.append(FreeSlot(slot=slot.slot, fence=slot.ended_fence))
    steps.extend(_stop(slot, process) for process in slot.processes)
    if not steps and slot.wiped_fence < slot.ended_fence and "wipe" not in slot.activities:
        steps.append(WipeSlot(slot=slot.slot, fence=slot.ended_fence))
    return steps


def _end(run: Run, state: RunState, reason: str, message: str, *, proven: bool = False) -> EndRun:
    return EndRun(slot=run.slot, generation=run.generation, state=state, reason=reason, message=message, proven=proven)


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
        if (process.unit, process.generation) not in keep and not _still_drains(observed, slot, process, now=now)
    ]


def _still_drains(observed: Observed, slot: SlotObserved, process: ProcessFact, *, now: datetime) -> bool:
    """Requests may still be running in an instance that served until a moment ago."""
    if process.state is ProcessState.EXITED:
        return False
    known = [r for r in (slot.run, slot.live_run, slot.fallback_run, *slot.recent_runs) if r is not None]
    if not any(r.generation == process.generation and r.switched_at is not None for r in known):
        return False
    switches = [r.switched_at for r in known if r.switched_at is not None]
    switches += [r.ended_at for r in known if r.state is RunState.ROLLED_BACK and r.ended_at is not None]
    return now < max(switches) + timedelta(seconds=observed.policy.production.drain_s)


def _is_unwanted(wanted: Wanted | Hold | None, slot: SlotObserved, run: Run) -> bool:
    if run.state is RunState.SWITCHING:
        return False  # the rename may have happened: finish, then judge
    if run.state is RunState.WATCHING:
        watch = slot.verdict("watch")
        if watch is not None and watch.outcome is Outcome.FAIL:
            return False  # going back comes first
    match wanted:
        case None:
            return False
        case Hold():
            kept = run.state is RunState.WATCHING or run.cause in (Cause.ROLLBACK, Cause.REPAIR)
            return wanted.reason == "Quarantined" and not kept
        case Wanted():
            return run.fence != wanted.fence or run.head.tree != wanted.head.tree


def _supersede(wanted: Wanted | Hold | None, run: Run) -> EndRun:
    by = wanted.head.sha[:7] if isinstance(wanted, Wanted) else "a later commit"
    return _end(run, RunState.SUPERSEDED, "NewerHead", f"superseded by {by}")


def _plan_without_run(
    wanted: Wanted | Hold | None, observed: Observed, slot: SlotObserved, *, now: datetime
) -> list[Step]:
    if isinstance(wanted, Wanted) and not serves(slot, wanted.head, fence=wanted.fence):
        if retry_at(observed, slot, wanted) <= now:
            return _begin(wanted, observed, slot)
        return _repair(observed, slot, now=now)
    return _repair(observed, slot, now=now)


NEVER = datetime.max.replace(tzinfo=UTC)
AT_ONCE = datetime.min.replace(tzinfo=UTC)


def retry_at(observed: Observed, slot: SlotObserved, wanted: Wanted) -> datetime:
    """Return when this head may be tried (again): AT_ONCE, after a growing pause, or NEVER (a human must act).

    Only failures that were nobody's fault come here: a release's own failure quarantines its tree."""
    override = next((o for o in observed.overrides if o.slot == slot.slot), None)
    failures: list[Run] = []
    for run in slot.recent_runs:  # newest first
        if override is not None and wanted.cause is Cause.OVERRIDE and run.begun_at < override.at:
            break
        if (run.domain, run.fence, run.head.tree) != (wanted.domain, wanted.fence, wanted.head.tree):
            break
        if run.state not in (RunState.FAILED, RunState.STALLED):
            break
        failures.append(run)
    if not failures or failures[0].ended_at is None:
        return AT_ONCE
    newest = failures[0]
    if newest.state is RunState.STALLED or newest.reason in REFUSALS:
        return NEVER if newest.head.sha == wanted.head.sha or newest.reason in REFUSALS else AT_ONCE
    if len(failures) >= RETRIES_MAX and wanted.cause is not Cause.REPAIR:
        return NEVER
    pause_s = min(RETRY_CAP_S, RETRY_BASE_S * 2 ** (len(failures) - 1))
    return failures[0].ended_at + timedelta(seconds=pause_s)


def _begin(wanted: Wanted, observed: Observed, slot: SlotObserved) -> list[Step]:
    steps: list[Step] = []
    if slot.lease is not None:
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


def _repair(observed: Observed, slot: SlotObserved, *, now: datetime) -> list[Step]:
    """Nothing new is to be done: start again what `live` names if the host lost it (a crash, a reboot)."""
    live, live_run = slot.live, slot.live_run
    if live is None or live.state != "live" or live.address is None or live.colour is None or live_run is None:
        return []
    process = _process(slot, instance_unit(slot.slot, live.colour), live.generation)
    if process is not None and process.state is ProcessState.RUNNING:
        return []
    again = Wanted(slot=slot.slot, domain=live_run.domain, fence=live_run.fence, head=live_run.head, cause=Cause.REPAIR)
    return _begin(again, observed, slot) if retry_at(observed, slot, again) <= now else []


def _plan_run(observed: Observed, slot: SlotObserved, run: Run) -> list[Step]:
    if run.attempts > ATTEMPTS_MAX:
        message = f"the worker died {ATTEMPTS_MAX} times over this commit; push another or deploy it by hand"
        return [_end(run, RunState.STALLED, "WorkerDied", message)]
    checkout = slot.verdict("checkout")
    if checkout is not None and checkout.outcome is Outcome.FAIL and run.state is not RunState.WATCHING:
        return _fail(run, checkout)
    match run.state:
        case RunState.PLANNED:
            return _plan_source(observed, slot, run)
        case RunState.BUILDING:
            return _plan_build(slot, run)
        case RunState.MIGRATING:
            return _plan_migration(slot, run)
        case RunState.GATING:
            return _plan_gate(slot, run)
        case RunState.SWITCHING:
            return _plan_switch(slot, run)
        case RunState.WATCHING:
            return _plan_watch(observed, slot, run)
        case _:
            raise AssertionError(f"run {run.generation} is {run.state} but not ended")


def _fail(run: Run, verdict: Verdict) -> list[Step]:
    """The run ends; its tree is remembered only if the release itself is to blame, and never over a repair or a
    rollback: those releases have proven themselves, so something else changed."""
    steps: list[Step] = []
    if verdict.blames_release and run.cause not in (Cause.REPAIR, Cause.ROLLBACK):
        steps.append(_quarantine(run, verdict))
    steps.append(_end(run, RunState.FAILED, verdict.reason, verdict.message))
    return steps


def _quarantine(run: Run, verdict: Verdict) -> Quarantine:
    return Quarantine(
        domain=run.domain, tree=run.head.tree, sha=run.head.sha, reason=verdict.reason, message=verdict.message
    )


def _own_fault(run: Run, reason: str, message: str) -> Verdict:
    return Verdict(
        kind="checkout",
        slot=run.slot,
        generation=run.generation,
        release=run.release,
        outcome=Outcome.FAIL,
        reason=reason,
        message=message,
    )


def _is_restore(observed: Observed, run: Run) -> bool:
    """Say whether the run goes back to content that has served in this domain: no build, no migration, at once."""
    return run.cause is Cause.REPAIR or bool(_proven_like(observed, run.domain, run.head.tree))


def _plan_source(observed: Observed, slot: SlotObserved, run: Run) -> list[Step]:
    if slot.recipe_problem:
        return _fail(run, _own_fault(run, "DeployTomlInvalid", slot.recipe_problem))
    if slot.recipe is None:
        return []
    restore = _is_restore(observed, run)
    at = slot.database_migration_head
    if restore and at is not None and at != slot.wanted_migration_head and not slot.accept_migrations:
        message = (
            f"not restored at once: the database's migrations ({at[:7] or 'none'}) differ from those of "
            f"{run.release[:7]} ({slot.wanted_migration_head[:7] or 'none'}); accept it by hand or push forward"
        )
        return [_end(run, RunState.FAILED, "MigrationsDiffer", message)]
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
            StartJob(slot=run.slot, generation=run.generation, kind="build", release=run.release),
        ]
    return _after_build(slot, run, restore=restore)


def _after_build(slot: SlotObserved, run: Run, *, restore: bool) -> list[Step]:
    database = slot.recipe.database if slot.recipe is not None else None
    if database is not None and database.migrate is not None and not restore:
        return [
            AdvanceRun(slot=run.slot, generation=run.generation, state=RunState.MIGRATING),
            StartJob(slot=run.slot, generation=run.generation, kind="migrate", release=run.release),
        ]
    return [AdvanceRun(slot=run.slot, generation=run.generation, state=RunState.GATING), *_plan_gate(slot, run)]


def _plan_build(slot: SlotObserved, run: Run) -> list[Step]:
    if slot.build_sealed:
        return _after_build(slot, run, restore=False)
    process = _process(slot, job_unit("build", run.slot), run.generation)
    if process is None:
        return [StartJob(slot=run.slot, generation=run.generation, kind="build", release=run.release)]
    if process.state is ProcessState.RUNNING or "seal" in slot.activities:
        return []
    if process.exit_code == 0 and not process.timed_out:
        return [SealBuild(slot=run.slot, generation=run.generation, release=run.release)]
    return _fail(run, _own_fault(run, "BuildFailed", _how_it_ended("build", process, slot)))


def _plan_migration(slot: SlotObserved, run: Run) -> list[Step]:
    process = _process(slot, job_unit("migrate", run.slot), run.generation)
    if process is None:
        return [StartJob(slot=run.slot, generation=run.generation, kind="migrate", release=run.release)]
    if process.state is ProcessState.RUNNING:
        return []
    if process.exit_code == 0 and not process.timed_out:
        return [AdvanceRun(slot=run.slot, generation=run.generation, state=RunState.GATING), *_plan_gate(slot, run)]
    return _fail(run, _own_fault(run, "MigrationFailed", _how_it_ended("migration", process, slot)))


def _how_it_ended(what: str, process: ProcessFact, slot: SlotObserved) -> str:
    if process.timed_out:
        end = "ran into its time limit"
    elif process.exit_code is not None and process.exit_code < 0:
        end = f"was killed by signal {-process.exit_code}"
    else:
        end = f"exited with {process.exit_code}"
    last = next((line for unit, line in slot.last_log_lines if unit == process.unit), "")
    return f"the {what} {end}" + (f": {last}" if last else "")


def _plan_gate(slot: SlotObserved, run: Run) -> list[Step]:
    steps: list[Step] = []
    if slot.recipe is not None and slot.recipe.api is not None and run.colour is not None:
        unit = instance_unit(run.slot, run.colour)
        if any(p.unit == unit and p.generation != run.generation for p in slot.processes):
            return []  # the sweep stops it, once it has drained
        process = _process(slot, unit, run.generation)
        if process is None:
            steps.append(
                StartInstance(slot=run.slot, generation=run.generation, colour=run.colour, release=run.release)
            )
    verdict = slot.verdict("gate")
    if verdict is None:
        if "gate" not in slot.activities:
            steps.append(StartGate(slot=run.slot, generation=run.generation, release=run.release))
        return steps
    if verdict.outcome is Outcome.FAIL:
        return _fail(run, verdict)
    return [
        AdvanceRun(slot=run.slot, generation=run.generation, state=RunState.SWITCHING),
        *_plan_switch(slot, run),
    ]


def _plan_switch(slot: SlotObserved, run: Run) -> list[Step]:
    steps: list[Step] = []
    if slot.live is None or slot.live.generation != run.generation:
        steps.append(Switch(slot=run.slot, generation=run.generation, release=run.release, colour=run.colour))
    return [
        *steps,
        AdvanceRun(slot=run.slot, generation=run.generation, state=RunState.WATCHING),
        StartWatch(slot=run.slot, generation=run.generation, release=run.release),
    ]


def _plan_watch(observed: Observed, slot: SlotObserved, run: Run) -> list[Step]:
    verdict = slot.verdict("watch")
    if verdict is None:
        if "watch" in slot.activities:
            return []
        return [StartWatch(slot=run.slot, generation=run.generation, release=run.release)]
    if verdict.outcome is Outcome.PASS:
        return [_end(run, RunState.LIVE, "", "", proven=True)]
    return _roll_back(observed, slot, run, verdict)


def _roll_back(observed: Observed, slot: SlotObserved, run: Run, verdict: Verdict) -> list[Step]:
    """The window failed. Go back at once if what served before still can; else the next tick begins a rollback run."""
    if not verdict.blames_release or run.cause in (Cause.REPAIR, Cause.ROLLBACK):
        return _fail(run, verdict)
    fallback, back = slot.fallback_run, slot.fallback_live
    steps: list[Step] = [_quarantine(run, verdict)]
    if fallback is None or fallback.head.tree == run.head.tree:
        return [*steps, _end(run, RunState.FAILED, verdict.reason, f"{verdict.message}; nothing to go back to")]
    schema_differs = (
        slot.database_migration_head is not None
        and fallback.migration_head != slot.database_migration_head
        and not slot.accept_migrations
    )
    if schema_differs:
        message = f"{verdict.message}; not rolled back: {fallback.release[:7]} has other migrations than the database"
        return [*steps, _end(run, RunState.FAILED, "MigrationsDiffer", message)]
    went_back = slot.live is not None and slot.live.generation == fallback.generation
    if went_back or (back is not None and _can_serve(slot, fallback, back)):
        steps.append(SwitchBack(slot=run.slot, generation=run.generation, fallback=fallback.generation))
        message = f"{verdict.message}; rolled back to {fallback.release[:7]}"
    elif run.slot == MAIN and last_proven(observed, run.domain) is not None:
        message = f"{verdict.message}; rolling back to {fallback.release[:7]}"
    else:
        return [*steps, _end(run, RunState.FAILED, verdict.reason, f"{verdict.message}; nothing to go back to")]
    return [*steps, _end(run, RunState.ROLLED_BACK, verdict.reason, message)]


def _can_serve(slot: SlotObserved, fallback: Run, back: Live) -> bool:
    if back.address is None:
        return True  # static files only: they are on the disk
    if fallback.colour is None:
        return False
    process = _process(slot, instance_unit(slot.slot, fallback.colour), fallback.generation)
    return process is not None and process.state is ProcessState.RUNNING
