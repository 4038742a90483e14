"""The runtime of a host: asks systemd to start, stop and show the pre-installed units of the slots.

What may run how is root's: templates with their walls, a drop-in for each slot (`decisions.host_units`). This module
says what: an order, a file that systemd hands to the unit's launcher as a credential. polkit lets the worker start,
stop, kill and reset these units and nothing else, so no call here names an option of a unit.

- The generation of what runs is that of its order on the disk, which only the worker writes, and only while systemd
  knows nothing of the unit any more. The app is never asked: it has no way to tell systemd anything.
- A unit that ended stays with systemd until it is stopped: `RemainAfterExit=` for one that ended well, "failed" for one
  that did not. So an end is never missed, and forgetting is a stop.
- Whose a TCP listener is, the kernel says by its cgroup (sock_diag(7), INET_DIAG_CGROUP_ID): it may be asked without
  any privilege, where other users' /proc/<pid>/fd may not.

systemctl(1) and journalctl(1) are called with lists of words, each with a time limit.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import pwd
import secrets
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from controller.decisions.drift import FileFact, HostDrift, UnitFact, compare_unit, is_stranger
from controller.decisions.host_units import PortHolder, installed_units, port_holders, render_units
from controller.decisions.log_lines import (
    ERROR_TAIL_BYTES,
    LINES_WEIGHED_MAX,
    LOG_END_BYTES,
    error_line,
    last_lines,
    last_visible_line,
)
from controller.disk import (
    READ_AND_ENTER,
    READ_WRITE_AND_ENTER,
    allow_user,
    forget_user,
    remove_folder,
    sync_folder,
)
from controller.effects.runtime import ProcessSpec
from controller.listeners import describe_process, holder_of, listeners_in_network_of
from controller.model.errors import ConfigInvalid, Unavailable, Waiting
from controller.model.names import (
    COLOURS,
    LAUNCHER_TIMED_OUT,
    MAIN,
    SERVING_USER,
    JobKind,
    Layout,
    SlotName,
    Topology,
    build_marker,
    instance_unit,
    job_unit,
    slot_of_unit,
    slot_user,
    systemd_unit,
    unit_of_systemd,
)
from controller.model.nouns import PortFact, ProcessFact
from controller.model.states import ProcessState
from controller.threads import new_thread

CALL_TIMEOUT_S = 10.0
#: A slot's leftovers are many small files at worst.
WIPE_TIMEOUT_S = 300.0
#: What was written before an end is in the journal soon after it.
JOURNAL_LOOKS, JOURNAL_PAUSE_S = 4, 0.05
#: How often the cgroups are looked at for a unit that has ended: where the kernel tells of ends, and where it does not.
LOOK_AGAIN_S, WATCH_EVERY_S = 5.0, 0.25
#: Between an end in a cgroup and systemd's own knowledge of it.
SYSTEMD_LAG_S = 0.2
#: From <sys/inotify.h>.
_IN_MODIFY, _IN_CREATE, _IN_DELETE, _EVENT_BYTES = 0x2, 0x100, 0x200, 16
CGROUPS = Path("/sys/fs/cgroup")
PATTERNS = (
    "ouroboros-instance@*.service",
    "ouroboros-build@*.service",
    "ouroboros-migrate@*.service",
    "ouroboros-seed@*.service",
)
PROPERTIES = (
    "Id",
    "ActiveState",
    "SubState",
    "Job",
    "MainPID",
    "Result",
    "ExecMainCode",
    "ExecMainStatus",
    "ExecMainStartTimestampMonotonic",
    "ExecMainExitTimestampMonotonic",
    "StateChangeTimestampMonotonic",
    "ControlGroup",
)
LOGGED_JOBS: tuple[JobKind, ...] = ("build", "migrate", "seed")
#: What of a unit is compared with what install left of it.
COMPARED = ("Id", "ActiveState", "FragmentPath", "DropInPaths", "UnitFileState")
JUDGE = "ouroboros-judge.service"
CONTROL_PLANE = ("ouroboros-api.service", "ouroboros-worker.service")
#: Before a stranger at a port is called one.
STRANGER_PAUSE_S = 0.01
#: Of control groups, whose ids are used once only.
PATHS_KEPT_MAX = 1_024
#: CLD_EXITED of waitid(2), as ExecMainCode says it; anything else that is not 0 is an end by a signal.
CLD_EXITED = 1
SIGKILL = 9

#: From <linux/netlink.h>, <linux/sock_diag.h>, <linux/inet_diag.h>.
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _NLM_REQUEST_DUMP = 4, 20, 0x301
_NLMSG_ERROR, _NLMSG_DONE, _TCP_LISTEN = 2, 3, 10
_INET_DIAG_SKV6ONLY, _INET_DIAG_CGROUP_ID = 11, 21
_DIAG_FIXED_BYTES, _HEADER_BYTES = 72, 16

_libc = ctypes.CDLL(None, use_errno=True)


class SystemdRuntime:
    """A client of systemd, for the units of this host's slots. Safe to use from several threads."""

    def __init__(self, layout: Layout, topology: Topology) -> None:
        self._layout = layout
        self._topology = topology
        #: A slot has one unit that empties folders, and several threads may need it.
        self._wiping = threading.Lock()
        #: Paths of control groups, by their ids.
        self._paths: dict[int, str] = {}

    # -- the interface ------------------------------------------------------------------------------------------------

    def start(self, spec: ProcessSpec) -> None:
        """Start a unit. Safe to repeat: see `Runtime.start`. Waiting while an older generation still ends."""
        name = systemd_unit(spec.unit)
        present = self._shown().get(spec.unit)
        if present is not None:
            if self._generation(present) == spec.generation:
                return
            if present["ActiveState"] != "failed" or present["Job"] != "0":
                self._call("stop", "--no-block", name)
                raise Waiting("UnitStops", f"{name} still runs what was ordered before")
            # Before the order is replaced: an end that systemd still shows is the end of what was ordered.
            self._call("reset-failed", name)
        slot = _slot(spec.unit)
        folder = spec.working_directory
        if spec.copy_of is not None:
            self._open_to_slot(spec.copy_of, slot)
            self._prepare_build(slot, folder)
        else:
            self._open_to_slot(folder, slot)
        self._write_order(
            spec.unit,
            {
                "generation": spec.generation,
                "argv": list(spec.argv),
                "working_directory": str(folder),
                "environment": dict(spec.environment),
                "time_limit_s": spec.time_limit_s,
                "copy_of": None if spec.copy_of is None else str(spec.copy_of),
            },
        )
        self._arm(spec.unit)
        self._call("start", "--no-block", name)

    def stop(self, unit: str, generation: int, *, grace_s: float) -> None:
        """Ask a unit to end. Safe to repeat: see `Runtime.stop`."""
        shown = self._shown().get(unit)
        if shown is None or self._generation(shown) != generation:
            return
        name = systemd_unit(unit)
        self._layout.armed_file(unit).unlink(missing_ok=True)
        if shown["ActiveState"] == "failed":
            self._call("reset-failed", name)
        elif shown["ActiveState"] == "deactivating":
            if _age_s(shown["StateChangeTimestampMonotonic"]) > grace_s:
                self._call("kill", "--signal=KILL", name)
        else:
            self._call("stop", "--no-block", name)

    def observe(self) -> tuple[ProcessFact, ...]:
        """Return every unit that runs, or ended and was not stopped since."""
        return tuple(self._fact(unit, shown) for unit, shown in self._shown().items())

    def process_ids(self, unit: str, generation: int) -> frozenset[int]:
        """Return the processes in the unit's cgroup."""
        shown = self._shown(systemd_unit(unit)).get(unit)
        if shown is None or self._generation(shown) != generation or not shown["ControlGroup"]:
            return frozenset()
        return _processes_in(_cgroup(shown["ControlGroup"]))

    def environment(self, unit: str) -> Mapping[str, str]:
        """Return the environment of the unit's last order."""
        values = self._order(unit).get("environment", {})
        return {str(key): str(value) for key, value in values.items()} if isinstance(values, dict) else {}

    def read_only_folder(self, unit: str) -> Path | None:
        """Return the folder of the unit's last order: no unit may write to what it runs from."""
        folder = self._order(unit).get("working_directory")
        return Path(folder) if isinstance(folder, str) else None

    def strangers_at(self, unit: str, generation: int, address: str) -> str | None:
        """Return who else listens at the address."""
        host, _, port = address.rpartition(":")
        found = [one for one in _dump_listeners() if one.port == int(port) and one.takes(host)]
        if not found:
            return None
        shown = self._shown(systemd_unit(unit)).get(unit)
        own = set()
        if shown is not None and self._generation(shown) == generation and shown["ControlGroup"]:
            own = _cgroup_ids(_cgroup(shown["ControlGroup"]))
        strange = [one for one in found if one.cgroup not in own]
        return _owner_of(strange[0], _path_of_cgroup(strange[0].cgroup)) if strange else ""

    def taken_ports(self) -> tuple[PortFact, ...]:
        """Return the ports of the table that other processes than their units listen on."""
        return self._strangers([holder for holder in port_holders(self._topology) if not holder.of_host])

    def listeners(self, unit: str, generation: int) -> tuple[str, ...]:
        """Return where the unit's processes listen: in its own network, or by the cgroup of each socket."""
        shown = self._shown(systemd_unit(unit)).get(unit)
        if shown is None or self._generation(shown) != generation or not shown["ControlGroup"]:
            return ()
        cgroup = _cgroup(shown["ControlGroup"])
        if self.has_own_network(unit):
            # Ours, for drivers that reach the database by TCP alone.
            door = urlsplit(self.environment(unit).get("DATABASE_URL", "")).netloc.rpartition("@")[2]
            return tuple(one for one in listeners_in_network_of(_processes_in(cgroup)) if one != door)
        own = _cgroup_ids(cgroup)
        return tuple(
            sorted(
                f"[{one.host}]:{one.port}" if one.family == socket.AF_INET6 else f"{one.host}:{one.port}"
                for one in _dump_listeners()
                if one.cgroup in own
            )
        )

    def has_own_network(self, unit: str) -> bool:
        """Say whether the unit has a network of its own: previews' instances do, unless the host was installed
        otherwise."""
        return self._topology.isolated_previews and _slot(unit) != MAIN

    def error_line(self, unit: str, generation: int) -> str:
        """Return the line that names the error in what the unit wrote. The journal may lie a moment behind."""
        argv = (
            *("journalctl", "--quiet", "--no-pager", "--output=cat", f"--lines={LINES_WEIGHED_MAX}"),
            # Not by unit: the journal asks for that when a line arrives, and whoever wrote it may be gone by then.
            f"_UID={_uid(slot_user(_slot(unit)))}",
            f"SYSLOG_IDENTIFIER={unit}.{generation}",
        )
        for _ in range(JOURNAL_LOOKS):
            told = _run(argv, timeout_s=CALL_TIMEOUT_S, reason="SystemdAway")
            line = error_line(told.encode("utf-8", "surrogateescape")[-ERROR_TAIL_BYTES:])
            if line:
                return line
            time.sleep(JOURNAL_PAUSE_S)
        return ""

    def last_log_lines(self, unit: str, generation: int, *, lines: int) -> tuple[str, ...]:
        """Return the last lines that the unit wrote to the journal, which may lie a moment behind."""
        argv = (
            *("journalctl", "--quiet", "--no-pager", "--output=cat", f"--lines={lines}"),
            f"_UID={_uid(slot_user(_slot(unit)))}",
            f"SYSLOG_IDENTIFIER={unit}.{generation}",
        )
        found: tuple[str, ...] = ()
        for _ in range(JOURNAL_LOOKS):
            told = _run(argv, timeout_s=CALL_TIMEOUT_S, reason="SystemdAway")
            found = last_lines(told.encode("utf-8", "surrogateescape")[-LOG_END_BYTES:], lines=lines)
            if found:
                break
            time.sleep(JOURNAL_PAUSE_S)
        return found

    def provision(self, slot: SlotName) -> None:
        """Empty the slot's data folder, which install made, as the user who wrote it."""
        self.wipe(slot, ())

    def wipe(self, slot: SlotName, folders: Sequence[Path]) -> None:
        """Have the slot's own user empty what it wrote, then remove what is ours, and close to it every release that it
        was let read. Safe to repeat."""
        builds = [build for folder in folders for build in _folders_in(folder)]
        self._empty(slot, builds, data=self._layout.slot_data(slot))
        for folder in folders:
            remove_folder(folder)
        # The slot's next tenant is the same user, and may have learned the name of a release.
        for release in _folders_in(self._layout.releases):
            forget_user(release, _uid(slot_user(slot)))
        for file in self._layout.order_file(job_unit("wipe", slot)).parent.glob("*.json"):
            of = unit_of_systemd(f"{file.stem}.service")
            if of is not None and slot_of_unit(of) == slot:
                file.unlink(missing_ok=True)

    def discard(self, slot: SlotName, builds: Sequence[Path]) -> None:
        """Have the slot's own user empty the builds, then remove them."""
        self._empty(slot, builds)
        for build in builds:
            remove_folder(build)

    def _empty(self, slot: SlotName, builds: Sequence[Path], *, data: Path | None = None) -> None:
        """Have the slot's user remove what it wrote into these builds, and into its data folder. One at a time: all
        of a slot's wipes are one unit with one order."""
        present = [build for build in builds if build.exists()]
        if not present and data is None:
            return
        for build in present:
            # It was closed to writing when an instance was started from it.
            allow_user(build, _uid(slot_user(slot)), READ_WRITE_AND_ENTER)
        unit = job_unit("wipe", slot)
        with self._wiping:
            remove = [*([] if data is None else [data]), *present]
            # One that a worker began which died meanwhile: systemd would have us wait for its end instead of beginning
            # ours, and it has other folders to empty.
            self._call("stop", systemd_unit(unit), timeout_s=WIPE_TIMEOUT_S, reason="SlotNotWiped")
            self._write_order(unit, {"generation": 0, "remove": [str(path) for path in remove]})
            self._call("start", systemd_unit(unit), timeout_s=WIPE_TIMEOUT_S, reason="SlotNotWiped")

    def open_to_surface(self, folder: Path) -> None:
        """Add the surfaces' user to the folder's access list."""
        allow_user(folder, _uid(SERVING_USER), READ_AND_ENTER)

    def look_at_host(self) -> HostDrift:
        """Compare units, their files and the host's ports with what install makes of the topology."""
        return HostDrift(
            units=look_at_units(self._topology),
            files=tuple(self._files()),
            ports=self._strangers(port_holders(self._topology)),
        )

    def _files(self) -> Iterator[FileFact]:
        for file in render_units(self._topology):
            try:
                on_disk: str | None = _digest(file.path.read_bytes())
            except FileNotFoundError:
                on_disk = None
            except OSError:
                continue  # not ours to read
            yield FileFact(path=str(file.path), rendered=_digest(file.text.encode()), on_disk=on_disk)

    def _strangers(self, holders: Sequence[PortHolder]) -> tuple[PortFact, ...]:
        found = tuple(_look_for_strangers(holders, self._path_of))
        if not found:
            return ()
        # A unit that was started anew in between has another control group at the second look.
        time.sleep(STRANGER_PAUSE_S)
        ports = {fact.port for fact in found}
        return tuple(fact for fact in _look_for_strangers(holders, self._path_of) if fact.port in ports)

    def _path_of(self, cgroup: int) -> str:
        """Return the path of a control group; what was found once is kept, since ids are used once only."""
        if cgroup not in self._paths:
            if len(self._paths) >= PATHS_KEPT_MAX:
                self._paths.clear()
            path = _path_of_cgroup(cgroup)
            if not path:
                return ""
            self._paths[cgroup] = path
        return self._paths.get(cgroup, "")

    def start_judge(self) -> None:
        """Start the judge's unit; it reads its order from a file."""
        self._call("start", "--no-block", JUDGE)

    def restart_control_plane(self) -> None:
        """Restart api and worker; the api's socket stays open meanwhile."""
        self._call("restart", "--no-block", *CONTROL_PLANE)

    def reopen_api_port(self) -> None:
        """Restart the api, and with it the socket that it requires."""
        self._call("restart", "--no-block", CONTROL_PLANE[0])

    def control_plane_restarts(self) -> int:
        """Return how often systemd started api and worker anew by itself: NRestarts of systemd.service(5)."""
        told = _run(
            ("systemctl", "show", "--no-pager", "--property=NRestarts", "--value", "--", *CONTROL_PLANE),
            timeout_s=CALL_TIMEOUT_S,
            reason="SystemdAway",
        )
        return sum(int(word) for word in told.split() if word.isdigit())

    def limitations(self) -> tuple[str, ...]:
        """Return what this host's installation leaves open."""
        if self._topology.isolated_previews:
            return ()
        return ("previews share the host's network: they can reach every service that listens on loopback",)

    def watch(self, ring: Callable[[], None]) -> None:
        """Ring whenever a unit's last process has ended, from a daemon thread."""
        new_thread("runtime watch", lambda: _watch_for_ever(ring)).start()

    # -- orders -------------------------------------------------------------------------------------------------------

    def _order(self, unit: str) -> dict[str, object]:
        """Return the unit's last order; {} when there is none, or it was damaged by somebody."""
        path = self._layout.order_file(unit)
        try:
            value = json.loads(path.read_text(errors="surrogateescape"))
        except (FileNotFoundError, ValueError):
            return {}
        except OSError as error:
            raise Unavailable("OrderUnreadable", f"{path} could not be read: {error.strerror}") from error
        return value if isinstance(value, dict) else {}

    def _write_order(self, unit: str, order: Mapping[str, object]) -> None:
        """Replace an order, durable: what serves is started from it after a power cut."""
        path = self._layout.order_file(unit)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", errors="surrogateescape") as file:
                json.dump(order, file)
                file.flush()
                os.fsync(descriptor)
            os.replace(temporary, path)
            sync_folder(str(path.parent))
        except OSError as error:
            raise Unavailable("OrderNotWritten", f"{path} could not be written: {error.strerror}") from error

    def _arm(self, unit: str) -> None:
        try:
            self._layout.armed_file(unit).touch()
        except OSError as error:
            path = self._layout.armed_file(unit)
            raise Unavailable("OrderNotWritten", f"{path} could not be made: {error.strerror}") from error

    def _open_to_slot(self, folder: Path, slot: SlotName) -> None:
        allow_user(folder, _uid(slot_user(slot)), READ_AND_ENTER)

    def _prepare_build(self, slot: SlotName, folder: Path) -> None:
        """Make an empty folder into which the slot's user may write, and out of which we may read what it wrote."""
        # What an earlier, unfinished attempt at this very build left.
        self._empty(slot, [folder])
        try:
            build_marker(folder).unlink(missing_ok=True)
            folder.parent.mkdir(mode=0o711, exist_ok=True)
            folder.parent.chmod(0o711)
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise Unavailable("DiskRefused", f"{folder} could not be made: {error.strerror}") from error
        allow_user(folder, _uid(slot_user(slot)), READ_WRITE_AND_ENTER)
        allow_user(folder, os.geteuid(), READ_WRITE_AND_ENTER, inherited=True)
        allow_user(folder, _uid(SERVING_USER), READ_AND_ENTER, inherited=True)

    # -- systemd ------------------------------------------------------------------------------------------------------

    def _call(self, verb: str, *words: str, timeout_s: float = CALL_TIMEOUT_S, reason: str = "") -> None:
        _run(
            ("systemctl", "--no-ask-password", "--quiet", verb, *words),
            timeout_s=timeout_s,
            reason=reason or "SystemdRefused",
        )

    def _shown(self, *names: str) -> dict[str, dict[str, str]]:
        """Return what systemd shows of each unit that runs, is about to, or ended and was not stopped since."""
        told = _run(
            ("systemctl", "show", "--no-pager", f"--property={','.join(PROPERTIES)}", "--", *(names or PATTERNS)),
            timeout_s=CALL_TIMEOUT_S,
            reason="SystemdAway",
        )
        return parse_shown(told)

    def _generation(self, shown: Mapping[str, str]) -> int:
        unit = unit_of_systemd(shown["Id"])
        ordered = self._order(unit).get("generation") if unit is not None else None
        return ordered if isinstance(ordered, int) else 0

    def _fact(self, unit: str, shown: Mapping[str, str]) -> ProcessFact:
        has_ended = has_unit_ended(shown)
        code = exit_code_of(shown) if has_ended else None
        pid = int(shown["MainPID"])
        return ProcessFact(
            unit=unit,
            generation=self._generation(shown),
            state=ProcessState.EXITED if has_ended else ProcessState.RUNNING,
            pid=pid or None,
            exit_code=code,
            timed_out=code == LAUNCHER_TIMED_OUT,
            started_at=_instant(shown["ExecMainStartTimestampMonotonic"]),
            ended_at=_instant(shown["ExecMainExitTimestampMonotonic"]) if has_ended else None,
        )


