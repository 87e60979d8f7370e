//! Passes of the reaper on the real hypervisor: the whole ladder, signs that make no sense, outages,
//! and who is left alone. The guests have empty disks and stay in their firmware.
//!
//! Nobody waits here: the time since the last use is what the activity file says, and what passes
//! saw is in a file as well.

use crate::common;

use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use common::vnc::Client;
use common::world::own_world;
use common::{Run, Sandbox, files_below, run, text, tool, virsh};
use cyyber::state::lock::Lock;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// A sandbox for `count` guests, which count as running at once.
fn sandbox(count: usize) -> Sandbox {
    let sandbox = Sandbox::with_guests(count);
    sandbox.base(&sandbox.lab);
    sandbox.configure(&json!({"policy": {"boot_timeout": "0s"}}));
    sandbox
}

fn activity(sandbox: &Sandbox, user: &str) -> PathBuf {
    sandbox
        .path("state/activity")
        .join(sandbox.instance_name(user))
}

/// Makes the last use of an instance one of so many minutes ago.
fn unused(sandbox: &Sandbox, user: &str, minutes: u64) {
    let at = SystemTime::now() - Duration::from_secs(60 * minutes);
    let file = File::options().write(true).open(activity(sandbox, user));
    file.unwrap().set_modified(at).unwrap();
}

fn reap(sandbox: &Sandbox, options: &[&str]) -> Run {
    let command = ["reap", "--timeout", "0s"];
    sandbox.cyyber(command.iter().chain(options))
}

/// Makes a pass that says nothing.
#[track_caller]
fn silent_pass(sandbox: &Sandbox) {
    let pass = reap(sandbox, &[]).ok();
    assert_eq!((&*pass.stdout, &*pass.stderr), ("", ""));
}

/// The steps of a pass: of whom, from where, to where.
#[track_caller]
fn steps(sandbox: &Sandbox) -> Vec<(String, String, String)> {
    let pass = reap(sandbox, &["-o", "json"]).json();
    assert_eq!(pass["failed"], 0, "{pass:#}");
    let actions = pass["actions"].as_array().unwrap();
    let of = |action: &Value, key: &str| text(&action[key]);
    actions
        .iter()
        .map(|action| {
            assert_eq!(action["ok"], true, "{action:#}");
            let (_, user) = action["instance"]
                .as_str()
                .unwrap()
                .split_once("_user_")
                .unwrap();
            (user.to_owned(), of(action, "from"), of(action, "to"))
        })
        .collect()
}

#[track_caller]
fn assert_steps(sandbox: &Sandbox, wanted: &[(&str, &str, &str)]) {
    let steps = steps(sandbox);
    let steps: Vec<_> = steps.iter().map(|(u, f, t)| (&**u, &**f, &**t)).collect();
    assert_eq!(steps, wanted);
}

/// What passes remember.
fn passes(sandbox: &Sandbox) -> Value {
    serde_json::from_slice(&fs::read(sandbox.path("state/reaper.json")).unwrap()).unwrap()
}

fn write_passes(sandbox: &Sandbox, passes: &Value) {
    fs::write(sandbox.path("state/reaper.json"), passes.to_string()).unwrap();
}

fn hours_ago(hours: i64) -> String {
    (Timestamp::now() - SignedDuration::from_hours(hours)).to_string()
}

/// Has passes remember that an instance is stopped, and its end announced, for so many hours.
fn seen_stopped_for(sandbox: &Sandbox, user: &str, hours: i64) {
    let mut passes = passes(sandbox);
    let seen = &mut passes["seen"][sandbox.instance_name(user)];
    assert!(seen["stopped_since"].is_string(), "{seen}");
    seen["stopped_since"] = hours_ago(hours).into();
    seen["announced"] = json!({"at": hours_ago(hours), "told": true});
    write_passes(sandbox, &passes);
}

fn quota(domain: &str) -> String {
    let all = virsh(["schedinfo", "--live", "--", domain]);
    let line = all.lines().find(|line| line.starts_with("vcpu_quota"));
    line.unwrap().split(':').nth(1).unwrap().trim().to_owned()
}

