//! What is learned of the use of instances, by a pass of the reaper and by whoever else judges as it
//! does.
//!
//! What goes wrong with one instance is that instance's, and one guest that does not answer keeps
//! nobody from being looked at.
#![deny(clippy::arithmetic_side_effects)]

use std::io;
use std::time::{Duration, Instant};

use anyhow::Result;
use jiff::Timestamp;
use uuid::Uuid;

use super::passes::Seen;
use super::policy::{self, Decision, Rung, Sign, Source, decide};
use super::viewers;
use crate::context::Context;
use crate::domain::Console;
use crate::files::Directory;
use crate::hypervisor::{Answer, Facts, Power, Trouble};
use crate::instance::record::{self, Run};
use crate::instance::state::observe;
use crate::names::{InstanceName, State};
use crate::parallel::{contained, side_by_side};
use crate::paths::Paths;
use crate::state::{activity, keep};

/// How many guests are asked at once. Most of the time goes by in waiting for their agents; libvirt
/// has twenty workers by default, of which others need some.
const ASKED_AT_ONCE: usize = 8;

/// How long a guest's agent may take.
const AGENT: Duration = Duration::from_secs(3);

/// How long all of them may take together. Who was not asked by then comes first in the next pass.
const ASKING: Duration = Duration::from_secs(20);

/// How many of those that were asked in vain the last time are asked again.
const MOST_TROUBLED: usize = 8;

/// An instance as a pass sees it.
#[derive(Debug)]
pub struct Sight {
    pub name: InstanceName,
    pub facts: Facts,
    pub state: State,
    /// Where its console is, as far as that is known.
    console: Option<Console>,
    /// It is known whether somebody looks at its console.
    viewed: bool,
    /// What could not be learned.
    doubt: Option<String>,
    pub standing: Standing,
    /// Its activity file is missing.
    pub untouched: bool,
}

/// Where an instance stands.
#[derive(Debug)]
pub enum Standing {
    /// It is left alone, and why.
    Left(String),
    /// On the ladder.
    On(Box<policy::Facts>, Decision),
}

/// Where a console is, and what a guest answered if it was asked.
type Found = (Result<Option<Console>>, Option<Result<Answer>>);

/// From where instances are looked at.
#[derive(Debug)]
pub struct Lookout<'a> {
    context: &'a Context,
    records: Option<Directory>,
    activities: io::Result<Directory>,
    keeps: io::Result<Directory>,
    trusted_from: Option<Timestamp>,
    /// Nobody is taken down.
    only_looks: bool,
    /// Also those are judged that the reaper leaves alone, as of a lab that is not configured.
    all: bool,
}

/// What can be told at no cost.
struct Glance {
    state: State,
    console: Option<Console>,
    standing: Standing,
    untouched: bool,
}

impl<'a> Lookout<'a> {
    pub fn new(context: &'a Context, trusted_from: Option<Timestamp>, only_looks: bool) -> Self {
        let paths = &context.paths;
        Lookout {
            context,
            records: Directory::open(&paths.records()).ok(),
            activities: Directory::open(&paths.activities()),
            keeps: Directory::open(&paths.keeps()),
            trusted_from,
            only_looks,
            all: false,
        }
    }

    /// For a command that judges all that there is.
    pub fn of_all(context: &'a Context, trusted_from: Option<Timestamp>) -> Self {
        Lookout {
            all: true,
            ..Lookout::new(context, trusted_from, false)
        }
    }

