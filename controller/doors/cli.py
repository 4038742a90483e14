"""What can be done with Oroboros from a shell? `oroboros <command>`: the names, options and exit codes of all of it.

Exit codes: 0 done · 1 tried and failed · 2 usage or configuration · 3 refused by policy · 4 a part cannot be reached ·
130 interrupted. With `--json` an error is `{"error", "message", "exit_code"}` on stdout. Errors are turned into words
and codes in one place, `Doors.main`; what is not an `OroborosError` is a bug and shows its traceback.
"""

from __future__ import annotations

import errno
import importlib.metadata
import json
import logging
import os
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import psycopg

from controller.doors import tables, views
from controller.doors.forges import secret_files
from controller.doors.log_output import hide_contents_of, log_to_stderr, tell_error
from controller.doors.stacks import Stack, find_stack, open_runtime, utc_now
from controller.doors.views import RunView
from controller.effects.powers import become
from controller.effects.stack_files import read_topology
from controller.effects.store import Store
from controller.model.config import Settings
from controller.model.errors import ConfigInvalid, Failed, OroborosError, Refused, Stalled, Unavailable, Waiting
from controller.model.machine_needs import CONTRACT_PORTS, parse_ports
from controller.model.names import (
    BACKUPS_MAX,
    HOST_CADDY,
    HOST_ROOT,
    MAIN,
    PORT_OFFSET_MAX,
    PREVIEWS_MAX,
    WORKER_USER,
    Layout,
    SlotName,
    Topology,
    parse_slot,
)
from controller.model.options import OPTION_NAMES, Options
from controller.model.redaction import redact

DONE, FAILED, USAGE, REFUSED, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 4, 130
CHECKOUT_ROOT = Path(__file__).resolve().parents[2]
#: Under which a call of a command keeps its stack.
STACK = "oroboros.stack"

log = logging.getLogger(__name__)


class Access(StrEnum):
    """What a command may change. Whoever may read the stack's files may run it: there is no other authority."""

    READS = "reads"  # changes nothing
    ORDERS = "orders"  # writes an order into the store; the worker acts on it
    SERVES = "serves"  # runs a part in the foreground
    TIDIES = "tidies"  # lets go of rows and logs that retention lets go
    HOST = "host"  # root's: changes the host itself, or what an app is given
    WRITES_FOLDER = "writes folder"  # writes a file into the folder that was named
    RECORDS = "records"  # writes what it found into a file, and into the store's rows of the run that was named


#: Every command, and what it may change. A test holds this against the commands that there are.
ACCESS: Mapping[str, Access] = {
    "api": Access.SERVES,
    "backend": Access.ORDERS,
    "backup": Access.HOST,
    "demo": Access.SERVES,
    "deliveries": Access.READS,
    "deploy": Access.ORDERS,
    "doctor": Access.READS,
    "github check": Access.READS,
    "github setup": Access.WRITES_FOLDER,
    "heal": Access.ORDERS,
    "hold": Access.ORDERS,
    "health": Access.READS,
    "judge": Access.SERVES,
    "explain pr": Access.READS,
    "env list": Access.READS,
    "env set": Access.HOST,
    "env unset": Access.HOST,
    "install": Access.HOST,
    "repo set": Access.HOST,
    "uninstall": Access.HOST,
    "init": Access.WRITES_FOLDER,
    "logs": Access.READS,
    "maintenance daily-summary": Access.TIDIES,
    "maintenance reset-audit": Access.READS,
    "maintenance stale-leases": Access.ORDERS,
    "plan": Access.READS,
    "releases": Access.READS,
    "restore": Access.HOST,
    "rollback": Access.ORDERS,
    "slots": Access.READS,
    "smoke": Access.RECORDS,
    "status": Access.READS,
    "surface": Access.SERVES,
    "unhold": Access.ORDERS,
    "up": Access.SERVES,
    "verify": Access.READS,
    "version": Access.READS,
    "worker": Access.SERVES,
}


#: On a host these need what is root's: its files, an app's values, the secrets for the forge. Every other command of
#: root's goes on as the worker, in whose folders it reads and writes: there a link could lead root anywhere.
NEEDS_ROOT = frozenset({"doctor", "env list", "env set", "env unset", "github check", "maintenance stale-leases"})


