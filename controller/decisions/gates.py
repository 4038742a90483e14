"""When has a new release shown that it works? Pure rules over the results of probes.

Before the switch: three passes in a row, 25 ms apart, within the start deadline; a process that ended, a stranger on
the port, or a settled wrong answer fail at once. After it: three passes through surface and edge confirm, and a window
of probes a second apart goes on watching. Flapping never ends in success, and no window passes on too few probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from controller.model.config import Gate
from controller.model.states import Outcome

PASSES_IN_A_ROW = 3
GATE_PAUSE_S = 0.025
WINDOW_PAUSE_S = 1.0
#: An answer that says "not yet".
NOT_YET = frozenset({502, 503, 504})
#: The same wrong answer for so long, from the very process, is its answer.
SETTLED_S = 2.0
SETTLED_PROBES_MIN = 20
WINDOW_RATE_MAX = 0.3
WINDOW_RATE_PROBES_MIN = 10
#: How many results a judgement needs to look back over.
RESULTS_KEPT = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one probe found. `at_s` counts from the first probe."""

    at_s: float
    passed: bool
    reason: str = ""
    message: str = ""
    status: int | None = None
    #: The answer, or its absence, is nobody's fault that a new commit could mend.
    blames_release: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the results so far amount to."""

    outcome: Outcome
    reason: str = ""
    message: str = ""
    blames_release: bool = True


PENDING = Judgement(outcome=Outcome.PENDING)
PASSED = Judgement(outcome=Outcome.PASS)


def judge_gate(results: Sequence[Result], gate: Gate, *, now_s: float) -> Judgement:
    """Judge a gate by all its results, oldest first; `now_s` is the time since the first probe."""
    if _passes_at_the_end(results) >= PASSES_IN_A_ROW:
        return PASSED
    last = results[-1] if results else None
    if last is not None and last.reason in ("NotOurs", "InstanceExited"):
        return _failed(last)
    if last is not None and _is_settled(results):
        return _failed(last)
    if now_s < gate.start_timeout_s:
        return PENDING
    within = f"within {gate.start_timeout_s:g} s"
    if last is None:
        return Judgement(outcome=Outcome.FAIL, reason="GateTimedOut", message=f"no answer {within}")
    if any(result.passed for result in results):
        message = f"answered well and badly in turns {within}; last: {last.message}"
        return Judgement(outcome=Outcome.FAIL, reason="Flapping", message=message)
    if last.reason in ("", "NoAnswer"):
        message = f"no answer {within}: {last.message}"
        return Judgement(
            outcome=Outcome.FAIL, reason="GateTimedOut", message=message, blames_release=last.blames_release
        )
    return Judgement(
        outcome=Outcome.FAIL,
        reason=last.reason,
        message=f"{last.message} {within}",
        blames_release=last.blames_release,
    )


def judge_confirmation(results: Sequence[Result]) -> Judgement:
    """Judge the first probes through surface and edge: three passes in a row."""
    return PASSED if _passes_at_the_end(results) >= PASSES_IN_A_ROW else PENDING


def judge_window(results: Sequence[Result], gate: Gate, *, confirmed: bool, over: bool) -> Judgement:
    """Judge the window after a switch; `over` says that its time is up."""
    last = results[-1] if results else None
    if last is not None and last.reason == "InstanceExited":
        return _failed(last)
    failures = _failures_at_the_end(results)
    if last is not None and failures >= gate.window_failures:
        message = f"{failures} probes in a row failed after the switch; last: {last.message}"
        return Judgement(
            outcome=Outcome.FAIL, reason="WindowFailed", message=message, blames_release=last.blames_release
        )
    failed = [result for result in results if not result.passed]
    if len(results) >= WINDOW_RATE_PROBES_MIN and len(failed) >= WINDOW_RATE_MAX * len(results):
        message = f"{len(failed)} of {len(results)} probes failed after the switch; last: {failed[-1].message}"
        return Judgement(
            outcome=Outcome.FAIL, reason="WindowFailed", message=message, blames_release=failed[-1].blames_release
        )
    if not over:
        return PENDING
    if not confirmed:
        message = "the window ended before three probes in a row passed" + (f"; last: {last.message}" if last else "")
        return Judgement(outcome=Outcome.FAIL, reason="WindowFailed", message=message)
    return PASSED


def _failed(result: Result) -> Judgement:
    return Judgement(
        outcome=Outcome.FAIL, reason=result.reason, message=result.message, blames_release=result.blames_release
    )


def _passes_at_the_end(results: Sequence[Result]) -> int:
    count = 0
    for result in reversed(results):
        if not result.passed:
            break
        count += 1
    return count


def _failures_at_the_end(results: Sequence[Result]) -> int:
    count = 0
    for result in reversed(results):
        if result.passed:
            break
        count += 1
    return count


def _is_settled(results: Sequence[Result]) -> bool:
    """Say whether the same wrong status, and not one that says "not yet", came for a while without a break."""
    last = results[-1]
    if last.status is None or last.status in NOT_YET or last.reason not in ("WrongStatus", "WrongRelease"):
        return False
    same = 0
    began_s = last.at_s
    for result in reversed(results):
        if (result.status, result.reason) != (last.status, last.reason):
            break
        same, began_s = same + 1, result.at_s
    return same >= SETTLED_PROBES_MIN and last.at_s - began_s >= SETTLED_S
