"""Is every deploy.toml either read as it is meant, or refused with all that is wrong with it?"""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.model import config
from controller.model.config import Api, Build, Database, Gate, Policy, Recipe, Smoke, Web
from controller.model.deploy_toml import (
    DEPLOY_TOML_BYTES_MAX,
    POLICY_TABLES,
    PROBLEMS_MAX,
    RECIPE_TABLES,
    parse_deploy_toml,
    parse_policy,
    parse_recipe,
    recipe_hash,
)
from controller.model.errors import ConfigInvalid
from controller.model.toml_shape import find_excess

CHECKOUT = Path(__file__).resolve().parents[2]
WEB = '[web]\nstatic = "public"\n'
API = '[api]\ncommand = "./server"\n'


def problems_of(text: str | bytes) -> tuple[str, ...]:
    with pytest.raises(ConfigInvalid) as caught:
        parse_deploy_toml(text.encode() if isinstance(text, str) else text)
    assert caught.value.reason == "DeployTomlInvalid"
    return caught.value.problems


def to_toml(recipe: Recipe, policy: Policy) -> str:
    """Write what `parse_deploy_toml` reads; JSON's spelling of texts, numbers and lists is TOML's too."""
    lines: list[str] = []
    for table, values in {**asdict(recipe), **asdict(policy)}.items():
        if values is not None:
            lines.append(f"[{table}]")
            lines += [
                f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value is not None
            ]
    return "\n".join(lines)


def test_reads_every_table_and_key() -> None:
    recipe, policy = parse_deploy_toml(
        b"""
        [build]
        command = "npm run 'build all'"
        timeout_s = "5m"
        [web]
        static = "dist/"
        fallback = "index.html"
        [api]
        command = ["./server", "--bind", "127.0.0.1:$PORT", ""]
        listen = "socket"
        prefix = "/v1/"
        stop_timeout_s = "500ms"
        [database]
        migrate = "./migrate up"
        migrations = "db/migrations"
        timeout_s = 60
        [gate]
        path = "/health?deep=1"
        status = 204
        proof = "echo"
        start_timeout_s = "1m"
        probe_timeout_s = 0.5
        window_s = "2m"
        window_failures = 5
        [smoke]
        routes = ["/", "/about"]
        [production]
        host = "app.example.com"
        backend_port = 8000
        drain_s = "10s"
        [previews]
        enabled = false
        slots = 0
        host = "preview{n}.example.com"
        lease_ttl_s = "7d"
        [edge]
        tls = "files"
        trusted_proxies = ["192.0.2.0/24", "2001:db8::1"]
        [retention]
        keep = 9
        pinned = ["0123abc"]
        [permissions]
        forks = "never"
        [limits]
        files_max = 10
        total_bytes_max = "2GiB"
        blob_bytes_max = "100MiB"
        depth_max = 5
        name_bytes_max = 100
        path_bytes_max = 1000
        """
    )

    assert recipe == Recipe(
        build=Build(command=("npm", "run", "build all"), timeout_s=300.0),
        web=Web(static="dist", fallback="index.html"),
        api=Api(
            command=("./server", "--bind", "127.0.0.1:$PORT", ""), listen="socket", prefix="/v1/", stop_timeout_s=0.5
        ),
        database=Database(migrate=("./migrate", "up"), migrations="db/migrations", timeout_s=60.0),
        gate=Gate(
            path="/health?deep=1",
            status=204,
            proof="echo",
            start_timeout_s=60.0,
            probe_timeout_s=0.5,
            window_s=120.0,
            window_failures=5,
        ),
        smoke=Smoke(routes=("/", "/about")),
    )
    assert policy == Policy(
        production=config.Production(host="app.example.com", backend_port=8000, drain_s=10.0),
        previews=config.Previews(enabled=False, slots=0, host="preview{n}.example.com", lease_ttl_s=604_800.0),
        edge=config.Edge(tls="files", trusted_proxies=("192.0.2.0/24", "2001:db8::1")),
        retention=config.Retention(keep=9, pinned=("0123abc",)),
        permissions=config.Permissions(forks="never"),
        limits=config.TreeLimits(
            files_max=10,
            total_bytes_max=2 << 30,
            blob_bytes_max=100 << 20,
            depth_max=5,
            name_bytes_max=100,
            path_bytes_max=1000,
        ),
    )


