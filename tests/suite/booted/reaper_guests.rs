//! Four guests and a policy of seconds: at one somebody looks, in one somebody types, for one the
//! backend touches a file, and the fourth is nobody's. Two of them have an agent.

use crate::common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::host::{field, held_by_processes, idle_time};
use common::vnc::Client;
use common::world::own_world;
use common::{Sandbox, guest, lab, text, wait_until};
use serde_json::{Value, json};

/// How often a pass is made.
const INTERVAL: Duration = Duration::from_secs(5);

/// How long the whole ladder may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// A sandbox whose own lab has booted, and whose other lab stays in the firmware. No other guest boots
/// meanwhile: agents must answer in time.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::with_booting_guests(3);
    // What a guest waits for the processor counts as work, and here it waits a lot: not for this test.
    let policy = |boot_timeout: &str| {
        json!({
            "idle_after": "25s", "pause_after": "50s", "stop_after": "60s", "destroy_after": "70s",
            "destroy_grace": "5s", "destroy_notice": "5s", "boot_timeout": boot_timeout,
            "max_busy": "0s",
        })
    };
    let booted = guest::machine(&json!({"policy": policy("15m")}));
    let firmware = json!({"policy": policy("0s")});
    let labs = [
        lab(&sandbox.lab, &booted),
        lab(&sandbox.other_lab(), &firmware),
    ];
    sandbox.configure_labs(&labs);
    guest::warm_base(&sandbox, &sandbox.lab);
    sandbox.base(&sandbox.other_lab());
    sandbox
}

/// Instances of the lab that stays in the firmware.
fn other(sandbox: &Sandbox, verb: &str, user: &str) -> Value {
    let lab = sandbox.other_lab();
    let command = ["-o", "json", "instance", verb, &lab, user];
    sandbox.cyyber(command).json()
}

/// The CPU time that a guest takes, in percent of one CPU.
fn cpu_percent(sandbox: &Sandbox, user: &str) -> f64 {
    let look = || {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            // On a host this busy its QEMU does not always answer in time.
            let stats = sandbox.instance("stats", user, &[]).json();
            if let Some(time) = stats["cpu_time_ns"].as_u64() {
                return (Instant::now(), time);
            }
            assert!(Instant::now() < deadline, "its CPU time is never known");
        }
    };
    let (then, before) = look();
    sleep(Duration::from_secs(4));
    let (now, after) = look();
    (after - before) as f64 / now.duration_since(then).as_nanos() as f64 * 100.0
}

/// Makes a pass; what it did, by user.
fn pass(sandbox: &Sandbox) -> Vec<(String, String)> {
    let answer = sandbox.cyyber(["-o", "json", "reap"]).json();
    let actions = answer["actions"].as_array().unwrap();
    actions
        .iter()
        .map(|action| {
            assert_eq!(action["ok"], true, "{action:#}");
            let name = text(&action["instance"]);
            println!(
                "  {name}: {} to {}: {}",
                action["from"], action["to"], action["reason"]
            );
            let (_, user) = name.split_once("_user_").unwrap();
            // On a busy host, its agent may answer late; nothing else may bring it back up.
            if (user, &action["to"]) == ("nobody", &"running".into()) {
                let reason = text(&action["reason"]);
                assert!(
                    reason.contains("its guest's agent does not answer"),
                    "{action:#}"
                );
            }
            (user.to_owned(), text(&action["to"]))
        })
        .collect()
}

