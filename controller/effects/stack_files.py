"""What do the processes of one stack tell each other through files? The topology, and the stack file of `up`.

Both are small JSON, written by one rename. The stack file holds addresses and paths of secrets, so it is 0600.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Collection, Mapping
from pathlib import Path

from controller.model.errors import ConfigInvalid, Unavailable
from controller.model.names import TOPOLOGY_FILE, Layout, Topology

JSON_BYTES_MAX = 64 << 10


def write_private(path: Path, text: str) -> None:
    """Replace a file by one that only we can read, by one rename."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    os.replace(temporary, path)


def write_topology(layout: Layout, topology: Topology) -> None:
    """Write what this stack is like. Safe to repeat."""
    from controller.model.topology_file import render_topology  # a surface starts without pydantic

    write_private(layout.topology, render_topology(topology))


def read_topology(layout: Layout) -> Topology:
    """Return what was installed on this host; ConfigInvalid when nothing was, or the file makes no sense."""
    from controller.model.topology_file import parse_topology

    path = topology_file(layout)
    value = _read_json(path, missing="run `oroboros up` or `oroboros install` first")
    try:
        return parse_topology(value)
    except ConfigInvalid as error:
        raise ConfigInvalid(error.reason, f"{path}: {error.message}; install again", problems=error.problems) from error


def topology_file(layout: Layout) -> Path:
    """Return where the topology is to be read: on a host with what is root's."""
    return choose_file(layout.topology, former=layout.root / TOPOLOGY_FILE)


def choose_file(path: Path, *, former: Path, owner: int = 0) -> Path:
    """Return where a file is that lay elsewhere in earlier installations, in a folder of the worker's: there only the
    owner's is believed, and only until there is one in the new place."""
    # The api's unit of such an installation keeps it out of the folder.
    is_closed = not os.access(path.parent, os.X_OK)
    if path != former and (is_closed or not path.exists()) and is_kept_by(former, {owner}):
        return former
    return path


def is_kept_by(path: Path, uids: Collection[int]) -> bool:
    """Say whether a file is one of these users', no link to one, and only its owner may write it."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_uid in uids and not status.st_mode & 0o022


def write_stack(layout: Layout, stack: Mapping[str, object]) -> None:
    """Write the stack file, once everything answers."""
    write_private(layout.stack_file, json.dumps(stack, indent=2) + "\n")


def read_stack(root: Path) -> dict[str, object]:
    """Return the stack file of a running stack; Unavailable when none runs under this root."""
    try:
        return _read_json(Layout(root).stack_file, missing="")
    except ConfigInvalid as error:
        raise Unavailable(
            "NoStack", f"no stack runs under {root}: there is no stack.json; start one with `oroboros up --root {root}`"
        ) from error


def _read_json(path: Path, *, missing: str) -> dict[str, object]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigInvalid("NotInstalled", f"{path} does not exist; {missing}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid("Unreadable", f"{path} cannot be read: {error}") from error
    try:
        value = json.loads(text[:JSON_BYTES_MAX])
    except ValueError as error:
        raise ConfigInvalid("Unreadable", f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigInvalid("Unreadable", f"{path} is not a JSON object")
    return value
