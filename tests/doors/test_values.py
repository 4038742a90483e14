"""Do an app's own values go where the app finds them, are they never shown, and may they never be ours?"""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from controller.doors.cli import main
from controller.doors.stacks import Stack, find_stack
from controller.model.errors import ConfigInvalid, Refused
from controller.model.names import HOST_CONFIG, HOST_ROOT
from tests.doors.stack import SECRET, Small


def set_value(small: Small, slot: str, key: str, value: str) -> Result:
    return CliRunner().invoke(main, ["--root", str(small.root), "env", "set", slot, key], input=value)


def file_of(small: Small, slot: str) -> Path:
    return small.settings.config_dir / f"app-{slot}.env"


def test_a_value_is_written_closed_listed_by_name_and_taken_away(small: Small) -> None:
    told = [set_value(small, "main", "STRIPE_KEY", f"{SECRET}\n"), set_value(small, "main", "MODE", "x=1 y")]
    listed = small.run("env", "list", "main")

    assert [result.exit_code for result in told] == [0, 0]
    assert file_of(small, "main").read_text() == f"MODE=x=1 y\nSTRIPE_KEY={SECRET}\n"
    assert stat.S_IMODE(file_of(small, "main").stat().st_mode) == 0o600
    assert listed.output == "MODE\nSTRIPE_KEY\n"
    assert SECRET not in "".join(result.output for result in (*told, listed))

    assert small.run("env", "unset", "main", "STRIPE_KEY").exit_code == 0
    assert file_of(small, "main").read_text() == "MODE=x=1 y\n"
    assert small.json("env", "list", "main") == {"slot": "main", "names": ["MODE"]}


def test_an_empty_line_is_an_empty_value(small: Small) -> None:
    assert set_value(small, "main", "KEY", "\n").exit_code == 0
    assert file_of(small, "main").read_text() == "KEY=\n"


def test_a_preview_gets_its_own_values_however_the_slot_is_said(small: Small) -> None:
    for slot in ("preview-1", "preview1", "1"):
        assert set_value(small, slot, f"KEY_{slot.replace('-', '_')}", "x").exit_code == 0

    assert file_of(small, "preview-1").read_text() == "KEY_1=x\nKEY_preview1=x\nKEY_preview_1=x\n"
    assert not file_of(small, "main").exists()


@pytest.mark.parametrize(
    ("slot", "key", "value", "code", "reason"),
    [
        ("preview-77", "KEY", "x", 2, "no slot of this host"),
        ("elsewhere", "KEY", "x", 2, "not a slot"),
        ("main", "PORT", "x", 2, "KeyReserved"),
        ("main", "DATABASE_URL", "x", 2, "KeyReserved"),
        ("main", "OROBOROS_URL", "x", 2, "KeyReserved"),
        ("main", "A-B", "x", 2, "KeyInvalid"),
        ("main", "1A", "x", 2, "KeyInvalid"),
        ("main", "KEY", "", 2, "nothing on standard input"),
        ("main", "KEY", "two\nlines", 2, "ValueInvalid"),
        ("main", "KEY", "a\0b", 2, "ValueInvalid"),
    ],
)
def test_what_no_app_may_have_is_refused_and_nothing_is_written(
    small: Small, slot: str, key: str, value: str, code: int, reason: str
) -> None:
    result = set_value(small, slot, key, value)

    assert result.exit_code == code
    assert reason in result.output
    assert list(small.settings.config_dir.glob("app-*.env")) == []


def test_taking_away_what_is_not_there_is_said(small: Small) -> None:
    result = small.run("env", "unset", "main", "KEY")

    assert (result.exit_code, "ValueMissing" in result.output) == (3, True)


def test_on_a_host_only_root_may_look() -> None:
    stack = Stack(root=HOST_ROOT, environ={}, embedded=False, is_host=True, closed="/etc/oroboros/worker.env")

    with pytest.raises(Refused, match="use sudo"):
        stack.settings()
    with pytest.raises(Refused, match="use sudo"):
        _ = stack.config_dir


def test_a_host_without_a_repository_says_so_and_still_takes_values() -> None:
    stack = Stack(root=HOST_ROOT, environ={"DATABASE_URL": "postgresql://x"}, embedded=False, is_host=True)

    with pytest.raises(ConfigInvalid, match="oroboros repo set"):
        stack.settings()
    assert stack.config_dir == HOST_CONFIG


def test_settings_that_others_may_write_are_not_believed(tmp_path: Path) -> None:
    file = tmp_path / "environment.json"
    file.write_text('{"DATABASE_URL": "postgresql://elsewhere"}')
    file.chmod(0o600)
    assert find_stack(tmp_path, {}, working_directory=tmp_path).embedded

    for mode in (0o620, 0o602):
        file.chmod(mode)
        with pytest.raises(Refused, match="EnvironmentNotOurs"):
            find_stack(tmp_path, {}, working_directory=tmp_path)
    elsewhere = file.rename(tmp_path / "elsewhere.json")
    elsewhere.chmod(0o600)
    file.symlink_to(elsewhere)
    with pytest.raises(Refused, match="EnvironmentNotOurs"):
        find_stack(tmp_path, {}, working_directory=tmp_path)
