//! Disks that are full: nothing is lost, and the error says what to do.
//!
//! The directory of libvirt's saved memory is covered meanwhile, so each has a world of its own.

use crate::common;

use std::fs;
use std::path::Path;

use common::world::own_world;
use common::{Sandbox, SmallDisk, text};
use serde_json::{Value, json};

const SAVES: &str = "/var/lib/libvirt/qemu/save";

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn memory_that_cannot_be_saved_stays_and_the_guest_goes_on() {
    own_world!();
    let sandbox = Sandbox::with_guests(1);
    sandbox.base(&sandbox.lab);
    sandbox.instance("start", "7", &[]).ok();
    let pid = sandbox.qemu_pid("7");

    let too_small = SmallDisk::on(Path::new(SAVES), 100);
    let error = sandbox.instance("pause", "7", &[]).error_json(7);
    let message = text(&error["message"]);
    assert!(message.contains("keeps running"), "{message}");
    assert!(message.contains("140 MiB are needed"), "{message}");
    assert!(error["hint"].is_string(), "{error:#}");
    drop(too_small);

    // Room by the figures, and full all the same.
    let full = SmallDisk::on(Path::new(SAVES), 300);
    full.exhaust();
    let error = sandbox.instance("pause", "7", &[]).error_json(7);
    let message = text(&error["message"]);
    assert!(message.contains("keeps running"), "{message}");
    assert!(message.contains("No space left"), "{message}");
    drop(full);

    assert_eq!(sandbox.state("7"), "starting");
    assert_eq!(sandbox.qemu_pid("7"), pid);
    sandbox.instance("pause", "7", &[]).ok();
    let resumed = sandbox.instance("resume", "7", &[]).json();
    assert_eq!(resumed["state"], "starting");

    reap_on_a_full_disk(&sandbox);
}

/// A pass tells of it, and the next one tries again.
fn reap_on_a_full_disk(sandbox: &Sandbox) {
    let policy = json!({"idle_after": "0s", "pause_after": "0s", "boot_timeout": "0s"});
    sandbox.configure(&json!({"policy": policy}));
    for _ in 0..2 {
        sandbox.cyyber(["reap"]).ok();
    }
    assert_eq!(sandbox.state("7"), "idle");
    let too_small = SmallDisk::on(Path::new(SAVES), 100);
    let pass = sandbox.cyyber(["reap"]);
    assert_eq!(pass.code, Some(1), "{pass:#?}");
    let name = sandbox.instance_name("7");
    for said in [
        &format!(
            "error: {name} did not go from idle to paused: {name} was not paused and keeps running"
        ),
        "140 MiB are needed",
        "error: 1 of 1 steps failed\nhint: the next pass tries again\n",
    ] {
        assert!(pass.stderr.contains(said), "{pass:#?}");
    }
    let pass = sandbox.cyyber(["-o", "json", "reap"]);
    assert_eq!(pass.code, Some(1), "{pass:#?}");
    let answer: Value = serde_json::from_str(&pass.stdout).unwrap();
    assert_eq!(answer["failed"], 1);
    assert_eq!(answer["actions"][0]["ok"], false);
    drop(too_small);
    assert_eq!(sandbox.state("7"), "idle");
    let journal = fs::read_to_string(sandbox.path("state/events.jsonl")).unwrap();
    let last: Value = serde_json::from_str(journal.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["action"], &last["ok"]),
        (&json!("reap"), &json!(false))
    );
    assert!(
        text(&last["reason"]).contains("140 MiB are needed"),
        "{last}"
    );

    sandbox.cyyber(["reap"]).ok();
    assert_eq!(sandbox.state("7"), "paused");
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn an_instance_that_cannot_be_made_leaves_nothing() {
    let sandbox = Sandbox::with_guests(0);
    sandbox.base(&sandbox.lab);
    // Inodes are scarce on the small disk: the base stays outside, and locks have theirs.
    sandbox.instance("create", "7", &[]).ok();
    sandbox.instance("cleanup", "7", &["--yes"]).ok();
    let overlays = sandbox.path("storage/user-instances");
    let disk = SmallDisk::on(&overlays, 600);
    let ballast = disk.exhaust();

    let error = sandbox.instance("create", "7", &[]).error_json(7);
    assert!(
        text(&error["message"]).contains("No space left"),
        "{error:#}"
    );
    assert!(sandbox.listed("7").is_null());
    assert!(!sandbox.overlay("7").exists());

    for file in ballast {
        fs::remove_file(file).unwrap();
    }
    sandbox.instance("create", "7", &[]).ok();
    sandbox.instance("cleanup", "7", &["--yes"]).ok();
}
