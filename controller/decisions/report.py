"""What should the forge say about each commit? One status and one check per (sha, context), projected from what was
observed.

Nothing is reported from inside a step: after each observation the whole of it is projected again, and the outbox sends
what changed. So a crash, a retry or a wrong guess corrects itself, and the last status is that of the last look.

Who speaks for a commit, the first that has something to say at the newest generation:
0. A head that production may not move to: `error`, or `failure` where the commit is at fault.
1. An invalid policy at the production head: `error`, whatever its run says.
2. A pull request that waits or needs approval: it holds no slot, so nothing of an earlier lease counts. One that a
   filter keeps out is told nothing, unless something was said before: then it ends.
3. Its newest run (`RunState`, in words).
4. For a head without a run: its content serves already, or failed here before; else it is accepted, and waits.
5. A commit of the production branch that was told of, never got a run and is not the head: superseded.
6. A report that is still pending while nothing above speaks for it: it ends.

A report's generation is that of the commit's newest run that we see, else 0; a report of an older one is not sent.

A repair of what was proven says one constant sentence until it fails: an app that crashes again and again would use up
the 1,000 statuses that GitHub takes for a commit, each time saying nothing new.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from controller.decisions.admission import NEEDS_APPROVAL, admission
from controller.decisions.explain import DOING, superseded_by
from controller.decisions.holds import describe_cause, describe_end, describe_taken_ports, held_run
from controller.decisions.markdown import chars, visible
from controller.decisions.merge_queue import PASSED, entry_of, is_checked
from controller.decisions.plan import (
    HELD,
    active_override,
    desired,
    serves,
)
from controller.decisions.quarantine import quarantine_of
from controller.decisions.slots import SLOT_REMOVED, QueuePlace
from controller.model.names import (
    MAIN,
    PRODUCTION,
    PRODUCTION_CONTEXT,
    Sha,
    SlotName,
    Topology,
    is_of_queue,
    number_of,
    status_context,
)
from controller.model.nouns import Head, PullRequest, Run
from controller.model.redaction import redact
from controller.model.reports import WantedCheck, WantedStatus
from controller.model.states import RUN_TERMINAL, Cause, CheckState, RunState, StatusState
from controller.model.world import STOPPED_BY_HAND, Hold, Observed, SlotObserved, Wanted

#: GitHub refuses a longer description with 422 (docs.github.com/rest/commits/statuses).
DESCRIPTION_CHARS_MAX = 140
#: What follows the message (who ordered it, that resync found it) gets at most this much of it.
TAIL_CHARS_MAX = 70
FOUND_BY_RESYNC = " (found by resync: no webhook came)"
ACCEPTED = "accepted"
FEWER_SLOTS = f"{SLOT_REMOVED}: this host gets fewer slots"
REPAIRED = "live; started again whenever it is lost"
UNDER_WAY = "under way"
DEPLOY_TOML_INVALID = "DeployTomlInvalid"
#: Unless something else is said. A check that is neutral lets a pull request be merged; one that is queued may not.
CHECK_OF = {
    StatusState.PENDING: CheckState.IN_PROGRESS,
    StatusState.SUCCESS: CheckState.SUCCESS,
    StatusState.FAILURE: CheckState.FAILURE,
    StatusState.ERROR: CheckState.FAILURE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What is said of one commit in one context."""

    status: WantedStatus
    #: None: what the check says stays.
    check: CheckState | None
    #: deploy.toml is to blame: the check shows where.
    blames_deploy_toml: bool = False

    def as_check(self) -> WantedCheck | None:
        """Return the check that says the same as the status."""
        if self.check is None:
            return None
        return WantedCheck(
            sha=self.status.sha,
            context=self.status.context,
            state=self.check,
            # What passes by in seconds is not worth a write each; the status says it.
            title=UNDER_WAY if self.check is CheckState.IN_PROGRESS else self.status.description,
            details_url=self.status.target_url,
            generation=self.status.generation,
            blames_deploy_toml=self.blames_deploy_toml,
        )


def project(
    observed: Observed, queue: tuple[QueuePlace, ...], topology: Topology, *, now: datetime
) -> tuple[WantedStatus, ...]:
    """Return what each commit's statuses should say, ordered by context and sha; each (sha, context) once."""
    return tuple(said.status for said in say(observed, queue, topology, now=now))


