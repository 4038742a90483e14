"""What does every address of the development forge's API have in common? Who may, how often, and what did not change.

In this order, as at GitHub: failures that a test asked for; outage and limits; who asks (401); under which name the
repository is known (301); may they (404 for a repository that a token does not know, 403 for a permission). Answers
carry the primary limit and, when they are read, a tag: who has it already gets 304, which costs nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import math
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from controller.development.forge_app import INSTALLATION_ID, Apps, Caller, Unknown
from controller.development.forge_events import AppHook, Forge, Limit, Problem, read_first_line
from controller.development.forge_limits import AT_THE_SITE, SECONDARY, SECONDARY_PAUSE_S, Limits
from controller.development.forge_shapes import REPOSITORY_ID

Answer = Callable[[Request], Awaitable[Response]]
_READS: Final = ("GET", "HEAD")


class Guard:
    """Who may ask what of one forge."""

    def __init__(self, forge: Forge, apps: Apps) -> None:
        self.forge = forge
        self.apps = apps
        self.limits = Limits()
        forge.app_hook = self._app_hook

    def now_s(self) -> float:
        """Return the forge's clock."""
        return time.time() + self.forge.knobs.clock_ahead_s

    def wrap(self, answer: Answer) -> Answer:
        """Return an address of the API with all that they have in common."""

        async def guarded(request: Request) -> Response:
            is_write = request.method not in _READS
            is_counted = AT_THE_SITE not in request.headers
            try:
                self._fail_as_asked(request)
                if is_counted:
                    self.limits.begin(f"{request.method} {request.url.path}", is_write=is_write)
            except Problem as problem:
                return self._stamped(answer_problem(problem))
            is_free = False
            try:
                found = await answer(request)
                if not is_write and found.status_code == 200:
                    found = _unless_known(request, found)
                    is_free = found.status_code == 304
            except Problem as problem:
                found = answer_problem(problem)
            finally:
                if is_counted:
                    self.limits.end(is_write=is_write, is_free=is_free)
            return self._stamped(found)

        return guarded

    # -- who asks -----------------------------------------------------------------------------------------------------

    def admit(self, request: Request, *needs: str) -> Caller:
        """Return who asks about the repository; Problem unless they may: any of `needs`, each `permission:level`."""
        caller = self.caller(request)
        self._refuse_while_limited()
        self.require_repository(request)
        if caller.kind == "app":
            raise Problem(404, "Not Found")
        if caller.kind == "installation" and self.forge.shapes.name not in caller.repositories:
            # Tokens know a repository, not its name: a rename takes none away.
            known = {name.rpartition("/")[2] for name in self.forge.former_names}
            if not known & {name.lower() for name in caller.repositories}:
                raise Problem(404, "Not Found")
        if not any(caller.may(*need.split(":")) for need in needs):
            accepted = {"X-Accepted-GitHub-Permissions": "; ".join(need.replace(":", "=") for need in needs)}
            raise Problem(403, "Resource not accessible by integration", headers=accepted)
        return caller

    def admit_app(self, request: Request) -> None:
        """Raise Problem unless the App itself asks."""
        token = token_of(request.headers.get("authorization", ""))
        self._refuse_while_limited()
        if token is None:
            raise _unauthorized("A JSON web token could not be decoded")
        try:
            self.apps.read_jwt(token.decode("utf-8", "replace"), now_s=self.now_s())
        except Unknown as error:
            raise _unauthorized(str(error)) from error

    def admit_developer(self, request: Request) -> None:
        """Raise Problem unless whoever asks knows the developer's token."""
        if self.caller(request).kind != "developer":
            raise Problem(403, "Resource not accessible by integration")

    def admit_git(self, request: Request, needs: str) -> None:
        """Raise Problem unless whoever asks may fetch or push; a former name leads to the new one."""
        caller = self.caller(request)
        self.require_repository(request, suffix=".git")
        permission, _, level = needs.partition(":")
        if not caller.may(permission, level):
            raise Problem(403, "Write access to repository not granted.")

    def caller(self, request: Request) -> Caller:
        """Return who asks, by a bearer token or by git's password; Problem for nobody."""
        try:
            expected = read_first_line(self.forge.token_file).encode()
        except (OSError, ValueError) as error:
            raise Problem(503, "The forge cannot read its token file") from error
        given = token_of(request.headers.get("authorization", ""))
        if given is None:
            raise _unauthorized("Requires authentication")
        if hmac.compare_digest(given, expected):
            return Caller(kind="developer")
        text = given.decode("utf-8", "replace")
        if text.startswith("eyJ") and text.count(".") == 2:
            try:
                return self.apps.read_jwt(text, now_s=self.now_s())
            except Unknown as error:
                raise _unauthorized(str(error)) from error
        found = self.apps.read_token(text, now_s=self.now_s())
        if found is None:
            raise _unauthorized("Bad credentials")
        return found

    def require_repository(self, request: Request, *, suffix: str = "") -> None:
        """Raise Problem unless the repository is ours: a redirect when it is called otherwise by now."""
        asked = f"{request.path_params['owner']}/{request.path_params['name']}"
        # Names compare without case, as at GitHub; git addresses are good with and without ".git".
        name = asked.lower().removesuffix(suffix)
        if name in self.forge.former_names:
            raise self._moved(request, asked, is_git=bool(suffix))
        if name != self.forge.shapes.full_name.lower():
            raise Problem(404, "Not Found")

    def _moved(self, request: Request, asked: str, *, is_git: bool) -> Problem:
        shapes = self.forge.shapes
        _, _, rest = request.url.path.partition(asked)
        if is_git:
            location = f"{shapes.base_url}/{shapes.full_name}.git{rest}"
        else:
            location = f"{shapes.api_url}/repositories/{REPOSITORY_ID}{quote(rest, safe='/%')}"
        if request.url.query:
            location += f"?{request.url.query}"
        return Problem(301, "Moved Permanently", headers={"Location": location})

    def _app_hook(self) -> AppHook | None:
        app = self.apps.load()
        if app is None or not app.installed or app.suspended or not app.webhook_url:
            return None
        return AppHook(
            app_id=app.id,
            installation_id=INSTALLATION_ID,
            url=app.webhook_url,
            secret=app.webhook_secret,
            events=tuple(app.events),
        )

    # -- what goes wrong ----------------------------------------------------------------------------------------------

    def _fail_as_asked(self, request: Request) -> None:
        count, status, prefix = self.forge.knobs.failures
        if count > 0 and request.url.path.removeprefix("/api/v3").startswith(prefix):
            self.forge.knobs.failures = (count - 1, status, prefix)
            raise Problem(status, "It fails, as asked", headers={"Retry-After": "1"} if status == 429 else {})

    def _refuse_while_limited(self) -> None:
        knobs, limits = self.forge.knobs, self.limits
        if time.monotonic() < knobs.outage_ends_at_s:
            raise Problem(503, "Service Unavailable")
        if knobs.limit is not None and limits.now_s() < knobs.limit.ends_at_s:
            raise _limited(knobs.limit, limits)

    def _stamped(self, found: Response) -> Response:
        """Add what every answer says: of the primary limit, and of the forge's clock."""
        found.headers["Date"] = formatdate(self.now_s(), usegmt=True)
        for name, value in self.limits.headers().items():
            found.headers.setdefault(name, value)
        return found


