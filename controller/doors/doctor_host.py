"""What is so on this host? Gathers the facts for `doctor`, changes nothing, and waits for nobody longer than seconds.

Every fact is asked for on its own: a part that is away costs its own checks and no others.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import pwd
import secrets
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import psycopg
import starlette

from controller.decisions.github.answers import AWAY
from controller.decisions.github.repository import require_ours
from controller.decisions.health import HEALTH_PATH, PUBLIC_HEALTH_PATH
from controller.decisions.host_units import enabled_units, installed_units, port_holders
from controller.decisions.installation import (
    FileFact,
    HostFacts,
    Wanted,
    plan_files,
    wanted_files,
    wanted_folders,
    wanted_users,
)
from controller.decisions.remedies import Fault, Place
from controller.doors import doctor, views
from controller.doors.doctor import DatabaseFacts, Finding, HealthFacts, PortOwner, RootFacts, SecretFile
from controller.doors.forges import open_forges, secret_files
from controller.doors.leftovers import find_leftovers
from controller.doors.manual import shell_files
from controller.doors.operator_token import operator_token
from controller.doors.policies import read_policy
from controller.doors.stacks import ENVIRONMENT_FILE, Stack, open_mirror, open_runtime, utc_now
from controller.doors.tables import progress
from controller.effects.host import (
    CLOSED,
    edited_code,
    read_file,
    read_folder,
    read_host_name,
    read_passwords,
    read_shared_redis,
)
from controller.effects.publish import verify_release
from controller.effects.signatures import Signatures
from controller.effects.stack_files import read_stack, read_topology
from controller.effects.store import SQL_FOLDER, Store
from controller.effects.systemd import look_at_units
from controller.effects.wake import Bell
from controller.listeners import describe_process
from controller.model.config import Policy, Settings
from controller.model.deploy_toml import DEPLOY_TOML_BYTES_MAX, parse_policy
from controller.model.errors import ConfigInvalid, OroborosError, Unavailable
from controller.model.names import (
    HOST_APP,
    HOST_CONFIG,
    HOST_LAYOUT,
    MAIN,
    Layout,
    SlotName,
    Topology,
    instance_unit,
    slot_of_unit,
)
from hooks.signature import SECRETS_FILE_BYTES_MAX, read_secrets

ASK_TIMEOUT_S = 3.0
#: What was about to end has ended by then.
SECOND_LOOK_AFTER_S = 0.5
DATABASE_TIMEOUT_S = 3
SAID_BYTES_MAX = 2_000
GIT_TIMEOUT_S = 5.0
SECRETS = tuple(HOST_CONFIG / name for name in ("webhook-secrets", "operator-token", "forge-token"))
WORKER_UNIT = "ouroboros-worker.service"


def examine(stack: Stack) -> list[Finding]:
    """Check everything; return a finding at least for each check, in the order in which they should be mended.

    Refused where only root may look: half of a host's truth would be a false alarm."""
    stack.require_open()
    place = Place.HOST if stack.is_host else Place.DEVELOPMENT
    return [finding.prescribed(place) for finding in _examine(stack)]


def _examine(stack: Stack) -> list[Finding]:
    findings = [
        doctor.check_python(sys.version_info[:3]),
        doctor.check_git(ask_git()),
        doctor.check_starlette(starlette.__version__),
    ]
    root = probe_root(stack.root)
    findings += [doctor.check_root_writable(root), doctor.check_hard_links(root), doctor.check_free_space(root)]
    if stack.is_host:
        try:
            findings += examine_installation(read_topology(HOST_LAYOUT))
        except ConfigInvalid as error:
            return [*findings, doctor.failed("topology", error.message, Fault.TOPOLOGY_UNREADABLE)]
        if not (HOST_CONFIG / "repository.env").exists():
            closed = [SecretFile(path=path, mode=_mode(path)) for path in (*HOST_CONFIG.glob("*.env"), *SECRETS)]
            return [*findings, doctor.check_secret_modes(closed), doctor.note_repository()]
    try:
        settings = stack.settings()
    except ConfigInvalid as error:
        return [*findings, doctor.check_environment(error.problems, root=stack.root)]
    findings.append(doctor.check_environment((), root=stack.root))
    findings += examine_secrets(settings)
    with progress("asking every part"):
        parts = examine_parts(settings)
        findings += parts
        try:
            topology = read_topology(settings.layout)
        except ConfigInvalid as error:
            return [*findings, doctor.failed("topology", error.message, Fault.TOPOLOGY_UNREADABLE)]
        findings += examine_addresses(settings, topology)
        if not any(one.fault is Fault.MIGRATIONS_MISSING for one in parts):  # tables that are not ours yet
            findings += examine_leftovers(settings, topology)
    findings += examine_slots(settings, topology)
    return findings