def test_defaults_are_those_of_the_frozen_dataclasses() -> None:
    assert parse_deploy_toml(WEB.encode()) == (Recipe(web=Web(static="public")), Policy())
    assert parse_recipe(API.encode()) == Recipe(api=Api(command=("./server",)))
    assert parse_recipe(f"{API}[database]\n".encode()).database == Database()
    assert parse_recipe(f'{API}[build]\ncommand = "make"\n'.encode()).build == Build(command=("make",))


def test_the_tables_are_those_of_recipe_and_policy() -> None:
    assert tuple(field.name for field in fields(Recipe)) == RECIPE_TABLES
    assert tuple(field.name for field in fields(Policy)) == POLICY_TABLES
    assert all(field.default is not MISSING or field.default_factory is not MISSING for field in fields(Recipe))


def test_tells_every_problem_of_recipe_and_policy_at_once() -> None:
    problems = problems_of(
        """
        [wbe]
        [gate]
        proof = "echo"
        status = 1
        [previews]
        slots = 100
        sloths = 3
        """
    )

    assert problems == (
        "wbe: is unknown; did you mean web?",
        "web, api: at least one of the two tables must be there",
        'gate.proof: "echo" needs a process that echoes, so [api]; allowed is "owner"',
        "gate.status: must be greater than or equal to 200",
        "previews.slots: must be less than or equal to 99",
        "previews.sloths: is unknown; did you mean slots?",
    )


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[web]\nstatic = "/etc"', "web.static"),
        ('[web]\nstatic = "a/../../b"', "web.static"),
        ('[web]\nstatic = "a\\\\b"', "web.static"),
        ('[web]\nstatic = "a\\u0000b"', "web.static"),
        ('[web]\nstatic = ""', "web.static"),
        (f'[web]\nstatic = "{"a" * 300}"', "web.static"),
        ("[web]", "web.static"),
        ("[web]\nstatic = 3", "web.static"),
        ('[web]\nstatic = "a"\nfallback = "."', "web.fallback"),
        ("web = 3", "web"),
        ('[[web]]\nstatic = "a"', "web"),
        ('[api]\ncommand = "unclosed \'quote"', "api.command"),
        ("[api]\ncommand = []", "api.command"),
        ('[api]\ncommand = ""', "api.command"),
        ('[api]\ncommand = ["a", 3]', "api.command"),
        ('[api]\ncommand = ["a\\u001b[2J"]', "api.command"),
        ('[api]\ncommand = [""]', "api.command"),
        (f'[api]\ncommand = "{"a " * 100}"', "api.command"),
        (f'[api]\ncommand = "{"a" * 1001}"', "api.command"),
        (API + 'listen = "udp"', "api.listen"),
        (API + 'prefix = "api"', "api.prefix"),
        (API + 'prefix = "/api"', "api.prefix"),
        (API + "stop_timeout_s = true", "api.stop_timeout_s"),
        (API + '[gate]\npath = "health"', "gate.path"),
        (API + '[gate]\npath = "/a b"', "gate.path"),
        (API + '[gate]\npath = "/a\\r\\nX: y"', "gate.path"),
        (API + '[gate]\nstatus = "200"', "gate.status"),
        (API + "[gate]\nstatus = 200.0", "gate.status"),
        (API + "[gate]\nwindow_s = nan", "gate.window_s"),
        (API + "[gate]\nwindow_s = inf", "gate.window_s"),
        (API + "[gate]\nwindow_s = -1", "gate.window_s"),
        (API + f"[gate]\nwindow_s = 1{'0' * 400}", "gate.window_s"),
        (API + '[gate]\nwindow_s = "5 minutes"', "gate.window_s"),
        (API + f'[gate]\nwindow_s = "{"9" * 5000}s"', "gate.window_s"),
        (API + "[smoke]\nroutes = []", "smoke.routes"),
        (API + '[smoke]\nroutes = ["a"]', "smoke.routes.0"),
        (API + '[production]\nhost = "APP.example.com"', "production.host"),
        (API + '[production]\nhost = "a..b"', "production.host"),
        (API + '[production]\nhost = "a b"', "production.host"),
        (API + "[production]\nbackend_port = 80", "production.backend_port"),
        (API + '[previews]\nhost = "preview.example.com"', "previews.host"),
        (API + '[previews]\nhost = "{n}{n}.example.com"', "previews.host"),
        (API + "[previews]\nslots = true", "previews.slots"),
        (API + "[previews]\nslots = -1", "previews.slots"),
        (API + "[previews]\nenabled = 1", "previews.enabled"),
        (API + '[edge]\ntls = "on_demand"', "edge.tls"),
        (API + '[edge]\ntrusted_proxies = ["192.0.2.1/24"]', "edge.trusted_proxies.0"),
        (API + '[edge]\ntrusted_proxies = ["cdn.example.com"]', "edge.trusted_proxies.0"),
        (API + '[edge]\ntrusted_proxies = ["fe80::1%x\\n}\\n:80 {"]', "edge.trusted_proxies.0"),
        (API + '[retention]\npinned = ["main"]', "retention.pinned.0"),
        (API + "[retention]\nkeep = 0", "retention.keep"),
        (API + '[permissions]\nforks = "always"', "permissions.forks"),
        (API + '[limits]\nblob_bytes_max = "100MB"', "limits.blob_bytes_max"),
        (API + "[limits]\nblob_bytes_max = 1.5", "limits.blob_bytes_max"),
        (API + f'[limits]\nblob_bytes_max = "{"9" * 5000}GiB"', "limits.blob_bytes_max"),
    ],
)
def test_refuses_a_wrong_value_under_its_key(text: str, key: str) -> None:
    (problem,) = problems_of(text)

    assert problem.startswith(f"{key}: ")
    assert "Value error" not in problem
    assert "_" not in problem.removeprefix(key).replace(". _", "")


