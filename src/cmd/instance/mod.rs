//! The verbs on instances.

mod access;
mod cleanup;
mod console;
mod create;
pub mod idle;
mod list;
mod memory;
mod pause;
mod references;
mod reset;
mod resume;
mod start;
mod stats;
mod stop;
mod touch;
mod traces;
mod view;
mod wake;
mod watch;

use anyhow::Result;

use view::Single;

use crate::cli::{Instance, Target};
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::hypervisor::{Detail, Domain, Facts};
use crate::instance::InstanceName;
use crate::state::lock::{self, Lock};

/// Runs a verb.
pub fn run(context: &Context, command: &Instance) -> Result<()> {
    match command {
        Instance::Create { target, start } => {
            answer(context, create::run(context, &target.name(), *start))
        }
        Instance::Start { target } => answer(context, start::run(context, &target.name())),
        Instance::Pause {
            target,
            keep_memory,
        } => answer(context, pause::run(context, &target.name(), *keep_memory)),
        Instance::Resume { target } => answer(context, resume::run(context, &target.name())),
        Instance::Console { target } => answer(context, console::run(context, &target.name())),
        Instance::Touch { target } => answer(context, touch::run(context, &target.name())),
        Instance::Stop {
            target,
            timeout,
            force,
        } => {
            let stopped = stop::run(context, &target.name(), *timeout, *force);
            answer(context, stopped)
        }
        Instance::Reset { target, yes } => {
            answer(context, reset::run(context, &target.name(), *yes))
        }
        Instance::Cleanup(options) => cleanup::run(context, options),
        Instance::Stats { lab, user, watch } => {
            let name = lab
                .clone()
                .zip(user.clone())
                .map(|(lab, user)| InstanceName { lab, user });
            match watch {
                Some(every) => watch::run(context, name.as_ref(), every.std()),
                None => stats::run(context, name.as_ref()),
            }
        }
        Instance::List { lab, user, state } => {
            list::run(context, lab.as_ref(), user.as_ref(), *state)
        }
    }
}

/// Tells how a verb on one instance went.
fn answer(context: &Context, instance: Result<Single>) -> Result<()> {
    context.output.answer(&instance?)
}

impl Target {
    fn name(&self) -> InstanceName {
        InstanceName {
            lab: self.lab.clone(),
            user: self.user.clone(),
        }
    }
}

/// Takes the lock of an instance: everything that changes one holds it.
fn lock(context: &Context, name: &InstanceName) -> Result<Lock> {
    Lock::take(
        &context.paths.instance_lock(name),
        &name.to_string(),
        lock::PATIENCE,
    )
}

/// The domain of an instance that must exist.
fn existing(context: &Context, name: &InstanceName) -> Result<Domain> {
    if let Some(domain) = context.hypervisor()?.find(name)? {
        return Ok(domain);
    }
    // Of a lab that is no longer configured there may be instances; of none there is not, and the
    // lab's name is likely mistyped.
    context.config.lab(&name.lab)?;
    Err(missing(name).into())
}

fn missing(name: &InstanceName) -> Fault {
    Fault::new(Kind::NotFound, format!("no instance {name}")).hint(format!(
        "make it: cyyber instance create {} {}",
        name.lab, name.user
    ))
}

/// Facts about a domain that was there a moment ago.
fn facts(domain: &Domain, name: &InstanceName) -> Result<Facts> {
    domain
        .facts(Detail::Power)?
        .ok_or_else(|| missing(name).into())
}
