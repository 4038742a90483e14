"""Do client and development forge speak as GitHub's published schemas say? (tests/schemas/README.md)"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from jsonschema import Draft202012Validator

from controller.decisions.github import app as about_app
from controller.decisions.github.checks import Annotation, CheckRun
from controller.decisions.github.comments import MARKER, Author
from controller.decisions.github.identity import PERMISSIONS
from controller.decisions.github.wire import ask, tell, with_token
from controller.effects.github_http import Client, Forge
from controller.effects.github_identity import AppIdentity, TokenFile
from controller.model.names import parse_sha
from controller.model.reports import WantedDeployment, WantedStatus
from controller.model.states import CheckState, DeploymentState, StatusState
from tests.forge.conftest import Receiver
from tests.forge.our_app import set_up
from tests.forge_fixture import REPOSITORY, ForgeUnderTest

SCHEMAS = Path(__file__).resolve().parent.parent / "schemas"
REST: dict[str, Any] = json.loads((SCHEMAS / "rest.json").read_text())
WEBHOOKS: dict[str, Any] = json.loads((SCHEMAS / "webhooks.json").read_text())
R = "/repos/{owner}/{repo}"


def problems(schema: object, value: object) -> list[str]:
    whole = {"components": REST["components"], "definitions": WEBHOOKS["definitions"], "allOf": [schema]}
    found = Draft202012Validator(whole).iter_errors(value)
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in found]


def test_schemas_of_the_excerpt_are_schemas_and_refuse_something() -> None:
    Draft202012Validator.check_schema({"$defs": REST["components"]["schemas"]})
    Draft202012Validator.check_schema({"$defs": WEBHOOKS["definitions"]})
    assert problems({"$ref": "#/components/schemas/pull-request"}, {})
    assert problems({"$ref": "#/definitions/push$event"}, {"ref": 1})


def check_reply(operation: str, answer: httpx.Response) -> None:
    replies = REST["operations"][operation]["replies"]
    assert str(answer.status_code) in replies or answer.status_code == 202, f"{operation}: {answer.status_code}"
    if answer.status_code != 202:
        assert problems(replies[str(answer.status_code)], answer.json()) == [], operation


class Recorder(httpx.BaseTransport):
    """Passes requests on, and keeps what was sent and what came back."""

    def __init__(self) -> None:
        self.exchanges: list[tuple[httpx.Request, httpx.Response]] = []
        self._inner = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._inner.handle_request(request)
        content = b"".join(answer.iter_raw())
        answer.close()
        kept = httpx.Response(answer.status_code, headers=answer.headers, content=content)
        self.exchanges.append((request, kept))
        return httpx.Response(answer.status_code, headers=answer.headers, content=content)

    def close(self) -> None:
        self._inner.close()


def test_requests_of_our_client_and_their_replies_are_as_published(forge: ForgeUnderTest, receiver: Receiver) -> None:
    clone = forge.clone()
    sha = parse_sha(clone.commit("Begin"))
    clone.push()
    clone.commit("Change", page="one")
    clone.push("topic")
    forge.open_pull("topic")
    forge.knob("fork_pull", title="From a fork", head_sha_branch="topic")
    recorder = Recorder()
    talking = Client(forge.url, write_pause_s=0, transport=recorder)
    with Forge(talking, REPOSITORY, TokenFile(forge.token_file)) as client:
        client.repository()
        client.open_pulls()
        client.post_status(
            WantedStatus(
                sha=sha,
                context="oroboros/preview",
                state=StatusState.SUCCESS,
                description="live",
                target_url="http://preview1.localhost",
                generation=3,
            )
        )
        client.statuses(sha)
    operations = [f"GET {R}", f"GET {R}/pulls", f"POST {R}/statuses/{{sha}}", f"GET {R}/commits/{{ref}}/statuses"]
    assert len(recorder.exchanges) == len(operations)
    for operation, (request, answer) in zip(operations, recorder.exchanges, strict=True):
        method, _, template = operation.partition(" ")
        parts = urlsplit(str(request.url))
        path = template.format(owner="acme", repo="shop", sha=sha, ref=sha)
        assert (request.method, parts.path) == (method, f"/api/v3{path}")
        published = REST["operations"][operation]
        for name, value in parse_qsl(parts.query):
            typed = int(value) if value.isdigit() else value
            assert problems(published["query"][name], typed) == [], name
        if published["request"] is not None:
            assert problems(published["request"], json.loads(request.content)) == []
            assert set(json.loads(request.content)) <= set(published["request"]["properties"])
        check_reply(operation, answer)


def check_exchange(operation: str, request: httpx.Request, answer: httpx.Response) -> None:
    """Hold what was sent and what came back against what is published of the operation."""
    published = REST["operations"][operation]
    for name, value in parse_qsl(urlsplit(str(request.url)).query):
        typed = int(value) if value.isdigit() and name != "cursor" else value
        assert problems(published["query"][name], typed) == [], f"{operation}: {name}"
    if request.content:
        assert published["request"] is not None, f"{operation} takes no body"
        content = json.loads(request.content)
        assert problems(published["request"], content) == [], operation
        assert set(content) <= set(published["request"]["properties"]), operation
    check_reply(operation, answer)


def test_what_we_say_about_our_app_and_what_the_forge_answers_is_as_published(
    forge: ForgeUnderTest, receiver: Receiver, tmp_path: Path
) -> None:
    created = set_up(forge, receiver.url, tmp_path)
    forge.knob("install")
    clone = forge.clone()
    clone.commit("Begin")
    clone.push()
    receiver.await_count(1)
    recorder = Recorder()
    with Client(forge.url, write_pause_s=0, transport=recorder) as client:
        app = AppIdentity(
            app_id=created.app_id,
            key_file=created.key_file,
            repository=REPOSITORY,
            ask=client.ask,
            clock=lambda: datetime.now(UTC),
        )
        token = app.token()
        for request in (
            about_app.get_app(),
            about_app.get_hook_config(),
            tell("PATCH", "/app/hook/config", {"url": receiver.url, "content_type": "json", "insecure_ssl": "0"}),
            about_app.list_deliveries(cursor=None),
        ):
            app.ask(request)
        page = json.loads(recorder.exchanges[-1][1].content)
        app.ask(ask(f"/app/hook/deliveries/{page[-1]['id']}"))
        app.ask(about_app.redeliver(page[-1]["id"]))
        for path in ("/installation/repositories", "/rate_limit", f"/repos/{REPOSITORY}/branches/main"):
            client.ask(with_token(ask(path), token))
    operations = [
        f"GET {R}/installation",
        "POST /app/installations/{installation_id}/access_tokens",
        "GET /app",
        "GET /app/hook/config",
        "PATCH /app/hook/config",
        "GET /app/hook/deliveries",
        "GET /app/hook/deliveries/{delivery_id}",
        "POST /app/hook/deliveries/{delivery_id}/attempts",
        "GET /installation/repositories",
        "GET /rate_limit",
        f"GET {R}/branches/{{branch}}",
    ]
    assert len(recorder.exchanges) == len(operations)
    for operation, (request, answer) in zip(operations, recorder.exchanges, strict=True):
        assert operation.partition(" ")[0] == request.method
        check_exchange(operation, request, answer)
        assert int(answer.headers["x-ratelimit-remaining"]) > 0


def test_what_we_say_of_runs_and_what_the_forge_answers_is_as_published(
    forge: ForgeUnderTest, receiver: Receiver, tmp_path: Path
) -> None:
    created = set_up(forge, receiver.url, tmp_path)
    forge.knob("install")
    clone = forge.clone()
    sha = parse_sha(clone.commit("Begin"))
    clone.push()
    clone.commit("Change", page="one")
    clone.push("topic")
    forge.open_pull("topic")
    recorder = Recorder()
    client = Client(forge.url, write_pause_s=0, transport=recorder)
    app = AppIdentity(
        app_id=created.app_id,
        key_file=created.key_file,
        repository=REPOSITORY,
        ask=client.ask,
        clock=lambda: datetime.now(UTC),
    )
    app.token()
    recorder.exchanges.clear()
    us = Author(app_id=created.app_id, user_id=None)
    check = CheckRun(
        sha=sha,
        name="oroboros/production",
        external_id="7",
        state=CheckState.IN_PROGRESS,
        title="building",
        summary="A text.",
        details_url="https://shop.example.org",
    )
    problem = Annotation(path="deploy.toml", line=3, message="unknown key")
    deployment = WantedDeployment(
        sha=sha,
        environment="preview-1",
        generation=7,
        state=DeploymentState.SUCCESS,
        description="live",
        environment_url="https://preview1.example.org",
    )
    with Forge(client, REPOSITORY, app) as as_app:
        number = as_app.write_check(check, number=None)
        failed = replace(check, state=CheckState.FAILURE, annotations=(problem,))
        assert as_app.write_check(failed, number=number) == number
        shown = as_app.check(number)
        assert as_app.checks(sha, name=check.name, app_id=created.app_id) == (shown,)
        assert shown is not None
        assert (shown.external_id, shown.state, shown.annotations) == ("7", CheckState.FAILURE, 1)
        assert as_app.find_deployment(deployment) is None
        made = as_app.make_deployment(deployment)
        assert as_app.find_deployment(deployment) == made
        as_app.post_deployment_status(made, deployment)
        assert as_app.deployment_status(made) == ("success", "live")
        assert as_app.find_comment(1, us) is None
        comment = as_app.write_comment(1, f"{MARKER}\nOne.", number=None)
        as_app.write_comment(1, f"{MARKER}\nTwo.", number=comment)
        assert as_app.find_comment(1, us) == as_app.comment(comment)
    operations = [
        f"POST {R}/check-runs",
        f"PATCH {R}/check-runs/{{check_run_id}}",
        f"GET {R}/check-runs/{{check_run_id}}",
        f"GET {R}/commits/{{ref}}/check-runs",
        f"GET {R}/deployments",
        f"POST {R}/deployments",
        f"GET {R}/deployments",
        f"POST {R}/deployments/{{deployment_id}}/statuses",
        f"GET {R}/deployments/{{deployment_id}}/statuses",
        f"GET {R}/issues/{{issue_number}}/comments",
        f"POST {R}/issues/{{issue_number}}/comments",
        f"PATCH {R}/issues/comments/{{comment_id}}",
        f"GET {R}/issues/{{issue_number}}/comments",
        f"GET {R}/issues/comments/{{comment_id}}",
    ]
    assert len(recorder.exchanges) == len(operations)
    for operation, (request, answer) in zip(operations, recorder.exchanges, strict=True):
        assert operation.partition(" ")[0] == request.method
        check_exchange(operation, request, answer)


def test_whose_token_it_is_is_told_as_published(forge: ForgeUnderTest) -> None:
    recorder = Recorder()
    client = Client(forge.url, write_pause_s=0, transport=recorder)
    with Forge(client, REPOSITORY, TokenFile(forge.token_file)) as as_person:
        assert as_person.user_id() == 2
    ((request, answer),) = recorder.exchanges
    check_exchange("GET /user", request, answer)


def test_what_is_handed_over_for_a_code_is_as_published(forge: ForgeUnderTest, receiver: Receiver) -> None:
    manifest = about_app.manifest(
        name="x", url="http://x", webhook_url=receiver.url, redirect_url="http://127.0.0.1:1/"
    )
    register = about_app.registration_url(forge.url, organization=None, state="s")
    sent = httpx.post(register, data={"manifest": json.dumps(manifest)}, trust_env=False).headers["Location"]
    recorder = Recorder()
    with Client(forge.url, transport=recorder) as client:
        client.ask(about_app.convert_manifest(about_app.read_callback(sent, state="s") or ""))
    ((request, answer),) = recorder.exchanges
    check_exchange("POST /app-manifests/{code}/conversions", request, answer)
    permissions = REST["components"]["schemas"]["app-permissions"]
    assert problems(permissions, manifest["default_permissions"]) == []
    assert set(PERMISSIONS) <= set(permissions["properties"])


@pytest.mark.parametrize("status", [401, 403, 404, 409, 422, 429, 500, 502])
def test_errors_on_demand_have_the_published_shape_and_pass(forge: ForgeUnderTest, status: int) -> None:
    forge.knob("fail", status=status, count=2, path="/repos")
    for _ in range(2):
        answer = forge.api.get("/pulls")
        assert answer.status_code == status
        assert problems({"$ref": "#/components/schemas/basic-error"}, answer.json()) == []
        assert answer.headers["x-ratelimit-limit"] == "5000"
    assert forge.api.get("/pulls").status_code == 200


def test_unchanged_answers_are_304_and_free_and_the_hour_has_an_end(forge: ForgeUnderTest) -> None:
    first = forge.api.get("/pulls")
    spent = int(first.headers["x-ratelimit-used"])
    again = forge.api.get("/pulls", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert int(again.headers["x-ratelimit-used"]) == spent
    forge.knob("strict", per_hour=spent + 1)
    assert forge.api.get("/pulls").headers["x-ratelimit-remaining"] == "0"
    refused = forge.api.get("/pulls")
    assert (refused.status_code, refused.headers["x-ratelimit-remaining"]) == (403, "0")
    forge.knob("strict", per_hour=5_000)
    statuses = [forge.api.post(f"/statuses/{'f' * 40}", json={}).status_code for _ in range(81)]
    assert (statuses[0], statuses[79], statuses[80]) == (422, 422, 403)


def test_replies_of_the_forge_are_as_published(forge: ForgeUnderTest, receiver: Receiver) -> None:
    clone = forge.clone()
    sha = clone.commit("Begin")
    clone.push()
    clone.commit("Change", page="one")
    clone.push("topic")
    api = forge.api
    content = {"title": "T", "head": "topic", "base": "main"}
    assert problems(REST["operations"][f"POST {R}/pulls"]["request"], content) == []
    check_reply(f"POST {R}/pulls", api.post("/pulls", json=content))
    check_reply(f"GET {R}/pulls/{{pull_number}}", api.get("/pulls/1"))
    check_reply(f"PATCH {R}/pulls/{{pull_number}}", api.patch("/pulls/1", json={"title": "New"}))
    check_reply(f"GET {R}/branches", api.get("/branches"))
    check_reply(f"GET {R}/git/ref/{{ref}}", api.get("/git/ref/heads/topic"))
    check_reply(f"GET {R}/commits/{{ref}}", api.get("/commits/topic"))
    check_reply(f"POST {R}/statuses/{{sha}}", api.post(f"/statuses/{sha}", json={"state": "pending"}))
    check_reply(f"GET {R}/commits/{{ref}}/status", api.get("/commits/main/status"))
    check_reply(f"PUT {R}/pulls/{{pull_number}}/merge", api.put("/pulls/1/merge", json={}))
    deliveries = api.get("/hooks/1/deliveries")
    check_reply(f"GET {R}/hooks/{{hook_id}}/deliveries", deliveries)
    first = f"/hooks/1/deliveries/{deliveries.json()[-1]['id']}"
    check_reply(f"GET {R}/hooks/{{hook_id}}/deliveries/{{delivery_id}}", api.get(first))
    check_reply(f"POST {R}/hooks/{{hook_id}}/deliveries/{{delivery_id}}/attempts", api.post(f"{first}/attempts"))
    for path in ("/pulls/99", "/hooks/1/deliveries/99", "/hooks/2/deliveries", "/git/ref/heads/none"):
        assert forge.api.get(path).status_code == 404, path


def test_webhook_payloads_are_as_published(forge: ForgeUnderTest, receiver: Receiver) -> None:
    clone = forge.clone()
    clone.commit("Begin")
    clone.push()
    clone.commit("Change", page="one")
    clone.push("topic")
    forge.open_pull("topic")
    clone.commit("Change more", page="two")
    clone.push("topic")
    for state in ("closed", "open"):
        forge.api.patch("/pulls/1", json={"state": state})
    forge.knob("fork_pull", title="From a fork", head_sha_branch="topic")
    forge.knob("fork_pull", title="From nowhere", head_sha_branch="topic", null_repo=True)
    forge.api.put("/pulls/1/merge", json={})
    clone.git("push", "-q", "origin", ":refs/heads/topic")
    received = receiver.await_count(14)
    seen = set()
    for one in received:
        payload = one.payload
        name = "push$event" if one.event == "push" else f"{one.event}${payload['action']}"
        seen.add(name)
        assert problems({"$ref": f"#/definitions/{name}"}, payload) == [], one.what
        assert payload["repository"]["full_name"] == REPOSITORY
    assert seen == set(EVENTS)


EVENTS = ("push$event", *(f"pull_request${action}" for action in ("opened", "closed", "reopened", "synchronize")))
