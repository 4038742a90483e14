"""Removes what nothing needs any more, a bounded part at a time: releases and builds that were let go, leftovers of
crashes, and rows and logs whose time is over.

A turn runs in a thread beside the ticks and ends soon, so that the disk is a deploy's again. It decides nothing about
releases and builds: `decisions.retention` does, and a tick takes them out of use. What was not reached, or could not be
removed, is found again by the next turn. Safe to repeat, and to be killed anywhere.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from controller.disk import remove_folder
from controller.effects.checkout import list_set_aside
from controller.effects.publish import set_aside_release, sweep_releases
from controller.effects.runtime import Runtime
from controller.effects.store import LostEpoch, Store
from controller.loop.forgetting import forget
from controller.model.config import Retention
from controller.model.errors import OroborosError
from controller.model.names import MAIN, PRODUCTION, Domain, Layout, SlotName, Topology
from controller.model.nouns import Quarantined

#: How long one turn goes on: with a turn every `reconcile.HOUSE_EVERY_S`, a deploy shares the disk for a sixth.
TURN_S = 5.0
#: Parts of so many rows of each kind at most, in one turn.
ROUNDS = 2
#: Between two looks at which rows and logs may go.
FORGET_EVERY_S = 3_600.0

#: No process takes so long between making a file and giving it its name, or a run's folder and its row.
STRAY_AGE_S = 86_400.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Housekeeping:
    """What is removed beside the ticks of one worker. Its store has a connection of its own."""

    layout: Layout
    topology: Topology
    store: Store
    runtime: Runtime
    clock: Callable[[], datetime]
    turn_s: float = TURN_S
    #: The last turn ended before its work did.
    is_more_left: bool = False
    _forgot_at: datetime | None = None

    def turn(
        self, *, retention: Retention | None, slots: dict[Domain, SlotName], quarantined: tuple[Quarantined, ...]
    ) -> None:
        """Remove until all is done or the time is up. `slots` are those of the domains that have one; `quarantined`
        is what may be forgotten of the quarantine. `retention` None: it is not known, and no row goes."""
        until = time.monotonic() + self.turn_s

        def is_enough() -> bool:
            return time.monotonic() >= until

        for part in (self._remove_releases, self._remove_builds, self._remove_strays):
            try:
                self.is_more_left = not part(is_enough, slots)
            except LostEpoch:
                raise
            except OroborosError as error:
                self.is_more_left = False  # it is tried again when the next turn is due
                log.warning("house: %s", error, extra={"action": "house.failed"})
            if self.is_more_left:
                return
        self._forget(retention, quarantined)

    def _remove_releases(self, is_enough: Callable[[], bool], _slots: dict[Domain, SlotName]) -> bool:
        if not sweep_releases(self.layout, is_enough=is_enough):
            return False
        for sha in self.store.load_removing():
            if is_enough():
                return False
            with self.store.removing_release(sha) as is_ours:
                if is_ours:
                    set_aside_release(self.layout, sha)
            # One folder at a time, so that what a killed worker leaves is small.
            sweep_releases(self.layout)
        return True

    def _remove_builds(self, is_enough: Callable[[], bool], slots: dict[Domain, SlotName]) -> bool:
        for folder in list_set_aside(self.layout):
            if is_enough():
                return False
            slot = MAIN if folder.parent.name == PRODUCTION else slots.get(Domain(folder.parent.name))
            # Of a pull request without a slot the wipe removes all.
            if slot is not None:
                self.runtime.discard(slot, [folder])
        return True

    def _remove_strays(self, is_enough: Callable[[], bool], _slots: dict[Domain, SlotName]) -> bool:
        """Remove what a killed process did not come to rename, and logs of runs that no row knows any more."""
        layout, old = self.layout, time.time() - STRAY_AGE_S
        folders = [layout.environment_file("x").parent, layout.root / "orders"]
        folders += [layout.slot(slot) for slot in self.topology.slots]
        for folder in folders:
            for path in _older_than(folder, old):
                if path.name.startswith(".") and (path.is_symlink() or not path.is_dir()):
                    path.unlink(missing_ok=True)
        logs = [path for path in _older_than(layout.artifacts, old) if path.name.isdigit()]
        known = self.store.load_known_runs([int(path.name) for path in logs]) if logs else frozenset()
        for path in logs:
            if is_enough():
                return False
            if int(path.name) not in known:
                remove_folder(path)
        return True

    def _forget(self, retention: Retention | None, quarantined: tuple[Quarantined, ...]) -> None:
        now = self.clock()
        is_due = self._forgot_at is None or now >= self._forgot_at + timedelta(seconds=FORGET_EVERY_S)
        if retention is None or not is_due:
            return
        self._forgot_at = now
        try:
            history = self.store.load_history()
            forgotten = forget(
                self.layout, self.store, self.topology, self.runtime, history, retention, rounds=ROUNDS, now=now
            )
            self.store.forget_quarantines(quarantined, lifted_before=now - timedelta(days=retention.audit_days))
        except LostEpoch:
            raise
        except OroborosError as error:
            log.warning("retention: %s", error, extra={"action": "retention.waits"})
            return
        if forgotten.is_more_left:
            self._forgot_at, self.is_more_left = None, True
        if forgotten.rows:
            log.info("retention: %d rows were forgotten", forgotten.rows, extra={"action": "retention.done"})


def _older_than(folder: Path, instant: float) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if entry.stat(follow_symlinks=False).st_ctime < instant]
    except FileNotFoundError:
        return []
