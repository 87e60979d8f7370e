# shellcheck shell=bash disable=SC2034,SC2154 # shares variables with setup.sh
# Step of setup.sh: several hosts, on which Slurm places instances. The head is where the
# configuration has `cluster`; a host joins with --join. A server can be both.
#
# SHARED/slurm contains what all of them share: the settings, a line for each host, and the key of
# the cluster. /etc/slurm/slurm.conf only includes these, so nothing must be kept in sync.

readonly HEAD_PACKAGES=(slurmctld slurm-client munge jq) HOST_PACKAGES=(slurmd slurm-client munge)
readonly SLURM_CONF=/etc/slurm/slurm.conf MUNGE_KEY=/etc/munge/munge.key FSTAB=/etc/fstab
readonly SUBMIT=/etc/slurm/job_submit.lua SAVED_MEMORY=/var/lib/libvirt/qemu/save
# How many virtual CPUs share a real one: students' VMs mostly wait.
readonly OVERCOMMIT=8

is_head=no
munge_stale=no # a key or settings that a daemon has not seen yet
slurm_stale=no

# Slurm's packages are only installed with a cluster.
cluster_packages() {
    [[ $is_head = no ]] || printf '%s\n' "${HEAD_PACKAGES[@]}"
    [[ $join = no ]] || printf '%s\n' "${HOST_PACKAGES[@]}"
}

# Reads the configuration that cyyber itself would find.
find_cluster() {
    local file
    for file in "$config" labs-config.json /etc/cyyber/labs-config.json; do
        if [[ -n $file && -e $file ]]; then
            config=$(realpath -- "$file")
            # A joined host uses the same one.
            ! grep -Eq '"cluster"[[:space:]]*:' "$config" || has_joined || is_head=yes
            return
        fi
        [[ -z $config ]] || return 0
    done
}

has_joined() { [[ $join = yes ]] || grep -qs " $SAVED_MEMORY .*,x-cyyber " "$FSTAB"; }

provide_cluster() {
    [[ $is_head = yes || $join = yes ]] || return 0
    if ! command -v munged >/dev/null || ! command -v scontrol >/dev/null; then
        change 'prepare Slurm' || return 0
        die 'cannot prepare Slurm: it is not installed' 'run this without --no-packages'
    fi
    if [[ $is_head = yes ]]; then provide_head; else provide_host; fi
}

provide_head() {
    local name
    name=$(hostname -s)
    shared_dir=$(jq -er '.cluster.shared_dir // empty' "$config") ||
        die "cannot read cluster.shared_dir of $config" 'see man labs-config.json'
    if jq -e --arg name "$name" '.cluster.hosts | has($name)' "$config" >/dev/null; then
        leave_to_person "make this one of the hosts: setup.sh --join $shared_dir"
        return
    fi
    shared_dir=$(realpath -ms -- "$shared_dir")
    [[ -d $shared_dir ]] || die "cannot use $shared_dir: it does not exist" 'mount it at this path on every host'
    make_shared_folders
    provide_key
    if ! grep -qxs "SlurmctldHost=$name" "$shared_dir/slurm/heads.conf"; then
        change "make $name a head of this cluster" || return 0
        printf 'SlurmctldHost=%s\n' "$name" >>"$shared_dir/slurm/heads.conf"
        slurm_stale=yes
    fi
    provide_settings
    include_settings
    # All hosts share the images that are built here.
    provide_mount "$shared_dir/base-images" "$storage_dir/base-images"
    provide_munge
    if [[ -s $shared_dir/slurm/hosts.conf ]]; then
        provide_daemon slurmctld
        # The hosts must also know about a new head.
        [[ $slurm_stale = no || $check_only = yes ]] || timeout 10 scontrol reconfigure 2>>"$LOG" || true
    else
        leave_to_person "on each host: setup.sh --join $shared_dir; then this again"
    fi
}

provide_host() {
    local name
    name=$(hostname -s)
    [[ -e $shared_dir/slurm/slurm.conf ]] || die "cannot join $shared_dir: no head has prepared it" \
        "mount it here at the same path as on the head, where 'make setup' comes first"
    make_shared_folders
    provide_key
    provide_node "$name"
    include_settings
    provide_mounts "$name"
    if [[ ! -e /etc/cyyber/labs-config.json && -e $shared_dir/labs-config.json ]]; then
        change "use $shared_dir/labs-config.json" || return 0
        ln -s "$shared_dir/labs-config.json" /etc/cyyber/labs-config.json
    fi
    provide_munge
    provide_daemon slurmd
    timeout 10 scontrol show node "$name" >/dev/null 2>&1 ||
        leave_to_person "on the head: 'make setup' once more, which makes $name known to Slurm"
}

