"""Reads what each release is to production: what serves and what is there from the disk, the rest from the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import LiteralString, Protocol

from controller.decisions.standings import Judged, ProductionRun, describe_origin, judge_standings
from controller.model.names import Layout, Sha
from controller.model.nouns import Live
from controller.model.states import Cause, RunState

#: Production's newest runs; what a release was by older ones is in its history.
RUNS_MAX = 500


class Rows(Protocol):
    """What is asked of the store."""

    def load_rows(self, statement: LiteralString, parameters: Sequence[object] = ()) -> list[dict[str, object]]:
        """Return the rows of a reading query."""

    @property
    def repository_id(self) -> int:
        """The repository's id in the store."""

    @property
    def host(self) -> str:
        """This host's name."""


def load_standings(rows: Rows, layout: Layout, live: Live | None) -> dict[Sha, Judged]:
    """Return what each release of this host is, where production's link `live` says that (None: unreadable)."""
    releases = rows.load_rows(
        "SELECT sha, published_at FROM releases WHERE repository_id = %s AND host = %s", [rows.repository_id, rows.host]
    )
    runs = rows.load_rows(
        "SELECT r.generation, r.release, r.state, r.cause, r.served, r.proven, r.switched_at, r.ended_at,"
        " coalesce(o.actor, '') AS actor, coalesce(o.kind = 'rollback', false) AS is_rollback FROM runs r"
        " LEFT JOIN LATERAL (SELECT actor, kind FROM overrides o WHERE r.cause = 'override' AND o.host = r.host"
        "  AND o.slot = r.slot AND o.sha = r.sha AND o.kind IN ('deploy', 'rollback') AND o.at <= r.begun_at"
        "  ORDER BY o.id DESC LIMIT 1) o ON true"
        " WHERE r.repository_id = %s AND r.host = %s AND r.slot = 'main' ORDER BY r.generation DESC LIMIT %s",
        [rows.repository_id, rows.host, RUNS_MAX],
    )
    published = {Sha(str(row["sha"])): row["published_at"] for row in releases}
    there = {sha for sha in published if layout.release(sha).is_dir()}
    return judge_standings(
        {sha: at for sha, at in published.items() if sha in there},  # type: ignore[misc]  # a timestamptz
        gone=[sha for sha in published if sha not in there],
        runs=[_run(row) for row in runs],
        live=(live.release, live.generation) if live is not None and live.state == "live" and live.release else None,
    )


def _run(row: Mapping[str, object]) -> ProductionRun:
    return ProductionRun(
        run=row["generation"],  # type: ignore[arg-type]
        release=Sha(str(row["release"])),
        state=RunState(str(row["state"])),
        cause=Cause(str(row["cause"])),
        by=describe_origin(cause=str(row["cause"]), actor=str(row["actor"]), pull_request=None, author=""),
        served=bool(row["served"]),
        proven=bool(row["proven"]),
        is_rollback=bool(row["is_rollback"]),
        switched_at=row["switched_at"],  # type: ignore[arg-type]
        ended_at=row["ended_at"],  # type: ignore[arg-type]
    )
