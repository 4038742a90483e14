"""The JSON API: who may call what, what it says, and what it never says."""

from __future__ import annotations

import asyncio
import dataclasses
import json

import httpx
import psycopg
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from controller.decisions.access import API_ACCESS, Access
from controller.doors.api_server import build_app
from controller.doors.json_api import routes
from controller.model.config import Settings
from controller.model.names import preview_slot
from controller.model.states import RunState
from tests.doors.stack import OPERATOR_TOKEN, SECRET, Small, utc_now


def get(
    settings: Settings,
    path: str,
    *,
    method: str = "GET",
    host: str = "127.0.0.1:8000",
    token: str | None = OPERATOR_TOKEN,
) -> httpx.Response:
    async def ask() -> httpx.Response:
        app = build_app(settings, more=routes(settings))
        headers = {"Host": host} if token is None else {"Host": host, "Authorization": f"Bearer {token}"}
        transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as asker:
            return await asker.request(method, path, headers=headers)

    return asyncio.run(ask())


def reading_paths() -> list[str]:
    return [path for path, access in API_ACCESS.items() if access is Access.OPERATOR]


def test_a_route_that_does_not_say_who_may_see_it_does_not_start(small: Small) -> None:
    async def anything(_request: Request) -> Response:
        raise AssertionError("it was asked")

    with pytest.raises(RuntimeError, match="/api/new: API_ACCESS does not say who may see it"):
        build_app(small.settings, more=[*routes(small.settings), Route("/api/new", anything)])


def test_reading_paths_only_read(small: Small) -> None:
    for route in routes(small.settings):
        assert route.methods == {"GET", "HEAD"}
    for path in reading_paths():
        assert get(small.settings, path.replace("{generation}", "1"), method="POST").status_code == 405


def test_every_reading_path_answers_and_shows_no_secret_and_no_body(small: Small) -> None:
    generation = small.serve(small.commits[0])
    with psycopg.connect(small.settings.database_url) as connection:
        connection.execute(
            "INSERT INTO deliveries (id, event, signature, body) VALUES ('d-1', 'push', %s, %s)",
            [b"s" * 32, f"canary-body {SECRET}".encode()],
        )

    for path in reading_paths():
        answer = get(small.settings, path.replace("{generation}", str(generation)))
        assert answer.status_code == 200, (path, answer.text)
        assert answer.headers["cache-control"] == "no-store"
        for canary in (SECRET, OPERATOR_TOKEN, "canary-body", (b"s" * 32).hex(), "postgresql://"):
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


@pytest.mark.parametrize("path", ["/api/runs/999999", f"/api/runs/{1 << 70}", "/api/runs/abc", "/api/runs/-1"])
def test_a_run_that_never_was_is_404(small: Small, path: str) -> None:
    answer = get(small.settings, path)

    assert (answer.status_code, answer.json()["error"]) == (404, "RunUnknown")


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost", "api.localhost", "attacker.example", "1.2.3.4", "a/?x="]
)
def test_without_the_token_no_name_and_no_address_opens_anything(small: Small, host: str) -> None:
    for path in reading_paths():
        answer = get(small.settings, path.replace("{generation}", "1"), host=host, token=None)
        assert (answer.status_code, answer.json()["error"]) == (401, "TokenRequired")
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("content", [None, "", "short\n", "two words that are long enough to be a token of ours\n"])
def test_where_there_is_no_good_token_nobody_is_the_operator(small: Small, content: str | None) -> None:
    file = small.settings.operator_token_file
    assert file is not None
    file.unlink()
    if content is not None:
        file.touch(mode=0o600)
        file.write_text(content)

    for claimed in ("", "short", (content or "").strip(), OPERATOR_TOKEN):
        assert get(small.settings, "/api/status", token=claimed).status_code == 401


def test_a_database_that_is_away_is_503_and_no_traceback(small: Small) -> None:
    settings = dataclasses.replace(small.settings, database_url="postgresql://postgres:canary@127.0.0.1:1/x")

    for path in reading_paths():
        answer = get(settings, path.replace("{generation}", "1"))
        assert answer.status_code == 503, path
        assert "canary" not in answer.text
        assert set(json.loads(answer.text)) == {"error", "message"}


def test_a_lease_is_told_with_its_slot(small: Small) -> None:
    small.store.claim_slot(preview_slot(2), 7, now=utc_now(), expires_at=utc_now())

    slots = get(small.settings, "/api/slots").json()["slots"]

    assert [slot["pull_request"] for slot in slots] == [None, None, 7, None]
