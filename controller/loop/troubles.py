"""Note what the worker's threads try in vain, and keep it in the store for those who ask.

Safe to use from several threads. What is kept survives a restart, so that a trouble is as old as it is; the store is
written by the tick alone, and only when there is news.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from controller.decisions.troubles import TROUBLES_MAX, lasting, note_failure
from controller.effects.store import Store
from controller.model.errors import OroborosError, Waiting
from controller.model.names import Sha
from controller.model.nouns import Trouble

log = logging.getLogger(__name__)

#: A trouble that goes on the same way is written so often.
WRITE_EVERY_S = 30.0


class Troubles:
    """What fails now, of one worker."""

    def __init__(self, known: Iterable[Trouble], *, clock: Callable[[], datetime]) -> None:
        """`known` are those of the worker before."""
        self._clock = clock
        self._lock = threading.Lock()
        self._current = {trouble.subject: trouble for trouble in known}
        self._written: dict[str, Trouble] = dict(self._current)
        self._written_at: datetime | None = None

    def failed(
        self, subject: str, error: OroborosError, *, again_at: datetime | None = None, sha: Sha | None = None
    ) -> bool:
        """One more try of this subject was in vain; return whether it is the first. To wait is no failure."""
        if isinstance(error, Waiting):
            return False
        with self._lock:
            known = self._current.get(subject)
            if known is None and len(self._current) >= TROUBLES_MAX:
                return False
            self._current[subject] = note_failure(known, subject, error, now=self._clock(), again_at=again_at, sha=sha)
            return known is None

    def worked(self, *subjects: str) -> None:
        """These subjects work."""
        with self._lock:
            over = [trouble for subject in subjects if (trouble := self._current.pop(subject, None)) is not None]
        for trouble in over:
            log.info(
                "%s works again, after %d tries", trouble.subject, trouble.tries,
                extra={"action": "trouble.over", "ends_state": True},
            )  # fmt: skip

    def still_failing(self, kind: str, subjects: Iterable[str]) -> tuple[str, ...]:
        """Of the subjects that begin with `kind` only these still fail; return those that work again."""
        with self._lock:
            ended = tuple(sorted({one for one in self._current if one.startswith(kind)} - set(subjects)))
        self.worked(*ended)
        return ended

    def lasting(self) -> tuple[Trouble, ...]:
        """Return those that a person must be told of."""
        with self._lock:
            current = tuple(self._current.values())
        return lasting(current, now=self._clock())

    def write(self, store: Store) -> None:
        """Write what is new since the last time, and forget what nothing tries any more."""
        now = self._clock()
        with self._lock:
            self._current = {key: one for key, one in self._current.items() if now <= one.again_by}
            current = dict(self._current)
        if current == self._written:
            return
        is_news = {(one.subject, one.reason) for one in current.values()} != {
            (one.subject, one.reason) for one in self._written.values()
        } or lasting(current.values(), now=now) != lasting(self._written.values(), now=now)
        is_old = self._written_at is None or now >= self._written_at + timedelta(seconds=WRITE_EVERY_S)
        if is_news or is_old:
            store.record_troubles(tuple(current.values()))
            self._written, self._written_at = current, now
