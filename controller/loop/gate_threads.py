"""Who probes a new release? Bounded threads that ask, judge by `decisions.gates`, and hand over verdicts.

A verdict goes to the store at once; nothing is kept here but which threads run. A thread ends by its verdict, by its
deadline, or when its run is cancelled.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from controller.awake_clock import AwakeClock
from controller.decisions.drift import PORT_TAKEN, STOPPED_FROM_OUTSIDE
from controller.decisions.gates import (
    RESULTS_KEPT,
    ROWS_PAUSE_S,
    UNREACHED,
    HostLook,
    Judgement,
    Result,
    describe_end,
    describe_exposed,
    excused,
    gate_pause_s,
    judge_confirmation,
    judge_gate,
    judge_rows,
    judge_window,
    taken_pause_s,
    window_pause_s,
    with_host,
    with_listeners,
    with_log_line,
    with_port_in_use,
)
from controller.decisions.health import HEALTH_PATH, ServiceHealth, gate_path, release_path, surface_says
from controller.decisions.surfaces import INSTANCE_HEADER, NONCE_HEADER, RELEASE_HEADER, SURFACE_HEADER
from controller.decisions.surroundings import visitor_headers
from controller.effects.probe import Answer, ask, ask_forwarded, ask_instance
from controller.effects.static_files import COMPARE_TIMEOUT_S, COMPARED_BYTES_MAX, StaticFile
from controller.model.config import Gate
from controller.model.errors import OroborosError
from controller.model.names import Sha, SlotName
from controller.model.nouns import ProcessFact, Verdict
from controller.model.states import Outcome, ProcessState
from controller.threads import new_thread

log = logging.getLogger(__name__)

THREADS_MAX = 32
#: What a round of a gate takes beside its probe, at the most, as far as its deadline counts it.
ROUND_SLACK_S = 1.0


def _nothing_away() -> str:
    return ""


def _no_rows() -> tuple[ServiceHealth, ...]:
    return ()


def _nothing_to_do() -> None:
    """Do nothing."""


def _nothing_against_it() -> Judgement | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A running instance, as a probe needs to know it."""

    address: str
    nonce: str
    process_ids: Callable[[], frozenset[int]]
    #: Who else listens at the address: "" for nobody else, None when nobody does.
    strangers: Callable[[], str | None]
    #: The unit as the runtime shows it now; None when it is gone.
    fact: Callable[[], ProcessFact | None]
    error_line: Callable[[], str]
    #: The address that it was told to listen at; `address` where nothing forwards to it.
    told: str
    #: Where its own processes listen.
    listens: Callable[[], tuple[str, ...]]
    #: Where the instance that serves listens, beside the address that it was told.
    beside: Callable[[], tuple[str, ...]]
    #: Others on the machine's networks reach what it listens at.
    is_exposed: bool = True
    #: Asked when it failed: which part that it needs is away ("its database does not answer: …"); "" for none.
    part_away: Callable[[], str] = _nothing_away
    #: The service manager holds the address and forwards into the instance's own network: nobody else can answer.
    forwarded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GateOrder:
    """What a gate asks of whom."""

    slot: SlotName
    generation: int
    release: Sha
    gate: Gate
    instance: Instance
    #: The slot's public URL: a gate asks as a visitor to it does, and so does the window.
    url: str
    #: Called when every probe passed: what no probe sees, and speaks against the release all the same.
    objection: Callable[[], Judgement | None] = _nothing_against_it
    #: Called when it passed, before anybody is told: what must be found out right before a switch.
    before_pass: Callable[[], None] = _nothing_to_do


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOrder:
    """What a confirmation and a window ask, through the surface and the edge."""

    slot: SlotName
    generation: int
    release: Sha
    gate: Gate
    #: None for a release of static files only; then `static` says what is asked.
    instance: Instance | None
    static: tuple[StaticFile, ...]
    #: The slot's public URL.
    url: str
    #: Addresses: the slot's web surface, and the edge.
    doors: tuple[str, ...]
    #: Which ports of the slot or of the edge other processes have, in words; "" while they have none.
    taken: Callable[[], str] = _nothing_away
    window_left_s: float
    #: Asks the rows of the host's health that were well before the switch; () where none is judged.
    ask_host: Callable[[], tuple[ServiceHealth, ...]] = _no_rows


