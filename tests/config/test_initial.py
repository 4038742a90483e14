"""Does `oroboros init` know a folder when it sees one, is what it writes always valid, and does it refuse the rest?"""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decisions.initial import CONTENTS_WANTED, Initial, initial_deploy_toml
from controller.model.config import Recipe
from controller.model.deploy_toml import parse_deploy_toml
from controller.model.errors import Refused

FLASK = "import flask\napp = flask.Flask(__name__)\n"


def recipe_for(contents: dict[str, str], *more: str) -> Recipe:
    return parse_deploy_toml(initial_for(contents, *more).text.encode())[0]


def initial_for(contents: dict[str, str], *more: str) -> Initial:
    found = initial_deploy_toml([*contents, *more], contents)
    # What is only a suggestion must be valid too once it is uncommented.
    parse_deploy_toml(re.sub(r"(?m)^#(?=[a-z\[])", "", found.text).encode())
    assert found.found in found.text
    return found


def refusal_of(contents: dict[str, str], *more: str) -> str:
    with pytest.raises(Refused) as caught:
        initial_deploy_toml([*contents, *more], contents)
    assert caught.value.reason == "FolderUnknown"
    assert "Nothing was written" in caught.value.message
    assert "docs/deploy-toml.md" in caught.value.message
    assert caught.value.message.isprintable()
    return caught.value.message


def build_of(contents: dict[str, str], *more: str) -> str:
    recipe = recipe_for(contents, *more)
    assert recipe.build is not None
    return recipe.build.command[-1] if recipe.build.command[0] == "sh" else " ".join(recipe.build.command)


def api_of(contents: dict[str, str], *more: str) -> str:
    recipe = recipe_for(contents, *more)
    assert recipe.api is not None
    return recipe.api.command[-1] if recipe.api.command[0] == "sh" else " ".join(recipe.api.command)


def package(**values: object) -> dict[str, str]:
    return {"package.json": json.dumps(values)}


# -- files ------------------------------------------------------------------------------------------------------------


def test_serves_an_index_page_as_files() -> None:
    recipe = recipe_for({}, "index.html", "style.css", "README.md")

    assert recipe.web is not None
    assert (recipe.web.static, recipe.api, recipe.build) == (".", None, None)


@pytest.mark.parametrize("folder", ["public", "dist", "docs", "site"])
def test_prefers_a_folder_with_an_index_page(folder: str) -> None:
    recipe = recipe_for({}, "index.html", f"{folder}/index.html")

    assert recipe.web is not None
    assert recipe.web.static == folder


def test_of_a_repository_that_is_also_a_site_only_the_site_is_published() -> None:
    page = "<link href=style.css><script src='app.js'></script><img src='/pics/a.png'>"
    secret = (".env", ".htpasswd", ".github/workflows/ci.yml", "id_rsa", "backup.sql", "server/config.py", "db.sqlite3")
    more = ("package.json", "notes/todo.md", "server.js", "src/index.js", "css/.env", "deep/one/two/")
    site = ("style.css", "app.js", "pics/a.png", "img/b.jpg", "about/index.html", "robots.txt", "favicon.ico")
    initial = initial_for({"index.html": page}, *secret, *more, *site)
    recipe = parse_deploy_toml(initial.text.encode())[0]

    assert recipe.web is not None
    assert recipe.build is not None
    assert recipe.web.static != "."
    copied = recipe.build.command[-1].partition("cp -R ")[2].split()[:-1]
    assert copied == sorted({"index.html", *(name.partition("/")[0] for name in site)})
    assert initial.left_out == ("not published: 13 files or folders",)
    few = initial_for({"index.html": page}, "style.css", "server/config.py", ".env")
    assert few.left_out == ("not published: .env, server",)


