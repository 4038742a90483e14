"""When a release has shown that it works: the rules, as tables of probe results."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decisions.gates import (
    PASSED,
    PENDING,
    HostLook,
    Judgement,
    Result,
    describe_exposed,
    describe_listeners,
    excused,
    is_judged_by_host,
    judge_confirmation,
    judge_gate,
    judge_rows,
    judge_window,
    window_pause_s,
    with_host,
    with_listeners,
    with_log_line,
)
from controller.decisions.health import ServiceHealth
from controller.model.config import Gate, Production
from controller.model.names import MAIN, SlotName
from controller.model.states import Cause, Outcome
from tests.builders import PREVIEW_1
from tests.builders import run as run_of

ROWS = ("redis", "api")
GATE = Gate(start_timeout_s=10.0, window_failures=3)


def results(text: str, *, pause_s: float = 0.025, status: int = 500) -> list[Result]:
    """`.` passed, `x` wrong status, `-` no answer, `n` nobody listens, `s` a stranger, `e` exited, `l` lost,
    `d` our own door is away."""
    kinds = {
        ".": ("", 200),
        "x": ("WrongStatus", status),
        "-": ("NoAnswer", None),
        "n": ("NeverBound", None),
        "d": ("DoorAway", None),
        "l": ("InstanceLost", None),
        "s": ("NotOurs", None),
        "e": ("InstanceExited", None),
    }
    return [
        Result(
            at_s=k * pause_s,
            passed=letter == ".",
            reason=kinds[letter][0],
            message=f"probe {k}",
            status=kinds[letter][1],
            blames_release=letter not in "sdl",
        )
        for k, letter in enumerate(text)
    ]


def outcome(judgement: Judgement) -> tuple[Outcome, str]:
    return judgement.outcome, judgement.reason


@pytest.mark.parametrize(
    ("text", "now_s", "expected"),
    [
        ("...", 1.0, (Outcome.PASS, "")),
        ("---...", 1.0, (Outcome.PASS, "")),
        ("..", 1.0, (Outcome.PENDING, "")),
        ("..x..", 1.0, (Outcome.PENDING, "")),
        ("..-..-", 10.0, (Outcome.FAIL, "Flapping")),
        ("----", 10.0, (Outcome.FAIL, "GateTimedOut")),
        ("", 10.0, (Outcome.FAIL, "GateTimedOut")),
        ("--x", 10.0, (Outcome.FAIL, "WrongStatus")),
        ("--s", 0.1, (Outcome.FAIL, "NotOurs")),
        ("--e", 0.1, (Outcome.FAIL, "InstanceExited")),
        ("--l", 0.1, (Outcome.FAIL, "InstanceLost")),
        ("nnnn", 10.0, (Outcome.FAIL, "NeverBound")),
        ("--nn", 10.0, (Outcome.FAIL, "GateTimedOut")),
        ("nn..", 10.0, (Outcome.FAIL, "GateTimedOut")),
        ("n.n..", 10.0, (Outcome.FAIL, "Flapping")),
        ("x", 0.1, (Outcome.PENDING, "")),
    ],
)
def test_gate_table(text: str, now_s: float, expected: tuple[Outcome, str]) -> None:
    assert outcome(judge_gate(results(text), GATE, now_s=now_s)) == expected


def test_a_settled_wrong_answer_fails_before_the_deadline() -> None:
    assert outcome(judge_gate(results("x" * 90), GATE, now_s=2.3)) == (Outcome.FAIL, "WrongStatus")


def test_an_answer_that_says_not_yet_is_waited_for_until_the_deadline() -> None:
    waiting = results("x" * 300, status=503)

    assert outcome(judge_gate(waiting, GATE, now_s=7.5)) == (Outcome.PENDING, "")
    assert outcome(judge_gate(waiting, GATE, now_s=10.0)) == (Outcome.FAIL, "WrongStatus")


def test_a_stranger_on_the_port_is_not_the_release_to_blame() -> None:
    assert not judge_gate(results("s"), GATE, now_s=0.1).blames_release


@given(st.text(alphabet=".x-", max_size=60))
def test_a_gate_passes_only_behind_three_passes_in_a_row(text: str) -> None:
    passed = judge_gate(results(text), GATE, now_s=1.0).outcome is Outcome.PASS

    assert passed == text.endswith("...")


@given(st.text(alphabet=".x", min_size=1, max_size=60))
def test_a_window_never_passes_unconfirmed(text: str) -> None:
    assert judge_window(results(text), GATE, confirmed=False, over_by_s=99.0).outcome is Outcome.FAIL
    assert judge_window(results(text), GATE, confirmed=False, over_by_s=1.0).outcome is not Outcome.PASS


@pytest.mark.parametrize(
    ("text", "over_by_s", "expected"),
    [
        ("...", -1.0, (Outcome.PENDING, "")),
        (".....", 0.0, (Outcome.PASS, "")),
        ("....xx", -1.0, (Outcome.PENDING, "")),
        ("....xxx", -1.0, (Outcome.FAIL, "WindowFailed")),
        ("...e", -1.0, (Outcome.FAIL, "InstanceExited")),
        ("...l", -1.0, (Outcome.FAIL, "InstanceLost")),
        ("..x..x..x..x", -1.0, (Outcome.FAIL, "WindowFailed")),
        ("x.........", 0.0, (Outcome.PASS, "")),
        # Too few, or the last one failed: it goes on beyond its end.
        ("", 0.0, (Outcome.PENDING, "")),
        ("...", 0.0, (Outcome.PENDING, "")),
        ("........x", 0.0, (Outcome.PENDING, "")),
        # Our own doors away: waited for, and never the release's failure.
        (".....dddddddd", -1.0, (Outcome.PENDING, "")),
        (".....dddddddd", 0.0, (Outcome.PENDING, "")),
        (".....dddddddd", 99.0, (Outcome.FAIL, "WindowUnproven")),
        ("..dxdxdx", -1.0, (Outcome.FAIL, "WindowFailed")),
    ],
)
def test_window_table(text: str, over_by_s: float, expected: tuple[Outcome, str]) -> None:
    assert outcome(judge_window(results(text), GATE, confirmed=True, over_by_s=over_by_s)) == expected


def test_a_window_that_only_our_own_doors_kept_from_its_end_does_not_blame_the_release() -> None:
    assert not judge_window(results(".....ddd"), GATE, confirmed=True, over_by_s=99.0).blames_release


def test_a_release_that_turns_bad_late_does_not_live_on_what_it_was_before() -> None:
    """T-H8: good for long, then three of ten."""
    text = "." * 200 + ".x..x..x.."

    assert outcome(judge_window(results(text), GATE, confirmed=True, over_by_s=-1.0)) == (Outcome.FAIL, "WindowFailed")


def looks(text: str) -> list[HostLook]:
    """One look a character, `R` for Redis unwell, `a` for api, `B` for both, a second apart."""
    row = {name: ServiceHealth(service=name, unit="", address="", ok=False, said="away", took_ms=0) for name in ROWS}
    unwell = {".": (), "R": (row["redis"],), "a": (row["api"],), "B": (row["redis"], row["api"])}
    return [HostLook(at_s=float(at), unwell=unwell[c]) for at, c in enumerate(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (Outcome.PASS, "")),
        ("...", (Outcome.PASS, "")),
        ("RRRRRRRRR.", (Outcome.PASS, "")),
        (".R", (Outcome.PENDING, "")),
        # As long as a restart takes, it is waited for; then it is the switch's.
        (".RRRRRRRRRR", (Outcome.PENDING, "")),
        (".RRRRRRRRRRR", (Outcome.FAIL, "HealthGateFailed")),
        # Each row by itself: two restarts in turn are none that lasts.
        (".RRRRRRaaaaaa", (Outcome.PENDING, "")),
        (".RRRRRBBBBBB", (Outcome.FAIL, "HealthGateFailed")),
        ("RRRRR.RRRRR.R", (Outcome.PENDING, "")),
    ],
)
def test_rows_of_the_host(text: str, expected: tuple[Outcome, str]) -> None:
    assert outcome(judge_rows(looks(text))) == expected


def test_a_failed_row_is_named_and_blames_the_switch() -> None:
    judgement = judge_rows(looks("." + "R" * 5 + "B" * 6))

    assert "redis: away" in judgement.message
    assert "api" not in judgement.message
    assert judgement.blames_release


def test_a_few_looks_far_apart_are_too_few() -> None:
    """The machine stood still between them."""
    far = [replace(look, at_s=look.at_s * 60) for look in looks("RRRR")]

    assert judge_rows(far).outcome is Outcome.PENDING


def test_a_window_passes_when_release_and_host_do_and_what_the_release_failed_by_comes_first() -> None:
    failed = judge_window(results("....xxx"), GATE, confirmed=True, over_by_s=-1.0)
    host = judge_rows(looks("R" * 12))

    assert with_host(failed, host) == failed
    assert with_host(PASSED, host) == host
    assert with_host(PASSED, PENDING) == PENDING
    assert with_host(PASSED, PASSED) == PASSED


@pytest.mark.parametrize(
    ("cause", "slot", "gate", "expected"),
    [
        (Cause.OVERRIDE, MAIN, "off", True),
        (Cause.PUSH, MAIN, "rollback", True),
        (Cause.RESYNC, MAIN, "rollback", True),
        (Cause.REVERT, MAIN, "rollback", True),
        (Cause.PUSH, MAIN, "off", False),
        (Cause.PUSH, PREVIEW_1, "rollback", False),
        (Cause.REPAIR, MAIN, "rollback", False),
        (Cause.ROLLBACK, MAIN, "rollback", False),
    ],
)
def test_which_runs_the_host_judges(
    cause: Cause, slot: SlotName, gate: Literal["rollback", "off"], expected: bool
) -> None:
    run = run_of(1, 1, cause=cause, slot=slot)

    assert is_judged_by_host(run, Production(health_gate=gate)) == expected


@given(st.text(alphabet=".xd", max_size=60), st.booleans())
def test_a_window_never_passes_on_a_failed_probe_or_on_few(text: str, confirmed: bool) -> None:
    passed = judge_window(results(text), GATE, confirmed=confirmed, over_by_s=1.0).outcome is Outcome.PASS

    assert not passed or (confirmed and text.endswith(".") and text.count("d") <= len(text) - 5)


@pytest.mark.parametrize(
    ("text", "confirmed", "over_by_s", "expected_s"),
    [
        ("x", True, -9.0, 0.25),
        (".", False, -9.0, 0.025),
        (".", True, -9.0, 1.0),
        (".", True, -0.3, 0.3),
        (".", True, 0.5, 0.025),
    ],
)
def test_pauses_of_a_window(text: str, confirmed: bool, over_by_s: float, expected_s: float) -> None:
    assert window_pause_s(results(text)[-1], confirmed=confirmed, over_by_s=over_by_s) == expected_s


def test_what_the_app_logged_is_told_with_a_failure_and_made_harmless() -> None:
    failed = judge_gate(results("--e"), GATE, now_s=0.1)

    told = with_log_line(failed, "no\x1b[2Jway" + "!" * 1000).message
    assert told.startswith("probe 2; it logged: no\\x1b[2Jway!!!")
    assert len(told) < 400
    assert with_log_line(judge_gate(results("..."), GATE, now_s=0.1), "hello").message == ""


def test_a_part_that_was_away_takes_the_blame_off_the_release() -> None:
    failed = judge_gate(results("--e"), GATE, now_s=0.1)

    assert failed.blames_release
    assert not excused(failed, "its database does not answer").blames_release
    assert excused(failed, "") == failed


def test_confirmation_wants_three_in_a_row() -> None:
    def judged(text: str) -> Outcome:
        return judge_confirmation(results(text)).outcome

    assert [judged("..."), judged("..x.."), judged("x...")] == [Outcome.PASS, Outcome.PENDING, Outcome.PASS]


@pytest.mark.parametrize(
    ("wanted", "listens", "told"),
    [
        ("127.0.0.1:8200", (), "it listens nowhere"),
        ("127.0.0.1:8200", ("[::1]:8200",), "it listens at [::1]:8200: bind HOST (127.0.0.1)"),
        ("127.0.0.1:8200", ("127.0.0.1:3000",), "it listens at 127.0.0.1:3000: bind PORT (8200)"),
        ("127.0.0.1:8200", ("0.0.0.0:82000",), "it listens at 0.0.0.0:82000: bind PORT (8200)"),
        ("127.0.0.1:8200", ("a:1", "a:2", "a:3", "a:4"), "it listens at a:1, a:2, a:3 and 1 more: bind PORT (8200)"),
        ("unix//run/app.sock", ("127.0.0.1:3000",), "it listens at 127.0.0.1:3000: bind OROBOROS_SOCKET"),
        ("unix//run/app.sock", (), ""),
    ],
)
def test_who_listens_elsewhere_is_told_where_and_what_to_bind(wanted: str, listens: tuple[str, ...], told: str) -> None:
    assert describe_listeners(wanted, listens) == told


@pytest.mark.parametrize(
    ("listens", "open_to"),
    [
        (("127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"), ""),
        (("127.0.0.1:1", "0.0.0.0:1"), "0.0.0.0:1"),
        (("[::]:1", "192.0.2.7:2", "[fe80::1]:3"), "[::]:1, 192.0.2.7:2, [fe80::1]:3"),
    ],
)
def test_what_listens_past_loopback_is_open_to_other_machines(listens: tuple[str, ...], open_to: str) -> None:
    told = describe_exposed(listens)
    assert (told != "", told.endswith(open_to)) == (open_to != "", True)


@pytest.mark.parametrize(
    ("reason", "listens", "is_told"),
    [
        ("NeverBound", ("[::]:8200",), True),  # IPv6 alone
        ("GateTimedOut", ("[::1]:8200",), True),
        ("GateTimedOut", ("127.0.0.1:8200",), False),
        ("GateTimedOut", ("0.0.0.0:8200",), False),
        ("GateTimedOut", ("[::]:8200",), False),
        ("GateTimedOut", (), True),
        ("WrongStatus", ("[::1]:8200",), False),
    ],
)
def test_where_it_listens_is_told_of_what_was_not_reached_and_not_of_what_is_slow(
    reason: str, listens: tuple[str, ...], is_told: bool
) -> None:
    failed = Judgement(outcome=Outcome.FAIL, reason=reason, message="no answer")
    assert ("it listens" in with_listeners(failed, "127.0.0.1:8200", listens).message) is is_told


def test_one_that_listens_after_the_limit_is_told_to_raise_it_and_not_to_bind_where_it_is_bound() -> None:
    failed = Judgement(outcome=Outcome.FAIL, reason="NeverBound", message="no answer")
    told = with_listeners(failed, "127.0.0.1:8200", ("127.0.0.1:8200",)).message
    assert "start_timeout_s" in told
    assert "bind" not in told
