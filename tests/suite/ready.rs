//! `start --wait` and `resume --wait` where the guest does not get ready: it stays in its firmware. One
//! that does is in `booted/guests.rs`.

use crate::common;

use std::fs;
use std::process::Child;
use std::time::{Duration, Instant};

use common::terminal::Terminal;
use common::{Run, Sandbox, text, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A sandbox with a base image, for `count` guests at once.
fn sandbox(count: usize) -> Sandbox {
    let sandbox = Sandbox::with_guests(count);
    sandbox.base(&sandbox.lab);
    sandbox
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_start_waits_no_longer_than_it_is_told_and_leaves_the_guest_on() {
    let sandbox = sandbox(1);
    let began = Instant::now();
    let error = sandbox
        .instance("start", "7", &["-q", "--wait=2s"])
        .error_json(1);
    assert!(began.elapsed() >= Duration::from_secs(2));
    let message = text(&error["message"]);
    assert!(
        message.contains("was not ready within 2s: its guest agent has not started yet"),
        "{message}"
    );
    let hint = text(&error["hint"]);
    assert!(
        hint.contains("instance start ") && hint.contains(" --wait;"),
        "{hint}"
    );
    assert_eq!(sandbox.state("7"), "starting");

    // The start is in the journal as what it was, and that it took too long.
    let journal = fs::read_to_string(sandbox.path("state/events.jsonl")).unwrap();
    let entries = journal
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let seen: Vec<(bool, String)> = entries
        .map(|entry: Value| (entry["ok"] == true, text(&entry["reason"])))
        .collect();
    assert_eq!(seen.len(), 2, "{journal}");
    assert!(seen[0].0 && !seen[1].0 && seen[1].1 == message, "{journal}");

    // It only looks, and finds the same.
    let began = Instant::now();
    sandbox
        .instance("start", "7", &["-q", "--wait=0s"])
        .error_json(1);
    assert!(began.elapsed() < Duration::from_secs(2));
    for bad in ["--wait=", "--wait=5", "--wait=never"] {
        sandbox.instance("start", "7", &[bad]).error_json(2);
    }
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_terminal_shows_what_is_waited_for_and_a_signal_ends_the_wait() {
    let sandbox = sandbox(1);
    let arguments = ["instance", "start", &sandbox.lab, "7", "--wait"];
    let (mut terminal, child) = Terminal::with_progress(&mut sandbox.command(arguments), 24, 100);
    terminal.wait_until("it shows the phase", |terminal| {
        let shows = |line: &String| {
            line.contains(&sandbox.instance_name("7"))
                && line.contains("its guest agent has not started yet")
        };
        terminal.screen.iter().any(shows)
    });
    end(child, Signal::INT);
    terminal.finish();
    assert!(
        terminal.screen.join("\n").contains("which stays on"),
        "{:#?}",
        terminal.screen
    );
    assert_eq!(sandbox.state("7"), "starting");
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn one_that_is_stopped_meanwhile_is_waited_for_no_longer() {
    let sandbox = sandbox(1);
    let child = sandbox
        .instance_command("start", "7", &["-q", "--wait=10m"])
        .spawn()
        .unwrap();
    let is_on = || {
        sandbox
            .cyyber(["instance", "list"])
            .ok()
            .stdout
            .contains("starting")
    };
    wait_until("it is on", is_on);
    // Nobody is kept waiting by one who waits.
    sandbox.instance("stop", "7", &["--force"]).ok();
    let error = Run::end_of(child).error_json(5);
    let message = text(&error["message"]);
    assert!(
        message.contains("is stopped before it was ready"),
        "{message}"
    );
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_class_is_waited_for_and_each_that_is_not_ready_is_named() {
    let sandbox = sandbox(2);
    let file = sandbox.path("class.txt");
    fs::write(&file, "1\n2\n").unwrap();
    let file = file.to_str().unwrap();
    let all = |verb: &str, options: &[&str]| {
        let all = [
            "-o",
            "json",
            "instance",
            verb,
            &sandbox.lab,
            "--users-from",
            file,
        ];
        sandbox.cyyber(all.iter().chain(options))
    };
    for verb in ["start", "resume"] {
        let ran = all(verb, &["--wait=1s"]);
        assert_eq!(ran.code, Some(1), "{ran:#?}");
        let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
        let failed = answer["failed"].as_array().unwrap();
        assert_eq!(failed.len(), 2, "{answer:#}");
        for one in failed {
            assert_eq!(one["code"], "failed");
            assert!(
                text(&one["error"]).contains("was not ready within 1s"),
                "{one:#}"
            );
        }
        all("pause", &[]).ok();
    }
}

fn end(mut child: Child, signal: Signal) {
    kill_process(Pid::from_child(&child), signal).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
}
