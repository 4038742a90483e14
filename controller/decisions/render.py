"""What do the slots' surfaces and the edge do with a request, written as configurations for Caddy?

One Caddy per slot (its surface) and one in front of all (the edge). No configuration changes in a deploy and none has
an admin API: a surface reads `slots/<slot>/live` at each request, and the switch is the rename of that link.

Of what lies in `live`, Caddy reads:
- `route`, one line, read ONCE per request: state, prefix, folders of files, fallback. One read, so that a switch in
  the middle of a request never mixes two releases; resolved folders, so that no body meets the entity tag of another.
- an address, in the dial itself: read again at each attempt, so that a request which finds the old instance gone goes
  to the new one. It always names somebody: when no instance runs, the surface's own responder, which routes anew.
  There are three of it, since the switch may fall between the two reads: a request that was routed for a release
  without files must not reach the instance of one with files. What does not fit names the responder.

Caddy would replace placeholders inside what it reads; so a value that holds a brace is refused (`check_route_value`).
This is JSON and not a Caddyfile because the Caddyfile's adapter appends `:80` to a dial that is only a placeholder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from controller.model.errors import ConfigInvalid
from controller.model.names import Layout, SlotName, Topology, unit_instance
from controller.model.nouns import Live

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | int | bool | None"
JsonObject: TypeAlias = Mapping[str, Json]

#: Names of the files in a live folder that Caddy reads.
ROUTE_FILE = "route"
#: The instance, for those who want nothing else: the backend port and the surface's `/health`.
ADDRESS_FILE = "address"
#: The instance of a release without static files: everything goes to it.
ADDRESS_OF_ALL_FILE = "address-of-all"
#: The instance of a release with static files: what is under its prefix, and what no file answers.
ADDRESS_BESIDE_FILES_FILE = "address-beside-files"

#: How long a surface looks for an instance that accepts: longer than any switch, shorter than a visitor's patience.
TRY_DURATION = "5s"
#: A surface comes back within this time after a restart; behind it the edge answers 502.
EDGE_TRY_DURATION = "2s"
APP_BODY_BYTES_MAX = 1 << 30
#: Just above the receiver's own cap, so that the receiver gives the answer.
WEBHOOK_BODY_BYTES_MAX = 26 << 20
HEADER_BYTES_MAX = 64 << 10

_LOG_ROLL_MEGABYTES = 10
_LOG_ROLLS_KEPT = 5
_NEVER_IN_A_VALUE = frozenset("{}\t") | {chr(code) for code in range(32)} | {"\x7f"}
#: In the order of the line. `vars_regexp` gives each as `{http.regexp.live.<name>}`.
_ROUTE_FIELDS = (
    "state",
    "instance",
    "release",
    "generation",
    "prefix",
    "static_root",
    "previous_static_root",
    "fallback",
    "health_path",
)


def surface_listens(
    layout: Layout, topology: Topology, slot: SlotName, *, backend_port: int | None = None
) -> tuple[tuple[str, int], tuple[str, int], Path]:
    """Return everything that the slot's surface listens on: web, backend, responder."""
    return (
        ("127.0.0.1", topology.ports.web(slot)),
        ("127.0.0.1", backend_port or topology.ports.backend(slot)),
        layout.surface_socket(slot),
    )


def edge_listens(topology: Topology) -> tuple[tuple[str, int], ...]:
    """Return what the edge listens on."""
    return (("127.0.0.1", topology.ports.edge),)


def render_addresses(layout: Layout, live: Live) -> dict[str, str]:
    """Return the content of each file that a surface dials by, under its name."""
    responder = f"unix/{layout.surface_socket(live.slot)}"
    address = live.address if live.state == "live" and live.address is not None else responder
    check_route_value("address", address)
    has_files = live.static_root is not None
    return {
        ADDRESS_FILE: address,
        ADDRESS_OF_ALL_FILE: responder if has_files else address,
        ADDRESS_BESIDE_FILES_FILE: address if has_files else responder,
    }


