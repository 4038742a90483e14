"""Orders by hand: which commit is meant, what is written, how it is followed, and what is refused."""

from __future__ import annotations

import hashlib
import itertools
import json

import pygit2
import pytest
from pygit2.enums import ObjectType

from controller.decisions.orders import choose_rollback
from controller.doors import tables
from controller.doors.cli_orders import Followed, follow, judge_end
from controller.doors.views import ReleaseView, RunView
from controller.effects.mirror import PULL_REFS
from controller.model.errors import Refused, Unavailable
from controller.model.names import MAIN, PRODUCTION, Sha, TreeId
from controller.model.nouns import Head, Live
from controller.model.states import Cause, RunState
from controller.model.world import MIGRATIONS_DIFFER
from tests.doors.stack import Small, utc_now


def goes_live(worker: Small, head: Head) -> None:
    if not worker.layout.release(head.sha).exists():
        worker.publish(head)
    generation = worker.begin(head, cause=Cause.OVERRIDE)
    worker.switch(generation, head)
    worker.end(generation, RunState.LIVE)


def fails_its_gate(worker: Small, head: Head) -> None:
    generation = worker.begin(head, cause=Cause.OVERRIDE)
    worker.end(generation, RunState.FAILED, reason="GateFailed", message="answered 500")


def overrides(small: Small) -> list[dict[str, object]]:
    return small.store.load_rows("SELECT * FROM overrides ORDER BY id")


def test_deploy_follows_the_run_until_it_is_live(small: Small) -> None:
    first, _, third = small.commits
    small.serve(third)
    worker = small.worker_thread(goes_live)

    result = small.run("deploy", first.sha[:8], "--reason", "bisecting")
    worker.join()

    assert result.exit_code == 0, result.output
    assert "switched" in result.output
    assert f"live: {first.sha[:7]} at {small.topology.url(MAIN)}" in result.output
    (row,) = overrides(small)
    assert (row["kind"], row["sha"], row["ordered_at_head"], row["reason"]) == (
        "deploy",
        first.sha,
        third.sha,
        "bisecting",
    )


def test_deploy_of_what_fails_exits_1_with_the_reason(small: Small) -> None:
    worker = small.worker_thread(fails_its_gate)

    result = small.run("deploy", small.commits[0].sha)
    worker.join()

    assert result.exit_code == 1
    assert "GateFailed: answered 500" in result.output


def test_deploy_says_what_came_of_it_as_json(small: Small) -> None:
    worker = small.worker_thread(fails_its_gate)

    value = small.json("deploy", small.commits[0].sha)
    worker.join()

    assert (value["error"], value["exit_code"], value["state"]) == ("GateFailed", 1, "failed")
    assert "answered 500" in str(value["message"])


def test_deploy_without_waiting_only_gives_the_order(small: Small) -> None:
    result = small.run("deploy", small.commits[0].sha, "--no-wait", "--accept-migrations")

    assert result.exit_code == 0
    assert [(row["sha"], row["accept_migrations"]) for row in overrides(small)] == [(small.commits[0].sha, True)]


def test_deploy_of_what_serves_already_is_done_at_once(small: Small) -> None:
    small.serve(small.commits[2])

    result = small.run("deploy", small.commits[2].sha)

    assert result.exit_code == 0
    assert "live:" in result.output


def test_an_order_names_what_is_unwell_before_it(small: Small) -> None:
    said = small.run("deploy", small.commits[0].sha, "--no-wait").output
    told = small.json("deploy", small.commits[0].sha, "--no-wait")["unwell_before"]

    assert "unwell before, and not held against it: reverse-proxy: nobody listens" in " ".join(said.split())
    assert isinstance(told, list)
    assert {"service": "api", "said": "nobody listens"} in told
    assert all(row["service"] not in ("postgres", "redis") for row in told)


@pytest.mark.parametrize("command", ["deploy", "rollback"])
def test_an_order_that_needs_a_healthy_host_is_refused_with_every_row_that_is_not(small: Small, command: str) -> None:
    first, _, third = small.commits
    small.serve(first)
    small.serve(third)

    value = small.json(command, first.sha, "--require-healthy")

    assert (value["error"], value["exit_code"]) == ("HostUnwell", 3)
    assert all(f"{name}: nobody listens" in str(value["message"]) for name in ("reverse-proxy", "web-main", "worker"))
    assert overrides(small) == []
    assert small.store.load_history().quarantined == ()


