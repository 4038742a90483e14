"""How does a person stop, start and restart what runs in one slot? `oroboros backend`, and what is observed of it.

Nothing is stopped behind the worker's back: it would take that for a failure, or start it again. A stop is an order, a
row that the worker carries out and holds, until it is ended by `start`, by the end of the lease, or by an order of a
release. A restart is a stop that ends by itself. Only where no worker answers does `stop` ask the runtime itself.
What the order is for stays named by `live`, so the slot's surface says that it is unwell, and it is what starts again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from rich.console import Console
from rich.text import Text

from controller.decisions.health import Endpoint, judge
from controller.doors import tables, views
from controller.doors.cli_orders import LOOK_EVERY_S, PATIENCE_S, actor, worker_answers
from controller.doors.stacks import open_runtime, utc_now
from controller.doors.views import BackendView, UnitView
from controller.effects.live import read_live
from controller.effects.runtime import Runtime
from controller.effects.store import Store
from controller.effects.wake import Bell
from controller.loop.health_rows import ask_http
from controller.loop.orders import REASON_CHARS_MAX
from controller.model.config import Settings
from controller.model.errors import Failed, Refused, Unavailable
from controller.model.names import MAIN, SlotName, Topology, instance_unit, slot_of_unit, systemd_unit
from controller.model.nouns import Live, ProcessFact
from controller.model.states import ProcessState, RunState

#: Without a worker nobody knows the recipe, which may say longer.
STOP_GRACE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One slot's backend, and everything through which it is asked and ordered."""

    settings: Settings
    store: Store
    topology: Topology
    slot: SlotName

    @property
    def runtime(self) -> Runtime:
        return open_runtime(self.settings)

    def live(self) -> Live | None:
        return read_live(self.settings.layout, self.slot)


def read_backend(of: Backend) -> BackendView:
    """Observe one slot: its units, what it serves, and what its backend port says."""
    live = of.live()
    serving = _serving_unit(live)
    units = tuple(_unit_view(fact, serving) for fact in _units(of))
    (stopped,) = (view.stopped for view in _slot_views(of))
    address = f"127.0.0.1:{of.topology.backend_port(of.slot)}"
    endpoint = Endpoint(service="backend", unit="", kind="http", address=address, slot=of.slot)
    health = judge(endpoint, ask_http(address, host="127.0.0.1"), took_ms=0)
    return BackendView(
        slot=of.slot,
        state=_state(live, units, stopped=bool(stopped), has_run=_running_run(of) is not None),
        release=live.release if live is not None else None,
        address=address,
        healthy=health.ok,
        said=health.said,
        stopped=stopped,
        units=units,
    )


def _state(live: Live | None, units: tuple[UnitView, ...], *, stopped: bool, has_run: bool) -> str:
    if stopped:
        return "stopped"
    if any(unit.serves and unit.state == ProcessState.RUNNING for unit in units):
        return "running"
    if has_run:
        return "starting"
    if live is None or live.state != "live":
        return "free"
    return "files only" if live.address is None else "not running"


def _serving_unit(live: Live | None) -> tuple[str, int] | None:
    if live is None or live.state != "live" or live.colour is None or live.address is None:
        return None
    return instance_unit(live.slot, live.colour), live.generation


def _unit_view(fact: ProcessFact, serving: tuple[str, int] | None) -> UnitView:
    return UnitView(
        unit=fact.unit,
        systemd=systemd_unit(fact.unit),
        generation=fact.generation,
        state=fact.state,
        pid=fact.pid,
        exit_code=fact.exit_code,
        since=fact.ended_at or fact.started_at,
        serves=serving == (fact.unit, fact.generation),
    )


def _units(of: Backend) -> tuple[ProcessFact, ...]:
    return tuple(fact for fact in of.runtime.observe() if slot_of_unit(fact.unit) == of.slot)


def _slot_views(of: Backend) -> tuple[views.SlotView, ...]:
    every = views.read_slots(of.store, of.settings.layout, of.topology)
    return tuple(view for view in every if view.slot == of.slot)


def _running_run(of: Backend) -> views.RunView | None:
    return next((run for run in views.read_runs(of.store, limit=1, slot=of.slot) if run.ended_at is None), None)


# -- orders -----------------------------------------------------------------------------------------------------------


def check_may_order(slot: SlotName, *, yes_production: bool) -> None:
    """Refuse to touch production, unless that is what was said."""
    if slot == MAIN and not yes_production:
        raise Refused("ProductionRefused", "main is production: say --yes-production if that is what you mean")


def stop_backend(of: Backend, *, reason: str, timeout_s: float, ticker: tables.Ticker) -> None:
    """Order that nothing runs in the slot, and wait until nothing does."""
    _order(of, "stopped", reason=reason)
    ticker.line(f"{of.slot} is to stop, ordered by {actor()}")
    asked_runtime = False

    def is_down() -> bool:
        nonlocal asked_runtime
        if asked_runtime:
            for fact in _units(of):
                of.runtime.stop(fact.unit, fact.generation, grace_s=STOP_GRACE_S)
        running = [fact for fact in _units(of) if fact.state is ProcessState.RUNNING]
        return not running and (asked_runtime or _running_run(of) is None)

    def without_worker() -> None:
        nonlocal asked_runtime
        asked_runtime = True
        ticker.line("no worker answers: the runtime is asked to stop it; the order stands for when the worker starts")

    _await(of, is_down, "its units to end", timeout_s=timeout_s, ticker=ticker, without_worker=without_worker)


