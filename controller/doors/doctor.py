"""Is this host as it must be, and if not, what mends it? Small facts in, findings out; `doctor_host` gathers the facts.

Each check judges one thing and looks at nothing itself, so that each can be broken in a test and seen to be named. A
finding is `ok`, `failed` with the remedy, or a `note`: nothing is wrong, but somebody should know.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from controller.decisions.admission import RESIDUAL_RISK
from controller.decisions.edge import shared_cookie_name
from controller.decisions.gates import describe_exposed
from controller.decisions.leftovers import Leftover
from controller.decisions.remedies import Fault, Place, remedy_of
from controller.doors.tables import plain
from controller.effects.publish import Problem
from controller.model.config import Policy
from controller.model.names import MAIN, SlotName, Topology, unit_instance
from controller.model.options import Options

PYTHON_MIN = (3, 11)
GIT_MIN = (2, 34)
#: Below this, known holes in request parsing (Host header, form limits).
STARLETTE_MIN = (1, 5, 1)
FREE_BYTES_MIN = 1 << 30
FREE_INODES_MIN = 100_000
CLOCK_SKEW_MAX_S = 2.0
#: A limit of the forge may well take some minutes.
REPORT_LATE_S = 900
PROBLEMS_SHOWN_MAX = 3


class Outcome(StrEnum):
    OK = "ok"
    FAILED = "failed"
    NOTE = "note"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found. `remedy` is "" unless it failed, or somebody may do something about a note."""

    name: str
    outcome: Outcome
    found: str
    remedy: str = ""
    #: The shell commands in the remedy, in their order.
    commands: tuple[str, ...] = ()
    #: The row of the table of remedies, and what is filled in there; None: the check says its remedy itself.
    fault: Fault | None = None
    about: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)

    def prescribed(self, place: Place) -> Finding:
        """Return the finding with the remedy for where the stack runs."""
        if self.fault is None:
            return self
        remedy = remedy_of(self.fault, place, self.about)
        return dataclasses.replace(self, remedy=remedy.text, commands=remedy.commands)


def ok(name: str, found: str) -> Finding:
    """Return that all is well."""
    return Finding(name=name, outcome=Outcome.OK, found=found)


def failed(name: str, found: str, fault: Fault, **about: str | tuple[str, ...]) -> Finding:
    """Return what is wrong; the table of remedies has what mends it."""
    return Finding(name=name, outcome=Outcome.FAILED, found=found, fault=fault, about=about)


def note(name: str, found: str, fault: Fault | None = None, **about: str | tuple[str, ...]) -> Finding:
    """Return what the operator should know, with a fault where something may be done about it."""
    return Finding(name=name, outcome=Outcome.NOTE, found=found, fault=fault, about=about)


# -- the programs that we stand on ------------------------------------------------------------------------------------


def check_python(version: tuple[int, ...]) -> Finding:
    """Judge the interpreter that runs us."""
    found = ".".join(map(str, version[:3]))
    if version < PYTHON_MIN:
        return failed("python", found, Fault.PYTHON_OLD, wanted=_dotted(PYTHON_MIN))
    return ok("python", found)


def check_git(said: str | None) -> Finding:
    """Judge what `git --version` printed; None: there is none."""
    wanted = _dotted(GIT_MIN)
    if said is None:
        return failed("git", "there is no git on the PATH", Fault.GIT_UNFIT, wanted=wanted)
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", said)
    if match is None:
        return failed("git", f"{said.strip()!r:.60} names no version", Fault.GIT_UNFIT, wanted=wanted)
    version = tuple(int(part) for part in match.groups() if part)
    if version < GIT_MIN:
        return failed("git", f"{match[0]} is older than {wanted}", Fault.GIT_UNFIT, wanted=wanted)
    return ok("git", match[0])


def check_starlette(version: str) -> Finding:
    """Judge the version of the library that reads strangers' requests."""
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if numbers < STARLETTE_MIN:
        told = f"{version} has known holes in how requests are read"
        return failed("starlette", told, Fault.STARLETTE_OLD, wanted=_dotted(STARLETTE_MIN))
    return ok("starlette", version)


def check_environment(problems: Sequence[str], *, root: Path) -> Finding:
    """Judge whether the settings can be read."""
    if problems:
        return failed("environment", "; ".join(problems), Fault.SETTINGS_UNREADABLE, root=str(root))
    return ok("environment", f"complete, root {root}")


# -- what root installed on a host -------------------------------------------------------------------------------------


