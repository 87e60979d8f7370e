# shellcheck shell=bash disable=SC2034,SC2154 # shares variables with setup.sh
# Step of setup.sh: the networks of the labs, from network-*.xml.
#
# A definition contains the checksum of its source file. So a changed file is noticed, and an
# administrator's edits are kept.

provide_networks() {
    if [[ $check_only = yes ]] && ! libvirt_answers; then
        change 'set up the networks cyyber-nat and cyyber-isolated, as far as needed' || return 0
    fi
    provide_network cyyber-nat "$HERE/network-nat.xml"
    provide_network cyyber-isolated "$HERE/network-isolated.xml"
}

provide_network() {
    local name=$1 file=$2 checksum steps=()
    checksum=$( (cat "$file"; hosts "$file") | sha256sum | cut -d' ' -f1)
    [[ $(checksum_of "$name" --inactive) = "$checksum" ]] || steps+=(net-define)
    listed "$name" --all --autostart || steps+=(net-autostart)
    if ! listed "$name"; then
        steps+=(net-start)
    elif [[ $(checksum_of "$name") != "$checksum" ]] && may_restart "$name"; then
        steps+=(net-destroy net-start)
    fi
    ((${#steps[@]})) || return 0
    change "network $name: ${steps[*]#net-}" || return 0
    local step
    for step in "${steps[@]}"; do
        "${step/net-/network_}" "$name" "$file" "$checksum"
    done
}

checksum_of() {
    on_libvirt net-dumpxml "$@" 2>/dev/null |
        sed -n "s/.*<cyyber:setup .*checksum=[\"']\([^\"']*\).*/\1/p" || true
}

listed() {
    local name=$1
    shift
    # Not "grep -q": it exits at its first match, and virsh then fails on a closed pipe.
    on_libvirt net-list --name "$@" 2>/dev/null | grep -x "$name" >/dev/null
}

# Stopping a network disconnects its instances permanently, so do it only if there are none.
may_restart() {
    local attached
    attached=$(on_libvirt net-port-list "$1" | grep -c .) || return 0
    leave_to_person "stop or pause the $attached running instances on $1, then run this again: it still has its old settings"
    return 1
}

# Removes the networks. Instances are kept, and can be started after another setup.
remove_networks() {
    local name attached
    libvirt_answers || die "libvirt does not answer at $URI: its networks are not removed" 'start it, then run this again'
    for name in cyyber-nat cyyber-isolated; do
        listed "$name" --all || continue
        attached=$(on_libvirt net-port-list "$name" 2>/dev/null | grep -c .) || true
        if ((attached > 0)); then
            leave_to_person "stop or pause the $attached running instances on $name, then run this again"
            continue
        fi
        change "network $name: remove" || continue
        ! listed "$name" || network_destroy "$name"
        try_network "$name" net-undefine "$name"
    done
}

# A definition under a known name must carry the UUID of that name.
network_define() {
    local name=$1 xml uuid
    xml=$(<"$2")
    xml=${xml/checksum=\"unset\"/checksum=\"$3\"}
    xml=${xml/<\/dhcp>/$(hosts "$2")<\/dhcp>}
    if uuid=$(on_libvirt net-uuid "$name" 2>/dev/null); then
        xml=${xml/<\/name>/<\/name><uuid>$uuid<\/uuid>}
    fi
    try_network "$name" net-define <(printf '%s\n' "$xml")
}

hosts() {
    cards "$1" | awk '{ printf "<host mac=\"%s\" ip=\"%s\"/>\n", $2, $3 }'
}

# All interfaces that the network can have, as in src/network.rs: that of the VM in a build's domain
# definition, and those of instances. One line each: host part, MAC and IP address.
cards() {
    sed -n 's/.*<ip address="\([0-9.]*\)" netmask="\([0-9.]*\)".*/\1.\2/p' "$1" |
        awk -F. -v alone=2 -v first=16 -v last=2015 '
            function card(part) {
                ip = $1 "." $2 "." $3 - $3 % (256 - $7) + int(part / 256) "." part % 256
                if (part < all_ones && ip != gateway)
                    printf "%d 52:63:79:79:%02x:%02x %s\n",
                        part, int(part / 256), part % 256, ip
            }
            {
                gateway = $1 "." $2 "." $3 "." $4
                all_ones = ((255 - $5) * 256 + 255 - $6) * 65536 + (255 - $7) * 256 + 255 - $8
                card(alone)
                for (part = first; part <= last; part++) card(part)
            }'
}

network_autostart() { try_network "$1" net-autostart "$1"; }
network_destroy() { try_network "$1" net-destroy "$1"; }
network_start() { try_network "$1" net-start "$1"; }

try_network() {
    local name=$1 answer hint
    shift
    answer=$(on_libvirt "$@" 2>&1) && return
    hint="if another network has its addresses, change them in $HERE/network-${name#cyyber-}.xml and run this again"
    # The kernel may lack a module for one of libvirt's two backends, such as act_csum for nftables.
    [[ $answer != *'firewall command'* ]] ||
        hint='set firewall_backend in /etc/libvirt/network.conf to the other of iptables and nftables, restart libvirt, and run this again'
    die "cannot set up the network $name: $1 failed: ${answer//$'\n'/ }" "$hint"
}
