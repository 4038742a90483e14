"""Does root follow no link below the worker's root, is its code whole, and may roles do no more than they must?"""

from __future__ import annotations

import os
import pwd
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from controller.decisions.host_environment import PLACEHOLDERS, Passwords
from controller.decisions.installation import (
    API_IS_BOUNDED,
    API_RIGHTS,
    ODD_ROLES,
    Folder,
    HostFacts,
    PostgresFact,
    RunSql,
    Wanted,
    plan_installation,
    slot_role_statements,
)
from controller.development.parts import Postgres, postgres_binary
from controller.effects.host import (
    digest_of,
    edited_code,
    install_code,
    installed_code,
    kept_code,
    make_folder,
    observe_postgres,
    run_sql,
    run_sql_as_worker,
)
from controller.effects.powers import ask_as
from controller.effects.store import SQL_FOLDER, migrate
from controller.model.errors import Stalled, Unavailable
from controller.model.names import Topology
from controller.model.options import Options

PASSWORDS = Passwords(api="api", worker="worker", redis="redis")
WANTED = Wanted(
    topology=Topology(previews=1),
    passwords=PLACEHOLDERS,
    host="h",
    webhook_secret="s",
    operator_token="s",
    app="a",
    caddy="c",
)
ME = pwd.getpwuid(os.geteuid()).pw_name


