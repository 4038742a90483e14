"""How does a commit become `releases/<sha>`, whole or not at all, and how is it known to be whole later?

A release is git's bytes and nothing else: files 0444 or 0555, folders 0555, links as they are. It is judged before
anything is written, written under a temporary name, synced, and published by one rename. Rules:

1. Nothing in `releases/` but a folder named by a commit is a release. Temporary folders begin with a dot and are
   locked by who writes them, so that those of a dead worker can be told and swept.
2. A file whose blob and mode are those of the neighbour's file at the same path, and which lies there as it was
   published, is a hard link to it. At the file system's limit of links it is a fresh copy.
3. The manifest lies beside the release and is renamed into place before it; both renames happen under one lock.
4. Order: new files and manifest synced, then the release's top folder, then the renames, then `releases/`.
5. Filters, attributes, line endings and identities do not exist here: blobs are written as they are.

The manifest is ours: it makes publishing cheap and says what was published. Whether a release is right is asked of
git (`verify_release`), never of the manifest. This module knows nothing of slots, builds or what serves.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from controller.decisions.tree_rules import (
    Objects,
    PlannedFile,
    PlannedFolder,
    PlannedLink,
    Source,
    Total,
    TreePlan,
    judge_tree,
    visible,
)
from controller.disk import opened_folder, remove_tree, sync_files, sync_folder
from controller.failpoints import failpoint
from controller.model.config import TreeLimits
from controller.model.errors import Unavailable
from controller.model.names import Layout, Sha, TreeId, parse_sha
from controller.model.nouns import Head

FILE_MODE: Final = 0o444
EXECUTABLE_MODE: Final = 0o555
FOLDER_MODE: Final = 0o555
#: Of a release's own folder on a host: its access list says who else may enter.
CLOSED_FOLDER_MODE: Final = 0o550
_HEADER: Final = b"oroboros-manifest 1"
_TEMPORARY: Final = ".tmp-"
_SPARE: Final = ".spare-"
#: The newest ones; each costs its folders, and a name of every file.
SPARES_MAX: Final = 2
#: Two are quicker than one, since folders are locked one by one; more are not [measured on ext4].
_THREADS: Final = 2
_PER_THREAD: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRelease:
    """A release that is on the disk, and what it cost."""

    sha: Sha
    tree: TreeId
    files: int
    bytes: int
    #: Files that are hard links to the neighbour's.
    linked: int
    #: Spent writing, and spent waiting for the disk.
    write_s: float = 0.0
    sync_s: float = 0.0


class Damage(StrEnum):
    """What can be wrong with something of a release."""

    MISSING = "missing"
    EXTRA = "extra"
    CONTENT = "content"
    MODE = "mode"
    KIND = "kind"
    TARGET = "target"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One difference between a release and its commit. `path` is relative and made visible; "" is the top."""

    path: str
    damage: Damage
    message: str


def publish_release(
    source: Source, layout: Layout, sha: Sha, *, limits: TreeLimits, neighbour: Sha | None, is_built: bool = False
) -> PublishedRelease:
    """Make `releases/<sha>` be the commit's tree, durable. `is_built`: a build may make later what links name.

    Failed when the tree may not be written: then nothing was. Unavailable when the mirror or the disk is at fault: then
    `releases/` is as it was. Safe to repeat, also while another does the same: what is there already is kept, and one
    of two wins. Killed at any point, it is either there and whole, or not there.
    """
    sha = parse_sha(sha)
    head = source.head(sha)
    if head is None:
        raise Unavailable("CommitMissing", f"the mirror does not hold the commit {sha}")
    present = _read_published(layout, sha)
    if present is not None:
        return present
    if layout.release(sha).is_dir():
        # Whole, since it has its name, but its manifest was lost.
        return _restore(source, layout, head, limits)
    known = _load_manifest(layout, neighbour) if neighbour is not None and neighbour != sha else _Manifest.empty()
    return _write_release(source, layout, head, limits, known, neighbour=neighbour, replace=False, is_built=is_built)


def repair_release(source: Source, layout: Layout, sha: Sha, *, limits: TreeLimits) -> tuple[Problem, ...]:
    """Verify a release that was published; check it out again, every byte from git, if it is not whole.

    Returns what was wrong. One that is whole, but whose files are not those that its manifest names (somebody wrote the
    same bytes again), gets a manifest that names them. Safe to repeat: the damaged one stays until a whole one takes
    its name.
    """
    problems = verify_release(source, layout, sha)
    head = source.head(sha)
    if head is not None:
        if problems:
            _write_release(source, layout, head, limits, _Manifest.empty(), neighbour=None, replace=True)
        elif changed_inodes(layout, sha):
            _restore_manifest(source, layout, head)
    return problems


