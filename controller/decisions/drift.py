"""What on this host is not as we left it, and is it put right or held? Changed by no push and no step of ours.

Facts in, drifts out, with a reason each. Rules:

1. `current` that names another release than `live`, while no run is under way, was moved by hand. A worker that died
   between its two renames has left a run, and finishes it.
2. An instance that `live` names and that ended by a signal from outside was stopped. On a host whose service manager
   keeps what ended and starts at boot what serves, so was one that is not there at all. What crashed is no drift.
3. A file of a release that serves, or could be gone back to, is git's, byte for byte.
4. A build that something serves from is what was sealed. Nobody else has its bytes, so it cannot be made whole.
5. A unit that should run runs, one that should start at boot does, and systemd reads for it what install wrote, and
   nothing else. A file of install is as it was rendered, and a port of the table is held by the unit that it is of.

`[production] drift` says what becomes of 1 to 3: "heal" puts right, "hold" waits for `oroboros heal`. What nobody but a
person can mend (4), and what belongs to root (5), is told.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from controller.decisions.host_units import InstalledUnit, PortHolder
from controller.model.names import MAIN, Sha, SlotName, instance_unit
from controller.model.nouns import Drift, Handling, PortFact
from controller.model.states import ProcessState
from controller.model.world import Observed, SlotObserved

#: HUP, INT and TERM come from outside: it was stopped, it did not fail. KILL is most often a memory limit: its own.
STOPPED_FROM_OUTSIDE = frozenset({-1, -2, -15})
CURRENT_CHANGED = "CurrentChanged"
INSTANCE_STOPPED = "InstanceStopped"
RELEASE_EDITED = "ReleaseEdited"
BUILD_EDITED = "BuildEdited"
UNIT_NOT_RUNNING = "UnitNotRunning"
UNIT_NOT_ENABLED = "UnitNotEnabled"
FILE_EDITED = "FileEdited"
PORT_TAKEN = "PortTaken"
#: What the runtime looks for on a host, and a person mends.
BY_HAND = frozenset({BUILD_EDITED, UNIT_NOT_RUNNING, UNIT_NOT_ENABLED, FILE_EDITED, PORT_TAKEN})
#: Where the distribution keeps units, and changes to them: its own business.
OF_DISTRIBUTION = ("/lib/", "/usr/lib/")
#: What a tick sees by itself; the others come from a slower look.
SEEN_BY_TICK = frozenset({CURRENT_CHANGED, INSTANCE_STOPPED})
NAMED_MAX = 3
#: What the subject of a port begins with.
PORT = "port "


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFact:
    """A unit that install made."""

    unit: str
    #: It runs, or need not.
    runs: bool
    #: It starts at boot, or need not.
    starts_at_boot: bool = True
    #: What systemd reads for it that install did not write.
    strange_files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFact:
    """A file that install rendered: digests of what it rendered and of what lies there; None when nothing does."""

    path: str
    rendered: str
    on_disk: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseFact:
    """A release that serves or could be gone back to, and what of it is not git's: `path: what is wrong`, each."""

    release: Sha
    slots: tuple[SlotName, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildFact:
    """A build that a slot serves from, by its path below the root, and what of it was changed since it was sealed."""

    path: str
    slot: SlotName
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDrift:
    """What a look at the host found beside what a tick sees."""

    units: tuple[UnitFact, ...] = ()
    files: tuple[FileFact, ...] = ()
    ports: tuple[PortFact, ...] = ()
    releases: tuple[ReleaseFact, ...] = ()
    builds: tuple[BuildFact, ...] = ()


_NOTHING = HostDrift()


def judge_drift(observed: Observed, host: HostDrift = _NOTHING) -> tuple[Drift, ...]:
    """Return everything that somebody else changed, and whether it is put right."""
    return (
        *(drift for slot in observed.slots for drift in _of_slot(observed, slot)),
        *(drift for fact in host.releases for drift in _of_release(observed, fact)),
        *_by_subject([*_of_builds(host), *_of_root(host)]),
    )


def compare_unit(wanted: InstalledUnit, shown: Mapping[str, str]) -> UnitFact:
    """Compare what systemd shows of a unit (`systemctl show`) with what install left."""
    read = [shown.get("FragmentPath", ""), *shown.get("DropInPaths", "").split()]
    return UnitFact(
        unit=wanted.name,
        # What restarts or is being started is on its way.
        runs=not wanted.runs or shown.get("ActiveState") in ("active", "activating", "reloading"),
        starts_at_boot=not wanted.enabled or shown.get("UnitFileState") == "enabled",
        strange_files=tuple(
            path for path in read if path and path not in wanted.files and not path.startswith(OF_DISTRIBUTION)
        ),
    )


def is_stranger(holder: PortHolder, cgroup: str) -> bool:
    """Say whether a listener in this control group, a path, is somebody else than whose the port is."""
    return holder.holders.isdisjoint(cgroup.split("/"))


def port_subject(fact: PortFact) -> str:
    """Return how a taken port is called in a drift and in a trouble."""
    return f"{PORT}{fact.port}"


def describe_taken(fact: PortFact) -> str:
    """Return which port is taken, and by which process."""
    return f"port {fact.port} ({fact.what}) is held by {fact.owner}"


def is_held(observed: Observed, reason: str, subject: str) -> bool:
    """Say whether policy keeps this as it was found: "hold", and nobody has ordered to heal it since."""
    return observed.policy.production.drift == "hold" and (reason, subject) not in observed.heal_ordered


def holds_current(observed: Observed, slot: SlotObserved) -> bool:
    """Say whether the slot's `current` was moved by hand and stays so."""
    return _current_moved(slot) and is_held(observed, CURRENT_CHANGED, current_subject(slot.slot))


def holds_stopped(observed: Observed, slot: SlotObserved) -> bool:
    """Say whether the slot's instance was stopped from outside and stays so."""
    unit = _stopped_unit(observed, slot)
    return unit is not None and is_held(observed, INSTANCE_STOPPED, unit)


def current_subject(slot: SlotName) -> str:
    """Return how a slot's `current` is called in a drift."""
    return "current" if slot == MAIN else f"slots/{slot}/current"


def release_subject(release: Sha) -> str:
    """Return how a release is called in a drift."""
    return f"releases/{release}"


def _of_slot(observed: Observed, slot: SlotObserved) -> Iterator[Drift]:
    if _current_moved(slot):
        assert slot.live is not None
        subject = current_subject(slot.slot)
        names = "no release of ours" if slot.current is None else slot.current[:7]
        message = f"{subject} names {names}, and {slot.slot} serves {(slot.live.release or '')[:7]}"
        yield _drift(observed, CURRENT_CHANGED, subject, message, slot=slot.slot)
    unit = _stopped_unit(observed, slot)
    if unit is not None:
        message = f"{unit}, which serves {slot.slot}, was stopped from outside"
        yield _drift(observed, INSTANCE_STOPPED, unit, message, slot=slot.slot)


def _current_moved(slot: SlotObserved) -> bool:
    live = slot.live
    if slot.run is not None or live is None or live.state != "live" or live.release is None:
        return False
    return slot.current != live.release


def _stopped_unit(observed: Observed, slot: SlotObserved) -> str | None:
    live = slot.live
    if live is None or live.state != "live" or live.address is None or live.colour is None:
        return None
    if any(stop.slot == slot.slot for stop in observed.stops):
        return None  # by an order
    unit = instance_unit(slot.slot, live.colour)
    process = next((p for p in slot.processes if (p.unit, p.generation) == (unit, live.generation)), None)
    if process is None:
        return unit if observed.ended_units_stay and not _was_ordered(slot) else None
    stopped = process.state is ProcessState.EXITED and process.exit_code in STOPPED_FROM_OUTSIDE
    return unit if stopped and not process.timed_out else None


def _was_ordered(slot: SlotObserved) -> bool:
    """Say whether an order to stop was in force since this instance began to serve: then we stopped it ourselves."""
    if slot.stopped_at is None:
        return False
    began_at = slot.live_run.switched_at if slot.live_run is not None else None
    return began_at is None or slot.stopped_at >= began_at


def _of_release(observed: Observed, fact: ReleaseFact) -> Iterator[Drift]:
    if not fact.problems:
        return
    named = ", ".join(_named(fact.problems))
    message = f"{fact.release[:7]} differs from git in {len(fact.problems)} places: {named}"
    slot = fact.slots[0] if fact.slots else None
    yield _drift(observed, RELEASE_EDITED, release_subject(fact.release), message, slot=slot)


def _named(problems: Collection[str]) -> Iterator[str]:
    yield from list(problems)[:NAMED_MAX]
    if len(problems) > NAMED_MAX:
        yield f"and {len(problems) - NAMED_MAX} more"


def _of_builds(host: HostDrift) -> Iterator[Drift]:
    for build in host.builds:
        if build.problems:
            named = ", ".join(_named(build.problems))
            message = f"{build.path}, which {build.slot} serves from, is not what was built: {named}"
            yield Drift(reason=BUILD_EDITED, slot=build.slot, subject=build.path, message=message, handling="by_hand")


def _of_root(host: HostDrift) -> Iterator[Drift]:
    for unit in host.units:
        if not unit.runs:
            yield _by_hand(UNIT_NOT_RUNNING, unit.unit, f"{unit.unit} should run, and does not")
        if not unit.starts_at_boot:
            yield _by_hand(UNIT_NOT_ENABLED, unit.unit, f"{unit.unit} would not start at the next boot")
        for path in unit.strange_files:
            yield _by_hand(FILE_EDITED, path, f"{path} changes {unit.unit}, and install did not write it")
    for file in host.files:
        if file.on_disk != file.rendered:
            what = "is gone" if file.on_disk is None else "is not what was installed"
            yield _by_hand(FILE_EDITED, file.path, f"{file.path} {what}")
    for port in host.ports:
        yield _by_hand(PORT_TAKEN, port_subject(port), describe_taken(port))


def _drift(observed: Observed, reason: str, subject: str, message: str, *, slot: SlotName | None) -> Drift:
    handling: Handling = "held" if is_held(observed, reason, subject) else "heals"
    return Drift(reason=reason, slot=slot, subject=subject, message=message, handling=handling)


def _by_subject(drifts: Sequence[Drift]) -> Iterator[Drift]:
    """Give each once: one file may change many units."""
    yield from {(drift.reason, drift.subject): drift for drift in reversed(drifts)}.values()


def _by_hand(reason: str, subject: str, message: str) -> Drift:
    return Drift(reason=reason, slot=None, subject=subject, message=message, handling="by_hand")
