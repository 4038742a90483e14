"""`verify` asks git and the disk, and believes no manifest; the cheap check before a switch sees what was touched."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from controller.effects.publish import Damage, changed_inodes, publish_release, verify_release
from controller.model.config import TreeLimits
from controller.model.errors import Unavailable
from controller.model.names import Sha, parse_sha
from tests.source.objects import EXECUTABLE, FILE, LINK, Store


@pytest.fixture
def sha(store: Store) -> Sha:
    files = {
        b"page.html": (FILE, b"<p>hello</p>\n"),
        b"bin/run": (EXECUTABLE, b"#!/bin/sh\n"),
        b"src/deep/x": (FILE, b"x"),
        b"link": (LINK, b"src/deep"),
    }
    sha = store.commit_files(files)
    publish_release(store.mirror, store.layout, sha, limits=TreeLimits(), neighbour=None)
    return sha


def found(store: Store, sha: Sha) -> set[tuple[str, Damage]]:
    return {(problem.path, problem.damage) for problem in verify_release(store.mirror, store.layout, sha)}


WRITABLE, READ_ONLY = 0o755, 0o555


def set_folders(top: Path, mode: int) -> None:
    """Open a release's folders to the test, as they need not be for root, or close them again."""
    for folder, _, _ in os.walk(top):
        os.chmod(folder, mode)


def overwrite(top: Path) -> None:
    path = top / "page.html"
    path.chmod(0o644)
    path.write_bytes(b"<p>HELLO</p>\n")
    path.chmod(0o444)


def retarget(top: Path) -> None:
    (top / "link").unlink()
    (top / "link").symlink_to("/etc")


def replace_by_link(top: Path) -> None:
    (top / "page.html").unlink()
    (top / "page.html").symlink_to("/etc/passwd")


def replace_by_pipe(top: Path) -> None:
    (top / "page.html").unlink()
    os.mkfifo(top / "page.html")


def replace_folder_by_link(top: Path) -> None:
    os.rename(top / "src", top.parent / ".moved")
    (top / "src").symlink_to("../.moved")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (overwrite, {("page.html", Damage.CONTENT)}),
        (lambda top: (top / "page.html").unlink(), {("page.html", Damage.MISSING)}),
        (lambda top: (top / "src/extra").write_text("x"), {("src/extra", Damage.EXTRA)}),
        (lambda top: (top / "src/.git").mkdir(), {("src/.git", Damage.EXTRA)}),
        (lambda top: (top / "page.html").chmod(0o644), {("page.html", Damage.MODE)}),
        (lambda top: (top / "bin/run").chmod(0o4555), {("bin/run", Damage.MODE)}),
        (retarget, {("link", Damage.TARGET)}),
        (replace_by_link, {("page.html", Damage.KIND)}),
        (replace_by_pipe, {("page.html", Damage.KIND)}),
        (replace_folder_by_link, {("src", Damage.KIND)}),
    ],
)
def test_damage_is_found_also_when_the_manifest_agrees_with_it(
    store: Store, sha: Sha, damage: Callable[[Path], object], expected: set[tuple[str, Damage]]
) -> None:
    top = store.layout.release(sha)
    set_folders(top, WRITABLE)
    damage(top)
    set_folders(top, READ_ONLY)
    manifest = store.layout.manifest(sha)
    manifest.chmod(0o644)
    manifest.write_bytes(agreeing(manifest.read_bytes(), top))
    assert found(store, sha) == expected


def agreeing(manifest: bytes, top: Path) -> bytes:
    """Return a manifest that says what is on the disk now, as someone who covers tracks would write it."""
    first, *lines = manifest[:-1].split(b"\n")
    kept = [first]
    for line in lines:
        mode, *_, path = line.split(b" ", 5)
        here = os.path.join(os.fsencode(top), path)
        if mode == b"40000" or os.path.islink(here) or not os.path.isfile(here):
            kept.append(line)
            continue
        with open(here, "rb") as file:
            body = file.read()
        status = os.stat(here)
        blob = hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest().encode()
        kept.append(b"%s %s %d %d %d %s" % (mode, blob, len(body), status.st_ino, status.st_mtime_ns, path))
    return b"\n".join(kept) + b"\n"


def test_release_that_is_gone_is_missing_and_not_well(store: Store, sha: Sha) -> None:
    other = store.commit_files({b"a": (FILE, b"a")})
    assert found(store, other) == {("", Damage.MISSING)}
    with pytest.raises(Unavailable, match="CommitMissing"):
        verify_release(store.mirror, store.layout, parse_sha("0" * 40))


def test_cheap_check_sees_a_file_that_was_written_to_replaced_or_made_executable(store: Store, sha: Sha) -> None:
    top = store.layout.release(sha)
    assert changed_inodes(store.layout, sha) == ()
    overwrite(top)  # as many bytes as before
    assert changed_inodes(store.layout, sha) == ("page.html",)
    (top / "src/deep/x").chmod(0o755)
    set_folders(top, WRITABLE)
    (top / "bin/run").unlink()
    assert set(changed_inodes(store.layout, sha)) == {"page.html", "src/deep/x", "bin/run"}
    store.layout.manifest(sha).unlink()
    with pytest.raises(Unavailable, match="ManifestUnreadable"):
        changed_inodes(store.layout, sha)
