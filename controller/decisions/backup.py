"""Say what a backup holds, and judge whether one may be restored on this host. Manifest in, every problem out.

A backup is one tar file: `manifest.json` first, then the parts that it names with size and digest. Pure; it is
`effects.backup` that reads and writes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from controller.model.errors import ConfigInvalid

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
CONTROL_DUMP, APP_DUMP = "control.dump", "app.dump"
FILES, CONFIG = "files.tar.gz", "config.tar.gz"
PARTS: Final = (CONTROL_DUMP, APP_DUMP, FILES, CONFIG)
#: Beside the archive, a restoration needs room for its parts and for what they unfold to.
ROOM_FACTOR: Final = 3
MANIFEST_BYTES_MAX: Final = 1 << 20
#: What install renders anew, and what is true of one host only: in no backup.
OF_ONE_HOST: Final = frozenset({"Caddyfile", "before-install.json"})
#: The configuration that holds no secret; the rest is in a backup with secrets only.
WITHOUT_SECRETS: Final = frozenset({"topology.json", "repository.env", "allowed-signers", "allowed-keys.asc"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file of a backup."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a backup holds, and what made it."""

    version: str
    made_at: str
    #: The host's name in the control plane's tables.
    host: str
    repository: str
    #: Major version of the Postgres that dumped the databases.
    postgres: int
    #: The numbered SQL files that the control plane's tables have seen.
    migrations: tuple[str, ...]
    #: What production served; "" for nothing.
    release: str
    with_secrets: bool
    #: Files with secrets that the host had and the backup has not; of an app's values their names.
    left_out: tuple[str, ...] = ()
    parts: Mapping[str, Part] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What matters of the host that a backup is to be restored on."""

    is_installed: bool
    #: It was told a repository, so that something may be lost.
    is_used: bool
    postgres: int
    migrations: frozenset[str]


def choose_configuration(names: Iterable[str], *, with_secrets: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the files of the configuration that a backup takes, and those that it leaves out for their secrets."""
    ours = sorted(name for name in names if name not in OF_ONE_HOST and not name.startswith(("web-", ".")))
    taken = tuple(name for name in ours if with_secrets or name in WITHOUT_SECRETS)
    return taken, tuple(name for name in ours if name not in taken)


def render_manifest(manifest: Manifest) -> str:
    """Return the manifest as JSON, with a digest of itself."""
    value = {"format": FORMAT, **dataclasses.asdict(manifest)}
    return json.dumps({**value, "sha256": _seal(value)}, indent=2) + "\n"


def parse_manifest(text: str) -> Manifest:
    """Return the manifest that JSON holds; ConfigInvalid when it is damaged, or of a newer form."""
    try:
        value = json.loads(text)
        seal, form = value.pop("sha256"), value.pop("format")
        if not isinstance(form, int) or form > FORMAT:
            raise ConfigInvalid("BackupNewer", f"the backup has form {form}, and this version reads {FORMAT} at most")
        if seal != _seal({"format": form, **value}):
            raise ConfigInvalid("BackupDamaged", f"{MANIFEST} of the backup is damaged")
        parts = {str(name): Part(**part) for name, part in value.pop("parts").items() if name in PARTS}
        value |= {"parts": parts, **{key: tuple(value[key]) for key in ("migrations", "left_out")}}
        return Manifest(**value)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigInvalid("BackupDamaged", f"this is no backup of Oroboros, or {MANIFEST} is damaged") from error


def _seal(value: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def restore_problems(
    manifest: Manifest, found: Mapping[str, Part], target: Target, *, replaces: bool
) -> tuple[str, ...]:
    """Return everything that speaks against restoring a backup here; () for nothing."""
    problems = [
        f"the backup is damaged: {name} {'is missing' if name not in found else 'differs from its digest'}"
        for name, part in sorted(manifest.parts.items())
        if found.get(name) != part
    ]
    newer = sorted(set(manifest.migrations) - target.migrations)
    if newer:
        problems.append(
            f"version {manifest.version} made it, which is newer: its tables have {newer[-1]};"
            " install that version or a later one here first"
        )
    if not target.is_installed:
        problems.append("nothing is installed here: scripts/install.sh in a checkout first")
    elif target.postgres < manifest.postgres:
        problems.append(f"Postgres {manifest.postgres} made its dumps, and this host has {target.postgres}")
    if target.is_used and not replaces:
        problems.append("this host is in use, and all that it has would be lost: --replace says that it may be")
    return tuple(problems)


def expired(names: Iterable[str], *, keep: int) -> tuple[str, ...]:
    """Return the backups of a timer that retention lets go: all but the newest, by the instant in their names."""
    made = sorted((name for name in names if name.startswith("oroboros-") and name.endswith(".tar")), reverse=True)
    return tuple(made[keep:])
