"""Is a host that was lost back from its backup, and does a purge leave one as install found it?"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.host import Host, new_host
from tests.host.team import RECIPE, SOURCE, WITH_DATABASE, Team, install, new_team

BACKUP = "/var/backups/one.tar"
#: The edge learns the restored names last, after every surface was started anew with them.
RESTORED_WITHIN_S = 240.0
#: Rows that a restored host goes on with.
HISTORY = (
    "SELECT generation, sha, state, cause FROM runs WHERE slot = 'main' ORDER BY generation",
    "SELECT tree, reason FROM quarantine ORDER BY 1",
    "SELECT slot, actor, reason, ended_at FROM holds ORDER BY id",
)

RIGHTS = "pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba)))"
PSQL = "runuser -u postgres -- psql -XAtc"
#: What a host is like, as far as install changes it: files of Postgres and Redis, roles, rights, users, units.
LOOKS = (
    "find /etc/postgresql /etc/redis /etc/polkit-1 /etc/tmpfiles.d -type f -printf '%p %m %u %g ' -exec sha256sum {} +",
    "find /etc/systemd /usr/local -not -type d -printf '%p %l\\n' | sort",
    "cut -d: -f1,3,4,6,7 /etc/passwd | sort; cut -d: -f1,4 /etc/group | sort",
    f'{PSQL} "SELECT rolname, rolsuper, rolcreatedb, rolconfig FROM pg_roles ORDER BY 1"',
    f'{PSQL} "SELECT datname, a.grantee, a.privilege_type FROM {RIGHTS} a ORDER BY 1, 2, 3"',
    f'{PSQL} "SELECT type, database, user_name, address, auth_method FROM pg_hba_file_rules"',
    "redis-cli ACL LIST; redis-cli CONFIG GET bind",
    "systemctl list-unit-files --no-legend --plain 'ouroboros*' 'postgresql*' 'redis*'",
    "systemctl is-active postgresql redis-server",
    "ls /srv /opt /var/log /var/lib/systemd/timers /run | grep -i ouroboros",
)
BEFORE: dict[str, str] = {}


def looks(host: Host) -> dict[str, str]:
    return {look: host.run(["sh", "-c", look], check=False).stdout for look in LOOKS}


@pytest.fixture(scope="module")
def team(image: Path, hosts_folder: Path) -> Iterator[Team]:
    with new_team(image, hosts_folder, look_before=lambda host: BEFORE.update(looks(host))) as team:
        team.push(1, recipe=WITH_DATABASE + RECIPE)
        team.wait_live("app", 1)
        team.settle()
        yield team


@pytest.fixture(scope="module")
def other(image: Path, hosts_folder: Path) -> Iterator[Team]:
    """A second fresh host, without forge and network, as it is after install."""
    with new_host(image, hosts_folder) as host:
        host.copy_checkout(SOURCE)
        install(host)
        yield Team(host)


def carry(one: Host, other: Host, file: str) -> None:
    """Copy a file from one host to another, as an operator would."""
    shutil.copyfile(f"/proc/{one.pid}/root{file}", f"/proc/{other.pid}/root{file}")


def test_a_backup_is_closed_to_others_and_holds_no_secret_unless_asked(team: Team, host: Host) -> None:
    host.run(["oroboros", "env", "set", "main", "STRIPE_KEY"], stdin="a word that is secret\n")
    bad = team.push(2, status=500, recipe=WITH_DATABASE + RECIPE)
    team.wait_status(bad, "failure")
    team.settle()
    host.run(["oroboros", "hold", "--reason", "moving", "--for", "1d"])
    host.run(["sh", "-c", "echo upload >/srv/oroboros/slots/main/data/upload"])
    plain = host.run(["oroboros", "backup", "/var/backups/plain.tar"], timeout_s=120).stdout
    assert "app-main.env (STRIPE_KEY)" in plain
    whole = host.run(["oroboros", "backup", "--with-secrets", BACKUP], timeout_s=120).stdout
    assert "it holds secrets" in whole
    for file, held in (("/var/backups/plain.tar", "0"), (BACKUP, "1")):
        assert host.text("stat", "-c", "%a %U", file) == "600 root"
        listing = f"tar -xOf {file} config.tar.gz | tar -tz | grep -c -x -e webhook-secrets"
        assert host.run(["sh", "-c", listing], check=False).stdout.strip() == held
    assert host.text("sh", "-c", "ls -A /var/backups | grep -c backup- || true") == "0"


def test_a_damaged_backup_is_refused_and_nothing_changes(team: Team, other: Team) -> None:
    carry(team.host, other.host, BACKUP)
    size = int(other.host.text("stat", "-c", "%s", BACKUP))
    other.host.run(["cp", BACKUP, "/var/tmp/flipped.tar"])
    flip = f"printf '\\377\\000\\377' | dd of=/var/tmp/flipped.tar bs=1 seek={size // 2} conv=notrunc status=none"
    other.host.run(["sh", "-c", flip])
    other.host.run(
        ["sh", "-c", f"head -c {size // 2} {BACKUP} >/var/tmp/short.tar; head -c 4096 /dev/urandom >/var/tmp/x"]
    )
    for file in ("flipped.tar", "short.tar", "x"):
        done = other.host.run(["oroboros", "restore", f"/var/tmp/{file}"], check=False)
        assert done.returncode in (2, 3), done
        assert "damaged" in done.stderr, file
    assert other.sql("SELECT count(*) FROM runs") == "0"


def test_a_backup_makes_a_second_host_serve_what_the_first_served(team: Team, other: Team) -> None:
    release = team.get("app")["release"]
    told = [team.sql(query) for query in HISTORY]
    hits = int(str(team.get("app")["hit"]))
    # At its end it waits for a forge, and this host has no network.
    restoring = other.host.start(["oroboros", "restore", BACKUP])
    try:
        other.wait(lambda: other.get("app").get("version") == 1, "version 1 is to be back", timeout_s=RESTORED_WITHIN_S)
        other.settle()
    finally:
        other.host.run(["pkill", "-f", "controller.doors.cli restore"], check=False)
        said, problem = restoring.communicate(timeout=30)
    assert "[5/5]" in said, problem
    answer = other.get("app")
    assert answer["release"] == release
    assert 1 < int(str(answer["hit"])) <= hits + 60, "it goes on in the table that it had"
    for query, then in zip(HISTORY, told, strict=True):
        assert set(then.splitlines()) <= set(other.sql(query).splitlines()), query
    assert other.host.read("/srv/oroboros/slots/main/data/upload") == "upload\n"
    assert "moving" in other.host.run(["oroboros", "status"], check=False).stdout
    assert "a word that is secret" in other.host.read("/etc/oroboros/app-main.env")
    assert other.host.run(["oroboros", "verify", str(release)], check=False).returncode == 0


def test_a_host_in_use_is_not_overwritten_without_a_word(other: Team) -> None:
    done = other.host.run(["oroboros", "restore", BACKUP], check=False)
    assert (done.returncode, "--replace" in done.stderr) == (3, True)


def test_backups_by_a_timer_are_made_and_the_oldest_go(host: Host) -> None:
    host.run(["systemctl", "reset-failed"])  # a timer of the setup's may have met a host that was not ready
    install(host, "--backups", "2")
    assert host.is_active("ouroboros-maintenance-backup.timer")
    folder = "/var/backups/oroboros"
    host.run(["install", "-d", "-m", "700", folder])
    for day in ("01", "02"):
        host.run(["touch", f"{folder}/oroboros-202601{day}T023000Z.tar"])
    host.run(["systemctl", "start", "ouroboros-maintenance-backup.service"], timeout_s=120)
    kept = host.text("ls", "-A", folder).splitlines()
    assert len(kept) == 2
    assert kept[0] == "oroboros-20260102T023000Z.tar"


def test_a_purge_needs_a_yes(host: Host) -> None:
    done = host.run(["oroboros", "uninstall", "--purge"], check=False)
    assert (done.returncode, host.is_active("ouroboros-worker.service")) != (0, False)


def test_a_purge_leaves_the_host_as_install_found_it_and_may_be_repeated(host: Host) -> None:
    host.run(["cp", "-al", "/opt/oroboros/venvs", "/usr/src/venvs"])
    host.run(["systemctl", "disable", "-q", "--now", "test-forge"])
    host.run(["rm", "/etc/systemd/system/test-forge.service"])
    host.run(["oroboros", "uninstall", "--purge", "--yes"], timeout_s=180)
    after = looks(host)
    for look in LOOKS:
        assert after[look] == BEFORE[look], look
    for path in ("/srv/oroboros", "/etc/oroboros", "/opt/oroboros", "/var/log/oroboros", "/usr/local/bin/oroboros"):
        assert host.run(["test", "-e", path], check=False).returncode == 1, path
    program = host.text("sh", "-c", "ls -d /usr/src/venvs/*/bin/python")
    words = [program, "-P", "-m", "controller.doors.cli", "uninstall", "--purge", "--yes"]
    again = host.run(words, environment={"PYTHONPATH": SOURCE})
    assert "nothing of Oroboros is installed" in again.stdout
    assert looks(host) == after
