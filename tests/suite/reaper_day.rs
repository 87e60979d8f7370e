//! A day of a school, simulated: 100 students, a pass each minute, libvirt's test driver, and a
//! clock of our own.

use crate::common;

use std::collections::BTreeMap;
use std::fs::File;

use common::{Sandbox, TEST_DRIVER};
use cyyber::cli::{Global, Instance, Reap};
use cyyber::clock::Moment;
use cyyber::cmd;
use cyyber::context::Context;
use cyyber::hypervisor::Power;
use cyyber::names::InstanceName;
use cyyber::output::{Format, Output};
use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

const STUDENTS: usize = 100;
const MINUTES: i64 = 24 * 60;
const MEMORY_MB: u32 = 2048;

/// Midnight of that day.
const MIDNIGHT: i64 = 1_900_000_000 / 86_400 * 86_400;

/// What a student does: the seconds since midnight at which the backend hears of them.
fn day_of(rng: &mut StdRng) -> Vec<i64> {
    let mut heard = Vec::new();
    let mut sitting = |rng: &mut StdRng, from: i64, minutes: i64| {
        let (mut at, end) = (from, from + minutes * 60);
        while at < end {
            heard.push(at);
            // They type, read or think, and now and then the teacher talks.
            at += match rng.random_range(0..100) {
                0 => rng.random_range(600..2000),
                1..10 => rng.random_range(300..570),
                _ => rng.random_range(5..180),
            };
        }
    };
    let hour = 3600;
    // Not everyone comes.
    if rng.random_range(0..10) < 9 {
        let comes = 8 * hour + rng.random_range(0..2 * hour);
        let minutes = rng.random_range(60..150);
        sitting(rng, comes, minutes);
    }
    // After lunch, during which the browser stays open.
    if rng.random_range(0..10) < 7 {
        let comes = 13 * hour + rng.random_range(0..2 * hour);
        let minutes = rng.random_range(45..140);
        sitting(rng, comes, minutes);
    }
    // Homework.
    if rng.random_range(0..10) < 2 {
        let comes = 19 * hour + rng.random_range(0..2 * hour);
        let minutes = rng.random_range(15..90);
        sitting(rng, comes, minutes);
    }
    heard
}

struct School {
    sandbox: Sandbox,
    /// Keeps the test driver's guests alive between passes.
    door: Context,
    names: Vec<InstanceName>,
}

impl School {
    fn new() -> School {
        let sandbox = Sandbox::new();
        sandbox.configure(&json!({"memory_mb": MEMORY_MB}));
        sandbox.base(&sandbox.lab);
        let door = context(&sandbox, -1);
        door.hypervisor().unwrap();
        let users: String = (0..STUDENTS).map(|n| format!("s{n}\n")).collect();
        std::fs::write(sandbox.path("class.txt"), users).unwrap();
        let class = cyyber::cli::Class {
            lab: sandbox.lab.parse().unwrap(),
            user: None,
            users_from: Some(sandbox.path("class.txt")),
            jobs: 4,
        };
        let create = Instance::Create {
            class,
            start: false,
        };
        cmd::instance::run(&door, &create).unwrap();
        let names = (0..STUDENTS)
            .map(|n| sandbox.instance_name(&format!("s{n}")).parse().unwrap())
            .collect();
        let school = School {
            sandbox,
            door,
            names,
        };
        for name in &school.names {
            school.touch(name, MIDNIGHT);
        }
        school
    }

    /// A student does something at `at`: what the backend would do then.
    fn use_it(&self, student: usize, at: i64) {
        let name = &self.names[student];
        let domain = self.door.hypervisor().unwrap().find(name).unwrap().unwrap();
        let facts = domain
            .facts(cyyber::hypervisor::Detail::Power)
            .unwrap()
            .unwrap();
        if facts.power != Power::On {
            domain.start().unwrap();
        }
        self.touch(name, at);
    }

    fn touch(&self, name: &InstanceName, at: i64) {
        let path = self.sandbox.path("state/activity").join(name.to_string());
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(at.try_into().unwrap());
        let file = File::options().write(true).open(path);
        file.unwrap().set_modified(time).unwrap();
    }
}

/// How many run.
pub fn running(door: &Context) -> usize {
    let all = door.hypervisor().unwrap();
    let all = all.survey(cyyber::hypervisor::Detail::Power).unwrap();
    all.iter().filter(|(_, facts)| facts.id.is_some()).count()
}

