#!/usr/bin/env bash
# Runs a command on a host of its own: own libvirtd, networks, network cards and
# processes, own directories of cyyber and libvirt. What this host runs, a demo
# or a class, is neither seen nor touched, and what is left behind ends with the
# command. There is no way out of its network.
#
#     tests/world.sh COMMAND [ARGUMENT]...
#
# The command finds in its environment:
#   CYYBER_WORLD  directory of this host
#   CYYBER_SLOTS  files to lock, one for each guest that may run at once
#   TMPDIR        room for its files
# and in /run/outside the network of the host that it is on, for what needs the
# package mirrors: nsenter --net=/run/outside COMMAND.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

HERE=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
readonly HERE

# Directories of the host in whose place the command has empty ones. What QEMU
# can do (/var/cache/libvirt) is found out once and shared.
readonly OWN=(/var/lib/libvirt /etc/libvirt/qemu /etc/libvirt/nwfilter /etc/libvirt/hooks
    /etc/udev/rules.d /var/log/libvirt /var/lib/cyyber /etc/cyyber)

main() {
    if [[ ${1-} = --inside ]]; then
        shift
        inside "$@"
    fi
    (($#)) || {
        echo "usage: $0 COMMAND [ARGUMENT]..." >&2
        exit 2
    }
    ((EUID == 0)) || exec sudo --preserve-env -- "$0" "$@"
    outside "$@"
}

outside() {
    local status=0 new
    child=
    remove_left_behind
    # It gets its name when its lock is held, which is for as long as anything runs in there: others
    # take away what nobody holds.
    new=$(mktemp -d "${TMPDIR:-/tmp}/cyyber-new-XXXXXX")
    exec 8>"$new/lock"
    flock 8
    world=${new/%cyyber-new-??????/cyyber-world-${new: -6}}
    mv -- "$new" "$world"
    trap remove EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    # QEMU's user passes through to its disks.
    chmod 711 "$world"
    mkdir -m 711 "$world/tmp"
    if [[ -z ${CYYBER_SLOTS-} ]]; then
        export CYYBER_SLOTS=$world/slots
        mkdir "$CYYBER_SLOTS"
        # All guests of libvirt together get as much of the processor as one process beside them.
        renice -n 5 $$ >/dev/null
    fi
    export CYYBER_WORLD=$world TMPDIR=$world/tmp
    # The first process in there collects what daemons leave behind, as a shell does while it waits.
    unshare --mount --net --pid --ipc --fork --kill-child --mount-proc \
        sh -c '"$@"; exit $?' sh "$HERE/world.sh" --inside "$@" 9</proc/self/ns/net </dev/null &
    child=$!
    wait "$child" || status=$?
    child=
    exit "$status"
}

# Worlds whose run was killed outright.
remove_left_behind() {
    local lock
    for lock in "${TMPDIR:-/tmp}"/cyyber-world-*/lock; do
        if [[ -e $lock ]] && flock -n "$lock" true; then
            world=${lock%/lock}
            remove
        fi
    done
}

# shellcheck disable=SC2317 # called by a trap
remove() {
    if [[ -n $child ]]; then
        # unshare takes the namespace of processes with it.
        kill -KILL "$child" 2>/dev/null || true
        wait "$child" 2>/dev/null || true
    fi
    # The control groups of hosts in there, which are empty a moment after the last process.
    find /sys/fs/cgroup -depth -type d -path "*/${world##*/}-*" -exec rmdir {} + 2>/dev/null || true
    # Base images are immutable.
    chattr -R -f -i "$world" || true
    rm -rf --one-file-system -- "$world"
}

inside() {
    local directory place
    # The network cards of in here, with the control groups of the host.
    mkdir -p "$CYYBER_WORLD/cgroup"
    mount --rbind /sys/fs/cgroup "$CYYBER_WORLD/cgroup"
    mount -t sysfs sysfs /sys
    mount --rbind "$CYYBER_WORLD/cgroup" /sys/fs/cgroup
    touch "$CYYBER_WORLD/outside"
    # In a world within another the way out is that one's.
    if mountpoint -q /run/outside; then place=/run/outside; else place=/proc/self/fd/9; fi
    mount --bind "$place" "$CYYBER_WORLD/outside"
    exec 9<&-
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir /run/lock
    touch /run/outside
    mount --bind "$CYYBER_WORLD/outside" /run/outside
    # With rights of its own.
    if [[ -c /dev/kvm ]]; then
        cp -a /dev/kvm /run/kvm
        mount --bind /run/kvm /dev/kvm
    fi
    for directory in "${OWN[@]}"; do
        [[ -d $directory ]] || continue
        place=$CYYBER_WORLD/own$directory
        mkdir -p "$place"
        chmod --reference="$directory" "$place"
        chown --reference="$directory" "$place"
        mount --bind "$place" "$directory"
    done
    # What one of several hosts (cluster/) mounts when it starts.
    [[ -z ${CYYBER_FSTAB-} ]] || mount --fstab "$CYYBER_FSTAB" --all
    mkdir -p /var/lib/libvirt/images
    chmod 711 /var/lib/libvirt/images
    ip link set lo up
    "$HERE/../templates/host/setup.sh" --no-packages --config /etc/cyyber/labs-config.json >"$CYYBER_WORLD/setup.log" 2>&1 || {
        cat "$CYYBER_WORLD/setup.log" >&2
        exit 1
    }
    exec "$@"
}

main "$@"
