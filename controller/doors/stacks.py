"""Which stack does a command mean, and with which settings? Command line and environment in, `Settings` out.

In this order: `--root`, `OROBOROS_ROOT`, the stack that runs in `.oroboros` of this folder or of one above it, or the
stack in whose own folders we are, `/srv/oroboros`. A root that
`oroboros up` made holds `environment.json`, the very values that its api and worker were started with; else the
environment of this process must hold them. Those values are believed when they are root's or of whoever asks, and
never in `/srv/oroboros`, which is the worker's.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from controller.decisions.github.wire import git_url
from controller.effects.database import AppDatabases
from controller.effects.mirror import Mirror
from controller.effects.runtime import Runtime
from controller.effects.stack_files import is_kept_by, read_topology, topology_file, write_private
from controller.effects.store import Store
from controller.model.command import parse_environment
from controller.model.config import Settings, read_settings
from controller.model.errors import ConfigInvalid, Refused, Unavailable
from controller.model.names import HOST_CONFIG, HOST_ROOT, Layout, SlotName

ENVIRONMENT_FILE = "environment.json"
LOCAL_ROOT = ".oroboros"
ENVIRONMENT_BYTES_MAX = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The stack that a command is about."""

    root: Path
    environ: Mapping[str, str]
    #: The values come from `environment.json`: `oroboros up` made this root.
    embedded: bool
    #: The values come from /etc/oroboros: `oroboros install` made this root.
    is_host: bool = False
    #: Which file with the settings is closed to whoever asks; "" for none.
    closed: str = ""

    def settings(self) -> Settings:
        """Return the settings. ConfigInvalid, with every problem, when they cannot be had; Refused if only root may."""
        self.require_open()
        try:
            return read_settings(self.environ)
        except ConfigInvalid as error:
            if self.is_host and not self.environ.get("OROBOROS_REPOSITORY"):
                remedy = "this host was not told which repository it is about: sudo oroboros repo set OWNER/NAME"
                raise ConfigInvalid("RepositoryUnset", remedy) from error
            raise ConfigInvalid(
                error.reason,
                f"{self.root / ENVIRONMENT_FILE}: {error.message}"
                if self.embedded
                else f"{self.root} is no stack: go to the folder of one, name one with --root DIR, or start one with"
                f" `oroboros up`. To run a part by hand, set the environment as the worker's: {error.message}",
                problems=error.problems,
            ) from error

    def require_open(self) -> None:
        """Refuse, unless whoever asks may read what the settings are in."""
        if self.closed:
            raise Refused("NotRoot", f"{self.closed} is root's: use sudo")

    @property
    def config_dir(self) -> Path:
        """Where apps' own values lie: known of a host before anybody has said which repository it is about."""
        self.require_open()
        return HOST_CONFIG if self.is_host else self.settings().config_dir

    def is_up(self) -> bool:
        """Say whether `oroboros up` runs here; a host's own services have no stack file and are asked themselves."""
        return not self.embedded or Layout(self.root).stack_file.exists()

    def open_store(self) -> Store:
        """Return a store for reading and for orders; Unavailable when the embedded stack does not run."""
        if not self.is_up():
            raise Unavailable(
                "NoStack", f"no stack runs under {self.root}; start it with `oroboros up --root {self.root}`"
            )
        settings = self.settings()
        return Store(settings.database_url, repository=settings.repository, host=settings.host)


def find_stack(given: Path | None, environ: Mapping[str, str], *, working_directory: Path) -> Stack:
    """Return the stack that is meant. Touches files only to see what is there."""
    own_values = bool(environ.get("DATABASE_URL", "").strip())
    if given is not None:
        root = given.absolute()
    elif environ.get("OROBOROS_ROOT", "").strip():
        root = Path(environ["OROBOROS_ROOT"]).absolute()
    else:
        found = None if own_values else _find_upwards(working_directory, home=environ.get("HOME", ""))
        root = found if found is not None else HOST_ROOT
    # Who sets the database's address means the environment, unless --root points elsewhere.
    file = root / ENVIRONMENT_FILE
    if root != HOST_ROOT and (given is not None or not own_values) and file.exists():
        if not is_kept_by(file, {0, os.geteuid()}):
            message = f"{file} is another user's, or others may write it: ask as the user whose stack it is"
            raise Refused("EnvironmentNotOurs", message)
        return Stack(root=root, environ=_read_environment(file), embedded=True)
    # A surface may not even look for it.
    if not own_values and root == HOST_ROOT and os.path.exists(topology_file(Layout(root))):
        values, closed = _read_host_environment()
        return Stack(root=root, environ={**environ, **values}, embedded=False, is_host=True, closed=closed)
    return Stack(root=root, environ={**environ, "OROBOROS_ROOT": str(root)}, embedded=False)


