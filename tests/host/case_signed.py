"""Production only from those who may sign: real keys of OpenSSH and GnuPG, real commits, a whole stack.

These need the machine's ssh-keygen and gpg, and no host of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from controller.effects.signatures import ALLOWED_KEYS, ALLOWED_SIGNERS, REVOKED_SIGNERS, Signatures
from controller.model.names import Sha
from tests.acceptance.conftest import World, open_world

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass
class Signers:
    """A repository, people with keys, and a host that allows some of them."""

    folder: Path

    @property
    def host(self) -> Path:
        return self.folder / "host"

    def run(self, *words: str, **environment: str) -> str:
        values = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GNUPGHOME": str(self.folder / "gpg"), **environment}
        done = subprocess.run(words, cwd=self.folder, env=values, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def git(self, *words: str, **environment: str) -> str:
        who = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org")
        return self.run("git", "-C", "repo", *who, *words, **environment).strip()

    def ssh_key(self, name: str) -> str:
        """Make a key; return its public line."""
        self.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", name)
        return (self.folder / f"{name}.pub").read_text().strip()

    def ssh_commit(self, name: str, **environment: str) -> Sha:
        key = f"user.signingkey={self.folder / name}.pub"
        return self._commit("-c", "gpg.format=ssh", "-c", key, **environment)

    def pgp_key(self, name: str, expires: str = "never") -> None:
        self.run("gpg", "--batch", "--quiet", "--passphrase", "", "--quick-gen-key", name, "ed25519", "sign", expires)

    def pgp_commit(self, name: str) -> Sha:
        return self._commit("-c", f"user.signingkey={name}")

    def _commit(self, *settings: str, **environment: str) -> Sha:
        self.git(*settings, "commit", "-q", "-S", "--allow-empty", "-m", "signed", **environment)
        return Sha(self.git("rev-parse", "HEAD"))

    def allow(self, name: str, text: str) -> None:
        (self.host / name).write_text(text)
        (self.host / name).chmod(0o644)

    def verify(self, sha: Sha) -> tuple[str, str]:
        found = Signatures(self.folder / "repo" / ".git", self.host).verify(sha, now=NOW)
        return found.reason, found.said


@pytest.fixture
def signers() -> Iterator[Signers]:
    folder = Path(tempfile.mkdtemp(prefix="oro-sg-"))
    for name in ("repo", "host", "gpg"):
        (folder / name).mkdir(mode=0o700)
    made = Signers(folder)
    made.git("init", "-q", "-b", "main")
    yield made
    subprocess.run(["gpgconf", "--kill", "all"], env={**os.environ, "GNUPGHOME": str(folder / "gpg")}, check=False)
    shutil.rmtree(folder, ignore_errors=True)


def test_an_ssh_key_counts_if_the_host_allows_it(signers: Signers) -> None:
    ann, _ = signers.ssh_key("ann"), signers.ssh_key("eve")
    by_ann, by_eve = signers.ssh_commit("ann"), signers.ssh_commit("eve")
    signers.allow(ALLOWED_SIGNERS, f"ann@example.org {ann}\n")

    assert signers.verify(by_ann) == ("", "ann@example.org")
    assert signers.verify(by_eve)[0] == "SignatureUnknown"


def test_namespace_validity_and_revocation_of_an_ssh_key_count(signers: Signers) -> None:
    ann = signers.ssh_key("ann")
    sha = signers.ssh_commit("ann", GIT_COMMITTER_DATE="2026-02-01T12:00:00Z")

    signers.allow(ALLOWED_SIGNERS, f'ann@example.org namespaces="file" {ann}\n')
    assert signers.verify(sha)[0] != ""
    signers.allow(ALLOWED_SIGNERS, f'ann@example.org valid-before="20260101" {ann}\n')
    assert signers.verify(sha)[0] != ""
    signers.allow(ALLOWED_SIGNERS, f'ann@example.org namespaces="git",valid-after="20260101" {ann}\n')
    assert signers.verify(sha)[0] == ""
    signers.allow(REVOKED_SIGNERS, f"{ann}\n")
    assert signers.verify(sha)[0] == "SignatureBad"


def test_a_signature_that_was_taken_from_another_commit_is_bad(signers: Signers) -> None:
    ann = signers.ssh_key("ann")
    sha = signers.ssh_commit("ann")
    signers.allow(ALLOWED_SIGNERS, f"ann@example.org {ann}\n")
    forged = signers.git("cat-file", "commit", sha).replace("\n\nsigned", "\n\nforged")
    (signers.folder / "forged").write_text(forged + "\n")
    other = Sha(signers.git("hash-object", "-t", "commit", "-w", str(signers.folder / "forged")))

    assert signers.verify(other)[0] == "SignatureBad"


def test_a_pgp_key_counts_if_the_host_allows_it_and_while_it_is_valid(signers: Signers) -> None:
    signers.pgp_key("ann@example.org")
    signers.pgp_key("eve@example.org")
    by_ann, by_eve = signers.pgp_commit("ann@example.org"), signers.pgp_commit("eve@example.org")
    signers.allow(ALLOWED_KEYS, signers.run("gpg", "--armor", "--export", "ann@example.org"))

    assert signers.verify(by_ann) == ("", "ann@example.org")
    assert signers.verify(by_eve)[0] == "SignatureUnknown"
    signers.allow(ALLOWED_KEYS, "no key at all")
    assert signers.verify(by_ann)[0] == "SignersMissing"
    # What the home of the user who runs us trusts is not asked.
    assert signers.run("gpg", "--list-keys", "ann@example.org")


def test_an_expired_pgp_key_does_not_count(signers: Signers) -> None:
    signers.pgp_key("ann@example.org", "seconds=3")
    sha = signers.pgp_commit("ann@example.org")
    signers.allow(ALLOWED_KEYS, signers.run("gpg", "--armor", "--export"))
    deadline = time.monotonic() + 30
    while (found := signers.verify(sha))[0] == "" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (found[0], "expired" in found[1]) == ("SignatureBad", True)


@pytest.fixture
def world() -> Iterator[World]:
    with open_world() as world:
        yield world


def test_production_serves_only_what_was_signed_by_those_who_may(world: World, signers: Signers) -> None:
    ann, _ = signers.ssh_key("ann"), signers.ssh_key("eve")
    author = world.author
    allowed = world.root / "etc" / ALLOWED_SIGNERS
    allowed.write_text(f"ann@example.org {ann}\n")
    allowed.chmod(0o644)

    def commit(title: str, *, by: str | None, policy: str = 'signed = "required"\n') -> str:
        world.release("ok", title)
        recipe = author.clone / "deploy.toml"
        recipe.write_text(recipe.read_text() + policy)
        author.git("add", "-A")
        settings = () if by is None else ("-c", "gpg.format=ssh", "-c", f"user.signingkey={signers.folder / by}.pub")
        author.git(*settings, "commit", "-q", *(("-S",) if by is not None else ()), "-m", f"{title}, again")
        author.push()
        return author.git("rev-parse", "HEAD")

    first = commit("Signed", by="ann")
    world.await_serving(first)
    stranger = commit("By a stranger", by="eve")
    author.await_status(stranger, "failure", says="SignatureUnknown")
    sly = commit("Nobody signs any more", by=None, policy='signed = "off"\n')
    author.await_status(sly, "failure", says="CommitUnsigned")
    refused = world.command("deploy", sly)
    assert (refused.returncode, "CommitUnsigned" in refused.stdout + refused.stderr) == (3, True)
    assert world.serves() == first
    second = commit("Signed again", by="ann")
    world.await_serving(second)
    author.await_status(second, "success", says="live")
    # Who is allowed later counts without a push.
    late = commit("By somebody who is allowed later", by="eve")
    author.await_status(late, "failure", says="SignatureUnknown")
    allowed.write_text(f"ann@example.org {ann}\neve@example.org {(signers.folder / 'eve.pub').read_text()}")
    world.await_serving(late)
