#!/bin/sh
# What the stages of a build share; read by them and never run by itself.
#
# Lines that begin with "[cyyber]" name a stage that the build shows; lines that begin with "E: "
# are shown when it fails.
here=/var/tmp/cyyber
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 LC_ALL=C.UTF-8
# The proxies of the host's apt, also for the scripts of the instructor. They go with the build.
[ ! -e "$here/apt.conf" ] || export APT_CONFIG="$here/apt.conf"

stage() { printf '[cyyber] %s\n' "$*"; }

fail() {
    printf 'E: %s\n' "$*" >&2
    exit 1
}

# Copies one of the directories in files/ over the root of the file system.
lay_over() { cp -r --no-preserve=mode,ownership "$here/files/$1/." /; }

wait_for_first_boot() {
    stage "Waiting for cloud-init"
    # Exit code 2 is "done, with warnings".
    cloud-init status --wait >/dev/null || [ $? -eq 2 ] ||
        fail "cloud-init failed: $(cloud-init status --long | tr '\n' ' ')"
}

# Nothing is gained by waiting for the disk after each file: a build that crashes is thrown away.
apt() {
    apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
        -o Dpkg::Options::=--force-confold -o Dpkg::Options::=--force-unsafe-io "$@"
}

# Lists that were read this recently are not read again, in minutes.
FRESH=60
read_at=/var/lib/apt/periodic/cyyber-read

read_package_lists() {
    [ -z "$(find "$read_at" -mmin "-$FRESH" 2>/dev/null)" ] || return 0
    read_package_lists_anew
}

read_package_lists_anew() {
    stage "Reading package lists"
    # The lock on the lists has no timeout of its own.
    tries=30
    until apt update >"$here/update.log" 2>&1; do
        tries=$((tries - 1))
        if [ "$tries" -eq 0 ] || ! grep -q "Could not get lock" "$here/update.log"; then
            cat "$here/update.log" >&2
            exit 1
        fi
        sleep 5
    done
    install -D -m 644 /dev/null "$read_at"
}

# Leaves nothing of apt's own in the image.
forget_package_lists() {
    apt clean
    rm -rf /var/lib/apt/lists/* "$read_at"
}
