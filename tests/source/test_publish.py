"""A release is git's bytes and nothing else, whole or not there, whatever ends its writer and whenever."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from controller import failpoints
from controller.disk import remove_tree
from controller.effects.mirror import Mirror
from controller.effects.publish import (
    changed_inodes,
    prepare_spare,
    publish_release,
    repair_release,
    set_aside_release,
    sweep_releases,
    verify_release,
)
from controller.model.config import TreeLimits
from controller.model.errors import OroborosError, Unavailable
from controller.model.names import Layout, Sha, parse_sha
from tests.source.objects import EXECUTABLE, FILE, LINK, Store, git, make_store

LIMITS = TreeLimits()
Files = dict[bytes, tuple[bytes, bytes]]
FIRST: Files = {
    b"README": (FILE, b"hello\n"),
    b"bin/run": (EXECUTABLE, b"#!/bin/sh\n"),
    b"src/app.py": (FILE, b"print(1)\n"),
    b"src/lib/util.py": (FILE, b"x = 1\n"),
    b"empty": (FILE, b""),
}
SECOND: Files = {**FIRST, b"src/app.py": (FILE, b"print(2)\n")}


def publish(store: Store, files: Files, neighbour: Sha | None = None) -> Sha:
    sha = store.commit_files(files)
    publish_release(store.mirror, store.layout, sha, limits=LIMITS, neighbour=neighbour)
    return sha


def read_back(top: Path) -> Files:
    """Return what lies on the disk in the shape that it was written from."""
    found: Files = {}
    for folder, folders, names in os.walk(os.fsencode(top)):
        for name in (*names, *(f for f in folders if os.path.islink(os.path.join(folder, f)))):
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, os.fsencode(top))
            if os.path.islink(path):
                found[relative] = (LINK, os.readlink(path))
            else:
                mode = EXECUTABLE if os.stat(path).st_mode & 0o111 else FILE
                with open(path, "rb") as file:
                    found[relative] = (mode, file.read())
    return found


def names_in(layout: Layout) -> set[str]:
    return set(os.listdir(layout.releases))


def test_release_is_the_commit_read_only_and_its_manifest_lies_beside_it(store: Store) -> None:
    sha = store.commit_files(FIRST)
    published = publish_release(store.mirror, store.layout, sha, limits=LIMITS, neighbour=None)
    top = store.layout.release(sha)
    assert (published.files, published.bytes, published.linked) == (5, sum(len(body) for _, body in FIRST.values()), 0)
    assert read_back(top) == FIRST
    assert {p.stat().st_mode & 0o7777 for p in (top, top / "src", top / "src/lib")} == {0o555}
    assert (top / "README").stat().st_mode & 0o7777 == 0o444
    assert (top / "bin/run").stat().st_mode & 0o7777 == 0o555
    assert names_in(store.layout) == {sha, f"{sha}.manifest"}
    assert verify_release(store.mirror, store.layout, sha) == ()
    assert changed_inodes(store.layout, sha) == ()


def test_modes_do_not_depend_on_the_umask(store: Store) -> None:
    old = os.umask(0o077)
    try:
        sha = publish(store, FIRST)
    finally:
        os.umask(old)
    assert verify_release(store.mirror, store.layout, sha) == ()


def test_unchanged_files_are_links_and_changed_ones_are_not(store: Store) -> None:
    first = publish(store, FIRST)
    files = {**SECOND, b"README": (EXECUTABLE, b"hello\n"), b"lib/util.py": FIRST[b"src/lib/util.py"]}
    second = publish(store, files, first)
    one, two = store.layout.release(first), store.layout.release(second)

    def same(path: str) -> bool:
        return (one / path).stat().st_ino == (two / path).stat().st_ino

    assert {path: same(path) for path in ("bin/run", "src/lib/util.py", "empty", "src/app.py", "README")} == {
        "bin/run": True,
        "src/lib/util.py": True,
        "empty": True,
        "src/app.py": False,  # other bytes
        "README": False,  # another mode
    }
    assert read_back(two) == files
    assert (one / "README").stat().st_mode & 0o7777 == 0o444
    for sha in (first, second):
        assert verify_release(store.mirror, store.layout, sha) == ()
        assert changed_inodes(store.layout, sha) == ()


def test_folder_that_moved_is_linked_from_where_it_was(store: Store) -> None:
    first = publish(store, {b"old/deep/a": (FILE, b"a"), b"old/b": (FILE, b"b"), b"c": (FILE, b"c")})
    files: Files = {b"new/place/deep/a": (FILE, b"a"), b"new/place/b": (FILE, b"b"), b"c": (FILE, b"c")}
    second = store.commit_files(files)
    published = publish_release(store.mirror, store.layout, second, limits=LIMITS, neighbour=first)
    assert published.linked == 3
    assert verify_release(store.mirror, store.layout, second) == ()
    third = store.commit_files({**files, b"c": (FILE, b"d")})
    published = publish_release(store.mirror, store.layout, third, limits=LIMITS, neighbour=second)
    assert published.linked == 2
    assert verify_release(store.mirror, store.layout, third) == ()


def test_publishing_again_changes_nothing(store: Store) -> None:
    sha = publish(store, FIRST)
    before = store.inodes()
    assert publish_release(store.mirror, store.layout, sha, limits=LIMITS, neighbour=None).files == 5
    assert store.inodes() == before


def test_two_at_once_make_one_release(store: Store) -> None:
    first = publish(store, FIRST)
    sha = store.commit_files(SECOND)
    errors: list[OroborosError] = []

    def work() -> None:
        try:
            publish_release(store.mirror, store.layout, sha, limits=LIMITS, neighbour=first)
        except OroborosError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert names_in(store.layout) == {first, f"{first}.manifest", sha, f"{sha}.manifest"}
    assert verify_release(store.mirror, store.layout, sha) == ()
    assert changed_inodes(store.layout, sha) == ()


def test_neighbour_that_was_damaged_or_is_gone_is_not_linked_to(store: Store) -> None:
    first = publish(store, FIRST)
    damaged = store.layout.release(first) / "empty"
    damaged.chmod(0o644)
    damaged.write_text("not empty any more")
    damaged.chmod(0o444)
    second = publish(store, SECOND, first)
    assert verify_release(store.mirror, store.layout, second) == ()
    assert changed_inodes(store.layout, first) == ("empty",)
    store.layout.manifest(first).unlink()
    third = publish(store, {**SECOND, b"more": (FILE, b"more")}, first)
    fourth = publish(store, {**SECOND, b"still more": (FILE, b"more")}, parse_sha("1" * 40))
    for sha in (third, fourth):
        assert verify_release(store.mirror, store.layout, sha) == ()


def test_file_with_as_many_links_as_possible_is_copied(store: Store) -> None:
    """ext4 allows 65,000 links; others more. What matters is that the release is whole either way."""
    first = publish(store, {b"a": (FILE, b"a"), b"b": (FILE, b"b")})
    source = store.layout.release(first) / "a"
    spare = store.layout.root / "links"
    spare.mkdir()
    made = 0
    try:
        for number in range(65_100):
            os.link(source, spare / str(number))
            made += 1
    except OSError as error:
        if error.errno != errno.EMLINK:
            raise
    second = store.commit_files({b"a": (FILE, b"a"), b"b": (FILE, b"b"), b"c": (FILE, b"c")})
    published = publish_release(store.mirror, store.layout, second, limits=LIMITS, neighbour=first)
    assert published.linked == (1 if made < 65_100 else 2)
    assert verify_release(store.mirror, store.layout, second) == ()
    assert changed_inodes(store.layout, second) == ()


def test_attributes_and_planted_configuration_have_no_effect(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    canary = tmp_path / "canary"
    (home / ".gitconfig").write_text(
        f'[core]\n\tfsmonitor = touch {canary}\n\tautocrlf = true\n[filter "bad"]\n\tsmudge = touch {canary}\n'
        f'\trequired = true\n[url "file:///etc/"]\n\tinsteadOf = https://\n[alias]\n\tx = !touch {canary}\n'
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    attributes = b"* text eol=crlf ident filter=bad working-tree-encoding=UTF-16 export-subst\n"
    files: Files = {
        b".gitattributes": (FILE, attributes),
        b"a.txt": (FILE, b"$Id$\nline\n$Format:%H$\n"),
        b"b.txt": (FILE, b"line\r\nline\n\xff\xfe"),
    }
    sha = publish(store, files)
    assert read_back(store.layout.release(sha)) == files
    assert verify_release(store.mirror, store.layout, sha) == ()
    assert not canary.exists()
    assert not (store.layout.release(sha) / ".git").exists()


NAMES = st.sampled_from([b"a", b"b", b"c.txt", b"a.b", b"a-b", b"-x", b"with space", "ünï".encode(), b"$(id)", b"%41"])
BODIES = st.sampled_from([b"", b"one\n", b"two\r\n", bytes(range(256)), b"x" * 70_000])
TREES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=3).map(b"/".join),
    st.tuples(st.sampled_from([FILE, EXECUTABLE]), BODIES),
    min_size=1,
    max_size=12,
)


def without_clashes(files: Files) -> Files:
    """Drop paths that are a folder of another."""
    return {p: entry for p, entry in files.items() if not any(other.startswith(p + b"/") for other in files)}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    trees=st.lists(TREES.map(without_clashes), min_size=2, max_size=4), with_link=st.booleans(), spares=st.booleans()
)
# The whole of a release moves into a folder, and out of it again: its top is a folder like any other.
@example(
    trees=[
        {b"c.txt": (FILE, b""), b"d/e.txt": (FILE, b"e")},
        {b"a/c.txt": (FILE, b""), b"a/d/e.txt": (FILE, b"e")},
        {b"c.txt": (FILE, b""), b"d/e.txt": (FILE, b"e")},
    ],
    with_link=False,
    spares=False,
)
@example(
    trees=[{b"c.txt": (FILE, b"")}, {b"a/c.txt": (FILE, b""), b"b/c.txt": (FILE, b"")}, {b"c.txt": (FILE, b"")}],
    with_link=False,
    spares=True,
)
def test_any_sequence_of_trees_round_trips_byte_for_byte(
    tmp_path: Path, trees: list[Files], with_link: bool, spares: bool
) -> None:
    root = tmp_path / "root"
    try:
        store = make_store(root)
        neighbour: Sha | None = None
        for files in trees:
            if with_link:
                files = {**files, b"zz/to": (FILE, b"target"), b"zz/link": (LINK, b"to")}
            sha = store.commit_files(files)
            publish_release(store.mirror, store.layout, sha, limits=LIMITS, neighbour=neighbour)
            assert read_back(store.layout.release(sha)) == files
            assert verify_release(store.mirror, store.layout, sha) == ()
            assert changed_inodes(store.layout, sha) == ()
            if spares:
                assert prepare_spare(store.layout, sha)
            neighbour = sha
    finally:
        remove_tree(str(root))


def test_spare_makes_the_next_release_and_none_is_left_of_a_removed_one(store: Store) -> None:
    files: Files = {**FIRST, b"gone/x/y": (FILE, b"y"), b"moved/z": (FILE, b"z"), b"now-folder": (FILE, b"f")}
    first = publish(store, files)
    assert prepare_spare(store.layout, first)
    after = dict(files)
    del after[b"gone/x/y"], after[b"now-folder"], after[b"moved/z"]
    after |= {
        b"now-folder/inside": (FILE, b"i"),
        b"gone": (FILE, b"a file now"),
        b"else/z": (FILE, b"z"),
        b"src/app.py": (EXECUTABLE, b"print(1)\n"),
    }
    second = publish(store, after, first)
    assert read_back(store.layout.release(second)) == after
    assert read_back(store.layout.release(first)) == files
    for sha in (first, second):
        assert verify_release(store.mirror, store.layout, sha) == ()
        assert changed_inodes(store.layout, sha) == ()
    assert prepare_spare(store.layout, second)
    set_aside_release(store.layout, second)
    assert sweep_releases(store.layout)
    assert names_in(store.layout) == {first, f"{first}.manifest"}


def test_removed_release_is_gone_and_what_it_shared_is_not(store: Store) -> None:
    first = publish(store, FIRST)
    second = publish(store, SECOND, first)
    set_aside_release(store.layout, first)
    set_aside_release(store.layout, first)
    assert sweep_releases(store.layout)
    assert names_in(store.layout) == {second, f"{second}.manifest"}
    assert verify_release(store.mirror, store.layout, second) == ()


def test_lost_manifest_is_written_again_without_touching_the_release(store: Store) -> None:
    sha = publish(store, {**FIRST, b"link": (LINK, b"README")})
    inode = store.layout.release(sha).stat().st_ino
    manifest = store.layout.manifest(sha).read_bytes()
    store.layout.manifest(sha).unlink()
    publish_release(store.mirror, store.layout, sha, limits=LIMITS, neighbour=None)
    assert store.layout.release(sha).stat().st_ino == inode
    assert store.layout.manifest(sha).read_bytes() == manifest


def test_damaged_release_is_checked_out_again_by_repair(store: Store) -> None:
    sha = publish(store, FIRST)
    assert repair_release(store.mirror, store.layout, sha, limits=LIMITS) == ()
    broken = store.layout.release(sha) / "src/app.py"
    broken.chmod(0o644)
    broken.write_text("half")
    assert len(repair_release(store.mirror, store.layout, sha, limits=LIMITS)) == 2  # content and mode
    assert verify_release(store.mirror, store.layout, sha) == ()
    assert read_back(store.layout.release(sha)) == FIRST


def test_a_repaired_release_leaves_no_spare_of_its_damaged_files(store: Store) -> None:
    first = publish(store, FIRST)
    assert prepare_spare(store.layout, first)
    broken = store.layout.release(first) / "src/app.py"
    broken.chmod(0o644)
    broken.write_text("half")
    repair_release(store.mirror, store.layout, first, limits=LIMITS)
    second = publish(store, {**FIRST, b"new": (FILE, b"new")}, first)

    for sha in (first, second):
        assert changed_inodes(store.layout, sha) == ()
        assert verify_release(store.mirror, store.layout, sha) == ()


def test_files_that_were_written_again_as_they_were_are_known_after_a_repair(store: Store) -> None:
    sha = publish(store, FIRST)
    file = store.layout.release(sha) / "src/app.py"
    body, mode = file.read_bytes(), file.stat().st_mode
    file.parent.chmod(0o755)
    file.unlink()
    file.write_bytes(body)
    file.chmod(mode)
    file.parent.chmod(0o555)
    assert changed_inodes(store.layout, sha) == ("src/app.py",)

    assert repair_release(store.mirror, store.layout, sha, limits=LIMITS) == ()
    assert changed_inodes(store.layout, sha) == ()


def test_full_disk_blames_nobody_and_leaves_nothing(store: Store) -> None:
    """The limit on the size of a file stands for the end of the disk: a write in the middle fails."""
    first = publish(store, FIRST)
    sha = store.commit_files({**FIRST, b"big": (FILE, os.urandom(300_000))})
    before = store.inodes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(Unavailable) as caught:
            publish_release(store.mirror, store.layout, sha, limits=LIMITS, neighbour=first)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.reason == "DiskFull"
    assert store.inodes() == before
    publish_release(store.mirror, store.layout, sha, limits=LIMITS, neighbour=first)
    assert verify_release(store.mirror, store.layout, sha) == ()


PUBLISH_POINTS = [name for name in failpoints.NAMES if name.startswith("publish.")]


def fail_with_enospc() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "point", [p for p in PUBLISH_POINTS if p != "publish.after_rename" and "replacements" not in p]
)
def test_no_space_at_any_step_leaves_no_half_release(store: Store, point: str) -> None:
    first = publish(store, FIRST)
    sha = store.commit_files(SECOND)
    failpoints.arm(point, fail_with_enospc)
    try:
        with pytest.raises(Unavailable, match="DiskFull"):
            publish_release(store.mirror, store.layout, sha, limits=LIMITS, neighbour=first)
    finally:
        failpoints.disarm()
    assert {name for name in names_in(store.layout) if name.startswith(".")} == set()
    assert store.layout.release(sha).is_dir() == (point == "publish.before_parent_sync")
    publish_release(store.mirror, store.layout, sha, limits=LIMITS, neighbour=first)
    assert verify_release(store.mirror, store.layout, sha) == ()


CHILD = """
import os, signal, sys
from pathlib import Path
from controller import failpoints
from controller.effects.mirror import Mirror
from controller.effects.publish import prepare_spare, publish_release, repair_release, set_aside_release, sweep_releases
from controller.model.config import TreeLimits
from controller.model.names import Layout, parse_sha

