#!/usr/bin/env bash
# Makes a bootable Debian 12 cloud image from Debian packages alone.
#
# The root file system is a plain directory until mke2fs writes it into the
# disk image: no loop device and no mount is left to clean up. Boot loader and
# partition tools are those of the image itself, run in its root, so the host
# needs only what check_host names.
set -euo pipefail
umask 022

readonly RELEASE=bookworm
readonly LABEL=cyyber-root # also in grub-*.cfg and fstab
readonly DISK_SIZE=3G
readonly PARTITION_START=1048576 # bytes: the gap before it holds GRUB
readonly NEEDED_MIB=2560
readonly KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
readonly BOOT_MODULES=(biosdisk part_msdos ext2 search search_label normal configfile linux)

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly HERE

readonly ARCHIVE=http://deb.debian.org/debian # as sources.list has it

output=/var/cache/cyyber/debian-12-cloud-amd64.qcow2
mirror=$ARCHIVE
force=no
work=                    # folder of this build, removed at the end
step_pid=                # long command under way
doing='making the image' # names the step in an error
explained=no             # an error message is out already

exec 3>&2 # messages for the user, also while output goes to the log

main() {
    parse_arguments "$@"
    recipe=$(recipe_hash)
    exit_if_current
    check_host
    take_lock
    exit_if_current # another run may have made it meanwhile
    start_work
    build_image >>"$work/log" 2>&1
    say "image is ready: $output"
}

usage() {
    cat <<EOF
Usage: make-image.sh [--output PATH] [--mirror URL] [--force]

Makes a bootable Debian 12 (amd64) cloud image in qcow2 format.

  --output PATH  where to put it (default: $output)
  --mirror URL   a mirror of $ARCHIVE, with that of security
                 updates beside it as URL-security; the image uses them too
  --force        make it anew even if it is up to date

Beside PATH go PATH.sha256 (checksum), PATH.recipe (what it was made from)
and PATH.lock (kept, so that two runs never clash).

Copy or convert the image to use it: a disk that names it as its backing file
breaks when the image is made anew.
EOF
}

say() { printf '%s\n' "$*" >&3; }

die() {
    explained=yes
    say "error: $*"
    exit 1
}

parse_arguments() {
    while (($#)); do
        case $1 in
            --output)
                output=${2:-}
                [[ -n $output ]] || die "bad arguments: --output needs a path"
                shift
                ;;
            --output=?*) output=${1#*=} ;;
            --mirror)
                set_mirror "${2:-}"
                shift
                ;;
            --mirror=*) set_mirror "${1#*=}" ;;
            --force) force=yes ;;
            -h | --help)
                usage
                exit 0
                ;;
            *) die "bad arguments: unknown argument '$1' (see --help)" ;;
        esac
        shift
    done
    # Absolute, because qemu-img takes "name:" at the front for a protocol.
    output=$(realpath -m -- "$output")
    [[ ! -d $output ]] || die "bad arguments: $output is a directory"
}