def check_users(missing: Sequence[str]) -> Finding:
    """Judge whether every user is there."""
    if missing:
        return failed("users", f"missing: {', '.join(missing)}", Fault.INSTALLATION_CHANGED)
    return ok("users", "all there")


def check_units(states: Mapping[str, str], *, count: int) -> Finding:
    """Judge the units that must run; `states` are those that do not."""
    if states:
        told = ", ".join(f"{unit} is {state}" for unit, state in sorted(states.items()))
        # A service starts its socket before itself; both named in one restart, the socket refuses.
        services = tuple(sorted({unit.replace(".socket", ".service") for unit in states}))
        return failed("units", told, Fault.UNITS_DOWN, units=services, unit=services[0])
    return ok("units", f"{count} are active")


def check_maintenance(states: Mapping[str, str]) -> Finding:
    """Judge how the newest run of each maintenance job ended; `states` are the services that failed."""
    if states:
        told = ", ".join(f"{unit} {state}" for unit, state in sorted(states.items()))
        return failed("maintenance", told, Fault.MAINTENANCE_FAILED, units=tuple(sorted(states)), unit=min(states))
    return ok("maintenance", "no job failed at its newest run")


def check_folders(wrong: Sequence[str]) -> Finding:
    """Judge whether every folder is there, with its owner and mode."""
    if wrong:
        told = f"missing, or of another owner or mode: {', '.join(wrong)}"
        return failed("folders", told, Fault.INSTALLATION_CHANGED)
    return ok("folders", "all there, each of its owner")


def check_enabled(disabled: Sequence[str]) -> Finding:
    """Judge whether everything comes back after a reboot."""
    if disabled:
        return failed("boot", f"does not start at boot: {', '.join(disabled)}", Fault.INSTALLATION_CHANGED)
    return ok("boot", "everything starts at boot")


def check_overrides(paths: Sequence[str]) -> Finding:
    """Judge whether systemd reads for our units what install wrote, and nothing else."""
    if paths:
        told = f"units are changed by {', '.join(paths)}"
        return failed("overrides", told, Fault.UNITS_OVERRIDDEN, paths=tuple(paths))
    return ok("overrides", "nothing changes a unit beside what was installed")


def check_files(differing: Sequence[str], *, count: int) -> Finding:
    """Judge whether units, rule, code and configuration are as they were installed."""
    if differing:
        shown = ", ".join(differing[:PROBLEMS_SHOWN_MAX])
        more = f" and {len(differing) - PROBLEMS_SHOWN_MAX} more" if len(differing) > PROBLEMS_SHOWN_MAX else ""
        return failed("files", f"missing, or changed by hand: {shown}{more}", Fault.INSTALLATION_CHANGED)
    return ok("files", f"{count} files and the code are as they were installed")


def note_repository() -> Finding:
    """Tell that nobody has said which repository this host is about."""
    return note(
        "repository", "none yet: the worker waits for one, and the api takes no delivery", Fault.REPOSITORY_UNSET
    )


# -- the disk ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RootFacts:
    """What was found at the root folder. `problem` is what the system said when something could not be done."""

    path: Path
    writable: bool
    hard_links: bool
    free_bytes: int
    #: None: the file system does not count them.
    free_inodes: int | None
    problem: str = ""


def check_root_writable(facts: RootFacts) -> Finding:
    """Judge whether releases can be written."""
    if not facts.writable:
        told = f"{facts.path} cannot be written: {facts.problem}"
        return failed("root", told, Fault.ROOT_NOT_WRITABLE, path=str(facts.path))
    return ok("root", f"{facts.path} can be written")


def check_hard_links(facts: RootFacts) -> Finding:
    """Judge whether unchanged files can be links."""
    if facts.writable and not facts.hard_links:
        return failed(
            "hard links",
            f"the file system of {facts.path} makes no hard links: {facts.problem}",
            Fault.HARD_LINKS_MISSING,
        )
    return ok("hard links", "yes") if facts.writable else note("hard links", "not checked: the root cannot be written")


def check_free_space(facts: RootFacts) -> Finding:
    """Judge whether another release fits."""
    free = f"{facts.free_bytes / (1 << 30):.1f} GiB free"
    if facts.free_bytes < FREE_BYTES_MIN:
        return failed(
            "disk space",
            f"{free} under {facts.path}; less than {FREE_BYTES_MIN >> 30} GiB",
            Fault.DISK_FULL,
        )
    if facts.free_inodes is not None and facts.free_inodes < FREE_INODES_MIN:
        return failed(
            "disk space",
            f"{facts.free_inodes:,} inodes free under {facts.path}; less than {FREE_INODES_MIN:,}",
            Fault.INODES_SPENT,
        )
    return ok("disk space", free)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretFile:
    """A file that nobody else may read. `mode` is None when it is not there."""

    path: Path
    mode: int | None


