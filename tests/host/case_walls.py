"""What can a preview reach, take or leave behind, when its code is hostile? It is asked from inside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.model.command import BRANCH_NAME, COMMIT_NAMES
from tests.host.team import RECIPE, WITH_DATABASE, Team, install, serving_team

LOOK = r"""
import errno, glob, os, socket, stat
out = {"tcp": [], "unix": [], "read": [], "write": [], "env": sorted(os.environ), "pids": []}
for port in (22, 3100, 3101, 3102, 5432, 6379, 8000, 8070, 8088, 8090, 8100, 8101, 8102, 8200, 8300, 8202):
    s = socket.socket(); s.settimeout(1)
    if s.connect_ex(("127.0.0.1", port)) == 0: out["tcp"].append(port)
    s.close()
for folder, _, names in os.walk("/run"):
    for name in names:
        path = os.path.join(folder, name)
        try:
            if not stat.S_ISSOCK(os.stat(path).st_mode): continue
        except OSError: continue
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            s = socket.socket(socket.AF_UNIX, kind)
            try: s.connect(path)
            except OSError: pass
            else: out["unix"].append(path)
            finally: s.close()
ours = "/srv/oroboros/"
places = ["/etc/oroboros", ours + "orders", ours + "repo.git", ours + "releases", ours + "slots", ours + "artifacts",
          ours + "slots/main/data", ours + "slots/preview-2/data", "/root", "/home", "/var/log", "OTHER"]
for place in places:
    try: os.listdir(place); out["read"].append(place)
    except OSError: pass
for place in ["/srv/oroboros", ours + "slots/preview-1", os.getcwd(), "/opt/oroboros", "/etc", "/usr", "/var/lib"]:
    try: open(place + "/mine", "w").close(); out["write"].append(place)
    except OSError: pass
out["pids"] = [int(p) for p in os.listdir("/proc") if p.isdigit()]
out["caps"] = [l.split()[1] for l in open("/proc/self/status") if l.startswith("CapEff")]
return out
"""
BIND = r"""
import socket
s = socket.socket(); s.bind(("127.0.0.1", 8300)); s.listen(); globals()["kept"] = s
return "bound"
"""
STAY = r"""
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(900)
    os._exit(0)
open("/tmp/left", "w").close(); open("/dev/shm/left", "w").close()
open(os.environ["OROBOROS_DATA"] + "/left", "w").close()
return "stays"
"""
#: Tells systemd, for as long as it lives, that it is another run every time, and that it needs another hour to end.
LIE = r"""
import itertools, signal, socket, threading
words = "STATUS=generation {}\\nEXTEND_TIMEOUT_USEC=3600000000"
def lie():
    for number in itertools.count(1):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            try: to.sendto(words.format(number).encode(), "/run/systemd/notify")
            except OSError: pass
            else: heard.append(number)
        threading.Event().wait(0.001)
heard = []
threading.Thread(target=lie, daemon=True).start()
threading.Event().wait(0.5)
return len(heard)
"""
NEEDS = r"""
import resource, socket
try: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); netlink = True
except OSError: netlink = False
files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
return {"netlink": netlink, "proc": os.path.exists("/proc/cpuinfo"), "files": files}
"""
GREED = r"""
import os, threading
kind = "MEMORY"
if kind == "memory":
    bytearray(2 << 30)
children = 0
try:
    for _ in range(2000):
        if os.fork() == 0:
            import time; time.sleep(60); os._exit(0)
        children += 1
except OSError:
    pass
