"""Does the truth at the forge win in the end, whatever is pushed, forced, said, approved and lost on the way?

Store, receiver, looks, comments, projection and reporter are the product's own (`real_world`). Deliveries come, come
twice, come late and in another order, or never; the forge fails now and then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from tests.conftest import violations_file
from tests.property.real_world import STRANGER, WRITER, Ground, RealWorld, check_end, prepare
from tests.world import previews_served

OWN, FORKS = (1,), (2, 3)
#: A story with real parts takes a second or two.
SHARE_OF_EXAMPLES = 20
TIMEOUT_S = 600
#: Without a search for the shortest story that fails, which would take minutes.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happens, what becomes of its deliveries, and how many ticks follow."""

    kind: str
    pull: int
    commit: int
    fate: str
    ticks: int


KINDS = (
    *("main", "main", "main", "push", "push", "push", "close", "label", "draft"),
    *("bare", "named", "named", "stop", "reader", "rollback", "redeploy", "hold", "release", "fails", "storm"),
)
stories = st.lists(
    st.builds(
        Happening,
        kind=st.sampled_from(KINDS),
        pull=st.sampled_from((*OWN, *FORKS)),
        commit=st.integers(1, 8),
        fate=st.sampled_from(("comes", "comes", "twice", "late", "lost")),
        ticks=st.integers(0, 3),
    ),
    min_size=4,
    max_size=16,
)


#: Every story begins with production and a pull request of each kind.
BEGIN = (
    Happening("main", 1, 1, "comes", 3),
    Happening("push", OWN[0], 5, "comes", 0),
    Happening("push", FORKS[0], 7, "comes", 0),
    Happening("main", 1, 2, "comes", 3),
)


#: The order to hold is read by the very tick whose plan switches.
HELD_BY_ITS_TICK = [
    Happening("main", 1, 8, "comes", 0),
    Happening("label", 3, 1, "lost", 2),
    Happening("fails", 3, 3, "comes", 1),
    Happening("reader", 1, 3, "twice", 2),
    Happening("hold", 1, 2, "twice", 1),
    Happening("push", 1, 8, "comes", 0),
    Happening("draft", 2, 5, "comes", 1),
    Happening("main", 1, 6, "comes", 3),
]


@pytest.fixture
def ground(short_dir: Path, postgres_url: str, redis_url: str) -> Iterator[Ground]:
    with prepare(short_dir, database_url=postgres_url, redis_url=redis_url, violations=violations_file()) as ground:
        yield ground


def happen(world: RealWorld, event: Happening) -> None:
    world.elapse(2.0)
    number = world.number(event.pull)
    match event.kind:
        case "main":
            world.move("main", event.commit)
        case "push":
            (world.push_own if event.pull in OWN else world.push_fork)(event.pull, event.commit)
        case "fails":
            world.forge.knobs.failures = (1 + event.commit, 502, "")
        case "storm":
            world.let_late_ones_come(seed=event.commit)
        case _ if number is not None:
            happen_to(world, event, number)
        case _:
            pass
    world.hand_over(event.fate)
    for _ in range(event.ticks):
        world.tick()
        world.elapse()


def happen_to(world: RealWorld, event: Happening, number: int) -> None:
    pull = world.forge.records.read_pull(number)
    match event.kind:
        case "close":
            world.people.patch(f"/api/v3/repos/acme/shop/pulls/{number}", json={"state": "closed"})
        case "label":
            world.knob("pull", number=number, labels=[] if pull.labels else ["No-Preview"])
        case "draft":
            world.knob("pull", number=number, draft=not pull.is_draft)
        case "bare":
            # Of a fork it approves nothing, whatever its author looked at.
            world.say(number, "/preview", author=WRITER)
        case "named":
            named = world.sha(event.commit) if event.commit > 4 else world.head_of(number)
            world.say(number, f"/preview {named[:9]}", author=WRITER, means=named)
        case "reader":
            text = ("/preview", f"/preview {world.head_of(number)[:9]}", "/rollback", "/hold no")[event.commit % 4]
            world.say(number, text, author=STRANGER)
        case "stop":
            world.say(number, "/preview stop", author=WRITER)
        case "hold":
            world.say(number, "/hold wait", author=WRITER)
        case _:
            world.say(number, f"/{event.kind}", author=WRITER)


def play(world: RealWorld, story: list[Happening]) -> None:
    """Play a story to its end, at which nobody holds production, and let all be found."""
    world.knob("permission", user=WRITER, permission="write")
    for event in (*BEGIN, *story):
        happen(world, event)
    world.let_late_ones_come(seed=len(story))
    world.settle_all()
    if world.store.load_holds():
        world.push_fork(FORKS[0], 8)
        number = world.number(FORKS[0])
        assert number is not None
        world.say(number, "/release", author=WRITER)
        world.hand_over("lost")
        world.settle_all()


@pytest.mark.timeout(TIMEOUT_S)
@settings(
    max_examples=max(5, settings.default.max_examples // SHARE_OF_EXAMPLES),
    phases=PHASES,
    suppress_health_check=list(HealthCheck),
)
@example(story=HELD_BY_ITS_TICK)
@given(story=stories)
def test_whatever_happens_and_is_lost_the_truth_at_the_forge_wins_and_statuses_are_the_stores(
    ground: Ground, story: list[Happening]
) -> None:
    world = RealWorld(ground)
    try:
        play(world, story)
        check_end(world)
        assert world.tick() == ()
        check_approval(world)
        check_end(world)
    finally:
        world.close()


def check_approval(world: RealWorld) -> None:
    """Whoever may write gets the present head of a fork previewed, and a push ends that."""
    world.push_fork(FORKS[0], 7)
    number = world.number(FORKS[0])
    assert number is not None
    world.knob("pull", number=number, labels=[], draft=False)
    world.say(number, f"/preview {world.sha(7)[:9]}", author=WRITER, means=world.sha(7))
    world.hand_over("lost")
    world.settle_all()
    assert previews_served(world).get(number) == world.ground.commits[7].made.tree
    world.push_fork(FORKS[0], 6)
    world.hand_over("lost")
    world.settle_all()
    assert number not in previews_served(world)
