"""How do others learn what happened? A thread a destination sends the outbox, one request in flight; no run waits.

A destination has some surfaces, and each surface its sender. What is sent next is read again each time, so that only
the newest that is wanted is sent. A report that cannot be sent is tried again with a growing pause; one that is refused
for good is stalled alone and said loudly. Pauses between writes are the client's business. A surface that the
destination asks to wait, or refuses us, is not tried before it is time.

A report that may have been sent before (by a worker that died before it wrote so, or in a request that was not
answered) is looked up before it is sent again: `Outgoing.is_doubtful`. So each death repeats a write at most once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from controller.effects.store import Store, UnsentReport
from controller.failpoints import failpoint
from controller.model.errors import OroborosError, Stalled, Unavailable
from controller.model.reports import Surface, WantedReport

RETRY_BASE_S = 1.0
RETRY_CAP_S = 300.0
ATTEMPTS_MAX = 40
#: Without a wake: retries become due, and the database may have come back.
LOOK_EVERY_S = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A report on its way out."""

    wanted: WantedReport
    #: The destination's id of what was made for it before.
    made_id: int | None
    #: It may be there already: ask before making a second.
    is_doubtful: bool
    #: Remembers the id of what was made; called at once.
    remember: Callable[[int], None]


#: Sends one report. `Unavailable`: try again. `Stalled`: it will never be taken. Safe to repeat.
Sender = Callable[[Outgoing], None]


class Reporter:
    """The sender of one worker to one destination."""

    def __init__(
        self, store: Store, senders: Mapping[Surface, Sender], *, clock: Callable[[], datetime], name: str = "reporter"
    ) -> None:
        self._store = store
        self._senders = senders
        #: When a surface is tried again that must wait, since the destination asks for it or refuses us there: not for
        #: each of its reports.
        self._waits_until: dict[Surface, datetime] = {}
        self._clock = clock
        self._started_at = clock()
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

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
                while not self._stopped.is_set() and self.send_next():
                    pass
            except Unavailable as error:
                log.info("report: %s", error, extra={"action": "report.waits"})

    def send_next(self) -> bool:
        """Send what comes first; False when there is nothing to send now."""
        now = self._clock()
        allowed = [one for one in self._senders if self._waits_until.get(one, now) <= now]
        unsent = self._store.load_unsent_reports(surfaces=allowed, now=now, at_most=1)
        for report in unsent:
            self._send(report)
        return bool(unsent)

    def _send(self, report: UnsentReport) -> None:
        outgoing = Outgoing(
            wanted=report.wanted,
            made_id=report.forge_id,
            is_doubtful=report.attempts > 0 or report.at <= self._started_at,
            remember=lambda made_id: self._store.record_made(report, made_id),
        )
        try:
            self._senders[report.wanted.surface](outgoing)
        except Stalled as error:
            log.error(
                "report: %s %s refused for good: %s",
                report.surface,
                report.key,
                error,
                extra={"action": "report.stalled"},
            )
            self._store.record_unsent(report, error=str(error), retry_at=None, stalled=True)
        except OroborosError as error:
            retry_at = error.retry_at if isinstance(error, Unavailable) else None
            pause_s = min(RETRY_CAP_S, RETRY_BASE_S * 2 ** min(report.attempts, 16))
            retry_at = retry_at or self._clock() + timedelta(seconds=pause_s)
            if error.reason in ("ForgeLimited", "ForgeRefused"):
                self._waits_until[report.wanted.surface] = retry_at
            self._store.record_unsent(
                report,
                error=str(error),
                retry_at=retry_at,
                stalled=report.attempts + 1 >= ATTEMPTS_MAX,
            )
        else:
            failpoint("report.before_ack")
            self._store.record_sent(report, now=self._clock())
