"""What does a reply mean that is not the expected one? An error that says what follows.

`Unavailable`: try again, at `retry_at` if the forge named a time. `Stalled`: the forge will never take this.
Some reasons say nothing about the one request: the forge is away, or lets none of its kind through now.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

from controller.decisions.github.limits import limited_until_at, retry_after
from controller.decisions.github.wire import Reply, told
from controller.model.errors import Unavailable

#: It did not answer, or only that it cannot.
AWAY: Final = frozenset({"ForgeUnreachable", "ForgeTimedOut", "ForgeDown"})
#: It answered that we must wait, or may not.
TOLD_TO_WAIT: Final = frozenset({"ForgeLimited", "ForgeLimitedForLong", "ForgeRefused"})
_PERMISSIONS = re.compile(r"[a-z_=,; ]{1,200}\Z")


def raise_unless(expected: int, reply: Reply, *, what: str, permission: str, now: datetime) -> None:
    """Raise what a reply means that is not the expected one."""
    status = reply.status
    if status == expected:
        return
    limited_until = limited_until_at(reply, now=now)
    if limited_until is not None:
        raise Unavailable(
            "ForgeLimited",
            f"cannot {what}: the forge asks us to wait until {limited_until:%H:%M:%S} UTC",
            retry_at=limited_until,
        )
    if status == 401:
        raise Unavailable("ForgeRefused", f"cannot {what}: the forge does not know the token; write a valid one")
    if status == 403:
        accepted = reply.headers.get("x-accepted-github-permissions", "")
        needed = f"{permission} ({accepted})" if _PERMISSIONS.match(accepted) else permission
        raise Unavailable(
            "ForgeRefused", f"cannot {what}: the token lacks the permission {needed}; the forge says {told(reply)}"
        )
    if status == 404:
        raise Unavailable(
            "ForgeNotFound",
            f"cannot {what}: the forge knows no such thing, or hides it from a token without {permission}",
        )
    if status >= 500:
        raise Unavailable(
            "ForgeDown", f"cannot {what}: the forge answers {status}", retry_at=retry_after(reply, now=now)
        )
    if 300 <= status < 400:
        raise Unavailable(
            "ForgeMoved", f"cannot {what}: the forge answers {status}; was the repository renamed? Set its new name"
        )
    raise Unavailable("ForgeReplyInvalid", f"cannot {what}: the forge answers {status}: {told(reply)}")
