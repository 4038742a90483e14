"""Render the Caddyfiles of the edge: that on loopback, the same on a host and under `oroboros up`, and the public one.

A site for each host name: the slots', `api.` and `worker.`; any other name is 404. Of `api.` and `worker.` it hands on
only what `access` opens to anyone, under that very path, without credentials, and says of their health no more than
well or not: whatever they answer besides is for loopback and for the operator. It has no admin API, and changes
only at install. It listens on loopback, where a tunnel or a proxy may hand requests in. With TLS a second Caddy has the
public ports of HTTPS and HTTP, with certificates for exactly these names: a client that asks for another name gets
none. It is a process of its own, so that another program on 80 or 443 does not keep the loopback port closed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from controller.decisions import bounds, caddy_journal
from controller.decisions.access import API_ACCESS, WORKER_ACCESS, Access
from controller.decisions.live_files import check_value
from controller.model.errors import ConfigInvalid
from controller.model.names import Topology

#: A part whose port is closed opens it within this time; behind it the edge answers 502. Only a request of which
#: nothing was sent is tried again, and a GET: Caddy's default.
TRY_DURATION = "5s"
#: Where systemd passes the edge its port (sd_listen_fds(3)): the port stays open while the edge restarts.
PASSED_LISTENER = "fd/3"
#: Names of the edge's certificate chain and key in the folder where its service manager hands credentials on.
CERTIFICATE, CERTIFICATE_KEY = "edge-certificate.pem", "edge-certificate-key.pem"

_HOST = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)*\Z")
_PLAIN_WORD = re.compile(r"[A-Za-z0-9_./:@+~-]+\Z")
#: Below these words, in a country's domain, names are given to people: `co.uk`, `com.au`.
_REGISTRY_WORDS = frozenset({"ac", "co", "com", "edu", "gob", "gov", "gouv", "ne", "net", "nom", "or", "org"})

_UNREACHED_LOGGER = f"http.log.access.{caddy_journal.UNREACHED}"

_Lines: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One host name of the edge, and who answers behind it."""

    #: A slot, `api` or `worker`: the word in the access log.
    name: str
    host: str
    port: int
    body_bytes_max: int
    #: What of it is handed on, and to whom; None: everything, as an app's.
    access: Mapping[str, Access] | None = field(default=None, hash=False)


def edge_sites(topology: Topology) -> tuple[Site, ...]:
    """Return every host name that the edge knows; ConfigInvalid when one is no name, or belongs to two."""
    sites = tuple(
        Site(
            name=slot,
            host=topology.host(slot),
            port=topology.ports.web(slot),
            body_bytes_max=bounds.APP_BODY_BYTES_MAX,
        )
        for slot in topology.slots
    ) + tuple(
        Site(
            name=name,
            host=f"{name}.{topology.base_host}",
            port=port,
            body_bytes_max=bounds.WEBHOOK_BODY_BYTES_MAX,
            access=access,
        )
        for name, port, access in (
            ("api", topology.ports.api, API_ACCESS),
            ("worker", topology.ports.worker_health, WORKER_ACCESS),
        )
    )
    problems = [f"{site.name}: {site.host!r:.100} is no host name" for site in sites if not _HOST.match(site.host)]
    for host, times in Counter(site.host for site in sites).items():
        if times > 1:
            names = " and ".join(site.name for site in sites if site.host == host)
            problems.append(f"{host} would be the name of {names}")
    if problems:
        raise ConfigInvalid("HostsInvalid", "; ".join(problems), problems=tuple(problems))
    return sites


def edge_listens(topology: Topology) -> tuple[tuple[str, int], ...]:
    """Return where the edge answers on loopback."""
    return (("127.0.0.1", topology.ports.edge),)


def public_ports(topology: Topology) -> tuple[int, ...]:
    """Return the ports at which the edge answers at every address of the machine; () without TLS."""
    return () if topology.tls == "off" else (topology.ports.edge_https, topology.ports.edge_http)


