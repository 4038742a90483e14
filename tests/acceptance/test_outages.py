"""What becomes of a push while the API of GitHub is away, or limits us, or another process has a port of ours?"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pygit2
import pytest
from pygit2.enums import ObjectType

from tests.acceptance.conftest import World

#: Longer than a push takes to be served; the rest of it is waited for.
AWAY_S = 30


@pytest.mark.parametrize(
    ("knob", "content", "status"),
    [("outage", {}, 503), ("limit", {"shape": "retry-after", "status": 403}, 403)],
    ids=["outage", "limit"],
)
def test_t_g12_a_push_is_deployed_while_the_api_is_away_and_its_status_comes_after(
    world: World, knob: str, content: dict[str, object], status: int
) -> None:
    """The worker starts anew meanwhile, so that it wants to list first; a preview keeps its slot."""
    before = world.release("ok", f"Before the {knob}")
    world.author.push()
    world.author.await_status(before, "success", says="live since")
    world.author.git("checkout", "-q", "-B", f"topic-{knob}", "main")
    preview = world.release("ok", f"A preview during the {knob}")
    world.author.push(f"topic-{knob}")
    number = world.author.open_pull(f"topic-{knob}", "A topic")
    world.await_serving(preview, "preview-1")
    world.author.git("checkout", "-q", "main")

    answer = world.author.forge_development.post(f"/_development/{knob}", json={**content, "seconds": AWAY_S})
    assert answer.status_code == 200
    world.kill("worker")
    sha = world.release("ok", f"During the {knob}")
    world.author.push()
    world.await_serving(sha)

    assert world.author.forge.get("/pulls").status_code == status
    assert world.serves("preview-1") == preview
    world.author.await_status(sha, "success", says="live", timeout_s=3 * AWAY_S)
    assert world.serves("preview-1") == preview
    world.author.close_pull(number)
    world.author.wait(
        lambda: world.rows("SELECT 1 FROM leases WHERE ended_at IS NULL") == [],
        lambda: "the closed pull request is to lose its slot",
    )


def test_a_fetch_that_fails_for_long_is_told_first_everywhere_and_at_the_head_until_it_works(world: World) -> None:
    before = world.release("ok", "Before a tree that leads out")
    world.author.push()
    world.author.await_status(before, "success", says="live since")
    clone = pygit2.Repository(str(world.author.clone))
    tree = clone.write(ObjectType.TREE, b"40000 ..\0" + clone[before].peel(pygit2.Tree).id.raw)
    who = b"Kim <kim@example.org> 1700000000 +0000"
    raw = b"tree %s\nparent %s\nauthor %s\ncommitter %s\n\nout\n" % (str(tree).encode(), before.encode(), who, who)
    world.author.git("push", "-q", "origin", f"{clone.write(ObjectType.COMMIT, raw)}:refs/heads/main")

    kept_back = world.author.git("ls-remote", "origin", "refs/heads/main").split()[0]
    world.author.await_status(kept_back, "error", says="ObjectsRefused: fetch fails since")
    (trouble,) = json.loads(world.command("status", "--json").stdout)["troubles"]
    assert (trouble["subject"], trouble["reason"]) == ("fetch", "ObjectsRefused")
    assert world.command("status").stdout.startswith("fetch fails since ")
    assert "ObjectsRefused" in world.command("doctor").stdout
    health = world.command("health", "--json")
    (worker,) = [one for one in json.loads(health.stdout)["services"] if one["service"] == "worker"]
    assert (health.returncode, worker["ok"], worker["said"][:18]) == (1, False, "fetch fails since ")
    world.kill("worker")
    world.author.wait(
        lambda: json.loads(world.command("status", "--json").stdout)["troubles"][0]["tries"] > trouble["tries"],
        lambda: "the next worker is to know since when",
    )
    (later,) = json.loads(world.command("status", "--json").stdout)["troubles"]
    assert later["since"] == trouble["since"]

    world.author.git("push", "-qf", "origin", f"{before}:refs/heads/main")
    world.author.wait(
        lambda: json.loads(world.command("status", "--json").stdout)["troubles"] == [], lambda: "the word is to end"
    )
    assert "fails since" not in world.command("status").stdout
    assert world.serves() == before


class _Theirs(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"theirs")


@contextlib.contextmanager
def stranger_at(world: World, part: str, port: int) -> Iterator[None]:
    """Kill a part and take its port before it is started again; answer 200 to everything there."""
    pid, listener = world.pids()[part], socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    world.kill(part)
    deadline = time.monotonic() + 10
    while True:
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen()
            break
        except OSError:
            assert time.monotonic() < deadline, f"port {port} of {part}, process {pid}, is not free"
    server = http.server.HTTPServer(("127.0.0.1", port), _Theirs, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_commit_waits_while_another_process_has_a_port_of_its_slot(world: World) -> None:
    before = world.release("ok", "Before the port is taken")
    world.author.push()
    world.author.await_status(before, "success", says="live since")
    port = urlsplit(str(world.stack["edge"])).port or 0
    web = port - 8088 + 3100
    with stranger_at(world, "surface-main", web):
        sha = world.release("ok", "While the port is taken")
        world.author.push()
        told = world.author.await_status(sha, "pending", says=f"waits: port {web} (main web) is held by ")
        assert f"(process {os.getpid()} of " in told
        assert world.rows("SELECT 1 FROM quarantine WHERE sha = %s", sha) == []
        assert f"port {web}" in world.command("status").stdout
    world.await_serving(sha)
    world.author.await_status(sha, "success", says="live since")
