"""Is the host of these tests a host? Limits, walls and credentials of systemd hold in it, and nothing of it stays."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.host import CHECKOUT, Host, HostFailed, control_groups, new_host


@pytest.fixture(scope="module")
def host(image: Path, hosts_folder: Path) -> Iterator[Host]:
    with new_host(image, hosts_folder) as host:
        yield host


def run_unit(host: Host, *words: str, **properties: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a transient unit, with properties, and wait for its end."""
    settings = [f"--property={name}={value}" for name, value in properties.items()]
    running = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", *settings, "--", *words]
    return host.run(running, check=False)


def test_the_host_boots_to_running(host: Host) -> None:
    assert host.text("systemctl", "is-system-running") == "running", host.text("systemctl", "--failed", "--no-legend")
    assert host.read("/proc/1/comm") == "systemd\n"
    assert 'VERSION_ID="12"' in host.read("/etc/os-release")


def test_the_host_has_a_network_of_its_own_loopback_and_nothing_else(host: Host) -> None:
    links = [line.split(":")[1].strip() for line in host.text("ip", "-o", "link").splitlines()]
    assert links == ["lo"]
    assert host.text("ip", "route") == ""


def test_the_host_does_not_change_the_machine_s_kernel(host: Host) -> None:
    done = host.run(["sh", "-c", "echo core >/proc/sys/kernel/core_pattern"], check=False)
    assert "Read-only file system" in done.stderr
    host.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"])
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() != host.read("/proc/sys/net/ipv4/ip_forward")


def test_only_the_host_s_own_processes_are_in_its_groups(host: Host) -> None:
    # On cgroup v2 systemd could not hand on a controller otherwise.
    assert host.process is not None
    for group in control_groups(host.name):
        inside = {int(pid) for folder in group.rglob("cgroup.procs") for pid in folder.read_text().split()}
        assert host.pid in inside
        assert host.process.pid not in inside


def test_memory_max_kills(host: Host) -> None:
    greedy = "x = bytearray(200 * 1024 * 1024)"
    assert run_unit(host, "python3", "-c", greedy).returncode == 0
    assert run_unit(host, "python3", "-c", greedy, MemoryMax="50M", MemorySwapMax="0").returncode == 255


def test_tasks_max_stops_forks(host: Host) -> None:
    forks = "import os, time\nfor n in range(30):\n    if os.fork() == 0: time.sleep(30)\nprint('all')"
    done = run_unit(host, "python3", "-c", forks, TasksMax="10")
    assert done.returncode != 0
    assert "Resource temporarily unavailable" in done.stderr


def test_ip_address_deny_drops(host: Host) -> None:
    asking = "import socket; socket.create_connection(('127.0.0.1', 5432), 2)"
    assert run_unit(host, "python3", "-c", asking).returncode == 0
    denied = run_unit(host, "python3", "-c", asking, IPAddressDeny="any")
    assert denied.returncode != 0, denied
    assert run_unit(host, "python3", "-c", asking, IPAddressDeny="any", IPAddressAllow="localhost").returncode == 0


def test_a_private_network_reaches_nothing_of_the_host(host: Host) -> None:
    asking = "import socket; socket.create_connection(('127.0.0.1', 5432), 2)"
    assert "refused" in run_unit(host, "python3", "-c", asking, PrivateNetwork="yes").stderr


def test_a_credential_reaches_a_unit_that_is_not_roots(host: Host) -> None:
    host.write("/etc/test-secret", "a secret\n", mode="0600")
    reading = "import os, pathlib; print((pathlib.Path(os.environ['CREDENTIALS_DIRECTORY']) / 'one').read_text())"
    done = run_unit(host, "python3", "-c", reading, User="nobody", LoadCredential="one:/etc/test-secret")
    assert done.stdout.strip() == "a secret", done
    assert host.run(["cat", "/etc/test-secret"], user="nobody", check=False).returncode != 0


