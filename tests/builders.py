"""How does a test write a noun in one line? Builders with defaults; a number stands for a commit, a tree, a moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

from controller.model.config import Api, Build, Database, Recipe
from controller.model.names import (
    MAIN,
    PRODUCTION,
    Colour,
    Domain,
    Sha,
    SlotName,
    TreeId,
    instance_unit,
    pull_request_domain,
)
from controller.model.nouns import (
    Head,
    Lease,
    Live,
    Override,
    PreviewOrder,
    ProcessFact,
    Proven,
    PullRequest,
    Quarantined,
    Release,
    Run,
    Stop,
    Verdict,
)
from controller.model.states import RUN_TERMINAL, Cause, Outcome, ProcessState, RunState
from controller.model.world import Observed, SlotObserved

START_AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PREVIEW_1 = SlotName("preview-1")
APP = Recipe(api=Api(command=("app",)))
BUILT_APP = Recipe(build=Build(command=("make",)), api=Api(command=("app",)))
DATABASE_APP = Recipe(api=Api(command=("app",)), database=Database(migrate=("migrate",)))


def at(seconds: float) -> datetime:
    return START_AT + timedelta(seconds=seconds)


def sha(number: int) -> Sha:
    return Sha(f"{number:07x}".ljust(40, "0"))


def tree(number: int) -> TreeId:
    return TreeId(f"{number:07x}".ljust(40, "f"))


def head(number: int, *, content: int | None = None) -> Head:
    """Commit `number`; its tree has the same number unless `content` says whose content it has."""
    return Head(sha=sha(number), tree=tree(number if content is None else content))


def release(number: int, *, published_s: float = -3600.0, pinned: bool = False) -> Release:
    return Release(sha=sha(number), tree=tree(number), published_at=at(published_s), pinned=pinned)


def proven(number: int, *, generation: int, domain: Domain = PRODUCTION) -> Proven:
    return Proven(domain=domain, sha=sha(number), tree=tree(number), generation=generation, proven_at=at(0))


def quarantined(number: int, *, domain: Domain = PRODUCTION, at_s: float = 0.0) -> Quarantined:
    return Quarantined(
        domain=domain, tree=tree(number), sha=sha(number), reason="GateFailed", message="it answered 500", at=at(at_s)
    )


def lease(pull_request: int, *, fence: int = 50, slot: SlotName = PREVIEW_1, expires_s: float = 3600.0) -> Lease:
    return Lease(fence=fence, slot=slot, pull_request=pull_request, claimed_at=at(0), expires_at=at(expires_s))


def pull(number: int, commit: int | None = None, *, same_repository: bool = True) -> PullRequest:
    """Pull request `number` at commit `commit`, which is 100 + its number unless said."""
    commit = 100 + number if commit is None else commit
    return PullRequest(
        number=number,
        head_sha=sha(commit),
        head_branch=f"topic-{number}",
        title="",
        author="ann",
        same_repository=same_repository,
        opened_at=at(number),
        head=head(commit) if same_repository else None,
    )


def approval(of: PullRequest, *, comment_id: int = 1) -> PreviewOrder:
    """Somebody who may write said that this very commit may preview."""
    return PreviewOrder(
        pull_request=of.number,
        kind="approval",
        sha=of.head_sha,
        base_branch=of.base_branch,
        actor="bob",
        comment_id=comment_id,
        at=at(0),
    )


def stop_preview(pull_request: int) -> PreviewOrder:
    return PreviewOrder(pull_request=pull_request, kind="stop", actor="bob", comment_id=2, at=at(0))


def run(
    generation: int,
    number: int,
    state: RunState = RunState.PLANNED,
    *,
    content: int | None = None,
    release_of: int | None = None,
    cause: Cause = Cause.PUSH,
    slot: SlotName = MAIN,
    domain: Domain | None = None,
    fence: int = 0,
    colour: Colour | None = "a",
    attempts: int = 1,
    fallback: int | None = None,
    reason: str = "",
    message: str = "",
    successor: int | None = None,
    switched_s: float | None = None,
    confirmed_s: float | None = None,
    ended_s: float = 60.0,
    migration_head: str = "",
    proof: str = "",
) -> Run:
    """Run `generation` of commit `number`. A run in state `live` is proven."""
    is_live = state is RunState.LIVE
    return Run(
        generation=generation,
        slot=slot,
        domain=domain or (PRODUCTION if slot == MAIN else pull_request_domain(1)),
        fence=fence,
        head=head(number, content=content),
        release=sha(number if release_of is None else release_of),
        cause=cause,
        state=state,
        colour=colour,
        attempts=attempts,
        begun_at=at(0),
        switched_at=at(10) if is_live and switched_s is None else None if switched_s is None else at(switched_s),
        confirmed_at=at(12) if is_live and confirmed_s is None else None if confirmed_s is None else at(confirmed_s),
        watch_until=at(40),
        ended_at=at(ended_s) if state in RUN_TERMINAL else None,
        migration_head=migration_head,
        fallback=fallback,
        proven=is_live,
        proof=proof,
        reason=reason,
        message=message,
        successor="" if successor is None else sha(successor),
    )


def live(of: Run) -> Live:
    """What `live` says once this run has switched."""
    return Live(
        slot=of.slot,
        state="live",
        generation=of.generation,
        fence=of.fence,
        release=of.release,
        tree=of.head.tree,
        colour=of.colour,
        address=f"127.0.0.1:{8200 if of.colour == 'a' else 8300}",
    )


def free(slot: SlotName = MAIN) -> Live:
    return Live(slot=slot, state="free", generation=0)


def instance(of: Run, *, state: ProcessState = ProcessState.RUNNING, exit_code: int | None = None) -> ProcessFact:
    assert of.colour is not None
    return process(instance_unit(of.slot, of.colour), of.generation, state=state, exit_code=exit_code)


def process(
    unit: str, generation: int, *, state: ProcessState = ProcessState.RUNNING, exit_code: int | None = None
) -> ProcessFact:
    return ProcessFact(unit=unit, generation=generation, state=state, exit_code=exit_code, started_at=at(0))


def verdict(
    of: Run,
    kind: Literal["checkout", "gate", "confirm", "watch", "judge"],
    outcome: Outcome,
    *,
    blames_release: bool = True,
) -> Verdict:
    return Verdict(
        kind=kind,
        slot=of.slot,
        generation=of.generation,
        release=of.release,
        outcome=outcome,
        reason="" if outcome is Outcome.PASS else "GateFailed",
        message="" if outcome is Outcome.PASS else "it answered 500",
        blames_release=blames_release,
    )


def stop(
    slot: SlotName = MAIN, *, kind: Literal["stopped", "restart"] = "stopped", fence: int = 0, reason: str = "too loud"
) -> Stop:
    return Stop(id=7, slot=slot, kind=kind, fence=fence, actor="ann", reason=reason, at=at(0))


def serving(of: Run) -> SlotObserved:
    """A slot where this ended run serves; change it with `dataclasses.replace`."""
    return SlotObserved(
        slot=of.slot,
        live=live(of),
        current=of.release,
        live_run=of,
        processes=(instance(of),) if of.colour is not None else (),
        recent_runs=(of,),
        recipe=APP,
        published=True,
        lease=None if of.slot == MAIN else lease(1, fence=of.fence, slot=of.slot),
        provisioned_fence=of.fence,
    )


def observed(
    *slots: SlotObserved,
    at_head: Head | None = None,
    pulls: tuple[PullRequest, ...] = (),
    releases: tuple[Release, ...] = (),
    proven: tuple[Proven, ...] = (),
    quarantined: tuple[Quarantined, ...] = (),
    overrides: tuple[Override, ...] = (),
    stops: tuple[Stop, ...] = (),
) -> Observed:
    """The host with these slots, the production branch at `at_head`, and a complete listing."""
    return Observed(
        slots=slots,
        production_head=at_head,
        pulls=pulls,
        pulls_listed=True,
        releases=releases,
        proven=proven,
        quarantined=quarantined,
        overrides=overrides,
        stops=stops,
    )