# Slurm's own user writes its state; only root writes the rest of its files.
make_shared_folders() {
    local folder
    for folder in base-images addresses locks; do
        make_folder "$shared_dir/$folder" libvirt 2771
    done
    make_folder "$shared_dir/hosts" root 755
    make_folder "$shared_dir/slurm" root 755
    [[ ! -d $shared_dir/slurm/state ]] || return 0
    change "create $shared_dir/slurm/state" || return 0
    install -d -m 700 -o slurm -g slurm "$shared_dir/slurm/state"
}

# One key for all. If root cannot read it, as on NFS with root_squash, it must be copied by hand.
provide_key() {
    local key=$shared_dir/slurm/munge.key
    if [[ $is_head = yes && ! -e $key ]]; then
        change "create the key of this cluster: $key" || return 0
        (umask 277 && head -c 1024 /dev/urandom >"$key")
    fi
    if ! head -c 1 "$key" >/dev/null 2>&1; then
        leave_to_person "copy $MUNGE_KEY of the head to this host: root may not read $key here"
    elif ! cmp -s "$key" "$MUNGE_KEY"; then
        change "install the key of this cluster as $MUNGE_KEY" || return 0
        install -m 400 -o munge -g munge "$key" "$MUNGE_KEY"
        munge_stale=yes
    fi
}

# Write this host's resources once; later the administrator may edit the line.
provide_node() {
    local file=$shared_dir/slurm/hosts.conf processors memory
    ! grep -Eqs "^NodeName=$1 " "$file" || return 0
    change "write this host's resources for Slurm: $file" || return 0
    processors=$(nproc --all)
    # A sixteenth of the memory is reserved for the host itself.
    memory=$(awk '$1 == "MemTotal:" { print int($2 / 1024 * 15 / 16) }' /proc/meminfo)
    # A single write, so that hosts can join at the same time.
    printf 'NodeName=%s CPUs=%d RealMemory=%d Feature=%s State=UNKNOWN\n' \
        "$1" $((processors * OVERCOMMIT)) "$memory" "$(processor_kind)" >>"$file"
}

# Saved memory can be restored on the same CPU model.
processor_kind() {
    grep -E '^(vendor_id|cpu family|model|flags)\b' /proc/cpuinfo | sort -u | sha256sum |
        sed -E 's/^(.{8}).*/cpu-\1/'
}

provide_settings() {
    local file=$shared_dir/slurm/slurm.conf text partition
    partition=$(jq -r '.cluster.partition // "labs"' "$config")
    text=$(sed "s|@SHARED@|$shared_dir|g; s|@PARTITION@|$partition|g" "$HERE/slurm.conf")
    [[ $(cat "$file" 2>/dev/null) != "$text" ]] || return 0
    change "write $file" || return 0
    [[ -e $shared_dir/slurm/local.conf ]] ||
        echo '# Settings of this school. slurm.conf includes them last; setup.sh never writes here.' \
            >"$shared_dir/slurm/local.conf"
    [[ -e $shared_dir/slurm/job_submit.lua ]] || install -m 644 "$HERE/job_submit.lua" "$shared_dir/slurm/job_submit.lua"
    touch "$shared_dir/slurm/hosts.conf"
    # Atomically: another host may be reading it.
    printf '%s\n' "$text" >"$file.new"
    mv -- "$file.new" "$file"
    slurm_stale=yes
}

include_settings() {
    local text="include $shared_dir/slurm/slurm.conf"
    [[ $(cat "$SLURM_CONF" 2>/dev/null) != "$text" ]] || return 0
    [[ ! -e $SLURM_CONF ]] || is_ours ||
        die "cannot use Slurm: $SLURM_CONF belongs to another cluster" \
            "add to that cluster what $shared_dir/slurm/slurm.conf has, and join it by hand"
    change "write $SLURM_CONF" || return 0
    install -D -m 644 /dev/stdin "$SLURM_CONF" <<<"$text"
    ln -sfn "$shared_dir/slurm/job_submit.lua" "$SUBMIT"
    slurm_stale=yes
}

is_ours() { grep -qx 'include /.*/slurm/slurm.conf' "$SLURM_CONF"; }