def say(observed: Observed, queue: tuple[QueuePlace, ...], topology: Topology, *, now: datetime) -> tuple[Said, ...]:
    """Return what is said of each commit, ordered by context and sha; each (sha, context) once."""
    # `now` decides only what holds a slot; every instant that we name was observed or is the policy's, so the same look
    # twice gives the same reports.
    chosen: dict[tuple[Sha, str], Said] = {}
    for said in _candidates(observed, queue, topology, now=now):
        key = (said.status.sha, said.status.context)
        if key not in chosen or said.status.generation > chosen[key].status.generation:
            chosen[key] = said
    for pending in observed.open_reports:
        if isinstance(pending, WantedStatus) and (pending.sha, pending.context) not in chosen:
            chosen[pending.sha, pending.context] = _end_of(pending, observed)
    return tuple(chosen[key] for key in sorted(chosen, key=lambda key: (key[1], key[0])))


def _candidates(
    observed: Observed, queue: tuple[QueuePlace, ...], topology: Topology, *, now: datetime
) -> Iterator[Said]:
    yield from _kept_back(observed)
    yield from _refused_head(observed)
    yield from _policy_problems(observed)
    yield from _without_slot(observed, queue)
    for slot in observed.slots:
        for run in runs_to_report(slot):
            yield say_of_run(observed, slot, run, topology, now=now)
    for slot in observed.slots:
        yield from _of_head_without_run(observed, slot, topology)
    yield from _never_run(observed)


def describe(start: str, detail: str = "", tail: str = "") -> str:
    """Return one line of at most 140 characters: the detail gives way first, then the tail; the start stays.

    What a program wrote may be in it, so secrets are masked, before anything is cut.

    Characters are counted as UTF-16 units, which is never fewer than code points: whichever GitHub counts, it fits."""
    start, detail, tail = (visible(redact(text)) for text in (start, detail, tail))
    tail = _fit(tail, TAIL_CHARS_MAX)
    start = _fit(start, DESCRIPTION_CHARS_MAX - chars(tail))
    return start + _fit(detail, DESCRIPTION_CHARS_MAX - chars(start) - chars(tail)) + tail


def _fit(text: str, chars_max: int) -> str:
    if chars(text) <= chars_max:
        return text
    while text and chars(text) > chars_max - 1:
        text = text[:-1]
    return f"{text}…" if chars_max > 0 else ""


def runs_to_report(slot: SlotObserved) -> Iterator[Run]:
    """Return the runs of a slot that we know of; one may come twice."""
    yield from (run for run in (slot.run, *slot.recent_runs, slot.live_run) if run is not None)


def say_of_run(observed: Observed, slot: SlotObserved, run: Run, topology: Topology, *, now: datetime) -> Said:
    """Return what one run says of its commit."""
    tail = _tail(observed, slot, run)
    url: str | None = topology.url(slot.slot)
    check: CheckState | None = None
    match run.state:
        case _ if _is_quiet(observed, slot, run) and not describe_taken_ports(observed, slot.slot):
            state, text = StatusState.SUCCESS, describe(REPAIRED, _restored(run), tail)
        case RunState.WATCHING if taken := describe_taken_ports(observed, slot.slot):
            state, text, url = StatusState.PENDING, describe("waits", f": {taken}", tail), None
        case RunState.WATCHING if run.confirmed_at is not None:
            until = f", watched until {run.watch_until:%H:%M} UTC" if run.watch_until is not None else ", watched"
            state, text = StatusState.SUCCESS, describe("live", f"{until}{_restored(run)}{_unwell(run)}", tail)
        case RunState.LIVE if over := _how_it_ended(slot, run):
            state, text, url = StatusState.SUCCESS, describe(over, "", tail), None
        case RunState.LIVE:
            since = run.confirmed_at or run.switched_at or run.ended_at or run.begun_at
            proof = f" (proof: {run.proof})" if run.proof else ""
            start = f"restored release {run.release[:7]}, live" if run.release != run.head.sha else "live"
            detail = f" since {since:%Y-%m-%d %H:%M} UTC{proof}{_unwell(run)}"
            state, text = StatusState.SUCCESS, describe(start, detail, tail)
        case RunState.PASSED:
            state, text, url = StatusState.SUCCESS, describe(PASSED, "", tail), None
        case RunState.FAILED:
            state, text, url = StatusState.FAILURE, describe(run.reason or "Failed", f": {run.message}", tail), None
        case RunState.ROLLED_BACK:
            state, text, url = StatusState.FAILURE, _rolled_back(slot, run, tail), None
        case RunState.STALLED:
            state, text, url = StatusState.ERROR, describe(run.reason or "Stalled", f": {run.message}", tail), None
        case RunState.SUPERSEDED:
            state, check, text = _superseded(observed, slot, run, tail)
            url = url if check is CheckState.SUCCESS and _serves_run(slot, run) else None
        case _ if run.state is not RunState.WATCHING and (held := held_run(observed, slot, run, now=now)) is not None:
            # A build may still go on; what people wait for is the end of the hold.
            start, detail = describe_end(held), f": {describe_cause(held)}"
            state, check, text, url = StatusState.PENDING, CheckState.QUEUED, describe(start, detail, tail), None
        case _:
            doing = {Cause.REPAIR: "starting again: ", Cause.ROLLBACK: "going back to this commit: "}
            start = f"{doing.get(run.cause, '')}{DOING[run.state]}"
            url = None if is_of_queue(run.domain) else url
            state, text, url = StatusState.PENDING, describe(start, _restored(run), tail), None
    said = _said(run.head.sha, slot.slot, state, text, url=url, generation=run.generation, check=check)
    return replace(said, blames_deploy_toml=run.state is RunState.FAILED and run.reason == DEPLOY_TOML_INVALID)


