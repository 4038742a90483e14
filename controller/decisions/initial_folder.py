"""Hold what `oroboros init` knows of a folder, and what it proposes for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.model.errors import Refused

#: What a shell would do something with, beyond words, quotes and plain variables.
_NEEDS_SHELL = re.compile(r"[|&;<>()`*?~#\n]|\$(?![A-Za-z_]|\{[A-Za-z_][A-Za-z0-9_]*\})|^\s*[A-Za-z_][A-Za-z0-9_]*=")
BY_HAND = (
    "Write deploy.toml at the repository's root by hand: [web] static names a folder of files, [api] command starts a"
    " program that listens on ${HOST} and ${PORT}, and [build] command runs before either, such as \"sh -c 'cd frontend"
    " && npm ci && npm run build'\". Every key is in docs/deploy-toml.md"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """The names in a folder, relative and with `/` between parts, and the contents of a few of them."""

    files: frozenset[str]
    contents: Mapping[str, str]

    def has(self, *names: str) -> bool:
        return any(name in self.files for name in names)

    def read(self, name: str) -> str:
        return self.contents.get(name, "") if name in self.files else ""

    def has_folder(self, name: str) -> bool:
        return any(file.startswith(f"{name}/") for file in self.files)

    def requires(self, package: str) -> bool:
        """Say whether the folder's Python requirements name `package`; a guess by word."""
        told = self.read("requirements.txt") + self.read("pyproject.toml")
        return re.search(rf"(?<![\w.-]){re.escape(package)}(?![\w-])", told, re.IGNORECASE) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """How a folder might be deployed."""

    found: str
    build: str | None = None
    static: str | None = None
    fallback: str | None = None
    api: str | None = None
    migrate: str | None = None
    migrations: str | None = None
    #: Sentences for the reader of the file: what was taken for granted.
    notes: tuple[str, ...] = field(default=())
    #: Sentences that the terminal shows too: what of the folder is left out.
    left_out: tuple[str, ...] = field(default=())


def not_known(found: str, why: str) -> Refused:
    """Return the refusal of a folder in which this was found. `why` is a clause."""
    return Refused("FolderUnknown", f"found {found}: {why}. Nothing was written. {BY_HAND}")


def command(line: str) -> str:
    """Return a command for `line`, which a shell would run: a command of a recipe never meets one unless it says so."""
    if not _NEEDS_SHELL.search(line):
        return line
    # Only a single command may be replaced by what it starts; a list of commands needs its shell to the end.
    return f"sh -c {quote_word(f'exec {line}' if is_one_command(line) else line)}"


def is_one_command(line: str) -> bool:
    """Say whether a shell would run just one program for `line`."""
    return re.search(r"[|&;\n]", line) is None and re.match(r"\s*(?:cd|exec|[A-Za-z_]\w*=)", line) is None


def quote_word(word: str) -> str:
    """Return `word` as a shell reads it back."""
    return "'" + word.replace("'", "'\"'\"'") + "'"
