"""Map each fault that `doctor` can name to its remedy, for a host and for a development stack apart.

A remedy is shell commands that mend the fault when they are run as printed, and a sentence for what no command does.
`tests/host/case_doctor.py` brings a host into each state and runs the commands. A new fault is one row here.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Final


class Place(StrEnum):
    """Where a stack runs: installed under systemd, or by `oroboros up`."""

    HOST = auto()
    DEVELOPMENT = auto()


class Fault(StrEnum):
    """What is wrong, or worth a note, as far as its remedy differs from others."""

    PYTHON_OLD = auto()
    GIT_UNFIT = auto()
    STARLETTE_OLD = auto()
    SETTINGS_UNREADABLE = auto()
    TOPOLOGY_UNREADABLE = auto()
    INSTALLATION_CHANGED = auto()
    UNITS_DOWN = auto()
    MAINTENANCE_FAILED = auto()
    UNITS_OVERRIDDEN = auto()
    REPOSITORY_UNSET = auto()
    ROOT_NOT_WRITABLE = auto()
    HARD_LINKS_MISSING = auto()
    DISK_FULL = auto()
    INODES_SPENT = auto()
    SECRETS_OPEN = auto()
    WEBHOOK_SECRET_UNNAMED = auto()
    WEBHOOK_SECRET_UNFIT = auto()
    OPERATOR_TOKEN_UNFIT = auto()
    MIRROR_BROKEN = auto()
    MIRROR_EMPTY = auto()
    SIGNERS_MISSING = auto()
    FORGE_AWAY = auto()
    TOKEN_REFUSED = auto()
    APP_REFUSED = auto()
    REPORTS_LATE = auto()
    TROUBLES_LAST = auto()
    DATABASE_AWAY = auto()
    DATABASE_REFUSES = auto()
    MIGRATIONS_EDITED = auto()
    MIGRATIONS_MISSING = auto()
    CLOCKS_DIFFER = auto()
    REDIS_AWAY = auto()
    RUNTIME_AWAY = auto()
    SURFACE_DOWN = auto()
    SURFACE_FOREIGN = auto()
    PRODUCTION_UNWELL = auto()
    PREVIEW_UNWELL = auto()
    SLOT_STOPPED = auto()
    EDGE_DOWN = auto()
    EDGE_MISLEADS = auto()
    PART_DOWN = auto()
    PART_UNWELL = auto()
    PORTS_TAKEN = auto()
    APP_EXPOSED = auto()
    LEFT_BEHIND = auto()
    LIVE_UNREADABLE = auto()
    CURRENT_LAGS = auto()
    RELEASE_DAMAGED = auto()
    RELEASE_UNREADABLE = auto()
    POLICY_INVALID = auto()
    POLICY_WAITS = auto()
    FORKS_RUN = auto()
    COOKIES_SHARED = auto()


@dataclass(frozen=True, slots=True)
class Remedy:
    """What mends a fault: commands, run in this order, and advice beside them. Both may name what a finding is about
    in braces, `{slot}`; in a command it is quoted for the shell, a list word by word."""

    commands: tuple[str, ...] = ()
    advice: str = ""

    @property
    def text(self) -> str:
        """The remedy in one line, as it is printed."""
        return ". ".join(part for part in ("; then ".join(self.commands), self.advice) if part)


def remedy_of(fault: Fault, place: Place, about: Mapping[str, str | tuple[str, ...]]) -> Remedy:
    """Return the remedy of a fault where the stack runs, with what the finding is about filled in."""
    remedy = _find(fault, place)
    quoted = {
        name: shlex.quote(value) if isinstance(value, str) else shlex.join(value) for name, value in about.items()
    }
    plain = {name: value if isinstance(value, str) else ", ".join(value) for name, value in about.items()}
    return Remedy(
        commands=tuple(command.format_map(quoted) for command in remedy.commands),
        advice=remedy.advice.format_map(plain),
    )


def host_commands(fault: Fault) -> tuple[str, ...]:
    """Return the commands that a host is mended with, as the table has them."""
    return _find(fault, Place.HOST).commands


def _find(fault: Fault, place: Place) -> Remedy:
    remedies = _REMEDIES[fault]
    return remedies.get(place) or remedies.get(EVERYWHERE) or Remedy()


#: In place of a `Place`, for a remedy that names nothing of either.
EVERYWHERE: Final = None

_INSTALL: Final = Remedy(("sudo oroboros install",))
_UP: Final = Remedy(("oroboros up",), "it starts every part of the stack; what runs is adopted")
_LOOK_UP: Final = "docs/reasons.md says what the reason means"

_REMEDIES: Final[Mapping[Fault, Mapping[Place | None, Remedy]]] = {
    Fault.PYTHON_OLD: {
        Place.HOST: Remedy(advice="upgrade Debian to 12 or newer, then run scripts/install.sh in a checkout"),
        Place.DEVELOPMENT: Remedy(advice="install Python {wanted} or newer, and make the venv anew with it"),
    },
    Fault.GIT_UNFIT: {
        Place.HOST: Remedy(("sudo apt-get install -y git",), "git {wanted} or newer is needed"),
        Place.DEVELOPMENT: Remedy(advice="install git {wanted} or newer, and see that it is on the PATH"),
    },
    Fault.STARLETTE_OLD: {
        Place.HOST: Remedy(advice="run scripts/install.sh in a checkout: it installs the locked packages"),
        Place.DEVELOPMENT: Remedy(
            ("pip install --require-hashes -r requirements.lock",), "it installs {wanted} or newer"
        ),
    },
    Fault.SETTINGS_UNREADABLE: {
        Place.HOST: Remedy(
            ("sudo oroboros install",), "what install did not write is yours to correct: /etc/oroboros/*.env"
        ),
        Place.DEVELOPMENT: Remedy(advice="name a stack with --root DIR, or start one: oroboros up --root {root}"),
    },
    Fault.TOPOLOGY_UNREADABLE: {
        Place.HOST: Remedy(
            advice="run sudo oroboros install with every option that was given before, --base-host first: without them"
            " the host's names are not known"
        ),
        Place.DEVELOPMENT: _UP,
    },
    Fault.INSTALLATION_CHANGED: {Place.HOST: _INSTALL},
    Fault.UNITS_DOWN: {
        Place.HOST: Remedy(("sudo systemctl restart {units}",), "if one ends again: sudo journalctl -b -u {unit}"),
    },
    Fault.MAINTENANCE_FAILED: {
        Place.HOST: Remedy(("sudo systemctl start {units}",), "if one fails again: sudo journalctl -b -u {unit}"),
    },
    Fault.UNITS_OVERRIDDEN: {Place.HOST: Remedy(("sudo rm {paths}", "sudo systemctl daemon-reload"))},
    Fault.REPOSITORY_UNSET: {Place.HOST: Remedy(advice="sudo oroboros repo set OWNER/NAME --token-stdin")},
    Fault.ROOT_NOT_WRITABLE: {
        Place.HOST: Remedy(
            advice="see whether its file system is full or read-only: `dmesg` says why, findmnt -T {path}"
        ),
        Place.DEVELOPMENT: Remedy(("mkdir -p {path}",), "the folder must be yours"),
    },
    Fault.HARD_LINKS_MISSING: {
        EVERYWHERE: Remedy(advice="put the root on ext4, xfs or btrfs: without links each release is a full copy"),
    },
    Fault.DISK_FULL: {
        EVERYWHERE: Remedy(advice="free some space, or keep fewer releases: `[retention] keep` in deploy.toml"),
    },
    Fault.INODES_SPENT: {
        EVERYWHERE: Remedy(advice="remove files, or make the file system anew with more inodes"),
    },
    Fault.SECRETS_OPEN: {
        Place.HOST: Remedy(("sudo chmod 600 {paths}",), "others may have read them: draw those secrets anew"),
        Place.DEVELOPMENT: Remedy(("chmod 600 {paths}",), "others may have read them: draw those secrets anew"),
    },
    Fault.WEBHOOK_SECRET_UNNAMED: {
        EVERYWHERE: Remedy(
            advice="write a secret (openssl rand -hex 32) to a file of mode 600, name the file in"
            " OROBOROS_WEBHOOK_SECRETS_FILE, and enter the secret at the forge's webhook"
        ),
    },
    Fault.WEBHOOK_SECRET_UNFIT: {
        Place.HOST: Remedy(
            ("sudo rm -f {path}", "sudo oroboros install", "sudo systemctl restart ouroboros-api.service"),
            "a new secret is drawn: enter it at the forge's webhook",
        ),
        Place.DEVELOPMENT: Remedy(
            ("(umask 077; openssl rand -hex 32 > {path})",), "enter the secret at the forge's webhook"
        ),
    },
    Fault.OPERATOR_TOKEN_UNFIT: {
        Place.HOST: Remedy(
            (
                "sudo rm -f {path}",
                "sudo oroboros install",
                "sudo systemctl restart ouroboros-api.service ouroboros-worker.service",
            ),
        ),
        Place.DEVELOPMENT: Remedy(("oroboros up",), "it draws one; api and worker read it at start"),
    },
    Fault.MIRROR_BROKEN: {
        Place.HOST: Remedy(
            ("sudo rm -rf {path}", "sudo systemctl restart ouroboros-worker.service"),
            "the worker makes it anew; nothing is kept there alone",
        ),
        Place.DEVELOPMENT: Remedy(("rm -rf {path}",), "the worker makes it anew; nothing is kept there alone"),
    },
    Fault.MIRROR_EMPTY: {EVERYWHERE: Remedy(advice="push to the production branch, or wait for the resync")},
    Fault.SIGNERS_MISSING: {
        EVERYWHERE: Remedy(
            advice="say who may sign in allowed-signers (SSH, with ssh-keygen installed) or allowed-keys.asc (OpenPGP,"
            " with gpg) in the configuration folder, for all to read and root alone to write"
        ),
    },
    Fault.FORGE_AWAY: {
        Place.HOST: Remedy(advice="see that the network lets us out to it; what was missed is fetched once it answers"),
        Place.DEVELOPMENT: Remedy(("oroboros up",), "the development forge runs with the stack"),
    },
    Fault.TOKEN_REFUSED: {
        Place.HOST: Remedy(
            ("sudo oroboros repo set {words} --token-stdin",),
            "paste a token that may read contents and write commit statuses, deployments and pull requests",
        ),
        Place.DEVELOPMENT: Remedy(advice="see OROBOROS_REPOSITORY, and the token in OROBOROS_FORGE_TOKEN_FILE"),
    },
    Fault.APP_REFUSED: {EVERYWHERE: Remedy(advice="oroboros github check says what the App lacks")},
    Fault.REPORTS_LATE: {
        EVERYWHERE: Remedy(advice=f"{_LOOK_UP}; deploys go on, and what is late is sent once it can be"),
    },
    Fault.TROUBLES_LAST: {
        EVERYWHERE: Remedy(advice=f"{_LOOK_UP}; it is tried again by itself, and this ends when it works"),
    },
    Fault.DATABASE_AWAY: {
        # The cluster's own unit may be down while postgresql.service, which only groups clusters, counts as active.
        Place.HOST: Remedy(("sudo systemctl restart postgresql.service",), "what serves goes on serving meanwhile"),
        Place.DEVELOPMENT: Remedy(("oroboros up",), "it starts Postgres; see that DATABASE_URL is right"),
    },
    Fault.DATABASE_REFUSES: {
        Place.HOST: Remedy(("sudo oroboros install",), "it makes roles, passwords and the database as they must be"),
        Place.DEVELOPMENT: Remedy(advice="see that DATABASE_URL is right"),
    },
    Fault.MIGRATIONS_EDITED: {
        EVERYWHERE: Remedy(advice="restore the file as it was applied: a change belongs in a new file"),
    },
    Fault.MIGRATIONS_MISSING: {
        Place.HOST: Remedy(("sudo systemctl restart ouroboros-worker.service",), "the worker applies them at start"),
        Place.DEVELOPMENT: Remedy(("oroboros up",), "the worker applies them at start"),
    },
    Fault.CLOCKS_DIFFER: {
        EVERYWHERE: Remedy(advice="let both keep time: timedatectl set-ntp true, here and on the database's host"),
    },
    Fault.REDIS_AWAY: {
        Place.HOST: Remedy(
            ("sudo systemctl restart redis-server.service",), "if it runs and refuses us: sudo oroboros install"
        ),
        Place.DEVELOPMENT: Remedy(("oroboros up",), "it starts Redis; see that REDIS_URL is right"),
    },
    Fault.RUNTIME_AWAY: {
        Place.HOST: Remedy(advice="see how systemd is: systemctl status; polkit's rule is written by oroboros install"),
        Place.DEVELOPMENT: Remedy(("oroboros up",), "it starts the supervisor; instances that run are adopted"),
    },
    Fault.SURFACE_DOWN: {Place.HOST: Remedy(("sudo systemctl restart {unit}",)), Place.DEVELOPMENT: _UP},
    Fault.SURFACE_FOREIGN: {
        Place.HOST: Remedy(
            advice="stop what holds the port (see the check of ports), then: sudo systemctl restart {unit}"
        ),
        Place.DEVELOPMENT: Remedy(advice="stop what holds the port (see the check of ports), then: oroboros up"),
    },
    Fault.PRODUCTION_UNWELL: {
        Place.HOST: Remedy(("sudo oroboros rollback",), "sudo oroboros logs main says what the app wrote"),
        Place.DEVELOPMENT: Remedy(("oroboros rollback",), "oroboros logs main says what the app wrote"),
    },
    # Going back is for production alone: a preview is of one pull request.
    Fault.PREVIEW_UNWELL: {
        Place.HOST: Remedy(
            ("sudo oroboros backend restart {slot}",),
            "sudo oroboros logs {slot} says what the app wrote; what the release itself does wrong, a push mends",
        ),
        Place.DEVELOPMENT: Remedy(
            ("oroboros backend restart {slot}",),
            "oroboros logs {slot} says what the app wrote; what the release itself does wrong, a push mends",
        ),
    },
    Fault.SLOT_STOPPED: {
        Place.HOST: Remedy(("sudo oroboros backend start {slot}",)),
        Place.DEVELOPMENT: Remedy(("oroboros backend start {slot}",)),
    },
    Fault.EDGE_DOWN: {Place.HOST: Remedy(("sudo systemctl restart ouroboros-caddy.service",)), Place.DEVELOPMENT: _UP},
    Fault.EDGE_MISLEADS: {Place.HOST: _INSTALL, Place.DEVELOPMENT: _UP},
    Fault.PART_DOWN: {
        Place.HOST: Remedy(("sudo systemctl restart {unit}",), "if it ends again: sudo journalctl -b -u {unit}"),
        Place.DEVELOPMENT: _UP,
    },
    Fault.PART_UNWELL: {
        Place.HOST: Remedy(advice="mend what it names; it goes on by itself. Its log: sudo journalctl -b -u {unit}"),
        Place.DEVELOPMENT: Remedy(advice="mend what it names; it goes on by itself. Its log has the rest"),
    },
    Fault.PORTS_TAKEN: {
        Place.HOST: Remedy(("sudo kill {pids}",), "if something starts it again, stop and disable that"),
        Place.DEVELOPMENT: Remedy(("kill {pids}",), "or shift this stack: oroboros up --port-base N"),
    },
    Fault.APP_EXPOSED: {EVERYWHERE: Remedy(advice="have the app listen at HOST, or keep its port behind a firewall")},
    Fault.LEFT_BEHIND: {
        Place.HOST: Remedy(
            advice="sudo oroboros maintenance reset-audit lists all; see that the worker runs, and remove by hand what"
            " stays"
        ),
        Place.DEVELOPMENT: Remedy(
            advice="oroboros maintenance reset-audit lists all; see that the worker runs, and remove by hand what stays"
        ),
    },
    Fault.LIVE_UNREADABLE: {
        Place.HOST: Remedy(("sudo rm {path}",), "the worker brings the slot's newest release up again"),
        Place.DEVELOPMENT: Remedy(("rm {path}",), "the worker brings the slot's newest release up again"),
    },
    Fault.CURRENT_LAGS: {
        Place.HOST: Remedy(("sudo systemctl restart ouroboros-worker.service",), "it makes current follow live"),
        Place.DEVELOPMENT: Remedy(("oroboros up",), "its worker makes current follow live"),
    },
    Fault.RELEASE_DAMAGED: {
        EVERYWHERE: Remedy(
            advice="the worker puts it right at the next resync (OROBOROS_RESYNC_SECONDS), or at oroboros heal where"
            " policy holds drift; find out who wrote there"
        ),
    },
    Fault.RELEASE_UNREADABLE: {
        EVERYWHERE: Remedy(advice="see the checks of mirror and disk; oroboros verify compares the release again"),
    },
    Fault.POLICY_INVALID: {
        EVERYWHERE: Remedy(advice="mend deploy.toml on the production branch; until then the last valid policy counts"),
    },
    Fault.POLICY_WAITS: {
        Place.HOST: _INSTALL,
        Place.DEVELOPMENT: Remedy(advice="start oroboros up anew, with the same number of --previews"),
    },
    Fault.FORKS_RUN: {
        EVERYWHERE: Remedy(advice="take `accept_fork_risk` out of [permissions] if that is not meant"),
    },
    Fault.COOKIES_SHARED: {
        Place.HOST: Remedy(
            advice="give previews a domain of their own: `[previews] host` in deploy.toml, then sudo oroboros install;"
            " until then have the app name its cookies __Host-…, which no other host can set"
        ),
        Place.DEVELOPMENT: Remedy(
            advice="on a host, give previews a domain of their own: `[previews] host` in deploy.toml"
        ),
    },
}
