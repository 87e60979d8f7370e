//! Figures computed from the journal, for each lab: the memory that the idle policy freed, pauses
//! and wakes and their durations, failures, builds, and hours of use.
//!
//! A report computes them again; metrics continue from the last count, which is kept in a file
//! together with the position in the journal, so that counters never go back when old journals are
//! removed. Events that are not in the journal, such as a guest that shut itself down, become
//! visible when the next line or libvirt contradicts the known state: the time in between is not
//! counted.

mod course;
pub mod durations;
pub mod read;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::files;
use crate::names::{Rung, State};
use crate::paths::Paths;
pub use course::{Course, Moment};
use durations::Durations;
use read::{Cursor, Event, Outcome, Wanted};

/// An instance that is woken within this time was taken down too soon.
const TOO_SOON: SignedDuration = SignedDuration::from_mins(5);

/// The maximum size of the file: enough for a hundred thousand instances.
const LARGEST: u64 = 64 << 20;

/// The figures from the journal.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Ledger {
    /// By lab.
    pub labs: BTreeMap<String, Account>,
    /// How many lines could not be parsed.
    pub unreadable: u64,
    /// Nothing before this is counted.
    pub from: Timestamp,
    /// At least one line was read.
    begun: bool,
    /// The time up to which everything known then was counted.
    closed: Option<Timestamp>,
    /// How far the journal was read.
    cursor: Option<Cursor>,
    /// The present span of each instance, by name.
    open: BTreeMap<String, Span>,
    /// The lab, if only one is counted.
    #[serde(skip)]
    pub only: Option<String>,
    /// The same over time, if requested.
    #[serde(skip)]
    pub course: Option<Course>,
}

/// The sums of a lab, as integers, which are exact when they are read back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// How long instances were in each state, in milliseconds.
    pub ms: BTreeMap<State, u64>,
    /// Memory × time of running instances, in MiB × milliseconds.
    pub used: u64,
    /// What the idle policy freed, by the state that it took them to.
    pub freed: BTreeMap<State, u64>,
    /// Milliseconds of use by hour of the week, from Monday, midnight.
    pub week: Vec<u64>,
    /// How many steps the idle policy took, by the state that they led to.
    pub steps: BTreeMap<Rung, u64>,
    /// How many of its steps failed.
    pub failed_steps: u64,
    /// How often an instance was paused, by the policy or by hand.
    pub pauses: u64,
    /// Durations of resumes.
    pub resumes: Durations,
    /// Durations of starts.
    pub starts: Durations,
    /// How many instances were started for lessons.
    #[serde(default)]
    pub for_lessons: u64,
    /// How often that failed.
    #[serde(default)]
    pub failed_for_lessons: u64,
    /// What lessons found.
    #[serde(default)]
    pub lessons: Lessons,
    /// How many of both came too soon after a step of the policy.
    pub too_soon: u64,
    /// The number of failures by kind, with the last reason of each.
    pub failed_starts: BTreeMap<String, (u64, String)>,
    /// Durations of builds.
    pub builds: Durations,
    /// The number of failed builds.
    pub failed_builds: u64,
}

/// What lessons found when they began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Lessons {
    /// How many there were.
    pub begun: u64,
    /// For how many of them all instances were ready.
    pub all_ready: u64,
    /// How many instances were ready, of all of them.
    pub ready: u64,
    /// How many were not.
    pub late: u64,
}

/// The present span of an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Span {
    lab: String,
    state: State,
    memory_mb: u64,
    since: Timestamp,
    /// The time up to which it was counted.
    counted: Timestamp,
    /// The policy brought it to this state.
    by_policy: bool,
    /// Without the policy it would be running.
    freed: bool,
}

/// The facts about an instance from libvirt.
#[derive(Debug)]
pub struct Live {
    /// The lab.
    pub lab: String,
    /// Its state.
    pub state: State,
    /// Its memory.
    pub memory_mb: u64,
    /// When it was created.
    pub created: Option<Timestamp>,
}

