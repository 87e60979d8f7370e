//! What commands did, in the journal.

use std::time::Instant;

use anyhow::Result;

use super::instance::outcome::Outcome;
use crate::context::Context;
use crate::error::{Kind, kind_of};
use crate::instance::{InstanceName, State};
use crate::state::journal::{self, Event, Subject};

/// What was done, or attempted.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The verb.
    pub action: &'a str,
    /// The state before.
    pub from: Option<State>,
    /// The state after.
    pub to: Option<State>,
    /// Whether it was done.
    pub ok: bool,
    /// Why, or why not.
    pub reason: &'a str,
}

/// Writes an entry on something that began at `began`. A journal that cannot be written stops
/// nobody, and is no news beside a failure, which often has the same cause.
pub fn write<'a>(
    context: &Context,
    subject: impl Into<Subject<'a>>,
    began: Instant,
    entry: &Entry,
) {
    let event = Event {
        time: context.time(),
        subject: subject.into(),
        action: entry.action,
        from: entry.from,
        to: entry.to,
        ok: entry.ok,
        reason: entry.reason,
        who: context.who(),
        as_user: context.reach().only(),
        duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    if let Err(error) = journal::append(&context.paths.journal(), &event) {
        let text = format!("failed to write the journal: {error}");
        match entry.ok {
            true => context.output.warn(&text),
            false => context.output.detail(&text),
        }
    }
}

/// Runs the verb `action` on an instance, and writes down what it changed, or that it failed.
pub fn verb(
    context: &Context,
    action: &str,
    name: &InstanceName,
    verb: impl FnOnce() -> Result<Outcome>,
) -> Result<Outcome> {
    let began = Instant::now();
    let done = verb();
    match &done {
        Ok(outcome) => {
            if let Some((from, to, reason)) = outcome.change() {
                let entry = Entry {
                    action,
                    from,
                    to: Some(to),
                    ok: true,
                    reason,
                };
                write(context, name, began, &entry);
            }
        }
        Err(error) => failure(context, action, name, began, None, error),
    }
    done
}

/// Writes down that `action` failed. What was refused because it was wrongly asked for is no
/// failure.
pub fn failure<'a>(
    context: &Context,
    action: &str,
    subject: impl Into<Subject<'a>>,
    began: Instant,
    from: Option<State>,
    error: &anyhow::Error,
) {
    match kind_of(error) {
        Kind::Usage | Kind::Config | Kind::NotFound | Kind::Conflict => return,
        Kind::Failed | Kind::Busy | Kind::Capacity | Kind::Unavailable => {}
    }
    let entry = Entry {
        action,
        from,
        to: None,
        ok: false,
        reason: &format!("{error:#}"),
    };
    write(context, subject, began, &entry);
}
