"""What would the next tick do, and why? An observation that changes nothing, and the same decision as the worker's.

What only the worker's own memory knows is not seen from here: a checkout, gate or window that runs in a thread of it
looks as if it were still to be begun. The last valid policy is not remembered either: looking writes nothing.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from controller.doors import tables
from controller.doors.doctor import waiting_for_install, warn_of_forks, warn_of_shared_cookies
from controller.doors.stacks import Stack, open_databases, open_mirror, open_runtime, utc_now
from controller.effects.signatures import Signatures
from controller.effects.store import Store
from controller.loop.background import Background
from controller.loop.observe import Sight, observe
from controller.loop.reconcile import Decision, decide
from controller.model.config import Settings
from controller.model.names import Sha, Topology
from controller.model.steps import Step, steps_to_json
from controller.model.world import Hold, Observed, Wanted


class OnlookersStore(Store):
    """A store for looking: what observation would write down for later is not written."""

    def record_policy(self, sha: Sha, *, problems: object, freezes: object = ()) -> None:
        """Remember nothing: who only looks changes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotPlanView:
    """What would happen to one slot."""

    slot: str
    wanted: str
    because: str
    steps: tuple[dict[str, object], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """A pull request that would wait."""

    pull_request: int
    #: It is the pull request's entry in the merge queue that waits.
    in_queue: bool = False
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanView:
    """What one tick would do to the whole host."""

    production_head: str | None
    production_title: str
    leases: tuple[dict[str, object], ...]
    slots: tuple[SlotPlanView, ...]
    prune: tuple[dict[str, object], ...]
    queue: tuple[QueueView, ...]
    policy_problems: tuple[str, ...]
    waiting_for_install: tuple[str, ...]
    #: What is allowed and still dangerous.
    warnings: tuple[str, ...]


def read_plan(stack: Stack, settings: Settings, topology: Topology) -> PlanView:
    """Observe and decide, once; change nothing."""
    del stack
    return shape_plan(*look(settings, topology), topology)


def look(settings: Settings, topology: Topology) -> tuple[Observed, Decision]:
    """Return what the next tick would see, and decide."""
    store = OnlookersStore(settings.database_url, repository=settings.repository, host=settings.host)
    databases = open_databases(settings)
    try:
        sight = Sight(
            store=store,
            mirror=open_mirror(settings),
            runtime=open_runtime(settings),
            databases=databases,
            signatures=Signatures(settings.layout.mirror, settings.config_dir),
            layout=settings.layout,
            topology=topology,
            config_dir=settings.config_dir,
            background=Background(threading.Event().set),
            gate_activities=frozenset,
            ended_units_stay=settings.runtime == "systemd",
        )
        observed, _ = observe(sight)
        return observed, decide(observed, now=utc_now())
    finally:
        store.close()
        if databases is not None:
            databases.close()


def shape_plan(observed: Observed, decision: Decision, topology: Topology) -> PlanView:
    """Return a decision as a view. Pure."""
    head = observed.production_head
    return PlanView(
        production_head=None if head is None else head.sha,
        production_title="" if head is None else head.title,
        leases=_steps(decision.slots.steps),
        slots=tuple(
            SlotPlanView(
                slot=one.slot,
                wanted=describe_wanted(one.wanted),
                because=one.because,
                steps=_steps(one.steps),
            )
            for one in decision.each
        ),
        prune=_steps(decision.prune),
        queue=tuple(
            QueueView(pull_request=p.pull_request, in_queue=p.in_queue, position=p.position)
            for p in decision.slots.queue
        ),
        policy_problems=observed.policy_problems,
        waiting_for_install=waiting_for_install(observed.policy, topology),
        warnings=tuple(filter(None, (warn_of_shared_cookies(topology), warn_of_forks(observed.policy)))),
    )


def describe_wanted(wanted: Wanted | Hold | None) -> str:
    """Return in a few words what a slot is to serve. Pure."""
    match wanted:
        case None:
            return "nothing"
        case Hold():
            return "what it serves"
        case Wanted():
            return f"{wanted.head.sha[:7]} {wanted.head.title}".rstrip()


def _steps(steps: tuple[Step, ...]) -> tuple[dict[str, object], ...]:
    return tuple(steps_to_json(steps))


def print_plan(console: Console, plan: PlanView) -> None:
    """Print what would happen, slot by slot."""
    head = "not known yet" if plan.production_head is None else f"{plan.production_head[:7]} {plan.production_title}"
    console.print(Text(tables.plain(f"production head: {head}"), style="bold"))
    for problem in (*plan.policy_problems, *plan.waiting_for_install):
        console.print(Text(tables.plain(f"policy: {problem}"), style="yellow"))
    for warning in plan.warnings:
        console.print(Text(tables.plain(f"warning: {warning}; `oroboros doctor` says more"), style="bold yellow"))
    for step in (*plan.leases, *plan.prune):
        console.print(Text(tables.plain(f"  {_step_words(step)}")))
    for slot in plan.slots:
        console.print(Text(tables.plain(f"{slot.slot} {slot.because}")))
        for step in slot.steps:
            console.print(Text(tables.plain(f"  {_step_words(step)}"), style="dim"))
    for place in plan.queue:
        which = " in the merge queue" if place.in_queue else ""
        console.print(Text(f"#{place.pull_request}{which} waits, number {place.position} in the queue for a slot"))
    if not any(slot.steps for slot in plan.slots) and not plan.leases and not plan.prune:
        console.print("nothing to do")


def _step_words(step: dict[str, object]) -> str:
    words = [
        f"{key} {_brief(value)}" for key, value in step.items() if key not in ("step", "slot") and value is not None
    ]
    return f"{step['step']} {', '.join(words)}".rstrip()


def _brief(value: object) -> str:
    if isinstance(value, dict):
        return str(value.get("sha", ""))[:7]
    text = str(value)
    return text[:7] if len(text) == 40 and " " not in text else text
