//! `cyyber instance cleanup`

mod builds;

mod inactive;
mod report;
mod select;

use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Result, anyhow};
use jiff::Timestamp;

use crate::cli::Cleanup as Options;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::images::{self, base::Base};
use crate::instance::Instance;
use crate::instance::references::References;
use crate::instance::remains::Remains;
use crate::instance::status::StatusReader;
use crate::journal::{self, Entry};
use crate::names::{InstanceName, LabId, State};
use crate::parallel::side_by_side;
use crate::state::activity;
use inactive::{Inactive, Uses};
use report::{CleanupReport, Collected, Destroyed, Failed, Kept};
use select::{Filter, Inspected, Verdict};

/// How many instances are destroyed at once.
const AT_ONCE: usize = 4;

/// An instance that is to be destroyed.
struct Candidate {
    remains: Remains,
    state: Option<State>,
    reason: String,
}

/// What a cleanup is going to do.
struct CleanupPlan {
    made: Timestamp,
    candidates: Vec<Candidate>,
    builds: Vec<(LabId, Base)>,
}

pub fn run(context: &Context, options: &Options) -> Result<()> {
    let named = options.lab.as_ref().zip(options.user.as_ref());
    let named = named
        .map(|(lab, user)| context.instance(lab, user))
        .transpose()?;
    if let Some(user) = &options.of_user
        && !context.scope().covers_user(user)
    {
        let message = format!("there are no instances of {user}");
        return Err(Fault::new(Kind::NotFound, message).into());
    }
    let filter = Filter {
        lab: options.lab.as_ref().or(options.of_lab.as_ref()),
        user: options.user.as_ref().or(options.of_user.as_ref()),
        state: options.state,
        inactive_for: options.inactive_for,
    };
    let references = References::new(context);
    let mut report = CleanupReport::new(options.dry_run);
    let mut plan = plan(context, &filter, named.as_ref(), &references, &mut report)?;
    if options.dry_run {
        for Candidate {
            remains,
            state,
            reason,
        } in &plan.candidates
        {
            report.destroyed.push(Destroyed::new(
                &remains.name,
                *state,
                reason,
                remains.bytes(&context.paths),
            ));
        }
        report.builds = plan.builds.iter().map(collected).collect();
        return finish(context, report, named.is_some());
    }
    if !(options.yes || plan.candidates.is_empty() && plan.builds.is_empty()) {
        confirm(context, &plan)?;
    }
    let candidates = std::mem::take(&mut plan.candidates);
    destroy_all(
        context,
        &filter,
        &references,
        &plan,
        candidates,
        &mut report,
    )?;
    for (lab, build) in &plan.builds {
        let freed = collected(&(lab.clone(), build.clone()));
        match builds::collect(context, lab, build) {
            Ok(true) => report.builds.push(freed),
            Ok(false) => context
                .output
                .detail(&format!("{}: in use by now, kept", build.path.display())),
            Err(error) => context.output.warn(&format!("{error:#}")),
        }
    }
    finish(context, report, named.is_some())
}

/// Decides what goes; what stays although it was asked for goes into `report` at once.
fn plan(
    context: &Context,
    filter: &Filter,
    named: Option<&InstanceName>,
    references: &References,
    report: &mut CleanupReport,
) -> Result<CleanupPlan> {
    let made = context.time();
    let mut all = match named {
        Some(name) => Remains::find(context, name)?.into_iter().collect(),
        None => Remains::all(context)?,
    };
    all.retain(|remains| filter.names(&remains.name));
    if let (Some(lab), true) = (filter.lab, all.is_empty()) {
        // Nothing to do, unless the lab's name is mistyped.
        context.config.lab(lab)?;
    }
    let mut reader = StatusReader::new(context);
    let mut candidates = Vec::new();
    let inactive = inactive(context, filter, &all.iter().collect::<Vec<_>>());
    for (remains, inactive) in all.into_iter().zip(inactive) {
        let seen = look(context, &mut reader, &remains, inactive)?;
        let name = &remains.name;
        match filter.judge(&seen) {
            Verdict::Ignore => {}
            Verdict::Keep(reason) => report.kept.push(Kept::new(name, reason)),
            Verdict::Destroy(reason) => match remains.ensure_ours(context, references) {
                Err(error) => report.failed.push(Failed::new(name, error)),
                Ok(()) => candidates.push(Candidate {
                    state: seen.state,
                    reason,
                    remains,
                }),
            },
        }
    }
    let goes = |name: &InstanceName| candidates.iter().any(|going| going.remains.name == *name);
    // Base images are everybody's.
    let builds = match context.scope().only() {
        Some(_) => Vec::new(),
        None => builds::unused(context, filter.lab, goes).unwrap_or_else(|error| {
            context
                .output
                .warn(&format!("no old base image is removed: {error:#}"));
            Vec::new()
        }),
    };
    Ok(CleanupPlan {
        made,
        candidates,
        builds,
    })
}

/// For how long nobody used each of `all`, where that was asked for.
fn inactive(context: &Context, filter: &Filter, all: &[&Remains]) -> Vec<Option<Inactive>> {
    match filter.inactive_for {
        Some(limit) => {
            let inactive = Uses::new(context).inactive(all, limit);
            inactive.into_iter().map(Some).collect()
        }
        None => vec![None; all.len()],
    }
}

