"""How does a person order production to another release, and watch it happen? `deploy` and `rollback`.

An order is a row: it is written, the bell is rung, and the worker does the rest by the same plan as for a push; so an
order outlives this command, and a worker that is down takes it up when it starts. What is followed is the run that the
order causes, in the store and on the host; nothing here switches anything.

Refused (exit 3), with nothing written: a commit that is unknown, ambiguous or not on the production branch; a release
that is not there or never served well, or that would be restored to a database with other migrations; nothing to go
back to; with `--require-healthy`, a host that is not well.
"""

from __future__ import annotations

import getpass
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import click

from controller.decisions.health import ServiceHealth, describe_unwell
from controller.decisions.holds import describe_held, judge_held
from controller.decisions.orders import SHA_PREFIX, choose_rollback, leaving_of, refuse_other_migrations
from controller.decisions.signatures import OF_SIGNATURES
from controller.doors import tables, views
from controller.doors.operator_token import operator_token
from controller.doors.policies import read_freezes
from controller.doors.stacks import open_mirror, utc_now
from controller.doors.views import RunView
from controller.effects.live import read_live
from controller.effects.mirror import Mirror
from controller.effects.store import Store
from controller.effects.wake import Bell
from controller.loop.health_rows import ask_all
from controller.loop.orders import ProductionOrder, write_order
from controller.model.config import Settings
from controller.model.errors import Refused, Unavailable
from controller.model.names import MAIN, PRODUCTION, Layout, Sha, Topology, parse_sha
from controller.model.nouns import Head, Live
from controller.model.states import RunState
from controller.model.world import MIGRATIONS_DIFFER

LOOK_EVERY_S = 0.1
#: A run that was ordered begins within a poll interval; after this we ask whether there is a worker at all.
PATIENCE_S = 10.0
#: The longest that a build, a migration, a start and a window may take together.
FOLLOW_MAX_S = 3 * 3600.0
HEALTH_TIMEOUT_S = 2.0
DESPITE_MIGRATIONS = "; --accept-migrations orders it all the same"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """How an order is given: by the options of `deploy` and `rollback`."""

    reason: str
    accept_migrations: bool
    #: Why it goes although production is held; "": refused then.
    despite_hold: str
    #: Refused where a row of the host's health is not well.
    require_healthy: bool
    wait: bool
    as_json: bool


