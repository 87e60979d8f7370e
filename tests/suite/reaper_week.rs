//! The five days of a school week with a timetable, simulated: students on a host that has memory for
//! half of them, libvirt's test driver, and a clock of our own. The same week without the timetable is
//! what it is compared with.
//!
//! The test driver has no console and no agent, and its guests take no processor time: that nobody who
//! works is paused at the end of a lesson is shown in `src/reaper/in_class.rs`, of the policy alone.

use crate::common;
use crate::reaper_day::{context_at, running};

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::Command;

use common::{Sandbox, lab, rounds};
use cyyber::cli::Reap;
use cyyber::cmd;
use cyyber::context::Context;
use cyyber::instance::{Instance, record};
use cyyber::names::InstanceName;
use cyyber::reaper::pressure;
use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const CLASSES: usize = 5;
const MEMORY_MB: u32 = 2048;

/// How many there are; a pass takes about as long as there are instances.
fn students() -> usize {
    rounds("CYYBER_STUDENTS", 40, 40)
}

/// So many minutes by day from one pass to the next.
fn interval() -> i64 {
    rounds("CYYBER_PASS_MINUTES", 3, 3).try_into().unwrap()
}

/// How many seconds after power-on the agent of a guest answers.
const BOOT: i64 = 40;

/// Half of what all of them need together, with what QEMU takes beside each.
fn host_mb() -> usize {
    (MEMORY_MB as usize + 384) * students() / 2
}

/// A Monday, midnight, UTC.
const MONDAY: i64 = 1_900_022_400;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// When the lessons of a day begin; each takes 90 minutes, and the first two follow one another.
const LESSONS: [i64; 3] = [8 * HOUR, 9 * HOUR + 1800 + 600, 13 * HOUR];
const LENGTH: i64 = 90 * 60;

/// Which classes have a lesson on a day: two at once, of a fifth of all students each.
fn classes(day: i64, lesson: usize) -> [usize; 2] {
    let first = (usize::try_from(day).unwrap() + 2 * lesson) % CLASSES;
    [first, (first + 1) % CLASSES]
}

fn class_of(student: usize) -> usize {
    student % CLASSES
}

/// The seconds at which the backend hears of a student, in a lesson and out of it.
fn week_of(rng: &mut StdRng, student: usize) -> Vec<i64> {
    let mut heard = Vec::new();
    for day in 0..5 {
        for (number, begins) in LESSONS.iter().enumerate() {
            let has = classes(day, number).contains(&class_of(student));
            // Not everyone comes.
            if !has || rng.random_range(0..10) == 0 {
                continue;
            }
            let from = day * DAY + begins + rng.random_range(-300..400);
            let end = day * DAY + begins + LENGTH + rng.random_range(-600..90);
            sits(rng, &mut heard, from, end);
        }
        // Homework.
        if rng.random_range(0..10) < 2 {
            let from = day * DAY + 16 * HOUR + rng.random_range(0..2 * HOUR);
            let end = from + rng.random_range(15..90) * 60;
            sits(rng, &mut heard, from, end);
        }
    }
    heard.sort_unstable();
    heard
}

fn sits(rng: &mut StdRng, heard: &mut Vec<i64>, from: i64, end: i64) {
    let mut at = from;
    while at < end {
        heard.push(at);
        // They type, read or think, and now and then the teacher talks.
        at += match rng.random_range(0..100) {
            0 => rng.random_range(600..2000),
            1..10 => rng.random_range(300..570),
            _ => rng.random_range(5..180),
        };
    }
}

fn is_in_lesson(student: usize, at: i64) -> bool {
    let (day, second) = (at / DAY, at % DAY);
    let mut lessons = LESSONS.iter().enumerate();
    day < 5
        && lessons.any(|(number, begins)| {
            (*begins..begins + LENGTH).contains(&second)
                && classes(day, number).contains(&class_of(student))
        })
}

/// What a week came to.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Week {
    minutes: usize,
    without: usize,
    peak: usize,
    refused: usize,
    refused_in_lessons: usize,
    waited_in_lessons: usize,
    taken_down: usize,
    too_soon: usize,
    paused_in_class: usize,
    steps: BTreeMap<String, usize>,
    /// How many were ready when their lessons began, of how many.
    ready: [u64; 2],
}

impl Week {
    fn gib_hours(minutes: usize) -> f64 {
        minutes as f64 * f64::from(MEMORY_MB) / 1024.0 / 60.0
    }

    fn too_soon_percent(&self) -> f64 {
        100.0 * self.too_soon as f64 / self.taken_down.max(1) as f64
    }
}

struct School {
    sandbox: Sandbox,
    /// Keeps the test driver's guests alive between passes.
    door: Context,
    names: Vec<InstanceName>,
}

