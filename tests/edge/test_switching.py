"""Does a switch under load lose, double or mix anything?"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from controller.model.names import COLOURS, MAIN, Colour
from controller.model.nouns import Live

from .host import Host
from .load import Load

SWITCHES = 60
#: A hundredth of the default drain. Not nothing: what was sent to the old instance just before the switch and waits in
#: its backlog is reset by the kernel when it goes, and nobody may send a POST twice.
DRAIN_S = 0.05


@pytest.fixture
def main(host: Host) -> Host:
    host.switch(Live(slot=MAIN, state="free", generation=0))
    host.surface(MAIN)
    host.edge()
    return host


def through_both(host: Host) -> tuple[tuple[str, int], ...]:
    return (("app.localhost", host.topology.ports.edge), ("localhost", host.topology.ports.web(MAIN)))


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_switches_under_load_fail_nothing_and_apply_each_post_once(main: Host, unix: bool) -> None:
    serving, address = main.instance(MAIN, "a", name="0", unix=unix)
    main.serve(MAIN, address=address, generation=0)
    with Load(targets=through_both(main)) as load:
        for generation in range(1, SWITCHES + 1):
            colour: Colour = COLOURS[generation % 2]
            following, address = main.instance(MAIN, colour, name=str(generation), unix=unix)
            main.serve(MAIN, address=address, generation=generation)
            time.sleep(DRAIN_S)
            serving.stop()
            serving = following
        time.sleep(0.2)

    assert load.failures == []
    assert load.requests > 10 * SWITCHES
    assert load.bodies == {str(generation) for generation in range(SWITCHES + 1)}
    assert Counter(main.ledger.read_text().split()) == Counter(load.posted)


def _release(host: Host, name: str) -> Path:
    # Bodies as long as a page, so that a mixture would show; the same length, so that nothing else tells them apart.
    return host.files(name, index_html=name * 5000)


def test_files_of_two_releases_are_never_mixed(main: Host) -> None:
    roots = [_release(main, name) for name in ("A", "B")]
    main.serve(MAIN, static_root=roots[0])

    def judge(body: str) -> str | None:
        return None if body in ("A" * 5000, "B" * 5000) else f"torn: {Counter(body)}"

    with Load(targets=through_both(main), judge=judge, posts=False) as load:
        for generation in range(1, 2 * SWITCHES + 1):
            root = roots[generation % 2]
            main.serve(MAIN, static_root=root, previous=roots[1 - generation % 2], generation=generation)
            time.sleep(0.005)

    assert load.failures == []
    assert load.requests > SWITCHES
    assert len(load.bodies) == 2


def test_an_entity_tag_never_stands_for_the_body_of_another_release(main: Host) -> None:
    roots = [_release(main, name) for name in ("A", "B")]
    main.serve(MAIN, static_root=roots[0])
    bodies_by_tag: dict[str, set[str]] = {}
    for generation in range(1, 41):
        main.serve(MAIN, static_root=roots[generation % 2], generation=generation)
        answer = main.web(MAIN, "/")
        bodies_by_tag.setdefault(answer.headers["etag"], set()).add(answer.body[:1])

    assert sorted(bodies_by_tag.values(), key=sorted) == [{"A"}, {"B"}]


def test_a_request_in_the_middle_of_a_change_of_shape_gets_an_answer_of_the_one_or_the_other(main: Host) -> None:
    _, all_of_it = main.instance(MAIN, "a", name="all")
    _, beside = main.instance(MAIN, "b", name="never asked for a page")
    only, home = main.files("only", index_html="only"), main.files("home", index_html="home")
    main.serve(MAIN, address=all_of_it)
    with Load(targets=through_both(main), posts=False) as load:
        for generation in range(1, SWITCHES + 1):
            match generation % 3:
                case 0:
                    main.serve(MAIN, address=all_of_it, generation=generation)
                case 1:
                    main.serve(MAIN, static_root=only, generation=generation)
                case _:
                    main.serve(MAIN, address=beside, static_root=home, api_prefix="/api/", generation=generation)
            time.sleep(0.01)

    assert load.failures == []
    assert load.bodies == {"all", "only", "home"}
