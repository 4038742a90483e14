"""Does the control plane keep its word on Debian's own Postgres too? It is older than the one of the other tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.host import Host, new_host
from tests.host.team import SOURCE

BINARIES = "/usr/lib/postgresql/15/bin"
LIMIT_S = 280.0


@pytest.fixture(scope="module")
def host(image: Path, hosts_folder: Path) -> Iterator[Host]:
    with new_host(image, hosts_folder) as host:
        host.copy_checkout(SOURCE)
        yield host


@pytest.mark.parametrize("tests", ["tests/store", "tests/database"])
def test_the_tests_of_the_store_and_of_the_apps_databases_pass_on_postgres_15(host: Host, tests: str) -> None:
    assert host.text(f"{BINARIES}/postgres", "--version").startswith("postgres (PostgreSQL) 15.")
    done = host.run(
        ["/opt/oroboros/venv/bin/python", "-m", "pytest", "-p", "no:cacheprovider", "-q", "-x", tests],
        user="postgres",
        folder=SOURCE,
        environment={"OROBOROS_TEST_POSTGRES": BINARIES, "PYTHONDONTWRITEBYTECODE": "1"},
        timeout_s=LIMIT_S,
    )
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
