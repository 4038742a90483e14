"""Production only from signed commits: what is not signed is refused, and does not switch the policy off.

That what is signed goes live is shown with real keys in tests/host/case_signed.py."""

from __future__ import annotations

import json

from tests.acceptance.conftest import World


def commit(world: World, title: str, signed: str) -> str:
    world.release("ok", title)
    recipe = world.author.clone / "deploy.toml"
    recipe.write_text(recipe.read_text() + f'signed = "{signed}"\n')
    sha = world.author.commit(f"{title}, {signed}")
    world.author.push()
    return sha


def test_an_unsigned_commit_is_refused_by_the_policy_before_it_and_cannot_switch_it_off(world: World) -> None:
    # The first commit of all is judged by its own policy; one that asks for signatures, by the policy before it.
    first = commit(world, "Before", "off")
    world.await_serving(first)
    asks = commit(world, "Signatures from now on", "required")
    world.await_serving(asks)
    world.author.await_status(asks, "success", says="live since")
    unsigned = commit(world, "Nobody signed this", "required")
    said = world.author.await_status(unsigned, "failure", says="CommitUnsigned")
    assert "not signed" in said
    sly = commit(world, "Off again", "off")
    world.author.await_status(sly, "failure", says="CommitUnsigned")
    assert world.serves() == asks
    assert world.rows("SELECT 1 FROM runs WHERE sha IN (%s, %s)", unsigned, sly) == []

    refused = world.command("deploy", sly, "--json")
    told = json.loads(refused.stdout)
    assert (refused.returncode, told["error"]) == (3, "CommitUnsigned")
    assert world.serves() == asks
    status = json.loads(world.command("status", "--json").stdout)
    assert (status["refused_head"]["sha"], status["refused_head"]["reason"]) == (sly, "CommitUnsigned")
    doctor = json.loads(world.command("doctor", "--json").stdout)
    found = [one for one in doctor["checks"] if one["name"] == "signatures"]
    assert [one["outcome"] for one in found] == ["failed"]
