"""How do requests to the forge travel? A thin sync adapter of httpx around `decisions/github`.

Every wait and every body has a limit and no proxy is taken from the environment. One request is in flight at a time,
writes keep their distance, and a limit of the forge is kept by everything that asks through the same client: what may
not be asked yet is an error at once, which names the time. Errors never name a header.

Safe to repeat: reading changes nothing, and of two equal statuses the newest counts. Safe to use from several threads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol, Self

import httpx

from controller.decisions.github import checks, comments, conversation, deployments
from controller.decisions.github import repository as protocol
from controller.decisions.github.checks import CheckRun, ShownCheck
from controller.decisions.github.comments import Author, ShownComment
from controller.decisions.github.conversation import SaidPage
from controller.decisions.github.exchange import (
    Asked,
    Known,
    Read,
    Renew,
    Send,
    after,
    conditional,
    settled,
    to_know,
)
from controller.decisions.github.identity import Identity
from controller.decisions.github.limits import WRITE_PAUSE_S, Pace, may_ask_at, paced, raise_quiet, restored
from controller.decisions.github.repository import PostedStatus, Repository
from controller.decisions.github.wire import Reply, Request, api_base, git_url, with_token
from controller.model.errors import Unavailable
from controller.model.names import Sha
from controller.model.nouns import Permission, PullRequest
from controller.model.reports import WantedDeployment, WantedStatus

REPLY_TIMEOUT_S: Final = 10.0
#: For a whole exchange, however slowly the bytes drip.
EXCHANGE_TIMEOUT_S: Final = 30.0
#: A page of 100 pull requests with long texts takes several megabytes.
REPLY_BYTES_MAX: Final = 32 << 20
LISTINGS_MAX: Final = 4
#: A pause between two writes is waited for; anything longer is an error that names the time.
PAUSE_S_MAX: Final = 2.0
#: Replies that are asked for again by their tag.
KNOWN_MAX: Final = 64
KNOWN_BYTES_MAX: Final = 4 << 20

log = logging.getLogger(__name__)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Memory(Protocol):
    """Where the pace outlives the process."""

    def load_pace(self) -> Pace: ...

    def record_pace(self, pace: Pace) -> None: ...


class Client:
    """All that one process asks of one forge."""

    def __init__(
        self,
        base_url: str,
        *,
        clock: Callable[[], datetime] = _utc_now,
        write_pause_s: float = WRITE_PAUSE_S,
        sleep: Callable[[float], None] = time.sleep,
        transport: httpx.BaseTransport | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.clock = clock
        self._api = api_base(self.base_url)
        self._sleep = sleep
        self._memory = memory
        self._kept = Pace(write_pause_s=write_pause_s)
        self._pace = self._kept
        if memory is not None:
            self._pace = self._kept = restored(memory.load_pace(), write_pause_s=write_pause_s, now=clock())
        self._in_flight = threading.Lock()
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._client = httpx.Client(
            timeout=httpx.Timeout(REPLY_TIMEOUT_S, connect=5.0),
            limits=httpx.Limits(max_connections=4, max_keepalive_connections=2, keepalive_expiry=20.0),
            follow_redirects=False,
            trust_env=False,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(self, request: Request) -> Reply:
        """Send a request that carries its own token, and return the last reply; redirects are followed."""
        return self._exchange(Asked(request=request))[1]

    def ask_as(self, identity: Identity, request: Request) -> tuple[Reply, bool]:
        """Send a request with a token of `identity`, with a new one once if it is refused.

        Returns the reply, and whether a redirect said that the address has changed for good."""
        token = identity.token()
        asked, reply, is_refused = self._exchange(Asked(request=with_token(request, token)))
        if is_refused and token is not None and identity.renew(token):
            again = replace(asked, request=with_token(asked.request, identity.token()))
            asked, reply, _ = self._exchange(again)
        return reply, asked.is_moved

    def _exchange(self, asked: Asked) -> tuple[Asked, Reply, bool]:
        """Send and follow until there is an answer; say, too, whether a new token may help."""
        while True:
            reply = self._send(asked.request)
            match after(asked, reply, base_url=self._api):
                case Read():
                    return asked, reply, False
                case Send(asked=following):
                    asked = following
                case Renew(asked=again):
                    return again, reply, True

    def _send(self, request: Request) -> Reply:
        where = f"{request.method} {request.path.partition('?')[0]}"
        if not self._in_flight.acquire(timeout=EXCHANGE_TIMEOUT_S):
            raise Unavailable("ForgeTimedOut", f"{where}: the request before it has not ended yet")
        try:
            self._keep_pace(request, where)
            known = self._known.get(request.path)
            reply = None
            try:
                reply = self._receive(conditional(request, known), where)
            finally:
                self._pace = paced(self._pace, request, reply, now=self.clock())
                self._keep()
            self._remember(request, reply)
            return settled(reply, known)
        finally:
            self._in_flight.release()

    def _keep(self) -> None:
        """Let the next process know the pace, if it changed."""
        if self._memory is None or self._pace == self._kept:
            return
        try:
            self._memory.record_pace(self._pace)
        except Unavailable as error:
            log.warning("forge: the pace is not kept: %s", error, extra={"action": "forge.pace"})
        else:
            self._kept = self._pace

    def _keep_pace(self, request: Request, where: str) -> None:
        now = self.clock()
        at = may_ask_at(self._pace, request, now=now)
        if at > now + timedelta(seconds=PAUSE_S_MAX):
            raise_quiet(self._pace.quiet_of(request), at=at, what=where)
        if at > now:
            self._sleep((at - now).total_seconds())

    def _remember(self, request: Request, reply: Reply) -> None:
        found = to_know(request, reply)
        if found is not None and len(reply.body) <= KNOWN_BYTES_MAX:
            self._known[request.path] = found
            self._known.move_to_end(request.path)
            while len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)

    def _receive(self, request: Request, where: str) -> Reply:
        deadline = time.monotonic() + EXCHANGE_TIMEOUT_S
        try:
            with self._client.stream(
                request.method,
                self._api + request.path,
                headers={"Accept-Encoding": "gzip", **request.headers},
                content=request.body or None,
            ) as answer:
                body = bytearray()
                for piece in answer.iter_bytes(64 << 10):
                    body += piece
                    if len(body) > REPLY_BYTES_MAX:
                        raise Unavailable("ForgeReplyInvalid", f"{where}: more than {REPLY_BYTES_MAX} bytes")
                    if time.monotonic() > deadline:
                        raise Unavailable("ForgeTimedOut", f"{where}: not answered in {EXCHANGE_TIMEOUT_S:g} s")
                headers = {name.lower(): value for name, value in answer.headers.items()}
                return Reply(status=answer.status_code, headers=headers, body=bytes(body))
        except httpx.TimeoutException as error:
            raise Unavailable("ForgeTimedOut", f"{where}: {type(error).__name__} at {self.base_url}") from error
        except httpx.DecodingError as error:
            raise Unavailable("ForgeReplyInvalid", f"{where}: the answer cannot be unpacked") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable("ForgeUnreachable", f"{where}: {type(error).__name__} at {self.base_url}") from error


class Forge:
    """One repository at one forge."""

    def __init__(self, client: Client, repository: str, identity: Identity) -> None:
        self._client = client
        self._repository = repository
        self._identity = identity
        #: Redirects led to another address for good: the repository has another name now.
        self._is_moved = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @property
    def git_url(self) -> str:
        """The address from which git fetches: that of the newest name that we know."""
        return git_url(self._client.base_url, self._repository)

    @property
    def is_moved(self) -> bool:
        """Say whether the forge told that the repository was renamed, and its new name was not asked for yet."""
        return self._is_moved

    def repository(self) -> Repository:
        """Return what the forge says of the repository. From then on it is asked for by the name that it has now."""
        reply = self._send(protocol.get_repository(self._repository))
        found = protocol.read_repository(reply, now=self._client.clock())
        self._repository, self._is_moved = found.full_name, False
        return found

    def open_pulls(self) -> tuple[PullRequest, ...]:
        """Return every open pull request; Unavailable rather than a list in which one may be missing.

        What is closed or reopened between two pages shifts the others across their border, where one can be missed.
        So a list of several pages counts once two in a row name the same pull requests.
        """
        pulls, pages = self._list_pulls()
        if pages == 1:
            return pulls
        for _ in range(LISTINGS_MAX):
            before = {pull.number for pull in pulls}
            pulls, _ = self._list_pulls()
            if {pull.number for pull in pulls} == before:
                return pulls
        raise Unavailable("ForgeListingUnstable", "the list of pull requests changes faster than it can be read")

    def post_status(self, report: WantedStatus) -> None:
        """Set a commit's status; Stalled when the forge refuses it for good."""
        reply = self._send(protocol.create_status(self._repository, report))
        protocol.read_created_status(reply, now=self._client.clock())

    def statuses(self, sha: Sha) -> tuple[PostedStatus, ...]:
        """Return the newest statuses of a commit, the newest first."""
        reply = self._send(protocol.list_statuses(self._repository, sha))
        return protocol.read_statuses(reply, now=self._client.clock())

    # -- check runs, deployments, comments ----------------------------------------------------------------------------

    def write_check(self, check: CheckRun, *, number: int | None) -> int:
        """Make a check run, or change the one of that id; return its id. Stalled when it is refused for good."""
        if number is None:
            request = checks.create_check(self._repository, check)
        else:
            request = checks.update_check(self._repository, number, check)
        return checks.read_written_check(self._send(request), is_new=number is None, now=self._client.clock())

    def check(self, number: int) -> ShownCheck | None:
        """Return a check run; None when there is none of that id."""
        return checks.read_check(self._send(checks.get_check(self._repository, number)), now=self._client.clock())

    def checks(self, sha: Sha, *, name: str, app_id: int) -> tuple[ShownCheck, ...]:
        """Return the check runs of a commit that have a name and are of an App, the newest first."""
        reply = self._send(checks.list_checks(self._repository, sha, name=name, app_id=app_id))
        return checks.read_checks(reply, now=self._client.clock())

    def make_deployment(self, wanted: WantedDeployment) -> int:
        """Make a deployment; return its id. Stalled when it is refused for good."""
        reply = self._send(deployments.create_deployment(self._repository, wanted))
        return deployments.read_created_deployment(reply, now=self._client.clock())

    def find_deployment(self, wanted: WantedDeployment) -> int | None:
        """Return the deployment that was made for this run, or None."""
        reply = self._send(deployments.list_deployments(self._repository, wanted.sha, wanted.environment))
        found = deployments.read_deployments(reply, now=self._client.clock())
        return next((one.id for one in found if one.run == wanted.generation), None)

    def post_deployment_status(self, number: int, wanted: WantedDeployment) -> None:
        """Say how a deployment stands; Stalled when it is refused for good."""
        # What there is to read of it is at the commit.
        page = f"{self._client.base_url}/{self._repository}/commit/{wanted.sha}"
        reply = self._send(deployments.create_deployment_status(self._repository, number, wanted, log_url=page))
        deployments.read_created_deployment_status(reply, now=self._client.clock())

    def deployment_status(self, number: int) -> tuple[str, str] | None:
        """Return (state, description) of a deployment's newest status, None when it has none."""
        reply = self._send(deployments.list_deployment_statuses(self._repository, number))
        return deployments.read_newest_deployment_status(reply, now=self._client.clock())

    def user_id(self) -> int:
        """Return the id of the account whose token we have."""
        return comments.read_user(self._send(comments.get_user()), now=self._client.clock())

    def write_comment(self, pull_request: int, body: str, *, number: int | None) -> int:
        """Write a comment, or change the one of that id; return its id. Stalled when it is refused for good."""
        if number is None:
            request = comments.create_comment(self._repository, pull_request, body)
        else:
            request = comments.update_comment(self._repository, number, body)
        return comments.read_written_comment(self._send(request), is_new=number is None, now=self._client.clock())

    def comment(self, number: int) -> ShownComment | None:
        """Return a comment; None when it was removed."""
        reply = self._send(comments.get_comment(self._repository, number))
        return comments.read_comment(reply, now=self._client.clock())

    def find_comment(self, pull_request: int, us: Author) -> ShownComment | None:
        """Return the comment that we wrote at a pull request, the oldest if there are more, or None."""
        page: int | None = 1
        while page is not None:
            reply = self._send(comments.list_comments(self._repository, pull_request, page=page))
            listed = comments.read_comments_page(reply, page=page, now=self._client.clock())
            found = next((one for one in listed.comments if one.is_ours(us)), None)
            if found is not None:
                return found
            page = listed.next_page
        return None

    # -- what people say ----------------------------------------------------------------------------------------------

    def said(self, *, since: datetime, page: int) -> SaidPage:
        """Return a page of the comments that changed since then, by the forge's clock."""
        reply = self._send(conversation.list_said(self._repository, since=since, page=page))
        return conversation.read_said_page(reply, page=page, now=self._client.clock())

    def permission(self, login: str) -> Permission:
        """Return what somebody may do in the repository, now."""
        reply = self._send(conversation.get_permission(self._repository, login))
        return conversation.read_permission(reply, now=self._client.clock())

    def pull(self, number: int) -> tuple[PullRequest, bool] | None:
        """Return a pull request as it is now, and whether it is open; None when there is none."""
        reply = self._send(conversation.get_pull(self._repository, number))
        return conversation.read_one_pull(reply, now=self._client.clock())

    def react(self, comment_id: int, content: str) -> None:
        """React to a comment; Stalled when it is refused for good. The same again changes nothing."""
        reply = self._send(conversation.create_reaction(self._repository, comment_id, content))
        conversation.read_reaction(reply, now=self._client.clock())

    def _list_pulls(self) -> tuple[tuple[PullRequest, ...], int]:
        """Return the open pull requests of one pass over the pages, and how many pages there were."""
        found: dict[int, PullRequest] = {}
        page: int | None = 1
        pages = 0
        while page is not None:
            reply = self._send(protocol.list_open_pulls(self._repository, page=page))
            listed = protocol.read_pulls_page(reply, page=page, now=self._client.clock())
            found.update((pull.number, pull) for pull in listed.pulls)
            page, pages = listed.next_page, pages + 1
        return tuple(found[number] for number in sorted(found)), pages

    def _send(self, request: Request) -> Reply:
        reply, is_moved = self._client.ask_as(self._identity, request)
        self._is_moved = self._is_moved or is_moved
        return reply
