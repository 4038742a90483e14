"""What must hold beside the three flows: forks, slow neighbours, schemas, and a host that somebody else touches."""

from __future__ import annotations

import os
import time

from tests.acceptance.conftest import World

DATABASE_RECIPE = """
[api]
command = "python3 -u app.py"

[database]
migrate = "true"

[gate]
window_s = 1
start_timeout_s = 20

[production]
drain_s = 0.2
"""


def live(world: World, title: str) -> str:
    sha = world.release("ok", f"{title} {time.monotonic_ns()}")
    world.author.push()
    world.await_serving(sha)
    world.author.await_status(sha, "success", says="live since")
    return sha


def test_a_fork_runs_nothing_and_says_what_it_needs(world: World) -> None:
    live(world, "Before the fork")
    world.author.git("checkout", "-q", "-B", "from-a-fork", "main")
    sha = world.release("ok", "A stranger's code")
    world.author.push("from-a-fork")
    world.author.git("checkout", "-q", "main")
    answer = world.author.forge_development.post(
        "/_development/fork_pull", json={"title": "From a fork", "head_sha_branch": "from-a-fork"}
    )
    assert answer.status_code < 300, answer.text

    said = world.author.await_status(sha, "pending", slot="preview-1", says="approval")
    assert "fork" in said
    time.sleep(1.0)
    assert world.rows("SELECT 1 FROM runs WHERE sha = %s", sha) == []
    assert world.rows("SELECT 1 FROM leases") == []
    assert not (world.root / "releases" / sha).exists()


def test_a_slow_preview_does_not_delay_production(world: World) -> None:
    live(world, "Before the slow one")
    world.author.git("checkout", "-q", "-B", "slow", "main")
    behaviour, go = world.waiting()
    slow = world.release(behaviour, "Slow to start")
    world.author.push("slow")
    world.author.git("checkout", "-q", "main")
    number = world.author.open_pull("slow", "Slow")
    world.author.await_status(slow, "pending", slot="preview-1")
    sha = world.release("ok", "Quick")
    world.author.push()
    world.await_serving(sha)
    assert world.author.status(slow, "preview-1")[0] == "pending"
    go.touch()
    world.await_serving(slow, "preview-1")

    world.author.close_pull(number)


def test_current_that_was_moved_by_hand_is_put_back(world: World) -> None:
    sha = live(world, "To be moved")
    current = str(world.stack["current"])
    other = next(name for name in os.listdir(str(world.stack["releases"])) if len(name) == 40 and name != sha)
    os.unlink(current)
    os.symlink(os.path.join(str(world.stack["releases"]), other), current)

    world.author.wait(lambda: os.readlink(current).endswith(sha), lambda: "current is to name what serves again")
    assert world.serves() == sha


def test_going_back_across_a_migration_is_refused_with_the_reason(world: World) -> None:
    def commit(title: str, migration: str) -> str:
        sha = world.release("ok", title)
        (world.author.clone / "deploy.toml").write_text(DATABASE_RECIPE)
        folder = world.author.clone / "migrations"
        folder.mkdir(exist_ok=True)
        (folder / migration).write_text("SELECT 1;\n")
        sha = world.author.commit(f"{title}, migrated")
        world.author.push()
        world.await_serving(sha)
        world.author.await_status(sha, "success", says="live since")
        return sha

    commit(f"Schema one {time.monotonic_ns()}", "0001.sql")
    second = commit(f"Schema two {time.monotonic_ns()}", "0002.sql")
    world.author.git("revert", "--no-edit", "HEAD", "HEAD~1")
    reverted = world.author.git("rev-parse", "HEAD")
    world.author.push()

    said = world.author.await_status(reverted, "failure")
    assert "MigrationsDiffer" in said
    assert world.serves() == second
    # Clean up: forward again.
    world.author.git("revert", "--no-edit", "HEAD", "HEAD~1")
    world.author.push()


def test_a_commit_without_a_deploy_toml_is_told_what_to_do(world: World) -> None:
    serving = world.serves()
    world.author.git("rm", "-q", "--ignore-unmatch", "deploy.toml")
    sha = world.author.commit("No recipe")
    world.author.push()

    said = world.author.await_status(sha, "failure")
    assert "deploy.toml" in said
    assert world.serves() == serving


def test_a_wrong_deploy_toml_names_its_keys(world: World) -> None:
    world.release("ok", "Wrong recipe")
    (world.author.clone / "deploy.toml").write_text('[api]\ncommand = "true"\nlisten = "somewhere"\n')
    sha = world.author.commit("Wrong recipe, indeed")
    world.author.push()

    said = world.author.await_status(sha, "failure", "error")
    assert "listen" in said
