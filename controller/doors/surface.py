"""How does a slot's surface start on a host? Its environment becomes a configuration, and this process becomes Caddy.

It needs neither database nor topology: what a surface must know is in its environment, so it comes back after a reboot
with everything else away.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from controller.decisions.surfaces import WEB_PAGES, read_surface_environment, render_surface
from controller.effects.stack_files import write_private
from controller.model.errors import ConfigInvalid, Unavailable
from controller.model.names import Layout, SlotName

CONFIG_FILE = "surface.json"
_OUR_PAGES = Path(__file__).resolve().parents[2] / WEB_PAGES


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What this process is to become."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]


def prepare_surface(slot: SlotName, layout: Layout, environ: Mapping[str, str], *, caddy: Path) -> Prepared:
    """Write the configuration of a slot's surface, and return the Caddy that runs it. Safe to repeat.

    `RUNTIME_DIRECTORY` and `LOGS_DIRECTORY` are systemd's names of the unit's own folders."""
    told = read_surface_environment(environ)
    folders = {name: environ.get(name, "").partition(":")[0] for name in ("RUNTIME_DIRECTORY", "LOGS_DIRECTORY")}
    problems = tuple(f"{name}: is not set to a folder" for name, path in folders.items() if not path.startswith("/"))
    if problems:
        raise ConfigInvalid("EnvironmentInvalid", "; ".join(problems), problems=problems)
    if not os.access(caddy, os.X_OK):
        raise Unavailable("PartMissing", f"{caddy} is no program; install again, or name a Caddy with --caddy")
    home = Path(folders["RUNTIME_DIRECTORY"])
    config = render_surface(layout, slot, told, log_dir=Path(folders["LOGS_DIRECTORY"]), our_pages=_OUR_PAGES)
    try:
        write_private(home / CONFIG_FILE, json.dumps(config))
    except OSError as error:
        raise Unavailable("NotWritten", f"{home / CONFIG_FILE}: {error.strerror or error}") from error
    return Prepared(
        argv=(str(caddy), "run", "--config", str(home / CONFIG_FILE)),
        # Caddy keeps small files of its own, which nobody misses after a restart.
        environment={**environ, "HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_CONFIG_HOME": str(home)},
    )
