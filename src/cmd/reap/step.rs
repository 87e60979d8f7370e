//! Taking one instance down the ladder by a rung, or up again.

use std::time::Instant;

use anyhow::{Context as _, Result};
use jiff::SignedDuration;

use super::look::{Lookout, Sight, Standing};
use super::pass::Planned;
use crate::cmd::instance::cleanup::destroy;
use crate::cmd::instance::references::References;
use crate::cmd::instance::traces::Traces;
use crate::cmd::instance::{self, idle, pause, stop, view};
use crate::cmd::journal::{self, Entry};
use crate::context::Context;
use crate::error::{Kind, kind_of};
use crate::hypervisor::{Detail, Domain};
use crate::instance::{InstanceName, State};
use crate::policy::Rung;
use crate::state::lock::Lock;
use crate::state::passes::Seen;
use crate::state::record::{self, Record, Why};
use crate::units::Duration;

/// How long a guest may take to shut down: nobody is waiting for it.
const SHUTDOWN: Duration = Duration(SignedDuration::from_mins(1));

/// What became of a step.
#[derive(Debug)]
pub enum Outcome {
    /// It was taken.
    Done,
    /// It was not, and that is no fault: the next pass looks again.
    Left(String),
    /// It failed.
    Failed(anyhow::Error),
}

/// Takes the step that was planned at `sight`, if it is still due.
pub fn take(
    context: &Context,
    lookout: &Lookout,
    sight: &Sight,
    seen: Seen,
    planned: &Planned,
) -> Outcome {
    let name = &sight.name;
    let Some(_lock) = Lock::try_take(&context.paths.instance_lock(name)) else {
        return Outcome::Left("another command is at work on it".to_owned());
    };
    let context = context.beside();
    let began = Instant::now();
    match attempt(&context, lookout, sight, seen, planned) {
        Ok(None) => {
            note(&context, name, planned);
            let entry = Entry {
                action: "reap",
                from: state(planned.from).or(Some(sight.state)),
                to: state(planned.to),
                ok: true,
                reason: &planned.reason,
            };
            journal::write(&context, name, began, &entry);
            Outcome::Done
        }
        Ok(Some(why)) => Outcome::Left(why),
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

/// Takes the step; or tells why it is no longer due.
fn attempt(
    context: &Context,
    lookout: &Lookout,
    sight: &Sight,
    mut seen: Seen,
    planned: &Planned,
) -> Result<Option<String>> {
    let name = &sight.name;
    let Some(domain) = context.hypervisor()?.find(name)? else {
        return Ok(Some("it is gone".to_owned()));
    };
    let Some(facts) = domain.facts(Detail::Power)? else {
        return Ok(Some("it is gone".to_owned()));
    };
    if facts.uuid != sight.facts.uuid {
        return Ok(Some("it was made anew".to_owned()));
    }
    let now = lookout.glance(name.clone(), facts, &mut seen);
    let mut now = [(now, seen)];
    lookout.look_closer(&mut now);
    let [(now, _)] = now;
    match &now.standing {
        Standing::Left(why) => return Ok(Some(why.clone())),
        Standing::On(facts, decision)
            if (facts.rung, decision.step) != (planned.from, Some(planned.to)) =>
        {
            return Ok(Some(format!("it changed meanwhile: {}", decision.reason)));
        }
        Standing::On(..) => {}
    }
    act(context, name, &domain, planned.to)?;
    Ok(None)
}

fn act(context: &Context, name: &InstanceName, domain: &Domain, to: Rung) -> Result<()> {
    match to {
        Rung::Running => idle::leave(context, name, domain).map(drop),
        Rung::Idle => idle::hold_back(context, name, domain).map(drop),
        Rung::Paused => pause::hold(context, name, domain, false).map(drop),
        Rung::Stopped => stop::down(context, name, domain, SHUTDOWN, false).map(drop),
        Rung::Destroyed => {
            let traces = Traces::of(context, name)?.with_context(|| instance::missing(name))?;
            traces.ensure_ours(context, &References::new(context))?;
            destroy::destroy(context, &traces)
        }
    }
}

/// Notes why it is in its state now, for listings.
fn note(context: &Context, name: &InstanceName, planned: &Planned) {
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
            reason: planned.reason.clone(),
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
