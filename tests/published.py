"""Is what is asked of the development forge, and what it answers, what GitHub publishes? (tests/schemas/README.md)

`python -m tests.published` is the forge that every test gets: the development forge, whose API exchanges are held
against the published description, each of them, errors too. What differs is written to a file, and the test during
which that happened fails (tests/conftest.py). Knobs, pages and git are not GitHub's API and are not looked at.

- A request that our client sends is as published. One of a test's own is, or is refused.
- A reply is as published of its operation and status. Errors of which the description of an operation says nothing
  are of the shape that all others have, and each reply tells of the primary limit.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from jsonschema import Draft202012Validator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller.decisions.github.wire import USER_AGENT
from controller.development.forge import main

SCHEMAS: Final = Path(__file__).resolve().parent / "schemas"
REST: Final[dict[str, Any]] = json.loads((SCHEMAS / "rest.json").read_text())
for _pull in ("pull-request", "pull-request-simple"):
    # The known difference of the README: GitHub sends null when the fork was deleted.
    _head = REST["components"]["schemas"][_pull]["properties"]["head"]["properties"]
    _head["repo"] = {"anyOf": [_head["repo"], {"type": "null"}]}
WEBHOOKS: Final[dict[str, Any]] = json.loads((SCHEMAS / "webhooks.json").read_text())
API: Final = "/api/v3"
#: Where the redirect of a renamed repository leads: the description knows repositories by name only.
BY_ID: Final = re.compile(r"/repositories/[0-9]+(?=/|\Z)")
ERROR: Final = {
    "anyOf": [{"$ref": "#/components/schemas/basic-error"}, {"$ref": "#/components/schemas/validation-error"}],
    # The description requires neither; GitHub's documentation and every client rely on both.
    "required": ["message", "documentation_url"],
}
LIMIT_HEADERS: Final = ("limit", "remaining", "used", "reset")
#: Parameters that may hold slashes.
LONG: Final = ("ref", "branch")
#: Bodies are bounded by the forge; what is longer is not looked at.
BODY_BYTES_MAX: Final = 4 << 20
VIOLATIONS: Final = "OROBOROS_TEST_VIOLATIONS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What was asked, and what was answered; `path` is below the API, with its query."""

    method: str
    path: str
    user_agent: str
    sent: bytes
    status: int
    headers: Mapping[str, str]
    received: bytes

    @property
    def is_ours(self) -> bool:
        return self.user_agent == USER_AGENT


def problems(schema: object, value: object) -> list[str]:
    """Return how a value differs from a schema of either file."""
    return [
        f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}"
        for error in _validator(json.dumps(schema, sort_keys=True)).iter_errors(value)
    ]


@cache
def _validator(schema: str) -> Draft202012Validator:
    whole = {"components": REST["components"], "definitions": WEBHOOKS["definitions"], "allOf": [json.loads(schema)]}
    return Draft202012Validator(whole)


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str], str], ...]:
    """Return (method, pattern, operation), those that say most of their path first."""
    found = []
    for operation in REST["operations"]:
        method, _, template = operation.partition(" ")
        pattern = re.sub(r"\\{(\w+)\\}", lambda one: ".+" if one[1] in LONG else "[^/]+", re.escape(template))
        found.append((method, re.compile(pattern), operation))
    return tuple(sorted(found, key=lambda one: -len(re.sub(r"\{\w+\}", "", one[2]))))


def operation_of(method: str, path: str) -> str | None:
    """Return the operation that an address is, None when none that we keep is."""
    path = BY_ID.sub("/repos/acme/shop", path)
    return next((operation for by, pattern, operation in _patterns() if by == method and pattern.fullmatch(path)), None)


def differences(exchange: Exchange) -> list[str]:
    """Return what of an exchange is not as published."""
    parts = urlsplit(exchange.path)
    operation = operation_of(exchange.method, parts.path)
    what = f"{exchange.method} {parts.path}: {exchange.status}"
    if operation is None:
        is_refused = exchange.status in (400, 404, 405) and not exchange.is_ours
        return [] if is_refused else [f"{what}: no operation that is published"]
    published = REST["operations"][operation]
    found = [f"asked: {one}" for one in _request_problems(published, parts.query, exchange.sent)]
    if not exchange.is_ours and exchange.status >= 400:
        found = []
    found += [f"answered: {one}" for one in _reply_problems(published, exchange)]
    return [f"{what}: {one}" for one in found]


