//! A student who broke out of QEMU: with the user, the groups and the rights of one instance's QEMU
//! no other instance is reached, and nothing is run as another user.

use crate::common;

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use common::world::own_world;
use common::{Sandbox, run, text, tool, virsh};
use rustix::process::Pid;
use serde_json::Value;

const SAVES: &str = "/var/lib/libvirt/qemu/save";
const QEMU_PROGRAM: &str = "/usr/bin/qemu-system-x86_64";

/// The numbers in a line of the kernel's about a process.
fn ids(process: Pid, line: &str) -> Vec<u32> {
    let path = format!("/proc/{}/status", process.as_raw_nonzero());
    let status = fs::read_to_string(path).unwrap();
    let found = status.lines().find_map(|it| it.strip_prefix(line));
    let numbers = found.unwrap().split_whitespace();
    numbers.map(|it| it.parse().unwrap()).collect()
}

fn user_of(process: Pid) -> u32 {
    ids(process, "Uid:")[0]
}

/// A shell that runs `script` as somebody who has taken over the QEMU `process`.
fn broken_out(process: Pid, script: &str) -> Command {
    let groups: Vec<String> = ids(process, "Groups:").iter().map(u32::to_string).collect();
    let mut command = tool("setpriv");
    command
        .arg(format!("--reuid={}", user_of(process)))
        .arg(format!("--regid={}", ids(process, "Gid:")[0]))
        .arg(match groups.is_empty() {
            true => "--clear-groups".to_owned(),
            false => format!("--groups={}", groups.join(",")),
        })
        .args(["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"])
        .args(["sh", "-c", script])
        .stderr(std::process::Stdio::null());
    command
}

fn gets_in(process: Pid, script: &str) -> bool {
    let status = broken_out(process, script).status();
    status.unwrap().success()
}

