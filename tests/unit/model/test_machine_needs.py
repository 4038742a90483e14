"""Is every port of a host worked out once, wherever it was chosen, and is what cannot be refused?"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decisions.host_units import port_holders
from controller.decisions.install_options import FRESH, choose_topology, port_problems
from controller.model.machine_needs import CONTRACT_PORTS, PORT_MAX, UNPRIVILEGED, listening, parse_ports
from controller.model.names import CONTRACT, PREVIEWS_MAX, Ports, Topology
from controller.model.options import Options

NUMBERS = st.one_of(st.integers(1, PORT_MAX), st.sampled_from([*CONTRACT_PORTS.values(), 3101, 5432, 8101, 8201, 8300]))
OPTIONS = st.builds(
    Options,
    previews=st.none() | st.integers(0, PREVIEWS_MAX),
    tls=st.sampled_from([None, "off", "auto", "files"]),
    control_plane=st.sampled_from([None, "installed", "current"]),
    backend_port=st.none() | NUMBERS,
    **{f"port_{name}": st.none() | NUMBERS for name in CONTRACT_PORTS},
)


def first_of(topology: Topology) -> dict[str, int]:
    return {name: topology.ports.first(name) for name in CONTRACT_PORTS}


def problems_of(topology: Topology) -> tuple[str, ...]:
    return port_problems(topology, previews=topology.previews)


@given(OPTIONS)
def test_what_is_refused_is_what_cannot_be_listened_on(said: Options) -> None:
    topology = choose_topology(said, installed=None, policy=None)
    holders = port_holders(topology)
    by_port = Counter(holder.port for holder in holders)
    privileged = [name for name in UNPRIVILEGED if topology.ports.first(name) < 1024]
    last = max(holder.port for holder in holders)
    # The public ports count where there are certificates, and Caddy refuses HTTP at 443.
    fits = max(by_port.values()) == 1 and last <= PORT_MAX and not privileged and topology.ports.edge != 443
    # A surface leaves the api its port, whoever said that it is a backend's.
    api = topology.ports.api
    is_shared = api in {topology.ports.backend(slot) for slot in topology.slots} and said.control_plane != "current"
    if not is_shared:
        assert (problems_of(topology) == ()) is fits, (problems_of(topology), by_port.most_common(1))


@given(OPTIONS, OPTIONS)
def test_what_was_chosen_counts_until_something_else_is(earlier: Options, later: Options) -> None:
    first = choose_topology(earlier, installed=None, policy=None)
    both = choose_topology(later, installed=first, policy=None)
    assert both.ports.chosen == {**earlier.ports(), **later.ports()}
    unsaid = frozenset(f"port_{name}" for name in CONTRACT_PORTS)
    assert choose_topology(Options(), installed=both, policy=None, unsaid=unsaid).ports == Ports()


@pytest.mark.parametrize("previews", [0, 3, PREVIEWS_MAX])
def test_the_contracts_ports_are_nobodys_twice(previews: int) -> None:
    for tls in ("off", "auto"):
        assert problems_of(replace(FRESH, previews=previews, tls=tls)) == ()
    assert problems_of(replace(CONTRACT, previews=previews)) == ()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (Options(port_api=8088), ["port 8088 would be that of api and edge"]),
        (Options(port_web=8097), ["port 8100 would be that of main backend and preview-3 web"]),
        (Options(port_instance=3004), ["port 3104 would be that of main instance b and preview-4 web"]),
        (Options(port_edge=5432, port_api=6379), ["port 6379 would be that of api and Redis", "port 5432 would be"]),
        (Options(port_instance=65_500), ["--port instance=65500 takes 65500 to 65604, which is not within 1024 to"]),
        (Options(port_worker=1023), ["--port worker=1023 is not within 1024 to 65535"]),
        (Options(port_worker=0, port_web=70_000), ["--port worker=0 is not", "--port web=70000 takes 70000 to 70004"]),
        (Options(port_https=8000, tls="auto"), ["port 8000 would be that of api and edge, HTTPS"]),
        (Options(port_https=8000), []),
        (Options(port_edge=443), ["Caddy refuses that at 443"]),
        (Options(port_backend=8000), ["port 8000 would be that of api and main backend"]),
        (Options(backend_port=8101), ["port 8101 would be that of main backend and preview-1 backend"]),
        (Options(previews=99, port_web=8100), ["port 8100 would be that of", "and 90 more ports would be those of"]),
    ],
)
def test_ports_that_cannot_be_are_told_all_at_once(said: Options, told: list[str]) -> None:
    topology = choose_topology(replace(said, previews=said.previews or 4), installed=None, policy=None)
    found = "\n".join(problems_of(topology))
    assert all(line in found for line in told), found
    assert bool(found) is bool(told)


def test_words_that_choose_no_port_are_told_all_at_once_with_the_names_that_there_are() -> None:
    chosen, problems = parse_ports(["api=8010", "web", "ssh=22", "edge=x", "http=-1", "api=8011", "worker=8091"])
    assert chosen == {"api": 8010, "worker": 8091}
    assert [problem.partition(":")[0] for problem in problems] == [
        "--port 'web'",
        "--port 'ssh=22'",
        "--port 'edge=x'",
        "--port 'http=-1'",
        "--port api is given twice",
    ]
    assert ", ".join(CONTRACT_PORTS) in problems[1]


def test_the_api_is_a_backend_where_it_was_said() -> None:
    first = first_of(FRESH)
    assert ("main backend", 8000) not in listening(first, previews=0, has_tls=False, backend=8000)
    assert ("main backend", 9000) in listening(first, previews=0, has_tls=False, backend=9000)
