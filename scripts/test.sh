#!/usr/bin/env bash
# Format, lint, types and all tests; with arguments, only the tests, and pytest gets the arguments.
# Fails when a test fails, when one was skipped, and when none ran.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$root"

if [ $# -eq 0 ]; then
    "$venv/bin/ruff" format --check .
    "$venv/bin/ruff" check .
    "$venv/bin/mypy"
fi

report=$(mktemp)
trap 'rm -f "$report"' EXIT
status=0
"$python" -m pytest -n "${OROBOROS_TEST_PROCESSES:-2}" --dist loadfile --no-loadscope-reorder \
    --junit-xml="$report" "$@" || status=$?
"$python" - "$report" <<'PY' || status=1
"""Did every test run? An expected failure and a skip look alike in the report, and neither is a pass."""
import sys
import xml.etree.ElementTree as tree

try:
    suites = list(tree.parse(sys.argv[1]).getroot().iter("testsuite"))
except tree.ParseError:
    sys.exit("test.sh: FAILED: pytest wrote no report, so no test ran")
total = {key: sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "failures", "errors", "skipped")}
passed = total["tests"] - total["failures"] - total["errors"] - total["skipped"]
if total["skipped"]:
    sys.exit(f"test.sh: FAILED: {total['skipped']} skipped; a test that cannot run here belongs in test-host.sh")
if not passed:
    sys.exit("test.sh: FAILED: no test passed")
PY
[ "$status" -eq 0 ] || say "test.sh: FAILED"
exit "$status"