def render_edge(topology: Topology, *, log_dir: Path, is_passed: bool = False) -> str:
    """Return the Caddyfile of the edge on loopback, which writes its logs to `log_dir`. `is_passed`: systemd opens its
    port, and errors go to the journal, too."""
    sites, ports = edge_sites(topology), topology.ports
    listener = PASSED_LISTENER if is_passed else f"127.0.0.1:{ports.edge}"
    bind = f"bind {PASSED_LISTENER if is_passed else '127.0.0.1'}"
    return _rendered(
        _options(
            ("auto_https off",),
            _server_options(listener, "h1", *_trusted(topology)),
            log=log_dir / "edge.errors.log",
            journal=is_passed,
        ),
        *_shared(log_dir / "edge.access.log", journal=is_passed),
        *(
            _block(
                f"http://{site.host}:{ports.edge}",
                bind,
                # Where TLS ends in front of the edge, only the installation knows what the visitor typed.
                *_answers_of(site, scheme=topology.scheme),
            )
            for site in sites
        ),
        _no_such_host(f"http://:{ports.edge}", bind),
    )


def render_public_edge(topology: Topology, *, log_dir: Path, journal: bool = False) -> str:
    """Return the Caddyfile of the edge on the public ports, where the topology has TLS. `journal`: errors go there."""
    sites, ports = edge_sites(topology), topology.ports
    # What visitors type: something in front may lead 443 to another port here.
    port = "" if topology.public_port in (None, 443) else f":{topology.public_port}"
    return _rendered(
        _options(
            (
                # Redirects are sites of their own below, so that they have the same bounds and log.
                f"auto_https {'disable_redirects' if topology.tls == 'auto' else 'off'}",
                f"http_port {ports.edge_http}",
                f"https_port {ports.edge_https}",
                *(("skip_install_trust",) if topology.tls == "auto" else ()),
            ),
            # Whose name the certificate was chosen by is also whose site answers.
            _server_options(f":{ports.edge_https}", "h1 h2", "strict_sni_host on"),
            _server_options(f":{ports.edge_http}", "h1"),
            log=log_dir / "edge-public.errors.log",
            journal=journal,
        ),
        *_shared(log_dir / "edge-public.access.log", journal=journal),
        *(
            _block(
                f"https://{site.host}:{ports.edge_https}", *_certificate(topology), *_answers_of(site, scheme="https")
            )
            for site in sites
        ),
        # A certificate of yours may hold a wildcard: a name of nobody below it gets this answer.
        _no_such_host(f"https://:{ports.edge_https}"),
        *(
            _block(
                f"http://{site.host}:{ports.edge_http}", "import site", f"redir https://{site.host}{port}{{uri}} 308"
            )
            for site in sites
        ),
        _no_such_host(f"http://:{ports.edge_http}"),
    )


def _rendered(*blocks: _Lines) -> str:
    heading = "# Rendered from the topology that was installed: a change made here lasts until the next install.\n"
    return heading + "\n".join("".join(f"{line}\n" for line in block) for block in blocks)


def _shared(access_log: Path, *, journal: bool) -> tuple[_Lines, ...]:
    return _every_site(access_log, journal=journal), _site_with_somebody_behind(), _signed_only(), _verdict_only()


def shared_cookie_name(topology: Topology) -> str | None:
    """Return the name below which a preview can set cookies that browsers send to production, None without one.

    It is what somebody registered and both hosts are below: taken to be the last two labels, or three where the last
    but one is a registry's word in a country's domain, such as `co.uk`. That approximates the Public Suffix List, which
    is long and changes weekly."""
    if topology.previews == 0:
        return None
    main, preview = (_registered(topology.host(slot)) for slot in topology.slots[:2])
    return main if main == preview else None


def _registered(host: str) -> str:
    labels = host.split(".")
    below_registry = len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in _REGISTRY_WORDS
    return ".".join(labels[-3 if below_registry else -2 :])


