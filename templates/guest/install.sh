#!/bin/sh
# The second half of a build: turns Cyyber Linux into a lab, as root, inside the guest. What the lab
# wants is in the files beside this script, one thing a file; none of it is ever read as shell:
#
#   packages        names of Debian packages, one a line
#   motd            the message of the day, with the instructions
#   hostname        the hostname of the lab's instances
#   lab_id          the lab
#   desktop         the desktop that the stage has
#   provision/      the instructor's files, each with its target, mode and owner, and scripts
#   seed-*          what cloud-init gets to know in an instance
set -eu
# shellcheck source=common.sh
. /var/tmp/cyyber/common.sh

# Fails for names that are neither a package nor what one package provides: apt-get would take an
# unknown one with a dot in it for a pattern, and of several providers it does not tell.
check_names() {
    unknown=
    while read -r name; do
        [ -z "$(apt-cache show "$name" 2>/dev/null)" ] || continue
        providers=$(apt-cache showpkg "$name" | sed '1,/^Reverse Provides:/d; s/ .*//' | sort -u)
        # shellcheck disable=SC2086 # one a line becomes words
        set -- $providers
        [ $# -lt 2 ] || fail "$name is provided by several packages, of which one is to be named: $*"
        [ $# -eq 1 ] || unknown="$unknown $name"
    done <"$here/packages"
    [ -z "$unknown" ] || fail "no such package:$unknown"
}

install_packages() {
    check_names
    [ -s "$here/packages" ] || return 0
    stage "Installing packages"
    # The archive may have moved on since the stage was made.
    install_all || { read_package_lists_anew && install_all; }
}

install_all() {
    # shellcheck disable=SC2046 # the names were checked against Debian's pattern
    apt install -- $(cat "$here/packages")
}

describe() {
    stage "Writing the message of the day"
    install -D -m 644 "$here/motd" /etc/motd
    install -D -m 644 "$here/hostname" /etc/hostname
    hostname -F /etc/hostname
}

# Some of these groups came with the lab's packages.
add_student_to_groups() {
    for group in adm sudo wireshark dialout video plugdev; do
        if getent group "$group" >/dev/null; then usermod --append --groups "$group" student; fi
    done
}

# Instances have no data source but this one, which is part of the image: each boots with a new
# machine-id and new SSH host keys, takes the hostname, and grows its file system.
seed_instances() {
    install -D -m 644 "$here/seed-meta-data" /var/lib/cloud/seed/nocloud/meta-data
    install -D -m 644 "$here/seed-user-data" /var/lib/cloud/seed/nocloud/user-data
}

# The instructor's files, then the scripts, in order. A script is started as a program, so that its
# first line may name another shell or language.
provision() {
    for file in "$here"/provision/files/*; do
        [ -e "$file" ] || continue
        target=$(cat "$file/target")
        stage "Copying $target"
        install -D -m "$(cat "$file/mode")" -- "$file/content" "$target"
        owner=$(cat "$file/owner")
        # Without a group it becomes the user's own. Afterwards, for this takes away the right to
        # run as the owner.
        case $owner in *:*) ;; *) owner=$owner: ;; esac
        chown -h -- "$owner" "$target"
        chmod "$(cat "$file/mode")" -- "$target"
    done
    for script in "$here"/provision/scripts/*; do
        [ -e "$script" ] || continue
        name=$(cat "$script/name")
        stage "Running $name"
        chmod 700 "$script/script"
        (cd "$script" && CYYBER_LAB=$(cat "$here/lab_id") ./script) </dev/null ||
            fail "the script $name failed with exit code $?"
    done
}

wait_for_first_boot
read_package_lists
install_packages
describe
add_student_to_groups
seed_instances
provision
forget_package_lists
# shellcheck disable=SC2016 # dpkg's own placeholders
dpkg-query -W -f '${Package}\t${Version}\t${Provides}\n' >"$here/report"
