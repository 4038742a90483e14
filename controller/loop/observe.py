"""What is so, at this moment? Gathers host, mirror and store into one frozen `Observed`; decides and changes nothing.

Local and quick: one store snapshot, one call for all units, a few small files per slot, trees from the mirror. No
network. What cannot be read is left out, never guessed: decisions treat a missing fact as unknown.

Which threads run is asked first. A step that works in a thread is so never seen between its two states: either its
thread runs, or all that it did is in what is read after that. Asked last, a thread that ended meanwhile would leave
neither itself nor its outcome, and its step would be done a second time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar, get_args

from controller.decisions.admission import asks_for_paths, forks_to_fetch
from controller.decisions.initial import missing_deploy_toml
from controller.decisions.order import HeadFacts, HeadVerdict, judge_head
from controller.decisions.refresh import Hint, Looks, is_answered
from controller.decisions.signatures import judge_signature
from controller.decisions.surroundings import CONFIGURED, app_environment_file
from controller.effects.checkout import is_sealed, list_builds
from controller.effects.database import AppDatabases
from controller.effects.judge_files import read_result
from controller.effects.live import read_current, read_live, read_live_version
from controller.effects.mirror import Mirror
from controller.effects.runtime import Runtime
from controller.effects.signatures import Signatures
from controller.effects.store import History, SlotRow, Store
from controller.loop.background import Background
from controller.loop.background import Key as BackgroundKey
from controller.loop.gate_threads import Key as GateKey
from controller.model.config import Policy, Recipe
from controller.model.deploy_toml import parse_policy, parse_recipe, recipe_hash
from controller.model.errors import ConfigInvalid, Stalled
from controller.model.names import MAIN, PRODUCTION, Layout, Sha, SlotName, Topology, instance_unit, slot_of_unit
from controller.model.nouns import Head, Live, PreviewOrder, ProcessFact, PullRequest, Run
from controller.model.states import ProcessState
from controller.model.world import Activity, DeliveryHint, HeadRefused, Observed, SlotObserved

DEPLOY_TOML = b"deploy.toml"
K = TypeVar("K")
V = TypeVar("V")

#: The background's keys that a plan knows of, by their spelling.
ACTIVITIES: dict[str, Activity] = {name: name for name in get_args(Activity)}
DEPLOY_TOML_BYTES_MAX = 64 << 10
#: Of each cache of `Sight`.
COMMITS_REMEMBERED_MAX = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeAt:
    """The recipe at one commit, or what is wrong with it."""

    recipe: Recipe | None
    problem: str = ""


@dataclass(slots=True)
class Sight:
    """What observation works with. The caches hold content of commits, which never changes."""

    store: Store
    mirror: Mirror
    runtime: Runtime
    databases: AppDatabases | None
    signatures: Signatures
    layout: Layout
    topology: Topology
    #: Folder of the apps' own environment files.
    config_dir: Path
    background: Background
    #: (kind, slot, generation) of the gates and windows that run in this worker.
    gate_activities: Callable[[], frozenset[GateKey]]
    #: See `Observed.ended_units_stay`.
    ended_units_stay: bool = False
    recipes: dict[Sha, RecipeAt] = field(default_factory=dict)
    policies: dict[Sha, Policy | tuple[str, ...]] = field(default_factory=dict)
    #: (older, newer) to whether the one lies behind the other.
    ancestry: dict[tuple[Sha, Sha], bool] = field(default_factory=dict)


def observe(sight: Sight) -> tuple[Observed, History]:
    """Return the world of this tick, and the history that it was built from."""
    running = sight.background.running()
    probing = sight.gate_activities()
    history = sight.store.load_history()
    processes = sight.runtime.observe()
    production = sight.mirror.production_head()
    signers = sight.signatures.version()
    judged = observe_order(sight, history, production, signers=signers)
    accepted = production if judged.refused is None else _accepted(sight, history)
    order_refused, ordered = _ordered(sight, history, signers=signers)
    to_verify = [sha for sha in (ordered, _head_to_verify(sight, history, production)) if sha is not None]
    policy, policy_problems = observe_policy(sight, history, accepted)
    # A release counts once it is on the disk and has its row; with one of the two, publishing is repeated.
    on_disk = observe_releases(sight.layout) & {release.sha for release in history.releases}
    databases = sight.databases.observe() if sight.databases is not None else frozenset()
    slots = tuple(
        observe_slot(
            sight,
            row,
            history,
            processes=processes,
            on_disk=on_disk,
            databases=databases,
            activities=_activities(running, probing, row),
        )
        # Rows of slots that were installed before, and no longer are, stay.
        for row in sorted(
            (row for row in history.slots if row.name in sight.topology.slots),
            key=lambda row: sight.topology.slots.index(row.name),
        )
    )
    ref = production_ref(history)
    observed = Observed(
        production_head=production,
        head_refused=judged.refused,
        accepted_head=accepted,
        order_refused=order_refused,
        to_verify=tuple(to_verify),
        force_push=judged.force_push,
        unfetched_push_at=_unfetched_push_at(history),
        production_head_found_by_resync=(
            production is not None and ref is not None and sight.store.was_found_by_resync(ref, production.sha)
        ),
        pulls=tuple(_with_head(sight.mirror, pull, policy, history.preview_orders) for pull in history.pulls),
        waiting_since=history.waiting_since,
        slot_removed=history.slot_removed,
        queue_entries=sight.mirror.queue_entries(),
        pulls_listed=history.repository.listed_at is not None,
        slots=slots,
        releases=tuple(release for release in history.releases if release.sha in on_disk),
        builds=list_builds(sight.layout),
        proven=history.proven,
        quarantined=history.quarantined,
        overrides=history.overrides,
        stops=history.stops,
        retries=history.retries,
        disk_free_bytes=_free_bytes(sight.layout),
        preview_orders=history.preview_orders,
        taken_ports=sight.runtime.taken_ports(),
        holds=history.holds,
        commands=history.commands,
        hints=_answered_hints(sight.mirror, history),
        policy=policy,
        policy_problems=policy_problems,
        open_reports=history.open_reports,
        heal_ordered=frozenset((o.drift.reason, o.drift.subject) for o in history.drifts if o.heal_ordered),
        ended_units_stay=sight.ended_units_stay,
    )
    return observed, history


def observe_order(sight: Sight, history: History, production: Head | None, *, signers: str) -> HeadVerdict:
    """Return whether production may move to the head of its branch, by the policy of the last accepted one."""
    accepted = history.repository.accepted_sha
    if production is None or accepted == production.sha:
        return HeadVerdict()
    must_be_signed = _head_to_verify(sight, history, production) is not None
    unsigned = judge_signature(production.sha, history.signatures, signers=signers) if must_be_signed else None
    if accepted is None or unsigned is not None:
        return HeadVerdict(refused=unsigned)
    serves = _served(sight)
    facts = HeadFacts(
        head=production,
        accepted=accepted,
        serves=serves,
        follows_accepted=_is_ancestor(sight, accepted, production.sha),
        follows_served=serves is not None and _is_ancestor(sight, serves.sha, production.sha),
        is_behind=_is_ancestor(sight, production.sha, accepted),
    )
    return judge_head(facts, force_push=_accepted_policy(sight, history).production.force_push)


def _head_to_verify(sight: Sight, history: History, production: Head | None) -> Sha | None:
    """Return the head if it must be signed to be accepted. The first one of all is judged by its own policy."""
    accepted = history.repository.accepted_sha
    if production is None or accepted == production.sha:
        return None
    policy = _accepted_policy(sight, history) if accepted is not None else _policy_at(sight, production.sha)
    must_be_signed = isinstance(policy, Policy) and policy.production.signed == "required"
    return production.sha if must_be_signed else None


def _ordered(sight: Sight, history: History, *, signers: str) -> tuple[HeadRefused | None, Sha | None]:
    """Return why what was ordered by hand for production may not serve, and the commit if it must be verified.

    What has served well here was let in before, and so was the accepted head."""
    order = next((o for o in history.overrides if o.slot == MAIN and o.kind == "deploy"), None)
    if order is None or order.head.sha == history.repository.accepted_sha:
        return None, None
    proven = any((p.domain, p.sha) == (PRODUCTION, order.head.sha) for p in history.proven)
    if proven or _accepted_policy(sight, history).production.signed != "required":
        return None, None
    return judge_signature(order.head.sha, history.signatures, signers=signers), order.head.sha


def _served(sight: Sight) -> Head | None:
    """Return what production serves, under the commit that it was about."""
    live = read_live(sight.layout, MAIN)
    if live is None or live.state != "live" or live.release is None or live.tree is None:
        return None
    run = sight.store.load_run(live.generation)
    return Head(sha=run.head.sha if run is not None else live.release, tree=live.tree)


def _is_ancestor(sight: Sight, older: Sha, newer: Sha) -> bool:
    known = sight.ancestry.get((older, newer))
    if known is None:
        known = sight.mirror.is_ancestor(older, newer)
        if sight.mirror.head(older) is None or sight.mirror.head(newer) is None:
            return False  # not fetched (any more): unknown, so not remembered
        _remember(sight.ancestry, (older, newer), known)
    return known


def _accepted(sight: Sight, history: History) -> Head | None:
    accepted = history.repository.accepted_sha
    return None if accepted is None else sight.mirror.head(accepted)


def _accepted_policy(sight: Sight, history: History) -> Policy:
    """Return the policy of the last accepted head, the last valid one if that is not."""
    for sha in (history.repository.accepted_sha, history.repository.policy_sha):
        policy = None if sha is None else _policy_at(sight, sha)
        if isinstance(policy, Policy):
            return policy
    return Policy()


def _unfetched_push_at(history: History) -> datetime | None:
    looks = Looks(fetched_at=history.repository.fetched_at, listed_at=history.repository.listed_at)
    target = f"ref:{production_ref(history)}"
    told = [
        delivery.received_at
        for delivery in history.pending
        if delivery.target == target
        and not is_answered(Hint(target=delivery.target, armed_at=delivery.armed_at), looks)
    ]
    # Whoever saw that the branch had moved asked for a look.
    asked_at = history.repository.look_asked_at
    if asked_at is not None and looks.fetched_at is not None and looks.fetched_at < asked_at:
        told.append(asked_at)
    return min(told, default=None)


def production_ref(history: History) -> str | None:
    """Return the full ref of the production branch, or None until the forge was asked."""
    branch = history.repository.production_branch
    return None if branch is None else f"refs/heads/{branch}"


def _with_head(mirror: Mirror, pull: PullRequest, policy: Policy, orders: tuple[PreviewOrder, ...]) -> PullRequest:
    """Add what the mirror holds of a pull request: of a fork's, exactly the commit that was approved, or nothing."""
    head = mirror.pull_head(pull.number)
    if head is None or (
        not pull.same_repository and (pull.number, head.sha) not in forks_to_fetch((pull,), policy, orders)
    ):
        return pull
    changed = mirror.changed_paths(head.sha) if asks_for_paths(policy) else None
    return replace(pull, head=head, changed_paths=changed)