def read_journal(slot: SlotName, generation: int, *, lines: int, after: str) -> tuple[list[tuple[str, bytes]], str]:
    """Return what the units of one run wrote, as (unit, line), and where to go on: the last lines when `after` is "",
    else all that came behind that cursor. Unavailable when the journal may not be read."""
    units = [*(instance_unit(slot, colour) for colour in COLOURS), *(job_unit(kind, slot) for kind in LOGGED_JOBS)]
    told = _run(
        (
            *("journalctl", "--quiet", "--no-pager", "--output=json", "--output-fields=MESSAGE,SYSLOG_IDENTIFIER"),
            f"--after-cursor={after}" if after else f"--lines={lines}",
            f"_UID={_uid(slot_user(slot))}",
            *(f"SYSLOG_IDENTIFIER={unit}.{generation}" for unit in units),
        ),
        timeout_s=CALL_TIMEOUT_S,
        reason="JournalUnreadable",
    )
    found: list[tuple[str, bytes]] = []
    cursor = after
    for row in told.splitlines():
        entry = json.loads(row)
        message = entry.get("MESSAGE")
        # The journal gives what is no UTF-8 as a list of numbers, and nothing for what is too long.
        body = bytes(message) if isinstance(message, list) else str(message or "").encode("utf-8", "surrogateescape")
        found.append((str(entry["SYSLOG_IDENTIFIER"]).rpartition(".")[0], body))
        cursor = str(entry["__CURSOR"])
    return found, cursor