def test_a_site_of_too_many_names_for_one_command_is_refused() -> None:
    assert "folder of its own" in refusal_of({}, "index.html", "server.py2", *(f"{n:040}.html" for n in range(40)))


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ((), "no files"),
        (("notes.txt",), "notes.txt"),
        (("frontend/package.json", "backend/requirements.txt", ".env"), "backend/requirements.txt, frontend/package"),
        (("frontend/package.json", "docs/index.html"), "frontend/package.json"),
        (("Gemfile", "config.ru", "public/index.html", "package.json"), "Ruby"),
        (("composer.json", "artisan", "public/index.php", "package.json", "vite.config.js"), "PHP"),
        (("index.php", "index.html"), "PHP"),
        (("Dockerfile", ".env"), "not containers"),
        (("docker-compose.yml",), "not containers"),
        (("pom.xml", "src/main/java/App.java"), "Maven"),
        (("mix.exs",), "Elixir"),
        (("Shop.csproj",), ".NET"),
        (("mkdocs.yml", "docs/index.md"), "MkDocs"),
        (("_config.yml", "index.html"), "Jekyll"),
        (("go.mod", "internal/x.go"), "main.go"),
        (("go.mod", "cmd/api/main.go", "cmd/worker/main.go"), "cmd/api, cmd/worker"),
        (("Cargo.toml", "crates/a/Cargo.toml"), "Cargo.toml"),
        (("manage.py", "shop/settings.py"), "what to install"),
        (("Procfile", "Gemfile"), "Ruby"),
        (("x\x1b[2J\udc80",), "x"),
    ],
)
def test_refuses_a_folder_that_it_does_not_know_with_what_was_found(files: tuple[str, ...], found: str) -> None:
    contents = {name: '{"scripts": {"build": "vite build"}}' for name in files if name == "package.json"}

    assert found in refusal_of({**contents, **{name: "web: ./a" for name in files if name == "Procfile"}}, *files)


# -- Procfile ---------------------------------------------------------------------------------------------------------


def test_runs_the_web_line_of_a_procfile() -> None:
    initial = initial_for(
        {"Procfile": "worker: ./work\nweb: ./serve --port $PORT 'a b'\nrelease: ./migrate\nclock: ./c"}
    )
    recipe = parse_deploy_toml(initial.text.encode())[0]

    assert recipe.api is not None
    assert recipe.api.command == ("./serve", "--port", "$PORT", "a b")
    assert recipe.database is not None
    assert recipe.database.migrate == ("./migrate",)
    assert initial.left_out == ("not run: worker:, clock: of Procfile; Oroboros runs one process, `web:`",)
    assert "# Left out, not run: worker:" in initial.text


@pytest.mark.parametrize(
    ("line", "runs"),
    [
        ("python app.py", ".venv/bin/python app.py"),
        ("python3 -m shop", ".venv/bin/python -m shop"),
        ("gunicorn app:app --bind 0.0.0.0:$PORT", ".venv/bin/gunicorn app:app --bind 0.0.0.0:$PORT"),
        ("cd src && gunicorn app:app", 'export PATH="$PWD/.venv/bin:$PATH"; cd src && gunicorn app:app'),
        ("./run.sh", 'export PATH="$PWD/.venv/bin:$PATH"; exec ./run.sh'),
        ("FAST=1 uvicorn a:b", 'export PATH="$PWD/.venv/bin:$PATH"; FAST=1 uvicorn a:b'),
    ],
)
def test_a_procfile_of_python_runs_what_the_build_installed(line: str, runs: str) -> None:
    contents = {"Procfile": f"web: {line}\nrelease: {line}\n", "requirements.txt": "gunicorn"}

    recipe = recipe_for(contents)

    assert api_of(contents) == runs
    assert ".venv" in build_of(contents)
    assert recipe.database is not None
    assert recipe.database.migrate is not None
    assert recipe.database.migrate[-1].split()[-1] == runs.split()[-1]