def check_secret_modes(files: Sequence[SecretFile]) -> Finding:
    """Judge whether others could read a secret."""
    open_ones = [file for file in files if file.mode is not None and file.mode & 0o077]
    if open_ones:
        named = ", ".join(f"{file.path} ({file.mode:04o})" for file in open_ones if file.mode is not None)
        paths = tuple(str(file.path) for file in open_ones)
        return failed("secret files", f"others may read {named}", Fault.SECRETS_OPEN, paths=paths)
    return ok("secret files", f"{sum(file.mode is not None for file in files)} files, all closed to others")


def check_webhook_secret(path: Path | None, *, exists: bool, problems: Sequence[str]) -> Finding:
    """Judge whether deliveries can be believed. `problems` are what `read_secrets` says of the content."""
    if path is None:
        return failed("webhook secret", "OROBOROS_WEBHOOK_SECRETS_FILE is not set", Fault.WEBHOOK_SECRET_UNNAMED)
    if not exists or problems:
        told = f"{path}: {'; '.join(problems)}" if exists else f"{path} is not there"
        return failed("webhook secret", told, Fault.WEBHOOK_SECRET_UNFIT, path=str(path))
    return ok("webhook secret", f"{path} holds good secrets")


def check_operator_token(path: Path | None, *, problem: str) -> Finding:
    """Judge whether the operator can ask api and worker for more than whether they are well. `problem` is "" if so."""
    if path is None or problem:
        told = f"the JSON API answers nobody: {problem}"
        return failed("operator token", told, Fault.OPERATOR_TOKEN_UNFIT, path=str(path))
    return ok("operator token", f"{path} holds it: whoever knows it may read the JSON API")


# -- the parts --------------------------------------------------------------------------------------------------------


def check_mirror(path: Path, *, problem: str, head: str | None) -> Finding:
    """Judge whether the repository can be read. `problem` is "" when it could."""
    if problem:
        return failed("mirror", problem, Fault.MIRROR_BROKEN, path=str(path))
    if head is None:
        return note("mirror", "nothing was fetched yet", Fault.MIRROR_EMPTY)
    return ok("mirror", f"production is at {head[:7]}")


def check_signatures(problems: Sequence[str]) -> Finding:
    """Judge whether signatures can be verified, where the policy wants them."""
    if problems:
        return failed(
            "signatures",
            "production serves only signed commits, and none can be verified: " + "; ".join(problems),
            Fault.SIGNERS_MISSING,
        )
    return ok("signatures", "production serves only signed commits, and they can be verified")


def check_forge(
    url: str, *, problem: str, branch: str, fault: Fault = Fault.FORGE_AWAY, words: Sequence[str] = ()
) -> Finding:
    """Judge whether the forge answers and takes our token. `words` are those of `repo set` that say it anew."""
    if problem:
        return failed("forge", f"{url}: {problem}", fault, words=tuple(words))
    return ok("forge", f"{url} takes our token; its default branch is {branch}")


def check_reports(late: int, refused: int, *, error: str) -> Finding:
    """Judge whether the forge shows what is so: how many reports are late, and how many it refused for good."""
    if late or refused:
        return failed(
            "reports",
            f"{late} not sent for over {REPORT_LATE_S / 60:g} minutes, {refused} refused for good; the newest: {error}",
            Fault.REPORTS_LATE,
        )
    return ok("reports", "the forge shows what is so")


def check_troubles(said: Sequence[str]) -> Finding:
    """Judge whether the worker tries anything in vain; `said` is a line for each such thing."""
    if said:
        return failed("troubles", "; ".join(said), Fault.TROUBLES_LAST)
    return ok("troubles", "nothing fails for long")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFacts:
    """What the control plane's database said. `problem` is "" when it answered."""

    problem: str
    #: Name and digest of each migration that was applied; None when nothing ever was.
    applied: Mapping[str, str] | None = None
    #: Those that this version has.
    wanted: Mapping[str, str]
    #: How far the database's clock is ahead of ours; None when it did not answer.
    clock_ahead_s: float | None = None


