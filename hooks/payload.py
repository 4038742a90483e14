"""Reads what a signed body hints at. Pure: bytes and an event's name in; a hint, or why there is none.

A payload is never the truth: it says "look there". So only what names the target is read, and everything else may be
missing, null or odd. JSON is read strictly, since Python's reader accepts what Postgres and sense do not.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

from controller.model.names import CONTEXTS, QUEUE_REFS
from controller.model.nouns import EVERY_CONTEXT, Rerun

TEXT_CHARS_MAX = 500
#: GitHub's form has one field, `payload`. Others are not read.
FORM_FIELDS_MAX = 16
FORM_NAME_BYTES_MAX = 100
#: So much of a form is decoded at once: the standard library makes an object of each escape.
_DECODE_BYTES = 64 << 10
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_SHA = re.compile(r"[0-9a-f]{40}\Z")
#: People, organisations' managed users (`ann_acme`) and programs (`renovate[bot]`).
_LOGIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}(?:\[bot\])?\Z")
#: git allows no control character in a ref, and a terminal should not meet one.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
#: What a body must hold before one of its texts can hold a NUL or a lone surrogate: half of a pair without its other.
_SUSPECT = re.compile(
    r"\\u(?:0000|[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F]))"
    r"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]"
)
ZERO_SHA = "0" * 40

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """The repository that this stack serves: its name in the settings, and what the forge said of it since."""

    name: str
    #: None: not known yet, or not asked for.
    forge_id: int | None = None
    renamed_to: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """What a delivery says. `ignored`: signed and kept, but nothing to look at. `malformed`: kept, and answered 400."""

    state: Literal["pending", "ignored", "malformed"]
    reason: str = ""
    repository: str | None = None
    target: str | None = None
    sha: str | None = None
    #: It names another repository than the settings: it may be ours all the same, under another name.
    is_of_another: bool = False


class _Odd(ValueError):
    """The body is not JSON as we read it."""


def read_hint(body: bytes | bytearray, event: str, *, ours: Ours) -> Hint:
    """Return the hint of a body that was delivered as `event`, for the repository that this stack serves."""
    try:
        value = _parse(body)
    except _Odd as error:
        return Hint(state="malformed", reason=str(error))
    if not isinstance(value, dict):
        return Hint(state="malformed", reason="the body is not a JSON object")
    looks_like = _event_of(value)
    if event == "ping":
        return Hint(state="ignored", reason="ping")
    if event in ("check_run", "check_suite") and value.get("action") != "rerequested":
        return Hint(state="ignored", reason="no Re-run")
    if event not in _READERS:
        return Hint(state="ignored", reason=f"event {_short(event)} is not one of ours")
    if looks_like != event:
        return Hint(state="malformed", reason=f"called {event}, but the body is none")
    name = _text(_at(value, "repository", "full_name"))
    if name is None:
        return Hint(state="malformed", reason="the body names no repository")
    if not _is_ours(name, _at(value, "repository", "id"), ours):
        return Hint(state="ignored", reason="another repository", repository=_short(name), is_of_another=True)
    return _READERS[event](value, name)


def read_form_hint(body: bytes, event: str, *, ours: Ours) -> Hint:
    """Return the hint of a body that is a form with the JSON in its field `payload`, delivered as `event`."""
    try:
        payload = read_form(body)
    except _Odd as error:
        return Hint(state="malformed", reason=str(error))
    return read_hint(payload, event, ours=ours)


def read_form(body: bytes) -> bytearray:
    """Return the field `payload` of a form; ValueError unless there is exactly one, in a form of well-formed fields.

    Beyond the body itself it takes no more memory than the field."""
    if body.count(b"&") >= FORM_FIELDS_MAX:
        raise _Odd(f"a form of more than {FORM_FIELDS_MAX} fields")
    if _BAD_ESCAPE.search(body):
        raise _Odd("a form with a broken escape")
    found: list[tuple[int, int]] = []
    start = 0
    while start <= len(body):
        end = body.find(b"&", start)
        end = len(body) if end < 0 else end
        equals = body.find(b"=", start, end)
        name_end = end if equals < 0 else equals
        if name_end - start > FORM_NAME_BYTES_MAX:
            raise _Odd("a form with a name that is too long")
        if equals >= 0 and _decode(body, start, name_end) == b"payload":
            found.append((equals + 1, end))
        start = end + 1
    if len(found) != 1:
        raise _Odd(f"a form with {len(found) or 'no'} fields called payload")
    return _decode(body, *found[0])


def _decode(form: bytes, start: int, end: int) -> bytearray:
    """Return a part of a form without its escapes, decoded piece by piece; no piece ends inside an escape."""
    pieces = bytearray()
    while start < end:
        cut = min(end, start + _DECODE_BYTES)
        if cut < end and (escape := form.rfind(b"%", cut - 2, cut)) >= 0:
            cut = escape
        pieces += unquote_to_bytes(form[start:cut].replace(b"+", b" "))
        start = cut
    return pieces


def _is_ours(name: str, forge_id: Json, ours: Ours) -> bool:
    names = {known.lower() for known in (ours.name, ours.renamed_to) if known is not None}
    return name.lower() in names or (type(forge_id) is int and forge_id == ours.forge_id)


def _push(value: dict[str, Json], name: str) -> Hint:
    ref = _text(value.get("ref"))
    if ref is None:
        return Hint(state="malformed", reason="a push without a ref", repository=name)
    if not ref.startswith("refs/heads/"):
        return Hint(state="ignored", reason="not a branch", repository=name, target=f"ref:{ref}")
    sha = _sha(value.get("after"))
    if sha is None:
        return Hint(state="malformed", reason="a push without a commit id", repository=name, target=f"ref:{ref}")
    if sha == ZERO_SHA and ref.startswith(QUEUE_REFS):
        # The merge queue is done with an entry: what it holds is given back.
        return Hint(state="pending", repository=name, target=f"ref:{ref}")
    if sha == ZERO_SHA:
        return Hint(state="ignored", reason="the branch was deleted", repository=name, target=f"ref:{ref}")
    return Hint(state="pending", repository=name, target=f"ref:{ref}", sha=sha)


def _pull_request(value: dict[str, Json], name: str) -> Hint:
    number = value.get("number")
    if number is None:
        number = _at(value, "pull_request", "number")
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 2**31:
        return Hint(state="malformed", reason="a pull request without a number", repository=name)
    return Hint(
        state="pending",
        repository=name,
        target=f"pull:{number}",
        sha=_sha(_at(value, "pull_request", "head", "sha")),
    )


def _comment(value: dict[str, Json], name: str) -> Hint:
    """A new comment at a pull request is a hint to read what was said there; what it says is read from the forge."""
    number = _at(value, "issue", "number")
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 2**31:
        return Hint(state="malformed", reason="a comment without a number", repository=name)
    if value.get("action") != "created" or not isinstance(_at(value, "issue", "pull_request"), dict):
        return Hint(state="ignored", reason="no new comment at a pull request", repository=name)
    return Hint(state="pending", repository=name, target=f"comments:{number}")


def _rerun(value: dict[str, Json], name: str) -> Hint:
    """A click on Re-run is an order. Who gave it is in the delivery alone; what they may is asked at the forge.

    https://docs.github.com/webhooks/webhook-events-and-payloads#check_run"""
    check = value.get("check_run")
    context = EVERY_CONTEXT if check is None else _text(_at(check, "name"))
    sha = _sha(_at(value, "check_suite" if check is None else "check_run", "head_sha"))
    login = _at(value, "sender", "login")
    if sha is None or not isinstance(login, str) or not _LOGIN.match(login):
        return Hint(state="malformed", reason="a Re-run without a commit or a sender", repository=name)
    if context is None or context not in (EVERY_CONTEXT, *CONTEXTS):
        return Hint(state="ignored", reason="a Re-run of a check that is not ours", repository=name, sha=sha)
    return Hint(state="pending", repository=name, target=Rerun(context=context, login=login).target, sha=sha)


