"""Where can a test stop a process between two effects?

Each name is a place between two effects whose order matters. A place does nothing unless the development entry point
(or a test) arms it; nothing of production does, and no environment variable can.
"""

from __future__ import annotations

from collections.abc import Callable

from controller.model.steps import STEPS
from controller.model.threads import ACTIVITIES, LASTING

NAMES: tuple[str, ...] = (
    "live.before_rename",
    "live.after_rename",
    "current.before_rename",
    "current.after_rename",
    "fetch.before_prune",
    "publish.after_mkdir",
    "publish.after_write",
    "publish.between_syncs",
    "publish.after_sync",
    "publish.between_replacements",
    "publish.between_renames",
    "publish.before_parent_sync",
    "publish.after_rename",
    "remove.after_rename",
    "remove.before_delete",
    "seal.before_marker",
    "seal.after_marker",
    *(f"step.before.{name}" for name in STEPS),
    *(f"step.after.{name}" for name in STEPS),
    "tick.before_report",
    "report.before_ack",
    "answer.before_write",
    "answer.after_write",
    "answer.before_cursor",
    *(f"thread.{kind}" for kind in (*ACTIVITIES, *LASTING)),
)

_armed: dict[str, Callable[[], None]] = {}


def failpoint(name: str) -> None:
    """Do what `name` is armed with; nothing, unless it is."""
    if _armed and (action := _armed.get(name)) is not None:
        action()


def arm(name: str, action: Callable[[], None]) -> None:
    """Have `failpoint(name)` call `action` from now on."""
    if name not in NAMES:
        raise ValueError(f"no failpoint is called {name!r}")
    _armed[name] = action


def disarm() -> None:
    """Make every failpoint do nothing again."""
    _armed.clear()
