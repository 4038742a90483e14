"""How do others learn what happened? A thread a destination sends the outbox, one request in flight; no run waits.

A destination has some surfaces, and each surface its sender. What is sent next is read again each time, so that only
the newest that is wanted is sent. A report that cannot be sent is tried again with a growing pause; one that is refused
for good is stalled alone and said loudly. Nothing else is ever given up, unless the destination is no forge: what
passes, passes, and the last word is due then. Pauses between writes are the client's business. A surface whose
destination is away, asks to wait, or refuses us, is tried with one report when it is time, not with each of them.

A report that may have been sent before (by a worker that died before it wrote so, or in a request that was not
answered) is looked up before it is sent again: `Outgoing.is_doubtful`. So each death repeats a write at most once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from controller.decisions.github.answers import AWAY, TOLD_TO_WAIT
from controller.effects.store import Store, UnsentReport
from controller.failpoints import failpoint
from controller.loop.troubles import Troubles
from controller.model.errors import OroborosError, Stalled, Unavailable
from controller.model.reports import Surface, WantedReport
from controller.threads import new_thread

RETRY_BASE_S = 1.0
RETRY_CAP_S = 300.0
#: While the destination is away; whatever is wanted then is sent this soon after its return.
AWAY_CAP_S = 60.0
#: A report that was refused so often, but not for good, is tried at a slow pace.
ATTEMPTS_AT_PACE = 40
RETRY_SLOWLY_S = 3_600.0
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
        self,
        store: Store,
        senders: Mapping[Surface, Sender],
        *,
        clock: Callable[[], datetime],
        kind: Literal["reporter", "notifier"] = "reporter",
        attempts_max: int | None = None,
        troubles: Troubles | None = None,
    ) -> None:
        self._store = store
        self._troubles = troubles if troubles is not None else Troubles((), clock=clock)
        self._senders = senders
        #: None: no report is given up that was not refused for good.
        self._attempts_max = attempts_max
        #: When a surface is tried again that must wait: not for each of its reports.
        self._waits_until: dict[Surface, datetime] = {}
        #: How often in a row it was away.
        self._aways: dict[Surface, int] = {}
        self._clock = clock
        self._started_at = clock()
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self._thread = new_thread(kind, self._run)

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
            except OroborosError as error:
                log.warning("report: %s", error, extra={"action": "report.waits"})

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
            self._troubles.failed(_subject(report), error)
            self._store.record_unsent(report, error=str(error), retry_at=None, stalled=True)
        except OroborosError as error:
            retry_at = self._retry_at(report, error)
            stalled = self._attempts_max is not None and report.attempts + 1 >= self._attempts_max
            log.warning(
                "report: %s %s, again at %s: %s",
                report.surface,
                report.key,
                f"{retry_at:%H:%M:%S} UTC",
                error,
                extra={"action": "report.waits"},
            )
            self._troubles.failed(_subject(report), error, again_at=retry_at)
            self._store.record_unsent(report, error=str(error), retry_at=retry_at, stalled=stalled)
        except Exception as error:
            # A bug: the worker ends by it, and its successor does not meet it at once.
            retry_at = self._clock() + timedelta(seconds=_pause_s(report.attempts))
            self._store.record_unsent(report, error=f"bug: {error!r:.200}", retry_at=retry_at, stalled=False)
            raise
        else:
            self._aways.pop(report.wanted.surface, None)
            self._troubles.worked(_subject(report))
            failpoint("report.before_ack")
            self._store.record_sent(report, now=self._clock())

    def _retry_at(self, report: UnsentReport, error: OroborosError) -> datetime:
        """Return when this report is tried again; its whole surface waits so long if it is no fault of the report."""
        surface = report.wanted.surface
        aways = self._aways.get(surface, 0)
        if error.reason in AWAY:
            self._aways[surface] = aways + 1
            pause_s = min(AWAY_CAP_S, RETRY_BASE_S * 2 ** min(aways, 16))
        else:
            pause_s = _pause_s(report.attempts)
        told = error.retry_at if isinstance(error, Unavailable) else None
        retry_at = told or self._clock() + timedelta(seconds=pause_s)
        if error.reason in AWAY | TOLD_TO_WAIT:
            self._waits_until[surface] = retry_at
        return retry_at


def _subject(report: UnsentReport) -> str:
    return f"report {report.wanted.surface}"


def _pause_s(attempts: int) -> float:
    """Return how long a report waits that failed so often before."""
    return RETRY_SLOWLY_S if attempts >= ATTEMPTS_AT_PACE else min(RETRY_CAP_S, RETRY_BASE_S * 2 ** min(attempts, 16))
