"""What must change so that this host is as the topology wants it? Facts in, an ordered list of changes out.

Pure: a change is data with a sentence for people, `effects.host` does it, and `install --dry-run` is this list. Nothing
that is as it must be is changed, so a second installation has nothing to do. Secrets are written once, and what an
operator added to an env file stays: `HostFile.keep`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from pathlib import Path

from controller.decisions.edge import render_edge, render_public_edge
from controller.decisions.host_environment import (
    API_ROLE,
    CONTRACT_PASSWORD,
    CONTROL_DATABASE,
    REDIS_USER,
    WORKER_ROLE,
    Passwords,
    render_environment_files,
    with_additions,
)
from controller.decisions.host_units import (
    BACK_OFF_SINCE,
    EDGE_UNIT,
    PRIVATE_NETWORKS,
    PUBLIC_CADDYFILE,
    PUBLIC_EDGE_UNIT,
    TMPFILES,
    UNITS,
    enabled_units,
    render_back_off,
    render_units,
    socket_of,
    surface_unit,
)
from controller.decisions.surfaces import render_surface_environment, surface_of_host
from controller.model.config import Policy
from controller.model.errors import ConfigInvalid
from controller.model.host_files import HostFile
from controller.model.machine_needs import CONTRACT_PORTS
from controller.model.names import (
    EDGE_USER,
    HOST_CADDY,
    HOST_CONFIG,
    HOST_LAYOUT,
    HOST_LOGS,
    HOST_ROOT,
    MAIN,
    PREVIEWS_MAX,
    SERVING_USER,
    SURFACE_CONFIG,
    WORKER_USER,
    SlotName,
    Topology,
    database_name,
    preview_slot,
    slot_user,
    unit_instance,
)
from controller.model.options import Options
from controller.model.topology_file import render_topology

COMMAND = Path("/usr/local/bin/oroboros")
#: Where man(1) and the shells look below /usr/local (bash-completion, zsh's `site-functions`, fish's vendor folder).
MAN_PAGE = Path("/usr/local/share/man/man1/oroboros.1")
COMPLETIONS: Mapping[str, Path] = {
    "bash": Path("/usr/local/share/bash-completion/completions/oroboros"),
    "zsh": Path("/usr/local/share/zsh/site-functions/_oroboros"),
    "fish": Path("/usr/local/share/fish/vendor_completions.d/oroboros.fish"),
}
#: What a removal takes from /usr/local.
COMMAND_FILES = (COMMAND, MAN_PAGE, *COMPLETIONS.values())
REDIS_CONFIG, REDIS_FILE = Path("/etc/redis/redis.conf"), Path("/etc/redis/oroboros.conf")
_SLOT_ROLE = re.compile(r"app_main|preview_[0-9]+")
#: Postgres' own administrator, whose password the host contract says: `--contract-database`.
ADMINISTRATOR = "postgres"
CONTRACT_HBA_LINE = f"host {CONTROL_DATABASE} {ADMINISTRATOR} 127.0.0.1/32 scram-sha-256"
BEGIN, END = "# oroboros begin", "# oroboros end"
API_UNIT = "ouroboros-api.service"
CONTROL_UNITS = (API_UNIT, "ouroboros-worker.service")
#: What was here before the first installation: `uninstall --purge` leaves that alone.
BEFORE_FILE = HOST_CONFIG / "before-install.json"
#: Where the edge keeps certificates, where surfaces ran, and where systemd keeps when a timer last ran.
EDGE_STATE, SURFACE_RUN = Path("/var/lib/ouroboros-caddy"), Path("/run/ouroboros-web")
TIMER_STAMPS = Path("/var/lib/systemd/timers")
#: Of a slot's role, so that a preview cannot use up the server. The last one only a superuser may change.
ROLE_SETTINGS: Mapping[str, str] = {"statement_timeout": "60s", "lock_timeout": "10s", "temp_file_limit": "1GB"}
CONNECTIONS_MAX = 20
STRANGERS_SHOWN_MAX = 10
#: At least; below, something that we rely on is missing: the verb in polkit's details, credentials, `DROP … FORCE`,
#: `git fetch --no-write-fetch-head`.
VERSIONS_MIN: Mapping[str, tuple[int, ...]] = {
    "systemd": (252,),
    "polkit": (121,),
    "postgresql": (15,),
    "redis": (6, 2),
    "git": (2, 29),
}

_COMMAND_TEXT = """\
#!/bin/sh
# Oroboros' command, with the code that root installed.
python=$(readlink -f /opt/oroboros/venv/bin/python)
if [ ! -d "/opt/oroboros/venv/lib/${python##*/}" ]; then
    echo "oroboros: the Python packages in /opt/oroboros/venv are not for this machine's ${python##*/}, as after an" \\
        "upgrade of Debian; with a network, type: sudo /opt/oroboros/app/scripts/install.sh" >&2
    exit 4
