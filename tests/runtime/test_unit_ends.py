"""Is every end of a unit told, once it is in its cgroup, and is nothing asked for in between?

The folders are those of cgroups; that the kernel modifies `cgroup.events` is shown on a host (`tests/host`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controller.effects.systemd import UnitEnds

#: Longer than any test may take: what is told comes before.
LONG_S = 30.0


@pytest.fixture
def slices(tmp_path: Path) -> Path:
    folder = tmp_path / "ouroboros.slice"
    (folder / "ouroboros-production.slice").mkdir(parents=True)
    return folder


@pytest.fixture
def ends(slices: Path) -> Iterator[UnitEnds]:
    ends = UnitEnds(slices)
    yield ends
    ends.close()


def unit(slices: Path, name: str = "main-a", *, of: str = "production", populated: bool = True) -> Path:
    folder = slices / f"ouroboros-{of}.slice" / f"ouroboros-instance@{name}.service"
    folder.mkdir(exist_ok=True)
    say(folder, populated=populated)
    return folder


def say(folder: Path, *, populated: bool) -> None:
    with (folder / "cgroup.events").open("w") as file:
        file.write(f"populated {int(populated)}\nfrozen 0\n")


def gone(folder: Path) -> None:
    (folder / "cgroup.events").unlink()
    folder.rmdir()


def until_told(ends: UnitEnds, happens: Callable[[], None]) -> None:
    """Wait for an end that happens meanwhile: it must be told long before the time is up."""
    thread = threading.Thread(target=happens)
    deadline = time.monotonic() + LONG_S
    thread.start()
    while not ends.wait(timeout_s=LONG_S):
        assert time.monotonic() < deadline, "the end was not told"
    thread.join()
    assert time.monotonic() < deadline


def settle(ends: UnitEnds) -> None:
    """Take what has happened so far."""
    while ends.wait(timeout_s=0.05):
        pass


def test_an_end_is_told(slices: Path, ends: UnitEnds) -> None:
    folder = unit(slices)
    settle(ends)
    assert not ends.wait(timeout_s=0.0)

    until_told(ends, lambda: say(folder, populated=False))
    assert not ends.wait(timeout_s=0.0)


def test_a_unit_that_came_and_went_before_anybody_looked_is_told(slices: Path, ends: UnitEnds) -> None:
    until_told(ends, lambda: gone(unit(slices, populated=False)))


def test_a_unit_in_a_slice_that_was_not_there_is_told(slices: Path, ends: UnitEnds) -> None:
    (slices / "ouroboros-previews.slice").mkdir()
    settle(ends)
    folder = unit(slices, "preview1-a", of="previews")
    settle(ends)
    until_told(ends, lambda: gone(folder))


def test_a_beginning_is_no_end(slices: Path, ends: UnitEnds) -> None:
    unit(slices)
    settle(ends)
    unit(slices, "main-b")
    settle(ends)
    assert not ends.wait(timeout_s=0.2)
