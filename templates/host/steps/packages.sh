# shellcheck shell=bash disable=SC2034,SC2154 # shares variables with setup.sh
# Step of setup.sh: the packages of the distribution, through apt alone.

# Recommended packages are not pulled in (they bring a desktop's worth), so the
# recommended ones that cyyber does need are named here.
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
# Whose daemons tests start by themselves, on hosts of their own: what reads metrics, and what places
# instances on several hosts.
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
    # Asking apt again on every run for what no archive has would help nobody.
    if ((${#missing[@]} > ${#absent[@]})); then
        change "install packages: ${missing[*]} (log: $LOG)" || {
            packages_to_come=yes
            return 0
        }
        refresh_lists
        mapfile -t absent < <(absent_packages "${missing[@]}")
        # Before all that takes long: without it, the rest may be for nothing.
        do_without "${absent[@]}"
        mapfile -t missing < <(printf '%s\n' "${missing[@]}" | grep -vxFf <(printf '%s\n' "${absent[@]}") || true)
        apt_install "${missing[@]}"
    else
        do_without "${absent[@]}"
    fi
    [[ $with_tests = no ]] || install_test_daemons
}

# Such a daemon runs neither now nor after a reboot, unless its package was here before: then it is used.
install_test_daemons() {
    local missing policy=/usr/sbin/policy-rc.d ours=no
    mapfile -t missing < <(missing_packages "${TEST_DAEMONS[@]}")
    ((${#missing[@]})) || return 0
    change "install packages, whose daemons stay off: ${missing[*]} (log: $LOG)" || return 0
    # What Debian's packages ask before they start something. In a container it is often there.
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

# A packer put there by hand is as good as the package.
missing_packages() {
    local package installed
    # dpkg-query fails when it does not know one of them, yet answers for the others.
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
    for package in "$@"; do
        grep -qx "installed $package" <<<"$installed" && continue
        [[ $package = packer ]] && command -v packer >/dev/null && continue
        printf '%s\n' "$package"
    done
}

# "NAME VERSION" of those of the packages that an archive offers.
candidates() {
    apt-cache policy "$@" 2>/dev/null |
        awk '/^[^ ]/ { name = substr($1, 1, length($1) - 1) }
             $1 == "Candidate:" && $2 != "(none)" { print name, $2 }'
}

has_candidate() {
    [[ -n $(candidates "$1") ]]
}

# Those of the packages that are known to be in no archive.
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

# A fresh machine often refreshes its lists by itself just now: wait for that.
# Any other failure is left to the installation, which may still work; if it
# does not, that is the reason to show.
refresh_lists() {
    local tries=30
    until apt_get update || [[ $(last_call) != *'Could not get lock'* ]] || ((--tries == 0)); do
        sleep 4
    done
    # Unreachable archives do not make apt-get fail.
    refresh_trouble=$(last_call | grep -E '^(E|W|Err)' | tail -n 4) || true
}

# Nothing is removed: apt would rather take away a package that we need in a
# backported version than say that it is in the way.
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

# A single package from a backport keeps the rest of its family out. Those of
# ours, or of the families of QEMU and libvirt, that are newer than anything in
# this release are asked for in the newest version that the release has.
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

# What the last call of apt-get said.
last_call() {
    sed -n '/^== /h; /^== /!H; ${ x; p }' "$LOG"
}

install_failed() {
    printf '%s\n' "$refresh_trouble" "$(last_call | tail -n 8)" | sed '/^$/d' >&2
    die 'cannot install packages: apt-get failed, its last lines are above' \
        "the whole log is in $LOG; fix that, then run this again"
}