def _said(
    sha: Sha,
    slot: SlotName,
    state: StatusState,
    text: str,
    *,
    url: str | None = None,
    generation: int = 0,
    check: CheckState | None = None,
) -> Said:
    status = WantedStatus(
        sha=sha,
        context=status_context(slot),
        state=state,
        description=text,
        target_url=url,
        generation=generation,
    )
    return Said(status=status, check=CHECK_OF[state] if check is None else check)


def _is_quiet(observed: Observed, slot: SlotObserved, run: Run) -> bool:
    """Say whether a run starts again what served well, and nothing went wrong in it or in the run before it."""
    if run.cause is not Cause.REPAIR or (run.state in RUN_TERMINAL and run.state is not RunState.LIVE):
        return False
    before = max(
        (one for one in runs_to_report(slot) if one.generation < run.generation and one.head.sha == run.head.sha),
        key=lambda one: one.generation,
        default=None,
    )
    was_well = before is None or before.state in (RunState.LIVE, RunState.SUPERSEDED)
    return was_well and any((p.domain, p.sha) == (run.domain, run.release) for p in observed.proven)


def _restored(run: Run) -> str:
    return f"; restored release {run.release[:7]}" if run.release != run.head.sha else ""


def _unwell(run: Run) -> str:
    return f"; unwell before: {', '.join(run.unwell_before)}" if run.unwell_before else ""


def _tail(observed: Observed, slot: SlotObserved, run: Run) -> str:
    if run.cause is Cause.OVERRIDE:
        for order in observed.overrides:
            if order.slot == slot.slot and order.head.sha == run.head.sha:
                if order.despite_hold:
                    return f" (by hand, despite a hold: {order.actor}: {order.despite_hold})"
                return f" (by hand: {order.actor}: {order.reason})"
        return " (by hand)"
    is_head = (
        slot.slot == MAIN and observed.production_head is not None and observed.production_head.sha == run.head.sha
    )
    found = run.cause is Cause.RESYNC or (
        run.cause is Cause.REVERT and is_head and observed.production_head_found_by_resync
    )
    return FOUND_BY_RESYNC if found else ""


def _rolled_back(slot: SlotObserved, run: Run, tail: str) -> str:
    """Name what serves instead. Going back is over when `live` says so, or when a newer head took over."""
    detail, back_to = f": {run.reason}: {run.message}", run.successor[:7]
    live = slot.live
    if live is not None and live.state == "live" and live.generation == run.generation:
        return describe(f"rolling back to {back_to}", detail, tail)
    if run.switched_back:
        return describe(f"rolled back to {back_to}", detail, tail)
    back = [r for r in runs_to_report(slot) if r.generation > run.generation and r.switched_at is not None]
    first = min(back, key=lambda r: r.generation, default=None)
    if first is None:
        is_back = live is None or (live.release or "").startswith(back_to)
        return describe(f"{'rolled' if is_back else 'rolling'} back to {back_to}", detail, tail)
    if first.cause is Cause.ROLLBACK:
        return describe(f"rolled back to {first.release[:7]}", detail, tail)
    return describe(f"failed; {first.head.sha[:7]} took over", detail, tail)