return children
"""


@pytest.fixture(scope="module")
def team(image: Path, hosts_folder: Path) -> Iterator[Team]:
    with serving_team(image, hosts_folder) as team:
        yield team


@pytest.fixture(scope="module")
def seen(team: Team) -> Iterator[dict[str, object]]:
    """What a preview with a database of its own sees, from inside."""
    other = str(team.get("app")["release"])
    do = LOOK.replace("OTHER", f"/srv/oroboros/releases/{other}")
    number = team.open_pull("look", 2, do=do, recipe=RECIPE + WITH_DATABASE)
    team.wait_live("preview1", 2)
    done = team.get("preview1", "/do")["done"]
    assert isinstance(done, dict), json.dumps(done)
    yield done
    team.close_pull(number)


def test_it_reaches_no_port_of_anybody_but_its_own(seen: dict[str, object]) -> None:
    # 5432 is led to the socket by a process of its own: the server knows who comes, and lets it into its database.
    assert set(seen["tcp"]) <= {8201, 8301, 5432}  # type: ignore[call-overload]
    assert 5432 in seen["tcp"]  # type: ignore[operator]


def test_of_all_sockets_it_reaches_its_database_and_the_journal(seen: dict[str, object]) -> None:
    reached = set(seen["unix"])  # type: ignore[call-overload]
    assert reached == {"/run/systemd/journal/stdout", "/run/postgresql/.s.PGSQL.5432"}


def test_it_reads_nothing_of_anybody_and_no_other_release(seen: dict[str, object]) -> None:
    assert seen["read"] == []


def test_it_writes_nothing_but_its_own_data(seen: dict[str, object]) -> None:
    assert seen["write"] == []


def test_it_sees_no_process_but_its_own_and_has_no_capability(seen: dict[str, object]) -> None:
    # The app and the program, and ours in the same walls: what its log goes through, and the way to its database.
    assert len(seen["pids"]) <= 5  # type: ignore[arg-type]
    assert seen["caps"] == ["0000000000000000"]


def test_its_environment_holds_no_secret_of_ours(seen: dict[str, object]) -> None:
    allowed = {
        *("PATH", "HOME", "LANG", "TMPDIR", "PYTHONDONTWRITEBYTECODE", "LC_CTYPE", "HOST", "PORT", "DATABASE_URL"),
        *("OROBOROS_SLOT", "OROBOROS_RELEASE", "OROBOROS_URL", "OROBOROS_DATA", "OROBOROS_NONCE"),
        *("OROBOROS_PULL_REQUEST", "OROBOROS_CONFIGURED", "NODE_ENV", "RAILS_ENV", "RACK_ENV", "MIX_ENV"),
        *("OROBOROS_BRANCH", "GIT_CEILING_DIRECTORIES", BRANCH_NAME, *COMMIT_NAMES),
    }
    assert set(seen["env"]) <= allowed  # type: ignore[call-overload]


def test_it_cannot_take_the_port_of_productions_next_instance(team: Team) -> None:
    number = team.open_pull("bind", 3, do=BIND)
    slot = wait_preview(team, 3)
    assert team.get(slot, "/do")["done"] == "bound"  # in its own network
    team.push(4)
    team.wait_live("app", 4)
    team.push(5)
    team.wait_live("app", 5)
    team.close_pull(number)
    team.settle()


def test_nothing_of_it_outlives_its_lease(team: Team) -> None:
    number = team.open_pull("stay", 6, do=STAY)
    slot = wait_preview(team, 6)
    assert team.get(slot, "/do")["done"] == "stays"
    release = f"/srv/oroboros/releases/{team.get(slot)['release']}"
    opened_to = team.host.text("getfacl", "-cp", release)
    assert f"user:oroboros-{slot.replace('preview', 'preview-')}:r-x" in opened_to
    user = f"oroboros-{slot.replace('preview', 'preview-')}"
    assert team.host.run(["pgrep", "-c", "-u", user], check=False).stdout.strip() != "0"
    team.close_pull(number)
    team.wait(lambda: team.host.run(["pgrep", "-u", user], check=False).stdout == "", "no process is to be left")
    data = f"/srv/oroboros/slots/{slot.replace('preview', 'preview-')}/data"
    team.wait(lambda: team.host.text("find", data, "-mindepth", "1") == "", "its data is to be gone")
    assert team.host.run(["sh", "-c", "ls /tmp/left /dev/shm/left"], check=False).stdout == ""
    opened = f"getfacl -cp /srv/oroboros/releases/* 2>/dev/null | grep '^user:{user}:'"
    team.wait(lambda: team.host.run(["sh", "-c", opened], check=False).stdout == "", "no release is to be open to it")
    owned = f"find /tmp /var/tmp /dev/shm /srv/oroboros/builds -user {user} 2>/dev/null"
    assert team.host.text("sh", "-c", owned) == ""
    team.settle()


def test_what_it_says_of_itself_does_not_keep_it_alive(team: Team) -> None:
    number = team.open_pull("lie", 7, do=LIE)
    slot = wait_preview(team, 7)
    assert team.get(slot, "/do")["done"] == 0, "nobody heard it"
    shown = team.host.text("systemctl", "show", "--property=StatusText,NotifyAccess", team.unit_of(slot))
    assert set(shown.splitlines()) == {"StatusText=", "NotifyAccess=none"}
    team.close_pull(number)
    team.wait(lambda: team.unit_of(slot) == "", "the slot is to be free")
    of = f"preview-{slot.removeprefix('preview')}"
    team.wait(lambda: free_slots(team) >= {of}, f"{of} is to be free for another")
    team.settle()


def free_slots(team: Team) -> set[str]:
    told = json.loads(team.host.text("oroboros", "slots", "--json"))["slots"]
    return {str(one["slot"]) for one in told if one["state"] == "free"}


@pytest.mark.parametrize("kind", ["memory", "forks"])
def test_greed_is_bounded_and_production_goes_on(team: Team, kind: str) -> None:
    version = 30 + len(kind)
    number = team.open_pull(f"greed-{kind}", version, do=GREED.replace("MEMORY", kind))
    slot = wait_preview(team, version)
    answered = team.get(slot, "/do")
    if kind == "forks":
        assert int(str(answered.get("done", 0))) < 300
    for _ in range(5):
        assert team.get("app")["version"] == 5
    assert team.host.is_active("ouroboros-worker")
    team.close_pull(number)
    team.wait(lambda: team.unit_of(slot) == "", "the slot is to be free")
    team.settle()


def test_a_wall_is_relaxed_by_its_key_at_install(team: Team) -> None:
    team.settle()
    team.push(40, do=NEEDS)
    team.wait_live("app", 40)
    assert team.get("app", "/do")["done"] == {"netlink": False, "proc": False, "files": 4096}
    relaxed = '[walls]\nnetlink = true\nproc = "all"\nopen_files = 8192\n'
    team.push(41, do=NEEDS, recipe=RECIPE + relaxed)
    team.wait_live("app", 41)
    team.settle()
    assert "instance@main-a" in install(team.host)
    team.push(42, do=NEEDS, recipe=RECIPE + relaxed)
    team.wait_live("app", 42)
    assert team.get("app", "/do")["done"] == {"netlink": True, "proc": True, "files": 8192}


def wait_preview(team: Team, version: int) -> str:
    """Return which preview serves a version, once one does."""
    labels = ("preview1", "preview2", "preview3")
    team.wait(
        lambda: any(team.get(label).get("version") == version for label in labels),
        f"version {version} is to be previewed",
    )
    return next(label for label in labels if team.get(label).get("version") == version)
