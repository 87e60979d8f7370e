//! `--as-user`: for whoever acts for one user, nothing of anyone else exists.

use crate::common;

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::{Command as Clap, CommandFactory};
use common::{Run, Sandbox, files_below, run, tool};
use cyyber::cli::Cli;
use serde_json::{Value, json};

/// Whoever acts, somebody else with a running instance, and somebody who has none.
const US: &str = "anna";
const OTHER: &str = "zebedee";
const NOBODY: &str = "zebulon";

/// What a command that names an instance needs besides.
fn extra(verb: &str) -> &'static [&'static str] {
    match verb {
        "keep" => &["--until", "1h"],
        "reset" | "cleanup" => &["--yes"],
        "exec" => &["--", "true"],
        "push" => &["/etc/hostname", "/tmp"],
        "collect" => &["--from", "/etc/hostname", "--to", "/nowhere"],
        _ => &[],
    }
}

/// The commands without any below them, by their words after `cyyber`.
fn commands() -> Vec<(Vec<String>, Clap)> {
    let mut found = Vec::new();
    let mut open = vec![(Vec::new(), Cli::command())];
    while let Some((words, command)) = open.pop() {
        if !command.has_subcommands() {
            found.push((words, command));
            continue;
        }
        // What the program runs by itself on another host is about the whole of that.
        for below in command.get_subcommands().filter(|it| !it.is_hide_set()) {
            let name = below.get_name().to_owned();
            open.push(([words.clone(), vec![name]].concat(), below.clone()));
        }
    }
    found
}

fn takes_an_instance(command: &Clap) -> bool {
    let takes = |id: &str| command.get_positionals().any(|arg| arg.get_id() == id);
    takes("lab") && takes("user")
}

fn as_us(sandbox: &Sandbox, arguments: &[&str]) -> Run {
    sandbox.cyyber(["--as-user", US].iter().chain(arguments))
}

