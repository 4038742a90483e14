"""What strangers feed us is read in time and memory that grow with its size, never with the square of it.

Each reader is given one kind of input in two sizes, the one `GROWTH` times the other. What it takes for the larger one
may be `SLACK` times as much more; the square would be `GROWTH` times as much more. Time is that of the processor, and
the least of some repetitions, so that a busy machine changes nothing.
"""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from collections.abc import Callable
from typing import Final

import pytest

from controller.decisions.admission import is_match
from controller.decisions.commands import parse_command
from controller.decisions.github.wire import Reply, next_link, read_json, told
from controller.decisions.initial import initial_deploy_toml, missing_deploy_toml
from controller.decisions.log_lines import last_lines, last_visible_line
from controller.decisions.markdown import block, cell, code
from controller.decisions.signatures import judge_output, kind_of
from controller.decisions.smoke import parse_origin, parse_route
from controller.decisions.tree_rules import changed_paths, parse_commit, parse_tree, visible
from controller.model.deploy_toml import parse_deploy_toml
from controller.model.errors import OroborosError
from controller.model.redaction import redact
from hooks.payload import Ours, read_form_hint, read_hint

SMALL: Final = 1_000
GROWTH: Final = 16
SLACK: Final = 4
REPETITIONS: Final = 3
#: Less is the noise of the clock, and what a first call costs.
FLOOR_S: Final = 0.000_2
FLOOR_BYTES: Final = 200_000

OURS: Final = Ours(name="team/app")


