//! `cyyber report`: what the journal adds up to, over all its files.

use crate::common;

use std::fs::{self, File};
use std::io::Write;
use std::time::{Duration, Instant};

use common::{Run, Sandbox};
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// A line of the journal on something that happened so many minutes ago.
pub fn line(
    lab: &str,
    user: &str,
    ago: i64,
    action: &str,
    from: &str,
    to: &str,
    ms: u64,
) -> String {
    let time = Timestamp::now() - SignedDuration::from_mins(ago);
    let state = |state: &str| match state {
        "" | "failed" => Value::Null,
        state => state.into(),
    };
    let instance = (action != "build").then(|| format!("{lab}_user_{user}"));
    let ok = to != "failed";
    let line = json!({
        "time": time.to_string(), "instance": instance, "lab_id": lab, "user_id": user,
        "action": action, "from": state(from), "to": state(to), "ok": ok,
        "reason": if ok { "why" } else { "not <b>enough</b> memory" },
        "code": if ok { None } else { Some("capacity") },
        "who": if action == "reap" { "reap" } else { "0" }, "as_user": null,
        "duration_ms": ms, "memory_mb": 2048,
    });
    format!("{line}\n")
}

/// An instance that is started, found idle, paused after an hour, and woken two minutes later; it is
/// destroyed in the end.
pub fn visit(lab: &str, user: &str, ago: i64) -> String {
    [
        line(lab, user, ago, "start", "", "starting", 4000),
        line(lab, user, ago - 30, "reap", "running", "idle", 10),
        line(lab, user, ago - 60, "reap", "idle", "paused", 900),
        line(lab, user, ago - 62, "resume", "paused", "running", 700),
        line(lab, user, ago - 122, "reap", "running", "paused", 900),
        line(lab, user, ago - 182, "reap", "paused", "stopped", 2000),
        line(lab, user, ago - 242, "start", "stopped", "failed", 5),
        line(lab, user, ago - 302, "cleanup", "stopped", "", 50),
    ]
    .concat()
}

fn packed(sandbox: &Sandbox, name: &str, content: &str) {
    let file = File::create(sandbox.path("state").join(name)).unwrap();
    let mut packer = GzEncoder::new(file, Compression::default());
    packer.write_all(content.as_bytes()).unwrap();
    packer.finish().unwrap();
}

