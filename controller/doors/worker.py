"""`oroboros worker`: wires the loop to real effects, and tells the truth about it on the health port.

Exit codes: 0 stopped on request · 2 configuration · 4 a part could not be reached in time · 1 another worker took over.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any

from controller.decisions.access import WORKER_ACCESS
from controller.decisions.drift import PORT_TAKEN
from controller.decisions.fitness import judge_fitness
from controller.decisions.report_checks import STEP_OF_VERDICT
from controller.decisions.troubles import describe
from controller.doors.forges import open_forges
from controller.doors.operator_token import is_operator, operator_token
from controller.doors.stacks import open_databases
from controller.effects.database import AppDatabases
from controller.effects.github_identity import AppIdentity, read_secret_file
from controller.effects.runtime import Runtime
from controller.effects.signatures import Signatures
from controller.effects.stack_files import read_topology, write_private
from controller.effects.store import LostEpoch, Store, migrate
from controller.effects.wake import Bell
from controller.loop.answering import Answering
from controller.loop.background import Background, Key
from controller.loop.execute import Hands
from controller.loop.forge_senders import Archive, forge_senders
from controller.loop.gate_threads import GateThreads
from controller.loop.housekeeping import Housekeeping
from controller.loop.notifying import notification_sender
from controller.loop.observe import Sight, observe_policy
from controller.loop.reconcile import Health, Reconciler
from controller.loop.reporter import Reporter
from controller.loop.sweeper import Sweeper
from controller.loop.troubles import Troubles
from controller.model.config import Settings
from controller.model.errors import ConfigInvalid, OroborosError, Stalled, Unavailable
from controller.model.names import Topology
from controller.model.nouns import Verdict
from controller.model.reports import Surface
from controller.model.states import Outcome
from controller.service_manager import notify
from controller.threads import new_thread

START_PATIENCE_S = 30.0
LOCK_PATIENCE_S = 10.0
STOP_TIMEOUT_S = 5.0
#: Between two tries to bind the health port while another process has it.
HEALTH_PORT_PAUSE_MIN_S, HEALTH_PORT_PAUSE_MAX_S = 0.5, 5.0
NOTIFICATIONS: tuple[Surface, ...] = ("notification",)
NOTIFY_SECRET_BYTES_MAX = 4_096
#: News is given up once it is old: 40 tries take about three hours.
NOTIFY_ATTEMPTS_MAX = 40

log = logging.getLogger(__name__)


def utc_now() -> datetime:
    """Return the present instant: the only clock of the controller."""
    return datetime.now(UTC)


@dataclass(slots=True)
class Worker:
    """One worker process, wired."""

    settings: Settings
    runtime: Runtime
    clock: Callable[[], datetime] = utc_now
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> int:
        """Serve until stopped; return the exit code."""
        settings = self.settings
        topology = read_topology(settings.layout)
        if settings.worker_health_port not in (None, topology.ports.worker_health):
            raise ConfigInvalid(
                "EnvironmentInvalid",
                f"WORKER_HEALTH_PORT: is {settings.worker_health_port}, and the proxy and the health checks ask"
                f" {topology.ports.worker_health}: set it to that",
            )
        settings.layout.worker_run.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _one_per_host(settings):
            _when_reachable(lambda: migrate(settings.database_url))
            store = Store(settings.database_url, repository=settings.repository, host=settings.host)
            boot_id = secrets.token_hex(8)
            store.register(
                slots=topology.slots, boot_id=boot_id, now=self.clock(), repository_set=settings.repository_set
            )
            side = store.shared()
            bell = threading.Event()
            health = Health(started_at=self.clock())
            forges = open_forges(settings, clock=self.clock, memory=store.shared())
            outbox = store.shared()
            archive = Archive(store=outbox, runtime=self.runtime, open_mirror=forges.open_mirror)
            app_id = settings.github_app_id if isinstance(forges.identity, AppIdentity) else None
            senders = forge_senders(forges.forge, archive, app_id=app_id)
            # An App that became a person writes no check runs any more: none is left unsent for ever.
            store.forget_surfaces(but=tuple(senders))
            troubles = Troubles(store.load_troubles(), clock=self.clock)
            health.troubles = troubles.lasting

            def ended(key: Key, error: OroborosError | None) -> None:
                activity, slot = key
                subject = activity if slot is None else f"{activity} of {slot}"
                if isinstance(error, Unavailable | Stalled):  # what is a release's own fault is said at its commit
                    troubles.failed(subject, error)
                elif error is None:
                    troubles.worked(subject)

            background = Background(bell.set, ended=ended)
            threading.excepthook = background.keep_bug
            reports = Reporter(outbox, senders, clock=self.clock, troubles=troubles)
            notifications = self._notifications(store)

            def wake() -> None:
                reports.wake()
                if notifications is not None:
                    notifications.wake()

            mirror = forges.open_mirror()
            mirror.ensure()

            def record(verdict: Verdict, proof: str, took_s: float) -> None:
                try:
                    now = self.clock()
                    side.record_verdict(verdict, proof=proof, now=now)
                    if verdict.kind in STEP_OF_VERDICT:
                        step, began_at = STEP_OF_VERDICT[verdict.kind], now - timedelta(seconds=took_s)
                        # Of what passed, a message is a warning.
                        noted: dict[str, object] = {}
                        if verdict.outcome is Outcome.PASS and verdict.message:
                            noted["warning"] = verdict.message
                            log.warning(
                                "%s: %s", verdict.slot, verdict.message,
                                extra={
                                    "action": "gate.warning", "slot": verdict.slot, "run": verdict.generation,
                                    "sha": verdict.release,
                                },
                            )  # fmt: skip
                        side.record_step(
                            verdict.generation,
                            step,
                            began_at=began_at,
                            ended_at=now,
                            detail=noted,
                            error=verdict.reason,
                        )
                except LostEpoch:
                    return  # another worker judges now
                except Unavailable as error:
                    log.warning("verdict lost, the gate will run again: %s", error, extra={"action": "verdict.lost"})
                finally:
                    bell.set()

            gates = GateThreads(record, ring=bell.set)
            databases = open_databases(settings)
            _drop_without_slot(databases, topology)
            sight = Sight(
                store=store,
                mirror=mirror,
                runtime=self.runtime,
                databases=databases,
                signatures=Signatures(settings.layout.mirror, settings.config_dir),
                layout=settings.layout,
                topology=topology,
                config_dir=settings.config_dir,
                background=background,
                gate_activities=gates.running,
                ended_units_stay=settings.runtime == "systemd",
            )
            hands = Hands(
                settings=settings,
                sight=sight,
                store=store,
                side=side,
                gates=gates,
                background=background,
                clock=self.clock,
                open_mirror=forges.open_mirror,
                record_verdict=record,
            )
            redis_bell = Bell(settings.redis_url)
            reconciler = Reconciler(
                hands=hands,
                forge=forges.forge,
                answering=Answering(
                    forge=forges.forge,
                    store=side,
                    open_mirror=forges.open_mirror,
                    clock=self.clock,
                    wake_reports=reports.wake,
                ),
                housekeeping=Housekeeping(
                    layout=settings.layout,
                    topology=topology,
                    store=store.shared(),
                    runtime=self.runtime,
                    clock=self.clock,
                ),
                production_branch=settings.production_branch,
                poll_interval_s=settings.poll_interval_s,
                resync_s=settings.resync_s,
                surfaces=(*senders, *(() if notifications is None else NOTIFICATIONS)),
                wake_reports=wake,
                tell_alive=lambda: notify("WATCHDOG=1"),
                clock=self.clock,
                health=health,
                troubles=troubles,
                hears_bell=lambda: redis_bell.is_heard,
                bell=bell,
            )
            token, problem = operator_token(settings.operator_token_file)
            if token is None:
                log.warning("worker: says why to nobody: %s", problem, extra={"action": "worker.closed"})
            server = serve_health(
                topology.ports.worker_health,
                health,
                self.clock,
                lambda: redis_bell.is_heard,
                # A wait is no longer than until the next resync.
                poll_interval_s=min(settings.poll_interval_s, settings.resync_s),
                release=settings.own_release,
                token=token,
            )
            redis_bell.listen(bell.set)
            self.runtime.watch(bell.set)
            reports.start()
            if notifications is not None:
                notifications.start()
            sweeper = None
            if isinstance(forges.identity, AppIdentity):
                sweeper = Sweeper(
                    store.shared(),
                    forges.identity,
                    every_s=settings.resync_s,
                    clock=self.clock,
                )
                sweeper.start()
            self._stop_on_signals(bell)
            if _machine_was_down(settings):
                policy, _ = observe_policy(sight, store.load_history(), mirror.production_head())
                background.start(("verify", None), partial(hands.verify_what_serves, policy.limits))
            notify("READY=1")
            log.info("worker: ready, epoch %s", store.epoch, extra={"action": "worker.ready"})
            try:
                reconciler.run(self.stop)
            except LostEpoch as error:
                log.error("worker: %s", error, extra={"action": "worker.lost"})
                return 1
            finally:
                notify("STOPPING=1")
                server.end()
                reports.stop(timeout_s=STOP_TIMEOUT_S)
                if notifications is not None:
                    notifications.stop(timeout_s=STOP_TIMEOUT_S)
                if sweeper is not None:
                    sweeper.stop(timeout_s=STOP_TIMEOUT_S)
                background.wait(timeout_s=STOP_TIMEOUT_S)
                store.close()
            return 0

    def _notifications(self, store: Store) -> Reporter | None:
        """Return the sender of notifications: a thread of its own, so that its receiver holds nobody else up."""
        url, secret_file = self.settings.notify_url, self.settings.notify_secret_file
        if url is None or secret_file is None:
            return None
        sender = notification_sender(
            url,
            repository=self.settings.repository,
            host=self.settings.host,
            read_secret=lambda: read_secret_file(
                secret_file, reason="NotifySecretUnreadable", bytes_max=NOTIFY_SECRET_BYTES_MAX
            ).strip(),
            clock=self.clock,
        )
        return Reporter(
            store.shared(),
            {"notification": sender},
            clock=self.clock,
            kind="notifier",
            attempts_max=NOTIFY_ATTEMPTS_MAX,
        )

    def _stop_on_signals(self, bell: threading.Event) -> None:
        def on_signal(_number: int, _frame: FrameType | None) -> None:
            self.stop.set()
            bell.set()

        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_signal)
            signal.signal(signal.SIGINT, on_signal)


class _one_per_host:  # noqa: N801 - reads as a statement
    """One worker per root: the kernel lets go of the lock when its holder dies."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.layout.worker_run / "lock"
        self._descriptor = -1

    def __enter__(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Unavailable(
                        "WorkerRuns", f"another worker holds {self._path}; stop it, or use another root"
                    ) from None
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _machine_was_down(settings: Settings) -> bool:
    """Say whether the machine was started anew since a worker last asked; this worker is the next one's last."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    path = settings.layout.root / "boot-id"
    was_down = not path.exists() or path.read_text() != boot
    if was_down:
        write_private(path, boot)
    return was_down


def _when_reachable(attempt: Callable[[], object]) -> None:
    deadline = time.monotonic() + START_PATIENCE_S
    while True:
        try:
            attempt()
            return
        except Unavailable:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.1)


def _drop_without_slot(databases: AppDatabases | None, topology: Topology) -> None:
    """Drop the databases that we made for slots which this host has no longer. What fails waits for the next start."""
    if databases is None:
        return
    with contextlib.suppress(Unavailable):
        for slot in sorted(databases.observe() - set(topology.slots)):
            if databases.made_for(slot) is not None:
                databases.drop(slot)
                log.info("reclaimed: the database of %s, which is gone", slot, extra={"action": "slot.removed"})


class _HealthServer(ThreadingHTTPServer):
    """A server whose bugs end the worker; that a client went away is none."""

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> None:
        """Answer in a thread of the worker's own kind."""

        def answer() -> None:
            try:
                self.finish_request(request, client_address)
            except OSError:
                pass
            finally:
                self.shutdown_request(request)

        new_thread("health request", answer).start()


class HealthDoor:
    """The health port of the worker. While another process has it, the worker goes on and tries to bind it again."""

    def __init__(self, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self._address = ("127.0.0.1", port)
        self._handler = handler
        self._ended = threading.Event()
        self._is_told = False
        self._server = self._open()
        self._thread = new_thread("health", self._serve)
        self._thread.start()

    def end(self) -> None:
        """Stop to answer. `shutdown` would wait without end for a thread that is gone."""
        self._ended.set()
        if self._server is not None and self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()

    def _open(self) -> _HealthServer | None:
        try:
            return _HealthServer(self._address, self._handler)
        except OSError as error:
            level, self._is_told = logging.DEBUG if self._is_told else logging.ERROR, True
            log.log(
                level, "worker: health port %d cannot be bound: %s", self._address[1], error.strerror,
                extra={"action": "worker.health_port", "reason": PORT_TAKEN},
            )  # fmt: skip
            return None

    def _serve(self) -> None:
        pause_s = HEALTH_PORT_PAUSE_MIN_S
        while self._server is None:
            if self._ended.wait(pause_s):
                return
            self._server, pause_s = self._open(), min(HEALTH_PORT_PAUSE_MAX_S, pause_s * 2)
        self._server.serve_forever()


def serve_health(
    port: int,
    health: Health,
    clock: Callable[[], datetime],
    hears_bell: Callable[[], bool],
    *,
    poll_interval_s: float,
    release: str | None,
    token: bytes | None,
) -> HealthDoor:
    """Answer on the health port, in threads of its own: whether the worker is well, to the operator also why."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 5

        def do_GET(self) -> None:
            if self.path not in WORKER_ACCESS:
                self.send_error(404)
                return
            now = clock()
            facts = health.facts(hears_bell=hears_bell())
            fitness = judge_fitness(facts, now=now, poll_interval_s=poll_interval_s)
            said: dict[str, object] = {"status": fitness.status}
            if release is not None:
                # The judge of a new release of ourselves, which is the code of the release before, goes by these.
                said |= {"release": release, "ticks": health.ticks}
            if is_operator([value.encode() for value in self.headers.get_all("Authorization", [])], token):
                said |= {
                    "last_tick_age_s": _age_s(facts.last_tick_at, now),
                    "tick": fitness.tick,
                    "queue": fitness.queue,
                    "pending_deliveries": health.pending_deliveries,
                    "oldest_pending_age_s": _age_s(facts.oldest_pending_at, now),
                    "bell": facts.hears_bell,
                    "looks": not facts.looks_fail,
                    "last_error": health.last_error,
                    "last_error_at": None if health.last_error_at is None else health.last_error_at.isoformat(),
                    "database": fitness.database,
                    "runtime": fitness.runtime,
                    "troubles": [describe(trouble) for trouble in facts.troubles],
                    "ticks": health.ticks,
                    "release": release,
                    "started_at": health.started_at.isoformat(),
                }
            body = json.dumps(said).encode()
            self.send_response(503 if fitness.status == "unfit" else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            """Health probes are not worth a line."""

    return HealthDoor(port, Handler)


def _age_s(at: datetime | None, now: datetime) -> float | None:
    return None if at is None else round((now - at).total_seconds(), 3)
