//! What `make install` puts on a host: it is all there, its checkers accept it, and the line of cron
//! makes a pass in an environment as bare as cron's.

use crate::common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use common::world::own_world;
use common::{Run, Sandbox, run, tool, virsh};
use serde_json::json;

/// Installs the program below the sandbox, with a configuration of its own.
fn install(sandbox: &Sandbox) {
    make(sandbox, "install");
    fs::copy(
        sandbox.path("labs-config.json"),
        sandbox.path("etc/cyyber/labs-config.json"),
    )
    .unwrap();
}

fn make(sandbox: &Sandbox, target: &str) {
    let place = |name: &str| sandbox.path(name).to_str().unwrap().to_owned();
    run(tool("make")
        .args(["-s", "-o", "build", target, "DESTDIR=", "SUDO="])
        .arg(format!("BINARY={}", env!("CARGO_BIN_EXE_cyyber")))
        .arg(format!("PREFIX={}", place("prefix")))
        .arg(format!("SYSCONFDIR={}", place("etc")))
        .current_dir(env!("CARGO_MANIFEST_DIR")));
}

#[test]
#[ignore = "needs make: run by `make test`"]
fn what_was_installed_is_taken_away_but_for_the_configuration() {
    let sandbox = Sandbox::new();
    install(&sandbox);
    assert!(sandbox.path("prefix/bin/cyyber").exists());
    make(&sandbox, "uninstall");
    let left = run(tool("find")
        .args([sandbox.path("prefix"), sandbox.path("etc")])
        .args(["-type", "f", "-not", "-path", "*/etc/cyyber/*"]));
    assert_eq!(left, "");
    assert!(sandbox.path("etc/cyyber/labs-config.json").exists());
}

#[test]
#[ignore = "needs libvirt: run by `make test`"]
fn networks_are_taken_away_only_without_running_instances() {
    own_world!();
    let sandbox = Sandbox::with_guests(1);
    sandbox.base(&sandbox.lab);
    sandbox.instance("start", "7", &[]).ok();
    let remove = || {
        Run::of(
            tool("templates/host/setup.sh")
                .arg("--remove")
                .current_dir(env!("CARGO_MANIFEST_DIR")),
        )
    };
    let refused = remove();
    assert_eq!(refused.code, Some(1), "{refused:#?}");
    assert!(
        refused.stderr.contains("1 running instances"),
        "{refused:#?}"
    );
    sandbox.instance("stop", "7", &["--force"]).ok();
    remove().ok();
    assert!(!virsh(["net-list", "--all", "--name"]).contains("cyyber-"));
    assert!(!run(tool("nft").args(["list", "tables"])).contains("cyyber"));
    assert!(!Path::new("/etc/libvirt/hooks/network.d/cyyber").exists());
    let open = || {
        Path::new("/var/lib/libvirt/qemu")
            .metadata()
            .unwrap()
            .mode()
            & 1
    };
    assert_eq!(open(), 0);
    assert!(sandbox.overlay("7").exists());
    sandbox.instance("start", "7", &[]).error_json(8);
    // And back.
    run(tool("templates/host/setup.sh")
        .arg("--no-packages")
        .current_dir(env!("CARGO_MANIFEST_DIR")));
    assert_eq!(open(), 1);
    sandbox.instance("start", "7", &[]).ok();
}

fn is_there(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        // Past the test harness, which keeps the words of a passing test to itself.
        let _ = writeln!(std::io::stderr(), "skipped: {program} cannot be run");
    }
    there
}

