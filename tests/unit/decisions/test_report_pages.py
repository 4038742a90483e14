"""What do a check's page, a deployment and the comment say? One rule a test."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decisions.github.checks import TEXT_CHARS_MAX
from controller.decisions.github.comments import MARKER, Author, ShownComment
from controller.decisions.markdown import block, chars, code
from controller.decisions.projection import project_all
from controller.decisions.report_checks import JournalStep, Story, problem_line, units_to_read, wants_log, write_check
from controller.decisions.slots import QueuePlace
from controller.model.config import Api, Build, Database, Permissions, Policy, Previews, Recipe, Web
from controller.model.names import Topology, pull_request_domain
from controller.model.nouns import CommandAnswer, Run
from controller.model.reports import (
    FORGE_SURFACES,
    WantedCheck,
    WantedComment,
    WantedDeployment,
    WantedReport,
    WantedStatus,
    report_from_json,
    report_to_json,
)
from controller.model.states import RUN_TERMINAL, CheckState, DeploymentState, Outcome, RunState
from controller.model.world import COMMANDS_SHOWN_MAX, Observed, SlotObserved
from tests.builders import (
    PREVIEW_1,
    at,
    free,
    head,
    lease,
    live,
    observed,
    proven,
    pull,
    run,
    serving,
    sha,
    verdict,
)

TOPOLOGY = Topology()
R1 = run(1, 1, RunState.LIVE, proof="owner")
PREVIEW_RUN = run(7, 101, RunState.LIVE, slot=PREVIEW_1, fence=50)


def wanted(seen: Observed, *queue: QueuePlace) -> tuple[WantedReport, ...]:
    found = project_all(seen, queue, TOPOLOGY, surfaces=FORGE_SURFACES, now=at(5000))
    assert len({(report.surface, report.key) for report in found}) == len(found)
    for report in found:
        assert report_from_json(report.surface, report_to_json(report)) == report
    return found


def checks(seen: Observed, *queue: QueuePlace) -> dict[tuple[str, str], WantedCheck]:
    return {(one.sha, one.context): one for one in wanted(seen, *queue) if isinstance(one, WantedCheck)}


def deployments(seen: Observed) -> dict[int, tuple[str, str]]:
    return {
        one.generation: (one.environment, str(one.state)) for one in wanted(seen) if isinstance(one, WantedDeployment)
    }


def comments(seen: Observed, *queue: QueuePlace) -> dict[int, WantedComment]:
    return {one.pull_request: one for one in wanted(seen, *queue) if isinstance(one, WantedComment)}


def answered(number: int) -> CommandAnswer:
    return CommandAnswer(
        pull_request=1,
        comment_id=number,
        author="ann",
        permission="write",
        said="/preview stop",
        state="refused",
        reason="NotHeld",
        message="it holds @nothing",
        sha=None,
        commented_at=at(0),
        decided_at=at(number),
    )


def shown(generation: int, number: int, environment: str, state: DeploymentState) -> WantedDeployment:
    return WantedDeployment(
        sha=sha(number),
        environment=environment,
        generation=generation,
        state=state,
        description="",
        environment_url=None,
    )


# -- checks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(RunState))
def test_every_state_of_a_run_has_a_check_that_agrees_with_its_status(state: RunState) -> None:
    this = run(5, 2, state, reason="GateFailed", message="it answered 500")
    slot = serving(R1)
    slot = replace(slot, recent_runs=(this, R1)) if state in RUN_TERMINAL else replace(slot, run=this)
    seen = observed(slot, at_head=this.head, proven=(proven(1, generation=1),))
    (status,) = (one for one in wanted(seen) if isinstance(one, WantedStatus) and one.sha == sha(2))
    check = checks(seen)[sha(2), "oroboros/production"]
    is_passing = check.state is CheckState.IN_PROGRESS
    assert (check.title, check.generation) == ("under way" if is_passing else status.description, status.generation)
    assert check.state.is_completed == (state in RUN_TERMINAL)
    assert (check.state is CheckState.SUCCESS) == (str(status.state) == "success")


def test_a_queued_preview_is_neutral_and_a_fork_asks_for_action() -> None:
    queued, strange = pull(1), pull(2, same_repository=False)
    seen = observed(SlotObserved(slot=PREVIEW_1, live=free(PREVIEW_1)), pulls=(queued, strange))
    found = checks(seen, QueuePlace(pull_request=1, position=1))
    assert found[queued.head_sha, "oroboros/preview"].state is CheckState.NEUTRAL
    assert found[strange.head_sha, "oroboros/preview"].state is CheckState.ACTION_REQUIRED


def test_a_token_has_no_check_runs() -> None:
    seen = observed(serving(R1), at_head=head(1))
    found = project_all(seen, (), TOPOLOGY, surfaces=("status", "deployment", "comment"), now=at(5000))
    assert {report.surface for report in found} == {"status", "deployment"}


def page(this: Run, **changed: object) -> str:
    wanted_check = WantedCheck(
        sha=this.head.sha,
        context="oroboros/production",
        state=CheckState.FAILURE,
        title="BuildFailed: it did not end well",
        details_url=None,
        generation=this.generation,
    )
    story = Story(
        run=this,
        steps=(JournalStep(step="checkout", began_at=at(0), ended_at=at(1.5)),),
        verdicts=(verdict(this, "gate", Outcome.FAIL),),
        log_unit="build-main",
    )
    return write_check(wanted_check, replace(story, **changed)).summary


FAILED = run(5, 2, RunState.FAILED, reason="BuildFailed", message="it did not end well")


def test_the_page_tells_why_what_and_how_long() -> None:
    told = page(FAILED)
    for words in ("it is the newest commit", "| `checkout` | 12:00:00 UTC | 1.50 s |", "| gate | fail | `GateFailed:"):
        assert words in told


RECIPE = Recipe(build=Build(command=("make",)), database=Database(migrate=("true",)), api=Api(command=("app",)))


def steps(this: Run, *journal: JournalStep, recipe: Recipe | None = RECIPE) -> list[tuple[str, str, str]]:
    """Return the page's table of steps: step, took, result."""
    told = page(this, steps=journal, recipe=recipe, verdicts=()).partition("### Steps")[2]
    return re.findall(r"^\| `(.+?)` \| .*? \| (.*?) \| (.*?) \|$", told, re.MULTILINE)


