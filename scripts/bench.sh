#!/usr/bin/env bash
# Ratios against named peers, measured in the same run, one benchmark after the other. Arguments: names of benchmarks
# (bench_checkout); none: all. Not 0 when one misses its target, or has no peer to measure against.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

if [ $# -eq 0 ]; then
    for bench in "$root"/tests/bench/bench_*.py; do set -- "$@" "$(basename "$bench" .py)"; done
fi
failed=()
for name in "$@"; do
    say "== $name"
    # A benchmark may measure for long, but not for ever.
    timeout 1800 "$python" "$root/tests/bench/${name%.py}.py" || failed+=("$name")
done
[ ${#failed[@]} -eq 0 ] || {
    say "bench.sh: missed, or without a peer: ${failed[*]}"
    exit 1
}
