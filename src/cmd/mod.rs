//! The verbs: one file each. A verb reads its target afresh, decides, acts, notes, and answers.

mod build;
mod cluster;
pub mod complete;
mod completions;
mod doctor;
pub mod instance;
mod metrics;
pub mod reap;
mod report;

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
        Command::Build(options) => {
            let context = of_all("cyyber build")?;
            match cluster::head(&context) {
                Some(_) if !options.dry_run => {
                    Err(cluster::elsewhere("images are built on a host"))
                }
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
        Command::Report(options) => report::run(&of_all("cyyber report")?, options),
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
        Command::Completions { shell } => completions::run(output, *shell),
    }
}
