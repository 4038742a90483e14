"""The store against a real Postgres: invariants, fencing, and what is safe to repeat."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from controller.decisions.commands import Lately
from controller.decisions.github.limits import Pace, Quiet
from controller.decisions.github.repository import Repository
from controller.decisions.standings import Judged, Standing
from controller.effects.store import (
    PAUSE_OFTEN,
    PAUSE_TOO_OFTEN,
    SENT_OFTEN,
    SENT_TOO_OFTEN,
    SQL_FOLDER,
    LostEpoch,
    Store,
    migrate,
)
from controller.model.errors import Refused, Stalled, Unavailable, Waiting
from controller.model.names import (
    MAIN,
    PRODUCTION,
    Domain,
    Sha,
    SlotName,
    TreeId,
    preview_slot,
    pull_request_domain,
    queue_domain,
)
from controller.model.nouns import CommandAnswer, Drift, Handling, Head, PreviewOrder, PullRequest, Signature, Verdict
from controller.model.reports import WantedCheck, WantedStatus
from controller.model.states import Cause, CheckState, Outcome, RunState, StatusState

NOW = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)
SLOTS = (MAIN, preview_slot(1), preview_slot(2))
LATER = NOW + timedelta(hours=1)


def sha(letter: str) -> Sha:
    return Sha(letter * 40)


def head(letter: str) -> Head:
    return Head(sha=sha(letter), tree=TreeId(letter * 40), title=f"commit {letter}")


def pull(number: int, *, letter: str = "a") -> PullRequest:
    return PullRequest(
        number=number,
        head_sha=sha(letter),
        head_branch="feature",
        title="A title",
        author="someone",
        same_repository=True,
        opened_at=NOW,
    )


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    store = Store(postgres_url, repository="acme/shop", host="host-1")
    store.register(slots=SLOTS, boot_id="boot-1", now=NOW)
    yield store
    store.close()


def begin(
    store: Store, letter: str = "a", *, slot: SlotName = MAIN, fence: int = 0, domain: Domain = PRODUCTION
) -> int | None:
    return store.begin_run(
        slot=slot,
        domain=domain,
        fence=fence,
        head=head(letter),
        release=sha(letter),
        cause=Cause.PUSH,
        colour="a",
        fallback=None,
        migration_head="",
        now=NOW,
    )


def test_migrations_apply_once_even_when_two_begin_together(empty_postgres_url: str) -> None:
    applied: list[tuple[str, ...]] = []
    threads = [threading.Thread(target=lambda: applied.append(migrate(empty_postgres_url))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(applied, key=len)[:3] == [(), (), ()]
    assert max(applied, key=len)[0] == "0001_control_plane.sql"


def test_a_migration_that_was_changed_after_it_was_applied_is_refused(empty_postgres_url: str, tmp_path: Path) -> None:
    folder = tmp_path
    (folder / "0001_x.sql").write_text("CREATE TABLE x ()")
    migrate(empty_postgres_url, folder=folder)
    (folder / "0001_x.sql").write_text("CREATE TABLE y ()")

    with pytest.raises(Stalled, match="MigrationChanged"):
        migrate(empty_postgres_url, folder=folder)


def test_an_older_worker_changes_nothing_after_a_newer_one_registered(store: Store, postgres_url: str) -> None:
    newer = Store(postgres_url, repository="acme/shop", host="host-1")
    newer.register(slots=SLOTS, boot_id="boot-2", now=NOW)

    with pytest.raises(LostEpoch):
        begin(store)
    with pytest.raises(LostEpoch):
        store.check_epoch()
    assert begin(newer) is not None
    newer.close()


def test_what_is_left_of_a_slot_that_the_host_has_no_longer_is_ended(store: Store, postgres_url: str) -> None:
    store.record_listing([pull(7)], began_at=NOW)
    fence = store.claim_slot(preview_slot(2), 7, now=NOW, expires_at=LATER)
    assert fence is not None
    begin(store, slot=preview_slot(2), fence=fence, domain=Domain("pr-7"))
    smaller = Store(postgres_url, repository="acme/shop", host="host-1")
    smaller.register(slots=(MAIN,), boot_id="boot-2", now=LATER)
    smaller.record_waiting([7], now=LATER)

    assert smaller.load_rows("SELECT end_reason FROM leases") == [{"end_reason": "SlotRemoved"}]
    assert smaller.load_rows("SELECT state, reason FROM runs") == [{"state": "superseded", "reason": "LeaseEnded"}]
    assert smaller.load_history().slot_removed == frozenset({7})
    smaller.close()


def approve(store: Store, number: int, letter: str, *, comment_id: int, now: datetime = NOW) -> None:
    order = PreviewOrder(
        pull_request=number,
        kind="approval",
        sha=sha(letter),
        base_branch="main",
        actor="bob",
        comment_id=comment_id,
        at=now,
    )
    store.record_preview_order(order, ends=("approval", "stop"), now=now)


def forked(number: int, letter: str, *, base: str = "main") -> PullRequest:
    return replace(pull(number, letter=letter), same_repository=False, base_branch=base)


@pytest.mark.parametrize(
    ("later", "why"),
    [
        (forked(7, "b"), "the head moved"),
        (forked(7, "a", base="release"), "the base branch changed"),
        (None, "closed"),
    ],
)
def test_an_approval_ends_for_good_with_a_push_another_base_or_a_close(
    store: Store, later: PullRequest | None, why: str
) -> None:
    store.record_listing([forked(7, "a")], began_at=NOW)
    approve(store, 7, "a", comment_id=1)
    store.record_listing([forked(7, "a")], began_at=NOW)
    assert [order.sha for order in store.load_history().preview_orders] == [sha("a")]

    store.record_listing([] if later is None else [later], began_at=LATER)
    store.record_listing([forked(7, "a")], began_at=LATER + timedelta(seconds=1))

    assert store.load_preview_orders() == ()
    assert [row["end_reason"] for row in store.load_rows("SELECT end_reason FROM preview_orders")] == [why]


def test_a_listing_that_began_before_an_approval_does_not_end_it(store: Store) -> None:
    store.record_listing([forked(7, "a")], began_at=NOW)
    approve(store, 7, "b", comment_id=1, now=LATER)
    store.record_listing([forked(7, "a")], began_at=LATER - timedelta(seconds=1))
    assert [order.sha for order in store.load_preview_orders()] == [sha("b")]


def test_a_new_approval_replaces_the_one_before(store: Store) -> None:
    approve(store, 7, "a", comment_id=1)
    approve(store, 7, "b", comment_id=2)
    approve(store, 8, "c", comment_id=3)
    assert [(order.pull_request, order.sha) for order in store.load_preview_orders()] == [(7, sha("b")), (8, sha("c"))]


def test_a_pull_request_and_its_entry_in_the_merge_queue_hold_a_slot_each(store: Store) -> None:
    first, second = SLOTS[1:3]
    assert store.claim_slot(first, 7, now=NOW, expires_at=LATER)
    fence = store.claim_slot(second, 7, in_queue=True, now=NOW, expires_at=LATER)
    assert fence is not None
    leases = {slot.lease.domain for slot in store.load_history().slots if slot.lease is not None}
    assert leases == {"pr-7", "queue-7"}
    assert begin(store, slot=second, fence=fence, domain=queue_domain(7)) is not None
    store.end_lease(fence, reason="checked", now=LATER)


def test_a_rerun_is_judged_once_and_the_newest_try_of_a_domain_counts(store: Store, postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO deliveries (id, event, signature, body, target, sha) VALUES"
            " ('1', 'check_run', %s, '', 'rerun:*:ann', %s), ('2', 'push', %s, '', 'ref:refs/heads/x', %s)",
            [b"1" * 32, sha("a"), b"2" * 32, sha("a")],
        )
    (rerun,) = store.load_reruns()
    assert (rerun.target, rerun.sha) == ("rerun:*:ann", sha("a"))
    store.record_quarantine(domain=PRODUCTION, tree=head("a").tree, sha=sha("a"), reason="X", message="", now=NOW)

    with store.together():
        store.try_anew(domain=PRODUCTION, head=head("b"), actor="ann", now=NOW)
        store.try_anew(domain=PRODUCTION, head=head("a"), actor="ann", now=LATER)
        store.record_rerun(rerun, actor="ann", permission="write", reason="", message="", now=LATER)

    assert store.load_reruns() == ()
    history = store.load_history()
    assert history.quarantined == ()
    assert [(one.domain, one.sha, one.at) for one in history.retries] == [(PRODUCTION, sha("a"), LATER)]
    assert [delivery.target for delivery in history.pending] == ["ref:refs/heads/x"]
    assert store.load_rows("SELECT actor, subject FROM audit WHERE action = 'check.rerun'") == [
        {"actor": "ann", "subject": sha("a")}
    ]


def said(comment_id: int, *, at: datetime = NOW) -> CommandAnswer:
    return CommandAnswer(
        pull_request=7,
        comment_id=comment_id,
        author="bob",
        permission="write",
        said="/preview",
        state="done",
        reason="",
        message="approved",
        sha=sha("a"),
        commented_at=at,
        decided_at=at,
    )


def test_a_comment_is_answered_once_with_all_that_it_does_or_not_at_all(store: Store) -> None:
    store.record_listing([forked(7, "a")], began_at=NOW)
    for _ in range(2):
        store.record_command(said(5), verb="preview", argument="", is_shown=True)
    assert store.load_answered([4, 5]) == {5}
    assert len(store.load_rows("SELECT 1 FROM audit WHERE action = 'comment.preview'")) == 1
    assert [(one.said, one.sha) for one in store.load_history().commands] == [("/preview", sha("a"))]

    def is_cut_short() -> None:
        with store.together():
            approve(store, 7, "a", comment_id=6)
            store.record_command(said(6), verb="preview", argument="", is_shown=True)
            raise Waiting("Cut", "in the middle")

    with pytest.raises(Waiting):
        is_cut_short()
    assert (store.load_preview_orders(), store.load_answered([6])) == ((), frozenset())


def test_the_last_commands_that_are_shown_are_loaded_of_writers_and_of_strangers(store: Store) -> None:
    store.record_listing([pull(7)], began_at=NOW)
    stranger = replace(said(1), permission="read", author="eve")
    for number in range(1, 10):
        at = NOW + timedelta(minutes=number)
        writers, others = (
            replace(said(number), decided_at=at),
            replace(stranger, comment_id=100 + number, decided_at=at),
        )
        store.record_command(writers, verb="preview", argument="", is_shown=True)
        store.record_command(others, verb="preview", argument="", is_shown=number % 2 == 1)
    loaded = [one.comment_id for one in store.load_history().commands]
    assert loaded == [101, 103, 5, 105, 6, 7, 107, 8, 9, 109]
    since = NOW + timedelta(minutes=4)
    assert store.count_of_strangers("eve", since=since) == Lately(of_author=6, of_all=6)
    assert store.count_of_strangers("adam", since=since) == Lately(of_author=0, of_all=6)


def test_a_command_at_a_pull_request_that_is_not_open_counts_once_a_later_listing_says_so(store: Store) -> None:
    store.record_listing([], began_at=NOW)
    store.record_command(said(1, at=NOW + timedelta(minutes=1)), verb="preview", argument="", is_shown=True)
    assert store.load_history().commands == ()
    store.record_listing([pull(8)], began_at=NOW + timedelta(minutes=2))
    assert [one.comment_id for one in store.load_history().commands] == [1]


def test_what_was_read_of_comments_only_moves_on(store: Store) -> None:
    assert store.load_comments_since() < datetime.now(UTC)
    store.record_comments_read(since=LATER, began_at=None)
    assert store.load_history().repository.comments_read_at is None
    store.record_comments_read(since=NOW, began_at=NOW)
    assert (store.load_comments_since(), store.load_history().repository.comments_read_at) == (LATER, NOW)


def test_answered_comments_that_are_read_again_are_not_forgotten(store: Store) -> None:
    long_after = NOW + timedelta(days=900)
    for comment_id, day in ((1, 0), (2, 10)):
        store.record_command(said(comment_id, at=NOW + timedelta(days=day)), verb="preview", argument="", is_shown=True)
    store.record_comments_read(since=NOW + timedelta(days=10), began_at=NOW)
    store.forget_audit(before=long_after, at_most=100)
    assert store.load_answered([1, 2]) == {2}


def test_a_slot_has_one_running_run(store: Store) -> None:
    first = begin(store, "a")

    assert first is not None
    assert begin(store, "b") is None
    store.end_run(first, RunState.SUPERSEDED, reason="NewerHead", message="", proven=False, now=NOW)
    assert begin(store, "b") is not None


def test_generations_and_fences_grow_from_one_sequence(store: Store) -> None:
    first = begin(store, "a")
    store.record_listing([pull(7)], began_at=NOW)
    fence = store.claim_slot(preview_slot(1), 7, now=NOW, expires_at=LATER)
    second = begin(store, "b", slot=preview_slot(1), fence=fence or 0, domain=pull_request_domain(7))

    assert first is not None
    assert fence is not None
    assert second is not None
    assert first < fence < second


def test_no_two_pull_requests_share_a_slot_and_none_holds_two(store: Store) -> None:
    store.record_listing([pull(1), pull(2)], began_at=NOW)

    assert store.claim_slot(preview_slot(1), 1, now=NOW, expires_at=LATER) is not None
    assert store.claim_slot(preview_slot(1), 2, now=NOW, expires_at=LATER) is None
    assert store.claim_slot(preview_slot(2), 1, now=NOW, expires_at=LATER) is None


def test_a_run_does_not_begin_under_a_lease_that_ended(store: Store) -> None:
    store.record_listing([pull(1)], began_at=NOW)
    fence = store.claim_slot(preview_slot(1), 1, now=NOW, expires_at=LATER)
    assert fence is not None
    store.end_lease(fence, reason="closed", now=NOW)

    assert begin(store, "a", slot=preview_slot(1), fence=fence, domain=pull_request_domain(1)) is None


def test_a_switch_is_refused_once_the_lease_of_the_run_ended(store: Store) -> None:
    store.record_listing([pull(1)], began_at=NOW)
    fence = store.claim_slot(preview_slot(1), 1, now=NOW, expires_at=LATER)
    assert fence is not None
    generation = begin(store, "a", slot=preview_slot(1), fence=fence, domain=pull_request_domain(1))
    assert generation is not None
    store.check_may_switch(generation)
    store.end_lease(fence, reason="closed", now=NOW)

    with pytest.raises(Waiting, match="RunOvertaken"):
        store.check_may_switch(generation)


def test_a_worker_that_died_costs_its_runs_an_attempt(store: Store, postgres_url: str) -> None:
    generation = begin(store)
    assert generation is not None
    for boot in ("boot-2", "boot-3"):
        next_worker = Store(postgres_url, repository="acme/shop", host="host-1")
        next_worker.register(slots=SLOTS, boot_id=boot, now=NOW)
        run = next_worker.load_run(generation)
        next_worker.close()

    assert run is not None
    assert run.attempts == 3


def test_a_verdict_counts_only_for_the_very_run_and_release(store: Store) -> None:
    generation = begin(store)
    assert generation is not None
    other = Verdict(kind="gate", slot=MAIN, generation=generation, release=sha("f"), outcome=Outcome.PASS)
    mine = Verdict(
        kind="gate", slot=MAIN, generation=generation, release=sha("a"), outcome=Outcome.FAIL, reason="GateTimedOut"
    )
    store.record_verdict(other, now=NOW)
    before = store.load_history().slots[0].verdicts
    store.record_verdict(mine, now=NOW)
    after = next(s for s in store.load_history().slots if s.name == MAIN).verdicts

    assert before == ()
    assert after == (mine,)


def test_a_pull_request_that_comes_back_waits_until_its_last_lease_is_wiped(store: Store) -> None:
    one, two = preview_slot(1), preview_slot(2)
    before = store.claim_slot(one, 7, now=NOW, expires_at=LATER)
    assert before is not None
    store.end_lease(before, reason="closed", now=NOW)

    assert store.claim_slot(two, 7, now=NOW, expires_at=LATER) is None
    assert store.claim_slot(two, 8, now=NOW, expires_at=LATER) is not None
    store.record_wiped(one, before)
    assert store.claim_slot(one, 7, now=NOW, expires_at=LATER) is not None


def test_the_first_verdict_of_a_kind_counts(store: Store) -> None:
    generation = begin(store)
    assert generation is not None
    passed = Verdict(kind="gate", slot=MAIN, generation=generation, release=sha("a"), outcome=Outcome.PASS)
    store.record_verdict(passed, proof="socket", now=NOW)
    store.record_verdict(replace(passed, outcome=Outcome.FAIL, reason="GateTimedOut"), proof="late", now=LATER)

    row = next(s for s in store.load_history().slots if s.name == MAIN)
    assert row.verdicts == (passed,)
    assert row.run is not None
    assert row.run.proof == "socket"


def test_an_ended_run_stays_as_it_ended(store: Store) -> None:
    generation = begin(store)
    assert generation is not None
    store.end_run(generation, RunState.FAILED, reason="GateTimedOut", message="no answer", proven=False, now=NOW)
    store.end_run(generation, RunState.LIVE, reason="", message="", proven=True, now=LATER)
    store.advance_run(generation, RunState.WATCHING, now=LATER, watch_until=LATER)

    run = store.load_run(generation)
    assert run is not None
    assert (run.state, run.reason, run.proven, run.switched_at) == (RunState.FAILED, "GateTimedOut", False, None)


def test_only_a_run_that_served_becomes_proven(store: Store) -> None:
    generation = begin(store)
    assert generation is not None
    store.end_run(generation, RunState.LIVE, reason="", message="", proven=True, now=NOW)

    run = store.load_run(generation)
    assert run is not None
    assert not run.proven


def test_leaving_migrating_for_gating_says_where_the_database_is(store: Store) -> None:
    generation = store.begin_run(
        slot=MAIN,
        domain=PRODUCTION,
        fence=0,
        head=head("a"),
        release=sha("a"),
        cause=Cause.PUSH,
        colour="a",
        fallback=None,
        migration_head="c" * 40,
        now=NOW,
    )
    assert generation is not None
    store.advance_run(generation, RunState.MIGRATING, now=NOW)
    store.advance_run(generation, RunState.GATING, now=NOW)

    main = next(s for s in store.load_history().slots if s.name == MAIN)
    assert main.migrated == (0, "c" * 40)


def test_a_listing_closes_what_it_does_not_name_and_keeps_the_place_in_the_queue(store: Store) -> None:
    store.record_listing([pull(1), pull(2)], began_at=NOW)
    store.record_waiting([1, 2], now=NOW)
    store.record_listing([pull(2, letter="b"), pull(3)], began_at=LATER)
    store.record_waiting([2, 3], now=LATER)

    history = store.load_history()
    assert [p.number for p in history.pulls] == [2, 3]
    assert dict(history.waiting_since) == {2: NOW, 3: LATER}


def test_a_reopened_pull_request_waits_anew(store: Store) -> None:
    store.record_listing([pull(1)], began_at=NOW)
    store.record_waiting([1], now=NOW)
    store.record_listing([], began_at=NOW)
    store.record_listing([pull(1)], began_at=LATER)

    assert store.load_history().waiting_since == ()


def report(state: StatusState, *, generation: int, text: str = "x") -> WantedStatus:
    return WantedStatus(
        sha=sha("a"),
        context="oroboros/production",
        state=state,
        description=text,
        target_url=None,
        generation=generation,
    )


def test_the_same_words_about_a_newer_run_are_not_sent_again(store: Store) -> None:
    store.record_tick([report(StatusState.SUCCESS, generation=1)], done=[], now=NOW)
    (unsent,) = store.load_unsent_reports(now=NOW)
    store.record_sent(unsent, now=NOW)
    assert store.record_tick([report(StatusState.SUCCESS, generation=2)], done=[], now=NOW) == 0
    assert store.load_unsent_reports(now=NOW) == ()


def test_t_g14_a_commit_never_uses_up_the_statuses_that_the_forge_takes_of_it(store: Store) -> None:
    """What changes for ever, once a second here, is told seldom in the end; an end is told all the same."""
    sent: list[datetime] = []

    def change(state: StatusState, *, now: datetime) -> None:
        store.record_tick([report(state, generation=1, text=f"{now} {state}")], done=[], now=now)
        for unsent in store.load_unsent_reports(now=now):
            store.record_sent(unsent, now=now)
            sent.append(now)

    now = NOW
    for number in range(SENT_OFTEN + 50):
        now += timedelta(seconds=1)
        change(StatusState.PENDING if number % 2 else StatusState.FAILURE, now=now)
    assert len(sent) == SENT_OFTEN
    now += PAUSE_TOO_OFTEN
    change(StatusState.PENDING, now=now)
    assert len(sent) == SENT_OFTEN
    while len(sent) < SENT_TOO_OFTEN:
        now += PAUSE_OFTEN / 2
        change(StatusState.SUCCESS, now=now)
    pauses = [after - before for before, after in itertools.pairwise(sent[SENT_OFTEN:])]
    assert set(pauses) == {PAUSE_OFTEN}
    for _ in range(3 * (PAUSE_TOO_OFTEN // PAUSE_OFTEN)):
        now += PAUSE_OFTEN
        change(StatusState.SUCCESS, now=now)
    assert len(sent) == SENT_TOO_OFTEN + 3


def test_a_report_is_sent_once_until_it_changes(store: Store) -> None:
    assert store.record_tick([report(StatusState.PENDING, generation=1)], done=[], now=NOW) == 1
    assert store.record_tick([report(StatusState.PENDING, generation=1)], done=[], now=NOW) == 0
    (unsent,) = store.load_unsent_reports(now=NOW)
    store.record_sent(unsent, now=NOW)

    assert store.load_unsent_reports(now=NOW) == ()
    assert store.record_tick([report(StatusState.SUCCESS, generation=1)], done=[], now=NOW) == 1
    (again,) = store.load_unsent_reports(now=NOW)
    assert isinstance(again.wanted, WantedStatus)
    assert again.wanted.state is StatusState.SUCCESS


def test_what_we_may_no_longer_write_is_not_left_unsent(store: Store) -> None:
    check = WantedCheck(
        sha=sha("a"),
        context="oroboros/production",
        state=CheckState.IN_PROGRESS,
        title="x",
        details_url=None,
        generation=1,
    )
    store.record_tick([report(StatusState.PENDING, generation=1), check], done=[], now=NOW)
    (first, second) = store.load_unsent_reports(now=NOW)
    assert (first.surface, second.surface) == ("status", "check")  # the most urgent first
    store.record_made(second, 77)
    assert [one.forge_id for one in store.load_unsent_reports(now=NOW)] == [None, 77]
    assert set(store.load_history().open_reports) == {first.wanted, check}

    assert store.forget_surfaces(but=("status", "deployment")) == 1
    assert [one.surface for one in store.load_unsent_reports(now=NOW)] == ["status"]


def test_a_report_of_an_older_run_does_not_overwrite_a_newer_one(store: Store) -> None:
    store.record_tick([report(StatusState.SUCCESS, generation=9)], done=[], now=NOW)

    assert store.record_tick([report(StatusState.FAILURE, generation=8)], done=[], now=NOW) == 0


def test_a_report_that_changed_while_it_was_sent_is_sent_again(store: Store) -> None:
    store.record_tick([report(StatusState.PENDING, generation=1)], done=[], now=NOW)
    (unsent,) = store.load_unsent_reports(now=NOW)
    store.record_tick([report(StatusState.FAILURE, generation=1)], done=[], now=NOW)
    store.record_sent(unsent, now=NOW)

    (again,) = store.load_unsent_reports(now=NOW)
    assert isinstance(again.wanted, WantedStatus)
    assert again.wanted.state is StatusState.FAILURE


def test_a_database_that_was_restarted_is_found_again(store: Store, postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    with pytest.raises(Unavailable, match="DatabaseAway"):
        store.load_history()
    assert store.load_history().repository.full_name == "acme/shop"


def test_a_newer_order_by_hand_replaces_the_older(store: Store) -> None:
    for letter in "ab":
        store.record_override(
            slot=MAIN,
            kind="deploy",
            head=head(letter),
            ordered_at_head=None,
            accept_migrations=False,
            actor="someone",
            reason="test",
            now=NOW,
        )

    (override,) = store.load_history().overrides
    assert override.head.sha == sha("b")


def stop(store: Store, *, kind: str = "stopped", slot: SlotName = MAIN, fence: int = 0) -> int | None:
    return store.record_stop(slot=slot, kind=kind, fence=fence, live=None, actor="someone", reason="loud", now=NOW)


def test_a_stop_by_hand_and_the_order_of_a_release_are_in_force_together(store: Store) -> None:
    store.record_override(
        slot=MAIN,
        kind="rollback",
        head=head("a"),
        ordered_at_head=None,
        accept_migrations=False,
        actor="someone",
        reason="test",
        now=NOW,
    )
    stop(store, kind="restart")
    stop(store)

    history = store.load_history()
    assert [order.kind for order in history.overrides] == ["rollback"]
    assert [(order.kind, order.slot, order.reason) for order in history.stops] == [("stopped", MAIN, "loud")]
    assert store.end_stop(MAIN, actor="someone", now=LATER)
    assert not store.end_stop(MAIN, actor="someone", now=LATER)
    assert (store.load_history().stops, len(store.load_history().overrides)) == ((), 1)


def test_the_order_of_a_release_ends_a_stop(store: Store) -> None:
    stop(store)
    test_a_newer_order_by_hand_replaces_the_older(store)

    assert store.load_history().stops == ()


def test_a_stop_is_about_a_lease_that_is_alive(store: Store) -> None:
    fence = store.claim_slot(preview_slot(1), 7, now=NOW, expires_at=LATER)
    assert fence is not None
    assert stop(store, slot=preview_slot(1), fence=fence) is not None
    assert [order.fence for order in store.load_history().stops] == [fence]
    store.end_lease(fence, reason="closed", now=LATER)

    assert stop(store, slot=preview_slot(1), fence=fence) is None


def test_checks_of_a_run_are_replaced_by_name_and_those_of_no_run_are_refused(store: Store) -> None:
    run = begin(store)
    assert run is not None
    for passed in (False, True):
        store.record_validation(
            run,
            [("GET /", passed, {"status": 200}), ("GET /health", True, {})],
            artifact=("smoke", "/a/smoke.json", 7 + passed),
            now=NOW,
        )

    rows = store.load_rows("SELECT name, passed FROM validation_checks ORDER BY id")
    assert [tuple(row.values()) for row in rows] == [("GET /", True), ("GET /health", True)]
    assert [row["bytes"] for row in store.load_rows("SELECT bytes FROM run_artifacts")] == [8]
    with pytest.raises(Refused, match="RunUnknown"):
        store.record_validation(run + 100, [], artifact=("smoke", "/a", 0), now=NOW)


def test_a_listing_that_began_before_the_one_that_is_written_is_left_out(store: Store) -> None:
    assert store.record_listing([pull(1)], began_at=LATER)
    assert not store.record_listing([], began_at=NOW)

    assert [p.number for p in store.load_history().pulls] == [1]


def test_a_command_may_write_a_listing_and_ask_for_a_look(store: Store, postgres_url: str) -> None:
    command = Store(postgres_url, repository="acme/shop", host="host-1")
    command.record_listing([pull(1)], began_at=NOW)
    command.ask_for_look(now=LATER)
    command.ask_for_look(now=NOW)
    command.close()

    history = store.load_history()
    assert [p.number for p in history.pulls] == [1]
    assert history.repository.look_asked_at == LATER


def drift(subject: str = "current", *, handling: Handling = "heals", reason: str = "CurrentChanged") -> Drift:
    return Drift(reason=reason, slot=MAIN, subject=subject, message=f"{subject} moved", handling=handling)


def test_a_drift_is_new_once_and_over_when_a_look_no_longer_finds_it(store: Store) -> None:
    kinds = {"CurrentChanged"}
    assert store.record_drifts([drift()], looked_at=kinds, now=NOW) == (drift(),)
    assert store.record_drifts([drift()], looked_at=kinds, now=NOW) == ()
    assert [o.drift for o in store.load_history().drifts] == [drift()]
    assert store.record_drifts([], looked_at={"ReleaseEdited"}, now=NOW) == ()
    assert store.record_drifts([], looked_at=kinds, unknown=["current"], now=NOW) == ()
    assert len(store.load_history().drifts) == 1
    assert store.record_drifts([], looked_at=kinds, now=LATER) == ()

    assert store.load_history().drifts == ()
    assert store.record_drifts([drift()], looked_at=kinds, now=LATER) == (drift(),)
    rows = store.load_rows("SELECT subject, host, detail ->> 'handling' AS handling FROM audit WHERE action = 'drift'")
    assert rows == [{"subject": "current", "host": "host-1", "handling": "heals"}] * 2


def test_an_order_to_heal_is_of_what_is_held_now(store: Store) -> None:
    store.record_drifts([drift(handling="held"), drift("other")], looked_at={"CurrentChanged"}, now=NOW)

    (ordered,) = store.order_heal(actor="ann", now=NOW)
    assert ordered.drift.subject == "current"
    assert {o.drift.subject: o.heal_ordered for o in store.load_history().drifts} == {"current": True, "other": False}
    store.record_drifts([drift("other")], looked_at={"CurrentChanged"}, now=LATER)
    store.record_drifts([drift(handling="held"), drift("other")], looked_at={"CurrentChanged"}, now=LATER)
    assert not any(o.heal_ordered for o in store.load_history().drifts)


def deliver(url: str, number: int, *, state: str = "done", age_days: int = 100, letter: str = "a") -> None:
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO deliveries (id, event, signature, body, state, target, sha, received_at, armed_at, done_at)"
            " VALUES (%(id)s, 'push', %(signature)s, '', %(state)s, 'ref:refs/heads/trunk', %(sha)s, %(at)s, %(at)s,"
            " %(at)s)",
            {
                "id": f"d-{number}",
                "signature": number.to_bytes(32),
                "state": state,
                "sha": sha(letter),
                "at": NOW - timedelta(days=age_days),
            },
        )


def test_old_deliveries_go_but_never_a_pending_one_or_the_newest(store: Store, postgres_url: str) -> None:
    for number, (state, age_days) in enumerate(
        [("done", 100), ("pending", 100), ("ignored", 100), ("dead", 100), ("done", 10), ("done", 100), ("done", 100)]
    ):
        deliver(postgres_url, number, state=state, age_days=age_days)
    before = NOW - timedelta(days=30)

    assert store.forget_deliveries(before=before, keep=2, at_most=2) == 2
    assert store.forget_deliveries(before=before, keep=2, at_most=10) == 1
    assert store.forget_deliveries(before=before, keep=2, at_most=10) == 0
    left = store.load_rows("SELECT id FROM deliveries ORDER BY seq")
    assert [row["id"] for row in left] == ["d-1", "d-4", "d-5", "d-6"]
    assert store.forget_deliveries(before=before, keep=0, at_most=10) == 2


def test_a_delivery_that_was_armed_again_is_as_young_as_that(store: Store, postgres_url: str) -> None:
    deliver(postgres_url, 1)
    with psycopg.connect(postgres_url) as connection:
        connection.execute("UPDATE deliveries SET armed_at = %s", [NOW])

    assert store.forget_deliveries(before=NOW - timedelta(days=30), keep=0, at_most=10) == 0


def test_a_head_stays_told_of_after_its_delivery_is_gone(store: Store, postgres_url: str) -> None:
    ref = "refs/heads/trunk"
    for letter in "abc":
        store.record_fetch(production=head(letter), ref=ref, refused=[], began_at=NOW)
    deliver(postgres_url, 1, letter="b")
    assert not store.was_found_by_resync(ref, sha("b"))
    assert store.forget_deliveries(before=NOW, keep=0, at_most=10) == 1

    assert not store.was_found_by_resync(ref, sha("b"))
    assert store.was_found_by_resync(ref, sha("c"))


def test_a_head_that_is_fetched_and_not_written_yet_is_judged_by_the_deliveries(
    store: Store, postgres_url: str
) -> None:
    ref = "refs/heads/trunk"
    assert not store.was_found_by_resync(ref, sha("a")), "nobody was told of before the first look"
    store.record_fetch(production=head("a"), ref=ref, refused=[], began_at=NOW)
    assert store.was_found_by_resync(ref, sha("b"))
    deliver(postgres_url, 1, letter="b")
    assert not store.was_found_by_resync(ref, sha("b"))


def test_forgotten_runs_take_their_journal_along_and_one_under_way_never_goes(store: Store) -> None:
    generation = begin(store, "a")
    assert generation is not None
    assert store.forget_runs([generation]) == 0
    store.end_run(generation, RunState.FAILED, reason="X", message="", proven=False, now=NOW)
    (ended,) = store.load_ended_runs()
    assert (ended.generation, ended.sha, ended.ended_at) == (generation, sha("a"), NOW)

    assert store.forget_runs([generation]) == 1
    assert store.forget_runs([generation]) == 0
    assert store.load_rows("SELECT 1 AS one FROM run_steps") == []


def test_a_sent_report_goes_with_the_last_run_of_its_commit(store: Store) -> None:
    later = LATER + timedelta(days=1)
    store.record_tick([report(StatusState.SUCCESS, generation=1)], done=[], now=NOW)
    assert store.forget_reports(before=later, at_most=10) == 0  # not sent
    (unsent,) = store.load_unsent_reports(now=NOW)
    store.record_sent(unsent, now=NOW)
    assert store.forget_reports(before=NOW, at_most=10) == 0  # young
    generation = begin(store, "a")
    assert generation is not None
    assert store.forget_reports(before=later, at_most=10) == 0  # its run is there
    store.end_run(generation, RunState.FAILED, reason="X", message="", proven=False, now=NOW)
    store.forget_runs([generation])
    store.record_listing([pull(1, letter="a")], began_at=NOW)
    assert store.forget_reports(before=later, at_most=10) == 0  # it is the head of an open pull request
    store.record_listing([], began_at=LATER)

    assert store.forget_reports(before=later, at_most=10) == 1


def test_audit_and_drifts_that_are_over_go_and_open_drifts_stay(store: Store) -> None:
    store.record_audit("test", "one", {}, actor="ann")
    store.record_drifts([drift(), drift("other")], looked_at={"CurrentChanged"}, now=NOW)
    store.record_drifts([drift("other")], looked_at={"CurrentChanged"}, now=NOW)
    far = datetime(2100, 1, 1, tzinfo=UTC)

    assert store.forget_audit(before=datetime(2000, 1, 1, tzinfo=UTC), at_most=10) == 0
    assert store.forget_audit(before=far, at_most=2) == 3  # two lines of three, and the drift that is over
    assert store.forget_audit(before=far, at_most=10) == 1
    assert [o.drift.subject for o in store.load_history().drifts] == ["other"]


def test_t_g13_rows_follow_a_rename_once_the_settings_do(store: Store, postgres_url: str) -> None:
    store.record_repository(Repository(id=1001, full_name="acme/shop", default_branch="main"))
    store.record_listing([pull(7)], began_at=NOW)
    store.record_repository(Repository(id=1001, full_name="acme/store", default_branch="main"))

    renamed = Store(postgres_url, repository="acme/store", host="host-1")
    renamed.register(slots=SLOTS, boot_id="boot-2", now=LATER)
    rows = renamed.load_rows("SELECT full_name, forge_id, renamed_to FROM repositories")
    assert [tuple(row.values()) for row in rows] == [("acme/store", 1001, None)]
    assert [one.number for one in renamed.load_history().pulls] == [7]
    renamed.close()


def test_t_g12_the_pace_at_the_forge_outlives_the_process(store: Store) -> None:
    assert store.load_pace() == Pace()
    pace = Pace(
        quiet=Quiet(until=LATER, in_a_row=3),
        app_quiet=Quiet(until=None, in_a_row=0),
        writes_at=(NOW, NOW + timedelta(seconds=1)),
    )
    store.record_pace(replace(pace, writes_at=()))
    store.record_pace(pace)
    assert store.load_pace() == pace


def test_an_id_stays_pinned_whoever_has_the_name_until_it_is_set_anew(store: Store, postgres_url: str) -> None:
    ours = Repository(id=1001, full_name="acme/shop", default_branch="main")
    store.record_repository(ours)
    store.record_repository(replace(ours, id=2002))
    known = store.load_repository()
    assert (known.forge_id, known.replaced_by) == (1001, 2002)
    store.record_repository(ours)
    assert store.load_repository().replaced_by is None

    store.record_repository(replace(ours, id=2002))
    anew = Store(postgres_url, repository="acme/shop", host="host-1")
    anew.register(slots=SLOTS, boot_id="boot-2", now=LATER)
    assert anew.load_repository().replaced_by == 2002
    anew.register(slots=SLOTS, boot_id="boot-3", now=LATER, repository_set="today")
    assert (anew.load_repository().forge_id, anew.load_repository().replaced_by) == (None, None)
    anew.record_repository(replace(ours, id=2002))
    anew.register(slots=SLOTS, boot_id="boot-4", now=LATER, repository_set="today")
    assert anew.load_repository().forge_id == 2002
    anew.close()


def test_another_repository_never_takes_the_id_of_one_that_is_known(store: Store, postgres_url: str) -> None:
    store.record_repository(Repository(id=1001, full_name="acme/shop", default_branch="main"))
    other = Store(postgres_url, repository="acme/other", host="host-2")
    other.register(slots=(), boot_id="boot-2", now=NOW)
    other.record_repository(Repository(id=1001, full_name="acme/shop", default_branch="main"))
    rows = other.load_rows("SELECT full_name, forge_id FROM repositories ORDER BY 1")
    assert [tuple(row.values()) for row in rows] == [("acme/other", None), ("acme/shop", 1001)]
    other.close()


FAR = datetime(2100, 1, 1, tzinfo=UTC)


def test_orders_holds_and_leases_that_are_over_go_and_what_ticks_compare_with_stays(store: Store) -> None:
    slot = preview_slot(1)
    fences: list[int] = []
    for number in (1, 2, 3):
        fence = store.claim_slot(slot, number, now=NOW, expires_at=LATER)
        assert fence is not None
        fences.append(fence)
        assert store.record_stop(slot=slot, kind="stopped", fence=fence, live=None, actor="a", reason="r", now=NOW)
        assert store.record_hold(slot=slot, fence=fence, until=None, actor="a", reason="r", now=NOW)
        if number < 3:
            store.end_stop(slot, actor="a", now=NOW + timedelta(minutes=number))
            store.end_lease(fence, reason="closed", now=NOW)
            store.record_wiped(slot, fence)
    store.record_hold(slot=MAIN, fence=0, until=LATER, actor="a", reason="its time is over", now=NOW)
    before = store.load_history()

    assert store.forget_orders(before=NOW, at_most=100) == 0
    assert store.forget_orders(before=FAR, at_most=100) == 5  # 1 order, 3 holds, 1 lease
    assert store.forget_orders(before=FAR, at_most=100) == 0
    after = store.load_history()
    assert (after.slots, after.stops, after.overrides) == (before.slots, before.stops, before.overrides)
    # Only by the clock of the database is a hold over whose time is over by the worker's.
    assert [hold for hold in after.holds if hold.until is None] == [hold for hold in before.holds if hold.until is None]
    assert [row["fence"] for row in store.load_rows("SELECT fence FROM leases ORDER BY fence")] == fences[1:]


def test_heads_and_closed_pulls_go_and_how_production_was_found_stays(store: Store) -> None:
    ref = "refs/heads/trunk"
    for letter in "abcd":
        store.record_fetch(production=head(letter), ref=ref, refused=[], began_at=NOW)
    store.record_head(sha("b"), refused=None, force_push=None, now=NOW)
    store.record_listing([pull(1, letter="e"), pull(2, letter="f")], began_at=NOW)
    store.record_listing([pull(2, letter="f")], began_at=LATER)
    found = [store.was_found_by_resync(ref, sha(letter)) for letter in "bd"]
    before = store.load_history()

    assert store.forget_heads(before=NOW - timedelta(days=9_999), at_most=100) == 0
    assert store.forget_heads(before=FAR, at_most=100) == 4  # the pull request that is closed and its head, a and c
    assert [store.was_found_by_resync(ref, sha(letter)) for letter in "bd"] == found == [True, True]
    assert store.load_history() == before
    rows = store.load_rows("SELECT ref, sha FROM refs_seen ORDER BY sha")
    assert [(row["ref"], row["sha"]) for row in rows] == [(ref, sha("b")), (ref, sha("d")), ("pull:2", sha("f"))]


def test_a_quarantine_goes_when_it_is_spent_or_was_lifted_long_ago(store: Store) -> None:
    for letter in "abc":
        store.record_quarantine(
            domain=PRODUCTION, tree=TreeId(letter * 40), sha=sha(letter), reason="X", message="", now=NOW
        )
    store.lift_quarantine(domain=PRODUCTION, tree=TreeId("a" * 40), actor="ann", now=NOW)
    spent = [one for one in store.load_history().quarantined if one.sha == sha("b")]

    assert store.forget_quarantines([], lifted_before=NOW) == 0
    assert store.forget_quarantines(spent, lifted_before=LATER) == 2
    assert [one.sha for one in store.load_history().quarantined] == [sha("c")]
    assert store.load_rows("SELECT count(*) AS rows FROM quarantine") == [{"rows": 1}]


def test_a_database_of_before_keeps_what_was_said_of_its_runs(empty_postgres_url: str, tmp_path: Path) -> None:
    """Messages that we wrote are read once; what an app wrote in front of them stays."""
    for file in SQL_FOLDER.glob("[0-9]*.sql"):
        if file.name < "0042":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    migrate(empty_postgres_url, folder=tmp_path)
    said = {
        1: ("rolled_back", "WatchFailed", "x; rolled back to 1234567; rolled back to abcdef0"),
        2: ("rolled_back", "WatchFailed", "it answered 500; rolling back to abcdef0"),
        3: ("superseded", "NewerHead", "superseded by abcdef0"),
        4: ("superseded", "NewerHead", "superseded by a later commit"),
        5: ("failed", "GateFailed", "x; rolled back to abcdef0"),
    }
    with psycopg.connect(empty_postgres_url) as connection:
        connection.execute("INSERT INTO repositories (full_name) VALUES ('acme/shop')")
        connection.execute("INSERT INTO slots (host, name, repository_id) SELECT 'h', 'main', id FROM repositories")
        for generation, (state, reason, message) in said.items():
            connection.execute(
                "INSERT INTO runs (generation, repository_id, host, slot, domain, fence, sha, tree, release, cause,"
                " state, worker, begun_at, ended_at, reason, message) SELECT %s, id, 'h', 'main', 'production', 0, %s,"
                " %s, %s, 'push', %s, 'w', now(), now(), %s, %s FROM repositories",
                [generation, sha("a"), sha("a"), sha("a"), state, reason, message],
            )
    assert "0042_run_successor.sql" in migrate(empty_postgres_url)
    with psycopg.connect(empty_postgres_url) as connection:
        rows = connection.execute("SELECT message, successor, switched_back FROM runs ORDER BY generation").fetchall()

    assert rows == [
        ("x; rolled back to 1234567", "abcdef0", True),
        ("it answered 500", "abcdef0", False),
        ("", "abcdef0", False),
        ("", "", False),
        ("x; rolled back to abcdef0", "", False),
    ]


#: So many rows of each that a long life leaves behind; and what a tick may read of any of them.
MANY, FEW = 20_000, 1_000
LONG_LIFE = """
INSERT INTO deliveries (id, event, signature, body, state, sha, received_at, done_at)
 SELECT 'id-' || n, 'push', sha256(n::text::bytea), '', 'done', lpad(to_hex(n), 40, '0'), now(), now()
 FROM generate_series(1, %(many)s) n;
