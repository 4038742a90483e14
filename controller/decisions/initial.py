"""Which deploy.toml would deploy this folder? Names of its files and a few contents in, a commented text out.

The first recogniser that knows the folder wins; the last one knows every folder. What it writes is a guess and says
so, and is always valid: a guess that `parse_deploy_toml` refuses (a Procfile may hold anything) is passed over.
Names and contents of the folder are data: they get into the text only through quoting, or by a strict pattern.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from controller.decisions.tree_rules import visible
from controller.model.deploy_toml import parse_deploy_toml
from controller.model.errors import ConfigInvalid

#: Files whose contents are looked at, where they are there. The rest is judged by name.
CONTENTS_WANTED = (
    "Cargo.toml",
    "Procfile",
    "app.py",
    "asgi.py",
    "go.mod",
    "main.py",
    "manage.py",
    "package.json",
    "pyproject.toml",
    "requirements.txt",
    "server.py",
    "wsgi.py",
)
#: No more of a file than this is needed.
CONTENT_BYTES_MAX = 64 << 10
#: Deepest file that is looked at: `cmd/server/main.go`, `db/migrations/0001.sql`.
DEPTH_MAX = 3
#: Never of interest, and sometimes huge.
FOLDERS_SKIPPED = frozenset({".git", ".hg", ".venv", "venv", "node_modules", "target", "__pycache__", ".oroboros"})

_STATIC_FOLDERS = ("public", "dist", "site", "_site", "www", "static", "docs")
#: In any case, with or without spaces around.
_MISSPELT = frozenset({"deploy.toml", "deploy.tml", "deploy.tom", "deploy.toml.txt", "deployment.toml"})
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,60}\Z")
_BINARY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,60}\Z")
_ASSIGNED = r"^([A-Za-z_]\w{0,60})\s*(?::[^=\n]+)?=\s*(?:\w+\.)?"
_ASGI_APP = re.compile(_ASSIGNED + r"(FastAPI|Starlette|Quart)\(", re.MULTILINE | re.ASCII)
_FLASK_APP = re.compile(_ASSIGNED + r"Flask\(", re.MULTILINE | re.ASCII)
#: What a shell would do something with, beyond words, quotes and plain variables.
_NEEDS_SHELL = re.compile(r"[|&;<>()`*?~#\n]|\$(?![A-Za-z_]|\{[A-Za-z_][A-Za-z0-9_]*\})|^\s*[A-Za-z_][A-Za-z0-9_]*=")


@dataclass(frozen=True, slots=True, kw_only=True)
class Initial:
    """A deploy.toml for a folder."""

    text: str
    #: What the folder was taken for, in a few words.
    found: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Folder:
    files: frozenset[str]
    contents: Mapping[str, str]

    def has(self, *names: str) -> bool:
        return any(name in self.files for name in names)

    def read(self, name: str) -> str:
        return self.contents.get(name, "") if name in self.files else ""

    def has_folder(self, name: str) -> bool:
        return any(file.startswith(f"{name}/") for file in self.files)

    def requires(self, package: str) -> bool:
        """Say whether the folder's Python requirements name `package`; a guess by word."""
        told = self.read("requirements.txt") + self.read("pyproject.toml")
        return re.search(rf"(?<![\w.-]){re.escape(package)}(?![\w-])", told, re.IGNORECASE) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Guess:
    found: str
    build: str | None = None
    static: str | None = None
    fallback: str | None = None
    api: str | None = None
    migrate: str | None = None
    migrations: str | None = None
    #: Sentences for whoever reads the file: what was taken for granted.
    notes: tuple[str, ...] = field(default=())


def initial_deploy_toml(files: Iterable[str], contents: Mapping[str, str]) -> Initial:
    """Return a valid deploy.toml for a folder with these files (relative, `/` between parts) and contents."""
    folder = _Folder(files=frozenset(files), contents=contents)
    for recognise in _RECOGNISERS:
        guess = recognise(folder)
        if guess is None:
            continue
        text = _render(guess, folder)
        try:
            parse_deploy_toml(text.encode("utf-8", "surrogatepass"))
        except ConfigInvalid:
            continue
        return Initial(text=text, found=guess.found)
    raise AssertionError("the last recogniser knows every folder")


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


