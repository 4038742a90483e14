"""What does each address of the development forge answer? git over smart HTTP, the API, the knobs, and a page.

Whoever knows the token may do everything; who does not gets 401. /health and the page at / are open.

Knobs for what goes wrong at the real one, each a POST with a JSON object to /_development/<name>:
- drop {count}: the next webhooks are never made. pause {paused}: webhooks wait, and come in order once it is false.
- outage {seconds}: the API answers 503. slow {seconds}: each of its answers comes so much later, until set to 0.
- limit {shape: "retry-after" | "reset" | "secondary", status: 403 | 429, seconds}: the API is limited.
- fork_pull {title, head_sha_branch, null_repo}: a pull request from a fork, or from one that was deleted.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from html import escape
from typing import IO, Final, TypeVar
from urllib.parse import quote, urlencode

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from controller.development.forge_events import Forge, Knobs, Limit, Problem, invalid, read_first_line, utc_text
from controller.development.forge_git import BodyMalformed, BodyTooLarge, Service
from controller.development.forge_records import closed
from controller.development.forge_shapes import DEFAULT_BRANCH, HOOK_ID, Delivery, Json, Object, Pull, Status
from controller.model.states import StatusState

BODY_BYTES_MAX: Final = 1 << 20
PAGE_SIZE: Final = 30
PAGE_SIZE_MAX: Final = 100
DESCRIPTION_CHARS_MAX: Final = 140
STATUSES_PER_CONTEXT_MAX: Final = 1000
KNOB_MAX: Final = 86_400.0
TITLE_CHARS_MAX: Final = 256

_T = TypeVar("_T")
_SHA = re.compile(r"[0-9a-f]{40}\Z")
_GIT_SERVICES: Final[dict[str, Service]] = {
    "git-upload-pack": "git-upload-pack",
    "git-receive-pack": "git-receive-pack",
}


def build_app(forge: Forge) -> Starlette:
    """Return the application."""
    api = "/api/v3/repos/{owner}/{name}"
    git = "/{owner}/{name}"
    doors = Doors(forge)

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
            route(api + "/commits/{ref:path}", doors.commit),
            route(api + "/hooks/{hook:int}/deliveries", doors.deliveries),
            route(api + "/hooks/{hook:int}/deliveries/{number:int}", doors.delivery),
            route(api + "/hooks/{hook:int}/deliveries/{number:int}/attempts", doors.redeliver, "POST"),
            route("/_development/drop", doors.drop, "POST"),
            route("/_development/pause", doors.pause, "POST"),
            route("/_development/fork_pull", doors.fork_pull, "POST"),
            route("/_development/outage", doors.outage, "POST"),
            route("/_development/slow", doors.slow, "POST"),
            route("/_development/limit", doors.limit, "POST"),
            route(git + "/info/refs", doors.info_refs),
            route(git + "/git-upload-pack", doors.upload_pack, "POST"),
            route(git + "/git-receive-pack", doors.receive_pack, "POST"),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"]),
            Middleware(SlowApi, knobs=forge.knobs),
        ],
        exception_handlers={Problem: _answer_problem, HTTPException: _answer_http_problem},
        lifespan=lifespan,
    )


class SlowApi:
    """Makes the API as slow as its knob says."""

    def __init__(self, app: ASGIApp, *, knobs: Knobs) -> None:
        self._app = app
        self._knobs = knobs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/api/"):
            await asyncio.sleep(self._knobs.slow_s)
        await self._app(scope, receive, send)


class Doors:
    """What each address answers."""

    def __init__(self, forge: Forge) -> None:
        self.forge = forge

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
        self._admit_api(request)
        return JSONResponse(self.forge.full_repository_shape())

    async def pulls(self, request: Request) -> Response:
        self._admit_api(request)
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
        page, headers = _page(request, found)
        return JSONResponse(self.forge.pull_simple_shapes(page), headers=headers)

    async def create_pull(self, request: Request) -> Response:
        self._admit_api(request)
        content = await _read_object(request)
        title, head, base = (_text(content, key, "PullRequest") for key in ("title", "head", "base"))
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
        self._admit_api(request)
        return JSONResponse(self.forge.pull_shape(self._read_pull(request)))

    async def change_pull(self, request: Request) -> Response:
        self._admit_api(request)
        content = await _read_object(request)
        async with self.forge.changing:
            pull = self._read_pull(request)
            if "title" in content:
                pull = replace(
                    pull, title=_text(content, "title", "PullRequest")[:TITLE_CHARS_MAX], updated_at=utc_text()
                )
                self.forge.records.replace_pull(pull)
            state = content.get("state", "open" if pull.is_open else "closed")
            if state == "closed" and pull.is_open:
                pull = closed(pull, now=utc_text())
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
        return replace(pull, head_sha=head, is_open=True, closed_at=None, updated_at=utc_text())

    async def merge_pull(self, request: Request) -> Response:
        self._admit_api(request)
        content = await _read_object(request)
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
                forge.change_pull(closed(pull, now=utc_text(), merge_commit_sha=merged), "closed")
        return JSONResponse({"sha": merged, "merged": True, "message": "Pull Request successfully merged"})

    def _read_pull(self, request: Request) -> Pull:
        number = int(request.path_params["number"])
        pull = self.forge.records.load_pull(number) if number < 1 << 62 else None
        if pull is None:
            raise Problem(404, "Not Found")
        return pull

    # -- the API: refs, commits, statuses -----------------------------------------------------------------------------

    async def branches(self, request: Request) -> Response:
        self._admit_api(request)
        refs = await self.forge.git.refs()
        heads = [(ref.removeprefix("refs/heads/"), sha) for ref, sha in refs.items() if ref.startswith("refs/heads/")]
        page, headers = _page(request, heads)
        return JSONResponse([self.forge.shapes.branch(name, sha) for name, sha in page], headers=headers)

    async def git_ref(self, request: Request) -> Response:
        self._admit_api(request)
        ref = f"refs/{request.path_params['ref']}"
        sha = self.forge.git.ref_target(ref)
        if sha is None:
            raise Problem(404, "Not Found")
        return JSONResponse(self.forge.shapes.git_ref(ref, sha))

    async def commit(self, request: Request) -> Response:
        self._admit_api(request)
        commit = self.forge.git.load_commit(self._read_sha(request))
        assert commit is not None
        return JSONResponse(self.forge.shapes.commit(commit))

    async def create_status(self, request: Request) -> Response:
        self._admit_api(request)
        content = await _read_object(request)
        sha = str(request.path_params["sha"])
        if not _SHA.match(sha) or self.forge.git.load_commit(sha) is None:
            raise Problem(422, f"No commit found for SHA: {sha[:60]}")
        state = content.get("state")
        if state not in list(StatusState):
            raise invalid("Status", "state", message="state is not included in the list")
        context = content.get("context", "default")
        if not isinstance(context, str) or not 0 < len(context) <= 255:
            raise invalid("Status", "context")
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
            sha, state=str(state), context=context, description=description, target_url=target_url, now=utc_text()
        )
        shape = self.forge.shapes.status(status)
        return JSONResponse(shape, status_code=201, headers={"Location": str(shape["url"])})

    async def statuses(self, request: Request) -> Response:
        self._admit_api(request)
        page, headers = _page(request, self.forge.records.load_statuses(self._read_sha(request)))
        return JSONResponse([self.forge.shapes.status(status) for status in page], headers=headers)

    async def combined_status(self, request: Request) -> Response:
        self._admit_api(request)
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
        self._admit_api(request)
        self._require_hook(request)
        cursor = request.query_params.get("cursor", "")
        size = _number(request.query_params.get("per_page"), PAGE_SIZE, PAGE_SIZE_MAX)
        before = int(cursor) if cursor.isascii() and cursor.isdigit() and len(cursor) < 18 else None
        found = self.forge.records.load_deliveries(before=before, limit=size + 1)
        page, headers = found[:size], {}
        if len(found) > size:
            query = urlencode({"per_page": size, "cursor": page[-1].id})
            headers["Link"] = f'<{_own_url(request)}?{query}>; rel="next"'
        return JSONResponse([self.forge.shapes.delivery(delivery) for delivery in page], headers=headers)

    async def delivery(self, request: Request) -> Response:
        self._admit_api(request)
        delivery = self._read_delivery(request)
        shape = self.forge.shapes.delivery(delivery)
        shape["url"] = self.forge.webhook_url
        headers: Object = dict(self.forge.plain_headers(delivery).items())
        shape["request"] = {"headers": headers, "payload": json.loads(delivery.body)}
        shape["response"] = {"headers": {}, "payload": ""}
        return JSONResponse(shape)

    async def redeliver(self, request: Request) -> Response:
        self._admit_api(request)
        delivery = self._read_delivery(request)
        self.forge.records.add_delivery(
            guid=delivery.guid,
            event=delivery.event,
            action=delivery.action,
            body=delivery.body,
            redelivery=True,
            now=utc_text(),
        )
        self.forge.has_unsent.set()
        return JSONResponse({}, status_code=202)

    def _read_delivery(self, request: Request) -> Delivery:
        self._require_hook(request)
        number = int(request.path_params["number"])
        delivery = self.forge.records.load_delivery(number) if number < 1 << 62 else None
        if delivery is None:
            raise Problem(404, "Not Found")
        return delivery

    def _require_hook(self, request: Request) -> None:
        if request.path_params["hook"] != HOOK_ID:
            raise Problem(404, "Not Found")

    # -- the knobs ----------------------------------------------------------------------------------------------------

    async def drop(self, request: Request) -> Response:
        """Never send the next `count` webhooks."""
        self._admit(request)
        count = (await _read_object(request)).get("count", 1)
        self.forge.knobs.drop_count = int(_knob(count, "count"))
        return JSONResponse({"drop": self.forge.knobs.drop_count})

    async def pause(self, request: Request) -> Response:
        """Keep webhooks back, or send those that were kept back."""
        self._admit(request)
        paused = (await _read_object(request)).get("paused", True)
        if not isinstance(paused, bool):
            raise Problem(422, "paused is true or false")
        self.forge.knobs.paused = paused
        self.forge.has_unsent.set()
        return JSONResponse({"paused": paused})

    async def fork_pull(self, request: Request) -> Response:
        """Open a pull request from a fork whose head is that of a branch; with `null_repo` the fork is gone."""
        self._admit(request)
        content = await _read_object(request)
        title, branch = _text(content, "title", "PullRequest"), _text(content, "head_sha_branch", "PullRequest")
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
        self._admit(request)
        seconds = _knob((await _read_object(request)).get("seconds", 10), "seconds")
        self.forge.knobs.outage_ends_at_s = time.monotonic() + seconds
        return JSONResponse({"outage": seconds})

    async def slow(self, request: Request) -> Response:
        """Answer everything under /api/v3 `seconds` later."""
        self._admit(request)
        self.forge.knobs.slow_s = _knob((await _read_object(request)).get("seconds", 1), "seconds")
        return JSONResponse({"slow": self.forge.knobs.slow_s})

    async def limit(self, request: Request) -> Response:
        """Limit everything under /api/v3 for `seconds`, in one of the three documented shapes."""
        self._admit(request)
        content = await _read_object(request)
        seconds = _knob(content.get("seconds", 10), "seconds")
        shape, status = content.get("shape", "retry-after"), content.get("status", 403)
        if shape not in ("retry-after", "reset", "secondary") or status not in (403, 429):
            raise Problem(422, "shape is retry-after, reset or secondary; status is 403 or 429")
        self.forge.knobs.limit = Limit(
            shape=str(shape),
            status=403 if status == 403 else 429,
            ends_at_s=time.monotonic() + seconds,
            seconds=seconds,
        )
        return JSONResponse({"limit": shape, "seconds": seconds})

    # -- git ----------------------------------------------------------------------------------------------------------

    async def info_refs(self, request: Request) -> Response:
        self._admit_git(request)
        service = _GIT_SERVICES.get(request.query_params.get("service", ""))
        if service is None:
            return Response("Please upgrade your git client.\n", status_code=403, media_type="text/plain")
        content = await self.forge.git.advertise(service, request.headers.get("git-protocol", ""))
        return _git_answer(service, "advertisement", content)

    async def upload_pack(self, request: Request) -> Response:
        body = await self._git_body(request)
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
        with await self._git_body(request) as body:
            async with forge.changing:
                before = await forge.git.refs()
                content = b"".join([piece async for piece in forge.git.serve("git-receive-pack", body, protocol="")])
                forge.note_ref_moves(before, await forge.git.refs())
        return _git_answer("git-receive-pack", "result", content)

    async def _git_body(self, request: Request) -> IO[bytes]:
        self._admit_git(request)
        encoding = request.headers.get("content-encoding", "identity").lower()
        if encoding not in ("identity", "gzip", "x-gzip"):
            raise Problem(415, "Unsupported Media Type")
        try:
            return await self.forge.git.read_body(request.stream(), encoding=encoding)
        except BodyTooLarge as error:
            raise Problem(413, "Payload Too Large") from error
        except (BodyMalformed, ClientDisconnect) as error:
            raise Problem(400, "Bad Request") from error

    # -- who may ------------------------------------------------------------------------------------------------------

    def _admit_git(self, request: Request) -> None:
        self._admit(request)
        self._require_repository(request, suffix=".git")

    def _admit_api(self, request: Request) -> None:
        self._admit(request)
        knobs, now_s = self.forge.knobs, time.monotonic()
        if now_s < knobs.outage_ends_at_s:
            raise Problem(503, "Service Unavailable")
        if knobs.limit is not None and now_s < knobs.limit.ends_at_s:
            raise _limited(knobs.limit, left_s=knobs.limit.ends_at_s - now_s)
        self._require_repository(request)

    def _require_repository(self, request: Request, *, suffix: str = "") -> None:
        asked = f"{request.path_params['owner']}/{request.path_params['name']}"
        # Names compare without case, as at GitHub; git addresses are good with and without ".git".
        if asked.lower().removesuffix(suffix) != self.forge.shapes.full_name.lower():
            raise Problem(404, "Not Found")

    def _admit(self, request: Request) -> None:
        """Raise unless the request holds the token, as a bearer or as a password."""
        try:
            expected = read_first_line(self.forge.token_file).encode()
        except (OSError, ValueError) as error:
            raise Problem(503, "The forge cannot read its token file") from error
        given = _token_of(request.headers.get("authorization", ""))
        if given is None or not hmac.compare_digest(given, expected):
            told = "Requires authentication" if given is None else "Bad credentials"
            raise Problem(401, told, headers={"WWW-Authenticate": 'Basic realm="GitHub"'})


def _token_of(authorization: str) -> bytes | None:
    """Return the token in an Authorization header, or None."""
    scheme, _, rest = authorization.partition(" ")
    match scheme.lower():
        case "bearer" | "token":
            return rest.strip().encode("utf-8", "replace")
        case "basic":
            try:
                return base64.b64decode(rest.strip(), validate=True).partition(b":")[2]
            except (ValueError, binascii.Error):
                return b""
        case _:
            return None


def _limited(limit: Limit, *, left_s: float) -> Problem:
    told = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
    headers: dict[str, str] = {}
    if limit.shape == "retry-after":
        headers["Retry-After"] = str(math.ceil(left_s))
    elif limit.shape == "reset":
        told = "API rate limit exceeded for user ID 2."
        reset = math.ceil(time.time() + left_s)
        headers = {"X-RateLimit-Limit": "5000", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(reset)}
    return Problem(limit.status, told, headers=headers)


async def _answer_problem(_request: Request, problem: Exception) -> Response:
    assert isinstance(problem, Problem)
    return JSONResponse(problem.content, status_code=problem.status, headers=problem.headers)


async def _answer_http_problem(_request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    return JSONResponse({"message": problem.detail}, status_code=problem.status_code, headers=problem.headers)


def _git_answer(service: Service, kind: str, content: bytes) -> Response:
    return Response(content, media_type=f"application/x-{service}-{kind}", headers={"Cache-Control": "no-cache"})


# -- other people's input ------------------------------------------------------------------------------------------


async def _read_object(request: Request) -> Object:
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > BODY_BYTES_MAX:
                raise Problem(413, "Payload Too Large")
        content: Json = json.loads(body) if body else {}
    except (ValueError, RecursionError, ClientDisconnect) as error:
        raise Problem(400, "Problems parsing JSON") from error
    if not isinstance(content, dict):
        raise Problem(400, "Body should be a JSON object")
    # SQLite and git take no NUL, and no encoding has lone surrogates.
    return {key: _storable(value) if isinstance(value, str) else value for key, value in content.items()}


def _storable(text: str) -> str:
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _text(content: Object, key: str, resource: str) -> str:
    value = content.get(key)
    if not isinstance(value, str) or not value:
        raise invalid(resource, key, code="missing_field")
    return value


def _knob(value: Json, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= KNOB_MAX:
        raise Problem(422, f"{key} is a number from 0 to {KNOB_MAX:g}")
    return float(value)


def _page(request: Request, found: Sequence[_T]) -> tuple[Sequence[_T], dict[str, str]]:
    """Return the page that was asked for, and the Link header that names the others."""
    size = _number(request.query_params.get("per_page"), PAGE_SIZE, PAGE_SIZE_MAX)
    page = _number(request.query_params.get("page"), 1, 1_000_000)
    last = max(1, -(-len(found) // size))
    links = []
    for relation, number in (("prev", page - 1), ("next", page + 1), ("last", last), ("first", 1)):
        is_wanted = number < page if relation in ("prev", "first") else number > page
        if is_wanted and 1 <= number <= last:
            query = urlencode({**dict(request.query_params), "per_page": size, "page": number})
            links.append(f'<{_own_url(request)}?{query}>; rel="{relation}"')
    return found[(page - 1) * size : page * size], {"Link": ", ".join(links)} if links else {}


def _number(text: str | None, default: int, highest: int) -> int:
    if text is None or not (text.isascii() and text.isdigit() and len(text) < 9):
        return default
    return max(1, min(highest, int(text)))


def _own_url(request: Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc}{quote(request.url.path, safe='/%')}"


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