def test_broken_toml_is_told_with_its_line() -> None:
    assert "line 2" in problems_of(b"[web]\nstatic = \n")[0]
    assert "line 2" in problems_of(b'[web]\nstatic = "\xff"\n')[0]


@pytest.mark.parametrize(
    ("written", "meant"),
    [("./public/", "public"), ("public//", "public"), ("a//b/./c", "a/b/c"), ("./", "."), (".", "."), ("./.", ".")],
)
def test_a_path_has_many_spellings_and_one_meaning(written: str, meant: str) -> None:
    text = f'[web]\nstatic = "{written}"\n'

    assert parse_recipe(text.encode()) == Recipe(web=Web(static=meant))
    patterns = parse_policy(b'[previews]\npaths = ["./web/**"]\n').previews.paths
    assert patterns == ("web/**",)


@pytest.mark.parametrize(
    ("key", "written", "advice"),
    [
        ("static", "/public/", "write 'public'"),
        ("static", "/", "write '.'"),
        ("static", "public\\\\site", "must have / between folders"),
        ("static", "../site", "without .."),
        ("fallback", "/index.html", "write 'index.html'"),
        ("fallback", "./", "below the repository's root"),
    ],
)
def test_a_path_that_is_refused_comes_with_how_to_write_it(key: str, written: str, advice: str) -> None:
    beside = "" if key == "static" else 'static = "public"\n'

    (problem,) = problems_of(f'[web]\n{beside}{key} = "{written}"\n')

    assert problem.startswith(f"web.{key}: ")
    assert advice in problem


def test_a_pattern_that_names_a_folder_is_refused_with_the_pattern_of_its_files() -> None:
    (problem,) = problems_of(f'{WEB}[previews]\npaths = ["web/"]\n')

    assert "write web/**" in problem


def test_a_file_that_was_saved_on_windows_is_read() -> None:
    with_mark = b"\xef\xbb\xbf" + WEB.replace("\n", "\r\n").encode()

    assert parse_recipe(with_mark) == parse_recipe(WEB.encode())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_another_unicode_than_utf_8_is_called_by_its_name(encoding: str) -> None:
    (problem,) = problems_of(WEB.encode(encoding))

    assert encoding[:6].upper() in problem or "-16" in problem
    assert problem.endswith("save it as UTF-8")


