"""Is each slot what it claims to be? Lease, what it serves, its ports, its host, its unit, its database, side by side.

`live` is the truth of what serves, so everything else is held against it: what the surface says at the web port, at the
backend port and behind the edge, the instance that must run, the database that its recipe asks for. What leases and
resets contradict, `integrity` says. A run under way and a stop by hand are no contradictions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from controller.decisions.health import Answered, surface_says
from controller.decisions.integrity import Finding, SlotFacts
from controller.model.names import MAIN, SlotName, database_name, instance_unit, systemd_unit
from controller.model.nouns import Live
from controller.model.states import ProcessState

OBSERVED_CHARS_MAX = 160
#: Where a reason of `integrity` is shown.
ASPECT_OF_REASON = {
    "LiveUnreadable": "serves",
    "LiveOfOtherLease": "serves",
    "LeftAfterReset": "serves",
    "UnitOfOtherLease": "unit",
    "DatabaseOfOtherLease": "database",
    "DatabaseWithoutRole": "database",
    "RoleWithoutDatabase": "database",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A place where a slot's surface must answer, and what did."""

    #: "web port", "backend port", "edge host".
    aspect: str
    address: str
    answered: Answered


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotSeen:
    """Everything that is held against each other for one slot."""

    facts: SlotFacts
    asked: tuple[Asked, ...]
    #: A run is under way: the instance may be between two lives.
    has_run: bool = False
    #: Stopped by hand: the instance must not run.
    stopped: bool = False
    #: The release that serves lies on the disk.
    release_there: bool = True
    #: The recipe of what serves asks for a database; None when that is not known.
    wants_database: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Aspect:
    """One thing about a slot: as it is to be, as it is, and what is wrong with that."""

    aspect: str
    expected: str
    observed: str
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotCheck:
    """One slot, aspect by aspect."""

    slot: SlotName
    ok: bool
    aspects: tuple[Aspect, ...]


def check_slot(seen: SlotSeen, findings: Sequence[Finding]) -> SlotCheck:
    """Return what is to be and what is, of one slot; `findings` are those of `integrity`."""
    slot = seen.facts.slot
    aspects = [_lease(seen.facts), _serves(seen), *_surfaces(seen), _unit(seen), _database(seen)]
    for finding in findings:
        if finding.slot == slot:
            aspects = [_with(aspect, finding) for aspect in aspects]
    return SlotCheck(slot=slot, ok=not any(aspect.problem for aspect in aspects), aspects=tuple(aspects))


def _with(aspect: Aspect, finding: Finding) -> Aspect:
    if ASPECT_OF_REASON.get(finding.reason, "lease") != aspect.aspect:
        return aspect
    problem = "; ".join(part for part in (aspect.problem, f"{finding.reason}: {finding.message}") if part)
    return Aspect(aspect=aspect.aspect, expected=aspect.expected, observed=aspect.observed, problem=problem)


def confirmed(first: Sequence[SlotCheck], second: Sequence[SlotCheck]) -> tuple[SlotCheck, ...]:
    """Return the second look, in which a problem counts only if the first look saw one there too: facts are read one
    after the other, and what was seen once may have been a moment between two of them."""
    before = {(check.slot, aspect.aspect) for check in first for aspect in check.aspects if aspect.problem}
    return tuple(_only(check, before) for check in second)


def _only(check: SlotCheck, before: set[tuple[SlotName, str]]) -> SlotCheck:
    aspects = tuple(
        aspect
        if (check.slot, aspect.aspect) in before
        else Aspect(aspect=aspect.aspect, expected=aspect.expected, observed=aspect.observed)
        for aspect in check.aspects
    )
    return SlotCheck(slot=check.slot, ok=not any(aspect.problem for aspect in aspects), aspects=aspects)


def _lease(facts: SlotFacts) -> Aspect:
    if facts.slot == MAIN:
        return Aspect(aspect="lease", expected="none: production", observed="none")
    held = "nobody" if facts.lease is None else f"#{facts.lease.pull_request}, lease {facts.lease.fence}"
    return Aspect(aspect="lease", expected="one pull request, or nobody", observed=held)


