"""When has a new release shown that it works? Pure rules over the results of probes.

Before the switch: three passes in a row, 25 ms apart, within the start deadline; a process that ended, a stranger on
the port, or a settled wrong answer fail at once. After it: three passes through surface and edge confirm, and a window
of probes a second apart goes on watching. Flapping never ends in success; no window passes on too few probes or on a
last probe that failed; and what is no fault of the release (our own doors away) counts neither way.

Reasons: NeverBound, GateTimedOut, WrongStatus, WrongRelease, Flapping, NotOurs, InstanceExited, InstanceLost,
WindowFailed, WindowUnproven, HealthGateFailed; of single probes also NoAnswer, DoorAway and RuntimeAway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from controller.decisions.health import ServiceHealth, describe_unwell
from controller.model.config import Gate, Production
from controller.model.names import MAIN
from controller.model.nouns import Run
from controller.model.states import Cause, Outcome

PASSES_IN_A_ROW = 3
GATE_PAUSE_S = 0.025
#: After so long without a listener, look less often.
SLOW_START_S = 3.0
SLOW_START_PAUSE_S = 0.1
WINDOW_PAUSE_S = 1.0
#: After a failed probe: look again soon, since users see it.
WINDOW_RETRY_PAUSE_S = 0.25
#: While another process has a port of ours.
TAKEN_PAUSE_MAX_S = 5.0
#: An answer that says "not yet".
NOT_YET = frozenset({502, 503, 504})
#: The same wrong answer for so long, from the very process, is its answer.
SETTLED_S = 2.0
SETTLED_PROBES_MIN = 20
#: Of the newest probes of a window, so many failures are too many, also when none follow each other. Of the newest and
#: not of all: a release that turned bad late must not live on what it was before.
WINDOW_RATE_PROBES = 10
WINDOW_RATE_FAILURES = 3
#: No window passes on fewer.
WINDOW_PROBES_MIN = 5
#: How long a window waits for doors of ours that are away, once its time is up.
WINDOW_OVERTIME_S = 60.0
#: A row of the host's health is unwell by so many looks in a row, over so long: a restart is shorter.
ROW_LOOKS_MIN = 5
ROW_UNWELL_S = 10.0
#: Looks at the host are so far apart.
ROWS_PAUSE_S = 1.0
LOG_LINE_CHARS_MAX = 300
LISTENERS_SHOWN_MAX = 3
#: A gate may end in the second of these when a few probes got no answer for another reason, before none listened.
LISTENS_BY_NOW = "it listens there only now: if it needs that long, raise start_timeout_s of [gate]"
#: [::] takes what is sent to IPv4 as well, unless the app or the machine says that it is for IPv6 alone.
MAY_BE_LATE = "; if it does listen there only now, raise start_timeout_s of [gate]"
UNREACHED = frozenset({"NeverBound", "GateTimedOut"})
#: What runtimes say of EADDRINUSE.
IN_USE = ("in use", "eaddrinuse", "errno 98")
#: Nothing that comes after these can make the instance the one that was started.
FINAL = frozenset({"InstanceExited", "InstanceLost", "NotOurs"})
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
class HostLook:
    """Which rows of the host's health a look found unwell, of those that were well before the switch."""

    at_s: float
    unwell: tuple[ServiceHealth, ...] = ()


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
    if last is not None and last.reason in FINAL:
        return _failed(last)
    if last is not None and _is_settled(results):
        return _failed(last)
    if now_s < gate.start_timeout_s:
        return PENDING
    within = f"within {gate.start_timeout_s:g} s"
    if last is None:
        return Judgement(outcome=Outcome.FAIL, reason="GateTimedOut", message=f"no answer {within}")
    if last.passed:
        message = f"began to pass too late: not {PASSES_IN_A_ROW} times in a row {within}"
        reason = "Flapping" if _has_flapped(results) else "GateTimedOut"
        return Judgement(outcome=Outcome.FAIL, reason=reason, message=message)
    if _has_flapped(results):
        message = f"answered well and badly in turns {within}; last: {last.message}"
        return Judgement(outcome=Outcome.FAIL, reason="Flapping", message=message)
    if last.reason == "NoAnswer" or (last.reason == "NeverBound" and any(r.reason != "NeverBound" for r in results)):
        return replace(_failed(last), reason="GateTimedOut", message=f"no answer {within}: {last.message}")
    return replace(_failed(last), message=f"{last.message} {within}")


