"""Does root follow no link below the worker's root, and may the api write no table but its own?"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from controller.decisions.installation import API_IS_BOUNDED, API_RIGHTS, Folder
from controller.development.parts import Postgres
from controller.effects.host import make_folder
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