def every_command(group: click.Group | None = None, *, above: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its whole name, those of groups too: `maintenance stale-leases`."""
    for name, command in (group or main).commands.items():
        if isinstance(command, click.Group):
            yield from every_command(command, above=f"{above}{name} ")
        else:
            yield f"{above}{name}", command


def exit_code(error: OroborosError) -> int:
    """Return the exit code of an expected error, by its consequence."""
    match error:
        case Refused():
            return REFUSED
        case ConfigInvalid():
            return USAGE
        case Unavailable() | Waiting():
            return UNREACHABLE
        case Failed() | Stalled():
            return FAILED
    return FAILED


class Doors(click.Group):
    """The group of all commands, and the one place where an error becomes an exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: ARG002 - click's signature; the codes below are ours in any mode
        windows_expand_args: bool = True,  # noqa: ARG002 - click's signature
        **extra: Any,
    ) -> NoReturn:
        words = list(sys.argv[1:] if args is None else args)
        as_json = "--json" in words[: words.index("--")] if "--" in words else "--json" in words
        try:
            code = super().main(words, prog_name or "oroboros", complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
        except click.ClickException as error:
            code = _tell_usage(error, as_json=as_json)
        except OroborosError as error:
            code = _tell(error.reason, error.message, exit_code(error), as_json=as_json)
        except psycopg.Error as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            away = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
            reason, said = (
                ("DatabaseAway", "does not answer") if away else ("DatabaseRefused", "refused, is it migrated")
            )
            message = f"the control plane's database {said}: {lines[0]:.200}; `oroboros doctor` says more"
            code = _tell(reason, message, UNREACHABLE, as_json=as_json)
        except (click.Abort, KeyboardInterrupt):
            code = _tell("Interrupted", "interrupted", INTERRUPTED, as_json=as_json)
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
            # Who read our output has seen enough; nothing more may be flushed at the interpreter's end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = DONE
        sys.exit(code if isinstance(code, int) else DONE)


def _tell(reason: str, message: str, code: int, *, as_json: bool) -> int:
    message = redact(message)
    if as_json:
        click.echo(json.dumps({"error": reason, "message": tables.plain(message), "exit_code": code}))
    else:
        tell_error(f"oroboros: {reason}: {tables.plain(message)}")
    return code


def _tell_usage(error: click.ClickException, *, as_json: bool) -> int:
    if as_json:
        return _tell("Usage", error.format_message(), USAGE, as_json=True)
    error.show()
    return USAGE


AnyCommand = TypeVar("AnyCommand", bound=Callable[..., object])


class PullNumber(click.IntRange):
    """A pull request's number. Its name stands in click's message: "'abc' is not a valid …"."""

    name = "number of a pull request"


def _root_option(command: AnyCommand) -> AnyCommand:
    return click.option(
        "--root",
        type=click.Path(path_type=Path, file_okay=False),
        expose_value=False,
        callback=_remember_root,
        help="Root folder of the stack.",
    )(command)


def _remember_root(context: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
    if value is not None:
        context.find_root().obj = value


def _json_option(command: AnyCommand) -> AnyCommand:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, errors too.")(command)


def _limit_option(command: AnyCommand) -> AnyCommand:
    return click.option(
        "--limit",
        type=click.IntRange(1, views.LIMIT_MAX),
        default=views.LIMIT_DEFAULT,
        show_default=True,
        help="How many, newest first.",
    )(command)


def stack_of(context: click.Context) -> Stack:
    """Return the stack that this call of a command means. On a host root goes on as the worker from here."""
    first = context.find_root()
    known = first.meta.get(STACK)
    if isinstance(known, Stack):
        return known
    root = first.obj
    stack = find_stack(root if isinstance(root, Path) else None, os.environ, working_directory=Path.cwd())
    if goes_on_as_worker(context.command_path.partition(" ")[2], stack, is_root=os.geteuid() == 0):
        # What only root may read was read, and is not read again.
        first.meta[STACK] = stack
        become(WORKER_USER)
    return stack


def goes_on_as_worker(command: str, stack: Stack, *, is_root: bool) -> bool:
    """Say whether a command needs no more than the worker may. Pure."""
    return is_root and stack.root == HOST_ROOT and command not in NEEDS_ROOT


def print_json(value: object) -> None:
    """Print a view as JSON."""
    click.echo(json.dumps(views.to_json(value), indent=2))


def _fields(view: object) -> dict[str, object]:
    value = views.to_json(view)
    assert isinstance(value, dict)
    return value


def _open(context: click.Context) -> tuple[Stack, Settings, Store, Topology]:
    stack = stack_of(context)
    store = stack.open_store()
    settings = stack.settings()
    context.call_on_close(store.close)
    return stack, settings, store, read_topology(settings.layout)


@click.group(cls=Doors, context_settings={"help_option_names": ["-h", "--help"]})
@_root_option
def main() -> None:
    """Deploys by merging, previews by opening a pull request, rolls back by reverting; on ordinary Linux hosts."""


# -- parts that run ---------------------------------------------------------------------------------------------------


@main.command()
@_root_option
@click.option("--port-base", type=click.IntRange(0, PORT_OFFSET_MAX), default=None, help="Shift every port by this.")
@click.option("--free-ports", is_flag=True, hidden=True, help="Take any free block of ports.")
@click.option("--repository", default=None, metavar="OWNER/NAME", help="Name of the repository at the built-in forge.")
@click.option(
    "--previews", type=click.IntRange(0, PREVIEWS_MAX), default=3, show_default=True, help="Number of preview slots."
)
@click.option("--resync", type=click.FloatRange(0.05, 86_400), default=None, hidden=True, help="Seconds.")
@click.pass_context
def up(
    context: click.Context,
    port_base: int | None,
    free_ports: bool,
    repository: str | None,
    previews: int,
    resync: float | None,
) -> int:
    """Run the whole system on this machine until Ctrl-C."""
    from controller.development.up import DEFAULT_REPOSITORY, Options, main_up
    from controller.model.config import RESYNC_DEFAULT_S
    from controller.model.names import REPOSITORY

    if repository is not None and not REPOSITORY.match(repository):
        raise click.UsageError(f"--repository {repository!r:.80} is not owner/name")
    log_to_stderr()
    given = context.find_root().obj
    root = given if isinstance(given, Path) else Path.cwd() / ".oroboros"

    def on_ready(running: Any) -> None:
        click.echo(f"ready: {running.stack_file['edge']}")
        for slot, url in running.stack_file["urls"].items():
            click.echo(f"  {slot:<10} {url}")
        click.echo(f"  push from  {running.stack_file['repository']}")
        click.echo("Ctrl-C ends everything.")

    options = Options(
        root=root,
        port_offset=port_base or 0,
        free_ports=free_ports,
        repository=repository or DEFAULT_REPOSITORY,
        previews=previews,
        resync_s=RESYNC_DEFAULT_S if resync is None else resync,
    )
    return main_up(options, say=click.echo, on_ready=on_ready)


@main.command()
@_root_option
@click.option("--exit", "leave", is_flag=True, help="End the stack at the end, instead of keeping it for you.")
@click.option("--port-base", type=click.IntRange(0, PORT_OFFSET_MAX), default=None, help="Shift every port by this.")
@click.pass_context
def demo(context: click.Context, leave: bool, port_base: int | None) -> int:
    """Play the three flows and the cruel parts on a real stack, and check them."""
    from controller.development.demo import main_demo

    given = context.find_root().obj
    root = given if isinstance(given, Path) else None
    return main_demo(root=root, leave=leave, port_base=port_base, console=tables.open_console())


@main.command()
@_root_option
@click.option("--port", type=click.IntRange(1, 65_535), default=None, help="Another port than the installed one.")
@click.option("--fd", type=click.IntRange(0), default=None, hidden=True, help="Serve on this socket, passed in.")
@click.pass_context
def api(context: click.Context, port: int | None, fd: int | None) -> int:
    """Run the receiver and the JSON API."""
    from controller.doors.api_server import build_app_without_repository, serve, serve_app
    from controller.doors.json_api import routes

    log_to_stderr(identifier="ouroboros-api")
    stack = stack_of(context)
    # systemd holds the port: an api that ended would be started at each connection, until systemd gives the port up.
    if fd is not None and not stack.environ.get("OROBOROS_REPOSITORY", "").strip():
        return serve_app(build_app_without_repository(), port=0, fd=fd)
    settings = stack.settings()
    hide_contents_of(secret_files(settings))
    if port is None:
        port = read_topology(settings.layout).ports.api
    return serve(settings, port=port, more=routes(settings), fd=fd)


@main.command()
@_root_option
@click.pass_context
def worker(context: click.Context) -> int:
    """Run the controller."""
    from controller.doors.worker import Worker

    log_to_stderr(identifier="ouroboros-worker")
    settings = stack_of(context).settings()
    hide_contents_of(secret_files(settings))
    return Worker(settings, open_runtime(settings)).run()


@main.command()
@click.option("--dry-run", is_flag=True, help="Say what would change; change nothing.")
@click.option("--only-slots", is_flag=True, help="Not the code: the slots' users, folders, roles and units.")
@click.option("--base-host", default=None, metavar="NAME", help="Below it lie app., preview1., api., worker.")
@click.option("--production-host", default=None, metavar="NAME", help="Production's own name.")
@click.option("--preview-host", default=None, metavar="NAME", help="Previews' names; {n} is the slot's number.")
@click.option("--previews", type=click.IntRange(0, PREVIEWS_MAX), default=None, help="Number of preview slots.")
@click.option("--backend-port", type=click.IntRange(1, 65_535), default=None, help="Production's stable port.")
@click.option(
    "--port",
    multiple=True,
    metavar="NAME=NUMBER",
    help=f"Another port than the host contract's: {', '.join(CONTRACT_PORTS)}.",
)
@click.option("--scheme", type=click.Choice(["http", "https"]), default=None, help="What visitors type.")
@click.option("--public-port", type=click.IntRange(0, 65_535), default=None, help="In visitors' URLs; 0: the scheme's.")
@click.option(
    "--control-plane",
    type=click.Choice(["installed", "current"]),
    default=None,
    help="current: this host deploys Oroboros itself.",
)
@click.option("--tls", type=click.Choice(["off", "auto", "files"]), default=None, help="Who holds certificates.")
@click.option("--backups", type=click.IntRange(0, BACKUPS_MAX), default=None, help="Daily backups kept; 0: none.")
@click.option(
    "--contract-database/--no-contract-database",
    default=None,
    help="The api enters Postgres as postgres:postgres, as the host contract writes it. Dangerous. Or no longer.",
)
@click.option(
    "--close-databases/--no-close-databases",
    default=None,
    help="Take CONNECT from PUBLIC in databases of others too. Or leave them as they are.",
)
@click.option(
    "--redis-shared/--no-redis-shared", default=None, help="Leave Redis alone: others use it too. Or no longer."
)
@click.option(
    "--unset", multiple=True, type=click.Choice(OPTION_NAMES), metavar="OPTION", help="Take back what OPTION said."
)
def install(
    *,
    dry_run: bool,
    only_slots: bool,
    redis_shared: bool | None,
    unset: tuple[str, ...],
    port: tuple[str, ...],
    **options: Any,
) -> int:
    """Make this host one that runs Oroboros, or bring it up to this checkout. As root; safe to repeat."""
    from controller.doors.cli_install import install as install_host

    ports, problems = parse_ports(port)
    if problems:
        raise click.UsageError("; ".join(problems))
    options.update((f"port_{name}", number) for name, number in ports.items())
    said = Options(**options)
    both = sorted(name for name in unset if name.replace("-", "_") in said.said())
    if both:
        raise click.UsageError(f"--{both[0]} is said and taken back by --unset {both[0]}: leave out one of them")
    return install_host(said, unset=unset, dry_run=dry_run, only_slots=only_slots, redis_shared=redis_shared)


@main.command()
@click.option("--dry-run", is_flag=True, help="Say what would change; change nothing.")
@click.option("--purge", is_flag=True, help="Data, databases, users and settings too: the host is as it was.")
@click.option("--yes", is_flag=True, help="With --purge: do not ask.")
def uninstall(*, dry_run: bool, purge: bool, yes: bool) -> int:
    """Remove what install made; data only with --purge."""
    from controller.doors.cli_install import uninstall as uninstall_host

    return uninstall_host(dry_run=dry_run, purge=purge, agreed=yes)


@main.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--with-secrets", is_flag=True, help="Secrets too: passwords, tokens, keys, apps' values.")
@click.option("--keep", type=click.IntRange(1, BACKUPS_MAX), default=None, help="Remove all but the newest.")
def backup(*, file: Path | None, with_secrets: bool, keep: int | None) -> int:
    """Write a backup of this host into one file. As root."""
    from controller.doors.cli_backup import backup as back_up

    return back_up(file, with_secrets=with_secrets, keep=keep)


@main.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--replace", is_flag=True, help="On a host in use too: all that it has is lost.")
def restore(*, file: Path, replace: bool) -> int:
    """Make this host be what a backup holds. As root, after scripts/install.sh."""
    from controller.doors.cli_backup import restore as restore_host

    return restore_host(file, replaces=replace)


@main.group()
def repo() -> None:
    """Say which repository this host is about."""


@repo.command("set")
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--forge-url", default=None, metavar="URL", help="Where the forge is; GitHub without it.")
@click.option("--branch", default=None, help="The production branch; the forge's default without it.")
@click.option("--token-stdin", is_flag=True, help="Read a token for the forge from standard input.")
def repo_set(repository: str, forge_url: str | None, branch: str | None, *, token_stdin: bool) -> int:
    """Register the repository, and start the control plane on it. As root."""
    from controller.doors.cli_install import set_repository

    return set_repository(repository, forge_url=forge_url, branch=branch, token_from_stdin=token_stdin)


@main.group()
def env() -> None:
    """Set an app's own values, slot by slot."""


@env.command("set")
@_root_option
@click.argument("slot")
@click.argument("key")
@click.pass_context
def env_set(context: click.Context, slot: str, key: str) -> int:
    """Set a value, read from standard input or asked for."""
    from controller.doors.cli_install import change_values

    return change_values(stack_of(context), slot, set_key=key)


@env.command("unset")
@_root_option
@click.argument("slot")
@click.argument("key")
@click.pass_context
def env_unset(context: click.Context, slot: str, key: str) -> int:
    """Take a value away."""
    from controller.doors.cli_install import change_values

    return change_values(stack_of(context), slot, unset_key=key)


@env.command("list")
@_root_option
@_json_option
@click.argument("slot")
@click.pass_context
def env_list(context: click.Context, slot: str, as_json: bool) -> None:
    """Show the names of the values that are set; never what they are."""
    from controller.doors.cli_install import list_values

    names = list_values(stack_of(context), slot)
    if as_json:
        print_json({"slot": slot, "names": names})
    else:
        click.echo("\n".join(names) if names else "no values are set")


@main.command()
@_root_option
@click.pass_context
def judge(context: click.Context) -> int:
    """Bring a new release of Oroboros itself up, as the worker ordered, or go back."""
    from controller.doors.judge import Judge

    log_to_stderr(identifier="ouroboros-judge")
    settings = stack_of(context).settings()
    topology = read_topology(settings.layout)
    return Judge(layout=settings.layout, topology=topology, runtime=open_runtime(settings)).run()


@main.command()
@_root_option
@_json_option
@click.argument("slot")
@click.option(
    "--caddy",
    type=click.Path(path_type=Path, dir_okay=False),
    default=HOST_CADDY,
    show_default=True,
    help="The Caddy to become.",
)
@click.pass_context
def surface(context: click.Context, as_json: bool, slot: str, caddy: Path) -> None:  # noqa: ARG001 - for errors
    """Run the surface of SLOT as its environment says: WEB_PORT, WEB_API_PROXY_TARGET, WEB_ROOT."""
    from controller.doors.surface import become_surface

    try:
        name = parse_slot(slot)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    stack = stack_of(context)
    run = stack.environ.get("OROBOROS_RUN", "").strip()
    layout = Layout(stack.root, Path(run) if run else None)
    become_surface(name, layout, os.environ, caddy=caddy)


# -- what is there ----------------------------------------------------------------------------------------------------


@main.command()
@_root_option
@_json_option
@click.pass_context
def status(context: click.Context, as_json: bool) -> int:
    """Show what is live, what runs, what failed and what waits."""
    from controller.doors.policies import read_freezes

    _, settings, store, topology = _open(context)
    try:
        with tables.progress("reading"):
            freezes = read_freezes(settings, store)
            view = views.read_status(store, settings.layout, topology, freezes=freezes, now=utc_now())
    except (psycopg.OperationalError, Unavailable) as error:
        return _show_disk(settings, topology, error, as_json=as_json)
    if as_json:
        print_json(view)
    else:
        tables.print_status(tables.open_console(), view, now=utc_now())
    return DONE


def _show_disk(
    settings: Settings,
    topology: Topology,
    error: psycopg.OperationalError | Unavailable,
    *,
    as_json: bool,
    previews_only: bool = False,
) -> int:
    """Show what the host alone tells of its slots, and that the database is away."""
    message = (str(error).strip().splitlines() or [type(error).__name__])[0]
    message = redact(
        f"the control plane's database does not answer ({message:.200}): what serves is read from the disk, and who"
        " ordered it, what runs and what waits is not known; `oroboros doctor` says more"
    )
    found = tuple(
        slot for slot in views.read_slots_on_disk(settings.layout, topology) if slot.slot != MAIN or not previews_only
    )
    if as_json:
        away = {"error": "DatabaseAway", "message": tables.plain(message), "exit_code": UNREACHABLE}
        print_json({"slots": found, **away})
        return UNREACHABLE
    tables.open_console().print(tables.slots_table(found, now=utc_now()))
    return _tell("DatabaseAway", message, UNREACHABLE, as_json=False)


@main.command()
@_root_option
@_json_option
@click.option("--check", is_flag=True, help="Compare lease, ports, host, unit and database with what it serves.")
@click.option("--previews", is_flag=True, help="Only the preview slots.")
@click.pass_context
def slots(context: click.Context, as_json: bool, check: bool, previews: bool) -> int:
    """Show every slot and what it serves."""
    _, settings, store, topology = _open(context)
    if check:
        return _check_slots(settings, store, topology, previews_only=previews, as_json=as_json)
    try:
        found = tuple(
            slot for slot in views.read_slots(store, settings.layout, topology) if slot.slot != MAIN or not previews
        )
    except (psycopg.OperationalError, Unavailable) as error:
        return _show_disk(settings, topology, error, as_json=as_json, previews_only=previews)
    if as_json:
        print_json({"slots": found})
    else:
        tables.open_console().print(tables.slots_table(found, now=utc_now()))
    return DONE


def _check_slots(settings: Settings, store: Store, topology: Topology, *, previews_only: bool, as_json: bool) -> int:
    from controller.doors.cli_slot_checks import check_slots, print_checks

    with tables.progress("comparing every slot"):
        checks = check_slots(settings, store, topology, previews_only=previews_only)
    ok = all(one.ok for one in checks)
    if as_json:
        print_json({"ok": ok, "slots": checks})
    else:
        print_checks(tables.open_console(), checks)
    return DONE if ok else FAILED


@main.command()
@_root_option
@click.option(
    "--history", "with_history", is_flag=True, help="Show what releases became, newest first, also removed ones."
)
@_limit_option
@_json_option
@click.pass_context
def releases(context: click.Context, with_history: bool, limit: int, as_json: bool) -> None:
    """Show the releases on this host, newest first."""
    _, settings, store, topology = _open(context)
    if with_history and not as_json:
        history = views.read_release_history(store, limit=limit)
        tables.open_console().print(tables.release_history_table(history, now=utc_now()))
        return
    found = views.read_releases(store, settings.layout, topology)
    if as_json:
        print_json({"releases": found, "history": views.read_release_history(store, limit=limit)})
    elif found:
        tables.open_console().print(tables.releases_table(found, now=utc_now()))
    else:
        click.echo("no releases yet")


@main.command()
@_root_option
@_json_option
@_limit_option
@click.pass_context
def deliveries(context: click.Context, as_json: bool, limit: int) -> None:
    """Show the newest deliveries of the forge, and what became of each."""
    _, _, store, _ = _open(context)
    found = views.read_deliveries(store, limit=limit)
    if as_json:
        print_json({"deliveries": found})
    elif found:
        tables.open_console().print(tables.deliveries_table(found, now=utc_now()))
    else:
        click.echo("no deliveries yet")


@main.command()
@_root_option
@_json_option
@click.pass_context
def plan(context: click.Context, as_json: bool) -> None:
    """Show what the next tick would do, and why; change nothing."""
    from controller.doors.cli_plan import print_plan, read_plan

    stack, settings, _, topology = _open(context)
    with tables.progress("observing"):
        found = read_plan(stack, settings, topology)
    if as_json:
        print_json(found)
    else:
        print_plan(tables.open_console(), found)


@main.group()
@_root_option
def explain() -> None:
    """Say which rule decided, and what it was decided from."""


@explain.command("pr")
@_root_option
@_json_option
@click.argument("number", type=PullNumber(1))
@click.pass_context
def explain_pr(context: click.Context, as_json: bool, number: int) -> None:
    """Say why a pull request has a preview, or none."""
    from controller.doors.cli_explain import print_explanation, read_explanation

    _, settings, store, topology = _open(context)
    with tables.progress("observing"):
        found = read_explanation(settings, store, topology, number)
    if as_json:
        print_json(found)
    else:
        print_explanation(tables.open_console(), found)


@main.command()
@_root_option
@_json_option
@click.argument("what", required=False, metavar="[SLOT|RUN]")
@click.option("--run", "run_id", type=click.IntRange(1), default=None, help="The run of this number.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what is written from now on.")
@click.option("--lines", "-n", type=click.IntRange(0, 100_000), default=100, show_default=True, help="Last lines.")
@click.pass_context
def logs(context: click.Context, as_json: bool, what: str | None, run_id: int | None, follow: bool, lines: int) -> None:
    """Show what a run's jobs and instances wrote; by default those of production."""
    from controller.doors.cli_logs import choose_run, is_run, show_logs

    _, settings, store, topology = _open(context)

    def choose() -> RunView:
        return choose_run(store, settings.layout, topology, what=what, run_id=run_id)

    show_logs(
        store,
        settings,
        choose(),
        lines=lines,
        follow=follow,
        as_json=as_json,
        next_run=None if is_run(what, run_id, topology) else choose,
    )


@main.command()
@_root_option
@_json_option
@click.argument("release", required=False)
@click.pass_context
def verify(context: click.Context, as_json: bool, release: str | None) -> int:
    """Compare a release with git, byte for byte; by default the one that production serves."""
    from controller.doors.cli_orders import find_release_on_disk
    from controller.doors.stacks import open_mirror
    from controller.effects.publish import verify_release

    settings = stack_of(context).settings()
    sha = find_release_on_disk(settings.layout, release)
    with tables.progress(f"verifying {sha[:7]}"):
        problems = verify_release(open_mirror(settings), settings.layout, sha)
    if as_json:
        print_json({"release": sha, "whole": not problems, "problems": problems})
    elif not problems:
        click.echo(f"{sha[:7]} is whole: every byte, mode and link is git's")
    else:
        for problem in problems:
            click.echo(tables.plain(f"{problem.path or '(top folder)'}: {problem.damage}: {problem.message}"))
        click.echo(f"{sha[:7]}: {len(problems)} problem{'s' if len(problems) > 1 else ''}", err=True)
    return FAILED if problems else DONE


@main.command()
@_root_option
@_json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> int:
    """Check everything that this host needs, and say how to mend what is wrong."""
    from controller.doors.doctor import Outcome, print_findings
    from controller.doors.doctor_host import examine

    findings = examine(stack_of(context))
    failed = [finding for finding in findings if finding.outcome is Outcome.FAILED]
    if as_json:
        print_json({"ok": not failed, "checks": findings})
    else:
        print_findings(tables.open_console(), findings)
    return FAILED if failed else DONE


@main.command()
@_root_option
@_json_option
@click.option(
    "--wait", "wait_s", type=click.FloatRange(0, 3600), default=0.0, metavar="SECONDS", help="Ask until all are well."
)
@click.pass_context
def health(context: click.Context, as_json: bool, wait_s: float) -> int:
    """Ask every endpoint of this host how it is: surfaces, backends, api, worker, Postgres, Redis."""
    from controller.doors.cli_health import print_health, read_health

    with tables.progress("asking every endpoint"):
        found = read_health(lambda: stack_of(context), wait_s=wait_s)
    ok = all(one.ok for one in found)
    if as_json:
        print_json({"ok": ok, "services": found})
    else:
        print_health(tables.open_console(), found)
    return DONE if ok else FAILED


@main.command()
@_json_option
def version(as_json: bool) -> None:
    """Show the version."""
    number = read_version()
    if as_json:
        print_json({"version": number, "python": sys.version.split()[0]})
    else:
        click.echo(f"oroboros {number}")


def read_version() -> str:
    """Return the version that is installed, or that this checkout says: a release of ourselves is not installed."""
    pyproject = CHECKOUT_ROOT / "pyproject.toml"
    if pyproject.exists():
        return str(tomllib.loads(pyproject.read_text())["project"]["version"])
    return importlib.metadata.version("oroboros")


@main.command()
@_root_option
@_json_option
@click.option("--preview-url", required=True, metavar="URL", help="Where the preview is: http(s)://host, with a port.")
@click.option("--changed-route", "changed", multiple=True, metavar="/PATH", help="A page to ask for; may be repeated.")
@click.option("--proxy-origin", default=None, metavar="URL", help="Connect there, with the preview's host name.")
@click.option("--run-id", type=click.IntRange(1), default=None, help="The run that is checked.")
@click.option("--persist-validation", "persist", is_flag=True, help="Keep the checks and the artifact with the run.")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), default=None, metavar="FILE", help="The artifact."
)
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0.1, 300), default=10.0, show_default=True, help="Seconds a page."
)
@click.pass_context
def smoke(
    context: click.Context,
    as_json: bool,
    preview_url: str,
    changed: tuple[str, ...],
    proxy_origin: str | None,
    run_id: int | None,
    persist: bool,
    output: Path | None,
    timeout_s: float,
) -> int:
    """Ask a preview for its pages, and judge what it answers."""
    from controller.decisions.smoke import ROUTES_MAX, parse_origin, parse_route
    from controller.doors.cli_smoke import SmokeOrder, default_folder, find_run, is_installed_code, print_smoke
    from controller.doors.cli_smoke import smoke as ask

    if persist and run_id is None:
        raise click.UsageError("--persist-validation needs --run-id: the checks are kept with a run")
    if len(changed) > ROUTES_MAX:
        raise click.UsageError(f"--changed-route: {len(changed)} pages, at most {ROUTES_MAX} are asked for")
    try:
        order = SmokeOrder(
            preview=parse_origin(preview_url),
            proxy=None if proxy_origin is None else parse_origin(proxy_origin),
            changed=tuple(map(parse_route, changed)),
            timeout_s=timeout_s,
            output=output,
            persist=persist,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    of = None
    if output is not None and is_installed_code(output):
        raise click.UsageError(f"--output {output}: that is the installed code; name a file elsewhere")
    if HOST_ROOT in (output or default_folder(Path.cwd()) / "_").absolute().parents:
        stack_of(context)
    if run_id is not None:
        _, settings, store, _ = _open(context)
        of = find_run(settings, store, run_id)
    found, path = ask(order, of)
    if as_json:
        print_json({"artifact": path, "report": found})
    else:
        print_smoke(tables.open_console(), found, path, kept=persist)
    return DONE if found.passed else FAILED if found.answered else UNREACHABLE


# -- orders -----------------------------------------------------------------------------------------------------------


@main.command()
@_root_option
@_json_option
@click.argument("commit")
@click.option("--reason", default="", help="Why: kept, and shown with the order.")
@click.option("--accept-migrations", is_flag=True, help="Also when its migrations are not the database's.")
@click.option("--override-hold", default="", metavar="REASON", help="Also when production is held: why, which is kept.")
@click.option("--require-healthy", is_flag=True, help="Only when every row of `oroboros health` is well.")
@click.option("--no-wait", is_flag=True, help="Give the order and return.")
@click.pass_context
def deploy(
    context: click.Context,
    as_json: bool,
    commit: str,
    reason: str,
    accept_migrations: bool,
    override_hold: str,
    require_healthy: bool,
    no_wait: bool,
) -> int:
    """Have production serve COMMIT, a commit of the production branch, until a later one is pushed."""
    from controller.doors.cli_orders import Order, order_deploy

    _, settings, store, topology = _open(context)
    order = Order(
        reason=reason,
        accept_migrations=accept_migrations,
        despite_hold=override_hold,
        require_healthy=require_healthy,
        wait=not no_wait,
        as_json=as_json,
    )
    return order_deploy(settings, store, topology, commit, order)


@main.command()
@_root_option
@_json_option
@click.argument("release", required=False)
@click.option("--reason", default="", help="Why: kept, and shown with the order.")
@click.option("--accept-migrations", is_flag=True, help="Also when its migrations are not the database's.")
@click.option("--override-hold", default="", metavar="REASON", help="Also when production is held: why, which is kept.")
@click.option("--require-healthy", is_flag=True, help="Only when every row of `oroboros health` is well.")
@click.option("--no-wait", is_flag=True, help="Give the order and return.")
@click.pass_context
def rollback(
    context: click.Context,
    as_json: bool,
    release: str | None,
    reason: str,
    accept_migrations: bool,
    override_hold: str,
    require_healthy: bool,
    no_wait: bool,
) -> int:
    """Have production go back to RELEASE, by default the one that served well before; what it leaves is quarantined."""
    from controller.doors.cli_orders import Order, order_rollback

    _, settings, store, topology = _open(context)
    order = Order(
        reason=reason,
        accept_migrations=accept_migrations,
        despite_hold=override_hold,
        require_healthy=require_healthy,
        wait=not no_wait,
        as_json=as_json,
    )
    return order_rollback(settings, store, topology, release, order)


@main.command()
@_root_option
@_json_option
@click.argument("slot", metavar="[SLOT]", default=MAIN)
@click.option("--reason", required=True, help="Why: kept, and shown at every commit that waits.")
@click.option("--until", default=None, metavar="WHEN", help="Its end, such as '2026-12-24 12:00'.")
@click.option("--for", "duration", default=None, metavar="DURATION", help="How long, such as 30m, 12h or 7d.")
@click.pass_context
def hold(context: click.Context, as_json: bool, slot: str, reason: str, until: str | None, duration: str | None) -> int:
    """Keep what SLOT serves, production's by default: what comes is built, and waits."""
    from controller.doors.cli_holds import parse_end, place_hold, print_hold

    if not reason.strip():
        raise click.UsageError("--reason is empty: everybody whose commit waits will read it")
    now = utc_now()
    try:
        ends_at = parse_end(until, duration, now=now)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    _, settings, store, topology = _open(context)
    view = place_hold(settings, store, _slot(topology, slot), until=ends_at, reason=reason, now=now)
    if as_json:
        print_json(view)
    else:
        print_hold(tables.open_console(), view)
    return DONE


@main.command()
@_root_option
@_json_option
@click.argument("slot", metavar="[SLOT]", default=MAIN)
@click.pass_context
def unhold(context: click.Context, as_json: bool, slot: str) -> int:
    """End every order to hold SLOT, production by default, whoever gave it."""
    from controller.doors.cli_holds import end_holds, print_unhold

    _, settings, store, topology = _open(context)
    view = end_holds(settings, store, _slot(topology, slot), now=utc_now())
    if as_json:
        print_json(view)
    else:
        print_unhold(tables.open_console(), view)
    return DONE


def _slot(topology: Topology, text: str) -> SlotName:
    """Return the slot of this host that `text` names."""
    try:
        name = parse_slot(text)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if name not in topology.slots:
        raise click.UsageError(f"{text!r:.40} is no slot of this host: {', '.join(topology.slots)}")
    return name


@main.command()
@_root_option
@_json_option
@click.option("--no-wait", is_flag=True, help="Give the order and return.")
@click.pass_context
def heal(context: click.Context, as_json: bool, no_wait: bool) -> int:
    """Put right what somebody else changed on the host and policy holds."""
    from controller.doors.cli_heal import order_heal, print_heal

    _, settings, store, topology = _open(context)
    with tables.progress("waiting for the worker"):
        view = order_heal(settings, store, topology, wait=not no_wait)
    if as_json:
        print_json(view)
    else:
        print_heal(tables.open_console(), view)
    return DONE if no_wait or not view.left else FAILED


# -- what a host's timers run --------------------------------------------------------------------------------------


@main.group()
@_root_option
def maintenance() -> None:
    """What a host's timers run: stale leases, the audit of resets, the daily summary."""


@maintenance.command("stale-leases")
@_root_option
@_json_option
@click.option("--dry-run", is_flag=True, help="Say what is stale; change nothing.")
@click.pass_context
def stale_leases(context: click.Context, as_json: bool, dry_run: bool) -> int:
    """Find leases and slots that nobody holds, by the forge's open pull requests and by the host; the worker acts."""
    from controller.doors.cli_stale_leases import find_stale, print_stale, summary_line

    log_to_stderr(identifier="ouroboros-maintenance")
    _, settings, store, topology = _open(context)
    with tables.progress("asking the forge and the host"):
        view = find_stale(settings, store, topology, dry_run=dry_run)
    code, reason, message = DONE, "", ""
    if not view.worker:
        code, reason = UNREACHABLE, "WorkerAway"
        message = f"no worker answers, so nothing is reclaimed: {summary_line(view)}; `oroboros doctor`"
    elif view.left and not dry_run:
        code, reason = FAILED, "NotReclaimed"
        message = f"not reclaimed in time: {summary_line(view)}; the worker's log says why"
    if as_json:
        print_json(view if not reason else {**_fields(view), "error": reason, "message": message, "exit_code": code})
    else:
        print_stale(tables.open_console(), view)
        if reason:
            _tell(reason, message, code, as_json=False)
    return code


@maintenance.command("reset-audit")
@_root_option
@_json_option
@click.option(
    "--lookback-hours",
    type=click.FloatRange(0.1, 24 * 366),
    default=24.0,
    show_default=True,
    help="Runs and leases of so many hours.",
)
@click.option(
    "--running-grace-minutes",
    type=click.FloatRange(1, 24 * 60),
    default=90.0,
    show_default=True,
    help="What takes longer has not ended.",
)
@click.pass_context
def reset_audit(context: click.Context, as_json: bool, lookback_hours: float, running_grace_minutes: float) -> int:
    """Compare slots, leases, databases, units and runs: what did a preview's reset leave behind?"""
    from controller.doors.cli_reset_audit import audit, print_audit

    _, settings, store, topology = _open(context)
    with tables.progress("comparing rows and host"):
        view = audit(
            settings,
            store,
            topology,
            lookback_hours=lookback_hours,
            running_grace_minutes=running_grace_minutes,
        )
    if as_json:
        print_json(view)
    else:
        print_audit(tables.open_console(), view)
    return DONE if view.ok else FAILED


@main.command()
@_root_option
@_json_option
@click.argument("verb", type=click.Choice(["start", "stop", "restart", "status"]), metavar="start|stop|restart|status")
@click.argument("slot", metavar="SLOT")
@click.option("--reason", default="", help="Why: kept, and shown with the order.")
@click.option("--yes-production", is_flag=True, help="Also when SLOT is main.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(1, 3600), default=120.0, show_default=True, help="Seconds to wait."
)
@click.pass_context
def backend(
    context: click.Context, as_json: bool, verb: str, slot: str, reason: str, yes_production: bool, timeout_s: float
) -> int:
    """Stop, start, restart or show what runs in SLOT. What is stopped stays so until it is started."""
    from controller.doors import cli_backend

    _, settings, store, topology = _open(context)
    name = _slot(topology, slot)
    of = cli_backend.Backend(settings=settings, store=store, topology=topology, slot=name)
    if verb != "status":
        cli_backend.check_may_order(name, yes_production=yes_production)
        with tables.Ticker(quiet=as_json) as ticker:
            match verb:
                case "stop":
                    cli_backend.stop_backend(of, reason=reason, timeout_s=timeout_s, ticker=ticker)
                case "start":
                    cli_backend.start_backend(of, timeout_s=timeout_s, ticker=ticker)
                case _:
                    cli_backend.restart_backend(of, reason=reason, timeout_s=timeout_s, ticker=ticker)
    view = cli_backend.read_backend(of)
    if as_json:
        print_json({"ok": view.ok, "backend": view})
    else:
        cli_backend.print_backend(tables.open_console(), view, now=utc_now())
    return DONE if view.ok else FAILED


@maintenance.command("daily-summary")
@_root_option
@_json_option
@click.option(
    "--output-dir",
    "folder",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the file of the day is written.",
)
@click.pass_context
def daily_summary(context: click.Context, as_json: bool, folder: Path) -> int:
    """Write what was of this day, and let go of rows and logs that retention lets go."""
    from controller.doors.cli_daily_summary import keep_summary, print_summary, summarize

    log_to_stderr(identifier="ouroboros-maintenance")
    stack, settings, store, topology = _open(context)
    with tables.progress("gathering the day"):
        summary = summarize(stack, settings, store, topology, now=utc_now())
        path = keep_summary(settings, store, summary, folder)
    if as_json:
        print_json(summary)
    else:
        print_summary(tables.open_console(), summary, path)
    return DONE if summary.record is not None else UNREACHABLE


# -- the forge --------------------------------------------------------------------------------------------------------


@main.group()
def github() -> None:
    """Create the GitHub App that Oroboros is, and see that all is well with it."""


@github.command("setup")
@_json_option
@click.option("--webhook-url", required=True, help="Public address of the receiver: https://HOST/webhooks/github.")
@click.option("--name", default=None, help="Name of the App; no two at a forge share one.")
@click.option("--organization", default=None, help="Organization that is to own it, instead of you.")
@click.option(
    "--forge-url", envvar="OROBOROS_FORGE_URL", default="https://github.com", help="Forge; GitHub without it."
)
@click.option("--repository", envvar="OROBOROS_REPOSITORY", default=None, metavar="OWNER/NAME", help="What it is for.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="OROBOROS_CONFIG_DIR",
    default=Path("/etc/oroboros"),
    show_default=True,
    help="Where key and webhook secret are written.",
)
@click.option("--port", type=click.IntRange(0, 65_535), default=0, help="Port of the page on loopback; any without it.")
@click.option("--code", default=None, help="The code in the browser's address bar, where the page is out of its reach.")
@click.option(
    "--wait", type=click.IntRange(0, 3600), default=900, show_default=True, help="Seconds for its installation."
)
def github_setup(
    as_json: bool,
    webhook_url: str,
    name: str | None,
    organization: str | None,
    forge_url: str,
    repository: str | None,
    folder: Path,
    port: int,
    code: str | None,
    wait: int,
) -> int:
    """Create the App, with your browser, write its key and webhook secret, and check it once it is installed."""
    from controller.decisions.github.app import is_code
    from controller.doors import cli_github
    from controller.doors.doctor import Outcome, print_findings
    from controller.model.names import REPOSITORY

    if not webhook_url.startswith(("https://", "http://127.0.0.1", "http://localhost")):
        raise click.UsageError(f"--webhook-url {webhook_url!r:.80} is not https://…")
    if repository is not None and not REPOSITORY.match(repository):
        raise click.UsageError(f"--repository {repository!r:.80} is not owner/name")
    if code is not None and not is_code(code):
        raise click.UsageError("--code is not a code of the forge's")
    wanted = cli_github.SetUp(
        forge_url=forge_url.rstrip("/"),
        webhook_url=webhook_url,
        name=name or cli_github.default_name(),
        homepage=forge_url if repository is None else f"{forge_url.rstrip('/')}/{repository}",
        repository=repository,
        organization=organization,
        folder=folder.absolute(),
        port=port,
        code=code,
        install_patience_s=wait,
    )
    created = cli_github.set_up(wanted, say=lambda text: click.echo(text, err=True))
    click.echo(tables.plain(cli_github.describe(created, is_awaited=repository is not None and wait > 0)), err=as_json)
    if repository is not None:
        with tables.progress(f"waiting until it is installed for {repository}"):
            created = cli_github.check_created(created, wanted, repository=repository)
    if as_json:
        print_json(created)
    elif created.checks is not None:
        print_findings(tables.open_console(), created.checks)
    wrong = any(finding.outcome is Outcome.FAILED for finding in created.checks or ())
    return FAILED if wrong else DONE


@github.command("check")
@_root_option
@_json_option
@click.option("--webhook-url", default=None, help="The address that the webhook should have.")
@click.pass_context
def github_check(context: click.Context, as_json: bool, webhook_url: str | None) -> int:
    """Check App, installation, permissions, events and webhook, and say how to mend what is wrong."""
    from controller.doors.cli_github import examine
    from controller.doors.doctor import Outcome, print_findings
    from controller.doors.forges import open_forges

    settings = stack_of(context).settings()
    with open_forges(settings, clock=utc_now) as forges, tables.progress("asking the forge"):
        findings = examine(forges, webhook_url=webhook_url)
    wrong = [finding for finding in findings if finding.outcome is Outcome.FAILED]
    if as_json:
        print_json({"ok": not wrong, "checks": findings})
    else:
        print_findings(tables.open_console(), findings)
    return FAILED if wrong else DONE


# -- a folder that is to be deployed ----------------------------------------------------------------------------------


@main.command()
@_json_option
@click.argument("folder", required=False, type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--force", is_flag=True, help="Overwrite a deploy.toml that is there.")
def init(as_json: bool, folder: Path | None, force: bool) -> None:
    """Write a commented deploy.toml for FOLDER, by default this one."""
    from controller.doors.cli_init import write_initial

    target, initial = write_initial(folder or Path.cwd(), force=force)
    if as_json:
        print_json({"written": target, "found": initial.found, "left_out": initial.left_out})
    else:
        click.echo(f"wrote {target}: {initial.found}")
        for sentence in initial.left_out:
            click.echo(f"  {sentence}")


if __name__ == "__main__":
    main()