@pytest.mark.parametrize("command", ["deploy", "rollback"])
def test_what_would_be_restored_to_other_migrations_is_refused_before_it_is_ordered(small: Small, command: str) -> None:
    first, _, third = small.commits
    small.serve(first)
    small.serve(third, migrations="b" * 40)

    value = small.json(command, first.sha, "--no-wait")

    assert (value["error"], value["exit_code"]) == (MIGRATIONS_DIFFER, 3)
    assert str(value["message"]).endswith("--accept-migrations orders it all the same")
    assert overrides(small) == []
    assert small.store.load_history().quarantined == ()
    assert small.run(command, first.sha, "--no-wait", "--accept-migrations").exit_code == 0


def test_deploy_lifts_the_quarantine_of_what_is_ordered(small: Small) -> None:
    head = small.commits[0]
    small.store.record_quarantine(
        domain=PRODUCTION, tree=head.tree, sha=head.sha, reason="GateFailed", message="", now=utc_now()
    )

    small.run("deploy", head.sha, "--no-wait")

    assert small.store.load_history().quarantined == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("abc", "CommitUnclear"),
        ("HEAD", "CommitUnclear"),
        ("--upload-pack=x", "Usage"),
        ("trunk", "CommitUnclear"),
        ("refs/oroboros/production", "CommitUnclear"),
        ("0123456", "CommitNotOnProduction"),
        ("f" * 40, "CommitNotOnProduction"),
    ],
)
def test_deploy_refuses_what_is_no_commit_of_production(small: Small, text: str, reason: str) -> None:
    value = small.json("deploy", text)

    assert (value["error"], value["exit_code"]) == (reason, 2 if reason == "Usage" else 3)
    assert overrides(small) == []


def test_deploy_refuses_a_commit_of_a_pull_request_that_was_not_merged(small: Small) -> None:
    stray = small.commit("An impostor", production=False)
    small.repository.references.create(f"{PULL_REFS}7", stray.sha)

    result = small.run("deploy", stray.sha)

    assert result.exit_code == 3
    assert "merge it first" in result.output


def test_a_branch_that_is_named_like_a_commit_shadows_nothing(small: Small) -> None:
    first, second, _ = small.commits
    small.repository.references.create(f"refs/heads/{first.sha}", second.sha)
    small.repository.references.create(f"refs/heads/{first.sha[:8]}", second.sha)

    assert small.mirror.find_on_production(first.sha) == first
    assert small.mirror.find_on_production(first.sha[:8]) == first


def test_a_prefix_of_two_commits_is_refused_with_both(small: Small) -> None:
    twins = commits_that_begin_alike(small)
    who = pygit2.Signature("Test", "test@example.org", 1_700_000_000, 0)
    tree = small.repository[pygit2.Oid(hex=twins[0])].peel(pygit2.Tree).id
    merge = small.repository.create_commit(None, who, who, "Merge", tree, [pygit2.Oid(hex=twin) for twin in twins])
    small.repository.references.create("refs/oroboros/production", merge, force=True)

    value = small.json("deploy", twins[0][:7])

    assert (value["error"], value["exit_code"]) == ("CommitAmbiguous", 3)
    assert all(twin[:11] in str(value["message"]) for twin in twins)
    assert small.mirror.find_on_production(twins[0]).sha == twins[0]


def commits_that_begin_alike(small: Small) -> tuple[str, str]:
    """Write two commits whose first seven digits are the same: some 20,000 attempts, of which no other is written."""
    tree = small.repository[pygit2.Oid(hex=small.commits[0].sha)].peel(pygit2.Tree).id
    seen: dict[str, bytes] = {}
    for number in itertools.count():
        who = b"Test <test@example.org> 1700000000 +0000"
        raw = b"tree %s\nauthor %s\ncommitter %s\n\n%d\n" % (str(tree).encode(), who, who, number)
        sha = hashlib.sha1(b"commit %d\0" % len(raw) + raw, usedforsecurity=False).hexdigest()
        other = seen.setdefault(sha[:7], raw)
        if other != raw:
            first, second = (str(small.repository.write(ObjectType.COMMIT, body)) for body in (other, raw))
            return first, second
    raise AssertionError("unreachable")


