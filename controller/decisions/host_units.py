"""Which units does a host have, and what may each of them do? Topology in; systemd's, polkit's and tmpfiles' files out.

Root decides here, at install, what may run how; the worker says at run time only what (`effects.systemd`). A slot's
units are templates with the walls, and a drop-in for each instance of a template with its user, slice and limits.
The directives are those of systemd.exec(5), systemd.resource-control(5) and systemd.service(5), of systemd 252.

The files under `infra/systemd` are this rendering for the host contract's own topology; a test keeps them equal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from controller.decisions.edge import CERTIFICATE, CERTIFICATE_KEY, public_ports
from controller.decisions.surfaces import read_surface_environment, surface_environment, surface_ports
from controller.model.host_files import HostFile
from controller.model.machine_needs import POSTGRES_PORT, REDIS_PORT
from controller.model.names import (
    COLOURS,
    EDGE_USER,
    HOST_CADDY,
    HOST_CONFIG,
    HOST_LAYOUT,
    HOST_PROGRAM,
    HOST_ROOT,
    HOST_RUN,
    MAIN,
    OWN_NETWORK,
    SERVING_USER,
    WORKER_USER,
    Colour,
    JobKind,
    Layout,
    SlotName,
    Topology,
    instance_unit,
    job_unit,
    slot_user,
    systemd_unit,
    unit_instance,
)
from controller.model.profiles import BUILD, PREVIEW, Profile, Walls, profile_of

#: Not /etc: there an administrator may mask a unit, or override it.
UNITS = Path("/usr/local/lib/systemd/system")
#: Where the timer's backups go; Debian's own lie beside them.
BACKUPS = Path("/var/backups/oroboros")
POLKIT_RULE = Path("/etc/polkit-1/rules.d/50-oroboros.rules")
TMPFILES = Path("/etc/tmpfiles.d/oroboros.conf")
LAUNCHER = f"/usr/bin/python3 -I {HOST_PROGRAM}/app/controller/launcher.py"
CONTROL = f"/usr/bin/python3 -I {HOST_PROGRAM}/app/controller/control_launcher.py"
EDGE_LAUNCHER = f"/usr/bin/python3 -I {HOST_PROGRAM}/app/controller/edge_launcher.py"
MAY_START = f"{HOST_PROGRAM}/app/infra/systemd/may-start"
#: What systemd asks for before it says that the worker hangs; the worker tells it of each tick.
WORKER_WATCHDOG_S = 60
#: Longer than any `stop_timeout_s` of a recipe: the worker sends the KILL that the recipe asks for.
STOP_LIMIT_S = 310
#: Longer than any `timeout_s` of a job: the launcher keeps the recipe's.
JOB_LIMIT_S = 3_700
JOBS: tuple[JobKind, ...] = ("build", "migrate")
#: Verbs of systemctl that the worker may use on its units.
VERBS = ("start", "stop", "restart", "kill", "reset-failed")
#: Percent of the machine's memory: what all previews, and all builds and migrations, get at most; what the control
#: plane and production keep when memory is short.
PREVIEWS_GET, BUILDS_GET = 35, 25
CONTROL_KEEPS, PRODUCTION_KEEPS = 10, 20
#: All but the first, however many there are.
PREVIEW_PROCESSORS = "1-1023"
#: The edge on loopback, and on the public ports where there is TLS.
EDGE_UNIT, PUBLIC_EDGE_UNIT = "ouroboros-caddy.service", "ouroboros-caddy-public.service"
PUBLIC_CADDYFILE = "Caddyfile.public"
#: A drop-in of those that are started again for ever, and the systemd that reads it: systemd.service(5).
BACK_OFF, BACK_OFF_SINCE = "back-off.conf", 254
RESTARTED = ("ouroboros-api.service", "ouroboros-worker.service", EDGE_UNIT, PUBLIC_EDGE_UNIT, "ouroboros-web@.service")
RESTART_STEPS, RESTART_DELAY_MAX_S = 8, 30
#: What the worker may only have done again, never ended.
RESTARTED_ONLY = ("ouroboros-worker.service", "ouroboros-api.service")

#: Every process of ours and of the slots.
_WALLS = """\
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
CapabilityBoundingSet=
AmbientCapabilities=
KeyringMode=private
RemoveIPC=yes
UMask=0077
"""
#: Strangers' code sees nothing of /run but what takes its output and its own database. It may tell systemd nothing:
#: a status, or a plea for more time (sd_notify(3)), would be the word of whoever is to be stopped.
_SLOT_WALLS = f"""\
{_WALLS}ProcSubset=pid
PrivateUsers=yes
PrivateIPC=yes
TemporaryFileSystem=/run:ro /dev/shm:mode=1777
BindReadOnlyPaths=/run/systemd/journal/stdout -/run/postgresql -/run/systemd/resolve
BindReadOnlyPaths={HOST_RUN}/worker/armed /run/credentials/%n
InaccessiblePaths=-{HOST_CONFIG} -{HOST_ROOT}/repo.git -{HOST_ROOT}/orders -{HOST_ROOT}/artifacts -{HOST_ROOT}/judge
InaccessiblePaths=-/var/log
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
LimitCORE=0
"""
#: Nothing is in it but the unit; the launcher leads the port of Postgres to its socket.
_OWN_NETWORK = f"PrivateNetwork=yes\nEnvironment={OWN_NETWORK}=yes\n"
#: RFC 1918 and RFC 4193.
PRIVATE_NETWORKS = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
#: A build reaches the internet, but nobody at home: loopback, the cloud's own addresses, private networks.
_BUILD_NETWORK = f"""\
IPAddressDeny=localhost link-local multicast {" ".join(PRIVATE_NETWORKS)}
"""


#: A token, or the key of a GitHub App: whichever is set is used.
_FORGE_CREDENTIALS = f"""\
LoadCredential=forge-token:{HOST_CONFIG}/forge-token
LoadCredential=github-app-key:{HOST_CONFIG}/github-app-key
Environment=OROBOROS_FORGE_TOKEN_FILE=%d/forge-token OROBOROS_GITHUB_APP_KEY_FILE=%d/github-app-key
"""
#: With it api and worker say more than whether they are well.
_OPERATOR_CREDENTIAL = f"""\
LoadCredential=operator-token:{HOST_CONFIG}/operator-token
Environment=OROBOROS_OPERATOR_TOKEN_FILE=%d/operator-token
"""
#: Signs notifications, where there are any.
_NOTIFY_CREDENTIAL = f"""\
LoadCredential=notify-secret:{HOST_CONFIG}/notify-secret
Environment=OROBOROS_NOTIFY_SECRET_FILE=%d/notify-secret
"""


def render_units(topology: Topology) -> tuple[HostFile, ...]:
    """Return every file of systemd, polkit and tmpfiles that the host gets."""
    return (
        *_slices(),
        *_control_plane(topology),
        *_maintenance(),
        *(_backup(topology) if topology.backups else ()),
        *_slot_templates(topology),
        *(file for slot in topology.slots for file in _slot(topology, slot)),
        HostFile(path=POLKIT_RULE, text=_polkit_rule(topology)),
        HostFile(path=TMPFILES, text=_tmpfiles(topology)),
    )


def enabled_units(topology: Topology) -> tuple[str, ...]:
    """Return the units that a host starts at boot, in the order in which install starts them."""
    surfaces = [surface_unit(slot) for slot in topology.slots]
    instances = [systemd_unit(instance_unit(slot, colour)) for slot in topology.slots for colour in COLOURS]
    return (
        *(socket_of(unit) for unit in surfaces),
        socket_of(EDGE_UNIT),
        "ouroboros-api.socket",
        *surfaces,
        EDGE_UNIT,
        *(() if topology.tls == "off" else (PUBLIC_EDGE_UNIT,)),
        "ouroboros-api.service",
        "ouroboros-worker.service",
        "ouroboros-judge.service",
        *instances,
        *(f"ouroboros-maintenance-{name}.timer" for name, *_ in _TIMERS),
        *(("ouroboros-maintenance-backup.timer",) if topology.backups else ()),
    )


def surface_unit(slot: SlotName) -> str:
    """Return the unit of a slot's surface."""
    return f"ouroboros-web@{unit_instance(slot)}.service"


