//! For how long nobody used what a cleanup may destroy, as the reaper judges that: by its console, its
//! guest, the host's clock, and what was promised of it.

use jiff::SignedDuration;

use crate::context::Context;
use crate::instance::remains::Traces;
use crate::reaper::observer::{Lookout, Sight, Standing};
use crate::reaper::passes::Passes;
use crate::reaper::policy::{Decision, Source};
use crate::units::Duration;

/// What is known of the use of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inactive {
    /// For how long nobody used it; `None` where it stays however long that is.
    pub length: Option<SignedDuration>,
    /// What says so.
    pub reason: String,
}

/// Where that is learned.
pub struct Uses<'a> {
    lookout: Lookout<'a>,
    passes: Passes,
}

impl<'a> Uses<'a> {
    /// As passes of the reaper have seen it until now. What is seen here is not for them.
    pub fn new(context: &'a Context) -> Self {
        let mut passes = Passes::read(&context.paths.passes());
        passes.begin(&context.moment());
        Uses {
            lookout: Lookout::of_all(context, passes.trusted_from),
            passes,
        }
    }

    /// For how long each of `all` was not used. Guests are asked of those that would be inactive for
    /// `limit` otherwise.
    pub fn of(&self, all: &[&Traces], limit: Duration) -> Vec<Inactive> {
        let lookout = self.lookout.renewed();
        let vms = all.iter().filter_map(|traces| {
            let facts = traces.facts.clone()?;
            let mut seen = self.passes.seen(&facts.name, facts.uuid);
            Some((lookout.glance(traces.name.clone(), facts, &mut seen), seen))
        });
        let mut vms: Vec<_> = vms.collect();
        let is_due = |sight: &Sight| {
            let length = of_sight(sight).length;
            length.is_some_and(|length| length >= limit.0)
        };
        lookout.look_closer(&mut vms, is_due);
        let mut vms = vms.iter();
        let of = |traces: &&Traces| match &traces.facts {
            Some(_) => vms.next().map(|(sight, _)| of_sight(sight)),
            None => Some(of_decision(&lookout.leftover(&traces.name))),
        };
        all.iter().filter_map(of).collect()
    }
}

fn of_sight(sight: &Sight) -> Inactive {
    match &sight.standing {
        Standing::Left(why) => Inactive {
            length: None,
            reason: why.clone(),
        },
        Standing::On(_, decision) => of_decision(decision),
    }
}

fn of_decision(decision: &Decision) -> Inactive {
    let kept = decision.source == Source::Kept;
    let doubted = decision.unused.is_zero() && !decision.doubts.is_empty();
    Inactive {
        length: (!kept && !doubted).then_some(decision.unused),
        reason: decision.reason.clone(),
    }
}