def _serves_run(slot: SlotObserved, run: Run) -> bool:
    """Say whether `live` names what this run brought."""
    live = slot.live
    return (
        live is not None
        and live.state == "live"
        and live.fence == run.fence
        and (live.generation == run.generation or live.release == run.release)
    )


def _how_it_ended(slot: SlotObserved, run: Run) -> str:
    """Say how it ended that a run's release served; "" while it serves, or nothing is known of what does."""
    if slot.live is None or _serves_run(slot, run):
        return ""
    later = [r for r in runs_to_report(slot) if r.generation > run.generation and r.domain == run.domain]
    switched = [r for r in later if r.switched_at is not None and r.head.sha != run.head.sha]
    if switched:
        return f"was live; {min(switched, key=lambda r: r.generation).head.sha[:7]} took over"
    return "was live" if slot.live.fence == run.fence else "was live; preview ended"


def _superseded(observed: Observed, slot: SlotObserved, run: Run, tail: str) -> tuple[StatusState, CheckState, str]:
    if run.reason == HELD:
        head = _head(observed, slot)
        if head is None or head.sha == run.head.sha:
            # Its next run is about to begin.
            return StatusState.PENDING, CheckState.QUEUED, describe(run.message, "", tail)
        return StatusState.ERROR, CheckState.NEUTRAL, describe(superseded_by(head.sha), "", tail)
    served_well = run.confirmed_at is not None or (
        run.cause in (Cause.REPAIR, Cause.ROLLBACK)
        and any((p.domain, p.sha) == (run.domain, run.release) for p in observed.proven)
    )
    if is_of_queue(run.domain):
        # Not neutral: the forge would take that for passed, and merge.
        return StatusState.ERROR, CheckState.CANCELLED, describe("merge queue: not checked to its end", "", tail)
    if run.reason == "LeaseEnded":
        pull = next((pull for pull in observed.pulls if pull.number == number_of(run.domain)), None)
        why = "pull request closed" if pull is None else FEWER_SLOTS if slot.leaves else _why_ended(pull, observed)
        if served_well:
            return StatusState.SUCCESS, CheckState.SUCCESS, describe("was live; preview ended", f": {why}", tail)
        return StatusState.ERROR, CheckState.CANCELLED, describe("preview ended", f": {why}", tail)
    if run.reason == STOPPED_BY_HAND:
        if served_well:
            return StatusState.SUCCESS, CheckState.SUCCESS, describe("was live", f"; {run.message}", tail)
        return StatusState.ERROR, CheckState.CANCELLED, describe("not deployed", f": {run.message}", tail)
    if served_well:
        # What came after it may have failed before it served.
        start = "live" if _serves_run(slot, run) else _how_it_ended(slot, run) or "was live"
        return StatusState.SUCCESS, CheckState.SUCCESS, describe(start, "", tail)
    return StatusState.ERROR, CheckState.NEUTRAL, describe(superseded_by(run.successor), "", tail)


def _why_ended(pull: PullRequest, observed: Observed) -> str:
    """Say why the lease of an open pull request ended."""
    found = admission(pull, observed)
    return "its time was up and others wait" if found.admits or found.is_open else found.why


def _kept_back(observed: Observed) -> Iterator[Said]:
    """Say at the head of production, which the forge has and cannot be fetched, why it cannot."""
    for trouble in observed.troubles:
        if trouble.sha is not None:
            start = f"{trouble.reason}: {trouble.subject} fails since {trouble.since:%Y-%m-%d %H:%M} UTC"
            generation = _newest_generation(observed, trouble.sha, MAIN)
            text = describe(start, f": {trouble.message}")
            yield _said(trouble.sha, MAIN, StatusState.ERROR, text, generation=generation)


def _refused_head(observed: Observed) -> Iterator[Said]:
    head, refused = observed.production_head, observed.head_refused
    if head is None or refused is None or any(o.slot == MAIN and o.head == head for o in observed.overrides):
        return
    generation = _newest_generation(observed, head.sha, MAIN)
    if refused.is_pending:
        yield _said(head.sha, MAIN, StatusState.PENDING, describe(refused.message), generation=generation)
        return
    state = StatusState.FAILURE if refused.blames_commit else StatusState.ERROR
    check = CheckState.FAILURE if refused.blames_commit else CheckState.ACTION_REQUIRED
    text = describe(refused.reason, f": {refused.message}")
    yield _said(head.sha, MAIN, state, text, generation=generation, check=check)


