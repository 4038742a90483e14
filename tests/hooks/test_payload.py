"""Payloads: what they hint at, and every way in which they can be odd without harm."""

from __future__ import annotations

import copy
import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooks.payload import Hint, Ours, read_form, read_form_hint, read_hint
from tests.hooks.deliveries import REPOSITORY, as_form, sample

SHA = "76ae82c7b1a177c8d03f9e96e0adf2466113728f"
Path = tuple[str | int, ...]


def read(value: object, event: str) -> Hint:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return read_hint(body, event, ours=Ours(name=REPOSITORY))


def test_a_push_hints_at_its_branch() -> None:
    assert read(sample("push"), "push") == Hint(
        state="pending", repository=REPOSITORY, target="ref:refs/heads/main", sha=SHA
    )


def test_a_pull_request_hints_at_its_number() -> None:
    assert read(sample("pull_request"), "pull_request") == Hint(
        state="pending",
        repository=REPOSITORY,
        target="pull:42",
        sha="34c5c7793cb3b279e22454cb6750c80560547b3a",
    )


@pytest.mark.parametrize(
    ("repository", "is_ours"),
    [
        ({"full_name": "acme/store", "id": 1001}, True),
        ({"full_name": "acme/Store", "id": 7}, True),
        ({"full_name": "acme/other", "id": 1001}, True),
        ({"full_name": "acme/other", "id": 7}, False),
        ({"full_name": "acme/other", "id": "1001"}, False),
        ({"full_name": "acme/other"}, False),
    ],
)
def test_t_g13_ours_is_what_the_forge_calls_by_another_name_or_knows_by_its_id(
    repository: dict[str, object], *, is_ours: bool
) -> None:
    body = json.dumps(sample("push") | {"repository": repository}).encode()
    before = read_hint(body, "push", ours=Ours(name=REPOSITORY))
    assert (before.state, before.is_of_another) == ("ignored", True)
    hint = read_hint(body, "push", ours=Ours(name=REPOSITORY, forge_id=1001, renamed_to="acme/store"))
    assert (hint.state == "pending", hint.is_of_another) == (is_ours, not is_ours)


COMMENT = {
    "action": "created",
    "issue": {"number": 42, "pull_request": {"url": "https://api.example.com/pulls/42"}},
    "comment": {"id": 1, "body": "/preview", "author_association": "OWNER"},
    "repository": {"full_name": REPOSITORY},
}


def test_a_comment_at_a_pull_request_hints_that_something_was_said_there_and_at_nothing_more() -> None:
    assert read(COMMENT, "issue_comment") == Hint(state="pending", repository=REPOSITORY, target="comments:42")


QUEUE_REF = f"refs/heads/gh-readonly-queue/main/pr-7-{SHA}"
MERGE_GROUP = {
    "action": "checks_requested",
    "merge_group": {"head_ref": QUEUE_REF, "head_sha": SHA, "base_ref": "refs/heads/main", "base_sha": SHA},
    "repository": {"full_name": REPOSITORY},
}


def test_the_merge_queue_hints_at_its_branch_when_it_asks_and_when_it_is_done() -> None:
    asked = Hint(state="pending", repository=REPOSITORY, target=f"ref:{QUEUE_REF}", sha=SHA)
    assert read(MERGE_GROUP, "merge_group") == asked
    assert read({**MERGE_GROUP, "action": "destroyed", "reason": "merged"}, "merge_group") == asked
    gone = read(sample("push") | {"ref": QUEUE_REF, "after": "0" * 40, "deleted": True}, "push")
    assert gone == replace(asked, sha=None)


@pytest.mark.parametrize(
    ("group", "state"),
    [
        ({"head_ref": "refs/heads/main", "head_sha": SHA}, "ignored"),
        ({"head_ref": QUEUE_REF}, "malformed"),
        ({"head_ref": QUEUE_REF + "\n", "head_sha": SHA}, "malformed"),
        ({}, "malformed"),
        (None, "malformed"),
    ],
)
def test_an_odd_merge_group_hints_at_nothing(group: object, state: str) -> None:
    assert read({**MERGE_GROUP, "merge_group": group}, "merge_group").state == state


RERUN = {
    "action": "rerequested",
    "check_run": {"name": "oroboros/production", "head_sha": SHA, "check_suite": {"head_sha": SHA}},
    "repository": {"full_name": REPOSITORY},
    "sender": {"login": "ann"},
}
RERUN_OF_ALL = {**{key: value for key, value in RERUN.items() if key != "check_run"}, "check_suite": {"head_sha": SHA}}


