"""What do visitors get of a static site: of this release, of the one before, of what is hidden, after a revert?"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from controller.decisions.assets import hashed_by
from controller.decisions.live_files import Assets
from controller.model.names import MAIN, preview_slot
from controller.model.nouns import Live

from .host import IN_TIME, Answer, Host

PREVIEW = preview_slot(1)
HASHED, HASHED_TOO = "/assets/index-BHTuo9C3.js", "/main.3f2a9c1d.css"
NOT_FOUND = (404, "Not found.\n")
NAVIGATION = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.fixture
def main(host: Host) -> Iterator[Host]:
    host.switch(Live(slot=MAIN, state="free", generation=0))
    host.surface(MAIN)
    yield host
    # Whatever was asked, the surface met no error of its own.
    assert "panic" not in (host.folder / "logs" / "surface-main.errors.log").read_text()


def put(folder: Path, files: dict[str, str]) -> Path:
    """Write files with one and the same time, as builds that can be repeated do."""
    for name, text in files.items():
        path = folder / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return folder


def said(host: Host, path: str, *, method: str = "GET", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return host.ask(path, port=host.topology.ports.web(MAIN), method=method, headers=named)


def seen(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.body


def test_of_the_release_before_only_hashed_assets_answer_and_only_in_time(main: Host) -> None:
    names = (HASHED, HASHED_TOO, "/index.html", "/feed.xml", "/old/index.html", "/page.html", "/secrets.txt", "/app.js")
    hidden = ("/.env", "/.env.3f2a9c1d.js", "/.git/x.3f2a9c1d.js", "/deploy.toml")
    old = put(main.folder / "old", dict.fromkeys((*names, *hidden), "old"))
    new = put(main.folder / "new", {"here.html": "new"})

    main.serve(MAIN, static_root=new, previous=old)
    assert [seen(said(main, path)) for path in (HASHED, HASHED_TOO)] == [(200, "old")] * 2
    assert said(main, HASHED).headers["cache-control"] == "no-cache"
    for path in ("/", "/old", "/old/", "/page", "/.well-known/../.env", *names[2:], *hidden):
        assert seen(said(main, path)) == NOT_FOUND, path
    for assets in (Assets(until=datetime.now(UTC)), Assets()):
        main.serve(MAIN, static_root=new, previous=old, assets=assets)
        assert [seen(said(main, path)) for path in (HASHED, HASHED_TOO)] == [NOT_FOUND] * 2


def test_a_policy_says_which_names_are_hashed(main: Host) -> None:
    old = put(main.folder / "old", {HASHED: "old", "v/{1}.bin": "old", "v/x/2.bin": "old"})
    new = put(main.folder / "new", {HASHED: "new", "v/x/1.bin": "new"})
    assets = Assets(until=IN_TIME.until, pattern=hashed_by(["v/{1}.bin", "v/*/*.bin"]))

    main.serve(MAIN, static_root=new, previous=old, assets=assets)

    assert [seen(said(main, path)) for path in ("/v/%7B1%7D.bin", "/v/x/2.bin")] == [(200, "old")] * 2
    kept = {path: said(main, path).headers["cache-control"] for path in (HASHED, "/v/x/1.bin")}
    assert kept == {HASHED: "no-cache", "/v/x/1.bin": "public, max-age=31536000, immutable"}
    main.serve(MAIN, static_root=new, previous=old, assets=Assets(until=IN_TIME.until, pattern=hashed_by([])))
    assert seen(said(main, "/v/x/2.bin")) == NOT_FOUND


HIDDEN = [
    *("/.env", "/%2eenv", "/%2Eenv", "//.env", "/./.env", "/a/../.env", "/a/%2e%2e/.env", "/.env/", "/.env?x=1"),
    *("/.env%00", "/.git/", "/.git", "/.git/config", "/.git//config", "/.hidden/index.html", "/.hidden/", "/.hidden"),
    *("/deploy.toml", "/deploy%2etoml", "/Deploy.toml", "/%64eploy.toml", "//deploy.toml", "/x/../deploy.toml"),
    *("/deploy.toml/", "/a/.htpasswd", "/.well-known/.env", "/.well-known/../.env", "/\\.env", "/a\\..\\.env"),
]


def test_nothing_hidden_is_served_by_any_spelling(main: Host) -> None:
    files = (
        ".env",
        ".git/config",
        ".git/index.html",
        ".hidden/index.html",
        "deploy.toml",
        "Deploy.toml",
        "a/.htpasswd",
    )
    root = put(main.folder / "all", dict.fromkeys((*files, ".well-known/.env", ".hidden.html"), "secret"))
    put(root, {"index.html": "home", "a/page": "page", ".well-known/security.txt": "public", "x.env": "public"})

    for fallback in (None, "index.html"):
        main.serve(MAIN, static_root=root, fallback=fallback)
        for path in HIDDEN:
            for method in ("GET", "HEAD", "POST"):
                answer = said(main, path, method=method, Accept=NAVIGATION, Range="bytes=0-3")
                assert "secret"[:4] not in answer.body, (path, method)
                assert answer.status in (400, 404), (path, method, answer)
        assert [seen(said(main, path)) for path in ("/.well-known/security.txt", "/x.env")] == [(200, "public")] * 2


def test_an_apps_own_hidden_paths_stay_the_apps(main: Host) -> None:
    _, address = main.instance(MAIN, "a", name="app")
    root = put(main.folder / "all", {"index.html": "home", ".env": "secret", "deploy.toml": "secret"})

    for fallback in (None, "index.html"):
        main.serve(MAIN, address=address, static_root=root, api_prefix="/api/", fallback=fallback)
        for path in ("/.env", "/deploy.toml", "/.internal/x", "/api/.env"):
            assert seen(said(main, path)) == (200, "app"), (path, fallback)
    assert said(main, "/%61pi/x").headers["x-path"] == "/%61pi/x"


def test_a_prefix_is_what_the_app_sees(main: Host) -> None:
    _, address = main.instance(MAIN, "a", name="app")
    root = put(main.folder / "all", {"API/page": "file", "api*/page": "file", "index.html": "home"})

    main.serve(MAIN, address=address, static_root=root, api_prefix="/api/", fallback="index.html")
    assert [said(main, path).body for path in ("/API/page", "/API/else", "/api", "/api/else")] == [
        *("file", "home", "home", "app")
    ]
    main.serve(MAIN, address=address, static_root=root, api_prefix="/api*/")
    assert [said(main, path).body for path in ("/api*/page", "/API/page")] == ["app", "file"]


def test_after_a_revert_who_has_the_bad_page_gets_the_good_one(main: Host) -> None:
    # Names, sizes and times are the same in both.
    files = ("index.html", "docs/index.html", "app.js", "404.html", HASHED)
    good = put(main.folder / "good", dict.fromkeys(files, "good"))
    bad = put(main.folder / "bad", dict.fromkeys(files, "evil"))
    shown = {"/": 200, "/docs/": 200, "/app.js": 200, HASHED: 200, "/deep/page": 200, "/missing.js": 404}

    main.serve(MAIN, static_root=good, fallback="index.html", generation=1)
    first = {path: said(main, path).headers.get("etag") for path in shown}
    main.serve(MAIN, static_root=bad, previous=good, fallback="index.html", generation=2)
    had = {path: said(main, path) for path in shown}
    main.serve(MAIN, static_root=good, fallback="index.html", generation=3, assets=Assets())

    for path, status in shown.items():
        assert seen(had[path]) == (status, "evil"), path
        assert "last-modified" not in had[path].headers
        date = "Fri, 01 Jan 2100 00:00:00 GMT"
        asked = [{"If_Modified_Since": date}, {"Range": "bytes=0-1", "If_Range": date}, {"If_Unmodified_Since": date}]
        if tag := had[path].headers.get("etag"):
            asked += [
                {"If_None_Match": tag},
                {"If_None_Match": tag, "If_Modified_Since": date},
                {"Range": "bytes=0-1", "If_Range": tag},
            ]
        for headers in asked:
            assert seen(said(main, path, **headers)) == (status, "good"), (path, headers)
        if status == 200:
            assert tag
            assert said(main, path, If_None_Match=first[path] or "").status == 304, path
            now = said(main, path, method="HEAD", Range="bytes=0-1", If_Range=first[path] or "")
            assert (now.status, now.headers["content-length"], now.headers["etag"]) == (206, "2", first[path])


def test_a_build_that_was_made_anew_at_its_path_has_other_tags(main: Host) -> None:
    root = main.folder / "build"
    put(root, {"index.html": "one"})
    main.serve(MAIN, static_root=root, generation=1)
    tag = said(main, "/").headers["etag"]
    root.rename(main.folder / "away")
    put(root, {"index.html": "two"})
    main.serve(MAIN, static_root=root, generation=2)

    assert seen(said(main, "/", If_None_Match=tag)) == (200, "two")


def test_a_fallback_stands_for_pages_and_not_for_what_they_load(main: Host) -> None:
    _, address = main.instance(MAIN, "a", name="app")
    root = put(main.folder / "all", {"index.html": "home", "about.html": "about"})
    pages = [("/deep/page", {}), ("/deep/page", {"Accept": NAVIGATION}), ("/deep/page", {"Accept": "*/*"})]
    pages += [("/users/jane.doe", {"Accept": NAVIGATION}), ("/v1.2/docs", {}), ("/docs/v1.2", {"Accept": NAVIGATION})]
    parts = [
        (path, {"Accept": accept}) for path in ("/x.js", "/assets/a-BHTuo9C3.css") for accept in (NAVIGATION, "*/*")
    ]
    parts += [
        ("/logo.PNG", {}),
        ("/old.html", {}),
        ("/users/jane.doe", {}),
        ("/users/7", {"Accept": "application/json"}),
    ]

    for instance in (None, address):
        main.serve(MAIN, address=instance, static_root=root, fallback="index.html", api_prefix="/api/")
        for path, headers in pages:
            assert seen(said(main, path, **headers)) == (200, "home"), (path, headers)
        for path, headers in parts:
            assert seen(said(main, path, **headers)) == NOT_FOUND, (path, headers)
    assert "Accept" in said(main, "/deep/page").headers["vary"]


@pytest.mark.parametrize("fallback", [None, "404.html"])
def test_a_page_of_its_own_says_404_with_404_and_as_a_whole(main: Host, fallback: str | None) -> None:
    root = put(main.folder / "all", {"index.html": "home", "404.html": "mine"})
    main.serve(MAIN, static_root=root, fallback=fallback)
    tag = said(main, "/404.html").headers["etag"]

    for path in ("/nothing", "/deep/er", "/x.js", "/.env"):
        for headers in ({}, {"Range": "bytes=0-1"}, {"If_None_Match": tag}, {"If_None_Match": "*"}):
            assert seen(said(main, path, **headers)) == (404, "mine"), (path, headers)
    answer = said(main, "/nothing")
    assert (answer.headers["cache-control"], answer.headers["content-type"]) == ("no-cache", "text/html; charset=utf-8")
    assert "etag" not in answer.headers
    assert said(main, "/nothing", method="HEAD").status == 404
    assert said(main, "/nothing", method="POST").status == 404
    assert seen(said(main, "/404.html")) == (200, "mine")


NAMES = ["a#b", "100%", "what?", "a b", "ü", "a%23b", "[1]", "a;b", "{x}", "a&b=c", "+"]


def test_each_page_has_one_address_whatever_its_name_holds(main: Host) -> None:
    root = put(main.folder / "all", {f"{name}/index.html": f"in {name}" for name in NAMES})
    put(root, {"page.html": "page", "docs/sub/index.html": "sub", "about.html": "about"})
    put(root, {f"pages/{name}.html": f"page {name}" for name in NAMES})
    main.serve(MAIN, static_root=root)

    for name in NAMES:
        asked = "/" + "".join(f"%{byte:02X}" for byte in name.encode())
        leads = said(main, f"{asked}?q=a%2Fb?")
        location = leads.headers["location"]
        assert (leads.status, leads.headers["cache-control"]) == (308, "no-cache")
        assert location.endswith("/?q=a%2Fb?"), name
        assert seen(said(main, location)) == (200, f"in {name}"), name
        assert seen(said(main, f"/pages{asked}?q=1")) == (200, f"page {name}"), name
        assert said(main, f"{asked}/index.html").headers["location"] == location.removesuffix("?q=a%2Fb?"), name
    leads_on = {
        path: said(main, path) for path in ("//docs/sub", "///docs/sub/index.html?x", "/page.html/", "/docs/sub//")
    }
    assert {path: answer.headers.get("location") for path, answer in leads_on.items()} == {
        "//docs/sub": "/docs/sub/",
        "///docs/sub/index.html?x": "/docs/sub/?x",
        "/page.html/": "/page.html",
        "/docs/sub//": None,
    }
    assert [seen(said(main, path)) for path in ("/about", "/about/", "/docs", "/docs/")] == [
        (200, "about"),
        *([NOT_FOUND] * 3),
    ]


ODD = [
    *(
        "/%ff%fe",
        "/api%ff/x",
        "/" + "a" * 9_000,
        "/" + "a/" * 4_000,
        "/index.html/x",
        "/x%0a",
        "/%0a.env",
        "/{env.HOME}",
    ),
    *("/{http.regexp.live.static_root}", "/*", "/?", "/[", "/=404", "/%7b%7d", "/..;/x", "/%e2%80%ae"),
]


def test_no_path_is_an_error_of_the_surface(main: Host) -> None:
    _, address = main.instance(MAIN, "a", name="app")
    root = put(main.folder / "all", {"index.html": "home"})

    for pattern in ("", hashed_by(["x/**"])):
        assets = Assets(until=IN_TIME.until, pattern=pattern)
        for path in ODD:
            main.serve(MAIN, static_root=root, previous=root, assets=assets)
            assert said(main, path).status in ((200,) if path == "/?" else (400, 404)), path
            main.serve(MAIN, static_root=root, fallback="index.html")
            assert said(main, path).status in (200, 400, 404), path
            main.serve(MAIN, address=address, static_root=root, previous=root, assets=assets, api_prefix="/api/")
            assert said(main, path).status in (200, 400), path


def test_browsers_ask_again_for_pages_and_never_for_hashed_assets(main: Host) -> None:
    _, address = main.instance(MAIN, "a", name="app")
    root = put(main.folder / "all", {"index.html": "home", "app.js": "1", HASHED: "1", HASHED_TOO: "1"})

    main.serve(MAIN, address=address, static_root=root, api_prefix="/api/")
    kept = {
        path: said(main, path).headers.get("cache-control") for path in ("/", "/app.js", HASHED, HASHED_TOO, "/api/x")
    }
    forever = "public, max-age=31536000, immutable"
    assert kept == {"/": "no-cache", "/app.js": "no-cache", HASHED: forever, HASHED_TOO: forever, "/api/x": None}
    app = said(main, "/api/x").headers
    assert not {"etag", "x-robots-tag", "vary", "last-modified"} & set(app)
    # What cannot be read is no asset: the app is asked, and what it says is kept for as long as it says.
    (root / HASHED.lstrip("/")).chmod(0)
    if os.geteuid() != 0:
        answered = said(main, HASHED).headers
        assert (answered["x-path"], answered.get("cache-control"), "etag" in answered) == (HASHED, None, False)


def test_every_answer_of_a_preview_asks_not_to_be_listed(host: Host) -> None:
    _, address = host.instance(PREVIEW, "a", name="app")
    root = put(host.folder / "all", {"index.html": "home"})
    host.switch(Live(slot=PREVIEW, state="free", generation=0))
    host.surface(PREVIEW)

    def robots(path: str) -> str | None:
        return host.web(PREVIEW, path).headers.get("x-robots-tag")

    assert robots("/") == "noindex"
    host.serve(PREVIEW, address=address, static_root=root, api_prefix="/api/")
    assert [robots(path) for path in ("/", "/api/x", "/else", "/api/status/500")] == ["noindex"] * 4
    host.serve(PREVIEW, static_root=root)
    assert [robots(path) for path in ("/", "/nothing", "/.env")] == ["noindex"] * 3


def test_what_gains_by_it_is_compressed_with_a_tag_of_its_own(main: Host) -> None:
    text = "var a = 1;\n" * 500
    root = put(main.folder / "all", {"app.js": text, "404.html": text, "index.html": text, "x.png": text, "s.js": "1"})
    main.serve(MAIN, static_root=root, generation=1)

    def raw(path: str, *, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", main.topology.ports.web(MAIN), timeout=15)
        with contextlib.closing(connection):
            asked = {"Accept-Encoding": "gzip", **{name.replace("_", "-"): value for name, value in headers.items()}}
            connection.request(method, path, headers=asked)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    plain_tag = said(main, "/app.js").headers["etag"]
    for path, status in (("/app.js", 200), ("/", 200), ("/nothing", 404)):
        found, headers, body = raw(path)
        assert (found, headers["content-encoding"], headers["vary"]) == (status, "gzip", "Accept-Encoding")
        assert gzip.decompress(body).decode() == text
    for path in ("/x.png", "/s.js"):
        assert "content-encoding" not in raw(path)[1], path
    tag = raw("/app.js")[1]["etag"]
    assert tag != plain_tag
    assert raw("/app.js", If_None_Match=tag)[0] == 304
    status, headers, body = raw("/app.js", Range="bytes=4-8", If_Range=plain_tag)
    assert (status, headers.get("content-encoding"), body) == (206, None, text[4:9].encode())
    status, _, body = raw("/app.js", Range="bytes=4-8", If_Range=tag)
    assert (status, gzip.decompress(body).decode()) == (200, text)
    status, headers, _ = raw("/app.js", method="HEAD")
    assert (status, headers["content-length"], headers["etag"]) == (200, str(len(text)), plain_tag)

    main.serve(MAIN, static_root=put(main.folder / "other", {"app.js": text.upper()}), generation=2)
    status, _, body = raw("/app.js", If_None_Match=tag)
    assert (status, gzip.decompress(body).decode()) == (200, text.upper())


def test_a_file_has_the_type_of_its_ending_on_every_host(main: Host) -> None:
    types = {
        "/a.html": "text/html; charset=utf-8",
        "/a.js": "text/javascript; charset=utf-8",
        "/a.json": "application/json",
        "/a.webmanifest": "application/manifest+json",
        "/A.WOFF2": "font/woff2",
        "/a.txt": "text/plain; charset=utf-8",
        "/a.svg": "image/svg+xml",
        "/a.wasm": "application/wasm",
        "/a.js.map": "application/json",
        "/.well-known/x": None,
    }
    main.serve(MAIN, static_root=put(main.folder / "all", dict.fromkeys(types, "{}")), fallback="a.html")

    assert {path: said(main, path).headers.get("content-type") for path in types} == types
    # The page, whatever the path's ending says.
    assert said(main, "/plan.ics", Accept=NAVIGATION).headers["content-type"] == "text/html; charset=utf-8"
