"""Do plans lead any host, through any story, to what is wanted, without ever breaking a promise on the way?

`FakeHost.apply` raises `Broken` at the step that breaks a promise: something served that did not pass its gate or
is not on the disk, a serving unit stopped, a quarantined tree begun, two slots for one pull request, a needed release
pruned.
"""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from controller.decisions.explain import DOING
from controller.decisions.report import DESCRIPTION_CHARS_MAX, project
from controller.decisions.slots import assign_slots, may_preview
from controller.model.config import Recipe
from controller.model.names import (
    MAIN,
    PRODUCTION,
    Domain,
    Sha,
    SlotName,
    environment,
    pull_request_domain,
    status_context,
)
from controller.model.nouns import Run
from controller.model.reports import WantedCheck, WantedComment, WantedDeployment, WantedStatus
from controller.model.states import Cause, CheckState, DeploymentState, ProcessState, RunState, StatusState
from controller.model.steps import BeginRun, ClaimSlot, EndLease, StartInstance, steps_from_json, steps_to_json
from controller.model.world import Observed
from tests.builders import APP, BUILT_APP, DATABASE_APP, sha
from tests.property.strategies import (
    EVERYTHING,
    HOLD_MAX_S,
    HOLDS,
    NEW_SCHEMA,
    OLD_SCHEMA,
    OUTSIDE,
    STOPS,
    Event,
    commit_sets,
    happen,
    play,
    stories,
)
from tests.world import Behaviour, Commit, FakeHost, live_content, previews_served

FIRST_PUSH = Event("push", commit=1)
#: The second commit fails in its window, and its migration bars the way back to the first.
NO_WAY_BACK = (
    Commit(number=1, content=20, recipe=OLD_SCHEMA),
    Commit(number=2, content=21, recipe=NEW_SCHEMA, behaviour=Behaviour.WINDOW_FAILS),
)


def settled(host: FakeHost) -> FakeHost:
    """Two resyncs and all the time that is needed: what was lost is found, what was cut short is done again, and what
    serves runs unless a person stopped it."""
    host.outages = 0
    host.resync()
    host.settle()
    for name, world in host.slots.items():
        live = world.live
        if live is not None and live.address is not None and not host.is_stopped(name):
            assert live.address in world.processes, f"{live} is not started again"
            serves = world.processes[live.address]
            assert (serves.generation, serves.state) == (live.generation, ProcessState.RUNNING)
    return host


@given(commits=commit_sets(), story=stories())
def test_plans_converge_in_bounded_ticks_and_then_are_empty(commits: tuple[Commit, ...], story: list[Event]) -> None:
    host = FakeHost(commits=commits)
    play(host, [FIRST_PUSH, *story])
    settled(host)
    assert host.tick() == ()
    host.elapse(10_000)
    assert [step for step in host.tick() if type(step).__name__ not in {"Prune", "DropBuild"}] == []


def test_after_many_pushes_only_so_many_releases_and_builds_stay_as_retention_says() -> None:
    many = 40
    commits = tuple(Commit(number=number, content=number, recipe=BUILT_APP) for number in range(1, many + 1))
    host = FakeHost(commits=commits)
    for number in range(1, many + 1):
        host.push(number)
        settled(host)
        # Longer than what is young stays: nothing but retention keeps a release.
        host.elapse(1_000)
        host.tick()
        host.tick()
    kept = host.policy.retention.keep
    assert len(host.releases) <= kept + 2
    assert len(host.builds) <= kept + 2
    assert {tree for _, tree in host.builds} <= {release.tree for release in host.releases.values()}


@given(commits=commit_sets(), story=stories())
def test_what_serves_in_the_end_is_the_head_unless_it_failed_or_was_refused(
    commits: tuple[Commit, ...], story: list[Event]
) -> None:
    host = FakeHost(commits=commits)
    play(host, [FIRST_PUSH, *story])
    settled(host)
    assert host.production is not None
    head = host.commits[host.production].head
    tried = [run for run in host.slots[MAIN].runs.values() if run.head.sha == head.sha]
    gave_up = tried and max(tried, key=lambda run: run.generation).state in (RunState.FAILED, RunState.STALLED)
    held = bool(host.overrides) or (PRODUCTION, head.tree) in host.quarantined or gave_up
    assert held or live_content(host) == head.tree


