"""Would our tests notice? Each defect of `tests/mutants.py`, put into a copy of the code, makes its test fail.

The copy lies in a temporary folder, is a project of its own to pytest, and comes first on the path; the work tree is
not touched. Marked slow: budget 150 s for all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parent.parent
#: What the decisions and their tests need: no database, no network, and none of the session's own fixtures.
COPIED = ("controller/__init__.py", "controller/model", "controller/decisions", "tests/unit/decisions")
COPIED_TESTS = ("tests/property", "tests/builders.py", "tests/world.py")
ONE_RUN_TIMEOUT_S = 300
PYTEST_TESTS_FAILED = 1


@pytest.fixture(scope="module")
def clean_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The decisions and their tests, as they are."""
    copy = tmp_path_factory.mktemp("mutants") / "clean"
    for name in (*COPIED, *COPIED_TESTS):
        source, target = ROOT / name, copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
        else:
            shutil.copy(source, target)
    (copy / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\npythonpath = .\n")
    return copy


@pytest.fixture
def copy(clean_copy: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy for one defect."""
    mine = tmp_path / "copy"
    shutil.copytree(clean_copy, mine)
    yield mine
    shutil.rmtree(mine)


def run_tests(folder: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "OROBOROS_", "COV_"))}
    environ |= {"PYTHONPATH": str(folder), "OROBOROS_HYPOTHESIS": "mutants", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *tests],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=ONE_RUN_TIMEOUT_S,
        check=False,
    )


@pytest.mark.slow
def test_without_a_defect_all_these_tests_pass(clean_copy: Path) -> None:
    """Budget: 10 s."""
    done = run_tests(clean_copy, *sorted({mutant.caught_by for mutant in MUTANTS}))
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_defect_makes_its_test_fail(mutant: Mutant, copy: Path) -> None:
    """Budget: 3 s each."""
    file = copy / mutant.file
    text = file.read_text()
    assert text.count(mutant.original) == 1, f"{mutant.name}: {mutant.file} has no such line any more; say it anew"
    file.write_text(text.replace(mutant.original, mutant.replacement))
    compile(file.read_text(), mutant.file, "exec")
    done = run_tests(copy, mutant.caught_by)
    assert done.returncode == PYTEST_TESTS_FAILED, f"{mutant.name} was not noticed:\n{done.stdout}\n{done.stderr}"
