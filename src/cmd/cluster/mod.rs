//! Commands on the head: each runs on the host of its instance, by the same program there, or on
//! all hosts.

mod all;
mod arguments;
mod build;
mod drain;
mod head;
mod hosts;
mod many;
mod merged;
mod report;
mod screens;
mod stats;
mod transfer;

use anyhow::Result;

use crate::cli::Instance as Command;
use crate::cluster::Place;
use crate::cmd::instance::transfer::collection;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::names::InstanceName;

pub use head::Head;

/// The head, if this machine is a head.
pub fn head(context: &Context) -> Option<Head<'_>> {
    match context.place()? {
        Place::Head(cluster) => Some(Head::new(context, cluster)),
        Place::Host(..) => None,
    }
}

/// Runs a command on the hosts of its instances.
pub fn instance(head: &Head, command: &Command) -> Result<()> {
    let context = head.context;
    match command {
        Command::List { lab, user, state } => all::list(head, lab.as_ref(), user.as_ref(), *state),
        Command::Stats { lab, user, watch } => {
            let name = lab.as_ref().zip(user.as_ref());
            let name = name.map(|(lab, user)| context.instance(lab, user));
            match (name.transpose()?, watch) {
                (name, Some(every)) => stats::watch(head, name.as_ref(), every.std()),
                (Some(name), None) => head.one(command, &name),
                (None, None) => stats::run(head),
            }
        }
        Command::Screens(options) => screens::run(head, options),
        Command::Push(options) => transfer::push(head, options),
        Command::Collect {
            class,
            from,
            to,
            bounds,
        } => transfer::collect(head, class, &collection(from, to, bounds)?),
        Command::Cleanup(options) if options.user.is_none() => all::cleanup(head, options),
        _ => match arguments::target(command) {
            Some((lab, Some(user))) => {
                let name = context.instance(lab, user)?;
                confirm(head, command, &name)?;
                head.one(command, &name)
            }
            Some((_, None)) => many::run(head, command),
            None => Err(elsewhere("it has no such command")),
        },
    }
}

/// Runs a command that is about whole hosts on every host.
pub use all::{metrics, reap};
pub use build::run as build;
pub use report::run as report;

/// Runs a command on hosts.
pub use hosts::run as host;

/// Asks for confirmation as the host would: there is no terminal there.
fn confirm(head: &Head, command: &Command, name: &InstanceName) -> Result<()> {
    let (what, question) = match command {
        Command::Reset { yes: false, .. } => (
            format!("{name} gets a clean disk on the current base image: everything in it is lost"),
            "Reset it?",
        ),
        Command::Cleanup(options) if !options.yes && !options.dry_run => (
            format!("{name} and its disk are destroyed: everything in it is lost"),
            "Destroy it?",
        ),
        _ => return Ok(()),
    };
    head.context.confirm(&[what], question)
}

/// The error for what a head cannot do.
pub fn elsewhere(what: &str) -> anyhow::Error {
    let hint = "run it on the host, which `cyyber instance list` names";
    Fault::new(Kind::Conflict, format!("{what}, and this is the head"))
        .hint(hint)
        .into()
}