def _policy_problems(observed: Observed) -> Iterator[Said]:
    head = observed.production_head
    if head is None or not observed.policy_problems:
        return
    first, *others = observed.policy_problems
    more = f" (and {len(others)} more)" if others else ""
    text = describe(DEPLOY_TOML_INVALID, f": {first}", f"{more}; the last valid policy stays")
    generation = _newest_generation(observed, head.sha, MAIN)
    said = _said(head.sha, MAIN, StatusState.ERROR, text, generation=generation)
    yield replace(said, blames_deploy_toml=True)


def _newest_generation(observed: Observed, sha: Sha, of: SlotName) -> int:
    """Return the generation of the newest run of this commit in the slots that share a context; 0 without one."""
    runs = (
        run
        for slot in observed.slots
        if (slot.slot == MAIN) == (of == MAIN)
        for run in runs_to_report(slot)
        if run.head.sha == sha
    )
    # It may have served in a slot that this host no longer has.
    proven = (p.generation for p in observed.proven if p.sha == sha and (p.domain == PRODUCTION) == (of == MAIN))
    return max(max((run.generation for run in runs), default=0), max(proven, default=0))


def _without_slot(observed: Observed, queue: tuple[QueuePlace, ...]) -> Iterator[Said]:
    preview = SlotName("preview-1")  # every preview slot has the same context
    pulls = {pull.number: pull for pull in observed.pulls}
    leases = [slot.lease for slot in observed.slots if slot.lease is not None]
    own = {lease.pull_request for lease in leases if not lease.in_queue}
    heads_held = {pull.head_sha for pull in observed.pulls if pull.number in own}
    holders = " ".join(f"#{number}" for number in sorted({lease.pull_request for lease in leases}))
    entries = {entry.number: entry for entry in observed.queue_entries}
    for place in queue:
        if place.in_queue and (entry := entries.get(place.pull_request)) is not None:
            detail = f"; slots held by {holders}" if holders else "; a slot is being made ready"
            text = describe(f"merge queue: waits for a slot, position {place.position}", detail)
            # Not neutral: the forge would take that for passed, and merge.
            newest = _newest_generation(observed, entry.head.sha, preview)
            yield _said(entry.head.sha, preview, StatusState.PENDING, text, generation=newest, check=CheckState.QUEUED)
        if place.in_queue:
            continue
        pull = pulls.get(place.pull_request)
        if pull is None or pull.head_sha in heads_held:
            continue
        detail = f"; slots held by {holders}" if holders else "; a slot is being made ready"
        lost = f"; {FEWER_SLOTS}" if place.pull_request in observed.slot_removed else ""
        text = describe(f"queued, position {place.position}{lost}", detail)
        generation = _newest_generation(observed, pull.head_sha, preview)
        yield _said(pull.head_sha, preview, StatusState.PENDING, text, generation=generation, check=CheckState.NEUTRAL)
    queued = {place.pull_request for place in queue if not place.in_queue}
    for pull in observed.pulls:
        if pull.number in queued or pull.head_sha in heads_held or not observed.policy.previews.enabled:
            continue
        generation = _newest_generation(observed, pull.head_sha, preview)
        if pull.refused_reason:
            text = describe(f"{pull.refused_reason}: {pull.refused_message}")
            yield _said(pull.head_sha, preview, StatusState.FAILURE, text, generation=generation)
            continue
        found = admission(pull, observed)
        if found.admits or found.is_open:
            check, text = CheckState.QUEUED, ACCEPTED
        elif found.why == NEEDS_APPROVAL:
            check, text = CheckState.ACTION_REQUIRED, NEEDS_APPROVAL
        else:
            continue
        yield _said(pull.head_sha, preview, StatusState.PENDING, text, generation=generation, check=check)


