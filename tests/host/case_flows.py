"""Do the three flows hold on a real host, and does what serves go on whatever is killed, rebooted or full?"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.host.team import BASE_HOST, CLONE, RECIPE, WITH_DATABASE, Team, install, new_team

SMALL_SERVER_BYTES = 1 << 30
CONTROL_UNITS = ("ouroboros-worker", "ouroboros-api", "ouroboros-caddy", "ouroboros-web@main", "redis-server")


@pytest.fixture(scope="module")
def team(image: Path, hosts_folder: Path) -> Iterator[Team]:
    with new_team(image, hosts_folder) as team:
        # All of this holds on the smallest server that one can rent.
        team.host.limit_memory(SMALL_SERVER_BYTES)
        yield team


def test_a_push_deploys_an_app_with_its_database(team: Team) -> None:
    sha = team.push(1, recipe=RECIPE + WITH_DATABASE)
    team.wait_live("app", 1)
    first, second = team.get("app")["hit"], team.get("app")["hit"]
    assert int(str(second)) > int(str(first))  # the gate and the window visit it too
    assert team.host.text("readlink", "/srv/oroboros/current") == f"/srv/oroboros/releases/{sha}"
    team.wait_status(sha, "success")
    address = team.host.read("/srv/oroboros/slots/main/database")
    assert re.search(r" postgresql://app_main:[0-9a-f]{48}@127\.0\.0\.1:5432/app_main$", address.strip()), address
    assert (
        team.host.text("ps", "-o", "user:20=", "-p", team.host.unit(team.unit_of("main"), "MainPID")["MainPID"])
        == "oroboros-main"
    )


def test_a_pull_request_gets_a_preview_with_a_database_of_its_own(team: Team) -> None:
    team.settle()
    number = team.open_pull("feature", 2, recipe=RECIPE + WITH_DATABASE)
    team.wait_live("preview1", 2)
    assert team.get("app")["version"] == 1
    assert "preview_1" in team.sql("SELECT datname FROM pg_database")
    team.close_pull(number)
    team.wait(lambda: "preview_1" not in team.sql("SELECT datname FROM pg_database"), "the database is to be gone")
    team.wait(lambda: team.unit_of("preview1") == "", "no instance of the slot is to be left")
    left = team.host.text("find", "/srv/oroboros/slots/preview-1/data", "-mindepth", "1")
    assert left == ""
    team.wait(
        lambda: team.host.run(["pgrep", "-u", "oroboros-preview-1"], check=False).stdout == "",
        "no process of the slot's is to be left",
    )


def test_a_bad_release_never_serves_and_a_revert_is_at_once(team: Team) -> None:
    team.settle()
    bad = team.push(3, status=500, recipe=RECIPE + WITH_DATABASE)
    assert "WrongStatus" in team.wait_status(bad, "failure")
    assert team.get("app")["version"] == 1
    good = team.push(4, recipe=RECIPE + WITH_DATABASE)
    team.wait_live("app", 4)
    team.wait_status(good, "success")
    team.settle()
    builds = team.host.text("find", "/srv/oroboros/builds/production", "-maxdepth", "1", "-type", "d")
    # Twice back: to the content of version 1.
    team.git("revert", "--no-edit", "HEAD", "HEAD~1")
    team.git("push", "-q", "origin", "HEAD")
    team.wait_live("app", 1)
    assert team.host.text("find", "/srv/oroboros/builds/production", "-maxdepth", "1", "-type", "d") == builds
    team.settle()


def test_an_order_by_hand_goes_through_the_same_gate(team: Team) -> None:
    team.settle()
    four = team.git("rev-parse", "HEAD~2")
    done = team.host.run(["/opt/oroboros/app/scripts/deploy.sh", four], check=False, timeout_s=90)
    assert done.returncode == 0, done.stdout + done.stderr
    assert team.get("app")["version"] == 4
    one = team.sql("SELECT release FROM runs WHERE proven AND domain = 'production' ORDER BY generation LIMIT 1")
    done = team.host.run(["/opt/oroboros/app/scripts/rollback.sh", one], check=False, timeout_s=90)
    assert done.returncode == 0, done.stdout + done.stderr
    assert team.get("app")["version"] == 1
    assert team.host.run(["/opt/oroboros/app/scripts/deploy.sh"], check=False).returncode == 2
    team.settle()


def test_a_new_value_of_the_app_starts_it_anew(team: Team) -> None:
    before = team.host.unit(team.unit_of("main"), "MainPID")["MainPID"]
    team.host.run(["oroboros", "env", "set", "main", "GREETING"], stdin="hello\n")
    team.wait(
        lambda: b"GREETING=hello" in environment(team).encode() and before not in pid(team), "the app is to have it"
    )
    assert "hello" not in team.host.run(["systemctl", "show", team.unit_of("main")]).stdout
    team.settle()


def test_a_value_that_a_program_prints_reaches_no_journal_and_no_status(team: Team) -> None:
    team.settle()
    canary = "canary/7Yq2mZ8w"
    team.host.run(["oroboros", "env", "set", "main", "CANARY_KEY"], stdin=f"{canary}\n")
    team.settle()
    prints = "[build]\ncommand = \"sh -c 'echo bad key: $CANARY_KEY >&2; exit 3'\"\n"
    bad = team.push(8, recipe=RECIPE + WITH_DATABASE.partition("[build]")[0] + prints)
    assert "exited with 3: bad key: [secret]" in team.wait_status(bad, "failure")
    team.host.run(["journalctl", "--sync"])
    assert "bad key: [secret]" in team.host.text("oroboros", "logs", "main")
    team.git("revert", "--no-edit", "HEAD")
    team.git("push", "-q", "origin", "HEAD")
    assert canary not in team.host.run(["journalctl", "--no-pager", "-o", "cat", "-b"]).stdout


def pid(team: Team) -> str:
    unit = team.unit_of("main")
    return team.host.unit(unit, "MainPID").get("MainPID", "0") if unit else "0"


def environment(team: Team) -> str:
    return team.host.run(["cat", f"/proc/{pid(team)}/environ"], check=False).stdout


class Load:
    """Visitors, one after the other, until it ends; what failed is kept."""

    def __init__(self, team: Team) -> None:
        self.team = team
        self.asked = 0
        self.failed: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def _ask(self) -> None:
        while not self._over.is_set():
            self.asked += 1
            if not self.team.get("app"):
                self.failed.append(f"request {self.asked}")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)


@pytest.mark.parametrize("unit", ["ouroboros-worker", "ouroboros-api", "redis-server", "postgresql@15-main"])
def test_kill_9_of_a_part_fails_no_request_and_it_comes_back(team: Team, unit: str) -> None:
    team.settle()
    with Load(team) as load:
        time.sleep(0.3)
        if unit.startswith("postgresql"):
            # The app needs it as much as we do: only that all comes back is promised.
            team.host.run(["systemctl", "restart", unit])
        else:
            team.host.run(["systemctl", "kill", "--signal=KILL", unit])
        team.wait(lambda: team.host.is_active(unit), f"{unit} is to be back")
        time.sleep(0.5)
    assert load.asked > 3
    if not unit.startswith("postgresql"):
        assert load.failed == []
    team.wait(
        lambda: team.host.run(["/opt/oroboros/app/scripts/runtime-health-check.sh"], check=False).returncode == 0,
        "every endpoint is to be well again",
    )


def test_while_postgres_is_dead_what_serves_goes_on_and_the_worker_says_so(team: Team) -> None:
    """Debian does not restart a Postgres that was killed: whoever stopped it with pg_ctlcluster would be surprised."""
    team.settle()
    release, pid = team.host.text("readlink", "/srv/oroboros/current"), team.unit_of("main")
    team.host.run(["systemctl", "kill", "--signal=KILL", "postgresql@15-main"])
    health = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-m", "5", "http://127.0.0.1:8090/health"]
    team.wait(lambda: team.host.run(health, check=False).stdout == "503", "the worker is to say that it is not fit")
    assert team.unit_of("main") == pid
    assert team.host.text("readlink", "/srv/oroboros/current") == release
    for command in ("status", "slots"):
        told = team.host.run(["oroboros", command, "--json"], check=False)
        main = json.loads(told.stdout)["slots"][0]
        assert (told.returncode, main["release"], main["since"] is None) == (4, release.rpartition("/")[2], False), told
    team.host.run(["systemctl", "restart", "postgresql@15-main"])
    team.wait(lambda: team.host.run(health, check=False).stdout == "200", "the worker is to be fit again")
    team.wait(lambda: team.get("app").get("version") == 1, "the app is to have its database again")


def test_a_push_goes_live_although_every_part_of_ours_is_killed_at_once(team: Team) -> None:
    team.settle()
    sha = team.push(6, recipe=RECIPE + WITH_DATABASE)
    for unit in CONTROL_UNITS:
        team.host.run(["systemctl", "kill", "--signal=KILL", unit])
    team.wait_live("app", 6)
    team.wait_status(sha, "success")
    team.settle()


PROXIES = (
    ("ouroboros-caddy", "app"),
    ("ouroboros-web@main", "app"),
    *((f"ouroboros-web@preview{k}", f"preview{k}") for k in (1, 2, 3)),
)


@pytest.mark.parametrize(("unit", "label"), PROXIES, ids=[unit for unit, _ in PROXIES])
def test_a_proxy_that_is_killed_comes_back(team: Team, unit: str, label: str) -> None:
    def process() -> str:
        return team.host.unit(unit, "MainPID")["MainPID"]

    killed = process()
    team.host.run(["systemctl", "kill", "--signal=KILL", unit])

    def serves() -> bool:
        url = "http://127.0.0.1:8088/.well-known/oroboros/health"
        words = ["curl", "-sf", "-m", "5", "-H", f"Host: {label}.{BASE_HOST}", url]
        return team.host.run(words, check=False).returncode == 0

    team.wait(lambda: process() not in (killed, "0") and serves(), f"{unit} is to serve again")
    assert team.host.is_active(unit)


def test_an_instance_that_is_killed_is_back_without_a_failed_request(team: Team) -> None:
    team.settle()
    with Load(team) as load:
        time.sleep(0.3)
        team.host.run(["systemctl", "kill", "--signal=KILL", team.unit_of("main")])
        time.sleep(2.5)
    assert load.failed == []


def test_a_part_of_a_preview_that_is_killed_is_back(team: Team) -> None:
    team.settle()
    number = team.open_pull("killed", 7)
    team.wait_live("preview1", 7)
    team.settle()  # one that ends in its window is to blame
    for part in ("forward", "instance"):
        unit = team.unit_of("preview1").replace("instance", part)
        killed = team.host.unit(unit, "MainPID")["MainPID"]
        assert killed != "0", unit
        team.host.run(["systemctl", "kill", "--signal=KILL", unit])
        team.wait(
            lambda pid=killed: team.host.run(["kill", "-0", pid], check=False).returncode != 0, "it is to be dead"
        )
        team.wait_live("preview1", 7)
        team.settle()
    team.close_pull(number)
    team.wait(lambda: team.unit_of("preview1") == "", "no instance of the slot is to be left")


def test_a_restart_of_the_api_refuses_and_loses_no_delivery(team: Team) -> None:
    team.settle()
    sending = """
