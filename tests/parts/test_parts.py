"""Do the embedded parts start, answer, end in bounded time, and leave nothing?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
import redis

from controller.development.parts import Part, PartSpec, prepare_postgres, prepare_redis
from controller.development.up import OFFSETS
from controller.model.errors import Unavailable
from controller.model.names import PREVIEWS_MAX, Ports, Topology


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _await_end(pid: int) -> None:
    deadline = time.monotonic() + 15
    while _is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _is_running(pid)


def test_postgres_is_migrated_and_durable(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert connection.execute(f"SHOW {setting}").fetchone() == ("on",)
        row = connection.execute("SELECT count(*) FROM deliveries").fetchone()

    assert row == (0,)


def test_every_test_gets_a_database_of_its_own(postgres_url: str, empty_postgres_url: str) -> None:
    with psycopg.connect(empty_postgres_url) as connection:
        assert connection.execute("SELECT to_regclass('deliveries')").fetchone() == (None,)


def test_redis_answers_and_is_empty(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("oro:x", "1")


def test_postgres_keeps_its_rows_over_a_crash_and_its_password_over_a_new_preparation(short_dir: Path) -> None:
    postgres = prepare_postgres(data=short_dir / "pg", run=short_dir / "run")
    with Part(postgres.spec) as part:
        with psycopg.connect(postgres.url()) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
        part.kill()
        part.start()
        again = prepare_postgres(data=short_dir / "pg", run=short_dir / "run")
        with psycopg.connect(again.url()) as connection:
            assert connection.execute("SELECT one FROM kept").fetchone() == (1,)
        pid = part.pid

    assert pid is not None
    assert not _is_running(pid)
    assert not any((short_dir / "run").iterdir())
    assert (short_dir / "pg.password").stat().st_mode & 0o777 == 0o600


def test_a_part_that_ends_while_starting_is_told_with_its_last_words(short_dir: Path) -> None:
    spec = PartSpec(
        name="broken",
        argv=(sys.executable, "-c", "print('no such luck'); raise SystemExit(3)"),
        log_file=short_dir / "log",
        is_ready=lambda: False,
    )

    with pytest.raises(Unavailable, match=r"ended with 3 while starting.*no such luck"):
        Part(spec).start()


def test_a_part_that_ignores_the_request_to_end_is_killed_with_its_children(short_dir: Path) -> None:
    child_file = short_dir / "child"
    program = (
        "import signal,subprocess,sys,time,pathlib;"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "deaf='import signal,time;signal.signal(15,signal.SIG_IGN);time.sleep(60)';"
        "child=subprocess.Popen([sys.executable,'-c',deaf]);"
        f"pathlib.Path({str(child_file)!r}).write_text(str(child.pid));"
        "time.sleep(60)"
    )
    spec = PartSpec(
        name="deaf",
        argv=(sys.executable, "-c", program),
        log_file=short_dir / "log",
        is_ready=lambda: child_file.exists() and child_file.read_text() != "",
        environment=dict(os.environ),
        stop_timeout_s=0.2,
    )
    part = Part(spec)
    part.start()
    child = int(child_file.read_text())
    assert part.pid is not None

    part.stop()

    assert part.exit_code == -signal.SIGKILL
    _await_end(child)


def test_parts_end_when_the_process_that_started_them_is_killed(short_dir: Path) -> None:
    program = (
        "import sys,time;from pathlib import Path;"
        "from controller.development.parts import Part, prepare_postgres, prepare_redis;"
        "folder=Path(sys.argv[1]);"
        "parts=[Part(prepare_postgres(data=folder/'pg',run=folder/'run').spec),"
        "Part(prepare_redis(run=folder/'run',log_file=folder/'redis.log').spec)];"
        "[part.start() for part in parts];"
        "print(*(part.pid for part in parts),flush=True);time.sleep(60)"
    )
    with subprocess.Popen(
        (sys.executable, "-c", program, str(short_dir)),
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    ) as owner:
        assert owner.stdout is not None
        pids = [int(word) for word in owner.stdout.readline().split()]
        owner.kill()

    assert len(pids) == 2
    for pid in pids:
        _await_end(pid)


def test_a_folder_too_deep_for_a_socket_is_refused_by_name(short_dir: Path) -> None:
    deep = short_dir / ("x" * 100)

    with pytest.raises(Unavailable, match=r"SocketPathTooLong.*choose a shorter folder"):
        prepare_redis(run=deep, log_file=short_dir / "log")


def test_the_free_ports_can_all_be_had(free_port_offset: int) -> None:
    assert 10_000 <= free_port_offset < 22_000


def test_no_two_blocks_that_a_stack_may_take_share_a_port() -> None:
    slots = Topology(previews=PREVIEWS_MAX).slots
    blocks = [{port for _, port in Ports(offset=offset).all_for(slots)} for offset in OFFSETS]

    assert len(set[int]().union(*blocks)) == sum(len(block) for block in blocks)
