"""What does install do on a Debian that has none of the packages that it needs?

The hosts have no network; what apt once fetched for them is still in its cache, as on a machine whose mirror is away.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.host import Host, new_host
from tests.host.image import BOOKWORM, MEANT_FOR_IT, download_wheels
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


def test_ports_that_others_hold_are_told_before_a_package_is_installed(host: Host) -> None:
    ports = (5432, 8000, 8010)
    for port in ports:
        serve = ["python3", "-m", "http.server", "--bind", "127.0.0.1", str(port)]
        host.run(["systemd-run", "--quiet", "--collect", f"--unit=stranger-{port}", "--", *serve])
    host.wait_until(lambda: all(f":{port} " in host.text("ss", "-Htln") for port in ports), "strangers are to listen")
    words = ["--base-host", BASE_HOST, "--port", "api=8010", "--port=edge=8089", "--port", "worker=8089"]
    done = host.run([f"{SOURCE}/scripts/install.sh", *words], check=False, timeout_s=60)
    host.run(["systemctl", "stop", *(f"stranger-{port}" for port in ports)])
    assert done.returncode == 2
    assert "port 8089 would be that of edge and worker health" in done.stderr
    for port, what in ((5432, "Postgres"), (8010, "api")):
        assert re.search(
            rf"port {port} \({what}\) is held by python3 \(process \d+ of root, stranger-{port}", done.stderr
        )
    assert "port 8000 " not in done.stderr
    assert "installing Debian's packages" not in done.stderr


def test_a_package_that_cannot_be_had_ends_it_before_anything_of_ours_is_changed(host: Host) -> None:
    host.run(["sh", "-c", f"mkdir /var/away && mv {CACHE}/redis-server_* /var/away"])
    done = host.run([f"{SOURCE}/scripts/install.sh", "--base-host", BASE_HOST], check=False, timeout_s=120)
    host.run(["sh", "-c", f"mv /var/away/* {CACHE}"])
    assert done.returncode == 2
    assert "apt-get could not install" in done.stderr
    for path in ("/etc/oroboros", "/srv/oroboros", "/usr/local/bin/oroboros"):
        assert host.run(["test", "-e", path], check=False).returncode == 1


@pytest.mark.timeout(900)  # the packages are fetched once, and installed twice
def test_a_dry_run_says_what_one_command_then_does_and_leaves_nothing(host: Host, tmp_path: Path) -> None:
    host.run(
        ["apt-get", "install", "-y", "-q", "--no-install-recommends", "python3-venv"],
        environment={"DEBIAN_FRONTEND": "noninteractive"},
        timeout_s=120,
    )
    # Nor has it the Python packages; in place of a network for them, a folder.
    python = host.text("sh", "-c", "echo /opt/oroboros/venvs/*/bin/python")
    meant = tmp_path / "meant"
    meant.write_text(host.text(python, "-c", MEANT_FOR_IT, f"{SOURCE}/requirements.lock"))
    download_wheels(meant, tmp_path / "wheels", BOOKWORM.python)
    shutil.copytree(tmp_path / "wheels", Path(f"/proc/{host.pid}/root") / "usr/src/wheels")
    host.write("/etc/pip.conf", "[global]\nno-index = true\nfind-links = /usr/src/wheels\n")
    host.run(["rm", "-r", "/opt/oroboros"])
    files = ["find", "/etc", "/opt", "/srv", "/tmp", "/usr/local", "-mindepth", "1"]
    # Who is asked for the time is started by the bus, with a /tmp of its own.
    files += ["-not", "-path", "/tmp/systemd-private-*", "-printf", "%p %m %u %T@\\n"]
    before = host.text(*files)
    dry = install(host, "--dry-run", "--base-host", BASE_HOST).splitlines()
    assert host.text(*files) == before

    told = host.run([f"{SOURCE}/scripts/install.sh", "--base-host", BASE_HOST], timeout_s=400).stdout

    assert "all is well" in told
    made = re.findall(r"^\[\d+/\d+\] (.*)$", told, re.MULTILINE)
    assert dry == [*made, f"{len(made)} changes; nothing was changed"]
    for package in MISSING:
        assert host.text("dpkg-query", "-W", "-f", "${db:Status-Status}", package) == "installed"
    assert "nothing to do" in install(host)


def test_before_a_repository_is_set_the_api_says_so_however_often_it_is_asked(host: Host) -> None:
    health = "http://127.0.0.1:8000/health"
    # systemd gives a socket up that starts its service more often than 20 times within 2 s.
    words = ["curl", "-s", "-m", "60", "-o", "/dev/null", "-w", "%{http_code}\\n", f"{health}?[1-40]"]
    assert set(host.text(*words).split()) == {"503"}
    assert "repo set OWNER/NAME" in host.text("curl", "-s", "-m", "5", health)
    assert host.run(["oroboros", "health"], check=False).returncode == 1
    states = host.text("systemctl", "is-active", "ouroboros-api.socket", "ouroboros-api.service")
    assert states.split() == ["active", "active"]
    assert "none yet: the worker waits for one" in host.run(["oroboros", "doctor"], check=False).stdout