def test_what_is_no_unicode_is_told_with_its_line_and_what_to_do() -> None:
    (problem,) = problems_of(WEB.encode() + "# gr\u00fcn\n".encode("latin-1"))

    assert problem == "deploy.toml: is not UTF-8 (at line 3): save it as UTF-8"


def test_refuses_more_than_64_kib_and_more_than_any_parser_likes() -> None:
    assert "64 KiB" in problems_of(WEB.encode() + b"#" * DEPLOY_TOML_BYTES_MAX)[0]
    assert "deep in each other" in problems_of(b"a = " + b"[" * 60_000)[0]
    assert len(problems_of(WEB + "".join(f"k{n} = 1\n" for n in range(4_000)))) == PROBLEMS_MAX + 1


def test_an_unknown_key_is_named_harmlessly() -> None:
    (problem,) = problems_of(WEB + '"\\u001b]0;evil\\u0007" = 1\n')

    assert problem.isprintable()


def test_a_broken_policy_does_not_spoil_the_recipe_nor_the_other_way_round() -> None:
    text = f"{API}[previews]\nslots = 1000\n".encode()

    assert parse_recipe(text) == Recipe(api=Api(command=("./server",)))
    assert parse_policy(b"[api]\n[colour]\n[previews]\nslots = 2\n").previews.slots == 2
    with pytest.raises(ConfigInvalid, match="slots"):
        parse_policy(text)


def test_the_recipe_hash_changes_with_the_build_and_with_nothing_else() -> None:
    recipe = Recipe(build=Build(command=("make",)), web=Web(static="public"))

    assert recipe_hash(recipe) == recipe_hash(parse_recipe(to_toml(recipe, Policy()).encode()))
    assert recipe_hash(recipe) == recipe_hash(replace(recipe, gate=Gate(window_s=99.0)))
    assert recipe_hash(recipe) != recipe_hash(replace(recipe, build=Build(command=("make", "all"))))
    assert len(recipe_hash(recipe)) == 16


seconds = st.floats(min_value=1, max_value=60).map(lambda value: round(value, 3))
words = st.lists(st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=20), min_size=1, max_size=5)
commands = words.map(tuple)
paths = st.from_regex(r"[A-Za-z0-9_@+~-][A-Za-z0-9_.@+~-]{0,9}(/[A-Za-z0-9_-]{1,9}){0,3}", fullmatch=True)
url_paths = st.from_regex(r"/[A-Za-z0-9_./?&=-]{0,30}", fullmatch=True)
recipes = st.builds(
    Recipe,
    build=st.none() | st.builds(Build, command=commands, timeout_s=seconds),
    web=st.none() | st.builds(Web, static=paths | st.just("."), fallback=st.none() | paths),
    api=st.builds(
        Api,
        command=commands,
        listen=st.sampled_from(["port", "socket"]),
        prefix=st.sampled_from(["/", "/api/"]),
        stop_timeout_s=seconds,
    ),
    database=st.none() | st.builds(Database, migrate=st.none() | commands, migrations=paths, timeout_s=seconds),
    gate=st.builds(
        Gate,
        path=url_paths,
        status=st.integers(200, 599),
        proof=st.sampled_from(["owner", "echo"]),
        start_timeout_s=seconds,
        probe_timeout_s=seconds,
        window_s=seconds,
        window_failures=st.integers(1, 100),
    ),
    smoke=st.builds(Smoke, routes=st.lists(url_paths, min_size=1, max_size=3).map(tuple)),
)
policies = st.builds(
    Policy,
    previews=st.builds(config.Previews, enabled=st.booleans(), slots=st.integers(0, 50), lease_ttl_s=st.just(60.0)),
    retention=st.builds(
        config.Retention,
        keep=st.integers(1, 1000),
        pinned=st.lists(st.from_regex(r"[0-9a-f]{7,40}", fullmatch=True), max_size=3).map(tuple),
    ),
)


