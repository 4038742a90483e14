"""How do requests to the forge travel? A thin sync adapter of httpx around `decisions/github_protocol`.

Every wait and every body has a limit, no redirect is followed, no proxy is taken from the environment, and the token
is read from its file at each request, so that a new one takes effect at once. Errors never name a header.

Safe to repeat: reading changes nothing, and of two equal statuses the newest counts. Safe to use from several threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

import httpx

from controller.decisions import github_protocol as protocol
from controller.decisions.github_protocol import PostedStatus, Reply, Repository, Request
from controller.model.errors import Unavailable
from controller.model.names import Sha
from controller.model.nouns import PullRequest, WantedReport

REPLY_TIMEOUT_S: Final = 10.0
#: For a whole exchange, however slowly the bytes drip.
EXCHANGE_TIMEOUT_S: Final = 30.0
#: A page of 100 pull requests with long texts takes several megabytes.
REPLY_BYTES_MAX: Final = 32 << 20
TOKEN_BYTES_MAX: Final = 4096
LISTINGS_MAX: Final = 4


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Forge:
    """One repository at one forge."""

    def __init__(
        self,
        base_url: str,
        repository: str,
        token_file: Path | None,
        *,
        clock: Callable[[], datetime] = _utc_now,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._repository = repository
        self._token_file = token_file
        self._clock = clock
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

    @property
    def git_url(self) -> str:
        """The address from which git fetches."""
        return f"{self._base_url}/{self._repository}.git"

    def repository(self) -> Repository:
        """Return what the forge says of the repository."""
        reply = self._send(protocol.get_repository(self._repository, token=self._token()))
        return protocol.read_repository(reply, now=self._clock())

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

    def post_status(self, report: WantedReport) -> None:
        """Set a commit's status; Stalled when the forge refuses it for good."""
        reply = self._send(protocol.create_status(self._repository, report, token=self._token()))
        protocol.read_created_status(reply, now=self._clock())

    def statuses(self, sha: Sha) -> tuple[PostedStatus, ...]:
        """Return the newest statuses of a commit, the newest first."""
        reply = self._send(protocol.list_statuses(self._repository, sha, token=self._token()))
        return protocol.read_statuses(reply, now=self._clock())

    def _list_pulls(self) -> tuple[tuple[PullRequest, ...], int]:
        """Return the open pull requests of one pass over the pages, and how many pages there were."""
        found: dict[int, PullRequest] = {}
        page: int | None = 1
        pages = 0
        while page is not None:
            reply = self._send(protocol.list_open_pulls(self._repository, page=page, token=self._token()))
            listed = protocol.read_pulls_page(reply, page=page, now=self._clock())
            found.update((pull.number, pull) for pull in listed.pulls)
            page, pages = listed.next_page, pages + 1
        return tuple(found[number] for number in sorted(found)), pages

    def _token(self) -> str | None:
        if self._token_file is None:
            return None
        try:
            with self._token_file.open("rb") as file:
                content = file.read(TOKEN_BYTES_MAX + 1).strip()
        except OSError as error:
            raise Unavailable(
                "ForgeTokenUnreadable", f"{self._token_file} cannot be read: {error.strerror or type(error).__name__}"
            ) from error
        # Checked here, since the HTTP library would put an illegal header's value into its error.
        if not 0 < len(content) <= TOKEN_BYTES_MAX or not all(0x21 <= byte <= 0x7E for byte in content):
            raise Unavailable(
                "ForgeTokenUnreadable",
                f"{self._token_file} holds no token: one line of 1 to {TOKEN_BYTES_MAX} printable ASCII characters",
            )
        return content.decode("ascii")

    def _send(self, request: Request) -> Reply:
        where = f"{request.method} {request.path.partition('?')[0]}"
        deadline = time.monotonic() + EXCHANGE_TIMEOUT_S
        try:
            with self._client.stream(
                request.method,
                protocol.api_base(self._base_url) + request.path,
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
            raise Unavailable("ForgeTimedOut", f"{where}: {type(error).__name__} at {self._base_url}") from error
        except httpx.DecodingError as error:
            raise Unavailable("ForgeReplyInvalid", f"{where}: the answer cannot be unpacked") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable("ForgeUnreachable", f"{where}: {type(error).__name__} at {self._base_url}") from error
