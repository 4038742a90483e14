"""What did the forge try to tell us in vain? One thread that reads its log of deliveries, and asks for what is missing.

It begins with the worker, and goes on at the pace of the resync. What it finds is in the store, so that a restart goes
on where it was. An error ends a sweep, never the thread; the next sweep reads the same again. A delivery that the forge
will not send again counts as asked for, and holds up no other. A bug ends the worker.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Final

from controller.decisions.github import app as protocol
from controller.decisions.github.answers import AWAY, TOLD_TO_WAIT
from controller.decisions.github.app import LoggedDelivery
from controller.decisions.github.sweep import plan_sweep, sweep_since
from controller.effects.github_identity import AppIdentity
from controller.effects.store import LostEpoch, Store
from controller.model.errors import OroborosError, Unavailable
from controller.threads import new_thread

#: A log that is longer is read so far; the rest is older.
PAGES_MAX: Final = 100

log = logging.getLogger(__name__)


class Sweeper:
    """The sweeps of one worker."""

    def __init__(
        self,
        store: Store,
        app: AppIdentity,
        *,
        every_s: float,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._app = app
        self._every_s = every_s
        self._clock = clock
        self._stopped = threading.Event()
        self._thread = new_thread("sweeper", self._run)

    def start(self) -> None:
        """Begin to sweep."""
        self._thread.start()

    def stop(self, *, timeout_s: float) -> None:
        """End after the request in flight."""
        self._stopped.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.sweep()
            except LostEpoch:
                return  # another worker sweeps now
            except OroborosError as error:
                log.warning("sweep: %s", error, extra={"action": "sweep.failed"})
            self._stopped.wait(self._every_s)

    def sweep(self) -> None:
        """Read the log once, and ask for what never succeeded. Safe to repeat: it comes under the same guid."""
        began_at = self._clock()
        before = self._store.load_sweep()
        found = self._read_log(since=sweep_since(before.began_at, now=began_at))
        if found is None:
            return
        plan = plan_sweep(found, before.missed, repository_id=before.repository_id, now=began_at)
        newest = max((one.id for one in found), default=0)
        self._store.record_sweep(plan.missed, taken=plan.taken, swept_to=newest, began_at=began_at, now=self._clock())
        for one in plan.ask:
            if self._stopped.is_set():
                return
            said = "asked for it again"
            reply = self._app.ask(protocol.redeliver(one.attempt_id))
            try:
                protocol.read_redelivered(reply, now=self._clock())
            except Unavailable as error:
                if error.reason in AWAY | TOLD_TO_WAIT:
                    raise
                said = str(error)
            self._store.record_asked(one.guid, now=self._clock())
            log.warning(
                "sweep: %s %s got %d: %s", one.event, one.guid, one.status_code, said, extra={"action": "sweep.asked"}
            )

    def _read_log(self, *, since: datetime) -> list[LoggedDelivery] | None:
        """Return the log since then; None when the worker ends meanwhile."""
        found: list[LoggedDelivery] = []
        cursor: str | None = None
        for _ in range(PAGES_MAX):
            reply = self._app.ask(protocol.list_deliveries(cursor=cursor))
            page = protocol.read_deliveries_page(reply, now=self._clock())
            found += page.deliveries
            cursor = page.next_cursor
            if cursor is None or any(one.delivered_at < since for one in page.deliveries):
                return [one for one in found if one.delivered_at >= since]
            if self._stopped.is_set():
                return None
        return found