fi
PYTHONPATH=/opt/oroboros/app PYTHONDONTWRITEBYTECODE=1 \\
    exec /opt/oroboros/venv/bin/python -P -m controller.doors.cli "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A folder of the host, and whose it is."""

    path: Path
    mode: int
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFact:
    """A file as it was found. `text` is None when it is not text."""

    text: str | None
    mode: int
    owner: str
    group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresFact:
    """What the host's Postgres has."""

    hba_file: Path
    ident_file: Path
    roles: frozenset[str]
    #: Roles of ours that may do more than they should, or less.
    odd_roles: frozenset[str]
    #: Roles that `oroboros_worker` is a member of.
    worker_is: frozenset[str]
    databases: frozenset[str]
    #: Databases that everybody may enter.
    open_to_all: frozenset[str]
    #: What of CONNECT and TEMPORARY everybody has, by database.
    public_rights: Mapping[str, frozenset[str]] = field(default_factory=dict)
    #: The roles whose passwords are those of the env files.
    passwords_work: frozenset[str]
    #: Numbered SQL files that the control plane's database has not seen.
    migrations: tuple[str, ...] = ()
    #: The api may do with the tables what it needs, and no more.
    api_is_bounded: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisFact:
    """What the host's Redis says of who uses it."""

    #: It lets our user in with our password.
    works: bool = False
    #: Users other than its default and ours.
    users: tuple[str, ...] = ()
    keys: int = 0
    #: It does not say who uses it: it asks for a password, or its default user may not look.
    refuses: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What a host is like. Empty: a fresh one."""

    #: User and the groups that it is in besides its own.
    users: Mapping[str, frozenset[str]] = field(default_factory=dict)
    folders: Mapping[Path, Folder] = field(default_factory=dict)
    files: Mapping[Path, FileFact] = field(default_factory=dict)
    #: Files that whoever looked may not read: nothing is planned for them.
    closed: frozenset[Path] = frozenset()
    #: Units of ours on the disk.
    units: frozenset[Path] = frozenset()
    enabled: frozenset[str] = frozenset()
    active: frozenset[str] = frozenset()
    #: Digest of the code that is installed, and of Caddy.
    app: str = ""
    caddy: str = ""
    postgres: PostgresFact | None = None
    #: None: it does not answer.
    redis: RedisFact | None = None
    versions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    #: Somebody has said which repository this host is about: until then the worker waits.
    has_repository: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the host is to be like."""

    topology: Topology
    passwords: Passwords
    #: Name of this machine in the control plane's tables.
    host: str
    webhook_secret: str
    operator_token: str
    #: Digest of the code and of Caddy that are to be installed.
    app: str
    caddy: str
    #: Address of a Redis that others use too: it is left alone. None: this host's is ours.
    shared_redis: str | None = None
    #: Man page and completion, rendered from the commands that are to be installed.
    shell_files: tuple[HostFile, ...] = ()
    #: Version of the host's systemd; 0 where it does not count.
    systemd: int = 0
    #: What was here before the first installation, as `BEFORE_FILE` has it.
    before: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeUser:
    name: str
    groups: tuple[str, ...] = ()

    def __str__(self) -> str:
        also = f", in {', '.join(self.groups)}" if self.groups else ""
        return f"make user {self.name}{also}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinGroup:
    name: str
    group: str

    def __str__(self) -> str:
        return f"put {self.name} into group {self.group}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeFolder:
    folder: Folder

    def __str__(self) -> str:
        return f"make folder {self.folder.path} ({self.folder.mode:04o} {self.folder.owner})"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallCode:
    digest: str

    def __str__(self) -> str:
        return f"install the code ({self.digest})"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallCaddy:
    digest: str

    def __str__(self) -> str:
        return f"install Caddy ({self.digest})"


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteFile:
    file: HostFile
    is_new: bool

    def __str__(self) -> str:
        return f"{'write' if self.is_new else 'change'} {self.file.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveFile:
    path: Path

    def __str__(self) -> str:
        return f"remove {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveUser:
    name: str

    def __str__(self) -> str:
        return f"remove user {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSql:
    """Statements for Postgres' own administrator. They may hold a password; the sentence never does."""

    what: str
    statements: tuple[str, ...]

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSqlAsWorker:
    """Statements in the control plane's database, for the worker's role: all in there is its own, and could have an
    administrator who enters run anything."""

    what: str
    statements: tuple[str, ...]

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrate:
    """Have the control plane's database see its numbered SQL files, as the worker does."""

    files: tuple[str, ...]

    def __str__(self) -> str:
        return f"bring the control plane's tables up to date: {', '.join(self.files)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetBlock:
    """Our marked lines in a file of somebody else, first in it; everything else stays."""

    path: Path
    lines: tuple[str, ...]
    what: str
    first: bool = True

    def __str__(self) -> str:
        return f"{self.what} ({self.path})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Systemctl:
    verb: str
    units: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"systemctl {self.verb}{' ' if self.units else ''}{', '.join(self.units)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartSurface:
    """Restart one slot's surface, and go on once it answers: the next one must not fail in the same way."""

    unit: str
    port: int

    def __str__(self) -> str:
        return f"systemctl restart {self.unit}, and wait for its answer on port {self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeRunFolders:
    def __str__(self) -> str:
        return f"make what {TMPFILES} says"


Change = (
    MakeUser
    | JoinGroup
    | MakeFolder
    | InstallCode
    | InstallCaddy
    | WriteFile
    | RemoveFile
    | RemoveUser
    | RunSql
    | RunSqlAsWorker
    | Migrate
    | SetBlock
    | Systemctl
    | RestartSurface
    | MakeRunFolders
)


def private_resolvers(resolv_conf: str) -> tuple[str, ...]:
    """Return the name servers of a resolv.conf(5) that lie on private networks. Not those of loopback and of link-local
    addresses: behind these a build would find this host's own services, or the cloud's metadata. Pure."""
    lines = [line.split() for line in resolv_conf.splitlines()]
    named = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
    private = [ip_network(network) for network in PRIVATE_NETWORKS]
    found = set()
    for text in named:
        try:
            address = ip_address(text)
        except ValueError:
            continue  # resolv.conf(5): what is no address is no name server
        if any(address in network for network in private):
            found.add(str(address))
    return tuple(sorted(found))


def missing_parts(facts: HostFacts, *, redis_shared: bool = False) -> tuple[str, ...]:
    """Return what of the host is not there. A Redis of others may be anywhere."""
    return tuple(name for name in VERSIONS_MIN if name not in facts.versions and not (name == "redis" and redis_shared))


def too_old(facts: HostFacts, *, redis_shared: bool = False) -> tuple[str, ...]:
    """Return what of the host is older than we can rely on."""
    return tuple(
        f"{name} {'.'.join(map(str, found))} is older than {'.'.join(map(str, least))}"
        for name, least in VERSIONS_MIN.items()
        if (found := facts.versions.get(name)) is not None and found < least and not (name == "redis" and redis_shared)
    )


def fresh_postgres(version: int, migrations: Iterable[str]) -> PostgresFact:
    """Return Postgres as Debian's packages of this version make it."""
    folder = Path(f"/etc/postgresql/{version}/main")
    databases = frozenset({"postgres", "template0", "template1"})
    return PostgresFact(
        hba_file=folder / "pg_hba.conf",
        ident_file=folder / "pg_ident.conf",
        roles=frozenset({"postgres"}),
        odd_roles=frozenset(),
        worker_is=frozenset(),
        databases=databases,
        open_to_all=databases,
        passwords_work=frozenset(),
        migrations=tuple(sorted(migrations)),
        api_is_bounded=False,
    )


