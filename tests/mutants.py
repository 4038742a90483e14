"""Which one-line defects of plan, slots and retention must some test catch? Coverage does not find a wrong decision.

Each names the file, the text that it replaces (found exactly once), and a test that must fail with it.
"""

from __future__ import annotations

from dataclasses import dataclass

PLAN = "controller/decisions/plan.py"
SLOTS = "controller/decisions/slots.py"
QUARANTINE = "controller/decisions/quarantine.py"
ADMISSION = "controller/decisions/admission.py"
COMMANDS = "controller/decisions/commands.py"
HOLDS = "controller/decisions/holds.py"
ORDER = "controller/decisions/order.py"
SIGNATURES = "controller/decisions/signatures.py"
RETENTION = "controller/decisions/retention.py"
DRIFT = "controller/decisions/drift.py"
INTEGRITY = "controller/decisions/integrity.py"
FITNESS = "controller/decisions/fitness.py"
DISK_FLOOR = "controller/decisions/disk_floor.py"
DEPLOYMENTS = "controller/decisions/report_deployments.py"
COMMENTS = "controller/decisions/report_comments.py"
OUR_COMMENT = "controller/decisions/github/comments.py"
PAGES = "tests/unit/decisions/test_report_pages.py"
WORLDS = "tests/property/test_worlds.py"
COMMAND_RULES = "tests/unit/decisions/test_commands.py"
ADMISSION_RULES = "tests/unit/decisions/test_admission.py"
PLAN_RULES = "tests/unit/decisions/test_plan.py"
SLOT_RULES = "tests/unit/decisions/test_slots.py"
ORDER_RULES = "tests/unit/decisions/test_order.py"
HOLD_RULES = "tests/unit/decisions/test_holds.py"
SIGNATURE_RULES = "tests/unit/decisions/test_signatures.py"
RETENTION_RULES = "tests/unit/decisions/test_retention.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One defect: `original` becomes `replacement` in `file`, and the test `caught_by` must fail."""

    name: str
    file: str
    original: str
    replacement: str
    caught_by: str


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        name="takes from whoever has the name of our repository",
        file="controller/decisions/github/repository.py",
        original="    if pinned is not None and found.id != pinned:",
        replacement="    if pinned is not None and found.id == 0:",
        caught_by="tests/unit/decisions/test_repository.py::test_a_repository_of_another_id_is_not_ours_whatever_its_name_is",
    ),
    Mutant(
        name="says that all is well while a repair follows a failure",
        file="controller/decisions/report.py",
        original="    was_well = before is None or before.state in (RunState.LIVE, RunState.SUPERSEDED)",
        replacement="    was_well = True",
        caught_by="tests/unit/decisions/test_report.py::TestRepair"
        "::test_that_failed_is_a_failure_and_the_one_after_it_says_each_state",
    ),
    Mutant(
        name="switches to an instance that is gone",
        file=PLAN,
        original="    if slot.recipe is None or slot.recipe.api is None or run.colour is None:",
        replacement="    if slot.recipe is None or slot.recipe.api is not None or run.colour is None:",
        caught_by=f"{PLAN_RULES}::TestARunGoesOn::test_a_passed_gate_does_not_switch_to_an_instance_that_is_gone",
    ),
    Mutant(
        name="what serves stays away while a run works or waits",
        file=PLAN,
        original="        steps.extend(_keep_serving(observed, slot, slot.run, now=now))",
        replacement="        pass",
        caught_by=f"{PLAN_RULES}::TestWhatServesIsLostMeanwhile::test_it_is_started_again_beside_the_run",
    ),
    Mutant(
        name="serves by lease no longer held",
        file=PLAN,
        original="            if run.fence == wanted.fence and run.head.tree == wanted.head.tree:",
        replacement="            if run.head.tree == wanted.head.tree:",
        caught_by=f"{PLAN_RULES}::TestPreviews::test_a_run_under_an_older_lease_is_superseded",
    ),
    Mutant(
        name="a repair and a head that must wait end each other for ever",
        file=PLAN,
        original="            return run.cause is not Cause.REPAIR or retry_at(observed, slot, wanted) <= now",
        replacement="            return True",
        caught_by=f"{PLAN_RULES}::TestTriesAgain::test_a_repair_goes_on_while_the_head_must_wait",
    ),
    Mutant(
        name="a failed gate is not remembered",
        file=PLAN,
        original="    if _blames(observed, run, verdict) and not is_of_queue(run.domain):\n        steps.append",
        replacement="    if False:\n        steps.append",
        caught_by=f"{WORLDS}::test_a_commit_that_fails_in_any_way_leaves_the_good_one_serving",
    ),
    Mutant(
        name="a part that was away is held against the release",
        file=PLAN,
        original="    return verdict.blames_release and not (",
        replacement="    return not (",
        caught_by=f"{PLAN_RULES}::TestARunGoesOn",
    ),
    Mutant(
        name="a failed window goes on serving",
        file=PLAN,
        original="        steps.append(SwitchBack(",
        replacement="        str(SwitchBack(",
        caught_by=f"{PLAN_RULES}::TestTheWindow::test_a_failed_window_goes_back_at_once",
    ),
    Mutant(
        name="what an open window would fall back to is stopped",
        file=PLAN,
        original="        if run.state is RunState.WATCHING and slot.fallback_run is not None",
        replacement="        if run.state is RunState.GATING and slot.fallback_run is not None",
        caught_by=f"{PLAN_RULES}::TestTheWindow::test_what_it_would_fall_back_to_is_kept_while_it_is_open",
    ),
    Mutant(
        name="a crash between quarantine and end is told as superseded",
        file=PLAN,
        original="    if known is None or known.at < run.begun_at:",
        replacement="    if known is None or run.generation:",
        caught_by=f"{PLAN_RULES}::TestARunGoesOn::test_a_worker_that_died_between_quarantine_and_end_finishes_the_sentence",
    ),
    Mutant(
        name="the wipe does not wait for threads",
        file=PLAN,
        original="slot.wiped_fence < slot.ended_fence and not slot.activities:",
        replacement="slot.wiped_fence < slot.ended_fence:",
        caught_by=f"{PLAN_RULES}::TestPreviews::test_the_wipe_waits_for_every_thread_of_the_slot",
    ),
    Mutant(
        name="a new database is not migrated for a proven release",
        file=PLAN,
        original="slot.database_migration_head is not None and _is_restore(observed, run)",
        replacement="_is_restore(observed, run)",
        caught_by=f"{PLAN_RULES}::TestMigrations::test_a_new_database_is_migrated_even_for_a_proven_release",
    ),
    Mutant(
        name="a quarantined head is begun",
        file=PLAN,
        original="    if not is_quarantined(observed, PRODUCTION, head.tree):\n        pushed",
        replacement="    if True:\n        pushed",
        caught_by=f"{PLAN_RULES}::TestNothingRuns::test_a_quarantined_head_is_not_begun",
    ),
    Mutant(
        name="a draining instance is stopped at once",
        file=PLAN,
        original="timedelta(seconds=observed.policy.production.drain_s)",
        replacement="timedelta(seconds=0)",
        caught_by=f"{PLAN_RULES}::TestARunGoesOn::test_an_instance_waits_until_the_one_before_has_drained",
    ),
    Mutant(
        name="both instances of a slot have one colour",
        file=PLAN,
        original="live.colour == COLOURS[0] else COLOURS[0]",
        replacement="live.colour == COLOURS[1] else COLOURS[0]",
        caught_by=f"{WORLDS}::test_a_commit_that_fails_in_any_way_leaves_the_good_one_serving",
    ),
    Mutant(
        name="the rollback is repeated",
        file=QUARANTINE,
        original="        if run.state in (RunState.FAILED, RunState.ROLLED_BACK, RunState.STALLED):",
        replacement="        if run.state in (RunState.ROLLED_BACK, RunState.STALLED):",
        caught_by=f"{PLAN_RULES}::TestOneRollback",
    ),
    Mutant(
        name="what failed in a preview is held against production",
        file=QUARANTINE,
        original="if (q.domain, q.tree) == (domain, tree)",
        replacement="if q.tree == tree",
        caught_by=f"{PLAN_RULES}::TestNothingRuns::test_what_failed_in_a_preview_is_begun_in_production",
    ),
    Mutant(
        name="the newest waiter is served first",
        file=SLOTS,
        original="waiting = sorted(eligible - held, key=began_to_wait)",
        replacement="waiting = sorted(eligible - held, key=began_to_wait, reverse=True)",
        caught_by=f"{SLOT_RULES}::test_who_waits_longest_is_first_whatever_the_order_of_the_listing",
    ),
    Mutant(
        name="an incomplete listing ends leases",
        file=SLOTS,
        original="        if observed.pulls_listed and _tenant(lease) not in eligible | undecided:",
        replacement="        if _tenant(lease) not in eligible | undecided:",
        caught_by=f"{SLOT_RULES}::test_an_incomplete_listing_ends_nothing",
    ),
    Mutant(
        name="a slot is given away before it is wiped",
        file=SLOTS,
        original="        and slot.wiped_fence >= slot.ended_fence",
        replacement="        and slot.ended_fence >= 0",
        caught_by=f"{SLOT_RULES}::test_a_slot_with_anything_left_is_given_to_nobody",
    ),
    Mutant(
        name="everybody whose time is up is moved for one who waits",
        file=SLOTS,
        original="        if coming < len(waiting):",
        replacement="        if waiting:",
        caught_by=f"{SLOT_RULES}::test_for_one_who_waits_only_the_lease_that_is_up_longest_ends",
    ),
    Mutant(
        name="forks get previews",
        file=ADMISSION,
        original="    if not pull.same_repository:",
        replacement="    if pull.number < 0:",
        caught_by=f"{SLOT_RULES}::test_a_fork_gets_no_slot_and_no_place_in_the_queue",
    ),
    Mutant(
        name="what a run works on is pruned",
        file=RETENTION,
        original="for run in (slot.run, slot.live_run, slot.fallback_run) if run is not None)\n    alive",
        replacement="for run in (slot.live_run, slot.fallback_run) if run is not None)\n    alive",
        caught_by=f"{RETENTION_RULES}::test_what_a_run_works_on_and_would_fall_back_to_stays",
    ),
    Mutant(
        name="releases go while pull requests are unknown",
        file=RETENTION,
        original="    if not observed.pulls_listed or observed",
        replacement="    if observed",
        caught_by=f"{RETENTION_RULES}::test_nothing_goes_before_pull_requests_are_listed",
    ),
    Mutant(
        name="the previous good release is not kept",
        file=RETENTION,
        original="    yield from (p.sha for p in others[:1])",
        replacement="    yield from (p.sha for p in others[:0])",
        caught_by=f"{RETENTION_RULES}::test_the_one_to_go_back_to_stays_when_the_previous_one_is_quarantined",
    ),
    Mutant(
        name="pinned releases go",
        file=RETENTION,
        original="        and not release.pinned",
        replacement="        and release.sha",
        caught_by=f"{RETENTION_RULES}::test_pinned_ones_stay",
    ),
    Mutant(
        name="what a person has stopped is started again",
        file=PLAN,
        original="    if stop is not None:\n        steps.extend(_plan_stopped",
        replacement="    if False:\n        steps.extend(_plan_stopped",
        caught_by=f"{PLAN_RULES}::TestStoppedByHand::test_nothing_is_repaired_and_no_newer_head_begins",
    ),
    Mutant(
        name="a stop outlives its lease",
        file=PLAN,
        original="if (stop.slot, stop.fence) == (slot.slot, fence)), None)",
        replacement="if stop.slot == slot.slot), None)",
        caught_by=f"{PLAN_RULES}::TestStoppedByHand::test_a_stop_does_not_concern_the_next_tenant",
    ),
    Mutant(
        name="a restart never ends",
        file=PLAN,
        original='    if stop.kind == "restart":',
        replacement="    if False:",
        caught_by=f"{WORLDS}::test_stops_by_hand_break_no_promise_and_come_to_an_end",
    ),
    Mutant(
        name="a bare approval is of whatever the head is by then",
        file=COMMANDS,
        original="    elif not pull.same_repository and approval_in_force(",
        replacement="    elif pull.same_repository and approval_in_force(",
        caught_by=f"{COMMAND_RULES}::test_a_bare_preview_of_a_fork_approves_nothing_and_is_told_what_to_write",
    ),
    Mutant(
        name="whoever may not write is answered as often as they ask",
        file=COMMANDS,
        original="    return lately.of_author < ANSWERED_OF_ONE_MAX and lately.of_all < ANSWERED_OF_ALL_MAX",
        replacement="    return True",
        caught_by=f"{COMMAND_RULES}::test_what_those_who_may_not_write_have_us_say_is_bounded_for_each_and_for_all",
    ),
    Mutant(
        name="the head is never asked for before a switch",
        file=ORDER,
        original="    return is_following(run) and not is_fresh",
        replacement="    return False",
        caught_by=f"{ORDER_RULES}::TestNews::test_the_head_is_asked_for_once_more_unless_a_fetch_has_just_begun",
    ),
    Mutant(
        name="what strangers order hides what others did",
        file=COMMENTS,
        original="(one.permission in WRITERS, *_when(one))",
        replacement="_when(one)",
        caught_by=f"{PAGES}::test_the_last_commands_are_shown_and_those_of_strangers_hide_nothing",
    ),
    Mutant(
        name="what served before stays a success",
        file=DEPLOYMENTS,
        original="return DeploymentState.SUCCESS if serves else DeploymentState.INACTIVE",
        replacement="return DeploymentState.SUCCESS",
        caught_by=f"{WORLDS}::test_all_surfaces_agree_in_the_end_and_nothing_stays_open_that_is_over",
    ),
    Mutant(
        name="a deployment that nothing tells of stays under way",
        file=DEPLOYMENTS,
        original="        if generation not in found:",
        replacement="        if False:",
        caught_by=f"{PAGES}::test_a_deployment_of_a_preview_ends_with_its_lease_and_one_that_nothing_tells_of_ends_too",
    ),
    Mutant(
        name="the comment of a closed pull request is never over",
        file=COMMENTS,
        original="is_open=False, is_answer=is_answer)",
        replacement="is_open=True, is_answer=is_answer)",
        caught_by=f"{PAGES}::test_a_comment_that_is_there_tells_that_the_preview_ended_and_of_commands",
    ),
    Mutant(
        name="whoever copies our marker is believed to be us",
        file=OUR_COMMENT,
        original="        return by_us and self.body.startswith(MARKER)",
        replacement="        return self.body.startswith(MARKER)",
        caught_by=f"{PAGES}::test_a_comment_is_ours_by_its_author_and_its_marker",
    ),
    Mutant(
        name="an approval is of every commit of its pull request",
        file=ADMISSION,
        original="(pull.number, pull.head_sha, pull.base_branch)",
        replacement="(pull.number, order.sha, pull.base_branch)",
        caught_by=f"{ADMISSION_RULES}::TestForks::test_an_approval_is_of_one_commit_to_one_branch_of_one_pull_request",
    ),
    Mutant(
        name="a hold of a lease that ended holds the next one",
        file=HOLDS,
        original="    mine = [order for order in orders if (order.slot, order.fence) == (slot, fence)]",
        replacement="    mine = [order for order in orders if order.slot == slot]",
        caught_by=f"{HOLD_RULES}::TestJudging::test_an_order_holds_its_own_slot_and_lease_until_its_time",
    ),
    Mutant(
        name="a signature counts although git says that it does not",
        file=SIGNATURES,
        original="    if exit_code == 0 and good is not None:",
        replacement="    if good is not None:",
        caught_by=f"{SIGNATURE_RULES}::test_only_what_is_plainly_good_is_good",
    ),
    Mutant(
        name="whatever runs in a slice of ours may hold any port of ours",
        file=DRIFT,
        original='    return holder.holders.isdisjoint(cgroup.split("/"))',
        replacement='    return not cgroup.startswith("ouroboros.slice/")',
        caught_by="tests/unit/decisions/test_drift.py::test_a_port_of_the_table_is_held_by_the_unit_that_it_is_of",
    ),
    Mutant(
        name="a unit of no run is in order",
        file=INTEGRITY,
        original="        if of_fence is None:",
        replacement="        if False:",
        caught_by="tests/unit/decisions/test_integrity.py::test_a_unit_of_no_run_that_there_is_is_named",
    ),
    Mutant(
        name="a forge that is away makes the worker unfit",
        file=FITNESS,
        original="    if facts.oldest_pending_at is not None and not facts.looks_fail:",
        replacement="    if facts.oldest_pending_at is not None:",
        caught_by="tests/unit/decisions/test_fitness.py::test_an_outage_of_the_forge_or_of_redis_is_said_and_does_not_decide",
    ),
    Mutant(
        name="a full disk stops production too",
        file=DISK_FLOOR,
        original="        if slot.slot == MAIN or slot.lease is None or stop_in_force(observed, slot) is not None:",
        replacement="        if stop_in_force(observed, slot) is not None:",
        caught_by="tests/unit/decisions/test_disk_floor.py::test_previews_that_run_stop_below_the_floor_and_production_does_not",
    ),
)
