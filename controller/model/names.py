"""Every name that is written in more than one way, and the only conversions between the spellings.

A slot is `main` or `preview-N` wherever a person or a flag sees it. Units spell `preview1`, because systemd escapes a
dash inside an instance name; databases and roles spell `preview_1`, because an SQL name with a dash needs quotes.
Units begin with `ouroboros-`, everything else is `oroboros`: both spellings are in the host contract.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NewType

from controller.model.machine_needs import COLOUR_STEP, CONTRACT_PORTS, PREVIEWS
from controller.model.options import Options
from controller.model.profiles import Walls

SlotName = NewType("SlotName", str)
Sha = NewType("Sha", str)  # 40 lower-case hex digits: a commit
TreeId = NewType("TreeId", str)  # 40 lower-case hex digits: a tree
#: "production", "pr-<number>" or "queue-<number>": what a proof, a build or a quarantine is valid for.
Domain = NewType("Domain", str)
Colour = Literal["a", "b"]

MAIN = SlotName("main")
PRODUCTION = Domain("production")
#: The Redis channel of the bell: a hint that something happened, never a message.
BELL_CHANNEL = "oro:bell"
COLOURS: tuple[Colour, Colour] = ("a", "b")

#: Kinds of jobs; "wipe" leaves nothing in what a slot's own user wrote.
JobKind = Literal["build", "migrate", "seed", "wipe"]
#: Users of a host: who serves and receives, who controls, who faces the network. `slot_user` names the others.
SERVING_USER = "oroboros"
WORKER_USER = "oroboros-worker"
EDGE_USER = "caddy"
#: What a host has outside of the root: our code, Caddy, configuration and secrets, what Caddy logs.
HOST_PROGRAM = Path("/opt/oroboros")
HOST_APP = HOST_PROGRAM / "app"
HOST_CADDY = HOST_PROGRAM / "bin" / "caddy"
HOST_CONFIG = Path("/etc/oroboros")
HOST_LOGS = Path("/var/log/oroboros")
#: What it serves, and its sockets. Both are the worker's, so root believes nothing that lies there.
HOST_ROOT = Path("/srv/oroboros")
HOST_RUN = Path("/run/oroboros")
POSTGRES_SOCKETS = "/run/postgresql"
#: In the environment of a unit whose network is its own.
OWN_NETWORK = "OROBOROS_OWN_NETWORK"
#: By so much at most the ports of a stack are shifted, all of them, and so many previews it has at most.
PORT_OFFSET_MAX, PREVIEWS_MAX = 57_000, 99
BACKUPS_MAX = 1_000
BUILD_SEALED = ".sealed"
#: What was installed: previews, ports, host names.
TOPOLOGY_FILE = "topology.json"
#: What a surface of a host runs, in its unit's own folder.
SURFACE_CONFIG = "surface.json"
#: The exit code by which a host's launcher says that a job's time was up.
LAUNCHER_TIMED_OUT = 199
#: The exit code by which both runtimes say that the host could not give a build its files: no fault of the release.
JOB_NOT_PREPARED = 197

_SLOT_PATTERN = r"main|preview-[1-9][0-9]{0,2}"
_UNIT = re.compile(rf"(?:(?P<kind>build|migrate|seed|wipe)-)?(?P<slot>{_SLOT_PATTERN})(?:-(?P<colour>[ab]))?")
_SYSTEMD_UNIT = re.compile(
    r"ouroboros-(?P<kind>instance|build|migrate|seed|wipe)@(?P<slot>main|preview[1-9][0-9]{0,2})(?:-(?P<colour>[ab]))?\.service"
)
_SHA = re.compile(r"[0-9a-f]{40}\Z")
_SLOT = re.compile(r"(?:preview-?)?([1-9][0-9]{0,2})\Z")
REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,38}/[A-Za-z0-9._-]{1,100}\Z")


def parse_sha(text: str) -> Sha:
    """Return `text` as a commit id; ValueError unless it is 40 lower-case hex digits."""
    if not _SHA.match(text):
        raise ValueError(f"not a full commit id (40 lower-case hex digits): {text!r:.60}")
    return Sha(text)


def parse_slot(text: str) -> SlotName:
    """Return the slot that a person means by `main`, `preview-1`, `preview1` or `1`; ValueError for anything else."""
    if text == MAIN:
        return MAIN
    match = _SLOT.match(text)
    if not match:
        raise ValueError(f"not a slot: {text!r:.40}; say main, preview-1, preview1 or 1")
    return preview_slot(int(match[1]))


def preview_slot(index: int) -> SlotName:
    """Return the name of preview slot `index`, counted from 1."""
    return SlotName(f"preview-{index}")


def slot_index(slot: SlotName) -> int:
    """Return 0 for main and k for preview-k."""
    return 0 if slot == MAIN else int(slot.removeprefix("preview-"))


def unit_instance(slot: SlotName) -> str:
    """Return the spelling used in unit instances and host labels: `main`, `preview1`."""
    return slot.replace("-", "")


def database_name(slot: SlotName) -> str:
    """Return the name of the slot's database and role: `app_main`, `preview_1`."""
    return "app_main" if slot == MAIN else slot.replace("-", "_")


