//! Memory that is short: who is paused for whom, and who is not. What is available stands still, and
//! what guests may still take counts as taken, so none of it need be used up.

use crate::common;

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use common::world::{freeze_available_memory, own_world};
use common::{Sandbox, text};
use serde_json::{Value, json};

/// In MiB; with what QEMU needs beside it, a guest takes 896.
const MEMORY: u64 = 512;

/// Enough for three of them and for the host, and not for four.
const AVAILABLE: u64 = 1024 + 3 * 896 + 300;

fn configure(sandbox: &Sandbox, host: &Value) {
    sandbox.configure(&json!({"memory_mb": MEMORY, "policy": {"boot_timeout": "0s"}}));
    let file = sandbox.path("labs-config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let settings = config["host"].as_object_mut().unwrap();
    settings.extend(host.as_object().unwrap().clone());
    sandbox.write_config(&config.to_string());
}

fn unused(sandbox: &Sandbox, user: &str, minutes: u64) {
    let name = sandbox.instance_name(user);
    let file = File::options()
        .write(true)
        .open(sandbox.path("state/activity").join(name));
    let at = SystemTime::now() - Duration::from_secs(60 * minutes);
    file.unwrap().set_modified(at).unwrap();
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_start_has_the_fewest_paused_that_nobody_uses() {
    own_world!();
    let sandbox = Sandbox::with_guests(4);
    sandbox.base(&sandbox.lab);
    configure(&sandbox, &json!({}));
    freeze_available_memory(&sandbox);
    let meminfo = format!(
        "MemTotal: {} kB\nMemAvailable: {} kB\n",
        64 << 20,
        AVAILABLE << 10
    );
    fs::write(sandbox.path("meminfo"), meminfo).unwrap();
    for user in ["kept", "long", "used"] {
        sandbox.instance("start", user, &[]).ok();
    }
    unused(&sandbox, "long", 60);
    sandbox.instance("start", "new", &[]).error_json(7);
    assert_eq!(sandbox.state("long"), "running", "no pass has looked");
    for user in ["kept", "long", "used"] {
        sandbox.instance("touch", user, &[]).ok();
    }
    for _ in 0..2 {
        sandbox.cyyber(["reap"]).ok();
    }
    sandbox.instance("keep", "kept", &["--until", "1h"]).ok();
    unused(&sandbox, "kept", 200);
    unused(&sandbox, "long", 60);
    unused(&sandbox, "used", 9);

    // Off by the configuration.
    configure(&sandbox, &json!({"displace": false}));
    sandbox.instance("start", "new", &[]).error_json(7);
    configure(&sandbox, &json!({}));
    let started = sandbox.instance("start", "new", &[]).json();
    let long = sandbox.instance_name("long");
    assert_eq!(started["displaced"], json!([long]), "{started:#}");
    let states = ["kept", "long", "used", "new"].map(|user| sandbox.state(user));
    assert_eq!(states, ["running", "paused", "running", "running"]);
    let reason = text(&sandbox.listed("long")["reason"]);
    let wanted = format!(
        "paused to make room for {}; not used for 1h: its activity file",
        sandbox.instance_name("new")
    );
    assert!(reason.ends_with(&wanted), "{reason}");

    // Nobody is left.
    let error = sandbox.instance("resume", "long", &[]).error_json(7);
    let said = text(&error["message"]);
    assert!(said.contains("it needs 896 MiB and"), "{said}");
    // Somebody is, and whose is not told to anyone else.
    unused(&sandbox, "used", 30);
    let resumed = sandbox
        .instance("resume", "long", &["--as-user", "long"])
        .json();
    assert_eq!(resumed["state"], "running", "{resumed:#}");
    assert_eq!(resumed["displaced"], Value::Null, "{resumed:#}");
    assert_eq!(sandbox.state("used"), "paused");

    // A pass does the same for the host.
    unused(&sandbox, "new", 15);
    unused(&sandbox, "long", 5);
    configure(&sandbox, &json!({"min_available_memory": "64G"}));
    let pass = sandbox.cyyber(["-o", "json", "reap"]).json();
    let paused = pass["actions"].as_array().unwrap().last().unwrap();
    assert_eq!(paused["instance"], sandbox.instance_name("new"), "{pass:#}");
    assert_eq!(paused["to"], "paused", "{pass:#}");
    let states = ["kept", "long", "new"].map(|user| sandbox.state(user));
    assert_eq!(states, ["running", "running", "paused"]);
}
