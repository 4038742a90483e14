"""How do the doors reach the forge? As whom the settings say: our GitHub App, a token's owner, or nobody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from controller.decisions.github.identity import Identity
from controller.decisions.github.limits import WRITE_PAUSE_S
from controller.effects.github_http import Client, Forge, Memory
from controller.effects.github_identity import AppIdentity, TokenFile
from controller.effects.mirror import Mirror
from controller.model.config import Settings
from controller.model.errors import ConfigInvalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Forges:
    """One process's way to the forge of its stack. A context manager, which closes the connections."""

    settings: Settings
    client: Client
    identity: Identity
    forge: Forge

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.client.close()

    def open_mirror(self) -> Mirror:
        """Return a mirror of its own for each thread: libgit2 handles are not shared."""
        return Mirror(self.settings.layout.mirror, self.forge.git_url, identity=self.identity)

    def app(self) -> AppIdentity:
        """Return our App; ConfigInvalid when we are none."""
        if not isinstance(self.identity, AppIdentity):
            raise ConfigInvalid(
                "NoGithubApp", "there is no GitHub App yet: OROBOROS_GITHUB_APP_ID is not set; `oroboros github setup`"
            )
        return self.identity


def open_forges(settings: Settings, *, clock: Callable[[], datetime], memory: Memory | None = None) -> Forges:
    """Return the way to the forge. Nothing is asked, and no secret is read, before it is needed.

    `memory`: where its pace outlives this process."""
    client = Client(settings.forge_url, clock=clock, write_pause_s=_write_pause_s(settings.forge_url), memory=memory)
    identity = _identity(settings, client)
    forge = Forge(client, settings.repository, identity)
    return Forges(settings=settings, client=client, identity=identity, forge=forge)


def _identity(settings: Settings, client: Client) -> Identity:
    if settings.github_app_id is None or settings.github_app_key_file is None:
        return TokenFile(settings.forge_token_file)
    return AppIdentity(
        app_id=settings.github_app_id,
        key_file=settings.github_app_key_file,
        repository=settings.repository,
        ask=client.ask,
        clock=client.clock,
    )


def secret_files(settings: Settings) -> tuple[Path, ...]:
    """Return the files of this stack that hold secrets: the forge's, ours for it, the operator's, notifications'."""
    files = (
        settings.webhook_secrets_file,
        settings.operator_token_file,
        settings.forge_token_file,
        settings.github_app_key_file,
        settings.notify_secret_file,
    )
    return tuple(file for file in files if file is not None)


def _write_pause_s(forge_url: str) -> float:
    """GitHub asks for a second between writes; a forge on loopback is ours."""
    return 0.0 if "//127.0.0.1" in forge_url else WRITE_PAUSE_S
