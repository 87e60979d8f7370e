//! Takes one instance a rung down the ladder, or up again.

use std::time::Instant;

use anyhow::{Context as _, Result};

use super::observer::{Assessment, Observation, Observer};
use super::passes::Seen;
use super::policy::Rung;
use super::report::Action;
use crate::context::Context;
use crate::error::{Kind, kind_of};
use crate::hypervisor::Detail;
use crate::instance::Instance;
use crate::instance::record::Cause;
use crate::instance::references::References;
use crate::instance::remains::Remains;
use crate::journal;
use crate::names::State;
use crate::scope::missing;
use crate::units::Duration;

/// A step that is due.
#[derive(Debug)]
pub struct Planned<'a> {
    pub one: &'a Observation,
    pub from: Rung,
    pub to: Rung,
    pub reason: String,
    idle_seconds: i64,
    /// It is taken to free memory for others.
    for_others: bool,
}

impl Planned<'_> {
    /// The step that is due for `one`, if there is one.
    pub fn new(one: &Observation) -> Option<Planned<'_>> {
        let (evidence, decision) = one.assessment.judged()?;
        Some(Planned {
            one,
            from: evidence.rung,
            to: decision.step?,
            reason: decision.reason.clone(),
            idle_seconds: decision.unused.as_secs(),
            for_others: false,
        })
    }

    /// A pause of `one` with the reason `why`.
    pub fn for_others<'a>(one: &'a Observation, why: &str) -> Option<Planned<'a>> {
        let (evidence, decision) = one.assessment.judged()?;
        Some(Planned {
            one,
            from: evidence.rung,
            to: Rung::Paused,
            reason: format!("{why}; {}", decision.reason),
            idle_seconds: decision.unused.as_secs(),
            for_others: true,
        })
    }

    /// The order of steps: first those for users who are waiting, then those that free memory.
    pub fn urgency(&self) -> u8 {
        match (self.from, self.to) {
            (_, Rung::Running) => 0,
            (Rung::Running | Rung::Idle, Rung::Paused | Rung::Stopped) => 1,
            (_, Rung::Idle) => 2,
            (_, Rung::Paused | Rung::Stopped) => 3,
            (_, Rung::Destroyed) => 4,
        }
    }

    /// The report of a step that was taken for `reason`, or attempted.
    pub fn action(&self, reason: &str, result: Result<(), &anyhow::Error>) -> Action {
        Action {
            instance: self.one.name.to_string(),
            from: self.from,
            to: self.to,
            idle_seconds: self.idle_seconds,
            ok: result.is_ok(),
            kind: result.err().map(kind_of),
            error: result.err().map(|error| format!("{error:#}")),
            reason: reason.to_owned(),
        }
    }
}

/// The result of a step.
#[derive(Debug)]
pub enum StepOutcome {
    /// It was taken, and why.
    Done(String),
    /// It was skipped, which is no failure: the next pass tries again.
    Left(String),
    /// It failed.
    Failed(anyhow::Error),
}

/// Takes the `planned` step, if it is still due. A guest may take up to `timeout` to shut down.
pub fn take(
    context: &Context,
    observer: &Observer,
    planned: &Planned,
    seen: Seen,
    timeout: Duration,
) -> StepOutcome {
    let (one, name) = (planned.one, &planned.one.name);
    let context = context.for_worker();
    let Some(vm) = Instance::try_lock(&context, name) else {
        return StepOutcome::Left("another command is working on it".to_owned());
    };
    let began = Instant::now();
    match attempt(&context, vm, observer, planned, seen, timeout) {
        Ok(StepOutcome::Done(reason)) => {
            let (from, to) = (planned.from.state(), planned.to.state());
            let from = from.or(Some(one.state));
            journal::done(&context, "reap", name, began, from, to, &reason);
            StepOutcome::Done(reason)
        }
        Ok(left) => left,
        // Shutting down a paused guest needs memory; it can wait until there is some.
        Err(error)
            if kind_of(&error) == Kind::Busy
                || (planned.from == Rung::Paused && kind_of(&error) == Kind::Capacity) =>
        {
            StepOutcome::Left(format!("{error:#}"))
        }
        Err(error) => {
            journal::failure(&context, "reap", name, began, Some(one.state), &error);
            StepOutcome::Failed(error)
        }
    }
}

fn attempt(
    context: &Context,
    vm: Instance,
    observer: &Observer,
    planned: &Planned,
    mut seen: Seen,
    timeout: Duration,
) -> Result<StepOutcome> {
    let one = planned.one;
    let not_due = |why: &str| Ok(StepOutcome::Left(why.to_owned()));
    let facts = match vm.find()? {
        Some(domain) => domain.facts(Detail::Power)?,
        None => None,
    };
    let Some(facts) = facts else {
        return not_due("it no longer exists");
    };
    if facts.uuid != one.facts.uuid {
        return not_due("it was created again");
    }
    let observer = observer.renewed();
    let now = observer.observe(one.name.clone(), facts, &mut seen);
    let mut now = [(now, seen)];
    observer.look_closer(&mut now, Observation::is_unsure);
    let [(now, seen)] = now;
    let may_go = || now.unused_beyond(&context.policy(&now.name.lab), &seen);
    match &now.assessment {
        Assessment::Skipped(why) => return not_due(why),
        Assessment::Judged(facts, _)
            if planned.for_others && facts.rung == planned.from && may_go().is_some() => {}
        Assessment::Judged(facts, decision)
            if (facts.rung, decision.step) != (planned.from, Some(planned.to)) =>
        {
            return not_due(&format!("it changed in the meantime: {}", decision.reason));
        }
        Assessment::Judged(..) => {}
    }
    act(context, vm, planned, timeout).map(StepOutcome::Done)
}

/// Takes the step and records its reason, for listings; returns the reason.
fn act(context: &Context, vm: Instance, planned: &Planned, timeout: Duration) -> Result<String> {
    let mut reason = planned.reason.clone();
    match planned.to {
        Rung::Running => drop(vm.unthrottle()?),
        Rung::Idle => drop(vm.throttle()?),
        Rung::Paused => drop(vm.pause(false)?),
        Rung::Stopped => reason = format!("{reason}; {}", vm.shut_down(timeout)?.reason()),
        Rung::Destroyed => {
            let name = vm.name();
            let remains = Remains::find(context, name)?.with_context(|| missing(name))?;
            vm.destroy(&remains, &References::new(context))?;
            return Ok(reason);
        }
    }
    if let Some(state) = planned.to.state().filter(|state| *state != State::Running) {
        let (name, reason) = (vm.name(), reason.clone());
        let why = Some(Cause { state, reason });
        if let Err(error) = vm.update(|record| record.why = why) {
            let failed = format!("failed to record why {name} is {state}: {error:#}");
            context.output.detail(&format!("warning: {failed}"));
        }
    }
    Ok(reason)
}
