"""Derive what each release is to production: live, previous, rolled back, failed, removed, or published.

The link `live` is the truth of what serves, and the disk of what is there; runs only tell how it came to be. So a row
that is wrong or missing cannot make a release live, and what the worker did not come to write needs no repair.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from controller.model.names import Sha
from controller.model.nouns import Live
from controller.model.states import Cause, RunState


class Standing(StrEnum):
    """What a release is to production."""

    PUBLISHED = "published"  # on the disk; it neither serves nor did it fail
    LIVE = "live"
    PREVIOUS = "previous"  # the last proven one that served before, and was not rolled back
    ROLLED_BACK = "rolled back"  # it served, and production went back to another
    FAILED = "failed"  # its last run ended without a switch
    REMOVED = "removed"  # no longer on the disk


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductionRun:
    """A run of production, as far as standings go."""

    run: int
    release: Sha
    state: RunState
    cause: Cause
    #: Whose order it was, or what caused it, in words.
    by: str
    served: bool
    proven: bool
    #: An order to roll back.
    is_rollback: bool
    switched_at: datetime | None
    ended_at: datetime | None

    @property
    def goes_back(self) -> bool:
        """Say whether it brought back an older release."""
        return self.is_rollback or self.cause in (Cause.REVERT, Cause.ROLLBACK)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductionHistory:
    """What the store tells of releases and production."""

    #: When each release that has a row was published.
    published: Mapping[Sha, datetime | None]
    #: The newest, newest first.
    runs: tuple[ProductionRun, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a release is, since when, by which run, and by whom; None where no row tells it."""

    standing: Standing
    since: datetime | None = None
    run: int | None = None
    by: str = ""


def judge_releases(history: ProductionHistory, *, on_disk: Container[Sha], live: Live | None) -> dict[Sha, Judged]:
    """Return the standing of each release that has a row. `live`: what production's link says; None: unreadable."""
    return judge_standings(
        {sha: at for sha, at in history.published.items() if sha in on_disk},
        gone=[sha for sha in history.published if sha not in on_disk],
        runs=history.runs,
        live=(live.release, live.generation) if live is not None and live.state == "live" and live.release else None,
    )


def judge_standings(
    on_disk: Mapping[Sha, datetime | None],
    *,
    gone: Sequence[Sha],
    runs: Sequence[ProductionRun],
    live: tuple[Sha, int] | None,
) -> dict[Sha, Judged]:
    """Return the standing of each release. `on_disk` says when each was published, `live` which serves by which run."""
    newest_first = sorted(runs, key=lambda run: run.run, reverse=True)
    found = {sha: Judged(standing=Standing.REMOVED) for sha in gone}
    for sha, published_at in on_disk.items():
        if live is not None and sha == live[0]:
            switch = next((run for run in newest_first if run.run == live[1]), None)
            found[sha] = _by(Standing.LIVE, switch, run=live[1])
        else:
            found[sha] = _judge(newest_first, sha, published_at)
    for run in newest_first:
        judged = found.get(run.release)
        if run.proven and judged is not None and judged.standing is Standing.PUBLISHED:
            # It may have served once more since then, without coming to its proof.
            left = next((one for one in newest_first if one.release == run.release and one.served), run)
            found[run.release] = _by(Standing.PREVIOUS, _successor(newest_first, left))
            break
    return found


def _judge(newest_first: Sequence[ProductionRun], sha: Sha, published_at: datetime | None) -> Judged:
    last = next((run for run in newest_first if run.release == sha and run.ended_at is not None), None)
    if last is None or (not last.served and last.state not in (RunState.FAILED, RunState.STALLED)):
        return Judged(standing=Standing.PUBLISHED, since=published_at)
    if last.state is RunState.ROLLED_BACK:
        return Judged(standing=Standing.ROLLED_BACK, since=last.ended_at, run=last.run, by=last.by)
    if last.state in (RunState.FAILED, RunState.STALLED):
        return Judged(standing=Standing.FAILED, since=last.ended_at, run=last.run, by=last.by)
    successor = _successor(newest_first, last)
    if successor is not None and successor.goes_back:
        return _by(Standing.ROLLED_BACK, successor)
    return Judged(standing=Standing.PUBLISHED, since=published_at)


def _successor(newest_first: Sequence[ProductionRun], left: ProductionRun) -> ProductionRun | None:
    """Return the run that switched production from `left` to another release."""
    later = [run for run in newest_first if run.run > left.run and run.served and run.release != left.release]
    return later[-1] if later else None


def _by(standing: Standing, switch: ProductionRun | None, *, run: int | None = None) -> Judged:
    if switch is None:
        return Judged(standing=standing, run=run)
    return Judged(standing=standing, since=switch.switched_at, run=switch.run, by=switch.by)


def describe_origin(*, cause: str, actor: str, pull_request: int | None, author: str) -> str:
    """Return in a few words how what serves came to be there."""
    if cause == "override":
        return f"ordered by {actor}" if actor else "ordered by hand"
    if pull_request is not None:
        return f"#{pull_request} by {author}" if author else f"#{pull_request}"
    words = {"push": "push", "revert": "revert", "resync": "found by resync", "rollback": "automatic rollback"}
    return words.get(cause, cause)
