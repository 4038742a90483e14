"""A file that a host gets from its installation, as data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFile:
    """One file of the host, whole."""

    path: Path
    text: str
    mode: int = 0o644
    owner: str = "root"
    group: str = "root"
    #: What stays of a file that is there already: the lines of an env file that are not ours, or all of it.
    keep: Literal["nothing", "additions", "all"] = "nothing"