def test_nothing_can_be_ordered_before_the_first_fetch(small: Small) -> None:
    small.repository.references.delete("refs/oroboros/production")

    value = small.json("deploy", small.commits[0].sha)

    assert (value["error"], value["exit_code"]) == ("NothingFetched", 4)


# -- rollback ---------------------------------------------------------------------------------------------------------


def test_rollback_goes_to_the_release_that_served_before_and_quarantines_what_it_leaves(small: Small) -> None:
    first, second, third = small.commits
    for head in (first, second, third):
        small.serve(head)
    worker = small.worker_thread(goes_live)

    result = small.run("rollback", "--reason", "a customer called")
    worker.join()

    assert result.exit_code == 0, result.output
    (row,) = overrides(small)
    assert (row["kind"], row["sha"], row["ordered_at_head"]) == ("rollback", second.sha, third.sha)
    (bad,) = small.store.load_history().quarantined
    assert (bad.tree, bad.domain, bad.reason) == (third.tree, PRODUCTION, "RolledBackByHand")
    assert "a customer called" in bad.message


def test_rolling_back_twice_goes_further_back_and_not_to_and_fro(small: Small) -> None:
    for head in small.commits:
        small.serve(head)
    for expected in (small.commits[1], small.commits[0]):
        worker = small.worker_thread(goes_live)
        result = small.run("rollback")
        worker.join()
        assert result.exit_code == 0, result.output
        assert f"live: {expected.sha[:7]}" in result.output
        order = overrides(small)[-1]
        small.store.end_override(int(str(order["id"])), reason="test", now=utc_now())

    result = small.run("rollback")

    assert result.exit_code == 3
    for head in small.commits:
        assert head.sha[:7] in result.output, "the retained releases are named"


def test_rollback_to_a_named_release_lifts_its_quarantine(small: Small) -> None:
    first, second, third = small.commits
    for head in (first, second, third):
        small.serve(head)
    small.store.record_quarantine(
        domain=PRODUCTION, tree=first.tree, sha=first.sha, reason="GateFailed", message="", now=utc_now()
    )

    result = small.run("rollback", first.sha[:7], "--no-wait")

    assert result.exit_code == 0, result.output
    assert [q.tree for q in small.store.load_history().quarantined] == [third.tree]


def test_rollback_refuses_when_nothing_serves(small: Small) -> None:
    value = small.json("rollback")

    assert (value["error"], value["exit_code"]) == ("NothingServes", 3)


def test_rollback_refuses_a_release_that_never_served_well(small: Small) -> None:
    first, second, _ = small.commits
    small.serve(second)
    small.publish(first)

    value = small.json("rollback", first.sha)

    assert (value["error"], value["exit_code"]) == ("NeverProven", 3)
    assert overrides(small) == []
    assert small.store.load_history().quarantined == ()


def release(letter: str, **changes: object) -> ReleaseView:
    values: dict[str, object] = {
        "release": letter * 40,
        "tree": letter * 40,
        "title": "",
        "state": "published",
        "standing": "published",
        "since": None,
        "run": None,
        "by": "",
        "files": 1,
        "size_bytes": 1,
        "build_bytes": 0,
        "published_at": None,
        "proven_in": (PRODUCTION,),
        "serves": (),
        "quarantined_in": (),
        "pinned": False,
        "on_disk": True,
    }
    return ReleaseView(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "unfit",
    [
        {"proven_in": ("pr-7",)},
        {"proven_in": ()},
        {"quarantined_in": (PRODUCTION,)},
        {"on_disk": False},
        {"state": "removing"},
        {"tree": "c" * 40},
    ],
    ids=str,
)
def test_rollback_passes_over_what_is_unfit(unfit: dict[str, object]) -> None:
    leaving = Live(slot=MAIN, state="live", generation=9, release=Sha("c" * 40), tree=TreeId("c" * 40))
    releases = [release("c"), release("b", **unfit), release("a")]

    chosen = choose_rollback(releases, order_of_proof=["c" * 40, "b" * 40, "a" * 40], leaving=leaving, wanted=None)

    assert chosen.release == "a" * 40


