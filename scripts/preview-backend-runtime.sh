#!/usr/bin/env bash
# Stops, starts, restarts or shows the backend of one slot. What is stopped stays so until it is started.
set -euo pipefail
usage="usage: scripts/preview-backend-runtime.sh <start|stop|restart|status> <slot> [--reason TEXT] [--yes-production]
           [--timeout SECONDS] [--json] [--root DIR]"
source "$(dirname "${BASH_SOURCE[0]}")/command.sh"
case ${1:-} in start | stop | restart | status) ;; *) show_usage ;; esac
case ${2:-} in '' | -*) show_usage ;; esac
find_command
exec "$oroboros" backend "$@"
