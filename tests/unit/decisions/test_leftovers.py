"""Has each path an owner and an end, and is what outlived both found? A line a path."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from controller.decisions.leftovers import MADE, Owners, PathFact, judge_leftovers
from controller.model.names import MAIN, PRODUCTION, pull_request_domain
from tests.builders import PREVIEW_1, sha, tree

HELD = Owners(
    slots=frozenset({MAIN, PREVIEW_1}),
    held=frozenset({MAIN, PREVIEW_1}),
    domains=frozenset({PRODUCTION, pull_request_domain(1)}),
    releases=frozenset({sha(1)}),
    trees=frozenset({tree(1)}),
    builds=frozenset({f"production/{tree(3)}-aa"}),
    runs=frozenset({7}),
    units=frozenset({("main-a", 7)}),
)
#: With nobody in the preview.
FREE = replace(HELD, held=frozenset({MAIN}), domains=frozenset({PRODUCTION}))
HOUR_S = 3_600.0


def found(*paths: str, owners: Owners = HELD, age_s: float = 2 * HOUR_S, entries: int = 1) -> list[str]:
    facts = [PathFact(path=path, age_s=age_s, entries=entries) for path in paths]
    return [left.path for left in judge_leftovers(facts, owners, grace_s=HOUR_S)]


OWNED = (
    *("releases", f"releases/{sha(1)}", f"releases/{sha(1)}.manifest", f"releases/.spare-{sha(1)}"),
    *("builds", "builds/production", f"builds/production/{tree(1)}-aa", f"builds/production/{tree(1)}-aa.sealed"),
    *(f"builds/production/{tree(3)}-aa", f"builds/production/.{tree(3)}-aa.sealing", "builds/pr-1"),
    *("slots", "slots/main", "slots/main/live", "slots/main/live.d", "slots/main/lock", "slots/preview-1/current"),
    *("slots/preview-1/data", "slots/preview-1/database", "artifacts/runs/7", "artifacts/maintenance/daily.json"),
    *("orders/ouroboros-instance@preview1-a.json", "run/env/build-main.env", "run/worker/armed/ouroboros-build@main"),
    *("supervisor/main-a.7.ab12", "supervisor/lock", "log/worker.log", "postgres.log", "current", "repo.git"),
)


def test_what_has_its_owner_is_no_leftover() -> None:
    assert found(*OWNED) == []


@pytest.mark.parametrize(
    "path",
    [
        *(f"releases/{sha(2)}", f"releases/{sha(2)}.manifest", f"releases/.spare-{sha(2)}", "releases/.tmp-x-1"),
        *(f"builds/production/{tree(2)}-aa", f"builds/production/{tree(2)}-aa.sealed", "builds/production/.gone-aa"),
        *(f"builds/production/.{tree(2)}-aa.sealing", "builds/pr-2", "builds/nobody", "slots/preview-9"),
        *("slots/preview-9/live", "slots/main/.live.ab", "slots/main/notes", "artifacts/runs/8"),
        *("orders/ouroboros-instance@preview9-a.json", "orders/.x.json.ab", "run/env/preview-9-a.env"),
        *("run/env/.main-a.env.ab", "run/worker/armed/ouroboros-build@preview9", "supervisor/main-a.6.ab12"),
        *("supervisor/.gone.ab12", "core", "releases/latest"),
    ],
)
def test_what_outlived_its_owner_is_found_unless_it_is_young(path: str) -> None:
    assert found(*OWNED, path) == [path]
    assert found(path, age_s=HOUR_S / 2) == []


@pytest.mark.parametrize(
    "path",
    [
        *("slots/preview-1/current", "slots/preview-1/data", "slots/preview-1/database", "builds/pr-1"),
        *("orders/ouroboros-build@preview1.json", "run/env/preview-1-b.env"),
    ],
)
def test_what_is_a_tenants_goes_with_the_lease(path: str) -> None:
    assert found(path) == []
    assert found(path, owners=FREE) == [path]


def test_what_is_bounded_and_is_more_is_found() -> None:
    assert found("slots/main/live.d", entries=64) == []
    assert found("slots/main/live.d", entries=66) == ["slots/main/live.d"]
    large = PathFact(path="log/worker.log", age_s=2 * HOUR_S, size_bytes=1 << 30)
    assert [left.path for left in judge_leftovers([large], HELD, grace_s=HOUR_S)] == ["log/worker.log"]


def test_each_pattern_says_whose_a_path_is_and_when_it_goes() -> None:
    assert [made.pattern for made in MADE if not made.owner or not made.ends] == []
    assert len({made.pattern for made in MADE}) == len(MADE)


def test_the_table_is_documented_as_it_is() -> None:
    told = (Path(__file__).parents[3] / "docs/decisions/0018-an-owner-and-an-end.md").read_text()
    lines = [f"| `{made.pattern}` | {made.owner} | {made.ends} |" for made in MADE if made.ends != "uninstall"]
    assert [line for line in lines if line not in told] == []
    assert [made.pattern for made in MADE if f"`{made.pattern}`" not in told] == []
