//! Before and during a lesson, a pass brings up the instances of the users on its roster: each
//! once, so that an instance that its user stops or destroys stays so. None is started late in a
//! pass, or when the host has no free memory: the next pass continues.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};

use super::lessons::Lessons;
use super::observer::{Assessment, Observation};
use super::passes::{Passes, Ready};
use super::policy::Rung;
use super::pressure;
use super::report::Action;
use crate::context::Context;
use crate::error::{Fault, Kind, kind_of};
use crate::instance::Instance;
use crate::instance::outcome::Outcome;
use crate::journal;
use crate::names::{InstanceName, State};
use crate::parallel::{contained, side_by_side};
use crate::timetable::Attendance;
use crate::units::Patience;

/// None is started later than this in a pass. Steps of the policy are done by then.
const LATEST: Duration = Duration::from_secs(55);

/// Nor if the lesson ends this soon.
const TOO_LATE: SignedDuration = SignedDuration::from_mins(5);

/// The maximum number of attempts.
const MOST_FAILURES: u8 = 3;

/// An instance to bring up.
#[derive(Debug)]
pub struct Wanted {
    pub name: InstanceName,
    /// Its state; `None` if it is missing.
    pub rung: Option<Rung>,
    lesson: Attendance,
}

impl Wanted {
    pub fn reason(&self) -> String {
        format!("for its lesson at {:.0}", self.lesson.from)
    }

    /// The step as it was taken or attempted.
    pub fn action(&self, result: Result<(), &anyhow::Error>) -> Action {
        Action {
            instance: self.name.to_string(),
            from: self.rung.unwrap_or(Rung::Destroyed),
            to: Rung::Running,
            idle_seconds: 0,
            ok: result.is_ok(),
            kind: result.err().map(kind_of),
            error: result.err().map(|error| format!("{error:#}")),
            reason: self.reason(),
        }
    }
}

/// The result for one instance.
enum Done {
    Yes,
    Left(String),
    /// The host has no memory left.
    NoRoom(String),
    Failed(anyhow::Error),
}

/// The instances to bring up now, in the order of their lessons. Those that are running are
/// recorded in `passes` as ready.
pub fn wanted<'a>(
    context: &Context,
    lessons: &Lessons,
    all: impl Iterator<Item = &'a Observation>,
    passes: &mut Passes,
) -> Vec<Wanted> {
    if lessons.timetable.courses.is_empty() {
        passes.ready.clear();
        return Vec::new();
    }
    let now = context.time();
    let all: HashMap<_, _> = all.map(|one| (&one.name, one)).collect();
    let mut known = std::mem::take(&mut passes.ready);
    let mut wanted: Vec<Wanted> = Vec::new();
    for course in &lessons.timetable.courses {
        let (Ok(_), Ok(users)) = (&course.lessons, &course.users) else {
            continue;
        };
        let Ok(lab) = context.config.lab(&course.lab) else {
            continue;
        };
        for user in users {
            let (lab, user) = (lab.lab_id.clone(), user.clone());
            let name = InstanceName { lab, user };
            let class = lessons.class(context, &name, now);
            let Some(lesson) = class.now else {
                continue;
            };
            let key = name.to_string();
            if passes.ready.contains_key(&key) {
                // Of another course.
                continue;
            }
            let ready = known.remove(&key);
            let ready = ready.filter(|ready| ready.at >= lesson.prepare);
            let rung = match all.get(&name).map(|one| (&one.assessment, one)) {
                None => None,
                Some((Assessment::Judged(evidence, _), _)) => Some(evidence.rung),
                // Another command is working on it.
                Some((Assessment::Skipped(_), one)) => {
                    Some(one.facts.id.map_or(Rung::Stopped, |_| Rung::Running))
                }
            };
            let ready = match (ready, rung) {
                (None, Some(Rung::Running | Rung::Idle)) => Some(Ready {
                    // Whatever was done to it since then counts as use.
                    at: lesson.prepare,
                    failures: 0,
                    done: true,
                }),
                (ready, _) => ready,
            };
            let is_done = ready.is_some_and(|ready| ready.done);
            passes.ready.extend(ready.map(|ready| (key, ready)));
            let is_off = context.policy(&name.lab).prewarm == Patience::Never;
            if !is_done && !is_off && lesson.to.duration_since(now) > TOO_LATE {
                wanted.push(Wanted { name, rung, lesson });
            }
        }
    }
    wanted.sort_by_key(|one| one.lesson.from);
    wanted
}

