"""What of a log is shown? Bytes of its end in, text that only shows out."""

from __future__ import annotations

#: Enough of a log's end for its last line.
LOG_TAIL_BYTES = 4096
LOG_LINE_CHARS_MAX = 200
#: Enough of a log's end for its last lines.
LOG_END_BYTES = 256 << 10


def last_visible_line(tail: bytes) -> str:
    """Return the last line that says something, with control characters spelled and bounded; "" when there is none."""
    lines = [line for line in tail.decode("utf-8", "replace").splitlines() if line.strip()]
    if not lines:
        return ""
    visible = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in lines[-1].strip())
    return visible[:LOG_LINE_CHARS_MAX]


def last_lines(end: bytes, *, lines: int) -> tuple[str, ...]:
    """Return the last lines, without what a terminal takes for an order."""
    found = end.decode("utf-8", "replace").splitlines()[-lines:] if lines > 0 else []
    return tuple("".join(c if c.isprintable() or c == "\t" else f"\\x{ord(c):02x}" for c in line) for line in found)