def socket_of(unit: str) -> str:
    """Return the unit that holds the ports of a service, and keeps them open while it restarts."""
    return unit.removesuffix(".service") + ".socket"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledUnit:
    """A unit as install leaves it."""

    name: str
    #: What systemd reads for it: its own file, or its template's, and a drop-in.
    files: frozenset[str]
    #: It starts at boot.
    enabled: bool
    #: It runs whatever is deployed: of an instance only one colour does, the judge only with an order.
    runs: bool


def installed_units(topology: Topology) -> tuple[InstalledUnit, ...]:
    """Return every unit that the host gets, those first that start at boot."""
    files = {file.path for file in (*render_units(topology), *render_back_off()) if UNITS in file.path.parents}
    named = [path.parent.name.removesuffix(".d") if path.suffix == ".conf" else path.name for path in sorted(files)]
    enabled = enabled_units(topology)
    return tuple(
        InstalledUnit(
            name=name,
            files=frozenset(str(path) for path in files & _files_of(name)),
            enabled=name in enabled,
            runs=name in enabled and not name.startswith(("ouroboros-instance@", "ouroboros-judge")),
        )
        for name in dict.fromkeys((*enabled, *named))
        if "@." not in name
    )


def _files_of(unit: str) -> frozenset[Path]:
    template = unit.partition("@")[0] + "@." + unit.rpartition(".")[2]
    drop_ins = {UNITS / f"{name}.d" / file for name in (unit, template) for file in ("slot.conf", BACK_OFF)}
    return frozenset({UNITS / unit, UNITS / template, *drop_ins})


