#!/bin/sh
# Puts up the network of lab01: four hosts in namespaces of this machine, on the bridge lan0. It leads
# nowhere else. Run as root in the guest at each boot.
set -eu

ip link add lan0 type bridge
ip address add 10.13.37.1/24 dev lan0
ip link set lan0 up
while read -r name number; do
    ip netns add "$name"
    ip link add "to-$name" type veth peer name eth0 netns "$name"
    ip link set "to-$name" master lan0 up
    ip -n "$name" address add "10.13.37.$number/24" dev eth0
    ip -n "$name" link set lo up
    ip -n "$name" link set eth0 up
done <<HOSTS
web 10
mail 20
office 30
vault 66
HOSTS
# A mistake of many real firewalls: what comes from port 53 is taken for an answer of the DNS.
ip netns exec vault nft -f - <<RULES
table ip vault {
    chain input {
        type filter hook input priority filter; policy drop;
        tcp sport 53 accept
    }
}
RULES
