"""What does durability cost at the door? Deliveries a second: stored before the 202, answered without a store, a peer.

    apt-get install wrk webhook
    python tests/bench/bench_receiver.py [--rounds 5] [--seconds 4]

Signed pushes of 8 KB with distinct bodies on 32 connections. The load comes from wrk (one thread, Lua); what it used
of a core is printed, so that one can see that it was not the bottleneck. "bare" is the same server, which does all but
store. The peer is adnanh/webhook, which verifies the same signature, stores nothing, and runs /bin/true. Alternating
order, medians of the rounds, one Postgres with durable settings and an empty table in each round. At the end, the p99
of answers at a steady 50 deliveries a second, each counted from when it was due. Exits 1 when a figure
misses its target, 2 when there is no peer or no wrk to compare with.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import hmac
import http.client
import json
import os
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import psycopg

from controller.development.parts import Part, listens_at, prepare_postgres, prepare_redis
from controller.doors.api_server import build_app, serve_app
from controller.effects.store import migrate
from controller.model.config import read_settings
from hooks.app import Receiver
from hooks.inbox import Answer, Inbox, Incoming

CHECKOUT = Path(__file__).resolve().parents[2]
SECRET = b"5d0b7a51c6f94e0fb0f3a9be1f6d2c47"
PATH = "/webhooks/github"
BODY_BYTES = 8 << 10
CONNECTIONS = 32
BODIES_A_SECOND = 15_000
TARGET_OF_BARE = 0.6
#: The pace of a busy day, at which an answer is promised in less than `PROMISED_P99_S`.
CALM_A_SECOND = 50
CALM_S = 20
CALM_THREADS = 16
PROMISED_P99_S = 0.5
COUNTER = "%012d"

LUA = """
local head, tail, n, run = nil, nil, 0, 0
local signatures = {}
local headers = { ["Content-Type"] = "application/json", ["X-GitHub-Event"] = "push" }
function init(args)
    run = args[2]
    local file = io.open(args[1] .. "/head", "rb"); head = file:read("*a"); file:close()
    file = io.open(args[1] .. "/tail", "rb"); tail = file:read("*a"); file:close()
    for line in io.lines(args[1] .. "/signatures") do signatures[#signatures + 1] = line end
end
function request()
    n = n + 1
    headers["X-Hub-Signature-256"] = "sha256=" .. signatures[n]
    headers["X-GitHub-Delivery"] = run .. "-" .. n
    return wrk.format("POST", "/webhooks/github", headers, head .. string.format("%012d", n) .. tail)
end
function done(summary, latency, requests)
    local e = summary.errors
    io.write(string.format('\\nRESULT {"requests": %d, "us": %d, "failed": %d, "p50_us": %d, "p99_us": %d}\\n',
        summary.requests, summary.duration, e.status + e.connect + e.read + e.write + e.timeout,
        latency:percentile(50), latency:percentile(99)))
end
"""


class NoStore(Inbox):
    """Accepts everything and keeps nothing: what the server can do when durability costs nothing."""

    async def start(self) -> None:
        """Nothing to write."""

    async def keep(self, delivery: Incoming) -> Answer:
        """Say what the inbox would say."""
        return "accepted"


def serve(name: str, fd: int) -> int:
    """Serve as `stored` or `bare`, in a process of its own."""
    app = build_app(read_settings(os.environ))
    if name == "bare":
        for route in app.routes:
            receiver = getattr(route, "app", None)
            if isinstance(receiver, Receiver):
                receiver.inbox = NoStore("", "")
    return serve_app(app, port=0, fd=fd)


def write_load(folder: Path, *, count: int) -> None:
    """Write the pieces of a push of 8 KB around a counter, and the signature of each body."""
    push = json.loads((CHECKOUT / "tests" / "samples" / "push.json").read_text())
    push["commits"] = (push["commits"] * 12)[: (BODY_BYTES - 3_500) // 700]
    push["counter"] = "COUNTER"
    push["padding"] = ""
    push["padding"] = "x" * (BODY_BYTES - len(json.dumps(push)))
    head, tail = json.dumps(push).encode().split(b"COUNTER")
    (folder / "head").write_bytes(head)
    (folder / "tail").write_bytes(tail)
    (folder / "load.lua").write_text(LUA)
    begun = hmac.new(SECRET, head, hashlib.sha256)
    with (folder / "signatures").open("w") as file:
        for number in range(1, count + 1):
            whole = begun.copy()
            whole.update((COUNTER % number).encode() + tail)
            file.write(whole.hexdigest() + "\n")


@contextlib.contextmanager
def api(name: str, environment: dict[str, str], log_file: Path) -> Iterator[tuple[int, int]]:
    """Run the server as `name`; yield its port and its process id."""
    with socket.socket() as listening, log_file.open("ab") as log:
        listening.bind(("127.0.0.1", 0))
        listening.listen(2_048)
        port = int(listening.getsockname()[1])
        process = subprocess.Popen(
            [sys.executable, __file__, "--serve", name, "--fd", str(listening.fileno())],
            env={**os.environ, **environment},
            pass_fds=[listening.fileno()],
            stdout=log,
            stderr=log,
        )
    with _ended(process):
        _until_served(process, port)
        yield port, process.pid


@contextlib.contextmanager
def peer(binary: str, folder: Path) -> Iterator[tuple[int, int]]:
    """Run adnanh/webhook with a rule that verifies the same signature; yield its port and its process id."""
    rule = {
        "type": "payload-hmac-sha256",
        "secret": SECRET.decode(),
        "parameter": {"source": "header", "name": "X-Hub-Signature-256"},
    }
    hooks = [{"id": "github", "execute-command": "/bin/true", "trigger-rule": {"match": rule}}]
    (folder / "hooks.json").write_text(json.dumps(hooks))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with (folder / "peer.log").open("ab") as log:
        process = subprocess.Popen(peer_argv(binary, folder, port), stdout=log, stderr=log)
    with _ended(process):
        _until_served(process, port)
        yield port, process.pid


def _used_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(int(fields[place]) for place in (11, 12)) / os.sysconf("SC_CLK_TCK")


def check_peer(port: int, folder: Path) -> None:
    """The peer must believe a good signature and no other, or the comparison says nothing."""
    body = b"".join([(folder / "head").read_bytes(), (COUNTER % 1).encode(), (folder / "tail").read_bytes()])
    good = (folder / "signatures").read_text().split("\n", 1)[0]
    answers = []
    for signature in (good, "0" * 64):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            headers = {"Content-Type": "application/json", "X-Hub-Signature-256": f"sha256={signature}"}
            connection.request("POST", PATH, body, headers)
            answers.append(connection.getresponse().read())
    if answers[0] == answers[1]:
        raise SystemExit(f"the peer answers {answers[0]!r} to right and wrong signatures alike")


def peer_argv(binary: str, folder: Path, port: int) -> list[str]:
    hooks = str(folder / "hooks.json")
    return [binary, "-hooks", hooks, "-ip", "127.0.0.1", "-port", str(port), "-urlprefix", "webhooks"]


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=15)
        finally:
            process.kill()
            process.wait()


def _until_served(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 20
    while not listens_at(("127.0.0.1", port)):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"a server did not start: {process.args!r}")
        time.sleep(0.05)
    # Our own socket listens before its server does: the first answer tells.
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        connection.recv(16)


def measure(server: tuple[int, int], folder: Path, *, run: str, seconds: int, bodies: int) -> dict[str, float]:
    """Return requests a second, latencies, how much of a core wrk used, and the server's processor time a request."""
    port, pid = server
    used_before_s = _used_s(pid)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [
            *("wrk", "-t", "1", "-c", str(CONNECTIONS), "-d", f"{seconds}s", "--timeout", "10s", "--latency"),
            *("-s", str(folder / "load.lua"), f"http://127.0.0.1:{port}", "--", str(folder), run),
        ],
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    result: dict[str, float] = json.loads(line.removeprefix("RESULT "))
    if result["failed"]:
        raise SystemExit(f"{run}: {result['failed']:.0f} of {result['requests']:.0f} requests failed\n{done.stdout}")
    if result["requests"] > bodies:
        raise SystemExit(f"{run}: the load ran out of distinct bodies")
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return (
        result
        | {"a_second": result["requests"] / result["us"] * 1e6, "wrk_core": used_s / result["us"] * 1e6}
        | {"server_us": (_used_s(pid) - used_before_s) / result["requests"] * 1e6}
    )


def measure_calm(port: int, folder: Path) -> tuple[float, float]:
    """Return median and p99 in seconds of answers to signed pushes that come at a steady pace."""
    head, tail = (folder / "head").read_bytes(), (folder / "tail").read_bytes()
    began_s = time.monotonic()

    def deliver(number: int) -> float:
        body = head + (COUNTER % number).encode() + tail
        signature = hmac.new(SECRET, body, hashlib.sha256).hexdigest()
        due_s = began_s + number / CALM_A_SECOND
        time.sleep(max(0.0, due_s - time.monotonic()))
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            headers = {
                "Content-Type": "application/json",
                "X-GitHub-Event": "push",
                "X-GitHub-Delivery": f"calm-{number}",
                "X-Hub-Signature-256": f"sha256={signature}",
            }
            connection.request("POST", PATH, body, headers)
            if connection.getresponse().status != 202:
                raise SystemExit(f"delivery {number} of the calm load was not accepted")
        # From when it was due: a server that stalls does not slow down who delivers.
        return time.monotonic() - due_s

    with ThreadPoolExecutor(CALM_THREADS) as pool:
        took_s = sorted(pool.map(deliver, range(1, CALM_A_SECOND * CALM_S + 1)))
    return statistics.median(took_s), took_s[int(len(took_s) * 0.99)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--serve", choices=("stored", "bare"))
    parser.add_argument("--fd", type=int)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve, options.fd)
    if shutil.which("wrk") is None:
        print("durable 202: no load generator (apt-get install wrk): not measured")
        return 2
    folder = Path(tempfile.mkdtemp(prefix="oro-bench-"))
    try:
        return compare(folder, rounds=options.rounds, seconds=options.seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def compare(folder: Path, *, rounds: int, seconds: int) -> int:
    bodies = BODIES_A_SECOND * seconds
    write_load(folder, count=bodies)
    secrets = folder / "secrets"
    secrets.write_bytes(SECRET + b"\n")
    postgres = prepare_postgres(data=folder / "pg", run=folder / "run")
    redis = prepare_redis(run=folder / "redis", log_file=folder / "redis.log")
    webhook = shutil.which("webhook")
    figures: dict[str, list[dict[str, float]]] = {"stored": [], "bare": []} | ({"peer": []} if webhook else {})
    with Part(postgres.spec), Part(redis.spec):
        migrate(postgres.url())
        environment = {
            "DATABASE_URL": postgres.url(),
            "REDIS_URL": redis.url,
            "OROBOROS_ROOT": str(folder / "root"),
            "OROBOROS_REPOSITORY": "acme/shop",
            "OROBOROS_WEBHOOK_SECRETS_FILE": str(secrets),
        }
        with psycopg.connect(postgres.url(), autocommit=True) as database, contextlib.ExitStack() as servers:
            ports = {
                name: servers.enter_context(api(name, environment, folder / f"{name}.log"))
                for name in ("stored", "bare")
            }
            if webhook:
                ports["peer"] = servers.enter_context(peer(webhook, folder))
                check_peer(ports["peer"][0], folder)
                print("peer:", " ".join(peer_argv(webhook, folder, ports["peer"][0])))
            for name, server in ports.items():
                measure(server, folder, run=f"warm-{name}", seconds=1, bodies=bodies)
            for turn in range(rounds):
                names = list(figures) if turn % 2 == 0 else list(reversed(figures))
                for name in names:
                    database.execute("TRUNCATE deliveries")
                    database.execute("CHECKPOINT")
                    result = measure(ports[name], folder, run=f"r{turn}", seconds=seconds, bodies=bodies)
                    figures[name].append(result)
                    if name == "stored":
                        row = database.execute("SELECT count(*), min(length(body)) FROM deliveries").fetchone()
                        assert row is not None
                        if row[0] < result["requests"] or row[1] < BODY_BYTES - 100:
                            raise SystemExit(f"{result['requests']:.0f} answered, but {row[0]} rows of {row[1]} bytes")
            database.execute("TRUNCATE deliveries")
            calm = measure_calm(ports["stored"][0], folder)
            for key in ("fsync", "synchronous_commit", "full_page_writes", "server_version"):
                print(f"postgres {key}: {database.execute(f'SHOW {key}'.encode()).fetchone()[0]}")
            kind = database.execute("SELECT relpersistence FROM pg_class WHERE relname = 'deliveries'").fetchone()
            print(f"table deliveries: {'permanent' if kind == ('p',) else kind}")
    return report(figures, calm=calm)


def report(figures: dict[str, list[dict[str, float]]], *, calm: tuple[float, float]) -> int:
    medians = {name: statistics.median(one["a_second"] for one in found) for name, found in figures.items()}
    for name, found in figures.items():
        rounds = " ".join(f"{one['a_second']:.0f}" for one in found)
        keys = ("p50_us", "p99_us", "wrk_core", "server_us")
        p50, p99, core, server_us = (statistics.median(one[key] for one in found) for key in keys)
        print(
            f"  {name:6} {medians[name]:7.0f}/s  p50 {p50 / 1e3:.1f} ms  p99 {p99 / 1e3:.1f} ms"
            f"  processor {server_us:.0f} us each, wrk {core:.0%} of a core  rounds {rounds}"
        )
    p50_s, p99_s = calm
    print(
        f"durable 202 at {CALM_A_SECOND} deliveries a second: p50 {p50_s * 1e3:.1f} ms  p99 {p99_s * 1e3:.1f} ms"
        f"  promised p99 < {PROMISED_P99_S * 1e3:.0f} ms"
    )
    of_bare = medians["stored"] / medians["bare"]
    print(f"durable 202, of the same server without a store: {of_bare:.2f}  target >= {TARGET_OF_BARE}")
    if "peer" not in medians:
        print("durable 202, of adnanh/webhook: no peer: not measured (apt-get install webhook)")
        return 2
    of_peer = medians["stored"] / medians["peer"]
    print(f"durable 202, of adnanh/webhook, which stores nothing: {of_peer:.2f}  target > 1")
    return 0 if of_bare >= TARGET_OF_BARE and of_peer > 1 and p99_s < PROMISED_P99_S else 1


if __name__ == "__main__":
    sys.exit(main())
