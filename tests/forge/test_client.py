"""Does the client keep the forge's limits and our manners, follow what may be followed, and ask as whom it should?

The forge here is a script over an HTTP transport in memory, and a clock that stands still unless it is told to go on.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from controller.decisions.github.exchange import REDIRECTS_MAX, Asked, Read, Send, after
from controller.decisions.github.limits import (
    LIMITS_IN_A_ROW_MAX,
    QUIET_RESTORED_MAX,
    WRITES_KEPT_FOR_URGENT,
    WRITES_PER_HOUR_MAX,
    Pace,
    Quiet,
    restored,
)
from controller.decisions.github.repository import get_repository
from controller.decisions.github.wire import Reply, tell
from controller.effects.github_http import Client, Forge
from controller.effects.github_identity import TokenFile
from controller.effects.mirror import Mirror
from controller.model.errors import Unavailable
from tests.forge.test_protocol import NOW, pull, report
from tests.forge_fixture import CANARY

API = "https://git.example.org/api/v3"
REPOSITORY_FOUND = {"id": 1001, "full_name": "acme/store", "default_branch": "main"}


@dataclass(slots=True)
class Clock:
    """A clock that goes on when somebody waits for it."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass(slots=True)
class Script:
    """What the forge answers, and what it was asked and when."""

    clock: Clock
    answers: Callable[[httpx.Request], httpx.Response]
    seen: list[tuple[datetime, httpx.Request]] = field(default_factory=list)
    in_flight: int = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.in_flight += 1
        assert self.in_flight == 1, "two requests at once"
        self.seen.append((self.clock.now, request))
        try:
            return self.answers(request)
        finally:
            self.in_flight -= 1

    def client(self, *, write_pause_s: float = 1.0, memory: Remembered | None = None) -> Client:
        return Client(
            "https://git.example.org",
            clock=self.clock,
            write_pause_s=write_pause_s,
            sleep=self.clock.sleep,
            transport=httpx.MockTransport(self),
            memory=memory,
        )


@dataclass(slots=True)
class Tokens:
    """An identity whose tokens are given one after the other."""

    tokens: list[str]
    renewed: int = 0

    def token(self) -> str:
        return self.tokens[0]

    def renew(self, refused: str) -> bool:
        assert refused == self.tokens[0]
        self.renewed += 1
        if len(self.tokens) > 1:
            self.tokens.pop(0)
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


def scripted(clock: Clock, *answers: httpx.Response) -> Script:
    """Answer one after the other; the last one again and again."""
    left = list(answers)
    return Script(clock, lambda _request: left.pop(0) if len(left) > 1 else left[0])


def created(request: httpx.Request) -> httpx.Response:
    assert request.method == "POST"
    return httpx.Response(201, json={})


# -- manners ----------------------------------------------------------------------------------------------------------


def test_t_g11_two_hundred_statuses_are_written_one_at_a_time_a_second_apart(clock: Clock) -> None:
    script = Script(clock, created)
    with Forge(script.client(), "acme/shop", Tokens(["t"])) as forge:
        for _ in range(200):
            forge.post_status(report())
    instants = [at for at, _ in script.seen]
    assert len(instants) == 200
    assert all(b - a >= timedelta(seconds=1) for a, b in itertools.pairwise(instants))


def test_t_g11_no_more_is_written_in_an_hour_than_github_takes(clock: Clock) -> None:
    script = Script(clock, created)
    with Forge(script.client(), "acme/shop", Tokens(["t"])) as forge:
        for _ in range(WRITES_PER_HOUR_MAX):
            forge.post_status(report())
        with pytest.raises(Unavailable) as caught:
            forge.post_status(report())
        assert caught.value.reason == "ForgeLimited"
        assert caught.value.retry_at == script.seen[0][0] + timedelta(hours=1)
        assert len(script.seen) == WRITES_PER_HOUR_MAX
        clock.now = caught.value.retry_at
        forge.post_status(report())


def test_t_g11_some_of_the_hour_is_kept_for_statuses(clock: Clock) -> None:
    script = Script(clock, lambda request: httpx.Response(201 if request.method == "POST" else 200, json={"id": 1}))
    with Forge(script.client(), "acme/shop", Tokens(["t"])) as forge:
        for _ in range(WRITES_PER_HOUR_MAX - WRITES_KEPT_FOR_URGENT):
            forge.write_comment(1, "x", number=None)
        with pytest.raises(Unavailable) as caught:
            forge.write_comment(1, "x", number=None)
        assert caught.value.reason == "ForgeLimited"
        for _ in range(WRITES_KEPT_FOR_URGENT):
            forge.post_status(report())
        assert len(script.seen) == WRITES_PER_HOUR_MAX


