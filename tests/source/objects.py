"""Raw git objects for tests: trees that git itself would refuse to write, and ordinary repositories with branches."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pygit2
from pygit2.enums import ObjectType

from controller.effects.mirror import Mirror
from controller.model.names import Layout, Sha, parse_sha

FILE, EXECUTABLE, LINK, FOLDER, SUBMODULE = b"100644", b"100755", b"120000", b"40000", b"160000"

Entry = tuple[bytes, bytes, bytes]

GIT_ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Test",
    "GIT_AUTHOR_EMAIL": "test@example.org",
    "GIT_COMMITTER_NAME": "Test",
    "GIT_COMMITTER_EMAIL": "test@example.org",
}


@dataclass
class Store:
    """A stack's root with an empty mirror, into which a test writes objects byte by byte."""

    layout: Layout
    mirror: Mirror
    repository: pygit2.Repository

    def blob(self, body: bytes) -> bytes:
        return self.repository.write(ObjectType.BLOB, body).raw

    def tree(self, *entries: Entry) -> bytes:
        """Write a tree with exactly these entries, in this order."""
        raw = b"".join(mode + b" " + name + b"\0" + entry for mode, name, entry in entries)
        return self.repository.write(ObjectType.TREE, raw).raw

    def commit(self, tree: bytes, message: bytes = b"a commit\n") -> Sha:
        who = b"Test <test@example.org> 1700000000 +0000"
        raw = b"tree %s\nauthor %s\ncommitter %s\n\n%s" % (tree.hex().encode(), who, who, message)
        return parse_sha(str(self.repository.write(ObjectType.COMMIT, raw)))

    def files(self, files: dict[bytes, tuple[bytes, bytes]]) -> bytes:
        """Write a tree of path -> (mode, body), folders and order as git would; return its id."""
        below: dict[bytes, dict[bytes, tuple[bytes, bytes]]] = {}
        entries: list[Entry] = []
        for path, (mode, body) in files.items():
            name, slash, rest = path.partition(b"/")
            if slash:
                below.setdefault(name, {})[rest] = (mode, body)
            else:
                entries.append((mode, name, self.blob(body)))
        entries += [(FOLDER, name, self.files(inner)) for name, inner in below.items()]
        entries.sort(key=lambda entry: entry[1] + (b"/" if entry[0] == FOLDER else b""))
        return self.tree(*entries)

    def commit_files(self, files: dict[bytes, tuple[bytes, bytes]]) -> Sha:
        return self.commit(self.files(files))

    def inodes(self) -> dict[str, tuple[int, int, int]]:
        """Return everything under `releases/` with inode, size and time: equal before and after means untouched."""
        found: dict[str, tuple[int, int, int]] = {}
        for folder, folders, files in os.walk(self.layout.releases):
            for name in (*folders, *files):
                path = os.path.join(folder, name)
                status = os.lstat(path)
                found[path] = (status.st_ino, status.st_size, status.st_mtime_ns)
        return found


def make_store(root: Path) -> Store:
    layout = Layout(root)
    mirror = Mirror(layout.mirror, "https://forge.invalid/team/app.git")
    mirror.ensure()
    return Store(layout, mirror, pygit2.Repository(str(layout.mirror)))


def git(*arguments: str | Path, cwd: Path | None = None) -> str:
    """Run git as an author would, untouched by the host's configuration."""
    done = subprocess.run(
        ["git", *map(str, arguments)], check=True, capture_output=True, text=True, env=GIT_ENVIRONMENT, cwd=cwd
    )
    return done.stdout.strip()
