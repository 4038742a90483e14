"""What happens at the development forge? Refs move, pull requests change, and each change is told by one webhook.

A delivery is queued when its change is recorded, and sent afterwards by one sender, in order. As at GitHub it has ten
seconds, is recorded, and is never sent again by itself. Knobs lose, double, delay and shuffle deliveries.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import httpx

from controller.development.forge_git import GitRepository
from controller.development.forge_records import DELIVERIES_KEPT, Records, closed
from controller.development.forge_shapes import (
    HOOK_ID,
    NO_SHA,
    REPOSITORY_ID,
    Delivery,
    Json,
    Object,
    Origin,
    Pull,
    Shapes,
)
from controller.model.names import QUEUE_REFS

DELIVERY_TIMEOUT_S: Final = 10.0
ANSWER_BYTES_MAX: Final = 1 << 20
#: So many deliveries are kept back at most until they are sent in another order.
REORDERED_MAX: Final = 100

log = logging.getLogger(__name__)


class Problem(Exception):
    """An answer that is not the one that was asked for, in GitHub's shape."""

    def __init__(
        self, status: int, message: str, *, errors: Sequence[Object] = (), headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.content: Object = {"message": message, "documentation_url": "https://docs.github.com/rest"}
        self.content["status"] = str(status)
        if errors:
            self.content["errors"] = list(errors)
        self.headers = headers or {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A limit that the API plays: which of the documented shapes, and until when."""

    shape: str
    status: int
    #: By the clock of the limits.
    ends_at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AppHook:
    """The webhook of an App that is installed."""

    app_id: int
    installation_id: int
    url: str
    secret: str
    events: tuple[str, ...]


@dataclass(slots=True)
class Knobs:
    """What a test or a demo asked to go wrong."""

    drop_count: int = 0
    #: The next webhooks are sent twice, under one id.
    double_count: int = 0
    #: How much later each webhook is sent.
    delay_s: float = 0.0
    #: So many of the next webhooks are kept back, and then sent in an order that the seed draws.
    reorder_count: int = 0
    reorder_seed: int = 0
    #: Webhooks are queued and not sent.
    paused: bool = False
    outage_ends_at_s: float = 0.0
    #: How much later each answer of the API comes.
    slow_s: float = 0.0
    limit: Limit | None = None
    #: The next answers of the API under a path: (how many, which status, the beginning of the path).
    failures: tuple[int, int, str] = (0, 500, "")
    #: How much the forge's clock is ahead of this machine's.
    clock_ahead_s: float = 0.0


@dataclass(slots=True)
class Forge:
    """One repository, its pull requests and its webhook."""

    git: GitRepository
    records: Records
    shapes: Shapes
    webhook_url: str
    webhook_secret_file: Path
    token_file: Path
    knobs: Knobs = field(default_factory=Knobs)
    #: Names that the repository had before; both the API and git redirect them.
    former_names: set[str] = field(default_factory=set)
    #: An App that is installed hears what happens, in place of the repository's own webhook.
    app_hook: Callable[[], AppHook | None] = lambda: None
    #: Held while refs and pull requests change, so that each delivery tells of exactly one change.
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    has_unsent: asyncio.Event = field(default_factory=asyncio.Event)
    #: When deliveries were queued, of those that this process queued: a delay counts from then.
    queued_at_s: dict[int, float] = field(default_factory=dict)

    def now_text(self) -> str:
        """Return the present instant by the forge's clock."""
        return utc_text(ahead_s=self.knobs.clock_ahead_s)

    def rename(self, repository: str) -> None:
        """Give the repository another name; the old one leads to the new one."""
        self.former_names.add(self.shapes.full_name.lower())
        self.former_names.discard(repository.lower())
        self.shapes.rename(repository)
        self.records.set_fact("names", json.dumps([repository, sorted(self.former_names)]))

    # -- shapes of what there is --------------------------------------------------------------------------------------

    def repository_shape(self) -> Object:
        return self.shapes.repository(open_pulls=self.records.count_open_pulls(), pushed_at=self._pushed_at())

    def full_repository_shape(self) -> Object:
        return self.shapes.full_repository(open_pulls=self.records.count_open_pulls(), pushed_at=self._pushed_at())

    def pull_simple_shapes(self, pulls: Sequence[Pull]) -> list[Json]:
        repository, fork = self.repository_shape(), self._fork_shape()
        return [self.shapes.pull_simple(pull, repository=repository, fork=fork) for pull in pulls]

    def pull_shape(self, pull: Pull) -> Object:
        changes = self.git.changes(pull.base_sha, pull.head_sha)
        return self.shapes.pull(pull, changes, repository=self.repository_shape(), fork=self._fork_shape())

    def _fork_shape(self) -> Object:
        return self.shapes.repository(open_pulls=0, pushed_at=self._pushed_at(), origin="fork")

    def _pushed_at(self) -> str:
        return self.records.keep_fact("pushed_at", self.shapes.created_at)

    # -- events -------------------------------------------------------------------------------------------------------

    def deliver(self, event: str, action: str | None, payload: Object) -> None:
        """Queue a webhook; it is sent when its turn comes."""
        if self.knobs.drop_count > 0:
            self.knobs.drop_count -= 1
            log.info("forge: %s is dropped, as asked", event)
            return
        hook = self.app_hook()
        if hook is not None:
            if event not in hook.events:
                return
            payload = {**payload, "installation": {"id": hook.installation_id, "node_id": "I_77"}}
        body = json.dumps(payload, separators=(",", ":")).encode()
        guid = str(uuid.uuid4())
        self.queue(guid=guid, event=event, action=action, body=body, redelivery=False)
        if self.knobs.double_count > 0:
            self.knobs.double_count -= 1
            log.info("forge: %s is doubled, as asked", event)
            self.queue(guid=guid, event=event, action=action, body=body, redelivery=False)

    def queue(self, *, guid: str, event: str, action: str | None, body: bytes, redelivery: bool) -> None:
        """Queue a delivery."""
        number = self.records.add_delivery(
            guid=guid, event=event, action=action, body=body, redelivery=redelivery, now=self.now_text()
        )
        self.queued_at_s[number] = time.monotonic()
        self.queued_at_s.pop(number - DELIVERIES_KEPT, None)
        self.has_unsent.set()

    def deliver_pull(self, action: str, pull: Pull, **more: str) -> None:
        """Queue the event of a pull request."""
        shape = self.pull_shape(pull)
        payload = self.shapes.pull_event(action, shape, repository=self.repository_shape(), more=more)
        self.deliver("pull_request", action, payload)

    def note_ref_moves(self, before: dict[str, str], after: dict[str, str]) -> None:
        """Tell of every branch and tag that moved, and of what that means to pull requests."""
        moved = [
            (ref, before.get(ref), after.get(ref))
            for ref in sorted({*before, *after})
            if before.get(ref) != after.get(ref)
        ]
        if moved:
            self.records.set_fact("pushed_at", self.now_text())
        for ref, old, new in moved:
            log.info("forge: %s moves from %s to %s", ref[:100], (old or NO_SHA)[:7], (new or NO_SHA)[:7])
            self._deliver_push(ref, old, new)
            if ref.startswith("refs/heads/"):
                self._note_branch(ref.removeprefix("refs/heads/"), old, new)
            if ref.startswith(QUEUE_REFS):
                self._deliver_merge_group(ref, old, new, after)

    def _deliver_merge_group(self, ref: str, old: str | None, new: str | None, refs: dict[str, str]) -> None:
        """Tell of a branch of the merge queue as GitHub does, whose queue alone writes these: it asks for checks, and
        is done with the entry, since its base has it or somebody took it out."""
        head = self.git.load_commit(new or old or NO_SHA, files=False)
        if head is None:
            return
        base = refs.get(f"refs/heads/{ref.removeprefix(QUEUE_REFS).rpartition('/')[0]}")
        gone = "merged" if base is not None and self.git.contains(base, head.sha) else "dequeued"
        payload = self.shapes.merge_group(
            ref, head, reason="" if new is not None else gone, repository=self.repository_shape()
        )
        self.deliver("merge_group", str(payload["action"]), payload)

    def _deliver_push(self, ref: str, old: str | None, new: str | None) -> None:
        is_branch = ref.startswith("refs/heads/")
        payload = self.shapes.push(
            ref,
            before=old or NO_SHA,
            after=new or NO_SHA,
            forced=is_branch and old is not None and new is not None and not self.git.contains(new, old),
            commits=self.git.new_commits(old, new) if is_branch and new is not None else (),
            head=self.git.load_commit(new, files=True) if new is not None else None,
            repository=self.repository_shape(),
        )
        self.deliver("push", None, payload)

    def _note_branch(self, branch: str, old: str | None, new: str | None) -> None:
        now = self.now_text()
        for pull in self.records.load_open_pulls():
            if pull.origin == "own" and pull.head_branch == branch:
                if new is None:
                    self.change_pull(closed(pull, now=now), "closed")
                else:
                    self.git.set_pull_head(pull.number, new)
                    changed = replace(pull, head_sha=new, updated_at=now)
                    self.change_pull(changed, "synchronize", before=old or NO_SHA, after=new)
            elif pull.base_branch == branch and new is not None and self.git.contains(new, pull.head_sha):
                self.change_pull(closed(pull, now=now, merge_commit_sha=new), "closed")

    def note_missed_moves(self) -> None:
        """Let open pull requests follow branches that moved just before the forge was killed."""
        recorded = {pull.head_branch: pull.head_sha for pull in self.records.load_open_pulls() if pull.origin == "own"}
        for branch, sha in recorded.items():
            head = self.git.branch_head(branch)
            if head != sha:
                self._note_branch(branch, sha, head)

    def change_pull(self, pull: Pull, action: str, **more: str) -> None:
        """Record what a pull request has become, and tell of it."""
        self.records.replace_pull(pull)
        self.deliver_pull(action, pull, **more)

    def open_pull(self, *, title: str, body: str | None, branch: str, base: str, origin: Origin) -> Pull:
        """Open a pull request of a branch, and tell of it."""
        head_sha, base_sha = self.git.branch_head(branch), self.git.branch_head(base)
        if head_sha is None:
            raise invalid("PullRequest", "head")
        if base_sha is None:
            raise invalid("PullRequest", "base")
        if origin == "own":
            if any(
                pull.origin == "own" and (pull.head_branch, pull.base_branch) == (branch, base)
                for pull in self.records.load_open_pulls()
            ):
                told = f"A pull request already exists for {self.shapes.owner}:{branch}."
                raise invalid("PullRequest", None, message=told)
            if self.git.contains(base_sha, head_sha):
                raise invalid("PullRequest", None, message=f"No commits between {base} and {branch}")
        pull = self.records.add_pull(
            title=title, body=body, head=(branch, head_sha), base=(base, base_sha), origin=origin, now=self.now_text()
        )
        self.git.set_pull_head(pull.number, head_sha)
        self.deliver_pull("opened", pull)
        return pull

    # -- sending ------------------------------------------------------------------------------------------------------

    async def send_forever(self) -> None:
        """Send what is queued, one at a time, in order unless another was asked for."""
        async with httpx.AsyncClient(timeout=DELIVERY_TIMEOUT_S, trust_env=False, follow_redirects=False) as client:
            while True:
                self.has_unsent.clear()
                due, wait_s = self._due()
                for delivery in due:
                    await self._send(client, delivery)
                    self.queued_at_s.pop(delivery.id, None)
                if not due:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(wait_s):
                            await self.has_unsent.wait()

    def _due(self) -> tuple[list[Delivery], float | None]:
        """Return what is sent next, and in how many seconds there may be something where it is nothing."""
        knobs = self.knobs
        found = [] if knobs.paused else self.records.load_unsent(at_most=max(1, knobs.reorder_count))
        if not found or len(found) < knobs.reorder_count:
            return [], None
        if knobs.delay_s > 0:
            wait_s = self.queued_at_s.get(found[-1].id, 0.0) + knobs.delay_s - time.monotonic()
            if wait_s > 0:
                return [], wait_s
        if knobs.reorder_count > 0:
            random.Random(knobs.reorder_seed).shuffle(found)  # noqa: S311 - the same each time
            knobs.reorder_count = 0
        return found, None

    async def _send(self, client: httpx.AsyncClient, delivery: Delivery) -> None:
        began_s = time.monotonic()
        status, status_code = "", 0
        try:
            headers = self._delivery_headers(delivery)
            async with asyncio.timeout(DELIVERY_TIMEOUT_S):
                hook = self.app_hook()
                url = self.webhook_url if hook is None else hook.url
                async with client.stream("POST", url, content=delivery.body, headers=headers) as answer:
                    status_code, status = answer.status_code, answer.reason_phrase or "OK"
                    size = 0
                    async for piece in answer.aiter_raw(64 << 10):
                        size += len(piece)
                        if size > ANSWER_BYTES_MAX:
                            break
        except (TimeoutError, httpx.TimeoutException):
            status, status_code = "timed out", 504
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            status, status_code = f"failed to connect to host: {type(error).__name__}", 502
        except (OSError, ValueError) as error:
            status, status_code = f"the webhook secret cannot be read: {type(error).__name__}", 502
        took_s = time.monotonic() - began_s
        log.info("forge: %s %s: %s %s after %.3f s", delivery.event, delivery.guid, status_code, status, took_s)
        self.records.record_sent(
            delivery, at=self.now_text(), duration_s=round(took_s, 3), status=status, status_code=status_code
        )

    def _delivery_headers(self, delivery: Delivery) -> dict[str, str]:
        hook = self.app_hook()
        secret = read_first_line(self.webhook_secret_file) if hook is None else hook.secret
        mac = hmac.new(secret.encode(), delivery.body, hashlib.sha256)
        return {**self.plain_headers(delivery), "X-Hub-Signature-256": f"sha256={mac.hexdigest()}"}

    def plain_headers(self, delivery: Delivery) -> dict[str, str]:
        """Return a delivery's headers without its signature."""
        hook = self.app_hook()
        return {
            "Accept": "*/*",
            "Content-Type": "application/json",
            "User-Agent": "GitHub-Hookshot/0000000",
            "X-GitHub-Delivery": delivery.guid,
            "X-GitHub-Event": delivery.event,
            "X-GitHub-Hook-ID": str(HOOK_ID),
            "X-GitHub-Hook-Installation-Target-ID": str(REPOSITORY_ID if hook is None else hook.app_id),
            "X-GitHub-Hook-Installation-Target-Type": "repository" if hook is None else "integration",
        }


def read_first_line(path: Path) -> str:
    """Return the first line of a file of secrets that is neither empty nor a comment; ValueError when there is none."""
    for line in path.read_text().splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            return line.strip()
    raise ValueError(f"{path} is empty")


def utc_text(*, ahead_s: float = 0.0) -> str:
    """Return the present instant as GitHub writes it."""
    return (datetime.now(UTC) + timedelta(seconds=ahead_s)).strftime("%Y-%m-%dT%H:%M:%SZ")


def invalid(resource: str, key: str | None, *, code: str = "invalid", message: str | None = None) -> Problem:
    """Return GitHub's refusal of a field, or of the whole with a message."""
    error: Object = {"resource": resource, "code": code if message is None else "custom"}
    if key is not None:
        error["field"] = key
    if message is not None:
        error["message"] = message
    return Problem(422, "Validation Failed", errors=[error])
