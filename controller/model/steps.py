"""The steps of a plan: what one tick may do, as data that round-trips through JSON.

No step decides and none waits. Each is safe to repeat, and its completion is visible to the next observation, so a
crash after any prefix of a plan leads to the same world as no crash. `slots` steps settle leases for the whole host;
all others concern one slot. Work that takes longer than a blink (fetch, listing, checkout, gate, window) is begun by
a step and ends as a verdict or a fact that a later tick observes.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from typing import Literal, NewType, Union, get_args, get_origin, get_type_hints

from controller.model.names import Colour, Domain, Sha, SlotName, TreeId
from controller.model.nouns import Head
from controller.model.states import Cause, RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimSlot:
    """Give a free preview slot to a pull request, or to its entry in the merge queue, under a new fence."""

    slot: SlotName
    pull_request: int
    in_queue: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EndLease:
    """End a lease: its pull request is closed, or its time is up. Freeing never waits for the wipe."""

    slot: SlotName
    fence: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewLease:
    """Move the end of a lease whose pull request has a new head."""

    slot: SlotName
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionSlot:
    """Make the slot ready for its lease: an empty data folder."""

    slot: SlotName
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WipeSlot:
    """Leave nothing of a lease that ended: database, role, data folder, builds of its domain, environment files.

    Planned only once no process of the slot runs and `live` says free."""

    slot: SlotName
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginRun:
    """Write a run in state `planned`, before any of its work. The running run of the slot, if any, was ended before."""

    slot: SlotName
    domain: Domain
    fence: int
    head: Head
    release: Sha
    cause: Cause
    #: The one that `live` does not name.
    colour: Colour
    #: The generation that serves now and is proven: where a failed window goes back to.
    fallback: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvanceRun:
    """Move a run on to a later state; a run never moves back."""

    slot: SlotName
    generation: int
    state: RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class EndRun:
    """End a run in a terminal state with its reason; `proven` when its window passed."""

    slot: SlotName
    generation: int
    state: RunState
    reason: str
    message: str
    proven: bool = False
    #: See `Run.successor` and `Run.switched_back`.
    successor: str = ""
    switched_back: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantine:
    """Remember that this tree fails in this domain by its own fault."""

    domain: Domain
    tree: TreeId
    sha: Sha
    reason: str
    message: str
    #: What the order that failed by it was to leave, and put in quarantine: it may serve again. Lifted first.
    lifts: TreeId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """Begin to publish `releases/<release>` from the mirror (bounded thread). Done when the release is on the disk;
    a refusal is a verdict of kind `checkout`."""

    slot: SlotName
    generation: int
    release: Sha


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsureDatabase:
    """Begin to make the slot's database and role, if they are not there (bounded thread)."""

    slot: SlotName
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartJob:
    """Start the recipe's build or migrate command as a supervised job with a hard time limit."""

    slot: SlotName
    generation: int
    kind: Literal["build", "migrate"]
    release: Sha


@dataclass(frozen=True, slots=True, kw_only=True)
class SealBuild:
    """A build job ended well: walk what it made like a git tree, sync it, write its marker last.
    A refusal is a verdict of kind `checkout`."""

    slot: SlotName
    generation: int
    release: Sha


@dataclass(frozen=True, slots=True, kw_only=True)
class StartInstance:
    """Start the backend of the run, or of what `live` names, on that colour, with a fresh nonce."""

    slot: SlotName
    generation: int
    colour: Colour
    release: Sha