@given(commits=commit_sets(good=True), story=stories(*OUTSIDE, told=True), data=st.data())
def test_order_of_deliveries_does_not_matter(
    commits: tuple[Commit, ...], story: list[Event], data: st.DataObject
) -> None:
    in_order, shuffled = FakeHost(previews=4, commits=commits), FakeHost(previews=4, commits=commits)
    play(in_order, [FIRST_PUSH, *story])
    deliveries = [FIRST_PUSH, *(event for event in story if event.kind != "wait")]
    for event in deliveries:
        happen(shuffled, Event(event.kind, commit=event.commit, pull=event.pull, told=False))
    for event in data.draw(st.permutations(deliveries)):
        if event.kind == "push":
            shuffled.deliver_push(event.commit)
        else:
            shuffled.deliver_pull(event.pull)
        shuffled.tick()
    in_order.settle()
    shuffled.settle()
    assume(not refused(in_order) and not refused(shuffled))
    assert live_content(shuffled) == live_content(in_order)
    assert previews_served(shuffled) == previews_served(in_order)


def refused(host: FakeHost) -> bool:
    """Say whether a schema stood in the way of a revert: what is refused depends on what was migrated before."""
    return any(run.reason == "MigrationsDiffer" for world in host.slots.values() for run in world.runs.values())


def given_up(host: FakeHost) -> bool:
    """Say whether a run was left after its worker had died over it too often: a slot that stands still loses none."""
    return any(run.reason == "WorkerDied" for world in host.slots.values() for run in world.runs.values())


@given(commits=commit_sets(good=True), story=stories(*OUTSIDE, told=True))
def test_any_loss_of_deliveries_and_one_resync_give_the_same(commits: tuple[Commit, ...], story: list[Event]) -> None:
    told, lost = FakeHost(previews=4, commits=commits), FakeHost(previews=4, commits=commits)
    play(told, [FIRST_PUSH, *story])
    play(lost, [Event(e.kind, commit=e.commit, pull=e.pull, told=False) for e in (FIRST_PUSH, *story)])
    settled(told)
    settled(lost)
    assume(not refused(told) and not refused(lost))
    assert live_content(lost) == live_content(told)
    assert previews_served(lost) == previews_served(told)


def outcomes(host: FakeHost) -> dict[tuple[str, Sha], str]:
    """Return how the newest run of each commit ended, per slot context."""
    ended: dict[tuple[str, Sha], str] = {}
    for world in host.slots.values():
        for run in sorted(world.runs.values(), key=lambda run: run.generation):
            if run.cause is not Cause.REPAIR:
                ended[run.domain, run.head.sha] = run.state
    return ended


@given(commits=commit_sets(), before=st.integers(1, 4), ticks=st.integers(0, 12), prefix=st.integers(0, 8))
def test_a_crash_after_any_prefix_of_any_plan_ends_in_the_same_world(
    commits: tuple[Commit, ...], before: int, ticks: int, prefix: int
) -> None:
    hosts = [FakeHost(commits=commits), FakeHost(commits=commits)]
    for host, crashes in zip(hosts, (False, True), strict=True):
        for number in range(1, before):
            host.push(number)
            host.open_pull(1, number)
            host.resync()
            host.settle()
        host.push(before)
        host.open_pull(1, before)
        host.open_pull(2, before + 1)
        host.close_pull(before)
        host.resync()
        for _ in range(ticks):
            host.tick()
            host.elapse()
        if crashes:
            host.tick(crash_after=prefix)
        host.settle()
    calm, crashed = hosts
    assert live_content(crashed) == live_content(calm)
    assert previews_served(crashed) == previews_served(calm)
    assert set(crashed.quarantined) == set(calm.quarantined)
    assert outcomes(crashed) == outcomes(calm)


@given(commits=commit_sets(), story=stories(), crashes=st.lists(st.integers(0, 6), max_size=8))
def test_no_accident_breaks_a_promise_on_the_way(
    commits: tuple[Commit, ...], story: list[Event], crashes: list[int]
) -> None:
    host = FakeHost(commits=commits)
    for index, event in enumerate([FIRST_PUSH, *story]):
        happen(host, event)
        host.tick(crash_after=crashes[index] if index < len(crashes) else None)
        host.elapse()
    settled(host)


