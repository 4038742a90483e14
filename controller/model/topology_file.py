"""What does `topology.json` say, and may each of its values stand in what is rendered from it?

On a host root renders units, configurations and environment files from it, so every value is held to the rules of
deploy.toml, whoever wrote it: of the right type, within bounds, and without a character that could end its line.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from controller.model.deploy_toml import Host, Network, NumberedHost, Table, WallsTable
from controller.model.errors import ConfigInvalid
from controller.model.machine_needs import CONTRACT_PORTS, PORT_MAX
from controller.model.names import BACKUPS_MAX, PORT_OFFSET_MAX, PREVIEWS_MAX, Ports, Topology
from controller.model.options import Options
from controller.model.profiles import Walls

PROBLEMS_MAX = 10


def _address(value: str) -> str:
    if "%" in value:
        raise ValueError("must be an address without a zone")
    ipaddress.ip_address(value)
    return value


Port = Annotated[StrictInt, Field(ge=1, le=PORT_MAX)]


def _known(ports: dict[str, int]) -> dict[str, int]:
    # A newer file may say more.
    return {name: port for name, port in ports.items() if name in CONTRACT_PORTS}


class _OptionsTable(Table):
    """What may be said, held to the same rules as what is rendered from it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    base_host: Host | None = None
    production_host: Host | None = None
    preview_host: NumberedHost | None = None
    previews: Annotated[StrictInt, Field(ge=0, le=PREVIEWS_MAX)] | None = None
    backend_port: Port | None = None
    port_edge: Port | None = None
    port_http: Port | None = None
    port_https: Port | None = None
    port_api: Port | None = None
    port_worker: Port | None = None
    port_web: Port | None = None
    port_backend: Port | None = None
    port_instance: Port | None = None
    scheme: Literal["http", "https"] | None = None
    public_port: Annotated[StrictInt, Field(ge=0, le=65_535)] | None = None
    control_plane: Literal["installed", "current"] | None = None
    tls: Literal["off", "auto", "files"] | None = None
    contract_database: StrictBool | None = None
    close_databases: StrictBool | None = None
    backups: Annotated[StrictInt, Field(ge=0, le=BACKUPS_MAX)] | None = None


class _TopologyFile(Table):
    # A newer file may say more.
    model_config = ConfigDict(extra="ignore", frozen=True)

    previews: Annotated[StrictInt, Field(ge=0, le=PREVIEWS_MAX)]
    port_offset: Annotated[StrictInt, Field(ge=0, le=PORT_OFFSET_MAX)]
    ports: Annotated[dict[StrictStr, Port], AfterValidator(_known)] = Field(default_factory=dict)
    base_host: Host
    scheme: Literal["http", "https"]
    public_port: Port | None
    production_host: Host | None = None
    preview_host: NumberedHost | None = None
    production_backend_port: Port | None = None
    tls: Literal["off", "auto", "files"] = "off"
    trusted_proxies: Annotated[tuple[Network, ...], Field(max_length=100)] = ()
    resolvers: Annotated[tuple[Annotated[StrictStr, AfterValidator(_address)], ...], Field(max_length=100)] = ()
    walls: WallsTable = Field(default_factory=WallsTable)
    isolated_previews: StrictBool = False
    spares_processor: StrictBool = False
    control_plane: Literal["installed", "current"] = "installed"
    kept_previews: Annotated[StrictInt, Field(ge=0, le=PREVIEWS_MAX)] | None = None
    contract_database: StrictBool = False
    said: _OptionsTable | None = None
    backups: Annotated[StrictInt, Field(ge=0, le=BACKUPS_MAX)] = 0


def parse_topology(value: object) -> Topology:
    """Return the topology that a file's JSON says; ConfigInvalid, with every problem, when it makes no sense."""
    try:
        told = _TopologyFile.model_validate(value)
    except ValidationError as error:
        problems = tuple(
            f"{'.'.join(map(str, one['loc']))[:60]}: {one['msg'].removeprefix('Value error, ')}"
            for one in error.errors(include_url=False, include_input=False, include_context=False)[:PROBLEMS_MAX]
        )
        raise ConfigInvalid("TopologyInvalid", "; ".join(problems), problems=problems) from error
    values = dict(told) | {"walls": Walls(**dict(told.walls))}
    values["said"] = None if told.said is None else Options(**dict(told.said))
    ports = Ports(offset=values.pop("port_offset"), chosen=values.pop("ports"))
    return Topology(ports=ports, **values)


def render_topology(topology: Topology) -> str:
    """Return what the file holds; ConfigInvalid when a value of the topology may not stand in it."""
    value = {
        "previews": topology.previews,
        "port_offset": topology.ports.offset,
        "ports": dict(topology.ports.chosen),
        "base_host": topology.base_host,
        "scheme": topology.scheme,
        "public_port": topology.public_port,
        "production_host": topology.production_host,
        "preview_host": topology.preview_host,
        "production_backend_port": topology.production_backend_port,
        "tls": topology.tls,
        "trusted_proxies": list(topology.trusted_proxies),
        "resolvers": list(topology.resolvers),
        "walls": dataclasses.asdict(topology.walls),
        "isolated_previews": topology.isolated_previews,
        "spares_processor": topology.spares_processor,
        "control_plane": topology.control_plane,
        "kept_previews": topology.kept_previews,
        "contract_database": topology.contract_database,
        "said": None if topology.said is None else topology.said.said(),
        "backups": topology.backups,
    }
    parse_topology(value)
    return json.dumps(value, indent=2) + "\n"
