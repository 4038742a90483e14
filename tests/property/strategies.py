"""Which stories can happen to a host? Commits of all behaviours and recipes, pushes, pull requests, accidents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, assert_never

from hypothesis import strategies as st

from controller.model.config import Api, Build, Database, Recipe, Web
from controller.model.names import MAIN, SlotName
from tests.builders import APP, BUILT_APP, sha
from tests.world import Behaviour, Commit, FakeHost

STATIC = Recipe(web=Web(static="public"))
OLD_SCHEMA = Recipe(api=Api(command=("app",)), database=Database(migrate=("migrate",), migrations="1"))
NEW_SCHEMA = Recipe(
    build=Build(command=("make",)), api=Api(command=("app",)), database=Database(migrate=("migrate",), migrations="2")
)
RECIPES = (APP, BUILT_APP, STATIC, OLD_SCHEMA, NEW_SCHEMA)
#: Commits are 1 to 8; each has the content of one of 1 to 5, so that reverts happen.
COMMITS = 8
CONTENTS = 5
PULLS = 4


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happens; `told`: its delivery comes at once. A wait lasts `commit` ticks."""

    kind: Literal[
        "push",
        "open",
        "close",
        "wait",
        "kill",
        "reboot",
        "crash",
        "outage",
        "order",
        "expire",
        "stop",
        "start",
        "restart",
        "hold",
        "unhold",
    ]
    commit: int = 1
    pull: int = 1
    told: bool = True


@st.composite
def commit_sets(draw: st.DrawFn, *, good: bool = False) -> tuple[Commit, ...]:
    """Eight commits over five contents; equal content has equal recipe and behaviour."""
    behaviours = [Behaviour.GOOD if good else draw(st.sampled_from(Behaviour)) for _ in range(CONTENTS)]
    recipes = [draw(st.sampled_from(RECIPES)) for _ in range(CONTENTS)]
    contents = [draw(st.integers(0, CONTENTS - 1)) for _ in range(COMMITS)]
    return tuple(
        Commit(number=number, content=20 + content, behaviour=behaviours[content], recipe=recipes[content])
        for number, content in enumerate(contents, start=1)
    )


def events(*kinds: str, told: bool | None = None) -> st.SearchStrategy[Event]:
    return st.builds(
        Event,
        kind=st.sampled_from(kinds),
        commit=st.integers(1, COMMITS),
        pull=st.integers(1, PULLS),
        told=st.booleans() if told is None else st.just(told),
    )


OUTSIDE = ("push", "push", "open", "open", "close", "wait", "wait")
#: Orders by hand about whether anything runs in a slot.
STOPS = ("stop", "start", "restart")
#: Orders by hand to hold a slot.
HOLDS = ("hold", "unhold")
#: A hold with an end lasts a share of this, in seconds.
HOLD_MAX_S = 60.0 * COMMITS
EVERYTHING = (*OUTSIDE, "wait", "kill", "reboot", "crash", "outage", "order")


def stories(*kinds: str, told: bool | None = None, at_most: int = 12) -> st.SearchStrategy[list[Event]]:
    return st.lists(events(*(kinds or EVERYTHING), told=told), min_size=1, max_size=at_most)


def happen(host: FakeHost, event: Event) -> None:
    """Let one event happen, and its delivery come if it is told of."""
    match event.kind:
        case "push":
            host.push(event.commit)
            if event.told:
                host.deliver_push(event.commit)
        case "open":
            host.open_pull(event.pull, event.commit)
            if event.told:
                host.deliver_pull(event.pull)
        case "close":
            host.close_pull(event.pull)
            if event.told:
                host.deliver_pull(event.pull)
        case "wait":
            for _ in range(event.commit):
                host.tick()
                host.elapse()
        case "kill":
            host.kill(_slot(event))
        case "reboot":
            host.reboot()
        case "crash":
            host.crash()
        case "outage":
            host.outages += 1
        case "order":
            if sha(event.commit) in host.releases:
                kind = "rollback" if event.told else "deploy"
                host.order(event.commit, kind=kind, despite_hold="fire" if event.pull == 1 else "")
        case "stop" | "restart":
            host.stop(_slot(event), restart=event.kind == "restart")
        case "start":
            host.start(_slot(event))
        case "hold":
            host.hold(_slot(event), seconds=None if event.told else HOLD_MAX_S * event.commit / COMMITS)
        case "unhold":
            host.unhold(_slot(event))
        case "expire":
            host.elapse(3600.0)
        case _:
            assert_never(event.kind)


def _slot(event: Event) -> SlotName:
    """The pull request's number says which slot an accident or an order is about."""
    return MAIN if event.pull == PULLS else SlotName(f"preview-{1 + event.pull % 2}")


def play(host: FakeHost, story: list[Event]) -> None:
    for event in story:
        happen(host, event)
        host.tick()
