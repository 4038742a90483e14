"""How does a command of root's go on as a user who may do less? For commands that work in that user's folders."""

from __future__ import annotations

import os
import pwd


def become(user: str) -> bool:
    """Become a user of the host for good, with the groups that it is in; False when there is no such user."""
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        return False
    # Who gives an order stays who it was, and nothing is looked for in root's home.
    os.environ.setdefault("LOGNAME", "root")
    os.environ["HOME"] = found.pw_dir
    os.initgroups(user, found.pw_gid)
    os.setresgid(found.pw_gid, found.pw_gid, found.pw_gid)
    os.setresuid(found.pw_uid, found.pw_uid, found.pw_uid)
    return True
