"""Is every secret masked to its very end, and nothing else?"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable

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


#: `hunter2` or something else that was drawn is the secret in each.
TOLD = r"""
DB_PASSWORD=hunter2
password: hunter2
{"password": "hunter2"}
{\"password\": \"hunter2\"}
'password': 'hunter2',
password => "hunter2"
:password=>"hunter2"
db.password = hunter2
spring.datasource.password=hunter2
--password hunter2
--password=hunter2
mysql --user=app --password 'hunter2'
https://hunter2hunter@host/path
https://user:hunter2@host/path
postgres://app:hun/ter2@db.example.com:5432/shop
postgres://app:hunter2@db/shop?sslmode=require
postgres://app:hun@ter2@db/shop
redis://:hunter2@127.0.0.1:6379/0
mongodb+srv://app:hunter2@cluster0.abcde.mongodb.net/?retryWrites=true
amqp://guest:hunter2@rabbit:5672/%2F
connect to postgres://app:hunter2-very-lo
connect to postgres://app:hunter2…
could not reach https://user:hunter2
app:hunter2@tcp(127.0.0.1:3306)/shop
app:hunter2@db.example.com:5432/shop
AKIAIOSFODNN7EXAMPLE
aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY
InvalidSignature: AKIAIOSFODNN7EXAMPLE wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY
xoxb-123456789012-abcdefABCDEF
sk_live_4eC39HqLyjWDarjtT1zdp7dc
npm_aB3dE5gH7jK9lM1nO3pQ5rS7tU9vW1xY3zA5
//registry.npmjs.org/:_authToken=aB3dE5gH7jK9lM1n
pypi-AgEIcHlwaS5vcmcCJGFiY2RlZg
ghp_aB3aB3aB3aB3aB3aB3aB3
Authorization: Bearer abcdef
authorization: token plain
Authorization: Basic dXNlcjpwYXNz
-H 'Authorization: Bearer abc.def'
{'Authorization': 'Bearer hunter2'}
Cookie: session=hunter2; theme=dark
Set-Cookie: sid=hunter2; Path=/; HttpOnly
X-Api-Key: hunter2
api_key=hunter2
"apiKey": "hunter2"
STRIPE_SECRET_KEY=hunter2
SECRET_KEY_BASE=hunter2hunter2
client_secret: hunter2
?access_token=hunter2&x=1
?sig=aB3dE5gH7jK9lM1n%3D
curl -u app:hunter2 https://x.example.com
ValueError: bad token: hunter2
password="correct horse battery staple"
password: correct horse battery staple
https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX
AccountKey=aB3dE5gH7jK9lM1nO3pQ5rS7tU9vW1xY3zA5==;EndpointSuffix=core.windows.net
eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-def_ghi
eyJhbGciOiJIUzI1NiIsInR5cCI6
DATABASE_PASSWORD='hun ter2' is set
PGPASSWORD=hunter2 psql
password=p@$$w0rd,with;signs
"private_key": "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----\n"
MIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nabcd\n-----END PRIVATE KEY-----\n", "client_email": "x"
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
glpat-aB3dE5gH7jK9lM1nO3pQ
AIzaSyA-aB3dE5gH7jK9lM1nO3pQ5rS7tU9v
password = hunter2
jdbc:postgresql://db/shop?user=app&password=hunter2
Server=db;Database=shop;User Id=app;Password=hunter2;
IDENTIFIED BY 'hunter2'
"""


@pytest.mark.parametrize("text", TOLD.strip().splitlines())
@pytest.mark.parametrize("around", ["{}", "2026-11-30 12:00 ERROR app: {} (attempt 2)", "  {}\n    at line 3"])
def test_a_secret_is_known_by_its_form_its_name_or_its_place(text: str, around: str) -> None:
    shown = redact(around.format(text))
    assert MASK in shown
    for told in (
        "hunter2",
        "ter2",
        "aB3dE5gH7jK9lM1n",
        "wJalrXUtn",
        "dXNlcjpwYXNz",
        "XXXXXX",
        "staple",
        "p@$$w0rd",
        "AKIA",
    ):
        assert told not in shown
    assert redact(shown) == shown


#: What people need to read as it stands.
PLAIN = r"""
382a7a0f9c1e4b5d6a7b8c9d0e1f2a3b4c5d6e7f
password: must be at least 8 characters
{"password": "must be at least 8 characters"}
SyntaxError: Unexpected token: }
SyntaxError: Unexpected token '<', "<!DOCTYPE "... is not valid JSON
invalid token: expected string, got null
token: required
550e8400-e29b-41d4-a716-446655440000
/usr/lib/node_modules/npm/node_modules/@npmcli/arborist/lib/tree.js:12:3
https://registry.npmjs.org/@scope/pkg/-/pkg-1.0.0.tgz
http://localhost:8080/@vite/client
https://github.com/acme/shop/pull/7
ssh://git@github.com/acme/shop.git
git@github.com:acme/shop.git
sha512-aB3dE5gH7jK9lM1nO3pQ5rS7tU9vW1xY3zA5==
bearer token missing, Basic authentication needed
KeyError: 'SECRET_KEY'
STRIPE_KEY is not set
Error: STRIPE_KEY is not set
    password = os.environ["DB_PASSWORD"]
    token = get_token(request)
    const token = await fetch("/login")
    secret: process.env.SECRET,
