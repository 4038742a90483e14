"""Back a host up into one file, and restore it on another: root's commands `backup` and `restore`.

A backup holds what cannot be had again: the control plane's tables, production's database, data, releases, builds and
git mirror, and the configuration. Previews are not in it: the worker makes them anew from their pull requests.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click

from controller.decisions.backup import (
    APP_DUMP,
    CONFIG,
    CONTROL_DUMP,
    FILES,
    MANIFEST,
    MANIFEST_BYTES_MAX,
    ROOM_FACTOR,
    Manifest,
    Target,
    choose_configuration,
    expired,
    parse_manifest,
    render_manifest,
    restore_problems,
)
from controller.decisions.host_environment import CONTROL_DATABASE, WORKER_ROLE
from controller.decisions.host_units import BACKUPS
from controller.disk import remove_tree
from controller.doors.cli_install import REPOSITORY_FILE, install, require_root
from controller.doors.stacks import find_stack, open_databases
from controller.effects.backup import (
    bundle,
    dump_database,
    measure_all,
    pack,
    restore_database,
    unbundle,
    unpack,
)
from controller.effects.host import (
    ask_postgres,
    observe_versions,
    read_host_name,
    remove,
    run,
    run_sql,
    write_file,
)
from controller.effects.live import read_live
from controller.effects.powers import ask_as
from controller.effects.stack_files import topology_file
from controller.effects.store import SQL_FOLDER
from controller.model.command import parse_environment
from controller.model.errors import ConfigInvalid, Refused, Unavailable
from controller.model.host_files import HostFile
from controller.model.names import (
    HOST_CONFIG,
    HOST_LAYOUT,
    HOST_ROOT,
    MAIN,
    PREVIEWS_MAX,
    PRODUCTION,
    WORKER_USER,
    database_name,
    preview_slot,
    slot_user,
)
from controller.model.options import Options

#: How often production may be switched while a backup is made, before it is given up.
ATTEMPTS_MAX = 3
STAGING = ".oroboros-backup-"
DATABASE_WITHIN_S = 60.0
#: Not /tmp: that is often memory.
UNFOLDED_IN = Path("/var/tmp")  # noqa: S108 - in a folder of our own
#: Nothing of these is in a backup: who has them could enter, or they are of a process that runs.
NOT_FILES = tuple(f"slots/{MAIN}/{name}" for name in ("database", "lock"))


def backup(file: Path | None, *, with_secrets: bool, keep: int | None) -> int:
    """Write a backup of this host, whole or not at all; return the exit code."""
    require_root("backup")
    now = datetime.now(UTC)
    if file is None:
        if keep is None:
            raise click.UsageError(f"name a FILE, or say how many to --keep in {BACKUPS}")
        BACKUPS.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in BACKUPS.glob(f"{STAGING}*"):
            remove_tree(os.fsencode(left))
        file = BACKUPS / f"oroboros-{now:%Y%m%dT%H%M%SZ}.tar"
    file = file.absolute()
    with _staging(file.parent) as folder:
        manifest = _gather(folder, now, with_secrets=with_secrets)
        whole = folder / "whole.tar"
        bundle(folder, [MANIFEST, *manifest.parts], whole)
        whole.chmod(0o600)
        os.replace(whole, file)
    click.echo(f"{file}: {_size(file.stat().st_size)}, of production's release {manifest.release[:12] or '(none)'}")
    click.echo("previews are not in it: the worker makes them anew from their pull requests")
    if with_secrets:
        click.echo("it holds secrets: who can read it can act as this host")
    elif manifest.left_out:
        click.echo(f"without secrets (--with-secrets takes them): {', '.join(manifest.left_out)}")
    if keep is not None:
        for name in expired((path.name for path in file.parent.glob("oroboros-*.tar")), keep=keep):
            (file.parent / name).unlink()
            click.echo(f"removed {name}: the newest {keep} are kept")
    return 0


def _gather(folder: Path, now: datetime, *, with_secrets: bool) -> Manifest:
    """Write every part into a folder, and the manifest. Rows first: what they tell of is then among the files."""
    if not REPOSITORY_FILE.exists():
        raise Refused("NothingToKeep", "this host was told no repository yet: there is nothing to back up")
    names, closed = choose_configuration(
        (path.name for path in HOST_CONFIG.iterdir() if path.is_file()), with_secrets=with_secrets
    )
    has_app = bool(_databases([database_name(MAIN)]))
    for _ in range(ATTEMPTS_MAX):
        before = _live_version()
        parts = [CONTROL_DUMP, *([APP_DUMP] if has_app else []), FILES, CONFIG]
        for number, name in enumerate(parts, start=1):
            click.echo(f"[{number}/{len(parts)}] {_WHAT[name]}", nl=False)
            (folder / name).unlink(missing_ok=True)
            _write_part(name, folder / name, configuration=names)
            click.echo(f": {_size((folder / name).stat().st_size)}")
        if _live_version() == before:
            break
        click.echo("production was switched meanwhile: once more")
    else:
        raise Unavailable(
            "BackupOvertaken", f"production was switched during each of {ATTEMPTS_MAX} attempts: try again"
        )
    live = read_live(HOST_LAYOUT, MAIN)
    manifest = Manifest(
        version=_version(),
        made_at=f"{now:%Y-%m-%dT%H:%M:%SZ}",
        host=read_host_name(),
        repository=parse_environment(REPOSITORY_FILE.read_text(errors="replace")).get("OROBOROS_REPOSITORY", ""),
        postgres=_postgres(),
        migrations=_migrations(),
        release=str(live.release or "") if live is not None else "",
        with_secrets=with_secrets,
        left_out=tuple(told for name in closed if (told := _told_of(HOST_CONFIG / name))),
        parts=measure_all(folder, parts),
    )
    (folder / MANIFEST).write_text(render_manifest(manifest))
    return manifest


_WHAT = {
    CONTROL_DUMP: f"database {CONTROL_DATABASE}",
    APP_DUMP: f"database {database_name(MAIN)}",
    FILES: f"mirror, releases, builds and data of production in {HOST_ROOT}",
    CONFIG: f"configuration in {HOST_CONFIG}",
}


def _write_part(name: str, to: Path, *, configuration: tuple[str, ...]) -> None:
    if name == CONTROL_DUMP:
        dump_database(CONTROL_DATABASE, user=WORKER_USER, role=WORKER_ROLE, to=to)
    elif name == APP_DUMP:
        dump_database(database_name(MAIN), user=slot_user(MAIN), role=database_name(MAIN), to=to)
    elif name == FILES:
        folders = (HOST_LAYOUT.mirror, HOST_LAYOUT.releases, HOST_LAYOUT.builds / PRODUCTION, HOST_LAYOUT.slot(MAIN))
        names = [str(path.relative_to(HOST_ROOT)) for path in (*folders, HOST_LAYOUT.current)]
        pack(HOST_ROOT, names, to, without=NOT_FILES)
    else:
        pack(HOST_CONFIG, configuration, to)


def _live_version() -> str:
    """Return which folder production's live link names: a switch changes it."""
    link = HOST_LAYOUT.live(MAIN)
    return os.readlink(link) if link.is_symlink() else ""


