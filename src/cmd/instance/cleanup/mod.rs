//! `cyyber instance cleanup`

mod builds;
mod inactive;
mod report;
mod select;

use std::time::Instant;

use anyhow::Result;
use jiff::Timestamp;

use super::many::side_by_side;
use crate::cli::Cleanup as Options;
use crate::cmd::print_failures;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::images::{self, base::Base};
use crate::instance::Instance;
use crate::instance::references::References;
use crate::instance::remains::Remains;
use crate::instance::status::StatusReader;
use crate::journal;
use crate::names::{InstanceName, LabId, State};
use crate::state::activity;
use inactive::{Inactive, Uses};
use report::{CleanupReport, Collected, Destroyed, Failed, Kept};
use select::{Filter, Inspected, Verdict};

/// How many instances are destroyed at once.
const AT_ONCE: usize = 4;

/// An instance to destroy.
struct Candidate {
    remains: Remains,
    state: Option<State>,
    reason: String,
}

/// The plan of a cleanup.
struct CleanupPlan {
    candidates: Vec<Candidate>,
    builds: Vec<(LabId, Base)>,
}

/// A cleanup with its options.
struct Cleanup<'a> {
    context: &'a Context,
    filter: Filter<'a>,
    references: References<'a>,
    began: Timestamp,
}

pub fn run(context: &Context, options: &Options) -> Result<()> {
    let named = super::named(context, &options.lab, &options.user)?;
    if let Some(user) = &options.of_user
        && !context.scope().covers_user(user)
    {
        let message = format!("there are no instances of {user}");
        return Err(Fault::new(Kind::NotFound, message).into());
    }
    let cleanup = Cleanup {
        context,
        filter: Filter {
            lab: options.lab.as_ref().or(options.of_lab.as_ref()),
            user: options.user.as_ref().or(options.of_user.as_ref()),
            state: options.state,
            inactive_for: options.inactive_for,
        },
        references: References::new(context),
        began: context.time(),
    };
    let mut report = CleanupReport {
        dry_run: options.dry_run,
        ..CleanupReport::default()
    };
    let plan = cleanup.plan(named.as_ref(), &mut report)?;
    if options.dry_run {
        let bytes = |going: &Candidate| going.remains.bytes(&context.paths);
        let going = plan.candidates.iter();
        report.destroyed = going.map(|it| it.destroyed(bytes(it))).collect();
        report.builds = plan.builds.iter().map(collected).collect();
        return finish(context, report, named.is_some());
    }
    if !(options.yes || plan.candidates.is_empty() && plan.builds.is_empty()) {
        confirm(context, &plan)?;
    }
    cleanup.destroy_all(&plan.candidates, &mut report)?;
    for build in &plan.builds {
        let (freed, (lab, base)) = (collected(build), build);
        match builds::collect(context, lab, base) {
            Ok(true) => report.builds.push(freed),
            Ok(false) => context
                .output
                .detail(&format!("{}: in use again, kept", base.path.display())),
            Err(error) => context.output.warn(&format!("{error:#}")),
        }
    }
    finish(context, report, named.is_some())
}

impl Cleanup<'_> {
    /// Decides what to destroy; instances that are kept although they match are added to `report`
    /// at once.
    fn plan(
        &self,
        named: Option<&InstanceName>,
        report: &mut CleanupReport,
    ) -> Result<CleanupPlan> {
        let (context, filter) = (self.context, &self.filter);
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
        let inactive = self.inactive(context, &all.iter().collect::<Vec<_>>());
        for (remains, inactive) in all.into_iter().zip(inactive) {
            let seen = look(context, &mut reader, &remains, inactive)?;
            let instance = remains.name.to_string();
            match filter.judge(&seen) {
                Verdict::Ignore => {}
                Verdict::Keep(reason) => report.kept.push(Kept { instance, reason }),
                Verdict::Destroy(reason) => match remains.ensure_ours(context, &self.references) {
                    Err(error) => report.failed.push(Failed { instance, error }),
                    Ok(()) => candidates.push(Candidate {
                        state: seen.state,
                        reason,
                        remains,
                    }),
                },
            }
        }
        let goes = |name: &InstanceName| candidates.iter().any(|going| going.remains.name == *name);
        // All users share base images.
        let builds = match context.scope().only() {
            Some(_) => Vec::new(),
            None => builds::unused(context, filter.lab, goes).unwrap_or_else(|error| {
                let text = format!("old base images are kept: {error:#}");
                context.output.warn(&text);
                Vec::new()
            }),
        };
        Ok(CleanupPlan { candidates, builds })
    }

    /// How long each of `all` has been unused, if requested.
    fn inactive(&self, context: &Context, all: &[&Remains]) -> Vec<Option<Inactive>> {
        let Some(limit) = self.filter.inactive_for else {
            return vec![None; all.len()];
        };
        let inactive = Uses::new(context).inactive(all, limit);
        inactive.into_iter().map(Some).collect()
    }

    fn destroy_all(&self, candidates: &[Candidate], report: &mut CleanupReport) -> Result<()> {
        if candidates.is_empty() {
            return Ok(());
        }
        let results = side_by_side(self.context, candidates, AT_ONCE, |context, going| {
            let began = Instant::now();
            let destroyed = self.destroy(context, &going.remains.name);
            note(context, going, began, &destroyed);
            destroyed
        })?;
        for (candidate, result) in candidates.iter().zip(results) {
            let instance = candidate.remains.name.to_string();
            match result {
                Ok(Some(bytes)) => report.destroyed.push(candidate.destroyed(bytes)),
                Ok(None) => {
                    let reason = "it was used after this command started".to_owned();
                    report.kept.push(Kept { instance, reason });
                }
                Err(error) => report.failed.push(Failed { instance, error }),
            }
        }
        Ok(())
    }

    /// Destroys `name` if it still matches; returns the number of freed bytes.
    fn destroy(&self, context: &Context, name: &InstanceName) -> Result<Option<u64>> {
        let vm = Instance::lock(context, name)?;
        let Some(remains) = Remains::find(context, name)? else {
            // Another cleanup was faster.
            return Ok(Some(0));
        };
        let inactive = self.inactive(context, &[&remains]).pop().flatten();
        let seen = look(context, &mut StatusReader::new(context), &remains, inactive)?;
        let used_since = seen.last_activity.is_some_and(|at| at > self.began);
        if used_since || !matches!(self.filter.judge(&seen), Verdict::Destroy(_)) {
            return Ok(None);
        }
        let bytes = remains.bytes(&context.paths);
        vm.destroy(&remains, &self.references)?;
        Ok(Some(bytes))
    }
}

