"""What does the repository hold? A bare mirror of what we may deploy: fetched by git, read by libgit2.

- Only the production branch and the heads of pull requests that the caller names are ever fetched, by explicit
  refspecs into refs of our own; a fork's only by the id that was approved. What the remote calls its branches can
  therefore never be taken for anything else, and commits are looked up by id alone.
- git runs with a pinned configuration and an environment of its own: no file of the host's or of a user's changes what
  it does, no hook, helper or submodule runs, and no redirect is followed. Its whole process group ends at a deadline,
  and what it writes is bounded.
- A credential helper inside git reads the token from memory that git inherits: it is in no argv, no URL, no environment
  and no file. When the forge refuses it, git is run once more with a new one, if there is one.
- A pull request whose objects git refuses cannot keep production from being fetched: then each is fetched by itself.
- Fetches exclude each other by a lock that git inherits. It is free only when no git of an earlier worker is left,
  and then leftovers of one that was killed are removed.

This module decides nothing about what is deployed and writes no release.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

import pygit2
from pygit2.enums import ConfigLevel, ObjectType

from controller.decisions.github.identity import Identity
from controller.decisions.tree_rules import (
    FOLDER,
    LINK,
    LINK_BYTES_MAX,
    ObjectId,
    changed_paths,
    parse_commit,
    parse_tree,
    visible,
)
from controller.failpoints import failpoint
from controller.model.errors import ConfigInvalid, Failed, OroborosError, Refused, Unavailable
from controller.model.names import QUEUE_REFS, Sha, TreeId, parse_sha
from controller.model.nouns import Head, QueueEntry

PRODUCTION_REF: Final = "refs/oroboros/production"
PULL_REFS: Final = "refs/oroboros/pull/"
#: Entries of the merge queue, under their names below `QUEUE_REFS` at the remote.
_QUEUE: Final = "refs/oroboros/queue/"
_QUEUE_REFSPEC: Final = f"+{QUEUE_REFS}*:{_QUEUE}*"
_QUEUE_ENTRY = re.compile(r"(.{1,250})/pr-([1-9][0-9]{0,8})-[0-9a-f]{40}\Z")
#: The forge builds at most a hundred at once.
QUEUE_ENTRIES_MAX: Final = 100
TITLE_CHARS_MAX: Final = 100
CHANGED_PATHS_MAX: Final = 10_000
#: Links on the way to one file, and names of the path that they make.
LINKS_FOLLOWED_MAX: Final = 4
STEPS_MAX: Final = 64
FOLDERS_LISTED_MAX: Final = 50
COMMITS_LOOKED_AT_MAX: Final = 500_000
#: Packs are joined once there are more; each fetch adds one.
PACKS_MAX: Final = 30
_STDERR_BYTES_MAX: Final = 16 << 10
_STDOUT_BYTES_MAX: Final = 64 << 10
_LOCK_WAIT_S: Final = 10.0
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_SHA_PREFIX: Final = re.compile(r"[0-9a-f]{7,40}\Z")
_HEADS_KEPT: Final = 4096
#: Of all pull requests together.
_CHANGED_PATHS_KEPT: Final = 200_000
#: Of a larger commit the message is not read.
COMMIT_BYTES_MAX: Final = 4 << 20
_HISTORY_TIMEOUT_S: Final = 30.0

#: Reads what the environment names; `read` and `printf` are the shell's own, so that no argv holds the token.
_CREDENTIAL_HELPER: Final = (
    '!f() { test "$1" = get || exit 0; IFS= read -r t < "$OROBOROS_TOKEN_FILE" || test -n "$t" || exit 1;'
    ' printf "username=x-access-token\\npassword=%s\\n" "$t"; }; f'
)

#: What `git fsck` finds in old objects that GitHub and GitLab serve all the same (git-fsck(1), "FSCK MESSAGES"): the
#: text of commits, which nothing here relies on, and trees that `tree_rules` judges before any of them is written.
#: Paths that leave the tree, names of git's own files, and objects that cannot be parsed stay errors.
_OLD_MISTAKES: Final = (
    "badDate",
    "badDateOverflow",
    "badEmail",
    "badName",
    "badTimezone",
    "missingAuthor",
    "missingCommitter",
    "missingEmail",
    "missingNameBeforeEmail",
    "missingSpaceBeforeDate",
    "missingSpaceBeforeEmail",
    "multipleAuthors",
    "nulInCommit",
    "zeroPaddedDate",
    "badFilemode",
    "duplicateEntries",
    "largePathname",
    "nullSha1",
    "treeNotSorted",
    "zeroPaddedFilemode",
)

_PINNED: Final = {
    "protocol.version": "2",
    "fetch.fsckObjects": "true",
    "transfer.fsckObjects": "true",
    **{f"fetch.fsck.{problem}": "ignore" for problem in _OLD_MISTAKES},
    "transfer.bundleURI": "false",
    "fetch.bundleURI": "",
    "fetch.unpackLimit": "1",
    "fetch.writeCommitGraph": "false",
    "fetch.recurseSubmodules": "false",
    "submodule.recurse": "false",
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.fsync": "committed,reference",
    "core.askPass": "",
    "credential.helper": "",
    "advice.fetchShowForcedUpdates": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "safe.bareRepository": "explicit",
    "http.followRedirects": "false",
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "15",
}

# libgit2 would read ~/.gitconfig and /etc/gitconfig, and fail on one that it may not read.
for _level in (ConfigLevel.PROGRAMDATA, ConfigLevel.SYSTEM, ConfigLevel.XDG, ConfigLevel.GLOBAL):
    pygit2.settings.search_path[_level] = ""
# The mirror is the worker's; root's commands read it. libgit2 runs no hook and no helper, whoever wrote them.
pygit2.settings.owner_validation = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PullNotFetched:
    """A pull request whose head could not be had by its own fault; the rest of the fetch went on."""

    number: int
    reason: str
    message: str


class GitObjects:
    """One open view of the mirror's objects. A context manager; for one thread at a time."""

    def __init__(self, repository: pygit2.Repository) -> None:
        self._repository = repository
        self._odb = repository.odb

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._repository.free()

    def read_tree(self, tree: ObjectId) -> bytes:
        """Return the raw bytes of a tree; Failed when the id names something else, Unavailable when it is not here."""
        return self._read(tree, ObjectType.TREE)

    def read_blob(self, blob: ObjectId) -> bytes:
        """Return the bytes of a blob; Failed when the id names something else, Unavailable when it is not here."""
        return self._read(blob, ObjectType.BLOB)

    def blob_size(self, blob: ObjectId) -> int:
        """Return the size of a blob without unpacking it; errors as `read_blob`."""
        try:
            kind, size = self._odb.read_header(pygit2.Oid(raw=blob))
        except (KeyError, pygit2.GitError) as error:
            raise _object_missing(blob) from error
        if kind != ObjectType.BLOB:
            raise Failed("TreeMalformed", f"the commit calls the object {blob.hex()} a file, which it is not")
        return int(size)

    def _read(self, wanted: ObjectId, kind: ObjectType) -> bytes:
        try:
            found, body = self._repository.read(pygit2.Oid(raw=wanted))
        except (KeyError, pygit2.GitError) as error:
            raise _object_missing(wanted) from error
        if found != kind:
            raise Failed("TreeMalformed", f"the commit takes the object {wanted.hex()} for what it is not")
        return bytes(body)


