"""What does a slot's surface do with a request, and what is it told by its environment?

One Caddy per slot. Its configuration never changes in a deploy and it has no admin API: it reads `slots/<slot>/live` at
each request, and the switch is the rename of that link. `live_files` says what it finds there.

Its environment says where it listens: `WEB_PORT`; `WEB_API_PROXY_TARGET`, the stable address of the slot's backend,
without which another program is the backend; `WEB_URL`, the slot's public URL, under which an instance is asked for its
health; `WEB_ROOT`, the folder of production's release with the page that a free
slot shows. Where that has none, the one that comes with us is shown.
This is JSON and not a Caddyfile because the Caddyfile's adapter appends `:80` to a dial that is only a placeholder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from controller.decisions import bounds, caddy_journal
from controller.decisions.assets import ASSET, DOTTED, HASHED_ASSET, HIDDEN, TYPES
from controller.decisions.health import HEALTH_PATH, PUBLIC_HEALTH_PATH, RESERVED_PATH, gate_path, release_path
from controller.decisions.live_files import (
    ADDRESS_BESIDE_FILES_FILE,
    ADDRESS_FILE,
    ADDRESS_OF_ALL_FILE,
    FORMER_ROUTE_FILE,
    FORMER_ROUTE_PATTERN,
    ROUTE_PATTERN,
    ROUTES_FILE,
    check_value,
)
from controller.model.errors import ConfigInvalid
from controller.model.names import (
    HOST_APP,
    HOST_LAYOUT,
    HOST_LOGS,
    MAIN,
    Layout,
    SlotName,
    Topology,
    unit_instance,
)

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | int | bool | None"
JsonObject: TypeAlias = Mapping[str, Json]

#: How long a surface looks for an instance that accepts: longer than any switch, shorter than a visitor's patience.
TRY_DURATION = "5s"
#: The first descriptor that systemd passes.
FIRST_PASSED = 3
#: Where a checkout of ours, or a release, has its pages.
WEB_PAGES = Path("infra", "web")
#: The page of a folder.
INDEX_NAME = "index.html"
#: The page of a free slot, in `WEB_ROOT`.
FREE_PAGE = "free.html"

#: On every answer below the reserved path: the slot whose surface it is.
SURFACE_HEADER = "X-Oroboros-Surface"
#: On an answer to what a gate asks: "answered", with the instance's status, or "away".
INSTANCE_HEADER = "X-Oroboros-Instance"
#: What an instance proves itself with, where its gate wants that.
RELEASE_HEADER, NONCE_HEADER = "X-Oroboros-Release", "X-Oroboros-Nonce"
#: A client that asks a port of ours directly sends one of these, with or without the port.
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")

#: How long the surface's own health waits for an instance's answer.
HEALTH_TIMEOUT = "2s"

#: The contract's /health, for clients that ask the port directly. Caddy compares hosts without their port.
_CONTRACT_HEALTH: JsonObject = {"path": [HEALTH_PATH], "host": list(LOOPBACK_HOSTS)}
_RESERVED: JsonObject = {"path": [RESERVED_PATH, f"{RESERVED_PATH}/*"]}
_LIVE_RELEASE = "{http.regexp.live.release}"
_INSTANCE_STATUS = "{http.reverse_proxy.status_code}"
#: The page of a site that says that there is no such page, at the top of its files.
NOT_FOUND_PAGE = "404.html"
#: Browsers and caches keep a page, and ask at each use whether it is still the same.
ASK_AGAIN, NEVER_ASK = "no-cache", "public, max-age=31536000, immutable"

_PATH, _STATIC_ROOT, _PREVIOUS = (
    "{http.request.uri.path}",
    "{http.regexp.live.static_root}",
    "{http.regexp.live.previous_static_root}",
)
_PORT = re.compile(r"[1-9][0-9]{0,4}\Z", re.ASCII)
_LOOPBACK_URL = re.compile(r"http://127\.0\.0\.1:([0-9]{1,5})/?\Z", re.ASCII)
_PUBLIC_URL = re.compile(r"(https?)://([a-z0-9-]+(?:\.[a-z0-9-]+)*(?::[1-9][0-9]{0,4})?)/?\Z", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a surface is told by its environment."""

    web_port: int
    #: None: somebody else listens at the slot's backend port, as the api does where it is production's backend.
    backend_port: int | None
    #: None: a free slot says so in plain text.
    web_root: Path | None
    #: Scheme and authority of the slot's public URL, `https` and `app.example.com`; None: an instance is asked for its
    #: health under the name that the surface was asked by.
    public: tuple[str, str] | None = None


