"""`oroboros up`: the whole system on one machine, embedded: every part its own process, all on loopback.

Starts Postgres, Redis, the development forge, the supervisor, a surface per slot, the edge, api and worker; writes the
stack file once everything answers; starts again what dies, as systemd would; ends everything on Ctrl-C or TERM, and
removes the stack file. Should this process be killed with -9, the kernel ends the parts.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import logging
import os
import random
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import psycopg
from psycopg import sql

from controller.decisions.edge import edge_listens, render_edge
from controller.decisions.surfaces import (
    WEB_PAGES,
    read_surface_environment,
    render_surface,
    surface_environment,
    surface_listens,
)
from controller.development.embedded_runtime import PARTS_FILE
from controller.development.forge_client import clone_for_author
from controller.development.keeper import bound_log
from controller.development.parts import (
    Part,
    PartSpec,
    Postgres,
    listens_at,
    prepare_caddy,
    prepare_postgres,
    prepare_redis,
)
from controller.effects.stack_files import write_private, write_stack, write_topology
from controller.listeners import describe_process, holder_of, taking_loopback
from controller.model.errors import ConfigInvalid, Unavailable
from controller.model.names import COLOURS, HOST_ROOT, PORT_OFFSET_MAX, Layout, Ports, SlotName, Topology, unit_instance

STACK_VERSION = 1
CONTROL_DATABASE = "builder_control"
DEFAULT_REPOSITORY = "acme/shop"
CHECKOUT_ROOT = Path(__file__).resolve().parents[2]
#: A part that dies at once again and again is started ever more slowly.
RESTART_PAUSE_MIN_S = 0.05
RESTART_PAUSE_MAX_S = 2.0
RESTART_CALM_S = 5.0
WATCH_EVERY_S = 0.05
LOG_LOOK_EVERY_S = 5.0
#: So far apart, and in all so near, that no port of one block is in another: most instances do not listen.
OFFSETS = range(10_000, 15_200, 400)

#: Handed on to api and worker, where they are set for `oroboros up` itself.
HANDED_ON = (
    *("OROBOROS_GITHUB_APP_ID", "OROBOROS_GITHUB_APP_KEY_FILE"),
    *("OROBOROS_NOTIFY_URL", "OROBOROS_NOTIFY_SECRET_FILE"),
)
#: Of tests: another module that is the forge, and where it writes what it finds.
FORGE_MODULE = "OROBOROS_TEST_FORGE"
HANDED_TO_FORGE = ("OROBOROS_TEST_VIOLATIONS",)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `oroboros up` was asked for."""

    root: Path
    #: None: contract ports where they are free, else a refusal; tests and the demo ask for free ones.
    port_offset: int = 0
    free_ports: bool = False
    repository: str = DEFAULT_REPOSITORY
    previews: int = 3
    poll_interval_s: float = 5.0
    resync_s: float = 300.0