#[test]
fn a_report_adds_up_the_journal_over_its_files() {
    let sandbox = Sandbox::new();
    let empty = sandbox.cyyber(["-o", "json", "report"]).json();
    assert_eq!((&empty["pauses"], &empty["labs"]), (&json!(0), &json!([])));
    assert_eq!(empty["resumes"]["p50_seconds"], Value::Null);
    sandbox.cyyber(["report"]).ok();

    let lab = &sandbox.lab;
    fs::create_dir_all(sandbox.path("state")).unwrap();
    let day = 24 * 60;
    packed(&sandbox, "events.jsonl.2.gz", &visit(lab, "7", 5 * day));
    let second = visit("other", "8", 3 * day) + &line(lab, "", 2 * day, "build", "", "", 90_000);
    fs::write(sandbox.path("state/events.jsonl.1"), second).unwrap();
    let third = visit(lab, "9", day) + "nonsense\n";
    fs::write(sandbox.path("state/events.jsonl"), third).unwrap();

    let run = sandbox.cyyber(["-o", "json", "report"]).ok();
    assert!(run.stderr.contains("1 lines of the journal"), "{run:#?}");
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    // Three visits of two hours, two of them paused for two minutes and an hour, stopped for two.
    let number = |name: &str| report[name].as_f64().unwrap();
    assert_eq!(number("memory_used_gib_hours"), 12.0);
    assert_eq!(number("memory_without_policy_gib_hours"), 30.2);
    assert_eq!(
        report["memory_freed_gib_hours"],
        json!({"stopped": 12.0, "paused": 6.2})
    );
    assert_eq!(number("use_hours"), 4.5);
    assert_eq!((number("pauses"), number("woken_too_soon")), (6.0, 3.0));
    assert_eq!(report["woken_too_soon_percent"], 33.3);
    let times = json!({"count": 3, "p50_seconds": 0.7, "p95_seconds": 0.7, "longest_seconds": 0.7});
    assert_eq!(report["resumes"], times);
    assert_eq!(report["failed_starts"][0]["count"], 3);
    assert_eq!(report["failed_starts"][0]["code"], "capacity");
    assert_eq!(
        (&report["builds"]["count"], &report["unreadable_lines"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(report["labs"].as_array().unwrap().len(), 2);
    assert_eq!(report["labs"][0]["lab_id"], **lab);

    let narrow = sandbox
        .cyyber(["-o", "json", "report", "--since", "4d", "--lab", lab])
        .ok();
    let narrow: Value = serde_json::from_str(&narrow.stdout).unwrap();
    assert_eq!(narrow["memory_used_gib_hours"], 4.0);
    assert_eq!(narrow["labs"].as_array().unwrap().len(), 1);
    let other = sandbox
        .cyyber(["-o", "json", "report", "--lab", "other"])
        .json();
    assert_eq!(other["builds"]["count"], 0);
    sandbox
        .cyyber(["report", "--lab", "nowhere"])
        .says(4, "nowhere");
    sandbox
        .cyyber(["--as-user", "7", "report"])
        .says(4, "whole host");

    let text = sandbox.cyyber(["report"]).ok().stdout;
    for wanted in [
        "12.0 GiB hours used",
        "60 % saved",
        lab,
        "█",
        "capacity",
        "0.7s",
        "Mon",
    ] {
        assert!(text.contains(wanted), "no {wanted} in\n{text}");
    }
}

#[test]
fn what_is_paused_all_the_time_is_known_from_libvirt_alone() {
    let sandbox = Sandbox::new();
    sandbox.base(&sandbox.lab);
    // The test driver forgets it when the command ends.
    sandbox.instance("create", "7", &[]).ok();
    let mut command = sandbox.command(["-o", "json", "report"]);
    let run = Run::of(command.env("CYYBER_CONNECT", common::UNREACHABLE)).ok();
    assert!(run.stderr.contains("are left out"), "{run:#?}");
    assert_eq!(
        serde_json::from_str::<Value>(&run.stdout).unwrap()["pauses"],
        0
    );
}

#[test]
fn a_page_is_small_and_needs_nothing_else() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path("state")).unwrap();
    let mut lines = String::new();
    for user in 0..100_i64 {
        let lab = format!("lab{:02}", user % 8);
        for day in (1..7).rev() {
            let ago = day * 24 * 60 + user * 7;
            lines += &visit(&lab, &format!("s{user}"), ago);
        }
        lines += &line(
            &lab,
            "",
            user * 60 + 5,
            "build",
            "",
            "",
            60_000 + 1000 * user as u64,
        );
    }
    let mut lines: Vec<_> = lines.split_inclusive('\n').collect();
    lines.sort_by_key(|line| line.split_once("\"time\":").unwrap().1);
    fs::write(sandbox.path("state/events.jsonl"), lines.concat()).unwrap();
    sandbox.cyyber(["report", "--html", "report.html"]).ok();
    let page = fs::read_to_string(sandbox.path("report.html")).unwrap();
    println!(
        "the page of a week of 100 instances: {} kB",
        page.len() / 1000
    );
    assert!(page.len() <= 200_000, "{}", page.len());
    assert_eq!(page.matches("<svg").count(), 6);
    for bad in [
        "<script",
        "src=",
        "@import",
        "url(",
        "<link",
        "<b>enough",
        "NaN",
        "inf",
    ] {
        assert!(!page.contains(bad), "{bad}");
    }
    let foreign = page.replace("http://www.w3.org/2000/svg", "");
    assert!(!foreign.contains("http"), "something is fetched");
    for wanted in [
        "lab07",
        "&lt;b&gt;enough",
        "prefers-color-scheme: dark",
        "@media print",
    ] {
        assert!(page.contains(wanted), "no {wanted}");
    }
    // What is no file is left alone, and the answer for a program is the same.
    sandbox
        .cyyber(["report", "--html", "/dev/null"])
        .says(1, "something that is not a file");
    let json = sandbox
        .cyyber(["-o", "json", "report", "--html", "again.html"])
        .json();
    assert_eq!(json["pauses"], 1200);
    assert!(sandbox.path("again.html").exists());
}

#[test]
fn a_hundred_thousand_lines_are_added_up_quickly() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path("state")).unwrap();
    let mut lines = String::new();
    for n in 0..12_500 {
        lines += &visit("lab01", &format!("s{}", n % 100), 7 * 24 * 60 - n / 2);
    }
    assert_eq!(lines.lines().count(), 100_000);
    fs::write(sandbox.path("state/events.jsonl"), lines).unwrap();
    let began = Instant::now();
    let report = sandbox
        .cyyber(["-o", "json", "report", "--since", "9d"])
        .json();
    let took = began.elapsed();
    println!("a report of 100,000 lines: {took:?}");
    assert!(report["pauses"].as_u64().unwrap() > 20_000);
    // Ten times as long without optimisation, and other tests run at the same time.
    let limit = Duration::from_secs(if cfg!(debug_assertions) { 60 } else { 1 });
    assert!(took < limit, "{took:?}");
}