def test_t_g11_threads_wait_for_each_other() -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(_request: httpx.Request) -> httpx.Response:
        entered.set()
        assert leave.wait(10)
        return httpx.Response(200, json=[])

    script = Script(Clock(), slow)
    client = script.client()
    threads = [
        threading.Thread(target=Forge(client, "acme/shop", Tokens(["t"])).open_pulls, name=f"asks {n}")
        for n in range(3)
    ]
    for thread in threads:
        thread.start()
    assert entered.wait(10)
    assert len(script.seen) == 1
    leave.set()
    for thread in threads:
        thread.join(10)
    assert len(script.seen) == 3


LIMITED = {"message": "You have exceeded a secondary rate limit."}


@pytest.mark.parametrize("status", [403, 429])
@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"Retry-After": "17"}, 17),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(NOW.timestamp()) + 431)}, 431),
        ({}, 60),
    ],
    ids=["retry-after", "reset", "neither"],
)
def test_t_g12_nothing_is_asked_before_the_limit_ends(
    clock: Clock, status: int, headers: dict[str, str], wait_s: int
) -> None:
    limited = httpx.Response(status, headers=headers, json=LIMITED)
    script = scripted(clock, limited, httpx.Response(200, json=[]))
    with Forge(script.client(), "acme/shop", Tokens(["t"])) as forge:
        acts: list[Callable[[], object]] = [forge.open_pulls, forge.open_pulls, lambda: forge.post_status(report())]
        for act in acts:
            with pytest.raises(Unavailable) as caught:
                act()
            assert caught.value.retry_at == NOW + timedelta(seconds=wait_s)
        assert len(script.seen) == 1
        clock.now = NOW + timedelta(seconds=wait_s)
        assert forge.open_pulls() == ()


def test_t_g12_a_limit_without_a_time_doubles_and_then_somebody_must_look(clock: Clock) -> None:
    script = scripted(clock, httpx.Response(429, json=LIMITED))
    waits = []
    with Forge(script.client(), "acme/shop", Tokens(["t"])) as forge:
        for _ in range(LIMITS_IN_A_ROW_MAX):
            with pytest.raises(Unavailable):
                forge.open_pulls()
            with pytest.raises(Unavailable) as caught:
                forge.open_pulls()
            assert caught.value.retry_at is not None
            waits.append((caught.value.retry_at - clock.now).total_seconds())
            clock.now = caught.value.retry_at
        assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600]
        assert caught.value.reason == "ForgeLimitedForLong"
        assert len(script.seen) == LIMITS_IN_A_ROW_MAX


@dataclass(slots=True)
class Remembered:
    """What outlives a process."""

    pace: Pace = field(default_factory=Pace)

    def load_pace(self) -> Pace:
        return self.pace

    def record_pace(self, pace: Pace) -> None:
        self.pace = pace


def test_t_g12_a_restart_forgets_no_limit_and_no_write(clock: Clock) -> None:
    memory = Remembered()
    script = scripted(clock, httpx.Response(201, json={}), httpx.Response(403, headers={"Retry-After": "3600"}))
    for _ in range(5):
        with Forge(script.client(memory=memory), "acme/shop", Tokens(["t"])) as forge:
            for _ in range(2):
                with contextlib.suppress(Unavailable):
                    forge.post_status(report())
    assert [(at - NOW).total_seconds() for at, _ in script.seen] == [0.0, 1.0]
    assert len(memory.pace.writes_at) == 2
    clock.now = NOW + timedelta(seconds=3601)
    with Forge(script.client(memory=memory), "acme/shop", Tokens(["t"])) as forge, pytest.raises(Unavailable):
        forge.post_status(report())
    assert len(script.seen) == 3


def test_a_limit_from_before_a_restart_is_not_believed_for_ever() -> None:
    kept = Pace(quiet=Quiet(until=NOW + timedelta(days=9000)), writes_at=(NOW - timedelta(hours=2), NOW))
    found = restored(kept, write_pause_s=1.0, now=NOW)
    assert (found.quiet.until, found.writes_at) == (NOW + QUIET_RESTORED_MAX, (NOW,))


