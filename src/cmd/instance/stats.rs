//! `cyyber instance stats`
#![deny(clippy::arithmetic_side_effects)]

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::context::Context;
use crate::hypervisor::{Detail, Facts};
use crate::images;
use crate::instance;
use crate::instance::status::InstanceStatus;
use crate::names::{InstanceName, LabId, Rung, State, UserId};
use crate::output::{Column, Report, Table};
use crate::reaper::forecast::Forecast;
use crate::sharing;
use crate::units::{MIB, age, size};

/// The time between the two samples of CPU time.
pub const SAMPLE: Duration = Duration::from_millis(250);

/// The usage of one instance.
#[derive(Serialize)]
pub struct Stats {
    pub instance: String,
    lab_id: LabId,
    user_id: UserId,
    pub state: State,
    cpu_count: Option<u64>,
    cpu_time_ns: Option<u64>,
    /// 100 is one CPU of the host, fully used.
    pub cpu_percent: Option<f64>,
    memory_mb: Option<u64>,
    pub memory_used_mb: Option<u64>,
    memory_guest_used_mb: Option<u64>,
    disk_used_mb: Option<u64>,
    disk_read_bytes: Option<u64>,
    disk_write_bytes: Option<u64>,
    net_rx_bytes: Option<u64>,
    net_tx_bytes: Option<u64>,
    idle_seconds: Option<i64>,
    /// Its next step, and when.
    #[serde(skip)]
    pub next: Option<(Rung, Timestamp)>,
}

/// The answer: for one named instance, or for all.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Figures {
    One(Box<Stats>),
    All {
        instances: Vec<Stats>,
        /// Saved on the whole host by merging equal pages.
        memory_merged_mb: Option<u64>,
    },
}

/// Shows the usage of all instances, or of the one called `name`.
pub fn run(context: &Context, name: Option<&InstanceName>) -> Result<()> {
    let before = UsageSample::first(context, name)?;
    let after = before
        .is_of_running()
        .then(|| UsageSample::take(context, name))
        .transpose()?;
    let after = after.as_ref().unwrap_or(&before);
    context.output.answer(&after.since(&before, context, name)?)
}

/// Facts about all instances, or one, and when they were read.
pub struct UsageSample {
    at: Instant,
    instances: Vec<(InstanceName, Facts)>,
}

impl UsageSample {
    /// A first sample, which can be followed by another one to measure CPU use.
    pub fn first(context: &Context, name: Option<&InstanceName>) -> Result<UsageSample> {
        if let Some(name) = name {
            instance::existing(context, name)?;
        }
        let sample = UsageSample::take(context, name)?;
        if sample.is_of_running() {
            sleep(SAMPLE);
        }
        Ok(sample)
    }

    /// The present facts. An instance called `name` must exist.
    pub fn take(context: &Context, name: Option<&InstanceName>) -> Result<UsageSample> {
        // Connecting must not count as part of the first sample.
        context.hypervisor()?;
        let began = Instant::now();
        let mut instances = context.hypervisor()?.survey(Detail::Usage)?;
        let half = began.elapsed().checked_div(2);
        let at = half
            .and_then(|half| began.checked_add(half))
            .unwrap_or(began);
        if let Some(name) = name {
            instances.retain(|(other, _)| other == name);
            if instances.is_empty() {
                return Err(instance::unknown(context, name).into());
            }
        }
        Ok(UsageSample { at, instances })
    }

    fn is_of_running(&self) -> bool {
        self.instances.iter().any(|(_, facts)| runs(facts))
    }

    /// The usage of the instances, including CPU use since the sample `before`.
    pub fn since(
        &self,
        before: &UsageSample,
        context: &Context,
        name: Option<&InstanceName>,
    ) -> Result<Figures> {
        let each = Forecast::new(context)
            .statuses(&self.instances)?
            .into_iter()
            .zip(&self.instances)
            .map(|(status, (_, facts))| {
                let spent = before.cpu_since(facts);
                let percent = spent.map(|spent| percent(spent, self.at.duration_since(before.at)));
                Stats::new(context, status, facts, percent)
            });
        let mut instances: Vec<Stats> = each.collect();
        Ok(match (name, instances.len()) {
            (Some(_), 1) => Figures::One(Box::new(instances.remove(0))),
            _ => Figures::All {
                instances,
                memory_merged_mb: sharing::look().ok().map(|sharing| sharing.saved / MIB),
            },
        })
    }

