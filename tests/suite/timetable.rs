//! The timetable: what it is in the configuration, what is shown of it, and what passes do by it.

use crate::common;

use crate::reaper_day::{context_at, running};
use crate::reaper_week::boot;

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use common::{Run, Sandbox, lab, run, text, waits};
use cyyber::cli::Reap;
use cyyber::cmd;
use cyyber::context::Context;
use cyyber::names::InstanceName;
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

/// In the environment of a process that runs one test: the test driver is one for all that is in a process.
const ALONE: &str = "CYYBER_TEST_ALONE";

/// Midnight of the day of the first lesson.
const MIDNIGHT: i64 = 1_900_022_400;

const DAY: i64 = 24 * 3600;

/// A school of six, by a clock of our own.
struct School {
    sandbox: Sandbox,
    names: Vec<InstanceName>,
}

impl School {
    fn new() -> School {
        let sandbox = Sandbox::new();
        let users: Vec<_> = (0..6).map(|n| format!("u{n}")).collect();
        roster(&sandbox, &users);
        let name = |user: &String| sandbox.instance_name(user).parse().unwrap();
        let names = users.iter().map(name).collect();
        let dates: Vec<_> = (0..4)
            .map(|day| Timestamp::from_second(MIDNIGHT + day * DAY).unwrap())
            .map(|at| at.strftime("%F").to_string())
            .collect();
        let course = json!({"lab": sandbox.lab, "roster": "7b.txt", "timezone": "UTC",
            "dates": dates, "from": "09:00", "to": "10:00"});
        let host = json!({"accelerator": "tcg", "storage_dir": sandbox.path("storage"),
            "state_dir": sandbox.path("state"), "output_dir": sandbox.path("output")});
        let policy = json!({"policy": {"stop_after": "never", "destroy_after": "never"}});
        let config = json!({"labs": [lab(&sandbox.lab, &policy)], "host": host,
            "timetable": [course]});
        sandbox.write_config(&config.to_string());
        sandbox.base(&sandbox.lab);
        School { sandbox, names }
    }

    fn at(&self, second: i64) -> Context {
        let uptime = SignedDuration::from_secs(second + DAY);
        context_at(&self.sandbox, MIDNIGHT + second, uptime)
    }

    /// Makes a pass a minute from before the lesson of a day until after it. How many minutes before the bell
    /// the first and the last instance was begun.
    fn lesson(&self, day: i64) -> [i64; 2] {
        let bell = day * DAY + 9 * 3600;
        let mut begun = Vec::new();
        for minute in (-12..3).chain(57..65) {
            let second = bell + 60 * minute;
            boot(&self.sandbox, &self.names, MIDNIGHT + second);
            let before = running(&self.at(second));
            let reap = Reap {
                dry_run: false,
                jobs: 4,
                timeout: "60s".parse().unwrap(),
            };
            // One that cannot be brought up is a failure.
            let _ = cmd::reap::run(&self.at(second), &reap);
            let after = running(&self.at(second));
            begun.extend((after > before).then_some(-minute));
        }
        let [Some(first), Some(last)] = [begun.first(), begun.last()] else {
            panic!("none was brought up");
        };
        [*first, *last]
    }
}