INSERT INTO refs_seen (repository_id, ref, sha, by_webhook, seen_at)
 SELECT r.id, 'refs/heads/trunk', lpad(to_hex(n), 40, '0'), n %% 2 = 0, now() FROM repositories r,
 generate_series(1, %(many)s) n;
INSERT INTO pull_requests (repository_id, number, state, head_sha, head_branch, title, author, same_repository,
  opened_at, listed_at)
 SELECT r.id, n, CASE WHEN n < 20 THEN 'open' ELSE 'closed' END, lpad(to_hex(n), 40, '0'), 'b', 't', 'a', true, now(),
 now() - interval '9 days' FROM repositories r, generate_series(1, %(many)s) n;
INSERT INTO leases (repository_id, host, slot, pull_request, claimed_at, expires_at, ended_at, end_reason)
 SELECT r.id, 'host-1', 'preview-' || 1 + n %% 2, n, now(), now(), now(), 'closed' FROM repositories r,
 generate_series(1, %(many)s) n;
INSERT INTO runs (repository_id, host, slot, domain, fence, sha, tree, release, cause, state, worker, served, proven,
  migrated, begun_at, switched_at, ended_at)
 SELECT r.id, 'host-1', CASE n %% 2 WHEN 0 THEN 'main' ELSE 'preview-1' END, 'production', 0,
 lpad(to_hex(n), 40, '0'), lpad(to_hex(n), 40, '0'),
 lpad(to_hex(n), 40, '0'), 'push', 'live', 'w', true, true, true, now(), now(), now()
 FROM repositories r, generate_series(1, %(many)s) n;