@dataclass(slots=True)
class Stack:
    """A running stack: its parts in the order in which they start."""

    options: Options
    layout: Layout
    topology: Topology
    environment: Mapping[str, str]
    stack_file: Mapping[str, object]
    parts: dict[str, Part] = field(default_factory=dict)
    _died: dict[str, tuple[float, float]] = field(default_factory=dict)
    _logs_bounded_at: float = 0.0

    def restart_dead(self) -> None:
        """Start again every part that ended, with a growing pause for one that keeps on ending."""
        changed = False
        for name, part in self.parts.items():
            if part.pid is not None:
                continue
            now = time.monotonic()
            due, pause_s = self._died.get(name, (0.0, RESTART_PAUSE_MIN_S))
            if due == 0.0 or now - due > RESTART_CALM_S:
                log.warning("up: %s ended with %s, starting it again", name, part.exit_code)
                due, pause_s = now + RESTART_PAUSE_MIN_S, RESTART_PAUSE_MIN_S
                self._died[name] = (due, pause_s)
            if now < due:
                continue
            part.stop()
            part.launch()
            pause_s = min(RESTART_PAUSE_MAX_S, pause_s * 2)
            self._died[name] = (now + pause_s, pause_s)
            changed = True
        if changed:
            self.write_pids()

    def bound_logs(self) -> None:
        """Cut what parts have logged, once a while: about the newest half stays."""
        if time.monotonic() < self._logs_bounded_at + LOG_LOOK_EVERY_S:
            return
        self._logs_bounded_at = time.monotonic()
        for part in self.parts.values():
            with contextlib.suppress(OSError):
                # Appended, as the part's own writes are.
                descriptor = os.open(part.spec.log_file, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
                try:
                    bound_log(descriptor)
                finally:
                    os.close(descriptor)

    def write_pids(self) -> None:
        """Tell which process each part is, for whoever wants to kill one."""
        pids = {name: part.pid for name, part in self.parts.items()}
        write_private(self.layout.run / PARTS_FILE, json.dumps(pids))


def main_up(options: Options, *, say: Callable[[str], None], on_ready: Callable[[Stack], None] | None = None) -> int:
    """Run a stack in the foreground until TERM or Ctrl-C; return the exit code."""
    stopping = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    with stack(options, say=say, stopped=lambda: stopping) as running:
        if on_ready is not None and not stopping:
            on_ready(running)
        while not stopping:
            running.restart_dead()
            running.bound_logs()
            time.sleep(WATCH_EVERY_S)
        say("stopping")
    return 0


@contextmanager
def stack(
    options: Options, *, say: Callable[[str], None], stopped: Callable[[], bool] = lambda: False
) -> Iterator[Stack]:
    """Bring a stack up, yield it once everything answers, and leave nothing of it running afterwards."""
    root = options.root.resolve()
    if root == HOST_ROOT:
        raise ConfigInvalid("RootIsHosts", f"{root} is what `oroboros install` makes: name another folder with --root")
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _only_one(root), _short_folder(root) as run:
        layout = Layout(root, run)
        ports = _ports(options)
        topology = Topology(previews=options.previews, ports=ports, public_port=ports.edge)
        parts: dict[str, Part] = {}
        try:
            yield _bring_up(options, layout, topology, parts, say=say, stopped=stopped)
        finally:
            layout.stack_file.unlink(missing_ok=True)
            for part in reversed(list(parts.values())):
                part.stop()


def _bring_up(
    options: Options,
    layout: Layout,
    topology: Topology,
    parts: dict[str, Part],
    *,
    say: Callable[[str], None],
    stopped: Callable[[], bool],
) -> Stack:
    root, run, ports = layout.root, layout.run, topology.ports
    etc, logs = root / "etc", root / "log"
    for folder in (etc, logs, layout.releases, layout.artifacts):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    secret_file = _keep_secret(etc / "webhook-secrets")
    token_file = _keep_secret(etc / "forge-token")
    operator_token_file = _keep_secret(etc / "operator-token")
    write_topology(layout, topology)

    def launch(spec: PartSpec) -> None:
        if stopped():
            raise Unavailable("Interrupted", "stopped while starting")
        parts[spec.name] = Part(spec)
        parts[spec.name].launch()

    say("starting Postgres, Redis, forge, supervisor and Caddy")
    postgres = prepare_postgres(data=root / "postgres", run=_folder(run / "pg"), port=ports.database)
    launch(postgres.spec)
    redis = prepare_redis(run=_folder(run / "redis"), log_file=logs / "redis.log")
    launch(redis.spec)
    forge_url = f"http://127.0.0.1:{ports.forge}"
    launch(
        _python(
            "forge",
            os.environ.get(FORGE_MODULE, "controller.development.forge"),
            *("--root", str(root / "forge"), "--port", str(ports.forge), "--repository", options.repository),
            *("--webhook-url", f"http://127.0.0.1:{ports.api}/webhooks/github"),
            *("--webhook-secret-file", str(secret_file), "--token-file", str(token_file)),
            log_file=logs / "forge.log",
            is_ready=lambda: _answers(f"{forge_url}/health"),
            environment={key: os.environ[key] for key in HANDED_TO_FORGE if key in os.environ},
        )
    )
    runtime_socket = run / "runtime.sock"
    launch(
        _python(
            "supervisor",
            "controller.development.supervisor",
            *("--socket", str(runtime_socket), "--state", str(_folder(root / "supervisor"))),
            log_file=logs / "supervisor.log",
            is_ready=lambda: listens_at(runtime_socket),
        )
    )
    for slot in topology.slots:
        for socket_path in (layout.surface_socket(slot), layout.instance_socket(slot, COLOURS[0])):
            _folder(socket_path.parent)
        launch(_surface(layout, topology, slot, logs))
    launch(_edge(layout, topology, logs))
    parts["postgres"].await_ready()
    database_url = _control_database(postgres)
    environment = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis.url,
        "OROBOROS_ROOT": str(root),
        "OROBOROS_RUN": str(run),
        "OROBOROS_HOST": socket.gethostname() or "localhost",
        "OROBOROS_REPOSITORY": options.repository,
        "OROBOROS_FORGE_URL": forge_url,
        "OROBOROS_FORGE_TOKEN_FILE": str(token_file),
        "OROBOROS_WEBHOOK_SECRETS_FILE": str(secret_file),
        "OROBOROS_OPERATOR_TOKEN_FILE": str(operator_token_file),
        "OROBOROS_APP_DATABASE_ADMIN_URL": postgres.url(),
        "OROBOROS_CONFIG_DIR": str(etc),
        "OROBOROS_RUNTIME_SOCKET": str(runtime_socket),
        "OROBOROS_RESYNC_SECONDS": f"{options.resync_s:g}",
        "WORKER_POLL_INTERVAL_SECONDS": f"{options.poll_interval_s:g}",
        "WORKER_HEALTH_PORT": str(ports.worker_health),
        "WORKER_ARTIFACT_ROOT": str(layout.artifacts),
        # An App that `oroboros github setup` made at our own forge; where notifications go.
        **{key: os.environ[key] for key in HANDED_ON if key in os.environ},
    }
    write_private(root / "environment.json", json.dumps(environment, indent=2) + "\n")
    say("starting api and worker")
    for name, port in (("api", ports.api), ("worker", ports.worker_health)):
        url = f"http://127.0.0.1:{port}/health"
        launch(
            _python(
                name,
                "controller.development.armed",
                name,
                log_file=logs / f"{name}.log",
                is_ready=functools.partial(_answers, url),
                environment=environment,
            )
        )
    for part in parts.values():
        if stopped():
            raise Unavailable("Interrupted", "stopped while starting")
        part.await_ready()
    working_clone = root / "work"
    if not (working_clone / ".git").exists():
        clone_for_author(forge_url, options.repository, token_file, working_clone)
    content = _stack_file(layout, topology, options, environment, postgres=postgres, forge_url=forge_url)
    write_stack(layout, content)
    running = Stack(
        options=options,
        layout=layout,
        topology=topology,
        environment=environment,
        stack_file=content,
        parts=parts,
    )
    running.write_pids()
    return running


