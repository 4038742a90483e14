"""What is told to the address of one's own? One notification for each thing that came of a run, and how it is signed.

A notification is a report like the others: projected from what was observed, kept in the outbox, sent by a thread. What
it says never changes once it was said, so a repeated look gives the same one; its id follows from what it says, so a
repeated sending can be recognised. What is older than `NEWS` is none: a host that begins to notify does not tell its
whole past.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from controller.decisions.explain import end_of_run
from controller.decisions.holds import describe_held, held_run
from controller.decisions.report import runs_to_report
from controller.model.names import MAIN, Topology, is_of_queue, number_of
from controller.model.nouns import Run
from controller.model.reports import NotificationEvent, WantedNotification
from controller.model.states import Cause, RunState
from controller.model.world import Observed, SlotObserved

VERSION = 1
NEWS = timedelta(hours=1)
#: A shorter secret can be guessed.
SECRET_BYTES_MIN = 20
MESSAGE_CHARS_MAX = 1_000
_ENDS: Mapping[RunState, NotificationEvent] = {
    RunState.FAILED: "failed",
    RunState.ROLLED_BACK: "rolled_back",
    RunState.STALLED: "stalled",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """A notification as it is sent."""

    body: bytes
    headers: Mapping[str, str]


def project_notifications(observed: Observed, topology: Topology, *, now: datetime) -> tuple[WantedNotification, ...]:
    """Return every notification about what happened lately, ordered by run; each key once."""
    found: dict[str, WantedNotification] = {}
    for slot in observed.slots:
        for run in (run for run in runs_to_report(slot) if not is_of_queue(run.domain)):
            for one in _of_run(observed, slot, run, topology, now=now):
                found[one.key] = one
    return tuple(found[key] for key in sorted(found, key=lambda key: (found[key].generation, key)))


def _of_run(
    observed: Observed, slot: SlotObserved, run: Run, topology: Topology, *, now: datetime
) -> Iterator[WantedNotification]:
    lives_at = run.confirmed_at or (run.switched_at if run.state is RunState.LIVE else None)
    if lives_at is not None and run.cause is not Cause.REPAIR and lives_at >= now - NEWS:
        yield _wanted("deployed", slot, run, topology, at=lives_at)
    event = _ENDS.get(run.state)
    if event is not None and run.ended_at is not None and run.ended_at >= now - NEWS:
        said = end_of_run(run.state, run.reason, run.message, successor=run.successor, switched_back=run.switched_back)
        yield _wanted(event, slot, run, topology, at=run.ended_at, reason=run.reason, message=said)
    held = held_run(observed, slot, run, now=now) if run.ended_at is None and run.switched_at is None else None
    if held is not None:
        said = describe_held(held)
        yield _wanted("held", slot, run, topology, at=run.begun_at, reason=held.reason, message=said)


def _wanted(
    event: NotificationEvent,
    slot: SlotObserved,
    run: Run,
    topology: Topology,
    *,
    at: datetime,
    reason: str = "",
    message: str = "",
) -> WantedNotification:
    return WantedNotification(
        event=event,
        generation=run.generation,
        slot=slot.slot,
        pull_request=None if slot.slot == MAIN else number_of(run.domain),
        url=topology.url(slot.slot),
        sha=run.head.sha,
        title=run.head.title,
        release=run.release,
        cause=str(run.cause),
        reason=reason,
        message=message[:MESSAGE_CHARS_MAX],
        at=at.isoformat(),
    )


def post(wanted: WantedNotification, *, repository: str, host: str, secret: bytes, now: datetime) -> Posted:
    """Return the request that tells of it. The instant of sending is in the body, so that it is signed too."""
    told: dict[str, object] = {
        "version": VERSION,
        "event": wanted.event,
        "repository": repository,
        "host": host,
        "slot": wanted.slot,
        "pull_request": wanted.pull_request,
        "url": wanted.url,
        "sha": wanted.sha,
        "title": wanted.title,
        "release": wanted.release,
        "run": wanted.generation,
        "cause": wanted.cause,
        "reason": wanted.reason,
        "message": wanted.message,
        "at": wanted.at,
    }
    delivery = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]
    body = json.dumps({"id": delivery, "sent_at": int(now.timestamp()), **told}, ensure_ascii=False).encode()
    return Posted(
        body=body,
        headers={
            "Content-Type": "application/json",
            "User-Agent": "oroboros",
            "X-Oroboros-Event": wanted.event,
            "X-Oroboros-Delivery": delivery,
            "X-Oroboros-Signature-256": "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest(),
        },
    )
