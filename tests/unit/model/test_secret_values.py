"""Which values of an environment are secrets, and is each masked in every form, while all else stays readable?"""

from __future__ import annotations

import base64
import html
import json
import urllib.parse
from collections.abc import Callable

import pytest

from controller.log_pipe import LINE_BYTES_MAX, MaskedLines
from controller.model.secret_values import SecretValues, secrets_in

MASK = b"[secret]"
KEY = "-----BEGIN PRIVATE KEY-----\\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\\nBKcwggSjAgEAAoIB\\n-----END PRIVATE KEY-----"
ACCOUNT = json.dumps({"type": "external", "private_key": KEY.replace("\\n", "\n"), "client_secret": "GOCS-abcdef123"})


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("STRIPE_KEY", "sk_test_123", ["sk_test_123"]),
        ("ANYTHING", "a value of many words", ["a value of many words"]),
        ("DB_PASSWORD", "hunter2", ["hunter2"]),
        ("dbPassword", "abcd", ["abcd"]),
        ("DB_PASSWORD", "123456", ["123456"]),
        ("DATABASE_URL", "postgres://app:pa%2Fss%40word@/shop?host=/run", ["pa/ss@word", "pa%2Fss%40word"]),
        ("DATABASE_URL", "postgres://app:pa/ssword@db:5432/shop", ["pa/ssword"]),
        ("DATABASE_URL", "postgres:///shop?user=app&password=hunter2222", ["hunter2222"]),
        ("REDIS", "redis://:hunter2hunter2@localhost:6379/0", ["hunter2hunter2"]),
        ("GIT", "https://tokenwithoutaname@git.example.org/x.git", ["tokenwithoutaname"]),
        ("SENTRY_DSN", "https://0123456789abcdef@o1.ingest.sentry.io/12", ["0123456789abcdef"]),
        ("SLACK", "https://hooks.slack.com/services/T0000/B0000/aB3dE5gH7jK9lM1n", ["aB3dE5gH7jK9lM1n"]),
        ("AZURE", "AccountName=shop;AccountKey=aB3dE5gH7jK9lM1n==", ["aB3dE5gH7jK9lM1n=="]),
        ("TLS_KEY", KEY, ["MIIEvQIBADANBgkqhkiG9w0BAQEFAASC", "BKcwggSjAgEAAoIB"]),
        ("ACCOUNT", ACCOUNT, ["GOCS-abcdef123", "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC", "BKcwggSjAgEAAoIB"]),
        ("QUOTED", '"hunter2 hunter2 "', ["hunter2 hunter2", "hunter2 hunter2 "]),
        ("TOKENS", "abc123def,ghi456jkl", ["abc123def,ghi456jkl"]),
        ("OROBOROS_NONCE", "0123456789abcdef0123", ["0123456789abcdef0123"]),
    ],
)
def test_a_value_is_a_secret_whole_or_in_its_parts(name: str, value: str, secret: list[str]) -> None:
    assert set(secrets_in(name, value)) == set(secret)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[
            ("ANY_TOKEN", value)
            for value in ("", "1", "abc", "true", "False", "3000", "none", "production", "localhost")
        ],
        *[
            ("MODE", value)
            for value in ("production", "development", "bookstore", "two words", "en_US.UTF-8", "hunter2")
        ],
        *[("LIMIT", value) for value in ("10485760", "2026-11-30T10:00:00Z", "0.0.0.0:8000", "1,2,3")],
        *[("HOSTS", value) for value in ("app.example.com,www.example.com", "db.internal:5432", "shop.settings.prod")],
        *[
            ("API", value)
            for value in ("https://api.example.com/v1", "postgres://app@db/shop", "redis://localhost:6379")
        ],
        *[("CERT_FILE", value) for value in ("/etc/ssl/private.pem", "/run/secrets/aB3dE5gH7jK9lM1n")],
        *[("PYTHON", value) for value in ("/opt/venv/bin/python3", "/usr/bin:/usr/local/bin")],
        ("TOKEN_FILE", "/run/secrets/token"),
        ("NODE_OPTIONS", "--max-old-space-size=512"),
        ("AWS_REGION", "eu-central-1"),
        ("TZ", "Europe/Berlin"),
        ("MAIL_FROM", "shop@example.com"),
    ],
)
def test_a_word_of_configuration_is_no_secret(name: str, value: str) -> None:
    assert list(secrets_in(name, value)) == []