def test_a_procfile_of_node_builds_and_finds_the_packages_programs() -> None:
    files = {**package(scripts={"build": "tsc"}), "Procfile": "web: next start -p $PORT\n"}

    assert build_of(files, "package-lock.json") == "npm ci && npm run build"
    assert api_of(files) == 'export PATH="$PWD/node_modules/.bin:$PATH"; exec next start -p $PORT'
    assert api_of({**files, "Procfile": "web: npm start\n"}) == "npm start"


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


@pytest.mark.parametrize("line", ["./a 'unclosed", "\x1b]0;evil", "./a \udc80", "a" * 2_000])
def test_refuses_a_procfile_that_cannot_be_a_command(line: str) -> None:
    assert "a Procfile with a web line: deploy.toml cannot say it" in refusal_of(
        {"Procfile": f"web: {line}\n"}, "index.html"
    )


# -- Node -------------------------------------------------------------------------------------------------------------


def test_starts_a_node_package_with_its_own_script() -> None:
    told = json.dumps({"scripts": {"start": "node server.js", "build": "tsc"}})
    recipe = recipe_for({"package.json": told}, "package-lock.json", "server.js")

    assert recipe.build is not None
    assert recipe.build.command == ("sh", "-c", "npm ci && npm run build")
    assert recipe.api is not None
    assert recipe.api.command == ("npm", "start")


def test_builds_a_node_package_without_start_script_as_a_site() -> None:
    recipe = recipe_for({"package.json": json.dumps({"scripts": {"build": "vite build"}})})

    assert recipe.api is None
    assert recipe.web is not None
    assert (recipe.web.static, recipe.web.fallback) == ("dist", "index.html")


@pytest.mark.parametrize("told", ["", "[", "[]", "null", '{"scripts": 3}', '{"scripts": {"start": 3}}', "[" * 9_999])
def test_a_package_json_that_says_nothing_is_passed_over(told: str) -> None:
    assert initial_for({"package.json": told}, "index.html").found == "a static site"


@pytest.mark.parametrize(
    ("lock", "text", "install"),
    [
        ("package-lock.json", "", "npm ci"),
        ("npm-shrinkwrap.json", "", "npm ci"),
        ("pnpm-lock.yaml", "lockfileVersion: '9.0'", "npx --yes pnpm@9 install --frozen-lockfile"),
        ("pnpm-lock.yaml", "lockfileVersion: '6.0'", "npx --yes pnpm@8 install --frozen-lockfile"),
        ("yarn.lock", "# yarn lockfile v1", "npx --yes yarn@1 install --frozen-lockfile"),
        ("bun.lock", "", "npx --yes bun@1 install --frozen-lockfile"),
        ("bun.lockb", "", "npx --yes bun@1 install --frozen-lockfile"),
    ],
)
def test_installs_what_the_lock_file_says(lock: str, text: str, install: str) -> None:
    assert build_of({**package(scripts={"start": "node ."}), lock: text}) == install


def test_the_package_manager_that_is_named_counts_and_two_lock_files_without_it_do_not() -> None:
    scripts = {"start": "node ."}
    locks = ("package-lock.json", "pnpm-lock.yaml")

    named = package(scripts=scripts, packageManager="pnpm@10.4.1+sha512.abc")
    assert build_of(named, *locks) == "npx --yes pnpm@10.4.1 install --frozen-lockfile"
    assert "package-lock.json and pnpm-lock.yaml" in refusal_of(package(scripts=scripts), *locks)
    modern = {**package(scripts=scripts, packageManager="yarn@4.5.0"), "yarn.lock": "__metadata:"}
    assert "nodeLinker" in refusal_of(modern)
    linked = {**modern, ".yarnrc.yml": "nodeLinker: node-modules\n"}
    assert build_of(linked) == "npx --yes @yarnpkg/cli-dist@4.5.0 install --immutable"


