//! A class at once, and no more of it than the host has room for.

use crate::common;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use common::world::{freeze_available_memory, own_world};
use common::{Run, Sandbox, files_below, text, virsh, wait_until, with_environment};
use cyyber::state::lock::Lock;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// A file with these lines.
fn class(sandbox: &Sandbox, lines: &str) -> PathBuf {
    let file = sandbox.path("class.txt");
    fs::write(&file, lines).unwrap();
    file
}

/// `cyyber -o json instance VERB LAB --users-from FILE OPTIONS…`
fn command(sandbox: &Sandbox, verb: &str, file: &str, options: &[&str]) -> Command {
    let all = [
        "-o",
        "json",
        "instance",
        verb,
        &sandbox.lab,
        "--users-from",
        file,
    ];
    sandbox.command(all.iter().chain(options))
}

fn users(answer: &Value) -> Vec<String> {
    let instances = answer["instances"].as_array().unwrap().iter();
    instances
        .map(|instance| text(&instance["user_id"]))
        .collect()
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn one_failure_does_not_stop_the_others() {
    let sandbox = Sandbox::with_guests(0);
    sandbox.base(&sandbox.lab);
    // Somebody else's domain in the place of one.
    let xml = sandbox.path("stranger.xml");
    let stranger = sandbox.instance_name("3");
    fs::write(
        &xml,
        format!(
            "<domain type='qemu'><name>{stranger}</name><memory unit='MiB'>64</memory>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"
        ),
    )
    .unwrap();
    virsh(["define", &xml.to_string_lossy()]);
    let file = class(&sandbox, "5\n4\n3 # taken\n\n2\n1\n5\n");
    let ran = Run::of(&mut command(
        &sandbox,
        "create",
        &file.to_string_lossy(),
        &[],
    ));
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(users(&answer), ["5", "4", "2", "1"]);
    let failed = &answer["failed"];
    assert_eq!(failed.as_array().unwrap().len(), 1);
    assert_eq!(failed[0]["instance"], stranger.as_str());
    assert_eq!(failed[0]["code"], "conflict");
    assert!(text(&failed[0]["error"]).contains("not created by cyyber"));
    let error: Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(error["error"]["message"], "1 of 5 instances failed");

    // For people: a table of what went well, a line for what did not, and what to do.
    let ran = sandbox.cyyber([
        "instance",
        "create",
        &sandbox.lab,
        "--users-from",
        &file.to_string_lossy(),
    ]);
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.stdout.lines().count(), 5, "{ran:#?}");
    assert_eq!(ran.stderr.lines().count(), 3, "{ran:#?}");
}

