"""Propose a deploy.toml for a folder: names of its files and a few contents in, a commented text or a refusal out.

The first recogniser that knows the folder wins. What it writes is a guess and says so, is always valid, and publishes
no file that a visitor should not see. A folder that no recogniser knows is refused, with what was found in it and what
to write by hand: a guess that starts something else than the app would pass its gate and be wrong.
Names and contents of the folder are data: they get into the text only through quoting, or by a strict pattern.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from controller.decisions.initial_folder import Folder, Guess, command, is_one_command, not_known
from controller.decisions.initial_node import CONFIGURATIONS, install_line, node, read_package
from controller.decisions.initial_python import (
    django,
    migrations_of,
    python_app,
    python_environment,
    with_programs,
    with_venv,
)
from controller.decisions.initial_site import FOLDERS, static_site
from controller.decisions.tree_rules import visible
from controller.model.deploy_toml import parse_deploy_toml
from controller.model.errors import ConfigInvalid, Refused
from controller.model.toml_shape import load_toml

#: Files whose contents are looked at, where they are there. The rest is judged by name.
CONTENTS_WANTED = (
    ".yarnrc.yml",
    "Cargo.toml",
    "Procfile",
    "angular.json",
    "app.py",
    "app/main.py",
    "asgi.py",
    "go.mod",
    "index.html",
    "main.py",
    "manage.py",
    "package.json",
    "pnpm-lock.yaml",
    "pyproject.toml",
    "requirements.txt",
    "server.py",
    "wsgi.py",
    "yarn.lock",
    *CONFIGURATIONS,
)
#: No more of a file than this is needed.
CONTENT_BYTES_MAX = 64 << 10
#: Deepest file that is looked at: `cmd/server/main.go`, `db/migrations/0001.sql`.
DEPTH_MAX = 3
#: Never of interest, and sometimes huge.
FOLDERS_SKIPPED = frozenset({".git", ".hg", ".venv", "venv", "node_modules", "target", "__pycache__", ".oroboros"})

#: In any case, with or without spaces around.
_MISSPELT = frozenset({"deploy.toml", "deploy.tml", "deploy.tom", "deploy.toml.txt", "deployment.toml"})
_BINARY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,60}\Z")
#: What says that an app is of a kind that is not known here, whatever else lies beside it: the scripts of a
#: package.json beside them build assets only.
_OTHER_APPS = {
    "Gemfile": "Ruby",
    "config.ru": "Ruby",
    "composer.json": "PHP",
    "artisan": "PHP",
    "index.php": "PHP",
    "public/index.php": "PHP",
    "mix.exs": "Elixir",
    "pom.xml": "Java, built by Maven",
    "build.gradle": "Java, built by Gradle",
    "build.gradle.kts": "Java, built by Gradle",
    "build.sbt": "Scala",
    "project.clj": "Clojure",
    "deps.edn": "Clojure",
    "deno.json": "Deno",
    "deno.jsonc": "Deno",
    "Package.swift": "Swift",
    "pubspec.yaml": "Dart",
    "shard.yml": "Crystal",
    "gleam.toml": "Gleam",
    "stack.yaml": "Haskell",
    "dune-project": "OCaml",
}
_OTHER_ENDINGS = {".csproj": ".NET", ".fsproj": ".NET", ".sln": ".NET", ".cabal": "Haskell"}
#: Generators of sites, whose sources are no site yet.
_GENERATORS = {
    "mkdocs.yml": "MkDocs",
    "hugo.toml": "Hugo",
    "hugo.yaml": "Hugo",
    "config.toml": "Hugo or Zola",
    "_config.yml": "Jekyll",
    "book.toml": "mdBook",
    "antora.yml": "Antora",
}
_CONTAINERS = (
    "Dockerfile",
    "Containerfile",
    "compose.yaml",
    "compose.yml",
    "docker-compose.yaml",
    "docker-compose.yml",
)
_PROJECTS = frozenset({
    "package.json", "requirements.txt", "pyproject.toml", "manage.py", "go.mod", "Cargo.toml", "Procfile",
    "Gemfile", "composer.json", "pom.xml", "build.gradle", "mix.exs", "Dockerfile", "index.html", "deploy.toml",
})  # fmt: skip
_NAMED_MAX = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Initial:
    """A deploy.toml for a folder."""

    text: str
    #: What the folder was taken for, in a few words.
    found: str
    #: Sentences: what of the folder is not run, or not published.
    left_out: tuple[str, ...] = ()


def initial_deploy_toml(files: Iterable[str], contents: Mapping[str, str]) -> Initial:
    """Return a valid deploy.toml for a folder with these files (relative, `/` between parts) and contents.

    Refused, with what was found, when the folder is not known."""
    folder = Folder(files=frozenset(files), contents=contents)
    for recognise in _RECOGNISERS:
        guess = recognise(folder)
        if guess is None:
            continue
        text = _render(guess, folder)
        try:
            parse_deploy_toml(text.encode("utf-8", "surrogatepass"))
        except ConfigInvalid as error:
            raise not_known(guess.found, f"deploy.toml cannot say it ({error.problems[0][:200]})") from error
        return Initial(text=text, found=guess.found, left_out=guess.left_out)
    raise _nothing_known(folder)


def missing_deploy_toml(names: Iterable[bytes]) -> str:
    """Return what is wrong with a commit that has no deploy.toml. `names` are paths in it, two deep: one that was
    probably meant is named."""
    for raw in sorted(names, key=lambda name: (name.count(b"/"), name)):
        folder, _, last = raw.decode("utf-8", "replace").rpartition("/")
        if folder and last == "deploy.toml":
            return (
                f"this commit has {visible(raw)}, but deploy.toml is read at the repository's root only: move it there"
            )
        if not folder and last.strip().casefold() in _MISSPELT:
            return f"this commit has {visible(raw)}, but no deploy.toml: the name must be exactly deploy.toml"
    return "this commit has no deploy.toml; `oroboros init` writes one"


# What each kind of folder looks like, the surest sign first.


def _other_app(folder: Folder) -> None:
    """Refuse an app of a kind that is not known here."""
    found = {name: kind for name, kind in _OTHER_APPS.items() if folder.has(name)}
    for file in folder.files:
        for ending, kind in _OTHER_ENDINGS.items():
            if "/" not in file and file.endswith(ending):
                found[ascii(file)[1:61]] = kind
    if found:
        kinds = " and ".join(dict.fromkeys(found.values()))
        raise not_known(", ".join(list(found)[:_NAMED_MAX]), f"apps of {kinds} are not known here")


def _procfile(folder: Folder) -> Guess | None:
    found = re.findall(r"^([A-Za-z0-9_-]+):[ \t]*+(\S.*)$", folder.read("Procfile"), re.MULTILINE)
    lines = {name: command.rstrip() for name, command in found}
    if "web" not in lines:
        return None
    builds: list[str] = []
    folders: list[str] = []
    python, package = python_environment(folder), read_package(folder)
    if python is not None:
        builds.append(python)
        folders.append(".venv/bin")
    if package is not None and (package.scripts or package.dependencies):
        builds.append(install_line(folder, package) + (" && npm run build" if "build" in package.scripts else ""))
        folders.append("node_modules/.bin")
    if folder.has("go.mod"):
        builds.append("mkdir -p bin && go build -o bin/ ./...")
        folders.append("bin")

    def runs(line: str) -> str:
        if folders == [".venv/bin"]:
            return with_venv(line)
        is_plain = is_one_command(line) and re.match(r"\s*(npm|npx|node|\./|bin/)", line) is not None
        return command(line) if is_plain or not folders else with_programs(line, *folders)

    notes = ["The command is the `web:` line of Procfile."]
    release = lines.get("release")
    if release is not None:
        notes.append("`release:` of Procfile became the migration: it runs before each switch, with DATABASE_URL.")
    others = tuple(name for name in lines if name not in ("web", "release"))
    left_out = f"not run: {', '.join(f'{name}:' for name in others)} of Procfile; Oroboros runs one process, `web:`"
    return Guess(
        found="a Procfile with a web line",
        build=command(" && ".join(builds)) if builds else None,
        api=runs(lines["web"]),
        migrate=None if release is None else runs(release),
        notes=tuple(notes),
        left_out=(left_out,) if others else (),
    )


def _go(folder: Folder) -> Guess | None:
    if not folder.has("go.mod"):
        return None
    commands = sorted(
        {
            part[1]
            for file in folder.files
            if len(part := file.split("/")) == 3 and part[0] == "cmd" and part[2] == "main.go"
        }
    )
    if folder.has("main.go"):
        package = "."
    elif len(commands) == 1 and _BINARY.match(commands[0]):
        package = f"./cmd/{commands[0]}"
    else:
        named = ", ".join(f"cmd/{ascii(name)[1:-1]}" for name in commands[:_NAMED_MAX])
        raise not_known("go.mod", f"which of {named} serves?" if commands else "no main.go is at the root or in cmd/")
    binary = "server" if not folder.has_folder("server") else "server.bin"
    return Guess(
        found="a Go program",
        build=f"go build -o {binary} {package}",
        api=f"./{binary}",
        notes=("The program must listen on the port in PORT.", "Only its main package is built: " + package),
    )


def _rust(folder: Folder) -> Guess | None:
    if not folder.has("Cargo.toml"):
        return None
    package: object
    try:
        package = load_toml(folder.read("Cargo.toml")).get("package")
    except ValueError:
        package = None
    name = package.get("name") if isinstance(package, dict) else None
    if not folder.has("src/main.rs") or not isinstance(name, str) or not _BINARY.match(name):
        raise not_known("Cargo.toml", "it is no package with one program, src/main.rs")
    locked = " --locked" if folder.has("Cargo.lock") else ""
    return Guess(
        found="a Rust program",
        build=f"cargo build --release{locked}",
        api=f"./target/release/{name}",
        notes=("The program must listen on the port in PORT.",),
    )


def _sources_of_sites(folder: Folder) -> None:
    """Refuse the sources of a site, and projects that lie in folders: files beside them are not what is to be seen."""
    for name, tool in _GENERATORS.items():
        if folder.has(name):
            raise not_known(name, f"sites of {tool} are not known here")
    nested = sorted(file for file in folder.files if "/" in file and file.rpartition("/")[2] in _PROJECTS)
    projects = [file for file in nested if not file.endswith("/index.html")]
    if projects:
        raise _several(projects)


def _nothing_known(folder: Folder) -> Refused:
    nested = sorted(file for file in folder.files if "/" in file and file.rpartition("/")[2] in _PROJECTS)
    if nested:
        return _several(nested)
    containers = [name for name in _CONTAINERS if folder.has(name)]
    if containers:
        return not_known(", ".join(containers), "Oroboros runs programs of the host, not containers")
    tops = sorted(file for file in folder.files if "/" not in file)[:_NAMED_MAX]
    found = ", ".join(ascii(name)[1:-1][:60] for name in tops) if tops else "no files"
    return not_known(found, "nothing of that says how it is served")


def _several(files: list[str]) -> Refused:
    named = ", ".join(ascii(name)[1:-1][:60] for name in files[:_NAMED_MAX])
    return not_known(named, "projects in folders, and which of them are to be deployed is not for `init` to say")


_RECOGNISERS: tuple[Callable[[Folder], Guess | None], ...] = (
    _other_app,
    _procfile,
    django,
    node,
    _go,
    _rust,
    python_app,
    _sources_of_sites,
    static_site,
)


def _render(guess: Guess, folder: Folder) -> str:
    lines = [
        "# How Oroboros deploys this repository. Every key is described in docs/deploy-toml.md of Oroboros.",
        "# Written by `oroboros init`, which looked at the names of the files here and guessed. It took this for:",
        f"#   {guess.found}.",
        *(f"# {note}" for note in guess.notes),
        *(f"# Left out, {note}." for note in guess.left_out),
        "",
    ]
    if guess.build is not None:
        lines += [
            "# Runs in a private copy of each new commit; what it makes is kept and reused for the same tree.",
            "[build]",
            f"command = {_string(guess.build)}",
            '#timeout_s = "10m"',
            "",
        ]
    if guess.static is not None:
        lines += ["# Files, served as they are.", "[web]", f"static = {_string(guess.static)}"]
        if guess.fallback is not None:
            lines += ["# Answers every path that no file has.", f"fallback = {_string(guess.fallback)}"]
        lines.append("")
    if guess.api is not None:
        lines += [
            "# A process that answers HTTP. ${HOST} and ${PORT} say where; no shell reads this line.",
            "[api]",
            f"command = {_string(guess.api)}",
            "",
        ]
        also = next((name for name in FOLDERS if folder.has(f"{name}/index.html")), None)
        if also is not None:
            lines += [
                f"# {also}/index.html is there too. With these lines its files are served without asking the process,",
                "# which then gets what is under its prefix (/api/) and what no file answers.",
                "#[web]",
                f"#static = {_string(also)}",
                "",
            ]
    lines += _render_database(guess, folder)
    lines += [
        "# What must answer before a release gets a request, and for how long it is watched after that.",
        "[gate]",
        'path = "/"',
        "status = 200",
        '#start_timeout_s = "30s"',
        '#window_s = "30s"',
        "",
        "# What follows counts only on the production branch: a pull request cannot change it.",
        "#[previews]",
        "#enabled = true",
        "#slots = 3",
        '#lease_ttl_s = "7d"',
        "",
        "#[retention]",
        "#keep = 5",
        "",
    ]
    return "\n".join(lines)


def _render_database(guess: Guess, folder: Folder) -> list[str]:
    if guess.migrate is not None:
        return [
            "# One Postgres database for each slot: DATABASE_URL is in the environment. Migrated before the gate.",
            "[database]",
            f"migrate = {_string(guess.migrate)}",
            "# A release is not restored at once when this folder differs from what the database was migrated to.",
            f"migrations = {_string(guess.migrations or 'migrations')}",
            "",
        ]
    found = guess.migrations or migrations_of(folder)
    if guess.api is None or found is None:
        return []
    return [
        f"# {found}/ looks like migrations, but not of a tool that is known here. With these lines each slot gets one",
        "# Postgres database (DATABASE_URL); say which command migrates it.",
        "#[database]",
        '#migrate = "./migrate"',
        f"#migrations = {_string(found)}",
        "",
    ]


def _string(text: str) -> str:
    """Return `text` as a TOML string: JSON's spelling, and the one control character that JSON leaves alone."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
