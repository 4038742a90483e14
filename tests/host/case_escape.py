"""What does a hostile preview find, reach or become? It runs whatever program a case gives it, inside its walls.

`case_walls` shows that what a preview does stays with it; here it looks for a way out.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.host import Host
from tests.host.team import RECIPE, TOKEN_FILE, WITH_DATABASE, Team, new_team

#: The app runs the program that lies in its data folder, where a case puts it.
OBEY = """
import subprocess, sys
done = subprocess.run([sys.executable, os.environ["OROBOROS_DATA"] + "/program"], capture_output=True, text=True)
return [done.returncode, done.stdout, done.stderr]
"""
SLOT = "preview1"
#: What two other slots' apps are given as their own. Drawn here, so that no file of this checkout holds it.
CANARIES = {slot: secrets.token_hex(16) for slot in ("main", "preview-2")}


@pytest.fixture(scope="module")
def team(image: Path, hosts_folder: Path) -> Iterator[Team]:
    """Production and two previews, each with a database and a secret of its own."""
    with new_team(image, hosts_folder) as team:
        for slot, canary in CANARIES.items():
            team.host.run(["oroboros", "env", "set", slot, "CANARY"], stdin=f"{canary}\n")
        team.push(1, recipe=RECIPE + WITH_DATABASE)
        team.wait_live("app", 1)
        for version, label in ((2, SLOT), (3, "preview2")):
            team.open_pull(f"branch{version}", version, do=OBEY, recipe=RECIPE + WITH_DATABASE)
            team.wait_live(label, version)
        team.settle()
        yield team


def run_inside(team: Team, program: str) -> tuple[int, str, str]:
    """Run a program as the first preview's app; return its exit code, and what it printed."""
    team.host.write("/srv/oroboros/slots/preview-1/data/program", program, owner="oroboros-preview-1")
    done = team.get(SLOT, "/do")["done"]
    assert isinstance(done, list)
    return int(done[0]), str(done[1]).strip(), str(done[2])


def told_by(team: Team, program: str) -> str:
    code, printed, complaint = run_inside(team, program)
    assert code == 0, complaint
    return printed


CONNECT = """
import json, os, socket
ports, sockets = json.loads({!r})
def can(family, kinds, address):
    for kind in kinds:
        with socket.socket(family, kind) as one:
            one.settimeout(1)
            try:
                one.connect(address)
                return True
            except OSError:
                continue
    return False
stream, every = (socket.SOCK_STREAM,), (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)
v4, v6 = socket.AF_INET, socket.AF_INET6
print(json.dumps([
    [port for port in ports if can(v4, stream, ("127.0.0.1", port)) or can(v6, stream, ("::1", port))],
    [path for path in sockets if can(socket.AF_UNIX, every, path)],
    int(os.environ["PORT"]),
]))
"""


def test_of_every_port_and_socket_of_the_host_it_reaches_its_own(team: Team, host: Host) -> None:
    ports = sorted({int(line.split()[3].rpartition(":")[2]) for line in host.text("ss", "-Hltn").splitlines()})
    sockets = host.text("find", "/run", "-type", "s").splitlines()
    assert {3100, 5432, 6379, 8000, 8070, 8088, 8090} <= set(ports)
    assert len(sockets) > 15
    both_colours = [8200, 8201, 8202, 8300, 8301, 8302]
    told = json.loads(told_by(team, CONNECT.format(json.dumps([sorted({*ports, *both_colours}), sockets]))))
    # Its own port, and the one in its own network that leads to the database server's socket.
    assert told[0] == [5432, told[2]]
    # Where what it prints goes, and its database server.
    allowed = {"/run/systemd/journal/stdout", "/run/postgresql/.s.PGSQL.5432"}
    assert set(told[1]) == allowed


def test_no_way_leads_out_of_its_network(team: Team) -> None:
    sending = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 53))"
    assert "unreachable" in run_inside(team, sending)[2]


ENTER = """
import json, subprocess
entered = []
for role in {roles!r}:
    for database in {databases!r}:
        for way in ("/run/postgresql", "127.0.0.1"):
            words = ["psql", "-X", "-w", "-h", way, "-U", role, "-c", "SELECT 1", database]
            if subprocess.run(words, capture_output=True).returncode == 0:
                entered.append([way, role, database])
print(json.dumps(entered))
"""


def test_of_every_role_and_database_it_enters_its_own(team: Team) -> None:
    roles = team.sql("SELECT rolname FROM pg_roles WHERE rolcanlogin ORDER BY 1").split()
    databases = team.sql("SELECT datname FROM pg_database ORDER BY 1").split()
    assert {"app_main", "oroboros_api", "oroboros_worker", "postgres", "preview_1", "preview_2"} <= set(roles)
    assert {"app_main", "builder_control", "preview_1", "preview_2"} <= set(databases)
    entered = json.loads(told_by(team, ENTER.format(roles=roles, databases=databases)))
    assert entered == [["/run/postgresql", "preview_1", "preview_1"], ["127.0.0.1", "preview_1", "preview_1"]]


#: Reads whatever it can. The secrets are written backwards, so that it does not find its own words.
SEARCH = """
import json, os, stat
secrets = [word[::-1].encode() for word in json.loads({!r})]
found, read = [], 0
def look(path):
    global read
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return
        with open(path, "rb") as file:
            content = file.read(1 << 20)
    except OSError:
        return
    read += 1
    if any(secret in content for secret in secrets):
        found.append(path)
for top in ("/etc", "/srv", "/run", "/root", "/home", "/tmp", "/var", "/dev/shm", "/opt/oroboros/app", "/usr/src"):
    for folder, _, names in os.walk(top):
        for name in names:
            look(os.path.join(folder, name))
for pid in os.listdir("/proc"):
    for name in ("environ", "cmdline"):
        look(f"/proc/{{pid}}/{{name}}")
print(json.dumps([found, read]))
"""