#[test]
#[ignore = "needs libvirt, QEMU and the cloud image: run by `make test`"]
fn the_one_that_nobody_uses_walks_the_ladder_and_it_alone() {
    own_world!();
    let sandbox = sandbox();
    for user in ["types", "nobody"] {
        sandbox.instance("start", user, &[]).ok();
    }
    other(&sandbox, "start", "touched");
    let viewed = other(&sandbox, "start", "views");
    let port = viewed["vnc_port"].as_u64().unwrap().try_into().unwrap();
    let (viewer, size) = Client::connect(port).enter(&text(&viewed["vnc_password"]));
    println!("a screen of {size:?} is looked at");
    let began = Instant::now();
    while ["types", "nobody"]
        .iter()
        .any(|user| sandbox.state(user) != "running")
    {
        assert!(began.elapsed() < guest::BOOTING, "no agent");
        sleep(Duration::from_secs(2));
    }
    println!("booted after {:?}", began.elapsed());
    let types = sandbox.instance_name("types");
    guest::shell(
        &types,
        "nohup sh -c 'while :; do :; done' >/dev/null 2>&1 &",
    );
    sleep(Duration::from_secs(2));
    let free = cpu_percent(&sandbox, "types");

    let pid = sandbox.qemu_pid("nobody").as_raw_nonzero();
    let status = format!("/proc/{pid}/status");
    let resident = field(&status, "RssAnon:") + field(&status, "RssShmem:");
    let before = held_by_processes();
    let mut freed = None;
    let mut steps: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut held, mut back, mut idle) = (None, None, 0.0);
    let began = Instant::now();
    for user in ["types", "nobody"] {
        sandbox.instance("touch", user, &[]).ok();
    }
    let has_come_to = |steps: &BTreeMap<String, Vec<String>>, user: &str, state: &str| {
        steps
            .get(user)
            .is_some_and(|steps| steps.last().unwrap() == state)
    };
    // On a busy host the agent of a busy guest answers late, and what is not known is not idle.
    while !has_come_to(&steps, "nobody", "destroyed") || !has_come_to(&steps, "types", "running") {
        assert!(began.elapsed() < PATIENCE, "{steps:#?}");
        other(&sandbox, "touch", "touched");
        // What the other guests take meanwhile is no business of the pass.
        let before_pass = held_by_processes();
        let done = pass(&sandbox);
        let did = |user: &str, to: &str| done.contains(&(user.to_owned(), to.to_owned()));
        for (user, to) in &done {
            println!("{:3} s: {user} is {to}", began.elapsed().as_secs());
            steps.entry(user.clone()).or_default().push(to.clone());
        }
        if did("nobody", "paused") {
            let gone = || !Path::new(&format!("/proc/{pid}")).exists();
            wait_until("its QEMU has ended", gone);
            freed = Some(before_pass.saturating_sub(held_by_processes()));
        }
        if held.is_some() && back.is_none() {
            assert!(did("types", "running"), "back within a pass: {done:?}");
            let (before, began) = (idle_time(), Instant::now());
            back = Some(cpu_percent(&sandbox, "types"));
            idle = (idle_time() - before).div_duration_f64(began.elapsed());
            // Others want the processor.
            guest::shell(&types, "pkill -f '[w]hile :; do :'; true");
        }
        if did("types", "idle") && held.is_none() {
            held = Some(cpu_percent(&sandbox, "types"));
            // A terminal with somebody who types.
            let typing = "(while :; do echo x; sleep 2; done) | script -qfc cat /dev/null";
            let typing = format!("nohup sh -c '{typing}' >/dev/null 2>&1 &");
            guest::shell(&types, &typing);
        }
        sleep(INTERVAL);
    }
    let (held, back, freed) = (held.unwrap(), back.unwrap(), freed.unwrap());
    println!("one busy CPU: {free:.0} %, idle {held:.0} %, typed at {back:.0} %");
    println!(
        "memory held by processes: {before} MiB before, {freed} MiB less when the unused one, of \
         {resident} MiB, was paused; {} MiB at the end",
        held_by_processes()
    );
    let used: Vec<_> = steps.keys().map(String::as_str).collect();
    assert_eq!(used, ["nobody", "types"], "{steps:#?}");
    // `pass` has looked at why it came back up, if it did.
    let mut down = steps["nobody"].clone();
    down.retain(|step| step != "running");
    down.dedup();
    assert_eq!(down, ["idle", "paused", "stopped", "destroyed"]);
    assert_eq!(steps["types"], ["idle", "running"]);
    assert_eq!(sandbox.state("types"), "running");
    for user in ["touched", "views"] {
        let seen = sandbox
            .cyyber(["-o", "json", "instance", "list", "--user", user])
            .json();
        assert_eq!(seen["instances"][0]["state"], "running", "{seen:#}");
    }
    assert!(sandbox.listed("nobody").is_null());
    assert!(!sandbox.overlay("nobody").exists());
    let journal = fs::read_to_string(sandbox.path("state/events.jsonl")).unwrap();
    assert!(journal.contains("; shut down by its guest"), "{journal}");
    // Half of one, and what QEMU's other threads take.
    assert!(held < 75.0, "{held}");
    // On a host without a moment to spare it gets no more than others leave it.
    assert!(
        back > held || idle < 0.1,
        "{back} after {held}, {idle} of a processor idle"
    );
    assert!(freed * 100 >= resident * 80, "{freed} of {resident} MiB");
    drop(viewer);
}
