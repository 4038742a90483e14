# Sourced by the scripts that run one `oroboros` command. Sets $oroboros, what to run: $OROBOROS_COMMAND; on a host the
# installed command, when this checkout is what is installed, or a release that serves; else that of this checkout's
# environment. On a host no environment is made.
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
    app=$(cd /opt/oroboros/app 2>/dev/null && pwd -P) || app=
    if [ -n "$app" ] && { [ "$here" = "$app" ] || [[ $here == /srv/oroboros/releases/* ]]; }; then
        for installed in /usr/local/bin/oroboros /opt/oroboros/venv/bin/oroboros; do
            if [ -x "$installed" ]; then
                oroboros=$installed
                return
            fi
        done
        printf 'oroboros: %s is installed without its command; install again\n' "$here" >&2
        exit 2
    fi
    source "$here/scripts/environment.sh"
    oroboros=$venv/bin/oroboros
}
