"""Does `oroboros init` know a folder when it sees one, and is what it writes always valid?"""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decisions.initial import CONTENTS_WANTED, Initial, initial_deploy_toml
from controller.model.config import Recipe
from controller.model.deploy_toml import parse_deploy_toml


def recipe_for(contents: dict[str, str], *more: str) -> Recipe:
    return parse_deploy_toml(initial_for(contents, *more).text.encode())[0]


def initial_for(contents: dict[str, str], *more: str) -> Initial:
    found = initial_deploy_toml([*contents, *more], contents)
    # What is only a suggestion must be valid too once it is uncommented.
    parse_deploy_toml(re.sub(r"(?m)^#(?=[a-z\[])", "", found.text).encode())
    assert found.found in found.text
    return found


def test_serves_an_index_page_as_files() -> None:
    recipe = recipe_for({}, "index.html", "style.css")

    assert recipe.web is not None
    assert (recipe.web.static, recipe.api) == (".", None)


@pytest.mark.parametrize("folder", ["public", "dist", "docs", "site"])
def test_prefers_a_folder_with_an_index_page(folder: str) -> None:
    recipe = recipe_for({}, "index.html", f"{folder}/index.html")

    assert recipe.web is not None
    assert recipe.web.static == folder


def test_serves_any_other_folder_with_pythons_file_server() -> None:
    recipe = recipe_for({}, "notes.txt")

    assert recipe.api is not None
    assert recipe.api.command == ("python3", "-m", "http.server", "--bind", "${HOST}", "${PORT}")
    assert recipe_for({}) == recipe


def test_runs_the_web_line_of_a_procfile() -> None:
    recipe = recipe_for({"Procfile": "worker: ./work\nweb: ./serve --port $PORT 'a b'\nrelease: ./migrate\n"})

    assert recipe.api is not None
    assert recipe.api.command == ("./serve", "--port", "$PORT", "a b")
    assert recipe.database is not None
    assert recipe.database.migrate == ("./migrate",)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("./a && ./b", ("sh", "-c", "./a && ./b")),
        ("./a --port ${PORT:-80}", ("sh", "-c", "exec ./a --port ${PORT:-80}")),
        ("FAST=1 ./a", ("sh", "-c", "FAST=1 ./a")),
        ("./a 'it'\"'\"'s' | tee log", ("sh", "-c", "./a 'it'\"'\"'s' | tee log")),
    ],
)
def test_says_sh_where_a_procfile_needs_a_shell(line: str, words: tuple[str, ...]) -> None:
    recipe = recipe_for({"Procfile": f"web: {line}\r\n"})

    assert recipe.api is not None
    assert recipe.api.command == words


def test_passes_over_a_procfile_that_cannot_be_a_command() -> None:
    assert initial_for({"Procfile": "web: ./a 'unclosed\n"}, "index.html").found == "a static site"
    assert initial_for({"Procfile": "web: \x1b]0;evil\n"}, "index.html").found == "a static site"
    assert initial_for({"Procfile": "web: ./a \udc80\n"}, "index.html").found == "a static site"
    assert initial_for({"Procfile": f"web: {'a' * 2_000}\n"}, "index.html").found == "a static site"


def test_starts_a_node_package_with_its_own_script() -> None:
    package = json.dumps({"scripts": {"start": "node server.js", "build": "tsc"}})
    recipe = recipe_for({"package.json": package}, "package-lock.json", "server.js")

    assert recipe.build is not None
    assert recipe.build.command == ("sh", "-c", "npm ci && npm run build")
    assert recipe.api is not None
    assert recipe.api.command == ("npm", "start")


def test_builds_a_node_package_without_start_script_as_a_site() -> None:
    recipe = recipe_for({"package.json": json.dumps({"scripts": {"build": "vite build"}})})

    assert recipe.api is None
    assert recipe.web is not None
    assert (recipe.web.static, recipe.web.fallback) == ("dist", "index.html")


