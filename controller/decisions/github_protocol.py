"""What do we say to the forge, and what do its answers mean? The REST API of GitHub, sans I/O.

Requests are values that an effect sends; replies are values that it received. Reading a reply gives a value, or an
error that says what follows: `Unavailable` (try again, at `retry_at` if the forge named a time) or `Stalled` (the forge
will never take this). A reply is other people's bytes: nothing is believed that was not checked, and what we do not
understand is `ForgeReplyInvalid`, never a guess. A list is complete or it is nothing, since a pull request that is
missing from it would lose its preview.
https://docs.github.com/rest
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, NoReturn
from urllib.parse import parse_qs, quote, urlsplit

from controller.model.errors import Stalled, Unavailable
from controller.model.names import Sha, parse_sha
from controller.model.nouns import PullRequest, WantedReport
from controller.model.states import StatusState

API_VERSION: Final = "2022-11-28"
USER_AGENT: Final = "oroboros"
PAGE_SIZE: Final = 100
#: More open pull requests than this many pages hold are not believed.
PAGES_MAX: Final = 50
#: What GitHub asks of whoever is limited and was not told for how long.
LIMIT_PAUSE_S: Final = 60
DESCRIPTION_CHARS_MAX: Final = 140
_TEXT_CHARS_MAX: Final = 1_000
_TOLD_CHARS_MAX: Final = 200

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None

_SECONDS = re.compile(r"[0-9]{1,9}\Z")
_EPOCH = re.compile(r"[0-9]{1,11}\Z")
_NEXT_LINK = re.compile(r'<([^<>]{1,2000})>\s*;[^,]*?\brel="?next"?')
_PERMISSIONS = re.compile(r"[a-z_=,; ]{1,200}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to send: `path` (with its query) is appended to the API's base URL."""

    method: str
    path: str
    #: May hold the token, so it is not in the repr.
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back: header names in lower case, and the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """What we need to know of the repository."""

    id: int
    full_name: str
    default_branch: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PullsPage:
    """One page of the open pull requests, and the number of the page after it, if there is one."""

    pulls: tuple[PullRequest, ...]
    next_page: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PostedStatus:
    """A commit status as the forge shows it."""

    state: StatusState
    context: str
    description: str
    target_url: str | None
    created_at: datetime


def api_base(forge_url: str) -> str:
    """Return the base URL of the API of a forge: github.com has its own host for it, others answer under /api/v3."""
    url = forge_url.rstrip("/")
    return "https://api.github.com" if url == "https://github.com" else f"{url}/api/v3"


# -- requests -------------------------------------------------------------------------------------------------------


def get_repository(repository: str, *, token: str | None) -> Request:
    """Ask for the repository."""
    return Request(method="GET", path=f"/repos/{repository}", headers=_headers(token))


def list_open_pulls(repository: str, *, page: int, token: str | None) -> Request:
    """Ask for a page of the open pull requests, the oldest first: what is opened meanwhile comes last."""
    query = f"state=open&sort=created&direction=asc&per_page={PAGE_SIZE}&page={page}"
    return Request(method="GET", path=f"/repos/{repository}/pulls?{query}", headers=_headers(token))


def create_status(repository: str, report: WantedReport, *, token: str | None) -> Request:
    """Set the status of a commit in a context. The newest counts, so that sending it again changes nothing."""
    content = {"state": str(report.state), "context": report.context, "description": report.description}
    if report.target_url is not None:
        content["target_url"] = report.target_url
    return Request(
        method="POST",
        path=f"/repos/{repository}/statuses/{quote(report.sha, safe='')}",
        headers={**_headers(token), "Content-Type": "application/json"},
        body=json.dumps(content).encode(),
    )


def list_statuses(repository: str, sha: Sha, *, token: str | None) -> Request:
    """Ask for the newest statuses of a commit."""
    path = f"/repos/{repository}/commits/{quote(sha, safe='')}/statuses?per_page={PAGE_SIZE}"
    return Request(method="GET", path=path, headers=_headers(token))


def _headers(token: str | None) -> dict[str, str]:
    headers = {
        "Accept": "application/vnd.github+json",
        "X-GitHub-Api-Version": API_VERSION,
        "User-Agent": USER_AGENT,
    }
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return headers


# -- replies --------------------------------------------------------------------------------------------------------


