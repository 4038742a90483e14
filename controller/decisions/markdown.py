"""Shows text that others wrote as code in GitHub's Markdown: nothing in it becomes a link, a mention, or HTML.

GitHub renders with cmark-gfm, which takes no fence of more than 80 backticks for a code span, and counts those of a
block to 255 (https://github.com/github/cmark-gfm/blob/master/src/inlines.c). The forge refuses characters beyond U+FFFF
in several texts (https://github.com/ouzi-dev/commit-status-updater/issues/526), so they are spelled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from controller.model.redaction import redact

#: No longer fence is one to cmark-gfm.
FENCE_CHARS_MAX = 80
#: What replaces backticks where every fence is taken.
_OTHER_TICK = "\N{MODIFIER LETTER GRAVE ACCENT}"
_BACKTICKS = re.compile(r"`+")
#: A line that ends a block of code, if its run is as long as the fence.
_CLOSER = re.compile(r" {0,3}(`{3,}) *\Z")
#: Characters of Unicode's Default_Ignorable_Code_Point that count as printable, and blanks that are no space.
#: https://www.unicode.org/reports/tr44/#Default_Ignorable_Code_Point
_UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\uffa0]")
#: They choose how the character before them is drawn, as an emoji or as text.
_VARIATIONS = re.compile("[\ufe00-\ufe0f]")
CODE_CHARS_MAX = 2_000
_PLAIN_CHARS_MAX = 100


def chars(text: str) -> int:
    """Count as UTF-16 units, which is never fewer than code points: whichever the forge counts, it fits."""
    return sum(2 if ord(c) > 0xFFFF else 1 for c in text)


def visible(text: str) -> str:
    """Return the text with everything spelled that does not show, or that the forge does not take everywhere."""
    text = _VARIATIONS.sub("", text)
    return "".join(c if _is_shown(c) else _escape(ord(c)) for c in text)


def _is_shown(c: str) -> bool:
    return c.isprintable() and ord(c) <= 0xFFFF and not _UNSEEN.match(c)


def _escape(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def plain(text: str, *, chars_max: int = _PLAIN_CHARS_MAX) -> str:
    """Return a text that any forge takes, for what was refused: ASCII, of at most so many characters a text."""
    ascii_only = "".join(c if " " <= c <= "~" or c == "\n" else "?" for c in text)
    return ascii_only if len(ascii_only) <= chars_max else f"{ascii_only[: chars_max - 3]}..."


def code(text: str, *, chars_max: int = CODE_CHARS_MAX) -> str:
    """Return one line of code without secrets, of at most so many characters; "" for an empty text."""
    shown = visible(redact(text))
    if len(shown) > chars_max:
        shown = f"{shown[: chars_max - 1]}…"
    if not shown.strip():
        return ""
    taken = {len(run) for run in _BACKTICKS.findall(shown)}
    # A span ends at the first run that is exactly as long as its fence.
    free = next((size for size in range(1, FENCE_CHARS_MAX + 1) if size not in taken), None)
    if free is None:
        shown, free = shown.replace("`", _OTHER_TICK), 1
    fence = "`" * free
    pad = " " if shown[0] in "` " or shown[-1] in "` " else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def cell(text: str, *, chars_max: int = CODE_CHARS_MAX) -> str:
    """Return one line of code for a table: there a bar ends the cell, even in code."""
    return code(text.replace("|", "\N{BROKEN BAR}"), chars_max=chars_max)


def block(lines: Sequence[str]) -> str:
    """Return lines as a block of code. A line that would end it is indented, so that it does not."""
    shown = [visible(line.replace("\t", "    ")) for line in lines]
    closers = [len(found[1]) for line in shown if (found := _CLOSER.match(line)) is not None]
    fence = "`" * max([3, *(size + 1 for size in closers if size < FENCE_CHARS_MAX)])
    shown = [
        f"    {line}" if (found := _CLOSER.match(line)) and len(found[1]) >= len(fence) else line for line in shown
    ]
    return "\n".join([f"{fence}text", *shown, fence])


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; the cells are Markdown already."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
