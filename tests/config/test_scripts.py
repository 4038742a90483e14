"""Do the scripts make their environment once, and say what is missing when they cannot?

The Python that they find here is a stub, so that nothing is downloaded; .ci/run makes the real environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
BASH = shutil.which("bash") or "/bin/bash"
TOOLS = (
    *("bash", "cat", "chmod", "cut", "dirname", "env", "flock", "git", "grep"),
    *("id", "ls", "mkdir", "mktemp", "mv", "rm", "sleep", "tail", "tee"),
)
STUB = """#!{bash}
# A Python that notes what is asked of it.
case "$*" in
    *"version_info"*) exit {too_old} ;;
    *ensurepip*) exit {no_venv} ;;
    "-m venv --clear "*)
        printf 'venv\\n' >>"{log}"
        mkdir -p "$4/bin" && cp_stub() {{ cat "{stub}" >"$1" && chmod 755 "$1"; }} && cp_stub "$4/bin/python" ;;
    "-m pip --version"*) exit 0 ;;
    "-m pip install"*)
        printf 'pip\\n' >>"{log}"; sleep 0.3
        printf 'Collecting one==1\\nProcessing ./two.whl\\nInstalling collected packages: one\\n'
        [ {pip_fails} = 0 ] || {{ printf 'ERROR: no network\\n' >&2; exit 1; }} ;;
    *) printf 'ran %s\\n' "$*" ;;
esac
"""


class Machine:
    """A PATH that holds little, and a checkout that holds the scripts."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.checkout, self.log = folder / "bin", folder / "checkout", folder / "log"
        self.home = folder / "home"
        for path in (self.bin, self.checkout, self.home):
            path.mkdir()
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None, f"{tool} is needed by these tests"
            (self.bin / tool).symlink_to(found)
        shutil.copytree(CHECKOUT / "scripts", self.checkout / "scripts")
        (self.checkout / "requirements.lock").write_text("one==1 \\\n    --hash=sha256:00\n")

    def add_python(self, *, too_old: int = 0, no_venv: int = 0, pip_fails: int = 0) -> None:
        stub = self.bin / "python3"
        stub.write_text(
            STUB.format(bash=BASH, log=self.log, stub=stub, too_old=too_old, no_venv=no_venv, pip_fails=pip_fails)
        )
        stub.chmod(0o755)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.checkout / "scripts" / "demo.sh"), *arguments],
            env={"PATH": str(self.bin), "HOME": str(self.home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        with self.start(*arguments) as process:
            out, error = process.communicate(timeout=60)
        return process.returncode, out, error

    def asked(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_installs_once_and_then_runs_at_once(machine: Machine) -> None:
    machine.add_python()

    first, second = machine.run("--exit"), machine.run("--exit")

    assert (first[0], first[1]) == (0, "ran -P -m controller.doors.cli demo --exit\n")
    assert "2 collected" in first[2]
    assert (0, first[1], "") == second
    assert machine.asked() == ["venv", "pip"]


def test_installs_again_when_the_lock_changed(machine: Machine) -> None:
    machine.add_python()
    machine.run()
    (machine.checkout / "requirements.lock").write_text("two==2 \\\n    --hash=sha256:00\n")

    assert machine.run()[0] == 0
    assert machine.asked() == ["venv", "pip", "pip"]


@pytest.mark.parametrize("lock", ["flock", "mkdir"])
def test_two_at_once_install_once(machine: Machine, lock: str) -> None:
    machine.add_python()
    if lock == "mkdir":
        (machine.bin / "flock").unlink()

    both = [machine.start(), machine.start()]
    for process in both:
        process.communicate(timeout=60)

    assert [process.returncode for process in both] == [0, 0]
    assert machine.asked() == ["venv", "pip"]
    assert not (machine.checkout / ".venv.lock.d").exists()


def test_a_lock_folder_whose_owner_is_gone_is_taken_over(machine: Machine) -> None:
    machine.add_python()
    (machine.bin / "flock").unlink()
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    (machine.checkout / ".venv.lock.d").mkdir()
    (machine.checkout / ".venv.lock.d" / "pid").write_text(f"{gone.pid}\n")

    assert machine.run()[0] == 0


def test_says_that_git_is_missing(machine: Machine) -> None:
    (machine.bin / "git").unlink()

    code, _, error = machine.run()

    assert (code, "git is not installed" in error) == (2, True)


def test_says_that_python_is_missing_or_too_old_or_lacks_venv(machine: Machine) -> None:
    def told() -> str:
        code, _, error = machine.run()
        assert code == 2
        return error

    assert "no Python 3.11 or newer" in told()
    machine.add_python(too_old=1)
    assert "no Python 3.11 or newer" in told()
    machine.add_python(no_venv=1)
    assert "python3-venv" in told()


def test_shows_what_pip_said_when_it_cannot_install_and_tries_again_next_time(machine: Machine) -> None:
    machine.add_python(pip_fails=1)
    code, _, error = machine.run()

    assert code == 2
    assert "ERROR: no network" in error
    assert "Is the network up?" in error

    shutil.rmtree(machine.checkout / ".venv")
    machine.add_python()
    assert machine.run()[0] == 0


@pytest.mark.parametrize("whose", ["another's", "read-only"])
def test_a_checkout_that_is_not_ours_gets_its_environment_in_the_cache(machine: Machine, whose: str) -> None:
    machine.add_python()
    if os.getuid() == 0 and whose == "another's":
        os.chown(machine.checkout, 65534, 65534)
    elif os.getuid() == 0:
        (machine.checkout / ".venv").mkdir()
        os.chown(machine.checkout / ".venv", 65534, 65534)
    else:
        machine.checkout.chmod(0o555)
    before = sorted(machine.checkout.rglob("*"))

    code, out, _ = machine.run()
    after = sorted(machine.checkout.rglob("*"))
    machine.checkout.chmod(0o755)

    assert (code, out) == (0, "ran -P -m controller.doors.cli demo\n")
    assert before == after
    assert list((machine.home / ".cache" / "oroboros").glob("*/oroboros-installed"))


def test_the_lock_names_hashes_and_no_index() -> None:
    lines = (CHECKOUT / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith((" ", "#"))]

    assert all("==" in pin and pin.endswith("\\") for pin in pins)
    assert not [line for line in lines if "://" in line or line.startswith("-")]
