"""May this pull request have a preview, and which rule says so? The first rule that objects decides.

Asked again at every tick, so that a label that is taken away, a draft that is ready or another base branch takes effect
without an event of its own. Rules, in order:
1. Previews are switched on.
2. A fork's code runs only where the policy accepts its risk, at exactly the commit that somebody who may write
   approved, towards the branch that it was approved for. A fork that is gone is a fork.
3. git has taken its objects.
4. Nobody who may write has stopped this preview.
5. The filters of `[previews]`: who is excluded is not let in by an inclusion. Paths are judged once they are known.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from controller.model.config import Policy
from controller.model.names import Sha
from controller.model.nouns import PreviewOrder, PullRequest
from controller.model.world import Observed

#: The rule that admits: no other objected.
NO_OBJECTION = "no rule objects"
APPROVAL = "approval"
NEEDS_APPROVAL = "needs approval: a fork's code does not run by itself"
#: What remains when an approved fork's code runs, said wherever that is switched on.
RESIDUAL_RISK = (
    "an approved fork's code is built and runs on this host: inside a preview's walls and without production's secrets,"
    " but with its processor time, memory and network, and beside the production of the same kernel"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What the rules say of one pull request."""

    admits: bool
    #: The key of the policy, or the word of a person, that decided.
    rule: str
    #: In words; "" when it is admitted.
    why: str = ""
    #: It may be fetched, but what decides is not known yet: no lease begins, and none ends.
    is_open: bool = False


def judge_admission(pull: PullRequest, policy: Policy, orders: Sequence[PreviewOrder]) -> Admission:
    """Return whether this pull request may have a preview, and the rule that decides."""
    if not policy.previews.enabled:
        return _refuse("previews.enabled", "previews are switched off")
    approved = approval_in_force(pull, orders)
    if not pull.same_repository:
        if policy.permissions.forks == "never":
            return _refuse("permissions.forks", "it comes from a fork, and forks never preview here")
        if not policy.permissions.accept_fork_risk or approved is None:
            rule = APPROVAL if policy.permissions.accept_fork_risk else "permissions.accept_fork_risk"
            return _refuse(rule, NEEDS_APPROVAL)
    if pull.refused_reason:
        return _refuse(pull.refused_reason, pull.refused_message)
    stop = next((o for o in orders if (o.kind, o.pull_request) == ("stop", pull.number)), None)
    if stop is not None:
        return _refuse("/preview stop", f"stopped by {stop.actor} with a comment; comment /preview to start it again")
    filtered = _judge_filters(pull, policy)
    if filtered is not None:
        return filtered
    if approved is not None:
        return Admission(admits=True, rule=f"{APPROVAL} of {pull.head_sha[:7]} by {approved.actor}")
    return Admission(admits=True, rule=NO_OBJECTION)


def admission(pull: PullRequest, observed: Observed) -> Admission:
    """Return what the rules say of a pull request as it was observed."""
    return judge_admission(pull, observed.policy, observed.preview_orders)


def approval_in_force(pull: PullRequest, orders: Sequence[PreviewOrder]) -> PreviewOrder | None:
    """Return the approval that counts for what the pull request is now: this commit, towards this branch."""
    return next(
        (
            order
            for order in orders
            if order.kind == "approval"
            and (order.pull_request, order.sha, order.base_branch) == (pull.number, pull.head_sha, pull.base_branch)
        ),
        None,
    )


def forks_to_fetch(
    pulls: Iterable[PullRequest], policy: Policy, orders: Sequence[PreviewOrder]
) -> tuple[tuple[int, Sha], ...]:
    """Return number and commit of each fork's pull request that may be fetched: exactly what was approved."""
    found: list[tuple[int, Sha]] = []
    for pull in pulls:
        approved = approval_in_force(pull, orders)
        may_run = policy.previews.enabled and policy.permissions.forks == "approval"
        if not pull.same_repository and approved is not None and may_run and policy.permissions.accept_fork_risk:
            found.append((pull.number, pull.head_sha))
    return tuple(found)


def _refuse(rule: str, why: str) -> Admission:
    return Admission(admits=False, rule=rule, why=why)


