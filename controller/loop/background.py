"""What runs beside the ticks? Work that is longer than a blink: fetch, listing, checkout, seal, databases, wipes.

One bounded thread per (activity, slot). A thread leaves its outcome on the host or in the store, never in memory, and
rings the bell when it ends. An expected error ends it and is logged: what it did not do is seen, and begun again by a
later tick. Any other is a bug, of these threads as of all others of the worker, and a lost epoch is the end: it is
kept, and the next tick raises it, so that the worker ends, is started again and observes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from controller.effects.store import LostEpoch
from controller.model.errors import OroborosError
from controller.model.names import SlotName
from controller.model.threads import Activity
from controller.threads import new_thread

#: Enough for every slot's checkout and database at once with the default slots; more wait for the next tick.
THREADS_MAX = 12

#: ("refresh", None) is the whole host's fetch and listing.
Key = tuple[Activity, SlotName | None]

log = logging.getLogger(__name__)


def _note_nothing(_key: Key, _error: OroborosError | None) -> None:
    """Note nothing."""


class Background:
    """The threads of one worker."""

    def __init__(
        self, ring: Callable[[], None], *, ended: Callable[[Key, OroborosError | None], None] = _note_nothing
    ) -> None:
        """`ended` is told how each thread ended: by an expected error, or well."""
        self._ring = ring
        self._ended = ended
        self._lock = threading.Lock()
        self._running: dict[Key, threading.Thread] = {}
        self._bug: BaseException | None = None

    def start(self, key: Key, work: Callable[[], None]) -> bool:
        """Run `work` in a thread unless one of that key runs already or too many do; say whether it began."""
        with self._lock:
            if key in self._running or len(self._running) >= THREADS_MAX:
                return False
            name = key[0] if key[1] is None else f"{key[0]} {key[1]}"
            thread = new_thread(key[0], lambda: self._run(key, work), name=name)
            self._running[key] = thread
        thread.start()
        return True

    def running(self) -> frozenset[Key]:
        """Return the keys of the threads that have not ended."""
        with self._lock:
            return frozenset(self._running)

    def raise_bugs(self) -> None:
        """Raise what a thread did not expect."""
        if self._bug is not None:
            raise self._bug

    def keep_bug(self, ended: threading.ExceptHookArgs) -> None:
        """Keep what ended a thread of the worker, for the next tick to raise: the worker's `threading.excepthook`."""
        name = "a thread" if ended.thread is None else ended.thread.name
        error = ended.exc_value or ended.exc_type()
        log.critical("worker: %s ended by a bug", name, exc_info=error, extra={"action": "thread.bug"})
        self._bug = error
        self._ring()

    def wait(self, *, timeout_s: float) -> None:
        """Wait until every thread ended, at most `timeout_s` in all; for a clean stop and for tests."""
        with self._lock:
            threads = list(self._running.values())
        for thread in threads:
            thread.join(timeout_s / max(1, len(threads)))

    def _run(self, key: Key, work: Callable[[], None]) -> None:
        try:
            work()
        except OroborosError as error:
            log.warning("background: %s: %s", key, error, extra={"action": "background.failed"})
            if isinstance(error, LostEpoch):
                self._bug = error
            self._ended(key, error)
        else:
            self._ended(key, None)
        finally:
            with self._lock:
                self._running.pop(key, None)
            self._ring()
