"""What can go wrong, named by consequence: each class says what happens next, not who raised it.

`reason` is a stable CamelCase token that users see in statuses and find in the runbook; `message` says what was
tried, on what, and what to do about it. Messages never carry a secret: what looks like one is masked here. Anything
that is not an `OroborosError` is a bug: the process crashes, its supervisor restarts it, and the loop resumes by
observing.
"""

from __future__ import annotations

from datetime import datetime

from controller.model.redaction import redact


class OroborosError(Exception):
    """The base of every expected error; never raised itself."""

    def __init__(self, reason: str, message: str) -> None:
        if type(self) is OroborosError:
            raise TypeError("raise a subclass: its name is the consequence")
        message = redact(message)
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class Refused(OroborosError):
    """Ingress or policy says no; `status_hint` is the HTTP status that a door should answer."""

    def __init__(self, reason: str, message: str, *, status_hint: int = 403) -> None:
        super().__init__(reason, message)
        self.status_hint = status_hint


class ConfigInvalid(OroborosError):
    """A configuration (deploy.toml at a commit, or the environment of a process) is wrong: wait for a new one."""

    def __init__(self, reason: str, message: str, *, problems: tuple[str, ...] = ()) -> None:
        super().__init__(reason, message)
        #: Every problem at once, each "key.path: what is wrong and what is allowed".
        self.problems = tuple(map(redact, problems)) or (self.message,)


class Failed(OroborosError):
    """This release cannot go live, and the release itself is the cause: keep the old one, quarantine the tree."""


class Waiting(OroborosError):
    """Nothing is wrong; come back at `retry_at` (aware UTC) or at the next bell."""

    def __init__(self, reason: str, message: str, *, retry_at: datetime | None = None) -> None:
        super().__init__(reason, message)
        self.retry_at = retry_at


class Unavailable(OroborosError):
    """A part (forge, store, Caddy, runtime, disk) did not answer: back off, try again; the release is not to blame."""

    def __init__(self, reason: str, message: str, *, retry_at: datetime | None = None) -> None:
        super().__init__(reason, message)
        self.retry_at = retry_at


class Stalled(OroborosError):
    """A contradiction, or retries are spent: a human must look. Status `error`, loud log, the rest goes on."""
