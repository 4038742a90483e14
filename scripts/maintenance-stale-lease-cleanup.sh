#!/usr/bin/env bash
# Finds leases and slots that nobody holds any more, by the forge and by the host, and has the worker reclaim them.
set -euo pipefail
usage="usage: scripts/maintenance-stale-lease-cleanup.sh [--dry-run] [--json] [--root DIR]"
source "$(dirname "${BASH_SOURCE[0]}")/command.sh"
find_command
exec "$oroboros" maintenance stale-leases "$@"
