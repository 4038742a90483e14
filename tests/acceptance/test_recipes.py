"""Recipes beyond a command on a port, and a database that dies under the worker's hands."""

from __future__ import annotations

import time

from tests.acceptance.conftest import World

BUILD = """
[build]
command = ["sh", "-c", "mkdir -p public && cp page.txt public/built.txt"]

[web]
static = "public"

[gate]
window_s = 1

[production]
drain_s = 0.2
"""
SOCKET_APP = """
import os, socketserver
from http.server import BaseHTTPRequestHandler

class App(BaseHTTPRequestHandler):
    def do_GET(self):
        body = os.environ["OROBOROS_RELEASE"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def address_string(self):
        return "socket"
    def log_message(self, *args):
        pass

class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    pass

path = os.environ["OROBOROS_SOCKET"]
if os.path.exists(path):
    os.unlink(path)
Server(path, App).serve_forever()
"""
SOCKET = """
[api]
command = "python3 -u socket_app.py"
listen = "socket"

[gate]
window_s = 1
start_timeout_s = 20

[production]
drain_s = 0.2
"""


def built(world: World) -> bytes:
    status, body = world.author.get("main", "/built.txt")
    return body if status == 200 else b""


def test_a_build_serves_what_it_made_and_a_revert_serves_it_again_without_building(world: World) -> None:
    clone = world.author.clone
    (clone / "deploy.toml").write_text(BUILD)
    for text in ("first\n", "second\n"):
        (clone / "page.txt").write_text(text)
        sha = world.author.commit(f"Build {text.strip()}")
        world.author.push()
        world.author.wait(lambda text=text: built(world) == text.encode(), lambda: f"{built(world)!r} is served")
        world.author.await_status(sha, "success", says="live since")
    assert not (world.root / "releases" / sha / "public").exists()
    world.author.git("revert", "--no-edit", "HEAD")
    reverted = world.author.git("rev-parse", "HEAD")
    world.author.push()

    world.author.wait(lambda: built(world) == b"first\n", lambda: f"{built(world)!r} is served")
    assert world.rows("SELECT 1 FROM runs WHERE sha = %s AND state = 'building'", reverted) == []
    done = world.command("verify")
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_a_build_took_from_pointers_of_git_lfs_never_goes_live(world: World) -> None:
    clone = world.author.clone
    (clone / "deploy.toml").write_text(BUILD)
    (clone / "page.txt").write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 3000\n")
    sha = world.author.commit("Build a pointer")
    world.author.push()
    world.author.await_status(sha, "failure", says="LfsPointers: Git LFS has not put its files in: public/built.txt")
    (clone / "deploy.toml").write_text(BUILD + '[limits]\nlfs_pointers = "allow"\n')
    sha = world.author.commit("Let pointers be")
    world.author.push()

    world.author.await_status(sha, "success", says="live since")
    assert built(world).startswith(b"version https://git-lfs")


def test_a_changed_value_reaches_what_a_build_made(world: World) -> None:
    values = world.root / "etc" / "app-main.env"
    command = 'command = ["sh", "-c", "mkdir public; echo $WORD >public/built.txt"]'
    values.write_text("WORD=one\n")
    (world.author.clone / "deploy.toml").write_text(BUILD.replace(BUILD.splitlines()[2], command))
    sha = world.author.commit("Build a value")
    world.author.push()
    world.author.await_status(sha, "success", says="live since")
    assert built(world) == b"one\n"

    for text in ("WORD=two\n", "WORD=three\n"):
        values.write_text(text)
        word = text.removeprefix("WORD=").encode()
        world.author.wait(lambda word=word: built(world) == word, lambda: f"{built(world)!r} is served")


def test_a_commit_that_failed_for_want_of_a_value_is_tried_again_once_it_is_there(world: World) -> None:
    command = 'command = ["sh", "-c", "test -n \\"$KEY\\" && mkdir public && echo $KEY >public/built.txt"]'
    (world.author.clone / "deploy.toml").write_text(BUILD.replace(BUILD.splitlines()[2], command))
    sha = world.author.commit("Build with a key")
    world.author.push()
    world.author.await_status(sha, "failure", says="BuildFailed")

    (world.root / "etc" / "app-main.env").write_text("KEY=here\n")

    world.author.await_status(sha, "success", says="live since")
    assert built(world) == b"here\n"


def test_a_build_that_fails_is_told_with_its_last_line_and_changes_nothing(world: World) -> None:
    before = built(world)
    (world.author.clone / "deploy.toml").write_text(
        BUILD.replace("mkdir -p public && cp page.txt public/built.txt", "echo no compiler; exit 9")
    )
    sha = world.author.commit("Cannot be built")
    world.author.push()

    said = world.author.await_status(sha, "failure")
    assert "BuildFailed" in said
    assert "no compiler" in said
    assert built(world) == before


def test_an_app_on_a_socket_serves_and_gives_way_to_the_next(world: World) -> None:
    (world.author.clone / "deploy.toml").write_text(SOCKET)
    (world.author.clone / "socket_app.py").write_text(SOCKET_APP)
    for title in ("On a socket", "On the other socket"):
        (world.author.clone / "page.txt").write_text(title)
        sha = world.author.commit(title)
        world.author.push()
        world.await_serving(sha)
        world.author.await_status(sha, "success", says="live since")


def test_a_database_that_dies_during_pushes_delays_them_and_nothing_else(world: World) -> None:
    """The worker lives on: its threads lose their database in the middle, and the loop must not stay behind."""
    serving = world.release("ok", f"Before the database dies {time.monotonic_ns()}")
    world.author.push()
    world.await_serving(serving)
    worker = world.pids()["worker"]
    for k in range(3):
        sha = world.release("ok", f"Push {k} {time.monotonic_ns()}")
        world.author.push()
        time.sleep(0.12 * k)
        world.kill("postgres")
        world.await_serving(sha)

    world.author.await_status(sha, "success", says="live since")
    assert world.pids()["worker"] == worker