/// The journal's lines on an instance: action, from, to, reason.
fn journal(sandbox: &Sandbox, user: &str) -> Vec<Value> {
    let journal = fs::read_to_string(sandbox.path("state/events.jsonl")).unwrap();
    let events = journal
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(|event| event["user_id"] == user).collect()
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn an_instance_that_nobody_uses_walks_the_whole_ladder() {
    let sandbox = sandbox(1);
    sandbox.instance("start", "7", &[]).ok();
    let name = sandbox.instance_name("7");
    // The first one only looks.
    unused(&sandbox, "7", 11);
    silent_pass(&sandbox);
    assert_eq!(sandbox.state("7"), "running");

    unused(&sandbox, "7", 11);
    silent_pass(&sandbox);
    let listed = sandbox.listed("7");
    assert_eq!(listed["state"], "idle");
    let reason = text(&listed["reason"]);
    assert!(
        reason.ends_with("; not used for 11m: its activity file"),
        "{reason}"
    );
    assert_eq!(quota(&name), "50000");

    // Back within a pass.
    unused(&sandbox, "7", 1);
    assert_steps(&sandbox, &[("7", "idle", "running")]);
    assert_ne!(quota(&name), "50000");
    assert_eq!(
        sandbox.listed("7")["reason"],
        "no answer from the guest agent within the boot timeout of 0s"
    );

    // One rung at a time, however long it was.
    unused(&sandbox, "7", 60 * 25);
    assert_steps(&sandbox, &[("7", "running", "idle")]);
    assert_steps(&sandbox, &[("7", "idle", "paused")]);
    let reason = text(&sandbox.listed("7")["reason"]);
    assert_eq!(
        reason,
        "memory saved to disk; not used for 1d 1h: its activity file"
    );
    // Its firmware does not shut down, which is no mail to the administrator.
    silent_pass(&sandbox);
    assert_eq!(sandbox.state("7"), "stopped");
    for _ in 0..2 {
        assert_steps(&sandbox, &[]);
    }
    seen_stopped_for(&sandbox, "7", 2);
    assert_steps(&sandbox, &[("7", "stopped", "destroyed")]);
    assert!(sandbox.listed("7").is_null());
    assert!(!sandbox.overlay("7").exists());
    assert!(!activity(&sandbox, "7").exists());

    let journal = journal(&sandbox, "7");
    let walked: Vec<_> = journal
        .iter()
        .map(|e| (&e["action"], &e["from"], &e["to"]))
        .collect();
    let (running, idle, stopped) = (json!("running"), json!("idle"), json!("stopped"));
    let (paused, gone) = (json!("paused"), Value::Null);
    let (start, reap, announce) = (json!("start"), json!("reap"), json!("announce"));
    assert_eq!(
        walked,
        [
            (&start, &gone, &running),
            (&reap, &running, &idle),
            (&reap, &idle, &running),
            (&reap, &running, &idle),
            (&reap, &idle, &paused),
            (&reap, &paused, &stopped),
            (&announce, &stopped, &stopped),
            (&reap, &stopped, &gone),
        ]
    );
    for event in &journal[1..] {
        assert_eq!(
            (&event["who"], &event["ok"]),
            (&json!("reap"), &json!(true))
        );
        assert!(event["duration_ms"].is_u64(), "{event}");
        assert!(text(&event["time"]).parse::<Timestamp>().is_ok(), "{event}");
        let reason = text(&event["reason"]);
        assert!(reason.contains("its activity file"), "{event}");
    }
    let reason = text(&journal[5]["reason"]);
    assert!(
        reason.ends_with("; powered off: its guest did not shut down within 0s"),
        "{reason}"
    );
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_start_warns_where_no_pass_knows_its_lab_and_a_pass_tells_whom_it_leaves() {
    let sandbox = sandbox(1);
    let start = || {
        let started = sandbox.instance("start", "7", &[]).ok();
        let document: Value = serde_json::from_str(&started.stdout).unwrap();
        assert_eq!(document["lab_id"], *sandbox.lab);
        started.stderr
    };
    let warning = start();
    assert!(warning.contains("no reaper covers"), "{warning}");
    assert!(warning.contains("there was no pass"), "{warning}");
    let name = sandbox.instance_name("7");
    unused(&sandbox, "7", 1);
    let pass = reap(&sandbox, &["-v"]).ok();
    let wanted = format!("{name}: left alone: not used for");
    assert!(pass.stderr.contains(&wanted), "{pass:#?}");
    assert_eq!(start(), "");

    // Passes by the configuration of others.
    let ours = fs::read_to_string(sandbox.path("labs-config.json")).unwrap();
    let theirs = ours.replace(&sandbox.lab, &sandbox.other_lab());
    let file = sandbox.path("theirs.json");
    fs::write(&file, theirs).unwrap();
    let pass = reap(&sandbox, &["-v", "--config", file.to_str().unwrap()]).ok();
    let wanted = format!("{name}: left alone: its lab is not configured");
    assert!(pass.stderr.contains(&wanted), "{pass:#?}");
    assert_eq!(start(), "", "ours made one a moment ago");
    let notes = sandbox.path("state/reaper-labs.json");
    let mut noted: Value = serde_json::from_slice(&fs::read(&notes).unwrap()).unwrap();
    let our_file = sandbox.path("labs-config.json");
    noted[our_file.to_str().unwrap()]["at"] = hours_ago(1).into();
    fs::write(&notes, noted.to_string()).unwrap();
    let warning = start();
    assert!(
        warning.contains(&format!(
            "reads {}, which does not have this lab",
            file.display()
        )),
        "{warning}"
    );
    fs::write(&notes, "{").unwrap();
    let warning = start();
    assert!(warning.contains("its passes are unknown"), "{warning}");

    // Nobody is ever taken down.
    let steps = ["idle_after", "pause_after", "stop_after", "destroy_after"];
    let never = steps.map(|step| (step.to_owned(), json!("never")));
    let never: serde_json::Map<_, _> = never.into_iter().collect();
    sandbox.configure(&json!({"policy": never}));
    assert_eq!(start(), "");
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_dry_run_tells_all_and_changes_nothing() {
    let sandbox = sandbox(1);
    sandbox.instance("start", "7", &[]).ok();
    sandbox.instance("create", "8", &[]).ok();
    silent_pass(&sandbox);
    unused(&sandbox, "7", 15);
    unused(&sandbox, "8", 60);
    let before = files_below(&sandbox.path("state"));
    let times = |user| {
        fs::metadata(activity(&sandbox, user))
            .unwrap()
            .modified()
            .unwrap()
    };
    let used = [times("7"), times("8")];

    let told = reap(&sandbox, &["-o", "json", "--dry-run"]).json();
    assert_eq!(told["dry_run"], true);
    let row = |user: &str| {
        let name = sandbox.instance_name(user);
        let all = told["instances"].as_array().unwrap();
        all.iter().find(|row| row["instance"] == name).unwrap()
    };
    let seven = row("7");
    assert_eq!(seven["state"], "running");
    assert_eq!(seven["source"], "touched");
    assert_eq!(seven["step"], "idle");
    let age = seven["signs"]["touched"]["age_seconds"].as_i64().unwrap();
    assert!((900..1000).contains(&age), "{seven:#}");
    assert_eq!(seven["signs"]["guest"]["note"], "no agent", "{seven:#}");
    assert_eq!(seven["signs"]["console"]["note"], "none seen", "{seven:#}");
    let eight = row("8");
    assert_eq!(
        (&eight["step"], &eight["next"]),
        (&Value::Null, &json!("destroyed"))
    );
    let at: Timestamp = text(&eight["next_at"]).parse().unwrap();
    let hours = at.duration_since(Timestamp::now()).as_secs_f64() / 3600.0;
    assert!((22.9..23.1).contains(&hours), "{eight:#}");
    let actions = told["actions"].as_array().unwrap();
    let ours = |action: &&Value| text(&action["instance"]).starts_with(&sandbox.lab);
    assert_eq!(actions.iter().filter(ours).count(), 1, "{told:#}");

    let table = reap(&sandbox, &["--dry-run"]).ok().stdout;
    let line = table
        .lines()
        .find(|line| line.contains(&sandbox.instance_name("7")));
    let line = line.unwrap();
    for word in [
        "running",
        "15m",
        "idle now",
        "not used for 15m: its activity file",
    ] {
        assert!(line.contains(word), "{table}");
    }
    assert_eq!(files_below(&sandbox.path("state")), before);
    assert_eq!([times("7"), times("8")], used);
    assert_eq!(sandbox.state("7"), "running");
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn so_many_steps_are_taken_at_once_as_jobs_says() {
    let sandbox = sandbox(2);
    sandbox.configure(&json!({"policy": {
        "boot_timeout": "0s", "idle_after": "never", "pause_after": "never", "stop_after": "1m",
    }}));
    let mut at_once = Vec::new();
    for jobs in ["1", "2"] {
        for user in ["7", "8"] {
            sandbox.instance("start", user, &[]).ok();
            unused(&sandbox, user, 5);
        }
        // The first one only looks.
        for _ in 0..2 {
            let pass = ["reap", "--jobs", jobs, "--timeout", "2s"];
            sandbox.cyyber(pass).ok();
        }
        // Each took the two seconds that its guest did not use.
        let mut steps = ["7", "8"].map(|user| {
            let event = journal(&sandbox, user).pop().unwrap();
            assert_eq!(
                (&event["who"], &event["to"]),
                (&json!("reap"), &json!("stopped"))
            );
            let end = text(&event["time"]).parse::<Timestamp>().unwrap();
            let took = event["duration_ms"].as_i64().unwrap();
            assert!(took >= 2000, "{event}");
            (end - SignedDuration::from_millis(took), end)
        });
        steps.sort();
        at_once.push(steps[1].0 < steps[0].1 - SignedDuration::from_millis(1000));
    }
    assert_eq!(at_once, [false, true]);
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn signs_that_make_no_sense_are_use_and_who_is_not_ours_is_left() {
    let sandbox = sandbox(0);
    let users = [
        "old",
        "link",
        "directory",
        "pipe",
        "garbage",
        "1970",
        "2100",
        "missing",
    ];
    let class = users.join("\n");
    fs::write(sandbox.path("class"), class).unwrap();
    let file = sandbox.path("class");
    let create = ["instance", "create", &sandbox.lab, "--users-from"];
    sandbox
        .cyyber(create.iter().map(AsRef::as_ref).chain([file.as_os_str()]))
        .ok();
    // Of somebody else, and one of ours that was renamed by hand.
    let foreign = format!("{}_user_foreign", sandbox.lab);
    let renamed = format!("{}-renamed", sandbox.lab);
    for (name, uuid) in [
        (&foreign, "11111111-2222-4333-8444-555555555555".to_owned()),
        (
            &renamed,
            cyyber::hypervisor::xml::domain::new_uuid().to_string(),
        ),
    ] {
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>64</memory>\
             <os><type arch='x86_64'>hvm</type></os></domain>"
        );
        fs::write(sandbox.path("domain.xml"), xml).unwrap();
        let path = sandbox.path("domain.xml");
        virsh(["define", path.to_str().unwrap()]);
        fs::write(sandbox.path("state/activity").join(name), "").unwrap();
        let file = File::options()
            .write(true)
            .open(sandbox.path("state/activity").join(name));
        file.unwrap()
            .set_modified(SystemTime::now() - Duration::from_secs(100 * 3600))
            .unwrap();
    }
    for user in users {
        unused(&sandbox, user, 60 * 100);
    }
    silent_pass(&sandbox);
    for user in users {
        seen_stopped_for(&sandbox, user, 48);
    }

    let of = |user| activity(&sandbox, user);
    for user in ["link", "directory", "pipe", "missing"] {
        fs::remove_file(of(user)).unwrap();
    }
    let elsewhere = sandbox.path("elsewhere");
    fs::write(&elsewhere, "").unwrap();
    let old = SystemTime::now() - Duration::from_secs(100 * 3600);
    let file = File::options().write(true).open(&elsewhere).unwrap();
    file.set_modified(old).unwrap();
    symlink(&elsewhere, of("link")).unwrap();
    fs::create_dir(of("directory")).unwrap();
    run(tool("mkfifo").arg(of("pipe")));
    let set = |user, at| {
        let file = File::options().write(true).open(of(user)).unwrap();
        file.set_modified(at).unwrap();
    };
    set("1970", SystemTime::UNIX_EPOCH);
    set(
        "2100",
        SystemTime::UNIX_EPOCH + Duration::from_secs(4_102_444_800),
    );
    set(
        "garbage",
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000),
    );

    let mut command = sandbox.command(["-o", "json", "reap"]);
    let pass = Run::within(Duration::from_secs(20), &mut command).ok();
    let answer: Value = serde_json::from_str(&pass.stdout).unwrap();
    let actions = answer["actions"].as_array().unwrap();
    assert_eq!(actions.len(), 1, "{answer:#}");
    assert_eq!(actions[0]["instance"], sandbox.instance_name("old"));
    for (user, said) in [
        ("link", "is not a regular file"),
        ("directory", "is not a regular file"),
        ("pipe", "is not a regular file"),
        ("1970", "implausible time, 1970-01-01T00:00:00Z"),
        ("2100", "implausible time, 2100-01-01T00:00:00Z"),
        ("garbage", "implausible time, 2017-07-14T02:40:00Z"),
        ("missing", "is missing"),
    ] {
        let name = sandbox.instance_name(user);
        let line = pass
            .stderr
            .lines()
            .find(|line| line.contains(&format!("{name}:")));
        let line = line.unwrap_or_else(|| panic!("{user}: {pass:#?}"));
        assert!(line.starts_with("warning: "), "{line}");
        assert!(line.contains(said), "{line}");
        assert!(line.contains("counts as active"), "{line}");
        assert!(sandbox.overlay(user).exists());
    }
    assert_eq!(fs::metadata(&elsewhere).unwrap().modified().unwrap(), old);
    assert!(of("missing").is_file());
    // That was said.
    silent_pass(&sandbox);
    for name in [&foreign, &renamed] {
        assert_ne!(virsh(["domuuid", "--", name]), "", "{name}");
    }
    assert_eq!(answer["checked"].as_u64().map(|n| n >= 8), Some(true));
    assert!(!pass.stdout.contains("foreign"), "{}", pass.stdout);
}

/// Has passes run a program of ours, which is `script`, for what they announce.
fn notify(sandbox: &Sandbox, script: &str) {
    let program = sandbox.path("notify");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    let file = sandbox.path("labs-config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["host"]["notify"] = "notify".into();
    sandbox.write_config(&config.to_string());
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn an_end_is_announced_once_and_long_enough_before_it_comes() {
    let sandbox = sandbox(0);
    let told = sandbox.path("told");
    notify(&sandbox, &format!("cat >> {}", told.display()));
    for user in ["7", "8"] {
        sandbox.instance("create", user, &[]).ok();
        assert_eq!(sandbox.listed(user)["next_step"], "destroyed");
    }
    silent_pass(&sandbox);
    unused(&sandbox, "7", 25 * 60);
    unused(&sandbox, "8", 21 * 60);
    let hours = |user: &str| {
        let listed = sandbox.listed(user);
        assert_eq!(listed["next_step"], "destroyed", "{listed:#}");
        let at: Timestamp = text(&listed["next_step_at"]).parse().unwrap();
        at.duration_since(Timestamp::now()).as_secs_f64() / 3600.0
    };
    assert!((1.9..2.1).contains(&hours("7")), "{}", hours("7"));
    for _ in 0..3 {
        silent_pass(&sandbox);
    }
    let lines = fs::read_to_string(&told).unwrap();
    assert_eq!(lines.lines().count(), 1, "{lines}");
    let line: Value = serde_json::from_str(&lines).unwrap();
    assert_eq!(line["event"], "destroy_notice");
    assert_eq!(line["instance"], sandbox.instance_name("7"));
    assert_eq!(
        (&line["state"], &line["next_step"]),
        (&json!("stopped"), &json!("destroyed"))
    );
    let seconds = line["idle_seconds"].as_i64().unwrap();
    assert!((90_000..90_100).contains(&seconds), "{line:#}");
    let at: Timestamp = text(&line["next_step_at"]).parse().unwrap();
    let listed: Timestamp = text(&sandbox.listed("7")["next_step_at"]).parse().unwrap();
    assert!(at.duration_since(listed).abs() < SignedDuration::from_secs(30));
    let announced = || {
        let journal = journal(&sandbox, "7");
        let lines = journal.iter().filter(|line| line["action"] == "announce");
        lines.count()
    };
    assert_eq!(announced(), 1);
    let table = sandbox.cyyber(["instance", "list"]).ok().stdout;
    assert!(table.contains("destroyed in 1h"), "{table}");
    assert!((2.9..3.1).contains(&hours("8")), "{}", hours("8"));

    // Seen stopped for long enough, and not announced.
    seen_stopped_for(&sandbox, "7", 5);
    let mut noted = passes(&sandbox);
    noted["seen"][sandbox.instance_name("7")]["announced"] = Value::Null;
    write_passes(&sandbox, &noted);
    assert_steps(&sandbox, &[]);
    assert_eq!(announced(), 2);
    // Used again.
    sandbox.instance("touch", "7", &[]).ok();
    silent_pass(&sandbox);
    assert!((23.9..24.1).contains(&hours("7")), "{}", hours("7"));
    let seen = &passes(&sandbox)["seen"][sandbox.instance_name("7")];
    assert!(seen["announced"].is_null(), "{seen}");

    // A program that fails is a warning, and not run again.
    unused(&sandbox, "8", 25 * 60);
    notify(&sandbox, "echo x >> told; exit 3");
    let pass = reap(&sandbox, &[]).ok();
    assert!(pass.stderr.contains("host.notify failed"), "{pass:#?}");
    assert!(pass.stderr.contains("exit status: 3"), "{pass:#?}");
    silent_pass(&sandbox);
    let failed = journal_of_failures(&sandbox, "8");
    assert_eq!(failed, ["notify"]);
    seen_stopped_for(&sandbox, "8", 2);
    assert_steps(&sandbox, &[("8", "stopped", "destroyed")]);

    // One that others can write is not run.
    unused(&sandbox, "7", 25 * 60);
    let program = sandbox.path("notify");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o777)).unwrap();
    let pass = reap(&sandbox, &[]).ok();
    assert!(pass.stderr.contains("cannot be trusted"), "{pass:#?}");
}

/// What failed, by the journal.
fn journal_of_failures(sandbox: &Sandbox, user: &str) -> Vec<String> {
    let journal = journal(sandbox, user);
    let failed = journal.iter().filter(|line| line["ok"] == false);
    failed.map(|line| text(&line["action"])).collect()
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn after_an_outage_a_boot_or_a_set_clock_a_pass_only_looks() {
    let sandbox = sandbox(1);
    sandbox.instance("start", "7", &[]).ok();
    sandbox.instance("create", "8", &[]).ok();
    silent_pass(&sandbox);
    let three_days = 3 * 86_400;
    let now = cyyber::clock::Moment::now();
    let uptime = |seconds: i64| json!(now.uptime - SignedDuration::from_secs(seconds));
    for (what, change) in [
        (
            "three days without a pass",
            json!({"at": hours_ago(72), "uptime": uptime(three_days)}),
        ),
        (
            "a boot of the host",
            json!({"host_boot": "0f0f0f0f-0000-4000-8000-000000000000"}),
        ),
        ("a clock that was set", json!({"uptime": uptime(7200)})),
        (
            "a clock that was set back",
            json!({"at": (Timestamp::now() + SignedDuration::from_hours(5)).to_string()}),
        ),
    ] {
        unused(&sandbox, "7", 11);
        unused(&sandbox, "8", 60 * 100);
        let _ = steps(&sandbox);
        sandbox.instance("touch", "7", &[]).ok();
        unused(&sandbox, "7", 11);
        seen_stopped_for(&sandbox, "8", 48);
        let mut passes = passes(&sandbox);
        passes["last"]
            .as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        passes["trusted_from"] = Value::Null;
        write_passes(&sandbox, &passes);

        let pass = reap(&sandbox, &["-o", "json"]).ok();
        let clock = what.contains("clock");
        assert_eq!(
            pass.stderr.contains("clock was set"),
            clock,
            "{what}: {pass:#?}"
        );
        let answer: Value = serde_json::from_str(&pass.stdout).unwrap();
        assert_eq!(answer["actions"], json!([]), "{what}");
        // What was seen before it counts no more; and times of another clock tell nothing.
        let wanted: &[_] = if clock {
            &[]
        } else {
            &[("7", "running", "idle")]
        };
        assert_steps(&sandbox, wanted);
        assert_eq!(sandbox.state("8"), "stopped", "{what}");
    }
    // Garbage in place of what passes saw is nothing seen.
    seen_stopped_for(&sandbox, "8", 48);
    fs::write(sandbox.path("state/reaper.json"), "{").unwrap();
    for _ in 0..2 {
        let steps = steps(&sandbox);
        assert!(steps.iter().all(|(user, ..)| user != "8"), "{steps:?}");
    }
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn kept_busy_and_never_are_left_alone() {
    let sandbox = sandbox(1);
    sandbox.instance("start", "7", &[]).ok();
    silent_pass(&sandbox);

    let past = sandbox.instance("keep", "7", &["--until", "2026-01-01"]);
    past.error_json(2);
    let kept = sandbox.instance("keep", "7", &["--until", "1h"]).json();
    assert_eq!(kept["changed"], true);
    assert_eq!(sandbox.listed("7")["kept_until"], kept["kept_until"]);
    unused(&sandbox, "7", 60 * 100);
    assert_steps(&sandbox, &[]);
    let off = sandbox.instance("keep", "7", &["--until", "off"]).json();
    assert_eq!(
        (&off["changed"], &off["kept_until"]),
        (&json!(true), &Value::Null)
    );
    let again = sandbox.instance("keep", "7", &["--until", "off"]).json();
    assert_eq!(again["changed"], false);

    // At work on it.
    let locks = sandbox.path("state/locks");
    let lock = locks.join(format!("{}.lock", sandbox.instance_name("7")));
    let held = Lock::try_take(&lock).unwrap();
    let pass = reap(&sandbox, &["-v"]).ok();
    assert!(
        pass.stderr.contains("another command is working"),
        "{pass:#?}"
    );
    drop(held);
    assert_steps(&sandbox, &[("7", "running", "idle")]);
    let freed = sandbox.instance("keep", "7", &["--until", "1h"]).json();
    assert_eq!(freed["state"], "running");
    assert_steps(&sandbox, &[]);

    // Who knows for how long?
    let file = sandbox.path("state/kept").join(sandbox.instance_name("7"));
    fs::write(&file, "{").unwrap();
    let pass = reap(&sandbox, &["-o", "json"]).ok();
    assert!(pass.stderr.contains("its file is damaged"), "{pass:#?}");
    assert!(pass.stdout.contains(r#""actions":[]"#), "{pass:#?}");
    sandbox.instance("keep", "7", &["--until", "off"]).ok();

    // A second pass at once.
    let held = Lock::try_take(&locks.join("_reaper.lock")).unwrap();
    silent_pass(&sandbox);
    let pass = reap(&sandbox, &["-v"]).ok();
    assert!(pass.stderr.contains("another pass is running"), "{pass:#?}");
    assert_eq!(sandbox.state("7"), "running");
    drop(held);

    let never = json!({
        "idle_after": "never", "pause_after": "never", "stop_after": "never",
        "destroy_after": "never", "boot_timeout": "0s", "destroy_grace": "0s",
    });
    sandbox.configure(&json!({"policy": never}));
    assert_steps(&sandbox, &[]);
    sandbox.instance("stop", "7", &["--force"]).ok();
    unused(&sandbox, "7", 60 * 24 * 365);
    for _ in 0..2 {
        assert_steps(&sandbox, &[]);
    }
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_state_directory_that_cannot_be_read_harms_nobody() {
    let sandbox = sandbox(0);
    sandbox.instance("create", "7", &[]).ok();
    silent_pass(&sandbox);
    unused(&sandbox, "7", 60 * 100);
    seen_stopped_for(&sandbox, "7", 48);

    // A link: whoever made it may have meant to lead us astray.
    let (place, aside) = (sandbox.path("state/activity"), sandbox.path("aside"));
    fs::rename(&place, &aside).unwrap();
    symlink(&aside, &place).unwrap();
    let pass = reap(&sandbox, &[]).ok();
    let said = "state/activity cannot be read";
    assert_eq!(pass.stderr.lines().count(), 1, "{pass:#?}");
    assert!(pass.stderr.contains(said), "{pass:#?}");
    silent_pass(&sandbox);
    fs::remove_file(&place).unwrap();
    // Nothing at all: it is made anew.
    let pass = reap(&sandbox, &[]).ok();
    assert!(
        pass.stderr.contains("is missing; it counts as active"),
        "{pass:#?}"
    );
    assert!(activity(&sandbox, "7").is_file());

    let (place, aside) = (sandbox.path("state"), sandbox.path("elsewhere"));
    fs::rename(&place, &aside).unwrap();
    fs::write(&place, "").unwrap();
    let pass = reap(&sandbox, &[]);
    assert_eq!(pass.code, Some(1), "{pass:#?}");
    fs::remove_file(&place).unwrap();
    fs::rename(&aside, &place).unwrap();
    assert_eq!(sandbox.state("7"), "stopped");
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_pass_that_can_note_nothing_takes_nobody_down() {
    let sandbox = sandbox(1);
    sandbox.instance("start", "7", &[]).ok();
    sandbox.instance("create", "8", &[]).ok();
    silent_pass(&sandbox);
    sandbox.make_idle("7");
    unused(&sandbox, "7", 1);
    unused(&sandbox, "8", 60 * 100);
    seen_stopped_for(&sandbox, "8", 48);
    // A directory in its place cannot be replaced by a file, and reads as nothing seen; one that
    // can be read has to be there as well, so the directory above it is what does not take a file.
    let state = sandbox.path("state");
    run(tool("chattr").arg("+i").arg(&state));
    let pass = reap(&sandbox, &[]);
    run(tool("chattr").arg("-i").arg(&state));
    assert_eq!(pass.code, Some(1), "{pass:#?}");
    assert!(
        pass.stderr
            .contains("failed to record what this pass observed"),
        "{pass:#?}"
    );
    assert_eq!(sandbox.state("8"), "stopped");
    assert_eq!(sandbox.state("7"), "running", "it is used again");
    assert_steps(&sandbox, &[("8", "stopped", "destroyed")]);
}

#[test]
#[ignore = "needs qemu-img: run by `make test`"]
fn ten_processes_write_whole_lines_and_lose_none_to_a_rotation() {
    let sandbox = Sandbox::new();
    sandbox.base(&sandbox.lab);
    sandbox.instance("create", "first", &[]).ok();
    let processes: Vec<_> = (0..10)
        .map(|process| {
            let users: String = (0..15).map(|n| format!("p{process}.{n}\n")).collect();
            let file = sandbox.path(format!("class-{process}"));
            fs::write(&file, users).unwrap();
            let create = ["instance", "create", &sandbox.lab, "--users-from"];
            let command = create.iter().map(AsRef::as_ref).chain([file.as_os_str()]);
            sandbox.command(command).spawn().unwrap()
        })
        .collect();
    let journal = sandbox.path("state/events.jsonl");
    for n in 0..3 {
        std::thread::sleep(Duration::from_millis(200));
        let _ = fs::rename(&journal, sandbox.path(format!("state/events.jsonl.{n}")));
    }
    for process in processes {
        Run::end_of(process).ok();
    }
    let mut users: Vec<String> = files_below(&sandbox.path("state"))
        .into_iter()
        .filter(|(path, _)| path.to_str().unwrap().starts_with("events.jsonl"))
        .flat_map(|(_, content)| {
            let content = String::from_utf8(content).unwrap();
            assert!(content.is_empty() || content.ends_with('\n'));
            let lines = content.lines();
            lines
                .map(|line| text(&serde_json::from_str::<Value>(line).unwrap()["user_id"]))
                .collect::<Vec<_>>()
        })
        .collect();
    users.sort();
    users.dedup();
    assert_eq!(users.len(), 151, "{users:?}");
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_pass_asks_libvirt_as_often_for_many_as_for_few() {
    // Of instances that another configuration made it asks once more.
    own_world!();
    let sandbox = sandbox(1);
    sandbox.instance("start", "7", &[]).ok();
    silent_pass(&sandbox);
    // What libvirt's client is asked for, without what it answers by itself.
    let calls = || {
        let log = sandbox.path("libvirt.log");
        let mut pass = sandbox.command(["reap"]);
        pass.env("LIBVIRT_LOG_FILTERS", "1:libvirt")
            .env("LIBVIRT_LOG_OUTPUTS", format!("1:file:{}", log.display()));
        Run::of(&mut pass).ok();
        let said = fs::read_to_string(&log).unwrap();
        fs::remove_file(&log).unwrap();
        let calls = said.lines().filter_map(|line| {
            let call = line.split(" : ").nth(1)?.split(':').next()?;
            // The end of the process may come before that of the connection.
            let local = [
                "Free",
                "GetUUID",
                "GetName",
                "GetID",
                "OpenInternal",
                "Ref",
                "Close",
            ];
            let asks = call.starts_with("virDomain") || call.starts_with("virConnect");
            (asks && !local.iter().any(|end| call.ends_with(end))).then(|| call.to_owned())
        });
        let mut calls: Vec<_> = calls.collect();
        calls.sort();
        calls
    };
    let few = calls();
    println!("{few:?}");
    assert!(few.contains(&"virConnectGetAllDomainStats".to_owned()));
    let users: String = (0..12).map(|n| format!("s{n}\n")).collect();
    let file = sandbox.path("class");
    fs::write(&file, users).unwrap();
    let create = ["instance", "create", &sandbox.lab, "--users-from"];
    sandbox
        .cyyber(create.iter().map(AsRef::as_ref).chain([file.as_os_str()]))
        .ok();
    assert_eq!(calls(), few);
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn who_looks_at_the_console_is_use_and_a_bare_connection_is_not() {
    let sandbox = sandbox(1);
    let started = sandbox.instance("start", "7", &[]).json();
    let port = |name: &str| u16::try_from(started[name].as_u64().unwrap()).unwrap();
    let (vnc, websocket) = (port("vnc_port"), port("novnc_port"));
    let _bare = TcpStream::connect(("127.0.0.1", vnc)).unwrap();
    let _greeted = (
        Client::connect(vnc),
        Client::connect_by_websocket(websocket),
    );
    assert!(!Client::connect(vnc).accepts("wrong"));
    silent_pass(&sandbox);
    unused(&sandbox, "7", 30);
    assert_steps(&sandbox, &[("7", "running", "idle")]);

    // Asking for a password is use as well.
    let password = || {
        let access = sandbox.instance("console", "7", &[]).json();
        unused(&sandbox, "7", 6 * 60);
        text(&access["vnc_password"])
    };
    let (viewer, size) = Client::connect(vnc).enter(&password());
    assert!(size[0] > 0 && size[1] > 0, "{size:?}");
    assert_steps(&sandbox, &[("7", "idle", "running")]);
    let told = reap(&sandbox, &["-o", "json", "--dry-run"]).json();
    let all = told["instances"].as_array().unwrap();
    let name = sandbox.instance_name("7");
    let row = all.iter().find(|row| row["instance"] == name).unwrap();
    assert_eq!(row["source"], "console", "{row:#}");
    drop(viewer);

    // It was there, and that was long ago.
    let was_there = |since: i64, seen: i64| {
        let mut passes = passes(&sandbox);
        let console = &mut passes["seen"][&name]["console"];
        assert!(console.is_object());
        *console = json!({"since": hours_ago(since), "seen": hours_ago(seen)});
        write_passes(&sandbox, &passes);
    };
    was_there(6, 5);
    assert_steps(&sandbox, &[("7", "running", "idle")]);
    let (_viewer, _) = Client::connect_by_websocket(websocket).enter(&password());
    assert_steps(&sandbox, &[("7", "idle", "running")]);
    // One that does nothing is worth four hours.
    was_there(3, 0);
    assert_steps(&sandbox, &[]);
    was_there(5, 0);
    assert_steps(&sandbox, &[("7", "running", "idle")]);
}