PRODUCTION_CONTEXT: Final = "oroboros/production"
PREVIEW_CONTEXT: Final = "oroboros/preview"
CONTEXTS: Final = (PRODUCTION_CONTEXT, PREVIEW_CONTEXT)


def status_context(slot: SlotName) -> str:
    """Return the commit status context of a slot: one for production, one shared by all previews."""
    return PRODUCTION_CONTEXT if slot == MAIN else PREVIEW_CONTEXT


def environment(slot: SlotName) -> str:
    """Return what the forge calls a slot: `production`, `preview-1`. So there are never more than there are slots."""
    return PRODUCTION if slot == MAIN else slot


def pull_request_domain(number: int) -> Domain:
    """Return the domain of pull request `number`."""
    return Domain(f"{PULL_DOMAIN}{number}")


#: The beginnings of the domains that come and go with a lease.
PULL_DOMAIN: Final = "pr-"
QUEUE_DOMAIN: Final = "queue-"
#: The forge's merge queue writes its entries here: `gh-readonly-queue/<base>/pr-<number>-<base's commit>`.
#: https://docs.github.com/repositories/configuring-branches-and-merges-in-your-repository/configuring-pull-request-merges/managing-a-merge-queue
QUEUE_REFS: Final = "refs/heads/gh-readonly-queue/"


def queue_domain(number: int) -> Domain:
    """Return the domain of a pull request's entry in the merge queue."""
    return Domain(f"{QUEUE_DOMAIN}{number}")


def domain_of(pull_request: int, *, in_queue: bool) -> Domain:
    """Return the domain of a pull request, or of its entry in the merge queue."""
    return queue_domain(pull_request) if in_queue else pull_request_domain(pull_request)


def is_of_queue(domain: Domain) -> bool:
    """Say whether a domain is that of an entry in the merge queue: what is gated there is never switched to."""
    return domain.startswith(QUEUE_DOMAIN)


def number_of(domain: Domain) -> int | None:
    """Return the pull request that a domain is of; None for production."""
    for start in (PULL_DOMAIN, QUEUE_DOMAIN):
        if domain.startswith(start):
            return int(domain.removeprefix(start))
    return None


def build_marker(build: Path) -> Path:
    """Return the file that says that a build is whole: beside it, out of the build's own reach."""
    return build.with_name(f"{build.name}{BUILD_SEALED}")


def instance_unit(slot: SlotName, colour: Colour) -> str:
    """Return the runtime's name of a slot's instance: `main-a`, `preview-2-b`."""
    return f"{slot}-{colour}"


def job_unit(kind: JobKind, slot: SlotName) -> str:
    """Return the runtime's name of a slot's job, also its profile: `build-preview-2`."""
    return f"{kind}-{slot}"


def slot_user(slot: SlotName) -> str:
    """Return the host's user that the slot's instances and jobs run as: `oroboros-main`, `oroboros-preview-2`."""
    return f"oroboros-{slot}"


