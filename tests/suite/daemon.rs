//! libvirtd that is restarted between commands and killed during them: running guests run on, and
//! the next command copes with whatever was left half-way.
//!
//! It concerns every guest of a host, so this has a world of its own.

use crate::common;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::builder::{GOOD, fake_builder};
use common::shape::STATES;
use common::world::own_world;
use common::{Run, Sandbox, is_thorough, run, text, tool, virsh, wait_until};
use rand::RngExt;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::json;

const SETUP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/templates/host/setup.sh");

fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Kills libvirtd as a crash would.
pub fn kill() {
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

/// Starts it again.
pub fn start() {
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
    own_world!();
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
        let check = Run::of(tool(SETUP).args(["--no-packages", "--check"]));
        assert!(check.stdout.contains("to do: start libvirt"), "{check:#?}");
        assert_eq!((check.code, &*check.stderr), (Some(1), ""));
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
    if !has_systemd() {
        // What QEMU's log goes through.
        run(tool("pkill").args(["-KILL", "-x", "virtlogd"]));
        run(tool(SETUP).arg("--no-packages"));
        sandbox.instance("start", "stopped", &[]).ok();
        sandbox.instance("stop", "stopped", &["--force"]).ok();
    }

    hang(&sandbox);
    kill_in_a_pass(&sandbox);
    restart_in_a_build();

    // In the middle of a command.
    for round in 0..if is_thorough() { 3 } else { 1 } {
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

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn memory_that_was_saved_when_libvirtd_was_killed_is_a_pause() {
    own_world!();
    let sandbox = Sandbox::with_guests(1);
    let _daemon = Daemon;
    sandbox.base(&sandbox.lab);
    let name = sandbox.instance_name("7");
    let file = Path::new("/var/lib/libvirt/qemu/save").join(format!("{name}.save"));
    let copy = sandbox.path("memory");
    sandbox.instance("start", "7", &[]).ok();
    sandbox.instance("pause", "7", &[]).ok();
    std::fs::copy(&file, &copy).unwrap();
    for (whole, state) in [(false, "crashed"), (true, "paused")] {
        sandbox.instance("start", "7", &[]).ok();
        // What is there when libvirtd and then QEMU end in the last moment of a save.
        let qemu = sandbox.qemu_pid("7");
        kill();
        kill_process(qemu, Signal::KILL).unwrap();
        wait_until("QEMU is gone", || test_kill_process(qemu).is_err());
        std::fs::copy(&copy, &file).unwrap();
        if !whole {
            let saved = std::fs::File::options().write(true).open(&file).unwrap();
            saved.write_all_at(b"LibvirtQemudPart", 0).unwrap();
        }
        start();
        // It answers before it has seen to each QEMU that it left behind.
        wait_until("libvirt says that it crashed", || {
            virsh(["domstate", "--reason", "--", &name]).trim() == "shut off (crashed)"
        });
        assert_eq!(sandbox.state("7"), state);
    }
    let status = sandbox.listed("7");
    assert_eq!(status["reason"], "memory saved to disk", "{status:#}");
    sandbox.instance("resume", "7", &[]).ok();
    let said = virsh(["domstate", "--reason", "--", &name]);
    assert_eq!(said.trim(), "running (restored)");
}

/// Restarted while a stage is built, which takes long enough for that: the lab is built as well.
fn restart_in_a_build() {
    let sandbox = Sandbox::with_guests(0);
    let (begun, goes_on) = (sandbox.path("begun"), sandbox.path("goes-on"));
    let slow = format!(
        "touch '{}'\nwhile ! [ -e '{}' ]; do sleep 0.1; done\n{GOOD}",
        begun.display(),
        goes_on.display()
    );
    fake_builder(&sandbox, "1.6.6", &slow);
    let build = sandbox.command(["-o", "json", "build"]).spawn().unwrap();
    wait_until("the stage is built", || begun.exists());
    kill();
    start();
    std::fs::write(goes_on, "").unwrap();
    let built = Run::end_of(build).json();
    assert_eq!(built["labs"][0]["result"], "built", "{built:#}");
}

/// Stopped, as by a fault that makes it hang: a pass gives up, and another one as well.
fn hang(sandbox: &Sandbox) {
    let pid = run(tool("pgrep").args(["-x", "libvirtd"]));
    let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let _goes_on = GoesOn(pid);
    let began = Instant::now();
    let passes = [(); 2].map(|()| {
        sandbox
            .command(["-v", "-o", "json", "reap"])
            .spawn()
            .unwrap()
    });
    let passes = passes.map(Run::end_of);
    println!("libvirtd hangs: passes ended after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(40));
    let codes: Vec<_> = passes.iter().map(|pass| pass.code).collect();
    // One of them finds the other one at work.
    assert!(
        codes.contains(&Some(8)) && codes.contains(&Some(0)),
        "{passes:#?}"
    );
}

/// Lets a process go on, also after a failed assertion.
struct GoesOn(Pid);

impl Drop for GoesOn {
    fn drop(&mut self) {
        kill_process(self.0, Signal::CONT).unwrap();
    }
}

/// Killed in the middle of a pass: nothing is lost, and the next passes go on.
fn kill_in_a_pass(sandbox: &Sandbox) {
    sandbox.instance("stop", "running", &["--force"]).ok();
    let now = "0s";
    sandbox.configure(&json!({"policy": {
        "idle_after": now, "pause_after": now, "stop_after": "10d", "destroy_after": "never",
        "boot_timeout": now,
    }}));
    for round in 0..if is_thorough() { 5 } else { 1 } {
        sandbox.instance("start", "7", &[]).ok();
        // A first pass only looks.
        for _ in 0..2 {
            if sandbox.state("7") != "idle" {
                sandbox.cyyber(["reap"]).ok();
            }
        }
        assert_eq!(sandbox.state("7"), "idle");
        let child = sandbox.command(["reap"]).spawn().unwrap();
        let after = Duration::from_millis(rand::rng().random_range(20..500));
        sleep(after);
        kill();
        let ended = Run::end_of(child);
        println!(
            "round {round}: libvirtd killed {after:?} into a pass: {:?} {}",
            ended.code,
            ended.stderr.trim()
        );
        assert!(matches!(ended.code, Some(0 | 1 | 8)), "{ended:#?}");
        start();
        let passes = [0, 1].map(|_| sandbox.cyyber(["-v", "reap"]).ok());
        assert_eq!(sandbox.state("7"), "paused", "{passes:#?}");
        assert!(sandbox.overlay("7").exists());
    }
    sandbox.configure(&json!({}));
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
