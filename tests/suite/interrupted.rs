//! Commands that are killed at any moment. Whatever they leave, the next command goes on from it.
//!
//! `CYYBER_TEST_KILLS` says how many kills there are in all, over all commands; `CYYBER_TEST_SEED`
//! repeats a run that failed, and is printed.

use crate::common;

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use common::shape::STATES;
use common::{Sandbox, files_below, is_thorough, run, text, tool, virsh};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// How often commands are killed unless the environment says otherwise: in `make test`, and in
/// `make test-all`.
const KILLS: [u32; 2] = [14, 49];

/// The commands that are killed: each has its test below.
const COMMANDS: u32 = 7;

/// How often each command is killed.
fn rounds() -> u32 {
    let kills = std::env::var("CYYBER_TEST_KILLS");
    let kills = kills.map_or(KILLS[usize::from(is_thorough())], |kills| {
        kills.parse().unwrap()
    });
    kills.div_ceil(COMMANDS)
}

/// Kills commands at moments that a seed decides.
struct Killer(StdRng);

impl Killer {
    fn new() -> Killer {
        let seed = std::env::var("CYYBER_TEST_SEED")
            .map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
        println!("CYYBER_TEST_SEED={seed}");
        Killer(StdRng::seed_from_u64(seed))
    }

    /// Starts a command on the sandbox's instance and kills it within `longest` milliseconds.
    fn kill(&mut self, sandbox: &Sandbox, verb: &str, options: &[&str], longest: u64) {
        let after = Duration::from_millis(self.0.random_range(0..longest));
        println!("{verb} killed after {after:?}");
        let mut child = sandbox
            .instance_command(verb, "7", options)
            .spawn()
            .unwrap();
        sleep(after);
        // One that has ended already is fine.
        let _ = child.kill();
        child.wait().unwrap();
        assert_whole(sandbox);
    }
}

/// Whatever is there of the instance is whole.
fn assert_whole(sandbox: &Sandbox) {
    let overlay = sandbox.overlay("7");
    let listed = sandbox.listed("7");
    if !listed.is_null() {
        assert!(
            STATES.contains(&text(&listed["state"]).as_str()),
            "{listed:#}"
        );
        assert!(overlay.exists(), "a domain without its disk");
        let base = text(&listed["base_image"]);
        assert!(Path::new(&base).exists(), "a disk without its base");
    }
    if overlay.exists() {
        run(tool("qemu-img").args(["check", "-q", "-U"]).arg(&overlay));
    }
}

/// Runs a command to its end, which must lead to one of `states`.
#[track_caller]
fn next(sandbox: &Sandbox, verb: &str, options: &[&str], states: &[&str]) {
    let after = sandbox.instance(verb, "7", options).json();
    assert!(
        states.contains(&text(&after["state"]).as_str()),
        "{after:#}"
    );
    assert_whole(sandbox);
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_create_that_is_killed_can_be_repeated() {
    let (sandbox, mut killer) = (Sandbox::with_guests(0), Killer::new());
    for round in 0..rounds() {
        let user = sandbox.instance_name("7");
        // With and without a base to adopt.
        if round % 2 == 0 {
            make_base_anew(&sandbox);
        }
        killer.kill(&sandbox, "create", &[], 120);
        next(&sandbox, "create", &[], &["stopped"]);
        let files: Vec<_> = fs::read_dir(sandbox.path("storage/user-instances"))
            .unwrap()
            .collect();
        assert_eq!(files.len(), 1, "{files:?}");
        virsh(["undefine", "--", &user]);
        fs::remove_file(sandbox.overlay("7")).unwrap();
    }
}

/// Puts a new image in the place of the base, as an instructor would.
fn make_base_anew(sandbox: &Sandbox) {
    let new = sandbox.base("new");
    let link = new.with_file_name(format!("{}-base.qcow2", sandbox.lab));
    fs::rename(new, link).unwrap();
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_start_that_is_killed_can_be_repeated() {
    let (sandbox, mut killer) = (Sandbox::with_guests(1), Killer::new());
    sandbox.base(&sandbox.lab);
    for _ in 0..rounds() {
        killer.kill(&sandbox, "start", &[], 1000);
        next(&sandbox, "start", &[], &["starting", "running"]);
        sandbox.instance("stop", "7", &["--force"]).ok();
    }
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_stop_that_is_killed_can_be_repeated() {
    let (sandbox, mut killer) = (Sandbox::with_guests(1), Killer::new());
    sandbox.base(&sandbox.lab);
    for _ in 0..rounds() {
        sandbox.instance("start", "7", &[]).ok();
        killer.kill(&sandbox, "stop", &["--timeout", "0s"], 1000);
        next(&sandbox, "stop", &["--force"], &["stopped"]);
    }
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_pause_that_is_killed_can_be_repeated() {
    let (sandbox, mut killer) = (Sandbox::with_guests(1), Killer::new());
    sandbox.base(&sandbox.lab);
    for round in 0..rounds() {
        sandbox.instance("start", "7", &[]).ok();
        let options: &[&str] = match round % 2 {
            0 => &[],
            _ => &["--keep-memory"],
        };
        killer.kill(&sandbox, "pause", options, 1500);
        next(&sandbox, "pause", &[], &["paused"]);
    }
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_resume_that_is_killed_can_be_repeated() {
    let (sandbox, mut killer) = (Sandbox::with_guests(1), Killer::new());
    sandbox.base(&sandbox.lab);
    for _ in 0..rounds() {
        sandbox.instance("start", "7", &[]).ok();
        sandbox.instance("pause", "7", &[]).ok();
        killer.kill(&sandbox, "resume", &[], 800);
        next(&sandbox, "resume", &[], &["starting", "running"]);
    }
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_cleanup_that_is_killed_is_finished_by_the_next() {
    let (sandbox, mut killer) = (Sandbox::with_guests(1), Killer::new());
    sandbox.base(&sandbox.lab);
    for round in 0..rounds() {
        // From every state, and asked for in a way that does not fit what is left half-way.
        sandbox.instance("create", "7", &[]).ok();
        let state = match round % 3 {
            0 => "stopped",
            of => {
                sandbox.instance("start", "7", &[]).ok();
                if of == 2 {
                    sandbox.instance("pause", "7", &[]).ok();
                }
                ["", "starting", "paused"][of as usize]
            }
        };
        let options = ["--yes", "--state", state, "--inactive-for", "0s"];
        killer.kill(&sandbox, "cleanup", &options, 400);
        sandbox.instance("cleanup", "7", &options).ok();
        let left: Vec<_> = files_below(&sandbox.path(""))
            .into_keys()
            .filter(|file| file.to_string_lossy().contains("_user_7"))
            .filter(|file| !file.starts_with("state/locks"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(sandbox.listed("7").is_null());
    }
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_reset_that_is_killed_can_be_repeated() {
    let (sandbox, mut killer) = (Sandbox::with_guests(1), Killer::new());
    sandbox.base(&sandbox.lab);
    for round in 0..rounds() {
        sandbox.instance("start", "7", &[]).ok();
        if round % 2 == 1 {
            sandbox.instance("pause", "7", &[]).ok();
        }
        killer.kill(&sandbox, "reset", &["--yes"], 500);
        match round % 3 {
            0 => next(&sandbox, "start", &[], &["starting", "running"]),
            _ => next(&sandbox, "reset", &["--yes"], &["stopped"]),
        }
    }
}
