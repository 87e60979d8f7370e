//! Many commands at once on few instances: they wait for each other, and nothing is lost.
//!
//! `CYYBER_TEST_VERBS` says how many commands each of the eight processes runs one after the other;
//! `CYYBER_TEST_SEED` repeats their choice, and is printed.

use crate::common;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::shape::STATES;
use common::{Sandbox, run, text, tool, virsh};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::Value;

const PROCESSES: u64 = 8;
const USERS: [&str; 3] = ["1", "2", "3"];

/// How many commands each process runs unless the environment says otherwise.
const VERBS: u32 = 6;

/// What is run; none of these destroys anything.
const COMMANDS: [&[&str]; 9] = [
    &["create"],
    &["start"],
    &["pause"],
    &["pause", "--keep-memory"],
    &["resume"],
    &["stop", "--force"],
    &["stop", "--timeout", "0s"],
    &["console"],
    &["touch"],
];

fn number(variable: &str) -> Option<u64> {
    Some(std::env::var(variable).ok()?.parse().unwrap())
}

/// What must not change of an instance: its domain and the file that its disk is.
fn identity(sandbox: &Sandbox, user: &str) -> (String, u64) {
    let name = sandbox.instance_name(user);
    let uuid = virsh(["domuuid", "--", &name]);
    (uuid, sandbox.overlay(user).metadata().unwrap().ino())
}

fn io(sandbox: &Sandbox, user: &str, command: &str) {
    run(tool("qemu-io")
        .args(["-f", "qcow2", "-c", command])
        .arg(sandbox.overlay(user)));
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn eight_processes_on_three_instances_lose_nothing() {
    let sandbox = Sandbox::with_guests(3);
    sandbox.base(&sandbox.lab);
    for user in USERS {
        sandbox.instance("create", user, &[]).ok();
        io(&sandbox, user, "write -P 7 100M 1M");
    }
    let before = USERS.map(|user| identity(&sandbox, user));
    let seed = number("CYYBER_TEST_SEED").unwrap_or_else(|| rand::rng().next_u64() >> 1);
    println!("CYYBER_TEST_SEED={seed}");
    let verbs = number("CYYBER_TEST_VERBS").unwrap_or(VERBS.into());

    let done = AtomicBool::new(false);
    let codes = thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert_listed(&sandbox);
            }
        });
        let runners: Vec<_> = (0..PROCESSES)
            .map(|process| {
                let sandbox = &sandbox;
                scope.spawn(move || {
                    let mut random = StdRng::seed_from_u64(seed + process);
                    let mut codes = BTreeMap::new();
                    for _ in 0..verbs {
                        let command = COMMANDS.choose(&mut random).unwrap();
                        let user = USERS.choose(&mut random).unwrap();
                        let ran = sandbox.instance(command[0], user, &command[1..]);
                        assert!(matches!(ran.code, Some(0 | 5 | 6)), "{ran:#?}");
                        *codes.entry(ran.code).or_insert(0) += 1;
                    }
                    codes
                })
            })
            .collect();
        let ran: Vec<_> = runners.into_iter().map(|runner| runner.join()).collect();
        done.store(true, Ordering::Relaxed);
        watcher.join().unwrap();
        let mut codes = BTreeMap::new();
        for (code, count) in ran.into_iter().flat_map(Result::unwrap) {
            *codes.entry(code).or_insert(0) += count;
        }
        codes
    });
    println!("exit codes: {codes:?}");

    assert_eq!(USERS.map(|user| identity(&sandbox, user)), before);
    for user in USERS {
        sandbox.instance("start", user, &[]).ok();
        sandbox.instance("stop", user, &["--force"]).ok();
        run(tool("qemu-img")
            .args(["check", "-q"])
            .arg(sandbox.overlay(user)));
        io(&sandbox, user, "read -P 7 100M 1M");
    }
}

/// All instances are listed, each in a state that there is.
fn assert_listed(sandbox: &Sandbox) {
    let list = ["-o", "json", "instance", "list", "--lab", &sandbox.lab];
    let all: Value = sandbox.cyyber(list).json();
    let all = all["instances"].as_array().unwrap();
    assert_eq!(all.len(), USERS.len(), "{all:#?}");
    for instance in all {
        let state = text(&instance["state"]);
        assert!(STATES.contains(&state.as_str()), "{instance:#}");
        assert_ne!(state, "crashed", "{instance:#}");
    }
}