def test_rollback_does_not_mind_what_failed_in_a_preview() -> None:
    leaving = Live(slot=MAIN, state="live", generation=9, release=Sha("c" * 40), tree=TreeId("c" * 40))
    releases = [release("b", quarantined_in=("pr-7",)), release("a")]

    chosen = choose_rollback(releases, order_of_proof=["b" * 40, "a" * 40], leaving=leaving, wanted=None)

    assert chosen.release == "b" * 40


def test_rollback_to_what_serves_is_refused() -> None:
    leaving = Live(slot=MAIN, state="live", generation=9, release=Sha("c" * 40), tree=TreeId("c" * 40))

    with pytest.raises(Refused) as refused:
        choose_rollback([release("c")], order_of_proof=["c" * 40], leaving=leaving, wanted="c" * 7)

    assert refused.value.reason == "LiveAlready"


# -- following --------------------------------------------------------------------------------------------------------


def run_view(state: RunState, *, reason: str = "") -> RunView:
    ended = None if state in (RunState.GATING, RunState.WATCHING) else utc_now()
    return RunView(
        run=5,
        slot=MAIN,
        domain=PRODUCTION,
        sha="a" * 40,
        release="a" * 40,
        title="",
        cause="override",
        state=state,
        reason=reason,
        message="",
        proof="",
        attempts=1,
        served=False,
        proven=False,
        begun_at=utc_now(),
        switched_at=None,
        watch_until=None,
        ended_at=ended,
        unwell_before=(),
    )


@pytest.mark.parametrize(
    ("state", "reason", "in_force", "code"),
    [
        (RunState.LIVE, "", True, 0),
        (RunState.LIVE, "", False, 0),
        (RunState.FAILED, "GateFailed", True, 1),
        (RunState.FAILED, MIGRATIONS_DIFFER, True, 3),
        (RunState.ROLLED_BACK, "WindowFailed", True, 1),
        (RunState.STALLED, "WorkerDied", True, 1),
        (RunState.SUPERSEDED, "", False, 1),
        (RunState.SUPERSEDED, "", True, None),
        (RunState.GATING, "", True, None),
        (RunState.WATCHING, "", False, None),
    ],
)
def test_what_came_of_an_order(state: RunState, reason: str, in_force: bool, code: int | None) -> None:
    end = judge_end(run_view(state, reason=reason), in_force=in_force, why_not="")

    assert (None if end is None else end.code) == code


def test_an_order_that_another_replaced_before_it_began_is_superseded() -> None:
    end = judge_end(None, in_force=False, why_not="replaced by a newer order")

    assert end is not None
    assert (end.code, end.message) == (1, "replaced by a newer order")


def test_following_without_any_worker_ends_as_unreachable(small: Small) -> None:
    order_id = small.store.record_override(
        slot=MAIN,
        kind="deploy",
        head=small.commits[0],
        ordered_at_head=None,
        accept_migrations=False,
        actor="me",
        reason="",
        now=utc_now(),
    )
    followed = Followed(
        settings=small.settings,
        store=small.store,
        topology=small.topology,
        head=small.commits[0],
        order_id=order_id,
        after=0,
    )
    moments = itertools.count(0.0, 20.0)

    with tables.Ticker(quiet=True) as ticker, pytest.raises(Unavailable) as away:
        follow(followed, ticker, clock=lambda: next(moments))

    assert away.value.reason == "WorkerAway"


def test_an_order_says_when_redis_cannot_be_rung(small: Small) -> None:
    file = small.root / "environment.json"
    values = json.loads(file.read_text()) | {"REDIS_URL": f"unix://{small.root}/nobody.sock"}
    file.write_text(json.dumps(values))

    result = small.run("deploy", small.commits[0].sha, "--no-wait")

    assert result.exit_code == 0
    assert "next poll" in result.output