def render_route(live: Live) -> str:
    """Return the content of `route`: one line of tab-separated fields; ConfigInvalid if a value cannot be written."""
    serving = live.state == "live"
    values = {
        "state": live.state,
        "instance": "yes" if serving and live.address is not None else "no",
        "release": live.release or "",
        "generation": str(live.generation),
        "prefix": live.api_prefix,
        "static_root": (live.static_root or "") if serving else "",
        "previous_static_root": (live.previous_static_root or "") if serving else "",
        "fallback": "/" + live.fallback.lstrip("/") if serving and live.fallback else "",
        "health_path": live.health_path,
    }
    for name, value in values.items():
        check_route_value(name, value)
    return "\t".join(values[name] for name in _ROUTE_FIELDS)


def check_route_value(name: str, value: str) -> None:
    """Refuse a value that Caddy would not read back as it is: ConfigInvalid."""
    bad = sorted(_NEVER_IN_A_VALUE.intersection(value))
    if bad:
        raise ConfigInvalid("LiveValueInvalid", f"{name}: {value!r:.100} must not hold {bad[0]!r}")


def render_surface(
    layout: Layout, topology: Topology, slot: SlotName, *, log_dir: Path, backend_port: int | None = None
) -> dict[str, Json]:
    """Return the configuration of one slot's surface: its web port, its backend port, its responder."""
    (_, web_port), (_, backend_port_), responder = surface_listens(layout, topology, slot, backend_port=backend_port)
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
    loopback = ("127.0.0.0/8",)
    return _caddy(
        {
            "web": _server(
                f"127.0.0.1:{web_port}",
                routes=_slot_routes(layout, slot, then=web_routes),
                errors=_surface_errors(slot),
                trusted_proxies=loopback,
            ),
            "backend": _server(
                f"127.0.0.1:{backend_port_}",
                routes=_slot_routes(layout, slot, then=backend_routes),
                errors=_surface_errors(slot),
                trusted_proxies=loopback,
            ),
            "responder": _server(
                f"unix/{responder}|0600",
                routes=_slot_routes(layout, slot, then=web_routes),
                errors=_surface_errors(slot),
                trusted_proxies=loopback,
                trusts_unix=True,
            ),
        },
        name=f"surface-{unit_instance(slot)}",
        log_dir=log_dir,
    )


def render_edge(topology: Topology, *, log_dir: Path, trusted_proxies: tuple[str, ...] = ()) -> dict[str, Json]:
    """Return the configuration of the edge: one host name per slot, the API's, the worker's; any other is 404.

    `trusted_proxies` are the addresses of a proxy in front of the edge whose `X-Forwarded-*` may be believed."""
    ports = topology.ports
    hosts = [(slot, topology.host(slot), ports.web(slot)) for slot in topology.slots]
    hosts += [
        (SlotName("api"), f"api.{topology.base_host}", ports.api),
        (SlotName("worker"), f"worker.{topology.base_host}", ports.worker_health),
    ]
    routes: list[Json] = [
        _route(
            {"handler": "log_append", "key": "slot", "value": name},
            _body_limit(APP_BODY_BYTES_MAX if name in topology.slots else WEBHOOK_BODY_BYTES_MAX),
            _edge_proxy(port, scheme=topology.scheme, idle="30s" if name in topology.slots else "1s"),
            match={"host": [host]},
        )
        for name, host, port in hosts
    ]
    routes.append(_route(_answer(404, "No such host here.\n")))
    strip = _route({"handler": "headers", "request": {"delete": ["X-Oroboros-*"]}}, terminal=False)
    return _caddy(
        {
            "edge": _server(
                f"127.0.0.1:{ports.edge}",
                routes=[strip, *routes],
                errors=[
                    _route(
                        _answer(
                            "{http.error.status_code}",
                            "{http.error.status_code}: {http.request.host} does not answer right now.\n",
                        )
                    )
                ],
                trusted_proxies=trusted_proxies,
            )
        },
        name="edge",
        log_dir=log_dir,
    )


