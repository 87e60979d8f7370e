//! `cyyber reap`

mod report;

use anyhow::Result;

use crate::cli::Reap;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::reaper::{self, Options};

/// Runs a pass, and reports its failures.
pub fn run(context: &Context, options: &Reap) -> Result<()> {
    let options = Options {
        dry_run: options.dry_run,
        jobs: options.jobs.into(),
        timeout: options.timeout,
    };
    let report = reaper::run(context, options)?;
    context.output.answer(&report)?;
    for line in report.problems() {
        context.output.problem(&line);
    }
    if report.failed == 0 {
        return Ok(());
    }
    let kind = if report.all_unavailable() {
        Kind::Unavailable
    } else {
        Kind::Failed
    };
    let message = format!("{} of {} steps failed", report.failed, report.actions.len());
    let hint = "the next pass tries again";
    Err(Fault::new(kind, message).hint(hint).into())
}
