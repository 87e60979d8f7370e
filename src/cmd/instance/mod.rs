//! The verbs on instances.

mod cleanup;
mod list;
mod many;
mod single;
mod stats;
mod watch;

use std::time::Instant;

use anyhow::Result;
use jiff::Timestamp;

use crate::cli::{Class, Instance as Command, Target};
use crate::context::Context;
use crate::env;
use crate::error::{Fault, Kind};
use crate::instance::outcome::Outcome;
use crate::instance::{Instance, resettable, touch};
use crate::journal;
use crate::names::{InstanceName, LabId, UserId};
use crate::units::{Until, latest};

/// Runs a verb.
pub fn run(context: &Context, command: &Command) -> Result<()> {
    match command {
        Command::Create {
            class,
            start: false,
        } => each(context, "create", class, |vm| vm.create()),
        Command::Create { class, start: true } | Command::Start(class) => {
            each(context, "start", class, |vm| vm.start())
        }
        Command::Pause { class, keep_memory } => {
            each(context, "pause", class, |vm| vm.pause(*keep_memory))
        }
        Command::Resume(class) => each(context, "resume", class, |vm| vm.resume()),
        Command::Stop {
            class,
            timeout,
            force,
        } => each(context, "stop", class, |vm| vm.stop(*timeout, *force)),
        Command::Console(target) => {
            let name = context.instance(&target.lab, &target.user)?;
            let opened = Instance::lock(context, &name)?.open_console()?;
            context.output.answer(&opened)
        }
        Command::Touch(target) => one(context, "touch", target, touch),
        Command::Keep { target, until } => one(context, "keep", target, |context, name| {
            let until = end_of_keep(context, until)?;
            Instance::lock(context, name)?.keep(until)
        }),
        Command::Reset { target, yes } => one(context, "reset", target, |context, name| {
            confirm_reset(context, name, *yes)?;
            Instance::lock(context, name)?.reset()
        }),
        Command::Cleanup(options) => cleanup::run(context, options),
        Command::Stats { lab, user, watch } => {
            let name = named(context, lab, user)?;
            match watch {
                Some(every) => watch::run(context, name.as_ref(), every.std()),
                None => stats::run(context, name.as_ref()),
            }
        }
        Command::List { lab, user, state } => {
            list::run(context, lab.as_ref(), user.as_ref(), *state)
        }
    }
}

/// Runs a verb on one instance, or on those of a whole class, each under its lock.
fn each(
    context: &Context,
    action: &str,
    class: &Class,
    verb: impl Fn(Instance) -> Result<Outcome> + Sync,
) -> Result<()> {
    let verb = |context: &Context, name: &InstanceName| verb(Instance::lock(context, name)?);
    match (&class.user, &class.users_from) {
        (_, Some(file)) => many::run(context, class, file, |context: &Context, name: &_| {
            noted(context, action, name, || verb(context, name))
        }),
        (Some(user), None) => {
            let (lab, user) = (class.lab.clone(), user.clone());
            one(context, action, &Target { lab, user }, verb)
        }
        (None, None) => Err(Fault::new(Kind::Usage, "no user is named").into()),
    }
}

/// Runs a verb on one instance and tells how it went.
fn one(
    context: &Context,
    action: &str,
    target: &Target,
    verb: impl Fn(&Context, &InstanceName) -> Result<Outcome>,
) -> Result<()> {
    let name = context.instance(&target.lab, &target.user)?;
    let done = noted(context, action, &name, || verb(context, &name))?;
    context.output.answer(&done)
}

/// The instance that is named, if one is.
fn named(
    context: &Context,
    lab: &Option<LabId>,
    user: &Option<UserId>,
) -> Result<Option<InstanceName>> {
    let named = lab.as_ref().zip(user.as_ref());
    named
        .map(|(lab, user)| context.instance(lab, user))
        .transpose()
}

/// Until when `--until` asks for an exemption; `None` for no longer.
fn end_of_keep(context: &Context, until: &Until) -> Result<Option<Timestamp>> {
    let now = context.time();
    let until = match until {
        Until::Off => return Ok(None),
        Until::At(at) => *at,
        Until::Local(local) => latest(*local, &env::time_zone()?)
            .map_err(|why| Fault::new(Kind::Usage, format!("bad --until: {why}")))?,
        Until::For(length) => now + length.0,
    };
    if until <= now {
        let message = format!("--until is in the past: {until:.0}");
        return Err(Fault::new(Kind::Usage, message)
            .hint("give a time in the future, for example 2h, 3d or 2027-01-31T18:00:00Z")
            .into());
    }
    Ok(Some(until))
}

/// Asks whether `name` is to be reset, unless that is a `yes` already.
fn confirm_reset(context: &Context, name: &InstanceName, yes: bool) -> Result<()> {
    context.config.lab(&name.lab)?;
    resettable(context, name)?;
    if !yes {
        let lines = [format!(
            "{name} gets a clean disk on the current base image: everything in it is lost"
        )];
        let stop = context.interrupted()?;
        context.output.confirm(&lines, "Reset it?", stop)?;
    }
    Ok(())
}

/// Runs the verb `action` on an instance, and writes down what it changed, or that it failed.
fn noted(
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
                journal::done(context, action, name, began, from, Some(to), reason);
            }
        }
        Err(error) => journal::failure(context, action, name, began, None, error),
    }
    done
}