def _restore(source: Source, layout: Layout, head: Head, limits: TreeLimits) -> PublishedRelease:
    """Write the lost manifest of a release that is whole, or write the release anew."""
    if verify_release(source, layout, head.sha):
        return _write_release(source, layout, head, limits, _Manifest.empty(), neighbour=None, replace=True)
    return _restore_manifest(source, layout, head)


def _restore_manifest(source: Source, layout: Layout, head: Head) -> PublishedRelease:
    """Write the manifest of a release that was just found whole."""
    with source.objects() as objects:
        plan = _judge(objects, head.tree, _UNLIMITED, _Manifest.empty(), may_dangle=True)
    top = os.fsencode(layout.release(head.sha)) + b"/"
    lines: list[bytes] = []
    try:
        for folder in sorted(plan.folders, key=lambda folder: _depth_first(folder.path)):
            lines.append(_folder_line(folder.tree, plan.totals[folder.tree], folder.path))
            inside = folder.path + b"/" if folder.path else b""
            lines += [_file_line(file, inside, os.lstat(top + inside + file.name)) for file in folder.files]
            lines += [_link_line(link, inside) for link in folder.links]
        with _temporary(layout, head.sha) as (path, _):
            manifest = _write_manifest(path, head.tree, lines, plan)
            sync_files([os.fsencode(manifest)])
            os.rename(manifest, layout.manifest(head.sha))
            sync_folder(str(layout.releases))
    except OSError as error:
        raise _disk_at_fault(error, f"the manifest of releases/{head.sha} could not be written") from error
    total = plan.total
    return PublishedRelease(sha=head.sha, tree=head.tree, files=total.files, bytes=total.bytes, linked=0)


def _write_release(
    source: Source,
    layout: Layout,
    head: Head,
    limits: TreeLimits,
    known: _Manifest,
    *,
    neighbour: Sha | None,
    replace: bool,
    is_built: bool = False,
) -> PublishedRelease:
    """Judge, write, sync and rename; with `replace`, what has the name already is moved out of the way."""
    sha = head.sha
    with source.objects() as objects:
        # What has the name already was let in, and by what rules it was is settled.
        plan = _judge(objects, head.tree, limits, known, may_dangle=is_built or replace)
    try:
        os.makedirs(layout.releases, exist_ok=True)
        with _temporary(layout, sha, spare=_spare(layout, neighbour) if known.files else None) as (path, is_spare):
            began_at = time.monotonic()
            writer = _Writer(
                os.fsencode(path),
                source,
                known,
                neighbour=os.fsencode(layout.release(neighbour or sha)),
                is_spare=is_spare,
            )
            writer.write(plan)
            os.chmod(path, _top_mode(layout))
            manifest = _write_manifest(path, head.tree, writer.manifest_lines(), plan)
            failpoint("publish.after_write")
            written_at = time.monotonic()
            writer.sync(manifest)
            synced_at = time.monotonic()
            failpoint("publish.after_sync")
            _commit(layout, sha, path, manifest, replace=replace)
    except OSError as error:
        raise _disk_at_fault(error, f"releases/{sha} could not be written") from error
    failpoint("publish.after_rename")
    published = _read_published(layout, sha)
    if published is None or published.tree != head.tree:
        raise Unavailable("ReleaseVanished", f"releases/{sha} is not there after it was published: who else writes?")
    return PublishedRelease(
        sha=sha,
        tree=published.tree,
        files=published.files,
        bytes=published.bytes,
        linked=writer.linked,
        write_s=written_at - began_at,
        sync_s=synced_at - written_at,
    )


def prepare_spare(layout: Layout, sha: Sha) -> bool:
    """Link a second copy of a release, for the next one that has it as its neighbour to be made of.

    Then publishing costs what changed, not what is there. For idle moments, after a release was published: nothing
    depends on it. False when the release is not as it was published. Safe to repeat.
    """
    sha = parse_sha(sha)
    manifest = _load_manifest(layout, sha, required=True)
    spare = str(layout.releases / f"{_SPARE}{sha}")
    if os.path.lexists(spare):
        return True
    try:
        with _temporary(layout, sha) as (path, _):
            source, target = os.fsencode(layout.release(sha)) + b"/", os.fsencode(path) + b"/"
            links: list[_Link] = []
            for folder, (_, lines) in manifest.folders.items():
                if folder:
                    os.mkdir(target + folder, 0o700)
                for line in lines:
                    name = line.split(b" ", 5)[5]
                    if line.startswith(b"120000 "):
                        os.symlink(os.readlink(source + name), target + name)
                    else:
                        links.append(_Link(source + name, target + name, line, [], 0))
            if _link_all(links):
                return False
            for folder in reversed(manifest.folders):
                os.chmod(target + folder, FOLDER_MODE)
            with _lock_releases(layout):
                if not os.path.lexists(spare):
                    os.rename(path, spare)
            _remove_old_spares(layout)
    except OSError as error:
        raise _disk_at_fault(error, f"a spare of releases/{sha} could not be made") from error
    return True


