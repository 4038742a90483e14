"""What is each release to production, by the disk first and the runs second?"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from controller.decisions.standings import Judged, ProductionRun, Standing, judge_standings
from controller.model.names import Sha
from controller.model.states import Cause, RunState

ONE, TWO, THREE = (Sha(digit * 40) for digit in "123")
START = datetime(2026, 1, 1, tzinfo=UTC)


def at(minute: int) -> datetime:
    return START + timedelta(minutes=minute)


def run(
    number: int, release: Sha, state: RunState = RunState.LIVE, cause: Cause = Cause.PUSH, *, back: bool = False
) -> ProductionRun:
    served = state in (RunState.LIVE, RunState.ROLLED_BACK)
    return ProductionRun(
        run=number,
        release=release,
        state=state,
        cause=cause,
        by="ordered by ada" if back else "push",
        served=served,
        proven=state is RunState.LIVE,
        is_rollback=back,
        switched_at=at(number) if served else None,
        ended_at=at(number),
    )


def judge(
    *runs: ProductionRun, live: tuple[Sha, int] | None, there: tuple[Sha, ...] = (ONE, TWO), gone: tuple[Sha, ...] = ()
) -> dict[Sha, Judged]:
    return judge_standings({sha: at(0) for sha in there}, gone=gone, runs=runs, live=live)


def test_what_served_before_is_previous_since_the_switch_that_left_it() -> None:
    found = judge(run(1, ONE), run(2, TWO), live=(TWO, 2))
    assert found[TWO] == Judged(standing=Standing.LIVE, since=at(2), run=2, by="push")
    assert found[ONE] == Judged(standing=Standing.PREVIOUS, since=at(2), run=2, by="push")


def test_what_served_again_without_a_proof_is_previous_since_it_was_left_the_second_time() -> None:
    again = replace(run(3, ONE, RunState.SUPERSEDED, Cause.REVERT), served=True, switched_at=at(3))
    found = judge(run(1, ONE), run(2, TWO), again, run(4, THREE), live=(THREE, 4), there=(ONE, TWO, THREE))
    assert found[ONE] == Judged(standing=Standing.PREVIOUS, since=at(4), run=4, by="push")
    assert found[TWO].standing is Standing.ROLLED_BACK


def test_an_order_to_roll_back_is_named_at_what_it_left() -> None:
    found = judge(run(1, ONE), run(2, TWO), run(3, ONE, cause=Cause.OVERRIDE, back=True), live=(ONE, 3))
    assert found[TWO] == Judged(standing=Standing.ROLLED_BACK, since=at(3), run=3, by="ordered by ada")
    assert found[ONE].standing is Standing.LIVE


def test_a_window_that_failed_rolls_back_by_its_own_run() -> None:
    found = judge(run(1, ONE), run(2, TWO, RunState.ROLLED_BACK), live=(ONE, 1))
    assert found[TWO] == Judged(standing=Standing.ROLLED_BACK, since=at(2), run=2, by="push")


def test_a_failed_deploy_has_failed_until_it_serves() -> None:
    found = judge(run(1, ONE), run(2, TWO, RunState.FAILED), live=(ONE, 1))
    assert (found[TWO].standing, found[TWO].run) == (Standing.FAILED, 2)
    again = judge(run(1, ONE), run(2, TWO, RunState.FAILED), run(3, TWO), live=(TWO, 3))
    assert again[TWO].standing is Standing.LIVE


def test_the_disk_is_believed_and_not_the_runs() -> None:
    found = judge(run(1, ONE), run(2, TWO), live=(ONE, 1), there=(ONE,), gone=(TWO,))
    assert (found[ONE].standing, found[TWO].standing) == (Standing.LIVE, Standing.REMOVED)


def test_without_a_run_a_release_is_published_and_what_serves_is_live_all_the_same() -> None:
    found = judge(live=(TWO, 9), there=(ONE, TWO, THREE))
    assert found[TWO] == Judged(standing=Standing.LIVE, run=9)
    assert found[ONE] == found[THREE] == Judged(standing=Standing.PUBLISHED, since=at(0))
