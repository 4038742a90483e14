"""Which pull request may preview, and which rule says so? A rule a test; a change of the world needs no event."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decisions.admission import (
    NEEDS_APPROVAL,
    NO_OBJECTION,
    Admission,
    forks_to_fetch,
    is_match,
    judge_admission,
)
from controller.decisions.report import project
from controller.decisions.slots import assign_slots
from controller.model.config import Permissions, Policy, Previews
from controller.model.names import Topology
from controller.model.nouns import PreviewOrder, PullRequest
from controller.model.states import StatusState
from controller.model.steps import ClaimSlot, EndLease
from controller.model.world import SlotObserved
from tests.builders import PREVIEW_1, approval, at, free, lease, observed, pull, sha, stop_preview

FORKS = Policy(permissions=Permissions(accept_fork_risk=True))
OURS = replace(pull(1), labels=("web", "UI"), base_branch="main")
FORK = replace(pull(2, same_repository=False), base_branch="main")


def judged(found: PullRequest, *orders: PreviewOrder, policy: Policy | None = None, **previews: Any) -> Admission:
    return judge_admission(found, policy or Policy(previews=Previews(**previews)), orders)


def test_a_pull_request_of_the_repository_previews_by_default() -> None:
    assert judged(OURS) == Admission(admits=True, rule=NO_OBJECTION)


@pytest.mark.parametrize(
    ("change", "previews", "rule", "why"),
    [
        ({}, {"enabled": False}, "previews.enabled", "previews are switched off"),
        ({"is_draft": True}, {"drafts": False}, "previews.drafts", "it is a draft"),
        ({"author_is_bot": True}, {"bots": False}, "previews.bots", "ann is a bot"),
        ({}, {"exclude_authors": ("ANN",)}, "previews.exclude_authors", "author ann"),
        ({}, {"authors": ("bob",)}, "previews.authors", "author ann is not among those who preview"),
        ({}, {"exclude_labels": ("ui",)}, "previews.exclude_labels", "label ui"),
        ({}, {"labels": ("preview", "demo")}, "previews.labels", "it has no label preview or demo"),
        ({}, {"base_branches": ("release/*",)}, "previews.base_branches", "base branch main is not one that previews"),
        ({}, {"exclude_base_branches": ("m*",)}, "previews.exclude_base_branches", "base branch main"),
        (
            {"changed_paths": ("docs/a.md",)},
            {"paths": ("web/**", "api/**")},
            "previews.paths",
            "it changes nothing under web/**, api/**",
        ),
        (
            {"changed_paths": ("docs/a.md", "README.md")},
            {"exclude_paths": ("docs/**", "*.md")},
            "previews.exclude_paths",
            "it changes nothing but docs/**, *.md",
        ),
        ({"changed_paths": ()}, {"paths": ("web/**",)}, "previews.paths", "it changes nothing under web/**"),
    ],
)
def test_each_filter_keeps_out_and_is_named(
    change: dict[str, Any], previews: dict[str, Any], rule: str, why: str
) -> None:
    assert judged(replace(OURS, **change), **previews) == Admission(admits=False, rule=rule, why=why)


@pytest.mark.parametrize(
    ("change", "previews"),
    [
        ({"is_draft": True}, {}),
        ({"author_is_bot": True}, {}),
        ({}, {"authors": ("Ann",)}),
        ({}, {"labels": ("preview", "ui")}),
        ({}, {"exclude_labels": ("no-preview",)}),
        ({}, {"base_branches": ("main",)}),
        ({"changed_paths": ("web/a/b.ts", "README.md")}, {"paths": ("web/**",)}),
        ({"changed_paths": ("web/a.ts", "README.md")}, {"exclude_paths": ("*.md",)}),
    ],
)
def test_what_a_filter_names_is_let_in(change: dict[str, Any], previews: dict[str, Any]) -> None:
    assert judged(replace(OURS, **change), **previews).admits


def test_who_is_excluded_is_not_let_in_by_an_inclusion() -> None:
    assert judged(OURS, labels=("web",), exclude_labels=("ui",)).rule == "previews.exclude_labels"
    changed = replace(OURS, changed_paths=("web/doc.md",))
    assert judged(changed, paths=("web/**",), exclude_paths=("**/*.md",)).rule == "previews.exclude_paths"


@pytest.mark.parametrize("previews", [{"base_branches": ("main",)}, {"paths": ("web/**",)}])
def test_what_is_not_known_yet_begins_nothing_and_ends_nothing(previews: dict[str, Any]) -> None:
    unknown = replace(OURS, base_branch="", changed_paths=None)
    found = judged(unknown, **previews)
    assert (found.admits, found.is_open) == (False, True)
    policy = Policy(previews=Previews(**previews))
    held = SlotObserved(slot=PREVIEW_1, live=free(PREVIEW_1), lease=lease(1))
    empty = SlotObserved(slot=PREVIEW_1, live=free(PREVIEW_1))
    for slot in (held, empty):
        assert assign_slots(replace(observed(slot, pulls=(unknown,)), policy=policy), now=at(0)).steps == ()


def test_a_label_moves_the_lease_without_an_event_and_the_status_says_why() -> None:
    policy = Policy(previews=Previews(exclude_labels=("no-preview",)))
    held = SlotObserved(slot=PREVIEW_1, live=free(PREVIEW_1), lease=lease(1))
    labelled = replace(OURS, labels=("no-preview",))
    with_label = replace(observed(held, pulls=(labelled,)), policy=policy)
    assert assign_slots(with_label, now=at(0)).steps == (
        EndLease(slot=PREVIEW_1, fence=50, reason="no longer admitted: previews.exclude_labels"),
    )
    empty = SlotObserved(slot=PREVIEW_1, live=free(PREVIEW_1))
    without = replace(observed(empty, pulls=(OURS,)), policy=policy)
    assert assign_slots(without, now=at(0)).steps == (ClaimSlot(slot=PREVIEW_1, pull_request=1),)
    queued = project(without, assign_slots(without, now=at(0)).queue, Topology(previews=1), now=at(0))
    kept_out = replace(observed(empty, pulls=(labelled,)), policy=policy)
    assert project(kept_out, (), Topology(previews=1), now=at(0)) == ()
    (said,) = project(replace(kept_out, open_reports=queued), (), Topology(previews=1), now=at(0))
    assert (said.state, said.description) == (StatusState.SUCCESS, "no preview: label no-preview")


class TestForks:
    def test_t_p13_nothing_of_a_fork_runs_or_is_fetched_by_default_even_when_it_is_approved(self) -> None:
        found = judged(FORK, approval(FORK))
        assert found == Admission(admits=False, rule="permissions.accept_fork_risk", why=NEEDS_APPROVAL)
        assert forks_to_fetch((FORK,), Policy(), (approval(FORK),)) == ()

    def test_where_the_risk_is_accepted_it_still_needs_an_approval(self) -> None:
        assert judged(FORK, policy=FORKS) == Admission(admits=False, rule="approval", why=NEEDS_APPROVAL)
        assert forks_to_fetch((FORK,), FORKS, ()) == ()

    def test_an_approved_commit_is_fetched_and_previews(self) -> None:
        assert judged(FORK, approval(FORK), policy=FORKS).admits
        assert forks_to_fetch((FORK,), FORKS, (approval(FORK),)) == ((2, sha(102)),)

    @pytest.mark.parametrize("change", [{"head_sha": sha(999)}, {"base_branch": "release"}, {"number": 3}])
    def test_an_approval_is_of_one_commit_to_one_branch_of_one_pull_request(self, change: dict[str, Any]) -> None:
        other = replace(FORK, **change)
        assert judged(other, approval(FORK), policy=FORKS).rule == "approval"
        assert forks_to_fetch((other,), FORKS, (approval(FORK),)) == ()

    def test_where_forks_never_preview_an_approval_changes_nothing(self) -> None:
        never = Policy(permissions=Permissions(forks="never", accept_fork_risk=True))
        assert judged(FORK, approval(FORK), policy=never).rule == "permissions.forks"
        assert forks_to_fetch((FORK,), never, (approval(FORK),)) == ()

    def test_an_approval_does_not_lift_a_filter(self) -> None:
        policy = replace(FORKS, previews=Previews(authors=("bob",)))
        assert judged(FORK, approval(FORK), policy=policy).rule == "previews.authors"


def test_a_preview_that_somebody_stopped_stays_stopped() -> None:
    assert judged(OURS, stop_preview(1)).rule == "/preview stop"
    assert judged(OURS, stop_preview(2)).admits


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("web/**", "web/a", True),
        ("web/**", "web/a/b/c", True),
        ("web/**", "website/a", False),
        ("**/*.md", "a.md", True),
        ("**/*.md", "a/b/c.md", True),
        ("*.md", "a/b.md", False),
        ("a/**/z", "a/z", True),
        ("a/**/z", "a/b/c/z", True),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("*", "a", True),
        ("a*b*c", "axxbxxbxxc", True),
        ("a*b*c", "axxbxxbxx", False),
        ("deploy.toml", "deployXtoml", False),
    ],
)
def test_patterns(pattern: str, path: str, matches: bool) -> None:
    assert is_match(pattern, path) is matches


@given(st.text(alphabet="ab/.", min_size=1, max_size=20))
def test_a_path_matches_itself_and_everything(path: str) -> None:
    assert is_match(path, path)
    assert is_match("**", path)


def test_a_pattern_of_many_stars_is_judged_at_once() -> None:
    assert not is_match("*a" * 90 + "b", "a" * 4_000)
