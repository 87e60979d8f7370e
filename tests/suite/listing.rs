//! What `list` and `stats` make of a libvirt full of domains: libvirt's test driver, with domains
//! of every sort from a file.

use crate::common;

use std::process::Command;

use common::shape::{LISTED, STATS, assert_null, assert_shape};
use common::terminal::Terminal;
use common::{Run, Sandbox, lab, text};
use serde_json::json;

/// A UUID as cyyber gives them: "cyyber", version 8, and what tells one from another.
fn our_uuid(number: u32) -> String {
    format!("63797962-6572-8000-8000-{number:012x}")
}

/// libvirt's numbers of the states that a domain may be in.
const RUNNING: u32 = 1;
const BLOCKED: u32 = 2;
const FROZEN: u32 = 3;
const OFF: u32 = 5;
const CRASHED: u32 = 6;

/// A domain for the test driver; `extra` says what else the driver should pretend.
fn domain(name: &str, uuid: &str, state: u32, extra: &str) -> String {
    format!(
        "<domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>\
         <name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>128</memory><vcpu>2</vcpu>\
         <os><type>hvm</type></os><test:runstate>{state}</test:runstate>{extra}</domain>"
    )
}

/// A sandbox and the URI of a test driver with these domains.
fn with_domains(domains: &[String]) -> (Sandbox, String) {
    let sandbox = Sandbox::new();
    let file = sandbox.path("node.xml");
    std::fs::write(&file, format!("<node>{}</node>", domains.concat())).unwrap();
    let uri = format!("test://{}", file.display());
    (sandbox, uri)
}

#[test]
fn ours_are_told_from_others_by_their_uuid_and_each_has_its_state() {
    let saved = "<test:hasmanagedsave>1</test:hasmanagedsave>";
    let foreign = [
        // A version 4 UUID with our tag, our version without the tag, and neither.
        "63797962-6572-4000-8000-000000000001",
        "73797962-6572-8000-8000-000000000001",
        "c7a5fdbd-cdaf-9455-926a-d65c16db1809",
    ];
    let mut domains = vec![
        domain("lab01_user_1", &our_uuid(1), OFF, ""),
        domain("lab01_user_2", &our_uuid(2), RUNNING, ""),
        domain("lab01_user_3", &our_uuid(3), BLOCKED, ""),
        domain("lab01_user_4", &our_uuid(4), FROZEN, ""),
        domain("lab01_user_5", &our_uuid(5), CRASHED, ""),
        domain("lab01_user_6", &our_uuid(6), OFF, saved),
        domain("lab02_user_1", &our_uuid(7), OFF, ""),
        // Renamed by hand: an instance no more.
        domain("my-own-vm", &our_uuid(8), RUNNING, ""),
    ];
    domains.extend(
        foreign
            .iter()
            .enumerate()
            .map(|(number, uuid)| domain(&format!("lab01_user_9{number}"), uuid, RUNNING, "")),
    );
    let (sandbox, uri) = with_domains(&domains);
    sandbox.write_config(&json!({"labs": [lab("lab01", &json!({}))]}).to_string());
    let answer = |verb: &str| {
        let all = sandbox
            .cyyber(["-o", "json", "-c", &uri, "instance", verb])
            .json();
        all["instances"].as_array().unwrap().clone()
    };

    let wanted = [
        ("lab01_user_1", "stopped"),
        ("lab01_user_2", "running"),
        ("lab01_user_3", "running"),
        ("lab01_user_4", "paused"),
        ("lab01_user_5", "crashed"),
        ("lab01_user_6", "paused"),
        // Its lab is in the configuration no more; it is still there and uses what it uses.
        ("lab02_user_1", "stopped"),
    ];
    for (verb, shape) in [("list", LISTED), ("stats", STATS)] {
        let instances = answer(verb);
        let seen: Vec<_> = instances
            .iter()
            .map(|one| (text(&one["instance"]), text(&one["state"])))
            .collect();
        let seen: Vec<_> = seen
            .iter()
            .map(|(name, state)| (name.as_str(), state.as_str()))
            .collect();
        assert_eq!(seen, wanted, "{verb}");
        instances.iter().for_each(|one| assert_shape(one, shape));
    }
}

