"""What did people order in comments, and what do we answer? Reads what was said, judges it, writes what follows.

Runs in a thread beside the ticks. Deliveries only say that there may be something to read, so one that is lost loses no
command. Each comment is answered once: effect, answer, reaction and audit are one transaction. Comments are read in the
order in which they last changed, from where the last reading ended, so that a change between two pages hides none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import assert_never

from controller.decisions.commands import (
    REFUSED_LATELY,
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
    TryAnew,
    answer,
    bound_to,
    is_answered,
    judge_command,
    judge_rerun,
    needs_pull,
    orders_after,
    parse_command,
)
from controller.decisions.orders import refuse_other_migrations
from controller.effects.github_http import Forge
from controller.effects.mirror import Mirror
from controller.effects.store import PendingDelivery, Store
from controller.failpoints import failpoint
from controller.loop.orders import ProductionOrder, write_order
from controller.model.errors import Refused
from controller.model.names import MAIN, Sha, parse_sha, pull_request_domain
from controller.model.nouns import WRITERS, CommandAnswer, Comment, Head, Permission, read_rerun
from controller.model.reports import WantedReaction
from controller.model.world import Observed

#: What is left is read by the next look.
PAGES_MAX = 50
MESSAGE_CHARS_MAX = 500

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Answering:
    """What one worker needs to answer."""

    forge: Forge
    store: Store
    open_mirror: Callable[[], Mirror]
    clock: Callable[[], datetime]
    wake_reports: Callable[[], None]
    _permissions: dict[str, Permission] = field(default_factory=dict)

    def read(self, observed: Observed) -> None:
        """Judge every click on Re-run, read what was said since the last time, and answer every command. Safe to
        repeat."""
        began_at, since, page = self.clock(), self.store.load_comments_since(), 1
        # Rights may change at any time: nothing is remembered from one reading to the next.
        self._permissions.clear()
        for delivery in self.store.load_reruns():
            self._rerun(delivery, observed)
        for _ in range(PAGES_MAX):
            said = self.forge.said(since=since, page=page)
            self._answer_all(said.comments, observed, forge_now=said.told_at or began_at)
            newest = max((comment.updated_at for comment in said.comments), default=since)
            is_last = said.next_page is None
            failpoint("answer.before_cursor")
            self.store.record_comments_read(since=newest, began_at=began_at if is_last else None)
            if is_last:
                return
            since, page = (newest, 1) if newest > since else (since, page + 1)

    def _rerun(self, delivery: PendingDelivery, observed: Observed) -> None:
        """Judge one click on Re-run; what follows, the audit and the end of the delivery are one transaction."""
        rerun, now, reason, message = read_rerun(delivery.target), self.clock(), "", ""
        permission = self._permission_of(rerun.login)
        found: tuple[TryAnew, ...] = ()
        try:
            sha = parse_sha(delivery.sha or "")
            found = judge_rerun(rerun, sha, permission, observed, told_at=delivery.received_at, now=now)
        except Refused as error:
            reason, message = error.reason, error.message
        with self.store.together():
            for one in found:
                self.store.try_anew(domain=one.domain, head=one.head, actor=rerun.login, now=now)
            self.store.record_rerun(
                delivery, actor=rerun.login, permission=permission, reason=reason, message=message, now=now
            )
        log.info(
            "answer: Re-run of %s by %s: %s", delivery.sha, rerun.login, f"{reason}: {message}" if reason else "done",
            extra={"action": "check.rerun"},
        )  # fmt: skip

    def _answer_all(self, comments: tuple[Comment, ...], observed: Observed, *, forge_now: datetime) -> None:
        commands = [(comment, parse_command(comment.text)) for comment in comments if comment.is_person]
        asked = [(comment, command) for comment, command in commands if command is not None]
        answered = self.store.load_answered([comment.id for comment, _ in asked]) if asked else frozenset()
        for comment, command in asked:
            if comment.id not in answered:
                self._answer(comment, command, observed, forge_now=forge_now)

    def _answer(self, comment: Comment, command: Command, observed: Observed, *, forge_now: datetime) -> None:
        permission = self._permission_of(comment.author)
        # What the comment before this one ordered counts already.
        orders, holds = self.store.load_preview_orders(), self.store.load_holds()
        observed = replace(observed, preview_orders=orders, holds=holds)
        try:
            pull = self._pull_now(comment, permission) if needs_pull(command) else None
            now = self.clock()
            effect = judge_command(command, comment, permission, observed, pull=pull, forge_now=forge_now, now=now)
            head = self._head_for(effect, observed)
            if head is not None:
                at = next((slot.database_migration_head for slot in observed.slots if slot.slot == MAIN), None)
                refuse_other_migrations(head, observed.proven, database_at=at)
        except Refused as error:
            said = self._said(comment, command, permission, state="refused", reason=error.reason, message=error.message)
            with self.store.together():
                self._record(said, command, comment, observed)
        else:
            said = self._said(comment, command, permission, state="done", message=answer(effect), sha=bound_to(effect))
            failpoint("answer.before_write")
            with self.store.together():
                self._carry_out(effect, comment, observed, head)
                self._record(said, command, comment, observed)
            failpoint("answer.after_write")
        log.info(
            "answer: %s by %s at #%d: %s: %s", said.said, said.author, said.pull_request, said.state, said.message,
            extra={"action": "comment.answered"},
        )  # fmt: skip
        self.wake_reports()

    def _permission_of(self, login: str) -> Permission:
        if login not in self._permissions:
            self._permissions[login] = self.forge.permission(login)
        return self._permissions[login]

    def _pull_now(self, comment: Comment, permission: Permission) -> PullNow | None:
        """Look at the pull request, on behalf of somebody who may order at least something."""
        if permission not in WRITERS:
            return None
        found = self.forge.pull(comment.pull_request)
        if found is None:
            return None
        pull, is_open = found
        return PullNow(pull=pull, is_open=is_open)

    def _head_for(self, effect: Effect, observed: Observed) -> Head | None:
        """Return the commit that an order about production means; Refused when it is not there, or serves."""
        match effect:
            case RollBack():
                head = self.open_mirror().head(effect.release)
                if head is None:
                    message = f"the repository no longer holds {effect.release}: it cannot be verified any more"
                    raise Refused("CommitGone", message)
                return head
            case Redeploy():
                mirror = self.open_mirror()
                head = mirror.production_head() if effect.commit is None else mirror.find_on_production(effect.commit)
                if head is None:
                    raise Refused("NothingFetched", "the production branch was not fetched yet")
                main = next((slot for slot in observed.slots if slot.slot == MAIN), None)
                if main is not None and main.run is None and main.live is not None and main.live.tree == head.tree:
                    raise Refused("LiveAlready", f"{head.sha[:7]} is what production serves")
                return head
            case _:
                return None

    def _carry_out(self, effect: Effect, comment: Comment, observed: Observed, head: Head | None) -> None:
        now, actor = self.clock(), f"{comment.author} at #{comment.pull_request}"
        match effect:
            case Approve() | StopPreview():
                self._order_preview(effect, comment, observed, now=now)
            case RollBack() | Redeploy():
                assert head is not None
                leaving = effect.leaving if isinstance(effect, RollBack) else None
                write_order(
                    self.store,
                    ProductionOrder(
                        kind="deploy" if leaving is None else "rollback",
                        head=head,
                        leaving=leaving,
                        accept_migrations=False,
                        reason=f"comment {comment.id}",
                    ),
                    production=observed.production_head,
                    actor=actor,
                    now=now,
                )
            case HoldProduction():
                self.store.record_hold(
                    slot=MAIN, fence=0, until=None, actor=comment.author, reason=effect.reason, now=now
                )
            case ReleaseProduction():
                self.store.end_holds(MAIN, actor=comment.author, now=now)
            case _:
                assert_never(effect)

    def _order_preview(
        self, effect: Approve | StopPreview, comment: Comment, observed: Observed, *, now: datetime
    ) -> None:
        number = effect.pull_request
        after = orders_after(effect, observed.preview_orders, comment)
        order = next((o for o in after if o.comment_id == comment.id), None)
        if order is None:
            self.store.end_preview_orders(number, ("stop",), actor=comment.author, now=now)
        else:
            ends = ("approval", "stop") if order.kind == "approval" else ("stop",)
            self.store.record_preview_order(order, ends=ends, now=now)
        if isinstance(effect, Approve):
            head = self.open_mirror().pull_head(number)
            if head is not None and head.sha == effect.sha:
                self.store.try_anew(domain=pull_request_domain(number), head=head, actor=comment.author, now=now)
            # An approved commit is yet to be fetched.
            self.store.ask_for_look(now=now)

    def _said(
        self,
        comment: Comment,
        command: Command,
        permission: Permission,
        *,
        state: str,
        reason: str = "",
        message: str,
        sha: Sha | None = None,
    ) -> CommandAnswer:
        return CommandAnswer(
            pull_request=comment.pull_request,
            comment_id=comment.id,
            author=comment.author,
            permission=permission,
            said=command.said,
            state="done" if state == "done" else "refused",
            reason=reason,
            message=message[:MESSAGE_CHARS_MAX],
            sha=sha,
            commented_at=comment.created_at,
            decided_at=self.clock(),
        )

    def _record(self, said: CommandAnswer, command: Command, comment: Comment, observed: Observed) -> None:
        if said.permission in WRITERS:
            lately = Lately(of_author=0, of_all=0)
        else:
            since = said.decided_at - REFUSED_LATELY
            lately = self.store.count_of_strangers(said.author, since=since)
        is_shown = is_answered(comment, said.permission, lately)
        self.store.record_command(said, verb=command.verb, argument=command.argument, is_shown=is_shown)
        if not is_shown:
            return
        if said.pull_request not in {pull.number for pull in observed.pulls}:
            # Only a listing from now on says that it is closed, which is what our comment there is to say.
            self.store.ask_for_look(now=said.decided_at)
        reaction = WantedReaction(
            comment_id=said.comment_id,
            pull_request=said.pull_request,
            content="+1" if said.state == "done" else "-1",
        )
        self.store.record_tick([reaction], done=(), now=said.decided_at)
