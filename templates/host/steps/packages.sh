# shellcheck shell=bash disable=SC2034,SC2154 # shares variables with setup.sh
# Step of setup.sh: the packages of the distribution, through apt alone.

# Recommended packages are not installed (they include a whole desktop), so the recommended ones
# that cyyber needs are listed here.
readonly RUN_PACKAGES=(
    libvirt-daemon-system libvirt-clients
    apparmor # libvirt confines each QEMU with it, where the kernel has it
    dnsmasq-base iptables iproute2 nftables # networks: addresses, NAT, limits, firewall
    qemu-system-x86 qemu-utils
    packer openssh-client
    mmdebstrap gpg debian-archive-keyring e2fsprogs fdisk # the cloud image made here
    libxml2-utils
)
readonly BUILD_PACKAGES=(libvirt-dev pkg-config gcc make libc6-dev)
readonly TEST_PACKAGES=(
    mandoc shellcheck logrotate zsh fish mount procps gpg-agent
    python3-fastapi python3-uvicorn python3-itsdangerous # a web backend, and in
    novnc chromium chromium-driver                       # a browser what it serves
)
# Packages whose daemons the tests start on their own hosts: for metrics, and for placing instances
# on several hosts.
readonly TEST_DAEMONS=(prometheus slurmctld slurmd slurm-client munge jq)
# Not in every release: Ubuntu 24.04 has no Packer, and Chromium as a snap only.
readonly NOT_EVERYWHERE=(packer chromium chromium-driver)

refresh_trouble= # what went wrong when the lists of packages were refreshed

install_packages() {
    local wanted=("${RUN_PACKAGES[@]}" "${BUILD_PACKAGES[@]}") missing absent
    mapfile -t -O "${#wanted[@]}" wanted < <(cluster_packages)
    command -v apt-get >/dev/null ||
        die 'cannot install packages: there is no apt-get' 'cyyber is made for Debian and Ubuntu hosts'
    [[ $with_tests = no ]] || wanted+=("${TEST_PACKAGES[@]}")
    mapfile -t missing < <(missing_packages "${wanted[@]}")
    mapfile -t absent < <(absent_packages "${missing[@]}")
    # Do not ask apt on every run for packages that no archive has.
    if ((${#missing[@]} > ${#absent[@]})); then
        change "install packages: ${missing[*]} (log: $LOG)" || {
            packages_to_come=yes
            return 0
        }
        refresh_lists
        mapfile -t absent < <(absent_packages "${missing[@]}")
        # First, before anything that takes long: without Packer, the rest may be useless.
        do_without "${absent[@]}"
        mapfile -t missing < <(printf '%s\n' "${missing[@]}" | grep -vxFf <(printf '%s\n' "${absent[@]}") || true)
        apt_install "${missing[@]}"
    else
        do_without "${absent[@]}"
    fi
    [[ $with_tests = no ]] || install_test_daemons
}

# Installs packages whose daemons must not run now or after a reboot, except those that were
# installed before and are in use.
install_test_daemons() {
    local missing policy=/usr/sbin/policy-rc.d ours=no
    mapfile -t missing < <(missing_packages "${TEST_DAEMONS[@]}")
    ((${#missing[@]})) || return 0
    change "install packages, whose daemons stay off: ${missing[*]} (log: $LOG)" || return 0
    # Debian's packages run this before they start a daemon. In a container it often exists already.
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        ours=yes
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    apt_install "${missing[@]}"
    if [[ $ours = yes ]]; then
        rm -f "$policy"
        trap - EXIT
    fi
    [[ ! -d /run/systemd/system ]] || systemctl --quiet disable "${missing[@]}" 2>>"$LOG" || true
}

# A packer that was installed by hand is as good as the package.
missing_packages() {
    local package installed
    # dpkg-query fails if it does not know one of them, but still reports the others.
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
    for package in "$@"; do
        grep -qx "installed $package" <<<"$installed" && continue
        [[ $package = packer ]] && command -v packer >/dev/null && continue
        printf '%s\n' "$package"
    done
}

# Prints "NAME VERSION" of the packages that an archive offers.
candidates() {
    apt-cache policy "$@" 2>/dev/null |
        awk '/^[^ ]/ { name = substr($1, 1, length($1) - 1) }
             $1 == "Candidate:" && $2 != "(none)" { print name, $2 }'
}

has_candidate() {
    [[ -n $(candidates "$1") ]]
}

# Prints the packages that no archive has.
absent_packages() {
    local package
    have_lists || return 0
    for package in "${NOT_EVERYWHERE[@]}"; do
        [[ " $* " != *" $package "* ]] || has_candidate "$package" || printf '%s\n' "$package"
    done
}

do_without() {
    [[ " $* " != *' packer '* ]] || provide_packer
    [[ " $* " != *' chromium'* ]] ||
        printf 'no archive of this host has Chromium: the test in a browser will be skipped\n'
}

have_lists() {
    has_candidate libvirt-daemon-system
}

codename() {
    # shellcheck source=/dev/null
    (. /etc/os-release && printf '%s\n' "${VERSION_CODENAME-}")
}

# A fresh machine is often refreshing its lists by itself: wait for that. Ignore any other failure:
# the installation may still work; if it does not, that is the reason to show.
refresh_lists() {
    local tries=30
    until apt_get update || [[ $(last_call) != *'Could not get lock'* ]] || ((--tries == 0)); do
        sleep 4
    done
    # Unreachable archives do not make apt-get fail.
    refresh_trouble=$(last_call | grep -E '^(E|W|Err)' | tail -n 4) || true
}

# Never remove packages: apt would rather remove a package that we need in a backported version than
# report a conflict.
apt_install() {
    local options=(--no-install-recommends --no-remove) extra=()
    ((${#@})) || return 0
    if ! apt_get --simulate install "${options[@]}" "$@"; then
        mapfile -t extra < <(downgrades "$@")
        ((${#extra[@]})) || install_failed
        printf 'go back to the versions of this release: %s\n' "${extra[*]}"
        options+=(--allow-downgrades)
    fi
    apt_get install "${options[@]}" "$@" "${extra[@]}" || install_failed
}

# One package from a backport blocks the rest of its family. If our packages, or those of QEMU and
# libvirt, are newer than in this release, request the newest version in the release.
downgrades() {
    local release package version newest
    release=$(codename)
    while read -r package version; do
        newest=$(apt-cache madison "$package" |
            awk -F ' *[|] *' -v suite=" $release(-updates|-security)?/" '$3 ~ suite && !n++ { print $2 }')
        if [[ -n $newest ]] && dpkg --compare-versions "$version" gt "$newest"; then
            printf '%s=%s\n' "$package" "$newest"
        fi
    done < <({ dpkg-query -W -f '${Package} ${Version} ${db:Status-Status}\n' 'qemu-*' 'libvirt*' "$@" || true; } \
        2>/dev/null | awk '$3 == "installed" { print $1, $2 }' | sort -u)
}

apt_get() {
    printf '\n== %s: apt-get %s\n' "$(date '+%F %T')" "$*" >>"$LOG"
    DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l \
        apt-get -qy -o DPkg::Lock::Timeout=300 "$@" >>"$LOG" 2>&1 </dev/null
}

# Prints the output of the last call of apt-get.
last_call() {
    sed -n '/^== /h; /^== /!H; ${ x; p }' "$LOG"
}

install_failed() {
    printf '%s\n' "$refresh_trouble" "$(last_call | tail -n 8)" | sed '/^$/d' >&2
    die 'cannot install packages: apt-get failed, its last lines are above' \
        "the whole log is in $LOG; fix that, then run this again"
}
