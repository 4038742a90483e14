"""How is a host made into one that runs Oroboros, told its repository, and given an app's secrets? Root's commands.

`install` observes, plans and executes; `--dry-run` is the plan alone. It is also how an installation is brought up to a
newer checkout, and how what the policy says of slots, names and walls takes effect. Secrets are drawn once, kept, and
never printed.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click

from controller.decisions.host_environment import CONTROL_SOCKET_URL
from controller.decisions.install_options import choose_topology, kept_ports, option_changes, port_problems
from controller.decisions.installation import (
    BEFORE_FILE,
    CONTROL_UNITS,
    EDGE_STATE,
    SURFACE_RUN,
    TIMER_STAMPS,
    Before,
    HostFacts,
    Wanted,
    fresh_postgres,
    missing_parts,
    note_before,
    parse_before,
    plan_installation,
    plan_purge,
    plan_removal,
    private_resolvers,
    render_before,
    surface_file,
    unseen,
    wanted_files,
    wanted_folders,
    warnings_of,
)
from controller.decisions.preflight import Refusal, foreign_parts, machine_warnings, refusals
from controller.doors import tables
from controller.doors.manual import shell_files
from controller.doors.stacks import Stack, find_stack
from controller.effects.host import (
    Host,
    edited_code,
    installed_code,
    kept_code,
    observe_machine,
    observe_versions,
    packaged_postgres,
    read_host_name,
    read_passwords,
    read_shared_redis,
    run,
    slots_in_use,
    write_file,
)
from controller.effects.ping import redis_address
from controller.effects.powers import ask_as
from controller.effects.stack_files import read_topology, topology_file, write_private
from controller.effects.store import SQL_FOLDER, migrate
from controller.effects.systemd import SystemdRuntime
from controller.model.command import RESERVED, parse_environment
from controller.model.config import Policy
from controller.model.errors import ConfigInvalid, Refused, Unavailable
from controller.model.host_files import HostFile
from controller.model.names import (
    HOST_APP,
    HOST_CONFIG,
    HOST_LAYOUT,
    HOST_LOGS,
    HOST_PROGRAM,
    HOST_ROOT,
    HOST_RUN,
    REPOSITORY,
    WORKER_USER,
    Layout,
    Ports,
    SlotName,
    Topology,
    parse_slot,
)
from controller.model.options import Options

CHECKOUT_ROOT = Path(__file__).resolve().parents[2]
SECRET_BYTES = 32
#: How long the parts may take to answer after an installation.
UP_WITHIN_S = 60.0
#: How long the worker may take to leave nothing of the leases of slots that go.
LEFT_WITHIN_S = 180.0
LOOK_EVERY_S = 0.25
RESOLV_CONF = Path("/etc/resolv.conf")
#: A file that is there, though it may be empty.
THERE = b"="
POLICY_WITHIN_S = 10.0
FILES_SHOWN_MAX = 10
VALUE_BYTES_MAX = 64 << 10
REPOSITORY_FILE = HOST_CONFIG / "repository.env"
REPOSITORY_VALUES = frozenset(
    {"OROBOROS_REPOSITORY", "OROBOROS_FORGE_URL", "OROBOROS_BRANCH", "OROBOROS_REPOSITORY_SET"}
)
#: What a purge removes as it is.
PURGED = (HOST_ROOT, HOST_LOGS, HOST_RUN, EDGE_STATE, SURFACE_RUN, HOST_CONFIG)


def require_root(command: str) -> None:
    """Refuse, with what to type, unless root asks."""
    if os.geteuid() != 0:
        raise ConfigInvalid("NotRoot", f"only root may change the host; type: sudo oroboros {command}")


def install(
    options: Options, *, unset: tuple[str, ...] = (), dry_run: bool, only_slots: bool, redis_shared: bool | None
) -> int:
    """Bring this host to what is wanted; return the exit code."""
    if not dry_run:
        require_root("install")
    _require_installed_code()
    host = _this_host()
    policy, installed = _installed_policy(), _installed_topology(options)
    unsaid = frozenset(name.replace("-", "_") for name in unset)
    chosen = choose_topology(options, unsaid=unsaid, installed=installed, policy=policy)
    for line in option_changes(chosen, installed=installed):
        click.echo(tables.plain(line))
    topology = replace(
        chosen,
        resolvers=private_resolvers(_read_resolv_conf()),
        spares_processor=max(os.sched_getaffinity(0)) > 0,
    )
    passwords = read_passwords(lambda: secrets.token_hex(SECRET_BYTES))
    shared_redis = None if redis_shared is False else read_shared_redis()
    if redis_shared and shared_redis is None:
        # A dry run needs no secret.
        shared_redis = "redis://" if dry_run else _read_redis_url()
    app, caddy = host.digests()
    wanted = Wanted(
        topology=topology,
        passwords=passwords,
        host=read_host_name(),
        webhook_secret=secrets.token_hex(SECRET_BYTES),
        operator_token=secrets.token_hex(SECRET_BYTES),
        app=app,
        caddy=caddy,
        shared_redis=shared_redis,
        shell_files=shell_files(),
        systemd=next(iter(observe_versions().get("systemd", ())), 0),
    )
    # Slots that go have their ports until the last of their leases has ended.
    previews = max(topology.previews, installed.previews if installed is not None else 0)
    problems = port_problems(topology, previews=previews)
    # Nothing can be rendered for ports that make no sense; what else is wrong is named with them.
    rendered = replace(topology, ports=Ports(), production_backend_port=None) if problems else topology
    with tables.progress("looking at the host"):
        facts = _look(host, rendered, wanted)
    machine = replace(
        observe_machine(CHECKOUT_ROOT),
        taken=SystemdRuntime(HOST_LAYOUT, topology).taken_ports(),
        kept_ports=kept_ports(installed if facts.units else None, topology),
    )
    is_root, is_shared = os.geteuid() == 0, shared_redis is not None
    _require_fit(
        refusals(machine, facts, is_root=is_root, dry_run=dry_run, redis_shared=is_shared, port_problems=problems)
    )
    missing = missing_parts(facts, redis_shared=shared_redis is not None)
    if missing:
        click.echo(f"not there yet, and taken to be as its packages make it: {', '.join(missing)}", err=True)
    if "postgresql" in missing:
        files = (file.name for file in SQL_FOLDER.glob("[0-9]*.sql"))
        facts = replace(facts, postgres=fresh_postgres(packaged_postgres(), files))
    for warning in (*machine_warnings(machine), *warnings_of(facts, wanted)):
        click.echo(tables.plain(f"warning: {warning}"), err=True)
    for found in foreign_parts(facts, topology.said or Options()):
        click.echo(tables.plain(found), err=True)
    wanted = replace(wanted, before=render_before(note_before(facts)))
    leaving = installed.preview_slots[topology.previews :] if installed is not None and facts.has_repository else ()
    in_use = slots_in_use(leaving) if leaving and facts.postgres is not None and os.geteuid() == 0 else ()
    if in_use:
        click.echo(f"leaving: {', '.join(in_use)}: leases end, and their pull requests wait for another slot")
    if in_use and not dry_run:
        assert installed is not None
        draining = replace(topology, previews=installed.previews, kept_previews=topology.previews)
        for change in plan_installation(_look(host, draining, wanted), replace(wanted, topology=draining)):
            click.echo(tables.plain(f"[first] {change}"))
            host.execute(change)
        _await_left(in_use)
        facts = _look(host, topology, wanted)
    changes = plan_installation(facts, wanted, only_slots=only_slots)
    if dry_run and (hidden := unseen(facts)):
        click.echo(f"not looked at, since only root may: {', '.join(hidden)}", err=True)
    if not changes:
        click.echo("everything is as it must be: nothing to do")
        return 0
    if dry_run:
        for change in changes:
            click.echo(tables.plain(str(change)))
        click.echo(f"{len(changes)} changes; nothing was changed")
        return 0
    for number, change in enumerate(changes, start=1):
        click.echo(tables.plain(f"[{number}/{len(changes)}] {change}"))
        host.execute(change)
    _tell_next_steps()
    return _end_with_doctor()


def _look(host: Host, topology: Topology, wanted: Wanted) -> HostFacts:
    """Look at all that an installation of this topology would change."""
    files = wanted_files(replace(wanted, topology=topology))
    return host.observe(
        wanted.passwords,
        [*(file.path for file in files), *(surface_file(slot) for slot in topology.slots)],
        [folder.path for folder in wanted_folders(topology)],
    )


def _await_left(slots: tuple[SlotName, ...]) -> None:
    """Wait until nothing of a lease is left in slots that go: the worker ends the leases and wipes. Until then nothing
    of theirs is removed, so that an installation that is cut short is taken up by the next one."""
    deadline = time.monotonic() + LEFT_WITHIN_S
    while left := slots_in_use(slots):
        if time.monotonic() >= deadline:
            raise Unavailable(
                "SlotsInUse",
                f"{', '.join(left)} still hold something of a lease after {LEFT_WITHIN_S:g} s: see `oroboros status`"
                " and that ouroboros-worker.service runs; then install again",
            )
        time.sleep(LOOK_EVERY_S)


def _require_installed_code() -> None:
    """Go on with the kept copy, where this is the installed code and somebody edited it: it is never installed from
    itself. Refused when the copy was edited too."""
    if HOST_APP.resolve() != CHECKOUT_ROOT or installed_code(HOST_APP) != "edited":
        return
    kept = kept_code(HOST_APP)
    if kept is None:
        raise Refused(
            "CodeEdited",
            f"the code in {HOST_APP} is not as it was installed, and neither is a copy that was kept of it:"
            " run scripts/install.sh in a checkout that you trust",
        )
    files = [str(path) for path in edited_code(HOST_APP)]
    more = f" and {len(files) - FILES_SHOWN_MAX} more" if len(files) > FILES_SHOWN_MAX else ""
    click.echo(f"edited since it was installed: {', '.join(files[:FILES_SHOWN_MAX])}{more}; the kept copy installs")
    sys.stdout.flush()
    # All that follows is decided by code that is as it was installed.
    environment = {**os.environ, "PYTHONPATH": str(kept), "PYTHONDONTWRITEBYTECODE": "1"}
    os.execve(sys.executable, [sys.executable, "-P", "-m", "controller.doors.cli", *sys.argv[1:]], environment)  # noqa: S606


def _require_fit(found: Sequence[Refusal]) -> None:
    """Refuse with every problem at once; nothing was changed."""
    if not found:
        return
    reasons = {one.reason for one in found}
    reason = reasons.pop() if len(reasons) == 1 else "HostUnfit"
    kind = {"PostgresAway": Unavailable, "RedisAway": Unavailable, "RedisIsShared": Refused}.get(reason)
    texts = tuple(one.text for one in found)
    if kind is not None:
        raise kind(reason, "; ".join(texts))
    raise ConfigInvalid(reason, "; ".join(texts), problems=texts)


def _read_resolv_conf() -> str:
    """Return resolv.conf(5); "" for a host without one."""
    try:
        return RESOLV_CONF.read_text(errors="replace")
    except OSError:
        return ""


def _read_redis_url() -> str:
    """Return the address of a Redis of others from standard input, or asked for: it may hold a password."""
    url = _read_value("address of Redis (redis://USER:PASSWORD@HOST:PORT/0)").strip()
    redis_address(url)  # refuses one that leads nowhere
    return url


def _tell_next_steps() -> None:
    if not REPOSITORY_FILE.exists():
        click.echo("next: oroboros repo set OWNER/NAME, with a token that may read it on standard input")
    click.echo(f"the webhook's secret lies in {HOST_CONFIG / 'webhook-secrets'}")
    click.echo(f"the operator's token, for the JSON API, lies in {HOST_CONFIG / 'operator-token'}")


def _end_with_doctor() -> int:
    """Wait until what was started answers, and then let doctor say how the host is."""
    from controller.doors.doctor import Outcome, print_findings
    from controller.doors.doctor_host import examine

    stack = find_stack(None, os.environ, working_directory=Path("/"))
    deadline = time.monotonic() + UP_WITHIN_S
    while True:
        findings = examine(stack)
        wrong = [finding for finding in findings if finding.outcome is Outcome.FAILED]
        if not wrong or time.monotonic() >= deadline:
            break
        time.sleep(1.0)
    print_findings(tables.open_console(), findings)
    return 1 if wrong else 0


def uninstall(*, dry_run: bool, purge: bool = False, agreed: bool = False) -> int:
    """Stop and remove what install made; data only with `purge`. Return the exit code."""
    if not dry_run:
        require_root("uninstall")
    host = _this_host()
    folders = [path for path in PURGED if path.exists()] if purge else []
    stamps = TIMER_STAMPS.glob("stamp-ouroboros-*") if purge else ()
    facts = host.observe(read_passwords(lambda: ""), [BEFORE_FILE, *stamps], folders)
    if purge and not dry_run:
        _require_purge(facts, agreed=agreed)
    changes = plan_purge(facts, _recorded_before(facts)) if purge else plan_removal(facts)
    for number, change in enumerate(changes, start=1):
        click.echo(str(change) if dry_run else f"[{number}/{len(changes)}] {change}")
        if not dry_run:
            host.execute(change)
    if not changes:
        click.echo("nothing of Oroboros is installed")
    if purge:
        click.echo("kept: Debian's packages, what the journal holds, and backups.")
        return 0
    click.echo(f"kept: {HOST_ROOT}, {HOST_CONFIG}, the databases, the users, and Postgres' and Redis' settings.")
    click.echo("To remove those too: install again, then oroboros uninstall --purge.")
    return 0


def _recorded_before(facts: HostFacts) -> Before:
    found = facts.files.get(BEFORE_FILE)
    return parse_before(found.text) if found is not None and found.text else note_before(facts)


def _require_purge(facts: HostFacts, *, agreed: bool) -> None:
    """Refuse to purge half of a host, or without anybody's word."""
    if facts.postgres is None and "postgresql" in facts.versions:
        raise Unavailable("PostgresAway", "Postgres' administrator cannot be reached: systemctl start postgresql")
    if not agreed and not click.confirm(
        f"remove Oroboros with all its data: {HOST_ROOT}, {HOST_CONFIG}, production's database and every other of ours?"
    ):
        raise Refused("NotAgreed", "nothing was removed; --yes answers the question")