    /// The same now: directories may have been made since.
    pub fn renewed(&self) -> Lookout<'a> {
        Lookout {
            all: self.all,
            ..Lookout::new(self.context, self.trusted_from, self.only_looks)
        }
    }

    /// What can be told of `name` at no cost.
    pub fn glance(&self, name: InstanceName, facts: Facts, seen: &mut Seen) -> Sight {
        let glance = contained(|| self.glanced(&name, &facts, seen));
        let (glance, doubt) = match glance {
            Ok(glance) => (glance, None),
            Err(error) => {
                let glance = Glance {
                    state: match facts.id {
                        Some(_) => State::Running,
                        None => State::Stopped,
                    },
                    console: None,
                    standing: Standing::Left("it could not be looked at".to_owned()),
                    untouched: false,
                };
                (
                    glance,
                    Some(format!("it could not be looked at: {error:#}")),
                )
            }
        };
        Sight {
            name,
            facts,
            state: glance.state,
            console: glance.console,
            viewed: false,
            doubt,
            standing: glance.standing,
            untouched: glance.untouched,
        }
    }

    fn glanced(&self, name: &InstanceName, facts: &Facts, seen: &mut Seen) -> Glance {
        let now = self.context.time();
        let run = facts.id.map(Run::current);
        // Of one that is off, and most are, the notes on its runs tell nothing.
        let boot = run.as_ref().and_then(|run| {
            let records = self.records.as_ref()?;
            let record = record::read_in(records, Paths::record_name(name), facts.uuid)?;
            record.boot.filter(|boot| boot.run == *run)
        });
        let known_run = boot.is_some();
        let policy = self.context.policy(&name.lab);
        let (state, _) = observe(facts, boot.as_ref(), policy.boot_timeout, now);
        let run_since = seen.running(run, now);
        let rung = rung(facts, state);
        seen.stopped(rung == Ok(Rung::Stopped), now);
        let mut glance = Glance {
            state,
            console: boot.and_then(|boot| boot.console),
            standing: Standing::Left(String::new()),
            untouched: false,
        };
        let rung = match (self.context.config.lab(&name.lab), rung) {
            // What is done to it passes by itself.
            (_, Err(_)) if self.all && facts.power != Power::Busy => Ok(match facts.id {
                Some(_) => Rung::Running,
                None => Rung::Stopped,
            }),
            (Err(_), _) if !self.all => Err("its lab is not configured"),
            (_, rung) => rung,
        };
        let rung = match rung {
            Ok(rung) => rung,
            Err(why) => {
                glance.standing = Standing::Left(why.to_owned());
                return glance;
            }
        };
        let (touched, untouched) = self.touched(name);
        glance.untouched = untouched;
        let facts = policy::Facts {
            rung,
            touched,
            powered_on: run_since.filter(|_| !known_run),
            running_since: run_since,
            console: seen.console,
            guest: Sign::Silent("not asked"),
            keep: self.keep(name, facts.uuid),
            stopped_since: seen.stopped_since,
            trusted_from: self.trusted_from,
        };
        glance.standing = self.judged(facts, &policy);
        glance
    }

    /// What is to be said of `name`, of which there is no VM any more.
    pub fn leftover(&self, name: &InstanceName) -> Decision {
        let facts = policy::Facts {
            rung: Rung::Stopped,
            touched: self.touched(name).0,
            powered_on: None,
            running_since: None,
            console: None,
            guest: Sign::Silent("not asked"),
            keep: policy::Keep::No,
            stopped_since: None,
            trusted_from: self.trusted_from,
        };
        decide(self.context.time(), &facts, &self.context.policy(&name.lab))
    }

    /// Looks closer at those of `sights` that run: who looks at their consoles, which the kernel tells
    /// of all at once; and what their guests say, who are asked where that is `wanted`. Returns what
    /// kept it from looking.
    pub fn look_closer(
        &self,
        sights: &mut [(Sight, Seen)],
        wanted: impl Fn(&Sight) -> bool,
    ) -> Option<String> {
        let mut running: Vec<_> = sights
            .iter_mut()
            .filter(|(sight, _)| sight.runs())
            .collect();
        let mut trouble = self.look_at_consoles(&mut running);
        running.retain(|(sight, _)| wanted(sight));
        running.sort_by_key(|(_, seen)| turn(seen));
        let troubled = running.iter().filter(|(_, seen)| seen.trouble.is_some());
        let most = running
            .len()
            .saturating_sub(troubled.count().saturating_sub(MOST_TROUBLED));
        let began = Instant::now();
        let queue: Vec<_> = running.iter().enumerate().collect();
        let found = side_by_side(&queue, ASKED_AT_ONCE, |(place, (sight, seen))| {
            contained(|| {
                let console = match &sight.console {
                    Some(_) => Ok(None),
                    None => console(self.context, &sight.name),
                };
                let asks = *place < most && began.elapsed() < ASKING;
                (
                    console,
                    asks.then(|| guest(self.context, &sight.name, seen)),
                )
            })
        });
        let mut elsewhere = Vec::new();
        for (one, found) in running.into_iter().zip(found) {
            let (sight, seen) = &mut *one;
            let noted = contained(|| self.note(found, sight, seen));
            if let Err(error) = noted {
                let why = "it could not be looked at";
                sight.standing = Standing::Left(why.to_owned());
                sight.doubt = Some(format!("{why}: {error:#}"));
            }
            elsewhere.push(one);
        }
        // Those that something else powered on.
        elsewhere.retain(|(sight, _)| !sight.viewed);
        trouble = trouble.or(self.look_at_consoles(&mut elsewhere));
        trouble
    }

    /// Takes note of what was found of an instance: where its console is, and what its guest answered
    /// if it was asked.
    fn note(&self, found: Result<Found>, sight: &mut Sight, seen: &mut Seen) {
        let (console, guest) = found.unwrap_or_else(|error| (Err(error), None));
        let sign = self.sign(&sight.name, guest, seen);
        if let Standing::On(facts, _) = &mut sight.standing {
            facts.guest = sign;
        }
        match console {
            Ok(None) => {}
            Ok(found) => sight.console = found,
            Err(error) => {
                seen.connected(true, self.context.time());
                sight.doubt = Some(format!("its console is not known: {error:#}"));
            }
        }
        self.judge_again(sight, seen);
    }

    /// What the answer of a guest tells, of which `seen` takes note. Its words go no further than to
    /// whoever wants all detail.
    fn sign(&self, name: &InstanceName, answer: Option<Result<Answer>>, seen: &mut Seen) -> Sign {
        let now = self.context.time();
        let (trouble, said) = match answer {
            None => {
                let why = seen
                    .trouble
                    .map_or("was not asked in time", Trouble::as_str);
                return Sign::Unreadable(why.to_owned());
            }
            Some(Ok(Answer::None(trouble, said))) => (trouble, said),
            Some(Err(error)) => (Trouble::Failed, format!("{error:#}")),
            Some(Ok(answer)) => {
                (seen.asked, seen.trouble) = (Some(now), None);
                let Answer::Use(found) = answer else {
                    return Sign::Silent("no agent");
                };
                let typed = found.unused.and_then(|unused| now.checked_sub(unused).ok());
                let heard = found.input.and_then(|count| seen.heard(count, now));
                let last = typed.max(heard);
                return last.map_or(Sign::Silent("no use yet"), Sign::At);
            }
        };
        (seen.asked, seen.trouble) = (Some(now), Some(trouble));
        let why = trouble.as_str();
        self.context
            .output
            .detail(&format!("{name}: its guest's agent {why}: {said}"));
        Sign::Unreadable(why.to_owned())
    }

    /// Takes note of who looks at the consoles that are known.
    fn look_at_consoles(&self, running: &mut [&mut (Sight, Seen)]) -> Option<String> {
        let consoles = running
            .iter()
            .filter_map(|(sight, _)| sight.console.as_ref());
        let viewed = viewers::of(consoles);
        for (sight, seen) in running.iter_mut().map(|one| &mut **one) {
            let Some(console) = &sight.console else {
                continue;
            };
            sight.viewed = true;
            let mut ports = [Some(console.port), console.websocket]
                .into_iter()
                .flatten();
            // Where that cannot be told, somebody may be there.
            let connected = viewed
                .as_ref()
                .map_or(true, |viewed| ports.any(|port| viewed.contains(&port)));
            seen.connected(connected, self.context.time());
            self.judge_again(sight, seen);
        }
        viewed.err().map(|error| format!("{error:#}"))
    }

    /// Judges by what was learned since.
    fn judge_again(&self, sight: &mut Sight, seen: &Seen) {
        let Standing::On(facts, _) = &mut sight.standing else {
            return;
        };
        facts.console = seen.console;
        let policy = self.context.policy(&sight.name.lab);
        let mut standing = self.judged((**facts).clone(), &policy);
        if let Standing::On(_, decision) = &mut standing {
            decision.doubts.extend(sight.doubt.clone());
        }
        sight.standing = standing;
    }

    fn judged(&self, facts: policy::Facts, policy: &crate::config::Policy) -> Standing {
        let mut decision = decide(self.context.time(), &facts, policy);
        if self.only_looks && decision.step.is_some_and(|to| to > facts.rung) {
            decision.step = None;
            decision.reason.push_str("; a first pass only looks");
        }
        Standing::On(Box::new(facts), decision)
    }

    /// What the activity file of `name` tells, and whether it is missing.
    fn touched(&self, name: &InstanceName) -> (Sign, bool) {
        let touched = match &self.activities {
            Ok(activities) => activities.modified(name.to_string()),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        match touched {
            Ok(at) => (Sign::At(at), false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (Sign::Unreadable("is missing".to_owned()), true)
            }
            Err(error) => (Sign::Unreadable(format!("cannot be read: {error}")), false),
        }
    }

    fn keep(&self, name: &InstanceName, uuid: Uuid) -> policy::Keep {
        match &self.keeps {
            Ok(keeps) => keep::read_in(keeps, name.to_string(), uuid),
            Err(error) if error.kind() == io::ErrorKind::NotFound => policy::Keep::No,
            Err(error) => policy::Keep::Unreadable(format!("how long cannot be read: {error}")),
        }
    }

    /// Why nothing is known of anybody's activity, where that is so.
    pub fn blind(&self) -> Option<String> {
        let error = self.activities.as_ref().err()?;
        if error.kind() == io::ErrorKind::NotFound {
            // It is made with the files in it.
            return None;
        }
        let place = self.context.paths.activities();
        Some(format!(
            "{} cannot be read ({error}): all instances count as active",
            place.display()
        ))
    }

    /// Makes an activity file that is missing, unless a command is at work on its instance.
    pub fn touch(&self, sight: &Sight) {
        let paths = &self.context.paths;
        let lock = paths.instance_lock(&sight.name);
        if let Some(_lock) = crate::state::lock::Lock::try_take(&lock) {
            // What keeps it from being made was said already.
            let _ = activity::touch(&paths.activity(&sight.name));
        }
    }
}

