"""Which files of a static folder are compared with what their URLs answer, and what do they hold?

A few, in a stable order, and of each its first bytes within a bound: what was not read is not judged. A file counts
when the surface would answer with it, so not one that is hidden. The page of a folder is asked for under the folder.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from controller.decisions.assets import may_be_served
from controller.decisions.surfaces import INDEX_NAME

#: How many files are compared.
SAMPLES_MAX = 3
#: Of each: 1 MiB. Its whole length is compared too, as the surface declares it.
COMPARED_BYTES_MAX = 1 << 20
#: For asking for one: the surface reads it from the disk.
COMPARE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticFile:
    """A file of a static release: what its URL must answer."""

    url_path: str
    size_bytes: int
    #: Of its first `COMPARED_BYTES_MAX` bytes, in hex.
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticSample:
    """What was found below a static root."""

    files: tuple[StaticFile, ...] = ()
    #: Why there are none; "" when there are some.
    problem: str = ""


def sample_static_files(root: Path, *, called: str) -> StaticSample:
    """Return the first files below a static root that a surface would serve; `called` names the folder in messages."""
    if not root.is_dir():
        return StaticSample(problem=f"the release has no folder {called}")
    found: list[StaticFile] = []
    hidden, unreadable = 0, ""
    for path, relative in _files_below(root):
        if not may_be_served(os.fsdecode(relative)):
            hidden += 1
            continue
        try:
            size_bytes, sha256 = _read(path)
        except OSError as error:
            unreadable = f"{os.fsdecode(relative)!r:.100}: {error.strerror}"
            continue
        folder, _, name = relative.rpartition(b"/")
        if name == INDEX_NAME.encode():
            relative = folder + b"/" if folder else b""
        found.append(StaticFile(url_path="/" + quote(relative), size_bytes=size_bytes, sha256=sha256))
        if len(found) == SAMPLES_MAX:
            break
    if found:
        return StaticSample(files=tuple(found))
    if unreadable:
        return StaticSample(problem=f"no file in {called} can be read: {unreadable}")
    if hidden:
        return StaticSample(problem=f"none of the {hidden} files in {called} is served: names with a dot are hidden")
    return StaticSample(problem=f"there is no file in {called}")


def _files_below(root: Path) -> Iterator[tuple[Path, bytes]]:
    """Yield every regular file with its path below the root, links followed as the surface follows them, the files of
    a folder before its folders; a folder that links lead to again is entered once."""
    seen: set[tuple[int, int]] = set()
    pending = [b""]
    while pending:
        folder = pending.pop()
        try:
            at = os.stat(os.path.join(os.fsencode(root), folder))
            names = sorted(os.listdir(os.path.join(os.fsencode(root), folder)), key=_page_first)
        except OSError:
            continue
        if (at.st_dev, at.st_ino) in seen:
            continue
        seen.add((at.st_dev, at.st_ino))
        folders: list[bytes] = []
        for name in names:
            relative = folder + b"/" + name if folder else name
            path = os.path.join(os.fsencode(root), relative)
            try:
                mode = os.stat(path).st_mode
            except OSError:
                continue  # a link that leads nowhere
            if stat.S_ISDIR(mode):
                folders.append(relative)
            elif stat.S_ISREG(mode):
                yield Path(os.fsdecode(path)), relative
        pending += reversed(folders)


def _page_first(name: bytes) -> tuple[bool, bytes]:
    return name != INDEX_NAME.encode(), name


def _read(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest, left = hashlib.sha256(), COMPARED_BYTES_MAX
        while left and (piece := file.read(min(left, 1 << 16))):
            digest.update(piece)
            left -= len(piece)
        return os.fstat(file.fileno()).st_size, digest.hexdigest()