def _merge_group(value: dict[str, Json], name: str) -> Hint:
    """The merge queue asks for checks, or is done with an entry: a hint to look at its branch."""
    ref = _text(_at(value, "merge_group", "head_ref"))
    sha = _sha(_at(value, "merge_group", "head_sha"))
    if ref is None or sha is None:
        return Hint(state="malformed", reason="a merge group without a branch or a commit", repository=name)
    if not ref.startswith(QUEUE_REFS):
        return Hint(state="ignored", reason="not a branch of the merge queue", repository=name, target=f"ref:{ref}")
    return Hint(state="pending", repository=name, target=f"ref:{ref}", sha=sha)


#: What is read of each event that we act on, once its repository is known to be ours.
_READERS: Final[Mapping[str, Callable[[dict[str, Json], str], Hint]]] = {
    "push": _push,
    "pull_request": _pull_request,
    "issue_comment": _comment,
    "check_run": _rerun,
    "check_suite": _rerun,
    "merge_group": _merge_group,
}


def _event_of(value: dict[str, Json]) -> str:
    if "pull_request" in value:
        return "pull_request"
    if "ref" in value and ("after" in value or "before" in value):
        return "push"
    if "issue" in value and "comment" in value:
        return "issue_comment"
    for event in ("check_run", "check_suite", "merge_group"):
        if isinstance(value.get(event), dict):
            return event
    return "another event"


def _at(value: Json, *keys: str) -> Json:
    for key in keys:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def _text(value: Json) -> str | None:
    if not isinstance(value, str) or not 0 < len(value) <= TEXT_CHARS_MAX or _CONTROL.search(value):
        return None
    return value


def _sha(value: Json) -> str | None:
    return value if isinstance(value, str) and _SHA.match(value) else None


def _short(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:100])


def _parse(body: bytes | bytearray) -> Json:
    try:
        text = body.decode("utf-8")
        value: Json = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise _Odd("not UTF-8") from error
    except _Odd:
        raise
    except RecursionError as error:
        raise _Odd("nested too deep") from error
    except ValueError as error:
        # Python itself refuses integers of some thousand digits: reading one costs the square of its length.
        raise _Odd("not JSON") from error
    if _SUSPECT.search(text):
        _refuse_unstorable(value)
    return value


def _without_doubles(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Odd("the same key twice in one object")
    return found


def _no_constant(name: str) -> Json:
    raise _Odd(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _Odd("a number too large")
    return value


# Made once: making one costs as much as reading a small body.
_DECODER = json.JSONDecoder(object_pairs_hook=_without_doubles, parse_constant=_no_constant, parse_float=_finite)


def _refuse_unstorable(value: Json) -> None:
    """Postgres takes neither NUL nor lone surrogates in text."""
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            try:
                one.encode()
            except UnicodeEncodeError as error:
                raise _Odd("a text with a lone surrogate") from error
            if "\0" in one:
                raise _Odd("a text with NUL")
        elif isinstance(one, list):
            pending.extend(one)
        elif isinstance(one, dict):
            pending.extend(one.keys())
            pending.extend(one.values())
