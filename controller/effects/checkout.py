"""How does a build get files of its own, and when may what it made be used?

A release is shared and read-only; a build writes. So a build gets a private copy of the release, at the path where its
outcome will stay (a moved venv is broken). When it has ended well, what it made is walked like a git tree, synced, and
sealed by a marker that is written last. The marker lies beside the folder, out of the build's own reach.

Safe to repeat: a copy without a marker is begun again; a sealed one is left alone. Nothing here recurses: a build may
nest folders as deep as it likes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from controller.decisions.assets import may_be_served
from controller.decisions.tree_rules import visible
from controller.disk import opened_folder, remove_tree, sync_files, sync_folder
from controller.failpoints import failpoint
from controller.model.errors import Failed, Unavailable
from controller.model.names import BUILD_SEALED, Domain, Layout, TreeId, build_marker
from controller.model.nouns import BuildFolder

#: What one build may leave; more is a mistake, and would be ours to sync and remove.
ENTRIES_MAX: Final = 1_000_000
DEPTH_MAX: Final = 200
_LINK_STEPS_MAX: Final = 40
_FICLONE: Final = 0x40049409
_COPY_BYTES: Final = 1 << 20
_FOLDER_MODE: Final = 0o755
#: Begins the name of a build that was taken out of use.
_SET_ASIDE: Final = ".gone-"
_DIGEST_END: Final = 1 << 256
#: Programs that a link in a build may name: interpreters, by the names under which systems install them.
_INTERPRETER: Final = re.compile(
    rb"(?:python|pypy|node|nodejs|deno|bun|ruby|jruby|php|perl|lua|luajit|java|erl|escript|elixir|dotnet|guile|tclsh"
    rb"|Rscript|R|bash|dash|sh|env)[0-9.]*(?:-config)?"
)
_LINK_HINT: Final = "; make it a copy, or a link to something inside the build"
_PROBLEMS_NAMED_MAX: Final = 4
#: Of what was changed, so many are named.
_NAMED_MAX: Final = 20
_NO_CLONE: Final = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a build made."""

    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class _Thing:
    """One thing below a folder, by its path relative to that folder."""

    path: bytes
    status: os.stat_result


def is_sealed(path: Path) -> bool:
    """Say whether a build is whole and may be used."""
    return build_marker(path).is_file() and path.is_dir()


def copy_for_build(release: Path, destination: Path) -> None:
    """Make `destination` a private, writable copy of a release; a sealed one is left as it is.

    Safe to repeat: what an earlier, unfinished build left there is removed first. Unavailable when the disk refuses.
    """
    if is_sealed(destination):
        return
    target = os.fsencode(destination)
    try:
        remove_build(destination)
        os.makedirs(destination.parent, exist_ok=True)
        os.mkdir(target)
        os.chmod(target, _FOLDER_MODE)
    except OSError as error:
        raise _disk_at_fault(error, f"{destination} could not be made") from error
    fill_for_build(release, destination)


def fill_for_build(release: Path, destination: Path) -> None:
    """Copy a release, writable, into an empty folder. Unavailable when the disk refuses."""
    source, target = os.fsencode(release), os.fsencode(destination)
    try:
        for thing in _walk(source):
            here = target + b"/" + thing.path
            mode = thing.status.st_mode
            if stat.S_ISDIR(mode):
                os.mkdir(here)
                os.chmod(here, _FOLDER_MODE)
            elif stat.S_ISLNK(mode):
                os.symlink(os.readlink(source + b"/" + thing.path), here)
            else:
                _copy_file(source + b"/" + thing.path, here, mode=0o755 if mode & 0o111 else 0o644)
    except OSError as error:
        raise _disk_at_fault(error, f"{destination} could not be made") from error