def _answered_hints(mirror: Mirror, history: History) -> tuple[DeliveryHint, ...]:
    looks = Looks(
        fetched_at=history.repository.fetched_at,
        listed_at=history.repository.listed_at,
        comments_read_at=history.repository.comments_read_at,
    )
    return tuple(
        DeliveryHint(
            seq=delivery.seq,
            target=delivery.target,
            sha=delivery.sha,
            received_at=delivery.received_at,
            on_production=(
                delivery.sha is not None
                and delivery.target == f"ref:{production_ref(history)}"
                and mirror.is_reachable_from_production(delivery.sha)
            ),
        )
        for delivery in history.pending
        if is_answered(Hint(target=delivery.target, armed_at=delivery.armed_at), looks)
    )


def observe_policy(sight: Sight, history: History, production: Head | None) -> tuple[Policy, tuple[str, ...]]:
    """Return the policy at the production head, or the last valid one and what is wrong with the newest."""
    if production is None:
        return Policy(), ()
    newest = _policy_at(sight, production.sha)
    if isinstance(newest, Policy):
        if history.repository.policy_sha != production.sha:
            sight.store.record_policy(production.sha, problems=(), freezes=newest.production.freeze)
        return newest, ()
    last_sha = history.repository.policy_sha
    last = _policy_at(sight, last_sha) if last_sha is not None else Policy()
    return (last if isinstance(last, Policy) else Policy()), newest


