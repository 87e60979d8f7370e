#!/usr/bin/env bash
# Makes a Debian package of a compiled program: make-deb.sh BINARY DIRECTORY
#
# It contains what `make install` installs. Compression can be set with CYYBER_DEB_COMPRESSION
# (default: xz). Prints the package's name.
set -Eeuo pipefail
umask 022
export LC_ALL=C

ROOT=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
readonly ROOT PARTS=$ROOT/templates/package/debian

main() {
    (($# == 2)) || die 'usage: make-deb.sh BINARY DIRECTORY'
    local binary=$1 directory=$2 version package
    [[ -x $binary ]] || die "there is no program $binary" 'compile it: make build'
    version=$(version_of "$ROOT/Cargo.toml")
    [[ $("$binary" --version) = "cyyber $version" ]] ||
        die "$binary is not version $version" 'compile it: make build'
    [[ $(changelog_version) = "$version" ]] ||
        die "templates/package/debian/changelog does not begin with version $version" 'add an entry for it'

    stage=$(mktemp -d)
    trap 'rm -rf -- "$stage"' EXIT
    chmod 755 "$stage"
    put_files "$binary"
    put_documents
    put_control "$version"
    mkdir -p -- "$directory"
    package=$directory/cyyber_${version}_$(dpkg --print-architecture).deb
    dpkg-deb --root-owner-group "-Z${CYYBER_DEB_COMPRESSION:-xz}" --build "$stage" "$package" >/dev/null
    printf '%s\n' "$package"
}

die() {
    printf 'error: %s\n' "$1" >&2
    [[ -z ${2-} ]] || printf 'hint: %s\n' "$2" >&2
    exit 1
}

version_of() {
    sed -n '/^\[package\]/,/^\[dependencies\]/s/^version = "\(.*\)"$/\1/p' "$1"
}

changelog_version() {
    sed -n '1s/^cyyber (\(.*\)) .*/\1/p' "$PARTS/changelog"
}

# The files of `make install`, at Debian's paths.
put_files() {
    make -s -C "$ROOT" -o build install DESTDIR="$stage" PREFIX=/usr SYSCONFDIR=/etc SUDO= \
        BINARY="$(realpath -- "$1")" ZSHDIR="$stage/usr/share/zsh/vendor-completions" >/dev/null
    strip --strip-unneeded --remove-section=.comment --remove-section=.note "$stage/usr/bin/cyyber"
    install -D -m 644 "$PARTS/cyyber.tmpfiles" "$stage/usr/lib/tmpfiles.d/cyyber.conf"
    # The same scripts prepare the host as with `make setup`, except those that compile.
    mkdir -p "$stage/usr/share/cyyber"
    cp -R --no-preserve=mode,ownership "$ROOT/templates/host" "$ROOT/templates/cloud-image" \
        "$ROOT/branding" "$stage/usr/share/cyyber/"
    rm "$stage"/usr/share/cyyber/host/cyyber{.cron,.logrotate,-reap.service,-reap.timer,-gateway.service}
    rm "$stage"/usr/share/cyyber/host/.shellcheckrc "$stage"/usr/share/cyyber/branding/{SHA256SUMS,render.sh}
    # All but those that others read in.
    find "$stage/etc/cyyber" "$stage/usr/share/cyyber" -name '*.sh' ! -path '*/steps/*' -exec chmod 755 {} +
    find "$stage/usr/share/man" -type f -exec gzip -9n {} +
}

put_documents() {
    local documents=$stage/usr/share/doc/cyyber
    install -D -m 644 "$PARTS/copyright" "$documents/copyright"
    install -m 644 "$PARTS/README.Debian" "$ROOT/README.md" "$ROOT/CHANGELOG.md" "$ROOT"/man/*.md "$documents/"
    gzip -9n <"$PARTS/changelog" >"$documents/changelog.gz"
    ln -s ../../cyyber/labs "$documents/examples"
}

put_control() {
    local control=$stage/DEBIAN
    mkdir "$control"
    sed -e "s/@VERSION@/$1/" \
        -e "s/@ARCHITECTURE@/$(dpkg --print-architecture)/" \
        -e "s/@INSTALLED_SIZE@/$(du -ks --exclude=DEBIAN "$stage" | cut -f1)/" \
        -e "s/@LIBRARIES@/$(libraries)/" \
        "$PARTS/control" >"$control/control"
    install -m 755 "$PARTS/postinst" "$PARTS/prerm" "$PARTS/postrm" "$control/"
    (cd "$stage" && find etc -type f -printf '/%p\n' | sort) >"$control/conffiles"
    (cd "$stage" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$control/md5sums"
}

# The libraries that the program is linked with, in the versions whose symbols it uses.
libraries() {
    local libc libvirt
    libc=$(newest_symbols GLIBC)
    libvirt=$(newest_symbols LIBVIRT)
    [[ -n $libc && -n $libvirt ]] || die 'cannot determine which libraries the program needs'
    printf 'libc6 (>= %s), libgcc-s1, libvirt0 (>= %s)' "$libc" "$libvirt"
}

newest_symbols() {
    objdump -T "$stage/usr/bin/cyyber" | grep -o "\<$1_[0-9.]*" | cut -d_ -f2 | sort -Vu | tail -n 1
}

main "$@"
