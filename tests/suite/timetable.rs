//! The timetable: what it is in the configuration, what is shown of it, and what passes do by it.

use crate::common;

use std::fs::{self, File};
use std::time::{Duration, Instant, SystemTime};

use common::{Sandbox, lab, text, waits};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// A configuration with a lab, that of the sandbox, with these settings, and these courses of it.
pub fn configure(sandbox: &Sandbox, settings: &Value, courses: &[Value]) {
    let courses: Vec<_> = courses
        .iter()
        .map(|course| {
            let mut whole = json!({"lab": sandbox.lab, "roster": "7b.txt", "timezone": "UTC"});
            let own = course.as_object().unwrap().clone();
            whole.as_object_mut().unwrap().extend(own);
            whole
        })
        .collect();
    let config = json!({"labs": [lab(&sandbox.lab, settings)], "timetable": courses,
                        "host": {"accelerator": "tcg"}});
    sandbox.write_config(&config.to_string());
}

/// For guests of firmware, whose agents never answer.
fn without_boot() -> Value {
    json!({"policy": {"boot_timeout": "0s"}})
}

pub fn roster(sandbox: &Sandbox, users: &[String]) {
    fs::write(sandbox.path("7b.txt"), users.join("\n")).unwrap();
}

/// A lesson from so many minutes after now to so many, by the clock of UTC.
pub fn lesson(from: i64, to: i64) -> Value {
    let at = |minutes: i64| {
        let at = Timestamp::now() + SignedDuration::from_mins(minutes);
        TimeZone::UTC.to_datetime(at)
    };
    json!({"dates": [at(from).strftime("%F").to_string()],
           "from": at(from).strftime("%H:%M").to_string(), "to": at(to).strftime("%H:%M").to_string()})
}

pub fn unused(sandbox: &Sandbox, user: &str, minutes: u64) {
    let name = sandbox.instance_name(user);
    let file = File::options()
        .write(true)
        .open(sandbox.path("state/activity").join(name));
    let at = SystemTime::now() - Duration::from_secs(60 * minutes);
    file.unwrap().set_modified(at).unwrap();
}

fn actions(sandbox: &Sandbox, options: &[&str]) -> Vec<(String, String, String)> {
    let words = [&["-o", "json", "reap"], options].concat();
    let pass = sandbox.cyyber(words).json();
    let actions = pass["actions"].as_array().unwrap().iter();
    let told = |it: &Value| (text(&it["instance"]), text(&it["to"]), text(&it["reason"]));
    actions.map(told).collect()
}

#[test]
fn what_is_wrong_with_a_course_is_told_with_its_place() {
    let sandbox = Sandbox::new();
    for (course, wanted) in [
        (json!({"days": ["mon"]}), "timetable[0].from: both"),
        (
            json!({"from": "09:00", "to": "10:00"}),
            "timetable[0].days: \"days\", \"dates\" or \"ics\" is required",
        ),
        (
            json!({"days": ["monday"]}),
            "timetable[0].days[0]: unknown variant",
        ),
        (
            json!({"days": ["mon"], "from": "9:00", "to": "10:00"}),
            "timetable[0].from: bad time of day '9:00'",
        ),
        (
            json!({"days": ["mon"], "from": "09:00", "to": "09:00"}),
            "timetable[0].to: is the same",
        ),
        (
            json!({"ics": "a.ics", "days": ["mon"]}),
            "timetable[0].days: must not be set with",
        ),
        (
            json!({"ics": "a.ics", "timezone": "Mars/Olympus"}),
            "timetable[0].timezone: bad time zone",
        ),
        (
            json!({"ics": "a.ics", "lab": "nowhere"}),
            "timetable[0].lab: no lab 'nowhere'",
        ),
        (
            json!({"days": ["mon"], "from": "09:00", "to": "10:00", "every": 2}),
            "timetable[0].every: requires",
        ),
        (
            json!({"days": ["mon"], "from": "09:00", "to": "10:00", "except": ["2027-02-30"]}),
            "except[0]: bad date",
        ),
    ] {
        configure(&sandbox, &without_boot(), &[course]);
        sandbox.cyyber(["timetable"]).says(3, wanted);
    }
}

