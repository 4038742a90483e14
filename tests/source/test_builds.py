"""A build gets a copy of its own, is walked like a git tree, and counts once its marker is there."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from controller.effects.checkout import (
    built_bytes,
    changed_since_sealed,
    copy_for_build,
    is_sealed,
    remove_build,
    seal_build,
    walk_build,
)
from controller.effects.publish import publish_release, verify_release
from controller.model.config import TreeLimits
from controller.model.errors import Failed
from controller.model.names import Sha, TreeId, build_marker
from tests.source.objects import EXECUTABLE, FILE, LINK, Store

#: The kernel dates files by its tick: right after a moment it may still date them before it.
FILE_TIMES_S = 0.05


@pytest.fixture
def sha(store: Store) -> Sha:
    files = {b"src/a": (FILE, b"a" * 100_000), b"build.sh": (EXECUTABLE, b"#!/bin/sh\n"), b"to": (LINK, b"src/a")}
    sha = store.commit_files(files)
    publish_release(store.mirror, store.layout, sha, limits=TreeLimits(), neighbour=None)
    return sha


@pytest.fixture
def build(store: Store, sha: Sha) -> Path:
    destination = store.layout.builds / "pr-1" / "tree-recipe"
    copy_for_build(store.layout.release(sha), destination)
    return destination


def test_copy_is_writable_and_shares_nothing_with_the_release(store: Store, sha: Sha, build: Path) -> None:
    assert (build / "src/a").read_bytes() == b"a" * 100_000
    assert os.readlink(build / "to") == "src/a"
    modes = {name: (build / name).lstat().st_mode & 0o7777 for name in ("src", "src/a", "build.sh")}
    assert modes == {"src": 0o755, "src/a": 0o644, "build.sh": 0o755}
    (build / "src/a").write_bytes(b"changed by the build")
    assert verify_release(store.mirror, store.layout, sha) == ()


def edit_a_file(build: Path) -> None:
    (build / "src/a").write_bytes(b"edited")


def edit_and_keep_the_size(build: Path) -> None:
    before = (build / "src/a").stat()
    (build / "src/a").write_bytes(b"b" * before.st_size)
    os.utime(build / "src/a", ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def add_a_file(build: Path) -> None:
    (build / "src/added").write_text("")


def point_a_link_elsewhere(build: Path) -> None:
    (build / "to").unlink()
    (build / "to").symlink_to("src")


def make_a_file_executable(build: Path) -> None:
    (build / "src/a").chmod(0o755)


def remove_a_file(build: Path) -> None:
    (build / "src/a").unlink()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (edit_a_file, ("src/a",)),
        (edit_and_keep_the_size, ("src/a",)),
        (add_a_file, ("src/added",)),
        (point_a_link_elsewhere, ("to",)),
        (make_a_file_executable, ("src/a",)),
        (remove_a_file, ("something of it is gone",)),
    ],
)
def test_what_was_changed_since_it_was_sealed_is_named(
    build: Path, change: Callable[[Path], None], told: tuple[str, ...]
) -> None:
    assert changed_since_sealed(build) == (), "it is not sealed"
    seal_build(build)
    assert changed_since_sealed(build) == ()
    time.sleep(FILE_TIMES_S)
    change(build)
    assert changed_since_sealed(build) == told


def test_opening_a_sealed_build_to_a_user_is_no_change(build: Path) -> None:
    seal_build(build)
    build.chmod(0o711)
    os.utime(build)
    assert changed_since_sealed(build) == ()


def test_a_build_that_was_sealed_before_digests_were_kept_is_believed(build: Path) -> None:
    seal_build(build)
    marked = json.loads(build_marker(build).read_text())
    del marked["digest"]
    build_marker(build).write_text(json.dumps(marked))
    edit_a_file(build)
    assert changed_since_sealed(build) == ()


def test_unsealed_build_is_begun_again_and_a_sealed_one_is_kept(store: Store, sha: Sha, build: Path) -> None:
    (build / "half").write_text("of an earlier try")
    assert not is_sealed(build)
    copy_for_build(store.layout.release(sha), build)
    assert not (build / "half").exists()
    (build / "out").write_text("made")
    assert seal_build(build).files == 3
    copy_for_build(store.layout.release(sha), build)
    assert (build / "out").read_text() == "made"
    assert is_sealed(build)
    seal_build(build)
    remove_build(build)
    remove_build(build)
    assert (is_sealed(build), list(build.parent.iterdir())) == (False, [])


def pipe(build: Path) -> None:
    os.mkfifo(build / "out")


def listening(build: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        old = Path.cwd()
        os.chdir(build)  # a socket's path holds 107 bytes
        try:
            server.bind("out")
        finally:
            os.chdir(old)


def set_uid(build: Path) -> None:
    (build / "out").write_text("x")
    (build / "out").chmod(0o4755)


def chained_out(build: Path) -> None:
    (build / "here").symlink_to("src")
    (build / "out").symlink_to("here/../../..")


def loop(build: Path) -> None:
    (build / "out").symlink_to("other")
    (build / "other").symlink_to("out")


def deep(build: Path) -> None:
    (build / Path(*["out"] * 210)).mkdir(parents=True)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda build: (build / "out").symlink_to("/etc/passwd"), "BuildLinkLeaves"),
        (lambda build: (build / "src/out").symlink_to("../../x"), "BuildLinkLeaves"),
        (lambda build: (build / "out").symlink_to(f"{build}-other/x"), "BuildLinkLeaves"),
        (chained_out, "BuildLinkLeaves"),
        (loop, "BuildLinkEndless"),
        (pipe, "BuildHasSpecialFile"),
        (listening, "BuildHasSpecialFile"),
        (set_uid, "BuildHasSetuid"),
        (deep, "BuildTooDeep"),
    ],
)
def test_what_a_build_may_not_make_is_refused_and_not_sealed(
    build: Path, make: Callable[[Path], object], reason: str
) -> None:
    make(build)
    with pytest.raises(Failed) as caught:
        seal_build(build)
    assert caught.value.reason == reason
    assert caught.value.message.isprintable()
    assert not is_sealed(build)


def test_links_that_stay_inside_are_well_however_they_say_it(build: Path) -> None:
    (build / "node_modules/.bin").mkdir(parents=True)
    (build / "node_modules/.bin/tool").symlink_to("../pkg/tool.js")
    (build / "absolute").symlink_to(build / "src/a")
    (build / "lib").mkdir()
    (build / "lib64").symlink_to("lib")
    (build / "chained").symlink_to("lib64/missing")
    assert walk_build(build).files == 2


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """Interpreters of a host, outside of everything of ours."""
    made = tmp_path / "host/opt/cpython-3.12/bin"
    made.mkdir(parents=True)
    for name in ("python3.12", "node", "secret"):
        (made / name).write_text("#!/bin/sh\n")
        (made / name).chmod(0o755)
    (made.parent / "node").write_text("no program")
    return made


def venv(build: Path, python: Path, *, name: str = ".venv") -> None:
    """The links that venv, virtualenv, uv and poetry make."""
    (build / name / "bin").mkdir(parents=True)
    (build / name / "lib").mkdir()
    (build / name / "lib64").symlink_to("lib")
    (build / name / "bin/python").symlink_to(python)
    (build / name / "bin/python3").symlink_to("python")
    (build / name / "bin/python3.12").symlink_to(build / name / "bin/python3")


@pytest.mark.parametrize(
    ("served", "name"), [(None, "venv"), ("public", "venv"), ("public", ".venv"), (".", ".venv"), ("src", ".tools")]
)
def test_a_virtual_environment_that_is_not_served_may_name_an_interpreter_of_the_host(
    build: Path, tools: Path, served: str | None, name: str
) -> None:
    (build / "public").mkdir()
    venv(build, tools / "python3.12", name=name)
    (build / "by-dots").symlink_to(os.path.relpath(tools / "node", build)) if served != "." else None
    seal_build(build, served=served)
    assert is_sealed(build)


@pytest.mark.parametrize(
    "make",
    [
        lambda build, tools: venv(build, tools / "python3.12", name="public/venv"),
        lambda build, tools: (build / "public/python3").symlink_to(tools / "python3.12"),
        lambda build, tools: ((build / "a").symlink_to(tools / "node"), (build / "public/b").symlink_to("../a")),
        lambda build, tools: (build / "a").symlink_to(tools / "secret"),
        lambda build, tools: (build / "a").symlink_to(tools / "../node"),
        lambda build, tools: (build / "a").symlink_to(tools / "python3.13"),
        lambda build, tools: (build / "a").symlink_to(tools.parent),
        lambda build, _: (build / "a").symlink_to("/etc/passwd"),
        lambda build, _: another_slots(build),
    ],
)
def test_what_is_served_leaves_no_build_and_elsewhere_only_interpreters_are_named(
    build: Path, tools: Path, make: Callable[[Path, Path], object]
) -> None:
    (build / "public").mkdir()
    make(build, tools)
    with pytest.raises(Failed) as caught:
        seal_build(build, served="public")
    assert caught.value.reason == "BuildLinkLeaves"


def another_slots(build: Path) -> None:
    other = build.parents[1] / "pr-2/made/bin/python3"
    other.parent.mkdir(parents=True)
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    (build / "a").symlink_to(other)


def test_a_served_folder_may_be_a_link_inside_the_build_and_is_judged_where_it_lies(build: Path, tools: Path) -> None:
    (build / ".output/public").mkdir(parents=True)
    (build / "dist").symlink_to(".output/public")
    seal_build(build, served="dist")
    remove_build_marker(build)
    (build / ".output/public/python3").symlink_to(tools / "python3.12")
    with pytest.raises(Failed, match="would be served"):
        seal_build(build, served="dist")
    (build / "dist").unlink()
    (build / "dist").symlink_to(tools)
    with pytest.raises(Failed, match="BuildLinkLeaves"):
        seal_build(build, served="dist")


def remove_build_marker(build: Path) -> None:
    build_marker(build).unlink()


def test_a_build_under_a_root_that_is_a_link_may_name_itself_by_either_path(store: Store, build: Path) -> None:
    root = store.layout.root
    (root.parent / "linked").symlink_to(root)
    named = root.parent / "linked" / build.relative_to(root)
    venv(build, build / "build.sh")
    (build / "again").symlink_to(named / "src/a")
    assert walk_build(named).files == 2


def test_all_that_is_wrong_with_a_build_is_told_at_once(build: Path) -> None:
    for number in range(9):
        (build / f"out{number}").symlink_to("/etc/passwd")
    pipe(build)
    with pytest.raises(Failed) as caught:
        seal_build(build)
    assert caught.value.message.count("a link that leaves it (to /etc/passwd)") + ("pipe" in caught.value.message) == 4
    assert "and 6 more" in caught.value.message


CHILD = """
import os, signal, sys
from pathlib import Path
from controller import failpoints
from controller.effects.checkout import seal_build
failpoints.arm(sys.argv[2], lambda: os.kill(os.getpid(), signal.SIGKILL))
seal_build(Path(sys.argv[1]))
"""


@pytest.mark.parametrize(("point", "sealed"), [("seal.before_marker", False), ("seal.after_marker", True)])
def test_killed_while_sealing_it_is_sealed_only_when_all_is_on_the_disk(build: Path, point: str, sealed: bool) -> None:
    repository = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", CHILD, str(build), point], cwd=repository, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert is_sealed(build) == sealed
    seal_build(build)
    assert is_sealed(build)


def test_a_file_with_several_names_counts_once_and_each_release_knows_its_builds(store: Store, build: Path) -> None:
    before = walk_build(build).bytes
    (build / "large").write_bytes(b"x" * 1_000)
    os.link(build / "large", build / "again")
    walked = walk_build(build)
    assert (walked.bytes, walked.files) == (before + 1_000, 4)
    tree = TreeId(build.name.partition("-")[0])
    assert built_bytes(store.layout) == {}
    seal_build(build)
    assert built_bytes(store.layout) == {tree: before + 1_000}