def look_at_units(topology: Topology) -> tuple[UnitFact, ...]:
    """Compare every unit that install made with what systemd has of it, in one call."""
    wanted = {unit.name: unit for unit in installed_units(topology)}
    told = _run(
        ("systemctl", "show", "--no-pager", f"--property={','.join(COMPARED)}", "--", *wanted),
        timeout_s=CALL_TIMEOUT_S,
        reason="SystemdAway",
    )
    shown = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in told.split("\n\n")]
    return tuple(compare_unit(wanted[one["Id"]], one) for one in shown if one.get("Id") in wanted)


# -- what systemd says ------------------------------------------------------------------------------------------------


def parse_shown(told: str) -> dict[str, dict[str, str]]:
    """Return the properties of each of our units, by our name of it, from the output of `systemctl show`. Pure.

    A unit that neither runs nor has a job nor failed is one that systemd has forgotten: it is left out."""
    found: dict[str, dict[str, str]] = {}
    for block in told.split("\n\n"):
        shown = dict.fromkeys(PROPERTIES, "") | {"MainPID": "0", "Job": "0"}
        for line in block.splitlines():
            key, equals, value = line.partition("=")
            if equals and key in shown:
                shown[key] = value or shown[key]
        unit = unit_of_systemd(shown["Id"])
        is_forgotten = shown["ActiveState"] in ("", "inactive") and shown["Job"] == "0"
        if unit is not None and not is_forgotten:
            found[unit] = shown
    return found