def set_repository(text: str, *, forge_url: str | None, branch: str | None, token_from_stdin: bool) -> int:
    """Say which repository this host is about, and start the control plane on it; return the exit code."""
    require_root("repo set")
    name, url = split_repository(text, forge_url=forge_url)
    values = {"OROBOROS_REPOSITORY": name, "OROBOROS_FORGE_URL": url, **({"OROBOROS_BRANCH": branch} if branch else {})}
    values["OROBOROS_REPOSITORY_SET"] = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    if token_from_stdin:
        token = sys.stdin.read(VALUE_BYTES_MAX).strip()
        if not token:
            raise ConfigInvalid("TokenMissing", "--token-stdin: there was nothing on standard input")
        write_file(HostFile(path=HOST_CONFIG / "forge-token", text=f"{token}\n", mode=0o600))
    told = REPOSITORY_FILE.read_text(errors="surrogateescape") if REPOSITORY_FILE.exists() else ""
    # What else an operator wrote there stays, but not the branch of another repository.
    others = [line for line in told.splitlines() if not parse_environment(line).keys() & REPOSITORY_VALUES]
    lines = [*(f"{key}={value}" for key, value in values.items()), *others]
    write_file(HostFile(path=REPOSITORY_FILE, text="".join(f"{line}\n" for line in lines), mode=0o600))
    run(("systemctl", "restart", *CONTROL_UNITS))
    topology = read_topology(HOST_LAYOUT)
    click.echo(f"this host is about {name} at {url}")
    if find_stack(None, os.environ, working_directory=Path("/")).environ.get("OROBOROS_GITHUB_APP_ID"):
        click.echo("the GitHub App brings its own webhook; `oroboros github check` says whether all is well with it")
        return 0
    click.echo("now add a webhook there:")
    click.echo(f"  payload URL   {topology.scheme}://api.{topology.base_host}/webhooks/github")
    click.echo("  content type  application/json (application/x-www-form-urlencoded is taken too)")
    click.echo(f"  secret        the one line in {HOST_CONFIG / 'webhook-secrets'}")
    click.echo("  events        pushes, pull requests and issue comments")
    return 0


