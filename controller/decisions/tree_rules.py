"""May this tree be written to our disk? Judges a git tree before anything of it is written, and lists what to write.

git and libgit2 write a link to /etc/passwd, a set-uid file and a name with an escape sequence without a word, and a
repository of 771 bytes may say that it has 10^10 files. Refusing these is our job. Rules:

1. Each distinct tree is judged once, however often it occurs, so that a bomb is counted and not walked. Nothing here
   recurses, so that a deep tree costs a refusal and not a stack.
2. Names are bytes. `.git` is refused in every spelling that some file system takes for it.
3. A link names, by text alone, a file or folder of the same tree, through no other link, and no folder it lies in.
   Where a build comes later, it may also name what that will make there.
4. A refusal is `Failed`, with a stable reason and one sentence that names the path, made visible.

Objects are read through injected callables; this module touches no disk.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, Self

from controller.model.config import TreeLimits
from controller.model.errors import Failed
from controller.model.names import Sha
from controller.model.nouns import Head

#: An object id as trees hold it: 20 bytes.
ObjectId = bytes
#: One entry of a tree as git stores it: mode in octal digits, name, id.
Entry = tuple[bytes, bytes, ObjectId]

FILE: Final = 0o100644
EXECUTABLE: Final = 0o100755
LINK: Final = 0o120000
FOLDER: Final = 0o040000
_SUBMODULE: Final = 0o160000
_MODES: Final = {
    b"100644": FILE,
    b"100664": FILE,  # written by git before 2005; means the same
    b"100755": EXECUTABLE,
    b"120000": LINK,
    b"40000": FOLDER,
    b"040000": FOLDER,  # zero-padded by some old tools; means the same
}
#: Judging a link costs its steps; these bound what a hostile tree can make us spend.
LINK_BYTES_MAX: Final = 1023
LINKS_MAX: Final = 10_000
#: Of the links that are refused, so many characters of words about them.
_LINKS_TOLD_CHARS_MAX: Final = 320
#: Longer paths are not listed as changed. No policy lets one be checked out.
_CHANGED_PATH_BYTES_MAX: Final = 4_000

_ENTRY: Final = re.compile(rb"([0-7]{1,7}) ([^\0]++)\0(.{20})", re.DOTALL)
_TREE_LINE: Final = re.compile(rb"tree ([0-9a-fA-F]{40})(?:\n|\Z)")
_PARENT_LINE: Final = re.compile(rb"parent ([0-9a-fA-F]{40})(?:\n|\Z)")
_SIGNATURE_LINES: Final = re.compile(rb"^gpgsig ([^\n]*(?:\n [^\n]*)*)", re.MULTILINE)
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
#: Anything that could be a spelling of `.git` once case, separators and ignorable code points are taken away.
_MAYBE_GIT: Final = re.compile(rb"[^\x00-\x7f]|git", re.IGNORECASE)
#: Code points that HFS+ ignores in names, as git lists them.
_IGNORABLE: Final = dict.fromkeys(
    [*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF], None
)


class Objects(Protocol):
    """What reads git objects by id: one consistent, open view of a mirror. A context manager."""

    def read_tree(self, tree: ObjectId) -> bytes:
        """Return the raw bytes of a tree."""
        ...

    def blob_size(self, blob: ObjectId) -> int:
        """Return the size in bytes of a blob, without unpacking it."""
        ...

    def read_blob(self, blob: ObjectId) -> bytes:
        """Return the bytes of a blob."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Source(Protocol):
    """Where commits come from."""

    def head(self, sha: Sha) -> Head | None:
        """Return the commit, or None when it is not here."""
        ...

    def objects(self) -> Objects:
        """Open the objects for reading."""
        ...


class PlannedFile(NamedTuple):
    name: bytes
    executable: bool
    blob: ObjectId
    size: int


class PlannedLink(NamedTuple):
    name: bytes
    blob: ObjectId
    target: bytes


