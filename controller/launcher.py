"""What does a slot's unit do on a host, from systemd's start to the app's first instruction? Root's fixed launcher.

    launcher.py NAME               what the unit of systemd's that has this name is for: an instance becomes the app,
                                   a job is run under its time limit, a wipe removes what units of the slot wrote
    launcher.py NAME --may-start   whether `live` names it: after a reboot, only that may start without the worker

What the unit writes goes to the journal through a pipe, where its environment's secrets are masked (`log_pipe`).
It runs inside the unit's walls, as the slot's user, with the system's Python and nothing else. What to do is the order,
a credential of the unit (systemd.exec(5), LoadCredential=), and so is the app's own environment.
Exit codes of its own: 127 the command cannot be run · 198 the order makes no sense · 199 the time limit passed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

if __name__ == "__main__":
    # Isolated (-I), so that nobody else's modules are found; ours lie above this file.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from controller.disk import remove_tree
from controller.effects.checkout import fill_for_build
from controller.log_pipe import put_between
from controller.loopback_door import open_door
from controller.model.command import app_values, expand, process_environment
from controller.model.errors import OroborosError
from controller.model.names import (
    HOST_ROOT,
    JOB_NOT_PREPARED,
    LAUNCHER_TIMED_OUT,
    OWN_NETWORK,
    POSTGRES_SOCKETS,
    Layout,
    SlotName,
    slot_of_unit,
    unit_of_systemd,
)
from controller.model.secret_values import SecretValues
from controller.start_failure import EXIT_NOT_STARTED, execute_program

EXIT_NO_ORDER = 198
#: Of a job that ran into its limit, from TERM to KILL.
LIMIT_GRACE_S = 3.0
JOURNAL = "/run/systemd/journal/stdout"
PRIORITY_INFO = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the worker ordered. `SystemdRuntime` writes it."""

    generation: int
    argv: tuple[str, ...] = ()
    working_directory: str = "/"
    environment: Mapping[str, str] = field(default_factory=dict)
    time_limit_s: float | None = None
    copy_of: str | None = None
    remove: tuple[str, ...] = ()


def read_order(credentials: Path) -> Order:
    """Read the unit's order; ValueError when it is none."""
    value = json.loads((credentials / "order").read_text(errors="surrogateescape"))
    if not isinstance(value, dict) or not isinstance(value.get("generation"), int):
        raise ValueError("the order names no generation")
    value["argv"], value["remove"] = tuple(value.get("argv", ())), tuple(value.get("remove", ()))
    return Order(**value)


def main(words: list[str]) -> NoReturn:
    """Do what the unit is for; never returns."""
    unit = unit_of_systemd(words[0]) if words else None
    slot = slot_of_unit(unit) if unit is not None else None
    if unit is None or slot is None:
        print(f"oroboros: no unit of a slot: {words}", file=sys.stderr)
        sys.exit(EXIT_NO_ORDER)
    if words[1:] == ["--may-start"]:
        sys.exit(0 if serves(Layout(HOST_ROOT), slot, unit) else 1)
    credentials = Path(os.environ["CREDENTIALS_DIRECTORY"])
    try:
        order = read_order(credentials)
    except (OSError, ValueError, TypeError) as error:
        print(f"oroboros: {unit}: no order that could be read: {error}", file=sys.stderr)
        sys.exit(EXIT_NO_ORDER)
    write_to_journal(f"{unit}.{order.generation}")
    app_file = credentials / "app.env"
    own = app_values(app_file.read_text(errors="surrogateescape")) if app_file.exists() else {}
    kind = unit.partition("-")[0]
    if kind == "wipe":
        wipe(order)
    if kind != "build" and os.environ.get(OWN_NETWORK):
        lead_to_database(order)
    put_between(SecretValues.of({**own, **order.environment}))
    if kind in ("build", "migrate", "seed"):
        run_job(order, own)
    become(order, own)


def serves(layout: Layout, slot: SlotName, unit: str) -> bool:
    """Say whether `live` names this unit: then it may start without the worker's word.

    Of what it is ordered to run nothing is asked: a condition has no credentials yet (systemd 252), and while `live`
    names a colour nothing else is ordered in it."""
    try:
        live = json.loads((layout.live(slot) / "live.json").read_text())
    except (OSError, ValueError):
        return False
    colour = unit.rpartition("-")[2]
    return isinstance(live, dict) and (live.get("state"), live.get("colour")) == ("live", colour)


