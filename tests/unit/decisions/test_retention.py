"""Which releases may go? One rule of retention a test: each names what is kept, and the rest goes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.decisions.retention import GRACE_S, select_prunable, select_spent_builds
from controller.model.config import Policy, Retention
from controller.model.names import MAIN, PRODUCTION, Domain, pull_request_domain
from controller.model.nouns import BuildFolder
from controller.model.states import RunState
from controller.model.steps import DropBuild, Prune
from controller.model.world import Observed
from tests.builders import (
    PREVIEW_1,
    at,
    free,
    head,
    instance,
    lease,
    live,
    observed,
    proven,
    pull,
    quarantined,
    release,
    run,
    serving,
    sha,
    tree,
)

NOW = at(GRACE_S)
R5 = run(5, 5, RunState.LIVE)


def world(*numbers: int, keep: int = 0) -> Observed:
    """Release 5 serves and is the head; these releases are on the disk, beside it."""
    seen = observed(serving(R5), at_head=head(5), releases=tuple(release(n) for n in (5, *numbers)))
    return replace(seen, policy=Policy(retention=Retention(keep=keep)), proven=(proven(5, generation=5),))


def pruned(seen: Observed) -> list[str]:
    return [step.release for step in select_prunable(seen, now=NOW)]


def test_what_nothing_needs_goes() -> None:
    assert select_prunable(world(1), now=NOW) == (Prune(release=sha(1)),)


def test_what_is_served_stays() -> None:
    assert sha(5) not in pruned(replace(world(1), production_head=head(1)))


def test_what_current_names_stays() -> None:
    assert pruned(replace(world(1), slots=(replace(serving(R5), current=sha(1)),))) == []


def test_static_files_that_answer_for_older_pages_stay() -> None:
    older = replace(live(R5), previous_static_root=f"/srv/oroboros/releases/{sha(1)}/public")
    assert pruned(replace(world(1, 2), slots=(replace(serving(R5), live=older),))) == [sha(2)]


def test_what_a_run_works_on_and_would_fall_back_to_stays() -> None:
    slot = replace(serving(R5), run=run(6, 1), fallback_run=run(4, 2, RunState.LIVE))
    assert pruned(replace(world(1, 2, 3), slots=(slot,))) == [sha(3)]


def test_what_a_draining_process_runs_from_stays() -> None:
    old = run(4, 1, RunState.LIVE, colour="b")
    slot = replace(serving(R5), processes=(instance(R5), instance(old)), recent_runs=(R5, old))
    assert pruned(replace(world(1), slots=(slot,))) == []


def test_the_previous_good_one_stays() -> None:
    seen = replace(world(1, 2), proven=(proven(5, generation=5), proven(2, generation=4), proven(1, generation=3)))
    assert pruned(seen) == [sha(1)]


def test_the_one_to_go_back_to_stays_when_the_previous_one_is_quarantined() -> None:
    seen = replace(world(1, 2), proven=(proven(5, generation=5), proven(2, generation=4), proven(1, generation=3)))
    assert pruned(replace(seen, quarantined=(quarantined(2),))) == []


def test_pinned_ones_stay() -> None:
    seen = replace(world(), releases=(release(5), release(1, pinned=True), release(2), release(3)))
    policy = Policy(retention=Retention(keep=0, pinned=(sha(2)[:7],)))
    assert pruned(replace(seen, policy=policy)) == [sha(3)]


def test_wanted_heads_and_what_serves_for_them_stay() -> None:
    seen = replace(world(1, 2, 3, 4), production_head=head(9, content=1), pulls=(pull(8, 2),))
    seen = replace(seen, proven=(proven(1, generation=1), proven(3, generation=3), proven(4, generation=4)))
    assert pruned(seen) == [sha(3)]


def test_young_ones_stay() -> None:
    assert pruned(replace(world(), releases=(release(5), release(1, published_s=1)))) == []
    assert pruned(replace(world(), releases=(release(5), release(1, published_s=0)))) == [sha(1)]


def test_only_proven_ones_count_and_the_newest_of_them_stay() -> None:
    seen = world(1, 2, 3, 4, keep=3)
    seen = replace(seen, proven=tuple(proven(n, generation=n) for n in (5, 3, 2, 1)))
    assert pruned(seen) == [sha(1), sha(4)]


def test_what_only_a_closed_preview_has_proven_goes() -> None:
    domain = pull_request_domain(1)
    seen = replace(world(1, keep=5), proven=(proven(5, generation=5), proven(1, generation=3, domain=domain)))
    assert pruned(seen) == [sha(1)]
    preview = replace(serving(run(9, 101, RunState.LIVE, slot=PREVIEW_1, fence=50)), live=free(PREVIEW_1))
    assert pruned(replace(seen, slots=(*seen.slots, preview))) == []


def test_nothing_goes_before_pull_requests_are_listed() -> None:
    assert pruned(replace(world(1), pulls_listed=False)) == []


def test_nothing_goes_while_the_production_head_is_unknown() -> None:
    assert pruned(replace(world(1), production_head=None)) == []


def test_nothing_goes_while_a_slot_is_unknown() -> None:
    for slot in (
        replace(serving(R5), live=None),
        replace(serving(R5), live=replace(live(R5), release=None)),
        replace(serving(R5), live_run=None),
        replace(serving(R5), processes=(instance(R5), instance(run(77, 7)))),
    ):
        assert pruned(replace(world(1), slots=(slot,))) == []


def build(number: int, domain: Domain = PRODUCTION) -> BuildFolder:
    return BuildFolder(domain=domain, name=f"{tree(number)}-0123456789ab")


def dropped(seen: Observed) -> list[str]:
    return [step.name for step in select_spent_builds(seen)]


class TestBuilds:
    def test_a_build_goes_with_the_release_that_it_was_made_of(self) -> None:
        seen = replace(world(1), builds=(build(1), build(2), build(5)))
        assert select_spent_builds(seen) == (DropBuild(slot=MAIN, domain=PRODUCTION, name=build(2).name),)

    def test_what_serves_stays_although_its_release_is_gone(self) -> None:
        seen = replace(world(), builds=(build(2), build(3), build(4)), releases=())
        older = f"/srv/oroboros/builds/production/{build(3).name}/dist"
        serves = replace(live(R5), static_root=f"/srv/oroboros/builds/production/{build(2).name}/dist")
        slot = replace(serving(R5), live=replace(serves, previous_static_root=older))
        assert dropped(replace(seen, slots=(slot,))) == [build(4).name]

    def test_what_a_run_builds_or_would_fall_back_to_stays(self) -> None:
        slot = replace(serving(R5), run=run(6, 1), fallback_run=run(4, 2, RunState.LIVE))
        seen = replace(world(), slots=(slot,), builds=(build(1), build(2), build(3), build(5)))
        assert dropped(seen) == [build(3).name]

    def test_what_a_draining_process_runs_from_stays(self) -> None:
        old = run(4, 1, RunState.LIVE, colour="b")
        slot = replace(serving(R5), processes=(instance(R5), instance(old)), recent_runs=(R5, old))
        assert dropped(replace(world(), slots=(slot,), builds=(build(1), build(2)))) == [build(2).name]

    def test_a_previews_builds_go_while_it_is_leased_and_else_with_its_wipe(self) -> None:
        mine = run(7, 7, RunState.LIVE, slot=PREVIEW_1, fence=3)
        leased = replace(serving(mine), lease=lease(1, fence=3))
        of = pull_request_domain(1)
        seen = replace(world(), builds=(build(7, of), build(8, of), build(8, pull_request_domain(2))))
        seen = replace(seen, slots=(*seen.slots, leased))
        assert select_spent_builds(seen) == (DropBuild(slot=PREVIEW_1, domain=of, name=build(8).name),)

    @pytest.mark.parametrize("unknown", [{"pulls_listed": False}, {"production_head": None}])
    def test_nothing_goes_on_incomplete_knowledge(self, unknown: dict[str, object]) -> None:
        assert dropped(replace(world(), builds=(build(2),), **unknown)) == []  # type: ignore[arg-type]
