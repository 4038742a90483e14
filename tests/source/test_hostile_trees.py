"""Trees that must never reach the disk: each is refused by name and reason, with the release root as it was."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from controller.decisions.tree_rules import changed_paths
from controller.effects.publish import publish_release, repair_release, verify_release
from controller.model.config import TreeLimits
from controller.model.errors import Failed
from controller.model.names import Sha
from tests.source.objects import EXECUTABLE, FILE, FOLDER, LINK, SUBMODULE, Entry, Store

LIMITS = TreeLimits()


def refusal(store: Store, tree: bytes, limits: TreeLimits = LIMITS) -> Failed:
    """Publish a commit of `tree`, with a neighbour there; return the refusal, having seen that nothing changed."""
    neighbour = publish(store, store.commit_files({b"a": (FILE, b"a\n")}))
    before = store.inodes()
    with pytest.raises(Failed) as caught:
        publish_release(store.mirror, store.layout, store.commit(tree), limits=limits, neighbour=neighbour)
    assert store.inodes() == before
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400
    return caught.value


def publish(store: Store, sha: Sha, neighbour: Sha | None = None) -> Sha:
    publish_release(store.mirror, store.layout, sha, limits=LIMITS, neighbour=neighbour)
    return sha


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (b"/etc/passwd", "LinkAbsolute"),
        (b"../outside", "LinkLeavesTree"),
        (b"folder/../../outside", "LinkLeavesTree"),
        (b"..", "LinkLeavesTree"),
        (b"link", "LinkToItself"),
        (b"./link", "LinkToItself"),
        (b".", "LinkToItself"),
        (b"folder/..", "LinkToItself"),
        (b"other", "LinkChained"),
        (b"other/x", "LinkChained"),
        (b"nowhere", "LinkDangling"),
        (b"file/x", "LinkDangling"),
        (b"file/", "LinkDangling"),
        (b"file/..", "LinkDangling"),
        (b"", "LinkMalformed"),
        (b"fi\0le", "LinkMalformed"),
        (b"fi\nle", "LinkMalformed"),
        (b"a/" * 1000, "LinkMalformed"),
    ],
)
def test_link_is_refused(store: Store, target: bytes, reason: str) -> None:
    inner = store.tree((FILE, b"x", store.blob(b"x")))
    tree = store.tree(
        (FILE, b"file", store.blob(b"x")),
        (FOLDER, b"folder", inner),
        (LINK, b"link", store.blob(target)),
        (LINK, b"other", store.blob(b"folder")),
    )
    error = refusal(store, tree)
    assert (error.reason, "link" in error.message) == (reason, True)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (b"nowhere", ""),
        (b"nowhere/app/public", ""),
        (b"folder/made/later", ""),
        (b"../nowhere", "LinkLeavesTree"),
        (b"nowhere/../../outside", "LinkLeavesTree"),
        (b"/var/nowhere", "LinkAbsolute"),
        (b"other/nowhere", "LinkChained"),
        (b"file/x", "LinkDangling"),
    ],
)
def test_where_a_build_comes_later_a_link_may_name_what_it_makes_in_the_tree(
    store: Store, target: bytes, reason: str
) -> None:
    tree = store.tree(
        (FILE, b"file", store.blob(b"x")),
        (FOLDER, b"folder", store.tree((FILE, b"x", store.blob(b"x")))),
        (LINK, b"link", store.blob(target)),
        (LINK, b"other", store.blob(b"folder")),
    )
    sha = store.commit(tree)
    if reason:
        with pytest.raises(Failed, match=f"^{reason}: "):
            publish_release(store.mirror, store.layout, sha, limits=LIMITS, neighbour=None, is_built=True)
        return
    publish_release(store.mirror, store.layout, sha, limits=LIMITS, neighbour=None, is_built=True)
    assert (store.layout.release(sha) / "link").readlink() == Path(target.decode())
    assert verify_release(store.mirror, store.layout, sha) == ()
    (store.layout.release(sha)).chmod(0o755)
    (store.layout.release(sha) / "link").unlink()
    repair_release(store.mirror, store.layout, sha, limits=LIMITS)
    assert verify_release(store.mirror, store.layout, sha) == ()


def test_all_links_that_are_refused_are_told_at_once(store: Store) -> None:
    links = [(LINK, b"a%03d" % k, store.blob(b"nowhere" if k % 2 else b"/etc/passwd")) for k in range(40)]
    error = refusal(store, store.tree(*links))
    assert error.reason == "LinkAbsolute"
    assert "a000" in error.message
    assert "a001 is a link to nowhere" in error.message
    assert "more links" in error.message


def test_link_from_a_folder_to_the_folder_above_is_refused_as_endless(store: Store) -> None:
    inner = store.tree((LINK, b"up", store.blob(b"..")))
    outer = store.tree((FOLDER, b"inner", inner))
    assert refusal(store, store.tree((FOLDER, b"outer", outer))).reason == "LinkToItself"


@pytest.mark.parametrize(
    "name",
    [
        b".git",
        b".GIT",
        b".Git",
        b".git.",
        b".git ",
        b".git. .",
        b"git~1",
        b"GIT~1",
        b".git:stream",
        b".git::$INDEX_ALLOCATION",
        b".git\\config",
        ".g\u200cit".encode(),
        ".gi\u200dt".encode(),
        "\ufeff.git".encode(),
        ".git\u206f".encode(),
        b"..",
        b".",
        b"a/b",
        b"/",
        b"../x",
    ],
)
@pytest.mark.parametrize("mode", [FILE, FOLDER])
def test_forbidden_name_is_refused(store: Store, name: bytes, mode: bytes) -> None:
    entry = store.blob(b"x") if mode == FILE else store.tree((FILE, b"config", store.blob(b"x")))
    tree = store.tree((FOLDER, b"src", store.tree((mode, name, entry))))
    assert refusal(store, tree).reason == "NameForbidden"


@pytest.mark.parametrize(
    "name", [b".github", b".gitignore", b".gitattributes", b"git", b"git~2", b"digit", b"...", b"a\\b"]
)
def test_ordinary_name_is_written(store: Store, name: bytes) -> None:
    sha = publish(store, store.commit(store.tree((FILE, name, store.blob(b"x")))))
    assert (store.layout.release(sha) / name.decode()).read_bytes() == b"x"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (b"a\nb", "NameHasControlBytes"),
        (b"a\x1b[31mred", "NameHasControlBytes"),
        (b"a\rb", "NameHasControlBytes"),
        (b"\x7f", "NameHasControlBytes"),
        (b"caf\xe9", "NameNotUtf8"),
        (b"\xed\xa0\x80", "NameNotUtf8"),
        (b"n" * 256, "NameTooLong"),
        (b"n" * 300, "NameTooLong"),
    ],
)
def test_odd_name_is_refused_and_shown_harmlessly(store: Store, name: bytes, reason: str) -> None:
    assert refusal(store, store.tree((FILE, name, store.blob(b"x")))).reason == reason


def test_empty_name_and_garbage_are_not_a_tree(store: Store) -> None:
    blob = store.blob(b"x")
    assert refusal(store, store.tree((FILE, b"", blob))).reason == "TreeMalformed"
    assert refusal(store, store.tree((b"", b"a", blob))).reason == "TreeMalformed"
    assert refusal(store, store.tree((FILE, b"cut", blob[:10]))).reason == "TreeMalformed"
    assert refusal(store, store.tree((FILE, b"folder", store.tree()))).reason == "TreeMalformed"
    assert refusal(store, store.tree((FOLDER, b"file", blob))).reason == "TreeMalformed"


@pytest.mark.parametrize(
    "mode", [b"104755", b"106755", b"101755", b"100600", b"100400", b"100777", b"60644", b"20666", b"0"]
)
def test_odd_mode_is_refused(store: Store, mode: bytes) -> None:
    error = refusal(store, store.tree((mode, b"tool", store.blob(b"#!/bin/sh\n"))))
    assert (error.reason, mode.decode() in error.message) == ("ModeForbidden", True)


def test_legacy_mode_is_a_plain_file_and_nothing_is_setuid(store: Store) -> None:
    body = store.blob(b"x")
    sha = publish(store, store.commit(store.tree((EXECUTABLE, b"run", body), (b"100664", b"text", body))))
    modes = {name: (store.layout.release(sha) / name).stat().st_mode & 0o7777 for name in ("run", "text")}
    assert modes == {"run": 0o555, "text": 0o444}


def test_submodule_is_refused_by_name(store: Store) -> None:
    tree = store.tree((FOLDER, b"vendor", store.tree((SUBMODULE, b"lib", b"\x01" * 20))))
    error = refusal(store, tree)
    assert (error.reason, error.message) == (
        "Submodule",
        "vendor/lib is a submodule; submodules are not supported",
    )


@pytest.mark.parametrize("apart", [False, True])
def test_same_name_twice_is_refused(store: Store, apart: bool) -> None:
    """A link and then a folder of the same name is how files were written through a link."""
    link: Entry = (LINK, b"a", store.blob(b"b"))
    folder: Entry = (FOLDER, b"a", store.tree((FILE, b"x", store.blob(b"x"))))
    between: tuple[Entry, ...] = ((FILE, b"a.b", store.blob(b"x")),) if apart else ()
    assert refusal(store, store.tree(link, *between, folder)).reason == "NameTwice"


def test_bomb_of_ten_billion_files_is_counted_not_walked(store: Store) -> None:
    tree = store.tree(*((FILE, b"f%d" % k, store.blob(b"x")) for k in range(10)))
    for _ in range(9):
        tree = store.tree(*((FOLDER, b"d%d" % k, tree) for k in range(10)))
    began_at = time.process_time()
    error = refusal(store, tree)
    assert error.reason == "TooManyFiles"
    assert time.process_time() - began_at < 2


def test_what_differs_from_a_bomb_is_listed_up_to_a_bound(store: Store) -> None:
    blob = store.blob(b"x")
    old = store.files({b"a": (FILE, b"1"), b"b/c": (FILE, b"2"), b"gone/d": (FILE, b"3"), b"turned": (FILE, b"4")})
    new = store.files({b"a": (FILE, b"1"), b"b/c": (EXECUTABLE, b"2"), b"b/e": (LINK, b"c"), b"turned/f": (FILE, b"4")})
    assert differing(store, old, new) == (b"b/c", b"b/e", b"gone/d", b"turned", b"turned/f")
    bomb = store.tree(*((FILE, b"f%d" % k, blob) for k in range(10)))
    for _ in range(9):
        bomb = store.tree(*((FOLDER, b"d%d" % k, bomb) for k in range(10)))
    read: list[bytes] = []
    assert len(differing(store, old, bomb, read)) == 100
    assert len(read) <= 200


def differing(store: Store, old: bytes, new: bytes, read: list[bytes] | None = None) -> tuple[bytes, ...]:
    with store.mirror.objects() as objects:

        def read_tree(tree: bytes) -> bytes:
            if read is not None:
                read.append(tree)
            return objects.read_tree(tree)

        return changed_paths(old, new, read_tree=read_tree, paths_max=100)


def test_bomb_of_empty_folders_is_refused_too(store: Store) -> None:
    tree = store.tree()
    for _ in range(10):
        tree = store.tree(*((FOLDER, b"d%d" % k, tree) for k in range(10)))
    assert refusal(store, tree).reason == "TooManyFiles"


def test_two_hundred_thousand_files_are_refused(store: Store) -> None:
    blob = store.blob(b"x")
    tree = store.tree(*((FILE, b"f%06d" % k, blob) for k in range(200_000)))
    assert refusal(store, tree).reason == "TooManyFiles"


def test_depth_of_three_thousand_is_refused_and_sixty_four_is_not(store: Store) -> None:
    def nested(depth: int) -> bytes:
        tree = store.tree((FILE, b"x", store.blob(b"x")))
        for _ in range(depth):
            tree = store.tree((FOLDER, b"d", tree))
        return tree

    assert refusal(store, nested(3000)).reason == "TreeTooDeep"
    assert refusal(store, nested(65)).reason == "TreeTooDeep"
    sha = publish(store, store.commit(nested(64)))
    assert store.layout.release(sha).joinpath(*["d"] * 64, "x").read_bytes() == b"x"


def test_deep_tree_that_is_shared_with_the_neighbour_is_still_measured(store: Store) -> None:
    deep = store.tree((FILE, b"x", store.blob(b"x")))
    for _ in range(40):
        deep = store.tree((FOLDER, b"d", deep))
    neighbour = publish(store, store.commit(deep))
    deeper = deep
    for _ in range(30):
        deeper = store.tree((FOLDER, b"e", deeper))
    with pytest.raises(Failed, match="TreeTooDeep"):
        publish(store, store.commit(deeper), neighbour)


def test_long_path_and_large_files_are_refused_by_name(store: Store) -> None:
    tree = store.tree((FILE, b"x", store.blob(b"x")))
    for _ in range(20):
        tree = store.tree((FOLDER, b"d" * 200, tree))
    assert refusal(store, tree).reason == "PathTooLong"
    big = store.tree((FOLDER, b"assets", store.tree((FILE, b"film.mp4", store.blob(b"x" * 5000)))))
    error = refusal(store, big, TreeLimits(blob_bytes_max=4999))
    assert (error.reason, "assets/film.mp4" in error.message) == ("FileTooLarge", True)
    many = store.tree(*((FILE, b"f%d" % k, store.blob(b"x" * 100 + b"%d" % k)) for k in range(20)))
    assert refusal(store, many, TreeLimits(total_bytes_max=1500)).reason == "TreeTooLarge"


def test_limits_that_were_lowered_count_for_files_shared_with_the_neighbour(store: Store) -> None:
    inner = store.files({b"film.mp4": (FILE, b"x" * 5000)})
    neighbour = publish(store, store.commit(store.tree((FOLDER, b"assets", inner))))
    tree = store.tree((FOLDER, b"assets", inner), (FILE, b"new", store.blob(b"y")))
    with pytest.raises(Failed, match="FileTooLarge"):
        publish_release(
            store.mirror, store.layout, store.commit(tree), limits=TreeLimits(blob_bytes_max=100), neighbour=neighbour
        )


def test_too_many_links_are_refused_before_they_are_followed(store: Store) -> None:
    target = store.blob(b"x/../" * 200 + b"f")
    names = (b"l%05d" % k for k in range(10_001))
    tree = store.tree((FILE, b"f", store.blob(b"x")), *((LINK, name, target) for name in names))
    assert refusal(store, tree).reason == "TooManyLinks"