def systemd_unit(unit: str) -> str:
    """Return systemd's name of a unit of ours: `ouroboros-instance@preview2-b.service`, `ouroboros-build@main.service`.

    Raises ValueError for a name that is neither of `instance_unit` nor of `job_unit`."""
    match = _UNIT.fullmatch(unit)
    if match is None or (match["kind"] is None) is (match["colour"] is None):
        raise ValueError(f"not a unit of ours: {unit!r:.60}")
    instance = unit_instance(SlotName(match["slot"]))
    if match["colour"] is not None:
        return f"ouroboros-instance@{instance}-{match['colour']}.service"
    return f"ouroboros-{match['kind']}@{instance}.service"


def unit_of_systemd(name: str) -> str | None:
    """Return our name of a systemd unit that `systemd_unit` spells; None for any other."""
    match = _SYSTEMD_UNIT.fullmatch(name)
    if match is None:
        return None
    slot = parse_slot(match["slot"])
    if match["kind"] == "instance":
        return f"{slot}-{match['colour']}" if match["colour"] is not None else None
    return f"{match['kind']}-{slot}" if match["colour"] is None else None


def slot_of_unit(unit: str) -> SlotName | None:
    """Return the slot that a unit of `instance_unit` or `job_unit` belongs to; None for any other name."""
    match = _UNIT.fullmatch(unit)
    return None if match is None else SlotName(match["slot"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Every TCP port of one stack on 127.0.0.1: as chosen at install, else the contract's, shifted by `offset`."""

    offset: int = 0
    #: By the names of `--port`; of those that slots have, production's.
    chosen: Mapping[str, int] = field(default_factory=dict, hash=False)

    def first(self, name: str) -> int:
        """Return the port of a name of `--port`."""
        return self.chosen.get(name, CONTRACT_PORTS[name] + self.offset)

    @property
    def edge(self) -> int:
        return self.first("edge")

    @property
    def edge_https(self) -> int:
        """The edge's public port; only where it holds certificates, like `edge_http`."""
        return self.first("https")

    @property
    def edge_http(self) -> int:
        """For redirects to HTTPS, and for proving to a certificate authority that a name is ours."""
        return self.first("http")

    @property
    def api(self) -> int:
        return self.first("api")

    @property
    def worker_health(self) -> int:
        return self.first("worker")

    @property
    def forge(self) -> int:
        """The development forge; not part of the host contract."""
        return 8070 + self.offset

    @property
    def database(self) -> int:
        """The apps' Postgres of a stack; a host's own listens where its administrator has it."""
        return 8060 + self.offset

    def web(self, slot: SlotName) -> int:
        return self.first("web") + slot_index(slot)

    def backend(self, slot: SlotName) -> int:
        return self.first("backend") + slot_index(slot)

    def instance(self, slot: SlotName, colour: Colour) -> int:
        """The two instance addresses of a slot: 8200+k for colour a, 8300+k for colour b, unless chosen otherwise."""
        return self.first("instance") + COLOUR_STEP * COLOURS.index(colour) + slot_index(slot)

    def all_for(self, slots: tuple[SlotName, ...]) -> tuple[tuple[str, int], ...]:
        """Return (what, port) for every port that a stack with these slots listens on."""
        fixed = [
            ("edge", self.edge),
            ("api", self.api),
            ("worker health", self.worker_health),
            ("forge", self.forge),
            ("database", self.database),
        ]
        for slot in slots:
            fixed.append((f"{slot} web", self.web(slot)))
            fixed.append((f"{slot} backend", self.backend(slot)))
            fixed.extend((f"{slot} instance {colour}", self.instance(slot, colour)) for colour in COLOURS)
        return tuple(fixed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """What was installed on this host: previews, ports, host names. Written by `up` and `install`."""

    previews: int = PREVIEWS
    ports: Ports = Ports()
    #: "localhost" gives app.localhost, preview1.localhost, api.localhost, worker.localhost.
    base_host: str = "localhost"
    scheme: Literal["http", "https"] = "http"
    #: The port that users see in a URL; None when it is the scheme's own.
    public_port: int | None = 8088
    #: Host names where they are not `app.<base>` and `preview<n>.<base>`; `{n}` is the slot's number.
    production_host: str | None = None
    preview_host: str | None = None
    #: Stable port of production's backend; None: `ports.backend(MAIN)`. The api's own port: the api is that backend.
    production_backend_port: int | None = None
    #: Who holds certificates for the host names: nobody on this machine; the edge, which gets them itself; the edge,
    #: from files. Other than "off", it listens on the public ports too.
    tls: Literal["off", "auto", "files"] = "off"
    #: Addresses and networks of proxies in front of the edge, whose `X-Forwarded-For` is believed.
    trusted_proxies: tuple[str, ...] = ()
    #: Name servers on private networks, which builds may reach although they are not the internet's.
    resolvers: tuple[str, ...] = ()
    #: What the units of slots may take and reach.
    walls: Walls = field(default_factory=Walls)
    #: Each preview instance has a network of its own, and is reached through a socket that systemd holds for it.
    isolated_previews: bool = False
    #: The host has more than one processor, and previews leave the first one to everything else.
    spares_processor: bool = False
    #: "installed": api and worker run what was installed. "current": what production serves, so that merging to the
    #: production branch replaces them.
    control_plane: Literal["installed", "current"] = "installed"
    #: How many daily backups are kept on this host; 0: none is made.
    backups: int = 0
    #: While the host gets fewer slots: how many previews stay. The others end their leases and take none.
    kept_previews: int | None = None
    #: The api enters the control plane's database as the host contract says: as Postgres' administrator.
    contract_database: bool = False
    #: What the options of `install` said; None where an installation of before kept no record of it.
    said: Options | None = None

    @property
    def leaving(self) -> tuple[SlotName, ...]:
        """Return the preview slots that are on their way out."""
        return () if self.kept_previews is None else self.preview_slots[self.kept_previews :]

    @property
    def slots(self) -> tuple[SlotName, ...]:
        return (MAIN, *self.preview_slots)

    @property
    def preview_slots(self) -> tuple[SlotName, ...]:
        return tuple(preview_slot(k) for k in range(1, self.previews + 1))

    def backend_port(self, slot: SlotName) -> int:
        """Return the stable port of a slot's backend."""
        if slot == MAIN and self.production_backend_port is not None:
            return self.production_backend_port
        return self.ports.backend(slot)

    def host(self, slot: SlotName) -> str:
        """Return the public host name of a slot: `app.<base>` or `preview1.<base>`."""
        if slot == MAIN and self.production_host is not None:
            return self.production_host
        if slot != MAIN and self.preview_host is not None:
            return self.preview_host.replace("{n}", str(slot_index(slot)))
        label = "app" if slot == MAIN else unit_instance(slot)
        return f"{label}.{self.base_host}"

    def url(self, slot: SlotName) -> str:
        """Return the public URL of a slot, without a trailing slash."""
        port = f":{self.public_port}" if self.public_port is not None else ""
        return f"{self.scheme}://{self.host(slot)}{port}"


#: The host contract's own topology: the tracked files under `infra/` are rendered for it.
CONTRACT = Topology(
    base_host="example.com",
    scheme="https",
    public_port=None,
    production_backend_port=Ports().api,
    isolated_previews=True,
    spares_processor=True,
    control_plane="current",
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies under one root; joins only, touches no disk."""

    root: Path
    #: Sockets need a short folder (a Unix socket's path holds 107 bytes); None means `<root>/run`.
    short_run: Path | None = None
    #: On a host a release is closed to all but those whom its access list names.
    closes_releases: bool = False

    @property
    def mirror(self) -> Path:
        return self.root / "repo.git"

    @property
    def releases(self) -> Path:
        return self.root / "releases"

    def release(self, sha: Sha) -> Path:
        return self.releases / sha

    def manifest(self, sha: Sha) -> Path:
        """The manifest lies beside the release, never inside it: a release is git's bytes and nothing else."""
        return self.releases / f"{sha}.manifest"

    @property
    def builds(self) -> Path:
        return self.root / "builds"

    def build(self, domain: Domain, tree: TreeId, recipe_hash: str) -> Path:
        return self.builds / domain / f"{tree}-{recipe_hash}"

    def build_above(self, folder: Path) -> Path | None:
        """Return the build that a folder is, or lies in; None when it is in none."""
        if self.builds not in folder.parents:
            return None
        parts = folder.relative_to(self.builds).parts
        return self.builds.joinpath(*parts[:2]) if len(parts) > 1 else None

    @property
    def current(self) -> Path:
        return self.root / "current"

    def slot(self, slot: SlotName) -> Path:
        return self.root / "slots" / slot

    def live(self, slot: SlotName) -> Path:
        """The link whose replacement by one rename is the switch; it names a folder in `live_versions`."""
        return self.slot(slot) / "live"

    def live_versions(self, slot: SlotName) -> Path:
        return self.slot(slot) / "live.d"

    def slot_current(self, slot: SlotName) -> Path:
        """`current` of a slot; main's is the root's own."""
        return self.current if slot == MAIN else self.slot(slot) / "current"

    def slot_lock(self, slot: SlotName) -> Path:
        return self.slot(slot) / "lock"

    def slot_data(self, slot: SlotName) -> Path:
        """A folder that outlives releases, for uploads and the like; a preview's is wiped with its lease."""
        return self.slot(slot) / "data"

    def slot_database(self, slot: SlotName) -> Path:
        """On a host: the fence of the lease that the slot's database is for, and how it is reached."""
        return self.slot(slot) / "database"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts" / "runs"

    def run_artifacts(self, run_id: int) -> Path:
        return self.artifacts / str(run_id)

    @property
    def run(self) -> Path:
        """Sockets, pid files and secrets of running processes; nothing here outlives a stop."""
        return self.short_run or self.root / "run"

    def surface_socket(self, slot: SlotName) -> Path:
        """The responder of a slot's surface: what the slot's address names when no instance runs."""
        return self.run / "surfaces" / f"{unit_instance(slot)}.sock"

    def instance_socket(self, slot: SlotName, colour: Colour) -> Path:
        """Where an instance binds that listens on a Unix socket."""
        return self.run / "slots" / slot / f"{colour}.sock"

    def forwarding_socket(self, slot: SlotName, colour: Colour) -> Path:
        """Where the service manager listens for an instance that has a network of its own."""
        return self.run / "forwards" / f"{unit_instance(slot)}-{colour}.sock"

    @property
    def worker_run(self) -> Path:
        """What the worker keeps while it runs: its lock, and which units it has started since boot."""
        return self.run / "worker"

    def armed_file(self, unit: str) -> Path:
        """Says that the worker itself has this unit start; gone after a reboot, as all of `run` is."""
        return self.worker_run / "armed" / systemd_unit(unit).removesuffix(".service")

    def order_file(self, unit: str) -> Path:
        """What a unit is to run, for the launcher of a host: JSON, 0600. It outlives a reboot, as what serves does."""
        return self.root / "orders" / f"{systemd_unit(unit).removesuffix('.service')}.json"

    def environment_file(self, unit: str) -> Path:
        """What an instance or job gets as environment, 0600, written before each start."""
        return self.run / "env" / f"{unit}.env"

    def log_file(self, unit: str, generation: int) -> Path:
        """What a unit of one run wrote, stdout and stderr together."""
        return self.run_artifacts(generation) / f"{unit}.log"

    @property
    def topology(self) -> Path:
        """On a host it lies with what is root's, since root renders units from it."""
        return (HOST_CONFIG if self.root == HOST_ROOT else self.root) / TOPOLOGY_FILE

    @property
    def stack_file(self) -> Path:
        return self.root / "stack.json"


#: Where everything lies on a host.
HOST_LAYOUT = Layout(HOST_ROOT, HOST_RUN)
