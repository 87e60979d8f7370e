//! One pass: observe all, decide, act.

use std::cmp::Reverse;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use super::Options;
use super::bring_up::{self, Begun, Plan, Wanted};
use super::lead_time::Pace;
use super::leases;
use super::lessons::Lessons;
use super::notice;
use super::observer::{Assessment, Observation, Observer};
use super::passes::{self, Circumstances, Passes, Seen};
use super::policy::{self, Rung};
use super::pressure::{self, Need};
use super::report::{InstanceRow, PassReport};
use super::step::{self, Planned, StepOutcome};
use super::warning;
use crate::context::Context;
use crate::firewall;
use crate::host::{self, libvirt_network_unit};
use crate::hypervisor::Detail;
use crate::journal;
use crate::parallel::{both, contained, side_by_side};
use crate::sharing;
use crate::state::coverage::Coverage;

/// No step down is started later than this in a pass. The rest is left for the next pass, which
/// also notices users who are back.
const LATEST: Duration = Duration::from_secs(45);

/// The options of a pass.
#[derive(Debug)]
pub struct Pass {
    pub options: Options,
    /// Counts progress, for the watchdog.
    pub progress: Arc<AtomicUsize>,
}

impl Pass {
    /// Runs the pass. The caller holds the reaper's lock, unless it is a dry run.
    pub fn run(&self, context: &Context) -> Result<PassReport> {
        let began = Instant::now();
        if !self.options.dry_run {
            leases::forget_those_that_left(context);
        }
        let hypervisor = context.hypervisor()?;
        // That takes as long as all that follows, up to where it is joined.
        let in_force = (hypervisor.is_local() && !self.options.dry_run)
            .then(|| std::thread::spawn(firewall::in_force));
        let file = context.paths.passes();
        let all = || hypervisor.survey(Detail::Work);
        let (all, mut passes) = both(all, || Passes::read(&file));
        let all = all?;
        let last = passes.last();
        let horizon = warning::horizon(context.time(), last);
        let circumstances = passes.begin(&context.moment());
        let output = &context.output;
        match circumstances {
            Circumstances::ClockSet => {
                output.warn("the host's clock was set: every instance counts as active from now on")
            }
            Circumstances::AfterOutage => output.detail("no recent pass: this one only observes"),
            Circumstances::Usual => {}
        }
        let only_looks = circumstances != Circumstances::Usual;
        let lessons = Lessons::read(context, &passes);
        let observer = Observer::new(context, passes.trusted_from, only_looks);
        let observer = observer.measuring(&lessons);
        let mut all: Vec<(Observation, Seen)> = all
            .into_iter()
            .map(|(name, facts)| {
                let mut seen = passes.take(&facts.name, facts.uuid);
                (observer.observe(name, facts, &mut seen), seen)
            })
            .collect();
        self.progress.fetch_add(1, Ordering::Relaxed);
        let every = self.options.dry_run;
        let trouble = observer.look_closer(&mut all, |one| {
            // Somebody who types must not be warned of a pause.
            every || one.is_unsure() || warning::upcoming(&one.assessment, horizon).is_some()
        });
        self.progress.fetch_add(1, Ordering::Relaxed);

        let mut report = PassReport::new(self.options.dry_run);
        report.checked = all.len();
        if self.options.dry_run {
            let now = context.time();
            let rows = all.iter().map(|(one, _)| InstanceRow::new(one, now));
            report.instances = Some(rows.collect());
            let due = all.iter().filter_map(|(one, _)| Planned::new(one));
            report.actions = due.map(|step| step.action(&step.reason, Ok(()))).collect();
            for trouble in &lessons.troubles {
                context.output.warn(trouble);
            }
            let plan = self.plan(context, &lessons, &all, &mut passes, horizon, last);
            report.plan(plan.due.iter().map(|one| one.action(Ok(()))).collect());
            return Ok(report);
        }
        // Without a lab network there is nothing to protect.
        if let Some(in_force) = in_force
            && (!all.is_empty() || firewall::is_set_up())
        {
            guard(
                context,
                in_force.join().unwrap_or_else(|panic| resume_unwind(panic)),
            );
        }
        if hypervisor.is_local() {
            share(context);
        }
        let blind = observer.blind().filter(|_| !all.is_empty());
        let troubles = blind.into_iter().chain(trouble);
        let troubles = troubles.chain(lessons.troubles.iter().cloned());
        let troubles = troubles.map(|trouble| passes::bounded(&trouble)).collect();
        self.warn(context, &observer, &mut passes, troubles, &mut all);
        notice::announce(context, &mut all);
        for (one, seen) in &mut all {
            seen.used = one.last_use();
        }
        let warnings = warning::due(context, &mut all, horizon);
        let plan = self.plan(context, &lessons, &all, &mut passes, horizon, last);
        let wanted = plan.due;
        passes.took_ms = u64::try_from(began.elapsed().as_millis()).ok();
        passes.put(all.iter().map(|(one, seen)| (&*one.facts.name, seen)));
        let noted = passes
            .write(&file)
            .and_then(|()| note_coverage(context))
            .context("failed to record what this pass observed");

        for (one, _) in &all {
            tell_if_left(context, one);
        }
        let mut due: Vec<_> = all
            .iter()
            .filter_map(|(one, seen)| Some((Planned::new(one)?, seen)))
            // If nothing can be recorded, no instance is taken down.
            .filter(|(step, _)| noted.is_ok() || step.to == Rung::Running)
            .collect();
        due.sort_by_key(|(step, _)| {
            let lab = context.config.lab(&step.one.name.lab);
            let memory = lab.map_or(0, |lab| lab.memory_mb);
            (step.urgency(), Reverse(memory))
        });
        self.act(context, &observer, &due, began + LATEST, &mut report)?;
        let acted = !due.is_empty() || !wanted.is_empty();
        noted?;
        plan.begun
            .iter()
            .for_each(|lesson| tell_of(context, lesson));
        self.bring_up(context, &wanted, began, &mut passes, &mut report)?;
        if !only_looks {
            make_room(context, &mut report)?;
        }
        leases::settle(context, &report.actions);
        let told = notice::run_hook(context, &mut all);
        if told {
            passes.put(all.iter().map(|(one, seen)| (&*one.facts.name, seen)));
        }
        warning::give(context, &warnings);
        if acted || told || !warnings.is_empty() {
            // A long pass is not an outage.
            passes.end(&context.moment());
            passes.took_ms = u64::try_from(began.elapsed().as_millis()).ok();
            let noted = passes.write(&file);
            noted.context("failed to record the end of this pass")?;
        }
        Ok(report)
    }

