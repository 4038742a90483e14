"""Who signed a commit, by git's own machinery and the host's files?

Three files of the configuration folder say who may: `allowed-signers` for SSH keys, in the form of ssh-keygen's
ALLOWED SIGNERS with its namespaces and validity; `revoked-signers`, keys of it that count no more; and
`allowed-keys.asc`, armoured OpenPGP keys. They are the host's, never the repository's, and nobody but their owner may
write them.

`git verify-commit` is given these and nothing else: no configuration of the machine or of a user, an empty home, a
keyring made for this one question. It is bounded in time, and everything that it started ends with it. Takes moments,
so never in a tick. Safe to repeat: nothing is changed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import pygit2
from pygit2.enums import ObjectType

from controller.decisions.signatures import (
    COMMIT_UNSIGNED,
    SIGNATURE_TOOL_MISSING,
    SIGNATURE_UNKNOWN,
    SIGNERS_MISSING,
    Judged,
    Kind,
    judge_output,
    kind_of,
)
from controller.decisions.tree_rules import parse_commit
from controller.model.errors import Unavailable
from controller.model.names import Sha
from controller.model.nouns import Signature

ALLOWED_SIGNERS: Final = "allowed-signers"
REVOKED_SIGNERS: Final = "revoked-signers"
ALLOWED_KEYS: Final = "allowed-keys.asc"
VERIFY_TIMEOUT_S: Final = 20.0
OUTPUT_CHARS_MAX: Final = 16 << 10
FILE_BYTES_MAX: Final = 4 << 20
#: Of the keyring that is made for one question: no agent, no network, every key in it is one that may sign.
_GPG_CONF: Final = "batch\nno-tty\nno-autostart\nno-auto-key-retrieve\nno-auto-key-locate\ntrust-model always\n"
_PROGRAMS: Final[Mapping[Kind, str]] = {"ssh": "ssh-keygen", "pgp": "gpg"}
_FILES: Final[Mapping[Kind, str]] = {"ssh": ALLOWED_SIGNERS, "pgp": ALLOWED_KEYS}


class Signatures:
    """Verifies commits of one mirror by the signers of one host."""

    def __init__(self, repository: Path, folder: Path, *, search_path: str | None = None) -> None:
        self._repository = repository
        self._folder = folder
        #: Where programs are looked for.
        self._search_path = search_path if search_path is not None else os.environ.get("PATH", os.defpath)

    def version(self) -> str:
        """Return a text that differs whenever one of the files was written. Reads no content."""
        return " ".join(_version(self._folder / name) for name in (ALLOWED_SIGNERS, REVOKED_SIGNERS, ALLOWED_KEYS))

    def problems(self) -> tuple[str, ...]:
        """Return what keeps every commit from being verified; () when one kind at least can be."""
        found = [problem for kind in ("ssh", "pgp") if (problem := self._problem(kind)) is not None]
        return tuple(one.said for one in found) if len(found) == len(_FILES) else ()

    def verify(self, sha: Sha, *, now: datetime) -> Signature:
        """Verify one commit. Unavailable when the mirror lacks it, or git or time runs out."""
        signers = self.version()
        judged = self._judge(sha)
        return Signature(sha=sha, signers=signers, reason=judged.reason, said=judged.said, checked_at=now)

    def _judge(self, sha: Sha) -> Judged:
        kind = kind_of(self._signature_of(sha))
        if kind == "none":
            return Judged(reason=COMMIT_UNSIGNED, said="the commit is not signed, and policy wants it so")
        if kind == "other":
            return Judged(reason=SIGNATURE_UNKNOWN, said="the signature is neither of SSH nor of OpenPGP")
        problem = self._problem(kind)
        if problem is not None:
            return problem
        with tempfile.TemporaryDirectory(prefix="oro-sign-") as scratch:
            return self._ask_git(sha, kind, Path(scratch))

    def _signature_of(self, sha: Sha) -> bytes | None:
        try:
            repository = pygit2.Repository(str(self._repository), pygit2.enums.RepositoryOpenFlag.BARE)
        except (KeyError, pygit2.GitError) as error:
            raise Unavailable("MirrorUnreadable", f"{self._repository} cannot be opened: {error}") from error
        try:
            kind, raw = repository.read(pygit2.Oid(hex=sha))
            return parse_commit(raw).signature if kind == ObjectType.COMMIT else None
        except (KeyError, pygit2.GitError) as error:
            raise Unavailable("CommitMissing", f"the mirror lacks {sha}") from error
        finally:
            repository.free()

    def _problem(self, kind: Kind) -> Judged | None:
        """Return why signatures of this kind cannot be verified here."""
        path, program = self._folder / _FILES[kind], _PROGRAMS[kind]
        try:
            facts = path.stat()
        except OSError:
            return Judged(reason=SIGNERS_MISSING, said=f"{path} cannot be read: it says who may sign")
        if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or not stat.S_ISREG(facts.st_mode):
            return Judged(reason=SIGNERS_MISSING, said=f"{path} may be written by others: chmod 0644")
        if facts.st_size > FILE_BYTES_MAX or not os.access(path, os.R_OK):
            too_much = f"{path} cannot be read, or is larger than {FILE_BYTES_MAX >> 20} MiB"
            return Judged(reason=SIGNERS_MISSING, said=too_much)
        if shutil.which(program, path=self._search_path) is None:
            return Judged(reason=SIGNATURE_TOOL_MISSING, said=f"{program} is not installed on this host")
        return None

    def _ask_git(self, sha: Sha, kind: Kind, scratch: Path) -> Judged:
        environment = {
            "PATH": self._search_path,
            "HOME": str(scratch),
            "TMPDIR": str(scratch),
            "GNUPGHOME": str(scratch),
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_TERMINAL_PROMPT": "0",
        }
        if kind == "pgp":
            (scratch / "gpg.conf").write_text(_GPG_CONF)
            keys = str(self._folder / ALLOWED_KEYS)
            code, output = _run(["gpg", "--quiet", "--import", "--", keys], environment, cwd=scratch)
            if code != 0:
                return Judged(reason=SIGNERS_MISSING, said=f"{keys} holds no keys that gpg can read: {output[-100:]!r}")
        settings = [
            f"gpg.ssh.allowedSignersFile={self._folder / ALLOWED_SIGNERS}",
            "gpg.ssh.program=ssh-keygen",
            "gpg.program=gpg",
            "core.hooksPath=/dev/null",
            "safe.bareRepository=explicit",
        ]
        revoked = self._folder / REVOKED_SIGNERS
        if revoked.exists():
            settings.append(f"gpg.ssh.revocationFile={revoked}")
        argv = ["git", f"--git-dir={self._repository}"]
        for setting in settings:
            argv += ["-c", setting]
        code, output = _run([*argv, "verify-commit", "--raw", "--", sha], environment, cwd=scratch)
        return judge_output(kind, output, code)


def _version(path: Path) -> str:
    try:
        facts = path.stat()
    except OSError:
        return "-"
    return f"{facts.st_mtime_ns}:{facts.st_size}"


def _run(argv: Sequence[str], environment: Mapping[str, str], *, cwd: Path) -> tuple[int, str]:
    """Run a program to its end, or to the end of its time, and its whole group with it; return its code and words."""
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=cwd,
            start_new_session=True,
        )
    except OSError as error:
        raise Unavailable("GitMissing", f"{argv[0]} could not be started: {error.strerror or error}") from error
    try:
        output, _ = process.communicate(timeout=VERIFY_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise Unavailable("SignatureTimedOut", f"{argv[0]} did not verify within {VERIFY_TIMEOUT_S:g} s") from error
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    return process.returncode, output.decode("utf-8", "replace")[-OUTPUT_CHARS_MAX:]
