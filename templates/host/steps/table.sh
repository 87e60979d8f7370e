# shellcheck shell=bash disable=SC2154 # shares variables with setup.sh
# Step of setup.sh: the firewall of the lab networks, from network.nft, and the hook with which
# libvirt loads it before a network starts.

readonly TABLE=/etc/cyyber/network.nft HOOK=/etc/libvirt/hooks/network.d/cyyber
readonly LOADED=/run/cyyber/network.loaded

# Install it before libvirt starts, because libvirt only looks for hooks at its start.
provide_hook() {
    cmp -s "$HERE/network-hook.sh" "$HOOK" && [[ -x $HOOK ]] && return
    change "hook $HOOK: write" || return 0
    install -D -m 755 "$HERE/network-hook.sh" "$HOOK"
}

provide_table() {
    local text load=no
    restart_for_hook
    text=$(table)
    if [[ $(cat "$TABLE" 2>/dev/null) != "$text" ]]; then
        change "firewall of the lab networks: write $TABLE" || return 0
        install -D -m 644 /dev/stdin "$TABLE" <<<"$text"
        load=yes
    fi
    if [[ $load = yes ]] || ! table_loaded; then
        change 'firewall of the lab networks: load' || return 0
        "$HOOK" cyyber-nat start begin - || die "cannot load $TABLE: nft rejects it, see above"
    fi
}

# Removes it, after the networks.
remove_table() {
    local family
    [[ -e $HOOK || -e $TABLE ]] || return 0
    change 'firewall of the lab networks: remove' || return 0
    rm -f "$HOOK" "$TABLE" "$LOADED"
    for family in bridge arp inet; do
        nft delete table "$family" cyyber 2>>"$LOG" || true # it may never have been loaded
    done
}

# A daemon that found no hooks at its start does not look for them later.
restart_for_hook() {
    local daemon
    for daemon in libvirtd virtnetworkd; do
        if [[ ! -e /run/$daemon.pid || /run/$daemon.pid -nt $HOOK ]] || ! is_running "$daemon"; then
            continue
        fi
        change "restart $daemon, for its hook" || return 0
        if [[ -d /run/systemd/system ]]; then
            systemctl restart "$daemon" || libvirt_failed
        else
            kill "$(cat "/run/$daemon.pid")"
            while is_running "$daemon"; do sleep 0.1; done
        fi
        wait_for_libvirt
    done
}

# Whether the kernel's table is unchanged since it was loaded.
table_loaded() {
    [[ -e $LOADED ]] && cmp -s <(our_tables <"$LOADED") \
        <(nft -a -t -s 'list ruleset bridge; list ruleset arp; list ruleset inet' | our_tables)
}

our_tables() {
    awk '/^table (bridge|arp|inet) cyyber \{/ { ours = 1 } ours; /^\}/ { ours = 0 }'
}

# network.nft with the addresses of the networks and all of their interfaces.
table() {
    local text nat=$HERE/network-nat.xml isolated=$HERE/network-isolated.xml cards
    text=$(<"$HERE/network.nft")
    text=${text//@NAT_BRIDGE@/$(bridge_of "$nat")}
    text=${text//@NAT_GATEWAY@/$(gateway_of "$nat")}
    text=${text//@ISOLATED_BRIDGE@/$(bridge_of "$isolated")}
    text=${text//@ISOLATED_GATEWAY@/$(gateway_of "$isolated")}
    cards=$(ports cyyber-nat "$nat" n && ports cyyber-isolated "$isolated" i)
    text=${text/@CARDS@/$(awk '{ printf "\"%s\" . %s,\n", $1, $2 }' <<<"$cards")}
    printf '%s\n' "${text/@ADDRESSES@/$(awk '{ printf "\"%s\" . %s,\n", $1, $3 }' <<<"$cards")}"
}

bridge_of() { sed -n 's/.*<bridge name="\([^"]*\)".*/\1/p' "$1"; }
gateway_of() { sed -n 's/.*<ip address="\([^"]*\)".*/\1/p' "$1"; }

# The port, MAC and IP address of each interface: as in src/network.rs, or, for a guest that was
# started before ports had such names, its present port.
ports() {
    cards "$2" | awk -v kind="$3" '{ print "cyyber-" kind $1, $2, $3 }'
    former_ports "$1" | awk '
        NR == FNR { address[$2] = $3; next }
        $2 in address { print $1, $2, address[$2] }' <(cards "$2") -
}

# Prints "PORT MAC" of running guests in a network.
former_ports() {
    local domain
    compgen -G '/sys/class/net/vnet*' >/dev/null && libvirt_answers || return 0
    on_libvirt list --uuid | while read -r domain; do
        [[ -z $domain ]] || on_libvirt domiflist "$domain" |
            awk -v network="$1" '$1 ~ /^vnet[0-9]+$/ && $3 == network { print $1, $5 }'
    done
}

# Removes libvirt's filters, which earlier versions used. Those that guests still use are kept.
remove_filters() {
    local filter
    libvirt_answers || return 0 # with --check alone
    for filter in $(on_libvirt nwfilter-list | awk '$2 ~ /^cyyber-(nat|isolated|host)$/ { print $2 }' | sort -r); do
        if [[ $check_only = yes ]] || on_libvirt nwfilter-undefine "$filter" >/dev/null 2>&1; then
            change "filter $filter, which is no longer needed: remove" || true
        fi
    done
}
