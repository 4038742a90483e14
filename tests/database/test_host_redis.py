"""Is it found out who uses a host's Redis, and may our user do there what the bell needs and no more?"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from controller.decisions.host_environment import Passwords
from controller.decisions.installation import RedisFact, redis_text
from controller.development.parts import Part, prepare_redis
from controller.effects.host import observe_redis
from controller.effects.wake import Bell
from controller.model.names import Ports

OURS = Passwords(api="", worker="", redis="our-word")


@dataclass(frozen=True)
class Server:
    """A Redis of this test alone, which also listens on a port of loopback, as a host's does."""

    admin: redis.Redis
    port: int

    def lock(self) -> None:
        """Have it obey what the installer writes for it."""
        lines = redis_text(OURS, digest=hashlib.sha256(OURS.redis.encode()).hexdigest()).splitlines()
        for line in reversed(lines):  # the default user, who says this, last
            if line.startswith("user "):
                self.admin.execute_command("ACL", "SETUSER", *line.split()[1:])

    @property
    def our_url(self) -> str:
        return f"redis://oroboros:{OURS.redis}@127.0.0.1:{self.port}/0"


@pytest.fixture
def server(short_dir: Path, free_port_offset: int) -> Iterator[Server]:
    prepared = prepare_redis(run=short_dir, log_file=short_dir / "log")
    with Part(prepared.spec):
        admin = redis.Redis.from_url(prepared.url)
        port = Ports(offset=free_port_offset).api
        admin.config_set("port", port)
        yield Server(admin, port)
        admin.close()


def test_a_redis_that_nobody_uses_says_so(server: Server) -> None:
    assert observe_redis(OURS, port=server.port) == RedisFact()


def test_users_and_keys_of_others_are_found_in_every_database(server: Server) -> None:
    server.admin.execute_command("ACL", "SETUSER", "cache", "on", ">word", "~*", "+@all")
    with redis.Redis(host="127.0.0.1", port=server.port, db=7) as other:
        other.set("theirs", "1")

    assert observe_redis(OURS, port=server.port) == RedisFact(users=("cache",), keys=1)


def test_a_redis_with_somebody_elses_password_refuses(server: Server) -> None:
    server.admin.config_set("requirepass", "theirs")

    assert observe_redis(OURS, port=server.port) == RedisFact(refuses=True)


def test_our_lock_opens_with_our_password_only(server: Server) -> None:
    server.lock()

    assert observe_redis(OURS, port=server.port) == RedisFact(works=True)
    assert observe_redis(Passwords(api="", worker="", redis="other"), port=server.port) == RedisFact(refuses=True)


def test_a_redis_that_is_away_is_no_redis(free_port_offset: int) -> None:
    assert observe_redis(OURS, port=Ports(offset=free_port_offset).api) is None


def test_our_user_may_ring_and_hear_the_bell(server: Server) -> None:
    server.lock()
    bell, heard = Bell(server.our_url), threading.Semaphore(0)

    bell.listen(heard.release)

    assert heard.acquire(timeout=10), "the bell was never listened to"
    assert bell.ring()
    assert heard.acquire(timeout=10), "the ring was not heard"


@pytest.mark.parametrize(
    "words", [("SET", "oro:x", "1"), ("GET", "x"), ("FLUSHALL",), ("ACL", "LIST"), ("PUBLISH", "theirs", "x")]
)
@pytest.mark.parametrize("user", ["oroboros", "default"])
def test_nobody_may_do_anything_else(server: Server, user: str, words: tuple[str, ...]) -> None:
    server.lock()
    url = server.our_url if user == "oroboros" else f"redis://127.0.0.1:{server.port}/0"
    with redis.Redis.from_url(url) as client:
        assert client.ping()
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*words)