def _judge_filters(pull: PullRequest, policy: Policy) -> Admission | None:
    """Return the objection of the first filter that has one."""
    rules = policy.previews
    if pull.is_draft and not rules.drafts:
        return _refuse("previews.drafts", "it is a draft")
    if pull.author_is_bot and not rules.bots:
        return _refuse("previews.bots", f"{pull.author} is a bot")
    author = pull.author.lower()
    if author in _lower(rules.exclude_authors):
        return _refuse("previews.exclude_authors", f"author {pull.author}")
    if rules.authors and author not in _lower(rules.authors):
        return _refuse("previews.authors", f"author {pull.author} is not among those who preview")
    labels = _lower(pull.labels)
    for label in rules.exclude_labels:
        if label.lower() in labels:
            return _refuse("previews.exclude_labels", f"label {label}")
    if rules.labels and labels.isdisjoint(_lower(rules.labels)):
        return _refuse("previews.labels", f"it has no label {' or '.join(rules.labels)}")
    return _judge_base(pull, policy) or _judge_paths(pull, policy)


def _judge_base(pull: PullRequest, policy: Policy) -> Admission | None:
    rules = policy.previews
    if not rules.base_branches and not rules.exclude_base_branches:
        return None
    if not pull.base_branch:
        return Admission(
            admits=False, rule="previews.base_branches", why="its base branch is not known yet", is_open=True
        )
    if any(is_match(pattern, pull.base_branch) for pattern in rules.exclude_base_branches):
        return _refuse("previews.exclude_base_branches", f"base branch {pull.base_branch}")
    if rules.base_branches and not any(is_match(pattern, pull.base_branch) for pattern in rules.base_branches):
        return _refuse("previews.base_branches", f"base branch {pull.base_branch} is not one that previews")
    return None


def _judge_paths(pull: PullRequest, policy: Policy) -> Admission | None:
    """At least one changed path must be included and not excluded."""
    rules = policy.previews
    if not asks_for_paths(policy):
        return None
    if pull.changed_paths is None:
        return Admission(admits=False, rule="previews.paths", why="what it changes is not known yet", is_open=True)
    included = _included(pull.changed_paths, rules.paths, rules.exclude_paths)
    if included == "none":
        return _refuse("previews.paths", f"it changes nothing under {', '.join(rules.paths) or 'any path'}")
    if included == "excluded":
        return _refuse("previews.exclude_paths", f"it changes nothing but {', '.join(rules.exclude_paths)}")
    return None


@functools.lru_cache(maxsize=1_024)  # every tick asks for each pull request, and each may change thousands of paths
def _included(
    changed: tuple[str, ...], paths: tuple[str, ...], exclude_paths: tuple[str, ...]
) -> Literal["some", "none", "excluded"]:
    """Return whether a path is changed that is included and not excluded, and if not, what is missing."""
    included = [path for path in changed if not paths or any(is_match(glob, path) for glob in paths)]
    if not included:
        return "none"
    if all(any(is_match(glob, path) for glob in exclude_paths) for path in included):
        return "excluded"
    return "some"


def asks_for_paths(policy: Policy) -> bool:
    """Say whether the policy cares which paths change."""
    return bool(policy.previews.paths or policy.previews.exclude_paths)


def _lower(names: Iterable[str]) -> set[str]:
    return {name.lower() for name in names}


def is_match(pattern: str, path: str) -> bool:
    """Say whether a path matches a pattern: `*` and `?` stay within one name, `**` is any number of folders."""
    return _match(pattern.split("/"), path.split("/"), many="**", one=_is_name_match)


def _is_name_match(pattern: str, name: str) -> bool:
    return _match(list(pattern), list(name), many="*", one=lambda want, char: want in ("?", char))


def _match(pattern: list[str], text: list[str], *, many: str, one: Callable[[str, str], bool]) -> bool:
    """Match with one kind of wildcard that stands for any number, in time of length times length."""
    at = in_text = 0
    star, resume = -1, 0
    while in_text < len(text):
        if at < len(pattern) and pattern[at] == many:
            star, resume = at, in_text
            at += 1
        elif at < len(pattern) and one(pattern[at], text[in_text]):
            at, in_text = at + 1, in_text + 1
        elif star >= 0:
            at, resume = star + 1, resume + 1
            in_text = resume
        else:
            return False
    return all(part == many for part in pattern[at:])
