"""What do we ask and tell about our repository, and what do the answers mean?

Reading a reply gives a value, or an error that says what follows. A list is complete or it is nothing, since a pull
request that is missing from it would lose its preview.
https://docs.github.com/rest
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

from controller.decisions.github.answers import raise_unless
from controller.decisions.github.wire import (
    Object,
    Reply,
    Request,
    ask,
    invalid,
    next_link,
    read_instant,
    read_json,
    read_list,
    read_number,
    read_object,
    read_sha,
    read_text,
    tell,
    told,
)
from controller.model.errors import Stalled
from controller.model.names import Sha
from controller.model.nouns import PullRequest
from controller.model.reports import WantedStatus
from controller.model.states import StatusState

PAGE_SIZE: Final = 100
#: More open pull requests than this many pages hold are not believed.
PAGES_MAX: Final = 50
DESCRIPTION_CHARS_MAX: Final = 140


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """What we need to know of the repository."""

    id: int
    full_name: str
    default_branch: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PullsPage:
    """One page of the open pull requests, and the number of the page after it, if there is one."""

    pulls: tuple[PullRequest, ...]
    next_page: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PostedStatus:
    """A commit status as the forge shows it."""

    state: StatusState
    context: str
    description: str
    target_url: str | None
    created_at: datetime


def require_ours(found: Repository, *, pinned: int | None) -> None:
    """Raise unless this is the repository that we have known by its id since the first look, if there was one.

    Who renames a repository gives its old name away: whoever takes it could deploy from it otherwise."""
    if pinned is not None and found.id != pinned:
        raise Stalled(
            "RepositoryReplaced",
            f"{found.full_name} is another repository (id {found.id}) than the one that is deployed from here"
            f" (id {pinned}): nothing is taken from it; was ours renamed or made anew? Say which it is:"
            " `oroboros repo set`",
        )


# -- requests -------------------------------------------------------------------------------------------------------


def get_repository(repository: str) -> Request:
    """Ask for the repository."""
    return ask(f"/repos/{repository}")


def list_open_pulls(repository: str, *, page: int) -> Request:
    """Ask for a page of the open pull requests, the oldest first: what is opened meanwhile comes last."""
    query = f"state=open&sort=created&direction=asc&per_page={PAGE_SIZE}&page={page}"
    return ask(f"/repos/{repository}/pulls?{query}")


def create_status(repository: str, report: WantedStatus) -> Request:
    """Set the status of a commit in a context. The newest counts, so that sending it again changes nothing."""
    content: Object = {"state": str(report.state), "context": report.context, "description": report.description}
    if report.target_url is not None:
        content["target_url"] = report.target_url
    return tell("POST", f"/repos/{repository}/statuses/{quote(report.sha, safe='')}", content, is_urgent=True)


def list_statuses(repository: str, sha: Sha) -> Request:
    """Ask for the newest statuses of a commit."""
    return ask(f"/repos/{repository}/commits/{quote(sha, safe='')}/statuses?per_page={PAGE_SIZE}")


# -- replies --------------------------------------------------------------------------------------------------------


def read_repository(reply: Reply, *, now: datetime) -> Repository:
    """Return what the forge says of the repository."""
    what = "get the repository"
    raise_unless(200, reply, what=what, permission="metadata: read", now=now)
    found = read_object(read_json(reply, what), what)
    return Repository(
        id=read_number(found, "id", what),
        full_name=read_text(found, "full_name", what),
        default_branch=read_text(found, "default_branch", what),
    )


def read_pulls_page(reply: Reply, *, page: int, now: datetime) -> PullsPage:
    """Return one page of the open pull requests."""
    what = "list the pull requests"
    raise_unless(200, reply, what=what, permission="pull requests: read", now=now)
    pulls = tuple(read_pull(read_object(one, what), what) for one in read_list(read_json(reply, what), what))
    return PullsPage(pulls=pulls, next_page=next_page(reply, page=page, is_full=len(pulls) >= PAGE_SIZE, what=what))


def read_created_status(reply: Reply, *, now: datetime) -> None:
    """Return when the forge took the status; Stalled when it never will."""
    what = "set a commit status"
    if reply.status == 422:
        raise Stalled("StatusRefused", f"the forge does not take the commit status: {told(reply)}")
    raise_unless(201, reply, what=what, permission="commit statuses: write", now=now)


def read_statuses(reply: Reply, *, now: datetime) -> tuple[PostedStatus, ...]:
    """Return the statuses of a commit, the newest first."""
    what = "list the commit statuses"
    raise_unless(200, reply, what=what, permission="commit statuses: read", now=now)
    return tuple(_status(read_object(one, what), what) for one in read_list(read_json(reply, what), what))


def next_page(reply: Reply, *, page: int, is_full: bool, what: str) -> int | None:
    """Return the number of the next page. Only its number is taken from the link: we build our own addresses.

    A full page may have lost its link to a proxy. To ask for one page more, which is empty, costs less than a preview.
    """
    link = next_link(reply)
    if link is None and not is_full:
        return None
    try:
        numbers = [str(page + 1)] if link is None else parse_qs(urlsplit(link).query).get("page", [])
    except ValueError:
        numbers = []
    if numbers != [str(page + 1)]:
        invalid(what, f"page {page} is followed by {numbers}")
    if page >= PAGES_MAX:
        invalid(what, f"there are more than {PAGES_MAX} pages")
    return page + 1


def read_pull(found: Object, what: str) -> PullRequest:
    """Return a pull request of a list, or as it is by itself."""
    head, base = read_object(found.get("head"), what), read_object(found.get("base"), what)
    # Null when the fork was deleted: https://github.com/github/rest-api-description/issues/161
    head_repository = head.get("repo")
    base_id = read_number(read_object(base.get("repo"), what), "id", what)
    same = head_repository is not None and read_number(read_object(head_repository, what), "id", what) == base_id
    # Null for an account that was deleted.
    user = found.get("user")
    return PullRequest(
        number=read_number(found, "number", what),
        head_sha=read_sha(head, what),
        head_branch=read_text(head, "ref", what),
        title=read_text(found, "title", what),
        author="" if user is None else read_text(read_object(user, what), "login", what),
        same_repository=same,
        opened_at=read_instant(found, "created_at", what),
        labels=_labels(found, what),
        is_draft=found.get("draft") is True,
        base_branch=read_text(base, "ref", what),
        author_is_bot=user is not None and read_object(user, what).get("type") == "Bot",
    )


def _labels(found: Object, what: str) -> tuple[str, ...]:
    labels = read_list(found.get("labels", []), what)
    return tuple(sorted(read_text(read_object(label, what), "name", what) for label in labels))


def _status(found: Object, what: str) -> PostedStatus:
    try:
        state = StatusState(read_text(found, "state", what))
    except ValueError:
        invalid(what, "a status has an unknown state")
    return PostedStatus(
        state=state,
        context=read_text(found, "context", what),
        description="" if found.get("description") is None else read_text(found, "description", what),
        target_url=None if found.get("target_url") is None else read_text(found, "target_url", what),
        created_at=read_instant(found, "created_at", what),
    )