def examine_leftovers(settings: Settings, topology: Topology) -> list[Finding]:
    """Check that nothing below the root outlived its owner; nothing is said where rows or processes cannot be seen."""
    store = Store(settings.database_url, repository=settings.repository, host=settings.host)
    try:
        history = store.load_history()
        left = find_leftovers(settings.layout, topology, store, open_runtime(settings), history)
    except OroborosError:
        return []  # the checks of database and runtime say why
    finally:
        store.close()
    return [doctor.check_leftovers(left)]


def examine_installation(topology: Topology) -> list[Finding]:
    """Check what root installed on a host: users, folders, units, and the rule by which the worker may start them."""
    users = {user.pw_name for user in pwd.getpwall()}
    is_told = (HOST_CONFIG / "repository.env").exists()
    running = [unit.name for unit in installed_units(topology) if unit.runs]
    awaited = [unit for unit in running if is_told or unit != WORKER_UNIT]
    states = dict(zip(awaited, unit_states(awaited), strict=False))
    at_boot = enabled_units(topology)
    disabled = [
        unit for unit, state in zip(at_boot, unit_states(at_boot, ask="is-enabled"), strict=False) if state != "enabled"
    ]
    wrong = [str(folder.path) for folder in wanted_folders(topology) if read_folder(folder.path) != folder]
    return [
        doctor.check_users(sorted(set(wanted_users(topology)) - users)),
        doctor.check_folders(wrong),
        doctor.check_units({unit: state for unit, state in states.items() if state != "active"}, count=len(awaited)),
        doctor.check_enabled(disabled),
        examine_maintenance(topology),
        examine_overrides(topology),
        examine_files(topology),
    ]


def examine_maintenance(topology: Topology) -> Finding:
    """Ask how the newest run of each service ended that a timer starts."""
    services = [unit.replace(".timer", ".service") for unit in enabled_units(topology) if unit.endswith(".timer")]
    states = zip(services, unit_states(services, ask="is-failed"), strict=False)
    return doctor.check_maintenance({unit: state for unit, state in states if state == "failed"})


def examine_overrides(topology: Topology) -> Finding:
    """Look for what changes a unit beside the files that install wrote: a drop-in, a unit in an earlier folder."""
    try:
        units = look_at_units(topology)
    except Unavailable as error:
        return doctor.failed("overrides", error.message, Fault.RUNTIME_AWAY)
    return doctor.check_overrides(sorted({path for unit in units for path in unit.strange_files}))


def examine_files(topology: Topology) -> Finding:
    """Compare every file that root installed with what an installation would write now."""
    wanted = Wanted(
        topology=topology,
        passwords=read_passwords(lambda: ""),
        host=read_host_name(),
        webhook_secret="",
        operator_token="",
        app="",
        caddy="",
        shared_redis=read_shared_redis(),
        shell_files=shell_files(),
    )
    paths = [file.path for file in wanted_files(wanted)]
    found = {path: read_file(path) for path in paths}
    facts = HostFacts(
        files={path: fact for path, fact in found.items() if isinstance(fact, FileFact)},
        closed=frozenset(path for path, fact in found.items() if fact is CLOSED),
    )
    differing = [str(change.file.path) for change in plan_files(facts, wanted)]
    differing += [str(path) for path in edited_code(HOST_APP)]
    return doctor.check_files(differing, count=len(paths))


