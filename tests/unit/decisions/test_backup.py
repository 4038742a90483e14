"""Which backup may be restored where, and what does one leave out?"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from controller.decisions.backup import (
    CONFIG,
    CONTROL_DUMP,
    FORMAT,
    Manifest,
    Part,
    Target,
    choose_configuration,
    expired,
    parse_manifest,
    render_manifest,
    restore_problems,
)
from controller.model.errors import ConfigInvalid

MADE = Manifest(
    version="0.1.0",
    made_at="2026-01-02T03:04:05Z",
    host="one",
    repository="acme/shop",
    postgres=15,
    migrations=("0001_first.sql", "0002_second.sql"),
    release="a" * 40,
    with_secrets=False,
    left_out=("app-main.env (STRIPE_KEY)",),
    parts={CONTROL_DUMP: Part(size_bytes=1, sha256="c"), CONFIG: Part(size_bytes=2, sha256="d")},
)
FRESH = Target(is_installed=True, is_used=False, postgres=15, migrations=frozenset(MADE.migrations))


def test_a_manifest_is_read_back_as_it_was_written() -> None:
    assert parse_manifest(render_manifest(MADE)) == MADE


@pytest.mark.parametrize("text", ["", "{}", "[]", render_manifest(MADE).replace("acme", "evil")])
def test_a_damaged_manifest_is_refused(text: str) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        parse_manifest(text)
    assert refused.value.reason == "BackupDamaged"


def test_a_newer_form_is_refused_as_that() -> None:
    value = json.loads(render_manifest(MADE)) | {"format": FORMAT + 1}
    with pytest.raises(ConfigInvalid) as refused:
        parse_manifest(json.dumps(value))
    assert refused.value.reason == "BackupNewer"


def test_a_whole_backup_may_be_restored_on_a_fresh_host_and_on_a_newer_one() -> None:
    assert restore_problems(MADE, MADE.parts, FRESH, replaces=False) == ()
    later = replace(FRESH, postgres=17, migrations=FRESH.migrations | {"0003_third.sql"})
    assert restore_problems(MADE, MADE.parts, later, replaces=False) == ()


def test_every_problem_is_said_at_once() -> None:
    target = replace(FRESH, is_used=True, postgres=14, migrations=frozenset({"0001_first.sql"}))
    problems = restore_problems(MADE, {CONFIG: Part(size_bytes=2, sha256="e")}, target, replaces=False)
    said = "\n".join(problems)
    for part in (
        f"{CONFIG} differs from its digest",
        f"{CONTROL_DUMP} is missing",
        "0002_second.sql",
        "Postgres 15",
        "--replace",
    ):
        assert part in said
    assert len(problems) == 5
    assert "--replace" not in "".join(restore_problems(MADE, MADE.parts, target, replaces=True))


def test_a_host_without_an_installation_is_told_to_install_first() -> None:
    (problem,) = restore_problems(MADE, MADE.parts, replace(FRESH, is_installed=False), replaces=False)
    assert "install.sh" in problem


def test_secrets_are_left_out_unless_asked_for_and_what_is_of_one_host_always() -> None:
    names = ["topology.json", "repository.env", "worker.env", "app-main.env", "Caddyfile", "web-main.env", "unknown"]
    taken, left = choose_configuration(names, with_secrets=False)
    assert (taken, left) == (("repository.env", "topology.json"), ("app-main.env", "unknown", "worker.env"))
    assert choose_configuration(names, with_secrets=True) == (tuple(sorted((*taken, *left))), ())


def test_the_newest_backups_of_the_timer_are_kept_and_nothing_else_is_touched() -> None:
    names = [f"oroboros-2026010{day}T020000Z.tar" for day in range(1, 6)]
    assert expired([*names, "mine.tar", "oroboros-notes.txt"], keep=2) == (names[2], names[1], names[0])
    assert expired(names, keep=9) == ()
