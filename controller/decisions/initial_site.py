"""Decide which files of a folder are a site, so that nothing else of a repository is published."""

from __future__ import annotations

import re

from controller.decisions.initial_folder import Folder, Guess, command, not_known

FOLDERS = ("public", "dist", "site", "_site", "www", "static", "docs")
#: Endings of what browsers are given. Scripts and data count only where a page names them, or below a folder of assets.
_PAGES = frozenset(("html", "htm", "css", "svg", "png", "jpg", "jpeg", "gif", "webp", "avif", "ico", "webmanifest"))
_ASSETS = _PAGES | frozenset({
    "js", "mjs", "map", "json", "xml", "txt", "wasm", "woff", "woff2", "ttf", "otf", "eot", "pdf", "mp3", "mp4",
    "webm", "ogg", "glb", "gltf", "csv", "rss", "atom",
})  # fmt: skip
_ASSET_FOLDERS = frozenset({
    "assets", "css", "js", "img", "imgs", "image", "images", "fonts", "media", "static", "styles", "icons", "pages",
    "videos", "audio", "stylesheets", "javascript", "javascripts",
})  # fmt: skip
#: By name, whatever their ending is: for machines that look for them at the root.
_ROOT_FILES = frozenset(
    ("robots.txt", "humans.txt", "ads.txt", "sitemap.xml", "feed.xml", "atom.xml", "rss.xml", "manifest.json", "CNAME")
)
#: Not of the site, and not worth a word.
_SILENT = re.compile(
    r"(README|LICEN[CS]E|CHANGELOG|CONTRIBUTING|CNAME)(\.\w+)?\Z|\.git(ignore|attributes|keep)\Z", re.IGNORECASE
)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,80}\Z")
_COMMAND_CHARS_MAX = 900
_LEFT_OUT_NAMED = 12


def static_site(folder: Folder) -> Guess | None:
    """Recognise files that are a site: in a folder of their own, or at the root, where only they are copied from."""
    for name in FOLDERS:
        if folder.has(f"{name}/index.html"):
            return Guess(found=f"a static site in {name}/", static=name)
    if not folder.has("index.html"):
        return None
    tops = sorted({file.partition("/")[0] for file in folder.files})
    published = [top for top in tops if _is_of_site(folder, top)]
    left_out = [top for top in tops if top not in published and not _SILENT.match(top) and top != "deploy.toml"]
    if not left_out:
        return Guess(
            found="a static site",
            static=".",
            notes=("Every file of the repository is served but dotfiles and deploy.toml: add nothing secret to it.",),
        )
    copy = f"mkdir site-of-build && cp -R {' '.join(published)} site-of-build"
    if len(copy) > _COMMAND_CHARS_MAX:
        raise not_known(
            "index.html beside files that are no site", "move the site to a folder of its own, such as public/"
        )
    named = ", ".join(name if _NAME.match(name.removeprefix(".")) else ascii(name)[:60] for name in left_out)
    return Guess(
        found="a static site",
        build=command(copy),
        static="site-of-build",
        notes=(
            "Only what looks like the site is copied to a folder and served: name what is missing in the build.",
            "Better: move the site to a folder of its own, such as public/, and serve that.",
        ),
        left_out=(
            f"not published: {named if len(left_out) <= _LEFT_OUT_NAMED else f'{len(left_out)} files or folders'}",
        ),
    )


def _is_of_site(folder: Folder, top: str) -> bool:
    """Say whether a name at the root is for visitors, by its ending, its place, and by whether a page names it."""
    if not _NAME.match(top):
        return False
    page = folder.read("index.html")
    if top in folder.files:
        ending = top.rpartition(".")[2].lower()
        return ending in _PAGES or top in _ROOT_FILES or (ending in _ASSETS and _names(page, top))
    inside = [file for file in folder.files if file.startswith(f"{top}/")]
    all_assets = all(_is_asset(file) for file in inside)
    has_page = any(file.endswith((".html", ".htm")) for file in inside)
    return all_assets and (top.lower() in _ASSET_FOLDERS or has_page or _names(page, f"{top}/"))


def _is_asset(file: str) -> bool:
    """Say whether a file below the root is for visitors; one whose ending is not known is not."""
    names = file.split("/")
    return not any(name.startswith(".") for name in names) and names[-1].rpartition(".")[2].lower() in _ASSETS


def _names(page: str, what: str) -> bool:
    """Say whether a page names a file or a folder, in an attribute or a style."""
    return re.search(rf"[\"'(=](?:\./|/)?{re.escape(what)}", page) is not None