/// Every file of the sandbox with its size and modification time.
fn traces(sandbox: &Sandbox) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let files = files_below(&sandbox.path("")).into_keys();
    files
        .map(|file| {
            let there = sandbox.path(&file).metadata().unwrap();
            (file, (there.len(), there.modified().unwrap()))
        })
        // A running QEMU writes to its disk as it likes, and anyone may wait for a lock.
        .filter(|(file, _)| {
            file.extension()
                .is_none_or(|kind| kind != "qcow2" && kind != "lock")
        })
        .collect()
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn nothing_of_anyone_else_exists() {
    let sandbox = Sandbox::with_guests(1);
    let lab = sandbox.lab.as_str();
    // Otherwise each look at it waits for an agent that is not there.
    sandbox.configure(&json!({"policy": {"boot_timeout": "0s"}}));
    sandbox.base(lab);
    sandbox.instance("create", US, &[]).json();
    sandbox.instance("start", OTHER, &[]).json();
    // Somebody else's disk without a VM, which a cleanup finds.
    let left = sandbox.overlay("zebra");
    std::fs::copy(sandbox.overlay(US), &left).unwrap();
    let before = traces(&sandbox);

    for (words, command) in commands() {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        // A push has its user among its files.
        if takes_an_instance(&command) || words == ["instance", "push"] {
            refuses_others(&sandbox, &words);
            continue;
        }
        match words[..] {
            // Of the whole host, and of no user.
            ["build" | "reap" | "doctor" | "report" | "timetable" | "gateway"] => {
                let said = as_us(&sandbox, &words).says(4, "for anna alone").stderr;
                assert!(!said.contains("zeb"), "{said}");
            }
            ["completions"] => {}
            ["host", "list"] => {
                as_us(&sandbox, &words).says(4, "for anna alone");
            }
            ["host", _] => {
                as_us(&sandbox, &[&*words, &["h1"]].concat()).says(4, "for anna alone");
            }
            ["instance", "screens"] => {
                let wall = sandbox.path("screens");
                let command = [&*words, &["--html", wall.to_str().unwrap()]].concat();
                as_us(&sandbox, &command).ok();
                let page = std::fs::read_to_string(wall.join("index.html")).unwrap();
                assert!(!page.contains("zeb"), "{page}");
                std::fs::remove_dir_all(wall).unwrap();
            }
            // Those that show what there is show what is ours.
            ["instance", "list"] | ["metrics"] => shows_ours(&sandbox, &words),
            _ => panic!("{words:?}: what does it do with --as-user? Say it here"),
        }
    }
    shows_ours(&sandbox, &["instance", "stats"]);
    shows_ours(
        &sandbox,
        &["instance", "cleanup", "--dry-run", "--lab", lab],
    );
    for filter in [["--user", OTHER], ["--user", NOBODY]] {
        let listed = as_us(&sandbox, &["instance", "list", filter[0], filter[1]]).ok();
        assert_eq!(listed.stdout, "no instances\n");
        let cleanup = ["instance", "cleanup", "--yes", filter[0], filter[1]];
        as_us(&sandbox, &cleanup).says(4, "there are no instances of zeb");
    }
    let after = traces(&sandbox);
    let changed: Vec<_> = after
        .iter()
        .filter(|(file, there)| before.get(*file) != Some(there))
        .chain(before.iter().filter(|(file, _)| !after.contains_key(*file)))
        .collect();
    assert!(changed.is_empty(), "{changed:?}");
    assert_eq!(sandbox.state(US), "stopped");
    assert_ne!(sandbox.state(OTHER), "stopped");

    // What is ours goes, and nothing else.
    let all = ["-o", "json", "instance", "cleanup", "--yes", "--lab", lab];
    let gone = as_us(&sandbox, &all).json();
    assert_eq!(gone["destroyed"][0]["user_id"], US);
    assert_eq!(gone["destroyed"].as_array().unwrap().len(), 1, "{gone:#}");
    assert_eq!(sandbox.listed(US), Value::Null);
    assert_ne!(sandbox.state(OTHER), "stopped");
    assert!(left.exists());
}

/// Whether somebody else has an instance cannot be told from any command on it.
fn refuses_others(sandbox: &Sandbox, words: &[&str]) {
    let verb = words[words.len() - 1];
    let said = |user: &str, restricted: bool| {
        let arguments = [words, &[&sandbox.lab, user], extra(verb)].concat();
        let mut all = Vec::new();
        for format in ["table", "json"] {
            let mut command = sandbox.command(&arguments);
            command.env("CYYBER_OUTPUT", format);
            if restricted {
                command.env("CYYBER_AS_USER", US);
            }
            let run = Run::of(&mut command).fails(4);
            all.push(run.stderr.replace(user, "USER"));
        }
        all
    };
    let of_other = said(OTHER, true);
    assert_eq!(of_other, said(NOBODY, true), "{words:?}");
    assert!(
        of_other[0].starts_with(&format!("error: no instance {}_user_USER\n", sandbox.lab)),
        "{of_other:?}"
    );
    // As for anyone, where those commands do not make one, or have nothing to do.
    if !matches!(verb, "create" | "start" | "cleanup") {
        assert_eq!(of_other, said(NOBODY, false), "{words:?}");
    }
}

