"""Goes what was let go, in turns that end soon, whatever happens in between?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controller.development.embedded_runtime import EmbeddedRuntime
from controller.effects.checkout import list_builds, set_aside_build
from controller.effects.store import Store
from controller.loop.housekeeping import Housekeeping
from controller.model.names import MAIN, PRODUCTION, Layout, Sha, Topology, TreeId, build_marker

NOW = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)


def sha(number: int) -> Sha:
    return Sha(f"{number:040x}")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    store = Store(postgres_url, repository="acme/shop", host="host-1")
    store.register(slots=(MAIN,), boot_id="boot-1", now=NOW)
    yield store
    store.close()


def house(layout: Layout, store: Store, *, turn_s: float = 60.0) -> Housekeeping:
    return Housekeeping(
        layout=layout,
        topology=Topology(previews=0),
        store=store,
        runtime=EmbeddedRuntime(layout.run / "nobody.sock", layout),
        clock=lambda: NOW,
        turn_s=turn_s,
    )


def turn(kept: Housekeeping) -> bool:
    """Keep house once; say whether more is left."""
    kept.turn(retention=None, slots={}, quarantined=())
    return kept.is_more_left


def publish(layout: Layout, store: Store, number: int) -> Sha:
    """Write what a release looks like from outside: a folder, its manifest, its row."""
    folder = layout.release(sha(number))
    (folder / "inside").mkdir(parents=True)
    (folder / "inside" / "file").write_text("x")
    layout.manifest(sha(number)).write_text("x")
    tree = TreeId(sha(number))
    at = NOW + timedelta(seconds=number)
    store.record_release(sha=sha(number), tree=tree, path=str(folder), files=1, size_bytes=1, now=at)
    return sha(number)


def make_build(layout: Layout, number: int) -> Path:
    build = layout.build(PRODUCTION, TreeId(sha(number)), "recipe")
    (build / "node_modules" / "deep").mkdir(parents=True)
    (build / "node_modules" / "deep" / "file").write_text("x")
    build_marker(build).write_text("{}")
    return build


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_all_that_was_let_go_goes_in_one_turn(layout: Layout, store: Store) -> None:
    gone = [publish(layout, store, number) for number in range(1, 31)]
    kept = publish(layout, store, 31)
    built, serves = make_build(layout, 1), make_build(layout, 31)
    store.record_removing(gone)
    set_aside_build(built)

    assert [build.name for build in list_builds(layout)] == [serves.name]
    assert not turn(house(layout, store))
    assert names(layout.releases) == [kept, f"{kept}.manifest"]
    assert names(built.parent) == [serves.name, f"{serves.name}.sealed"]
    assert [release.sha for release in store.load_history().releases] == [kept]
    assert store.load_removing() == ()


def test_a_turn_ends_when_its_time_is_up_and_the_next_goes_on(layout: Layout, store: Store) -> None:
    store.record_removing([publish(layout, store, number) for number in range(1, 5)])
    assert turn(house(layout, store, turn_s=0.0))
    assert len(store.load_removing()) == 4
    assert not turn(house(layout, store))
    assert names(layout.releases) == []


def test_a_release_that_is_published_again_meanwhile_stays(layout: Layout, store: Store) -> None:
    release = publish(layout, store, 1)
    store.record_removing([release])
    tree, path = TreeId(sha(1)), str(layout.release(release))
    store.record_release(sha=release, tree=tree, path=path, files=1, size_bytes=1, now=NOW)

    assert not turn(house(layout, store))
    assert names(layout.releases) == [release, f"{release}.manifest"]
    assert [one.sha for one in store.load_history().releases] == [release]


def test_what_was_interrupted_is_removed_by_the_next_worker(layout: Layout, store: Store) -> None:
    release = publish(layout, store, 1)
    store.record_removing([release])
    # Killed between the rename and the commit of its row.
    layout.release(release).rename(layout.releases / f".tmp-{release}-1")
    build = make_build(layout, 1)
    build_marker(build).unlink()
    build.rename(build.with_name(".gone-1"))
    (build.with_name(f".{build.name}.sealing")).write_text("of a seal that was cut short")

    assert store.load_removing() == (release,)
    assert not turn(house(layout, store))
    assert (names(layout.releases), names(build.parent), store.load_removing()) == ([], [], ())
