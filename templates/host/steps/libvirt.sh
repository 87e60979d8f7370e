# shellcheck shell=bash disable=SC2034,SC2154 # shares variables with setup.sh
# Step of setup.sh: libvirt runs, and the QEMU of each instance may use what it needs.

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
    elif ! is_running virtlogd || ! libvirt_answers; then
        change 'start libvirt (without systemd, it does not start at boot)' || return 0
        start_daemons
    fi
    [[ $check_only = yes ]] || wait_for_libvirt
}

# One daemon in Debian 12 and Ubuntu 24.04; later releases may have it split up.
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
        tail -n 5 /var/log/libvirt/"$(daemons | head -n 1)".log >&2 || true
    fi
    die "libvirt does not answer at $URI: its last lines are above" 'fix that, then run this again'
}

readonly KVM_RULES=/etc/udev/rules.d/60-cyyber-kvm.rules QEMU_FOLDER=/var/lib/libvirt/qemu

# The QEMU of each instance is a user of its own, in no group. It must reach KVM,
# and pass through libvirt's folder to the one that is made for its domain.
admit_instances() {
    open_kvm
    let_instances_pass
}

# The contrary, for when none runs.
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

# As systemd and most distributions have it; Debian and Ubuntu open it to a group. Also where the
# processor lacks its part: libvirt, which is root, finds KVM there; then it sees that QEMU's user may not
# open it, and asks QEMU anew at each call what it can do, which takes seconds (seen with libvirt 9.0).
open_kvm() {
    [[ -c /dev/kvm ]] || return 0
    if will_have /etc/udev/rules.d && ! cmp -s "$HERE/kvm.rules" "$KVM_RULES"; then
        ! change "keep /dev/kvm open to instances: $KVM_RULES" ||
            install -m 644 "$HERE/kvm.rules" "$KVM_RULES" || die "cannot write $KVM_RULES" 'check the permissions of that directory'
    fi
    [[ $(stat -c %a /dev/kvm) != 666 ]] || return 0
    change 'open /dev/kvm to instances, each of which is a user of its own' || return 0
    chmod 666 /dev/kvm 2>>"$LOG" ||
        leave_to_person 'let everyone read and write /dev/kvm: changing its mode failed'
}

# Pass, and not look: the names of others' domains are in there.
let_instances_pass() {
    will_have "$QEMU_FOLDER" && [[ $(stat -c %a "$QEMU_FOLDER" 2>/dev/null) != *[1357] ]] || return 0
    change "give instances search permission on $QEMU_FOLDER" || return 0
    # An upgrade of libvirt's package closes it again, until a lab network starts (network-hook.sh). Not
    # by dpkg-statoverride: its list has the user's name, and with that gone dpkg does nothing any more.
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
