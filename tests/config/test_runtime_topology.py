"""Does the topology that people read say what is rendered? Each row of its tables, against the files of a host."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from controller.decisions.edge import render_edge
from controller.decisions.host_units import UNITS, render_units
from controller.decisions.surfaces import surface_environment
from controller.model.names import CONTRACT, HOST_LOGS, unit_instance

CHECKOUT = Path(__file__).resolve().parents[2]
TEXT = (CHECKOUT / "docs" / "runtime-topology.md").read_text()
UNIT_TEXTS = {
    str(file.path.relative_to(UNITS)): file.text for file in render_units(CONTRACT) if UNITS in file.path.parents
}
CADDYFILE = render_edge(CONTRACT, log_dir=HOST_LOGS / "edge", is_passed=True)
#: The distribution's own services.
NOT_OURS = {"postgresql.service", "redis.service"}


def table(title: str) -> list[list[str]]:
    """Return the rows of the first table below a heading, code marks taken off."""
    lines = TEXT.split(f"## {title}\n", 1)[1].splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("|"))
    end = next((i for i in range(begin, len(lines)) if not lines[i].startswith("|")), len(lines))
    rows = lines[begin:end]
    found = []
    for line in rows[2:]:
        cells = [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        found.append(cells)
    return found


def template(unit: str) -> str:
    return re.sub(r"@[^.]+\.", "@.", unit)


SERVICES = [row for row in table("Services") if len(row) == 5]
TIMERS = table("Scheduled maintenance")


def test_the_table_has_every_service_of_the_contract() -> None:
    assert [row[0] for row in SERVICES] == [
        "reverse-proxy (Caddy)",
        "web-main",
        *(f"web-preview-{k}" for k in (1, 2, 3)),
        *(f"api-preview-{k}" for k in (1, 2, 3)),
        "api",
        "worker",
        "postgres",
        "redis",
    ]


@pytest.mark.parametrize("row", SERVICES, ids=lambda row: str(row[0]))
def test_a_service_has_its_unit_and_listens_where_it_is_told(row: list[str]) -> None:
    name, unit, address, port, _ = row
    assert address == "127.0.0.1"
    if unit in NOT_OURS:
        return
    assert unit in UNIT_TEXTS or template(unit) in UNIT_TEXTS
    listens = {
        "reverse-proxy (Caddy)": f"ListenStream=127.0.0.1:{port}" in UNIT_TEXTS["ouroboros-caddy.socket"],
        "api": f"ListenStream=127.0.0.1:{port}" in UNIT_TEXTS["ouroboros-api.socket"],
        "worker": port == str(CONTRACT.ports.worker_health),
    }
    if name in listens:
        assert listens[name]
        return
    slot = next(s for s in CONTRACT.slots if f"@{unit_instance(s)}." in unit)
    environment = surface_environment(CONTRACT, slot, web_root=Path("/x"))
    told = environment["WEB_PORT"] if name.startswith("web-") else environment["WEB_API_PROXY_TARGET"]
    assert told.rpartition(":")[2] == port


@pytest.mark.parametrize("row", table("Reverse proxy"), ids=lambda row: str(row[0]))
def test_a_host_name_leads_where_it_is_told(row: list[str]) -> None:
    host, target = row

    found = re.search(
        rf"^http://{re.escape(host)}:8088 \{{\n\tbind fd/3\n(?:\t.*\n)*?"
        r"\timport (?:behind|signed|verdict) \S+ (\d+)\b",
        CADDYFILE,
        re.MULTILINE,
    )

    assert found is not None
    assert target == f"127.0.0.1:{found[1]}"


@pytest.mark.parametrize("row", TIMERS, ids=lambda row: str(row[0]))
def test_a_job_has_its_timer_its_service_and_the_contracts_command(row: list[str]) -> None:
    _, timer, service, when, command = row
    calendar = {
        "every 15 minutes": "OnCalendar=*:0/15",
        "hourly": "OnCalendar=hourly",
        "daily at 03:30, with a randomized delay": "OnCalendar=*-*-* 03:30:00\nRandomizedDelaySec=",
    }

    assert calendar[when] in UNIT_TEXTS[timer]
    assert f"ExecStart=/opt/oroboros/app/{command}\n" in UNIT_TEXTS[service]
    assert (CHECKOUT / command.split()[0]).is_file()