@given(commits=commit_sets(), story=stories(*OUTSIDE, "expire", at_most=25))
def test_waiters_come_first_come_first_served_and_nobody_is_moved_needlessly(
    commits: tuple[Commit, ...], story: list[Event]
) -> None:
    host = FakeHost(commits=commits, lease_ttl_s=1000.0)
    happen(host, FIRST_PUSH)
    for event in story:
        happen(host, event)
        before = host.observe()
        pulls = {pull.number: pull for pull in before.pulls if may_preview(pull, before)}
        holders = {s.lease.pull_request: s for s in before.slots if s.lease is not None}
        waiting = {number for number in pulls if number not in holders}
        unheld = sum(1 for s in before.slots if s.slot != MAIN and s.lease is None)
        steps = host.tick()
        claimed = [step.pull_request for step in steps if isinstance(step, ClaimSlot)]
        ended = [step for step in steps if isinstance(step, EndLease)]
        since = dict(before.waiting_since)
        for late in waiting - set(claimed):
            for early in claimed:
                key = (since.get(early, host.now), pulls[early].opened_at)
                assert key <= (since.get(late, host.now), pulls[late].opened_at)
        closed = sum(step.reason == "closed" for step in ended)
        expired = sum(step.reason == "expired" for step in ended)
        assert expired <= max(0, len(waiting) - unheld - closed)
        host.elapse()
    settled(host)
    served = previews_served(host)
    assert len(served) == min(2, len(host.open_pulls))


@given(commits=commit_sets(), story=stories())
def test_there_is_one_automatic_rollback_per_push_at_most(commits: tuple[Commit, ...], story: list[Event]) -> None:
    host = FakeHost(commits=commits)
    play(host, [FIRST_PUSH, *story])
    settled(host)
    rollbacks: Counter[tuple[SlotName, int]] = Counter()
    for name, world in host.slots.items():
        push = 0
        for run in sorted(world.runs.values(), key=lambda run: run.generation):
            if run.cause is Cause.ROLLBACK and run.state is not RunState.SUPERSEDED:
                rollbacks[name, push] += 1
            elif run.cause is not Cause.REPAIR:
                push = run.generation
    assert all(count == 1 for count in rollbacks.values()), rollbacks


@given(commits=commit_sets(), story=stories(*EVERYTHING, at_most=15))
def test_every_commit_that_was_a_head_ends_with_a_status_of_at_most_140_characters(
    commits: tuple[Commit, ...], story: list[Event]
) -> None:
    host = FakeHost(commits=commits)
    heads: set[tuple[Sha, str]] = set()
    for event in [FIRST_PUSH, *story]:
        happen(host, event)
        host.tick()
        seen = host.observe()
        if seen.production_head is not None:
            heads.add((seen.production_head.sha, "oroboros/production"))
        heads |= {(pull.head_sha, "oroboros/preview") for pull in seen.pulls}
        for report in host.reports.values():
            assert len(report.description) <= DESCRIPTION_CHARS_MAX
            assert report.description.isprintable()
    settled(host)
    held = previews_served(host)
    waiting = {pull.head_sha for number, pull in host.open_pulls.items() if number not in held}
    waiting -= {pull.head_sha for number, pull in host.open_pulls.items() if number in held}
    for commit, context in heads:
        assert (commit, context) in host.reports, f"nothing was said of {commit[:7]} as {context}"
        said = host.reports[commit, context]
        is_queued = context == "oroboros/preview" and commit in waiting
        assert (said.state is StatusState.PENDING) == is_queued, said


@given(commits=commit_sets(), story=stories(*EVERYTHING, at_most=15))
def test_no_status_claims_at_any_moment_what_the_host_does_not_show(
    commits: tuple[Commit, ...], story: list[Event]
) -> None:
    host = FakeHost(commits=commits)
    for event in [FIRST_PUSH, Event("open", commit=2), *story]:
        happen(host, event)
        host.tick()
        host.elapse()
        seen = host.observe()
        queue = assign_slots(seen, now=host.now).queue
        for said in project(seen, queue, host.topology, now=host.now):
            holds(said, seen, host)


