"""What does an installation take from its options, from the policy, and from the one before it?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from controller.decisions.host_environment import Passwords, own_redis_url, render_environment_files
from controller.doors.cli_install import Choices, choose_topology, split_repository
from controller.effects.host import read_passwords, read_shared_redis
from controller.model.config import Policy, Previews, Production
from controller.model.errors import ConfigInvalid
from controller.model.names import CONTRACT, Topology

FRESH = Topology(isolated_previews=True)
DRAWN = Passwords(api="a1", worker="w1", redis="r1")


def write_env(folder: Path, *, redis_url: str | None = None) -> None:
    for file in render_environment_files(CONTRACT, DRAWN, host="h", redis_url=redis_url):
        (folder / file.path.name).write_text(file.text)


@pytest.mark.parametrize(
    ("choices", "installed", "policy", "wanted"),
    [
        (Choices(), None, None, FRESH),
        (Choices(), CONTRACT, None, CONTRACT),
        (
            Choices(base_host="example.com"),
            None,
            None,
            replace(FRESH, base_host="example.com", scheme="https", public_port=None),
        ),
        (
            Choices(base_host="example.com", scheme="http", public_port=8088),
            None,
            None,
            replace(FRESH, base_host="example.com", scheme="http", public_port=8088),
        ),
        (Choices(public_port=0), None, None, replace(FRESH, public_port=None)),
        (Choices(previews=5), CONTRACT, None, replace(CONTRACT, previews=5)),
        (Choices(), CONTRACT, Policy(previews=Previews(slots=4)), replace(CONTRACT, previews=4)),
        (Choices(previews=1), CONTRACT, Policy(previews=Previews(slots=4)), replace(CONTRACT, previews=1)),
        # What was cut short goes on.
        (Choices(), replace(CONTRACT, kept_previews=1), None, replace(CONTRACT, previews=1)),
        (Choices(previews=3), replace(CONTRACT, kept_previews=1), None, CONTRACT),
        (Choices(backend_port=8123), None, None, replace(FRESH, production_backend_port=8123)),
        (
            Choices(backend_port=8123),
            None,
            Policy(production=Production(backend_port=8200)),
            replace(FRESH, production_backend_port=8123),
        ),
        # Where api and worker run what production serves, production's backend is the api.
        (
            Choices(control_plane="current", backend_port=8123),
            None,
            None,
            replace(FRESH, control_plane="current", production_backend_port=8000),
        ),
    ],
)
def test_options_come_before_the_policy_and_the_policy_before_what_was_installed(
    choices: Choices, installed: Topology | None, policy: Policy | None, wanted: Topology
) -> None:
    assert choose_topology(choices, installed=installed, policy=policy) == wanted


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
