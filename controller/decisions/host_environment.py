"""What do api and worker find in their environment on a host? Topology, names and passwords in; env files out.

The names and addresses are the host contract's; user and password of each address are our own, drawn at install. The
files under `infra/systemd/env` are this rendering for the contract's topology, with a word where passwords go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from controller.model.command import parse_environment
from controller.model.host_files import HostFile
from controller.model.machine_needs import POSTGRES_PORT, REDIS_PORT
from controller.model.names import (
    HOST_CONFIG,
    HOST_ROOT,
    HOST_RUN,
    POSTGRES_SOCKETS,
    Topology,
)

CONTROL_DATABASE = "builder_control"
API_ROLE, WORKER_ROLE = "oroboros_api", "oroboros_worker"
REDIS_USER = "oroboros"
#: The control plane's database, as the worker's role: root and the worker are let in by who they are.
CONTROL_SOCKET_URL = f"postgresql://{WORKER_ROLE}@/{CONTROL_DATABASE}?host={POSTGRES_SOCKETS}"
#: Of Postgres' administrator, as the host contract writes it; only where `--contract-database` was said.
CONTRACT_PASSWORD = "postgres"  # noqa: S105 - the contract's, and known to everybody
POLL_INTERVAL_S = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Passwords:
    """Drawn once at install, of characters that an address holds as they are."""

    api: str
    worker: str
    redis: str


#: Ours as long as nobody says otherwise.
ADJUSTABLE = frozenset({"WORKER_POLL_INTERVAL_SECONDS"})

#: What stands in the tracked files.
PLACEHOLDERS = Passwords(api="DRAWN_AT_INSTALL", worker="DRAWN_AT_INSTALL", redis="DRAWN_AT_INSTALL")


def render_environment_files(
    topology: Topology, passwords: Passwords, *, host: str, redis_url: str | None = None
) -> tuple[HostFile, ...]:
    """Return `/etc/oroboros/api.env` and `worker.env`, closed to all but root: systemd reads them. `redis_url` is that
    of a Redis which others use too; None: this host's, which is ours."""
    common = {
        "REDIS_URL": redis_url or own_redis_url(passwords.redis),
        "OROBOROS_ROOT": str(HOST_ROOT),
        "OROBOROS_RUN": str(HOST_RUN),
        "OROBOROS_HOST": host,
        "OROBOROS_RUNTIME": "systemd",
        "OROBOROS_CONFIG_DIR": str(HOST_CONFIG),
    }
    as_contract = control_url("postgres", CONTRACT_PASSWORD)
    api_url = as_contract if topology.contract_database else control_url(API_ROLE, passwords.api)
    api = {"DATABASE_URL": api_url, **common}
    worker = {
        "DATABASE_URL": control_url(WORKER_ROLE, passwords.worker),
        **common,
        "WORKER_POLL_INTERVAL_SECONDS": str(POLL_INTERVAL_S),
        "WORKER_HEALTH_PORT": str(topology.ports.worker_health),
        "WORKER_ARTIFACT_ROOT": str(HOST_ROOT / "artifacts" / "runs"),
        # Over the socket, by who we are.
        "OROBOROS_APP_DATABASE_ADMIN_URL": f"postgresql://{WORKER_ROLE}@/postgres?host={POSTGRES_SOCKETS}",
        "OROBOROS_APP_DATABASE_ROLES": "installed",
    }
    return tuple(
        HostFile(
            path=HOST_CONFIG / name,
            text="".join(f"{k}={v}\n" for k, v in values.items()),
            mode=0o600,
            keep="additions",
        )
        for name, values in (("api.env", api), ("worker.env", worker))
    )


def with_additions(text: str, found: str) -> str:
    """Return an env file of ours with what an operator added to the one that is there: comments, values that are not
    ours, and those of ours that they may set."""
    ours = parse_environment(text)
    lines = [line for line in found.splitlines() if _is_addition(line, ours)]
    theirs = {key for line in lines for key in parse_environment(line)}
    kept = [line for line in text.splitlines() if not theirs & parse_environment(line).keys()]
    return "".join(f"{line}\n" for line in (*kept, *lines))


def _is_addition(line: str, ours: Mapping[str, str]) -> bool:
    values = parse_environment(line)
    if not values:
        return bool(line.strip())
    (key, value), *_ = values.items()
    return key not in ours or (key in ADJUSTABLE and value != ours[key])


def own_redis_url(password: str) -> str:
    """Return the address of this host's own Redis, as our user of it."""
    return f"redis://{REDIS_USER}:{password}@127.0.0.1:{REDIS_PORT}/0"


def control_url(role: str, password: str) -> str:
    """Return the address of the control plane's database, in the host contract's spelling."""
    return f"postgresql+psycopg://{role}:{password}@127.0.0.1:{POSTGRES_PORT}/{CONTROL_DATABASE}"