def has_unit_ended(shown: Mapping[str, str]) -> bool:
    """Say whether the unit's process has ended for good; a start that is queued, or a restart, has not. Pure."""
    if shown["ActiveState"] == "failed":
        return shown["Job"] == "0"
    return (shown["ActiveState"], shown["SubState"]) == ("active", "exited")


def exit_code_of(shown: Mapping[str, str]) -> int:
    """Return how the unit's process ended; negative: by that signal. Out of memory is KILL, whoever it hit. Pure."""
    if shown["Result"] == "oom-kill":
        return -SIGKILL
    if shown["Result"] == "timeout":
        return LAUNCHER_TIMED_OUT
    code, status = int(shown["ExecMainCode"] or 0), int(shown["ExecMainStatus"] or 0)
    if code == 0 and shown["Result"] not in ("", "success"):
        return LAUNCHER_TIMED_OUT - 1  # it never ran: credentials, namespaces, a condition that broke
    return status if code in (0, CLD_EXITED) else -status


def _run(argv: Sequence[str], *, timeout_s: float, reason: str) -> str:
    """Run a command and return what it printed; Unavailable when it fails or takes too long."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"},
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(reason, f"{argv[0]} {argv[1]} took longer than {timeout_s:g} s") from error
    except OSError as error:
        raise Unavailable(reason, f"{argv[0]} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        words = [word for word in argv[1:] if not word.startswith("-")]
        said = last_visible_line(done.stderr) or f"exit code {done.returncode}"
        raise Unavailable(reason, f"{argv[0]} {' '.join(words[:3])}: {said}")
    return done.stdout.decode("utf-8", "surrogateescape")


def _age_s(monotonic_us: str) -> float:
    return time.clock_gettime(time.CLOCK_MONOTONIC) - int(monotonic_us or 0) / 1e6


def _instant(monotonic_us: str) -> datetime:
    return datetime.fromtimestamp(time.time() - _age_s(monotonic_us), UTC)


def _slot(unit: str) -> SlotName:
    slot = slot_of_unit(unit)
    assert slot is not None, unit
    return slot


def _uid(user: str) -> int:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError as error:
        raise ConfigInvalid("UserMissing", f"there is no user {user} on this host: run the installer again") from error


def _folders_in(folder: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError):
        return [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    return []


# -- cgroups ----------------------------------------------------------------------------------------------------------


def _hierarchy() -> Path:
    """Return where the cgroups of version 2 are; on a host that has both versions, beside the others."""
    beside = CGROUPS / "unified"
    return beside if beside.is_dir() else CGROUPS


def _cgroup(control_group: str) -> Path:
    return _hierarchy() / control_group.lstrip("/")


def _processes_in(cgroup: Path) -> frozenset[int]:
    found: set[int] = set()
    for folder, _, _ in os.walk(cgroup):
        with contextlib.suppress(OSError):
            found.update(int(line) for line in Path(folder, "cgroup.procs").read_text().split())
    return frozenset(found)


def _cgroup_ids(cgroup: Path) -> set[int]:
    """Return the ids of a cgroup and those below it: an id is the folder's inode."""
    found: set[int] = set()
    for folder, _, _ in os.walk(cgroup):
        with contextlib.suppress(OSError):
            found.add(os.stat(folder).st_ino)
    return found


