"""How does a test get a development forge? In its own process, with a fresh folder, a token, a secret and clones.

with run_forge(folder, webhook_url=..., port=...) as forge:
    clone = forge.clone()
    clone.commit("Begin", page="one")
    clone.push()
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from controller.development.forge_client import clone_for_author
from controller.development.parts import Part, PartSpec
from controller.effects.github_http import Client, Forge
from controller.effects.github_identity import TokenFile
from tests.published import VIOLATIONS

REPOSITORY = "acme/shop"
#: Nothing may ever show it: no log, no error, no clone.
CANARY = "ghs_canary." + "Tk0" * 170
SECRET = "w3bh00k-s3cret-of-the-tests"


@dataclass(slots=True)
class Clone:
    """A working clone of an author."""

    path: Path

    def git(self, *words: str, fails: bool = False) -> str:
        done = subprocess.run(
            ["git", *words], cwd=self.path, capture_output=True, text=True, timeout=30, check=False, env=QUIET
        )
        assert (done.returncode != 0) == fails, done.stderr
        return (done.stderr if fails else done.stdout).strip()

    def commit(self, title: str, **files: str) -> str:
        for name, content in files.items():
            (self.path / name).write_text(content)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", title)
        return self.git("rev-parse", "HEAD")

    def push(self, branch: str = "main", *, force: bool = False) -> None:
        self.git("push", "-q", *(["--force"] if force else []), "origin", f"HEAD:refs/heads/{branch}")


QUIET = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}


@dataclass(slots=True)
class ForgeUnderTest:
    """A development forge in its own process."""

    folder: Path
    url: str
    repository: str
    part: Part
    api: httpx.Client
    knobs: httpx.Client
    client: Forge
    token_file: Path
    secret_file: Path
    log_file: Path

    def clone(self, name: str = "work") -> Clone:
        clone_for_author(self.url, self.repository, self.token_file, self.folder / name)
        return Clone(self.folder / name)

    def open_pull(self, branch: str, title: str = "A title") -> dict[str, Any]:
        answer = self.api.post("/pulls", json={"title": title, "head": branch, "base": "main"})
        assert answer.status_code == 201, answer.text
        content = answer.json()
        assert isinstance(content, dict)
        return content

    def knob(self, name: str, **content: object) -> dict[str, Any]:
        answer = self.knobs.post(f"/_development/{name}", json=content)
        assert answer.status_code in (200, 201), answer.text
        found = answer.json()
        assert isinstance(found, dict)
        return found


@contextmanager
def run_forge(
    folder: Path, *, webhook_url: str, port: int | None = None, repository: str = REPOSITORY
) -> Iterator[ForgeUnderTest]:
    """Run an empty forge whose state, token and secret lie in `folder`; nothing of it is left after."""
    token_file, secret_file, log_file = folder / "token", folder / "secret", folder / "forge.log"
    for file, secret in ((token_file, CANARY), (secret_file, SECRET)):
        file.touch(mode=0o600)
        file.write_text(secret + "\n")
    port = _free_port() if port is None else port
    url = f"http://127.0.0.1:{port}"
    spec = PartSpec(
        name="forge",
        argv=(
            *("setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "tests.published"),
            *("--root", str(folder / "forge"), "--port", str(port), "--repository", repository),
            *("--webhook-url", webhook_url, "--webhook-secret-file", str(secret_file)),
            *("--token-file", str(token_file)),
        ),
        log_file=log_file,
        is_ready=lambda: _answers(url + "/health"),
        environment={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
            VIOLATIONS: os.environ[VIOLATIONS],
        },
    )
    authorization = {"Authorization": f"Bearer {CANARY}"}
    with (
        Part(spec) as part,
        httpx.Client(base_url=f"{url}/api/v3/repos/{repository}", headers=authorization, trust_env=False) as api,
        httpx.Client(base_url=url, headers=authorization, trust_env=False) as knobs,
        Forge(Client(url, write_pause_s=0), repository, TokenFile(token_file)) as client,
    ):
        yield ForgeUnderTest(
            folder=folder,
            url=url,
            repository=repository,
            part=part,
            api=api,
            knobs=knobs,
            client=client,
            token_file=token_file,
            secret_file=secret_file,
            log_file=log_file,
        )
    log = log_file.read_text()
    assert CANARY not in log
    assert SECRET not in log
    assert "Traceback" not in log, log[-3000:]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=1.0) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False
