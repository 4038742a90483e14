"""What words and which environment does a process get, at last? Pure; shared by the keeper and a host's launcher.

Standard library only: the launcher runs with the system's Python, before any of our dependencies is there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

#: Set by us, so that an app's own file cannot change what the gate relies on.
RESERVED = frozenset(
    {
        "PORT",
        "HOST",
        "OROBOROS_SOCKET",
        "OROBOROS_RELEASE",
        "OROBOROS_BRANCH",
        "OROBOROS_NONCE",
        "OROBOROS_SLOT",
        "GIT_CEILING_DIRECTORIES",
    }
)
#: The names under which build tools and error trackers look for the commit, since a release holds no repository:
#: Jenkins', Heroku's, Docker Hub's, Netlify's, Dokku's and Cloud Build's names, and two more that are in wide use.
#: None of them tells a program that it runs on a certain host, as `VERCEL` or `CI` would.
COMMIT_NAMES = (
    "GIT_COMMIT", "SOURCE_VERSION", "SOURCE_COMMIT", "COMMIT_REF", "GIT_REV", "COMMIT_SHA", "GIT_SHA", "GIT_COMMIT_SHA",
)  # fmt: skip
BRANCH_NAME = "GIT_BRANCH"
SANE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: What frameworks ask for to know that they are not on a developer's machine: Node's, Ruby's, Elixir's. PHP's APP_ENV
#: is not among them: Laravel's default is production, and Symfony calls it otherwise.
MODES = {"NODE_ENV": "production", "RAILS_ENV": "production", "RACK_ENV": "production", "MIX_ENV": "prod"}
#: With it npm, pnpm and yarn leave out devDependencies, which builds need
#: (https://docs.npmjs.com/cli/commands/npm-ci, "omit").
NOT_OF_BUILDS = frozenset({"NODE_ENV"})

_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")


def expand(word: str, values: Mapping[str, str]) -> str:
    """Replace `$NAME` and `${NAME}` by values; names that are not there stay as they are. No shell."""
    return _VARIABLE.sub(lambda m: values.get(m[1] or m[2], m[0]), word)


def parse_environment(text: str) -> dict[str, str]:
    """Read `KEY=VALUE` lines; blank lines and lines that begin with `#` are skipped, others without `=` are too.

    A value may hold anything but a newline."""
    values: dict[str, str] = {}
    for line in text.split("\n"):
        key, equals, value = line.partition("=")
        if equals and key.strip() and not key.lstrip().startswith("#"):
            values[key.strip()] = value
    return values


def app_values(text: str) -> dict[str, str]:
    """Return what an app's own file sets: all but what is ours to set."""
    return {key: value for key, value in parse_environment(text).items() if key not in RESERVED}


def process_environment(
    values: Mapping[str, str], *, working_directory: str, data_folder: str, is_build: bool
) -> dict[str, str]:
    """Return the whole environment of an app: its values over a few sane ones. `data_folder` is "" without one.

    Home is not the release's folder if there is another: what apps cache there would be files that git does not have.
    """
    modes = {name: mode for name, mode in MODES.items() if not (is_build and name in NOT_OF_BUILDS)}
    if is_build:
        # What uv fetches stays with the build, and its virtual environment's links lead to nothing that goes away
        # (https://docs.astral.sh/uv/reference/environment/, UV_PYTHON_INSTALL_DIR).
        modes["UV_PYTHON_INSTALL_DIR"] = f"{working_directory}/.uv-python"
    commit = values.get("OROBOROS_RELEASE")
    known = {} if commit is None else dict.fromkeys(COMMIT_NAMES, commit)
    if "OROBOROS_BRANCH" in values:
        known[BRANCH_NAME] = values["OROBOROS_BRANCH"]
    return {
        **modes,
        **known,
        "PATH": SANE_PATH,
        "HOME": data_folder or working_directory,
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",  # noqa: S108 - the usual one, said
        "PYTHONDONTWRITEBYTECODE": "1",
        **values,
    }