def _told_of(path: Path) -> str:
    """Return the name of a file that a backup leaves out, with the names of the values in it; "" for an empty one."""
    text = path.read_text(errors="replace")
    if not text.strip():
        return ""
    return f"{path.name} ({', '.join(sorted(parse_environment(text)))})" if path.name.startswith("app-") else path.name


def restore(file: Path, *, replaces: bool) -> int:
    """Make this host be what a backup holds; return the exit code. If anything speaks against it, nothing changes."""
    require_root("restore")
    if not file.is_file():
        raise Refused("RestoreRefused", f"{file} is no file")
    free = shutil.disk_usage(UNFOLDED_IN).free
    if free < ROOM_FACTOR * file.stat().st_size:
        raise Refused(
            "RestoreRefused", f"{UNFOLDED_IN} has {_size(free)} free: {ROOM_FACTOR} times the backup's size is needed"
        )
    with _staging(UNFOLDED_IN) as folder:
        manifest = _read(file, folder, replaces=replaces)
        click.echo(f"{manifest.repository} of {manifest.host}, at {manifest.made_at}, version {manifest.version}")
        _replace_host(folder, manifest)
    click.echo("previews come back as the worker makes them anew from their pull requests")
    code = install(Options(), dry_run=False, only_slots=False, redis_shared=None)
    if manifest.left_out:
        click.echo(f"the backup holds no secrets; the host that it is of had: {', '.join(manifest.left_out)}")
        click.echo("give them anew: oroboros repo set OWNER/NAME --token-stdin, oroboros env set, and at the webhook")
    return code