fn memory_of(sandbox: &Sandbox, user: &str) -> PathBuf {
    Path::new(SAVES).join(format!("{}.save", sandbox.instance_name(user)))
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn one_qemu_reaches_no_other() {
    let sandbox = Sandbox::with_guests(3);
    let base = sandbox.base(&sandbox.lab);
    for user in ["1", "2", "3"] {
        sandbox.instance("start", user, &[]).ok();
    }
    sandbox.instance("pause", "3", &[]).ok();
    let (own, other) = (sandbox.qemu_pid("1"), sandbox.qemu_pid("2"));

    // What is its own it has, so that the rest is not refused for another reason.
    let overlay = |user: &str| sandbox.overlay(user).display().to_string();
    assert!(gets_in(own, &format!("exec 3<>{}", overlay("1"))));
    assert!(gets_in(own, &format!("kill -0 {}", own.as_raw_nonzero())));

    let (pid, disks) = (
        other.as_raw_nonzero(),
        sandbox.path("storage/user-instances"),
    );
    let disks = disks.display();
    let (two, three) = (overlay("2"), overlay("3"));
    let memory = memory_of(&sandbox, "3").display().to_string();
    let own_memory = memory_of(&sandbox, "1").display().to_string();
    let name = sandbox.instance_name("2");
    let id = virsh(["domid", "--", &name]);
    let of_domain = format!("ls -d /var/lib/libvirt/qemu/domain-{}-*", id.trim());
    let domain = run(tool("sh").args(["-c", &of_domain]));
    let domain = domain.trim();
    // Below /var/lib/libvirt or, with a newer libvirt, below /run.
    let xml = virsh(["dumpxml", "--", &name]);
    let mut sockets = xml.split("path='").filter_map(|it| it.split('\'').next());
    let agent = sockets.find_map(|it| it.strip_suffix("/org.qemu.guest_agent.0"));
    let agent = agent.unwrap();
    assert!(Path::new(agent).is_dir(), "{agent}");
    let ways = [
        format!("exec 3<{two}"),
        format!("exec 3>>{two}"),
        format!("exec 3<{three}"),
        format!("exec 3>>{three}"),
        format!("mv {two} {two}.x"),
        format!("rm -f {two}; ! test -e {two}"),
        format!("ls {disks}"),
        format!(": >{disks}/new"),
        format!("exec 3>>{}", base.display()),
        format!("exec 3<{memory}"),
        format!("exec 3>>{memory}"),
        format!("mv {memory} {memory}.x"),
        format!("rm -f {memory}; ! test -e {memory}"),
        format!(": >{own_memory}"),
        format!(": >{SAVES}/new"),
        format!("exec 3</proc/{pid}/mem"),
        format!("exec 3<>/proc/{pid}/mem"),
        format!("head -c1 /proc/{pid}/maps"),
        format!("ls /proc/{pid}/fd"),
        format!("ls /proc/{pid}/root/"),
        format!("kill -0 {pid}"),
        format!("kill -CONT {pid}"),
        format!("ls {domain}"),
        format!("test -w {domain}/monitor.sock"),
        format!("exec 3<{domain}/master-key.aes"),
        format!("ls {agent}"),
        format!("test -w {agent}/org.qemu.guest_agent.0"),
        "virsh -c qemu:///system list".to_owned(),
        "exec 3<>/proc/1/mem".to_owned(),
    ];
    let open: Vec<_> = ways.iter().filter(|way| gets_in(own, way)).collect();
    assert!(open.is_empty(), "{} ways in: {open:#?}", open.len());

    assert!(user_of(own) > 65_535, "{}", user_of(own));
    assert_ne!(user_of(own), user_of(other));

    // What its user has while it runs is given back.
    assert_eq!(sandbox.overlay("1").metadata().unwrap().uid(), user_of(own));
    let mode = sandbox.overlay("1").metadata().unwrap().mode();
    assert_eq!(mode & 0o007, 0, "{mode:o}");
    sandbox.instance("stop", "1", &["--force"]).ok();
    assert_eq!(sandbox.overlay("1").metadata().unwrap().uid(), 0);
    assert_eq!(base.metadata().unwrap().uid(), 0);
}

/// A program that takes QEMU's place and notes who runs it. Its name is as long as QEMU's, so that it
/// fits into saved memory.
struct Evil {
    program: PathBuf,
    notes: PathBuf,
}

impl Evil {
    fn new(sandbox: &Sandbox) -> Evil {
        let length = QEMU_PROGRAM.len() - "/tmp/".len();
        let name = sandbox.lab.trim_end_matches("-lab");
        let program = Path::new("/tmp").join(format!("{name:x<length$}"));
        let notes = sandbox.path("notes");
        fs::write(&notes, "").unwrap();
        fs::set_permissions(&notes, Permissions::from_mode(0o666)).unwrap();
        let script = format!(
            "#!/bin/sh\nid -u >>{}\nexec {QEMU_PROGRAM} \"$@\"\n",
            notes.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        assert_eq!(program.to_str().unwrap().len(), QEMU_PROGRAM.len());
        Evil { program, notes }
    }

    /// Saved memory that names this program, and root to run it, and is as long as it was.
    fn forge(&self, memory: &[u8]) -> Vec<u8> {
        let mut forged = memory.to_vec();
        let program = self.program.to_str().unwrap();
        let label = b"<label>+21";
        let at = |part: &[u8]| memory.windows(part.len()).position(|it| it == part);
        let emulator = at(QEMU_PROGRAM.as_bytes()).unwrap();
        forged[emulator..emulator + program.len()].copy_from_slice(program.as_bytes());
        if let Some(label) = at(label) {
            let root = b"<label>+0000000000:+0000000000</label>";
            forged[label..label + root.len()].copy_from_slice(root);
        }
        forged
    }

    /// By whom it was run, each once.
    fn run_by(&self) -> BTreeSet<String> {
        let who = fs::read_to_string(&self.notes).unwrap();
        who.lines().map(str::to_owned).collect()
    }
}

impl Drop for Evil {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.program);
    }
}

