"""Which paths are hashed assets, assets, hidden; what may still be loaded of the release before?"""

from __future__ import annotations

import random
import re
import string
from dataclasses import replace
from pathlib import Path

import pytest

from controller.decisions.admission import is_match
from controller.decisions.assets import ASSET, DOTTED, HASHED_ASSET, HIDDEN, hashed_by, leaves_assets
from controller.decisions.surroundings import live_for
from controller.model.config import Recipe, Web
from controller.model.names import Layout, Topology
from controller.model.states import Cause
from tests.builders import live, run

HASHED = [
    "/main.3f2a9c1d.js",
    "/static/js/main.8e0d62a0.chunk.js",
    "/static/js/main.8e0d62a0.chunk.js.map",
    "/static/js/main.8e0d62a0.js.LICENSE.txt",
    "/static/css/2.8e0d62a0.chunk.css",
    "/static/media/logo.6ce24c58023cc2f8fd88fe9d219db6c6.svg",
    "/app.3f2a9c.js",
    "/index.4f3b1c2d.css",
    "/3f2a9c1d5e6f7a8b9c0d.woff2",
    "/assets/index-BHTuo9C3.js",
    "/assets/index-DiwRgTda.css",
    "/assets/index-B-Tuo9_3.js",
    "/build/assets/app-C0mQy-2D.js",
    "/_astro/hoisted.DvP8sFQK.js",
    "/_nuxt/DvP8sFQK.js",
    "/_nuxt/entry.BHTuo9C3.css",
    "/app-IY4PVOQM.js",
    "/chunk-ABCDEFGH.js",
    "/media/inter-IY4PVOQM.woff2",
    "/_next/static/chunks/main-app-0a1b2c3d4e5f6a7b.js",
    "/_next/static/media/e4af272ccee01ff0-s.p.woff2",
    "/_next/static/Xa-9_pQw/_buildManifest.js",
    "/docs/_next/static/css/app.css",
    "/_app/immutable/entry/start.js",
    "/assets/application-6d2c1b9a.css",
    "/assets/application-5ca3bd53a3bfd6bc3bd53a3bfd6bc3bd53a3bfd6bc3bd53a3bfd6bc3bd53a3bf.js",
    "/static/base.5d41402abc4b.css",
    "/static/admin/img/icon-yes.d2f9035226aa.svg",
    "/component---src-pages-index-js-0f1e2d3c4b5a69788796.js",
    "/app-d9b5c2a1e0f34567d9b5c2a1e0f34567.js.gz",
]
NOT_HASHED = [
    "/",
    "/index.html",
    "/index.3f2a9c1d.html",
    "/feed.xml",
    "/.env",
    "/.env.3f2a9c1d",
    "/app.js",
    "/jquery-3.6.0.min.js",
    "/bootstrap.5.3.bundle.js",
    "/photo-20240131.jpg",
    "/2024-01-31.json",
    "/report-12345678.pdf",
    "/assets/OpenSans.woff2",
    "/assets/font-OpenSans.woff2",
    "/assets/page-Settings.js",
    "/assets/font-inter700.woff2",
    "/assets/bg-1024x768.png",
    "/assets/apple-touch-icon-120x120.png",
    "/assets/Document.pdf",
    "/assets/my-document.pdf",
    "/sitemap-0.xml",
    "/favicon.ico",
    "/robots.txt",
    "/downloads/setup-1.2.3-beta4.zip",
    "/_next/data/x/index.json",
    "/x/deadbeef/index.html",
    "/3f2a9c1d/app.js",
    "/main.3f2a9c1d.js/",
    "/main.3f2a9c1d.js/x",
]


@pytest.mark.parametrize("path", HASHED)
def test_what_bundlers_write_is_hashed(path: str) -> None:
    assert re.search(HASHED_ASSET, path)
    assert re.search(ASSET, path)
    assert not re.search(HIDDEN, path)


@pytest.mark.parametrize("path", NOT_HASHED)
def test_what_may_change_under_its_name_is_not_hashed(path: str) -> None:
    assert not re.search(HASHED_ASSET, path)


def test_nearly_every_random_hash_of_each_kind_is_known() -> None:
    drawn = random.Random(7)
    alphabets = {
        "/assets/x-{}.js": string.ascii_letters + string.digits + "_-",
        "/x.{}.js": "0123456789abcdef",
        "/x-{}.js": "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567",
    }
    for name, alphabet in alphabets.items():
        paths = [name.format("".join(drawn.choices(alphabet, k=8))) for _ in range(1_000)]
        assert sum(re.search(HASHED_ASSET, path) is not None for path in paths) >= 950, name