def surface_environment(topology: Topology, slot: SlotName, *, web_root: Path) -> dict[str, str]:
    """Return the environment of a slot's surface, as the host contract names it."""
    values = {
        "WEB_ROOT": str(web_root),
        "WEB_PORT": str(topology.ports.web(slot)),
        "WEB_URL": topology.url(slot),
    }
    port = topology.backend_port(slot)
    if port != topology.ports.api:
        values["WEB_API_PROXY_TARGET"] = f"http://127.0.0.1:{port}"
    return values


def render_surface_environment(layout: Layout, topology: Topology, slot: SlotName) -> str:
    """Return the content of `/etc/oroboros/web-<instance>.env`."""
    values = surface_environment(topology, slot, web_root=layout.current / WEB_PAGES)
    return "".join(f"{name}={value}\n" for name, value in values.items())


def read_surface_environment(environ: Mapping[str, str]) -> Told:
    """Return what a surface is told; ConfigInvalid with every problem at once."""
    problems: list[str] = []

    def value(name: str) -> str:
        return environ.get(name, "").strip()

    def port(name: str, text: str, *, allowed: str) -> int:
        if not _PORT.match(text) or int(text) > 65_535:
            problems.append(f"{name}: is {environ.get(name, '')!r:.60}, not {allowed}")
            return 0
        return int(text)

    web_port = port("WEB_PORT", value("WEB_PORT"), allowed="a port, 1 to 65535")
    target, backend_port = value("WEB_API_PROXY_TARGET"), None
    if target:
        match = _LOOPBACK_URL.match(target)
        allowed = "http://127.0.0.1:PORT"
        backend_port = port("WEB_API_PROXY_TARGET", match[1] if match else "", allowed=allowed)
        if backend_port and backend_port == web_port:
            problems.append("WEB_API_PROXY_TARGET: names WEB_PORT: the surface would be its own backend")
    url = value("WEB_URL")
    named = _PUBLIC_URL.match(url)
    if url and named is None:
        problems.append(f"WEB_URL: is {url!r:.60}, not http(s)://HOST or http(s)://HOST:PORT")
    root = value("WEB_ROOT")
    if root and not root.startswith("/"):
        problems.append(f"WEB_ROOT: is {root!r:.60}, not an absolute path")
    try:
        check_value("WEB_ROOT", root)
    except ConfigInvalid as error:
        problems.append(error.message)
    if problems:
        raise ConfigInvalid("EnvironmentInvalid", "; ".join(problems), problems=tuple(problems))
    return Told(
        web_port=web_port,
        backend_port=backend_port,
        web_root=Path(root) if root else None,
        public=None if named is None else (named[1], named[2]),
    )


def surface_ports(told: Told) -> tuple[int, ...]:
    """Return the stable ports of a surface, in the order in which systemd passes them: web, backend."""
    return (told.web_port,) if told.backend_port is None else (told.web_port, told.backend_port)


def surface_listens(layout: Layout, slot: SlotName, told: Told) -> tuple[tuple[str, int] | Path, ...]:
    """Return everything that the slot's surface listens on: web, backend, responder."""
    return (*(("127.0.0.1", port) for port in surface_ports(told)), layout.surface_socket(slot))


def surface_of_host(topology: Topology, slot: SlotName) -> str:
    """Return the configuration that a slot's surface runs on a host, as it lies beside it."""
    told = read_surface_environment(surface_environment(topology, slot, web_root=HOST_LAYOUT.current / WEB_PAGES))
    passed = {port: FIRST_PASSED + k for k, port in enumerate(surface_ports(told))}
    return json.dumps(
        render_surface(
            HOST_LAYOUT, slot, told, log_dir=HOST_LOGS / "web", our_pages=HOST_APP / WEB_PAGES, passed=passed
        )
    )


