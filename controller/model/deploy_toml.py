"""What does a deploy.toml say, and what exactly is wrong with it? Bytes in; frozen recipe and policy, or every problem.

TOML is read by the standard library, shapes and bounds are pydantic's; the dataclasses of `config` come out. Each
problem is "table.key: what is wrong, what is allowed", all at once, recipe and policy alike, since one file holds both.
"""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime, time
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

from controller.model import config
from controller.model.errors import ConfigInvalid
from controller.model.names import PREVIEWS_MAX
from controller.model.profiles import BUILD, PREVIEW, PRODUCTION, Walls
from controller.model.toml_shape import TooMuch, load_toml

DEPLOY_TOML_BYTES_MAX = 64 << 10
WORDS_MAX = 64
WORD_CHARS_MAX = 1_000
#: shlex copies a word for each of its characters.
COMMAND_CHARS_MAX = 8_000
PROBLEMS_MAX = 50
ROUTES_MAX = 50
FILTER_CHARS_MAX = 200
FREEZES_MAX = 50
REASON_CHARS_MAX = 200
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
#: Far enough from the ends of what a date can be that a week more or less is one.
YEAR_MIN, YEAR_MAX = 2000, 2200

_DURATION = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)(ms|s|m|h|d)\Z", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_SIZE = re.compile(r"(\d{1,15})(B|KiB|MiB|GiB)\Z", re.ASCII)
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_PATH = re.compile(r"[A-Za-z0-9_.@+~-][A-Za-z0-9_.@+~ /-]{0,199}\Z")
_URL_PATH = re.compile(r"/[A-Za-z0-9_.~/%?&=+@:,;-]{0,199}\Z")
_HOST = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_WEEKLY = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun) ([01]\d|2[0-3]):([0-5]\d)\Z", re.ASCII)
_DATED = re.compile(r"\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d)?)?\Z", re.ASCII)
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]{0,30}(?:/[A-Za-z0-9_+-]{1,30}){0,2}\Z")
_SHA_PREFIX = re.compile(r"[0-9a-f]{7,40}\Z")


def _words(value: object) -> object:
    """A command is one string, split as a shell would split it but never run by one, or a list of words."""
    if isinstance(value, str):
        if len(value) > COMMAND_CHARS_MAX:
            raise ValueError(f"is too long: at most {COMMAND_CHARS_MAX:,} characters as one string")
        try:
            value = shlex.split(value)
        except ValueError as error:
            raise ValueError(f"cannot be split into words ({error})") from error
    if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value):
        raise ValueError("must be a command: one string, or a list of strings")
    if len(value) > WORDS_MAX or any(len(word) > WORD_CHARS_MAX for word in value):
        raise ValueError(f"is too long: at most {WORDS_MAX} words of {WORD_CHARS_MAX} characters")
    if not value[0] or any(_CONTROL.search(word) for word in value):
        raise ValueError("must not hold control characters, and its first word must not be empty")
    return tuple(value)


def _seconds(value: object) -> object:
    if isinstance(value, str):
        match = _DURATION.match(value)
        if match is None:
            raise ValueError('must be seconds, or a text such as "500ms", "30s", "5m", "12h" or "7d"')
        return float(match[1]) * _SECONDS[match[2]]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError('must be seconds, or a text such as "30s"')
    try:
        return float(value)
    except OverflowError:  # TOML's integers have no end
        return math.inf


def _size(value: object) -> object:
    if isinstance(value, str):
        match = _SIZE.match(value)
        if match is None:
            raise ValueError('must be bytes, or a text such as "100MiB"')
        return int(match[1]) * _BYTES[match[2]]
    return value


def _relative(value: str) -> str:
    path = _folder(value)
    if path == ".":
        raise ValueError("must name something below the repository's root")
    return path


def _folder(value: str) -> str:
    """Return the path in its one spelling: `./public//` is `public`. "." is the repository's root."""
    if value.startswith("/"):
        raise ValueError(f"must be relative to the repository's root: write {value.strip('/')[:60] or '.'!r}")
    if "\\" in value:
        raise ValueError("must have / between folders, not \\")
    parts = [part for part in value.split("/") if part not in ("", ".")]
    path = "/".join(parts) or "."
    if not value or not _PATH.match(path) or ".." in parts:
        raise ValueError("must be a relative path inside the tree, of letters, digits and . _ - @ + ~, without ..")
    return path


