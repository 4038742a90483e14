"""Does only what may run ever run, whatever is pushed, labelled, said and lost, and does the truth win in the end?

The world is that of `tests/world.py`, with people in it: forks, labels, drafts, base branches, and comments of some who
may write and some who may not. Deliveries are only hints here too: of a pull request to list, of a comment to read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from hypothesis import assume, given
from hypothesis import strategies as st

from controller.decisions.admission import forks_to_fetch, judge_admission
from controller.decisions.commands import (
    Approve,
    PullNow,
    StopPreview,
    judge_command,
    orders_after,
    parse_command,
)
from controller.model.config import Permissions, Policy, Previews
from controller.model.errors import Refused
from controller.model.names import Sha
from controller.model.nouns import Comment, Permission, PreviewOrder, PullRequest
from controller.model.states import StatusState
from controller.model.steps import BeginRun, Step
from controller.model.world import Observed
from tests.builders import sha
from tests.property.strategies import commit_sets
from tests.world import Broken, Commit, FakeHost, live_content, previews_served

OWN, FORKS = (1, 2), (3, 4)
NEXT_BASE = {"main": "next", "next": "old", "old": "main"}
POLICY = Policy(
    previews=Previews(slots=4, exclude_labels=("no-preview",), drafts=False, exclude_base_branches=("old",)),
    permissions=Permissions(accept_fork_risk=True),
)


class PeopledHost(FakeHost):
    """A host whose forge has people."""

    def __init__(self, *, commits: tuple[Commit, ...]) -> None:
        super().__init__(previews=4, commits=commits, lease_ttl_s=1e9)
        self.policy = POLICY
        self.orders_of_previews: tuple[PreviewOrder, ...] = ()
        #: What some writer's comment may be taken to have approved, by the forge's own record.
        self.allowed: set[tuple[int, Sha]] = set()
        self.shown: dict[int, tuple[Sha, datetime]] = {}
        self.unread: list[tuple[Comment, Permission]] = []
        self.said = 0

    # What happens outside.

    def push_to(self, number: int, commit: int) -> None:
        """Open a pull request, or push to it."""
        known = self.open_pulls.get(number)
        self.open_pull(number, commit, same_repository=number in OWN)
        fresh = replace(self.open_pulls[number], base_branch="main")
        kept = known and {"labels": known.labels, "is_draft": known.is_draft, "base_branch": known.base_branch}
        self.open_pulls[number] = replace(fresh, **kept) if kept else fresh

    def change(self, number: int, change: Callable[[PullRequest], PullRequest]) -> None:
        if number in self.open_pulls:
            self.open_pulls[number] = change(self.open_pulls[number])

    def say(self, number: int, text: str, *, permission: Permission, means: Sha | None) -> None:
        """Comment; `means` is the commit that its author has in mind."""
        self.said += 1
        comment = Comment(
            id=self.said,
            pull_request=number,
            is_on_pull=True,
            author=permission,
            is_person=True,
            text=text,
            created_at=self.forge_clock(),
            updated_at=self.forge_clock(),
        )
        self.unread.append((comment, permission))
        if permission == "write" and means is not None:
            self.allowed.add((number, means))

    def forge_clock(self) -> datetime:
        """Return the forge's time, which is coarser than what happens."""
        return self.now - timedelta(seconds=self.now.second % 3, microseconds=self.now.microsecond)

    def deliver_pull(self, number: int) -> None:
        super().deliver_pull(number)
        self._note_listing()

    def resync(self) -> None:
        super().resync()
        self._note_listing()
        self.read()

    def read(self) -> None:
        """Read what was said, as a delivery or the resync has us do."""
        for comment, permission in self.unread:
            command = parse_command(comment.text)
            if command is None:
                continue
            pull = self.open_pulls.get(comment.pull_request)
            seen = self.shown.get(comment.pull_request)
            shown_at = seen[1] if seen is not None and pull is not None and seen[0] == pull.head_sha else None
            now = None if pull is None else PullNow(pull=pull, is_open=True, shown_at=shown_at)
            try:
                effect = judge_command(
                    command, comment, permission, self.observe(), pull=now, forge_now=self.now, now=self.now
                )
            except Refused:
                continue
            assert isinstance(effect, Approve | StopPreview)
            self.orders_of_previews = orders_after(effect, self.orders_of_previews, comment)
        self.unread.clear()

    def _note_listing(self) -> None:
        assert self.listed is not None
        for number, pull in self.listed.items():
            if number not in self.shown or self.shown[number][0] != pull.head_sha:
                self.shown[number] = (pull.head_sha, self.forge_clock())
        self.shown = {number: seen for number, seen in self.shown.items() if number in self.listed}
        self.orders_of_previews = tuple(o for o in self.orders_of_previews if self._still_counts(o))

    def _still_counts(self, order: PreviewOrder) -> bool:
        pull = (self.listed or {}).get(order.pull_request)
        if pull is None:
            return False
        return order.kind == "stop" or (order.sha, order.base_branch) == (pull.head_sha, pull.base_branch)

    # What can be seen, and what may be done.

    def observe(self) -> Observed:
        seen = super().observe()
        fetched = {number for number, _ in forks_to_fetch(seen.pulls, self.policy, self.orders_of_previews)}
        pulls = tuple(
            replace(p, head=self.commits[p.head_sha].head) if p.same_repository or p.number in fetched else p
            for p in seen.pulls
        )
        return replace(seen, pulls=pulls, preview_orders=self.orders_of_previews)

    def apply(self, step: Step) -> None:
        if isinstance(step, BeginRun) and step.domain.startswith("pr-"):
            number = int(step.domain.removeprefix("pr-"))
            if number in FORKS and (number, step.head.sha) not in self.allowed:
                raise Broken(f"a stranger's commit runs that nobody approved: {step}")
        super().apply(step)


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that people do; `told`: its delivery comes."""

    kind: str
    pull: int
    commit: int
    told: bool
    wait: int


KINDS = ("main", "push", "push", "push", "label", "draft", "base", "close", "bare", "bare", "named", "stop", "reader")
happenings = st.lists(
    st.builds(
        Happening,
        kind=st.sampled_from(KINDS),
        pull=st.sampled_from((*OWN, *FORKS, *FORKS)),
        commit=st.integers(1, 8),
        told=st.booleans(),
        wait=st.integers(0, 4),
    ),
    min_size=1,
    max_size=25,
)


def happen(host: PeopledHost, event: Happening) -> None:
    host.now += timedelta(seconds=1)
    pull = host.open_pulls.get(event.pull)
    head = None if pull is None else pull.head_sha
    match event.kind:
        case "main":
            host.push(event.commit)
        case "push":
            host.push_to(event.pull, event.commit)
        case "label":
            host.change(event.pull, lambda p: replace(p, labels=() if p.labels else ("No-Preview",)))
        case "draft":
            host.change(event.pull, lambda p: replace(p, is_draft=not p.is_draft))
        case "base":
            host.change(event.pull, lambda p: replace(p, base_branch=NEXT_BASE[p.base_branch]))
        case "close":
            host.close_pull(event.pull)
        case "bare":
            host.say(event.pull, "/preview", permission="write", means=head)
        case "named":
            named = sha(event.commit)
            host.say(event.pull, f"/preview {named[:9]}", permission="write", means=named)
        case "stop":
            host.say(event.pull, "/preview stop", permission="write", means=None)
        case "reader":
            shown = sha(event.commit) if head is None else head
            host.say(event.pull, f"/preview {shown[:9]}", permission="read", means=shown)
    if event.told and event.kind in ("bare", "named", "stop", "reader"):
        host.read()
    elif event.told and event.kind == "main":
        host.deliver_push(event.commit)
    elif event.told:
        host.deliver_pull(event.pull)
    for _ in range(event.wait):
        host.tick()
        host.elapse()


def settled(host: PeopledHost) -> PeopledHost:
    host.resync()
    host.resync()
    host.settle()
    return host


def should_serve(host: PeopledHost) -> dict[int, object]:
    """Return what the world's truth demands: who is admitted, and the content of its head."""
    return {
        number: host.commits[pull.head_sha].head.tree
        for number, pull in host.open_pulls.items()
        if judge_admission(pull, host.policy, host.orders_of_previews).admits
    }


