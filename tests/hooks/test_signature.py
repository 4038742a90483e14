"""Signatures: GitHub's own vector, everything that only looks like one, and secrets that change under load."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from controller.model.errors import ConfigInvalid, Refused
from hooks.signature import SecretsFile, Verifier, read_secrets, read_signature

# https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries#testing-the-webhook-payload-validation
GITHUB_SECRET = b"It's a Secret to Everybody"
GITHUB_BODY = b"Hello, World!"
GITHUB_DIGEST = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
OLD, NEW = "5d0b7a51c6f94e0fb0f3a9be1f6d2c47", "9e1c2ab84f6d47b3a5c08d7713f2e690"


def claimed(value: str | bytes) -> bytes:
    return read_signature([(b"x-hub-signature-256", value.encode() if isinstance(value, str) else value)])


def index_of(claim: bytes, body: bytes, *secrets: bytes) -> int | None:
    verifier = Verifier(secrets)
    for byte in body:
        verifier.feed(bytes([byte]))
    return verifier.matches(claim)


def test_t_g5_githubs_vector_is_believed_fed_a_byte_at_a_time() -> None:
    assert index_of(claimed(f"sha256={GITHUB_DIGEST}"), GITHUB_BODY, GITHUB_SECRET) == 0


def test_t_g5_every_flipped_digit_is_refused() -> None:
    for place, digit in enumerate(GITHUB_DIGEST):
        for other in "0123456789abcdef".replace(digit, ""):
            flipped = GITHUB_DIGEST[:place] + other + GITHUB_DIGEST[place + 1 :]
            assert index_of(claimed(f"sha256={flipped}"), GITHUB_BODY, GITHUB_SECRET) is None


def test_the_secret_that_matched_is_told_by_its_place() -> None:
    claim = claimed(f"sha256={GITHUB_DIGEST}")

    assert index_of(claim, GITHUB_BODY, b"another secret altogether", GITHUB_SECRET) == 1
    assert index_of(claim, GITHUB_BODY) is None


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"sha256=",
        GITHUB_DIGEST.encode(),
        b"sha256=" + GITHUB_DIGEST.encode()[:63],
        b"sha256=" + GITHUB_DIGEST.encode() + b"0",
        b"sha256=" + GITHUB_DIGEST.upper().encode(),
        b"SHA256=" + GITHUB_DIGEST.encode(),
        b"sha256=" + GITHUB_DIGEST.encode() + b" ",
        b"sha256=" + GITHUB_DIGEST.encode() + b"\n",
        b" sha256=" + GITHUB_DIGEST.encode(),
        b"sha1=" + GITHUB_DIGEST.encode()[:40],
        b"sha256=" + "é".encode() * 32,
        b"sha256=" + b"\xff" * 64,
        b"sha256=" + "\uff11".encode() * 64,
    ],
)
def test_t_g7_what_is_not_exactly_a_signature_is_refused_with_401(value: bytes) -> None:
    with pytest.raises(Refused) as refused:
        claimed(value)
    assert refused.value.status_hint == 401


def test_t_g7_a_missing_and_a_doubled_signature_are_refused_with_401() -> None:
    one = (b"x-hub-signature-256", f"sha256={GITHUB_DIGEST}".encode())
    for headers in ([], [one, one], [(b"x-hub-signature", b"sha1=" + b"0" * 40)]):
        with pytest.raises(Refused) as refused:
            read_signature(headers)
        assert refused.value.status_hint == 401


def test_secrets_are_read_one_a_line() -> None:
    assert read_secrets(f"# new, then old\n{NEW}\n\n  {OLD}  \n") == (NEW.encode(), OLD.encode())
    assert read_secrets(GITHUB_SECRET.decode()) == (GITHUB_SECRET,)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "# only a comment\n",
        "short",
        "x" * 40,
        "abababababababababababab",
        "secret-secret-secret-secret",
        "changeme-changeme-changeme",
        "Change-Me-Change-Me-Change-Me",
        "your-webhook-secret-goes-here",
        "example-secret-0123456789abcdef",
        "MyPassword0123456789abcdef",
        f"{NEW}\nshort",
    ],
)
def test_no_secret_a_short_one_and_a_placeholder_are_refused(text: str) -> None:
    with pytest.raises(ConfigInvalid) as invalid:
        read_secrets(text)
    assert NEW not in str(invalid.value)


def test_a_missing_file_is_refused_at_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="WebhookSecretUnreadable"):
        SecretsFile(tmp_path / "nothing").secrets()


class Wall:
    """A clock that a test moves."""

    now = 2_000_000_000.0

    def __call__(self) -> float:
        return self.now


def write(file: Path, text: str, *, at: float) -> None:
    file.write_text(text)
    os.utime(file, (at, at))


def test_a_secret_that_left_the_file_counts_until_the_file_is_settled(tmp_path: Path) -> None:
    file, wall = tmp_path / "secrets", Wall()
    write(file, OLD, at=wall.now - 60)
    secrets = SecretsFile(file, clock=wall)
    assert secrets.secrets() == (OLD.encode(),)

    write(file, NEW, at=wall.now)
    assert secrets.secrets() == (NEW.encode(), OLD.encode())

    wall.now += 2
    assert secrets.secrets() == (NEW.encode(),)


def test_two_writes_with_the_same_time_and_size_are_both_seen(tmp_path: Path) -> None:
    file, wall = tmp_path / "secrets", Wall()
    write(file, OLD, at=wall.now)
    secrets = SecretsFile(file, clock=wall)
    assert secrets.secrets() == (OLD.encode(),)

    write(file, NEW, at=wall.now)

    assert NEW.encode() in secrets.secrets()


@pytest.mark.parametrize("bad", ["", "short", f"{NEW}\nchangeme-changeme-changeme", None])
def test_bad_new_content_keeps_the_last_good_list_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bad: str | None
) -> None:
    file, wall = tmp_path / "secrets", Wall()
    write(file, OLD, at=wall.now - 60)
    secrets = SecretsFile(file, clock=wall)
    secrets.secrets()
    if bad is None:
        file.unlink()
    else:
        write(file, bad, at=wall.now - 30)

    for _ in range(3):
        assert secrets.secrets() == (OLD.encode(),)

    assert len(caplog.records) == 1
    assert OLD not in caplog.text
    assert NEW not in caplog.text
    write(file, NEW, at=wall.now - 10)
    assert secrets.secrets() == (NEW.encode(),)
