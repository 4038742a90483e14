"""What does a delivery look like on the wire? Samples, signatures, and ways to hand one in."""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from pathlib import Path
from urllib.parse import urlencode

import httpx

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
REPOSITORY = "acme/shop"
PATH = "/webhooks/github"
SECRET = b"5d0b7a51c6f94e0fb0f3a9be1f6d2c47"
OTHER_SECRET = b"9e1c2ab84f6d47b3a5c08d7713f2e690"


def sample(event: str) -> dict[str, object]:
    """Return a realistic payload of `push` or `pull_request`."""
    name = {"push": "push", "pull_request": "pull_request.synchronize"}[event]
    value: dict[str, object] = json.loads((SAMPLES / f"{name}.json").read_text())
    return value


def push(*, ref: str = "refs/heads/main", after: str | None = None, padding: int = 0) -> bytes:
    """Return a body of a push that no other call returned, unless `after` is given."""
    value = sample("push") | {"ref": ref, "after": after or uuid.uuid4().hex + "0" * 8}
    if padding:
        value["padding"] = "x" * padding
    return json.dumps(value).encode()


def event_names() -> list[str]:
    """Return the name of every event that GitHub documents."""
    lines = (SAMPLES / "event-names.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def as_form(body: bytes) -> bytes:
    """Return a payload as GitHub sends it where the webhook's content type is its default."""
    return urlencode({"payload": body}).encode()


def sign(body: bytes, secret: bytes = SECRET) -> str:
    return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()


def headers(
    body: bytes, *, event: str = "push", delivery: str | None = None, secret: bytes = SECRET
) -> list[tuple[str, str]]:
    """Return the headers that GitHub sends with this body."""
    return [
        ("Content-Type", "application/json"),
        ("User-Agent", "GitHub-Hookshot/044aadd"),
        ("X-GitHub-Delivery", delivery or str(uuid.uuid4())),
        ("X-GitHub-Event", event),
        ("X-GitHub-Hook-ID", "292430182"),
        ("X-Hub-Signature", "sha1=" + hmac.new(secret, body, hashlib.sha1).hexdigest()),
        ("X-Hub-Signature-256", sign(body, secret)),
    ]


def without(given: list[tuple[str, str]], name: str) -> list[tuple[str, str]]:
    return [(key, value) for key, value in given if key != name]


def replaced(given: list[tuple[str, str]], name: str, value: str | bytes) -> list[tuple[str | bytes, str | bytes]]:
    kept: list[tuple[str | bytes, str | bytes]] = [pair for pair in given if pair[0] != name]
    return [*kept, (name.encode(), value.encode() if isinstance(value, str) else value)]


async def deliver(
    client: httpx.AsyncClient,
    body: bytes,
    *,
    event: str = "push",
    delivery: str | None = None,
    secret: bytes = SECRET,
) -> httpx.Response:
    """Hand in a delivery as GitHub would."""
    return await client.post(PATH, content=body, headers=headers(body, event=event, delivery=delivery, secret=secret))