def render_surface(
    layout: Layout,
    slot: SlotName,
    told: Told,
    *,
    log_dir: Path,
    our_pages: Path | None = None,
    passed: Mapping[int, int] = MappingProxyType({}),
) -> dict[str, Json]:
    """Return the configuration of one slot's surface: its web port, its backend port, its responder.

    `our_pages` is the folder of the pages that come with us; `passed` says which descriptor is a port's listener,
    where systemd passes some (sd_listen_fds(3)): such a port stays open while the surface restarts.
    There errors go to the journal, too."""

    def listens(port: int) -> str:
        return f"fd/{passed[port]}" if port in passed else f"127.0.0.1:{port}"

    beside_files = _proxy(layout, slot, address_file=ADDRESS_BESIDE_FILES_FILE)
    web_routes = [
        _route(
            _proxy(layout, slot, address_file=ADDRESS_OF_ALL_FILE),
            match={**_is("instance", "yes"), **_is("static_root", "")},
        ),
        # As the app sees it: Caddy's matchers of paths take capitals for small letters.
        _route(
            beside_files,
            match={**_is("instance", "yes"), "expression": f"{_PATH}.startsWith({{http.regexp.live.prefix}})"},
        ),
        _route(
            _subroute([*_hashed(), *_files(), _file_of_release_before(), _page_without_its_ending(), *_fallback()]),
            match={"method": ["GET", "HEAD"], **_unless(_is("static_root", ""), _IS_HIDDEN)},
            terminal=False,
        ),
        _route(beside_files, match=_is("instance", "yes")),
        _route(
            _answer(405, "Files answer GET and HEAD only.\n", headers={"Allow": ["GET, HEAD"]}),
            match={
                **_exists(_STATIC_ROOT, _PATH, f"{_PATH}/{INDEX_NAME}"),
                **_unless({"method": ["GET", "HEAD"]}, _is("static_root", ""), _IS_HIDDEN),
            },
        ),
        *_not_found(),
    ]
    backend_routes = [_route(_proxy(layout, slot, address_file=ADDRESS_FILE), match=_is("instance", "yes"))]
    free = _free(slot, told.web_root, our_pages)
    web = _slot_routes(layout, slot, told, free=free, then=web_routes)
    loopback = ("127.0.0.0/8",)
    # The responder's answers come back through the web server.
    marks: list[Json] = (
        [{"handle": [{"handler": "headers", "response": {"deferred": True, "add": _marks(slot)}}]}]
        if _marks(slot)
        else []
    )
    servers: dict[str, Json] = {
        "web": _server(
            listens(told.web_port), routes=[*marks, *web], errors=_surface_errors(slot), trusted_proxies=loopback
        ),
        # Only this surface dials it, so only its own user may: a request from there is believed about who sent it.
        "responder": _server(
            f"unix/{layout.surface_socket(slot)}|0600",
            routes=web,
            errors=_surface_errors(slot),
            trusted_proxies=loopback,
            trusts_unix=True,
        ),
    }
    if told.backend_port is not None:
        servers["backend"] = _server(
            listens(told.backend_port),
            routes=_slot_routes(layout, slot, told, free=_free(slot), then=backend_routes),
            errors=_surface_errors(slot),
            trusted_proxies=loopback,
        )
    return _caddy(servers, name=f"surface-{unit_instance(slot)}", log_dir=log_dir, journal=bool(passed))


def _slot_routes(
    layout: Layout, slot: SlotName, told: Told, *, free: Sequence[Json], then: Sequence[Json]
) -> list[Json]:
    """Return the routes that read `live` once and answer for a slot that does not serve; `then` serve the rest."""
    unknown = _state_of(slot, "unknown", healthy=False)

    def read(file: str, pattern: str) -> JsonObject:
        return {"vars_regexp": {f"{{file.{layout.live(slot) / file}}}": {"name": "live", "pattern": pattern}}}

    serving: list[Json] = [
        {"handle": [_log("release"), _log("generation")]},
        _route(_subroute(_health(layout, slot, told, names_release=True)), match=_CONTRACT_HEALTH),
        _route(_subroute(_reserved(layout, slot, told)), match=_RESERVED),
        _route(_subroute(free), match=_is("state", "free")),
        *then,
        _route(_answer(404, "Not found.\n")),
    ]
    return [
        {
            "handle": [
                {"handler": "log_append", "key": "slot", "value": slot},
                # Proof is between the gate and the instance; a visitor does not get to claim it.
                {"handler": "headers", "request": {"delete": ["X-Oroboros-*"]}},
                _body_limit(bounds.APP_BODY_BYTES_MAX),
            ]
        },
        {
            "match": [read(ROUTES_FILE, ROUTE_PATTERN), read(FORMER_ROUTE_FILE, FORMER_ROUTE_PATTERN)],
            "handle": [_subroute(serving)],
            "terminal": True,
        },
        _route(_json_answer(503, unknown), match=_CONTRACT_HEALTH),
        _route(_json_answer(503, unknown, headers={SURFACE_HEADER: [slot]}), match=_RESERVED),
        _route(
            _answer(
                503,
                f"What {slot} serves cannot be read.\n",
                headers={"X-Oroboros-Slot": ["unknown"], "Cache-Control": ["no-store"]},
            )
        ),
    ]