def check_database(facts: DatabaseFacts) -> Finding:
    """Judge whether the control plane can remember."""
    if facts.problem:
        # libpq hands on what a server answered with its severity; of one that is away there is none.
        answers = "FATAL:" in facts.problem
        return failed("database", facts.problem, Fault.DATABASE_REFUSES if answers else Fault.DATABASE_AWAY)
    return ok("database", "answers")


def check_migrations(facts: DatabaseFacts) -> Finding:
    """Judge whether the tables are those that this version needs."""
    if facts.problem:
        return note("migrations", "not checked: the database does not answer")
    applied = facts.applied or {}
    missing = sorted(set(facts.wanted) - set(applied))
    changed = sorted(name for name in set(facts.wanted) & set(applied) if facts.wanted[name] != applied[name])
    if changed:
        return failed(
            "migrations",
            f"{', '.join(changed)} was applied with other content",
            Fault.MIGRATIONS_EDITED,
        )
    if missing:
        return failed("migrations", f"{', '.join(missing)} not applied", Fault.MIGRATIONS_MISSING)
    newer = sorted(set(applied) - set(facts.wanted))
    if newer:
        return note("migrations", f"the database has {', '.join(newer)}, which this version does not know")
    return ok("migrations", f"{len(applied)} applied")


def check_clock(facts: DatabaseFacts) -> Finding:
    """Judge whether our clock and the database's agree: watch windows and leases are timed by ours."""
    if facts.clock_ahead_s is None:
        return note("clock", "not checked: the database does not answer")
    if abs(facts.clock_ahead_s) > CLOCK_SKEW_MAX_S:
        return failed(
            "clock",
            f"the database's clock is {facts.clock_ahead_s:+.1f} s off ours",
            Fault.CLOCKS_DIFFER,
        )
    return ok("clock", f"the database's is {facts.clock_ahead_s:+.1f} s off ours")


def check_redis(*, answers: bool) -> Finding:
    """Judge whether the bell can be rung. Nothing is lost without it, but all takes a poll interval longer."""
    if not answers:
        told = "does not answer: what happens is noticed at the next poll only; nothing is lost"
        return failed("redis", told, Fault.REDIS_AWAY)
    return ok("redis", "answers")