/// Whether an instance in this state uses memory of the host.
pub fn is_up(state: State) -> bool {
    matches!(state, State::Starting | State::Running | State::Idle)
}

fn agree(one: State, other: State) -> bool {
    one == other || is_up(one) && is_up(other)
}

/// The target of a policy step that left an instance in `state`.
fn rung(state: Option<State>) -> Rung {
    match state {
        Some(State::Running | State::Starting) => Rung::Running,
        Some(State::Idle) => Rung::Idle,
        Some(State::Paused) => Rung::Paused,
        Some(State::Stopped | State::Crashed) => Rung::Stopped,
        None => Rung::Destroyed,
    }
}

impl Ledger {
    /// A ledger that counts from `from` on.
    pub fn new(from: Timestamp) -> Ledger {
        Ledger {
            from,
            ..Ledger::default()
        }
    }

    /// The saved ledger, or else a new one for the complete journal.
    pub fn load(paths: &Paths) -> Ledger {
        files::read_up_to(&paths.ledger(), LARGEST)
            .ok()
            .and_then(|content| serde_json::from_slice(&content).ok())
            .unwrap_or_default()
    }

    /// Saves it for the next count.
    pub fn save(&self, paths: &Paths) -> io::Result<()> {
        files::replace_soon(&paths.ledger(), &serde_json::to_vec(self)?, files::SHARED)
    }

    /// Adds the new lines of the journal; returns the outcome of reading. `memory_mb` is the memory
    /// of a lab's instances for lines that do not have it.
    pub fn read(
        &mut self,
        paths: &Paths,
        zone: &TimeZone,
        memory_mb: impl Fn(&str) -> Option<u64>,
    ) -> io::Result<Outcome> {
        let cursor = self.cursor.clone();
        let wanted = match &cursor {
            Some(cursor) => Wanted::After(cursor),
            None => Wanted::Since(self.from),
        };
        let outcome = read::events(&paths.journal(), wanted, |event| {
            let memory = event.memory_mb.or_else(|| memory_mb(&event.lab_id));
            self.add(event, memory.unwrap_or(0), zone);
        })?;
        self.cursor = outcome.cursor.clone().or(cursor);
        self.unreadable += outcome.unreadable;
        Ok(outcome)
    }

    /// Adds the lines of the journals of several hosts, in the order of their times.
    pub fn read_all(
        &mut self,
        journals: &[(String, PathBuf)],
        zone: &TimeZone,
        memory_mb: impl Fn(&str) -> Option<u64>,
    ) -> Outcome {
        let outcome = read::merged(journals, self.from, |event| {
            let memory = event.memory_mb.or_else(|| memory_mb(&event.lab_id));
            self.add(event, memory.unwrap_or(0), zone);
        });
        self.unreadable += outcome.unreadable;
        outcome
    }

    fn add(&mut self, event: &Event, memory_mb: u64, zone: &TimeZone) {
        if self.only.as_ref().is_some_and(|only| *only != event.lab_id) {
            return;
        }
        if !std::mem::replace(&mut self.begun, true) {
            // Nothing is known about the time before.
            self.from = self.from.max(event.time);
        }
        let counts = event.time >= self.from;
        let Some(name) = event.instance.as_ref().filter(|_| event.ok) else {
            if counts {
                self.account(&event.lab_id).note(event);
            }
            return;
        };
        let before = match (self.open.remove(name), event.from) {
            (Some(span), Some(from)) if agree(span.state, from) => Some(span),
            // It has been in this state since the journal began or since the last count.
            (None, Some(from)) => {
                let since = self.closed.unwrap_or(self.from);
                Some(Span::new(&event.lab_id, from, memory_mb, since))
            }
            _ => None,
        };
        if let Some(span) = &before {
            self.count(span, event.time, zone);
        }
        if counts {
            self.account(&event.lab_id).step(event, before.as_ref());
        }
        if let Some(state) = event.to {
            let by_policy = event.who == "reap";
            let was_freed = before.is_some_and(|span| span.freed);
            let was_up = event.from.is_some_and(is_up);
            let span = Span {
                by_policy,
                freed: !is_up(state) && (was_freed || was_up && by_policy),
                ..Span::new(&event.lab_id, state, memory_mb, event.time)
            };
            self.open.insert(name.clone(), span);
        }
    }

