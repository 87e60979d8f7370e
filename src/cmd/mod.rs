//! The verbs: one file each. A verb reads its target afresh, decides, acts, notes, and answers.

mod build;
pub mod complete;
mod completions;
mod doctor;
pub mod instance;
mod metrics;
pub mod reap;
mod report;
pub(crate) mod timetable;

use anyhow::Result;

use crate::cli::{Cli, Command};
use crate::clock::Moment;
use crate::context::Context;
use crate::gateway;
use crate::output::Output;

/// Runs a command that began at `now`.
pub fn run(cli: &Cli, output: &Output, now: Moment) -> Result<()> {
    let context = || Context::new(&cli.global, output.clone(), now);
    // For what is about the whole host.
    let of_all = |what: &str| -> Result<Context> {
        let context = context()?;
        context.require_everyone(what)?;
        Ok(context)
    };
    match &cli.command {
        Command::Build(options) => build::run(&of_all("cyyber build")?, options),
        Command::Instance(command) => instance::run(&context()?, command),
        Command::Reap(options) => reap::run(&of_all("cyyber reap")?, options),
        Command::Report(options) => report::run(&of_all("cyyber report")?, options),
        Command::Timetable(options) => timetable::run(&of_all("cyyber timetable")?, options),
        Command::Gateway(options) => gateway::run(&of_all("cyyber gateway")?, &cli.global, options),
        Command::Metrics(options) => metrics::run(&context()?, options),
        Command::Doctor(options) => doctor::run(&cli.global, output, now, options),
        Command::Completions { shell } => completions::run(output, *shell),
    }
}