def _reserved(layout: Layout, slot: SlotName, told: Told) -> list[Json]:
    """Return the routes of what we ask ourselves, by whatever name the surface is asked.

    The answer names the slot, and says whether it is free and whether it is well. The client names the release."""
    ours: JsonObject = {SURFACE_HEADER: [slot]}
    serves = _state_of(slot, "{http.regexp.live.state}", release=_LIVE_RELEASE)
    other = _state_of(slot, "{http.regexp.live.state}")
    asked_by_gate = {"path": [gate_path(_LIVE_RELEASE)]}
    # The instance's status and proof, and nothing else of what it says.
    as_gate_reads: Json = {
        "routes": [
            _route(
                {"handler": "copy_response_headers", "include": [RELEASE_HEADER, NONCE_HEADER]},
                {
                    "handler": "static_response",
                    "status_code": _INSTANCE_STATUS,
                    "headers": {INSTANCE_HEADER: ["answered"], "Cache-Control": ["no-store"]},
                },
            )
        ]
    }
    return [
        {"handle": [{"handler": "headers", "response": {"set": ours}}]},
        _route(_subroute(_health(layout, slot, told, names_release=False)), match={"path": [PUBLIC_HEALTH_PATH]}),
        _route(
            # The client has a time limit of its own, that of the gate.
            _asks_instance(layout, slot, told, [as_gate_reads], timeout=bounds.RESPONSE_HEADER_TIMEOUT),
            match={**_is("instance", "yes"), **asked_by_gate},
        ),
        _route(
            _json_answer(200, serves),
            match={**_is_set("release"), "path": [release_path(_LIVE_RELEASE), gate_path(_LIVE_RELEASE)]},
        ),
        _route(_json_answer(404, other), match={"path": [release_path("*"), gate_path("*")]}),
        _route(_answer(404, "Not found.\n")),
    ]


def _health(layout: Layout, slot: SlotName, told: Told, *, names_release: bool) -> list[Json]:
    """Return the routes of a surface's own health: free, files only, or as the instance answers what its gate asks."""
    release = _LIVE_RELEASE if names_release else None
    live = _state_of(slot, "live", release=release, healthy=True)
    failing = _state_of(slot, "live", release=release, healthy=False)
    wanted = _route(_json_answer(200, live), match=_is("health_status", _INSTANCE_STATUS))
    otherwise = _route(_json_answer(503, failing))
    # A `live` that was written before it held the status: what is no error passes.
    unsaid = _route(_json_answer(200, live), match=_is("health_status", ""))
    judged: list[Json] = [
        {"match": {"status_code": [2, 3]}, "routes": [unsaid, wanted, otherwise]},
        {"routes": [wanted, otherwise]},
    ]
    return [
        _route(_json_answer(200, _state_of(slot, "free", healthy=True)), match=_is("state", "free")),
        _route(_asks_instance(layout, slot, told, judged, timeout=HEALTH_TIMEOUT), match=_is("instance", "yes")),
        _route(_json_answer(200, live)),
    ]


def _asks_instance(layout: Layout, slot: SlotName, told: Told, then: Sequence[Json], *, timeout: str) -> Json:
    """Return the handler that asks the instance what its gate asks, under the public name; `then` makes the answer."""
    name: dict[str, Json] = {}
    if told.public is not None:
        scheme, authority = told.public
        name = {"Host": [authority], "X-Forwarded-Host": [authority], "X-Forwarded-Proto": [scheme]}
    return {
        "handler": "reverse_proxy",
        "rewrite": {"method": "GET", "uri": "{http.regexp.live.health_path}"},
        "upstreams": [{"dial": _dial(layout, slot, ADDRESS_FILE)}],
        "headers": {"request": {"set": name}},
        "transport": {
            "protocol": "http",
            "compression": False,
            "dial_timeout": "1s",
            "response_header_timeout": timeout,
            "keep_alive": {"enabled": False},
        },
        "handle_response": then,
    }