def _stack_file(
    layout: Layout,
    topology: Topology,
    options: Options,
    environment: Mapping[str, str],
    *,
    postgres: Postgres,
    forge_url: str,
) -> dict[str, object]:
    ports = topology.ports
    return {
        "version": STACK_VERSION,
        "pid": os.getpid(),
        "receiver": f"http://127.0.0.1:{ports.api}/webhooks/github",
        "api": f"http://127.0.0.1:{ports.api}",
        "worker_health": f"http://127.0.0.1:{ports.worker_health}/health",
        "edge": f"http://127.0.0.1:{ports.edge}",
        "forge": forge_url,
        "forge_repository": options.repository,
        "database_url": postgres.url(CONTROL_DATABASE),
        "redis_url": environment["REDIS_URL"],
        "webhook_secret_file": environment["OROBOROS_WEBHOOK_SECRETS_FILE"],
        "operator_token_file": environment["OROBOROS_OPERATOR_TOKEN_FILE"],
        "repository": str(layout.root / "work"),
        "releases": str(layout.releases),
        "current": str(layout.current),
        "urls": {slot: topology.url(slot) for slot in topology.slots},
    }


def _surface(layout: Layout, topology: Topology, slot: SlotName, logs: Path) -> PartSpec:
    name = f"surface-{unit_instance(slot)}"
    config = layout.run / f"{name}.json"
    told = read_surface_environment(surface_environment(topology, slot, web_root=layout.current / WEB_PAGES))
    write_private(
        config, json.dumps(render_surface(layout, slot, told, log_dir=logs, our_pages=CHECKOUT_ROOT / WEB_PAGES))
    )
    listens = surface_listens(layout, slot, told)
    return prepare_caddy(
        name=name, config=config, home=_folder(layout.run / name), log_file=logs / f"{name}.log", listens=listens
    )


