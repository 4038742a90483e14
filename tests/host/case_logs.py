"""Does the journal of a host say what went wrong, once, at its priority, and whose it is?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.host import Host
from tests.host.team import BASE_HOST, Team, serving_team

#: A tick notices within this time, also on a machine that does other things.
NOTICED_WITHIN_S = 45.0
OURS = ("-t", "ouroboros-api", "-t", "ouroboros-caddy", "-t", "ouroboros-web", "-t", "ouroboros-worker")


@pytest.fixture(scope="module")
def team(image: Path, hosts_folder: Path) -> Iterator[Team]:
    with serving_team(image, hosts_folder) as team:
        team.open_pull("talks", 2, do='print("the app talks", flush=True); return ""')
        team.wait_live("preview1", 2)
        team.settle()
        yield team


def entries(host: Host, *words: str) -> list[dict[str, str]]:
    """Return what journalctl shows of this boot."""
    host.run(["journalctl", "--sync"], check=False)
    told = host.run(["journalctl", "--no-pager", "-b", "-o", "json", *words], check=False).stdout
    return [json.loads(line) for line in told.splitlines() if line.startswith("{")]


def errors(host: Host, *words: str) -> list[str]:
    return [f"{one.get('SYSLOG_IDENTIFIER')}: {one['MESSAGE']}" for one in entries(host, "-p", "err", *words)]


def test_a_boot_without_a_fault_says_nothing_of_a_failure(team: Team) -> None:
    host = team.host
    host.reboot()
    team.wait_live("app", 1)
    team.wait_live("preview1", 2)
    team.wait(lambda: host.is_active("ouroboros-worker.service"), "the worker is to run")
    assert "Dependency failed" not in host.journal()
    assert errors(host, *OURS) == []
    assert [one for one in errors(host) if "roboros" in one] == []


def test_a_slots_lines_are_found_by_its_field_and_an_apps_keep_its_own_name(team: Team) -> None:
    host = team.host
    assert team.get("preview1", "/do")["version"] == 2
    said = entries(host, "OROBOROS_SLOT=preview-1")
    talks = [one for one in said if one["MESSAGE"] == "the app talks"]
    assert talks
    assert re.fullmatch(r"preview-1-[ab]\.[0-9]+", talks[0]["SYSLOG_IDENTIFIER"])
    assert not [one for one in entries(host, "OROBOROS_SLOT=main") if one["MESSAGE"] == "the app talks"]


def test_a_failed_gate_is_an_error_with_its_slot_run_release_and_reason(team: Team) -> None:
    sha = team.push(3, status=500)
    team.wait_status(sha, "failure")
    found = entries(team.host, "-p", "err", f"OROBOROS_SHA={sha}")
    assert len(found) == 1, found
    assert found[0]["PRIORITY"] == "3"
    assert found[0]["SYSLOG_IDENTIFIER"] == "ouroboros-worker"
    assert found[0]["OROBOROS_SLOT"] == "main"
    assert found[0]["OROBOROS_REASON"] in found[0]["MESSAGE"]
    assert int(found[0]["OROBOROS_RUN"]) > 0
    warned = [one["MESSAGE"] for one in entries(team.host, "-p", "err", *OURS)]
    assert all("run" in line for line in warned), "only errors"


@pytest.mark.parametrize(("label", "slot"), [("app", "main"), ("preview1", "preview-1")])
def test_an_app_that_crashes_is_an_error_of_its_slot(team: Team, label: str, slot: str) -> None:
    host = team.host
    before = errors(host, f"OROBOROS_SLOT={slot}")
    host.run(["systemctl", "kill", "-s", "KILL", team.unit_of(label.replace("app", "main"))])
    team.wait(
        lambda: len(errors(host, f"OROBOROS_SLOT={slot}")) > len(before), "the crash is to be told",
        timeout_s=NOTICED_WITHIN_S,
    )  # fmt: skip
    assert "the instance of" in errors(host, f"OROBOROS_SLOT={slot}")[-1]
    team.wait(lambda: team.get(label) != {}, f"{label} is to be back")


def test_an_edge_that_reaches_nobody_says_so_once_without_what_a_visitor_sent(team: Team) -> None:
    host = team.host
    host.run(["systemctl", "stop", "ouroboros-web@preview3.socket", "ouroboros-web@preview3.service"])
    try:
        asking = "http://127.0.0.1:8088/?token=s3cret-of-a-visitor"
        for _ in range(3):
            host.run(["curl", "-s", "-m", "10", "-H", f"Host: preview3.{BASE_HOST}", asking])
    finally:
        host.run(["systemctl", "start", "ouroboros-web@preview3.service"])
    told = [line for line in errors(host, "-t", "ouroboros-caddy") if "connection refused" in line]
    assert len(told) == 1, told
    assert "3103" in told[0]
    assert "s3cret-of-a-visitor" not in host.journal()


def test_a_state_that_persists_is_one_line(team: Team) -> None:
    host = team.host
    team.settle()
    cursor = host.text("journalctl", "-n", "1", "-o", "json", "--output-fields=MESSAGE")
    since = f"--after-cursor={json.loads(cursor)['__CURSOR']}"
    away = ("-t", "ouroboros-worker", "-p", "warning", since)
    host.run(["systemctl", "stop", "postgresql@*"])
    try:
        host.wait_until(lambda: entries(host, *away), "the worker is to say that the database is away")
        # Four polls of the worker, whose figure is the contract's: all of them in vain.
        host.run(["sleep", "20"])
    finally:
        host.run(["systemctl", "restart", "postgresql.service"])
    said = [re.sub("[0-9]+", "#", one["MESSAGE"]) for one in entries(host, *away)]
    assert sorted(said) == sorted(set(said))
    host.wait_until(
        lambda: [one for one in entries(host, "-t", "ouroboros-worker", since) if "works again" in one["MESSAGE"]],
        "the worker is to say that it is over",
        timeout_s=60,
    )


def test_a_unit_that_cannot_start_is_tried_less_and_less_often_or_as_often_as_systemd_can(team: Team) -> None:
    """Debian 12's systemd has no RestartSteps=, and warns of what it does not know: it must not be told."""
    host = team.host
    version = int(host.text("systemctl", "--version").split()[1])
    steps = host.unit("ouroboros-worker.service", "RestartSteps").get("RestartSteps", "0")
    assert (steps != "0") is (version >= 254)
    assert "Unknown key" not in host.journal()