def split_repository(text: str, *, forge_url: str | None) -> tuple[str, str]:
    """Return owner/name and the forge's address of a repository that is named either way. Pure.

    ConfigInvalid for anything else; an address must not hold a password."""
    base, name = forge_url or "https://github.com", text.removesuffix(".git").rstrip("/")
    if "://" in name:
        scheme, _, rest = name.partition("://")
        parts = rest.split("/")
        if scheme not in ("http", "https") or len(parts) < 3 or "@" in parts[0]:
            raise ConfigInvalid("RepositoryInvalid", "say OWNER/NAME, or https://HOST/OWNER/NAME without a password")
        base, name = forge_url or f"{scheme}://{'/'.join(parts[:-2])}", "/".join(parts[-2:])
    if not REPOSITORY.match(name):
        raise ConfigInvalid("RepositoryInvalid", f"{text!r:.80} is not OWNER/NAME")
    return name, base.rstrip("/")


# -- an app's own values ----------------------------------------------------------------------------------------------


def change_values(stack: Stack, slot_text: str, *, set_key: str | None = None, unset_key: str | None = None) -> int:
    """Set one value of an app from standard input, or take one away; what serves is built and started anew with it."""
    slot, path = _values_file(stack, slot_text)
    values = _read_values(path)
    if set_key is not None:
        values[check_key(set_key)] = _read_value()
    elif unset_key is not None and values.pop(unset_key, None) is None:
        raise Refused("ValueMissing", f"{slot} has no value {unset_key}")
    text = "".join(f"{key}={value}\n" for key, value in sorted(values.items()))
    if stack.is_host:
        write_file(HostFile(path=path, text=text, mode=0o600))
    else:
        write_private(path, text)
    count = f"{len(values)} value{'' if len(values) == 1 else 's'}"
    click.echo(f"{slot}: {count}; what serves is built and started anew with them, and gated")
    return 0


