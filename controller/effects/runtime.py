"""How processes are run: the interface that the embedded supervisor and systemd both have.

A unit is a name from `model.names` (`main-a`, `build-preview-2`); what it may do belongs to its profile, of the same
name, which the runtime knows. Every call carries the generation: a late stop cannot hit the process of a newer run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from controller.decisions.drift import HostDrift
from controller.model.names import SlotName
from controller.model.nouns import PortFact, ProcessFact


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """What to run."""

    unit: str
    generation: int
    argv: tuple[str, ...]
    #: Absolute and resolved: an instance never follows a link that a later switch moves.
    working_directory: Path
    #: The runtime hands it on through a file that only the unit's user and we can read, never through argv.
    environment: Mapping[str, str]
    #: stdout and stderr together, appended, where the runtime has no journal; the runtime bounds its size.
    log_file: Path
    #: Hard limit of a job; None for an instance.
    time_limit_s: float | None = None
    #: Of a build: the release that `working_directory` is to be a private copy of.
    copy_of: Path | None = None


class Runtime(Protocol):
    """Raises `Unavailable` when the runtime itself does not answer."""

    def start(self, spec: ProcessSpec) -> None:
        """Start the unit. Safe to repeat: the same unit and generation is left as it is, running or ended; an older
        generation under that unit is stopped first."""

    def stop(self, unit: str, generation: int, *, grace_s: float) -> None:
        """Ask the unit of exactly this generation to end (TERM, then KILL after `grace_s`), with all that it started,
        and forget it once ended. Returns at once. Safe to repeat: unknown or newer generations are left alone."""

    def observe(self) -> tuple[ProcessFact, ...]:
        """Return every unit, running or ended and not yet forgotten, in one call."""

    def process_ids(self, unit: str, generation: int) -> frozenset[int]:
        """Return the ids of every process that the unit consists of; empty when it does not run."""

    def environment(self, unit: str) -> Mapping[str, str]:
        """Return the environment that was last ordered for the unit; empty when there is none."""

    def read_only_folder(self, unit: str) -> Path | None:
        """Return the folder that the unit was last ordered to run in, where the runtime keeps it from writing there;
        None elsewhere, and when there is no order."""

    def strangers_at(self, unit: str, generation: int, address: str) -> str | None:
        """Return who else than the unit listens at the address, "" when only it does, None when nobody listens."""

    def taken_ports(self) -> tuple[PortFact, ...]:
        """Return the ports of this stack that other processes than its own parts listen on. Quick."""

    def listeners(self, unit: str, generation: int) -> tuple[str, ...]:
        """Return every TCP address at which the unit's own processes listen, `127.0.0.1:8200` or `[::1]:8200`, in
        order; () when it listens nowhere, or does not run."""

    def has_own_network(self, unit: str) -> bool:
        """Say whether the unit has a network of its own, so that only it can answer at its address."""

    def error_line(self, unit: str, generation: int) -> str:
        """Return the line that names the error in the unit's log, or its last; visible, bounded, without secrets; ""
        when there is none."""

    def last_log_lines(self, unit: str, generation: int, *, lines: int) -> tuple[str, ...]:
        """Return the last lines that the unit wrote, bounded; () when there are none. For threads."""

    def provision(self, slot: SlotName) -> None:
        """Make the slot's data folder, empty, for whoever runs there. May take long: for threads. Safe to repeat."""

    def wipe(self, slot: SlotName, folders: Sequence[Path]) -> None:
        """Remove folders that units of the slot wrote, and its data folder's content, and forget its environments.

        `Unavailable` when something stays. May take long: for threads. Safe to repeat."""

    def discard(self, slot: SlotName, builds: Sequence[Path]) -> None:
        """Remove builds that units of the slot wrote. `Unavailable` when something stays. May take long: for threads.
        Safe to repeat."""

    def open_to_surface(self, folder: Path) -> None:
        """Let the slots' surfaces read a release or a build. Safe to repeat."""

    def look_at_host(self) -> HostDrift:
        """Return what of root's is not as it was installed: units, files, ports. May take a second: for threads."""

    def start_judge(self) -> None:
        """Have the judge take up its order; one that runs is left alone."""

    def restart_control_plane(self) -> None:
        """Have api and worker started anew: they run what production serves. Returns at once."""

    def reopen_api_port(self) -> None:
        """Have the api's port listened on again, which another process had."""

    def control_plane_restarts(self) -> int:
        """Return how often api and worker were started anew since they were last ordered to, because they ended."""

    def limitations(self) -> tuple[str, ...]:
        """Return, a sentence each, the walls of the profiles that this runtime cannot enforce."""

    def watch(self, ring: Callable[[], None]) -> None:
        """Call `ring` from a thread of its own whenever a unit ends, for as long as this process lives."""