impl Sight {
    /// Whether it runs and is on the ladder.
    fn runs(&self) -> bool {
        matches!(&self.standing, Standing::On(facts, _) if facts.rung <= Rung::Idle)
    }

    /// What is wrong with its signs.
    pub fn doubts(&self) -> Vec<String> {
        match &self.standing {
            Standing::On(_, decision) => decision.doubts.clone(),
            Standing::Left(_) => self.doubt.iter().cloned().collect(),
        }
    }

    /// Whether it runs, and more must be known before it is taken down, or let go again.
    pub fn is_unsure(&self) -> bool {
        let Standing::On(facts, decision) = &self.standing else {
            return false;
        };
        match (facts.rung, decision.step) {
            // Whatever its guest says.
            _ if decision.source == Source::Runtime => false,
            (Rung::Idle, None) => true,
            (Rung::Running | Rung::Idle, Some(to)) => to > facts.rung,
            _ => false,
        }
    }
}

/// The rung that an instance is on; or why it is left alone.
fn rung(facts: &Facts, state: State) -> Result<Rung, &'static str> {
    match (facts.power, state) {
        (Power::Busy, _) => Err("libvirt is starting, saving or stopping it"),
        (Power::StuckOnDisk, _) => Err("the host's disk is full or faulty"),
        (Power::Crashed, _) if facts.id.is_some() => Err("it crashed and is still there"),
        (_, State::Starting) => Err("it is starting"),
        (_, State::Running) => Ok(Rung::Running),
        (_, State::Idle) => Ok(Rung::Idle),
        (_, State::Paused) => Ok(Rung::Paused),
        (_, State::Stopped | State::Crashed) => Ok(Rung::Stopped),
    }
}

fn console(context: &Context, name: &InstanceName) -> Result<Option<Console>> {
    match context.hypervisor()?.find(name)? {
        Some(domain) => Console::of(&domain.xml()?),
        None => Ok(None),
    }
}

fn guest(context: &Context, name: &InstanceName, seen: &Seen) -> Result<Answer> {
    Ok(match context.hypervisor()?.find(name)? {
        Some(domain) => domain.guest_use(AGENT, seen.asked.is_none()),
        None => Answer::Nobody,
    })
}

/// Whose turn it is to be asked: those that were asked in vain come last, and before others those that
/// were not asked for longest.
fn turn(seen: &Seen) -> (bool, Option<Timestamp>) {
    (seen.trouble.is_some(), seen.asked)
}
