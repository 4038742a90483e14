"""Does each slot have a database that nobody else can enter, and is nothing of it left after the lease?"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import conninfo, sql

from controller.development.parts import Postgres
from controller.effects.database import CONNECTIONS_MAX, AppDatabases
from controller.model.errors import Stalled, Unavailable
from controller.model.names import MAIN, PREVIEWS_MAX, preview_slot

ONE, TWO = preview_slot(1), preview_slot(2)
LAST = preview_slot(PREVIEWS_MAX)


def write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


@pytest.fixture
def databases(postgres_server: Postgres, tmp_path: Path) -> Iterator[AppDatabases]:
    made = AppDatabases(postgres_server.url(), file_of=lambda slot: tmp_path / slot, write_private=write_private)
    yield made
    for slot in (ONE, TWO, LAST):
        made.drop(slot)
    made.close()


def url_of(databases: AppDatabases, slot: str) -> str:
    url = databases.url(ONE if slot == "preview-1" else TWO)
    assert url is not None
    return url


def test_a_slot_gets_one_database_of_its_own_and_a_repetition_keeps_it(databases: AppDatabases) -> None:
    databases.ensure(ONE, fence=7)
    with psycopg.connect(url_of(databases, ONE)) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    databases.ensure(ONE, fence=7)

    with psycopg.connect(url_of(databases, ONE)) as connection:
        assert connection.execute("SELECT one FROM kept").fetchone() == (1,)
    assert databases.observe() == {ONE}
    assert databases.made_for(ONE) == 7


def test_another_lease_finds_nothing_of_the_last(databases: AppDatabases) -> None:
    databases.ensure(ONE, fence=7)
    before = url_of(databases, ONE)
    with psycopg.connect(before) as connection:
        connection.execute("CREATE TABLE secret AS SELECT 1")
    databases.ensure(ONE, fence=8)

    with psycopg.connect(url_of(databases, ONE)) as connection:
        assert connection.execute("SELECT to_regclass('secret')").fetchone() == (None,)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(before)


def test_a_slot_enters_no_other_database(databases: AppDatabases, postgres_url: str, postgres_server: Postgres) -> None:
    databases.ensure(ONE, fence=1)
    databases.ensure(TWO, fence=2)
    control = str(psycopg.conninfo.conninfo_to_dict(postgres_url)["dbname"])

    for other in (control, "preview_2", "postgres", "template1"):
        with pytest.raises(psycopg.OperationalError, match=r"pg_hba\.conf rejects connection"):
            psycopg.connect(url_of(databases, ONE), dbname=other)
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(url_of(databases, ONE), dbname=other, host=str(postgres_server.socket_folder))
    superuser = conninfo.conninfo_to_dict(postgres_server.url())
    with pytest.raises(psycopg.OperationalError, match=r"pg_hba\.conf rejects connection"):
        psycopg.connect(postgres_server.url(), host="127.0.0.1", password=str(superuser["password"]))


def test_the_address_has_the_one_form_that_every_driver_reads(databases: AppDatabases) -> None:
    databases.ensure(ONE, fence=1)
    url = url_of(databases, ONE)
    parts = urlsplit(url)

    assert re.fullmatch(r"postgresql://preview_1:[0-9a-f]{48}@127\.0\.0\.1:\d+/preview_1", url)
    assert (parts.hostname, parts.username, parts.path, parts.query) == ("127.0.0.1", "preview_1", "/preview_1", "")
    assert parts.port != 5432
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT inet_server_addr()::text").fetchone() == ("127.0.0.1/32",)


def test_the_extensions_that_apps_ask_for_can_be_made_by_their_own_role(databases: AppDatabases) -> None:
    databases.ensure(ONE, fence=1)
    named, key, long = "www.example.org \u00fc", "key", "x" * 300
    with psycopg.connect(url_of(databases, ONE), autocommit=True) as connection:

        def ask(expression: str, *values: object) -> object:
            row = connection.execute(f"SELECT {expression}", values).fetchone()  # type: ignore[call-overload]
            assert row is not None
            return row[0]

        for name in ("uuid-ossp", "pgcrypto", "citext", "pg_trgm", "hstore", "unaccent"):
            connection.execute(sql.SQL("CREATE EXTENSION {}").format(sql.Identifier(name)))
        assert ask("'A'::citext = 'a'::citext") is True
        assert ask("uuid_generate_v5(uuid_ns_dns(), %s)", named) == uuid.uuid5(uuid.NAMESPACE_DNS, named)
        assert ask("uuid_generate_v3(uuid_ns_url(), %s)", named) == uuid.uuid3(uuid.NAMESPACE_URL, named)
        for version, function in ((1, "uuid_generate_v1()"), (1, "uuid_generate_v1mc()"), (4, "uuid_generate_v4()")):
            drawn = ask(function)
            assert isinstance(drawn, uuid.UUID)
            assert (drawn.version, drawn.variant) == (version, uuid.RFC_4122)
        assert ask("abs(extract(epoch FROM now()) - (%s - 122192928000000000) / 1e7) < 60", ask_time(ask)) is True
        for kind in ("md5", "sha1", "sha224", "sha256", "sha384", "sha512"):
            for text in ("", named, long):
                assert ask("digest(%s::text, %s)", text, kind) == hashlib.new(kind, text.encode()).digest()
                for secret in (key, long):
                    told = hmac.new(secret.encode(), text.encode(), kind).digest()
                    assert ask("hmac(%s::text, %s::text, %s)", text, secret, kind) == told
        assert len({bytes(ask("gen_random_bytes(33)")) for _ in range(9)}) == 9  # type: ignore[call-overload]
        assert ask("octet_length(gen_random_bytes(33))") == 33
        assert ask("gen_random_uuid() <> gen_random_uuid()") is True
        with contextlib.suppress(psycopg.errors.FeatureNotSupported):  # a server with OpenSSL has it
            assert str(ask("crypt('a', gen_salt('bf'))")).startswith("$2a$")


def ask_time(ask: Callable[[str], object]) -> int:
    drawn = ask("uuid_generate_v1()")
    assert isinstance(drawn, uuid.UUID)
    return drawn.time


def test_an_address_that_an_earlier_version_kept_is_given_in_todays_form(
    databases: AppDatabases, postgres_server: Postgres, tmp_path: Path
) -> None:
    databases.ensure(ONE, fence=7)
    today = url_of(databases, ONE)
    password = conninfo.conninfo_to_dict(today)["password"]
    socket_url = f"postgresql://preview_1:{password}@/preview_1?host={postgres_server.socket_folder}&port=5432"
    write_private(tmp_path / ONE, f"7 {socket_url}\n")

    assert url_of(databases, ONE) == today
    assert databases.is_ready(ONE, fence=7)


def test_a_slot_has_no_powers_and_its_share_only(databases: AppDatabases) -> None:
    databases.ensure(ONE, fence=1)
    with psycopg.connect(url_of(databases, ONE), autocommit=True) as connection:
        row = connection.execute(
            "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls, rolconnlimit"
            " FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        assert row == (False, False, False, False, False, CONNECTIONS_MAX)
        assert connection.execute("SHOW statement_timeout").fetchone() == ("1min",)
        for forbidden in ("CREATE DATABASE x", "CREATE ROLE x", "COPY (SELECT 1) TO PROGRAM 'id'", "SET ROLE postgres"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(forbidden)


def test_drop_ends_open_sessions_leaves_nothing_and_may_be_repeated(
    databases: AppDatabases, postgres_server: Postgres, tmp_path: Path
) -> None:
    databases.ensure(ONE, fence=1)
    session = psycopg.connect(url_of(databases, ONE))

    databases.drop(ONE)
    databases.drop(ONE)

    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")
    session.close()
    with psycopg.connect(postgres_server.url()) as connection:
        assert connection.execute("SELECT count(*) FROM pg_roles WHERE rolname = 'preview_1'").fetchone() == (0,)
    assert databases.observe() == frozenset()
    assert databases.url(ONE) is None
    assert list(tmp_path.iterdir()) == []


def test_production_is_never_dropped(databases: AppDatabases) -> None:
    with pytest.raises(ValueError, match="never dropped"):
        databases.drop(MAIN)


def await_setting(server: Postgres, value: str) -> None:
    """Return once a new session has this `log_statement`: a reload is a signal, and takes its time."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with psycopg.connect(server.url()) as connection:
            if connection.execute("SHOW log_statement").fetchone() == (value,):
                return
        time.sleep(0.01)
    pytest.fail(f"log_statement is not {value} after 10 s")


