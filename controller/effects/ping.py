"""Do Postgres and Redis accept clients? Asked as `pg_isready` and `redis-cli ping` ask, without a password.

Each question is bounded in time and changes nothing. It says what answered, never with which user or password: an
address is cut out of a URL by `postgres_address` and `redis_address`, and nothing else of the URL is shown.
"""

from __future__ import annotations

import math
from typing import NamedTuple
from urllib.parse import urlsplit

import psycopg
import redis
from psycopg import conninfo, pq

from controller.model.errors import ConfigInvalid


class Pong(NamedTuple):
    """What was said, or why nothing was."""

    said: str
    problem: str


_POSTGRES_SAYS = {
    pq.Ping.OK: Pong("accepts connections", ""),
    pq.Ping.REJECT: Pong("", "refuses connections: it starts, stops or recovers"),
    pq.Ping.NO_RESPONSE: Pong("", "does not answer"),
}


def postgres_address(url: str) -> str:
    """Return where a database URL leads: `127.0.0.1:5432`, or the path of a socket; ConfigInvalid when nowhere."""
    parts = _postgres_parts(url)
    if parts["host"].startswith("/"):
        return f"{parts['host']}/.s.PGSQL.{parts['port']}"
    return f"{parts['host']}:{parts['port']}"


def ping_postgres(url: str, *, timeout_s: float) -> Pong:
    """Ask as `pg_isready -h HOST -p PORT -d DATABASE -U USER` does. libpq does not let other threads run meanwhile."""
    parts = _postgres_parts(url)
    # libpq takes whole seconds, and no less than two.
    question = conninfo.make_conninfo(**parts, connect_timeout=max(2, math.ceil(timeout_s)))
    said = pq.PGconn.ping(question.encode())
    return _POSTGRES_SAYS.get(pq.Ping(said), Pong("", "its address makes no sense"))


def _postgres_parts(url: str) -> dict[str, str]:
    try:
        given = conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        # What libpq says may repeat the URL, with its password.
        raise ConfigInvalid("EnvironmentInvalid", "DATABASE_URL: is not an address of Postgres") from error
    return {
        "host": str(given.get("host") or "127.0.0.1"),
        "port": str(given.get("port") or "5432"),
        "dbname": str(given.get("dbname") or "postgres"),
        "user": str(given.get("user") or "postgres"),
    }


def redis_address(url: str) -> str:
    """Return where a Redis URL leads: `127.0.0.1:6379`, or the path of a socket; ConfigInvalid when nowhere."""
    return _without_user(url).partition("://")[2]


def ping_redis(url: str, *, timeout_s: float) -> Pong:
    """PING as the default user, whoever the URL names: that user may do nothing else on a host."""
    try:
        with redis.Redis.from_url(
            _without_user(url), socket_connect_timeout=timeout_s, socket_timeout=timeout_s
        ) as client:
            return Pong("PONG", "") if client.ping() else Pong("", "does not answer PING with PONG")
    except (redis.RedisError, OSError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Pong("", f"does not answer: {lines[0]:.100}")


def _without_user(url: str) -> str:
    """Return the URL without user, password, database and options."""
    parts = urlsplit(url)
    try:
        if parts.scheme == "unix" and parts.path:
            return f"unix://{parts.path}"
        if parts.scheme in ("redis", "rediss"):
            host = parts.hostname or "127.0.0.1"
            return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{parts.port or 6379}"
    except ValueError as error:  # of a port that is none; it may repeat the URL
        raise ConfigInvalid("EnvironmentInvalid", "REDIS_URL: is not an address of Redis") from error
    raise ConfigInvalid("EnvironmentInvalid", "REDIS_URL: is not an address of Redis")