def _path_of_cgroup(wanted: int) -> str:
    """Return a cgroup's path below the hierarchy, "" when there is none of that id."""
    for folder, _, _ in os.walk(_hierarchy()):
        with contextlib.suppress(OSError):
            if os.stat(folder).st_ino == wanted:
                return str(Path(folder).relative_to(_hierarchy()))
    return ""


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class UnitEnds:
    """Waits for units whose last process has ended, by what the kernel tells of their cgroups.

    A cgroup's `cgroup.events` is modified when its last process ends (cgroups(7)), and inotify(7) tells of that, and of
    cgroups that come and go. Looks again every `LOOK_AGAIN_S` all the same, for what was not told."""

    def __init__(self, folder: Path) -> None:
        """`folder` is that of `ouroboros.slice`, which may not be there yet."""
        self._folder = folder
        #: None where the kernel gives none: then `wait` only looks.
        self._inotify: int | None = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._inotify is not None and self._inotify < 0:
            self._inotify = None
        self._known: dict[Path, bool] = {}
        self._look()

    def close(self) -> None:
        """Forget what was followed."""
        if self._inotify is not None:
            os.close(self._inotify)
            self._inotify = None

    def wait(self, *, timeout_s: float) -> bool:
        """Wait for something to happen to a unit, at most so long; say whether one may have ended."""
        has_gone = False
        if self._inotify is None:
            time.sleep(min(timeout_s, WATCH_EVERY_S))
        elif select.select([self._inotify], [], [], timeout_s)[0]:
            with contextlib.suppress(BlockingIOError):
                has_gone = _tells_of_an_end(os.read(self._inotify, 1 << 16))
        return self._look() or has_gone

    def _look(self) -> bool:
        """Follow what is there now; say whether a unit is empty or gone that was not known to be."""
        self._follow(self._folder, _IN_CREATE | _IN_DELETE)
        found: dict[Path, bool] = {}
        for slice_folder in self._folder.glob("ouroboros-*.slice"):
            self._follow(slice_folder, _IN_CREATE | _IN_DELETE)
            for events in slice_folder.glob("ouroboros-*.service/cgroup.events"):
                self._follow(events, _IN_MODIFY)
                with contextlib.suppress(OSError):
                    found[events] = "populated 1" in events.read_text()
        known, self._known = self._known, found
        return bool(known.keys() - found.keys()) or any(
            not populated and known.get(events, True) for events, populated in found.items()
        )

    def _follow(self, path: Path, events: int) -> None:
        if self._inotify is not None:
            _libc.inotify_add_watch(self._inotify, os.fsencode(path), events)  # again is the same