def test_the_password_is_in_no_statement_that_the_server_sees(
    databases: AppDatabases, postgres_server: Postgres
) -> None:
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET log_statement = 'all'")
        connection.execute("SELECT pg_reload_conf()")
        await_setting(postgres_server, "all")
        databases.close()
        databases.ensure(ONE, fence=1)
        connection.execute("ALTER SYSTEM RESET log_statement")
        connection.execute("SELECT pg_reload_conf()")
        await_setting(postgres_server, "none")
    log = postgres_server.spec.log_file.read_text()
    password = psycopg.conninfo.conninfo_to_dict(url_of(databases, ONE))["password"]

    assert "SCRAM-SHA-256$" in log
    assert str(password) not in log


def test_a_server_that_is_away_is_told_without_the_password(tmp_path: Path) -> None:
    url = f"postgresql://postgres:canary-password@/postgres?host={tmp_path}"
    databases = AppDatabases(url, file_of=lambda slot: tmp_path / slot, write_private=write_private)

    with pytest.raises(Unavailable, match="AppDatabaseAway") as raised:
        databases.observe()
    assert "canary" not in str(raised.value)


def test_a_survey_shows_what_there_is_of_each_slot_and_whose_it_is(databases: AppDatabases) -> None:
    databases.ensure(ONE, fence=7)
    with databases._admin() as admin:
        admin.execute("CREATE ROLE preview_2")
        admin.execute("CREATE DATABASE preview_3")

    assert {(f.slot, f.database, f.role, f.owned, f.made_for) for f in databases.survey()} == {
        (ONE, True, True, True, 7),
        (TWO, False, True, True, None),
        (preview_slot(3), True, False, False, None),
    }
    databases.drop(preview_slot(3))


