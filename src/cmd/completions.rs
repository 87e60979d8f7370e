//! `cyyber completions SHELL`

use anyhow::Result;
use clap::CommandFactory;

use crate::cli::Cli;
use crate::output::Output;

pub fn run(output: &Output, shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "cyyber", &mut script);
    output.raw(&script)
}