def with_policy(topology: Topology, policy: Policy) -> Topology:
    """Return the topology as a policy says it: its slots, names, ports, certificates and walls take effect here."""
    topology = replace(
        topology,
        previews=policy.previews.slots if policy.previews.enabled else topology.previews,
        production_host=policy.production.host or topology.production_host,
        preview_host=policy.previews.host or topology.preview_host,
        production_backend_port=policy.production.backend_port or topology.production_backend_port,
        tls=policy.edge.tls,
        trusted_proxies=policy.edge.trusted_proxies,
        walls=policy.walls,
        isolated_previews=policy.walls.preview_network == "none",
    )
    return replace(topology, scheme="https", public_port=None) if topology.tls != "off" else topology


def wanted_users(topology: Topology) -> dict[str, tuple[str, ...]]:
    """Return every user, and the groups that it is in besides its own."""
    users: dict[str, tuple[str, ...]] = {SERVING_USER: (), WORKER_USER: ("systemd-journal",), EDGE_USER: ()}
    return {**users, **{slot_user(slot): () for slot in topology.slots}}


def wanted_folders(topology: Topology) -> tuple[Folder, ...]:
    """Return every folder, parents first."""
    layout = HOST_LAYOUT
    own = [
        (HOST_ROOT, 0o755),
        (layout.releases, 0o711),
        (layout.builds, 0o711),
        (HOST_ROOT / "slots", 0o711),
        (HOST_ROOT / "orders", 0o700),
        (HOST_ROOT / "judge", 0o700),
        (HOST_ROOT / "artifacts", 0o755),
        (layout.artifacts, 0o755),
        (HOST_ROOT / "artifacts" / "maintenance", 0o755),
        *((layout.slot(slot), 0o711) for slot in topology.slots),
    ]
    return (
        Folder(path=HOST_CONFIG, mode=0o755, owner="root"),
        Folder(path=HOST_LOGS, mode=0o755, owner="root"),
        *(Folder(path=path, mode=mode, owner=WORKER_USER) for path, mode in own),
        *(Folder(path=layout.slot_data(slot), mode=0o700, owner=slot_user(slot)) for slot in topology.slots),
    )


def wanted_files(wanted: Wanted) -> tuple[HostFile, ...]:
    """Return every file, secrets among them."""
    topology = wanted.topology

    def kept(name: str, text: str) -> HostFile:
        return HostFile(path=HOST_CONFIG / name, text=text, mode=0o600, keep="all")

    return (
        # First: whatever is rendered from it passed its rules, and who is cut short wants the same the next time.
        HostFile(path=HOST_LAYOUT.topology, text=render_topology(topology)),
        HostFile(path=COMMAND, text=_COMMAND_TEXT, mode=0o755),
        *wanted.shell_files,
        *render_environment_files(topology, wanted.passwords, host=wanted.host, redis_url=wanted.shared_redis),
        kept("webhook-secrets", f"{wanted.webhook_secret}\n"),
        kept("operator-token", f"{wanted.operator_token}\n"),
        kept("forge-token", ""),
        kept("github-app-key", ""),
        kept("notify-secret", ""),
        kept(BEFORE_FILE.name, wanted.before),
        *(kept(f"app-{slot}.env", "") for slot in topology.slots),
        *(
            HostFile(
                path=HOST_CONFIG / f"web-{unit_instance(slot)}.env",
                text=render_surface_environment(HOST_LAYOUT, topology, slot),
                mode=0o600,
            )
            for slot in topology.slots
        ),
        HostFile(path=HOST_CONFIG / "Caddyfile", text=_edge_of_host(topology)),
        *(() if topology.tls == "off" else (_public_caddyfile(topology),)),
        *render_units(topology),
        *(render_back_off() if wanted.systemd >= BACK_OFF_SINCE else ()),
    )


def _public_caddyfile(topology: Topology) -> HostFile:
    text = render_public_edge(topology, log_dir=HOST_LOGS / "edge", journal=True)
    return HostFile(path=HOST_CONFIG / PUBLIC_CADDYFILE, text=text)


def _edge_of_host(topology: Topology) -> str:
    return render_edge(topology, log_dir=HOST_LOGS / "edge", is_passed=True)


def surface_file(slot: SlotName) -> Path:
    """Return where the configuration lies that a slot's surface runs."""
    return Path("/run/ouroboros-web") / unit_instance(slot) / SURFACE_CONFIG


def plan_installation(facts: HostFacts, wanted: Wanted, *, only_slots: bool = False) -> tuple[Change, ...]:
    """Return what to change, in order; () when the host is as it is wanted. `only_slots`: just the slots' own."""
    topology = wanted.topology
    files = plan_files(facts, wanted)
    topology_first = [change for change in files if change.file.path == HOST_LAYOUT.topology]
    # Before anything of ours is there: an installation that is cut short is removed by it.
    record = [change for change in files if change.file.path == BEFORE_FILE]
    changes: list[Change] = [*record, *_users(facts, topology), *_folders(facts, topology), *topology_first]
    if not only_slots and facts.app != wanted.app:
        changes.append(InstallCode(digest=wanted.app))
    if not only_slots and facts.caddy != wanted.caddy:
        changes.append(InstallCaddy(digest=wanted.caddy))
    changes += [change for change in files if change not in topology_first and change not in record]
    if any(change.path == TMPFILES for change in _written(files)) or not facts.active:
        changes.append(MakeRunFolders())
    gone = tuple(sorted(facts.enabled - set(enabled_units(topology))))
    if gone:
        # While systemd still knows what they are.
        changes.append(Systemctl(verb="disable --now", units=gone))
    stale = sorted(facts.units - {file.path for file in wanted_files(wanted)})
    changes += [RemoveFile(path=path) for path in stale]
    touches_units = bool(stale) or any(UNITS in file.path.parents for file in _written(files))
    if touches_units:
        changes.append(Systemctl(verb="daemon-reload"))
    changes += _postgres(facts, wanted)
    changes += _redis(facts, wanted) if wanted.shared_redis is None else _redis_given_back(facts)
    changes += _services(facts, wanted, changes)
    return tuple(changes)


def _users(facts: HostFacts, topology: Topology) -> list[Change]:
    changes: list[Change] = []
    for name, groups in wanted_users(topology).items():
        if name not in facts.users:
            changes.append(MakeUser(name=name, groups=groups))
            continue
        changes += [JoinGroup(name=name, group=group) for group in groups if group not in facts.users[name]]
    return changes


def _folders(facts: HostFacts, topology: Topology) -> list[Change]:
    return [
        MakeFolder(folder=folder) for folder in wanted_folders(topology) if facts.folders.get(folder.path) != folder
    ]