# The same paths on every host, with the host's own directory behind them, so that domains and saved
# memory, which contain paths, can move.
provide_mounts() {
    local own=$shared_dir/hosts/$1
    make_folder "$own" libvirt 2771
    make_folder "$own/user-instances" libvirt 2771
    make_folder "$own/state" libvirt 2770
    # libvirt gives it to QEMU's user.
    [[ -d $own/save ]] || make_folder "$own/save" root 711
    provide_mount "$shared_dir/base-images" "$storage_dir/base-images"
    provide_mount "$own/user-instances" "$storage_dir/user-instances"
    provide_mount "$own/state" "$state_dir"
    make_folder "$state_dir/activity" libvirt 2770
    provide_mount "$own/save" "$SAVED_MEMORY"
}

provide_mount() {
    local from=$1 to=$2 line
    line="$from $to none bind,_netdev,x-systemd.requires-mounts-for=$shared_dir,x-cyyber 0 0"
    if ! grep -qxF "$line" "$FSTAB"; then
        change "mount $from on $to, in $FSTAB too" || return 0
        if [[ -n $(find "$to" -mindepth 1 -type f -print -quit 2>/dev/null) ]] && ! mountpoint -q "$to"; then
            leave_to_person "move what is in $to to $from, with all instances stopped, then this again"
            return
        fi
        printf '%s\n' "$line" >>"$FSTAB"
    fi
    if [[ ! $to -ef $from ]]; then
        change "mount $from on $to" || return 0
        mkdir -p -- "$to"
        mount "$to" || die "cannot mount $from on $to" 'see above'
    fi
}

provide_munge() {
    if [[ $munge_stale = no ]] && munge -n </dev/null 2>/dev/null | unmunge >/dev/null 2>&1; then return; fi
    change 'start munge' || return 0
    if [[ -d /run/systemd/system ]]; then
        systemctl --quiet enable munge
        systemctl restart munge || die 'cannot start munge' "see 'journalctl -u munge'"
        return
    fi
    stop_daemon /run/munge/munged.pid
    install -d -m 755 -o munge -g munge /run/munge
    (cd / && setpriv --reuid=munge --regid=munge --clear-groups munged </dev/null 2>>"$LOG") || die 'cannot start munge' \
        'see /var/log/munge/munged.log'
}

# The controller reads its settings when it starts; allocations survive a restart.
provide_daemon() {
    local daemon=$1
    if [[ $daemon = slurmctld ]] && newer_settings; then slurm_stale=yes; fi
    if [[ $slurm_stale = no ]] && is_running "$daemon"; then return; fi
    change "start $daemon" || return 0
    if [[ -d /run/systemd/system ]]; then
        install -D -m 644 /dev/stdin "/etc/systemd/system/$daemon.service.d/cyyber.conf" \
            < <(printf '[Unit]\nRequiresMountsFor=%s\n' "$shared_dir")
        systemctl daemon-reload
        systemctl --quiet enable "$daemon"
        systemctl restart "$daemon" || die "cannot start $daemon" "see 'journalctl -u $daemon'"
        return
    fi
    stop_daemon "/run/$daemon.pid"
    install -d -m 755 /var/lib/slurm/slurmd
    # Its warnings are in its log as well.
    "$daemon" </dev/null 2>>"$LOG" || die "cannot start $daemon" "see /var/log/slurm/$daemon.log"
}

newer_settings() {
    local file
    for file in "$shared_dir"/slurm/*.conf; do
        [[ ! $file -nt /run/slurmctld.pid ]] || return 0
    done
    return 1
}

stop_daemon() {
    local pid tries=100
    pid=$(cat "$1" 2>/dev/null) || return 0
    kill "$pid" 2>/dev/null || return 0
    while [[ -e /proc/$pid ]] && ((tries--)); do sleep 0.1; done
}

# Removes this host; the files of its instances are kept.
remove_cluster() {
    local at daemon text
    [[ -e $SLURM_CONF ]] && is_ours || return 0
    change 'leave the cluster' || return 0
    for daemon in slurmd slurmctld munge; do
        if [[ -d /run/systemd/system ]]; then
            systemctl --quiet disable --now "$daemon" 2>>"$LOG" || true
            rm -rf "/etc/systemd/system/$daemon.service.d/cyyber.conf"
        else
            stop_daemon "/run/$daemon.pid"
        fi
    done
    stop_daemon /run/munge/munged.pid
    for at in $(awk '$4 ~ /x-cyyber/ { print $2 }' "$FSTAB" | tac); do
        umount "$at" 2>>"$LOG" || leave_to_person "unmount $at: something uses it"
    done
    text=$(sed '/,x-cyyber /d' "$FSTAB")
    printf '%s\n' "$text" >"$FSTAB"
    rm -f "$SLURM_CONF" "$SUBMIT" "$MUNGE_KEY"
}
