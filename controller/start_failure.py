"""Says why a program could not be started: what of its file is wrong, and what mends it. Standard library only.

Shared by the keeper of `oroboros up` and a host's launcher: execve(2) tells a number, and the same one for several
causes. The sentence is short, since a commit's status has room for little more.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Mapping, Sequence
from typing import NoReturn

#: The exit code of a unit whose program was never started.
EXIT_NOT_STARTED = 127
PREFIX = "cannot start "
#: The kernel reads this much of a script's first line (BINPRM_BUF_SIZE).
FIRST_LINE_BYTES = 256
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
SHOWN_CHARS_MAX = 60
#: Not with -S, which splits at a carriage return as at a space.
_ENV_LINE = re.compile(rb"#![ \t]*\S*/env[ \t]+[^-\s]\S*[ \t]*\r?\r\n?\Z")


def execute_program(words: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Become the program, in the working directory; end with a line on stderr when that cannot be."""
    try:
        if words and _asks_env_for_a_carriage_return(words[0], environment):
            # env(1) would be started, and would not find it; its last line speaks of options.
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        os.execvpe(words[0], list(words), environment)  # noqa: S606 - no shell is the point
    except (OSError, ValueError, IndexError) as error:
        os.write(2, explain_start_failure(words, error, environment).encode("utf-8", "replace"))
    os._exit(EXIT_NOT_STARTED)


def explain_start_failure(words: Sequence[str], error: Exception, environment: Mapping[str, str]) -> str:
    """Return one line for the log of the unit; the working directory is where the program would have run."""
    program = words[0] if words else ""
    return f"oroboros: {PREFIX}{_shown(program)}: {_cause(program, error, environment)}\n"


def _cause(program: str, error: Exception, environment: Mapping[str, str]) -> str:
    if not program:
        return "the command is empty"
    if not isinstance(error, OSError):
        return f"the command cannot be run: {error}"
    path = program if "/" in program else _found(program, environment.get("PATH", os.defpath))
    if path is None:
        return "no program of that name is in PATH"
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "a link that leads nowhere" if os.path.islink(path) else "there is no such file"
    except OSError as refused:
        return f"{refused.strerror}"
    if stat.S_ISDIR(mode):
        return "it is a folder"
    if not os.access(path, os.X_OK):
        return "no right to execute it; `git update-index --chmod=+x` gives it"
    return _of_first_line(_first_line(path), error)


def _of_first_line(line: bytes, error: OSError) -> str:
    """Return what the first line of a file that may be executed says about why it was not."""
    if line.startswith(BYTE_ORDER_MARK):
        return "it begins with a byte order mark, before its #!"
    if line.startswith(b"#!"):
        named = line[2:].strip(b" \t\n")
        if named.endswith(b"\r"):
            told = _shown(named.rstrip(b"\r").decode("utf-8", "replace"))
            return f"its first line #!{told} ends with \\r (CRLF line endings): save it with LF"
        interpreter = _shown(named.split(None, 1)[0].decode("utf-8", "replace")) if named else ""
        if error.errno == errno.ENOENT:
            return f"its first line names {interpreter or 'nothing'}, which is not there"
        return f"its first line names {interpreter or 'nothing'}: {error.strerror}"
    if error.errno == errno.ENOENT:
        return "its loader is not there: it was built for another system"
    if error.errno == errno.ENOEXEC:
        return "no program of this machine, and no script: its first line must begin with #!"
    return f"{error.strerror}"


def _found(program: str, search: str) -> str | None:
    """Return the first file of that name in the search path, one that may be executed before others."""
    every = [os.path.join(folder, program) for folder in search.split(os.pathsep) if folder]
    files = [path for path in every if os.path.isfile(path)]
    return next((path for path in files if os.access(path, os.X_OK)), files[0] if files else None)


def _asks_env_for_a_carriage_return(program: str, environment: Mapping[str, str]) -> bool:
    path = program if "/" in program else _found(program, environment.get("PATH", os.defpath))
    return path is not None and _ENV_LINE.match(_first_line(path)) is not None


def _first_line(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.readline(FIRST_LINE_BYTES)
    except OSError:
        return b""


def _shown(text: str) -> str:
    plain = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return plain if len(plain) <= SHOWN_CHARS_MAX else f"{plain[: SHOWN_CHARS_MAX - 1]}…"
