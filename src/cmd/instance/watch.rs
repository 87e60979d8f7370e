//! `cyyber instance stats --watch`

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;
use jiff::{SignedDuration, Timestamp};
use serde::{Serialize, Serializer};

use super::stats::{self, Figures, SAMPLE, Stats, UsageSample};
use crate::cmd::report;
use crate::cmd::timetable::Schedule;
use crate::context::Context;
use crate::env;
use crate::host::{self, Cpu, Memory};
use crate::ledger::Ledger;
use crate::names::{InstanceName, State};
use crate::output::{Page, Report, Table};
use crate::reaper::report::due;
use crate::units::{MIB, age, size};

/// The period for which the policy's steps are shown.
const POLICY: SignedDuration = SignedDuration::from_hours(24);

/// How many of the next steps are shown.
const MOST_NEXT: usize = 5;
/// How far ahead lessons are shown, and how many.
const LESSONS: SignedDuration = SignedDuration::from_hours(24);
const MOST_LESSONS: usize = 3;

/// Shows the usage of all instances, or of the one called `name`, until interrupted.
pub fn run(context: &Context, name: Option<&InstanceName>, every: Duration) -> Result<()> {
    let stop = context.interrupted()?;
    let mut live = context.output.live();
    let mut busy_before = host::cpu().ok();
    let mut before = UsageSample::first(context, name)?;
    let mut ledger = Ledger::new(context.time() - POLICY);
    loop {
        let began = Instant::now();
        // Each refresh connects again, like a new command: a restart of libvirtd must not end it.
        let context = &context.for_worker();
        let sample = UsageSample::take(context, name)?;
        let busy = host::cpu().ok();
        let both = busy.zip(busy_before);
        let dashboard = Dashboard {
            answer: sample.since(&before, context, name)?,
            policy: policy(context, &mut ledger).unwrap_or_default(),
            now: context.time(),
            lessons: lessons(context).unwrap_or_default(),
            memory: host::memory().ok(),
            cpu: busy,
            cpu_percent: both.and_then(|(busy, before)| busy.percent_since(&before)),
        };
        let has_reader = live.show(&dashboard, |page| dashboard.head(page))?;
        // CPU use needs some time to measure, even if a refresh takes long.
        let next = (began + every).max(Instant::now() + SAMPLE);
        if !has_reader || !live.wait_until(next, stop) {
            return Ok(());
        }
        (before, busy_before) = (sample, busy);
    }
}

/// The steps of the idle policy, unless `--as-user` limits the view; each refresh reads new lines
/// of the journal.
fn policy(context: &Context, ledger: &mut Ledger) -> Result<Vec<String>> {
    context.require_everyone("cyyber report")?;
    let (now, zone) = (context.time(), env::time_zone()?);
    report::read(context, ledger, &zone)?;
    ledger.close(None, now, &zone);
    if ledger.total().steps.is_empty() {
        return Ok(Vec::new());
    }
    let length = age(now.duration_since(ledger.from.min(now)));
    let mut parts = report::headline(ledger);
    if let Some(first) = parts.first_mut() {
        *first = format!("last {length}: {first}");
    }
    Ok(parts)
}

/// The present and the next lessons, unless `--as-user` limits the view.
fn lessons(context: &Context) -> Result<Vec<String>> {
    context.require_everyone("cyyber timetable")?;
    if context.config.timetable.is_empty() {
        return Ok(Vec::new());
    }
    Schedule::read(context, LESSONS).map(|all| all.headline(MOST_LESSONS))
}

/// An answer, with the host's resources.
struct Dashboard {
    answer: Figures,
    policy: Vec<String>,
    now: Timestamp,
    lessons: Vec<String>,
    memory: Option<Memory>,
    cpu: Option<Cpu>,
    cpu_percent: Option<f64>,
}

/// In JSON it is the same answer as without `--watch`.
impl Serialize for Dashboard {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.answer.serialize(serializer)
    }
}

impl Report for Dashboard {
    fn text(&self) -> String {
        self.answer.text()
    }

    /// Those that use most come first.
    fn table(&self) -> Option<Table> {
        let Figures::All { instances, .. } = &self.answer else {
            return self.answer.table();
        };
        let cpus = self.cpu.map_or(1, |cpu| cpu.count);
        let memory = self.memory.map_or(1 << 40, |memory| memory.total);
        let cost = |one: &Stats| one.cost(cpus, memory);
        let mut by_cost: Vec<_> = instances.iter().collect();
        // For equal usage, the order stays by name.
        by_cost.sort_by(|one, other| cost(other).total_cmp(&cost(one)));
        stats::table(by_cost)
    }
}

