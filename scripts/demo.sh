#!/usr/bin/env bash
# Watch the three flows on this machine: embedded Postgres, Redis and Caddy, on loopback only. Arguments: see --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec "$venv/bin/oroboros" demo "$@"
