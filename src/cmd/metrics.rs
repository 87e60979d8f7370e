//! `cyyber metrics`
#![deny(clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde::Serialize;

use crate::cli::Metrics as Options;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::files;
use crate::host;
use crate::hypervisor::{Detail, Facts};
use crate::images;
use crate::instance::status::{InstanceStatus, statuses};
use crate::names::State;
use crate::output::Report;
use crate::prometheus::{Metric, text};
use crate::reaper::passes::Passes;
use crate::sharing;

/// For whoever collects metrics, as the node exporter does.
const READABLE: u32 = 0o644;

pub fn run(context: &Context, options: &Options) -> Result<()> {
    let all = context.hypervisor()?.survey(Detail::Usage)?;
    let statuses = statuses(context, &all, false)?.into_iter();
    let seen: Vec<_> = statuses
        .zip(all.into_iter().map(|(_, facts)| facts))
        .collect();
    let mut metrics = of_host(context)?;
    metrics.push(of_states(&seen));
    metrics.extend(savings(&seen));
    metrics.extend(of_instances(&seen));
    let answer = Metrics { metrics };
    match &options.textfile {
        None => context.output.answer(&answer),
        Some(path) => {
            write(path, &answer)?;
            context.output.answer(&Written {
                textfile: path.clone(),
                samples: answer.metrics.iter().map(Metric::samples).sum(),
            })
        }
    }
}

/// Puts the file in its place as a whole. A directory on the way may be an administrator's link.
fn write(path: &Path, answer: &Metrics) -> Result<()> {
    let write = || -> Result<()> {
        let name = path.file_name().context("it has no name")?;
        if let Ok(there) = path.symlink_metadata() {
            anyhow::ensure!(there.is_file(), "something else than a file is there");
        }
        let directory = std::path::absolute(path)?;
        let directory = directory.parent().unwrap_or(Path::new("/"));
        let place = std::fs::canonicalize(directory)?.join(name);
        let text = answer.text() + "\n";
        Ok(files::replace_soon(&place, text.as_bytes(), READABLE)?)
    };
    write().with_context(|| {
        let message = format!("failed to write the metrics to {}", path.display());
        Fault::new(Kind::Failed, message).hint("name a file in a directory that is there")
    })
}

fn of_host(context: &Context) -> Result<Vec<Metric>> {
    let memory = host::memory()?;
    let mut build = Metric::new("cyyber_build_info", "The version of cyyber.");
    build.add([("version", env!("CARGO_PKG_VERSION"))], 1.0);
    let mut pass = Metric::new(
        "cyyber_reaper_last_pass_timestamp_seconds",
        "Time of the last complete pass of cyyber reap, in seconds since 1970.",
    );
    if let Some(last) = Passes::read(&context.paths.passes()).last() {
        pass.add([], last.as_duration().as_secs_f64());
    }
    Ok(vec![
        build,
        Metric::new("cyyber_host_memory_bytes", "Memory of the host.").with(float(memory.total)),
        Metric::new(
            "cyyber_host_memory_available_bytes",
            "Memory of the host that new programs can use without swapping.",
        )
        .with(float(memory.available)),
        pass,
    ])
}

/// Every state, also those that no instance is in: a series that comes and goes is of little use.
fn of_states(seen: &[(InstanceStatus, Facts)]) -> Metric {
    let mut metric = Metric::new("cyyber_instances", "Instances by their state.");
    for state in State::value_variants() {
        let there = seen.iter().filter(|(status, _)| status.state == *state);
        metric.add([("state", state.as_str())], float(there.count() as u64));
    }
    metric
}

