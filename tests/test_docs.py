"""Is what the code can say to a person explained in docs/? Keys, reasons, states, steps, commands, links."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from pathlib import Path

import click
import pytest

from controller.doors import cli
from controller.model import config, states
from controller.model.config import Policy, Recipe
from controller.model.deploy_toml import POLICY_TABLES, RECIPE_TABLES, parse_deploy_toml
from controller.model.errors import ConfigInvalid
from controller.model.steps import STEPS

CHECKOUT = Path(__file__).resolve().parents[1]
DOCS = CHECKOUT / "docs"
ERRORS = frozenset({"Refused", "ConfigInvalid", "Failed", "Waiting", "Unavailable", "Stalled"})
TOKEN = re.compile(r"[A-Z][A-Za-z0-9]+\Z")

# Reasons.


def production_modules() -> dict[str, ast.Module]:
    """Every module of the product, by path; the sample app is somebody else's."""
    return {
        str(path.relative_to(CHECKOUT)): ast.parse(path.read_text())
        for folder in ("controller", "hooks")
        for path in sorted((CHECKOUT / folder).rglob("*.py"))
        if "sample" not in path.parts
    }


def reasons_in(modules: Mapping[str, ast.Module]) -> dict[str, str]:
    """Return every reason token that the code names, with the module that does.

    A reason is the first argument of an error, what is given to a parameter, field or variable that is called
    `reason`, or what one is compared with. Names of constants are looked up."""
    constants: dict[str, str] = {}
    #: (module for a private name, else ""; name of a function or class) to the position of `reason`.
    positions: dict[tuple[str, str], int] = {("", name): 0 for name in ERRORS}
    for path, node in _nodes(modules):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
                constants[name] = text
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                names = [argument.arg for argument in node.args.args if argument.arg not in ("self", "cls")]
                if "reason" in names:
                    positions[_scope(path, node.name), node.name] = names.index("reason")
            case ast.ClassDef():
                names = [
                    one.target.id
                    for one in node.body
                    if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
                ]
                if "reason" in names:
                    positions[_scope(path, node.name), node.name] = names.index("reason")
                elif any(isinstance(base, ast.Name) and base.id in ERRORS for base in node.bases):
                    positions[_scope(path, node.name), node.name] = 0
    found: dict[str, str] = {}
    for path, node in _nodes(modules):
        for expression in _reason_expressions(node, positions, path):
            for token in _texts(expression, constants):
                if TOKEN.match(token):
                    found.setdefault(token, path)
    return found


def _nodes(modules: Mapping[str, ast.Module]) -> Iterator[tuple[str, ast.AST]]:
    for path, tree in modules.items():
        for node in ast.walk(tree):
            yield path, node


def _scope(path: str, name: str) -> str:
    return path if name.startswith("_") else ""


def _reason_expressions(node: ast.AST, positions: Mapping[tuple[str, str], int], path: str) -> Iterator[ast.expr]:
    match node:
        case ast.Call():
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            yield from (keyword.value for keyword in node.keywords if keyword.arg == "reason")
            position = positions.get((_scope(path, name), name))
            if position is not None and len(node.args) > position:
                yield node.args[position]
        case ast.Compare(left=ast.Attribute(attr="reason")):
            yield from node.comparators
        case ast.Assign(targets=[target]):
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            if any(isinstance(name, ast.Name) and name.id == "reason" for name in names):
                yield node.value


def _texts(expression: ast.expr, constants: Mapping[str, str]) -> Iterator[str]:
    if isinstance(expression, ast.IfExp):  # the test of it is no reason
        yield from _texts(expression.body, constants)
        yield from _texts(expression.orelse, constants)
    elif isinstance(expression, ast.Constant) and isinstance(expression.value, str):
        yield expression.value
    elif isinstance(expression, ast.Name) and expression.id in constants:
        yield constants[expression.id]
    elif isinstance(expression, ast.BoolOp | ast.Tuple | ast.Set | ast.List):
        for part in expression.values if isinstance(expression, ast.BoolOp) else expression.elts:
            yield from _texts(part, constants)