def _options(https: tuple[str, ...], *servers: _Lines, log: Path, journal: bool) -> _Lines:
    # What ends Caddy itself is said to the default log alone.
    name = "errors" if journal else "default"
    return _block(
        "",
        "admin off",
        "persist_config off",
        *https,
        f"grace_period {bounds.GRACE_PERIOD}",
        _block(f"log {name}", *_log_to(log), "level WARN", *_not_of_access(name)),
        *(_journal_logs() if journal else ()),
        *servers,
    )


def _server_options(listener: str, protocols: str, *more: str) -> _Lines:
    return _block(
        f"servers {listener}",
        f"protocols {protocols}",
        f"max_header_size {bounds.HEADER_BYTES_MAX >> 10}KiB",
        _block(
            "timeouts",
            f"read_header {bounds.READ_HEADER_TIMEOUT}",
            f"read_body {bounds.READ_TIMEOUT}",
            f"write {bounds.WRITE_TIMEOUT}",
            f"idle {bounds.IDLE_TIMEOUT}",
        ),
        *more,
    )


def _trusted(topology: Topology) -> _Lines:
    return (f"trusted_proxies static {' '.join(topology.trusted_proxies)}",) if topology.trusted_proxies else ()


def _every_site(access_log: Path, *, journal: bool) -> _Lines:
    # An error that an error's own answer takes care of is told by no log but that of access.
    told = (f"log_name access {caddy_journal.UNREACHED}", "log_append error {err.message}") if journal else ()
    return _block(
        "(site)",
        _block("log access", *_log_to(access_log)),
        _block(
            "handle_errors",
            *told,
            *_respond("{err.status_code}: {host} does not answer right now.", "{err.status_code}"),
        ),
    )


def _site_with_somebody_behind() -> _Lines:
    return (
        "# Name, port, largest body, scheme that the visitor used.",
        *_block(
            "(behind)",
            "import site",
            # Proof is between the gate and the instance; a visitor does not get to claim it.
            "request_header -X-Oroboros-*",
            "log_append slot {args[0]}",
            _block("request_body", "max_size {args[2]}"),
            _proxy("{args[1]}", "header_up X-Forwarded-Proto {args[3]}"),
        ),
    )


def _signed_only() -> _Lines:
    return (
        "# Path, port, largest body: a POST, which who answers verifies.",
        *_block(
            "(signed)",
            # A regular expression, since `path` takes capitals for small letters.
            "@signed path_regexp ^{args[0]}$",
            _block(
                "handle @signed",
                "@other not method POST",
                "header @other Allow POST",
                *_respond("A webhook is a POST.", "405", matcher="@other"),
                "request_header -Authorization",
                _block("request_body", "max_size {args[2]}"),
                _proxy("{args[1]}", "rewrite {args[0]}?"),
            ),
        ),
    )


def _verdict_only() -> _Lines:
    def said(status: str, code: int) -> _Lines:
        return (
            "header Content-Type application/json",
            "header Cache-Control no-store",
            *_respond(f'{{"status":"{status}"}}', str(code)),
        )

    return (
        "# Path, port: well or not, whatever else is answered.",
        *_block(
            "(verdict)",
            "@verdict path_regexp ^{args[0]}$",
            _block(
                "handle @verdict",
                "@changing not method GET HEAD",
                "header @changing Allow GET",
                *_respond("Ask with GET.", "405", matcher="@changing"),
                _proxy(
                    "{args[1]}",
                    "method GET",
                    "rewrite {args[0]}?",
                    "header_up -Authorization",
                    "@well status 2xx",
                    _block("handle_response @well", *said("ok", 200)),
                    _block("handle_response", *said("unfit", 503)),
                ),
            ),
        ),
    )


