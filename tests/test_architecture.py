"""Does an import only ever go down a floor, and is nothing done that is never done here?

The floors: `hooks` and `controller.model` at the bottom; `decisions` are pure; `effects` do not know each other;
`loop` composes them; `doors` wire everything; `development` is for one machine and imported by nobody but a door,
inside a function, so that a host without the embedded parts runs all the rest. Each rule here is shown a bad sample.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]

MODEL, DECISIONS, EFFECTS, LOOP = "controller.model", "controller.decisions", "controller.effects", "controller.loop"
DOORS, DEVELOPMENT = "controller.doors", "controller.development"
#: Leaves without a floor of their own: waits that do not count while the machine stands still, system calls for whole
#: folders, named places where a test stops a process, a word to the service manager, a pipe before a log, a port of
#: TCP that leads to a Unix socket, why a program was not started, where processes listen, and the worker's threads.
LEAVES = (
    *("controller.awake_clock", "controller.disk", "controller.failpoints", "controller.listeners"),
    *("controller.log_pipe", "controller.loopback_door", "controller.service_manager", "controller.start_failure"),
    "controller.threads",
)
#: Who may import what of ours, the first that fits; beside itself. Effects are told apart below.
FLOORS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("hooks", ("hooks", MODEL)),
    (MODEL, (MODEL,)),
    (DECISIONS, (MODEL, DECISIONS)),
    (EFFECTS, (MODEL, DECISIONS, "controller.effects.runtime", *LEAVES)),
    (LOOP, (MODEL, DECISIONS, EFFECTS, LOOP, *LEAVES)),
    (
        DOORS,
        (MODEL, DECISIONS, EFFECTS, LOOP, DOORS, "controller.control_launcher", "controller.edge_launcher", *LEAVES),
    ),
    (DEVELOPMENT, (MODEL, DECISIONS, EFFECTS, LOOP, DOORS, DEVELOPMENT, "hooks", *LEAVES)),
    # Inside a slot's walls on a host: root's own, with the standard library alone.
    ("controller.launcher", (MODEL, DECISIONS, "controller.effects.checkout", *LEAVES)),
    ("controller.control_launcher", ()),
    ("controller.edge_launcher", ()),
    # Before there is a package of ours, on whatever Python the host has.
    ("controller.first_look", (MODEL, "controller.listeners")),
    # A test breaks each thread as it begins.
    ("controller.threads", (MODEL, "controller.failpoints")),
    *((leaf, (MODEL,)) for leaf in LEAVES),
)
#: Doors that know more: the one process that has the receiver and the API, and the checks of the receiver's secrets.
KNOW_HOOKS = frozenset({"controller.doors.api_server", "controller.doors.doctor", "controller.doors.doctor_host"})
#: Doors that start or ask a stack of one machine, and import what that takes inside a function.
KNOW_DEVELOPMENT = re.compile(r"controller\.doors\.(?:(?:cli|doctor)(?:_\w+)?|stacks)\Z")

#: All that model and decisions import beside each other. None of these reads a clock, a disk, a network or dice.
PURE = frozenset(
    {
        *(
            "__future__",
            "collections",
            "dataclasses",
            "datetime",
            "difflib",
            "enum",
            "functools",
            "html",
            "hashlib",
            "ipaddress",
            "itertools",
        ),
        *("json", "math", "operator", "pathlib", "re", "shlex", "string", "textwrap", "tomllib", "types", "typing"),
        "urllib.parse",
    }
)
#: The time zone database is read, once: what it says of an instant is as fixed as a calendar.
PURE_IN = {
    "controller.model.deploy_toml": frozenset({"pydantic", "zoneinfo"}),
    "controller.model.topology_file": frozenset({"pydantic"}),
    "controller.decisions.holds": frozenset({"zoneinfo"}),
    "controller.decisions.notifications": frozenset({"hmac"}),
    "controller.model.secret_values": frozenset({"base64"}),
}
#: `hash` and `id` differ from one process to the next.
IMPURE_CALLS = frozenset({"open", "print", "input", "eval", "exec", "__import__", "breakpoint", "hash", "id"})
IMPURE_METHODS = frozenset(
    {
        *("now", "utcnow", "today"),  # of datetime and date
        # Of pathlib.Path: joins are names, these touch the disk.
        *("absolute", "chmod", "cwd", "exists", "expanduser", "glob", "hardlink_to", "home", "is_dir", "is_file"),
        *("is_symlink", "iterdir", "lstat", "mkdir", "open", "owner", "read_bytes", "read_text", "readlink", "rename"),
        *("resolve", "rglob", "rmdir", "samefile", "stat", "symlink_to", "touch", "unlink", "walk"),
        *("write_bytes", "write_text"),
    }
)

FORBIDDEN_NAMES = frozenset({"util", "utils", "helper", "helpers", "common", "misc", "manager", "managers", "handlers"})
DOCSTRING_LINES_MAX = 25


@dataclass(frozen=True)
class Module:
    """One file of Python, by its dotted name."""

    name: str
    tree: ast.Module

    @property
    def is_production(self) -> bool:
        return is_below(self.name, ("controller", "hooks")) and not is_below(self.name, (DEVELOPMENT,))


def is_below(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


@cache
def all_modules() -> tuple[Module, ...]:
    """Every Python file of ours. The sample app is somebody else's program."""
    found = []
    for folder in ("controller", "hooks", "tests"):
        for path in sorted((CHECKOUT / folder).rglob("*.py")):
            relative = path.relative_to(CHECKOUT).with_suffix("")
            if "sample" not in relative.parts:
                name = ".".join(part for part in relative.parts if part != "__init__")
                found.append(Module(name, ast.parse(path.read_text(), str(path))))
    return tuple(found)