def _surface_errors(slot: SlotName) -> list[Json]:
    failing = _state_of(slot, "live", release=_LIVE_RELEASE, healthy=False)
    public = _state_of(slot, "live", healthy=False)
    away: JsonObject = {SURFACE_HEADER: [slot], INSTANCE_HEADER: ["away"]}
    message = f"{{http.error.status_code}}: {slot} does not answer right now.\n"
    # What a file's answer would have said of itself is not true of an error's.
    headers: JsonObject = {"delete": ["Etag", "Last-Modified"], "set": {"Cache-Control": ["no-store"], **_marks(slot)}}
    return [
        _route({"handler": "headers", "response": headers}, terminal=False),
        _route(_json_answer(503, failing), match=_CONTRACT_HEALTH),
        _route(_json_answer(503, public, headers=away), match=_RESERVED),
        _route(_answer(404, "Not found.\n"), match={"vars": {"{http.error.status_code}": ["404"]}}),
        _route(
            _answer(405, "Files answer GET and HEAD only.\n"), match={"vars": {"{http.error.status_code}": ["405"]}}
        ),
        _route(_answer(413, "Too large.\n"), match={"vars": {"{http.error.status_code}": ["413"]}}),
        _route(_answer("{http.error.status_code}", message)),
    ]


def _marks(slot: SlotName) -> JsonObject:
    """Return what every answer of a slot says to search engines: a preview is not to be found in them."""
    return {} if slot == MAIN else {"X-Robots-Tag": ["noindex"]}


def _hashed() -> list[Json]:
    """Return the routes that note in `hashed` whether the path is of an asset whose name has a hash of its content."""
    noted: Json = {"handler": "vars", "hashed": "yes"}
    by_policy = f"{{http.regexp.live.assets}} != '' && {_PATH}.matches({{http.regexp.live.assets}})"
    return [
        _route(noted, match={**_is("assets", ""), "path_regexp": {"pattern": HASHED_ASSET}}, terminal=False),
        _route(noted, match={"expression": by_policy}, terminal=False),
    ]


def _files() -> list[Json]:
    """Return the routes that answer with a file of the release, or lead to the one address that it has."""
    ends_with_slash: JsonObject = {"path_regexp": {"pattern": "/$"}}
    file = _exists(_STATIC_ROOT, _PATH)
    return [
        _route(
            _subroute(
                [
                    _redirect(rf"(?P<at>(?:[^?]*/)?){re.escape(INDEX_NAME)}", "/{http.regexp.uri.at}"),
                    _route(*_serve(_STATIC_ROOT, NEVER_ASK), match={"vars": {"hashed": ["yes"]}}),
                    _route(*_serve(_STATIC_ROOT, ASK_AGAIN)),
                ]
            ),
            match={**file, **_unless(ends_with_slash)},
        ),
        _route(
            _subroute(
                [
                    _route(*_serve(_STATIC_ROOT, ASK_AGAIN), match=ends_with_slash),
                    _redirect("(?P<at>[^?]*)", "/{http.regexp.uri.at}/"),
                ]
            ),
            match=_exists(_STATIC_ROOT, f"{_PATH}/{INDEX_NAME}"),
        ),
        _route(
            _subroute(
                [
                    _route(
                        _subroute([_redirect("(?P<at>[^?]*?)/+", "/{http.regexp.uri.at}")]),
                        match=_exists(_STATIC_ROOT, "{http.regexp.slashed.file}"),
                    )
                ]
            ),
            match={"vars_regexp": {_PATH: {"name": "slashed", "pattern": "^(?P<file>.*[^/])/+$"}}},
            terminal=False,
        ),
    ]


def _file_of_release_before() -> Json:
    """Return the route for pages that are still open: hashed assets of the release before, for minutes. The surface
    looks at the clock itself, so that they end when the worker is away too."""
    in_time = "{http.regexp.live.previous_until} != '' && int({time.now.unix}) < int({http.regexp.live.previous_until})"
    return _route(
        _subroute([_route(*_serve(_PREVIOUS, ASK_AGAIN), match=_exists(_PREVIOUS, _PATH))]),
        match={"vars": {"hashed": ["yes"]}, "expression": in_time, **_is_set("previous_static_root")},
        terminal=False,
    )


def _page_without_its_ending() -> Json:
    """Return the route of `/about`, where `about.html` is a file and no instance answers."""
    return _route(
        {"handler": "rewrite", "uri": f"{_PATH}.html"},
        *_serve(_STATIC_ROOT, ASK_AGAIN),
        match={
            **_exists(_STATIC_ROOT, f"{_PATH}.html"),
            **_unless({"path_regexp": {"pattern": "/$"}}, _is("instance", "yes")),
        },
    )