def _proxy(port: str, *more: str | _Lines) -> _Lines:
    return _block(
        f"reverse_proxy 127.0.0.1:{port}",
        f"lb_try_duration {TRY_DURATION}",
        f"lb_try_interval {bounds.TRY_INTERVAL}",
        f"stream_close_delay {bounds.STREAM_DRAIN}",
        *more,
        _block(
            "transport http",
            "compression off",
            "dial_timeout 1s",
            f"response_header_timeout {bounds.RESPONSE_HEADER_TIMEOUT}",
            # On a connection that is kept, a POST may be written while the other side, which restarts, closes it.
            "keepalive off",
        ),
    )


def _answers_of(site: Site, *, scheme: str) -> tuple[str | _Lines, ...]:
    body = f"{site.body_bytes_max >> 20}MiB"
    if site.access is None:
        return (f"import behind {site.name} {site.port} {body} {scheme}",)
    lines: list[str | _Lines] = ["import site", f"log_append slot {site.name}"]
    for path, access in site.access.items():
        match access:
            case Access.SIGNED:
                lines.append(f"import signed {path} {site.port} {body}")
            case Access.VERDICT:
                lines.append(f"import verdict {path} {site.port}")
            case Access.OPERATOR:
                pass
    return (*lines, _block("handle", *_respond("Not found.", "404")))


def _certificate(topology: Topology) -> _Lines:
    if topology.tls == "auto":
        return ()
    folder = "{$CREDENTIALS_DIRECTORY}"
    return (f"tls {folder}/{CERTIFICATE} {folder}/{CERTIFICATE_KEY}",)


def _no_such_host(address: str, *more: str) -> _Lines:
    return _block(address, *more, "import site", *_respond("No such host here.", "404"))


def _respond(text: str, status: str, *, matcher: str = "") -> _Lines:
    # The empty line becomes the newline at the end.
    return (f"respond {matcher} <<TEXT" if matcher else "respond <<TEXT", f"\t{text}", "", f"\tTEXT {status}")


def _log_to(file: Path) -> tuple[str | _Lines, ...]:
    return (
        _block(
            f"output file {_word(file)}",
            f"roll_size {bounds.LOG_ROLL_MEBIBYTES}MiB",
            f"roll_keep {bounds.LOG_ROLLS_KEPT}",
        ),
        "format json",
    )


def _not_of_access(name: str) -> _Lines:
    # Of the default log alone Caddy leaves out by itself what sites log elsewhere.
    return () if name == "default" else ("exclude http.log.access",)


def _journal_logs() -> tuple[_Lines, ...]:
    include = f"include {_UNREACHED_LOGGER}"
    return (
        _block("log default", *_log_to_journal()),
        _block(f"log {caddy_journal.UNREACHED}", include, *_log_to_journal()),
    )


def _log_to_journal() -> tuple[str | _Lines, ...]:
    fields = [f"{name} delete" for name in caddy_journal.FIELDS_LEFT_OUT]
    uri = f'{caddy_journal.URI_FIELD} regexp "{caddy_journal.QUERY}" "{caddy_journal.QUERY_LEFT}"'
    layout = caddy_journal.time_format("ouroboros-caddy")
    return (
        _block(f"output net {caddy_journal.ADDRESS}", "soft_start"),
        _block(
            "format filter",
            _block("wrap console", f'time_format "{layout}"', "level_format lower"),
            _block("fields", *fields, uri),
        ),
        "level ERROR",
        _block("sampling", f"interval {caddy_journal.AGAIN_AFTER_S}s", "first 1"),
    )


def _word(path: Path) -> str:
    """Return a path as one word of a Caddyfile; ConfigInvalid when Caddy would not read it back as it is."""
    text = str(path)
    check_value("path", text)
    if _PLAIN_WORD.match(text):
        return text
    if "`" in text:
        raise ConfigInvalid("LiveValueInvalid", f"path: {text!r:.100} must not hold a backtick")
    return f"`{text}`"


def _block(head: str, *body: str | _Lines) -> _Lines:
    """Return a block, indented as `caddy fmt` would."""
    lines = (line for part in body for line in ((part,) if isinstance(part, str) else part))
    return (f"{head} {{".lstrip(), *(f"\t{line}" if line else "" for line in lines), "}")
