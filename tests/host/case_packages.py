"""What does install do on a Debian that has none of the packages that it needs?

The hosts have no network; what apt once fetched for them is still in its cache, as on a machine whose mirror is away.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.host import Host, new_host
from tests.host.team import BASE_HOST, SOURCE, install

MISSING = ("python3-venv", "git", "postgresql", "redis-server", "polkitd")
CACHE = "/var/cache/apt/archives"


@pytest.fixture(scope="module")
def host(image: Path, hosts_folder: Path) -> Iterator[Host]:
    with new_host(image, hosts_folder) as host:
        host.copy_checkout(SOURCE)
        host.run(
            ["apt-get", "purge", "-y", "-q", "--auto-remove", *MISSING, "postgresql-15", "redis-tools"],
            environment={"DEBIAN_FRONTEND": "noninteractive"},
            timeout_s=120,
        )
        yield host


def test_a_dry_run_names_the_packages_and_installs_none(host: Host) -> None:
    done = host.run([f"{SOURCE}/scripts/install.sh", "--dry-run"], check=False)
    assert f"install Debian's packages: {' '.join(MISSING)}" in done.stderr
    assert host.run(["which", "git", "pkaction", "redis-server"], check=False).stdout == ""


def test_a_package_that_cannot_be_had_ends_it_before_anything_of_ours_is_changed(host: Host) -> None:
    host.run(["sh", "-c", f"mkdir /var/away && mv {CACHE}/redis-server_* /var/away"])
    done = host.run([f"{SOURCE}/scripts/install.sh", "--base-host", BASE_HOST], check=False, timeout_s=120)
    host.run(["sh", "-c", f"mv /var/away/* {CACHE}"])
    assert done.returncode == 2
    assert "apt-get could not install" in done.stderr
    for path in ("/etc/oroboros", "/srv/oroboros", "/usr/local/bin/oroboros"):
        assert host.run(["test", "-e", path], check=False).returncode == 1


def test_with_the_packages_at_hand_one_command_brings_the_host_up(host: Host) -> None:
    assert "all is well" in install(host, "--base-host", BASE_HOST)
    for package in MISSING:
        assert host.text("dpkg-query", "-W", "-f", "${db:Status-Status}", package) == "installed"
    assert "nothing to do" in install(host)
