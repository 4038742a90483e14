"""How is each step done? One short method a step, composed of effects; safe to repeat, and none decides or waits.

A step that takes longer than a blink only begins here, in a bounded thread of `Background` or `GateThreads`; its
outcome comes back through the store or the host. The switch is done under the slot's lock, with the worker's epoch and
the run re-read inside it.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import assert_never

from controller.decisions.drift import (
    BY_HAND,
    RELEASE_EDITED,
    BuildFact,
    HostDrift,
    ReleaseFact,
    describe_taken,
    judge_drift,
    release_subject,
)
from controller.decisions.explain import end_of_run
from controller.decisions.gates import Judgement, is_judged_by_host
from controller.decisions.health import ServiceHealth, describe_unwell
from controller.decisions.holds import describe_held, held_run
from controller.decisions.live_files import assets_of
from controller.decisions.order import is_following, is_head_to_be_asked
from controller.decisions.surroundings import (
    app_environment_file,
    environment,
    free,
    instance_address,
    listening_address,
    live_for,
    release_base,
)
from controller.effects.checkout import changed_since_sealed, is_sealed, seal_build, set_aside_build
from controller.effects.database import AppDatabases
from controller.effects.judge_files import JudgeOrder, write_order
from controller.effects.live import SlotLock, point_current, read_live, read_live_version, write_live
from controller.effects.mirror import Mirror
from controller.effects.publish import (
    changed_inodes,
    prepare_spare,
    publish_release,
    repair_release,
    verify_release,
)
from controller.effects.runtime import ProcessSpec, Runtime
from controller.effects.static_files import StaticSample, describe_pointers, sample_static_files
from controller.effects.store import Store
from controller.failpoints import failpoint
from controller.loop.background import Background
from controller.loop.gate_threads import GateOrder, GateThreads, Instance, WatchOrder
from controller.loop.health_rows import ask_of_production
from controller.loop.observe import Sight, recipe_at, values_version, version_of
from controller.model import steps as s
from controller.model.command import app_values
from controller.model.config import Recipe, Settings, TreeLimits
from controller.model.deploy_toml import recipe_hash
from controller.model.errors import Failed, OroborosError, Stalled, Unavailable, Waiting
from controller.model.names import (
    COLOURS,
    MAIN,
    JobKind,
    Layout,
    Sha,
    SlotName,
    Topology,
    instance_unit,
    job_unit,
    number_of,
)
from controller.model.nouns import WORKER, Drift, OpenDrift, ProcessFact, Run, Verdict
from controller.model.states import Outcome, ProcessState, RunState
from controller.model.world import Observed, SlotObserved

NONCE_BYTES = 16
#: The least that a window looks, when it is begun again after its time.
WINDOW_AGAIN_S = 3.0
#: How long the forge may take to say what the production branch is before a switch: an outage never blocks one.
HEAD_ASKED_S = 3.0
#: A row of the host's health that takes longer to answer is not well.
ROW_TIMEOUT_S = 2.0
STOP_GRACE_S = 10.0
JOB_STOP_GRACE_S = 2.0

#: The job that runs in a state of a run.
JOB_OF: dict[RunState, JobKind] = {RunState.BUILDING: "build", RunState.MIGRATING: "migrate"}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """The effects that steps are composed of. `side` is a store with a connection of its own, for threads."""

    settings: Settings
    sight: Sight
    store: Store
    side: Store
    gates: GateThreads
    background: Background
    clock: Callable[[], datetime]
    #: A mirror of its own for each thread: libgit2 handles are not shared.
    open_mirror: Callable[[], Mirror]
    #: Takes a verdict, the level of proof and the seconds that it took; records it and rings the bell.
    record_verdict: Callable[[Verdict, str, float], None]

    @property
    def layout(self) -> Layout:
        return self.settings.layout

    @property
    def topology(self) -> Topology:
        return self.sight.topology

    @property
    def runtime(self) -> Runtime:
        return self.sight.runtime

    @property
    def databases(self) -> AppDatabases | None:
        return self.sight.databases

    def execute(self, step: s.Step, observed: Observed, *, now: datetime) -> None:
        """Do one step. Raises `OroborosError`; then the rest of this slot's plan waits for the next tick."""
        failpoint(f"step.before.{type(step).__name__}")
        match step:
            case s.ClaimSlot():
                self._claim(step, observed, now)
            case s.EndLease():
                self.store.end_lease(step.fence, reason=step.reason, now=now)
            case s.RenewLease():
                self.store.renew_lease(step.fence, expires_at=_lease_end(observed, now))
            case s.ProvisionSlot():
                self._provision(step)
            case s.WipeSlot():
                self.background.start(("wipe", step.slot), lambda: self._wipe(step))
            case s.BeginRun():
                self._begin(step, now)
            case s.AdvanceRun():
                self._advance(step, observed.slot(step.slot), now)
            case s.EndRun():
                self._end(step, observed.slot(step.slot), now)
            case s.Quarantine():
                if step.lifts is not None:
                    self.store.lift_quarantine(domain=step.domain, tree=step.lifts, actor=WORKER, now=now)
                self.store.record_quarantine(
                    domain=step.domain,
                    tree=step.tree,
                    sha=step.sha,
                    reason=step.reason,
                    message=step.message,
                    now=now,
                )
            case s.Checkout():
                self._checkout(step, observed)
            case s.EnsureDatabase():
                self._ensure_database(step, observed.slot(step.slot))
            case s.StartJob():
                self._start_job(step, observed)
            case s.SealBuild():
                self._seal(step, observed.slot(step.slot))
            case s.StartInstance():
                self._start_instance(step, observed, now)
            case s.StopUnit():
                self.runtime.stop(step.unit, step.generation, grace_s=self._grace_s(step, observed))
            case s.StartGate():
                self._start_gate(step, observed)
            case s.Switch():
                self._switch(step, observed, now)
            case s.HandOver():
                self._hand_over(step, observed)
            case s.StartWatch():
                self._start_watch(step, observed.slot(step.slot), now)
            case s.SwitchBack():
                self._switch_back(step, observed, now)
            case s.FreeSlot():
                self._free(step)
            case s.RepairCurrent():
                with SlotLock(self.layout, step.slot) as held:
                    self.store.check_epoch()
                    point_current(self.layout, step.slot, step.release, held=held)
            case s.EndOverride():
                self.store.end_override(step.id, reason=step.reason, now=now)
            case s.Prune() | s.DropBuild():
                self.let_go((step,))
            case _:
                assert_never(step)
        failpoint(f"step.after.{type(step).__name__}")

    def _grace_s(self, step: s.StopUnit, observed: Observed) -> float:
        """Return how long the unit may take to end by itself: what its own release's recipe says, for an instance."""
        if not step.unit.startswith(step.slot):
            return JOB_STOP_GRACE_S
        slot = observed.slot(step.slot)
        known = (slot.run, slot.live_run, slot.fallback_run, *slot.recent_runs)
        run = next((run for run in known if run is not None and run.generation == step.generation), None)
        recipe = recipe_at(self.sight, run.release).recipe if run is not None else None
        return recipe.api.stop_timeout_s if recipe is not None and recipe.api is not None else STOP_GRACE_S

    # -- leases and slots -------------------------------------------------------------------------------------------

    def _claim(self, step: s.ClaimSlot, observed: Observed, now: datetime) -> None:
        self.store.claim_slot(
            step.slot, step.pull_request, in_queue=step.in_queue, now=now, expires_at=_lease_end(observed, now)
        )

    def _provision(self, step: s.ProvisionSlot) -> None:
        """Wiped on entry as well: the last tenant's wipe may have been cut short."""

        def work() -> None:
            if self.side.load_fences(step.slot)[0] == step.fence:
                return  # ordered by a tick that had not seen it yet: the tenant has moved in
            self.runtime.provision(step.slot)
            self.side.record_provisioned(step.slot, step.fence)

        self.background.start(("wipe", step.slot), work)

    def _wipe(self, step: s.WipeSlot) -> None:
        """Leave nothing of the lease: database and role, data, `current`, environments, what was built for it."""
        if self.side.load_fences(step.slot)[1] >= step.fence:
            return  # ordered by a tick that had not seen it yet: the next tenant may have moved in
        if self.databases is not None:
            self.databases.drop(step.slot)
        self.layout.slot_current(step.slot).unlink(missing_ok=True)
        builds = [self.layout.builds / domain for domain in self.side.domains_of_lease(step.fence)]
        self.runtime.wipe(step.slot, builds)
        self.side.record_wiped(step.slot, step.fence)
        # Whoever ended the lease may have waited for this no longer.
        log.info(
            "reclaimed: %s: nothing of lease %d is left",
            step.slot,
            step.fence,
            extra={"action": "lease.wiped", "slot": step.slot},
        )

    def _free(self, step: s.FreeSlot) -> None:
        with SlotLock(self.layout, step.slot) as held:
            self.store.check_epoch()
            write_live(self.layout, free(step.slot, generation=step.fence), held=held)

    # -- runs -------------------------------------------------------------------------------------------------------

    def _begin(self, step: s.BeginRun, now: datetime) -> None:
        at = recipe_at(self.sight, step.release)
        migrations = ""
        if at.recipe is not None and at.recipe.database is not None:
            migrations = self.sight.mirror.subtree_id(step.release, at.recipe.database.migrations.encode())
        generation = self.store.begin_run(
            slot=step.slot,
            domain=step.domain,
            fence=step.fence,
            head=step.head,
            release=step.release,
            cause=step.cause,
            colour=step.colour,
            fallback=step.fallback,
            migration_head=migrations,
            configured=values_version(app_environment_file(self.settings.config_dir, step.slot)),
            now=now,
        )
        if generation is not None:
            log.info(
                "begin: %s gets %s (%s) as run %d",
                step.slot,
                step.release[:7],
                step.cause,
                generation,
                extra={"action": "run.begin", "slot": step.slot, "sha": step.head.sha},
            )

    def _advance(self, step: s.AdvanceRun, slot: SlotObserved, now: datetime) -> None:
        watch_until = None
        if step.state is RunState.WATCHING:
            watch_until = now + timedelta(seconds=slot.recipe.gate.window_s if slot.recipe is not None else 0)
        self._journal_job(slot)
        self.store.advance_run(step.generation, step.state, now=now, watch_until=watch_until)

    def _journal_job(self, slot: SlotObserved) -> None:
        """Write down how long the job of the run's state took, as it leaves that state."""
        run = slot.run
        kind = None if run is None else JOB_OF.get(run.state)
        if run is None or kind is None:
            return
        unit = (job_unit(kind, slot.slot), run.generation)
        ended = next((fact for fact in slot.processes if (fact.unit, fact.generation) == unit), None)
        if ended is not None and ended.ended_at is not None:
            error = "" if ended.exit_code == 0 else f"exited with {ended.exit_code}"
            self.side.record_step(run.generation, kind, began_at=ended.started_at, ended_at=ended.ended_at, error=error)

    def _end(self, step: s.EndRun, slot: SlotObserved, now: datetime) -> None:
        self.gates.cancel(step.slot, step.generation)
        self._journal_job(slot)
        self.store.end_run(
            step.generation,
            step.state,
            reason=step.reason,
            message=step.message,
            proven=step.proven,
            successor=step.successor,
            switched_back=step.switched_back,
            now=now,
        )
        if step.proven and step.slot == MAIN:
            # The next push most likely changes little of what serves now: have its unchanged files linked already.
            live = read_live(self.layout, MAIN)
            if live is not None and live.release is not None:
                release = live.release
                self.background.start(("spare", None), lambda: self._prepare_spare(release))
        is_bad = step.state in (RunState.FAILED, RunState.STALLED, RunState.ROLLED_BACK)
        level = logging.ERROR if is_bad else logging.INFO
        sha = slot.run.release if slot.run is not None else ""
        log.log(
            level,
            "end: run %d of %s is %s %s %s",
            step.generation,
            step.slot,
            step.state,
            step.reason,
            end_of_run(
                step.state, step.reason, step.message, successor=step.successor, switched_back=step.switched_back
            ),
            extra={
                "action": "run.end",
                "slot": step.slot,
                "run": step.generation,
                "sha": sha,
                "reason": step.reason,
            },
        )

    def _checkout(self, step: s.Checkout, observed: Observed) -> None:
        live = observed.slot(step.slot).live
        neighbour = live.release if live is not None and live.release is not None else None
        if neighbour is None:
            main = observed.slot(MAIN).live
            neighbour = main.release if main is not None else None
        limits, recipe = observed.policy.limits, observed.slot(step.slot).recipe
        is_built = recipe is not None and recipe.build is not None

        def work() -> None:
            began_at = self.clock()
            try:
                published = publish_release(
                    self.open_mirror(), self.layout, step.release, limits=limits, neighbour=neighbour, is_built=is_built
                )
            except OroborosError as error:
                self._record_failure("checkout", step.slot, step.generation, step.release, error)
                return
            ended_at = self.clock()
            self.side.record_release(
                sha=published.sha,
                tree=published.tree,
                path=str(self.layout.release(published.sha)),
                files=published.files,
                size_bytes=published.bytes,
                now=ended_at,
            )
            detail: dict[str, object] = {"files": published.files, "linked": published.linked}
            self.side.record_step(step.generation, "checkout", began_at=began_at, ended_at=ended_at, detail=detail)

        self.background.start(("checkout", step.slot), work)

    def _prepare_spare(self, release: Sha) -> None:
        try:
            prepare_spare(self.layout, release)
        except OroborosError as error:
            log.info("spare: %s", error, extra={"action": "spare"})  # the next checkout is slower, nothing else

    def _mend(self, release: Sha, limits: TreeLimits) -> str:
        """See that a release's files are those that were published; mend those that are not, and say so, else "".

        Files are shared by links between releases. Cheap where nothing changed: one lstat a file. Raises what keeps it
        from being mended."""
        try:
            changed = changed_inodes(self.layout, release)
        except Unavailable:
            # Its manifest was lost: it is compared with git, and gets another.
            publish_release(self.open_mirror(), self.layout, release, limits=limits, neighbour=None)
            changed = changed_inodes(self.layout, release)
        if not changed or not repair_release(self.open_mirror(), self.layout, release, limits=limits):
            return ""  # or written again, but as git has it
        message = f"{len(changed)} files of {release[:7]} had been changed on the disk, {changed[0]} for one; mended"
        log.error("release %s: %s", release[:7], message, extra={"action": "release.damaged", "sha": release})
        return message

    def verify_what_serves(self, limits: TreeLimits) -> None:
        """After the machine went down: see that what production serves is git's bytes, and mend what is not."""
        live = read_live(self.layout, MAIN)
        if live is None or live.release is None:
            return
        try:
            problems = repair_release(self.open_mirror(), self.layout, live.release, limits=limits)
        except OroborosError as error:
            log.error("boot: release %s not verified: %s", live.release[:7], error, extra={"action": "boot.verify"})
            return
        log.info(
            "boot: release %s is whole, %d mended", live.release[:7], len(problems), extra={"action": "boot.verify"}
        )

    def verify_released(self, observed: Observed, open_drifts: tuple[OpenDrift, ...]) -> None:
        """See that what serves, and what could be gone back to, is as it was published; tell and mend what is not.

        Cheap where nothing changed: one lstat a file. What seems changed is compared with git, byte for byte. Files
        are shared by links, so one edit may be found in several releases; each is made whole by itself."""
        facts: list[ReleaseFact] = []
        unknown: list[str] = []
        mirror = self.open_mirror()
        for release, slots in released(observed):
            try:
                problems: tuple[str, ...] = ()
                if changed_inodes(self.layout, release):
                    found = verify_release(mirror, self.layout, release)
                    problems = tuple(f"{problem.path or '.'}: {problem.message}" for problem in found)
                    if not problems:
                        repair_release(mirror, self.layout, release, limits=observed.policy.limits)
            except OroborosError as error:
                unknown.append(release_subject(release))
                log.warning("release %s: %s", release[:7], error, extra={"action": "release.unreadable"})
                continue
            facts.append(ReleaseFact(release=release, slots=slots, problems=problems))
        host, looked_at = HostDrift(), {RELEASE_EDITED}
        try:
            host, looked_at = self.runtime.look_at_host(), {RELEASE_EDITED, *BY_HAND}
        except OroborosError as error:
            log.warning("host: %s", error, extra={"action": "host.unreadable"})
        builds, damaged = self._look_at_builds(observed)
        unknown += damaged
        drifts = judge_drift(replace(observed, slots=()), replace(host, releases=tuple(facts), builds=builds))
        if drifts or open_drifts:
            self.note_drifts(self.side, drifts, looked_at=looked_at, unknown=unknown)
        healing = {drift.subject for drift in drifts if drift.handling == "heals"}
        for fact in facts:
            if release_subject(fact.release) in healing:
                repair_release(mirror, self.layout, fact.release, limits=observed.policy.limits)
        if healing:
            held = [drift for drift in drifts if drift.subject not in healing]
            self.note_drifts(self.side, held, looked_at=looked_at, unknown=unknown)

    def _look_at_builds(self, observed: Observed) -> tuple[tuple[BuildFact, ...], list[str]]:
        """Compare the builds that something serves from with what was sealed; also return those that cannot be read."""
        facts: list[BuildFact] = []
        unreadable: list[str] = []
        for slot in observed.slots:
            live = slot.live
            if live is None or live.state != "live":
                continue
            folder, path = live.static_root, ""
            try:
                if live.colour is not None:
                    folder = str(self.runtime.read_only_folder(instance_unit(slot.slot, live.colour)) or "")
                build = self.layout.build_above(Path(folder or ""))
                if build is None:
                    continue
                path = str(build.relative_to(self.layout.root))
                facts.append(BuildFact(path=path, slot=slot.slot, problems=changed_since_sealed(build)))
            except OroborosError as error:
                unreadable += [path] if path else []
                log.warning("build of %s: %s", slot.slot, error, extra={"action": "build.unreadable"})
        return tuple(facts), unreadable

    def note_drifts(
        self, store: Store, drifts: Sequence[Drift], *, looked_at: Collection[str], unknown: Collection[str] = ()
    ) -> None:
        """Remember what a look found, and say aloud what is new in it."""
        for drift in store.record_drifts(drifts, looked_at=looked_at, unknown=unknown, now=self.clock()):
            does = {"heals": "put right", "held": "held: `oroboros heal` puts it right", "by_hand": "mend it by hand"}
            log.warning(
                "drift: %s: %s; %s",
                drift.reason,
                drift.message,
                does[drift.handling],
                extra={"action": "drift", "slot": drift.slot},
            )

    def _record_failure(self, kind: str, slot: SlotName, generation: int, release: Sha, error: OroborosError) -> None:
        """A thread's refusal becomes a verdict. Only `Failed` and a wrong configuration are the release's own fault."""
        assert kind in ("checkout", "gate")
        verdict = Verdict(
            kind="checkout" if kind == "checkout" else "gate",
            slot=slot,
            generation=generation,
            release=release,
            outcome=Outcome.FAIL,
            reason=error.reason,
            message=error.message,
            blames_release=isinstance(error, Failed),
        )
        self.side.record_verdict(verdict, now=self.clock())

    # -- databases and jobs -----------------------------------------------------------------------------------------

    def _ensure_database(self, step: s.EnsureDatabase, slot: SlotObserved) -> None:
        databases = self.databases
        if databases is None:
            assert slot.run is not None
            error = Stalled("NoDatabaseServer", "[database]: this host has no database server for apps configured")
            self._record_failure("checkout", step.slot, step.generation, slot.run.release, error)
            return
        fence = slot.lease.fence if slot.lease is not None else 0

        def work() -> None:
            began_at = self.clock()
            try:
                databases.ensure(step.slot, fence=fence)
            except OroborosError as error:
                assert slot.run is not None
                self._record_failure("checkout", step.slot, step.generation, slot.run.release, error)
                return
            self.side.record_step(step.generation, "database", began_at=began_at, ended_at=self.clock())

        self.background.start(("database", step.slot), work)

    def _base(self, run: Run, recipe: Recipe) -> Path:
        return release_base(self.layout, run, recipe, recipe_hash=recipe_hash(recipe, configured=run.configured))

    def _start_job(self, step: s.StartJob, observed: Observed) -> None:
        run, recipe = _run_and_recipe(observed.slot(step.slot))
        if step.kind == "migrate":
            self._check_not_held(run, observed)
        base = self._base(run, recipe)
        unit = job_unit(step.kind, step.slot)
        if step.kind == "build":
            assert recipe.build is not None
            command, limit_s = recipe.build.command, recipe.build.timeout_s
        else:
            assert recipe.database is not None
            assert recipe.database.migrate is not None
            command, limit_s = recipe.database.migrate, recipe.database.timeout_s
        # A build knows no database and no nonce: nothing of the slot's is in it.
        with_database = step.kind != "build"
        values = self._environment(run, recipe, observed, nonce="", listens_at=None, with_database=with_database)
        spec = self._spec(unit, run, command, base, values, time_limit_s=limit_s)

        limits = observed.policy.limits

        def work() -> None:
            try:
                # Before a job reads or copies its files: then nothing has seen what was changed.
                self._mend(run.release, limits)
                if step.kind == "migrate":
                    self.runtime.start(spec)
                elif not is_sealed(base):
                    self.runtime.start(replace(spec, copy_of=self.layout.release(run.release)))
            except Waiting:
                raise  # what the unit still runs ends first; a later tick starts this
            except OroborosError as error:
                self._record_failure("checkout", step.slot, step.generation, step.release, error)

        self.background.start(("job", step.slot), work)

    def _spec(
        self,
        unit: str,
        run: Run,
        command: tuple[str, ...],
        base: Path,
        environment: Mapping[str, str],
        *,
        time_limit_s: float | None,
    ) -> ProcessSpec:
        return ProcessSpec(
            unit=unit,
            generation=run.generation,
            argv=command,
            working_directory=base,
            environment=environment,
            log_file=self.layout.log_file(unit, run.generation),
            time_limit_s=time_limit_s,
        )

    def _branch(self, run: Run, observed: Observed) -> str | None:
        """Return the branch that a run's commit came by; None when it is not known."""
        number = number_of(run.domain)
        if number is None:
            return self.store.load_repository().production_branch
        return next((pull.head_branch for pull in observed.pulls if pull.number == number), None)

    def _ceilings(self, base: Path) -> tuple[str, ...]:
        """Return above which folders git looks for no repository: what lies in ours belongs to none around it.

        git goes by the real path of where it is. A ceiling does not exclude the folder itself: hence the parents."""
        root = os.path.realpath(self.layout.root)
        return (os.path.dirname(os.path.realpath(base)), root, os.path.dirname(root))

    def _environment(
        self,
        run: Run,
        recipe: Recipe,
        observed: Observed,
        *,
        nonce: str,
        listens_at: str | None,
        with_database: bool,
    ) -> dict[str, str]:
        app_file = app_environment_file(self.settings.config_dir, run.slot)
        # On a host only root reads that file: systemd hands it to the launcher, past us.
        ours_to_read = self.settings.runtime == "embedded" and app_file.exists()
        database_url = None
        if with_database and recipe.database is not None and self.databases is not None:
            database_url = self.databases.url(run.slot)
        return environment(
            run=run,
            slot=run.slot,
            listens_at=listens_at,
            nonce=nonce,
            url=self.topology.url(run.slot),
            database_url=database_url,
            data_folder=self.layout.slot_data(run.slot),
            configured=version_of(app_file),
            app_values=app_values(app_file.read_text(errors="surrogateescape")) if ours_to_read else {},
            branch=self._branch(run, observed),
            ceilings=self._ceilings(self._base(run, recipe)),
        )

    def _seal(self, step: s.SealBuild, slot: SlotObserved) -> None:
        run, recipe = _run_and_recipe(slot)
        base = self._base(run, recipe)

        def work() -> None:
            try:
                seal_build(base, served=recipe.web.static if recipe.web is not None else None)
            except OroborosError as error:
                self._record_failure("checkout", step.slot, step.generation, step.release, error)

        self.background.start(("seal", step.slot), work)

    # -- gates ------------------------------------------------------------------------------------------------------

    def _instance(self, run: Run, recipe: Recipe) -> Instance | None:
        """Return the run's instance as probes need to know it; None for a release of static files only."""
        if recipe.api is None or run.colour is None:
            return None
        unit = instance_unit(run.slot, run.colour)
        address = instance_address(recipe, layout=self.layout, topology=self.topology, slot=run.slot, colour=run.colour)
        assert address is not None
        runtime, generation = self.runtime, run.generation
        told = listening_address(recipe, layout=self.layout, topology=self.topology, slot=run.slot, colour=run.colour)
        assert told is not None

        def fact() -> ProcessFact | None:
            return next((p for p in runtime.observe() if (p.unit, p.generation) == (unit, generation)), None)

        return Instance(
            address=address,
            nonce=self._nonce(unit),
            process_ids=lambda: runtime.process_ids(unit, generation),
            strangers=lambda: runtime.strangers_at(unit, generation, address),
            forwarded=runtime.has_own_network(unit) and recipe.api.listen == "port",
            fact=fact,
            error_line=lambda: runtime.error_line(unit, generation),
            told=told,
            listens=lambda: runtime.listeners(unit, generation),
            beside=lambda: self._listens_beside(run),
            is_exposed=not runtime.has_own_network(unit),
            part_away=self._database_away if recipe.database is not None else lambda: "",
        )

    def _listens_beside(self, run: Run) -> tuple[str, ...]:
        """Return where the slot's other instance listens on the same network, but for the port of its own."""
        found: set[str] = set()
        for colour in COLOURS:
            unit, port = instance_unit(run.slot, colour), self.topology.ports.instance(run.slot, colour)
            if colour == run.colour or self.runtime.has_own_network(unit):
                continue
            for fact in self.runtime.observe():
                if fact.unit == unit and fact.state is ProcessState.RUNNING:
                    found |= set(self.runtime.listeners(unit, fact.generation))
            found = {address for address in found if not address.endswith(f":{port}")}
        return tuple(sorted(found))

    def _database_away(self) -> str:
        """Say that the apps' database server is away, if it is: no release is to blame for that."""
        if self.databases is None:
            return ""
        try:
            self.databases.observe()
        except OroborosError as error:
            return error.message
        return ""

    def _static_files(self, run: Run, recipe: Recipe) -> StaticSample:
        """Return some files of a static release and what their URLs must answer."""
        if recipe.web is None:
            return StaticSample()
        return sample_static_files(self._base(run, recipe) / recipe.web.static, called=recipe.web.static)

    def _damage(self, run: Run, limits: TreeLimits) -> Judgement | None:
        """Mend what was changed of a release that serves as it is, and end this attempt: its instance may have read it.
        It is tried again by itself."""
        reason = "ReleaseDamaged"
        try:
            message = self._mend(run.release, limits)
        except OroborosError as error:
            reason, message = error.reason, error.message
        if not message:
            return None
        return Judgement(outcome=Outcome.FAIL, reason=reason, message=message, blames_release=False)

    def _objection(self, run: Run, recipe: Recipe, limits: TreeLimits) -> Judgement | None:
        """Return what speaks against a release that no probe sees: files that were changed since it was published, and
        pointers of Git LFS in place of files."""
        if recipe.build is None and (damaged := self._damage(run, limits)) is not None:
            return damaged
        if limits.lfs_pointers == "allow":
            return None
        base, called = self._base(run, recipe), recipe.web.static if recipe.web is not None else ""
        found = describe_pointers(
            static=base / called if recipe.web is not None else None,
            called=called,
            started=base if recipe.api is not None else None,
            tree=self.layout.release(run.release),
        )
        if not found:
            return None
        return Judgement(
            outcome=Outcome.FAIL, reason="LfsPointers", message=f"Git LFS has not put its files in: {found}"
        )

    def _start_gate(self, step: s.StartGate, observed: Observed) -> None:
        run, recipe = _run_and_recipe(observed.slot(step.slot))
        limits, by_host = observed.policy.limits, is_judged_by_host(run, observed.policy.production)
        instance = self._instance(run, recipe)
        if instance is not None:
            self.gates.start_gate(
                GateOrder(
                    slot=step.slot,
                    generation=step.generation,
                    release=step.release,
                    gate=recipe.gate,
                    instance=instance,
                    url=self.topology.url(step.slot),
                    objection=lambda: self._objection(run, recipe, limits),
                    before_pass=lambda: self._before_switch(run, by_host=by_host),
                )
            )
            return
        # Static files only: nothing runs that could be asked before the switch. That they are git's bytes was made
        # sure when they were published, and is looked at once more here; the window asks for them by URL.
        self.background.start(("gate", step.slot), lambda: self._judge_static(run, recipe, limits, by_host))

    def _judge_static(self, run: Run, recipe: Recipe, limits: TreeLimits, by_host: bool) -> None:
        began_at = self.clock()
        # First what may be mended: a file that is gone from the disk is not missing in the commit.
        judgement = self._objection(run, recipe, limits)
        sample = self._static_files(run, recipe)
        if judgement is None and not sample.files:
            message = f"[web] static: {sample.problem}"
            judgement = Judgement(outcome=Outcome.FAIL, reason="NoStaticFiles", message=message)
        judgement = judgement or Judgement(outcome=Outcome.PASS)
        took_s = (self.clock() - began_at).total_seconds()
        if judgement.outcome is Outcome.PASS:
            self._before_switch(run, by_host=by_host)
        verdict = Verdict(
            kind="gate",
            slot=run.slot,
            generation=run.generation,
            release=run.release,
            outcome=judgement.outcome,
            reason=judgement.reason,
            message=judgement.message,
            blames_release=judgement.blames_release,
        )
        self.record_verdict(verdict, "static" if judgement.outcome is Outcome.PASS else "", took_s)

    def _before_switch(self, run: Run, *, by_host: bool) -> None:
        """Find out what is so right before a switch, in its gate's thread: how the host is, and the branch's head."""
        if by_host:
            began_at = self.clock()
            rows = ask_of_production(self.topology, redis_url=self.settings.redis_url, timeout_s=ROW_TIMEOUT_S)
            unwell = [row for row in rows if not row.ok]
            self.side.record_unwell(run.generation, [row.service for row in unwell])
            if unwell:
                told: dict[str, object] = {"unwell before": describe_unwell(unwell)}
                self.side.record_step(run.generation, "host", began_at=began_at, ended_at=self.clock(), detail=told)
        self._ask_for_head(run)

    def _ask_host(self, run: Run) -> tuple[ServiceHealth, ...]:
        """Ask the rows of the host's health that were well right before the run's switch."""
        if run.unwell_before is None:
            return ()
        return ask_of_production(
            self.topology, redis_url=self.settings.redis_url, timeout_s=ROW_TIMEOUT_S, but=run.unwell_before
        )

    def _ask_for_head(self, run: Run) -> None:
        """Ask the forge what the production branch is now, if that was not asked just before: the last that is done
        before a verdict lets a run switch, in its gate's thread.

        Of a branch that moved a look begins, and the switch waits for it; what follows is decided as ever. A forge
        that does not answer in time holds nothing up: what was fetched counts."""
        try:
            repository = self.side.load_repository()
            branch = repository.production_branch
            if branch is None or not is_head_to_be_asked(run, fetched_at=repository.fetched_at, now=self.clock()):
                return
            mirror = self.open_mirror()
            found, known = mirror.ask_head(branch, timeout_s=HEAD_ASKED_S), mirror.production_head()
            if found is None or known is None or found == known.sha:
                return
            self.side.ask_for_look(now=self.clock())
        except OroborosError as error:
            log.warning(
                "head: not asked for before the switch of run %d: %s", run.generation, error,
                extra={"action": "head.unknown", **_about(run)},
            )  # fmt: skip
            return
        log.info(
            "head: %s is %s by now, not %s: fetching before run %d may switch",
            branch, found[:7], known.sha[:7], run.generation, extra={"action": "head.moved", **_about(run)},
        )  # fmt: skip

    def _start_watch(self, step: s.StartWatch, slot: SlotObserved, now: datetime) -> None:
        run, recipe = _run_and_recipe(slot)
        instance = self._instance(run, recipe)
        until = run.watch_until or now + timedelta(seconds=recipe.gate.window_s)
        ports = self.topology.ports
        self.gates.start_watch(
            WatchOrder(
                slot=step.slot,
                generation=step.generation,
                release=step.release,
                gate=recipe.gate,
                instance=instance,
                static=self._static_files(run, recipe).files if instance is None else (),
                url=self.topology.url(step.slot),
                taken=lambda: "; ".join(
                    describe_taken(fact) for fact in self.runtime.taken_ports() if step.slot in fact.blocks
                ),
                doors=(f"127.0.0.1:{ports.web(step.slot)}", f"127.0.0.1:{ports.edge}"),
                # A worker that died meanwhile has looked at nothing: whatever is left, a window is begun and confirmed.
                ask_host=lambda: self._ask_host(run),
                window_left_s=max((until - now).total_seconds(), min(recipe.gate.window_s, WINDOW_AGAIN_S)),
            )
        )

    # -- instances, the switch -------------------------------------------------------------------------------

    def _start_instance(self, step: s.StartInstance, observed: Observed, now: datetime) -> None:
        slot = observed.slot(step.slot)
        live_run = slot.live_run
        is_again = live_run is not None and live_run.generation == step.generation
        if live_run is not None and is_again:
            # What serves was lost while another run is under way.
            found = recipe_at(self.sight, live_run.release)
            if found.recipe is None:
                raise Waiting("RecipeUnknown", f"{step.slot}: {live_run.release[:7]} is not fetched: not started again")
            run, recipe = live_run, found.recipe
        else:
            run, recipe = _run_and_recipe(slot)
            self._check_not_held(run, observed)
        assert recipe.api is not None
        unit = instance_unit(step.slot, step.colour)
        listens_at = listening_address(
            recipe, layout=self.layout, topology=self.topology, slot=step.slot, colour=step.colour
        )
        nonce = secrets.token_hex(NONCE_BYTES)
        values = self._environment(run, recipe, observed, nonce=nonce, listens_at=listens_at, with_database=True)
        base = self._base(run, recipe)
        self.runtime.start(self._spec(unit, run, recipe.api.command, base, values, time_limit_s=None))
        if is_again:
            log.error(
                "%s: the instance of %s was lost, and is started again", step.slot, run.release[:7],
                extra={"action": "instance.restarted", **_about(run)},
            )  # fmt: skip
        else:
            self.store.record_step(step.generation, "start", began_at=now, ended_at=self.clock())

    def _nonce(self, unit: str) -> str:
        """Return the nonce that the running instance was given: what it was started from is kept."""
        return self.runtime.environment(unit).get("OROBOROS_NONCE", "")

    def _check_head(self, run: Run, observed: Observed) -> None:
        """Raise if a fetch has moved the production branch since this tick looked: the next one decides anew."""
        if not is_following(run):
            return
        newest = self.sight.mirror.production_head()
        if newest != observed.production_head:
            raise Waiting("HeadMoved", f"{run.slot}: the production branch has moved before the switch: looking again")

    def _check_not_held(self, run: Run, observed: Observed) -> None:
        """Raise if an order to hold came since this tick looked. Called right before what a hold forbids."""
        fresh = replace(observed, holds=self.store.load_holds())
        held = held_run(fresh, fresh.slot(run.slot), run, now=self.clock())
        if held is not None:
            raise Waiting(held.reason, f"{run.slot}: {describe_held(held)}", retry_at=held.until)

    def _switch(self, step: s.Switch, observed: Observed, now: datetime) -> None:
        run, recipe = _run_and_recipe(observed.slot(step.slot))
        base = self._base(run, recipe)
        with SlotLock(self.layout, step.slot) as held:
            # Another worker may have begun a newer run, or the lease may have ended, since this tick looked.
            self.store.check_may_switch(step.generation)
            previous = read_live(self.layout, step.slot)
            if previous is None or previous.generation != step.generation:
                self._check_head(run, observed)
                self._check_not_held(run, observed)
            if previous is None or previous.generation != step.generation:
                if recipe.web is not None:
                    self.runtime.open_to_surface(base)
                live = live_for(run, recipe, topology=self.topology, layout=self.layout, base=base, previous=previous)
                assets = assets_of(observed.policy.retention, now=self.clock())
                write_live(self.layout, live, held=held, assets=assets)
            point_current(self.layout, step.slot, run.release, held=held)
        self.store.record_step(step.generation, "switched", began_at=now, ended_at=self.clock())

    def _hand_over(self, step: s.HandOver, observed: Observed) -> None:
        """Order the judge. Safe to repeat: the same order replaces itself, and a judge that runs is left alone."""
        run, recipe = _run_and_recipe(observed.slot(step.slot))
        self._check_head(run, observed)
        self._check_not_held(run, observed)
        base = self._base(run, recipe)
        self.store.check_may_switch(step.generation)
        previous = read_live(self.layout, step.slot)
        # The api runs as the surfaces' user, and from this release.
        self.runtime.open_to_surface(base)
        live = live_for(run, recipe, topology=self.topology, layout=self.layout, base=base, previous=previous)
        judge = self.settings.own_release
        write_order(
            self.layout,
            JudgeOrder(
                generation=step.generation,
                release=step.release,
                live=live,
                back=previous if previous is not None else free(step.slot),
                judge=str(self.layout.release(Sha(judge))) if judge is not None else "",
            ),
        )
        self.runtime.start_judge()

    def _switch_back(self, step: s.SwitchBack, observed: Observed, now: datetime) -> None:
        with SlotLock(self.layout, step.slot) as held:
            self.store.check_may_switch(step.generation)
            back = read_live_version(self.layout, step.slot, step.fallback)
            if back is None or back.release is None:
                raise Stalled("FallbackGone", f"{step.slot}: what run {step.fallback} served is no longer on the disk")
            present = read_live(self.layout, step.slot)
            if present is None or present.generation != step.fallback:
                assets = replace(assets_of(observed.policy.retention, now=now), until=None)
                write_live(self.layout, replace(back, previous_static_root=None), held=held, assets=assets)
            point_current(self.layout, step.slot, back.release, held=held)
        if self.topology.control_plane == "current" and step.slot == MAIN:
            self.runtime.restart_control_plane()
        self.store.record_step(step.generation, "switched back", began_at=now, ended_at=self.clock())

    def let_go(self, steps: Sequence[s.Prune | s.DropBuild]) -> None:
        """Take releases and builds out of use before a later tick can choose one; `Housekeeping` removes them.

        Only the tick begins runs, so that a build without one loses its name here, not in a thread."""
        self.store.record_removing([step.release for step in steps if isinstance(step, s.Prune)])
        for step in steps:
            if isinstance(step, s.DropBuild):
                set_aside_build(self.layout.builds / step.domain / step.name)


def released(observed: Observed) -> tuple[tuple[Sha, tuple[SlotName, ...]], ...]:
    """Return every release that serves or that a slot would fall back to, once, and for which slots."""
    slots: dict[Sha, list[SlotName]] = {}
    for slot in observed.slots:
        live = slot.live
        if live is None or live.state != "live" or live.release is None:
            continue
        for release in {
            live.release,
            *([slot.fallback_run.release] if slot.fallback_live and slot.fallback_run else []),
        }:
            slots.setdefault(release, []).append(slot.slot)
    return tuple((release, tuple(names)) for release, names in sorted(slots.items()))


def _about(run: Run) -> dict[str, object]:
    """Return what a log line says of the run that it is about."""
    return {"slot": run.slot, "run": run.generation, "sha": run.release}


def _run_and_recipe(slot: SlotObserved) -> tuple[Run, Recipe]:
    assert slot.run is not None
    assert slot.recipe is not None
    return slot.run, slot.recipe


def _lease_end(observed: Observed, now: datetime) -> datetime:
    return now + timedelta(seconds=observed.policy.previews.lease_ttl_s)
