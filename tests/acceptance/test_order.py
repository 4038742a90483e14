"""What a delivery may and may not do: it is a hint, in any order and from whomever, and `init` is a beginning."""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
import time
import uuid
from pathlib import Path

import httpx

from tests.acceptance.conftest import World


def hint(world: World, sha: str, *, before: str = "0" * 40) -> int:
    """Deliver a signed push of production that names `sha`; return the answer's status."""
    value = {"ref": "refs/heads/main", "before": before, "after": sha, "n": uuid.uuid4().hex}
    body = json.dumps({**value, "repository": {"full_name": world.author.repository}}).encode()
    secret = Path(str(world.stack["webhook_secret_file"])).read_text().strip().encode()
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": str(uuid.uuid4()),
        "X-Hub-Signature-256": "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest(),
    }
    return httpx.post(str(world.stack["receiver"]), content=body, headers=headers, trust_env=False).status_code


def test_t_g9_a_child_told_before_its_parent_goes_live_and_the_parent_is_superseded(world: World) -> None:
    first = world.release("ok", "Before both")
    world.author.push()
    world.await_serving(first)
    answer = world.author.forge_development.post("/_development/drop", json={"count": 2})
    assert answer.status_code < 300
    parent = world.release("ok", "The parent")
    world.author.push()
    child = world.release("ok", "The child")
    world.author.push()

    assert hint(world, child, before=parent) == 202
    world.await_serving(child)
    assert hint(world, parent, before=first) == 202
    world.author.await_status(parent, "error", says="superseded")
    assert world.serves() == child


def test_a_signed_delivery_that_names_a_strangers_commit_moves_nothing(world: World) -> None:
    serving = world.serves() or world.release("ok", "Something to serve")
    world.author.push()
    world.await_serving(serving)
    world.author.git("checkout", "-q", "-B", "impostor", "main")
    impostor = world.release("ok", "Not on the production branch")
    world.author.push("impostor")
    world.author.git("checkout", "-q", "main")

    assert hint(world, impostor) == 202
    world.author.wait(
        lambda: world.rows("SELECT 1 FROM deliveries WHERE state = 'pending'") == [],
        lambda: "the delivery is to have an end",
    )
    time.sleep(0.5)
    assert world.serves() == serving
    assert world.rows("SELECT 1 FROM runs WHERE sha = %s", impostor) == []
    assert not (world.root / "releases" / impostor).exists()


def test_init_writes_a_recipe_that_deploys_the_folder_as_it_is(world: World) -> None:
    for entry in world.author.clone.iterdir():
        if entry.name == ".git":
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    (world.author.clone / "index.html").write_text("<h1>Only a page</h1>\n")
    (world.author.clone / "style.css").write_text("h1 { color: teal }\n")
    done = world.command("init", str(world.author.clone))
    assert done.returncode == 0, done.stdout + done.stderr
    sha = world.author.commit("A folder, and what init made of it")
    world.author.push()

    world.author.wait(
        lambda: b"Only a page" in world.author.get("main", "/")[1],
        lambda: f"the page is to be served: {world.author.get('main', '/')} {world.author.status(sha)}",
    )
    assert world.author.get("main", "/style.css") == (200, b"h1 { color: teal }\n")
    said = world.author.await_status(sha, "success", says="live since")
    assert "static" in said or "live" in said
    assert world.author.get("main", "/missing")[0] == 404
