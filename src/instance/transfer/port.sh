# shellcheck shell=sh
# Before the other scripts: how they reach the channel to the host, and report what is wrong.
fail() { echo "$*" >&2; exit 1; }

# Opens the port with this name, which was just plugged in, as file descriptor 3. Its own node in /dev
# may be gone at any moment, if the host ends the transfer: opening it might then make a file, which would
# stand in the way of later ports.
open_port() {
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        for at in /sys/class/virtio-ports/*; do
            is_port "$at" "$1" || continue
            IFS=: read -r major minor <"$at/dev" && node=/dev/cyyber.$1 &&
                mknod -m 600 "$node" c "$major" "$minor" && command exec 3<>"$node"
            opened=$?
            rm -f "$node"
            # The number may be that of a later port by now.
            [ "$opened" = 0 ] && is_port "$at" "$1" && return
            fail "its guest cannot open the port $1"
        done
        sleep 1
    done
    fail "the kernel of its guest has no port $1"
}

is_port() { { read -r name <"$1/name"; } 2>/dev/null && [ "$name" = "$2" ]; }
