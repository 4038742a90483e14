"""What does `oroboros health` say of parts that are there, and of those that are not?"""

from __future__ import annotations

import socket

import pytest

from controller.doors.cli_health import read_health
from controller.doors.stacks import Stack
from controller.effects.ping import ping_postgres, ping_redis, postgres_address, redis_address
from controller.model.errors import ConfigInvalid
from tests.doors.stack import Small

CANARY = "canary-password-5d1e"


def services(small: Small) -> dict[str, dict[str, object]]:
    found = small.json("health")["services"]
    assert isinstance(found, list)
    return {one["service"]: one for one in found}


def test_tells_parts_that_are_there_from_those_that_are_away(small: Small) -> None:
    found = services(small)

    assert {name for name, one in found.items() if one["ok"]} == {"postgres", "redis"}
    assert found["web-preview-2"]["said"] == "nobody listens"
    assert found["api-preview-3"]["address"] == f"127.0.0.1:{small.topology.ports.backend(small.topology.slots[3])}"
    assert small.run("health").exit_code == 1


def test_who_may_not_read_the_services_environment_asks_at_the_contracts_addresses(small: Small) -> None:
    """On a host the addresses of Postgres and Redis lie in files of root's."""
    stack = Stack(root=small.root, environ={}, embedded=False)

    found = {one.service: one.address for one in read_health(lambda: stack, wait_s=0)}

    assert (found["postgres"], found["redis"]) == ("127.0.0.1:5432", "127.0.0.1:6379")


def test_a_stack_that_does_not_run_is_told_apart_from_one_that_is_unwell(small: Small) -> None:
    small.layout.stack_file.unlink()

    value = small.json("health")

    assert (value["error"], value["exit_code"]) == ("NoStack", 4)


def test_waits_for_what_is_not_well_yet_and_then_says_so(small: Small) -> None:
    result = small.run("health", "--wait", "0.3")

    assert result.exit_code == 1
    assert "not well" in result.stdout


@pytest.mark.parametrize("wait", ["-1", "never", "1e9"])
def test_refuses_a_wait_without_a_bound(small: Small, wait: str) -> None:
    assert small.run("health", "--wait", wait).exit_code == 2


def test_postgres_is_asked_without_a_password_and_none_is_shown(postgres_url: str) -> None:
    with_password = postgres_url + ("&" if "?" in postgres_url else "?") + f"user=nobody&password={CANARY}"

    assert ping_postgres(with_password, timeout_s=2) == ("accepts connections", "")
    assert CANARY not in postgres_address(with_password)


def test_redis_is_asked_as_its_default_user(redis_url: str) -> None:
    scheme, _, rest = redis_url.partition("://")
    with_password = f"{scheme}://someone:{CANARY}@{rest}"

    assert ping_redis(with_password, timeout_s=2) == ("PONG", "")
    assert CANARY not in redis_address(with_password)


def test_what_does_not_answer_is_said_within_the_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]

        assert ping_redis(f"redis://127.0.0.1:{port}/0", timeout_s=0.2).problem
        assert ping_postgres(f"postgresql://127.0.0.1:{port}/x", timeout_s=0.2) == ("", "does not answer")


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("postgresql://u:p@db.example.com:5433/x", "db.example.com:5433"),
        ("postgresql://u:p@/x?host=/run/pg&port=5432", "/run/pg/.s.PGSQL.5432"),
        ("postgresql:///x", "127.0.0.1:5432"),
    ],
)
def test_names_the_address_of_postgres(url: str, address: str) -> None:
    assert postgres_address(url) == address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://127.0.0.1:6379/0", "127.0.0.1:6379"),
        ("redis://u:p@cache/2?x=1", "cache:6379"),
        ("redis://[::1]:1/0", "[::1]:1"),
        ("unix://u:p@/run/redis.sock?db=0", "/run/redis.sock"),
    ],
)
def test_names_the_address_of_redis(url: str, address: str) -> None:
    assert redis_address(url) == address


@pytest.mark.parametrize("url", ["nonsense", f"redis://:{CANARY}@a:port", f"http://x:{CANARY}@a"])
def test_an_address_that_makes_no_sense_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        redis_address(url)
    assert CANARY not in str(caught.value)
    with pytest.raises(ConfigInvalid) as caught:
        postgres_address(f"{url}{CANARY}")
    assert CANARY not in str(caught.value)
