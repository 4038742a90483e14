"""Tell the operator from anybody else: by the token that install or `oroboros up` drew, in a file of mode 0600.

It comes as a Bearer credential (RFC 6750, 2.1)."""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from pathlib import Path

from controller.effects.github_identity import read_secret_file
from controller.model.errors import Unavailable

TOKEN_CHARS_MIN = 32
TOKEN_BYTES_MAX = 4_096
_TOKEN = re.compile(rb"[\x21-\x7e]{%d,}\Z" % TOKEN_CHARS_MIN)


def read_token(content: bytes) -> bytes | None:
    """Return the token that a file holds; None when it is no token: empty, short, or more than one word."""
    token = content.strip()
    return token if len(token) <= TOKEN_BYTES_MAX and _TOKEN.match(token) else None


def is_operator(authorization: Sequence[bytes], token: bytes | None) -> bool:
    """Say whether the values of a request's Authorization headers are exactly one, with this token. Without a token
    nobody is the operator. Constant in time over what is claimed (hmac.compare_digest)."""
    if token is None or len(authorization) != 1:
        return False
    scheme, _, claimed = authorization[0].partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(claimed.strip(), token)


def operator_token(path: Path | None) -> tuple[bytes | None, str]:
    """Return the token, or why there is none, in words. Never raises: without a token nobody is the operator, and
    deliveries are taken all the same."""
    if path is None:
        return None, "OROBOROS_OPERATOR_TOKEN_FILE is not set"
    try:
        token = read_token(read_secret_file(path, reason="OperatorTokenUnreadable", bytes_max=TOKEN_BYTES_MAX))
    except Unavailable as error:
        return None, error.message
    return token, "" if token is not None else f"{path} holds no token of 32 characters or more"