def render_back_off() -> tuple[HostFile, ...]:
    """Return what has systemd wait longer and longer before it starts again what ends at once, from 254 on. An older
    one warns of what it does not know, so there it is not installed."""
    text = f"[Service]\nRestartSteps={RESTART_STEPS}\nRestartMaxDelaySec={RESTART_DELAY_MAX_S}s\n"
    return tuple(_unit(f"{unit}.d/{BACK_OFF}", text) for unit in RESTARTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortHolder:
    """A port of the table, and whose it is: units or slices, any of which may listen on it."""

    what: str
    port: int
    holders: frozenset[str]
    #: The slots that visitors cannot reach while another process has it.
    blocks: tuple[SlotName, ...] = ()
    #: It is listened on at every address of the machine.
    is_public: bool = False
    #: A service of the host's own listens there, and none of ours.
    of_host: bool = False


def port_holders(topology: Topology) -> tuple[PortHolder, ...]:
    """Return who may listen on each port of the table."""

    def passed_to(unit: str) -> frozenset[str]:
        # systemd itself makes the socket that it passes on, in a control group of that or in its own.
        return frozenset({unit, socket_of(unit), "init.scope"})

    ports = topology.ports
    # Whatever service of the host's own: which one, and under which name, is its administrator's choice.
    services = frozenset({"system.slice"})
    found = [
        PortHolder(what="api", port=ports.api, holders=passed_to("ouroboros-api.service")),
        PortHolder(what="Postgres", port=POSTGRES_PORT, holders=services, of_host=True),
        PortHolder(what="Redis", port=REDIS_PORT, holders=services, of_host=True),
        PortHolder(what="edge", port=ports.edge, holders=passed_to(EDGE_UNIT), blocks=topology.slots),
        PortHolder(what="worker health", port=ports.worker_health, holders=frozenset({"ouroboros-worker.service"})),
    ]
    if topology.tls != "off":
        public = (("edge, HTTPS", ports.edge_https), ("edge, HTTP", ports.edge_http))
        found += [
            PortHolder(what=what, port=port, holders=frozenset({PUBLIC_EDGE_UNIT}), is_public=True)
            for what, port in public
        ]
    for slot in topology.slots:
        web = passed_to(surface_unit(slot))
        of_slot = [("web", ports.web(slot), web)]
        of_slot += [
            (
                f"instance {colour}",
                ports.instance(slot, colour),
                frozenset({systemd_unit(instance_unit(slot, colour))}),
            )
            for colour in COLOURS
        ]
        if slot != MAIN or topology.production_backend_port != ports.api:
            of_slot.append(("backend", topology.backend_port(slot), web))
        found += [
            PortHolder(what=f"{slot} {what}", port=port, holders=holders, blocks=(slot,))
            for what, port, holders in of_slot
        ]
    return tuple(found)


def _unit(name: str, text: str) -> HostFile:
    if name.endswith(".service"):
        # As the unit is called, whichever slot it is of: `journalctl -t`.
        identifier = f"SyslogIdentifier={name.removesuffix('.service').partition('@')[0]}\n"
        text = text.replace("[Service]\n", f"[Service]\n{identifier}", 1)
    return HostFile(path=UNITS / name, text=text)


# -- slices -----------------------------------------------------------------------------------------------------------


def _slices() -> tuple[HostFile, ...]:
    """Return the slices: who gets the processor, the disk and the memory when they are short.

    Whatever previews and builds do, 40 % of the memory is not theirs: for production, the control plane, Postgres and
    the system. Of that, what production and the control plane use up to their share is taken from nobody else for
    as long as there is something else to take; a slice above them must promise the sum (memory.low, cgroups(7))."""
    return tuple(
        _unit(name, f"[Unit]\nDescription=Oroboros: {what}\n\n[Slice]\n{limits}")
        for name, what, limits in (
            (
                "ouroboros.slice",
                "everything",
                (
                    "CPUAccounting=yes\nMemoryAccounting=yes\nTasksAccounting=yes\n"
                    f"MemoryLow={CONTROL_KEEPS + PRODUCTION_KEEPS}%\n"
                ),
            ),
            (
                "ouroboros-control.slice",
                "the control plane and the proxies",
                f"CPUWeight=200\nIOWeight=200\nMemoryLow={CONTROL_KEEPS}%\n",
            ),
            (
                "ouroboros-production.slice",
                "production's instances",
                f"CPUWeight=100\nIOWeight=100\nMemoryLow={PRODUCTION_KEEPS}%\n",
            ),
            # Whatever they do, production goes before them.
            (
                "ouroboros-previews.slice",
                "every preview",
                f"CPUWeight=10\nIOWeight=10\nMemoryMax={PREVIEWS_GET}%\nMemorySwapMax=0\nTasksMax=1500\n",
            ),
            (
                "ouroboros-builds.slice",
                "builds and migrations",
                f"CPUWeight=10\nIOWeight=10\nMemoryMax={BUILDS_GET}%\nMemorySwapMax=0\nTasksMax=4096\n",
            ),
        )
    )


# -- the control plane ------------------------------------------------------------------------------------------------


def _control_plane(topology: Topology) -> tuple[HostFile, ...]:
    ports = topology.ports
    needs_repository = f"ConditionPathExists={HOST_CONFIG}/repository.env\n"
    return (
        _socket("ouroboros-api.socket", "the port of receiver and API", ports.api),
        _socket(socket_of(EDGE_UNIT), "the port of the reverse proxy", ports.edge),
        *(_surface_socket(topology, slot) for slot in topology.slots),
        _unit(
            "ouroboros-api.service",
            "[Unit]\n"
            "Description=Oroboros: receiver and API\n"
            "Requires=ouroboros-api.socket\n"
            "After=ouroboros-api.socket network.target postgresql.service redis.service\n"
            "Wants=postgresql.service redis.service\n"
            "StartLimitIntervalSec=0\n"
            "\n"
            "[Service]\n"
            "Type=notify\n"
            "NotifyAccess=main\n"
            f"User={SERVING_USER}\nGroup={SERVING_USER}\n"
            "Slice=ouroboros-control.slice\n"
            f"EnvironmentFile={HOST_CONFIG}/api.env\n"
            # Without one it says so: a connection must not be the end of the socket (TriggerLimitIntervalSec=).
            f"EnvironmentFile=-{HOST_CONFIG}/repository.env\n"
            f"LoadCredential=webhook-secrets:{HOST_CONFIG}/webhook-secrets\n"
            "Environment=OROBOROS_WEBHOOK_SECRETS_FILE=%d/webhook-secrets\n"
            f"{_OPERATOR_CREDENTIAL}"
            f"ExecStart={CONTROL} api --fd 3\n"
            "Restart=always\nRestartSec=200ms\n"
            "TimeoutStopSec=15s\n"
            f"{_WALLS}"
            "ProcSubset=pid\n"
            "PrivateUsers=yes\nPrivateIPC=yes\n"
            f"InaccessiblePaths=-{HOST_ROOT}/repo.git -{HOST_ROOT}/orders\n"
            # Of the configuration it sees what was installed, and no more.
            f"TemporaryFileSystem={HOST_CONFIG}:ro\nBindReadOnlyPaths=-{HOST_LAYOUT.topology}\n"
            "RestrictAddressFamilies=AF_UNIX AF_INET\n"
            "IPAddressDeny=any\nIPAddressAllow=localhost\n"
            "MemoryMax=512M\nTasksMax=64\n"
            "\n"
            "[Install]\nWantedBy=multi-user.target\n",
        ),
        _unit(
            "ouroboros-worker.service",
            "[Unit]\n"
            "Description=Oroboros: the controller\n"
            "After=network-online.target postgresql.service redis.service\n"
            "Wants=network-online.target postgresql.service redis.service\n"
            f"{needs_repository}"
            "StartLimitIntervalSec=0\n"
            "\n"
            "[Service]\n"
            "Type=notify\n"
            "NotifyAccess=main\n"
            f"WatchdogSec={WORKER_WATCHDOG_S}s\n"
            "TimeoutStartSec=120s\n"
            f"User={WORKER_USER}\nGroup={WORKER_USER}\n"
            "SupplementaryGroups=systemd-journal\n"
            "Slice=ouroboros-control.slice\n"
            f"EnvironmentFile={HOST_CONFIG}/worker.env\n"
            f"EnvironmentFile={HOST_CONFIG}/repository.env\n"
            f"{_FORGE_CREDENTIALS}{_NOTIFY_CREDENTIAL}{_OPERATOR_CREDENTIAL}"
            f"ExecStart={CONTROL} worker\n"
            "Restart=always\nRestartSec=1s\n"
            "TimeoutStopSec=30s\n"
            f"{_WALLS}"
            # Who holds a socket, and where an app listens in its own network, is asked of processes that are not ours.
            "ProcSubset=all\nProtectProc=default\n"
            "PrivateIPC=yes\n"
            f"ReadWritePaths={HOST_ROOT} {HOST_RUN}/worker\n"
            "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK\n"
            "MemoryMax=1G\nTasksMax=256\n"
            "\n"
            "[Install]\nWantedBy=multi-user.target\n",
        ),
        _unit(
            "ouroboros-judge.service",
            "[Unit]\n"
            "Description=Oroboros: judges a new release of Oroboros itself\n"
            f"ConditionPathExists={HOST_ROOT}/judge/order.json\n"
            "StartLimitIntervalSec=0\n"
            "\n"
            "[Service]\n"
            "Type=oneshot\n"
            f"User={WORKER_USER}\nGroup={WORKER_USER}\n"
            "Slice=ouroboros-control.slice\n"
            f"EnvironmentFile={HOST_CONFIG}/worker.env\n"
            f"EnvironmentFile={HOST_CONFIG}/repository.env\n"
            f"ExecStart={CONTROL} judge\n"
            # Its order is a file, so a crash of it is repeated.
            "Restart=on-failure\nRestartSec=1s\n"
            "TimeoutStartSec=600s\n"
            f"{_WALLS}"
            "ProcSubset=all\n"
            "PrivateIPC=yes\n"
            f"ReadWritePaths={HOST_ROOT} {HOST_RUN}/worker\n"
            "RestrictAddressFamilies=AF_UNIX AF_INET\n"
            "IPAddressDeny=any\nIPAddressAllow=localhost\n"
            "\n"
            "[Install]\nWantedBy=multi-user.target\n",
        ),
        _edge_unit(
            EDGE_UNIT,
            "the reverse proxy",
            after=_wants_socket(socket_of(EDGE_UNIT)),
            command=f"{_RUN_CADDY} {HOST_CONFIG}/Caddyfile --adapter caddyfile",
            walls=f"{_EDGE_WALLS}PrivateUsers=yes\nIPAddressDeny=any\nIPAddressAllow=localhost\n",
        ),
        *(() if topology.tls == "off" else (_public_edge(topology),)),
        _unit(
            "ouroboros-web@.service",
            "[Unit]\n"
            "Description=Oroboros: the surface of slot %i\n"
            f"{_wants_socket('ouroboros-web@%i.socket')}"
            "StartLimitIntervalSec=0\n"
            "\n"
            "[Service]\n"
            "Type=exec\n"
            f"User={SERVING_USER}\nGroup={SERVING_USER}\n"
            "Slice=ouroboros-control.slice\n"
            f"EnvironmentFile={HOST_CONFIG}/web-%i.env\n"
            "RuntimeDirectory=ouroboros-web/%i\n"
            "LogsDirectory=oroboros/web\n"
            f"Environment=OROBOROS_ROOT={HOST_ROOT} OROBOROS_RUN={HOST_RUN}\n"
            "Environment=XDG_DATA_HOME=%t/ouroboros-web/%i XDG_CONFIG_HOME=%t/ouroboros-web/%i\n"
            f"ExecStart={CONTROL} surface %i --caddy {HOST_CADDY}\n"
            "Restart=always\nRestartSec=200ms\n"
            "TimeoutStopSec=15s\n"
            f"{_WALLS}"
            "ProcSubset=pid\n"
            "PrivateUsers=yes\nPrivateIPC=yes\n"
            f"ReadWritePaths={HOST_RUN}/surfaces\n"
            f"InaccessiblePaths=-{HOST_ROOT}/repo.git -{HOST_ROOT}/orders -{HOST_CONFIG}\n"
            "RestrictAddressFamilies=AF_UNIX AF_INET\n"
            "IPAddressDeny=any\nIPAddressAllow=localhost\n"
            "MemoryMax=512M\nTasksMax=256\n"
            "\n"
            "[Install]\nWantedBy=multi-user.target\n",
        ),
    )


_RUN_CADDY = f"{HOST_CADDY} run --config"
_EDGE_WALLS = (
    f"{_WALLS}ProcSubset=pid\nPrivateIPC=yes\nRestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\nTasksMax=256\n"
    f"InaccessiblePaths=-{HOST_ROOT}/repo.git -{HOST_ROOT}/orders -{HOST_ROOT}/slots\n"
)


def _socket(name: str, what: str, *ports: int) -> HostFile:
    """Return a unit by which systemd holds ports open while the service of its name restarts.

    A service that fails is started again by its own rule; no limit on connections may close the port for good."""
    listens = "".join(f"ListenStream=127.0.0.1:{port}\n" for port in ports)
    return _unit(
        name,
        f"[Unit]\nDescription=Oroboros: {what}\nStartLimitIntervalSec=0\n\n"
        f"[Socket]\n{listens}Backlog=2048\nNoDelay=yes\nTriggerLimitIntervalSec=0\n\n"
        "[Install]\nWantedBy=sockets.target\n",
    )


def _surface_socket(topology: Topology, slot: SlotName) -> HostFile:
    told = read_surface_environment(surface_environment(topology, slot, web_root=HOST_LAYOUT.current))
    return _socket(socket_of(surface_unit(slot)), f"the ports of slot {slot}", *surface_ports(told))


def _wants_socket(name: str) -> str:
    """Return what has each start of a service try its ports again. Wanted, not required: with a port taken by another
    process the service fails and is started again, until that port is free."""
    return f"Wants={name}\nAfter={name} network.target\n"


def _edge_unit(name: str, what: str, *, after: str, command: str, walls: str) -> HostFile:
    return _unit(
        name,
        "[Unit]\n"
        f"Description=Oroboros: {what}\n"
        f"{after}"
        "StartLimitIntervalSec=0\n"
        "\n"
        "[Service]\n"
        "Type=exec\n"
        f"User={EDGE_USER}\nGroup={EDGE_USER}\n"
        "Slice=ouroboros-control.slice\n"
        f"ExecStart={command}\n"
        # Caddy takes the new configuration beside the old one, and no connection is cut.
        "ExecReload=/bin/kill -USR1 $MAINPID\n"
        "Restart=always\nRestartSec=200ms\n"
        "TimeoutStopSec=15s\n"
        "StateDirectory=ouroboros-caddy\n"
        "LogsDirectory=oroboros/edge\n"
        "Environment=XDG_DATA_HOME=%S/ouroboros-caddy XDG_CONFIG_HOME=%S/ouroboros-caddy\n"
        f"{walls}"
        "\n"
        "[Install]\nWantedBy=multi-user.target\n",
    )


def _public_edge(topology: Topology) -> HostFile:
    """Return the unit of the edge's public ports: with one taken it waits, and the edge on loopback goes on."""
    ports = " ".join(map(str, public_ports(topology)))
    bind = "CAP_NET_BIND_SERVICE"
    walls = _EDGE_WALLS.replace("CapabilityBoundingSet=\n", f"CapabilityBoundingSet={bind}\n")
    walls = walls.replace("AmbientCapabilities=\n", f"AmbientCapabilities={bind}\n")
    certificates = "".join(f"LoadCredential={name}:{HOST_CONFIG}/{name}\n" for name in (CERTIFICATE, CERTIFICATE_KEY))
    return _edge_unit(
        PUBLIC_EDGE_UNIT,
        "the public ports of the reverse proxy",
        after="After=network.target\n",
        command=f"{EDGE_LAUNCHER} {ports} -- {_RUN_CADDY} {HOST_CONFIG}/{PUBLIC_CADDYFILE} --adapter caddyfile",
        walls=f"{certificates if topology.tls == 'files' else ''}{walls}",
    )


#: Name, what for, when, further timer lines, the contract's command.
_TIMERS = (
    (
        "stale-leases",
        "stale lease cleanup",
        "*:0/15",
        "",
        "scripts/maintenance-stale-lease-cleanup.sh",
    ),
    (
        "preview-reset-audit",
        "preview database reset integrity audit",
        "hourly",
        "",
        "scripts/maintenance-preview-reset-integrity.sh --lookback-hours 24 --running-grace-minutes 90",
    ),
    (
        "daily-health-summary",
        "daily deployment and service health summary",
        "*-*-* 03:30:00",
        "RandomizedDelaySec=15min\n",
        f"scripts/maintenance-daily-health-summary.sh --output-dir {HOST_ROOT}/artifacts/maintenance",
    ),
)


def _maintenance() -> tuple[HostFile, ...]:
    files: list[HostFile] = []
    for name, what, when, more, command in _TIMERS:
        unit = f"ouroboros-maintenance-{name}"
        files.append(
            _unit(
                f"{unit}.service",
                "[Unit]\n"
                f"Description=Oroboros: {what}\n"
                "After=postgresql.service ouroboros-worker.service\n"
                f"ConditionPathExists={HOST_CONFIG}/repository.env\n"
                "\n"
                "[Service]\n"
                "Type=oneshot\n"
                f"User={WORKER_USER}\nGroup={WORKER_USER}\n"
                "SupplementaryGroups=systemd-journal\n"
                "Slice=ouroboros-control.slice\n"
                f"EnvironmentFile={HOST_CONFIG}/worker.env\n"
                f"EnvironmentFile={HOST_CONFIG}/repository.env\n"
                f"{_FORGE_CREDENTIALS}"
                f"ExecStart={HOST_PROGRAM}/app/{command}\n"
                "TimeoutStartSec=600s\n"
                f"{_WALLS}"
                # Summaries are for people to read.
                "UMask=0022\n"
                "ProcSubset=all\n"
                "PrivateIPC=yes\n"
                f"ReadWritePaths={HOST_ROOT} {HOST_RUN}/worker\n"
                "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK\n"
                "MemoryMax=512M\nTasksMax=64\n",
            )
        )
        files.append(
            _unit(
                f"{unit}.timer",
                "[Unit]\n"
                f"Description=Oroboros: {what}\n"
                "\n"
                "[Timer]\n"
                f"OnCalendar={when}\n"
                f"{more}"
                "Persistent=yes\n"
                "\n"
                "[Install]\nWantedBy=timers.target\n",
            )
        )
    return tuple(files)


def _backup(topology: Topology) -> tuple[HostFile, ...]:
    """Return the daily backup. It is root's: what it reads is of several users, each closed to the others."""
    unit, what = "ouroboros-maintenance-backup", "a backup of production and the control plane"
    return (
        _unit(
            f"{unit}.service",
            "[Unit]\n"
            f"Description=Oroboros: {what}\n"
            "After=postgresql.service\n"
            f"ConditionPathExists={HOST_CONFIG}/repository.env\n"
            "\n"
            "[Service]\n"
            "Type=oneshot\n"
            "Slice=ouroboros-control.slice\n"
            f"ExecStart=/usr/local/bin/oroboros backup --keep {topology.backups}\n"
            "TimeoutStartSec=8h\n"
            "Nice=10\nIOSchedulingClass=idle\n"
            "NoNewPrivileges=yes\nProtectSystem=strict\nProtectHome=yes\nPrivateTmp=yes\nPrivateDevices=yes\n"
            f"ReadWritePaths={BACKUPS.parent}\n"
            "RestrictAddressFamilies=AF_UNIX\n"
            "UMask=0077\n",
        ),
        _unit(
            f"{unit}.timer",
            "[Unit]\n"
            f"Description=Oroboros: {what}\n"
            "\n"
            "[Timer]\n"
            "OnCalendar=*-*-* 02:30:00\n"
            "RandomizedDelaySec=15min\n"
            "Persistent=yes\n"
            "\n"
            "[Install]\nWantedBy=timers.target\n",
        ),
    )


# -- slots ------------------------------------------------------------------------------------------------------------


def _slot_walls(relaxed: Walls) -> str:
    """Return the walls of every slot's processes, as the policy relaxes them."""
    dropped = (
        *(("SystemCall",) if relaxed.system_calls == "any" else ()),
        *(("ProcSubset=",) if relaxed.proc == "all" else ()),
    )
    walls = "".join(line for line in _SLOT_WALLS.splitlines(keepends=True) if not line.startswith(dropped))
    return walls + "RestrictAddressFamilies=AF_NETLINK\n" if relaxed.netlink else walls


def _slot_templates(topology: Topology) -> tuple[HostFile, ...]:
    order = f"{HOST_ROOT}/orders/%N.json"
    handed = f"LoadCredential=order:{order}\n"
    walls = _slot_walls(topology.walls)
    network = "PrivateNetwork=yes\n" if topology.walls.build_network == "none" else _BUILD_NETWORK
    jobs = {
        "build": (
            "a build of slot %i",
            f"ReadWritePaths={HOST_ROOT}/builds\nInaccessiblePaths=-/run/postgresql\n{network}"
            + "".join(f"IPAddressAllow={address}\n" for address in ("127.0.0.53", *topology.resolvers)),
        ),
        "migrate": ("a migration of slot %i", ""),
    }
    return (
        _unit(
            "ouroboros-instance@.service",
            "[Unit]\n"
            "Description=Oroboros: instance %i\n"
            "After=network.target\n"
            f"ConditionPathExists={order}\n"
            "StartLimitIntervalSec=30s\nStartLimitBurst=5\n"
            "\n"
            "[Service]\n"
            "Type=exec\n"
            "NotifyAccess=none\n"
            "RemainAfterExit=yes\n"
            f"{handed}"
            # After a reboot only what `live` names; else what the worker says.
            f"ExecCondition={MAY_START} %N\n"
            f"ExecStart={LAUNCHER} %n\n"
            f"TimeoutStartSec=60s\nTimeoutStopSec={STOP_LIMIT_S}s\n"
            f"{walls}"
            "\n"
            "[Install]\nWantedBy=multi-user.target\n",
        ),
        *(
            _unit(
                f"ouroboros-{kind}@.service",
                "[Unit]\n"
                f"Description=Oroboros: {what}\n"
                "\n"
                "[Service]\n"
                "Type=oneshot\n"
                "NotifyAccess=none\n"
                "RemainAfterExit=yes\n"
                f"{handed}"
                f"ExecStart={LAUNCHER} %n\n"
                f"TimeoutStartSec={JOB_LIMIT_S}s\nTimeoutStopSec=15s\n"
                f"{walls}{more}",
            )
            for kind, (what, more) in jobs.items()
        ),
        _unit(
            "ouroboros-wipe@.service",
            "[Unit]\n"
            "Description=Oroboros: leaves nothing of what slot %i wrote\n"
            "\n"
            "[Service]\n"
            "Type=oneshot\n"
            "NotifyAccess=none\n"
            f"{handed}"
            f"ExecStart={LAUNCHER} %n\n"
            "TimeoutStartSec=300s\n"
            f"{walls}"
            "PrivateNetwork=yes\n"
            f"ReadWritePaths={HOST_ROOT}/builds\n",
        ),
    )


def _slot(topology: Topology, slot: SlotName) -> list[HostFile]:
    surface = _unit(f"ouroboros-web@{unit_instance(slot)}.service.d/slot.conf", f"[Service]\n{_about(slot)}")
    files = [surface, *(_instance_drop_in(topology, slot, colour) for colour in COLOURS)]
    files += [_job_drop_in(topology, slot, kind) for kind in (*JOBS, "wipe")]
    if topology.isolated_previews and slot != MAIN:
        files += [file for colour in COLOURS for file in _forward(topology, slot, colour)]
    return files


def _drop_in(unit: str, text: str) -> HostFile:
    return _unit(f"{systemd_unit(unit)}.d/slot.conf", text)


def _profile(topology: Topology, unit: str) -> Profile:
    """Return the unit's profile as this host's walls have it."""
    profile, walls = profile_of(unit), topology.walls
    if profile is BUILD or unit.startswith("migrate-"):
        memory, tasks = walls.build_memory_bytes, walls.build_tasks
    elif profile is PREVIEW:
        memory, tasks = walls.preview_memory_bytes, walls.preview_tasks
    else:
        memory, tasks = walls.production_memory_bytes, walls.production_tasks
    return replace(
        profile,
        memory_bytes_max=memory,
        tasks_max=tasks,
        open_files_max=walls.open_files,
        file_bytes_max=walls.file_bytes,
    )


def _who(topology: Topology, slot: SlotName, profile: Profile, slice_name: str) -> str:
    return (
        f"{_about(slot)}"
        f"User={slot_user(slot)}\nGroup={slot_user(slot)}\n"
        f"Slice={slice_name}\n"
        f"MemoryMax={profile.memory_bytes_max}\nMemorySwapMax=0\nTasksMax={profile.tasks_max}\n"
        f"CPUWeight={profile.weight}\nIOWeight={profile.weight}\n"
        f"Nice={profile.niceness}\nOOMScoreAdjust={profile.oom_score_adjust}\n"
        f"LimitNOFILE={profile.open_files_max}\nLimitFSIZE={profile.file_bytes_max}\n"
        + ("" if slot == MAIN else _yielding(topology))
    )


def _about(slot: SlotName) -> str:
    """Return what has every line of a slot's unit say whose it is: `journalctl OROBOROS_SLOT=preview-1`."""
    return f"LogExtraFields=OROBOROS_SLOT={slot}\n"


def _yielding(topology: Topology) -> str:
    """Return what makes a preview's processes give way at once: whoever wakes up goes before them (SCHED_IDLE, see
    sched(7)), and one processor is never theirs, if there are several. Weights alone share over milliseconds, in which
    production waits. The walls keep them from asking for more (`@resources`)."""
    spared = f"CPUAffinity={PREVIEW_PROCESSORS}\n" if topology.spares_processor else ""
    return f"CPUSchedulingPolicy=idle\n{spared}"


def _data(slot: SlotName) -> str:
    return f"{Layout(HOST_ROOT).slot_data(slot)}"


def _instance_drop_in(topology: Topology, slot: SlotName, colour: Colour) -> HostFile:
    unit = instance_unit(slot, colour)
    is_main = slot == MAIN
    is_isolated = topology.isolated_previews and not is_main
    slice_name = "ouroboros-production.slice" if is_main else "ouroboros-previews.slice"
    sockets = Layout(HOST_ROOT, HOST_RUN).instance_socket(slot, colour).parent
    text = (
        (f"[Unit]\nWants={_forward_name(slot, colour)}.socket\n\n" if is_isolated else "")
        + "[Service]\n"
        + _who(topology, slot, _profile(topology, unit), slice_name)
        + f"LoadCredential=app.env:{HOST_CONFIG}/app-{slot}.env\n"
        + f"ReadWritePaths={_data(slot)}\n"
        + f"BindPaths={sockets}\n"
    )
    if is_main:
        # It comes back by itself, also while the worker is away.
        text += "Restart=on-failure\nRestartSec=500ms\n"
    elif is_isolated:
        text += _OWN_NETWORK
    return _drop_in(unit, text)


def _job_drop_in(topology: Topology, slot: SlotName, kind: JobKind) -> HostFile:
    unit = job_unit(kind, slot)
    text = "[Service]\n" + _who(topology, slot, _profile(topology, unit), "ouroboros-builds.slice")
    if kind != "wipe":
        text += f"LoadCredential=app.env:{HOST_CONFIG}/app-{slot}.env\n"
    text += f"InaccessiblePaths=-{_data(slot)}\n" if kind == "build" else f"ReadWritePaths={_data(slot)}\n"
    if kind == "migrate" and slot != MAIN and topology.isolated_previews:
        text += _OWN_NETWORK
    return _drop_in(unit, text)


def _forward_name(slot: SlotName, colour: Colour) -> str:
    return f"ouroboros-forward@{unit_instance(slot)}-{colour}"


def _forward(topology: Topology, slot: SlotName, colour: Colour) -> tuple[HostFile, ...]:
    """Return the way into a preview instance's own network: a socket outside, and who forwards from it inside.

    See the example of a namespace in systemd-socket-proxyd(8). The socket is there as long as the instance is, no
    longer: who was started by a request to a stopped instance would be in a network of his own, and never in the next
    instance's."""
    name, instance = _forward_name(slot, colour), systemd_unit(instance_unit(slot, colour))
    layout = Layout(HOST_ROOT, HOST_RUN)
    return (
        _unit(
            f"{name}.socket",
            "[Unit]\n"
            f"Description=Oroboros: the way to instance {unit_instance(slot)}-{colour}\n"
            f"BindsTo={instance}\nAfter={instance}\n"
            # An instance that its own condition kept down has none: the socket is left out, as no failed dependency.
            f"ConditionPathExists=/run/credentials/{instance}\n"
            # By default it would come before everything that is started at boot, the instance too.
            "DefaultDependencies=no\nConflicts=shutdown.target\nBefore=shutdown.target\n"
            "\n"
            "[Socket]\n"
            f"ListenStream={layout.forwarding_socket(slot, colour)}\n"
            f"SocketUser={WORKER_USER}\nSocketGroup={SERVING_USER}\nSocketMode=0660\n"
            "Backlog=1024\n",
        ),
        _unit(
            f"{name}.service",
            "[Unit]\n"
            f"Description=Oroboros: forwards to instance {unit_instance(slot)}-{colour}\n"
            f"Requires={name}.socket\n"
            f"After={name}.socket\n"
            f"JoinsNamespaceOf={instance}\n"
            f"PartOf={instance}\n"
            "\n"
            "[Service]\n"
            f"{_about(slot)}"
            "Type=exec\n"
            f"User={SERVING_USER}\nGroup={SERVING_USER}\n"
            "Slice=ouroboros-previews.slice\n"
            f"ExecStart=/lib/systemd/systemd-socket-proxyd --connections-max=1024"
            f" 127.0.0.1:{topology.ports.instance(slot, colour)}\n"
            "PrivateNetwork=yes\n"
            f"{_WALLS.replace('PrivateTmp=yes' + chr(10), '')}"
            "ProcSubset=pid\n"
            "RestrictAddressFamilies=AF_UNIX AF_INET\n"
            f"InaccessiblePaths=-{HOST_CONFIG} -{HOST_ROOT}\n"
            "MemoryMax=64M\nTasksMax=16\n",
        ),
    )


# -- who may, and what is made at boot --------------------------------------------------------------------------------


def worker_units(topology: Topology) -> tuple[str, ...]:
    """Return the units that the worker may start, stop, kill and reset."""
    instances = [systemd_unit(instance_unit(slot, colour)) for slot in topology.slots for colour in COLOURS]
    jobs = [systemd_unit(job_unit(kind, slot)) for slot in topology.slots for kind in (*JOBS, "wipe")]
    return (*instances, *jobs)


def _polkit_rule(topology: Topology) -> str:
    """Return the rule: by exact unit and verb, and a plain "no" to all else that a user of ours may ask of anybody.

    Without it polkit's defaults hold, and they let every user have a service manager of its own kept running (logind's
    `set-self-linger`), whose processes have none of our walls."""
    users = ", ".join(
        f'"{user}": true' for user in (WORKER_USER, SERVING_USER, EDGE_USER, *map(slot_user, topology.slots))
    )
    units = ",\n".join(f'    "{name}": true' for name in worker_units(topology))
    verbs = ", ".join(f'"{verb}": true' for verb in VERBS)
    restarted = ", ".join(f'"{name}": true' for name in RESTARTED_ONLY)
    return f"""\
// Oroboros: what the worker, which is not root, may ask of systemd; our other users may ask nothing of anybody.
// Written by its installer.
// org.freedesktop.systemd1(5): manage-units tells the unit and the verb.
var oroborosUsers = {{{users}}};
var oroborosUnits = {{
{units}
}};
var oroborosVerbs = {{{verbs}}};
var oroborosRestarted = {{{restarted}}};

polkit.addRule(function(action, subject) {{
    if (oroborosUsers[subject.user] !== true) {{
        return polkit.Result.NOT_HANDLED;
    }}
    if (subject.user == "{WORKER_USER}" && action.id == "org.freedesktop.systemd1.manage-units") {{
        var unit = action.lookup("unit"), verb = action.lookup("verb");
        if (oroborosUnits[unit] === true && oroborosVerbs[verb] === true) {{
            return polkit.Result.YES;
        }}
        if (oroborosRestarted[unit] === true && verb == "restart") {{
            return polkit.Result.YES;
        }}
        if (unit == "ouroboros-judge.service" && verb == "start") {{
            return polkit.Result.YES;
        }}
    }}
    return polkit.Result.NO;
}});
"""


def _tmpfiles(topology: Topology) -> str:
    """Return what /run/oroboros holds at boot (tmpfiles.d(5)). A socket that a slot's app binds is for the surface and
    the worker too: the folder's list says what is made in it begins with."""
    layout = Layout(HOST_ROOT, HOST_RUN)
    lines = [
        "# Oroboros: sockets, and which units the worker has started since boot. Written by its installer.",
        f"d {HOST_RUN} 0755 root root -",
        f"d {layout.worker_run} 0755 {WORKER_USER} {WORKER_USER} -",
        f"d {layout.worker_run}/armed 0755 {WORKER_USER} {WORKER_USER} -",
        f"d {HOST_RUN}/surfaces 0755 {SERVING_USER} {SERVING_USER} -",
        f"d {HOST_RUN}/forwards 0755 root root -",
        f"d {HOST_RUN}/slots 0755 root root -",
    ]
    for slot in topology.slots:
        folder = layout.instance_socket(slot, COLOURS[0]).parent
        lines.append(f"d {folder} 0711 {slot_user(slot)} {slot_user(slot)} -")
        users = f"d:u:{SERVING_USER}:rwx,d:u:{WORKER_USER}:rwx,d:m::rwx"
        lines.append(f"a+ {folder} - - - - {users}")
    return "\n".join(lines) + "\n"