@dataclass(frozen=True, slots=True, kw_only=True)
class StopUnit:
    """Stop an instance or a job of this generation, and everything that it started; forget it once it ended.

    A later generation under the same unit name is not touched."""

    slot: SlotName
    unit: str
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartGate:
    """Begin the gate at the instance's own address (bounded thread)."""

    slot: SlotName
    generation: int
    release: Sha


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """Replace `live` by one rename under the slot's lock, fence and generation re-read inside it; then `current`."""

    slot: SlotName
    generation: int
    release: Sha
    colour: Colour | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOver:
    """Have the judge switch, where the release is of Oroboros itself: the process that judges it runs the one before.

    The judge restarts api and worker, waits for a finished tick of the new release, and else switches back."""

    slot: SlotName
    generation: int
    release: Sha
    colour: Colour | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StartWatch:
    """Begin to probe through surface and edge: `confirm` after 3 passes, `watch` until the window ends (bounded
    thread)."""

    slot: SlotName
    generation: int
    release: Sha


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchBack:
    """The window failed and what served before still can: make `live` say what it said then, by the same rename.
    The run that failed ends as `rolled_back`."""

    slot: SlotName
    #: The run whose window failed.
    generation: int
    #: The run whose release serves again.
    fallback: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeSlot:
    """Make `live` say free: the surface answers 503 with `X-Oroboros-Slot: free`."""

    slot: SlotName
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairCurrent:
    """Point `current` at what `live` names."""

    slot: SlotName
    release: Sha


@dataclass(frozen=True, slots=True, kw_only=True)
class EndOverride:
    """An order by hand has reached its end."""

    slot: SlotName
    id: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prune:
    """Take a release that retention lets go out of use: nothing chooses it any more, and housekeeping removes it."""

    release: Sha


@dataclass(frozen=True, slots=True, kw_only=True)
class DropBuild:
    """Take a build out of use whose release is gone: it loses its name at once, and housekeeping removes it."""

    slot: SlotName
    domain: Domain
    name: str


Step = (
    ClaimSlot
    | EndLease
    | RenewLease
    | ProvisionSlot
    | WipeSlot
    | BeginRun
    | AdvanceRun
    | EndRun
    | Quarantine
    | Checkout
    | EnsureDatabase
    | StartJob
    | SealBuild
    | StartInstance
    | StopUnit
    | StartGate
    | Switch
    | StartWatch
    | SwitchBack
    | HandOver
    | FreeSlot
    | RepairCurrent
    | EndOverride
    | Prune
    | DropBuild
)

STEPS: Mapping[str, type[Step]] = {step.__name__: step for step in get_args(Step)}


def steps_to_json(steps: Iterable[Step]) -> list[dict[str, object]]:
    """Return steps as what `json.dumps` takes: one object each, its class under "step"."""
    return [{"step": type(step).__name__, **_fields_to_json(step)} for step in steps]


def steps_from_json(value: Iterable[Mapping[str, object]]) -> tuple[Step, ...]:
    """Return the steps that `steps_to_json` wrote; ValueError when it did not write them."""
    return tuple(_step_from_json(item) for item in value)


def _step_from_json(item: Mapping[str, object]) -> Step:
    name = item.get("step")
    if not isinstance(name, str) or name not in STEPS:
        raise ValueError(f"not a step: {name!r:.60}")
    make: Callable[..., Step] = STEPS[name]
    return make(**_arguments(STEPS[name], {key: value for key, value in item.items() if key != "step"}))


def _fields_to_json(value: object) -> dict[str, object]:
    assert is_dataclass(value)
    return {field.name: _to_json(getattr(value, field.name)) for field in fields(value)}


def _to_json(value: object) -> object:
    if is_dataclass(value):
        return _fields_to_json(value)
    return str(value) if isinstance(value, StrEnum) else value


def _arguments(kind: type, given: Mapping[str, object]) -> dict[str, object]:
    hints = get_type_hints(kind)
    if set(given) != set(hints):
        raise ValueError(f"{kind.__name__} has exactly the fields {sorted(hints)}, not {sorted(given)}")
    return {key: _from_json(hints[key], value, at=f"{kind.__name__}.{key}") for key, value in given.items()}


def _from_json(hint: object, value: object, *, at: str) -> object:
    if isinstance(hint, NewType):
        return _from_json(hint.__supertype__, value, at=at)
    if get_origin(hint) in (Union, types.UnionType):
        if value is None:
            return None
        return _from_json(next(part for part in get_args(hint) if part is not types.NoneType), value, at=at)
    if get_origin(hint) is Literal and value in get_args(hint):
        return value
    if isinstance(hint, type):
        if is_dataclass(hint) and isinstance(value, Mapping):
            return hint(**_arguments(hint, value))
        if issubclass(hint, StrEnum) and isinstance(value, str):
            return hint(value)
        if type(value) is hint:
            return value
    raise ValueError(f"{at}: {value!r:.60} is no {hint}")