def _url_path(value: str) -> str:
    if not _URL_PATH.match(value):
        raise ValueError("must begin with / and hold only letters, digits and . _ ~ / % ? & = + @ : , ; -")
    return value


def _prefix(value: str) -> str:
    _url_path(value)
    if "?" in value or not value.endswith("/"):
        raise ValueError("must begin and end with /, without ?")
    return value


def _host(value: str) -> str:
    if not _HOST.match(value):
        raise ValueError("must be a host name in lower case, such as app.example.com")
    return value


def _numbered_host(value: str) -> str:
    if value.count("{n}") != 1 or not _HOST.match(value.replace("{n}", "1")):
        raise ValueError("must be a host name with {n} for the slot's number, such as preview{n}.example.com")
    return value


def _network(value: str) -> str:
    try:
        if "%" in value:  # the zone of an address may be any text
            raise ValueError(value)
        ipaddress.ip_network(value)
    except ValueError as error:
        raise ValueError("must be an address, or a network such as 192.0.2.0/24") from error
    return value


def _routes(value: tuple[str, ...]) -> tuple[str, ...]:
    if not 1 <= len(value) <= ROUTES_MAX:
        raise ValueError(f"must list 1 to {ROUTES_MAX} paths")
    return value


def _sha_prefix(value: str) -> str:
    if not _SHA_PREFIX.match(value):
        raise ValueError("must be a commit id of 7 to 40 hex digits")
    return value


def _name(value: str) -> str:
    if not 0 < len(value) <= FILTER_CHARS_MAX or _CONTROL.search(value) or value != value.strip():
        raise ValueError(f"must be a text of 1 to {FILTER_CHARS_MAX} characters, without spaces around it")
    return value


def _glob(value: str) -> str:
    _name(value)
    value = value.removeprefix("./")
    if value.endswith("/"):
        raise ValueError(f"is a folder, and patterns are of files: write {value.rstrip('/')[:60]}/**")
    if "\\" in value:
        raise ValueError("must have / between folders, not \\")
    if value.startswith("/") or any(part in ("", ".", "..") for part in value.split("/")):
        raise ValueError("must be a path or a pattern such as web/** or *.md, without / at its ends and without ..")
    if any("**" in part and part != "**" for part in value.split("/")):
        raise ValueError("must have ** alone between two /")
    return value


@dataclass(frozen=True, slots=True)
class _Weekly:
    """A minute of the week, since Monday 00:00."""

    minute: int


def _wall(value: object) -> object:
    """What a clock on the wall shows: "Fri 16:00" every week, or a date with a time, by default its beginning."""
    if isinstance(value, str):
        weekly = _WEEKLY.match(value)
        if weekly is not None:
            return _Weekly((DAYS.index(weekly[1]) * 24 + int(weekly[2])) * 60 + int(weekly[3]))
        try:
            value = datetime.fromisoformat(value) if _DATED.match(value) else None
        except ValueError:
            value = None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time.min)
    if not isinstance(value, datetime) or value.tzinfo is not None:
        raise ValueError('must be weekly, such as "Fri 16:00", or a date such as "2026-12-24 12:00", without an offset')
    if not YEAR_MIN <= value.year <= YEAR_MAX:
        raise ValueError(f"must be a date from {YEAR_MIN} to {YEAR_MAX}")
    return value


def _timezone(value: str) -> str:
    try:
        if not _ZONE.match(value):
            raise ValueError(value)
        ZoneInfo(value)
    except (ValueError, KeyError, OSError) as error:  # a folder of the database is an OSError
        raise ValueError("must be a name of the time zone database, such as Europe/Zurich") from error
    return value


def _sentence(value: str) -> str:
    if not value.strip() or len(value) > REASON_CHARS_MAX or not value.isprintable():
        raise ValueError(f"must say why, in one line of at most {REASON_CHARS_MAX} characters")
    return value


