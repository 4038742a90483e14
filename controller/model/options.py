"""Hold what the options of `oroboros install` said: it stays until it is unsaid, and wins over deploy.toml."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from controller.model.machine_needs import CONTRACT_PORTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """One value for each option that is remembered; None: not said, so deploy.toml or the default counts."""

    base_host: str | None = None
    production_host: str | None = None
    preview_host: str | None = None
    previews: int | None = None
    backend_port: int | None = None
    #: `--port NAME=NUMBER`; of those that slots have, production's.
    port_edge: int | None = None
    port_http: int | None = None
    port_https: int | None = None
    port_api: int | None = None
    port_worker: int | None = None
    port_web: int | None = None
    port_backend: int | None = None
    port_instance: int | None = None
    scheme: Literal["http", "https"] | None = None
    #: 0: the scheme's own.
    public_port: int | None = None
    control_plane: Literal["installed", "current"] | None = None
    tls: Literal["off", "auto", "files"] | None = None

    #: The api's address of the database is the host contract's, with its user and password.
    contract_database: bool | None = None
    #: PUBLIC loses CONNECT to databases of others as well.
    close_databases: bool | None = None
    #: Daily backups that are kept; 0: none is made.
    backups: int | None = None

    def said(self) -> dict[str, object]:
        """Return what was said, by the option's name with underscores."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}

    def ports(self) -> dict[str, int]:
        """Return the ports that were chosen, by the names of `--port`."""
        said = self.said()
        return {name: value for name in CONTRACT_PORTS if isinstance(value := said.get(f"port_{name}"), int)}

    def and_then(self, later: Options, *, unsaid: frozenset[str] = frozenset()) -> Options:
        """Return what is said once these later options were given and others taken back."""
        return replace(Options(**{**self.said(), **later.said()}), **dict.fromkeys(unsaid))  # type: ignore[arg-type]


#: As a person types them, without the dashes in front.
OPTION_NAMES = tuple(field.name.replace("_", "-") for field in fields(Options))