def _fallback() -> list[Json]:
    """Return the routes of a release with a fallback: its page for what may be one of the app's pages, else 404.

    What a page loads is no page: with one in its place, scripts and styles would fail for no reason that shows."""
    page = [{"handler": "rewrite", "uri": "{http.regexp.live.fallback}"}, *_serve(_STATIC_ROOT, ASK_AGAIN)]
    has_one = _is_set("fallback")
    varies: Json = {"handler": "headers", "response": {"add": {"Vary": ["Accept"]}}}
    refuses_pages: JsonObject = {
        "header": {"Accept": ["*"]},
        **_unless({"header_regexp": {"Accept": {"pattern": r"(?i)text/html|text/\*|\*/\*|application/xhtml"}}}),
    }
    wants_page: JsonObject = {"header_regexp": {"Accept": {"pattern": "(?i)text/html"}}}
    asset, dotted = ({"path_regexp": {"pattern": pattern}} for pattern in (ASSET, DOTTED))
    is_not_found_page: JsonObject = {
        "vars_regexp": {"{http.regexp.live.fallback}": {"pattern": f"/{re.escape(NOT_FOUND_PAGE)}$"}}
    }
    routes: list[Json] = [
        _route(*_page_of_404("{http.regexp.live.fallback}"), match=is_not_found_page),
        _route(varies, terminal=False),
        {
            "match": [_unless(asset, dotted, refuses_pages), {**wants_page, **_unless(asset)}],
            "handle": page,
            "terminal": True,
        },
        *_not_found(),
    ]
    return [_route(_subroute(routes), match=has_one)]


def _not_found() -> list[Json]:
    own = _exists(_STATIC_ROOT, f"/{NOT_FOUND_PAGE}")
    own = {**own, "method": ["GET", "HEAD"], **_is_set("static_root")}
    return [
        _route(*_page_of_404(f"/{NOT_FOUND_PAGE}"), match=own),
        _route(_answer(404, "Not found.\n", headers={"Cache-Control": [ASK_AGAIN]})),
    ]


def _page_of_404(path: str) -> list[Json]:
    return [
        # Always the whole page: half of one, or "not modified", would be no answer with 404.
        {
            "handler": "headers",
            "request": {"delete": ["If-*", "Range"]},
            "response": {"deferred": True, "set": {"Cache-Control": [ASK_AGAIN]}, "delete": ["Etag", "Last-Modified"]},
        },
        *_compressed(),
        {"handler": "rewrite", "uri": path},
        {**_file_server(_STATIC_ROOT), "status_code": "404"},
    ]


def _serve(root: str, cache: str) -> list[Json]:
    """Return the handlers that answer with the file at the path.

    What was had before counts by its entity tag alone, which is the release's: by a file's time, which a build may set
    and a revert sets back, a client would keep what is gone."""
    tag = "{http.regexp.live.content}"
    if root == _PREVIOUS:
        tag += "-{http.regexp.live.generation}"
    by_date = {"header_regexp": {"If-Range": {"pattern": '^[^"]'}}}
    forget_part: Json = {"handler": "headers", "request": {"delete": ["Range", "If-Range"]}}
    set_type: Json = {"handler": "headers", "response": {"set": {"Content-Type": ["{file_type}"]}}}
    return [
        *_compressed(),
        # By the path as it is now: a fallback's page has another than what was asked for.
        _TYPE_OF_FILE,
        _subroute(
            [
                _route(forget_part, match=by_date, terminal=False),
                _route(set_type, match=_unless({"vars": {"{file_type}": [""]}}), terminal=False),
            ]
        ),
        {
            "handler": "headers",
            "request": {"delete": ["If-Modified-Since", "If-Unmodified-Since"]},
            "response": {"set": {"Etag": [f'"{tag}"'], "Cache-Control": [cache]}},
        },
        {"handler": "headers", "response": {"deferred": True, "delete": ["Last-Modified"]}},
        _file_server(root),
    ]


