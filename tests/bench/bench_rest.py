"""What do the processes of Oroboros cost a host on which nothing happens?

    sudo ./scripts/bench.sh bench_rest

On a booted Debian (see tests/host) with production and a preview: processor time and memory of each long-running
process, children that it waited for included, beside those of the host's redis-server in the same minutes. Medians of
the rounds. Exits 1 when the worker takes a hundredth of a core or more, 2 where no host can be booted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.host.host import Host, session_folder
from tests.host.image import CannotMake, make_image
from tests.host.team import Team, new_team

WORKER_SHARE_MAX = 0.01
ROUND_S = 60.0
PEER = "redis-server"
UNITS = (
    *("ouroboros-worker", "ouroboros-api", "ouroboros-caddy", "ouroboros-web@main", "ouroboros-web@preview1"),
    *("ouroboros-forward@preview1-a", PEER),
)
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    if os.geteuid() != 0:
        print("bench_rest: booting a host needs root", file=sys.stderr)
        return 2
    try:
        image = make_image()
    except CannotMake as problem:
        print(f"bench_rest: {problem}", file=sys.stderr)
        return 2
    with session_folder(image) as folder, new_team(image, folder) as team:
        processes = serve(team)
        shares: dict[str, list[float]] = {unit: [] for unit in processes}
        for number in range(rounds):
            for unit, share in measure(team.host, processes).items():
                shares[unit].append(share)
            worker, peer = shares[UNITS[0]][-1], shares[PEER][-1]
            print(f"round {number + 1}: worker {worker:.2%} of a core, {PEER} {peer:.2%}", flush=True)
        memory = {unit: memory_mb(team.host, pid) for unit, pid in processes.items()}
    at_rest = {unit: statistics.median(told) for unit, told in shares.items()}
    for unit, share in at_rest.items():
        of_peer = f"{share / at_rest[PEER]:.1f}" if at_rest[PEER] else "no figure"
        print(f"{unit:30} {share:6.2%} of a core, {of_peer} of {PEER}'s, {memory[unit]:4.0f} MB")
    print(f"all of ours: {sum(mb for unit, mb in memory.items() if unit != PEER):.0f} MB (shared pages counted once)")
    return 0 if at_rest[UNITS[0]] < WORKER_SHARE_MAX else 1


def serve(team: Team) -> dict[str, int]:
    """Deploy production and a preview; return each unit's main process once nothing is under way."""
    team.push(1)
    team.wait_live("app", 1)
    team.open_pull("feature", 2)
    team.wait_live("preview1", 2)
    team.settle()
    # What follows a run, reports and pruning, is no rest.
    time.sleep(ROUND_S / 2)
    return {unit: int(team.host.unit(f"{unit}.service", "MainPID")["MainPID"]) for unit in UNITS}


def measure(host: Host, processes: dict[str, int]) -> dict[str, float]:
    """Return each process' share of a core over a round."""
    before, began = {unit: processor_s(host, pid) for unit, pid in processes.items()}, time.monotonic()
    time.sleep(ROUND_S)
    took_s = time.monotonic() - began
    return {unit: (processor_s(host, pid) - before[unit]) / took_s for unit, pid in processes.items()}


def processor_s(host: Host, pid: int) -> float:
    """Return the seconds that a process and the children that it waited for ran, from proc_pid_stat(5)."""
    fields = host.read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / TICKS_A_SECOND


def memory_mb(host: Host, pid: int) -> float:
    """Return the proportional share of memory of a process (proc_pid_smaps(5))."""
    lines = host.read(f"/proc/{pid}/smaps_rollup").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


if __name__ == "__main__":
    sys.exit(main())
