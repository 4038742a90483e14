"""What does `oroboros backend` refuse, and what does it leave when nobody carries an order out?

tests/acceptance/test_checks.py stops and starts what really runs.
"""

from __future__ import annotations

from controller.effects.live import SlotLock, write_live
from controller.model.names import MAIN, preview_slot
from controller.model.nouns import Live
from controller.model.states import RunState
from tests.doors.stack import Small, utc_now


def orders(small: Small) -> list[tuple[str, str, str]]:
    return [(stop.kind, stop.slot, stop.reason) for stop in small.store.load_history().stops]


def test_files_only_have_nothing_that_could_be_stopped(small: Small) -> None:
    head = small.commits[0]
    small.publish(head)
    generation = small.begin(head)
    small.end(generation, RunState.LIVE)
    with SlotLock(small.layout, MAIN) as held:
        live = Live(
            slot=MAIN,
            state="live",
            generation=generation,
            release=head.sha,
            tree=head.tree,
            static_root=str(small.layout.release(head.sha)),
        )
        write_live(small.layout, live, held=held)

    assert small.json("backend", "stop", "main", "--yes-production")["error"] == "NoBackend"
    assert small.json("backend", "restart", "main", "--yes-production")["error"] == "NothingServes"
    assert orders(small) == []


def test_production_and_free_slots_are_refused_and_nothing_is_written(small: Small) -> None:
    small.serve(small.commits[0])

    for words, reason in (
        (("stop", "main"), "ProductionRefused"),
        (("start", "main"), "ProductionRefused"),
        (("stop", "1"), "SlotFree"),
        (("start", "1"), "SlotFree"),
    ):
        value = small.json("backend", *words)
        assert (value["error"], value["exit_code"]) == (reason, 3)
    assert orders(small) == []


def test_a_restart_that_nobody_carries_out_is_told_and_stands(small: Small) -> None:
    small.serve(small.commits[0])

    value = small.json("backend", "restart", "main", "--yes-production", "--reason", "leaks", "--timeout", "1")

    assert (value["error"], value["exit_code"]) == ("WorkerAway", 4)
    assert orders(small) == [("restart", "main", "leaks")]
    said = small.run("status").stdout
    assert "main started again by" in said
    assert "leaks" in said


def test_an_order_of_a_release_ends_a_stop(small: Small) -> None:
    small.serve(small.commits[0])
    small.json("backend", "restart", "main", "--yes-production", "--timeout", "1")

    assert small.run("deploy", small.commits[1].sha, "--no-wait").exit_code == 0
    assert orders(small) == []


def test_a_stop_is_shown_with_its_slot(small: Small) -> None:
    small.store.record_listing([], began_at=utc_now())
    fence = small.store.claim_slot(preview_slot(1), 7, now=utc_now(), expires_at=utc_now())
    assert fence is not None
    small.store.record_stop(
        slot=preview_slot(1), kind="stopped", fence=fence, live=None, actor="ann", reason="too loud", now=utc_now()
    )

    slots = small.json("slots", "--previews")["slots"]
    assert isinstance(slots, list)
    (found,) = [one for one in slots if one["slot"] == "preview-1"]
    assert found["stopped"] == "stopped by hand by ann: too loud"
    assert "stopped by hand by ann" in small.run("slots").stdout
