//! `cyyber completions SHELL`

use anyhow::Result;
use clap::ValueEnum;

use super::complete;
use crate::output::Output;

pub fn run(output: &Output, shell: clap_complete::Shell) -> Result<()> {
    let name = shell.to_possible_value();
    output.raw(&complete::script(
        name.as_ref().map_or("", |name| name.get_name()),
    )?)
}
