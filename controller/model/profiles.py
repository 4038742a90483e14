"""Which walls does each unit want around it? One table, which every runtime reads and enforces as far as it can."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_MIB = 1 << 20
_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What an instance or a job may take and reach."""

    memory_bytes_max: int
    tasks_max: int
    #: Of the processor and of the disk, where both are short; production's is 100.
    weight: int
    #: The same for a runtime that has only nice(1) and the order in which the kernel kills.
    niceness: int
    oom_score_adjust: int
    open_files_max: int = 4_096
    #: One file, not all.
    file_bytes_max: int = 4 * _GIB
    #: A user of its own, who shares no file with other slots or with the control plane.
    own_user: bool = True
    #: False: its network reaches neither the control plane's ports nor other slots'.
    reaches_control_plane: bool = False


PRODUCTION = Profile(memory_bytes_max=2 * _GIB, tasks_max=1_024, weight=100, niceness=0, oom_score_adjust=0)
PREVIEW = Profile(memory_bytes_max=512 * _MIB, tasks_max=256, weight=50, niceness=5, oom_score_adjust=500)
#: Also production's: it must not slow down what serves.
BUILD = Profile(memory_bytes_max=2 * _GIB, tasks_max=1_024, weight=20, niceness=10, oom_score_adjust=700)


@dataclass(frozen=True, slots=True, kw_only=True)
class Walls:
    """`[walls]`: what the units of slots may take and reach, where an app needs more than they have by default.

    Takes effect at install, on a host; a stack of `oroboros up` keeps the defaults."""

    #: Of one instance, and of one preview's; of one build or migration.
    production_memory_bytes: int = PRODUCTION.memory_bytes_max
    preview_memory_bytes: int = PREVIEW.memory_bytes_max
    build_memory_bytes: int = BUILD.memory_bytes_max
    #: Processes and threads, of the same.
    production_tasks: int = PRODUCTION.tasks_max
    preview_tasks: int = PREVIEW.tasks_max
    build_tasks: int = BUILD.tasks_max
    #: Of one process, whichever: files that are open at a time, and bytes of one file.
    open_files: int = PRODUCTION.open_files_max
    file_bytes: int = PRODUCTION.file_bytes_max
    #: "none": a preview has a network of its own with nothing in it. "host": it shares the host's, loopback and all.
    preview_network: Literal["none", "host"] = "none"
    #: "internet": a build reaches all but loopback, private networks and the cloud's own addresses.
    build_network: Literal["internet", "none"] = "internet"
    #: "service": the calls that services need. "any": what some runtimes need beyond, such as their own sandboxes.
    system_calls: Literal["service", "any"] = "service"
    #: Netlink sockets, by which a process asks for the network's interfaces.
    netlink: bool = False
    #: "own": of /proc only the process's own. "all": also what it says of the machine, its memory and processors.
    proc: Literal["own", "all"] = "own"


def profile_of(unit: str) -> Profile:
    """Return the profile of a unit, whose name is one of `names.instance_unit` or `names.job_unit`."""
    kind, _, rest = unit.partition("-")
    if kind == "build":
        return BUILD
    slot = rest if kind in ("migrate", "seed") else unit
    return PRODUCTION if slot.partition("-")[0] == "main" else PREVIEW
