"""How is our GitHub App made, and what do we ask about it?

It is made from a manifest: a person confirms it in the browser, and the forge hands key and webhook secret over for a
code that is good once.
https://docs.github.com/apps/sharing-github-apps/registering-a-github-app-from-a-manifest
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from typing import Final
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from controller.decisions.github.answers import raise_unless
from controller.decisions.github.identity import PERMISSIONS
from controller.decisions.github.wire import (
    Object,
    Reply,
    Request,
    ask,
    invalid,
    next_link,
    read_instant,
    read_json,
    read_list,
    read_number,
    read_object,
    read_text,
    read_texts,
    read_whole_text,
    tell,
)
from controller.model.errors import Unavailable

EVENTS: Final = ("push", "pull_request", "issue_comment", "check_run", "check_suite")
HOOK_PATH: Final = "/webhooks/github"
DELIVERIES_PAGE_SIZE: Final = 100
_CODE = re.compile(r"[A-Za-z0-9_-]{1,100}\Z")
_CURSOR = re.compile(r"[A-Za-z0-9_=-]{1,200}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """Our App, as the forge shows it."""

    id: int
    slug: str
    name: str
    html_url: str
    permissions: Mapping[str, str]
    events: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewApp:
    """What the forge hands over once: the App with its secrets."""

    app: App
    pem: str = field(repr=False)
    webhook_secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class HookConfig:
    """Where the App's webhook goes, and how. The secret itself is never shown."""

    url: str
    content_type: str
    verifies_tls: bool
    has_secret: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedDelivery:
    """One attempt in the forge's log of deliveries; attempts at one delivery share its guid."""

    id: int
    guid: str
    event: str
    status_code: int
    delivered_at: datetime
    redelivery: bool
    repository_id: int | None

    @property
    def is_taken(self) -> bool:
        return 200 <= self.status_code < 300


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveriesPage:
    """A page of the log, the newest first, and the cursor of what is older."""

    deliveries: tuple[LoggedDelivery, ...]
    next_cursor: str | None


# -- making it --------------------------------------------------------------------------------------------------------


def manifest(*, name: str, url: str, webhook_url: str, redirect_url: str) -> Object:
    """Return the manifest of our App."""
    return {
        "name": name,
        "url": url,
        "hook_attributes": {"url": webhook_url, "active": True},
        "redirect_url": redirect_url,
        "public": False,
        "default_permissions": dict(PERMISSIONS),
        "default_events": list(EVENTS),
    }


def registration_url(forge_url: str, *, organization: str | None, state: str) -> str:
    """Return the forge's page that takes a manifest by POST."""
    base = forge_url.rstrip("/")
    place = "/settings/apps/new" if organization is None else f"/organizations/{quote(organization)}/settings/apps/new"
    return f"{base}{place}?{urlencode({'state': state})}"


def registration_page(register_url: str, wanted: Object) -> str:
    """Return a page whose one button hands the manifest to the forge."""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Oroboros: create the GitHub App</title>"
        "<style>body{font:16px system-ui;margin:3rem auto;max-width:40rem}button{font:inherit;padding:.5rem 1rem}"
        "</style><h1>Create the GitHub App</h1>"
        "<p>The forge shows you what the App may do, and asks you to confirm.</p>"
        f'<form action="{escape(register_url)}" method=post>'
        f'<input type=hidden name=manifest value="{escape(json.dumps(wanted))}">'
        "<button>Go on</button></form></html>"
    )


def read_callback(path: str, *, state: str) -> str | None:
    """Return the code with which the forge sent the browser back; None when it is not an answer to `state`."""
    try:
        query = parse_qs(urlsplit(path).query)
    except ValueError:
        return None
    codes, states = query.get("code", []), query.get("state", [])
    if states != [state] or len(codes) != 1 or not is_code(codes[0]):
        return None
    return codes[0]


def is_code(text: str) -> bool:
    """Say whether a text can be the code of a new App."""
    return _CODE.match(text) is not None


def convert_manifest(code: str) -> Request:
    """Hand the code in for the App and its secrets; it is good once, within the hour."""
    return tell("POST", f"/app-manifests/{quote(code, safe='')}/conversions")


