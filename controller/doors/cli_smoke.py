"""Does a preview answer as its visitors should find it? `oroboros smoke`: ask, judge, write the artifact, keep it.

Asking needs no stack: any URL will do. A run, when it is named, adds the routes of its recipe, and the artifact goes
into its folder. Kept in the store is only what was asked of the very run that the slot served before and after.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from controller.decisions.smoke import (
    Origin,
    SmokeReport,
    choose_routes,
    detail_of,
    parse_route,
    report,
)
from controller.doors import tables, views
from controller.doors.stacks import open_mirror, utc_now
from controller.doors.views import RunView
from controller.effects.fetch import fetch_all
from controller.effects.live import read_live
from controller.effects.store import Store
from controller.loop.observe import DEPLOY_TOML, DEPLOY_TOML_BYTES_MAX
from controller.model.config import Settings
from controller.model.deploy_toml import parse_recipe
from controller.model.errors import ConfigInvalid, Refused
from controller.model.names import HOST_LAYOUT, HOST_PROGRAM, Layout, SlotName, parse_sha

ARTIFACT_NAME = "smoke.json"
ARTIFACT_KIND = "smoke"


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeOrder:
    """What is to be asked, and where it is to be kept."""

    preview: Origin
    proxy: Origin | None
    changed: tuple[str, ...]
    timeout_s: float
    output: Path | None
    persist: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFound:
    """The run that was named, and the stack that it is of."""

    settings: Settings
    store: Store
    run: RunView

    @property
    def layout(self) -> Layout:
        return self.settings.layout


def default_folder(working_directory: Path) -> Path:
    """Return the folder for an artifact of no run: the working directory, unless that is installed code."""
    return HOST_LAYOUT.artifacts.parent if is_installed_code(working_directory) else working_directory


def is_installed_code(path: Path) -> bool:
    """Say whether a path lies in the installed code or in a release, where every file of another is a fault."""
    return any(path.resolve().is_relative_to(code) for code in (HOST_PROGRAM, HOST_LAYOUT.releases))


def find_run(settings: Settings, store: Store, run_id: int) -> RunFound:
    """Return the run of this number; Refused when there is none."""
    found = views.read_run(store, run_id)
    if found is None:
        raise Refused("RunUnknown", f"there is no run {run_id} on this host")
    return RunFound(settings=settings, store=store, run=found.run)


def smoke(order: SmokeOrder, of: RunFound | None) -> tuple[SmokeReport, Path]:
    """Ask, judge, write the artifact, and keep both in the store if that is ordered; return the report and its file."""
    if order.persist and of is not None:
        _check_serves(of)
    routes = choose_routes(
        release=None if of is None else of.run.release,
        of_recipe=() if of is None else _routes_of_recipe(of),
        changed=order.changed,
    )
    began_at, began = utc_now(), time.monotonic()
    with tables.progress(f"asking for {len(routes)} pages"):
        fetched = fetch_all(order.preview, routes, proxy=order.proxy, timeout_s=order.timeout_s)
    found = report(
        order.preview,
        fetched,
        proxy=order.proxy,
        run=None if of is None else of.run.run,
        slot=None if of is None else of.run.slot,
        release=None if of is None else of.run.release,
        began_at=began_at,
        took_ms=round((time.monotonic() - began) * 1000),
    )
    path = (
        order.output
        or (default_folder(Path.cwd()) if of is None else of.layout.run_artifacts(of.run.run)) / ARTIFACT_NAME
    )
    size_bytes = write_artifact(path, found, makes_folder=order.output is None)
    if order.persist and of is not None:
        _check_serves(of)
        of.store.record_validation(
            of.run.run,
            [(check.name, check.passed, detail_of(check)) for check in found.checks],
            artifact=(ARTIFACT_KIND, str(path.absolute()), size_bytes),
            now=utc_now(),
        )
    return found, path


def _check_serves(of: RunFound) -> None:
    """Refuse to keep under a run what another one answered."""
    slot = SlotName(of.run.slot)
    live = read_live(of.layout, slot)
    serves = live.generation if live is not None and live.state == "live" else None
    if serves != of.run.run:
        now = f"run {serves} does" if serves is not None else "nothing does"
        raise Refused("RunNotServing", f"run {of.run.run} does not serve in {slot}, {now}: nothing is kept for it")


def _routes_of_recipe(of: RunFound) -> Sequence[str]:
    mirror = open_mirror(of.settings)
    try:
        body = mirror.read_file(parse_sha(of.run.release), DEPLOY_TOML, bytes_max=DEPLOY_TOML_BYTES_MAX)
        return () if body is None else tuple(parse_route(route) for route in parse_recipe(body).smoke.routes)
    except (ConfigInvalid, ValueError) as error:
        raise ConfigInvalid("DeployTomlInvalid", f"deploy.toml of run {of.run.run}: {error}") from error


def write_artifact(path: Path, found: SmokeReport, *, makes_folder: bool) -> int:
    """Write the report by one rename; return its size. ConfigInvalid when it cannot be written there."""
    text = json.dumps(views.to_json(found), indent=2) + "\n"
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        if makes_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigInvalid("ArtifactUnwritable", f"{path} cannot be written: {error.strerror or error}") from error
    return len(text.encode())


def print_smoke(console: Console, found: SmokeReport, path: Path, *, kept: bool) -> None:
    """Print one line a check, and what came of all."""
    console.print(tables.smoke_table(found))
    bad = sum(not check.passed for check in found.checks)
    words = f"{bad} of {len(found.checks)} failed" if bad else f"all {len(found.checks)} passed"
    if not found.answered:
        words = "nothing answers at all"
    console.print(Text(f"{words} in {found.took_ms} ms: {found.preview_url}", style="bold red" if bad else "green"))
    if kept:
        console.print(Text(f"kept as checks of run {found.run}"))
    console.print(Text(tables.plain(f"artifact: {path}")), soft_wrap=True)
