"""Is a commit signed by somebody who may? What git's own verification says, and what follows for production.

The head is verified, and with it its whole history: a commit's id is a hash over its parents. A commit is verified by
the policy of the last accepted head, so one that switches verification off is itself verified. Who may sign is said by
files of the host: a repository that names its own signers lets in whoever can push.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from controller.model.names import Sha
from controller.model.nouns import Signature
from controller.model.world import HeadRefused

COMMIT_UNSIGNED = "CommitUnsigned"
SIGNATURE_BAD = "SignatureBad"
SIGNATURE_UNKNOWN = "SignatureUnknown"
SIGNATURE_UNCHECKED = "SignatureUnchecked"
SIGNERS_MISSING = "SignersMissing"
SIGNATURE_TOOL_MISSING = "SignatureToolMissing"
#: Those that are the commit's own fault.
OF_COMMIT = frozenset({COMMIT_UNSIGNED, SIGNATURE_BAD, SIGNATURE_UNKNOWN})
#: All that end an order by hand of such a commit.
OF_SIGNATURES = OF_COMMIT | {SIGNERS_MISSING, SIGNATURE_TOOL_MISSING}

Kind = Literal["ssh", "pgp", "none", "other"]

_WHO_CHARS_MAX = 100
_SSH_GOOD = re.compile(r'^Good "git" signature for (.+) with \S+ key (\S+)$', re.MULTILINE)
_SSH_UNKNOWN = re.compile(r'^Good "git" signature with \S+ key (\S+)$', re.MULTILINE)
_PGP = re.compile(r"^\[GNUPG:\] (\w+) ?(.*)$", re.MULTILINE)
_PGP_WRONG = {
    "BADSIG": "the signature does not fit the commit",
    "EXPSIG": "the signature has expired",
    "EXPKEYSIG": "the key has expired",
    "REVKEYSIG": "the key was revoked",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a verification came to: `reason` is "" for a good one, and `said` names the signer then."""

    reason: str
    said: str


def kind_of(signature: bytes | None) -> Kind:
    """Return of which kind a commit's signature is, by its first line."""
    if not signature:
        return "none"
    first = signature.strip().split(b"\n", 1)[0].strip()
    if first == b"-----BEGIN SSH SIGNATURE-----":
        return "ssh"
    return "pgp" if first in (b"-----BEGIN PGP SIGNATURE-----", b"-----BEGIN PGP MESSAGE-----") else "other"


def judge_output(kind: Kind, output: str, exit_code: int) -> Judged:
    """Judge what `git verify-commit --raw` said. Only what is plainly good is good."""
    return _judge_ssh(output, exit_code) if kind == "ssh" else _judge_pgp(output, exit_code)


def _judge_ssh(output: str, exit_code: int) -> Judged:
    good = _SSH_GOOD.search(output)
    if exit_code == 0 and good is not None:
        return Judged(reason="", said=good[1][:_WHO_CHARS_MAX])
    unknown = _SSH_UNKNOWN.search(output)
    if unknown is not None:
        return Judged(reason=SIGNATURE_UNKNOWN, said=f"key {unknown[1]} is none of the allowed signers'")
    if good is not None:
        who = good[1][:_WHO_CHARS_MAX]
        return Judged(reason=SIGNATURE_BAD, said=f"the signature of {who} does not count: {_last(output)}")
    return Judged(reason=SIGNATURE_BAD, said=_last(output) or "the signature does not fit the commit")


def _judge_pgp(output: str, exit_code: int) -> Judged:
    said = [(one[1], one[2]) for one in _PGP.finditer(output)]
    words = {word for word, _ in said}
    for word, meaning in _PGP_WRONG.items():
        if word in words:
            who = next(rest for found, rest in said if found == word)
            return Judged(reason=SIGNATURE_BAD, said=f"{meaning}: {_who(who)}")
    good = [rest for word, rest in said if word == "GOODSIG"]
    if exit_code == 0 and len(good) == 1 and "VALIDSIG" in words and "ERRSIG" not in words:
        return Judged(reason="", said=_who(good[0]))
    missing = next((rest for word, rest in said if word == "NO_PUBKEY"), None)
    if missing is not None:
        return Judged(reason=SIGNATURE_UNKNOWN, said=f"key {missing[:40]} is none of the allowed ones")
    return Judged(reason=SIGNATURE_BAD, said=_last(output) or "the signature does not fit the commit")


def _who(rest: str) -> str:
    key, _, name = rest.partition(" ")
    return f"{name or key}"[:_WHO_CHARS_MAX]


def _last(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.startswith("[GNUPG:]")]
    return lines[-1][:_WHO_CHARS_MAX] if lines else ""


def judge_signature(sha: Sha, known: Sequence[Signature], *, signers: str) -> HeadRefused | None:
    """Return why production may not serve a commit that must be signed; None when its signature is good.

    `signers` is the version of the host's files: what was found by another one counts no more."""
    found = next((one for one in known if (one.sha, one.signers) == (sha, signers)), None)
    if found is None:
        return HeadRefused(
            reason=SIGNATURE_UNCHECKED,
            message="its signature is being checked",
            is_pending=True,
            keeps_accepted=True,
        )
    if not found.reason:
        return None
    return HeadRefused(
        reason=found.reason, message=found.said, blames_commit=found.reason in OF_COMMIT, keeps_accepted=True
    )