def test_t_g12_the_app_itself_has_a_limit_of_its_own_so_that_git_has_its_password(clock: Clock) -> None:
    limited = httpx.Response(403, headers={"Retry-After": "3600"}, json=LIMITED)
    script = scripted(clock, limited, httpx.Response(200, json={}), limited)
    with script.client() as client:
        client.ask(get_repository("acme/shop"))
        with pytest.raises(Unavailable, match="ForgeLimited"):
            client.ask(get_repository("acme/shop"))
        of_app = replace(get_repository("acme/shop"), is_of_app=True)
        client.ask(of_app)
        client.ask(of_app)
        with pytest.raises(Unavailable, match="ForgeLimited"):
            client.ask(of_app)
    assert len(script.seen) == 3


def test_t_g12_after_the_last_request_of_the_hour_none_is_sent_before_the_next(clock: Clock) -> None:
    reset = str(int(NOW.timestamp()) + 900)
    spent = httpx.Response(200, headers={"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset}, json=[])
    script = scripted(clock, spent)
    with Forge(script.client(), "acme/shop", Tokens(["t"])) as forge:
        assert forge.open_pulls() == ()
        with pytest.raises(Unavailable) as caught:
            forge.open_pulls()
        assert caught.value.retry_at == NOW + timedelta(seconds=900)
    assert len(script.seen) == 1


def test_t_g11_a_write_that_was_cut_counts_too(clock: Clock) -> None:
    """The forge may have seen it: a second lies between it and the next."""

    def cut(_request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("reset after the request was received")

    seen = Script(clock=clock, answers=cut)
    with Forge(seen.client(), "acme/shop", Tokens(["t"])) as forge:
        for _ in range(4):
            with pytest.raises(Unavailable, match="ForgeUnreachable"):
                forge.post_status(report())
    instants = [at for at, _ in seen.seen]
    assert [(after - before).total_seconds() for before, after in itertools.pairwise(instants)] == [1.0] * 3


# -- what did not change ----------------------------------------------------------------------------------------------


def test_t_g13_what_is_known_is_asked_for_by_its_tag(clock: Clock) -> None:
    first = httpx.Response(200, headers={"ETag": 'W/"one"'}, json=[pull()])
    script = scripted(clock, first, httpx.Response(304), httpx.Response(304), httpx.Response(200, json=[]))
    with Forge(script.client(), "acme/shop", Tokens(["t"])) as forge:
        for numbers in ([7], [7], [7], []):
            assert [one.number for one in forge.open_pulls()] == numbers
    tags = [request.headers.get("If-None-Match") for _, request in script.seen]
    assert tags == [None, 'W/"one"', 'W/"one"', 'W/"one"']


def test_t_g13_a_tag_is_a_tag_and_304_without_one_is_no_answer(clock: Clock) -> None:
    script = scripted(clock, httpx.Response(200, headers={"ETag": "one\x01"}, json=[]), httpx.Response(304))
    with Forge(script.client(), "acme/shop", Tokens(["t"])) as forge:
        forge.open_pulls()
        with pytest.raises(Unavailable):
            forge.open_pulls()
    assert "If-None-Match" not in script.seen[1][1].headers


# -- redirects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_t_g13_a_renamed_repository_is_followed_with_method_and_body(clock: Clock, status: int) -> None:
    moved = httpx.Response(status, headers={"Location": f"{API}/repositories/1001/statuses/x"})
    script = scripted(clock, moved, httpx.Response(201, json={}), httpx.Response(200, json=REPOSITORY_FOUND))
    with Forge(script.client(write_pause_s=0), "acme/shop", Tokens(["t"])) as forge:
        forge.post_status(report())
        first, second = (request for _, request in script.seen)
        assert str(second.url) == f"{API}/repositories/1001/statuses/x"
        assert (second.method, second.content) == (first.method, first.content)
        assert second.headers["Authorization"] == "Bearer t"
        assert forge.is_moved == (status in (301, 308))
        assert forge.repository().id == 1001
        assert not forge.is_moved
        assert forge.git_url == "https://git.example.org/acme/store.git"


@pytest.mark.parametrize(
    "location",
    [
        "https://evil.example/api/v3/repos/acme/shop",
        "http://git.example.org/api/v3/repos/acme/shop",
        "https://git.example.org:444/api/v3/repos/acme/shop",
        "https://git.example.org@evil.example/api/v3/x",
        "https://user:pw@git.example.org/api/v3/x",
        "//evil.example/api/v3/x",
        "https://git.example.org/elsewhere",
        "https://git.example.org/api/v3",
        "https://git.example.org/api/v3/../../steal",
        "https://git.example.org/api/v3//evil.example",
        "https://[",
        "/api/v3\\evil",
        "",
    ],
)
def test_t_g13_a_redirect_elsewhere_is_not_followed_so_no_token_goes_there(clock: Clock, location: str) -> None:
    script = scripted(clock, httpx.Response(301, headers={"Location": location}))
    with Forge(script.client(), "acme/shop", Tokens(["t"])) as forge, pytest.raises(Unavailable) as caught:
        forge.open_pulls()
    assert caught.value.reason == "ForgeMoved"
    assert len(script.seen) == 1


def test_redirects_in_a_circle_end(clock: Clock) -> None:
    script = scripted(clock, httpx.Response(302, headers={"Location": "/api/v3/repos/acme/shop"}))
    with Forge(script.client(), "acme/shop", Tokens(["t"])) as forge, pytest.raises(Unavailable, match="ForgeMoved"):
        forge.repository()
    assert len(script.seen) == REDIRECTS_MAX + 1


def test_what_follows_a_reply_is_decided_without_a_socket() -> None:
    asked = Asked(request=get_repository("acme/shop"))
    found = after(
        asked, Reply(status=307, headers={"location": "/x?page=2"}, body=b""), base_url="https://api.github.com"
    )
    assert isinstance(found, Send)
    assert found.asked.request.path == "/x?page=2"
    assert isinstance(after(asked, Reply(status=200, headers={}, body=b""), base_url="https://x"), Read)


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_t_g16_a_refused_token_is_replaced_exactly_once(clock: Clock) -> None:
    tokens = Tokens(["old", "new", "newer"])
    script = scripted(clock, httpx.Response(401, json={}))
    with Forge(script.client(), "acme/shop", tokens) as forge, pytest.raises(Unavailable, match="ForgeRefused"):
        forge.open_pulls()
    assert [request.headers["Authorization"] for _, request in script.seen] == ["Bearer old", "Bearer new"]
    assert tokens.renewed == 1


def test_t_g16_the_new_token_goes_on_where_the_old_one_was_refused(clock: Clock) -> None:
    moved = httpx.Response(301, headers={"Location": f"{API}/repositories/1001/pulls"})
    script = scripted(clock, moved, httpx.Response(401, json={}), httpx.Response(200, json=[]))
    with Forge(script.client(), "acme/shop", Tokens(["old", "new"])) as forge:
        assert forge.open_pulls() == ()
        assert forge.is_moved
    assert [request.url.path for _, request in script.seen][1:] == ["/api/v3/repositories/1001/pulls"] * 2


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_token_that_others_may_read_is_refused(tmp_path: Path, mode: int, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text(CANARY)
    file.chmod(mode)
    with pytest.raises(Unavailable, match="chmod 600") as caught:
        TokenFile(file).token()
    assert CANARY not in str(caught.value)
    # What systemd hands on lies in a folder of this process alone, with modes of its own.
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert TokenFile(file).token() == CANARY


# -- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[str]:
    """An HTTPS server whose certificate nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "impostor.pem"
    pem.write_bytes(
        certificate.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)

        def log_message(self, format: str, *args: object) -> None:
            """Not worth a line."""

    class Quiet(HTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A client that ends the handshake is what is expected here."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = Quiet(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"https://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()
    assert seen == []


def test_t_p14_a_forge_with_a_certificate_that_nobody_vouches_for_is_refused(impostor: str, tmp_path: Path) -> None:
    with Forge(Client(impostor), "acme/shop", Tokens([CANARY])) as forge:
        with pytest.raises(Unavailable, match="ForgeUnreachable"):
            forge.repository()
        mirror = Mirror(tmp_path / "repo.git", forge.git_url, identity=Tokens([CANARY]), fetch_timeout_s=20)
        with pytest.raises(Unavailable, match="ForgeUnreachable"):
            mirror.fetch(branch="main", pulls=[])


def test_a_write_that_has_no_body_says_so(clock: Clock) -> None:
    script = Script(clock, created)
    with script.client() as client:
        assert client.ask(tell("POST", "/app/hook/deliveries/7/attempts")).status == 201
        assert client.ask(tell("POST", "/x", {"a": 1})).status == 201
    assert [request.content for _, request in script.seen] == [b"", json.dumps({"a": 1}).encode()]
