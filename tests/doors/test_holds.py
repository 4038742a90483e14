"""Holding a slot from a shell: what is written, what is refused, and when it ends."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta

import pytest

from controller.doors.cli_holds import parse_end
from controller.model.config import DatedFreeze
from controller.model.names import MAIN, SlotName
from tests.doors.stack import Small, utc_now

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
PREVIEW_1 = SlotName("preview-1")


def holds(small: Small) -> list[tuple[str, str]]:
    return [(hold.slot, hold.reason) for hold in small.store.load_holds()]


def test_a_hold_is_written_shown_and_ended(small: Small) -> None:
    told = small.json("hold", "--reason", "  we count\nthe till ", "--for", "2h")

    assert (told["slot"], told["reason"], told["goes_on"]) == ("main", "we count the till", None)
    assert str(told["said"]).startswith("main is held until ")
    assert holds(small) == [("main", "we count the till")]
    assert "main is held until" in small.run("status").output
    ended = small.json("unhold")
    assert [str(one).partition(" (by")[0] for one in list(ended["ended"])] == ["we count the till"]
    assert holds(small) == []
    assert "nobody had ordered to hold main" in small.run("unhold").output


def test_a_second_hold_of_the_same_person_replaces_the_first_and_another_persons_stands_beside_it(small: Small) -> None:
    later = utc_now() + timedelta(hours=1)
    small.store.record_hold(slot=MAIN, fence=0, until=later, actor="bob", reason="mine", now=utc_now())
    small.run("hold", "--reason", "first")
    small.run("hold", "--reason", "second")

    assert holds(small) == [("main", "mine"), ("main", "second")]
    assert len(small.json("unhold")["ended"]) == 2


def test_an_order_is_refused_while_production_is_held_unless_it_says_why(small: Small) -> None:
    small.run("hold", "--reason", "we count")
    refused = small.run("deploy", small.commits[0].sha, "--no-wait")

    assert (refused.exit_code, small.store.load_history().overrides) == (3, ())
    assert "HeldByHand" in refused.output
    assert "--override-hold" in refused.output
    given = small.run("deploy", small.commits[0].sha, "--no-wait", "--override-hold", "fire")
    assert given.exit_code == 0, given.output
    (order,) = small.store.load_history().overrides
    assert order.despite_hold == "fire"
    assert "despite a hold: fire" in " ".join(small.run("status").output.split())


def test_orders_are_refused_in_a_freeze_and_status_tells_of_it(small: Small) -> None:
    day = timedelta(days=1)
    window = f'from = "{utc_now() - day:%Y-%m-%d}", until = "{utc_now() + 2 * day:%Y-%m-%d}", reason = "holidays"'
    recipe = f'[api]\ncommand = "app"\n[production]\nfreeze = [{{ {window} }}]\n'
    small.commit("Freeze", files={"deploy.toml": recipe})

    refused = small.run("deploy", small.commits[0].sha)
    assert (refused.exit_code, "Frozen" in refused.output) == (3, True)
    status = small.json("status")
    assert [hold["kind"] for hold in list(status["holds"])] == ["freeze"]
    assert "holidays" in str(small.json("unhold")["still"])


def test_a_freeze_is_told_where_the_mirror_cannot_be_read(small: Small) -> None:
    freeze = DatedFreeze(
        from_local=datetime.fromisoformat("2020-01-01"),
        until_local=datetime.fromisoformat("2199-01-01"),
        timezone="UTC",
        reason="for long",
    )
    small.store.record_policy(small.commits[0].sha, problems=(), freezes=(freeze,))
    shutil.rmtree(small.layout.mirror)

    assert "for long" in str(small.json("status")["holds"])


def test_a_preview_is_held_for_its_lease(small: Small) -> None:
    free = small.run("hold", "preview-1", "--reason", "look at it")
    assert (free.exit_code, "SlotFree" in free.output) == (3, True)
    now = utc_now()
    fence = small.store.claim_slot(PREVIEW_1, 7, now=now, expires_at=now + timedelta(days=1))
    assert fence is not None
    assert small.run("hold", "1", "--reason", "look at it").exit_code == 0
    assert [(hold.slot, hold.fence) for hold in small.store.load_holds()] == [("preview-1", fence)]
    small.store.end_lease(fence, reason="closed", now=utc_now())
    assert holds(small) == []


def test_a_hold_needs_a_reason_and_a_slot_of_this_host(small: Small) -> None:
    assert small.run("hold").exit_code == 2
    assert small.run("hold", "--reason", " ").exit_code == 2
    assert small.run("hold", "preview-99", "--reason", "x").exit_code == 2
    assert small.run("hold", "--reason", "x", "--for", "2h", "--until", "2026-12-24").exit_code == 2
    assert holds(small) == []


def test_the_end_of_a_hold_is_a_length_or_a_date() -> None:
    assert parse_end(None, None, now=NOW) is None
    assert parse_end(None, "45s", now=NOW) == NOW + timedelta(seconds=45)
    assert parse_end(None, "90m", now=NOW) == NOW + timedelta(minutes=90)
    assert parse_end("2026-11-25T14:00:00+01:00", None, now=NOW) == NOW + timedelta(hours=1)
    local = parse_end("2026-12-24 12:00", None, now=NOW)
    assert local == datetime.fromisoformat("2026-12-24 12:00").astimezone(UTC)


@pytest.mark.parametrize(
    ("until", "duration"),
    [
        ("yesterday", None),
        ("2026-11-25T11:59:00+00:00", None),
        ("0001-01-01", None),
        ("9999-12-31", None),
        (None, "0m"),
        (None, "400d"),
        (None, "2 hours"),
        (None, "-2h"),
        ("2026-12-24", "2h"),
    ],
)
def test_an_end_that_is_none_is_refused(until: str | None, duration: str | None) -> None:
    with pytest.raises(ValueError, match=r"hold|--until|--for"):
        parse_end(until, duration, now=NOW)
