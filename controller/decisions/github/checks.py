"""What do we ask and tell about check runs? Only a GitHub App may write them, and each App its own.

Annotations are added to those that a check run has, whenever it is changed: so whoever changes one looks first. A check
run that is completed may get another conclusion, and never goes back to be in progress.
https://docs.github.com/rest/checks/runs
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote

from controller.decisions.github.answers import raise_unless
from controller.decisions.github.wire import (
    Json,
    Object,
    Reply,
    Request,
    ask,
    read_json,
    read_list,
    read_number,
    read_object,
    tell,
    told,
)
from controller.model.errors import Stalled
from controller.model.names import Sha
from controller.model.states import CheckState

ANNOTATIONS_MAX: Final = 50
#: Of a title, a summary and a text each.
TEXT_CHARS_MAX: Final = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """Something wrong in a file, at a line."""

    path: str
    line: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRun:
    """A check run as it shall be."""

    sha: Sha
    name: str
    external_id: str
    state: CheckState
    title: str
    summary: str
    details_url: str | None
    annotations: tuple[Annotation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownCheck:
    """A check run as the forge shows it."""

    id: int
    external_id: str
    state: CheckState | None
    title: str
    summary: str
    annotations: int


def create_check(repository: str, check: CheckRun) -> Request:
    """Make a check run."""
    return tell("POST", f"/repos/{repository}/check-runs", {"head_sha": check.sha, **_content(check)})


def update_check(repository: str, number: int, check: CheckRun) -> Request:
    """Change a check run of ours."""
    return tell("PATCH", f"/repos/{repository}/check-runs/{number}", _content(check))


def get_check(repository: str, number: int) -> Request:
    """Ask for a check run."""
    return ask(f"/repos/{repository}/check-runs/{number}")


def list_checks(repository: str, sha: Sha, *, name: str, app_id: int) -> Request:
    """Ask for the newest check runs of a commit, of one name and one App."""
    query = f"check_name={quote(name, safe='')}&app_id={app_id}&filter=all&per_page=100"
    return ask(f"/repos/{repository}/commits/{quote(sha, safe='')}/check-runs?{query}")


def _content(check: CheckRun) -> Object:
    output: Object = {"title": check.title, "summary": check.summary}
    if check.annotations:
        annotations: list[Json] = [
            {
                "path": one.path,
                "start_line": one.line,
                "end_line": one.line,
                "annotation_level": "failure",
                "message": one.message,
            }
            for one in check.annotations[:ANNOTATIONS_MAX]
        ]
        output["annotations"] = annotations
    content: Object = {"name": check.name, "external_id": check.external_id, "output": output}
    if check.details_url is not None:
        content["details_url"] = check.details_url
    if check.state.is_completed:
        return {**content, "status": "completed", "conclusion": str(check.state)}
    return {**content, "status": str(check.state)}


def read_written_check(reply: Reply, *, is_new: bool, now: datetime) -> int:
    """Return the id of a check run that was written; Stalled when the forge will never take it."""
    what = "write a check run"
    if reply.status == 422:
        raise Stalled("CheckRefused", f"the forge does not take the check run: {told(reply)}")
    raise_unless(201 if is_new else 200, reply, what=what, permission="checks: write", now=now)
    return read_number(read_object(read_json(reply, what), what), "id", what)


def read_check(reply: Reply, *, now: datetime) -> ShownCheck | None:
    """Return a check run; None when there is none of that id any more."""
    what = "get a check run"
    if reply.status == 404:
        return None
    raise_unless(200, reply, what=what, permission="checks: read", now=now)
    return _shown(read_object(read_json(reply, what), what), what)


def read_checks(reply: Reply, *, now: datetime) -> tuple[ShownCheck, ...]:
    """Return the check runs of a commit, the newest first."""
    what = "list the check runs"
    raise_unless(200, reply, what=what, permission="checks: read", now=now)
    listed = read_object(read_json(reply, what), what).get("check_runs")
    found = [_shown(read_object(one, what), what) for one in read_list(listed, what)]
    return tuple(sorted(found, key=lambda one: -one.id))


def _shown(found: Object, what: str) -> ShownCheck:
    output = read_object(found.get("output"), what)
    count = output.get("annotations_count")
    state = found.get("conclusion") if found.get("status") == "completed" else found.get("status")
    return ShownCheck(
        id=read_number(found, "id", what),
        external_id=str(found.get("external_id") or ""),
        state=CheckState(state) if isinstance(state, str) and state in list(CheckState) else None,
        title=str(output.get("title") or ""),
        summary=str(output.get("summary") or ""),
        annotations=count if isinstance(count, int) else 0,
    )