def _policy_at(sight: Sight, sha: Sha) -> Policy | tuple[str, ...]:
    known = sight.policies.get(sha)
    if known is None:
        try:
            body = sight.mirror.read_file(sha, DEPLOY_TOML, bytes_max=DEPLOY_TOML_BYTES_MAX)
            known = Policy() if body is None else parse_policy(body)
        except ConfigInvalid as error:
            known = error.problems
        _remember(sight.policies, sha, known)
    return known


def _remember(cache: dict[K, V], key: K, value: V) -> None:
    """Keep what was read of a commit; a cache that is full begins anew."""
    if len(cache) >= COMMITS_REMEMBERED_MAX:
        cache.clear()
    cache[key] = value


def recipe_at(sight: Sight, sha: Sha) -> RecipeAt:
    """Return the recipe at a commit that the mirror holds."""
    known = sight.recipes.get(sha)
    if known is not None:
        return known
    if sight.mirror.head(sha) is None:
        return RecipeAt(recipe=None)  # not fetched (any more): unknown, so not remembered
    try:
        body = sight.mirror.read_file(sha, DEPLOY_TOML, bytes_max=DEPLOY_TOML_BYTES_MAX)
        if body is None:
            found = RecipeAt(recipe=None, problem=missing_deploy_toml(sight.mirror.names_at(sha)))
        else:
            found = RecipeAt(recipe=parse_recipe(body))
    except ConfigInvalid as error:
        found = RecipeAt(recipe=None, problem="; ".join(error.problems))
    _remember(sight.recipes, sha, found)
    return found


