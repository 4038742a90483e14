"""How is a bare repository served over smart HTTP? git's own upload-pack and receive-pack, and libgit2 for looking.

git runs with no configuration but the repository's own. A pushed pack goes through a file, so that a slow sender and a
slow git never wait for each other. Refs under refs/pull/ are the forge's: nobody can push them.
https://git-scm.com/docs/http-protocol
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import tempfile
import zlib
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import IO, Final, Literal

import pygit2
from pygit2.enums import ConfigLevel, DeltaStatus, ObjectType, SortMode

from controller.decisions.tree_rules import changed_paths
from controller.development.forge_shapes import DEFAULT_BRANCH, Changes, Commit, Signature
from controller.model.errors import Failed

Service = Literal["git-upload-pack", "git-receive-pack"]

GIT_TIMEOUT_S: Final = 300.0
REQUEST_BYTES_MAX: Final = 1 << 30
COMMITS_IN_PUSH_MAX: Final = 50
FILES_IN_COMMIT_MAX: Final = 300
#: With more files or folders that differ, neither files nor lines are counted.
DIFFERING_MAX: Final = 10_000
_PROTOCOL = re.compile(r"[a-z0-9=:]{1,64}\Z")

_SETTINGS: Final = {
    "receive.hideRefs": "refs/pull",
    "receive.autogc": "false",
    "gc.auto": "0",
    "core.logAllRefUpdates": "false",
    # GitHub gives any object of a repository to whoever names it.
    "uploadpack.allowAnySHA1InWant": "true",
    "uploadpack.allowFilter": "true",
}

for _level in (ConfigLevel.PROGRAMDATA, ConfigLevel.SYSTEM, ConfigLevel.XDG, ConfigLevel.GLOBAL):
    pygit2.settings.search_path[_level] = ""


class BodyTooLarge(Exception):
    """The request's body is longer than we take, packed or unpacked."""


class BodyMalformed(Exception):
    """The request's body is not what its Content-Encoding says."""