fn shows_ours(sandbox: &Sandbox, words: &[&str]) {
    for format in ["table", "json"] {
        let mut command = sandbox.command(words);
        command
            .env("CYYBER_AS_USER", US)
            .env("CYYBER_OUTPUT", format);
        let run = Run::of(&mut command).ok();
        let all = format!("{}{}", run.stdout, run.stderr);
        assert!(all.contains(&sandbox.instance_name(US)), "{words:?}: {all}");
        assert!(!all.contains("zeb"), "{words:?}: {all}");
    }
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn what_is_ones_own_works_as_ever() {
    let sandbox = Sandbox::with_guests(1);
    sandbox.base(&sandbox.lab);
    let json = |words: &[&str]| {
        let all = [&["-o", "json", "instance"], words].concat();
        as_us(&sandbox, &all).json()
    };
    let lab = sandbox.lab.as_str();
    assert_eq!(json(&["start", lab, US])["changed"], true);
    assert!(json(&["console", lab, US])["vnc_password"].is_string());
    assert_eq!(json(&["stats", lab, US])["user_id"], US);
    assert_eq!(json(&["touch", lab, US])["state"], "starting");
    let class = sandbox.path("class.txt");
    std::fs::write(&class, format!("{US}\n")).unwrap();
    let class = class.to_str().unwrap();
    let stopped = json(&["stop", lab, "--users-from", class, "--force"]);
    assert_eq!(stopped["instances"][0]["state"], "stopped");
    let journal = std::fs::read_to_string(sandbox.path("state/events.jsonl")).unwrap();
    for line in journal.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["as_user"], US, "{line}");
    }
}

#[test]
fn a_list_with_others_is_refused_as_a_whole() {
    let sandbox = Sandbox::new();
    for (list, source) in [
        ("anna\nzebedee\n", "class.txt"),
        ("zebedee\n", "class.txt"),
        ("zebedee:$y$j9T$secret:19000\n", "class.txt"),
        ("", "class.txt"),
    ] {
        std::fs::write(sandbox.path("class.txt"), list).unwrap();
        for verb in ["create", "start", "pause", "resume", "stop"] {
            let arguments = ["instance", verb, &sandbox.lab, "--users-from", source];
            let run = as_us(&sandbox, &arguments).says(4, "class.txt lists users other than anna");
            assert!(!run.stderr.contains("zeb"), "{run:#?}");
        }
    }
    assert!(!sandbox.path("state/locks").exists());
}

#[test]
fn nobody_is_not_everybody() {
    let sandbox = Sandbox::new();
    for bad in ["", " ", "anna ben", "../anna", "-o", "a_b", "*", "анна"] {
        let option = format!("--as-user={bad}");
        sandbox.cyyber([&option, "instance", "list"]).says(2, "");
        // Also where an option says something better.
        for arguments in [
            &["instance", "list"][..],
            &["--as-user", US, "instance", "list"],
        ] {
            let mut command = sandbox.command(arguments);
            Run::of(command.env("CYYBER_AS_USER", bad)).says(2, "bad CYYBER_AS_USER: bad user id");
        }
    }
    let mut command = sandbox.command(["-o", "json", "instance", "list"]);
    let bytes = std::ffi::OsString::from_vec(b"anna\xff".to_vec());
    Run::of(command.env("CYYBER_AS_USER", bytes)).error_json(2);
    sandbox
        .cyyber(["instance", "list", "--as-user"])
        .says(2, "--as-user");
}

#[test]
fn an_option_comes_before_the_environment() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(["--as-user", OTHER, "instance", "stop", &sandbox.lab, US]);
    Run::of(command.env("CYYBER_AS_USER", US)).says(4, "no instance");
}

/// An overlay that another VM, which was renamed by hand, stands on is refused without its name.
#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_disk_that_somebody_else_holds_does_not_say_who() {
    let sandbox = Sandbox::with_guests(0);
    sandbox.base(&sandbox.lab);
    sandbox.instance("create", US, &[]).json();
    let (ours, theirs) = (sandbox.instance_name(US), sandbox.instance_name(OTHER));
    run(tool("virsh").args(["-q", "-c", common::QEMU, "domrename", &ours, &theirs]));
    let start = ["instance", "create", &sandbox.lab, US];
    let run = as_us(&sandbox, &start).says(5, "in use by another VM");
    assert!(!run.stderr.contains("zeb"), "{run:#?}");
    sandbox
        .cyyber(start)
        .says(5, &format!("in use by the VM {theirs}"));
}
