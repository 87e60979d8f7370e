//! Observes the use of instances, for passes of the reaper and for other commands that judge use in
//! the same way.
//!
//! A problem with one instance does not affect others, and a guest that does not answer does not
//! delay them.
#![deny(clippy::arithmetic_side_effects)]

use std::io;
use std::time::{Duration, Instant};

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::in_class::decide;
use super::lessons::Lessons;
use super::passes::Seen;
use super::policy::{Decision, Evidence, Rung};
use super::signals::{self, Readings, Sign, Signal, SignalSource};
use super::viewers;
use crate::config::Policy;
use crate::context::Context;
use crate::files::Directory;
use crate::hypervisor::xml::domain::Console;
use crate::hypervisor::{Answer, Facts, Power, Trouble};
use crate::instance::console_of;
use crate::instance::record::{self, Run};
use crate::instance::state::observe;
use crate::names::{InstanceName, State};
use crate::parallel::{contained, side_by_side};
use crate::paths::Paths;
use crate::state::activity;
use crate::state::keep::{self, Keep};
use crate::state::lock::Lock;
use crate::timetable::{Class, GRACE};
use crate::units::Patience;

/// How many guests are asked in parallel. They mostly wait for agents; libvirt has twenty workers
/// by default, and must keep some for others.
const ASKED_AT_ONCE: usize = 8;

/// How long a guest's agent may take.
const AGENT: Duration = Duration::from_secs(3);

/// The time limit for all of them. Those that were not asked in time come first in the next pass.
const ASKING: Duration = Duration::from_secs(20);

/// How many of those that did not answer the last time are asked again.
const MOST_TROUBLED: usize = 8;

/// The sign of a guest that was not asked.
const NOT_ASKED: Sign = Sign::Silent("not asked");

/// The text for unknown CPU time of an instance whose QEMU does not answer.
const UNMEASURED: &str = "is not known: its QEMU does not answer";

/// An observed instance.
#[derive(Debug)]
pub struct Observation {
    pub name: InstanceName,
    pub facts: Facts,
    pub state: State,
    /// The address of its console, if known.
    console: Option<Console>,
    /// When its present run was powered on, and when its guest was first known to be up, as far as that
    /// is noted.
    pub powered_on: Option<Timestamp>,
    pub ready: Option<Timestamp>,
    /// Whether it is known if somebody watches its console.
    viewed: bool,
    /// Its present run was started by this program.
    is_own_run: bool,
    /// The answer of its guest's agent.
    guest: Sign,
    /// Why its CPU time is unknown, although it should be known.
    unmeasured: Option<&'static str>,
    /// What could not be found out.
    doubt: Option<String>,
    pub assessment: Assessment,
    /// Its activity file is missing.
    pub untouched: bool,
    /// What the timetable says about it.
    pub class: Class,
}

/// The policy's assessment of an instance.
#[derive(Debug)]
pub enum Assessment {
    /// It is skipped, and why.
    Skipped(String),
    /// The evidence and the decision.
    Judged(Box<Evidence>, Decision),
}

impl Assessment {
    /// What is known of it and what follows, unless it is left alone.
    pub fn judged(&self) -> Option<(&Evidence, &Decision)> {
        match self {
            Assessment::Judged(evidence, decision) => Some((evidence, decision)),
            Assessment::Skipped(_) => None,
        }
    }
}

/// The address of a console, and the answer of the guest if it was asked.
type Found = (Result<Option<Console>>, Option<Result<Answer>>);

/// Observes instances.
#[derive(Debug)]
pub struct Observer<'a> {
    context: &'a Context,
    records: Option<Directory>,
    activities: io::Result<Directory>,
    keeps: io::Result<Directory>,
    trusted_from: Option<Timestamp>,
    /// No instance is taken down.
    only_looks: bool,
    /// Facts include CPU time.
    measures: bool,
    /// Also judge instances that the reaper skips, for example those of a lab that is not
    /// configured.
    all: bool,
    /// What the timetable says, if it is used.
    lessons: Option<&'a Lessons>,
}

impl<'a> Observer<'a> {
    pub fn new(context: &'a Context, trusted_from: Option<Timestamp>, only_looks: bool) -> Self {
        let paths = &context.paths;
        Observer {
            context,
            records: Directory::open(&paths.records()).ok(),
            activities: Directory::open(&paths.activities()),
            keeps: Directory::open(&paths.keeps()),
            trusted_from,
            only_looks,
            measures: false,
            all: false,
            lessons: None,
        }
    }

    /// The same with the timetable, and with facts that include CPU time, as with [`Detail::Work`].
    #[must_use]
    pub fn measuring(self, lessons: &'a Lessons) -> Self {
        Observer {
            measures: true,
            lessons: Some(lessons),
            ..self
        }
    }