def _slot_routes(layout: Layout, slot: SlotName, *, then: Sequence[Json]) -> list[Json]:
    """Return the routes that read `live` once and answer for a slot that does not serve; `then` serve the rest."""
    route_file = layout.live(slot) / ROUTE_FILE
    pattern = "^" + "\t".join(f"(?P<{name}>[^\t]*)" for name in _ROUTE_FIELDS) + "$"
    serving: list[Json] = [
        {"handle": [_log("release"), _log("generation")]},
        _route(_subroute(_health(layout, slot)), match={"path": ["/health"]}),
        _route(_free(slot), match=_is("state", "free")),
        *then,
        _route(_answer(404, "Not found.\n")),
    ]
    return [
        {
            "handle": [
                {"handler": "log_append", "key": "slot", "value": slot},
                # Proof is between the gate and the instance; a visitor does not get to claim it.
                {"handler": "headers", "request": {"delete": ["X-Oroboros-*"]}},
                _body_limit(APP_BODY_BYTES_MAX),
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
        "load_balancing": {"try_duration": TRY_DURATION, "try_interval": "25ms"},
        "transport": {
            "protocol": "http",
            "compression": False,
            "dial_timeout": "2s",
            "response_header_timeout": "5m",
            # Shorter than what any common server allows (gunicorn 2 s, uvicorn and Node 5 s): the one who closes an
            # idle connection must be us, or a POST may be written to one that the instance is just closing.
            "keep_alive": {"idle_timeout": "1s", "max_idle_conns_per_host": 64},
        },
    }


def _edge_proxy(port: int, *, scheme: str, idle: str) -> Json:
    return {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": f"127.0.0.1:{port}"}],
        "load_balancing": {"try_duration": EDGE_TRY_DURATION, "try_interval": "25ms"},
        # Where TLS ends in front of the edge, only the installation knows what the visitor typed.
        "headers": {"request": {"set": {"X-Forwarded-Proto": [scheme]}}},
        "transport": {
            "protocol": "http",
            "compression": False,
            "dial_timeout": "1s",
            "response_header_timeout": "5m",
            # Shorter than what the other side keeps: a surface 2 min, uvicorn 5 s.
            "keep_alive": {"idle_timeout": idle, "max_idle_conns_per_host": 64},
        },
    }


def _dial(layout: Layout, slot: SlotName, address_file: str) -> str:
    return f"{{file.{layout.live(slot) / address_file}}}"


def _is(field: str, value: str) -> dict[str, Json]:
    return {"vars": {f"{{http.regexp.live.{field}}}": [value]}}


def _is_set(field: str) -> dict[str, Json]:
    return {"not": [_is(field, "")]}


def _free(slot: SlotName) -> Json:
    return _answer(
        503,
        f"{slot} is free: nothing is deployed here.\n",
        headers={"X-Oroboros-Slot": ["free"], "Cache-Control": ["no-store"]},
    )


def _state_of(slot: SlotName, state: str, *, release: str, healthy: bool) -> str:
    passes = "true" if healthy else "false"
    return f'{{"slot": "{slot}", "state": "{state}", "release": {release}, "healthy": {passes}}}\n'


def _json_answer(status: int, body: str) -> Json:
    return _answer(status, body, headers={"Content-Type": ["application/json"], "Cache-Control": ["no-store"]})


def _answer(status: int | str, body: str, *, headers: Mapping[str, Sequence[str]] | None = None) -> Json:
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
        "read_header_timeout": "10s",
        # Of a whole body, and of a whole answer: bounds for what went wrong, far above what is used.
        "read_timeout": "10m",
        "write_timeout": "1h",
        # Longer than the edge keeps an idle connection to a surface.
        "idle_timeout": "2m",
        "max_header_bytes": HEADER_BYTES_MAX,
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
        "apps": {"http": {"grace_period": "5s", "servers": servers}},
    }


def _rolling_file(path: Path) -> Json:
    return {
        "output": "file",
        "filename": str(path),
        "roll_size_mb": _LOG_ROLL_MEGABYTES,
        "roll_keep": _LOG_ROLLS_KEPT,
    }
