"""What a background thread may do to the loop: an accident costs a repetition, a bug ends the worker. How it waits."""

from __future__ import annotations

import threading

import pytest

from controller.decisions.host_units import WORKER_WATCHDOG_S
from controller.effects.store import LostEpoch
from controller.loop.background import Background
from controller.loop.reconcile import ALIVE_EVERY_S, wait_alive
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


def test_a_wait_that_is_longer_than_the_watchdog_says_again_and_again_that_the_worker_lives() -> None:
    alive: list[None] = []
    wait_alive(threading.Event(), 0.2, lambda: alive.append(None), every_s=0.02)
    assert len(alive) >= 9
    assert ALIVE_EVERY_S * 3 <= WORKER_WATCHDOG_S


def test_a_ring_ends_a_wait_at_once() -> None:
    bell, alive = threading.Event(), list[None]()
    bell.set()
    wait_alive(bell, 3_600, lambda: alive.append(None))
    assert alive == []
