//! What a pass learns of an instance.

use std::io;

use anyhow::Result;
use jiff::Timestamp;

use crate::cmd::side_by_side::side_by_side;
use crate::context::Context;
use crate::domain::Console;
use crate::files::Directory;
use crate::hypervisor::{Answer, Facts, Power};
use crate::instance::{InstanceName, State};
use crate::observe::observe;
use crate::paths::Paths;
use crate::policy::{self, Decision, Rung, Sign, decide};
use crate::state::passes::Seen;
use crate::state::record::{self, Run};
use crate::state::{activity, keep};
use crate::viewers;

/// How many guests are asked at once. Most of the time goes by in waiting for their agents; libvirt
/// has twenty workers by default, of which others need some.
const ASKED_AT_ONCE: usize = 8;

/// How long a guest's agent may take.
const AGENT: std::time::Duration = std::time::Duration::from_secs(3);

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
        }
    }

    /// The same now: directories may have been made since.
    pub fn renewed(&self) -> Lookout<'a> {
        Lookout::new(self.context, self.trusted_from, self.only_looks)
    }

    /// What can be told of `name` at no cost.
    pub fn glance(&self, name: InstanceName, facts: Facts, seen: &mut Seen) -> Sight {
        let now = self.context.time();
        let run = facts.id.map(Run::current);
        // Of one that is off, and most are, the notes on its runs tell nothing.
        let boot = run.as_ref().and_then(|run| {
            let records = self.records.as_ref()?;
            let record = record::read_in(records, Paths::record_name(&name), facts.uuid)?;
            record.boot.filter(|boot| boot.run == *run)
        });
        let known_run = boot.is_some();
        let policy = self.context.policy(&name.lab);
        let (state, _) = observe(&facts, boot.as_ref(), policy.boot_timeout, now);
        let run_since = seen.running(run, now);
        let rung = rung(&facts, state);
        seen.stopped(rung == Ok(Rung::Stopped), now);
        let mut sight = Sight {
            facts,
            state,
            console: boot.and_then(|boot| boot.console),
            viewed: false,
            doubt: None,
            standing: Standing::Left(String::new()),
            untouched: false,
            name,
        };
        let rung = match (self.context.config.lab(&sight.name.lab), rung) {
            (Err(_), _) => Err("its lab is not configured"),
            (Ok(_), rung) => rung,
        };
        let rung = match rung {
            Ok(rung) => rung,
            Err(why) => {
                sight.standing = Standing::Left(why.to_owned());
                return sight;
            }
        };
        let touched = self.touched(&sight.name);
        sight.untouched = matches!(&touched, Err(error) if error.kind() == io::ErrorKind::NotFound);
        let facts = policy::Facts {
            rung,
            touched: touched.map_or_else(
                |error| match error.kind() {
                    io::ErrorKind::NotFound => Sign::Unreadable("is missing".to_owned()),
                    _ => Sign::Unreadable(format!("cannot be read: {error}")),
                },
                Sign::At,
            ),
            powered_on: run_since.filter(|_| !known_run),
            console: seen.console,
            guest: Sign::Silent("not asked"),
            keep: self.keep(&sight),
            stopped_since: seen.stopped_since,
            trusted_from: self.trusted_from,
        };
        sight.standing = self.judged(facts, &policy);
        sight
    }

    /// Looks closer at those of `sights` that run: who looks at their consoles, which the kernel tells
    /// of all at once; and what their guests say, who are asked where nothing else says that they
    /// are in use, or `all` of them. Returns what kept it from looking.
    pub fn look_closer(&self, sights: &mut [(Sight, Seen)], all: bool) -> Option<String> {
        let mut running: Vec<_> = sights
            .iter_mut()
            .filter(|(sight, _)| sight.runs())
            .collect();
        let mut trouble = self.look_at_consoles(&mut running);
        running.retain(|(sight, _)| all || sight.is_unsure());
        let found = side_by_side(&running, ASKED_AT_ONCE, |(sight, _)| {
            let context = self.context.beside();
            let console = match &sight.console {
                Some(_) => Ok(None),
                None => console(&context, &sight.name),
            };
            (console, guest(&context, &sight.name))
        });
        let mut elsewhere = Vec::new();
        for (one, (console, guest)) in running.into_iter().zip(found) {
            let (sight, seen) = &mut *one;
            if let Standing::On(facts, _) = &mut sight.standing {
                facts.guest = sign(guest, seen, self.context.time());
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
            elsewhere.push(one);
        }
        // Those that something else powered on.
        elsewhere.retain(|(sight, _)| !sight.viewed);
        trouble = trouble.or(self.look_at_consoles(&mut elsewhere));
        trouble
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

    fn touched(&self, name: &InstanceName) -> io::Result<Timestamp> {
        match &self.activities {
            Ok(activities) => activities.modified(name.to_string()),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        }
    }

    fn keep(&self, sight: &Sight) -> policy::Keep {
        match &self.keeps {
            Ok(keeps) => keep::read_in(keeps, sight.name.to_string(), sight.facts.uuid),
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

    /// Whether it runs, and more must be known before it is taken down, or let go again.
    fn is_unsure(&self) -> bool {
        let Standing::On(facts, decision) = &self.standing else {
            return false;
        };
        match (facts.rung, decision.step) {
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

/// What the answer of a guest tells, of which `seen` takes note.
fn sign(answer: Result<Answer>, seen: &mut Seen, now: Timestamp) -> Sign {
    match answer {
        Ok(Answer::Nobody) => Sign::Silent("no agent"),
        Ok(Answer::None(error)) | Err(error) => {
            Sign::Unreadable(format!("does not tell of its use: {error:#}"))
        }
        Ok(Answer::Use(found)) => {
            let typed = found.unused.map(|unused| now - unused);
            let heard = found.input.and_then(|count| seen.heard(count, now));
            typed
                .max(heard)
                .map_or(Sign::Silent("no use yet"), Sign::At)
        }
    }
}

fn guest(context: &Context, name: &InstanceName) -> Result<Answer> {
    Ok(match context.hypervisor()?.find(name)? {
        Some(domain) => domain.guest_use(AGENT),
        None => Answer::Nobody,
    })
}