def did(step: str, began_s: float, took_s: float = 0.5, error: str = "") -> JournalStep:
    return JournalStep(step=step, began_at=at(began_s), ended_at=at(began_s + took_s), error=error)


def test_the_page_of_a_run_under_way_shows_its_plan_with_what_is_still_to_come() -> None:
    this = run(5, 2, RunState.GATING)
    journal = (did("begun", 0, 0), did("checkout", 0), did("database", 1), did("build", 1), did("migrate", 2))
    assert steps(this, *journal) == [
        ("begun", "", "done"),
        ("checkout", "0.50 s", "done"),
        ("database", "0.50 s", "done"),
        ("build", "0.50 s", "done"),
        ("migrate", "0.50 s", "done"),
        ("start", "", "to come"),
        ("gate", "", "to come"),
        ("switched", "", "to come"),
        ("window", "", "to come"),
    ]


def test_a_restored_release_needs_neither_checkout_nor_build_and_its_window_says_until_when() -> None:
    this = replace(run(5, 2, RunState.WATCHING, switched_s=3), watch_until=at(63))
    journal = (did("begun", 0, 0), did("migrate", 1), did("start", 2), did("gate", 2), did("switched", 3))
    assert steps(this, *journal)[1:] == [
        ("checkout", "", "not needed"),
        ("build", "", "not needed"),
        ("migrate", "0.50 s", "done"),
        ("start", "0.50 s", "done"),
        ("gate", "0.50 s", "passed"),
        ("switched", "0.50 s", "done"),
        ("window", "", "until 12:01:03 UTC"),
    ]


def test_the_page_of_a_run_that_ended_shows_what_it_did_not_reach_and_what_its_window_said() -> None:
    failed = steps(FAILED, did("checkout", 0), did("build", 1, error="exited with 1"))
    assert failed[1:3] == [("build", "0.50 s", "`exited with 1`"), ("migrate", "", "not reached")]
    back = run(5, 2, RunState.ROLLED_BACK, switched_s=3)
    journal = (did("checkout", 0), did("gate", 1), did("window", 4, 10, "WindowFailed"), did("switched back", 14))
    assert steps(back, *journal, recipe=Recipe(web=Web(static="public"))) == [
        ("checkout", "0.50 s", "done"),
        ("gate", "0.50 s", "passed"),
        ("switched", "", "done"),
        ("window", "10.00 s", "`WindowFailed`"),
        ("switched back", "0.50 s", "done"),
    ]
    assert steps(FAILED, did("checkout", 0), recipe=None) == [("checkout", "0.50 s", "done")]


