"""Are the tracked files of edge and surfaces what is rendered for the contract's topology, and does Caddy read them?

    PYTHONPATH=. python tests/edge/test_rendered.py

writes them anew after a change of the rendering.
"""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from pathlib import Path

import pytest

from controller.decisions.edge import render_edge, render_public_edge
from controller.decisions.surfaces import render_surface_environment
from controller.development.parts import caddy_binary
from controller.model.errors import ConfigInvalid
from controller.model.names import CONTRACT, HOST_LAYOUT, HOST_LOGS, Ports, Topology, unit_instance

CHECKOUT = Path(__file__).resolve().parents[2]
TRACKED = {
    "infra/caddy/Caddyfile": render_edge(CONTRACT, log_dir=HOST_LOGS / "edge", is_passed=True),
    **{
        f"infra/systemd/env/web-{unit_instance(slot)}.env": render_surface_environment(HOST_LAYOUT, CONTRACT, slot)
        for slot in CONTRACT.slots
    },
}


@pytest.mark.parametrize("path", TRACKED)
def test_a_tracked_file_is_what_is_rendered(path: str) -> None:
    assert (CHECKOUT / path).read_text() == TRACKED[path], (
        f"run: PYTHONPATH=. python {Path(__file__).relative_to(CHECKOUT)}"
    )


def adapted(text: str, folder: Path) -> dict[str, dict[str, object]]:
    """Return the servers that Caddy reads from a Caddyfile, by where they listen."""
    file = folder / "Caddyfile"
    file.write_text(text)
    done = subprocess.run(
        [caddy_binary(), "adapt", "--config", file, "--adapter", "caddyfile"],
        capture_output=True,
        check=True,
        env={"CREDENTIALS_DIRECTORY": str(folder), "HOME": str(folder)},
        timeout=30,
    )
    # Caddy warns when a file is not written as `caddy fmt` would.
    assert done.stderr == b""
    config = json.loads(done.stdout)
    assert config["admin"] == {"disabled": True, "config": {"persist": False}}
    servers = config["apps"]["http"]["servers"]
    return {server["listen"][0]: server for server in servers.values()}


def upstreams(server: dict[str, object]) -> dict[str, str]:
    """Return who answers for each host name of a server."""
    found = {}
    routes = server["routes"]
    assert isinstance(routes, list)
    for route in routes:
        dials = re.findall(r'"dial": "([^"]+)"', json.dumps(route))
        for match in route.get("match", []) if dials else []:
            found |= dict.fromkeys(match["host"], dials[0])
    return found


CONTRACT_ROUTES = {
    "app.example.com": "127.0.0.1:3100",
    "preview1.example.com": "127.0.0.1:3101",
    "preview2.example.com": "127.0.0.1:3102",
    "preview3.example.com": "127.0.0.1:3103",
    "api.example.com": "127.0.0.1:8000",
    "worker.example.com": "127.0.0.1:8090",
}


def test_the_tracked_edge_has_the_routes_of_the_contract_on_loopback_only(tmp_path: Path) -> None:
    servers = adapted((CHECKOUT / "infra/caddy/Caddyfile").read_text(), tmp_path)

    assert list(servers) == ["fd/3"]
    server = servers["fd/3"]
    assert upstreams(server) == CONTRACT_ROUTES
    assert server["protocols"] == ["h1"]
    assert '"automatic_https": {"disable": true' in json.dumps(server)


@pytest.mark.parametrize("tls", ["auto", "files"])
def test_with_tls_the_same_routes_are_on_the_public_ports_too(tmp_path: Path, tls: str) -> None:
    topology = dataclasses.replace(CONTRACT, tls=tls, trusted_proxies=("192.0.2.0/24",))

    on_loopback = adapted(render_edge(topology, log_dir=tmp_path), tmp_path)
    servers = on_loopback | adapted(render_public_edge(topology, log_dir=tmp_path), tmp_path)

    assert set(on_loopback) == {"127.0.0.1:8088"}
    assert set(servers) == {"127.0.0.1:8088", ":443", ":80"}
    assert upstreams(servers["127.0.0.1:8088"]) == upstreams(servers[":443"]) == CONTRACT_ROUTES
    assert upstreams(servers[":80"]) == {}
    assert "on_demand" not in json.dumps(servers)
    assert [listen for listen, server in servers.items() if "trusted_proxies" in server] == ["127.0.0.1:8088"]
    bounds = ("read_timeout", "read_header_timeout", "write_timeout", "idle_timeout", "max_header_bytes")
    assert len({tuple(server[bound] for bound in bounds) for server in servers.values()}) == 1


@pytest.mark.parametrize("folder", ["with a space", "with'quotes\"", "with\\"])
def test_logs_go_to_a_folder_of_any_name(tmp_path: Path, folder: str) -> None:
    adapted(render_edge(Topology(), log_dir=tmp_path / folder), tmp_path)


@pytest.mark.parametrize("folder", ["with{env.HOME}", "with`ticks", "with\nline"])
def test_a_folder_that_caddy_would_not_read_back_is_refused(folder: str) -> None:
    with pytest.raises(ConfigInvalid, match="LiveValueInvalid"):
        render_edge(Topology(), log_dir=Path("/") / folder)


@pytest.mark.parametrize(
    ("topology", "said"),
    [
        (Topology(production_host="api.localhost"), "api.localhost would be the name of main and api"),
        (Topology(preview_host="preview.example.com"), "preview.example.com would be the name of preview-1 and"),
        (Topology(base_host="a b"), "'app.a b' is no host name"),
        (Topology(production_host="{env.HOME}"), "is no host name"),
        (Topology(production_host="a.example\n}"), "is no host name"),
    ],
)
def test_hosts_that_no_edge_could_tell_apart_are_refused(topology: Topology, said: str) -> None:
    with pytest.raises(ConfigInvalid, match="HostsInvalid") as refused:
        render_edge(topology, log_dir=HOST_LOGS)

    assert said in refused.value.message


def test_ports_are_shifted_together(tmp_path: Path) -> None:
    topology = dataclasses.replace(CONTRACT, ports=Ports(offset=10_000), tls="files")

    assert set(adapted(render_edge(topology, log_dir=tmp_path), tmp_path)) == {"127.0.0.1:18088"}
    assert set(adapted(render_public_edge(topology, log_dir=tmp_path), tmp_path)) == {":10443", ":10080"}


if __name__ == "__main__":
    for name, content in TRACKED.items():
        (CHECKOUT / name).write_text(content)
