"""Starts every thread of the worker. One that ends by a bug ends the worker, with its traceback.

What a thread does not expect reaches `threading.excepthook`, which the worker sets to `Background.keep_bug`. An
expected error (`OroborosError`) is the thread's own business.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from controller.failpoints import failpoint
from controller.model.threads import Activity, Lasting


def new_thread(kind: Activity | Lasting, work: Callable[[], None], *, name: str = "") -> threading.Thread:
    """Return a thread that does `work` once it is started, and that the process does not wait for at its end."""

    def run() -> None:
        failpoint(f"thread.{kind}")
        work()

    return threading.Thread(target=run, name=name or kind, daemon=True)
