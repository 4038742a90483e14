#!/usr/bin/env bash
# Asks a preview for its pages by plain HTTP, and judges what it answers. Writes a JSON artifact, and says where.
set -euo pipefail
usage="usage: scripts/preview-smoke-e2e.sh --preview-url <url> [--changed-route /path ...] [--proxy-origin <url>]
           [--run-id <id> [--persist-validation]] [--output FILE] [--timeout SECONDS] [--json] [--root DIR]"
source "$(dirname "${BASH_SOURCE[0]}")/command.sh"
find_command
exec "$oroboros" smoke "$@"