impl School {
    fn new(with_timetable: bool) -> School {
        let sandbox = Sandbox::new();
        let mut courses = Vec::new();
        for class in 0..CLASSES {
            let users = (0..students()).filter(|student| class_of(*student) == class);
            let users: Vec<_> = users.map(|student| format!("s{student}")).collect();
            let roster = format!("class{class}.txt");
            std::fs::write(sandbox.path(&roster), users.join("\n")).unwrap();
            for (number, begins) in LESSONS.iter().enumerate() {
                let days = (0..5).filter(|day| classes(*day, number).contains(&class));
                let names = ["mon", "tue", "wed", "thu", "fri"];
                let days: Vec<_> = days
                    .map(|day| names[usize::try_from(day).unwrap()])
                    .collect();
                let clock = |second: i64| format!("{:02}:{:02}", second / HOUR, second % HOUR / 60);
                courses.push(json!({"lab": sandbox.lab, "roster": roster, "days": days,
                    "from": clock(*begins), "to": clock(begins + LENGTH), "timezone": "UTC"}));
            }
        }
        if !with_timetable {
            courses.clear();
        }
        let host = json!({"max_memory": format!("{}M", host_mb()), "accelerator": "tcg",
            "storage_dir": sandbox.path("storage"), "state_dir": sandbox.path("state"),
            "output_dir": sandbox.path("output")});
        // The test driver does not undefine as real ones do; what is stopped takes no memory anyway.
        let policy = json!({"destroy_after": "never"});
        let own = json!({"memory_mb": MEMORY_MB, "policy": policy});
        let labs = [lab(&sandbox.lab, &own)];
        sandbox
            .write_config(&json!({"labs": labs, "host": host, "timetable": courses}).to_string());
        sandbox.base(&sandbox.lab);
        let door = context(&sandbox, -60);
        door.hypervisor().unwrap();
        let names =
            (0..students()).map(|n| sandbox.instance_name(&format!("s{n}")).parse().unwrap());
        let names = names.collect();
        School {
            sandbox,
            door,
            names,
        }
    }

    /// A student does something: what the backend would do then. Whether there was memory for it, and
    /// whether they had to wait.
    fn use_it(&self, student: usize, at: i64) -> (bool, bool) {
        let name = &self.names[student];
        let found = self.door.hypervisor().unwrap().find(name).unwrap();
        let detail = cyyber::hypervisor::Detail::Power;
        let facts = found.and_then(|domain| domain.facts(detail).unwrap());
        let runs = facts.is_some_and(|facts| facts.id.is_some());
        if !runs {
            // As the verb does, but for the console, of which there is none here.
            let context = context(&self.sandbox, at);
            let start = || Instance::lock(&context, name)?.start_unattended();
            if pressure::with_room(&context, name, start).is_err() {
                return (false, true);
            }
        }
        let path = self.sandbox.path("state/activity").join(name.to_string());
        let time = std::time::UNIX_EPOCH
            + std::time::Duration::from_secs((MONDAY + at).try_into().unwrap());
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(time)
            .unwrap();
        (true, !runs)
    }
}

/// Has guests that were powered on answer by `now`, as their agents would have.
pub fn boot(sandbox: &Sandbox, names: &[InstanceName], now: i64) {
    let records = sandbox.path("state/instances");
    for name in names {
        let path = records.join(format!("{name}.json"));
        let Some(mut record) = record::read_any(&path) else {
            continue;
        };
        let Some(boot) = record.boot.as_mut().filter(|boot| boot.ready.is_none()) else {
            continue;
        };
        let up = boot.powered_on + SignedDuration::from_secs(BOOT);
        if up.as_second() <= now {
            boot.ready = Some(up);
            record::write(&path, &record).unwrap();
        }
    }
}

/// What the program stands on in the given second of the week.
fn context(sandbox: &Sandbox, second: i64) -> Context {
    let uptime = SignedDuration::from_secs(second + 100 * HOUR);
    context_at(sandbox, MONDAY + second, uptime)
}

/// When there are passes: often by day, and at night as often as it takes to leave no gap.
fn passes() -> impl Iterator<Item = i64> {
    let minutes = (0..5 * 24 * 60).filter(|minute| {
        let by_day = (7..20).contains(&(minute / 60 % 24));
        minute % if by_day { interval() } else { 9 } == 0
    });
    minutes.map(|minute| minute * 60)
}

/// The weeks of all students, from one seed.
fn weeks() -> Vec<Vec<i64>> {
    let mut rng = StdRng::seed_from_u64(2026);
    let all = (0..students()).map(|student| week_of(&mut rng, student));
    all.collect()
}

fn simulate(with_timetable: bool) -> Week {
    let weeks = weeks();
    let school = School::new(with_timetable);
    let mut next = vec![0; students()];
    let mut week = Week::default();
    let mut last = 0;
    for second in passes() {
        let mut due: Vec<(i64, usize)> = Vec::new();
        for (student, heard) in weeks.iter().enumerate() {
            while let Some(at) = heard.get(next[student]).filter(|at| **at < second) {
                due.push((*at, student));
                next[student] += 1;
            }
        }
        due.sort_unstable();
        for (at, student) in due {
            let (admitted, waited) = school.use_it(student, at);
            let in_lesson = is_in_lesson(student, at);
            week.refused += usize::from(!admitted);
            week.refused_in_lessons += usize::from(!admitted && in_lesson);
            week.waited_in_lessons += usize::from(waited && in_lesson);
        }
        boot(&school.sandbox, &school.names, MONDAY + second);
        let reap = Reap {
            dry_run: false,
            jobs: 4,
            timeout: "60s".parse().unwrap(),
        };
        cmd::reap::run(&context(&school.sandbox, second), &reap).unwrap();
        let running = running(&school.door);
        let minutes = usize::try_from((second - last) / 60).unwrap();
        last = second;
        week.minutes += running * minutes;
        week.without += next.iter().filter(|next| **next > 0).count() * minutes;
        week.peak = week.peak.max(running);
    }
    let journal = school.sandbox.path("state/events.jsonl");
    judge(&mut week, &journal, &weeks);
    week
}

