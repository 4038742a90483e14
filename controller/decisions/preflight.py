"""Judge whether a machine can carry an installation: all problems at once, each with what to do, before any change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from controller.decisions.drift import describe_taken
from controller.decisions.installation import HostFacts, missing_parts, postgres_strangers, redis_strangers, too_old
from controller.model.machine_needs import CLOCK_SLACK_S, FREE_BYTES_MIN, MIB
from controller.model.nouns import PortFact
from controller.model.options import Options

#: Below, a few builds do not fit.
FREE_BYTES_ADVISED = 4096 * MIB
MEMORY_BYTES_ADVISED = 900 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a machine is like, apart from what is installed on it."""

    memory_bytes: int
    #: What is free where we write, by folder.
    free_bytes: Mapping[Path, int] = field(default_factory=dict)
    #: None: the machine does not say.
    is_clock_synchronized: bool | None = None
    #: Ports that an installation has already: with one of them taken, an upgrade may be what mends the rest.
    kept_ports: frozenset[int] = frozenset()
    now_s: float
    checkout_made_s: float
    #: Ports of ours that other processes listen on.
    taken: tuple[PortFact, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why nothing is begun, and what to do."""

    reason: str
    text: str


def refusals(
    machine: Machine,
    facts: HostFacts,
    *,
    is_root: bool,
    dry_run: bool,
    redis_shared: bool,
    port_problems: Sequence[str] = (),
) -> list[Refusal]:
    """Return everything that keeps an installation from its begin."""
    missing = missing_parts(facts, redis_shared=redis_shared)
    found = [Refusal(reason="TopologyInvalid", text=text) for text in port_problems]
    found += [] if dry_run else [Refusal(reason="HostTooOld", text=f"{name} is not there") for name in missing]
    found += [Refusal(reason="HostTooOld", text=text) for text in too_old(facts, redis_shared=redis_shared)]
    if is_root and facts.postgres is None and "postgresql" not in missing:
        text = "Postgres' administrator cannot be reached: systemctl start postgresql"
        found.append(Refusal(reason="PostgresAway", text=text))
    if is_root and facts.redis is None and not redis_shared and "redis" not in missing:
        text = "Redis does not answer on 127.0.0.1:6379: systemctl start redis-server"
        found.append(Refusal(reason="RedisAway", text=text))
    if not redis_shared and (strangers := redis_strangers(facts)):
        text = f"this Redis has {strangers}: with --redis-shared it is left alone, and you give its address"
        found.append(Refusal(reason="RedisIsShared", text=text))
    found += [
        Refusal(reason="HostUnfit", text=_told(fact)) for fact in machine.taken if fact.port not in machine.kept_ports
    ]
    found += [
        Refusal(reason="HostUnfit", text=f"{folder} has {free // MIB} MiB free, {FREE_BYTES_MIN // MIB} are needed")
        for folder, free in sorted(machine.free_bytes.items())
        if free < FREE_BYTES_MIN
    ]
    if machine.now_s < machine.checkout_made_s - CLOCK_SLACK_S:
        text = "the clock is more than a day before this checkout was made: set it (timedatectl set-ntp true)"
        found.append(Refusal(reason="HostUnfit", text=text))
    return found


def machine_warnings(machine: Machine) -> tuple[str, ...]:
    """Return what an installation can live with, and its owner should know."""
    told = [_told(fact) for fact in machine.taken if fact.port in machine.kept_ports]
    if machine.memory_bytes < MEMORY_BYTES_ADVISED:
        told.append(f"the machine has {machine.memory_bytes // MIB} MiB of memory; 1 GB carries one app and previews")
    told += [
        f"{folder} has {free // MIB} MiB free; builds and releases want {FREE_BYTES_ADVISED // MIB}"
        for folder, free in sorted(machine.free_bytes.items())
        if FREE_BYTES_MIN <= free < FREE_BYTES_ADVISED
    ]
    if machine.is_clock_synchronized is False:
        told.append("nothing keeps the clock right, and certificates and tokens need it: timedatectl set-ntp true")
    return tuple(told)


def foreign_parts(facts: HostFacts, said: Options) -> tuple[str, ...]:
    """Return what of others an installation finds and leaves as it is."""
    strangers = postgres_strangers(facts.postgres) if facts.postgres is not None else ""
    if not strangers or said.close_databases:
        return ()  # --close-databases has a warning of its own
    return (f"Postgres also has {strangers}: an installation leaves them as they are",)


def _told(fact: PortFact) -> str:
    return f"{describe_taken(fact)}: stop that, have it listen elsewhere, or choose another port with --port"