/// What the program stands on in the given minute of the day.
fn context(sandbox: &Sandbox, minute: i64) -> Context {
    let uptime = SignedDuration::from_mins(minute + 1000);
    context_at(sandbox, MIDNIGHT + minute * 60, uptime)
}

/// What the program stands on in this second since 1970.
pub fn context_at(sandbox: &Sandbox, second: i64, uptime: SignedDuration) -> Context {
    let global = Global {
        config: Some(sandbox.path("labs-config.json")),
        connect: Some(TEST_DRIVER.parse().unwrap()),
        output: None,
        as_user: None,
        quiet: true,
        verbose: false,
    };
    let now = Moment {
        time: Timestamp::from_second(second).unwrap(),
        uptime,
    };
    Context::new(&global, Output::new(Format::Table, true, false), now).unwrap()
}

/// The days of all students from one seed.
fn days() -> Vec<Vec<i64>> {
    let mut rng = StdRng::seed_from_u64(2026);
    (0..STUDENTS).map(|_| day_of(&mut rng)).collect()
}

#[test]
fn a_day_of_a_hundred_students() {
    let school = School::new();
    let days = days();
    assert_eq!(days, days_again(), "it can be repeated");
    let mut next = vec![0; STUDENTS];
    let (mut with, mut without, mut peak) = (0, 0, 0);
    for minute in 0..MINUTES {
        for (student, heard) in days.iter().enumerate() {
            while let Some(second) = heard.get(next[student])
                && *second < minute * 60
            {
                school.use_it(student, MIDNIGHT + second);
                next[student] += 1;
            }
        }
        let reap = Reap {
            dry_run: false,
            jobs: 4,
            timeout: "60s".parse().unwrap(),
        };
        cmd::reap::run(&context(&school.sandbox, minute), &reap).unwrap();
        let running = running(&school.door);
        with += running;
        without += next.iter().filter(|next| **next > 0).count();
        peak = peak.max(running);
    }
    let gib_hours = |minutes: usize| minutes as f64 * f64::from(MEMORY_MB) / 1024.0 / 60.0;
    let saved = 100.0 * (1.0 - with as f64 / without as f64);
    println!(
        "{STUDENTS} students of {MEMORY_MB} MiB, {MINUTES} passes: {:.0} GiB-hours with the reaper, \
         {:.0} without; {saved:.1} % saved (the aim: 75 %); {peak} at once at most",
        gib_hours(with),
        gib_hours(without)
    );
    let steps = steps(&school);
    let wrong = wrong(&steps, &days);
    println!("steps: {}; wrong: {}", counted(&steps), wrong.len());
    for to in ["idle", "running", "paused", "stopped"] {
        assert!(steps.iter().any(|(_, step, _)| step == to), "none to {to}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(saved >= 70.0, "{saved}");
}

/// The same, from the beginning.
fn days_again() -> Vec<Vec<i64>> {
    days()
}

/// A step that the journal tells of: who, to what, and in which second of the day.
type Step = (usize, String, i64);

fn steps(school: &School) -> Vec<Step> {
    let journal = std::fs::read_to_string(school.sandbox.path("state/events.jsonl")).unwrap();
    let events = journal
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    events
        .filter(|event| event["who"] == "reap")
        .map(|event| {
            assert_eq!(event["ok"], true, "{event}");
            let student = event["user_id"].as_str().unwrap()[1..].parse().unwrap();
            let time: Timestamp = event["time"].as_str().unwrap().parse().unwrap();
            let to = event["to"].as_str().unwrap_or("destroyed").to_owned();
            (student, to, time.as_second() - MIDNIGHT)
        })
        .collect()
}

/// The steps that took somebody down too early, by what students really did.
fn wrong<'a>(steps: &'a [Step], days: &[Vec<i64>]) -> Vec<&'a Step> {
    steps
        .iter()
        .filter(|(student, to, at)| {
            let patience = match to.as_str() {
                "running" => return false,
                "idle" => 600,
                "paused" => 1200,
                "stopped" => 1800,
                _ => 86_400,
            };
            let last = days[*student].iter().rfind(|second| **second < *at);
            last.is_some_and(|last| at - last < patience)
        })
        .collect()
}

fn counted(steps: &[Step]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, to, _) in steps {
        *counts.entry(to).or_default() += 1;
    }
    let counts = counts.iter().map(|(to, count)| format!("{count} {to}"));
    counts.collect::<Vec<_>>().join(", ")
}