def _remove_old_spares(layout: Layout, *, of: Sha | None = None) -> None:
    """Remove all spares but the newest, or that of one release."""
    with _lock_releases(layout):
        with os.scandir(layout.releases) as entries:
            spares = [entry for entry in entries if entry.name.startswith(_SPARE)]
        if of is not None:
            old = [entry for entry in spares if entry.name == _SPARE + of]
        else:
            spares.sort(key=lambda entry: entry.stat(follow_symlinks=False).st_ctime_ns)
            old = spares[:-SPARES_MAX]
        for entry in old:
            # From here on it is a leftover, which the next publish sweeps.
            away = f"{_TEMPORARY}{entry.name.removeprefix(_SPARE)}-{secrets.token_hex(6)}"
            os.rename(entry.path, layout.releases / away)


def set_aside_release(layout: Layout, sha: Sha) -> None:
    """Take the name of a release away, at once, with its manifest and its spare; nothing when they are not there.

    Safe to repeat: it stops being a release by one rename, and `sweep_releases` removes what is left."""
    sha = parse_sha(sha)
    try:
        if not layout.releases.is_dir():
            return
        with _lock_releases(layout):
            away = layout.releases / f"{_TEMPORARY}{sha}-{secrets.token_hex(6)}"
            with contextlib.suppress(FileNotFoundError):
                os.rename(layout.release(sha), away)
                failpoint("remove.after_rename")
            layout.manifest(sha).unlink(missing_ok=True)
            sync_folder(str(layout.releases))
        failpoint("remove.before_delete")
        _remove_old_spares(layout, of=sha)
    except OSError as error:
        raise _disk_at_fault(error, f"releases/{sha} could not be removed") from error


def sweep_releases(layout: Layout, *, is_enough: Callable[[], bool] = lambda: False) -> bool:
    """Remove what lost its name in `releases/`, and what workers that died left. Safe beside others that publish.

    `is_enough` is asked before each folder; False when something is left because of it."""
    if not layout.releases.is_dir():
        return True
    with _lock_releases(layout):
        with os.scandir(layout.releases) as entries:
            every = list(entries)
        names = {entry.name for entry in every}
        for entry in every:
            # Of a release that was removed, or never got its name: both happen under this lock.
            if entry.name.endswith(".manifest") and entry.name.removesuffix(".manifest") not in names:
                os.unlink(entry.path)
    try:
        for entry in every:
            if not entry.name.startswith(_TEMPORARY) or not entry.is_dir(follow_symlinks=False):
                continue
            if is_enough():
                return False
            _remove_unless_written(entry.path)
    except OSError as error:
        raise _disk_at_fault(error, f"{layout.releases} could not be swept") from error
    return True