fn set_modified(file: &Path, time: SystemTime) {
    let file = File::options().write(true).open(file).unwrap();
    file.set_modified(time).unwrap();
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn exchanged_memory_is_not_restored_and_its_definition_never_used() {
    let sandbox = Sandbox::with_guests(1);
    sandbox.base(&sandbox.lab);
    let evil = Evil::new(&sandbox);
    let memory = memory_of(&sandbox, "7");
    let qemu: (&str, u32) = ("a user other than root", 64_055);
    for (how, why, owner) in [
        ("in its place", "was changed", 0),
        ("into it", "was changed", 0),
        ("in its place", qemu.0, qemu.1),
    ] {
        sandbox.instance("start", "7", &[]).ok();
        sandbox.instance("pause", "7", &[]).ok();
        let original = fs::read(&memory).unwrap();
        let forged = evil.forge(&original);
        assert!(forged != original && forged.len() == original.len());
        let time = memory.metadata().unwrap().modified().unwrap();
        if how == "into it" {
            fs::write(&memory, &forged).unwrap();
        } else {
            let other = memory.with_extension("other");
            fs::write(&other, &forged).unwrap();
            chown(&other, Some(owner), Some(owner)).unwrap();
            fs::set_permissions(&other, Permissions::from_mode(0o600)).unwrap();
            fs::rename(&other, &memory).unwrap();
        }
        set_modified(&memory, time);
        let error = sandbox.instance("resume", "7", &[]).error_json(5);
        assert!(text(&error["message"]).contains(why), "{how}: {error:#}");
        assert_eq!(sandbox.state("7"), "paused");
        let started = sandbox.instance("start", "7", &[]).ok();
        assert!(started.stderr.contains(why), "{how}: {started:#?}");
        assert_eq!(evil.run_by(), BTreeSet::new(), "{how}");
        sandbox.instance("stop", "7", &["--force"]).ok();
    }

    // Where nothing was noted, as of memory that libvirt's own client saved, nothing tells that it was
    // changed: it wakes up as what libvirt knows of the domain.
    sandbox.instance("start", "7", &[]).ok();
    let user = user_of(sandbox.qemu_pid("7"));
    virsh([
        "managedsave",
        "--running",
        "--",
        &sandbox.instance_name("7"),
    ]);
    fs::write(&memory, evil.forge(&fs::read(&memory).unwrap())).unwrap();
    sandbox.instance("resume", "7", &[]).ok();
    // Reading it, libvirt asks the program there what it can do, as the user that QEMU has by default.
    assert!(
        evil.run_by().iter().all(|who| who == "64055"),
        "{:?}",
        evil.run_by()
    );
    let qemu = sandbox.qemu_pid("7");
    assert_eq!(user_of(qemu), user);
    let reason = virsh(["domstate", "--reason", "--", &sandbox.instance_name("7")]);
    assert_eq!(reason.trim(), "running (restored)");
    assert!(
        !memory.exists()
            && !Path::new("/var/lib/libvirt/cyyber")
                .join(memory.file_name().unwrap())
                .exists()
    );
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn an_instance_of_an_earlier_version_gets_a_user_of_its_own() {
    let sandbox = Sandbox::with_guests(1);
    sandbox.base(&sandbox.lab);
    let name = sandbox.instance_name("7");
    sandbox.instance("start", "7", &[]).ok();
    let own = user_of(sandbox.qemu_pid("7"));
    let file = sandbox.path("earlier.xml");
    // As that defined it, and as it runs then.
    let make_earlier = || {
        sandbox.instance("stop", "7", &["--force"]).ok();
        let xml = virsh(["dumpxml", "--inactive", "--security-info", "--", &name]);
        let start = xml.find("  <seclabel type=").or(xml.rfind("</domain>"));
        fs::write(&file, format!("{}</domain>", &xml[..start.unwrap()])).unwrap();
        virsh(["define", file.to_str().unwrap()]);
        virsh(["start", "--", &name]);
        assert_ne!(user_of(sandbox.qemu_pid("7")), own);
    };
    make_earlier();
    sandbox.instance("pause", "7", &[]).ok();
    sandbox.instance("resume", "7", &[]).ok();
    assert_eq!(user_of(sandbox.qemu_pid("7")), own, "paused");
    assert_eq!(sandbox.overlay("7").metadata().unwrap().uid(), own);
    let reason = virsh(["domstate", "--reason", "--", &name]);
    assert_eq!(reason.trim(), "running (restored)");

    make_earlier();
    sandbox.instance("stop", "7", &["--force"]).ok();
    sandbox.instance("start", "7", &[]).ok();
    assert_eq!(user_of(sandbox.qemu_pid("7")), own, "stopped");
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_host_that_has_no_way_for_it_is_told_of() {
    own_world!();
    let sandbox = Sandbox::with_guests(1);
    sandbox.base(&sandbox.lab);
    // As the packages of Debian and Ubuntu make it.
    let directory = Path::new("/var/lib/libvirt/qemu");
    fs::set_permissions(directory, Permissions::from_mode(0o750)).unwrap();
    let started = sandbox.instance("start", "7", &[]).ok();
    assert!(started.stderr.contains("run as one user"), "{started:#?}");
    assert_eq!(user_of(sandbox.qemu_pid("7")), 64_055);
    let users = || finding(&sandbox, "instance-users");
    let found = users();
    assert_eq!(found["status"], "failed", "{found:#}");
    assert!(text(&found["message"]).contains("mode 750"), "{found:#}");

    run(tool("chmod").arg("o+x").arg(directory));
    let found = users();
    assert_eq!(found["status"], "warning", "{found:#}");
    assert!(
        text(&found["message"]).contains(&sandbox.instance_name("7")),
        "{found:#}"
    );
    sandbox.instance("stop", "7", &["--force"]).ok();
    let started = sandbox.instance("start", "7", &[]).ok();
    assert!(!started.stderr.contains("run as one user"), "{started:#?}");
    assert!(user_of(sandbox.qemu_pid("7")) > 65_535);
    assert_eq!(users()["status"], "ok");

    // Somebody has one of these numbers.
    let list = sandbox.path("passwd");
    let more = fs::read_to_string("/etc/passwd").unwrap() + "x:x:2100000500:100::/:/bin/sh\n";
    fs::write(&list, more).unwrap();
    run(tool("mount")
        .arg("--bind")
        .args([&list, Path::new("/etc/passwd")]));
    let found = users();
    assert_eq!(found["status"], "failed", "{found:#}");
    assert!(text(&found["message"]).contains("2100000500"), "{found:#}");

    // A kernel with AppArmor, as far as that is seen here, and a libvirt that does not use it.
    let modules = "/sys/module";
    run(tool("mount").args(["-t", "tmpfs", "tmpfs", modules]));
    assert_eq!(finding(&sandbox, "svirt")["status"], "warning");
    let apparmor = Path::new(modules).join("apparmor/parameters");
    fs::create_dir_all(&apparmor).unwrap();
    for (enabled, status) in [("N", "warning"), ("Y", "failed")] {
        fs::write(apparmor.join("enabled"), format!("{enabled}\n")).unwrap();
        assert_eq!(finding(&sandbox, "svirt")["status"], status, "{enabled}");
    }
}

fn finding(sandbox: &Sandbox, check: &str) -> Value {
    let answer = sandbox.cyyber(["-o", "json", "doctor"]).stdout;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let findings = answer["findings"].as_array().unwrap();
    let found = findings.iter().find(|it| it["check"] == check);
    found.unwrap().clone()
}