def _request_problems(published: Mapping[str, Any], query: str, sent: bytes) -> list[str]:
    found = []
    for name, text in parse_qsl(query, keep_blank_values=True):
        schema = published["query"].get(name)
        if schema is None:
            found.append(f"no parameter is called {name!r}")
        else:
            value = int(text) if text.isdigit() and schema.get("type") == "integer" else text
            found += [f"?{name}={text[:40]}: {one}" for one in problems(schema, value)]
    schema = published["request"]
    if not sent:
        return [*found, "a body is required"] if published["request_needed"] else found
    if schema is None:
        return found if sent == b"{}" else [*found, "there is no body"]
    try:
        content = json.loads(sent)
    except (ValueError, RecursionError):
        return [*found, "the body is not JSON"]
    found += problems(schema, content)
    if isinstance(content, dict) and "properties" in schema:
        found += [f"no key is called {key!r}" for key in sorted(set(content) - set(schema["properties"]))]
    return found


def _reply_problems(published: Mapping[str, Any], exchange: Exchange) -> list[str]:
    missing = [
        f"no {name}"
        for name in (f"x-ratelimit-{one}" for one in LIMIT_HEADERS)
        if not exchange.headers.get(name, "").isdigit()
    ]
    status, body = exchange.status, exchange.received
    replies = published["replies"]
    if status == 304 or (str(status) in replies and replies[str(status)] is None and status < 400):
        return [*missing, "a body where there is none"] if body else missing
    if 300 <= status < 400 and not exchange.headers.get("location"):
        return [*missing, "a redirect that leads nowhere"]
    if status < 300 and str(status) not in replies:
        return [*missing, f"the status is none of {', '.join(replies)}"]
    if not exchange.headers.get("content-type", "").startswith("application/json"):
        return [*missing, f"content type {exchange.headers.get('content-type')}"]
    try:
        content = json.loads(body)
    except ValueError:
        return [*missing, "not JSON"]
    schema = replies.get(str(status)) if status < 300 else None
    return [*missing, *problems(ERROR if schema is None else schema, content)]


class Published:
    """An application whose API exchanges are looked at, each after it was answered."""

    def __init__(self, app: ASGIApp, violations: Path) -> None:
        self._app = app
        self._violations = violations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(f"{API}/"):
            await self._app(scope, receive, send)
            return
        asked = await _whole(receive)
        answered: list[Message] = []

        async def replay() -> Message:
            return waiting.pop(0) if waiting else await receive()

        async def note(message: Message) -> None:
            answered.append(message)
            await send(message)

        waiting = list(asked)
        await self._app(scope, replay, note)
        if answered and asked[-1]["type"] == "http.request":
            self._look(scope, asked, answered)

    def _look(self, scope: Scope, asked: list[Message], answered: list[Message]) -> None:
        start, *rest = answered
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        found = differences(
            Exchange(
                method=scope["method"],
                path=f"{unquote(scope['path']).removeprefix(API)}?{scope['query_string'].decode()}",
                user_agent=headers.get("user-agent", ""),
                sent=b"".join(one.get("body", b"") for one in asked),
                status=start["status"],
                headers={name.decode().lower(): value.decode() for name, value in start["headers"]},
                received=b"".join(one.get("body", b"") for one in rest),
            )
        )
        if found:
            with self._violations.open("a") as file:
                file.writelines(f"{one}\n" for one in found)


async def _whole(receive: Receive) -> list[Message]:
    """Return all messages of a request, those of its first bytes when it is too long."""
    messages: list[Message] = []
    size = 0
    while True:
        message = await receive()
        messages.append(message)
        size += len(message.get("body", b""))
        if not message.get("more_body", False) or size > BODY_BYTES_MAX:
            return messages


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], around=lambda app: Published(app, Path(os.environ[VIOLATIONS]))))