def holds(said: WantedStatus, seen: Observed, host: FakeHost) -> None:
    """Hold the claim of a status against what the host shows: what serves, what ran, who holds the slots."""
    text = said.description
    slots = [slot for slot in seen.slots if status_context(slot.slot) == said.context]
    runs = [run for slot in slots for run in host.slots[slot.slot].runs.values()]
    live = [slot.live for slot in slots if slot.live is not None and slot.live.state == "live"]
    contents = {one.tree for one in live} | {host.commits[one.release].head.tree for one in live if one.release}
    if text.startswith("live") or ", live since" in text:
        assert host.commits[said.sha].head.tree in contents, said
    if text == "live" or text.startswith(("live;", "live since", "live, watched")):
        assert said.state is StatusState.SUCCESS
        assert said.target_url is not None, said
    if "was live" in text:
        assert said.sha not in {one.release for one in live}, said
        assert any(run.head.sha == said.sha and run.switched_at is not None for run in runs), said
    for named in re.findall(r"([0-9a-f]{7}) took over", text):
        assert any(run.head.sha.startswith(named) and run.switched_at is not None for run in runs), said
    for named in re.findall(r"rolled back to ([0-9a-f]{7})", text):
        assert any(run.release.startswith(named) and run.switched_at is not None for run in runs), said
    if text.startswith("accepted; ") and "waits" not in text:
        doing, _, named = text.removeprefix("accepted; ").rpartition(" ")
        assert any(
            slot.run is not None and slot.run.head.sha.startswith(named) and doing == DOING[slot.run.state]
            for slot in slots
        ), said
    if "slots held by" in text:
        held = {f"#{slot.lease.pull_request}" for slot in seen.slots if slot.lease is not None}
        assert set(text.partition("slots held by ")[2].split()) == held, said


@given(commits=commit_sets(), story=stories(*EVERYTHING, at_most=15))
def test_all_surfaces_agree_in_the_end_and_nothing_stays_open_that_is_over(
    commits: tuple[Commit, ...], story: list[Event]
) -> None:
    host = FakeHost(commits=commits)
    play(host, [FIRST_PUSH, Event("open", commit=2), Event("wait", commit=8), *story])
    settled(host)
    shown = host.outbox.values()
    checks = {(one.sha, one.context): one for one in shown if isinstance(one, WantedCheck)}
    assert checks.keys() == host.reports.keys()
    for key, status in host.reports.items():
        assert checks[key].state.is_completed <= (checks[key].title == status.description)
        assert checks[key].generation == status.generation
        assert (checks[key].state is CheckState.SUCCESS) == (status.state is StatusState.SUCCESS)
        assert checks[key].is_open <= (status.state is StatusState.PENDING)
    seen = host.observe()
    serving = {slot.live.generation: slot for slot in seen.slots if slot.live is not None and slot.live.state == "live"}
    deployments = [one for one in shown if isinstance(one, WantedDeployment)]
    assert {one.environment for one in deployments} <= {environment(slot.slot) for slot in seen.slots}
    for one in deployments:
        assert not one.is_open or one.state is DeploymentState.SUCCESS
        assert not one.is_open or environment(serving[one.generation].slot) == one.environment
    for generation, slot in serving.items():
        live = next(run for run in host.slots[slot.slot].runs.values() if run.generation == generation)
        is_shown = any(one.is_open and one.generation == generation for one in deployments)
        # What a newer head superseded in its window goes on serving where that head then fails.
        assert is_shown == (live.state in (RunState.LIVE, RunState.SUPERSEDED))
    comments = {one.pull_request for one in shown if isinstance(one, WantedComment) and one.is_open}
    assert comments == {number for number, pull in host.open_pulls.items() if pull.same_repository}


@given(commits=commit_sets(), story=stories())
def test_every_plan_survives_the_journal(commits: tuple[Commit, ...], story: list[Event]) -> None:
    host = FakeHost(commits=commits)
    play(host, [FIRST_PUSH, *story])
    settled(host)
    assert steps_from_json(json.loads(json.dumps(steps_to_json(host.applied)))) == tuple(host.applied)


@given(commits=commit_sets(), story=stories(*OUTSIDE, "kill", "reboot", "crash", "outage"))
def test_a_quarantined_tree_is_begun_only_to_start_again_what_serves(
    commits: tuple[Commit, ...], story: list[Event]
) -> None:
    host = FakeHost(commits=commits)
    known: set[tuple[Domain, str]] = set()
    for event in [FIRST_PUSH, *story]:
        happen(host, event)
        known |= set(host.quarantined)
        begun = [step for step in host.tick() if isinstance(step, BeginRun)]
        assert all((s.domain, s.head.tree) not in known or s.cause is Cause.REPAIR for s in begun)
        host.elapse()