def observe_releases(layout: Layout) -> frozenset[Sha]:
    """Return the releases that are on the disk: folders named by a commit, which one rename published whole."""
    try:
        with os.scandir(layout.releases) as entries:
            return frozenset(Sha(entry.name) for entry in entries if len(entry.name) == 40)
    except FileNotFoundError:
        return frozenset()


def observe_slot(
    sight: Sight,
    row: SlotRow,
    history: History,
    *,
    processes: tuple[ProcessFact, ...],
    on_disk: frozenset[Sha],
    databases: frozenset[SlotName],
    activities: frozenset[Activity],
) -> SlotObserved:
    """Return one slot as host and store show it."""
    slot, run = row.name, row.run
    live = read_live(sight.layout, slot)
    live_run = _find_run(sight, row, live.generation) if live is not None and live.generation else None
    basis = run if run is not None else live_run
    fallback = _find_run(sight, row, basis.fallback) if basis is not None and basis.fallback is not None else None
    mine = tuple(process for process in processes if slot_of_unit(process.unit) == slot)
    at = recipe_at(sight, run.release) if run is not None else RecipeAt(recipe=None)
    fence = row.lease.fence if row.lease is not None else 0
    override = next((o for o in history.overrides if o.slot == slot), None)
    deploys_itself = slot == MAIN and sight.topology.control_plane == "current"
    judged = read_result(sight.layout) if deploys_itself else None
    return SlotObserved(
        slot=slot,
        live=live,
        current=_current(sight.layout, slot),
        lease=row.lease,
        ended_fence=row.ended_fence,
        provisioned_fence=row.provisioned_fence,
        wiped_fence=row.wiped_fence,
        stopped_at=row.stopped_at,
        processes=mine,
        run=run,
        verdicts=row.verdicts if judged is None else (*row.verdicts, judged),
        activities=activities,
        recent_runs=row.recent_runs,
        live_run=live_run,
        fallback_run=fallback,
        fallback_live=_fallback_live(sight.layout, slot, fallback, on_disk),
        error_lines=tuple((p.unit, sight.runtime.error_line(p.unit, p.generation)) for p in mine if _has_ended(p)),
        published=run is not None and run.release in on_disk,
        recipe=at.recipe,
        recipe_problem=at.problem,
        build_sealed=run is not None and _build_sealed(sight.layout, run, at.recipe),
        database_ready=slot in databases and _database_is_of_lease(sight, slot, fence),
        wanted_migration_head=run.migration_head if run is not None else "",
        database_migration_head=_database_migration_head(row, fence),
        environment_changed=_environment_changed(sight, slot, live, live_run),
        configured=values_version(app_environment_file(sight.config_dir, slot)),
        deploys_itself=deploys_itself,
        accept_migrations=override is not None and override.accept_migrations,
        leaves=slot in sight.topology.leaving,
    )


