//! Predicts the next step of an instance if nobody uses it, for listings: from what the last pass
//! saw and what was recorded since then. Guests are not asked.
#![deny(clippy::arithmetic_side_effects)]

use anyhow::Result;
use jiff::Timestamp;

use super::in_class::decide;
use super::lessons::Lessons;
use super::passes::Passes;
use super::policy::{Evidence, Rung};
use super::signals::{Bound, SIGNALS, Sign, Signal, SignalSource, beginning};
use crate::context::Context;
use crate::hypervisor::{Detail, Facts, Power};
use crate::instance::record::Run;
use crate::instance::status::{self, InstanceStatus};
use crate::names::{InstanceName, State};
use crate::parallel::both;

/// The sources of a forecast.
pub(crate) struct Forecast<'a> {
    context: &'a Context,
    passes: Passes,
    lessons: Lessons,
    /// The same for all instances.
    now: Timestamp,
}

/// All instances with their facts, and what their forecasts need. That is read in parallel: the one
/// waits for libvirt, the other reads and parses a file as long as the list.
pub fn survey(context: &Context) -> Result<(Vec<(InstanceName, Facts)>, Forecast<'_>)> {
    let all = || context.hypervisor()?.survey(Detail::Power);
    let (all, forecast) = both(all, || Forecast::new(context));
    Ok((all?, forecast))
}

impl<'a> Forecast<'a> {
    pub fn new(context: &'a Context) -> Self {
        let mut passes = Passes::read(&context.paths.passes());
        let moment = context.moment();
        passes.begin(&moment);
        let lessons = Lessons::read(context, &passes);
        Forecast {
            context,
            passes,
            lessons,
            now: moment.time,
        }
    }

    /// The statuses of many instances with their next steps; starting guests are asked whether they
    /// are up.
    pub fn statuses(&self, instances: &[(InstanceName, Facts)]) -> Result<Vec<InstanceStatus>> {
        status::statuses(self.context, instances, true, |status| self.add(status))
    }

    /// Fills in the next step of `status` and its time, and whether only its CPU work keeps it in
    /// use.
    pub fn add(&self, status: &mut InstanceStatus) {
        let Some(rung) = rung(status) else {
            return;
        };
        let now = self.now;
        let known = self.passes.get(&status.instance, status.basis.uuid);
        // What was seen of another run no longer counts.
        let run = known.and_then(|seen| seen.run.as_ref());
        let run = run.filter(|(run, _)| status.basis.id.map(Run::current).as_ref() == Some(run));
        let touched = match status.last_activity {
            Some(at) => Sign::At(at),
            None => Sign::Unreadable("is missing or cannot be read".to_owned()),
        };
        let mut signals = vec![Signal {
            source: SignalSource::TOUCHED,
            sign: touched,
            bound: Bound::Vouches,
        }];
        if let (Some(_), Some((at, by))) = (run, known.and_then(|seen| seen.used.as_ref())) {
            let source = SIGNALS.iter().find(|(source, _)| source.name == by);
            signals.push(Signal {
                source: source.map_or(SignalSource::CLOCK, |(source, _)| *source),
                sign: Sign::Seen(*at),
                bound: Bound::Counts,
            });
        }
        let name = InstanceName {
            lab: status.lab_id.clone(),
            user: status.user_id.clone(),
        };
        let class = self.lessons.class(self.context, &name, now);
        signals.push(Signal {
            source: SignalSource::LESSON,
            sign: beginning(&class),
            bound: Bound::Counts,
        });
        let evidence = Evidence {
            rung,
            signals,
            running_since: run.map(|(_, since)| *since),
            keep: status.basis.keep.clone(),
            stopped_since: known.and_then(|seen| seen.stopped_since),
            announced: known.and_then(|seen| seen.announced).map(|it| it.at),
            class,
            trusted_from: self.passes.trusted_from,
        };
        let Ok(lab) = self.context.config.lab(&status.lab_id) else {
            return;
        };
        let decision = decide(now, &evidence, &lab.policy);
        (status.next_step, status.next_step_at) = decision.next.unzip();
        if decision.source == SignalSource::WORK && rung <= Rung::Idle {
            status.reason = format!("{}; {}", status.reason, decision.reason);
        }
    }
}

/// The rung that it is on; `None` if the reaper skips it.
fn rung(status: &InstanceStatus) -> Option<Rung> {
    let is_there = status.basis.id.is_some();
    match (status.basis.power, status.state) {
        (Power::Busy | Power::StuckOnDisk, _) => None,
        (Power::Crashed, _) if is_there => None,
        (_, State::Starting | State::Running) => Some(Rung::Running),
        (_, State::Idle) => Some(Rung::Idle),
        (_, State::Paused) => Some(Rung::Paused),
        (_, State::Stopped | State::Crashed) => Some(Rung::Stopped),
    }
}