def gate_pause_s(result: Result) -> float:
    """Return how long to wait before the next probe of a gate: less often once an app takes long to listen."""
    return SLOW_START_PAUSE_S if result.reason == "NeverBound" and result.at_s > SLOW_START_S else GATE_PAUSE_S


def _has_flapped(results: Sequence[Result]) -> bool:
    return any(earlier.passed and not later.passed for earlier, later in pairwise(results))


def judge_confirmation(results: Sequence[Result]) -> Judgement:
    """Judge the first probes through surface and edge: three passes in a row."""
    return PASSED if _passes_at_the_end(results) >= PASSES_IN_A_ROW else PENDING


def judge_window(results: Sequence[Result], gate: Gate, *, confirmed: bool, over_by_s: float) -> Judgement:
    """Judge the window after a switch. `over_by_s` is how long its time has been up; negative while it is not.

    1. An instance that ended, or that is not the one that was started, fails at once.
    2. So do failures in a row, and too many among the newest probes.
    3. Until the time is up: pending. After it too, as long as the last probe failed or there were too few.
    4. What we cannot see through our own doors, we wait for, but not for ever.
    """
    last = results[-1] if results else None
    if last is not None and last.reason in FINAL:
        return _failed(last)
    ours = [result for result in results if result.passed or result.blames_release]
    in_a_row = _failures_at_the_end(ours)
    if in_a_row >= gate.window_failures:
        message = f"{in_a_row} probes in a row failed after the switch; last: {ours[-1].message}"
        return Judgement(outcome=Outcome.FAIL, reason="WindowFailed", message=message)
    newest = ours[-WINDOW_RATE_PROBES:]
    failed = [result for result in newest if not result.passed]
    if len(newest) == WINDOW_RATE_PROBES and len(failed) >= WINDOW_RATE_FAILURES:
        message = f"{len(failed)} of the newest {len(newest)} probes failed; last: {failed[-1].message}"
        return Judgement(outcome=Outcome.FAIL, reason="WindowFailed", message=message)
    if over_by_s < 0:
        return PENDING
    if last is not None and last.passed and confirmed and len(ours) >= WINDOW_PROBES_MIN:
        return PASSED
    if over_by_s >= WINDOW_OVERTIME_S:
        seen = f"; last: {last.message}" if last is not None and not last.passed else ""
        message = f"the window ended without {PASSES_IN_A_ROW} probes in a row that passed{seen}"
        blames = last is not None and last.blames_release
        return Judgement(outcome=Outcome.FAIL, reason="WindowUnproven", message=message, blames_release=blames)
    return PENDING


def is_judged_by_host(run: Run, production: Production) -> bool:
    """Say whether rows of the host's health that turn unwell after the switch roll this run back: every order by hand,
    and pushes by policy. Not what only starts again, or goes back to, what served well."""
    if run.slot != MAIN or run.cause in (Cause.REPAIR, Cause.ROLLBACK):
        return False
    return run.cause is Cause.OVERRIDE or production.health_gate == "rollback"


def judge_rows(looks: Sequence[HostLook]) -> Judgement:
    """Judge the rows that were well before the switch, oldest look first: each must be well at the end, and none unwell
    for longer than a restart takes."""
    last = looks[-1] if looks else None
    if last is None or not last.unwell:
        return PASSED
    failed = [row for row in last.unwell if _is_unwell_for_long(looks, row.service)]
    if not failed:
        return PENDING
    message = f"well before the switch, and not for {ROW_UNWELL_S:g} s by now: {describe_unwell(failed)}"
    return Judgement(outcome=Outcome.FAIL, reason="HealthGateFailed", message=message)


def _is_unwell_for_long(looks: Sequence[HostLook], service: str) -> bool:
    began_s, count = looks[-1].at_s, 0
    for look in reversed(looks):
        if all(row.service != service for row in look.unwell):
            break
        began_s, count = look.at_s, count + 1
    return count >= ROW_LOOKS_MIN and looks[-1].at_s - began_s >= ROW_UNWELL_S


def with_host(window: Judgement, host: Judgement) -> Judgement:
    """Return what a window comes to: what the release itself failed by comes first, and it passes if both do."""
    if window.outcome is Outcome.FAIL or host.outcome is Outcome.PASS:
        return window
    return host