def _tells_of_an_end(data: bytes) -> bool:
    """Say whether one of these events of inotify(7) is that the cgroup of a unit was removed, seen before or not."""
    at = 0
    while at < len(data):
        _, mask, _, length = struct.unpack_from("=iIII", data, at)
        name = data[at + _EVENT_BYTES : at + _EVENT_BYTES + length].rstrip(b"\0")
        if mask & _IN_DELETE and name.endswith(b".service"):
            return True
        at += _EVENT_BYTES + length
    return False


def _watch_for_ever(ring: Callable[[], None]) -> None:
    ends = UnitEnds(_hierarchy() / "ouroboros.slice")
    while True:
        if ends.wait(timeout_s=LOOK_AGAIN_S):
            ring()
            # systemd is told of the same end, and may show it a moment after us.
            time.sleep(SYSTEMD_LAG_S)
            ring()


# -- whose listener ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listener:
    """A TCP socket that listens, as the kernel tells of it (sock_diag(7))."""

    family: socket.AddressFamily
    host: str
    port: int
    #: Takes no IPv4 connection at its IPv6 wildcard.
    only_ipv6: bool
    uid: int
    inode: int
    cgroup: int

    def takes(self, host: str, *, exactly: bool = False) -> bool:
        """Say whether a connection to this IPv4 address may come to it."""
        if self.host in (host, f"::ffff:{host}"):
            return True
        is_wildcard = self.host == "0.0.0.0" or (self.host == "::" and not self.only_ipv6)  # noqa: S104
        return is_wildcard and not exactly