@dataclass(frozen=True, slots=True)
class PlannedFolder:
    """One folder to write. `path` is relative to the release and b"" for its top."""

    path: bytes
    tree: ObjectId
    files: tuple[PlannedFile, ...]
    links: tuple[PlannedLink, ...]


class Total(NamedTuple):
    """What one distinct tree comes to with everything below it."""

    files: int
    folders: int
    links: int
    bytes: int
    #: Of the largest file.
    largest_bytes: int
    #: Levels of folders, itself included.
    height: int
    #: Of the longest path below it, without its own name.
    path_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TreePlan:
    """A tree that may be written: folders with parents before their children, and what the whole comes to."""

    folders: tuple[PlannedFolder, ...]
    #: Path and tree of folders that were judged before, as parts of another release; nothing below them is listed.
    known: tuple[tuple[bytes, ObjectId], ...]
    total: Total
    #: Of every distinct tree that was met.
    totals: Mapping[ObjectId, Total]


def visible(raw: bytes, *, chars_max: int = 120) -> str:
    """Return `raw` as one printable line: odd bytes and control characters are written out, the end is cut."""
    text = raw[: chars_max * 4 + 4].decode("utf-8", "backslashreplace")
    shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}" for c in text)
    return shown if len(shown) <= chars_max else shown[: chars_max - 1] + "…"


def parse_tree(raw: bytes) -> list[Entry]:
    """Return the entries of a raw tree; Failed when the bytes are not a tree."""
    entries: list[Entry] = []
    at = 0
    # Each where the last one ended: a search would begin anew at every byte of what is no tree.
    while (entry := _ENTRY.match(raw, at)) is not None:
        entries.append((entry[1], entry[2], entry[3]))
        at = entry.end()
    if at != len(raw):
        raise Failed("TreeMalformed", "the commit holds a tree that git cannot have written (an empty name or mode)")
    return entries


class CommitText(NamedTuple):
    """A commit, of which all but tree and parents is what somebody typed."""

    tree: str
    parents: tuple[Sha, ...]
    #: The first line of the message.
    title: bytes
    #: What `gpgsig` holds, None without one.
    signature: bytes | None


def parse_commit(raw: bytes) -> CommitText:
    """Return what we need of a raw commit, whatever its people, dates and encoding look like.

    Failed when it names no tree: git takes no such commit, so that none is fetched."""
    header, _, message = raw.partition(b"\n\n")
    tree = _TREE_LINE.match(header)
    if tree is None:
        raise Failed("TreeMalformed", "the commit names no tree, so git cannot have written it")
    at, parents = tree.end(), []
    while (parent := _PARENT_LINE.match(header, at)) is not None:
        parents.append(Sha(parent[1].decode().lower()))
        at = parent.end()
    signature = _SIGNATURE_LINES.search(header, at)
    return CommitText(
        tree=tree[1].decode().lower(),
        parents=tuple(parents),
        title=message.lstrip(b"\n").split(b"\n", 1)[0].strip(),
        signature=None if signature is None else signature[1].replace(b"\n ", b"\n"),
    )


def changed_paths(
    old: ObjectId, new: ObjectId, *, read_tree: Callable[[ObjectId], bytes], paths_max: int
) -> tuple[bytes, ...]:
    """Return the paths of files and links that differ between two trees, in order.

    Of many, the first that are met: a tree of few bytes may hold more files than can be counted, and folders in each
    other longer paths than fit anywhere. So no more paths, and no more folders, than `paths_max` are looked at, and no
    path beyond `_CHANGED_PATH_BYTES_MAX`."""
    found: set[bytes] = set()
    stack: list[tuple[bytes, ObjectId | None, ObjectId | None]] = [(b"", old, new)]
    for _ in range(paths_max):
        if not stack or len(found) >= paths_max:
            break
        path, *sides = stack.pop()
        before, after = ({} if tree is None else _entries_by_name(read_tree(tree)) for tree in sides)
        for name in sorted(before.keys() | after.keys(), reverse=True):
            was, now = before.get(name), after.get(name)
            if was == now or len(path) + len(name) > _CHANGED_PATH_BYTES_MAX:
                continue
            below = path + name
            folders = [entry[1] if entry is not None and entry[0] == FOLDER else None for entry in (was, now)]
            if any(folder is not None for folder in folders):
                stack.append((below + b"/", folders[0], folders[1]))
            if any(entry is not None and entry[0] != FOLDER for entry in (was, now)):
                found.add(below)
    return tuple(sorted(found)[:paths_max])


