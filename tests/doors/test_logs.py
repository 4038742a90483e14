"""Logs: which run is meant, the last lines, and what is written meanwhile."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import click
import pytest

from controller.doors.cli_logs import LogTail, choose_run, describe_choice, show_logs, shown_lines
from controller.doors.views import RunView
from controller.model.errors import Refused
from controller.model.names import preview_slot
from controller.model.states import Cause, RunState
from tests.doors.stack import Small, utc_now


def write_log(small: Small, generation: int, unit: str, body: bytes) -> None:
    path = small.layout.log_file(unit, generation)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)


def test_logs_are_by_default_those_of_what_is_under_way_failed_or_serves(small: Small) -> None:
    first, second, third = small.commits

    def chosen() -> int:
        return choose_run(small.store, small.layout, small.topology, what="main", run_id=None).run

    serving = small.serve(first)
    assert chosen() == serving
    superseded = small.begin(second)
    small.end(superseded, RunState.SUPERSEDED)
    assert chosen() == serving
    failed = small.begin(third)
    assert chosen() == failed  # it is under way
    small.end(failed, RunState.FAILED, reason="InstanceExited")
    assert chosen() == failed

    # What serves is brought back since: of interest is still why.
    ends = small.begin(first, cause=Cause.REPAIR)
    assert chosen() == failed
    small.end(ends, RunState.SUPERSEDED)
    back = small.serve(first, cause=Cause.REPAIR)
    assert chosen() == failed
    asked = choose_run(small.store, small.layout, small.topology, what=None, run_id=failed)
    told = describe_choice(asked, serving=back)
    see = f"run {back} serves: `oroboros logs --run {back}`"
    assert told == f"run {failed} of main, {third.sha[:7]}: failed (InstanceExited); {see}"
    assert small.run("logs", "main").stderr.startswith(f"{told}\n")

    good = small.serve(second)
    assert chosen() == good
    assert small.run("logs", "main").stderr.startswith(f"run {good} of main, which serves {second.sha[:7]}\n")
    repair = small.begin(second, cause=Cause.REPAIR)
    assert chosen() == repair
    small.end(repair, RunState.LIVE)


def test_a_number_means_the_slot_and_only_then_the_run(small: Small) -> None:
    fence = small.store.claim_slot(preview_slot(1), 7, now=utc_now(), expires_at=utc_now())
    assert fence is not None
    of_preview = small.begin(small.commits[0], slot=preview_slot(1), fence=fence, domain="pr-7")

    for words in ("1", "preview-1", "preview1"):
        assert choose_run(small.store, small.layout, small.topology, what=words, run_id=None).run == of_preview
    if of_preview > small.topology.previews:
        found = choose_run(small.store, small.layout, small.topology, what=str(of_preview), run_id=None)
        assert found.run == of_preview


@pytest.mark.parametrize("what", ["nosuch", "preview-9", "-1", "٣", "1e3"])
def test_what_is_neither_slot_nor_run_is_a_usage_error(small: Small, what: str) -> None:
    with pytest.raises(click.UsageError):
        choose_run(small.store, small.layout, small.topology, what=what, run_id=None)


def test_a_run_that_never_was_is_refused(small: Small) -> None:
    with pytest.raises(Refused) as refused:
        choose_run(small.store, small.layout, small.topology, what=None, run_id=10**15)

    assert refused.value.reason == "RunUnknown"


def test_logs_show_the_last_lines_of_each_unit(small: Small) -> None:
    generation = small.serve(small.commits[0])
    write_log(small, generation, "main-a", b"one\ntwo\nthree\n")
    write_log(small, generation, "migrate-main", b"migrated\n")

    result = small.run("logs", "-n", "2")

    assert result.stdout == (
        f"== main-a, run {generation} ==\ntwo\nthree\n== migrate-main, run {generation} ==\nmigrated\n"
    )


def test_logs_are_a_json_object_a_line(small: Small) -> None:
    generation = small.serve(small.commits[0])
    write_log(small, generation, "main-a", b"one\n\xff\x1b[2J\x1b[31mred\x1b[0m\n")

    lines = [json.loads(line) for line in small.run("logs", "--json").stdout.splitlines()]

    assert lines == [
        {"run": generation, "unit": "main-a", "line": "one"},
        {"run": generation, "unit": "main-a", "line": "\ufffdred"},
    ]


def test_following_ends_with_the_run(small: Small) -> None:
    generation = small.begin(small.commits[0])
    write_log(small, generation, "main-a", b"boom\n")
    small.end(generation, RunState.FAILED, reason="GateFailed")

    result = small.run("logs", "--run", str(generation), "--follow")

    assert result.exit_code == 0
    assert "boom" in result.stdout


def test_whoever_follows_a_slot_follows_one_run_after_the_other(small: Small) -> None:
    first = small.begin(small.commits[0])
    write_log(small, first, "main-a", b"first\n")
    small.end(first, RunState.FAILED)
    told: list[str] = []

    class Enough(Exception):
        pass

    def next_run() -> RunView:
        if told:
            raise Enough
        told.append("asked")
        second = small.begin(small.commits[1])
        write_log(small, second, "main-b", b"second\n")
        return choose_run(small.store, small.layout, small.topology, what="main", run_id=None)

    run = choose_run(small.store, small.layout, small.topology, what="main", run_id=None)
    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.raises(Enough):
        show_logs(small.store, small.settings, run, lines=9, follow=True, as_json=False, next_run=next_run)

    assert re.findall("first|second", output.getvalue()) == ["first", "second"]


def test_a_tail_goes_on_where_it_was_and_keeps_lines_whole(tmp_path: Path) -> None:
    log = tmp_path / "main-a.log"
    log.write_bytes(b"one\ntwo\n")
    tail = LogTail(tmp_path)
    assert tail.last(1) == [("main-a.log", "two")]
    assert tail.more() == []
    with log.open("ab") as file:
        file.write(b"thr")
        file.flush()
        assert tail.more() == []
        file.write(b"ee\nfo")
        file.flush()
        assert tail.more() == [("main-a.log", "three")]
    (tmp_path / "main-b.log").write_bytes(b"other\n")
    assert tail.more() == [("main-b.log", "other")]
    log.write_bytes(b"anew\n")
    assert tail.more() == [("main-a.log", "anew")]


def test_a_long_or_odd_line_is_bounded_and_visible() -> None:
    assert shown_lines([b"a\tb\x07\r"]) == ["a\tb\\x07"]
    assert len(shown_lines([b"x" * 10_000])[0]) == 2_000
    # Masked before it is cut.
    assert "hunter" not in shown_lines([b"x" * 1_980 + b" password=hunter2hunter2"])[0]


def test_secrets_are_masked_over_lines(small: Small) -> None:
    generation = small.serve(small.commits[0])
    key = b"-----BEGIN PRIVATE KEY-----\n" + b"MIIEvQIBADANBgkq\n" * 9 + b"-----END PRIVATE KEY-----\n"
    write_log(small, generation, "main-a", b"first\n" + key + b"DB_PASSWORD=hunter2\nlast\n")
    shown = small.run("logs").stdout
    assert shown.splitlines()[1:] == ["first", "[secret]", "DB_PASSWORD=[secret]", "last"]
    assert "MIIE" not in small.run("logs", "-n", "5").stdout
