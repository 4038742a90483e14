"""Write the deploy.toml of a folder that has none: look at the folder, and write the file by one rename.

Names and contents are only read; links are not followed. An existing deploy.toml is left alone unless forced, and is
never seen half written. A folder inside a repository is refused: deploy.toml is read at the repository's root.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from controller.decisions.initial import (
    CONTENT_BYTES_MAX,
    CONTENTS_WANTED,
    DEPTH_MAX,
    FOLDERS_SKIPPED,
    Initial,
    initial_deploy_toml,
)
from controller.model.errors import Failed, Refused

DEPLOY_TOML = "deploy.toml"
FILES_MAX = 20_000


def write_initial(folder: Path, *, force: bool) -> tuple[Path, Initial]:
    """Write a deploy.toml for a folder; return its path and what the folder was taken for. Refused, and nothing is
    written, when that is not known or nobody would read the file."""
    target = folder / DEPLOY_TOML
    above = _repository_above(folder.resolve())
    if above is not None:
        raise Refused(
            "NotRepositoryRoot",
            f"{folder} is inside the repository {above}, and deploy.toml is read at its root only: run `oroboros init`"
            f" in {above}; if {folder} is to be a repository of its own, run `git init` in it first",
        )
    if not force and os.path.lexists(target):
        raise Refused("AlreadyThere", f"{target} is there already; --force overwrites it")
    initial = initial_deploy_toml(list_files(folder), read_contents(folder))
    temporary = folder / f".{DEPLOY_TOML}.{secrets.token_hex(4)}"
    try:
        temporary.write_text(initial.text, encoding="utf-8")
        if force:
            os.replace(temporary, target)
        else:
            os.link(temporary, target)  # unlike a rename, it never replaces what came meanwhile
    except FileExistsError as error:
        raise Refused("AlreadyThere", f"{target} is there already; --force overwrites it") from error
    except OSError as error:
        raise Failed("NotWritten", f"{target} could not be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return target, initial


def _repository_above(folder: Path) -> Path | None:
    """Return the repository that a folder lies in; None for its root, and outside of any."""
    if os.path.lexists(folder / ".git"):
        return None
    return next((above for above in folder.parents if os.path.lexists(above / ".git")), None)


def list_files(folder: Path) -> list[str]:
    """Return the files of a folder, relative, as deep as is of interest. A folder below that ends in `/`."""
    found: list[str] = []
    for at, folders, files in os.walk(folder):
        inside = Path(at).relative_to(folder)
        depth = len(inside.parts)
        folders[:] = sorted(f for f in folders if f not in FOLDERS_SKIPPED)
        found += [(inside / name).as_posix() for name in sorted(files)]
        if depth == DEPTH_MAX - 1:
            found += [f"{(inside / name).as_posix()}/" for name in folders]
            folders.clear()
        if len(found) >= FILES_MAX:
            break
    return found[:FILES_MAX]


def read_contents(folder: Path) -> dict[str, str]:
    """Return the contents that are of interest, as far as they can be read."""
    contents: dict[str, str] = {}
    for name in CONTENTS_WANTED:
        path = folder / name
        with contextlib.suppress(OSError):
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    contents[name] = _text(file.read(CONTENT_BYTES_MAX))
    return contents


def _text(body: bytes) -> str:
    """Return what a file says. `pip freeze > requirements.txt` in PowerShell writes UTF-16, which pip reads."""
    is_utf_16 = body.startswith((b"\xff\xfe", b"\xfe\xff"))
    return body.decode("utf-16" if is_utf_16 else "utf-8-sig", "replace")