def _of_head_without_run(observed: Observed, slot: SlotObserved, topology: Topology) -> Iterator[Said]:
    wanted = desired(observed, slot)
    head = _head(observed, slot)
    if head is None or any(run.head.sha == head.sha for run in runs_to_report(slot)):
        return
    domain = PRODUCTION if slot.lease is None else slot.lease.domain
    known = quarantine_of(observed, domain, head.tree)
    if known is not None:
        again = f"oroboros deploy {head.sha[:7]}" if slot.slot == MAIN else f"comment /preview {head.sha[:7]}"
        text = describe(
            f"not deployed: same content failed as {known.sha[:7]}", f" ({known.reason})", f"; to try again: {again}"
        )
        yield _said(head.sha, slot.slot, StatusState.FAILURE, text)
    elif isinstance(wanted, Wanted) and wanted.head.sha != head.sha:
        order = active_override(observed, slot)
        if order is not None:
            text = describe(
                f"not deployed: {order.head.sha[:7]} was ordered by hand", f": {order.actor}: {order.reason}"
            )
            yield _said(head.sha, slot.slot, StatusState.ERROR, text, check=CheckState.NEUTRAL)
    elif isinstance(wanted, Hold) and wanted.reason == STOPPED_BY_HAND:
        text = describe(ACCEPTED, f"; waits: {wanted.message}")
        yield _said(head.sha, slot.slot, StatusState.PENDING, text, check=CheckState.QUEUED)
    elif serves(slot, head, fence=slot.lease.fence if slot.lease is not None else 0):
        yield _same_content(slot, head, topology)
    elif isinstance(wanted, Wanted):
        busy = f"; {DOING[slot.run.state]} {slot.run.head.sha[:7]}" if slot.run is not None else ""
        yield _said(head.sha, slot.slot, StatusState.PENDING, describe(ACCEPTED, busy), check=CheckState.QUEUED)


def _same_content(slot: SlotObserved, head: Head, topology: Topology) -> Said:
    live = slot.live_run
    same = f": same content as {live.head.sha[:7]}" if live is not None else ""
    if slot.run is not None and slot.run.head.tree == head.tree and slot.run.confirmed_at is None:
        return _said(head.sha, slot.slot, StatusState.PENDING, describe(DOING[slot.run.state], same))
    if live is not None and not live.proven and live.state in (RunState.FAILED, RunState.STALLED):
        text = describe("serves, but is not proven", f"{same}: {live.reason}: {live.message}")
        return _said(head.sha, slot.slot, StatusState.ERROR, text)
    return _said(head.sha, slot.slot, StatusState.SUCCESS, describe("live", same), url=topology.url(slot.slot))


def _head(observed: Observed, slot: SlotObserved) -> Head | None:
    if slot.slot == MAIN:
        return observed.production_head
    if slot.lease is not None and slot.lease.in_queue:
        entry = entry_of(observed, slot.lease)
        return None if entry is None or is_checked(observed, entry) else entry.head
    pull = _pull(observed, slot)
    return None if pull is None else pull.head


def _pull(observed: Observed, slot: SlotObserved) -> PullRequest | None:
    return next((p for p in observed.pulls if slot.lease is not None and slot.lease.is_of(p.number)), None)


def _never_run(observed: Observed) -> Iterator[Said]:
    head = observed.production_head
    for hint in observed.hints:
        if hint.sha is None or not hint.on_production or head is None or hint.sha == head.sha:
            continue
        text = describe(superseded_by(head.sha))
        yield _said(hint.sha, MAIN, StatusState.ERROR, text, check=CheckState.NEUTRAL)


def _end_of(pending: WantedStatus, observed: Observed) -> Said:
    """Nothing speaks for this commit any more, and its last word was "pending": say how it ended."""
    head, stays = observed.production_head, Said(status=pending, check=None)
    state, check = StatusState.ERROR, CheckState.CANCELLED
    if pending.context == PRODUCTION_CONTEXT:
        if head is None or head.sha == pending.sha:
            return stays
        text, check = describe(superseded_by(head.sha)), CheckState.NEUTRAL
    elif not observed.pulls_listed:
        return stays
    elif pulls := [pull for pull in observed.pulls if pull.head_sha == pending.sha]:
        if not observed.policy.previews.enabled:
            text = describe("preview ended: previews are switched off")
        elif any((found := admission(pull, observed)).admits or found.is_open for pull in pulls):
            return stays
        else:
            # A rule of the project's own: nothing is wrong with the commit.
            state, check = StatusState.SUCCESS, CheckState.NEUTRAL
            text = describe("no preview", f": {admission(pulls[0], observed).why}")
    else:
        text = describe("preview ended: pull request closed", ", or a newer commit took its place")
    ended = replace(pending, state=state, description=text, target_url=None)
    return Said(status=ended, check=check)
