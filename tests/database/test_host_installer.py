"""Does root follow no link below the worker's root, is its code whole, and may roles do no more than they must?"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from controller.decisions.installation import API_IS_BOUNDED, API_RIGHTS, ODD_ROLES, Folder, slot_role_statements
from controller.development.parts import Postgres
from controller.effects.host import digest_of, install_code, installed_code, make_folder
from controller.model.errors import Stalled

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
    install_code(files, source=source, digest=digest, link=link)
    assert installed_code(link) == digest
    assert installed_code(tmp_path / "nothing") == ""
