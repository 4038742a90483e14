"""How processes are run: the interface that the embedded supervisor and systemd both have.

A unit is a name from `model.names` (`main-a`, `build-preview-2`); what it may do belongs to its profile, of the same
name, which the runtime knows. Every call carries the generation: a late stop cannot hit the process of a newer run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from controller.model.nouns import ProcessFact


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """What to run. The environment is a file (0600), so that no secret travels in argv or through the protocol."""

    unit: str
    generation: int
    argv: tuple[str, ...]
    #: Absolute and resolved: an instance never follows a link that a later switch moves.
    working_directory: Path
    environment_file: Path
    #: stdout and stderr together, appended; the runtime bounds its size.
    log_file: Path
    #: Hard limit of a job; None for an instance.
    time_limit_s: float | None = None


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

    def limitations(self) -> tuple[str, ...]:
        """Return, a sentence each, the walls of the profiles that this runtime cannot enforce."""

    def watch(self, ring: Callable[[], None]) -> None:
        """Call `ring` from a thread of its own whenever a unit ends, for as long as this process lives."""
