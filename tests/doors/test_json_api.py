"""The JSON API: who may call what, what it says, and what it never says."""

from __future__ import annotations

import asyncio
import dataclasses
import json

import httpx
import psycopg
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from controller.doors.api_server import build_app
from controller.doors.json_api import ACCESS, Access, is_our_name, routes
from controller.model.config import Settings
from controller.model.names import Topology, preview_slot
from controller.model.states import RunState
from tests.doors.stack import SECRET, Small, utc_now


def get(
    settings: Settings, path: str, *, method: str = "GET", host: str = "127.0.0.1:8000", client: str = "127.0.0.1"
) -> httpx.Response:
    async def ask() -> httpx.Response:
        app = Starlette(routes=routes(settings))
        transport = httpx.ASGITransport(app=app, client=(client, 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as asker:
            return await asker.request(method, path, headers={"Host": host})

    return asyncio.run(ask())


def reading_paths() -> list[str]:
    return [path for path, access in ACCESS.items() if access is Access.PUBLIC_READ]


def test_every_path_of_the_server_says_who_may_call_it(small: Small) -> None:
    app = build_app(small.settings, more=routes(small.settings))

    assert {route.path for route in app.routes if isinstance(route, Route)} == set(ACCESS)
    assert all(isinstance(route, Route) for route in app.routes)


def test_reading_paths_only_read(small: Small) -> None:
    for route in routes(small.settings):
        assert route.methods == {"GET", "HEAD"}
    for path in reading_paths():
        assert get(small.settings, path.replace("{generation:int}", "1"), method="POST").status_code == 405


def test_every_reading_path_answers_and_shows_no_secret_and_no_body(small: Small) -> None:
    generation = small.serve(small.commits[0])
    with psycopg.connect(small.settings.database_url) as connection:
        connection.execute(
            "INSERT INTO deliveries (id, event, signature, body) VALUES ('d-1', 'push', %s, %s)",
            [b"s" * 32, f"canary-body {SECRET}".encode()],
        )

    for path in reading_paths():
        answer = get(small.settings, path.replace("{generation:int}", str(generation)))
        assert answer.status_code == 200, (path, answer.text)
        assert answer.headers["cache-control"] == "no-store"
        for canary in (SECRET, "canary-body", (b"s" * 32).hex(), "postgresql://"):
            assert canary not in answer.text, path


def test_status_and_commands_say_the_same(small: Small) -> None:
    small.serve(small.commits[0])

    assert get(small.settings, "/api/status").json() == small.json("status")
    assert get(small.settings, "/api/slots").json() == small.json("slots")
    assert get(small.settings, "/api/releases").json() == small.json("releases")
    assert get(small.settings, "/api/deliveries?limit=3").json() == small.json("deliveries", "--limit", "3")


def test_a_run_is_told_with_its_steps_and_verdicts(small: Small) -> None:
    generation = small.begin(small.commits[0])
    small.store.record_step(generation, "checkout", began_at=utc_now(), ended_at=utc_now(), detail={"files": 2})
    small.end(generation, RunState.FAILED, reason="GateFailed", message="answered 500")

    said = get(small.settings, f"/api/runs/{generation}").json()

    assert (said["run"]["state"], said["run"]["reason"]) == ("failed", "GateFailed")
    assert [step["step"] for step in said["steps"]] == ["begun", "checkout"]
    assert said["steps"][1]["detail"] == {"files": 2}
    assert said["verdicts"] == []


def test_lists_are_bounded(small: Small) -> None:
    for number in range(3):
        small.end(small.begin(small.commits[number]), RunState.FAILED)

    assert len(get(small.settings, "/api/runs?limit=2").json()["runs"]) == 2
    assert len(get(small.settings, "/api/runs").json()["runs"]) == 3


@pytest.mark.parametrize("limit", ["0", "201", "-1", "x", "", "٣", "9" * 5000])
def test_an_odd_limit_is_refused(small: Small, limit: str) -> None:
    answer = get(small.settings, f"/api/deliveries?limit={limit}")

    assert (answer.status_code, answer.json()["error"]) == (400, "LimitInvalid")


@pytest.mark.parametrize("path", ["/api/runs/999999", f"/api/runs/{1 << 70}"])
def test_a_run_that_never_was_is_404(small: Small, path: str) -> None:
    answer = get(small.settings, path)

    assert (answer.status_code, answer.json()["error"]) == (404, "RunUnknown")


@pytest.mark.parametrize("client", ["192.0.2.7", "2001:db8::1", "testclient"])
def test_who_does_not_come_over_loopback_is_refused(small: Small, client: str) -> None:
    answer = get(small.settings, "/api/status", client=client)

    assert (answer.status_code, answer.json()["error"]) == (403, "LoopbackOnly")


@pytest.mark.parametrize("host", ["attacker.example", "localhost.attacker.example", "1.2.3.4:8000", "a/?x="])
def test_a_page_that_rebinds_its_own_name_reads_nothing(small: Small, host: str) -> None:
    answer = get(small.settings, "/api/status", host=host)

    assert (answer.status_code, answer.json()["error"]) == (403, "HostUnknown")


@pytest.mark.parametrize(
    "name", ["localhost", "127.0.0.1", "[::1]", "api.localhost", "app.shop.example", "APP.shop.example."]
)
def test_our_names_are_ours(name: str) -> None:
    assert is_our_name(name, Topology(base_host="shop.example"))


@pytest.mark.parametrize("name", ["", "shop.example.evil", "evilshop.example", "10.0.0.1", "xlocalhost"])
def test_other_names_are_not_ours(name: str) -> None:
    assert not is_our_name(name, Topology(base_host="shop.example"))


def test_a_database_that_is_away_is_503_and_no_traceback(small: Small) -> None:
    settings = dataclasses.replace(small.settings, database_url="postgresql://postgres:canary@127.0.0.1:1/x")

    for path in reading_paths():
        answer = get(settings, path.replace("{generation:int}", "1"))
        assert answer.status_code == 503, path
        assert "canary" not in answer.text
        assert set(json.loads(answer.text)) == {"error", "message"}


def test_a_lease_is_told_with_its_slot(small: Small) -> None:
    small.store.claim_slot(preview_slot(2), 7, now=utc_now(), expires_at=utc_now())

    slots = get(small.settings, "/api/slots").json()["slots"]

    assert [slot["pull_request"] for slot in slots] == [None, None, 7, None]
