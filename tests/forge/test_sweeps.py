"""Does what was told in vain reach us after all, exactly once, over restarts?"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from controller.decisions.github import app as protocol
from controller.effects.store import Store
from controller.loop.background import Background
from controller.loop.sweeper import Sweeper
from controller.model.errors import Unavailable
from controller.model.names import MAIN
from tests.forge.conftest import Receiver, await_true
from tests.forge.our_app import Ours


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    store = Store(postgres_url, repository="acme/shop", host="host-1")
    store.register(slots=(MAIN,), boot_id="boot-1", now=datetime.now(UTC))
    yield store
    store.close()


def sweeper(store: Store, ours: Ours) -> Sweeper:
    return Sweeper(store, ours.identity(), every_s=300, clock=ours.clock)


def push_in_vain(ours: Ours, receiver: Receiver, count: int) -> list[str]:
    """Push while the receiver is down; return the guids of what it did not take."""
    clone = ours.forge.clone()
    clone.commit("Begin")
    receiver.answer = 502
    for number in range(count):
        clone.push(f"branch-{number}" if number else "main")
    received = receiver.await_count(count)
    await_logged(ours, count)
    receiver.answer = 202
    return [one.headers["x-github-delivery"] for one in received]


def await_logged(ours: Ours, count: int) -> None:
    def logged() -> int:
        reply = ours.identity().ask(protocol.list_deliveries(cursor=None))
        page = protocol.read_deliveries_page(reply, now=ours.clock())
        return sum(one.status_code > 0 for one in page.deliveries)

    await_true(lambda: logged() >= count, lambda: f"{count} in the log")


def test_t_g2_what_came_while_the_receiver_was_down_is_asked_for_and_comes_once(
    ours: Ours, receiver: Receiver, store: Store
) -> None:
    guids = push_in_vain(ours, receiver, 20)
    sweeper(store, ours).sweep()
    received = receiver.await_count(40)[20:]
    assert sorted(one.headers["x-github-delivery"] for one in received) == sorted(guids)
    await_logged(ours, 40)

    # Another process, which knows nothing but the store.
    again = Store(store._url, repository="acme/shop", host="host-1")
    again.register(slots=(MAIN,), boot_id="boot-2", now=datetime.now(UTC))
    assert again.load_sweep().began_at is not None
    assert len(again.load_sweep().missed) == 20
    sweeper(again, ours).sweep()
    assert again.load_sweep().missed == ()
    assert len(receiver.received) == 40
    again.close()


def test_what_is_missed_is_an_alarm_until_it_came(ours: Ours, receiver: Receiver, store: Store) -> None:
    push_in_vain(ours, receiver, 3)
    receiver.answer = 503
    sweeper(store, ours).sweep()
    receiver.await_count(6)
    await_logged(ours, 6)
    sweeper(store, ours).sweep()
    (asked,) = {one.asked_count for one in store.load_sweep().missed}
    assert asked == 1  # the pause before the next is not over
    assert {one.status_code for one in store.load_sweep().missed} == {503}


def test_t_g2_a_sweep_that_was_cut_off_goes_on(ours: Ours, receiver: Receiver, store: Store) -> None:
    push_in_vain(ours, receiver, 4)
    ours.forge.knob("fail", status=503, count=1, path="/app/hook/deliveries/")
    with pytest.raises(Unavailable, match="ForgeDown"):
        sweeper(store, ours).sweep()
    assert len(store.load_sweep().missed) == 4
    sweeper(store, ours).sweep()
    assert len(receiver.await_count(8)) == 8


def test_t_g2_one_that_the_forge_never_sends_again_holds_up_no_other(
    ours: Ours, receiver: Receiver, store: Store
) -> None:
    push_in_vain(ours, receiver, 3)
    (oldest, *_) = sorted(sweeper_log(ours))
    ours.forge.knob("fail", status=404, count=100, path=f"/app/hook/deliveries/{oldest}/attempts")
    sweeper(store, ours).sweep()
    assert len(receiver.await_count(5)) == 5
    assert {one.asked_count for one in store.load_sweep().missed} == {1}


def test_a_bug_in_a_sweep_is_kept_for_the_worker_to_end_by(ours: Ours, store: Store) -> None:
    rung = threading.Event()
    background, before = Background(rung.set), threading.excepthook
    threading.excepthook = background.keep_bug
    running = Sweeper(store, ours.identity(), every_s=300, clock=broken_clock)
    running.start()
    assert rung.wait(5)
    running.stop(timeout_s=5)
    threading.excepthook = before
    with pytest.raises(ZeroDivisionError):
        background.raise_bugs()


def broken_clock() -> datetime:
    raise ZeroDivisionError


def test_the_log_is_read_over_many_pages(ours: Ours, receiver: Receiver, store: Store) -> None:
    ours.forge.knob("pause")
    clone = ours.forge.clone()
    clone.commit("Begin")
    branches = [f"HEAD:refs/heads/b{number}" for number in range(120)]
    clone.git("push", "-q", "origin", *branches)
    ours.forge.knob("pause", paused=False)
    receiver.await_count(120)
    await_true(lambda: len(sweeper_log(ours)) >= 120, lambda: "a log of 120")
    sweeper(store, ours).sweep()
    assert store.load_sweep().missed == ()


def sweeper_log(ours: Ours) -> list[int]:
    """Return the ids of what was attempted, over all pages."""
    found: list[int] = []
    cursor: str | None = None
    while True:
        reply = ours.identity().ask(protocol.list_deliveries(cursor=cursor))
        page = protocol.read_deliveries_page(reply, now=ours.clock())
        found += [one.id for one in page.deliveries if one.status_code]
        cursor = page.next_cursor
        if cursor is None:
            return found