def answer_problem(problem: Problem) -> Response:
    """Return a problem in GitHub's shape."""
    return JSONResponse(problem.content, status_code=problem.status, headers=problem.headers)


def token_of(authorization: str) -> bytes | None:
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


def _unauthorized(told: str) -> Problem:
    return Problem(401, told, headers={"WWW-Authenticate": 'Basic realm="GitHub"'})


def _unless_known(request: Request, found: Response) -> Response:
    etag = f'W/"{hashlib.sha256(bytes(found.body)).hexdigest()}"'
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers={"ETag": etag})
    found.headers["ETag"] = etag
    return found


def _limited(limit: Limit, limits: Limits) -> Problem:
    told, now_s = SECONDARY, limits.now_s()
    # The headers of the primary limit say otherwise that there is room.
    headers = {"X-RateLimit-Remaining": "4000"}
    match limit.shape:
        case "retry-after":
            pause_s = math.ceil(limit.ends_at_s - now_s)
            headers["Retry-After"] = str(pause_s)
            limits.tell(now_s + pause_s)
        case "reset":
            told = "API rate limit exceeded for user ID 2."
            reset = math.ceil(limit.ends_at_s)
            headers = {"X-RateLimit-Limit": "5000", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(reset)}
            limits.tell(reset)
        case _:
            limits.tell(now_s + SECONDARY_PAUSE_S)
    return Problem(limit.status, told, headers=headers)
