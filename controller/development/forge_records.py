"""What does the development forge remember beside git? Pull requests, reports and deliveries, in one SQLite file.

Used from one thread. Each method is one transaction, so that a forge that is killed starts again where it was.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Final

from controller.development.forge_shapes import Delivery, Object, Origin, Pull, Status

DELIVERIES_KEPT: Final = 2_000

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS pulls (
    number INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT NOT NULL, body TEXT, head_branch TEXT NOT NULL,
    head_sha TEXT NOT NULL, base_branch TEXT NOT NULL, base_sha TEXT NOT NULL, origin TEXT NOT NULL,
    is_open INTEGER NOT NULL, created_at TEXT NOT NULL, updated_at TEXT NOT NULL, closed_at TEXT, merged_at TEXT,
    merge_commit_sha TEXT, extra TEXT NOT NULL DEFAULT '{}'
);
CREATE TABLE IF NOT EXISTS statuses (
    id INTEGER PRIMARY KEY AUTOINCREMENT, sha TEXT NOT NULL, state TEXT NOT NULL, context TEXT NOT NULL,
    description TEXT, target_url TEXT, created_at TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS statuses_sha ON statuses (sha, id);
CREATE TABLE IF NOT EXISTS made (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, subject TEXT NOT NULL, content TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS made_subject ON made (kind, subject, id);
CREATE TABLE IF NOT EXISTS deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, guid TEXT NOT NULL, event TEXT NOT NULL, action TEXT, body BLOB NOT NULL,
    redelivery INTEGER NOT NULL, created_at TEXT NOT NULL, delivered_at TEXT, duration_s REAL NOT NULL DEFAULT 0,
    status TEXT NOT NULL DEFAULT 'pending', status_code INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS deliveries_unsent ON deliveries (id) WHERE delivered_at IS NULL;
"""
_PULL: Final = (
    "number, title, body, head_branch, head_sha, base_branch, base_sha, origin, is_open, created_at, updated_at,"
    " closed_at, merged_at, merge_commit_sha, extra"
)
_STATUS: Final = "id, sha, state, context, description, target_url, created_at"
_DELIVERY: Final = (
    "id, guid, event, action, body, redelivery, created_at, delivered_at, duration_s, status, status_code"
)


