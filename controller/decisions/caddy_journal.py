"""Say how a Caddy on a host tells the journal of its errors: through journald's socket of syslog(3).

A Caddy cannot mark lines of stderr with a priority. But the layout of its time may be any text, and so it writes what
RFC 3164 has in front of a message. A layout of Go reads some digits as parts of a time, 3 for one; 6 and 7 are none,
so the facility is one that no host uses any more, UUCP, whose errors are 8 * 8 + 3.
"""

from __future__ import annotations

from typing import Final

ADDRESS: Final = "unixgram//run/systemd/journal/dev-log"
_PRIORITY: Final = 67
#: The same error again is left out for so long: an app that is down would write a line a request.
AGAIN_AFTER_S: Final = 60
#: The access log of requests that Caddy itself could not answer; what an app answers is its own.
UNREACHED: Final = "unreached"
#: What a visitor sent may hold secrets.
FIELDS_LEFT_OUT: Final = ("request>headers", "request>tls", "resp_headers")
URI_FIELD: Final = "request>uri"
#: What of an address is replaced, and by what.
QUERY: Final = r"\?.*"
QUERY_LEFT: Final = "?..."


def time_format(identifier: str) -> str:
    """Return the layout of time that begins each line. An identifier without digits stays as it is."""
    return f"<{_PRIORITY}>{identifier}:"
