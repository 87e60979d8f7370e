//! Who may use it without being root: members of the group `libvirt`, and nobody else.
//!
//! A libvirtd of our own answers here, with polkit and the system's bus as a distribution sets them
//! up, in namespaces of their own: mounts, network and processes. What is made in there, users
//! included, is gone with the process that is the first in it.

use crate::common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{Run, Sandbox, run, tool, virsh};
use serde_json::json;

/// Set inside.
const INSIDE: &str = "CYYBER_TEST_INSIDE";

/// A member of the group, and somebody who is not; no host has users with these numbers.
const MEMBER: (&str, u32) = ("cyyber-member", 64_901);
const STRANGER: (&str, u32) = ("cyyber-stranger", 64_902);

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn members_of_the_group_need_no_root_and_nobody_else_gets_in() {
    let mut command = tool("unshare");
    command
        .args([
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
        ])
        // The first process takes in what daemons leave behind, and a shell knows how to do that.
        .args(["sh", "-c", "\"$@\"; exit $?", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "access::inside"])
        .env(INSIDE, "1")
        // Gone with the rest.
        .env("TMPDIR", "/run/sandbox")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let run = Run::within(Duration::from_secs(180), &mut command).ok();
    assert!(run.stdout.contains("1 passed"), "{run:#?}");
}

/// Run by the test above, in the namespaces.
#[test]
#[ignore = "only makes sense where another test has it run"]
fn inside() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let group = people();
    daemons();
    let sandbox = Sandbox::with_guests(1);
    sandbox.configure(&json!({"network": "isolated", "policy": {"boot_timeout": "0s"}}));
    let program = prepare(&sandbox, group);
    let by = |(name, _): (&str, u32), words: &[&str]| as_user(&sandbox, &program, name, words);
    let on = |verb: &str, options: &[&str]| {
        let words = ["-o", "json", "instance", verb, &sandbox.lab, "7"];
        by(MEMBER, &[&words, options].concat())
    };

    sandbox
        .cyyber(["instance", "create", &sandbox.lab, "root-made"])
        .ok();
    assert_eq!(on("create", &[]).json()["changed"], true);
    let started = on("start", &[]).json();
    assert!(started["vnc_password"].is_string(), "{started}");
    assert_eq!(on("stats", &[]).json()["state"], "running");
    let listed = by(MEMBER, &["-o", "json", "instance", "list"]).json();
    assert_eq!(listed["instances"].as_array().unwrap().len(), 2, "{listed}");
    for (verb, options) in [
        ("console", &[][..]),
        ("touch", &[]),
        ("keep", &["--until", "1h"]),
        ("pause", &[]),
        ("resume", &[]),
        ("stop", &["--force"]),
        ("reset", &["--yes"]),
        ("start", &[]),
    ] {
        on(verb, options).json();
    }
    by(MEMBER, &["reap"]).ok();
    // What the one made, the other can go on with.
    sandbox.instance("stop", "7", &["--force"]).json();
    let words = ["instance", "start", &sandbox.lab, "root-made"];
    by(MEMBER, &words).ok();
    let found = by(MEMBER, &["-o", "json", "doctor"]).stdout;
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    for finding in found["findings"].as_array().unwrap() {
        // The kernel's rules are for root to see: that is said.
        if finding["check"] == "firewall" {
            assert_eq!(finding["status"], "warning", "{finding}");
        }
        let of_access = ["libvirt", "qemu-user", "networks", "directories"];
        if of_access.iter().any(|check| finding["check"] == *check) {
            assert_eq!(finding["status"], "ok", "{finding}");
        }
    }

    // A stranger is told what to do, and sees nothing.
    for words in [
        &["instance", "list"][..],
        &["instance", "start", &sandbox.lab, "9"],
        &["instance", "stop", &sandbox.lab, "7"],
        &["instance", "cleanup", "--yes"],
        &["reap"],
        &["metrics"],
    ] {
        let run = by(STRANGER, words).says(8, "group libvirt");
        assert!(
            run.stderr.contains("hint: ") && !run.stderr.contains("root-made"),
            "{run:#?}"
        );
        by(STRANGER, &[&["-o", "json"], words].concat()).error_json(8);
    }
    for secret in [
        "state/events.jsonl",
        "state/instances",
        "storage/user-instances",
    ] {
        let look = run_as(STRANGER.0, Path::new("ls"))
            .arg(sandbox.path(secret))
            .output();
        assert!(!look.unwrap().status.success(), "{secret}");
    }
    let all = ["instance", "cleanup", "--yes"];
    by(MEMBER, &all).ok();
    assert_eq!(virsh(["list", "--all", "--name"]).trim(), "");
}