class GitRepository:
    """The forge's bare repository."""

    def __init__(self, root: Path, name: str) -> None:
        self._home = root
        self.path = root / f"{name}.git"
        self._capabilities: dict[str, bytes] = {}
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(root),
            "LC_ALL": "C.UTF-8",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
        }
        if not (self.path / "HEAD").exists():
            self._git("init", "--quiet", "--bare", f"--initial-branch={DEFAULT_BRANCH}", str(self.path))
        for key, value in _SETTINGS.items():
            self._git("--git-dir", str(self.path), "config", key, value)

    def _git(self, *words: str) -> None:
        subprocess.run(
            ["git", *words],
            env=self._environment,
            check=True,
            capture_output=True,
            timeout=30,
            stdin=subprocess.DEVNULL,
        )

    # -- smart HTTP ---------------------------------------------------------------------------------------------------

    async def advertise(self, service: Service, protocol: str) -> bytes:
        """Return the reply to GET info/refs."""
        is_v2 = service == "git-upload-pack" and "version=2" in protocol
        if is_v2 and protocol in self._capabilities:
            return self._capabilities[protocol]
        async with self._process(service, "--http-backend-info-refs", protocol=protocol, stdin=None) as process:
            async with asyncio.timeout(GIT_TIMEOUT_S):
                output, _ = await process.communicate()
        if is_v2:
            # Version 2 names no refs here, only what this git can do: a process less for each fetch.
            if protocol == "version=2" and process.returncode == 0:
                self._capabilities[protocol] = output
            return output
        line = f"# service={service}\n"
        return f"{len(line) + 4:04x}{line}0000".encode() + output

    async def serve(self, service: Service, body: IO[bytes], *, protocol: str) -> AsyncIterator[bytes]:
        """Answer a request whose body was read; yield the reply piece by piece."""
        async with self._process(service, protocol=protocol, stdin=body) as process, asyncio.timeout(GIT_TIMEOUT_S):
            assert process.stdout is not None
            while piece := await process.stdout.read(256 << 10):
                yield piece
            await process.wait()

    @contextlib.asynccontextmanager
    async def _process(
        self, service: Service, *words: str, protocol: str, stdin: IO[bytes] | None
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        environment = dict(self._environment)
        if service == "git-upload-pack" and _PROTOCOL.match(protocol):
            environment["GIT_PROTOCOL"] = protocol
        process = await asyncio.create_subprocess_exec(
            "git",
            service.removeprefix("git-"),
            "--stateless-rpc",
            *words,
            str(self.path),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=1 << 20,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def read_body(self, pieces: AsyncIterator[bytes], *, encoding: str) -> IO[bytes]:
        """Return a request's body as an open, nameless file at its beginning; unpacked, if it was packed."""
        file = tempfile.TemporaryFile(dir=self._home)  # noqa: SIM115 - the caller closes it
        try:
            unpack = zlib.decompressobj(16 + zlib.MAX_WBITS) if encoding in ("gzip", "x-gzip") else None
            size = 0
            async for piece in pieces:
                while piece:
                    plain = piece
                    if unpack is not None:
                        plain, piece = unpack.decompress(piece, 1 << 20), unpack.unconsumed_tail
                    else:
                        piece = b""
                    size += len(plain)
                    if size > REQUEST_BYTES_MAX:
                        raise BodyTooLarge
                    file.write(plain)
            if unpack is not None and not unpack.eof:
                raise BodyMalformed
            file.flush()
            file.seek(0)
        except zlib.error as error:
            file.close()
            raise BodyMalformed from error
        except BaseException:
            file.close()
            raise
        return file

    # -- looking ------------------------------------------------------------------------------------------------------

    async def refs(self) -> dict[str, str]:
        """Return every branch and tag with the object it names."""
        process = await asyncio.create_subprocess_exec(
            *("git", "--git-dir", str(self.path), "for-each-ref", "--format=%(objectname) %(refname)"),
            *("refs/heads/", "refs/tags/"),
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(GIT_TIMEOUT_S):
            output, _ = await process.communicate()
        pairs = (line.split(" ", 1) for line in output.decode("utf-8", "replace").splitlines())
        return {name: sha for sha, name in pairs}

    def branch_head(self, branch: str) -> str | None:
        """Return the commit of a branch, or None."""
        return self.ref_target(f"refs/heads/{branch}")

    def ref_target(self, name: str) -> str | None:
        """Return what a full ref names, or None."""
        repository = self._open()
        try:
            return str(repository.references[name].target)
        except (KeyError, ValueError, pygit2.GitError):
            return None

    def find_commit(self, name: str) -> str | None:
        """Return the id of the commit that a full id, a branch or a tag names, or None."""
        if re.fullmatch(r"[0-9a-f]{40}", name):
            return name if self.load_commit(name) is not None else None
        for ref in (name if name.startswith("refs/") else f"refs/heads/{name}", f"refs/tags/{name}", f"refs/{name}"):
            target = self.ref_target(ref)
            if target is not None and self.load_commit(target) is not None:
                return target
        return None

    def load_commit(self, sha: str, *, files: bool = False) -> Commit | None:
        """Return a commit, or None; with `files` also what it changed."""
        repository = self._open()
        found = _find(repository, sha)
        return None if found is None else _commit(repository, found, files=files)

    def new_commits(self, before: str | None, after: str) -> list[Commit]:
        """Return the commits that a push brought, the oldest first; bounded."""
        repository = self._open()
        if _find(repository, after) is None:
            return []
        walker = repository.walk(pygit2.Oid(hex=after), SortMode.TOPOLOGICAL)
        hidden = before if before is not None else self.branch_head(DEFAULT_BRANCH)
        if hidden is not None and hidden != after and _find(repository, hidden) is not None:
            walker.hide(pygit2.Oid(hex=hidden))
        found: list[Commit] = []
        # What libgit2 does not read of old commits, git pushes all the same: the list of a push ends there.
        with contextlib.suppress(pygit2.GitError):
            for commit in walker:
                found.append(_commit(repository, commit, files=True))
                if len(found) >= COMMITS_IN_PUSH_MAX:
                    break
        return found[::-1]

    def contains(self, descendant: str, ancestor: str) -> bool:
        """Say whether one commit is the other, or has it as an ancestor."""
        if descendant == ancestor:
            return True
        try:
            return bool(self._open().descendant_of(pygit2.Oid(hex=descendant), pygit2.Oid(hex=ancestor)))
        except (KeyError, ValueError, pygit2.GitError):
            return False

    def changes(self, base: str, head: str) -> Changes:
        """Return how much `head` changes against the commit at which it left `base`."""
        repository = self._open()
        try:
            ahead, _ = repository.ahead_behind(pygit2.Oid(hex=head), pygit2.Oid(hex=base))
            origin: pygit2.Oid | None = repository.merge_base(pygit2.Oid(hex=base), pygit2.Oid(hex=head))
            if origin is None or _is_vast(repository, origin, pygit2.Oid(hex=head)):
                return Changes(commits=ahead)
            stats = repository.diff(origin, pygit2.Oid(hex=head)).stats
            return Changes(
                commits=ahead, additions=stats.insertions, deletions=stats.deletions, files=stats.files_changed
            )
        except (KeyError, ValueError, pygit2.GitError):
            return Changes()  # a tree that libgit2 does not read is none of the forge's business

    # -- changing -----------------------------------------------------------------------------------------------------

    def set_pull_head(self, number: int, sha: str) -> None:
        """Let refs/pull/<n>/head name the head of a pull request."""
        self._open().references.create(f"refs/pull/{number}/head", pygit2.Oid(hex=sha), force=True)

    def merge(self, base_branch: str, head: str, *, message: str, squash: bool) -> str | None:
        """Merge a commit into a branch; return the new commit, or None when they conflict."""
        repository = self._open()
        base = repository.references[f"refs/heads/{base_branch}"]
        index = repository.merge_commits(pygit2.Oid(hex=str(base.target)), pygit2.Oid(hex=head))
        if index.conflicts is not None:
            return None
        tree = index.write_tree(repository)
        who = pygit2.Signature("Development Forge", "forge@example.com")
        parents = [pygit2.Oid(hex=str(base.target))]
        if not squash:
            parents.append(pygit2.Oid(hex=head))
        merged = repository.create_commit(None, who, who, message, tree, parents)
        base.set_target(merged)
        return str(merged)

    def _open(self) -> pygit2.Repository:
        # Opened anew each time: what git wrote meanwhile is then seen for certain.
        return pygit2.Repository(str(self.path))


def _find(repository: pygit2.Repository, sha: str) -> pygit2.Commit | None:
    try:
        return repository[pygit2.Oid(hex=sha)].peel(pygit2.Commit)
    except (KeyError, ValueError, pygit2.GitError):
        return None


def _is_vast(repository: pygit2.Repository, old: pygit2.Oid | None, new: pygit2.Oid) -> bool:
    """Say whether more files or folders differ between two commits than are listed: libgit2 would go through all, and
    a tree of few bytes may hold more than fit into memory."""
    count = 0

    def read_tree(tree: bytes) -> bytes:
        nonlocal count
        count += 1
        return bytes(repository.read(pygit2.Oid(raw=tree))[1])

    empty = repository.write(ObjectType.TREE, b"")
    before, after = (empty if commit is None else repository[commit].peel(pygit2.Tree).id for commit in (old, new))
    try:
        found = changed_paths(before.raw, after.raw, read_tree=read_tree, paths_max=DIFFERING_MAX)
    except Failed as error:
        raise ValueError(error.message) from error
    return max(count, len(found)) >= DIFFERING_MAX


def _commit(repository: pygit2.Repository, commit: pygit2.Commit, *, files: bool) -> Commit:
    names: Mapping[DeltaStatus, list[str]] = {
        DeltaStatus.ADDED: [],
        DeltaStatus.DELETED: [],
        DeltaStatus.MODIFIED: [],
    }
    if files:
        try:
            parent = commit.parent_ids[0] if commit.parent_ids else None
            deltas: Iterable[pygit2.DiffDelta] = ()
            if not _is_vast(repository, parent, commit.id):
                diff = commit.tree.diff_to_tree(swap=True) if parent is None else repository.diff(parent, commit.id)
                deltas = diff.deltas
            for count, delta in enumerate(deltas):
                if count >= FILES_IN_COMMIT_MAX:
                    break
                side = delta.old_file if delta.status == DeltaStatus.DELETED else delta.new_file
                names.get(delta.status, names[DeltaStatus.MODIFIED]).append(side.raw_path.decode("utf-8", "replace"))
        except (KeyError, ValueError, pygit2.GitError):
            pass  # a tree that libgit2 does not read is pushed all the same
    return Commit(
        sha=str(commit.id),
        tree=str(commit.tree_id),
        parents=tuple(str(parent) for parent in commit.parent_ids),
        message=commit.raw_message.decode("utf-8", "replace").rstrip("\n"),
        author=_signature(commit.author),
        committer=_signature(commit.committer),
        added=tuple(names[DeltaStatus.ADDED]),
        removed=tuple(names[DeltaStatus.DELETED]),
        modified=tuple(names[DeltaStatus.MODIFIED]),
    )


def _signature(signature: pygit2.Signature) -> Signature:
    try:
        zone = timezone(timedelta(minutes=signature.offset))
        at = datetime.fromtimestamp(signature.time, zone)
    except (ValueError, OverflowError, OSError):
        at = datetime.fromtimestamp(0, UTC)
    return Signature(
        name=signature.raw_name.decode("utf-8", "replace"),
        email=signature.raw_email.decode("utf-8", "replace"),
        at=at.isoformat(),
    )
