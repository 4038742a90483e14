"""`oroboros maintenance stale-leases`: what holds a slot that nobody holds any more, by the forge and by the host?

The forge is asked for its open pull requests now, and the host for what lies and runs; a listing that is not complete,
or a host that does not answer, ends the job, and nothing is concluded. Only the worker's loop ends leases: this job
writes the listing as the loop does, rings, waits for a while, and says of each finding what became of it, loudly.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from controller.decisions.github.repository import require_ours
from controller.decisions.stale import SlotHeld, Stale, judge_leases
from controller.doors import tables
from controller.doors.cli_orders import worker_answers
from controller.doors.forges import open_forges
from controller.doors.stacks import open_runtime, utc_now
from controller.doors.views import read_host_slot
from controller.effects.runtime import Runtime
from controller.effects.store import Store
from controller.effects.wake import Bell
from controller.model.config import Settings
from controller.model.names import MAIN, SlotName, Topology, slot_of_unit
from controller.model.nouns import Lease

#: For the loop to end what is stale and to empty the slots: an instance may take its time to stop.
WAIT_S = 60.0
LOOK_EVERY_S = 0.1
#: A worker that is restarted, as by an installation, is back within that; its timer fires whatever else goes on.
WORKER_WITHIN_S = 20.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleView:
    """One finding, and what became of it."""

    slot: str
    reason: str
    message: str
    pull_request: int | None
    fence: int
    unit: str
    #: The loop has ended it while we waited.
    reclaimed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleLeasesView:
    """What the job found and what the loop did about it."""

    open_pull_requests: int
    dry_run: bool
    worker: bool
    found: tuple[StaleView, ...]
    reclaimed: int
    left: int


def find_stale(
    settings: Settings, store: Store, topology: Topology, *, dry_run: bool, wait_s: float = WAIT_S
) -> StaleLeasesView:
    """Ask forge and host, have the loop reclaim what is stale, and return what became of it."""
    began_at = utc_now()
    with open_forges(settings, clock=utc_now) as forges:
        require_ours(forges.forge.repository(), pinned=store.load_repository().forge_id)
        listed = forges.forge.open_pulls()
    runtime = open_runtime(settings)

    def look() -> tuple[Stale, ...]:
        held = read_held(settings, store, topology, runtime)
        return judge_leases(held, listed, orders=store.load_preview_orders(), now=utc_now())

    found = look()
    worker = worker_answers(topology) if dry_run else _await_worker(topology)
    left = found
    if worker and not dry_run:
        # Also when nothing is stale: what the loop knows of the open pull requests is now as new as what we know.
        store.record_listing(listed, began_at=began_at)
        # Heads are never older than the listing for long: a fetch follows.
        store.ask_for_look(now=began_at)
        Bell(settings.redis_url).ring()
        left = await_reclaim(look, found, wait_s=wait_s)
    gone = {stale.key for stale in found} - {stale.key for stale in left}
    for stale in found:
        _tell(store, stale, reclaimed=stale.key in gone, dry_run=dry_run)
    return StaleLeasesView(
        open_pull_requests=len(listed),
        dry_run=dry_run,
        worker=worker,
        found=tuple(_view(stale, reclaimed=stale.key in gone) for stale in found),
        reclaimed=len(gone),
        left=len(found) - len(gone),
    )


def _await_worker(topology: Topology) -> bool:
    deadline = time.monotonic() + WORKER_WITHIN_S
    while not worker_answers(topology):
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_EVERY_S)
    return True


def read_held(settings: Settings, store: Store, topology: Topology, runtime: Runtime) -> tuple[SlotHeld, ...]:
    """Return who holds each preview slot, and what the host shows of it. Unavailable when the host does not answer."""
    leases = {
        str(row["slot"]): Lease(
            fence=row["fence"],
            slot=SlotName(row["slot"]),
            pull_request=row["pull_request"],
            in_queue=row["in_queue"],
            claimed_at=row["claimed_at"],
            expires_at=row["expires_at"],
        )
        for row in store.load_rows(
            "SELECT * FROM leases WHERE repository_id = %s AND host = %s AND ended_at IS NULL",
            [store.repository_id, store.host],
        )
    }
    processes = runtime.observe()
    names = {*topology.slots, *leases, *filter(None, (slot_of_unit(process.unit) for process in processes))} - {MAIN}
    held = []
    for name in sorted(names):
        slot = SlotName(name)
        live, _, problem = read_host_slot(settings.layout, slot)
        held.append(
            SlotHeld(
                slot=slot,
                exists=slot in topology.slots,
                lease=leases.get(slot),
                live=live,
                live_problem=problem if live is None else "",
                processes=tuple(process for process in processes if slot_of_unit(process.unit) == slot),
            )
        )
    return tuple(held)


def await_reclaim(look: Callable[[], Sequence[Stale]], found: Sequence[Stale], *, wait_s: float) -> tuple[Stale, ...]:
    """Wait until none of what was found is left, at most `wait_s`; return what is. What is newly stale is not ours."""
    deadline = time.monotonic() + wait_s
    left = tuple(found)
    while left and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY_S)
        seen = {stale.key for stale in look()}
        left = tuple(stale for stale in left if stale.key in seen)
    return left


def _tell(store: Store, stale: Stale, *, reclaimed: bool, dry_run: bool) -> None:
    detail: dict[str, object] = {
        "reason": stale.reason,
        "message": stale.message,
        "pull_request": stale.pull_request,
        "fence": stale.fence,
        "unit": stale.unit,
    }
    if reclaimed:
        store.record_audit("lease.reclaimed", stale.slot, detail, actor="maintenance")
    if dry_run:
        return
    log.warning(
        "%s: %s: %s: %s",
        "reclaimed" if reclaimed else "stale",
        stale.slot,
        stale.reason,
        stale.message,
        extra={"action": "lease.reclaimed" if reclaimed else "lease.stale", "slot": stale.slot},
    )


def _view(stale: Stale, *, reclaimed: bool) -> StaleView:
    return StaleView(
        slot=stale.slot,
        reason=stale.reason,
        message=stale.message,
        pull_request=stale.pull_request,
        fence=stale.fence,
        unit=stale.unit,
        reclaimed=reclaimed,
    )


def print_stale(console: Console, view: StaleLeasesView) -> None:
    """Print the findings as a table, and a line that sums up."""
    if view.found:
        console.print(
            tables.findings_table(
                ("slot", "reason", "became", "what"),
                [
                    (
                        one.slot,
                        one.reason,
                        "reclaimed" if one.reclaimed else "would go" if view.dry_run else "left",
                        one.message,
                    )
                    for one in view.found
                ],
            )
        )
    console.print(Text(summary_line(view)))


def summary_line(view: StaleLeasesView) -> str:
    """Return in a line what was found and what became of it."""
    listed = f"{view.open_pull_requests} pull requests are open at the forge"
    if not view.found:
        return f"{listed}; nothing is stale"
    if view.dry_run:
        return f"{listed}; {len(view.found)} stale, nothing was changed"
    return f"{listed}; {view.reclaimed} reclaimed, {view.left} left"
