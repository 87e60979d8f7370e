//! Every command from every state: the table in the manual, walked on real guests.

use crate::common;

use std::fs;

use common::{Sandbox, text, wait_until};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

/// The manual's name of a state, and what each command does from it.
type Row = (String, Vec<(String, String)>);

/// The tables of the manual, side by side.
fn manual() -> Vec<Row> {
    let page = fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/man/parts/cyyber-instance.roff"
    ))
    .unwrap();
    let mut rows: Vec<Row> = Vec::new();
    for table in page.split(".TS\n").skip(1) {
        let table = table.split(".TE\n").next().unwrap().replace('\\', "");
        let cells = table
            .lines()
            .skip_while(|line| !line.ends_with('.'))
            .skip(1);
        let mut cells = cells.map(|line| line.split('\t').collect::<Vec<_>>());
        let (verbs, options) = (cells.next().unwrap(), cells.next().unwrap());
        let commands: Vec<String> = (1..verbs.len())
            .map(|i| format!("{} {}", verbs[i], options.get(i).unwrap_or(&"")))
            .collect();
        for row in cells {
            assert_eq!(row.len(), commands.len() + 1, "{row:?}");
            let outcomes = row[1..].iter().map(|cell| (*cell).to_owned());
            let outcomes = commands.iter().cloned().zip(outcomes);
            match rows.iter_mut().find(|(from, _)| from == row[0]) {
                Some((_, all)) => all.extend(outcomes),
                None => rows.push((row[0].to_owned(), outcomes.collect())),
            }
        }
    }
    rows
}

/// A boot timeout with which a guest without an agent is starting for ever, or running at once.
fn boot_timeout(sandbox: &Sandbox, timeout: &str) {
    sandbox.configure(&json!({"policy": {"boot_timeout": timeout}}));
}

/// Brings user 7's instance into the state that the manual calls `from`.
fn bring(sandbox: &Sandbox, from: &str) {
    let instance = |verb, options: &[&str]| sandbox.instance(verb, "7", options).ok();
    instance("cleanup", &["--yes"]);
    let starting = matches!(from, "no instance" | "stopped" | "starting" | "crashed");
    boot_timeout(sandbox, if starting { "5m" } else { "0s" });
    match from {
        "no instance" => return,
        "stopped" => drop(instance("create", &[])),
        _ => drop(instance("start", &[])),
    }
    match from {
        "idle" => sandbox.make_idle("7"),
        "paused on disk" => drop(instance("pause", &[])),
        "paused in RAM" => drop(instance("pause", &["--keep-memory"])),
        "crashed" => {
            kill_process(sandbox.qemu_pid("7"), Signal::KILL).unwrap();
            wait_until("the crash is seen", || sandbox.state("7") == "crashed");
        }
        _ => {}
    }
    let state = sandbox.state("7");
    assert!(from.starts_with(&state), "{state}");
}

/// Runs `command` and asserts that it does what the manual says; whether the state is another now.
fn assert_outcome(sandbox: &Sandbox, from: &str, command: &str, outcome: &str) -> bool {
    let words: Vec<&str> = command.split_whitespace().collect();
    if words == ["reap"] {
        return assert_reaped(sandbox, from, outcome);
    }
    let mut options = words[1..].to_vec();
    match words[0] {
        "cleanup" | "reset" => options.push("--yes"),
        // No guest here ever shuts down by itself.
        "stop" if options.is_empty() => options.extend(["--timeout", "0s"]),
        _ => {}
    }
    let ran = sandbox.instance(words[0], "7", &options);
    let here = format!("{command} from {from}: {ran:#?}");
    if let Some(code) = outcome.strip_prefix("exit ") {
        ran.error_json(code.parse().unwrap());
        return false;
    }
    let answer: Value = ran.json();
    if words[0] == "cleanup" {
        let destroyed = answer["destroyed"].as_array().unwrap().len();
        assert_eq!(destroyed == 1, outcome == "gone", "{here}");
        assert!(sandbox.listed("7").is_null(), "{here}");
        return true;
    }
    let state = text(&answer["state"]);
    assert_eq!(state, sandbox.state("7"), "{here}");
    assert_eq!(answer["changed"], outcome != "already", "{here}");
    match outcome {
        "already" | "same" => {
            assert!(from.starts_with(&state), "{here}");
            false
        }
        _ => {
            assert_eq!(state, outcome, "{here}");
            true
        }
    }
}

/// The same of a pass for which every step is due.
fn assert_reaped(sandbox: &Sandbox, from: &str, outcome: &str) -> bool {
    let starting = from == "starting";
    let now = "0s";
    sandbox.configure(&json!({"policy": {
        "idle_after": now, "pause_after": now, "stop_after": now, "destroy_after": now,
        "destroy_grace": now, "destroy_notice": now, "boot_timeout": if starting { "5m" } else { now },
    }}));
    let pass = || {
        sandbox
            .cyyber(["-o", "json", "reap", "--timeout", "0s"])
            .json()
    };
    // A first one only looks.
    assert_eq!(pass()["actions"], json!([]));
    let _ = pass();
    let listed = sandbox.listed("7");
    match outcome {
        "gone" => assert!(listed.is_null(), "{from}: {listed:#}"),
        "already" => assert!(listed.is_null(), "{from}: {listed:#}"),
        "same" => assert!(from.starts_with(&text(&listed["state"])), "{listed:#}"),
        state => assert_eq!(listed["state"], state, "{from}: {listed:#}"),
    }
    !matches!(outcome, "already" | "same")
}

fn walk(from: &str) {
    let sandbox = Sandbox::with_guests(1);
    sandbox.base(&sandbox.lab);
    let rows = manual();
    let (_, outcomes) = rows.iter().find(|(row, _)| row == from).unwrap();
    assert_eq!(outcomes.len(), 13, "{outcomes:?}");
    let mut there = false;
    for (command, outcome) in outcomes {
        if !there {
            bring(&sandbox, from);
        }
        there = !assert_outcome(&sandbox, from, command, outcome);
    }
}

macro_rules! walks {
    ($($test:ident: $from:literal,)*) => {
        $(
            #[test]
            #[ignore = "needs libvirt and QEMU: run by `make test`"]
            fn $test() {
                walk($from);
            }
        )*

        #[test]
        fn the_manual_has_these_rows() {
            let rows: Vec<String> = manual().into_iter().map(|(from, _)| from).collect();
            assert_eq!(rows, [$($from),*]);
        }
    };
}

walks! {
    from_nothing: "no instance",
    from_stopped: "stopped",
    from_starting: "starting",
    from_running: "running",
    from_idle: "idle",
    from_paused_on_disk: "paused on disk",
    from_paused_in_ram: "paused in RAM",
    from_crashed: "crashed",
}
