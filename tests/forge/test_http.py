"""Does the adapter keep its limits and its secrets, against a forge that misbehaves?"""

from __future__ import annotations

import gzip
import itertools
import json
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from controller.effects import github_http
from controller.effects.github_http import Client, Forge
from controller.effects.github_identity import TokenFile
from controller.model.errors import OroborosError, Unavailable
from tests.forge.test_protocol import NOW, pull, report
from tests.forge_fixture import CANARY, ForgeUnderTest

Answer = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.touch(mode=0o600)
    file.write_text(CANARY + "\n")
    return file


def scripted(token_file: Path | None, answer: Answer) -> Forge:
    client = Client(
        "https://git.example.org", clock=lambda: NOW, write_pause_s=0, transport=httpx.MockTransport(answer)
    )
    return Forge(client, "acme/shop", TokenFile(token_file))


def raised(token_file: Path, answer: Answer) -> Unavailable:
    with scripted(token_file, answer) as forge, pytest.raises(Unavailable) as caught:
        forge.open_pulls()
    return caught.value


def test_git_url_is_of_the_forge_itself() -> None:
    with Forge(Client("https://github.com/"), "acme/shop", TokenFile(None)) as forge:
        assert forge.git_url == "https://github.com/acme/shop.git"


def test_token_is_read_anew_at_each_request(token_file: Path) -> None:
    seen: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("Authorization"))
        return httpx.Response(200, json=[])

    with scripted(token_file, answer) as forge:
        forge.open_pulls()
        token_file.write_text("rotated")
        forge.open_pulls()
    token_file.write_text("")
    with scripted(token_file, answer) as forge:
        forge.open_pulls()
    with scripted(None, answer) as forge:
        forge.open_pulls()
    assert seen == [f"Bearer {CANARY}", "Bearer rotated", None, None]


@pytest.mark.parametrize("content", [None, b"two words", b"new\nline", b"\xff\xfe", b"x" * 5000])
def test_unusable_token_is_unavailable_and_not_shown(token_file: Path, content: bytes | None) -> None:
    if content is None:
        token_file.unlink()
    else:
        token_file.write_bytes(content)
    error = raised(token_file, lambda _request: httpx.Response(200, json=[]))
    assert error.reason == "ForgeTokenUnreadable"
    assert content is None or not content or content.decode("latin-1") not in str(error)


def answered(status: int, **more: Any) -> Answer:
    return lambda _request: httpx.Response(status, **more)


def misbehaviours() -> Iterator[tuple[str, str, Answer]]:
    def fail(error: Exception) -> Answer:
        def answer(_request: httpx.Request) -> httpx.Response:
            raise error

        return answer

    elsewhere = {"Location": "https://evil.example/"}
    yield "redirect", "ForgeMoved", answered(302, headers=elsewhere)
    yield "connect", "ForgeUnreachable", fail(httpx.ConnectError("refused"))
    yield "protocol", "ForgeUnreachable", fail(httpx.RemoteProtocolError("nonsense"))
    yield "timeout", "ForgeTimedOut", fail(httpx.ReadTimeout("slow"))
    yield "gzip", "ForgeReplyInvalid", answered(200, headers={"Content-Encoding": "gzip"}, content=b"x")
    for status in (401, 403, 404, 422, 429, 500):
        yield str(status), "", answered(status, json={"message": "you sent a token"})


@pytest.mark.parametrize(
    ("reason", "answer"), [case[1:] for case in misbehaviours()], ids=[c[0] for c in misbehaviours()]
)
def test_error_and_log_never_show_the_token(
    token_file: Path, caplog: pytest.LogCaptureFixture, reason: str, answer: Answer
) -> None:
    caplog.set_level(logging.DEBUG)
    acts: list[Callable[[Forge], object]] = [Forge.repository, Forge.open_pulls, lambda f: f.post_status(report())]
    for act in acts:
        with scripted(token_file, answer) as forge, pytest.raises(OroborosError) as caught:
            act(forge)
        assert reason in ("", caught.value.reason)
        assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert CANARY not in caplog.text


def test_body_without_end_is_cut(token_file: Path) -> None:
    bomb = gzip.compress(b" " * (github_http.REPLY_BYTES_MAX + 1))
    error = raised(
        token_file, lambda _: httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(bomb))
    )
    assert error.reason == "ForgeReplyInvalid"


def paged(listings: list[list[list[int]]]) -> Answer:
    """Answer page by page; each listing is the next state of the forge, once its last page was asked for."""
    state = {"listing": 0}

    def answer(request: httpx.Request) -> httpx.Response:
        pages = listings[min(state["listing"], len(listings) - 1)]
        page = int(request.url.params["page"])
        headers = {}
        if page < len(pages):
            headers["Link"] = f'<https://git.example.org/?page={page + 1}>; rel="next"'
        else:
            state["listing"] += 1
        return httpx.Response(200, headers=headers, content=json.dumps([pull(number=n) for n in pages[page - 1]]))

    return answer


def test_list_that_shifted_between_two_pages_is_read_again(token_file: Path) -> None:
    # 1 was closed while the first page was read, so 3 slipped from the second page to the first.
    shifted, settled = [[1, 2], [4]], [[2, 3], [4]]
    with scripted(token_file, paged([shifted, settled, settled])) as forge:
        assert [one.number for one in forge.open_pulls()] == [2, 3, 4]


def test_list_that_never_settles_is_nothing(token_file: Path) -> None:
    error = raised(token_file, paged([[[1], [n]] for n in range(2, 12)]))
    assert error.reason == "ForgeListingUnstable"


def test_list_is_nothing_when_a_later_page_fails(token_file: Path) -> None:
    whole = paged([[[1], [2]]])

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(502) if request.url.params["page"] == "2" else whole(request)

    assert raised(token_file, answer).reason == "ForgeDown"


def test_limits_and_outages_of_a_forge_are_understood_and_pass(forge: ForgeUnderTest) -> None:
    for shape, status in itertools.product(("retry-after", "reset", "secondary"), (403, 429)):
        forge.knob("limit", shape=shape, status=status, seconds=20)
        before = datetime.now(UTC)
        client = Forge(Client(forge.url), "acme/shop", TokenFile(forge.token_file))
        with client, pytest.raises(Unavailable) as caught:
            client.repository()
        assert caught.value.reason == "ForgeLimited"
        assert caught.value.retry_at is not None
        told_s = (caught.value.retry_at - before) / timedelta(seconds=1)
        assert 15 < told_s < 25 if shape != "secondary" else 55 < told_s < 65, shape

    forge.knob("limit", seconds=0)
    forge.knob("outage", seconds=30)
    with pytest.raises(Unavailable, match="ForgeDown"):
        forge.client.repository()
    forge.knob("outage", seconds=0)
    forge.knob("slow", seconds=0.3)
    began_s = time.monotonic()
    forge.client.repository()
    assert time.monotonic() - began_s >= 0.3
    forge.knob("slow", seconds=0)
    found = forge.client.repository()
    assert (found.full_name, found.default_branch) == ("acme/shop", "main")
