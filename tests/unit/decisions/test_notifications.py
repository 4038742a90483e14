"""What is told to an address of one's own, and when is it told again?"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import replace
from datetime import timedelta

import pytest

from controller.decisions.notifications import NEWS, post, project_notifications
from controller.model.names import MAIN, Topology
from controller.model.nouns import HoldOrder, Run
from controller.model.reports import WantedNotification, report_from_json, report_to_json
from controller.model.states import Cause, RunState
from controller.model.world import Observed
from tests.builders import PREVIEW_1, at, head, lease, observed, run, serving

NOW = at(1000)
R1 = run(1, 1, RunState.LIVE)
SECRET = b"a secret of twenty bytes or more"


def told(*runs: Run, running: Run | None = None, now_s: float = 1000, **fields: object) -> list[tuple[str, int]]:
    slot = replace(serving(R1), recent_runs=runs, live_run=None, run=running)
    seen = replace(observed(slot, at_head=head(1)), **fields)
    return [(one.event, one.generation) for one in project_notifications(seen, Topology(), now=at(now_s))]


@pytest.mark.parametrize(
    ("of", "event"),
    [
        (run(2, 2, RunState.LIVE), "deployed"),
        (run(2, 2, RunState.FAILED, reason="GateFailed"), "failed"),
        (run(2, 2, RunState.ROLLED_BACK), "rolled_back"),
        (run(2, 2, RunState.STALLED), "stalled"),
        (run(2, 2, RunState.LIVE, cause=Cause.ROLLBACK), "deployed"),
        (run(2, 2, RunState.FAILED, cause=Cause.REPAIR), "failed"),
    ],
)
def test_each_end_of_a_run_is_one_event(of: Run, event: str) -> None:
    assert told(of) == [(event, 2)]


def test_what_only_started_again_or_was_overtaken_is_no_news() -> None:
    assert told(run(2, 2, RunState.LIVE, cause=Cause.REPAIR), run(3, 3, RunState.SUPERSEDED)) == []


def test_a_release_is_deployed_once_its_first_probes_passed_and_may_still_be_rolled_back() -> None:
    watching = run(2, 2, RunState.WATCHING, switched_s=900, confirmed_s=905)
    assert told(running=watching) == [("deployed", 2)]
    assert told(running=replace(watching, confirmed_at=None)) == []
    back = run(2, 2, RunState.ROLLED_BACK, switched_s=900, confirmed_s=905, ended_s=920)
    assert told(back) == [("deployed", 2), ("rolled_back", 2)]


def test_a_run_that_waits_is_held_and_what_it_says_changes_with_the_hold() -> None:
    hold = HoldOrder(id=1, slot=MAIN, fence=0, until=None, actor="ann", reason="wait", at=at(0))
    waiting = run(2, 2, RunState.PLANNED)
    assert told(running=waiting) == []
    assert told(running=waiting, holds=(hold,)) == [("held", 2)]
    assert told(running=replace(waiting, cause=Cause.ROLLBACK), holds=(hold,)) == []


def test_what_is_long_past_is_no_news() -> None:
    of = run(2, 2, RunState.FAILED, ended_s=60)
    assert told(of, now_s=60 + NEWS.total_seconds()) == [("failed", 2)]
    assert told(of, now_s=61 + NEWS.total_seconds()) == []


def wanted(**fields: object) -> WantedNotification:
    seen: Observed = observed(replace(serving(run(2, 2, RunState.LIVE, slot=PREVIEW_1, fence=50)), lease=lease(1)))
    (one,) = project_notifications(seen, Topology(), now=NOW)
    return replace(one, **fields)


def test_a_preview_names_its_pull_request_and_a_look_again_says_the_same() -> None:
    assert (wanted().slot, wanted().pull_request) == ("preview-1", 1)
    assert wanted() == wanted()
    assert report_from_json("notification", json.loads(json.dumps(report_to_json(wanted())))) == wanted()


def test_the_body_is_signed_with_its_instant_and_the_id_stays_in_every_try() -> None:
    first, second = (
        post(wanted(), repository="acme/shop", host="h", secret=SECRET, now=NOW + timedelta(seconds=s)) for s in (0, 9)
    )
    assert first.headers["X-Oroboros-Delivery"] == second.headers["X-Oroboros-Delivery"]
    assert first.body != second.body
    for posted in (first, second):
        expected = "sha256=" + hmac.new(SECRET, posted.body, hashlib.sha256).hexdigest()
        assert posted.headers["X-Oroboros-Signature-256"] == expected
        assert json.loads(posted.body)["id"] == posted.headers["X-Oroboros-Delivery"]
    other = post(wanted(message="other"), repository="acme/shop", host="h", secret=SECRET, now=NOW)
    assert other.headers["X-Oroboros-Delivery"] != first.headers["X-Oroboros-Delivery"]