def unit_states(
    units: Sequence[str], *, ask: Literal["is-active", "is-enabled", "is-failed"] = "is-active"
) -> list[str]:
    """Return what systemd says of each unit, in their order; "unknown" for all when it does not answer."""
    try:
        done = subprocess.run(
            ("systemctl", ask, "--", *units),
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ["unknown"] * len(units)
    return done.stdout.split() or ["unknown"] * len(units)


# -- programs and disk ------------------------------------------------------------------------------------------------


def ask_git(program: str = "git") -> str | None:
    """Return what git says of its version; None when there is none."""
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def probe_root(root: Path) -> RootFacts:
    """Write and link a small file under the root, and remove both; count what is free."""
    name = f".doctor-{secrets.token_hex(6)}"
    writable = hard_links = False
    problem = ""
    try:
        (root / name).touch(mode=0o600, exist_ok=False)
        writable = True
        os.link(root / name, root / f"{name}-link")
        hard_links = True
    except OSError as error:
        problem = error.strerror or str(error)
    finally:
        for leftover in (name, f"{name}-link"):
            with contextlib.suppress(OSError):
                (root / leftover).unlink()
    try:
        counted = os.statvfs(root if root.exists() else root.parent)
        free_bytes = counted.f_bavail * counted.f_frsize
        free_inodes = counted.f_favail if counted.f_files else None
    except OSError:
        free_bytes, free_inodes = 0, None
    return RootFacts(
        path=root,
        writable=writable,
        hard_links=hard_links,
        free_bytes=free_bytes,
        free_inodes=free_inodes,
        problem=problem,
    )


def examine_secrets(settings: Settings) -> list[Finding]:
    """Look at the webhook secret, the operator's token, and at who may read the files that hold secrets."""
    path = settings.webhook_secrets_file
    exists, problems = False, []
    if path is not None:
        exists = path.exists()
        try:
            with path.open(encoding="utf-8") as file:
                read_secrets(file.read(SECRETS_FILE_BYTES_MAX))
        except ConfigInvalid as error:
            problems = list(error.problems)
        except (OSError, UnicodeDecodeError) as error:
            problems = [f"cannot be read: {error}"]
    return [
        doctor.check_webhook_secret(path, exists=exists, problems=problems),
        doctor.check_operator_token(
            settings.operator_token_file, problem=operator_token(settings.operator_token_file)[1]
        ),
        doctor.check_secret_modes(find_secret_files(settings)),
    ]


def find_secret_files(settings: Settings) -> list[SecretFile]:
    """Return every file that holds a secret of this stack, with its mode."""
    layout = settings.layout
    paths = [layout.stack_file, layout.root / ENVIRONMENT_FILE]
    paths += secret_files(settings)
    for folder in (settings.config_dir, layout.environment_file("x").parent):
        with contextlib.suppress(OSError):
            paths += sorted(folder.glob("*.env"))
    return [SecretFile(path=path, mode=_mode(path)) for path in dict.fromkeys(paths)]


def _mode(path: Path) -> int | None:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None


# -- parts ------------------------------------------------------------------------------------------------------------


def examine_parts(settings: Settings) -> list[Finding]:
    """Ask mirror, forge, database, Redis and runtime."""
    database = ask_database(settings.database_url)
    return [
        _examine_mirror(settings),
        *_examine_signatures(settings),
        _examine_forge(settings),
        doctor.check_database(database),
        doctor.check_migrations(database),
        doctor.check_clock(database),
        *_examine_reports(settings),
        doctor.check_redis(answers=Bell(settings.redis_url).is_there()),
        *_examine_runtime(settings),
    ]


def _examine_mirror(settings: Settings) -> Finding:
    path = settings.layout.mirror
    try:
        head = open_mirror(settings).production_head()
    except OroborosError as error:
        return doctor.check_mirror(path, problem=error.message, head=None)
    return doctor.check_mirror(path, problem="", head=None if head is None else head.sha)


def _examine_signatures(settings: Settings) -> tuple[Finding, ...]:
    store = Store(settings.database_url, repository=settings.repository, host=settings.host)
    with contextlib.closing(store):
        try:
            required = read_policy(settings, store.load_repository()).production.signed == "required"
        except (OroborosError, psycopg.Error):
            return ()  # another check says what is wrong
    signatures = Signatures(settings.layout.mirror, settings.config_dir)
    return (doctor.check_signatures(signatures.problems()),) if required else ()


def _examine_reports(settings: Settings) -> tuple[Finding, ...]:
    store = Store(settings.database_url, repository=settings.repository, host=settings.host)
    with contextlib.closing(store):
        try:
            (row,) = store.load_rows(
                "SELECT count(*) FILTER (WHERE NOT stalled) AS late, count(*) FILTER (WHERE stalled) AS refused,"
                " coalesce((array_agg(error ORDER BY updated_at DESC) FILTER (WHERE error <> ''))[1], '') AS error"
                " FROM reports WHERE repository_id = %s AND sent_generation < generation"
                " AND surface <> 'notification' AND (stalled OR updated_at < %s)",
                [store.repository_id, utc_now() - timedelta(seconds=doctor.REPORT_LATE_S)],
            )
            troubles = views.read_troubles(store, now=utc_now())
        except (OroborosError, psycopg.Error):
            return ()  # another check says what is wrong
    return (
        doctor.check_reports(int(row["late"]), int(row["refused"]), error=str(row["error"])),
        doctor.check_troubles([trouble.said for trouble in troubles]),
    )


def _examine_forge(settings: Settings) -> Finding:
    try:
        with open_forges(settings, clock=utc_now) as forges:
            found = forges.forge.repository()
            require_ours(found, pinned=_pinned(settings))
    except OroborosError as error:
        fault = Fault.TOKEN_REFUSED if settings.github_app_id is None else Fault.APP_REFUSED
        return doctor.check_forge(
            settings.forge_url,
            problem=f"{error.reason}: {error.message}",
            branch="",
            fault=Fault.FORGE_AWAY if error.reason in AWAY else fault,
            words=_words_of_repository(settings),
        )
    return doctor.check_forge(settings.forge_url, problem="", branch=found.default_branch)


def _words_of_repository(settings: Settings) -> tuple[str, ...]:
    """Return the words of `repo set` that say again what is set."""
    branch = settings.production_branch
    return (settings.repository, "--forge-url", settings.forge_url, *(("--branch", branch) if branch else ()))


def _pinned(settings: Settings) -> int | None:
    """Return the id of the repository that is deployed from here, None where that cannot be known."""
    store = Store(settings.database_url, repository=settings.repository, host=settings.host)
    with contextlib.closing(store):
        try:
            return store.load_repository().forge_id
        except (OroborosError, psycopg.Error):
            return None  # another check says what is wrong


def ask_database(url: str, *, folder: Path = SQL_FOLDER) -> DatabaseFacts:
    """Ask the control plane's database which migrations it has and what time it is."""
    wanted = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("[0-9]*.sql")}
    try:
        with psycopg.connect(url, connect_timeout=DATABASE_TIMEOUT_S, autocommit=True) as connection:
            connection.execute("SET statement_timeout = 3000")
            before = datetime.now(UTC)
            row = connection.execute("SELECT clock_timestamp()").fetchone()
            after = datetime.now(UTC)
            assert row is not None
            ahead_s = (row[0] - (before + (after - before) / 2)).total_seconds()
            try:
                applied: dict[str, str] | None = dict(
                    connection.execute("SELECT name, sha256 FROM schema_migrations").fetchall()
                )
            except psycopg.errors.UndefinedTable:
                applied = None
    except psycopg.Error as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return DatabaseFacts(problem=f"does not answer: {lines[0]:.200}", wanted=wanted)
    return DatabaseFacts(problem="", applied=applied, wanted=wanted, clock_ahead_s=ahead_s)


