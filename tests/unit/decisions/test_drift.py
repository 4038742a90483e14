"""What did somebody else change on the host, and is it put right or held? One rule a test."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.decisions.drift import (
    CURRENT_CHANGED,
    INSTANCE_STOPPED,
    BuildFact,
    FileFact,
    HostDrift,
    ReleaseFact,
    UnitFact,
    compare_unit,
    is_stranger,
    judge_drift,
)
from controller.decisions.host_units import UNITS, installed_units, port_holders
from controller.decisions.plan import desired, plan_slot
from controller.model.config import Policy, Production
from controller.model.names import CONTRACT, MAIN, SlotName
from controller.model.nouns import PortFact, Stop
from controller.model.states import Cause, ProcessState, RunState
from controller.model.steps import BeginRun, RepairCurrent, Step
from controller.model.world import Observed, SlotObserved
from tests.builders import PREVIEW_1, at, head, instance, observed, proven, pull, release, run, serving, sha

NOW = at(1000)
LIVE = run(5, 1, RunState.LIVE)
SERVING = serving(LIVE)
STOPPED = replace(SERVING, processes=(instance(LIVE, state=ProcessState.EXITED, exit_code=-15),))
MOVED = replace(SERVING, current=sha(9))
HOLD = Policy(production=Production(drift="hold"))


def host(slot: SlotObserved, *, policy: Policy | None = None) -> Observed:
    seen = observed(slot, at_head=head(1), releases=(release(1),), proven=(proven(1, generation=5),))
    return replace(seen, policy=policy or Policy())


def reasons(seen: Observed, of_host: HostDrift | None = None) -> list[tuple[str, str]]:
    return [(drift.reason, drift.handling) for drift in judge_drift(seen, of_host or HostDrift())]


def steps(seen: Observed, slot: SlotObserved) -> list[type[Step]]:
    return [type(step) for step in plan_slot(desired(seen, slot), seen, slot, now=NOW)]


def test_a_host_as_we_left_it_has_no_drift() -> None:
    assert reasons(host(SERVING)) == []


@pytest.mark.parametrize("current", [sha(9), None])
def test_a_current_that_was_moved_is_told_and_put_right(current: object) -> None:
    slot = replace(SERVING, current=current)

    assert reasons(host(slot)) == [(CURRENT_CHANGED, "heals")]
    assert steps(host(slot), slot) == [RepairCurrent]


def test_a_current_that_a_dead_worker_left_behind_is_finished_without_a_word_also_under_hold() -> None:
    slot = replace(MOVED, run=run(6, 2, RunState.SWITCHING, fallback=5, colour="b"))
    seen = host(slot, policy=HOLD)

    assert reasons(seen) == []
    assert RepairCurrent in steps(seen, slot)


def test_an_instance_that_was_stopped_from_outside_is_told_and_started_again() -> None:
    seen = host(STOPPED)
    (begin,) = plan_slot(desired(seen, STOPPED), seen, STOPPED, now=NOW)

    assert reasons(seen) == [(INSTANCE_STOPPED, "heals")]
    assert isinstance(begin, BeginRun)
    assert begin.cause is Cause.REPAIR


@pytest.mark.parametrize("exit_code", [0, 1, -9, -11])
def test_an_instance_that_ended_by_itself_is_no_drift_and_never_held(exit_code: int) -> None:
    slot = replace(SERVING, processes=(instance(LIVE, state=ProcessState.EXITED, exit_code=exit_code),))
    seen = host(slot, policy=HOLD)

    assert reasons(seen) == []
    assert steps(seen, slot) == [BeginRun]


def test_an_instance_that_is_not_there_was_stopped_only_where_ended_ones_stay() -> None:
    slot = replace(SERVING, processes=())
    lost = host(slot, policy=HOLD)
    stopped = replace(lost, ended_units_stay=True)

    assert (reasons(lost), steps(lost, slot)) == ([], [BeginRun])
    assert (reasons(stopped), steps(stopped, slot)) == ([(INSTANCE_STOPPED, "held")], [])


def test_what_an_order_stopped_was_not_stopped_from_outside() -> None:
    slot = replace(SERVING, processes=())
    seen = replace(host(slot), ended_units_stay=True)
    stop = Stop(id=1, slot=MAIN, kind="stopped", fence=0, actor="ann", reason="", at=at(900))
    assert LIVE.switched_at is not None

    assert reasons(replace(host(STOPPED), stops=(stop,))) == []
    assert reasons(replace(seen, slots=(replace(slot, stopped_at=LIVE.switched_at),))) == []
    assert reasons(replace(seen, slots=(replace(slot, stopped_at=at(0)),))) == [(INSTANCE_STOPPED, "heals")]


@pytest.mark.parametrize("slot", [MOVED, STOPPED])
def test_what_policy_holds_stays_as_it_was_found(slot: SlotObserved) -> None:
    seen = host(slot, policy=HOLD)

    assert [handling for _, handling in reasons(seen)] == ["held"]
    assert steps(seen, slot) == []


@pytest.mark.parametrize(("slot", "step"), [(MOVED, RepairCurrent), (STOPPED, BeginRun)])
def test_an_order_heals_what_was_found_and_nothing_else(slot: SlotObserved, step: type[Step]) -> None:
    (drift,) = judge_drift(host(slot, policy=HOLD))
    ordered = replace(host(slot, policy=HOLD), heal_ordered=frozenset({(drift.reason, drift.subject)}))
    other = replace(host(slot, policy=HOLD), heal_ordered=frozenset({(drift.reason, "something else")}))

    assert ([h for _, h in reasons(ordered)], steps(ordered, slot)) == (["heals"], [step])
    assert ([h for _, h in reasons(other)], steps(other, slot)) == (["held"], [])


def test_a_push_goes_live_although_a_drift_is_held() -> None:
    seen = replace(host(STOPPED, policy=HOLD), production_head=head(2))

    assert steps(seen, STOPPED) == [BeginRun]


def test_a_preview_drifts_by_its_own_name() -> None:
    served = run(60, 101, RunState.LIVE, slot=PREVIEW_1, fence=50)
    slot = replace(serving(served), current=None)
    (drift,) = judge_drift(replace(host(slot), pulls=(pull(1),)))

    assert (drift.slot, drift.subject) == (PREVIEW_1, "slots/preview-1/current")


EDITED = ReleaseFact(release=sha(1), slots=(MAIN,), problems=("a: changed", "b: changed", "c: gone", "d: added"))


@pytest.mark.parametrize(
    ("facts", "policy", "expected"),
    [
        (HostDrift(releases=(EDITED,)), Policy(), [("ReleaseEdited", "heals")]),
        (HostDrift(releases=(EDITED,)), HOLD, [("ReleaseEdited", "held")]),
        (HostDrift(releases=(replace(EDITED, problems=()),)), HOLD, []),
        (
            HostDrift(units=(UnitFact(unit="ouroboros-api.service", runs=False),)),
            Policy(),
            [("UnitNotRunning", "by_hand")],
        ),
        (HostDrift(units=(UnitFact(unit="ouroboros-api.service", runs=True),)), Policy(), []),
        (
            HostDrift(units=(UnitFact(unit="a", runs=True, starts_at_boot=False),)),
            HOLD,
            [("UnitNotEnabled", "by_hand")],
        ),
        (
            HostDrift(units=tuple(UnitFact(unit=unit, runs=True, strange_files=("/etc/x",)) for unit in "ab")),
            Policy(),
            [("FileEdited", "by_hand")],
        ),
        (HostDrift(builds=(BuildFact(path="b", slot=MAIN, problems=("a",)),)), Policy(), [("BuildEdited", "by_hand")]),
        (HostDrift(builds=(BuildFact(path="b", slot=MAIN, problems=()),)), Policy(), []),
        (HostDrift(files=(FileFact(path="/etc/a", rendered="1", on_disk="2"),)), Policy(), [("FileEdited", "by_hand")]),
        (HostDrift(files=(FileFact(path="/etc/a", rendered="1", on_disk=None),)), HOLD, [("FileEdited", "by_hand")]),
        (HostDrift(files=(FileFact(path="/etc/a", rendered="1", on_disk="1"),)), Policy(), []),
        (HostDrift(ports=(PortFact(what="edge", port=8088, owner="nginx"),)), Policy(), [("PortTaken", "by_hand")]),
    ],
)
def test_what_a_look_at_the_host_found(facts: HostDrift, policy: Policy, expected: list[tuple[str, str]]) -> None:
    assert reasons(host(SERVING, policy=policy), facts) == expected


API = "ouroboros-api.service"
UNIT = {unit.name: unit for unit in installed_units(CONTRACT)}
INSTANCE = "ouroboros-instance@main-a.service"
SHOWN = {
    "ActiveState": "active",
    "UnitFileState": "enabled",
    "FragmentPath": f"{UNITS}/{API}",
    "DropInPaths": "",
}


@pytest.mark.parametrize(
    ("shown", "runs", "starts_at_boot", "strange"),
    [
        ({}, True, True, ()),
        ({"ActiveState": "activating"}, True, True, ()),
        ({"ActiveState": "failed"}, False, True, ()),
        ({"UnitFileState": "disabled"}, True, False, ()),
        (
            {"UnitFileState": "masked", "FragmentPath": f"/etc/systemd/system/{API}"},
            True,
            False,
            (f"/etc/systemd/system/{API}",),
        ),
        (
            {"DropInPaths": "/etc/systemd/system/a.d/o.conf /run/b.conf"},
            True,
            True,
            ("/etc/systemd/system/a.d/o.conf", "/run/b.conf"),
        ),
        ({"DropInPaths": "/usr/lib/systemd/system/service.d/10.conf"}, True, True, ()),
    ],
)
def test_a_unit_is_what_install_left_and_nothing_else(
    shown: dict[str, str], runs: bool, starts_at_boot: bool, strange: tuple[str, ...]
) -> None:
    assert compare_unit(UNIT[API], SHOWN | shown) == UnitFact(
        unit=API, runs=runs, starts_at_boot=starts_at_boot, strange_files=strange
    )


def test_an_instance_need_not_run_but_start_at_boot_from_its_template_and_its_slots_drop_in() -> None:
    drop_in = f"{UNITS}/{INSTANCE}.d/slot.conf"
    shown = {
        "ActiveState": "inactive",
        "UnitFileState": "enabled",
        "FragmentPath": f"{UNITS}/ouroboros-instance@.service",
        "DropInPaths": drop_in,
    }
    assert compare_unit(UNIT[INSTANCE], shown) == UnitFact(unit=INSTANCE, runs=True)
    other = shown | {"DropInPaths": drop_in.replace("main-a", "main-b")}
    assert compare_unit(UNIT[INSTANCE], other).strange_files == (other["DropInPaths"],)


PRODUCTION = "ouroboros.slice/ouroboros-production.slice/ouroboros-instance@main-{}.service"


@pytest.mark.parametrize(
    ("port", "cgroup", "is_strange"),
    [
        (8200, PRODUCTION.format("a"), False),
        (8200, PRODUCTION.format("b"), True),
        (8302, "ouroboros.slice/ouroboros-builds.slice/ouroboros-build@preview2.service", True),
        (8302, "", True),
        (8000, "init.scope", False),
        (8000, "system.slice/ouroboros-api.socket", False),
        (8088, "ouroboros.slice/ouroboros-control.slice/ouroboros-caddy.service", False),
        (8088, "system.slice/nginx.service", True),
        (5432, "system.slice/system-postgresql.slice/postgresql@15-main.service", False),
        (5432, "ouroboros.slice/ouroboros-previews.slice/ouroboros-instance@preview1-a.service", True),
        (6379, "system.slice/redis-server.service", False),
        (6379, "user.slice/user-1000.slice/session-2.scope", True),
        (443, "ouroboros.slice/ouroboros-control.slice/ouroboros-caddy-public.service", False),
        (80, "system.slice/nginx.service", True),
    ],
)
def test_a_port_of_the_table_is_held_by_the_unit_that_it_is_of(port: int, cgroup: str, is_strange: bool) -> None:
    (holder,) = (one for one in port_holders(replace(CONTRACT, tls="auto")) if one.port == port)
    assert is_stranger(holder, cgroup) == is_strange


def test_the_public_ports_are_anybodys_where_the_edge_does_not_hold_certificates() -> None:
    assert {80, 443}.isdisjoint(holder.port for holder in port_holders(CONTRACT))


def test_names_a_few_of_many_edits() -> None:
    (drift,) = judge_drift(host(SERVING), HostDrift(releases=(EDITED,)))

    assert drift.message == f"{sha(1)[:7]} differs from git in 4 places: a: changed, b: changed, c: gone, and 1 more"
    assert drift.slot == SlotName("main")
