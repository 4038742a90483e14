"""As whom do we ask the forge? As a GitHub App, by an installation token that it mints; or by a token of a file.

A JSON Web Token of the App, signed by its key, is good for one thing: having a token minted that knows one repository
and no more permissions than we use, for an hour.
GitHub refuses a JWT from the future, and one that ends more than ten minutes ahead. It advises to begin a minute in
the past and its samples end after ten: a clock that is a minute and a half fast survives neither. So ours begins two
minutes in the past and ends after six.
https://docs.github.com/apps/creating-github-apps/authenticating-with-a-github-app/generating-a-json-web-token-jwt-for-a-github-app
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final, Protocol

from controller.decisions.github.answers import raise_unless
from controller.decisions.github.wire import (
    Object,
    Reply,
    Request,
    ask,
    invalid,
    read_instant,
    read_json,
    read_number,
    read_object,
    read_text,
    read_texts,
    read_whole_text,
    tell,
    told,
)
from controller.model.errors import Unavailable

JWT_BEGINS_BEFORE_S: Final = 120
JWT_ENDS_AFTER_S: Final = 360
#: A token is not used in its last minutes: a fetch may take so long, and clocks differ.
TOKEN_SPARE_S: Final = 300
#: However long the forge says that it lives: its clock may be ahead of ours.
TOKEN_USED_S_MAX: Final = 3_300
TOKEN_CHARS_MAX: Final = 4_096

#: All that we ever use, and why: the least that GitHub offers for it.
PERMISSIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "contents": "read",  # fetch, branch heads
        "metadata": "read",  # the repository itself; GitHub grants it always
        "pull_requests": "write",  # list them; comment on them
        "issues": "read",  # comments on a pull request are told as an issue's
        "statuses": "write",
        "checks": "write",
        "deployments": "write",
    }
)
_LEVELS: Final = {"read": 1, "write": 2, "admin": 3}


class Identity(Protocol):
    """Where tokens come from. Safe to use from several threads."""

    def token(self) -> str | None:
        """Return a token to ask with, None to ask as nobody; Unavailable when there should be one and is not."""

    def renew(self, refused: str) -> bool:
        """Forget a token that the forge refused, as one may be taken back early; say whether another can be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """The App, installed where our repository is."""

    id: int
    app_id: int
    app_slug: str
    account: str
    permissions: Mapping[str, str]
    events: tuple[str, ...]
    suspended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Minted:
    """An installation token."""

    token: str = field(repr=False)
    use_until: datetime
    #: The one repository that it knows, if the forge says which.
    repository_id: int | None = None


def jwt_parts(app_id: int, *, now: datetime) -> tuple[Object, Object]:
    """Return the head and the claims of a JWT; whoever holds the key signs them."""
    at = int(now.timestamp())
    claims: Object = {"iat": at - JWT_BEGINS_BEFORE_S, "exp": at + JWT_ENDS_AFTER_S, "iss": str(app_id)}
    return {"alg": "RS256", "typ": "JWT"}, claims


def compact(part: Object) -> bytes:
    """Return the bytes of one part of a JWT, before base64."""
    return json.dumps(part, separators=(",", ":")).encode()


def is_fresh(minted: Minted | None, *, now: datetime) -> bool:
    """Say whether a token may still be used."""
    return minted is not None and now < minted.use_until


def lacks(granted: Mapping[str, str]) -> tuple[str, ...]:
    """Return what of `PERMISSIONS` was not granted, each as `name: level`."""
    return tuple(
        f"{name}: {level}"
        for name, level in PERMISSIONS.items()
        if _LEVELS.get(granted.get(name, ""), 0) < _LEVELS[level] and name != "metadata"
    )


# -- requests and replies -------------------------------------------------------------------------------------------


def get_installation(repository: str) -> Request:
    """Ask where the App is installed for a repository; by JWT."""
    return ask(f"/repos/{repository}/installation")


def read_installation(reply: Reply, *, repository: str, now: datetime) -> Installation:
    """Return the installation; Unavailable when there is none, or it is suspended."""
    what = "find the App's installation"
    if reply.status == 404:
        raise Unavailable(
            "AppNotInstalled", f"the App is not installed for {repository}; install it there, on the forge's page of it"
        )
    _raise_if_refused(reply, what=what, now=now)
    found = read_object(read_json(reply, what), what)
    events = found.get("events")
    account = found.get("account")
    installation = Installation(
        id=read_number(found, "id", what),
        app_id=read_number(found, "app_id", what),
        app_slug=read_text(found, "app_slug", what),
        account=read_text(account, "login", what) if isinstance(account, dict) and "login" in account else "",
        permissions=read_texts(found, "permissions", what),
        events=tuple(str(event) for event in events) if isinstance(events, list) else (),
        suspended=found.get("suspended_at") is not None,
    )
    if installation.suspended:
        raise Unavailable(
            "AppSuspended", f"the App's installation for {repository} is suspended; end that at the forge"
        )
    return installation


def mint_token(installation: Installation, repository: str, *, repository_id: int | None) -> Request:
    """Ask for a token that knows one repository, and may no more than we use; by JWT.

    By id once it is known, since a repository that was renamed is not found by its old name here."""
    content: Object = {"permissions": dict(PERMISSIONS)}
    if repository_id is None:
        content["repositories"] = [repository.rpartition("/")[2]]
    else:
        content["repository_ids"] = [repository_id]
    return _mint(installation, content)


def mint_to_look(installation: Installation) -> Request:
    """Ask for a token that may do nothing but see which repository a name means; by JWT."""
    return _mint(installation, {"permissions": {"metadata": "read"}})


def _mint(installation: Installation, content: Object) -> Request:
    return tell("POST", f"/app/installations/{installation.id}/access_tokens", content, is_urgent=True)


def read_minted(reply: Reply, *, now: datetime) -> Minted:
    """Return the token; Unavailable when the installation grants less than we use."""
    what = "have an installation token minted"
    if reply.status == 422:
        raise Unavailable(
            "AppLacksPermissions",
            f"cannot {what}: the installation does not grant all that Oroboros uses; `oroboros github check` names"
            f" what is missing; the forge says {told(reply)}",
        )
    _raise_if_refused(reply, what=what, now=now, expected=201)
    found = read_object(read_json(reply, what), what)
    token = read_whole_text(found, "token", what)
    # Checked here, since the HTTP library would put an illegal header's value into its error.
    if not 0 < len(token) <= TOKEN_CHARS_MAX or not all("!" <= c <= "~" for c in token):
        invalid(what, "the token is not one line of printable ASCII characters")
    ends_at = read_instant(found, "expires_at", what)
    until = min(ends_at - timedelta(seconds=TOKEN_SPARE_S), now + timedelta(seconds=TOKEN_USED_S_MAX))
    known = found.get("repositories")
    ids = [read_number(read_object(one, what), "id", what) for one in known] if isinstance(known, list) else []
    return Minted(token=token, use_until=until, repository_id=ids[0] if len(ids) == 1 else None)


def _raise_if_refused(reply: Reply, *, what: str, now: datetime, expected: int = 200) -> None:
    if reply.status == 401:
        raise Unavailable(
            "AppRefused",
            f"cannot {what}: the forge refuses the App's signature; are OROBOROS_GITHUB_APP_ID and the key of one App,"
            f" and is this host's clock right? It says {told(reply)}",
        )
    raise_unless(expected, reply, what=what, permission="of the App", now=now)
