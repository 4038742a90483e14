"""Render what a shell knows of the command line: the man page, and completion for bash, zsh and fish.

Both come from the click tree, so they change with the commands. The page uses the macros of man(7); completion is
click's own script, which asks `oroboros` for the words that may follow (click, "Shell Completion").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import click
from click.shell_completion import get_completion_class

from controller.decisions.installation import COMPLETIONS, MAN_PAGE
from controller.model.host_files import HostFile

EXIT_STATUS = (
    ("0", "Done."),
    ("1", "Tried, and failed."),
    ("2", "Usage or configuration."),
    ("3", "Refused by policy."),
    ("4", "A part cannot be reached."),
    ("130", "Interrupted."),
)
ENVIRONMENT = (("OROBOROS_ROOT", "Root folder of the stack, unless --root names it."),)
FILES = (
    ("/etc/oroboros", "Configuration and secrets."),
    ("/srv/oroboros", "Releases, slots and artifacts."),
    ("/opt/oroboros", "The installed code, its Python environments, and Caddy."),
)


def shell_files() -> tuple[HostFile, ...]:
    """Return the man page and the completion scripts as an installation writes them."""
    from controller.doors.cli import main, read_version

    page = HostFile(path=MAN_PAGE, text=man_page(main, version=read_version()))
    return page, *(HostFile(path=path, text=completion(main, shell)) for shell, path in COMPLETIONS.items())


def completion(group: click.Group, shell: str) -> str:
    """Return the script that has a shell complete the words of `oroboros`."""
    found = get_completion_class(shell)
    assert found is not None, shell
    script = found(group, {}, "oroboros", "_OROBOROS_COMPLETE")
    # Not `source()`: for bash that looks at this machine's bash, and the script is for the host's.
    return str(script.source_template % script.source_vars())


def man_page(group: click.Group, *, version: str) -> str:
    """Return oroboros(1) in the macros of man(7): every command that `--help` shows, with its options."""
    top = click.Context(group, info_name="oroboros", **group.context_settings)
    common = tuple(_options(group, top))
    lines = [
        f'.TH OROBOROS 1 "" "oroboros {_escaped(version)}" "User Commands"',
        ".SH NAME",
        r"oroboros \- GitOps controller for ordinary Linux hosts",
        ".SH SYNOPSIS",
        r"\fBoroboros\fR [\fIOPTIONS\fR] \fICOMMAND\fR [\fIARGS\fR]...",
        ".SH DESCRIPTION",
        *_prose(group.help or ""),
        ".SH OPTIONS",
        "These may also follow the name of a command.",
        *_records(common),
        ".SH COMMANDS",
    ]
    for context in _commands(top):
        command = context.command
        words = " ".join(piece for piece in (context.command_path, *command.collect_usage_pieces(context)) if piece)
        lines += [
            f".SS {_escaped(words)}",
            *_prose(command.help or ""),
            *_records(record for record in _options(command, context) if record not in common),
        ]
    for title, records in (("EXIT STATUS", EXIT_STATUS), ("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)):
        lines += [f".SH {title}", *_records(records)]
    return "\n".join(lines) + "\n"


def _commands(above: click.Context) -> Iterator[click.Context]:
    group = above.command
    assert isinstance(group, click.Group)
    for name in group.list_commands(above):
        command = group.commands[name]
        if command.hidden:
            continue
        context = click.Context(command, info_name=name, parent=above, **command.context_settings)
        if isinstance(command, click.Group):
            yield from _commands(context)
        else:
            yield context


def _options(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    records = (parameter.get_help_record(context) for parameter in command.get_params(context))
    # An argument has no text of its own; the synopsis names it.
    return (record for record in records if record is not None and record[1])


def _records(records: Iterable[tuple[str, str]]) -> Iterator[str]:
    for name, text in records:
        yield ".TP"
        yield rf"\fB{_escaped(name)}\fR"
        yield from _prose(text)


def _prose(text: str) -> Iterator[str]:
    """Yield a docstring as paragraphs, each a line; click's marks are not for readers."""
    paragraphs = re.split(r"\n\s*\n", text.replace("\b", "").partition("\f")[0].strip())
    for number, paragraph in enumerate(paragraphs):
        if number:
            yield ".sp"
        yield _escaped(" ".join(paragraph.split()))


def _escaped(text: str) -> str:
    """Return text that roff(7) prints as it is: no escape, no request, and hyphens that can be copied."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{text}" if text.startswith((".", "'")) else text
