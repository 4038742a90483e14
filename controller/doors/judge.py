"""`oroboros judge`: brings a new release of Oroboros itself up, with the code of the release before, or goes back.

The worker that built and gated the release is replaced by it, so it cannot judge what comes of that. It left an order;
`ouroboros-judge.service` runs this for it: switch, restart api and worker, and wait until both answer from the new
release and the worker has finished a tick of it. Else switch back and restart again. The result is a file; whichever
worker runs then reads it, and quarantines what was judged bad.

Killed anywhere, it is begun again: the order stays until the result is written, and every step may be repeated.
Exit codes: 0 judged, whatever the verdict, or nothing to judge · 4 a part of the host could not be reached.
"""

from __future__ import annotations

import http.client
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from controller.control_launcher import environment_of
from controller.effects.judge_files import JudgeOrder, end_order, read_order
from controller.effects.live import SlotLock, point_current, read_live, write_live
from controller.effects.runtime import Runtime
from controller.model.names import MAIN, Layout, Topology
from controller.model.nouns import Live, Verdict
from controller.model.states import Outcome

#: From the restart to a finished tick of the new release: its start, its migrations, its first look at the host.
UP_WITHIN_S = 60.0
LOOK_EVERY_S = 0.25
#: Parts that end so often right after their start will not come up by waiting.
RESTARTS_MAX = 3
HEALTH_TIMEOUT_S = 2.0
ANSWER_BYTES_MAX = 64 << 10

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a part said of itself. `release` is None when it did not answer, or runs what was installed."""

    answers: bool
    is_well: bool = False
    release: str | None = None
    ticks: int = 0


def judge_parts(api: Seen, worker: Seen, *, release: str) -> str:
    """Return "" when both parts are up, from this release, and the worker has ticked; else what is missing. Pure."""
    for what, seen in (("the api", api), ("the worker", worker)):
        if not seen.answers:
            return f"{what} does not answer"
        if seen.release != release:
            return f"{what} runs {seen.release[:12] if seen.release else 'what was installed'}, not {release[:12]}"
    if worker.ticks < 1:
        return "the worker has finished no tick"
    if not worker.is_well:
        return "the worker says that it is not fit"
    return "" if api.is_well else "the api says that it is not fit"


def gives_up(problem: str, restarts: int) -> str:
    """Return why there is no point in waiting longer; "" while there is. Pure."""
    if not problem or restarts < RESTARTS_MAX:
        return ""
    return f"{problem}, and systemd had to start api or worker anew {restarts} times"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """One judge of one host."""

    layout: Layout
    topology: Topology
    runtime: Runtime
    up_within_s: float = UP_WITHIN_S
    clock: Callable[[], float] = time.monotonic

    def run(self) -> int:
        """Carry out the order that is open, if there is one; return the exit code."""
        order = read_order(self.layout)
        if order is None:
            log.info("judge: there is no order", extra={"action": "judge.none"})
            return 0
        missing = self._requirements_missing(order)
        if missing:
            self._end(order, Outcome.FAIL, "RequirementsNotInstalled", missing, blames_release=False)
            return 0
        self._serve(order.live)
        self.runtime.restart_control_plane()
        problem = self._wait(order.release)
        if not problem:
            self._end(order, Outcome.PASS, "", "", blames_release=True)
            return 0
        log.error("judge: %s goes back: %s", order.release[:12], problem, extra={"action": "judge.back"})
        # The result first: the worker that comes up must not take the switch for its own to watch.
        self._serve(order.back)
        message = f"{problem}; went back to {(order.back.release or 'none')[:7]}"
        self._end(order, Outcome.FAIL, "ControlPlaneNotUp", message, blames_release=True)
        self.runtime.restart_control_plane()
        return 0

    def _requirements_missing(self, order: JudgeOrder) -> str:
        if environment_of(self.layout.release(order.release)) is not None:
            return ""
        return (
            f"{order.release[:7]} requires packages that this host has not: check that commit out yourself and run its"
            " scripts/install.sh --prepare as root; it is tried again"
        )

    def _serve(self, live: Live) -> None:
        with SlotLock(self.layout, MAIN) as held:
            present = read_live(self.layout, MAIN)
            if present is None or (present.generation, present.state) != (live.generation, live.state):
                write_live(self.layout, replace(live, previous_static_root=None), held=held)
            if live.release is not None:
                point_current(self.layout, MAIN, live.release, held=held)
            else:
                self.layout.current.unlink(missing_ok=True)

    def _wait(self, release: str) -> str:
        deadline = self.clock() + self.up_within_s
        before = self.runtime.control_plane_restarts()
        while True:
            api = ask(self.topology.ports.api)
            worker = ask(self.topology.ports.worker_health)
            problem = judge_parts(api, worker, release=release)
            if not problem:
                return ""
            if self.clock() >= deadline:
                return f"{problem} {self.up_within_s:g} s after the switch"
            restarts = self.runtime.control_plane_restarts()
            before = min(before, restarts)  # an order begins the count again
            hopeless = gives_up(problem, restarts - before)
            if hopeless:
                return hopeless
            time.sleep(LOOK_EVERY_S)

    def _end(self, order: JudgeOrder, outcome: Outcome, reason: str, message: str, *, blames_release: bool) -> None:
        verdict = Verdict(
            kind="judge",
            slot=MAIN,
            generation=order.generation,
            release=order.release,
            outcome=outcome,
            reason=reason,
            message=message,
            blames_release=blames_release,
        )
        end_order(self.layout, verdict)
        log.info("judge: %s: %s %s", order.release[:12], outcome, message, extra={"action": "judge.end"})


def ask(port: int) -> Seen:
    """Ask a part of the control plane how it is. Never raises."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HEALTH_TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        value = json.loads(answer.read(ANSWER_BYTES_MAX))
    except (TimeoutError, OSError, http.client.HTTPException, ValueError):
        return Seen(answers=False)
    finally:
        connection.close()
    if not isinstance(value, dict):
        return Seen(answers=False)
    release, ticks = value.get("release"), value.get("ticks")
    return Seen(
        answers=True,
        is_well=answer.status == 200,
        release=release if isinstance(release, str) else None,
        ticks=ticks if isinstance(ticks, int) else 0,
    )
