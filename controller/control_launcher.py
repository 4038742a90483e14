"""Which code do api, worker, judge and surfaces run on a host? Root's fixed launcher; it resolves `current` once.

    control_launcher.py api|worker|surface|judge WORDS…

Where Oroboros deploys itself (`topology.json`: control_plane is "current"), api and worker run the release that
production serves, if its requirements are installed; else, and everywhere else, what root installed. The judge of a
new release runs the code that its order names: that of the release before. Root installs dependencies, never a deploy:
each `requirements.lock` has an environment of its own for each Python, under digest and version.

An upgrade of Debian brings another Python, which no environment fits. A surface needs none: it runs on the standard
library alone, so that what served does so again after the reboot. The others wait for `install.sh`, and say so once.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import sys
import time
from pathlib import Path
from typing import NoReturn

ROOT = Path("/srv/oroboros")
CONFIG = Path("/etc/oroboros")
PROGRAM = Path("/opt/oroboros")
DIGEST_DIGITS = 12
FOLLOWS_CURRENT = frozenset({"api", "worker"})
#: Of the Python that runs this, which is the system's.
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
#: How long a part of which systemd awaits no word waits for an environment.
PATIENCE_S, LOOK_EVERY_S = 20.0, 0.5
#: Journald's prefix of an error, see sd-daemon(3).
ERROR = "<3>"
#: The exit code of a part of the host that is away.
AWAY = 4

_SHA = re.compile(r"[0-9a-f]{40}\Z")


def main(words: list[str]) -> NoReturn:
    """Become the part that is asked for; never returns."""
    part = words[0]
    if part == "surface":
        app = str((PROGRAM / "app").resolve())
        environment = {**os.environ, "PYTHONPATH": app, "PYTHONDONTWRITEBYTECODE": "1"}
        argv = [sys.executable, "-P", "-m", "controller.doors.surface", *words[1:]]
        os.execve(argv[0], argv, environment)  # noqa: S606 - no shell is the point
    base = choose_base(part)
    python = environment_of(base)
    if base is None or python is None:
        base = (PROGRAM / "app").resolve()
        python = await_installed()
    # sd_notify's and socket activation's values among them: this process becomes the part.
    environment = {**os.environ, "PYTHONPATH": str(base), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    if _SHA.fullmatch(base.name):
        environment["OROBOROS_OWN_RELEASE"] = base.name
    argv = [str(python), "-P", "-m", "controller.doors.cli", *words]
    os.execve(argv[0], argv, environment)  # noqa: S606 - no shell is the point


def choose_base(part: str) -> Path | None:
    """Return the release whose code the part is to run; None: what was installed."""
    if part == "judge":
        base = Path(str(read_json(ROOT / "judge" / "order.json").get("judge", "")))
    elif part in FOLLOWS_CURRENT and read_json(CONFIG / "topology.json").get("control_plane") == "current":
        base = (ROOT / "current").resolve()
    else:
        return None
    if base.parent != ROOT / "releases" or _SHA.fullmatch(base.name) is None:
        return None
    try:
        # Another app's release may be closed to us.
        return base if (base / "controller" / "doors" / "cli.py").is_file() else None
    except OSError:
        return None


def environment_of(base: Path | None, *, program: Path = PROGRAM) -> Path | None:
    """Return the Python that has what a release requires; None, said on stderr, when root has not installed that."""
    if base is None:
        return None
    try:
        lock = (base / "requirements.lock").read_bytes()
    except OSError as error:
        print(f"oroboros: {base} cannot be run: {error}; running what is installed", file=sys.stderr)
        return None
    digest = hashlib.sha256(lock).hexdigest()[:DIGEST_DIGITS]
    # Earlier installations named an environment by the lock alone.
    for folder in (program / "venvs" / f"{digest}-{VERSION}", program / "venvs" / digest):
        if fits(folder):
            return folder / "bin" / "python"
    message = f"{base.name} requires what is not installed ({digest}); running what is: install from that release"
    print(f"oroboros: {message}", file=sys.stderr)
    return None


def await_installed(program: Path = PROGRAM, *, patience_s: float = PATIENCE_S) -> Path:
    """Return the Python of what is installed; while that is for another Python it says so, and waits."""
    installed = program / "venv"
    deadline = time.monotonic() + patience_s
    if not fits(installed):
        message = (
            f"the Python packages in {installed} are not for this machine's Python {VERSION}, as after an upgrade of"
            f" Debian; with a network, type: sudo {program}/app/scripts/install.sh"
        )
        print(f"{ERROR}oroboros: {message}", file=sys.stderr, flush=True)
    while not fits(installed):
        # Ready, so that the boot ends: a start that never does keeps the whole machine in the state "starting".
        if not notify("READY=1\nWATCHDOG=1\nSTATUS=waiting for install.sh") and time.monotonic() > deadline:
            sys.exit(AWAY)
        time.sleep(LOOK_EVERY_S)
    return installed / "bin" / "python"


def notify(state: str) -> bool:
    """Tell systemd the state of this process (sd_notify(3)); False when it awaits no word."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.sendto(state.encode(), f"\0{address[1:]}" if address.startswith("@") else address)
    return True


def fits(environment: Path) -> bool:
    """Say whether an environment was made for the Python that runs this."""
    return (environment / "lib" / f"python{VERSION}").is_dir() and (environment / "bin" / "python").exists()


def read_json(path: Path) -> dict[str, object]:
    """Return a small JSON object, empty when it cannot be read."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


if __name__ == "__main__":
    main(sys.argv[1:])