    /// What is to be done for lessons.
    fn plan(
        &self,
        context: &Context,
        lessons: &Lessons,
        all: &[(Observation, Seen)],
        passes: &mut Passes,
        next: Timestamp,
        last: Option<Timestamp>,
    ) -> Plan {
        let pace = Pace {
            now: context.time(),
            next,
            at_once: self.options.jobs,
        };
        let asks = !self.options.dry_run;
        let plan = bring_up::plan(context, lessons, all, passes, &pace, last, asks);
        if plan.waiting > 0 {
            let text = format!(
                "{} instances are brought up later, in time for their lessons",
                plan.waiting
            );
            context.output.detail(&text);
        }
        plan
    }

    /// Brings up instances for lessons, and reports once if there is no memory for more.
    fn bring_up(
        &self,
        context: &Context,
        wanted: &[Wanted],
        began: Instant,
        passes: &mut Passes,
        report: &mut PassReport,
    ) -> Result<()> {
        let (jobs, progress) = (self.options.jobs, &self.progress);
        let (actions, trouble) =
            bring_up::bring_up(context, wanted, jobs, began, passes, progress)?;
        report.failed += actions.iter().filter(|action| !action.ok).count();
        report.actions.extend(actions);
        if trouble.is_some() && passes.short_for_lessons != trouble {
            trouble.iter().for_each(|text| context.output.warn(text));
        }
        passes.short_for_lessons = trouble;
        Ok(())
    }

    fn act(
        &self,
        context: &Context,
        observer: &Observer,
        due: &[(Planned, &Seen)],
        latest: Instant,
        report: &mut PassReport,
    ) -> Result<()> {
        let stop = context.interrupted()?;
        let tell = |text: String| context.output.detail(&text);
        let outcomes = side_by_side(due, self.options.jobs, |(planned, seen)| {
            let too_late = planned.to != Rung::Running && Instant::now() > latest;
            let outcome = match (stop.load(Ordering::Relaxed), too_late) {
                (true, _) => StepOutcome::Left("interrupted before it started".to_owned()),
                (false, true) => StepOutcome::Left("this pass reached its time limit".to_owned()),
                (false, false) => {
                    let seen = (*seen).clone();
                    contained(|| step::take(context, observer, planned, seen, self.options.timeout))
                        .unwrap_or_else(StepOutcome::Failed)
                }
            };
            self.progress.fetch_add(1, Ordering::Relaxed);
            outcome
        });
        for ((planned, _), outcome) in due.iter().zip(outcomes) {
            let name = &planned.one.name;
            let (from, to) = (planned.from.as_str(), planned.to.as_str());
            let (reason, result) = match &outcome {
                StepOutcome::Left(why) => {
                    tell(format!("{name}: left for the next pass: {why}"));
                    continue;
                }
                StepOutcome::Done(reason) => {
                    tell(format!("{name}: {from} to {to}: {reason}"));
                    (reason, Ok(()))
                }
                StepOutcome::Failed(error) => (&planned.reason, Err(error)),
            };
            report.failed += usize::from(result.is_err());
            report.actions.push(planned.action(reason, result));
        }
        Ok(())
    }