def play(commits: tuple[Commit, ...], story: list[Happening]) -> PeopledHost:
    host = PeopledHost(commits=commits)
    host.push(1)
    for event in story:
        happen(host, event)
        host.tick()
        host.elapse(1.0)
    return host


def is_refused(host: PeopledHost) -> bool:
    """Say whether a schema stood in the way: what is refused depends on what was migrated before."""
    return any(run.reason == "MigrationsDiffer" for world in host.slots.values() for run in world.runs.values())


@given(commits=commit_sets(good=True), story=happenings)
def test_no_unapproved_commit_of_a_stranger_ever_runs_and_the_truth_wins_in_the_end(
    commits: tuple[Commit, ...], story: list[Happening]
) -> None:
    host = settled(play(commits, story))
    assume(not is_refused(host))
    assert previews_served(host) == should_serve(host)
    assert host.production is not None
    assert live_content(host) == host.commits[host.production].head.tree
    for number in previews_served(host):
        said = host.reports[host.open_pulls[number].head_sha, "oroboros/preview"]
        assert said.state is StatusState.SUCCESS, said
    assert host.tick() == ()


@given(commits=commit_sets(good=True), story=happenings)
def test_whoever_may_write_gets_the_present_head_of_a_fork_previewed_and_a_push_ends_that(
    commits: tuple[Commit, ...], story: list[Happening]
) -> None:
    host = settled(play(commits, story))
    for number in FORKS:
        host.push_to(number, 7)
        host.change(number, lambda p: replace(p, labels=(), is_draft=False, base_branch="main"))
        host.say(number, f"/preview {sha(7)[:7]}", permission="write", means=sha(7))
    settled(host)
    assume(not is_refused(host))
    served = previews_served(host)
    assert {served.get(number) for number in FORKS} == {host.commits[sha(7)].head.tree}
    for number in FORKS:
        host.push_to(number, 8)
    settled(host)
    assert not set(FORKS) & set(previews_served(host))


@given(commits=commit_sets(good=True), story=happenings)
def test_whatever_deliveries_are_lost_the_rules_give_the_same_previews(
    commits: tuple[Commit, ...], story: list[Happening]
) -> None:
    silent = [event for event in story if event.kind in ("main", "push", "label", "draft", "base", "close")]
    told = settled(play(commits, [replace(event, told=True) for event in silent]))
    lost = settled(play(commits, [replace(event, told=False) for event in silent]))
    assume(not is_refused(told) and not is_refused(lost))
    assert previews_served(told) == previews_served(lost)
    assert live_content(told) == live_content(lost)


@given(commits=commit_sets(good=True), story=happenings)
def test_who_may_not_write_changes_nothing_by_saying_it(commits: tuple[Commit, ...], story: list[Happening]) -> None:
    talk = settled(play(commits, story))
    quiet = settled(play(commits, [event for event in story if event.kind != "reader"]))
    said = [(o.kind, o.pull_request, o.sha) for o in talk.orders_of_previews if o.actor == "read"]
    assert said == []
    assert {o.actor for o in (*talk.orders_of_previews, *quiet.orders_of_previews)} <= {"write"}
