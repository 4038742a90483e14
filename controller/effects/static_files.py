"""Which files of a static folder are compared with what their URLs answer, what do they hold, and which hold nothing?

A few, in a stable order, and of each its first bytes within a bound: what was not read is not judged. A file counts
when the surface would answer with it, so not one that is hidden. The page of a folder is asked for under the folder.

git holds a pointer of some lines in place of each file that Git LFS keeps elsewhere. A page shows it as a broken image,
and no probe sees that: the file is there, with the bytes that git has.
https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from controller.decisions.assets import may_be_served
from controller.decisions.surfaces import INDEX_NAME
from controller.decisions.tree_rules import visible

#: How many files are compared.
SAMPLES_MAX = 3
#: Of each: 1 MiB. Its whole length is compared too, as the surface declares it.
COMPARED_BYTES_MAX = 1 << 20
#: For asking for one: the surface reads it from the disk.
COMPARE_TIMEOUT_S = 5.0
#: The specification: a pointer has fewer than 1024 bytes.
POINTER_BYTES_MAX = 1_024
POINTERS_NAMED_MAX = 3
#: Before version 1 the address in the first line was another one. A checkout on Windows may have changed line ends.
_POINTER = re.compile(
    rb"version https?://[!-~]{1,200}\r?\n(?:ext-[0-9]-[!-~]{1,100} [!-~]{1,200}\r?\n){0,9}"
    rb"oid (?:sha256:)?[0-9a-f]{64}\r?\nsize [0-9]{1,20}(?:\r?\n)?\Z"
)


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


def describe_pointers(*, static: Path | None, called: str, started: Path | None, tree: Path) -> str:
    """Return how many pointers of Git LFS stand where content should, and the first of them; "" for none.

    Below `static`, which messages call `called`, each that is served counts. In `started`, the folder of a process,
    each counts that `tree` (the release as git holds it) has and no build replaced: a process may read what lies
    beside it."""
    found: set[str] = set()
    if static is not None:
        below = "" if called == "." else f"{called}/"
        found |= {below + name for name in _pointers_below(static) if may_be_served(name)}
    if started is not None:
        found |= {name for name in _pointers_below(tree) if _is_pointer(started / name)}
    named = [visible(os.fsencode(name)) for name in sorted(found)[:POINTERS_NAMED_MAX]]
    more = [f"{len(found) - len(named):,} more"] if len(found) > len(named) else []
    return " and ".join([", ".join(named), *more]) if named else ""


def _pointers_below(root: Path) -> Iterator[str]:
    return (os.fsdecode(relative) for path, relative in _files_below(root) if _is_pointer(path))


def _is_pointer(path: Path) -> bool:
    try:
        if path.stat().st_size > POINTER_BYTES_MAX:
            return False
        with path.open("rb") as file:
            return _POINTER.match(file.read(POINTER_BYTES_MAX + 1)) is not None
    except OSError:
        return False  # what cannot be read is judged elsewhere


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
