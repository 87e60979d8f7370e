# shellcheck shell=sh
# Before the other scripts: how they reach the channel to the host, and report what is wrong.
fail() { echo "$*" >&2; exit 1; }

# Prints the device of the port with this name, which was just plugged in.
port() {
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        for at in /sys/class/virtio-ports/*; do
            if { read -r name <"$at/name"; } 2>/dev/null && [ "$name" = "$1" ]; then
                echo "/dev/${at##*/}"
                return
            fi
        done
        sleep 1
    done
    fail "the kernel of its guest has no port $1"
}