class Records:
    """The forge's memory."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_SCHEMA)
        if "extra" not in {row[1] for row in self._db.execute("PRAGMA table_info(pulls)")}:
            self._db.execute("ALTER TABLE pulls ADD COLUMN extra TEXT NOT NULL DEFAULT '{}'")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def keep_fact(self, name: str, value: str) -> str:
        """Return the fact of that name; the first value that was given is the one that stays."""
        self._db.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, value))
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return str(row[0])

    def load_fact(self, name: str) -> str | None:
        """Return the fact of that name, or None."""
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_fact(self, name: str, value: str) -> None:
        """Record a fact that changes."""
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    # -- pull requests ----------------------------------------------------------------------------------------------

    def add_pull(
        self,
        *,
        title: str,
        body: str | None,
        head: tuple[str, str],
        base: tuple[str, str],
        origin: Origin,
        now: str,
    ) -> Pull:
        """Open a pull request; `head` and `base` are (branch, sha)."""
        cursor = self._db.execute(
            "INSERT INTO pulls (title, body, head_branch, head_sha, base_branch, base_sha, origin, is_open, created_at,"
            " updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, 1, ?, ?)",
            (title, body, *head, *base, origin, now, now),
        )
        assert cursor.lastrowid is not None
        return self.read_pull(cursor.lastrowid)

    def read_pull(self, number: int) -> Pull:
        """Return a pull request that exists."""
        found = self.load_pull(number)
        assert found is not None
        return found

    def load_pull(self, number: int) -> Pull | None:
        """Return a pull request, or None."""
        row = self._db.execute(f"SELECT {_PULL} FROM pulls WHERE number = ?", (number,)).fetchone()  # noqa: S608
        return None if row is None else _pull(row)

    def load_pulls(self) -> list[Pull]:
        """Return all pull requests by number."""
        rows = self._db.execute(f"SELECT {_PULL} FROM pulls ORDER BY number")  # noqa: S608
        return [_pull(row) for row in rows]

    def load_open_pulls(self) -> list[Pull]:
        """Return the open pull requests by number."""
        rows = self._db.execute(f"SELECT {_PULL} FROM pulls WHERE is_open ORDER BY number")  # noqa: S608
        return [_pull(row) for row in rows]

    def count_open_pulls(self) -> int:
        """Return how many pull requests are open."""
        return int(self._db.execute("SELECT count(*) FROM pulls WHERE is_open").fetchone()[0])

    def replace_pull(self, pull: Pull) -> None:
        """Record what a pull request has become."""
        self._db.execute(
            "UPDATE pulls SET title = ?, head_sha = ?, base_sha = ?, is_open = ?, updated_at = ?, closed_at = ?,"
            " merged_at = ?, merge_commit_sha = ?, base_branch = ?, extra = ? WHERE number = ?",
            (
                pull.title,
                pull.head_sha,
                pull.base_sha,
                int(pull.is_open),
                pull.updated_at,
                pull.closed_at,
                pull.merged_at,
                pull.merge_commit_sha,
                pull.base_branch,
                json.dumps({"labels": pull.labels, "draft": pull.is_draft, "author": pull.author}),
                pull.number,
            ),
        )

    # -- statuses ---------------------------------------------------------------------------------------------------

    def add_status(
        self, sha: str, *, state: str, context: str, description: str | None, target_url: str | None, now: str
    ) -> Status:
        """Add a status; they are never changed."""
        cursor = self._db.execute(
            "INSERT INTO statuses (sha, state, context, description, target_url, created_at) VALUES (?, ?, ?, ?, ?, ?)",
            (sha, state, context, description, target_url, now),
        )
        assert cursor.lastrowid is not None
        return Status(
            id=cursor.lastrowid,
            sha=sha,
            state=state,
            context=context,
            description=description,
            target_url=target_url,
            created_at=now,
        )

    def load_statuses(self, sha: str) -> list[Status]:
        """Return the statuses of a commit, the newest first."""
        rows = self._db.execute(f"SELECT {_STATUS} FROM statuses WHERE sha = ? ORDER BY id DESC", (sha,))  # noqa: S608
        return [_status(row) for row in rows]

    def load_newest_statuses(self, limit: int) -> list[Status]:
        """Return the newest statuses of all commits, the newest first."""
        rows = self._db.execute(f"SELECT {_STATUS} FROM statuses ORDER BY id DESC LIMIT ?", (limit,))  # noqa: S608
        return [_status(row) for row in rows]

    def count_statuses(self, sha: str, context: str) -> int:
        """Return how many statuses a commit has in a context."""
        row = self._db.execute("SELECT count(*) FROM statuses WHERE sha = ? AND context = ?", (sha, context)).fetchone()
        return int(row[0])

    # -- what else is made: check runs, deployments and their statuses, comments --------------------------------------

    def add_made(self, kind: str, subject: str, content: Object) -> int:
        """Keep something that was made about a subject (a commit, a deployment, a pull request); return its id."""
        cursor = self._db.execute(
            "INSERT INTO made (kind, subject, content) VALUES (?, ?, ?)", (kind, subject, json.dumps(content))
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def replace_made(self, number: int, content: Object) -> None:
        """Keep what it has become."""
        self._db.execute("UPDATE made SET content = ? WHERE id = ?", (json.dumps(content), number))

    def remove_made(self, number: int) -> None:
        """Forget it."""
        self._db.execute("DELETE FROM made WHERE id = ?", (number,))

    def read_made(self, number: int) -> Object:
        """Return what is there."""
        row = self._db.execute("SELECT content FROM made WHERE id = ?", (number,)).fetchone()
        content: Object = json.loads(row[0])
        return content

    def find_made(self, kind: str, number: int) -> tuple[str, Object] | None:
        """Return subject and content, or None."""
        row = self._db.execute("SELECT subject, content FROM made WHERE kind = ? AND id = ?", (kind, number)).fetchone()
        return None if row is None else (str(row[0]), json.loads(row[1]))

    def load_made(self, kind: str, subject: str) -> list[tuple[int, Object]]:
        """Return everything of a kind about a subject, the oldest first."""
        rows = self._db.execute(
            "SELECT id, content FROM made WHERE kind = ? AND subject = ? ORDER BY id", (kind, subject)
        )
        return [(int(row[0]), json.loads(row[1])) for row in rows]

    def load_all_made(self, kind: str) -> list[tuple[int, str, Object]]:
        """Return everything of a kind, the oldest first."""
        rows = self._db.execute("SELECT id, subject, content FROM made WHERE kind = ? ORDER BY id", (kind,))
        return [(int(row[0]), str(row[1]), json.loads(row[2])) for row in rows]

    # -- deliveries -------------------------------------------------------------------------------------------------

    def add_delivery(
        self, *, guid: str, event: str, action: str | None, body: bytes, redelivery: bool, now: str
    ) -> int:
        """Queue a delivery; return its id."""
        cursor = self._db.execute(
            "INSERT INTO deliveries (guid, event, action, body, redelivery, created_at) VALUES (?, ?, ?, ?, ?, ?)",
            (guid, event, action, body, int(redelivery), now),
        )
        assert cursor.lastrowid is not None
        self._db.execute("DELETE FROM deliveries WHERE id <= ?", (cursor.lastrowid - DELIVERIES_KEPT,))
        return cursor.lastrowid

    def load_unsent(self, *, at_most: int) -> list[Delivery]:
        """Return the oldest deliveries that were not sent yet, in order."""
        rows = self._db.execute(
            f"SELECT {_DELIVERY} FROM deliveries WHERE delivered_at IS NULL ORDER BY id LIMIT ?",  # noqa: S608
            (at_most,),
        )
        return [_delivery(row) for row in rows]

    def load_delivery(self, number: int) -> Delivery | None:
        """Return a delivery, or None."""
        row = self._db.execute(f"SELECT {_DELIVERY} FROM deliveries WHERE id = ?", (number,)).fetchone()  # noqa: S608
        return None if row is None else _delivery(row)

    def load_deliveries(self, *, before: int | None, limit: int) -> list[Delivery]:
        """Return deliveries, the newest first; with `before` only those with a smaller id."""
        rows = self._db.execute(
            f"SELECT {_DELIVERY} FROM deliveries WHERE ? IS NULL OR id < ? ORDER BY id DESC LIMIT ?",  # noqa: S608
            (before, before, limit),
        )
        return [_delivery(row) for row in rows]

    def record_sent(self, delivery: Delivery, *, at: str, duration_s: float, status: str, status_code: int) -> None:
        """Record how a delivery went."""
        self._db.execute(
            "UPDATE deliveries SET delivered_at = ?, duration_s = ?, status = ?, status_code = ? WHERE id = ?",
            (at, duration_s, status, status_code, delivery.id),
        )


def closed(pull: Pull, *, now: str, merge_commit_sha: str | None = None) -> Pull:
    """Return a pull request as it is once it was closed, or merged by a commit."""
    return replace(
        pull,
        is_open=False,
        updated_at=now,
        closed_at=now,
        merged_at=None if merge_commit_sha is None else now,
        merge_commit_sha=merge_commit_sha,
    )


def _pull(row: sqlite3.Row) -> Pull:
    number, title, body, head_branch, head_sha, base_branch, base_sha, origin, is_open, *instants = row
    created_at, updated_at, closed_at, merged_at, merge_commit_sha, extra = instants
    more = json.loads(extra)
    return Pull(
        number=number,
        title=title,
        body=body,
        head_branch=head_branch,
        head_sha=head_sha,
        base_branch=base_branch,
        base_sha=base_sha,
        origin=origin,
        is_open=bool(is_open),
        created_at=created_at,
        updated_at=updated_at,
        closed_at=closed_at,
        merged_at=merged_at,
        merge_commit_sha=merge_commit_sha,
        labels=tuple(more.get("labels", ())),
        is_draft=more.get("draft", False),
        author=more.get("author", ""),
    )


def _status(row: sqlite3.Row) -> Status:
    number, sha, state, context, description, target_url, created_at = row
    return Status(
        id=number,
        sha=sha,
        state=state,
        context=context,
        description=description,
        target_url=target_url,
        created_at=created_at,
    )


def _delivery(row: sqlite3.Row) -> Delivery:
    number, guid, event, action, body, redelivery, created_at, delivered_at, duration_s, status, status_code = row
    return Delivery(
        id=number,
        guid=guid,
        event=event,
        action=action,
        body=body,
        redelivery=bool(redelivery),
        created_at=created_at,
        delivered_at=delivered_at,
        duration_s=duration_s,
        status=status,
        status_code=status_code,
    )