def _remove_unless_written(path: str) -> None:
    """Remove a temporary folder and its manifest, unless its writer lives, who holds its lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_tree(os.fsencode(path))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}.manifest")
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)


def verify_release(source: Source, layout: Layout, sha: Sha) -> tuple[Problem, ...]:
    """Compare every byte, mode and link of a release with the commit in the mirror; () when it is whole.

    The manifest is not believed: ids come from the mirror, content from the disk. Failed and Unavailable as for
    publishing, when the commit itself cannot be read.
    """
    sha = parse_sha(sha)
    head = source.head(sha)
    if head is None:
        raise Unavailable("CommitMissing", f"the mirror does not hold the commit {sha}")
    with source.objects() as objects:
        plan = _judge(objects, head.tree, _UNLIMITED, _Manifest.empty(), may_dangle=True)
    top = os.fsencode(layout.release(sha))
    problems: list[Problem] = []
    children: dict[bytes, set[bytes]] = {}
    for folder in plan.folders:
        if folder.path:
            parent, _, name = folder.path.rpartition(b"/")
            children.setdefault(parent, set()).add(name)
    unreadable: set[bytes] = set()
    for folder in plan.folders:
        parent = folder.path.rpartition(b"/")[0]
        # Below something that is no folder there is nothing to compare, and a link there must not be followed.
        wanted_mode = FOLDER_MODE if folder.path else _top_mode(layout)
        if (folder.path and parent in unreadable) or not _verify_folder(
            top, folder, children.get(folder.path, set()), problems, wanted_mode=wanted_mode
        ):
            unreadable.add(folder.path)
    return tuple(problems)


def changed_inodes(layout: Layout, sha: Sha) -> tuple[str, ...]:
    """Return the paths of files that are not, by inode, size, time and mode, what was published; () when all are.

    Cheap, one lstat a file, and so no proof: for the moment before a switch. A change that is found is proven or
    cleared by `verify_release`. Unavailable when the manifest cannot be read.
    """
    manifest = _load_manifest(layout, parse_sha(sha), required=True)
    top = os.fsencode(layout.release(sha)) + b"/"
    changed: list[str] = []
    for line in manifest.lines():
        if line.startswith((b"40000 ", b"120000 ")):
            continue
        path = line.split(b" ", 5)[5]
        if not _is_as_published(top + path, line):
            changed.append(visible(path))
    return tuple(changed)


# What a tree may be was settled when it was published, maybe under other limits than today's.
_UNLIMITED: Final = TreeLimits(
    files_max=5_000_000, total_bytes_max=1 << 50, blob_bytes_max=1 << 40, depth_max=2_000, path_bytes_max=4_000
)


def _judge(objects: Objects, tree: TreeId, limits: TreeLimits, known: _Manifest, *, may_dangle: bool) -> TreePlan:
    return judge_tree(
        bytes.fromhex(tree),
        limits,
        read_tree=objects.read_tree,
        blob_size=objects.blob_size,
        read_blob=objects.read_blob,
        known=known.totals,
        may_dangle=may_dangle,
    )


def _disk_at_fault(error: OSError, what: str) -> Unavailable:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return Unavailable("DiskFull" if full else "DiskRefused", f"{what}: {error.strerror or error}")


@contextlib.contextmanager
def _lock_releases(layout: Layout) -> Iterator[None]:
    """Exclude others for the few renames that must go together. The lock is on the folder itself."""
    with opened_folder(str(layout.releases)) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _temporary(layout: Layout, sha: Sha, *, spare: str | None = None) -> Iterator[tuple[str, bool]]:
    """A folder beside the releases, locked while we live, gone at the end unless it was renamed.

    It is fresh, or what was prepared as `spare` (then True is given with it).
    """
    path = str(layout.releases / f"{_TEMPORARY}{sha}-{secrets.token_hex(6)}")
    is_spare = False
    with _lock_releases(layout):
        if spare is not None:
            with contextlib.suppress(FileNotFoundError):
                os.rename(spare, path)
                is_spare = True
        if not is_spare:
            os.mkdir(path, 0o700)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        failpoint("publish.after_mkdir")
        yield path, is_spare
    finally:
        try:
            remove_tree(os.fsencode(path))
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{path}.manifest")
        finally:
            os.close(descriptor)


def _spare(layout: Layout, sha: Sha | None) -> str | None:
    return None if sha is None else str(layout.releases / f"{_SPARE}{sha}")


def _commit(layout: Layout, sha: Sha, path: str, manifest: str, *, replace: bool) -> None:
    """Give a synced folder and its manifest their names, unless another was quicker."""
    with _lock_releases(layout):
        if layout.release(sha).exists():
            if not replace:
                return
            os.rename(layout.release(sha), layout.releases / f"{_TEMPORARY}{sha}-{secrets.token_hex(6)}")
            failpoint("publish.between_replacements")
            # Its spare has the old files, and would be taken for a copy of the new ones.
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{_spare(layout, sha)}", layout.releases / f"{_TEMPORARY}{sha}-{secrets.token_hex(6)}")
        os.rename(manifest, layout.manifest(sha))
        failpoint("publish.between_renames")
        os.rename(path, layout.release(sha))
        failpoint("publish.before_parent_sync")
        sync_folder(str(layout.releases))


@dataclass(slots=True)
class _Manifest:
    """What a release was when it was published. One line for each thing, folders before what is in them:

    mode, blob id, size, inode, modification time in ns, path of a file or link (whose inode and time are 0);
    mode, tree id, seven totals, 0, 0, path of a folder. The top folder's path is empty.
    """

    tree: str
    files: int
    total_bytes: int
    #: path of a folder -> (its own line, the lines of its files and links), parents first.
    folders: dict[bytes, tuple[bytes, list[bytes]]]
    #: tree id -> a folder that has it.
    trees: dict[bytes, bytes] = field(default_factory=dict)
    totals: dict[bytes, Total] = field(default_factory=dict)
    order: list[bytes] = field(default_factory=list)
    places: dict[bytes, int] = field(default_factory=dict)

    @classmethod
    def empty(cls) -> _Manifest:
        return cls("", 0, 0, {})

    def below(self, path: bytes) -> Iterator[tuple[bytes, bytes, list[bytes]]]:
        """Give a folder and all below it, each with its own line and those of its files and links."""
        if not self.places:
            self.order.extend(self.folders)
            self.places.update({folder: place for place, folder in enumerate(self.order)})
        for place in range(self.places[path], len(self.order)):
            folder = self.order[place]
            if folder != path and not folder.startswith(_inside(path)):
                return
            yield folder, *self.folders[folder]

    def lines(self) -> Iterator[bytes]:
        """Give the lines of files and links."""
        for _, lines in self.folders.values():
            yield from lines


def _load_manifest(layout: Layout, sha: Sha, *, required: bool = False) -> _Manifest:
    """Return a release's manifest; an empty one, by which nothing is linked, when it cannot be read."""
    try:
        return _parse_manifest(layout.manifest(sha).read_bytes())
    except (OSError, ValueError, IndexError) as error:
        if required:
            raise Unavailable("ManifestUnreadable", f"the manifest of releases/{sha} cannot be read") from error
        return _Manifest.empty()