def test_only_the_last_eighty_lines_are_shown_and_of_those_what_fits() -> None:
    told = page(FAILED, log=tuple(f"line {n}" for n in range(100)))
    assert "line 19\n" not in told
    assert "line 20\n" in told
    assert "line 99\n" in told
    long = page(FAILED, log=("\N{SNAKE}" * 500,) * 80)
    assert "\\U0001f40d" in long
    assert chars(long) <= TEXT_CHARS_MAX
    assert not wants_log(R1)


def test_the_log_is_that_of_the_latest_stage_that_was_reached() -> None:
    jobs = ("migrate-main", "build-main")
    assert units_to_read(Story(run=FAILED)) == jobs
    started = JournalStep(step="start", began_at=at(0), ended_at=at(1))
    assert units_to_read(Story(run=FAILED, steps=(started,))) == ("main-a", *jobs)


def test_code_masks_secrets_and_blocks_spell_what_does_not_show() -> None:
    assert "ghs_" not in code(f"token ghs_{'a' * 36}")
    assert block(["a\x1b[31mb\tc"]) == "```text\na\\x1b[31mb    c\n```"


TOML = b'# a comment\n[api]\ncommand = "x"\n\n[gate]\nwindow = 3\n[web]\nstatic = "public"\n'


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        ("gate.window: is unknown; did you mean window_s?", 6),
        ("web: must be a table, [web]", 7),
        ("api.commands: is missing", 2),
        ("deploy.toml: is not TOML: Expected '=' after a key (at line 4, column 2)", 4),
        ("deploy.toml: is not UTF-8 (at line 99)", 8),
        ("nothing that is there: at all", 1),
        ("", 1),
    ],
)
def test_a_problem_is_shown_at_the_line_that_it_is_about(problem: str, line: int) -> None:
    assert problem_line(problem, TOML) == line


@given(st.text(), st.binary(max_size=200))
def test_every_problem_has_a_line(problem: str, body: bytes) -> None:
    assert 1 <= problem_line(problem, body) <= max(1, len(body.decode("utf-8", "replace").splitlines()))


# -- deployments ------------------------------------------------------------------------------------------------------


def test_what_serves_is_a_success_and_what_served_before_is_inactive() -> None:
    newer = run(5, 2, RunState.LIVE)
    seen = observed(replace(serving(newer), recent_runs=(newer, R1)), at_head=head(2))
    assert deployments(seen) == {5: ("production", "success")}  # nobody was told of the first
    told = shown(1, 1, "production", DeploymentState.SUCCESS)
    assert deployments(replace(seen, open_reports=(told,)))[1] == ("production", "inactive")


def test_a_run_is_a_deployment_from_its_checkout_on_and_a_failure_once_it_failed() -> None:
    slot = serving(R1)
    seen = observed(replace(slot, run=run(5, 2, RunState.PLANNED)), at_head=head(2))
    assert 5 not in deployments(seen)
    seen = observed(replace(slot, run=run(5, 2, RunState.GATING)), at_head=head(2))
    assert deployments(seen)[5] == ("production", "in_progress")
    ended = replace(slot, recent_runs=(run(5, 2, RunState.FAILED, reason="GateFailed"), R1))
    seen = replace(observed(ended, at_head=head(2)), open_reports=(shown(5, 2, "production", IN_PROGRESS),))
    assert deployments(seen)[5] == ("production", "failure")


IN_PROGRESS = DeploymentState.IN_PROGRESS


def test_what_is_rolled_back_fails_once_something_else_is_live_and_that_is_a_success_again() -> None:
    bad = run(5, 2, RunState.ROLLED_BACK, reason="WindowFailed", message="x", successor=1)
    told = (shown(5, 2, "production", IN_PROGRESS),)
    back = observed(replace(serving(R1), recent_runs=(bad, R1)), at_head=head(2))
    assert deployments(replace(back, open_reports=told)) == {
        1: ("production", "success"),
        5: ("production", "failure"),
    }
    still = observed(replace(serving(R1), live=live(bad), live_run=bad, recent_runs=(bad, R1)), at_head=head(2))
    assert deployments(replace(still, open_reports=told))[5] == ("production", "in_progress")


