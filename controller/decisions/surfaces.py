"""What does a slot's surface do with a request, and what is it told by its environment?

One Caddy per slot. Its configuration never changes in a deploy and it has no admin API: it reads `slots/<slot>/live` at
each request, and the switch is the rename of that link. `live_files` says what it finds there.

Its environment says where it listens: `WEB_PORT`; `WEB_API_PROXY_TARGET`, the stable address of the slot's backend,
without which somebody else is the backend; `WEB_ROOT`, the folder of production's release with the page that a free
slot shows. Where that has none, the one that comes with us is shown.
This is JSON and not a Caddyfile because the Caddyfile's adapter appends `:80` to a dial that is only a placeholder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from controller.decisions import bounds
from controller.decisions.live_files import (
    ADDRESS_BESIDE_FILES_FILE,
    ADDRESS_FILE,
    ADDRESS_OF_ALL_FILE,
    ROUTE_FIELDS,
    ROUTE_FILE,
    check_value,
)
from controller.model.errors import ConfigInvalid
from controller.model.names import Layout, SlotName, Topology, unit_instance

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | int | bool | None"
JsonObject: TypeAlias = Mapping[str, Json]

#: How long a surface looks for an instance that accepts: longer than any switch, shorter than a visitor's patience.
TRY_DURATION = "5s"
#: Where a checkout of ours, or a release, has its pages.
WEB_PAGES = Path("infra", "web")
#: The page of a free slot, in `WEB_ROOT`.
FREE_PAGE = "free.html"

_PORT = re.compile(r"[1-9][0-9]{0,4}\Z", re.ASCII)
_LOOPBACK_URL = re.compile(r"http://127\.0\.0\.1:([0-9]{1,5})/?\Z", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a surface is told by its environment."""

    web_port: int
    #: None: somebody else listens at the slot's backend port, as the api does where it is production's backend.
    backend_port: int | None
    #: None: a free slot says so in plain text.
    web_root: Path | None


def surface_environment(topology: Topology, slot: SlotName, *, web_root: Path) -> dict[str, str]:
    """Return the environment of a slot's surface, as the host contract names it."""
    values = {"WEB_ROOT": str(web_root), "WEB_PORT": str(topology.ports.web(slot))}
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
    root = value("WEB_ROOT")
    if root and not root.startswith("/"):
        problems.append(f"WEB_ROOT: is {root!r:.60}, not an absolute path")
    try:
        check_value("WEB_ROOT", root)
    except ConfigInvalid as error:
        problems.append(error.message)
    if problems:
        raise ConfigInvalid("EnvironmentInvalid", "; ".join(problems), problems=tuple(problems))
    return Told(web_port=web_port, backend_port=backend_port, web_root=Path(root) if root else None)


def surface_listens(layout: Layout, slot: SlotName, told: Told) -> tuple[tuple[str, int] | Path, ...]:
    """Return everything that the slot's surface listens on: web, backend, responder."""
    ports = (told.web_port,) if told.backend_port is None else (told.web_port, told.backend_port)
    return (*(("127.0.0.1", port) for port in ports), layout.surface_socket(slot))


