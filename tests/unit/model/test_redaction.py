"""Is every secret masked to its very end, and nothing else?"""

from __future__ import annotations

import base64
import json

import pytest

from controller.model.errors import ConfigInvalid, Failed, OroborosError, Stalled, Unavailable, Waiting
from controller.model.redaction import MASK, redact


def jwt(length: int) -> str:
    """A token of three parts in base64, as long as asked."""
    head = base64.urlsafe_b64encode(json.dumps({"alg": "RS256", "typ": "JWT"}).encode()).decode().rstrip("=")
    body = base64.urlsafe_b64encode(b"\xfb\xff" * length).decode()
    return f"{head}.{body[: length // 2]}.{body[: length - length // 2]}"


OLD = "ghs_" + "aB3" * 12
SECRETS = {
    "installation token": OLD,
    "installation token of 520": f"ghs_12345_{jwt(520)}",
    "installation token of 2000": f"ghs_12345_{jwt(2000)}",
    "personal token": "ghp_" + "x" * 36,
    "user token": "gho_" + "x" * 36,
    "fine-grained token": "github_pat_" + "11AA_" + "b" * 76,
    "jwt": jwt(300),
    "key": "-----BEGIN RSA PRIVATE KEY-----\nMIIE+/\nabc=\n-----END RSA PRIVATE KEY-----",
    "key that was cut": "-----BEGIN PRIVATE KEY-----\nMIIEvQ\nsecond line",
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS.keys())
@pytest.mark.parametrize("around", ["{}", "before {} ", "token='{}'", "Authorization: Bearer {}", "https://x:{}@h/p"])
def test_t_g17_a_secret_is_masked_whole_wherever_it_stands(secret: str, around: str) -> None:
    shown = redact(around.format(secret))
    assert MASK in shown
    for size in (12, 20):
        parts = {secret[at : at + size] for at in range(0, len(secret) - size, 3)}
        assert not any(part in shown for part in parts if "PRIVATE KEY" not in part), shown


def test_what_follows_a_secret_stays() -> None:
    assert redact(f"a {OLD} b, c") == f"a {MASK} b, c"
    assert redact(f'{{"token": "{OLD}", "id": 7}}') == f'{{"token": "{MASK}", "id": 7}}'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Basic eDpnaHNfYWJjZGVm", f"Authorization: Basic {MASK}"),
        ("Bearer 0123456789abcdef0123", f"Bearer {MASK}"),
        ("authorization: token plain", f"authorization: token {MASK}"),
        ("host=/run user=x password=hunter22 dbname=y", f"host=/run user=x password={MASK} dbname=y"),
        ("postgresql://user:pa55@/x?host=/run", f"postgresql://user:{MASK}@/x?host=/run"),
    ],
)
def test_what_follows_a_telling_word_is_masked(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_a_secret_without_a_form_is_masked_when_it_is_named() -> None:
    assert redact("it is w3bh00k-s3cret-2", known=["w3bh00k-s3cret", "w3bh00k-s3cret-2"]) == f"it is {MASK}"
    assert redact("a word", known=["", "a", "word"]) == "a word"


@pytest.mark.parametrize(
    "text",
    [
        "cannot list the pull requests: the forge answers 503",
        "https://git.example.org/acme/shop.git: could not read Username",
        "bearer token missing, Basic authentication needed",
        "f" * 40,
        "oroboros/production: live http://app.localhost:8088",
        "preview-1 of acme/shop at refs/heads/ghost",
    ],
)
def test_plain_words_stay(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("kind", [Failed, Waiting, Unavailable, Stalled, ConfigInvalid])
def test_no_error_carries_a_secret(kind: type[OroborosError]) -> None:
    error = kind("OddThing", f"tried {OLD} at https://x:{OLD}@h")
    assert OLD not in f"{error} {error.message} {error.args} {error!r}"
    problems = ConfigInvalid("OddThing", "x", problems=(f"key: {OLD}",)).problems
    assert OLD not in str(problems)