def _edge(layout: Layout, topology: Topology, logs: Path) -> PartSpec:
    config = layout.run / "Caddyfile"
    write_private(config, render_edge(topology, log_dir=logs))
    return prepare_caddy(
        name="edge",
        config=config,
        home=_folder(layout.run / "edge"),
        log_file=logs / "edge.log",
        listens=edge_listens(topology),
    )


def _python(
    name: str,
    module: str,
    *words: str,
    log_file: Path,
    is_ready: Callable[[], bool],
    environment: Mapping[str, str] | None = None,
) -> PartSpec:
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TZ", "TMPDIR") if key in os.environ}
    return PartSpec(
        name=name,
        argv=("setpriv", "--pdeathsig", "TERM", sys.executable, "-m", module, *words),
        log_file=log_file,
        is_ready=is_ready,
        environment={
            **kept,
            "PYTHONPATH": str(CHECKOUT_ROOT),
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        },
    )


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=1.0) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _control_database(postgres: Postgres) -> str:
    """Make the control plane's database, into which no app's role may connect."""
    name = sql.Identifier(CONTROL_DATABASE)
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [CONTROL_DATABASE]).fetchone()
        if found is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
        connection.execute(sql.SQL("REVOKE CONNECT, TEMPORARY ON DATABASE {} FROM PUBLIC").format(name))
    return postgres.url(CONTROL_DATABASE)


def _keep_secret(path: Path) -> Path:
    """Draw a secret once, and keep it from then on."""
    if not path.exists():
        write_private(path, secrets.token_urlsafe(32) + "\n")
    return path


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def _ports(options: Options) -> Ports:
    slots = Topology(previews=options.previews).slots
    if options.free_ports:
        offsets = list(OFFSETS)
        random.shuffle(offsets)
        for offset in offsets:
            if all(_is_free(port) for _, port in Ports(offset=offset).all_for(slots)):
                return Ports(offset=offset)
        raise Unavailable(
            "NoFreePorts",
            "no free block of ports between 13000 and 24000: stop another stack, or name one with --port-base N",
        )
    ports = Ports(offset=options.port_offset)
    if not 0 <= options.port_offset <= PORT_OFFSET_MAX:
        raise ConfigInvalid("PortBaseInvalid", f"--port-base {options.port_offset}: allowed are 0 to 57000")
    busy = [(what, port) for what, port in ports.all_for(slots) if not _is_free(port)]
    if busy:
        named = "; ".join(f"{port} ({what}) is held by {_owner(port)}" for what, port in busy[:5])
        raise Unavailable("PortBusy", f"{named}; stop it, or shift every port with --port-base N")
    return ports


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def _owner(port: int) -> str:
    """Return who listens on a port, as far as /proc lets us see."""
    return describe_process(holder_of(taking_loopback().get(port, set())))


@contextmanager
def _only_one(root: Path) -> Iterator[None]:
    """One stack per root: the kernel lets go of the lock when its holder dies."""
    descriptor = os.open(root / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable(
                "StackRuns", f"a stack runs under {root} already; stop it, or use another --root"
            ) from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _short_folder(root: Path) -> Iterator[Path]:
    """A private folder with a short name for sockets; the same one for the same root, so that a stack that was killed
    leaves nothing behind that the next one does not find."""
    digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:10]
    path = Path(tempfile.gettempdir()) / f"oro-{os.geteuid()}-{digest}"
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if path.is_symlink() or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise Unavailable("RunFolderNotOurs", f"{path} belongs to somebody else; set TMPDIR to a folder of your own")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
