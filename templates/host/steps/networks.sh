# shellcheck shell=bash disable=SC2034,SC2154 # shares variables with setup.sh
# Step of setup.sh: the networks of the labs, from network-*.xml.
#
# A definition carries the checksum of the file it was made from. That shows
# when the file has changed, and leaves alone what an administrator edits.

provide_networks() {
    if [[ $check_only = yes ]] && ! libvirt_answers; then
        change 'set up the networks cyyber-nat and cyyber-isolated, as far as needed' || return 0
    fi
    provide_network cyyber-nat "$HERE/network-nat.xml"
    provide_network cyyber-isolated "$HERE/network-isolated.xml"
}

provide_network() {
    local name=$1 file=$2 checksum steps=()
    checksum=$(sha256sum <"$file" | cut -d' ' -f1)
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

places_of() {
    on_libvirt net-dumpxml --inactive "$1" 2>/dev/null | grep "<host mac='" || true
}

listed() {
    local name=$1
    shift
    # Not "grep -q": it leaves at its first match, and virsh then fails on a closed pipe.
    on_libvirt net-list --name "$@" 2>/dev/null | grep -x "$name" >/dev/null
}

# Taking a network down cuts its instances off for good, so only when it has none.
may_restart() {
    local attached
    attached=$(on_libvirt net-port-list "$1" | grep -c .) || return 0
    leave_to_person "stop or pause the $attached running instances on $1, then run this again: it still has its old settings"
    return 1
}

# A definition under a known name must carry the UUID of that name. Addresses that
# are set aside for instances stay theirs, unless the range became another one.
network_define() {
    local name=$1 xml uuid places
    xml=$(<"$2")
    xml=${xml/checksum=\"unset\"/checksum=\"$3\"}
    if uuid=$(on_libvirt net-uuid "$name" 2>/dev/null); then
        xml=${xml/<\/name>/<\/name><uuid>$uuid<\/uuid>}
    fi
    places=$(places_of "$name" | grep -vFf <(sed -n 's/.*<host mac="\([^"]*\).*/\1/p' "$2") || true)
    on_libvirt net-define <(printf '%s\n' "${xml/<\/dhcp>/$places<\/dhcp>}") >/dev/null 2>&1 ||
        try_network "$name" net-define <(printf '%s\n' "$xml")
}

network_autostart() { try_network "$1" net-autostart "$1"; }
network_destroy() { try_network "$1" net-destroy "$1"; }
network_start() { try_network "$1" net-start "$1"; }

try_network() {
    local name=$1 answer
    shift
    answer=$(on_libvirt "$@" 2>&1) || die "cannot set up the network $name: $1 failed: ${answer//$'\n'/ }" \
        "if another network has its addresses, change them in $HERE/network-${name#cyyber-}.xml and run this again"
}