#: ("gate" or "watch", slot, generation)
Key = tuple[Literal["gate", "watch"], SlotName, int]


def _about(key: Key) -> dict[str, object]:
    """Return what a log line says of the gate or window that it is about."""
    return {"action": "gate.failed", "slot": key[1], "run": key[2]}


class GateThreads:
    """The gates and windows of one worker."""

    def __init__(
        self, record: Callable[[Verdict, str, float], None], *, ring: Callable[[], None] = lambda: None
    ) -> None:
        """`record` takes a verdict, the level of proof, and how many seconds were spent on it. `ring` is called when a
        thread has ended, with or without a verdict."""
        self._record = record
        self._ring = ring
        self._lock = threading.Lock()
        self._running: dict[Key, threading.Event] = {}

    def running(self) -> frozenset[Key]:
        """Return which gates and windows run."""
        with self._lock:
            return frozenset(self._running)

    def cancel(self, slot: SlotName, generation: int) -> None:
        """End the threads of a run without a verdict."""
        with self._lock:
            for key, cancelled in self._running.items():
                if key[1:] == (slot, generation):
                    cancelled.set()

    def start_gate(self, order: GateOrder) -> bool:
        """Begin a gate, unless it runs or too many threads do."""
        key: Key = ("gate", order.slot, order.generation)
        return self._start(key, lambda cancelled: self._run_gate(order, cancelled))

    def start_watch(self, order: WatchOrder) -> bool:
        """Begin confirmation and window, unless they run or too many threads do."""
        key: Key = ("watch", order.slot, order.generation)
        return self._start(key, lambda cancelled: self._run_watch(order, cancelled))

    def _start(self, key: Key, work: Callable[[threading.Event], None]) -> bool:
        with self._lock:
            if key in self._running or len(self._running) >= THREADS_MAX:
                return False
            cancelled = self._running[key] = threading.Event()

        def run() -> None:
            try:
                work(cancelled)
            except OroborosError as error:
                # Without a verdict it is begun again.
                log.warning("%s %s: %s", key[0], key[1], error, extra=_about(key))
            finally:
                with self._lock:
                    self._running.pop(key, None)
                self._ring()

        new_thread(key[0], run, name=f"{key[0]} {key[1]} {key[2]}").start()
        return True

    def _run_gate(self, order: GateOrder, cancelled: threading.Event) -> None:
        began = time.monotonic()
        awake = AwakeClock(order.gate.probe_timeout_s + ROUND_SLACK_S)
        results: list[Result] = []
        while not cancelled.is_set():
            result = probe_instance(order, at_s=awake.elapsed_s())
            results.append(result)
            del results[:-RESULTS_KEPT]
            judgement = judge_gate(results, order.gate, now_s=awake.elapsed_s())
            if judgement.outcome is Outcome.PASS:
                judgement = order.objection() or judgement
            if judgement.outcome is not Outcome.PENDING:
                took_s, has_passed = time.monotonic() - began, judgement.outcome is Outcome.PASS
                if has_passed and not cancelled.is_set():
                    order.before_pass()
                if not cancelled.is_set():
                    proof = order.gate.proof if has_passed else ""
                    told = _noted(judgement, order.instance) if has_passed else _explained(judgement, order.instance)
                    self._tell("gate", order, told, proof, took_s)
                return
            cancelled.wait(gate_pause_s(result))

    def _run_watch(self, order: WatchOrder, cancelled: threading.Event) -> None:
        began = time.monotonic()
        until = began + order.window_left_s
        results: list[Result] = []
        looks: list[HostLook] = []
        confirmed, blocked = False, 0
        while not cancelled.is_set():
            result = probe_doors(order, at_s=time.monotonic() - began)
            if result.reason == PORT_TAKEN:
                # Nothing that is seen now is about the release: the window begins anew once the ports are ours.
                results.clear()
                looks.clear()
                until, blocked = time.monotonic() + order.window_left_s, blocked + 1
                if blocked == 1:
                    self._ring()  # the next tick tells of it
                cancelled.wait(taken_pause_s(blocked))
                continue
            blocked = 0
            results.append(result)
            del results[:-RESULTS_KEPT]
            if not confirmed and judge_confirmation(results).outcome is Outcome.PASS:
                confirmed = True
                self._tell("confirm", order, judge_confirmation(results), "", time.monotonic() - began)
            at_s = time.monotonic() - began
            if not looks or at_s >= looks[-1].at_s + ROWS_PAUSE_S:
                looks.append(HostLook(at_s=at_s, unwell=tuple(row for row in order.ask_host() if not row.ok)))
                del looks[:-RESULTS_KEPT]
            over_by_s, host = time.monotonic() - until, judge_rows(looks)
            window = judge_window(results, order.gate, confirmed=confirmed, over_by_s=over_by_s)
            judgement = with_host(window, host)
            if judgement.outcome is not Outcome.PENDING:
                # What the app logged, or its database being away, does not explain a row of the host.
                told = _explained(judgement, order.instance) if judgement is window else judgement
                self._tell("watch", order, told, "", time.monotonic() - began)
                return
            waits = host.outcome is Outcome.PENDING
            cancelled.wait(window_pause_s(result, confirmed=confirmed, over_by_s=over_by_s, waits_for_host=waits))

    def _tell(
        self,
        kind: Literal["gate", "confirm", "watch"],
        order: GateOrder | WatchOrder,
        judgement: Judgement,
        proof: str,
        took_s: float,
    ) -> None:
        verdict = Verdict(
            kind=kind,
            slot=order.slot,
            generation=order.generation,
            release=order.release,
            outcome=judgement.outcome,
            reason=judgement.reason,
            message=judgement.message,
            blames_release=judgement.blames_release,
        )
        self._record(verdict, proof, took_s)


