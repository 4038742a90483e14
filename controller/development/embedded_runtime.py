"""The runtime of `oroboros up`: asks the supervisor's process to start, stop and show units."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from controller.decisions.drift import HostDrift
from controller.decisions.host_units import PortHolder, port_holders
from controller.decisions.log_lines import ERROR_TAIL_BYTES, LOG_END_BYTES, error_line, last_lines
from controller.disk import remove_folder
from controller.effects.probe import strangers_at
from controller.effects.runtime import ProcessSpec
from controller.effects.stack_files import read_topology
from controller.listeners import describe_process, holder_of, listeners_of, socket_inodes, taking_loopback
from controller.model.command import parse_environment
from controller.model.errors import Stalled, Unavailable
from controller.model.names import Layout, SlotName, slot_of_unit, unit_of_systemd
from controller.model.nouns import PortFact, ProcessFact
from controller.model.states import ProcessState
from controller.threads import new_thread

TIMEOUT_S = 2.0
ANSWER_BYTES_MAX = 4 << 20
RECONNECT_PAUSE_S = 0.2


#: Before a stranger at a port is called one: longer than `oroboros up` takes to tell of a part that it started.
STRANGER_PAUSE_S = 0.05
#: Below `Layout.run`: the process of each part of the stack.
PARTS_FILE = "parts.json"
#: The part that has the ports of a host's unit; that of a surface is named by its slot.
PART_OF_UNIT = {
    "ouroboros-caddy.service": "edge",
    "ouroboros-api.service": "api",
    "ouroboros-worker.service": "worker",
}


class EmbeddedRuntime:
    """A client of one supervisor. Safe to use from several threads: each call is a connection of its own."""

    def __init__(self, socket_path: Path, layout: Layout) -> None:
        self._socket_path = socket_path
        self._layout = layout
        #: Sockets at ports of the stack that were found to be its own.
        self._known: frozenset[tuple[int, str]] = frozenset()

    def start(self, spec: ProcessSpec) -> None:
        """Start a unit. Safe to repeat: see `Runtime.start`.

        Files, environment and processes are all the supervisor's to make, once it knows that it has to."""
        slot = slot_of_unit(spec.unit)
        if slot is not None:  # a preview's was made with its lease; production's, at its first start
            self._layout.slot_data(slot).mkdir(parents=True, exist_ok=True, mode=0o700)
        spec.log_file.parent.mkdir(parents=True, exist_ok=True)
        self._ask(
            {
                "op": "start",
                "unit": spec.unit,
                "generation": spec.generation,
                "argv": list(spec.argv),
                "working_directory": str(spec.working_directory),
                "environment": dict(spec.environment),
                "environment_file": str(self._layout.environment_file(spec.unit)),
                "log_file": str(spec.log_file),
                "time_limit_s": spec.time_limit_s,
                "copy_of": None if spec.copy_of is None else str(spec.copy_of),
            }
        )

    def stop(self, unit: str, generation: int, *, grace_s: float) -> None:
        """Ask a unit to end. Safe to repeat: see `Runtime.stop`."""
        self._ask({"op": "stop", "unit": unit, "generation": generation, "grace_s": grace_s})

    def observe(self) -> tuple[ProcessFact, ...]:
        """Return every unit that is not forgotten."""
        units = self._ask({"op": "observe"})["units"]
        assert isinstance(units, list)
        return tuple(
            ProcessFact(
                unit=str(unit["unit"]),
                generation=int(unit["generation"]),
                state=ProcessState(unit["state"]),
                pid=unit["pid"],
                exit_code=unit["exit_code"],
                timed_out=bool(unit["timed_out"]),
                started_at=_instant(unit["started_at"]),
                ended_at=None if unit["ended_at"] is None else _instant(unit["ended_at"]),
            )
            for unit in units
        )

    def process_ids(self, unit: str, generation: int) -> frozenset[int]:
        """Return the unit's processes."""
        pids = self._ask({"op": "pids", "unit": unit, "generation": generation})["pids"]
        assert isinstance(pids, list)
        return frozenset(int(pid) for pid in pids)

    def environment(self, unit: str) -> Mapping[str, str]:
        """Return the environment that was last ordered."""
        try:
            return parse_environment(self._layout.environment_file(unit).read_text(errors="surrogateescape"))
        except FileNotFoundError:
            return {}

    def read_only_folder(self, unit: str) -> None:
        """Return None: an app may write to the build that it runs from."""

    def strangers_at(self, unit: str, generation: int, address: str) -> str | None:
        """Return who else listens at the address."""
        return strangers_at(address, lambda: self.process_ids(unit, generation))

    def taken_ports(self) -> tuple[PortFact, ...]:
        """Return the ports of the stack that other processes than its own listen on."""
        ports = {fact.port for fact in self._strangers()}
        if not ports:
            return ()
        # A part that was started a moment ago is told of at the second look.
        time.sleep(STRANGER_PAUSE_S)
        return tuple(fact for fact in self._strangers() if fact.port in ports)

    def _strangers(self) -> list[PortFact]:
        try:
            parts = json.loads((self._layout.run / PARTS_FILE).read_text())
        except (OSError, ValueError):
            return []  # the stack still starts
        listening = taking_loopback()
        known: set[tuple[int, str]] = set()
        found: list[PortFact] = []
        for holder in port_holders(read_topology(self._layout)):
            if holder.of_host:
                continue  # Postgres and Redis of the machine: this stack has its own, elsewhere
            sockets = {(holder.port, inode) for inode in listening.get(holder.port, ())}
            strange = sockets - self._known
            if strange:
                inodes = socket_inodes(self._holders(holder, parts))
                strange = {(port, inode) for port, inode in strange if inode not in inodes}
            known |= sockets - strange
            if strange:
                owner = describe_process(holder_of({inode for _, inode in strange}))
                found.append(PortFact(what=holder.what, port=holder.port, owner=owner, blocks=holder.blocks))
        self._known = frozenset(known)
        return found

    def _holders(self, holder: PortHolder, parts: Mapping[str, object]) -> frozenset[int]:
        """Return the processes that may listen on a port: of a part, or of an instance."""
        pids: set[int] = set()
        for name in holder.holders:
            unit = unit_of_systemd(name)
            if unit is not None:
                for fact in self.observe():
                    pids |= self.process_ids(unit, fact.generation) if fact.unit == unit else frozenset()
            pid = parts.get(
                PART_OF_UNIT.get(name) or name.replace("ouroboros-web@", "surface-").removesuffix(".service")
            )
            if isinstance(pid, int):
                pids.add(pid)
        return frozenset(pids)

    def listeners(self, unit: str, generation: int) -> tuple[str, ...]:
        """Return where the unit's processes listen."""
        return listeners_of(self.process_ids(unit, generation))

    def has_own_network(self, unit: str) -> bool:  # noqa: ARG002 - of the interface
        """Return False: plain processes share the network."""
        return False

    def error_line(self, unit: str, generation: int) -> str:
        """Return the line of the unit's log file that names the error."""
        try:
            with self._layout.log_file(unit, generation).open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - ERROR_TAIL_BYTES))
                return error_line(file.read(ERROR_TAIL_BYTES))
        except OSError:
            return ""

    def last_log_lines(self, unit: str, generation: int, *, lines: int) -> tuple[str, ...]:
        """Return the last lines of the unit's log file."""
        try:
            with self._layout.log_file(unit, generation).open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - LOG_END_BYTES))
                return last_lines(file.read(LOG_END_BYTES), lines=lines)
        except OSError:
            return ()

    def provision(self, slot: SlotName) -> None:
        """Make the slot's data folder anew."""
        data = self._layout.slot_data(slot)
        remove_folder(data)
        data.mkdir(parents=True, mode=0o700)

    def wipe(self, slot: SlotName, folders: Sequence[Path]) -> None:
        """Remove the folders, the slot's data and its environment files."""
        self.discard(slot, (self._layout.slot_data(slot), *folders))
        for file in self._layout.environment_file("x").parent.glob("*.env"):
            if slot_of_unit(file.stem) == slot:
                file.unlink(missing_ok=True)

    def discard(self, slot: SlotName, builds: Sequence[Path]) -> None:  # noqa: ARG002 - of the interface
        """Remove the builds."""
        for build in builds:
            remove_folder(build)

    def open_to_surface(self, folder: Path) -> None:
        """Do nothing: surfaces run as the same user."""

    def look_at_host(self) -> HostDrift:
        """Return nothing: `oroboros up` itself holds its parts."""
        return HostDrift()

    def start_judge(self) -> None:
        """Refuse: on one machine nothing restarts api and worker from a release."""
        raise Stalled("NoJudge", "this stack does not deploy itself: that takes a host under systemd")

    def restart_control_plane(self) -> None:
        """Refuse, as `start_judge` does."""
        self.start_judge()

    def reopen_api_port(self) -> None:
        """Do nothing: `oroboros up` starts a part again by itself."""

    def control_plane_restarts(self) -> int:
        """Return 0: nobody asks without a judge."""
        return 0

    def limitations(self) -> tuple[str, ...]:
        """Return what plain processes of one user cannot be kept from."""
        said = self._ask({"op": "limitations"})["limitations"]
        assert isinstance(said, list)
        return tuple(str(sentence) for sentence in said)

    def watch(self, ring: Callable[[], None]) -> None:
        """Ring whenever a unit ends, from a daemon thread."""
        new_thread("runtime watch", lambda: self._watch_for_ever(ring)).start()

    def _watch_for_ever(self, ring: Callable[[], None]) -> None:
        pause = threading.Event()  # never set: a bounded pause that ends with the process
        while True:
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                    connection.settimeout(TIMEOUT_S)
                    connection.connect(str(self._socket_path))
                    connection.sendall(b'{"op": "watch"}\n')
                    connection.settimeout(None)
                    ring()
                    while connection.recv(65_536):
                        ring()
            except OSError:
                pass
            pause.wait(RECONNECT_PAUSE_S)

    def _ask(self, request: dict[str, object]) -> dict[str, object]:
        deadline = time.monotonic() + TIMEOUT_S
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(TIMEOUT_S)
                connection.connect(str(self._socket_path))
                connection.sendall(json.dumps(request).encode() + b"\n")
                data = bytearray()
                while not data.endswith(b"\n") and len(data) <= ANSWER_BYTES_MAX:
                    connection.settimeout(max(0.001, deadline - time.monotonic()))
                    piece = connection.recv(1 << 20)
                    if not piece:
                        break
                    data += piece
            answer = json.loads(data)
        except (OSError, ValueError) as error:
            message = f"the supervisor at {self._socket_path} does not answer: {error}"
            raise Unavailable("RuntimeAway", message) from error
        if not isinstance(answer, dict) or "error" in answer:
            told = answer if isinstance(answer, dict) else {}
            message = f"the supervisor refused to {request['op']}: {told.get('error', 'no answer')}"
            raise Unavailable(str(told.get("reason", "RuntimeRefused")), message)
        return answer


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
