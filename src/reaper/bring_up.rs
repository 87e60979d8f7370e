//! Before a lesson, and while it lasts, a pass brings up the instances of those who are on its roster:
//! each once, so that who stops or destroys theirs is left alone. It is not begun late in a pass, nor
//! where the host has no memory left: the next pass goes on.

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

/// None is begun later than this in a pass. Steps down are over then.
const LATEST: Duration = Duration::from_secs(55);

/// Nor when the lesson is over so soon.
const TOO_LATE: SignedDuration = SignedDuration::from_mins(5);

/// How often it is tried.
const MOST_FAILURES: u8 = 3;

/// One that is to be brought up.
#[derive(Debug)]
pub struct Wanted {
    pub name: InstanceName,
    /// Where it is; `None` if it is not there.
    pub rung: Option<Rung>,
    lesson: Attendance,
}

impl Wanted {
    pub fn reason(&self) -> String {
        format!("for its lesson at {:.0}", self.lesson.from)
    }

    /// The same as it was done, or tried.
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

/// What became of one.
enum Done {
    Yes,
    Left(String),
    /// The host's memory is used up.
    NoRoom(String),
    Failed(anyhow::Error),
}

/// Those that are to be brought up now, in the order of their lessons. Of those that run it is noted in
/// `passes` that they are ready.
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
                // Something happens to it.
                Some((Assessment::Skipped(_), one)) => {
                    Some(one.facts.id.map_or(Rung::Stopped, |_| Rung::Running))
                }
            };
            let ready = match (ready, rung) {
                (None, Some(Rung::Running | Rung::Idle)) => Some(Ready {
                    // Whatever was done to it since then is use.
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

/// Brings them up, `jobs` at a time, in what is left of a pass that began at `began`. Returns what was
/// done, and what kept it from more.
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
        // The same in each pass, so that it is said once.
        "the host has too little memory to bring up all instances for their lessons".to_owned()
    });
    Ok((actions, trouble))
}

/// Starts one, as the verb does, with room made for it.
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
