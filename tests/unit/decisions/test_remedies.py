"""The table of remedies: every fault has one wherever it can be found, and none names the other kind of stack."""

from __future__ import annotations

import re
import string

import pytest

from controller.decisions.remedies import Fault, Place, host_commands, remedy_of

#: What an installation has and `oroboros up` has not, and the other way round.
OF_A_HOST = re.compile(r"sudo|systemctl|journalctl|oroboros install|scripts/install\.sh|ouroboros-|/etc/oroboros")
OF_DEVELOPMENT = re.compile(r"oroboros up|--port-base|--root|supervisor|\bvenv\b|\bpip\b")
ABOUT = {name: (name,) for name in ("paths", "pids", "units", "words")} | {
    name: name for name in ("path", "root", "slot", "unit", "wanted")
}


@pytest.mark.parametrize("fault", Fault)
def test_a_host_is_told_nothing_of_development_and_the_other_way_round(fault: Fault) -> None:
    host, development = (remedy_of(fault, place, ABOUT).text for place in (Place.HOST, Place.DEVELOPMENT))

    assert host
    assert not OF_DEVELOPMENT.search(host)
    assert not OF_A_HOST.search(development)


@pytest.mark.parametrize("fault", Fault)
def test_commands_begin_with_a_program_and_leave_nothing_to_fill_in(fault: Fault) -> None:
    for command in remedy_of(fault, Place.HOST, ABOUT).commands:
        assert command.startswith("sudo ")
        assert not re.search("[A-Z]{2,}|[{}<>…]", command)


def test_what_a_finding_is_about_is_quoted_in_commands_and_plain_in_advice() -> None:
    told = remedy_of(Fault.UNITS_OVERRIDDEN, Place.HOST, {"paths": ("/a b", "/c")})
    assert told.commands == ("sudo rm '/a b' /c", "sudo systemctl daemon-reload")
    assert told.text == "sudo rm '/a b' /c; then sudo systemctl daemon-reload"

    assert "logs preview-1 " in remedy_of(Fault.PREVIEW_UNWELL, Place.HOST, {"slot": "preview-1"}).advice


def test_only_production_is_told_to_go_back() -> None:
    told = {fault for fault in Fault if any("rollback" in command for command in host_commands(fault))}

    assert told == {Fault.PRODUCTION_UNWELL}
    assert [field for _, field, *_ in string.Formatter().parse(host_commands(Fault.SLOT_STOPPED)[0]) if field] == [
        "slot"
    ]
