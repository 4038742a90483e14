"""What a comment orders: who may, bound to which commit, and what is refused with which reason."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from controller.decisions.commands import (
    ANSWERED_OF_ALL_MAX,
    ANSWERED_OF_ONE_MAX,
    Approve,
    Command,
    Effect,
    HoldProduction,
    Lately,
    PullNow,
    Redeploy,
    ReleaseProduction,
    RollBack,
    StopPreview,
    is_answered,
    judge_command,
    judge_rerun,
    orders_after,
    parse_command,
)
from controller.model.config import Permissions, Policy, Previews
from controller.model.errors import Refused
from controller.model.names import MAIN
from controller.model.nouns import Comment, Head, HoldOrder, Override, Permission, Rerun, read_rerun
from controller.model.world import Observed
from tests.builders import approval, at, head, observed, proven, pull, release, run, serving, sha, stop_preview

FORK = replace(pull(2, same_repository=False), base_branch="main")
OURS = replace(pull(1), base_branch="main")
FORKS = Policy(permissions=Permissions(accept_fork_risk=True))
OPS = Policy(permissions=Permissions(commands="maintain"))
NAMED = f"/preview {FORK.head_sha}"
SHOWN = PullNow(pull=FORK, is_open=True)
WORLD = replace(observed(pulls=(FORK, OURS)), policy=FORKS)


def comment(text: str = "/preview", **change: Any) -> Comment:
    made = Comment(
        id=77,
        pull_request=2,
        is_on_pull=True,
        author="bob",
        is_person=True,
        text=text,
        created_at=at(0),
        updated_at=at(0),
    )
    return replace(made, **change)


def judge(
    said: str | Comment,
    *,
    permission: Permission = "write",
    world: Observed = WORLD,
    pull_now: PullNow | None = SHOWN,
    later_s: float = 1,
) -> Effect:
    made = comment(said) if isinstance(said, str) else said
    command = parse_command(made.text)
    assert command is not None
    return judge_command(command, made, permission, world, pull=pull_now, forge_now=at(later_s), now=at(later_s))


def reason(said: str | Comment, **more: Any) -> str:
    with pytest.raises(Refused) as caught:
        judge(said, **more)
    return caught.value.reason


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("/preview", Command(verb="preview")),
        ("/preview  \r\nplease", Command(verb="preview")),
        ("/preview stop", Command(verb="stop")),
        ("/preview abcdef1", Command(verb="preview", argument="abcdef1")),
        ("/rollback", Command(verb="rollback")),
        ("/rollback 1234567 ", Command(verb="rollback", argument="1234567")),
        ("/redeploy", Command(verb="redeploy")),
        ("please /preview", None),
        (" /preview", None),
        ("> /preview", None),
        ("\n/preview", None),
        ("/previews", None),
        ("/PREVIEW", None),
        ("/lgtm", None),
        ("", None),
    ],
)
def test_a_command_is_the_first_line_and_nothing_else(text: str, command: Command | None) -> None:
    assert parse_command(text) == command


def test_a_bare_preview_of_a_fork_approves_nothing_and_is_told_what_to_write() -> None:
    with pytest.raises(Refused, match=f"/preview {FORK.head_sha}$") as caught:
        judge("/preview")
    assert caught.value.reason == "CommitUnnamed"
    stopped = replace(WORLD, preview_orders=(approval(replace(FORK, head_sha=sha(1))), stop_preview(2)))
    assert reason("/preview", world=stopped) == "CommitUnnamed"


def test_a_bare_preview_of_a_commit_that_is_approved_tries_it_anew() -> None:
    world = replace(WORLD, preview_orders=(approval(FORK), stop_preview(2)))
    assert judge("/preview", world=world) == judge(NAMED)


def test_with_the_commit_it_is_bound_to_that_one_only_and_only_while_it_is_the_head() -> None:
    bound = Approve(pull_request=2, sha=FORK.head_sha, base_branch="main", is_fork=True)
    for named in (FORK.head_sha, FORK.head_sha[:7], FORK.head_sha.upper()):
        assert judge(f"/preview {named}") == bound
    assert reason(f"/preview {sha(999)}") == "NotTheHead"
    assert reason("/preview main") == "CommitUnclear"
    assert reason("/preview 000000") == "CommitUnclear"


@pytest.mark.parametrize("permission", ["none", "read", "triage"])
@pytest.mark.parametrize("text", ["/preview", "/preview stop"])
def test_who_may_not_write_is_refused(permission: Permission, text: str) -> None:
    assert reason(text, permission=permission) == "NotPermitted"


def test_a_comment_that_was_edited_or_stands_at_an_issue_does_not_count() -> None:
    assert reason(comment(updated_at=at(1))) == "CommentEdited"
    assert reason(comment(is_on_pull=False)) == "NoPullRequest"


@pytest.mark.parametrize("text", ["/preview", "/rollback"])
def test_what_those_who_may_not_write_have_us_say_is_bounded_for_each_and_for_all(text: str) -> None:
    made, few = comment(text), Lately(of_author=ANSWERED_OF_ONE_MAX - 1, of_all=ANSWERED_OF_ALL_MAX - 1)
    for permission in ("none", "read", "triage"):
        assert is_answered(made, permission, few)
        assert not is_answered(made, permission, replace(few, of_author=ANSWERED_OF_ONE_MAX))
        assert not is_answered(made, permission, replace(few, of_all=ANSWERED_OF_ALL_MAX))
    many = Lately(of_author=100, of_all=100)
    assert all(is_answered(made, permission, many) for permission in ("write", "maintain", "admin"))


def test_nothing_is_said_at_an_issue() -> None:
    assert not is_answered(comment(is_on_pull=False), "admin", Lately(of_author=0, of_all=0))


def test_a_closed_or_unknown_pull_request_has_no_preview() -> None:
    assert reason(NAMED, pull_now=replace(SHOWN, is_open=False)) == "PullClosed"
    assert reason("/preview stop", pull_now=None) == "PullClosed"


def test_what_the_policy_forbids_is_refused_with_the_rule() -> None:
    for policy, rule in (
        (Policy(), "permissions.accept_fork_risk"),
        (replace(FORKS, permissions=Permissions(forks="never", accept_fork_risk=True)), "permissions.forks"),
        (replace(FORKS, previews=Previews(exclude_authors=("ann",))), "previews.exclude_authors"),
    ):
        with pytest.raises(Refused, match=rule) as caught:
            judge(NAMED, world=replace(WORLD, policy=policy))
        assert caught.value.reason == "RuleObjects"


def test_a_preview_of_our_own_needs_no_approval_and_ends_a_stop() -> None:
    now = PullNow(pull=OURS, is_open=True)
    world = replace(WORLD, preview_orders=(stop_preview(1), stop_preview(3)))
    effect = judge(comment(pull_request=1), world=world, pull_now=now)
    assert effect == Approve(pull_request=1, sha=OURS.head_sha, base_branch="main", is_fork=False)
    assert orders_after(effect, world.preview_orders, comment()) == (stop_preview(3),)


def test_a_stop_keeps_the_approval_and_a_new_approval_replaces_the_old_one() -> None:
    old = approval(replace(FORK, head_sha=sha(1)))
    stop = judge("/preview stop")
    assert stop == StopPreview(pull_request=2)
    assert isinstance(stop, StopPreview)
    assert [order.kind for order in orders_after(stop, (old,), comment())] == ["approval", "stop"]
    approve = judge(NAMED)
    assert isinstance(approve, Approve)
    (after,) = orders_after(approve, (old, stop_preview(2)), comment())
    assert (after.kind, after.sha, after.actor, after.comment_id) == ("approval", FORK.head_sha, "bob", 77)


class TestProduction:
    WORLD = replace(
        observed(
            serving(run(9, 3)),
            releases=(release(1), release(2), release(3)),
            proven=(proven(1, generation=5), proven(2, generation=7), proven(3, generation=9)),
        ),
        policy=OPS,
    )

    def test_by_default_nobody_orders_production_by_a_comment(self) -> None:
        assert reason("/rollback", permission="admin") == "CommandsOff"

    @pytest.mark.parametrize(
        ("permission", "allowed"), [("write", False), ("maintain", True), ("admin", True), ("none", False)]
    )
    def test_the_policy_says_who_may(self, permission: Permission, *, allowed: bool) -> None:
        if allowed:
            assert isinstance(judge("/rollback", permission=permission, world=self.WORLD, pull_now=None), RollBack)
        else:
            assert reason("/rollback", permission=permission, world=self.WORLD) == "NotPermitted"

    def test_a_rollback_goes_where_the_command_line_would_go(self) -> None:
        live = self.WORLD.slots[0].live
        assert live is not None
        bare = judge("/rollback", permission="admin", world=self.WORLD)
        assert bare == RollBack(release=sha(2), leaving=live)
        named = judge(f"/rollback {sha(1)[:8]}", permission="admin", world=self.WORLD)
        assert named == RollBack(release=sha(1), leaving=live)
        assert reason(f"/rollback {sha(3)[:8]}", permission="admin", world=self.WORLD) == "LiveAlready"
        assert reason("/rollback", permission="admin", world=replace(WORLD, policy=OPS)) == "NothingServes"

    def test_an_order_that_is_found_late_was_meant_for_another_time(self) -> None:
        late_s = timedelta(hours=2).total_seconds()
        assert reason("/rollback", permission="admin", world=self.WORLD, later_s=late_s) == "OrderTooOld"
        assert judge(NAMED, later_s=late_s) == judge(NAMED)

    def test_a_redeploy_is_of_the_head_or_of_a_named_commit(self) -> None:
        assert judge("/redeploy", permission="admin", world=self.WORLD) == Redeploy(commit=None)
        assert judge("/redeploy abcdef1", permission="admin", world=self.WORLD) == Redeploy(commit="abcdef1")

    def test_a_hold_says_why_and_refuses_orders_until_it_is_released(self) -> None:
        assert reason("/hold", permission="admin", world=self.WORLD) == "ReasonMissing"
        assert judge("/hold the fair", permission="admin", world=self.WORLD) == HoldProduction(reason="the fair")
        assert reason("/release", permission="admin", world=self.WORLD) == "NotHeld"
        order = HoldOrder(id=1, slot=MAIN, fence=0, until=None, actor="ann", reason="the fair", at=at(0))
        held = replace(self.WORLD, holds=(order,))
        assert reason("/rollback", permission="admin", world=held) == "HeldByHand"
        assert reason("/redeploy", permission="admin", world=held) == "HeldByHand"
        assert judge("/release", permission="admin", world=held) == ReleaseProduction()
        late_s = timedelta(hours=2).total_seconds()
        assert reason("/release", permission="admin", world=held, later_s=late_s) == "OrderTooOld"
        assert judge("/hold x", permission="admin", world=held, later_s=late_s) == HoldProduction(reason="x")


class TestRerun:
    """A click on Re-run at a check."""

    WORLD = replace(observed(at_head=head(9), pulls=(FORK, OURS)), policy=FORKS)

    def judge(
        self,
        context: str,
        of: Head | None,
        *,
        permission: Permission = "write",
        world: Observed = WORLD,
        later_s: float = 1,
    ) -> list[tuple[str, str]]:
        assert of is not None
        rerun = Rerun(context=context, login="bob")
        assert read_rerun(rerun.target) == rerun
        found = judge_rerun(rerun, of.sha, permission, world, told_at=at(0), now=at(later_s))
        return [(one.domain, one.head.sha) for one in found]

    def test_it_tries_the_head_of_its_context_and_no_other(self) -> None:
        assert self.judge("oroboros/production", head(9)) == [("production", sha(9))]
        assert self.judge("oroboros/preview", OURS.head) == [("pr-1", OURS.head_sha)]
        assert self.judge("*", OURS.head) == [("pr-1", OURS.head_sha)]
        both = replace(self.WORLD, pulls=(replace(OURS, head=head(9), head_sha=sha(9)),))
        assert self.judge("*", head(9), world=both) == [("production", sha(9)), ("pr-1", sha(9))]

    @pytest.mark.parametrize(
        ("context", "of"),
        [
            ("oroboros/production", head(8)),
            ("oroboros/preview", head(9)),
            ("*", head(8)),
            ("oroboros/production", OURS.head),
        ],
    )
    def test_a_commit_that_is_no_head_is_not_tried(self, context: str, of: Head) -> None:
        with pytest.raises(Refused) as caught:
            self.judge(context, of)
        assert caught.value.reason == "NotTheHead"

    @pytest.mark.parametrize("permission", ["none", "read", "triage"])
    def test_who_may_not_write_may_not(self, permission: Permission) -> None:
        with pytest.raises(Refused) as caught:
            self.judge("*", head(9), permission=permission)
        assert caught.value.reason == "NotPermitted"

    def test_one_that_is_found_late_was_meant_for_another_time(self) -> None:
        with pytest.raises(Refused) as caught:
            self.judge("*", head(9), later_s=timedelta(hours=2).total_seconds())
        assert caught.value.reason == "OrderTooOld"

    def test_it_does_not_undo_what_was_ordered_by_hand(self) -> None:
        order = Override(
            id=1,
            slot=MAIN,
            kind="rollback",
            head=head(3),
            ordered_at_head=sha(9),
            accept_migrations=False,
            actor="ann",
            reason="",
            at=at(0),
        )
        world = replace(self.WORLD, overrides=(order,))
        with pytest.raises(Refused) as caught:
            self.judge("oroboros/production", head(9), world=world)
        assert caught.value.reason == "NotTheHead"
        assert self.judge("oroboros/production", head(3), world=world) == [("production", sha(3))]
