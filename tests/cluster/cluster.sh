#!/usr/bin/env bash
# A head and some hosts in a world (../world.sh): each a host of its own with libvirt, QEMU and Slurm,
# all on one switch. They end with the world.
#
#     cluster.sh up HOST...             prepare and start a head and these hosts, wait for Slurm;
#                                       one called n1, n2 and so on has nothing but Slurm
#     cluster.sh boot HOST...           start again what was killed
#     cluster.sh in HOST COMMAND...     run something there
#     cluster.sh kill HOST              a power cut: QEMU and all ends
#     cluster.sh cut HOST, mend HOST    its network cable, out and in
#
# `shared` in $CYYBER_WORLD/cluster is at the same path on all of them; what each keeps for itself
# is in the directory of its name.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

HERE=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
readonly HERE CLUSTER=${CYYBER_WORLD:?is made for tests/world.sh}/cluster
export CLUSTER

main() {
    local host
    case ${1-} in
        up)
            shift
            describe "$@"
            ip link add cluster type bridge
            ip link set cluster up
            boot head
            boot_all "$@"
            await_slurm "$@"
            ;;
        boot) boot_all "${@:2}" ;;
        in) enter "${@:2}" ;;
        # All that runs in its namespace of processes goes with the first of them.
        kill)
            kill -KILL "$(pid "$2")"
            while [[ -e /proc/$(pid "$2") ]]; do sleep 0.02; done
            ;;
        cut) ip link set "$2" down ;;
        mend) ip link set "$2" up ;;
        *)
            sed -n '2,/^set/ { s/^# \{0,1\}//p }' "${BASH_SOURCE[0]}" >&2
            exit 2
            ;;
    esac
}

# The configuration that the hosts share, unless it is there; small machines that pass for large ones.
describe() {
    local host number=0 hosts=()
    mkdir -p "$CLUSTER/shared/slurm"
    chmod 755 "$CLUSTER" "$CLUSTER/shared"
    printf '127.0.0.1 localhost\n10.77.0.1 head\n10.77.0.2 head2\n' >"$CLUSTER/hosts"
    for host in "$@"; do
        number=$((number + 1))
        [[ $host = n* ]] || hosts+=("\"$host\": {}")
        echo "10.77.0.$((100 + number)) $host" >>"$CLUSTER/hosts"
        echo "NodeName=$host CPUs=100 RealMemory=65536 Feature=cpu-test State=UNKNOWN"
    done >"$CLUSTER/shared/slurm/hosts.conf"
    echo 'SlurmdTimeout=10' >"$CLUSTER/shared/slurm/local.conf"
    [[ -e $CLUSTER/shared/labs-config.json ]] || cat >"$CLUSTER/shared/labs-config.json" <<-END
	{"cluster": {"engine": "slurm", "shared_dir": "$CLUSTER/shared", "hosts": {$(IFS=,; echo "${hosts[*]}")}},
	 "host": {"accelerator": "tcg"},
	 "labs": [{"lab_id": "lab01", "lab_name": "Lab", "packages": [], "motd": "",
	           "memory_mb": 128, "vcpus": 1, "disk_size": "1G", "instant": false}]}
	END
}

pid() { cat "$CLUSTER/$1/pid"; }

boot_all() {
    local host starts=()
    for host in "$@"; do
        boot "$host" &
        starts+=($!)
    done
    for host in "${starts[@]}"; do wait "$host"; done
}

# A killed host's network ends with it, and with that its cable, a moment later.
boot() {
    local host=$1 directory=$CLUSTER/$1 first
    mkdir -p "$directory/tmp"
    chmod 711 "$directory" "$directory/tmp"
    rm -f "$directory/ready"
    while ip link show "$host" >/dev/null 2>&1; do sleep 0.05; done
    (
        control_groups "$host"
        exec env OWN_GROUP="${CYYBER_WORLD##*/}-$host" CYYBER_WORLD="$directory" TMPDIR="$directory/tmp" setsid \
            unshare --mount --net --pid --ipc --uts --cgroup --fork --kill-child --mount-proc \
            "$HERE/host.sh" "$host"
    ) >"$directory/log" 2>&1 </dev/null &
    until first=$(pgrep -P $! -f host.sh); do sleep 0.02; done
    echo "$first" >"$directory/pid"
    ip link add "$host" type veth peer name eth0 netns "$first"
    ip link set "$host" master cluster up
    until [[ -e $directory/ready ]]; do
        [[ -e /proc/$first ]] || {
            cat "$directory/log" >&2
            exit 1
        }
        sleep 0.05
    done
}

# The control groups of the host's QEMUs are below one of its own. world.sh takes them away by their name.
control_groups() {
    local group name=${CYYBER_WORLD##*/}-$1 file
    for group in /sys/fs/cgroup /sys/fs/cgroup/*; do
        [[ -e $group/cgroup.procs && ! -L $group ]] || continue
        mkdir -p "$group/$name"
        # The first version has no processes in a group without these.
        for file in cpuset.cpus cpuset.mems; do
            [[ ! -e $group/$file ]] || cat "$group/$file" >"$group/$name/$file"
        done
        [[ ! -e $group/$name/cgroup.clone_children ]] || echo 1 >"$group/$name/cgroup.clone_children"
        echo "$BASHPID" >"$group/$name/cgroup.procs"
    done
}

enter() {
    local host=$1 first
    first=$(pid "$1")
    shift
    exec nsenter --target "$first" --mount --net --pid --ipc --uts --cgroup --wd="$CLUSTER" -- \
        env CYYBER_WORLD="$CLUSTER/$host" TMPDIR="$CLUSTER/$host/tmp" PATH="$CLUSTER/bin:$PATH" "$@"
}

await_slurm() {
    local deadline=$((SECONDS + 60))
    until [[ $(enter_quietly head sinfo -h -N -o %T | grep -cxE 'idle|mixed|allocated') = "$#" ]]; do
        ((SECONDS < deadline)) || {
            enter_quietly head sinfo -N -l >&2
            exit 1
        }
        sleep 0.1
    done
}

enter_quietly() { (enter "$@") 2>/dev/null || true; }

main "$@"
