"""A developer with a working clone: commits, pushes, opens pull requests, and looks at URLs and commit statuses.

The demo and the acceptance tests are told through it. It knows the stack file and nothing of the controller's inside.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx

from controller.awake_clock import AwakeClock
from controller.development.forge_limits import AT_THE_SITE
from controller.model.names import MAIN, preview_slot, status_context

PATIENCE_S = 60.0
#: What one look may take, at the most, as far as patience counts it.
ROUND_S = 10.0
LOOK_EVERY_S = 0.02
#: A look at the forge costs the machine more than one at a URL.
LOOK_AT_FORGE_EVERY_S = 0.1


class NotAsTold(Exception):
    """What should have happened did not, within its time."""


class Author:
    """One developer at one stack."""

    def __init__(self, stack: Mapping[str, object], *, token_file: Path, while_waiting: Callable[[], None]) -> None:
        self.stack = stack
        self.while_waiting = while_waiting
        self.clone = Path(str(stack["repository"]))
        self.repository = str(stack["forge_repository"])
        self.edge_port = int(str(stack["edge"]).rsplit(":", 1)[1])
        urls = stack["urls"]
        assert isinstance(urls, dict)
        self.urls: dict[str, str] = {str(k): str(v) for k, v in urls.items()}
        authorization = {"Authorization": f"Bearer {token_file.read_text().strip()}"}
        self.forge = httpx.Client(
            base_url=f"{stack['forge']}/api/v3/repos/{self.repository}",
            headers={**authorization, "Accept": "application/vnd.github+json", AT_THE_SITE: "yes"},
            timeout=10,
            trust_env=False,
        )
        self.forge_development = httpx.Client(
            base_url=str(stack["forge"]), headers=authorization, timeout=10, trust_env=False
        )
        self.titles: dict[str, str] = {}

    def close(self) -> None:
        """Close the connections."""
        self.forge.close()
        self.forge_development.close()

    # -- what a user does -------------------------------------------------------------------------------------------

    def git(self, *words: str) -> str:
        """Run git in the author's clone."""
        done = subprocess.run(["git", *words], cwd=self.clone, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise NotAsTold(f"git {' '.join(words)[:60]} failed: {done.stderr.strip()[-300:]}")
        return done.stdout.strip()

    def commit(self, title: str) -> str:
        """Commit everything; return the sha."""
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", title)
        sha = self.git("rev-parse", "HEAD")
        self.titles[sha] = title
        return sha

    def push(self, branch: str = "main") -> float:
        """Push a branch; return when the push ended."""
        self.git("push", "-q", "origin", f"HEAD:refs/heads/{branch}")
        return time.monotonic()

    def open_pull(self, branch: str, title: str) -> int:
        """Open a pull request of a pushed branch; return its number."""
        answer = self.forge.post("/pulls", json={"title": title, "head": branch, "base": "main"})
        if answer.status_code != 201:
            raise NotAsTold(f"opening a pull request: {answer.status_code} {answer.text[:200]}")
        return int(answer.json()["number"])

    def close_pull(self, number: int) -> None:
        """Close a pull request without merging it."""
        answer = self.forge.patch(f"/pulls/{number}", json={"state": "closed"})
        if answer.status_code != 200:
            raise NotAsTold(f"closing #{number}: {answer.status_code} {answer.text[:200]}")

    # -- what a user sees -------------------------------------------------------------------------------------------

    def host(self, slot: str) -> str:
        return self.urls[slot].removeprefix("http://")

    def get(self, slot: str, path: str) -> tuple[int, bytes]:
        """Ask a slot's URL, as curl would."""
        connection = http.client.HTTPConnection("127.0.0.1", self.edge_port, timeout=10)
        try:
            connection.request("GET", path, headers={"Host": self.host(slot)})
            answer = connection.getresponse()
            return answer.status, answer.read(1 << 20)
        finally:
            connection.close()

    def status(self, sha: str, slot: str = MAIN) -> tuple[str, str]:
        """Return state and description of a commit's newest status for a slot, as the forge shows it."""
        context = status_context(MAIN if slot == MAIN else preview_slot(1))
        answer = self.forge.get(f"/commits/{sha}/statuses")
        if answer.status_code != 200:
            return "", f"HTTP {answer.status_code}"
        for status in answer.json():
            if status["context"] == context:
                return str(status["state"]), str(status["description"])
        return "", ""

    def await_status(
        self, sha: str, *states: str, slot: str = MAIN, says: str = "", timeout_s: float = PATIENCE_S
    ) -> str:
        """Wait until the commit's status is one of `states` and says something; return the description."""
        seen = ("", "")

        def there() -> bool:
            nonlocal seen
            seen = self.status(sha, slot)
            return seen[0] in states and says in seen[1]

        what = f"{sha[:7]} is to be {'/'.join(states)} {says!r}"
        self.wait(there, lambda: f"{what}, the forge says {seen}", timeout_s=timeout_s, every_s=LOOK_AT_FORGE_EVERY_S)
        return seen[1]

    def wait(
        self,
        there: Callable[[], bool],
        what: Callable[[], str],
        *,
        timeout_s: float = PATIENCE_S,
        every_s: float = LOOK_EVERY_S,
    ) -> None:
        """Look every `every_s` until something is true, showing the steady line; NotAsTold when it is not in time.

        A look that gets no answer has seen nothing, and is followed by the next."""

        def is_there() -> bool:
            try:
                return there()
            except (OSError, http.client.HTTPException, httpx.TransportError):
                return False

        awake = AwakeClock(ROUND_S)
        while not is_there():
            if awake.elapsed_s() > timeout_s:
                raise NotAsTold(f"after {timeout_s:g} s: {what()}")
            looked_at = time.monotonic()
            while time.monotonic() < looked_at + every_s:
                self.while_waiting()
                time.sleep(LOOK_EVERY_S)

    def await_serving(self, sha: str, slot: str = MAIN) -> None:
        """Wait until a slot's URL answers with that release."""

        def there() -> bool:
            status, body = self.get(slot, "/api/visits")
            return status == 200 and json.loads(body).get("release") == sha

        self.wait(there, lambda: f"{self.urls[slot]} is to serve {sha[:7]}, it says {self.get(slot, '/api/visits')}")