@pytest.mark.parametrize(
    "path",
    [
        "/.env",
        "/\\.env",
        "/a\\..\\.env",
        "/\\deploy.toml",
        "/.git/config",
        "/a/.htpasswd",
        "/.w",
        "/.well-know",
        "/.well-known2/x",
        "/.well-known.txt",
        "/.well-known/.env",
        "/.WELL-KNOWN/x",
        "/..x/y",
        "/.x/",
        "/.",
        "/deploy.toml",
        "/Deploy.TOML",
        "/deploy.toml/",
        "/sub/deploy.toml",
    ],
)
def test_what_begins_with_a_dot_and_the_recipe_are_hidden(path: str) -> None:
    assert re.search(HIDDEN, path)


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/a.env", "/a/b.c/d", "/.well-known", "/.well-known/", "/.well-known/security.txt", "/x/.well-known/y"),
        *("/deploy.toml.txt", "/my-deploy.toml", "/deploy/toml", "/a..b"),
    ],
)
def test_nothing_else_is(path: str) -> None:
    assert not re.search(HIDDEN, path)


@pytest.mark.parametrize(
    ("path", "asset", "dotted"),
    [
        ("/app.js", True, True),
        ("/IMG.JPG", True, True),
        ("/about.html", True, True),
        ("/users/jane.doe", False, True),
        ("/docs/v1.2", False, True),
        ("/v1.2/docs", False, False),
        ("/app.js/deep", False, False),
        ("/deep/page", False, False),
    ],
)
def test_an_asset_is_known_by_its_ending(path: str, asset: bool, dotted: bool) -> None:
    assert (re.search(ASSET, path) is not None, re.search(DOTTED, path) is not None) == (asset, dotted)


GLOBS = ["static/**", "*.bundle.js", "a/**/x?.css", "with {braces}/[1]+(2).js", "**"]


@pytest.mark.parametrize("glob", GLOBS)
@pytest.mark.parametrize(
    "path",
    [
        *("static", "static/a", "static/a/b.js", "statics/a", "x.bundle.js", "a/x.bundle.js", "a/x1.css"),
        *("a/b/c/x2.css", "a/b/x12.css", "with {braces}/[1]+(2).js", "with braces/1(2).js"),
    ],
)
def test_a_glob_of_policy_matches_as_elsewhere(glob: str, path: str) -> None:
    pattern = hashed_by(["nothing/at/all", glob])

    assert (re.search(pattern, f"/{path}") is not None) == is_match(glob, path)
    assert not set("{}\t") & set(pattern)


def test_no_globs_are_no_assets() -> None:
    assert not any(re.search(hashed_by([]), path) for path in (*HASHED, *NOT_HASHED) if path)


@pytest.mark.parametrize(
    ("cause", "title", "leaves"),
    [
        (Cause.PUSH, "Add a page", True),
        (Cause.RESYNC, "Add a page", True),
        (Cause.PUSH, "Reverting is explained", True),
        (Cause.PUSH, 'Revert "Add a page"', False),
        (Cause.RESYNC, 'Revert "Add a page" (#12)', False),
        (Cause.PUSH, "Merge pull request #13 from acme/revert-12-add-a-page", False),
        (Cause.PUSH, "Merge pull request #13 from acme/add-a-page", True),
        (Cause.REVERT, "Add a page", False),
        (Cause.OVERRIDE, "Add a page", False),
        (Cause.ROLLBACK, "Add a page", False),
        (Cause.REPAIR, "Add a page", False),
    ],
)
def test_only_a_push_forward_leaves_the_assets_before_it(cause: Cause, title: str, leaves: bool) -> None:
    made = run(1, 1, cause=cause)

    assert leaves_assets(replace(made, head=replace(made.head, title=title))) is leaves


def test_a_switch_names_the_folder_of_the_release_before_only_if_its_assets_may_go_on() -> None:
    recipe = Recipe(web=Web(static="public"))
    before = replace(live(run(1, 1)), static_root="/before/public", address=None)

    def previous_of(cause: Cause, *, fence: int = 0) -> str | None:
        return live_for(
            run(2, 2, cause=cause, fence=fence),
            recipe,
            topology=Topology(),
            layout=Layout(Path("/srv/oroboros")),
            base=Path("/after"),
            previous=before,
        ).previous_static_root

    assert [previous_of(cause) for cause in (Cause.PUSH, Cause.RESYNC)] == ["/before/public"] * 2
    assert [previous_of(cause) for cause in Cause if cause not in (Cause.PUSH, Cause.RESYNC)] == [None] * 4
    # Another tenant's never.
    assert previous_of(Cause.PUSH, fence=9) is None
