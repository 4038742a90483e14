#!/usr/bin/env bash
# Asks every health endpoint of the host contract. Exits with 0 when all are well, 1 when one is not, 4 without a stack.
set -euo pipefail
usage="usage: scripts/runtime-health-check.sh [--wait SECONDS] [--json] [--root DIR]"
source "$(dirname "${BASH_SOURCE[0]}")/command.sh"
find_command
exec "$oroboros" health "$@"
