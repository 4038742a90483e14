"""Do we read the forge's answers as what they mean, whatever they hold?"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controller.decisions.github import repository as protocol
from controller.decisions.github.wire import Reply, api_base, git_url, with_token
from controller.model.errors import Stalled, Unavailable
from controller.model.names import Sha
from controller.model.reports import WantedStatus
from controller.model.states import StatusState

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
SHA = Sha("a" * 40)


def reply(status: int, content: object = None, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status=status, headers=named, body=json.dumps(content).encode())


def pull(**changed: Any) -> dict[str, Any]:
    return {
        "number": 7,
        "title": "Title",
        "user": {"login": "ada"},
        "created_at": "2026-05-04T10:00:00Z",
        "head": {"sha": SHA, "ref": "topic", "repo": {"id": 1}},
        "base": {"sha": SHA, "ref": "main", "repo": {"id": 1}},
        **changed,
    }


def report(**changed: Any) -> WantedStatus:
    fields: dict[str, Any] = {
        "sha": SHA,
        "context": "oroboros/production",
        "state": StatusState.PENDING,
        "description": "begun",
        "target_url": None,
        "generation": 1,
    }
    return WantedStatus(**{**fields, **changed})


def read_pulls(answer: Reply, *, page: int = 1) -> protocol.PullsPage:
    return protocol.read_pulls_page(answer, page=page, now=NOW)


@pytest.mark.parametrize(
    ("forge", "base"),
    [
        ("https://github.com", "https://api.github.com"),
        ("https://github.com/", "https://api.github.com"),
        ("https://octocorp.ghe.com", "https://api.octocorp.ghe.com"),
        ("https://octocorp.ghe.com/", "https://api.octocorp.ghe.com"),
        ("https://notghe.com", "https://notghe.com/api/v3"),
        ("https://ghe.com.example.org", "https://ghe.com.example.org/api/v3"),
        ("https://git.example.org", "https://git.example.org/api/v3"),
        ("http://127.0.0.1:8070", "http://127.0.0.1:8070/api/v3"),
    ],
)
def test_api_has_its_own_host_in_githubs_cloud_only(forge: str, base: str) -> None:
    assert api_base(forge) == base
    assert git_url(forge, "acme/shop") == f"{forge.rstrip('/')}/acme/shop.git"


def test_requests_say_who_we_are_and_hide_the_token_in_their_repr() -> None:
    request = with_token(protocol.get_repository("acme/shop"), "canary")
    assert dict(request.headers) == {
        "Accept": "application/vnd.github+json",
        "X-GitHub-Api-Version": "2022-11-28",
        "User-Agent": "oroboros",
        "Authorization": "Bearer canary",
    }
    assert "canary" not in repr(request)
    assert "Authorization" not in with_token(protocol.get_repository("acme/shop"), None).headers


@pytest.mark.parametrize("status", [403, 429])
@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"retry_after": "17"}, 17),
        ({"retry_after": "0"}, 0),
        ({"retry_after": "17", "x_ratelimit_remaining": "0", "x_ratelimit_reset": "99"}, 17),
        ({"x_ratelimit_remaining": "0", "x_ratelimit_reset": str(int(NOW.timestamp()) + 431)}, 431),
        ({"x_ratelimit_remaining": "0", "x_ratelimit_reset": str(int(NOW.timestamp()) - 5)}, 0),
        ({"x_ratelimit_remaining": "0"}, 60),
        ({"retry_after": "soon", "x_ratelimit_remaining": "0", "x_ratelimit_reset": "9" * 30}, 60),
        ({}, 60),
    ],
)
def test_limit_is_obeyed_to_the_second(status: int, headers: dict[str, str], wait_s: int) -> None:
    answer = reply(status, {"message": "You have exceeded a secondary rate limit."}, **headers)
    with pytest.raises(Unavailable) as caught:
        protocol.read_created_status(answer, now=NOW)
    assert (caught.value.reason, caught.value.retry_at) == ("ForgeLimited", NOW + timedelta(seconds=wait_s))


def test_403_without_a_limit_names_the_permission() -> None:
    answer = reply(
        403,
        {"message": "Resource not accessible by integration"},
        x_ratelimit_remaining="4999",
        x_accepted_github_permissions="statuses=write",
    )
    with pytest.raises(Unavailable, match=r"commit statuses: write \(statuses=write\)") as caught:
        protocol.read_created_status(answer, now=NOW)
    assert (caught.value.reason, caught.value.retry_at) == ("ForgeRefused", None)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, "ForgeRefused"),
        (404, "ForgeNotFound"),
        (500, "ForgeDown"),
        (301, "ForgeMoved"),
        (418, "ForgeReplyInvalid"),
    ],
)
def test_other_answers_are_unavailable(status: int, reason: str) -> None:
    with pytest.raises(Unavailable) as caught:
        read_pulls(reply(status, {"message": "m"}))
    assert (caught.value.reason, caught.value.retry_at) == (reason, None)


def test_503_with_a_time_is_tried_again_then() -> None:
    with pytest.raises(Unavailable) as caught:
        read_pulls(reply(503, None, retry_after="30"))
    assert caught.value.retry_at == NOW + timedelta(seconds=30)


def test_t_g14_422_on_a_status_is_for_good_and_says_why_in_one_line() -> None:
    answer = reply(422, {"message": "Validation\nFailed", "errors": [{"message": "too \x1b[31mlong"}, "more"]})
    with pytest.raises(Stalled) as caught:
        protocol.read_created_status(answer, now=NOW)
    assert caught.value.reason == "StatusRefused"
    assert "Validation Failed; too \ufffd[31mlong; more" in caught.value.message


def test_t_g18_pull_request_of_the_same_repository_is_told_by_ids() -> None:
    heads: list[dict[str, Any] | None] = [{"id": 1, "full_name": "x/y"}, {"id": 2, "full_name": "acme/shop"}, None]
    listed = [pull(number=k, head={"sha": SHA, "ref": "t", "repo": head}) for k, head in enumerate(heads, start=1)]
    found = read_pulls(reply(200, listed)).pulls
    assert [one.same_repository for one in found] == [True, False, False]
    assert found[0].opened_at == datetime(2026, 5, 4, 10, 0, tzinfo=UTC)


def test_deleted_author_and_unstorable_text_do_no_harm() -> None:
    (found,) = read_pulls(reply(200, [pull(user=None, title="a\0b\ud800c")])).pulls
    assert (found.author, found.title) == ("", "a\ufffdb?c")


def test_only_the_number_of_the_next_page_is_believed() -> None:
    link = '<https://evil.example/steal?per_page=1&page=2>; rel="next", <https://x/?page=9>; rel="last"'
    assert read_pulls(reply(200, [pull()], link=link)).next_page == 2
    assert read_pulls(reply(200, [pull()], link='<https://x/?page=1>; rel="prev"'), page=2).next_page is None


@pytest.mark.parametrize("page", ["1", "3", "2&page=2", "", "x"])
def test_list_that_does_not_go_on_in_order_is_nothing(page: str) -> None:
    with pytest.raises(Unavailable, match="ForgeReplyInvalid"):
        read_pulls(reply(200, [pull()], link=f'<https://x/?page={page}>; rel="next"'))


def test_full_page_without_a_link_is_not_believed_to_be_the_last() -> None:
    full = [pull(number=number) for number in range(1, protocol.PAGE_SIZE + 1)]
    assert read_pulls(reply(200, full)).next_page == 2
    assert read_pulls(reply(200, full[1:])).next_page is None
    with pytest.raises(Unavailable, match="more than"):
        read_pulls(reply(200, full), page=protocol.PAGES_MAX)


def test_endless_list_ends() -> None:
    last = protocol.PAGES_MAX
    with pytest.raises(Unavailable, match="more than"):
        read_pulls(reply(200, [], link=f'<https://x/?page={last + 1}>; rel="next"'), page=last)


@pytest.mark.parametrize(
    "content",
    [
        None,
        {},
        [1],
        [pull(number=0)],
        [pull(number=True)],
        [pull(number="7")],
        [pull(number=1 << 70)],
        [pull(title=None)],
        [pull(head=None)],
        [pull(head={"sha": "A" * 40, "ref": "t", "repo": None})],
        [pull(head={"sha": SHA, "ref": "t", "repo": {"id": "1"}})],
        [pull(base={"repo": None})],
        [pull(created_at="yesterday")],
        [pull(user="ada")],
    ],
)
def test_malformed_list_is_nothing(content: object) -> None:
    with pytest.raises(Unavailable, match="ForgeReplyInvalid"):
        read_pulls(reply(200, content))


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"[" * 100_000, b"[" + b"9" * 10_000 + b"]"])
def test_body_that_is_not_json_is_nothing(body: bytes) -> None:
    with pytest.raises(Unavailable, match="ForgeReplyInvalid"):
        read_pulls(Reply(status=200, headers={}, body=body))


def test_status_request_holds_what_is_wanted() -> None:
    request = protocol.create_status("acme/shop", report(target_url="http://x"))
    assert (request.method, request.path) == ("POST", f"/repos/acme/shop/statuses/{SHA}")
    assert json.loads(request.body) == {
        "state": "pending",
        "context": "oroboros/production",
        "description": "begun",
        "target_url": "http://x",
    }
    assert "target_url" not in json.loads(protocol.create_status("acme/shop", report()).body)
