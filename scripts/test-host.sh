#!/usr/bin/env bash
# Boots real Debian 12 and 13 hosts, with systemd as PID 1, and runs the cases of tests/host on them, a line each.
# Needs root on Linux, and a network for the first run. Arguments go to pytest: -k reboot runs the cases about reboots.
# Exits with 0 when every case passed, 1 when one failed, 2 when this machine cannot run them.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$root"

refuse() {
    say "test-host.sh: $*"
    exit 2
}
[ "$(uname -s)" = Linux ] || refuse "the hosts of these tests need a Linux kernel"
[ "$(id -u)" -eq 0 ] || refuse "booting a host needs root; ./scripts/test.sh runs all that does not"
command -v apt-get >/dev/null || refuse "the hosts are made with debootstrap from apt's mirror; this machine has no apt-get"
for program in unshare nsenter setpriv mount ip awk; do
    command -v "$program" >/dev/null || refuse "$program is missing (Debian: apt-get install util-linux iproute2 mount)"
done
if ! command -v debootstrap >/dev/null; then
    say "test-host.sh: installing debootstrap"
    { apt-get install -qq -y --no-install-recommends debootstrap || { apt-get update -qq &&
        apt-get install -qq -y --no-install-recommends debootstrap; }; } >&2 </dev/null ||
        refuse "debootstrap cannot be installed; install it (apt-get install debootstrap)"
fi
if ! command -v gpg >/dev/null || ! command -v ssh-keygen >/dev/null; then
    say "test-host.sh: installing gnupg and openssh-client"
    { apt-get install -qq -y --no-install-recommends gnupg openssh-client || { apt-get update -qq &&
        apt-get install -qq -y --no-install-recommends gnupg openssh-client; }; } >&2 </dev/null ||
        refuse "gpg and ssh-keygen cannot be installed; install them (apt-get install gnupg openssh-client)"
fi
unshare --mount --pid --net --cgroup --fork true 2>/dev/null ||
    refuse "this machine does not let root make namespaces; in a container, it needs to be a privileged one"
"$python" -m tests.host.image >/dev/null || exit 2

cases=(tests/host)
for argument in "$@"; do case $argument in tests/host/*) cases=() ;; esac; done
exec "$python" -m pytest -n "${OROBOROS_TEST_PROCESSES:-3}" --dist loadfile --no-loadscope-reorder -p tests.host.plugin \
    -o addopts="--strict-markers --strict-config --import-mode=importlib" \
    -o python_files='case_*.py' -o console_output_style=classic -o timeout=300 -qq -rN --no-header --tb=short \
    "${cases[@]}" "$@"
