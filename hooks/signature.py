"""Did somebody who knows our secret sign exactly these bytes?

HMAC SHA-256 over the raw body, compared as bytes and in constant time against a list of secrets, so that a secret can
be rotated without a refused delivery.
https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from controller.model.errors import ConfigInvalid, Refused

SIGNATURE_HEADER = b"x-hub-signature-256"
SECRET_CHARS_MIN = 20
SECRETS_MAX = 8
SECRETS_FILE_BYTES_MAX = 16 << 10
#: A file that was written less than this long ago may be half written, and its times may still repeat.
SETTLED_AFTER_S = 1.0

_SIGNATURE = re.compile(rb"sha256=[0-9a-f]{64}\Z")
#: As they appear once everything but letters and digits is dropped.
_PLACEHOLDERS = ("changeme", "changethis", "placeholder", "webhooksecret", "yoursecret", "example", "password")
_DISTINCT_CHARS_MIN = 8

log = logging.getLogger(__name__)


def read_secrets(text: str) -> tuple[bytes, ...]:
    """Return the secrets of a file, one a line; ConfigInvalid if there is none, or one is short or a placeholder."""
    secrets = tuple(line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    problems: list[str] = []
    if not secrets:
        problems.append("no secret: write at least one line, for example from `openssl rand -hex 32`")
    if len(secrets) > SECRETS_MAX:
        problems.append(f"{len(secrets)} secrets: at most {SECRETS_MAX} are tried")
    for number, secret in enumerate(secrets, start=1):
        if len(secret) < SECRET_CHARS_MIN:
            problems.append(f"secret {number} is shorter than {SECRET_CHARS_MIN} characters")
        elif _is_placeholder(secret):
            problems.append(f"secret {number} is a placeholder: draw a random one")
    if problems:
        raise ConfigInvalid("WebhookSecretInvalid", "webhook secrets: " + "; ".join(problems), problems=tuple(problems))
    return tuple(secret.encode() for secret in secrets)


def _is_placeholder(secret: str) -> bool:
    letters = re.sub(r"[^a-z0-9]", "", secret.lower())
    return len(set(secret)) < _DISTINCT_CHARS_MIN or any(word in letters for word in _PLACEHOLDERS)


def read_signature(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return the 32 bytes that the request claims as its HMAC; Refused (401) when missing, doubled or malformed."""
    found = [value for name, value in headers if name == SIGNATURE_HEADER]
    if not found:
        raise Refused("SignatureMissing", "no X-Hub-Signature-256 header; set the webhook's secret", status_hint=401)
    if len(found) > 1:
        raise Refused("SignatureDoubled", "more than one X-Hub-Signature-256 header", status_hint=401)
    if not _SIGNATURE.match(found[0]):
        raise Refused("SignatureMalformed", "X-Hub-Signature-256 is not sha256= and 64 hex digits", status_hint=401)
    return bytes.fromhex(found[0][7:].decode("ascii"))


class Verifier:
    """The HMAC of one body, fed piece by piece, under every secret at once."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._running = [hmac.new(secret, digestmod=hashlib.sha256) for secret in secrets]

    def feed(self, piece: bytes) -> None:
        """Add a piece of the body."""
        for running in self._running:
            running.update(piece)

    def matches(self, claimed: bytes) -> int | None:
        """Return the index of the secret under which the claim is true, or None. Every secret is always tried."""
        found = None
        for index, running in enumerate(self._running):
            if hmac.compare_digest(running.digest(), claimed) and found is None:
                found = index
        return found


@dataclass(slots=True)
class SecretsFile:
    """The secrets of a file that may change while we run, asked at every delivery.

    Bad new content keeps the last good list. A secret that the file no longer holds counts until the file has been left
    alone for a moment: whoever reads while another writes may see half of it, and must not refuse a delivery for that.
    """

    path: Path
    clock: Callable[[], float] = time.time
    _seen: tuple[int, int, int] = (0, 0, 0)
    _is_settled: bool = False
    _written_at: float = 0.0
    _settled: tuple[bytes, ...] = ()
    _secrets: tuple[bytes, ...] = ()

    def secrets(self) -> tuple[bytes, ...]:
        """Return the present secrets; ConfigInvalid only if there never was a good list."""
        try:
            status = self.path.stat()
        except OSError as error:
            self._keep_last_good((0, 0, 0), error)
            return self._secrets
        seen = (status.st_mtime_ns, status.st_size, status.st_ino)
        if seen == self._seen and self._is_settled:
            return self._secrets
        self._written_at = status.st_mtime_ns / 1e9
        try:
            with self.path.open(encoding="utf-8") as file:
                fresh = read_secrets(file.read(SECRETS_FILE_BYTES_MAX))
        except (OSError, UnicodeDecodeError, ConfigInvalid) as error:
            self._keep_last_good(seen, error)
            return self._secrets
        self._seen = seen
        # A time in the future (a clock that was set back) is as good as long ago.
        self._is_settled = not 0 <= self.clock() - self._written_at < SETTLED_AFTER_S
        if self._is_settled or not self._settled:
            self._settled = fresh
        self._secrets = tuple(dict.fromkeys((*fresh, *self._settled)))
        return self._secrets

    def _keep_last_good(self, seen: tuple[int, int, int], error: OSError | UnicodeDecodeError | ConfigInvalid) -> None:
        if not self._secrets:
            if isinstance(error, ConfigInvalid):
                raise error
            what = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigInvalid(
                "WebhookSecretUnreadable", f"the webhook secrets file {self.path} cannot be read: {what}"
            ) from error
        if seen != self._seen:
            what = error.message if isinstance(error, ConfigInvalid) else type(error).__name__
            log.error("secrets: keeping the last good list: %s", what, extra={"action": "secrets.kept"})
        self._seen = seen
        # Read again until it is good or old: the other half may follow within the same tick of the file system's clock.
        self._is_settled = not 0 <= self.clock() - self._written_at < SETTLED_AFTER_S