def write_to_journal(identifier: str) -> None:
    """Have what we and the app write stand in the journal under this identifier; else it stays where systemd put it."""
    try:
        journal = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        journal.connect(JOURNAL)
        # The head that sd_journal_stream_fd(3) sends: identifier, unit (not ours to say), priority, no level prefix,
        # no forwarding.
        journal.sendall(f"{identifier}\n\n{PRIORITY_INFO}\n0\n0\n0\n0\n".encode())
        os.dup2(journal.fileno(), 1)
        os.dup2(journal.fileno(), 2)
        journal.close()
    except OSError as error:
        print(f"oroboros: the journal does not listen: {error}", file=sys.stderr)


def lead_to_database(order: Order) -> None:
    """Have the address in DATABASE_URL answer in this network, too: the server is reached by its socket only."""
    address = urlsplit(order.environment.get("DATABASE_URL", ""))
    try:
        if address.hostname == "127.0.0.1" and address.port is not None:
            open_door(address.port, f"{POSTGRES_SOCKETS}/.s.PGSQL.{address.port}")
    except (OSError, ValueError) as error:
        print(f"oroboros: the database cannot be led to 127.0.0.1: {error}", file=sys.stderr, flush=True)


def become(order: Order, own: Mapping[str, str]) -> NoReturn:
    """Become the app: its words, its folder, nothing of our environment."""
    data = order.environment.get("OROBOROS_DATA", "")
    environment = process_environment(
        {**own, **order.environment},
        working_directory=order.working_directory,
        # A build may write nothing of the slot's: its home is a folder that ends with it.
        data_folder="/tmp" if order.copy_of is not None else data if os.access(data, os.W_OK) else "",  # noqa: S108
        is_build=order.copy_of is not None,
    )
    argv = [expand(word, environment) for word in order.argv]
    try:
        os.chdir(order.working_directory)
        os.umask(0o027)
    except OSError as error:
        os.write(2, f"oroboros: cannot start {list(order.argv)}: {error}\n".encode("utf-8", "replace"))
        os._exit(EXIT_NOT_STARTED)
    execute_program(argv, environment)


def run_job(order: Order, own: Mapping[str, str]) -> NoReturn:
    """Run a job as a child, end it when its time is up, and end as it ended. systemd ends what it leaves behind."""
    if order.copy_of is not None:
        try:
            fill_for_build(Path(order.copy_of), Path(order.working_directory))
        except OroborosError as error:
            print(f"oroboros: {error}", file=sys.stderr, flush=True)
            sys.exit(JOB_NOT_PREPARED)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        become(order, own)
    status = wait_for(child, order.time_limit_s)
    if status is None:
        print(f"oroboros: ended after its time limit of {order.time_limit_s:g} s", file=sys.stderr, flush=True)
        os._exit(LAUNCHER_TIMED_OUT)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        # End by the same signal, so that systemd tells of the same end.
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else EXIT_NOT_STARTED)


def wait_for(child: int, limit_s: float | None) -> int | None:
    """Return the child's wait status; None when its time was up, and then it is gone."""
    deadline = None if limit_s is None else time.monotonic() + limit_s
    killing = False
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid == child:
            return None if killing else status
        left_s = None if deadline is None else deadline - time.monotonic()
        if left_s is not None and left_s <= 0:
            os.kill(child, signal.SIGKILL if killing else signal.SIGTERM)
            deadline, killing = time.monotonic() + LIMIT_GRACE_S, True
            continue
        if left_s is None:
            signal.sigwait({signal.SIGCHLD})
        else:
            signal.sigtimedwait({signal.SIGCHLD}, left_s)


def wipe(order: Order) -> NoReturn:
    """Empty the ordered folders: what is in them is this user's, they themselves are not."""
    stays = False
    for folder in order.remove:
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            continue
        for name in names:
            path = os.path.join(folder, name)
            try:
                if os.path.isdir(path) and not os.path.islink(path):
                    remove_tree(os.fsencode(path))
                else:
                    os.unlink(path)
            except OSError as error:
                print(f"oroboros: {path} stays: {error.strerror}", file=sys.stderr, flush=True)
                stays = True
    os._exit(1 if stays else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
