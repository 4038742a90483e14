"""Find out how a folder's Python packages are installed, and how what they bring is started."""

from __future__ import annotations

import re

from controller.decisions.initial_folder import Folder, Guess, command, is_one_command, not_known

#: Copies, since links to an interpreter leave the build (`BuildLinkLeaves`).
_VENV = "python3 -m venv --copies .venv && .venv/bin/python -m pip install"
#: Programs that packages put into `.venv/bin`, as Procfiles call them.
_PROGRAMS = frozenset({
    "python", "python3", "gunicorn", "uvicorn", "hypercorn", "daphne", "waitress-serve", "granian", "flask",
    "fastapi", "litestar", "alembic", "django-admin", "celery", "streamlit",
})  # fmt: skip
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,60}\Z")
_ASSIGNED = r"^([A-Za-z_]\w{0,60})\s*(?::[^=\n]+)?=\s*(?:\w+\.)?"
_ASGI_APP = re.compile(_ASSIGNED + r"(FastAPI|Starlette|Quart|Litestar)\(", re.MULTILINE | re.ASCII)
_FLASK_APP = re.compile(_ASSIGNED + r"Flask\(", re.MULTILINE | re.ASCII)
_PROGRAM_FILES = ("app.py", "server.py", "main.py")
_OTHER_MANAGERS = {
    "Pipfile": "pipenv",
    "pdm.lock": "PDM",
    "environment.yml": "conda",
    "environment.yaml": "conda",
    "pixi.lock": "pixi",
}


def python_environment(folder: Folder) -> str | None:
    """Return the shell line that installs a folder's Python packages into `.venv`; None when it names none.

    Refused when only a package manager that is not known here knows them."""
    if folder.has("uv.lock"):
        # From the venv: a host need not have uv. `--inexact` keeps uv itself, which no lock file names.
        sync = "UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy .venv/bin/uv sync --frozen --no-dev --inexact"
        return f"{_VENV} uv && {sync}"
    if folder.has("poetry.lock"):
        root = "" if folder.has_folder("src") else " --no-root"
        settings = "POETRY_VIRTUALENVS_IN_PROJECT=true POETRY_VIRTUALENVS_OPTIONS_ALWAYS_COPY=true"
        return (
            "python3 -m venv --copies .poetry && .poetry/bin/python -m pip install poetry"
            f" && {settings} .poetry/bin/poetry install --no-interaction --only main{root} && rm -r .poetry"
        )
    if folder.has("requirements.txt"):
        return f"{_VENV} -r requirements.txt"
    manager = next((name for name in _OTHER_MANAGERS if folder.has(name)), None)
    if manager is not None:
        raise not_known(manager, f"packages of {_OTHER_MANAGERS[manager]} are not known here")
    if folder.has("setup.py") or re.search(r"^\[(project|build-system)\]", folder.read("pyproject.toml"), re.MULTILINE):
        return f"{_VENV} ."
    return None


def with_venv(line: str) -> str:
    """Return the command for a shell line whose programs are to be those of `.venv`."""
    first, _, rest = line.strip().partition(" ")
    if is_one_command(line) and first in _PROGRAMS:
        program = "python" if first == "python3" else first
        return command(f".venv/bin/{program} {rest}".strip())
    return with_programs(line, ".venv/bin")


def with_programs(line: str, *folders: str) -> str:
    """Return the command for a shell line whose programs are looked for in these folders first."""
    path = "".join(f"$PWD/{folder}:" for folder in folders)
    return command(f'export PATH="{path}$PATH"; {"exec " if is_one_command(line) else ""}{line}')


