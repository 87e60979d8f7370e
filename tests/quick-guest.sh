#!/usr/bin/env bash
# Makes target/tmp/quick-guest.qcow2: the cloud image without what a test's guest can do without.
# It boots with a third of the processor time, which is what tests under software emulation wait for.
#
# The file system is changed as it lies in the image: no boot and no mount. cloud-init and the fonts
# of the console take most of a first boot; the host keys that cloud-init would make come along.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly IMAGE=/var/cache/cyyber/debian-12-cloud-amd64.qcow2
readonly OUTPUT=target/tmp/quick-guest.qcow2
readonly PARTITION=1048576 # where make-image.sh begins it, in bytes

# Older than what it is made from?
[[ $OUTPUT -ot $IMAGE || $OUTPUT -ot ${BASH_SOURCE[0]} ]] || exit 0

mkdir -p target/tmp
work=$(mktemp -d target/tmp/quick-guest-XXXXXX)
trap 'rm -rf -- "$work"' EXIT
qemu-img convert -O raw "$IMAGE" "$work/disk"
: >"$work/empty"
for kind in ed25519 ecdsa; do
    ssh-keygen -q -t "$kind" -N '' -C '' -f "$work/ssh_host_${kind}_key"
done
cat >"$work/changes" <<EOF
write $work/empty /etc/cloud/cloud-init.disabled
write $work/ssh_host_ed25519_key /etc/ssh/ssh_host_ed25519_key
write $work/ssh_host_ecdsa_key /etc/ssh/ssh_host_ecdsa_key
symlink /etc/systemd/system/keyboard-setup.service /dev/null
symlink /etc/systemd/system/console-setup.service /dev/null
symlink /etc/systemd/system/dpkg-db-backup.timer /dev/null
symlink /etc/systemd/system/e2scrub_all.timer /dev/null
symlink /etc/systemd/system/fstrim.timer /dev/null
EOF
for kind in ed25519 ecdsa; do
    for field in 'uid 0' 'gid 0' 'mode 0100600'; do
        echo "set_inode_field /etc/ssh/ssh_host_${kind}_key $field"
    done >>"$work/changes"
done
# It tells of failures on its standard error and ends well all the same.
said=$(debugfs -w -f "$work/changes" "$work/disk?offset=$PARTITION" 2>&1 >/dev/null | grep -v '^debugfs [0-9]' || true)
[[ -z $said ]] || {
    echo "error: failed to change the file system of $IMAGE: $said" >&2
    exit 1
}
qemu-img convert -O qcow2 "$work/disk" "$work/quick-guest.qcow2"
mv -- "$work/quick-guest.qcow2" "$OUTPUT"
