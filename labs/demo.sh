#!/usr/bin/env bash
# The main use from beginning to end, as `make demo` runs it: builds the lab of demo.json, starts a
# student's VM of it, takes a picture of the VM's screen, and shuts it down. Says what each step
# proved.
#
# Usage: demo.sh PATH_OF_CYYBER
set -euo pipefail

here=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
cyyber=$(realpath -- "${1:?usage: demo.sh PATH_OF_CYYBER}")
readonly here cyyber
readonly lab=demo user=1 picture=cyyber-labs-output/demo-screen.png
readonly domain=${lab}_user_${user}
export CYYBER_CONFIG=$here/demo.json CYYBER_OUTPUT_DIR=cyyber-labs-output LIBVIRT_DEFAULT_URI=${CYYBER_CONNECT:-qemu:///system}

step() { printf '\n== %s\n' "$*"; }
run() {
    printf '$ %s\n' "$*"
    "$@"
}
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
# The program by its short name, so that what is shown can be typed after `make install`.
cyyber() { "$cyyber" "$@"; }

# The field with this name of the instance: JSON is on one line, unless a person reads it.
field() { cyyber instance list --lab "$lab" --user "$user" -o json | grep -Eo "\"$1\": ?\"[^\"]*" | cut -d '"' -f 4; }

# Waits until the guest's agent has answered, for at most five minutes, as its boot timeout is.
wait_until_running() {
    local began=$SECONDS
    until [[ $(field state) = running ]]; do
        ((SECONDS - began < 330)) || die "$domain did not boot in time"
        sleep 2
    done
    printf 'running after %s s\n' "$((SECONDS - began))"
}

# The student is logged in on the screen a while after the agent's answer, the shell a moment later.
wait_for_login() {
    local tries=60
    until [[ $(in_the_guest '{"execute":"guest-get-users"}') = *'"student"'* ]]; do
        ((--tries)) || die 'no user was logged in on the screen'
        sleep 2
    done
    sleep 5
}

in_the_guest() { virsh -q qemu-agent-command -- "$domain" "$1"; }

step "Build the lab's image (Packer boots a cloud image, installs the packages, brands it)"
run cyyber build "$lab"
printf 'proved: %s\n' "$(grep -c '"version": "' "cyyber-labs-output/$lab-metadata.json") packages are in the image, with their versions in cyyber-labs-output/$lab-metadata.json"

step 'Start a VM of it for a student'
run cyyber instance start "$lab" "$user"
printf 'proved: its own disk takes %s, the rest is the shared base image\n' \
    "$(du -h --apparent-size "$(field disk_path)" | cut -f1)"

step 'Wait until it has booted'
wait_until_running
[[ $(in_the_guest '{"execute":"guest-get-host-name"}') = *"\"cyyber-lab-$lab\""* ]] ||
    die 'the guest has the wrong hostname'
printf 'proved: the hostname of the guest is cyyber-lab-%s\n' "$lab"

step 'Show its state and its screen'
run cyyber instance list
run cyyber instance stats
wait_for_login
virsh -q screenshot "$domain" "$picture" >/dev/null
printf 'proved: its screen works; see %s\n' "$PWD/$picture"

step 'Shut it down'
run cyyber instance stop "$lab" "$user" --timeout 2m
[[ $(field state) = stopped ]] || die "$domain is $(field state) instead of stopped"
printf 'proved: the guest shut down; its disk is kept for the next start\n'

# Run through sudo, the results belong to the person who did.
if [[ -n ${SUDO_UID-} ]]; then chown -R "$SUDO_UID:${SUDO_GID-}" cyyber-labs-output; fi
printf '\nThe demo is done. The screen of the lab: %s\n' "$PWD/$picture"