root, action, sha, neighbour, point = sys.argv[1:]
layout = Layout(Path(root))
mirror = Mirror(layout.mirror, "https://forge.invalid/team/app.git")
failpoints.arm(point, lambda: os.kill(os.getpid(), signal.SIGKILL))
if action == "remove":
    set_aside_release(layout, parse_sha(sha))
    sweep_releases(layout)
elif action == "repair":
    repair_release(mirror, layout, parse_sha(sha), limits=TreeLimits())
else:
    publish_release(mirror, layout, parse_sha(sha), limits=TreeLimits(), neighbour=parse_sha(neighbour))
"""


def run_and_be_killed(store: Store, action: str, sha: Sha, neighbour: Sha, point: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(store.layout.root), action, sha, neighbour, point],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.parametrize("point", PUBLISH_POINTS)
@pytest.mark.parametrize("spare", [False, True])
def test_killed_at_any_step_the_release_is_whole_or_not_there_and_repeating_makes_it(
    store: Store, point: str, spare: bool
) -> None:
    first = publish(store, FIRST)
    sha = store.commit_files(SECOND)
    action = "publish"
    if point == "publish.between_replacements":
        publish_release(store.mirror, store.layout, sha, limits=LIMITS, neighbour=first)
        store.layout.release(sha).chmod(0o755)
        action = "repair"
    if spare:
        prepare_spare(store.layout, first)
    run_and_be_killed(store, action, sha, first, point)
    if action == "publish" and store.layout.release(sha).is_dir():
        assert verify_release(store.mirror, store.layout, sha) == ()
    assert verify_release(store.mirror, store.layout, first) == ()
    publish_release(store.mirror, store.layout, sha, limits=LIMITS, neighbour=first)
    sweep_releases(store.layout)
    assert verify_release(store.mirror, store.layout, sha) == ()
    assert changed_inodes(store.layout, sha) == ()
    assert names_in(store.layout) == {first, f"{first}.manifest", sha, f"{sha}.manifest"}


@pytest.mark.parametrize("point", [name for name in failpoints.NAMES if name.startswith("remove.")])
def test_killed_while_removing_it_is_no_release_any_more_and_the_rest_is_swept(store: Store, point: str) -> None:
    first = publish(store, FIRST)
    second = publish(store, SECOND, first)
    run_and_be_killed(store, "remove", first, second, point)
    assert not store.layout.release(first).exists()
    sweep_releases(store.layout)
    assert names_in(store.layout) == {second, f"{second}.manifest"}
    assert verify_release(store.mirror, store.layout, second) == ()


def test_sweeping_leaves_alone_what_another_is_writing(store: Store) -> None:
    publish(store, FIRST)
    sha = store.commit_files(SECOND)
    swept: list[bool] = []
    failpoints.arm("publish.after_write", lambda: swept.append(sweep_releases(store.layout)))
    try:
        publish_release(store.mirror, store.layout, sha, limits=LIMITS, neighbour=None)
    finally:
        failpoints.disarm()
    assert swept == [True]
    assert verify_release(store.mirror, store.layout, sha) == ()


def recorded(work: Callable[[], object]) -> list[tuple[str, str]]:
    """Return each fsync and rename of `work` in order, with the path that it is about."""
    calls: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, function: object) -> None:
        name = getattr(function, "__name__", "")
        if event != "c_call" or getattr(function, "__module__", "") != "posix" or name not in ("fsync", "rename"):
            return
        inner = frame.f_locals
        if "spare" in inner:
            return  # asks for a prepared copy; nothing gets a name by it
        if name == "fsync":
            calls.append((name, os.readlink(f"/proc/self/fd/{inner['descriptor']}")))
        else:
            calls.append((name, os.fsdecode(inner["path"])))

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def test_files_are_synced_before_their_folder_before_the_renames_before_the_release_folder(store: Store) -> None:
    first = publish(store, FIRST)
    sha = store.commit_files(SECOND)
    calls = recorded(lambda: publish_release(store.mirror, store.layout, sha, limits=LIMITS, neighbour=first))
    top = store.layout.releases
    shapes = [
        (call, "manifest" if path.endswith(".manifest") else "file" if path.endswith("app.py") else "folder")
        for call, path in calls
    ]
    assert shapes[:2] == [("fsync", "file"), ("fsync", "manifest")]
    # Folders below the top are synced on file systems that do not keep the order of changes by themselves.
    assert set(shapes[2:-3]) == {("fsync", "folder")}
    assert [call for call, _ in shapes[-3:]] == ["rename", "rename", "fsync"]
    assert calls[-1] == ("fsync", str(top))
    assert calls[-4][1].startswith(f"{top}/.tmp-{sha}-")


def test_folder_with_a_tree_of_any_depth_is_removed(tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    deep.mkdir()
    descriptor = os.open(deep, os.O_RDONLY)
    for number in range(3000):
        with open(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor), "wb"):
            pass
        os.symlink("/etc/passwd", "link", dir_fd=descriptor)
        os.mkdir(f".{number}" if number % 2 else "d", dir_fd=descriptor)
        inner = os.open(f".{number}" if number % 2 else "d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.fchmod(descriptor, 0o000)
    os.close(descriptor)
    remove_tree(str(deep))
    assert not deep.exists()
    remove_tree(str(deep))


def test_release_of_a_real_repository_equals_what_git_checks_out(tmp_path: Path) -> None:
    work = tmp_path / "work"
    git("init", "-q", "-b", "main", work)
    for number in range(1200):  # enough for several threads
        path = work / f"d{number % 40}" / f"f{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{number}\n" * (number % 50))
    (work / "link").symlink_to("d1/f1")
    git("-C", work, "add", "-A")
    git("-C", work, "commit", "-qm", "one")
    layout = Layout(tmp_path / "root")
    mirror = Mirror(layout.mirror, f"file://{work}", allow_file_url=True)
    mirror.fetch(branch="main", pulls=[])
    head = mirror.production_head()
    assert head is not None
    publish_release(mirror, layout, head.sha, limits=LIMITS, neighbour=None)
    assert read_back(layout.release(head.sha)) == {
        p: e for p, e in read_back(work).items() if not p.startswith(b".git/")
    }
    assert verify_release(mirror, layout, head.sha) == ()
    (work / "d1" / "f1").write_text("changed")
    git("-C", work, "commit", "-qam", "two")
    mirror.fetch(branch="main", pulls=[])
    newer = mirror.production_head()
    assert newer is not None
    # With a link in the tree every folder is judged; the files are linked all the same.
    assert publish_release(mirror, layout, newer.sha, limits=LIMITS, neighbour=head.sha).linked == 1199
    assert verify_release(mirror, layout, newer.sha) == ()
    assert changed_inodes(layout, newer.sha) == ()
    remove_tree(str(layout.root))