def documented_reasons(text: str) -> set[str]:
    """Return the tokens of the first column of the runbook's tables."""
    return {
        token
        for line in text.splitlines()
        if line.startswith("| `")
        for token in re.findall(r"`(\w+)`", line.split("|")[1])
    }


def test_every_reason_is_in_the_runbook_and_no_other() -> None:
    in_code = reasons_in(production_modules())
    told = documented_reasons((DOCS / "reasons.md").read_text())

    assert {token: where for token, where in in_code.items() if token not in told} == {}, "not in docs/reasons.md"
    assert told - set(in_code) == set(), "in docs/reasons.md, but no longer in the code"


@pytest.mark.parametrize(
    "code",
    [
        'raise Failed("OddThing", f"{what}")',
        'raise errors.Stalled("OddThing" if a else "StrangeThing", "x") from error',
        'record(reason="OddThing")',
        'ODD = "OddThing"\nraise Refused(ODD, "x")',
        'def _end(run, reason, message): ...\n_end(run, "OddThing", "x")',
        'class Meaning:\n    pattern: str\n    reason: str\nMeaning("x", "OddThing")',
        'class Lost(Stalled): ...\nraise Lost("OddThing", "x")',
        'reason, said = ("OddThing", "x") if away else ("StrangeThing", "y")',
        'if run.reason == "OddThing": ...',
        'if run.reason in ("OddThing", "StrangeThing"): ...',
    ],
)
def test_finds_a_reason_however_it_is_given(code: str) -> None:
    assert "OddThing" in reasons_in({"controller/x.py": ast.parse(code)})


# Keys of deploy.toml and of the environment.


