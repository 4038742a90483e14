"""How is a text that somebody else wrote shown in Markdown? As code: nothing in it is a link, a mention, or HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence

from controller.model.redaction import redact

_BACKTICKS = re.compile(r"`+")


def chars(text: str) -> int:
    """Count as UTF-16 units, which is never fewer than code points: whichever the forge counts, it fits."""
    return sum(2 if ord(c) > 0xFFFF else 1 for c in text)


def visible(text: str) -> str:
    """Return the text with everything spelled that does not show."""
    return "".join(c if c.isprintable() else _escape(ord(c)) for c in text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def code(text: str) -> str:
    """Return one line of code without secrets; "" for an empty text."""
    shown = visible(redact(text))
    if not shown.strip():
        return ""
    fence = "`" * (_longest_run(shown) + 1)
    pad = " " if shown[0] in "` " or shown[-1] in "` " else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def cell(text: str) -> str:
    """Return one line of code for a table: there a bar ends the cell, even in code."""
    return code(text.replace("|", "\N{BROKEN BAR}"))


def block(lines: Sequence[str]) -> str:
    """Return lines as a block of code."""
    shown = [visible(line.replace("\t", "    ")) for line in lines]
    fence = "`" * max(3, _longest_run("\n".join(shown)) + 1)
    return "\n".join([f"{fence}text", *shown, fence])


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; the cells are Markdown already."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _longest_run(text: str) -> int:
    return max((len(found) for found in _BACKTICKS.findall(text)), default=0)
