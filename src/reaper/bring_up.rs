//! Before and during a lesson, a pass brings up the instances of the users on its roster: each
//! once, so that an instance that its user stops or destroys stays so. They are started as late as
//! recent start times allow ([`lead_time`]). None is started late in a pass, or when the host has no
//! free memory: the next pass continues.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};

use super::lead_time::{self, Expected, Pace};
use super::leases;
use super::lessons::Lessons;
use super::observer::{Assessment, Observation};
use super::own::Own;
use super::passes::{MOST_FAILURES, Passes, Ready, Seen};
use super::policy::Rung;
use super::pressure;
use super::report::Action;
use crate::context::Context;
use crate::error::{Fault, Kind, kind_of};
use crate::images::base::{self, Base};
use crate::images::warm;
use crate::instance::Instance;
use crate::instance::outcome::Outcome;
use crate::instance::ready::look_if_up;
use crate::instance::record::{self, StartedBy};
use crate::journal;
use crate::names::{InstanceName, LabId, State};
use crate::parallel::{contained, side_by_side};
use crate::timetable::Attendance;
use crate::units::Patience;

/// None is started later than this in a pass. Steps of the policy are done by then.
const LATEST: Duration = Duration::from_secs(55);

/// Nor if the lesson ends this soon.
const TOO_LATE: SignedDuration = SignedDuration::from_mins(5);

/// How many guests are asked at once whether they are up.
const ASKED_AT_ONCE: usize = 8;

/// An instance to bring up.
#[derive(Debug)]
pub struct Wanted {
    pub name: InstanceName,
    /// Its state; `None` if it is missing.
    pub rung: Option<Rung>,
    lesson: Attendance,
    /// How it will start, as far as can be told.
    way: StartedBy,
    /// What that takes.
    expected: Option<Expected>,
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
    Yes(Ran),
    Left(String),
    /// The host has no memory left.
    NoRoom(String),
    Failed(anyhow::Error),
}

/// How one came to run.
#[derive(Debug)]
struct Ran {
    at: Timestamp,
    /// How long that took, if this did it.
    took: Option<Duration>,
    /// Its guest still boots.
    boots: bool,
}

/// What a pass does for lessons.
#[derive(Debug, Default)]
pub struct Plan {
    /// The instances to bring up now, in the order of their lessons.
    pub due: Vec<Wanted>,
    /// How many can wait for a later pass and still be up in time.
    pub waiting: usize,
    /// The lessons that began since the last pass.
    pub begun: Vec<Begun>,
}

/// How many instances were ready when a lesson began.
#[derive(Debug, PartialEq, Eq)]
pub struct Begun {
    /// Its lab.
    pub lab: LabId,
    /// When that was.
    pub at: Timestamp,
    /// How many instances should have been ready.
    pub wanted: u64,
    /// How many of them were.
    pub ready: u64,
}

