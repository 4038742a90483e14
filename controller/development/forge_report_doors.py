"""What do the addresses of check runs, deployments and comments answer at the development forge?

As strict as GitHub where its schema is silent: only an App writes check runs, and changes its own; `completed` needs a
conclusion and is for good; texts have 65,535 characters at most and a request 50 annotations, which add to those that
are there; descriptions, environments and annotations take no characters beyond U+FFFF; a deployment waits for the
commit's statuses and merges the default branch into it unless it is told not to; a success makes earlier deployments of
the environment inactive, but never those of a production or transient one.
https://docs.github.com/rest/checks/runs · https://docs.github.com/rest/deployments · https://docs.github.com/rest/issues/comments
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from controller.development.forge_app import APP_ID
from controller.development.forge_events import Problem, invalid
from controller.development.forge_guard import Guard
from controller.development.forge_input import page, read_object, require_bmp, text
from controller.development.forge_shapes import DEFAULT_BRANCH, DEVELOPER, Json, Object, person

OUTPUT_CHARS_MAX: Final = 65_535
COMMENT_CHARS_MAX: Final = 65_536
DESCRIPTION_CHARS_MAX: Final = 140
ANNOTATIONS_MAX: Final = 50
NAME_CHARS_MAX: Final = 255
BOT_ID: Final = 9
#: Those that an App may give; `stale` is GitHub's own.
CONCLUSIONS: Final = ("action_required", "cancelled", "failure", "neutral", "success", "skipped", "timed_out")
LEVELS: Final = ("notice", "warning", "failure")
DEPLOYMENT_STATES: Final = ("error", "failure", "inactive", "in_progress", "queued", "pending", "success")


class ReportDoors:
    """The addresses of everything that reports write, beside commit statuses."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.forge = guard.forge
        self.records = guard.forge.records

    # -- check runs ---------------------------------------------------------------------------------------------------

    async def create_check(self, request: Request) -> Response:
        self._admit_app(request)
        content = await read_object(request)
        name, sha = _bounded(content, "name", "CheckRun"), self._commit(text(content, "head_sha", "CheckRun"))
        number = self.records.add_made(
            "check", sha, {"name": name, "annotations": 0, "started_at": self.forge.now_text()}
        )
        return self._check_answer(number, sha, {"status": "queued", **content}, status=201)

    async def update_check(self, request: Request) -> Response:
        self._admit_app(request)
        number, sha, _ = self._read(request, "check")
        return self._check_answer(number, sha, await read_object(request), status=200)

    async def check(self, request: Request) -> Response:
        self.guard.admit(request, "checks:read")
        number, sha, kept = self._read(request, "check")
        return JSONResponse(self._check_shape(number, sha, kept))

    async def checks(self, request: Request) -> Response:
        self.guard.admit(request, "checks:read")
        query = request.query_params
        sha = self._commit(str(request.path_params["ref"]))
        found = [
            (number, kept)
            for number, kept in reversed(self.records.load_made("check", sha))
            if query.get("check_name") in (None, kept["name"])
            and query.get("app_id") in (None, str(APP_ID))
            and query.get("status") in (None, kept["status"])
        ]
        if query.get("filter", "latest") == "latest":
            newest = {str(kept["name"]): number for number, kept in reversed(found)}
            found = [(number, kept) for number, kept in found if newest[str(kept["name"])] == number]
        shown, headers = page(request, found)
        shapes: list[Json] = [self._check_shape(number, sha, kept) for number, kept in shown]
        return JSONResponse({"total_count": len(found), "check_runs": shapes}, headers=headers)

    def _admit_app(self, request: Request) -> None:
        if self.guard.admit(request, "checks:write").kind != "installation":
            raise Problem(403, "You must authenticate via a GitHub App.")

    def _check_answer(self, number: int, sha: str, content: Object, *, status: int) -> Response:
        kept = self.records.read_made(number)
        state, conclusion = content.get("status", kept.get("status")), content.get("conclusion")
        # What is completed stays so; it may get another conclusion.
        if conclusion is None and kept.get("status") == "completed":
            conclusion = kept["conclusion"]
        if conclusion is not None:
            state = "completed"
        if state not in ("queued", "in_progress", "completed"):
            raise self._refused_check(number, status, "status")
        if state == "completed" and conclusion not in CONCLUSIONS:
            raise self._refused_check(number, status, "conclusion")
        changed: Object = {"status": state, "conclusion": conclusion}
        changed["completed_at"] = content.get("completed_at", self.forge.now_text()) if state == "completed" else None
        for key in ("external_id", "details_url", "started_at", "name"):
            if key in content:
                changed[key] = content[key]
        output = content.get("output")
        if output is not None:
            problem = _output_problem(output, is_new=status == 201)
            if problem or not isinstance(output, dict):
                raise self._refused_check(number, status, problem)
            given = output.get("annotations")
            count = len(given) if isinstance(given, list) else 0
            # They add up: the same one twice is shown twice.
            changed["annotations"] = int(str(kept["annotations"])) + count
            changed["shown"] = [*_list(kept.get("shown")), *(given if isinstance(given, list) else [])]
            changed |= {key: output[key] for key in ("title", "summary", "text") if key in output}
        kept |= changed
        self.records.replace_made(number, kept)
        return JSONResponse(self._check_shape(number, sha, kept), status_code=status)

    def _refused_check(self, number: int, status: int, key: str) -> Problem:
        if status == 201:
            self.records.remove_made(number)
        return invalid("CheckRun", key)

    def _check_shape(self, number: int, sha: str, kept: Object) -> Object:
        shapes = self.forge.shapes
        url = f"{shapes.repository_url}/check-runs/{number}"
        return {
            "id": number,
            "node_id": f"CR_{number}",
            "head_sha": sha,
            "name": kept["name"],
            "url": url,
            "html_url": f"{shapes.base_url}/{shapes.full_name}/runs/{number}",
            "details_url": kept.get("details_url"),
            "status": kept["status"],
            "conclusion": kept["conclusion"],
            "started_at": kept.get("started_at"),
            "completed_at": kept["completed_at"],
            "external_id": kept.get("external_id", ""),
            "check_suite": {"id": 1},
            "output": {
                "title": kept.get("title"),
                "summary": kept.get("summary"),
                "text": kept.get("text"),
                "annotations_count": kept["annotations"],
                "annotations_url": f"{url}/annotations",
            },
            "app": self._app_shape(),
            "pull_requests": [],
        }

    def rerun_shape(self, number: int, sha: str, kept: Object) -> Object:
        """Return a check run as it is in the event of a click on Re-run: with its suite, and as it ended."""
        shape, app = self._check_shape(number, sha, kept), self._app_shape() or {}
        app = {key: value for key, value in app.items() if key != "installations_count"}
        none: list[Json] = []
        suite: Object = {
            "id": 1,
            "node_id": "CS_1",
            "head_branch": None,
            "head_sha": sha,
            "status": shape["status"],
            "conclusion": shape["conclusion"] or "neutral",
            "url": f"{self.forge.shapes.repository_url}/check-suites/1",
            "before": None,
            "after": None,
            "pull_requests": none,
            "app": app,
            "created_at": self.forge.shapes.created_at,
            "updated_at": self.forge.shapes.created_at,
        }
        return {**shape, "check_suite": suite, "app": app}

    async def annotations(self, request: Request) -> Response:
        self.guard.admit(request, "checks:read")
        _, sha, kept = self._read(request, "check")
        shown, headers = page(request, _list(kept.get("shown")))
        unsaid = dict.fromkeys(("start_column", "end_column", "title", "raw_details"))
        blob = f"{self.forge.shapes.base_url}/{self.forge.shapes.full_name}/blob/{sha}"
        shapes = [{**unsaid, **one, "blob_href": f"{blob}/{one['path']}"} for one in shown if isinstance(one, dict)]
        return JSONResponse(shapes, headers=headers)

    # -- deployments --------------------------------------------------------------------------------------------------

    async def create_deployment(self, request: Request) -> Response:
        caller = self.guard.admit(request, "deployments:write")
        content = await read_object(request)
        ref = text(content, "ref", "Deployment")
        sha = self._commit(ref)
        environment = content.get("environment", "production")
        if not isinstance(environment, str) or not 0 < len(environment) <= NAME_CHARS_MAX:
            raise invalid("Deployment", "environment")
        for key in ("environment", "description"):
            require_bmp(content, key, "Deployment")
        self._require_contexts(sha, content.get("required_contexts"))
        if content.get("auto_merge", True) is not False and sha != self.forge.git.branch_head(DEFAULT_BRANCH):
            raise Problem(409, f"Conflict merging {DEFAULT_BRANCH} into {ref[:60]}.")
        kept: Object = {
            "ref": ref,
            "task": content.get("task", "deploy"),
            "environment": environment,
            "payload": content.get("payload", {}),
            "description": content.get("description"),
            "transient_environment": content.get("transient_environment", False),
            "production_environment": content.get("production_environment", environment == "production"),
            "created_at": self.forge.now_text(),
            "by_app": caller.kind == "installation",
        }
        number = self.records.add_made("deployment", sha, kept)
        return JSONResponse(self._deployment_shape(number, sha, kept), status_code=201)

    def _require_contexts(self, sha: str, asked: Json) -> None:
        newest: dict[str, str] = {}
        for status in self.forge.records.load_statuses(sha):
            newest.setdefault(status.context, status.state)
        contexts = list(newest) if asked is None else [str(one) for one in _list(asked)]
        missing = [context for context in contexts if newest.get(context) != "success"]
        if missing:
            raise Problem(409, f"Conflict: Commit status checks failed for {sha}.")

    async def deployments(self, request: Request) -> Response:
        self.guard.admit(request, "deployments:read")
        query = request.query_params
        found = [
            (number, sha, kept)
            for number, sha, kept in reversed(self.records.load_all_made("deployment"))
            if query.get("sha") in (None, "none", sha)
            and all(query.get(key) in (None, "none", kept[key]) for key in ("ref", "task", "environment"))
        ]
        shown, headers = page(request, found)
        return JSONResponse([self._deployment_shape(*one) for one in shown], headers=headers)

    async def deployment(self, request: Request) -> Response:
        self.guard.admit(request, "deployments:read")
        return JSONResponse(self._deployment_shape(*self._read(request, "deployment")))

    async def remove_deployment(self, request: Request) -> Response:
        self.guard.admit(request, "deployments:write")
        number, _, _ = self._read(request, "deployment")
        self.records.remove_made(number)
        return Response(status_code=204)

    async def create_deployment_status(self, request: Request) -> Response:
        caller = self.guard.admit(request, "deployments:write")
        number, _, deployment = self._read(request, "deployment")
        content = await read_object(request)
        state, description = content.get("state"), content.get("description", "")
        if state not in DEPLOYMENT_STATES:
            raise invalid("DeploymentStatus", "state")
        if not isinstance(description, str) or len(description) > DESCRIPTION_CHARS_MAX:
            raise invalid("DeploymentStatus", "description")
        require_bmp(content, "description", "DeploymentStatus")
        for key in ("log_url", "environment_url", "target_url"):
            value = content.get(key, "")
            if not isinstance(value, str) or (value and not value.startswith(("http://", "https://"))):
                raise invalid("DeploymentStatus", key)
        if state == "success" and content.get("auto_inactive", True) is not False:
            self._end_earlier(number, str(deployment["environment"]))
        made = self._add_deployment_status(number, {**content, "by_app": caller.kind == "installation"})
        return JSONResponse(self._deployment_status_shape(made, number, self.records.read_made(made)), status_code=201)

    def _end_earlier(self, number: int, environment: str) -> None:
        for earlier, _, kept in self.records.load_all_made("deployment"):
            is_kept = kept["transient_environment"] is True or kept["production_environment"] is True
            if earlier < number and kept["environment"] == environment and not is_kept:
                self._add_deployment_status(earlier, {"state": "inactive"})

    def _add_deployment_status(self, number: int, content: Object) -> int:
        kept = {key: content.get(key, "") for key in ("state", "description", "log_url", "environment_url")}
        kept |= {"created_at": self.forge.now_text(), "by_app": content.get("by_app", False)}
        return self.records.add_made("deployment_status", str(number), kept)

    async def deployment_statuses(self, request: Request) -> Response:
        self.guard.admit(request, "deployments:read")
        number, _, _ = self._read(request, "deployment")
        found = list(reversed(self.records.load_made("deployment_status", str(number))))
        shown, headers = page(request, found)
        return JSONResponse(
            [self._deployment_status_shape(made, number, kept) for made, kept in shown], headers=headers
        )

    def _deployment_shape(self, number: int, sha: str, kept: Object) -> Object:
        url = f"{self.forge.shapes.repository_url}/deployments/{number}"
        return {
            "id": number,
            "node_id": f"DE_{number}",
            "sha": sha,
            **{key: value for key, value in kept.items() if key != "by_app"},
            "original_environment": kept["environment"],
            "creator": self.user_of(kept),
            "updated_at": kept["created_at"],
            "url": url,
            "statuses_url": f"{url}/statuses",
            "repository_url": self.forge.shapes.repository_url,
            "performed_via_github_app": self._app_shape() if kept["by_app"] else None,
        }

    def _deployment_status_shape(self, made: int, number: int, kept: Object) -> Object:
        deployment = self.records.read_made(number)
        url = f"{self.forge.shapes.repository_url}/deployments/{number}"
        return {
            "id": made,
            "node_id": f"DS_{made}",
            **{key: value for key, value in kept.items() if key != "by_app"},
            "environment": deployment["environment"],
            "target_url": kept["log_url"],
            "creator": self.user_of(kept),
            "updated_at": kept["created_at"],
            "url": f"{url}/statuses/{made}",
            "deployment_url": url,
            "repository_url": self.forge.shapes.repository_url,
            "performed_via_github_app": self._app_shape() if kept["by_app"] else None,
        }

    # -- comments -----------------------------------------------------------------------------------------------------

    async def create_comment(self, request: Request) -> Response:
        caller = self.guard.admit(request, "issues:write", "pull_requests:write")
        number = int(request.path_params["number"])
        if self.forge.records.load_pull(number) is None:
            raise Problem(404, "Not Found")
        body = await self._read_body(request)
        return JSONResponse(self.add_comment(number, body, by_app=caller.kind == "installation"), status_code=201)

    def add_comment(self, number: int, body: str, *, author: str = "", by_app: bool = False) -> Object:
        """Keep a comment, tell of it, and return it as it is shown."""
        now = self.forge.now_text()
        kept: Object = {"body": body, "created_at": now, "updated_at": now, "by_app": by_app, "author": author}
        made = self.records.add_made("comment", str(number), kept)
        shape = self.comment_shape(made, str(number), kept)
        issue = self.forge.shapes.issue(
            self.records.read_pull(number), comments=len(self.records.load_made("comment", str(number)))
        )
        payload: Object = {"action": "created", "issue": issue, "comment": shape}
        payload |= {"repository": self.forge.repository_shape(), "sender": self.user_of(kept)}
        self.forge.deliver("issue_comment", "created", payload)
        return shape

    async def comments(self, request: Request) -> Response:
        self.guard.admit(request, "issues:read", "pull_requests:read")
        number = int(request.path_params["number"])
        if self.forge.records.load_pull(number) is None:
            raise Problem(404, "Not Found")
        since = request.query_params.get("since", "")
        found = [
            (made, kept)
            for made, kept in self.records.load_made("comment", str(number))
            if str(kept["updated_at"]) >= since
        ]
        shown, headers = page(request, found)
        return JSONResponse([self.comment_shape(made, str(number), kept) for made, kept in shown], headers=headers)

    async def comment(self, request: Request) -> Response:
        self.guard.admit(request, "issues:read", "pull_requests:read")
        return JSONResponse(self.comment_shape(*self._read(request, "comment")))

    async def update_comment(self, request: Request) -> Response:
        self.guard.admit(request, "issues:write", "pull_requests:write")
        made, subject, kept = self._read(request, "comment")
        kept |= {"body": await self._read_body(request), "updated_at": self.forge.now_text()}
        self.records.replace_made(made, kept)
        return JSONResponse(self.comment_shape(made, subject, kept))

    async def remove_comment(self, request: Request) -> Response:
        self.guard.admit(request, "issues:write", "pull_requests:write")
        made, _, _ = self._read(request, "comment")
        self.records.remove_made(made)
        return Response(status_code=204)

    async def _read_body(self, request: Request) -> str:
        body = text(await read_object(request), "body", "IssueComment")
        if len(body) > COMMENT_CHARS_MAX:
            raise invalid(
                "IssueComment", "body", message=f"body is too long (maximum is {COMMENT_CHARS_MAX} characters)"
            )
        return body

    def comment_shape(self, made: int, subject: str, kept: Object) -> Object:
        """Return a comment as the API and webhooks show it."""
        shapes = self.forge.shapes
        url = f"{shapes.repository_url}/issues/comments/{made}"
        return {
            "id": made,
            "node_id": f"IC_{made}",
            "url": url,
            "html_url": f"{shapes.base_url}/{shapes.full_name}/pull/{subject}#issuecomment-{made}",
            "issue_url": f"{shapes.repository_url}/issues/{subject}",
            "body": kept["body"],
            "user": self.user_of(kept),
            "created_at": kept["created_at"],
            "updated_at": kept["updated_at"],
            "author_association": "NONE" if kept["by_app"] or kept.get("author") else "MEMBER",
            "performed_via_github_app": self._app_shape() if kept["by_app"] else None,
            "reactions": shapes.no_reactions(url),
        }

    async def user(self, request: Request) -> Response:
        """Answer whose token it is; an App has none that is a person's."""
        if self.guard.caller(request).kind != "developer":
            raise Problem(403, "Resource not accessible by integration")
        nothing = ("name", "company", "blog", "location", "email", "hireable", "bio")
        return JSONResponse(
            {
                **self.forge.shapes.user(DEVELOPER),
                **dict.fromkeys(nothing),
                **dict.fromkeys(("public_repos", "public_gists", "followers", "following"), 0),
                "created_at": self.forge.shapes.created_at,
                "updated_at": self.forge.shapes.created_at,
            }
        )

    # -- what they share ----------------------------------------------------------------------------------------------

    def _commit(self, name: str) -> str:
        sha = self.forge.git.find_commit(name)
        if sha is None:
            raise Problem(422, f"No commit found for SHA: {name[:60]}")
        return sha

    def _read(self, request: Request, kind: str) -> tuple[int, str, Object]:
        number = int(request.path_params["made"])
        found = self.records.find_made(kind, number) if number < 1 << 62 else None
        if found is None:
            raise Problem(404, "Not Found")
        return number, *found

    def user_of(self, kept: Object) -> Object:
        """Return who made something."""
        author = kept.get("author")
        if isinstance(author, str) and author:
            return self.forge.shapes.user(person(author))
        app = self.guard.apps.load()
        if not kept["by_app"] or app is None:
            return self.forge.shapes.user(DEVELOPER)
        return self.forge.shapes.user((f"{app.slug}[bot]", BOT_ID), kind="Bot")

    def _app_shape(self) -> Object | None:
        app = self.guard.apps.load()
        return None if app is None else self.guard.apps.app_shape(app)


