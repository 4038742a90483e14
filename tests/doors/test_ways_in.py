"""What does each way in see of each path of api and worker? A real api and edge, with TLS, and the worker's port."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from controller.decisions.access import API_ACCESS, WORKER_ACCESS, Access
from controller.decisions.edge import edge_sites
from controller.decisions.surroundings import environment
from controller.development.parts import Part, PartSpec, listens_at
from controller.doors.api_server import build_app
from controller.doors.json_api import routes
from controller.doors.worker import serve_health
from controller.loop.reconcile import Health
from controller.model.names import preview_slot, pull_request_domain
from controller.model.states import RunState
from tests.builders import run
from tests.doors.stack import OPERATOR_TOKEN, Small, utc_now
from tests.edge.host import Host
from tests.edge.test_tls import anyone, write_certificate

BASE = "shop.example"
#: Of a private repository, and of what went wrong: nobody but the operator sees one of these.
CANARIES = ("canary-title", "canary-reason", "canary-error")
AS_OPERATOR = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
HEALTH_KEYS = {"api": {"status", "database", "release"}, "worker": {"status", "last_error", "tick", "release"}}


@dataclass(frozen=True, slots=True)
class Seen:
    status: int
    body: str


#: (part, path, method) to what comes back.
Way = Callable[[str, str, str], Seen]


def read(connection: http.client.HTTPConnection, method: str, path: str, headers: dict[str, str]) -> Seen:
    with contextlib.closing(connection):
        connection.request(method, path, headers={**headers, "Content-Type": "application/json"})
        answer = connection.getresponse()
        return Seen(answer.status, answer.read().decode())


@pytest.fixture
def ways(small: Small) -> Iterator[dict[str, Way]]:
    """Every way in, by its name."""
    topology = dataclasses.replace(
        small.topology, base_host=BASE, scheme="https", public_port=None, tls="files", trusted_proxies=()
    )
    ports = topology.ports
    host = Host(folder=small.layout.run.parent, layout=small.layout, topology=topology)
    (host.folder / "logs").mkdir()
    now = utc_now()
    health = Health(started_at=now, last_tick_at=now)
    health.note_error("canary-error", now=now)
    token = OPERATOR_TOKEN.encode()
    worker = serve_health(
        ports.worker_health, health, lambda: now, lambda: True, poll_interval_s=5, release=None, token=token
    )
    api = PartSpec(
        name="api",
        argv=(sys.executable, "-m", "controller.doors.cli", "--root", str(small.root), "api"),
        log_file=host.folder / "api.log",
        is_ready=lambda: listens_at(("127.0.0.1", ports.api)),
        environment=dict(os.environ),
    )
    by_part = {"api": ports.api, "worker": ports.worker_health}

    def edge(more: dict[str, str], *, tls: bool) -> Way:
        def ask(part: str, path: str, method: str) -> Seen:
            name = f"{part}.{BASE}"
            connection = http.client.HTTPConnection("127.0.0.1", ports.edge, timeout=15)
            if tls:
                plain = socket.create_connection(("127.0.0.1", ports.edge_https), timeout=15)
                connection.sock = anyone().wrap_socket(plain, server_hostname=name)
            return read(connection, method, path, {"Host": name, **more})

        return ask

    def loopback(more: dict[str, str]) -> Way:
        def ask(part: str, path: str, method: str) -> Seen:
            connection = http.client.HTTPConnection("127.0.0.1", by_part[part], timeout=15)
            return read(connection, method, path, {"Host": "localhost", **more})

        return ask

    def instance(part: str, path: str, method: str) -> Seen:
        # With no more than what a preview's instance is started with.
        code = (
            "import http.client, json, os, sys\n"
            "asked = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]), timeout=15)\n"
            "words = [word for value in os.environ.values() for word in value.split()]\n"
            "asked.request(sys.argv[2], sys.argv[3], headers={'Content-Type': 'application/json',"
            " 'Authorization': 'Bearer ' + max(words, key=len)})\n"
            "answer = asked.getresponse()\n"
            "print(json.dumps([answer.status, answer.read().decode()]))\n"
        )
        done = subprocess.run(
            [sys.executable, "-I", "-c", code, str(by_part[part]), method, path],
            env=preview_environment(small),
            capture_output=True,
            check=True,
            timeout=30,
        )
        return Seen(*json.loads(done.stdout))

    with host.closing, contextlib.ExitStack() as closing:
        closing.callback(worker.end)
        closing.enter_context(Part(api))
        write_certificate(host.credentials, [site.host for site in edge_sites(topology)])
        host.edge()
        yield {
            "edge": edge({}, tls=False),
            "edge with the token": edge(AS_OPERATOR, tls=False),
            "TLS edge": edge({}, tls=True),
            "TLS edge with the token": edge(AS_OPERATOR, tls=True),
            "loopback": loopback({}),
            "loopback as a proxy": loopback({"X-Forwarded-For": "127.0.0.1", "Host": f"api.{BASE}"}),
            "loopback with the token": loopback(AS_OPERATOR),
            "a preview's instance": instance,
        }


def preview_environment(small: Small) -> dict[str, str]:
    slot = preview_slot(1)
    return environment(
        run=run(1, 1, slot=slot, domain=pull_request_domain(7)),
        slot=slot,
        listens_at="127.0.0.1:1",
        nonce="nonce",
        url="https://preview1.shop.example",
        database_url=None,
        data_folder=small.layout.slot_data(slot),
        app_values={},
        configured="",
        branch="topic",
        ceilings=(),
    )


def expected(access: Access, way: str, method: str) -> int:
    """Return the status that a way in gets."""
    through_edge, knows_token = "edge" in way, way.endswith("with the token")
    match access:
        case Access.SIGNED:
            # 401: it reached the receiver, without a signature.
            return 401 if method == "POST" else 405
        case Access.VERDICT:
            return 200 if method == "GET" else 405
        case Access.OPERATOR:
            if through_edge:
                return 404
            if method == "POST":
                return 405
            return 200 if knows_token else 401


def test_every_way_in_sees_of_every_path_what_the_table_says(small: Small, ways: dict[str, Way]) -> None:
    head = small.commit("canary-title")
    generation = small.begin(head)
    small.end(generation, RunState.FAILED, reason="GateFailed", message="canary-reason")
    small.publish(head)
    paths = [("api", path, access) for path, access in API_ACCESS.items()]
    paths += [("worker", path, access) for path, access in WORKER_ACCESS.items()]
    operator_saw = ""

    for name, way in ways.items():
        for part, path, access in paths:
            asked = path.replace("{generation}", str(generation))
            for method in ("GET", "POST") if part == "api" else ("GET",):
                seen = way(part, asked, method)
                assert seen.status == expected(access, name, method), (name, part, path, method, seen)
                if name == "loopback with the token":
                    operator_saw += seen.body
                    if (access, method) == (Access.VERDICT, "GET"):
                        assert set(json.loads(seen.body)) >= HEALTH_KEYS[part]
                    continue
                if (access, method) == (Access.VERDICT, "GET"):
                    assert json.loads(seen.body) == {"status": "ok"}
                assert not [canary for canary in CANARIES if canary in seen.body], (name, part, path, method)
    assert OPERATOR_TOKEN not in "".join(preview_environment(small).values())
    # What is looked for is there.
    assert all(canary in operator_saw for canary in CANARIES)


def test_every_path_of_the_api_is_in_the_table(small: Small) -> None:
    served = {getattr(route, "path", None) for route in build_app(small.settings, more=routes(small.settings)).routes}

    assert served == set(API_ACCESS)