def actor() -> str:
    """Return who gives the order: who called sudo, or whose process this is."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return f"user {os.getuid()}"


# -- which commit, which release --------------------------------------------------------------------------------------


def find_release_on_disk(layout: Layout, text: str | None) -> Sha:
    """Return the one release on the disk that `text` begins, by default what production serves."""
    if text is None:
        live = views.release_of_main(layout)
        if live is None:
            raise Refused("NothingServes", "production serves no release yet: name one, `oroboros releases` lists them")
        return live
    prefix = text.lower()
    if not SHA_PREFIX.match(prefix):
        raise Refused("ReleaseUnclear", f"{text!r:.60} is not a release: say 7 to 40 hex digits of its commit")
    try:
        names = sorted(name for name in os.listdir(layout.releases) if len(name) == 40 and name.startswith(prefix))
    except FileNotFoundError:
        names = []
    if len(names) != 1:
        what = "no release on the disk begins" if not names else f"{len(names)} releases begin"
        raise Refused("ReleaseUnclear", f"{what} with {prefix}; `oroboros releases` lists them")
    return parse_sha(names[0])


# -- orders -----------------------------------------------------------------------------------------------------------


def order_deploy(settings: Settings, store: Store, topology: Topology, commit: str, order: Order) -> int:
    """Order a commit of the production branch to production; return the exit code."""
    mirror = open_mirror(settings)
    with tables.progress("looking for the commit"):
        head = mirror.find_on_production(commit)
    return _give(settings, store, topology, mirror, head, order, kind="deploy", leaving=None)


def order_rollback(settings: Settings, store: Store, topology: Topology, release: str | None, order: Order) -> int:
    """Order production back to a release that served well, and quarantine what it leaves; return the exit code."""
    live = leaving_of(read_live(settings.layout, MAIN))
    proofs = store.load_rows(
        "SELECT release FROM runs WHERE repository_id = %s AND host = %s AND domain = %s AND proven"
        " GROUP BY release ORDER BY max(generation) DESC",
        [store.repository_id, store.host, PRODUCTION],
    )
    target = choose_rollback(
        views.read_releases(store, settings.layout, topology),
        order_of_proof=[str(row["release"]) for row in proofs],
        leaving=live,
        wanted=release,
    )
    mirror = open_mirror(settings)
    head = mirror.head(parse_sha(target.release))
    if head is None:
        raise Refused("CommitGone", f"the repository no longer holds {target.release}: it cannot be verified any more")
    return _give(settings, store, topology, mirror, head, order, kind="rollback", leaving=live)


def _give(
    settings: Settings,
    store: Store,
    topology: Topology,
    mirror: Mirror,
    head: Head,
    order: Order,
    *,
    kind: Literal["deploy", "rollback"],
    leaving: Live | None,
) -> int:
    """Write the order, ring, and follow it."""
    if not order.despite_hold.strip():
        refuse_if_held(settings, store)
    if not order.accept_migrations:
        _refuse_other_migrations(store, head)
    unwell = _unwell_rows(settings, topology)
    if unwell and order.require_healthy:
        raise Refused(
            "HostUnwell",
            f"the host is not well: {describe_unwell(unwell)}; mend it, or order without --require-healthy",
        )
    production = mirror.production_head()
    before = store.load_rows(
        "SELECT coalesce(max(generation), 0) AS newest FROM runs WHERE repository_id = %s AND host = %s AND slot = %s",
        [store.repository_id, store.host, MAIN],
    )
    served_already = _serves_and_rests(settings, store, head)
    by = actor()
    order_id = write_order(
        store,
        ProductionOrder(
            kind=kind,
            head=head,
            leaving=leaving,
            accept_migrations=order.accept_migrations,
            reason=order.reason,
            despite_hold=order.despite_hold,
        ),
        production=production,
        actor=by,
        now=utc_now(),
    )
    rung = Bell(settings.redis_url).ring()
    followed = Followed(
        settings=settings,
        store=store,
        topology=topology,
        head=head,
        order_id=order_id,
        after=int(str(before[0]["newest"])),
    )
    with tables.Ticker(quiet=order.as_json) as ticker:
        try:
            ticker.line(f"{kind} {tables.short(head.sha)} {head.title!r:.60} ordered by {by}")
            if unwell:
                ticker.line(f"unwell before, and not held against it: {describe_unwell(unwell)}")
            if not rung:
                ticker.line("Redis is away: the worker finds the order at its next poll")
            if served_already:
                end = SERVES_ALREADY
            elif not order.wait:
                end = End(state="ordered", reason="", message="", run=None, code=0)
            else:
                end = follow(followed, ticker)
        except KeyboardInterrupt:
            ticker.line("the order stands, only its telling ends here; `oroboros status` shows what becomes of it")
            raise
        ticker.line(_closing_line(end, head, topology))
    if order.as_json:
        value = _end_to_json(end, kind, head, topology)
        value["unwell_before"] = [{"service": row.service, "said": tables.plain(row.said)} for row in unwell]
        click.echo(json.dumps(value, indent=2))
    return end.code


def refuse_if_held(settings: Settings, store: Store) -> None:
    """Refuse an order that would only wait: production is held or frozen."""
    held = judge_held(store.load_holds(), read_freezes(settings, store), slot=MAIN, fence=0, now=utc_now())
    if held is not None:
        raise Refused(
            held.reason, f"production is {describe_held(held)}; --override-hold REASON orders it all the same"
        )


def _refuse_other_migrations(store: Store, head: Head) -> None:
    history = store.load_history()
    migrated = next((slot.migrated for slot in history.slots if slot.name == MAIN), None)
    try:
        refuse_other_migrations(head, history.proven, database_at=None if migrated is None else migrated[1])
    except Refused as error:
        raise Refused(error.reason, f"{error.message}{DESPITE_MIGRATIONS}") from error


def _unwell_rows(settings: Settings, topology: Topology) -> tuple[ServiceHealth, ...]:
    """Ask every row of the health check; return those that are not well."""
    token, _ = operator_token(settings.operator_token_file)
    found = ask_all(topology, database_url=settings.database_url, redis_url=settings.redis_url, token=token)
    return tuple(row for row in found if not row.ok)


def _serves_and_rests(settings: Settings, store: Store, head: Head) -> bool:
    """Say whether production serves this very content and nothing is about to change that."""
    live = read_live(settings.layout, MAIN)
    running = store.load_rows(
        "SELECT 1 AS one FROM runs WHERE repository_id = %s AND host = %s AND slot = %s AND ended_at IS NULL LIMIT 1",
        [store.repository_id, store.host, MAIN],
    )
    return live is not None and live.state == "live" and live.tree == head.tree and not running


# -- following --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """An order that was written, and the newest run from before it."""

    settings: Settings
    store: Store
    topology: Topology
    head: Head
    order_id: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """What came of an order."""

    state: str
    reason: str
    message: str
    run: int | None
    code: int


SERVES_ALREADY = End(state=RunState.LIVE, reason="", message="", run=None, code=0)


def judge_end(run: RunView | None, *, in_force: bool, why_not: str) -> End | None:
    """Return what came of an order, None while that is open. Pure.

    A run that was superseded while its order is in force is followed by another."""
    if run is not None and run.ended_at is not None and run.state != RunState.SUPERSEDED:
        refused = run.reason == MIGRATIONS_DIFFER
        code = 0 if run.state == RunState.LIVE else 3 if refused else 1
        hint = DESPITE_MIGRATIONS if refused else ""
        return End(state=run.state, reason=run.reason, message=run.message + hint, run=run.run, code=code)
    if in_force:
        return None
    if run is not None and run.ended_at is None:
        return None  # it is still under way, and its own end says more
    reason, _, said = why_not.partition(": ")
    if reason in OF_SIGNATURES:
        return End(state="refused", reason=reason, message=said, run=None, code=3)
    return End(
        state="superseded",
        reason="OrderEnded",
        message=why_not or "the order ended before it was carried out",
        run=None if run is None else run.run,
        code=1,
    )


def follow(followed: Followed, ticker: tables.Ticker, *, clock: Callable[[], float] = time.monotonic) -> End:
    """Tell each step of what an order causes, until its end."""
    began, told, told_state, known = clock(), 0, "", 0
    while clock() - began < FOLLOW_MAX_S:
        run = _run_of(followed)
        if run is not None:
            if run.run != known:
                known, told, told_state = run.run, 0, ""
            steps = views.read_steps(followed.store, run.run, begun_at=run.begun_at)
            for step in steps[told:]:
                ticker.line(tables.step_line(step))
            told = len(steps)
            if run.state == RunState.WATCHING and told_state != run.state:
                ticker.line(f"serves; watched until {tables.clock(run.watch_until)}")
            told_state = run.state
        if run is None and _serves_and_rests(followed.settings, followed.store, followed.head):
            # The run of another commit with this content was under way, and has ended well.
            return SERVES_ALREADY
        in_force, why_not = _order_state(followed)
        end = judge_end(run, in_force=in_force, why_not=why_not)
        if end is not None:
            return end
        if run is None and clock() - began > PATIENCE_S and not worker_answers(followed.topology):
            raise Unavailable(
                "WorkerAway",
                "the order is written, but no worker answers: it takes the order up when it starts; `oroboros doctor`",
            )
        waiting_for = "the worker" if run is None else f"run {run.run}, {run.state}"
        ticker.waiting(f"waiting for {waiting_for}, {clock() - began:.0f} s")
        time.sleep(LOOK_EVERY_S)
    raise Unavailable("FollowedTooLong", f"the run has not ended within {FOLLOW_MAX_S:g} s; see `oroboros status`")


def _run_of(followed: Followed) -> RunView | None:
    """Return the newest run that the order caused."""
    found = views.read_runs(followed.store, limit=20, slot=MAIN)
    return next((r for r in found if r.run > followed.after and r.sha == followed.head.sha), None)


def _order_state(followed: Followed) -> tuple[bool, str]:
    found = followed.store.load_rows(
        "SELECT ended_at IS NULL AS in_force, end_reason FROM overrides WHERE id = %s", [followed.order_id]
    )
    return (bool(found[0]["in_force"]), str(found[0]["end_reason"])) if found else (False, "")


def worker_answers(topology: Topology) -> bool:
    """Say whether a worker answers at its health port, fit or not."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        url = f"http://127.0.0.1:{topology.ports.worker_health}/health"
        with opener.open(url, timeout=HEALTH_TIMEOUT_S):
            return True
    except urllib.error.HTTPError:
        return True  # unfit, but there
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _closing_line(end: End, head: Head, topology: Topology) -> str:
    sha = tables.short(head.sha)
    if end.state == RunState.LIVE:
        return f"live: {sha} at {topology.url(MAIN)}"
    if end.state == "ordered":
        return "ordered; `oroboros status` shows what becomes of it"
    said = ": ".join(part for part in (end.reason, end.message) if part)
    return f"{end.state}: {sha} is not live: {said}" + (f" (oroboros logs --run {end.run})" if end.run else "")


def _end_to_json(end: End, kind: str, head: Head, topology: Topology) -> dict[str, object]:
    value: dict[str, object] = {
        "kind": kind,
        "sha": head.sha,
        "title": head.title,
        "state": str(end.state),
        "run": end.run,
        "url": topology.url(MAIN),
    }
    if end.code:
        said = f"{end.state}: {end.message}" if end.message else str(end.state)
        value |= {"error": end.reason or "NotLive", "message": tables.plain(said), "exit_code": end.code}
    return value
