#!/bin/sh
# Turns a cloud image into a lab, as root, inside the guest. What the lab wants is in the files
# beside this script, one thing a file; none of it is ever read as shell.
#
# Lines that begin with "[cyyber]" are the stages that the build shows.
set -eu
here=/var/tmp/cyyber
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 LC_ALL=C.UTF-8

stage() { echo "[cyyber] $*"; }

wait_for_first_boot() {
    stage "Waiting for cloud-init"
    # Exit code 2 is "done, with warnings".
    cloud-init status --wait >/dev/null || [ $? -eq 2 ] || {
        echo "E: cloud-init failed: $(cloud-init status --long | tr '\n' ' ')" >&2
        exit 1
    }
}

# A cloud image updates itself behind one's back: now that would hold the package manager's locks,
# and later every instance of a class would download the same each day.
stop_automatic_updates() {
    for unit in apt-daily.timer apt-daily-upgrade.timer motd-news.timer unattended-upgrades.service; do
        systemctl disable --now "$unit" >/dev/null 2>&1 || true
    done
    systemctl stop apt-daily.service apt-daily-upgrade.service >/dev/null 2>&1 || true
}

install_packages() {
    stage "Reading package lists"
    apt() {
        apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
            -o Dpkg::Options::=--force-confold "$@"
    }
    # The lock on the lists has no timeout of its own.
    tries=30
    until apt update >"$here/update.log" 2>&1; do
        tries=$((tries - 1))
        if [ "$tries" -eq 0 ] || ! grep -q "Could not get lock" "$here/update.log"; then
            cat "$here/update.log" >&2
            exit 1
        fi
        sleep 5
    done
    # apt-get would take an unknown name with a dot in it for a pattern.
    unknown=$(while read -r name; do apt-cache show "$name" >/dev/null 2>&1 || echo "$name"; done <"$here/packages")
    if [ -n "$unknown" ]; then
        echo "E: no such package: $unknown" >&2
        exit 1
    fi
    stage "Installing packages"
    # What every lab needs: the agent for clean shutdowns and readiness, logind for the power button.
    # shellcheck disable=SC2046 # the names were checked against Debian's pattern
    apt install -- qemu-guest-agent dbus libpam-systemd sudo $(cat "$here/packages")
    apt clean
    rm -rf /var/lib/apt/lists/*
    # shellcheck disable=SC2016 # dpkg's own placeholders
    dpkg-query -W -f '${Package}\t${Version}\n' >"$here/installed"
}

brand() {
    stage "Branding"
    install -D -m 644 "$here/motd" /etc/motd
    # What the distribution says of itself at each login: kernel, news, advertisements.
    if [ -d /etc/update-motd.d ]; then
        find /etc/update-motd.d -type f -exec chmod -x {} +
    fi
    rm -f /run/motd.dynamic
    install -D -m 644 "$here/logo.png" /usr/share/pixmaps/cyyber-logo.png
    install -D -m 644 "$here/hostname" /etc/hostname
    hostname -F /etc/hostname
}

# The student is logged in on the VM's screen, whose password guards it, and is root by sudo in a VM
# of their own. The account has no password, so there is none to guess over the network.
add_student() {
    stage "Adding the student"
    id student >/dev/null 2>&1 || useradd --create-home --shell /bin/bash --comment "Lab student" student
    for group in adm sudo wireshark dialout video plugdev; do
        if getent group "$group" >/dev/null; then usermod --append --groups "$group" student; fi
    done
    install -D -m 440 /dev/null /etc/sudoers.d/90-student
    echo 'student ALL=(ALL) NOPASSWD:ALL' >/etc/sudoers.d/90-student
    install -D -m 644 "$here/autologin.conf" /etc/systemd/system/getty@tty1.service.d/autologin.conf
}

# Instances have no data source but this one, which is part of the image: each boots with a new
# machine-id and new SSH host keys, takes the hostname, and grows its file system.
seed_instances() {
    install -D -m 644 "$here/seed-meta-data" /var/lib/cloud/seed/nocloud/meta-data
    install -D -m 644 "$here/seed-user-data" /var/lib/cloud/seed/nocloud/user-data
}

wait_for_first_boot
stop_automatic_updates
install_packages
brand
add_student
seed_instances