def _entries_by_name(raw: bytes) -> dict[bytes, tuple[int, ObjectId]]:
    return {name: (int(mode, 8), entry) for mode, name, entry in parse_tree(raw)}


def judge_tree(
    root: ObjectId,
    limits: TreeLimits,
    *,
    read_tree: Callable[[ObjectId], bytes],
    blob_size: Callable[[ObjectId], int],
    read_blob: Callable[[ObjectId], bytes],
    known: Mapping[ObjectId, Total] | None = None,
    may_dangle: bool = False,
) -> TreePlan:
    """Return what to write for the tree `root`, or raise Failed with the first reason found not to.

    `may_dangle`: a link may name what is not in the tree, as long as it stays inside: a build makes it later.

    Trees of `known` passed before and are not read again. Where there are links, nothing is taken as known: what a
    link names may lie anywhere.
    """
    judged = _Judgement(limits, known or {}, read_tree=read_tree, blob_size=blob_size)
    total = judged.measure(root)
    if total.links and known:
        return judge_tree(
            root, limits, read_tree=read_tree, blob_size=blob_size, read_blob=read_blob, may_dangle=may_dangle
        )
    folders, met = _expand(root, judged.trees, read_link=_link_reader(read_blob, blob_size))
    if total.links:
        _judge_links(folders, may_dangle=may_dangle)
    return TreePlan(folders=tuple(folders), known=tuple(met), total=total, totals=judged.totals)


class _Tree(NamedTuple):
    """One distinct tree, its own entries judged."""

    folders: tuple[tuple[bytes, ObjectId], ...]
    files: tuple[PlannedFile, ...]
    links: tuple[tuple[bytes, ObjectId], ...]


class _Frame:
    """A tree whose children are being measured."""

    __slots__ = ("files", "folders", "height", "id", "largest", "links", "path", "path_bytes", "pending", "sum_bytes")

    def __init__(self, tree_id: ObjectId, path: bytes, tree: _Tree) -> None:
        self.id, self.path = tree_id, path
        self.pending = list(tree.folders)
        self.files = len(tree.files) + len(tree.links)
        self.folders = 1
        self.links = len(tree.links)
        self.sum_bytes = sum(file.size for file in tree.files)
        self.largest = max((file.size for file in tree.files), default=0)
        self.height = 1
        self.path_bytes = max((len(entry[0]) for part in (tree.files, tree.links) for entry in part), default=0)

    def add(self, name: bytes, total: Total) -> None:
        self.files += total.files
        self.folders += total.folders
        self.links += total.links
        self.sum_bytes += total.bytes
        self.largest = max(self.largest, total.largest_bytes)
        self.height = max(self.height, total.height + 1)
        below = len(name) + (1 + total.path_bytes if total.path_bytes else 0)
        self.path_bytes = max(self.path_bytes, below)

    def total(self) -> Total:
        return Total(
            files=self.files,
            folders=self.folders,
            links=self.links,
            bytes=self.sum_bytes,
            largest_bytes=self.largest,
            height=self.height,
            path_bytes=self.path_bytes,
        )


