#!/bin/sh
# Runs as root, by the guest's agent, in a guest whose memory was restored from that of another one:
# gives it an identity of its own, before it has a network card. See ready.sh.
#
#   now    the time, in seconds since 1970
#   seed   64 random bytes from the host, in hexadecimal
#
# shellcheck disable=SC2154 # both come before this
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
aside=/var/lib/cyyber-warm

date --utc --set "@$now" >/dev/null

# Everything below draws on this. A kernel that knows of generation ids has done it already.
printf '%s' "$seed" | perl -e '
    my $seed = pack "H*", <STDIN>;
    open my $random, "+<", "/dev/urandom" or die "no /dev/urandom: $!\n";
    # RNDADDENTROPY, RNDRESEEDCRNG
    ioctl $random, 0x40085203, pack("ii", 8 * length $seed, length $seed) . $seed or die "no entropy: $!\n";
    ioctl $random, 0x5207, 0 or die "no new seed: $!\n";'

# Not by systemd-machine-id-setup: that takes the id of the virtual machine, which is the other one's.
tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
rm -rf /run/log/journal/*
# They have read the old one. The network cards of networkd get DHCP identifiers by it.
systemctl --no-block try-restart systemd-journald systemd-networkd NetworkManager 2>/dev/null || true

make_key() {
    kind=${1#ssh_host_}
    ssh-keygen -q -t "${kind%_key}" -N '' -C "root@$(hostname)" -f "/etc/ssh/$1"
}
slow=
while read -r key; do
    # It takes up to twenty seconds under software emulation.
    if [ "$key" = ssh_host_rsa_key ]; then slow=$key; else make_key "$key"; fi
done <"$aside/keys"
xargs -r systemctl --no-block start <"$aside/units"
if [ -n "$slow" ]; then
    systemd-run --quiet --unit=cyyber-host-keys sh -c \
        'ssh-keygen -A && systemctl try-reload-or-restart ssh sshd' 2>/dev/null || true
fi

# cloud-init has done its part. Last: until here a boot would have it begin anew.
if [ -d "$aside/cloud" ]; then
    rm -rf /var/lib/cloud
    mv "$aside/cloud" /var/lib/cloud
fi
rm -rf "$aside"
systemctl --no-block restart systemd-journal-flush 2>/dev/null || true
