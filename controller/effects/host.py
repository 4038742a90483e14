"""What is this host like, and how is one change to it made? Root's hands for the installer.

Everything is done by the host's own tools (useradd(8), systemctl(1), psql(1) as Postgres' administrator), called with
lists of words and a time limit; files are replaced by one rename. Passwords go through standard input, never argv.
Safe to repeat: what is there already is found by `observe`, and a change that was cut short is planned again.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import http.client
import os
import pwd
import re
import secrets
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import assert_never

import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from controller.decisions.health import HEALTH_PATH
from controller.decisions.host_environment import (
    API_ROLE,
    CONTRACT_PASSWORD,
    CONTROL_DATABASE,
    CONTROL_SOCKET_URL,
    REDIS_USER,
    WORKER_ROLE,
    Passwords,
    own_redis_url,
)
from controller.decisions.host_units import POLKIT_RULE, TMPFILES, UNITS
from controller.decisions.installation import (
    ADMINISTRATOR,
    API_IS_BOUNDED,
    COMMAND_FILES,
    ODD_ROLES,
    REDIS_CONFIG,
    REDIS_FILE,
    SLOTS_IN_USE,
    VERSIONS_MIN,
    Change,
    FileFact,
    Folder,
    HostFacts,
    InstallCaddy,
    InstallCode,
    JoinGroup,
    MakeFolder,
    MakeRunFolders,
    MakeUser,
    Migrate,
    PostgresFact,
    RedisFact,
    RemoveFile,
    RemoveUser,
    RestartSurface,
    RunSql,
    RunSqlAsWorker,
    SetBlock,
    Systemctl,
    WriteFile,
    with_block,
)
from controller.decisions.preflight import Machine
from controller.disk import remove_tree
from controller.model.command import parse_environment
from controller.model.errors import Stalled, Unavailable
from controller.model.host_files import HostFile
from controller.model.machine_needs import POSTGRES_PORT, REDIS_PORT
from controller.model.names import (
    HOST_APP,
    HOST_CADDY,
    HOST_CONFIG,
    HOST_PROGRAM,
    HOST_ROOT,
    SlotName,
)

CALL_TIMEOUT_S = 120.0
TEXT_BYTES_MAX = 1 << 20
#: A surface that was restarted answers within this time, or an installation ends there.
SURFACE_UP_WITHIN_S = 20.0
LOOK_EVERY_S = 0.05
CONNECT_TIMEOUT_S = 5
DIGEST_DIGITS = 12
#: Beside the installed code, root's as well: a copy of it under its digest.
KEPT = "kept"
#: Postgres' administrator, let in by who it is. Never in a database of somebody else's: a view or a setting of its
#: owner's could have whoever looks run anything.
AS_POSTGRES = ("runuser", "-u", "postgres", "--", "psql", "-d", "postgres")
#: Rows end in a zero byte, which no name holds. Terse: an error repeats no statement, since one may hold a password.
PSQL_SETTINGS = ("-X", "-A", "-t", "-q", "-0", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse")
CONTROL_STATEMENT_TIMEOUT_MS = 30_000
#: Far more than there are numbered SQL files.
MIGRATIONS_MAX = 10_000
#: A checkout may be its user's: it must not have root run anything.
GIT_SETTINGS = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
VERSION_COMMANDS: Mapping[str, tuple[str, ...]] = {
    "systemd": ("systemctl", "--version"),
    "polkit": ("pkaction", "--version"),
    "git": ("git", "--version"),
    "redis": ("redis-server", "--version"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """This host. `source` is the checkout whose code is installed."""

    source: Path
    caddy_source: Path
    #: The control plane's numbered SQL files, and who applies those that its database has not seen.
    sql_folder: Path
    migrate: Callable[[], object]

    # -- what is there ------------------------------------------------------------------------------------------------

    def observe(self, passwords: Passwords, paths: Iterable[Path], folders: Iterable[Path]) -> HostFacts:
        """Return what this host is like, as far as we may see it."""
        postgres = observe_postgres(passwords, sql_folder=self.sql_folder)
        more = [REDIS_FILE, REDIS_CONFIG, *COMMAND_FILES]
        if postgres is not None:
            more += [postgres.hba_file, postgres.ident_file]
        found = {path: read_file(path) for path in {*paths, *more}}
        return HostFacts(
            users=observe_users(),
            folders={folder.path: folder for path in folders if (folder := read_folder(path)) is not None},
            files={path: fact for path, fact in found.items() if isinstance(fact, FileFact)},
            closed=frozenset(path for path, fact in found.items() if fact is CLOSED),
            units=observe_units(),
            enabled=_unit_files(),
            active=_active_units(),
            app="edited" if os.path.exists(HOST_APP) and edited_code(HOST_APP) else installed_code(HOST_APP),
            caddy=digest_of([HOST_CADDY]) if HOST_CADDY.exists() else "",
            postgres=postgres,
            redis=observe_redis(passwords),
            versions=observe_versions(),
            has_repository=(HOST_CONFIG / "repository.env").exists(),
        )

    def digests(self) -> tuple[str, str]:
        """Return the digests of the code and of Caddy that this checkout installs."""
        return digest_of(self._tracked()), digest_of([self.caddy_source])

    def _tracked(self) -> list[Path]:
        """Return the files that git tracks; in a folder without git, all that are not made by tools."""
        with contextlib.suppress(Unavailable):
            told = run(
                ("git", *GIT_SETTINGS, "-c", f"safe.directory={self.source}", "-C", str(self.source), "ls-files", "-z")
            )
            names = [name for name in told.split("\0") if name]
            return [self.source / name for name in names if (self.source / name).is_file()]
        return [
            path
            for path in self.source.rglob("*")
            if path.is_file()
            and not any(part in (".git", "__pycache__") or part.startswith(".venv") for part in path.parts)
        ]

    # -- changing it --------------------------------------------------------------------------------------------------

    def execute(self, change: Change) -> None:
        """Make one change. Unavailable, with what the tool said, when it could not be made."""
        match change:
            case MakeUser():
                self._make_user(change)
            case JoinGroup():
                run(("usermod", "--append", "--groups", change.group, change.name))
            case MakeFolder():
                make_folder(change.folder)
            case InstallCode():
                install_code(self._tracked(), source=self.source, digest=change.digest, link=HOST_APP)
            case InstallCaddy():
                write_bytes(HOST_CADDY, self.caddy_source.read_bytes(), mode=0o755)
            case WriteFile():
                write_file(change.file)
            case RemoveFile():
                remove(change.path)
            case RemoveUser():
                run(("userdel", change.name))
            case RunSql():
                run_sql(change.statements)
            case RunSqlAsWorker():
                run_sql_as_worker(change.statements)
            case Migrate():
                self.migrate()
            case SetBlock():
                set_block(change)
            case Systemctl():
                verb = change.verb.split()
                run(("systemctl", "--quiet", *verb, *change.units))
            case RestartSurface():
                restart_surface(change.unit, change.port)
            case MakeRunFolders():
                run(("systemd-tmpfiles", "--create", str(TMPFILES)))
            case _:
                assert_never(change)

    def _make_user(self, change: MakeUser) -> None:
        group = ("--gid", change.name) if _has_group(change.name) else ("--user-group",)
        run(("useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin",
             *group, *(("--groups", ",".join(change.groups)) if change.groups else ()), change.name))  # fmt: skip


def install_code(files: Iterable[Path], *, source: Path, digest: str, link: Path) -> None:
    """Copy files beside the link's other targets and point it there, by one rename; keep a second copy, from which an
    edited one is restored. What the link pointed at before stays: api and worker may run from there until they are
    started anew. Safe to repeat: an edited copy is replaced."""
    every = list(files)
    before = os.path.basename(os.path.realpath(link))
    copies = (link.with_name(KEPT), link.with_name("apps"))
    for folder in copies:
        _copy_code(every, source=source, target=folder / digest)
    new = link.with_name(f".{link.name}.{secrets.token_hex(4)}")
    new.symlink_to(copies[1] / digest)
    os.replace(new, link)
    if before == digest:
        return  # a repetition: what was before that is not known
    for old in (path for folder in copies for path in folder.iterdir()):
        if old.name not in (digest, before):
            remove_tree(os.fsencode(old))


def _copy_code(files: Iterable[Path], *, source: Path, target: Path) -> None:
    """Make `target` hold these files and nothing else, unless it does; it is there whole or not at all."""
    if installed_code(target) == target.name:
        return
    pending, edited = (target.with_name(f".{target.name}.{secrets.token_hex(4)}") for _ in range(2))
    for path in files:
        to = pending / path.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(path.read_bytes())
        to.chmod(0o755 if os.access(path, os.X_OK) else 0o644)
    for folder, _, _ in os.walk(pending):
        Path(folder).chmod(0o755)
    if target.is_dir():
        os.rename(target, edited)
    os.rename(pending, target)
    target.parent.chmod(0o755)


def installed_code(link: Path) -> str:
    """Return the digest of the code that lies there as it was installed; "" for none, "edited" when it was changed."""
    top = Path(os.path.realpath(link))
    if not top.is_dir():
        return ""
    return top.name if digest_of(_code_files(top)) == top.name else "edited"


def _code_files(top: Path) -> list[Path]:
    return [path for path in top.rglob("*") if not path.is_dir() and "__pycache__" not in path.parts]


def kept_code(link: Path) -> Path | None:
    """Return the copy that was kept of the code that a link names; None when it is not as its digest says."""
    digest = os.path.basename(os.path.realpath(link))
    kept = link.with_name(KEPT) / digest
    return kept if installed_code(kept) == digest else None


def edited_code(link: Path) -> tuple[Path, ...]:
    """Return what is not as it was installed: the files that differ from the kept copy, or the copy itself."""
    top, kept = Path(os.path.realpath(link)), kept_code(link)
    code = installed_code(link)
    if kept is None:
        copy = link.with_name(KEPT) / top.name
        return (copy,) if code == top.name else (link, copy)
    if code == top.name:
        return ()
    if not code:
        return (link,)
    found, whole = ({path.relative_to(folder): path for path in _code_files(folder)} for folder in (top, kept))
    return tuple(
        link / name
        for name in sorted(found.keys() | whole.keys())
        if name not in found or name not in whole or not _is_same_file(found[name], whole[name])
    )


def _is_same_file(one: Path, other: Path) -> bool:
    return os.access(one, os.X_OK) == os.access(other, os.X_OK) and one.read_bytes() == other.read_bytes()


def run(argv: tuple[str, ...], *, text: str = "", timeout_s: float = CALL_TIMEOUT_S) -> str:
    """Run one of the host's tools and return what it printed; Unavailable when it fails."""
    try:
        done = subprocess.run(
            argv, input=text, capture_output=True, text=True, timeout=timeout_s, check=False, errors="replace", cwd="/"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable("HostToolFailed", f"{argv[0]} could not be run: {error}") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        message = f"{' '.join(argv[:3])}: {said[-1] if said else f'exit code {done.returncode}'}"
        raise Unavailable("HostToolFailed", message)
    return done.stdout


def restart_surface(unit: str, port: int) -> None:
    """Restart a slot's surface; return once it answers, Unavailable when it does not: then the next one is left alone.
    Whoever asks meanwhile waits: systemd holds the port open."""
    run(("systemctl", "--quiet", "restart", unit))
    deadline = time.monotonic() + SURFACE_UP_WITHIN_S
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SURFACE_UP_WITHIN_S)
        try:
            connection.request("GET", HEALTH_PATH)
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            time.sleep(LOOK_EVERY_S)
            continue
        finally:
            connection.close()
        return
    message = f"{unit} was restarted, and does not answer on port {port}; see journalctl -u {unit}, then install again"
    raise Unavailable("HostToolFailed", message)