@given(commits=commit_sets(), before=stories(), after=stories())
def test_what_a_person_stopped_stays_stopped_until_it_is_started(
    commits: tuple[Commit, ...], before: list[Event], after: list[Event]
) -> None:
    host = FakeHost(commits=commits)
    play(host, [FIRST_PUSH, *before])
    host.stop(MAIN)
    settled(host)
    served = host.slots[MAIN].live
    for event in after:
        if event.kind == "order":
            continue  # it starts production again, and a test of its own says so
        happen(host, event)
        begun = [step for step in host.tick() if isinstance(step, BeginRun | StartInstance) and step.slot == MAIN]
        host.elapse()
        assert (begun, host.slots[MAIN].processes) == ([], {})
    settled(host)
    assert (host.slots[MAIN].live, host.slots[MAIN].run) == (served, None)
    host.start(MAIN)
    settled(host)
    assert host.tick() == ()


@given(commits=commit_sets(good=True), story=stories(*OUTSIDE, *STOPS, "reboot"))
def test_stops_by_hand_blame_nobody_and_leave_no_trace_once_they_end(
    commits: tuple[Commit, ...], story: list[Event]
) -> None:
    stopped, calm = FakeHost(previews=4, commits=commits), FakeHost(previews=4, commits=commits)
    play(stopped, [FIRST_PUSH, *story])
    play(calm, [FIRST_PUSH, *(event for event in story if event.kind not in STOPS)])
    for slot in stopped.slots:
        stopped.start(slot)
    settled(stopped)
    settled(calm)
    assume(not refused(stopped) and not refused(calm))
    assume(not given_up(stopped) and not given_up(calm))
    assert live_content(stopped) == live_content(calm)
    assert previews_served(stopped) == previews_served(calm)
    assert stopped.quarantined == {}


@given(commits=commit_sets(), story=stories(*EVERYTHING, *STOPS, at_most=16))
def test_stops_by_hand_break_no_promise_and_come_to_an_end(commits: tuple[Commit, ...], story: list[Event]) -> None:
    host = FakeHost(commits=commits)
    play(host, [FIRST_PUSH, *story])
    settled(host)
    assert [stop for stop in host.stops if stop.kind == "restart" or not host.is_stopped(stop.slot)] == []
    assert [slot for slot in host.slots if host.is_stopped(slot) and host.slots[slot].processes] == []


@given(commits=commit_sets(), story=stories(*OUTSIDE, "kill", "reboot", "crash", "outage", at_most=16))
def test_production_never_moves_back_by_a_branch_that_was_moved_by_force(
    commits: tuple[Commit, ...], story: list[Event]
) -> None:
    host = FakeHost(commits=commits)
    host.force_push = "hold"
    for event in [FIRST_PUSH, *story]:
        before = served_run(host)
        happen(host, event)
        host.tick()
        host.elapse()
        after = served_run(host)
        if before is None or after is None or after.cause in (Cause.REPAIR, Cause.ROLLBACK):
            continue
        went_back = after.generation < before.generation  # its window failed
        is_newer = host.commits[after.head.sha].number >= host.commits[before.head.sha].number
        assert went_back or is_newer or after.head.tree == before.head.tree
    settled(host)
    assert host.production is not None
    assert host.reports[host.production, "oroboros/production"].state is not StatusState.PENDING


def served_run(host: FakeHost) -> Run | None:
    main = host.slots[MAIN]
    return main.runs.get(main.live.generation) if main.live is not None else None


@given(commits=commit_sets(good=True), story=stories(*OUTSIDE), told=st.booleans())
def test_a_policy_that_follows_ends_where_the_branch_is(
    commits: tuple[Commit, ...], story: list[Event], told: bool
) -> None:
    host = FakeHost(commits=commits)
    host.force_push = "follow"
    play(host, [FIRST_PUSH, *(Event(e.kind, commit=e.commit, pull=e.pull, told=told) for e in story)])
    settled(host)
    assume(not refused(host))
    assert host.production is not None
    assert live_content(host) == host.commits[host.production].head.tree


