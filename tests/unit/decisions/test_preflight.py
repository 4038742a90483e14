"""What keeps an installation from its begin, and what is only told?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from controller.decisions.installation import HostFacts, RedisFact, fresh_postgres
from controller.decisions.preflight import Machine, Refusal, foreign_parts, machine_warnings, refusals
from controller.model.machine_needs import FREE_BYTES_MIN, MIB
from controller.model.nouns import PortFact
from controller.model.options import Options

FIT = Machine(memory_bytes=4096 * MIB, is_clock_synchronized=True, now_s=1e9, checkout_made_s=1e9)
OLD = HostFacts(
    versions={"systemd": (252,), "polkit": (122,), "postgresql": (13,), "redis": (7,), "git": (2, 39)},
    redis=RedisFact(keys=3),
)
TAKEN = PortFact(what="edge", port=8088, owner="nginx (process 7 of root, nginx.service)")
UNFIT = replace(FIT, taken=(TAKEN,), free_bytes={Path("/srv"): FREE_BYTES_MIN - 1}, now_s=1e8)
SAID = (
    "port 8088 (edge) is held by nginx (process 7 of root, nginx.service): stop that, have it listen elsewhere, or"
    " choose another port with --port"
)


def judge(machine: Machine, facts: HostFacts) -> list[Refusal]:
    return refusals(machine, facts, is_root=True, dry_run=False, redis_shared=False)


def test_every_problem_is_told_at_once_each_with_what_to_do() -> None:
    found = judge(UNFIT, OLD)
    assert [one.reason for one in found] == ["HostTooOld", "PostgresAway", "RedisIsShared", *["HostUnfit"] * 3]
    texts = [one.text for one in found]
    assert SAID in texts
    assert "/srv has 511 MiB free, 512 are needed" in texts
    assert "timedatectl" in texts[-1]


def test_a_port_that_another_process_holds_keeps_nobody_from_an_upgrade() -> None:
    installed = replace(UNFIT, kept_ports=frozenset({8088}))
    assert SAID not in [one.text for one in judge(installed, OLD)]
    assert machine_warnings(installed) == (SAID,)


def test_a_port_that_is_chosen_anew_and_taken_keeps_an_upgrade_from_its_begin() -> None:
    assert SAID in [one.text for one in judge(replace(UNFIT, kept_ports=frozenset({8089})), OLD)]


def test_ports_that_cannot_be_are_told_with_everything_else() -> None:
    found = refusals(UNFIT, OLD, is_root=True, dry_run=False, redis_shared=False, port_problems=["two", "three"])
    assert [one.text for one in found[:2]] == ["two", "three"]
    assert found[2:] == judge(UNFIT, OLD)


@pytest.mark.parametrize(("said", "is_told"), [(Options(), True), (Options(close_databases=True), False)])
def test_databases_and_roles_of_others_are_told_and_no_refusal(said: Options, is_told: bool) -> None:
    postgres = fresh_postgres(15, [])
    shared = replace(postgres, databases=postgres.databases | {"invoices"}, roles=postgres.roles | {"billing"})
    told = ("Postgres also has the database invoices, the role billing: an installation leaves them as they are",)
    assert foreign_parts(HostFacts(postgres=shared), said) == (told if is_told else ())
    assert foreign_parts(HostFacts(postgres=postgres), said) == foreign_parts(HostFacts(), said) == ()
    with_shared, without = (judge(FIT, replace(OLD, postgres=one)) for one in (shared, postgres))
    assert with_shared == without


def test_a_small_machine_and_a_clock_that_nothing_keeps_are_warnings() -> None:
    small = replace(FIT, memory_bytes=512 * MIB, is_clock_synchronized=False, free_bytes={Path("/srv"): FREE_BYTES_MIN})
    assert len(machine_warnings(small)) == 3
    assert machine_warnings(replace(FIT, is_clock_synchronized=None)) == ()
