"""Does Oroboros deploy Oroboros, and does a release of it that cannot work leave by itself?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.team import CLONE, SOURCE, Team, new_team

#: The judge's patience, and time for api and worker to be restarted once more.
BACK_WITHIN_S = 120.0
NOWHERE = "postgresql:///nowhere?host=/nowhere"


@pytest.fixture(scope="module")
def team(image: Path, hosts_folder: Path) -> Iterator[Team]:
    with new_team(image, hosts_folder, "--control-plane", "current") as team:
        yield team


def release_of(team: Team, port: int) -> str:
    told = team.host.run(["curl", "-s", "-m", "3", f"http://127.0.0.1:{port}/health"], check=False).stdout
    try:
        return str(json.loads(told)["release"])
    except (ValueError, KeyError):
        return ""


def runs(team: Team, sha: str) -> bool:
    return release_of(team, 8000) == sha and release_of(team, 8090) == sha


def push_ourselves(team: Team, title: str, change: str = "true") -> str:
    """Push this very checkout, changed by a shell command, as the production branch; return the commit."""
    team.host.run(["sh", "-c", f"cp -a {SOURCE}/. {CLONE}/ && cd {CLONE} && {change}"])
    sha = team.commit(title, {"CHANGED": f"{title}\n"})
    team.git("push", "-q", "origin", "HEAD")
    return sha


@pytest.fixture(scope="module")
def deployed(team: Team) -> str:
    sha = push_ourselves(team, "Ourselves")
    team.wait(lambda: runs(team, sha), "api and worker are to run the release")
    team.wait_status(sha, "success")
    team.settle()
    return sha


def test_merging_replaces_api_worker_and_console(team: Team, deployed: str) -> None:
    assert team.host.text("readlink", "/srv/oroboros/current") == f"/srv/oroboros/releases/{deployed}"
    page = team.host.run(["curl", "-s", "-H", "Host: app.example.com", "http://127.0.0.1:8088/"]).stdout
    assert page == team.host.read(f"{SOURCE}/infra/web/index.html")
    assert team.host.unit("ouroboros-judge.service", "Result")["Result"] == "success"


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("does not start", "sed -i '1i raise SystemExit(7)' controller/doors/worker.py"),
        (
            "cannot reach its database",
            # As with a new address that leads nowhere: it asks again and again.
            f"sed -i 's|migrate(settings.database_url)|migrate(\"{NOWHERE}\")|' controller/doors/worker.py",
        ),
    ],
)
def test_a_release_whose_worker_does_not_come_up_is_taken_back(
    team: Team, deployed: str, what: str, change: str
) -> None:
    bad = push_ourselves(team, f"A worker that {what}", change)
    team.wait(lambda: not runs(team, deployed), "the judge is to try it")
    team.wait(lambda: runs(team, deployed), "what was before is to be back", timeout_s=BACK_WITHIN_S)
    assert "ControlPlaneNotUp" in team.wait_status(bad, "failure")
    assert team.host.text("readlink", "/srv/oroboros/current") == f"/srv/oroboros/releases/{deployed}"
    team.settle()


def test_a_judge_that_is_killed_begins_again(team: Team, deployed: str) -> None:
    sha = push_ourselves(team, "While the judge dies", "git checkout -q HEAD -- . && cp -a /usr/src/oroboros/. .")
    team.wait(lambda: team.host.is_active("ouroboros-judge") or in_start(team), "the judge is to run")
    team.host.run(["systemctl", "kill", "--signal=KILL", "ouroboros-judge"])
    team.wait(lambda: team.host.unit("ouroboros-judge", "NRestarts")["NRestarts"] != "0", "it is to be begun again")
    team.wait(lambda: runs(team, sha), "api and worker are to run the release")
    team.wait_status(sha, "success")


def in_start(team: Team) -> bool:
    return team.host.unit("ouroboros-judge.service", "ActiveState")["ActiveState"] == "activating"
