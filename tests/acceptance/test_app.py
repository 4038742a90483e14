"""Does a whole stack work as a GitHub App: fetch, report, hear, and go on when the repository is renamed?"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import httpx

from controller.development.author import Author
from controller.effects.stack_files import read_stack
from tests.acceptance.conftest import CHECKOUT, World, bring_down, bring_up, logs_of, remove_stack
from tests.forge.our_app import confirm


def knob(world: World, name: str, **content: object) -> None:
    token = (world.root / "etc" / "forge-token").read_text().strip()
    answer = httpx.post(
        f"{world.stack['forge']}/_development/{name}",
        json=content,
        headers={"Authorization": f"Bearer {token}"},
        trust_env=False,
    )
    assert answer.status_code in (200, 201), answer.text


def answers_commands(world: World) -> None:
    """The App hears of a comment, asks who may, and reacts in its own name."""
    world.author.git("checkout", "-q", "-b", "topic")
    sha = world.release("ok", "Topic")
    world.author.push("topic")
    number = world.author.open_pull("topic", "Topic")
    world.await_serving(sha, "preview-1")
    knob(world, "comment", pull=number, author="developer", body="/preview stop")

    def reactions() -> list[tuple[str, str]]:
        said = world.author.forge.get("/issues/comments").json()
        asked = next(one["id"] for one in said if one["body"] == "/preview stop")
        answer = world.author.forge.get(f"/issues/comments/{asked}/reactions")
        return [(one["content"], one["user"]["type"]) for one in answer.json()]

    world.author.wait(lambda: reactions() == [("+1", "Bot")], lambda: f"the App is to react: {reactions()}")
    world.author.wait(lambda: world.author.get("preview-1", "/")[0] == 503, lambda: "the preview is to end")
    world.author.git("checkout", "-q", "main")


def tries_again_at_a_rerun(world: World) -> None:
    """The App hears of a click on Re-run at its check, asks who may, and tries the very commit again."""
    world.author.git("checkout", "-q", "-B", "broken", "main")
    sha = world.release("500", "Broken")
    world.author.push("broken")
    number = world.author.open_pull("broken", "Broken")
    world.author.await_status(sha, "failure", slot="preview-1")

    def checks() -> list[int]:
        found = world.author.forge.get(f"/commits/{sha}/check-runs?filter=all").json()["check_runs"]
        return sorted(int(one["id"]) for one in found if one["conclusion"] == "failure")

    world.author.wait(lambda: len(checks()) == 1, lambda: f"one check is to have failed: {checks()}")
    (first,) = checks()
    knob(world, "rerun", check=first, user="stranger")
    refused = "SELECT 1 FROM audit WHERE action = 'check.rerun' AND actor = 'stranger' AND detail->>'state' = 'refused'"
    world.author.wait(lambda: world.rows(refused) != [], lambda: "a stranger's click is to be refused")
    assert len(world.rows("SELECT 1 FROM runs WHERE sha = %s", sha)) == 1
    knob(world, "rerun", check=first, user="developer")
    world.author.wait(lambda: len(checks()) == 2, lambda: f"it is to be tried again: {checks()}")
    assert len(world.rows("SELECT 1 FROM runs WHERE sha = %s", sha)) == 2
    world.author.close_pull(number)
    world.author.git("checkout", "-q", "main")


def set_up(world: World, *, api_port: int) -> dict[str, str]:
    """Create the App at the stack's forge, in a shell and a browser; return the values for api and worker."""
    hook = f"http://127.0.0.1:{api_port}/webhooks/github"
    words = ["github", "setup", "--json", "--webhook-url", hook, "--forge-url", str(world.stack["forge"])]
    with subprocess.Popen(
        [sys.executable, "-m", "controller.doors.cli", *words, "--folder", str(world.root / "etc")],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/", process.stderr.readline())
        assert found
        threading.Thread(target=confirm, args=(found[0],)).start()
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    values = json.loads(output)["environment"]
    return {name: value for name, value in values.items() if "GITHUB_APP" in name}


def open_as(root: Path, process: subprocess.Popen[bytes]) -> World:
    stack = read_stack(root)
    author = Author(stack, token_file=root / "etc" / "forge-token", while_waiting=lambda: None)
    return World(root=root, stack=stack, author=author, process=process)


def test_a_stack_works_as_a_github_app(free_port_offset: int) -> None:
    """The setup is of the running stack; the App is who it is from its next start on."""
    root = Path(tempfile.mkdtemp(prefix="oro-acc-"))
    process = bring_up(root, port_offset=free_port_offset)
    try:
        world = open_as(root, process)
        values = set_up(world, api_port=8000 + free_port_offset)
        knob(world, "install")
        world.author.close()
        bring_down(process)
        process = bring_up(root, port_offset=free_port_offset, environment={**os.environ, **values})
        world = open_as(root, process)

        sha = world.release("ok", "First")
        world.author.push()
        world.await_serving(sha)
        told = world.rows("SELECT count(*) FROM deliveries WHERE sha = %s AND state <> 'ignored'", sha)
        assert told == [(1,)]
        world.author.wait(
            lambda: (
                world.rows("SELECT 1 FROM reports WHERE sent_generation = generation AND key LIKE %s", f"%{sha}%") != []
            ),
            lambda: "a status at the forge",
        )
        answers_commands(world)
        tries_again_at_a_rerun(world)
        checked = world.command("github", "check", "--json")
        assert checked.returncode == 0, checked.stdout

        knob(world, "rename", repository="acme/store")
        second = world.release("ok", "Second")
        world.author.git("push", "-q", f"{world.stack['forge']}/acme/store.git", "HEAD:refs/heads/main")
        world.await_serving(second)
        view = json.loads(world.command("status", "--json").stdout)
        assert view["renamed_to"] == "acme/store"
        told = world.rows("SELECT count(*) FROM deliveries WHERE sha = %s AND state <> 'ignored'", second)
        assert told == [(1,)]
        for name, text in logs_of(root).items():
            assert "ghs_" not in text, name
        world.author.close()
    finally:
        bring_down(process)
        remove_stack(root)
