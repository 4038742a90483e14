"""What a background thread may do to the loop: an accident costs a repetition, a bug ends the worker."""

from __future__ import annotations

import threading

import pytest

from controller.effects.store import LostEpoch
from controller.loop.background import Background
from controller.model.errors import OroborosError, Unavailable


def run(error: BaseException) -> Background:
    rung = threading.Event()
    background = Background(rung.set)

    def work() -> None:
        raise error

    assert background.start(("wipe", None), work)
    assert rung.wait(5)
    return background


def test_an_expected_error_is_over_when_its_thread_is() -> None:
    background = run(Unavailable("DatabaseAway", "the database does not answer"))

    background.raise_bugs()
    assert background.running() == frozenset()


@pytest.mark.parametrize("error", [LostEpoch("LostEpoch", "another worker"), KeyError("a bug")])
def test_a_bug_and_a_lost_epoch_end_the_worker(error: BaseException) -> None:
    with pytest.raises((OroborosError, KeyError)):
        run(error).raise_bugs()


def test_a_bug_of_another_thread_ends_the_worker_too() -> None:
    rung = threading.Event()
    background = Background(rung.set)

    def work() -> None:
        raise KeyError("a bug")

    background.guard(work)

    assert rung.is_set()
    with pytest.raises(KeyError):
        background.raise_bugs()