def _procfile(folder: _Folder) -> _Guess | None:
    lines = dict(re.findall(r"^([A-Za-z0-9_-]+):[ \t]*(\S.*?)[ \t\r]*$", folder.read("Procfile"), re.MULTILINE))
    if "web" not in lines:
        return None
    notes = ["The command is the `web:` line of Procfile."]
    release = lines.get("release")
    if release is not None:
        notes.append("`release:` of Procfile became the migration: it runs before each switch, with DATABASE_URL.")
    return _Guess(
        found="a Procfile with a web line",
        build=_build_of(folder),
        api=_command(lines["web"]),
        migrate=None if release is None else _command(release),
        notes=tuple(notes),
    )


def _django(folder: _Folder) -> _Guess | None:
    if not folder.has("manage.py"):
        return None
    project = _module_above(folder, "settings.py") or _module_above(folder, "wsgi.py")
    python = _python(folder)
    if project and folder.requires("uvicorn") and folder.has(f"{project}/asgi.py"):
        api = f"{python} -m uvicorn {project}.asgi:application --host ${{HOST}} --port ${{PORT}}"
        notes = ["uvicorn is in the requirements, so it serves."]
    elif project and folder.requires("gunicorn"):
        api = f"{python} -m gunicorn --bind ${{HOST}}:${{PORT}} {project}.wsgi:application"
        notes = ["gunicorn is in the requirements, so it serves."]
    else:
        api = f"{python} manage.py runserver --noreload ${{HOST}}:${{PORT}}"
        notes = ["Django's own server is for trying things out: add uvicorn or gunicorn to the requirements."]
    return _Guess(
        found="a Django project",
        build=_build_of(folder),
        api=api,
        migrate=f"{python} manage.py migrate --noinput",
        migrations=_migrations(folder),
        notes=(
            *notes,
            "The settings must read DATABASE_URL and allow the hosts; the gate asks for a page that is 200.",
        ),
    )


def _node(folder: _Folder) -> _Guess | None:
    if not folder.has("package.json"):
        return None
    try:
        package: object = json.loads(folder.read("package.json"))
    except (ValueError, RecursionError):
        return None
    scripts = package.get("scripts") if isinstance(package, dict) else None
    names = {name for name, line in scripts.items() if isinstance(line, str)} if isinstance(scripts, dict) else set()
    install = "npm ci" if folder.has("package-lock.json", "npm-shrinkwrap.json") else "npm install"
    build = f"{install} && npm run build" if "build" in names else install
    if "start" in names:
        prisma = folder.has_folder("prisma/migrations")
        return _Guess(
            found="a Node package with a start script",
            build=_command(build),
            api="npm start",
            migrate="npx prisma migrate deploy" if prisma else None,
            migrations="prisma/migrations" if prisma else None,
            notes=("`npm start` must listen on the port in PORT.",),
        )
    if "build" in names:
        return _Guess(
            found="a Node package that builds a static site",
            build=_command(build),
            static="build" if "react-scripts" in folder.read("package.json") else "dist",
            fallback="index.html",
            notes=("The folder that the build writes is a guess.",),
        )
    return None


def _python_app(folder: _Folder) -> _Guess | None:
    python = _python(folder)
    migrate = f"{python} -m alembic upgrade head" if folder.has("alembic.ini") else None
    migrations = _migrations(folder)
    for name in ("asgi.py", "main.py", "app.py", "wsgi.py", "server.py"):
        text, module = folder.read(name), name.removesuffix(".py")
        asgi, flask = _ASGI_APP.search(text), _FLASK_APP.search(text)
        if asgi is not None:
            found = f"a {asgi[2]} app in {name}"
            api = f"{python} -m uvicorn {module}:{asgi[1]} --host ${{HOST}} --port ${{PORT}}"
            notes: tuple[str, ...] = () if folder.requires("uvicorn") else ("uvicorn must be in the requirements.",)
        elif flask is not None:
            found = f"a Flask app in {name}"
            if folder.requires("gunicorn"):
                api, notes = f"{python} -m gunicorn --bind ${{HOST}}:${{PORT}} {module}:{flask[1]}", ()
            else:
                api = f"{python} -m flask --app {module}:{flask[1]} run --host ${{HOST}} --port ${{PORT}}"
                notes = ("Flask's own server is for trying things out: add gunicorn to the requirements.",)
        elif folder.has(name) and name in ("app.py", "server.py", "main.py"):
            found, api = f"a Python program, {name}", f"{python} {name}"
            notes = (f"{name} must listen on the address in HOST and the port in PORT.",)
        else:
            continue
        return _Guess(
            found=found,
            build=_build_of(folder),
            api=api,
            migrate=migrate,
            migrations=migrations if migrate else None,
            notes=notes,
        )
    return None