import hashlib, hmac, http.client, json, pathlib, sys, threading
secret = pathlib.Path("/etc/oroboros/webhook-secrets").read_text().split()[0].encode()
refused = []
def send(worker):
    for n in range(60):
        body = json.dumps({"ref": "refs/heads/none", "after": "0" * 40, "n": [worker, n],
                           "repository": {"full_name": "acme/shop"}}).encode()
        head = {"Content-Type": "application/json", "X-GitHub-Event": "push", "X-GitHub-Delivery": f"load-{worker}-{n}",
                "X-Hub-Signature-256": "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()}
        try:
            c = http.client.HTTPConnection("127.0.0.1", 8000, timeout=20)
            c.request("POST", "/webhooks/github", body, head)
            status = c.getresponse().status
            c.close()
            if status != 202:
                refused.append(status)
        except OSError as error:
            refused.append(repr(error))
threads = [threading.Thread(target=send, args=(k,)) for k in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
print(refused)
"""
    running = team.host.start(["python3", "-c", sending])
    for _ in range(3):
        time.sleep(0.2)
        team.host.run(["systemctl", "restart", "ouroboros-api"])
    told, _ = running.communicate(timeout=120)
    assert told.strip() == "[]"
    assert team.sql("SELECT count(*) FROM deliveries WHERE id LIKE 'load-%'") == "240"
    team.wait(
        lambda: team.sql("SELECT count(*) FROM deliveries WHERE id LIKE 'load-%' AND state = 'pending'") == "0",
        "every delivery is to have been looked at",
    )


def test_a_full_disk_fails_the_release_and_not_what_serves(team: Team) -> None:
    team.settle()
    before = team.get("app")["version"]
    releases = "/srv/oroboros/releases"
    # What fits is what is there and little more.
    team.host.run(["mount", "-t", "tmpfs", "-o", "size=12M", "tmpfs", "/mnt"])
    team.host.run(["cp", "-a", f"{releases}/.", "/mnt/"])
    team.host.run(["sh", "-c", "chown oroboros-worker:oroboros-worker /mnt && chmod 711 /mnt && chmod -R go+rX /mnt/*"])
    try:
        team.host.run(["mount", "--bind", "/mnt", releases])
        team.host.run(["systemctl", "restart", "ouroboros-worker"])
        team.host.run(["sh", "-c", f"head -c 40000000 /dev/urandom > {CLONE}/large.bin"])
        large = team.push(7, title="Too large for the disk")
        team.wait(
            lambda: team.status(large)[0] in ("error", "failure", "pending") and team.status(large)[1], "a status"
        )
        team.wait(
            lambda: "DiskFull" in team.status(large)[1] + team.host.run(["oroboros", "status"], check=False).stdout,
            "DiskFull is to be told",
        )
        assert team.get("app")["version"] == before
        assert team.host.run(["test", "-e", f"{releases}/{large}"], check=False).returncode != 0
    finally:
        team.host.run(["umount", releases], check=False)
        team.host.run(["systemctl", "restart", "ouroboros-worker"])
    team.host.run(["rm", "-f", f"{CLONE}/large.bin"])
    team.push(8)
    team.wait_live("app", 8)
    team.settle()


def test_a_reboot_in_the_middle_of_a_run_ends_with_the_new_release(team: Team) -> None:
    team.settle()
    number = team.open_pull("kept", 20)
    team.wait_live("preview1", 20)
    team.push(9, recipe='[build]\ncommand = "sleep 6"\n' + RECIPE)
    team.wait(lambda: "building" in team.sql("SELECT state FROM runs WHERE ended_at IS NULL"), "the build is to run")
    team.host.reboot()
    team.wait_live("app", 9)
    team.wait_live("preview1", 20)
    team.close_pull(number)
    team.settle()


def test_production_comes_back_without_worker_postgres_and_redis(team: Team) -> None:
    team.settle()
    before = team.get("app")["version"]
    parts = ("ouroboros-worker.service", "postgresql.service", "postgresql@15-main.service", "redis-server.service")
    team.host.run(["systemctl", "mask", *parts])
    try:
        team.host.reboot()
        team.wait(lambda: team.get("app").get("version") == before, "production is to serve by itself")
        assert not team.host.is_active("ouroboros-worker")
        assert not team.host.is_active("postgresql@15-main")
    finally:
        team.host.run(["systemctl", "unmask", *parts])
        team.host.run(["systemctl", "start", "postgresql", "redis-server", "ouroboros-worker"])
    team.push(10)
    team.wait_live("app", 10)


#: A build that production runs from, and whose policy holds what somebody changed.
BUILT = RECIPE + "[build]\ncommand = \"python3 -c 'open(chr(98), chr(119)).write(chr(98))'\"\n"
HOLDS = BUILT + '[production]\ndrift = "hold"\n'
BUILDS = "/srv/oroboros/builds/production"


def drifts(team: Team) -> dict[tuple[str, str], str]:
    """Handling, by reason and subject, of what drifted and still does."""
    told = json.loads(team.host.run(["oroboros", "status", "--json"], check=False).stdout)["drifts"]
    return {(one["reason"], one["subject"]): one["handling"] for one in told if one["ended_at"] is None}


def test_what_somebody_changed_by_hand_is_told_and_put_right_or_held(team: Team) -> None:
    host = team.host
    host.run(["sh", "-c", "echo OROBOROS_RESYNC_SECONDS=2 >> /etc/oroboros/repository.env"])
    host.run(["systemctl", "restart", "ouroboros-worker"])
    team.push(11, recipe=BUILT)
    team.wait_live("app", 11)
    team.settle()
    units, over = "/usr/local/lib/systemd/system", "/etc/systemd/system"
    drop_in = f"{over}/ouroboros-web@main.service.d/mine.conf"
    web2, timer = "ouroboros-web@preview2.service", "ouroboros-maintenance-stale-leases.timer"
    built = host.text("find", BUILDS, "-name", "b", "-newer", "/srv/oroboros/current/app.py")
    team.wait(lambda: drifts(team) == {}, f"nothing is to have drifted: {drifts(team)}")
    # A program of the host's own, and what code of a slot could do.
    squatters = {
        "squatter": ("--slice=system.slice", "8302"),
        "inside": ("--slice=ouroboros-builds.slice", "8301"),
    }
    try:
        for unit, (slice_, port) in squatters.items():
            words = ["python3", "-m", "http.server", "--bind", "127.0.0.1", port]
            host.run(["systemd-run", "--quiet", "--collect", slice_, f"--unit={unit}", "--", *words])
        host.run(["sh", "-c", f"echo '# mine' >> {units}/ouroboros-caddy.service"])
        host.write(drop_in, "[Service]\nNice=1\n")
        host.run(["cp", f"{units}/ouroboros-web@.service", f"{over}/{web2}"])
        host.run(["systemctl", "disable", "-q", timer])
        host.run(["systemctl", "daemon-reload"])
        host.run(["systemctl", "stop", "ouroboros-web@preview3.socket", "ouroboros-web@preview3"])
        host.run(["sh", "-c", f"echo mine >> {built}"])
        host.run(["ln", "-sfn", "/srv/oroboros/releases", "/srv/oroboros/current"])
        release = str(team.get("app")["release"])
        host.run(["sh", "-c", f"echo '# mine' >> /srv/oroboros/releases/{release}/app.py"])
        by_hand = {
            ("FileEdited", f"{units}/ouroboros-caddy.service"),
            ("FileEdited", drop_in),
            ("FileEdited", f"{over}/{web2}"),
            ("UnitNotEnabled", timer),
            ("UnitNotRunning", "ouroboros-web@preview3.service"),
            ("UnitNotRunning", "ouroboros-web@preview3.socket"),
            ("PortTaken", "port 8301"),
            ("PortTaken", "port 8302"),
            ("BuildEdited", built.removeprefix("/srv/oroboros/").removesuffix("/b")),
        }
        team.wait(lambda: drifts(team) == dict.fromkeys(by_hand, "by_hand"), f"told: {drifts(team)}")
        assert host.text("readlink", "/srv/oroboros/current") == f"/srv/oroboros/releases/{release}"
        edited = f"/srv/oroboros/releases/{release}/app.py"
        team.wait(lambda: "# mine" not in host.read(edited), "the release is to be git's again")
        told = host.run(["oroboros", "status"], check=False).stdout
        logged = host.text("journalctl", "--quiet", "--output=cat", "_SYSTEMD_UNIT=ouroboros-worker.service")
        summary = told_today(team)
        for reason, subject in by_hand | {("CurrentChanged", "current"), ("ReleaseEdited", f"releases/{release}")}:
            assert reason in told
            assert f"drift: {reason}" in logged
            assert (reason, subject) in {(one["reason"], one["subject"]) for one in summary["record"]["drifts"]}
        assert sum("to be mended by hand" in line for line in summary["needs_attention"]) == len(by_hand)
        examined = host.run(["oroboros", "doctor", "--json"], check=False).stdout
        assert drop_in in examined
        assert timer in examined
    finally:
        for unit in squatters:
            host.run(["systemctl", "stop", unit], check=False)
        host.run(["rm", "-rf", drop_in, f"{over}/{web2}"])
        install(host)
        host.run(["systemctl", "restart", "ouroboros-worker"])


def told_today(team: Team) -> dict[str, Any]:
    """Have the day's summary written, and return it."""
    team.host.run(["systemctl", "start", "ouroboros-maintenance-daily-health-summary"])
    folder = "/srv/oroboros/artifacts/maintenance"
    newest = team.host.text("ls", "-t", folder).splitlines()[0]
    told = json.loads(team.host.read(f"{folder}/{newest}"))
    assert isinstance(told, dict)
    return told


def test_what_policy_holds_stays_as_somebody_left_it_until_it_is_ordered_to_heal(team: Team) -> None:
    host = team.host
    team.push(12, recipe=HOLDS)
    team.wait_live("app", 12)
    team.settle()
    team.wait(lambda: drifts(team) == {}, f"nothing is to have drifted: {drifts(team)}")
    release = str(team.get("app")["release"])
    file, instance = f"/srv/oroboros/releases/{release}/app.py", team.unit_of("main")
    host.run(["sh", "-c", f"echo '# mine' >> {file}"])
    host.run(["ln", "-sfn", "/srv/oroboros/releases", "/srv/oroboros/current"])
    host.run(["systemctl", "stop", instance])
    held = {
        ("ReleaseEdited", f"releases/{release}"),
        ("CurrentChanged", "current"),
        ("InstanceStopped", f"main-{instance.removesuffix('.service')[-1]}"),
    }
    team.wait(lambda: drifts(team) == dict.fromkeys(held, "held"), f"held: {drifts(team)}")
    assert "# mine" in host.read(file)
    assert team.unit_of("main") == ""
    assert sum(line.startswith("held: ") for line in told_today(team)["needs_attention"]) == len(held)

    host.run(["oroboros", "heal"])
    team.wait_live("app", 12)
    team.wait(lambda: drifts(team) == {}, f"nothing is to be held: {drifts(team)}")
    assert "# mine" not in host.read(file)
    assert host.text("readlink", "/srv/oroboros/current") == f"/srv/oroboros/releases/{release}"
    host.run(["sed", "-i", "/RESYNC/d", "/etc/oroboros/repository.env"])
    host.run(["systemctl", "restart", "ouroboros-worker"])
    team.push(13)
    team.wait_live("app", 13)


def test_an_app_that_is_not_where_it_was_told_is_told_where_it_is(team: Team) -> None:
    """In production by the cgroup of its sockets, in a preview by the network that is its own."""
    team.settle()
    elsewhere = '[api]\ncommand = "python3 -m http.server --bind ::1 $PORT"\n[gate]\nstart_timeout_s = 20\n'
    said = team.wait_status(team.push(60, recipe=elsewhere), "failure")
    assert "it listens at [::1]:82" in said or "it listens at [::1]:83" in said
    number = team.open_pull("elsewhere", 61, recipe=elsewhere)
    said = team.wait_status(team.git("rev-parse", "elsewhere"), "failure", "oroboros/preview")
    assert "it listens at [::1]:82" in said or "it listens at [::1]:83" in said
    team.close_pull(number)
    said = team.wait_status(team.push(62, recipe='[api]\ncommand = "nodee app.js"\n'), "failure")
    assert "cannot start nodee: no program of that name is in PATH" in said
    team.push(63, recipe=RECIPE + WITH_DATABASE)
    team.wait_live("app", 63)


def test_a_server_of_1_gb_carries_production_and_three_previews(team: Team) -> None:
    team.settle()
    numbers = [team.open_pull(f"small-{slot}", 70 + slot, recipe=RECIPE + WITH_DATABASE) for slot in (1, 2, 3)]
    for slot in (1, 2, 3):
        team.wait(
            lambda slot=slot: any(team.get(f"preview{n}").get("version") == 70 + slot for n in (1, 2, 3)),
            f"version {70 + slot} is to be in a preview",
        )
    team.push(74, recipe=RECIPE + WITH_DATABASE)
    team.wait_live("app", 74)
    assert team.host.ended_for_memory() == 0
    for number in numbers:
        team.close_pull(number)


def test_the_installation_is_still_as_it_must_be(team: Team) -> None:
    team.settle()
    done = team.host.run(["oroboros", "doctor"], check=False)
    assert done.returncode == 0, done.stdout
    assert team.host.text("systemctl", "--failed", "--no-legend") == ""
