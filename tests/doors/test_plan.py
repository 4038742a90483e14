"""`plan`: what a tick would do and why, by the worker's own decision, on a world that it leaves as it was."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.decisions.surroundings import free
from controller.development.parts import Part, PartSpec, listens_at
from controller.doors.cli_plan import describe_wanted
from controller.effects.live import SlotLock, write_live
from controller.effects.stack_files import write_topology
from controller.model.names import MAIN, PRODUCTION
from controller.model.states import Cause
from controller.model.world import Hold, Wanted
from tests.doors.stack import Small

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def with_runtime(small: Small) -> Iterator[Small]:
    """The small stack with a real supervisor."""
    state = small.root / "supervisor"
    state.mkdir(mode=0o700)
    socket_path = small.settings.runtime_socket
    spec = PartSpec(
        name="supervisor",
        argv=(
            *(sys.executable, "-m", "controller.development.supervisor"),
            *("--socket", str(socket_path), "--state", str(state)),
        ),
        log_file=small.root / "supervisor.log",
        is_ready=lambda: listens_at(socket_path),
        environment={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    with Part(spec):
        yield small


def test_plan_says_what_the_next_tick_would_do_and_why(with_runtime: Small) -> None:
    head = with_runtime.commits[-1]
    with SlotLock(with_runtime.layout, MAIN) as held:
        write_live(with_runtime.layout, free(MAIN), held=held)

    value = with_runtime.json("plan")

    assert (value["production_head"], value["production_title"]) == (head.sha, "Third")
    slots = value["slots"]
    assert isinstance(slots, list)
    main = next(slot for slot in slots if slot["slot"] == MAIN)
    assert main["wanted"] == f"{head.sha[:7]} Third"
    begin = next(step for step in main["steps"] if step["step"] == "BeginRun")
    assert (begin["release"], begin["cause"]) == (head.sha, "push")
    assert "newest commit" in main["because"]


def test_plan_for_people_fits_and_names_the_steps(with_runtime: Small) -> None:
    said = with_runtime.run("plan")

    assert said.exit_code == 0, said.output
    assert "BeginRun" in said.stdout
    assert with_runtime.commits[-1].sha[:7] in said.stdout
    assert max(map(len, said.stdout.splitlines())) <= 80


def test_plan_changes_nothing_even_where_the_worker_would_remember_a_policy(with_runtime: Small) -> None:
    before = with_runtime.store.load_history()

    assert with_runtime.run("plan").exit_code == 0

    assert with_runtime.store.load_history() == before
    assert before.repository.policy_sha is None
    assert not with_runtime.layout.live(MAIN).exists()


def test_plan_says_what_is_wrong_with_the_policy_and_what_waits_for_install(with_runtime: Small) -> None:
    with_runtime.commit("Five", files={"deploy.toml": '[api]\ncommand = "x"\n[previews]\nslots = 5\n'})
    value = with_runtime.json("plan")
    assert "slots = 5, this host has 3" in json.dumps(value["waiting_for_install"])

    with_runtime.commit("Bad", files={"deploy.toml": '[api]\ncommand = "x"\n[previews]\nslotz = 5\n'})
    assert "slotz" in json.dumps(with_runtime.json("plan")["policy_problems"])


def test_plan_warns_while_previews_can_set_productions_cookies(with_runtime: Small) -> None:
    assert with_runtime.json("plan")["warnings"] == []

    write_topology(with_runtime.layout, dataclasses.replace(with_runtime.topology, base_host="example.com"))

    assert "both below example.com" in json.dumps(with_runtime.json("plan")["warnings"])
    said = with_runtime.run("plan")
    assert said.exit_code == 0
    assert "warning: production (app.example.com)" in said.stdout


def test_plan_without_a_runtime_names_the_part_that_is_away(small: Small) -> None:
    value = small.json("plan")

    assert value["exit_code"] == 4


def test_what_is_wanted_is_said_in_words(small: Small) -> None:
    head = small.commits[0]
    wanted = Wanted(slot=MAIN, domain=PRODUCTION, fence=0, head=head, cause=Cause.PUSH)

    assert describe_wanted(wanted) == f"{head.sha[:7]} First"
    assert describe_wanted(None) == "nothing"
    assert describe_wanted(Hold(slot=MAIN, reason="Quarantined", message="")) == "what it serves"


def test_slots_that_are_no_longer_installed_are_left_out(with_runtime: Small) -> None:
    write_topology(with_runtime.layout, dataclasses.replace(with_runtime.topology, previews=1))

    slots = with_runtime.json("plan")["slots"]

    assert isinstance(slots, list)
    assert [slot["slot"] for slot in slots] == [MAIN, "preview-1"]