def list_values(stack: Stack, slot_text: str) -> list[str]:
    """Return the names of an app's values; never what they are."""
    _, path = _values_file(stack, slot_text)
    return sorted(_read_values(path))


def check_key(key: str) -> str:
    """Return a key that an app may set; ConfigInvalid for one that is ours, or no name. Pure."""
    if not key.isascii() or not key.replace("_", "a").isalnum() or key[:1].isdigit():
        raise ConfigInvalid("KeyInvalid", f"{key!r:.60} is no name of a value: letters, digits and _")
    if key in RESERVED or key.startswith("OROBOROS_") or key == "DATABASE_URL":
        raise ConfigInvalid("KeyReserved", f"{key} is set by Oroboros")
    return key


def _values_file(stack: Stack, slot_text: str) -> tuple[SlotName, Path]:
    try:
        slot = parse_slot(slot_text)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    folder = stack.config_dir
    slots = read_topology(Layout(stack.root)).slots
    if slot not in slots:
        raise click.UsageError(f"{slot_text!r:.40} is no slot of this host: {', '.join(slots)}")
    return slot, folder / f"app-{slot}.env"


def _read_values(path: Path) -> dict[str, str]:
    try:
        return parse_environment(path.read_text(errors="surrogateescape"))
    except FileNotFoundError:
        return {}


