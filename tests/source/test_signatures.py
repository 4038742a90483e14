"""What is refused before any program is asked: commits without a signature, hosts without signers or programs.

Real signatures of real keys are verified in tests/host/case_signed.py: not every machine has ssh-keygen and gpg."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pygit2
import pytest

from controller.effects.signatures import ALLOWED_KEYS, ALLOWED_SIGNERS, Signatures
from controller.model.errors import Unavailable
from controller.model.names import Sha

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SSH = "-----BEGIN SSH SIGNATURE-----\nU1NIU0lHAAAAAQ==\n-----END SSH SIGNATURE-----"
PGP = "-----BEGIN PGP SIGNATURE-----\n\niHUEABYKAB0=\n-----END PGP SIGNATURE-----"


@pytest.fixture
def repository(tmp_path: Path) -> pygit2.Repository:
    return pygit2.init_repository(str(tmp_path / "repo.git"), bare=True)


def commit(repository: pygit2.Repository, signature: str | None = None) -> Sha:
    who = pygit2.Signature("Ann", "ann@x", 1_700_000_000, 0)
    tree = repository.TreeBuilder().write()
    if signature is None:
        return Sha(str(repository.create_commit(None, who, who, "plain", tree, [])))
    content = f"tree {tree}\nauthor Ann <ann@x> 1700000000 +0000\ncommitter Ann <ann@x> 1700000000 +0000\n\nsigned\n"
    return Sha(str(repository.create_commit_with_signature(content, signature)))


def found(repository: pygit2.Repository, sha: Sha, folder: Path, *, search_path: str | None = None) -> str:
    signatures = Signatures(Path(repository.path), folder, search_path=search_path)
    return signatures.verify(sha, now=NOW).reason


def test_a_commit_without_a_signature_is_unsigned_whatever_the_host_has(
    repository: pygit2.Repository, tmp_path: Path
) -> None:
    assert found(repository, commit(repository), tmp_path) == "CommitUnsigned"


def test_a_signature_of_another_kind_is_unknown(repository: pygit2.Repository, tmp_path: Path) -> None:
    assert found(repository, commit(repository, "-----BEGIN SIGNED MESSAGE-----\nMII"), tmp_path) == "SignatureUnknown"


@pytest.mark.parametrize(("signature", "name"), [(SSH, ALLOWED_SIGNERS), (PGP, ALLOWED_KEYS)])
def test_a_host_that_does_not_say_who_may_sign_refuses(
    repository: pygit2.Repository, tmp_path: Path, signature: str, name: str
) -> None:
    sha = commit(repository, signature)
    assert found(repository, sha, tmp_path) == "SignersMissing"
    (tmp_path / name).write_text("")
    (tmp_path / name).chmod(0o666)
    assert found(repository, sha, tmp_path) == "SignersMissing"


@pytest.mark.parametrize(("signature", "name"), [(SSH, ALLOWED_SIGNERS), (PGP, ALLOWED_KEYS)])
def test_a_host_without_the_program_says_so(
    repository: pygit2.Repository, tmp_path: Path, signature: str, name: str
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    git = shutil.which("git")
    assert git is not None
    os.symlink(git, programs / "git")
    (tmp_path / name).write_text("")
    (tmp_path / name).chmod(0o644)
    sha = commit(repository, signature)
    assert found(repository, sha, tmp_path, search_path=str(programs)) == "SignatureToolMissing"
    signatures = Signatures(Path(repository.path), tmp_path, search_path=str(programs))
    assert len(signatures.problems()) == 2


def test_a_commit_that_the_mirror_lacks_is_no_verdict(repository: pygit2.Repository, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="CommitMissing"):
        found(repository, Sha("a" * 40), tmp_path)


def test_the_version_follows_the_files(repository: pygit2.Repository, tmp_path: Path) -> None:
    signatures = Signatures(Path(repository.path), tmp_path)
    before = signatures.version()
    (tmp_path / ALLOWED_SIGNERS).write_text("ann@x ssh-ed25519 AAAA\n")
    assert signatures.version() != before