#[test]
fn what_is_not_known_is_null() {
    let (sandbox, uri) = with_domains(&[domain("lab01_user_1", &our_uuid(1), OFF, "")]);
    let list = sandbox
        .cyyber(["-o", "json", "-c", &uri, "instance", "list"])
        .json();
    let one = &list["instances"][0];
    let unknown = [
        "vnc_host",
        "vnc_port",
        "novnc_port",
        "ip",
        "base_image",
        "base_is_current",
        "created",
        "last_activity",
        "kept_until",
    ];
    assert_null(one, &unknown);
    let stats = sandbox
        .cyyber(["-o", "json", "-c", &uri, "instance", "stats"])
        .json();
    assert_null(
        &stats["instances"][0],
        &["cpu_percent", "disk_used_mb", "idle_seconds"],
    );
}

#[test]
fn a_table_has_a_row_for_each_instance() {
    let users = ["1", "2", "10", "abc"];
    let domains: Vec<_> = (1..)
        .zip(users)
        .map(|(number, user)| domain(&format!("lab01_user_{user}"), &our_uuid(number), OFF, ""))
        .collect();
    let (sandbox, uri) = with_domains(&domains);
    for verb in ["list", "stats"] {
        let table = sandbox.cyyber(["-c", &uri, "instance", verb]).ok().stdout;
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 1 + users.len(), "{table}");
        assert!(
            lines[0].starts_with("INSTANCE") && lines[0].contains("STATE"),
            "{table}"
        );
        assert!(
            lines[1..].iter().all(|line| line.contains("stopped")),
            "{table}"
        );
        assert!(!table.contains('\u{1b}'), "{table}");
    }
}

/// What a terminal that is so wide gets for `arguments`: what can be seen, and all that was written.
fn on_terminal(mut command: Command, columns: u16) -> (Vec<String>, String) {
    let (mut terminal, child) = Terminal::start(&mut command, 30, columns);
    Run::end_of(child).ok();
    terminal.finish();
    (terminal.screen, terminal.written)
}

#[test]
fn a_terminal_gets_colours_and_no_more_than_fits_on_a_line() {
    let users = ["anna", "maximilian.mustermann"];
    let domains: Vec<_> = (1..)
        .zip(users)
        .map(|(number, user)| {
            let name = format!("lab01_user_{user}");
            domain(&name, &our_uuid(number), RUNNING, "")
        })
        .collect();
    let (sandbox, uri) = with_domains(&domains);
    for verb in ["list", "stats"] {
        let command = || sandbox.command(["-c", &uri, "instance", verb]);
        for columns in [40, 60, 80, 120] {
            let (screen, written) = on_terminal(command(), columns);
            let narrow = screen
                .iter()
                .find(|line| line.chars().count() > columns.into());
            assert_eq!(narrow, None, "{columns}: {screen:#?}");
            for user in users {
                assert!(
                    written.contains(&format!("lab01_user_{user}")),
                    "{screen:#?}"
                );
            }
            assert!(written.contains("\u{1b}[32mrunning\u{1b}["), "{written:?}");
        }
        let (wide, _) = on_terminal(command(), 200);
        let mut pipe = sandbox.cyyber(["-c", &uri, "instance", verb]).ok().stdout;
        pipe.truncate(pipe.trim_end().len());
        assert_eq!(wide.join("\n"), pipe, "what no terminal limits is whole");

        let mut no_colour = command();
        no_colour.env("NO_COLOR", "1");
        // What is set last counts, and the terminal sets its own kind.
        let dumb = common::with_environment(&command(), "TERM", "dumb");
        for command in [no_colour, dumb] {
            let (screen, written) = on_terminal(command, 80);
            assert!(!written.contains('\u{1b}'), "{written:?}");
            assert!(screen.iter().all(|line| line.chars().count() <= 80));
        }
        let run = Run::of(command().env("CLICOLOR_FORCE", "1").env("TERM", "xterm"));
        assert!(!run.ok().stdout.contains('\u{1b}'));
    }
}