INSERT INTO releases (repository_id, host, sha, tree, state, path, published_at)
 SELECT r.id, 'host-1', lpad(to_hex(n), 40, '0'), lpad(to_hex(n), 40, '0'), 'published', '/x', now()
 FROM repositories r, generate_series(1, 20) n;
INSERT INTO quarantine (repository_id, domain, tree, sha, reason, message, at, lifted_at)
 SELECT r.id, 'production', lpad(to_hex(n), 40, '0'), '', 'X', '', now(), now() FROM repositories r,
 generate_series(1, %(many)s) n;
INSERT INTO overrides (repository_id, host, slot, kind, sha, tree, actor, reason, ended_at)
 SELECT r.id, 'host-1', 'main', CASE WHEN n %% 2 = 0 THEN 'deploy' ELSE 'stopped' END, lpad(to_hex(n), 40, '0'), '',
 'a', 'r', now() FROM repositories r, generate_series(1, %(many)s) n;
INSERT INTO holds (repository_id, host, slot, actor, reason, at, ended_at, ended_by)
 SELECT r.id, 'host-1', 'main', 'a', 'r', now(), now(), 'a' FROM repositories r, generate_series(1, %(many)s) n;
INSERT INTO drifts (repository_id, host, reason, subject, message, handling, found_at, ended_at)
 SELECT r.id, 'host-1', 'X', 's' || n, '', 'heals', now(), now() FROM repositories r, generate_series(1, %(many)s) n;
