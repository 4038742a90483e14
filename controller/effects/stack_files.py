"""What do the processes of one stack tell each other through files? The topology, and the stack file of `up`.

Both are small JSON, written by one rename. The stack file holds addresses and paths of secrets, so it is 0600.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from controller.model.errors import ConfigInvalid, Unavailable
from controller.model.names import Layout, Ports, Topology
from controller.model.profiles import Walls

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
    """Write what was installed on this host. Safe to repeat."""
    value = {
        "previews": topology.previews,
        "port_offset": topology.ports.offset,
        "base_host": topology.base_host,
        "scheme": topology.scheme,
        "public_port": topology.public_port,
        "production_host": topology.production_host,
        "preview_host": topology.preview_host,
        "production_backend_port": topology.production_backend_port,
        "tls": topology.tls,
        "trusted_proxies": list(topology.trusted_proxies),
        "resolvers": list(topology.resolvers),
        "walls": dataclasses.asdict(topology.walls),
        "isolated_previews": topology.isolated_previews,
        "control_plane": topology.control_plane,
    }
    write_private(layout.topology, json.dumps(value, indent=2) + "\n")


def read_topology(layout: Layout) -> Topology:
    """Return what was installed on this host; ConfigInvalid when nothing was, or the file makes no sense."""
    value = _read_json(layout.topology, missing="run `oroboros up` or `oroboros install` first")
    try:
        scheme = value["scheme"]
        if scheme not in ("http", "https"):
            raise ValueError(f"scheme {scheme!r}")
        public_port, backend_port = value["public_port"], value.get("production_backend_port")
        return Topology(
            previews=int(str(value["previews"])),
            ports=Ports(offset=int(str(value["port_offset"]))),
            base_host=str(value["base_host"]),
            scheme="https" if scheme == "https" else "http",
            public_port=None if public_port is None else int(str(public_port)),
            production_host=_text_or_none(value.get("production_host")),
            preview_host=_text_or_none(value.get("preview_host")),
            production_backend_port=None if backend_port is None else int(str(backend_port)),
            tls=_tls(value.get("tls", "off")),
            trusted_proxies=_texts(value.get("trusted_proxies", [])),
            resolvers=_texts(value.get("resolvers", [])),
            walls=_walls(value.get("walls", {})),
            isolated_previews=value.get("isolated_previews") is True,
            control_plane="current" if value.get("control_plane") == "current" else "installed",
        )
    except (KeyError, ValueError) as error:
        raise ConfigInvalid("TopologyInvalid", f"{layout.topology}: {error!r}; install again") from error


def _tls(value: object) -> Literal["off", "auto", "files"]:
    match value:
        case "off" | "auto" | "files":
            return value
        case _:
            raise ValueError(f"tls {value!r:.40}")


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"not a list of texts: {value!r:.60}")
    return tuple(value)


def _walls(value: object) -> Walls:
    if not isinstance(value, dict):
        raise ValueError(f"walls: {value!r:.60}")
    try:
        return Walls(**value)
    except TypeError as error:
        raise ValueError(f"walls: {error}") from error


def _text_or_none(value: object) -> str | None:
    return None if value is None else str(value)


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
