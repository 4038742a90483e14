"""What becomes of a Debian 12 in use that is upgraded to Debian 13, and rebooted?

The upgrade is apt's own. Hosts have no network, so apt runs on this machine's; most packages it finds in its cache,
which is filled with those that the image of Debian 13 was made of.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.host import Host
from tests.host.image import CACHE, MEANT_FOR_IT, TRIXIE, download_wheels, mirror_of_this_machine
from tests.host.team import SOURCE, Team, serving_team

APT = ("apt-get", "-q", "-y", "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold")
PREPARED = ("ouroboros-web@main.service", "ouroboros-caddy.service", "ouroboros-api.socket")


@pytest.fixture(scope="module")
def team(image: Path, hosts_folder: Path) -> Iterator[Team]:
    with serving_team(image, hosts_folder) as team:
        yield team


def with_network(host: Host, *words: str, timeout_s: float) -> str:
    """Run a command in a host, with this machine's network in place of the host's own."""
    inside = [word for word in host.words(words, user="root", folder="/", timeout_s=timeout_s) if word != "-n"]
    environment = {**host.environment("root", None), "DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1"}
    done = subprocess.run(inside, capture_output=True, text=True, timeout=timeout_s + 30, env=environment, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def use_trixie(host: Host) -> None:
    """Have apt take packages from Debian 13, from the mirror of this machine."""
    root = Path(f"/proc/{host.pid}/root")
    for package in (CACHE / f"debs_{TRIXIE.suite}").glob("*.deb"):
        shutil.copy(package, root / "var/cache/apt/archives" / package.name)
    host.run(["sh", "-c", "rm -f /etc/apt/sources.list.d/*"])
    host.write("/etc/apt/sources.list", f"deb {mirror_of_this_machine()} {TRIXIE.suite} main\n")
    for settings in sorted(Path("/etc/apt/apt.conf.d").iterdir()):  # how this machine reaches its mirror
        if not os.path.lexists(root / "etc/apt/apt.conf.d" / settings.name):
            shutil.copy(settings, root / "etc/apt/apt.conf.d" / settings.name)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    for unit in TRIXIE.masked:
        host.run(["systemctl", "mask", "-q", unit])


@pytest.mark.timeout(900)  # some 200 packages are replaced
def test_production_is_served_after_debian_was_upgraded_and_rebooted(team: Team, host: Host) -> None:
    use_trixie(host)
    with_network(host, "apt-get", "-q", "update", timeout_s=120)
    with_network(host, *APT, "dist-upgrade", timeout_s=700)
    assert host.text("/usr/bin/python3", "-c", "import sys; print(*sys.version_info[:2], sep='.')") == TRIXIE.python
    host.run(["apt-get", "clean"])

    host.reboot()

    # Nothing of the old Python is left for api and worker; what serves needs Debian's own alone.
    host.wait_until(lambda: team.get("app")["version"] == 1, "production is to be served after the reboot")
    for unit in PREPARED:
        assert host.is_active(unit)
    done = host.run(["oroboros", "status"], check=False)
    assert (done.returncode, "sudo /opt/oroboros/app/scripts/install.sh" in done.stderr) == (4, True), done.stderr
    assert "scripts/install.sh" in host.text("journalctl", "-b", "-p", "err", "-o", "cat", "-u", "ouroboros-worker")


@pytest.mark.timeout(600)  # the packages of the new Python are fetched, once
def test_installing_again_makes_the_host_whole(team: Team, host: Host, tmp_path: Path) -> None:
    meant = tmp_path / "meant"
    host.run(["/usr/bin/python3", "-m", "venv", "/tmp/venv"], timeout_s=120)  # for the pip in it
    meant.write_text(host.text("/tmp/venv/bin/python", "-c", MEANT_FOR_IT, f"{SOURCE}/requirements.lock"))
    download_wheels(meant, tmp_path / "wheels", TRIXIE.python)
    shutil.copytree(tmp_path / "wheels", Path(f"/proc/{host.pid}/root") / "usr/src/wheels")
    host.write("/etc/pip.conf", "[global]\nno-index = true\nfind-links = /usr/src/wheels\n")
    # The forge of these cases is run by the same packages: it is there first.
    host.run(["/opt/oroboros/app/scripts/install.sh", "--prepare"], timeout_s=300)
    host.run(["systemctl", "restart", "test-forge"])

    told = host.run(["/opt/oroboros/app/scripts/install.sh"], timeout_s=300).stdout

    assert "all is well" in told
    assert host.text("sh", "-c", "ls /opt/oroboros/venvs").endswith(f"-{TRIXIE.python}")
    team.push(2)
    team.wait_live("app", 2)
    team.settle()
    assert host.run(["oroboros", "doctor"], check=False).returncode == 0
