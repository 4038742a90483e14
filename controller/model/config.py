"""`deploy.toml` and the environment of our own processes, as validated frozen values.

A deploy.toml has two kinds of tables. Recipe (`[build] [web] [api] [database] [gate] [smoke]`) is read at the commit
being deployed. Policy (`[production] [previews] [edge] [walls] [retention] [permissions] [limits]`) is read only from
the head of the production branch, so that a pull request cannot change it. Unknown keys are refused; every problem is
reported at once with its key path.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from controller.model.errors import ConfigInvalid
from controller.model.names import HOST_CONFIG, HOST_ROOT, REPOSITORY, Layout
from controller.model.profiles import Walls


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """`[build]`: a job that runs in a private copy of the release, at its final path."""

    command: tuple[str, ...]
    timeout_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Web:
    """`[web]`: static files, served by the slot's surface from the resolved folder."""

    #: Folder inside the release (or the build), relative, without `..`.
    static: str
    #: File under `static` that answers paths that no file has (single-page apps).
    fallback: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """`[api]`: a process that answers HTTP on the address it is given."""

    #: argv; `$NAME` and `${NAME}` inside a word are replaced from the instance's environment. Never a shell.
    command: tuple[str, ...]
    #: "port" gives PORT (and HOST=127.0.0.1); "socket" gives OROBOROS_SOCKET, a path to bind.
    listen: Literal["port", "socket"] = "port"
    #: What goes to the process when there are static files too; without `[web]` everything does.
    prefix: str = "/api/"
    #: Seconds between TERM and KILL when an old instance is stopped.
    stop_timeout_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """`[database]`: one Postgres database and role per slot; DATABASE_URL in the environment of jobs and instances."""

    migrate: tuple[str, ...] | None = None
    #: Folder whose git tree id is the migration head; a restore across different heads is refused.
    migrations: str = "migrations"
    timeout_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """`[gate]`: what the new instance must answer before the switch, and what it is watched for after it."""

    path: str = "/"
    status: int = 200
    proof: Literal["owner", "echo"] = "owner"
    #: From start to the third pass in a row.
    start_timeout_s: float = 30.0
    #: One probe.
    probe_timeout_s: float = 2.0
    #: How long the release is watched after the switch before it counts as proven.
    window_s: float = 30.0
    #: Failed probes of the window, in a row, that roll it back.
    window_failures: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoke:
    """`[smoke]`: pages that the smoke check asks for."""

    routes: tuple[str, ...] = ("/",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one commit is built, started and judged. At least one of `web` and `api` is set."""

    build: Build | None = None
    web: Web | None = None
    api: Api | None = None
    database: Database | None = None
    gate: Gate = field(default_factory=Gate)
    smoke: Smoke = field(default_factory=Smoke)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeeklyFreeze:
    """A freeze that comes every week, by the clock on the wall in `timezone`."""

    #: Minutes since Monday 00:00; an end that is not after the beginning is in the week that follows.
    from_minute: int
    until_minute: int
    #: A name of the time zone database.
    timezone: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DatedFreeze:
    """A freeze that comes once; both instants are without an offset, by the clock on the wall in `timezone`."""

    from_local: datetime
    until_local: datetime
    timezone: str
    reason: str


Freeze = WeeklyFreeze | DatedFreeze


@dataclass(frozen=True, slots=True, kw_only=True)
class Production:
    """`[production]`. Hosts and ports take effect at install."""

    host: str | None = None
    backend_port: int | None = None
    #: How long after a switch an old instance is kept at least, for requests that are still running.
    drain_s: float = 5.0
    #: What somebody else changed on the host: "heal" puts it right, "hold" waits for an order.
    drift: Literal["heal", "hold"] = "heal"
    #: The branch was moved by force to what does not descend from what serves.
    force_push: Literal["hold", "follow"] = "hold"
    #: Production serves only commits with a verified signature.
    signed: Literal["off", "required"] = "off"
    #: A row of the host's health that a push makes unwell: go back, or only watch the release itself.
    health_gate: Literal["rollback", "off"] = "rollback"
    #: When nothing new is switched to.
    freeze: tuple[Freeze, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Previews:
    """`[previews]`. The number of slots takes effect at install."""

    enabled: bool = True
    slots: int = 3
    #: `{n}` is the slot's number.
    host: str | None = None
    lease_ttl_s: float = 7 * 24 * 3600.0
    #: Which pull requests of the repository preview. An empty list of those that do means all; who is excluded is not.
    drafts: bool = True
    bots: bool = True
    labels: tuple[str, ...] = ()
    exclude_labels: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()
    exclude_authors: tuple[str, ...] = ()
    base_branches: tuple[str, ...] = ()
    exclude_base_branches: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    exclude_paths: tuple[str, ...] = ()
    #: With less room on the disk than this, previews are stopped.
    disk_free_bytes_min: int = 1 << 30
    #: One comment at each pull request that is previewed; without it, checks and statuses tell alone.
    comment: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """`[edge]`: how visitors reach this host. Takes effect at install."""

    #: Who holds certificates for the host names. Where files lie is the host's business, never a repository's.
    tls: Literal["off", "auto", "files"] = "off"
    #: Addresses and networks in front of the edge that say truly who asks.
    trusted_proxies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """`[retention]`: how many proven releases stay per domain, beside current, previous good and pinned ones; and for
    how long rows, logs and summaries do."""

    keep: int = 5
    pinned: tuple[str, ...] = ()
    deliveries_days: int = 30
    #: The newest stay, however old.
    deliveries_keep: int = 1_000
    runs_days: int = 90
    #: Of each slot, the newest stay, however old.
    runs_keep: int = 50
    audit_days: int = 365
    #: Daily summaries.
    summaries: int = 90
    #: For how long after a switch the release before answers for its hashed assets; 0: not at all.
    assets_s: float = 600.0
    #: Globs of static files whose names have a hash of their content; None: the names that bundlers make.
    assets: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Permissions:
    """`[permissions]`: who may have strangers' code run, and who may order by a comment."""

    #: "never": a fork's pull request gets no preview. "approval": somebody who may write can ask for one.
    forks: Literal["never", "approval"] = "approval"
    #: The second switch: without it not even an approved fork's code is fetched.
    accept_fork_risk: bool = False
    #: Who may order production by a comment.
    commands: Literal["none", "write", "maintain", "admin"] = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeLimits:
    """`[limits]`: what a commit's tree may be before anything of it is written."""

    files_max: int = 50_000
    total_bytes_max: int = 1 << 30
    blob_bytes_max: int = 100 << 20
    depth_max: int = 64
    name_bytes_max: int = 255
    path_bytes_max: int = 3_000
    #: What is done about a file that is only a pointer of Git LFS where it is served or beside a process.
    lfs_pointers: Literal["refuse", "allow"] = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the head of the production branch says about hosts, slots, retention and permissions."""

    production: Production = field(default_factory=Production)
    previews: Previews = field(default_factory=Previews)
    edge: Edge = field(default_factory=Edge)
    walls: Walls = field(default_factory=Walls)
    retention: Retention = field(default_factory=Retention)
    permissions: Permissions = field(default_factory=Permissions)
    limits: TreeLimits = field(default_factory=TreeLimits)


_PORT = re.compile(r"[1-9][0-9]{0,4}\Z")
_APP_ID = re.compile(r"[1-9][0-9]{0,17}\Z")
#: Without user and password: the address is in error messages and in git's argv.
_FORGE_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(?:/[A-Za-z0-9._~/-]*)?\Z")
#: Without user and password. In plain text only to where nobody listens in between.
_NOTIFY_URL = re.compile(
    r"(?:https://[A-Za-z0-9.:\[\]-]+|http://(?:127\.0\.0\.1|localhost|\[::1\])(?::[0-9]{1,5})?)"
    r"(?:/[A-Za-z0-9._~%/-]*)?(?:\?[A-Za-z0-9._~%/&=+-]*)?\Z"
)

REDIS_URL_DEFAULT = "redis://127.0.0.1:6379/0"
#: Without a bell nothing is looked at for so long: orders, ends of holds and leases wait for it.
POLL_INTERVAL_S_MAX = 300.0
#: Every hint is repeated this often, whether or not a delivery came.
RESYNC_DEFAULT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The environment of `api` and `worker`, read once at start."""

    database_url: str
    redis_url: str
    layout: Layout
    host: str
    repository: str
    forge_url: str
    forge_token_file: Path | None
    #: We are this GitHub App, with the key in that file; None: whoever the token file says.
    github_app_id: int | None
    github_app_key_file: Path | None
    webhook_secrets_file: Path | None
    #: Holds the operator's token, with which api and worker say more than whether they are well; None: to nobody.
    operator_token_file: Path | None
    #: Where notifications go, and the file with the secret that signs them; None: nowhere.
    notify_url: str | None
    notify_secret_file: Path | None
    #: NULL: the forge's default branch.
    production_branch: str | None
    #: Changes whenever somebody says anew which repository this is.
    repository_set: str | None
    poll_interval_s: float
    #: How long a head or a pull request may go unseen when no delivery tells of it.
    resync_s: float
    #: Where the worker is to be asked whether it is well; None: nobody said, and the topology's counts.
    worker_health_port: int | None
    #: Admin connection for the apps' databases; None: recipes with [database] are refused with the reason.
    app_database_admin_url: str | None
    #: Folder of `app-<slot>.env` files.
    config_dir: Path
    #: Who runs instances and jobs: the supervisor of `oroboros up`, or a host's systemd.
    runtime: Literal["embedded", "systemd"]
    #: Path of the supervisor's socket.
    runtime_socket: Path
    #: The release whose code this process runs, where Oroboros deploys itself; None: what was installed.
    own_release: str | None
    #: Who makes the roles of the apps' databases: we do, with passwords, or install did, with peer authentication.
    app_database_roles: Literal["ours", "installed"]


def libpq_url(url: str) -> str:
    """Return a database's address as libpq reads it: SQLAlchemy's spelling, the contract's, is refused there."""
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Return the settings that `environ` holds; ConfigInvalid with every problem at once."""
    problems: list[str] = []

    def need(key: str) -> str:
        value = environ.get(key, "").strip()
        if not value:
            problems.append(f"{key}: is not set")
        return value

    def choice(key: str, allowed: tuple[str, ...]) -> str:
        value = environ.get(key, "").strip() or allowed[0]
        if value not in allowed:
            problems.append(f"{key}: {value!r:.40} is none of {', '.join(allowed)}")
        return value

    def optional_path(key: str) -> Path | None:
        value = environ.get(key, "").strip()
        return Path(value) if value else None

    root = optional_path("OROBOROS_ROOT") or HOST_ROOT
    runtime = choice("OROBOROS_RUNTIME", ("embedded", "systemd"))
    layout = Layout(root, optional_path("OROBOROS_RUN"), closes_releases=runtime == "systemd")
    repository = need("OROBOROS_REPOSITORY")
    if repository and not REPOSITORY.match(repository):
        problems.append(f"OROBOROS_REPOSITORY: is {repository!r:.80}, not owner/name")

    def seconds(key: str, default: float, *, at_most: float) -> float:
        text = environ.get(key, "").strip()
        if not text:
            return default
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0.05 <= value <= at_most:
            problems.append(f"{key}: is {text!r:.40}, not a number of seconds between 0.05 and {at_most:g}")
            return default
        return value

    health_port = environ.get("WORKER_HEALTH_PORT", "").strip()
    if health_port and not _PORT.match(health_port):
        problems.append(f"WORKER_HEALTH_PORT: is {health_port!r:.40}, not a port")
    artifacts = optional_path("WORKER_ARTIFACT_ROOT")
    if artifacts not in (None, layout.artifacts):
        problems.append(
            f"WORKER_ARTIFACT_ROOT: is {artifacts}, and artifacts lie in {layout.artifacts}: set it to that"
        )

    forge_url = environ.get("OROBOROS_FORGE_URL", "").strip() or "https://github.com"
    if not _FORGE_URL.match(forge_url):
        # It may hold a password, so it is not repeated here.
        problems.append("OROBOROS_FORGE_URL: is not http(s)://host; a token belongs in OROBOROS_FORGE_TOKEN_FILE")

    app_id_text = environ.get("OROBOROS_GITHUB_APP_ID", "").strip()
    app_id = int(app_id_text) if _APP_ID.match(app_id_text) else None
    app_key_file = optional_path("OROBOROS_GITHUB_APP_KEY_FILE")
    if app_id_text and app_id is None:
        problems.append(f"OROBOROS_GITHUB_APP_ID: is {app_id_text!r:.40}, not the number of an App")
    if app_id is not None and app_key_file is None:
        problems.append("OROBOROS_GITHUB_APP_KEY_FILE: is not set, and the App is nobody without its key")

    notify_url = environ.get("OROBOROS_NOTIFY_URL", "").strip()
    notify_secret_file = optional_path("OROBOROS_NOTIFY_SECRET_FILE")
    if notify_url and not _NOTIFY_URL.match(notify_url):
        # It may hold a secret, so it is not repeated here.
        problems.append("OROBOROS_NOTIFY_URL: is not https://…, nor http:// to this machine's loopback")
    if notify_url and notify_secret_file is None:
        problems.append("OROBOROS_NOTIFY_SECRET_FILE: is not set, and nobody could believe an unsigned notification")

    admin = environ.get("OROBOROS_APP_DATABASE_ADMIN_URL", "").strip()
    settings = Settings(
        database_url=libpq_url(need("DATABASE_URL")),
        redis_url=environ.get("REDIS_URL", "").strip() or REDIS_URL_DEFAULT,
        layout=layout,
        host=environ.get("OROBOROS_HOST", "").strip() or "host-1",
        repository=repository,
        forge_url=forge_url,
        forge_token_file=optional_path("OROBOROS_FORGE_TOKEN_FILE"),
        github_app_id=app_id,
        # On a host the key's place is always named, whether there is an App or not.
        github_app_key_file=app_key_file if app_id is not None else None,
        webhook_secrets_file=optional_path("OROBOROS_WEBHOOK_SECRETS_FILE"),
        operator_token_file=optional_path("OROBOROS_OPERATOR_TOKEN_FILE"),
        notify_url=notify_url or None,
        # On a host the secret's place is always named, whether anybody is notified or not.
        notify_secret_file=notify_secret_file if notify_url else None,
        production_branch=environ.get("OROBOROS_BRANCH", "").strip() or None,
        repository_set=environ.get("OROBOROS_REPOSITORY_SET", "").strip() or None,
        poll_interval_s=seconds("WORKER_POLL_INTERVAL_SECONDS", 5.0, at_most=POLL_INTERVAL_S_MAX),
        resync_s=seconds("OROBOROS_RESYNC_SECONDS", RESYNC_DEFAULT_S, at_most=86_400.0),
        worker_health_port=int(health_port) if _PORT.match(health_port) else None,
        app_database_admin_url=libpq_url(admin) or None,
        config_dir=optional_path("OROBOROS_CONFIG_DIR") or HOST_CONFIG,
        runtime="systemd" if runtime == "systemd" else "embedded",
        own_release=environ.get("OROBOROS_OWN_RELEASE", "").strip() or None,
        app_database_roles=(
            "installed" if choice("OROBOROS_APP_DATABASE_ROLES", ("ours", "installed")) == "installed" else "ours"
        ),
        runtime_socket=optional_path("OROBOROS_RUNTIME_SOCKET") or layout.run / "runtime.sock",
    )
    if problems:
        raise ConfigInvalid("EnvironmentInvalid", "; ".join(problems), problems=tuple(problems))
    return settings