#[test]
fn a_domain_of_somebody_else_is_a_conflict() {
    let foreign = domain(
        "lab01_user_7",
        "c7a5fdbd-cdaf-9455-926a-d65c16db1809",
        RUNNING,
        "",
    );
    let (sandbox, uri) = with_domains(&[foreign]);
    sandbox.write_config(&json!({"labs": [lab("lab01", &json!({}))]}).to_string());
    for verb in ["create", "start", "stop", "stats"] {
        let run = sandbox.cyyber(["-c", &uri, "instance", verb, "lab01", "7"]);
        run.says(5, "not created by cyyber");
    }
    assert!(
        !sandbox
            .path("storage/user-instances/lab01_user_7.qcow2")
            .exists()
    );
}

#[test]
fn a_thousand_are_listed_within_a_second_or_two() {
    let domains: Vec<_> = (1..=1000)
        .map(|number| domain(&format!("lab01_user_{number}"), &our_uuid(number), OFF, ""))
        .collect();
    let (sandbox, uri) = with_domains(&domains);
    let began = std::time::Instant::now();
    let list = sandbox
        .cyyber(["-o", "json", "-c", &uri, "instance", "list"])
        .json();
    assert_eq!(list["instances"].as_array().unwrap().len(), 1000);
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
}

#[test]
fn a_name_that_is_not_there_gets_the_one_that_may_be_meant() {
    let domains: Vec<_> = (1..)
        .zip(["lab01_user_anna", "lab01_user_17", "lab02_user_bob"])
        .map(|(number, name)| domain(name, &our_uuid(number), OFF, ""))
        .collect();
    let (sandbox, uri) = with_domains(&domains);
    let labs = ["lab01", "lab02", "forensics"].map(|id| lab(id, &json!({})));
    sandbox.write_config(&json!({ "labs": labs }).to_string());
    let hint = |arguments: &[&str]| {
        let all = ["-o", "json", "-c", &uri];
        text(&sandbox.cyyber(all.iter().chain(arguments)).error_json(4)["hint"])
    };
    for verb in ["stop", "stats", "console", "touch"] {
        let hint = hint(&["instance", verb, "lab01", "ana"]);
        assert_eq!(
            hint,
            "did you mean lab01 anna? if not, create it: cyyber instance create lab01 ana"
        );
    }
    let wrong_lab = hint(&["instance", "pause", "lab01", "bob"]);
    assert!(
        wrong_lab.starts_with("did you mean lab02 bob?"),
        "{wrong_lab}"
    );
    let reset = hint(&["instance", "reset", "lab01", "Anna", "--yes"]);
    assert!(reset.starts_with("did you mean lab01 anna?"), "{reset}");
    // Nobody else is ever named.
    let alone = hint(&["--as-user", "ana", "instance", "stop", "lab01", "ana"]);
    assert_eq!(alone, "create it: cyyber instance create lab01 ana");
    // One number is as good as another.
    let number = hint(&["instance", "stop", "lab01", "18"]);
    assert_eq!(number, "create it: cyyber instance create lab01 18");

    let known = "known labs: lab01, lab02, forensics";
    for command in [
        &["instance", "list", "--lab", "forensic"][..],
        &["instance", "start", "forensic", "anna"],
        &["build", "forensic"],
    ] {
        assert_eq!(hint(command), format!("did you mean forensics? {known}"));
    }
    assert_eq!(hint(&["build", "networks"]), known);
}

#[test]
fn a_hint_names_some_of_many_labs() {
    let (sandbox, uri) = with_domains(&[]);
    let labs: Vec<_> = (10..40)
        .map(|number| lab(&format!("lab{number}"), &json!({})))
        .collect();
    sandbox.write_config(&json!({ "labs": labs }).to_string());
    let run = sandbox.cyyber(["-c", &uri, "instance", "start", "networks", "7"]);
    let run = run.says(4, "hint: known labs: lab10, lab11, ");
    assert!(run.stderr.contains("lab21 and 18 more"), "{run:#?}");
}