/// Plans what this pass does for lessons, at the `pace` of passes; the last one was at `last`. Records in
/// `passes` which running instances are ready and how long they took. If `asks` is set, booting guests
/// are asked whether they are up.
pub fn plan(
    context: &Context,
    lessons: &Lessons,
    all: &[(Observation, Seen)],
    passes: &mut Passes,
    pace: &Pace,
    last: Option<Timestamp>,
    asks: bool,
) -> Plan {
    let mut plan = Plan::default();
    if lessons.timetable.courses.is_empty() {
        passes.ready.clear();
        return plan;
    }
    let now = pace.now;
    let all: HashMap<_, _> = all.iter().map(|(one, _)| (&one.name, one)).collect();
    let mut known = std::mem::take(&mut passes.ready);
    come_up(context, &all, &mut known, passes, asks);
    let (mut forks, mut met, own) = (Forks::default(), HashSet::new(), Own::of(context));
    let mut begun: BTreeMap<(LabId, Timestamp), [u64; 2]> = BTreeMap::new();
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
            let one = all.get(&name).copied();
            if !met.insert(name.clone()) || !own.includes(&name, one.is_some()) {
                // Of another course, or of another host.
                continue;
            }
            let key = name.to_string();
            let ready = known.remove(&key);
            let ready = ready.filter(|ready| ready.at >= lesson.prepare);
            let rung = one.map(|one| match &one.assessment {
                Assessment::Judged(evidence, _) => evidence.rung,
                // Another command is working on it.
                Assessment::Skipped(_) => one.facts.id.map_or(Rung::Stopped, |_| Rung::Running),
            });
            let ready = match (ready, rung) {
                (None, Some(Rung::Running | Rung::Idle)) => Some(Ready {
                    done: true,
                    // Whatever was done to it since then is use.
                    ..Ready::new(lesson.prepare)
                }),
                (ready, _) => ready,
            };
            passes.ready.extend(ready.map(|ready| (key, ready)));
            let policy = context.policy(&name.lab);
            if policy.prewarm == Patience::Never {
                continue;
            }
            if lesson.from <= now && last.is_some_and(|last| last < lesson.from) {
                let begun = begun.entry((name.lab.clone(), lesson.from)).or_default();
                let is_ready = ready.is_some_and(|it| it.was_up_at(lesson.from));
                begun[0] = begun[0].saturating_add(1);
                begun[1] = begun[1].saturating_add(is_ready.into());
            }
            let is_done = ready.is_some_and(|ready| ready.done);
            if !is_done && lesson.to.duration_since(now) > TOO_LATE {
                let way = forks.way(context, &name, rung, one);
                let times = passes.start_times.get(name.lab.as_str());
                let times = times.and_then(|times| times.get(&way));
                // A start that failed is tried again in the next pass.
                let has_failed = ready.is_some_and(|ready| ready.failures > 0);
                let times = times.filter(|_| !has_failed);
                let expected = times.and_then(|times| times.expected(policy.boot_timeout.0));
                wanted.push(Wanted {
                    name,
                    rung,
                    lesson,
                    way,
                    expected,
                });
            }
        }
    }
    // The slowest first: they come up while the others are started.
    let boot = |one: &Wanted| one.expected.map_or(SignedDuration::MAX, |it| it.boot);
    wanted.sort_by_key(|one| (one.lesson.from, Reverse(boot(one))));
    let starts: Vec<_> = wanted
        .iter()
        .map(|it| (it.lesson.from, it.expected))
        .collect();
    let due = lead_time::due(pace, &starts);
    let all = wanted.len();
    let due = wanted.into_iter().zip(due).filter(|(_, due)| *due);
    plan.due = due.map(|(one, _)| one).collect();
    plan.waiting = all.saturating_sub(plan.due.len());
    let begun = begun.into_iter();
    plan.begun = begun
        .map(|((lab, at), [wanted, ready])| Begun {
            lab,
            at,
            wanted,
            ready,
        })
        .collect();
    plan
}

/// Records which of the guests that passes have started are up by now.
fn come_up(
    context: &Context,
    all: &HashMap<&InstanceName, &Observation>,
    ready: &mut BTreeMap<String, Ready>,
    passes: &mut Passes,
    asks: bool,
) {
    let booting = all.iter().filter_map(|(name, one)| {
        let key = name.to_string();
        let way = ready.get(&key)?.booting?;
        Some((key, way, *one))
    });
    let mut booting: Vec<_> = booting.collect();
    booting.sort_by(|(one, ..), (other, ..)| one.cmp(other));
    let is_starting = |one: &Observation| one.facts.id.is_some() && one.state == State::Starting;
    let came_up = side_by_side(&booting, ASKED_AT_ONCE, |(_, _, one)| {
        match (is_starting(one), asks) {
            (false, _) => Some(one.ready),
            (true, false) => None,
            (true, true) => {
                let asked = contained(|| look_if_up(&context.for_worker(), &one.name));
                asked.ok().flatten().map(Some)
            }
        }
    });
    for ((key, way, one), came_up) in booting.into_iter().zip(came_up) {
        let (Some(up), Some(ready)) = (came_up, ready.get_mut(&key)) else {
            continue;
        };
        ready.booting = None;
        // One that has ended tells nothing, and one that never answers counts as up at some time.
        let Some(powered_on) = one.powered_on.filter(|_| one.facts.id.is_some()) else {
            continue;
        };
        let longest = context.policy(&one.name.lab).boot_timeout.0;
        let took = up.map_or(longest, |up| up.duration_since(powered_on));
        ready.up = powered_on.saturating_add(took).ok();
        let times = passes.start_times.entry(one.name.lab.to_string());
        times.or_default().entry(way).or_default().was_up(took);
    }
}

