"""What does a comment order, and may it? Comment, permission and world in; an effect or a refusal out.

A command is the first line of a comment by a person. Whether its author may is what the forge says of them now. A
comment that was edited does not count, since others may edit it. What is refused is `Refused`, with the reason.

`/preview <sha>` of a fork approves that commit, and only while it is the head. A bare `/preview` approves nothing
there: the forge does not say which head its author looked at, since a head may leave and come back between two lists.
So a push between looking and approving changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal, assert_never

from controller.decisions.admission import approval_in_force, judge_admission
from controller.decisions.holds import describe_held, judge_held
from controller.decisions.orders import SHA_PREFIX, choose_rollback, leaving_of, order_of_proof, releases_of
from controller.model.errors import Refused
from controller.model.names import (
    MAIN,
    PREVIEW_CONTEXT,
    PRODUCTION,
    PRODUCTION_CONTEXT,
    Domain,
    Sha,
    parse_sha,
    pull_request_domain,
    queue_domain,
)
from controller.model.nouns import (
    EVERY_CONTEXT,
    PERMISSIONS,
    WRITERS,
    Comment,
    Head,
    Live,
    Permission,
    PreviewOrder,
    PullRequest,
    Rerun,
)
from controller.model.world import Observed

Verb = Literal["preview", "stop", "rollback", "redeploy", "hold", "release"]
#: An order about production that is found later than this was meant for another time.
ORDER_AGE_MAX: Final = timedelta(hours=1)
ARGUMENT_CHARS_MAX: Final = 200
#: Of those who may not write, in `REFUSED_LATELY`: an answer is two writes at the forge, and those are counted.
REFUSED_LATELY: Final = timedelta(hours=1)
ANSWERED_OF_ONE_MAX: Final = 5
#: An account costs nothing.
ANSWERED_OF_ALL_MAX: Final = 20
_VERBS: Final[dict[str, Verb]] = {
    "preview": "preview",
    "rollback": "rollback",
    "redeploy": "redeploy",
    "hold": "hold",
    "release": "release",
}
_COMMAND = re.compile(r"/(preview|rollback|redeploy|hold|release)(?:[ \t]++([^\r\n]*+))?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What the first line of a comment orders."""

    verb: Verb
    argument: str = ""

    @property
    def said(self) -> str:
        word = "/preview stop" if self.verb == "stop" else f"/{self.verb}"
        return f"{word} {self.argument}".rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Approve:
    """This commit of a pull request may have a preview, and is tried anew."""

    pull_request: int
    sha: Sha
    base_branch: str
    is_fork: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StopPreview:
    """This pull request has no preview any more."""

    pull_request: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RollBack:
    """Production goes back."""

    release: Sha
    leaving: Live


@dataclass(frozen=True, slots=True, kw_only=True)
class Redeploy:
    """Production serves this commit of the production branch, tried anew; None: its head."""

    commit: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldProduction:
    """Nothing new goes to production, until somebody releases it."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseProduction:
    """Nobody's order holds production any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TryAnew:
    """A head is tried again, whatever failed before."""

    domain: Domain
    head: Head


Effect = Approve | StopPreview | RollBack | Redeploy | HoldProduction | ReleaseProduction


@dataclass(frozen=True, slots=True, kw_only=True)
class PullNow:
    """A pull request as the forge shows it now."""

    pull: PullRequest
    is_open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Lately:
    """How many commands of those who may not write came in `REFUSED_LATELY`."""

    of_author: int
    of_all: int


def parse_command(text: str) -> Command | None:
    """Return what a comment orders, None when it is talk."""
    match = _COMMAND.match(text.partition("\n")[0].rstrip("\r").rstrip(" \t"))
    if match is None:
        return None
    verb, argument = match[1], (match[2] or "")[:ARGUMENT_CHARS_MAX]
    if (verb, argument) == ("preview", "stop"):
        return Command(verb="stop")
    return Command(verb=_VERBS[verb], argument=argument)


def needs_pull(command: Command) -> bool:
    """Say whether the pull request must be looked at to judge this."""
    return command.verb in ("preview", "stop")


