#!/usr/bin/env bash
# Prepares a Debian or Ubuntu host for cyyber: packages, a Rust toolchain,
# libvirt, access to KVM, folders, and two networks for the labs with their
# firewall.
#
# Each step (steps/*.sh) checks first and changes only what is not right, so a repeated run is quick
# and quiet. Only packages through apt are downloaded, and Packer's plugin for QEMU if Packer needs
# one.
set -Eeuo pipefail
umask 022
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

HERE=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
readonly HERE LOG=/var/log/cyyber-setup.log
readonly STORAGE_DIR=/var/lib/libvirt/images/cyyber-labs STATE_DIR=/var/lib/cyyber

storage_dir=${CYYBER_STORAGE_DIR:-$STORAGE_DIR}
state_dir=${CYYBER_STATE_DIR:-$STATE_DIR}
check_only=no
packages_only=no
no_packages=no
with_tests=no
remove=no
join=no
shared_dir=
config=${CYYBER_CONFIG-}
need_packer=no
accept_packer=no
[[ -z ${CYYBER_ACCEPT_PACKER_LICENSE-} ]] || accept_packer=yes
changes=0
packages_to_come=no # with --check: what they bring is not there yet
left_to_do=() # what only the person can do, said at the end

main() {
    trap 'printf "error: setup stopped: line %s of %s failed: %s\n" "$LINENO" "$0" "$BASH_COMMAND" >&2' ERR
    parse_arguments "$@"
    become_root
    if [[ $remove = yes ]]; then
        remove_networks
        ((${#left_to_do[@]} == 0)) || die "${left_to_do[0]}"
        remove_table
        dismiss_instances
        remove_cluster
        return
    fi
    find_cluster
    if [[ $no_packages = no ]]; then
        install_packages
        provide_plugin
        provide_rust
    fi
    if [[ $packages_only = no ]]; then
        provide_hook
        start_libvirt
        confine_qemu
        admit_instances
        make_folders
        provide_cluster
        admit_caller
        provide_table
        provide_networks
        remove_filters
    fi
    summary
}

. "$HERE/steps/packages.sh"
. "$HERE/steps/packer.sh"
. "$HERE/steps/rust.sh"
. "$HERE/steps/libvirt.sh"
. "$HERE/steps/folders.sh"
. "$HERE/steps/networks.sh"
. "$HERE/steps/table.sh"
. "$HERE/steps/cluster.sh"

usage() {
    cat <<EOF
Usage: setup.sh [OPTION]...

Prepares this Debian or Ubuntu host for cyyber. Needs root; calls sudo itself.
Running it again is safe, quick, and repairs what is missing.

  --check            change nothing; say what would be changed, exit 1 if anything
  --with-tests       also install what the tests need
  --join DIR         make this one of several hosts, which share DIR (cluster.shared_dir
                     of the configuration); on the head run this without it before
  --config FILE      the configuration that says whether this is a head (\$CYYBER_CONFIG,
                     else ./labs-config.json, else /etc/cyyber/labs-config.json)
  --remove           remove the lab networks, their firewall, the access of instances
                     to this host, and it from its cluster; nothing else
  --need-packer      fail at once if Packer cannot be installed
  --yes              if no archive of this host has Packer, install it from
                     HashiCorp's ($PACKER_ARCHIVE), whose
                     licence is not free; \$CYYBER_ACCEPT_PACKER_LICENSE does the same
  --packages-only    install packages and Rust, leave the rest of the host alone
  --no-packages      install nothing, prepare the rest of the host alone
  --storage-dir DIR  folder of all disk images (\$CYYBER_STORAGE_DIR, else
                     $STORAGE_DIR)
  --state-dir DIR    folder of the program's state (\$CYYBER_STATE_DIR, else
                     $STATE_DIR)
  -h, --help         this text

The output of apt goes to $LOG.
EOF
}

parse_arguments() {
    options=("$@") # for sudo
    while (($#)); do
        case $1 in
            --check) check_only=yes ;;
            --with-tests) with_tests=yes ;;
            --remove) remove=yes ;;
            --need-packer) need_packer=yes ;;
            --yes) accept_packer=yes ;;
            --packages-only) packages_only=yes ;;
            --no-packages) no_packages=yes ;;
            --storage-dir | --state-dir | --join)
                (($# > 1)) || bad_arguments "$1 needs a folder"
                set_folder "$1" "$2"
                shift
                ;;
            --storage-dir=* | --state-dir=* | --join=*) set_folder "${1%%=*}" "${1#*=}" ;;
            --config)
                (($# > 1)) || bad_arguments "$1 needs a file"
                config=$2
                shift
                ;;
            --config=*) config=${1#*=} ;;
            -h | --help)
                usage
                exit
                ;;
            *) bad_arguments "unknown argument '$1'" ;;
        esac
        shift
    done
    set_folder --storage-dir "$storage_dir"
    set_folder --state-dir "$state_dir"
}

set_folder() {
    [[ $2 = /?* ]] || bad_arguments "$1 needs an absolute path, not '$2'"
    local name=${1#--}
    if [[ $name = join ]]; then
        join=yes
        name=shared-dir
    fi
    printf -v "${name/-/_}" %s "$(realpath -ms -- "$2")"
}

bad_arguments() {
    printf 'error: bad arguments: %s\nhint: see --help\n' "$1" >&2
    exit 2
}

# sudo drops the environment, so its values are passed as arguments.
become_root() {
    ((EUID != 0)) || return 0
    command -v sudo >/dev/null ||
        die 'cannot set up this host: root is required, and sudo is not installed' 'run it as root'
    [[ $accept_packer = no ]] || options+=(--yes)
    [[ -z $config ]] || options+=(--config "$config")
    exec sudo -- bash "$HERE/setup.sh" "${options[@]}" \
        --storage-dir "$storage_dir" --state-dir "$state_dir"
}

die() {
    printf 'error: %s\n' "$1" >&2
    [[ -z ${2-} ]] || printf 'hint: %s\n' "$2" >&2
    exit 1
}

# Announces one change and permits it. With --check it only counts the change and refuses it, so
# every step does: change "…" || return 0, then the change.
change() {
    changes=$((changes + 1))
    if [[ $check_only = yes ]]; then
        printf 'to do: %s\n' "$1"
        return 1
    fi
    printf '%s\n' "$1"
}

# Whether the directory exists, or will exist when setup is done.
will_have() { [[ -d $1 || $packages_to_come = yes ]]; }

# Something that only the person can do. The host counts as not ready.
leave_to_person() {
    changes=$((changes + 1))
    left_to_do+=("$1")
}

# The person who called sudo; fails when root itself set this up.
sudo_caller() {
    [[ ${SUDO_USER:-root} != root ]] && printf '%s\n' "$SUDO_USER"
}

summary() {
    local item
    if [[ $check_only = no && $packages_only = no ]]; then
        ((${#left_to_do[@]})) || printf 'ready: '
        printf 'instances run under %s\n' "$(virtualisation)"
    fi
    [[ -z $cargo ]] || printf 'cargo: %s\n' "$cargo"
    for item in "${left_to_do[@]}"; do
        printf 'still to do: %s\n' "$item" >&2
    done
    [[ $check_only = no ]] || exit $((changes > 0))
}

main "$@"
