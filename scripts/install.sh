#!/usr/bin/env bash
# Installs Oroboros on this host, or brings an installation up to this checkout: safe to repeat.
# A stage that is satisfied is skipped, so a prepared machine needs no network for the rest.
set -euo pipefail

usage="Usage: sudo ./scripts/install.sh [--prepare] [--dry-run] [OPTIONS of \`oroboros install\`]

Installs Debian's packages, the locked Python packages below /opt/oroboros, then everything else.
--prepare stops after the packages. --dry-run says what would change, and changes nothing; it needs no root,
but then it cannot look at everything."
prepare_only= dry= redis_server=redis-server
# A Redis of others was named earlier: then ours is not installed beside it.
if grep -qs '^REDIS_URL=' /etc/oroboros/worker.env &&
    ! grep -Eq '^REDIS_URL=redis://oroboros:[0-9a-f]+@127\.0\.0\.1:' /etc/oroboros/worker.env; then redis_server=; fi
arguments=()
for argument in "$@"; do
    case $argument in
        -h | --help)
            printf '%s\n' "$usage"
            exit 0
            ;;
        --prepare) prepare_only=yes ;;
        --dry-run)
            dry=yes
            arguments+=("$argument")
            ;;
        --redis-shared)
            redis_server=
            arguments+=("$argument")
            ;;
        --no-redis-shared)
            redis_server=redis-server
            arguments+=("$argument")
            ;;
        *) arguments+=("$argument") ;;
    esac
done

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "oroboros: $*"
    exit 2
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
program=${OROBOROS_PROGRAM:-/opt/oroboros}
packages=(python3 python3-venv git postgresql $redis_server polkitd dbus)
[ "$(id -u)" = 0 ] || [ -n "$dry" ] || fail "only root can install; type: sudo $0 $*"
umask 022

# What a package is for counts, not its name: Redis from elsewhere is as good.
is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }
missing=()
for package in "${packages[@]}"; do is_installed "$package" || missing+=("$package"); done

# One environment for each lock and each Python, under digest and version; it is there whole or not at all.
digest=$(sha256sum "$root/requirements.lock" | cut -c1-12)
name_environment() {
    version=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || true
    venv=$program/venvs/$digest-$version
    # Earlier installations named it by the lock alone.
    if [ ! -e "$venv" ] && [ -d "$program/venvs/$digest/lib/python$version" ]; then venv=$program/venvs/$digest; fi
}
name_environment

# Before anything is changed, all at once: what no package can bring up to date, and what the machine is like. The rest
# is judged by `oroboros install`, before its own first change.
problems=()
systemd=$(systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p') || true
if [ -z "$systemd" ] || [ ! -d /run/systemd/system ]; then
    problems+=("systemd does not run this machine, and Oroboros runs by it")
elif [ "$systemd" -lt 252 ]; then
    problems+=("systemd $systemd is too old; 252 is needed, as in Debian 12")
fi
has_python() { /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
python_too_old() { printf '%s\n' "/usr/bin/python3 is $(/usr/bin/python3 --version 2>&1); 3.11 is needed, as in Debian 12"; }
if [ -x /usr/bin/python3 ] && ! has_python; then problems+=("$(python_too_old)"); fi
hopeless=${problems[*]+yes}
if [ -x /usr/bin/python3 ] && { [ -n "$hopeless" ] || [ "${#missing[@]}" -gt 0 ] || [ ! -x "$venv/bin/python" ]; }; then
    # From a folder that is root's, in place of -P, which no Python before 3.11 knows.
    seen=$(cd / && PYTHONPATH=$root PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 -m controller.first_look \
        "${missing[@]}" -- "${arguments[@]}") || say "oroboros: ports, disk and clock could not be looked at"
    if [ -n "$seen" ]; then mapfile -t -O "${#problems[@]}" problems <<<"$seen"; fi
fi
if [ "${#problems[@]}" -gt 0 ]; then
    printf '%s\n' "${problems[@]}" >&2
    if [ -z "$dry" ] || [ -n "$hopeless" ]; then
        fail "nothing was changed. A port that is held: stop what holds it, or choose another (--port NAME=NUMBER)"
    fi
fi
if [ "${#missing[@]}" -gt 0 ]; then
    if [ -n "$dry" ]; then
        say "install Debian's packages: ${missing[*]}"
    else
        command -v apt-get >/dev/null || fail "these are missing, and there is no apt-get to install them: ${missing[*]}"
        say "oroboros: installing Debian's packages: ${missing[*]}"
        apt-get update -q >&2 || fail "apt-get update failed; is the network up?"
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >&2 ||
            fail "apt-get could not install ${missing[*]}; its last words are above"
    fi
fi

has_python || [ -n "$dry" ] || fail "$(python_too_old)"

make_environment() {
    /usr/bin/python3 -m venv "$1" || fail "/usr/bin/python3 could not make a virtual environment in $1"
    "$1/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off --quiet \
        --require-hashes -r "$root/requirements.lock" >&2 ||
        fail "the locked Python packages could not be installed; is the network up? Try again."
}

name_environment
python=$venv/bin/python
if [ ! -x "$python" ] && [ -n "$dry" ]; then
    say "install the locked Python packages into $venv"
    [ -z "$prepare_only" ] || exit 0
    if ! /usr/bin/python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        say "oroboros: what else would change can be told once Python 3.11 and its venv module are there (python3-venv)"
        exit 0
    fi
    # What else would change is told by the very packages, from a folder that goes when this ends.
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    say "oroboros: looking with the locked Python packages, in $scratch for as long as that takes"
    make_environment "$scratch/venv"
    python=$scratch/venv/bin/python
elif [ ! -x "$python" ]; then
    mkdir -p "$program/venvs"
    exec 9>"$program/venvs/.lock"
    flock -w 900 9 || fail "another installation takes longer than 15 minutes (lock: $program/venvs/.lock)"
    if [ ! -x "$venv/bin/python" ]; then
        new=$program/venvs/.${venv##*/}.new
        rm -rf "$new"
        say "oroboros: installing the locked Python packages into $venv"
        make_environment "$new"
        mv -T "$new" "$venv"
    fi
    exec 9>&-
fi
if [ "$(readlink "$program/venv" 2>/dev/null)" != "$venv" ] && [ -z "$dry" ]; then
    other_python=
    if [ -e "$program/venv" ] && [ ! -d "$program/venv/lib/python$version" ]; then other_python=yes; fi
    ln -sfn "$venv" "$program/.venv.new"
    mv -T "$program/.venv.new" "$program/venv"
    if [ -n "$other_python" ]; then
        say "oroboros: this machine has Python $version now; starting api and worker with it"
        # Whichever runs still has the Python that an upgrade of Debian removed.
        systemctl try-restart ouroboros-api.service ouroboros-worker.service || true
        for old in "$program"/venvs/*; do [ -d "$old/lib/python$version" ] || rm -rf "$old"; done
    fi
fi
[ -z "$prepare_only" ] || exit 0

cd /
export PYTHONPATH=$root PYTHONDONTWRITEBYTECODE=1
[ -n "${scratch:-}" ] || exec "$python" -P -m controller.doors.cli install "${arguments[@]}"
"$python" -P -m controller.doors.cli install "${arguments[@]}"
