//! The Debian package: made of the program under test, installed, used, upgraded and purged by the
//! real dpkg. All that happens in a mount namespace on an overlay over this host's root, which ends
//! with the test: the host itself is not touched.

use crate::common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Run, tool};

/// Runs the script on its standard input in a root of its own, `$root`, with the package in it as
/// `/cyyber.deb`.
const OVERLAY: &str = r#"
set -eu
package=$1
scratch=$2
mount -t tmpfs tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" "$scratch/root"
mount -t proc proc "$scratch/root/proc"
mount --bind /dev "$scratch/root/dev"
mount -t tmpfs tmpfs "$scratch/root/run"
mount -t tmpfs tmpfs "$scratch/root/tmp"
cp "$package" "$scratch/root/cyyber.deb"
# What `make setup` and an earlier `make install` put on this host is not the package's. Base images
# cannot be removed, not even up here.
mount -t tmpfs -o mode=711 tmpfs "$scratch/root/var/lib/libvirt/images"
rm -rf "$scratch"/root/var/lib/cyyber "$scratch"/root/var/cache/cyyber "$scratch"/root/etc/cyyber \
    "$scratch"/root/etc/cron.d/cyyber "$scratch"/root/etc/logrotate.d/cyyber
# An index of all manual pages would be made after each step.
rm -f "$scratch/root/var/lib/man-db/auto-update"
exec chroot "$scratch/root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
    DEBIAN_FRONTEND=noninteractive sh -eu
"#;

/// What is done there. Each `is` is an assertion.
const LIFE: &str = r#"
is() { "$@" || { echo "not so: $*" >&2; exit 1; }; }
isnt() { ! "$@" || { echo "so, but should not be: $*" >&2; exit 1; }; }
storage=/var/lib/libvirt/images/cyyber-labs

echo '## install'
dpkg --install /cyyber.deb
is [ "$(dpkg-query -W -f '${db:Status-Status}' cyyber)" = installed ]
is [ "$(dpkg --verify cyyber)" = '' ]
is [ "$(stat -c '%a %U %G' /var/lib/cyyber)" = '2770 root libvirt' ]
is [ "$(stat -c '%a %U %G' $storage/user-instances)" = '2771 root libvirt' ]

