#!/usr/bin/env bash
# Boots a Debian root with its systemd as PID 1 and with limits that hold. It stays until that PID 1 ends.
#
#   boot.sh LOWER FOLDER NAME     FOLDER/root is the host's root: a copy, or, where there is a FOLDER/upper, what an
#                                 overlay of LOWER and FOLDER/upper shows; NAME names host and control groups
#
# systemd-nspawn hands over the hierarchy of systemd alone where controllers are on cgroup v1, and MemoryMax, TasksMax
# and CPUQuota silently do nothing. Here each hierarchy, v1 or v2, gets a folder of its own, and a cgroup namespace
# makes that folder the root which the host sees. Every mount is in a mount namespace of its own, and goes with it.
# The kernel's settings are the machine's: the host reads them, and writes only those of its own network.
# What does not hold, as on any Debian 12: SocketBindDeny=, since its systemd is built without the BPF framework.
set -eu
lower=$1 folder=$2 name=$3

make_group() { # in one hierarchy, by its folder
    mkdir -p "$1/$name"
    if [ -e "$1/cpuset.cpus" ] && [ -e "$1/cpuset.mems" ]; then
        # On v1 nobody can join a folder that names no processor.
        for key in cpus mems; do cat "$1/cpuset.$key" >"$1/$name/cpuset.$key"; done
    fi
    groups+=("$1/$name")
}
groups=()

if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
    version=2
    for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
        echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || true
    done
    make_group /sys/fs/cgroup
else
    version=1
    for hierarchy in $(awk '$3 == "cgroup" || $3 == "cgroup2" {print $2}' /proc/self/mounts); do make_group "$hierarchy"; done
fi

# Two steps, and the process that waits out here joins no group: on v2, systemd could hand on no controller from a root
# with a process in it that is not its own.
enter='for group in "${@:5}"; do echo 0 >"$group/cgroup.procs"; done; exec unshare --cgroup bash -euc "$inside" boot "${@:1:4}"'
inside='
lower=$1 folder=$2 name=$3 version=$4 root=$2/root
ip link set lo up
if [ -d "$folder/upper" ]; then
    options=lowerdir=$lower,upperdir=$folder/upper,workdir=$folder/work
    mount -t overlay -o "$options,redirect_dir=on" overlay "$root"
else
    mount --bind "$root" "$root"
fi
cd "$root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
if [ "$version" = 2 ]; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    mount -t tmpfs tmpfs sys/fs/cgroup
    awk "\$3 == \"cgroup\" || \$3 == \"cgroup2\" {print \$2, \$3}" /proc/self/mounts | sort -u |
    while read -r hierarchy kind; do
        controllers=${hierarchy##*/}
        case $hierarchy in /sys/fs/cgroup/*) ;; *) continue ;; esac
        mkdir "sys/fs/cgroup/$controllers"
        case $kind:$controllers in
            cgroup2:*) mount -t cgroup2 cgroup2 "sys/fs/cgroup/$controllers" ;;
            cgroup:systemd) mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd ;;
            *) mount -t cgroup -o "$controllers" cgroup "sys/fs/cgroup/$controllers" ;;
        esac
    done
fi
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
mount -t tmpfs -o mode=755 tmpfs run
mkdir run/lock run/oldroot
# The kernel is the machine'"'"'s, and so is its boot id; ours is new at each boot, as on a machine that was switched on.
cat /proc/sys/kernel/random/uuid >run/boot-id
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount --bind run/boot-id proc/sys/kernel/random/boot_id
mount -o remount,bind,ro,nosuid,nodev,noexec proc/sys
hostname "$name"
pivot_root . run/oldroot
cd /
umount -l /run/oldroot
rmdir /run/oldroot
# systemd hands credentials to units by mounts in a namespace that must hear of them.
mount --make-rshared /
exec env -i container=oroboros-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system </dev/null >/dev/null 2>&1
'
export inside
exec unshare --mount --uts --ipc --pid --net --fork --kill-child --propagation private \
    bash -euc "$enter" boot "$lower" "$folder" "$name" "$version" "${groups[@]}"