    /// For a command that judges all instances.
    pub fn of_all(context: &'a Context, trusted_from: Option<Timestamp>) -> Self {
        Observer {
            all: true,
            ..Observer::new(context, trusted_from, false)
        }
    }

    /// The same with the present directories, which may have been created since.
    pub fn renewed(&self) -> Observer<'a> {
        Observer {
            all: self.all,
            lessons: self.lessons,
            ..Observer::new(self.context, self.trusted_from, self.only_looks)
        }
    }

    /// Observes `name` as far as that is cheap.
    pub fn observe(&self, name: InstanceName, facts: Facts, seen: &mut Seen) -> Observation {
        let mut one = Observation {
            state: match facts.id {
                Some(_) => State::Running,
                None => State::Stopped,
            },
            console: None,
            powered_on: None,
            ready: None,
            viewed: false,
            is_own_run: false,
            guest: NOT_ASKED,
            unmeasured: None,
            doubt: None,
            assessment: Assessment::Skipped(String::new()),
            untouched: false,
            class: Class::default(),
            name,
            facts,
        };
        if let Err(error) = contained(|| self.look(&mut one, seen)) {
            one.fail(&error);
        }
        one
    }

    fn look(&self, one: &mut Observation, seen: &mut Seen) {
        let moment = self.context.moment();
        let now = moment.time;
        if let Some(lessons) = self.lessons {
            one.class = lessons.class(self.context, &one.name, now);
        }
        let run = one.facts.id.map(Run::current);
        // Most instances are off; the notes on their runs do not matter.
        let boot = one.facts.id.and_then(|_| {
            let records = self.records.as_ref()?;
            let file = Paths::record_name(&one.name);
            record::read_in(records, file, one.facts.uuid)?.boot_of(one.facts.id)
        });
        one.is_own_run = boot.is_some();
        let boot_timeout = self.context.policy(&one.name.lab).boot_timeout;
        (one.state, _) = observe(&one.facts, boot.as_ref(), boot_timeout, now);
        if let Some(boot) = boot {
            (one.powered_on, one.ready) = (Some(boot.powered_on), boot.ready);
            one.console = boot.console;
        }
        seen.running(run, now);
        if self.measures && one.facts.id.is_some() {
            let usage = one.facts.usage.as_ref();
            match usage.map(|usage| (usage.cpu_time_ns, usage.cpu_wait_ns)) {
                Some((Some(cpu_ns), wait_ns)) => {
                    let least = self.least_work(&one.name, one.state);
                    seen.worked([cpu_ns, wait_ns.unwrap_or(0)], &moment, least);
                }
                // This hypervisor does not report CPU time.
                Some((None, _)) => {}
                None => one.unmeasured = Some(UNMEASURED),
            }
        }
        let rung = rung(&one.facts, one.state);
        seen.stopped(rung == Ok(Rung::Stopped), now);
        let rung = match (self.context.config.lab(&one.name.lab), rung) {
            // This state is temporary.
            (_, Err(_)) if self.all && one.facts.power != Power::Busy => Ok(match one.facts.id {
                Some(_) => Rung::Running,
                None => Rung::Stopped,
            }),
            (Err(_), _) if !self.all => Err("its lab is not configured"),
            (_, rung) => rung,
        };
        match rung {
            Ok(rung) => {
                let evidence = Evidence {
                    rung,
                    signals: self.signals(one, seen),
                    running_since: seen.run.as_ref().map(|(_, since)| *since),
                    keep: self.keep(&one.name, one.facts.uuid),
                    stopped_since: seen.stopped_since,
                    announced: seen.announced.map(|it| it.at),
                    class: one.class.clone(),
                    trusted_from: self.trusted_from,
                };
                self.judge(one, evidence);
            }
            Err(why) => one.assessment = Assessment::Skipped(why.to_owned()),
        }
    }

    fn judge(&self, one: &mut Observation, evidence: Evidence) {
        let mut decision = self.decide(&one.name, &evidence);
        if self.only_looks && decision.step.is_some_and(|to| to > evidence.rung) {
            decision.step = None;
            decision.reason.push_str("; a first pass only observes");
        }
        decision.doubts.extend(one.doubt.clone());
        one.untouched = evidence.signals.iter().any(Signal::is_of_missing_file);
        one.assessment = Assessment::Judged(Box::new(evidence), decision);
    }

    /// Judges again with what is known now.
    fn judge_again(&self, one: &mut Observation, seen: &Seen) {
        if let Assessment::Judged(evidence, _) = &one.assessment {
            let evidence = Evidence {
                signals: self.signals(one, seen),
                keep: evidence.keep.clone(),
                class: evidence.class.clone(),
                ..**evidence
            };
            self.judge(one, evidence);
        }
    }

    fn decide(&self, name: &InstanceName, evidence: &Evidence) -> Decision {
        let policy = self.context.policy(&name.lab);
        decide(self.context.time(), evidence, &policy)
    }

    fn signals(&self, one: &Observation, seen: &Seen) -> Vec<Signal> {
        signals::read(&Readings {
            name: &one.name,
            activities: &self.activities,
            seen,
            is_own_run: one.is_own_run,
            guest: &one.guest,
            unmeasured: one.unmeasured,
            class: &one.class,
        })
    }

    /// How much CPU time counts as busy, in percent of one CPU: half of what one virtual CPU can
    /// use, if that is limited to less than twice `policy.busy_cpu`.
    fn least_work(&self, name: &InstanceName, state: State) -> u8 {
        let lab = self.context.config.lab(&name.lab);
        let limit = lab.ok().and_then(|lab| lab.limits.cpu_percent);
        let share = match state {
            State::Idle => limit.unwrap_or(100) / 2,
            _ => limit.unwrap_or(u8::MAX),
        };
        self.context
            .policy(&name.lab)
            .busy_cpu
            .min(share / 2)
            .max(1)
    }

    /// The decision about `name`, whose VM no longer exists.
    pub fn leftover(&self, name: &InstanceName) -> Decision {
        let evidence = Evidence {
            rung: Rung::Stopped,
            signals: signals::read(&Readings {
                name,
                activities: &self.activities,
                seen: &Seen::new(Uuid::nil()),
                is_own_run: false,
                guest: &NOT_ASKED,
                unmeasured: None,
                class: &Class::default(),
            }),
            running_since: None,
            keep: Keep::No,
            stopped_since: None,
            announced: None,
            class: Class::default(),
            trusted_from: self.trusted_from,
        };
        self.decide(name, &evidence)
    }

    /// Examines the running instances of `all` in detail: who watches their consoles, which one
    /// call to the kernel tells for all, and what their guests say, if `wanted`. Returns why it
    /// could not be found out who watches.
    pub fn look_closer(
        &self,
        all: &mut [(Observation, Seen)],
        wanted: impl Fn(&Observation) -> bool,
    ) -> Option<String> {
        let mut running: Vec<_> = all.iter_mut().filter(|(one, _)| one.runs()).collect();
        let mut trouble = self.look_at_consoles(&mut running);
        running.retain(|(one, _)| wanted(one));
        running.sort_by_key(|(_, seen)| turn(seen));
        let troubled = running.iter().filter(|(_, seen)| seen.trouble.is_some());
        let most = running
            .len()
            .saturating_sub(troubled.count().saturating_sub(MOST_TROUBLED));
        let began = Instant::now();
        let queue: Vec<_> = running.iter().enumerate().collect();
        let found = side_by_side(&queue, ASKED_AT_ONCE, |(place, (one, seen))| {
            contained(|| {
                let console = match &one.console {
                    Some(_) => Ok(None),
                    None => console_of(self.context, &one.name),
                };
                let asks = *place < most && began.elapsed() < ASKING;
                (console, asks.then(|| guest(self.context, &one.name, seen)))
            })
        });
        let mut elsewhere = Vec::new();
        for (pair, found) in running.into_iter().zip(found) {
            let (one, seen) = &mut *pair;
            if let Err(error) = contained(|| self.note(found, one, seen)) {
                one.fail(&error);
            }
            elsewhere.push(pair);
        }
        // Instances that something else powered on.
        elsewhere.retain(|(one, _)| !one.viewed);
        trouble = trouble.or(self.look_at_consoles(&mut elsewhere));
        trouble
    }

    /// Records what was found out about an instance: the address of its console, and the answer of
    /// its guest.
    fn note(&self, found: Result<Found>, one: &mut Observation, seen: &mut Seen) {
        let (console, guest) = found.unwrap_or_else(|error| (Err(error), None));
        one.guest = self.sign(&one.name, guest, seen);
        match console {
            Ok(None) => {}
            Ok(found) => one.console = found,
            Err(error) => {
                seen.connected(true, self.context.time());
                one.doubt = Some(format!("its console is unknown: {error:#}"));
            }
        }
        self.judge_again(one, seen);
    }

    /// Interprets the answer of a guest and records it in `seen`. The guest's own words are only
    /// shown to users who ask for details.
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

    /// Records who watches the known consoles.
    fn look_at_consoles(&self, running: &mut [&mut (Observation, Seen)]) -> Option<String> {
        let consoles = running.iter().filter_map(|(one, _)| one.console.as_ref());
        let viewed = viewers::viewed_ports(consoles);
        for (one, seen) in running.iter_mut().map(|one| &mut **one) {
            let Some(console) = &one.console else {
                continue;
            };
            one.viewed = true;
            let mut ports = [Some(console.port), console.websocket]
                .into_iter()
                .flatten();
            // If that is unknown, somebody may be watching.
            let connected = viewed
                .as_ref()
                .map_or(true, |viewed| ports.any(|port| viewed.contains(&port)));
            seen.connected(connected, self.context.time());
            self.judge_again(one, seen);
        }
        viewed.err().map(|error| format!("{error:#}"))
    }

    fn keep(&self, name: &InstanceName, uuid: Uuid) -> Keep {
        match &self.keeps {
            Ok(keeps) => keep::read_in(keeps, name.to_string(), uuid),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Keep::No,
            Err(error) => Keep::Unreadable(format!(
                "the end of its exemption cannot be read: \
                                                    {error}"
            )),
        }
    }

    /// Why no activity file can be read, if so.
    pub fn blind(&self) -> Option<String> {
        let error = self.activities.as_ref().err()?;
        if error.kind() == io::ErrorKind::NotFound {
            // It is created with the first file.
            return None;
        }
        let place = self.context.paths.activities();
        Some(format!(
            "{} cannot be read ({error}): all instances count as active",
            place.display()
        ))
    }

    /// Creates a missing activity file, unless a command holds its instance.
    pub fn touch(&self, one: &Observation) {
        let paths = &self.context.paths;
        let lock = paths.instance_lock(&one.name);
        if let Some(_lock) = Lock::try_take(&lock) {
            // The reason was reported already.
            let _ = activity::touch(&paths.activity(&one.name));
        }
    }
}