@given(recipes, policies)
def test_what_is_written_is_read_back(recipe: Recipe, policy: Policy) -> None:
    assert parse_deploy_toml(to_toml(recipe, policy).encode()) == (recipe, policy)


KEYS = sorted({key.name for kind in (Build, Web, Api, Database, Gate, Smoke, config.Previews) for key in fields(kind)})
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["echo", "socket", "5m", "1GiB"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
tables = st.dictionaries(
    st.sampled_from([*RECIPE_TABLES, *POLICY_TABLES]) | st.text(max_size=5),
    st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), values, max_size=6),
    max_size=5,
)


def inline(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    if value is None:
        return "1979-05-27"
    return json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf")


def problems_or_none(data: bytes) -> tuple[str, ...] | None:
    try:
        parse_recipe(data)
        parse_policy(data)
        parse_deploy_toml(data)
    except ConfigInvalid as error:
        return error.problems
    return None


@settings(max_examples=300)
@given(
    st.binary(max_size=200)
    | tables.map(
        lambda given: "\n".join(f"{json.dumps(k)} = {inline(v)}" for k, v in given.items()).encode(
            "utf-8", "surrogatepass"
        )
    )
)
def test_any_bytes_are_a_recipe_or_a_named_refusal(data: bytes) -> None:
    problems = problems_or_none(data)

    assert problems is None or (problems and all(problem.isprintable() for problem in problems))


def test_our_own_deploy_toml_is_valid() -> None:
    recipe, policy = parse_deploy_toml((CHECKOUT / "deploy.toml").read_bytes())

    assert recipe.web is not None
    assert (CHECKOUT / recipe.web.static / "index.html").is_file()
    # It could not start in a slot yet; the file says why.
    assert recipe.api is None
    assert policy.production.backend_port == 8000


def test_the_sample_apps_deploy_toml_is_valid() -> None:
    parse_deploy_toml((CHECKOUT / "controller/development/sample/deploy.toml").read_bytes())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (".".join("a" * 17) + " = 1", "a key has more than 16 parts (at line 1)"),
        ('[web]\nstatic = "a.b.c"\n' + " . ".join(['"x.y"'] * 17) + " = 1", "a key has more than 16 parts (at line 3)"),
        ("[" + ".".join("a" * 17) + "]", "a key has more than 16 parts (at line 1)"),
        ('a = {"b" = 1, ' + ".".join("a" * 17) + " = 1}", "a key has more than 16 parts (at line 1)"),
        ("a = " + "[" * 17 + "]" * 17, "tables and arrays lie more than 16 deep in each other (at line 1)"),
        ("a = " + "{a=" * 17 + "1" + "}" * 17, "tables and arrays lie more than 16 deep in each other (at line 1)"),
        ("\n\na = [" + "1," * 5_000 + "]", "there are more than 5,000 keys, elements and tables (at line 3)"),
        (
            "".join(f"k{n} = 1\n" for n in range(5_001)),
            "there are more than 5,000 keys, elements and tables (at line 5001)",
        ),
    ],
)
def test_what_would_cost_the_square_of_its_length_is_not_read(text: str, problem: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        parse_deploy_toml(text.encode())
    assert caught.value.message == f"deploy.toml: {problem}"


@pytest.mark.parametrize(
    "value",
    [
        '"""a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r\\""" [[[[[[[[[[[[[[[[[[ """"',
        "'''a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r \\ [[[[[[[[[[[[[[[[[[[[ '''",
        '"a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r \\" [[[[[[[[[[[[[[[[[[[["',
        "'a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r \" [[[[[[[[[[[[[[[[[[[[' # [[[[[[[[[[[[[[[[[[[[ a.b.c.d.e.f.g.h",
        "[1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8]",
    ],
)
def test_dots_and_brackets_count_only_where_they_mean_something(value: str) -> None:
    assert find_excess(f"a.b = {value}\n[web]\n") is None
    with pytest.raises(ConfigInvalid, match="a: is unknown"):
        parse_deploy_toml(f'[web]\nstatic = "."\n[a]\nb = {value}\n'.encode())
