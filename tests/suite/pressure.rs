//! Memory that is short: who is paused for whom, and who is not. What is available stands still, and
//! what guests may still take counts as taken, so none of it need be used up.

use crate::common;

use std::fs::{self, File};
use std::time::{Duration, Instant, SystemTime};

use common::world::{freeze_available_memory, own_world};
use common::{Sandbox, is_thorough, text, wait_until};
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

/// How many are paused for one another, and come back: thirty where there is time.
fn many() -> u64 {
    let asked = std::env::var("CYYBER_MANY").ok();
    let asked = asked.and_then(|count| count.parse().ok());
    asked.unwrap_or(if is_thorough() { 30 } else { 6 })
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_class_is_paused_for_another_and_comes_back() {
    own_world!();
    let count = many();
    // As many as may run beside those of other tests; these take little of a processor.
    let sandbox = Sandbox::with_guests(6);
    sandbox.base(&sandbox.lab);
    configure(&sandbox, &json!({}));
    freeze_available_memory(&sandbox);
    // Of a guest whose QEMU is busy nothing is told.
    let taken = || -> Option<u64> {
        let stats = sandbox.cyyber(["-o", "json", "instance", "stats"]).json();
        let all = stats["instances"].as_array().unwrap().iter();
        let running = all.filter(|it| it["state"] == "running");
        running.map(|it| it["memory_used_mb"].as_u64()).sum()
    };
    // Enough for so many, of whom those that run have taken some of it.
    let meminfo = || {
        let mut now = None;
        wait_until("it is known what guests have taken", || {
            now = taken();
            now.is_some()
        });
        let available = 1024 + count * 896 + 450 - now.unwrap();
        let (total, available) = (256 << 20, available << 10);
        let text = format!("MemTotal: {total} kB\nMemAvailable: {available} kB\n");
        fs::write(sandbox.path("meminfo"), text).unwrap();
    };
    meminfo();
    let user = |class: &str, n: u64| format!("{class}{n}");
    let all = |class: &str| (0..count).map(|n| user(class, n)).collect::<Vec<_>>();
    for user in all("first") {
        sandbox.instance("start", &user, &[]).ok();
    }
    for _ in 0..2 {
        sandbox.cyyber(["reap"]).ok();
    }
    // Each has one paused, the one that was not used for longest, and comes to an end of them.
    for (n, user) in all("first").iter().enumerate() {
        unused(&sandbox, user, 300 - n as u64);
    }
    let began = Instant::now();
    for n in 0..count {
        meminfo();
        let started = sandbox.instance("start", &user("second", n), &[]).json();
        let displaced = [sandbox.instance_name(&user("first", n))];
        assert_eq!(started["displaced"], json!(displaced), "{n}: {started:#}");
    }
    println!("{count} displaced in {:?}", began.elapsed());
    let states = |class: &str, wanted: &str| {
        for user in all(class) {
            assert_eq!(sandbox.state(&user), wanted, "{user}");
        }
    };
    states("first", "paused");
    // The class of before comes back, in the place of the other.
    for (n, user) in all("second").iter().enumerate() {
        unused(&sandbox, user, 300 - n as u64);
    }
    let began = Instant::now();
    for n in 0..count {
        meminfo();
        let resumed = sandbox.instance("resume", &user("first", n), &[]).json();
        assert_eq!(resumed["state"], "running", "{n}: {resumed:#}");
        let displaced = [sandbox.instance_name(&user("second", n))];
        assert_eq!(resumed["displaced"], json!(displaced), "{n}: {resumed:#}");
    }
    println!(
        "{count} restored, and as many displaced, in {:?}",
        began.elapsed()
    );
    states("first", "running");
    states("second", "paused");
}
