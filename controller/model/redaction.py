"""Which parts of a text are secrets, and how does the text look without them?

Tokens, keys, passwords in addresses and in connection strings are recognised by their form, each to its very end:
an installation token may be `ghs_` with 36 characters, or `ghs_<app id>_<JWT>` with two thousand and dots in it.
What has no form of its own (a webhook's secret) is masked when whoever read it names it.
https://github.blog/security/application-security/behind-githubs-new-authentication-token-formats/
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

MASK: Final = "[secret]"
#: Shorter texts are words that stand in other words.
KNOWN_CHARS_MIN: Final = 8

_REST: Final = r"[A-Za-z0-9_.~+/=-]"
_PATTERNS: Final = (
    # A key may have been cut before its end; then the rest of the text is taken for it.
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(rf"\bgh[a-z]_{_REST}+"),
    re.compile(r"\bgithub_pat_[A-Za-z0-9_]+"),
    # A JSON Web Token by itself: its head is the base64 of `{"`.
    re.compile(r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?"),
)
_AFTER: Final = (
    re.compile(rf"(\b(?:[Bb]earer|Basic)\s+){_REST}{{16,}}"),
    re.compile(rf"(?i)(\bauthorization\b['\"]?\s*[:=]\s*['\"]?token\s+){_REST}+"),
    re.compile(r"(?i)(\bpassword['\"]?\s*[=:]\s*)(?:'[^']*'|\"[^\"]*\"|[^\s'\",;&]+)"),
    re.compile(r"(://[^/\s:@]*:)[^/\s@]+(?=@)"),
)


def redact(text: str, *, known: Iterable[str] = ()) -> str:
    """Return the text with every secret masked whole: those of a known form, and those that are named."""
    # The longest first: one may be the beginning of another.
    for secret in sorted(filter(_is_worth, known), key=len, reverse=True):
        text = text.replace(secret, MASK)
    for pattern in _PATTERNS:
        text = pattern.sub(MASK, text)
    for pattern in _AFTER:
        text = pattern.sub(rf"\g<1>{MASK}", text)
    return text


def _is_worth(secret: str) -> bool:
    return len(secret) >= KNOWN_CHARS_MIN