def check_runtime(*, problem: str, units: int, limitations: Sequence[str]) -> tuple[Finding, ...]:
    """Judge whether processes can be started, and tell what the runtime cannot enforce."""
    if problem:
        return (failed("runtime", problem, Fault.RUNTIME_AWAY),)
    return (
        ok("runtime", f"answers; {units} unit{'' if units == 1 else 's'}"),
        *(note("runtime", limitation) for limitation in limitations),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthFacts:
    """What a health address answered. `status` is None when nobody did; `slot` is whose answer it says it is."""

    what: str
    url: str
    status: int | None
    slot: str | None = None
    said: str = ""


def check_surface(slot: SlotName, facts: HealthFacts, *, stopped: str = "") -> Finding:
    """Judge what answers at a slot's web port. `stopped` says who stopped its backend by hand; "" when nobody did."""
    name, unit = f"surface {slot}", _unit("web", slot)
    if facts.status is None:
        return failed(name, f"nothing answers at {facts.url}: {facts.said}", Fault.SURFACE_DOWN, unit=unit)
    if facts.slot != slot:
        told = f"{facts.url} is answered by something that is not the surface of {slot}"
        return failed(name, told, Fault.SURFACE_FOREIGN, unit=unit)
    if stopped:
        return note(name, f"nothing serves: {stopped}", Fault.SLOT_STOPPED, slot=slot)
    if facts.status != 200:
        told = f"{facts.url} says {facts.status}: what is live does not pass its own health check"
        return failed(name, told, Fault.PRODUCTION_UNWELL if slot == MAIN else Fault.PREVIEW_UNWELL, slot=slot)
    return ok(name, f"{facts.url} answers")


def check_edge(slot: SlotName, host: str, facts: HealthFacts) -> Finding:
    """Judge whether the edge leads a host name to its slot."""
    name = f"edge {slot}"
    if facts.status is None:
        return failed(name, f"the edge does not answer at {facts.url}: {facts.said}", Fault.EDGE_DOWN)
    if facts.slot != slot:
        led = f"to {facts.slot}" if facts.slot else f"nowhere ({facts.status})"
        return failed(name, f"{host} leads {led}, not to {slot}", Fault.EDGE_MISLEADS)
    return ok(name, f"{host} leads to {slot}")


def check_part(what: str, facts: HealthFacts) -> Finding:
    """Judge what the api or the worker says about itself."""
    unit = _unit(what)
    if facts.status is None:
        return failed(what, f"does not answer at {facts.url}: {facts.said}", Fault.PART_DOWN, unit=unit)
    if facts.status != 200:
        return failed(what, f"{facts.url} says {facts.status}: {facts.said:.200}", Fault.PART_UNWELL, unit=unit)
    return ok(what, f"{facts.url} answers")


@dataclass(frozen=True, slots=True, kw_only=True)
class PortOwner:
    """Who listens on a port of ours. `ours` is None when we cannot see whose process it is."""

    what: str
    port: int
    pid: int | None
    #: In words, with its user and unit.
    process: str
    ours: bool | None


def check_ports(owners: Iterable[PortOwner]) -> Finding:
    """Judge whether a stranger sits on a port of this stack."""
    listening = list(owners)
    strangers = [owner for owner in listening if owner.ours is False]
    if strangers:
        named = "; ".join(f"{owner.port} ({owner.what}) is held by {owner.process}" for owner in strangers)
        pids = tuple(dict.fromkeys(str(owner.pid) for owner in strangers))
        return failed("ports", named, Fault.PORTS_TAKEN, pids=pids)
    unknown = sum(owner.ours is None for owner in listening)
    if unknown:
        return note("ports", f"{len(listening)} in use; of {unknown} the owner cannot be seen by this user")
    return ok("ports", f"{len(listening)} in use, all ours")


def note_exposed(listens: Mapping[SlotName, Sequence[str]]) -> Finding:
    """Tell which apps listen where other machines reach them, past the edge: theirs to decide, so never a failure."""
    told = [f"{slot} {exposed}" for slot, every in listens.items() if (exposed := describe_exposed(every))]
    if told:
        return note("listens", "; ".join(told), Fault.APP_EXPOSED)
    return ok("listens", "no app listens past the edge")


def check_leftovers(left: Sequence[Leftover]) -> Finding:
    """Judge whether everything on the disk has an owner that lives."""
    if left:
        shown = "; ".join(f"{one.path}: {one.message}" for one in left[:PROBLEMS_SHOWN_MAX])
        more = f" and {len(left) - PROBLEMS_SHOWN_MAX} more" if len(left) > PROBLEMS_SHOWN_MAX else ""
        return failed("leftovers", f"{shown}{more}", Fault.LEFT_BEHIND)
    return ok("leftovers", "everything below the root has its owner")


# -- what is said against what is so ----------------------------------------------------------------------------------


def check_live(
    slot: SlotName,
    path: Path,
    *,
    live: str | None,
    current: str | None,
    problem: str,
    fault: Fault = Fault.LIVE_UNREADABLE,
) -> Finding:
    """Judge whether `current` names what the slot's live link, at `path`, serves. `problem` says which of the two
    cannot be read, `fault` what follows from that."""
    name = f"live {slot}"
    if problem:
        return failed(name, problem, fault, path=str(path))
    if live is not None and live != current:
        return failed(
            name,
            f"live serves {live[:7]}, current names {'nothing' if current is None else current[:7]}",
            Fault.CURRENT_LAGS,
        )
    return ok(name, "serves nothing" if live is None else f"serves {live[:7]}")


def check_release(release: str | None, problems: Sequence[Problem], *, problem: str = "") -> Finding:
    """Judge whether what production serves is what git has."""
    if problem:
        return failed("release", problem, Fault.RELEASE_UNREADABLE)
    if release is None:
        return note("release", "production serves no release yet")
    if problems:
        shown = "; ".join(f"{p.path or '(top folder)'}: {p.damage}" for p in problems[:PROBLEMS_SHOWN_MAX])
        more = len(problems) - PROBLEMS_SHOWN_MAX
        return failed(
            "release",
            f"{release[:7]} is not as git has it: {shown}" + (f" and {more} more" if more > 0 else ""),
            Fault.RELEASE_DAMAGED,
        )
    return ok("release", f"{release[:7]} is whole")


def waiting_for_install(policy: Policy, topology: Topology) -> tuple[str, ...]:
    """Return what the policy says and this host does not do yet: slots, ports and hosts take effect at install. Not
    where an option of install says otherwise: that wins."""
    waits: list[str] = []
    said = topology.said or Options()
    if said.previews is None and policy.previews.enabled and policy.previews.slots != topology.previews:
        waits.append(f"[previews] slots = {policy.previews.slots}, this host has {topology.previews}")
    main = topology.slots[0]
    host = policy.production.host if said.production_host is None else None
    if host is not None and host != topology.host(main):
        waits.append(f'[production] host = "{host}", this host has {topology.host(main)}')
    if said.backend_port is None and policy.production.backend_port is not None:
        installed = topology.backend_port(main)
        if policy.production.backend_port + topology.ports.offset != installed:
            waits.append(f"[production] backend_port = {policy.production.backend_port}, this host has {installed}")
    if said.preview_host is None and policy.previews.host is not None:
        for index, slot in enumerate(topology.preview_slots, start=1):
            if policy.previews.host.replace("{n}", str(index)) != topology.host(slot):
                waits.append(f'[previews] host = "{policy.previews.host}", this host has {topology.host(slot)}')
                break
    if said.tls is None and policy.edge.tls != topology.tls:
        waits.append(f'[edge] tls = "{policy.edge.tls}", this host has "{topology.tls}"')
    if policy.edge.trusted_proxies != topology.trusted_proxies:
        here = ", ".join(topology.trusted_proxies) or "none"
        waits.append(f"[edge] trusted_proxies = {', '.join(policy.edge.trusted_proxies) or '[]'}, this host has {here}")
    for wall in dataclasses.fields(policy.walls):
        wanted, installed_value = getattr(policy.walls, wall.name), getattr(topology.walls, wall.name)
        if wanted != installed_value:
            waits.append(f"[walls] {wall.name} = {wanted}, this host has {installed_value}")
    return tuple(f"{wait}: it waits for `oroboros install`" for wait in waits)


def warn_of_shared_cookies(topology: Topology) -> str:
    """Return what previews may do to production's visitors when both are below one domain; "" when they are apart."""
    name = shared_cookie_name(topology)
    if name is None:
        return ""
    main, preview = (topology.host(slot) for slot in topology.slots[:2])
    return (
        f"production ({main}) and previews ({preview}) are both below {name}: a preview can set and overwrite cookies"
        f" that browsers send to production"
    )


def warn_of_forks(policy: Policy) -> str:
    """Return what remains to be feared where approved forks run; "" where none does."""
    permissions = policy.permissions
    return RESIDUAL_RISK if permissions.forks == "approval" and permissions.accept_fork_risk else ""


def note_cookies(topology: Topology) -> Finding:
    """Tell whether a preview can set cookies for production: allowed, for whoever knows it, so never a failure."""
    warning = warn_of_shared_cookies(topology)
    if warning:
        return note("cookies", warning, Fault.COOKIES_SHARED)
    return ok("cookies", "no preview can set one for production")


def check_policy(policy: Policy | None, problems: Sequence[str], topology: Topology) -> tuple[Finding, ...]:
    """Judge whether the newest policy is valid and in effect. None: there is no production head to read it from."""
    if problems:
        return (failed("policy", "; ".join(problems), Fault.POLICY_INVALID),)
    if policy is None:
        return (note("policy", "not checked: nothing was fetched yet"),)
    waits = waiting_for_install(policy, topology)
    forks = warn_of_forks(policy)
    told = (note("forks", forks, Fault.FORKS_RUN),) if forks else ()
    if waits:
        return (*(note("policy", wait, Fault.POLICY_WAITS) for wait in waits), *told)
    return (ok("policy", "valid and in effect"), *told)


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Print every finding, remedies below what they mend, and a last line that counts."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", ratio=1)
    styles = {Outcome.OK: "green", Outcome.FAILED: "bold red", Outcome.NOTE: "yellow"}
    for finding in findings:
        said = Text(plain(finding.found))
        if finding.remedy:
            said.append(f"\n-> {plain(finding.remedy)}", style="bold" if finding.outcome is Outcome.FAILED else "dim")
        table.add_row(Text(finding.outcome, style=styles[finding.outcome]), Text(finding.name), said)
    console.print(table)
    wrong = sum(finding.outcome is Outcome.FAILED for finding in findings)
    last = f"{wrong} of {len(findings)} checks failed" if wrong else f"all is well: {len(findings)} checks"
    console.print(Text(last, style="bold red" if wrong else "bold green"))


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _unit(part: str, slot: SlotName | None = None) -> str:
    return f"ouroboros-{part}" + (f"@{unit_instance(slot)}" if slot is not None else "") + ".service"