def _look_for_strangers(holders: Sequence[PortHolder], path_of: Callable[[int], str]) -> Iterator[PortFact]:
    by_port: dict[int, list[_Listener]] = {}
    for listener in _dump_listeners():
        by_port.setdefault(listener.port, []).append(listener)
    for holder in holders:
        mine = by_port.get(holder.port, [])
        # To 127.0.0.1 a socket that is bound to it comes before a wildcard.
        exact = [one for one in mine if one.takes("127.0.0.1", exactly=True)]
        takes = mine if holder.is_public else exact or [one for one in mine if one.takes("127.0.0.1")]
        for one in takes:
            path = path_of(one.cgroup)
            if is_stranger(holder, path):
                owner = _owner_of(one, path)
                yield PortFact(what=holder.what, port=holder.port, owner=owner, blocks=holder.blocks)
                break


def _owner_of(listener: _Listener, cgroup: str) -> str:
    """Return whose a listener is, in words. Whose descriptors are not ours to read is told by group and user."""
    processes = sorted(_processes_in(_hierarchy() / cgroup)) if cgroup else []
    holder = holder_of({str(listener.inode)}, among=processes)
    if holder is None:
        of_user = [pid for pid in processes if _user_of(pid) == listener.uid]
        holder = of_user[0] if of_user else None
    if holder is None and cgroup:
        return f"a process of {Path(cgroup).name}"
    return describe_process(holder)