/// What the host is spared.
fn savings(seen: &[(InstanceStatus, Facts)]) -> Vec<Metric> {
    let facts = seen.iter().map(|(_, facts)| facts);
    let paused = facts.filter(|facts| facts.saved && facts.id.is_none());
    let memory = paused.filter_map(|facts| facts.usage().memory_bytes);
    let memory = memory.fold(0, u64::saturating_add);
    let mut sizes = BTreeMap::new();
    let size = |base| {
        *sizes
            .entry(base)
            .or_insert_with(|| images::allocated(base).unwrap_or(0))
    };
    let bases = seen
        .iter()
        .filter_map(|(status, _)| status.base_image.as_deref());
    let copied: u64 = bases.map(size).sum();
    let there: u64 = sizes.values().sum();
    let mut merged = Metric::new(
        "cyyber_memory_merged_bytes",
        "Memory of the host saved by merging equal pages (host.share_memory).",
    );
    if let Ok(sharing) = sharing::look() {
        merged.add([], float(sharing.saved));
    }
    vec![
        merged,
        Metric::new(
            "cyyber_memory_saved_bytes",
            "Memory of the host freed by paused instances.",
        )
        .with(float(memory)),
        Metric::new(
            "cyyber_disk_saved_bytes",
            "Disk space saved by sharing base images, compared with full copies.",
        )
        .with(float(copied.saturating_sub(there))),
    ]
}

/// A figure of an instance, where it is known.
type Figure = fn(&InstanceStatus, &Facts) -> Option<f64>;

const FIGURES: [(&str, &str, Figure); 10] = [
    ("cyyber_instance_vcpus", "Virtual CPUs.", |_, facts| {
        facts.usage().vcpus.map(float)
    }),
    (
        "cyyber_instance_cpu_seconds_total",
        "CPU time since power-on.",
        |_, facts| Some(Duration::from_nanos(facts.usage().cpu_time_ns?).as_secs_f64()),
    ),
    (
        "cyyber_instance_memory_bytes",
        "Memory assigned to the guest.",
        |_, facts| facts.usage().memory_bytes.map(float),
    ),
    (
        "cyyber_instance_memory_resident_bytes",
        "Memory of the host that it uses now.",
        |_, facts| facts.usage().resident_bytes.map(float),
    ),
    (
        "cyyber_instance_disk_bytes",
        "Size of its own disk, without the shared base image.",
        |status, _| images::allocated(&status.disk_path).map(float),
    ),
    (
        "cyyber_instance_disk_read_bytes_total",
        "Read from its disk since power-on.",
        |_, facts| facts.usage().disk_read_bytes.map(float),
    ),
    (
        "cyyber_instance_disk_written_bytes_total",
        "Written to its disk since power-on.",
        |_, facts| facts.usage().disk_write_bytes.map(float),
    ),
    (
        "cyyber_instance_network_receive_bytes_total",
        "Received by its network interface since power-on.",
        |_, facts| facts.usage().net_rx_bytes.map(float),
    ),
    (
        "cyyber_instance_network_transmit_bytes_total",
        "Sent by its network interface since power-on.",
        |_, facts| facts.usage().net_tx_bytes.map(float),
    ),
    (
        "cyyber_instance_last_activity_timestamp_seconds",
        "When it was last used, in seconds since 1970.",
        |status, _| Some(status.last_activity?.as_duration().as_secs_f64()),
    ),
];

fn of_instances(seen: &[(InstanceStatus, Facts)]) -> Vec<Metric> {
    fn labels(status: &InstanceStatus) -> [(&'static str, &str); 3] {
        [
            ("instance", &status.instance),
            ("lab", status.lab_id.as_str()),
            ("user", status.user_id.as_str()),
        ]
    }
    let mut states = Metric::new("cyyber_instance_state", "The state that an instance is in.");
    for (status, _) in seen {
        let state = [("state", status.state.as_str())];
        states.add(labels(status).into_iter().chain(state), 1.0);
    }
    let mut metrics = vec![states];
    for (name, help, figure) in FIGURES {
        let mut metric = Metric::new(name, help);
        for (status, facts) in seen {
            if let Some(value) = figure(status, facts) {
                metric.add(labels(status), value);
            }
        }
        metrics.push(metric);
    }
    metrics
}

/// Prometheus counts in floating point; what is above 2^53 loses its last digits.
#[expect(clippy::cast_precision_loss, reason = "all that the format can hold")]
fn float(count: u64) -> f64 {
    count as f64
}

#[derive(Serialize)]
struct Metrics {
    metrics: Vec<Metric>,
}

impl Report for Metrics {
    fn text(&self) -> String {
        text(&self.metrics)
    }
}

#[derive(Serialize)]
struct Written {
    textfile: PathBuf,
    samples: usize,
}

/// Without a text: cron would mail it.
impl Report for Written {}
