"""The surface of the commands: what each may change, JSON and errors, exit codes, plain text, and real processes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import click
import psycopg
import pytest
from click.testing import CliRunner
from psycopg import sql

from controller.decisions.github.repository import Repository
from controller.decisions.github.sweep import ASKS_MAX, Missed
from controller.doors import cli
from controller.doors.cli import ACCESS, NEEDS_ROOT, Access, every_command, exit_code, goes_on_as_worker, main
from controller.doors.stacks import Stack, find_stack
from controller.doors.tables import plain
from controller.model.errors import ConfigInvalid, Failed, Refused, Stalled, Unavailable, Waiting
from controller.model.names import HOST_ROOT, MAIN, PRODUCTION, preview_slot
from controller.model.nouns import PullRequest
from controller.model.states import RunState
from tests.doors.stack import SECRET, Small, utc_now

CHECKOUT = Path(__file__).resolve().parents[2]
HOSTILE = "[red]x[/red] \x1b[31m\x07 \u202e :smile: " + "long " * 30
FINGERPRINT = sql.SQL("SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {} t")
#: Every reading command with the words it cannot do without.
NEEDS = {"env list": "env list main", "explain pr": "explain pr 8"}
READING = sorted(NEEDS.get(name, name) for name, access in ACCESS.items() if access is Access.READS)
#: These make, take or name no stack that is there already: the host's own, a folder that is named, or none at all.
ROOTLESS = ("backup", "github setup", "init", "install", "repo set", "restore", "uninstall", "version")


def oroboros(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "controller.doors.cli", *words],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=bare_environment() | environment,
    )


def bare_environment() -> dict[str, str]:
    ours = ("OROBOROS_", "DATABASE_URL", "REDIS_URL", "NO_COLOR", "FORCE_COLOR", "COLUMNS")
    return {key: value for key, value in os.environ.items() if not key.startswith(ours)}


def everything_at_once(small: Small) -> None:
    """A stack of which every table has something to show."""
    first, second, third = small.commits
    small.serve(first)
    small.serve(second)
    failed = small.begin(third)
    small.end(failed, RunState.FAILED, reason="GateFailed", message=f"answered 500 {HOSTILE}")
    small.store.record_quarantine(
        domain=PRODUCTION, tree=third.tree, sha=third.sha, reason="GateFailed", message=HOSTILE, now=utc_now()
    )
    pulls = [
        PullRequest(
            number=number,
            head_sha=third.sha,
            head_branch=HOSTILE,
            title=HOSTILE,
            author="mallory",
            same_repository=number != 9,
            opened_at=utc_now(),
        )
        for number in (7, 8, 9)
    ]
    small.store.record_listing(pulls, began_at=utc_now())
    small.store.claim_slot(preview_slot(1), 7, now=utc_now(), expires_at=utc_now())
    small.store.record_waiting([8], now=utc_now())
    small.store.record_fetch(production=first, ref="refs/heads/trunk", refused=[], began_at=utc_now())
    small.store.record_fetch(production=third, ref="refs/heads/trunk", refused=[], began_at=utc_now())
    small.run("deploy", second.sha, "--no-wait", "--reason", HOSTILE)
    running = small.begin(small.commit(HOSTILE))
    small.store.record_step(running, "checkout", began_at=utc_now(), ended_at=utc_now(), detail={"files": 2})
    log_file = small.layout.log_file("main-a", running)
    log_file.parent.mkdir(parents=True)
    log_file.write_bytes(HOSTILE.encode() + b"\nsecond line\n")
    with psycopg.connect(small.settings.database_url) as connection:
        connection.execute(
            "INSERT INTO deliveries (id, event, signature, body, reason, target, sha)"
            " VALUES ('d-1', 'push', %s, %s, %s, 'ref:refs/heads/trunk', %s)",
            [b"s" * 32, b"canary-body", HOSTILE, second.sha],
        )


def test_every_command_says_what_it_may_change() -> None:
    assert {name for name, _ in every_command()} == set(ACCESS)


def test_on_a_host_only_what_needs_root_stays_root() -> None:
    host = Stack(root=HOST_ROOT, environ={}, embedded=False, is_host=True)
    own = Stack(root=HOST_ROOT, environ={"DATABASE_URL": "postgresql://x"}, embedded=False)
    elsewhere = Stack(root=Path("/elsewhere/.oroboros"), environ={}, embedded=True)

    for command, access in ACCESS.items():
        goes_on = goes_on_as_worker(command, host, is_root=True)
        assert goes_on is goes_on_as_worker(command, own, is_root=True)
        assert not goes_on_as_worker(command, host, is_root=False)
        assert not goes_on_as_worker(command, elsewhere, is_root=True)
        if access in (Access.TIDIES, Access.RECORDS):
            assert goes_on, f"{command} writes where the worker may plant links"
    assert not goes_on_as_worker("env set", host, is_root=True)
    assert set(ACCESS) >= NEEDS_ROOT


def test_every_command_has_help_and_takes_a_root() -> None:
    for name, command in every_command():
        result = CliRunner().invoke(main, [*name.split(), "--help"])
        assert result.exit_code == 0
        assert command.help
        if name not in ROOTLESS:
            assert "--root" in result.output, name


def test_only_commands_that_order_write_anything(small: Small) -> None:
    everything_at_once(small)
    tables = ("runs", "overrides", "quarantine", "deliveries", "reports", "leases", "slots", "releases", "repositories")

    def fingerprint() -> list[object]:
        with psycopg.connect(small.settings.database_url) as connection:
            return [connection.execute(FINGERPRINT.format(sql.Identifier(table))).fetchone() for table in tables]

    before = fingerprint()
    for name in READING:
        small.run(*name.split())

    assert fingerprint() == before


#: These ask processes that a stack in small does not have.
ASKING = ("doctor", "explain pr 8", "github check", "health", "plan", "logs", "maintenance reset-audit")


@pytest.mark.parametrize("name", [name for name in READING if name not in ASKING])
def test_every_reading_command_prints_json(small: Small, name: str) -> None:
    everything_at_once(small)

    result = small.run(*name.split(), "--json")

    assert result.exit_code == 0, result.output
    assert isinstance(json.loads(result.stdout), dict)


@pytest.mark.parametrize("name", [name for name in READING if name != "version"])
def test_errors_are_json_too_when_json_is_asked_for(name: str, tmp_path: Path) -> None:
    result = CliRunner(env={"DATABASE_URL": "", "OROBOROS_ROOT": ""}).invoke(
        main, ["--root", str(tmp_path), *name.split(), "--json"]
    )

    value = json.loads(result.stdout)
    if name == "doctor":
        assert (value["ok"], result.exit_code) == (False, 1)
    elif name == "health":
        assert (value["error"], value["exit_code"], result.exit_code) == ("NoStack", 4, 4)
        assert "--root" in value["message"]
    else:
        assert (value["error"], value["exit_code"], result.exit_code) == ("EnvironmentInvalid", 2, 2)
        assert "--root" in value["message"]


@pytest.mark.parametrize("name", ["status", "slots", "releases", "deliveries", "logs"])
def test_text_of_strangers_is_shown_and_never_obeyed(small: Small, name: str) -> None:
    everything_at_once(small)

    result = small.run(name)

    assert result.exit_code == 0, result.output
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", result.stdout), "control characters"
    assert "canary-body" not in result.stdout
    assert SECRET not in result.stdout


def test_status_tells_everything_that_is_not_as_it_should_be(small: Small) -> None:
    everything_at_once(small)
    _, second, third, _ = small.commits

    said = small.run("status").stdout

    assert max(map(len, said.splitlines())) <= 80
    for expected in (
        "acme/shop on host-1, production branch trunk",
        second.sha[:7],
        small.topology.url(MAIN),
        "[red]x[/red] \\x1b[31m\\x07 \\x202e :smile:",
        "running",
        "order",
        "waiting 1",
        "needs approval",
        "quarantined",
        "last failure",
        "GateFailed",
        "missed",
        "found by resync",
        "deliveries",
    ):
        assert expected in said, expected
    assert third.sha[:7] in said


@pytest.mark.parametrize("name", ["slots", "releases", "deliveries"])
def test_tables_fit_80_columns(small: Small, name: str) -> None:
    everything_at_once(small)

    assert max(map(len, small.run(name).stdout.splitlines())) <= 80


def test_status_names_what_serves_by_the_hosts_own_word(small: Small) -> None:
    everything_at_once(small)

    value = small.json("status")

    slots = value["slots"]
    assert isinstance(slots, list)
    by_name = {slot["slot"]: slot for slot in slots}
    assert (by_name["main"]["release"], by_name["main"]["title"], by_name["main"]["by"]) == (
        small.commits[1].sha,
        "Second",
        "push",
    )
    assert (by_name["preview-1"]["state"], by_name["preview-1"]["pull_request"]) == ("empty", 7)
    assert [(w["pull_request"], w["position"]) for w in value["waiting"]] == [(8, 1), (9, None)]  # type: ignore[union-attr, index, call-overload]
    assert value["deliveries_pending"] == 1


def test_plain_keeps_what_shows_and_spells_what_moves() -> None:
    assert plain("Größe 日本 \x1b[2J\n\u202e") == "Größe 日本 \\x1b[2J\\x0a\\x202e"


# -- which stack ------------------------------------------------------------------------------------------------------


def test_the_root_is_found_in_the_order_of_the_readme(small: Small, tmp_path: Path) -> None:
    given = find_stack(small.root, {"DATABASE_URL": "postgresql://elsewhere/x"}, working_directory=tmp_path)
    assert given.embedded
    assert given.settings().database_url == small.settings.database_url

    named = find_stack(None, {"OROBOROS_ROOT": str(small.root)}, working_directory=tmp_path)
    assert named.settings().repository == "acme/shop"

    own = {"DATABASE_URL": "postgresql://elsewhere/x", "OROBOROS_REPOSITORY": "a/b", "OROBOROS_ROOT": str(small.root)}
    assert find_stack(None, own, working_directory=tmp_path).settings().database_url == "postgresql://elsewhere/x"

    assert find_stack(None, {}, working_directory=tmp_path).root == Path("/srv/oroboros")
    local = tmp_path / ".oroboros"
    local.mkdir()
    (local / "stack.json").write_text("{}")
    assert find_stack(None, {}, working_directory=tmp_path).root == local


def test_a_stack_is_found_from_the_folders_below_it_and_not_beyond_home(small: Small, tmp_path: Path) -> None:
    host, local = Path("/srv/oroboros"), tmp_path / "shop" / ".oroboros"
    deep = local / "work" / "src" / "deep"
    deep.mkdir(parents=True)
    (local / "stack.json").write_text("{}")
    (small.root / "work").mkdir(exist_ok=True)

    assert find_stack(None, {}, working_directory=deep).root == local
    assert find_stack(None, {}, working_directory=local).root == local
    assert find_stack(None, {"HOME": str(tmp_path / "shop")}, working_directory=deep).root == local
    assert find_stack(None, {"HOME": str(local / "work")}, working_directory=deep).root == host
    # A root may be called anything; a repository's own environment.json makes no stack.
    assert find_stack(None, {}, working_directory=small.root / "work").root == small.root
    (tmp_path / "environment.json").write_text("{}")
    assert find_stack(None, {}, working_directory=tmp_path).root == host


def test_a_stack_that_was_stopped_is_named_and_how_to_start_it(small: Small) -> None:
    small.layout.stack_file.unlink()

    value = small.json("status")

    assert (value["error"], value["exit_code"]) == ("NoStack", 4)
    assert f"oroboros up --root {small.root}" in str(value["message"])


def test_root_may_stand_before_or_behind_the_command(small: Small) -> None:
    behind = CliRunner().invoke(main, ["slots", "--root", str(small.root), "--json"])

    assert json.loads(behind.stdout) == small.json("slots")


# -- errors and exit codes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused("R", "m"), 3),
        (ConfigInvalid("R", "m"), 2),
        (Failed("R", "m"), 1),
        (Stalled("R", "m"), 1),
        (Unavailable("R", "m"), 4),
        (Waiting("R", "m"), 4),
    ],
)
def test_exit_codes_follow_the_consequence(
    error: Refused | ConfigInvalid | Failed | Stalled | Unavailable | Waiting, code: int
) -> None:
    assert exit_code(error) == code


def test_real_processes_exit_as_promised(small: Small) -> None:
    root = ("--root", str(small.root))
    environment = small.root / "environment.json"

    assert oroboros("version").returncode == 0
    assert oroboros("nosuch").returncode == 2
    refused = oroboros(*root, "rollback", "--json")
    assert (refused.returncode, json.loads(refused.stdout)["error"]) == (3, "NothingServes")
    assert refused.stderr == ""
    assert oroboros(*root, "verify").returncode == 3
    environment.write_text(
        json.dumps(json.loads(environment.read_text()) | {"DATABASE_URL": "postgresql://127.0.0.1:1/x"})
    )
    away = oroboros(*root, "status")
    assert away.returncode == 4
    assert "DatabaseAway" in away.stderr
    assert "Traceback" not in away.stderr


@pytest.mark.parametrize("command", ["status", "slots"])
def test_what_serves_is_told_from_the_disk_while_the_database_is_away(small: Small, command: str) -> None:
    head = small.commits[0]
    generation = small.serve(head)
    with_database = json.loads(small.run(command, "--json").stdout)["slots"][0]
    environment = small.root / "environment.json"
    environment.write_text(
        json.dumps(json.loads(environment.read_text()) | {"DATABASE_URL": "postgresql://127.0.0.1:1/x"})
    )

    told = small.run(command)
    value = json.loads(small.run(command, "--json").stdout)

    assert told.exit_code == 4
    assert head.sha[:7] in told.stdout
    assert "DatabaseAway" in told.stderr
    assert (value["error"], value["exit_code"]) == ("DatabaseAway", 4)
    main = value["slots"][0]
    assert (main["slot"], main["release"], main["live_run"]) == ("main", head.sha, generation)
    assert with_database["live_run"] == generation
    between = datetime.fromisoformat(main["since"]) - datetime.fromisoformat(with_database["since"])
    assert abs(between.total_seconds()) < 60


def test_releases_say_what_each_is_by_the_disk_and_the_runs(small: Small) -> None:
    first, second, third = small.commits
    small.serve(first)
    run = small.serve(second)
    small.publish(third)
    failed = small.begin(third)
    small.end(failed, RunState.FAILED, reason="GateFailed", message="it answered 500")

    told = json.loads(small.run("releases", "--json").stdout)["releases"]

    assert {one["release"]: (one["standing"], one["run"]) for one in told} == {
        first.sha: ("previous", run),
        second.sha: ("live", run),
        third.sha: ("failed", failed),
    }
    assert all(one["since"] for one in told)


def test_explain_names_what_is_no_number_of_a_pull_request(small: Small) -> None:
    assert "'abc' is not a valid number of a pull request" in small.run("explain", "pr", "abc").stderr


def test_outside_a_stack_it_is_said_first_how_to_find_one(tmp_path: Path) -> None:
    result = CliRunner(env={"DATABASE_URL": "", "OROBOROS_ROOT": ""}).invoke(main, ["--root", str(tmp_path), "status"])

    assert result.exit_code == 2
    assert 0 < result.stderr.index("--root DIR") < result.stderr.index("DATABASE_URL")


def test_a_database_without_tables_is_told_apart_from_a_bug(small: Small, empty_postgres_url: str) -> None:
    file = small.root / "environment.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"DATABASE_URL": empty_postgres_url}))

    value = small.json("releases")

    assert (value["error"], value["exit_code"]) == ("DatabaseRefused", 4)


def test_ctrl_c_ends_with_130(small: Small) -> None:
    everything_at_once(small)
    process = subprocess.Popen(
        [sys.executable, "-m", "controller.doors.cli", "--root", str(small.root), "logs", "--follow"],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=bare_environment(),
    )
    assert process.stdout is not None
    assert b"main-a" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)

    assert process.returncode == 130
    assert b"Traceback" not in errors


def test_ctrl_c_while_an_order_is_followed_leaves_the_order(small: Small) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "controller.doors.cli", "--root", str(small.root), "deploy", small.commits[0].sha],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=bare_environment(),
    )
    assert process.stdout is not None
    assert b"ordered by" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)

    assert process.returncode == 130
    assert b"the order stands" in output
    assert b"Traceback" not in errors
    assert [order.head.sha for order in small.store.load_history().overrides] == [small.commits[0].sha]


def test_a_reader_that_has_seen_enough_is_no_error(small: Small) -> None:
    everything_at_once(small)
    process = subprocess.Popen(
        [sys.executable, "-m", "controller.doors.cli", "--root", str(small.root), "status"],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=bare_environment(),
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, errors = process.communicate(timeout=20)

    assert (process.returncode, errors) == (0, b"")


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colour_is_for_terminals_that_want_it(small: Small, environment: dict[str, str], coloured: bool) -> None:
    everything_at_once(small)
    wanted = {"TERM": "xterm-256color", "COLUMNS": "80"} | environment

    shown = in_a_terminal("--root", str(small.root), "status", **wanted)

    assert (b"\x1b[" in shown) is coloured
    assert b"\x1b[" not in oroboros("--root", str(small.root), "status", **wanted).stdout.encode()


def in_a_terminal(*words: str, **environment: str) -> bytes:
    """Run a command on a terminal of its own; return what it showed there."""
    leader, follower = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "controller.doors.cli", *words],
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=follower,
            stderr=subprocess.DEVNULL,
            env=bare_environment() | environment,
        )
        os.close(follower)
        shown = b""
        deadline = time.monotonic() + 30
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while time.monotonic() < deadline and (piece := os.read(leader, 65_536)):
                shown += piece
        assert process.wait(20) == 0, shown
        return shown
    finally:
        os.close(leader)


def test_the_shell_can_complete_commands() -> None:
    done = oroboros(_OROBOROS_COMPLETE="bash_complete", COMP_WORDS="oroboros de", COMP_CWORD="1")

    assert {line.partition(",")[2] for line in done.stdout.split()} >= {"deploy", "deliveries", "demo"}


def test_the_version_is_that_of_the_checkout() -> None:
    assert oroboros("version").stdout == f"oroboros {cli.read_version()}\n"


def test_the_group_is_the_console_script() -> None:
    assert isinstance(main, click.Group)
    assert 'oroboros = "controller.doors.cli:main"' in (CHECKOUT / "pyproject.toml").read_text()


# -- verify -----------------------------------------------------------------------------------------------------------


def test_verify_finds_what_was_damaged(small: Small) -> None:
    head = small.commits[0]
    small.serve(head)
    assert small.run("verify").exit_code == 0
    file = small.layout.release(head.sha) / "app.py"
    file.chmod(0o644)
    file.write_text("# pwned\n")

    result = small.run("verify", head.sha[:7])

    assert result.exit_code == 1
    assert "app.py" in result.output
    assert small.json("verify")["whole"] is False


def test_verify_needs_no_running_stack(small: Small) -> None:
    small.serve(small.commits[0])
    small.layout.stack_file.unlink()

    assert small.run("verify").exit_code == 0


def test_verify_refuses_a_release_that_is_not_there(small: Small) -> None:
    value = small.json("verify", small.commits[1].sha)

    assert (value["error"], value["exit_code"]) == ("ReleaseUnclear", 3)


def test_status_tells_of_a_rename_and_of_deliveries_that_came_in_vain(small: Small) -> None:
    small.store.record_repository(Repository(id=7, full_name="acme/renamed", default_branch="trunk"))
    missed = [
        Missed(guid=f"g-{n}", attempt_id=n, event="push", status_code=502, delivered_at=utc_now()) for n in range(1, 4)
    ]
    small.store.record_sweep(missed, taken=(), swept_to=3, began_at=utc_now(), now=utc_now())
    for _ in range(ASKS_MAX):
        small.store.record_asked("g-1", now=utc_now())

    said = " ".join(small.run("status").output.split())
    assert "the repository is called acme/renamed now: set OROBOROS_REPOSITORY" in said
    assert "3 that the forge could not hand over, asked for again; 1 given up" in said

    small.store.record_sweep((), taken=["g-1", "g-2", "g-3"], swept_to=9, began_at=utc_now(), now=utc_now())
    assert "could not hand over" not in small.run("status").output