    /// CPU time that the domain with the later facts `facts` has used since this sample; unknown if
    /// it was powered on since then.
    fn cpu_since(&self, facts: &Facts) -> Option<u64> {
        let mut earlier = self.instances.iter().map(|(_, earlier)| earlier);
        let earlier = earlier.find(|it| it.uuid == facts.uuid && it.id == facts.id)?;
        let (now, then) = (facts.usage().cpu_time_ns?, earlier.usage().cpu_time_ns?);
        let spent = now.checked_sub(then)?;
        runs(facts).then_some(spent)
    }
}

fn runs(facts: &Facts) -> bool {
    facts.id.is_some() && facts.usage().cpu_time_ns.is_some()
}

/// CPU time as a share of the elapsed time, in tenths.
fn percent(cpu_ns: u64, elapsed: Duration) -> f64 {
    let share = Duration::from_nanos(cpu_ns).div_duration_f64(elapsed);
    (share * 1000.0).round() / 10.0
}

impl Stats {
    fn new(
        context: &Context,
        status: InstanceStatus,
        facts: &Facts,
        cpu_percent: Option<f64>,
    ) -> Stats {
        let (usage, now) = (facts.usage(), context.time());
        let idle = |at| now.duration_since(at).as_secs().max(0);
        let mib = |bytes: Option<u64>| bytes.map(|bytes| bytes / MIB);
        Stats {
            instance: status.instance,
            lab_id: status.lab_id,
            user_id: status.user_id,
            state: status.state,
            cpu_count: usage.vcpus,
            cpu_time_ns: usage.cpu_time_ns,
            cpu_percent,
            memory_mb: mib(usage.memory_bytes),
            memory_used_mb: mib(usage.resident_bytes),
            memory_guest_used_mb: mib(usage.guest_memory.used_bytes(now)),
            disk_used_mb: mib(images::allocated(&status.disk_path)),
            disk_read_bytes: usage.disk_read_bytes,
            disk_write_bytes: usage.disk_write_bytes,
            net_rx_bytes: usage.net_rx_bytes,
            net_tx_bytes: usage.net_tx_bytes,
            idle_seconds: status.last_activity.map(idle),
            next: status.next_step.zip(status.next_step_at),
        }
    }

    /// Its share of the CPUs and of the memory (in bytes) of a host.
    pub fn cost(&self, cpus: usize, memory: u64) -> f64 {
        let cpu = self.cpu_percent.unwrap_or(0.0) / (100.0 * cpus as f64);
        cpu + self.used() as f64 / memory as f64
    }

    /// The host's memory that it uses, in bytes.
    pub fn used(&self) -> u64 {
        self.memory_used_mb.unwrap_or(0).saturating_mul(MIB)
    }

    /// How much more of the host's memory it could use if it were not paused, in bytes.
    pub fn spared(&self) -> u64 {
        let whole = self.memory_mb.filter(|_| self.state == State::Paused);
        whole
            .unwrap_or(0)
            .saturating_mul(MIB)
            .saturating_sub(self.used())
    }
}

/// A table of these, in their order.
pub fn table<'a>(instances: impl IntoIterator<Item = &'a Stats>) -> Option<Table> {
    let mib = |value: Option<u64>| {
        value.map(|value| match value {
            // It was rounded down.
            0 => "< 1 MiB".to_owned(),
            value => size(value.saturating_mul(MIB)),
        })
    };
    let percent = |it: &Stats| it.cpu_percent.map(|percent| format!("{percent:.1}"));
    let count = |it: &Stats| it.cpu_count.map(|count| count.to_string());
    let guest = |it: &Stats| mib(it.memory_guest_used_mb);
    let idle = |it: &Stats| it.idle_seconds.map(SignedDuration::from_secs).map(age);
    Table::of(instances)
        .column("INSTANCE", |it| it.instance.as_str())
        .column("STATE", |it| it.state)
        .column(Column::number(1, "CPU %"), percent)
        .column(Column::number(7, "VCPUS"), count)
        .column(Column::number(5, "MEMORY"), |it| mib(it.memory_mb))
        .column(Column::number(2, "USED"), |it| mib(it.memory_used_mb))
        .column(Column::number(6, "GUEST"), guest)
        .column(Column::number(4, "DISK"), |it| mib(it.disk_used_mb))
        .column(Column::number(3, "IDLE"), idle)
        .if_any()
}

impl Report for Figures {
    fn text(&self) -> String {
        "no instances".to_owned()
    }

    fn table(&self) -> Option<Table> {
        match self {
            Figures::All { instances, .. } => table(instances),
            Figures::One(one) => table([&**one]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_full_cpu_is_a_hundred_percent() {
        assert_eq!(percent(250_000_000, Duration::from_millis(250)), 100.0);
        assert_eq!(percent(0, Duration::from_millis(250)), 0.0);
    }
}