def test_a_rerun_hints_at_its_commit_with_the_context_and_who_clicked() -> None:
    hint = Hint(state="pending", repository=REPOSITORY, target="rerun:oroboros/production:ann", sha=SHA)
    assert read(RERUN, "check_run") == hint
    assert read(RERUN_OF_ALL, "check_suite").target == "rerun:*:ann"
    assert read(RERUN | {"sender": {"login": "ann_acme"}}, "check_run").target == "rerun:oroboros/production:ann_acme"


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"action": "created"}, "ignored"),
        ({"action": "requested_action"}, "ignored"),
        ({"repository": {"full_name": "acme/other"}}, "ignored"),
        ({"check_run": {"name": "ci/tests", "head_sha": SHA}}, "ignored"),
        ({"check_run": {"name": None, "head_sha": SHA}}, "ignored"),
        ({"check_run": {"name": "oroboros/preview", "head_sha": SHA[:39]}}, "malformed"),
        ({"check_run": []}, "malformed"),
        ({"sender": None}, "malformed"),
        ({"sender": {"login": "a:b"}}, "malformed"),
        ({"sender": {"login": "*"}}, "malformed"),
        ({"sender": {"login": "x" * 101}}, "malformed"),
    ],
)
def test_other_actions_checks_and_odd_reruns_order_nothing(changes: dict[str, object], state: str) -> None:
    assert read({**RERUN, **changes}, "check_run").state == state


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"action": "edited"}, "ignored"),
        ({"action": "deleted"}, "ignored"),
        ({"issue": {"number": 42}}, "ignored"),
        ({"issue": {"number": 42, "pull_request": None}}, "ignored"),
        ({"issue": {"number": "42", "pull_request": {}}}, "malformed"),
        ({"issue": None}, "malformed"),
        ({"comment": None}, "pending"),
        ({"repository": {"full_name": "acme/other"}}, "ignored"),
    ],
)
def test_comments_that_are_edited_odd_or_elsewhere_ask_for_nothing(changes: dict[str, object], state: str) -> None:
    assert read({**COMMENT, **changes}, "issue_comment").state == state


@pytest.mark.parametrize(
    ("event", "changes", "state"),
    [
        ("push", {"ref": "refs/tags/main"}, "ignored"),
        ("push", {"ref": "refs/notes/commits"}, "ignored"),
        ("push", {"after": "0" * 40, "deleted": True}, "ignored"),
        ("push", {"repository": {"full_name": "acme/other"}}, "ignored"),
        ("push", {"repository": {"full_name": "ACME/Shop"}}, "pending"),
        ("push", {"repository": None}, "malformed"),
        ("push", {"repository": {"full_name": 7}}, "malformed"),
        ("push", {"ref": "refs/heads/" + "x" * 240}, "pending"),
        ("push", {"ref": "refs/heads/-x"}, "pending"),
        ("push", {"ref": "refs/heads/a;b$(id)`c`"}, "pending"),
        ("push", {"ref": "refs/heads/über-🐍"}, "pending"),
        ("push", {"ref": "refs/heads/a\nb"}, "malformed"),
        ("push", {"ref": "refs/heads/\x1b[2J"}, "malformed"),
        ("push", {"ref": "refs/heads/" + "x" * 5000}, "malformed"),
        ("push", {"after": SHA.upper()}, "malformed"),
        ("push", {"after": SHA[:39]}, "malformed"),
        ("push", {"head_commit": None, "sender": None, "pusher": None, "commits": []}, "pending"),
        ("push", {"something_new": {"nested": [1, 2.5, True]}}, "pending"),
        ("pull_request", {"number": "42"}, "malformed"),
        ("pull_request", {"number": True}, "malformed"),
        ("pull_request", {"number": 0}, "malformed"),
        ("pull_request", {"number": -1}, "malformed"),
        ("pull_request", {"number": 2**31}, "malformed"),
        ("pull_request", {"number": 42.0}, "malformed"),
        ("pull_request", {"sender": None}, "pending"),
        ("ping", {}, "ignored"),
        ("issues", {}, "ignored"),
    ],
)
def test_only_what_is_needed_is_read(event: str, changes: dict[str, object], state: str) -> None:
    base = sample(event) if event in ("push", "pull_request") else sample("push")

    assert read(base | changes, event).state == state


def test_t_g18_a_pull_request_whose_head_repository_is_gone_is_still_a_hint() -> None:
    value = sample("pull_request")
    pull = value["pull_request"]
    assert isinstance(pull, dict)
    pull["head"] = pull["head"] | {"repo": None, "user": None}

    assert read(value, "pull_request").state == "pending"


@pytest.mark.parametrize("date", [1793607247, "2026-11-02T08:02:08Z", None, 1793607247.5, {}])
def test_dates_may_be_anything(date: object) -> None:
    value = sample("push")
    repository = value["repository"]
    assert isinstance(repository, dict)
    repository["pushed_at"] = repository["created_at"] = date

    assert read(value, "push").state == "pending"