def test_a_deployment_of_a_preview_ends_with_its_lease_and_one_that_nothing_tells_of_ends_too() -> None:
    seen = observed(serving(PREVIEW_RUN), pulls=(pull(1),))
    assert deployments(seen) == {7: ("preview-1", "success")}
    ended = SlotObserved(slot=PREVIEW_1, live=live(PREVIEW_RUN), recent_runs=(PREVIEW_RUN,), ended_fence=50)
    told = (shown(7, 101, "preview-1", DeploymentState.SUCCESS), shown(3, 9, "preview-4", IN_PROGRESS))
    assert deployments(replace(observed(ended), open_reports=told)) == {
        3: ("preview-4", "inactive"),
        7: ("preview-1", "inactive"),
    }


# -- the comment ------------------------------------------------------------------------------------------------------


def test_the_comment_tells_url_sha_state_and_until_when() -> None:
    body = comments(observed(serving(PREVIEW_RUN), pulls=(pull(1),)))[1].body
    assert body.startswith(MARKER)
    for words in (
        "is live",
        TOPOLOGY.url(PREVIEW_1),
        f"`{sha(101)[:7]}`",
        "kept until 2026-03-01 13:00",
    ):
        assert words in body


def test_the_comment_tells_the_place_in_the_queue() -> None:
    waits = pull(2)
    seen = observed(serving(PREVIEW_RUN), pulls=(pull(1), waits))
    body = comments(seen, QueuePlace(pull_request=2, position=1))[2].body
    assert "waits for a slot" in body
    assert "queued, position 1; slots held by #1" in body


def test_the_comment_tells_the_last_failure_while_an_older_commit_serves() -> None:
    bad = run(9, 102, RunState.FAILED, slot=PREVIEW_1, fence=50, reason="GateFailed", message="it answered @everybody")
    slot = replace(serving(PREVIEW_RUN), recent_runs=(bad, PREVIEW_RUN))
    body = comments(observed(slot, pulls=(pull(1, 103),)))[1].body
    assert f"`{sha(102)[:7]}` `GateFailed: it answered @everybody`" in body
    assert f"which serves `{sha(101)[:7]}`" in body


def test_a_fork_is_told_how_to_ask_and_one_that_never_may_hears_nothing() -> None:
    strange = pull(2, same_repository=False)
    seen = observed(serving(R1), pulls=(strange,))
    assert "`[permissions] accept_fork_risk` in deploy.toml is off" in comments(seen)[2].body
    accepted = replace(seen, policy=Policy(permissions=Permissions(accept_fork_risk=True)))
    assert f"`/preview {strange.head_sha}`" in comments(accepted)[2].body
    assert comments(replace(seen, policy=Policy(permissions=Permissions(forks="never")))) == {}


@pytest.mark.parametrize(
    "rules", [Previews(enabled=False), Previews(comment=False), Previews(authors=("bob",)), Previews(labels=("show",))]
)
def test_nobody_who_is_filtered_out_gets_a_comment_nor_anybody_in_check_only_mode(rules: Previews) -> None:
    seen = observed(SlotObserved(slot=PREVIEW_1, live=free(PREVIEW_1)), pulls=(pull(1),))
    assert comments(replace(seen, policy=Policy(previews=rules))) == {}


def test_a_comment_that_is_there_tells_that_the_preview_ended_and_of_commands() -> None:
    told = WantedComment(pull_request=1, body="x", is_open=True)
    seen = replace(observed(serving(R1)), open_reports=(told,), commands=(answered(1),))
    ended = comments(seen)[1]
    assert not ended.is_open
    assert "the pull request is closed" in ended.body
    assert "- `/preview stop` by `ann`: refused, `NotHeld: it holds @nothing`" in ended.body
    assert comments(replace(seen, pulls_listed=False)) == {}
    filtered = replace(seen, pulls=(pull(1),), policy=Policy(previews=Previews(exclude_authors=("ann",))))
    assert "no preview: author ann (previews.exclude_authors)" in comments(filtered)[1].body