echo '## use'
cd /
is [ "$(command -v cyyber)" = /usr/bin/cyyber ]
cyyber --version
is [ "$(cyyber -c test:///default instance list)" = 'no instances' ]
cyyber -o json build --dry-run lab01 >/dev/null
for page in cyyber.1 cyyber-instance-start.1 labs-config.json.5; do
    is [ -n "$(zcat "/usr/share/man/man${page##*.}/$page.gz" | grep '^.SH SYNOPSIS\|^.SH DESCRIPTION')" ]
done
! command -v man >/dev/null || ! man -w ls >/dev/null 2>&1 || is man -w cyyber-instance-start
is bash -c '. /usr/share/bash-completion/completions/cyyber && complete -p cyyber'
if command -v zsh >/dev/null; then
    is zsh -f -c 'autoload -U compinit; compinit -u -D; [[ $_comps[cyyber] = _cyyber ]]'
fi
if command -v fish >/dev/null; then
    is fish -c 'complete -C "cyyber instance sta" | string match -q "start*"'
fi
is bash -n /usr/share/cyyber/host/setup.sh
is [ -x /usr/share/cyyber/labs/from-docker.sh ]
is [ -s /usr/share/doc/cyyber/backend.md ]
is [ -s /usr/share/cyyber/monitoring/cyyber.rules.yml ]
# Where there is no systemd, cron makes the passes.
pass=$(sed -n 's/^\* \* \* \* \* root //p' /etc/cron.d/cyyber)
sh -c "$pass -c test:///default"

echo '## upgrade'
echo '{"labs": [{"lab_id": "mine", "lab_name": "Mine", "packages": [], "motd": ""}]}' >/etc/cyyber/labs-config.json
chmod 2700 /var/lib/cyyber/activity
dpkg --install /cyyber.deb
is grep -q mine /etc/cyyber/labs-config.json
is [ "$(stat -c %a /var/lib/cyyber/activity)" = 2700 ]

echo '## remove'
echo homework >$storage/user-instances/mine_user_7.qcow2
echo golden >$storage/base-images/mine-base.qcow2
touch /var/lib/cyyber/activity/mine_user_7
dpkg --remove cyyber
isnt [ -e /usr/bin/cyyber ]
is grep -q mine /etc/cyyber/labs-config.json
is [ -e /var/lib/cyyber/activity/mine_user_7 ]
# What cron finds in the meantime is no command that fails.
sh -c "$pass"

echo '## purge'
dpkg --purge cyyber
is [ "$(cat $storage/user-instances/mine_user_7.qcow2)" = homework ]
is [ "$(cat $storage/base-images/mine-base.qcow2)" = golden ]
isnt [ -e /var/lib/cyyber ]
isnt [ -e /etc/cyyber ]
isnt [ -e /etc/cron.d/cyyber ]
isnt [ -e /etc/logrotate.d/cyyber ]
is [ -z "$(find /usr -name '*cyyber*' -newer /cyyber.deb -not -path '*/local/*')" ]

echo '## purge without instances'
dpkg --install /cyyber.deb
rm $storage/*/*
dpkg --purge cyyber
isnt [ -e $storage ]
isnt dpkg-query -W cyyber
echo '## done'
"#;

fn make(directory: &Path) -> PathBuf {
    let made = common::run(
        tool("templates/package/make-deb.sh")
            .arg(env!("CARGO_BIN_EXE_cyyber"))
            .arg(directory)
            .env("CYYBER_DEB_COMPRESSION", "gzip")
            .current_dir(env!("CARGO_MANIFEST_DIR")),
    );
    PathBuf::from(made.trim())
}

#[test]
#[ignore = "needs root and dpkg: run by `make test`"]
fn the_package_is_installed_used_upgraded_and_purged() {
    let directory = tempfile::tempdir().unwrap();
    let package = make(directory.path());
    let scratch = directory.path().join("scratch");
    let script = directory.path().join("life.sh");
    std::fs::create_dir(&scratch).unwrap();
    std::fs::write(&script, LIFE).unwrap();
    let run = Run::of(
        Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--propagation", "private"])
            .args(["sh", "-c", OVERLAY, "sh"])
            .args([&package, &scratch])
            .stdin(std::fs::File::open(script).unwrap()),
    );
    let run = run.ok();
    assert!(run.stdout.ends_with("## done\n"), "{run:#?}");
    let purge = run.stdout.split("## purge\n").nth(1).unwrap();
    let purge = purge.split("##").next().unwrap();
    assert!(
        purge.contains("the disks in /var/lib/libvirt/images/cyyber-labs are kept"),
        "{run:#?}"
    );
    assert_eq!(run.stdout.matches("are kept").count(), 1, "{run:#?}");
}

#[test]
#[ignore = "needs dpkg: run by `make test`"]
fn the_package_says_what_it_is_and_needs() {
    let directory = tempfile::tempdir().unwrap();
    let package = make(directory.path());
    let field = |name: &str| {
        let field = common::run(tool("dpkg-deb").arg("--field").arg(&package).arg(name));
        field.trim().to_owned()
    };
    assert_eq!(field("Package"), "cyyber");
    assert_eq!(field("Version"), env!("CARGO_PKG_VERSION"));
    let needs = field("Depends");
    // What the linker wants has a package that is named.
    let linked = common::run(tool("ldd").arg(env!("CARGO_BIN_EXE_cyyber")));
    for (library, package) in [
        ("libvirt.so.0", "libvirt0 (>= "),
        ("libc.so.6", "libc6 (>= "),
        ("libgcc_s.so.1", "libgcc-s1"),
    ] {
        assert!(
            linked.contains(library) && needs.contains(package),
            "{needs}"
        );
    }
    for program in [
        "libvirt-daemon-system",
        "qemu-system-x86",
        "qemu-utils",
        "iproute2",
    ] {
        assert!(needs.contains(program), "{needs}");
    }
    let list = common::run(tool("dpkg-deb").arg("--contents").arg(&package));
    let foreign = list.lines().find(|line| !line.contains(" root/root "));
    assert_eq!(foreign, None);
    let conffiles = common::run(
        tool("dpkg-deb")
            .arg("--info")
            .arg(&package)
            .arg("conffiles"),
    );
    let conffiles: BTreeSet<_> = conffiles.lines().collect();
    for file in [
        "/etc/cron.d/cyyber",
        "/etc/cyyber/labs-config.json",
        "/etc/logrotate.d/cyyber",
    ] {
        assert!(conffiles.contains(file), "{conffiles:?}");
    }
    // Whatever else an administrator may change there, such as what labs are made of.
    let in_etc: BTreeSet<_> = list
        .lines()
        .filter(|line| line.starts_with('-'))
        .filter_map(|line| line.split_whitespace().last()?.strip_prefix('.'))
        .filter(|file| file.starts_with("/etc/"))
        .collect();
    assert_eq!(conffiles, in_etc);
}