#[test]
fn a_bad_list_changes_nothing() {
    let sandbox = Sandbox::new();
    sandbox.base(&sandbox.lab);
    let before = files_below(&sandbox.path("")).len() + 1;
    for (lines, said) in [
        (
            "1\n2\nno body\n",
            "class.txt, line 3: bad user id 'no body'",
        ),
        ("\n# nobody\n", "no users in"),
    ] {
        let file = class(&sandbox, lines);
        let error = Run::of(&mut command(
            &sandbox,
            "create",
            &file.to_string_lossy(),
            &[],
        ))
        .error_json(2);
        assert!(text(&error["message"]).contains(said), "{error:#}");
    }
    Run::of(&mut command(&sandbox, "create", "/nonexistent", &[])).error_json(2);
    sandbox
        .instance("create", "1", &["--users-from", "x"])
        .error_json(2);
    sandbox
        .instance("create", "1", &["--jobs", "2"])
        .error_json(2);
    sandbox
        .cyyber(["-o", "json", "instance", "create", &sandbox.lab])
        .error_json(2);
    let file = class(&sandbox, "1\n");
    let nowhere = [
        "-o",
        "json",
        "instance",
        "create",
        "nowhere",
        "--users-from",
    ];
    sandbox
        .cyyber(nowhere.iter().copied().chain([file.to_str().unwrap()]))
        .error_json(4);
    assert_eq!(files_below(&sandbox.path("")).len(), before);
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_class_is_started_paused_resumed_and_stopped() {
    let sandbox = Sandbox::with_guests(3);
    sandbox.base(&sandbox.lab);
    for (verb, options, state) in [
        ("start", &[][..], "starting"),
        ("pause", &["--jobs", "1"], "paused"),
        ("resume", &[], "starting"),
        ("stop", &["--force"], "stopped"),
    ] {
        let mut child = command(&sandbox, verb, "-", options)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input
            .write_all(b"\xef\xbb\xbfanna\r\nben\r\ncleo\r\n")
            .unwrap();
        drop(input);
        let answer = Run::end_of(child).json();
        assert_eq!(users(&answer), ["anna", "ben", "cleo"]);
        assert_eq!(answer["failed"], json!([]));
        for instance in answer["instances"].as_array().unwrap() {
            assert_eq!(instance["state"], state, "{instance:#}");
            assert_eq!(instance["changed"], true, "{instance:#}");
            let password = &instance["vnc_password"];
            assert_eq!(password.is_string(), state == "starting", "{instance:#}");
        }
    }
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn an_interrupted_class_ends_between_two() {
    let sandbox = Sandbox::with_guests(0);
    sandbox.base(&sandbox.lab);
    let lines: String = (0..100).map(|user| format!("{user}\n")).collect();
    let file = class(&sandbox, &lines);
    let child = command(
        &sandbox,
        "create",
        &file.to_string_lossy(),
        &["--jobs", "2"],
    )
    .spawn()
    .unwrap();
    let pid = Pid::from_child(&child);
    wait_until("some are made", || sandbox.overlay("3").exists());
    kill_process(pid, Signal::INT).unwrap();
    let ran = Run::end_of(child);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
    let (made, failed) = (users(&answer), answer["failed"].as_array().unwrap());
    assert_eq!(made.len() + failed.len(), 100);
    assert!(made.len() >= 3 && failed.len() > 10, "{}", made.len());
    for entry in failed {
        assert!(text(&entry["error"]).contains("interrupted"), "{entry}");
    }
    let overlays = fs::read_dir(sandbox.path("storage/user-instances")).unwrap();
    assert_eq!(overlays.count(), made.len(), "nothing is left half-way");
}

/// How many locks of instances a process has open.
fn locks_open(process: &Child) -> usize {
    let open = fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap();
    let files = open.flatten().map(|fd| fs::read_link(fd.path()));
    files
        .flatten()
        .filter(|file| file.to_string_lossy().contains("_user_"))
        .count()
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn so_many_commands_run_at_once_as_jobs_says() {
    let sandbox = Sandbox::with_guests(0);
    sandbox.base(&sandbox.lab);
    let file = class(&sandbox, "1\n2\n3\n4\n5\n6\n");
    let file = file.to_str().unwrap();
    Run::of(&mut command(&sandbox, "create", file, &[])).ok();
    // Each waits to start its own.
    let held: Vec<_> = (1..=6)
        .map(|user| sandbox.path(format!("state/locks/{}_user_{user}.lock", sandbox.lab)))
        .map(|lock| Lock::try_take(&lock).unwrap())
        .collect();
    for (options, count) in [(&["--jobs", "1"][..], 1), (&["--jobs=3"], 3), (&[], 4)] {
        let mut exec = command(&sandbox, "exec", file, options);
        let mut child = exec.args(["--wake", "--", "true"]).spawn().unwrap();
        wait_until("they wait", || locks_open(&child) == count);
        sleep(Duration::from_millis(200));
        assert_eq!(locks_open(&child), count, "{options:?}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
    drop(held);
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_command_in_a_guest_that_cannot_run_it_is_told_apart_from_one_that_fails() {
    let sandbox = Sandbox::with_guests(1);
    sandbox.base(&sandbox.lab);
    let exec = |user: &str, options: &[&str]| {
        let mut exec = sandbox.instance_command("exec", user, options);
        Run::of(exec.args(["--", "true"]))
    };
    exec("1", &[]).error_json(4);
    exec("1", &["--wake"]).error_json(4);
    assert!(sandbox.listed("1").is_null(), "exec makes nothing");
    sandbox.instance("create", "1", &[]).ok();
    let error = exec("1", &[]).error_json(5);
    assert!(text(&error["message"]).ends_with("is stopped, not running"));
    exec("1", &["--timeout", "0s"]).error_json(2);
    sandbox.instance("exec", "1", &[]).error_json(2);
    sandbox.instance("exec", "1", &["true"]).error_json(2);

    // Its firmware has no agent.
    sandbox.instance("start", "2", &[]).ok();
    let error = exec("2", &[]).error_json(8);
    assert!(text(&error["message"]).contains("has no agent"), "{error}");
    let file = class(&sandbox, "1\n2\n3\n");
    let mut all = command(&sandbox, "exec", &file.to_string_lossy(), &[]);
    let all = Run::of(all.args(["--", "true"]));
    assert_eq!(all.code, Some(1), "{all:#?}");
    let answer: Value = serde_json::from_str(&all.stdout).unwrap();
    let results = answer["results"].as_array().unwrap();
    let codes: Vec<_> = results.iter().map(|result| text(&result["code"])).collect();
    assert_eq!(codes, ["conflict", "unavailable", "not_found"]);
    assert!(results.iter().all(|result| result["exit_code"].is_null()));
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn what_cannot_be_copied_is_refused_before_anything_changes() {
    let sandbox = Sandbox::with_guests(0);
    sandbox.base(&sandbox.lab);
    sandbox.instance("create", "1", &[]).ok();
    fs::write(sandbox.path("file"), vec![1; 2048]).unwrap();
    let push = |user: &str, rest: &[&str], code: usize, said: &str| {
        let error = sandbox.instance("push", user, rest).error_json(code);
        let message = text(&error["message"]);
        assert!(message.contains(said), "{rest:?}: {message}");
    };
    push("1", &["/x"], 2, "no file to push");
    push("1", &["file", "x"], 2, "bad path in the guest 'x'");
    push("no body", &["file", "/x"], 2, "bad user id");
    push("1", &["nothing", "/x"], 2, "failed to read nothing");
    push("1", &["file", "/x", "--owner", "a b"], 2, "--owner");
    push("1", &["file", "/x", "--jobs", "2"], 2, "--users-from");
    push("1", &["file", "/x", "--max-size", "1K"], 1, "more than 1K");
    push("1", &["file", "/x"], 5, "is stopped");
    push("2", &["file", "/x"], 4, "no instance");
    let collect = |user: &str, from: &str, code: usize, said: &str| {
        let options = ["--from", from, "--to", "handed-in"];
        let error = sandbox.instance("collect", user, &options).error_json(code);
        let message = text(&error["message"]);
        assert!(message.contains(said), "{from}: {message}");
    };
    collect("1", "home", 2, "--from");
    collect("1", "/", 2, "names no file");
    collect("1", "/home/..", 2, "names no file");
    // A path on which there is no guestfish.
    let words = ["--from", "/home", "--to", "handed-in"];
    let command = sandbox.instance_command("collect", "1", &words);
    let error = Run::of(&mut with_environment(&command, "PATH", "/nonexistent")).error_json(8);
    let message = text(&error["message"]);
    assert!(
        message.contains("is stopped: its disk can only be read with libguestfs"),
        "{message}"
    );
    assert!(
        text(&error["hint"]).starts_with("install it: apt-get install guestfish"),
        "{error}"
    );
    collect("2", "/home", 4, "no instance");
    assert!(!sandbox.path("handed-in").exists());
}

#[test]
fn so_many_are_worked_on_at_once_as_jobs_says() {
    let sandbox = Sandbox::new();
    sandbox.base(&sandbox.lab);
    let file = class(&sandbox, "1\n2\n3\n4\n5\n6\n");
    let file = file.to_str().unwrap();
    // Other commands are at work on all of them, so that each of ours stays where it is.
    let held: Vec<_> = (1..=6)
        .map(|user| sandbox.path(format!("state/locks/{}_user_{user}.lock", sandbox.lab)))
        .map(|lock| Lock::try_take(&lock).unwrap())
        .collect();
    for verb in ["create", "start", "pause", "resume", "stop"] {
        for (options, count) in [(&["--jobs", "1"][..], 1), (&["--jobs=3"], 3), (&[], 4)] {
            let mut child = command(&sandbox, verb, file, options).spawn().unwrap();
            wait_until("they wait", || locks_open(&child) == count);
            sleep(Duration::from_millis(200));
            assert_eq!(locks_open(&child), count, "{verb} {options:?}");
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
    drop(held);
}

/// Memory that the host could give to new guests, in MiB.
fn available() -> u64 {
    cyyber::host::memory().unwrap().available >> 20
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn more_memory_than_there_is_is_refused_before_anything_changes() {
    let sandbox = Sandbox::with_guests(0);
    sandbox.base(&sandbox.lab);
    sandbox.instance("create", "small", &[]).ok();
    sandbox.configure(&json!({"memory_mb": available() + 1}));
    let error = sandbox.instance("start", "7", &[]).error_json(7);
    let message = text(&error["message"]);
    assert!(message.contains("MiB are free"), "{message}");
    assert!(error["hint"].is_string());
    assert!(sandbox.listed("7").is_null());
    assert!(!sandbox.overlay("7").exists());

    sandbox.instance("create", "7", &[]).ok();
    sandbox.instance("start", "7", &[]).error_json(7);
    assert_eq!(sandbox.state("7"), "stopped");
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn two_at_once_do_not_share_the_memory_of_one() {
    own_world!();
    let sandbox = Sandbox::with_guests(3);
    freeze_available_memory(&sandbox);
    sandbox.base(&sandbox.lab);
    sandbox.configure(&json!({"memory_mb": (available() - 1200) * 6 / 10}));
    let file = class(&sandbox, "1\n2\n3\n");
    for _ in 0..3 {
        let ran = Run::of(&mut command(
            &sandbox,
            "start",
            &file.to_string_lossy(),
            &[],
        ));
        assert_eq!(ran.code, Some(1), "{ran:#?}");
        let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(users(&answer).len(), 1, "{answer:#}");
        let failed = answer["failed"].as_array().unwrap();
        assert!(
            failed.iter().all(|entry| entry["code"] == "capacity"),
            "{failed:#?}"
        );
        // What runs claims what it has not taken yet.
        let one = users(&answer).remove(0);
        let other = ["1", "2", "3"]
            .into_iter()
            .find(|user| *user != one)
            .unwrap();
        sandbox.instance("start", other, &[]).error_json(7);
        sandbox.instance("stop", &one, &["--force"]).ok();
    }
}
