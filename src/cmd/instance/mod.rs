//! Commands on instances.

mod cleanup;
mod exec;
mod list;
pub(crate) mod many;
pub(crate) mod screens;
mod single;
mod stats;
pub mod transfer;
pub(crate) mod watch;

use anyhow::Result;
use jiff::Timestamp;

use crate::cli::{Class, Instance as Command, Target};
use crate::context::Context;
use crate::env;
use crate::error::{Fault, Kind};
use crate::instance::outcome::{Outcome, noted};
use crate::instance::{Instance, console_path, ready, resettable, touch};
use crate::names::{InstanceName, LabId, UserId};
use crate::reaper::forecast::Forecast;
use crate::reaper::pressure;
use crate::state::token::Access;
use crate::units::{Duration, Until, latest};

/// Runs a command on instances.
pub fn run(context: &Context, command: &Command) -> Result<()> {
    match command {
        Command::Create {
            class,
            start: false,
        } => each(context, "create", class, None, |vm| vm.create()),
        Command::Create { class, start: true } => {
            each(context, "start", class, None, |vm| vm.start())
        }
        Command::Start { class, wait } => each(context, "start", class, wait.wait, |vm| vm.start()),
        Command::Pause { class, keep_memory } => {
            each(context, "pause", class, None, |vm| vm.pause(*keep_memory))
        }
        Command::Resume { class, wait } => {
            each(context, "resume", class, wait.wait, |vm| vm.resume())
        }
        Command::Stop {
            class,
            timeout,
            force,
        } => each(context, "stop", class, None, |vm| vm.stop(*timeout, *force)),
        Command::Console {
            target,
            path_only,
            view,
        } => {
            let name = context.instance(&target.lab, &target.user)?;
            let mut opened = match (path_only, view) {
                (_, true) => console_path(context, &name, Access::View)?,
                (true, false) => console_path(context, &name, Access::Control)?,
                (false, false) => Instance::lock(context, &name)?.open_console()?,
            };
            Forecast::new(context).add(&mut opened.status);
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
        Command::Exec {
            class,
            wake,
            timeout,
            command,
        } => exec::run(context, class, *wake, *timeout, command),
        Command::Push(options) => transfer::push(context, options),
        Command::Collect {
            class,
            from,
            to,
            bounds,
        } => transfer::collect(context, class, &transfer::collection(from, to, bounds)?),
        Command::Cleanup(options) => cleanup::run(context, options),
        Command::Stats { lab, user, watch } => {
            let name = named(context, lab, user)?;
            match watch {
                Some(every) => watch::run(context, name.as_ref(), every.std()),
                None => stats::run(context, name.as_ref()),
            }
        }
        Command::Screens(options) => screens::run(context, options),
        Command::List { lab, user, state } => {
            list::run(context, lab.as_ref(), user.as_ref(), *state)
        }
    }
}

/// Runs an operation on one instance, or on those of a whole class, each under its lock. If `wait`
/// is set, waits until each guest is ready, at most that long.
fn each(
    context: &Context,
    action: &str,
    class: &Class,
    wait: Option<Duration>,
    verb: impl Fn(Instance) -> Result<Outcome> + Sync,
) -> Result<()> {
    let verb = |context: &Context, name: &InstanceName| {
        let done = acted(context, action, name, || {
            verb(Instance::lock(context, name)?)
        })?;
        match wait {
            // The change is in the journal already.
            Some(limit) => acted(context, action, name, || {
                ready::wait(context, name, &done, limit.std())
            }),
            None => Ok(done),
        }
    };
    let mut all = many::of_class(context, class, verb)?;
    match all.pop() {
        Some((_, done)) if class.users_from.is_none() => context.output.answer(&done?),
        last => many::report(context, all.into_iter().chain(last).collect()),
    }
}

/// Runs an operation on one instance and prints the outcome.
fn one(
    context: &Context,
    action: &str,
    target: &Target,
    verb: impl Fn(&Context, &InstanceName) -> Result<Outcome>,
) -> Result<()> {
    let name = context.instance(&target.lab, &target.user)?;
    let done = acted(context, action, &name, || verb(context, &name))?;
    context.output.answer(&done)
}

/// The named instance, if any.
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

/// The end of the exemption according to `--until`; `None` for off.
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

/// Asks for confirmation to reset `name`, unless `yes` is set.
fn confirm_reset(context: &Context, name: &InstanceName, yes: bool) -> Result<()> {
    context.config.lab(&name.lab)?;
    resettable(context, name)?;
    if !yes {
        let lines = [format!(
            "{name} gets a clean disk on the current base image: everything in it is lost"
        )];
        context.confirm(&lines, "Reset it?")?;
    }
    Ok(())
}

/// Runs the operation `action` on an instance, makes room for it if memory is short, and writes its
/// change or failure to the journal. The result includes the next step of the idle policy.
fn acted(
    context: &Context,
    action: &str,
    name: &InstanceName,
    verb: impl Fn() -> Result<Outcome>,
) -> Result<Outcome> {
    let with_room = || pressure::with_room(context, name, verb);
    let mut done = noted(context, action, name, with_room)?;
    Forecast::new(context).add(&mut done.status);
    Ok(done)
}
