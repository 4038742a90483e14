"""What do the addresses of people answer at the development forge: what they say, what they may, how we react?

Whoever has the developer's token is the developer, who may everything. Others are played by knobs:
- comment {pull, author, body}: somebody says something. permission {user, permission}: what somebody may from now on.
- pull {number, labels, draft, base, author}: what somebody made of a pull request. fork_push {number, branch}: a fork's
  pull request has the head of that branch now.
https://docs.github.com/rest/collaborators/collaborators · https://docs.github.com/rest/reactions/reactions
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from controller.development.forge_events import Problem, invalid
from controller.development.forge_input import page, read_object, text
from controller.development.forge_report_doors import ReportDoors
from controller.development.forge_shapes import DEVELOPER, STRANGER, Json, Object, Pull, person

REACTIONS: Final = ("+1", "-1", "laugh", "confused", "heart", "hooray", "rocket", "eyes")
PERMISSIONS: Final = ("none", "read", "triage", "write", "maintain", "admin")
#: Who is known from the beginning: a stranger may read what is public.
KNOWN: Final = {DEVELOPER[0]: "admin", STRANGER[0]: "read"}
LABELS_MAX: Final = 100
_Change = Callable[[Pull], Pull]


class PeopleDoors:
    """The addresses of what people say, and the knobs that have them say it."""

    def __init__(self, reports: ReportDoors) -> None:
        self.reports = reports
        self.guard = reports.guard
        self.forge = reports.guard.forge
        self.records = reports.guard.forge.records

    # -- the API ------------------------------------------------------------------------------------------------------

    async def permission(self, request: Request) -> Response:
        self.guard.admit(request, "metadata:read")
        login = str(request.path_params["login"])
        level = self._permissions().get(login)
        if level is None:
            raise Problem(404, "Not Found")
        # The old levels know neither maintain nor triage.
        base = {"maintain": "write", "triage": "read"}.get(level, level)
        rank = PERMISSIONS.index(level)
        user: Object = {
            **self.forge.shapes.user(person(login)),
            "permissions": {
                name: rank >= PERMISSIONS.index(needed)
                for name, needed in (
                    ("pull", "read"),
                    ("triage", "triage"),
                    ("push", "write"),
                    ("maintain", "maintain"),
                    ("admin", "admin"),
                )
            },
            "role_name": level,
        }
        return JSONResponse({"permission": base, "role_name": level, "user": user})

    async def all_comments(self, request: Request) -> Response:
        """Answer for the comments of all pull requests."""
        self.guard.admit(request, "issues:read", "pull_requests:read")
        query = request.query_params
        since = query.get("since", "")
        found = [one for one in self.records.load_all_made("comment") if str(one[2]["updated_at"]) >= since]
        if query.get("sort") == "updated":
            found.sort(key=lambda one: (str(one[2]["updated_at"]), one[0]))
        if query.get("direction") == "desc":
            found.reverse()
        shown, headers = page(request, found)
        return JSONResponse([self.reports.comment_shape(*one) for one in shown], headers=headers)

    async def react(self, request: Request) -> Response:
        caller = self.guard.admit(request, "issues:write", "pull_requests:write")
        comment, _ = self._read_comment(request)
        content = (await read_object(request)).get("content")
        if content not in REACTIONS:
            raise invalid("Reaction", "content")
        by_app = caller.kind == "installation"
        for made, kept in self.records.load_made("reaction", str(comment)):
            if (kept["content"], kept["by_app"]) == (content, by_app):
                return JSONResponse(self._reaction_shape(made, kept))
        new: Object = {"content": content, "by_app": by_app, "created_at": self.forge.now_text()}
        made = self.records.add_made("reaction", str(comment), new)
        return JSONResponse(self._reaction_shape(made, new), status_code=201)

    async def reactions(self, request: Request) -> Response:
        self.guard.admit(request, "issues:read", "pull_requests:read")
        comment, _ = self._read_comment(request)
        shown, headers = page(request, self.records.load_made("reaction", str(comment)))
        return JSONResponse([self._reaction_shape(made, kept) for made, kept in shown], headers=headers)

    def _read_comment(self, request: Request) -> tuple[int, str]:
        number = int(request.path_params["made"])
        found = self.records.find_made("comment", number) if number < 1 << 62 else None
        if found is None:
            raise Problem(404, "Not Found")
        return number, found[0]

    def _reaction_shape(self, made: int, kept: Object) -> Object:
        return {
            "id": made,
            "node_id": f"REA_{made}",
            "user": self.reports.user_of(kept),
            "content": kept["content"],
            "created_at": kept["created_at"],
        }

    # -- the knobs ----------------------------------------------------------------------------------------------------

    async def say(self, request: Request) -> Response:
        """Have somebody comment on a pull request."""
        self.guard.admit_developer(request)
        content = await read_object(request)
        number, author, body = content.get("pull"), text(content, "author", "User"), text(content, "body", "Comment")
        if not isinstance(number, int) or self.records.load_pull(number) is None:
            raise Problem(404, "Not Found")
        self._make_known(author)
        return JSONResponse(self.reports.add_comment(number, body, author=author), status_code=201)

    async def rerun(self, request: Request) -> Response:
        """Have somebody click on Re-run at a check: the App that made it hears of it, and nobody else."""
        self.guard.admit_developer(request)
        content = await read_object(request)
        check, user = content.get("check"), text(content, "user", "User")
        found = self.records.find_made("check", check) if isinstance(check, int) and check < 1 << 62 else None
        if found is None or not isinstance(check, int) or self.forge.app_hook() is None:
            raise Problem(404, "Not Found")
        self._make_known(user)
        sha, kept = found
        payload: Object = {"action": "rerequested", "check_run": self.reports.rerun_shape(check, sha, kept)}
        payload |= {"repository": self.forge.repository_shape(), "sender": self.forge.shapes.user(person(user))}
        self.forge.deliver("check_run", "rerequested", payload)
        return JSONResponse({"check": check, "user": user}, status_code=201)

    async def permit(self, request: Request) -> Response:
        """Say what somebody may from now on."""
        self.guard.admit_developer(request)
        content = await read_object(request)
        login, level = text(content, "user", "User"), content.get("permission")
        if level not in PERMISSIONS:
            raise Problem(422, f"permission is one of {', '.join(PERMISSIONS)}")
        self.records.set_fact("permissions", json.dumps({**self._permissions(), login: level}))
        return JSONResponse({"user": login, "permission": level})

    async def change_pull(self, request: Request) -> Response:
        """Label a pull request, make a draft of it, give it another base or author, each told by its own event."""
        self.guard.admit_developer(request)
        content = await read_object(request)
        async with self.forge.changing:
            pull = self._pull(content)
            for action, changed in self._changes(pull, content):
                pull = replace(changed(pull), updated_at=self.forge.now_text())
                self.forge.change_pull(pull, action)
        return JSONResponse(self.forge.pull_shape(pull))

    async def push_to_fork(self, request: Request) -> Response:
        """Move the head of a fork's pull request to that of a branch."""
        self.guard.admit_developer(request)
        content = await read_object(request)
        async with self.forge.changing:
            pull = self._pull(content)
            head = self.forge.git.branch_head(text(content, "branch", "PullRequest"))
            if head is None or pull.origin == "own":
                raise invalid("PullRequest", "head")
            self.forge.git.set_pull_head(pull.number, head)
            before, pull = pull.head_sha, replace(pull, head_sha=head, updated_at=self.forge.now_text())
            self.forge.change_pull(pull, "synchronize", before=before, after=head)
        return JSONResponse(self.forge.pull_shape(pull))

    def _changes(self, pull: Pull, content: Object) -> list[tuple[str, _Change]]:
        changes: list[tuple[str, _Change]] = []
        labels, draft, base, author = (content.get(key) for key in ("labels", "draft", "base", "author"))
        if isinstance(labels, list) and len(labels) <= LABELS_MAX and all(isinstance(label, str) for label in labels):
            names = tuple(str(label) for label in labels)
            changes.append(("labeled" if len(names) >= len(pull.labels) else "unlabeled", _with_labels(names)))
        if isinstance(draft, bool):
            changes.append(("converted_to_draft" if draft else "ready_for_review", _as_draft(draft=draft)))
        if isinstance(author, str):
            self._make_known(author)
            changes.append(("edited", _by(author)))
        if isinstance(base, str):
            sha = self.forge.git.branch_head(base)
            if sha is None:
                raise invalid("PullRequest", "base")
            changes.append(("edited", _towards(base, sha)))
        return changes

    def _pull(self, content: Object) -> Pull:
        number = content.get("number")
        pull = self.records.load_pull(number) if isinstance(number, int) and number < 1 << 62 else None
        if pull is None:
            raise Problem(404, "Not Found")
        return pull

    def _permissions(self) -> dict[str, str]:
        kept: Json = json.loads(self.records.load_fact("permissions") or "{}")
        assert isinstance(kept, dict)
        return {**KNOWN, self.forge.shapes.owner: "admin", **{login: str(level) for login, level in kept.items()}}

    def _make_known(self, login: str) -> None:
        """Whoever says something at a public repository may at least read it."""
        known = self._permissions()
        if login not in known:
            self.records.set_fact("permissions", json.dumps({**known, login: "read"}))


def _with_labels(names: tuple[str, ...]) -> _Change:
    return lambda pull: replace(pull, labels=names)


def _as_draft(*, draft: bool) -> _Change:
    return lambda pull: replace(pull, is_draft=draft)


def _by(author: str) -> _Change:
    return lambda pull: replace(pull, author=author)


def _towards(base: str, sha: str) -> _Change:
    return lambda pull: replace(pull, base_branch=base, base_sha=sha)
