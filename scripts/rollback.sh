#!/usr/bin/env bash
# Has production go back to a release that served well: the same plan, gate and window as after a push, and runtime-health-check.sh as its health gate.
set -euo pipefail
usage="usage: scripts/rollback.sh <release_id> [--reason TEXT] [--accept-migrations] [--require-healthy]
  [--no-wait] [--json] [--root DIR]"
source "$(dirname "${BASH_SOURCE[0]}")/command.sh"
is_commit "${1:-}" || show_usage
find_command
exec "$oroboros" rollback "$@"