Command = Annotated[tuple[str, ...], BeforeValidator(_words)]
Relative = Annotated[StrictStr, AfterValidator(_relative)]
#: "." is the release itself.
Folder = Annotated[StrictStr, AfterValidator(_folder)]
UrlPath = Annotated[StrictStr, AfterValidator(_url_path)]
Prefix = Annotated[StrictStr, AfterValidator(_prefix)]
Host = Annotated[StrictStr, AfterValidator(_host)]
NumberedHost = Annotated[StrictStr, AfterValidator(_numbered_host)]
Network = Annotated[StrictStr, AfterValidator(_network)]
#: Labels and accounts; patterns of branches and paths.
Names = Annotated[tuple[Annotated[StrictStr, AfterValidator(_name)], ...], Field(max_length=100)]
Globs = Annotated[tuple[Annotated[StrictStr, AfterValidator(_glob)], ...], Field(max_length=100)]
ShaPrefix = Annotated[StrictStr, AfterValidator(_sha_prefix)]
#: Bounds in seconds: a probe, a start, a job, a window, a lease.
ProbeS = Annotated[float, BeforeValidator(_seconds), Field(ge=0.05, le=60)]
StartS = Annotated[float, BeforeValidator(_seconds), Field(ge=0.5, le=900)]
JobS = Annotated[float, BeforeValidator(_seconds), Field(ge=1, le=3_600)]
WindowS = Annotated[float, BeforeValidator(_seconds), Field(ge=1, le=3_600)]
# Below a twentieth of a second a request that waits in the old instance's queue could be lost.
DrainS = Annotated[float, BeforeValidator(_seconds), Field(ge=0.05, le=300)]
# Pages that are still open are for minutes.
AssetsS = Annotated[float, BeforeValidator(_seconds), Field(ge=0, le=3_600)]
LeaseS = Annotated[float, BeforeValidator(_seconds), Field(ge=60, le=365 * 86_400)]
Memory = Annotated[int, BeforeValidator(_size), Field(strict=True, ge=64 << 20)]
Tasks = Annotated[StrictInt, Field(ge=16, le=32_768)]
Days = Annotated[StrictInt, Field(ge=1, le=3_650)]
DiskSize = Annotated[int, BeforeValidator(_size), Field(strict=True, ge=0, le=1 << 50)]
Size = Annotated[int, BeforeValidator(_size), Field(strict=True, ge=1)]


