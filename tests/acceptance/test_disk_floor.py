"""What becomes of previews when the disk is nearly full: here it always is, by a policy that wants a petabyte free."""

from __future__ import annotations

import json
import time

from tests.acceptance.conftest import World

PETABYTE = 1 << 50


def live(world: World, title: str, *, policy: str = "") -> str:
    sha = world.release("ok", f"{title} {time.monotonic_ns()}")
    if policy:
        recipe = world.author.clone / "deploy.toml"
        recipe.write_text(recipe.read_text() + policy)
        sha = world.author.commit(f"{title}, another policy")
    world.author.push()
    world.await_serving(sha)
    return sha


def preview_says(world: World) -> str:
    slots = json.loads(world.command("slots", "--json").stdout)["slots"]
    return str(next(slot for slot in slots if slot["slot"] == "preview-1")["stopped"])


def test_previews_are_stopped_and_told_why_and_production_goes_on(world: World) -> None:
    live(world, "Room")
    world.author.git("checkout", "-q", "-B", "greedy", "main")
    preview = world.release("ok", f"Greedy {time.monotonic_ns()}")
    world.author.push("greedy")
    world.author.git("checkout", "-q", "main")
    number = world.author.open_pull("greedy", "Greedy")
    world.await_serving(preview, "preview-1")

    full = live(world, "No room", policy=f"[previews]\ndisk_free_bytes_min = {PETABYTE}\n")
    world.author.wait(lambda: "stopped by the worker: DiskLow" in preview_says(world), lambda: preview_says(world))
    world.author.wait(lambda: world.serves("preview-1") == "", lambda: "the preview is to be stopped")
    assert world.serves() == full

    live(world, "Room again")
    assert world.command("backend", "start", "preview-1").returncode == 0
    world.await_serving(preview, "preview-1")
    world.author.close_pull(number)
