//! `cyyber build`

mod common;
mod directory;
mod one;
mod plan;
mod progress;
mod report;
mod stage;
mod warm;

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Result;

use crate::cli::Build;
use crate::config::{Lab, untrusted};
use crate::context::Context;
use crate::error::Fault;
use crate::files::{self, trust::Refusal};
use crate::images::stages;
use crate::inputs::Why;
use crate::interrupt;
use crate::journal;
use crate::names::LabId;
use crate::packer::templates::Templates;
use crate::packer::{self, Packer, archive};
use crate::parallel::side_by_side;
use crate::process::Program;
use common::Common;
use plan::{Plan, PlannedLab, PlannedStage};
use report::Outcome;

pub fn run(context: &Context, options: &Build) -> Result<()> {
    // Before the first program runs: Packer and QEMU take a moment to print their versions.
    let stop = interrupt::flag()?;
    let labs = chosen(context, &options.labs)?;
    let (packer, qemu) = if options.dry_run {
        // Nothing runs: without Packer, render for the version that people install today.
        (Packer::find().ok(), packer::qemu_version().ok())
    } else {
        let found = (Some(Packer::find()?), Some(packer::qemu_version()?));
        Program::find("qemu-img", "qemu-utils")?;
        found
    };
    let common = Common {
        context,
        accelerator: context.accelerator()?,
        packer,
        qemu,
        templates: templates(context)?,
        dry_run: options.dry_run,
        force: options.force,
        stop,
        running: Mutex::new(0),
    };
    files::make_directory(context.paths.output(), directory::PUBLIC_DIRECTORY)?;
    let plan = Plan::make(&common, &labs);
    warn_of_unknown_packages(&common, &plan);
    let results = work_off(&common, &plan, usize::from(options.jobs));
    let settled = plan.complete && !common.stop.load(Ordering::Relaxed);
    if !options.dry_run
        && settled
        && let Err(error) = common.collect_stages(&plan)
    {
        let text = format!("failed to remove unused stages: {error:#}");
        context.output.warn(&text);
    }
    report::give(context, plan, results)
}

/// A task.
enum Work<'p, 'a> {
    Stage(&'p PlannedStage<'a>),
    Lab(&'p PlannedLab<'a>),
}

/// Carries out the plan, `jobs` at a time, and returns the results of the planned labs, in their
/// order. Stages are first, so a lab that waits for its stage never blocks it.
fn work_off(common: &Common, plan: &Plan, jobs: usize) -> Vec<Result<Outcome>> {
    let labs = plan.labs.iter().filter_map(|(_, lab)| lab.as_ref().ok());
    let stages = plan.stages_of(|lab| common.dry_run || lab.why != Why::Unchanged);
    let stages = stages.into_iter().map(Work::Stage);
    let work: Vec<Work> = stages.chain(labs.map(Work::Lab)).collect();
    let done = side_by_side(&work, jobs, |work| match work {
        Work::Stage(stage) if common.dry_run => {
            // Its error is reported where it is built.
            let _ = common.stage_rendered(stage);
            None
        }
        Work::Stage(stage) => {
            let made = common.stage(stage);
            let _ = stage.done.set(made.map_err(|error| Fault::of(&error)));
            None
        }
        Work::Lab(lab) if common.dry_run => Some(common.rendered(plan, lab)),
        Work::Lab(lab) => {
            let began = Instant::now();
            let built = common.build(plan, lab);
            note(common.context, lab.lab, began, &built);
            Some(built)
        }
    });
    done.into_iter().flatten().collect()
}

/// Reports early that a package is not in the archive of the image's release, according to this
/// host's package lists; the build would only notice after the stage.
fn warn_of_unknown_packages(common: &Common, plan: &Plan) {
    for (lab, planned) in &plan.labs {
        let Ok(planned) = planned else { continue };
        let there = plan
            .stage_of(planned)
            .is_ok_and(|stage| stages::find(&common.context.paths, &stage.key).is_some());
        if there || planned.why == Why::Unchanged {
            continue;
        }
        let warn = |text: String| {
            common
                .context
                .output
                .warn(&format!("{}: {text}", lab.lab_id))
        };
        match archive::unknown_here(lab) {
            Ok(unknown) => {
                let lists = "according to this host's package lists, which may be outdated";
                unknown.iter().for_each(|it| warn(format!("{lists}, {it}")));
            }
            Err(error) => {
                let what = "failed to look up its packages in this host's package lists";
                warn(format!("{what}: {error:#}"));
            }
        }
    }
}

/// Writes to the journal whether `lab` was built. Rendering alone is not recorded.
fn note(context: &Context, lab: &Lab, began: Instant, built: &Result<Outcome>) {
    match built {
        Ok(outcome) if outcome.result == "built" => {
            journal::done(context, "build", &lab.lab_id, began, None, None, "built");
        }
        Ok(_) => {}
        Err(error) => journal::failure(context, "build", &lab.lab_id, began, None, error),
    }
}

/// The labs with these ids, each once; all labs if no ids are given.
fn chosen<'a>(context: &'a Context, ids: &[LabId]) -> Result<Vec<&'a Lab>> {
    if ids.is_empty() {
        return Ok(context.config.labs.iter().collect());
    }
    let mut seen = HashSet::new();
    let ids = ids.iter().filter(|id| seen.insert(*id));
    ids.map(|id| context.config.lab(id)).collect()
}

/// The templates to build from. An instructor's templates control Packer, so they must be as
/// trustworthy as the configuration.
fn templates(context: &Context) -> Result<Templates> {
    let own = context.config.host.templates_dir.as_deref();
    if let Some(own) = own
        && let Err(refusal @ Refusal::Untrusted(_)) = context.trust.ensure_tree(own)
    {
        return Err(untrusted(refusal, own));
    }
    Templates::load(own)
}
