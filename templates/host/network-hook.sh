#!/bin/sh
# Loads the firewall of the lab networks before one of them comes up. libvirt calls
# this as a hook on networks, and gives a start up where it fails; `cyyber reap` and
# setup.sh call it too. It must not ask libvirt, which waits for it.
set -eu
export PATH="$PATH:/usr/sbin:/sbin" LC_ALL=C

# What a bridge knows of its ports comes by the firewall alone, from now on: not by
# frames for bridges themselves.
learn_anew() {
    sed -n 's/^define [a-z]* = "\(.*\)"$/\1/p' /etc/cyyber/network.nft | while read -r bridge; do
        for flag in no_linklocal_learn flush; do
            flag=/sys/class/net/$bridge/bridge/$flag
            [ ! -e "$flag" ] || echo 1 >"$flag"
        done
        [ ! -e "/sys/class/net/$bridge" ] || ip neigh flush dev "$bridge"
    done
}

case "${1-} ${2-} ${3-}" in
    'cyyber-nat start begin' | 'cyyber-isolated start begin') ;;
    'cyyber-nat started begin' | 'cyyber-isolated started begin')
        learn_anew
        exit
        ;;
    *) exit 0 ;;
esac
# Each instance's QEMU has a user of its own, and must pass here.
[ ! -d /var/lib/libvirt/qemu ] || chmod o+x /var/lib/libvirt/qemu
umask 022
mkdir -p /run/cyyber
exec 9>/run/cyyber/network.lock
flock 9
nft -f /etc/cyyber/network.nft
# What it looks like in the kernel, for whoever asks whether it still does.
nft -a -t -s 'list ruleset bridge; list ruleset arp; list ruleset inet' >/run/cyyber/network.new
mv /run/cyyber/network.new /run/cyyber/network.loaded
learn_anew
