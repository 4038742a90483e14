"""Where do the daily summaries lie, which of them go, and how full is the disk?

A summary takes its name by one rename, synced: a reader finds yesterday's or today's, whole. The size of a folder is
what its files take on the disk, each once however many links it has; counting ends at its time limit.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from controller.decisions.daily import DiskFact
from controller.model.errors import Unavailable

_NAME = re.compile(r"daily-health-summary-[0-9]{8}\.json\Z")
#: What `st_blocks` counts in, whatever the disk's own blocks are (stat(2)).
BLOCK_BYTES = 512
#: Messages of runs may quote what an app wrote: not for everybody on the host.
FILE_MODE = 0o640
FOLDER_MODE = 0o755


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderSize:
    """What a folder takes on the disk."""

    size_bytes: int
    files: int
    #: False: something could not be read, or the time was up.
    complete: bool


def summary_name(day: date) -> str:
    """Return the file name of a day's summary."""
    return f"daily-health-summary-{day:%Y%m%d}.json"


def write_summary(folder: Path, day: date, text: str) -> Path:
    """Write a day's summary; return its path. Safe to repeat: the newest of a day replaces the others."""
    path = folder / summary_name(day)
    temporary = folder / f".{path.name}.{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    except OSError as error:
        raise Unavailable("SummaryNotWritten", f"{path} could not be written: {error.strerror or error}") from error
    return path


def remove_old_summaries(folder: Path, *, keep: int) -> int:
    """Remove all summaries but the newest `keep`, by their names; return how many. Safe to repeat."""
    old = sorted((entry.name for entry in os.scandir(folder) if _NAME.fullmatch(entry.name)), reverse=True)[keep:]
    for name in old:
        (folder / name).unlink(missing_ok=True)
    return len(old)


def measure_disk(path: Path) -> DiskFact:
    """Return how full the disk under a folder is, for whoever is not root."""
    found = os.statvfs(path)
    return DiskFact(
        free_bytes=found.f_bavail * found.f_frsize,
        total_bytes=found.f_blocks * found.f_frsize,
        free_inodes=found.f_favail,
        total_inodes=found.f_files,
    )


def measure_folder(path: Path, *, deadline_s: float) -> FolderSize:
    """Return what a folder takes, until `deadline_s` of the monotonic clock; nothing when it is not there."""
    seen: set[tuple[int, int]] = set()
    size_bytes, complete = 0, True
    folders = [os.fsencode(path)] if path.is_dir() else []
    while folders:
        if time.monotonic() > deadline_s:
            return FolderSize(size_bytes=size_bytes, files=len(seen), complete=False)
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    found = entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    if (found.st_dev, found.st_ino) not in seen:
                        seen.add((found.st_dev, found.st_ino))
                        size_bytes += found.st_blocks * BLOCK_BYTES
        except OSError:  # not ours to read, or gone since
            complete = False
    return FolderSize(size_bytes=size_bytes, files=len(seen), complete=complete)