def _find_upwards(start: Path, *, home: str) -> Path | None:
    """Return the nearest stack at or above a folder, as git looks for its repository: not beyond the file system that
    the folder is on, and not above the home folder. Whose files they are is judged by the caller."""
    device = os.stat(start).st_dev
    for folder in (start, *start.parents):
        with contextlib.suppress(OSError):
            if os.stat(folder).st_dev != device:
                return None
        if os.path.exists(Layout(folder / LOCAL_ROOT).stack_file):
            return folder / LOCAL_ROOT
        # A root of another name: both files, since a repository may hold one that is called so.
        if os.path.exists(folder / ENVIRONMENT_FILE) and os.path.exists(topology_file(Layout(folder))):
            return folder
        if str(folder) == home:
            return None
    return None


def _read_host_environment() -> tuple[dict[str, str], str]:
    """Return what a host's worker is started with, and which of the files is closed to us."""
    values = {
        "OROBOROS_WEBHOOK_SECRETS_FILE": str(HOST_CONFIG / "webhook-secrets"),
        "OROBOROS_OPERATOR_TOKEN_FILE": str(HOST_CONFIG / "operator-token"),
        "OROBOROS_FORGE_TOKEN_FILE": str(HOST_CONFIG / "forge-token"),
        "OROBOROS_GITHUB_APP_KEY_FILE": str(HOST_CONFIG / "github-app-key"),
        "OROBOROS_NOTIFY_SECRET_FILE": str(HOST_CONFIG / "notify-secret"),
    }
    for name in ("worker.env", "repository.env"):
        try:
            values |= parse_environment((HOST_CONFIG / name).read_text())
        except FileNotFoundError:
            continue
        except PermissionError:
            return values, str(HOST_CONFIG / name)
    return values, ""


def utc_now() -> datetime:
    """Return the present instant, for commands: they need not load the worker for it."""
    return datetime.now(UTC)


def open_databases(settings: Settings) -> AppDatabases | None:
    """Return the apps' databases, None when this host has no server for them."""
    if settings.app_database_admin_url is None:
        return None
    if settings.app_database_roles == "installed":

        def file_of(slot: SlotName) -> Path:
            return settings.layout.slot_database(slot)
    else:

        def file_of(slot: SlotName) -> Path:
            return settings.config_dir / f"database-{slot}.secret"

    return AppDatabases(
        settings.app_database_admin_url,
        file_of=file_of,
        write_private=write_private,
        roles=settings.app_database_roles,
    )


def open_mirror(settings: Settings) -> Mirror:
    """Return the mirror for reading; it is never fetched from here."""
    return Mirror(settings.layout.mirror, git_url(settings.forge_url, settings.repository))


def open_runtime(settings: Settings) -> Runtime:
    """Return the runtime of this stack, asked for here so that nothing else knows which it is."""
    if settings.runtime == "systemd":
        from controller.effects.systemd import SystemdRuntime

        return SystemdRuntime(settings.layout, read_topology(settings.layout))
    from controller.development.embedded_runtime import EmbeddedRuntime

    return EmbeddedRuntime(settings.runtime_socket, settings.layout)


def _read_environment(file: Path) -> dict[str, str]:
    try:
        value = json.loads(file.read_text(encoding="utf-8")[:ENVIRONMENT_BYTES_MAX])
    except (OSError, ValueError) as error:
        raise ConfigInvalid("EnvironmentUnreadable", f"{file} cannot be read: {error}") from error
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise ConfigInvalid("EnvironmentUnreadable", f"{file} is not an object of texts")
    return value