class _Judgement:
    """Judges and measures distinct trees, each once."""

    def __init__(
        self,
        limits: TreeLimits,
        known: Mapping[ObjectId, Total],
        *,
        read_tree: Callable[[ObjectId], bytes],
        blob_size: Callable[[ObjectId], int],
    ) -> None:
        self._limits = limits
        self._known = known
        self._read_tree = read_tree
        self._blob_size = blob_size
        self.trees: dict[ObjectId, _Tree] = {}
        self.totals: dict[ObjectId, Total] = {}
        self._distinct = 0

    def measure(self, root: ObjectId) -> Total:
        """Return the totals of `root`; Failed as soon as anything in it may not be written."""
        stack = [self._open(root, b"")]
        while True:
            frame = stack[-1]
            if frame.pending:
                name, child = frame.pending[-1]
                total = self.totals.get(child)
                if total is None and (total := self._known.get(child)) is not None:
                    self.totals[child] = total
                path = frame.path + b"/" + name if frame.path else name
                if total is None:
                    if len(stack) > self._limits.depth_max:
                        self._refuse_depth(path)
                    stack.append(self._open(child, path))
                    continue
                frame.pending.pop()
                frame.add(name, total)
                self._check(frame, len(stack))
                continue
            stack.pop()
            total = frame.total()
            self.totals[frame.id] = total
            if not stack:
                return total

    def _open(self, tree_id: ObjectId, path: bytes) -> _Frame:
        tree = self.trees[tree_id] = self._judge(tree_id, path)
        self._distinct += len(tree.files) + len(tree.links) + 1
        # A sum over distinct trees can only be less than the whole: stop reading as soon as it is too much.
        if self._distinct > 2 * self._limits.files_max:
            self._refuse_count(self._distinct // 2, exactly=False)
        frame = _Frame(tree_id, path, tree)
        self._check(frame, path.count(b"/") + 2 if path else 1)
        return frame

    def _check(self, frame: _Frame, depth: int) -> None:
        limits = self._limits
        if max(frame.files, frame.folders - 1) > limits.files_max:
            self._refuse_count(max(frame.files, frame.folders - 1), exactly=not frame.path and not frame.pending)
        if frame.sum_bytes > limits.total_bytes_max:
            raise Failed(
                "TreeTooLarge",
                f"the commit holds at least {frame.sum_bytes:,} bytes; the limit is {limits.total_bytes_max:,}",
            )
        if frame.largest > limits.blob_bytes_max:  # of a tree that was known under another limit
            raise Failed(
                "FileTooLarge",
                f"{visible(frame.path) or 'the commit'} holds a file of {frame.largest:,} bytes;"
                f" the limit for one file is {limits.blob_bytes_max:,}",
            )
        if depth - 1 + frame.height - 1 > limits.depth_max:
            self._refuse_depth(frame.path)
        if (len(frame.path) + 1 if frame.path else 0) + frame.path_bytes > limits.path_bytes_max:
            raise Failed(
                "PathTooLong",
                f"{visible(frame.path)} holds a path of more than {limits.path_bytes_max} bytes",
            )

    def _refuse_count(self, count: int, *, exactly: bool) -> None:
        raise Failed(
            "TooManyFiles",
            f"the commit has {'' if exactly else 'at least '}{count:,} files or folders;"
            f" the limit is {self._limits.files_max:,}",
        )

    def _refuse_depth(self, path: bytes) -> None:
        raise Failed(
            "TreeTooDeep", f"folders lie more than {self._limits.depth_max} deep in each other, below {visible(path)}"
        )

    def _judge(self, tree_id: ObjectId, path: bytes) -> _Tree:
        """Return a tree whose own entries are fit to be written."""
        entries = parse_tree(self._read_tree(tree_id))
        if len(entries) > 2 * self._limits.files_max:
            self._refuse_count(len(entries) // 2, exactly=False)
        _judge_names([name for _, name, _ in entries], path, name_bytes_max=self._limits.name_bytes_max)
        folders: list[tuple[bytes, ObjectId]] = []
        files: list[PlannedFile] = []
        links: list[tuple[bytes, ObjectId]] = []
        for raw_mode, name, entry_id in entries:
            mode = _MODES.get(raw_mode)
            if mode in (FILE, EXECUTABLE):
                size = self._blob_size(entry_id)
                if size > self._limits.blob_bytes_max:
                    raise Failed(
                        "FileTooLarge",
                        f"{_join(path, name)} has {size:,} bytes; the limit for one file is"
                        f" {self._limits.blob_bytes_max:,}",
                    )
                files.append(PlannedFile(name, mode == EXECUTABLE, entry_id, size))
            elif mode == FOLDER:
                folders.append((name, entry_id))
            elif mode == LINK:
                links.append((name, entry_id))
            elif int(raw_mode, 8) == _SUBMODULE:
                raise Failed("Submodule", f"{_join(path, name)} is a submodule; submodules are not supported")
            else:
                raise Failed(
                    "ModeForbidden",
                    f"{_join(path, name)} has the mode {raw_mode.decode()};"
                    " only plain files, executables, links and folders are written",
                )
        return _Tree(tuple(folders), tuple(files), tuple(links))


def _judge_names(names: list[bytes], path: bytes, *, name_bytes_max: int) -> None:
    """Raise Failed for the first name of a folder that may not be written. One pass over all, then the culprit."""
    if not names:
        return
    together = b"\n".join(names)
    suspicious = (
        len(set(names)) != len(names)
        or max(map(len, names)) > name_bytes_max
        or b"/" in together
        or b"." in names
        or b".." in names
        or len(_CONTROL.findall(together)) != len(names) - 1
        or _MAYBE_GIT.search(together) is not None
    )
    if not suspicious:
        return
    seen: set[bytes] = set()
    for name in names:
        where = _join(path, name)
        if name in seen:
            raise Failed("NameTwice", f"{where} is in the commit twice")
        seen.add(name)
        if len(name) > name_bytes_max:
            raise Failed("NameTooLong", f"{where} has a name of {len(name)} bytes; the limit is {name_bytes_max}")
        if b"/" in name or name in (b"", b".", b".."):
            raise Failed("NameForbidden", f"{where} is not a name that a file can have")
        if _CONTROL.search(name):
            raise Failed("NameHasControlBytes", f"{where} has control characters in its name")
        try:
            text = name.decode()
        except UnicodeDecodeError:
            raise Failed("NameNotUtf8", f"{where} has a name that is not UTF-8") from None
        if _is_git_folder(text):
            raise Failed("NameForbidden", f"{where} is a spelling of .git, which no commit may hold")


def _is_git_folder(name: str) -> bool:
    """Say whether some file system takes `name` for `.git`: by case, HFS+ ignorables, NTFS short names and endings."""
    plain = name.translate(_IGNORABLE).lower()
    first = re.split(r"[\\:]", plain, maxsplit=1)[0].rstrip(" .")
    return first in (".git", "git~1")


def _join(path: bytes, name: bytes) -> str:
    return visible(path + b"/" + name if path else name)


def _link_reader(
    read_blob: Callable[[ObjectId], bytes], blob_size: Callable[[ObjectId], int]
) -> Callable[[ObjectId, bytes, bytes], bytes]:
    def read(blob: ObjectId, path: bytes, name: bytes) -> bytes:
        size = blob_size(blob)
        if not 0 < size <= LINK_BYTES_MAX:
            raise Failed("LinkMalformed", f"{_join(path, name)} is a link whose target has {size:,} bytes")
        target = read_blob(blob)
        if _CONTROL.search(target):
            raise Failed("LinkMalformed", f"{_join(path, name)} is a link with control characters in its target")
        return target

    return read


def _expand(
    root: ObjectId, trees: dict[ObjectId, _Tree], *, read_link: Callable[[ObjectId, bytes, bytes], bytes]
) -> tuple[list[PlannedFolder], list[tuple[bytes, ObjectId]]]:
    """Return every folder of a tree that was measured and is within its limits, parents first; and the known ones."""
    folders: list[PlannedFolder] = []
    known: list[tuple[bytes, ObjectId]] = []
    stack: list[tuple[bytes, ObjectId]] = [(b"", root)]
    while stack:
        path, tree_id = stack.pop()
        tree = trees.get(tree_id)
        if tree is None:
            known.append((path, tree_id))
            continue
        links = tuple(PlannedLink(name, blob, read_link(blob, path, name)) for name, blob in tree.links)
        folders.append(PlannedFolder(path, tree_id, tree.files, links))
        prefix = path + b"/" if path else b""
        stack.extend((prefix + name, child) for name, child in reversed(tree.folders))
    return folders, known


def _judge_links(folders: list[PlannedFolder], *, may_dangle: bool) -> None:
    """Raise Failed with all links that a tree may not have, the first few by name, under the reason of the first."""
    count = sum(len(folder.links) for folder in folders)
    if count > LINKS_MAX:
        raise Failed("TooManyLinks", f"the commit has {count:,} links; the limit is {LINKS_MAX:,}")
    files = {folder.path: frozenset(file.name for file in folder.files) for folder in folders}
    links = {folder.path: frozenset(link.name for link in folder.links) for folder in folders}
    first: Failed | None = None
    told: list[str] = []
    refused = 0
    for folder in folders:
        for link in folder.links:
            try:
                _judge_link(folder.path, link, files=files, links=links, may_dangle=may_dangle)
            except Failed as error:
                first, refused = first or error, refused + 1
                if not told or sum(map(len, told)) + len(error.message) <= _LINKS_TOLD_CHARS_MAX:
                    told.append(error.message)
    if first is not None:
        more = f"; and {refused - len(told):,} more links" if refused > len(told) else ""
        raise Failed(first.reason, "; ".join(told) + more)


def _judge_link(
    path: bytes,
    link: PlannedLink,
    *,
    files: dict[bytes, frozenset[bytes]],
    links: dict[bytes, frozenset[bytes]],
    may_dangle: bool,
) -> None:
    """Raise Failed unless `link`, in the folder `path`, names a file or folder of the same tree by its text alone; with
    `may_dangle`, one that is not there does too."""
    where = f"{_join(path, link.name)} is a link to {visible(link.target)}"
    if link.target.startswith(b"/"):
        raise Failed("LinkAbsolute", f"{where}, an absolute path; links must stay inside the repository")
    parts = path.split(b"/") if path else []
    own = [*parts, link.name]
    steps = link.target.split(b"/")
    for index, step in enumerate(steps):
        if step in (b"", b"."):
            continue
        if step == b"..":
            if not parts:
                raise Failed("LinkLeavesTree", f"{where}, which leaves the repository")
            parts.pop()
            continue
        here = b"/".join(parts)
        parts.append(step)
        if parts == own:
            raise Failed("LinkToItself", f"{where}, which is itself")
        if step in links[here]:
            raise Failed("LinkChained", f"{where}, which goes through another link")
        if b"/".join(parts) in files:
            continue
        if step not in files[here]:
            if may_dangle:
                _judge_rest(parts, steps[index + 1 :], where)
                return
            raise Failed("LinkDangling", f"{where}, which is not in the repository")
        if index + 1 < len(steps):
            raise Failed("LinkDangling", f"{where}, which takes a file for a folder")
        return
    if own[: len(parts)] == parts:
        raise Failed("LinkToItself", f"{where}, a folder that it lies in itself")


def _judge_rest(parts: list[bytes], steps: list[bytes], where: str) -> None:
    """Raise Failed if the rest of a link's steps, from a folder that is not there yet, leads out of the tree."""
    depth = len(parts)
    for step in steps:
        depth += {b"": 0, b".": 0, b"..": -1}.get(step, 1)
        if depth < 0:
            raise Failed("LinkLeavesTree", f"{where}, which leaves the repository")
