//! libvirtd that is restarted between commands and killed during them: running guests run on, and
//! the next command copes with whatever was left half-way.
//!
//! It concerns every guest of this host, so this is a program of its own.

mod common;

use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use common::shape::STATES;
use common::{Run, Sandbox, run, text, tool, virsh, wait_until};
use rand::RngExt;

fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Kills libvirtd as a crash would.
fn kill() {
    match has_systemd() {
        true => drop(run(
            tool("systemctl").args(["kill", "-s", "KILL", "libvirtd"])
        )),
        false => drop(run(tool("pkill").args(["-KILL", "-x", "libvirtd"]))),
    }
    if !has_systemd() {
        wait_until("libvirtd is gone", || {
            !tool("pgrep")
                .args(["-x", "libvirtd"])
                .stdout(Stdio::null())
                .status()
                .unwrap()
                .success()
        });
    }
}

fn start() {
    match has_systemd() {
        true => drop(run(tool("systemctl").args(["start", "libvirtd"]))),
        // Its children would hold our pipes open.
        false => assert!(
            tool("libvirtd")
                .arg("-d")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .unwrap()
                .success()
        ),
    }
    wait_until("libvirtd answers", || !virsh(["uri"]).is_empty());
}

/// Has libvirtd run again, also after a failed assertion.
struct Daemon;

impl Drop for Daemon {
    fn drop(&mut self) {
        if virsh(["uri"]).is_empty() {
            start();
        }
    }
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_daemon_that_is_killed_takes_no_instance_with_it() {
    let sandbox = Sandbox::with_guests(2);
    let _daemon = Daemon;
    sandbox.base(&sandbox.lab);
    for user in ["running", "paused", "7"] {
        sandbox.instance("start", user, &[]).ok();
        if user == "paused" {
            sandbox.instance("pause", user, &[]).ok();
        }
    }
    sandbox.instance("create", "stopped", &[]).ok();
    let pid = sandbox.qemu_pid("running");

    kill();
    if !has_systemd() {
        for verb in ["start", "pause", "stop"] {
            let error = sandbox.instance(verb, "running", &[]).error_json(8);
            assert!(error["hint"].is_string(), "{error:#}");
        }
    }
    start();
    for (user, state) in [
        ("running", "starting"),
        ("paused", "paused"),
        ("stopped", "stopped"),
    ] {
        assert_eq!(sandbox.state(user), state, "{user}");
    }
    assert_eq!(sandbox.qemu_pid("running"), pid);
    sandbox.instance("pause", "running", &[]).ok();
    sandbox.instance("resume", "paused", &[]).ok();
    sandbox.instance("stop", "paused", &["--force"]).ok();

    // In the middle of a command.
    for round in 0..2 {
        for (verb, options) in [
            ("pause", &[][..]),
            ("resume", &[]),
            ("stop", &["--force"]),
            ("start", &[]),
            ("cleanup", &["--yes"]),
        ] {
            bring(&sandbox, verb);
            let after = Duration::from_millis(rand::rng().random_range(0..700));
            println!("round {round}: libvirtd killed {after:?} into {verb}");
            let child = sandbox
                .instance_command(verb, "7", options)
                .spawn()
                .unwrap();
            sleep(after);
            kill();
            let ended = Run::end_of(child);
            println!("  {:?} {}", ended.code, ended.stderr.trim());
            start();
            let listed = sandbox.listed("7");
            if !listed.is_null() {
                let state = text(&listed["state"]);
                assert!(STATES.contains(&state.as_str()), "{listed:#}");
                assert!(sandbox.overlay("7").exists());
            }
            sandbox.instance(verb, "7", options).ok();
        }
    }
}

/// Has user 7's instance in a state from which `verb` does something.
fn bring(sandbox: &Sandbox, verb: &str) {
    sandbox.instance("start", "7", &[]).ok();
    match verb {
        "resume" => drop(sandbox.instance("pause", "7", &[]).ok()),
        "start" => drop(sandbox.instance("stop", "7", &["--force"]).ok()),
        _ => {}
    }
}
