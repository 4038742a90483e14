"""Is what was installed read back as it was written?"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from controller.effects.stack_files import choose_file, read_topology, write_topology
from controller.model.deploy_toml import parse_policy
from controller.model.errors import ConfigInvalid
from controller.model.names import (
    CONTRACT,
    HOST_CONFIG,
    HOST_LAYOUT,
    HOST_ROOT,
    PREVIEWS_MAX,
    Layout,
    Ports,
    Topology,
    instance_unit,
    parse_slot,
    preview_slot,
    systemd_unit,
    unit_of_systemd,
)
from controller.model.options import Options

EVERYTHING = Topology(
    previews=7,
    ports=Ports(offset=100, chosen={"api": 8010, "web": 3200}),
    base_host="example.org",
    scheme="https",
    public_port=8443,
    production_host="shop.example.org",
    preview_host="p{n}.example.net",
    production_backend_port=9000,
    tls="files",
    trusted_proxies=("192.0.2.0/24",),
    resolvers=("192.168.1.1",),
    isolated_previews=True,
    spares_processor=True,
    control_plane="current",
    kept_previews=2,
    contract_database=True,
    said=Options(base_host="example.org", previews=7, public_port=0, tls="files", backups=7, port_web=3200),
    backups=7,
)


@pytest.mark.parametrize("topology", [Topology(), CONTRACT, EVERYTHING])
def test_a_topology_is_read_back_as_it_was_written(tmp_path: Path, topology: Topology) -> None:
    write_topology(Layout(tmp_path), topology)

    assert read_topology(Layout(tmp_path)) == topology


def test_every_field_is_written() -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(Topology)}

    assert [name for name, default in defaults.items() if getattr(EVERYTHING, name) == default] == []


@pytest.mark.parametrize(
    "changed",
    [
        {"tls": "on_demand"},
        {"tls": None},
        {"trusted_proxies": "192.0.2.1"},
        {"trusted_proxies": [1]},
        {"trusted_proxies": ["192.0.2.1\n}"]},
        {"trusted_proxies": ["fe80::1%\n}\n:80"]},
        {"resolvers": ["192.168.1.1\nExecStartPre=+/bin/id"]},
        {"walls": {"build_memory_bytes": "1\nExecStartPre=+/bin/id"}},
        {"walls": {"preview_tasks": 0}},
        {"walls": {"system_calls": "any\n"}},
        {"base_host": "example.com\n"},
        {"production_host": "a {"},
        {"preview_host": "preview{n}.example.com }"},
        {"previews": "3"},
        {"previews": 1_000_000},
        {"port_offset": -1},
        {"public_port": True},
        {"isolated_previews": "yes"},
        {"ports": {"api": "8010"}},
        {"ports": {"api": 0}},
        {"ports": {"web": 65_536}},
        {"ports": [8010]},
        {"said": {"port_api": 70_000}},
        {"said": {"base_host": "a {"}},
        {"said": {"previews": -1}},
        {"said": {"tls": "on_demand"}},
    ],
)
def test_a_topology_that_makes_no_sense_is_refused(tmp_path: Path, changed: dict[str, object]) -> None:
    layout = Layout(tmp_path)
    write_topology(layout, CONTRACT)
    layout.topology.write_text(json.dumps({**json.loads(layout.topology.read_text()), **changed}))

    with pytest.raises(ConfigInvalid, match="TopologyInvalid"):
        read_topology(layout)


def test_a_topology_of_before_there_was_tls_has_none(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    write_topology(layout, CONTRACT)
    older = json.loads(layout.topology.read_text())
    del older["tls"], older["trusted_proxies"]
    layout.topology.write_text(json.dumps(older))

    assert read_topology(layout) == CONTRACT


def test_a_file_of_an_earlier_place_counts_if_its_owner_wrote_it_and_until_there_is_a_new_one(tmp_path: Path) -> None:
    path, former, me = tmp_path / "etc" / "topology.json", tmp_path / "srv" / "topology.json", os.geteuid()
    for folder in (path.parent, former.parent):
        folder.mkdir()
    assert choose_file(path, former=former, owner=me) == path

    former.write_text("{}")
    former.chmod(0o644)
    assert choose_file(path, former=former, owner=me) == former
    assert choose_file(path, former=former, owner=me + 1) == path
    former.chmod(0o666)
    assert choose_file(path, former=former, owner=me) == path
    former.rename(tmp_path / "aside")
    (tmp_path / "aside").chmod(0o644)
    former.symlink_to(tmp_path / "aside")
    assert choose_file(path, former=former, owner=me) == path

    former.unlink()
    (tmp_path / "aside").rename(former)
    path.write_text("{}")
    assert choose_file(path, former=former, owner=me) == path


def test_the_topology_of_a_host_lies_with_what_is_roots() -> None:
    assert HOST_LAYOUT.topology == Layout(HOST_ROOT).topology == HOST_CONFIG / "topology.json"


def test_policy_topology_ports_hosts_and_units_know_the_same_number_of_previews(tmp_path: Path) -> None:
    most = Topology(previews=PREVIEWS_MAX, preview_host="p{n}.example.net", production_host="shop.example.org")
    write_topology(Layout(tmp_path), most)
    assert read_topology(Layout(tmp_path)) == most
    assert parse_policy(f"[previews]\nslots = {PREVIEWS_MAX}\n".encode()).previews.slots == PREVIEWS_MAX
    ports = [port for _, port in Ports().all_for(most.slots)]
    assert len(set(ports)) == len(ports)
    assert len({most.host(slot) for slot in most.slots}) == PREVIEWS_MAX + 1
    last = preview_slot(PREVIEWS_MAX)
    assert parse_slot(last) == last
    assert unit_of_systemd(systemd_unit(instance_unit(last, "b"))) == instance_unit(last, "b")

    with pytest.raises(ConfigInvalid):
        parse_policy(f"[previews]\nslots = {PREVIEWS_MAX + 1}\n".encode())
    with pytest.raises(ConfigInvalid):
        write_topology(Layout(tmp_path), dataclasses.replace(most, previews=PREVIEWS_MAX + 1))