#[test]
#[ignore = "needs make, libvirt and QEMU: run by `make test`"]
fn passes_are_made_and_the_journal_is_rotated() {
    let sandbox = Sandbox::with_guests(0);
    sandbox.base(&sandbox.lab);
    sandbox.configure(&json!({}));
    install(&sandbox);
    let unit = |name: &str| sandbox.path("prefix/lib/systemd/system").join(name);
    for file in [
        sandbox.path("etc/cron.d/cyyber"),
        sandbox.path("etc/logrotate.d/cyyber"),
        unit("cyyber-reap.service"),
        unit("cyyber-reap.timer"),
        unit("cyyber-gateway.service"),
        sandbox.path("prefix/bin/cyyber"),
        sandbox.path("prefix/share/man/man1/cyyber-reap.1"),
    ] {
        let content = fs::read(&file).unwrap();
        let left = content
            .windows(5)
            .any(|bytes| bytes == b"@BIND" || bytes == b"@SYSC");
        assert!(!left, "{}", file.display());
    }
    if is_there("systemd-analyze") {
        run(tool("systemd-analyze")
            .args(["verify", "--man=no"])
            .args([unit("cyyber-reap.service"), unit("cyyber-reap.timer")])
            .arg(unit("cyyber-gateway.service")));
        run(tool("systemd-analyze").args(["calendar", "minutely"]));
    }

    let table = fs::read_to_string(sandbox.path("etc/cron.d/cyyber")).unwrap();
    let lines: Vec<_> = table
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    let [path, line] = lines[..] else {
        panic!("{table}")
    };
    assert!(
        path.starts_with("PATH=") && path.contains("/usr/sbin"),
        "{path}"
    );
    let pass = line.strip_prefix("* * * * * root ").unwrap();
    let as_cron = |command: &str| {
        let mut cron = tool("env");
        cron.args([
            "-i",
            "PATH=/usr/bin:/bin",
            "SHELL=/bin/sh",
            "HOME=/root",
            "LOGNAME=root",
        ])
        .args(["sh", "-c", command])
        .current_dir("/");
        let ran = Run::of(&mut cron).ok();
        assert_eq!(
            (&*ran.stdout, &*ran.stderr),
            ("", ""),
            "cron would mail that"
        );
    };
    sandbox.instance("create", "7", &[]).ok();
    let seen = sandbox.path("state/reaper.json");
    as_cron(pass);
    // There the timer makes the passes.
    let systemd = Path::new("/run/systemd/system").is_dir();
    assert_eq!(seen.exists(), !systemd);
    as_cron(pass.strip_prefix("[ -d /run/systemd/system ] || ").unwrap());
    let passes = fs::read_to_string(&seen).unwrap();
    assert!(passes.contains(&sandbox.instance_name("7")), "{passes}");

    let exec = fs::read_to_string(unit("cyyber-reap.service")).unwrap();
    let exec = exec
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="))
        .unwrap();
    assert!(pass.ends_with(exec), "{exec}");

    if is_there("logrotate") {
        rotate(&sandbox);
    }
}

fn rotate(sandbox: &Sandbox) {
    let rules = sandbox.path("etc/logrotate.d/cyyber");
    let journal = sandbox.path("state/events.jsonl");
    let ours = fs::read_to_string(&rules).unwrap();
    let ours = ours.replace("/var/lib/cyyber/events.jsonl", journal.to_str().unwrap());
    fs::write(&rules, ours).unwrap();
    fs::set_permissions(&rules, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    // As `make setup` has it: logrotate is particular about directories that a group writes to.
    let state = sandbox.path("state");
    run(tool("chgrp").arg("libvirt").arg(&state));
    run(tool("chmod").arg("2770").arg(&state));
    let logrotate = |option: &str| {
        let status = sandbox.path("logrotate.status");
        let mut command = tool("logrotate");
        let command = command.arg(option).arg("-s").arg(status).arg(&rules);
        Run::of(command).ok().stderr
    };
    let said = logrotate("-d");
    assert!(!said.contains("error"), "{said}");
    let before = fs::read_to_string(&journal).unwrap();
    assert_eq!(logrotate("-f"), "");
    assert!(!journal.exists());
    sandbox.instance("create", "8", &[]).ok();
    let lines = fs::read_to_string(&journal).unwrap();
    assert_eq!(lines.lines().count(), 1, "{lines}");
    assert_eq!(logrotate("-f"), "");
    // The one before is compressed only now, when nobody can be writing to it any more.
    let first = run(tool("zcat").arg(sandbox.path("state/events.jsonl.2.gz")));
    assert_eq!(first, before);
}