def test_an_access_list_opens_a_file_to_one_user_more(host: Host) -> None:
    host.write("/srv/for-one-more", "hello\n", mode="0600")
    assert host.run(["cat", "/srv/for-one-more"], user="www-data", check=False).returncode != 0
    host.run(["setfacl", "-m", "u:www-data:r", "/srv/for-one-more"])
    assert host.text("cat", "/srv/for-one-more", user="www-data") == "hello"
    assert host.run(["cat", "/srv/for-one-more"], user="nobody", check=False).returncode != 0


def test_a_reboot_keeps_the_files_and_changes_the_boot_id(host: Host) -> None:
    before = host.read("/proc/sys/kernel/random/boot_id")
    host.write("/var/lib/kept", "kept")
    host.reboot()
    assert host.read("/var/lib/kept") == "kept"
    assert host.read("/proc/sys/kernel/random/boot_id") != before
    assert len(host.text("journalctl", "--list-boots", "-q").splitlines()) == 2


def test_a_host_whose_power_was_cut_boots_again(host: Host) -> None:
    host.write("/var/lib/kept", "before the cut")
    host.power_cut()
    with pytest.raises(ProcessLookupError):
        os.kill(host.pid or 2**22 - 1, 0)
    host.boot()
    assert host.read("/var/lib/kept") == "before the cut"
    assert host.text("systemctl", "is-system-running") == "running"


def test_a_command_that_fails_says_what_it_said(host: Host) -> None:
    with pytest.raises(HostFailed, match="no-such-file"):
        host.run(["cat", "/no-such-file"])


#: Forks twice, leaves its session, closes its files, ignores TERM: what is meant to outlive its parent.
STUBBORN = """
import os, signal, sys, time
if os.fork(): sys.exit()
os.setsid()
if os.fork(): sys.exit()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.closerange(0, 3)
time.sleep(600)
"""


def with_marker(marker: str) -> list[int]:
    """Return the processes of this machine that carry a marker among their words."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if marker.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def test_teardown_leaves_nothing(image: Path, hosts_folder: Path) -> None:
    marker = secrets.token_hex(12)
    with new_host(image, hosts_folder) as host:
        host.run(["python3", "-c", STUBBORN, marker])
        host.run(["systemd-run", "--quiet", "--property=KillMode=none", "--", "python3", "-c", STUBBORN, marker])
        host.wait_until(lambda: len(with_marker(marker)) == 2, "two stubborn processes are to run")
        assert control_groups(host.name)
    assert with_marker(marker) == []
    assert control_groups(host.name) == []
    assert not host.folder.exists()
    assert host.name not in Path("/proc/self/mountinfo").read_text()


#: A run of its own: boots a host, leaves a stubborn process in it, and waits.
RUN = """
import sys, time
from pathlib import Path
from tests.host.host import new_host, session_folder
from tests.host.plugin import _interrupt
import signal
signal.signal(signal.SIGTERM, _interrupt)
image = Path(sys.argv[1])
with session_folder(image) as session, new_host(image, session) as host:
    host.run(["python3", "-c", sys.argv[2], sys.argv[3]])
    print(host.folder, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_a_run_that_is_interrupted_leaves_no_process(image: Path, number: signal.Signals) -> None:
    marker = secrets.token_hex(12)
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, str(image), STUBBORN, marker],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert run.stdout is not None
    folder = Path(run.stdout.readline().strip())
    assert folder.name, "the run was to boot a host"
    assert len(with_marker(marker)) >= 2, "the run itself, and what it left in its host"
    run.send_signal(number)
    run.wait(60)
    run.stdout.close()
    deadline = time.monotonic() + 20
    while with_marker(marker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert with_marker(marker) == []
    if number != signal.SIGKILL:  # then the next run removes the empty folders: `sweep`
        assert not folder.parent.exists()
        assert control_groups(folder.name) == []
