//! `cyyber instance stats`

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use super::list::survey;
use super::view::Viewer;
use crate::context::Context;
use crate::hypervisor::{Detail, Facts};
use crate::images;
use crate::instance::{InstanceName, LabId, State, UserId};
use crate::output::{Report, table};
use crate::units::{MIB, age};

/// Between the two samples of CPU time.
const SAMPLE: Duration = Duration::from_millis(250);

/// What one instance uses.
#[derive(Serialize)]
struct Stats {
    instance: String,
    lab_id: LabId,
    user_id: UserId,
    state: State,
    cpu_count: Option<u64>,
    cpu_time_ns: Option<u64>,
    /// 100 is one CPU of the host, fully used.
    cpu_percent: Option<f64>,
    memory_mb: Option<u64>,
    memory_used_mb: Option<u64>,
    memory_guest_used_mb: Option<u64>,
    disk_used_mb: Option<u64>,
    disk_read_bytes: Option<u64>,
    disk_write_bytes: Option<u64>,
    net_rx_bytes: Option<u64>,
    net_tx_bytes: Option<u64>,
    idle_seconds: Option<i64>,
}

#[derive(Serialize)]
struct AllStats {
    instances: Vec<Stats>,
}

pub fn all(context: &Context) -> Result<()> {
    let instances = measure(context, |_| true)?;
    context.output.answer(&AllStats { instances })
}

pub fn one(context: &Context, name: &InstanceName) -> Result<()> {
    super::existing(context, name)?;
    let stats = measure(context, |other| other == name)?.pop();
    context
        .output
        .answer(&stats.ok_or_else(|| super::missing(name))?)
}

fn measure(context: &Context, wanted: impl Fn(&InstanceName) -> bool) -> Result<Vec<Stats>> {
    let began = Instant::now();
    let before = survey(context, Detail::Usage)?;
    let runs = |facts: &Facts| facts.id.is_some() && facts.usage.cpu_time_ns.is_some();
    let busy = before
        .iter()
        .any(|(name, facts)| wanted(name) && runs(facts));
    let (after, elapsed) = if busy {
        sleep(SAMPLE);
        // From one sample to the other; each comes a survey's time after its beginning.
        let elapsed = began.elapsed();
        (survey(context, Detail::Usage)?, elapsed)
    } else {
        (before.clone(), SAMPLE)
    };

    let mut viewer = Viewer::new(context);
    after
        .iter()
        .filter(|(name, _)| wanted(name))
        .map(|(name, facts)| {
            let view = viewer.view(name, facts)?;
            let usage = &facts.usage;
            let first = before
                .iter()
                .find(|(_, earlier)| earlier.uuid == facts.uuid && earlier.id == facts.id);
            let cpu_percent = first.and_then(|(_, earlier)| {
                let spent = usage.cpu_time_ns?.checked_sub(earlier.usage.cpu_time_ns?)?;
                runs(facts).then(|| percent(spent, elapsed))
            });
            Ok(Stats {
                instance: view.instance,
                lab_id: view.lab_id,
                user_id: view.user_id,
                state: view.state,
                cpu_count: usage.vcpus,
                cpu_time_ns: usage.cpu_time_ns,
                cpu_percent,
                memory_mb: usage.memory_bytes.map(|bytes| bytes / MIB),
                memory_used_mb: usage.resident_bytes.map(|bytes| bytes / MIB),
                memory_guest_used_mb: usage
                    .guest_memory
                    .used_bytes(context.time())
                    .map(|bytes| bytes / MIB),
                disk_used_mb: images::allocated(&view.disk_path).map(|bytes| bytes / MIB),
                disk_read_bytes: usage.disk_read_bytes,
                disk_write_bytes: usage.disk_write_bytes,
                net_rx_bytes: usage.net_rx_bytes,
                net_tx_bytes: usage.net_tx_bytes,
                idle_seconds: view
                    .last_activity
                    .map(|at| context.time().duration_since(at).as_secs().max(0)),
            })
        })
        .collect()
}

/// CPU time as a share of the time that went by, to a tenth.
fn percent(cpu_ns: u64, elapsed: Duration) -> f64 {
    let share = Duration::from_nanos(cpu_ns).div_duration_f64(elapsed);
    (share * 1000.0).round() / 10.0
}

const HEADER: [&str; 9] = [
    "INSTANCE", "STATE", "CPU %", "VCPUS", "MEMORY", "USED", "GUEST", "DISK", "IDLE",
];

impl Stats {
    fn row(&self) -> Vec<String> {
        let dash = || "-".to_owned();
        let mib = |value: Option<u64>| value.map_or_else(dash, |value| format!("{value} MiB"));
        vec![
            self.instance.clone(),
            self.state.to_string(),
            self.cpu_percent
                .map_or_else(dash, |percent| format!("{percent:.1}")),
            self.cpu_count.map_or_else(dash, |count| count.to_string()),
            mib(self.memory_mb),
            mib(self.memory_used_mb),
            mib(self.memory_guest_used_mb),
            mib(self.disk_used_mb),
            self.idle_seconds.map_or_else(dash, |seconds| {
                age(jiff::SignedDuration::from_secs(seconds))
            }),
        ]
    }
}

impl Report for Stats {
    fn text(&self) -> String {
        table(&HEADER, [self.row()])
    }
}

impl Report for AllStats {
    fn text(&self) -> String {
        match self.instances.is_empty() {
            true => "no instances".to_owned(),
            false => table(&HEADER, self.instances.iter().map(Stats::row)),
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
