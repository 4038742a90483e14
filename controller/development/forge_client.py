"""How does a developer get a working clone of the development forge's repository, without ever typing a token?

The clone carries its own settings: an author, pushes that need no words, and a credential helper that reads the token
from its file at each use. So the token is in no URL, no argv and no configuration file.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from controller.model.errors import Unavailable

AUTHOR_NAME: Final = "Ada Author"
AUTHOR_EMAIL: Final = "ada@example.com"
CLONE_TIMEOUT_S: Final = 60.0

#: `read` and `printf` are the shell's own, so that no argv holds the token.
_CREDENTIAL_HELPER: Final = (
    '!f() {{ test "$1" = get || exit 0; IFS= read -r t < {file} || test -n "$t" || exit 1;'
    ' printf "username=x-access-token\\npassword=%s\\n" "$t"; }}; f'
)


def clone_for_author(forge_url: str, repository: str, token_file: Path, destination: Path) -> None:
    """Clone `repository` to `destination`, ready to commit and push; an empty one gives the unborn branch main.

    Safe to repeat: a clone that was cut short is removed, and begun again.
    """
    url = f"{forge_url.rstrip('/')}/{repository}.git"
    settings = _settings(forge_url, token_file.absolute())
    partial = destination.with_name(f".{destination.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    words = [word for key, value in settings for word in ("--config", f"{key}={value}")]
    _git("clone", "--quiet", *words, "--", url, str(partial))
    head = partial / ".git" / "HEAD"
    if _git("-C", str(partial), "for-each-ref", "--count=1") == "":
        head.write_text("ref: refs/heads/main\n")
    partial.rename(destination)


def _settings(forge_url: str, token_file: Path) -> tuple[tuple[str, str], ...]:
    parts = urlsplit(forge_url)
    origin = f"{parts.scheme}://{parts.netloc}"
    helper = _CREDENTIAL_HELPER.format(file=shlex.quote(str(token_file)))
    return (
        ("user.name", AUTHOR_NAME),
        ("user.email", AUTHOR_EMAIL),
        ("commit.gpgSign", "false"),
        ("push.default", "current"),
        ("push.autoSetupRemote", "true"),
        # An empty value ends the list of the user's own helpers, which would ask, or keep the token.
        (f"credential.{origin}.helper", ""),
        (f"credential.{origin}.helper", helper),
        # The forge is on this machine; a proxy of the user's would be asked for it otherwise.
        (f"http.{origin}/.proxy", ""),
    )


def _git(*words: str) -> str:
    try:
        done = subprocess.run(
            ["git", *words],
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CLONE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable("GitUnavailable", f"git {words[0]} could not be run: {type(error).__name__}") from error
    if done.returncode != 0:
        raise Unavailable("CloneFailed", f"git {words[0]} failed: {done.stderr.strip()[-300:]}")
    return done.stdout.strip()
