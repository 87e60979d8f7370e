//! How long instances have been unused, judged as the reaper does: by console, guest, the host's
//! clock, and exemptions.

use jiff::SignedDuration;

use crate::context::Context;
use crate::instance::remains::Remains;
use crate::reaper::observer::{Assessment, Observation, Observer};
use crate::reaper::passes::Passes;
use crate::reaper::policy::Decision;
use crate::reaper::signals::SignalSource;
use crate::units::Duration;

/// The last use of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inactive {
    /// How long it has been unused; `None` if it must be kept.
    pub length: Option<SignedDuration>,
    /// The sign that says so.
    pub reason: String,
}

/// The sources.
pub struct Uses<'a> {
    observer: Observer<'a>,
    passes: Passes,
}

impl<'a> Uses<'a> {
    /// The record of the reaper's passes. It is not changed here.
    pub fn new(context: &'a Context) -> Self {
        let mut passes = Passes::read(&context.paths.passes());
        passes.begin(&context.moment());
        Uses {
            observer: Observer::of_all(context, passes.trusted_from),
            passes,
        }
    }

    /// How long each of `all` has been unused. Guests are only asked if they would be inactive for
    /// `limit` otherwise.
    pub fn inactive(&self, all: &[&Remains], limit: Duration) -> Vec<Inactive> {
        let observer = self.observer.renewed();
        let vms = all.iter().filter_map(|remains| {
            let facts = remains.facts.clone()?;
            let mut seen = self.passes.seen(&facts.name, facts.uuid);
            let observation = observer.observe(remains.name.clone(), facts, &mut seen);
            Some((observation, seen))
        });
        let mut vms: Vec<_> = vms.collect();
        let is_due = |one: &Observation| of_observation(one).length.is_some_and(|it| it >= limit.0);
        observer.look_closer(&mut vms, is_due);
        let mut vms = vms.iter();
        let of = |remains: &&Remains| match &remains.facts {
            Some(_) => vms.next().map(|(one, _)| of_observation(one)),
            None => Some(of_decision(&observer.leftover(&remains.name))),
        };
        all.iter().filter_map(of).collect()
    }
}

fn of_observation(one: &Observation) -> Inactive {
    match &one.assessment {
        Assessment::Skipped(why) => Inactive {
            length: None,
            reason: why.clone(),
        },
        Assessment::Judged(_, decision) => of_decision(decision),
    }
}

fn of_decision(decision: &Decision) -> Inactive {
    let kept = decision.source == SignalSource::KEPT;
    let doubted = decision.unused.is_zero() && !decision.doubts.is_empty();
    Inactive {
        length: (!kept && !doubted).then_some(decision.unused),
        reason: decision.reason.clone(),
    }
}
