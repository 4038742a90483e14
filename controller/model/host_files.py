"""A file that a host gets from its installation, as data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFile:
    """One file of the host, whole."""

    path: Path
    text: str
    mode: int = 0o644
    owner: str = "root"
    group: str = "root"
    #: Written once: one that is there already stays as it is.
    keep: bool = False