def _tree_of(head: Head) -> ObjectId:
    return bytes.fromhex(head.tree)


def _bad_link(reason: str, followed: Sequence[str], what: str) -> ConfigInvalid:
    return ConfigInvalid(reason, f"{followed[-1] if followed else 'a link'}, {what}")


def _object_missing(wanted: ObjectId) -> Unavailable:
    return Unavailable("ObjectMissing", f"the mirror does not hold the object {wanted.hex()}, or cannot read it")


class Mirror:
    """The mirror of one repository. Safe to use from several threads."""

    def __init__(
        self,
        path: Path,
        url: str,
        *,
        identity: Identity | None = None,
        fetch_timeout_s: float = 300.0,
        disk_bytes_max: int = 8 << 30,
        allow_file_url: bool = False,
    ) -> None:
        """`allow_file_url` is for tests. ConfigInvalid for a URL that we would not ask."""
        self._path = path
        self._url = url
        self._scheme = _require_url(url, allow_file_url=allow_file_url)
        self._identity = identity
        self._fetch_timeout_s = fetch_timeout_s
        self._disk_bytes_max = disk_bytes_max
        #: Commits never change, so what was read of one stays true.
        self._heads: dict[Sha, Head] = {}
        self._changed: dict[tuple[Sha, Sha], tuple[str, ...]] = {}
        self._on_production: tuple[Sha | None, dict[Sha, bool]] = (None, {})

    def ensure(self) -> None:
        """Make the bare repository if it is not there. Safe to repeat: it appears by one rename."""
        if (self._path / "HEAD").exists():
            self._require_sha1()
            return
        pending = self._path.with_name(f".{self._path.name}.{os.getpid()}-{time.monotonic_ns()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            pygit2.init_repository(str(pending), bare=True).free()
            with contextlib.suppress(FileExistsError):
                os.rename(pending, self._path)
        except OSError as error:
            if not (self._path / "HEAD").exists():
                raise Unavailable("MirrorNotMade", f"{self._path}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(pending, ignore_errors=True)

    def fetch(
        self, *, branch: str, pulls: Sequence[int], approved: Sequence[tuple[int, Sha]] = ()
    ) -> tuple[PullNotFetched, ...]:
        """Bring the head of `branch`, of each pull request of `pulls` and of what is in the merge queue, and forget all
        others.

        Of a pull request in `approved`, exactly that commit is asked for, by its id: whatever its head has become
        meanwhile, that commit comes or nothing does.

        Returns the pull requests that could not be had by their own fault. Unavailable when the remote, the network,
        the token or the disk is at fault; Failed when git refuses the objects of the production branch. Safe to
        repeat; killed in the middle, refs are old or new.
        """
        if not pygit2.reference_is_valid_name(f"refs/heads/{branch}"):
            raise ConfigInvalid("BranchInvalid", f"{visible(branch.encode())} cannot be the name of a branch")
        deadline = time.monotonic() + self._fetch_timeout_s
        self.ensure()
        wanted = {number: _pull_refspec(number) for number in pulls}
        wanted |= {number: f"+{parse_sha(sha)}:{PULL_REFS}{number:d}" for number, sha in approved}
        numbers = sorted(wanted)
        production = f"+refs/heads/{branch}:{PRODUCTION_REF}"
        refused: list[PullNotFetched] = []
        with self._fetch_lock(deadline) as lock:
            try:
                everything = [production, *(wanted[number] for number in numbers), _QUEUE_REFSPEC]
                self._fetch_refs(everything, lock=lock, deadline=deadline)
            except (Failed, _RefMissing):
                self._fetch_production(production, lock=lock, deadline=deadline)
                # A bad entry of the merge queue is the queue's own business: it stays unchecked.
                with contextlib.suppress(Failed, _RefMissing):
                    self._fetch_refs([_QUEUE_REFSPEC], lock=lock, deadline=deadline)
                for number in numbers:
                    try:
                        self._fetch_refs([wanted[number]], lock=lock, deadline=deadline)
                    except (Failed, _RefMissing) as error:
                        refused.append(PullNotFetched(number=number, reason=error.reason, message=error.message))
            failpoint("fetch.before_prune")
            self._forget_pulls(kept=set(numbers) - {pull.number for pull in refused})
            if self._count_packs() > PACKS_MAX:
                self._join_packs(lock=lock, deadline=deadline)
        return tuple(refused)

    def default_branch(self) -> str:
        """Ask the remote which branch is its default; Unavailable when it does not say."""
        self.ensure()
        arguments = ["ls-remote", "--symref", "--quiet", "--", self._url, "HEAD"]
        output = self._ask(arguments, lock=None, deadline=time.monotonic() + min(60.0, self._fetch_timeout_s))
        match = re.search(rb"^ref: refs/heads/([^\t\n]+)\tHEAD$", output, re.MULTILINE)
        if match is None:
            raise Unavailable("NoDefaultBranch", f"{self._url} does not say which branch is its default")
        return match[1].decode("utf-8", "surrogateescape")

    def ask_head(self, branch: str, *, timeout_s: float) -> Sha | None:
        """Ask the remote for the head of a branch, and fetch nothing; None when it has no such branch.

        Unavailable when it does not say so in time. Safe to repeat: it changes nothing."""
        ref = f"refs/heads/{branch}"
        self.ensure()
        arguments = ["ls-remote", "--quiet", "--refs", "--", self._url, ref]
        output = self._ask(arguments, lock=None, deadline=time.monotonic() + timeout_s)
        # A pattern of git's also finds longer names that end in it.
        found = re.search(rb"^([0-9a-f]{40})\t" + re.escape(ref.encode()) + rb"$", output, re.MULTILINE)
        return None if found is None else parse_sha(found[1].decode())

    def production_head(self) -> Head | None:
        """Return the head of the production branch as last fetched."""
        return self._head_of(PRODUCTION_REF)

    def pull_head(self, number: int) -> Head | None:
        """Return the head of a pull request as last fetched."""
        return self._head_of(f"{PULL_REFS}{number}")

    def queue_entries(self) -> tuple[QueueEntry, ...]:
        """Return what was in the merge queue when it was last fetched; one entry a pull request."""
        if not self._path.is_dir():
            return ()
        with self._open() as repository:
            names = sorted(name for name in repository.references if name.startswith(_QUEUE))
        found: dict[int, QueueEntry] = {}
        for name in names[:QUEUE_ENTRIES_MAX]:
            match = _QUEUE_ENTRY.match(name.removeprefix(_QUEUE))
            head = None if match is None else self._head_of(name)
            if match is not None and head is not None:
                number = int(match[2])
                found[number] = QueueEntry(number=number, base_branch=match[1], head=head)
        return tuple(found[number] for number in sorted(found))

    def head(self, sha: Sha) -> Head | None:
        """Return a commit that the mirror holds, or None. Only a full id finds one, never a name."""
        known = self._heads.get(sha)
        if known is not None:
            return known
        with self._open() as repository:
            size = _commit_size(repository, sha)
            if size is None:
                return None
            if size > COMMIT_BYTES_MAX:
                tree, title = self._tree_of(sha), f"(a commit of {size:,} bytes)"
            else:
                commit = parse_commit(repository.read(pygit2.Oid(hex=sha))[1])
                tree, title = commit.tree, visible(commit.title, chars_max=TITLE_CHARS_MAX)
            found = Head(sha=sha, tree=TreeId(tree), title=title)
        if len(self._heads) >= _HEADS_KEPT:
            self._heads.clear()
        self._heads[sha] = found
        return found

    def find_on_production(self, text: str) -> Head:
        """Return the commit of the production branch that `text` begins; Refused when it is not exactly one."""
        prefix = text.lower()
        if not _SHA_PREFIX.match(prefix):
            raise Refused("CommitUnclear", f"{text!r:.60} is not a commit id: say 7 to 40 hex digits")
        production = self.production_head()
        if production is None:
            raise Unavailable("NothingFetched", "the production branch was not fetched yet: is the worker running?")
        matches = self._commits_behind(production.sha, prefix)
        if len(matches) > 1:
            named = ", ".join(sha[: len(prefix) + 4] for sha in matches[:5])
            raise Refused("CommitAmbiguous", f"{prefix} begins {len(matches)} commits ({named}): say more digits")
        head = self.head(matches[0]) if matches else None
        if head is None:
            elsewhere = len(prefix) == 40 and self.head(parse_sha(prefix)) is not None
            raise Refused(
                "CommitNotOnProduction",
                f"{prefix} is not on the production branch as last fetched"
                + (", though the repository holds it: merge it first" if elsewhere else "; is it pushed?"),
            )
        return head

    def _commits_behind(self, head: Sha, prefix: str) -> list[Sha]:
        """Return the commits that `prefix` begins among those reachable from `head`: refs and other objects do not
        count, so a branch that is named like a commit shadows nothing."""
        found: list[Sha] = []
        with self._open() as repository:
            for count, sha in enumerate(_walk(repository, head)):
                if sha.startswith(prefix):
                    found.append(sha)
                if count >= COMMITS_LOOKED_AT_MAX or (found and len(prefix) == 40):
                    break
        return found

    def is_ancestor(self, older: Sha, newer: Sha) -> bool:
        """Say whether `older` is `newer` or lies behind it; False when the mirror lacks either."""
        with self._open() as repository:
            if _commit_size(repository, older) is None or _commit_size(repository, newer) is None:
                return False
            return self._merge_base(repository, older, newer) == older

    def is_reachable_from_production(self, sha: Sha) -> bool:
        """Say whether the production branch, as last fetched, holds this commit."""
        production = self.production_head()
        if production is None:
            return False
        at, known = self._on_production
        if at != production.sha or len(known) >= _HEADS_KEPT:
            known = {}
            self._on_production = (production.sha, known)
        if sha not in known:
            if self.head(sha) is None:
                return False  # it may yet be fetched
            known[sha] = self.is_ancestor(sha, production.sha)
        return known[sha]

    def changed_paths(self, sha: Sha) -> tuple[str, ...] | None:
        """Return what differs between a commit and where it left the production branch; None when that is unknown.

        Of a change to more paths than `CHANGED_PATHS_MAX`, the first ones."""
        production = self.production_head()
        if production is None:
            return None
        key = (production.sha, sha)
        if key not in self._changed:
            with self._open() as repository:
                head = self.head(sha)
                left_at = None if head is None else self._merge_base(repository, production.sha, sha)
                base = None if left_at is None else self.head(left_at)
                if head is None or base is None:
                    return None
            with self.objects() as objects:
                paths = changed_paths(
                    bytes.fromhex(base.tree),
                    bytes.fromhex(head.tree),
                    read_tree=objects.read_tree,
                    paths_max=CHANGED_PATHS_MAX,
                )
            if sum(map(len, self._changed.values())) > _CHANGED_PATHS_KEPT:
                self._changed.clear()
            self._changed[key] = tuple(path.decode("utf-8", "replace") for path in paths)
        return self._changed[key]

    def _merge_base(self, repository: pygit2.Repository, one: Sha, other: Sha) -> Sha | None:
        """Return where two commits left each other; None when they have nothing in common."""
        try:
            base = repository.merge_base(pygit2.Oid(hex=one), pygit2.Oid(hex=other))
            return None if base is None else Sha(str(base))
        except (KeyError, pygit2.GitError):
            # libgit2 refuses commits that git reads past, such as one whose author has no address.
            found = self._ask_history(["merge-base", "--", one, other], codes=(0, 1))  # 1: there is none
            return Sha(found) if found else None

    def _tree_of(self, sha: Sha) -> str:
        return self._ask_history(["rev-parse", "--verify", "--end-of-options", f"{sha}^{{tree}}"])

    def _ask_history(self, arguments: Sequence[str], *, codes: Sequence[int] = (0,)) -> str:
        """Run a git that reads commits of the mirror; return what it wrote, without the spaces around it."""
        deadline = time.monotonic() + _HISTORY_TIMEOUT_S
        return self._run(arguments, lock=None, deadline=deadline, codes=codes).decode("ascii", "replace").strip()

    def read_file(self, sha: Sha, path: bytes, *, bytes_max: int) -> bytes | None:
        """Return the bytes of a file at a commit; None when there is no file of that name, or no such commit.

        Links inside the commit are followed. ConfigInvalid when one leads elsewhere, or the file is larger than
        `bytes_max`.
        """
        found = self._lookup(sha, path)
        if found is None or found[0] not in (0o100644, 0o100755, 0o100664):
            return None
        _, entry_id = found
        with self.objects() as objects:
            size = objects.blob_size(entry_id)
            if size > bytes_max:
                raise ConfigInvalid(
                    "FileTooLarge", f"{visible(path)} has {size:,} bytes; at most {bytes_max:,} are read"
                )
            return objects.read_blob(entry_id)

    def subtree_id(self, sha: Sha, path: bytes) -> str:
        """Return the tree id of a folder at a commit; "" when there is none. Links inside the commit are followed."""
        try:
            found = self._lookup(sha, path)
        except ConfigInvalid:
            return ""
        return found[1].hex() if found is not None and found[0] == FOLDER else ""

    def names_at(self, sha: Sha) -> tuple[bytes, ...]:
        """Return the names in the top folder of a commit, and in its first `FOLDERS_LISTED_MAX` folders, as paths."""
        head = self.head(sha)
        if head is None:
            return ()
        with self.objects() as objects:
            top = [(int(mode, 8), name, entry) for mode, name, entry in parse_tree(objects.read_tree(_tree_of(head)))]
            found = [name for _, name, _ in top]
            for _, folder, entry in [one for one in top if one[0] == FOLDER][:FOLDERS_LISTED_MAX]:
                found += [folder + b"/" + name for _, name, _ in parse_tree(objects.read_tree(entry))]
        return tuple(found)

    def objects(self) -> GitObjects:
        """Open the objects for reading, packs of the newest fetch included."""
        return GitObjects(self._repository())

    def _lookup(self, sha: Sha, path: bytes) -> tuple[int, ObjectId] | None:
        """Return mode and id of what lies at `path` at a commit, once every link on the way was followed; None for
        nothing. ConfigInvalid when a link leads out of the commit, or to nothing."""
        head = self.head(sha)
        steps = [part for part in path.split(b"/") if part]
        if head is None or not steps or b".." in steps:
            return None
        #: The folders that we are in, the commit's own first.
        above: list[ObjectId] = [_tree_of(head)]
        followed: list[str] = []
        mode, at = FOLDER, above[0]
        trees: dict[ObjectId, dict[bytes, tuple[int, ObjectId]]] = {}
        with self.objects() as objects:
            while steps:
                step = steps.pop(0)
                if step in (b"", b"."):
                    continue
                if step == b"..":
                    if len(above) == 1:
                        raise _bad_link("LinkLeavesTree", followed, "which leaves the repository")
                    above.pop()
                    mode, at = FOLDER, above[-1]
                    continue
                if above[-1] not in trees:
                    listed = parse_tree(objects.read_tree(above[-1]))
                    trees[above[-1]] = {name: (int(octal, 8), entry) for octal, name, entry in listed}
                found = trees[above[-1]].get(step)
                if found is None or (steps and found[0] not in (FOLDER, LINK)):
                    if followed:
                        raise _bad_link("LinkDangling", followed, "which is not in the repository")
                    return None
                mode, at = found
                if mode == FOLDER:
                    above.append(at)
                elif mode == LINK:
                    target = objects.read_blob(at) if objects.blob_size(at) <= LINK_BYTES_MAX else b""
                    followed.append(f"{visible(step)} is a link to {visible(target)}")
                    if target.startswith(b"/"):
                        raise _bad_link("LinkAbsolute", followed, "an absolute path")
                    steps = target.split(b"/") + steps
                    if not target or len(followed) > LINKS_FOLLOWED_MAX or len(steps) > STEPS_MAX:
                        raise _bad_link("TooManyLinks", followed, "and on: link to the file itself")
                    mode, at = FOLDER, above[-1]
        return mode, at

    def _head_of(self, reference: str) -> Head | None:
        if not self._path.is_dir():
            return None
        with self._open() as repository:
            try:
                target = repository.lookup_reference(reference).target
            except (KeyError, ValueError, pygit2.GitError):
                return None
        # Our refs are never symbolic, so that a target is an id.
        return self.head(Sha(str(target))) if isinstance(target, pygit2.Oid) else None

    def _repository(self) -> pygit2.Repository:
        try:
            return pygit2.Repository(str(self._path), pygit2.enums.RepositoryOpenFlag.BARE)
        except (KeyError, pygit2.GitError) as error:
            raise Unavailable("MirrorUnreadable", f"{self._path} cannot be opened: {error}") from error

    @contextlib.contextmanager
    def _open(self) -> Iterator[pygit2.Repository]:
        repository = self._repository()
        try:
            yield repository
        finally:
            repository.free()

    def _require_sha1(self) -> None:
        with contextlib.suppress(OSError):
            if re.search(rb"(?im)^\s*objectformat\s*=\s*(?!sha1\b)", (self._path / "config").read_bytes()):
                raise Failed("Sha256Repository", f"{self._path} has another object format than SHA-1")

    def _forget_pulls(self, *, kept: set[int]) -> None:
        with self._open() as repository:
            for name in repository.listall_references():
                if name.startswith(PULL_REFS) and not (
                    name.removeprefix(PULL_REFS).isdigit() and int(name.removeprefix(PULL_REFS)) in kept
                ):
                    with contextlib.suppress(KeyError, pygit2.GitError):
                        repository.references.delete(name)

    @contextlib.contextmanager
    def _fetch_lock(self, deadline: float) -> Iterator[int]:
        """Hold the right to fetch; every git that we start inherits it, so that it outlives us with them."""
        descriptor = os.open(self._path / "oroboros.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            until = min(deadline, time.monotonic() + _LOCK_WAIT_S)
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= until:
                        raise Unavailable(
                            "FetchRunning", "another fetch of this repository has not ended yet"
                        ) from None
                    time.sleep(0.02)
            self._remove_leftovers()
            yield descriptor
        finally:
            os.close(descriptor)

    def _remove_leftovers(self) -> None:
        """Remove what a git that was killed left; we hold the lock, so none runs."""
        leftovers = [*self._path.glob("*.lock"), *self._path.glob("refs/oroboros/**/*.lock")]
        leftovers += [*self._path.glob("objects/pack/tmp_*"), *self._path.glob("objects/pack/.tmp-*")]
        for leftover in leftovers:
            if leftover.name != "oroboros.lock":
                leftover.unlink(missing_ok=True)
        for quarantine in self._path.glob("objects/tmp_objdir-*"):
            shutil.rmtree(quarantine, ignore_errors=True)

    def _pack_bytes(self) -> int:
        with contextlib.suppress(FileNotFoundError), os.scandir(self._path / "objects" / "pack") as entries:
            return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
        return 0

    def _count_packs(self) -> int:
        with contextlib.suppress(FileNotFoundError), os.scandir(self._path / "objects" / "pack") as entries:
            return sum(entry.name.endswith(".pack") for entry in entries)
        return 0

    def _join_packs(self, *, lock: int, deadline: float) -> None:
        """Join small packs into one, so that lookups stay quick; failing at it costs nothing but that."""
        with contextlib.suppress(Unavailable, Failed, _RefMissing):
            self._run(["repack", "-d", "-q", "--geometric=2"], lock=lock, deadline=deadline)

    def _fetch_production(self, refspec: str, *, lock: int, deadline: float) -> None:
        try:
            self._fetch_refs([refspec], lock=lock, deadline=deadline)
        except _RefMissing as error:
            # Nothing is taken down because a branch is gone: the last head that we saw stays.
            raise Unavailable("ProductionBranchMissing", error.message) from error

    def _fetch_refs(self, refspecs: Sequence[str], *, lock: int, deadline: float) -> None:
        arguments = [
            "fetch",
            "--quiet",
            "--no-tags",
            # Of what these refspecs name: a branch of the merge queue that is gone is forgotten.
            "--prune",
            "--no-write-fetch-head",
            "--no-recurse-submodules",
            "--no-auto-maintenance",
            "--no-show-forced-updates",
            "--refmap=",
            "--",
            self._url,
            *refspecs,
        ]
        self._ask(arguments, lock=lock, deadline=deadline)

    def _ask(self, arguments: Sequence[str], *, lock: int | None, deadline: float) -> bytes:
        """Run a git that asks the remote, and once more with a new token when the forge refuses ours."""
        token = None if self._identity is None else self._identity.token()
        try:
            return self._run(arguments, lock=lock, deadline=deadline, token=token)
        except Unavailable as error:
            if error.reason != "ForgeRefusedToken" or self._identity is None or token is None:
                raise
            if not self._identity.renew(token):
                raise
        return self._run(arguments, lock=lock, deadline=deadline, token=self._identity.token())

    def _run(
        self,
        arguments: Sequence[str],
        *,
        lock: int | None,
        deadline: float,
        token: str | None = None,
        codes: Sequence[int] = (0,),
    ) -> bytes:
        """Run one git to its end and return what it wrote; its whole process group is gone afterwards.

        `codes` are the exit codes that are no failure."""
        room = self._disk_bytes_max - self._pack_bytes()
        if room <= 0:
            raise Unavailable("MirrorFull", f"{self._path} has reached its limit of {self._disk_bytes_max:,} bytes")
        began = time.monotonic()
        config = dict(_PINNED)
        environment = _environment(self._scheme)
        argv = ["git", f"--git-dir={self._path}"]
        for key, value in config.items():
            argv += ["-c", f"{key}={value}"]
        inherited = [] if lock is None else [lock]
        if token is not None:
            inherited.append(_in_memory(token))
            argv += ["-c", f"credential.{_origin(self._url)}.helper={_CREDENTIAL_HELPER}"]
            environment["OROBOROS_TOKEN_FILE"] = f"/proc/self/fd/{inherited[-1]}"
        try:
            process = subprocess.Popen(
                [*argv, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                cwd=self._path,
                start_new_session=True,
                pass_fds=inherited,
            )
        except OSError as error:
            raise Unavailable("GitMissing", f"git could not be started: {error.strerror or error}") from error
        finally:
            if token is not None:
                os.close(inherited[-1])
        with contextlib.suppress(ProcessLookupError):
            # Bounds every file that git and what it starts will write: an endless pack ends here.
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (room, room))
        output, errors, in_time = _collect(process, deadline)
        if not in_time:
            waited_s = time.monotonic() - began
            raise Unavailable("FetchTimedOut", f"{self._url} did not finish within {waited_s:.3g} s")
        if process.returncode not in codes:
            raise _translate(errors, process.returncode, url=self._url)
        return output


def _in_memory(token: str) -> int:
    """Return a file of memory that holds the token; each opening of it in /proc begins at its start."""
    descriptor = os.memfd_create("token", os.MFD_CLOEXEC)
    os.write(descriptor, token.encode() + b"\n")
    return descriptor


class _RefMissing(OroborosError):
    """The remote has no such ref: a pull request or a branch that is gone. Never leaves this module."""


def _collect(process: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, bytes, bool]:
    """Wait for the end of `process` and its group, killing both at the deadline; keep a bounded part of its output."""
    assert process.stdout is not None
    assert process.stderr is not None
    output, errors = bytearray(), bytearray()
    ended = os.pidfd_open(process.pid)
    streams = {process.stdout.fileno(): output, process.stderr.fileno(): errors}
    in_time = True
    try:
        waiting = [ended, *streams]
        while ended in waiting:
            ready, _, _ = select.select(waiting, [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                in_time = False
                break
            for descriptor in ready:
                if descriptor == ended or not _drain(descriptor, streams[descriptor]):
                    waiting.remove(descriptor)
        for descriptor in waiting:
            while descriptor != ended and select.select([descriptor], [], [], 0)[0]:
                if not _drain(descriptor, streams[descriptor]):
                    break
    finally:
        # The leader is not reaped yet, so the group's number is still its own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(ended)
        process.stdout.close()
        process.stderr.close()
    return bytes(output[:_STDOUT_BYTES_MAX]), bytes(errors), in_time


def _drain(descriptor: int, into: bytearray) -> bool:
    """Read once; keep the newest part. False at the end of the stream."""
    part = os.read(descriptor, 65536)
    into += part
    if len(into) > _STDOUT_BYTES_MAX:
        del into[: len(into) - _STDERR_BYTES_MAX]
    return bool(part)


def _environment(scheme: str) -> dict[str, str]:
    """Return all that git may see of the world."""
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": scheme,
        "GIT_ASKPASS": "",
        "GIT_OPTIONAL_LOCKS": "0",
    }
    # A host may reach its forge through a proxy only, or know its certificate authority by a file of its own.
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        if name in os.environ and scheme == "https":
            environment[name] = os.environ[name]
    return environment


def _require_url(url: str, *, allow_file_url: bool) -> str:
    """Return the scheme of a URL that we may ask; ConfigInvalid for any other."""
    parts = urlsplit(url)
    problem = ""
    if parts.username is not None or parts.password is not None:
        problem = "holds a user or password; put the token into the token file"
    elif "=" in url or any(not c.isprintable() or c.isspace() for c in url):
        problem = "holds characters that no repository's address has"
    elif parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        problem = "is http and not on this machine; use https"
    elif parts.scheme == "file" and not allow_file_url:
        problem = "is a file; use https"
    elif parts.scheme not in ("https", "http", "file"):
        problem = "is not https"
    if problem:
        shown = url if parts.username is None else f"{parts.scheme}://…@{parts.hostname}"
        raise ConfigInvalid("ForgeUrlInvalid", f"the repository's address {shown[:120]!r} {problem}")
    return parts.scheme


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _pull_refspec(number: int) -> str:
    return f"+refs/pull/{number:d}/head:{PULL_REFS}{number:d}"


def _commit_size(repository: pygit2.Repository, sha: Sha) -> int | None:
    """Return the size of a commit in bytes; None when the mirror holds no commit of that full id."""
    try:
        kind, size = repository.odb.read_header(pygit2.Oid(hex=parse_sha(sha)))
    except (KeyError, ValueError, pygit2.GitError):
        return None
    return int(size) if kind == ObjectType.COMMIT else None


def _walk(repository: pygit2.Repository, head: Sha) -> Iterator[Sha]:
    """Yield every commit reachable from `head`, nearest first; those that cannot be read end their line."""
    waiting, known = deque([head]), {head}
    while waiting:
        sha = waiting.popleft()
        if _commit_size(repository, sha) is None:
            continue
        yield sha
        for parent in parse_commit(repository.read(pygit2.Oid(hex=sha))[1]).parents:
            if parent not in known:
                known.add(parent)
                waiting.append(parent)


class _Meaning(NamedTuple):
    says: str
    kind: type[Failed | Unavailable | _RefMissing]
    reason: str
    meaning: str


#: What git says, in the order in which it is looked for, and what that means. All else: FetchFailed.
_MEANINGS: Final = (
    _Meaning(
        r"couldn't find remote ref|not our ref",
        _RefMissing,
        "RefMissing",
        "the remote has no such branch or pull request",
    ),
    _Meaning(
        r"mismatched algorithms|unknown object format",
        Failed,
        "Sha256Repository",
        "repositories with SHA-256 ids are not supported",
    ),
    _Meaning(r"No space left on device|Disk quota exceeded", Unavailable, "DiskFull", "the disk is full"),
    _Meaning(r"File too large|signal 25", Unavailable, "MirrorFull", "the repository is larger than its limit"),
    _Meaning(
        r"Authentication failed|could not read (Username|Password)|returned error: 40[13]",
        Unavailable,
        "ForgeRefusedToken",
        "the forge did not accept our token",
    ),
    _Meaning(
        r"redirect|returned error: 30\d",
        Unavailable,
        "RedirectRefused",
        "the remote redirects elsewhere, which is not followed",
    ),
    _Meaning(
        r"repository .* not found|returned error: 404|does not appear to be a git repository",
        Unavailable,
        "RepositoryNotFound",
        "there is no such repository, or the token may not see it",
    ),
    _Meaning(
        r"transport .* not allowed",
        Unavailable,
        "ProtocolRefused",
        "the remote names a protocol that is not allowed",
    ),
    _Meaning(
        r"Could not resolve|Failed to connect|Connection (refused|reset|timed out)|Operation too slow"
        r"|returned error: 5\d\d|SSL|gnutls|certificate",
        Unavailable,
        "ForgeUnreachable",
        "the remote did not answer as it should",
    ),
    _Meaning(
        r"fsck error|invalid index-pack|did not send all necessary objects|bad (tree|object)|missing (tree|blob|commit)"
        r"|in fsck",
        Failed,
        "ObjectsRefused",
        "git refuses objects of it as malformed",
    ),
    _Meaning(
        r"early EOF|hung up|RPC failed|index-pack|unpack-objects",
        Unavailable,
        "ForgeUnreachable",
        "the remote ended in the middle of its answer",
    ),
)


def _translate(errors: bytes, returncode: int, *, url: str) -> Failed | Unavailable | _RefMissing:
    """Return what git's last words mean."""
    text = errors.decode("utf-8", "replace")
    # Only git's own lines: what the remote says comes after "remote:" and may say anything.
    own = [line for line in text.split("\n") if line.strip() and not line.startswith("remote:")]
    said = "\n".join(own) + (f"\nsignal {-returncode}" if returncode < 0 else "")
    last = visible(
        next((line for line in own if line.startswith(("fatal:", "error:"))), own[-1] if own else "").encode()
    )
    for known in _MEANINGS:
        if re.search(known.says, said):
            return known.kind(known.reason, f"{url}: {known.meaning} ({last})")
    return Unavailable("FetchFailed", f"{url}: git ended with {returncode} ({last})")