def observe_users() -> dict[str, frozenset[str]]:
    """Return every user, and the groups that name it as a member."""
    users: dict[str, set[str]] = {user.pw_name: set() for user in pwd.getpwall()}
    for group in grp.getgrall():
        for member in group.gr_mem:
            users.setdefault(member, set()).add(group.gr_name)
    return {name: frozenset(groups) for name, groups in users.items()}


def read_folder(path: Path) -> Folder | None:
    """Return a folder as it is, None when there is none."""
    try:
        status = path.lstat()
    except OSError:
        return None
    if not stat.S_ISDIR(status.st_mode):
        return None
    return Folder(path=path, mode=stat.S_IMODE(status.st_mode), owner=_user_name(status.st_uid))


class Closed(Enum):
    """A file that we may not read, or not even look for."""

    CLOSED = auto()


CLOSED = Closed.CLOSED


def read_file(path: Path) -> FileFact | Closed | None:
    """Return a file as it is, None when there is none."""
    try:
        status = path.stat()
        data = path.read_bytes()[:TEXT_BYTES_MAX]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        return CLOSED
    try:
        text: str | None = data.decode()
    except UnicodeDecodeError:
        text = None
    group = grp.getgrgid(status.st_gid).gr_name if _is_group_id(status.st_gid) else str(status.st_gid)
    return FileFact(text=text, mode=stat.S_IMODE(status.st_mode), owner=_user_name(status.st_uid), group=group)