def _parse_header(first: bytes) -> _Manifest:
    header, tree, files, total_bytes = first.rsplit(b" ", 3)
    if header != _HEADER:
        raise ValueError("another format")
    return _Manifest(tree.decode(), int(files), int(total_bytes), {})


def _parse_manifest(raw: bytes) -> _Manifest:
    if not raw.endswith(b"\n"):
        raise ValueError("cut off")
    first, *lines = raw[:-1].split(b"\n")
    manifest = _parse_header(first)
    inside: list[bytes] = []
    count = 0
    for line in lines:
        if line.startswith(b"40000 "):
            _, tree_id, totals, _, _, path = line.split(b" ", 5)
            inside = []
            manifest.folders[path] = (line, inside)
            key = bytes.fromhex(tree_id.decode())
            manifest.trees.setdefault(key, path)
            manifest.totals[key] = Total(*map(int, totals.split(b",")))
        else:
            inside.append(line)
            count += 1
    if count != manifest.files:
        raise ValueError("lines are missing")
    return manifest


def _read_published(layout: Layout, sha: Sha) -> PublishedRelease | None:
    """Return a release that is on the disk with its manifest, or None. A manifest without a release is none."""
    if not layout.release(sha).is_dir():
        return None
    with contextlib.suppress(OSError, ValueError), layout.manifest(sha).open("rb") as lines:
        manifest = _parse_header(lines.readline(200).removesuffix(b"\n"))
        return PublishedRelease(
            sha=sha,
            tree=TreeId(manifest.tree),
            files=manifest.files,
            bytes=manifest.total_bytes,
            linked=0,
        )
    return None


def _write_manifest(path: str, tree: TreeId, lines: list[bytes], plan: TreePlan) -> str:
    """Write the manifest of the folder `path` beside it and return where."""
    name = f"{path}.manifest"
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    try:
        os.fchmod(descriptor, 0o444)
        first = b"%s %s %d %d" % (_HEADER, tree.encode(), plan.total.files, plan.total.bytes)
        _write_all(descriptor, b"\n".join([first, *lines]) + b"\n")
    finally:
        os.close(descriptor)
    return name


def _write_all(descriptor: int, body: bytes) -> None:
    view = memoryview(body)
    while view:
        view = view[os.write(descriptor, view) :]


def _is_as_published(path: bytes, line: bytes) -> bool:
    """Say whether the file at `path` is, by inode, size, time and mode, the one of this manifest line."""
    mode, _, size, inode, modified_ns, _ = line.split(b" ", 5)
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode) == (
        int(inode),
        int(size),
        int(modified_ns),
        stat.S_IFREG | (EXECUTABLE_MODE if mode == b"100755" else FILE_MODE),
    )


class _Link(NamedTuple):
    """A file that may be linked rather than written."""

    source: bytes
    target: bytes
    #: Of the neighbour's manifest.
    line: bytes
    #: Where the line belongs in the manifest to be.
    lines: list[bytes]
    at: int


class _Write(NamedTuple):
    """A file that must be written, and where its line of the manifest belongs."""

    inside: bytes
    file: PlannedFile
    lines: list[bytes]
    at: int


