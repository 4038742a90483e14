"""How long from the end of a `git push` until the new release answers through the edge, and how long for a revert?

Both minus the app's own start, which is measured beside it. The peer is the least that could be done at all: a script
of `git fetch`, `cp -al`, `git read-tree -u` and one rename, on the same forge, files and machine, with no gate, no
history and no report. Alternating order, medians.

    python tests/bench/bench_deploy.py [--rounds 5] [--files 2000] [--changed 20]
"""

from __future__ import annotations

import argparse
import http.client
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.acceptance.conftest import APP, World, open_world

PUSH_BUDGET_S = 0.25
REVERT_BUDGET_S = 0.5
PEER = "git fetch; cp -al current next; git --work-tree=next read-tree --reset -u NEW; mv -T next-link current"


def app_start_s(world: World) -> float:
    """Return how long the app itself needs from exec to its first answer, at best of five."""
    folder = Path(tempfile.mkdtemp(prefix="oro-bench-app-"))
    shutil.copyfile(APP / "app.py", folder / "app.py")
    (folder / "behaviour").write_text("ok\n")
    took = []
    for _ in range(5):
        port = world.author.edge_port + 900
        began = time.monotonic()
        process = subprocess.Popen(
            ["python3", "-u", "app.py"],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOST": "127.0.0.1", "PORT": str(port), "OROBOROS_RELEASE": "x"},
        )
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
                connection.request("GET", "/")
                connection.getresponse().read()
                connection.close()
                break
            except OSError:
                time.sleep(0.001)
        took.append(time.monotonic() - began)
        process.kill()
        process.wait()
    shutil.rmtree(folder)
    return statistics.median(took)


def peer_s(mirror: Path, work: Path, new: str) -> float:
    """Run the peer's steps for one push; return how long they took."""
    environment = {**os.environ, "GIT_DIR": str(mirror)}
    began = time.monotonic()

    def run(*words: str, **more: str) -> None:
        done = subprocess.run(words, check=False, env={**environment, **more}, cwd=work, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"the peer failed: {words}: {done.stderr}")

    run("git", "fetch", "-q", "origin", "main")
    run("cp", "-al", str((work / "current").resolve()), "next")
    # read-tree writes changed files anew, so the links of the old release keep their content.
    run("git", f"--work-tree={work / 'next'}", "read-tree", "--reset", "-u", new, GIT_INDEX_FILE=str(work / "index"))
    target = work / new
    (work / "next").rename(target)
    link = work / f".{new}.link"
    link.symlink_to(target)
    link.rename(work / "current")
    return time.monotonic() - began


def wait_serving(world: World, sha: str, since: float) -> float:
    while world.serves() != sha:
        time.sleep(0.002)
    return time.monotonic() - since


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--changed", type=int, default=20)
    options = parser.parse_args()
    with open_world() as world:
        clone = world.author.clone
        for k in range(options.files):
            file = clone / f"d{k % 40}" / f"f{k}.txt"
            file.parent.mkdir(exist_ok=True)
            file.write_text(f"{k}\n" * 20)
        first = world.release("ok", "bench: first")
        world.author.push()
        world.await_serving(first, timeout_s=60)
        world.author.await_status(first, "success", says="live since")
        start_s = app_start_s(world)
        mirror, work = Path(tempfile.mkdtemp(prefix="oro-peer-")), Path(tempfile.mkdtemp(prefix="oro-peer-work-"))
        token = (world.root / "etc" / "forge-token").read_text().strip()
        url = f"{world.stack['forge']}/{world.author.repository}.git".replace("://", f"://x:{token}@")
        subprocess.run(["git", "clone", "-q", "--bare", url, str(mirror)], check=True)
        environment = {**os.environ, "GIT_DIR": str(mirror), "GIT_INDEX_FILE": str(work / "index")}
        (work / first).mkdir()
        words = ["git", f"--work-tree={work / first}", "read-tree", "-m", "-u", first]
        subprocess.run(words, check=True, env=environment, cwd=work)
        (work / "current").symlink_to(work / first)
        pushes, reverts, peers, old = [], [], [], first
        try:
            for k in range(options.rounds):
                for n in range(options.changed):
                    (clone / f"d{n % 40}" / f"f{n}.txt").write_text(f"round {k} file {n}\n")
                sha = world.release("ok", f"bench: round {k}")
                ended = world.author.push()
                pushes.append(wait_serving(world, sha, ended) - start_s)
                world.author.await_status(sha, "success", says="live since")
                peers.append(peer_s(mirror, work, sha))
                world.author.git("revert", "--no-edit", "HEAD")
                ended = world.author.push()
                reverts.append(wait_serving(world, old, ended) - start_s)
                reverted = world.author.git("rev-parse", "HEAD")
                world.author.await_status(reverted, "success", says="live since")
                peer_s(mirror, work, reverted)
        finally:
            shutil.rmtree(mirror)
            shutil.rmtree(work)
    push, revert, peer = statistics.median(pushes), statistics.median(reverts), statistics.median(peers)
    print(f"peer: {PEER}")
    print(f"app's own start: {start_s * 1000:.0f} ms; files {options.files}, changed {options.changed}")
    print(f"push -> serving beyond the app's start: {push * 1000:.0f} ms, target <= {PUSH_BUDGET_S * 1000:.0f} ms")
    print(f"push -> serving: ratio {push / peer:.2f} x the minimal script ({peer * 1000:.0f} ms), which gates nothing")
    print(
        f"revert -> serving beyond the app's start: {revert * 1000:.0f} ms, target <= {REVERT_BUDGET_S * 1000:.0f} ms"
    )
    return 0 if push <= PUSH_BUDGET_S and revert <= REVERT_BUDGET_S else 1


if __name__ == "__main__":
    sys.exit(main())