#[test]
fn a_class_that_starts_quickly_is_up_shortly_before_the_bell_and_who_was_not_is_told() {
    if std::env::var_os(ALONE).is_none() {
        let test = "timetable::a_class_that_starts_quickly_is_up_shortly_before_the_bell_and_who_was_not_is_told";
        let mut alone = Command::new(std::env::current_exe().unwrap());
        alone.args(["--exact", test, "--nocapture"]).env(ALONE, "1");
        run(&mut alone);
        return;
    }
    let school = School::new();
    // Keeps the test driver's guests alive.
    let door = school.at(0);
    door.hypervisor().unwrap();
    let unknown = [10, 10];
    assert_eq!(
        school.lesson(0),
        unknown,
        "by now nobody knows what a boot takes"
    );
    assert_eq!(running(&door), 0, "they are paused");
    assert_eq!(school.lesson(1), unknown, "or a resume");
    // The test driver has guests boot then, too.
    assert_eq!(school.lesson(2), [3, 3], "they are up within a minute");

    // Somebody is new, and there is nothing to make their instance of.
    let users: Vec<_> = (0..7).map(|n| format!("u{n}")).collect();
    roster(&school.sandbox, &users);
    let base = format!("storage/base-images/{}-base.qcow2", school.sandbox.lab);
    fs::remove_file(school.sandbox.path(&base)).unwrap();
    school.lesson(3);
    let journal = fs::read_to_string(school.sandbox.path("state/events.jsonl")).unwrap();
    let lines = journal
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let lessons: Vec<Value> = lines
        .filter(|line: &Value| line["action"] == "lesson")
        .collect();
    let found =
        |line: &Value| [line["ready"].as_u64(), line["wanted"].as_u64()].map(Option::unwrap);
    let found: Vec<_> = lessons.iter().map(found).collect();
    assert_eq!(found, [[6, 6], [6, 6], [6, 6], [6, 7]], "{lessons:#?}");
    assert_eq!(lessons[3]["ok"], false);
    let reason = text(&lessons[3]["reason"]);
    assert!(
        reason.starts_with("6 of 7 instances were ready for the lesson at 2030"),
        "{reason}"
    );
    let metrics = school.sandbox.cyyber(["metrics"]).ok().stdout;
    let lab = &school.sandbox.lab;
    for (metric, label, value) in [
        ("lessons_total", "", 4),
        ("lessons_not_ready_total", "", 1),
        ("lesson_instances_total", ",ready=\"yes\"", 24),
        ("lesson_instances_total", ",ready=\"no\"", 1),
        ("lesson_starts_total", ",outcome=\"done\"", 24),
    ] {
        let line = format!("cyyber_{metric}{{lab=\"{lab}\"{label}}} {value}\n");
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
}

#[test]
fn doctor_finds_rosters_and_calendars_that_passes_cannot_follow() {
    let sandbox = Sandbox::new();
    let look = |courses: &[Value]| -> Vec<Value> {
        configure(&sandbox, &without_boot(), courses);
        let mut doctor = sandbox.command(["-o", "json", "doctor"]);
        // By whom passes are made does not depend on who looks.
        let run = Run::of(doctor.env("SUDO_UID", "1000"));
        let document: Value = serde_json::from_str(&run.stdout).unwrap();
        let findings = document["findings"].as_array().unwrap().iter();
        let found = findings.filter(|it| it["check"] == "timetable");
        found.cloned().collect()
    };
    let finds = |course: &Value, status: &str, why: &str, remedy: &str| {
        let found = look(&[course.clone(), course.clone()]);
        let said = |it: &&Value| text(&it["message"]).contains(why);
        let one = found.iter().find(said);
        let one = one.unwrap_or_else(|| panic!("{why}: {found:#?}"));
        assert_eq!(one["status"], status, "{found:#?}");
        match remedy {
            "" => assert_eq!(one["remedy"], Value::Null),
            remedy => assert!(text(&one["remedy"]).contains(remedy), "{one:#}"),
        }
    };
    assert!(look(&[]).is_empty(), "there is no timetable");
    let weekly = json!({"days": ["mon"], "from": "09:00", "to": "10:00"});
    let over = json!({"days": ["mon"], "from": "09:00", "to": "10:00", "until": "2020-07-01"});
    finds(
        &weekly,
        "failed",
        "7b.txt: No such file",
        "one user id a line",
    );
    assert_eq!(
        look(&[weekly.clone(), weekly.clone()]).len(),
        1,
        "said once"
    );
    roster(&sandbox, &["two words".to_owned()]);
    finds(
        &weekly,
        "failed",
        "7b.txt: roster, line 1: bad user id",
        "one user id a line",
    );
    roster(&sandbox, &[]);
    finds(
        &weekly,
        "failed",
        "7b.txt: no users in roster",
        "one user id a line",
    );
    roster(&sandbox, &["anna".to_owned()]);
    finds(&weekly, "ok", "2 courses, with lessons to come", "");
    chown(sandbox.path("7b.txt"), Some(1000), None).unwrap();
    finds(
        &weekly,
        "failed",
        "7b.txt cannot be trusted",
        "must belong to root",
    );
    chown(sandbox.path("7b.txt"), Some(0), None).unwrap();
    finds(
        &over,
        "warning",
        "it has no lesson from now on",
        "remove it",
    );
    let found = look(&[over, weekly]);
    assert_eq!(found.len(), 1, "{found:#?}");

    let calendar = |text: &str| fs::write(sandbox.path("school.ics"), text).unwrap();
    let ics = json!({"ics": "school.ics", "summary": "networks"});
    finds(&ics, "failed", "school.ics: No such file", "iCalendar");
    calendar("BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\n");
    finds(&ics, "failed", "school.ics: it is not", "export it again");
    let event = |rule: &str, summary: &str| {
        calendar(&format!(
            "BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nUID:1\r\nDTSTART:20200106T090000Z\r\n\
             DTEND:20200106T100000Z\r\nRRULE:{rule}\r\nSUMMARY:{summary}\r\nEND:VEVENT\r\n\
             END:VCALENDAR\r\n"
        ));
    };
    event("FREQ=MONTHLY", "Networks 7b");
    finds(
        &ics,
        "failed",
        "school.ics: line 6: RRULE",
        "export it again",
    );
    event("FREQ=WEEKLY;COUNT=10", "Networks 7b");
    finds(
        &ics,
        "warning",
        "has no lesson with 'networks' in its summary from now on",
        "remove it",
    );
    event("FREQ=WEEKLY", "Chess");
    finds(&ics, "warning", "with 'networks' in its summary", "correct");
    event("FREQ=WEEKLY", "Networks 7b");
    finds(&ics, "ok", "2 courses", "");
    let nowhere = json!({"lab": "nowhere", "days": ["mon"], "from": "09:00", "to": "10:00"});
    configure(&sandbox, &without_boot(), &[nowhere]);
    let run = sandbox.cyyber(["-o", "json", "doctor"]);
    assert!(
        run.stdout.contains("timetable[0].lab: no lab 'nowhere'"),
        "{run:#?}"
    );
}
