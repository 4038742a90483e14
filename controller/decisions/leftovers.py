"""Finds what outlived its owner and its end: each path that a stack makes has both, and this table says which.

A path is judged by its shape, and by the rows and the host at the same moment. What is younger than the grace is work
under way. A folder that an app, a build or git writes is judged as a whole.
`docs/decisions/0018-an-owner-and-an-end.md` shows the table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from re import Match

from controller.model.names import (
    BUILD_SEALED,
    MAIN,
    PRODUCTION,
    Domain,
    Sha,
    SlotName,
    TreeId,
    slot_of_unit,
    unit_of_systemd,
)

#: The reason that audits give.
LEFT_BEHIND = "LeftBehind"


@dataclass(frozen=True, slots=True, kw_only=True)
class PathFact:
    """One thing on the disk. `path` is relative to the root; what is among the sockets begins with `run/`."""

    path: str
    #: Since it was last made, renamed or written.
    age_s: float
    size_bytes: int = 0
    #: Of a folder that is counted: how many things are in it.
    entries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Owners:
    """Who may own a path at this moment."""

    slots: frozenset[SlotName]
    #: Slots with a lease, or whose wipe has not finished.
    held: frozenset[SlotName] = frozenset()
    #: Of those slots.
    domains: frozenset[Domain] = frozenset()
    #: Releases with a row, and the trees of those.
    releases: frozenset[Sha] = frozenset()
    trees: frozenset[TreeId] = frozenset()
    #: Builds that something serves from, or that a run is about: `<domain>/<name>`.
    builds: frozenset[str] = frozenset()
    #: Runs with a row.
    runs: frozenset[int] = frozenset()
    #: Units that run, or ended and were not forgotten: (unit, generation).
    units: frozenset[tuple[str, int]] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A path that outlived its owner, or that has none."""

    path: str
    message: str


