# shellcheck shell=bash disable=SC2034,SC2154 # shares variables with setup.sh
# Step of setup.sh: a Rust toolchain that is new enough: the person's own, or else the
# distribution's newest.

cargo= # the one to build with

provide_rust() {
    local minimum packages
    if cargo=$(find_cargo 2>/dev/null); then
        provide_rust_tools
        return
    fi
    minimum=$(bash "$HERE/find-cargo.sh" --minimum)
    change "install Rust${minimum:+ $minimum or newer}" || return 0
    have_lists || refresh_lists
    packages=$(rust_packages "$minimum") || exit
    # shellcheck disable=SC2086 # two names
    apt_install $packages
    cargo=$(find_cargo) || exit
    provide_rust_tools
}

# Formatter and linter for the tests. The distribution has separate packages of them for each of its
# rustc packages.
provide_rust_tools() {
    local tool owner missing=()
    [[ $with_tests = yes ]] || return 0
    for tool in fmt clippy; do
        PATH="${cargo%/*}:$PATH" "$cargo" "$tool" --version >/dev/null 2>&1 </dev/null || missing+=("$tool")
    done
    ((${#missing[@]})) || return 0
    owner=$(dpkg-query -S "$(realpath -- "${cargo%/*}/rustc")" 2>/dev/null | cut -d: -f1) || true
    case $owner in
        rustc) set -- rustfmt rust-clippy ;;
        rustc-web) set -- rustfmt-web rust-web-clippy ;;
        rustc-*) set -- "rustfmt-${owner#rustc-}" "rust-${owner#rustc-}-clippy" ;;
        *)
            leave_to_person "install 'cargo ${missing[*]}' beside $cargo (rustup component add rustfmt clippy)"
            return
            ;;
    esac
    change "install Rust's tools: $*" || return 0
    apt_install "$@"
}

# Finds the toolchain of the person who builds, not root's.
find_cargo() {
    local as=() person
    if person=$(sudo_caller); then
        as=(runuser -u "$person" -- env "HOME=$(getent passwd "$person" | cut -d: -f6)")
    fi
    "${as[@]}" bash "$HERE/find-cargo.sh"
}

# Names of the distribution's newest rustc and of its cargo. Debian 12 has a
# current one beside its old one, kept for browsers (rustc-web); Ubuntu has
# versioned ones (rustc-1.91).
rust_packages() {
    local minimum=$1 wanted names name='' version=''
    wanted="Rust${minimum:+ $minimum or newer}"
    # These packages conflict with a packaged rustup: leave that choice to the person.
    if [[ -z $(missing_packages rustup) ]]; then
        die "$wanted is missing: rustup is installed, but has no such toolchain" \
            "run 'rustup default stable' and 'rustup update', then this again"
    fi
    mapfile -t names < <(apt-cache pkgnames rustc | grep -Ex 'rustc(-web|-1\.[0-9]+)?')
    if ((${#names[@]})); then
        read -r name version < <(candidates "${names[@]}" | sed 's/ [0-9]*:/ /' | sort -Vk2 | tail -n 1) || true
    fi
    version=${version%%[^0-9.]*}
    if [[ -z $name ]] || ! printf '%s\n' "$minimum" "$version" | sort -VC; then
        die "$wanted is missing: the newest that apt has is ${version:-none}" \
            "have apt use the distribution's security archive too, where Debian keeps a newer one; or install rustup (https://rustup.rs), run 'rustup default stable', then this again"
    fi
    printf '%s %s\n' "$name" "${name/rustc/cargo}"
}