def keys_of(kind: type, *, tables: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield (table, key) of everything that a deploy.toml may hold."""
    for table in fields(kind):
        assert table.name in tables
        name = str(table.type).partition(" |")[0].rpartition(".")[2]
        inner = getattr(config, name)
        assert is_dataclass(inner)
        for key in fields(inner):
            yield table.name, key.name


def rows_of(text: str, heading: str) -> str:
    """Return what follows a heading, up to the next one of its kind."""
    _, found, rest = text.partition(f"\n{heading}\n")
    assert found, f"there is no heading {heading!r}"
    return rest.partition("\n## ")[0]


@pytest.mark.parametrize(
    ("table", "key"), [*keys_of(Recipe, tables=RECIPE_TABLES), *keys_of(Policy, tables=POLICY_TABLES)]
)
def test_every_key_of_deploy_toml_is_described(table: str, key: str) -> None:
    assert f"| `{key}` |" in rows_of((DOCS / "deploy-toml.md").read_text(), f"## `[{table}]`")


SIZES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
BOUNDS = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?) to (\d+)|at least (\d+)")


def told_of(table: str, key: str) -> tuple[object, str]:
    """Return the default and the meaning that deploy-toml.md tells of a key."""
    rows = rows_of((DOCS / "deploy-toml.md").read_text(), f"## `[{table}]`")
    (row,) = re.findall(rf"^\| `{key}` \| (.+?) \| (.+) \|$", rows, re.MULTILINE)
    default, meaning = row
    if default == "required":
        return MISSING, meaning
    if default == "none":
        return None, meaning
    number, _, unit = default.strip("`").partition(" ")
    return (int(number) * SIZES[unit] if unit in SIZES else json.loads(default.strip("`"))), meaning


def in_code() -> Iterator[tuple[str, str, object, str]]:
    """Yield (table, key, default, type) of every key."""
    for kind in (Recipe, Policy):
        for table in fields(kind):
            inner = getattr(config, str(table.type).partition(" |")[0])
            for key in fields(inner):
                yield table.name, key.name, key.default, str(key.type)


@pytest.mark.parametrize(("table", "key", "default", "_kind"), list(in_code()))
def test_every_default_is_the_one_that_is_told(table: str, key: str, default: object, _kind: str) -> None:
    told, _ = told_of(table, key)

    assert (tuple(told) if isinstance(told, list) else told) == default


def with_value(table: str, key: str, value: float) -> bytes:
    """Write a deploy.toml that is right but, perhaps, for this number."""
    tables: dict[str, dict[str, object]] = {"api": {"command": "./server"}}
    if table == "build":
        tables["build"] = {"command": "make"}
    tables.setdefault(table, {})[key] = value
    return "\n".join(
        f"[{name}]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in values.items())
        for name, values in tables.items()
    ).encode()


@pytest.mark.parametrize(
    ("table", "key", "kind"), [(t, k, kind) for t, k, _, kind in in_code() if kind.startswith(("int", "float"))]
)
def test_every_bound_is_the_one_that_is_told(table: str, key: str, kind: str) -> None:
    found = BOUNDS.search(told_of(table, key)[1])
    assert found, f"docs/deploy-toml.md says no bounds of {table}.{key}"
    number, step = (float, 0.001) if kind.startswith("float") else (int, 1)
    low, high = number(found[1] or found[3]), number(found[2]) if found[2] else None

    parse_deploy_toml(with_value(table, key, low))
    with pytest.raises(ConfigInvalid, match=key):
        parse_deploy_toml(with_value(table, key, low - step))
    if high is not None:
        parse_deploy_toml(with_value(table, key, high))
        with pytest.raises(ConfigInvalid, match=key):
            parse_deploy_toml(with_value(table, key, high + step))
    else:
        parse_deploy_toml(with_value(table, key, 1 << 60))


def test_no_key_is_described_that_does_not_exist() -> None:
    text = (DOCS / "deploy-toml.md").read_text()
    known = {*keys_of(Recipe, tables=RECIPE_TABLES), *keys_of(Policy, tables=POLICY_TABLES)}
    for table in (*RECIPE_TABLES, *POLICY_TABLES):
        told = re.findall(r"^\| `(\w+)` \|", rows_of(text, f"## `[{table}]`"), re.MULTILINE)

        assert {(table, key) for key in told} <= known


def test_the_examples_of_deploy_toml_are_valid() -> None:
    text = (DOCS / "deploy-toml.md").read_text() + (CHECKOUT / "README.md").read_text()
    examples = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)

    assert len(examples) >= 3
    for example in examples:
        parse_deploy_toml(example.encode())


def test_every_environment_value_is_described() -> None:
    modules = ("model/config.py", "decisions/surfaces.py", "doors/surface.py")
    source = "".join((CHECKOUT / "controller" / module).read_text() for module in modules)
    names = set(re.findall(r'"((?:OROBOROS|WORKER|DATABASE|REDIS|WEB|RUNTIME|LOGS)_[A-Z_]+)"', source))
    text = (DOCS / "deploy-toml.md").read_text()

    assert names
    assert {name for name in names if f"`{name}`" not in text} == set()


# Words.


def test_every_step_is_in_the_glossary() -> None:
    glossary = (DOCS / "glossary.md").read_text()

    assert [step for step in STEPS if f"`{step}`" not in glossary] == []


def test_every_state_is_in_the_glossary() -> None:
    glossary = (DOCS / "glossary.md").read_text()
    kinds = [kind for kind in vars(states).values() if isinstance(kind, type) and issubclass(kind, StrEnum)]
    unknown = {
        f"{kind.__name__}.{state}"
        for kind in kinds
        for state in kind
        if kind is not StrEnum and f"`{state}`" not in glossary
    }

    assert unknown == set()


# Commands, links, size.


def test_every_command_is_in_the_readme_and_says_what_it_is_for() -> None:
    readme = (CHECKOUT / "README.md").read_text()
    for name, command in cli.every_command():
        if not command.hidden:
            assert f"`oroboros {name}" in readme, f"README.md does not name `oroboros {name}`"
            assert command.help, f"`oroboros {name}` has no help"


def options_told(text: str) -> dict[str, set[str]]:
    """Return the options that commands.md tells of each command; commands that share a heading share a table."""
    told: dict[str, set[str]] = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading, _, rest = section.partition("\n")
        options = {
            option
            for row in re.findall(r"^\| (`-[^|]+) \|", rest, re.MULTILINE)
            for option in re.findall(r"`(-[\w-]+)`", row)
        }
        for name in re.findall(r"`oroboros ([a-z]+(?: [a-z][a-z-]*)*)", heading):
            told[name] = options
    return told


def options_of(command: click.Command) -> set[str]:
    """Return every option of a command that its help shows."""
    shown = (option for option in command.params if isinstance(option, click.Option) and not option.hidden)
    return {name for option in shown for name in (*option.opts, *option.secondary_opts)}


def test_every_option_of_every_command_is_told_and_no_other() -> None:
    told = options_told((DOCS / "commands.md").read_text())
    in_code = {name: options_of(command) for name, command in cli.every_command() if not command.hidden}
    # Two commands under one heading: the table holds what either has.
    together = in_code["api"] | in_code["worker"]

    assert told == {**in_code, "api": together, "worker": together}


def test_finds_the_options_of_each_command() -> None:
    text = "# x\n## `oroboros a`, `oroboros b [C]`\n| `--one`, `-o` | x `--not` |\n## `oroboros c d-e [F]`\n"

    assert options_told(text) == {"a": {"--one", "-o"}, "b": {"--one", "-o"}, "c d-e": set()}


def test_the_exit_codes_are_those_of_the_commands() -> None:
    told = set(map(int, re.findall(r"^\| (\d+) \|", (DOCS / "commands.md").read_text(), re.MULTILINE)))

    assert told == {cli.DONE, cli.FAILED, cli.USAGE, cli.REFUSED, cli.UNREACHABLE, cli.INTERRUPTED}


def test_no_command_is_told_of_that_does_not_exist() -> None:
    # A whole name, or that of a group.
    known = {" ".join(name.split()[:words]) for name, _ in cli.every_command() for words in (1, 2)}
    groups = {name.split()[0] for name, _ in cli.every_command() if " " in name}
    for path in [CHECKOUT / "README.md", *DOCS.rglob("*.md")]:
        told = {
            f"{first} {second}" if first in groups and second else first
            for first, second in re.findall(r"`oroboros ([a-z]+)(?: ([a-z][a-z-]*))?", path.read_text())
        }

        assert told <= known, f"{path.name} names commands that do not exist"


def links_in(text: str) -> list[str]:
    """Return the targets of Markdown links into this repository."""
    return [
        link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link and link[0] != "#"
    ]


def test_links_lead_somewhere() -> None:
    for path in [CHECKOUT / "README.md", CHECKOUT / "CHANGELOG.md", *DOCS.rglob("*.md")]:
        broken = [link for link in links_in(path.read_text()) if not (path.parent / link).exists()]

        assert broken == [], f"{path.name} has links that lead nowhere"


def test_the_architecture_is_read_in_one_sitting() -> None:
    text = (DOCS / "architecture.md").read_text()

    assert len(text.splitlines()) < 200
    missing = {
        str(path.relative_to(CHECKOUT))
        for folder in ("controller", "hooks")
        for path in (CHECKOUT / folder).rglob("*.py")
        if path.stat().st_size and "sample" not in path.parts and f"`{path.stem}`" not in text
    }
    assert missing == set(), "not in the code map of docs/architecture.md"


@pytest.mark.parametrize(("text", "found"), [("[a](docs/x.md#y) [b](https://e.org) [c](#d)", ["docs/x.md"])])
def test_finds_links(text: str, found: list[str]) -> None:
    assert links_in(text) == found
