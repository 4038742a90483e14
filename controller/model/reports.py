"""What do we want others to show? One frozen type a surface, each with its key, and all of them as JSON for the outbox.

A surface is a kind of place where a report is shown. Of one key, what is wanted last counts. A report of an older run
than the one that is wanted never replaces it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import ClassVar, Final, Literal, get_args

from controller.model.names import PRODUCTION, Sha
from controller.model.states import CheckState, DeploymentState, StatusState

Surface = Literal["status", "check", "deployment", "comment", "reaction", "notification"]
NotificationEvent = Literal["deployed", "failed", "rolled_back", "stalled", "held"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedStatus:
    """What a commit's status should say."""

    surface: ClassVar[Surface] = "status"

    sha: Sha
    context: str
    state: StatusState
    #: At most 140 characters, one line.
    description: str
    target_url: str | None
    generation: int

    @property
    def key(self) -> str:
        return f"{self.sha} {self.context}"

    @property
    def is_open(self) -> bool:
        """Say whether it must still come to an end, even when nothing speaks for it any more."""
        return self.state is StatusState.PENDING


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedCheck:
    """What a commit's check run should say. Its text is written when it is sent, from the journal of the run."""

    surface: ClassVar[Surface] = "check"

    sha: Sha
    #: The check's name, which is the context of the commit's status.
    context: str
    state: CheckState
    #: What the status says.
    title: str
    details_url: str | None
    #: The run that it tells of; 0: none.
    generation: int
    #: What is wrong with deploy.toml at this commit is shown in it.
    blames_deploy_toml: bool = False

    @property
    def key(self) -> str:
        return f"{self.sha} {self.context}"

    @property
    def is_open(self) -> bool:
        return not self.state.is_completed


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedDeployment:
    """What the forge's deployment of one run should say. Its environment is the slot."""

    surface: ClassVar[Surface] = "deployment"

    sha: Sha
    environment: str
    generation: int
    state: DeploymentState
    description: str
    environment_url: str | None

    @property
    def key(self) -> str:
        return f"{self.environment} {self.generation}"

    @property
    def is_open(self) -> bool:
        return self.state in (DeploymentState.IN_PROGRESS, DeploymentState.SUCCESS)

    @property
    def is_production(self) -> bool:
        return self.environment == PRODUCTION


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedComment:
    """The one comment at a pull request."""

    surface: ClassVar[Surface] = "comment"
    #: It is about the pull request, not about a run: the newest counts.
    generation: ClassVar[int] = 0

    pull_request: int
    body: str
    #: The pull request may still change what it says.
    is_open: bool
    #: It answers a command: it is written although the pull request is closed and has none yet.
    is_answer: bool = False

    @property
    def key(self) -> str:
        return f"pr-{self.pull_request}"


Reaction = Literal["+1", "-1"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedReaction:
    """Our answer to a command in a comment: done, or refused."""

    surface: ClassVar[Surface] = "reaction"
    #: It never changes.
    generation: ClassVar[int] = 0

    comment_id: int
    pull_request: int
    content: Reaction

    @property
    def key(self) -> str:
        return f"comment-{self.comment_id}"

    @property
    def is_open(self) -> bool:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedNotification:
    """What is told to an address of one's own, once."""

    surface: ClassVar[Surface] = "notification"
    is_open: ClassVar[bool] = False

    event: NotificationEvent
    #: The run that it is about.
    generation: int
    slot: str
    pull_request: int | None
    url: str
    sha: Sha
    title: str
    release: Sha
    cause: str
    reason: str
    message: str
    #: When it happened, as ISO 8601.
    at: str

    @property
    def key(self) -> str:
        return f"{self.generation} {self.event}"


WantedReport = WantedStatus | WantedCheck | WantedDeployment | WantedComment | WantedReaction | WantedNotification
_EVENTS: Final[dict[str, NotificationEvent]] = {event: event for event in get_args(NotificationEvent)}
#: Those that the forge shows.
FORGE_SURFACES: Final[tuple[Surface, ...]] = ("status", "reaction", "check", "deployment", "comment")


def report_to_json(report: WantedReport) -> dict[str, object]:
    """Return a report as the outbox keeps it."""
    plain = {field.name: getattr(report, field.name) for field in fields(report)}
    plain = {name: str(value) if isinstance(value, StrEnum) else value for name, value in plain.items()}
    return {**plain, "generation": report.generation}


def report_from_json(surface: str, value: dict[str, object]) -> WantedReport:
    """Return the report that the outbox keeps."""
    match surface:
        case "status":
            return WantedStatus(
                sha=Sha(str(value["sha"])),
                context=str(value["context"]),
                state=StatusState(str(value["state"])),
                description=str(value["description"]),
                target_url=_text_or_none(value["target_url"]),
                generation=_number(value["generation"]),
            )
        case "check":
            return WantedCheck(
                sha=Sha(str(value["sha"])),
                context=str(value["context"]),
                state=CheckState(str(value["state"])),
                title=str(value["title"]),
                details_url=_text_or_none(value["details_url"]),
                generation=_number(value["generation"]),
                blames_deploy_toml=value["blames_deploy_toml"] is True,
            )
        case "deployment":
            return WantedDeployment(
                sha=Sha(str(value["sha"])),
                environment=str(value["environment"]),
                generation=_number(value["generation"]),
                state=DeploymentState(str(value["state"])),
                description=str(value["description"]),
                environment_url=_text_or_none(value["environment_url"]),
            )
        case "comment":
            return WantedComment(
                pull_request=_number(value["pull_request"]),
                body=str(value["body"]),
                is_open=value["is_open"] is True,
                is_answer=value.get("is_answer") is True,  # not in rows of earlier releases
            )
        case "reaction":
            return WantedReaction(
                comment_id=_number(value["comment_id"]),
                pull_request=_number(value["pull_request"]),
                content="+1" if value["content"] == "+1" else "-1",
            )
        case "notification":
            pull_request = value["pull_request"]
            return WantedNotification(
                event=_EVENTS[str(value["event"])],
                generation=_number(value["generation"]),
                slot=str(value["slot"]),
                pull_request=None if pull_request is None else _number(pull_request),
                url=str(value["url"]),
                sha=Sha(str(value["sha"])),
                title=str(value["title"]),
                release=Sha(str(value["release"])),
                cause=str(value["cause"]),
                reason=str(value["reason"]),
                message=str(value["message"]),
                at=str(value["at"]),
            )
        case _:
            raise ValueError(f"no report has the surface {surface!r}")


def _text_or_none(value: object) -> str | None:
    return None if value is None else str(value)


def _number(value: object) -> int:
    return int(str(value))
