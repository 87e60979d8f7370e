# shellcheck shell=bash disable=SC2034,SC2154 # shares variables with setup.sh
# Step of setup.sh: libvirt runs, and the QEMU of each instance has the access that it needs.

readonly URI=qemu:///system

# Runs virsh with an empty standard input, so that it never reads ours.
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
    elif ! is_running virtlogd || ! libvirt_answers; then
        change 'start libvirt (without systemd, it does not start at boot)' || return 0
        start_daemons
    fi
    [[ $check_only = yes ]] || wait_for_libvirt
}

# One daemon in Debian 12 and Ubuntu 24.04; later releases may have modular daemons.
units_off() {
    local unit daemon
    for daemon in $(daemons); do
        unit=$daemon.service
        # A daemon with nothing to do ends by itself; its socket starts it again.
        systemctl --quiet is-enabled "$unit" &&
            systemctl --quiet is-active "${unit%.service}.socket" ||
            printf '%s\n' "$unit"
    done
}

# The one that has QEMU comes first.
daemons() {
    local daemon
    if command -v libvirtd >/dev/null || ! command -v virtqemud >/dev/null; then
        echo libvirtd
    else
        for daemon in virt{qemu,network,nwfilter,nodedev,secret,storage}d; do
            ! command -v "$daemon" >/dev/null || echo "$daemon"
        done
    fi
}

start_daemons() {
    local daemon
    for daemon in virtlogd $(daemons); do
        # Checks again because something else may have started it in the meantime.
        is_running "$daemon" || "$daemon" --daemon </dev/null || is_running "$daemon" || libvirt_failed
    done
}

# By the daemon's PID file. After a crash, its number may belong to another process, or to a zombie,
# which has a name but no program.
is_running() {
    local pid
    pid=$(cat "/run/$1.pid" 2>/dev/null) && [[ $(readlink "/proc/$pid/exe") = */"$1"* ]]
}

libvirt_answers() {
    # Not "virsh version": that examines QEMU, which can take seconds.
    timeout 10 virsh -q -c "$URI" net-list >/dev/null 2>&1 </dev/null
}

# Daemons that were started by hand may be about to end: check again in each round.
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
        tail -n 5 /var/log/libvirt/"$(daemons | head -n 1)".log >&2 || true
    fi
    die "libvirt does not answer at $URI: its last lines are above" 'fix that, then run this again'
}

readonly KVM_RULES=/etc/udev/rules.d/60-cyyber-kvm.rules QEMU_FOLDER=/var/lib/libvirt/qemu

# The QEMU of each instance runs as a separate user without groups. It needs access to KVM, and
# search permission on libvirt's folder to reach its domain's.
admit_instances() {
    open_kvm
    let_instances_pass
}

# Undoes this, if no instance runs.
dismiss_instances() {
    if [[ -e $KVM_RULES ]]; then
        change 'close /dev/kvm to instances' || return 0
        rm -f "$KVM_RULES"
        [[ ! -c /dev/kvm ]] || chmod o= /dev/kvm
    fi
    [[ -d $QEMU_FOLDER && $(stat -c %a "$QEMU_FOLDER") = *[1357] ]] || return 0
    change "close $QEMU_FOLDER to instances" || return 0
    chmod o= "$QEMU_FOLDER"
}

# Mode 666, as in systemd and most distributions; Debian and Ubuntu only give access to a group.
# This is done even if the processor does not support KVM: libvirt, which is root, sees the device,
# finds that QEMU's user cannot open it, and then asks QEMU for its capabilities at each call, which
# takes seconds (seen with libvirt 9.0).
open_kvm() {
    [[ -c /dev/kvm ]] || return 0
    if will_have /etc/udev/rules.d && ! cmp -s "$HERE/kvm.rules" "$KVM_RULES"; then
        ! change "keep /dev/kvm open to instances: $KVM_RULES" ||
            install -m 644 "$HERE/kvm.rules" "$KVM_RULES" || die "cannot write $KVM_RULES" 'check the permissions of that directory'
    fi
    [[ $(stat -c %a /dev/kvm) != 666 ]] || return 0
    change 'open /dev/kvm to instances, which run as separate users' || return 0
    chmod 666 /dev/kvm 2>>"$LOG" ||
        leave_to_person 'let everyone read and write /dev/kvm: changing its mode failed'
}

# Search but not read permission: the folder contains the names of all domains.
let_instances_pass() {
    will_have "$QEMU_FOLDER" && [[ $(stat -c %a "$QEMU_FOLDER" 2>/dev/null) != *[1357] ]] || return 0
    change "give instances search permission on $QEMU_FOLDER" || return 0
    # An upgrade of libvirt's package removes it again, until a lab network starts
    # (network-hook.sh). dpkg-statoverride is no solution: its list contains the user's name, and if
    # that user is gone, dpkg stops working.
    chmod o+x "$QEMU_FOLDER"
}

# A libvirt that started before AppArmor's rules were loaded confines nothing.
confine_qemu() {
    [[ $(cat /sys/module/apparmor/parameters/enabled 2>/dev/null) = Y && -d /run/systemd/system ]] || return 0
    is_confining && return
    change 'restart libvirt, so that it confines QEMU by AppArmor' || return 0
    { systemctl --quiet restart apparmor && systemctl --quiet try-restart "$(daemons | head -n 1)"; } || libvirt_failed
    wait_for_libvirt
    is_confining ||
        leave_to_person 'let libvirt confine QEMU by AppArmor: see security_driver in /etc/libvirt/qemu.conf'
}

is_confining() {
    [[ $(on_libvirt capabilities) = *'<model>apparmor</model>'* ]]
}

# Without support by the processor, KVM can be opened but hangs real kernels.
virtualisation() {
    if [[ ! -c /dev/kvm ]]; then
        echo 'software emulation, slow: there is no /dev/kvm'
    elif ! grep -qwE 'vmx|svm' /proc/cpuinfo; then
        echo 'software emulation, slow: the processor shows neither vmx nor svm'
    else
        echo 'hardware virtualisation (KVM)'
    fi
}