def filled(unit: str, size: int) -> str:
    return (unit * (size // len(unit) + 1))[:size]


def deploy_toml(text: str) -> None:
    parse_deploy_toml(text.encode())


def webhook(text: str) -> None:
    read_hint(text.encode(), "push", ours=OURS)


def form(text: str) -> None:
    read_form_hint(b"payload=" + text.encode(), "push", ours=OURS)


def forge(text: str) -> None:
    reply = Reply(status=422, headers={}, body=text.encode())
    told(reply)
    read_json(reply, "a list")


def link(text: str) -> None:
    next_link(Reply(status=200, headers={"link": text}, body=b""))


def shown(text: str) -> None:
    last_visible_line(text.encode())
    last_lines(text.encode(), lines=100)
    block(text.split("\n"))
    cell(code(text))
    visible(text.encode())


def folder(name: str) -> Callable[[str], object]:
    return lambda text: initial_deploy_toml([name, "index.html"], {name: text})


def signature(text: str) -> None:
    kind_of(text.encode())
    judge_output("ssh", text, 0)
    judge_output("pgp", text, 0)


def of_commit(text: str) -> None:
    parse_commit(b"tree " + b"a" * 40 + b"\n" + text.encode())


def tree(size: int) -> bytes:
    return b"".join(b"100644 %08d\0" % number + bytes(20) for number in range(size // 36))


def nested_trees(size: int) -> None:
    """Folders in each other, each with a file: paths that together are as long as the square of their number."""
    trees = {b"%020d" % number: b"40000 d\0%020d100644 f\0%020d" % (number + 1, number) for number in range(size // 50)}
    changed_paths(b"x" * 20, b"%020d" % 0, read_tree=lambda tree: trees.get(tree, b""), paths_max=10_000)


Case = tuple[str, Callable[[str], object], Callable[[int], str]]

JSON: Final[dict[str, Callable[[int], str]]] = {
    "arrays in each other": lambda n: "[" * n,
    "arrays in each other, closed": lambda n: "[" * (n // 2) + "]" * (n // 2),
    "objects in each other": lambda n: filled('{"a":', n),
    "many keys": lambda n: "{" + ",".join(f'"k{i}":{i}' for i in range(n // 12)) + "}",
    "the same key": lambda n: "{" + ",".join('"k":1' for _ in range(n // 6)) + "}",
    "many numbers": lambda n: "[" + filled("1,", n) + "1]",
    "a long number": lambda n: '{"number": ' + "9" * n + "}",
    "a long exponent": lambda n: '{"number": 1e' + "9" * n + "}",
    "a long fraction": lambda n: '{"number": 0.' + "9" * n + "}",
    "a long text": lambda n: '{"ref": "' + "a" * n + '"}',
    "escapes": lambda n: '{"ref": "' + filled("\\u0041", n // 6 * 6) + '"}',
    "surrogates": lambda n: '{"ref": "' + filled("\\ud800", n // 6 * 6) + '"}',
    "spaces": lambda n: " " * n + "{}",
    "an open text": lambda n: '{"ref": "' + "\\\\" * (n // 2),
}
TOML: Final[dict[str, Callable[[int], str]]] = {
    "a dotted key": lambda n: filled("a.", n) + "=1",
    "a dotted key of quoted parts": lambda n: filled('"".', n) + "a=1",
    "a dotted key of spaces": lambda n: filled("a . ", n) + "=1",
    "a dotted key in a table": lambda n: "a={" + filled("a.", n) + "=1}",
    "a dotted header": lambda n: "[" + filled("a.", n) + "a]",
    "a header before keys": lambda n: (
        "[" + filled("a.", n // 2) + "a]\n" + "".join(f"k{i}=1\n" for i in range(n // 14))
    ),
    "headers": lambda n: "".join(f"[t{i}]\n" for i in range(n // 7)),
    "tables of an array": lambda n: filled("[[production.freeze]]\n", n),
    "arrays in each other": lambda n: "a=" + "[" * n,
    "tables in each other": lambda n: "a=" + filled("{a=", n),
    "keys": lambda n: "".join(f"k{i}=1\n" for i in range(n // 9)),
    "keys of a table that we know": lambda n: "[web]\n" + "".join(f"k{i}=1\n" for i in range(n // 9)),
    "keys of one line": lambda n: "a={" + ",".join(f"k{i}=1" for i in range(n // 9)) + "}",
    "elements of a wrong type": lambda n: "[smoke]\nroutes=[" + filled("1,", n) + "1]",
    "elements of a wrong form": lambda n: "[smoke]\nroutes=[" + filled("'',", n) + "'']",
    "patterns": lambda n: "[previews]\npaths=[" + filled("'*',", n // 4 * 4) + "'*']",
    "a long number": lambda n: "a=" + "9" * n,
    "a long hex number": lambda n: "[retention]\nkeep=0x" + "f" * n,
    "a long fraction": lambda n: "a=0." + "9" * n,
    "a long key": lambda n: '"' + "k" * n + '"=1',
    "a long text": lambda n: "a='" + "k" * n + "'",
    "escapes": lambda n: 'a="' + filled("\\n", n // 2 * 2) + '"',
    "texts without an end": lambda n: filled('"""a', n),
    "quotes": lambda n: filled("'", n),
    "lines that go on": lambda n: 'a="""' + filled("\\\n", n // 2 * 2) + '"""',
    "comments": lambda n: filled("#.\n", n),
    "a command of one word": lambda n: "[api]\ncommand='" + "a" * n + "'",
    "a command of many words": lambda n: "[api]\ncommand='" + filled("a ", n) + "'",
    "a command of empty words": lambda n: "[api]\ncommand='" + filled('"" ', n) + "'",
    "a host": lambda n: "[production]\nhost='" + filled("a-", n) + "'",
    "a host of dots": lambda n: "[production]\nhost='" + filled("a.", n) + "'",
    "a zone": lambda n: "[[production.freeze]]\ntimezone='" + filled("a/", n) + "'",
    "a duration": lambda n: "[gate]\nwindow_s='" + "1" * n + "'",
}
WORDS: Final = (
    "a",
    "=",
    " ",
    "`",
    "|",
    "@",
    "/",
    ":",
    "-",
    ".",
    "\\",
    "'",
    '"',
    "<",
    "\t",
    "\n",
    "\r\n",
    "é",
    "\U0001f600",
)
PHRASES: Final = (
    "-----BEGIN ",
    "-----BEGIN PRIVATE KEY-----\n",
    "-----BEGIN PRIVATE",
    "ghs_a ",
    "ghp_",
    "github_pat_",
    "eyJ",
    "eyJ-",
    "eyJa.",
    "eyJ-a.eyJ-",
    "Bearer ",
    "Bearer\t \n",
    "authorization: ",
    "authorization:\\",
    "key:",
    "key://",
    "session=a1",
    "password=.",
    "authorization = token ",
    "password=",
    "password='",
    'password="',
    "password : ",
    "://",
    "://a:",
    "://a:b",
    "postgres://a:b@",
    "SECRET_KEY=",
    "https://a@",
    "Error: ",
    "Traceback (most recent call last):\n",
    '  File "a.py", line 1, in a\n',
    "npm ERR! ",
    "    at a (b:1:1)\n",
    "<!--",
    "```\n",
    "fixes #1 ",
    "\x1b[31m",
    "\x1b[",
    "\u202e",
)
TEXTS: Final[dict[str, Callable[[int], str]]] = {
    **{ascii(word): (lambda n, word=word: filled(word, n)) for word in (*WORDS, *PHRASES)},
    "spaces before a word": lambda n: " " * n + "x",
    "a word and spaces": lambda n: "password" + " " * n + "x",
    "a header and spaces": lambda n: "authorization" + " " * n + "x",
}
CASES: Final[list[Case]] = [
    *((f"deploy.toml: {kind}", deploy_toml, make) for kind, make in TOML.items()),
    *((f"webhook: {kind}", webhook, make) for kind, make in JSON.items()),
    *((f"forge: {kind}", forge, make) for kind, make in JSON.items()),
    *((f"package.json: {kind}", folder("package.json"), make) for kind, make in JSON.items()),
    *((f"Cargo.toml: {kind}", folder("Cargo.toml"), make) for kind, make in TOML.items()),
    *((f"redaction: {kind}", redact, make) for kind, make in TEXTS.items()),
    *((f"shown: {kind}", shown, make) for kind, make in TEXTS.items()),
    *((f"comment: {word!a}", parse_command, lambda n, word=word: "/preview" + filled(word, n) + "x") for word in WORDS),
    ("comment: spaces in an argument", parse_command, lambda n: "/preview a" + " " * n + "x"),
    ("comment: lines", parse_command, lambda n: filled("\n", n) + "/preview"),
    ("form: escapes", form, lambda n: filled("%41", n // 3 * 3)),
    ("form: fields", form, lambda n: filled("&a=", n)),
    ("form: a name", form, lambda n: "&" + "a" * n),
    ("links: open", link, lambda n: filled("<a>;", n)),
    ("links: half", link, lambda n: filled("<", n)),
    ("links: spaces", link, lambda n: "<a>" + " " * n + ";"),
    ("links: relations", link, lambda n: filled('<a>; rel="prev", ', n)),
    *(
        (f"Procfile: {word!a}", folder("Procfile"), lambda n, word=word: "web: a" + filled(word, n) + "x")
        for word in WORDS
    ),
    ("Procfile: lines", folder("Procfile"), lambda n: filled("web: a\n", n)),
    *((f"app.py: {word!a}", folder("app.py"), lambda n, word=word: "app" + filled(word, n) + "x") for word in WORDS),
    ("app.py: words", folder("app.py"), lambda n: filled("a = b.", n)),
    *(
        (f"requirements.txt: {word!a}", folder("requirements.txt"), lambda n, word=word: filled(word, n))
        for word in WORDS
    ),
    ("signature: with", signature, lambda n: filled('Good "git" signature for a with a key ', n)),
    ("signature: words", signature, lambda n: filled(" with a key", n)),
    ("signature: status", signature, lambda n: filled("[GNUPG:] GOODSIG a b\n", n)),
    ("commit: parents", of_commit, lambda n: filled("parent " + "b" * 40 + "\n", n)),
    ("commit: headers", of_commit, lambda n: filled("gpgsig a\n", n)),
    ("commit: a signature", of_commit, lambda n: "gpgsig a" + filled("\n b", n)),
    ("commit: a title", of_commit, lambda n: "\n" + "x" * n),
    ("commit: empty lines", of_commit, lambda n: "\n" * n),
    ("tree: entries", lambda text: parse_tree(text.encode()), lambda n: filled("100644 name\0" + "a" * 20, n)),
    ("tree: a name", lambda text: parse_tree(text.encode()), lambda n: "100644 " + "a" * n),
    ("tree: modes", lambda text: parse_tree(text.encode()), lambda n: filled("1 ", n)),
    ("changed paths: folders in each other", lambda text: nested_trees(len(text)), lambda n: " " * n),
    ("names: many", lambda text: missing_deploy_toml([b"%d/x" % n for n in range(len(text) // 5)]), lambda n: " " * n),
    ("names: shown", lambda text: visible(text.encode()), lambda n: filled("\x1b", n)),
    ("pattern: stars in a branch", lambda text: is_match("*a*a*a*b", text), lambda n: "a" * n),
    ("pattern: folders", lambda text: is_match("**/a/**/a/**/b", text), lambda n: filled("a/", n)),
    ("pattern: stars in folders", lambda text: is_match("**/*a*b", text), lambda n: filled("aa/", n)),
    ("address: of a redirect", lambda text: parse_origin(text), lambda n: "http://" + filled("a.", n)),
    ("address: a route", lambda text: parse_route(text), lambda n: filled("/a", n)),
]


@pytest.mark.parametrize(("read", "make"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_is_read_costs_in_proportion_to_its_size(
    read: Callable[[str], object], make: Callable[[int], str]
) -> None:
    small, large = make(SMALL), make(SMALL * GROWTH)
    took = max(FLOOR_S, least_s(read, small))
    bound = took * GROWTH * SLACK
    assert least_s(read, large, enough_s=bound) <= bound
    assert peak_bytes(read, large) <= max(FLOOR_BYTES, peak_bytes(read, small)) * GROWTH * SLACK


def least_s(read: Callable[[str], object], text: str, *, enough_s: float = 0.0) -> float:
    """Return the least time of the processor that some readings took; no more of them once it is little enough."""
    least = float("inf")
    for _ in range(REPETITIONS):
        began = time.process_time()
        with contextlib.suppress(OroborosError, ValueError):
            read(text)
        least = min(least, time.process_time() - began)
        if least <= enough_s:
            break
    return least


def peak_bytes(read: Callable[[str], object], text: str) -> int:
    tracemalloc.start()
    try:
        with contextlib.suppress(OroborosError, ValueError):
            read(text)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