@pytest.fixture
def installed(postgres_server: Postgres, tmp_path: Path) -> Iterator[AppDatabases]:
    """As on a host: roles were made before, and who makes databases may make no role.

    A host lets its users in by who they are; this server asks for a password, the administrator's for all."""
    password = sql.Literal(conninfo.conninfo_to_dict(postgres_server.url())["password"])
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        for statement in (
            "CREATE ROLE maker LOGIN CREATEDB NOCREATEROLE NOSUPERUSER PASSWORD {}",
            "CREATE ROLE preview_1 LOGIN PASSWORD {}",
            "GRANT preview_1 TO maker",
            "GRANT CONNECT ON DATABASE postgres TO maker",
        ):
            connection.execute(sql.SQL(statement).format(password))
    url = conninfo.make_conninfo(postgres_server.url(), user="maker")
    made = AppDatabases(url, file_of=lambda slot: tmp_path / slot, write_private=write_private, roles="installed")
    yield made
    made.drop(ONE)
    made.close()
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute("REVOKE CONNECT ON DATABASE postgres FROM maker")
        connection.execute("DROP ROLE preview_1, maker")


def test_where_roles_are_installed_none_is_made_and_each_sets_its_own_password(
    installed: AppDatabases, tmp_path: Path
) -> None:
    installed.ensure(ONE, fence=7)
    first = url_of(installed, ONE)
    installed.ensure(ONE, fence=7)

    assert installed.observe() == {ONE}
    assert installed.is_ready(ONE, fence=7)
    assert url_of(installed, ONE) == first
    with psycopg.connect(first) as connection:
        assert connection.execute("SELECT current_user::text").fetchone() == ("preview_1",)
    installed.drop(ONE)
    installed.ensure(ONE, fence=8)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(first)
    # What an earlier version kept: the address of the socket, where the server knows who comes.
    write_private(tmp_path / ONE, "8 postgresql://preview_1@/preview_1?host=/run/postgresql\n")
    assert not installed.is_ready(ONE, fence=8)
    installed.ensure(ONE, fence=8)
    psycopg.connect(url_of(installed, ONE)).close()


def test_a_server_that_lets_no_slot_in_over_tcp_is_reached_by_its_socket(tmp_path: Path) -> None:
    """As an installation that is older: only the socket is open to slots."""
    url = f"postgresql://maker@/postgres?host={tmp_path}&port=1"
    older = AppDatabases(url, file_of=lambda slot: tmp_path / slot, write_private=write_private, roles="installed")
    write_private(tmp_path / ONE, "8 postgresql://preview_1@/preview_1?host=/run/postgresql\n")

    assert older.is_ready(ONE, fence=8)
    assert url_of(older, ONE) == f"postgresql://preview_1@/preview_1?host={tmp_path}&port=1"


def test_an_installed_role_outlives_the_database_of_its_lease(installed: AppDatabases) -> None:
    installed.ensure(ONE, fence=7)
    with psycopg.connect(url_of(installed, ONE)) as connection:
        connection.execute("CREATE TABLE secret AS SELECT 1")
    installed.drop(ONE)
    assert installed.observe() == frozenset()
    installed.ensure(ONE, fence=8)

    with psycopg.connect(url_of(installed, ONE)) as connection:
        assert connection.execute("SELECT to_regclass('secret')").fetchone() == (None,)


def test_a_slot_whose_role_was_not_installed_says_so(installed: AppDatabases) -> None:
    with pytest.raises(Stalled, match="RoleMissing"):
        installed.ensure(TWO, fence=7)


def test_the_last_preview_that_can_be_installed_has_its_database_as_the_first_has(databases: AppDatabases) -> None:
    databases.ensure(LAST, fence=3)

    assert databases.observe() == {LAST}
    assert [(fact.slot, fact.database, fact.role) for fact in databases.survey()] == [(LAST, True, True)]
    databases.drop(LAST)
    assert databases.observe() == frozenset()