def _compressed() -> list[Json]:
    """Return the handler that compresses what gains by it (Caddy's own list of types), and gives it a tag of its own.

    Not an answer to HEAD, whose length it would make that of nothing. No file beside the file is taken for it: its
    parts and the other's would have one tag."""
    encode: Json = {"handler": "encode", "encodings": {"zstd": {}, "gzip": {}}, "prefer": ["zstd", "gzip"]}
    return [_subroute([_route(encode, match={"method": ["GET"]}, terminal=False)])]


def _redirect(at: str, to: str) -> Json:
    """Return the route that leads on from what the address before its query matches, to `to` with the same query.

    From what was asked for, not from the path that it means: `#`, `%` and `?` in names stay as they were written."""
    headers: JsonObject = {"Location": [f"{to}{{http.regexp.uri.query}}"], "Cache-Control": [ASK_AGAIN]}
    return _route(
        {"handler": "static_response", "status_code": 308, "headers": headers},
        # One slash at its beginning: with two, what follows would be a host.
        match={"vars_regexp": {"{http.request.uri}": {"name": "uri", "pattern": rf"^/*{at}(?P<query>\?.*)?$"}}},
    )


def _exists(root: str, *paths: str) -> dict[str, Json]:
    return {"file": {"root": root, "try_files": list(paths)}}


def _file_server(root: str) -> dict[str, Json]:
    # An empty root would mean Caddy's working directory: every route with one knows that it is set.
    return {"handler": "file_server", "root": root, "index_names": [INDEX_NAME], "canonical_uris": False}


def _proxy(layout: Layout, slot: SlotName, *, address_file: str) -> Json:
    return {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": _dial(layout, slot, address_file)}],
        # Only what was never sent, and GETs, are tried again: Caddy's default, and the only safe rule.
        "load_balancing": {"try_duration": TRY_DURATION, "try_interval": bounds.TRY_INTERVAL},
        "transport": {
            "protocol": "http",
            "compression": False,
            "dial_timeout": "2s",
            "response_header_timeout": bounds.RESPONSE_HEADER_TIMEOUT,
            # Shorter than what any common server allows (gunicorn 2 s, uvicorn and Node 5 s): the one who closes an
            # idle connection must be us, or a POST may be written to one that the instance is just closing.
            "keep_alive": {"idle_timeout": "1s", "max_idle_conns_per_host": bounds.IDLE_CONNECTIONS_MAX},
        },
    }


def _dial(layout: Layout, slot: SlotName, address_file: str) -> str:
    return f"{{file.{layout.live(slot) / address_file}}}"


def _is(field: str, value: str) -> dict[str, Json]:
    return {"vars": {f"{{http.regexp.live.{field}}}": [value]}}


def _is_set(field: str) -> dict[str, Json]:
    return _unless(_is(field, ""))


def _unless(*matches: JsonObject) -> dict[str, Json]:
    """Return the match of what none of these matches. One a set: a second would take its place."""
    return {"not": list(matches)}


#: Notes the type of a file by its ending, where we have a word for it.
_TYPE_OF_FILE: JsonObject = {
    "handler": "map",
    "source": "{http.request.uri.path.file.ext}",
    "destinations": ["{file_type}"],
    "defaults": [""],
    "mappings": [
        {"input_regexp": rf"(?i)^\.{ending}$", "outputs": [type_of_file]} for ending, type_of_file in TYPES.items()
    ],
}
_IS_HIDDEN: JsonObject = {"path_regexp": {"pattern": HIDDEN}}


def _free(slot: SlotName, *folders: Path | None) -> list[Json]:
    """Return the routes of a slot that serves nothing: the page of the first folder that has one, else a line."""
    headers: JsonObject = {"X-Oroboros-Slot": ["free"], "Cache-Control": ["no-store"]}
    plain = _route(_answer(503, f"{slot} is free: nothing is deployed here.\n", headers=headers))
    return [*(_page(folder, headers) for folder in folders if folder is not None), plain]


def _page(folder: Path, headers: JsonObject) -> Json:
    return _route(
        # Always the whole page: half of one, or "not modified", would be no answer with 503.
        {"handler": "headers", "request": {"delete": ["If-*", "Range"]}, "response": {"set": headers}},
        {"handler": "rewrite", "uri": f"/{FREE_PAGE}"},
        {"handler": "file_server", "root": str(folder), "status_code": "503", "canonical_uris": False},
        match={"method": ["GET", "HEAD"], "file": {"root": str(folder), "try_files": [f"/{FREE_PAGE}"]}},
    )


