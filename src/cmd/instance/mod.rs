//! The verbs on instances.

mod access;
mod capacity;
pub(super) mod cleanup;
mod console;
mod create;
mod define;
pub(super) mod disk;
pub mod idle;
mod keep;
pub(super) mod list;
mod many;
mod memory;
pub mod own_user;
pub(super) mod pause;
pub(super) mod place;
pub(super) mod references;
mod reset;
mod resume;
pub(super) mod single;
mod start;
mod stats;
pub(super) mod stop;
mod suggest;
mod touch;
pub(super) mod traces;
pub(super) mod view;
pub(super) mod wake;
mod watch;

use anyhow::Result;

use super::journal;
use crate::cli::{Class, Instance, Target};
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::hypervisor::{Detail, Domain, Facts};
use crate::instance::InstanceName;
pub(super) use crate::reach::missing;
use crate::state::lock::{self, Lock};

/// Runs a verb.
pub fn run(context: &Context, command: &Instance) -> Result<()> {
    match command {
        Instance::Create {
            class,
            start: false,
        } => each(context, "create", class, create::run),
        Instance::Create { class, start: true } | Instance::Start { class } => {
            each(context, "start", class, start::run)
        }
        Instance::Pause { class, keep_memory } => each(context, "pause", class, |context, name| {
            pause::run(context, name, *keep_memory)
        }),
        Instance::Resume { class } => each(context, "resume", class, resume::run),
        Instance::Console { target } => context
            .output
            .answer(&console::run(context, &named(context, target)?)?),
        Instance::Touch { target } => one(context, "touch", &named(context, target)?, touch::run),
        Instance::Keep { target, until } => one(
            context,
            "keep",
            &named(context, target)?,
            |context, name| keep::run(context, name, until),
        ),
        Instance::Stop {
            class,
            timeout,
            force,
        } => each(context, "stop", class, |context, name| {
            stop::run(context, name, *timeout, *force)
        }),
        Instance::Reset { target, yes } => one(
            context,
            "reset",
            &named(context, target)?,
            |context, name| reset::run(context, name, *yes),
        ),
        Instance::Cleanup(options) => cleanup::run(context, options),
        Instance::Stats { lab, user, watch } => {
            let named = lab.as_ref().zip(user.as_ref());
            let name = named
                .map(|(lab, user)| context.instance(lab, user))
                .transpose()?;
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

/// Runs a verb on one instance, or on those of a whole class.
fn each(context: &Context, action: &str, class: &Class, verb: impl many::Verb) -> Result<()> {
    let lab = &class.lab;
    match (&class.user, &class.users_from) {
        (_, Some(file)) => many::run(context, lab, class, file, |context: &Context, name: &_| {
            journal::verb(context, action, name, || verb(context, name))
        }),
        (Some(user), None) => one(context, action, &context.instance(lab, user)?, verb),
        (None, None) => Err(Fault::new(Kind::Usage, "no user is named").into()),
    }
}

/// Runs a verb on one instance and tells how it went.
fn one(context: &Context, action: &str, name: &InstanceName, verb: impl many::Verb) -> Result<()> {
    let done = journal::verb(context, action, name, || verb(context, name))?;
    context.output.answer(&done)
}

fn named(context: &Context, target: &Target) -> Result<InstanceName> {
    context.instance(&target.lab, &target.user)
}

/// Takes the lock of an instance: everything that changes one holds it. One that is out of reach
/// has none.
pub(super) fn lock(context: &Context, name: &InstanceName) -> Result<Lock> {
    context.reach().check(name)?;
    Lock::take(
        &context.paths.instance_lock(name),
        &name.to_string(),
        lock::PATIENCE,
    )
}

/// The domain of an instance that must exist.
pub(super) fn existing(context: &Context, name: &InstanceName) -> Result<Domain> {
    if let Some(domain) = context.hypervisor()?.find(name)? {
        return Ok(domain);
    }
    // Of a lab that is no longer configured there may be instances; of none there is not, and the
    // lab's name is likely mistyped.
    context.config.lab(&name.lab)?;
    Err(suggest::unknown(context, name).into())
}

/// Facts about a domain that was there a moment ago.
pub(super) fn facts(domain: &Domain, name: &InstanceName) -> Result<Facts> {
    domain
        .facts(Detail::Power)?
        .ok_or_else(|| missing(name).into())
}