/// Brings them up, `jobs` at a time, in the remaining time of a pass that began at `began`. Returns
/// the steps, and why any are left.
pub fn bring_up(
    context: &Context,
    wanted: &[Wanted],
    jobs: usize,
    began: Instant,
    passes: &mut Passes,
    progress: &AtomicUsize,
) -> Result<(Vec<Action>, Option<String>)> {
    let stop = context.interrupted()?;
    let full = AtomicBool::new(false);
    let outcomes = side_by_side(wanted, jobs, |one| {
        let done = if stop.load(Ordering::Relaxed) {
            Done::Left("interrupted before it started".to_owned())
        } else if full.load(Ordering::Relaxed) {
            Done::Left("the host has too little memory".to_owned())
        } else if began.elapsed() > LATEST {
            Done::Left("this pass reached its time limit".to_owned())
        } else {
            contained(|| start(&context.beside(), one)).unwrap_or_else(Done::Failed)
        };
        if matches!(done, Done::NoRoom(_)) {
            full.store(true, Ordering::Relaxed);
        }
        progress.fetch_add(1, Ordering::Relaxed);
        done
    });
    let (mut actions, mut trouble, mut left) = (Vec::new(), None, 0);
    for (one, done) in wanted.iter().zip(outcomes) {
        let key = one.name.to_string();
        let failures = passes.ready.get(&key).map_or(0, |ready| ready.failures);
        let mut note = |at: Timestamp, failures: u8, done: bool| {
            let ready = Ready { at, failures, done };
            passes.ready.insert(key.clone(), ready);
        };
        match done {
            Done::Yes => {
                note(context.time(), failures, true);
                actions.push(one.action(Ok(())));
            }
            Done::Failed(error) => {
                let failures = failures.saturating_add(1);
                note(context.time(), failures, failures >= MOST_FAILURES);
                actions.push(one.action(Err(&error)));
            }
            Done::Left(why) => {
                left += 1;
                let text = format!("{}: left for the next pass: {why}", one.name);
                context.output.detail(&text);
            }
            Done::NoRoom(why) => {
                left += 1;
                trouble = trouble.or(Some(why));
            }
        }
    }
    let trouble = trouble.map(|why| {
        let text = format!("{left} instances are not ready for their lessons yet: {why}");
        context.output.detail(&text);
        // The text is the same in each pass, so that it is reported once.
        "the host has too little memory to bring up all instances for their lessons".to_owned()
    });
    Ok((actions, trouble))
}

/// Starts one, like the command, and makes room for it.
fn start(context: &Context, one: &Wanted) -> Done {
    let (name, began) = (&one.name, Instant::now());
    let verb = || -> Result<Outcome> {
        let vm = Instance::try_lock(context, name);
        let busy = || Fault::new(Kind::Busy, "another command is working on it");
        vm.with_context(busy)?.start_unattended()
    };
    match pressure::with_room(context, name, verb) {
        Ok(outcome) => {
            let reason = one.reason();
            if let Some((from, to, how)) = outcome.change() {
                let reason = format!("{reason}; {how}");
                journal::done(context, "start", name, began, from, Some(to), &reason);
            }
            context.output.detail(&format!("{name}: running {reason}"));
            Done::Yes
        }
        Err(error) => match kind_of(&error) {
            Kind::Busy => Done::Left(format!("{error:#}")),
            Kind::Capacity => Done::NoRoom(format!("{error:#}")),
            _ => {
                let from = one.rung.and_then(Rung::state).or(Some(State::Stopped));
                journal::failure(context, "start", name, began, from, &error);
                Done::Failed(error)
            }
        },
    }
}
