"""Which environment do api and worker get, and what do they say when none is for this Python?"""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from controller.control_launcher import AWAY, DIGEST_DIGITS, VERSION, await_installed, environment_of, fits

LOCK = b"click==1\n"
DIGEST = hashlib.sha256(LOCK).hexdigest()[:DIGEST_DIGITS]
OTHER = "3.4"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "requirements.lock").write_bytes(LOCK)
    return tmp_path


def make(folder: Path, version: str) -> Path:
    (folder / "lib" / f"python{version}").mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(sys.executable)
    return folder


def test_an_environment_is_for_the_python_that_made_it(program: Path) -> None:
    assert fits(make(program / "mine", VERSION))
    assert not fits(make(program / "others", OTHER))


def test_a_release_gets_the_environment_of_its_lock_and_of_this_python(program: Path) -> None:
    make(program / "venvs" / DIGEST, OTHER)
    assert environment_of(program / "release", program=program) is None
    made = make(program / "venvs" / f"{DIGEST}-{VERSION}", VERSION)
    assert environment_of(program / "release", program=program) == made / "bin" / "python"


def test_an_environment_of_an_earlier_installation_is_taken(program: Path) -> None:
    made = make(program / "venvs" / DIGEST, VERSION)
    assert environment_of(program / "release", program=program) == made / "bin" / "python"


def test_what_is_installed_for_another_python_ends_with_what_to_type(
    program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(program / "venv", OTHER)
    with pytest.raises(SystemExit) as ended:
        await_installed(program, patience_s=0)
    assert ended.value.code == AWAY
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("<3>oroboros: ")
    assert f"type: sudo {program}/app/scripts/install.sh" in line


def test_a_part_that_systemd_awaits_is_ready_while_it_waits(program: Path) -> None:
    """Else the boot of the whole machine would never end."""
    make(program / "venv", OTHER)
    address = str(program / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(30)
        code = "import sys; from pathlib import Path; from controller.control_launcher import await_installed;"
        words = [sys.executable, "-c", f"{code} print(await_installed(Path(sys.argv[1]), patience_s=0))", str(program)]
        environ = {**os.environ, "NOTIFY_SOCKET": address}
        with subprocess.Popen(words, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as part:
            assert b"READY=1" in systemd.recv(1024)
            installed = make(program / "installed", VERSION)
            (program / "venv").rename(program / "former")
            (program / "venv").symlink_to(installed)
            told, _ = part.communicate(timeout=30)
    assert told.strip() == str(program / "venv" / "bin" / "python")
