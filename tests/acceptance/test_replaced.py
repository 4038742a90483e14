"""What is taken from a stranger who got the old name of our repository, or from one that was made anew? Nothing."""

from __future__ import annotations

import json
import time

from tests.acceptance.conftest import World


def test_of_a_repository_with_another_id_nothing_is_fetched_however_well_its_commits_follow(world: World) -> None:
    first = world.release("ok", "Ours")
    world.author.push()
    world.await_serving(first)
    # As if the name had led to another repository before.
    ((ours,),) = world.rows("SELECT forge_id FROM repositories")
    world.rows("UPDATE repositories SET forge_id = 4242 RETURNING 1")
    world.kill("worker")
    world.author.wait(
        lambda: world.rows("SELECT replaced_by FROM repositories") == [(ours,)],
        lambda: "another repository is to be found under the name",
    )
    theirs = world.release("ok", "Theirs")
    world.author.push()
    time.sleep(1.5)
    assert world.serves() == first
    assert world.rows("SELECT 1 FROM runs WHERE sha = %s", theirs) == []
    assert json.loads(world.command("status", "--json").stdout)["replaced_by"] == ours
    assert "RepositoryReplaced" in world.command("status").stdout
    assert "RepositoryReplaced" in world.command("doctor").stdout

    world.rows("UPDATE repositories SET forge_id = %s RETURNING 1", ours)
    world.await_serving(theirs)