impl Observation {
    /// Skips it, because its inspection failed.
    fn fail(&mut self, error: &anyhow::Error) {
        let why = "it could not be inspected";
        self.assessment = Assessment::Skipped(why.to_owned());
        self.doubt = Some(format!("{why}: {error:#}"));
    }

    /// Whether it runs and is on the ladder.
    fn runs(&self) -> bool {
        matches!(&self.assessment, Assessment::Judged(evidence, _) if evidence.rung <= Rung::Idle)
    }

    /// When its run was last used, and the name of the sign that says so, if it is judged and
    /// running.
    pub fn last_use(&self) -> Option<(Timestamp, String)> {
        let (_, decision) = self.assessment.judged().filter(|_| self.runs())?;
        Some((decision.used, decision.source.name.to_owned()))
    }

    /// The doubts about its signs.
    pub fn doubts(&self) -> Vec<String> {
        match &self.assessment {
            Assessment::Judged(_, decision) => decision.doubts.clone(),
            Assessment::Skipped(_) => self.doubt.iter().cloned().collect(),
        }
    }

    /// How long it has been unused, if it may be paused for others: it is running, idle by
    /// `policy`, nobody watches its console, all its signs are known, and it is neither exempt nor
    /// in class.
    pub fn unused_beyond(&self, policy: &Policy, seen: &Seen) -> Option<SignedDuration> {
        let (evidence, decision) = self.assessment.judged()?;
        let Patience::After(limit) = policy.idle_after else {
            return None;
        };
        let limit = match evidence.class.over {
            Some(_) => limit.0.min(GRACE),
            None => limit.0,
        };
        let spared = evidence.rung > Rung::Idle
            || evidence.class.is_in()
            || decision.source == SignalSource::KEPT
            || !decision.doubts.is_empty()
            || seen.is_connected();
        (!spared && decision.unused >= limit).then_some(decision.unused)
    }

    /// Whether it is running, and more must be known before it is throttled, paused or given its
    /// CPU time back.
    pub fn is_unsure(&self) -> bool {
        let Some((evidence, decision)) = self.assessment.judged() else {
            return false;
        };
        match (evidence.rung, decision.step) {
            // Independent of what its guest says.
            _ if decision.source == SignalSource::RUNTIME => false,
            (Rung::Idle, None) => true,
            (Rung::Running | Rung::Idle, Some(to)) => to > evidence.rung,
            _ => false,
        }
    }
}

/// The rung that an instance is on, or why it is skipped.
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

fn guest(context: &Context, name: &InstanceName, seen: &Seen) -> Result<Answer> {
    Ok(match context.hypervisor()?.find(name)? {
        Some(domain) => domain.guest_use(AGENT, seen.asked.is_none()),
        None => Answer::Nobody,
    })
}

/// The order in which guests are asked: those that did not answer the last time come last; among
/// the others, those that were not asked for longest come first.
fn turn(seen: &Seen) -> (bool, Option<Timestamp>) {
    (seen.trouble.is_some(), seen.asked)
}