/// Adds the people to a list of users and groups that is seen in here alone; the group's number.
fn people() -> u32 {
    mount(&["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"]);
    fs::create_dir("/run/lists").unwrap();
    fs::create_dir("/run/sandbox").unwrap();
    let lines = |file: &str, change: &dyn Fn(&str) -> String| {
        let (original, copy) = (
            PathBuf::from("/etc").join(file),
            Path::new("/run/lists").join(file),
        );
        fs::write(&copy, change(&fs::read_to_string(&original).unwrap())).unwrap();
        fs::set_permissions(&copy, original.metadata().unwrap().permissions()).unwrap();
        mount(&["--bind", copy.to_str().unwrap(), original.to_str().unwrap()]);
    };
    let people = [MEMBER, STRANGER];
    lines("passwd", &|old| {
        let new = people.map(|(name, id)| format!("{name}:x:{id}:{id}::/nonexistent:/bin/sh\n"));
        old.to_owned() + &new.concat()
    });
    lines("group", &|old| {
        let member = |line: &str| match line.strip_prefix("libvirt:") {
            Some(rest) if rest.ends_with(':') => format!("{line}{}\n", MEMBER.0),
            Some(_) => format!("{line},{}\n", MEMBER.0),
            None => format!("{line}\n"),
        };
        let new = people.map(|(name, id)| format!("{name}:x:{id}:\n"));
        old.lines().map(member).collect::<String>() + &new.concat()
    });
    let group = run(tool("getent").args(["group", "libvirt"]));
    group.split(':').nth(2).unwrap().parse().unwrap()
}

/// The system's bus, by which libvirtd asks polkit, and libvirtd with the network of the labs.
fn daemons() {
    // What the host's own libvirtd has is not for this one.
    for place in [
        "/var/lib/libvirt",
        "/etc/libvirt/qemu",
        "/etc/libvirt/hooks",
    ] {
        mount(&["-t", "tmpfs", "-o", "mode=755", "tmpfs", place]);
    }
    // The network cards of in here, with the control groups of the host.
    fs::create_dir("/run/cgroup").unwrap();
    mount(&["--rbind", "/sys/fs/cgroup", "/run/cgroup"]);
    mount(&["-t", "sysfs", "sysfs", "/sys"]);
    mount(&["--rbind", "/run/cgroup", "/sys/fs/cgroup"]);
    fs::create_dir("/run/dbus").unwrap();
    run(tool("ip").args(["link", "set", "lo", "up"]));
    run(tool("dbus-daemon").args(["--system", "--fork", "--nopidfile"]));
    let setup = concat!(env!("CARGO_MANIFEST_DIR"), "/templates/host/setup.sh");
    run(tool(setup).arg("--no-packages"));
}

/// Directories as `setup.sh` makes them, and a copy of the program that everyone reaches.
fn prepare(sandbox: &Sandbox, group: u32) -> PathBuf {
    sandbox.base(&sandbox.lab);
    sandbox.as_set_up(group);
    let readable = Permissions::from_mode(0o644);
    fs::set_permissions(sandbox.path("labs-config.json"), readable).unwrap();
    let program = sandbox.path("cyyber");
    fs::copy(env!("CARGO_BIN_EXE_cyyber"), &program).unwrap();
    program
}

fn as_user(sandbox: &Sandbox, program: &Path, user: &str, words: &[&str]) -> Run {
    let ours = sandbox.command(words);
    let mut command = run_as(user, program);
    command.args(words).current_dir("/").env_clear();
    for (name, value) in ours.get_envs() {
        command.env(name, value.unwrap());
    }
    Run::of(&mut command)
}

fn run_as(user: &str, program: &Path) -> Command {
    let mut command = tool("setpriv");
    let (uid, gid) = (format!("--reuid={user}"), format!("--regid={user}"));
    command
        .args([&*uid, &*gid, "--init-groups", "--"])
        .arg(program);
    command
}

#[track_caller]
fn mount(words: &[&str]) {
    run(tool("mount").args(words));
}