def django(folder: Folder) -> Guess | None:
    """Recognise a Django project at the root."""
    if not folder.has("manage.py"):
        return None
    build = python_environment(folder)
    if build is None:
        raise not_known("manage.py of Django", "no requirements.txt, pyproject.toml or lock file says what to install")
    project = _module_above(folder, "settings.py") or _module_above(folder, "wsgi.py")
    if project and folder.requires("uvicorn") and folder.has(f"{project}/asgi.py"):
        api = f".venv/bin/python -m uvicorn {project}.asgi:application --host ${{HOST}} --port ${{PORT}}"
        notes = ["uvicorn is in the requirements, so it serves."]
    elif project and folder.requires("gunicorn"):
        api = f".venv/bin/python -m gunicorn --bind ${{HOST}}:${{PORT}} {project}.wsgi:application"
        notes = ["gunicorn is in the requirements, so it serves."]
    else:
        api = ".venv/bin/python manage.py runserver --noreload ${HOST}:${PORT}"
        notes = ["Django's own server is for trying things out: add uvicorn or gunicorn to the requirements."]
    return Guess(
        found="a Django project",
        build=command(build),
        api=api,
        migrate=".venv/bin/python manage.py migrate --noinput",
        migrations=migrations_of(folder),
        notes=(
            *notes,
            "The settings must read DATABASE_URL and allow the hosts; the gate asks for a page that is 200.",
        ),
    )


def python_app(folder: Folder) -> Guess | None:
    """Recognise a web app, or a program, in one of the usual files."""
    for name in ("asgi.py", "main.py", "app.py", "wsgi.py", "server.py", "app/main.py"):
        text, module = folder.read(name), name.removesuffix(".py").replace("/", ".")
        asgi, flask = _ASGI_APP.search(text), _FLASK_APP.search(text)
        found = f"a {asgi[2]} app in {name}" if asgi is not None else f"a Flask app in {name}"
        if asgi is None and flask is None:
            if not (folder.has(name) and name in _PROGRAM_FILES):
                continue
            found = f"a Python program, {name}"
        build = python_environment(folder)
        python = ".venv/bin/python" if build is not None else "python3"
        notes: tuple[str, ...] = ()
        if build is None and (asgi is not None or flask is not None):
            raise not_known(found, "no requirements.txt, pyproject.toml or lock file says what to install")
        if asgi is not None:
            brings = folder.requires("uvicorn") or re.search(
                r"fastapi\[(standard|all)", _requirements(folder), re.IGNORECASE
            )
            if not brings:
                raise not_known(found, "uvicorn, which would serve it, is not in the requirements: add it")
            api = f"{python} -m uvicorn {module}:{asgi[1]} --host ${{HOST}} --port ${{PORT}}"
        elif flask is not None and folder.requires("gunicorn"):
            api = f"{python} -m gunicorn --bind ${{HOST}}:${{PORT}} {module}:{flask[1]}"
        elif flask is not None:
            api = f"{python} -m flask --app {module}:{flask[1]} run --host ${{HOST}} --port ${{PORT}}"
            notes = ("Flask's own server is for trying things out: add gunicorn to the requirements.",)
        else:
            api = f"{python} {name}"
            notes = (f"{name} must listen on the address in HOST and the port in PORT.",)
        migrate = f"{python} -m alembic upgrade head" if folder.has("alembic.ini") and build is not None else None
        return Guess(
            found=found,
            build=None if build is None else command(build),
            api=api,
            migrate=migrate,
            migrations=migrations_of(folder) if migrate else None,
            notes=notes,
        )
    return None


def migrations_of(folder: Folder) -> str | None:
    """Return the folder that holds migrations, by its usual names."""
    for known in ("migrations", "db/migrations", "alembic/versions"):
        if folder.has_folder(known):
            return known
    apps = sorted(parts[0] for file in folder.files if len(parts := file.split("/")) == 3 and parts[1] == "migrations")
    return next((f"{app}/migrations" for app in apps if _MODULE.match(app)), None)


def _requirements(folder: Folder) -> str:
    return folder.read("requirements.txt") + folder.read("pyproject.toml")


def _module_above(folder: Folder, name: str) -> str | None:
    above = sorted(parts[0] for file in folder.files if len(parts := file.split("/")) == 2 and parts[1] == name)
    return next((module for module in above if _MODULE.match(module)), None)