impl Candidate {
    fn destroyed(&self, freed: u64) -> Destroyed {
        let name = &self.remains.name;
        Destroyed {
            instance: name.to_string(),
            lab_id: name.lab.clone(),
            user_id: name.user.clone(),
            state: self.state,
            freed,
            reason: self.reason.clone(),
        }
    }
}

fn look(
    context: &Context,
    reader: &mut StatusReader,
    remains: &Remains,
    inactive: Option<Inactive>,
) -> Result<Inspected> {
    let (state, reason, last_activity) = match &remains.facts {
        Some(facts) => {
            let status = reader.status(&remains.name, facts)?;
            let reason = if remains.overlay {
                status.reason
            } else {
                "a VM without a disk".to_owned()
            };
            (Some(status.state), reason, status.last_activity)
        }
        None => {
            let last = activity::last(&context.paths.activity(&remains.name));
            (None, remains.leftover().to_owned(), last)
        }
    };
    Ok(Inspected {
        state,
        reason,
        last_activity,
        inactive,
        half_destroyed: remains.half_destroyed,
    })
}

/// Asks for confirmation.
fn confirm(context: &Context, plan: &CleanupPlan) -> Result<()> {
    let instances = plan.candidates.iter().map(|going| {
        let state = going.state.map_or("", State::as_str);
        format!("{}  {state}  {}", going.remains.name, going.reason)
    });
    let builds = plan.builds.iter();
    let builds = builds.map(|(lab, it)| format!("{lab}  build {}  no instance uses it", it.build));
    let lines: Vec<String> = instances.chain(builds).collect();
    let question = match (plan.candidates.len(), plan.builds.len()) {
        (0, _) => "Remove these base images?".to_owned(),
        (1, _) => "Destroy this instance and its disk?".to_owned(),
        (n, _) => format!("Destroy these {n} instances and their disks?"),
    };
    context.confirm(&lines, &question)
}

/// Writes the result for `candidate` to the journal.
fn note(context: &Context, candidate: &Candidate, began: Instant, destroyed: &Result<Option<u64>>) {
    let name = &candidate.remains.name;
    match destroyed {
        Ok(Some(_)) => {
            let (from, reason) = (candidate.state, &candidate.reason);
            journal::done(context, "cleanup", name, began, from, None, reason);
        }
        Ok(None) => {}
        Err(error) => journal::failure(context, "cleanup", name, began, candidate.state, error),
    }
}

fn collected((lab, base): &(LabId, Base)) -> Collected {
    Collected {
        lab_id: lab.clone(),
        build: base.build.clone(),
        image: base.path.clone(),
        freed: images::allocated(&base.path).unwrap_or(0),
    }
}

/// Prints the result. The failure of a single named instance is the command's own error.
fn finish(context: &Context, mut report: CleanupReport, single: bool) -> Result<()> {
    let instances = report.destroyed.iter().map(|destroyed| destroyed.freed);
    report.freed = instances
        .chain(report.builds.iter().map(|build| build.freed))
        .sum();
    if single && let Some(Failed { instance, error }) = report.failed.pop() {
        return Err(error.context(format!("failed to destroy {instance}")));
    }
    context.output.answer(&report)?;
    let failures = report.failed.iter();
    let failures = failures.map(|it| format!("failed to destroy {}: {:#}", it.instance, it.error));
    let all = report.failed.len() + report.destroyed.len();
    let whole = |count| format!("{count} of {all} instances were not destroyed");
    let hint = "fix the cause, then run the command again to destroy the rest";
    print_failures(context, &failures.collect::<Vec<_>>(), whole, hint)
}
