"""How is an order about production written? As rows that the next tick reads, whoever gave it and wherever."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from controller.effects.store import Store
from controller.model.names import MAIN, PRODUCTION
from controller.model.nouns import Head, Live
from controller.model.world import ROLLED_BACK_BY_HAND

REASON_CHARS_MAX = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductionOrder:
    """What production is to serve, and why."""

    kind: Literal["deploy", "rollback"]
    head: Head
    #: Of a rollback: what it leaves, which is not tried again.
    leaving: Live | None
    accept_migrations: bool
    reason: str
    #: Why it goes although production is held; "" when it does not.
    despite_hold: str = ""


def write_order(store: Store, order: ProductionOrder, *, production: Head | None, actor: str, now: datetime) -> int:
    """Write an order; return its id. What is ordered is lifted first, what is left is quarantined last: killed in
    between, the order stands and the worker goes where it was sent. Safe to repeat: the newest order counts."""
    reason = order.reason.strip()[:REASON_CHARS_MAX]
    store.lift_quarantine(domain=PRODUCTION, tree=order.head.tree, actor=actor, now=now)
    order_id = store.record_override(
        slot=MAIN,
        kind=order.kind,
        head=order.head,
        ordered_at_head=None if production is None else production.sha,
        accept_migrations=order.accept_migrations,
        actor=actor,
        reason=reason,
        now=now,
        despite_hold=order.despite_hold.strip()[:REASON_CHARS_MAX],
    )
    leaving = order.leaving
    if leaving is not None and leaving.tree is not None and leaving.release is not None:
        store.record_quarantine(
            domain=PRODUCTION,
            tree=leaving.tree,
            sha=leaving.release,
            reason=ROLLED_BACK_BY_HAND,
            message=f"rolled back by {actor}" + (f": {reason}" if reason else ""),
            now=now,
        )
    return order_id
