"""What may production be ordered to, and back to? The same answer for a command line and for a comment.

Refused, with the reason: a release that is not there or never served well; nothing to go back to; what served well with
other migrations than the database's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from controller.model.errors import Refused
from controller.model.names import PRODUCTION, Domain, Sha
from controller.model.nouns import Head, Live, Proven
from controller.model.world import MIGRATIONS_DIFFER, Observed

SHA_PREFIX = re.compile(r"[0-9a-f]{7,40}\Z")


class Retained(Protocol):
    """A release, as far as going back to it is decided."""

    @property
    def release(self) -> str: ...
    @property
    def tree(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def on_disk(self) -> bool: ...
    @property
    def proven_in(self) -> Sequence[str]: ...
    @property
    def quarantined_in(self) -> Sequence[str]: ...


R = TypeVar("R", bound=Retained)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDisk:
    """A published release as a tick sees it."""

    release: str
    tree: str
    proven_in: tuple[Domain, ...]
    quarantined_in: tuple[Domain, ...]
    state: str = "published"
    on_disk: bool = True


def releases_of(observed: Observed) -> tuple[OnDisk, ...]:
    """Return the releases that were observed."""
    return tuple(
        OnDisk(
            release=release.sha,
            tree=release.tree,
            proven_in=tuple(p.domain for p in observed.proven if p.sha == release.sha),
            quarantined_in=tuple(q.domain for q in observed.quarantined if q.tree == release.tree),
        )
        for release in observed.releases
    )


def order_of_proof(observed: Observed) -> tuple[str, ...]:
    """Return what served well in production, what did so last first."""
    proven = [p for p in observed.proven if p.domain == PRODUCTION]
    return tuple(p.sha for p in sorted(proven, key=lambda p: p.generation, reverse=True))


def choose_rollback(releases: Sequence[R], *, order_of_proof: Sequence[str], leaving: Live, wanted: str | None) -> R:
    """Return the release to go back to: the one that is named, or the newest that served well, has other content than
    what is left, and is not quarantined. Refused when there is none, naming what is retained."""
    retained = [r for r in releases if r.state == "published" and r.on_disk and PRODUCTION in r.proven_in]
    candidates = [r for r in retained if r.tree != leaving.tree]
    named = ", ".join(r.release[:7] for r in releases if r.on_disk) or "none"
    if wanted is not None:
        prefix = wanted.lower()
        if not SHA_PREFIX.match(prefix):
            raise Refused("ReleaseUnclear", f"{wanted!r:.60} is not a release: say 7 to 40 hex digits of its commit")
        matches = [r for r in releases if r.release.startswith(prefix)]
        if len(matches) != 1:
            what = "no retained release begins" if not matches else f"{len(matches)} releases begin"
            raise Refused("ReleaseUnclear", f"{what} with {prefix}; retained are: {named}")
        if matches[0].tree == leaving.tree:
            raise Refused("LiveAlready", f"{prefix} is what production serves: there is nothing to go back from")
        if matches[0] not in candidates:
            raise Refused(
                "NeverProven", f"{prefix} never served well in production; `oroboros deploy {prefix}` tries it anew"
            )
        return matches[0]
    place = {sha: index for index, sha in enumerate(order_of_proof)}
    healthy = [r for r in candidates if PRODUCTION not in r.quarantined_in and r.release in place]
    if not healthy:
        raise Refused(
            "NothingToRollBackTo",
            f"no other release served well in production and is still here; retained are: {named}",
        )
    return min(healthy, key=lambda r: place[r.release])


def refuse_other_migrations(head: Head, proven: Iterable[Proven], *, database_at: str | None) -> None:
    """Refuse to restore a release whose migrations are not those of production's database, in the words of the run
    that would end so. `database_at`: the migrations that it has; None without a database."""
    known = [p for p in proven if (p.domain, p.tree) == (PRODUCTION, head.tree)]
    newest = max(known, key=lambda p: p.generation, default=None)
    if newest is not None and database_at is not None and newest.migration_head != database_at:
        raise Refused(
            MIGRATIONS_DIFFER, describe_other_migrations(newest.sha, newest.migration_head, database_at=database_at)
        )


def describe_other_migrations(release: Sha, wanted: str, *, database_at: str) -> str:
    """Return why a release is not restored."""
    return (
        f"not restored at once: the database's migrations ({database_at[:7] or 'none'}) differ from those of "
        f"{release[:7]} ({wanted[:7] or 'none'}); accept it by hand or push forward"
    )


def leaving_of(live: Live | None) -> Live:
    """Return what production serves; Refused when that is nothing."""
    if live is None or live.state != "live" or live.release is None:
        raise Refused("NothingServes", "production serves no release: there is nothing to go back from")
    return live
