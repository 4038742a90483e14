"""What does each address of the development forge answer? git over smart HTTP, the API, the knobs, and a page.

Whoever knows the token may do everything; who does not gets 401. /health and the page at / are open.

Knobs for what goes wrong at the real one, each a POST with a JSON object to /_development/<name>:
- drop {count}: the next webhooks are never made. pause {paused}: webhooks wait, and come in order once it is false.
- double {count}: the next webhooks come twice. delay {seconds}: each webhook comes so much later, until set to 0.
- reorder {count, seed}: the next webhooks wait for each other, and come in an order that the seed draws.
- outage {seconds}: the API answers 503. slow {seconds}: each of its answers comes so much later, until set to 0.
- limit {shape: "retry-after" | "reset" | "secondary", status: 403 | 429, seconds}: the API is limited.
- fail {status, count, path}: the next answers of the API are this error. clock {ahead}: its clock differs by seconds.
- rename {repository}: another name; the old one is redirected. strict {enforced, per_hour, speed,
  used}: its limits.
- install {installed, suspended, permissions, revoke, token_chars}: what the owner does at the App's page, and how long
  its tokens are. seen (a GET): what came.
- fork_pull {title, head_sha_branch, null_repo}: a pull request from a fork, or from one that was deleted.
- comment, permission, pull, fork_push, rerun: what people say and do; `forge_people_doors` lists them.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from html import escape
from typing import IO, Final
from urllib.parse import quote, urlencode

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from controller.development.forge_app import Apps
from controller.development.forge_app_doors import AppDoors
from controller.development.forge_events import REORDERED_MAX, Forge, Knobs, Limit, Problem, invalid
from controller.development.forge_git import BodyMalformed, BodyTooLarge, Service
from controller.development.forge_guard import Guard, answer_problem
from controller.development.forge_input import (
    KNOB_MAX,
    PAGE_SIZE,
    PAGE_SIZE_MAX,
    knob,
    number,
    own_url,
    page,
    read_object,
    require_bmp,
    text,
)
from controller.development.forge_limits import AT_THE_SITE, Limits
from controller.development.forge_people_doors import PeopleDoors
from controller.development.forge_records import closed
from controller.development.forge_report_doors import ReportDoors
from controller.development.forge_shapes import DEFAULT_BRANCH, HOOK_ID, REPOSITORY_ID, Delivery, Object, Pull, Status
from controller.model.names import REPOSITORY
from controller.model.states import StatusState

DESCRIPTION_CHARS_MAX: Final = 140
STATUSES_PER_CONTEXT_MAX: Final = 1000
TITLE_CHARS_MAX: Final = 256

_SHA = re.compile(r"[0-9a-f]{40}\Z")
_GIT_SERVICES: Final[dict[str, Service]] = {
    "git-upload-pack": "git-upload-pack",
    "git-receive-pack": "git-receive-pack",
}
_GIT_NEEDS: Final[dict[Service, str]] = {"git-upload-pack": "contents:read", "git-receive-pack": "contents:write"}


def build_app(forge: Forge) -> Starlette:
    """Return the application."""
    api = "/api/v3/repos/{owner}/{name}"
    git = "/{owner}/{name}"
    guard = Guard(forge, Apps(forge.records, forge.shapes))
    doors = Doors(guard)
    app_doors = AppDoors(guard)
    report_doors = ReportDoors(guard)
    people_doors = PeopleDoors(report_doors)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        forge.note_missed_moves()
        sender = asyncio.create_task(forge.send_forever())
        try:
            yield
        finally:
            sender.cancel()
            await asyncio.wait([sender])
            forge.records.close()

    def route(path: str, answer: Callable[[Request], Awaitable[Response]], *methods: str) -> Route:
        if path.startswith("/api/"):
            answer = guard.wrap(answer)
        return Route(path, answer, methods=list(methods or ("GET",)))

    return Starlette(
        routes=[
            route("/health", doors.health),
            route("/", doors.page),
            route(api, doors.repository),
            route(api + "/pulls", doors.pulls),
            route(api + "/pulls", doors.create_pull, "POST"),
            route(api + "/pulls/{number:int}", doors.pull),
            route(api + "/pulls/{number:int}", doors.change_pull, "PATCH"),
            route(api + "/pulls/{number:int}/merge", doors.merge_pull, "PUT"),
            route(api + "/branches", doors.branches),
            route(api + "/git/ref/{ref:path}", doors.git_ref),
            route(api + "/statuses/{sha}", doors.create_status, "POST"),
            route(api + "/commits/{ref:path}/statuses", doors.statuses),
            route(api + "/commits/{ref:path}/status", doors.combined_status),
            route(api + "/commits/{ref:path}/check-runs", report_doors.checks),
            route(api + "/commits/{ref:path}", doors.commit),
            route(api + "/check-runs", report_doors.create_check, "POST"),
            route(api + "/check-runs/{made:int}", report_doors.check),
            route(api + "/check-runs/{made:int}", report_doors.update_check, "PATCH"),
            route(api + "/check-runs/{made:int}/annotations", report_doors.annotations),
            route(api + "/deployments", report_doors.deployments),
            route(api + "/deployments", report_doors.create_deployment, "POST"),
            route(api + "/deployments/{made:int}", report_doors.deployment),
            route(api + "/deployments/{made:int}", report_doors.remove_deployment, "DELETE"),
            route(api + "/deployments/{made:int}/statuses", report_doors.deployment_statuses),
            route(api + "/deployments/{made:int}/statuses", report_doors.create_deployment_status, "POST"),
            route(api + "/issues/comments", people_doors.all_comments),
            route(api + "/issues/comments/{made:int}/reactions", people_doors.reactions),
            route(api + "/issues/comments/{made:int}/reactions", people_doors.react, "POST"),
            route(api + "/collaborators/{login}/permission", people_doors.permission),
            route(api + "/issues/{number:int}/comments", report_doors.comments),
            route(api + "/issues/{number:int}/comments", report_doors.create_comment, "POST"),
            route(api + "/issues/comments/{made:int}", report_doors.comment),
            route(api + "/issues/comments/{made:int}", report_doors.update_comment, "PATCH"),
            route(api + "/issues/comments/{made:int}", report_doors.remove_comment, "DELETE"),
            route(api + "/hooks/{hook:int}/deliveries", doors.deliveries),
            route(api + "/hooks/{hook:int}/deliveries/{number:int}", doors.delivery),
            route(api + "/hooks/{hook:int}/deliveries/{number:int}/attempts", doors.redeliver, "POST"),
            route(api + "/branches/{branch:path}", doors.branch),
            route(api + "/installation", app_doors.installation),
            route("/api/v3/app", app_doors.app),
            route("/api/v3/app/hook/config", app_doors.hook_config, "GET", "PATCH"),
            route("/api/v3/app/hook/deliveries", doors.deliveries),
            route("/api/v3/app/hook/deliveries/{number:int}", doors.delivery),
            route("/api/v3/app/hook/deliveries/{number:int}/attempts", doors.redeliver, "POST"),
            route("/api/v3/app/installations/{installation:int}/access_tokens", app_doors.access_tokens, "POST"),
            route("/api/v3/app-manifests/{code}/conversions", app_doors.convert, "POST"),
            route("/api/v3/installation/repositories", app_doors.repositories),
            route("/api/v3/rate_limit", app_doors.rate_limit),
            route("/api/v3/user", report_doors.user),
            route("/settings/apps/new", app_doors.register, "POST"),
            route("/organizations/{organization}/settings/apps/new", app_doors.register, "POST"),
            route("/_development/install", app_doors.install, "POST"),
            route("/_development/fail", doors.fail, "POST"),
            route("/_development/clock", doors.clock, "POST"),
            route("/_development/rename", doors.rename, "POST"),
            route("/_development/strict", doors.strict, "POST"),
            route("/_development/seen", doors.seen),
            route("/_development/drop", doors.drop, "POST"),
            route("/_development/double", doors.double, "POST"),
            route("/_development/delay", doors.delay, "POST"),
            route("/_development/reorder", doors.reorder, "POST"),
            route("/_development/pause", doors.pause, "POST"),
            route("/_development/fork_pull", doors.fork_pull, "POST"),
            route("/_development/fork_push", people_doors.push_to_fork, "POST"),
            route("/_development/pull", people_doors.change_pull, "POST"),
            route("/_development/comment", people_doors.say, "POST"),
            route("/_development/rerun", people_doors.rerun, "POST"),
            route("/_development/permission", people_doors.permit, "POST"),
            route("/_development/outage", doors.outage, "POST"),
            route("/_development/slow", doors.slow, "POST"),
            route("/_development/limit", doors.limit, "POST"),
            route(git + "/info/refs", doors.info_refs),
            route(git + "/git-upload-pack", doors.upload_pack, "POST"),
            route(git + "/git-receive-pack", doors.receive_pack, "POST"),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"]),
            Middleware(ById, forge=forge),
            Middleware(SlowApi, knobs=forge.knobs, limits=guard.limits),
        ],
        exception_handlers={Problem: _answer_problem, HTTPException: _answer_http_problem},
        lifespan=lifespan,
    )


class ById:
    """Answers for the repository by its id, which survives a rename."""

    def __init__(self, app: ASGIApp, *, forge: Forge) -> None:
        self._app = app
        self._forge = forge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        prefix = f"/api/v3/repositories/{REPOSITORY_ID}"
        path = str(scope.get("path", ""))
        if scope["type"] == "http" and (path == prefix or path.startswith(f"{prefix}/")):
            path = f"/api/v3/repos/{self._forge.shapes.full_name}{path.removeprefix(prefix)}"
            scope = {**scope, "path": path, "raw_path": quote(path, safe="/%").encode()}
        await self._app(scope, receive, send)


class SlowApi:
    """Counts what is in flight at the API, and makes it as slow as its knob says."""

    def __init__(self, app: ASGIApp, *, knobs: Knobs, limits: Limits) -> None:
        self._app = app
        self._knobs = knobs
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/api/"):
            await self._app(scope, receive, send)
            return
        is_counted = AT_THE_SITE not in Headers(scope=scope)
        if is_counted:
            self._limits.enter(f"{scope['method']} {scope['path']}")
        try:
            await asyncio.sleep(self._knobs.slow_s)
            await self._app(scope, receive, send)
        finally:
            if is_counted:
                self._limits.leave()


class Doors:
    """What each address answers."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.forge = guard.forge

    # -- open to all --------------------------------------------------------------------------------------------------

    async def health(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def page(self, _request: Request) -> Response:
        forge = self.forge
        content = render_page(
            forge.shapes.full_name, forge.records.load_open_pulls(), forge.records.load_newest_statuses(50)
        )
        return HTMLResponse(
            content, headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        )

    # -- the API: repository and pull requests ------------------------------------------------------------------------

    async def repository(self, request: Request) -> Response:
        self.guard.admit(request, "metadata:read")
        return JSONResponse(self.forge.full_repository_shape())

    async def pulls(self, request: Request) -> Response:
        self.guard.admit(request, "pull_requests:read")
        query = request.query_params
        state, head, base = query.get("state", "open"), query.get("head"), query.get("base")
        found = [
            pull
            for pull in self.forge.records.load_pulls()
            if (state == "all" or pull.is_open == (state == "open"))
            and (head is None or head.rpartition(":")[2] == pull.head_branch)
            and (base is None or base == pull.base_branch)
        ]
        if query.get("sort") == "updated":
            found.sort(key=lambda pull: (pull.updated_at, pull.number))
        # GitHub's default is the newest first, unless another order was asked for.
        if query.get("direction", "desc" if query.get("sort", "created") == "created" else "asc") == "desc":
            found.reverse()
        shown, headers = page(request, found)
        return JSONResponse(self.forge.pull_simple_shapes(shown), headers=headers)

    async def create_pull(self, request: Request) -> Response:
        self.guard.admit(request, "pull_requests:write")
        content = await read_object(request)
        title, head, base = (text(content, key, "PullRequest") for key in ("title", "head", "base"))
        body = content.get("body")
        owner, _, branch = head.rpartition(":")
        if owner not in ("", self.forge.shapes.owner):
            raise invalid("PullRequest", "head")
        async with self.forge.changing:
            pull = self.forge.open_pull(
                title=title[:TITLE_CHARS_MAX],
                body=body if isinstance(body, str) else None,
                branch=branch,
                base=base,
                origin="own",
            )
        shape = self.forge.pull_shape(pull)
        return JSONResponse(shape, status_code=201, headers={"Location": str(shape["url"])})

    async def pull(self, request: Request) -> Response:
        self.guard.admit(request, "pull_requests:read")
        return JSONResponse(self.forge.pull_shape(self._read_pull(request)))

    async def change_pull(self, request: Request) -> Response:
        self.guard.admit(request, "pull_requests:write")
        content = await read_object(request)
        async with self.forge.changing:
            pull = self._read_pull(request)
            if "title" in content:
                pull = replace(
                    pull,
                    title=text(content, "title", "PullRequest")[:TITLE_CHARS_MAX],
                    updated_at=self.forge.now_text(),
                )
                self.forge.records.replace_pull(pull)
            state = content.get("state", "open" if pull.is_open else "closed")
            if state == "closed" and pull.is_open:
                pull = closed(pull, now=self.forge.now_text())
                self.forge.change_pull(pull, "closed")
            elif state == "open" and not pull.is_open:
                pull = self._reopened(pull)
                self.forge.change_pull(pull, "reopened")
            elif state not in ("open", "closed"):
                raise invalid("PullRequest", "state")
        return JSONResponse(self.forge.pull_shape(pull))

    def _reopened(self, pull: Pull) -> Pull:
        """Return a closed pull request as it is once it is open again, at the present head of its branch."""
        head = self.forge.git.branch_head(pull.head_branch) if pull.origin == "own" else pull.head_sha
        if pull.merged_at is not None or head is None:
            raise invalid("PullRequest", "state", message="The pull request cannot be reopened.")
        self.forge.git.set_pull_head(pull.number, head)
        return replace(pull, head_sha=head, is_open=True, closed_at=None, updated_at=self.forge.now_text())

    async def merge_pull(self, request: Request) -> Response:
        self.guard.admit(request, "contents:write")
        content = await read_object(request)
        method = content.get("merge_method", "merge")
        if method not in ("merge", "squash"):
            raise Problem(405, "This forge merges and squashes only")
        forge = self.forge
        async with forge.changing:
            pull = self._read_pull(request)
            if not pull.is_open:
                raise Problem(405, "Pull Request is not mergeable")
            if content.get("sha") not in (None, pull.head_sha):
                raise Problem(409, "Head branch was modified. Review and try the merge again.")
            before = await forge.git.refs()
            label = f"{forge.shapes.owner}/{pull.head_branch}"
            title = f"{pull.title} (#{pull.number})"
            message = title if method == "squash" else f"Merge pull request #{pull.number} from {label}\n\n{pull.title}"
            asked = content.get("commit_title")
            merged = forge.git.merge(
                pull.base_branch,
                pull.head_sha,
                message=asked if isinstance(asked, str) and asked else message,
                squash=method == "squash",
            )
            if merged is None:
                raise Problem(405, "Pull Request has merge conflicts")
            forge.note_ref_moves(before, await forge.git.refs())
            pull = forge.records.read_pull(pull.number)
            if pull.is_open:  # a squash has no trace of the head
                forge.change_pull(closed(pull, now=self.forge.now_text(), merge_commit_sha=merged), "closed")
        return JSONResponse({"sha": merged, "merged": True, "message": "Pull Request successfully merged"})

    def _read_pull(self, request: Request) -> Pull:
        number = int(request.path_params["number"])
        pull = self.forge.records.load_pull(number) if number < 1 << 62 else None
        if pull is None:
            raise Problem(404, "Not Found")
        return pull

    # -- the API: refs, commits, statuses -----------------------------------------------------------------------------

    async def branches(self, request: Request) -> Response:
        self.guard.admit(request, "contents:read")
        refs = await self.forge.git.refs()
        heads = [(ref.removeprefix("refs/heads/"), sha) for ref, sha in refs.items() if ref.startswith("refs/heads/")]
        shown, headers = page(request, heads)
        return JSONResponse([self.forge.shapes.branch(name, sha) for name, sha in shown], headers=headers)

    async def branch(self, request: Request) -> Response:
        self.guard.admit(request, "contents:read")
        name = str(request.path_params["branch"])
        sha = self.forge.git.branch_head(name)
        if sha is None:
            raise Problem(404, "Branch not found")
        commit = self.forge.git.load_commit(sha)
        assert commit is not None
        return JSONResponse(self.forge.shapes.branch_by_itself(name, commit))

    async def git_ref(self, request: Request) -> Response:
        self.guard.admit(request, "contents:read")
        ref = f"refs/{request.path_params['ref']}"
        sha = self.forge.git.ref_target(ref)
        if sha is None:
            raise Problem(404, "Not Found")
        return JSONResponse(self.forge.shapes.git_ref(ref, sha))

    async def commit(self, request: Request) -> Response:
        self.guard.admit(request, "contents:read")
        commit = self.forge.git.load_commit(self._read_sha(request))
        assert commit is not None
        return JSONResponse(self.forge.shapes.commit(commit))

    async def create_status(self, request: Request) -> Response:
        self.guard.admit(request, "statuses:write")
        content = await read_object(request)
        sha = str(request.path_params["sha"])
        if not _SHA.match(sha) or self.forge.git.load_commit(sha) is None:
            raise Problem(422, f"No commit found for SHA: {sha[:60]}")
        state = content.get("state")
        if state not in list(StatusState):
            raise invalid("Status", "state", message="state is not included in the list")
        context = content.get("context", "default")
        if not isinstance(context, str) or not 0 < len(context) <= 255:
            raise invalid("Status", "context")
        for key in ("description", "context"):
            require_bmp(content, key, "Status")
        description, target_url = content.get("description"), content.get("target_url")
        if description is not None:
            if not isinstance(description, str):
                raise invalid("Status", "description")
            if len(description) > DESCRIPTION_CHARS_MAX:
                told = f"description is too long (maximum is {DESCRIPTION_CHARS_MAX} characters)"
                raise invalid("Status", "description", message=told)
        if target_url is not None and not (
            isinstance(target_url, str) and target_url.startswith(("http://", "https://")) and len(target_url) <= 1024
        ):
            raise invalid("Status", "target_url", message="target_url must use http(s) scheme")
        if self.forge.records.count_statuses(sha, context) >= STATUSES_PER_CONTEXT_MAX:
            raise invalid("Status", None, message="This SHA and context has reached the maximum number of statuses.")
        status = self.forge.records.add_status(
            sha,
            state=str(state),
            context=context,
            description=description,
            target_url=target_url,
            now=self.forge.now_text(),
        )
        shape = self.forge.shapes.status(status)
        return JSONResponse(shape, status_code=201, headers={"Location": str(shape["url"])})

    async def statuses(self, request: Request) -> Response:
        self.guard.admit(request, "statuses:read")
        shown, headers = page(request, self.forge.records.load_statuses(self._read_sha(request)))
        return JSONResponse([self.forge.shapes.status(status) for status in shown], headers=headers)

    async def combined_status(self, request: Request) -> Response:
        self.guard.admit(request, "statuses:read")
        sha = self._read_sha(request)
        newest: dict[str, Status] = {}
        for status in self.forge.records.load_statuses(sha):
            newest.setdefault(status.context.lower(), status)
        shape = self.forge.shapes.combined_status(sha, list(newest.values()), repository=self.forge.repository_shape())
        return JSONResponse(shape)

    def _read_sha(self, request: Request) -> str:
        name = str(request.path_params["ref"])
        sha = self.forge.git.find_commit(name)
        if sha is None:
            raise Problem(422, f"No commit found for SHA: {name[:60]}")
        return sha

    # -- the API: webhooks --------------------------------------------------------------------------------------------

    async def deliveries(self, request: Request) -> Response:
        self._admit_log(request, "repository_hooks:read")
        cursor = request.query_params.get("cursor", "")
        size = number(request.query_params.get("per_page"), PAGE_SIZE, PAGE_SIZE_MAX)
        before = int(cursor) if cursor.isascii() and cursor.isdigit() and len(cursor) < 18 else None
        found = self.forge.records.load_deliveries(before=before, limit=size + 1)
        shown, headers = found[:size], {}
        if len(found) > size:
            query = urlencode({"per_page": size, "cursor": shown[-1].id})
            headers["Link"] = f'<{own_url(request)}?{query}>; rel="next"'
        return JSONResponse([self.forge.shapes.delivery(delivery) for delivery in shown], headers=headers)

    async def delivery(self, request: Request) -> Response:
        self._admit_log(request, "repository_hooks:read")
        delivery = self._read_delivery(request)
        shape = self.forge.shapes.delivery(delivery)
        shape["url"] = self.forge.webhook_url
        headers: Object = dict(self.forge.plain_headers(delivery).items())
        shape["request"] = {"headers": headers, "payload": json.loads(delivery.body)}
        shape["response"] = {"headers": {}, "payload": ""}
        return JSONResponse(shape)

    async def redeliver(self, request: Request) -> Response:
        self._admit_log(request, "repository_hooks:write")
        delivery = self._read_delivery(request)
        self.forge.queue(
            guid=delivery.guid, event=delivery.event, action=delivery.action, body=delivery.body, redelivery=True
        )
        return JSONResponse({}, status_code=202)

    def _read_delivery(self, request: Request) -> Delivery:
        number = int(request.path_params["number"])
        delivery = self.forge.records.load_delivery(number) if number < 1 << 62 else None
        if delivery is None:
            raise Problem(404, "Not Found")
        return delivery

    def _admit_log(self, request: Request, needs: str) -> None:
        """Raise Problem unless the log of deliveries may be seen: by the App as its own, else as the repository's."""
        if "hook" not in request.path_params:
            self.guard.admit_app(request)
            return
        self.guard.admit(request, needs)
        if request.path_params["hook"] != HOOK_ID:
            raise Problem(404, "Not Found")

    # -- the knobs ----------------------------------------------------------------------------------------------------

    async def drop(self, request: Request) -> Response:
        """Never send the next `count` webhooks."""
        self.guard.admit_developer(request)
        count = (await read_object(request)).get("count", 1)
        self.forge.knobs.drop_count = int(knob(count, "count"))
        return JSONResponse({"drop": self.forge.knobs.drop_count})

    async def double(self, request: Request) -> Response:
        """Send the next `count` webhooks twice, under one id."""
        self.guard.admit_developer(request)
        count = (await read_object(request)).get("count", 1)
        self.forge.knobs.double_count = int(knob(count, "count"))
        return JSONResponse({"double": self.forge.knobs.double_count})

    async def delay(self, request: Request) -> Response:
        """Send each webhook `seconds` after it was queued."""
        self.guard.admit_developer(request)
        self.forge.knobs.delay_s = knob((await read_object(request)).get("seconds", 1), "seconds")
        self.forge.has_unsent.set()
        return JSONResponse({"delay": self.forge.knobs.delay_s})

    async def reorder(self, request: Request) -> Response:
        """Keep the next `count` webhooks back, and send them in an order of `seed` once they are all there; with a
        count of 0 those that wait come at once, in order."""
        self.guard.admit_developer(request)
        content = await read_object(request)
        count = int(knob(content.get("count", 2), "count"))
        if count > REORDERED_MAX:
            raise Problem(422, f"count is at most {REORDERED_MAX}")
        self.forge.knobs.reorder_count, self.forge.knobs.reorder_seed = count, int(knob(content.get("seed", 0), "seed"))
        self.forge.has_unsent.set()
        return JSONResponse({"reorder": count})

    async def pause(self, request: Request) -> Response:
        """Keep webhooks back, or send those that were kept back."""
        self.guard.admit_developer(request)
        paused = (await read_object(request)).get("paused", True)
        if not isinstance(paused, bool):
            raise Problem(422, "paused is true or false")
        self.forge.knobs.paused = paused
        self.forge.has_unsent.set()
        return JSONResponse({"paused": paused})

    async def fork_pull(self, request: Request) -> Response:
        """Open a pull request from a fork whose head is that of a branch; with `null_repo` the fork is gone."""
        self.guard.admit_developer(request)
        content = await read_object(request)
        title, branch = text(content, "title", "PullRequest"), text(content, "head_sha_branch", "PullRequest")
        async with self.forge.changing:
            pull = self.forge.open_pull(
                title=title[:TITLE_CHARS_MAX],
                body=None,
                branch=branch,
                base=DEFAULT_BRANCH,
                origin="gone" if content.get("null_repo") is True else "fork",
            )
        return JSONResponse(self.forge.pull_shape(pull), status_code=201)

    async def outage(self, request: Request) -> Response:
        """Answer 503 to everything under /api/v3 for `seconds`."""
        self.guard.admit_developer(request)
        seconds = knob((await read_object(request)).get("seconds", 10), "seconds")
        self.forge.knobs.outage_ends_at_s = time.monotonic() + seconds
        return JSONResponse({"outage": seconds})

    async def slow(self, request: Request) -> Response:
        """Answer everything under /api/v3 `seconds` later."""
        self.guard.admit_developer(request)
        self.forge.knobs.slow_s = knob((await read_object(request)).get("seconds", 1), "seconds")
        return JSONResponse({"slow": self.forge.knobs.slow_s})

    async def limit(self, request: Request) -> Response:
        """Limit everything under /api/v3 for `seconds`, in one of the three documented shapes."""
        self.guard.admit_developer(request)
        content = await read_object(request)
        seconds = knob(content.get("seconds", 10), "seconds")
        shape, status = content.get("shape", "retry-after"), content.get("status", 403)
        if shape not in ("retry-after", "reset", "secondary") or status not in (403, 429):
            raise Problem(422, "shape is retry-after, reset or secondary; status is 403 or 429")
        self.forge.knobs.limit = Limit(
            shape=str(shape),
            status=403 if status == 403 else 429,
            ends_at_s=self.guard.limits.now_s() + seconds,
        )
        return JSONResponse({"limit": shape, "seconds": seconds})

    async def fail(self, request: Request) -> Response:
        """Answer the next `count` requests whose path begins with `path` with `status`."""
        self.guard.admit_developer(request)
        content = await read_object(request)
        status, path = content.get("status", 500), content.get("path", "")
        if not isinstance(status, int) or not 400 <= status <= 599 or not isinstance(path, str):
            raise Problem(422, "status is 400 to 599; path is below /api/v3")
        self.forge.knobs.failures = (int(knob(content.get("count", 1), "count")), status, path)
        return JSONResponse({"fail": status})

    async def clock(self, request: Request) -> Response:
        """Let the forge's clock be so many seconds ahead, or behind."""
        self.guard.admit_developer(request)
        ahead = (await read_object(request)).get("ahead", 0)
        if isinstance(ahead, bool) or not isinstance(ahead, int | float) or abs(ahead) > KNOB_MAX:
            raise Problem(422, "ahead is a number of seconds")
        self.forge.knobs.clock_ahead_s = float(ahead)
        return JSONResponse({"ahead": ahead})

    async def rename(self, request: Request) -> Response:
        """Call the repository by another name; the old one is redirected."""
        self.guard.admit_developer(request)
        name = text(await read_object(request), "repository", "Repository")
        if not REPOSITORY.match(name):
            raise invalid("Repository", "name")
        self.forge.rename(name)
        return JSONResponse(self.forge.repository_shape())

    async def strict(self, request: Request) -> Response:
        """Enforce the secondary limits, or no longer; `per_hour` is the primary one, and their clock runs `speed` times
        as fast from now on. What was counted before is forgotten; `used`: so much of this hour is used up."""
        self.guard.admit_developer(request)
        content = await read_object(request)
        speed = knob(content.get("speed", 1), "speed")
        if speed < 1:
            raise Problem(422, "speed is at least 1")
        limits = self.guard.limits
        limits.restart(
            is_strict=content.get("enforced", True) is True,
            per_hour=int(knob(content.get("per_hour", 5_000), "per_hour")),
            speed=speed,
            used=None if "used" not in content else int(knob(content["used"], "used")),
        )
        return JSONResponse(
            {"enforced": limits.is_strict, "per_hour": limits.per_hour, "speed": speed, "began_at": limits.began_s}
        )

    async def seen(self, request: Request) -> Response:
        """Tell how the API was asked."""
        self.guard.admit_developer(request)
        limits = self.guard.limits
        gap_s = limits.write_gap_min_s
        return JSONResponse(
            {
                "used": limits.used,
                "refused": limits.refused,
                "in_flight_max": limits.in_flight_max,
                "writes": len(limits.writes_at_s),
                "write_gap_min_s": None if math.isinf(gap_s) else round(gap_s, 3),
                "violations": list(limits.violations),
            }
        )

    # -- git ----------------------------------------------------------------------------------------------------------

    async def info_refs(self, request: Request) -> Response:
        service = _GIT_SERVICES.get(request.query_params.get("service", ""))
        if service is None:
            return Response("Please upgrade your git client.\n", status_code=403, media_type="text/plain")
        self.guard.admit_git(request, _GIT_NEEDS[service])
        content = await self.forge.git.advertise(service, request.headers.get("git-protocol", ""))
        return _git_answer(service, "advertisement", content)

    async def upload_pack(self, request: Request) -> Response:
        body = await self._git_body(request, "git-upload-pack")
        pieces = self.forge.git.serve("git-upload-pack", body, protocol=request.headers.get("git-protocol", ""))

        async def closing() -> AsyncIterator[bytes]:
            with body:
                async for piece in pieces:
                    yield piece

        return StreamingResponse(
            closing(), media_type="application/x-git-upload-pack-result", headers={"Cache-Control": "no-cache"}
        )

    async def receive_pack(self, request: Request) -> Response:
        forge = self.forge
        with await self._git_body(request, "git-receive-pack") as body:
            async with forge.changing:
                before = await forge.git.refs()
                content = b"".join([piece async for piece in forge.git.serve("git-receive-pack", body, protocol="")])
                forge.note_ref_moves(before, await forge.git.refs())
        return _git_answer("git-receive-pack", "result", content)

    async def _git_body(self, request: Request, service: Service) -> IO[bytes]:
        self.guard.admit_git(request, _GIT_NEEDS[service])
        encoding = request.headers.get("content-encoding", "identity").lower()
        if encoding not in ("identity", "gzip", "x-gzip"):
            raise Problem(415, "Unsupported Media Type")
        try:
            return await self.forge.git.read_body(request.stream(), encoding=encoding)
        except BodyTooLarge as error:
            raise Problem(413, "Payload Too Large") from error
        except (BodyMalformed, ClientDisconnect) as error:
            raise Problem(400, "Bad Request") from error


async def _answer_problem(_request: Request, problem: Exception) -> Response:
    assert isinstance(problem, Problem)
    return answer_problem(problem)


async def _answer_http_problem(_request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    return JSONResponse({"message": problem.detail}, status_code=problem.status_code, headers=problem.headers)


def _git_answer(service: Service, kind: str, content: bytes) -> Response:
    return Response(content, media_type=f"application/x-{service}-{kind}", headers={"Cache-Control": "no-cache"})


# -- the page ----------------------------------------------------------------------------------------------------


def render_page(repository: str, pulls: Sequence[Pull], statuses: Sequence[Status]) -> str:
    """Return the page for people; everything in it that somebody wrote is escaped."""
    rows = "".join(
        f"<tr><td>#{pull.number}<td>{escape(pull.title)}<td>{escape(pull.head_branch)}<td><code>{pull.head_sha[:7]}</code>"
        for pull in reversed(pulls)
    )
    told = "".join(
        f"<tr class={escape(status.state)}><td><code>{status.sha[:7]}</code><td>{escape(status.context)}"
        f"<td>{escape(status.state)}<td>{escape(status.description or '')}<td>{_link(status.target_url)}"
        f"<td>{escape(status.created_at)}"
        for status in statuses
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(repository)}</title>"
        "<style>body{font:15px system-ui;margin:2rem auto;max-width:70rem}table{border-collapse:collapse;width:100%}"
        "td{padding:.3rem .8rem;border-top:1px solid #ddd}.success td{color:#116329}"
        f".failure td,.error td{{color:#a40e26}}</style><h1>{escape(repository)}</h1>"
        f"<h2>Open pull requests</h2><table>{rows or '<tr><td>none'}</table>"
        f"<h2>Commit statuses</h2><table>{told or '<tr><td>none'}</table></html>"
    )


def _link(url: str | None) -> str:
    return "" if url is None else f'<a rel=noreferrer href="{escape(url)}">{escape(url)}</a>'
