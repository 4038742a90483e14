"""What does an installation take from its options, from the policy, and from the one before it?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from controller.decisions.host_environment import Passwords, own_redis_url, render_environment_files
from controller.decisions.install_options import FRESH, choose_topology, kept_ports, option_changes, said_so_far
from controller.doors.cli_install import split_repository
from controller.effects.host import read_passwords, read_shared_redis
from controller.model.config import Policy, Previews, Production
from controller.model.errors import ConfigInvalid
from controller.model.names import CONTRACT, Ports, Topology
from controller.model.options import Options

DRAWN = Passwords(api="a1", worker="w1", redis="r1")


def write_env(folder: Path, *, redis_url: str | None = None) -> None:
    for file in render_environment_files(CONTRACT, DRAWN, host="h", redis_url=redis_url):
        (folder / file.path.name).write_text(file.text)


@pytest.mark.parametrize(
    ("options", "installed", "policy", "wanted"),
    [
        (Options(), None, None, FRESH),
        (Options(), CONTRACT, None, CONTRACT),
        (
            Options(base_host="example.com"),
            None,
            None,
            replace(FRESH, base_host="example.com", scheme="https", public_port=None),
        ),
        (
            Options(base_host="example.com", scheme="http", public_port=8088),
            None,
            None,
            replace(FRESH, base_host="example.com", scheme="http", public_port=8088),
        ),
        (Options(public_port=0), None, None, replace(FRESH, public_port=None)),
        (Options(previews=5), CONTRACT, None, replace(CONTRACT, previews=5)),
        (Options(), CONTRACT, Policy(previews=Previews(slots=4)), replace(CONTRACT, previews=4)),
        (Options(previews=1), CONTRACT, Policy(previews=Previews(slots=4)), replace(CONTRACT, previews=1)),
        # What was cut short goes on.
        (Options(), replace(CONTRACT, kept_previews=1), None, replace(CONTRACT, previews=1)),
        (Options(previews=3), replace(CONTRACT, kept_previews=1), None, CONTRACT),
        (Options(backend_port=8123), None, None, replace(FRESH, production_backend_port=8123)),
        (
            Options(backend_port=8123),
            None,
            Policy(production=Production(backend_port=8200)),
            replace(FRESH, production_backend_port=8123),
        ),
        (Options(port_edge=8089), None, None, replace(FRESH, ports=Ports(chosen={"edge": 8089}), public_port=8089)),
        # What visitors type follows the port, unless something in front leads there.
        (
            Options(port_https=8443, tls="files"),
            None,
            None,
            replace(FRESH, ports=Ports(chosen={"https": 8443}), tls="files", scheme="https", public_port=8443),
        ),
        (
            Options(port_https=8443, tls="files", public_port=0),
            None,
            None,
            replace(FRESH, ports=Ports(chosen={"https": 8443}), tls="files", scheme="https", public_port=None),
        ),
        (
            Options(port_api=8010, control_plane="current"),
            None,
            None,
            replace(
                FRESH,
                ports=Ports(chosen={"api": 8010}),
                control_plane="current",
                production_backend_port=8010,
            ),
        ),
        # Where api and worker run what production serves, production's backend is the api.
        (
            Options(control_plane="current", backend_port=8123),
            None,
            None,
            replace(FRESH, control_plane="current", production_backend_port=8000),
        ),
    ],
)
def test_options_come_before_the_policy_and_the_policy_before_what_was_installed(
    options: Options, installed: Topology | None, policy: Policy | None, wanted: Topology
) -> None:
    chosen = choose_topology(options, installed=installed, policy=policy)
    assert replace(chosen, said=None) == wanted


FOUR = Policy(previews=Previews(slots=4))


@pytest.mark.parametrize("policy", [None, Policy(), FOUR])
def test_what_was_said_stays_until_it_is_unsaid(policy: Policy | None) -> None:
    said = Options(base_host="example.com", tls="auto", previews=5, preview_host="p{n}.example.net")
    first = choose_topology(said, installed=None, policy=policy)
    again = choose_topology(Options(), installed=first, policy=policy)
    assert (again, again.tls, again.previews) == (first, "auto", 5)

    unset = frozenset({"tls", "previews", "preview_host"})
    without = choose_topology(Options(), unsaid=unset, installed=again, policy=policy)
    assert (without.tls, without.previews) == ("off", 4 if policy is FOUR else 3)
    assert without.preview_host is None
    assert without.base_host == "example.com"
    assert without.said == Options(base_host="example.com")


def test_a_value_that_deploy_toml_no_longer_says_is_gone_unless_it_cannot_be_read() -> None:
    with_host = choose_topology(
        Options(), installed=None, policy=Policy(production=Production(host="shop.example"), previews=Previews(slots=4))
    )
    assert choose_topology(Options(), installed=with_host, policy=None) == with_host
    without = choose_topology(Options(), installed=with_host, policy=Policy())
    assert (without.production_host, without.previews) == (None, 3)


def test_of_an_installation_without_a_record_nothing_is_lost_that_deploy_toml_does_not_explain() -> None:
    older = replace(
        FRESH, base_host="example.com", scheme="http", public_port=8088, previews=5, tls="auto",
        production_backend_port=8123,
    )  # fmt: skip
    wanted = Options(
        base_host="example.com", scheme="http", public_port=8088, previews=5, tls="auto", backend_port=8123
    )
    for policy in (None, Policy(), FOUR):
        assert said_so_far(older, policy=policy) == wanted
        assert replace(choose_topology(Options(), installed=older, policy=policy), said=None) == older


def test_of_an_installation_without_a_record_a_change_of_deploy_toml_takes_effect() -> None:
    older = replace(FRESH, base_host="example.com", scheme="https", public_port=None)
    assert said_so_far(older, policy=FOUR) == Options(base_host="example.com")
    assert choose_topology(Options(), installed=older, policy=FOUR).previews == 4
    of_ourselves = said_so_far(CONTRACT, policy=FOUR)
    assert of_ourselves == Options(base_host="example.com", control_plane="current")


def test_each_change_of_an_option_is_told_with_who_says_it() -> None:
    first = choose_topology(Options(base_host="example.com", previews=5), installed=None, policy=None)
    assert option_changes(first, installed=None) == ()
    later = choose_topology(Options(tls="auto"), unsaid=frozenset({"previews"}), installed=first, policy=None)
    assert option_changes(later, installed=first) == (
        "option previews: 5 → 3 (deploy.toml or default)",
        "option tls: off → auto (said at install)",
    )
    older = replace(first, said=None)
    told = option_changes(choose_topology(Options(), installed=older, policy=None), installed=older)
    assert told[-1] == "option previews: 5 is taken to have been said at install; --unset previews takes it back"


def test_a_port_that_is_chosen_anew_is_shown_and_what_it_was_may_be_anybodys() -> None:
    first = choose_topology(Options(port_api=8010, port_instance=8400), installed=None, policy=None)
    later = choose_topology(Options(port_web=8010), unsaid=frozenset({"port_api"}), installed=first, policy=None)
    assert option_changes(later, installed=first) == (
        "option port-api: 8010 → 8000 (deploy.toml or default)",
        "option port-web: 3100 → 8010 (said at install)",
    )
    # A socket of ours lets go of 8010; an instance has its own until the next deploy.
    assert {8010, 8400, 8088} <= kept_ports(first, later)
    moved = choose_topology(Options(port_api=8400, port_instance=8500), installed=first, policy=None)
    assert 8400 not in kept_ports(first, moved)
    assert kept_ports(None, first) == frozenset()


@pytest.mark.parametrize(
    ("text", "forge_url", "wanted"),
    [
        ("acme/shop", None, ("acme/shop", "https://github.com")),
        ("acme/shop.git", None, ("acme/shop", "https://github.com")),
        ("https://github.com/acme/shop", None, ("acme/shop", "https://github.com")),
        ("https://git.example/deep/acme/shop.git", None, ("acme/shop", "https://git.example/deep")),
        ("acme/shop", "http://127.0.0.1:8070/", ("acme/shop", "http://127.0.0.1:8070")),
    ],
)
def test_a_repository_is_named_either_way(text: str, forge_url: str | None, wanted: tuple[str, str]) -> None:
    assert split_repository(text, forge_url=forge_url) == wanted


@pytest.mark.parametrize("text", ["shop", "https://u:p@github.com/acme/shop", "ssh://git@host/acme/shop", "a/b/c", ""])
def test_what_names_no_repository_is_refused_without_its_password(text: str) -> None:
    with pytest.raises(ConfigInvalid, match="RepositoryInvalid") as refused:
        split_repository(text, forge_url=None)
    assert "u:p" not in str(refused.value)


def test_passwords_that_are_there_are_kept_and_others_are_drawn(tmp_path: Path) -> None:
    assert read_passwords(lambda: "new", folder=tmp_path) == Passwords(api="new", worker="new", redis="new")
    write_env(tmp_path)
    assert read_passwords(lambda: "new", folder=tmp_path) == DRAWN


def test_a_redis_of_others_is_remembered_and_our_own_is_none(tmp_path: Path) -> None:
    assert read_shared_redis(folder=tmp_path) is None
    write_env(tmp_path)
    assert read_shared_redis(folder=tmp_path) is None
    for url in ("redis://cache.example/2", own_redis_url("x").replace("127.0.0.1", "10.0.0.9")):
        write_env(tmp_path, redis_url=url)
        assert read_shared_redis(folder=tmp_path) == url
