"""Judge the shape of a TOML text before tomllib reads it, so that reading costs in proportion to its length.

tomllib builds every beginning of a dotted key: one key of 32,700 parts in 64 KiB takes 10 s and 4 GB. Its arrays and
inline tables recurse. Neither is needed for a file of a few tables, so both are bounded here, in one pass.
"""

from __future__ import annotations

import re
import tomllib
from typing import Final

#: Parts of a dotted key, and tables and arrays in each other. The deepest key of deploy.toml has three parts.
PARTS_MAX: Final = 16
NESTING_MAX: Final = 16
#: Keys, elements and tables together.
VALUES_MAX: Final = 5_000

#: Texts and comments, whose characters mean nothing, and the characters that mean something. The quantifiers are
#: possessive, but for those of groups, whose alternatives begin differently: no text is looked at more than twice.
#: https://toml.io/en/v1.0.0
_TOKEN: Final = re.compile(
    r"""
      (?P<skip> \#[^\n]*+
        | \"\"\"(?:[^"\\]++|\\.|"(?!""))*"{3,5}
        | '''(?:[^']++|'(?!''))*'{3,5} )
    | (?P<stop> \"\"\" | ''' )
    | (?P<text> "(?:[^"\\\n]++|\\[^\n])*" | '[^'\n]*+' )
    | (?P<open> [\[{] ) | (?P<close> [\]}] ) | (?P<dot> \. ) | (?P<end> [=,\n] )
    | (?P<half> ["'] )
    """,
    re.VERBOSE | re.DOTALL,
)


class TooMuch(ValueError):
    """A TOML text has more of something than is read."""


def load_toml(text: str) -> dict[str, object]:
    """Return what a TOML text says; `TooMuch`, or another ValueError when it is not TOML."""
    excess = find_excess(text)
    if excess is not None:
        raise TooMuch(excess)
    return tomllib.loads(text)


def find_excess(text: str) -> str | None:
    """Return what of a TOML text is more than is read, with its line; None when tomllib may read it.

    Up to the first mistake of the text, tokens are those of tomllib; it reads nothing after that."""
    parts, nesting, values = 1, 0, 0
    for found in _TOKEN.finditer(text):
        kind = found.lastgroup
        problem = ""
        if kind == "dot":
            parts += 1
            problem = f"a key has more than {PARTS_MAX} parts" if parts > PARTS_MAX else ""
        elif kind in ("open", "close", "end"):
            parts = 1
            nesting = max(0, nesting + {"open": 1, "close": -1}.get(kind, 0))
            values += found[0] != "\n" and kind != "close"
            if nesting > NESTING_MAX:
                problem = f"tables and arrays lie more than {NESTING_MAX} deep in each other"
            elif values > VALUES_MAX:
                problem = f"there are more than {VALUES_MAX:,} keys, elements and tables"
        elif kind in ("stop", "half"):
            return None  # a text without an end
        if problem:
            return f"{problem} (at line {text.count(chr(10), 0, found.start()) + 1})"
    return None
