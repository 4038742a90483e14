"""Does the look before any package see what the installation would see?"""

from __future__ import annotations

import pytest
from hypothesis import given

from controller.decisions.host_units import port_holders
from controller.decisions.install_options import choose_topology, port_problems
from controller.first_look import wanted
from controller.model.options import Options
from tests.unit.model.test_machine_needs import OPTIONS


def as_words(said: Options) -> list[str]:
    """Return options as a person types them."""
    words: list[str] = []
    for name, value in said.said().items():
        port = name.removeprefix("port_")
        words += ["--port", f"{port}={value}"] if port != name else [f"--{name.replace('_', '-')}={value}"]
    return words


@given(OPTIONS)
def test_the_first_look_sees_the_ports_that_the_installation_listens_on(said: Options) -> None:
    topology = choose_topology(said, installed=None, policy=None)
    ports, problems = wanted(as_words(said), {})
    if not problems:
        assert sorted(ports) == sorted((holder.what, holder.port) for holder in port_holders(topology))
    assert (problems == []) is (port_problems(topology, previews=topology.previews) == ())


@pytest.mark.parametrize(
    ("words", "api", "web", "count"),
    [
        ([], 8010, 3200, 5),
        (["--port=api=8020", "--previews", "1"], 8020, 3200, 2),
        (["--unset", "port-api", "--unset=previews", "--base-host", "example.com"], 8000, 3200, 4),
        (["--dry-run", "--unset", "port-web"], 8010, 3100, 5),
    ],
)
def test_the_first_look_knows_what_was_installed(words: list[str], api: int, web: int, count: int) -> None:
    ports, problems = wanted(words, {"ports": {"api": 8010, "web": 3200}, "previews": 4, "tls": "off"})
    assert problems == []
    assert dict(ports)["api"] == api
    assert [port for what, port in ports if what.endswith(" web")] == list(range(web, web + count))


def test_the_first_look_follows_what_is_taken_back_and_names_words_that_are_no_numbers() -> None:
    itself = {"control_plane": "current", "production_backend_port": 8000}
    assert "main backend" not in dict(wanted([], itself)[0])
    assert dict(wanted(["--unset", "control-plane"], itself)[0])["main backend"] == 8100
    assert dict(wanted(["--unset", "backend-port"], {"production_backend_port": 9000})[0])["main backend"] == 8100
    assert dict(wanted([], {"production_backend_port": 9000})[0])["main backend"] == 9000
    assert wanted(["--previews", "x"], {}) == ([], ["argument --previews: invalid int value: 'x'"])
