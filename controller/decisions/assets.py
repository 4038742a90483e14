"""Say which paths of a static site are assets with a hash of their content in the name, assets at all, or hidden.

Patterns are for Caddy, so they keep to what RE2 and Python read alike. They look at a path as it is decoded.

A name is hashed when bundlers write it so: a name with the same hash has the same content for ever. What looks like it
and is none (a date, a word, a version) must not match: browsers would keep it for a year. Seen in what the tools make:

| tool | name |
|---|---|
| webpack, Parcel, Angular, Docusaurus | `main.3f2a9c1d.js`, `2.8e0d62a0.chunk.css`, `3f2a9c1d5e6f7a8b9c0d.woff2` |
| Vite, Rollup, Astro, Nuxt | `assets/index-BHTuo9C3.js`, `_astro/hoisted.DvP8sFQK.js`, `_nuxt/DvP8sFQK.js`: base64url |
| esbuild, Angular | `chunk-IY4PVOQM.js`: base32 |
| Next, SvelteKit | all of `_next/static/`, `_app/immutable/` |
| Rails, Phoenix, Gatsby | `application-<8, 32 or 64 hex>.css` |
| Django | `base.5d41402abc4b.css` |
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from controller.model.nouns import Run
from controller.model.states import Cause

#: What a page loads, by its ending: a path that ends so and is not there is 404, never a page in its place.
ASSET_ENDINGS = (
    "js|mjs|cjs|css|map|json|wasm|webmanifest|xml|txt|csv|md|html?|php|svgz?|png|apng|jpe?g|gif|webp|avif|ico|bmp|tiff?"
    "|woff2?|ttf|otf|eot|mp[34]|m4[av]|webm|og[agv]|wav|flac|mov|pdf|zip|gz|br|zst|tar|glb|gltf|bin|dat|data|ts|tsx|jsx"
)
_HASHED_ENDINGS = (
    "js|mjs|cjs|css|map|json|wasm|webmanifest|txt|svg|png|jpe?g|gif|webp|avif|ico|bmp"
    "|woff2?|ttf|otf|eot|mp[34]|m4[av]|webm|og[agv]|wav|flac|pdf|glb|gltf|bin|dat|data|gz|br|zst"
)
#: Folders that bundlers write hashed names to.
_BUNDLED = "assets|_astro|_nuxt|_build|chunks|entries|build|dist|static"
#: Between name and ending: `.chunk`, `.min`, `-s.p`; at most three words.
_TAIL = r"(?:-s)?(?:\.[A-Za-z0-9]{1,10}){0,3}"


def _mixed(digits: str, letters: str, shortest: int) -> str:
    """Return a pattern for a word of both kinds of characters, `shortest` at least: RE2 cannot look ahead."""

    def begins(first: str, other: str) -> Iterator[str]:
        for run in range(1, shortest):
            yield f"[{first}]{{{run}}}[{other}][{digits}{letters}]{{{shortest - run - 1},}}"
        yield f"[{first}]{{{shortest},}}[{other}][{digits}{letters}]*"

    return "|".join((*begins(digits, letters), *begins(letters, digits)))


def _base64url() -> str:
    """Return a pattern for eight characters of base64url that are no word and no size: after the first one a capital,
    and another, or a digit. `OpenSans`, `Settings`, `inter700` and `1024x768` are none; of random ones, 97 % are."""
    anything, capital, odd = "[A-Za-z0-9_-]", "[A-Z]", "[A-Z0-9_-]"

    def with_two(first: str, at: int, second: str, then: int) -> str:
        return f"{anything}{{{at}}}{first}{anything}{{{then - at - 1}}}{second}{anything}{{{7 - then}}}"

    pairs = [(at, then) for at in range(8) for then in range(at + 1, 8)]
    before = [with_two("[0-9_-]" if at == 0 else odd, at, capital, then) for at, then in pairs]
    after = [with_two(capital, at, "[0-9_-]", then) for at, then in pairs if at > 0]
    return "|".join((*before, *after))


_HEX, _SHORT_HEX, _BASE32 = _mixed("0-9", "a-f", 8), _mixed("0-9", "a-f", 6), _mixed("2-7", "A-Z", 8)
_FOLDERS = "/(?:[^/]+/)*"
_CODE = "m?js|css|map"

#: A path whose content never changes.
HASHED_ASSET = (
    "^(?:"
    rf"{_FOLDERS}(?:_next/static|_app/immutable)/.+"
    rf"|{_FOLDERS}(?:[^/]*[._~-])?(?:{_HEX}|[0-9a-f]{{16,}}){_TAIL}\.(?:{_HASHED_ENDINGS})"
    rf"|{_FOLDERS}[^/]*[.-](?:{_SHORT_HEX}|[A-Z2-7]{{8}}){_TAIL}\.(?:{_CODE})"
    rf"|{_FOLDERS}(?:[^/]*[.-])?(?:{_BASE32}){_TAIL}\.(?:{_HASHED_ENDINGS})"
    rf"|{_FOLDERS}(?:{_BUNDLED})/(?:[^/]+/)*[^/]*[.-](?:{_base64url()}){_TAIL}\.(?:{_HASHED_ENDINGS})"
    rf"|{_FOLDERS}_nuxt/(?:{_base64url()})\.(?:{_HASHED_ENDINGS})"
    ")$"
)


def _other_than(word: str) -> str:
    """Return a pattern for what begins at a name and is not exactly `word`: RE2 cannot look ahead."""
    branches = [f"{re.escape(word[:at])}(?:[^/{re.escape(letter)}]|/|$)" for at, letter in enumerate(word)]
    return "|".join((*branches, f"{re.escape(word)}[^/]"))


#: A path that no file answers: a name in it begins with a dot, but for `.well-known` (RFC 8615), or is our recipe.
#: A backslash divides names too: not on this system, but for the author of such a path.
HIDDEN = rf"[/\\]\.(?:{_other_than('well-known')})|(?i:[/\\]deploy\.toml)(?:[/\\]|$)"
#: A path of something that a page loads.
ASSET = rf"(?i)\.(?:{ASSET_ENDINGS})$"
#: A path whose last name has a dot: a file, or a page of an app that is called so.
DOTTED = r"\.[^/]*$"

#: Types of files that Caddy takes from tables of the host, which may have none or others (Go's mime package).
TYPES: Mapping[str, str] = {
    "apng": "image/apng",
    "atom": "application/atom+xml; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "gz": "application/gzip",
    "ico": "image/x-icon",
    "ics": "text/calendar; charset=utf-8",
    "jsonld": "application/ld+json",
    "m4a": "audio/mp4",
    "map": "application/json",
    "md": "text/markdown; charset=utf-8",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "ogg": "audio/ogg",
    "otf": "font/otf",
    "rss": "application/rss+xml; charset=utf-8",
    "ttf": "font/ttf",
    "txt": "text/plain; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
    "wav": "audio/wav",
    "webm": "video/webm",
    "webmanifest": "application/manifest+json",
    "woff": "font/woff",
    "woff2": "font/woff2",
    "xml": "application/xml; charset=utf-8",
    "zip": "application/zip",
}

_REVERTS = re.compile(r"Revert\b|Merge pull request #[0-9]+ from [^ ]*/revert-[0-9]+-")


def may_be_served(file: str) -> bool:
    """Say whether a file of a static root, by its path below it, is for visitors: not hidden."""
    return re.search(HIDDEN, f"/{file}") is None


def hashed_by(globs: Iterable[str]) -> str:
    """Return the pattern of a policy's globs: `*` and `?` within a name, `**` any number of folders. It holds no brace,
    which Caddy would take for a placeholder."""
    return "^(?:" + "|".join(_glob(glob) for glob in globs) + ")$"


def _glob(glob: str) -> str:
    return "".join("(?:/[^/]*)*" if part == "**" else "/" + "".join(map(_char, part)) for part in glob.split("/"))


def _char(char: str) -> str:
    match char:
        case "*":
            return "[^/]*"
        case "?":
            return "[^/]"
        case "{" | "}":
            return rf"\x{ord(char):02x}"
    return re.escape(char)


def leaves_assets(run: Run) -> bool:
    """Say whether pages of what served before may go on loading its hashed assets after this run's switch.

    Not where it served what had to go: after a revert, a rollback, or an order by hand."""
    return run.cause in (Cause.PUSH, Cause.RESYNC) and _REVERTS.match(run.head.title) is None