fn look(
    context: &Context,
    reader: &mut StatusReader,
    remains: &Remains,
    inactive: Option<Inactive>,
) -> Result<Inspected> {
    let half_destroyed = remains.half_destroyed;
    Ok(match &remains.facts {
        Some(facts) => {
            let status = reader.status(&remains.name, facts)?;
            Inspected {
                state: Some(status.state),
                reason: if remains.overlay {
                    status.reason
                } else {
                    "a VM without a disk".to_owned()
                },
                last_activity: status.last_activity,
                inactive,
                half_destroyed,
            }
        }
        None => Inspected {
            state: None,
            reason: remains.leftover().to_owned(),
            last_activity: activity::last(&context.paths.activity(&remains.name)),
            inactive,
            half_destroyed,
        },
    })
}

/// Asks the person at the terminal; anything but a yes ends the command.
fn confirm(context: &Context, plan: &CleanupPlan) -> Result<()> {
    let going = plan.candidates.iter();
    let mut lines: Vec<String> = going
        .map(|going| {
            let state = going.state.map_or("", State::as_str);
            format!("{}  {state}  {}", going.remains.name, going.reason)
        })
        .collect();
    lines.extend(
        plan.builds
            .iter()
            .map(|(lab, base)| format!("{lab}  build {}  nothing stands on it", base.build)),
    );
    let question = match (plan.candidates.len(), plan.builds.len()) {
        (0, _) => "Remove these base images?".to_owned(),
        (1, _) => "Destroy this instance and its disk?".to_owned(),
        (n, _) => format!("Destroy these {n} instances and their disks?"),
    };
    context
        .output
        .confirm(&lines, &question, context.interrupted()?)
}

fn destroy_all(
    context: &Context,
    filter: &Filter,
    references: &References,
    plan: &CleanupPlan,
    candidates: Vec<Candidate>,
    report: &mut CleanupReport,
) -> Result<()> {
    if candidates.is_empty() {
        return Ok(());
    }
    let stop = context.interrupted()?;
    let progress = context.output.progress(candidates.len());
    let results = side_by_side(&candidates, AT_ONCE, |candidate| {
        let result = if stop.load(Ordering::Relaxed) {
            Err(anyhow!("interrupted before it was its turn"))
        } else {
            let (name, began) = (&candidate.remains.name, Instant::now());
            let context = context.beside();
            let destroyed = destroy_one(&context, filter, references, plan, name);
            note(&context, candidate, began, &destroyed);
            destroyed
        };
        progress.inc(1);
        result
    });
    progress.finish_and_clear();
    for (candidate, result) in candidates.iter().zip(results) {
        let name = &candidate.remains.name;
        match result {
            Ok(Some(bytes)) => {
                let (state, reason) = (candidate.state, &candidate.reason);
                let destroyed = Destroyed::new(name, state, reason, bytes);
                report.destroyed.push(destroyed);
            }
            Ok(None) => {
                let reason = "it was used since this command began".to_owned();
                report.kept.push(Kept::new(name, reason));
            }
            Err(error) => report.failed.push(Failed::new(name, error)),
        }
    }
    Ok(())
}

/// Destroys `name` if that is still what was asked for; the bytes that this freed.
fn destroy_one(
    context: &Context,
    filter: &Filter,
    references: &References,
    plan: &CleanupPlan,
    name: &InstanceName,
) -> Result<Option<u64>> {
    let vm = Instance::lock(context, name)?;
    let Some(remains) = Remains::find(context, name)? else {
        // Another cleanup was faster.
        return Ok(Some(0));
    };
    let inactive = inactive(context, filter, &[&remains]).pop().flatten();
    let seen = look(context, &mut StatusReader::new(context), &remains, inactive)?;
    let used_since = seen.last_activity.is_some_and(|at| at > plan.made);
    if used_since || !matches!(filter.judge(&seen), Verdict::Destroy(_)) {
        return Ok(None);
    }
    let bytes = remains.bytes(&context.paths);
    vm.destroy(&remains, references)?;
    Ok(Some(bytes))
}

/// Writes down what became of `candidate`.
fn note(context: &Context, candidate: &Candidate, began: Instant, destroyed: &Result<Option<u64>>) {
    let name = &candidate.remains.name;
    match destroyed {
        Ok(Some(_)) => {
            let entry = Entry {
                action: "cleanup",
                from: candidate.state,
                to: None,
                ok: true,
                reason: &candidate.reason,
            };
            journal::write(context, name, began, &entry);
        }
        Ok(None) => {}
        Err(error) => journal::failure(context, "cleanup", name, began, candidate.state, error),
    }
}

fn collected((lab, base): &(LabId, Base)) -> Collected {
    Collected::new(lab, base, images::allocated(&base.path).unwrap_or(0))
}

/// Tells how it went. The failure of a single instance that was asked for is the command's own.
fn finish(context: &Context, mut report: CleanupReport, single: bool) -> Result<()> {
    report.add_up();
    if single && let Some(failed) = report.failed.pop() {
        return Err(failed.into_error());
    }
    context.output.answer(&report)?;
    for failed in &report.failed {
        context.output.problem(&failed.text());
    }
    match report.failed.len() {
        0 => Ok(()),
        n => Err(Fault::new(
            Kind::Failed,
            format!(
                "{n} of {} instances were not destroyed",
                n + report.destroyed.len()
            ),
        )
        .hint("mend that, then give the same command again: it goes on with what is left")
        .into()),
    }
}
