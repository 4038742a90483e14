"""What Postgres remembers: deliveries, leases, runs, verdicts, reports. The only module of the controller with SQL.

Every method is one transaction and safe to repeat. Writes of the worker carry its epoch and compare it with the
`workers` row inside the same transaction, so a worker that was paused, partitioned or doubled changes nothing after
another one took over (`LostEpoch`). A database that does not answer is `Unavailable`; the next call connects again.
One `Store` may be shared by threads: a lock keeps one transaction at a time on its connection.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, LiteralString

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb

from controller.decisions.commands import Lately
from controller.decisions.forget import EndedRun
from controller.decisions.github.limits import Pace, Quiet
from controller.decisions.github.repository import Repository
from controller.decisions.github.sweep import LOG_KEPT, Missed
from controller.decisions.holds import freeze_from_json, freeze_to_json
from controller.decisions.report_checks import STEPS_MAX, JournalStep, Story
from controller.decisions.slots import SLOT_REMOVED
from controller.decisions.standings import Judged, ProductionHistory, ProductionRun, Standing, describe_origin
from controller.model.config import Freeze
from controller.model.errors import Refused, Stalled, Unavailable, Waiting
from controller.model.names import Colour, Domain, Sha, SlotName, TreeId
from controller.model.nouns import (
    RERUN_TARGET,
    WRITERS,
    CommandAnswer,
    Drift,
    Head,
    HoldOrder,
    Lease,
    Live,
    OpenDrift,
    Override,
    PreviewOrder,
    Proven,
    PullRequest,
    Quarantined,
    Release,
    Retry,
    Run,
    Signature,
    Stop,
    Trouble,
    Verdict,
)
from controller.model.reports import FORGE_SURFACES, Surface, WantedReport, report_from_json, report_to_json
from controller.model.states import Cause, Outcome, RunState
from controller.model.world import COMMANDS_SHOWN_MAX, RECENT_RUNS_MAX, ForcePush, HeadRefused

CONNECT_TIMEOUT_S = 3
STATEMENT_TIMEOUT_MS = 10_000
LOCK_TIMEOUT_MS = 5_000
#: The advisory lock under which migrations are applied.
MIGRATION_LOCK = 0x0B0B_0001
SQL_FOLDER = Path(__file__).resolve().parents[2] / "infra" / "sql"
#: Deliveries that one tick looks at; the rest waits for the next.
PENDING_MAX = 500
#: Ended runs that are looked at for what may be forgotten.
ENDED_RUNS_MAX = 50_000
#: Production's newest runs that tell what releases are; what one was by older runs is in its history.
PRODUCTION_RUNS_MAX = 500
#: Open drifts that one tick knows of.
DRIFTS_MAX = 500
#: Commits of which it is remembered who signed them.
SIGNATURES_KEPT = 50
#: Fetches on behalf of one delivery before it is given up: the resync goes on without it.
LOOKS_MAX = 200
#: GitHub takes 1,000 statuses of one context at a commit, and then no last word either. Beyond so many only ends are
#: told, one an hour, and beyond so many one a day: the rest lasts for more than a year.
SENT_OFTEN = 200
SENT_TOO_OFTEN = 600
PAUSE_OFTEN = timedelta(hours=1)
PAUSE_TOO_OFTEN = timedelta(days=1)
COUNTED_SURFACES: Final[tuple[Surface, ...]] = ("status", "check")


#: Orders about whether anything runs in a slot; the others say which release is to serve.
STOP_KINDS = ("stopped", "restart")


#: Whether the time of one is over is judged by the worker's clock: this one, of the database, only leaves out old ones.
_OPEN_HOLDS: LiteralString = (
    "SELECT * FROM holds WHERE repository_id = %s AND host = %s AND ended_at IS NULL"
    " AND (until IS NULL OR until > now() - interval '1 hour')"
    " AND (fence = 0 OR EXISTS (SELECT 1 FROM leases l WHERE l.fence = holds.fence AND l.ended_at IS NULL)) ORDER BY id"
)
#: A pull request that comes back waits so long, at most, until its last lease is wiped.
WIPE_WAITED_FOR_S = 600.0


class LostEpoch(Stalled):
    """Another worker has taken over this host: this one must end at once and change nothing more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastSweep:
    """How far the forge's log of deliveries was swept."""

    #: The forge's id of our repository, None while it was not told.
    repository_id: int | None
    began_at: datetime | None
    missed: tuple[Missed, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryRow:
    """The repository as the store knows it."""

    id: int
    full_name: str
    production_branch: str | None
    policy_sha: Sha | None
    #: The last head of the production branch that production may move to, and a newer one that it may not.
    accepted_sha: Sha | None
    refused_sha: Sha | None
    refused_reason: str
    #: Of the last valid policy.
    freezes: tuple[Freeze, ...]
    listed_at: datetime | None
    fetched_at: datetime | None
    #: When the last complete reading of comments began.
    comments_read_at: datetime | None
    #: When a receiver last began to serve: deliveries before that may have found nobody.
    receiver_started_at: datetime | None
    #: When a command last asked for a look at the forge.
    look_asked_at: datetime | None
    #: The forge's id of the repository, from the first look on; and of the other one that its name leads to by now.
    forge_id: int | None
    replaced_by: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingDelivery:
    """A delivery that no tick has answered yet."""

    seq: int
    target: str
    sha: Sha | None
    received_at: datetime
    armed_at: datetime
    looks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRow:
    """A slot's history; the host says what it serves."""

    name: SlotName
    provisioned_fence: int
    wiped_fence: int
    ended_fence: int
    #: Until when an order by hand last kept it stopped.
    stopped_at: datetime | None
    lease: Lease | None
    #: The not ended run with its verdicts, and the newest ended ones.
    run: Run | None
    verdicts: tuple[Verdict, ...]
    recent_runs: tuple[Run, ...]
    #: (fence, migration head) of the newest run that migrated the slot's database.
    migrated: tuple[int, str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Everything that the store tells one tick."""

    repository: RepositoryRow
    slots: tuple[SlotRow, ...]
    pulls: tuple[PullRequest, ...]
    waiting_since: tuple[tuple[int, datetime], ...]
    slot_removed: frozenset[int] = frozenset()
    releases: tuple[Release, ...]
    proven: tuple[Proven, ...]
    quarantined: tuple[Quarantined, ...]
    overrides: tuple[Override, ...]
    stops: tuple[Stop, ...]
    retries: tuple[Retry, ...]
    #: See `Observed.commands`.
    commands: tuple[CommandAnswer, ...]
    preview_orders: tuple[PreviewOrder, ...]
    #: What verifying commits came to, the newest.
    signatures: tuple[Signature, ...]
    #: Orders to hold that nobody ended; the time of one may be over.
    holds: tuple[HoldOrder, ...]
    pending: tuple[PendingDelivery, ...]
    #: Reports that are open: each must come to an end.
    open_reports: tuple[WantedReport, ...]
    #: Drifts of which no look has said that they are over.
    drifts: tuple[OpenDrift, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsentReport:
    """A report that was not sent yet as it is wanted."""

    surface: str
    key: str
    wanted: WantedReport
    #: Grows whenever something else is wanted.
    generation: int
    attempts: int
    #: When it was wanted.
    at: datetime
    #: The forge's id of what was made for it before; None: nothing was, as far as we know.
    forge_id: int | None


def migrate(database_url: str, *, folder: Path = SQL_FOLDER) -> tuple[str, ...]:
    """Apply the numbered SQL files that the database has not seen, in order, under a lock; return their names.

    Safe to repeat and to run twice at once. Raises `Stalled` if a file was changed after it was applied."""
    applied: list[str] = []
    try:
        with psycopg.connect(database_url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S) as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", [MIGRATION_LOCK])
            connection.execute(
                "CREATE TABLE IF NOT EXISTS schema_migrations"
                " (name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
            )
            rows = connection.execute("SELECT name, sha256 FROM schema_migrations").fetchall()
            seen: dict[str, str] = dict(rows)
            for file in sorted(folder.glob("[0-9]*.sql")):
                body = file.read_bytes()
                digest = hashlib.sha256(body).hexdigest()
                if file.name in seen:
                    if seen[file.name] != digest:
                        raise Stalled(
                            "MigrationChanged",
                            f"{file.name} was applied to this database with other content; "
                            "restore the file, changes belong in a new one",
                        )
                    continue
                with connection.transaction():
                    connection.execute(body)
                    connection.execute(
                        "INSERT INTO schema_migrations (name, sha256) VALUES (%s, %s)", [file.name, digest]
                    )
                applied.append(file.name)
    except psycopg.OperationalError as error:
        raise _away(error) from error
    return tuple(applied)


def _away(error: psycopg.Error) -> Unavailable:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return Unavailable("DatabaseAway", f"the control plane's database does not answer: {first_line:.200}")


class Store:
    """One connection to the control plane's database, for one repository on one host."""

    def __init__(self, database_url: str, *, repository: str, host: str) -> None:
        self._url = database_url
        self._repository = repository
        self._host = host
        self._lock = threading.RLock()
        self._connection: psycopg.Connection[DictRow] | None = None
        self._repository_id: int | None = None
        #: Set by `register`; a Store without it may read, and write only what commands write.
        self.epoch: int | None = None

    # -- connection -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection; a later call opens a new one."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def shared(self) -> Store:
        """Return another Store with the same epoch and a connection of its own, for background threads."""
        other = Store(self._url, repository=self._repository, host=self._host)
        other.epoch, other._repository_id = self.epoch, self._repository_id
        return other

    @contextmanager
    def _transaction(self, *, fenced: bool = False) -> Iterator[psycopg.Connection[DictRow]]:
        with self._lock:
            try:
                connection = self._connect()
                with connection.transaction():
                    if fenced:
                        self._check_epoch(connection)
                    yield connection
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                self.close()
                raise _away(error) from error

    def _connect(self) -> psycopg.Connection[DictRow]:
        if self._connection is None or self._connection.closed or self._connection.broken:
            self._connection = psycopg.connect(
                self._url,
                autocommit=True,
                row_factory=dict_row,
                connect_timeout=CONNECT_TIMEOUT_S,
                options=(
                    f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={LOCK_TIMEOUT_MS} -c timezone=UTC"
                ),
                application_name="oroboros",
                keepalives_idle=5,
            )
        return self._connection

    def _check_epoch(self, connection: psycopg.Connection[DictRow]) -> None:
        if self.epoch is None:
            raise LostEpoch("NoEpoch", "this store was not registered as a worker's")
        row = connection.execute(
            "SELECT epoch FROM workers WHERE host = %s AND repository_id = %s FOR SHARE", [self._host, self._id()]
        ).fetchone()
        if row is None or row["epoch"] != self.epoch:
            raise LostEpoch("LostEpoch", f"another worker has taken over host {self._host}; this one ends")

    def _id(self) -> int:
        """Return the repository's row id; Unavailable while no worker has registered it."""
        if self._repository_id is None:
            with self._lock:
                try:
                    row = (
                        self._connect()
                        .execute("SELECT id FROM repositories WHERE full_name = %s", [self._repository])
                        .fetchone()
                    )
                except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                    self.close()
                    raise _away(error) from error
            if row is None:
                raise Unavailable(
                    "RepositoryUnknown",
                    f"{self._repository} is not registered yet; the worker does that when it starts",
                )
            self._repository_id = int(row["id"])
        return self._repository_id

    # -- worker -----------------------------------------------------------------------------------------------------

    def register(
        self, *, slots: Sequence[SlotName], boot_id: str, now: datetime, repository_set: str | None = None
    ) -> int:
        """Take over this host as its one worker; return the new epoch.

        Another `repository_set` than before: somebody said anew which repository this is, whatever its id. Writes the
        repository and slot rows if they are missing, and counts an attempt on every run that a former
        worker began and did not end. Safe to repeat: each call is a new epoch."""
        with self._transaction() as connection:
            # The settings follow a rename: so do its rows.
            connection.execute(
                "UPDATE repositories SET full_name = %(name)s, renamed_to = NULL"
                " WHERE lower(renamed_to) = lower(%(name)s) AND NOT EXISTS"
                " (SELECT 1 FROM repositories o WHERE o.full_name = %(name)s)",
                {"name": self._repository},
            )
            connection.execute(
                "INSERT INTO repositories (full_name) VALUES (%s) ON CONFLICT DO NOTHING", [self._repository]
            )
            self._repository_id = None
            repository_id = self._id()
            connection.execute(
                "UPDATE repositories SET forge_id = NULL, replaced_by = NULL, set_as = %(set)s"
                " WHERE id = %(row)s AND %(set)s <> '' AND set_as <> %(set)s",
                {"set": repository_set or "", "row": repository_id},
            )
            row = connection.execute(
                "INSERT INTO workers (host, repository_id, epoch, boot_id, started_at)"
                " VALUES (%s, %s, nextval('generations'), %s, %s)"
                " ON CONFLICT (host, repository_id) DO UPDATE"
                " SET epoch = nextval('generations'), boot_id = excluded.boot_id, started_at = excluded.started_at"
                " RETURNING epoch",
                [self._host, repository_id, boot_id, now],
            ).fetchone()
            assert row is not None
            for slot in slots:
                connection.execute(
                    "INSERT INTO slots (host, name, repository_id) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                    [self._host, slot, repository_id],
                )
            self._leave_slots(connection, slots, now=now)
            connection.execute(
                "UPDATE runs SET attempts = attempts + 1, worker = %s"
                " WHERE host = %s AND repository_id = %s AND ended_at IS NULL AND worker <> %s",
                [boot_id, self._host, repository_id, boot_id],
            )
            self.epoch = int(row["epoch"])
            self._boot_id = boot_id
            return self.epoch

    def _leave_slots(
        self, connection: psycopg.Connection[DictRow], slots: Sequence[SlotName], *, now: datetime
    ) -> None:
        """End what is left of slots that this host has no longer, however it lost them: nobody would look at it."""
        gone: dict[str, object] = {"host": self._host, "r": self._id(), "slots": list(slots), "now": now}
        connection.execute(
            "UPDATE runs SET state = 'superseded', reason = 'LeaseEnded', message = 'this host lost its slot',"
            " ended_at = %(now)s WHERE host = %(host)s AND repository_id = %(r)s AND slot <> ALL(%(slots)s)"
            " AND ended_at IS NULL",
            gone,
        )
        ended = connection.execute(
            "UPDATE leases SET ended_at = %(now)s, end_reason = %(reason)s WHERE host = %(host)s"
            " AND repository_id = %(r)s AND slot <> ALL(%(slots)s) AND ended_at IS NULL"
            " RETURNING slot, pull_request, fence",
            {**gone, "reason": SLOT_REMOVED},
        ).fetchall()
        for row in ended:
            detail: dict[str, object] = {
                "pull_request": row["pull_request"],
                "fence": row["fence"],
                "reason": SLOT_REMOVED,
            }
            self._audit(connection, "lease.ended", row["slot"], detail)

    def check_epoch(self) -> None:
        """Raise `LostEpoch` unless this worker still is the one of its host."""
        with self._transaction(fenced=True):
            pass

    def check_may_switch(self, generation: int) -> None:
        """Raise unless this worker is the one of its host, the run is not ended, and its lease is alive.

        Called with the slot's lock held, right before the rename: the fence of the switch."""
        with self._transaction(fenced=True) as connection:
            row = connection.execute(
                "SELECT r.ended_at IS NULL AND (r.fence = 0 OR l.ended_at IS NULL) AS may"
                " FROM runs r LEFT JOIN leases l ON l.fence = r.fence WHERE r.generation = %s",
                [generation],
            ).fetchone()
            if row is None or not row["may"]:
                raise Waiting("RunOvertaken", f"run {generation} was ended, or its lease was, before the switch")

    # -- what a tick reads ------------------------------------------------------------------------------------------

    def load_history(self) -> History:
        """Return everything that the store tells one tick, in one consistent snapshot."""
        with self._transaction() as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            repository_id, host = self._id(), self._host
            with connection.pipeline():
                q = connection.execute
                repository = q("SELECT * FROM repositories WHERE id = %s", [repository_id])
                # BETWEEN, since Postgres would walk all runs or leases from the newest for a slot that has none: with
                # an equality it takes the primary key's order for as good as that of the slot's own index.
                slots = q(
                    "SELECT s.*, coalesce((SELECT fence FROM leases l WHERE l.host = s.host"
                    " AND l.slot BETWEEN s.name AND s.name AND l.ended_at IS NOT NULL"
                    " ORDER BY l.slot, fence DESC LIMIT 1), 0) AS ended_fence,"
                    " (SELECT max(coalesce(ended_at, at)) FROM overrides o WHERE o.host = s.host AND o.slot = s.name"
                    " AND o.kind IN ('stopped', 'restart')) AS stopped_at"
                    " FROM slots s WHERE host = %s AND repository_id = %s",
                    [host, repository_id],
                )
                leases = q(
                    "SELECT * FROM leases WHERE host = %s AND repository_id = %s AND ended_at IS NULL",
                    [host, repository_id],
                )
                runs = q(
                    "SELECT r.* FROM slots s CROSS JOIN LATERAL (SELECT * FROM runs r WHERE r.host = s.host"
                    " AND r.slot BETWEEN s.name AND s.name ORDER BY r.slot, generation DESC LIMIT %s) r"
                    " WHERE s.host = %s AND s.repository_id = %s",
                    [RECENT_RUNS_MAX + 1, host, repository_id],
                )
                migrated = q(
                    "SELECT r.* FROM slots s CROSS JOIN LATERAL (SELECT slot, fence, migration_head FROM runs r"
                    " WHERE r.host = s.host AND r.slot BETWEEN s.name AND s.name AND r.migrated"
                    " ORDER BY r.slot, generation DESC LIMIT 1) r"
                    " WHERE s.host = %s AND s.repository_id = %s",
                    [host, repository_id],
                )
                pulls = q(
                    "SELECT p.*, p.waiting_since IS NOT NULL AND %(removed)s = (SELECT end_reason FROM leases l"
                    " WHERE l.repository_id = p.repository_id AND l.pull_request = p.number AND NOT l.in_queue"
                    " ORDER BY fence DESC LIMIT 1) AS slot_removed FROM pull_requests p"
                    " WHERE p.repository_id = %(r)s AND p.state = 'open' ORDER BY p.number",
                    {"removed": SLOT_REMOVED, "r": repository_id},
                )
                releases = q(
                    "SELECT * FROM releases WHERE repository_id = %s AND host = %s AND state = 'published'",
                    [repository_id, host],
                )
                proven = q(
                    "SELECT r.* FROM releases x CROSS JOIN LATERAL (SELECT DISTINCT ON (r.domain) r.domain, r.release,"
                    " r.tree, r.generation, r.ended_at, r.migration_head FROM runs r"
                    " WHERE r.repository_id = x.repository_id AND r.host = x.host AND r.release = x.sha AND r.proven"
                    " ORDER BY r.domain, r.generation DESC) r"
                    " WHERE x.repository_id = %s AND x.host = %s ORDER BY r.domain, r.release",
                    [repository_id, host],
                )
                quarantined = q(
                    "SELECT * FROM quarantine WHERE repository_id = %s AND lifted_at IS NULL", [repository_id]
                )
                retries = q("SELECT domain, sha, at FROM retries WHERE repository_id = %s", [repository_id])
                overrides = q("SELECT * FROM overrides WHERE host = %s AND ended_at IS NULL", [host])
                preview_orders = q(
                    "SELECT * FROM preview_orders WHERE repository_id = %s AND ended_at IS NULL ORDER BY id",
                    [repository_id],
                )
                holds = q(_OPEN_HOLDS, [repository_id, host])
                signatures = q(
                    "SELECT * FROM commit_signatures WHERE repository_id = %s AND host = %s"
                    " ORDER BY checked_at DESC LIMIT %s",
                    [repository_id, host, SIGNATURES_KEPT],
                )
                commands = q(
                    "WITH told AS (SELECT number FROM pull_requests WHERE repository_id = %(r)s"
                    "  AND (state = 'open' OR listed_at > now() - interval '1 day')"
                    "  UNION SELECT pull_request FROM comment_commands WHERE repository_id = %(r)s AND is_shown"
                    "  AND decided_at > now() - interval '1 day')"
                    " SELECT * FROM (SELECT c.*, row_number() OVER (PARTITION BY c.pull_request,"
                    " c.permission = ANY(%(writers)s) ORDER BY c.decided_at DESC, c.comment_id DESC) AS place"
                    " FROM told JOIN comment_commands c ON c.pull_request = told.number"
                    " JOIN repositories r ON r.id = c.repository_id LEFT JOIN pull_requests p"
                    " ON p.repository_id = c.repository_id AND p.number = c.pull_request"
                    " WHERE r.id = %(r)s AND c.is_shown AND (p.state = 'open' OR (c.decided_at < r.listed_at"
                    "  AND (p.listed_at > now() - interval '1 day' OR EXISTS (SELECT 1 FROM comment_commands d"
                    "   WHERE d.repository_id = r.id AND d.pull_request = c.pull_request AND d.is_shown"
                    "   AND d.decided_at > now() - interval '1 day'))))) one"
                    " WHERE place <= %(at_most)s ORDER BY decided_at, comment_id",
                    {"r": repository_id, "writers": list(WRITERS), "at_most": COMMANDS_SHOWN_MAX},
                )
                pending = q(
                    "SELECT seq, target, sha, received_at, armed_at, looks FROM deliveries"
                    " WHERE state = 'pending' ORDER BY seq LIMIT %s",
                    [PENDING_MAX],
                )
                open_reports = q(
                    "SELECT surface, wanted FROM reports WHERE repository_id = %s AND is_open", [repository_id]
                )
                drifts = q(
                    "SELECT * FROM drifts WHERE repository_id = %s AND host = %s AND ended_at IS NULL ORDER BY id"
                    " LIMIT %s",
                    [repository_id, host, DRIFTS_MAX],
                )
            first = repository.fetchone()
            assert first is not None
            lease_rows = {row["slot"]: _lease(row) for row in leases.fetchall()}
            run_rows = runs.fetchall()
            migrated_rows = {
                row["slot"]: (int(row["fence"]), str(row["migration_head"])) for row in migrated.fetchall()
            }
            pull_rows, order_rows = pulls.fetchall(), overrides.fetchall()
            return History(
                repository=_repository(first),
                slots=tuple(
                    _slot(
                        row,
                        lease=lease_rows.get(row["name"]),
                        runs=[r for r in run_rows if r["slot"] == row["name"]],
                        migrated=migrated_rows.get(row["name"]),
                    )
                    for row in slots.fetchall()
                ),
                pulls=tuple(_pull(row) for row in pull_rows),
                waiting_since=tuple(
                    (row["number"], row["waiting_since"]) for row in pull_rows if row["waiting_since"] is not None
                ),
                slot_removed=frozenset(row["number"] for row in pull_rows if row["slot_removed"]),
                releases=tuple(_release(row) for row in releases.fetchall()),
                proven=tuple(
                    Proven(
                        domain=Domain(row["domain"]),
                        sha=Sha(row["release"]),
                        tree=TreeId(row["tree"]),
                        generation=row["generation"],
                        proven_at=row["ended_at"],
                        migration_head=row["migration_head"],
                    )
                    for row in proven.fetchall()
                ),
                quarantined=tuple(_quarantined(row) for row in quarantined.fetchall()),
                overrides=tuple(_override(row) for row in order_rows if row["kind"] not in STOP_KINDS),
                retries=tuple(
                    Retry(domain=Domain(row["domain"]), sha=Sha(row["sha"]), at=row["at"]) for row in retries.fetchall()
                ),
                signatures=tuple(_signature(row) for row in signatures.fetchall()),
                holds=tuple(_hold(row) for row in holds.fetchall()),
                stops=tuple(_stop(row) for row in order_rows if row["kind"] in STOP_KINDS),
                commands=tuple(_command(row) for row in commands.fetchall()),
                preview_orders=tuple(_preview_order(row) for row in preview_orders.fetchall()),
                pending=tuple(_pending(row) for row in pending.fetchall()),
                open_reports=tuple(report_from_json(row["surface"], row["wanted"]) for row in open_reports.fetchall()),
                drifts=tuple(_drift(row) for row in drifts.fetchall()),
            )

    def load_run(self, generation: int) -> Run | None:
        """Return one run, or None."""
        with self._transaction() as connection:
            row = connection.execute("SELECT * FROM runs WHERE generation = %s", [generation]).fetchone()
            return None if row is None else _run(row)

    # -- what people say in comments ----------------------------------------------------------------------------------

    def load_preview_orders(self) -> tuple[PreviewOrder, ...]:
        """Return what people said of single previews, as long as it counts."""
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT * FROM preview_orders WHERE repository_id = %s AND ended_at IS NULL ORDER BY id", [self._id()]
            ).fetchall()
            return tuple(_preview_order(row) for row in rows)

    def load_comments_since(self) -> datetime:
        """Return until when, by the forge's clock, comments were read; before the first time, when we came."""
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT comments_since, created_at FROM repositories WHERE id = %s", [self._id()]
            ).fetchone()
            assert row is not None
            since: datetime = row["comments_since"] or row["created_at"]
            return since

    def record_comments_read(self, *, since: datetime, began_at: datetime | None) -> None:
        """Comments that changed before `since` were read; with `began_at` every one that was there then."""
        with self._transaction(fenced=True) as connection:
            connection.execute(
                "UPDATE repositories SET comments_since = greatest(comments_since, %s),"
                " comments_read_at = greatest(comments_read_at, %s) WHERE id = %s",
                [since, began_at, self._id()],
            )

    def load_answered(self, comment_ids: Sequence[int]) -> frozenset[int]:
        """Return which of these comments were answered already."""
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT comment_id FROM comment_commands WHERE repository_id = %s AND comment_id = ANY(%s)",
                [self._id(), list(comment_ids)],
            ).fetchall()
            return frozenset(int(row["comment_id"]) for row in rows)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make what is written within one transaction: all of it, or nothing."""
        with self._transaction(fenced=True):
            yield

    def record_preview_order(self, order: PreviewOrder, *, ends: Sequence[str], now: datetime) -> None:
        """Write what somebody said of a preview; it ends what was said before, of these kinds."""
        with self._transaction(fenced=True) as connection:
            self._end_preview_orders(connection, order.pull_request, ends, actor=order.actor, now=now)
            connection.execute(
                "INSERT INTO preview_orders (repository_id, pull_request, kind, sha, base_branch, actor, comment_id,"
                " at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                [
                    self._id(),
                    order.pull_request,
                    order.kind,
                    order.sha or "",
                    order.base_branch,
                    order.actor,
                    order.comment_id,
                    now,
                ],
            )

    def end_preview_orders(self, pull_request: int, kinds: Sequence[str], *, actor: str, now: datetime) -> None:
        """End what was said of a preview. Safe to repeat."""
        with self._transaction(fenced=True) as connection:
            self._end_preview_orders(connection, pull_request, kinds, actor=actor, now=now)

    def _end_preview_orders(
        self,
        connection: psycopg.Connection[DictRow],
        pull_request: int,
        kinds: Sequence[str],
        *,
        actor: str,
        now: datetime,
    ) -> None:
        connection.execute(
            "UPDATE preview_orders SET ended_at = %s, end_reason = %s"
            " WHERE repository_id = %s AND pull_request = %s AND kind = ANY(%s) AND ended_at IS NULL",
            [now, f"replaced by {actor}", self._id(), pull_request, list(kinds)],
        )

    def record_command(self, answer: CommandAnswer, *, verb: str, argument: str, is_shown: bool) -> None:
        """Write what became of a command, once, with its line in the audit."""
        with self._transaction(fenced=True) as connection:
            written = connection.execute(
                "INSERT INTO comment_commands (repository_id, comment_id, pull_request, author, permission, verb,"
                " argument, sha, state, reason, message, commented_at, decided_at, is_shown)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                [
                    self._id(),
                    answer.comment_id,
                    answer.pull_request,
                    answer.author,
                    answer.permission,
                    verb,
                    argument,
                    answer.sha or "",
                    answer.state,
                    answer.reason,
                    answer.message,
                    answer.commented_at,
                    answer.decided_at,
                    is_shown,
                ],
            ).rowcount
            if written:
                detail: dict[str, object] = {
                    "said": answer.said,
                    "comment": answer.comment_id,
                    "permission": answer.permission,
                    "sha": answer.sha,
                    "state": answer.state,
                    "reason": answer.reason,
                    "message": answer.message,
                }
                self._audit(connection, f"comment.{verb}", f"#{answer.pull_request}", detail, actor=answer.author)

    def load_story(self, generation: int) -> Story | None:
        """Return what was kept of one run for people to read, or None."""
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT * FROM runs WHERE generation = %s AND repository_id = %s", [generation, self._id()]
            ).fetchone()
            if row is None:
                return None
            steps = connection.execute(
                "SELECT step, began_at, ended_at, error FROM run_steps WHERE generation = %s ORDER BY id LIMIT %s",
                [generation, STEPS_MAX],
            ).fetchall()
            return Story(run=_run(row), steps=tuple(JournalStep(**one) for one in steps), verdicts=_verdicts(row))

    def count_of_strangers(self, author: str, *, since: datetime) -> Lately:
        """Return how many commands of those who may not write were judged since then."""
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT count(*) AS of_all, count(*) FILTER (WHERE author = %s) AS of_author FROM comment_commands"
                " WHERE repository_id = %s AND decided_at >= %s AND permission <> ALL(%s)",
                [author, self._id(), since, list(WRITERS)],
            ).fetchone()
            assert row is not None
            return Lately(of_author=row["of_author"], of_all=row["of_all"])

    # -- refresh (fetch and listing) --------------------------------------------------------------------------------

    def record_looks(self, seqs: Sequence[int]) -> None:
        """Count a fetch on behalf of these deliveries; one that was looked at too often is given up."""
        with self._transaction(fenced=True) as connection:
            connection.execute(
                "UPDATE deliveries SET looks = looks + 1,"
                " state = CASE WHEN looks + 1 > %s THEN 'dead' ELSE state END,"
                " reason = CASE WHEN looks + 1 > %s THEN 'looked at too often; the resync goes on' ELSE reason END"
                " WHERE seq = ANY(%s) AND state = 'pending'",
                [LOOKS_MAX, LOOKS_MAX, list(seqs)],
            )

    def record_listing(self, pulls: Iterable[PullRequest], *, began_at: datetime) -> bool:
        """Write a complete listing of the open pull requests; those not in it are closed.

        The loop writes these, and the maintenance job that asked the forge itself. One that began before the listing
        that is written already is left out: False."""
        with self._transaction(fenced=self.epoch is not None) as connection:
            repository_id = self._id()
            row = connection.execute(
                "SELECT listed_at FROM repositories WHERE id = %s FOR NO KEY UPDATE", [repository_id]
            ).fetchone()
            if row is not None and row["listed_at"] is not None and row["listed_at"] > began_at:
                return False
            numbers: list[int] = []
            for pull in pulls:
                numbers.append(pull.number)
                connection.execute(
                    "INSERT INTO pull_requests (repository_id, number, state, head_sha, head_branch, title, author,"
                    " same_repository, opened_at, labels, is_draft, base_branch, author_is_bot, listed_at)"
                    " VALUES (%s, %s, 'open', %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
                    " ON CONFLICT (repository_id, number) DO UPDATE SET"
                    " waiting_since = CASE WHEN pull_requests.state = 'open' THEN pull_requests.waiting_since END,"
                    " state = 'open', head_sha = excluded.head_sha, head_branch = excluded.head_branch,"
                    " title = excluded.title, author = excluded.author, same_repository = excluded.same_repository,"
                    " opened_at = excluded.opened_at, labels = excluded.labels, is_draft = excluded.is_draft,"
                    " base_branch = excluded.base_branch, author_is_bot = excluded.author_is_bot,"
                    " listed_at = excluded.listed_at",
                    [
                        repository_id,
                        pull.number,
                        pull.head_sha,
                        pull.head_branch,
                        pull.title,
                        pull.author,
                        pull.same_repository,
                        pull.opened_at,
                        list(pull.labels),
                        pull.is_draft,
                        pull.base_branch,
                        pull.author_is_bot,
                        began_at,
                    ],
                )
                # The first listing misses nothing: there was nobody to tell before.
                connection.execute(
                    "INSERT INTO refs_seen (repository_id, ref, sha, by_webhook)"
                    " VALUES (%(r)s, %(ref)s, %(sha)s, %(first)s OR EXISTS"
                    "  (SELECT 1 FROM deliveries WHERE sha = %(sha)s)) ON CONFLICT DO NOTHING",
                    {
                        "r": repository_id,
                        "ref": f"pull:{pull.number}",
                        "sha": pull.head_sha,
                        "first": row is None or row["listed_at"] is None,
                    },
                )
            connection.execute(
                "UPDATE pull_requests SET state = 'closed', waiting_since = NULL, listed_at = %s"
                " WHERE repository_id = %s AND state = 'open' AND number <> ALL(%s)",
                [began_at, repository_id, numbers],
            )
            connection.execute(
                "UPDATE preview_orders o SET ended_at = %s, end_reason ="
                " CASE WHEN p.state <> 'open' THEN 'closed' WHEN p.head_sha <> o.sha THEN 'the head moved'"
                "  ELSE 'the base branch changed' END"
                " FROM pull_requests p WHERE p.repository_id = o.repository_id AND p.number = o.pull_request"
                " AND o.repository_id = %s AND o.ended_at IS NULL AND o.at <= %s AND (p.state <> 'open'"
                "  OR (o.kind = 'approval' AND (p.head_sha, p.base_branch) <> (o.sha, o.base_branch)))",
                [began_at, repository_id, began_at],
            )
            connection.execute("UPDATE repositories SET listed_at = %s WHERE id = %s", [began_at, repository_id])
            return True

    def ask_for_look(self, *, now: datetime) -> None:
        """Have the worker list and fetch again: looks that began before now do not count. Safe to repeat."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE repositories SET look_asked_at = greatest(look_asked_at, %s) WHERE id = %s", [now, self._id()]
            )

    def record_fetch(
        self,
        *,
        production: Head | None,
        ref: str,
        refused: Sequence[tuple[int, str, str]],
        began_at: datetime,
    ) -> None:
        """Write that a fetch begun at `began_at` ended well, what the production branch was found at, and which pull
        requests (number, reason, message) git would not take by their own fault."""
        with self._transaction(fenced=True) as connection:
            repository_id = self._id()
            connection.execute(
                "UPDATE pull_requests SET refused_reason = '', refused_message = ''"
                " WHERE repository_id = %s AND refused_reason <> '' AND number <> ALL(%s)",
                [repository_id, [number for number, _, _ in refused]],
            )
            for number, reason, message in refused:
                connection.execute(
                    "UPDATE pull_requests SET refused_reason = %s, refused_message = %s"
                    " WHERE repository_id = %s AND number = %s",
                    [reason, message, repository_id, number],
                )
            connection.execute(
                "UPDATE repositories SET fetched_at = %s, fetch_ended_at = clock_timestamp() WHERE id = %s",
                [began_at, repository_id],
            )
            if production is not None:
                # The first look at a branch misses nothing: there was nobody to tell before.
                connection.execute(
                    "INSERT INTO refs_seen (repository_id, ref, sha, by_webhook)"
                    " VALUES (%(r)s, %(ref)s, %(sha)s,"
                    "  NOT EXISTS (SELECT 1 FROM refs_seen WHERE repository_id = %(r)s AND ref = %(ref)s)"
                    "  OR EXISTS (SELECT 1 FROM deliveries WHERE sha = %(sha)s))"
                    " ON CONFLICT DO NOTHING",
                    {"r": repository_id, "ref": ref, "sha": production.sha},
                )

    def load_troubles(self) -> tuple[Trouble, ...]:
        """Return what this host's worker tried in vain when it last wrote."""
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT subject, reason, message, since, last_at, tries, passes, again_by, sha FROM troubles"
                " WHERE repository_id = %s AND host = %s ORDER BY subject",
                [self._id(), self.host],
            ).fetchall()
        return tuple(Trouble(**row) for row in rows)

    def record_troubles(self, troubles: Sequence[Trouble]) -> None:
        """Write what this worker tries in vain, in place of what was written before."""
        with self._transaction(fenced=True) as connection:
            connection.execute(
                "DELETE FROM troubles WHERE repository_id = %s AND host = %s AND subject <> ALL(%s)",
                [self._id(), self.host, [trouble.subject for trouble in troubles]],
            )
            for trouble in troubles:
                connection.execute(
                    "INSERT INTO troubles (repository_id, host, subject, reason, message, since, last_at, tries,"
                    " passes, again_by, sha) VALUES (%(repository)s, %(host)s, %(subject)s, %(reason)s, %(message)s,"
                    " %(since)s, %(last_at)s, %(tries)s, %(passes)s, %(again_by)s, %(sha)s)"
                    " ON CONFLICT (repository_id, host, subject) DO UPDATE SET reason = excluded.reason,"
                    " message = excluded.message, since = excluded.since, last_at = excluded.last_at,"
                    " tries = excluded.tries, passes = excluded.passes, again_by = excluded.again_by,"
                    " sha = excluded.sha",
                    {**asdict(trouble), "repository": self._id(), "host": self.host},
                )

    def record_branch(self, branch: str) -> None:
        """Remember the forge's default branch as the production branch."""
        with self._transaction(fenced=True) as connection:
            connection.execute("UPDATE repositories SET production_branch = %s WHERE id = %s", [branch, self._id()])

    def record_repository(self, found: Repository) -> None:
        """Remember the forge's id of the repository, which survives a rename, and the name that it has there now; or
        that the name leads to another one, of which nothing else is taken."""
        with self._transaction(fenced=True) as connection:
            values = {"id": found.id, "name": found.full_name, "row": self._id()}
            connection.execute(
                "UPDATE repositories SET forge_id = %(id)s, replaced_by = NULL,"
                " renamed_to = CASE WHEN lower(full_name) = lower(%(name)s) THEN NULL ELSE %(name)s END"
                " WHERE id = %(row)s AND coalesce(forge_id, %(id)s) = %(id)s AND NOT EXISTS"
                " (SELECT 1 FROM repositories o WHERE o.forge_id = %(id)s AND o.id <> %(row)s)",
                values,
            )
            connection.execute(
                "UPDATE repositories SET replaced_by = %(id)s WHERE id = %(row)s AND forge_id <> %(id)s", values
            )

    def was_found_by_resync(self, ref: str, sha: Sha) -> bool:
        """Say whether no delivery ever told of this head.

        The head is in the mirror a moment before its row is written: without a row, it is new to a branch that was
        looked at before."""
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT EXISTS (SELECT 1 FROM refs_seen WHERE repository_id = %(r)s AND ref = %(ref)s)"
                " AND NOT EXISTS (SELECT 1 FROM refs_seen WHERE repository_id = %(r)s AND ref = %(ref)s"
                "  AND sha = %(sha)s AND by_webhook)"
                " AND NOT EXISTS (SELECT 1 FROM deliveries WHERE sha = %(sha)s) AS untold",
                {"r": self._id(), "ref": ref, "sha": sha},
            ).fetchone()
            assert row is not None
            return bool(row["untold"])

    def load_repository(self) -> RepositoryRow:
        """Return the repository as the store knows it."""
        with self._transaction() as connection:
            row = connection.execute("SELECT * FROM repositories WHERE id = %s", [self._id()]).fetchone()
            assert row is not None
            return _repository(row)

    def record_head(
        self, sha: Sha, *, refused: HeadRefused | None, force_push: ForcePush | None, now: datetime
    ) -> None:
        """Remember that production may move to this head, or why it may not; and that it came by force."""
        with self._transaction(fenced=True) as connection:
            if refused is None:
                connection.execute(
                    "UPDATE repositories SET accepted_sha = %s, refused_sha = NULL, refused_reason = '',"
                    " refused_message = '', refused_at = NULL WHERE id = %s",
                    [sha, self._id()],
                )
            else:
                connection.execute(
                    "UPDATE repositories SET refused_sha = %s, refused_reason = %s, refused_message = %s,"
                    " refused_at = %s WHERE id = %s",
                    [sha, refused.reason, refused.message, now, self._id()],
                )
                detail: dict[str, object] = {"reason": refused.reason, "message": refused.message}
                self._audit(connection, "head.refused", sha, detail)
            if force_push is not None:
                moved: dict[str, object] = {
                    "old": force_push.old,
                    "new": force_push.new,
                    "kind": force_push.kind,
                    "outcome": force_push.outcome,
                }
                self._audit(connection, "force_push", sha, moved)

    def record_policy(self, sha: Sha, *, problems: Sequence[str], freezes: Sequence[Freeze] = ()) -> None:
        """Remember the commit of the last valid policy and its freezes, or what is wrong with the newest one."""
        with self._transaction(fenced=True) as connection:
            if problems:
                connection.execute(
                    "UPDATE repositories SET policy_problems = %s WHERE id = %s", [list(problems), self._id()]
                )
            else:
                connection.execute(
                    "UPDATE repositories SET policy_sha = %s, policy_problems = NULL, freezes = %s WHERE id = %s",
                    [sha, Jsonb([freeze_to_json(freeze) for freeze in freezes]), self._id()],
                )

    # -- leases -----------------------------------------------------------------------------------------------------

    def claim_slot(
        self, slot: SlotName, pull_request: int, *, in_queue: bool = False, now: datetime, expires_at: datetime
    ) -> int | None:
        """Give the slot to the pull request, or to its entry in the merge queue; return the fence, or None if either
        is taken (another tick was first).

        None as well while its last lease, in whichever slot, is not wiped: the wipe removes all that was built of the
        pull request, and so would remove a build of this lease while it runs."""
        with self._transaction(fenced=True) as connection:
            row = connection.execute(
                "INSERT INTO leases (repository_id, host, slot, pull_request, in_queue, claimed_at, expires_at)"
                " SELECT %(r)s, %(host)s, %(slot)s, %(pull)s, %(in_queue)s, %(now)s, %(expires_at)s WHERE NOT EXISTS"
                " (SELECT 1 FROM leases l JOIN slots s ON s.host = l.host AND s.name = l.slot"
                "  WHERE l.repository_id = %(r)s AND l.host = %(host)s AND l.pull_request = %(pull)s"
                "  AND l.in_queue = %(in_queue)s AND l.ended_at > %(wiped_by)s AND s.wiped_fence < l.fence)"
                " ON CONFLICT DO NOTHING RETURNING fence",
                {
                    "r": self._id(),
                    "host": self._host,
                    "slot": slot,
                    "pull": pull_request,
                    "in_queue": in_queue,
                    "now": now,
                    "expires_at": expires_at,
                    "wiped_by": now - timedelta(seconds=WIPE_WAITED_FOR_S),
                },
            ).fetchone()
            if row is None:
                return None
            if not in_queue:
                connection.execute(
                    "UPDATE pull_requests SET waiting_since = NULL WHERE repository_id = %s AND number = %s",
                    [self._id(), pull_request],
                )
            self._audit(connection, "lease.claimed", slot, {"pull_request": pull_request, "fence": row["fence"]})
            return int(row["fence"])

    def end_lease(self, fence: int, *, reason: str, now: datetime) -> None:
        """End a lease with its reason. Safe to repeat."""
        with self._transaction(fenced=True) as connection:
            row = connection.execute(
                "UPDATE leases SET ended_at = %s, end_reason = %s WHERE fence = %s AND ended_at IS NULL"
                " RETURNING slot, pull_request",
                [now, reason, fence],
            ).fetchone()
            if row is not None:
                detail: dict[str, object] = {"pull_request": row["pull_request"], "fence": fence, "reason": reason}
                self._audit(connection, "lease.ended", row["slot"], detail)

    def renew_lease(self, fence: int, *, expires_at: datetime) -> None:
        """Move the end of a live lease."""
        with self._transaction(fenced=True) as connection:
            connection.execute(
                "UPDATE leases SET expires_at = %s WHERE fence = %s AND ended_at IS NULL", [expires_at, fence]
            )

    def record_waiting(self, numbers: Sequence[int], *, now: datetime) -> None:
        """Remember since when these pull requests wait; those that wait already keep their place."""
        with self._transaction(fenced=True) as connection:
            connection.execute(
                "UPDATE pull_requests SET waiting_since = %s"
                " WHERE repository_id = %s AND number = ANY(%s) AND waiting_since IS NULL",
                [now, self._id(), list(numbers)],
            )

    def forget_waiting(self, numbers: Sequence[int]) -> None:
        """These pull requests no longer wait: a rule keeps them out. Safe to repeat."""
        with self._transaction(fenced=True) as connection:
            connection.execute(
                "UPDATE pull_requests SET waiting_since = NULL WHERE repository_id = %s AND number = ANY(%s)",
                [self._id(), list(numbers)],
            )

    def load_fences(self, slot: SlotName) -> tuple[int, int]:
        """Return the lease that the slot was made ready for, and the last one of which nothing is left."""
        rows = self.load_rows(
            "SELECT provisioned_fence, wiped_fence FROM slots WHERE host = %s AND name = %s", [self.host, slot]
        )
        return (int(str(rows[0]["provisioned_fence"])), int(str(rows[0]["wiped_fence"]))) if rows else (0, 0)

    def record_provisioned(self, slot: SlotName, fence: int) -> None:
        """The slot is ready for this lease."""
        self._set_slot_fence("UPDATE slots SET provisioned_fence = %s WHERE host = %s AND name = %s", slot, fence)

    def record_wiped(self, slot: SlotName, fence: int) -> None:
        """Nothing of this lease is left. Safe to repeat."""
        with self._transaction(fenced=True) as connection:
            done = connection.execute(
                "UPDATE slots SET wiped_fence = %s WHERE host = %s AND name = %s AND wiped_fence <> %s",
                [fence, self._host, slot, fence],
            )
            if done.rowcount:
                self._audit(connection, "lease.wiped", slot, {"fence": fence})

    def domains_of_lease(self, fence: int) -> tuple[Domain, ...]:
        """Return the domain that a lease served, if it had one run at least."""
        with self._transaction() as connection:
            rows = connection.execute("SELECT DISTINCT domain FROM runs WHERE fence = %s", [fence]).fetchall()
            return tuple(Domain(row["domain"]) for row in rows)

    def _set_slot_fence(self, statement: LiteralString, slot: SlotName, fence: int) -> None:
        with self._transaction(fenced=True) as connection:
            connection.execute(statement, [fence, self._host, slot])

    # -- runs -------------------------------------------------------------------------------------------------------

    def begin_run(
        self,
        *,
        slot: SlotName,
        domain: Domain,
        fence: int,
        head: Head,
        release: Sha,
        cause: Cause,
        colour: Colour,
        fallback: int | None,
        migration_head: str,
        configured: str | None = None,
        now: datetime,
    ) -> int | None:
        """Write a run in state `planned`; return its generation, or None if the slot has a run or lost the lease."""
        with self._transaction(fenced=True) as connection:
            row = connection.execute(
                "INSERT INTO runs (repository_id, host, slot, domain, fence, sha, tree, title, release, cause, state,"
                " colour, worker, fallback, migration_head, configured, begun_at)"
                " SELECT %(r)s, %(host)s, %(slot)s, %(domain)s, %(fence)s, %(sha)s, %(tree)s, %(title)s, %(release)s,"
                " %(cause)s, 'planned', %(colour)s, %(worker)s, %(fallback)s, %(migration)s, %(configured)s,"
                " %(now)s"
                " WHERE %(fence)s = 0 OR EXISTS (SELECT 1 FROM leases WHERE fence = %(fence)s AND ended_at IS NULL)"
                " ON CONFLICT DO NOTHING RETURNING generation",
                {
                    "r": self._id(),
                    "host": self._host,
                    "slot": slot,
                    "domain": domain,
                    "fence": fence,
                    "sha": head.sha,
                    "tree": head.tree,
                    "title": head.title,
                    "release": release,
                    "cause": cause,
                    "colour": colour,
                    "worker": self._boot_id,
                    "fallback": fallback,
                    "migration": migration_head,
                    "configured": configured,
                    "now": now,
                },
            ).fetchone()
            if row is None:
                return None
            generation = int(row["generation"])
            times = connection.execute(
                "SELECT (SELECT max(received_at) FROM deliveries WHERE sha = %s) AS accepted,"
                " fetched_at, fetch_ended_at FROM repositories WHERE id = %s",
                [head.sha, self._id()],
            ).fetchone()
            assert times is not None
            if times["accepted"] is not None:
                self._step(connection, generation, "accepted", times["accepted"], times["accepted"])
                if times["fetched_at"] is not None and times["fetched_at"] >= times["accepted"]:
                    self._step(connection, generation, "fetched", times["fetched_at"], times["fetch_ended_at"])
            self._step(connection, generation, "begun", now, now)
            return generation

    def advance_run(
        self, generation: int, state: RunState, *, now: datetime, watch_until: datetime | None = None
    ) -> None:
        """Move a run on. `watching` also writes that it served since `now`; leaving `migrating`, that it migrated."""
        with self._transaction(fenced=True) as connection:
            connection.execute(
                "UPDATE runs SET"
                " migrated = migrated OR (state = 'migrating' AND %(state)s = 'gating'),"
                " served = served OR %(state)s = 'watching',"
                " switched_at = CASE WHEN %(state)s = 'watching' THEN coalesce(switched_at, %(now)s)"
                "   ELSE switched_at END,"
                " watch_until = CASE WHEN %(state)s = 'watching' THEN coalesce(watch_until, %(until)s)"
                "   ELSE watch_until END,"
                " state = %(state)s WHERE generation = %(generation)s AND ended_at IS NULL",
                {"state": str(state), "now": now, "until": watch_until, "generation": generation},
            )

    def end_run(
        self,
        generation: int,
        state: RunState,
        *,
        reason: str,
        message: str,
        proven: bool,
        successor: str = "",
        switched_back: bool = False,
        now: datetime,
    ) -> None:
        """End a run. Safe to repeat: an ended run stays as it ended."""
        with self._transaction(fenced=True) as connection:
            connection.execute(
                "UPDATE runs SET state = %s, reason = %s, message = %s, successor = %s, switched_back = %s,"
                " proven = proven OR (%s AND served), ended_at = %s WHERE generation = %s AND ended_at IS NULL",
                [str(state), reason, message, successor, switched_back, proven, now, generation],
            )

    def record_verdict(self, verdict: Verdict, *, proof: str = "", now: datetime) -> None:
        """Write what a gate, confirmation, window or checkout said of a run that is not ended.

        The first word of a kind counts: a plan may have acted on it, and a later one changes nothing."""
        statement: LiteralString
        match verdict.kind:
            case "checkout":
                statement = "UPDATE runs SET checkout_verdict = coalesce(checkout_verdict, %(v)s)"
            case "gate":
                statement = (
                    "UPDATE runs SET gate_verdict = coalesce(gate_verdict, %(v)s),"
                    " proof = CASE WHEN gate_verdict IS NULL AND %(proof)s <> '' THEN %(proof)s ELSE proof END"
                )
            case "confirm":
                statement = (
                    "UPDATE runs SET confirm_verdict = coalesce(confirm_verdict, %(v)s),"
                    " confirmed_at = CASE WHEN %(ok)s THEN coalesce(confirmed_at, %(now)s) END"
                )
            case "watch":
                statement = "UPDATE runs SET watch_verdict = coalesce(watch_verdict, %(v)s)"
        about: LiteralString = " WHERE generation = %(g)s AND release = %(release)s AND ended_at IS NULL"
        with self._transaction(fenced=True) as connection:
            connection.execute(
                statement + about,
                {
                    "v": Jsonb(
                        {
                            "outcome": str(verdict.outcome),
                            "reason": verdict.reason,
                            "message": verdict.message,
                            "blames_release": verdict.blames_release,
                        }
                    ),
                    "proof": proof,
                    "ok": verdict.outcome is Outcome.PASS,
                    "now": now,
                    "g": verdict.generation,
                    "release": verdict.release,
                },
            )

    def record_unwell(self, generation: int, services: Sequence[str]) -> None:
        """Write which rows of the host's health were unwell right before a run's switch. The first look counts."""
        with self._transaction(fenced=True) as connection:
            connection.execute(
                "UPDATE runs SET unwell_before = coalesce(unwell_before, %s)"
                " WHERE generation = %s AND ended_at IS NULL",
                [list(services), generation],
            )

    def record_step(
        self,
        generation: int,
        step: str,
        *,
        began_at: datetime,
        ended_at: datetime | None,
        detail: dict[str, object] | None = None,
        error: str = "",
    ) -> None:
        """Add a line to the run's journal, for people to read: it decides nothing."""
        with self._transaction() as connection:
            self._step(connection, generation, step, began_at, ended_at, detail=detail, error=error)

    def _step(
        self,
        connection: psycopg.Connection[DictRow],
        generation: int,
        step: str,
        began_at: datetime,
        ended_at: datetime | None,
        *,
        detail: dict[str, object] | None = None,
        error: str = "",
    ) -> None:
        connection.execute(
            "INSERT INTO run_steps (generation, step, began_at, ended_at, detail, error)"
            " VALUES (%s, %s, %s, %s, %s, %s)",
            [generation, step, began_at, ended_at, Jsonb(detail or {}), error],
        )

    def record_validation(
        self,
        generation: int,
        checks: Sequence[tuple[str, bool, Mapping[str, object]]],
        *,
        artifact: tuple[str, str, int],
        now: datetime,
    ) -> None:
        """Write what checks of a run said (name, passed, detail), and their artifact (kind, path, bytes).

        Safe to repeat: a check of the same name is replaced, and so is the artifact."""
        with self._transaction() as connection:
            known = connection.execute(
                "SELECT 1 FROM runs WHERE generation = %s AND repository_id = %s AND host = %s FOR UPDATE",
                [generation, self._id(), self._host],
            ).fetchone()
            if known is None:
                raise Refused("RunUnknown", f"there is no run {generation} on this host")
            connection.execute(
                "DELETE FROM validation_checks WHERE generation = %s AND name = ANY(%s)",
                [generation, [name for name, _, _ in checks]],
            )
            for name, passed, detail in checks:
                connection.execute(
                    "INSERT INTO validation_checks (generation, name, passed, detail, checked_at)"
                    " VALUES (%s, %s, %s, %s, %s)",
                    [generation, name, passed, Jsonb(detail), now],
                )
            kind, path, size_bytes = artifact
            connection.execute(
                "INSERT INTO run_artifacts (generation, kind, path, bytes, created_at) VALUES (%s, %s, %s, %s, %s)"
                " ON CONFLICT (generation, kind, path) DO UPDATE"
                " SET bytes = excluded.bytes, created_at = excluded.created_at",
                [generation, kind, path, size_bytes, now],
            )

    # -- releases ---------------------------------------------------------------------------------------------------

    def record_release(
        self, *, sha: Sha, tree: TreeId, path: str, files: int | None, size_bytes: int | None, now: datetime
    ) -> None:
        """Write that a release is on the disk. Safe to repeat."""
        with self._transaction(fenced=True) as connection:
            connection.execute(
                "INSERT INTO releases (repository_id, host, sha, tree, state, path, files, bytes, published_at)"
                " VALUES (%s, %s, %s, %s, 'published', %s, %s, %s, %s)"
                " ON CONFLICT (repository_id, host, sha) DO UPDATE SET state = 'published',"
                " published_at = coalesce(releases.published_at, excluded.published_at),"
                " files = coalesce(excluded.files, releases.files), bytes = coalesce(excluded.bytes, releases.bytes)",
                [self._id(), self._host, sha, tree, path, files, size_bytes, now],
            )

    def record_removing(self, shas: Sequence[Sha]) -> None:
        """Write that releases are about to go; from here on nothing chooses them. Safe to repeat."""
        with self._transaction(fenced=True) as connection:
            connection.execute(
                "UPDATE releases SET state = 'removing' WHERE repository_id = %s AND host = %s AND sha = ANY(%s)",
                [self._id(), self._host, list(shas)],
            )

    def load_removing(self) -> tuple[Sha, ...]:
        """Return the releases that are about to go, oldest first."""
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT sha FROM releases WHERE repository_id = %s AND host = %s AND state = 'removing'"
                " ORDER BY published_at, sha",
                [self._id(), self._host],
            ).fetchall()
            return tuple(Sha(row["sha"]) for row in rows)

    def load_production_history(self) -> ProductionHistory:
        """Return what this host's releases and production's runs tell of what each release is."""
        with self._transaction() as connection:
            here = [self._id(), self._host]
            releases = connection.execute(
                "SELECT sha, published_at FROM releases WHERE repository_id = %s AND host = %s", here
            ).fetchall()
            runs = connection.execute(
                "SELECT r.generation, r.release, r.state, r.cause, r.served, r.proven, r.switched_at, r.ended_at,"
                " coalesce(o.actor, '') AS actor, coalesce(o.kind = 'rollback', false) AS is_rollback FROM runs r"
                " LEFT JOIN LATERAL (SELECT actor, kind FROM overrides o WHERE r.cause = 'override'"
                "  AND o.host = r.host AND o.slot = r.slot AND o.sha = r.sha AND o.kind IN ('deploy', 'rollback')"
                "  AND o.at <= r.begun_at ORDER BY o.id DESC LIMIT 1) o ON true"
                " WHERE r.repository_id = %s AND r.host = %s AND r.slot = 'main'"
                " ORDER BY r.generation DESC LIMIT %s",
                [*here, PRODUCTION_RUNS_MAX],
            ).fetchall()
        return ProductionHistory(
            published={Sha(row["sha"]): row["published_at"] for row in releases},
            runs=tuple(_production_run(row) for row in runs),
        )

    def record_standings(self, judged: Mapping[Sha, Judged], *, now: datetime) -> int:
        """Write what releases are to production; what changed joins their history. Return how many changed.

        When a run is forgotten, nothing tells any more since when a release is what it is: what was written stays."""
        with self._transaction(fenced=True) as connection:
            here = {"r": self._id(), "host": self._host, "now": now}
            rows = connection.execute(
                "SELECT sha, standing, standing_since, standing_run, standing_by FROM releases"
                " WHERE repository_id = %(r)s AND host = %(host)s",
                here,
            ).fetchall()
            changed = [
                {**here, "sha": row["sha"], "standing": one.standing, "since": one.since, "run": one.run, "by": one.by}
                for row in rows
                if (one := judged.get(Sha(row["sha"]))) is not None and _became(row, one)
            ]
            with connection.cursor() as cursor:
                cursor.executemany(
                    "WITH became AS (UPDATE releases SET standing = %(standing)s, standing_since = %(since)s,"
                    "  standing_run = %(run)s, standing_by = %(by)s"
                    " WHERE repository_id = %(r)s AND host = %(host)s AND sha = %(sha)s RETURNING sha)"
                    " INSERT INTO release_history (repository_id, host, sha, standing, since, run, ordered_by, at)"
                    " SELECT %(r)s, %(host)s, sha, %(standing)s, %(since)s, %(run)s, %(by)s, %(now)s FROM became",
                    changed,
                )
            return len(changed)

    @contextmanager
    def removing_release(self, sha: Sha) -> Iterator[bool]:
        """Forget a release that is about to go, once the block has taken its name away; False when it is wanted again.

        Whoever publishes it meanwhile writes its row afterwards, and looks at the disk again. Killed in the middle, it
        is about to go still."""
        with self._transaction(fenced=True) as connection:
            row = connection.execute(
                "DELETE FROM releases WHERE repository_id = %s AND host = %s AND sha = %s AND state = 'removing'"
                " RETURNING sha",
                [self._id(), self._host, sha],
            ).fetchone()
            if row is not None:
                connection.execute(
                    "INSERT INTO release_history (repository_id, host, sha, standing, since, ordered_by, at)"
                    " VALUES (%s, %s, %s, %s, now(), 'retention', now())",
                    [self._id(), self._host, sha, Standing.REMOVED],
                )
            yield row is not None

    # -- quarantine and overrides -----------------------------------------------------------------------------------

    def record_quarantine(
        self, *, domain: Domain, tree: TreeId, sha: Sha, reason: str, message: str, now: datetime
    ) -> None:
        """Remember that a tree fails by its own fault. Safe to repeat."""
        with self._transaction(fenced=self.epoch is not None) as connection:
            connection.execute(
                "INSERT INTO quarantine (repository_id, domain, tree, sha, reason, message, at)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                [self._id(), domain, tree, sha, reason, message, now],
            )

    def lift_quarantine(self, *, domain: Domain, tree: TreeId, actor: str, now: datetime) -> None:
        """Let a tree be tried again: an order by hand, or other values of its slot."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE quarantine SET lifted_at = %s, lifted_by = %s"
                " WHERE repository_id = %s AND domain = %s AND tree = %s AND lifted_at IS NULL",
                [now, actor, self._id(), domain, tree],
            )

    def try_anew(self, *, domain: Domain, head: Head, actor: str, now: datetime) -> None:
        """Let a commit be tried again as if it had never failed here. Of a domain the newest counts."""
        self.lift_quarantine(domain=domain, tree=head.tree, actor=actor, now=now)
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO retries (repository_id, domain, sha, actor, at) VALUES (%s, %s, %s, %s, %s)"
                " ON CONFLICT (repository_id, domain) DO UPDATE SET sha = excluded.sha, actor = excluded.actor,"
                " at = excluded.at",
                [self._id(), domain, head.sha, actor, now],
            )

    def record_rerun(
        self, delivery: PendingDelivery, *, actor: str, permission: str, reason: str, message: str, now: datetime
    ) -> None:
        """Write what became of a click on Re-run, "" as the reason of one that was followed; its delivery is done."""
        told = ": ".join(part for part in (reason, message) if part)
        with self._transaction(fenced=True) as connection:
            connection.execute(
                "UPDATE deliveries SET state = 'done', done_at = %s, reason = %s WHERE seq = %s",
                [now, told, delivery.seq],
            )
            detail: dict[str, object] = {
                "permission": permission,
                "state": "refused" if reason else "done",
                "said": told,
                "target": delivery.target,
            }
            self._audit(connection, "check.rerun", delivery.sha or "", detail, actor=actor)

    def load_reruns(self) -> tuple[PendingDelivery, ...]:
        """Return the clicks on Re-run that were not judged yet, the oldest first."""
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT seq, target, sha, received_at, armed_at, looks FROM deliveries"
                " WHERE state = 'pending' AND starts_with(target, %s) ORDER BY seq LIMIT %s",
                [RERUN_TARGET, PENDING_MAX],
            ).fetchall()
            return tuple(_pending(row) for row in rows)

    def record_override(
        self,
        *,
        slot: SlotName,
        kind: str,
        head: Head,
        ordered_at_head: Sha | None,
        accept_migrations: bool,
        actor: str,
        reason: str,
        now: datetime,
        despite_hold: str = "",
    ) -> int:
        """Write an order by hand; it replaces an older one of the slot. Returns its id.

        `despite_hold` says why it goes although the slot is held."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE overrides SET ended_at = %s, end_reason = 'replaced by a newer order'"
                " WHERE host = %s AND slot = %s AND ended_at IS NULL",
                [now, self._host, slot],
            )
            row = connection.execute(
                "INSERT INTO overrides (repository_id, host, slot, kind, sha, tree, title, ordered_at_head,"
                " accept_migrations, actor, reason, at, despite_hold)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
                " RETURNING id",
                [
                    self._id(),
                    self._host,
                    slot,
                    kind,
                    head.sha,
                    head.tree,
                    head.title,
                    ordered_at_head,
                    accept_migrations,
                    actor,
                    reason,
                    now,
                    despite_hold,
                ],
            ).fetchone()
            assert row is not None
            detail: dict[str, object] = {"sha": head.sha, "reason": reason}
            if despite_hold:
                detail["despite_hold"] = despite_hold
            self._audit(connection, f"override.{kind}", slot, detail, actor=actor)
            return int(row["id"])

    def record_stop(
        self, *, slot: SlotName, kind: str, fence: int, live: Live | None, actor: str, reason: str, now: datetime
    ) -> int | None:
        """Write an order that nothing shall run in the slot; it replaces an older one, but none of a release.
        Returns its id; None when the lease that it is about has ended."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE overrides SET ended_at = %s, end_reason = 'replaced by a newer order'"
                " WHERE host = %s AND slot = %s AND kind = ANY(%s) AND ended_at IS NULL",
                [now, self._host, slot, list(STOP_KINDS)],
            )
            row = connection.execute(
                "INSERT INTO overrides (repository_id, host, slot, kind, sha, tree, fence, actor, reason, at)"
                " SELECT %(r)s, %(host)s, %(slot)s, %(kind)s, %(sha)s, %(tree)s, %(fence)s, %(actor)s, %(why)s, %(now)s"
                " WHERE %(fence)s = 0 OR EXISTS (SELECT 1 FROM leases WHERE fence = %(fence)s AND ended_at IS NULL)"
                " RETURNING id",
                {
                    "r": self._id(),
                    "host": self._host,
                    "slot": slot,
                    "kind": kind,
                    # Which release it stops is not the order's business; shown with it is what served then.
                    "sha": (live.release if live is not None else None) or "",
                    "tree": (live.tree if live is not None else None) or "",
                    "fence": fence,
                    "actor": actor,
                    "why": reason,
                    "now": now,
                },
            ).fetchone()
            if row is None:
                return None
            self._audit(connection, f"override.{kind}", slot, {"fence": fence, "reason": reason}, actor=actor)
            return int(row["id"])

    def end_stop(self, slot: SlotName, *, actor: str, now: datetime) -> bool:
        """End the order that nothing shall run in the slot; False when there is none. Safe to repeat."""
        with self._transaction() as connection:
            ended = connection.execute(
                "UPDATE overrides SET ended_at = %s, end_reason = %s"
                " WHERE host = %s AND slot = %s AND kind = ANY(%s) AND ended_at IS NULL",
                [now, f"started by {actor}", self._host, slot, list(STOP_KINDS)],
            ).rowcount
            if ended:
                self._audit(connection, "override.started", slot, {}, actor=actor)
            return ended > 0

    def record_signature(self, found: Signature) -> None:
        """Remember what verifying a commit came to; of each commit the newest, and only the newest commits."""
        with self._transaction(fenced=True) as connection:
            here = {"r": self._id(), "host": self._host, "kept": SIGNATURES_KEPT}
            connection.execute(
                "INSERT INTO commit_signatures (repository_id, host, sha, signers, reason, said, checked_at)"
                " VALUES (%(r)s, %(host)s, %(sha)s, %(signers)s, %(reason)s, %(said)s, %(at)s)"
                " ON CONFLICT (repository_id, host, sha) DO UPDATE SET signers = excluded.signers,"
                " reason = excluded.reason, said = excluded.said, checked_at = excluded.checked_at",
                {
                    **here,
                    "sha": found.sha,
                    "signers": found.signers,
                    "reason": found.reason,
                    "said": found.said,
                    "at": found.checked_at,
                },
            )
            connection.execute(
                "DELETE FROM commit_signatures WHERE repository_id = %(r)s AND host = %(host)s AND sha NOT IN"
                " (SELECT sha FROM commit_signatures WHERE repository_id = %(r)s AND host = %(host)s"
                "  ORDER BY checked_at DESC LIMIT %(kept)s)",
                here,
            )
            detail: dict[str, object] = {"reason": found.reason, "said": found.said}
            self._audit(connection, "signature", found.sha, detail)

    def record_hold(
        self, *, slot: SlotName, fence: int, until: datetime | None, actor: str, reason: str, now: datetime
    ) -> int | None:
        """Write an order that nothing new goes to the slot until then; it replaces one of the same actor, and stands
        beside those of others. Returns its id; None when the lease that it is about has ended."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE holds SET ended_at = %s, ended_by = %s WHERE repository_id = %s AND host = %s AND slot = %s"
                " AND actor = %s AND ended_at IS NULL",
                [now, actor, self._id(), self._host, slot, actor],
            )
            row = connection.execute(
                "INSERT INTO holds (repository_id, host, slot, fence, until, actor, reason, at)"
                " SELECT %(r)s, %(host)s, %(slot)s, %(fence)s, %(until)s, %(actor)s, %(reason)s, %(now)s"
                " WHERE %(fence)s = 0 OR EXISTS (SELECT 1 FROM leases WHERE fence = %(fence)s AND ended_at IS NULL)"
                " RETURNING id",
                {
                    "r": self._id(),
                    "host": self._host,
                    "slot": slot,
                    "fence": fence,
                    "until": until,
                    "actor": actor,
                    "reason": reason,
                    "now": now,
                },
            ).fetchone()
            if row is None:
                return None
            detail: dict[str, object] = {
                "reason": reason,
                "until": None if until is None else until.isoformat(),
                "fence": fence,
            }
            self._audit(connection, "hold", slot, detail, actor=actor)
            return int(row["id"])

    def end_holds(self, slot: SlotName, *, actor: str, now: datetime) -> tuple[HoldOrder, ...]:
        """End every order to hold the slot, whoever gave it; return those whose time was not over. Safe to repeat."""
        with self._transaction() as connection:
            rows = connection.execute(
                "UPDATE holds SET ended_at = %s, ended_by = %s WHERE repository_id = %s AND host = %s AND slot = %s"
                " AND ended_at IS NULL RETURNING *",
                [now, actor, self._id(), self._host, slot],
            ).fetchall()
            ended = [_hold(row) for row in rows if row["until"] is None or row["until"] > now]
            for hold in sorted(ended, key=lambda hold: hold.id):
                self._audit(connection, "unhold", slot, {"reason": hold.reason, "of": hold.actor}, actor=actor)
            return tuple(ended)

    def load_holds(self) -> tuple[HoldOrder, ...]:
        """Return the orders to hold that nobody ended, as they are now."""
        with self._transaction() as connection:
            return tuple(map(_hold, connection.execute(_OPEN_HOLDS, [self._id(), self._host]).fetchall()))

    def end_override(self, override_id: int, *, reason: str, now: datetime) -> None:
        """End an order by hand. Safe to repeat."""
        with self._transaction(fenced=self.epoch is not None) as connection:
            connection.execute(
                "UPDATE overrides SET ended_at = %s, end_reason = %s WHERE id = %s AND ended_at IS NULL",
                [now, reason, override_id],
            )

    # -- what the daily job lets go of ------------------------------------------------------------------------------

    def load_ended_runs(self, *, at_most: int = ENDED_RUNS_MAX) -> tuple[EndedRun, ...]:
        """Return every ended run of this host as far as forgetting it goes, newest first."""
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT generation, slot, domain, fence, sha, release, ended_at, proven, migrated, fallback FROM runs"
                " WHERE repository_id = %s AND host = %s AND ended_at IS NOT NULL ORDER BY generation DESC LIMIT %s",
                [self._id(), self._host, at_most],
            ).fetchall()
            return tuple(
                EndedRun(
                    generation=row["generation"],
                    slot=SlotName(row["slot"]),
                    domain=Domain(row["domain"]),
                    fence=row["fence"],
                    sha=Sha(row["sha"]),
                    release=Sha(row["release"]),
                    ended_at=row["ended_at"],
                    proven=row["proven"],
                    migrated=row["migrated"],
                    fallback=row["fallback"],
                )
                for row in rows
            )

    def load_known_runs(self, generations: Sequence[int]) -> frozenset[int]:
        """Return which of these runs have a row."""
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT generation FROM runs WHERE generation = ANY(%s)", [list(generations)]
            ).fetchall()
            return frozenset(int(row["generation"]) for row in rows)

    def forget_runs(self, generations: Sequence[int]) -> int:
        """Remove ended runs with their journals, checks and artifacts; return how many. Safe to repeat."""
        with self._transaction() as connection:
            return connection.execute(
                "DELETE FROM runs WHERE repository_id = %s AND host = %s AND generation = ANY(%s)"
                " AND ended_at IS NOT NULL",
                [self._id(), self._host, list(generations)],
            ).rowcount

    def forget_deliveries(self, *, before: datetime, keep: int, at_most: int) -> int:
        """Remove deliveries that were answered before then, but the newest `keep`; return how many.

        Never one that is pending. That a head was told of is remembered without its delivery. The same bytes sent
        again afterwards are a new delivery, which is a hint like any other. Safe to repeat, and beside the receiver."""
        with self._transaction() as connection:
            return connection.execute(
                "WITH old AS (SELECT seq, sha FROM deliveries WHERE state <> 'pending'"
                "  AND greatest(received_at, armed_at, done_at) < %(before)s"
                "  AND seq < coalesce((SELECT min(seq) FROM"
                "   (SELECT seq FROM deliveries ORDER BY seq DESC LIMIT %(keep)s) newest), 9223372036854775807)"
                "  ORDER BY seq LIMIT %(at_most)s FOR UPDATE SKIP LOCKED),"
                " told AS (UPDATE refs_seen r SET by_webhook = true FROM old"
                "  WHERE r.sha = old.sha AND NOT r.by_webhook)"
                " DELETE FROM deliveries d USING old WHERE d.seq = old.seq AND d.state <> 'pending'",
                {"before": before, "keep": keep, "at_most": at_most},
            ).rowcount

    def forget_reports(self, *, before: datetime, at_most: int) -> int:
        """Remove reports that were sent before then about commits of which there is no run and no open pull request
        any more, or were refused for good; return how many. Never another that is not sent, or is open."""
        with self._transaction() as connection:
            return connection.execute(
                "DELETE FROM reports WHERE (repository_id, surface, key) IN"
                " (SELECT p.repository_id, p.surface, p.key FROM reports p WHERE p.repository_id = %(r)s"
                "  AND (p.sent_generation = p.generation OR p.stalled) AND p.updated_at < %(before)s"
                "  AND (p.stalled OR NOT p.is_open)"
                "  AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.repository_id = p.repository_id"
                "   AND runs.sha = p.wanted->>'sha')"
                "  AND NOT EXISTS (SELECT 1 FROM pull_requests q WHERE q.repository_id = p.repository_id"
                "   AND q.state = 'open' AND q.head_sha = p.wanted->>'sha')"
                "  ORDER BY p.updated_at LIMIT %(at_most)s)",
                {"r": self._id(), "before": before, "at_most": at_most},
            ).rowcount

    def forget_audit(self, *, before: datetime, at_most: int) -> int:
        """Remove lines of the audit, commands in comments, and drifts and orders about previews that are over, from
        before then; return how many."""
        with self._transaction() as connection:
            lines = connection.execute(
                "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < %s ORDER BY id LIMIT %s)",
                [before, at_most],
            ).rowcount
            drifts = connection.execute(
                "DELETE FROM drifts WHERE id IN (SELECT id FROM drifts WHERE repository_id = %s AND host = %s"
                " AND ended_at < %s ORDER BY id LIMIT %s)",
                [self._id(), self._host, before, at_most],
            ).rowcount
            # The newest comments are read again each time: those that were answered stay known.
            said = connection.execute(
                "DELETE FROM comment_commands WHERE (repository_id, comment_id) IN (SELECT c.repository_id,"
                " c.comment_id FROM comment_commands c JOIN repositories r ON r.id = c.repository_id"
                " WHERE r.id = %(r)s AND c.decided_at < %(before)s"
                " AND c.commented_at < r.comments_since - interval '1 day'"
                " ORDER BY c.comment_id LIMIT %(at_most)s)",
                {"r": self._id(), "before": before, "at_most": at_most},
            ).rowcount
            orders = connection.execute(
                "DELETE FROM preview_orders WHERE id IN (SELECT id FROM preview_orders WHERE repository_id = %s"
                " AND ended_at < %s ORDER BY id LIMIT %s)",
                [self._id(), before, at_most],
            ).rowcount
            return lines + drifts + said + orders

    def forget_standings(self, *, before: datetime, at_most: int) -> int:
        """Remove what was written before then of what releases became; return how many. Rows keep what they are."""
        with self._transaction() as connection:
            return connection.execute(
                "DELETE FROM release_history WHERE id IN (SELECT id FROM release_history WHERE repository_id = %s"
                " AND host = %s AND at < %s ORDER BY id LIMIT %s)",
                [self._id(), self._host, before, at_most],
            ).rowcount

    def forget_orders(self, *, before: datetime, at_most: int) -> int:
        """Remove orders by hand, holds and leases that were over before then; return how many.

        The newest stop and the newest ended lease of a slot stay, since ticks compare with them; so does an order that
        says why a release on the disk was deployed, and a lease that was not wiped yet or that a run still names."""
        with self._transaction() as connection:
            here = {"r": self._id(), "host": self._host, "before": before, "at_most": at_most}
            orders = connection.execute(
                "DELETE FROM overrides WHERE id IN (SELECT o.id FROM overrides o"
                " WHERE o.repository_id = %(r)s AND o.host = %(host)s AND o.ended_at < %(before)s"
                "  AND NOT (o.kind IN ('stopped', 'restart') AND NOT EXISTS (SELECT 1 FROM overrides n"
                "   WHERE n.host = o.host AND n.slot = o.slot AND n.kind IN ('stopped', 'restart')"
                "   AND n.ended_at > o.ended_at))"
                "  AND NOT EXISTS (SELECT 1 FROM releases x WHERE x.repository_id = o.repository_id"
                "   AND x.host = o.host AND x.sha = o.sha AND o.kind IN ('deploy', 'rollback'))"
                "  ORDER BY o.id LIMIT %(at_most)s)",
                here,
            ).rowcount
            holds = connection.execute(
                "DELETE FROM holds WHERE id IN (SELECT h.id FROM holds h"
                " WHERE h.repository_id = %(r)s AND h.host = %(host)s AND (h.ended_at < %(before)s"
                "  OR h.until < %(before)s OR (h.fence <> 0 AND h.at < %(before)s AND NOT EXISTS"
                "   (SELECT 1 FROM leases l WHERE l.fence = h.fence AND l.ended_at IS NULL)))"
                "  ORDER BY h.id LIMIT %(at_most)s)",
                here,
            ).rowcount
            leases = connection.execute(
                "DELETE FROM leases WHERE fence IN (SELECT l.fence FROM leases l JOIN slots s"
                "  ON s.host = l.host AND s.name = l.slot"
                " WHERE l.repository_id = %(r)s AND l.host = %(host)s AND l.ended_at < %(before)s"
                "  AND l.fence < s.wiped_fence"
                "  AND l.fence < (SELECT max(n.fence) FROM leases n WHERE n.host = l.host AND n.slot = l.slot"
                "   AND n.ended_at IS NOT NULL)"
                "  AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.fence = l.fence)"
                "  ORDER BY l.fence LIMIT %(at_most)s)",
                here,
            ).rowcount
            return orders + holds + leases

    def forget_heads(self, *, before: datetime, at_most: int) -> int:
        """Remove pull requests that were closed before then, and heads that were seen before then and are no head any
        more; return how many.

        What production is at, or was refused, stays with how it was found; so does the newest head of each branch and
        of each open pull request."""
        with self._transaction() as connection:
            here = {"r": self._id(), "before": before, "at_most": at_most}
            pulls = connection.execute(
                "DELETE FROM pull_requests WHERE (repository_id, number) IN (SELECT p.repository_id, p.number"
                " FROM pull_requests p WHERE p.repository_id = %(r)s AND p.state = 'closed'"
                "  AND p.listed_at < %(before)s AND NOT EXISTS (SELECT 1 FROM leases l"
                "   WHERE l.repository_id = p.repository_id AND l.pull_request = p.number AND l.ended_at IS NULL)"
                "  ORDER BY p.number LIMIT %(at_most)s)",
                here,
            ).rowcount
            heads = connection.execute(
                "DELETE FROM refs_seen WHERE (repository_id, ref, sha) IN (SELECT f.repository_id, f.ref, f.sha"
                " FROM refs_seen f JOIN repositories r ON r.id = f.repository_id"
                " WHERE f.repository_id = %(r)s AND f.seen_at < %(before)s"
                "  AND f.sha IS DISTINCT FROM r.accepted_sha AND f.sha IS DISTINCT FROM r.refused_sha"
                "  AND NOT EXISTS (SELECT 1 FROM pull_requests p WHERE p.repository_id = f.repository_id"
                "   AND p.state = 'open' AND f.ref = 'pull:' || p.number AND p.head_sha = f.sha)"
                "  AND (f.ref LIKE 'pull:%%' OR EXISTS (SELECT 1 FROM refs_seen n"
                "   WHERE n.repository_id = f.repository_id AND n.ref = f.ref AND n.seen_at > f.seen_at))"
                "  ORDER BY f.seen_at LIMIT %(at_most)s)",
                here,
            ).rowcount
            return pulls + heads

    def forget_quarantines(self, spent: Sequence[Quarantined], *, lifted_before: datetime) -> int:
        """Remove what `decisions.forget` lets go of the quarantine, and what was lifted long ago; return how many."""
        with self._transaction() as connection:
            lifted = connection.execute(
                "DELETE FROM quarantine WHERE repository_id = %s AND lifted_at < %s", [self._id(), lifted_before]
            ).rowcount
            return (
                lifted
                + connection.execute(
                    "DELETE FROM quarantine q"
                    " USING unnest(%s::text[], %s::text[], %s::timestamptz[]) AS t (domain, tree, at)"
                    " WHERE q.repository_id = %s AND (q.domain, q.tree, q.at) = (t.domain, t.tree, t.at)"
                    " AND q.lifted_at IS NULL",
                    [[q.domain for q in spent], [q.tree for q in spent], [q.at for q in spent], self._id()],
                ).rowcount
            )

    # -- drift ------------------------------------------------------------------------------------------------------

    def record_drifts(
        self, found: Sequence[Drift], *, looked_at: Collection[str], unknown: Collection[str] = (), now: datetime
    ) -> tuple[Drift, ...]:
        """Write what a look found, and that what it no longer found is over; return what is new.

        `looked_at` are the reasons that the look was about, `unknown` the subjects that it could not see. Safe to
        repeat: a drift that is open stays the one row."""
        new: list[Drift] = []
        with self._transaction(fenced=True) as connection:
            here = {"r": self._id(), "host": self._host, "now": now}
            connection.execute(
                "UPDATE drifts SET ended_at = %(now)s WHERE repository_id = %(r)s AND host = %(host)s"
                " AND ended_at IS NULL AND reason = ANY(%(looked_at)s) AND subject <> ALL(%(unknown)s)"
                " AND (reason, subject) NOT IN (SELECT * FROM unnest(%(reasons)s::text[], %(subjects)s::text[]))",
                {
                    **here,
                    "looked_at": list(looked_at),
                    "unknown": list(unknown),
                    "reasons": [drift.reason for drift in found],
                    "subjects": [drift.subject for drift in found],
                },
            )
            for drift in found:
                row = connection.execute(
                    "INSERT INTO drifts (repository_id, host, reason, slot, subject, message, handling, found_at)"
                    " VALUES (%(r)s, %(host)s, %(reason)s, %(slot)s, %(subject)s, %(message)s, %(handling)s, %(now)s)"
                    " ON CONFLICT (repository_id, host, reason, subject) WHERE ended_at IS NULL"
                    " DO UPDATE SET handling = excluded.handling, message = excluded.message"
                    " RETURNING xmax = 0 AS is_new",
                    {
                        **here,
                        "reason": drift.reason,
                        "slot": drift.slot,
                        "subject": drift.subject,
                        "message": drift.message,
                        "handling": drift.handling,
                    },
                ).fetchone()
                if row is not None and row["is_new"]:
                    new.append(drift)
                    detail: dict[str, object] = {
                        "reason": drift.reason,
                        "slot": drift.slot,
                        "message": drift.message,
                        "handling": drift.handling,
                    }
                    self._audit(connection, "drift", drift.subject, detail)
        return tuple(new)

    def order_heal(self, *, actor: str, now: datetime) -> tuple[OpenDrift, ...]:
        """Order every drift that is held to be healed; return them. Safe to repeat."""
        with self._transaction() as connection:
            rows = connection.execute(
                "UPDATE drifts SET heal_ordered_at = coalesce(heal_ordered_at, %s),"
                " heal_ordered_by = CASE WHEN heal_ordered_at IS NULL THEN %s ELSE heal_ordered_by END"
                " WHERE repository_id = %s AND host = %s AND ended_at IS NULL AND handling = 'held' RETURNING *",
                [now, actor, self._id(), self._host],
            ).fetchall()
            for row in rows:
                self._audit(connection, "drift.heal", row["subject"], {"reason": row["reason"]}, actor=actor)
            return tuple(_drift(row) for row in sorted(rows, key=lambda row: int(row["id"])))

    # -- reports and deliveries at the end of a tick ----------------------------------------------------------------

    def record_tick(self, reports: Sequence[WantedReport], *, done: Sequence[int], now: datetime) -> int:
        """Write the wanted reports that changed, and the deliveries that this tick answered, in one transaction.

        Returns how many reports changed."""
        changed = 0
        if not reports and not done:
            return 0
        with self._transaction(fenced=True) as connection:
            if reports:
                changed = connection.execute(
                    "INSERT INTO reports (repository_id, surface, key, wanted, is_open, generation, updated_at)"
                    " SELECT %(r)s, t.surface, t.key, t.wanted::jsonb, t.is_open, 1, %(now)s"
                    " FROM unnest(%(surfaces)s::text[], %(keys)s::text[], %(wanted)s::text[], %(open)s::boolean[])"
                    "  AS t (surface, key, wanted, is_open)"
                    " ON CONFLICT (repository_id, surface, key) DO UPDATE SET wanted = excluded.wanted,"
                    " is_open = excluded.is_open,"
                    " generation = reports.generation + 1, attempts = 0, retry_at = NULL, stalled = false, error = '',"
                    " updated_at = excluded.updated_at"
                    # The same words about a newer run are not said again.
                    " WHERE reports.wanted - 'generation' <> excluded.wanted - 'generation'"
                    " AND (reports.wanted->>'generation')::bigint <= (excluded.wanted->>'generation')::bigint",
                    {
                        "r": self._id(),
                        "now": now,
                        "surfaces": [report.surface for report in reports],
                        "keys": [report.key for report in reports],
                        "wanted": [json.dumps(report_to_json(report)) for report in reports],
                        "open": [report.is_open for report in reports],
                    },
                ).rowcount
            if done:
                connection.execute(
                    "UPDATE deliveries SET state = 'done', done_at = %s WHERE seq = ANY(%s) AND state = 'pending'",
                    [now, list(done)],
                )
        return changed

    def load_unsent_reports(
        self, *, surfaces: Sequence[str] = FORGE_SURFACES, now: datetime, at_most: int = 50
    ) -> tuple[UnsentReport, ...]:
        """Return reports to send on these surfaces: those about production's head first, then in the order of the
        surfaces, of each the newest change first, since after a limit of the forge many wait. What failed before comes
        after those when its retry is due, so that it holds up nothing. What was sent often about one commit is sent at
        its ends alone, and seldom, so that its last word is never one too many."""
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT * FROM reports WHERE repository_id = %(r)s AND sent_generation < generation AND NOT stalled"
                " AND (surface <> ALL(%(counted)s) OR sent_count < %(often)s OR (NOT is_open"
                "  AND sent_at <= %(now)s - CASE WHEN sent_count < %(too_often)s THEN %(hourly)s ELSE %(daily)s END))"
                " AND surface = ANY(%(surfaces)s) AND (retry_at IS NULL OR retry_at <= %(now)s)"
                " ORDER BY wanted->>'sha' IN (SELECT unnest(array[accepted_sha, refused_sha]) FROM repositories"
                "  WHERE id = %(r)s) IS TRUE DESC,"
                " array_position(%(surfaces)s, surface), retry_at NULLS FIRST, updated_at DESC, key"
                " LIMIT %(at_most)s",
                {
                    "r": self._id(),
                    "surfaces": list(surfaces),
                    "now": now,
                    "at_most": at_most,
                    "counted": list(COUNTED_SURFACES),
                    "often": SENT_OFTEN,
                    "too_often": SENT_TOO_OFTEN,
                    "hourly": PAUSE_OFTEN,
                    "daily": PAUSE_TOO_OFTEN,
                },
            ).fetchall()
            return tuple(
                UnsentReport(
                    surface=row["surface"],
                    key=row["key"],
                    wanted=report_from_json(row["surface"], row["wanted"]),
                    generation=row["generation"],
                    attempts=row["attempts"],
                    at=row["updated_at"],
                    forge_id=row["forge_id"],
                )
                for row in rows
            )

    # -- deliveries that the forge could not hand over ----------------------------------------------------------------

    def load_sweep(self) -> LastSweep:
        """Return how far the forge's log was swept, and what is missed still."""
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT r.forge_id, s.began_at FROM repositories r"
                " LEFT JOIN delivery_sweeps s ON s.repository_id = r.id WHERE r.id = %s",
                [self._id()],
            ).fetchone()
            rows = connection.execute(
                "SELECT guid, attempt_id, event, status_code, delivered_at, asked_count, asked_at"
                " FROM missed_deliveries WHERE repository_id = %s AND taken_at IS NULL",
                [self._id()],
            ).fetchall()
            return LastSweep(
                repository_id=None if row is None else row["forge_id"],
                began_at=None if row is None else row["began_at"],
                missed=tuple(Missed(**one) for one in rows),
            )

    def record_sweep(
        self, missed: Sequence[Missed], *, taken: Sequence[str], swept_to: int, began_at: datetime, now: datetime
    ) -> None:
        """Remember what is missed and what came after all; what the forge has forgotten goes. Safe to repeat."""
        with self._transaction(fenced=True) as connection:
            repository_id = self._id()
            for one in missed:
                connection.execute(
                    "INSERT INTO missed_deliveries (repository_id, guid, attempt_id, event, status_code, delivered_at)"
                    " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (repository_id, guid) DO UPDATE"
                    " SET attempt_id = excluded.attempt_id, status_code = excluded.status_code, taken_at = NULL",
                    [repository_id, one.guid, one.attempt_id, one.event, one.status_code, one.delivered_at],
                )
            connection.execute(
                "UPDATE missed_deliveries SET taken_at = %s WHERE repository_id = %s AND guid = ANY(%s)"
                " AND taken_at IS NULL",
                [now, repository_id, list(taken)],
            )
            connection.execute(
                "DELETE FROM missed_deliveries WHERE repository_id = %s AND delivered_at < %s",
                [repository_id, now - LOG_KEPT],
            )
            connection.execute(
                "INSERT INTO delivery_sweeps (repository_id, swept_to, swept_at, began_at) VALUES (%s, %s, %s, %s)"
                " ON CONFLICT (repository_id) DO UPDATE SET swept_at = excluded.swept_at,"
                " began_at = excluded.began_at, swept_to = greatest(delivery_sweeps.swept_to, excluded.swept_to)",
                [repository_id, swept_to, now, began_at],
            )

    def record_asked(self, guid: str, *, now: datetime) -> None:
        """A redelivery was asked for."""
        with self._transaction(fenced=True) as connection:
            connection.execute(
                "UPDATE missed_deliveries SET asked_count = asked_count + 1, asked_at = %s"
                " WHERE repository_id = %s AND guid = %s",
                [now, self._id(), guid],
            )
            connection.execute(
                "UPDATE delivery_sweeps SET asked_count = asked_count + 1 WHERE repository_id = %s", [self._id()]
            )

    def load_pace(self) -> Pace:
        """Return how the forge was asked lately."""
        with self._transaction() as connection:
            row = connection.execute("SELECT * FROM forge_pace WHERE repository_id = %s", [self._id()]).fetchone()
            if row is None:
                return Pace()
            return Pace(
                quiet=Quiet(until=row["quiet_until"], in_a_row=row["limits_in_a_row"]),
                app_quiet=Quiet(until=row["app_quiet_until"], in_a_row=row["app_limits_in_a_row"]),
                writes_at=tuple(row["writes_at"]),
            )

    def record_pace(self, pace: Pace) -> None:
        """Remember how the forge was asked lately. Safe to repeat."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO forge_pace (repository_id, quiet_until, limits_in_a_row, app_quiet_until,"
                " app_limits_in_a_row, writes_at) VALUES (%s, %s, %s, %s, %s, %s)"
                " ON CONFLICT (repository_id) DO UPDATE SET"
                " quiet_until = excluded.quiet_until, limits_in_a_row = excluded.limits_in_a_row,"
                " app_quiet_until = excluded.app_quiet_until, app_limits_in_a_row = excluded.app_limits_in_a_row,"
                " writes_at = excluded.writes_at",
                [
                    self._id(),
                    pace.quiet.until,
                    pace.quiet.in_a_row,
                    pace.app_quiet.until,
                    pace.app_quiet.in_a_row,
                    list(pace.writes_at),
                ],
            )

    def forget_surfaces(self, *, but: Collection[str]) -> int:
        """Remove what was to be shown at the forge on other surfaces, as whoever we are now may not write there;
        return how many reports went. Safe to repeat."""
        with self._transaction(fenced=True) as connection:
            return connection.execute(
                "DELETE FROM reports WHERE repository_id = %s AND surface = ANY(%s) AND surface <> ALL(%s)",
                [self._id(), list(FORGE_SURFACES), list(but)],
            ).rowcount

    def record_made(self, report: UnsentReport, forge_id: int) -> None:
        """Remember the forge's id of what was made for a report: from now on it is changed. Safe to repeat."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE reports SET forge_id = %s WHERE repository_id = %s AND surface = %s AND key = %s",
                [forge_id, self._id(), report.surface, report.key],
            )

    def record_sent(self, report: UnsentReport, *, now: datetime) -> None:
        """This report was sent, as it was wanted then."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE reports SET sent_generation = greatest(sent_generation, %s), sent_at = %s, attempts = 0,"
                " sent_count = sent_count + 1,"
                " retry_at = NULL, error = '' WHERE repository_id = %s AND surface = %s AND key = %s",
                [report.generation, now, self._id(), report.surface, report.key],
            )

    def record_unsent(self, report: UnsentReport, *, error: str, retry_at: datetime | None, stalled: bool) -> None:
        """A report could not be sent: when to try again, or never."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE reports SET attempts = attempts + 1, error = %s, retry_at = %s, stalled = %s"
                " WHERE repository_id = %s AND surface = %s AND key = %s AND generation = %s",
                [error, retry_at, stalled, self._id(), report.surface, report.key, report.generation],
            )

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Do what is written within and undo it at the end: for counting what would go."""
        with self._transaction():
            yield
            raise psycopg.Rollback

    # -- for commands and the console -------------------------------------------------------------------------------

    def load_rows(self, statement: LiteralString, parameters: Sequence[object] = ()) -> list[DictRow]:
        """Return the rows of a reading query of `doors` (tables for people); read only, by the transaction."""
        with self._transaction() as connection:
            connection.execute("SET TRANSACTION READ ONLY")
            return connection.execute(statement, parameters).fetchall()

    def record_audit(self, action: str, subject: str, detail: dict[str, object], *, actor: str) -> None:
        """Write a line of the audit: who did what, to what."""
        with self._transaction() as connection:
            self._audit(connection, action, subject, detail, actor=actor)

    @property
    def repository_id(self) -> int:
        return self._id()

    @property
    def host(self) -> str:
        return self._host

    def _audit(
        self,
        connection: psycopg.Connection[DictRow],
        action: str,
        subject: str,
        detail: dict[str, object],
        *,
        actor: str = "worker",
    ) -> None:
        connection.execute(
            "INSERT INTO audit (repository_id, host, actor, action, subject, detail) VALUES (%s, %s, %s, %s, %s, %s)",
            [self._id(), self._host, actor, action, subject, Jsonb(detail)],
        )


def _repository(row: DictRow) -> RepositoryRow:
    return RepositoryRow(
        id=row["id"],
        full_name=row["full_name"],
        production_branch=row["production_branch"],
        policy_sha=Sha(row["policy_sha"]) if row["policy_sha"] else None,
        accepted_sha=Sha(row["accepted_sha"]) if row["accepted_sha"] else None,
        refused_sha=Sha(row["refused_sha"]) if row["refused_sha"] else None,
        refused_reason=row["refused_reason"],
        freezes=tuple(map(freeze_from_json, row["freezes"])),
        listed_at=row["listed_at"],
        fetched_at=row["fetched_at"],
        comments_read_at=row["comments_read_at"],
        receiver_started_at=row["receiver_started_at"],
        look_asked_at=row["look_asked_at"],
        forge_id=row["forge_id"],
        replaced_by=row["replaced_by"],
    )


def _lease(row: DictRow) -> Lease:
    return Lease(
        fence=row["fence"],
        slot=SlotName(row["slot"]),
        pull_request=row["pull_request"],
        in_queue=row["in_queue"],
        claimed_at=row["claimed_at"],
        expires_at=row["expires_at"],
    )


def _slot(row: DictRow, *, lease: Lease | None, runs: list[DictRow], migrated: tuple[int, str] | None) -> SlotRow:
    running = next((r for r in runs if r["ended_at"] is None), None)
    return SlotRow(
        name=SlotName(row["name"]),
        provisioned_fence=row["provisioned_fence"],
        wiped_fence=row["wiped_fence"],
        ended_fence=row["ended_fence"],
        stopped_at=row["stopped_at"],
        lease=lease,
        run=None if running is None else _run(running),
        verdicts=() if running is None else _verdicts(running),
        recent_runs=tuple(_run(r) for r in runs if r["ended_at"] is not None)[:RECENT_RUNS_MAX],
        migrated=migrated,
    )


def _run(row: DictRow) -> Run:
    return Run(
        generation=row["generation"],
        slot=SlotName(row["slot"]),
        domain=Domain(row["domain"]),
        fence=row["fence"],
        head=Head(sha=Sha(row["sha"]), tree=TreeId(row["tree"]), title=row["title"]),
        release=Sha(row["release"]),
        cause=Cause(row["cause"]),
        state=RunState(row["state"]),
        colour=row["colour"],
        attempts=row["attempts"],
        begun_at=row["begun_at"],
        switched_at=row["switched_at"],
        confirmed_at=row["confirmed_at"],
        watch_until=row["watch_until"],
        ended_at=row["ended_at"],
        migration_head=row["migration_head"],
        configured=row["configured"],
        fallback=row["fallback"],
        proven=row["proven"],
        proof=row["proof"],
        reason=row["reason"],
        message=row["message"],
        successor=row["successor"],
        switched_back=row["switched_back"],
        unwell_before=None if row["unwell_before"] is None else tuple(row["unwell_before"]),
    )


def _verdicts(row: DictRow) -> tuple[Verdict, ...]:
    found: list[Verdict] = []
    for kind in ("checkout", "gate", "confirm", "watch"):
        value = row[f"{kind}_verdict"]
        if value is not None:
            found.append(
                Verdict(
                    kind=kind,
                    slot=SlotName(row["slot"]),
                    generation=row["generation"],
                    release=Sha(row["release"]),
                    outcome=Outcome(value["outcome"]),
                    reason=value["reason"],
                    message=value["message"],
                    blames_release=value["blames_release"],
                )
            )
    return tuple(found)


def _pending(row: DictRow) -> PendingDelivery:
    return PendingDelivery(
        seq=row["seq"],
        target=row["target"] or "",
        sha=Sha(row["sha"]) if row["sha"] else None,
        received_at=row["received_at"],
        armed_at=row["armed_at"],
        looks=row["looks"],
    )


def _pull(row: DictRow) -> PullRequest:
    return PullRequest(
        number=row["number"],
        head_sha=Sha(row["head_sha"]),
        head_branch=row["head_branch"],
        title=row["title"],
        author=row["author"],
        same_repository=row["same_repository"],
        opened_at=row["opened_at"],
        labels=tuple(row["labels"]),
        is_draft=row["is_draft"],
        base_branch=row["base_branch"],
        author_is_bot=row["author_is_bot"],
        refused_reason=row["refused_reason"],
        refused_message=row["refused_message"],
    )


def _production_run(row: DictRow) -> ProductionRun:
    return ProductionRun(
        run=row["generation"],
        release=Sha(row["release"]),
        state=RunState(row["state"]),
        cause=Cause(row["cause"]),
        by=describe_origin(cause=row["cause"], actor=row["actor"], pull_request=None, author=""),
        served=row["served"],
        proven=row["proven"],
        is_rollback=row["is_rollback"],
        switched_at=row["switched_at"],
        ended_at=row["ended_at"],
    )


def _became(row: DictRow, one: Judged) -> bool:
    """Say whether a release is something else than its row says; an unknown time is no news."""
    if one.since is None and row["standing"] == one.standing:
        return False
    written = (row["standing"], row["standing_since"], row["standing_run"], row["standing_by"])
    return written != (one.standing, one.since, one.run, one.by)


def _release(row: DictRow) -> Release:
    return Release(
        sha=Sha(row["sha"]),
        tree=TreeId(row["tree"]),
        published_at=row["published_at"],
        migration_head=row["migration_head"],
        pinned=row["pinned"],
    )


def _quarantined(row: DictRow) -> Quarantined:
    return Quarantined(
        domain=Domain(row["domain"]),
        tree=TreeId(row["tree"]),
        sha=Sha(row["sha"]),
        reason=row["reason"],
        message=row["message"],
        at=row["at"],
    )


def _drift(row: DictRow) -> OpenDrift:
    return OpenDrift(
        id=row["id"],
        drift=Drift(
            reason=row["reason"],
            slot=SlotName(row["slot"]) if row["slot"] else None,
            subject=row["subject"],
            message=row["message"],
            handling=row["handling"],
        ),
        found_at=row["found_at"],
        heal_ordered=row["heal_ordered_at"] is not None,
    )


def _override(row: DictRow) -> Override:
    return Override(
        id=row["id"],
        slot=SlotName(row["slot"]),
        kind=row["kind"],
        head=Head(sha=Sha(row["sha"]), tree=TreeId(row["tree"]), title=row["title"]),
        ordered_at_head=Sha(row["ordered_at_head"]) if row["ordered_at_head"] else None,
        accept_migrations=row["accept_migrations"],
        actor=row["actor"],
        reason=row["reason"],
        at=row["at"],
        despite_hold=row["despite_hold"],
    )


def _signature(row: DictRow) -> Signature:
    return Signature(
        sha=Sha(row["sha"]),
        signers=row["signers"],
        reason=row["reason"],
        said=row["said"],
        checked_at=row["checked_at"],
    )


def _hold(row: DictRow) -> HoldOrder:
    return HoldOrder(
        id=row["id"],
        slot=SlotName(row["slot"]),
        fence=row["fence"],
        until=row["until"],
        actor=row["actor"],
        reason=row["reason"],
        at=row["at"],
    )


def _preview_order(row: DictRow) -> PreviewOrder:
    return PreviewOrder(
        pull_request=row["pull_request"],
        kind=row["kind"],
        sha=Sha(row["sha"]) if row["sha"] else None,
        base_branch=row["base_branch"],
        actor=row["actor"],
        comment_id=row["comment_id"],
        at=row["at"],
    )


def _command(row: DictRow) -> CommandAnswer:
    word = "/preview stop" if row["verb"] == "stop" else f"/{row['verb']}"
    return CommandAnswer(
        pull_request=row["pull_request"],
        comment_id=row["comment_id"],
        author=row["author"],
        permission=row["permission"],
        said=f"{word} {row['argument']}".rstrip(),
        state=row["state"],
        reason=row["reason"],
        message=row["message"],
        sha=Sha(row["sha"]) if row["sha"] else None,
        commented_at=row["commented_at"],
        decided_at=row["decided_at"],
    )


def _stop(row: DictRow) -> Stop:
    return Stop(
        id=row["id"],
        slot=SlotName(row["slot"]),
        kind=row["kind"],
        fence=row["fence"],
        actor=row["actor"],
        reason=row["reason"],
        at=row["at"],
    )