INSERT INTO comment_commands (repository_id, comment_id, pull_request, author, permission, verb, state, message,
  commented_at, decided_at)
 SELECT r.id, n, n, 'a', 'write', 'preview', 'done', '', now(), now() - interval '9 days' FROM repositories r,
 generate_series(1, %(many)s) n;
INSERT INTO reports (repository_id, surface, key, wanted, generation, sent_generation)
 SELECT r.id, 'status', 'k' || n, jsonb_build_object('sha', lpad(to_hex(n), 40, '0')), 1, 1 FROM repositories r,
 generate_series(1, %(many)s) n;
"""


def rows_read(store: Store, url: str) -> dict[str, int]:
    """Return how many rows of each table were read since the database was made."""
    store.load_rows("SELECT pg_stat_force_next_flush()")
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT relname, seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables"
        ).fetchall()
    return {str(table): int(count) for table, count in found}


def test_a_tick_reads_few_rows_however_many_there_are(store: Store, postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for statement in LONG_LIFE.split(";"):
            if statement.strip():
                connection.execute(statement, {"many": MANY})  # type: ignore[arg-type]
        connection.execute("VACUUM ANALYZE")
    store.record_fetch(production=head("a"), ref="refs/heads/trunk", refused=[], began_at=NOW)
    before = rows_read(store, postgres_url)

    history = store.load_history()
    store.was_found_by_resync("refs/heads/trunk", sha("a"))
    store.record_fetch(production=head("b"), ref="refs/heads/trunk", refused=[], began_at=NOW)
    store.record_listing(history.pulls, began_at=LATER)
    store.record_tick([report(StatusState.PENDING, generation=1)], done=[], now=NOW)
    store.load_unsent_reports(now=LATER, at_most=1)
    store.load_removing()
    generation = begin(store, "a")
    assert generation is not None
    store.load_run(generation)
    store.record_signature(Signature(sha=sha("a"), signers="v", reason="", said="", checked_at=NOW))

    after = rows_read(store, postgres_url)
    assert len(history.pulls) == 19
    assert len(history.proven) == 20
    read = {table: after[table] - before[table] for table in after}
    assert {table: count for table, count in read.items() if count > FEW} == {}


def judged(standing: Standing, run: int | None = None, since: datetime | None = NOW) -> Judged:
    return Judged(standing=standing, since=since, run=run, by="push")


def release_history(store: Store) -> list[tuple[object, ...]]:
    rows = store.load_rows("SELECT sha, standing, run, ordered_by FROM release_history ORDER BY id")
    return [tuple(row.values()) for row in rows]


def test_what_a_release_becomes_is_written_once_and_stays_in_the_history_when_it_is_gone(store: Store) -> None:
    one = sha("1")
    store.record_release(sha=one, tree=TreeId(one), path="/releases/1", files=1, size_bytes=1, now=NOW)
    for _ in range(2):
        store.record_standings({one: judged(Standing.PUBLISHED)}, now=NOW)
        store.record_standings({one: judged(Standing.LIVE, 1)}, now=NOW)
    (row,) = store.load_rows("SELECT standing, standing_run, standing_since, standing_by FROM releases")
    assert tuple(row.values()) == ("live", 1, NOW, "push")
    assert store.record_standings({one: judged(Standing.LIVE, 1)}, now=LATER) == 0

    store.record_removing([one])
    with store.removing_release(one) as goes:
        assert goes

    assert release_history(store) == [
        (one, "published", None, "push"),
        (one, "live", 1, "push"),
        (one, "published", None, "push"),
        (one, "live", 1, "push"),
        (one, "removed", None, "retention"),
    ]
    assert store.forget_standings(before=FAR, at_most=3) == 3


def test_since_when_a_release_is_what_it_is_outlives_the_run_that_made_it_so(store: Store) -> None:
    one = sha("1")
    store.record_release(sha=one, tree=TreeId(one), path="/releases/1", files=1, size_bytes=1, now=NOW)
    store.record_standings({one: judged(Standing.LIVE, 1)}, now=NOW)

    assert store.record_standings({one: judged(Standing.LIVE, 1, since=None)}, now=LATER) == 0

    assert store.load_rows("SELECT standing_since FROM releases") == [{"standing_since": NOW}]


def test_a_worker_that_was_replaced_writes_no_standing(store: Store) -> None:
    one = sha("1")
    store.record_release(sha=one, tree=TreeId(one), path="/releases/1", files=1, size_bytes=1, now=NOW)
    store.epoch = (store.epoch or 1) - 1
    with pytest.raises(LostEpoch):
        store.record_standings({one: judged(Standing.LIVE, 1)}, now=NOW)
