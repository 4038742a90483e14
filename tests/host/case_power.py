"""What does a host stand that is not switched off but cut off, and a worker that does not die but hangs?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.team import RECIPE, Team, new_team

#: In a /proc of its own a unit sees the machine's boot id, which no reboot of a test changes.
BOOT_ID = "[Service]\nBindReadOnlyPaths=/run/boot-id:/proc/sys/kernel/random/boot_id\n"
SLOW = '[build]\ncommand = "sleep 6"\n'


@pytest.fixture(scope="module")
def team(image: Path, hosts_folder: Path) -> Iterator[Team]:
    with new_team(image, hosts_folder) as team:
        team.host.write("/etc/systemd/system/ouroboros-worker.service.d/boot-id.conf", BOOT_ID)
        team.host.run(["systemctl", "daemon-reload"])
        team.host.run(["systemctl", "restart", "ouroboros-worker"])
        team.push(1)
        team.wait_live("app", 1)
        team.settle()
        yield team


def worker_pid(team: Team) -> str:
    return team.host.unit("ouroboros-worker.service", "MainPID")["MainPID"]


def test_a_power_cut_amid_a_run_loses_neither_what_served_nor_the_run(team: Team) -> None:
    team.open_pull("kept", 20)
    team.wait_live("preview1", 20)
    team.settle()
    team.push(2, recipe=SLOW + RECIPE)
    team.wait(lambda: "building" in team.sql("SELECT state FROM runs WHERE ended_at IS NULL"), "the build is to run")
    team.host.power_cut()
    team.host.boot()
    team.wait(lambda: team.get("app").get("version") in (1, 2), "production is to serve at once")
    team.wait_live("app", 2)
    team.wait_live("preview1", 20)
    team.settle()


def test_what_a_power_cut_took_of_the_release_that_serves_is_mended(team: Team) -> None:
    team.settle()
    release = team.host.text("readlink", "/srv/oroboros/current")
    whole = team.host.read(f"{release}/app.py")
    # As a disk does that had not written it yet: the file is there, and empty.
    team.host.run(["sh", "-c", f": >{release}/app.py"])
    team.host.power_cut()
    team.host.boot()
    team.wait(lambda: team.host.read(f"{release}/app.py") == whole, "the file is to be git's again")
    assert "1 mended" in team.host.journal("ouroboros-worker")
    team.wait(lambda: team.get("app").get("version") == 2, "production is to serve")
    assert team.host.run(["oroboros", "verify"], check=False).returncode == 0


def test_a_worker_that_hangs_is_started_anew(team: Team) -> None:
    team.settle()
    before = worker_pid(team)
    team.host.run(["systemctl", "kill", "--signal=STOP", "ouroboros-worker"])
    sha = team.push(3)
    assert team.get("app")["version"] == 2
    team.wait(lambda: worker_pid(team) not in ("0", before), "systemd is to notice that it hangs", timeout_s=120)
    team.wait_live("app", 3)
    team.wait_status(sha, "success")