def read_repository(reply: Reply, *, now: datetime) -> Repository:
    """Return what the forge says of the repository."""
    what = "get the repository"
    _raise_unless(200, reply, what=what, permission="metadata: read", now=now)
    found = _object(_json(reply, what), what)
    return Repository(
        id=_number(found, "id", what),
        full_name=_text(found, "full_name", what),
        default_branch=_text(found, "default_branch", what),
    )


def read_pulls_page(reply: Reply, *, page: int, now: datetime) -> PullsPage:
    """Return one page of the open pull requests."""
    what = "list the pull requests"
    _raise_unless(200, reply, what=what, permission="pull requests: read", now=now)
    pulls = tuple(_pull(_object(one, what), what) for one in _list(_json(reply, what), what))
    return PullsPage(pulls=pulls, next_page=_next_page(reply, page=page, is_full=len(pulls) >= PAGE_SIZE, what=what))


def read_created_status(reply: Reply, *, now: datetime) -> None:
    """Return when the forge took the status; Stalled when it never will."""
    what = "set a commit status"
    if reply.status == 422:
        raise Stalled("StatusRefused", f"the forge does not take the commit status: {_told(reply)}")
    _raise_unless(201, reply, what=what, permission="commit statuses: write", now=now)


def read_statuses(reply: Reply, *, now: datetime) -> tuple[PostedStatus, ...]:
    """Return the statuses of a commit, the newest first."""
    what = "list the commit statuses"
    _raise_unless(200, reply, what=what, permission="commit statuses: read", now=now)
    return tuple(_status(_object(one, what), what) for one in _list(_json(reply, what), what))


def _raise_unless(expected: int, reply: Reply, *, what: str, permission: str, now: datetime) -> None:
    """Raise what a reply means that is not the expected one."""
    status = reply.status
    if status == expected:
        return
    limited_until = _limited_until(reply, now=now)
    if limited_until is not None:
        raise Unavailable(
            "ForgeLimited",
            f"cannot {what}: the forge asks us to wait until {limited_until:%H:%M:%S} UTC",
            retry_at=limited_until,
        )
    if status == 401:
        raise Unavailable("ForgeRefused", f"cannot {what}: the forge does not know the token; write a valid one")
    if status == 403:
        accepted = reply.headers.get("x-accepted-github-permissions", "")
        needed = f"{permission} ({accepted})" if _PERMISSIONS.match(accepted) else permission
        raise Unavailable(
            "ForgeRefused", f"cannot {what}: the token lacks the permission {needed}; the forge says {_told(reply)}"
        )
    if status == 404:
        raise Unavailable(
            "ForgeNotFound",
            f"cannot {what}: the forge knows no such thing, or hides it from a token without {permission}",
        )
    if status >= 500:
        raise Unavailable(
            "ForgeDown", f"cannot {what}: the forge answers {status}", retry_at=_retry_after(reply, now=now)
        )
    if 300 <= status < 400:
        raise Unavailable(
            "ForgeMoved", f"cannot {what}: the forge answers {status}; was the repository renamed? Set its new name"
        )
    raise Unavailable("ForgeReplyInvalid", f"cannot {what}: the forge answers {status}: {_told(reply)}")


def _limited_until(reply: Reply, *, now: datetime) -> datetime | None:
    """Return until when we are limited, None when we are not; the three shapes in the order that GitHub documents.

    https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api#exceeding-the-rate-limit
    """
    if reply.status not in (403, 429):
        return None
    after = _retry_after(reply, now=now)
    if after is not None:
        return after
    if reply.headers.get("x-ratelimit-remaining", "").strip() == "0":
        reset = reply.headers.get("x-ratelimit-reset", "").strip()
        if _EPOCH.match(reset):
            return max(now, datetime.fromtimestamp(int(reset), UTC))
        return now + timedelta(seconds=LIMIT_PAUSE_S)
    # A secondary limit may come as a 403 that says so only in words; any other 403 is about permissions.
    if reply.status == 429 or b"rate limit" in reply.body[:4096].lower():
        return now + timedelta(seconds=LIMIT_PAUSE_S)
    return None


def _retry_after(reply: Reply, *, now: datetime) -> datetime | None:
    text = reply.headers.get("retry-after", "").strip()
    return now + timedelta(seconds=int(text)) if _SECONDS.match(text) else None