class _Writer:
    """Writes one planned tree into an empty folder."""

    def __init__(self, top: bytes, source: Source, known: _Manifest, *, neighbour: bytes, is_spare: bool) -> None:
        self._top = top + b"/"
        self._source = source
        self._known = known
        self._neighbour = neighbour + b"/"
        #: The folder is a second copy of the neighbour already: change what differs.
        self._is_spare = is_spare
        #: Folders that the neighbour has and the spare has no longer.
        self._gone: set[bytes] = set()
        self._open: list[bytes] = []
        self._links: list[_Link] = []
        self._writes: list[_Write] = []
        #: What the manifest will say: path of a folder -> its line, and those of its files by place.
        self._lines: dict[bytes, tuple[bytes, list[bytes]]] = {}
        self.linked = 0

    def write(self, plan: TreePlan) -> None:
        """Write folders, files and links; folders are closed to writing once all is in them."""
        if self._is_spare:
            self._remove_vanished(plan)
        for folder in plan.folders:
            self._open_folder(folder.path, _folder_line(folder.tree, plan.totals[folder.tree], folder.path))
            self._fill(folder)
        for path, tree in plan.known:
            self._take_known(path, tree)
        refused = _link_all(self._links)
        for link in refused:
            self._write_instead(link)
        self.linked = plan.total.files - plan.total.links - len(self._writes)
        self._write_files()
        for path in reversed(self._open):
            os.chmod(self._top + path, FOLDER_MODE)

    def manifest_lines(self) -> list[bytes]:
        """Return the lines so that what lies below a folder follows it at once."""
        return [line for path in sorted(self._lines, key=_depth_first) for line in self._lines_of(path)]

    def _lines_of(self, path: bytes) -> list[bytes]:
        own, lines = self._lines[path]
        return [own, *lines]

    def sync(self, manifest: str) -> None:
        """Make all that was written durable: new files, then the top folder."""
        sync_files([*(self._top + write.inside + write.file.name for write in self._writes), os.fsencode(manifest)])
        failpoint("publish.between_syncs")
        # ext4 and xfs commit with it whatever was done to metadata before; others are synced folder by folder.
        if not _commits_metadata_in_order(self._top):
            for path in sorted(self._lines, reverse=True):
                sync_folder(self._top + path)
        sync_folder(self._top)

    def _is_there(self, path: bytes) -> bool:
        return self._is_spare and path in self._known.folders and path not in self._gone

    def _open_folder(self, path: bytes, line: bytes) -> list[bytes]:
        """Make a folder, or open one that is there, and return the list for the lines of what lies in it."""
        if self._is_there(path):
            os.chmod(self._top + path, 0o700)
        elif path:
            os.mkdir(self._top + path, 0o700)
        self._open.append(path)
        lines: list[bytes] = []
        self._lines[path] = (line, lines)
        return lines

    def _remove_vanished(self, plan: TreePlan) -> None:
        """Take out of the spare every folder that the tree has not, or has from elsewhere."""
        changed = {folder.path for folder in plan.folders}
        known = dict(plan.known)
        for path, (line, _) in list(self._known.folders.items()):
            parent = path.rpartition(b"/")[0]
            # What lies below a known folder is as it was: only in a changed one can a folder be gone.
            if not path or parent not in changed or path in changed:
                continue
            if path not in known or line.split(b" ", 2)[1] != known[path].hex().encode():
                os.chmod(self._top + parent, 0o700)
                remove_tree(self._top + path)
                self._gone.update(folder for folder, _, _ in self._known.below(path))

    def _fill(self, folder: PlannedFolder) -> None:
        """Write what lies in a folder of which something may have changed."""
        inside = folder.path + b"/" if folder.path else b""
        there = self._known.folders.get(folder.path)
        old = {} if there is None else {line.split(b" ", 5)[5][len(inside) :]: line for line in there[1]}
        lines = self._lines[folder.path][1]
        kept = old if self._is_there(folder.path) else {}
        wanted = {file.name: _mode_and_blob(file) for file in folder.files}
        wanted |= {link.name: b"120000 %s " % link.blob.hex().encode() for link in folder.links}
        for name, kept_line in kept.items():
            if name not in wanted or not kept_line.startswith(wanted[name]):
                os.unlink(self._top + inside + name)
        for file in folder.files:
            line = old.get(file.name)
            if line is not None and line.startswith(wanted[file.name]):
                path = inside + file.name
                if file.name not in kept:
                    self._links.append(_Link(self._neighbour + path, self._top + path, line, lines, len(lines)))
                lines.append(line)
            else:
                self._writes.append(_Write(inside, file, lines, len(lines)))
                lines.append(b"")
        for link in folder.links:
            if not kept.get(link.name, b"").startswith(wanted[link.name]):
                os.symlink(link.target, self._top + inside + link.name)
            lines.append(_link_line(link, inside))

    def _take_known(self, path: bytes, tree: bytes) -> None:
        """Link a whole folder of the neighbour, with all below it; or leave it, where it is there."""
        if self._is_there(path):
            for folder, own, lines in self._known.below(path):
                self._lines[folder] = (own, lines)
            return
        old = self._known.trees[tree]
        for folder, own, lines in self._known.below(old):
            here = _moved_path(folder, old, path)
            moved = [own, *lines] if path == old else [_moved(line, old, path) for line in (own, *lines)]
            made = self._open_folder(here, moved[0])
            made += moved[1:]
            source, target = self._neighbour + _inside(folder), self._top + _inside(here)
            cut = len(_inside(folder))
            for at, line in enumerate(lines):
                name = line.split(b" ", 5)[5][cut:]
                self._links.append(_Link(source + name, target + name, line, made, at))

    def _write_instead(self, link: _Link) -> None:
        """Have a file written that could not be linked."""
        mode, blob, size, _, _, _ = link.line.split(b" ", 5)
        path = link.target[len(self._top) :]
        folder, slash, name = path.rpartition(b"/")
        file = PlannedFile(name, mode == b"100755", bytes.fromhex(blob.decode()), int(size))
        self._writes.append(_Write(folder + slash, file, link.lines, link.at))

    def _write_files(self) -> None:
        every = self._writes
        if len(every) < 2 * _PER_THREAD:
            self._write_some(every)
            return
        parts = [every[start : start + _PER_THREAD] for start in range(0, len(every), _PER_THREAD)]
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="write") as pool:
            for _ in pool.map(self._write_some, parts):
                pass  # an error of any of them is raised here

    def _write_some(self, writes: list[_Write]) -> None:
        """Write blobs, with a view of the objects of this thread's own, and note their lines."""
        with self._source.objects() as objects:
            for inside, file, lines, at in writes:
                lines[at] = self._write_file(objects, inside, file)

    def _write_file(self, objects: Objects, inside: bytes, file: PlannedFile) -> bytes:
        body = objects.read_blob(file.blob)
        mode = EXECUTABLE_MODE if file.executable else FILE_MODE
        descriptor = os.open(
            self._top + inside + file.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        try:
            _write_all(descriptor, body)
            os.fchmod(descriptor, mode)
            found = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if found.st_size != file.size:
            raise Unavailable("ReleaseTorn", f"{visible(inside + file.name)} was not written whole")
        return _file_line(file, inside, found)


def _link_all(links: list[_Link]) -> list[_Link]:
    """Link files to the neighbour's; return those that must be written, because that is changed, gone or full."""
    if len(links) < 2 * _PER_THREAD:
        return _link_some(links)
    parts = [links[start : start + _PER_THREAD] for start in range(0, len(links), _PER_THREAD)]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="link") as pool:
        return [link for refused in pool.map(_link_some, parts) for link in refused]