def render_surface(
    layout: Layout, slot: SlotName, told: Told, *, log_dir: Path, our_pages: Path | None = None
) -> dict[str, Json]:
    """Return the configuration of one slot's surface: its web port, its backend port, its responder.

    `our_pages` is the folder of the pages that come with us."""
    beside_files = _proxy(layout, slot, address_file=ADDRESS_BESIDE_FILES_FILE)
    web_routes = [
        _route(
            _proxy(layout, slot, address_file=ADDRESS_OF_ALL_FILE),
            match={**_is("instance", "yes"), "not": [_is_set("static_root")]},
        ),
        _route(beside_files, match={**_is("instance", "yes"), "path": ["{http.regexp.live.prefix}*"]}),
        _file_or_next("static_root"),
        _file_or_next("previous_static_root"),
        _fallback(),
        _route(beside_files, match=_is("instance", "yes")),
        # Static files only, and a method that files do not answer: 405 with Allow, or 404.
        _route(_file_server("static_root"), match=_is_set("static_root")),
    ]
    backend_routes = [_route(_proxy(layout, slot, address_file=ADDRESS_FILE), match=_is("instance", "yes"))]
    free = _free(slot, told.web_root, our_pages)
    web = _slot_routes(layout, slot, free=free, then=web_routes)
    loopback = ("127.0.0.0/8",)
    servers: dict[str, Json] = {
        "web": _server(
            f"127.0.0.1:{told.web_port}", routes=web, errors=_surface_errors(slot), trusted_proxies=loopback
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
            f"127.0.0.1:{told.backend_port}",
            routes=_slot_routes(layout, slot, free=_free(slot), then=backend_routes),
            errors=_surface_errors(slot),
            trusted_proxies=loopback,
        )
    return _caddy(servers, name=f"surface-{unit_instance(slot)}", log_dir=log_dir)


def _slot_routes(layout: Layout, slot: SlotName, *, free: Sequence[Json], then: Sequence[Json]) -> list[Json]:
    """Return the routes that read `live` once and answer for a slot that does not serve; `then` serve the rest."""
    route_file = layout.live(slot) / ROUTE_FILE
    pattern = "^" + "\t".join(f"(?P<{name}>[^\t]*)" for name in ROUTE_FIELDS) + "$"
    serving: list[Json] = [
        {"handle": [_log("release"), _log("generation")]},
        _route(_subroute(_health(layout, slot)), match={"path": ["/health"]}),
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
        _route(
            _subroute(serving),
            match={"vars_regexp": {f"{{file.{route_file}}}": {"name": "live", "pattern": pattern}}},
        ),
        _route(
            _json_answer(503, _state_of(slot, "unknown", release="null", healthy=False)), match={"path": ["/health"]}
        ),
        _route(
            _answer(
                503,
                f"What {slot} serves cannot be read.\n",
                headers={"X-Oroboros-Slot": ["unknown"], "Cache-Control": ["no-store"]},
            )
        ),
    ]


def _health(layout: Layout, slot: SlotName) -> list[Json]:
    """Return the routes of a surface's own `/health`: free, files only, or as the instance answers."""
    live = _state_of(slot, "live", release='"{http.regexp.live.release}"', healthy=True)
    failing = _state_of(slot, "live", release='"{http.regexp.live.release}"', healthy=False)
    asks_instance: Json = {
        "handler": "reverse_proxy",
        "rewrite": {"method": "GET", "uri": "{http.regexp.live.health_path}"},
        "upstreams": [{"dial": _dial(layout, slot, ADDRESS_FILE)}],
        "transport": {
            "protocol": "http",
            "dial_timeout": "1s",
            "response_header_timeout": "2s",
            "keep_alive": {"enabled": False},
        },
        "handle_response": [
            {"match": {"status_code": [2, 3]}, "routes": [_route(_json_answer(200, live))]},
            {"routes": [_route(_json_answer(503, failing))]},
        ],
    }
    return [
        _route(
            _json_answer(200, _state_of(slot, "free", release="null", healthy=True)),
            match=_is("state", "free"),
        ),
        _route(asks_instance, match=_is("instance", "yes")),
        _route(_json_answer(200, live)),
    ]


def _surface_errors(slot: SlotName) -> list[Json]:
    failing = _state_of(slot, "live", release='"{http.regexp.live.release}"', healthy=False)
    message = f"{{http.error.status_code}}: {slot} does not answer right now.\n"
    return [
        _route(_json_answer(503, failing), match={"path": ["/health"]}),
        _route(_answer(404, "Not found.\n"), match={"vars": {"{http.error.status_code}": ["404"]}}),
        _route(
            _answer(405, "Files answer GET and HEAD only.\n"), match={"vars": {"{http.error.status_code}": ["405"]}}
        ),
        _route(_answer(413, "Too large.\n"), match={"vars": {"{http.error.status_code}": ["413"]}}),
        _route(_answer("{http.error.status_code}", message)),
    ]


def _file_or_next(root: str) -> Json:
    """Return the route that answers with a file of `root` if there is one, and else hands on."""
    return _route(
        _file_server(root, pass_thru=True), match={**_is_set(root), "method": ["GET", "HEAD"]}, terminal=False
    )


def _fallback() -> Json:
    return _route(
        {"handler": "rewrite", "uri": "{http.regexp.live.fallback}"},
        _file_server("static_root"),
        match={"method": ["GET", "HEAD"], "not": [_is("static_root", ""), _is("fallback", "")]},
    )


def _file_server(root: str, *, pass_thru: bool = False) -> Json:
    # An empty root would mean Caddy's working directory: every route with one matches `_is_set` first.
    return {
        "handler": "file_server",
        "root": f"{{http.regexp.live.{root}}}",
        "index_names": ["index.html"],
        "pass_thru": pass_thru,
    }


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
    return {"not": [_is(field, "")]}


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


def _state_of(slot: SlotName, state: str, *, release: str, healthy: bool) -> str:
    passes = "true" if healthy else "false"
    return f'{{"slot": "{slot}", "state": "{state}", "release": {release}, "healthy": {passes}}}\n'


def _json_answer(status: int, body: str) -> Json:
    return _answer(status, body, headers={"Content-Type": ["application/json"], "Cache-Control": ["no-store"]})


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


def _caddy(servers: JsonObject, *, name: str, log_dir: Path) -> dict[str, Json]:
    return {
        "admin": {"disabled": True, "config": {"persist": False}},
        "logging": {
            "logs": {
                "default": {
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


def _rolling_file(path: Path) -> Json:
    return {
        "output": "file",
        "filename": str(path),
        "roll_size_mb": bounds.LOG_ROLL_MEBIBYTES,
        "roll_keep": bounds.LOG_ROLLS_KEPT,
    }
