#!/usr/bin/env bash
# Format, lint, types and tests. Arguments go to pytest. Fails when a test was skipped, or none ran.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
if [ $# -eq 0 ]; then
    "$venv/bin/ruff" format --check .
    "$venv/bin/ruff" check .
    "$venv/bin/mypy"
fi
report=$(mktemp)
trap 'rm -f "$report"' EXIT
status=0
"$python" -m pytest -n "${OROBOROS_TEST_PROCESSES:-2}" --dist loadfile --junit-xml="$report" "$@" || status=$?
"$python" - "$report" <<'PY' || status=1
import sys
import xml.etree.ElementTree as tree

suites = tree.parse(sys.argv[1]).getroot().iter("testsuite")
counts = [{key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")} for suite in suites]
total = {key: sum(count[key] for count in counts) for key in ("tests", "failures", "errors", "skipped")}
passed = total["tests"] - total["failures"] - total["errors"] - total["skipped"]
print(f"{passed} passed, {total['failures'] + total['errors']} failed, {total['skipped']} skipped")
if total["skipped"] or not passed:
    sys.exit("test.sh: every test must run: none may be skipped")
PY
exit "$status"
