//! Work counts as use: a guest that calculates, one that does nothing, and one that never stops. No
//! system boots in them: a disk's first sector is a program as well.

use crate::common;

use std::fs::{self, File};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use common::{Sandbox, run, tool};
use serde_json::{Value, json};

/// Longer than passes measure over at least.
const MEASURED: Duration = Duration::from_secs(35);

/// A boot sector that jumps to itself: it takes all of a CPU.
fn busy_sector() -> Vec<u8> {
    let mut sector = vec![0; 512];
    sector[..2].copy_from_slice(&[0xeb, 0xfe]);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// Has the stopped instance of `user` calculate once it is started.
fn make_busy(sandbox: &Sandbox, user: &str) {
    let sector = sandbox.path("sector");
    fs::write(&sector, busy_sector()).unwrap();
    let write = format!("write -s {} 0 512", sector.display());
    run(tool("qemu-io")
        .args(["-f", "qcow2", "-c", &write])
        .arg(sandbox.overlay(user)));
}

fn unused(sandbox: &Sandbox, user: &str, minutes: u64) {
    let file = sandbox
        .path("state/activity")
        .join(sandbox.instance_name(user));
    let at = SystemTime::now() - Duration::from_secs(60 * minutes);
    let file = File::options().write(true).open(file).unwrap();
    file.set_modified(at).unwrap();
}

fn row(sandbox: &Sandbox, user: &str) -> Value {
    let told = sandbox.cyyber(["-o", "json", "reap", "--dry-run"]).json();
    let all = told["instances"].as_array().unwrap();
    let name = sandbox.instance_name(user);
    let found = all.iter().find(|row| row["instance"] == name);
    found.unwrap().clone()
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_guest_that_calculates_is_in_use_and_a_miner_only_for_so_long() {
    let sandbox = Sandbox::with_guests(3);
    sandbox.base(&sandbox.lab);
    sandbox.configure(&json!({"vcpus": 1, "policy": {"boot_timeout": "0s"}}));
    for user in ["works", "mines", "rests"] {
        sandbox.instance("create", user, &[]).ok();
        if user != "rests" {
            make_busy(&sandbox, user);
        }
        sandbox.instance("start", user, &[]).ok();
    }
    // Firmware takes a moment as well.
    sleep(Duration::from_secs(15));
    sandbox.cyyber(["reap"]).ok();
    let unmeasured = row(&sandbox, "works");
    assert_eq!(unmeasured["signs"]["work"]["note"], "not measured");
    for (user, minutes) in [("works", 60), ("mines", 260), ("rests", 60)] {
        unused(&sandbox, user, minutes);
    }
    sleep(MEASURED);
    let works = row(&sandbox, "works");
    assert_eq!(works["source"], "work", "{works:#}");
    assert_eq!(works["step"], Value::Null, "{works:#}");
    let age = works["signs"]["work"]["age_seconds"].as_i64();
    assert_eq!(age, Some(0), "{works:#}");
    assert_eq!(works["reason"], "in use now: its CPU time");
    let rests = row(&sandbox, "rests");
    assert_eq!(rests["signs"]["work"]["note"], "below policy.busy_cpu");

    sandbox.cyyber(["reap"]).ok();
    assert_eq!(sandbox.state("works"), "running");
    assert_eq!(sandbox.state("mines"), "idle", "for more than four hours");
    assert_eq!(sandbox.state("rests"), "idle");
    sandbox.cyyber(["reap"]).ok();
    assert_eq!(sandbox.state("works"), "running");
    assert_eq!(sandbox.state("mines"), "paused");
    assert_eq!(sandbox.state("rests"), "paused");
    // Off by the configuration.
    sandbox.configure(&json!({"vcpus": 1, "policy": {"boot_timeout": "0s", "max_busy": "0s"}}));
    assert_eq!(row(&sandbox, "works")["step"], "idle");
}
