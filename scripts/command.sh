# Sourced by the scripts that run one `oroboros` command. Sets $oroboros, the command to run, the first of these:
# $OROBOROS_COMMAND; this checkout's own with OROBOROS_CHECKOUT=1; the installed one on an installed host; this checkout's.
# A host is installed when /etc/oroboros/topology.json is there and /usr/local/bin/oroboros belongs to root.
# Only this checkout's own command needs a virtual environment, which is made when it is missing.
# Needs $usage, and prints it for --help: that installs nothing.

show_usage() {
    printf '%s\n' "$usage" >&2
    exit 2
}
for argument in "$@"; do
    case $argument in
        --) break ;;
        -h | --help)
            printf '%s\n' "$usage"
            exit 0
            ;;
    esac
done

# Which argument is which is the command's business; what a script itself demands comes first.
is_commit() { [[ ${1:-} =~ ^[0-9a-fA-F]{7,40}$ ]]; }

find_command() {
    local here app installed
    if [ -n "${OROBOROS_COMMAND:-}" ]; then
        command -v "$OROBOROS_COMMAND" >/dev/null || {
            printf 'oroboros: OROBOROS_COMMAND=%s cannot be run\n' "$OROBOROS_COMMAND" >&2
            exit 2
        }
        oroboros=$OROBOROS_COMMAND
        return
    fi
    here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
    if [ "${OROBOROS_CHECKOUT:-}" != 1 ]; then
        installed=/usr/local/bin/oroboros
        if [ -e /etc/oroboros/topology.json ] && [ -x "$installed" ] && [ "$(stat -c %u "$installed")" = 0 ]; then
            oroboros=$installed
            return
        fi
        app=$(cd /opt/oroboros/app 2>/dev/null && pwd -P) || app=
        if [ -n "$app" ] && { [ "$here" = "$app" ] || [[ $here == /srv/oroboros/releases/* ]]; }; then
            printf 'oroboros: %s is installed without its command; install again\n' "$here" >&2
            exit 2
        fi
    fi
    source "$here/scripts/environment.sh"
    oroboros=$venv/bin/oroboros
}
