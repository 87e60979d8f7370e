//! Packer from its makers' archive, where the distribution has none: setup.sh with a stand-in for that
//! archive on this machine, by the real apt and dpkg. All that happens on an overlay over this
//! host's root, which ends with the test.

use crate::common;

use std::process::Command;

use common::Run;

/// A root of its own without Packer and without archives, in which the rest is done; `$1` is the
/// repository, `$2` an empty directory.
const OVERLAY: &str = r#"
set -eu
repository=$1 scratch=$2
mount -t tmpfs tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" "$scratch/root"
root=$scratch/root
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
rm -rf "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/* "$root"/var/lib/apt/lists/* \
    "$root"/root/.config/packer
mkdir -p "$root/srv/archive" "$root/srv/cyyber"
cp -r "$repository/templates" "$repository/Cargo.toml" "$root/srv/cyyber"
cargo=$("$repository/templates/host/find-cargo.sh")
exec chroot "$root" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    "CARGO=$cargo" HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive bash -eu
"#;

/// What is done there. Each `is` is an assertion.
const TRIAL: &str = r#"
is() { "$@" || { echo "not so: $*" >&2; exit 1; }; }
isnt() { ! "$@" || { echo "so, but should not be: $*" >&2; exit 1; }; }
[ -z "$(dpkg-query -W -f '${db:Status-Status}' packer 2>/dev/null)" ] || dpkg --purge --force-all packer >/dev/null
rm -f $(type -ap packer)
export PATH="$PATH:${CARGO%/*}"

echo '## an archive with a key'
export GNUPGHOME=/srv/gnupg
mkdir -m 700 $GNUPGHOME
for name in makers others; do
    gpg --batch --quiet --passphrase '' --quick-generate-key $name@archive.invalid default default never
done
fingerprint() { gpg --batch --with-colons --list-keys $1@ | awk -F: '$1 == "fpr" { print $10; exit }'; }
cd /srv/archive
mkdir -p package/DEBIAN package/usr/bin pool dists/jammy/main/binary-amd64
printf '%s\n' 'Package: packer' 'Version: 1.11.2' 'Architecture: amd64' 'Maintainer: X <x@archive.invalid>' \
    'Description: stand-in' >package/DEBIAN/control
cat >package/usr/bin/packer <<'P'
#!/bin/sh
case "$1 $2" in
'version ') echo 'Packer v1.11.2' ;;
'plugins installed') cat "$HOME/plugins" 2>/dev/null || true ;;
'init '*) grep -q hashicorp/qemu "$2" && [ -e /srv/internet ] && echo /x/packer-plugin-qemu_v1.1.0 >"$HOME/plugins" ;;
*) exit 1 ;;
esac
P
chmod 755 package/usr/bin/packer
dpkg-deb --build package pool/packer.deb >/dev/null
rm -r package
cat >dists/jammy/main/binary-amd64/Packages <<P
$(dpkg-deb --field pool/packer.deb)
Filename: pool/packer.deb
Size: $(stat -c %s pool/packer.deb)
SHA256: $(sha256sum pool/packer.deb | cut -d' ' -f1)
P
(
    cd dists/jammy
    printf '%s\n' 'Codename: jammy' 'Components: main' 'Architectures: amd64' "Date: $(date -Ru)" SHA256:
    printf ' %s %s main/binary-amd64/Packages\n' "$(sha256sum <main/binary-amd64/Packages | cut -d' ' -f1)" \
        "$(stat -c %s main/binary-amd64/Packages)"
) >Release
sign() { gpg --batch --yes --local-user $1@ --clear-sign --output dists/jammy/InRelease Release; }
gpg --armor --export makers@ >gpg
python3 -u -m http.server --bind 127.0.0.1 0 >/srv/log 2>&1 </dev/null &
trap "kill $!" EXIT
until port=$(sed -n 's/.* port \([0-9]*\).*/\1/p' /srv/log | grep .); do sleep 0.1; done

setup=/srv/cyyber/templates/host/setup.sh
step=/srv/cyyber/templates/host/steps/packer.sh
sed -i "s|^readonly PACKER_ARCHIVE=.*|readonly PACKER_ARCHIVE=http://127.0.0.1:$port|" $step
setup() {
    "$setup" --packages-only "$@" >/srv/said 2>&1 </dev/null && status=0 || status=$?
    cat /srv/said
}
said() { grep -q -- "$1" /srv/said; }

echo '## nobody agreed'
setup
is [ $status = 0 ]
is said 'still to do: install Packer'
is said 'PACKER_REPO=yes'
setup --need-packer
is [ $status = 1 ]
is said 'error: no archive of this host has Packer'
setup --check --yes
is said 'to do: install Packer from http'
isnt [ -e /etc/apt/sources.list.d/hashicorp.list ]

echo '## somebody is asked'
script -qec "$setup --packages-only" /dev/null >/srv/said 2>&1 <<<n
is said 'install Packer from there? \[y/N\]'
is said 'still to do: install Packer'
isnt [ -e /etc/apt/sources.list.d/hashicorp.list ]

echo '## the key is another one'
sign makers
setup --yes
is [ $status = 1 ]
is said 'is not the key 798AEC654E5C15428C8E42EEAA16FCBCA621E701'
isnt [ -e /etc/apt/sources.list.d/hashicorp.list ]
isnt [ -e /usr/share/keyrings/hashicorp-archive-keyring.gpg ]

echo '## the archive is signed by somebody else'
sed -i "s|^readonly PACKER_KEY=.*|readonly PACKER_KEY=$(fingerprint makers)|" $step
sign others
setup --yes
is [ $status = 1 ]
is said 'offers none for jammy'
isnt [ -e /etc/apt/sources.list.d/hashicorp.list ]
isnt command -v packer

echo '## without internet'
sign makers
setup --yes
is [ $status = 0 ]
is [ "$(cat /etc/apt/sources.list.d/hashicorp.list)" = \
    "deb [signed-by=/usr/share/keyrings/hashicorp-archive-keyring.gpg] http://127.0.0.1:$port jammy main" ]
is [ "$(dpkg-query -W -f '${Version}' packer)" = 1.11.2 ]
is said "still to do: fetch Packer's plugin for QEMU"
is said 'packer plugins install --path FILE github.com/hashicorp/qemu'

echo '## with internet'
touch /srv/internet
setup --need-packer
is [ $status = 0 ]
is said "fetch Packer's plugin for QEMU, for root"
is grep -q qemu /root/plugins
setup --check
is [ $status = 0 ]
isnt said acker
echo '## done'
"#;

#[test]
#[ignore = "needs root, dpkg and gpg: run by `make test`"]
fn packer_comes_from_its_makers_with_consent_and_their_key() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("trial.sh");
    std::fs::write(&script, TRIAL).unwrap();
    let scratch = directory.path().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let run = Run::of(
        Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--propagation", "private"])
            .args(["sh", "-c", OVERLAY, "sh"])
            .args([env!("CARGO_MANIFEST_DIR"), scratch.to_str().unwrap()])
            .stdin(std::fs::File::open(script).unwrap()),
    );
    let run = run.ok();
    assert!(run.stdout.ends_with("## done\n"), "{run:#?}");
}