def _explained(judgement: Judgement, instance: Instance | None) -> Judgement:
    """Add to a failure where the app listens, what it said last, and which part was away."""
    if instance is None or judgement.outcome is not Outcome.FAIL:
        return judgement
    try:
        line = instance.error_line()
        if judgement.reason in UNREACHED:
            judgement = with_listeners(judgement, instance.told, instance.listens())
        elif judgement.reason == "InstanceExited":
            judgement = with_port_in_use(judgement, line, instance.beside())
        return excused(with_log_line(judgement, line), instance.part_away())
    except OroborosError as error:
        log.warning("gate: a failure is not explained: %s", error, extra={"action": "gate.unexplained"})
        return judgement


def _noted(judgement: Judgement, instance: Instance) -> Judgement:
    """Add to what passed that it is open past the edge: a risk, and no failure."""
    if not instance.is_exposed:
        return judgement
    try:
        return replace(judgement, message=describe_exposed(instance.listens()))
    except OroborosError as error:
        log.warning("gate: not known where it listens: %s", error, extra={"action": "gate.unexplained"})
        return judgement


def probe_instance(order: GateOrder, *, at_s: float) -> Result:
    """Ask the instance once, at its own address, and prove that it was the instance that answered."""
    instance, gate = order.instance, order.gate
    try:
        ended = _ended(instance, at_s=at_s)
        if ended is not None:
            # Most likely it ended because it could not have its address, if somebody else has it.
            squatter = _squatter(instance) if ended.reason == "InstanceExited" else ""
            return _not_ours(instance.address, f"{squatter}: {ended.message}", at_s=at_s) if squatter else ended
        answer = _ask(instance, gate, order.url)
    except OroborosError as error:
        return _runtime_away(error, at_s=at_s)
    if answer.refused:
        message = f"nobody listens at {instance.told}"
        return Result(at_s=at_s, passed=False, reason="NeverBound", message=message)
    if answer.stranger:
        return _not_ours(instance.address, answer.stranger, at_s=at_s)
    result = _judge_answer(answer, gate, at_s=at_s)
    if result.passed and gate.proof == "echo":
        return _judge_echo(answer, order.release, instance.nonce, at_s=at_s)
    return result


def probe_doors(order: WatchOrder, *, at_s: float) -> Result:
    """Ask every door once what the gate asked; the first that fails is the result.

    The surface itself says that it serves this release, and asks its instance on our behalf: an app's own pages and
    files are not in the way. Whose the ports are is looked at before and after: a process that took one in between
    could have been the one that answered."""
    try:
        if taken := order.taken():
            return _port_taken(taken, at_s=at_s)
        result = _ask_doors(order, at_s=at_s)
        return _port_taken(taken, at_s=at_s) if (taken := order.taken()) else result
    except OroborosError as error:
        return _runtime_away(error, at_s=at_s)