@pytest.mark.parametrize(
    ("dependency", "start", "build", "static", "fallback"),
    [
        ("react-scripts", "react-scripts start", "react-scripts build", "build", "index.html"),
        ("vite", "vite", "tsc && vite build", "dist", "index.html"),
        ("vite", "npm run dev", "vite build", "dist", "index.html"),
        ("vite", "vite preview --port 3000", "vite build", "dist", "index.html"),
        ("astro", "astro dev", "astro build", "dist", None),
        ("gatsby", "gatsby develop", "gatsby build", "public", None),
        ("@11ty/eleventy", "eleventy --serve", "eleventy", "_site", None),
        ("@docusaurus/core", "docusaurus start", "docusaurus build", "build", None),
        ("hexo", "hexo server", "hexo generate", "public", None),
        ("@vue/cli-service", "vue-cli-service serve", "vue-cli-service build", "dist", "index.html"),
    ],
)
def test_builds_a_generator_of_sites_instead_of_starting_its_development_server(
    dependency: str, start: str, build: str, static: str, fallback: str | None
) -> None:
    scripts = {"dev": "vite --open", "start": start, "build": build}

    recipe = recipe_for(package(scripts=scripts, devDependencies={dependency: "1"}), "package-lock.json")

    assert recipe.api is None
    assert recipe.web is not None
    assert (recipe.web.static, recipe.web.fallback) == (static, fallback)
    assert build_of(package(scripts=scripts, devDependencies={dependency: "1"})) == "npm install && npm run build"


def test_takes_the_folder_that_a_sites_configuration_names() -> None:
    vite = package(scripts={"build": "vite build"}, devDependencies={"vite": "5"})
    angular = package(scripts={"start": "ng serve", "build": "ng build"}, devDependencies={"@angular/cli": "18"})
    built = {"builder": "@angular-devkit/build-angular:application", "options": {"outputPath": "dist/shop"}}
    told = {**angular, "angular.json": json.dumps({"projects": {"shop": {"architect": {"build": built}}}})}
    following = package(scripts={"start": "next start", "build": "next build"}, dependencies={"next": "15"})

    def static(contents: dict[str, str]) -> str:
        web = recipe_for(contents).web
        assert web is not None
        return web.static

    assert static({**vite, "vite.config.ts": "build: { outDir: './out/site' }"}) == "out/site"
    assert static(told) == "dist/shop/browser"
    assert static({**following, "next.config.mjs": "export default { output: 'export' }"}) == "out"
    assert api_of(following) == "npm start"


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"scripts": {"start": "nodemon server.js"}}, "for development"),
        ({"scripts": {"start": "webpack serve", "build": "webpack"}}, "which folder it writes"),
        ({"scripts": {"build": "tsc"}}, "which folder it writes"),
        ({"scripts": {"start": "node dist/main.js"}}, "runs dist/main.js, which is not here"),
        ({"scripts": {"start": "bun run index.ts"}}, "bun or deno"),
        ({"workspaces": ["packages/*"], "scripts": {"start": "node ."}}, "a workspace"),
        ({"scripts": {"build": "astro build"}, "dependencies": {"astro": "4", "@astrojs/node": "8"}}, "adapter"),
        ({"scripts": {"build": "vite build"}, "devDependencies": {"@sveltejs/kit": "2"}}, "adapter-static"),
        ({"scripts": {"start": "ng serve", "build": "ng build"}, "dependencies": {"@angular/cli": "18"}}, "folder"),
    ],
)
def test_refuses_a_node_package_whose_scripts_are_a_developers_or_not_understood(
    values: dict[str, object], found: str
) -> None:
    assert found in refusal_of(package(**values), "index.html")


def test_prefers_the_script_that_is_for_visitors() -> None:
    nest = {"start": "nest start", "start:prod": "node dist/main", "build": "nest build"}

    assert api_of(package(scripts=nest)) == "npm run start:prod"
    assert api_of(package(dependencies={"express": "4"}), "server.js") == "node server.js"
    svelte = package(
        scripts={"build": "vite build"}, devDependencies={"@sveltejs/kit": "2", "@sveltejs/adapter-node": "5"}
    )
    assert api_of(svelte) == "node build"
    nuxt = package(scripts={"start": "nuxt dev", "build": "nuxt build"}, dependencies={"nuxt": "3"})
    assert api_of(nuxt) == "node .output/server/index.mjs"


