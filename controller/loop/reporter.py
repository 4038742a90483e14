"""How does the forge learn what happened? One thread sends the outbox, one request in flight, and blocks no run.

A report that cannot be sent is tried again with a growing pause; one that the forge refuses for good is stalled and
said loudly. Before the first report after a start, the present status is not read back: sending the same state twice
changes nothing, since the latest status of a context counts. Pauses between writes are the client's business; while
the forge asks us to wait, nothing is tried.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from controller.effects.github_http import Forge
from controller.effects.store import Store, UnsentReport
from controller.failpoints import failpoint
from controller.model.errors import OroborosError, Stalled, Unavailable

RETRY_BASE_S = 1.0
RETRY_CAP_S = 300.0
ATTEMPTS_MAX = 40
#: Without a wake: retries become due, and the database may have come back.
LOOK_EVERY_S = 1.0

log = logging.getLogger(__name__)


class Reporter:
    """The sender of one worker."""

    def __init__(self, store: Store, forge: Forge, *, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._forge = forge
        #: The forge asks us to wait: what is unsent stays so, and is no attempt.
        self._quiet_until: datetime | None = None
        self._clock = clock
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def wake(self) -> None:
        """There may be something to send."""
        self._woken.set()

    def stop(self, *, timeout_s: float) -> None:
        """End after the request in flight."""
        self._stopped.set()
        self._woken.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._woken.wait(LOOK_EVERY_S)
            self._woken.clear()
            try:
                while self._send_batch():
                    pass
            except Unavailable as error:
                log.info("report: %s", error, extra={"action": "report.waits"})

    def _send_batch(self) -> bool:
        if self._quiet_until is not None and self._clock() < self._quiet_until:
            return False
        unsent = self._store.load_unsent_reports(now=self._clock())
        for report in unsent:
            if self._stopped.is_set():
                return False
            self._send(report)
            if self._quiet_until is not None:
                return False
        return bool(unsent)

    def _send(self, report: UnsentReport) -> None:
        self._quiet_until = None
        try:
            self._forge.post_status(report.wanted)
        except Stalled as error:
            log.error("report: %s refused for good: %s", report.key, error, extra={"action": "report.stalled"})
            self._store.record_unsent(report.key, report.generation, error=str(error), retry_at=None, stalled=True)
        except OroborosError as error:
            retry_at = error.retry_at if isinstance(error, Unavailable) else None
            if error.reason == "ForgeLimited":
                self._quiet_until = retry_at
            pause_s = min(RETRY_CAP_S, RETRY_BASE_S * 2 ** min(report.attempts, 16))
            stalled = report.attempts + 1 >= ATTEMPTS_MAX
            self._store.record_unsent(
                report.key,
                report.generation,
                error=str(error),
                retry_at=retry_at or self._clock() + timedelta(seconds=pause_s),
                stalled=stalled,
            )
        else:
            failpoint("report.before_ack")
            self._store.record_sent(report.key, report.generation, now=self._clock())