password=None
token: undefined
max_tokens=4096 tokens: 12
token_count: 512
primary key = id
cache key: node-modules-linux-x64
exit code: 1
error[E0433]: failed to resolve: use of undeclared type `Token`
node:20@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
mailto:bob@example.org
FATAL:  password authentication failed for user "app"
fe_sendauth: no password supplied
psql: error: connection to server at "db" (10.0.0.5), port 5432 failed
Key (email)=(bob@example.org) already exists.
npm_config_registry npm_lifecycle_event
pk_live_4eC39HqLyjWDarjtT1zdp7dc
author: Bob <bob@example.org>
pass 12
# pass 12
# fail 0
passed: 3
x-request-id: 8f14e45fceea167a5a36dedd4bea2543
lodash@4.17.21
http://127.0.0.1:8200/health
redis://localhost:6379/0
postgres://localhost:5432/shop
postgres://user@db/shop
mongodb://h1:27017,h2:27017/shop
the password is wrong
Token expired
  password: string;
  token?: string
export SECRET=$SECRET
password: ${{ secrets.DB_PASSWORD }}
-----BEGIN CERTIFICATE-----
ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGq8 bob@host
live since 2026-11-30 22:30 UTC (proof: echo)
ImportError: cannot import name 'token' from 'tokenize' (/usr/lib/python3.11/tokenize.py)
jwt.exceptions.DecodeError: Not enough segments
cookie: SameSite attribute missing
Content-Security-Policy: default-src 'self'
"""


@pytest.mark.parametrize("text", PLAIN.strip("\n").splitlines())
def test_what_only_speaks_about_secrets_stays(text: str) -> None:
    assert redact(text) == text
    assert redact(f"app: {text}") == f"app: {text}"


def body_of_key(lines: int) -> list[str]:
    """Lines as in a PEM file, of 64 characters, and a shorter one at the end."""
    whole = base64.b64encode(bytes(range(7, 250)) * 20).decode()
    return [whole[at * 64 : at * 64 + 64] for at in range(lines - 1)] + [whole[:21] + "=="]


@pytest.mark.parametrize("kind", ["PRIVATE KEY", "RSA PRIVATE KEY", "OPENSSH PRIVATE KEY", "PGP PRIVATE KEY BLOCK"])
@pytest.mark.parametrize("line_end", ["\n", "\\n", "\n    "], ids=["lines", "escaped", "indented"])
@pytest.mark.parametrize("cut", ["whole", "end", "beginning", "both"])
def test_a_key_is_masked_whole_or_cut_at_either_side(kind: str, line_end: str, cut: str) -> None:
    lines = [f"-----BEGIN {kind}-----", *body_of_key(30), f"-----END {kind}-----"]
    lines = lines[9:] if cut in ("beginning", "both") else lines
    lines = lines[:-1] if cut in ("end", "both") else lines
    if cut == "both" and line_end == "\\n":
        lines = lines[:1]
    shown = redact(f"loaded:{line_end}{line_end.join(lines)}")
    assert shown.startswith("loaded:")
    for line in body_of_key(30):
        assert line[:16] not in shown
    assert "-----END" not in shown


def test_what_stands_around_a_key_that_was_cut_stays() -> None:
    lines = ["reading key", *body_of_key(5), "-----END PRIVATE KEY-----", "ValueError: no key"]
    assert redact("\n".join(lines)) == f"reading key\n{MASK}\nValueError: no key"
    lines = ["reading key", *body_of_key(5)[:-1], "ValueError: no key"]
    assert redact("\n".join(lines)).splitlines() == ["reading key", *[MASK] * 4, "ValueError: no key"]


#: Each grows with its number, and is what some expression might read again and again.
HARD: dict[str, Callable[[int], str]] = {
    "names": lambda n: "password " * n,
    "values": lambda n: "token=a," * n,
    "quotes": lambda n: 'password="is ' * n,
    "escapes": lambda n: 'secret=\\"' + "\\" * n + "a",
    "addresses": lambda n: "https://" * n,
    "logins": lambda n: "https://a:" + "b/" * n,
    "bare logins": lambda n: "a:b," * n,
    "at signs": lambda n: "a:b@" * n,
    "keys": lambda n: "-----BEGIN PRIVATE KEY " * n,
    "ends of keys": lambda n: "QUJD\n" * n + "-----END PRIVATE KEY-----\n" * 20,
    "lines of keys": lambda n: (body_of_key(2)[0] + "\n") * (n // 8),
    "dots": lambda n: "eyJhbGci." * n,
    "prefixes": lambda n: "-ghp_" * n,
    "cookies": lambda n: "cookie: " * n,
    "headers": lambda n: "authorization: " * n,
    "blanks": lambda n: "password" + " " * n,
    "letters": lambda n: "a" * n,
    "base64": lambda n: "aB3/" * n,
    "brackets": lambda n: "token: a[" * n,
}


@pytest.mark.parametrize("grow", HARD.values(), ids=HARD.keys())
def test_eight_times_the_text_takes_no_more_than_a_multiple_of_the_time(grow: Callable[[int], str]) -> None:
    def took_s(text: str) -> float:
        best = 60.0
        for _ in range(3):
            began = time.process_time()
            redact(text)
            best = min(best, time.process_time() - began)
        return best

    small = took_s(grow(1_000))
    # What is quadratic takes 64 times as long. Below a fifth of a second nothing can be told apart.
    assert took_s(grow(8_000)) < max(0.2, 24 * small)
