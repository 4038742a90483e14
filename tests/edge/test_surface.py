"""What do a slot's surface and the edge answer, as real Caddy processes, in every state of the slot?"""

from __future__ import annotations

import dataclasses
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.decisions.bounds import HEADER_BYTES_MAX, WEBHOOK_BODY_BYTES_MAX
from controller.decisions.surfaces import read_surface_environment, render_surface
from controller.development.parts import listens_at
from controller.effects.live import read_live
from controller.model.names import MAIN, Layout, Topology, preview_slot
from controller.model.nouns import Live

from .host import RELEASE, Host

PREVIEW = preview_slot(1)


@pytest.fixture
def main(host: Host) -> Host:
    host.switch(Live(slot=MAIN, state="free", generation=0))
    host.surface(MAIN)
    return host


def receive(connection: socket.socket, end: bytes) -> bytes:
    """Return what comes until `end`, or until the other side closes."""
    received = b""
    while not received.endswith(end) and (byte := connection.recv(1)):
        received += byte
    return received


def state(host: Host, path: str = "/health") -> tuple[int, dict[str, object]]:
    answer = host.web(MAIN, path)
    return answer.status, json.loads(answer.body)


def test_no_surface_has_an_admin_api_or_changes_with_what_is_live(tmp_path: Path) -> None:
    layout, told = Layout(tmp_path), read_surface_environment({"WEB_PORT": "3100"})

    config = render_surface(layout, MAIN, told, log_dir=tmp_path)

    assert config["admin"] == {"disabled": True, "config": {"persist": False}}
    assert "{file." + str(layout.live(MAIN)) + "/address}" in json.dumps(config)


def test_a_free_slot_is_healthy_and_says_that_it_is_free(main: Host) -> None:
    assert state(main) == (200, {"slot": "main", "state": "free", "release": None, "healthy": True})
    for port in (main.topology.ports.web(MAIN), main.topology.ports.backend(MAIN)):
        answer = main.ask("/any/page", port=port, method="POST", body=b"x")
        assert (answer.status, answer.headers["x-oroboros-slot"]) == (503, "free")
        assert answer.body == "main is free: nothing is deployed here.\n"


def test_a_page_of_what_production_serves_goes_before_ours(main: Host) -> None:
    for folder, text in ((main.our_pages, "ours"), (main.web_root, "theirs")):
        folder.mkdir()
        (folder / "free.html").write_text(text)
        answer = main.web(MAIN, "/")
        assert (answer.status, answer.body) == (503, text)


def test_a_free_slot_shows_its_page_once_there_is_one_and_never_half_of_it(main: Host) -> None:
    assert main.web(MAIN, "/").body == "main is free: nothing is deployed here.\n"
    main.web_root.mkdir()
    page = main.web_root / "free.html"
    page.write_text("<h1>free</h1>")
    etag = main.web(MAIN, "/").headers["etag"]

    port = main.topology.ports.web(MAIN)
    answers = [
        main.ask("/", port=port),
        main.ask("/deep/page.js?x=1", port=port, headers={"Range": "bytes=0-2"}),
        main.ask("/free.html/", port=port, headers={"If-None-Match": etag}),
    ]
    assert {(answer.status, answer.body) for answer in answers} == {(503, "<h1>free</h1>")}
    for answer in answers:
        told = [answer.headers[name] for name in ("x-oroboros-slot", "content-type", "cache-control")]
        assert told == ["free", "text/html; charset=utf-8", "no-store"]
    head = main.web(MAIN, "/", method="HEAD")
    assert (head.status, head.headers["x-oroboros-slot"], head.body) == (503, "free", "")
    plain = [main.web(MAIN, "/", method="POST", body=b"x"), main.ask("/", port=main.topology.ports.backend(MAIN))]
    assert {(answer.status, answer.body) for answer in plain} == {(503, "main is free: nothing is deployed here.\n")}
    assert state(main)[0] == 200
    page.unlink()
    assert main.web(MAIN, "/").headers["content-type"].startswith("text/plain")


def test_where_the_api_is_productions_backend_the_surface_leaves_it_its_port(host: Host) -> None:
    ports = host.topology.ports
    host.topology = dataclasses.replace(host.topology, production_backend_port=ports.api)
    host.switch(Live(slot=MAIN, state="free", generation=0))
    host.surface(MAIN)

    assert state(host)[0] == 200
    for port in (ports.api, ports.backend(MAIN)):
        assert not listens_at(("127.0.0.1", port))


