//! The verbs: one file each. A verb reads its target afresh, decides, acts, notes, and answers.

mod build;
mod completions;
pub mod instance;
mod journal;
pub mod reap;
mod side_by_side;

use anyhow::Result;

use crate::cli::{Cli, Command};
use crate::clock::Moment;
use crate::context::Context;
use crate::output::Output;

/// Runs a command that began at `now`.
pub fn run(cli: &Cli, output: &Output, now: Moment) -> Result<()> {
    let context = || Context::new(&cli.global, output.clone(), now);
    match &cli.command {
        Command::Build(options) => build::run(&context()?, options),
        Command::Instance(command) => instance::run(&context()?, command),
        Command::Reap(options) => reap::run(&context()?, options),
        Command::Completions { shell } => completions::run(output, *shell),
    }
}