    /// Counts up to `now`. From now on, the states reported by libvirt, if any, are valid.
    pub fn close(&mut self, live: Option<BTreeMap<String, Live>>, now: Timestamp, zone: &TimeZone) {
        let mut open = std::mem::take(&mut self.open);
        if let Some(live) = live {
            let begin = match (self.closed, self.begun) {
                (Some(closed), _) => closed,
                (None, true) => self.from,
                (None, false) => now,
            };
            let mut known = std::mem::take(&mut open);
            let only = self.only.clone();
            let wanted = |live: &Live| only.as_ref().is_none_or(|only| *only == live.lab);
            for (name, live) in live.into_iter().filter(|(_, live)| wanted(live)) {
                let span = match known.remove(&name) {
                    Some(span) if agree(span.state, live.state) => Span {
                        state: live.state,
                        ..span
                    },
                    contradicted => {
                        let since = match contradicted {
                            Some(_) => now,
                            None => live.created.map_or(begin, |at| at.max(begin)),
                        };
                        Span::new(&live.lab, live.state, live.memory_mb, since)
                    }
                };
                open.insert(name, span);
            }
        }
        for span in open.values_mut() {
            self.count(span, now, zone);
            span.counted = span.counted.max(now);
        }
        self.open = open;
        self.closed = Some(now);
    }

    /// The sums of all labs together.
    pub fn total(&self) -> Account {
        let mut total = Account::default();
        for account in self.labs.values() {
            total.extend(account);
        }
        total
    }

    fn account(&mut self, lab: &str) -> &mut Account {
        // Usually it exists.
        if !self.labs.contains_key(lab) {
            self.labs.insert(lab.to_owned(), Account::default());
        }
        self.labs.entry(lab.to_owned()).or_default()
    }

    /// Counts `span` up to `until`.
    fn count(&mut self, span: &Span, until: Timestamp, zone: &TimeZone) {
        let from = span.counted.max(self.from);
        let Some(ms) = ms_between(from, until) else {
            return;
        };
        let account = self.account(&span.lab);
        *account.ms.entry(span.state).or_default() += ms;
        let memory = span.memory_mb.saturating_mul(ms);
        if is_up(span.state) {
            account.used = account.used.saturating_add(memory);
            account.week.resize(course::HOURS_OF_WEEK, 0);
            if span.state != State::Idle {
                course::by_hour_of_week(from, until, zone, |hour, ms| account.week[hour] += ms);
            }
        } else if span.freed {
            let freed = account.freed.entry(span.state).or_default();
            *freed = freed.saturating_add(memory);
        }
        if let Some(course) = &mut self.course {
            course.add(span.state, span.memory_mb, span.freed, from, until);
        }
    }
}

/// `None` if no time has passed.
fn ms_between(from: Timestamp, until: Timestamp) -> Option<u64> {
    let ms = until.as_millisecond().checked_sub(from.as_millisecond())?;
    u64::try_from(ms).ok().filter(|ms| *ms > 0)
}

impl Span {
    fn new(lab: &str, state: State, memory_mb: u64, since: Timestamp) -> Span {
        Span {
            lab: lab.to_owned(),
            state,
            memory_mb,
            since,
            counted: since,
            by_policy: false,
            freed: false,
        }
    }
}