def is_answered(comment: Comment, permission: Permission, lately: Lately) -> bool:
    """Say whether the answer to a command is shown: by a reaction, and in our comment at the pull request.

    At an issue it is not: an App that may write at pull requests may not write there."""
    if not comment.is_on_pull:
        return False
    if permission in WRITERS:
        return True
    return lately.of_author < ANSWERED_OF_ONE_MAX and lately.of_all < ANSWERED_OF_ALL_MAX


def judge_command(
    command: Command,
    comment: Comment,
    permission: Permission,
    observed: Observed,
    *,
    pull: PullNow | None,
    forge_now: datetime,
    now: datetime,
) -> Effect:
    """Return what a command does; Refused when it may not, or makes no sense."""
    if not comment.is_on_pull:
        raise Refused("NoPullRequest", "commands are given at a pull request")
    needed = required_permission(command, observed)
    if PERMISSIONS.index(permission) < PERMISSIONS.index(needed):
        raise Refused("NotPermitted", f"{command.said} needs {needed} permission; {comment.author} has {permission}")
    if comment.updated_at > comment.created_at:
        raise Refused("CommentEdited", "a comment that was edited does not count, comment anew")
    match command.verb:
        case "preview":
            return _judge_preview(command, comment, observed, _open(pull))
        case "stop":
            return StopPreview(pull_request=_open(pull).pull.number)
        case "rollback" | "redeploy" | "hold" | "release":
            if command.verb != "hold" and forge_now > comment.created_at + ORDER_AGE_MAX:
                raise Refused("OrderTooOld", "it was given over an hour ago and found only now: give it again")
            return _judge_production(command, observed, now=now)
        case _:
            assert_never(command.verb)


def judge_rerun(
    rerun: Rerun, sha: Sha, permission: Permission, observed: Observed, *, told_at: datetime, now: datetime
) -> tuple[TryAnew, ...]:
    """Return what a click on Re-run at a check of this commit tries anew; Refused when it may not, or is of no head.

    Who may write may: it chooses no other commit than the one that is wanted already, and no hold ends."""
    if PERMISSIONS.index(permission) < PERMISSIONS.index("write"):
        raise Refused("NotPermitted", f"Re-run needs write permission; {rerun.login} has {permission}")
    if now > told_at + ORDER_AGE_MAX:
        raise Refused("OrderTooOld", "it was given over an hour ago and judged only now: click again")
    ordered = next((order for order in observed.overrides if order.slot == MAIN), None)
    wanted: list[tuple[str, Domain, Head | None]] = [
        (PRODUCTION_CONTEXT, PRODUCTION, observed.production_head if ordered is None else ordered.head),
        *((PREVIEW_CONTEXT, pull_request_domain(pull.number), pull.head) for pull in observed.pulls),
        *((PREVIEW_CONTEXT, queue_domain(entry.number), entry.head) for entry in observed.queue_entries),
    ]
    found = tuple(
        TryAnew(domain=domain, head=head)
        for context, domain, head in wanted
        if rerun.context in (context, EVERY_CONTEXT) and head is not None and head.sha == sha
    )
    if not found:
        raise Refused("NotTheHead", f"{sha[:12]} is not wanted now: Re-run at the newest commit")
    return found


def required_permission(command: Command, observed: Observed) -> Permission:
    """Return what its author must be allowed at the forge; Refused where nobody may."""
    if needs_pull(command):
        return "write"
    allowed = observed.policy.permissions.commands
    if allowed == "none":
        raise Refused("CommandsOff", "[permissions] commands lets nobody order production by a comment")
    return allowed


def _open(pull: PullNow | None) -> PullNow:
    if pull is None or not pull.is_open:
        raise Refused("PullClosed", "this pull request is not open")
    return pull


