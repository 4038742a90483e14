"""What should our one comment at a pull request say? It is edited when something changes, and told of nothing else.

Only a pull request that is to have a preview, or only lacks a person's word for it, gets a comment, and one at which a
command was given: whom the rules of the project filter out hears nothing unasked. A comment that is there goes on
telling the truth, to the end of the pull request; a command is answered in it even after that.
Every text that somebody else wrote is shown as code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from controller.decisions.admission import APPROVAL, NEEDS_APPROVAL, admission
from controller.decisions.github.comments import MARKER
from controller.decisions.markdown import cell, code, table
from controller.decisions.report import Said
from controller.model.names import PREVIEW_CONTEXT, Topology, pull_request_domain
from controller.model.nouns import WRITERS, CommandAnswer, PullRequest, Run
from controller.model.reports import WantedComment
from controller.model.states import CheckState, RunState, StatusState
from controller.model.world import COMMANDS_SHOWN_MAX, Observed, SlotObserved

_FAILURES = (RunState.FAILED, RunState.ROLLED_BACK, RunState.STALLED)
_HEADLINES = {
    CheckState.QUEUED: "The preview has not begun.",
    CheckState.IN_PROGRESS: "The preview is on its way.",
    CheckState.SUCCESS: "The preview is live.",
    CheckState.FAILURE: "The preview of this commit failed.",
    CheckState.NEUTRAL: "There is no preview.",
    CheckState.CANCELLED: "There is no preview.",
    CheckState.ACTION_REQUIRED: "The preview waits for approval.",
}


def project_comments(observed: Observed, said: Sequence[Said], topology: Topology) -> tuple[WantedComment, ...]:
    """Return what each pull request's comment should say, ordered by number."""
    shown = {report.pull_request for report in observed.open_reports if isinstance(report, WantedComment)}
    may_begin = observed.policy.previews.comment
    answered = {said.pull_request for said in observed.commands} if may_begin else set()
    found = [
        WantedComment(pull_request=pull.number, body=_body(observed, pull, said, topology), is_open=True)
        for pull in observed.pulls
        if may_begin and (pull.number in shown | answered or _is_wanted(observed, pull))
    ]
    if observed.pulls_listed:
        closed = (shown | answered) - {pull.number for pull in observed.pulls}
        found += [_ended(observed, number, is_answer=number in answered) for number in closed]
    return tuple(sorted(found, key=lambda wanted: wanted.pull_request))


def _is_wanted(observed: Observed, pull: PullRequest) -> bool:
    found = admission(pull, observed)
    return found.admits or (found.why == NEEDS_APPROVAL and not found.is_open)


def _body(observed: Observed, pull: PullRequest, said: Sequence[Said], topology: Topology) -> str:
    now = next((one for one in said if (one.status.sha, one.status.context) == (pull.head_sha, PREVIEW_CONTEXT)), None)
    slot = _slot(observed, pull)
    found = admission(pull, observed)
    if not found.admits and found.why != NEEDS_APPROVAL:
        headline = "There is no preview."
    elif now is None or now.check is None:
        headline = _HEADLINES[CheckState.QUEUED]
    else:
        headline = _headline(now)
    rows = [("Commit", code(pull.head_sha[:7]))]
    if now is not None and (found.admits or found.why == NEEDS_APPROVAL):
        # What passes by in seconds is not worth an edit each.
        if now.check is not CheckState.IN_PROGRESS and headline != _HEADLINES[CheckState.SUCCESS]:
            rows.append(("State", cell(now.status.description)))
    elif found.why:
        rows.append(("State", cell(f"no preview: {found.why} ({found.rule})")))
    rows += _rows_of_slot(pull, slot, topology) if slot is not None else []
    parts = [MARKER, f"**{headline}**", table(("Preview", f"#{pull.number}"), rows)]
    if found.why == NEEDS_APPROVAL and found.rule != APPROVAL:
        parts.append(
            "It comes from a fork, whose code does not run here, approved or not:"
            " `[permissions] accept_fork_risk` in deploy.toml is off."
        )
    elif found.why == NEEDS_APPROVAL:
        parts.append(
            "It comes from a fork, whose code does not run by itself."
            f" Somebody who may write to this repository has it previewed with the comment `/preview {pull.head_sha}`;"
            " that counts for this commit alone."
        )
    parts += _commands(observed, pull.number)
    return "\n\n".join(parts) + "\n"


def _headline(now: Said) -> str:
    """Return the headline of a check: only what has an address is live, and only what is queued waits for a slot."""
    assert now.check is not None
    if now.check is CheckState.SUCCESS and now.status.target_url is None:
        return "The preview has ended."
    if now.check is CheckState.NEUTRAL and now.status.state is StatusState.PENDING:
        return "The preview waits for a slot."
    return _HEADLINES[now.check]


def _rows_of_slot(pull: PullRequest, slot: SlotObserved, topology: Topology) -> Iterator[tuple[str, str]]:
    live = slot.live
    assert slot.lease is not None
    if live is not None and live.state == "live" and live.fence == slot.lease.fence and live.release is not None:
        serves = "" if live.release == pull.head_sha else f", which serves {code(live.release[:7])}"
        yield ("URL", f"<{topology.url(slot.slot)}>{serves}")
    yield ("Slot", f"{slot.slot}, kept until {slot.lease.expires_at:%Y-%m-%d %H:%M} UTC while others wait")
    failed = _last_failure(pull, slot)
    if failed is not None and failed.head.sha != pull.head_sha:
        yield (
            "Last failure",
            f"{code(failed.head.sha[:7])} {cell(f'{failed.reason}: {failed.message}', chars_max=500)}",
        )


def _slot(observed: Observed, pull: PullRequest) -> SlotObserved | None:
    return next((s for s in observed.slots if s.lease is not None and s.lease.is_of(pull.number)), None)


def _last_failure(pull: PullRequest, slot: SlotObserved) -> Run | None:
    """Return the newest run of the pull request, if it failed."""
    domain = pull_request_domain(pull.number)
    newest = max((run for run in slot.recent_runs if run.domain == domain), key=lambda r: r.generation, default=None)
    return newest if newest is not None and newest.state in _FAILURES else None


def _commands(observed: Observed, number: int) -> list[str]:
    said = [one for one in observed.commands if one.pull_request == number]
    # Those who may write first: what others say hides nothing of theirs.
    chosen = sorted(said, key=lambda one: (one.permission in WRITERS, *_when(one)))[-COMMANDS_SHOWN_MAX:]
    return ["\n".join(["Commands:", "", *map(_line, sorted(chosen, key=_when))])] if said else []


def _when(said: CommandAnswer) -> tuple[datetime, int]:
    return (said.decided_at, said.comment_id)


def _line(said: CommandAnswer) -> str:
    why = ": ".join(part for part in (said.reason, said.message) if part)
    return f"- {code(said.said)} by {code(said.author)}: {said.state}" + (
        f", {code(why, chars_max=500)}" if why else ""
    )


def _ended(observed: Observed, number: int, *, is_answer: bool) -> WantedComment:
    parts = [MARKER, "**There is no preview: the pull request is closed.**", *_commands(observed, number)]
    return WantedComment(pull_request=number, body="\n\n".join(parts) + "\n", is_open=False, is_answer=is_answer)
