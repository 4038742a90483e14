"""Who is the operator? Exactly one Authorization header, Bearer, with exactly the token."""

from __future__ import annotations

import pytest

from controller.doors.operator_token import TOKEN_BYTES_MAX, is_operator, read_token

TOKEN = b"0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize("value", [b"Bearer " + TOKEN, b"bearer " + TOKEN, b"Bearer  " + TOKEN + b" "])
def test_who_sends_the_token_is_the_operator(value: bytes) -> None:
    assert is_operator([value], TOKEN)


@pytest.mark.parametrize(
    "values",
    [
        [],
        [b""],
        [TOKEN],
        [b"Bearer"],
        [b"Bearer "],
        [b"Bearer " + TOKEN[:-1]],
        [b"Bearer " + TOKEN + b"x"],
        [b"Bearer " + TOKEN.upper()],
        [b"Basic " + TOKEN],
        [b"Bearer \xff\xfe"],
        [b"Bearer " + TOKEN, b"Bearer " + TOKEN],
        [b"Bearer x", b"Bearer " + TOKEN],
    ],
)
def test_anybody_else_is_not(values: list[bytes]) -> None:
    assert not is_operator(values, TOKEN)


@pytest.mark.parametrize("value", [b"", b"Bearer", b"Bearer ", b"Bearer None"])
def test_without_a_token_nobody_is(value: bytes) -> None:
    assert not is_operator([value], None)


@pytest.mark.parametrize(
    ("content", "token"),
    [
        (TOKEN, TOKEN),
        (TOKEN + b"\r\n", TOKEN),
        (b"", None),
        (b"\n", None),
        (TOKEN[:-1], None),
        (TOKEN + b"\n" + TOKEN, None),
        (b"\xff" * 40, None),
        (b"x" * (TOKEN_BYTES_MAX + 1), None),
    ],
)
def test_a_file_holds_one_long_word_or_no_token(content: bytes, token: bytes | None) -> None:
    assert read_token(content) == token