@example(
    commits=NO_WAY_BACK,
    before=[Event("wait", commit=8), Event("push", commit=2), Event("wait", commit=8)],
    after=[Event("reboot"), Event("wait", commit=8), Event("reboot")],
)
@given(commits=commit_sets(), before=stories(), after=stories(*OUTSIDE, "kill", "reboot", "crash", "outage"))
def test_nothing_new_serves_while_production_is_held(
    commits: tuple[Commit, ...], before: list[Event], after: list[Event]
) -> None:
    host = FakeHost(commits=commits)
    play(host, [FIRST_PUSH, *before])
    settled(host)
    host.overrides = []
    host.hold(MAIN)
    served = live_content(host)
    for event in after:
        happen(host, event)
        host.tick()
        host.elapse()
        assert live_content(host) == served
    settled(host)
    assert live_content(host) == served
    assert [world.run.state for world in host.slots.values() if world.run is not None] in (
        [],
        *([state] for state in (RunState.PLANNED, RunState.BUILDING, RunState.MIGRATING, RunState.GATING)),
    )


@given(commits=commit_sets(good=True), story=stories(*OUTSIDE, *HOLDS, "expire"))
def test_holds_blame_nobody_and_leave_no_trace_once_they_end(commits: tuple[Commit, ...], story: list[Event]) -> None:
    held, calm = FakeHost(previews=4, commits=commits), FakeHost(previews=4, commits=commits)
    play(held, [FIRST_PUSH, *story])
    play(calm, [FIRST_PUSH, *(event for event in story if event.kind not in HOLDS)])
    for slot in held.slots:
        held.unhold(slot)
    settled(held)
    settled(calm)
    assume(not refused(held) and not refused(calm))
    assert live_content(held) == live_content(calm)
    assert previews_served(held) == previews_served(calm)
    assert held.quarantined == {}
    assert all(run.state is not RunState.STALLED for world in held.slots.values() for run in world.runs.values())


@given(commits=commit_sets(), story=stories(*EVERYTHING, *HOLDS, *STOPS, at_most=16))
def test_holds_break_no_promise_and_end_by_themselves(commits: tuple[Commit, ...], story: list[Event]) -> None:
    host = FakeHost(commits=commits)
    play(host, [FIRST_PUSH, *story])
    host.holds = [hold for hold in host.holds if hold.until is not None]
    host.elapse(HOLD_MAX_S)
    settled(host)
    assert all(world.run is None for world in host.slots.values())


def test_t_g14_an_app_that_crashes_fifty_times_tells_its_commit_at_most_two_statuses() -> None:
    """The loop of a worker that is restarted is in `tests/forge/test_outbox.py`; this one's app is good and dies."""
    host = FakeHost(commits=[Commit(number=1, content=1)])
    host.push(1)
    settled(host)
    before, told = len(host.slots[MAIN].runs), [said(host)]
    for _ in range(50):
        host.kill(MAIN)
        for _ in range(20):
            host.tick()
            if said(host) != told[-1]:
                told.append(said(host))
            host.elapse()
        host.settle()
    assert len(host.slots[MAIN].runs) >= before + 50
    assert len(told) <= 2


def said(host: FakeHost) -> tuple[StatusState, str]:
    """Return what the first commit's status says; the same words about a newer run are not sent again."""
    status = host.reports[sha(1), "oroboros/production"]
    return status.state, status.description


@pytest.mark.parametrize("behaviour", [b for b in Behaviour if b is not Behaviour.GOOD])
def test_a_commit_that_fails_in_any_way_leaves_the_good_one_serving(behaviour: Behaviour) -> None:
    bad = Commit(number=2, content=2, behaviour=behaviour, recipe=_recipe_for(behaviour))
    host = FakeHost(commits=[Commit(number=1, content=1, recipe=_recipe_for(behaviour)), bad])
    for number in (1, 2):
        host.push(number)
        host.open_pull(7, number)
        host.resync()
        host.settle()
    good = host.commits[sha(1)].head.tree
    assert live_content(host) == good
    assert previews_served(host) == {7: good}
    assert set(host.quarantined) == {(PRODUCTION, bad.head.tree), (pull_request_domain(7), bad.head.tree)}
    assert host.reports[sha(2), "oroboros/production"].state is StatusState.FAILURE


def _recipe_for(behaviour: Behaviour) -> Recipe:
    match behaviour:
        case Behaviour.BUILD_FAILS:
            return BUILT_APP
        case Behaviour.MIGRATE_FAILS:
            return DATABASE_APP
        case _:
            return APP
