//! `cyyber completions SHELL`

use anyhow::Result;

use super::complete;
use crate::output::Output;

pub fn run(output: &Output, shell: clap_complete::Shell) -> Result<()> {
    output.raw(&complete::script(&shell.to_string())?)
}