def _output_problem(output: Json, *, is_new: bool) -> str:
    """Return which part of a check's output GitHub refuses, "" for none."""
    if not isinstance(output, dict):
        return "output"
    for key in ("title", "summary") if is_new else ("summary",):
        if not isinstance(output.get(key), str) or not output[key]:
            return key
    for key in ("title", "summary", "text"):
        value = output.get(key, "")
        if not isinstance(value, str) or len(value.encode("utf-16-le")) // 2 > OUTPUT_CHARS_MAX:
            return key
    given = output.get("annotations", [])
    if not isinstance(given, list) or len(given) > ANNOTATIONS_MAX:
        return "annotations"
    return "" if all(_is_annotation(one) for one in given) else "annotations"


def _is_annotation(one: Json) -> bool:
    return (
        isinstance(one, dict)
        and all(_is_bmp(one.get(key)) and one[key] for key in ("path", "message"))
        and all(isinstance(one.get(key), int) for key in ("start_line", "end_line"))
        and one.get("annotation_level") in LEVELS
    )


def _is_bmp(value: Json) -> bool:
    return isinstance(value, str) and all(ord(c) <= 0xFFFF for c in value)


def _bounded(content: Object, key: str, resource: str) -> str:
    value = text(content, key, resource)
    if len(value) > NAME_CHARS_MAX:
        raise invalid(resource, key)
    return value


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []
