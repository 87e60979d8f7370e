//! `cyyber instance stats --watch`

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;

use super::stats::{Answer, SAMPLE, Sample, Stats};
use crate::context::Context;
use crate::host::{self, Memory};
use crate::instance::{InstanceName, State};
use crate::units::MIB;

/// Shows what all instances use, or the one called `name`, until it is asked to end.
pub fn run(context: &Context, name: Option<&InstanceName>, every: Duration) -> Result<()> {
    let stop = context.interrupted()?;
    let mut live = context.output.live();
    let mut before = Sample::first(context, name)?;
    loop {
        let began = Instant::now();
        let sample = Sample::take(context, name)?;
        let answer = sample.since(&before, context, name)?;
        let has_reader = live.show(&answer, || match &answer {
            Answer::One(_) => None,
            Answer::All { instances } => Some(totals(instances, host::memory().ok())),
        })?;
        // CPU time needs some time to be measured in, also where a refresh takes long.
        let next = (began + every).max(Instant::now() + SAMPLE);
        if !has_reader || !live.wait_until(next, stop) {
            return Ok(());
        }
        before = sample;
    }
}

/// How many instances there are of each state, what they use together, and what is left.
fn totals(instances: &[Stats], host: Option<Memory>) -> String {
    let states: Vec<_> = State::value_variants()
        .iter()
        .filter_map(|state| {
            let count = instances.iter().filter(|one| one.state == *state).count();
            (count > 0).then(|| format!("{count} {state}"))
        })
        .collect();
    // Not `sum`: that of nothing is -0.0.
    let cpu = instances
        .iter()
        .filter_map(|one| one.cpu_percent)
        .fold(0.0, |sum, percent| sum + percent);
    let memory: u64 = instances.iter().filter_map(|one| one.memory_used_mb).sum();
    let mut text = match instances.len() {
        0 => String::new(),
        1 => format!("1 instance: {}\n", states.join(", ")),
        count => format!("{count} instances: {}\n", states.join(", ")),
    };
    text.push_str(&format!("CPU {cpu:.1} %, memory {memory} MiB"));
    if let Some(Memory { total, available }) = host {
        let (total, available) = (total / MIB, available / MIB);
        text.push_str(&format!("; {available} of the host's {total} MiB left"));
    }
    text
}