def _state_of(slot: SlotName, state: str, *, release: str | None = None, healthy: bool | None = None) -> str:
    named = "null" if release is None else f'"{release}"'
    passes = "" if healthy is None else f', "healthy": {"true" if healthy else "false"}'
    return f'{{"slot": "{slot}", "state": "{state}", "release": {named}{passes}}}\n'


def _json_answer(status: int, body: str, *, headers: JsonObject | None = None) -> Json:
    always: JsonObject = {"Content-Type": ["application/json"], "Cache-Control": ["no-store"]}
    return _answer(status, body, headers={**always, **(headers or {})})


def _answer(status: int | str, body: str, *, headers: JsonObject | None = None) -> Json:
    return {
        "handler": "static_response",
        "status_code": status,
        "headers": {"Content-Type": ["text/plain; charset=utf-8"], **(headers or {})},
        "body": body,
    }


def _body_limit(bytes_max: int) -> Json:
    return {"handler": "request_body", "max_size": bytes_max}


def _log(field: str) -> Json:
    return {"handler": "log_append", "key": field, "value": f"{{http.regexp.live.{field}}}"}


def _subroute(routes: Sequence[Json]) -> Json:
    return {"handler": "subroute", "routes": routes}


def _route(*handlers: Json, match: JsonObject | None = None, terminal: bool = True) -> Json:
    matchers: dict[str, Json] = {} if match is None else {"match": [match]}
    return {**matchers, "handle": list(handlers), "terminal": terminal}


def _server(
    listen: str,
    *,
    routes: Sequence[Json],
    errors: Sequence[Json],
    trusted_proxies: tuple[str, ...] = (),
    trusts_unix: bool = False,
) -> Json:
    trusted: dict[str, Json] = {}
    if trusted_proxies:
        trusted["trusted_proxies"] = {"source": "static", "ranges": list(trusted_proxies)}
    if trusts_unix:
        trusted["trusted_proxies_unix"] = True
    return {
        "listen": [listen],
        "protocols": ["h1"],
        "automatic_https": {"disable": True},
        "read_header_timeout": bounds.READ_HEADER_TIMEOUT,
        "read_timeout": bounds.READ_TIMEOUT,
        "write_timeout": bounds.WRITE_TIMEOUT,
        "idle_timeout": bounds.IDLE_TIMEOUT,
        "max_header_bytes": bounds.HEADER_BYTES_MAX,
        "logs": {"default_logger_name": "access"},
        "routes": routes,
        "errors": {"routes": errors},
        **trusted,
    }


def _caddy(servers: JsonObject, *, name: str, log_dir: Path, journal: bool) -> dict[str, Json]:
    return {
        "admin": {"disabled": True, "config": {"persist": False}},
        "logging": {
            "logs": {
                # What ends Caddy itself is said to the default log alone.
                **({"default": _JOURNAL} if journal else {}),
                "errors" if journal else "default": {
                    "level": "WARN",
                    "writer": _rolling_file(log_dir / f"{name}.errors.log"),
                    "encoder": {"format": "json"},
                    "exclude": ["http.log.access"],
                },
                "access": {
                    "writer": _rolling_file(log_dir / f"{name}.access.log"),
                    "encoder": {"format": "json"},
                    "include": ["http.log.access"],
                },
            }
        },
        "apps": {"http": {"grace_period": bounds.GRACE_PERIOD, "servers": servers}},
    }


#: Each error once in a while, without what a visitor sent.
_JOURNAL: JsonObject = {
    "level": "ERROR",
    "writer": {"output": "net", "address": caddy_journal.ADDRESS, "soft_start": True},
    "encoder": {
        "format": "filter",
        "wrap": {
            "format": "console",
            "time_format": caddy_journal.time_format("ouroboros-web"),
            "level_format": "lower",
        },
        "fields": {
            **{name: {"filter": "delete"} for name in caddy_journal.FIELDS_LEFT_OUT},
            caddy_journal.URI_FIELD: {
                "filter": "regexp",
                "regexp": caddy_journal.QUERY,
                "value": caddy_journal.QUERY_LEFT,
            },
        },
    },
    "sampling": {"interval": caddy_journal.AGAIN_AFTER_S * 1_000_000_000, "first": 1},
    "exclude": ["http.log.access"],
}


def _rolling_file(path: Path) -> Json:
    return {
        "output": "file",
        "filename": str(path),
        "roll_size_mb": bounds.LOG_ROLL_MEBIBYTES,
        "roll_keep": bounds.LOG_ROLLS_KEPT,
    }
