"""What a background thread may do to the loop: an accident costs a repetition, a bug ends the worker. How it waits."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controller import failpoints
from controller.effects.store import LostEpoch
from controller.loop.background import Background
from controller.model.errors import Unavailable
from controller.model.threads import ACTIVITIES, Activity

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def background() -> Iterator[Background]:
    """Threads as the worker has them: what they do not expect is kept."""
    background, before = Background(lambda: None), threading.excepthook
    threading.excepthook = background.keep_bug
    yield background
    threading.excepthook = before
    failpoints.disarm()


def run(background: Background, work: Callable[[], None], activity: Activity = "wipe") -> None:
    """Run it, and wait until its thread is gone."""
    before = set(threading.enumerate())
    assert background.start((activity, None), work)
    for thread in set(threading.enumerate()) - before:
        thread.join(5)


def raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def test_an_expected_error_is_over_when_its_thread_is(background: Background) -> None:
    run(background, raising(Unavailable("DatabaseAway", "the database does not answer")))

    background.raise_bugs()
    assert background.running() == frozenset()


@pytest.mark.parametrize("error", [LostEpoch("LostEpoch", "another worker"), KeyError("a bug"), SystemExit(3)])
def test_a_bug_and_a_lost_epoch_end_the_worker(background: Background, error: BaseException) -> None:
    run(background, raising(error))
    with pytest.raises(type(error)):
        background.raise_bugs()


@pytest.mark.parametrize("activity", ACTIVITIES)
def test_a_bug_in_whatever_runs_beside_the_ticks_is_raised_by_the_next_tick(
    background: Background, activity: Activity, caplog: pytest.LogCaptureFixture
) -> None:
    failpoints.arm(f"thread.{activity}", raising(ZeroDivisionError(f"a bug in {activity}")))
    run(background, lambda: None, activity)

    with pytest.raises(ZeroDivisionError, match=activity):
        background.raise_bugs()
    assert f"{activity} ended by a bug" in caplog.text
    assert "Traceback" in caplog.text


def test_no_thread_of_the_worker_is_started_but_by_its_kind() -> None:
    """Elsewhere a bug would end a thread in silence. A command's progress on a terminal is no thread of the worker."""
    starts = re.compile(r"\b(Thread|Timer|start_new_thread)\(")
    found = {
        str(file.relative_to(CHECKOUT))
        for folder in ("decisions", "effects", "loop", "doors")
        for file in (CHECKOUT / "controller" / folder).rglob("*.py")
        if starts.search(file.read_text())
    }

    assert found == {"controller/doors/tables.py"}
    assert "Thread(" in (CHECKOUT / "controller" / "threads.py").read_text()