def _current(layout: Layout, slot: SlotName) -> Sha | None:
    """Return what `current` names; None as well when that is no release of ours: it is put right from `live`."""
    try:
        return read_current(layout, slot)
    except Stalled:
        return None


def version_of(app_file: Path) -> str:
    """Return a text that differs whenever an app's own environment file was written; "0" when there is none.

    Its content is not ours to read on a host."""
    try:
        return str(app_file.stat().st_mtime_ns)
    except OSError:
        return "0"


def values_version(app_file: Path) -> str:
    """Return the version of the values that a build may read; "" when there are none."""
    try:
        status = app_file.stat()
    except OSError:
        return ""
    return str(status.st_mtime_ns) if status.st_size else ""


def _environment_changed(sight: Sight, slot: SlotName, live: Live | None, live_run: Run | None) -> bool:
    if live is None or live.state != "live":
        return False
    if live_run is not None and live_run.configured is not None:
        is_older = live_run.configured != values_version(app_environment_file(sight.config_dir, slot))
        recipe = recipe_at(sight, live_run.release).recipe if is_older else None
        if recipe is not None and recipe.build is not None:
            return True
    if live.colour is None:
        return False
    started_with = sight.runtime.environment(instance_unit(slot, live.colour))
    if CONFIGURED not in started_with:
        return False
    # Its port was chosen anew at install: until it is started anew, nothing says whose the port of before is.
    port = str(sight.topology.ports.instance(slot, live.colour))
    if started_with.get("PORT", port) != port:
        return True
    return started_with[CONFIGURED] != version_of(app_environment_file(sight.config_dir, slot))


def _has_ended(process: ProcessFact) -> bool:
    return process.state is ProcessState.EXITED


def _find_run(sight: Sight, row: SlotRow, generation: int) -> Run | None:
    known = (row.run, *row.recent_runs) if row.run is not None else row.recent_runs
    found = next((run for run in known if run.generation == generation), None)
    return found if found is not None else sight.store.load_run(generation)


def _fallback_live(layout: Layout, slot: SlotName, fallback: Run | None, on_disk: frozenset[Sha]) -> Live | None:
    if fallback is None or fallback.release not in on_disk:
        return None
    return read_live_version(layout, slot, fallback.generation)


def _free_bytes(layout: Layout) -> int | None:
    try:
        found = os.statvfs(layout.root)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def _activities(running: frozenset[BackgroundKey], probing: frozenset[GateKey], row: SlotRow) -> frozenset[Activity]:
    """Return which threads work for a slot, of those that ran when the look began."""
    names: set[Activity] = set()
    for activity, of_slot in running:
        if of_slot == row.name and activity in ACTIVITIES:
            names.add(ACTIVITIES[activity])
    for kind, of_slot, generation in probing:
        of_run = row.run is not None and generation == row.run.generation
        if of_slot == row.name and of_run and kind in ("gate", "watch"):
            names.add("gate" if kind == "gate" else "watch")
    return frozenset(names)


def _build_sealed(layout: Layout, run: Run, recipe: Recipe | None) -> bool:
    if recipe is None or recipe.build is None:
        return False
    return is_sealed(layout.build(run.domain, run.head.tree, recipe_hash(recipe, configured=run.configured)))


def _database_is_of_lease(sight: Sight, slot: SlotName, fence: int) -> bool:
    return sight.databases is not None and sight.databases.is_ready(slot, fence=fence)


def _database_migration_head(row: SlotRow, fence: int) -> str | None:
    if row.migrated is None:
        return None
    of_fence, head = row.migrated
    return head if of_fence == fence or row.name == MAIN else None
