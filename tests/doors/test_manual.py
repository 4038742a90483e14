"""Does a shell know every command, from the man page and from completion?"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from controller.decisions.installation import COMPLETIONS
from controller.doors import cli
from controller.doors.manual import completion, man_page

CHECKOUT = Path(__file__).resolve().parents[2]
MACROS = (".TH ", ".SH ", ".SS ", ".TP", ".sp")


@pytest.fixture(scope="module")
def page() -> str:
    return man_page(cli.main, version="1.2-3")


def section_of(page: str, name: str) -> str:
    """Return what the page has below the heading of one command."""
    found = re.search(
        rf"^\.SS oroboros {re.escape(name)}(?: [^\n]*)?\n(.*?)(?=^\.S[SH] )", page, re.MULTILINE | re.DOTALL
    )
    assert found is not None, name
    return found[1]


@pytest.mark.parametrize(
    ("name", "command"), [pytest.param(name, command, id=name) for name, command in cli.every_command()]
)
def test_the_page_has_every_command_with_each_option_that_help_shows(
    name: str, command: click.Command, page: str
) -> None:
    if command.hidden:
        assert f"oroboros {name} " not in page
        return
    section = section_of(page.replace(r"\-", "-"), name)
    for option in command.params:
        if isinstance(option, click.Option) and option.name not in (None, "help") and option.expose_value:
            assert (option.opts[0] in section) is not option.hidden, option.opts


def test_a_line_that_looks_like_a_request_or_an_escape_is_printed_as_it_is() -> None:
    group = click.Group("main", help=".so /etc/passwd\n\n'tis \\n(yr - so")
    lines = man_page(group, version="1").splitlines()
    assert r"\&.so /etc/passwd" in lines
    assert r"\&'tis \en(yr \- so" in lines


def test_every_request_of_the_page_is_a_macro_of_man_7(page: str) -> None:
    requests = [line for line in page.splitlines() if line.startswith((".", "'"))]
    assert len(requests) > 100
    assert [line for line in requests if not line.startswith(MACROS)] == []


def completed(script: Path, *words: str) -> list[str]:
    """Return what bash offers after these words, the last of them unfinished."""
    asking = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _oroboros_completion oroboros;'
        ' printf "%s\\n" "${COMPREPLY[@]}"'
    )
    folder = script.parent / "bin"
    folder.mkdir(exist_ok=True)
    program = folder / "oroboros"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m controller.doors.cli "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", "--norc", "-c", asking, "bash", str(script), "oroboros", *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "PATH": f"{folder}:{os.environ['PATH']}"},
    )
    return done.stdout.split()


def test_bash_completes_commands_options_and_choices(tmp_path: Path) -> None:
    script = tmp_path / "oroboros"
    script.write_text(completion(cli.main, "bash"))
    assert completed(script, "ro") == ["rollback"]
    assert set(completed(script, "maintenance", "")) == {"daily-summary", "reset-audit", "stale-leases"}
    assert completed(script, "install", "--ba") == ["--base-host", "--backend-port", "--backups"]
    assert completed(script, "install", "--tls", "a") == ["auto"]


@pytest.mark.parametrize("shell", COMPLETIONS)
def test_each_shells_script_asks_the_command(shell: str) -> None:
    assert f"_OROBOROS_COMPLETE={shell}_complete" in completion(cli.main, shell)