def _serves(seen: SlotSeen) -> Aspect:
    facts, live = seen.facts, seen.facts.live
    if facts.slot == MAIN:
        expected = "a release"
    else:
        expected = "nothing" if facts.lease is None else f"a release of lease {facts.lease.fence}, once one is live"
    if live is None or live.state != "live":
        return Aspect(aspect="serves", expected=expected, observed="free" if live is not None else "never written")
    problem = "" if seen.release_there else "the release that serves is not on the disk"
    return Aspect(aspect="serves", expected=expected, observed=_live_words(live), problem=problem)


def _live_words(live: Live) -> str:
    return f"live {(live.release or '')[:7]}" + (f" for lease {live.fence}" if live.fence else "")


def _surfaces(seen: SlotSeen) -> Iterator[Aspect]:
    live = seen.facts.live
    is_live = live is not None and live.state == "live"
    state, release = ("live", live.release) if is_live and live is not None else ("free", None)
    # What is stopped by hand, or being started, may be named and not answer.
    may_fail = is_live and (seen.stopped or seen.has_run)
    words = " ".join(part for part in (state, (release or "")[:7]) if part)
    for asked in seen.asked:
        says = surface_says(asked.answered.said)
        observed = f"{asked.address}: {_said(asked.answered, says)}"[:OBSERVED_CHARS_MAX]
        problem = ""
        if asked.answered.problem:
            problem = asked.answered.problem
        elif not says:
            problem = f"another program answers {asked.answered.status}"
        elif says.get("slot") != seen.facts.slot:
            problem = f"{says.get('slot')!s:.40} answers there"
        elif (says.get("state"), says.get("release")) != (state, release):
            problem = f"says {says.get('state')!s:.20} {str(says.get('release') or '')[:7]}".rstrip()
        elif says.get("healthy", True) is not True and not may_fail:
            problem = "is not healthy"
        yield Aspect(aspect=asked.aspect, expected=words, observed=observed, problem=problem)


def _said(answered: Answered, says: dict[str, object]) -> str:
    if answered.problem:
        return "no answer"
    if not says:
        return str(answered.status)
    healthy = "" if says.get("healthy", True) is True else ", not healthy"
    release = str(says.get("release") or "")[:7]
    return " ".join(part for part in (str(answered.status), str(says.get("state"))[:20], release) if part) + healthy


def _unit(seen: SlotSeen) -> Aspect:
    facts, live = seen.facts, seen.facts.live
    running = [p for p in facts.processes if p.state is ProcessState.RUNNING]
    observed = ", ".join(f"{systemd_unit(p.unit)} of run {p.generation}" for p in running) or "none runs"
    if live is None or live.state != "live" or live.address is None or live.colour is None:
        return Aspect(aspect="unit", expected="none" if not seen.has_run else "those of the run", observed=observed)
    unit = instance_unit(facts.slot, live.colour)
    serves = any((p.unit, p.generation) == (unit, live.generation) for p in running)
    expected = f"{systemd_unit(unit)} of run {live.generation}"
    if seen.stopped:
        problem = f"runs, though it is stopped by hand: {observed}" if running else ""
        return Aspect(aspect="unit", expected="none: stopped by hand", observed=observed, problem=problem)
    problem = "" if serves or seen.has_run else "what serves does not run"
    return Aspect(aspect="unit", expected=expected, observed=observed, problem=problem)


def _database(seen: SlotSeen) -> Aspect:
    fact, name = seen.facts.database, database_name(seen.facts.slot)
    if fact is None:
        return Aspect(aspect="database", expected="not compared", observed="not compared")
    there = ", ".join(part for part, is_there in ((name, fact.database), ("its role", fact.role)) if is_there) or "none"
    live = seen.facts.live
    if live is None or live.state != "live":
        return Aspect(
            aspect="database", expected="none" if seen.facts.lease is None else "as its run needs", observed=there
        )
    if seen.wants_database is None:
        return Aspect(aspect="database", expected="as the recipe says", observed=there)
    problem = "the recipe of what serves asks for it" if seen.wants_database and not fact.database else ""
    return Aspect(aspect="database", expected=name if seen.wants_database else "none", observed=there, problem=problem)
