"""What do tests stand on? Real Postgres and Redis, short folders for sockets, ports that nobody has.

Each pytest process (each xdist worker) starts its own Postgres and Redis when the first test asks for them, and gives
every test that asks a fresh database: a copy of one that was migrated once. The kernel ends the parts if this process
is killed, and the first pytest process removes the one folder under which everything of the session lies.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import random
import shutil
import socket
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from psycopg import sql

from controller.development.parts import Part, Postgres, prepare_postgres, prepare_redis
from controller.model.names import Ports, Topology

# How many worlds does a property try? Few where a person waits, many and always the same ones in CI. None goes by time:
# what is slow on a machine that does other things too is no fault.
_QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large)

settings.register_profile("quick", max_examples=100, deadline=None, suppress_health_check=_QUIET)
settings.register_profile("ci", max_examples=300, deadline=None, derandomize=True, suppress_health_check=_QUIET)
#: Mutants are run one by one, each against one property.
settings.register_profile(
    "mutants",
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=_QUIET,
    # Whether it fails is asked, not how it fails in the fewest words.
    phases=(Phase.explicit, Phase.generate),
    report_multiple_bugs=False,
)
settings.load_profile(os.environ.get("OROBOROS_HYPOTHESIS") or ("ci" if os.environ.get("CI") == "true" else "quick"))

_BASE = "OROBOROS_TEST_BASE"
#: Folder of another Postgres' programs than the wheel's.
_POSTGRES = "OROBOROS_TEST_POSTGRES"
#: Every development forge that a test starts is the one that looks at its exchanges, and writes here what it finds.
_FORGE, _VIOLATIONS = "OROBOROS_TEST_FORGE", "OROBOROS_TEST_VIOLATIONS"
_SQL = Path(__file__).resolve().parent.parent / "infra" / "sql"
_TEMPLATE = "migrated_template"
#: Files of these take minutes each, the first the most. Begun last, one would be run alone at the end.
_BEGUN_FIRST = (
    "tests/property/test_worlds.py",
    "tests/fault/",
    "tests/test_mutants.py",
    "tests/acceptance/",
    "tests/property/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        places = (at for at, begin in enumerate(_BEGUN_FIRST) if item.nodeid.startswith(begin))
        return next(places, len(_BEGUN_FIRST))

    items.sort(key=place)


def pytest_configure(config: pytest.Config) -> None:
    """Make the session's folder once, before any worker starts; workers find it in their environment."""
    if not hasattr(config, "workerinput"):
        # Not pytest's tmp_path: a Unix socket's path holds 107 bytes.
        os.environ[_BASE] = tempfile.mkdtemp(prefix="oro-", dir="/tmp" if os.access("/tmp", os.W_OK) else None)
    os.environ[_FORGE] = "tests.published"
    os.environ[_VIOLATIONS] = f"{os.environ[_BASE]}/violations-{os.getpid()}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure what the worker of the test's stack did last."""
    report = yield
    world = getattr(item, "funcargs", {}).get("world")
    if report.when == "call" and report.failed and hasattr(world, "end_of_log"):
        report.sections.append(("Worker's log", world.end_of_log()))
    return report


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the session's folder; a worker that was killed may need a moment until its Postgres has ended."""
    if hasattr(config, "workerinput") or _BASE not in os.environ:
        return
    base = Path(os.environ.pop(_BASE))
    deadline = time.monotonic() + 10
    while base.exists() and time.monotonic() < deadline:
        remove_tree(base)
        time.sleep(0.02 if base.exists() else 0)


