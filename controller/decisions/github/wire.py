"""What is a request to the forge, what is a reply, and how is a reply's JSON read? Other people's bytes, checked.

Nothing is believed that was not looked at: a value is what its reader says it is, or the whole reply is
`ForgeReplyInvalid`, never a guess. Texts are cut, and hold nothing that Postgres does not take.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final, NoReturn

from controller.model.errors import Unavailable
from controller.model.names import Sha, parse_sha

API_VERSION: Final = "2022-11-28"
USER_AGENT: Final = "oroboros"
_TEXT_CHARS_MAX: Final = 1_000
_TOLD_CHARS_MAX: Final = 200

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None
Object = dict[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to send: `path` (with its query) is appended to the API's base URL."""

    method: str
    path: str
    #: May hold a token, so it is not in the repr.
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = b""
    #: A write that others must not use the hour's allowance up before.
    is_urgent: bool = False
    #: In the name of our App itself, whose limits are its own.
    is_of_app: bool = False

    @property
    def is_write(self) -> bool:
        return self.method != "GET"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back: header names in lower case, and the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def api_base(forge_url: str) -> str:
    """Return the base URL of the API of a forge.

    github.com and the subdomains of ghe.com (GitHub Enterprise Cloud with data residency) have a host of its own for
    it; GitHub Enterprise Server answers under /api/v3.
    https://docs.github.com/enterprise-cloud@latest/admin/data-residency/about-github-enterprise-cloud-with-data-residency
    """
    url = forge_url.rstrip("/")
    scheme, _, host = url.partition("://")
    has_host = scheme == "https" and (host == "github.com" or host.endswith(".ghe.com"))
    return f"https://api.{host}" if has_host else f"{url}/api/v3"


def git_url(forge_url: str, repository: str) -> str:
    """Return the address from which git fetches a repository."""
    return f"{forge_url.rstrip('/')}/{repository}.git"


def ask(path: str) -> Request:
    """Return a request that reads."""
    return Request(method="GET", path=path, headers=_HEADERS)


def tell(method: str, path: str, content: Object | None = None, *, is_urgent: bool = False) -> Request:
    """Return a request that writes, with a JSON object as its body."""
    if content is None:
        return Request(method=method, path=path, headers=_HEADERS, is_urgent=is_urgent)
    headers = {**_HEADERS, "Content-Type": "application/json"}
    body = json.dumps(content).encode()
    return Request(method=method, path=path, headers=headers, body=body, is_urgent=is_urgent)


def with_token(request: Request, token: str | None) -> Request:
    """Return the request in the name of whoever the token says."""
    if token is None:
        return request
    return replace(request, headers={**request.headers, "Authorization": f"Bearer {token}"})


_HEADERS: Final = {
    "Accept": "application/vnd.github+json",
    "X-GitHub-Api-Version": API_VERSION,
    "User-Agent": USER_AGENT,
}


#: No search goes beyond the next link, so that a header costs its length.
_NEXT_LINK: Final = re.compile(r'<([^<>]{1,2000})>\s*;[^,<]*?\brel="?next"?')


# -- other people's JSON --------------------------------------------------------------------------------------------


def next_link(reply: Reply) -> str | None:
    """Return the address of the next page, as the forge says it (RFC 8288); None when this is the last one."""
    match = _NEXT_LINK.search(reply.headers.get("link", ""))
    return None if match is None else match[1]


def read_json(reply: Reply, what: str) -> Json:
    """Return the body of a reply."""
    try:
        value: Json = json.loads(reply.body)
    except (ValueError, RecursionError):
        invalid(what, "the body is not JSON")
    return value


def read_object(value: Json, what: str) -> Object:
    """Return an object."""
    if not isinstance(value, dict):
        invalid(what, "an object is missing")
    return value


def read_list(value: Json, what: str) -> list[Json]:
    """Return a list."""
    if not isinstance(value, list):
        invalid(what, "it is not a list")
    return value


def read_number(found: Object, key: str, what: str) -> int:
    """Return a positive number, such as an id."""
    value = found.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 63:
        invalid(what, f"{key} is not a positive number")
    return value


def read_text(found: Object, key: str, what: str) -> str:
    """Return a text, cut to a bound."""
    return read_whole_text(found, key, what)[:_TEXT_CHARS_MAX]


def read_whole_text(found: Object, key: str, what: str) -> str:
    """Return a text that means nothing when it is cut."""
    value = found.get(key)
    if not isinstance(value, str):
        invalid(what, f"{key} is not a text")
    return _storable(value)


def read_texts(found: Object, key: str, what: str) -> dict[str, str]:
    """Return an object of texts."""
    value = read_object(found.get(key), what)
    return {name: read_text(value, name, what) for name in value}


def read_sha(found: Object, what: str) -> Sha:
    """Return the commit id under `sha`."""
    try:
        return parse_sha(read_text(found, "sha", what))
    except ValueError:
        invalid(what, "sha is not a commit id")


def read_instant(found: Object, key: str, what: str) -> datetime:
    """Return an instant; one without a zone is taken for UTC."""
    try:
        value = datetime.fromisoformat(read_text(found, key, what))
        return value.astimezone(UTC) if value.tzinfo is not None else value.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        invalid(what, f"{key} is not an instant")


def read_date(reply: Reply) -> datetime | None:
    """Return when the forge answered, by its own clock and to the second; None when it does not say."""
    try:
        words = reply.headers.get("date", "").removesuffix(" GMT")
        return datetime.strptime(f"{words} +0000", "%a, %d %b %Y %H:%M:%S %z").astimezone(UTC)
    except ValueError:
        return None


def told(reply: Reply) -> str:
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


def _storable(text: str) -> str:
    """Return the text without what Postgres does not take (NUL) and what no encoding has (lone surrogates)."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def invalid(what: str, why: str) -> NoReturn:
    """Raise that a reply is not what the API documents."""
    raise Unavailable("ForgeReplyInvalid", f"cannot {what}: {why} in the forge's answer")
