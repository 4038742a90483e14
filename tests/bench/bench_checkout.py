"""What does a checkout cost beside `git worktree add` of the same commit? Prints one line each: name, ratio, target.

    python tests/bench/bench_checkout.py [--rounds N] [--folder DIR]

Same file system, same packed repository, alternating order, medians. `changed` is a release of which 10 files differ
from its neighbour, its sync to disk included, although git makes none. `cold` is a first release; its sync is told
apart. Before each measurement the disk is left to settle, so that nobody pays for the one before; and nothing is
removed until all is measured, because ext4 is slow to make files for some seconds after many were removed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from controller.effects.mirror import Mirror
from controller.effects.publish import PublishedRelease, prepare_spare, publish_release
from controller.model.config import TreeLimits
from controller.model.names import Layout, Sha, parse_sha

CHANGED = 10
CHANGED_RATIO_MAX = 0.15
COLD_RATIO_MAX = 1.2
_ENVIRONMENT = {
    **os.environ,
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "bench",
    "GIT_AUTHOR_EMAIL": "bench@example.org",
    "GIT_COMMITTER_NAME": "bench",
    "GIT_COMMITTER_EMAIL": "bench@example.org",
}


def _git(*arguments: str | Path) -> str:
    argv = ["git", "-c", "gc.auto=0", "-c", "maintenance.auto=false", *map(str, arguments)]
    return subprocess.run(argv, check=True, env=_ENVIRONMENT, capture_output=True, text=True).stdout.strip()


@dataclass(frozen=True)
class Figures:
    """Seconds of every round."""

    changed: list[float]
    changed_sync: list[float]
    cold: list[float]
    cold_sync: list[float]
    git: list[float]
    #: As `changed`, when the worker had no idle moment to prepare; and what the preparation takes.
    unprepared: list[float]
    preparing: list[float]


def make_repository(folder: Path, *, files: int) -> tuple[Sha, Sha]:
    """Make a repository of two commits, the second with 10 files changed; return both."""
    _git("init", "-q", "-b", "main", folder)
    for number in range(files):
        path = folder / f"part{number // 20 % 50}" / f"group{number // 1000}" / f"file{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"line of file {number}\n" * 60)
    _git("-C", folder, "add", "-A")
    _git("-C", folder, "commit", "-qm", "first")
    first = _git("-C", folder, "rev-parse", "HEAD")
    for path in sorted(folder.glob("part*/*/*.txt"))[:: files // CHANGED][:CHANGED]:
        path.write_text("changed\n" * 60)
    _git("-C", folder, "commit", "-qam", "second")
    second = _git("-C", folder, "rev-parse", "HEAD")
    _git("-C", folder, "repack", "-adq")
    return parse_sha(first), parse_sha(second)


def _publish(mirror: Mirror, layout: Layout, sha: Sha, neighbour: Sha | None) -> tuple[float, PublishedRelease]:
    os.sync()
    began_at = time.perf_counter()
    published = publish_release(mirror, layout, sha, limits=TreeLimits(), neighbour=neighbour)
    return time.perf_counter() - began_at, published


def _worktree(repository: Path, target: Path, sha: Sha) -> float:
    os.sync()
    began_at = time.perf_counter()
    _git("-C", repository, "worktree", "add", "-q", "--detach", target, sha)
    return time.perf_counter() - began_at


def measure(folder: Path, *, files: int, rounds: int) -> Figures:
    """Return what every round took."""
    repository = folder / "work"
    first, second = make_repository(repository, files=files)
    mirror = Mirror(folder / "repo.git", f"file://{repository}", allow_file_url=True)
    mirror.fetch(branch="main", pulls=[])
    figures = Figures([], [], [], [], [], [], [])

    def ours(number: int) -> None:
        layout = Layout(folder / f"root{number}")
        took_s, published = _publish(mirror, layout, first, None)
        assert published.linked == 0
        figures.cold.append(took_s - published.sync_s)
        figures.cold_sync.append(published.sync_s)
        took_s, published = _publish(mirror, layout, second, first)
        assert published.linked == files - CHANGED
        figures.unprepared.append(took_s)
        os.rename(layout.release(second), layout.root / "measured")
        began_at = time.perf_counter()
        assert prepare_spare(layout, first)
        figures.preparing.append(time.perf_counter() - began_at)
        took_s, published = _publish(mirror, layout, second, first)
        assert published.linked == files - CHANGED
        figures.changed.append(took_s)
        figures.changed_sync.append(published.sync_s)

    def theirs(number: int) -> None:
        figures.git.append(_worktree(repository, folder / f"tree{number}", second))

    for number in range(rounds):
        for part in (ours, theirs) if number % 2 == 0 else (theirs, ours):
            part(number)
    return figures


def main() -> int:
    """Print the figures; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, nargs="*", default=[2_000, 20_000])
    parser.add_argument("--folder", type=Path, default=None, help="where to work; the file system matters")
    options = parser.parse_args()
    print(
        "peer: git worktree add -q --detach DIR SHA;", subprocess.check_output(["git", "--version"], text=True).strip()
    )
    missed = 0
    top = Path(tempfile.mkdtemp(prefix="oro-bench-", dir=options.folder))
    try:
        measured = {files: measure(top / str(files), files=files, rounds=options.rounds) for files in options.files}
    finally:
        subprocess.run(["rm", "-rf", "--", str(top)], check=True)
    for files, figures in measured.items():
        git_s = statistics.median(figures.git)
        for name, series, sync, target in (
            (f"checkout, {files:,} files, {CHANGED} changed", figures.changed, figures.changed_sync, CHANGED_RATIO_MAX),
            (f"checkout, {files:,} files, cold", figures.cold, figures.cold_sync, COLD_RATIO_MAX),
        ):
            ours_s = statistics.median(series)
            ratio = ours_s / git_s
            missed += ratio > target
            if series is figures.changed:
                told = f"prepared beforehand in {statistics.median(figures.preparing) * 1000:.0f} ms"
                print(f"  ({told}; without that {statistics.median(figures.unprepared) / git_s:.2f} x)", flush=True)
            kind = "of it sync" if series is figures.changed else "sync apart"
            print(
                f"{name:<40} {ratio:5.2f} x   target <= {target:.2f} x   {'ok' if ratio <= target else 'MISSED'}"
                f"   ({ours_s * 1000:.0f} ms, {kind} {statistics.median(sync) * 1000:.0f} ms; git {git_s * 1000:.0f})",
                flush=True,
            )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