def imports_of(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield every module that is imported anywhere in `tree`; for `from a import b` both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            yield from ((f"{origin}.{alias.name}", node.lineno) for alias in node.names)


def imports_inside_functions(tree: ast.Module) -> set[int]:
    """Return the lines of imports that run only when a function does."""
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {line for function in functions for _, line in imports_of(function)}


def called(node: ast.Call) -> str:
    """Return what is called, as it is written: `os.system`, `open`, `.setattr` of something longer."""
    return ast.unparse(node.func)


# The rules: each yields what is wrong with one module.


def keeps_the_floors(module: Module) -> Iterator[str]:
    allowed = next((below for floor, below in FLOORS if is_below(module.name, (floor,))), None)
    if allowed is None:
        return
    lazy = imports_inside_functions(module.tree)
    for imported, line in imports_of(module.tree):
        if imported.startswith("."):
            yield f"{module.name}:{line} imports {imported}: a relative import hides where it goes"
        if not is_below(imported, ("controller", "hooks")) or is_below(imported, (*allowed, module.name)):
            continue
        if KNOW_DEVELOPMENT.match(module.name) and is_below(imported, (DEVELOPMENT,)) and line in lazy:
            continue
        if module.name in KNOW_HOOKS and is_below(imported, ("hooks",)):
            continue
        yield f"{module.name}:{line} imports {imported}"


def is_pure(module: Module) -> Iterator[str]:
    if not is_below(module.name, (MODEL, DECISIONS)):
        return
    allowed = PURE | PURE_IN.get(module.name, frozenset())
    for imported, line in imports_of(module.tree):
        if not is_below(imported, ("controller", *allowed)):
            yield f"{module.name}:{line} imports {imported}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            if called(node) in IMPURE_CALLS or method in IMPURE_METHODS:
                yield f"{module.name}:{node.lineno} calls {called(node)}"


def imports_by_name_only(module: Module) -> Iterator[str]:
    """A module that is named by a text escapes the floors."""
    if not module.is_production:
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and called(node).rpartition(".")[2] in ("import_module", "__import__"):
            yield f"{module.name}:{node.lineno} calls {called(node)}"


def runs_no_shell(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        name = called(node)
        if name in ("os.system", "os.popen", "pty.spawn") or name.endswith((".create_subprocess_shell", ".getoutput")):
            yield f"{module.name}:{node.lineno} calls {name}"
        for keyword in node.keywords:
            if keyword.arg == "shell" and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            ):
                yield f"{module.name}:{node.lineno} passes shell"
        if re.fullmatch(r"subprocess\.(run|Popen|call|check_call|check_output)", name) and node.args:
            argv = node.args[0].left if isinstance(node.args[0], ast.BinOp) else node.args[0]
            if isinstance(argv, ast.JoinedStr | ast.Constant | ast.BinOp):
                yield f"{module.name}:{node.lineno} runs a text, not a list of words"
            words = argv.elts if isinstance(argv, ast.List | ast.Tuple) else []
            said = [word.value if isinstance(word, ast.Constant) else "" for word in words]
            if module.is_production and said[1:2] == ["-c"] and str(said[0]).endswith("sh"):
                yield f"{module.name}:{node.lineno} runs a shell"


#: What whoever guesses must not learn byte by byte.
SECRETS = re.compile(r"(?:^|_)(?:signature|signatures|hmac|mac|token|secret)$")
#: In the receiver digests are secrets too; elsewhere they name contents.
SECRETS_OF_HOOKS = re.compile(r"(?:signature|digest|hmac|secret)(?!\w*_header$)", re.IGNORECASE)


def compares_signatures_in_constant_time(module: Module) -> Iterator[str]:
    """T-G6: how long a comparison with == takes tells how much of a forged signature is right."""
    if not module.is_production:
        return
    secret = SECRETS_OF_HOOKS if is_below(module.name, ("hooks",)) else SECRETS
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
            for side in (node.left, *node.comparators):
                if isinstance(side, ast.Call) and called(side) == "len":
                    continue
                for part in ast.walk(side):
                    name = part.attr if isinstance(part, ast.Attribute) else getattr(part, "id", "")
                    if secret.search(name):
                        yield f"{module.name}:{node.lineno} compares {name} with =="


def unpacks_no_archives(module: Module) -> Iterator[str]:
    for imported, line in imports_of(module.tree):
        if is_below(imported, ("tarfile", "zipfile", "shutil.unpack_archive")):
            yield f"{module.name}:{line} imports {imported}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and called(node).endswith(".unpack_archive"):
            yield f"{module.name}:{node.lineno} unpacks an archive"


def patches_nothing(module: Module) -> Iterator[str]:
    """Environment and folder of a test may be set; a module stays as it is."""
    for imported, line in imports_of(module.tree):
        if is_below(imported, ("unittest.mock", "mock", "pytest_mock")):
            yield f"{module.name}:{line} imports {imported}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr in ("setattr", "delattr"):
            yield f"{module.name}:{node.lineno} patches by {ast.unparse(node)}"


def says_what_it_is_for(module: Module) -> Iterator[str]:
    if not module.tree.body:
        return
    docstring = ast.get_docstring(module.tree)
    if docstring is None:
        # What a conftest is for is said by its name.
        if not module.name.endswith("conftest"):
            yield f"{module.name} has no docstring"
        return
    lines = docstring.splitlines()
    if len(lines) > DOCSTRING_LINES_MAX:
        yield f"{module.name} has a docstring of {len(lines)} lines"
    if not re.search(r"[.?:!]( |$)", lines[0]):
        yield f"{module.name}: the first line of its docstring is no question and no sentence: {lines[0]!r}"


def is_named_for_what_it_is(module: Module) -> Iterator[str]:
    last = module.name.rpartition(".")[2]
    if last in FORBIDDEN_NAMES:
        yield f"{module.name} could hold anything"
    if not module.is_production:
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and re.match(r"_?(?:handle_|do_[a-z])", node.name):
            yield f"{module.name}:{node.lineno} {node.name} does not say what it does"
        if isinstance(node, ast.ClassDef) and re.search(r"(?:Manager|Helper|Utils?)$", node.name):
            yield f"{module.name}:{node.lineno} {node.name} does not say what it is"


def catches_what_it_names(module: Module) -> Iterator[str]:
    if not module.is_production:
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type is not None else ""
            raises_again = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            if caught in ("", "Exception", "BaseException") and not raises_again:
                yield f"{module.name}:{node.lineno} swallows {caught or 'everything'}"


Rule = Callable[[Module], Iterator[str]]
RULES: tuple[Rule, ...] = (
    keeps_the_floors,
    is_pure,
    imports_by_name_only,
    runs_no_shell,
    compares_signatures_in_constant_time,
    unpacks_no_archives,
    patches_nothing,
    says_what_it_is_for,
    is_named_for_what_it_is,
    catches_what_it_names,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module(rule: Rule) -> None:
    assert [problem for module in all_modules() for problem in rule(module)] == []


BAD: list[tuple[Rule, str, str]] = [
    (keeps_the_floors, "hooks.app", "from controller.effects.store import Store"),
    (keeps_the_floors, "hooks.app", "import controller.loop.observe"),
    (keeps_the_floors, "controller.model.names", "from controller.decisions import plan"),
    (keeps_the_floors, "controller.decisions.plan", "from controller.effects.live import read_live"),
    (keeps_the_floors, "controller.effects.live", "from controller.effects.store import Store"),
    (keeps_the_floors, "controller.effects.live", "def f():\n    import controller.effects.store"),
    (keeps_the_floors, "controller.effects.live", "from controller.loop import observe"),
    (keeps_the_floors, "controller.loop.observe", "import hooks.inbox"),
    (keeps_the_floors, "controller.loop.observe", "def f():\n    from controller.development import up"),
    (keeps_the_floors, "controller.doors.cli", "from controller.development.up import main_up"),
    (keeps_the_floors, "controller.doors.worker", "def f():\n    from controller.development import up"),
    (keeps_the_floors, "controller.doors.worker", "from hooks.inbox import Inbox"),
    (keeps_the_floors, "controller.disk", "from controller.effects.live import read_live"),
    (keeps_the_floors, "controller.loop.observe", "from . import execute"),
    (is_pure, "controller.model.x", "import os"),
    (is_pure, "controller.model.x", "import pydantic"),
    (is_pure, "controller.decisions.x", "from time import monotonic"),
    (is_pure, "controller.decisions.x", "import logging"),
    (is_pure, "controller.decisions.x", "from urllib.request import urlopen"),
    (is_pure, "controller.decisions.x", "from datetime import datetime\ndatetime.now(UTC)"),
    (is_pure, "controller.decisions.x", "from pathlib import Path\nPath('a').read_text()"),
    (is_pure, "controller.decisions.x", "open('a')"),
    (runs_no_shell, "tests.x", "subprocess.run(words, shell=True)"),
    (runs_no_shell, "tests.x", "subprocess.run(words, shell=shell)"),
    (runs_no_shell, "controller.x", "os.system('ls')"),
    (runs_no_shell, "controller.x", "os.popen('ls')"),
    (runs_no_shell, "controller.x", "subprocess.run('ls')"),
    (runs_no_shell, "controller.x", "subprocess.Popen(f'ls {branch}')"),
    (runs_no_shell, "controller.x", "subprocess.Popen('ls ' + branch)"),
    (runs_no_shell, "controller.x", "subprocess.run(['/bin/sh', '-c', line])"),
    (imports_by_name_only, "controller.x", "importlib.import_module('controller.development.up')"),
    (runs_no_shell, "hooks.x", "asyncio.create_subprocess_shell('ls')"),
    (compares_signatures_in_constant_time, "hooks.signature", "if wanted == signature: pass"),
    (compares_signatures_in_constant_time, "hooks.signature", "if self.given_signature != wanted: pass"),
    (compares_signatures_in_constant_time, "hooks.signature", "ok = mac.hexdigest() == given"),
    (compares_signatures_in_constant_time, "controller.x", "if given != self.token: pass"),
    (unpacks_no_archives, "tests.x", "import tarfile"),
    (unpacks_no_archives, "controller.x", "from zipfile import ZipFile"),
    (unpacks_no_archives, "controller.x", "import shutil\nshutil.unpack_archive(a)"),
    (patches_nothing, "tests.x", "from unittest.mock import patch"),
    (patches_nothing, "tests.x", "from unittest import mock"),
    (patches_nothing, "tests.x", "from controller.effects import live\nmonkeypatch.setattr(live, 'x', 1)"),
    (patches_nothing, "tests.x", "monkeypatch.setattr('controller.effects.live.x', 1)"),
    (patches_nothing, "tests.x", "import os\nmonkeypatch.setattr(os, 'umask', 1)"),
    (says_what_it_is_for, "controller.x", "x = 1"),
    (says_what_it_is_for, "controller.x", '"""Things"""'),
    (says_what_it_is_for, "controller.x", '"""What?\n' + "\n" * 30 + '."""'),
    (is_named_for_what_it_is, "controller.effects.utils", "x = 1"),
    (is_named_for_what_it_is, "tests.helpers", "x = 1"),
    (is_named_for_what_it_is, "controller.x", "def handle_push(): ..."),
    (is_named_for_what_it_is, "controller.x", "class SlotManager: ..."),
    (catches_what_it_names, "controller.x", "try:\n    f()\nexcept Exception:\n    pass"),
    (catches_what_it_names, "controller.x", "try:\n    f()\nexcept:\n    pass"),
]


@pytest.mark.parametrize(("rule", "name", "code"), BAD)
def test_a_rule_notices_what_breaks_it(rule: Rule, name: str, code: str) -> None:
    assert list(rule(Module(name, ast.parse(code))))


GOOD: list[tuple[Rule, str, str]] = [
    (keeps_the_floors, "controller.effects.x", "from controller.effects.runtime import Runtime"),
    (keeps_the_floors, "controller.doors.cli", "def up():\n    from controller.development.up import main_up"),
    (keeps_the_floors, "controller.doors.api_server", "from hooks.app import receiver"),
    (is_pure, "controller.decisions.x", "from pathlib import Path\nPath('a') / 'b'"),
    (runs_no_shell, "controller.x", "subprocess.run(['git', *words])"),
    (runs_no_shell, "controller.x", "subprocess.run(['git'] + words)"),
    (compares_signatures_in_constant_time, "hooks.signature", "hmac.compare_digest(a, signature)"),
    (compares_signatures_in_constant_time, "hooks.signature", "if len(signature) != 64: pass"),
    (patches_nothing, "tests.x", "monkeypatch.setenv('HOME', str(folder))"),
    (catches_what_it_names, "controller.x", "try:\n    f()\nexcept BaseException:\n    g()\n    raise"),
]


@pytest.mark.parametrize(("rule", "name", "code"), GOOD)
def test_a_rule_lets_pass_what_keeps_it(rule: Rule, name: str, code: str) -> None:
    assert list(rule(Module(name, ast.parse(code)))) == []


# Texts: what no file of ours says.

#: Written in two parts, so that this file keeps its own rules.
FORBIDDEN_TEXTS = {
    "a thing left undone": re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b"),
    "a path of somebody's machine": re.compile(r"(?<![\w.])/(?:wo" + r"rk|home/\w+|ro" + r"ot)/"),
    "the address of a package index": re.compile(
        r"--(?:extra-)?index-u" + r"rl[ =]|--find-li" + r"nks[ =]|://[^\s\"'<>]*(?:py" + r"pi|/sim" + r"ple\b)"
    ),
}
SKIPPED = frozenset({"__pycache__", "node_modules", "build"})
TEXT_BYTES_MAX = 1 << 20


def texts() -> Iterator[tuple[str, str]]:
    """Yield every file of the checkout; of what begins with a dot only what is ours."""
    for folder, folders, files in os.walk(CHECKOUT):
        ours = (name for name in folders if (name[0] != "." or name == ".ci") and name not in SKIPPED)
        folders[:] = sorted(name for name in ours if not name.endswith(".egg-info"))
        for name in sorted(files):
            path = Path(folder) / name
            # Of a work tree, `.git` is a file that names its machine.
            if name == ".git" or name.startswith(".venv"):
                continue
            if path.is_file() and path.stat().st_size <= TEXT_BYTES_MAX:
                yield str(path.relative_to(CHECKOUT)), path.read_bytes().decode("utf-8", "replace")


def forbidden_in(text: str) -> list[str]:
    """Return what the text says that no file of ours says."""
    return [f"{what}: {found[0]}" for what, pattern in FORBIDDEN_TEXTS.items() for found in pattern.finditer(text)]


def test_no_pattern_has_a_possessive_group() -> None:
    """Before 3.11.5 re matches them wrongly where the group may backtrack (gh-106052), and Debian 12 has 3.11.2."""
    possessive = re.compile(r"(?<!\()\)(?:[*+?]|\{\d*,?\d*\})\+|\(\?>")
    texts_of = {
        module.name: [node.value for node in ast.walk(module.tree) if isinstance(node, ast.Constant)]
        for module in all_modules()
        if module.is_production
    }
    found = [(name, text) for name, texts in texts_of.items() for text in texts if possessive.search(str(text))]
    assert found == []


def test_no_file_says_what_no_file_says() -> None:
    assert {path: found for path, text in texts() if (found := forbidden_in(text))} == {}


@pytest.mark.parametrize(
    "text",
    [
        "# TO" + "DO: later",
        "cd /wo" + "rk/main",
        "open('/ro" + "ot/.x')",
        "pip --index-u" + "rl https://a.example",
        "--find-li" + "nks=/a",
        "https://py" + "pi.example/x",
        "https://a.example/sim" + "ple/",
    ],
)
def test_notices_a_text_that_no_file_may_hold(text: str) -> None:
    assert forbidden_in(text)