def walk_build(path: Path, *, served: str | None = ".") -> Built:
    """Judge what a build made; Failed with all that is wrong with it, the first few by name.

    A link is judged where it is used. `served` is the folder whose files go to visitors (None: none do): what is served
    never leads out of the build. Elsewhere a link may also name an interpreter of the host, as those of a virtual
    environment do. A link to an absolute path inside the build is well, since a build never moves. One that names
    nothing is too.
    """
    top = os.fsencode(path)
    # A build that asks where it is may be told another name of the same folder.
    tops = (top, os.path.realpath(top))
    shown = _served_folder(top, served)
    problems = _Problems()
    files = total_bytes = entries = 0
    #: Inodes of files that have several names: each counts once.
    counted: set[int] = set()
    try:
        for thing in _walk(top):
            entries += 1
            if entries > ENTRIES_MAX:
                raise Failed("BuildTooLarge", f"the build made more than {ENTRIES_MAX:,} files and folders")
            if thing.path.count(b"/") > DEPTH_MAX:
                raise Failed("BuildTooDeep", f"the build nests folders more than {DEPTH_MAX} deep")
            mode = thing.status.st_mode
            if stat.S_ISLNK(mode):
                problems.add(_judge_link(tops, thing.path, is_served=_is_served(thing.path, shown)))
            elif stat.S_ISREG(mode):
                files += 1
                if thing.status.st_nlink == 1 or thing.status.st_ino not in counted:
                    total_bytes += thing.status.st_size
                if thing.status.st_nlink > 1:
                    counted.add(thing.status.st_ino)
            elif not stat.S_ISDIR(mode):
                problems.add(Failed("BuildHasSpecialFile", f"{visible(thing.path)}, a device, pipe or socket"))
            if not stat.S_ISLNK(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
                problems.add(Failed("BuildHasSetuid", f"{visible(thing.path)} set-uid or set-gid"))
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise Failed("BuildTooDeep", "the build made a path that is longer than the system allows") from error
        raise _disk_at_fault(error, f"{path} could not be read") from error
    problems.refuse()
    return Built(files=files, bytes=total_bytes)


@dataclass(slots=True)
class _Problems:
    """What is wrong with a build: how much, and the first few."""

    count: int = 0
    first: list[Failed] = field(default_factory=list)

    def add(self, problem: Failed | None) -> None:
        if problem is not None:
            self.count += 1
            self.first += [problem] * (len(self.first) < _PROBLEMS_NAMED_MAX)

    def refuse(self) -> None:
        """Raise Failed under the first reason, if there is a problem."""
        if not self.first:
            return
        told = "; ".join(problem.message for problem in self.first)
        more = f"; and {self.count - len(self.first):,} more" if self.count > len(self.first) else ""
        hint = _LINK_HINT if any(problem.reason == "BuildLinkLeaves" for problem in self.first) else ""
        raise Failed(self.first[0].reason, f"the build made {told}{more}{hint}")


def seal_build(path: Path, *, served: str | None = ".") -> Built:
    """Judge a build as `walk_build` does, sync it, and write its marker, last. Safe to repeat."""
    built = walk_build(path, served=served)
    if is_sealed(path):
        return built
    top = os.fsencode(path)
    try:
        folders, files, digest = [top], [], 0
        for thing in _walk(top):
            digest = (digest + _digest(top, thing)) % _DIGEST_END
            if stat.S_ISDIR(thing.status.st_mode):
                folders.append(top + b"/" + thing.path)
            elif stat.S_ISREG(thing.status.st_mode):
                files.append(top + b"/" + thing.path)
        sync_files(files)
        for folder in reversed(folders):
            sync_folder(folder)
        failpoint("seal.before_marker")
        pending = path.with_name(f".{path.name}.sealing")
        with pending.open("w") as file:
            marked = {"files": built.files, "bytes": built.bytes, "digest": f"{digest:064x}", "sealed_at": time.time()}
            json.dump(marked, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(pending, build_marker(path))
        sync_folder(os.fsencode(path.parent))
        failpoint("seal.after_marker")
    except OSError as error:
        raise _disk_at_fault(error, f"{path} could not be sealed") from error
    return built


def changed_since_sealed(path: Path) -> tuple[str, ...]:
    """Return what of a sealed build is not, by name, mode, size and time, what was sealed; () when all of it is.

    Cheap, one lstat a file. The first few are named. Nothing is said of a build that is not sealed, or was before
    digests were kept. Unavailable when it cannot be read."""
    top = os.fsencode(path)
    try:
        marked = json.loads(build_marker(path).read_text())
        digest, changed, changes = 0, list[str](), 0
        for thing in _walk(top):
            digest = (digest + _digest(top, thing)) % _DIGEST_END
            # Nobody sets this time at will; it is that of the inode, which renaming or linking changes too.
            if thing.status.st_ctime > marked["sealed_at"] and not stat.S_ISDIR(thing.status.st_mode):
                changes += 1
                changed += [visible(thing.path)] * (changes <= _NAMED_MAX)
    except FileNotFoundError:
        return ()
    except (KeyError, TypeError, ValueError) as error:
        raise Unavailable("BuildUnreadable", f"{build_marker(path)} is not as we wrote it") from error
    except OSError as error:
        raise _disk_at_fault(error, f"{path} could not be read") from error
    if f"{digest:064x}" == marked.get("digest", f"{digest:064x}"):
        return ()
    return tuple(changed) or ("something of it is gone",)


def _digest(top: bytes, thing: _Thing) -> int:
    """Return a number for one thing; the sum of all, in whatever order they come, tells one build from another."""
    status = thing.status
    said = b"%s\0%o" % (thing.path, status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        said += b"\0" + os.readlink(top + b"/" + thing.path)
    elif not stat.S_ISDIR(status.st_mode):
        said += b"\0%d\0%d" % (status.st_size, status.st_mtime_ns)
    return int.from_bytes(hashlib.sha256(said).digest(), "big")


def list_builds(layout: Layout) -> tuple[BuildFolder, ...]:
    """Return every folder of builds that has a name of its own; () when there is none."""
    return tuple(
        BuildFolder(domain=Domain(domain.name), name=name)
        for domain in _folders_of(layout.builds)
        for name in sorted(path.name for path in _folders_of(domain) if not path.name.startswith("."))
    )


def built_bytes(layout: Layout) -> dict[TreeId, int]:
    """Return how many bytes builds made of each tree, in all domains, by what was noted when they were sealed: files
    with several names once, and blocks that are shared by reflinks in full. One that is not sealed is left out."""
    found: dict[TreeId, int] = {}
    for build in list_builds(layout):
        try:
            marked = json.loads(build_marker(layout.builds / build.domain / build.name).read_text())
            found[build.tree] = found.get(build.tree, 0) + int(marked["bytes"])
        except (OSError, KeyError, TypeError, ValueError):
            continue
    return found


def set_aside_build(path: Path) -> None:
    """Take a build's name away, at once; `list_set_aside` finds what is left of it.

    The marker goes first: killed in between, it is a build that was never finished. Safe to repeat."""
    try:
        build_marker(path).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            os.rename(path, path.with_name(f"{_SET_ASIDE}{secrets.token_hex(6)}"))
    except OSError as error:
        raise _disk_at_fault(error, f"{path} could not be taken out of use") from error


def list_set_aside(layout: Layout) -> tuple[Path, ...]:
    """Return the folders of builds that lost their name; files beside builds that are gone are removed on the way."""
    found: list[Path] = []
    for domain in _folders_of(layout.builds):
        present = {path.name for path in _folders_of(domain)}
        found += [domain / name for name in sorted(present) if name.startswith(_SET_ASIDE)]
        with suppress(FileNotFoundError), os.scandir(domain) as entries:
            for entry in entries:
                name = entry.name.removesuffix(BUILD_SEALED).removesuffix(".sealing")
                if entry.is_file(follow_symlinks=False) and not {name, name.removeprefix(".")} & present:
                    Path(entry.path).unlink(missing_ok=True)
    return tuple(found)


def _folders_of(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def remove_build(path: Path) -> None:
    """Remove a build and its marker, the marker first. Safe to repeat; nothing when they are not there."""
    try:
        if build_marker(path).exists():
            build_marker(path).unlink(missing_ok=True)
            sync_folder(os.fsencode(path.parent))
        remove_tree(os.fsencode(path))
    except OSError as error:
        raise _disk_at_fault(error, f"{path} could not be removed") from error


def _disk_at_fault(error: OSError, what: str) -> Unavailable:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return Unavailable("DiskFull" if full else "DiskRefused", f"{what}: {error.strerror or error}")


def _walk(top: bytes) -> Iterator[_Thing]:
    """Give everything below `top`, folders before what is in them. Follows no link and holds one folder open."""
    pending = [b""]
    while pending:
        folder = pending.pop()
        inside = folder + b"/" if folder else b""
        with opened_folder(top + b"/" + folder if folder else top) as descriptor, os.scandir(descriptor) as entries:
            for entry in entries:
                thing = _Thing(inside + os.fsencode(entry.name), entry.stat(follow_symlinks=False))
                yield thing
                if stat.S_ISDIR(thing.status.st_mode):
                    pending.append(thing.path)


def _served_folder(top: bytes, served: str | None) -> bytes | None:
    """Return the folder that is served by its path below `top`, b"" for the top itself, None for none.

    It may be a link to another folder of the build (`dist -> .output/public`); Failed when it leads out of it."""
    if served is None:
        return None
    real, folder = os.path.realpath(top), os.path.realpath(os.path.join(top, os.fsencode(served)))
    if folder != real and not folder.startswith(real + b"/"):
        raise Failed("BuildLinkLeaves", f"[web] static: the build made {visible(os.fsencode(served))} lead out of it")
    return folder[len(real) :].lstrip(b"/")


def _is_served(path: bytes, served: bytes | None) -> bool:
    """Say whether visitors get what lies at `path`: it is below the served folder, and not hidden there."""
    if served is None:
        return False
    inside = served + b"/" if served else b""
    return path.startswith(inside) and may_be_served(os.fsdecode(path[len(inside) :]))


def _judge_link(tops: tuple[bytes, bytes], path: bytes, *, is_served: bool) -> Failed | None:
    """Return what is wrong with the link at `path`; None when it is well.

    `tops` are the build's folder, by the name that we give it and by its real one."""
    top = tops[0]
    parts = path.split(b"/")
    #: Where we are, below top, with no link in it; and the steps still to take.
    here, steps = parts[:-1], [parts[-1]]
    followed, target = 0, b""
    while steps:
        step = steps.pop(0)
        if step in (b"", b"."):
            continue
        if step == b"..":
            if not here:
                outside = os.path.normpath(b"/".join([top, b"..", *steps]))
                return _leaves(path, target, outside, top, is_served=is_served)
            here.pop()
            continue
        at = b"/".join([top, *here, step])
        try:
            target = os.readlink(at)
        except OSError:
            here.append(step)  # no link, or nothing at all
            continue
        followed += 1
        if followed > _LINK_STEPS_MAX:
            if not is_served:
                return None  # it leads nowhere, and nobody is sent there
            return Failed("BuildLinkEndless", f"{visible(path)}, a link that leads nowhere")
        if target.startswith(b"/"):
            inside = next((name for name in tops if target == name or target.startswith(name + b"/")), None)
            if inside is None:
                return _leaves(path, target, os.path.normpath(b"/".join([target, *steps])), top, is_served=is_served)
            here, target = [], target[len(inside) :]
        steps = target.split(b"/") + steps
    return None


def _leaves(path: bytes, target: bytes, outside: bytes, top: bytes, *, is_served: bool) -> Failed | None:
    """Return what is wrong with a link that leaves the build for the absolute path `outside`."""
    if not is_served and _is_host_interpreter(outside, top):
        return None
    where = " and would be served" if is_served else ""
    return Failed("BuildLinkLeaves", f"{visible(path)}, a link that leaves it (to {visible(target)}){where}")


def _is_host_interpreter(path: bytes, top: bytes) -> bool:
    """Say whether a path is a program of the host that runs others' code: by its name, in a folder of programs, there,
    and not in a folder of ours, where it is another slot's or does not outlive the build."""
    folder, _, name = path.rpartition(b"/")
    ours = os.path.realpath(os.path.join(top, b"../../.."))
    return (
        _INTERPRETER.fullmatch(name) is not None
        and folder.rpartition(b"/")[2] in (b"bin", b"sbin")
        and not os.path.realpath(path).startswith(ours + b"/")
        and os.access(path, os.X_OK)
    )


def _copy_file(source: bytes, target: bytes, *, mode: int) -> None:
    """Copy one file, sharing its blocks where the file system can."""
    reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.ioctl(writing, _FICLONE, reading)
            except OSError as error:
                if error.errno not in _NO_CLONE:
                    raise
                while os.sendfile(writing, reading, None, _COPY_BYTES):
                    pass
            os.fchmod(writing, mode)
        finally:
            os.close(writing)
    finally:
        with suppress(OSError):
            os.close(reading)