def observe_units() -> frozenset[Path]:
    """Return every file of ours among units and rules."""
    found = {path for path in UNITS.glob("ouroboros*") if path.is_file()}
    found |= {path for path in UNITS.glob("ouroboros*.d/*.conf") if path.is_file()}
    return frozenset(found | {path for path in (POLKIT_RULE, TMPFILES) if os.path.exists(path)})


def observe_versions() -> dict[str, tuple[int, ...]]:
    """Return the versions of what we stand on; those that are not there are left out."""
    found: dict[str, tuple[int, ...]] = {}
    for name, argv in VERSION_COMMANDS.items():
        with contextlib.suppress(Unavailable):
            number = re.search(r"(?:v=)?(\d+(?:\.\d+)*)", run(argv).replace("Redis server", ""))
            if number is not None:
                found[name] = tuple(map(int, number[1].split(".")))
    # Only root may ask the server itself. One that is stopped is there all the same: pg_lsclusters(1) tells of it.
    as_root = (("pg_lsclusters", "--no-header"), (*AS_POSTGRES, *PSQL_SETTINGS))
    for asking in as_root if os.geteuid() == 0 else (("psql", "--version"),):
        with contextlib.suppress(Unavailable):
            number = re.search(r"\d+", run(asking, text="SHOW server_version;\n").replace("psql (PostgreSQL)", ""))
            if number is not None:
                found["postgresql"] = (int(number[0]),)
    return found