def window_pause_s(result: Result, *, confirmed: bool, over_by_s: float, waits_for_host: bool = False) -> float:
    """Return how long to wait before the next probe of a window: never past its end, shorter while in doubt."""
    if not result.passed:
        return WINDOW_RETRY_PAUSE_S
    if waits_for_host and confirmed:
        return ROWS_PAUSE_S
    if not confirmed or over_by_s >= 0:
        return GATE_PAUSE_S
    return min(WINDOW_PAUSE_S, -over_by_s)


def taken_pause_s(tries: int) -> float:
    """Return how long a window whose ports other processes have waits before it looks again."""
    return min(TAKEN_PAUSE_MAX_S, WINDOW_RETRY_PAUSE_S * 2.0 ** min(tries, 10))


def with_log_line(judgement: Judgement, line: str) -> Judgement:
    """Add the line of the app's log that names an error to a failure: it says why. The app wrote it, so it is made
    harmless."""
    if judgement.outcome is not Outcome.FAIL or not line.strip():
        return judgement
    told = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line.strip())[:LOG_LINE_CHARS_MAX]
    return replace(judgement, message=f"{judgement.message}; it logged: {told}")


def describe_end(code: int | None) -> str:
    """Return how an instance ended, by its exit code; negative: by a signal."""
    if code is not None and code < 0:
        return f"the instance was killed by signal {-code}"
    if code == 0:
        return "the instance exited with 0: it must stay in the foreground, and not become a daemon"
    return f"the instance exited with {code}"


def with_listeners(judgement: Judgement, wanted: str, listens: Sequence[str]) -> Judgement:
    """Add where the processes of a release listen, if not at the address that it was given.

    One that listens there and does not answer in time is not meant. One that listens there by now began too late."""
    if judgement.reason not in UNREACHED:
        return judgement
    port = wanted.rpartition(":")[2]
    is_bound = wanted in listens or f"0.0.0.0:{port}" in listens
    may_be_bound = f"[::]:{port}" in listens
    if judgement.reason == "GateTimedOut" and (is_bound or may_be_bound or wanted.startswith("unix/")):
        return judgement
    told = LISTENS_BY_NOW if is_bound else describe_listeners(wanted, listens)
    if may_be_bound and not is_bound:
        told += MAY_BE_LATE
    return replace(judgement, message=f"{judgement.message}; {told}") if told else judgement


def describe_listeners(wanted: str, listens: Sequence[str]) -> str:
    """Return where an app listens that does not at `wanted` (`127.0.0.1:8200` or `unix//path`), and what to do."""
    if not listens:
        return "" if wanted.startswith("unix/") else "it listens nowhere"
    more = f" and {len(listens) - LISTENERS_SHOWN_MAX} more" if len(listens) > LISTENERS_SHOWN_MAX else ""
    shown = ", ".join(listens[:LISTENERS_SHOWN_MAX]) + more
    if wanted.startswith("unix/"):
        return f"it listens at {shown}: bind OROBOROS_SOCKET"
    host, _, port = wanted.rpartition(":")
    has_port = any(address.rpartition(":")[2] == port for address in listens)
    return f"it listens at {shown}: bind {f'HOST ({host})' if has_port else f'PORT ({port})'}"


def with_port_in_use(judgement: Judgement, line: str, beside: Sequence[str]) -> Judgement:
    """Add to a release that ended because an address was in use what the instance that serves listens at beside its
    own: both run until the switch, so that a fixed second port is there once."""
    if judgement.reason != "InstanceExited" or not beside or not any(word in line.lower() for word in IN_USE):
        return judgement
    shown = ", ".join(beside[:LISTENERS_SHOWN_MAX])
    return replace(judgement, message=f"{judgement.message}: {shown} is in use by what serves")


def describe_exposed(listens: Sequence[str]) -> str:
    """Return at which addresses an app is reached past the edge, by other machines; "" when it is at none."""
    open_to = [address for address in listens if not _is_loopback(address)]
    if not open_to:
        return ""
    return f"listens on all interfaces or another than loopback, past the edge: {', '.join(open_to)}"


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]").removeprefix("::ffff:")
    return host == "::1" or host.startswith("127.")


def excused(judgement: Judgement, part_away: str) -> Judgement:
    """Take the blame off the release when a part that it needs (its database) was away while it failed."""
    if judgement.outcome is not Outcome.FAIL or not part_away:
        return judgement
    return replace(judgement, message=f"{judgement.message}; meanwhile {part_away}", blames_release=False)


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
