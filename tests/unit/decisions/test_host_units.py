"""Are the tracked units what is rendered for the contract's topology, and do they keep what they promise?

    PYTHONPATH=. python tests/unit/decisions/test_host_units.py

writes them anew after a change of the rendering.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from controller.decisions.host_units import (
    POLKIT_RULE,
    TMPFILES,
    UNITS,
    VERBS,
    enabled_units,
    render_units,
    worker_units,
)
from controller.model.host_files import HostFile
from controller.model.names import CONTRACT, Topology, slot_user, unit_of_systemd
from controller.model.profiles import Walls

CHECKOUT = Path(__file__).resolve().parents[3]
FOLDER = CHECKOUT / "infra" / "systemd"


def tracked_path(file: HostFile) -> Path:
    """Return where a host's file is tracked."""
    if file.path in (POLKIT_RULE, TMPFILES):
        return FOLDER / file.path.name
    return FOLDER / file.path.relative_to(UNITS)


def is_ours_to_render(path: Path) -> bool:
    return path.is_file() and "env" not in path.relative_to(FOLDER).parts and path.name != "may-start"


FILES = {tracked_path(file): file for file in render_units(CONTRACT)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_tracked_unit_is_what_is_rendered(path: Path) -> None:
    assert path.read_text() == FILES[path].text, f"run: PYTHONPATH=. python {Path(__file__).relative_to(CHECKOUT)}"


def test_nothing_else_is_tracked() -> None:
    assert {path for path in FOLDER.rglob("*") if is_ours_to_render(path)} == set(FILES)


def test_every_process_is_walled_and_none_is_root() -> None:
    services = {path.name: file.text for path, file in FILES.items() if path.name.endswith(".service")}
    drop_ins = {
        path.parent.name.removesuffix(".d"): file.text for path, file in FILES.items() if path.suffix == ".conf"
    }

    for name, text in services.items():
        assert "NoNewPrivileges=yes" in text, name
        assert "ProtectSystem=strict" in text, name
        if "@." not in name or name.startswith("ouroboros-web@"):
            assert re.search(r"^User=(?!root)", text, re.MULTILINE), name
    for name, text in drop_ins.items():
        if unit_of_systemd(name) is not None:
            assert re.search(r"^User=oroboros-(main|preview-\d)$", text, re.MULTILINE), name


def test_strangers_code_may_tell_systemd_nothing() -> None:
    for path, file in FILES.items():
        if unit_of_systemd(path.name.replace("@.", "@main.").replace("instance@main", "instance@main-a")) is None:
            continue
        assert "\nNotifyAccess=none\n" in file.text, path
        assert "systemd/notify" not in file.text, path


def percent(slice_name: str, key: str) -> int:
    match = re.search(rf"^{key}=(\d+)%$", FILES[FOLDER / f"{slice_name}.slice"].text, re.MULTILINE)
    return int(match[1]) if match else 0


def test_previews_and_builds_together_leave_production_its_memory() -> None:
    taken = percent("ouroboros-previews", "MemoryMax") + percent("ouroboros-builds", "MemoryMax")
    kept = percent("ouroboros-production", "MemoryLow") + percent("ouroboros-control", "MemoryLow")

    assert 0 < taken <= 60
    assert 0 < kept <= 100 - taken
    assert percent("ouroboros", "MemoryLow") == kept, "a share that the slice above does not promise is worth nothing"


def test_a_preview_has_a_network_of_its_own_and_production_has_not() -> None:
    texts = {str(path.relative_to(FOLDER)): file.text for path, file in FILES.items()}

    assert "PrivateNetwork=yes" in texts["ouroboros-instance@preview2-b.service.d/slot.conf"]
    assert "PrivateNetwork=yes" not in texts["ouroboros-instance@main-a.service.d/slot.conf"]
    forward = texts["ouroboros-forward@preview2-b.service"]
    assert "JoinsNamespaceOf=ouroboros-instance@preview2-b.service" in forward
    assert "127.0.0.1:8302" in forward


def test_the_way_into_a_preview_is_there_as_long_as_its_instance() -> None:
    texts = {str(path.relative_to(FOLDER)): file.text for path, file in FILES.items()}

    way, instance = "ouroboros-forward@preview2-b.socket", "ouroboros-instance@preview2-b.service"
    assert f"\nBindsTo={instance}\nAfter={instance}\n" in texts[way]
    assert f"\nWants={way}\n" in texts[f"{instance}.d/slot.conf"]
    assert f"\nConditionPathExists=/run/credentials/{instance}\n" in texts[way]
    assert way not in enabled_units(CONTRACT)


def test_previews_give_way_to_all_else_and_leave_it_a_processor() -> None:
    def units(topology: Topology, line: str) -> set[str]:
        return {file.path.parent.name for file in render_units(topology) if f"\n{line}\n" in file.text}

    kinds = ("instance@preview1-a", "instance@preview1-b", "build@preview1", "migrate@preview1", "wipe@preview1")
    of_previews = {f"ouroboros-{kind.replace('1', str(n), 1)}.service.d" for kind in kinds for n in (1, 2, 3)}
    assert units(CONTRACT, "CPUSchedulingPolicy=idle") == of_previews
    assert units(CONTRACT, "CPUAffinity=1-1023") == of_previews
    # Where there is only one, no service could start.
    assert units(replace(CONTRACT, spares_processor=False), "CPUAffinity=1-1023") == set()


def test_previews_share_the_host_network_only_when_it_was_installed_so() -> None:
    shared = render_units(replace(CONTRACT, isolated_previews=False))

    assert not [file for file in shared if "forward" in file.path.name]
    assert not [file for file in shared if "instance@preview" in str(file.path) and "PrivateNetwork=yes" in file.text]


@pytest.mark.parametrize(
    ("walls", "line", "is_there"),
    [
        (Walls(), "RestrictAddressFamilies=AF_NETLINK", False),
        (Walls(netlink=True), "RestrictAddressFamilies=AF_NETLINK", True),
        (Walls(), "ProcSubset=pid", True),
        (Walls(proc="all"), "ProcSubset=pid", False),
        (Walls(system_calls="any"), "SystemCallFilter=@system-service", False),
        (Walls(open_files=9_000), "LimitNOFILE=9000", True),
        (Walls(file_bytes=1 << 40), f"LimitFSIZE={1 << 40}", True),
        (Walls(production_tasks=77), "TasksMax=77", True),
        (Walls(preview_tasks=78), "TasksMax=78", True),
        (Walls(build_tasks=79), "TasksMax=79", True),
    ],
)
def test_a_wall_of_slots_is_relaxed_by_its_key(walls: Walls, line: str, *, is_there: bool) -> None:
    of_slots = [
        file.text
        for file in render_units(replace(CONTRACT, walls=walls))
        if re.search(r"ouroboros-(instance|build|migrate)@", str(file.path))
    ]
    assert any(line in text.splitlines() for text in of_slots) is is_there


@pytest.mark.parametrize("previews", [0, 1, 7])
def test_the_rule_names_exactly_the_units_that_there_are(previews: int) -> None:
    topology = replace(CONTRACT, previews=previews)
    (rule,) = (file.text for file in render_units(topology) if file.path == POLKIT_RULE)
    named = set(re.findall(r'"(ouroboros-[^"]+)": true', rule))

    assert named == {*worker_units(topology), "ouroboros-worker.service", "ouroboros-api.service"}
    assert all(f'"{verb}": true' in rule for verb in VERBS)
    assert rule.count("polkit.Result.YES") == 3
    assert len(worker_units(topology)) == (1 + previews) * 5
    bound = set(re.findall(r'"([^"]+)": true', next(line for line in rule.splitlines() if "oroborosUsers = " in line)))
    assert bound == {"oroboros", "oroboros-worker", "caddy", *(slot_user(slot) for slot in topology.slots)}


def test_every_unit_that_is_enabled_can_be() -> None:
    texts = {file.path.name: file.text for file in render_units(CONTRACT)}

    for name in enabled_units(CONTRACT):
        template = re.sub(r"@[^.]+\.", "@.", name)
        assert "[Install]" in (texts.get(name) or texts[template]), name


def test_builds_and_nothing_else_reach_the_name_servers_of_this_host() -> None:
    files = render_units(replace(CONTRACT, resolvers=("192.168.1.1",)))

    assert [file.path.name for file in files if "192.168.1.1" in file.text] == ["ouroboros-build@.service"]


def test_no_secret_is_in_a_unit() -> None:
    for file in FILES.values():
        assert not re.search(r"(?i)password|token=|secret=", file.text), file.path


if __name__ == "__main__":
    for old in FOLDER.rglob("*"):
        if is_ours_to_render(old):
            old.unlink()
    for path, file in FILES.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text)
