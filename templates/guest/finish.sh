#!/bin/sh
# The last thing that runs in the guest: removes all that must not be the same in every instance,
# and powers off.
set -eu
echo "[cyyber] Cleaning up"

cloud-init clean --logs
rm -f /etc/ssh/ssh_host_*
# The build's own key, and what the build's network card left behind.
rm -rf /root/.ssh /home/*/.ssh /root/.bash_history
rm -f /etc/netplan/50-cloud-init.yaml /etc/network/interfaces.d/50-cloud-init \
    /etc/systemd/network/10-cloud-init-* /var/lib/dhcp/*.leases
rm -rf /var/lib/systemd/network/* /run/systemd/netif/leases/*

# The random seed is written once more at shutdown, unless its service is gone by then.
systemctl mask --runtime --now systemd-random-seed.service >/dev/null 2>&1 || true
rm -f /var/lib/systemd/random-seed

# The journal moves to memory, so that nothing is written to its directory any more.
journalctl --relinquish-var || true
rm -rf /var/log/journal/*
find /var/log -type f -exec truncate --size 0 {} +

# systemd makes a new id at the next boot when this file is empty, and D-Bus follows it. Last, for
# others above still look for their files by it.
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id
ln -s /etc/machine-id /var/lib/dbus/machine-id
rm -rf /tmp/* /var/tmp/cyyber

sync
# Gives blocks that were used and freed back to the image file.
fstrim --all || true
systemctl poweroff