class Table(BaseModel):
    """A table; what its fields are called in the file may be a name that Python keeps for itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Build(Table):
    command: Command
    timeout_s: JobS = 600.0


class _Web(Table):
    static: Folder
    fallback: Relative | None = None


class _Api(Table):
    command: Command
    listen: Literal["port", "socket"] = "port"
    prefix: Prefix = "/api/"
    stop_timeout_s: DrainS = 10.0


class _Database(Table):
    migrate: Command | None = None
    migrations: Relative = "migrations"
    timeout_s: JobS = 300.0


class _Gate(Table):
    path: UrlPath = "/"
    status: Annotated[StrictInt, Field(ge=200, le=599)] = 200
    proof: Literal["owner", "echo"] = "owner"
    start_timeout_s: StartS = 30.0
    probe_timeout_s: ProbeS = 2.0
    window_s: WindowS = 30.0
    window_failures: Annotated[StrictInt, Field(ge=1, le=100)] = 3


class _Smoke(Table):
    routes: Annotated[tuple[UrlPath, ...], AfterValidator(_routes)] = ("/",)


class _Freeze(Table):
    begins: Annotated[_Weekly | datetime, BeforeValidator(_wall)] = Field(alias="from")
    until: Annotated[_Weekly | datetime, BeforeValidator(_wall)]
    timezone: Annotated[StrictStr, AfterValidator(_timezone)] = "UTC"
    reason: Annotated[StrictStr, AfterValidator(_sentence)]

    @model_validator(mode="after")
    def _is_a_window(self) -> _Freeze:
        if isinstance(self.begins, _Weekly) != isinstance(self.until, _Weekly):
            raise ValueError("from and until must both be weekly, or both be dates")
        if self.begins == self.until:
            raise ValueError("from and until are the same: the window is empty")
        if isinstance(self.begins, datetime) and isinstance(self.until, datetime) and self.until < self.begins:
            raise ValueError("until is before from")
        return self


class _Production(Table):
    host: Host | None = None
    backend_port: Annotated[StrictInt, Field(ge=1024, le=65_535)] | None = None
    drain_s: DrainS = 5.0
    drift: Literal["heal", "hold"] = "heal"
    force_push: Literal["hold", "follow"] = "hold"
    signed: Literal["off", "required"] = "off"
    health_gate: Literal["rollback", "off"] = "rollback"
    freeze: Annotated[tuple[_Freeze, ...], Field(max_length=FREEZES_MAX)] = ()


class _Previews(Table):
    enabled: StrictBool = True
    slots: Annotated[StrictInt, Field(ge=0, le=PREVIEWS_MAX)] = 3
    host: NumberedHost | None = None
    lease_ttl_s: LeaseS = 7 * 86_400.0
    drafts: StrictBool = True
    bots: StrictBool = True
    labels: Names = ()
    exclude_labels: Names = ()
    authors: Names = ()
    exclude_authors: Names = ()
    base_branches: Globs = ()
    exclude_base_branches: Globs = ()
    paths: Globs = ()
    exclude_paths: Globs = ()
    disk_free_bytes_min: DiskSize = 1 << 30
    comment: StrictBool = True


class WallsTable(Table):
    production_memory_bytes: Memory = PRODUCTION.memory_bytes_max
    preview_memory_bytes: Memory = PREVIEW.memory_bytes_max
    build_memory_bytes: Memory = BUILD.memory_bytes_max
    production_tasks: Tasks = PRODUCTION.tasks_max
    preview_tasks: Tasks = PREVIEW.tasks_max
    build_tasks: Tasks = BUILD.tasks_max
    open_files: Annotated[StrictInt, Field(ge=256, le=1_048_576)] = PRODUCTION.open_files_max
    file_bytes: Annotated[DiskSize, Field(ge=1 << 20)] = PRODUCTION.file_bytes_max
    preview_network: Literal["none", "host"] = "none"
    build_network: Literal["internet", "none"] = "internet"
    system_calls: Literal["service", "any"] = "service"
    netlink: StrictBool = False
    proc: Literal["own", "all"] = "own"


class _Edge(Table):
    tls: Literal["off", "auto", "files"] = "off"
    trusted_proxies: Annotated[tuple[Network, ...], Field(max_length=100)] = ()


class _Retention(Table):
    keep: Annotated[StrictInt, Field(ge=1, le=1_000)] = 5
    pinned: Annotated[tuple[ShaPrefix, ...], Field(max_length=100)] = ()
    deliveries_days: Days = 30
    deliveries_keep: Annotated[StrictInt, Field(ge=0, le=1_000_000)] = 1_000
    runs_days: Days = 90
    # More than a tick looks back.
    runs_keep: Annotated[StrictInt, Field(ge=20, le=10_000)] = 50
    audit_days: Days = 365
    summaries: Annotated[StrictInt, Field(ge=1, le=3_650)] = 90
    assets_s: AssetsS = 600.0
    # Each request is matched against all of them.
    assets: Annotated[Globs, Field(max_length=20)] | None = None


class _Permissions(Table):
    forks: Literal["never", "approval"] = "approval"
    accept_fork_risk: StrictBool = False
    commands: Literal["none", "write", "maintain", "admin"] = "none"


class _Limits(Table):
    files_max: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 50_000
    total_bytes_max: Size = 1 << 30
    blob_bytes_max: Size = 100 << 20
    depth_max: Annotated[StrictInt, Field(ge=1, le=256)] = 64
    name_bytes_max: Annotated[StrictInt, Field(ge=1, le=255)] = 255
    path_bytes_max: Annotated[StrictInt, Field(ge=1, le=4_000)] = 3_000
    lfs_pointers: Literal["refuse", "allow"] = "refuse"


class _File(Table):
    build: _Build | None = None
    web: _Web | None = None
    api: _Api | None = None
    database: _Database | None = None
    gate: _Gate = Field(default_factory=_Gate)
    smoke: _Smoke = Field(default_factory=_Smoke)
    production: _Production = Field(default_factory=_Production)
    previews: _Previews = Field(default_factory=_Previews)
    edge: _Edge = Field(default_factory=_Edge)
    walls: WallsTable = Field(default_factory=WallsTable)
    retention: _Retention = Field(default_factory=_Retention)
    permissions: _Permissions = Field(default_factory=_Permissions)
    limits: _Limits = Field(default_factory=_Limits)


_TABLES: dict[str, type[Table]] = {
    "build": _Build,
    "web": _Web,
    "api": _Api,
    "database": _Database,
    "gate": _Gate,
    "smoke": _Smoke,
    "production": _Production,
    "previews": _Previews,
    "edge": _Edge,
    "walls": WallsTable,
    "retention": _Retention,
    "permissions": _Permissions,
    "limits": _Limits,
}
RECIPE_TABLES = ("build", "web", "api", "database", "gate", "smoke")
POLICY_TABLES = ("production", "previews", "edge", "walls", "retention", "permissions", "limits")


def parse_recipe(data: bytes) -> config.Recipe:
    """Return the recipe; ConfigInvalid with every problem of the recipe's tables, and of tables that are unknown."""
    return parse_deploy_toml(data, only=RECIPE_TABLES)[0]