def _user_of(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return os.stat(f"/proc/{pid}").st_uid
    return None


def _dump_listeners() -> list[_Listener]:
    """Ask the kernel for every TCP listener."""
    return [one for family in (socket.AF_INET, socket.AF_INET6) for one in _dump_listeners_of(family)]


def _dump_listeners_of(family: socket.AddressFamily) -> list[_Listener]:
    found: list[_Listener] = []
    request = struct.pack("=BBBxI", family, socket.IPPROTO_TCP, 0, 1 << _TCP_LISTEN) + bytes(48)
    head = struct.pack("=IHHII", _HEADER_BYTES + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_REQUEST_DUMP, 1, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as kernel:
            kernel.settimeout(CALL_TIMEOUT_S)
            kernel.send(head + request)
            while True:
                data = kernel.recv(1 << 16)
                at = 0
                while at < len(data):
                    length, kind = struct.unpack_from("=IH", data, at)
                    if kind == _NLMSG_DONE:
                        return found
                    if kind == _NLMSG_ERROR:
                        raise OSError(-struct.unpack_from("=i", data, at + _HEADER_BYTES)[0], "sock_diag")
                    found.append(_read_listener(family, data[at + _HEADER_BYTES : at + length]))
                    at += (length + 3) & ~3
    except OSError as error:
        raise Unavailable("ListenersUnknown", f"the kernel does not tell who listens: {error}") from error


def _read_listener(family: socket.AddressFamily, message: bytes) -> _Listener:
    """Read a `struct inet_diag_msg` and its attributes."""
    (port,) = struct.unpack_from("!H", message, 4)
    uid, inode = struct.unpack_from("=II", message, 64)
    cgroup, only_ipv6, at = 0, False, _DIAG_FIXED_BYTES
    while at + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, at)
        if length < 4:
            break
        if kind == _INET_DIAG_CGROUP_ID:
            (cgroup,) = struct.unpack_from("=Q", message, at + 4)
        elif kind == _INET_DIAG_SKV6ONLY:
            only_ipv6 = message[at + 4] != 0
        at += (length + 3) & ~3
    host = socket.inet_ntop(family, message[8 : 12 if family == socket.AF_INET else 24])
    return _Listener(family=family, host=host, port=port, only_ipv6=only_ipv6, uid=uid, inode=inode, cgroup=cgroup)