def _go(folder: _Folder) -> _Guess | None:
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
    elif commands and _BINARY.match(commands[0]):
        package = f"./cmd/{commands[0]}"
    else:
        return None
    return _Guess(
        found="a Go program",
        build=f"go build -o server {package}",
        api="./server",
        notes=("The program must listen on the port in PORT.", "Only its main package is built: " + package),
    )


def _rust(folder: _Folder) -> _Guess | None:
    if not (folder.has("Cargo.toml") and folder.has("src/main.rs")):
        return None
    try:
        package = tomllib.loads(folder.read("Cargo.toml")).get("package")
    except (ValueError, RecursionError):
        return None
    name = package.get("name") if isinstance(package, dict) else None
    if not isinstance(name, str) or not _BINARY.match(name):
        return None
    locked = " --locked" if folder.has("Cargo.lock") else ""
    return _Guess(
        found="a Rust program",
        build=f"cargo build --release{locked}",
        api=f"./target/release/{name}",
        notes=("The program must listen on the port in PORT.",),
    )


def _static_site(folder: _Folder) -> _Guess | None:
    for name in _STATIC_FOLDERS:
        if folder.has(f"{name}/index.html"):
            return _Guess(found=f"a static site in {name}/", static=name)
    if folder.has("index.html"):
        return _Guess(
            found="a static site",
            static=".",
            notes=("Every file of the repository is served, this one too: move the site to a folder to change that.",),
        )
    return None


def _any_folder(_folder: _Folder) -> _Guess:
    return _Guess(
        found="files, and nothing that says how to serve them",
        api="python3 -m http.server --bind ${HOST} ${PORT}",
        notes=("Nothing known was found here. Python's file server shows the folder; put your own command instead.",),
    )


_RECOGNISERS: tuple[Callable[[_Folder], _Guess | None], ...] = (
    _procfile,
    _django,
    _node,
    _go,
    _rust,
    _python_app,
    _static_site,
    _any_folder,
)


def _command(line: str) -> str:
    """Return a command for `line`, which a shell would run: a command of a recipe never meets one unless it says so."""
    if not _NEEDS_SHELL.search(line):
        return line
    # Only a single command may be replaced by what it starts; a list of commands needs its shell to the end.
    alone = re.search(r"[|&;\n]", line) is None and re.match(r"\s*[A-Za-z_]\w*=", line) is None
    return f"sh -c {_quote_word(f'exec {line}' if alone else line)}"


def _quote_word(word: str) -> str:
    return "'" + word.replace("'", "'\"'\"'") + "'"


def _python(folder: _Folder) -> str:
    return ".venv/bin/python" if _installs(folder) else "python3"


def _installs(folder: _Folder) -> bool:
    return folder.has("requirements.txt") or "[project]" in folder.read("pyproject.toml")


def _build_of(folder: _Folder) -> str | None:
    """Return the command that makes what a Python program needs; None for what needs nothing that we know."""
    if not _installs(folder):
        return None
    what = "-r requirements.txt" if folder.has("requirements.txt") else "."
    return _command(f"python3 -m venv --copies .venv && .venv/bin/python -m pip install {what}")


def _module_above(folder: _Folder, name: str) -> str | None:
    above = sorted(parts[0] for file in folder.files if len(parts := file.split("/")) == 2 and parts[1] == name)
    return next((module for module in above if _MODULE.match(module)), None)


def _migrations(folder: _Folder) -> str | None:
    for known in ("migrations", "db/migrations", "alembic/versions"):
        if folder.has_folder(known):
            return known
    apps = sorted(parts[0] for file in folder.files if len(parts := file.split("/")) == 3 and parts[1] == "migrations")
    return next((f"{app}/migrations" for app in apps if _MODULE.match(app)), None)


def _render(guess: _Guess, folder: _Folder) -> str:
    lines = [
        "# How Oroboros deploys this repository. Every key is described in docs/deploy-toml.md of Oroboros.",
        "# Written by `oroboros init`, which looked at the names of the files here and guessed. It took this for:",
        f"#   {guess.found}.",
        *(f"# {note}" for note in guess.notes),
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
        also = next((name for name in _STATIC_FOLDERS if folder.has(f"{name}/index.html")), None)
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


def _render_database(guess: _Guess, folder: _Folder) -> list[str]:
    if guess.migrate is not None:
        return [
            "# One Postgres database for each slot: DATABASE_URL is in the environment. Migrated before the gate.",
            "[database]",
            f"migrate = {_string(guess.migrate)}",
            "# A release is not restored at once when this folder differs from what the database was migrated to.",
            f"migrations = {_string(guess.migrations or 'migrations')}",
            "",
        ]
    found = guess.migrations or _migrations(folder)
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