#[test]
fn the_week_is_shown_with_what_it_takes() {
    let sandbox = Sandbox::new();
    roster(&sandbox, &["anna".to_owned(), "ben".to_owned()]);
    configure(
        &sandbox,
        &without_boot(),
        &[
            lesson(60, 120),
            lesson(90, 150),
            json!({"ics": "school.ics"}),
        ],
    );
    let shown = sandbox.cyyber(["-o", "json", "timetable"]).ok();
    assert!(shown.stderr.contains("school.ics: "), "{shown:#?}");
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    let lessons = shown["lessons"].as_array().unwrap();
    assert_eq!(lessons.len(), 2, "{shown:#}");
    assert_eq!(lessons[0]["users"], 2);
    let each = lessons[0]["memory_mb"].as_u64().unwrap();
    assert_eq!(shown["peak"]["memory_mb"], 2 * each, "{shown:#}");
    assert_eq!(shown["peak"]["at"], lessons[1]["prewarm_at"]);
    assert_eq!(shown["troubles"].as_array().unwrap().len(), 1);
    let table = sandbox.cyyber(["timetable"]).ok().stdout;
    assert!(table.contains("Peak: 4 instances and"), "{table}");
    let table = sandbox.cyyber(["timetable", "--ahead", "70m"]).ok().stdout;
    assert!(table.contains("Peak: 2 instances and"), "{table}");
    configure(&sandbox, &without_boot(), &[]);
    let none = sandbox.cyyber(["timetable"]).ok().stdout;
    assert_eq!(none, "no lessons in this period\n");
    sandbox
        .cyyber(["--as-user", "anna", "timetable"])
        .says(4, "for anna alone");
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_lesson_finds_ten_ready_and_leaves_them_paused() {
    let sandbox = Sandbox::with_guests(10);
    sandbox.base(&sandbox.lab);
    let users: Vec<_> = (0..10).map(|n| format!("u{n}")).collect();
    roster(&sandbox, &users);
    let states = |state: &str| {
        let count = |user: &&String| sandbox.state(user) == state;
        users.iter().filter(count).count()
    };
    // Long before, there is only something to come.
    configure(&sandbox, &without_boot(), &[lesson(30, 90)]);
    sandbox.instance("create", "u0", &[]).ok();
    assert_eq!(actions(&sandbox, &[]), []);
    let listed = sandbox.listed("u0");
    assert_eq!(listed["next_step"], "running", "{listed:#}");
    let at: Timestamp = text(&listed["next_step_at"]).parse().unwrap();
    let minutes = at.duration_since(Timestamp::now()).as_mins();
    assert!((18..=20).contains(&minutes), "{listed:#}");

    // Nine minutes before the bell.
    configure(&sandbox, &without_boot(), &[lesson(9, 90)]);
    let plan = actions(&sandbox, &["--dry-run"]);
    assert_eq!(plan.len(), 10, "{plan:#?}");
    assert!(
        plan.iter()
            .all(|(_, to, why)| to == "running" && why.starts_with("for its lesson at"))
    );
    let table = sandbox.cyyber(["reap", "--dry-run"]).ok().stdout;
    assert!(table.contains("for its lesson at"), "{table}");
    let began = Instant::now();
    // A loaded host may need more than one pass.
    let ready = waits(|| {
        sandbox.cyyber(["reap"]).ok();
        users
            .iter()
            .all(|user| sandbox.listed(user)["state"] == "running")
    });
    assert!(ready, "{} are ready", states("running"));
    println!(
        "ten guests of firmware were ready after {:.1} s",
        began.elapsed().as_secs_f64()
    );
    assert_eq!(actions(&sandbox, &[]), [], "each once");

    // Somebody stops theirs, somebody comes, somebody is exempt.
    sandbox.instance("stop", "u1", &["--force"]).ok();
    sandbox.instance("keep", "u2", &["--until", "1h"]).ok();
    assert_eq!(actions(&sandbox, &[]), []);
    let journal = fs::read_to_string(sandbox.path("state/events.jsonl")).unwrap();
    let by_pass =
        |line: &&str| line.contains(r#""action":"start""#) && line.contains(r#""who":"reap""#);
    assert_eq!(journal.lines().filter(by_pass).count(), 10, "{journal}");

    // The lesson was over a while ago, and nobody used theirs since but one.
    configure(&sandbox, &without_boot(), &[lesson(-60, -6)]);
    users.iter().for_each(|user| unused(&sandbox, user, 7));
    unused(&sandbox, "u3", 1);
    let plan = actions(&sandbox, &["--dry-run"]);
    assert_eq!(plan.len(), 7, "{plan:#?}");
    let began = Instant::now();
    let done = actions(&sandbox, &[]);
    println!(
        "seven were paused after {:.1} s",
        began.elapsed().as_secs_f64()
    );
    assert_eq!(done.len(), 7, "{done:#?}");
    assert!(
        done.iter()
            .all(|(_, to, why)| to == "paused" && why.starts_with("its lesson ended at"))
    );
    assert_eq!(
        (states("paused"), states("running"), states("stopped")),
        (7, 2, 1)
    );
    let report = sandbox.cyyber(["-o", "json", "report"]).json();
    assert_eq!(report["started_for_lessons"], 10, "{report:#}");
    assert_eq!(report["woken_too_soon"], 0);
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_roster_that_changed_is_followed_and_one_that_cannot_be_read_hurts_nobody() {
    let sandbox = Sandbox::with_guests(3);
    sandbox.base(&sandbox.lab);
    roster(&sandbox, &["u0".to_owned()]);
    configure(&sandbox, &without_boot(), &[lesson(-30, 60)]);
    // The host was off when the lesson began: the first pass catches up.
    let done = actions(&sandbox, &[]);
    assert_eq!(done[0].0, sandbox.instance_name("u0"), "{done:#?}");
    roster(&sandbox, &["u1".to_owned()]);
    let done = actions(&sandbox, &[]);
    assert_eq!(done.len(), 1, "{done:#?}");
    assert_eq!(done[0].0, sandbox.instance_name("u1"));
    // Both are unused for long; only the one on the roster was made ready for this lesson.
    for user in ["u0", "u1"] {
        unused(&sandbox, user, 200);
    }
    fs::write(sandbox.path("7b.txt"), "two words\n").unwrap();
    let pass = sandbox.cyyber(["reap"]).ok();
    assert!(
        pass.stderr.contains("7b.txt: roster, line 1: bad user id"),
        "{pass:#?}"
    );
    assert_eq!(sandbox.cyyber(["reap"]).ok().stderr, "", "said once");
    let states = ["u0", "u1"].map(|user| sandbox.state(user));
    assert!(states.iter().all(|state| state != "paused"), "{states:?}");
    let plan = sandbox.cyyber(["-o", "json", "reap", "--dry-run"]).json();
    let of_u0 = |one: &&Value| one["instance"] == sandbox.instance_name("u0");
    let one = plan["instances"]
        .as_array()
        .unwrap()
        .iter()
        .find(of_u0)
        .unwrap();
    let reason = text(&one["reason"]);
    assert!(reason.contains("counts as in class: the roster"), "{one}");
    // And now it can: who is not on it is left to the policy.
    roster(&sandbox, &["u1".to_owned(), "u2".to_owned()]);
    let done = actions(&sandbox, &[]);
    let of_u0 = done
        .iter()
        .find(|(name, ..)| *name == sandbox.instance_name("u0"));
    assert_eq!(of_u0.unwrap().1, "paused", "{done:#?}");
    assert_eq!(sandbox.state("u2"), "running");
}