def test_of_what_we_set_only_the_login_and_the_nonce_are_secrets() -> None:
    ours = {"OROBOROS_RELEASE": "f" * 40, "GIT_COMMIT": "f" * 40, "OROBOROS_CONFIGURED": "1796077200123456789"}
    ours |= {
        "OROBOROS_URL": "https://app.example.com",
        "OROBOROS_SOCKET": "/run/x/aB3dE5gH7jK9lM1n",
        "PORT": "82000001",
    }
    assert SecretValues.of(ours).is_empty
    assert SecretValues.of({**ours, "OROBOROS_NONCE": "0123456789abcdef"}).forms


AWKWARD = "p@ss/w0rd \"with\" 'every' \\sign & ünïcode%"
FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "json": json.dumps,
    "json as it is": lambda value: json.dumps(value, ensure_ascii=False),
    "json in json": lambda value: json.dumps(json.dumps({"key": value})),
    "python": lambda value: repr({"key": value}),
    "address": lambda value: urllib.parse.quote(value, safe=""),
    "path": urllib.parse.quote,
    "form": lambda value: urllib.parse.urlencode({"key": value}),
    "html": html.escape,
    "hexadecimal": lambda value: value.encode().hex(),
    "base64": lambda value: base64.b64encode(value.encode()).decode(),
    "base64 for addresses": lambda value: base64.urlsafe_b64encode(value.encode()).decode(),
    "basic": lambda value: base64.b64encode(f"app:{value}".encode()).decode(),
    "basic of two": lambda value: base64.b64encode(f"me:{value}".encode()).decode(),
    "basic of four": lambda value: base64.b64encode(f"main:{value}!".encode()).decode(),
    "a beginning": lambda value: value[: len(value) // 2 + 4] + "…",
    "an end": lambda value: "…" + value[len(value) // 2 :],
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("value", ["aB3dE5gH7jK9lM1nO3pQ5rS7", AWKWARD.replace(" ", "_")], ids=["drawn", "awkward"])
def test_a_secret_is_masked_in_every_form(form: Callable[[str], str], value: str) -> None:
    secrets = SecretValues.of({"SOME_KEY": value})
    shown = secrets.mask(f"before {form(value)} after".encode())
    assert shown.startswith(b"before ")
    assert shown.endswith(b" after")
    assert shown.count(MASK) == 1
    # What is left of base64 are bits of its neighbours.
    assert len(shown) - len(b"before  after") - len(MASK) <= len(form("")) + 5
    assert value[:12].encode() not in shown


def test_a_short_secret_is_masked_as_a_word_of_its_own() -> None:
    secrets = SecretValues.of({"DB_PASSWORD": "tiger", "MODE": "tigers"})
    assert secrets.mask(b"tiger tigers 'tiger' untiger tiger") == b"[secret] tigers '[secret]' untiger [secret]"


def test_what_is_no_secret_stays() -> None:
    secrets = SecretValues.of(
        {"API_KEY": "aB3dE5gH7jK9lM1nO3pQ", "MODE": "production", "PORT": "3000", "DEBUG": "true"}
    )
    text = b"in production at 3000: true \xff\x00 " + b"f" * 40 + b" /srv/app/aB3dE5.py\n" * 9
    assert secrets.mask(text) == text


@pytest.mark.parametrize("size", [1, 2, 3, 7, 11, 64, 4_096])
@pytest.mark.parametrize("line", [b"\n", b" "], ids=["lines", "one line"])
@pytest.mark.parametrize("is_slow", [False, True])
def test_a_stream_in_pieces_is_masked_as_a_whole(size: int, line: bytes, is_slow: bool) -> None:
    first, second = b"aB3dE5gH7jK9lM1nO3pQ", b"zY9xW8vU7tS6rQ5p"
    secrets = SecretValues.of({"ONE_KEY": first.decode(), "TWO_KEY": second.decode(), "DB_PASSWORD": "tiger"})
    text = line.join([b"plain", first, b"tiger", second + first, b"aB3d" + second, b"x" * (LINE_BYTES_MAX // 64)] * 70)
    lines, shown = MaskedLines(secrets), []
    for at in range(0, len(text), size):
        shown.append(lines.feed(text[at : at + size]))
        if is_slow and size > 1 and at % 13 == 0:
            shown.append(lines.pause())
    shown.append(lines.end())
    assert b"".join(shown) == text.replace(first, MASK).replace(second, MASK).replace(b"tiger", MASK)