def _ask_doors(order: WatchOrder, *, at_s: float) -> Result:
    if order.instance is not None:
        try:
            ended = _ended(order.instance, at_s=at_s)
        except OroborosError as error:
            return _runtime_away(error, at_s=at_s)
        if ended is not None:
            return ended
        # It may have closed its listener since its gate.
        squatter = "" if order.instance.forwarded else _squatter(order.instance)
        if squatter:
            return _not_ours(order.instance.address, squatter, at_s=at_s)
    for address in order.doors:
        result = _through_door(order, address, at_s=at_s)
        if not result.passed:
            return result
        for file in order.static:
            result = _judge_file(order, address, file, at_s=at_s)
            if not result.passed:
                return result
    return Result(at_s=at_s, passed=True)


def _through_door(order: WatchOrder, address: str, *, at_s: float) -> Result:
    """Prove that the door is our surface, serves this release, and that its instance answers what its gate asks."""
    instance, gate = order.instance, order.gate
    headers = visitor_headers(order.url)
    path = release_path(order.release) if instance is None else gate_path(order.release)
    answer = ask(address, path, headers=headers, timeout_s=gate.probe_timeout_s)
    if answer.refused:
        return _door_away(address, headers["Host"], "nobody listens", at_s=at_s)
    if answer.status is None:
        return Result(at_s=at_s, passed=False, reason="NoAnswer", message=f"{gate.path}: {answer.problem}")
    if answer.headers.get(SURFACE_HEADER.lower()) != order.slot:
        return _through_older_surface(order, address, at_s=at_s)
    through = answer.headers.get(INSTANCE_HEADER.lower(), "")
    if through == "away":
        message = f"{gate.path}: the surface of {order.slot} cannot reach the instance"
        return Result(at_s=at_s, passed=False, reason="NoAnswer", message=message)
    if through != "answered" and (instance is not None or answer.status != 200):
        message = f"{headers['Host']} serves another release than {order.release[:7]}"
        return Result(at_s=at_s, passed=False, reason="WrongRelease", message=message, blames_release=False)
    return _judge_through(order, answer, at_s=at_s)


def _through_older_surface(order: WatchOrder, address: str, *, at_s: float) -> Result:
    """Judge through a surface of an earlier installation, which has no reserved path. Where Oroboros deploys itself
    the worker is newer until root installs. Its /health names slot and release under any name, and the gate's path is
    asked for as a visitor asks."""
    headers, timeout_s = visitor_headers(order.url), order.gate.probe_timeout_s
    said = ask(address, HEALTH_PATH, headers=headers, timeout_s=timeout_s)
    says = surface_says(said.body.decode("utf-8", "replace"))
    if (says.get("slot"), says.get("release")) != (order.slot, order.release):
        told = f"what answers there does not say that it is the surface of {order.slot}"
        return _door_away(address, headers["Host"], told, at_s=at_s)
    if order.instance is None:
        return Result(at_s=at_s, passed=True)
    return _judge_through(order, ask(address, order.gate.path, headers=headers, timeout_s=timeout_s), at_s=at_s)


def _judge_through(order: WatchOrder, answer: Answer, *, at_s: float) -> Result:
    """Judge what the instance answered through a door, by the rule of its gate."""
    if order.instance is None:
        return Result(at_s=at_s, passed=True, status=answer.status)
    result = _judge_answer(answer, order.gate, at_s=at_s)
    if result.passed and order.gate.proof == "echo":
        return _judge_echo(answer, order.release, order.instance.nonce, at_s=at_s)
    return result


