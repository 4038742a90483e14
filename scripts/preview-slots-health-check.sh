#!/usr/bin/env bash
# Checks every preview slot: lease, what it serves, web port, backend port, edge host, unit, database. Changes nothing.
set -euo pipefail
usage="usage: scripts/preview-slots-health-check.sh [--json] [--root DIR]"
source "$(dirname "${BASH_SOURCE[0]}")/command.sh"
find_command
exec "$oroboros" slots --check --previews "$@"