def remove_tree(folder: Path) -> None:
    """Remove a folder as far as it goes, also its read-only releases, which only root could remove as they are."""
    for parent, folders, _files in os.walk(folder):
        for path in (f"{parent}/{name}" for name in folders):
            # Never what a link of a test leads to.
            if not os.path.islink(path):
                with contextlib.suppress(OSError):
                    os.chmod(path, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


def violations_file() -> Path:
    """Return where development forges of this pytest process write what is not as GitHub publishes it."""
    return Path(os.environ[_VIOLATIONS])


@pytest.fixture(autouse=True)
def _what_the_forge_was_asked_and_answered_is_as_published() -> Iterator[None]:
    """Fail the test during which an exchange with a development forge was not what GitHub publishes."""
    yield
    found = violations_file()
    if found.exists():
        told = found.read_text()
        found.unlink()
        pytest.fail(f"not as GitHub publishes it:\n{told[:4000]}", pytrace=False)


def _new_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="", dir=os.environ[_BASE]))


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A fresh folder whose path is short enough for Unix sockets."""
    folder = _new_folder()
    yield folder
    remove_tree(folder)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """The Postgres of this pytest process, shared by its tests: never stop it. A test that must starts its own."""
    folder = _new_folder()
    binaries = os.environ.get(_POSTGRES)
    postgres = prepare_postgres(
        data=folder / "pg",
        run=folder / "run",
        port=_free_port(),
        binaries=None if binaries is None else Path(binaries),
    )
    with Part(postgres.spec):
        yield postgres
    remove_tree(folder)


@pytest.fixture(scope="session")
def _postgres_template(postgres_server: Postgres) -> str:
    _execute(postgres_server, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_TEMPLATE)))
    url = postgres_server.url(_TEMPLATE)
    if importlib.util.find_spec("controller.effects.store") is not None:
        importlib.import_module("controller.effects.store").migrate(url)
    else:
        with psycopg.connect(url) as connection:
            for file in sorted(_SQL.glob("*.sql")):
                connection.execute(file.read_bytes())
    return _TEMPLATE


@pytest.fixture
def postgres_url(postgres_server: Postgres, _postgres_template: str) -> Iterator[str]:
    """The URL of a fresh database with the control plane's tables, of a superuser."""
    with _fresh_database(postgres_server, template=_postgres_template) as name:
        yield postgres_server.url(name)


@pytest.fixture
def empty_postgres_url(postgres_server: Postgres) -> Iterator[str]:
    """The URL of a fresh, empty database, of a superuser."""
    with _fresh_database(postgres_server, template="template1") as name:
        yield postgres_server.url(name)


@pytest.fixture(scope="session")
def _redis_server_url() -> Iterator[str]:
    folder = _new_folder()
    prepared = prepare_redis(run=folder, log_file=folder / "redis.log")
    with Part(prepared.spec):
        yield prepared.url
    remove_tree(folder)


@pytest.fixture
def redis_url(_redis_server_url: str) -> str:
    """The URL of an empty Redis, shared by the tests of this pytest process: never stop it."""
    client = redis.Redis.from_url(_redis_server_url)
    client.flushall()
    client.close()
    return _redis_server_url


@contextlib.contextmanager
def claim_port_offset() -> Iterator[int]:
    """An offset with which every port of a default stack is free, and claimed by no other test of this session. A
    benchmark is no session, and alone."""
    with contextlib.ExitStack() as claimed:
        alone = None if _BASE in os.environ else claimed.enter_context(tempfile.TemporaryDirectory(prefix="oro-"))
        claims = Path(alone or os.environ[_BASE]) / "ports"
        claims.mkdir(exist_ok=True)
        for _ in range(200):
            offset = random.randrange(10_000, 22_000)
            shifted = Ports(offset=offset)
            ports = [port for _, port in shifted.all_for(Topology().slots)] + [shifted.edge_https, shifted.edge_http]
            with contextlib.ExitStack() as attempt:
                if all(_claim_port(claims / str(port), port, attempt) for port in ports):
                    claimed.push(attempt.pop_all())
                    break
        else:
            pytest.fail("no free range of ports in 200 attempts")
        yield offset


@pytest.fixture
def free_port_offset() -> Iterator[int]:
    """An offset with which every port of a default stack is free, and claimed by no other test of this session."""
    with claim_port_offset() as offset:
        yield offset


def _claim_port(claim: Path, port: int, claimed: contextlib.ExitStack) -> bool:
    try:
        claim.touch(exist_ok=False)
    except FileExistsError:
        return False
    claimed.callback(claim.unlink)
    with socket.socket() as probe:
        # What our own servers do: a connection of an earlier test in TIME_WAIT is no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def _fresh_database(server: Postgres, *, template: str) -> Iterator[str]:
    name = f"test_{os.getpid()}_{random.getrandbits(48):012x}"
    identifiers = sql.Identifier(name), sql.Identifier(template)
    _execute(server, sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*identifiers))
    try:
        yield name
    finally:
        _execute(server, sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _execute(server: Postgres, statement: sql.Composed) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(statement)