    /// Reports each doubt about signs of use once, and creates missing activity files.
    fn warn(
        &self,
        context: &Context,
        observer: &Observer,
        passes: &mut Passes,
        troubles: Vec<String>,
        all: &mut [(Observation, Seen)],
    ) {
        let say = |text: &str, is_new: bool| {
            if is_new {
                context.output.warn(text)
            } else {
                context.output.detail(text)
            }
        };
        for trouble in &troubles {
            say(trouble, !passes.troubles.contains(trouble));
        }
        passes.troubles = troubles;
        let blind = observer.blind().is_some();
        for (one, seen) in all {
            let doubts = one.doubts();
            let new = seen.doubted(&doubts, policy::is_of_guest);
            for doubt in &doubts {
                let text = format!("{}: {doubt}; it counts as active", one.name);
                say(&text, !blind && new.contains(&passes::bounded(doubt)));
            }
            if one.untouched {
                observer.touch(one);
            }
        }
    }
}

/// Pauses unused instances if the host has less memory available than configured.
fn make_room(context: &Context, report: &mut PassReport) -> Result<()> {
    let host = &context.config.host;
    let (true, Some(least)) = (host.displace, host.min_available_memory) else {
        return Ok(());
    };
    if !context.hypervisor()?.is_local() {
        return Ok(());
    }
    let available = host::memory()?.available;
    let missing = least.0.saturating_sub(available);
    if missing == 0 {
        return Ok(());
    }
    let why = "paused to keep host.min_available_memory available";
    let need = Need {
        missing,
        frees: |guest| guest.resident.unwrap_or(0),
        whom: None,
        why: why.to_owned(),
    };
    let actions = pressure::relieve(context, &need)?;
    report.failed += actions.iter().filter(|action| !action.ok).count();
    report.actions.extend(actions);
    Ok(())
}

/// Writes down what a lesson found when it began, and says so where it was not what it should be.
fn tell_of(context: &Context, lesson: &Begun) {
    let Begun {
        lab,
        at,
        wanted,
        ready,
    } = lesson;
    let text = format!("{ready} of {wanted} instances were ready for the lesson at {at:.0}");
    journal::lesson(context, lab, *ready, *wanted, &text);
    if ready < wanted {
        context.output.warn(&format!("{lab}: {text}"));
    } else {
        context.output.detail(&format!("{lab}: {text}"));
    }
}

/// Reports why an instance is skipped.
fn tell_if_left(context: &Context, one: &Observation) {
    let why = match &one.assessment {
        Assessment::Skipped(why) => why,
        Assessment::Judged(_, decision) if decision.step.is_none() => &decision.reason,
        Assessment::Judged(..) => return,
    };
    let name = &one.name;
    context.output.detail(&format!("{name}: left alone: {why}"));
}

fn note_coverage(context: &Context) -> std::io::Result<()> {
    let config = &context.config;
    let labs = config.labs.iter().map(|lab| lab.lab_id.as_str());
    let path = context.paths.coverage();
    Coverage::note(&path, &config.path, labs, &context.moment())
}

/// Switches the kernel's merging of equal pages on or off, as configured.
fn share(context: &Context) {
    let (config, memo) = (&context.config, context.paths.sharing());
    let settled = host::memory().and_then(|memory| {
        let wanted = config.host.share_memory;
        sharing::settle(wanted, &config.path, &memo, memory.available)
    });
    match settled {
        Ok(None) => {}
        Ok(Some(done)) => context.output.detail(done),
        // `doctor` reports it as long as it lasts.
        Err(error) => context.output.detail(&format!(
            "warning: failed to configure the kernel's merging of equal pages: {error:#}"
        )),
    }
}

/// Restores the firewall of the lab networks if it was not seen unchanged.
fn guard(context: &Context, in_force: Result<bool>) {
    let put_back = match in_force {
        Ok(true) => Ok(false),
        _ => firewall::restore(),
    };
    match put_back {
        Ok(false) => {}
        Ok(true) => context.output.warn(&format!(
            "the firewall of the lab networks was missing or changed, for example by nft flush \
             ruleset, and was restored. To restore libvirt's own rules: systemctl restart {}",
            libvirt_network_unit()
        )),
        Err(error) => context.output.warn(&format!(
            "failed to check or restore the firewall of the lab networks: {error:#}"
        )),
    }
}
