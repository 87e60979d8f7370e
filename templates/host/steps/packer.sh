# shellcheck shell=bash disable=SC2034,SC2154 # shares variables with setup.sh
# Step of setup.sh: Packer from HashiCorp, if no archive of this host has it, and its plugin for
# QEMU. Its licence (BUSL) is not free, so the user is asked first.

readonly PACKER_ARCHIVE=https://apt.releases.hashicorp.com
# The key that signs HashiCorp's archive; https://www.hashicorp.com/trust/security names it.
readonly PACKER_KEY=798AEC654E5C15428C8E42EEAA16FCBCA621E701
readonly PACKER_KEYRING=/usr/share/keyrings/hashicorp-archive-keyring.gpg
readonly PACKER_SOURCES=/etc/apt/sources.list.d/hashicorp.list
# Releases that the archive certainly has, for a host with an unknown one.
readonly PACKER_RELEASES=(trixie bookworm noble jammy)

# Installs Packer from there with the user's consent, or says how to do so.
provide_packer() {
    local release
    if ! packer_accepted; then
        leave_packer_to_person
        return
    fi
    change "install Packer from $PACKER_ARCHIVE" || return 0
    apt_install gpg ca-certificates
    fetch_packer_key
    release=$(packer_release) ||
        die "cannot install Packer: $PACKER_ARCHIVE does not answer" "$(packer_by_hand)"
    printf 'deb [signed-by=%s] %s %s main\n' "$PACKER_KEYRING" "$PACKER_ARCHIVE" "$release" >"$PACKER_SOURCES"
    refresh_lists
    has_candidate packer || {
        printf '%s\n' "$refresh_trouble" >&2
        rm -f -- "$PACKER_SOURCES" "$PACKER_KEYRING"
        die "cannot install Packer: $PACKER_ARCHIVE offers none for $release" "$(packer_by_hand)"
    }
    apt_install packer
}

# Consent by option, by the environment, or at the terminal.
packer_accepted() {
    local answer=
    [[ $accept_packer = no ]] || return 0
    [[ $check_only = no && -t 0 && -t 2 ]] || return 1
    printf 'No archive of this host has Packer, which builds the images. HashiCorp has one,\n%s, under a licence that is not free (BUSL).\nAdd it and install Packer from there? [y/N] ' \
        "$PACKER_ARCHIVE" >&2
    read -r answer || true
    [[ ${answer,,} = y || ${answer,,} = yes ]]
}

# apt's own download program: it uses apt's proxies, and needs neither wget nor curl.
fetch() {
    printf '\n== %s: fetch %s\n' "$(date '+%F %T')" "$1" >>"$LOG"
    /usr/lib/apt/apt-helper download-file "$1" "$2" >>"$LOG" 2>&1 </dev/null
}

fetch_packer_key() {
    local key found
    key=$(mktemp -d)
    fetch "$PACKER_ARCHIVE/gpg" "$key/ascii" || {
        rm -rf -- "$key"
        die "cannot install Packer: failed to fetch the key $PACKER_ARCHIVE/gpg, see $LOG" "$(packer_by_hand)"
    }
    found=$(gpg --homedir "$key" --batch --with-colons --show-keys "$key/ascii" 2>>"$LOG" |
        awk -F: '$1 == "pub" { keys++ } $1 == "fpr" && !n++ { print $10 } END { exit keys != 1 }') || found=none
    if [[ $found != "$PACKER_KEY" ]]; then
        rm -rf -- "$key"
        die "cannot install Packer: $PACKER_ARCHIVE/gpg is not the key $PACKER_KEY, but $found" \
            'the connection is intercepted, or HashiCorp changed the key: ask HashiCorp'
    fi
    gpg --homedir "$key" --batch --dearmor <"$key/ascii" >"$key/keyring" 2>>"$LOG"
    install -m 644 "$key/keyring" "$PACKER_KEYRING"
    rm -rf -- "$key"
}

# The first release that the archive has: this host's own, else a similar one.
packer_release() {
    local release to
    to=$(mktemp -d)
    # apt downloads as a separate user.
    chmod 755 "$to"
    for release in "$(codename)" "${PACKER_RELEASES[@]}"; do
        if [[ -n $release ]] && fetch "$PACKER_ARCHIVE/dists/$release/InRelease" "$to/$release"; then
            rm -rf -- "$to"
            printf '%s\n' "$release"
            return
        fi
    done
    rm -rf -- "$to"
    return 1
}

packer_by_hand() {
    printf '%s' "install packer on PATH yourself: https://developer.hashicorp.com/packer/install"
}

# Fail early if Packer is required but cannot be installed.
leave_packer_to_person() {
    local how
    how="run this again with --yes (make demo PACKER_REPO=yes; CYYBER_ACCEPT_PACKER_LICENSE=1) to install it from
    $PACKER_ARCHIVE, whose licence (BUSL) is not free; or $(packer_by_hand)"
    [[ $need_packer = no || $check_only = yes ]] ||
        die 'no archive of this host has Packer, which builds the images' "$how"
    leave_to_person "install Packer, which 'cyyber build' needs and no archive of this host has:
    $how"
}

# Since Packer 1.7, the builder for QEMU is a separate plugin, installed per user. Root builds in
# the demo, the person later.
provide_plugin() {
    local file=$HERE/../packer/plugins.pkr.hcl user person users=(root)
    command -v packer >/dev/null && [[ -e $file ]] && wants_plugin || return 0
    ! person=$(sudo_caller) || users+=("$person")
    for user in "${users[@]}"; do
        ! as_user "$user" packer plugins installed 2>>"$LOG" | grep packer-plugin-qemu >/dev/null || continue
        change "fetch Packer's plugin for QEMU, for $user" || continue
        as_user "$user" packer init "$file" >>"$LOG" 2>&1 </dev/null || {
            leave_to_person "fetch Packer's plugin for QEMU (from github.com, see $LOG): packer init $(realpath -- "$file")
    or take its file elsewhere and: packer plugins install --path FILE github.com/hashicorp/qemu"
            return 0
        }
    done
}

wants_plugin() {
    local version
    version=$(CHECKPOINT_DISABLE=1 packer version 2>>"$LOG" | sed -n '1s/^Packer v//p')
    [[ -n $version ]] && printf '1.7\n%s\n' "$version" | sort -VC
}

as_user() {
    local user=$1
    shift
    runuser -u "$user" -- env "HOME=$(getent passwd "$user" | cut -d: -f6)" CHECKPOINT_DISABLE=1 "$@"
}
