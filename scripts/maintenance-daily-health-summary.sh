#!/usr/bin/env bash
# Writes what was of this day into a folder, and lets go of rows and logs that retention lets go.
set -euo pipefail
usage="usage: scripts/maintenance-daily-health-summary.sh --output-dir DIR [--json] [--root DIR]"
source "$(dirname "${BASH_SOURCE[0]}")/command.sh"
[[ " $* " == *" --output-dir"[\ =]* ]] || show_usage
find_command
exec "$oroboros" maintenance daily-summary "$@"
