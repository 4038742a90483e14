"""Dump and restore databases, pack and unpack folders: the host's own pg_dump(1), pg_restore(1) and tar(1).

Each dump is one snapshot of one database, made and restored as the role that owns it, let in over the socket by who it
is: there is no password, and what a dump holds can do no more than that role. tar(1) keeps owners by name, hard links
and access lists. Every call has a limit, and a file that is not whole is never under its final name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from controller.decisions.backup import Part
from controller.model.errors import Unavailable
from controller.model.names import POSTGRES_SOCKETS

#: Of one dump, one restoration, one archive.
STEP_LIMIT_S = 4 * 3600.0
SAID_BYTES_MAX = 2_000
CHUNK_BYTES = 1 << 20
#: What tar(1) ends with when a file changed while it was read: an app writes on.
FILE_CHANGED = 1
#: And when something is missing or damaged.
TAR_FAILED = 2


def dump_database(name: str, *, user: str, role: str, to: Path) -> None:
    """Write a snapshot of a database into a file."""
    words = ("pg_dump", "--format=custom", "--no-owner", "--no-acl", *_where(name, role))
    with to.open("xb") as file:
        _run(("runuser", "-u", user, "--", *words), stdout=file.fileno())


def restore_database(name: str, *, user: str, role: str, dump: Path) -> None:
    """Read a snapshot into a database that is empty; all of it, or nothing."""
    words = ("pg_restore", "--no-owner", "--no-acl", "--exit-on-error", "--single-transaction", *_where(name, role))
    with dump.open("rb") as file:
        _run(("runuser", "-u", user, "--", *words), stdin=file.fileno())


def _where(name: str, role: str) -> tuple[str, ...]:
    return (f"--host={POSTGRES_SOCKETS}", f"--username={role}", f"--dbname={name}", "--no-password")


def pack(folder: Path, names: Sequence[str], to: Path, *, without: Sequence[str] = ()) -> None:
    """Write what lies under some names of a folder into a compressed archive, as far as it is there."""
    there = [name for name in names if os.path.lexists(folder / name)]
    left = (f"--exclude={name}" for name in without)
    words = ("tar", "--create", "--gzip", "--acls", f"--file={to}", f"--directory={folder}", "--anchored", *left)
    _run((*words, "--", *there) if there else (*words, "--files-from=/dev/null"), allowed=(0, FILE_CHANGED))


def bundle(folder: Path, names: Sequence[str], to: Path) -> None:
    """Write files of a folder into one archive, in their order, and see that it is on the disk."""
    _run(("tar", "--create", f"--file={to}", f"--directory={folder}", "--", *names))
    with to.open("rb") as file:
        os.fsync(file.fileno())


def unbundle(archive: Path, names: Sequence[str], into: Path) -> None:
    """Unfold files of an archive. Of a damaged one come those that can be had: their digests say the rest."""
    words = ("tar", "--extract", "--no-same-owner", f"--file={archive}", f"--directory={into}", "--", *names)
    _run(words, allowed=(0, TAR_FAILED))


def unpack(archive: Path, into: Path) -> None:
    """Unfold an archive into a folder that is there."""
    _run(("tar", "--extract", "--acls", "--preserve-permissions", f"--file={archive}", f"--directory={into}"))


def measure(path: Path) -> Part:
    """Return size and digest of a file."""
    total, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            total.update(chunk)
            size += len(chunk)
    return Part(size_bytes=size, sha256=total.hexdigest())


def measure_all(folder: Path, names: Iterable[str]) -> dict[str, Part]:
    """Return size and digest of those files that are there."""
    found: dict[str, Part] = {}
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            found[name] = measure(folder / name)
    return found


def _run(
    words: Sequence[str],
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    allowed: Sequence[int] = (0,),
) -> None:
    try:
        done = subprocess.run(
            words, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, timeout=STEP_LIMIT_S, check=False, cwd="/"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable("HostToolFailed", f"{words[0]} could not be run: {error}") from error
    if done.returncode not in allowed:
        told = done.stderr[-SAID_BYTES_MAX:].decode(errors="replace").strip().splitlines()
        program = next(word for word in words if word in ("pg_dump", "pg_restore", "tar"))
        said = told[0] if program == "pg_restore" and told else told[-1] if told else f"exit code {done.returncode}"
        raise Unavailable("HostToolFailed", f"{program}: {said}")
