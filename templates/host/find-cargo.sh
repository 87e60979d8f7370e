#!/usr/bin/env bash
# Prints the path of a cargo that can build this repository, and nothing else.
#
# cargo takes the first rustc on PATH, so callers put cargo's folder in front:
#
#     cargo=$(templates/host/find-cargo.sh) && PATH="${cargo%/*}:$PATH" "$cargo" build
#
# Run through sudo, it also finds what the person who called sudo has.
set -euo pipefail

ROOT=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
readonly ROOT

# rustup must answer from what is installed, never by downloading a toolchain.
export RUSTUP_AUTO_INSTALL=0

rejected=() # what was found and why it will not do, for the error

main() {
    case ${1-} in
        '') find_cargo ;;
        --minimum) minimum_rust ;;
        -h | --help) usage ;;
        *)
            printf "error: bad arguments: unknown argument '%s'\nhint: see --help\n" "$1" >&2
            exit 2
            ;;
    esac
}

usage() {
    cat <<'EOF'
Usage: find-cargo.sh [--minimum]

Prints the path of a cargo that is new enough for this repository and has a
rustc of the same version. Put its folder first on PATH when you run it.

  --minimum  print the oldest Rust that will do instead (from Cargo.toml;
             nothing when it does not say)
EOF
}

minimum_rust() {
    [[ ! -r $ROOT/Cargo.toml ]] ||
        sed -n '/^rust-version *= *"/ { s/^[^"]*"\([0-9.]*\).*/\1/p; q }' "$ROOT/Cargo.toml"
}

find_cargo() {
    local minimum folder cargo
    minimum=$(minimum_rust)
    while read -r folder; do
        [[ -x $folder/cargo ]] || continue
        cargo=$(real_cargo "$folder") || {
            rejected+=("$folder/rustup without a toolchain")
            continue
        }
        if usable "$cargo" "$minimum"; then
            printf '%s\n' "$cargo"
            return
        fi
    done < <(candidate_folders | xargs -r -d '\n' realpath -qe -- | awk '!seen[$0]++')
    fail "$minimum"
}

# Best first: what the person chose by PATH, rustup's own place, then the
# folders where Debian and Ubuntu put toolchains, newest first.
candidate_folders() {
    local home
    printf '%s\n' "${PATH//:/$'\n'}"
    printf '%s\n' "${CARGO_HOME:-${HOME-}/.cargo}/bin"
    home=$(caller_home) && printf '%s\n' "$home/.cargo/bin"
    printf '%s\n' /usr/local/bin /usr/bin
    printf '%s\n' /usr/lib/rust-*/bin | sort -rV
}

# Home of the person who called sudo; fails when there is no such person.
caller_home() {
    ((EUID == 0)) && [[ ${SUDO_USER:-root} != root ]] || return 1
    getent passwd "$SUDO_USER" | cut -d: -f6
}

# rustup's cargo is a proxy that looks for its toolchains in the caller's home:
# the cargo behind it works for root too, and has its rustc beside it.
real_cargo() {
    local folder=$1 home
    if [[ ! -x $folder/rustup ]]; then
        printf '%s\n' "$folder/cargo"
    elif home=$(caller_home) && [[ $folder == "$home/"* ]]; then
        cd "$ROOT" && runuser -u "$SUDO_USER" -- env "HOME=$home" "$folder/rustup" which cargo 2>/dev/null
    else
        cd "$ROOT" && "$folder/rustup" which cargo 2>/dev/null
    fi
}

# Both must be new enough, and of one version: a mixed pair builds until it
# meets a flag that only one of the two knows.
usable() {
    local cargo=$1 minimum=$2 cargo_version rustc_version
    cargo_version=$(version_of "$cargo") || return 1
    rustc_version=$(PATH="${cargo%/*}:$PATH" version_of rustc) || {
        rejected+=("$cargo $cargo_version without a rustc")
        return 1
    }
    if [[ ${cargo_version%.*} != "${rustc_version%.*}" ]]; then
        rejected+=("$cargo $cargo_version with a rustc $rustc_version")
        return 1
    fi
    if ! at_least "$rustc_version" "$minimum"; then
        rejected+=("$cargo $cargo_version")
        return 1
    fi
}

# "cargo 1.89.0 (c24e10642 2025-06-23)" becomes 1.89.0.
version_of() {
    local text
    text=$("$1" --version 2>/dev/null) || return 1
    text=${text#* }
    printf '%s\n' "${text%%[^0-9.]*}"
}

at_least() {
    printf '%s\n' "$2" "$1" | sort -VC
}

fail() {
    local wanted="cargo and rustc${1:+ $1 or newer}" found='nothing'
    ((${#rejected[@]} == 0)) || found=$(printf '%s, ' "${rejected[@]}")
    printf 'error: no usable Rust toolchain: %s needed, found %s\n' "$wanted" "${found%, }" >&2
    printf "hint: run 'make setup', or install rustup (https://rustup.rs) and run 'rustup default stable'\n" >&2
    exit 1
}

main "$@"
