#!/bin/sh
# Runs as root, by the guest's agent, in a guest that is booted once so that its memory can be saved:
# waits until it is ready and quiet, then takes away what its forks must not share, as
# guest/finish.sh does after a build. What is put aside here, identity.pl puts back. A guest that
# boots from this disk instead finds an image as it is after a build.
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
aside=/var/lib/cyyber-warm
# identity.pl.
identity=$(cat)

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

wait_for_boot() {
    if command -v cloud-init >/dev/null; then
        # Exit code 2 is "done, with warnings".
        cloud-init status --wait >/dev/null || [ $? -eq 2 ] || fail "cloud-init failed"
    fi
    # A degraded system is up as well.
    systemctl is-system-running --wait >/dev/null || true
}

# Forks get their network card after their identity.
ensure_network_by_hotplug() {
    systemctl --quiet is-active systemd-networkd || systemctl --quiet is-active NetworkManager ||
        fail "a network card that is plugged in later would get no address:" \
            "neither systemd-networkd nor NetworkManager runs in it"
}

wait_for_desktop() {
    systemctl --quiet is-active display-manager || return 0
    until cat /proc/[0-9]*/comm 2>/dev/null | grep -qxE 'xfce4-panel|gnome-shell'; do sleep 1; done
}

# All time of all processors, and that which they were idle, in ticks.
ticks() {
    # shellcheck disable=SC2034 # the fields of /proc/stat
    read -r cpu user nice system idle waiting irq softirq steal rest </proc/stat
    echo $((user + nice + system + idle + waiting + irq + softirq + steal)) $((idle + waiting))
}

# Three times in a row less than a tenth of the processors' time. Not for ever: on a host that is busy
# with other things a guest is never quiet, and nothing but the size of what is saved depends on it.
wait_for_quiet() {
    quiet=0
    tries=15
    while [ "$quiet" -lt 3 ] && [ "$tries" -gt 0 ]; do
        tries=$((tries - 1))
        # shellcheck disable=SC2046 # two numbers
        set -- $(ticks)
        sleep 2
        # shellcheck disable=SC2046
        set -- "$@" $(ticks)
        if [ $((($3 - $1 - ($4 - $2)) * 10)) -lt $(($3 - $1)) ]; then
            quiet=$((quiet + 1))
        else
            quiet=0
        fi
    done
}

take_identity_away() {
    rm -rf "$aside"
    mkdir -m 700 "$aside"
    for unit in ssh.socket ssh.service sshd.service; do
        if systemctl --quiet is-active "$unit"; then echo "$unit"; fi
    done >"$aside/units"
    for key in /etc/ssh/ssh_host_*_key; do
        if [ -e "$key" ]; then basename "$key"; fi
    done >"$aside/keys"
    xargs -r systemctl stop <"$aside/units"
    rm -f /etc/ssh/ssh_host_*
    if [ -d /var/lib/cloud ]; then
        mv /var/lib/cloud "$aside/cloud"
        mkdir /var/lib/cloud
        if [ -d "$aside/cloud/seed" ]; then cp -a "$aside/cloud/seed" /var/lib/cloud/; fi
    fi
    rm -f /var/lib/systemd/random-seed
    # The journal moves to memory, so that nothing is written to its directory any more.
    journalctl --relinquish-var || true
    rm -rf /var/log/journal/*
    systemctl show --property MainPID --value systemd-journald >"$aside/journald"
    : >/etc/machine-id
    # What has read the machine-id keeps it. networkd reads it when it sets up the first network card,
    # so it is started again for that; NetworkManager does so as soon as it starts.
    if systemctl --quiet is-active systemd-networkd; then systemctl restart systemd-networkd; fi
    if systemctl --quiet is-active NetworkManager; then
        systemctl stop NetworkManager
        start_on_identity NetworkManager.service
    fi
}

# Has a fork start a unit as soon as identity.pl creates a file, which is faster than to call systemctl
# there.
start_on_identity() {
    mkdir -p /run/systemd/system
    cat >/run/systemd/system/cyyber-identity.path <<END
[Path]
PathExists=/run/cyyber-identity
Unit=$1
END
    systemctl daemon-reload
    systemctl start cyyber-identity.path
}

# Blocks and pages that were used and freed are not to be saved. The guest tells its host of free
# pages within two seconds.
give_back() {
    sync
    fstrim --all || true
    sync
    echo 3 >/proc/sys/vm/drop_caches
    sleep 3
}

# A fork finds it running, and uses it where the agent may write to files.
let_identity_wait() {
    mkdir -m 700 /run/cyyber-warm
    mkfifo -m 600 /run/cyyber-warm/inbox
    setsid perl -e "$identity" /run/cyyber-warm/inbox /run/cyyber-warm/answer \
        </dev/null >/dev/null 2>&1 &
    waiting=$!
}

# What a fork needs first is in its memory.
keep_at_hand() {
    # The driver of the network card that it will get.
    modprobe virtio_net || true
    cat /usr/sbin/sshd /usr/lib/systemd/systemd-journald >/dev/null 2>&1 || true
    perl -e 'system "true"; my @all = glob "/run/*"; print $all[0] =~ tr/-//dr' >/dev/null
    systemctl is-active systemd-journald >/dev/null || true
    rm -rf "$aside/none"
    kill -0 "$waiting" || fail "identity.pl does not wait for its input"
}

wait_for_boot
ensure_network_by_hotplug
wait_for_desktop
wait_for_quiet
take_identity_away
let_identity_wait
give_back
keep_at_hand
