"""What does the page of a check run say? What was decided and why, its steps with those that are still to come, its
verdicts, and the end of a bad log.

Written when it is sent, from the journal of the run: only then are the last lines there. Whatever is too long gives way
from the log's beginning, so that the page fits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from controller.decisions.explain import BECAUSE, end_of_run
from controller.decisions.github.checks import TEXT_CHARS_MAX, Annotation, CheckRun
from controller.decisions.markdown import block, cell, chars, code, plain, table, visible
from controller.model.config import Recipe
from controller.model.names import JobKind, instance_unit, job_unit
from controller.model.nouns import Run, Verdict
from controller.model.redaction import redact
from controller.model.reports import WantedCheck
from controller.model.states import RUN_TERMINAL, CheckState, RunState

LOG_LINES_MAX: Final = 80
LOG_LINE_CHARS_MAX: Final = 500
STEPS_MAX: Final = 60
STEP_ERROR_CHARS_MAX: Final = 300
PROBLEMS_MAX: Final = 50
_FAILED: Final = (RunState.FAILED, RunState.ROLLED_BACK, RunState.STALLED)
#: The journal's word for an instance that was started.
INSTANCE_STEP: Final = "start"
#: The journal's words for what was judged.
STEP_OF_VERDICT: Final = {"gate": "gate", "watch": "window"}
#: The journal's words for what a run goes through.
_CHECKOUT, _BUILD, _MIGRATE, _SWITCH = "checkout", "build", "migrate", "switched"
_LOGGED_JOBS: Final[tuple[JobKind, ...]] = ("migrate", "build")
#: `tomllib` and we say so.
_AT_LINE: Final = re.compile(r"\(at line (\d{1,6})[,)]")


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalStep:
    """A line of a run's journal."""

    step: str
    began_at: datetime
    ended_at: datetime | None
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """All that was kept of one run, and the last lines of what it wrote, when it failed."""

    run: Run
    #: How its release is deployed; None when its deploy.toml cannot be read.
    recipe: Recipe | None = None
    steps: tuple[JournalStep, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    log_unit: str = ""
    log: tuple[str, ...] = ()


def wants_log(run: Run) -> bool:
    """Say whether the end of the log belongs to the page."""
    return run.state in _FAILED


def units_to_read(story: Story) -> tuple[str, ...]:
    """Return the units of a run whose log may tell why it failed, the latest stage first."""
    run, did = story.run, {step.step for step in story.steps}
    instances = (instance_unit(run.slot, run.colour),) if run.colour is not None and INSTANCE_STEP in did else ()
    return (*instances, *(job_unit(kind, run.slot) for kind in _LOGGED_JOBS))


def write_check(
    wanted: WantedCheck, story: Story | None, *, problems: Sequence[str] = (), deploy_toml: bytes = b""
) -> CheckRun:
    """Return the check run with its page."""
    return CheckRun(
        sha=wanted.sha,
        name=wanted.context,
        external_id=str(wanted.generation),
        state=wanted.state,
        title=wanted.title,
        summary=_page(wanted, story, problems),
        details_url=wanted.details_url,
        annotations=tuple(
            Annotation(path="deploy.toml", line=problem_line(problem, deploy_toml), message=_shown(problem))
            for problem in problems[:PROBLEMS_MAX]
        ),
    )


def _shown(problem: str) -> str:
    return visible(redact(problem))[:LOG_LINE_CHARS_MAX]


def plain_check(check: CheckRun) -> CheckRun:
    """Return the check run without all that the forge may have refused: its words remain, in ASCII."""
    title = plain(check.title)
    return replace(check, title=title, summary=block([title]), details_url=None, annotations=())


def _page(wanted: WantedCheck, story: Story | None, problems: Sequence[str]) -> str:
    parts = [code(wanted.title)]
    if wanted.state is CheckState.ACTION_REQUIRED:
        parts.append(
            f"Where `[permissions] accept_fork_risk` is set, the comment `/preview {wanted.sha}` of somebody who may"
            " write here has it previewed."
        )
    if problems:
        listed = "\n".join(f"- {code(problem, chars_max=LOG_LINE_CHARS_MAX)}" for problem in problems[:PROBLEMS_MAX])
        parts.append(f"### deploy.toml\n\n{listed}")
    if story is not None:
        parts += _of_run(story)
    page = "\n\n".join(parts)
    return page if story is None or not story.log else _with_log(page, story)


def _of_run(story: Story) -> list[str]:
    run = story.run
    release = "" if run.release == run.head.sha else f", by release {code(run.release[:7])}, whose content it has"
    parts = [
        f"Run {run.generation} of {code(run.head.sha[:7])} in {code(run.slot)}{release}: {BECAUSE[run.cause]}."
        + (f" It was begun {run.attempts} times." if run.attempts > 1 else "")
    ]
    said = end_of_run(run.state, run.reason, run.message, successor=run.successor, switched_back=run.switched_back)
    if said:
        parts.append(f"{code(run.reason or str(run.state))}: {code(said)}")
    rows = _steps(story)
    if rows:
        parts.append("### Steps\n\n" + table(("step", "began", "took", "result"), rows))
    if story.verdicts:
        judged = [(one.kind, str(one.outcome), cell(_why(one), chars_max=LOG_LINE_CHARS_MAX)) for one in story.verdicts]
        proof = f"\n\nProof that the new release answered: {code(run.proof)}." if run.proof else ""
        parts.append("### Verdicts\n\n" + table(("of", "verdict", "why"), judged) + proof)
    return parts


def plan_of(recipe: Recipe) -> tuple[str, ...]:
    """Return what a run of such a release goes through, in the journal's words."""
    found = [_CHECKOUT]
    if recipe.build is not None:
        found.append(_BUILD)
    if recipe.database is not None and recipe.database.migrate is not None:
        found.append(_MIGRATE)
    if recipe.api is not None:
        found.append(INSTANCE_STEP)
    return (*found, STEP_OF_VERDICT["gate"], _SWITCH, STEP_OF_VERDICT["watch"])


def _steps(story: Story) -> list[tuple[str, str, str, str]]:
    """Return the journal as rows of a table, and what of the plan is not in it where it belongs."""
    plan = plan_of(story.recipe) if story.recipe is not None else ()
    journal = story.steps[:STEPS_MAX]
    last = {one.step: place for place, one in enumerate(journal)}
    done = next((place for place, one in enumerate(journal) if one.step in plan), len(journal))
    rows = [_row(one) for one in journal[:done]]
    for number, step in enumerate(plan):
        if step in last:
            rows += [_row(one) for one in journal[done : last[step] + 1]]
            done = max(done, last[step] + 1)
        else:
            rows.append(_row_without(step, story, is_passed=any(later in last for later in plan[number + 1 :])))
    return [*rows, *(_row(one) for one in journal[done:])]


def _row(step: JournalStep) -> tuple[str, str, str, str]:
    is_judged = step.step in STEP_OF_VERDICT.values()
    result = cell(step.error, chars_max=STEP_ERROR_CHARS_MAX) if step.error else "passed" if is_judged else "done"
    return (cell(step.step), f"{step.began_at:%H:%M:%S} UTC", _took(step), result)


def _row_without(step: str, story: Story, *, is_passed: bool) -> tuple[str, str, str, str]:
    """Return the row of a step that the journal does not have; `is_passed`: it has a later one of the plan."""
    run = story.run
    if step == _SWITCH and run.switched_at is not None:
        return (cell(step), f"{run.switched_at:%H:%M:%S} UTC", "", "done")  # by the judge
    if is_passed:
        return (cell(step), "", "", "not needed")
    if run.state in RUN_TERMINAL:
        return (cell(step), "", "", "not reached")
    if step == STEP_OF_VERDICT["watch"] and run.state is RunState.WATCHING and run.watch_until is not None:
        return (cell(step), "", "", f"until {run.watch_until:%H:%M:%S} UTC")
    return (cell(step), "", "", "to come")


def _took(step: JournalStep) -> str:
    if step.ended_at is None or step.ended_at <= step.began_at:
        return ""
    return f"{(step.ended_at - step.began_at).total_seconds():.2f} s"


def _why(verdict: Verdict) -> str:
    return ": ".join(part for part in (verdict.reason, verdict.message) if part)


def _with_log(page: str, story: Story) -> str:
    """Return the page with as many of the last lines as fit."""
    lines = [line[:LOG_LINE_CHARS_MAX] for line in story.log[-LOG_LINES_MAX:]]
    while lines:
        whole = f"{page}\n\n### The last {len(lines)} lines of {code(story.log_unit)}\n\n{block(lines)}"
        if chars(whole) <= TEXT_CHARS_MAX:
            return whole
        lines = lines[1:]
    return page


def problem_line(problem: str, deploy_toml: bytes) -> int:
    """Return the line of deploy.toml that a problem is about, as well as it can be told; 1 otherwise."""
    named = _AT_LINE.search(problem)
    lines = deploy_toml.decode("utf-8-sig", "replace").splitlines()
    if named is not None:
        return max(1, min(int(named[1]), max(1, len(lines))))
    path = problem.partition(": ")[0].split(".")
    table_name, key = (path[0], path[1]) if len(path) > 1 else (path[0], "")
    in_table, found = "", 1
    for number, line in enumerate(lines, start=1):
        words = line.strip()
        if words.startswith("["):
            in_table = words.strip("[] ").partition(".")[0].strip()
            if in_table == table_name and not key:
                return number
            if in_table == table_name:
                found = number
            continue
        written = words.partition("=")[0].strip().strip("\"'")
        if (in_table, written) == (table_name, key) or (not in_table and not key and written == table_name):
            return number
    return found
