#!/usr/bin/env bash
# Ratios against named peers, measured in the same run. Not tests: nothing here asserts a time.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
status=0
for bench in "$root"/tests/bench/bench_*.py; do
    "$python" "$bench" "$@" || status=1
done
exit "$status"
