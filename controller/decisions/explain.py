"""Why does one slot get these steps? One sentence, for `oroboros plan` and the decision trail in the log."""

from __future__ import annotations

from controller.decisions.holds import describe_held
from controller.model.names import MAIN
from controller.model.nouns import Head, Run
from controller.model.states import RUN_TERMINAL, Cause, RunState
from controller.model.steps import (
    BeginRun,
    EndRun,
    FreeSlot,
    HandOver,
    ProvisionSlot,
    Step,
    Switch,
    SwitchBack,
    WipeSlot,
)
from controller.model.world import NEWER_HEAD, STOPPED_BY_HAND, Held, Hold, SlotObserved, Wanted

#: A run's state, said of it while it runs.
DOING = {
    RunState.PLANNED: "checking out",
    RunState.BUILDING: "building",
    RunState.MIGRATING: "migrating",
    RunState.GATING: "gating",
    RunState.SWITCHING: "switching",
    RunState.WATCHING: "watching",
}
assert set(DOING) == set(RunState) - RUN_TERMINAL

BECAUSE = {
    Cause.PUSH: "it is the newest commit",
    Cause.REVERT: "its content is that of a release that served well here",
    Cause.RESYNC: "it is the newest commit, found by resync: no webhook came",
    Cause.OVERRIDE: "it was ordered by hand",
    Cause.ROLLBACK: "it served well before the release that failed",
    Cause.REPAIR: "it serves and must be started or proven again",
}
assert set(BECAUSE) == set(Cause)


def why(wanted: Wanted | Hold | None, slot: SlotObserved, steps: tuple[Step, ...], *, held: Held | None = None) -> str:
    """Return one sentence: what happens to the slot now, and the reason. `held`: what keeps its run, or the next one,
    from going on."""
    for step in steps:
        match step:
            case BeginRun():
                return f"begins {_name(step.head)}: {BECAUSE[step.cause]}"
            case SwitchBack() if slot.run is not None:
                return f"goes back from {_name(slot.run.head)}: its window failed"
            case EndRun() if slot.run is not None:
                return _why_end(step, slot.run)
            case HandOver() if slot.run is not None:
                return (
                    f"has the judge switch to {_name(slot.run.head)}: its gate passed, and it replaces api and worker"
                )
            case Switch() if slot.run is not None:
                return f"switches to {_name(slot.run.head)}: its gate passed"
            case WipeSlot():
                return "wipes the slot: its lease ended and nothing runs in it"
            case ProvisionSlot() if slot.lease is not None:
                return f"is made ready for #{slot.lease.pull_request}"
            case FreeSlot():
                return "says that it is free: nobody holds it" if slot.slot != MAIN else "says that nothing serves yet"
            case _:
                continue
    if slot.run is not None and held is not None and not steps and slot.run.state is not RunState.WATCHING:
        return f"waits with {_name(slot.run.head)}: {describe_held(held)}"
    if slot.run is not None:
        return f"is {DOING[slot.run.state]} {_name(slot.run.head)}: {BECAUSE[slot.run.cause]}"
    if steps and isinstance(wanted, Hold) and wanted.reason == STOPPED_BY_HAND:
        return f"stops everything: {wanted.message}"
    if steps:
        return "clears up after the last run"
    return _why_nothing(wanted, slot) + (f"; {describe_held(held)}" if held is not None else "")


def superseded_by(sha: str) -> str:
    """Say which commit took over; "" when none is known."""
    return f"superseded by {sha[:7] or 'a later commit'}"


def end_of_run(state: str, reason: str, message: str, *, successor: str, switched_back: bool) -> str:
    """Return how a run ended and what serves instead, in one text for people; "" while it has none."""
    if (state, reason) == (RunState.SUPERSEDED, NEWER_HEAD):
        return superseded_by(successor)
    if state == RunState.ROLLED_BACK and successor:
        return f"{message}; {'rolled' if switched_back else 'rolling'} back to {successor[:7]}"
    return message


def _why_end(step: EndRun, run: Run) -> str:
    ended = end_of_run(
        step.state, step.reason, step.message, successor=step.successor, switched_back=step.switched_back
    )
    said = ": ".join(part for part in (step.reason, ended) if part)
    return f"ends {_name(run.head)} as {step.state}: {said or 'its window passed'}"


def _why_nothing(wanted: Wanted | Hold | None, slot: SlotObserved) -> str:
    live = slot.live
    now = f"keeps {live.release[:7]}" if live is not None and live.release is not None else "stays free"
    match wanted:
        case None:
            return f"{now}: {'no production branch is known yet' if slot.slot == MAIN else 'nobody holds it'}"
        case Hold():
            return f"{now}: {wanted.message} ({wanted.reason})"
        case Wanted():
            if live is not None and live.tree == wanted.head.tree:
                return f"{now}: it is what {_name(wanted.head)} wants"
            return f"{now}: {_name(wanted.head)} failed before, and is tried again later or on a new commit"


def _name(head: Head) -> str:
    return f"{head.sha[:7]} {head.title!r:.60}" if head.title else head.sha[:7]
