"""Which slot has a Postgres database and role of its own, and how are they made and removed?

One database and one role per slot, named alike by `names.database_name`. Each role gets a password, drawn anew for
each lease; on a host install has made the roles, we may make none, and a role's password is its own to set. Apps reach
the server over TCP on loopback: most drivers take no other address (a URL without a host is none for WHATWG's `URL`).
A 0600 file holds the fence of the lease that the database is for, and the address.
Every fresh Postgres database lets PUBLIC connect: here nobody but its own role may
(https://www.postgresql.org/docs/current/ddl-priv.html). Truth is `pg_database`, not the file alone.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import psycopg
from psycopg import conninfo, sql

from controller.decisions.integrity import DatabaseFact
from controller.model.errors import Stalled, Unavailable
from controller.model.names import MAIN, PREVIEWS_MAX, SlotName, database_name, preview_slot

CONNECT_TIMEOUT_S = 3
STATEMENT_TIMEOUT_MS = 30_000
#: Of one slot's role, so that a preview cannot use up the server.
CONNECTIONS_MAX = 20
ROLE_STATEMENT_TIMEOUT = "60s"
PASSWORD_BYTES = 24
#: An installation that is older than this form of the address lets nobody of a slot in over TCP: the server says so
#: before it asks for a password.
_NOT_OVER_TCP = re.compile(r"pg_hba\.conf|Connection refused|no pg_hba")


class AppDatabases:
    """The apps' databases on one server, through an admin connection of which no app knows."""

    def __init__(
        self,
        admin_url: str,
        *,
        file_of: Callable[[SlotName], Path],
        write_private: Callable[[Path, str], None],
        roles: Literal["ours", "installed"] = "ours",
    ) -> None:
        self._admin_url = admin_url
        self._roles = roles
        self._write_private = write_private
        # Kept open: every tick looks, and a password handshake costs more than the look.
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None
        #: Whether slots' roles are let in over TCP; None: not asked yet.
        self._lets_in_over_tcp: bool | None = True if roles == "ours" else None
        self._file = file_of
        self._names = {
            database_name(slot): slot for slot in (MAIN, *(preview_slot(k) for k in range(1, PREVIEWS_MAX + 1)))
        }

    def observe(self) -> frozenset[SlotName]:
        """Return the slots that have a database."""
        with self._admin() as connection:
            rows = connection.execute(
                "SELECT datname FROM pg_database d JOIN pg_roles r ON r.rolname = d.datname AND r.oid = d.datdba"
                " WHERE datname = ANY(%s)",
                [list(self._names)],
            ).fetchall()
        return frozenset(self._names[str(row[0])] for row in rows)

    def survey(self) -> tuple[DatabaseFact, ...]:
        """Return what the server has for every slot of which it has anything, those that this host lacks too."""
        names = list(self._names)
        with self._admin() as connection:
            databases = connection.execute(
                "SELECT datname, pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = ANY(%s)", [names]
            ).fetchall()
            roles = connection.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", [names]).fetchall()
        owners = {str(name): str(owner) for name, owner in databases}
        present = {str(name) for (name,) in roles}
        return tuple(
            DatabaseFact(
                slot=slot,
                database=name in owners,
                role=name in present,
                owned=owners.get(name, name) == name,
                made_for=self.made_for(slot),
            )
            for name, slot in self._names.items()
            if name in owners or name in present
        )

    def made_for(self, slot: SlotName) -> int | None:
        """Return the fence of the lease that the slot's database is for; 0 for main, None without one."""
        try:
            first, _, _ = self._file(slot).read_text().partition(" ")
            return int(first)
        except (FileNotFoundError, ValueError):
            return None

    def is_ready(self, slot: SlotName, *, fence: int) -> bool:
        """Say whether the slot's database is that of this lease, and its address as it is today."""
        has_address = self._password(slot) is not None or not self._is_open_over_tcp(slot)
        return self.made_for(slot) == fence and has_address

    def url(self, slot: SlotName) -> str | None:
        """Return the slot's DATABASE_URL, or None when it has no database."""
        return None if self._kept_url(slot) is None else self._url(slot, self._password(slot))

    def ensure(self, slot: SlotName, *, fence: int) -> None:
        """Make the slot's database and role for a lease. Safe to repeat; another lease's database is dropped first."""
        made_for = self.made_for(slot)
        if made_for is not None and made_for != fence and slot != MAIN:
            self.drop(slot)
        name = sql.Identifier(database_name(slot))
        is_open = self._is_open_over_tcp(slot)
        password = self._password(slot) or secrets.token_hex(PASSWORD_BYTES)
        if self._roles == "installed":
            self._write_private(self._file(slot), f"{fence} {self._url(slot, password if is_open else None)}\n")
            with self._admin() as connection:
                _require_role(connection, slot)
                if is_open:
                    _set_own_password(connection, slot, password)
                _make_database(connection, slot)
            return
        # Written first: a crash leaves a password without a role, which the repetition gives it.
        self._write_private(self._file(slot), f"{fence} {self._url(slot, password)}\n")
        with self._admin() as connection:
            exists = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [database_name(slot)]).fetchone()
            verb = sql.SQL("ALTER" if exists else "CREATE")
            connection.execute(
                sql.SQL(
                    "{} ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
                    " CONNECTION LIMIT {} PASSWORD {}"
                ).format(verb, name, sql.Literal(CONNECTIONS_MAX), sql.Literal(_verifier(connection, slot, password)))
            )
            connection.execute(
                sql.SQL("ALTER ROLE {} SET statement_timeout = {}").format(name, sql.Literal(ROLE_STATEMENT_TIMEOUT))
            )
            connection.execute(sql.SQL("ALTER ROLE {} SET lock_timeout = '10s'").format(name))
            _make_database(connection, slot)
            # The control plane's own first of all; only those that still let everyone in.
            open_to_all = connection.execute(
                "SELECT datname FROM pg_database WHERE datallowconn"
                " AND (has_database_privilege('public', oid, 'CONNECT')"
                " OR has_database_privilege('public', oid, 'TEMPORARY'))"
            ).fetchall()
            for (other,) in open_to_all:
                connection.execute(
                    sql.SQL("REVOKE CONNECT, TEMPORARY ON DATABASE {} FROM PUBLIC").format(sql.Identifier(str(other)))
                )

    def drop(self, slot: SlotName) -> None:
        """End every session, drop the database and, where it is ours, the role. Safe to repeat. Never of production."""
        if slot == MAIN:
            raise ValueError("production's database is never dropped")
        name = sql.Identifier(database_name(slot))
        with self._admin() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
            if self._roles == "ours":
                connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(name))
        self._file(slot).unlink(missing_ok=True)

    def _kept_url(self, slot: SlotName) -> str | None:
        try:
            _, _, url = self._file(slot).read_text().strip().partition(" ")
        except FileNotFoundError:
            return None
        return url or None

    def _password(self, slot: SlotName) -> str | None:
        url = self._kept_url(slot)
        password = conninfo.conninfo_to_dict(url).get("password") if url is not None else None
        return str(password) if password else None

    def _url(self, slot: SlotName, password: str | None) -> str:
        """Return the address as a slot gets it; without a password that of the socket, where peers are known."""
        name, (host, port) = database_name(slot), self._address()
        if password is None and host.startswith("/"):
            # Without an "&" where it can be: the address may meet a shell that its recipe did not quote it for.
            beside = "" if port == 5432 else f"&port={port}"
            return f"postgresql://{name}@/{name}?host={host}{beside}"
        who = name if password is None else f"{name}:{password}"
        return f"postgresql://{who}@{_tcp_host(host)}:{port}/{name}"

    def _address(self) -> tuple[str, int]:
        parts = conninfo.conninfo_to_dict(self._admin_url)
        return str(parts.get("host") or ""), int(parts.get("port") or 5432)

    def _is_open_over_tcp(self, slot: SlotName) -> bool:
        """Say whether the server asks the slot's role for a password over TCP; asked once in the life of a process."""
        if self._lets_in_over_tcp is None:
            host, port = self._address()
            try:
                psycopg.connect(
                    host=_tcp_host(host),
                    port=port,
                    user=database_name(slot),
                    dbname=database_name(slot),
                    password="none",  # noqa: S106 - right for nobody
                    connect_timeout=CONNECT_TIMEOUT_S,
                ).close()
            except psycopg.OperationalError as error:
                if "password authentication failed" not in str(error):
                    self._lets_in_over_tcp = False if _NOT_OVER_TCP.search(str(error)) else None
                    return False
            self._lets_in_over_tcp = True
        return self._lets_in_over_tcp

    @contextmanager
    def _admin(self) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
        with self._lock:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = psycopg.connect(
                        self._admin_url,
                        autocommit=True,
                        connect_timeout=CONNECT_TIMEOUT_S,
                        options=f"-c statement_timeout={STATEMENT_TIMEOUT_MS}",
                        application_name="oroboros databases",
                    )
                yield self._connection
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise Unavailable(
                    "AppDatabaseAway", f"the apps' database server does not answer: {first_line:.200}"
                ) from error

    def close(self) -> None:
        """Close the connection; a later call opens a new one."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def _tcp_host(host: str) -> str:
    return "127.0.0.1" if not host or host.startswith("/") else host


def _set_own_password(connection: psycopg.Connection[tuple[object, ...]], slot: SlotName, password: str) -> None:
    """Set the password of a role that install has made, as that role: its member may make no role and alter none."""
    name = sql.Identifier(database_name(slot))
    verifier = sql.Literal(_verifier(connection, slot, password))
    with connection.transaction():
        connection.execute(sql.SQL("SET LOCAL ROLE {}").format(name))
        connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(name, verifier))


def _require_role(connection: psycopg.Connection[tuple[object, ...]], slot: SlotName) -> None:
    name = database_name(slot)
    if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone() is None:
        raise Stalled(
            "RoleMissing", f"Postgres has no role {name} for {slot}: install again, it makes the slots' roles"
        )


def _make_database(connection: psycopg.Connection[tuple[object, ...]], slot: SlotName) -> None:
    name = sql.Identifier(database_name(slot))
    found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database_name(slot)]).fetchone()
    if found is None:
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0").format(name, name))
    connection.execute(sql.SQL("REVOKE CONNECT, TEMPORARY ON DATABASE {} FROM PUBLIC").format(name))


def _verifier(connection: psycopg.Connection[tuple[object, ...]], slot: SlotName, password: str) -> str:
    """Return what the server keeps instead of the password: a statement that fails is logged with all its words."""
    return connection.pgconn.encrypt_password(
        password.encode(), database_name(slot).encode(), b"scram-sha-256"
    ).decode()
