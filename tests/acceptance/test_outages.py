"""What becomes of a push while the API of GitHub is away, or limits us? git is asked; statuses come later."""

from __future__ import annotations

import pytest

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