# -- Python and other languages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"uv.lock": ""}, "uv sync --frozen --no-dev"),
        ({"poetry.lock": ""}, "poetry install --no-interaction --only main --no-root"),
        ({"poetry.lock": "", "src/shop/x.py": ""}, "poetry install --no-interaction --only main && "),
        ({"requirements.txt": "flask"}, "pip install -r requirements.txt"),
        ({"setup.py": ""}, "pip install ."),
        ({"uv.lock": "", "requirements.txt": "flask"}, "uv sync --frozen"),
    ],
)
def test_installs_python_packages_as_their_lock_file_says(files: dict[str, str], words: str) -> None:
    contents = {"app.py": FLASK, "pyproject.toml": "[project]\nname='a'\n", **files}

    assert words in build_of(contents)
    assert api_of(contents).startswith(".venv/bin/python ")


@pytest.mark.parametrize("name", ["Pipfile", "pdm.lock", "environment.yml"])
def test_refuses_a_package_manager_of_python_that_is_not_known(name: str) -> None:
    assert name in refusal_of({"app.py": FLASK, "pyproject.toml": "[project]\nname='a'\n"}, name)
    assert "requirements.txt" in build_of({"app.py": FLASK, "requirements.txt": "flask"}, name)


def test_refuses_a_web_app_whose_server_nothing_would_install() -> None:
    app = {"main.py": "from fastapi import FastAPI\napp = FastAPI()\n"}

    assert "what to install" in refusal_of(app)
    assert "add it" in refusal_of({**app, "requirements.txt": "fastapi"})
    assert "uvicorn main:app" in api_of({**app, "requirements.txt": "fastapi[standard]"})
    nested = {"app/main.py": "app = FastAPI()\n", "requirements.txt": "fastapi\nuvicorn"}
    assert "uvicorn app.main:app" in api_of(nested)


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
    asgi = {"main.py": "from fastapi import FastAPI\napi: FastAPI = FastAPI()\n", "requirements.txt": "uvicorn"}
    fastapi = recipe_for(asgi)
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
    assert "Cargo.toml" in refusal_of({"Cargo.toml": '[package]\nname = "a b"\n'}, "src/main.rs", "index.html")
    assert build_of({"go.mod": ""}, "main.go", "server/x.go") == "go build -o server.bin ."


def test_suggests_a_database_where_migrations_lie_about() -> None:
    initial = initial_for({"go.mod": "module a"}, "main.go", "db/migrations/0001.sql")

    assert '#migrations = "db/migrations"' in initial.text
    assert parse_deploy_toml(initial.text.encode())[0].database is None


def test_migrates_with_alembic() -> None:
    contents = {"app.py": "app = FastAPI()\n", "requirements.txt": "alembic\nuvicorn"}
    recipe = recipe_for(contents, "alembic.ini", "alembic/versions/1.py")

    assert recipe.database is not None
    assert recipe.database.migrate == (".venv/bin/python", "-m", "alembic", "upgrade", "head")
    assert recipe.database.migrations == "alembic/versions"


names = st.sampled_from(
    [*CONTENTS_WANTED, "index.html", "public/index.html", "src/main.rs", "main.go", "shop/settings.py", "alembic.ini"]
) | st.text(max_size=20)
texts = st.text(max_size=40) | st.text(max_size=40).map(lambda text: f"web: {text}\nrelease: {text}")


@given(st.dictionaries(names, texts, max_size=6))
def test_what_is_written_is_always_valid_and_what_is_not_is_refused_in_words(contents: dict[str, str]) -> None:
    try:
        found = initial_for(contents).found
    except Refused as error:
        found = error.message
    assert found.isprintable()
