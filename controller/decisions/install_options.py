"""Choose the topology of a host: what the options of `install` said, then deploy.toml, then the defaults.

What was said is part of the topology that is installed, so a later `install` without options finds it. Where
deploy.toml cannot be read, what was installed by it stays.
"""

from __future__ import annotations

from dataclasses import replace

from controller.decisions.host_units import port_holders
from controller.decisions.installation import with_policy
from controller.model.config import Policy
from controller.model.machine_needs import CONTRACT_PORTS
from controller.model.machine_needs import port_problems as problems_of_ports
from controller.model.names import Ports, Topology
from controller.model.options import Options

FRESH = Topology(isolated_previews=True)


def choose_topology(
    options: Options, *, installed: Topology | None, policy: Policy | None, unsaid: frozenset[str] = frozenset()
) -> Topology:
    """Return the topology to install, with what was said so far in it."""
    if installed is not None and installed.kept_previews is not None:
        # An installation of fewer slots was cut short: it goes on, unless something else is said now.
        installed = replace(installed, previews=installed.kept_previews, kept_previews=None)
    before = said_so_far(installed, policy=policy)
    said = before.and_then(options, unsaid=unsaid)
    if installed is None:
        base = FRESH
    elif policy is not None:
        base = _without_options(installed)
    else:
        # Who said a value is known, so that one of the policy of before is told apart from one that is taken back.
        base = replace(installed, **{name: getattr(FRESH, name) for name in map(_field, unsaid) if name in _POLICYS})
        base = replace(base, control_plane=FRESH.control_plane)
    return _with_options(base if policy is None else with_policy(base, policy), said)


def said_so_far(installed: Topology | None, *, policy: Policy | None) -> Options:
    """Return what the options of `install` said until now.

    An installation of before kept no record. There a value that neither deploy.toml nor the default explains was said:
    nothing that an operator chose is lost, and a change of deploy.toml that waits still takes effect."""
    if installed is None:
        return Options()
    if installed.said is not None:
        return installed.said
    said = Options(
        base_host=installed.base_host if installed.base_host != FRESH.base_host else None,
        control_plane=installed.control_plane if installed.control_plane != FRESH.control_plane else None,
    )
    bare = _without_options(installed)
    explained = bare if policy is None else with_policy(bare, policy)
    for name in _POLICYS:
        value = getattr(installed, name)
        is_backend_of_api = name == "production_backend_port" and installed.control_plane == "current"
        if value not in (getattr(explained, name), getattr(FRESH, name)) and not is_backend_of_api:
            said = said.and_then(Options(**{_option(name): value}))
    implied = _with_options(explained, said)
    if installed.scheme != implied.scheme:
        said = replace(said, scheme=installed.scheme)
    if installed.public_port != implied.public_port:
        said = replace(said, public_port=installed.public_port or 0)
    return said


def option_changes(chosen: Topology, *, installed: Topology | None) -> tuple[str, ...]:
    """Return a line for each option whose value changes, and for each that is recorded for the first time."""
    if installed is None:
        return ()
    before, after = shown_options(installed), shown_options(chosen)
    said = {} if chosen.said is None else chosen.said.said()
    lines = [
        f"option {name.replace('_', '-')}: {before[name]} → {after[name]}"
        f" ({'said at install' if name in said else 'deploy.toml or default'})"
        for name in after
        if before[name] != after[name]
    ]
    if installed.said is None:
        lines += [
            f"option {name.replace('_', '-')}: {after[name]} is taken to have been said at install;"
            f" --unset {name.replace('_', '-')} takes it back"
            for name in said
            if before[name] == after[name]
        ]
    return tuple(lines)


def shown_options(topology: Topology) -> dict[str, str]:
    """Return the value of each option as a person writes it, whoever said it."""
    main = topology.slots[0]
    return {
        "base_host": topology.base_host,
        "production_host": topology.host(main),
        "preview_host": topology.preview_host or f"preview{{n}}.{topology.base_host}",
        "previews": str(topology.previews),
        "backend_port": str(topology.backend_port(main)),
        **{f"port_{name}": str(topology.ports.first(name)) for name in CONTRACT_PORTS},
        "scheme": topology.scheme,
        "public_port": str(topology.public_port or 0),
        "control_plane": topology.control_plane,
        "tls": topology.tls,
        "contract_database": "yes" if topology.contract_database else "no",
        "close_databases": "yes" if (topology.said or Options()).close_databases else "no",
        "backups": str(topology.backups),
    }


def port_problems(topology: Topology, *, previews: int) -> tuple[str, ...]:
    """Return why a host with so many previews cannot listen on the ports of this topology."""
    first = {name: topology.ports.first(name) for name in CONTRACT_PORTS}
    backend, has_tls = topology.production_backend_port, topology.tls != "off"
    return problems_of_ports(first, previews=previews, has_tls=has_tls, backend=backend)


def kept_ports(installed: Topology | None, chosen: Topology) -> frozenset[int]:
    """Return the ports that are no news: those that stay whose they were, and those that a socket unit lets go of
    before another opens them. What a process of ours binds by itself is free only once that was started anew."""
    if installed is None:
        return frozenset()
    stay = {(holder.what, holder.port) for holder in port_holders(chosen)}
    return frozenset(
        holder.port
        for holder in port_holders(installed)
        if (holder.what, holder.port) in stay or "init.scope" in holder.holders
    )


#: Fields of the topology that deploy.toml may say, and an option too.
_POLICYS = ("production_host", "preview_host", "previews", "production_backend_port", "tls")


def _option(field: str) -> str:
    return "backend_port" if field == "production_backend_port" else field


def _field(option: str) -> str:
    return "production_backend_port" if option == "backend_port" else option


def _without_options(topology: Topology) -> Topology:
    values = {name: getattr(FRESH, name) for name in (*_POLICYS, "base_host", "scheme", "public_port", "control_plane")}
    return replace(topology, **values)


def _with_options(topology: Topology, said: Options) -> Topology:
    """Return the topology with what was said; scheme and port in URLs follow from names, certificates and ports."""
    is_local = said.base_host in (None, "localhost")
    topology = replace(
        topology,
        base_host=said.base_host or FRESH.base_host,
        production_host=said.production_host or topology.production_host,
        preview_host=said.preview_host or topology.preview_host,
        previews=topology.previews if said.previews is None else said.previews,
        production_backend_port=said.backend_port or topology.production_backend_port,
        ports=Ports(offset=topology.ports.offset, chosen=said.ports()),
        control_plane=said.control_plane or FRESH.control_plane,
        tls=said.tls or topology.tls,
        contract_database=bool(said.contract_database),
        backups=said.backups or 0,
        said=said,
    )
    is_plain = is_local and topology.tls == "off"
    https = topology.ports.edge_https
    is_elsewhere = topology.tls != "off" and https != CONTRACT_PORTS["https"]
    topology = replace(
        topology,
        scheme=said.scheme or ("http" if is_plain else "https"),
        public_port=topology.ports.edge if is_plain else https if is_elsewhere else None,
    )
    if said.public_port is not None:
        topology = replace(topology, public_port=said.public_port or None)
    if topology.control_plane == "current":
        topology = replace(topology, production_backend_port=topology.ports.api)
    return topology
