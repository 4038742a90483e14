"""Is the development forge as strict as GitHub about check runs, deployments and comments?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from controller.decisions.github.wire import ask
from hooks.payload import Ours as Repository
from hooks.payload import read_hint
from tests.forge.our_app import Ours
from tests.forge_fixture import ForgeUnderTest
from tests.published import problems

CHECK = {"name": "oroboros/production", "status": "in_progress"}
OUTPUT = {"title": "T", "summary": "S"}


@pytest.fixture
def sha(forge: ForgeUnderTest) -> str:
    clone = forge.clone()
    sha = clone.commit("Begin")
    clone.push()
    clone.commit("Change", page="one")
    clone.push("topic")
    forge.open_pull("topic")
    return sha


@contextmanager
def as_app(ours: Ours, **content: object) -> Iterator[httpx.Client]:
    """Speak to the API as our App's installation, with these permissions."""
    ours.install(**content)
    forge = ours.forge
    headers = {"Authorization": f"Bearer {ours.identity().token()}"}
    url = f"{forge.url}/api/v3/repos/{forge.repository}"
    with httpx.Client(base_url=url, headers=headers, trust_env=False) as client:
        yield client


def test_only_an_app_writes_check_runs(forge: ForgeUnderTest, sha: str) -> None:
    answer = forge.api.post("/check-runs", json={**CHECK, "head_sha": sha})
    assert (answer.status_code, answer.json()["message"]) == (403, "You must authenticate via a GitHub App.")


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"status": "completed"}, "conclusion"),
        ({"conclusion": "stale"}, "conclusion"),
        ({"status": "waiting"}, "status"),
        ({"output": {"title": "T"}}, "summary"),
        ({"output": {"summary": "S"}}, "title"),
        ({"output": {**OUTPUT, "text": "x" * 65_536}}, "text"),
        ({"output": {**OUTPUT, "summary": "\N{SNAKE}" * 32_768}}, "summary"),
        ({"output": {**OUTPUT, "annotations": [{"path": "deploy.toml"}]}}, "annotations"),
        (
            {
                "output": {
                    **OUTPUT,
                    "annotations": [
                        {"path": "p", "start_line": 1, "end_line": 1, "annotation_level": "failure", "message": "m"}
                    ]
                    * 51,
                }
            },
            "annotations",
        ),
    ],
)
def test_a_check_run_that_is_not_as_documented_is_422(ours: Ours, sha: str, changed: Any, field: str) -> None:
    with as_app(ours) as client:
        answer = client.post("/check-runs", json={**CHECK, "head_sha": sha, **changed})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == field
        assert client.get(f"/commits/{sha}/check-runs").json()["total_count"] == 0


def test_annotations_of_a_check_run_add_up(ours: Ours, sha: str) -> None:
    one = {"path": "p", "start_line": 1, "end_line": 1, "annotation_level": "failure", "message": "m"}
    with as_app(ours) as client:
        output = {**OUTPUT, "annotations": [one]}
        made = client.post("/check-runs", json={**CHECK, "head_sha": sha, "output": output}).json()
        changed = client.patch(f"/check-runs/{made['id']}", json={"output": output, "conclusion": "failure"}).json()
        assert (changed["status"], changed["output"]["annotations_count"]) == ("completed", 2)
        shown = client.get(f"/check-runs/{made['id']}/annotations").json()
        assert [{key: each[key] for key in one} for each in shown] == [one, one]
        assert client.patch("/check-runs/999", json={}).status_code == 404


def test_a_completed_check_run_stays_completed_and_may_get_another_conclusion(ours: Ours, sha: str) -> None:
    with as_app(ours) as client:
        made = client.post("/check-runs", json={**CHECK, "head_sha": sha, "conclusion": "neutral"}).json()
        again = client.patch(f"/check-runs/{made['id']}", json={"status": "in_progress"}).json()
        assert (again["status"], again["conclusion"]) == ("completed", "neutral")
        ended = client.patch(f"/check-runs/{made['id']}", json={"conclusion": "success"}).json()
        assert (ended["status"], ended["conclusion"]) == ("completed", "success")


