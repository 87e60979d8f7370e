//! Applies the idle policy: finds unused instances and acts on them.
//!
//! A pass observes all instances ([`observer`]), decides about each ([`policy`]), and takes one
//! step with those that are due (`step`), through the same operations of [`crate::instance`] that
//! commands use.

mod bring_up;
pub(crate) mod forecast;
mod in_class;
mod lead_time;
mod leases;
pub mod lessons;
mod notice;
pub(crate) mod observer;
mod own;
mod pass;
pub mod passes;
pub mod policy;
pub mod pressure;
pub(crate) mod report;
pub mod signals;
mod step;
pub(crate) mod viewers;
mod warning;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::context::Context;
use crate::error::{Fault, Kind, kind_of};
use crate::host;
use crate::state::lock::Lock;
use crate::units;
use report::PassReport;

/// How often to check whether libvirt still answers while a pass waits for it.
const INTERVAL: Duration = Duration::from_secs(5);

/// How long libvirt may take for the simplest answer.
const ANSWER: Duration = Duration::from_secs(20);

/// How long listing the instances may take.
const LONGEST_SURVEY: Duration = Duration::from_secs(60);

/// How long a single step may take; enough to save the memory of a very large guest.
const LONGEST_STEP: Duration = Duration::from_secs(15 * 60);

/// The options of a pass.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Nothing is done.
    pub dry_run: bool,
    /// How many steps run in parallel.
    pub jobs: usize,
    /// How long a guest may take to shut down.
    pub timeout: units::Duration,
}

/// Runs a pass, unless another one is running.
pub(crate) fn run(context: &Context, options: Options) -> Result<PassReport> {
    // Before there are threads that could receive the signal.
    context.interrupted()?;
    if options.dry_run {
        return watched(context, options);
    }
    let Some(_lock) = alone(context)? else {
        let output = &context.output;
        output.detail("another pass is running: nothing to do");
        return Ok(PassReport::new(false));
    };
    watched(context, options)
}

/// The lock of the pass, unless another pass holds it.
fn alone(context: &Context) -> Result<Option<Lock>> {
    let path = context.paths.reaper_lock();
    match Lock::take(&path, "the reaper", Duration::ZERO) {
        Err(error) if kind_of(&error) == Kind::Busy => Ok(None),
        taken => taken.map(Some),
    }
}

/// Runs a pass, and aborts it if libvirt hangs, so that the next one does not wait for it.
fn watched(context: &Context, options: Options) -> Result<PassReport> {
    let progress = Arc::new(AtomicUsize::new(0));
    let (sender, ended) = channel();
    let worker = context.for_worker().acting_as("reap");
    let pass = pass::Pass {
        options,
        progress: Arc::clone(&progress),
    };
    std::thread::spawn(move || sender.send(pass.run(&worker)));
    let mut last = (0, Instant::now());
    loop {
        match ended.recv_timeout(INTERVAL) {
            Ok(report) => return report,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(anyhow!("the pass was aborted: this is a bug in cyyber"));
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
            let unit = host::libvirt_unit();
            let message = "libvirt does not answer: the pass was aborted";
            let hint = format!("check libvirt: systemctl status {unit}; the next pass continues");
            return Err(Fault::new(Kind::Unavailable, message).hint(hint).into());
        }
    }
}
