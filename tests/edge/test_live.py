"""Is the switch one rename, by the holder of the lock, and is what was written what is read?"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from controller import failpoints
from controller.decisions.live_files import Assets
from controller.effects.live import (
    LIVE_FILE,
    VERSIONS_KEPT,
    SlotLock,
    point_current,
    read_current,
    read_live,
    write_live,
)
from controller.model.errors import ConfigInvalid, Stalled, Waiting
from controller.model.names import MAIN, Layout, Sha, TreeId, preview_slot
from controller.model.nouns import Live

LIVE = Live(
    slot=MAIN,
    state="live",
    generation=7,
    release=Sha("a" * 40),
    tree=TreeId("b" * 40),
    colour="a",
    address="127.0.0.1:8200",
    static_root="/srv/a b/ü",
    previous_static_root="/srv/before",
    fallback="index.html",
    api_prefix="/api/",
    health_path="/healthz",
)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "root", tmp_path / "run")


@pytest.fixture(autouse=True)
def _nothing_armed() -> Iterator[None]:
    yield
    failpoints.disarm()


def write(layout: Layout, live: Live) -> None:
    with SlotLock(layout, live.slot) as held:
        write_live(layout, live, held=held)


def test_a_slot_that_never_served_reads_as_none(layout: Layout) -> None:
    assert read_live(layout, MAIN) is None
    assert read_current(layout, MAIN) is None


@pytest.mark.parametrize(
    "live",
    [LIVE, dataclasses.replace(LIVE, static_root=None), Live(slot=preview_slot(2), state="free", generation=0)],
)
def test_what_was_written_is_read_back(layout: Layout, live: Live) -> None:
    write(layout, live)
    write(layout, live)

    assert live == read_live(layout, live.slot)


def test_the_address_of_a_free_slot_names_the_responder(layout: Layout) -> None:
    write(layout, Live(slot=MAIN, state="free", generation=3))

    assert (layout.live(MAIN) / "address").read_text() == f"unix/{layout.run}/surfaces/main.sock\n"


def test_surfaces_of_an_earlier_installation_find_their_line_and_nothing_of_the_release_before(layout: Layout) -> None:
    with SlotLock(layout, MAIN) as held:
        write_live(layout, LIVE, held=held, assets=Assets(until=datetime(2999, 1, 1, tzinfo=UTC)))

    line = (layout.live(MAIN) / "route").read_text()
    assert line == f"live\tyes\t{'a' * 40}\t7\t/api/\t/srv/a b/ü\t\t/index.html\t/healthz\n"
    assert "\t/srv/before\t" in (layout.live(MAIN) / "routes").read_text()


def test_live_survives_that_the_root_is_moved(layout: Layout, tmp_path: Path) -> None:
    write(layout, LIVE)
    layout.root.rename(tmp_path / "elsewhere")

    assert read_live(Layout(tmp_path / "elsewhere"), MAIN) == LIVE


@pytest.mark.parametrize(
    "changed", [{"fallback": "{env.HOME}"}, {"api_prefix": "/a\tb"}, {"static_root": "/x\n/y"}, {"address": "a\x00"}]
)
def test_a_value_that_caddy_would_not_read_back_is_refused_and_changes_nothing(
    layout: Layout, changed: dict[str, str]
) -> None:
    write(layout, LIVE)

    with pytest.raises(ConfigInvalid, match="LiveValueInvalid"):
        write(layout, dataclasses.replace(LIVE, generation=8, **changed))

    assert read_live(layout, MAIN) == LIVE


def _not_json(layout: Layout) -> None:
    (layout.live(MAIN) / LIVE_FILE).write_text("half a f")


def _a_field_less(layout: Layout) -> None:
    (layout.live(MAIN) / LIVE_FILE).write_text('{"slot": "main"}')


def _a_wrong_type(layout: Layout) -> None:
    file = layout.live(MAIN) / LIVE_FILE
    file.write_text(file.read_text().replace('"generation": 7', '"generation": true'))


def _another_slot(layout: Layout) -> None:
    file = layout.live(MAIN) / LIVE_FILE
    file.write_text(file.read_text().replace('"slot": "main"', '"slot": "preview-1"'))


def _dangling(layout: Layout) -> None:
    shutil.rmtree(layout.live_versions(MAIN))


def _not_utf8(layout: Layout) -> None:
    (layout.live(MAIN) / LIVE_FILE).write_bytes(b"\xff\xfe")


def _a_folder(layout: Layout) -> None:
    layout.live(MAIN).unlink()
    layout.live(MAIN).mkdir()


def test_what_serves_files_only_is_read_by_releases_of_ours_from_before_the_status_was_kept(layout: Layout) -> None:
    write(layout, dataclasses.replace(LIVE, colour=None, address=None))
    keys = set(json.loads((layout.live(MAIN) / LIVE_FILE).read_text()))
    assert keys == {field.name for field in dataclasses.fields(Live)} - {"health_status"}
    write(layout, dataclasses.replace(LIVE, health_status=204))
    assert read_live(layout, MAIN) == dataclasses.replace(LIVE, health_status=204)


@pytest.mark.parametrize(
    "spoil", [_not_json, _a_field_less, _a_wrong_type, _another_slot, _dangling, _not_utf8, _a_folder]
)
def test_garbage_is_told_and_never_taken_for_free(layout: Layout, spoil: Callable[[Layout], None]) -> None:
    write(layout, LIVE)
    spoil(layout)

    with pytest.raises(Stalled, match="LiveUnreadable"):
        read_live(layout, MAIN)


def test_killed_between_the_new_folder_and_the_rename_the_old_still_serves(layout: Layout) -> None:
    write(layout, LIVE)
    program = (
        "import dataclasses, os, signal, sys; from pathlib import Path;"
        "from controller import failpoints; from controller.effects.live import *;"
        "from controller.model.names import Layout, MAIN;"
        "layout = Layout(Path(sys.argv[1]), Path(sys.argv[2]));"
        "failpoints.arm('live.before_rename', lambda: os.kill(os.getpid(), signal.SIGKILL));"
        "live = dataclasses.replace(read_live(layout, MAIN), generation=8);"
        "lock = SlotLock(layout, MAIN).__enter__();"
        "write_live(layout, live, held=lock)"
    )

    done = subprocess.run(
        (sys.executable, "-c", program, str(layout.root), str(layout.run)),
        cwd=Path(__file__).resolve().parents[2],
        check=False,
        timeout=30,
    )

    assert done.returncode == -9
    assert read_live(layout, MAIN) == LIVE
    # And the lock went with its holder.
    write(layout, dataclasses.replace(LIVE, generation=9))
    live = read_live(layout, MAIN)
    assert live is not None
    assert live.generation == 9


def test_killed_after_the_rename_the_new_serves(layout: Layout) -> None:
    class Killed(BaseException):
        pass

    def kill() -> None:
        raise Killed

    write(layout, LIVE)
    failpoints.arm("live.after_rename", kill)

    with contextlib.suppress(Killed):
        write(layout, dataclasses.replace(LIVE, generation=8))

    live = read_live(layout, MAIN)
    assert live is not None
    assert live.generation == 8


def test_what_a_killed_writer_left_is_removed_by_the_next(layout: Layout) -> None:
    write(layout, LIVE)
    (layout.slot(MAIN) / ".live.0123").symlink_to("live.d/nowhere")

    write(layout, LIVE)

    assert sorted(os.listdir(layout.slot(MAIN))) == ["live", "live.d", "lock"]


def test_only_the_newest_few_folders_are_kept(layout: Layout) -> None:
    for generation in range(1, 3 * VERSIONS_KEPT):
        write(layout, dataclasses.replace(LIVE, generation=generation))

    kept = sorted(int(name.split("-")[0]) for name in os.listdir(layout.live_versions(MAIN)))
    assert kept == list(range(2 * VERSIONS_KEPT, 3 * VERSIONS_KEPT))


def test_a_lock_that_is_not_held_or_of_another_slot_is_a_bug(layout: Layout) -> None:
    lock = SlotLock(layout, MAIN)
    with pytest.raises(RuntimeError, match="not held"):
        write_live(layout, LIVE, held=lock)
    with SlotLock(layout, preview_slot(1)) as other, pytest.raises(RuntimeError, match="preview-1 held"):
        write_live(layout, LIVE, held=other)


def test_who_waits_too_long_for_the_lock_is_told_to_come_back(layout: Layout) -> None:
    with SlotLock(layout, MAIN), pytest.raises(Waiting, match="SlotLocked"):
        SlotLock(layout, MAIN, timeout_s=0.05).__enter__()


def test_racing_holders_are_linear_and_readers_never_miss(layout: Layout) -> None:
    write(layout, dataclasses.replace(LIVE, generation=0, fence=0))
    seen: list[int] = []
    problems: list[str] = []
    done = threading.Event()

    def switch_often() -> None:
        for _ in range(60):
            with SlotLock(layout, MAIN, timeout_s=30) as held:
                live = read_live(layout, MAIN)
                assert live is not None
                seen.append(live.generation)
                write_live(layout, dataclasses.replace(live, generation=live.generation + 1), held=held)

    def read_often() -> None:
        last = 0
        while not done.is_set():
            live = read_live(layout, MAIN)
            if live is None or live.generation < last:
                problems.append(f"{live} after {last}")
            else:
                last = live.generation

    writers = [threading.Thread(target=switch_often) for _ in range(3)]
    reader = threading.Thread(target=read_often)
    reader.start()
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join(60)
    done.set()
    reader.join(60)

    assert seen == list(range(180))
    assert problems == []


def test_current_names_the_release_absolutely_and_is_read_back(layout: Layout) -> None:
    for slot in (MAIN, preview_slot(1)):
        for sha in (Sha("a" * 40), Sha("b" * 40)):
            layout.release(sha).mkdir(parents=True, exist_ok=True)
            with SlotLock(layout, slot) as held:
                point_current(layout, slot, sha, held=held)

            assert sha == read_current(layout, slot)
            assert os.readlink(layout.slot_current(slot)) == str(layout.release(sha))


def test_current_never_names_a_release_that_is_not_there(layout: Layout) -> None:
    with SlotLock(layout, MAIN) as held, pytest.raises(Stalled, match="ReleaseMissing"):
        point_current(layout, MAIN, Sha("a" * 40), held=held)


def test_a_folder_in_the_place_of_current_is_left_alone(layout: Layout) -> None:
    layout.release(Sha("a" * 40)).mkdir(parents=True)
    layout.current.mkdir()

    with SlotLock(layout, MAIN) as held, pytest.raises(Stalled, match="CurrentIsAFolder"):
        point_current(layout, MAIN, Sha("a" * 40), held=held)
    with pytest.raises(Stalled, match="CurrentUnreadable"):
        read_current(layout, MAIN)


@pytest.mark.parametrize("target", ["/etc/passwd", "releases/not-a-release", "/srv/elsewhere/" + "a" * 40])
def test_a_current_that_leads_elsewhere_is_told(layout: Layout, target: str) -> None:
    layout.releases.mkdir(parents=True)
    layout.current.symlink_to(target)

    with pytest.raises(Stalled, match="CurrentUnreadable"):
        read_current(layout, MAIN)
