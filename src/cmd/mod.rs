//! The commands, one file each. A command calls the engine and prints its answer.

mod build;
mod cluster;
pub mod complete;
mod doctor;
pub mod instance;
mod metrics;
pub mod reap;
mod report;
pub(crate) mod timetable;

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::cli::{Cli, Command};
use crate::clock::Moment;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::files;
use crate::gateway;
use crate::output::Output;

/// Runs a command that started at `now`.
pub fn run(cli: &Cli, output: &Output, now: Moment) -> Result<()> {
    let context = || Context::new(&cli.global, output.clone(), now);
    // For commands that act on the whole host.
    let of_all = |what: &str| -> Result<Context> {
        let context = context()?;
        context.require_everyone(what)?;
        Ok(context)
    };
    match &cli.command {
        Command::Build(options) => {
            let context = of_all("cyyber build")?;
            match cluster::head(&context) {
                Some(head) if !options.dry_run => cluster::build(&head, options),
                _ => build::run(&context, options),
            }
        }
        Command::Instance(command) => {
            let context = context()?;
            match cluster::head(&context) {
                Some(head) => cluster::instance(&head, command),
                None => instance::run(&context, command),
            }
        }
        Command::Reap(options) => {
            let context = of_all("cyyber reap")?;
            match cluster::head(&context) {
                Some(head) => cluster::reap(&head, options),
                None => reap::run(&context, options),
            }
        }
        Command::Report(options) => {
            let context = of_all("cyyber report")?;
            match cluster::head(&context) {
                Some(head) => cluster::report(&head, options),
                None => report::run(&context, options),
            }
        }
        Command::Timetable(options) => {
            let context = of_all("cyyber timetable")?;
            match cluster::head(&context) {
                Some(head) => timetable::of_hosts(&context, options, head.memory_mb()?),
                None => timetable::run(&context, options),
            }
        }
        Command::Gateway(options) => gateway::run(&of_all("cyyber gateway")?, &cli.global, options),
        Command::Host(command) => cluster::host(&of_all("cyyber host")?, command),
        Command::Metrics(options) => {
            let context = context()?;
            match cluster::head(&context) {
                Some(head) => cluster::metrics(&head, options),
                None => metrics::run(&context, options),
            }
        }
        Command::Doctor(options) => doctor::run(&cli.global, output, now, options),
        Command::Completions { shell } => output.raw(&complete::script(&shell.to_string())?),
    }
}

/// Writes `what` to a file that the user has named.
fn publish(path: &Path, what: &str, text: &str, mode: u32) -> Result<()> {
    files::publish(path, text.as_bytes(), mode).with_context(|| {
        let message = format!("failed to write {what} to {}", path.display());
        Fault::new(Kind::Failed, message).hint("name a file in an existing directory")
    })
}

/// Prints each failure, and returns an error with their number, worded by `whole`.
fn print_failures(
    context: &Context,
    failures: &[String],
    whole: impl FnOnce(usize) -> String,
    hint: &str,
) -> Result<()> {
    for failure in failures {
        context.output.problem(failure);
    }
    match failures.len() {
        0 => Ok(()),
        count => Err(Fault::new(Kind::Failed, whole(count)).hint(hint).into()),
    }
}