def plan_files(facts: HostFacts, wanted: Wanted) -> list[WriteFile]:
    """Return the files that are not there as they are wanted."""
    changes: list[WriteFile] = []
    for file in wanted_files(wanted):
        if file.path in facts.closed:
            continue
        found = facts.files.get(file.path)
        if found is None:
            changes.append(WriteFile(file=file, is_new=True))
            continue
        text = _text_beside(file, found.text)
        is_right = (found.text, found.mode, found.owner, found.group) == (text, file.mode, file.owner, file.group)
        if not is_right:
            changes.append(WriteFile(file=replace(file, text=text), is_new=False))
    return changes


def _text_beside(file: HostFile, found: str | None) -> str:
    """Return what the file is to hold, where there is one already."""
    if found is None or file.keep == "nothing":
        return file.text
    return found if file.keep == "all" else with_additions(file.text, found)


def _written(changes: Iterable[Change]) -> list[HostFile]:
    return [change.file for change in changes if isinstance(change, WriteFile)]


# -- Postgres and Redis -----------------------------------------------------------------------------------------------


def hba_lines(topology: Topology, roles: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the lines of pg_hba.conf: our users over the socket, by who they are; over TCP by
    password, each into its own database. `roles` are those that there are: those of slots that have gone stay out."""
    names = [database_name(slot) for slot in topology.slots]
    slots = [f"local {name} {name} peer map=oroboros" for name in names]
    # Many drivers know TCP only. The worker draws each password with the slot's database.
    slots += [f"host {name} {name} 127.0.0.1/32 scram-sha-256" for name in names]
    gone = sorted(role for role in roles if _SLOT_ROLE.fullmatch(role) and role not in names)
    # Databases of others may be open to every role that enters, and their lines below may let in who knows a password.
    ours = ",".join([*names, *gone, API_ROLE, WORKER_ROLE])
    return (
        f"local postgres,{CONTROL_DATABASE} {WORKER_ROLE} peer map=oroboros",
        *slots,
        f"host {CONTROL_DATABASE} {API_ROLE},{WORKER_ROLE} 127.0.0.1/32 scram-sha-256",
        *((CONTRACT_HBA_LINE,) if topology.contract_database else ()),
        f"local all {ours} reject",
        f"host all {ours} all reject",
    )


def ident_lines(topology: Topology) -> tuple[str, ...]:
    """Return the lines of pg_ident.conf: which user of the host is which role."""
    # Root's commands look at what the worker sees; root could be anybody anyway.
    pairs = [
        (WORKER_USER, WORKER_ROLE),
        ("root", WORKER_ROLE),
        *((slot_user(slot), database_name(slot)) for slot in topology.slots),
    ]
    return tuple(f"oroboros {user} {role}" for user, role in pairs)


def with_block(text: str, lines: tuple[str, ...], *, first: bool) -> str:
    """Return a text with our marked lines in it, once; what is not ours stays as it is."""
    before, begin, rest = text.partition(f"{BEGIN}\n")
    if begin:
        text = before + rest.partition(f"{END}\n")[2]
    block = "".join(f"{line}\n" for line in (BEGIN, *lines, END)) if lines else ""
    if first:
        return block + text
    return text + ("" if not text or text.endswith("\n") else "\n") + block


def _postgres(facts: HostFacts, wanted: Wanted) -> list[Change]:
    found, topology = facts.postgres, wanted.topology
    if found is None:
        return []
    changes: list[Change] = []
    for role, password in ((API_ROLE, wanted.passwords.api), (WORKER_ROLE, wanted.passwords.worker)):
        makes = "CREATEDB" if role == WORKER_ROLE else "NOCREATEDB"
        is_asked = role == WORKER_ROLE or not topology.contract_database
        if role not in found.roles or role in found.odd_roles or (is_asked and role not in found.passwords_work):
            verb = "ALTER" if role in found.roles else "CREATE"
            statement = f"{verb} ROLE {role} {_HARMLESS} {makes} PASSWORD '{password}'"
            changes.append(RunSql(what=f"{verb.lower()} role {role}", statements=(statement,)))
    for slot in topology.slots:
        changes += _slot_role(found, slot)
    if CONTROL_DATABASE not in found.databases:
        statement = f"CREATE DATABASE {CONTROL_DATABASE} OWNER {WORKER_ROLE}"
        changes.append(RunSql(what=f"create database {CONTROL_DATABASE}", statements=(statement,)))
    if topology.contract_database and ADMINISTRATOR not in found.passwords_work:
        statement = f"ALTER ROLE {ADMINISTRATOR} PASSWORD '{CONTRACT_PASSWORD}'"
        what = f"give {ADMINISTRATOR}, the administrator, the password that everybody can read in the host contract"
        changes.append(RunSql(what=what, statements=(statement,)))
    hba = facts.files.get(found.hba_file)
    if not topology.contract_database and hba is not None and CONTRACT_HBA_LINE in (hba.text or ""):
        statement = f"ALTER ROLE {ADMINISTRATOR} PASSWORD NULL"
        changes.append(RunSql(what=f"take the host contract's password from {ADMINISTRATOR}", statements=(statement,)))
    opened = databases_to_close(found, topology)
    if opened:
        # The worker may make databases, whose names are then its words.
        statements = tuple(f"REVOKE CONNECT, TEMPORARY ON DATABASE {_identifier(name)} FROM PUBLIC" for name in opened)
        allow = (
            f"GRANT CONNECT ON DATABASE postgres TO {WORKER_ROLE}",
            f"GRANT CONNECT ON DATABASE {CONTROL_DATABASE} TO {API_ROLE}",
        )
        changes.append(RunSql(what=f"close to everybody: {', '.join(opened)}", statements=(*statements, *allow)))
    blocks = (
        SetBlock(path=found.hba_file, lines=hba_lines(topology, found.roles), what="say who may enter which database"),
        SetBlock(path=found.ident_file, lines=ident_lines(topology), what="say which user is which role"),
    )
    missing = [block for block in blocks if not _has_block(facts, block)]
    if missing:
        changes += missing
        changes.append(
            RunSql(what="have Postgres read that", statements=("SELECT pg_reload_conf()", "SELECT pg_sleep(0.5)"))
        )
    if found.migrations:
        changes.append(Migrate(files=found.migrations))
    if found.migrations or not found.api_is_bounded:
        what = f"let {API_ROLE} store deliveries and read the rest"
        changes.append(RunSqlAsWorker(what=what, statements=API_RIGHTS))
    return changes


def postgres_strangers(found: PostgresFact) -> str:
    """Return which databases and roles of others live in this Postgres, in words; "" for none."""
    of_server = {"postgres", "template0", "template1"}
    databases = sorted(
        name for name in found.databases - of_server if name != CONTROL_DATABASE and not _SLOT_ROLE.fullmatch(name)
    )
    ours = {ADMINISTRATOR, API_ROLE, WORKER_ROLE}
    roles = sorted(name for name in found.roles - ours if not name.startswith("pg_") and not _SLOT_ROLE.fullmatch(name))
    told = [f"the database {name}" for name in databases] + [f"the role {name}" for name in roles]
    more = f" and {len(told) - STRANGERS_SHOWN_MAX} more" if len(told) > STRANGERS_SHOWN_MAX else ""
    return ", ".join(told[:STRANGERS_SHOWN_MAX]) + more


def warnings_of(facts: HostFacts, wanted: Wanted) -> tuple[str, ...]:
    """Return what is wanted, or found, and has a consequence that its owner must know."""
    told: list[str] = []
    if wanted.topology.contract_database:
        told.append(
            "--contract-database: every process of this host that reaches Postgres, production's app among them, can"
            " enter as its administrator, read every database and run commands as the user postgres"
        )
    if wanted.shared_redis is not None and "@" not in wanted.shared_redis and wanted.shared_redis != "redis://":
        told.append(
            "the address of Redis has no password: every process that reaches it can read live logs and empty it"
        )
    public = (wanted.topology.ports.edge_https, wanted.topology.ports.edge_http)
    if wanted.topology.tls == "auto" and public[0] != CONTRACT_PORTS["https"] and public[1] != CONTRACT_PORTS["http"]:
        told.append(
            "--tls auto: a certificate authority asks at 443 or 80: have what is in front of this host lead"
            f" 443 to {public[0]}, or 80 to {public[1]}"
        )
    strangers = postgres_strangers(facts.postgres) if facts.postgres is not None else ""
    if strangers and (wanted.topology.said or Options()).close_databases:
        told.append(f"--close-databases: roles of others need a GRANT CONNECT from now on; here live {strangers}")
    return tuple(told)


def databases_to_close(found: PostgresFact, topology: Topology) -> list[str]:
    """Return the databases that PUBLIC is to lose: ours, and the others where nobody else lives or the option says so.
    What keeps our roles out of databases of others is pg_hba.conf."""
    opened = found.open_to_all | ({CONTROL_DATABASE} - found.databases)
    if not (topology.said or Options()).close_databases and postgres_strangers(found):
        opened = frozenset(name for name in opened if name == CONTROL_DATABASE or _SLOT_ROLE.fullmatch(name))
    return sorted(opened)


def _identifier(name: str) -> str:
    """Return a name as SQL has it, whatever it holds."""
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


#: What the receiver writes; the API reads, and later tables come with that right.
API_RIGHTS = (
    f"ALTER DEFAULT PRIVILEGES FOR ROLE {WORKER_ROLE} IN SCHEMA public REVOKE ALL ON TABLES FROM {API_ROLE}",
    f"ALTER DEFAULT PRIVILEGES FOR ROLE {WORKER_ROLE} IN SCHEMA public GRANT SELECT ON TABLES TO {API_ROLE}",
    f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {API_ROLE}",
    f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {API_ROLE}",
    f"GRANT INSERT, UPDATE ON deliveries TO {API_ROLE}",
    f"GRANT UPDATE (receiver_started_at) ON repositories TO {API_ROLE}",
)
#: Whether it is so: a boolean.
API_IS_BOUNDED = f"""
SELECT coalesce(bool_and(has_table_privilege('{API_ROLE}', oid, 'SELECT')
            AND has_table_privilege('{API_ROLE}', oid, 'INSERT') = (relname = 'deliveries')
            AND has_table_privilege('{API_ROLE}', oid, 'UPDATE') = (relname = 'deliveries')
            AND NOT has_table_privilege('{API_ROLE}', oid, 'DELETE')), false)
    AND EXISTS (SELECT FROM pg_attribute a WHERE attrelid = to_regclass('public.repositories')
                AND attname = 'receiver_started_at' AND has_column_privilege('{API_ROLE}', attrelid, attnum, 'UPDATE'))
    AND EXISTS (SELECT FROM pg_default_acl d, aclexplode(d.defaclacl) a JOIN pg_roles r ON r.oid = a.grantee
                WHERE d.defaclobjtype = 'r' AND r.rolname = '{API_ROLE}'
                GROUP BY d.oid HAVING array_agg(a.privilege_type) = ARRAY['SELECT'])
FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
"""  # noqa: S608 - names of ours


#: Of some slots, those with a lease, a run, or something of the last lease that is not wiped.
SLOTS_IN_USE = """
SELECT name FROM slots s WHERE name = ANY(%s) AND (
    EXISTS (SELECT FROM leases l WHERE l.host = s.host AND l.slot = s.name AND l.ended_at IS NULL)
    OR EXISTS (SELECT FROM runs r WHERE r.host = s.host AND r.slot = s.name AND r.ended_at IS NULL)
    OR wiped_fence < coalesce((SELECT max(fence) FROM leases l WHERE l.host = s.host AND l.slot = s.name), 0))
ORDER BY name
"""


_HARMLESS = "LOGIN NOSUPERUSER NOCREATEROLE NOREPLICATION NOBYPASSRLS"
#: Every role of ours that is not as this module makes it.
ODD_ROLES = f"""
SELECT rolname FROM pg_roles WHERE rolname ~ '^(app_main|preview_[0-9]+|{API_ROLE}|{WORKER_ROLE})$'
    AND (NOT rolcanlogin OR rolsuper OR rolcreaterole OR rolreplication OR rolbypassrls
        OR rolcreatedb <> (rolname = '{WORKER_ROLE}')
        OR rolname NOT IN ('{API_ROLE}', '{WORKER_ROLE}') AND (rolconnlimit <> {CONNECTIONS_MAX}
            OR NOT coalesce(rolconfig, '{{}}') @> ARRAY[{", ".join(f"'{k}={v}'" for k, v in ROLE_SETTINGS.items())}]))
"""  # noqa: S608 - names of ours


def slot_role_statements(role: str, *, exists: bool) -> tuple[str, ...]:
    """Return what makes a slot's role, or puts it right."""
    verb = "ALTER" if exists else "CREATE"
    return (
        f"{verb} ROLE {role} {_HARMLESS} NOCREATEDB CONNECTION LIMIT {CONNECTIONS_MAX}",
        *(f"ALTER ROLE {role} SET {setting} = '{value}'" for setting, value in ROLE_SETTINGS.items()),
    )


def _slot_role(found: PostgresFact, slot: SlotName) -> list[Change]:
    role = database_name(slot)
    changes: list[Change] = []
    if role not in found.roles or role in found.odd_roles:
        exists = role in found.roles
        what = f"{'put right' if exists else 'create'} role {role} of {slot}"
        changes.append(RunSql(what=what, statements=slot_role_statements(role, exists=exists)))
    if role not in found.worker_is:
        changes.append(
            RunSql(what=f"let {WORKER_ROLE} make databases of {role}", statements=(f"GRANT {role} TO {WORKER_ROLE}",))
        )
    return changes


def _has_block(facts: HostFacts, block: SetBlock) -> bool:
    found = facts.files.get(block.path)
    return block.path in facts.closed or (
        found is not None
        and found.text is not None
        and with_block(found.text, block.lines, first=block.first) == found.text
    )


def redis_text(passwords: Passwords, *, digest: str) -> str:
    """Return our part of Redis' configuration: its default user may say PING, ours ring the bell (redis.io, ACL)."""
    assert passwords.redis
    return (
        "# Oroboros: who may use this Redis. Written by its installer.\n"
        "user default on nopass resetkeys resetchannels -@all +ping\n"
        f"user {REDIS_USER} on #{digest} resetkeys ~oro:* resetchannels &oro:* -@all"
        " +ping +publish +subscribe +unsubscribe +hello +auth +client|setname +select\n"
    )


_REDIS_INCLUDE = SetBlock(
    path=REDIS_CONFIG, lines=(f"include {REDIS_FILE}",), what="say who may use Redis", first=False
)


def redis_strangers(facts: HostFacts) -> str:
    """Return who else uses this Redis, "" for nobody: then it may be ours alone."""
    found = facts.redis
    if found is None or found.works:
        return ""
    told = [f"the user {name}" for name in found.users]
    if found.keys:
        told.append(f"{found.keys} keys")
    # Once our lines are in it, it is our own lock that it shows.
    if found.refuses and not _has_block(facts, _REDIS_INCLUDE):
        told.append("a lock of its own")
    config = facts.files.get(REDIS_CONFIG)
    if config is not None and re.search(r"^\s*aclfile\s", config.text or "", re.MULTILINE | re.IGNORECASE):
        told.append("its users in a file of their own (aclfile)")
    return ", ".join(told)


def _redis(facts: HostFacts, wanted: Wanted) -> list[Change]:
    digest = hashlib.sha256(wanted.passwords.redis.encode()).hexdigest()
    file = HostFile(
        path=REDIS_FILE, text=redis_text(wanted.passwords, digest=digest), mode=0o640, owner="root", group="redis"
    )
    changes: list[Change] = []
    found = facts.files.get(file.path)
    is_right = found is not None and (found.text, found.mode) == (file.text, file.mode)
    if not is_right and file.path not in facts.closed:
        changes.append(WriteFile(file=file, is_new=found is None))
    if not _has_block(facts, _REDIS_INCLUDE):
        changes.append(_REDIS_INCLUDE)
    if changes:
        changes.append(Systemctl(verb="restart", units=("redis-server.service",)))
    return changes


def _redis_given_back(facts: HostFacts) -> list[Change]:
    """Return what takes our lines out of a Redis that was ours."""
    config = facts.files.get(REDIS_CONFIG)
    if config is None or BEGIN not in (config.text or ""):
        return []
    return [
        SetBlock(path=REDIS_CONFIG, lines=(), what="take back who may use Redis", first=False),
        RemoveFile(path=REDIS_FILE),
        Systemctl(verb="restart", units=("redis-server.service",)),
    ]


# -- services ---------------------------------------------------------------------------------------------------------


def _services(facts: HostFacts, wanted: Wanted, changes: list[Change]) -> list[Change]:
    """Enable what is to start at boot; start what does not run, and restart what runs on something that changed.

    Surfaces one after another, production's last, and the edge after them: it must lead to no surface that is not up.
    A service whose ports systemd does not hold yet, or holds elsewhere, is stopped before it does. One whose port is to
    be another's is stopped before any of them opens one."""
    topology = wanted.topology
    units = enabled_units(topology)
    result: list[Change] = []
    missing = tuple(unit for unit in units if unit not in facts.enabled)
    if missing:
        result.append(Systemctl(verb="enable", units=missing))
    stirred = stirred_units(changes, topology) | _outdated_surfaces(facts, topology)
    waiting = () if facts.has_repository else ("ouroboros-worker.service",)
    ours = [unit for unit in units if _is_started_by_us(unit) and unit not in waiting]
    edited = [unit for unit in ours if socket_of(unit) in facts.active and socket_of(unit) in stirred]
    reopened = [unit for unit in ours if unit in facts.active and _lacks_socket(unit, facts)] + edited
    giving = _giving_ports(facts, wanted, edited)
    if giving:
        # Both: a request that came in between would have an open port start the service again.
        result.append(Systemctl(verb="stop", units=(*map(socket_of, giving), *giving)))
    started = tuple(
        unit for unit in ours if unit not in facts.active and unit not in {*map(socket_of, reopened), *edited}
    )
    if started:
        result.append(Systemctl(verb="start", units=started))
    restarted = [unit for unit in ours if unit in facts.active and unit in stirred and unit not in reopened]

    def reopen(unit: str) -> list[Change]:
        stop = [] if unit in giving else [Systemctl(verb="stop", units=(socket_of(unit), unit))]
        return [*stop, Systemctl(verb="start", units=(socket_of(unit),))]

    for slot in reversed(topology.slots):
        unit = surface_unit(slot)
        if unit in reopened:
            result += reopen(unit)
        if unit in reopened or unit in restarted:
            result.append(RestartSurface(unit=unit, port=topology.ports.web(slot)))
    if API_UNIT in reopened:
        result += [*reopen(API_UNIT), Systemctl(verb="start", units=(API_UNIT,))]
    others = tuple(unit for unit in restarted if unit in CONTROL_UNITS)
    if others:
        result.append(Systemctl(verb="restart", units=others))
    if EDGE_UNIT in reopened:
        result += [*reopen(EDGE_UNIT), Systemctl(verb="start", units=(EDGE_UNIT,))]
    for edge in _edges(topology):
        if edge in restarted:
            result.append(Systemctl(verb="restart" if _needs_restart(edge, changes) else "reload", units=(edge,)))
    return result


def _edges(topology: Topology) -> tuple[str, ...]:
    return (EDGE_UNIT,) if topology.tls == "off" else (EDGE_UNIT, PUBLIC_EDGE_UNIT)


def _lacks_socket(unit: str, facts: HostFacts) -> bool:
    """Say whether a service has to let go of its ports, so that systemd can open them."""
    has_one = unit in (API_UNIT, EDGE_UNIT) or (unit.startswith("ouroboros-web@") and unit.endswith(".service"))
    return has_one and socket_of(unit) not in facts.active


def _giving_ports(facts: HostFacts, wanted: Wanted, edited: Iterable[str]) -> list[str]:
    """Return the services, of those whose sockets were edited, one of whose ports another part of ours is to open."""
    files = {file.path: file.text for file in render_units(wanted.topology)}
    paths = {unit: UNITS / socket_of(unit) for unit in edited}
    then = {unit: _opened_by(files.get(path)) for unit, path in paths.items()}
    then["ouroboros-worker.service"] = frozenset({f"127.0.0.1:{wanted.topology.ports.worker_health}"})
    giving = []
    for unit, path in paths.items():
        found = facts.files.get(path)
        now = _opened_by(found.text if found is not None else None)
        if any(now & ports for other, ports in then.items() if other != unit):
            giving.append(unit)
    return giving


def _opened_by(socket_text: str | None) -> frozenset[str]:
    """Return what a socket unit listens on (systemd.socket(5))."""
    return frozenset(re.findall(r"^ListenStream=(\S+)$", socket_text or "", re.MULTILINE))


def _outdated_surfaces(facts: HostFacts, topology: Topology) -> frozenset[str]:
    """Return the surfaces that run on another configuration than the one that this code makes for them."""
    outdated = set()
    for slot in topology.slots:
        path = surface_file(slot)
        found = facts.files.get(path)
        if path not in facts.closed and (found is None or found.text != surface_of_host(topology, slot)):
            outdated.add(surface_unit(slot))
    return frozenset(outdated)


def _needs_restart(edge: str, changes: Iterable[Change]) -> bool:
    """Say whether an edge must be another process, not only on another Caddyfile."""
    return any(
        isinstance(change, InstallCaddy) or (isinstance(change, WriteFile) and change.file.path == UNITS / edge)
        for change in changes
    )


def _is_started_by_us(unit: str) -> bool:
    """Instances are the worker's, and the judge has nothing to do without an order."""
    return not unit.startswith(("ouroboros-instance@", "ouroboros-judge"))


def stirred_units(changes: Iterable[Change], topology: Topology) -> frozenset[str]:
    """Return the units that run on something that these changes touch. Instances never: only a deploy starts those.
    Of our code a surface runs no more than the configuration that it makes: `_outdated_surfaces` compares that."""
    surfaces = {surface_unit(slot) for slot in topology.slots}
    ours = {*CONTROL_UNITS, *_edges(topology), *surfaces}
    ours |= {socket_of(unit) for unit in (API_UNIT, EDGE_UNIT, *surfaces)}
    stirred: set[str] = set()
    for change in changes:
        match change:
            case InstallCode():
                stirred |= set(CONTROL_UNITS)
            case InstallCaddy():
                stirred |= {*_edges(topology), *surfaces}
            case WriteFile():
                name = change.file.path.name
                stirred |= {unit for unit in ours if name in (unit, _template_of(unit))}
                if change.file.path.parent == HOST_CONFIG:
                    stirred |= _of_configuration(name)
            case _:
                continue
    return frozenset(stirred)


def _template_of(unit: str) -> str:
    """Return the template of a service; a socket of ours has a file of its own."""
    return unit.partition("@")[0] + "@.service" if unit.endswith(".service") else unit


def _of_configuration(name: str) -> set[str]:
    if name == "Caddyfile":
        return {EDGE_UNIT}
    if name == PUBLIC_CADDYFILE:
        return {PUBLIC_EDGE_UNIT}
    if name == HOST_LAYOUT.topology.name:
        return {"ouroboros-api.service", "ouroboros-worker.service"}  # they read it when they start
    if name == "operator-token":
        return {"ouroboros-api.service", "ouroboros-worker.service"}
    if name in ("api.env", "webhook-secrets"):
        return {"ouroboros-api.service"}
    if name in ("worker.env", "forge-token", "github-app-key", "notify-secret"):
        return {"ouroboros-worker.service"}
    return set()


def unseen(facts: HostFacts) -> tuple[str, ...]:
    """Return what whoever looked could not look at, so that nothing is planned for it."""
    postgres = () if facts.postgres is not None else ("Postgres",)
    return (*postgres, *(str(path) for path in sorted(facts.closed)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What a host had before the first installation, of the kinds of thing that install makes or changes."""

    users: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    databases: frozenset[str] = frozenset()
    #: What of CONNECT and TEMPORARY everybody had, by database.
    public_rights: Mapping[str, frozenset[str]] = field(default_factory=dict)


#: Debian's own databases, as every cluster of its packages begins: for an installation that recorded nothing.
_PUBLIC_AT_FIRST: Mapping[str, frozenset[str]] = {
    "postgres": frozenset({"CONNECT", "TEMPORARY"}),
    "template0": frozenset({"CONNECT"}),
    "template1": frozenset({"CONNECT"}),
}


def note_before(facts: HostFacts) -> Before:
    """Return what is to be remembered of a host as it is found. One that a version without this record installed had
    nothing of ours, but perhaps a `caddy` of its own; who else may enter which database is not known of it."""
    postgres = facts.postgres
    if WORKER_USER in facts.users:
        return Before(users=frozenset({EDGE_USER}), public_rights=_PUBLIC_AT_FIRST)
    return Before(
        users=frozenset(facts.users) & {*_our_users(), EDGE_USER},
        roles=frozenset() if postgres is None else postgres.roles & {*_our_databases(), API_ROLE, WORKER_ROLE},
        databases=frozenset() if postgres is None else postgres.databases & {*_our_databases(), CONTROL_DATABASE},
        public_rights={} if postgres is None else postgres.public_rights,
    )


def render_before(before: Before) -> str:
    """Return the record as JSON."""
    rights = {name: sorted(of) for name, of in sorted(before.public_rights.items()) if of}
    value = {"users": sorted(before.users), "roles": sorted(before.roles), "databases": sorted(before.databases)}
    return json.dumps({**value, "public_rights": rights}, indent=2) + "\n"


def parse_before(text: str) -> Before:
    """Return the record that JSON holds. ConfigInvalid for anything else: what is not known is not removed."""
    try:
        value = json.loads(text)
        names = {key: frozenset(map(str, value[key])) for key in ("users", "roles", "databases")}
        rights = {str(name): frozenset(map(str, of)) for name, of in value["public_rights"].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigInvalid("RecordUnreadable", f"{BEFORE_FILE} is no record of an installation: {error!r}") from error
    return Before(**names, public_rights=rights)


def _our_slots() -> tuple[SlotName, ...]:
    return (MAIN, *(preview_slot(number) for number in range(1, PREVIEWS_MAX + 1)))


def _our_users() -> tuple[str, ...]:
    return (SERVING_USER, WORKER_USER, *map(slot_user, _our_slots()))


def _our_databases() -> tuple[str, ...]:
    return tuple(map(database_name, _our_slots()))


def plan_purge(facts: HostFacts, before: Before) -> tuple[Change, ...]:
    """Return what leaves the host as it was before the first installation, but for Debian's packages. What such an
    installation found there stays. The program goes last, so that a purge that was cut short can be repeated."""
    last = (COMMAND, HOST_CADDY.parents[1])
    removal = plan_removal(facts)
    program = [change for change in removal if isinstance(change, RemoveFile) and change.path in last]
    changes: list[Change] = [change for change in removal if change not in program]
    changes += _closed_postgres(facts, before)
    if REDIS_FILE in facts.files or _has_marks(facts, REDIS_CONFIG):
        what = "let Redis be as it was"
        changes += [SetBlock(path=REDIS_CONFIG, lines=(), what=what)] if _has_marks(facts, REDIS_CONFIG) else []
        changes += [RemoveFile(path=REDIS_FILE)] if REDIS_FILE in facts.files else []
        changes.append(Systemctl(verb="try-restart", units=("redis-server.service",)))
    stamps = sorted(path for path in facts.files if path.parent == TIMER_STAMPS)
    changes += [RemoveFile(path=path) for path in (*stamps, *sorted(facts.folders.keys() - {HOST_CONFIG}))]
    users = [name for name in (*_our_users(), EDGE_USER) if name in facts.users and name not in before.users]
    changes += [RemoveUser(name=name) for name in users]
    # Under it lies the record by which a purge that was cut short is repeated.
    changes += [RemoveFile(path=HOST_CONFIG)] if HOST_CONFIG in facts.folders else []
    return (*changes, *sorted(program, key=lambda change: change.path != COMMAND))


def _has_marks(facts: HostFacts, path: Path) -> bool:
    found = facts.files.get(path)
    return found is not None and found.text is not None and with_block(found.text, (), first=True) != found.text


def _closed_postgres(facts: HostFacts, before: Before) -> list[Change]:
    """Return what takes our databases, roles and lines out of Postgres, and gives everybody back what they had."""
    found = facts.postgres
    if found is None:
        return []
    changes: list[Change] = []
    for name in (CONTROL_DATABASE, *_our_databases()):
        if name in found.databases and name not in before.databases:
            statement = f"DROP DATABASE {_identifier(name)} WITH (FORCE)"
            changes.append(RunSql(what=f"drop database {name}", statements=(statement,)))
    roles = [name for name in (*_our_databases(), API_ROLE, WORKER_ROLE) if name in found.roles - before.roles]
    if roles:
        # First the rights that one has in a database of somebody else's: a role with any cannot be dropped.
        statements = (*(f"DROP OWNED BY {name}" for name in roles), *(f"DROP ROLE {name}" for name in roles))
        changes.append(RunSql(what=f"drop roles {', '.join(roles)}", statements=statements))
    given = [
        (name, right)
        for name, rights in sorted(before.public_rights.items())
        for right in sorted(rights & {"CONNECT", "TEMPORARY"} - found.public_rights.get(name, frozenset()))
        if name in found.databases
    ]
    if given:
        statements = tuple(f"GRANT {right} ON DATABASE {_identifier(name)} TO PUBLIC" for name, right in given)
        names = ", ".join(dict.fromkeys(name for name, _ in given))
        changes.append(RunSql(what=f"let everybody enter as before: {names}", statements=statements))
    blocks = [
        SetBlock(path=path, lines=(), what="let Postgres' access be as it was")
        for path in (found.hba_file, found.ident_file)
        if _has_marks(facts, path)
    ]
    reload = RunSql(what="have Postgres read that", statements=("SELECT pg_reload_conf()",))
    return [*changes, *blocks, *([reload] if blocks else [])]


def plan_removal(facts: HostFacts) -> tuple[Change, ...]:
    """Return what to undo: units, rule and code go; data, configuration, databases and users stay."""
    running = tuple(sorted(name for name in facts.active | facts.enabled if name.startswith("ouroboros-")))
    changes: list[Change] = []
    directing = tuple(unit for unit in ("ouroboros-judge.service", "ouroboros-worker.service") if unit in running)
    if directing:
        # First: with them gone nothing new begins, and nobody takes what ends now for the fault of a release.
        changes.append(Systemctl(verb="stop", units=directing))
    if running:
        changes.append(Systemctl(verb="disable --now", units=running))
    if running or facts.units:
        # A build or a migration is never "active", and may have begun since anybody looked.
        changes.append(Systemctl(verb="stop", units=("ouroboros-*",)))
        # One that was stopped in the middle has failed, and systemd would go on to show it.
        changes.append(Systemctl(verb="reset-failed", units=("ouroboros-*",)))
    changes += [RemoveFile(path=path) for path in sorted(facts.units)]
    changes += [RemoveFile(path=path) for path in COMMAND_FILES if path in facts.files]
    if facts.app:
        changes.append(RemoveFile(path=HOST_CADDY.parents[1]))
    if changes:
        changes.append(Systemctl(verb="daemon-reload"))
    return tuple(changes)
