"""How does a test get a GitHub App of ours? As a person does: by the setup, with a browser that is played here."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from controller.doors import cli_github
from controller.effects.github_http import Client
from controller.effects.github_identity import AppIdentity
from tests.forge_fixture import REPOSITORY, ForgeUnderTest


@dataclass(slots=True)
class Skewed:
    """A clock of ours that is wrong."""

    by_s: float = 0.0

    def __call__(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.by_s)


@dataclass(slots=True)
class Ours:
    """Our App at a forge, with the files that setup wrote."""

    forge: ForgeUnderTest
    created: cli_github.CreatedView
    clock: Skewed
    client: Client

    @property
    def folder(self) -> Path:
        return self.created.key_file.parent

    def identity(self, *, app_id: int | None = None, repository: str = REPOSITORY) -> AppIdentity:
        return AppIdentity(
            app_id=app_id or self.created.app_id,
            key_file=self.created.key_file,
            repository=repository,
            ask=self.client.ask,
            clock=self.clock,
        )

    def install(self, **content: object) -> dict[str, Any]:
        return self.forge.knob("install", **content)


def confirm(page_url: str, *, origin: str | None = None) -> httpx.Response:
    """Do what a person does with the page: press its button, and follow the forge back."""
    page = httpx.get(page_url, trust_env=False).text
    found = re.search(r'action="([^"]+)".*?name=manifest value="([^"]+)"', page, re.DOTALL)
    assert found
    address, manifest = (text.replace("&quot;", '"').replace("&amp;", "&") for text in found.groups())
    answer = httpx.post(
        address, data={"manifest": manifest}, headers={} if origin is None else {"Origin": origin}, trust_env=False
    )
    if answer.status_code == 302:
        return httpx.get(answer.headers["Location"], trust_env=False)
    return answer


def set_up(forge: ForgeUnderTest, webhook_url: str, folder: Path, **changed: Any) -> cli_github.CreatedView:
    """Run the setup, and play the person in the browser."""
    wanted = cli_github.SetUp(
        forge_url=forge.url,
        webhook_url=webhook_url,
        name="oroboros-test",
        homepage="https://example.org/acme/shop",
        organization=None,
        folder=folder,
        port=0,
        code=None,
        patience_s=20,
        **changed,
    )
    seen: list[threading.Thread] = []

    def say(text: str) -> None:
        found = re.search(r"http://127\.0\.0\.1:\d+/", text)
        assert found
        seen.append(threading.Thread(target=confirm, args=(found[0],)))
        seen[-1].start()

    try:
        return cli_github.set_up(wanted, say=say)
    finally:
        for thread in seen:
            thread.join(10)