@pytest.mark.parametrize(
    "rules", [Previews(enabled=False), Previews(drafts=False), Previews(exclude_authors=("ann",)), Previews()]
)
def test_a_command_is_answered_with_its_reason_whatever_the_rules_say_of_the_preview(rules: Previews) -> None:
    seen = observed(SlotObserved(slot=PREVIEW_1, live=free(PREVIEW_1)), pulls=(replace(pull(1), is_draft=True),))
    seen = replace(seen, policy=Policy(previews=rules), commands=(answered(1),))
    assert "- `/preview stop` by `ann`: refused, `NotHeld: it holds @nothing`" in comments(seen)[1].body


def test_a_command_at_a_closed_pull_request_is_answered_in_a_comment_of_its_own() -> None:
    seen = replace(observed(serving(R1)), commands=(answered(1),))
    found = comments(seen)[1]
    assert (found.is_open, found.is_answer) == (False, True)
    assert "There is no preview: the pull request is closed." in found.body
    assert "`NotHeld: it holds @nothing`" in found.body
    told = WantedComment(pull_request=1, body="x", is_open=True)
    assert comments(replace(seen, open_reports=(told,))) == comments(seen)
    assert not comments(replace(seen, open_reports=(told,), commands=()))[1].is_answer
    assert comments(replace(seen, pulls_listed=False)) == {}


def test_check_only_mode_answers_no_command_in_a_comment() -> None:
    seen = replace(
        observed(serving(R1), pulls=(pull(1),)), commands=(answered(1), replace(answered(2), pull_request=2))
    )
    seen = replace(seen, policy=Policy(previews=Previews(comment=False)))
    assert comments(seen) == {}
    told = WantedComment(pull_request=2, body="x", is_open=True)
    assert not comments(replace(seen, open_reports=(told,)))[2].is_answer


def test_the_last_commands_are_shown_and_those_of_strangers_hide_nothing() -> None:
    ours = [replace(answered(n), said=f"/rollback {n}") for n in range(1, COMMANDS_SHOWN_MAX)]
    strangers = [replace(answered(n), said=f"/redeploy {n}", permission="read") for n in range(10, 15)]
    seen = replace(observed(serving(R1), pulls=(pull(1),)), commands=(*ours, *strangers))
    shown = re.findall(r"^- `/([a-z]+ \d+)`", comments(seen)[1].body, re.MULTILINE)
    assert shown == ["rollback 1", "rollback 2", "rollback 3", "rollback 4", "redeploy 14"]
    more = replace(seen, commands=(*seen.commands, *(replace(answered(n), said=f"/hold {n}") for n in (20, 21))))
    shown = re.findall(r"^- `/([a-z]+ \d+)`", comments(more)[1].body, re.MULTILINE)
    assert shown == ["rollback 2", "rollback 3", "rollback 4", "hold 20", "hold 21"]


def test_the_comment_changes_only_with_what_is_told() -> None:
    seen = observed(serving(PREVIEW_RUN), pulls=(pull(1),))
    other_slot = replace(seen, slots=(*seen.slots, serving(R1)), production_head=head(1))
    assert comments(seen) == comments(other_slot)
    assert PREVIEW_RUN.domain == pull_request_domain(1)
    later = replace(seen, slots=(replace(seen.slots[0], lease=lease(1, expires_s=7200)),))
    assert comments(seen) != comments(later)


@pytest.mark.parametrize(
    ("by", "body", "ours"),
    [
        ({"app_id": 42, "user_id": 9}, f"{MARKER}\nx", True),
        ({"app_id": 42, "user_id": 9}, "x", False),
        ({"app_id": 42, "user_id": 9}, f"> {MARKER}", False),
        ({"app_id": 43, "user_id": 9}, f"{MARKER}\nx", False),
        ({"app_id": None, "user_id": 5}, f"{MARKER}\nx", False),
    ],
)
def test_a_comment_is_ours_by_its_author_and_its_marker(by: dict[str, int | None], body: str, ours: bool) -> None:
    found = ShownComment(id=1, body=body, **by)
    assert found.is_ours(Author(app_id=42, user_id=None)) == ours
    assert ShownComment(id=1, body=MARKER, app_id=None, user_id=5).is_ours(Author(app_id=None, user_id=5))
    assert not ShownComment(id=1, body=MARKER, app_id=42, user_id=5).is_ours(Author(app_id=None, user_id=5))
