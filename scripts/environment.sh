# Sourced by the other scripts: finds Python, makes the virtual environment, installs the locked requirements.
# Safe to run twice and by two at once. Sets $root (the checkout), $venv and $python; writes only below $venv's folder.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "oroboros: $*"
    exit 2
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
has_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

# Prints the first Python that is new enough and can make a virtual environment; else what is missing, and returns 1.
find_python() {
    local candidate found without_venv=
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python3.14 python \
        "${PYENV_ROOT:-${HOME:-/nonexistent}/.pyenv}"/versions/3.1[1-9]*/bin/python3; do
        found=$(command -v "$candidate" 2>/dev/null) && is_new_enough "$found" || continue
        if has_venv "$found"; then
            printf '%s\n' "$found"
            return 0
        fi
        without_venv=$found
    done
    if [ -n "$without_venv" ]; then
        say "oroboros: $without_venv cannot make virtual environments; install its venv module (Debian: apt-get install python3-venv)"
    else
        say "oroboros: there is no Python 3.11 or newer here; install one (Debian: apt-get install python3 python3-venv)," \
            "or name it: PYTHON=/path/to/python3 $0"
    fi
    return 1
}

# In the checkout when it is ours; else in the user's cache, one folder a checkout.
choose_venv() {
    if [ -O "$root" ] && [ -w "$root" ] && { [ ! -e "$root/.venv" ] || { [ -O "$root/.venv" ] && [ -w "$root/.venv" ]; }; }; then
        printf '%s\n' "$root/.venv"
        return
    fi
    local cache=${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/oroboros
    if ! mkdir -p "$cache" 2>/dev/null || ! [ -w "$cache" ]; then
        # A user without a home. Others may write /tmp too: the folder must be ours.
        cache=${TMPDIR:-/tmp}/oroboros-cache-$(id -u)
        mkdir -m 700 "$cache" 2>/dev/null || true
        [ -d "$cache" ] && [ ! -L "$cache" ] && [ -O "$cache" ] || fail "no folder for the virtual environment: $cache is not ours"
    fi
    printf '%s\n' "$cache/$(printf '%s' "$root" | git hash-object --stdin | cut -c1-12)"
}

# One at a time. The kernel lets go of a flock when we end; without flock, a folder whose owner is gone is taken over.
lock() {
    if command -v flock >/dev/null 2>&1; then
        exec 9>"$venv.lock"
        flock -w 900 9 || fail "another installation into $venv takes longer than 15 minutes (lock: $venv.lock)"
        return
    fi
    local waited=0
    until mkdir "$venv.lock.d" 2>/dev/null; do
        if ! kill -0 "$(cat "$venv.lock.d/pid" 2>/dev/null || echo $$)" 2>/dev/null; then
            rm -rf "$venv.lock.d"
            continue
        fi
        [ "$waited" -lt 900 ] || fail "another installation into $venv takes longer than 15 minutes (lock: $venv.lock.d)"
        sleep 1
        waited=$((waited + 1))
    done
    printf '%s\n' $$ >"$venv.lock.d/pid"
}

unlock() {
    if [ -d "$venv.lock.d" ]; then rm -rf "$venv.lock.d"; else exec 9>&-; fi
}

# Turns pip's lines into one that counts; a terminal sees it move, a log gets a line for every tenth package.
show_progress() {
    local line count=0 total
    total=$(grep -c '==' "$root/requirements.lock")
    while IFS= read -r line; do
        case $line in
            Collecting\ * | Processing\ *)
                # "Collecting name==1" from an index, "Processing ./name.whl" from a folder.
                count=$((count + 1))
                line=${line#* }
                line=${line##*/}
                if [ -t 2 ]; then
                    printf '\r\033[K  %d of at most %d: %s' "$count" "$total" "${line%% *}" >&2
                elif [ $((count % 10)) -eq 0 ]; then
                    printf '  %d of at most %d\n' "$count" "$total" >&2
                fi
                ;;
            Installing\ collected*)
                if [ -t 2 ]; then printf '\r\033[K' >&2; fi
                printf '  %d collected, unpacking\n' "$count" >&2
                ;;
        esac
    done
    if [ -t 2 ]; then printf '\r\033[K' >&2; fi
}

install_requirements() {
    local base log=$venv/install.log
    if ! { [ -x "$venv/bin/python" ] && is_new_enough "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1; }; then
        base=$(find_python) || exit 2
        say "oroboros: making a virtual environment with $base in $venv"
        "$base" -m venv --clear "$venv" || fail "$base could not make a virtual environment in $venv"
    fi
    say "oroboros: installing the locked requirements (once; a minute or so, depending on the network)"
    if ! "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off --require-hashes \
        -r "$root/requirements.lock" 2>&1 | tee "$log" | show_progress; then
        tail -n 15 "$log" >&2
        fail "the locked requirements could not be installed (pip's last words are above, all of them in $log)." \
            "Is the network up? Try again: nothing that arrived is lost."
    fi
    write_command
}

# `oroboros` on the PATH of these scripts and of whoever activates the environment; it runs this checkout.
write_command() {
    local line
    printf -v line 'PYTHONPATH=%q exec %q -P -m controller.doors.cli "$@"' "$root" "$venv/bin/python"
    rm -f "$venv/bin/oroboros"
    printf '#!/usr/bin/env bash\n%s\n' "$line" >"$venv/bin/oroboros"
    chmod 755 "$venv/bin/oroboros"
}

set -o pipefail
app=$(cd /opt/oroboros/app 2>/dev/null && pwd -P) || app=
[ "$root" != "$app" ] || fail "$root is the installed code, in which nothing may be written: run this in a clone"
command -v git >/dev/null 2>&1 || fail "git is not installed; install it (Debian: apt-get install git)"
venv=$(choose_venv) || exit 2
python=$venv/bin/python
if [ "$venv" != "$root/.venv" ]; then
    # The checkout is not ours to write: what the tools keep between runs goes beside the environment.
    export RUFF_CACHE_DIR=$venv.cache/ruff MYPY_CACHE_DIR=$venv.cache/mypy PYTHONPYCACHEPREFIX=$venv.cache/pycache
    export HYPOTHESIS_STORAGE_DIRECTORY=$venv.cache/hypothesis PYTEST_ADDOPTS="${PYTEST_ADDOPTS:-} -o cache_dir=$venv.cache/pytest"
fi

wanted=$(cat "$root/requirements.lock" "${BASH_SOURCE[0]}" | git hash-object --stdin)
stamp=$venv/oroboros-installed
is_installed() { [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && is_new_enough "$python"; }
if ! is_installed; then
    lock
    if ! is_installed; then
        install_requirements
        # By rename, last: an interrupted installation is done again.
        printf '%s\n' "$wanted" >"$stamp.new" && mv "$stamp.new" "$stamp"
    fi
    unlock
fi

unset PYTHONHOME
export PYTHONPATH=$root PATH=$venv/bin:$PATH
