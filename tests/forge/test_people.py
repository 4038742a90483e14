"""Does our client understand what people say and may, and is it told as GitHub publishes it?"""

from __future__ import annotations

from datetime import UTC, datetime

from tests.forge.conftest import Receiver
from tests.forge_fixture import ForgeUnderTest
from tests.published import problems

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def two_pulls(forge: ForgeUnderTest) -> str:
    clone = forge.clone()
    clone.commit("Begin")
    clone.push()
    sha = clone.commit("Change", page="one")
    clone.push("topic")
    forge.open_pull("topic")
    forge.knob("fork_pull", title="From a fork", head_sha_branch="topic")
    return sha


def test_what_people_say_and_may_is_read_and_answered_once(forge: ForgeUnderTest, receiver: Receiver) -> None:
    sha = two_pulls(forge)
    said = forge.knob("comment", pull=2, author="dependabot[bot]", body="/preview")
    forge.knob("comment", pull=2, author="stranger", body="/preview\nplease")
    client = forge.client
    page = client.said(since=LONG_AGO, page=1)
    levels = [client.permission(login) for login in ("developer", "stranger", "nobody")]
    pull, missing = client.pull(2), client.pull(99)
    for _ in range(2):
        client.react(said["id"], "+1")
    assert [(one.author, one.is_person, one.pull_request) for one in page.comments] == [
        ("dependabot[bot]", False, 2),
        ("stranger", True, 2),
    ]
    assert page.told_at is not None
    assert levels == ["admin", "read", "none"]
    assert pull is not None
    assert (pull[0].head_sha, pull[0].same_repository, pull[0].base_branch, pull[1]) == (sha, False, "main", True)
    assert missing is None
    reactions = forge.api.get(f"/issues/comments/{said['id']}/reactions")
    assert [one["content"] for one in reactions.json()] == ["+1"]


def test_a_role_is_read_as_what_it_allows(forge: ForgeUnderTest) -> None:
    for level in ("triage", "write", "maintain", "admin", "none"):
        forge.knob("permission", user="carol", permission=level)
        assert forge.client.permission("carol") == level


def test_what_is_made_of_a_pull_request_is_listed_and_told(forge: ForgeUnderTest, receiver: Receiver) -> None:
    two_pulls(forge)
    forge.api.post("/issues/1/comments", json={"body": "/preview"})
    forge.knob("pull", number=1, labels=["no-preview", "Web"], draft=True, author="dependabot[bot]")
    received = receiver.await_count(8)
    found = next(pull for pull in forge.client.open_pulls() if pull.number == 1)
    assert (found.labels, found.is_draft, found.author, found.author_is_bot, found.base_branch) == (
        ("Web", "no-preview"),
        True,
        "dependabot[bot]",
        True,
        "main",
    )
    (event,) = [one for one in received if one.event == "issue_comment"]
    assert problems({"$ref": "#/definitions/issue_comment$created"}, event.payload) == []
    assert [one.payload["action"] for one in received[-3:]] == ["labeled", "converted_to_draft", "edited"]


def test_a_push_to_a_fork_moves_its_pull_request(forge: ForgeUnderTest) -> None:
    two_pulls(forge)
    clone = forge.clone("again")
    clone.git("checkout", "-q", "topic")
    pushed = clone.commit("More", page="two")
    clone.push("elsewhere")
    forge.knob("fork_push", number=2, branch="elsewhere")
    assert {pull.number: pull.head_sha for pull in forge.client.open_pulls()}[2] == pushed


def test_comments_are_told_from_the_oldest_change_on(forge: ForgeUnderTest) -> None:
    two_pulls(forge)
    ids = [forge.knob("comment", pull=number, author="ann", body=f"says {number}")["id"] for number in (1, 2, 1)]
    assert [one.id for one in forge.client.said(since=LONG_AGO, page=1).comments] == ids
    assert forge.client.said(since=datetime(2100, 1, 1, tzinfo=UTC), page=1).comments == ()
