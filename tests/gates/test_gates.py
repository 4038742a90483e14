"""When a release has shown that it works: the rules, as tables of probe results."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decisions.gates import (
    WINDOW_RATE_PROBES_MIN,
    Judgement,
    Result,
    judge_confirmation,
    judge_gate,
    judge_window,
)
from controller.model.config import Gate
from controller.model.states import Outcome

GATE = Gate(start_timeout_s=10.0, window_failures=3)


def results(text: str, *, pause_s: float = 0.025, status: int = 500) -> list[Result]:
    """`.` passed, `x` wrong status, `-` nobody listens, `s` a stranger, `e` exited."""
    kinds = {
        ".": ("", 200),
        "x": ("WrongStatus", status),
        "-": ("NoAnswer", None),
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
            blames_release=letter != "s",
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
    assert judge_window(results(text), GATE, confirmed=False, over=True).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("text", "over", "expected"),
    [
        ("...", False, (Outcome.PENDING, "")),
        ("...", True, (Outcome.PASS, "")),
        ("....xx", False, (Outcome.PENDING, "")),
        ("....xxx", False, (Outcome.FAIL, "WindowFailed")),
        ("...e", False, (Outcome.FAIL, "InstanceExited")),
        ("..x..x..x..x", False, (Outcome.FAIL, "WindowFailed")),
        ("x.........", True, (Outcome.PASS, "")),
    ],
)
def test_window_table(text: str, over: bool, expected: tuple[Outcome, str]) -> None:
    assert outcome(judge_window(results(text), GATE, confirmed=True, over=over)) == expected


def test_a_third_of_failures_is_too_many_even_when_none_follow_each_other() -> None:
    text = "..x" * WINDOW_RATE_PROBES_MIN

    assert judge_window(results(text), GATE, confirmed=True, over=False).outcome is Outcome.FAIL


def test_confirmation_wants_three_in_a_row() -> None:
    def judged(text: str) -> Outcome:
        return judge_confirmation(results(text)).outcome

    assert [judged("..."), judged("..x.."), judged("x...")] == [Outcome.PASS, Outcome.PENDING, Outcome.PASS]
