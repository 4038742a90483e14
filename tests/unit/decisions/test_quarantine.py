"""Does a commit that failed get another try once its slot's values have changed, and only then?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.decisions.quarantine import freed_by_values
from controller.model.nouns import Run
from controller.model.states import RunState
from tests.builders import observed, quarantined, run, serving

BAD = replace(run(2, 2, RunState.FAILED, reason="GateFailed"), configured="1")


@pytest.mark.parametrize(
    ("failed", "values", "is_freed"),
    [
        (BAD, "2", True),
        (BAD, "", True),
        (replace(BAD, configured=""), "2", True),
        (replace(BAD, state=RunState.ROLLED_BACK), "2", True),
        (BAD, "1", False),
        # Begun before versions were kept.
        (replace(BAD, configured=None), "2", False),
        # What was left by an order by hand is not what its run ended with.
        (replace(BAD, reason="OtherReason"), "2", False),
        (replace(BAD, state=RunState.LIVE, reason=""), "2", False),
    ],
)
def test_what_failed_with_other_values_is_freed(failed: Run, values: str, is_freed: bool) -> None:
    live = run(1, 1, RunState.LIVE)
    slot = replace(serving(live), recent_runs=(failed, live), configured=values)

    freed = freed_by_values(observed(slot, quarantined=(quarantined(2),)))

    assert [head.sha for _, head in freed] == ([BAD.head.sha] if is_freed else [])
    assert freed_by_values(observed(slot)) == ()


def test_the_newest_attempt_counts() -> None:
    again = replace(run(3, 2, RunState.FAILED, reason="GateFailed"), configured="2")
    slot = replace(serving(run(1, 1, RunState.LIVE)), recent_runs=(again, BAD), configured="2")

    assert freed_by_values(observed(slot, quarantined=(quarantined(2),))) == ()