#: Says what is wrong with a path that its pattern matched; "" when its owner lives. Also gets all paths that there are.
Judge = Callable[[Match[str], PathFact, Owners, frozenset[str]], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What is made at paths of one shape, whose it is, and when it goes."""

    #: As documentation shows it: `<word>` is one name, `*` the rest of one.
    pattern: str
    owner: str
    ends: str
    judge: Judge

    def match(self, path: str) -> Match[str] | None:
        """Return the match of a path of this shape, or None."""
        return _compiled(self.pattern).fullmatch(path)


_WORDS: Mapping[str, str] = {
    "<sha>": r"(?P<sha>[0-9a-f]{40})",
    "<tree>": r"(?P<tree>[0-9a-f]{40})",
    "<hash>": r"[0-9a-f]+",
    "<domain>": r"(?P<domain>production|(?:pr|queue)-[0-9]+)",
    "<slot>": r"(?P<slot>main|preview-[1-9][0-9]{0,2})",
    "<run>": r"(?P<run>[0-9]+)",
    "<unit>": r"(?P<unit>[a-z][a-z0-9-]*)",
    "<order>": r"(?P<order>ouroboros-[a-z]+@[a-z0-9-]+)",
    "<mark>": r"[0-9a-f]+",
    "<name>": r"[^/]+",
}
_TOKEN = re.compile(r"<[a-z]+>|\*")


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    parts, at = "", 0
    for token in _TOKEN.finditer(pattern):
        parts += re.escape(pattern[at : token.start()]) + _WORDS.get(token[0], r"[^/]*")
        at = token.end()
    return re.compile(parts + re.escape(pattern[at:]), re.DOTALL)


def _stays(_match: Match[str], _fact: PathFact, _owners: Owners, _paths: frozenset[str]) -> str:
    return ""


def _passes(_match: Match[str], _fact: PathFact, _owners: Owners, _paths: frozenset[str]) -> str:
    return "the process that made it is gone"


def _at_most(*, size_bytes: int = 0, entries: int = 0) -> Judge:
    def judge(_match: Match[str], fact: PathFact, _owners: Owners, _paths: frozenset[str]) -> str:
        if size_bytes and fact.size_bytes > size_bytes:
            return f"has {fact.size_bytes:,} bytes, and {size_bytes:,} at most is its bound"
        if entries and fact.entries > entries:
            return f"holds {fact.entries:,}, and {entries:,} at most is its bound"
        return ""

    return judge


def _of_release(match: Match[str], _fact: PathFact, owners: Owners, _paths: frozenset[str]) -> str:
    return "" if match["sha"] in owners.releases else "no row knows this release"


def _of_release_on_disk(match: Match[str], _fact: PathFact, _owners: Owners, paths: frozenset[str]) -> str:
    return "" if f"releases/{match['sha']}" in paths else "its release is gone"


def _of_domain(match: Match[str], fact: PathFact, owners: Owners, _paths: frozenset[str]) -> str:
    if match["domain"] == PRODUCTION or match["domain"] in owners.domains or fact.entries == 0:
        return ""
    return f"{match['domain']} holds no slot"


def _of_build(match: Match[str], _fact: PathFact, owners: Owners, _paths: frozenset[str]) -> str:
    name = match[0].removeprefix("builds/")
    if match["tree"] in owners.trees or name in owners.builds:
        return ""
    return "no release with its tree is on the disk, and nothing serves from it"


def _beside_build(match: Match[str], _fact: PathFact, _owners: Owners, paths: frozenset[str]) -> str:
    folder, _, name = match[0].rpartition("/")
    built = name.removeprefix(".").removesuffix(BUILD_SEALED).removesuffix(".sealing")
    return "" if f"{folder}/{built}" in paths else "its build is gone"


def _of_slot(match: Match[str], _fact: PathFact, owners: Owners, _paths: frozenset[str]) -> str:
    return "" if match["slot"] in owners.slots else "this host has no such slot"


def _of_tenant(match: Match[str], _fact: PathFact, owners: Owners, _paths: frozenset[str]) -> str:
    slot = SlotName(match["slot"])
    return "" if slot == MAIN or slot in owners.held else "no lease holds the slot"


def _of_run(match: Match[str], _fact: PathFact, owners: Owners, _paths: frozenset[str]) -> str:
    return "" if int(match["run"]) in owners.runs else "no row knows this run"


def _of_unit(match: Match[str], _fact: PathFact, owners: Owners, _paths: frozenset[str]) -> str:
    unit = match["unit"] if "unit" in match.re.groupindex else unit_of_systemd(f"{match['order']}.service")
    slot = None if unit is None else slot_of_unit(unit)
    if slot is None or slot not in owners.slots:
        return "this host has no such unit"
    return "" if slot == MAIN or slot in owners.held else "no lease holds the slot of its unit"


def _of_kept_unit(match: Match[str], _fact: PathFact, owners: Owners, _paths: frozenset[str]) -> str:
    return "" if (match["unit"], int(match["run"])) in owners.units else "the supervisor knows no such unit"


#: The newest `live.VERSIONS_KEPT` stay, and one that is being written.
LIVE_VERSIONS_MAX = 65
#: `publish.SPARES_MAX`, and one that is being used up.
SPARES_MAX = 3
#: A part's log is cut above 8 MiB, and Caddy rolls its own, soon after.
LOG_BYTES_MAX = 32 << 20
MADE: tuple[Made, ...] = (
    Made(pattern="releases/<sha>", owner="its row", ends="retention takes its row and name", judge=_of_release),
    Made(pattern="releases/<sha>.manifest", owner="the release", ends="with it", judge=_of_release_on_disk),
    Made(pattern="releases/.spare-<sha>", owner="the release", ends="with it; two stay", judge=_of_release_on_disk),
    Made(pattern="releases/.tmp-*", owner="who writes or removes it", ends="housekeeping", judge=_passes),
    Made(pattern="builds/<domain>", owner="the domain's slot", ends="the wipe of the lease", judge=_of_domain),
    Made(pattern="builds/<domain>/.gone-<mark>", owner="nobody", ends="housekeeping", judge=_passes),
    Made(
        pattern="builds/<domain>/<tree>-<hash>",
        owner="the release with its tree",
        ends="after the release; the wipe of the lease",
        judge=_of_build,
    ),
    Made(pattern="builds/<domain>/*.sealed", owner="the build", ends="with it", judge=_beside_build),
    Made(pattern="builds/<domain>/.*.sealing", owner="the build", ends="with it", judge=_beside_build),
    Made(pattern="slots/<slot>", owner="the installed slot", ends="by hand, with fewer slots", judge=_of_slot),
    Made(pattern="slots/<slot>/live", owner="the slot", ends="with it", judge=_of_slot),
    Made(
        pattern="slots/<slot>/live.d",
        owner="the slot",
        ends="with it; the newest 64 stay",
        judge=_at_most(entries=LIVE_VERSIONS_MAX),
    ),
    Made(pattern="slots/<slot>/lock", owner="the slot", ends="with it", judge=_of_slot),
    Made(pattern="slots/<slot>/current", owner="the tenant", ends="the wipe of the lease", judge=_of_tenant),
    Made(pattern="slots/<slot>/data", owner="the tenant", ends="the wipe of the lease", judge=_of_tenant),
    Made(pattern="slots/<slot>/database", owner="the tenant", ends="the wipe of the lease", judge=_of_tenant),
    Made(pattern="slots/<slot>/.*", owner="who writes it", ends="the next writer; housekeeping", judge=_passes),
    Made(pattern="artifacts/runs/<run>", owner="the row of the run", ends="retention, before the row", judge=_of_run),
    Made(pattern="orders/<order>.json", owner="the tenant", ends="the wipe of the lease", judge=_of_unit),
    Made(pattern="orders/.*", owner="who writes it", ends="housekeeping", judge=_passes),
    Made(pattern="run/env/<unit>.env", owner="the tenant", ends="the wipe of the lease", judge=_of_unit),
    Made(pattern="run/env/.*", owner="who writes it", ends="housekeeping", judge=_passes),
    Made(pattern="run/worker/armed/<order>", owner="the unit", ends="its stop; a reboot", judge=_of_unit),
    Made(
        pattern="supervisor/<unit>.<run>.<mark>", owner="the unit", ends="its stop, once it ended", judge=_of_kept_unit
    ),
    Made(pattern="supervisor/.gone.<mark>", owner="the supervisor", ends="its next start", judge=_passes),
    Made(pattern="supervisor/lock", owner="the supervisor", ends="never", judge=_stays),
    Made(pattern="log/<name>", owner="the part", ends="cut or rolled", judge=_at_most(size_bytes=LOG_BYTES_MAX)),
    Made(pattern="postgres.log", owner="Postgres", ends="cut", judge=_at_most(size_bytes=LOG_BYTES_MAX)),
    Made(pattern="judge/<name>", owner="the judge", ends="each order replaces the last", judge=_stays),
    Made(
        pattern="artifacts/maintenance/<name>", owner="the daily job", ends="`[retention] summaries` stay", judge=_stays
    ),
    *(
        Made(pattern=name, owner="install, `oroboros up`", ends="uninstall", judge=_stays)
        for name in (
            *("releases", "builds", "slots", "artifacts", "artifacts/runs", "artifacts/maintenance", "orders", "judge"),
            *("repo.git", "current", "etc", "forge", "work", "postgres", "postgres.password", "stack.json", "up.lock"),
            *("supervisor", "log", "topology.json", "environment.json", "boot-id"),
        )
    ),
)


def judge_leftovers(paths: Iterable[PathFact], owners: Owners, *, grace_s: float) -> tuple[Leftover, ...]:
    """Return what outlived its owner, and what no pattern knows, in the order of the paths."""
    every = sorted(paths, key=lambda fact: fact.path)
    names = frozenset(fact.path for fact in every)
    found: list[Leftover] = []
    for fact in every:
        if fact.age_s < grace_s:
            continue
        made, match = next(((made, match) for made in MADE if (match := made.match(fact.path))), (None, None))
        if made is None or match is None:
            found.append(Leftover(path=fact.path, message="nothing of ours makes such a path"))
        elif why := made.judge(match, fact, owners, names):
            found.append(Leftover(path=fact.path, message=f"{why}; it ends: {made.ends}"))
    return tuple(found)
