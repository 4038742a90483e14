"""Do the contract's scripts run the right `oroboros` command, and say how they are used when they are used wrongly?

The command that they run here notes what is asked of it; tests/acceptance runs some of them on a real stack.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.config.test_scripts import CHECKOUT, Machine

SHA = "0123456789abcdef0123456789abcdef01234567"
#: Script, arguments, and what `oroboros` is asked for.
CALLS = [
    ("maintenance-stale-lease-cleanup.sh", [], "maintenance stale-leases"),
    ("maintenance-stale-lease-cleanup.sh", ["--dry-run"], "maintenance stale-leases --dry-run"),
    (
        "maintenance-preview-reset-integrity.sh",
        ["--lookback-hours", "24", "--running-grace-minutes", "90"],
        "maintenance reset-audit --lookback-hours 24 --running-grace-minutes 90",
    ),
    (
        "maintenance-daily-health-summary.sh",
        ["--output-dir", "/srv/oroboros/artifacts/maintenance"],
        "maintenance daily-summary --output-dir /srv/oroboros/artifacts/maintenance",
    ),
    ("runtime-health-check.sh", [], "health"),
    ("runtime-health-check.sh", ["--wait", "5", "--json"], "health --wait 5 --json"),
    ("deploy.sh", [SHA], f"deploy {SHA}"),
    ("deploy.sh", [SHA[:7], "--reason", "two words", "--no-wait"], f"deploy {SHA[:7]} --reason two words --no-wait"),
    ("rollback.sh", [SHA, "--json"], f"rollback {SHA} --json"),
    (
        "preview-smoke-e2e.sh",
        ["--preview-url", "http://a", "--changed-route", "/b c"],
        "smoke --preview-url http://a --changed-route /b c",
    ),
    ("preview-backend-runtime.sh", ["status", "2", "--json"], "backend status 2 --json"),
    ("preview-slots-health-check.sh", [], "slots --check --previews"),
    ("preview-slots-health-check.sh", ["--json"], "slots --check --previews --json"),
    ("preview-slots-provision.sh", [], "install --only-slots"),
    ("preview-slots-provision.sh", ["--dry-run"], "install --only-slots --dry-run"),
]
SCRIPTS = sorted({script for script, _, _ in CALLS})
#: Script and arguments that the script itself refuses: nothing was asked of `oroboros`.
WRONG: list[tuple[str, list[str]]] = [
    ("deploy.sh", []),
    ("deploy.sh", ["--no-wait"]),
    ("deploy.sh", ["main"]),
    ("deploy.sh", ["--reason", SHA]),
    ("rollback.sh", []),
    ("preview-backend-runtime.sh", []),
    ("preview-backend-runtime.sh", ["stop"]),
    ("preview-backend-runtime.sh", ["kill", "1"]),
    ("preview-backend-runtime.sh", ["stop", "--json"]),
    ("rollback.sh", ["; id"]),
    ("maintenance-daily-health-summary.sh", []),
]


@pytest.fixture
def command(tmp_path: Path) -> Path:
    path = tmp_path / "oroboros"
    path.write_text('#!/bin/sh\nprintf "asked: %s\\n" "$*"\nexit 3\n')
    path.chmod(0o755)
    return path


def run(script: str, *arguments: str, command: Path | str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CHECKOUT / "scripts" / script, *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "OROBOROS_COMMAND": str(command)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("script", "arguments", "asked"), CALLS)
def test_runs_its_command_from_any_folder_and_ends_with_its_code(
    script: str, arguments: list[str], asked: str, command: Path, tmp_path: Path
) -> None:
    done = run(script, *arguments, command=command, folder=tmp_path)

    assert (done.returncode, done.stdout, done.stderr) == (3, f"asked: {asked}\n", "")


@pytest.mark.parametrize(("script", "arguments"), WRONG)
def test_says_how_it_is_used_and_exits_with_2(script: str, arguments: list[str], command: Path, tmp_path: Path) -> None:
    done = run(script, *arguments, command=command, folder=tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"usage: scripts/{script} ")


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_how_it_is_used(script: str, command: Path, tmp_path: Path) -> None:
    done = run(script, "--help", command=command, folder=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: scripts/{script} ")


def test_says_that_the_command_which_was_named_is_not_there(tmp_path: Path) -> None:
    done = run("runtime-health-check.sh", command=tmp_path / "nothing", folder=tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot be run" in done.stderr


def test_a_checkout_runs_its_own_command(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.add_python()

    done = subprocess.run(
        [machine.checkout / "scripts" / "runtime-health-check.sh", "--json"],
        env={"PATH": str(machine.bin), "HOME": str(machine.home), "OROBOROS_CHECKOUT": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, "ran -P -m controller.doors.cli health --json\n")
