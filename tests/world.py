"""What would the host look like after these steps? One small in-memory world that applies steps and can be observed.

It is for property tests only. It keeps to what a step's docstring promises, so that a contract test can run the same
cases here and on the real effects: every step is safe to repeat, long work is begun by a step and ends in `elapse`,
and a step about something that is over changes nothing. A step that would break a promise raises `Broken`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal, assert_never

from controller.decisions.holds import held_run
from controller.decisions.order import HeadFacts, judge_head
from controller.decisions.plan import desired, plan_slot
from controller.decisions.projection import project_all
from controller.decisions.retention import select_prunable, select_spent_builds
from controller.decisions.slots import QueuePlace, assign_slots
from controller.model.config import Policy, Previews, Recipe
from controller.model.names import (
    MAIN,
    PRODUCTION,
    Domain,
    Sha,
    SlotName,
    Topology,
    TreeId,
    instance_unit,
    job_unit,
)
from controller.model.nouns import (
    BuildFolder,
    Head,
    HoldOrder,
    Lease,
    Live,
    Override,
    ProcessFact,
    Proven,
    PullRequest,
    Quarantined,
    Release,
    Run,
    Stop,
    Verdict,
)
from controller.model.reports import FORGE_SURFACES, WantedReport, WantedStatus
from controller.model.states import RUN_TERMINAL, Cause, Outcome, ProcessState, RunState
from controller.model.steps import (
    AdvanceRun,
    BeginRun,
    Checkout,
    ClaimSlot,
    DropBuild,
    EndLease,
    EndOverride,
    EndRun,
    EnsureDatabase,
    FreeSlot,
    HandOver,
    ProvisionSlot,
    Prune,
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
    RECENT_RUNS_MAX,
    ROLLED_BACK_BY_HAND,
    Activity,
    DeliveryHint,
    HeadRefused,
    Observed,
    SlotObserved,
)
from tests.builders import APP, START_AT, head, sha

#: One `elapse`, unless said otherwise: longer than a drain, so that ticks do not only wait.
ELAPSE_S = 6.0
VerdictKind = Literal["checkout", "gate", "confirm", "watch", "judge"]


class Broken(AssertionError):
    """A step that no plan may hold in this world."""


class Behaviour(StrEnum):
    """What a commit's content does when it is tried."""

    GOOD = "good"
    HOSTILE = "hostile"  # its tree is refused before anything is written
    BUILD_FAILS = "build fails"
    MIGRATE_FAILS = "migrate fails"
    GATE_FAILS = "gate fails"
    EXITS_AFTER_GATE = "exits after its gate"
    WINDOW_FAILS = "window fails"


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A commit of the forge: its content is the same as that of every commit with the same `content`."""

    number: int
    content: int
    behaviour: Behaviour = Behaviour.GOOD
    recipe: Recipe = APP

    @property
    def head(self) -> Head:
        return head(self.number, content=self.content)


@dataclass(slots=True)
class SlotWorld:
    """One slot: what its folders, its units and its rows say."""

    slot: SlotName
    live: Live | None = None
    current: Sha | None = None
    lease: Lease | None = None
    ended_fence: int = 0
    provisioned_fence: int = 0
    wiped_fence: int = 0
    processes: dict[str, ProcessFact] = field(default_factory=dict)
    runs: dict[int, Run] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    activities: set[Activity] = field(default_factory=set)
    live_versions: dict[int, Live] = field(default_factory=dict)
    database_fence: int | None = None
    migrated: tuple[int, str] | None = None

    @property
    def run(self) -> Run | None:
        return next((run for run in self.runs.values() if run.state not in RUN_TERMINAL), None)

    def ended(self) -> list[Run]:
        ended = [run for run in self.runs.values() if run.state in RUN_TERMINAL]
        return sorted(ended, key=lambda run: run.generation, reverse=True)


class FakeHost:
    """The forge, the store and the host of one stack with `previews` preview slots."""

    def __init__(self, *, previews: int = 2, commits: Sequence[Commit] = (), lease_ttl_s: float = 1e9) -> None:
        self.now: datetime = START_AT
        self.policy = Policy(previews=Previews(slots=previews, lease_ttl_s=lease_ttl_s))
        self.topology = Topology(previews=previews)
        self.commits = {commit.head.sha: commit for commit in commits}
        self.slots = {name: SlotWorld(slot=name) for name in self.topology.slots}
        self.generations = 0
        self.releases: dict[Sha, Release] = {}
        self.builds: set[tuple[Domain, TreeId]] = set()
        self.quarantined: dict[tuple[Domain, TreeId], Quarantined] = {}
        self.overrides: list[Override] = []
        self.stops: list[Stop] = []
        self.holds: list[HoldOrder] = []
        self.orders = 0
        self.waiting_since: dict[int, datetime] = {}
        self.outbox: dict[tuple[str, str], WantedReport] = {}
        #: The forge's truth, and what the last fetch and the last listing saw of it.
        self.production: Sha | None = None
        self.open_pulls: dict[int, PullRequest] = {}
        self.fetched_production: Sha | None = None
        self.listed: dict[int, PullRequest] | None = None
        #: What becomes of a branch that is moved by force. None: commits have no order; else each lies behind the next.
        self.force_push: Literal["hold", "follow"] | None = None
        self.accepted: Sha | None = None
        self.hints: list[DeliveryHint] = []
        #: Shas that production went through, in order: reachable from its head.
        self.history: list[Sha] = []
        #: Gates that fail for nobody's fault, still to come.
        self.outages = 0
        self.applied: list[Step] = []

    # What happens outside: pushes, pull requests, deliveries, time, accidents.

    def push(self, number: int) -> None:
        """Move the production branch; nobody is told."""
        self.production = sha(number)
        self.history.append(self.production)

    def open_pull(self, number: int, commit: int) -> None:
        """Open or update a pull request; nobody is told."""
        known = self.open_pulls.get(number)
        self.open_pulls[number] = PullRequest(
            number=number,
            head_sha=sha(commit),
            head_branch=f"topic-{number}",
            title="",
            author="ann",
            same_repository=True,
            opened_at=known.opened_at if known is not None else self.now,
        )

    def close_pull(self, number: int) -> None:
        self.open_pulls.pop(number, None)

    def deliver_push(self, number: int) -> None:
        """A push's delivery came: it is only a hint to fetch."""
        self.fetched_production = self.production
        self.hints.append(self._hint(target="ref:refs/heads/main", of=sha(number)))

    def deliver_pull(self, number: int) -> None:
        """A pull request's delivery came: it is only a hint to list again."""
        self.listed = dict(self.open_pulls)
        self.hints.append(self._hint(target=f"pull:{number}", of=None))

    def resync(self) -> None:
        """Fetch and list, as every few minutes."""
        self.fetched_production = self.production
        self.listed = dict(self.open_pulls)

    def _hint(self, *, target: str, of: Sha | None) -> DeliveryHint:
        reachable = of is not None and of in self.history
        seq = len(self.hints) + 1
        return DeliveryHint(seq=seq, target=target, sha=of, received_at=self.now, on_production=reachable)

    def order(
        self, number: int, *, kind: str = "deploy", accept_migrations: bool = False, despite_hold: str = ""
    ) -> None:
        """An order by hand: it lifts the quarantine of what it names, and one to roll back puts what serves there."""
        ordered, live = self.commits[sha(number)].head, self.slots[MAIN].live
        self.quarantined.pop((PRODUCTION, ordered.tree), None)
        if kind == "rollback" and live is not None and live.tree not in (None, ordered.tree):
            assert live.tree is not None
            assert live.release is not None
            left = Quarantined(
                domain=PRODUCTION, tree=live.tree, sha=live.release, reason=ROLLED_BACK_BY_HAND, message="", at=self.now
            )
            self.quarantined.setdefault((PRODUCTION, live.tree), left)
        self.stops = [stop for stop in self.stops if stop.slot != MAIN]
        self.overrides = [
            Override(
                id=self._next_order(),
                slot=MAIN,
                kind="rollback" if kind == "rollback" else "deploy",
                head=ordered,
                ordered_at_head=self.fetched_production,
                accept_migrations=accept_migrations,
                actor="ann",
                reason="told to",
                at=self.now,
                despite_hold=despite_hold,
            )
        ]

    def stop(self, slot: SlotName, *, restart: bool = False) -> None:
        """An order by hand that nothing shall run in a slot that somebody holds."""
        lease = self.slots[slot].lease
        if slot != MAIN and lease is None:
            return
        self.start(slot)
        self.stops.append(
            Stop(
                id=self._next_order(),
                slot=slot,
                kind="restart" if restart else "stopped",
                fence=lease.fence if lease is not None else 0,
                actor="ann",
                reason="told to",
                at=self.now,
            )
        )

    def start(self, slot: SlotName) -> None:
        """The end of that order."""
        self.stops = [stop for stop in self.stops if stop.slot != slot]

    def hold(self, slot: SlotName, *, seconds: float | None = None) -> None:
        """An order by hand that nothing new goes to a slot that somebody holds."""
        lease = self.slots[slot].lease
        if slot != MAIN and lease is None:
            return
        self.holds.append(
            HoldOrder(
                id=self._next_order(),
                slot=slot,
                fence=lease.fence if lease is not None else 0,
                until=None if seconds is None else self.now + timedelta(seconds=seconds),
                actor="bob",
                reason="wait",
                at=self.now,
            )
        )

    def unhold(self, slot: SlotName) -> None:
        """The end of such orders."""
        self.holds = [hold for hold in self.holds if hold.slot != slot]

    def _check_not_held(self, step: Step, slot: SlotName, generation: int) -> None:
        run = self._running(slot, generation)
        observed = self.observe()
        if run is not None and held_run(observed, observed.slot(slot), run, now=self.now) is not None:
            raise Broken(f"{step} but {slot} is held")

    def is_stopped(self, slot: SlotName) -> bool:
        lease = self.slots[slot].lease
        fence = lease.fence if lease is not None else 0
        return any((stop.slot, stop.fence) == (slot, fence) for stop in self.stops)

    def _next_order(self) -> int:
        self.orders += 1
        return self.orders

    def kill(self, slot: SlotName) -> None:
        """The serving instance of a slot dies, killed from outside."""
        world = self.slots[slot]
        if world.live is not None and world.live.colour is not None:
            unit = instance_unit(slot, world.live.colour)
            if unit in world.processes:
                world.processes[unit] = replace(
                    world.processes[unit], state=ProcessState.EXITED, exit_code=-9, ended_at=self.now
                )

    def crash(self) -> None:
        """The worker dies and is started again: its threads are gone, its running runs count an attempt."""
        for world in self.slots.values():
            world.activities.clear()
            if world.run is not None:
                world.runs[world.run.generation] = replace(world.run, attempts=world.run.attempts + 1)

    def reboot(self) -> None:
        """The host goes down and comes back: no process is left."""
        self.crash()
        for world in self.slots.values():
            world.processes.clear()

    def elapse(self, seconds: float = ELAPSE_S) -> None:
        """Let time go by: threads and jobs come to their ends."""
        self.now += timedelta(seconds=seconds)
        for world in self.slots.values():
            for fact in list(world.processes.values()):
                if is_running_job(fact):
                    self._end_job(world, fact)
            for activity in sorted(world.activities):
                self._end_activity(world, activity)

    # One tick, as the loop does it.

    def tick(self, *, crash_after: int | None = None) -> tuple[Step, ...]:
        """Observe once, settle leases, plan every slot, prune; return the steps.

        With `crash_after`, the worker dies after that many steps, and nothing is reported."""
        observed = self.observe()
        if observed.production_head is not None and observed.head_refused is None:
            self.accepted = observed.production_head.sha
        slot_plan = assign_slots(observed, now=self.now)
        steps: list[Step] = list(slot_plan.steps)
        for slot in observed.slots:
            steps.extend(plan_slot(desired(observed, slot), observed, slot, now=self.now))
        steps.extend(select_prunable(observed, now=self.now))
        steps.extend(select_spent_builds(observed))
        for place in slot_plan.queue:
            self.waiting_since.setdefault(place.pull_request, self.now)
        if not self._apply_all(steps, crash_after=crash_after):
            self.report(observed, slot_plan.queue)
        return tuple(steps)

    def _apply_all(self, steps: Sequence[Step], *, crash_after: int | None) -> bool:
        for index, step in enumerate(steps):
            if index == crash_after:
                self.crash()
                return True
            self.apply(step)
        return False

    def report(self, observed: Observed, queue: tuple[QueuePlace, ...]) -> None:
        """Project everything into the outbox, where an older generation changes nothing."""
        for wanted in project_all(observed, queue, self.topology, surfaces=FORGE_SURFACES, now=self.now):
            key = (wanted.surface, wanted.key)
            if key not in self.outbox or self.outbox[key].generation <= wanted.generation:
                self.outbox[key] = wanted
        self.hints.clear()

    @property
    def reports(self) -> dict[tuple[Sha, str], WantedStatus]:
        """The statuses that are wanted, by commit and context."""
        return {(one.sha, one.context): one for one in self.outbox.values() if isinstance(one, WantedStatus)}

    def is_busy(self) -> bool:
        """Say whether a thread or a job still has to come to its end."""
        return any(
            world.activities or any(map(is_running_job, world.processes.values())) for world in self.slots.values()
        )

    def settle(self, *, ticks_max: int = 150) -> int:
        """Tick until nothing is to be done and nothing runs; return how many ticks that took."""
        quiet = 0
        for count in range(ticks_max):
            # Two quiet looks, with time for every retry between them: a pause is not an end.
            quiet = quiet + 1 if not self.tick() and not self.is_busy() else 0
            if quiet == 2:
                seen = self.observe()
                stuck = [
                    run
                    for slot in seen.slots
                    if (run := slot.run) is not None and held_run(seen, slot, run, now=self.now) is None
                ]
                if stuck:
                    raise Broken(f"nothing is to be done, but these have not ended: {stuck}")
                return count + 1
            self.elapse(400.0 if quiet else ELAPSE_S)
        raise Broken(f"still busy after {ticks_max} ticks: {self.applied[-12:]}")

    # What can be seen.

    def observe(self) -> Observed:
        fetched = self.commits.get(self.fetched_production) if self.fetched_production is not None else None
        return Observed(
            production_head=None if fetched is None else fetched.head,
            head_refused=self._judge_head(fetched),
            pulls=tuple(
                replace(pull, head=self.commits[pull.head_sha].head if pull.same_repository else None)
                for pull in (self.listed or {}).values()
            ),
            waiting_since=tuple(sorted(self.waiting_since.items())),
            pulls_listed=self.listed is not None,
            slots=tuple(self._observe_slot(world) for world in self.slots.values()),
            releases=tuple(self.releases.values()),
            builds=tuple(BuildFolder(domain=domain, name=f"{tree}-recipe") for domain, tree in sorted(self.builds)),
            proven=self._proven(),
            quarantined=tuple(self.quarantined.values()),
            overrides=tuple(self.overrides),
            stops=tuple(self.stops),
            holds=tuple(self.holds),
            hints=tuple(self.hints),
            open_reports=tuple(report for report in self.outbox.values() if report.is_open),
            policy=self.policy,
        )

    def _judge_head(self, fetched: Commit | None) -> HeadRefused | None:
        if fetched is None or self.force_push is None:
            return None
        main = self.slots[MAIN]
        live = main.live if main.live is not None and main.live.state == "live" else None
        served = self.commits[main.runs[live.generation].head.sha] if live is not None else None
        accepted = None if self.accepted is None else self.commits[self.accepted].number
        facts = HeadFacts(
            head=fetched.head,
            accepted=self.accepted,
            serves=None if served is None else served.head,
            follows_accepted=accepted is not None and accepted <= fetched.number,
            follows_served=served is not None and served.number <= fetched.number,
            is_behind=accepted is not None and fetched.number < accepted,
        )
        return judge_head(facts, force_push=self.force_push).refused

    def _proven(self) -> tuple[Proven, ...]:
        newest: dict[tuple[Domain, Sha], Proven] = {}
        for world in self.slots.values():
            for run in sorted(world.runs.values(), key=lambda run: run.generation):
                if run.proven and run.release in self.releases and run.ended_at is not None:
                    newest[run.domain, run.release] = Proven(
                        domain=run.domain,
                        sha=run.release,
                        tree=run.head.tree,
                        generation=run.generation,
                        proven_at=run.ended_at,
                        migration_head=run.migration_head,
                    )
        return tuple(newest.values())

    def _observe_slot(self, world: SlotWorld) -> SlotObserved:
        run = world.run
        live_run = world.runs.get(world.live.generation) if world.live is not None else None
        basis = run if run is not None else live_run
        fallback = world.runs.get(basis.fallback) if basis is not None and basis.fallback is not None else None
        commit = self.commits[run.release] if run is not None else None
        fence = world.lease.fence if world.lease is not None else 0
        of_lease = world.migrated is not None and world.migrated[0] == fence
        on_disk = fallback is not None and fallback.release in self.releases
        return SlotObserved(
            slot=world.slot,
            live=world.live,
            current=world.current,
            lease=world.lease,
            ended_fence=world.ended_fence,
            provisioned_fence=world.provisioned_fence,
            wiped_fence=world.wiped_fence,
            processes=tuple(world.processes.values()),
            run=run,
            verdicts=tuple(world.verdicts.values()),
            activities=frozenset(world.activities),
            recent_runs=tuple(world.ended()[:RECENT_RUNS_MAX]),
            live_run=live_run,
            fallback_run=fallback,
            fallback_live=world.live_versions.get(fallback.generation) if fallback is not None and on_disk else None,
            published=run is not None and run.release in self.releases,
            recipe=commit.recipe if commit is not None else None,
            build_sealed=run is not None and (run.domain, run.head.tree) in self.builds,
            database_ready=world.database_fence == fence,
            wanted_migration_head=run.migration_head if run is not None else "",
            database_migration_head=world.migrated[1] if world.migrated is not None and of_lease else None,
            accept_migrations=any(o.slot == world.slot and o.accept_migrations for o in self.overrides),
        )

    # What steps do.

    def apply(self, step: Step) -> None:
        """Do one step, as its docstring says; Broken when no plan may hold it now."""
        self.applied.append(step)
        match step:
            case ClaimSlot():
                self._claim(step)
            case EndLease():
                world = self.slots[step.slot]
                if world.lease is not None and world.lease.fence == step.fence:
                    world.lease, world.ended_fence = None, step.fence
            case RenewLease():
                world = self.slots[step.slot]
                if world.lease is not None and world.lease.fence == step.fence:
                    world.lease = replace(world.lease, expires_at=self._lease_end())
            case ProvisionSlot():
                self.slots[step.slot].provisioned_fence = step.fence
            case WipeSlot():
                self._wipe(step)
            case BeginRun():
                self._begin(step)
            case AdvanceRun():
                self._advance(step)
            case EndRun():
                self._end(step)
            case Quarantine():
                if step.lifts is not None:
                    self.quarantined.pop((step.domain, step.lifts), None)
                known = Quarantined(
                    domain=step.domain,
                    tree=step.tree,
                    sha=step.sha,
                    reason=step.reason,
                    message=step.message,
                    at=self.now,
                )
                self.quarantined.setdefault((step.domain, step.tree), known)
            case Checkout():
                self._start_activity(step.slot, step.generation, "checkout")
            case EnsureDatabase():
                self._start_activity(step.slot, step.generation, "database")
            case SealBuild():
                self._start_activity(step.slot, step.generation, "seal")
            case StartGate():
                self._start_activity(step.slot, step.generation, "gate")
            case StartWatch():
                self._start_activity(step.slot, step.generation, "watch")
            case StartJob():
                if step.kind == "migrate":
                    self._check_not_held(step, step.slot, step.generation)
                self._start_process(step.slot, job_unit(step.kind, step.slot), step.generation)
            case StartInstance():
                self._check_not_held(step, step.slot, step.generation)
                if step.release not in self.releases:
                    raise Broken(f"starts what is not on the disk: {step}")
                self._start_process(step.slot, instance_unit(step.slot, step.colour), step.generation)
            case StopUnit():
                self._stop(step)
            case Switch():
                self._check_not_held(step, step.slot, step.generation)
                self._switch(step)
            case HandOver():
                raise Broken(f"{step}, but this world deploys nothing of ours")
            case SwitchBack():
                self._switch_back(step)
            case FreeSlot():
                world = self.slots[step.slot]
                world.live = Live(slot=step.slot, state="free", generation=0, fence=step.fence)
                world.current = None
            case RepairCurrent():
                self.slots[step.slot].current = step.release
            case EndOverride():
                self.overrides = [order for order in self.overrides if order.id != step.id]
                self.stops = [stop for stop in self.stops if stop.id != step.id]
            case Prune():
                self._prune(step)
            case DropBuild():
                self._drop(step)
            case _:
                assert_never(step)
        self._check()

    def _check(self) -> None:
        """What holds after every single step."""
        held = [world.lease.pull_request for world in self.slots.values() if world.lease is not None]
        if len(held) != len(set(held)):
            raise Broken(f"a pull request holds two slots: {held}")
        for world in self.slots.values():
            live = world.live
            if live is not None and live.state == "live" and live.release not in self.releases:
                raise Broken(f"{world.slot} serves what is not on the disk: {live}")
            if world.current is not None and world.current not in self.releases:
                raise Broken(f"current of {world.slot} names what is not on the disk: {world.current}")

    def _next(self) -> int:
        self.generations += 1
        return self.generations

    def _lease_end(self) -> datetime:
        return self.now + timedelta(seconds=self.policy.previews.lease_ttl_s)

    def _claim(self, step: ClaimSlot) -> None:
        world = self.slots[step.slot]
        if world.lease is not None or any(
            w.lease is not None and w.lease.pull_request == step.pull_request for w in self.slots.values()
        ):
            return
        if world.processes or (world.live is not None and world.live.state == "live"):
            raise Broken(f"{step} but something of the lease before is left")
        world.lease = Lease(
            fence=self._next(),
            slot=step.slot,
            pull_request=step.pull_request,
            claimed_at=self.now,
            expires_at=self._lease_end(),
        )
        self.waiting_since.pop(step.pull_request, None)

    def _wipe(self, step: WipeSlot) -> None:
        world = self.slots[step.slot]
        if world.lease is not None or world.processes or (world.live is not None and world.live.state == "live"):
            raise Broken(f"{step} but the slot is used")
        world.activities.add("wipe")

    def _begin(self, step: BeginRun) -> None:
        world = self.slots[step.slot]
        if world.run is not None or (step.fence and (world.lease is None or world.lease.fence != step.fence)):
            return
        serves = world.live.tree if world.live is not None else None
        restarts = step.cause is Cause.REPAIR and serves == step.head.tree
        if (step.domain, step.head.tree) in self.quarantined and not restarts:
            raise Broken(f"begins what is quarantined: {step}")
        world.verdicts.clear()
        generation = self._next()
        world.runs[generation] = Run(
            generation=generation,
            slot=step.slot,
            domain=step.domain,
            fence=step.fence,
            head=step.head,
            release=step.release,
            cause=step.cause,
            state=RunState.PLANNED,
            colour=step.colour,
            attempts=1,
            begun_at=self.now,
            fallback=step.fallback,
            migration_head=self._migration_head(step.release),
        )

    def _migration_head(self, release: Sha) -> str:
        recipe = self.commits[release].recipe
        return recipe.database.migrations if recipe.database is not None else ""

    def _running(self, slot: SlotName, generation: int) -> Run | None:
        run = self.slots[slot].run
        return run if run is not None and run.generation == generation else None

    def _advance(self, step: AdvanceRun) -> None:
        run = self._running(step.slot, step.generation)
        if run is None:
            return
        if list(RunState).index(step.state) < list(RunState).index(run.state):
            raise Broken(f"{step} moves back from {run.state}")
        world = self.slots[step.slot]
        if run.state is RunState.MIGRATING and step.state is RunState.GATING:
            world.migrated = (run.fence, run.migration_head)
        if step.state is RunState.WATCHING:
            run = replace(run, switched_at=run.switched_at or self.now, watch_until=self.now + timedelta(seconds=30))
        world.runs[run.generation] = replace(run, state=step.state)

    def _end(self, step: EndRun) -> None:
        run = self._running(step.slot, step.generation)
        if run is None:
            return
        if step.proven and run.switched_at is None:
            raise Broken(f"{step} but it never served")
        world = self.slots[step.slot]
        world.activities -= {"gate", "watch"}  # they are of this run and are cancelled; other threads end by themselves
        world.runs[run.generation] = replace(
            run,
            state=step.state,
            reason=step.reason,
            message=step.message,
            proven=step.proven,
            successor=step.successor,
            switched_back=step.switched_back,
            ended_at=self.now,
        )

    def _start_activity(self, slot: SlotName, generation: int, activity: Activity) -> None:
        if self._running(slot, generation) is not None:
            self.slots[slot].activities.add(activity)

    def _start_process(self, slot: SlotName, unit: str, generation: int) -> None:
        world = self.slots[slot]
        serves = world.live is not None and world.live.state == "live" and world.live.generation == generation
        if self._running(slot, generation) is None and not serves:
            return
        if serves and self.is_stopped(slot):
            raise Broken(f"{unit} is started again, but a person has stopped it")
        known = world.processes.get(unit)
        if known is not None and known.generation != generation:
            raise Broken(f"{unit} is taken by run {known.generation}, run {generation} cannot start")
        if known is None:
            fact = ProcessFact(unit=unit, generation=generation, state=ProcessState.RUNNING, started_at=self.now)
            world.processes[unit] = fact

    def _stop(self, step: StopUnit) -> None:
        world = self.slots[step.slot]
        known = world.processes.get(step.unit)
        if known is None or known.generation != step.generation:
            return
        live = world.live
        if live is not None and live.state == "live" and live.colour is not None:
            serves = (instance_unit(step.slot, live.colour), live.generation) == (step.unit, step.generation)
            # Its lease may have ended in this very tick: the order to stop it was of that lease.
            was_told_to = any((stop.slot, stop.fence) == (step.slot, live.fence) for stop in self.stops)
            if serves and known.state is ProcessState.RUNNING and not was_told_to:
                raise Broken(f"stops what serves: {step}")
        del world.processes[step.unit]

    def _switch(self, step: Switch) -> None:
        world, run = self.slots[step.slot], self._running(step.slot, step.generation)
        if run is None or (run.fence and (world.lease is None or world.lease.fence != run.fence)):
            return
        gate = world.verdicts.get("gate")
        if gate is None or gate.generation != run.generation or gate.outcome is not Outcome.PASS:
            raise Broken(f"{step} but its gate has not passed")
        address: str | None = None
        if self.commits[run.release].recipe.api is not None:
            assert run.colour is not None
            unit = instance_unit(run.slot, run.colour)
            known = world.processes.get(unit)
            if known is None or known.generation != run.generation or known.state is not ProcessState.RUNNING:
                raise Broken(f"{step} but its instance does not run")
            address = unit
        self._serve(
            world,
            Live(
                slot=run.slot,
                state="live",
                generation=run.generation,
                fence=run.fence,
                release=run.release,
                tree=run.head.tree,
                colour=run.colour if address is not None else None,
                address=address,
            ),
        )

    def _serve(self, world: SlotWorld, live: Live) -> None:
        world.live = live
        world.live_versions[live.generation] = live
        world.current = live.release

    def _switch_back(self, step: SwitchBack) -> None:
        world, run = self.slots[step.slot], self._running(step.slot, step.generation)
        if run is None or run.fallback != step.fallback:
            return
        if (run.domain, world.runs[step.fallback].head.tree) in self.quarantined:
            raise Broken(f"{step} goes back to what is quarantined")
        self._serve(world, world.live_versions[step.fallback])

    def _prune(self, step: Prune) -> None:
        for world in self.slots.values():
            run = world.run
            if run is not None and run.release == step.release:
                raise Broken(f"{step} but {world.slot} works on it")
        self.releases.pop(step.release, None)

    def _drop(self, step: DropBuild) -> None:
        tree = BuildFolder(domain=step.domain, name=step.name).tree
        for world in self.slots.values():
            serves = world.live is not None and world.live.state == "live" and world.live.tree == tree
            if serves and world.live is not None and world.runs[world.live.generation].domain == step.domain:
                raise Broken(f"{step} but {world.slot} serves from it")
            if world.run is not None and (world.run.domain, world.run.head.tree) == (step.domain, tree):
                raise Broken(f"{step} but {world.slot} works on it")
        if any(release.tree == tree for release in self.releases.values()):
            raise Broken(f"{step} but its release is on the disk")
        self.builds.discard((step.domain, tree))

    # How long work ends.

    def _end_job(self, world: SlotWorld, fact: ProcessFact) -> None:
        run = world.runs[fact.generation]
        fails = Behaviour.BUILD_FAILS if fact.unit.startswith("build-") else Behaviour.MIGRATE_FAILS
        world.processes[fact.unit] = replace(
            fact,
            state=ProcessState.EXITED,
            exit_code=int(self.commits[run.release].behaviour is fails),
            ended_at=self.now,
        )

    def _end_activity(self, world: SlotWorld, activity: Activity) -> None:
        if activity == "wipe":
            world.activities.discard(activity)
            self._wiped(world)
            return
        run = world.run
        if run is None:
            world.activities.discard(activity)
            return
        commit = self.commits[run.release]
        match activity:
            case "checkout":
                world.activities.discard(activity)
                if commit.behaviour is Behaviour.HOSTILE:
                    self._say(world, run, "checkout", Outcome.FAIL)
                else:
                    published = Release(sha=run.release, tree=run.head.tree, published_at=self.now)
                    self.releases.setdefault(run.release, published)
            case "database":
                world.activities.discard(activity)
                world.database_fence = run.fence
            case "seal":
                world.activities.discard(activity)
                self.builds.add((run.domain, run.head.tree))
            case "gate":
                world.activities.discard(activity)
                self._end_gate(world, run, commit)
            case "watch":
                self._end_watch(world, run, commit)

    def _wiped(self, world: SlotWorld) -> None:
        ended = [run.domain for run in world.runs.values() if run.fence == world.ended_fence]
        self.builds = {build for build in self.builds if build[0] not in ended}
        world.database_fence = world.migrated = None
        world.wiped_fence = world.ended_fence

    def _end_gate(self, world: SlotWorld, run: Run, commit: Commit) -> None:
        runs = self._instance_runs(world, run, commit)
        if self.outages and runs and commit.behaviour is not Behaviour.GATE_FAILS:
            self.outages -= 1
            self._say(world, run, "gate", Outcome.FAIL, blames_release=False)
            return
        passes = runs and commit.behaviour is not Behaviour.GATE_FAILS
        # A process that the host lost is nobody's fault, as a real gate says too.
        self._say(world, run, "gate", Outcome.PASS if passes else Outcome.FAIL, blames_release=runs)
        if commit.behaviour is Behaviour.EXITS_AFTER_GATE and run.colour is not None:
            unit = instance_unit(run.slot, run.colour)
            if unit in world.processes:
                world.processes[unit] = replace(
                    world.processes[unit], state=ProcessState.EXITED, exit_code=1, ended_at=self.now
                )

    def _instance_runs(self, world: SlotWorld, run: Run, commit: Commit) -> bool:
        if commit.recipe.api is None or run.colour is None:
            return True
        known = world.processes.get(instance_unit(run.slot, run.colour))
        return known is not None and known.generation == run.generation and known.state is ProcessState.RUNNING

    def _end_watch(self, world: SlotWorld, run: Run, commit: Commit) -> None:
        serves = world.live is not None and world.live.generation == run.generation
        fails = commit.behaviour is Behaviour.WINDOW_FAILS or not self._instance_runs(world, run, commit) or not serves
        if not fails and run.confirmed_at is None:
            self._say(world, run, "confirm", Outcome.PASS)
            world.runs[run.generation] = replace(run, confirmed_at=self.now)
            return  # the window goes on
        world.activities.discard("watch")
        self._say(world, run, "watch", Outcome.FAIL if fails else Outcome.PASS)

    def _say(
        self, world: SlotWorld, run: Run, kind: VerdictKind, outcome: Outcome, *, blames_release: bool = True
    ) -> None:
        world.verdicts[kind] = Verdict(
            kind=kind,
            slot=run.slot,
            generation=run.generation,
            release=run.release,
            outcome=outcome,
            reason="" if outcome is Outcome.PASS else "HostileTree" if kind == "checkout" else "GateFailed",
            message="" if outcome is Outcome.PASS else str(self.commits[run.release].behaviour),
            blames_release=blames_release,
        )


def is_running_job(fact: ProcessFact) -> bool:
    return fact.state is ProcessState.RUNNING and fact.unit.startswith(("build-", "migrate-"))


def live_content(host: FakeHost, slot: SlotName = MAIN) -> TreeId | None:
    """Return the tree that a slot serves, None when it is free."""
    live = host.slots[slot].live
    return None if live is None or live.state == "free" else live.tree


def previews_served(host: FakeHost) -> dict[int, TreeId | None]:
    """Return pull request -> tree that its preview serves, for every lease."""
    return {
        world.lease.pull_request: live_content(host, name)
        for name, world in host.slots.items()
        if world.lease is not None
    }
