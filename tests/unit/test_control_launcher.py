"""Which environment do api and worker get, and what do they say when none is for this Python?"""

from __future__ import annotations

import hashlib
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
