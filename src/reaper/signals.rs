//! The signals of use: everything that can show that somebody uses an instance.
//!
//! A new signal is a function here and a line in [`SIGNALS`]. The policy derives the last use from
//! all of them, and a dry run shows them.
#![deny(clippy::arithmetic_side_effects)]

use std::io;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::passes::{Seen, Work};
use crate::files::Directory;
use crate::names::InstanceName;
use crate::timetable::Class;

/// A source that can decide when an instance was last used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignalSource {
    /// Its name in JSON.
    pub name: &'static str,
    /// Its text, with which its doubts begin.
    pub words: &'static str,
    /// The name of its column in reports, if it has one.
    pub title: Option<&'static str>,
}

impl SignalSource {
    /// The activity file.
    pub const TOUCHED: SignalSource =
        SignalSource::new("touched", "its activity file").shown("TOUCHED");
    /// A client of the console.
    pub const CONSOLE: SignalSource =
        SignalSource::new("console", "a client of its console").shown("CONSOLE");
    /// The guest's agent, on logins and input.
    pub const GUEST: SignalSource = SignalSource::new("guest", "its guest's agent").shown("GUEST");
    /// Its CPU use.
    pub const WORK: SignalSource = SignalSource::new("work", "its CPU time").shown("WORK");
    /// A lesson that it is prepared for, or that began.
    pub const LESSON: SignalSource = SignalSource::new("lesson", "its lesson");
    /// It was powered on by something else.
    pub const POWER: SignalSource =
        SignalSource::new("power", "powered on by something other than cyyber");
    /// The host's clock was set.
    pub const CLOCK: SignalSource = SignalSource::new("clock", "the host's clock was set then");
    /// It is exempt.
    pub const KEPT: SignalSource = SignalSource::new("kept", "it is exempt");
    /// It has reached its maximum runtime.
    pub const RUNTIME: SignalSource =
        SignalSource::new("runtime", "it has reached its maximum runtime");

    const fn new(name: &'static str, words: &'static str) -> SignalSource {
        SignalSource {
            name,
            words,
            title: None,
        }
    }

    const fn shown(self, title: &'static str) -> SignalSource {
        SignalSource {
            title: Some(title),
            ..self
        }
    }
}

impl Serialize for SignalSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

/// What one source says about the last use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sign {
    /// It was used then.
    At(Timestamp),
    /// Passes saw it used then. This time is not doubted.
    Seen(Timestamp),
    /// The source does not exist here or was not asked: it says nothing.
    Silent(&'static str),
    /// The source should say something but does not.
    Unreadable(String),
}

/// How a sign counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// It counts, and confirms others.
    Vouches,
    /// It counts.
    Counts,
    /// It counts for at most `policy.max_connected` after the last use that another sign confirms.
    Claim,
    /// It counts for at most `policy.max_busy` after the last use by another sign.
    Work,
    /// Like a claim, but at least from the time of the connection. It confirms what its guest says
    /// about the time since then.
    Connection(Timestamp),
}

/// What one source says, and how that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    /// The source.
    pub source: SignalSource,
    /// What it says.
    pub sign: Sign,
    /// How that counts.
    pub bound: Bound,
}

/// The data that signals are read from.
#[derive(Debug)]
pub(crate) struct Readings<'a> {
    pub name: &'a InstanceName,
    pub activities: &'a io::Result<Directory>,
    /// What passes saw.
    pub seen: &'a Seen,
    /// Its present run was begun by this program.
    pub is_own_run: bool,
    /// What its guest's agent said.
    pub guest: &'a Sign,
    /// Why its CPU time is not known, where that should be.
    pub unmeasured: Option<&'a str>,
    /// What the timetable makes of it.
    pub class: &'a Class,
}

/// How a signal is read.
pub(crate) type Read = fn(&Readings) -> (Sign, Bound);

/// All signals, in the order of reports.
pub(crate) static SIGNALS: [(SignalSource, Read); 6] = [
    (SignalSource::TOUCHED, touched),
    (SignalSource::CONSOLE, console),
    (SignalSource::GUEST, guest),
    (SignalSource::WORK, work),
    (SignalSource::LESSON, lesson),
    (SignalSource::POWER, power),
];

/// Reads all signals.
pub(super) fn read(readings: &Readings) -> Vec<Signal> {
    let signal = |(source, read): &(SignalSource, Read)| {
        let (sign, bound) = read(readings);
        Signal {
            source: *source,
            sign,
            bound,
        }
    };
    SIGNALS.iter().map(signal).collect()
}

/// The doubt for a missing activity file.
const MISSING: &str = "is missing";

impl Signal {
    /// Whether this is the signal of a missing activity file.
    pub(super) fn is_of_missing_file(&self) -> bool {
        matches!(&self.sign, Sign::Unreadable(why) if self.source == SignalSource::TOUCHED && why == MISSING)
    }
}

fn touched(readings: &Readings) -> (Sign, Bound) {
    let touched = match readings.activities {
        Ok(activities) => activities.modified(readings.name.to_string()),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    };
    let sign = match touched {
        Ok(at) => Sign::At(at),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Sign::Unreadable(MISSING.to_owned())
        }
        Err(error) => Sign::Unreadable(format!("cannot be read: {error}")),
    };
    (sign, Bound::Vouches)
}

fn console(readings: &Readings) -> (Sign, Bound) {
    match readings.seen.console {
        Some(it) => (Sign::Seen(it.seen), Bound::Connection(it.since)),
        None => (Sign::Silent("none seen"), Bound::Counts),
    }
}

fn guest(readings: &Readings) -> (Sign, Bound) {
    (readings.guest.clone(), Bound::Claim)
}

fn work(readings: &Readings) -> (Sign, Bound) {
    let sign = match (readings.unmeasured, &readings.seen.work) {
        (Some(why), _) => Sign::Unreadable(why.to_owned()),
        (None, Some(Work { busy: Some(at), .. })) => Sign::Seen(*at),
        (None, Some(Work { measured: true, .. })) => Sign::Silent("below policy.busy_cpu"),
        (None, _) => Sign::Silent("not measured"),
    };
    (sign, Bound::Work)
}

fn lesson(readings: &Readings) -> (Sign, Bound) {
    (beginning(readings.class), Bound::Counts)
}

/// Until a lesson begins, its instances count as in use; from then on, as last used at its
/// beginning.
pub(super) fn beginning(class: &Class) -> Sign {
    match class.now {
        Some(lessons) => Sign::Seen(lessons.from),
        None => Sign::Silent("no lesson"),
    }
}

fn power(readings: &Readings) -> (Sign, Bound) {
    let sign = match &readings.seen.run {
        Some((_, since)) if !readings.is_own_run => Sign::Seen(*since),
        _ => Sign::Silent("not by others"),
    };
    (sign, Bound::Counts)
}