def parse_policy(data: bytes) -> config.Policy:
    """Return the policy; ConfigInvalid with every problem of the policy's tables."""
    return parse_deploy_toml(data, only=POLICY_TABLES)[1]


def parse_deploy_toml(
    data: bytes, *, only: tuple[str, ...] = (*RECIPE_TABLES, *POLICY_TABLES)
) -> tuple[config.Recipe, config.Policy]:
    """Return recipe and policy; ConfigInvalid naming every problem of the tables in `only`."""
    values = _read_toml(data)
    judges_recipe = set(RECIPE_TABLES) <= set(only)
    unknown = [name for name in values if name not in _TABLES] if judges_recipe else []
    problems = [_unknown(name, ()) for name in unknown[:PROBLEMS_MAX]]
    values = {name: value for name, value in values.items() if name in only}
    if judges_recipe:
        problems += _contradictions(values)
    try:
        file = _File.model_validate(values)
    except ValidationError as error:
        problems += _problems(error)
        file = _File()
    if problems:
        shown = problems[:PROBLEMS_MAX]
        if len(problems) > PROBLEMS_MAX:
            shown.append(f"and more: only the first {PROBLEMS_MAX} are listed")
        raise ConfigInvalid("DeployTomlInvalid", "deploy.toml: " + "; ".join(shown), problems=tuple(shown))
    return _recipe(file), _policy(file)


def recipe_hash(recipe: config.Recipe, *, configured: str | None = None) -> str:
    """Return 16 hex digits that change whenever what a build makes may change: with its command, and with the version
    of the values that it reads."""
    told = json.dumps(asdict(recipe)["build"], sort_keys=True).encode() + (configured or "").encode()
    return hashlib.sha256(told).hexdigest()[:16]


def _read_toml(data: bytes) -> dict[str, object]:
    if len(data) > DEPLOY_TOML_BYTES_MAX:
        raise ConfigInvalid("DeployTomlInvalid", f"deploy.toml: is larger than {DEPLOY_TOML_BYTES_MAX >> 10} KiB")
    unicode = _other_unicode(data)
    if unicode is not None:
        raise ConfigInvalid("DeployTomlInvalid", f"deploy.toml: is {unicode}, not UTF-8: save it as UTF-8")
    try:
        # Editors on Windows begin UTF-8 with a byte order mark, which TOML 1.1 lets pass and tomllib does not.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigInvalid(
            "DeployTomlInvalid", f"deploy.toml: is not UTF-8 (at line {line}): save it as UTF-8"
        ) from error
    try:
        return load_toml(text)
    except TooMuch as error:
        raise ConfigInvalid("DeployTomlInvalid", f"deploy.toml: {error}") from error
    except ValueError as error:
        raise ConfigInvalid("DeployTomlInvalid", f"deploy.toml: is not TOML: {str(error)[:200]}") from error


