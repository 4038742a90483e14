"""How much slower is production while every preview of the host does its worst?

    sudo ./scripts/bench.sh bench_neighbours

On a booted Debian (see tests/host): production is asked a hundred times a second through the edge, in turns with the
previews idle and with each of them burning processors, writing and syncing its disk and churning memory, as much as it
is let. Medians of the rounds' 99th percentiles. Exits 1 when the attack costs production more than a fifth, 2 where no
host can be booted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.host.host import session_folder
from tests.host.image import CannotMake, make_image
from tests.host.team import Team, new_team

SHARE_MAX = 1.2
REQUESTS = 1_200
ATTACK_S = 18
#: Starts what burns, and returns at once; all of it ends by itself.
ATTACK = f"""
import sys, time
end = time.time() + {ATTACK_S}
work = {{
    "processor": "import time\\nwhile time.time() < END: sum(range(10000))",
    "disk": "import os, time\\nwhile time.time() < END:\\n"
    "    with open(os.environ['OROBOROS_DATA'] + '/x' + str(os.getpid()), 'wb') as file:\\n"
    "        file.write(b'x' * (4 << 20)); os.fsync(file.fileno())",
    "memory": "import time\\nwhile time.time() < END: bytearray(40 << 20)",
}}
for kind, count in (("processor", 8), ("disk", 2), ("memory", 3)):
    for _ in range(count):
        subprocess.Popen([sys.executable, "-c", work[kind].replace("END", str(end))])
return "attacking"
"""
#: Runs on the host: a steady pace, so that a slow answer is seen as such by those that wait behind it.
ASK = f"""
import http.client, json, time
connection = http.client.HTTPConnection("127.0.0.1", 8088, timeout=30)
took, began = [], time.perf_counter()
for number in range({REQUESTS}):
    due = began + number / 100
    time.sleep(max(0.0, due - time.perf_counter()))
    connection.request("GET", "/", headers={{"Host": "app.example.com"}})
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200, answer.status
    took.append((time.perf_counter() - due) * 1000)
print(json.dumps(sorted(took)))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    if os.geteuid() != 0:
        print("bench_neighbours: booting a host needs root", file=sys.stderr)
        return 2
    try:
        image = make_image()
    except CannotMake as problem:
        print(f"bench_neighbours: {problem}", file=sys.stderr)
        return 2
    with session_folder(image) as folder, new_team(image, folder) as team:
        team.push(1)
        team.wait_live("app", 1)
        for number in (1, 2, 3):
            team.open_pull(f"greedy-{number}", 10 + number, do=ATTACK)
            team.wait_live(f"preview{number}", 10 + number)
        team.settle()
        alone: list[float] = []
        attacked: list[float] = []
        for number in range(rounds):
            alone.append(p99_ms(team))
            for slot in (1, 2, 3):
                team.get(f"preview{slot}", "/do")
            attacked.append(p99_ms(team))
            print(f"round {number + 1}: alone {alone[-1]:.1f} ms, attacked {attacked[-1]:.1f} ms", flush=True)
            team.host.wait_until(lambda: is_quiet(team), "the attack is to end", timeout_s=60)
    ratio = statistics.median(attacked) / statistics.median(alone)
    print(f"{os.cpu_count()} processors, {REQUESTS} requests a round at 100 a second, 3 previews")
    print(f"production's 99th percentile under attack: {ratio:.2f} of that alone (at most {SHARE_MAX})")
    return 0 if ratio <= SHARE_MAX else 1


def p99_ms(team: Team) -> float:
    took = json.loads(team.host.run(["python3", "-c", ASK], timeout_s=120).stdout)
    return float(took[int(len(took) * 0.99)])


def is_quiet(team: Team) -> bool:
    return team.host.run(["pgrep", "-f", "[t]ime.time"], check=False).stdout == ""


if __name__ == "__main__":
    sys.exit(main())