def _judge_preview(command: Command, comment: Comment, observed: Observed, now: PullNow) -> Approve:
    pull = now.pull
    short = pull.head_sha[:12]
    if command.argument:
        prefix = command.argument.lower()
        if not SHA_PREFIX.match(prefix):
            raise Refused("CommitUnclear", f"{command.argument!r:.60} is not a commit id: say 7 to 40 hex digits")
        if not pull.head_sha.startswith(prefix):
            raise Refused("NotTheHead", f"{prefix[:12]} is not the head, which is {short}")
    elif not pull.same_repository and approval_in_force(pull, observed.preview_orders) is None:
        message = f"a fork's commit is approved by its name; the head is this one: /preview {pull.head_sha}"
        raise Refused("CommitUnnamed", message)
    approve = Approve(
        pull_request=pull.number, sha=pull.head_sha, base_branch=pull.base_branch, is_fork=not pull.same_repository
    )
    # With the answer in force: is there a rule that objects still?
    known = next((p for p in observed.pulls if (p.number, p.head_sha) == (pull.number, pull.head_sha)), None)
    after = replace(pull, changed_paths=None if known is None else known.changed_paths)
    found = judge_admission(after, observed.policy, orders_after(approve, observed.preview_orders, comment))
    if not found.admits and not found.is_open:
        raise Refused("RuleObjects", f"{found.rule}: {found.why}")
    return approve


def orders_after(
    effect: Approve | StopPreview, orders: Sequence[PreviewOrder], comment: Comment
) -> tuple[PreviewOrder, ...]:
    """Return what counts of what people said, once this counts too."""
    others = tuple(order for order in orders if order.pull_request != effect.pull_request)
    kept = tuple(order for order in orders if order.pull_request == effect.pull_request and order.kind == "approval")
    match effect:
        case Approve(is_fork=True):
            approval = PreviewOrder(
                pull_request=effect.pull_request,
                kind="approval",
                sha=effect.sha,
                base_branch=effect.base_branch,
                actor=comment.author,
                comment_id=comment.id,
                at=comment.created_at,
            )
            return (*others, approval)
        case Approve():
            return (*others, *kept)
        case StopPreview():
            stop = PreviewOrder(
                pull_request=effect.pull_request,
                kind="stop",
                actor=comment.author,
                comment_id=comment.id,
                at=comment.created_at,
            )
            return (*others, *kept, stop)


def _judge_production(command: Command, observed: Observed, *, now: datetime) -> Effect:
    if command.verb == "hold":
        if not command.argument:
            raise Refused("ReasonMissing", "say why: /hold <reason>")
        return HoldProduction(reason=command.argument)
    if command.verb == "release":
        if not any(hold.slot == MAIN and (hold.until is None or now < hold.until) for hold in observed.holds):
            raise Refused("NotHeld", "nobody's order holds production; a freeze of the policy stays")
        return ReleaseProduction()
    freezes = observed.policy.production.freeze
    held = judge_held(observed.holds, freezes, slot=MAIN, fence=0, now=now)
    if held is not None:
        raise Refused(held.reason, f"production is {describe_held(held)}")
    if command.verb == "redeploy":
        return Redeploy(commit=command.argument or None)
    main = next((slot for slot in observed.slots if slot.slot == MAIN), None)
    leaving = leaving_of(None if main is None else main.live)
    chosen = choose_rollback(
        releases_of(observed),
        order_of_proof=order_of_proof(observed),
        leaving=leaving,
        wanted=command.argument or None,
    )
    return RollBack(release=parse_sha(chosen.release), leaving=leaving)


def answer(effect: Effect) -> str:
    """Say what a command did, in a few words."""
    match effect:
        case Approve():
            what = "approved" if effect.is_fork else "will be previewed"
            return f"{effect.sha[:7]} {what}"
        case StopPreview():
            return "the preview ends; /preview starts it again"
        case RollBack():
            return f"production goes back to {effect.release[:7]}"
        case Redeploy():
            return f"production serves {'its head' if effect.commit is None else effect.commit[:7]}, tried anew"
        case HoldProduction():
            return "production is held until /release"
        case ReleaseProduction():
            return "production is no longer held by anybody"
        case _:
            assert_never(effect)


def bound_to(effect: Effect) -> Sha | None:
    """Return the commit that a command is bound to."""
    match effect:
        case Approve():
            return effect.sha
        case RollBack():
            return effect.release
        case _:
            return None