def read_new_app(reply: Reply, *, now: datetime) -> NewApp:
    """Return the new App; Unavailable when the code was used already or is too old."""
    what = "have the App handed over"
    if reply.status in (404, 422):
        raise Unavailable("AppCodeSpent", f"cannot {what}: the code is unknown, used or too old; begin again")
    raise_unless(201, reply, what=what, permission="of the code", now=now)
    found = read_object(read_json(reply, what), what)
    return NewApp(
        app=_app(found, what),
        pem=read_whole_text(found, "pem", what),
        webhook_secret=read_whole_text(found, "webhook_secret", what),
    )


# -- asking about it, by JWT ------------------------------------------------------------------------------------------


def get_app() -> Request:
    """Ask for the App."""
    return ask("/app")


def read_app(reply: Reply, *, now: datetime) -> App:
    """Return the App."""
    what = "get the App"
    if reply.status == 401:
        raise Unavailable("AppRefused", f"cannot {what}: the forge does not know the App by this key and this clock")
    raise_unless(200, reply, what=what, permission="of the App", now=now)
    return _app(read_object(read_json(reply, what), what), what)


def get_hook_config() -> Request:
    """Ask where the App's webhook goes."""
    return ask("/app/hook/config")


def read_hook_config(reply: Reply, *, now: datetime) -> HookConfig:
    """Return where the App's webhook goes."""
    what = "get the webhook's configuration"
    raise_unless(200, reply, what=what, permission="of the App", now=now)
    found = read_object(read_json(reply, what), what)
    return HookConfig(
        url=str(found.get("url") or "")[:1_000],
        content_type=str(found.get("content_type") or "")[:100],
        verifies_tls=str(found.get("insecure_ssl", "0")) == "0",
        has_secret=bool(found.get("secret")),
    )


def list_deliveries(*, cursor: str | None, size: int = DELIVERIES_PAGE_SIZE) -> Request:
    """Ask for a page of the log of deliveries, the newest first."""
    query = {"per_page": str(size)} | ({} if cursor is None else {"cursor": cursor})
    return ask(f"/app/hook/deliveries?{urlencode(query)}")


def read_deliveries_page(reply: Reply, *, now: datetime) -> DeliveriesPage:
    """Return a page of the log of deliveries."""
    what = "list the deliveries"
    raise_unless(200, reply, what=what, permission="of the App", now=now)
    found = tuple(_delivery(read_object(one, what), what) for one in read_list(read_json(reply, what), what))
    return DeliveriesPage(deliveries=found, next_cursor=_next_cursor(reply, what))


def redeliver(delivery_id: int) -> Request:
    """Ask for a delivery to be sent once more, under the same guid."""
    return tell("POST", f"/app/hook/deliveries/{delivery_id:d}/attempts")


def read_redelivered(reply: Reply, *, now: datetime) -> None:
    """Return when the forge will send it again."""
    raise_unless(202, reply, what="ask for a redelivery", permission="of the App", now=now)


def _app(found: Object, what: str) -> App:
    events = found.get("events")
    return App(
        id=read_number(found, "id", what),
        slug=str(found.get("slug") or "")[:200],
        name=read_text(found, "name", what),
        html_url=read_text(found, "html_url", what),
        permissions=read_texts(found, "permissions", what),
        events=tuple(str(event) for event in events) if isinstance(events, list) else (),
    )


def _delivery(found: Object, what: str) -> LoggedDelivery:
    status_code, repository_id = found.get("status_code"), found.get("repository_id")
    if not isinstance(status_code, int) or isinstance(status_code, bool):
        invalid(what, "status_code is not a number")
    return LoggedDelivery(
        id=read_number(found, "id", what),
        guid=read_text(found, "guid", what)[:100],
        event=read_text(found, "event", what)[:100],
        status_code=status_code,
        delivered_at=read_instant(found, "delivered_at", what),
        redelivery=found.get("redelivery") is True,
        repository_id=repository_id if isinstance(repository_id, int) else None,
    )


def _next_cursor(reply: Reply, what: str) -> str | None:
    """Return the cursor of the next page. Only the cursor is taken from the link: we build our own addresses."""
    link = next_link(reply)
    if link is None:
        return None
    try:
        cursors = parse_qs(urlsplit(link).query).get("cursor", [])
    except ValueError:
        cursors = []
    if len(cursors) != 1 or not _CURSOR.match(cursors[0]):
        invalid(what, "the next page has no cursor")
    return cursors[0]