def _read_value(asking: str = "value") -> str:
    if sys.stdin.isatty():
        value = str(click.prompt(asking, hide_input=True, default="", show_default=False))
    else:
        said = sys.stdin.read(VALUE_BYTES_MAX)
        if not said:
            # A pipe that was forgotten, or a file that was empty. Who wants an empty value gives an empty line.
            raise ConfigInvalid("ValueInvalid", "there was nothing on standard input; an empty value is an empty line")
        value = said.rstrip("\n")
    if "\n" in value or "\0" in value:
        raise ConfigInvalid("ValueInvalid", "a value is one line")
    return value


# -- what is installed ------------------------------------------------------------------------------------------------


def _installed_topology(options: Options) -> Topology | None:
    """Return what was installed; None on a fresh host. ConfigInvalid where it was and cannot be read, unless the names
    are said anew: what earlier options said would be lost without a word."""
    if not topology_file(HOST_LAYOUT).exists() and not (HOST_CONFIG / "Caddyfile").exists():
        return None
    try:
        return read_topology(HOST_LAYOUT)
    except ConfigInvalid as error:
        if options.base_host is not None:
            return None
        message = f"{error.message}. To go on without it, say every option again, --base-host among them"
        raise ConfigInvalid(error.reason, message, problems=error.problems) from error


def _installed_policy() -> Policy | None:
    """Return the policy at the production head, where a repository was fetched and its policy is valid."""
    from controller.effects.mirror import Mirror
    from controller.loop.observe import DEPLOY_TOML, DEPLOY_TOML_BYTES_MAX
    from controller.model.deploy_toml import parse_policy

    if not HOST_LAYOUT.mirror.is_dir():
        return None

    def read() -> bytes:
        mirror = Mirror(HOST_LAYOUT.mirror, "https://localhost/none.git")
        head = mirror.production_head()
        body = mirror.read_file(head.sha, DEPLOY_TOML, bytes_max=DEPLOY_TOML_BYTES_MAX) if head is not None else None
        return THERE + body if body is not None else b""

    try:
        # The mirror is the worker's, and so is what git objects hold.
        told = (
            read()
            if os.geteuid() != 0
            else ask_as(WORKER_USER, read, bytes_max=DEPLOY_TOML_BYTES_MAX + len(THERE), timeout_s=POLICY_WITHIN_S)
        )
        return parse_policy(told.removeprefix(THERE)) if told else None
    except (ConfigInvalid, Unavailable) as error:
        click.echo(f"the policy of the repository is left out: {error}", err=True)
        return None


def _this_host() -> Host:
    def bring_up_to_date() -> None:
        # Root is let in as the worker's role, over the socket.
        migrate(CONTROL_SOCKET_URL)

    return Host(source=CHECKOUT_ROOT, caddy_source=_caddy(), sql_folder=SQL_FOLDER, migrate=bring_up_to_date)


def _caddy() -> Path:
    """Return Caddy's program: what the wheel brought, else what was installed before."""
    beside = HOST_PROGRAM / "venv" / "bin" / "caddy"
    if beside.exists():
        return beside
    from controller.development.parts import caddy_binary

    return Path(caddy_binary())
