# shellcheck shell=bash disable=SC2034,SC2154 # shares variables with setup.sh
# Step of setup.sh: libvirt runs, and QEMU may use KVM.

readonly URI=qemu:///system

# Calls virsh. What it needs comes as arguments, so that it never reads ours.
on_libvirt() {
    timeout 60 virsh -q -c "$URI" "$@" </dev/null
}

start_libvirt() {
    local off
    if [[ -d /run/systemd/system ]]; then
        mapfile -t off < <(units_off)
        if ((${#off[@]})); then
            change "enable and start ${off[*]}" || return 0
            systemctl --quiet enable --now "${off[@]}" || libvirt_failed
        fi
    elif ! libvirt_answers; then
        change 'start libvirt (there is no systemd to do that after the next boot)' || return 0
    fi
    [[ $check_only = yes ]] || wait_for_libvirt
}

# One daemon in Debian 12 and Ubuntu 24.04; later releases may have it split up.
units_off() {
    local unit daemon units=(libvirtd.service)
    if ! systemctl cat libvirtd.service >/dev/null 2>&1; then
        units=()
        for daemon in qemu network nwfilter nodedev secret storage; do
            units+=("virt${daemon}d.service")
        done
    fi
    for unit in "${units[@]}"; do
        # A daemon with nothing to do ends by itself; its socket starts it again.
        systemctl --quiet is-enabled "$unit" &&
            systemctl --quiet is-active "${unit%.service}.socket" ||
            printf '%s\n' "$unit"
    done
}

start_daemons() {
    local daemon
    for daemon in virtlogd libvirtd; do
        # Looks once more because somebody else may have started it meanwhile.
        is_running "$daemon" || "$daemon" --daemon </dev/null || is_running "$daemon" || libvirt_failed
    done
}

# By the daemon's own PID file. After a crash that number may be another's, or
# that of a dead process nobody has collected, which has a name but no program.
is_running() {
    local pid
    pid=$(cat "/run/$1.pid" 2>/dev/null) && [[ $(readlink "/proc/$pid/exe") = */"$1"* ]]
}

libvirt_answers() {
    # Not "virsh version": that examines QEMU, which can take seconds.
    timeout 10 virsh -q -c "$URI" net-list >/dev/null 2>&1 </dev/null
}

# Daemons started by hand may be on their way out at the first look: each round
# looks again.
wait_for_libvirt() {
    local deadline=$((SECONDS + 30))
    until libvirt_answers; do
        ((SECONDS < deadline)) || libvirt_failed
        [[ -d /run/systemd/system ]] || start_daemons
        sleep 0.5
    done
}

libvirt_failed() {
    if [[ -d /run/systemd/system ]]; then
        journalctl --no-pager -n 5 -u 'libvirtd*' -u 'virt*d*' >&2 || true
    else
        tail -n 5 /var/log/libvirt/libvirtd.log >&2 || true
    fi
    die "libvirt does not answer at $URI: its last lines are above" 'repair that, then run this again'
}

# QEMU reaches /dev/kvm by its group. udev sees to that, where it runs.
open_kvm() {
    local group mode
    [[ -c /dev/kvm ]] && getent group kvm >/dev/null || return 0
    read -r group mode < <(stat -c '%G %a' /dev/kvm)
    [[ $group != kvm ]] || (((8#$mode & 8#60) != 8#60)) || return 0
    change 'open /dev/kvm to the group kvm' || return 0
    { chgrp kvm /dev/kvm && chmod 660 /dev/kvm; } 2>>"$LOG" ||
        leave_to_person 'let the group kvm read and write /dev/kvm: that was refused here'
}

# KVM without the processor's support opens, and then hangs real kernels.
virtualisation() {
    if [[ ! -c /dev/kvm ]]; then
        echo 'software emulation, slow: there is no /dev/kvm'
    elif ! grep -qwE 'vmx|svm' /proc/cpuinfo; then
        echo 'software emulation, slow: the processor shows neither vmx nor svm'
    else
        echo 'hardware virtualisation (KVM)'
    fi
}