impl Dashboard {
    /// The host's free resources, the number of instances in each state, their total usage, and
    /// what pausing saves. Empty for a single named instance.
    fn head(&self, page: Page) -> Option<String> {
        let Figures::All {
            instances,
            memory_merged_mb,
        } = &self.answer
        else {
            return None;
        };
        let mut host = Vec::new();
        if let Some(Memory { total, available }) = self.memory {
            let used = size(total.saturating_sub(available));
            host.push(format!("{used} of {} memory used", size(total)));
            host.push(format!("{} available", size(available)));
        }
        if let Some((percent, cpu)) = self.cpu_percent.zip(self.cpu) {
            host.push(format!("CPU {percent:.0} of {} %", 100 * cpu.count));
        }
        let states: Vec<_> = instances.iter().map(|one| one.state).collect();
        let sum = |of: fn(&Stats) -> u64| instances.iter().map(of).sum::<u64>();
        let percents = instances.iter().filter_map(|one| one.cpu_percent);
        // Not `sum`, which is -0.0 for an empty iterator.
        let cpu = percents.fold(0.0, |sum, percent| sum + percent);
        let mut used = vec![
            format!("{} memory used", size(sum(Stats::used))),
            format!("CPU {cpu:.0} %"),
        ];
        let spared = sum(Stats::spared);
        if spared > 0 {
            used.push(format!("pausing frees up to {}", size(spared)));
        }
        if let Some(merged @ 1..) = memory_merged_mb {
            used.push(format!("equal pages save {}", size(merged * MIB)));
        }
        let if_any = |label: &str, parts: &[String]| match parts {
            [] => Vec::new(),
            parts => labelled(label, parts, page),
        };
        // As many as fit into one line.
        let mut next = labelled("Next", &self.next(instances), page);
        next.truncate(1);
        let next = next
            .iter()
            .map(|line| line.trim_end_matches(',').to_owned());
        let next = next.filter(|line| line.trim_end() != "Next").collect();
        let lines = [
            labelled("Host", &host, page),
            labelled("Instances", &counts(&states), page),
            labelled("", &used, page),
            if_any("Policy", &self.policy),
            if_any("Lessons", &self.lessons),
            next,
        ];
        Some(lines.concat().join("\n"))
    }
}

impl Dashboard {
    /// The next steps of the idle policy, and when.
    fn next(&self, instances: &[Stats]) -> Vec<String> {
        let steps = instances.iter().filter_map(|one| Some((one, one.next?)));
        let mut steps: Vec<_> = steps.collect();
        steps.sort_by_key(|(_, (_, at))| *at);
        steps
            .iter()
            .take(MOST_NEXT)
            .map(|(one, (step, at))| format!("{} {}", one.instance, due(*step, *at, self.now)))
            .collect()
    }
}

/// The number of instances, in total and in each state.
pub fn counts(states: &[State]) -> Vec<String> {
    let of_state = |state: &State| {
        let count = states.iter().filter(|one| *one == state).count();
        (count > 0).then(|| format!("{count} {state}"))
    };
    let of_states = State::value_variants().iter().filter_map(of_state);
    let all = format!("{} in all", states.len());
    [all].into_iter().chain(of_states).collect()
}

/// These parts after a label, wrapped between two parts at the end of the page.
pub fn labelled(label: &str, parts: &[String], page: Page) -> Vec<String> {
    let columns = page.columns.unwrap_or(usize::MAX);
    let mut parts = parts.iter();
    let mut lines = Vec::new();
    let mut line = format!("{label:<9}");
    if let Some(first) = parts.next() {
        line = format!("{line}  {first}");
    }
    for part in parts {
        let joined = format!("{line}, {part}");
        if joined.chars().count() < columns {
            line = joined;
        } else {
            lines.push(line + ",");
            line = format!("{:<9}  {part}", "");
        }
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_their_parts() {
        let parts = ["12 in all", "3 running", "9 stopped"].map(str::to_owned);
        let at = |columns| {
            let page = Page {
                columns,
                colour: false,
            };
            labelled("Instances", &parts, page)
        };
        assert_eq!(at(None), ["Instances  12 in all, 3 running, 9 stopped"]);
        assert_eq!(
            at(Some(40)),
            ["Instances  12 in all, 3 running,", "           9 stopped"]
        );
    }
}