def _next_page(reply: Reply, *, page: int, is_full: bool, what: str) -> int | None:
    """Return the number of the next page. Only its number is taken from the link: we build our own addresses.

    A full page may have lost its link to a proxy. To ask for one page more, which is empty, costs less than a preview.
    """
    match = _NEXT_LINK.search(reply.headers.get("link", ""))
    if match is None and not is_full:
        return None
    try:
        numbers = [str(page + 1)] if match is None else parse_qs(urlsplit(match[1]).query).get("page", [])
    except ValueError:
        numbers = []
    if numbers != [str(page + 1)]:
        _invalid(what, f"page {page} is followed by {numbers}")
    if page >= PAGES_MAX:
        _invalid(what, f"there are more than {PAGES_MAX} pages")
    return page + 1


def _pull(found: dict[str, Json], what: str) -> PullRequest:
    head, base = _object(found.get("head"), what), _object(found.get("base"), what)
    # Null when the fork was deleted: https://github.com/github/rest-api-description/issues/161
    head_repository = head.get("repo")
    base_id = _number(_object(base.get("repo"), what), "id", what)
    same = head_repository is not None and _number(_object(head_repository, what), "id", what) == base_id
    # Null for an account that was deleted.
    user = found.get("user")
    return PullRequest(
        number=_number(found, "number", what),
        head_sha=_sha(head, what),
        head_branch=_text(head, "ref", what),
        title=_text(found, "title", what),
        author="" if user is None else _text(_object(user, what), "login", what),
        same_repository=same,
        opened_at=_instant(found, "created_at", what),
    )


def _status(found: dict[str, Json], what: str) -> PostedStatus:
    try:
        state = StatusState(_text(found, "state", what))
    except ValueError:
        _invalid(what, "a status has an unknown state")
    return PostedStatus(
        state=state,
        context=_text(found, "context", what),
        description="" if found.get("description") is None else _text(found, "description", what),
        target_url=None if found.get("target_url") is None else _text(found, "target_url", what),
        created_at=_instant(found, "created_at", what),
    )


# -- other people's JSON --------------------------------------------------------------------------------------------


def _json(reply: Reply, what: str) -> Json:
    try:
        value: Json = json.loads(reply.body)
    except (ValueError, RecursionError):
        _invalid(what, "the body is not JSON")
    return value


def _object(value: Json, what: str) -> dict[str, Json]:
    if not isinstance(value, dict):
        _invalid(what, "an object is missing")
    return value


def _list(value: Json, what: str) -> list[Json]:
    if not isinstance(value, list):
        _invalid(what, "it is not a list")
    return value


def _number(found: dict[str, Json], key: str, what: str) -> int:
    value = found.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 63:
        _invalid(what, f"{key} is not a positive number")
    return value


def _text(found: dict[str, Json], key: str, what: str) -> str:
    value = found.get(key)
    if not isinstance(value, str):
        _invalid(what, f"{key} is not a text")
    return _storable(value[:_TEXT_CHARS_MAX])


def _sha(found: dict[str, Json], what: str) -> Sha:
    try:
        return parse_sha(_text(found, "sha", what))
    except ValueError:
        _invalid(what, "sha is not a commit id")


def _instant(found: dict[str, Json], key: str, what: str) -> datetime:
    try:
        value = datetime.fromisoformat(_text(found, key, what))
        return value.astimezone(UTC) if value.tzinfo is not None else value.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        _invalid(what, f"{key} is not an instant")


def _storable(text: str) -> str:
    """Return the text without what Postgres does not take (NUL) and what no encoding has (lone surrogates)."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _told(reply: Reply) -> str:
    """Return what the forge says was wrong: one printable line, bounded."""
    try:
        content: Json = json.loads(reply.body[: 64 << 10])
    except (ValueError, RecursionError):
        content = None
    words: list[str] = []
    if isinstance(content, dict):
        errors = content.get("errors")
        words = [_words(content), *(_words(one) for one in (errors[:3] if isinstance(errors, list) else ()))]
    line = " ".join("; ".join(word for word in words if word).split())
    return repr("".join(c if c.isprintable() else "\ufffd" for c in line)[:_TOLD_CHARS_MAX] or "nothing")


def _words(value: Json) -> str:
    if not isinstance(value, dict):
        return str(value)
    return str(value.get("message") or value.get("code") or "")


def _invalid(what: str, why: str) -> NoReturn:
    raise Unavailable("ForgeReplyInvalid", f"cannot {what}: {why} in the forge's answer")
