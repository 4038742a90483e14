"""What do people say at pull requests, who may say it, and how do we answer? Commands are comments like any other.

Whether somebody may is asked live, by name: what a comment says of its author (`author_association`) is not a right.
https://docs.github.com/rest/issues/comments · https://docs.github.com/rest/collaborators/collaborators ·
https://docs.github.com/rest/reactions/reactions
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote, urlencode

from controller.decisions.github.answers import raise_unless
from controller.decisions.github.repository import next_page, read_pull
from controller.decisions.github.wire import (
    Object,
    Reply,
    Request,
    ask,
    invalid,
    read_date,
    read_instant,
    read_json,
    read_list,
    read_number,
    read_object,
    read_text,
    tell,
    told,
)
from controller.model.errors import Stalled
from controller.model.nouns import PERMISSIONS, Comment, Permission, PullRequest

PAGE_SIZE: Final = 100
_ISSUE = re.compile(r"/issues/([1-9][0-9]{0,9})\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class SaidPage:
    """One page of what was said, when the forge answered by its own clock, and the number of the page after it."""

    comments: tuple[Comment, ...]
    told_at: datetime | None
    next_page: int | None


def list_said(repository: str, *, since: datetime, page: int) -> Request:
    """Ask for a page of the comments of every pull request that changed since then, the oldest change first."""
    query = {"sort": "updated", "direction": "asc", "since": f"{since:%Y-%m-%dT%H:%M:%SZ}"}
    return ask(f"/repos/{repository}/issues/comments?{urlencode({**query, 'per_page': PAGE_SIZE, 'page': page})}")


def get_permission(repository: str, login: str) -> Request:
    """Ask what somebody may do in the repository, now."""
    return ask(f"/repos/{repository}/collaborators/{quote(login, safe='')}/permission")


def get_pull(repository: str, number: int) -> Request:
    """Ask for one pull request, as it is now."""
    return ask(f"/repos/{repository}/pulls/{number}")


def create_reaction(repository: str, comment_id: int, content: str) -> Request:
    """React to a comment. The same reaction again is the one that is there."""
    return tell("POST", f"/repos/{repository}/issues/comments/{comment_id}/reactions", {"content": content})


def read_said_page(reply: Reply, *, page: int, now: datetime) -> SaidPage:
    """Return one page of what was said."""
    what = "list the comments"
    raise_unless(200, reply, what=what, permission="pull requests: read", now=now)
    found = [read_object(one, what) for one in read_list(read_json(reply, what), what)]
    following = next_page(reply, page=page, is_full=len(found) >= PAGE_SIZE, what=what)
    return SaidPage(comments=tuple(_comment(one, what) for one in found), told_at=read_date(reply), next_page=following)


def read_permission(reply: Reply, *, now: datetime) -> Permission:
    """Return what somebody may do; a stranger may do nothing."""
    what = "look up a permission"
    if reply.status == 404:
        return "none"
    raise_unless(200, reply, what=what, permission="metadata: read", now=now)
    found = read_object(read_json(reply, what), what)
    # `permission` knows four levels, and calls maintain "write" and triage "read"; a role may have any name.
    base, role = read_text(found, "permission", what), str(found.get("role_name") or "")
    level = role if (base, role) in (("write", "maintain"), ("read", "triage")) else base
    return next((known for known in PERMISSIONS if known == level), "none")


def read_one_pull(reply: Reply, *, now: datetime) -> tuple[PullRequest, bool] | None:
    """Return a pull request and whether it is open; None when there is none of that number."""
    what = "get a pull request"
    if reply.status == 404:
        return None
    raise_unless(200, reply, what=what, permission="pull requests: read", now=now)
    found = read_object(read_json(reply, what), what)
    return read_pull(found, what), found.get("state") == "open"


def read_reaction(reply: Reply, *, now: datetime) -> None:
    """Return when the forge took a reaction; Stalled when it never will, as for a comment that is gone."""
    what = "react to a comment"
    if reply.status in (404, 410, 422):
        raise Stalled("ReactionRefused", f"the forge does not take the reaction: {told(reply)}")
    if reply.status != 200:
        raise_unless(201, reply, what=what, permission="issues: write, or pull requests: write", now=now)


def _comment(found: Object, what: str) -> Comment:
    match = _ISSUE.search(read_text(found, "issue_url", what))
    if match is None:
        invalid(what, "a comment is of no issue")
    # Null for an account that was deleted: nobody can be asked about it.
    user = found.get("user")
    login = "" if user is None else read_text(read_object(user, what), "login", what)
    is_person = isinstance(user, dict) and user.get("type") == "User" and not found.get("performed_via_github_app")
    created_at, updated_at = read_instant(found, "created_at", what), read_instant(found, "updated_at", what)
    return Comment(
        id=read_number(found, "id", what),
        pull_request=int(match[1]),
        is_on_pull="/pull/" in read_text(found, "html_url", what),
        author=login,
        is_person=is_person,
        text=str(found.get("body") or ""),
        created_at=created_at,
        updated_at=updated_at,
    )