def test_a_click_on_rerun_is_told_to_the_app_as_published(ours: Ours, sha: str) -> None:
    ended = {"status": "completed", "conclusion": "failure", "output": OUTPUT, "details_url": "http://app.localhost"}
    with as_app(ours) as client:
        made = client.post("/check-runs", json={**CHECK, "head_sha": sha, **ended}).json()
        ours.forge.knob("rerun", check=made["id"], user="developer")
    listed = json.loads(ours.identity().ask(ask("/app/hook/deliveries")).body)
    (one,) = [one for one in listed if one["event"] == "check_run"]
    payload = json.loads(ours.identity().ask(ask(f"/app/hook/deliveries/{one['id']}")).body)["request"]["payload"]
    assert problems({"$ref": "#/definitions/check_run$rerequested"}, payload) == []
    body = json.dumps(payload).encode()
    hint = read_hint(body, "check_run", ours=Repository(name=ours.forge.repository))
    assert (hint.target, hint.sha) == ("rerun:oroboros/production:developer", sha)


def test_what_the_app_was_not_granted_is_403_and_named(ours: Ours, sha: str) -> None:
    with as_app(ours) as client:
        assert client.post("/issues/1/comments", json={"body": "x"}).status_code == 201
        refused = client.put("/pulls/1/merge", json={})
    assert (refused.status_code, refused.headers["x-accepted-github-permissions"]) == (403, "contents=write")


def test_a_deployment_waits_for_statuses_and_merges_unless_told_not_to(forge: ForgeUnderTest, sha: str) -> None:
    forge.api.post(f"/statuses/{sha}", json={"state": "pending"})
    assert forge.api.post("/deployments", json={"ref": sha}).status_code == 409
    assert forge.api.post("/deployments", json={"ref": "topic", "required_contexts": []}).status_code == 409
    quiet = {"required_contexts": [], "auto_merge": False}
    made = forge.api.post("/deployments", json={"ref": "topic", **quiet})
    assert (made.status_code, made.json()["environment"], made.json()["production_environment"]) == (
        *(201, "production"),
        True,
    )
    assert forge.api.post("/deployments", json={"ref": "f" * 40, **quiet}).status_code == 422


@pytest.mark.parametrize(
    ("kind", "ended"),
    [
        ({}, True),
        ({"transient_environment": True}, False),
        ({"production_environment": True}, False),
        ({"environment": "production"}, False),
    ],
)
def test_auto_inactive_ends_earlier_deployments_that_are_neither_transient_nor_of_production(
    forge: ForgeUnderTest, sha: str, kind: dict[str, object], ended: bool
) -> None:
    content = {"ref": sha, "required_contexts": [], "auto_merge": False, "environment": "staging", **kind}
    first, other, second = (
        forge.api.post("/deployments", json={**content, **more}).json()["id"]
        for more in ({}, {"environment": "elsewhere"}, {})
    )
    for number in (first, other):
        forge.api.post(f"/deployments/{number}/statuses", json={"state": "success", "auto_inactive": False})
    forge.api.post(f"/deployments/{second}/statuses", json={"state": "success"})

    def newest(number: int) -> str:
        return str(forge.api.get(f"/deployments/{number}/statuses").json()[0]["state"])

    assert newest(first) == ("inactive" if ended else "success")
    assert (newest(other), newest(second)) == ("success", "success")
    refused = forge.api.post(f"/deployments/{second}/statuses", json={"state": "success", "description": "x" * 141})
    assert refused.status_code == 422


def test_comments_have_an_author_an_app_and_a_limit(ours: Ours, sha: str) -> None:
    with as_app(ours) as client:
        by_app = client.post("/issues/1/comments", json={"body": "Hello"}).json()
    by_person = ours.forge.api.post("/issues/1/comments", json={"body": "Hello"}).json()
    assert (by_app["user"]["type"], by_app["performed_via_github_app"]["id"]) == ("Bot", ours.created.app_id)
    assert (by_person["user"]["login"], by_person["performed_via_github_app"]) == ("developer", None)
    assert [one["id"] for one in ours.forge.api.get("/issues/1/comments").json()] == [by_app["id"], by_person["id"]]
    assert ours.forge.api.post("/issues/1/comments", json={"body": "x" * 65_537}).status_code == 422
    assert ours.forge.api.post("/issues/9/comments", json={"body": "x"}).status_code == 404
    assert ours.forge.api.delete(f"/issues/comments/{by_app['id']}").status_code == 204
    assert ours.forge.api.get(f"/issues/comments/{by_app['id']}").status_code == 404
