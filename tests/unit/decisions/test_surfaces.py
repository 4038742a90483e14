"""What is a surface told by its environment, and what of it is refused?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from controller.decisions.surfaces import (
    Told,
    read_surface_environment,
    render_surface,
    render_surface_environment,
    surface_environment,
    surface_listens,
)
from controller.model.errors import ConfigInvalid
from controller.model.names import CONTRACT, HOST_LAYOUT, MAIN, Ports, Topology, preview_slot

PREVIEW = preview_slot(2)


def told(**environ: str) -> Told:
    return read_surface_environment(environ)


def test_what_is_rendered_is_what_is_read() -> None:
    environ = surface_environment(CONTRACT, PREVIEW, web_root=Path("/srv/web"))

    assert environ == {
        "WEB_ROOT": "/srv/web",
        "WEB_PORT": "3102",
        "WEB_URL": "https://preview2.example.com",
        "WEB_API_PROXY_TARGET": "http://127.0.0.1:8102",
    }
    read = read_surface_environment(environ)
    assert read == Told(
        web_port=3102,
        backend_port=8102,
        web_root=Path("/srv/web"),
        public=("https", "preview2.example.com"),
    )
    assert surface_listens(HOST_LAYOUT, PREVIEW, read) == (
        ("127.0.0.1", 3102),
        ("127.0.0.1", 8102),
        Path("/run/oroboros/surfaces/preview2.sock"),
    )


@pytest.mark.parametrize(
    ("topology", "target"),
    [
        (CONTRACT, None),  # the api is production's backend
        (Topology(), "http://127.0.0.1:8100"),
        (Topology(production_backend_port=9000), "http://127.0.0.1:9000"),
        (Topology(ports=Ports(offset=100)), "http://127.0.0.1:8200"),
        (Topology(ports=Ports(offset=100), production_backend_port=8100), None),
    ],
)
def test_production_has_a_backend_port_unless_the_api_has_it(topology: Topology, target: str | None) -> None:
    environ = surface_environment(topology, MAIN, web_root=Path("/srv/web"))

    assert environ.get("WEB_API_PROXY_TARGET") == target
    read = read_surface_environment(environ)
    assert (read.backend_port is None) is (target is None)
    config = render_surface(HOST_LAYOUT, MAIN, read, log_dir=Path("/log"))
    assert ("backend" in str(config["apps"])) is (target is not None)


@pytest.mark.parametrize("control_plane", ["installed", "current"])
def test_the_web_root_is_the_contracts_whoever_is_deployed(control_plane: Literal["installed", "current"]) -> None:
    topology = dataclasses.replace(CONTRACT, control_plane=control_plane)
    assert "WEB_ROOT=/srv/oroboros/current/infra/web\n" in render_surface_environment(HOST_LAYOUT, topology, MAIN)


def test_without_target_and_root_there_is_neither_backend_nor_page() -> None:
    assert told(WEB_PORT="3100", WEB_ROOT=" ") == Told(web_port=3100, backend_port=None, web_root=None)


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, "WEB_PORT"),
        *(({"WEB_PORT": port}, "WEB_PORT") for port in ("0", "65536", "-1", "3100x", "0x10", "31 00", "٣", "{env.X}")),
        *(
            ({"WEB_PORT": "3101", "WEB_API_PROXY_TARGET": target}, "WEB_API_PROXY_TARGET")
            for target in (
                *("8101", "127.0.0.1:8101", "https://127.0.0.1:8101", "http://localhost:8101", "http://127.0.0.1"),
                *("http://127.0.0.1:0", "http://127.0.0.1:99999", "http://127.0.0.1:8101/api", "http://10.0.0.1:8101"),
                *("http://u:p@127.0.0.1:8101", "http://127.0.0.1:3101", "http://127.0.0.1:{env.X}"),
            )
        ),
        *(
            ({"WEB_PORT": "3101", "WEB_URL": url}, "WEB_URL")
            for url in (
                "app.example.com",
                "ftp://app.example.com",
                "https://a/b",
                "https://A.example",
                "http://{env.X}",
            )
        ),
        ({"WEB_PORT": "3101", "WEB_ROOT": "infra/web"}, "WEB_ROOT"),
        ({"WEB_PORT": "3101", "WEB_ROOT": "/srv/{env.HOME}"}, "WEB_ROOT"),
    ],
)
def test_a_wrong_value_is_refused_under_its_name(environ: dict[str, str], name: str) -> None:
    with pytest.raises(ConfigInvalid, match="EnvironmentInvalid") as refused:
        read_surface_environment(environ)

    assert [problem.partition(":")[0] for problem in refused.value.problems] == [name]


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(ConfigInvalid) as refused:
        told(WEB_PORT="x", WEB_API_PROXY_TARGET="y", WEB_ROOT="z")

    assert len(refused.value.problems) == 3