def _other_unicode(data: bytes) -> str | None:
    """Return which other encoding of Unicode this is, by its byte order mark or by a zero in its first character."""
    marks = ((b"\xff\xfe\0\0", 32), (b"\0\0\xfe\xff", 32), (b"\xff\xfe", 16), (b"\xfe\xff", 16))
    for mark, bits in marks:
        if data.startswith(mark):
            return f"UTF-{bits}"
    return "UTF-16" if b"\0" in data[:2] else None


def _problems(error: ValidationError) -> list[str]:
    told: list[str] = []
    # One more than are shown, so that the caller can see that there are more.
    for one in error.errors(include_url=False, include_input=False, include_context=False)[: PROBLEMS_MAX + 1]:
        path = tuple(str(part) for part in one["loc"])
        match one["type"]:
            case "extra_forbidden":
                told.append(_unknown(path[-1], path[:-1]))
            case "missing":
                told.append(f"{_key(path)}: is missing")
            case "model_type" | "model_attributes_type" | "dict_type":
                told.append(f"{_key(path)}: must be a table, [{_key(path)}]")
            case _:
                text = one["msg"].removeprefix("Value error, ").removeprefix("Input ").replace("should be", "must be")
                told.append(f"{_key(path)}: {text}")
    return told


def _key(path: Iterable[str]) -> str:
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", part) else ascii(part)[:60] for part in path)


def _unknown(name: str, path: tuple[str, ...]) -> str:
    table = _Freeze if path[1:2] == ("freeze",) else _TABLES.get(path[0]) if path else _File
    known = [] if table is None else [field.alias or key for key, field in table.model_fields.items()]
    close = difflib.get_close_matches(name[:60], known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"allowed are {', '.join(known)}"
    return f"{_key((*path, name))}: is unknown; {hint}"


def _contradictions(values: Mapping[str, object]) -> list[str]:
    """Judge what is written rather than what was read, so that a wrong value elsewhere hides no contradiction."""
    told: list[str] = []
    if "web" not in values and "api" not in values:
        told.append("web, api: at least one of the two tables must be there")
    gate = values.get("gate")
    if "api" not in values and isinstance(gate, dict) and gate.get("proof") == "echo":
        told.append('gate.proof: "echo" needs a process that echoes, so [api]; allowed is "owner"')
    return told


def _recipe(file: _File) -> config.Recipe:
    return config.Recipe(
        build=None if file.build is None else config.Build(**dict(file.build)),
        web=None if file.web is None else config.Web(**dict(file.web)),
        api=None if file.api is None else config.Api(**dict(file.api)),
        database=None if file.database is None else config.Database(**dict(file.database)),
        gate=config.Gate(**dict(file.gate)),
        smoke=config.Smoke(**dict(file.smoke)),
    )


def _freeze(one: _Freeze) -> config.Freeze:
    match one.begins, one.until:
        case _Weekly(minute=begins), _Weekly(minute=until):
            return config.WeeklyFreeze(from_minute=begins, until_minute=until, timezone=one.timezone, reason=one.reason)
        case datetime() as from_local, datetime() as until_local:
            return config.DatedFreeze(
                from_local=from_local, until_local=until_local, timezone=one.timezone, reason=one.reason
            )
    raise AssertionError("the model lets no mixture pass")


def _policy(file: _File) -> config.Policy:
    return config.Policy(
        production=config.Production(
            **{**dict(file.production), "freeze": tuple(map(_freeze, file.production.freeze))}
        ),
        previews=config.Previews(**dict(file.previews)),
        edge=config.Edge(**dict(file.edge)),
        walls=Walls(**dict(file.walls)),
        retention=config.Retention(**dict(file.retention)),
        permissions=config.Permissions(**dict(file.permissions)),
        limits=config.TreeLimits(**dict(file.limits)),
    )
