"""Do client and development forge speak as GitHub's published schemas say? (tests/schemas/README.md)

Every exchange of every test is held against them (tests/published.py). Here is shown that this finds what is wrong, and
each address is asked at least once.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from jsonschema import Draft202012Validator

from controller.decisions.github import app as about_app
from controller.decisions.github.checks import Annotation, CheckRun
from controller.decisions.github.comments import MARKER, Author
from controller.decisions.github.identity import PERMISSIONS
from controller.decisions.github.wire import USER_AGENT, ask, tell, with_token
from controller.effects.github_http import Client, Forge
from controller.effects.github_identity import AppIdentity
from controller.model.names import parse_sha
from controller.model.reports import WantedDeployment, WantedStatus
from controller.model.states import CheckState, DeploymentState, StatusState
from tests.forge.conftest import Receiver
from tests.forge.our_app import set_up
from tests.forge_fixture import REPOSITORY, ForgeUnderTest
from tests.published import REST, WEBHOOKS, Exchange, differences, problems

R = f"/repos/{REPOSITORY}"
LIMITS = {f"x-ratelimit-{name}": "1" for name in ("limit", "remaining", "used", "reset")}
ERROR = {"message": "Not Found", "documentation_url": "https://docs.github.com/rest"}


def test_schemas_of_the_excerpt_are_schemas_and_refuse_something() -> None:
    Draft202012Validator.check_schema({"$defs": REST["components"]["schemas"]})
    Draft202012Validator.check_schema({"$defs": WEBHOOKS["definitions"]})
    assert problems({"$ref": "#/components/schemas/pull-request"}, {})
    assert problems({"$ref": "#/definitions/push$event"}, {"ref": 1})


def exchange(method: str, path: str, *, status: int, answer: object, sent: object = None, by: str = "") -> Exchange:
    return Exchange(
        method=method,
        path=path,
        user_agent=by,
        sent=b"" if sent is None else json.dumps(sent).encode(),
        status=status,
        headers={**LIMITS, "content-type": "application/json"},
        received=b"" if answer is None else json.dumps(answer).encode(),
    )


PERMISSION = f"{R}/collaborators/ann/permission"
FOUND = {"permission": "write", "role_name": "write", "user": None}
STATUS = f"{R}/statuses/{'a' * 40}"


@pytest.mark.parametrize(
    "fine",
    [
        exchange("GET", PERMISSION, status=200, answer=FOUND, by=USER_AGENT),
        exchange("GET", PERMISSION, status=404, answer=ERROR, by=USER_AGENT),
        exchange("GET", PERMISSION, status=304, answer=None),
        exchange("GET", "/repositories/1/pulls?state=open&page=2", status=200, answer=[], by=USER_AGENT),
        exchange("POST", STATUS, sent={"state": "green"}, status=422, answer=ERROR),
        exchange("GET", "/no/such/address", status=404, answer=ERROR),
    ],
    ids=lambda one: f"{one.method} {one.status}",
)
def test_what_is_as_published_is_not_told(fine: Exchange) -> None:
    assert differences(fine) == []


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (exchange("GET", "/no/such/address", status=404, answer=ERROR, by=USER_AGENT), "no operation"),
        (exchange("GET", "/no/such/address", status=200, answer={}), "no operation"),
        (exchange("GET", PERMISSION, status=200, answer={"permission": "write"}), "'user' is a required property"),
        (exchange("GET", PERMISSION, status=201, answer=FOUND), "the status is none of"),
        (exchange("GET", PERMISSION, status=403, answer={"documentation_url": "x"}), "'message' is a required"),
        (exchange("GET", PERMISSION, status=304, answer=FOUND), "a body where there is none"),
        (exchange("GET", PERMISSION, status=301, answer=ERROR), "leads nowhere"),
        (exchange("GET", PERMISSION, status=200, answer=None), "not JSON"),
        (replace(exchange("GET", PERMISSION, status=200, answer=FOUND), headers=LIMITS), "content type"),
        (
            replace(
                exchange("GET", PERMISSION, status=404, answer=ERROR), headers={"content-type": "application/json"}
            ),
            "no x-ratelimit-reset",
        ),
        (exchange("GET", f"{R}/pulls?stat=open", status=200, answer=[]), "no parameter is called 'stat'"),
        (exchange("GET", f"{R}/pulls?page=two", status=200, answer=[]), "?page=two"),
        (exchange("POST", STATUS, sent={"state": "green"}, status=422, answer=ERROR, by=USER_AGENT), "'green'"),
        (
            exchange("POST", STATUS, sent={"state": "error", "colour": 1}, status=422, answer=ERROR, by=USER_AGENT),
            "no key is called 'colour'",
        ),
        (exchange("POST", STATUS, status=422, answer=ERROR, by=USER_AGENT), "a body is required"),
        (exchange("GET", f"{R}/pulls", sent={"a": 1}, status=200, answer=[], by=USER_AGENT), "there is no body"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_what_is_not_as_published_is_told(wrong: Exchange, told: str) -> None:
    assert [one for one in differences(wrong) if told in one]


def test_what_our_client_asks_with_a_token_is_answered(forge: ForgeUnderTest, receiver: Receiver) -> None:
    clone = forge.clone()
    sha = parse_sha(clone.commit("Begin"))
    clone.push()
    clone.commit("Change", page="one")
    clone.push("topic")
    forge.open_pull("topic")
    forge.knob("fork_pull", title="From a fork", head_sha_branch="topic")
    client = forge.client
    assert client.repository().full_name == REPOSITORY
    assert [pull.number for pull in client.open_pulls()] == [1, 2]
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
    assert [one.context for one in client.statuses(sha)] == ["oroboros/preview"]
    assert client.user_id() == 2


def test_what_we_ask_as_our_app_is_answered(forge: ForgeUnderTest, receiver: Receiver, tmp_path: Path) -> None:
    created = set_up(forge, receiver.url, tmp_path)
    forge.knob("install")
    clone = forge.clone()
    clone.commit("Begin")
    clone.push()
    receiver.await_count(1)
    with Client(forge.url, write_pause_s=0) as client:
        app = AppIdentity(
            app_id=created.app_id,
            key_file=created.key_file,
            repository=REPOSITORY,
            ask=client.ask,
            clock=lambda: datetime.now(UTC),
        )
        token = app.token()
        hook = {"url": receiver.url, "content_type": "json", "insecure_ssl": "0"}
        replies = [
            app.ask(about_app.get_app()),
            app.ask(about_app.get_hook_config()),
            app.ask(tell("PATCH", "/app/hook/config", hook)),
            app.ask(about_app.list_deliveries(cursor=None)),
        ]
        delivery = json.loads(replies[-1].body)[-1]["id"]
        replies += [app.ask(ask(f"/app/hook/deliveries/{delivery}")), app.ask(about_app.redeliver(delivery))]
        for path in ("/installation/repositories", "/rate_limit", f"{R}/branches/main"):
            replies.append(client.ask(with_token(ask(path), token)))
    assert [reply.status for reply in replies] == [200] * 5 + [202] + [200] * 3
    assert int(replies[-1].headers["x-ratelimit-remaining"]) > 0


def test_what_we_say_of_runs_is_found_again(forge: ForgeUnderTest, receiver: Receiver, tmp_path: Path) -> None:
    created = set_up(forge, receiver.url, tmp_path)
    forge.knob("install")
    clone = forge.clone()
    sha = parse_sha(clone.commit("Begin"))
    clone.push()
    clone.commit("Change", page="one")
    clone.push("topic")
    forge.open_pull("topic")
    client = Client(forge.url, write_pause_s=0)
    app = AppIdentity(
        app_id=created.app_id,
        key_file=created.key_file,
        repository=REPOSITORY,
        ask=client.ask,
        clock=lambda: datetime.now(UTC),
    )
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


def test_what_is_handed_over_for_a_code_is_ours_to_ask_for(forge: ForgeUnderTest, receiver: Receiver) -> None:
    manifest = about_app.manifest(
        name="x", url="http://x", webhook_url=receiver.url, redirect_url="http://127.0.0.1:1/"
    )
    register = about_app.registration_url(forge.url, organization=None, state="s")
    sent = httpx.post(register, data={"manifest": json.dumps(manifest)}, trust_env=False).headers["Location"]
    with Client(forge.url) as client:
        reply = client.ask(about_app.convert_manifest(about_app.read_callback(sent, state="s") or ""))
    assert reply.status == 201
    permissions = REST["components"]["schemas"]["app-permissions"]
    assert problems(permissions, manifest["default_permissions"]) == []
    assert set(PERMISSIONS) <= set(permissions["properties"])


@pytest.mark.parametrize("status", [401, 403, 404, 409, 422, 429, 500, 502])
def test_errors_on_demand_have_the_published_shape_and_pass(forge: ForgeUnderTest, status: int) -> None:
    forge.knob("fail", status=status, count=2, path="/repos")
    for _ in range(2):
        answer = forge.api.get("/pulls")
        assert answer.status_code == status
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


def test_what_authors_ask_is_answered(forge: ForgeUnderTest, receiver: Receiver) -> None:
    clone = forge.clone()
    sha = clone.commit("Begin")
    clone.push()
    clone.commit("Change", page="one")
    clone.push("topic")
    api = forge.api
    answers = [
        api.post("/pulls", json={"title": "T", "head": "topic", "base": "main"}),
        api.get("/pulls/1"),
        api.patch("/pulls/1", json={"title": "New"}),
        api.get("/branches"),
        api.get("/git/ref/heads/topic"),
        api.get("/commits/topic"),
        api.post(f"/statuses/{sha}", json={"state": "pending"}),
        api.get("/commits/main/status"),
        api.put("/pulls/1/merge", json={}),
        api.get("/hooks/1/deliveries"),
    ]
    first = f"/hooks/1/deliveries/{answers[-1].json()[-1]['id']}"
    answers += [api.get(first), api.post(f"{first}/attempts")]
    assert [answer.status_code for answer in answers] == [201, *[200] * 5, 201, *[200] * 4, 202]
    for path in ("/pulls/99", "/hooks/1/deliveries/99", "/hooks/2/deliveries", "/git/ref/heads/none"):
        assert api.get(path).status_code == 404, path


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
    entry = f"refs/heads/gh-readonly-queue/main/pr-1-{'a' * 40}"
    clone.commit("Merge", page="three")
    clone.git("push", "-q", "origin", f"HEAD:{entry}")
    clone.git("push", "-q", "origin", f":{entry}")
    received = receiver.await_count(18)
    seen = set()
    for one in received:
        payload = one.payload
        name = "push$event" if one.event == "push" else f"{one.event}${payload['action']}"
        seen.add(name)
        assert problems({"$ref": f"#/definitions/{name}"}, payload) == [], one.what
        assert payload["repository"]["full_name"] == REPOSITORY
    assert seen == set(EVENTS)


EVENTS = (
    "push$event",
    *(f"pull_request${action}" for action in ("opened", "closed", "reopened", "synchronize")),
    *(f"merge_group${action}" for action in ("checks_requested", "destroyed")),
)
