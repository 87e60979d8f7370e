//! A host that is upgraded to the next Debian release: instances, bases and saved memory of this
//! one's libvirt and QEMU are used by those of Debian 13, which run in a root of their own.

use crate::common;

use std::path::Path;
use std::process::Stdio;

use common::world::own_world;
use common::{Run, Sandbox, run, text, tool, virsh, wait_until};

/// The next release, and what it needs for libvirt to run our instances.
const RELEASE: &str = "trixie";
const PACKAGES: &str = "--include=libvirt-daemon-system,libvirt-clients,qemu-system-x86,qemu-utils,\
                        dnsmasq-base,iptables,iproute2";

/// What the daemon of the other root shares with this one: devices, sockets, our files.
const SHARED: [&str; 9] = [
    "/dev",
    "/sys",
    "/run",
    "/tmp",
    "/etc/libvirt/qemu",
    "/etc/libvirt/nwfilter",
    "/var/lib/libvirt",
    "/var/lib/cyyber",
    "/var/log/libvirt",
];

/// Makes the root `$1` from `$2` with `$3` and lets it have `$4…`; the mirrors are reached by the
/// network of the host.
const MAKE: &str = r#"
set -eu
root=$1 release=$2 packages=$3
shift 3
nsenter --net=/run/outside mmdebstrap --quiet --variant=apt --mode=root "$packages" "$release" "$root"
# Mounts of its own for each guest would take more of a host than this is.
echo 'namespaces = []' >>"$root/etc/libvirt/qemu.conf"
mount -t proc proc "$root/proc"
for shared; do
    mkdir -p "$root$shared"
    mount --rbind "$shared" "$root$shared"
done
"#;

fn stop_daemons() {
    for daemon in ["libvirtd", "virtlogd"] {
        drop(Run::of(tool("pkill").args(["-x", daemon])));
        wait_until("it has ended", || {
            !tool("pgrep")
                .args(["-x", daemon])
                .stdout(Stdio::null())
                .status()
                .unwrap()
                .success()
        });
    }
}

fn start_daemons(root: &Path) {
    for daemon in ["virtlogd", "libvirtd"] {
        let started = tool("chroot")
            .arg(root)
            .args([daemon, "-d"])
            // Its children would hold our pipes open.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(started.unwrap().success(), "{daemon}");
    }
    wait_until("libvirtd answers", || !virsh(["uri"]).is_empty());
}

#[test]
#[ignore = "makes a root of the next Debian release: run by `make test-all`"]
fn a_host_is_upgraded_to_the_next_release() {
    own_world!();
    let sandbox = Sandbox::with_guests(2);
    let base = sandbox.base(&sandbox.lab);
    for user in ["saved", "stopped"] {
        sandbox.instance("start", user, &[]).ok();
    }
    sandbox.instance("pause", "saved", &[]).ok();
    sandbox.instance("stop", "stopped", &["--force"]).ok();
    let before = virsh(["version"]);
    let content = std::fs::read(&base).unwrap();

    let root = sandbox.path("root");
    run(tool("sh")
        .args(["-c", MAKE, "sh"])
        .arg(&root)
        .args([RELEASE, PACKAGES])
        .args(SHARED));
    stop_daemons();
    start_daemons(&root);
    let after = virsh(["version"]);
    println!("{before}\n{after}");
    assert_ne!(before, after);

    for (user, state) in [("saved", "paused"), ("stopped", "stopped")] {
        assert_eq!(sandbox.state(user), state, "{user}");
    }
    sandbox.cyyber(["reap", "--dry-run"]).ok();
    // Memory of another QEMU comes back, or is kept and named.
    let woken = sandbox.instance("start", "saved", &[]).ok();
    println!("{}", woken.stderr);
    let name = sandbox.instance_name("saved");
    let reason = virsh(["domstate", "--reason", "--", &name]);
    let aside = woken.stderr.contains("cannot be restored") && woken.stderr.contains("is kept as");
    assert!(
        reason.trim() == "running (restored)" || aside,
        "{reason}{woken:#?}"
    );
    sandbox.instance("start", "stopped", &[]).ok();
    // And what the new one saves is its own.
    sandbox.instance("pause", "stopped", &[]).ok();
    let resumed = sandbox.instance("resume", "stopped", &[]).json();
    assert_eq!(text(&resumed["state"]), "starting", "{resumed:#}");
    for user in ["saved", "stopped"] {
        sandbox.instance("stop", user, &["--force"]).ok();
    }
    assert_eq!(std::fs::read(&base).unwrap(), content);
    sandbox.instance("cleanup", "stopped", &["--yes"]).ok();
    stop_daemons();
}