@pytest.mark.parametrize("package", ["", "[", "[]", "null", '{"scripts": 3}', '{"scripts": {"start": 3}}', "[" * 9_999])
def test_a_package_json_that_says_nothing_is_passed_over(package: str) -> None:
    assert initial_for({"package.json": package}, "index.html").found == "a static site"


def test_serves_django_by_what_is_in_its_requirements() -> None:
    files = ("shop/settings.py", "shop/asgi.py", "shop/wsgi.py", "cart/migrations/0001_initial.py")

    def api(requirements: str) -> str:
        recipe = recipe_for({"manage.py": "", "requirements.txt": requirements}, *files)
        assert recipe.api is not None
        assert recipe.database is not None
        assert recipe.database.migrate == (".venv/bin/python", "manage.py", "migrate", "--noinput")
        assert recipe.database.migrations == "cart/migrations"
        assert recipe.build is not None
        return " ".join(recipe.api.command)

    assert (
        api("Django\nuvicorn==0.1") == ".venv/bin/python -m uvicorn shop.asgi:application --host ${HOST} --port ${PORT}"
    )
    assert api("django\ngunicorn>=20") == ".venv/bin/python -m gunicorn --bind ${HOST}:${PORT} shop.wsgi:application"
    assert api("django\nnot-gunicorn") == ".venv/bin/python manage.py runserver --noreload ${HOST}:${PORT}"


def test_knows_python_apps_by_what_they_make() -> None:
    fastapi = recipe_for({"main.py": "from fastapi import FastAPI\napi: FastAPI = FastAPI()\n"})
    flask = recipe_for({"app.py": "import flask\napp = flask.Flask(__name__)\n", "requirements.txt": "flask\ngunicorn"})
    plain = recipe_for({"server.py": "print()\n"})

    assert fastapi.api is not None
    assert fastapi.api.command[1:4] == ("-m", "uvicorn", "main:api")
    assert flask.api is not None
    assert flask.api.command == (".venv/bin/python", "-m", "gunicorn", "--bind", "${HOST}:${PORT}", "app:app")
    assert plain.api is not None
    assert plain.api.command == ("python3", "server.py")


def test_builds_go_and_rust_programs() -> None:
    go = recipe_for({"go.mod": "module a"}, "cmd/shop/main.go")
    rust = recipe_for({"Cargo.toml": '[package]\nname = "shop"\n'}, "src/main.rs", "Cargo.lock")

    assert go.build is not None
    assert go.build.command == ("go", "build", "-o", "server", "./cmd/shop")
    assert rust.build is not None
    assert rust.build.command == ("cargo", "build", "--release", "--locked")
    assert rust.api is not None
    assert rust.api.command == ("./target/release/shop",)
    assert (
        initial_for({"Cargo.toml": '[package]\nname = "a b"\n'}, "src/main.rs", "index.html").found == "a static site"
    )


def test_suggests_a_database_where_migrations_lie_about() -> None:
    initial = initial_for({"go.mod": "module a"}, "main.go", "db/migrations/0001.sql")

    assert '#migrations = "db/migrations"' in initial.text
    assert parse_deploy_toml(initial.text.encode())[0].database is None


def test_migrates_with_alembic() -> None:
    recipe = recipe_for({"app.py": "app = FastAPI()\n"}, "alembic.ini", "alembic/versions/1.py")

    assert recipe.database is not None
    assert recipe.database.migrate == ("python3", "-m", "alembic", "upgrade", "head")
    assert recipe.database.migrations == "alembic/versions"


names = st.sampled_from(
    [*CONTENTS_WANTED, "index.html", "public/index.html", "src/main.rs", "main.go", "shop/settings.py", "alembic.ini"]
) | st.text(max_size=20)
texts = st.text(max_size=40) | st.text(max_size=40).map(lambda text: f"web: {text}\nrelease: {text}")


@given(st.dictionaries(names, texts, max_size=6))
def test_what_is_written_is_always_valid(contents: dict[str, str]) -> None:
    assert initial_for(contents).found
