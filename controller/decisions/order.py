"""May production move to the head that its branch has now? By git's ancestry, and never back by accident.

A head is *accepted* when production may move to it: the first one, and every one that descends from the last accepted
head, from what production serves, or has the content that it serves. Anything else is the branch moved by force, back
or to another history: `[production] force_push` says whether production stays where it is or follows. What is held
is let go by an order by hand of that commit, or by a later head that descends from what serves.

The policy is that of the last accepted head: a commit that is not accepted does not say what is accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from controller.model.names import MAIN, Sha
from controller.model.nouns import Head, Run
from controller.model.states import Cause
from controller.model.world import ForcePush, HeadRefused, Observed

FORCE_PUSHED = "ForcePushed"
#: A push that we were told of and that no fetch has brought yet defers the switch for so long at most.
NEWS_AWAITED_S = 10.0
#: The head is asked for once more before a switch, unless the last fetch began no longer ago than this.
HEAD_FRESH_S = 1.0
#: Their release is the head's own: a newer head takes their place.
FOLLOWING = frozenset({Cause.PUSH, Cause.REVERT, Cause.RESYNC})


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadFacts:
    """The head of the production branch, and how it lies to what came before."""

    head: Head
    #: The last accepted head; None before the first.
    accepted: Sha | None
    #: What production serves, as a commit and as content; None when it serves nothing.
    serves: Head | None
    #: The head is that commit or descends from it.
    follows_accepted: bool
    follows_served: bool
    #: The last accepted head lies before the new one's place: the branch was moved back.
    is_behind: bool
    #: Why its signature does not count, where it must be signed.
    unsigned: HeadRefused | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadVerdict:
    """What is to be done about the head, and how the branch was moved by force, if it was."""

    refused: HeadRefused | None = None
    force_push: ForcePush | None = None


def judge_head(facts: HeadFacts, *, force_push: Literal["hold", "follow"]) -> HeadVerdict:
    """Judge the head of the production branch."""
    if facts.unsigned is not None:
        return HeadVerdict(refused=facts.unsigned)
    if facts.accepted is None or facts.follows_accepted:
        return HeadVerdict()
    moves = facts.serves is not None and not facts.follows_served and facts.serves.tree != facts.head.tree
    moved = ForcePush(
        old=facts.accepted,
        new=facts.head.sha,
        kind="back" if facts.is_behind else "aside",
        outcome="no_move" if not moves else "held" if force_push == "hold" else "followed",
    )
    if moved.outcome != "held":
        return HeadVerdict(force_push=moved)
    return HeadVerdict(
        refused=HeadRefused(
            reason=FORCE_PUSHED, message=f"{describe_force_push(moved)}; order it by hand to deploy it"
        ),
        force_push=moved,
    )


def describe_force_push(moved: ForcePush) -> str:
    """Return in a few words how the branch was moved by force."""
    how = "back" if moved.kind == "back" else "to another history"
    return f"the branch was moved {how} by force, from {moved.old[:7]} to {moved.new[:7]}"


def is_following(run: Run) -> bool:
    """Say whether a newer head of the production branch would take the place of this run."""
    return run.slot == MAIN and run.cause in FOLLOWING


def is_head_to_be_asked(run: Run, *, fetched_at: datetime | None, now: datetime) -> bool:
    """Say whether the forge is asked once more for the production branch before this run may switch.

    `fetched_at` is when the last good fetch began: a push later than that may be told of by nobody."""
    is_fresh = fetched_at is not None and now <= fetched_at + timedelta(seconds=HEAD_FRESH_S)
    return is_following(run) and not is_fresh


def is_news_awaited(observed: Observed, run: Run, *, now: datetime) -> bool:
    """Say whether production waits a moment with its switch, for a push that we know of and have not fetched."""
    if not is_following(run) or observed.unfetched_push_at is None:
        return False
    return now < observed.unfetched_push_at + timedelta(seconds=NEWS_AWAITED_S)
