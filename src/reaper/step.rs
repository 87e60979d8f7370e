//! Taking one instance down the ladder by a rung, or up again.

use std::time::Instant;

use anyhow::{Context as _, Result};

use super::observer::{Assessment, Observation, Observer};
use super::pass::Planned;
use super::passes::Seen;
use super::policy::Rung;
use crate::context::Context;
use crate::error::{Kind, kind_of};
use crate::hypervisor::Detail;
use crate::instance::Instance;
use crate::instance::record::Why;
use crate::instance::references::References;
use crate::instance::remains::Traces;
use crate::journal::{self, Entry};
use crate::names::State;
use crate::reach::missing;
use crate::units::Duration;

/// What became of a step.
#[derive(Debug)]
pub enum Outcome {
    /// It was taken, and why.
    Done(String),
    /// It was not, and that is no fault: the next pass looks again.
    Left(String),
    /// It failed.
    Failed(anyhow::Error),
}

/// Takes the step that was planned at `one`, if it is still due. A guest may take up to `timeout`
/// to shut down.
pub fn take(
    context: &Context,
    observer: &Observer,
    one: &Observation,
    seen: Seen,
    planned: &Planned,
    timeout: Duration,
) -> Outcome {
    let name = &one.name;
    let context = context.beside();
    let Some(vm) = Instance::try_lock(&context, name) else {
        return Outcome::Left("another command is at work on it".to_owned());
    };
    let began = Instant::now();
    match attempt(&context, vm, observer, one, seen, planned, timeout) {
        Ok(Attempt::Taken(reason)) => {
            let entry = Entry {
                action: "reap",
                from: state(planned.from).or(Some(one.state)),
                to: state(planned.to),
                ok: true,
                reason: &reason,
            };
            journal::write(&context, name, began, &entry);
            Outcome::Done(reason)
        }
        Ok(Attempt::NotDue(why)) => Outcome::Left(why),
        // To shut a paused guest down takes memory; it can wait until there is some.
        Err(error)
            if kind_of(&error) == Kind::Busy
                || (planned.from == Rung::Paused && kind_of(&error) == Kind::Capacity) =>
        {
            Outcome::Left(format!("{error:#}"))
        }
        Err(error) => {
            journal::failure(&context, "reap", name, began, Some(one.state), &error);
            Outcome::Failed(error)
        }
    }
}

/// What came of looking again.
enum Attempt {
    /// The step was taken, and why.
    Taken(String),
    /// It is no longer due, and why.
    NotDue(String),
}

fn attempt(
    context: &Context,
    vm: Instance,
    observer: &Observer,
    one: &Observation,
    mut seen: Seen,
    planned: &Planned,
    timeout: Duration,
) -> Result<Attempt> {
    let name = &one.name;
    let not_due = |why: &str| Ok(Attempt::NotDue(why.to_owned()));
    let facts = match vm.find()? {
        Some(domain) => domain.facts(Detail::Power)?,
        None => None,
    };
    let Some(facts) = facts else {
        return not_due("it is gone");
    };
    if facts.uuid != one.facts.uuid {
        return not_due("it was made anew");
    }
    let observer = observer.renewed();
    let now = observer.observe(name.clone(), facts, &mut seen);
    let mut now = [(now, seen)];
    observer.look_closer(&mut now, Observation::is_unsure);
    let [(now, _)] = now;
    match &now.assessment {
        Assessment::Skipped(why) => return not_due(why),
        Assessment::Judged(facts, decision)
            if (facts.rung, decision.step) != (planned.from, Some(planned.to)) =>
        {
            return not_due(&format!("it changed meanwhile: {}", decision.reason));
        }
        Assessment::Judged(..) => {}
    }
    act(context, vm, planned, timeout).map(Attempt::Taken)
}

/// Takes the step, and notes why, for listings; returns why.
fn act(context: &Context, vm: Instance, planned: &Planned, timeout: Duration) -> Result<String> {
    let mut reason = planned.reason.clone();
    match planned.to {
        Rung::Running => drop(vm.unthrottle()?),
        Rung::Idle => drop(vm.throttle()?),
        Rung::Paused => drop(vm.pause(false)?),
        Rung::Stopped => reason = format!("{reason}; {}", vm.shut_down(timeout)?.reason()),
        Rung::Destroyed => {
            let name = vm.name();
            let traces = Traces::of(context, name)?.with_context(|| missing(name))?;
            traces.ensure_ours(context, &References::new(context))?;
            vm.destroy(&traces)?;
            return Ok(reason);
        }
    }
    if let Some(state) = state(planned.to).filter(|state| *state != State::Running) {
        let why = Some(Why {
            state,
            reason: reason.clone(),
        });
        if let Err(error) = vm.update(|record| record.why = why) {
            context.output.detail(&format!(
                "warning: failed to note why {} is {state}: {error:#}",
                vm.name()
            ));
        }
    }
    Ok(reason)
}

/// The state that a rung is.
fn state(rung: Rung) -> Option<State> {
    match rung {
        Rung::Running => Some(State::Running),
        Rung::Idle => Some(State::Idle),
        Rung::Paused => Some(State::Paused),
        Rung::Stopped => Some(State::Stopped),
        Rung::Destroyed => None,
    }
}
