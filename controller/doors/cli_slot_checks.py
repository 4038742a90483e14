"""Does every slot agree with itself? `oroboros slots --check`: gathers what `decisions.slot_checks` compares.

A problem counts when a second look, a little later, finds it too. Nothing is changed. Unavailable when the store, the
runtime or the database server does not answer: then nothing can be compared.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from rich.console import Console
from rich.text import Text

from controller.decisions.health import HEALTH_PATH, PUBLIC_HEALTH_PATH, release_path
from controller.decisions.integrity import SlotFacts, judge_integrity
from controller.decisions.slot_checks import Asked, SlotCheck, SlotSeen, check_slot, confirmed
from controller.doors import tables
from controller.doors.cli_reset_audit import SECOND_LOOK_S, gather
from controller.doors.stacks import open_mirror, utc_now
from controller.effects.mirror import Mirror
from controller.effects.store import Store
from controller.loop.health_rows import ask_http
from controller.loop.observe import DEPLOY_TOML, DEPLOY_TOML_BYTES_MAX
from controller.model.config import Settings
from controller.model.deploy_toml import parse_recipe
from controller.model.errors import ConfigInvalid
from controller.model.names import MAIN, SlotName, Topology
from controller.model.nouns import Live

#: A lease is made ready, and a slot wiped, within this time: until then it is work.
GRACE_S = 60.0
RUNS_OF_LAST = timedelta(hours=1)


def check_slots(settings: Settings, store: Store, topology: Topology, *, previews_only: bool) -> tuple[SlotCheck, ...]:
    """Look, and look again at what does not agree."""
    slots = topology.preview_slots if previews_only else topology.slots
    first = _look(settings, store, topology, slots)
    if all(check.ok for check in first):
        return first
    time.sleep(SECOND_LOOK_S)
    return confirmed(first, _look(settings, store, topology, slots))


def _look(settings: Settings, store: Store, topology: Topology, slots: tuple[SlotName, ...]) -> tuple[SlotCheck, ...]:
    now = utc_now()
    facts = gather(settings, store, topology, since=now - RUNS_OF_LAST)
    findings = judge_integrity(facts, grace_s=GRACE_S, now=now)
    stopped = {stop.slot for stop in store.load_history().stops}
    running = {run.slot for run in facts.runs if run.ended_at is None}
    mirror = open_mirror(settings)
    asked = _ask(topology, {one.slot: one.live for one in facts.slots if one.slot in slots})
    return tuple(
        check_slot(
            SlotSeen(
                facts=one,
                asked=asked[one.slot],
                has_run=one.slot in running,
                stopped=one.slot in stopped,
                release_there=_is_there(settings, one),
                wants_database=_wants_database(mirror, one),
            ),
            findings,
        )
        for one in facts.slots
        if one.slot in slots
    )


def _ask(topology: Topology, slots: Mapping[SlotName, Live | None]) -> dict[SlotName, tuple[Asked, ...]]:
    """Ask each slot's surface at its ports and behind the edge, all at once."""
    questions = [
        (slot, aspect, f"127.0.0.1:{port}", host, path)
        for slot, live in slots.items()
        for aspect, port, host, path in (
            ("web port", topology.ports.web(slot), "127.0.0.1", HEALTH_PATH),
            ("backend port", topology.backend_port(slot), "127.0.0.1", HEALTH_PATH),
            ("edge host", topology.ports.edge, topology.host(slot), _public_path(live)),
        )
        # Where the app is Oroboros itself, that port is the api's, not a surface's.
        if not (aspect == "backend port" and slot == MAIN and topology.production_backend_port == topology.ports.api)
    ]
    with ThreadPoolExecutor(max_workers=16) as pool:
        answers = list(pool.map(lambda one: ask_http(one[2], host=one[3], path=one[4]), questions))
    found: dict[SlotName, tuple[Asked, ...]] = dict.fromkeys(slots, ())
    for (slot, aspect, address, host, _path), answered in zip(questions, answers, strict=True):
        where = host if aspect == "edge host" else address
        found[slot] = (*found[slot], Asked(aspect=aspect, address=where, answered=answered))
    return found


def _public_path(live: Live | None) -> str:
    """Return what is asked behind the edge: does it serve this release; or, of a slot without one, is it free."""
    return PUBLIC_HEALTH_PATH if live is None or live.release is None else release_path(live.release)


def _is_there(settings: Settings, facts: SlotFacts) -> bool:
    live = facts.live
    if live is None or live.state != "live" or live.release is None:
        return True
    return settings.layout.release(live.release).is_dir()


def _wants_database(mirror: Mirror, facts: SlotFacts) -> bool | None:
    live = facts.live
    if live is None or live.state != "live" or live.release is None:
        return None
    try:
        body = mirror.read_file(live.release, DEPLOY_TOML, bytes_max=DEPLOY_TOML_BYTES_MAX)
        return None if body is None else parse_recipe(body).database is not None
    except ConfigInvalid:
        return None  # what serves was read before: this commit's own problem is told elsewhere


def print_checks(console: Console, checks: tuple[SlotCheck, ...]) -> None:
    """Print every aspect of every slot, and how many slots contradict themselves."""
    for check in checks:
        console.print(Text(f"{check.slot}: {'ok' if check.ok else 'contradicts itself'}", style="bold"))
        console.print(tables.aspects_table(check.aspects))
    bad = [check.slot for check in checks if not check.ok]
    words = f"{len(bad)} of {len(checks)} slots contradict themselves: {', '.join(bad)}" if bad else ""
    console.print(Text(words or f"all {len(checks)} slots agree", style="bold red" if bad else "green"))