def _link_some(links: list[_Link]) -> list[_Link]:
    refused: list[_Link] = []
    for link in links:
        if not _is_as_published(link.source, link.line):
            refused.append(link)
            continue
        try:
            os.link(link.source, link.target, follow_symlinks=False)
        except OSError as error:
            # As many links as the file system allows to one file, or none at all; or the neighbour is being removed.
            if error.errno not in (errno.EMLINK, errno.EXDEV, errno.EPERM, errno.ENOENT):
                raise
            refused.append(link)
    return refused


def _depth_first(path: bytes) -> bytes:
    """A key by which a folder comes right before what lies in it; no name holds a NUL."""
    return path.replace(b"/", b"\0")


def _mode_and_blob(file: PlannedFile) -> bytes:
    return b"%s %s " % (b"100755" if file.executable else b"100644", file.blob.hex().encode())


def _file_line(file: PlannedFile, inside: bytes, found: os.stat_result) -> bytes:
    path = inside + file.name
    return b"%s%d %d %d %s" % (_mode_and_blob(file), found.st_size, found.st_ino, found.st_mtime_ns, path)


def _link_line(link: PlannedLink, inside: bytes) -> bytes:
    return b"120000 %s %d 0 0 %s" % (link.blob.hex().encode(), len(link.target), inside + link.name)


