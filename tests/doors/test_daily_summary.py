"""Does the daily summary say what is, as its schema describes it, whole and again every day?"""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, date, datetime
from pathlib import Path

import jsonschema
import pytest
from click.testing import Result

from controller.effects.day_files import measure_folder, remove_old_summaries, summary_name, write_summary
from controller.model.errors import Unavailable
from controller.model.names import MAIN, PRODUCTION
from controller.model.nouns import Drift
from tests.doors.stack import SECRET, Small, utc_now
from tests.doors.test_commands import HOSTILE, everything_at_once

CHECKOUT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((CHECKOUT / "docs" / "daily-health-summary.schema.json").read_text())


def summarize(small: Small, folder: Path) -> tuple[Result, dict[str, object]]:
    """Run the command; return its result and the one file that it wrote, as valid as its schema wants."""
    result = small.run("maintenance", "daily-summary", "--output-dir", str(folder))
    (file,) = folder.iterdir()
    assert file.name == summary_name(datetime.now(UTC).date())
    value = json.loads(file.read_text())
    jsonschema.validate(value, SCHEMA, format_checker=jsonschema.FormatChecker())
    assert SECRET not in file.read_text() + result.output
    return result, value


def at(value: object, *path: str) -> object:
    for name in path:
        assert isinstance(value, dict)
        value = value[name]
    return value


def test_says_everything_at_once_as_the_schema_describes_it(small: Small, tmp_path: Path) -> None:
    everything_at_once(small)
    drift = Drift(reason="CurrentChanged", slot=MAIN, subject="current", message=HOSTILE, handling="held")
    small.store.record_drifts([drift], looked_at={"CurrentChanged"}, now=utc_now())
    result, value = summarize(small, tmp_path / "new" / "folder")

    assert result.exit_code == 0, result.output
    second, third = small.commits[1], small.commits[2]
    assert at(value, "record", "runs", "by_state") == {"failed": 1, "live": 2, "planned": 1}
    assert at(value, "record", "runs", "by_reason") == {"GateFailed": 1}
    (failure,) = at(value, "record", "runs", "failures")  # type: ignore[misc]
    assert (failure["sha"], failure["state"]) == (third.sha, "failed")
    assert at(value, "record", "deliveries", "received") == 1
    assert at(value, "record", "slots", "leased") == 1
    assert [one["sha"] for one in at(value, "record", "missed")] == [third.sha]  # type: ignore[attr-defined]
    assert [one["subject"] for one in at(value, "record", "drifts")] == ["current"]  # type: ignore[attr-defined]
    main = at(value, "live")[0]  # type: ignore[index]
    assert (main["slot"], main["release"], main["title"]) == ("main", second.sha, "Second")
    services = {one["service"]: one["ok"] for one in at(value, "health")}  # type: ignore[attr-defined]
    assert (services["postgres"], services["redis"], services["worker"]) == (True, True, False)
    assert "worker is not well" in result.output
    assert "\x1b" not in result.output


def test_an_unresolved_rollback_is_told_again_until_a_later_head_clears_it(small: Small, tmp_path: Path) -> None:
    _, second, third = small.commits
    small.serve(second)
    small.store.record_quarantine(
        domain=PRODUCTION, tree=third.tree, sha=third.sha, reason="WindowFailed", message="500", now=utc_now()
    )
    for _ in range(2):
        result, value = summarize(small, tmp_path)
        (one,) = at(value, "unresolved_rollbacks")  # type: ignore[misc]
        assert (one["kind"], one["head"], one["serves"]) == ("head_quarantined", third.sha, second.sha)
        assert f"head {third.sha[:7]} does not serve, {second.sha[:7]} does" in result.output
    small.commit("Fourth")
    _, value = summarize(small, tmp_path)

    assert at(value, "unresolved_rollbacks") == []


def test_without_the_database_the_file_says_what_the_host_shows(small: Small, tmp_path: Path) -> None:
    small.serve(small.commits[0])
    environment = json.loads((small.root / "environment.json").read_text())
    environment["DATABASE_URL"] = f"postgresql://nobody@/nothing?host={tmp_path}"
    (small.root / "environment.json").write_text(json.dumps(environment))
    result, value = summarize(small, tmp_path / "out")

    assert result.exit_code == 4
    assert at(value, "record") is None
    assert "DatabaseAway" in str(at(value, "record_problem"))
    assert at(value, "live")[0]["release"] == small.commits[0].sha  # type: ignore[index]


def test_a_folder_that_cannot_be_written_is_an_error_with_a_reason(small: Small, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    value = small.json("maintenance", "daily-summary", "--output-dir", str(tmp_path / "file" / "below"))

    assert (value["error"], value["exit_code"]) == ("SummaryNotWritten", 4)


def test_the_output_folder_must_be_named(small: Small) -> None:
    assert small.run("maintenance", "daily-summary").exit_code == 2


# Files.


def test_a_summary_replaces_the_one_of_its_day_by_a_rename(tmp_path: Path) -> None:
    day = date(2030, 1, 2)
    path = write_summary(tmp_path, day, "one")
    inode = path.stat().st_ino
    write_summary(tmp_path, day, "two")

    assert path.name == "daily-health-summary-20300102.json"
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("two", 0o640)
    assert path.stat().st_ino != inode
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_stands_where_the_file_belongs(tmp_path: Path) -> None:
    (tmp_path / summary_name(date(2030, 1, 2))).mkdir()

    with pytest.raises(Unavailable, match="SummaryNotWritten"):
        write_summary(tmp_path, date(2030, 1, 2), "x")
    assert len(list(tmp_path.iterdir())) == 1


def test_the_newest_summaries_stay_and_nothing_else_is_touched(tmp_path: Path) -> None:
    for day in range(1, 8):
        write_summary(tmp_path, date(2030, 1, day), "x")
    (tmp_path / "daily-health-summary-notes.json").write_text("mine")
    (tmp_path / "other.json").write_text("mine")

    assert remove_old_summaries(tmp_path, keep=3) == 4
    assert remove_old_summaries(tmp_path, keep=3) == 0
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "daily-health-summary-20300105.json",
        "daily-health-summary-20300106.json",
        "daily-health-summary-20300107.json",
        "daily-health-summary-notes.json",
        "other.json",
    ]


def test_a_file_with_two_names_takes_its_place_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"x" * 100_000)
    os.link(tmp_path / "a" / "one", tmp_path / "two")
    later = time.monotonic() + 60
    both, folder = measure_folder(tmp_path, deadline_s=later), measure_folder(tmp_path / "a", deadline_s=later)

    assert both.files == 2  # the folder and the file
    assert both.complete
    assert 100_000 <= folder.size_bytes <= both.size_bytes < 200_000
    assert measure_folder(tmp_path / "nothing", deadline_s=later).files == 0
    assert not measure_folder(tmp_path, deadline_s=0).complete
