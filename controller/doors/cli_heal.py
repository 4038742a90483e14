"""`oroboros heal`: has the worker put right what somebody else changed on the host and policy holds.

The order is written at each drift that is held now; one that is found later is held again. It outlives this command.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from controller.doors import tables
from controller.doors.cli_orders import actor
from controller.doors.doctor_host import ask_health
from controller.doors.stacks import utc_now
from controller.effects.store import Store
from controller.effects.wake import Bell
from controller.model.config import Settings
from controller.model.errors import Unavailable
from controller.model.names import Topology

#: An instance that was stopped is started again by a run, with its gate and its window.
WAIT_S = 120.0
LOOK_EVERY_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class HealedView:
    """A drift that was held, and whether it is over."""

    reason: str
    subject: str
    message: str
    healed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HealView:
    """What was ordered, and what came of it."""

    ordered: tuple[HealedView, ...]
    left: int


def order_heal(settings: Settings, store: Store, topology: Topology, *, wait: bool, wait_s: float = WAIT_S) -> HealView:
    """Order everything that is held to be healed; wait until it is, for a while. Safe to repeat."""
    ordered = store.order_heal(actor=actor(), now=utc_now())
    left = {one.id for one in ordered}
    if ordered:
        Bell(settings.redis_url).ring()
        if wait and ask_health("worker", topology.ports.worker_health).status is None:
            raise Unavailable(
                "WorkerAway",
                "the order is written, but no worker answers: it takes the order up when it starts; `oroboros doctor`",
            )
    deadline = time.monotonic() + wait_s
    while wait and left and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY_S)
        rows = store.load_rows("SELECT id FROM drifts WHERE id = ANY(%s) AND ended_at IS NULL", [sorted(left)])
        left = {int(row["id"]) for row in rows}
    return HealView(
        ordered=tuple(
            HealedView(
                reason=one.drift.reason,
                subject=one.drift.subject,
                message=one.drift.message,
                healed=one.id not in left,
            )
            for one in ordered
        ),
        left=len(left),
    )


def print_heal(console: Console, view: HealView) -> None:
    """Print what was ordered, and what came of it."""
    if not view.ordered:
        console.print(Text("nothing is held"))
        return
    for one in view.ordered:
        became = "put right" if one.healed else "ordered; `oroboros status` shows what becomes of it"
        console.print(Text(tables.plain(f"{one.reason}: {one.message}: {became}")))
