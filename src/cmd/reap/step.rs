//! Taking one instance down the ladder by a rung, or up again.

use std::time::Instant;

use anyhow::{Context as _, Result};

use super::pass::Planned;
use crate::cmd::instance::cleanup::destroy;
use crate::cmd::instance::references::References;
use crate::cmd::instance::traces::Traces;
use crate::cmd::instance::{self, idle, pause, stop, view};
use crate::cmd::journal::{self, Entry};
use crate::cmd::look::{Lookout, Sight, Standing};
use crate::context::Context;
use crate::error::{Kind, kind_of};
use crate::hypervisor::{Detail, Domain};
use crate::instance::{InstanceName, State};
use crate::policy::Rung;
use crate::state::lock::Lock;
use crate::state::passes::Seen;
use crate::state::record::{self, Record, Why};
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

/// Takes the step that was planned at `sight`, if it is still due. A guest may take up to `timeout`
/// to shut down.
pub fn take(
    context: &Context,
    lookout: &Lookout,
    sight: &Sight,
    seen: Seen,
    planned: &Planned,
    timeout: Duration,
) -> Outcome {
    let name = &sight.name;
    let Some(_lock) = Lock::try_take(&context.paths.instance_lock(name)) else {
        return Outcome::Left("another command is at work on it".to_owned());
    };
    let context = context.beside();
    let began = Instant::now();
    match attempt(&context, lookout, sight, seen, planned, timeout) {
        Ok(Attempt::Taken(reason)) => {
            note(&context, name, planned, &reason);
            let entry = Entry {
                action: "reap",
                from: state(planned.from).or(Some(sight.state)),
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
            journal::failure(&context, "reap", name, began, Some(sight.state), &error);
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
    lookout: &Lookout,
    sight: &Sight,
    mut seen: Seen,
    planned: &Planned,
    timeout: Duration,
) -> Result<Attempt> {
    let name = &sight.name;
    let not_due = |why: &str| Ok(Attempt::NotDue(why.to_owned()));
    let Some(domain) = context.hypervisor()?.find(name)? else {
        return not_due("it is gone");
    };
    let Some(facts) = domain.facts(Detail::Power)? else {
        return not_due("it is gone");
    };
    if facts.uuid != sight.facts.uuid {
        return not_due("it was made anew");
    }
    let lookout = lookout.renewed();
    let now = lookout.glance(name.clone(), facts, &mut seen);
    let mut now = [(now, seen)];
    lookout.look_closer(&mut now, Sight::is_unsure);
    let [(now, _)] = now;
    match &now.standing {
        Standing::Left(why) => return not_due(why),
        Standing::On(facts, decision)
            if (facts.rung, decision.step) != (planned.from, Some(planned.to)) =>
        {
            return not_due(&format!("it changed meanwhile: {}", decision.reason));
        }
        Standing::On(..) => {}
    }
    let how = act(context, name, &domain, planned.to, timeout)?;
    Ok(Attempt::Taken(match how {
        Some(how) => format!("{}; {how}", planned.reason),
        None => planned.reason.clone(),
    }))
}

/// Takes the step to the rung `to`; how that went, where there is more than one way.
fn act(
    context: &Context,
    name: &InstanceName,
    domain: &Domain,
    to: Rung,
    timeout: Duration,
) -> Result<Option<String>> {
    match to {
        Rung::Running => drop(idle::leave(context, name, domain)?),
        Rung::Idle => drop(idle::hold_back(context, name, domain)?),
        Rung::Paused => drop(pause::hold(context, name, domain, false)?),
        Rung::Stopped => {
            return Ok(Some(stop::down(context, name, domain, timeout)?.reason()));
        }
        Rung::Destroyed => {
            let traces = Traces::of(context, name)?.with_context(|| instance::missing(name))?;
            traces.ensure_ours(context, &References::new(context))?;
            destroy::destroy(context, &traces)?;
        }
    }
    Ok(None)
}

/// Notes why it is in its state now, for listings.
fn note(context: &Context, name: &InstanceName, planned: &Planned, reason: &str) {
    let Some(state) = state(planned.to).filter(|state| *state != State::Running) else {
        return;
    };
    let noted = || -> Result<()> {
        let Some(domain) = context.hypervisor()?.find(name)? else {
            return Ok(());
        };
        let Some(record) = view::noted(context, name, domain.uuid()?)? else {
            return Ok(());
        };
        let why = Some(Why {
            state,
            reason: reason.to_owned(),
        });
        record::write(&context.paths.record(name), &Record { why, ..record })?;
        Ok(())
    };
    if let Err(error) = noted() {
        context.output.detail(&format!(
            "warning: failed to note why {name} is {state}: {error:#}"
        ));
    }
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
