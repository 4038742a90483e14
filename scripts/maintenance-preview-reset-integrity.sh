#!/usr/bin/env bash
# Compares slots, leases, databases, units and runs. Exits with 1 when something contradicts itself.
set -euo pipefail
usage="usage: scripts/maintenance-preview-reset-integrity.sh [--lookback-hours HOURS] [--running-grace-minutes MINUTES]
       [--json] [--root DIR]"
source "$(dirname "${BASH_SOURCE[0]}")/command.sh"
find_command
exec "$oroboros" maintenance reset-audit "$@"