def _examine_runtime(settings: Settings) -> tuple[Finding, ...]:
    try:
        runtime = open_runtime(settings)
        return doctor.check_runtime(problem="", units=len(runtime.observe()), limitations=runtime.limitations())
    except Unavailable as error:
        return doctor.check_runtime(problem=error.message, units=0, limitations=())


# -- addresses --------------------------------------------------------------------------------------------------------


def examine_addresses(settings: Settings, topology: Topology) -> list[Finding]:
    """Ask every address that this stack answers on, and see who holds its ports."""
    ports = topology.ports
    stops = _find_stops(settings)
    findings = [
        doctor.check_surface(slot, ask_health(f"surface {slot}", ports.web(slot)), stopped=stops.get(slot, ""))
        for slot in topology.slots
    ]
    findings += [
        doctor.check_edge(
            slot, topology.host(slot), ask_health("edge", ports.edge, host=topology.host(slot), path=PUBLIC_HEALTH_PATH)
        )
        for slot in topology.slots
    ]
    # To the operator they say why they are not well.
    token, _ = operator_token(settings.operator_token_file)
    findings.append(doctor.check_part("api", ask_health("api", ports.api, token=token)))
    findings.append(doctor.check_part("worker", ask_health("worker", ports.worker_health, token=token)))
    findings.append(doctor.check_ports(find_owners(settings, topology)))
    return findings


