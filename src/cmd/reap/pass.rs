//! One pass: look at all, decide, act.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};

use super::look::{Lookout, Sight, Standing};
use super::report::{Action, Report, Row};
use super::step::{self, Outcome};
use crate::cmd::instance::list::survey;
use crate::cmd::side_by_side::side_by_side;
use crate::context::Context;
use crate::hypervisor::Detail;
use crate::policy::Rung;
use crate::state::passes::{Circumstances, Passes, Seen};

/// What a pass was asked for.
#[derive(Debug)]
pub struct Pass {
    pub dry_run: bool,
    /// How many steps are taken at once.
    pub jobs: usize,
    /// Counts what was done, for whoever watches.
    pub progress: Arc<AtomicUsize>,
}

impl Pass {
    /// Makes the pass. The caller holds the reaper's lock, unless it is a dry run.
    pub fn run(&self, context: &Context) -> Result<Report> {
        let all = survey(context, Detail::Power)?;
        let file = context.paths.passes();
        let mut passes = Passes::read(&file);
        let circumstances = passes.begin(&context.moment());
        match circumstances {
            Circumstances::ClockSet => context
                .output
                .warn("the host's clock was set: every instance counts as active from now on"),
            Circumstances::AfterOutage => context
                .output
                .detail("no pass for a while: this one only looks"),
            Circumstances::Usual => {}
        }
        let only_looks = circumstances != Circumstances::Usual;
        let lookout = Lookout::new(context, passes.trusted_from, only_looks);
        let mut sights: Vec<(Sight, Seen)> = all
            .into_iter()
            .map(|(name, facts)| {
                let mut seen = passes.take(&facts.name, facts.uuid);
                (lookout.glance(name, facts, &mut seen), seen)
            })
            .collect();
        self.progress.fetch_add(1, Ordering::Relaxed);
        lookout.look_closer(&mut sights);
        self.progress.fetch_add(1, Ordering::Relaxed);

        let mut report = Report::new(self.dry_run);
        report.checked = sights.len();
        if self.dry_run {
            let now = context.time();
            let rows = sights.iter().map(|(sight, _)| Row::new(sight, now));
            report.instances = Some(rows.collect());
            let due = sights.iter().filter_map(|(sight, _)| planned(sight));
            report.actions = due
                .map(|(step, sight)| step.action(sight, Ok(())))
                .collect();
            return Ok(report);
        }
        self.warn(context, &lookout, &mut sights);
        passes.put(
            sights
                .iter()
                .map(|(sight, seen)| (&*sight.facts.name, seen)),
        );
        passes
            .write(&file)
            .context("failed to note what this pass saw")?;

        let mut due: Vec<_> = sights
            .iter()
            .filter_map(|(sight, seen)| planned(sight).map(|(step, sight)| (step, sight, seen)))
            .collect();
        due.sort_by_key(|(step, sight, _)| {
            let lab = context.config.lab(&sight.name.lab);
            let memory = lab.map_or(0, |lab| lab.memory_mb);
            (step.urgency(), Reverse(memory))
        });
        self.act(context, &lookout, &due, &mut report)?;
        Ok(report)
    }

    fn act(
        &self,
        context: &Context,
        lookout: &Lookout,
        due: &[(Planned, &Sight, &Seen)],
        report: &mut Report,
    ) -> Result<()> {
        let stop = context.interrupted()?;
        let outcomes = side_by_side(due, self.jobs, |(planned, sight, seen)| {
            let outcome = match stop.load(Ordering::Relaxed) {
                true => Outcome::Left("interrupted before it was its turn".to_owned()),
                false => step::take(context, lookout, sight, (*seen).clone(), planned),
            };
            self.progress.fetch_add(1, Ordering::Relaxed);
            outcome
        });
        for ((planned, sight, _), outcome) in due.iter().zip(outcomes) {
            let name = &sight.name;
            let (from, to) = (planned.from.as_str(), planned.to.as_str());
            let result = match &outcome {
                Outcome::Left(why) => {
                    context
                        .output
                        .detail(&format!("{name}: left for the next pass: {why}"));
                    continue;
                }
                Outcome::Done => {
                    context
                        .output
                        .detail(&format!("{name}: {from} to {to}: {}", planned.reason));
                    Ok(())
                }
                Outcome::Failed(error) => Err(error),
            };
            report.failed += usize::from(result.is_err());
            report.actions.push(planned.action(sight, result));
        }
        Ok(())
    }

    /// Says what is wrong with signs of use, each of it once, and makes missing activity files.
    fn warn(&self, context: &Context, lookout: &Lookout, sights: &mut [(Sight, Seen)]) {
        let blind = lookout.blind();
        if let (Some(blind), false) = (&blind, sights.is_empty()) {
            context.output.warn(blind);
        }
        for (sight, seen) in sights {
            let doubts = match &sight.standing {
                Standing::On(_, decision) => decision.doubts.clone(),
                Standing::Left(_) => Vec::new(),
            };
            for doubt in &doubts {
                let text = format!("{}: {doubt}; it counts as active", sight.name);
                match seen.doubts.contains(doubt) || blind.is_some() {
                    true => context.output.detail(&text),
                    false => context.output.warn(&text),
                }
            }
            seen.doubts = doubts;
            if sight.untouched {
                lookout.touch(sight);
            }
        }
    }
}

/// A step that is due.
#[derive(Debug)]
pub struct Planned {
    pub from: Rung,
    pub to: Rung,
    pub reason: String,
    idle_seconds: i64,
}

fn planned(sight: &Sight) -> Option<(Planned, &Sight)> {
    let Standing::On(facts, decision) = &sight.standing else {
        return None;
    };
    let planned = Planned {
        from: facts.rung,
        to: decision.step?,
        reason: decision.reason.clone(),
        idle_seconds: decision.unused.as_secs(),
    };
    Some((planned, sight))
}

impl Planned {
    /// In which order steps are taken: first whoever is waiting, then what frees memory.
    fn urgency(&self) -> u8 {
        match (self.from, self.to) {
            (_, Rung::Running) => 0,
            (Rung::Running | Rung::Idle, Rung::Paused | Rung::Stopped) => 1,
            (_, Rung::Idle) => 2,
            (_, Rung::Paused | Rung::Stopped) => 3,
            (_, Rung::Destroyed) => 4,
        }
    }

    fn action(&self, sight: &Sight, result: Result<(), &anyhow::Error>) -> Action {
        Action::new(
            sight,
            self.from,
            self.to,
            self.idle_seconds,
            self.reason.clone(),
            result,
        )
    }
}