def _folder_line(tree: bytes, total: Total, path: bytes) -> bytes:
    return b"40000 %s %s 0 0 %s" % (tree.hex().encode(), b",".join(b"%d" % number for number in total), path)


def _moved(line: bytes, old: bytes, new: bytes) -> bytes:
    """Return a manifest line of something below `old` as one of the same thing below `new`."""
    *fields, path = line.split(b" ", 5)
    return b" ".join([*fields, _moved_path(path, old, new)])


def _moved_path(path: bytes, old: bytes, new: bytes) -> bytes:
    """Return where a path at or below `old` is, once `old` is at `new`; either may be b"", the top."""
    return new if path == old else _inside(new) + path[len(_inside(old)) :]


def _inside(folder: bytes) -> bytes:
    """Return what the paths of everything in a folder begin with."""
    return folder + b"/" if folder else b""


def _commits_metadata_in_order(path: bytes) -> bool:
    """Say whether an fsync on the file system at `path` commits every earlier change of metadata on it."""
    return _file_system_of(path) in ("ext4", "ext3", "xfs", "tmpfs")


def _file_system_of(path: bytes) -> str:
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            for mount in mounts:
                fields = mount.split(" ")
                if fields[2] == wanted and "-" in fields:
                    return fields[fields.index("-") + 1]
    except OSError:
        pass
    return ""


def _top_mode(layout: Layout) -> int:
    return CLOSED_FOLDER_MODE if layout.closes_releases else FOLDER_MODE


def _verify_folder(
    top: bytes, folder: PlannedFolder, children: set[bytes], problems: list[Problem], *, wanted_mode: int
) -> bool:
    """Compare one folder, not those in it; False when it cannot be entered."""
    path = top + b"/" + folder.path if folder.path else top
    inside = folder.path + b"/" if folder.path else b""

    def report(name: bytes, damage: Damage, message: str) -> None:
        path = inside + name if name else folder.path
        problems.append(Problem(path=visible(path), damage=damage, message=message))

    try:
        with opened_folder(path) as descriptor:
            if (mode := stat.S_IMODE(os.fstat(descriptor).st_mode)) != wanted_mode:
                report(b"", Damage.MODE, f"the folder has the mode {mode:o}, not {wanted_mode:o}")
            found = {os.fsencode(name) for name in os.listdir(descriptor)}
            wanted = {file.name for file in folder.files} | {link.name for link in folder.links} | children
            for name in sorted(found - wanted):
                report(name, Damage.EXTRA, "is not in the commit")
            for name in sorted(wanted - found):
                report(name, Damage.MISSING, "is in the commit and not on the disk")
            for file in folder.files:
                if file.name in found:
                    _verify_file(descriptor, file, report)
            for link in folder.links:
                if link.name in found:
                    _verify_link(descriptor, link.name, link.target, report)
    except OSError as error:
        if error.errno != errno.ENOENT:
            report(b"", Damage.KIND, f"cannot be read as a folder: {error.strerror}")
        elif not folder.path:
            report(b"", Damage.MISSING, "the release is not there")
        # Another one that is missing was reported of the folder that it should be in.
        return False
    return True


def _verify_file(folder: int, file: PlannedFile, report: Callable[[bytes, Damage, str], None]) -> None:
    try:
        if not stat.S_ISREG(os.lstat(file.name, dir_fd=folder).st_mode):
            report(file.name, Damage.KIND, "is not a plain file")
            return
        descriptor = os.open(file.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
        with open(descriptor, "rb", buffering=0) as body:
            status = os.fstat(descriptor)
            digest = hashlib.sha1(b"blob %d\0" % status.st_size, usedforsecurity=False)
            while part := body.read(1 << 20):
                digest.update(part)
    except OSError as error:
        report(file.name, Damage.UNREADABLE, f"cannot be read: {error.strerror}")
        return
    if digest.digest() != file.blob:
        report(file.name, Damage.CONTENT, f"its bytes are not those of blob {file.blob.hex()}")
    wanted = EXECUTABLE_MODE if file.executable else FILE_MODE
    if stat.S_IMODE(status.st_mode) != wanted:
        report(file.name, Damage.MODE, f"has the mode {stat.S_IMODE(status.st_mode):o}, not {wanted:o}")


def _verify_link(folder: int, name: bytes, target: bytes, report: Callable[[bytes, Damage, str], None]) -> None:
    try:
        found = os.readlink(name, dir_fd=folder)
    except OSError:
        report(name, Damage.KIND, "is not a link")
        return
    if found != target:
        report(name, Damage.TARGET, f"links to {visible(found)}, not to {visible(target)}")
