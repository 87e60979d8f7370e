//! `cyyber reap`

mod pass;
mod report;
mod step;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::cli::Reap;
use crate::context::Context;
use crate::error::{Fault, Kind, kind_of};
use crate::state::lock::Lock;
use report::Report;

/// How often it is looked whether libvirt still answers while a pass waits for it.
const INTERVAL: Duration = Duration::from_secs(5);

/// How long libvirt may take for the simplest answer.
const ANSWER: Duration = Duration::from_secs(20);

/// How long it may take to see which instances there are.
const LONGEST_SURVEY: Duration = Duration::from_secs(60);

/// How long a single step may take; the memory of a very large guest is saved in less.
const LONGEST_STEP: Duration = Duration::from_secs(15 * 60);

/// Makes a pass, unless another one is at work.
pub fn run(context: &Context, options: &Reap) -> Result<()> {
    // Before there are threads that a signal could end.
    context.interrupted()?;
    let _lock = match options.dry_run {
        true => None,
        false => match alone(context)? {
            Some(lock) => Some(lock),
            None => {
                context
                    .output
                    .detail("another pass is at work: nothing to do");
                return context.output.answer(&Report::new(false));
            }
        },
    };
    finish(context, watched(context, options)?)
}

/// The lock of the pass, unless another one has it.
fn alone(context: &Context) -> Result<Option<Lock>> {
    let path = context.paths.reaper_lock();
    match Lock::take(&path, "the reaper", Duration::ZERO) {
        Err(error) if kind_of(&error) == Kind::Busy => Ok(None),
        taken => taken.map(Some),
    }
}

/// Makes a pass, and gives it up when libvirt hangs: the next one must not wait behind it.
fn watched(context: &Context, options: &Reap) -> Result<Report> {
    let progress = Arc::new(AtomicUsize::new(0));
    let (sender, ended) = channel();
    let worker = context.beside().as_reaper();
    let pass = pass::Pass {
        dry_run: options.dry_run,
        jobs: options.jobs.into(),
        timeout: options.timeout,
        progress: Arc::clone(&progress),
    };
    std::thread::spawn(move || sender.send(pass.run(&worker)));
    let mut last = (0, Instant::now());
    loop {
        match ended.recv_timeout(INTERVAL) {
            Ok(report) => return report,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(anyhow!("the pass broke off: this is a fault in cyyber"));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        let so_far = progress.load(Ordering::Relaxed);
        if so_far != last.0 {
            last = (so_far, Instant::now());
        }
        let longest = match so_far {
            0 => LONGEST_SURVEY,
            _ => LONGEST_STEP,
        };
        if !context.libvirt_answers(ANSWER) || last.1.elapsed() > longest {
            return Err(Fault::new(
                Kind::Unavailable,
                "libvirt does not answer: the pass was given up",
            )
            .hint(format!(
                "look at libvirt: systemctl status {}; the next pass goes on with what is left",
                crate::host::libvirt_unit()
            ))
            .into());
        }
    }
}

/// Tells how it went.
fn finish(context: &Context, report: Report) -> Result<()> {
    context.output.answer(&report)?;
    for line in report.problems() {
        context.output.problem(&line);
    }
    match report.failed {
        0 => Ok(()),
        n => {
            let message = format!("{n} of {} steps failed", report.actions.len());
            let kind = match report.all_unavailable() {
                true => Kind::Unavailable,
                false => Kind::Failed,
            };
            Err(Fault::new(kind, message)
                .hint("the next pass tries again")
                .into())
        }
    }
}