@pytest.mark.parametrize(("body", "event"), [("push", "pull_request"), ("pull_request", "push")])
def test_t_g4_a_body_under_the_name_of_another_event_is_malformed(body: str, event: str) -> None:
    assert read(sample(body), event).state == "malformed"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b"0",
        b'"push"',
        b"{",
        b"{}{}",
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b'{"ref": "\xff"}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": -1e999}',
        b'{"a": ' + b"7" * 5_000 + b"}",
        b'{"a": "\x00"}',
        b'{"a": "\\u0000"}',
        b'{"\\u0000": 1}',
        b'{"a": "\\ud800"}',
        b'{"a": ["\\udfff x"]}',
        b'{"\\uDBFF": 1}',
        b'{"a": 1, "a": 1}',
        b'{"a": {"b": [{"c": 1, "c": 2}]}}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    ],
    ids=lambda body: repr(body[:24]),
)
@pytest.mark.parametrize("event", ["push", "ping"])
def test_what_is_not_strict_json_is_malformed(body: bytes, event: str) -> None:
    assert read(body, event).state == "malformed"


def test_a_forms_payload_is_read_like_json_wherever_its_escapes_lie() -> None:
    for padding in (0, 1, 2, 3, 70_000, 200_001):
        body = json.dumps(sample("push") | {"padding": "é+&=% " * padding}, ensure_ascii=False).encode()
        for form in (as_form(body), b"x=1&" + as_form(body), as_form(body) + b"&a&b=", b"&" + as_form(body)):
            assert read_form(form) == body
            assert read_form_hint(form, "push", ours=Ours(name=REPOSITORY)).target == "ref:refs/heads/main"
    assert read_form(b"pay%6Coad=%7b%7D+") == b"{} "


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"payload",
        b"Payload={}",
        b"payload={}&payload={}",
        b"payload={}&pay%6coad={}",
        b"payload=%7",
        b"payload=%zz{}",
        b"payload={}&x=%",
        b"payload={}" + b"&x=1" * 16,
        b"payload={}&" + b"x" * 101,
        b"payload=[]",
        b"payload=%ff",
        b"payload=",
    ],
)
def test_an_odd_form_is_malformed(body: bytes) -> None:
    assert read_form_hint(body, "ping", ours=Ours(name=REPOSITORY)).state == "malformed"


def test_a_form_of_escapes_alone_takes_no_more_memory_than_its_field() -> None:
    body = b"payload=" + b"%20" * 3_000_000
    tracemalloc.start()
    try:
        assert len(read_form(body)) == 3_000_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


def test_escapes_that_only_look_like_nul_or_surrogates_pass() -> None:
    value = sample("push") | {"a": "\\u0000 and \\ud800 in words", "b": "😀"}

    assert read(json.dumps(value, ensure_ascii=True).encode(), "push").state == "pending"


def paths(value: object, at: Path = ()) -> Iterator[Path]:
    if at:
        yield at
    if isinstance(value, dict):
        for key in value:
            yield from paths(value[key], (*at, key))
    elif isinstance(value, list):
        for place in range(len(value)):
            yield from paths(value[place], (*at, place))


RETYPED: tuple[object, ...] = (None, True, -1, 2**63, 0.5, "", "x", "é" * 300, [], {}, [None], {"full_name": "a/b"})


def mutations(event: str) -> Iterator[bytes]:
    """Every path of a payload deleted, nulled and retyped, one at a time."""
    whole = sample(event)
    for path in paths(whole):
        for change in ("delete", *RETYPED):
            value = copy.deepcopy(whole)
            parent: object = value
            for key in path[:-1]:
                parent = parent[key]
            assert isinstance(parent, (dict, list))
            if change == "delete":
                del parent[path[-1]]
            else:
                parent[path[-1]] = change
            yield json.dumps(value).encode()


@pytest.mark.parametrize("event", ["push", "pull_request"])
def test_every_mutation_of_a_payload_gives_a_hint_that_can_be_stored(event: str) -> None:
    states = set()
    for body in mutations(event):
        hint = read_hint(body, event, ours=Ours(name=REPOSITORY))
        states.add(hint.state)
        assert (hint.state == "pending") == (hint.reason == "")
        for text in (hint.repository, hint.target, hint.sha, hint.reason):
            assert text is None or "\0" not in text
    assert states == {"pending", "ignored", "malformed"}


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_bytes_raise(body: bytes) -> None:
    read_hint(body, "push", ours=Ours(name=REPOSITORY))
    read_form_hint(b"payload=" + body, "push", ours=Ours(name=REPOSITORY))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "ref": _JSON,
            "after": _JSON | st.just(SHA),
            "number": _JSON,
            "pull_request": _JSON,
            "repository": _JSON | st.just({"full_name": REPOSITORY}),
        },
    ),
    st.sampled_from(["push", "pull_request"]),
)
def test_no_json_raises(value: dict[str, object], event: str) -> None:
    hint = read_hint(json.dumps(value).encode("utf-8", "surrogatepass"), event, ours=Ours(name=REPOSITORY))

    assert hint.state in ("pending", "ignored", "malformed")