def _find_stops(settings: Settings) -> dict[str, str]:
    """Return who stopped a slot's backend by hand, slot by slot."""
    store = Store(settings.database_url, repository=settings.repository, host=settings.host)
    with contextlib.closing(store):
        try:
            return views.read_stops(store)
        except (OroborosError, psycopg.Error):
            return {}  # the check of the database says why


def ask_health(
    what: str, port: int, *, host: str = "127.0.0.1", path: str = HEALTH_PATH, token: bytes | None = None
) -> HealthFacts:
    """GET a path on a port of loopback, under a host name, as the operator with a `token`. Names are not looked up:
    `*.localhost` resolves nowhere but in browsers."""
    url = f"http://127.0.0.1:{port}{path}"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ASK_TIMEOUT_S)
    try:
        as_operator = {} if token is None else {"Authorization": b"Bearer " + token}
        connection.request("GET", path, headers={"Host": host, "Connection": "close", **as_operator})
        answer = connection.getresponse()
        said = answer.read(SAID_BYTES_MAX).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        problem = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        return HealthFacts(what=what, url=url, status=None, said=problem)
    finally:
        connection.close()
    return HealthFacts(what=what, url=url, status=answer.status, slot=_slot_in(said), said=said.strip())


def _slot_in(said: str) -> str | None:
    try:
        value = json.loads(said)
    except ValueError:
        return None
    slot = value.get("slot") if isinstance(value, dict) else None
    return slot if isinstance(slot, str) else None


def find_owners(
    settings: Settings, topology: Topology, *, pause: Callable[[float], None] = time.sleep
) -> list[PortOwner]:
    """Return who listens on each port of this stack that is in use, as far as /proc lets us see.

    An instance that ends while its rows in /proc are read looks like a stranger: one counts that is there at a second
    look too."""
    found = _look_for_owners(settings, topology)
    strangers = {(owner.port, owner.pid) for owner in found if owner.ours is False}
    if not strangers:
        return found
    pause(SECOND_LOOK_AFTER_S)
    again = _look_for_owners(settings, topology)
    return [owner for owner in again if owner.ours is not False or (owner.port, owner.pid) in strangers]


def _look_for_owners(settings: Settings, topology: Topology) -> list[PortOwner]:
    listening = _listening_sockets()
    is_host = settings.runtime == "systemd"
    # A host has no forge of its own, and Postgres and Redis are its administrator's.
    of_host = ((holder.what, holder.port) for holder in port_holders(topology) if not holder.of_host)
    wanted = {
        port: what
        for what, port in (of_host if is_host else topology.ports.all_for(topology.slots))
        if port in listening
    }
    if not wanted:
        return []
    owners = _socket_owners({inode for port in wanted for inode in listening[port]})
    roots = _own_processes(settings)
    found: list[PortOwner] = []
    for port, what in sorted(wanted.items()):
        pids = {owners[inode] for inode in listening[port] if inode in owners}
        pid = min(pids, default=None)
        ours = None if pid is None or not roots else any(_descends(one, roots) for one in pids)
        if pid is not None and (is_host or not roots):
            # systemd itself holds the api's port.
            ours = True if is_host and pid == 1 else _is_unit_of_ours(pid)
        found.append(PortOwner(what=what, port=port, pid=pid, process=describe_process(pid), ours=ours))
    return found


def _listening_sockets() -> dict[int, set[str]]:
    """Return port -> inodes of the sockets that listen on it on loopback or everywhere (proc_net_tcp(5))."""
    found: dict[int, set[str]] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            words = row.split()
            if words[3] == "0A":
                found.setdefault(int(words[1].rsplit(":", 1)[1], 16), set()).add(words[9])
    return found


