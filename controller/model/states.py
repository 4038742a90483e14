"""The states of everything that has one, as enums whose values are what the database and `--json` show."""

from __future__ import annotations

from enum import StrEnum


class RunState(StrEnum):
    PLANNED = "planned"
    BUILDING = "building"
    MIGRATING = "migrating"
    GATING = "gating"
    SWITCHING = "switching"
    WATCHING = "watching"
    # terminal:
    LIVE = "live"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"
    SUPERSEDED = "superseded"
    STALLED = "stalled"
    PASSED = "passed"  # its gate passed; it is of the merge queue, and never switched


RUN_TERMINAL = frozenset(
    {
        RunState.LIVE,
        RunState.FAILED,
        RunState.ROLLED_BACK,
        RunState.SUPERSEDED,
        RunState.STALLED,
        RunState.PASSED,
    }
)


class ProcessState(StrEnum):
    """A supervised process (instance or job) as the runtime shows it."""

    RUNNING = "running"
    EXITED = "exited"


class Outcome(StrEnum):
    """Of a gate, a confirmation or a watch window."""

    PENDING = "pending"
    PASS = "pass"
    FAIL = "fail"


class StatusState(StrEnum):
    """GitHub's commit status states (docs.github.com/rest/commits/statuses)."""

    PENDING = "pending"
    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"


class CheckState(StrEnum):
    """Where a check run stands: GitHub's statuses, and of one that is completed the conclusions that we use
    (docs.github.com/rest/checks/runs)."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    # completed:
    SUCCESS = "success"
    FAILURE = "failure"
    NEUTRAL = "neutral"
    CANCELLED = "cancelled"
    ACTION_REQUIRED = "action_required"

    @property
    def is_completed(self) -> bool:
        return self not in (CheckState.QUEUED, CheckState.IN_PROGRESS)


class DeploymentState(StrEnum):
    """Those of GitHub's deployment states that we use (docs.github.com/rest/deployments/statuses)."""

    IN_PROGRESS = "in_progress"
    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"
    INACTIVE = "inactive"


class Cause(StrEnum):
    """Why a run exists."""

    PUSH = "push"  # the head of the production branch, or of a pull request
    REVERT = "revert"  # that head's tree is a retained, proven release
    RESYNC = "resync"  # a head that no webhook told of
    OVERRIDE = "override"  # by hand: deploy or rollback
    ROLLBACK = "rollback"  # automatic: the window after a switch failed
    REPAIR = "repair"  # what serves was lost, or its window was cut short: start and prove it again