def _read(file: Path, folder: Path, *, replaces: bool) -> Manifest:
    """Unfold a backup and judge it; refused, with every problem, when it may not be restored here."""
    unbundle(file, [MANIFEST], folder)
    try:
        with (folder / MANIFEST).open(errors="replace") as text:
            manifest = parse_manifest(text.read(MANIFEST_BYTES_MAX))
    except OSError as error:
        raise ConfigInvalid("BackupDamaged", f"{file} is no backup of Oroboros, or damaged") from error
    unbundle(file, tuple(manifest.parts), folder)
    target = Target(
        is_installed=topology_file(HOST_LAYOUT).exists(),
        is_used=REPOSITORY_FILE.exists(),
        postgres=_postgres(),
        migrations=frozenset(_migrations()),
    )
    problems = restore_problems(manifest, measure_all(folder, manifest.parts), target, replaces=replaces)
    if problems:
        raise Refused("RestoreRefused", "; ".join(problems))
    return manifest


def _replace_host(folder: Path, manifest: Manifest) -> None:
    """Put what a backup holds in place of what is here. Safe to repeat, with --replace, when it was cut short."""
    click.echo("[1/5] stop what runs, but for the proxies")
    for units in (("ouroboros-judge.service", "ouroboros-worker.service"), _STOPPED):
        run(("systemctl", "--quiet", "stop", *units))
    click.echo(f"[2/5] database {CONTROL_DATABASE}")
    names = [database_name(preview_slot(number)) for number in range(1, PREVIEWS_MAX + 1)]
    run_sql(tuple(f"DROP DATABASE {name} WITH (FORCE)" for name in _databases([CONTROL_DATABASE, *names])))
    run_sql((f"CREATE DATABASE {CONTROL_DATABASE} OWNER {WORKER_ROLE} TEMPLATE template0",))
    restore_database(CONTROL_DATABASE, user=WORKER_USER, role=WORKER_ROLE, dump=folder / CONTROL_DUMP)
    click.echo(f"[3/5] files in {HOST_ROOT}")
    for path in HOST_ROOT.iterdir():
        remove(path)
    unpack(folder / FILES, HOST_ROOT)
    click.echo(f"[4/5] configuration in {HOST_CONFIG}")
    unpack(folder / CONFIG, HOST_CONFIG)
    _take_name(manifest.host)
    name = database_name(MAIN)
    click.echo(f"[5/5] database {name}" if APP_DUMP in manifest.parts else "[5/5] production has no database")
    run_sql(tuple(f"DROP DATABASE {there} WITH (FORCE)" for there in _databases([name])))
    if APP_DUMP in manifest.parts:
        run_sql(
            (
                f"CREATE DATABASE {name} OWNER {name} TEMPLATE template0",
                f"REVOKE CONNECT, TEMPORARY ON DATABASE {name} FROM PUBLIC",
            )
        )
        restore_database(name, user=slot_user(MAIN), role=name, dump=folder / APP_DUMP)
        settings = find_stack(None, {}, working_directory=Path("/")).settings()

        def draw_password() -> bytes:
            databases = open_databases(settings)
            assert databases is not None
            databases.ensure(MAIN, fence=0)
            return b""

        ask_as(WORKER_USER, draw_password, bytes_max=0, timeout_s=DATABASE_WITHIN_S)


#: All that reads or writes what is replaced; the surfaces show in the meantime that nothing serves.
_STOPPED = (
    "ouroboros-api.socket",
    "ouroboros-api.service",
    *(f"ouroboros-{kind}@*" for kind in ("instance", "build", "migrate", "wipe", "forward")),
    "ouroboros-maintenance-*",
)


def _take_name(host: str) -> None:
    """Have this machine be known by a name to the control plane's tables, whose rows hold it."""
    path = HOST_CONFIG / "worker.env"
    lines = path.read_text(errors="surrogateescape").splitlines()
    others = [line for line in lines if "OROBOROS_HOST" not in parse_environment(line)]
    text = "".join(f"{line}\n" for line in (*others, f"OROBOROS_HOST={host}"))
    write_file(HostFile(path=path, text=text, mode=0o600))


def _databases(names: Iterable[str]) -> list[str]:
    """Return which databases of ours there are."""
    wanted = ", ".join(f"'{name}'" for name in names)
    return ask_postgres(f"SELECT datname FROM pg_database WHERE datname IN ({wanted})")  # noqa: S608 - names of ours


def _postgres() -> int:
    return observe_versions().get("postgresql", (0,))[0]


def _version() -> str:
    from controller.doors.cli import read_version

    return read_version()


def _migrations() -> tuple[str, ...]:
    return tuple(sorted(path.name for path in SQL_FOLDER.glob("[0-9]*.sql")))


@contextmanager
def _staging(above: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=STAGING, dir=above))
    try:
        yield folder
    finally:
        remove_tree(os.fsencode(folder))


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"