def _judge_file(order: WatchOrder, address: str, file: StaticFile, *, at_s: float) -> Result:
    """Compare a file with what its URL answers, as far as both are read."""
    headers = visitor_headers(order.url)
    answer = ask(address, file.url_path, headers=headers, timeout_s=COMPARE_TIMEOUT_S, compare_bytes=COMPARED_BYTES_MAX)
    if answer.refused:
        return _door_away(address, headers["Host"], "nobody listens", at_s=at_s)
    where = f"{headers['Host']}{file.url_path}"
    if answer.status is None or (answer.status == 200 and answer.problem):
        # The surface reads it from the disk: that it is slow says nothing about the release.
        message = f"{where}: {answer.problem}"
        return Result(at_s=at_s, passed=False, reason="NoAnswer", message=message, blames_release=False)
    if answer.status != 200:
        message = f"{where} answers {answer.status}, and is a file of this release"
        return Result(at_s=at_s, passed=False, reason="WrongRelease", message=message)
    length = int(answer.headers["content-length"])
    if (length, answer.sha256) != (file.size_bytes, file.sha256):
        differs = f"{length} bytes, not {file.size_bytes}" if length != file.size_bytes else "other bytes"
        message = f"{where} is not the file of this release: {differs}"
        return Result(at_s=at_s, passed=False, reason="WrongRelease", message=message)
    return Result(at_s=at_s, passed=True)


def _ended(instance: Instance, *, at_s: float) -> Result | None:
    """Say how the instance ended; None while it runs."""
    fact = instance.fact()
    if fact is None:
        message = "the host lost the instance: neither running nor ended"
        return Result(at_s=at_s, passed=False, reason="InstanceLost", message=message, blames_release=False)
    if fact.state is ProcessState.RUNNING:
        return None
    code = fact.exit_code
    return Result(
        at_s=at_s,
        passed=False,
        reason="InstanceExited",
        message=describe_end(code),
        blames_release=code not in STOPPED_FROM_OUTSIDE,
    )


def _ask(instance: Instance, gate: Gate, url: str) -> Answer:
    headers = visitor_headers(url)
    if instance.forwarded:
        return ask_forwarded(instance.address, gate.path, headers=headers, timeout_s=gate.probe_timeout_s)
    return ask_instance(
        instance.address,
        gate.path,
        headers=headers,
        timeout_s=gate.probe_timeout_s,
        process_ids=instance.process_ids,
        strangers=instance.strangers,
    )


def _squatter(instance: Instance) -> str:
    return "" if instance.address.startswith("unix/") else instance.strangers() or ""


def _not_ours(address: str, stranger: str, *, at_s: float) -> Result:
    message = f"{address} is not held by this release, but by {stranger}"
    return Result(at_s=at_s, passed=False, reason="NotOurs", message=message, blames_release=False)


def _port_taken(taken: str, *, at_s: float) -> Result:
    return Result(at_s=at_s, passed=False, reason=PORT_TAKEN, message=taken, blames_release=False)


def _door_away(address: str, host: str, told: str, *, at_s: float) -> Result:
    message = f"our own door for {host} at {address} is away: {told}"
    return Result(at_s=at_s, passed=False, reason="DoorAway", message=message, blames_release=False)


def _runtime_away(error: OroborosError, *, at_s: float) -> Result:
    return Result(at_s=at_s, passed=False, reason="RuntimeAway", message=error.message, blames_release=False)


def _judge_answer(answer: Answer, gate: Gate, *, at_s: float) -> Result:
    if answer.status is not None and answer.status != gate.status:
        message = f"{gate.path} answers {answer.status}, not {gate.status}"
        return Result(at_s=at_s, passed=False, reason="WrongStatus", message=message, status=answer.status)
    if answer.problem:
        return Result(at_s=at_s, passed=False, reason="NoAnswer", message=f"{gate.path}: {answer.problem}")
    return Result(at_s=at_s, passed=True, status=answer.status)


def _judge_echo(answer: Answer, release: Sha, nonce: str, *, at_s: float) -> Result:
    seen = answer.headers.get(RELEASE_HEADER.lower(), "")
    if seen == release and answer.headers.get(NONCE_HEADER.lower(), "") == nonce and nonce:
        return Result(at_s=at_s, passed=True, status=answer.status)
    told = "".join(c for c in seen if c.isprintable())[:12] or "nothing"
    message = f"X-Oroboros-Release says {told}, not {release[:12]} with this start's nonce"
    return Result(at_s=at_s, passed=False, reason="WrongRelease", message=message, status=answer.status)
