"""Previews on a whole stack: slots, the queue, what is left behind, and strangers."""

from __future__ import annotations

import subprocess
import time

import pytest

from tests.acceptance.conftest import World


@pytest.fixture
def base(world: World) -> str:
    """Production runs, and no pull request is open."""
    sha = world.release("ok", f"Base {time.monotonic_ns()}")
    world.author.push()
    world.await_serving(sha)
    return sha


def branch_with(world: World, name: str, behaviour: str = "ok") -> str:
    world.author.git("checkout", "-q", "-B", name, "main")
    (world.author.clone / "note").write_text(f"{name} {time.monotonic_ns()}\n")
    sha = world.release(behaviour, f"Work on {name}")
    world.author.push(name)
    world.author.git("checkout", "-q", "main")
    return sha


def await_all_free(world: World) -> None:
    def free() -> bool:
        held = world.rows("SELECT 1 FROM leases WHERE ended_at IS NULL")
        unwiped = world.rows("SELECT 1 FROM slots s JOIN leases l ON l.slot = s.name WHERE l.fence > s.wiped_fence")
        return not held and not unwiped

    world.author.wait(free, lambda: f"every slot is to be free: {world.rows('SELECT * FROM leases')}")


def test_a_pull_request_gets_a_url_and_closing_it_leaves_nothing(world: World, base: str) -> None:
    sha = branch_with(world, "one")
    number = world.author.open_pull("one", "One")
    world.await_serving(sha, "preview-1")
    world.author.await_status(sha, "success", slot="preview-1")
    assert world.serves() == base

    world.author.close_pull(number)
    await_all_free(world)
    status, body = world.author.get("preview-1", "/")
    assert status == 503
    assert b"preview-1" in body or b"free" in body


def test_with_a_token_of_a_person_deployments_and_one_comment_tell_and_no_check_runs(world: World, base: str) -> None:
    sha = branch_with(world, "told")
    number = world.author.open_pull("told", "Told")
    world.await_serving(sha, "preview-1")

    def comments() -> list[str]:
        return [str(one["body"]) for one in world.author.forge.get(f"/issues/{number}/comments").json()]

    def deployments() -> list[str]:
        made = world.author.forge.get(f"/deployments?sha={sha}&environment=preview-1").json()
        told = [world.author.forge.get(f"/deployments/{one['id']}/statuses").json() for one in made]
        return [str(statuses[0]["state"]) for statuses in told if statuses]

    world.author.wait(lambda: deployments() == ["success"], lambda: f"a deployment: {deployments()}")
    world.author.wait(lambda: any("is live" in one for one in comments()), lambda: f"a comment: {comments()}")
    world.kill("worker")
    world.author.close_pull(number)
    world.author.wait(lambda: any("is closed" in one for one in comments()), lambda: f"its end: {comments()}")
    world.author.wait(lambda: deployments() == ["inactive"], lambda: f"its end: {deployments()}")
    assert len(comments()) == 1
    assert world.author.forge.get(f"/commits/{sha}/check-runs").json()["total_count"] == 0
    await_all_free(world)


def test_a_new_push_updates_the_preview_in_its_slot(world: World, base: str) -> None:
    branch_with(world, "two")
    number = world.author.open_pull("two", "Two")
    world.author.git("checkout", "-q", "two")
    (world.author.clone / "note").write_text("more\n")
    newer = world.author.commit("More of two")
    world.author.push("two")
    world.author.git("checkout", "-q", "main")

    world.await_serving(newer, "preview-1")
    world.author.close_pull(number)
    await_all_free(world)


def test_a_pull_request_that_is_closed_during_its_deploy_leaves_nothing(world: World, base: str) -> None:
    behaviour, go = world.waiting()
    sha = branch_with(world, "hasty", behaviour)
    number = world.author.open_pull("hasty", "Hasty")
    world.author.await_status(sha, "pending", slot="preview-1")
    world.author.close_pull(number)

    await_all_free(world)
    go.touch()
    time.sleep(1.0)
    assert world.author.get("preview-1", "/")[0] == 503
    assert world.rows("SELECT 1 FROM runs WHERE ended_at IS NULL AND slot <> 'main'") == []


def test_a_broken_preview_touches_nobody_else(world: World, base: str) -> None:
    sha = branch_with(world, "broken", "500")
    number = world.author.open_pull("broken", "Broken")

    world.author.await_status(sha, "failure", slot="preview-1")
    assert world.serves() == base
    world.author.close_pull(number)
    await_all_free(world)


def test_an_entry_of_the_merge_queue_is_gated_told_at_its_commit_and_never_served(world: World, base: str) -> None:
    sha = branch_with(world, "queued")
    ref = f"gh-readonly-queue/main/pr-900-{base}"
    world.author.git("push", "-q", "origin", f"{sha}:refs/heads/{ref}")

    world.author.await_status(sha, "success", slot="preview-1", says="not deployed")
    await_all_free(world)
    assert world.rows("SELECT DISTINCT domain, served FROM runs WHERE sha = %s", sha) == [("queue-900", False)]
    assert world.serves() == base

    world.author.git("push", "-q", "origin", f":refs/heads/{ref}")
    world.author.wait(
        lambda: not any("/queue/" in ref for ref in refs_of(world)), lambda: f"still there: {refs_of(world)}"
    )
    assert world.author.forge.get(f"/commits/{sha}/statuses").json()[0]["state"] == "success"


def refs_of(world: World) -> list[str]:
    command = ["git", f"--git-dir={world.root}/repo.git", "for-each-ref", "--format=%(refname)"]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()


def test_what_a_preview_failed_may_still_go_to_production(world: World, base: str) -> None:
    """Quarantine is by domain: here the same tree fails in the preview only because of its start time there."""
    sha = branch_with(world, "lazy", "exit")
    number = world.author.open_pull("lazy", "Lazy")
    world.author.await_status(sha, "failure", slot="preview-1")

    assert world.rows("SELECT domain FROM quarantine WHERE sha = %s", sha) == [(f"pr-{number}",)]
    world.author.close_pull(number)
    await_all_free(world)