/// What the journal tells of the steps, by what students really did.
fn judge(week: &mut Week, journal: &Path, weeks: &[Vec<i64>]) {
    for line in std::fs::read_to_string(journal).unwrap().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        if event["action"] == "lesson" {
            for (sum, key) in week.ready.iter_mut().zip(["ready", "wanted"]) {
                *sum += event[key].as_u64().unwrap();
            }
            continue;
        }
        if event["who"] != "reap" || event["ok"] != true || event["action"] == "announce" {
            continue;
        }
        let to = event["to"].as_str().unwrap_or("destroyed").to_owned();
        *week.steps.entry(to.clone()).or_default() += 1;
        if to != "paused" && to != "stopped" || event["from"] == "paused" {
            continue;
        }
        let student: usize = event["user_id"].as_str().unwrap()[1..].parse().unwrap();
        let at: Timestamp = event["time"].as_str().unwrap().parse().unwrap();
        let at = at.as_second() - MONDAY;
        week.taken_down += 1;
        let back = weeks[student].iter().find(|heard| **heard > at);
        week.too_soon += usize::from(back.is_some_and(|back| back - at <= 300));
        let mut in_this = weeks[student]
            .iter()
            .filter(|heard| is_in_lesson(student, **heard));
        let used =
            in_this.any(|heard| *heard < at && at - heard < LENGTH && heard / DAY == at / DAY);
        week.paused_in_class += usize::from(is_in_lesson(student, at) && used);
    }
}

/// In the environment of the process that simulates a week: whether with the timetable.
const SIMULATES: &str = "CYYBER_TEST_WEEK";

/// What comes before its answer.
const ANSWER: &str = "the week: ";

/// Has a week simulated in a process of its own: the test driver is one for all that is in a process.
fn simulated(with_timetable: bool) -> Week {
    let test = "reaper_week::a_week_with_a_timetable_on_half_the_memory";
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--include-ignored", "--nocapture"])
        .env(SIMULATES, with_timetable.to_string())
        .output()
        .unwrap();
    let [stdout, stderr] = [child.stdout, child.stderr].map(|it| String::from_utf8(it).unwrap());
    let answer = stdout.lines().find_map(|line| line.split_once(ANSWER));
    let (_, answer) = answer.unwrap_or_else(|| panic!("{stderr}"));
    serde_json::from_str(answer).unwrap()
}

#[test]
#[ignore = "takes a minute or more: run by `make test-all`"]
fn a_week_with_a_timetable_on_half_the_memory() {
    if let Ok(with_timetable) = std::env::var(SIMULATES) {
        let week = simulate(with_timetable.parse().unwrap());
        println!("{ANSWER}{}", serde_json::to_string(&week).unwrap());
        return;
    }
    let (with, alone) = std::thread::scope(|scope| {
        let alone = scope.spawn(|| simulated(false));
        (simulated(true), alone.join().unwrap())
    });
    let saved = |week: &Week| 100.0 * (1.0 - week.minutes as f64 / week.without as f64);
    for (name, week) in [("with the timetable", &with), ("the reaper alone", &alone)] {
        println!(
            "{} students of {MEMORY_MB} MiB on {} MiB, {name}: {:.0} GiB-hours of {:.0}, {:.1} % saved \
             (the aim: 75 %); {} at once at most; refused: {}, in lessons: {}; waited for in lessons: \
             {}; ready when lessons began: {} of {}; woken too soon: {:.1} % of {}; steps: {:?}",
            students(),
            host_mb(),
            Week::gib_hours(week.minutes),
            Week::gib_hours(week.without),
            saved(week),
            week.peak,
            week.refused,
            week.refused_in_lessons,
            week.waited_in_lessons,
            week.ready[0],
            week.ready[1],
            week.too_soon_percent(),
            week.taken_down,
            week.steps,
        );
    }
    assert_eq!(with.refused_in_lessons, 0, "{with:?}");
    assert_eq!(with.paused_in_class, 0, "{with:?}");
    assert!(with.too_soon_percent() <= 2.0, "{with:?}");
    assert!(with.minutes <= alone.minutes, "{with:?} {alone:?}");
    assert_eq!(with.ready[0], with.ready[1], "{with:?}");
    assert!(with.ready[1] > 0, "{with:?}");
    assert!(saved(&with) >= 75.0, "{with:?}");
    assert!(
        with.waited_in_lessons < alone.waited_in_lessons,
        "{with:?} {alone:?}"
    );
}