def secrets_of(host: Host) -> list[str]:
    """Return every secret of a host: what install drew, the forge's token, and what others' apps were given."""
    values = [host.read(path).strip() for path in ("/etc/oroboros/webhook-secrets", TOKEN_FILE)]
    for name in ("api.env", "worker.env"):
        for line in host.read(f"/etc/oroboros/{name}").splitlines():
            _, has_password, password = line.partition("://")[2].rpartition("@")[0].partition(":")
            if has_password:
                values.append(password)
    assert len(set(values)) >= 4
    return sorted({*values, *CANARIES.values()})


def test_it_finds_no_secret_wherever_it_reads(team: Team, host: Host) -> None:
    program = SEARCH.format(json.dumps([value[::-1] for value in secrets_of(host)]))
    # Root's own search finds them: so it can find.
    assert len(json.loads(host.run(["python3", "-c", program], timeout_s=120).stdout)[0]) >= 5
    found, read = json.loads(told_by(team, program))
    assert found == []
    assert read > 100


def test_the_worker_finds_no_secret_of_an_app(host: Host) -> None:
    program = SEARCH.format(json.dumps([canary[::-1] for canary in CANARIES.values()]))
    done = host.run(["python3", "-c", program], user="oroboros-worker", timeout_s=120)
    assert json.loads(done.stdout)[0] == []


def test_no_secret_is_in_the_journal(host: Host) -> None:
    told = host.journal()
    assert [secret for secret in secrets_of(host) if secret in told] == []


def test_of_every_release_it_reads_its_own_and_writes_none(team: Team, host: Host) -> None:
    releases = [name for name in host.text("ls", "/srv/oroboros/releases").split() if len(name) == 40]
    assert len(releases) == 3
    own = str(team.get(SLOT)["release"])
    seeing = "import os; print([s for s in {!r} if os.access('/srv/oroboros/releases/' + s + '/app.py', os.R_OK)])"
    assert told_by(team, seeing.format(releases)) == str([own])
    for how in ("open(p, 'a')", "os.unlink(p)", "os.rename(p, p + '2')", "os.chmod(p, 0o777)", "os.utime(p)"):
        code, _, complaint = run_inside(team, f"import os; p = '/srv/oroboros/releases/{own}/app.py'; {how}")
        assert code != 0, how
        assert "Error" in complaint


LIBC = "import ctypes; libc = ctypes.CDLL(None); "


ATTEMPTS = {
    "become root": "import os; os.setuid(0)",
    "become another user": "import os, pwd; os.setuid(pwd.getpwnam('oroboros-main').pw_uid)",
    "run sudo": "import subprocess; subprocess.run(['sudo', '-n', 'true'], check=True)",
    "run su": "import subprocess; subprocess.run(['su', '-c', 'true'], check=True, stdin=subprocess.DEVNULL)",
    "make a user namespace": f"{LIBC}assert libc.unshare(0x10000000) == 0",
    "make a mount namespace": f"{LIBC}assert libc.unshare(0x00020000) == 0",
    "mount": f"{LIBC}assert libc.mount(b'x', b'/tmp', b'tmpfs', 0, None) == 0",
    "chroot": "import os; os.chroot('/tmp')",
    "make a device": "import os; os.mknod('/tmp/disk', 0o60600, os.makedev(253, 0))",
    "make a program that is another's": "import os; open('/tmp/s', 'w').close(); os.chmod('/tmp/s', 0o4755)",
    "open a raw socket": "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "ask the kernel about networks": "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "trace a process": f"import os; {LIBC}assert libc.ptrace(16, os.getppid(), 0, 0) == 0",
    "load a program into the kernel": f"{LIBC}assert libc.syscall(321, 0, None, 0) >= 0",
    "set the clock": "import time; time.clock_settime(time.CLOCK_REALTIME, time.time())",
    "set the host's name": "import socket; socket.sethostname('mine')",
    "signal PID 1": "import os; os.kill(1, 9)",
    "be nicer to itself": "import os; os.nice(-5)",
    "go before others": "import os; os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))",
    "take the processor that it leaves": "import os; os.sched_setaffinity(0, {0})",
    "write to the kernel": "open('/proc/sys/kernel/core_pattern', 'w')",
    "move to another control group": "open('/sys/fs/cgroup/cgroup.procs', 'w')",
    "write a cron job": "open('/etc/cron.d/x', 'w')",
    "write a unit": "open('/etc/systemd/system/x.service', 'w')",
    "write to its own order": "open('/srv/oroboros/orders/ouroboros-instance@preview1-a.json', 'w')",
    "reach systemd": "import subprocess; subprocess.run(['systemctl', 'stop', 'ssh'], check=True)",
}


@pytest.mark.parametrize("what", ATTEMPTS)
def test_it_cannot(what: str, team: Team) -> None:
    code, printed, complaint = run_inside(team, ATTEMPTS[what])
    assert code != 0, printed
    assert "SyntaxError" not in complaint
    assert "NameError" not in complaint
    assert team.get(SLOT)["version"] == 2, "it tried, and lives on"