# The VMs that labs are built in use it as well, so it is none of this host's files.
set_mirror() {
    [[ $1 =~ ^https?://[A-Za-z0-9.:/_~%-]+$ ]] || die "bad arguments: --mirror needs an address by http or https"
    mirror=${1%/}
}

# One hash over this script, every file beside it, and the mirror if it is another.
recipe_hash() {
    cd "$HERE"
    {
        find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum --
        [[ $mirror = "$ARCHIVE" ]] || printf '%s\n' "$mirror"
    } | sha256sum | cut -d' ' -f1
}

exit_if_current() {
    [[ $force = no && -f $output && -f $output.sha256 && -f $output.recipe ]] || return 0
    [[ $(<"$output.recipe") = "$recipe" ]] || return 0
    echo "image is up to date: $output"
    exit 0
}

check_host() {
    ((EUID == 0)) || die "cannot make the image: this needs root, run it with sudo"
    local missing=() pair
    for pair in mmdebstrap:mmdebstrap mke2fs:e2fsprogs qemu-img:qemu-utils flock:util-linux; do
        command -v "${pair%:*}" >/dev/null || missing+=("${pair%:*} (package ${pair#*:})")
    done
    [[ -r $KEYRING ]] || missing+=("$KEYRING (package debian-archive-keyring)")
    ((${#missing[@]} == 0)) || die "cannot make the image: missing $(join ', ' "${missing[@]}")"
}

join() {
    local separator=$1 text=$2
    shift 2
    printf '%s' "$text" "${@/#/$separator}"
}

# Long commands of this build inherit the lock: if this script is killed
# outright, the next run waits until they are gone too.
take_lock() {
    mkdir -p -- "$(dirname -- "$output")" || die "cannot create the folder of $output"
    # A link or a pipe put there by someone else is neither followed nor waited on.
    [[ ! -L $output.lock && (! -e $output.lock || -f $output.lock) ]] ||
        die "cannot lock: $output.lock is not a regular file"
    exec 9>>"$output.lock" || die "cannot lock: $output.lock is not writable"
    flock -n 9 && return
    say "waiting for another run to finish"
    flock 9
}

start_work() {
    trap finish EXIT
    trap 'interrupted 129' HUP
    trap 'interrupted 130' INT
    trap 'interrupted 143' TERM
    # The name is fixed: what a killed run left is found and removed here.
    work=$(dirname -- "$output")/.$(basename -- "$output").build
    rm -rf --one-file-system -- "$work"
    mkdir -- "$work" || die "cannot make the image: $work cannot be created"
    : >"$work/log"
    sed "s|$ARCHIVE|$mirror|" "$HERE/sources.list" >"$work/sources.list"
    # A group handed down by the folder around it would end up in the image.
    chown root:root -- "$work"
    chmod u=rwx,go=rx,g-s -- "$work"
    local free_mib
    free_mib=$(df --output=avail -BM -- "$work" | tail -n1 | tr -dc 0-9)
    ((free_mib >= NEEDED_MIB)) ||
        die "cannot make the image: $free_mib MiB free in $(dirname -- "$output"), $NEEDED_MIB needed"
}

interrupted() {
    explained=yes
    say "error: $doing failed: interrupted"
    exit "$1"
}

finish() {
    local status=$?
    trap '' HUP INT TERM
    if [[ -n $step_pid ]]; then
        kill -TERM -- "-$step_pid" 2>/dev/null || true
        wait "$step_pid" 2>/dev/null || true
    fi
    if ((status != 0)) && [[ $explained = no ]]; then
        tail -n 15 -- "$work/log" >&3 || true
        say "error: $doing failed: $(reason)"
        status=1
    fi
    rm -rf --one-file-system -- "$work"
    exit "$status"
}

# The most telling line of the log: the first complaint, not what followed.
reason() {
    grep -m1 'No space left' "$work/log" || grep -m1 '^E: ' "$work/log" || tail -n 1 "$work/log"
}

step() {
    doing=$1
    say "$1"
}

# Bash runs a trap only after the command under way has ended. In the
# background, in a process group of its own, it can be ended at once.
run() {
    set -m
    "$@" &
    step_pid=$!
    set +m
    wait "$step_pid"
    step_pid=
}

build_image() {
    step "installing Debian packages"
    install_packages
    step "configuring the system"
    configure_system
    step "writing the disk"
    write_boot_area
    write_file_system
    step "compressing the image"
    run qemu-img convert -c -O qcow2 -o compression_type=zstd "$work/disk.raw" "$work/image.qcow2"
    step "putting the image in place"
    publish
}

install_packages() {
    local packages proxies
    packages=$(sed -e 's/#.*//' "$HERE/packages.list" | xargs | tr ' ' ,)
    # What this host's apt goes through, which mmdebstrap does not look at.
    mapfile -t proxies < <(apt-config dump |
        sed -nE 's/^(Acquire::https?::Proxy(::[^ "]+)?) "([^"]+)";$/--aptopt=\1 "\3"/p')
    # Our files go in before the packages whose install scripts read them.
    # Modes and owners of a checkout are not those of a system.
    # shellcheck disable=SC2016 # $1 and $OVERLAY are for the hook's shell
    OVERLAY=$HERE/rootfs run mmdebstrap \
        --mode=root --variant=minbase --architectures=amd64 --keyring="$KEYRING" \
        --include="$packages" "${proxies[@]}" \
        --essential-hook='cp -r --no-preserve=mode,ownership "$OVERLAY/." "$1/"' \
        "$RELEASE" "$work/root" "$work/sources.list"
}

in_root() { LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive chroot "$work/root" "$@"; }

configure_system() {
    local root=$work/root

    # mmdebstrap put it under a name of its own, where nobody looks.
    rm -f "$root"/etc/apt/sources.list.d/*
    install -m 0644 "$work/sources.list" "$root/etc/apt/sources.list"
    # The proxies, which are of this host and not of wherever the image is used.
    rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap"

    # Updates in the background would fight a lab's build for dpkg's lock.
    in_root systemctl disable apt-daily.timer apt-daily-upgrade.timer
    # Tidies up after snapshots that need LVM: seconds of each boot for nothing.
    in_root systemctl disable e2scrub_reap.service
    in_root systemctl enable systemd-networkd.service systemd-resolved.service
    ln -sfn ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"

    # Only now: at install time grub-pc would have written to that disk.
    in_root debconf-set-selections <<EOF
grub-pc grub-pc/install_devices multiselect /dev/vda
grub-pc grub-pc/install_devices_empty boolean false
EOF
    mkdir -p "$root/boot/grub/fonts"
    cp -r "$root/usr/lib/grub/i386-pc" "$root/boot/grub/"
    cp "$root/usr/share/grub/unicode.pf2" "$root/boot/grub/fonts/"
    install -m 0644 "$HERE/grub-first.cfg" "$root/boot/grub/grub.cfg"

    printf 'LANG=C.UTF-8\n' >"$root/etc/default/locale"
    printf 'debian\n' >"$root/etc/hostname"
    printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"

    # What makes one machine differ from its clones is made at first boot.
    : >"$root/etc/machine-id"
    rm -f "$root"/etc/ssh/ssh_host_* "$root/var/lib/dbus/machine-id" "$root/var/lib/systemd/random-seed"
    in_root apt-get clean
    rm -rf "$root"/var/lib/apt/lists/* "$root"/var/log/{apt,bootstrap.log,dpkg.log,alternatives.log}
    mkdir -p "$root/var/lib/apt/lists/partial" "$root/var/log/apt"
}

# Partition table and GRUB, made in the image's root and then moved out of it.
write_boot_area() {
    local root=$work/root
    truncate -s "$DISK_SIZE" "$root/disk.raw"
    in_root sfdisk --quiet /disk.raw <<<"start=$((PARTITION_START / 512)), type=83, bootable"
    install -m 0644 "$HERE/grub-core.cfg" "$root/grub-core.cfg"
    in_root grub-mkimage -O i386-pc -p /boot/grub -c /grub-core.cfg -o /core.img "${BOOT_MODULES[@]}"
    mv "$root/disk.raw" "$work/"
    rm "$root/grub-core.cfg"
    # This place tells grub-pc that upgrades have a boot loader to renew.
    mv "$root/core.img" "$root/boot/grub/i386-pc/core.img"

    # The first 440 bytes are code; partition table and signature follow.
    dd if="$root/usr/lib/grub/i386-pc/boot.img" of="$work/disk.raw" bs=440 count=1 conv=notrunc
    dd if="$root/boot/grub/i386-pc/core.img" of="$work/disk.raw" bs=512 seek=1 conv=notrunc
    (($(stat -c %s "$root/boot/grub/i386-pc/core.img") + 512 <= PARTITION_START)) ||
        die "writing the disk failed: GRUB is too big"
}

write_file_system() {
    local bytes
    bytes=$(($(stat -c %s "$work/disk.raw") - PARTITION_START))
    # The image's own mke2fs.conf: a newer host would turn on features that
    # this release's GRUB cannot read.
    MKE2FS_CONFIG=$work/root/etc/mke2fs.conf run mke2fs -q -F -t ext4 -L "$LABEL" -d "$work/root" \
        -E "offset=$PARTITION_START" "$work/disk.raw" "$((bytes / 1024))k"
}

# The recipe leaves first and comes last: whatever cuts this short, the next
# run knows that the files may not belong together.
publish() {
    local name
    name=$(basename -- "$output")
    chmod 0644 "$work/image.qcow2"
    mv "$work/image.qcow2" "$work/$name"
    (cd "$work" && sha256sum -- "$name" >sha256)
    printf '%s\n' "$recipe" >"$work/recipe"
    sync "$work/$name" "$work/sha256" "$work/recipe"
    rm -f -- "$output.recipe"
    mv -f -- "$work/$name" "$output"
    mv -f -- "$work/sha256" "$output.sha256"
    mv -f -- "$work/recipe" "$output.recipe"
    sync "$(dirname -- "$output")"
}

main "$@"
