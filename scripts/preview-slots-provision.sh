#!/usr/bin/env bash
# Makes sure that every configured preview slot is provisioned on this host: users, folders, units, role. Safe to repeat.
set -euo pipefail
usage="usage: scripts/preview-slots-provision.sh [--dry-run]   (as root; what it changes, the installer says)"
source "$(dirname "${BASH_SOURCE[0]}")/command.sh"
find_command
exec "$oroboros" install --only-slots "$@"