/// Which labs have a warm image that instances of a build are forked from.
#[derive(Debug, Default)]
struct Forks(HashMap<(LabId, Option<String>), bool>);

impl Forks {
    /// How an instance that is at `rung` will start, as far as can be told without its lock.
    fn way(
        &mut self,
        context: &Context,
        name: &InstanceName,
        rung: Option<Rung>,
        one: Option<&Observation>,
    ) -> StartedBy {
        let build = match (rung, one) {
            (Some(Rung::Stopped), Some(one)) => {
                let record = record::read(&context.paths.record(name), one.facts.uuid);
                let record = record.filter(|record| record.unused.is_some());
                let Some(record) = record else {
                    return StartedBy::Boot;
                };
                Some(record.build)
            }
            (None, _) => None,
            (Some(_), _) => return StartedBy::Memory,
        };
        let forks = self.0.entry((name.lab.clone(), build.clone()));
        match *forks.or_insert_with(|| forks_from(context, &name.lab, build)) {
            true => StartedBy::Fork,
            false => StartedBy::Boot,
        }
    }
}

/// Whether new instances of `lab`, on its current build or on `build`, are forked.
fn forks_from(context: &Context, lab: &LabId, build: Option<String>) -> bool {
    let is_wanted = context.config.lab(lab).is_ok_and(|lab| lab.instant);
    if !is_wanted || !context.hypervisor().is_ok_and(|it| it.is_system()) {
        return false;
    }
    let base = match build {
        Some(build) => Some(Base {
            path: context.paths.base_build(lab, &build),
            build,
        }),
        None => base::current(&context.paths, lab).ok(),
    };
    base.is_some_and(|base| warm::current(&context.paths, lab, &base).is_some())
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
            contained(|| start(&context.for_worker(), one)).unwrap_or_else(Done::Failed)
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
        match done {
            Done::Yes(Ran { at, took, boots }) => {
                let ready = Ready {
                    failures,
                    done: true,
                    booting: Some(one.way).filter(|_| boots),
                    ..Ready::new(at)
                };
                passes.ready.insert(key, ready);
                if let Some(took) = took {
                    let times = passes.start_times.entry(one.name.lab.to_string());
                    let times = times.or_default().entry(one.way).or_default();
                    times.ran(took);
                    if !boots {
                        times.was_up(SignedDuration::ZERO);
                    }
                }
                actions.push(one.action(Ok(())));
            }
            Done::Failed(error) => {
                let failures = failures.saturating_add(1);
                let ready = Ready {
                    failures,
                    done: failures >= MOST_FAILURES,
                    ..Ready::new(context.time())
                };
                passes.ready.insert(key, ready);
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
    let reserved = match leases::reserve(context, name) {
        Ok(reserved) => reserved,
        Err(error) if kind_of(&error) == Kind::Capacity => {
            return Done::NoRoom(format!("{error:#}"));
        }
        // Slurm may answer the next pass, and a limit concerns nobody else.
        Err(error) => return Done::Left(format!("{error:#}")),
    };
    let started = pressure::with_room(context, name, verb);
    if started.is_err() {
        reserved.release();
    }
    match started {
        Ok(outcome) => {
            let (reason, took) = (one.reason(), began.elapsed());
            let boots = outcome.status.state == State::Starting;
            let change = outcome.change();
            let did_it = change.is_some();
            if let Some((from, to, how)) = change {
                let reason = format!("{reason}; {how}");
                journal::done(context, "start", name, began, from, Some(to), &reason);
            }
            context.output.detail(&format!("{name}: running {reason}"));
            Done::Yes(Ran {
                at: context.time(),
                took: Some(took).filter(|_| did_it),
                boots,
            })
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
