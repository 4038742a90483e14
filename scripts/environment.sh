# Sourced by the other scripts: finds Python, makes the virtual environment, and installs the locked requirements.
# Safe to run twice and by two at once. Sets $root (the checkout) and $python (of the virtual environment).

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

say() { printf '%s\n' "$*" >&2; }
fail() { say "oroboros: $*"; exit 2; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11 python; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

command -v git >/dev/null 2>&1 || fail "git is not installed; install it (for example: apt-get install git)"
base_python=$(find_python) || fail "no Python 3.11 or newer found; install it (for example: apt-get install python3 python3-venv)"
"$base_python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$base_python has no venv module; install it (for example: apt-get install python3-venv)"

# The environment lies in the checkout, or in the user's cache when the checkout is not ours to write.
if [ -w "$root" ] && { [ ! -e "$root/.venv" ] || [ -w "$root/.venv" ]; }; then
    venv=$root/.venv
else
    digest=$(printf '%s' "$root" | git hash-object --stdin | cut -c1-12)
    venv=${XDG_CACHE_HOME:-$HOME/.cache}/oroboros/$digest
fi
mkdir -p "$(dirname "$venv")" || fail "$(dirname "$venv") cannot be written"

wanted=$(cat "$root/requirements.lock" "$root/pyproject.toml" | git hash-object --stdin)-$("$base_python" -c 'import sys; print(sys.version)' | git hash-object --stdin)
stamp=$venv/.oroboros-installed
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]; then
    # One at a time; the kernel lets go when we end.
    exec 9>"$venv.lock"
    if command -v flock >/dev/null 2>&1; then flock 9; fi
    if [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]; then
        say "oroboros: installing into $venv (once, about half a minute)"
        [ -x "$venv/bin/python" ] || { rm -rf "$venv"; "$base_python" -m venv "$venv" || fail "no virtual environment could be made in $venv"; }
        "$venv/bin/python" -m pip install --disable-pip-version-check --quiet --require-hashes -r "$root/requirements.lock" >&2 ||
            fail "the locked requirements could not be installed; is the package index reachable?"
        printf '%s\n' "$wanted" >"$stamp"
    fi
    exec 9>&-
fi
python=$venv/bin/python
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONDONTWRITEBYTECODE=${PYTHONDONTWRITEBYTECODE:-}
export PATH=$venv/bin:$PATH
cd "$root"