def test_a_folder_is_made_and_put_right(tmp_path: Path) -> None:
    path = tmp_path / "slots" / "preview-1"
    make_folder(Folder(path=path, mode=0o711, owner=ME), trusted=tmp_path)
    path.chmod(0o777)
    make_folder(Folder(path=path, mode=0o711, owner=ME), trusted=tmp_path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o711


@pytest.mark.parametrize("replaced", ["slots/preview-1/data", "slots/preview-1", "slots"])
def test_root_is_not_led_elsewhere_by_a_link(tmp_path: Path, replaced: str) -> None:
    trusted, elsewhere = tmp_path / "srv", tmp_path / "etc"
    link = trusted / replaced
    link.parent.mkdir(parents=True)
    elsewhere.mkdir(mode=0o755)
    link.symlink_to(elsewhere)

    with pytest.raises(Stalled, match="FolderReplaced"):
        make_folder(Folder(path=trusted / "slots/preview-1/data", mode=0o700, owner=ME), trusted=trusted)
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o755
    assert list(elsewhere.iterdir()) == []


@pytest.fixture
def bounded(postgres_url: str, postgres_server: Postgres) -> Iterator[str]:
    """A migrated control plane's database with the roles of a host."""
    with psycopg.connect(postgres_server.url(), autocommit=True) as admin:
        for role in ("oroboros_worker", "oroboros_api"):
            admin.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    yield postgres_url
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        for role in ("oroboros_worker", "oroboros_api"):
            admin.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def is_bounded(connection: psycopg.Connection[tuple[object, ...]]) -> object:
    row = connection.execute(API_IS_BOUNDED.encode()).fetchone()
    return row and row[0]


def test_the_api_writes_deliveries_and_nothing_else(bounded: str) -> None:
    with psycopg.connect(bounded, autocommit=True) as admin:
        assert is_bounded(admin) is False
        for statement in (*API_RIGHTS, *API_RIGHTS):
            admin.execute(statement.encode())
        assert is_bounded(admin) is True

        admin.execute("SET ROLE oroboros_api")
        admin.execute("UPDATE deliveries SET seen_count = seen_count")
        admin.execute("UPDATE repositories SET receiver_started_at = now()")
        admin.execute("SELECT count(*) FROM runs")
        for forbidden in (
            "UPDATE runs SET state = 'live'",
            "DELETE FROM deliveries",
            "UPDATE repositories SET listed_at = now()",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                admin.execute(forbidden.encode())
        admin.execute("RESET ROLE")
        admin.execute("GRANT INSERT ON overrides TO oroboros_api")
        assert is_bounded(admin) is False


@dataclass(frozen=True)
class HostPostgres:
    """A server as an installation leaves it, and how its installer reaches it."""

    server: Postgres
    administrator: tuple[str, ...]
    worker: str

    def observe(self) -> PostgresFact:
        found = observe_postgres(
            PASSWORDS, sql_folder=SQL_FOLDER, administrator=self.administrator, control_url=self.worker
        )
        assert found is not None
        return found

    def superusers(self) -> list[object]:
        with psycopg.connect(self.server.url(), autocommit=True) as admin:
            return [name for (name,) in admin.execute("SELECT rolname FROM pg_roles WHERE rolsuper")]


@pytest.fixture
def host_postgres(postgres_server: Postgres) -> Iterator[HostPostgres]:
    with psycopg.connect(postgres_server.url(), autocommit=True) as admin:
        admin.execute("CREATE ROLE oroboros_worker LOGIN CREATEDB PASSWORD 'worker'")
        admin.execute("CREATE ROLE oroboros_api LOGIN PASSWORD 'api'")
        admin.execute("CREATE DATABASE builder_control OWNER oroboros_worker")
        control = postgres_server.url("builder_control")
        worker = f"postgresql://oroboros_worker:worker@{control.partition('@')[2]}"
        migrate(worker)
        yield HostPostgres(postgres_server, (str(postgres_binary("psql")), postgres_server.url()), worker)
        owned = "SELECT datname FROM pg_database d JOIN pg_roles r ON r.oid = datdba WHERE rolname = 'oroboros_worker'"
        for (name,) in admin.execute(owned).fetchall():
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        admin.execute("DROP OWNED BY oroboros_worker, oroboros_api")
        admin.execute("DROP ROLE oroboros_worker, oroboros_api")


def test_the_installer_sees_what_the_tables_lack(host_postgres: HostPostgres) -> None:
    found = host_postgres.observe()
    assert (found.migrations, found.api_is_bounded) == ((), False)
    run_sql_as_worker(API_RIGHTS, url=host_postgres.worker)
    assert host_postgres.observe().api_is_bounded

    with psycopg.connect(host_postgres.worker) as worker:
        worker.execute("DELETE FROM schema_migrations WHERE name = '0001_control_plane.sql'")
    assert host_postgres.observe().migrations == ("0001_control_plane.sql",)


def test_a_view_of_the_worker_is_not_read_with_powers_that_it_lacks(host_postgres: HostPostgres) -> None:
    with psycopg.connect(host_postgres.worker, autocommit=True) as worker:
        worker.execute("DROP TABLE schema_migrations CASCADE")
        worker.execute(
            "CREATE FUNCTION rise() RETURNS text LANGUAGE plpgsql AS"
            " $$ BEGIN ALTER ROLE oroboros_worker SUPERUSER; RETURN 'risen'; END $$"
        )
        worker.execute("CREATE VIEW schema_migrations AS SELECT rise() AS name")
        worker.execute("ALTER DATABASE builder_control SET search_path = public, pg_catalog")

    found = host_postgres.observe()

    assert host_postgres.superusers() == ["postgres"]
    assert "0001_control_plane.sql" in found.migrations
    with psycopg.connect(host_postgres.server.url("builder_control"), autocommit=True) as admin:
        admin.execute("SELECT name FROM schema_migrations")
    assert "oroboros_worker" in host_postgres.superusers(), "the view that was planted does harm whom it can"


@pytest.mark.parametrize(
    "name",
    ['x" FROM PUBLIC; ALTER ROLE oroboros_worker SUPERUSER; --', "x\nopen postgres\n\\! id", "x:y; $1 \\"],
)
def test_the_name_of_a_database_is_never_taken_for_words(host_postgres: HostPostgres, name: str) -> None:
    with psycopg.connect(host_postgres.worker, autocommit=True) as worker:
        worker.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    found = host_postgres.observe()
    assert name in found.open_to_all

    facts = HostFacts(postgres=replace(found, open_to_all=frozenset({name})))
    # Where somebody else's database lives, PUBLIC's right is taken from it only when an option says so.
    assert not any(isinstance(one, RunSql) and name in one.what for one in plan_installation(facts, WANTED))
    told_to = replace(WANTED, topology=replace(WANTED.topology, said=Options(close_databases=True)))
    (closing,) = [c for c in plan_installation(facts, told_to) if isinstance(c, RunSql) and c.what.startswith("close")]
    run_sql(closing.statements, administrator=host_postgres.administrator)

    assert name not in host_postgres.observe().open_to_all
    assert host_postgres.superusers() == ["postgres"]


@pytest.fixture
def slot_role(postgres_url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A connection of the administrator's, and a slot's role as an installation makes it."""
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        for statement in slot_role_statements("preview_41", exists=False):
            admin.execute(statement.encode())
        yield admin
        admin.execute("DROP ROLE preview_41")


def odd_roles(connection: psycopg.Connection[tuple[object, ...]]) -> list[object]:
    return [name for (name,) in connection.execute(ODD_ROLES.encode()) if name == "preview_41"]


@pytest.mark.parametrize(
    "change",
    [
        b"SUPERUSER",
        b"CREATEROLE",
        b"CREATEDB",
        b"REPLICATION",
        b"BYPASSRLS",
        b"NOLOGIN",
        b"CONNECTION LIMIT -1",
        b"SET statement_timeout = 0",
        b"RESET temp_file_limit",
    ],
)
def test_a_changed_role_is_noticed_and_put_right(
    slot_role: psycopg.Connection[tuple[object, ...]], change: bytes
) -> None:
    assert odd_roles(slot_role) == []
    slot_role.execute(b"ALTER ROLE preview_41 " + change)
    assert odd_roles(slot_role) == ["preview_41"]

    for statement in slot_role_statements("preview_41", exists=True):
        slot_role.execute(statement.encode())
    assert odd_roles(slot_role) == []


def write_checkout(folder: Path, text: str) -> tuple[list[Path], str]:
    """Write a small checkout; return its files and their digest."""
    files = [folder / "scripts" / "run.sh", folder / "controller" / "a.py", folder / "README.md"]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{path.name} {text}\n")
    files[0].chmod(0o755)
    return files, digest_of(files)


def test_code_is_installed_whole_and_the_one_before_stays_for_who_runs_it(tmp_path: Path) -> None:
    source, link = tmp_path / "checkout", tmp_path / "opt" / "app"
    digests = []
    for text in ("one", "two", "three"):
        files, digest = write_checkout(source, text)
        for _ in range(2):
            install_code(files, source=source, digest=digest, link=link)
        digests.append(digest)

    assert (link / "controller" / "a.py").read_text() == "a.py three\n"
    assert stat.S_IMODE((link / "scripts" / "run.sh").stat().st_mode) == 0o755
    assert stat.S_IMODE((link / "README.md").stat().st_mode) == 0o644
    assert installed_code(link) == digests[2]
    assert {path.name for path in (tmp_path / "opt" / "apps").iterdir()} == set(digests[1:])


@pytest.mark.parametrize("damage", ["edited", "more", "less", "mode"])
def test_installed_code_that_was_changed_is_noticed_and_replaced(tmp_path: Path, damage: str) -> None:
    source, link = tmp_path / "checkout", tmp_path / "opt" / "app"
    files, digest = write_checkout(source, "one")
    install_code(files, source=source, digest=digest, link=link)
    at = link / "controller" / "a.py"
    match damage:
        case "edited":
            at.write_text("import os\n")
        case "more":
            at.with_name("b.py").touch()
        case "less":
            at.unlink()
        case _:
            at.chmod(0o755)

    assert installed_code(link) == "edited"
    assert edited_code(link) == ((at.with_name("b.py") if damage == "more" else at),)
    kept = kept_code(link)
    assert kept is not None
    restored = [kept / path.relative_to(source) for path in files]
    install_code(restored, source=kept, digest=digest, link=link)
    assert installed_code(link) == digest
    assert edited_code(link) == ()
    assert installed_code(tmp_path / "nothing") == ""


def test_a_kept_copy_that_was_edited_restores_nothing_and_is_kept_anew(tmp_path: Path) -> None:
    source, link = tmp_path / "checkout", tmp_path / "opt" / "app"
    files, digest = write_checkout(source, "one")
    install_code(files, source=source, digest=digest, link=link)
    kept = kept_code(link)
    assert kept is not None
    (kept / "README.md").write_text("as somebody else has it\n")
    assert (kept_code(link), edited_code(link)) == (None, (kept,))
    install_code([link / path.relative_to(source) for path in files], source=link, digest=digest, link=link)
    assert kept_code(link) == kept


def refuse() -> bytes:
    raise Stalled("Refused", "the child cannot answer")


@pytest.mark.parametrize("question", [refuse, lambda: b"x" * 11, lambda: time.sleep(60) or b""])
def test_a_child_that_does_not_answer_as_it_should_is_ended(question: Callable[[], bytes]) -> None:
    assert ask_as(ME, lambda: str(os.getpid()).encode(), bytes_max=10, timeout_s=10) != str(os.getpid()).encode()
    assert ask_as(ME, lambda: b"", bytes_max=10, timeout_s=10) == b""

    with pytest.raises(Unavailable, match="HostToolFailed"):
        ask_as(ME, question, bytes_max=10, timeout_s=1)


def test_nobody_is_asked_who_is_no_user() -> None:
    with pytest.raises(Unavailable, match="HostToolFailed"):
        ask_as("oroboros-nobody", lambda: b"", bytes_max=10, timeout_s=10)