impl Account {
    /// Counts a build or a failure.
    fn note(&mut self, event: &Event) {
        match (&*event.action, event.ok) {
            ("build", true) => self.builds.add(event.duration_ms),
            ("build", false) => self.failed_builds += 1,
            ("reap", false) => self.failed_steps += 1,
            ("lesson", all_ready) => {
                let ready = event.ready.unwrap_or(0);
                let late = event.wanted.unwrap_or(0).saturating_sub(ready);
                self.lessons.begun += 1;
                self.lessons.all_ready += u64::from(all_ready);
                self.lessons.ready += ready;
                self.lessons.late += late;
            }
            ("start" | "resume" | "create", false) => {
                self.failed_for_lessons += u64::from(event.who == "reap");
                let code = event.code.as_deref().unwrap_or("failed");
                let of_code = self.failed_starts.entry(code.to_owned()).or_default();
                *of_code = (of_code.0 + 1, event.reason.to_string());
            }
            _ => {}
        }
    }

    /// Counts an event of an instance whose previous span was `before`.
    fn step(&mut self, event: &Event, before: Option<&Span>) {
        // Bringing up for a lesson is not a step of the policy, and nobody was waiting.
        let for_lesson = event.who == "reap" && event.action == "start";
        self.for_lessons += u64::from(for_lesson);
        if event.who == "reap" && !for_lesson {
            *self.steps.entry(rung(event.to)).or_default() += 1;
        }
        let from = event.from;
        if event.to == Some(State::Paused) && from != event.to {
            self.pauses += 1;
        }
        if event.to.is_some_and(is_up) && !from.is_some_and(is_up) {
            let kind = match from {
                Some(State::Paused) => &mut self.resumes,
                _ => &mut self.starts,
            };
            kind.add(event.duration_ms);
            let taken_down = before.filter(|span| span.by_policy);
            let is_soon = |span: &Span| event.time.duration_since(span.since) <= TOO_SOON;
            self.too_soon += u64::from(!for_lesson && taken_down.is_some_and(is_soon));
        }
    }

    /// Adds the sums of another lab.
    fn extend(&mut self, other: &Account) {
        add_all(&mut self.ms, &other.ms);
        add_all(&mut self.freed, &other.freed);
        add_all(&mut self.steps, &other.steps);
        self.week.resize(course::HOURS_OF_WEEK, 0);
        for (sum, ms) in self.week.iter_mut().zip(&other.week) {
            *sum += ms;
        }
        self.used += other.used;
        self.failed_steps += other.failed_steps;
        self.pauses += other.pauses;
        self.resumes.extend(&other.resumes);
        self.starts.extend(&other.starts);
        self.for_lessons += other.for_lessons;
        self.failed_for_lessons += other.failed_for_lessons;
        self.lessons.begun += other.lessons.begun;
        self.lessons.all_ready += other.lessons.all_ready;
        self.lessons.ready += other.lessons.ready;
        self.lessons.late += other.lessons.late;
        self.too_soon += other.too_soon;
        for (code, (count, reason)) in &other.failed_starts {
            let of_code = self.failed_starts.entry(code.clone()).or_default();
            *of_code = (of_code.0 + count, reason.clone());
        }
        self.builds.extend(&other.builds);
        self.failed_builds += other.failed_builds;
    }

    /// The total that the policy freed, in MiB × milliseconds.
    pub fn all_freed(&self) -> u64 {
        self.freed.values().sum()
    }

    /// How often the policy paused or stopped an instance.
    pub fn taken_down(&self) -> u64 {
        let count = |step| self.steps.get(&step).copied().unwrap_or(0);
        count(Rung::Paused) + count(Rung::Stopped)
    }

    /// How long instances were in use, in milliseconds.
    pub fn use_ms(&self) -> u64 {
        self.week.iter().sum()
    }
}

fn add_all<K: Copy + Ord>(sums: &mut BTreeMap<K, u64>, others: &BTreeMap<K, u64>) {
    for (key, value) in others {
        *sums.entry(*key).or_default() += value;
    }
}

#[cfg(test)]
mod tests;
