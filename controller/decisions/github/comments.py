"""What do we ask and tell about comments at a pull request? One of them is ours, and no other is ever touched.

Ours is one that we wrote (our App, or the token's owner) and that holds our marker. A marker alone proves nothing,
since anybody can write one.
https://docs.github.com/rest/issues/comments
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from controller.decisions.github.answers import raise_unless
from controller.decisions.github.repository import next_page
from controller.decisions.github.wire import (
    Object,
    Reply,
    Request,
    ask,
    read_json,
    read_list,
    read_number,
    read_object,
    tell,
    told,
)
from controller.model.errors import Stalled

PAGE_SIZE: Final = 100
#: Invisible where the comment is shown.
MARKER: Final = "<!-- oroboros: the one comment of this pull request -->"
BODY_CHARS_MAX: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who we are at the forge: our App, or the account whose token we have. One of them is None."""

    app_id: int | None
    user_id: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownComment:
    """A comment as the forge shows it."""

    id: int
    body: str
    app_id: int | None
    user_id: int | None

    def is_ours(self, us: Author) -> bool:
        """Say whether we wrote it as the one comment."""
        by_us = self.app_id == us.app_id if us.app_id is not None else self.user_id == us.user_id and not self.app_id
        return by_us and self.body.startswith(MARKER)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommentsPage:
    """One page of the comments, and the number of the page after it, if there is one."""

    comments: tuple[ShownComment, ...]
    next_page: int | None


def get_user() -> Request:
    """Ask whose token we have."""
    return ask("/user")


def create_comment(repository: str, pull_request: int, body: str) -> Request:
    """Write a comment."""
    return tell("POST", f"/repos/{repository}/issues/{pull_request}/comments", {"body": body})


def update_comment(repository: str, number: int, body: str) -> Request:
    """Change a comment of ours."""
    return tell("PATCH", f"/repos/{repository}/issues/comments/{number}", {"body": body})


def get_comment(repository: str, number: int) -> Request:
    """Ask for a comment."""
    return ask(f"/repos/{repository}/issues/comments/{number}")


def list_comments(repository: str, pull_request: int, *, page: int) -> Request:
    """Ask for a page of the comments, the oldest first."""
    return ask(f"/repos/{repository}/issues/{pull_request}/comments?per_page={PAGE_SIZE}&page={page}")


def read_user(reply: Reply, *, now: datetime) -> int:
    """Return the id of the account whose token we have."""
    what = "get the token's owner"
    raise_unless(200, reply, what=what, permission="of any kind", now=now)
    return read_number(read_object(read_json(reply, what), what), "id", what)


def read_written_comment(reply: Reply, *, is_new: bool, now: datetime) -> int:
    """Return the id of a comment that was written; Stalled when the forge will never take it."""
    what = "write the comment"
    if reply.status == 422 or (reply.status == 403 and "locked" in told(reply).lower()):
        raise Stalled("CommentRefused", f"the forge does not take the comment: {told(reply)}")
    raise_unless(201 if is_new else 200, reply, what=what, permission="pull requests: write", now=now)
    return read_number(read_object(read_json(reply, what), what), "id", what)


def read_comment(reply: Reply, *, now: datetime) -> ShownComment | None:
    """Return a comment; None when somebody removed it."""
    what = "get a comment"
    if reply.status in (404, 410):
        return None
    raise_unless(200, reply, what=what, permission="pull requests: read", now=now)
    return _shown(read_object(read_json(reply, what), what), what)


def read_comments_page(reply: Reply, *, page: int, now: datetime) -> CommentsPage:
    """Return one page of the comments."""
    what = "list the comments"
    raise_unless(200, reply, what=what, permission="pull requests: read", now=now)
    comments = tuple(_shown(read_object(one, what), what) for one in read_list(read_json(reply, what), what))
    following = next_page(reply, page=page, is_full=len(comments) >= PAGE_SIZE, what=what)
    return CommentsPage(comments=comments, next_page=following)


def _shown(found: Object, what: str) -> ShownComment:
    # Null for an account that was deleted, and for whoever is no App.
    user, app = found.get("user"), found.get("performed_via_github_app")
    return ShownComment(
        id=read_number(found, "id", what),
        body=str(found.get("body") or ""),
        app_id=read_number(app, "id", what) if isinstance(app, dict) else None,
        user_id=read_number(user, "id", what) if isinstance(user, dict) else None,
    )