def test_another_backend_port_is_the_surfaces(host: Host) -> None:
    port = host.topology.ports.instance(MAIN, "b")
    host.topology = dataclasses.replace(host.topology, production_backend_port=port)
    host.switch(Live(slot=MAIN, state="free", generation=0))
    host.surface(MAIN)

    assert host.ask("/", port=port).headers["x-oroboros-slot"] == "free"


def test_only_the_surfaces_own_user_may_use_its_responder(main: Host) -> None:
    assert main.layout.surface_socket(MAIN).stat().st_mode & 0o777 == 0o600


def test_the_responder_answers_for_a_slot_that_became_free_in_the_middle_of_a_request(main: Host) -> None:
    dial = (main.layout.live(MAIN) / "address").read_text().strip()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(dial.removeprefix("unix/"))
        connection.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"X-Oroboros-Slot: free" in answer


def test_the_responder_routes_anew_and_keeps_who_asked(main: Host) -> None:
    _, address = main.instance(MAIN, "a", name="one")
    main.serve(MAIN, address=address, static_root=main.files("files", index_html="home"), api_prefix="/api/")
    dial = (main.layout.live(MAIN) / "address-of-all").read_text().strip()
    answers = {}
    for path in ("/", "/headers"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(dial.removeprefix("unix/"))
            asked = f"GET {path} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.7\r\nConnection: close\r\n\r\n"
            connection.sendall(asked.encode())
            answers[path] = b"".join(iter(lambda: connection.recv(4096), b"")).decode()

    assert answers["/"].endswith("\r\n\r\nhome")
    assert json.loads(answers["/headers"].partition("\r\n\r\n")[2])["x-forwarded-for"].startswith("192.0.2.7")


def test_a_slot_whose_live_cannot_be_read_is_neither_free_nor_healthy(host: Host) -> None:
    host.surface(MAIN)

    assert state(host) == (503, {"slot": "main", "state": "unknown", "release": None, "healthy": False})
    answer = host.web(MAIN, "/")
    assert (answer.status, answer.headers["x-oroboros-slot"]) == (503, "unknown")


@pytest.mark.parametrize("unix", [False, True])
def test_health_passes_and_fails_with_the_instance(main: Host, unix: bool) -> None:
    instance, address = main.instance(MAIN, "a", name="one", unix=unix)
    passing = {"slot": "main", "state": "live", "release": RELEASE, "healthy": True}

    main.serve(MAIN, address=address)
    assert state(main) == (200, passing)
    assert main.ask("/health", port=main.topology.ports.backend(MAIN)).status == 200
    main.serve(MAIN, address=address, health_path="/status/500")
    assert state(main) == (503, {**passing, "healthy": False})
    main.serve(MAIN, address=address)
    instance.stop()
    assert state(main) == (503, {**passing, "healthy": False})


def test_health_is_ours_for_who_asks_a_port_directly_and_the_apps_for_its_visitors(main: Host) -> None:
    main.edge()
    _, address = main.instance(MAIN, "a", name="one")
    main.serve(MAIN, address=address)
    ports = main.topology.ports

    for host in ("localhost", "127.0.0.1", "[::1]", f"127.0.0.1:{ports.web(MAIN)}", "LOCALHOST:1", "[::1]:3100"):
        for port in (ports.web(MAIN), ports.backend(MAIN)):
            assert json.loads(main.ask("/health", port=port, host=host).body)["slot"] == "main", host
    for host in ("app.localhost:8088", "app.localhost"):
        seen = [
            main.ask("/health", port=port, host=host) for port in (ports.web(MAIN), ports.backend(MAIN), ports.edge)
        ]
        assert [(one.status, one.body, one.headers["x-path"]) for one in seen] == [(200, "one", "/health")] * 3
    main.serve(MAIN, static_root=main.files("site", health="a file of the app"))
    assert main.through_edge("app.localhost", "/health").body == "a file of the app"
    main.switch(Live(slot=MAIN, state="free", generation=2))
    assert main.through_edge("app.localhost", "/health").headers["x-oroboros-slot"] == "free"


def test_what_we_ask_ourselves_is_below_a_reserved_path_that_tells_a_visitor_next_to_nothing(main: Host) -> None:
    main.edge()
    ours = "/.well-known/oroboros"

    def asked(path: str) -> tuple[int, object]:
        answer = main.through_edge("app.localhost", f"{ours}/{path}")
        assert answer.headers["x-oroboros-surface"] == "main"
        return answer.status, json.loads(answer.body) if answer.body.startswith("{") else answer.body

    said: dict[str, object] = {"slot": "main", "state": "free", "release": None}
    assert [asked("health"), asked(f"release/{RELEASE}")] == [(200, {**said, "healthy": True}), (404, said)]
    instance, address = main.instance(MAIN, "a", name="secret page")
    main.serve(MAIN, address=address, health_path="/headers", static_root=main.files("site", index_html="home"))
    said["state"] = "live"
    assert asked("health") == (200, {**said, "healthy": True})
    assert asked(f"release/{RELEASE}") == (200, {**said, "release": RELEASE})
    gate = main.through_edge("app.localhost", f"{ours}/gate/{RELEASE}")
    assert (gate.status, gate.body) == (200, "")
    assert gate.headers["x-oroboros-release"] == "r"
    for path in (f"release/{'f' * 40}", f"gate/{'f' * 40}", "gate/", "release/"):
        assert asked(path) == (404, said), path
    for path in ("", "else", "gate"):
        assert asked(path)[0] == 404, path
    instance.stop()
    assert asked("health") == (503, {**said, "healthy": False})
    assert asked(f"gate/{RELEASE}") == (503, {**said, "healthy": False})


def test_a_live_of_before_the_status_was_kept_goes_on_serving(main: Host) -> None:
    _, address = main.instance(MAIN, "a", name="one")
    for status, healthy in ((204, 200), (302, 200), (404, 503)):
        main.serve(MAIN, address=address, health_path=f"/status/{status}", health_status=None)
        live = main.layout.live(MAIN)
        assert "health_status" not in json.loads((live / "live.json").read_text())
        (live / "routes").unlink()
        assert state(main)[0] == healthy
        assert main.web(MAIN, "/page").body == "one"
        before = read_live(main.layout, MAIN)
        assert before is not None
        assert before.health_status is None


def test_health_wants_the_status_that_the_gate_wanted(main: Host) -> None:
    _, address = main.instance(MAIN, "a", name="one")
    for status, healthy in ((204, 200), (401, 200), (200, 503)):
        main.serve(MAIN, address=address, health_path=f"/status/{401 if status == 401 else 204}", health_status=status)
        assert state(main)[0] == healthy


def test_files_only_are_healthy_by_themselves_and_answer_nothing_but_files(main: Host) -> None:
    main.serve(MAIN, static_root=main.files("one", index_html="home", docs__index_html="docs"))

    assert state(main)[0] == 200
    answers = {
        path: main.web(MAIN, path) for path in ("/", "/docs", "/docs/", "/nothing", "/../../ledger", "/%2e%2e/x")
    }
    assert [(answer.status, answer.body) for path, answer in answers.items() if path != "/docs"] == [
        (200, "home"),
        (200, "docs"),
        (404, "Not found.\n"),
        (404, "Not found.\n"),
        (404, "Not found.\n"),
    ]
    assert (answers["/docs"].status, answers["/docs"].headers["location"]) == (308, "/docs/")
    assert main.web(MAIN, "/", method="POST").status == 405
    assert main.web(MAIN, "/nothing", method="POST").status == 404
    assert main.ask("/", port=main.topology.ports.backend(MAIN)).status == 404


def test_what_answers_is_prefix_then_file_then_previous_asset_then_fallback_then_instance(main: Host) -> None:
    _, address = main.instance(MAIN, "a", name="instance")
    old = main.files("old", index_html="old home", app_1f2e3d4c_js="old asset", api__x="never")
    new = main.files("new", index_html="home", app_2f3e4d5c_js="asset", api__x="never", dir__page="page")
    asset, old_asset = "/app.2f3e4d5c.js", "/app.1f2e3d4c.js"

    def bodies(*paths: str) -> list[str]:
        return [main.web(MAIN, path).body for path in paths]

    main.serve(MAIN, address=address, static_root=new, previous=old, api_prefix="/api/")
    assert bodies("/", asset, old_asset, "/api/x", "/else", "/dir/", "/dir/page") == [
        *("home", "asset", "old asset", "instance", "instance", "instance", "page")
    ]
    main.serve(MAIN, address=address, static_root=new, previous=old, api_prefix="/api/", fallback="index.html")
    assert bodies(old_asset, "/else/deep?x=1", "/api/else") == ["old asset", "home", "instance"]
    assert main.web(MAIN, "/", method="POST", body=b"1").body == "instance"
    main.serve(MAIN, static_root=new, fallback="index.html", api_prefix="/api/")
    assert bodies("/api/x", "/api/else") == ["never", "home"]
    main.serve(MAIN, address=address)
    assert bodies("/", asset) == ["instance", "instance"]


def test_proof_is_stripped_from_requests_and_never_added_to_answers(main: Host) -> None:
    _, address = main.instance(MAIN, "a", name="one")
    main.serve(MAIN, address=address)
    claimed = {"X-Oroboros-Release": "mine", "X-Oroboros-Nonce": "mine", "X-Other": "kept"}

    answer = main.ask("/headers", port=main.topology.ports.web(MAIN), headers=claimed)

    seen = json.loads(answer.body)
    assert [name for name in seen if name.startswith("x-o")] == ["x-other"]
    assert (answer.headers["x-oroboros-release"], answer.headers["x-oroboros-nonce"]) == ("r", "n")
    assert not any(name.startswith("x-oroboros") for name in main.web(MAIN, "/").headers)


def test_the_edge_leads_each_host_to_its_port_and_no_other(main: Host) -> None:
    main.switch(Live(slot=PREVIEW, state="free", generation=0))
    main.surface(PREVIEW)
    main.edge()
    _, address = main.instance(MAIN, "a", name="app")
    _, preview = main.instance(PREVIEW, "a", name="preview")
    main.serve(MAIN, address=address)
    main.serve(PREVIEW, address=preview)

    assert main.through_edge("app.localhost:8088", "/").body == "app"
    assert main.through_edge("preview1.localhost", "/").body == "preview"
    for unknown in ("localhost", "preview2.localhost", "127.0.0.1", "app.localhost.evil.example"):
        assert main.through_edge(unknown, "/").status == 404
    # No worker runs here: an answer, not a hang.
    assert main.through_edge("worker.localhost", "/health").status == 502


@pytest.mark.parametrize("base", ["/api/status", "/api/runs", "/nothing"])
def test_no_spelling_of_a_path_leads_through_the_edge_to_what_is_not_for_everybody(host: Host, base: str) -> None:
    # Nothing answers behind this edge: what it hands on is 502.
    host.edge()
    spellings = [
        base,
        f"/{base}",
        f"{base}/",
        base.upper(),
        base.replace("a", "%61"),
        f"/health/..{base}",
        f"/health/%2e%2e{base}",
        f"/health%2f..{base}",
        f"/health;{base}",
        f"/health%00{base}",
        f"/health{base}",
        f"/webhooks/github/../..{base}",
        f"/webhooks/github{base}",
        f"/.{base}",
        f"{base}?x=/health",
        f"{base}#/health",
        f"http://worker.localhost{base}",
    ]
    for part in ("api.localhost", "worker.localhost"):
        for spelling in spellings:
            seen = host.through_edge(part, spelling)
            assert (seen.status, seen.body) == (404, "Not found.\n"), (part, spelling, seen)
    assert host.through_edge("worker.localhost", "/webhooks/github", method="POST", body=b"{}").status == 404


def test_t_g10_the_app_sees_who_asked_and_a_visitor_cannot_say_otherwise(main: Host) -> None:
    main.edge()
    _, address = main.instance(MAIN, "a", name="app")
    main.serve(MAIN, address=address)

    answer = main.ask(
        "/headers",
        port=main.topology.ports.edge,
        host="app.localhost:8088",
        headers={"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example"},
    )

    seen = json.loads(answer.body)
    assert seen["x-forwarded-for"] == "127.0.0.1, 127.0.0.1"
    assert (seen["x-forwarded-host"], seen["x-forwarded-proto"]) == ("app.localhost:8088", "http")
    assert seen["host"] == "app.localhost:8088"


def test_an_app_behind_https_is_told_so(main: Host) -> None:
    topology = Topology(previews=1, ports=main.topology.ports, scheme="https")
    main.topology = topology
    main.edge()
    _, address = main.instance(MAIN, "a", name="app")
    main.serve(MAIN, address=address)

    assert json.loads(main.through_edge("app.localhost", "/headers").body)["x-forwarded-proto"] == "https"


class _Receiver:
    """Stands where the api stands, and remembers the bodies that came."""

    def __init__(self, port: int) -> None:
        self.bodies: list[bytes] = []
        self._server = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                length = 0
                while (line := stream.readline().strip()) != b"":
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                self.bodies.append(stream.read(length))
                connection.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(5)


@pytest.fixture
def receiver(host: Host) -> Iterator[_Receiver]:
    made = _Receiver(host.topology.ports.api)
    yield made
    made.close()


def test_a_webhook_passes_byte_for_byte_up_to_its_cap(host: Host, receiver: _Receiver) -> None:
    host.edge()
    odd = b'{ "a":1,\r\n "b": "\xff\x00" }' + b"x" * (25 << 20)

    accepted = host.through_edge("api.localhost", "/webhooks/github", method="POST", body=odd)
    assert (accepted.status, receiver.bodies) == (202, [odd])
    try:
        too_large = host.through_edge(
            "api.localhost", "/webhooks/github", method="POST", body=b"x" * (WEBHOOK_BODY_BYTES_MAX + 1)
        ).status
    except ConnectionError:
        # The edge stopped reading, and closed: to a client that only writes, that is a reset.
        too_large = 413
    assert too_large == 413


def test_headers_without_bound_are_refused(main: Host) -> None:
    with socket.create_connection(("127.0.0.1", main.topology.ports.web(MAIN)), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX-Big: " + b"x" * (HEADER_BYTES_MAX + 8192) + b"\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 431"


def test_a_dead_surface_is_an_error_of_the_edge_and_not_a_hang(main: Host) -> None:
    main.edge()

    assert main.through_edge("preview1.localhost", "/").status == 502


def test_an_instance_that_comes_back_within_the_patience_is_waited_for(main: Host) -> None:
    main.serve(MAIN, address=f"127.0.0.1:{main.topology.ports.instance(MAIN, 'a')}")
    answers = []
    asking = threading.Thread(target=lambda: answers.append(main.web(MAIN, "/", method="POST", body=b"kept")))
    asking.start()
    time.sleep(0.2)
    main.instance(MAIN, "a", name="late")
    asking.join(15)

    assert [answer.body for answer in answers] == ["late"]
    assert main.ledger.read_text() == "kept\n"


def test_a_websocket_passes_and_outlives_a_switch(main: Host) -> None:
    main.edge()
    _, first = main.instance(MAIN, "a", name="one")
    _, second = main.instance(MAIN, "b", name="two")
    main.serve(MAIN, address=first)
    with socket.create_connection(("127.0.0.1", main.topology.ports.edge), timeout=10) as connection:
        connection.sendall(
            b"GET /ws HTTP/1.1\r\nHost: app.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        head = receive(connection, b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        connection.sendall(b"1")
        assert receive(connection, b"one:1") == b"one:1"

        main.serve(MAIN, address=second, generation=2)

        connection.sendall(b"2")
        assert receive(connection, b"one:2") == b"one:2"
    assert main.web(MAIN, "/").body == "two"


def test_an_answer_that_has_begun_ends_as_it_began(main: Host) -> None:
    first, address = main.instance(MAIN, "a", name="one")
    _, second = main.instance(MAIN, "b", name="two")
    main.serve(MAIN, address=address)
    connection = http.client.HTTPConnection("127.0.0.1", main.topology.ports.web(MAIN), timeout=10)
    connection.request("GET", "/slow")
    response = connection.getresponse()
    begun = response.read(3)

    main.serve(MAIN, address=second, generation=2)
    first.stop()

    assert begun + response.read() == b"one" * 8
    connection.close()


def test_a_surface_that_is_killed_and_started_again_serves_without_anyone(main: Host) -> None:
    _, address = main.instance(MAIN, "a", name="one")
    main.serve(MAIN, address=address)
    surface = main.surface_parts[MAIN]

    surface.kill()
    surface.start()

    assert main.web(MAIN, "/").body == "one"
    assert state(main)[0] == 200
    main.switch(Live(slot=MAIN, state="free", generation=2))
    assert main.web(MAIN, "/").headers["x-oroboros-slot"] == "free"


def test_access_logs_name_slot_and_release_and_hide_credentials(main: Host) -> None:
    main.edge()
    _, address = main.instance(MAIN, "a", name="one")
    main.serve(MAIN, address=address, generation=12)
    main.ask(
        "/page",
        port=main.topology.ports.edge,
        host="app.localhost",
        headers={"Authorization": "Bearer canary-token", "Cookie": "session=canary-cookie"},
    )

    lines = {}
    for name in ("edge", "surface-main"):
        file = main.folder / "logs" / f"{name}.access.log"
        deadline = time.monotonic() + 5
        while not (file.exists() and "/page" in file.read_text()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "canary" not in file.read_text()
        lines[name] = json.loads(file.read_text().splitlines()[-1])
    assert lines["edge"]["slot"] == "main"
    assert (lines["surface-main"]["slot"], lines["surface-main"]["release"]) == ("main", RELEASE)
    assert lines["surface-main"]["generation"] == "12"
