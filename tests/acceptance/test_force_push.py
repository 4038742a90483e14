"""Production moves by git's ancestry: a branch that is moved by force is held, or followed, and told; what no webhook
told of is found, and told too."""

from __future__ import annotations

import json

from tests.acceptance.conftest import World


def serving(world: World, title: str, *, policy: str = "") -> str:
    world.release("ok", title)
    recipe = world.author.clone / "deploy.toml"
    recipe.write_text(recipe.read_text() + policy)
    sha = world.author.commit(f"{title}, with its policy") if policy else world.author.git("rev-parse", "HEAD").strip()
    world.author.push()
    world.await_serving(sha)
    world.author.await_status(sha, "success", says="live since")
    return sha


def force(world: World, sha: str) -> None:
    world.author.git("reset", "-q", "--hard", sha)
    world.author.git("push", "-q", "--force", "origin", "main")


def status(world: World) -> dict[str, object]:
    found = json.loads(world.command("status", "--json").stdout)
    assert isinstance(found, dict)
    return found


def test_a_branch_moved_back_by_force_is_held_told_and_let_go_by_what_descends_or_by_hand(world: World) -> None:
    first = serving(world, "First")
    second = serving(world, "Second")
    force(world, first)
    said = world.author.await_status(first, "error", says="ForcePushed")
    assert "moved back by force" in said
    assert world.serves() == second

    told = status(world)
    refused, moved = told["refused_head"], told["force_pushes"]
    assert isinstance(refused, dict)
    assert (refused["sha"], refused["reason"]) == (first, "ForcePushed")
    assert isinstance(moved, list)
    assert [(one["old"], one["new"], one["kind"], one["outcome"]) for one in moved] == [(second, first, "back", "held")]
    day = str(world.root / "day")
    summary = json.loads(world.command("maintenance", "daily-summary", "--output-dir", day, "--json").stdout)
    assert any("does not go live: ForcePushed" in sentence for sentence in summary["needs_attention"])
    assert any("moved back by force" in sentence for sentence in summary["needs_attention"])
    assert "ForcePushed" in " ".join(world.command("plan").stdout.split())

    world.author.git("reset", "-q", "--hard", second)
    third = serving(world, "Third, on what served")
    assert status(world)["refused_head"] is None

    force(world, first)
    other = world.release("ok", "Another history")
    world.author.push()
    world.author.await_status(other, "error", says="to another history by force")
    assert world.serves() == third
    done = world.command("deploy", other)
    assert done.returncode == 0, done.stdout + done.stderr
    world.author.await_status(other, "success", says="live")
    after = serving(world, "On the other history")
    assert world.rows("SELECT 1 FROM audit WHERE action = 'head.refused' AND subject = %s", other) == [(1,)]
    assert after != other


def test_a_policy_that_follows_goes_back_with_the_branch_and_tells_of_it(world: World) -> None:
    first = serving(world, "To go back to", policy='force_push = "follow"\n')
    serving(world, "To be dropped", policy='force_push = "follow"\n')
    force(world, first)
    world.await_serving(first)
    moved = status(world)["force_pushes"]
    assert isinstance(moved, list)
    assert (moved[0]["new"], moved[0]["outcome"]) == (first, "followed")


def test_the_policy_of_a_commit_that_came_by_force_does_not_let_it_in(world: World) -> None:
    first = serving(world, "Before")
    second = serving(world, "It holds")
    world.author.git("reset", "-q", "--hard", first)
    world.release("ok", "Says that it may come")
    recipe = world.author.clone / "deploy.toml"
    recipe.write_text(recipe.read_text() + 'force_push = "follow"\n')
    sly = world.author.commit("Follow me")
    world.author.git("push", "-q", "--force", "origin", "main")
    world.author.await_status(sly, "error", says="ForcePushed")
    assert world.serves() == second
    world.author.git("reset", "-q", "--hard", second)
    world.author.git("push", "-q", "--force", "origin", "main")
    serving(world, "Goes on")


def test_t_g8_what_no_webhook_told_of_goes_live_all_the_same_and_raises_an_alarm(world: World) -> None:
    serving(world, "Told of")
    world.author.forge_development.post("/_development/drop", json={"count": 100}).raise_for_status()
    missed = world.release("ok", "Told by nobody")
    world.author.push()
    world.await_serving(missed)
    world.author.await_status(missed, "success", says="found by resync")
    world.author.git("checkout", "-q", "-B", "topic", "main")
    preview = world.release("ok", "A preview that nobody told of")
    world.author.push("topic")
    number = world.author.open_pull("topic", "Untold")
    world.await_serving(preview, "preview-1")
    world.author.forge_development.post("/_development/drop", json={"count": 0}).raise_for_status()

    told = status(world)["missed"]
    assert isinstance(told, list)
    assert {(one["ref"], one["sha"]) for one in told} >= {("refs/heads/main", missed), (f"pull:{number}", preview)}
    assert "no webhook came, found by resync" in " ".join(world.command("status").stdout.split())
    day = str(world.root / "day")
    summary = json.loads(world.command("maintenance", "daily-summary", "--output-dir", day, "--json").stdout)
    assert any("found by resync" in sentence for sentence in summary["needs_attention"])
