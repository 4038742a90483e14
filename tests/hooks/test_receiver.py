"""The receiver's order and answers, on a real Postgres and Redis, in this process."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
import redis.asyncio
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Message, Scope

from controller.doors.api_server import build_app
from controller.model.config import read_settings
from controller.model.errors import ConfigInvalid
from controller.model.names import BELL_CHANNEL
from hooks.app import BODY_BYTES_MAX, IN_FLIGHT_BYTES_MAX, SMALL_ROOM_BYTES, SPOOL_BYTES, Receiver
from hooks.inbox import COMMIT_DEADLINE_S, CUT_S
from tests.hooks.conftest import Rows
from tests.hooks.deliveries import (
    OTHER_SECRET,
    PATH,
    SECRET,
    as_form,
    deliver,
    event_names,
    headers,
    push,
    replaced,
    sample,
    sign,
    without,
)
from tests.hooks.test_payload import mutations

#: What the events are that we act on: a body that is none of them is refused.
OURS = frozenset({"push", "pull_request", "issue_comment", "merge_group"})
#: Within so long a delivery is answered, whatever Postgres does: GitHub waits for ten seconds.
ANSWER_PROMISED_S = 5.0


@asynccontextmanager
async def served(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    """Run the application with its lifespan; an error inside it fails the test, since none may occur."""
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://receiver", timeout=20) as client:
            yield client


def run(app: Starlette, story: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with served(app) as client:
            await story(client)

    asyncio.run(whole())


def write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def told(answer: httpx.Response) -> tuple[int, str]:
    """Return the status, and the state or the reason of the error."""
    body = answer.json()
    return answer.status_code, body.get("state") or body["error"]


def test_a_signed_push_is_stored_before_it_is_accepted(app: Starlette, rows: Rows) -> None:
    body, delivery = push(), str(uuid.uuid4())

    async def story(client: httpx.AsyncClient) -> None:
        answer = await deliver(client, body, delivery=delivery)
        assert (answer.status_code, answer.json()) == (202, {"delivery": delivery, "state": "accepted"})
        assert answer.headers["content-type"] == "application/json"

    run(app, story)

    after = json.loads(body)["after"]
    assert rows.query("SELECT id, event, body, state, repository, target, sha, seen_count FROM deliveries") == [
        (delivery, "push", body, "pending", "acme/shop", "ref:refs/heads/main", after, 1)
    ]


def test_t_p14_the_checks_come_in_their_order(app: Starlette, rows: Rows) -> None:
    body = push()
    good = headers(body)
    bad_signature = ("X-Hub-Signature-256", "sha256=" + "0" * 64)
    cases: list[tuple[tuple[int, str], str, list[tuple[str | bytes, str | bytes]]]] = [
        # Each request is wrong in this way and in every way that is checked later.
        ((405, "MethodNotAllowed"), "GET", []),
        ((405, "MethodNotAllowed"), "PUT", []),
        ((415, "ContentTypeUnsupported"), "POST", [("Content-Encoding", "gzip")]),
        (
            (415, "ContentTypeUnsupported"),
            "POST",
            [("Content-Type", "multipart/form-data; boundary=x"), ("Content-Encoding", "gzip")],
        ),
        ((415, "ContentTypeUnsupported"), "POST", [*good, ("Content-Type", "application/x-www-form-urlencoded")]),
        (
            (415, "ContentEncodingUnsupported"),
            "POST",
            [("Content-Type", "application/x-www-form-urlencoded"), ("Content-Encoding", "gzip")],
        ),
        ((401, "SignatureMissing"), "POST", [("Content-Type", "application/x-www-form-urlencoded")]),
        (
            (415, "ContentEncodingUnsupported"),
            "POST",
            [("Content-Type", "application/json"), ("Content-Encoding", "gzip"), ("Content-Length", "26214401")],
        ),
        ((413, "BodyTooLarge"), "POST", [("Content-Type", "application/json"), ("Content-Length", "26214401")]),
        ((413, "BodyTooLarge"), "POST", [("Content-Type", "application/json"), ("Content-Length", "9" * 400)]),
        ((401, "SignatureMissing"), "POST", [("Content-Type", "application/json")]),
        ((401, "SignatureMissing"), "POST", [*without(good, "X-Hub-Signature-256")]),
        ((401, "SignatureDoubled"), "POST", [*good, bad_signature]),
        ((401, "SignatureDoubled"), "POST", [bad_signature, *good]),
        ((401, "SignatureMalformed"), "POST", replaced(good, "X-Hub-Signature-256", "sha256=é")),
        ((401, "SignatureMalformed"), "POST", replaced(good, "X-Hub-Signature-256", sign(body)[:-1])),
        ((401, "SignatureWrong"), "POST", [("Content-Type", "application/json"), bad_signature]),
        ((401, "SignatureWrong"), "POST", replaced(good, "X-Hub-Signature-256", sign(body, OTHER_SECRET))),
        ((400, "EventHeaderInvalid"), "POST", [*without(without(good, "X-GitHub-Event"), "X-GitHub-Delivery")]),
        ((400, "EventHeaderInvalid"), "POST", replaced(good, "X-GitHub-Event", "Push!")),
        ((400, "EventHeaderInvalid"), "POST", replaced(good, "X-GitHub-Event", "_push")),
        ((400, "EventHeaderInvalid"), "POST", replaced(good, "X-GitHub-Event", "x" * 101)),
        ((400, "EventHeaderInvalid"), "POST", replaced(good, "X-GitHub-Event", "")),
        ((400, "EventHeaderInvalid"), "POST", [*good, ("X-GitHub-Event", "push")]),
        ((400, "DeliveryHeaderInvalid"), "POST", [*without(good, "X-GitHub-Delivery")]),
        ((400, "DeliveryHeaderInvalid"), "POST", replaced(good, "X-GitHub-Delivery", "a b")),
        ((400, "DeliveryHeaderInvalid"), "POST", replaced(good, "X-GitHub-Delivery", "x" * 101)),
        ((400, "DeliveryHeaderInvalid"), "POST", replaced(good, "X-GitHub-Delivery", "é")),
    ]

    async def story(client: httpx.AsyncClient) -> None:
        for expected, method, given in cases:
            answer = await client.request(method, PATH, content=body, headers=given)
            assert told(answer) == expected, given
            assert set(answer.json()) == {"error", "message"}
            assert (answer.headers.get("allow") == "POST") == (answer.status_code == 405)

    run(app, story)

    assert rows.count() == 0


def test_content_type_may_carry_parameters(app: Starlette) -> None:
    body = push()

    async def story(client: httpx.AsyncClient) -> None:
        for kind in ("application/json; charset=utf-8", "Application/JSON", "application/json ;x=y"):
            given = replaced(headers(body), "Content-Type", kind)
            assert (await client.post(PATH, content=body, headers=given)).status_code == 202

    run(app, story)


def test_every_event_that_github_documents_is_taken_and_so_are_those_to_come(app: Starlette, rows: Rows) -> None:
    known = event_names()
    names = [*known, "projects_v3_item", "sub-issues", "Copilot.review", "2fa", "x" * 100]

    async def story(client: httpx.AsyncClient) -> None:
        for name in names:
            body = json.dumps({"action": "created", "repository": {"full_name": "acme/shop"}, "of": name}).encode()
            wanted = (400, "PayloadMalformed") if name in OURS else (202, "ignored")
            assert told(await deliver(client, body, event=name)) == wanted, name

    run(app, story)

    assert len(known) > 70
    assert rows.query("SELECT count(*) FROM deliveries WHERE state = 'ignored'") == [(len(names),)]


def test_a_webhook_with_githubs_default_content_type_is_taken_like_one_of_json(app: Starlette, rows: Rows) -> None:
    small, large = as_form(push()), as_form(push(padding=2 * SPOOL_BYTES))
    delivery = str(uuid.uuid4())

    def form(body: bytes, **more: str) -> list[tuple[str | bytes, str | bytes]]:
        return replaced(headers(body, **more), "Content-Type", "application/x-www-form-urlencoded; charset=utf-8")

    async def story(client: httpx.AsyncClient) -> None:
        for body in (small, large):
            answer = await client.post(
                PATH, content=body, headers=form(body, delivery=delivery if body is small else None)
            )
            assert told(answer) == (202, "accepted")
        assert told(await client.post(PATH, content=small, headers=form(small, delivery=delivery))) == (202, "accepted")
        assert told(await client.post(PATH, content=small, headers=form(small))) == (202, "duplicate")
        bad = replaced(form(small), "X-Hub-Signature-256", sign(small + b"&x=1"))
        assert told(await client.post(PATH, content=small, headers=bad)) == (401, "SignatureWrong")
        ping = as_form(b'{"zen": "Keep it logically awesome."}')
        assert told(await client.post(PATH, content=ping, headers=form(ping, event="ping"))) == (202, "ignored")
        odd = small + b"&payload=%7B%7D"
        assert told(await client.post(PATH, content=odd, headers=form(odd))) == (400, "PayloadMalformed")

    run(app, story)

    assert rows.query("SELECT state, target, seen_count FROM deliveries ORDER BY seq") == [
        ("pending", "ref:refs/heads/main", 3),
        ("pending", "ref:refs/heads/main", 1),
        ("ignored", None, 1),
        ("ignored", None, 1),
    ]
    assert rows.query("SELECT body = %s FROM deliveries WHERE id = %s", small, delivery) == [(True,)]


@pytest.mark.parametrize("host", ["", "a b", "[::1", "x:port", "\t", "é", "evil.example/../x"])
def test_a_hostile_host_header_and_path_change_nothing(app: Starlette, host: str) -> None:
    body = push()

    async def story(client: httpx.AsyncClient) -> None:
        given = [*headers(body), (b"Host", host.encode())]
        assert (await client.post(PATH, content=body, headers=given)).status_code == 202
        for path in (PATH + "/", "/webhooks", "/%2e%2e/x", "/" + "a" * 5_000):
            answer = await client.post(path, content=body, headers=given)
            assert answer.status_code == 404
            assert "location" not in answer.headers

    run(app, story)


def test_what_cannot_be_read_is_kept_and_answered_400(app: Starlette, rows: Rows) -> None:
    bodies = [b"", b"[]", b"null", b'{"a": 1e999}', b'{"a": "\\u0000"}', b"\xff\x00", b"[" * 100_000]
    as_push = json.dumps(sample("pull_request")).encode()

    async def story(client: httpx.AsyncClient) -> None:
        for body in (*bodies, as_push):
            assert told(await deliver(client, body)) == (400, "PayloadMalformed")

    run(app, story)

    assert rows.query("SELECT count(*), min(state), max(state) FROM deliveries WHERE reason <> ''") == [
        (len(bodies) + 1, "ignored", "ignored")
    ]


def test_what_is_not_ours_is_kept_as_ignored(app: Starlette, rows: Rows) -> None:
    elsewhere = json.dumps(sample("push") | {"repository": {"full_name": "acme/other"}}).encode()

    async def story(client: httpx.AsyncClient) -> None:
        assert told(await deliver(client, b'{"zen": "Speak like a human."}', event="ping")) == (202, "ignored")
        assert told(await deliver(client, b'{"action": "opened"}', event="issues")) == (202, "ignored")
        assert told(await deliver(client, elsewhere)) == (202, "ignored")
        assert told(await deliver(client, push(ref="refs/tags/main"))) == (202, "ignored")

    run(app, story)

    assert rows.query("SELECT state, count(*) FROM deliveries GROUP BY 1") == [("ignored", 4)]


def test_t_g13_what_comes_under_another_name_is_ours_by_its_id(app: Starlette, rows: Rows) -> None:
    rows.execute("INSERT INTO repositories (full_name, forge_id) VALUES ('acme/shop', 1001), ('acme/other', 7)")

    def under(name: str, forge_id: int) -> bytes:
        return json.dumps(sample("push") | {"repository": {"full_name": name, "id": forge_id}}).encode()

    async def story(client: httpx.AsyncClient) -> None:
        assert told(await deliver(client, under("acme/store", 1001))) == (202, "accepted")
        assert told(await deliver(client, under("acme/other", 7))) == (202, "ignored")

    run(app, story)

    assert rows.query("SELECT repository, state FROM deliveries ORDER BY seq") == [
        ("acme/store", "pending"),
        ("acme/other", "ignored"),
    ]


def test_t_g4_bytes_kept_under_a_wrong_event_name_are_taken_up_under_the_right_one(app: Starlette, rows: Rows) -> None:
    body = push()

    async def story(client: httpx.AsyncClient) -> None:
        assert told(await deliver(client, body, event="issues")) == (202, "ignored")
        assert told(await deliver(client, body)) == (202, "accepted")
        assert told(await deliver(client, body)) == (202, "duplicate")

    run(app, story)

    assert rows.query("SELECT event, state, target, seen_count FROM deliveries") == [
        ("push", "pending", "ref:refs/heads/main", 3)
    ]


def test_t_g3_a_redelivery_of_one_that_is_not_done_is_armed_again(app: Starlette, rows: Rows) -> None:
    body, delivery = push(), str(uuid.uuid4())

    async def story(client: httpx.AsyncClient) -> None:
        for state in ("pending", "dead"):
            assert (await deliver(client, body, delivery=delivery)).status_code == 202
            rows.execute("UPDATE deliveries SET state = %s, looks = 3, armed_at = now() - interval '1 hour'", state)
            assert told(await deliver(client, body, delivery=delivery)) == (202, "accepted")
            assert rows.query("SELECT state, looks, armed_at > now() - interval '1 minute' FROM deliveries") == [
                ("pending", 0, True)
            ]
        rows.execute("UPDATE deliveries SET state = 'done', done_at = now()")
        assert told(await deliver(client, body, delivery=delivery)) == (202, "duplicate")

    run(app, story)

    assert rows.query("SELECT state, seen_count FROM deliveries") == [("done", 5)]


def test_a_redelivery_after_the_secret_was_rotated_is_the_same_delivery(
    app: Starlette, rows: Rows, secrets_file: Path
) -> None:
    body, delivery = push(), str(uuid.uuid4())

    async def story(client: httpx.AsyncClient) -> None:
        assert told(await deliver(client, body, delivery=delivery)) == (202, "accepted")
        write(secrets_file, OTHER_SECRET + b"\n" + SECRET + b"\n")
        assert told(await deliver(client, body, delivery=delivery, secret=OTHER_SECRET)) == (202, "accepted")

    run(app, story)

    assert rows.count() == 1


def test_t_g4_the_same_bytes_under_fifty_ids_are_one_row(app: Starlette, rows: Rows) -> None:
    body = push()

    async def story(client: httpx.AsyncClient) -> None:
        answers = await asyncio.gather(*(deliver(client, body) for _ in range(25)))
        answers += await asyncio.gather(*(deliver(client, body) for _ in range(25)))
        assert sorted(told(answer) for answer in answers) == [(202, "accepted"), *[(202, "duplicate")] * 49]

    run(app, story)

    assert rows.query("SELECT state, seen_count FROM deliveries") == [("pending", 50)]


def test_the_same_id_many_times_at_once_is_one_row(environment: dict[str, str], rows: Rows) -> None:
    """Two receivers at once: what one batch cannot see, the constraints settle."""
    body, delivery = push(), str(uuid.uuid4())

    async def whole() -> None:
        apps = [build_app(read_settings(environment)) for _ in range(2)]
        async with served(apps[0]) as one, served(apps[1]) as other:
            for _ in range(5):
                answers = await asyncio.gather(
                    *(deliver(client, body, delivery=delivery) for client in (one, other) for _ in range(8))
                )
                assert {told(answer) for answer in answers} == {(202, "accepted")}

    asyncio.run(whole())

    assert rows.query("SELECT seen_count FROM deliveries") == [(80,)]


def test_ids_and_bytes_that_meet_in_one_batch_are_told_apart(app: Starlette, rows: Rows) -> None:
    one, other = push(), push()

    async def story(client: httpx.AsyncClient) -> None:
        await asyncio.gather(
            *(deliver(client, body, delivery=f"d{n % 3}") for n in range(24) for body in (one, other)),
            *(deliver(client, push(), delivery=f"new-{n}") for n in range(10)),
        )

    run(app, story)

    assert rows.query("SELECT sum(seen_count) FROM deliveries") == [(58,)]
    # Whose bytes were first under which id is chance; no id and no bytes are there twice.
    assert rows.query("SELECT count(*) = count(DISTINCT id), count(*) = count(DISTINCT signature) FROM deliveries") == [
        (True, True)
    ]


def test_a_body_that_is_spooled_is_stored_whole(app: Starlette, rows: Rows) -> None:
    body = push(padding=3 * SPOOL_BYTES)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 50_000):
            yield body[start : start + 50_000]

    async def story(client: httpx.AsyncClient) -> None:
        assert (await client.post(PATH, content=pieces(), headers=headers(body))).status_code == 202

    run(app, story)

    assert rows.query("SELECT body = %s, state FROM deliveries", body) == [(True, "pending")]


def test_a_body_of_the_cap_passes_and_one_byte_more_does_not(app: Starlette, rows: Rows) -> None:
    room = BODY_BYTES_MAX - len(push(padding=1)) + 1
    body = push(padding=room)
    assert len(body) == BODY_BYTES_MAX

    async def story(client: httpx.AsyncClient) -> None:
        assert told(await deliver(client, body)) == (202, "accepted")
        assert told(await deliver(client, body + b" ")) == (413, "BodyTooLarge")

    run(app, story)

    assert rows.query("SELECT length(body) FROM deliveries") == [(BODY_BYTES_MAX,)]


def receiver_of(app: Starlette) -> Receiver:
    (receiver,) = (r.app for r in app.routes if isinstance(r, Route) and isinstance(r.app, Receiver))
    return receiver


def test_large_bodies_leave_room_for_small_ones(app: Starlette) -> None:
    receiver = receiver_of(app)

    async def story(client: httpx.AsyncClient) -> None:
        receiver.room.taken = IN_FLIGHT_BYTES_MAX - SMALL_ROOM_BYTES
        answer = await deliver(client, push(padding=200_000))
        assert told(answer) == (503, "TooBusy")
        assert answer.headers["retry-after"].isdigit()
        assert told(await deliver(client, push())) == (202, "accepted")
        receiver.room.taken = IN_FLIGHT_BYTES_MAX
        assert told(await deliver(client, push())) == (503, "TooBusy")

    run(app, story)

    assert receiver.room.taken == IN_FLIGHT_BYTES_MAX


@pytest.mark.parametrize("event", ["push", "pull_request"])
def test_no_mutation_of_a_payload_is_answered_5xx(app: Starlette, rows: Rows, event: str) -> None:
    bodies = list(mutations(event))

    async def story(client: httpx.AsyncClient) -> None:
        statuses: dict[int, int] = {}
        for start in range(0, len(bodies), 100):
            answers = await asyncio.gather(*(deliver(client, body, event=event) for body in bodies[start:][:100]))
            for answer in answers:
                statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        assert set(statuses) == {202, 400}, statuses

    run(app, story)

    assert rows.query("SELECT sum(seen_count) FROM deliveries") == [(len(bodies),)]


def test_t_rot_secrets_rotate_under_load_without_one_refusal(app: Starlette, secrets_file: Path) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        secret, answers = SECRET, []
        stop = asyncio.Event()

        async def load() -> None:
            while not stop.is_set():
                answers.append((await deliver(client, push(), secret=secret)).status_code)
                answers.append((await deliver(client, push(), secret=SECRET)).status_code)

        loads = [asyncio.create_task(load()) for _ in range(4)]
        for content in (SECRET + b"\n", b"", OTHER_SECRET + b"\n" + SECRET + b"\n", b"short", OTHER_SECRET[:9]):
            write(secrets_file, content)
            if OTHER_SECRET in content:
                secret = OTHER_SECRET
            await asyncio.sleep(0.1)
        stop.set()
        await asyncio.gather(*loads)
        assert set(answers) == {202}
        assert len(answers) > 20

    run(app, story)


def test_t_rot_a_secret_that_was_taken_out_is_refused_once_the_file_is_settled(
    app: Starlette, secrets_file: Path
) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        write(secrets_file, OTHER_SECRET)
        deadline = asyncio.get_running_loop().time() + 5
        while (status := (await deliver(client, push())).status_code) == 202:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.1)
        assert status == 401
        assert (await deliver(client, push(), secret=OTHER_SECRET)).status_code == 202

    run(app, story)


def test_every_commit_rings_the_bell(app: Starlette, redis_url: str) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        body = push()
        async with redis.asyncio.Redis.from_url(redis_url) as listening, listening.pubsub() as heard:
            await heard.subscribe(BELL_CHANNEL)
            await heard.get_message(timeout=5)
            for _ in range(2):  # accepted, then a duplicate
                await asyncio.sleep(0.3)
                while await heard.get_message(ignore_subscribe_messages=True, timeout=0.1):
                    pass
                assert (await deliver(client, body)).status_code == 202
                assert await heard.get_message(ignore_subscribe_messages=True, timeout=5)

    run(app, story)


@pytest.mark.parametrize("url", ["unix:///nowhere/redis.sock", "redis://127.0.0.1:1/0"])
def test_without_redis_everything_is_accepted(environment: dict[str, str], rows: Rows, url: str) -> None:
    app = build_app(read_settings(environment | {"REDIS_URL": url}))

    async def story(client: httpx.AsyncClient) -> None:
        for _ in range(20):
            assert told(await deliver(client, push())) == (202, "accepted")

    run(app, story)

    assert rows.count() == 20


def test_t_g1_a_table_that_is_locked_is_a_503_in_time_and_nothing_is_lost_after(app: Starlette, rows: Rows) -> None:
    """The lock outlives several deadlines of the inbox, and deliveries come all the while."""
    rows.execute("INSERT INTO repositories (full_name) VALUES ('acme/shop')")
    assert COMMIT_DEADLINE_S + CUT_S < ANSWER_PROMISED_S

    async def story(client: httpx.AsyncClient) -> None:
        loop = asyncio.get_running_loop()
        assert (await deliver(client, push())).status_code == 202
        async with await psycopg.AsyncConnection.connect(rows.url) as lock:
            await lock.execute("LOCK TABLE deliveries IN ACCESS EXCLUSIVE MODE")

            async def refused(after_s: float) -> None:
                await asyncio.sleep(after_s)
                asked = asyncio.ensure_future(deliver(client, push()))
                promised = asyncio.ensure_future(asyncio.sleep(ANSWER_PROMISED_S))
                # Against a timer of the same loop: a machine that is busy delays both.
                await asyncio.wait([asked, promised], return_when=asyncio.FIRST_COMPLETED)
                assert not promised.done(), "the promised time was over first"
                promised.cancel()
                answer = await asked
                assert told(answer) == (503, "InboxAway")
                assert answer.headers["retry-after"].isdigit()

            await asyncio.gather(*(refused(n * 0.4) for n in range(int(3 * COMMIT_DEADLINE_S / 0.4))))
            assert (await client.get("/health")).status_code == 503
        assert told(await deliver(client, push())) == (202, "accepted")
        assert (await client.get("/health")).json() == {"status": "ok"}
        deadline = loop.time() + 15
        # The worker is told to look for what was refused.
        while not rows.query("SELECT 1 FROM repositories WHERE receiver_started_at > now() - interval '4 s'"):
            assert loop.time() < deadline
            await asyncio.sleep(0.1)

    run(app, story)

    assert rows.count() == 2


def test_without_postgres_it_is_a_503_and_health_says_so(environment: dict[str, str], tmp_path: Path) -> None:
    url = f"postgresql://nobody@/none?host={tmp_path}"
    app = build_app(read_settings(environment | {"DATABASE_URL": url}))

    async def story(client: httpx.AsyncClient) -> None:
        assert told(await deliver(client, push())) == (503, "InboxAway")
        assert (await client.get("/health")).status_code == 503

    run(app, story)


def test_a_connection_that_postgres_ended_is_made_anew_without_a_refusal(app: Starlette, rows: Rows) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        for _ in range(3):
            assert (await deliver(client, push())).status_code == 202
            rows.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s", "oroboros inbox"
            )

    run(app, story)

    assert rows.count() == 3


def test_t_g10_what_decides_is_the_signature_and_no_address(app: Starlette, rows: Rows) -> None:
    """docs/decisions/0012: there is no list of addresses, so none that is stale, spoofed or cannot be had."""
    of_github = [("X-Forwarded-For", "140.82.115.1"), ("X-Real-IP", "140.82.115.1"), ("Forwarded", "for=140.82.115.1")]

    async def story(client: httpx.AsyncClient) -> None:
        for said in ([], of_github):
            forged, signed = push(), push()
            answer = await client.post(PATH, content=forged, headers=[*headers(forged, secret=OTHER_SECRET), *said])
            assert told(answer) == (401, "SignatureWrong")
            answer = await client.post(PATH, content=signed, headers=[*headers(signed), *said])
            assert told(answer) == (202, "accepted")

    run(app, story)

    assert rows.count() == 2


def test_t_rot_it_refuses_to_start_without_a_good_secret(environment: dict[str, str], secrets_file: Path) -> None:
    secrets_file.write_text("changeme")
    with pytest.raises(ConfigInvalid, match="WebhookSecretInvalid"):
        build_app(read_settings(environment))
    del environment["OROBOROS_WEBHOOK_SECRETS_FILE"]
    with pytest.raises(ConfigInvalid, match="WebhookSecretMissing"):
        build_app(read_settings(environment))


def test_an_error_of_our_own_is_a_503_with_its_traceback_for_the_server(app: Starlette) -> None:
    def broken() -> tuple[bytes, ...]:
        raise KeyError("a bug")

    receiver_of(app).secrets = broken
    body = push()

    async def whole() -> None:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body}

        async def send(message: Message) -> None:
            sent.append(message)

        scope: Scope = {
            "type": "http",
            "method": "POST",
            "path": PATH,
            "raw_path": PATH.encode(),
            "query_string": b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers(body)],
        }
        with pytest.raises(KeyError):  # uvicorn logs what comes out, with its traceback
            await app(scope, receive, send)
        assert sent[0]["status"] == 503
        assert b"a bug" not in sent[1]["body"]

    asyncio.run(whole())


def test_no_log_line_carries_a_secret(app: Starlette, caplog: pytest.LogCaptureFixture, secrets_file: Path) -> None:
    caplog.set_level(logging.DEBUG)

    async def story(client: httpx.AsyncClient) -> None:
        body = push()
        await deliver(client, body, secret=OTHER_SECRET)
        await deliver(client, body)
        await deliver(client, body, event="Odd!")
        write(secrets_file, OTHER_SECRET + b"\nshort")
        await deliver(client, body)

    run(app, story)

    assert "keeping the last good list" in caplog.text
    assert SECRET.decode() not in caplog.text
    assert OTHER_SECRET.decode() not in caplog.text
