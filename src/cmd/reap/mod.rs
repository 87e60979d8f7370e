//! `cyyber reap`

mod report;

use anyhow::Result;

use crate::cli::Reap;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::reaper::{self, Options};

/// Makes a pass, and tells how it went.
pub fn run(context: &Context, options: &Reap) -> Result<()> {
    let report = reaper::run(
        context,
        Options {
            dry_run: options.dry_run,
            jobs: options.jobs.into(),
            timeout: options.timeout,
        },
    )?;
    context.output.answer(&report)?;
    for line in report.problems() {
        context.output.problem(&line);
    }
    match report.failed {
        0 => Ok(()),
        n => {
            let message = format!("{n} of {} steps failed", report.actions.len());
            let kind = if report.all_unavailable() {
                Kind::Unavailable
            } else {
                Kind::Failed
            };
            Err(Fault::new(kind, message)
                .hint("the next pass tries again")
                .into())
        }
    }
}