def start_backend(of: Backend, *, timeout_s: float, ticker: tables.Ticker) -> None:
    """End the order that stopped the slot, and wait until its surface says that it is well."""
    _check_holds_something(of)
    newest = _newest_run(of)
    if not of.store.end_stop(of.slot, actor=actor(), now=utc_now()) and read_backend(of).ok:
        ticker.line(f"{of.slot} was not stopped by hand, and is well")
        return
    Bell(of.settings.redis_url).ring()
    ticker.line(f"{of.slot} is to start, ordered by {actor()}")
    _await_up(of, lambda: True, after=newest, timeout_s=timeout_s, ticker=ticker)


def restart_backend(of: Backend, *, reason: str, timeout_s: float, ticker: tables.Ticker) -> None:
    """Order that what serves is stopped, started again and proven, and wait until its surface says that it is well."""
    live = of.live()
    if _serving_unit(live) is None or live is None:
        raise Refused("NothingServes", f"no backend serves in {of.slot}: there is nothing to start again")
    newest = _newest_run(of)
    _order(of, "restart", reason=reason)
    ticker.line(f"{of.slot} is to be started again, ordered by {actor()}")

    def is_another() -> bool:
        now = of.live()
        return now is not None and now.generation != live.generation

    _await_up(of, is_another, after=newest, timeout_s=timeout_s, ticker=ticker)


def _order(of: Backend, kind: str, *, reason: str) -> None:
    _check_holds_something(of)
    live = of.live()
    if live is not None and live.state == "live" and live.address is None and _running_run(of) is None:
        raise Refused("NoBackend", f"{of.slot} serves files only: nothing of it runs")
    written = of.store.record_stop(
        slot=of.slot,
        kind=kind,
        fence=_fence(of),
        live=live,
        actor=actor(),
        reason=reason.strip()[:REASON_CHARS_MAX],
        now=utc_now(),
    )
    if written is None:
        raise Refused("SlotFree", f"the lease of {of.slot} has just ended: nothing is to run there")
    Bell(of.settings.redis_url).ring()


def _check_holds_something(of: Backend) -> None:
    if of.slot != MAIN and _fence(of) == 0:
        raise Refused("SlotFree", f"nobody holds {of.slot}: nothing runs there, and nothing is to be started")


def _fence(of: Backend) -> int:
    found = of.store.load_rows(
        "SELECT fence FROM leases WHERE repository_id = %s AND host = %s AND slot = %s AND ended_at IS NULL",
        [of.store.repository_id, of.store.host, of.slot],
    )
    return int(str(found[0]["fence"])) if found else 0


def _newest_run(of: Backend) -> int:
    return next((run.run for run in views.read_runs(of.store, limit=1, slot=of.slot)), 0)


def _await_up(
    of: Backend, is_another: Callable[[], bool], *, after: int, timeout_s: float, ticker: tables.Ticker
) -> None:
    def is_up() -> bool:
        run = next(iter(views.read_runs(of.store, limit=1, slot=of.slot)), None)
        if run is not None and run.run > after and run.state in (RunState.FAILED, RunState.STALLED):
            raise Failed(run.reason, f"run {run.run} of {of.slot} {run.state}: {run.message}")
        if not is_another():
            return False
        view = read_backend(of)
        return view.state in ("running", "files only") and view.healthy

    _await(of, is_up, "its surface to say that it is well", timeout_s=timeout_s, ticker=ticker)
    ticker.line(f"{of.slot} is well")


def _await(
    of: Backend,
    is_done: Callable[[], bool],
    what: str,
    *,
    timeout_s: float,
    ticker: tables.Ticker,
    without_worker: Callable[[], None] | None = None,
) -> None:
    """Look until it is done. Where no worker answers, `without_worker` may help once; else nobody would do it."""
    began, asked = time.monotonic(), False
    while not is_done():
        waited_s = time.monotonic() - began
        if waited_s > timeout_s:
            raise Unavailable(
                "FollowedTooLong", f"waited {timeout_s:g} s for {what}; the order stands, see `oroboros status`"
            )
        if not asked and waited_s > min(PATIENCE_S, timeout_s / 2) and not worker_answers(of.topology):
            asked = True
            if without_worker is None:
                raise Unavailable(
                    "WorkerAway", "the order is written, but no worker answers: it takes the order up when it starts"
                )
            without_worker()
        ticker.waiting(f"waiting for {what}, {waited_s:.0f} s")
        time.sleep(LOOK_EVERY_S)


def print_backend(console: Console, view: BackendView, *, now: datetime) -> None:
    """Print the state of a slot, and its units."""
    style = "green" if view.ok else "bold red"
    release = f", release {tables.short(view.release)}" if view.release is not None else ""
    console.print(Text(tables.plain(f"{view.slot} is {view.state}{release}"), style=style))
    if view.stopped:
        console.print(Text(tables.plain(view.stopped)))
    console.print(Text(tables.plain(f"{view.address}/health: {view.said}")))
    if view.units:
        console.print(tables.units_table(view.units, now=now))
