"""What should the forge's deployments say? One a run, in the environment of its slot; what no longer serves is ended.

Environments are slots, so there are few and they stay. A run counts once it is past its checkout: before that nothing
was tried. It is a success while the slot serves it, and inactive as soon as it does not: the forge ends none of ours by
itself, since it does that in neither transient nor production environments, and ours are one or the other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime

from controller.decisions.holds import describe_taken_ports
from controller.decisions.report import UNDER_WAY, runs_to_report, say_of_run
from controller.model.names import MAIN, Topology, environment, is_of_queue
from controller.model.nouns import Run
from controller.model.reports import WantedDeployment
from controller.model.states import RUN_TERMINAL, DeploymentState, RunState
from controller.model.world import Observed, SlotObserved

LIVE = "live"
NO_LONGER = "no longer serves"
_FAILED = {
    RunState.FAILED: DeploymentState.FAILURE,
    RunState.ROLLED_BACK: DeploymentState.FAILURE,
    RunState.STALLED: DeploymentState.ERROR,
}


def project_deployments(observed: Observed, topology: Topology, *, now: datetime) -> tuple[WantedDeployment, ...]:
    """Return what each deployment should say, ordered by run; each once."""
    shown = {report.generation: report for report in observed.open_reports if isinstance(report, WantedDeployment)}
    found: dict[int, WantedDeployment] = {}
    for slot in observed.slots:
        for wanted in _of_slot(observed, slot, topology, shown.keys(), now=now):
            found[wanted.generation] = wanted
    for generation, report in shown.items():
        if generation not in found:
            found[generation] = _inactive(report)
    return tuple(found[generation] for generation in sorted(found))


def _of_slot(
    observed: Observed, slot: SlotObserved, topology: Topology, shown: Collection[int], *, now: datetime
) -> Iterator[WantedDeployment]:
    known = {run.generation: run for run in runs_to_report(slot)}
    for generation, run in known.items():
        if is_of_queue(run.domain):
            continue  # it is checked, and deployed nowhere
        state = _state(observed, slot, run)
        if state is None or (
            generation not in shown and state not in (DeploymentState.IN_PROGRESS, DeploymentState.SUCCESS)
        ):
            continue  # it was ended before, or nobody was told that it began
        yield _wanted(observed, slot, run, state, topology, now=now)


def _state(observed: Observed, slot: SlotObserved, run: Run) -> DeploymentState | None:
    """Return how a run's deployment stands; None while there is nothing to show."""
    live = slot.live
    held = slot.slot == MAIN or (slot.lease is not None and slot.lease.fence == run.fence)
    serves = held and live is not None and live.state == "live" and live.generation == run.generation
    if run.state is RunState.ROLLED_BACK and serves:
        return DeploymentState.IN_PROGRESS  # it is being gone back from
    if run.state in _FAILED:
        return _FAILED[run.state]
    if run.state is RunState.PLANNED:
        return None
    is_seen = run.confirmed_at is not None and not describe_taken_ports(observed, slot.slot)
    if run.state not in RUN_TERMINAL and not is_seen:
        return DeploymentState.IN_PROGRESS
    return DeploymentState.SUCCESS if serves else DeploymentState.INACTIVE


def _wanted(
    observed: Observed, slot: SlotObserved, run: Run, state: DeploymentState, topology: Topology, *, now: datetime
) -> WantedDeployment:
    url = None
    match state:
        case DeploymentState.IN_PROGRESS if run.state is not RunState.ROLLED_BACK:
            text = UNDER_WAY
        case DeploymentState.SUCCESS:
            text, url = LIVE, topology.url(slot.slot)
        case DeploymentState.INACTIVE:
            text = NO_LONGER
        case _:
            text = say_of_run(observed, slot, run, topology, now=now).status.description
    return WantedDeployment(
        sha=run.head.sha,
        environment=environment(slot.slot),
        generation=run.generation,
        state=state,
        description=text,
        environment_url=url,
    )


def _inactive(report: WantedDeployment) -> WantedDeployment:
    return WantedDeployment(
        sha=report.sha,
        environment=report.environment,
        generation=report.generation,
        state=DeploymentState.INACTIVE,
        description=NO_LONGER,
        environment_url=None,
    )
