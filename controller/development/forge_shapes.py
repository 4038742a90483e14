"""What does GitHub's JSON look like? The shapes of the development forge's API replies and webhook payloads.

Pure: facts in, JSON out. Each shape holds every field that GitHub's published schemas require, so that a client which
works here does not meet a surprise there; what the forge does not have (labels, reviews, stars) is empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import quote
from zlib import crc32

from controller.model.names import QUEUE_REFS

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None
Object = dict[str, Json]

REPOSITORY_ID: Final = 1001
FORK_ID: Final = 2002
OWNER_ID: Final = 1
DEVELOPER: Final = ("developer", 2)
STRANGER: Final = ("stranger", 3)
HOOK_ID: Final = 1
DEFAULT_BRANCH: Final = "main"
NO_SHA: Final = "0" * 40

#: Where a pull request's head lies: in the repository itself, in a fork, or in a fork that was deleted.
Origin = Literal["own", "fork", "gone"]

_REPOSITORY_URLS: Final = {
    "archive_url": "/{archive_format}{/ref}",
    "assignees_url": "/assignees{/user}",
    "blobs_url": "/git/blobs{/sha}",
    "branches_url": "/branches{/branch}",
    "collaborators_url": "/collaborators{/collaborator}",
    "comments_url": "/comments{/number}",
    "commits_url": "/commits{/sha}",
    "compare_url": "/compare/{base}...{head}",
    "contents_url": "/contents/{+path}",
    "contributors_url": "/contributors",
    "deployments_url": "/deployments",
    "downloads_url": "/downloads",
    "events_url": "/events",
    "forks_url": "/forks",
    "git_commits_url": "/git/commits{/sha}",
    "git_refs_url": "/git/refs{/sha}",
    "git_tags_url": "/git/tags{/sha}",
    "hooks_url": "/hooks",
    "issue_comment_url": "/issues/comments{/number}",
    "issue_events_url": "/issues/events{/number}",
    "issues_url": "/issues{/number}",
    "keys_url": "/keys{/key_id}",
    "labels_url": "/labels{/name}",
    "languages_url": "/languages",
    "merges_url": "/merges",
    "milestones_url": "/milestones{/number}",
    "notifications_url": "/notifications{?since,all,participating}",
    "pulls_url": "/pulls{/number}",
    "releases_url": "/releases{/id}",
    "stargazers_url": "/stargazers",
    "statuses_url": "/statuses/{sha}",
    "subscribers_url": "/subscribers",
    "subscription_url": "/subscription",
    "tags_url": "/tags",
    "teams_url": "/teams",
    "trees_url": "/git/trees{/sha}",
}
_USER_URLS: Final = {
    "followers_url": "/followers",
    "following_url": "/following{/other_user}",
    "gists_url": "/gists{/gist_id}",
    "starred_url": "/starred{/owner}{/repo}",
    "subscriptions_url": "/subscriptions",
    "organizations_url": "/orgs",
    "repos_url": "/repos",
    "events_url": "/events{/privacy}",
    "received_events_url": "/received_events",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """A pull request as the forge keeps it."""

    number: int
    title: str
    body: str | None
    head_branch: str
    head_sha: str
    base_branch: str
    base_sha: str
    origin: Origin
    is_open: bool
    created_at: str
    updated_at: str
    closed_at: str | None
    merged_at: str | None
    merge_commit_sha: str | None
    labels: tuple[str, ...] = ()
    is_draft: bool = False
    #: "": the developer, or of a fork's pull request the stranger.
    author: str = ""

    @property
    def opened_by(self) -> tuple[str, int]:
        return person(self.author) if self.author else DEVELOPER if self.origin == "own" else STRANGER


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """How much a pull request changes."""

    commits: int = 0
    additions: int = 0
    deletions: int = 0
    files: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Who wrote or committed a commit, and when (ISO 8601)."""

    name: str
    email: str
    at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A commit, and which files it changed against its first parent."""

    sha: str
    tree: str
    parents: tuple[str, ...]
    message: str
    author: Signature
    committer: Signature
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    modified: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A commit status as the forge keeps it."""

    id: int
    sha: str
    state: str
    context: str
    description: str | None
    target_url: str | None
    created_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A webhook delivery, sent or still to be sent."""

    id: int
    guid: str
    event: str
    action: str | None
    body: bytes
    redelivery: bool
    created_at: str
    delivered_at: str | None
    duration_s: float
    status: str
    status_code: int


class Shapes:
    """The shapes of one repository at one forge."""

    def __init__(self, base_url: str, repository: str, *, created_at: str) -> None:
        self.base_url = base_url
        self.created_at = created_at
        self.api_url = f"{base_url}/api/v3"
        self.rename(repository)

    def rename(self, repository: str) -> None:
        """Call the repository by another name from now on."""
        self.full_name = repository
        self.owner, _, self.name = repository.partition("/")
        self.repository_url = f"{self.api_url}/repos/{repository}"

    # -- people and repositories ----------------------------------------------------------------------------------

    def user(self, who: tuple[str, int], *, kind: str | None = None) -> Object:
        login, number = who
        if kind is None:
            kind = "Bot" if login.endswith("[bot]") else "User"
        url = f"{self.api_url}/users/{login}"
        return {
            "login": login,
            "id": number,
            "node_id": f"U_{number}",
            "avatar_url": f"{self.base_url}/avatars/u/{number}",
            "gravatar_id": "",
            "url": url,
            "html_url": f"{self.base_url}/{login}",
            **{key: url + tail for key, tail in _USER_URLS.items()},
            "type": kind,
            "site_admin": False,
        }

    def repository(self, *, open_pulls: int, pushed_at: str, origin: Origin = "own") -> Object:
        """Return a repository in the shape that is in pull requests and webhook payloads."""
        is_fork = origin != "own"
        owner = self.user(STRANGER) if is_fork else self.user((self.owner, OWNER_ID))
        full_name = f"{STRANGER[0]}/{self.name}" if is_fork else self.full_name
        html_url, url = f"{self.base_url}/{full_name}", f"{self.api_url}/repos/{full_name}"
        return {
            "id": FORK_ID if is_fork else REPOSITORY_ID,
            "node_id": f"R_{FORK_ID if is_fork else REPOSITORY_ID}",
            "name": self.name,
            "full_name": full_name,
            "private": False,
            "owner": owner,
            "html_url": html_url,
            "description": None,
            "fork": is_fork,
            "url": url,
            **{key: url + tail for key, tail in _REPOSITORY_URLS.items()},
            "created_at": self.created_at,
            "updated_at": pushed_at,
            "pushed_at": pushed_at,
            "git_url": f"git://{html_url.partition('://')[2]}.git",
            "ssh_url": f"git@127.0.0.1:{full_name}.git",
            "clone_url": f"{html_url}.git",
            "svn_url": html_url,
            "homepage": None,
            "size": 0,
            "stargazers_count": 0,
            "watchers_count": 0,
            "language": None,
            "has_issues": True,
            "has_projects": False,
            "has_downloads": True,
            "has_wiki": False,
            "has_pages": False,
            "has_discussions": False,
            "forks_count": 0,
            "mirror_url": None,
            "archived": False,
            "disabled": False,
            "open_issues_count": open_pulls,
            "license": None,
            "allow_forking": True,
            "is_template": False,
            "web_commit_signoff_required": False,
            "topics": [],
            "visibility": "public",
            "forks": 0,
            "open_issues": open_pulls,
            "watchers": 0,
            "default_branch": DEFAULT_BRANCH,
            "custom_properties": {},
        }

    def full_repository(self, *, open_pulls: int, pushed_at: str) -> Object:
        """Return the repository as the API shows it by itself."""
        return {
            **self.repository(open_pulls=open_pulls, pushed_at=pushed_at),
            "network_count": 0,
            "subscribers_count": 0,
        }

    # -- pull requests ----------------------------------------------------------------------------------------------

    def pull_simple(self, pull: Pull, *, repository: Object, fork: Object) -> Object:
        """Return a pull request as it is in a list."""
        url = f"{self.repository_url}/pulls/{pull.number}"
        issue_url = f"{self.repository_url}/issues/{pull.number}"
        html_url = f"{self.base_url}/{self.full_name}/pull/{pull.number}"
        statuses_url = f"{self.repository_url}/statuses/{pull.head_sha}"
        author = self.user(pull.opened_by)
        head_owner = repository["owner"] if pull.origin == "own" else fork["owner"]
        links = {
            "self": url,
            "html": html_url,
            "issue": issue_url,
            "comments": f"{issue_url}/comments",
            "review_comments": f"{url}/comments",
            "review_comment": f"{self.repository_url}/pulls/comments{{/number}}",
            "commits": f"{url}/commits",
            "statuses": statuses_url,
        }
        head_label = self.owner if pull.origin == "own" else STRANGER[0]
        return {
            "url": url,
            "id": 10_000 + pull.number,
            "node_id": f"PR_{pull.number}",
            "html_url": html_url,
            "diff_url": f"{html_url}.diff",
            "patch_url": f"{html_url}.patch",
            "issue_url": issue_url,
            "number": pull.number,
            "state": "open" if pull.is_open else "closed",
            "locked": False,
            "title": pull.title,
            "user": author,
            "body": pull.body,
            "created_at": pull.created_at,
            "updated_at": pull.updated_at,
            "closed_at": pull.closed_at,
            "merged_at": pull.merged_at,
            "merge_commit_sha": pull.merge_commit_sha,
            "assignee": None,
            "assignees": [],
            "requested_reviewers": [],
            "requested_teams": [],
            "labels": [self.label(name) for name in pull.labels],
            "milestone": None,
            "draft": pull.is_draft,
            "commits_url": links["commits"],
            "review_comments_url": links["review_comments"],
            "review_comment_url": links["review_comment"],
            "comments_url": links["comments"],
            "statuses_url": statuses_url,
            "head": {
                "label": f"{head_label}:{pull.head_branch}",
                "ref": pull.head_branch,
                "sha": pull.head_sha,
                "user": head_owner,
                "repo": {"own": repository, "fork": fork, "gone": None}[pull.origin],
            },
            "base": {
                "label": f"{self.owner}:{pull.base_branch}",
                "ref": pull.base_branch,
                "sha": pull.base_sha,
                "user": repository["owner"],
                "repo": repository,
            },
            "_links": {name: {"href": href} for name, href in links.items()},
            "author_association": "MEMBER" if pull.origin == "own" else "NONE",
            "auto_merge": None,
            "active_lock_reason": None,
        }

    def pull(self, pull: Pull, changes: Changes, *, repository: Object, fork: Object) -> Object:
        """Return a pull request as it is by itself and in a webhook payload."""
        is_merged = pull.merged_at is not None
        return {
            **self.pull_simple(pull, repository=repository, fork=fork),
            "merged": is_merged,
            "mergeable": None,
            "rebaseable": None,
            "mergeable_state": "unknown",
            "merged_by": self.user(DEVELOPER) if is_merged else None,
            "comments": 0,
            "review_comments": 0,
            "maintainer_can_modify": False,
            "commits": changes.commits,
            "additions": changes.additions,
            "deletions": changes.deletions,
            "changed_files": changes.files,
        }

    def label(self, name: str) -> Object:
        number = crc32(name.encode())
        return {
            "id": 1 + number,
            "node_id": f"LA_{number}",
            "url": f"{self.repository_url}/labels/{quote(name)}",
            "name": name,
            "description": "",
            "color": "ededed",
            "default": False,
        }

    def issue(self, pull: Pull, *, comments: int) -> Object:
        """Return the issue that a pull request is, as it is in the payload of a comment's event."""
        url = f"{self.repository_url}/issues/{pull.number}"
        pull_url = f"{self.repository_url}/pulls/{pull.number}"
        html_url = f"{self.base_url}/{self.full_name}/pull/{pull.number}"
        return {
            "url": url,
            "repository_url": self.repository_url,
            "labels_url": f"{url}/labels{{/name}}",
            "comments_url": f"{url}/comments",
            "events_url": f"{url}/events",
            "html_url": html_url,
            "id": 20_000 + pull.number,
            "node_id": f"PR_{pull.number}",
            "number": pull.number,
            "title": pull.title,
            "user": self.user(pull.opened_by),
            "labels": [self.label(name) for name in pull.labels],
            "state": "open" if pull.is_open else "closed",
            "locked": False,
            "assignee": None,
            "assignees": [],
            "milestone": None,
            "comments": comments,
            "created_at": pull.created_at,
            "updated_at": pull.updated_at,
            "closed_at": pull.closed_at,
            "author_association": "MEMBER" if pull.origin == "own" else "NONE",
            "active_lock_reason": None,
            "draft": pull.is_draft,
            "pull_request": {
                "url": pull_url,
                "html_url": html_url,
                "diff_url": f"{html_url}.diff",
                "patch_url": f"{html_url}.patch",
                "merged_at": pull.merged_at,
            },
            "body": pull.body,
            "reactions": self.no_reactions(url),
            "performed_via_github_app": None,
        }

    def no_reactions(self, url: str) -> Object:
        kinds = ("+1", "-1", "laugh", "confused", "heart", "hooray", "eyes", "rocket")
        return {"url": f"{url}/reactions", "total_count": 0, **dict.fromkeys(kinds, 0)}

    # -- commits, refs, statuses --------------------------------------------------------------------------------------

    def branch(self, name: str, sha: str) -> Object:
        return {
            "name": name,
            "commit": {"sha": sha, "url": f"{self.repository_url}/commits/{sha}"},
            "protected": False,
        }

    def branch_by_itself(self, name: str, commit: Commit) -> Object:
        """Return a branch as the API shows it by itself."""
        url = f"{self.repository_url}/branches/{quote(name)}"
        return {
            "name": name,
            "commit": self.commit(commit),
            "_links": {"self": url, "html": f"{self.base_url}/{self.full_name}/tree/{quote(name)}"},
            "protected": False,
            "protection": {"enabled": False, "required_status_checks": {"contexts": [], "checks": []}},
            "protection_url": f"{url}/protection",
        }

    def git_ref(self, name: str, sha: str) -> Object:
        return {
            "ref": name,
            "node_id": f"REF_{quote(name, safe='')}",
            "url": f"{self.repository_url}/git/{quote(name)}",
            "object": {"type": "commit", "sha": sha, "url": f"{self.repository_url}/git/commits/{sha}"},
        }

    def commit(self, commit: Commit) -> Object:
        url = f"{self.repository_url}/commits/{commit.sha}"
        tree_url = f"{self.repository_url}/git/trees/{commit.tree}"
        return {
            "sha": commit.sha,
            "node_id": f"C_{commit.sha}",
            "url": url,
            "html_url": self._commit_page(commit.sha),
            "comments_url": f"{url}/comments",
            "commit": {
                "url": f"{self.repository_url}/git/commits/{commit.sha}",
                "message": commit.message,
                "author": _signed(commit.author),
                "committer": _signed(commit.committer),
                "tree": {"sha": commit.tree, "url": tree_url},
                "comment_count": 0,
                "verification": {
                    "verified": False,
                    "reason": "unsigned",
                    "signature": None,
                    "payload": None,
                    "verified_at": None,
                },
            },
            "author": None,
            "committer": None,
            "parents": [
                {
                    "sha": parent,
                    "url": f"{self.repository_url}/commits/{parent}",
                    "html_url": self._commit_page(parent),
                }
                for parent in commit.parents
            ],
        }

    def status(self, status: Status) -> Object:
        return {**self._simple_status(status), "creator": self.user(DEVELOPER)}

    def combined_status(self, sha: str, statuses: Sequence[Status], *, repository: Object) -> Object:
        """Return the combined status of a commit; `statuses` holds the newest of each context."""
        states = {status.state for status in statuses}
        state = "success"
        if states & {"error", "failure"}:
            state = "failure"
        elif not states or "pending" in states:
            state = "pending"
        return {
            "state": state,
            "sha": sha,
            "total_count": len(statuses),
            "statuses": [self._simple_status(status) for status in statuses],
            "repository": repository,
            "commit_url": f"{self.repository_url}/commits/{sha}",
            "url": f"{self.repository_url}/commits/{sha}/status",
        }

    def _simple_status(self, status: Status) -> Object:
        return {
            "url": f"{self.repository_url}/statuses/{status.sha}",
            "avatar_url": f"{self.base_url}/avatars/u/{DEVELOPER[1]}",
            "id": status.id,
            "node_id": f"SC_{status.id}",
            "state": status.state,
            "description": status.description,
            "target_url": status.target_url,
            "context": status.context,
            "created_at": status.created_at,
            "updated_at": status.created_at,
        }

    # -- webhooks -----------------------------------------------------------------------------------------------------

    def push(
        self,
        ref: str,
        *,
        before: str,
        after: str,
        forced: bool,
        commits: Iterable[Commit],
        head: Commit | None,
        repository: Object,
    ) -> Object:
        """Return the payload of a push to one ref."""
        short = f"{before[:12]}...{after[:12]}"
        return {
            "ref": ref,
            "before": before,
            "after": after,
            "repository": repository,
            "pusher": {"name": DEVELOPER[0], "email": f"{DEVELOPER[0]}@example.com"},
            "sender": self.user(DEVELOPER),
            "created": before == NO_SHA,
            "deleted": after == NO_SHA,
            "forced": forced,
            "base_ref": None,
            "compare": f"{self.base_url}/{self.full_name}/compare/{short}",
            "commits": [self._pushed_commit(commit) for commit in commits],
            "head_commit": None if head is None else self._pushed_commit(head),
        }

    def pull_event(self, action: str, pull: Object, *, repository: Object, more: Mapping[str, str]) -> Object:
        """Return the payload of a pull request's event."""
        return {
            "action": action,
            "number": pull["number"],
            "pull_request": pull,
            "repository": repository,
            "sender": self.user(DEVELOPER),
            **more,
        }

    def merge_group(self, ref: str, head: Commit, *, reason: str, repository: Object) -> Object:
        """Return the payload of the merge queue's event about a branch of it; `reason`: why it is gone, "" while it is
        there."""
        base, _, last = ref.removeprefix(QUEUE_REFS).rpartition("/")
        group: Object = {
            "head_sha": head.sha,
            "head_ref": ref,
            "base_sha": last.rpartition("-")[2],
            "base_ref": f"refs/heads/{base}",
            "head_commit": {
                "id": head.sha,
                "tree_id": head.tree,
                "message": head.message,
                "timestamp": head.committer.at,
                "author": {"name": head.author.name, "email": head.author.email},
                "committer": {"name": head.committer.name, "email": head.committer.email},
            },
        }
        payload: Object = {"action": "destroyed" if reason else "checks_requested", "merge_group": group}
        if reason:
            payload["reason"] = reason
        return {**payload, "repository": repository, "sender": self.user(DEVELOPER)}

    def delivery(self, delivery: Delivery) -> Object:
        """Return a delivery as it is in the list."""
        return {
            "id": delivery.id,
            "guid": delivery.guid,
            "delivered_at": delivery.delivered_at or delivery.created_at,
            "redelivery": delivery.redelivery,
            "duration": delivery.duration_s,
            "status": delivery.status,
            "status_code": delivery.status_code,
            "event": delivery.event,
            "action": delivery.action,
            "installation_id": None,
            "repository_id": REPOSITORY_ID,
            "throttled_at": None,
        }

    def _pushed_commit(self, commit: Commit) -> Object:
        return {
            "id": commit.sha,
            "tree_id": commit.tree,
            "distinct": True,
            "message": commit.message,
            "timestamp": commit.committer.at,
            "url": self._commit_page(commit.sha),
            "author": {"name": commit.author.name, "email": commit.author.email},
            "committer": {"name": commit.committer.name, "email": commit.committer.email},
            "added": list(commit.added),
            "removed": list(commit.removed),
            "modified": list(commit.modified),
        }

    def _commit_page(self, sha: str) -> str:
        return f"{self.base_url}/{self.full_name}/commit/{sha}"


def _signed(signature: Signature) -> Object:
    return {"name": signature.name, "email": signature.email, "date": signature.at}


def person(login: str) -> tuple[str, int]:
    """Return somebody's name and number."""
    known = {who[0]: who for who in (DEVELOPER, STRANGER)}
    return known.get(login, (login, 1_000 + crc32(login.encode())))
