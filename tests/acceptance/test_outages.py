"""What becomes of a push while the API of GitHub is away, or limits us? git is asked; statuses come later."""

from __future__ import annotations

import json

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