def _socket_owners(inodes: set[str]) -> dict[str, int]:
    names = {f"socket:[{inode}]": inode for inode in inodes}
    owners: dict[str, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            for descriptor in (process / "fd").iterdir():
                inode = names.get(os.readlink(descriptor))
                if inode is not None:
                    owners.setdefault(inode, int(process.name))
        except OSError:
            continue  # it ended, or is another user's
    return owners


def _own_processes(settings: Settings) -> set[int]:
    """Return the processes whose descendants are this stack's: `oroboros up`, and what the runtime started."""
    roots: set[int] = set()
    with contextlib.suppress(OroborosError):
        pid = read_stack(settings.layout.root).get("pid")
        if isinstance(pid, int):
            roots.add(pid)
    with contextlib.suppress(OroborosError):
        roots |= {fact.pid for fact in open_runtime(settings).observe() if fact.pid and slot_of_unit(fact.unit)}
    return roots


def _descends(pid: int, roots: set[int]) -> bool:
    seen: set[int] = set()
    for ancestor in _ancestors(pid):
        if ancestor in roots:
            return True
        if ancestor in seen:
            return False
        seen.add(ancestor)
    return False


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        yield pid
        try:
            # The name, in parentheses, may hold anything: the parent is the second word after the last one.
            pid = int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return


def _is_unit_of_ours(pid: int) -> bool | None:
    """Say whether a process belongs to a unit of the host contract; None when its control group cannot be read."""
    try:
        return "ouroboros-" in (Path("/proc") / str(pid) / "cgroup").read_text()
    except OSError:
        return None


# -- slots and releases -----------------------------------------------------------------------------------------------


def examine_slots(settings: Settings, topology: Topology) -> list[Finding]:
    """Compare what is said with what is so: `current` with `live`, the release with git, the policy with this host."""
    findings = [_examine_live(settings.layout, slot) for slot in topology.slots]
    findings.append(_examine_release(settings))
    findings.append(_examine_listeners(settings, topology))
    findings += _examine_policy(settings, topology)
    findings.append(doctor.note_cookies(topology))
    return findings


def _examine_listeners(settings: Settings, topology: Topology) -> Finding:
    runtime = open_runtime(settings)
    listens: dict[SlotName, Sequence[str]] = {}
    for slot in topology.slots:
        live, _, _ = views.read_host_slot(settings.layout, slot)
        if live is None or live.state != "live" or live.colour is None:
            continue
        unit = instance_unit(slot, live.colour)
        try:
            listens[slot] = () if runtime.has_own_network(unit) else runtime.listeners(unit, live.generation)
        except OroborosError as error:
            return doctor.note("listens", f"not known: {error.message}")
    return doctor.note_exposed(listens)


def _examine_live(layout: Layout, slot: SlotName) -> Finding:
    live, current, problem = views.read_host_slot(layout, slot)
    serves = live.release if live is not None and live.state == "live" else None
    # What cannot be read is `live`, or else `current`, which the worker writes anew.
    fault = Fault.LIVE_UNREADABLE if live is None else Fault.CURRENT_LAGS
    return doctor.check_live(slot, layout.live(slot), live=serves, current=current, problem=problem, fault=fault)


def _examine_release(settings: Settings) -> Finding:
    live, _, problem = views.read_host_slot(settings.layout, MAIN)
    if live is None or live.state != "live" or live.release is None:
        return doctor.check_release(None, (), problem=problem if live is None else "")
    try:
        with progress(f"verifying {live.release[:7]}"):
            problems = verify_release(open_mirror(settings), settings.layout, live.release)
    except OroborosError as error:
        return doctor.check_release(live.release, (), problem=error.message)
    return doctor.check_release(live.release, problems)


def _examine_policy(settings: Settings, topology: Topology) -> tuple[Finding, ...]:
    policy: Policy | None = None
    problems: tuple[str, ...] = ()
    try:
        mirror = open_mirror(settings)
        head = mirror.production_head()
        if head is not None:
            body = mirror.read_file(head.sha, b"deploy.toml", bytes_max=DEPLOY_TOML_BYTES_MAX)
            policy = Policy() if body is None else parse_policy(body)
    except ConfigInvalid as error:
        problems = error.problems
    except OroborosError:
        policy = None  # the check of the mirror says why
    return doctor.check_policy(policy, problems, topology)
