"""The entry point of `up` for api and worker: the same commands, with a failpoint armed if a test asked for one.

A test writes `<run>/failpoint.json` with a name; at SIGUSR1, or at its next start, the command takes the file away and
dies by SIGKILL when that place is reached for the first time, or gets the `signal` that the file names, or runs into a
bug there (`"bug": true`). Started again, it goes on unharmed, unless the file asked for more `times`. Nothing of
production imports this module.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

from controller import failpoints
from controller.doors.cli import main

FAILPOINT_FILE = "failpoint.json"
ARM_SIGNAL = signal.SIGUSR1


def arm_from(run: Path, *, command: str) -> None:
    """Arm what a test asked of this command, once."""
    path = run / FAILPOINT_FILE
    try:
        wanted = json.loads(path.read_text())
    except (OSError, ValueError):
        return
    if wanted.get("command") != command:
        return
    times = int(wanted.get("times", 1)) - 1
    if times > 0:
        path.write_text(json.dumps({**wanted, "times": times}))
    else:
        path.unlink(missing_ok=True)
    number = signal.Signals[str(wanted.get("signal", "SIGKILL"))]

    def reached() -> None:
        failpoints.disarm()
        if wanted.get("bug"):
            raise ZeroDivisionError(f"a bug at {wanted['name']}")
        os.kill(os.getpid(), number)

    failpoints.arm(str(wanted["name"]), reached)


if __name__ == "__main__":
    if "OROBOROS_RUN" in os.environ:
        arm = partial(arm_from, Path(os.environ["OROBOROS_RUN"]), command=sys.argv[1])
        signal.signal(ARM_SIGNAL, lambda _number, _frame: arm())
        arm()
    main()
