#!/usr/bin/env bash
# The first process of a host that cluster.sh starts; when it is killed, that is a power cut.
#
#     host.sh NAME
#
# Makes a world of it (../world.sh), which is prepared as a person would: setup.sh, then setup.sh --join.
# One called n1, n2 and so on has nothing but Slurm.
set -euo pipefail

HERE=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
readonly HERE

# What a machine keeps for itself, beside what world.sh has in its list.
readonly OWN=(/etc/munge /etc/slurm /var/lib/munge /var/log/munge /var/lib/slurm /var/log/slurm)

main() {
    case $1 in
        --prepared) prepared "$2" ;;
        n*)
            alone "$1"
            slurm_alone
            ;;
        *)
            alone "$1"
            exec "$HERE/../world.sh" --inside "$HERE/host.sh" --prepared "$1"
            ;;
    esac
}

# What it takes to be another machine.
alone() {
    local group directory place file
    hostname "$1"
    for group in /sys/fs/cgroup/* /sys/fs/cgroup; do
        [[ -e $group/$OWN_GROUP/cgroup.procs && ! -L $group ]] || continue
        mount --bind "$group/$OWN_GROUP" "$group"
    done
    # In the second version only a group without processes can have groups with limits.
    if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
        mkdir -p /sys/fs/cgroup/host
        echo $$ >/sys/fs/cgroup/host/cgroup.procs
    fi
    for directory in "${OWN[@]}"; do
        place=$CYYBER_WORLD/own$directory
        mkdir -p "$place" "$directory"
        chmod --reference="$directory" "$place"
        chown --reference="$directory" "$place"
        mount --bind "$place" "$directory"
    done
    export CYYBER_FSTAB=$CYYBER_WORLD/fstab
    touch "$CYYBER_FSTAB"
    md5sum <<<"$1" | cut -c1-32 >"$CYYBER_WORLD/machine-id"
    cp "$CLUSTER/hosts" "$CYYBER_WORLD/hosts"
    for file in fstab machine-id hosts; do mount --bind "$CYYBER_WORLD/$file" "/etc/$file"; done
    plug_in "$1"
}

# cluster.sh brings the cable.
plug_in() {
    until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
    ip address add "$(awk -v name="$1" '$2 == name { print $1 }' /etc/hosts)/24" dev eth0
    ip link set eth0 up
}

prepared() {
    local setup=$HERE/../../templates/host/setup.sh
    if [[ $1 = head* ]]; then
        ln -sfn "$CLUSTER/shared/labs-config.json" /etc/cyyber/labs-config.json
        "$setup" --no-packages --config /etc/cyyber/labs-config.json
    else
        "$setup" --no-packages --join "$CLUSTER/shared"
    fi
    touch "$CYYBER_WORLD/ready"
    # A shell that waits collects what daemons leave behind.
    sleep infinity &
    wait
}

slurm_alone() {
    mount -t tmpfs -o mode=755 tmpfs /run
    install -m 400 -o munge -g munge "$CLUSTER/shared/slurm/munge.key" /etc/munge/munge.key
    echo "include $CLUSTER/shared/slurm/slurm.conf" >/etc/slurm/slurm.conf
    install -d -o munge -g munge /run/munge
    setpriv --reuid=munge --regid=munge --clear-groups munged
    install -d /var/lib/slurm/slurmd
    slurmd
    touch "$CYYBER_WORLD/ready"
    sleep infinity &
    wait
}

main "$@"