def observe_machine(checkout: Path) -> Machine:
    """Return what this machine is like."""
    total = re.search(r"^MemTotal: *(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    free: dict[Path, int] = {}
    for folder in (HOST_PROGRAM, HOST_ROOT, HOST_CONFIG, Path("/var/lib/postgresql")):
        there = next(path for path in (folder, *folder.parents) if path.is_dir())
        status = os.statvfs(there)
        free[folder] = status.f_bavail * status.f_frsize
    synchronized: bool | None = None
    with contextlib.suppress(Unavailable):
        synchronized = run(("timedatectl", "show", "--property=NTPSynchronized", "--value")).strip() == "yes"
    return Machine(
        memory_bytes=int(total[1]) << 10 if total else 0,
        free_bytes=free,
        is_clock_synchronized=synchronized,
        now_s=time.time(),
        checkout_made_s=(checkout / "requirements.lock").stat().st_mtime,
    )


def packaged_postgres() -> int:
    """Return the version of Postgres that Debian's packages would bring; where they do not say, the least we need."""
    with contextlib.suppress(Unavailable):
        told = run(("apt-cache", "show", "--no-all-versions", "postgresql"))
        number = re.search(r"^Version: (\d+)", told, re.MULTILINE)
        if number is not None:
            return int(number[1])
    return VERSIONS_MIN["postgresql"][0]


def observe_postgres(
    passwords: Passwords,
    *,
    sql_folder: Path,
    administrator: tuple[str, ...] = AS_POSTGRES,
    control_url: str = CONTROL_SOCKET_URL,
) -> PostgresFact | None:
    """Return what Postgres has; None when its administrator cannot be reached."""
    try:
        files = _psql("SHOW hba_file", "SHOW ident_file", administrator=administrator)
        rows = _psql(
            "SELECT 'role ' || rolname FROM pg_roles",
            "SELECT 'password ' || rolname FROM pg_authid WHERE rolpassword IS NOT NULL",
            "SELECT 'database ' || datname FROM pg_database",
            "SELECT 'open ' || datname FROM pg_database WHERE has_database_privilege('public', oid, 'CONNECT')"
            " OR has_database_privilege('public', oid, 'TEMPORARY')",
            "SELECT 'right ' || p || ' ' || datname FROM pg_database, unnest(ARRAY['CONNECT', 'TEMPORARY']) p"
            " WHERE has_database_privilege('public', oid, p)",
            "SELECT 'member ' || r.rolname FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid"
            " JOIN pg_roles w ON w.oid = m.member WHERE w.rolname = 'oroboros_worker'",
            administrator=administrator,
        )
        odd_roles = _psql(ODD_ROLES, administrator=administrator)
    except Unavailable:
        return None

    def named(kind: str) -> frozenset[str]:
        return frozenset(row.partition(" ")[2] for row in rows if row.startswith(f"{kind} "))

    databases = named("database")
    missing, bounded = {file.name for file in sql_folder.glob("[0-9]*.sql")}, False
    if CONTROL_DATABASE in databases:
        applied, bounded = _observe_control(control_url)
        missing -= applied
    logins = {API_ROLE: passwords.api, WORKER_ROLE: passwords.worker}
    if ADMINISTRATOR in named("password"):
        logins[ADMINISTRATOR] = CONTRACT_PASSWORD
    return PostgresFact(
        hba_file=Path(files[0]),
        ident_file=Path(files[1]),
        roles=named("role"),
        odd_roles=frozenset(odd_roles),
        worker_is=named("member"),
        databases=databases,
        migrations=tuple(sorted(missing)),
        api_is_bounded=bounded,
        open_to_all=named("open"),
        public_rights=_rights_of(named("right")),
        passwords_work=frozenset(role for role, password in logins.items() if _may_enter(role, password)),
    )


def _rights_of(rows: Iterable[str]) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for right, _, name in (row.partition(" ") for row in rows):
        found.setdefault(name, set()).add(right)
    return {name: frozenset(rights) for name, rights in found.items()}


def _observe_control(url: str) -> tuple[frozenset[str], bool]:
    """Return the numbered SQL files that the control plane's database has seen, and whether the api is bounded there.

    Asked as the worker's role, since all in there is its own to replace. Nothing, while it is not let in."""
    try:
        with _as_worker(url) as connection:
            row = connection.execute(API_IS_BOUNDED.encode()).fetchone()
            rows = connection.execute("SELECT name FROM schema_migrations LIMIT %s", [MIGRATIONS_MAX]).fetchall()
    except psycopg.Error:
        return frozenset(), False
    return frozenset(str(name) for (name,) in rows), row is not None and row[0] is True


@contextlib.contextmanager
def _as_worker(url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(
        url,
        autocommit=True,
        connect_timeout=CONNECT_TIMEOUT_S,
        options=f"-c statement_timeout={CONTROL_STATEMENT_TIMEOUT_MS}",
    ) as connection:
        yield connection


def slots_in_use(slots: Iterable[SlotName], *, url: str = CONTROL_SOCKET_URL) -> tuple[SlotName, ...]:
    """Return those of these slots in which something of a lease is left; Unavailable when Postgres does not say."""
    try:
        with _as_worker(url) as connection:
            rows = connection.execute(SLOTS_IN_USE.encode(), [list(slots)]).fetchall()
    except psycopg.Error as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Unavailable("HostToolFailed", f"Postgres, as {WORKER_ROLE} in {CONTROL_DATABASE}: {said:.200}") from error
    return tuple(SlotName(str(name)) for (name,) in rows)


def _may_enter(role: str, password: str) -> bool:
    try:
        psycopg.connect(
            host="127.0.0.1",
            port=POSTGRES_PORT,
            dbname=CONTROL_DATABASE,
            user=role,
            password=password,
            connect_timeout=CONNECT_TIMEOUT_S,
        ).close()
    except psycopg.OperationalError:
        return False
    return True


def observe_redis(passwords: Passwords, *, port: int = REDIS_PORT) -> RedisFact | None:
    """Return who uses Redis; None when it does not answer."""
    with contextlib.suppress(redis.RedisError, OSError), contextlib.closing(_redis(port, passwords.redis)) as ours:
        if ours.ping():
            return RedisFact(works=True)
    try:
        with contextlib.closing(_redis(port, None)) as anybody:
            users = [str(name) for name in anybody.acl_users()]
            keys = sum(int(database["keys"]) for database in anybody.info("keyspace").values())
    except (redis.ResponseError, redis.AuthenticationError):  # NOAUTH is of the second kind, NOPERM of the first
        return RedisFact(refuses=True)
    except (redis.RedisError, OSError):
        return None
    return RedisFact(users=tuple(name for name in users if name not in ("default", REDIS_USER)), keys=keys)


def _redis(port: int, password: str | None) -> redis.Redis:
    """Return a client as our user, or as Redis' default user without a password."""
    client: redis.Redis = redis.Redis(
        host="127.0.0.1",
        port=port,
        username=None if password is None else REDIS_USER,
        password=password,
        socket_timeout=CONNECT_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )
    return client


def _psql(*statements: str, administrator: tuple[str, ...] = AS_POSTGRES) -> list[str]:
    """Return the rows that statements give to Postgres' administrator, who finds functions nowhere but in Postgres."""
    text = "".join(f"{statement};\n" for statement in ("SET search_path = pg_catalog, pg_temp", *statements))
    return [row for row in run((*administrator, *PSQL_SETTINGS), text=text).split("\0") if row]


def ask_postgres(statement: str) -> list[str]:
    """Return the rows of one column that Postgres' administrator is told."""
    return _psql(statement)


def run_sql(statements: tuple[str, ...], *, administrator: tuple[str, ...] = AS_POSTGRES) -> None:
    """Run statements as Postgres' administrator; the server logs none of them, since one may hold a password."""
    quiet = (
        "SET log_statement = 'none'",
        "SET log_min_error_statement = 'panic'",
        "SET log_min_duration_statement = -1",
    )
    _psql(*quiet, *statements, administrator=administrator)


def run_sql_as_worker(statements: tuple[str, ...], *, url: str = CONTROL_SOCKET_URL) -> None:
    """Run statements in the control plane's database, as the role that owns it and all in it."""
    try:
        with _as_worker(url) as connection:
            for statement in statements:
                connection.execute(statement.encode())
    except psycopg.Error as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Unavailable("HostToolFailed", f"Postgres, as {WORKER_ROLE} in {CONTROL_DATABASE}: {said:.200}") from error


def make_folder(folder: Folder, *, trusted: Path = HOST_ROOT) -> None:
    """Make a folder, or put right what it is."""
    user = pwd.getpwnam(folder.owner)
    descriptor = _open_folder(folder.path, trusted=trusted)
    try:
        os.fchown(descriptor, user.pw_uid, user.pw_gid)
        os.fchmod(descriptor, folder.mode)
    finally:
        os.close(descriptor)


def _open_folder(path: Path, *, trusted: Path) -> int:
    """Open a folder, made if it is not there. Below the root, which is the worker's, no link is followed: it could lead
    root anywhere."""
    if trusted not in path.parents:
        path.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    descriptor = os.open(trusted, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in path.relative_to(trusted).parts:
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=descriptor)
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
        except OSError as error:
            message = f"{path}: {name} is no folder ({error.strerror}); see who made it, and remove it"
            raise Stalled("FolderReplaced", message) from error
        finally:
            os.close(descriptor)
        descriptor = inner
    return descriptor


def write_file(file: HostFile) -> None:
    """Replace a file by one rename, owner and mode and all."""
    owner, group = pwd.getpwnam(file.owner).pw_uid, grp.getgrnam(file.group).gr_gid
    write_bytes(file.path, file.text.encode("utf-8", "surrogateescape"), mode=file.mode, owner=owner, group=group)


def write_bytes(path: Path, data: bytes, *, mode: int, owner: int = 0, group: int = 0) -> None:
    """Replace a file by one rename; nobody ever sees a secret in it with a wider mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pending = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(pending, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchown(descriptor, owner, group)
        os.fchmod(descriptor, mode)
        file.write(data)
    os.replace(pending, path)


def remove(path: Path) -> None:
    """Remove a file, an empty drop-in folder with it, or a folder of code."""
    if path.is_dir() and not path.is_symlink():
        remove_tree(os.fsencode(path))
        return
    path.unlink(missing_ok=True)
    if path.parent.name.endswith(".d") and path.parent.parent == UNITS:
        with contextlib.suppress(OSError):
            path.parent.rmdir()


def set_block(change: SetBlock) -> None:
    """Put our marked lines into somebody else's file; whose it is, and its mode, stay."""
    status = change.path.stat()
    text = with_block(change.path.read_text(), change.lines, first=change.first)
    mode = stat.S_IMODE(status.st_mode)
    write_bytes(change.path, text.encode(), mode=mode, owner=status.st_uid, group=status.st_gid)


def read_passwords(draw: Callable[[], str], *, folder: Path = HOST_CONFIG) -> Passwords:
    """Return the passwords of the env files that are there; those that are not are drawn."""

    def of(user: str, name: str, key: str) -> str:
        match = re.match(rf"[^:]+://{user}:([^@\s]+)@", _value_of(folder / name, key))
        return match[1] if match else draw()

    return Passwords(
        api=of(API_ROLE, "api.env", "DATABASE_URL"),
        worker=of(WORKER_ROLE, "worker.env", "DATABASE_URL"),
        redis=of(REDIS_USER, "worker.env", "REDIS_URL"),
    )


def read_shared_redis(*, folder: Path = HOST_CONFIG) -> str | None:
    """Return the address of a Redis of others, as an earlier installation was told; None when Redis is ours."""
    url = _value_of(folder / "worker.env", "REDIS_URL")
    password = read_passwords(lambda: "", folder=folder).redis
    return None if url in ("", own_redis_url(password)) else url


def read_host_name(*, folder: Path = HOST_CONFIG) -> str:
    """Return the name under which the control plane's tables know this machine: it outlives a change of hostname."""
    return _value_of(folder / "worker.env", "OROBOROS_HOST") or socket.gethostname() or "host-1"


def _value_of(path: Path, key: str) -> str:
    found = read_file(path)
    text = found.text if isinstance(found, FileFact) else None
    return parse_environment(text or "").get(key, "")


def digest_of(paths: Iterable[Path]) -> str:
    """Return a digest of files: their names, whether they can be run, and their content."""
    every = sorted(paths)
    top = Path(os.path.commonpath([path.parent for path in every])) if every else Path("/")
    total = hashlib.sha256()
    for path in every:
        kind = b"x" if len(every) > 1 and os.access(path, os.X_OK) else b"-"
        name = os.fsencode(path.relative_to(top)) if len(every) > 1 else b""
        total.update(kind + name + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:DIGEST_DIGITS]


def _unit_files() -> frozenset[str]:
    """Return our units that start at boot, instances of templates among them: the links that say so."""
    found: set[str] = set()
    for folder in Path("/etc/systemd/system").glob("*.wants"):
        found |= {path.name for path in folder.glob("ouroboros-*")}
    return frozenset(found)


def _active_units() -> frozenset[str]:
    try:
        told = run(("systemctl", "list-units", "--plain", "--no-legend", "--no-pager", "--state=active", "ouroboros-*"))
    except Unavailable:
        return frozenset()
    return frozenset(line.split()[0] for line in told.splitlines() if line.strip())


def _has_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _is_group_id(gid: int) -> bool:
    try:
        grp.getgrgid(gid)
    except KeyError:
        return False
    return True


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
