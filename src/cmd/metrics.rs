//! `cyyber metrics`
#![deny(clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::publish;
use crate::cli::Metrics as Options;
use crate::context::Context;
use crate::env;
use crate::gateway::tally::{self, Status};
use crate::host;
use crate::hypervisor::{Detail, Facts, Hypervisor};
use crate::images::{self, base, builds};
use crate::instance::status::{InstanceStatus, statuses};
use crate::ledger::durations::Durations;
use crate::ledger::{Account, Ledger};
use crate::names::{InstanceName, Rung, State};
use crate::output::Report;
use crate::prometheus::{Metric, text, whole as float};
use crate::reaper::passes::Passes;
use crate::sharing;
use crate::state::lock::{self, Lock};
use crate::units::MIB;

/// Readable for collectors, such as the node exporter.
const READABLE: u32 = 0o644;

pub fn run(context: &Context, options: &Options) -> Result<()> {
    let hypervisor = context.hypervisor()?;
    // Before instances are read: what is recorded later is counted later.
    let ledger = match context.scope().only() {
        None => Counted::begin(context),
        Some(_) => None,
    };
    let all = hypervisor.survey(Detail::Usage)?;
    let statuses = statuses(context, &all, false, |_| {})?.into_iter();
    let seen: Vec<_> = statuses
        .zip(all.into_iter().map(|(_, facts)| facts))
        .collect();
    let mut metrics = of_host(context)?;
    metrics.push(of_states(&seen));
    metrics.extend(savings(&seen));
    if let Some(ledger) = ledger {
        metrics.extend(images_of(context));
        let statuses = seen.iter().map(|(status, _)| status);
        metrics.extend(of_ledger(context, &ledger.end(context, statuses)));
    }
    metrics.extend(of_instances(&seen));
    metrics.extend(of_gateway(context)?);
    tell(context, options, metrics)
}

/// Prints or writes metrics, according to `options`.
pub fn tell(context: &Context, options: &Options, metrics: Vec<Metric>) -> Result<()> {
    let answer = Metrics { metrics };
    match &options.textfile {
        None => context.output.answer(&answer),
        Some(path) => {
            let text = answer.text() + "\n";
            publish(path, "the metrics", &text, READABLE)?;
            context.output.answer(&Written {
                textfile: path.clone(),
                samples: answer.metrics.iter().map(Metric::samples).sum(),
            })
        }
    }
}

fn of_host(context: &Context) -> Result<Vec<Metric>> {
    let memory = host::memory()?;
    let mut build = Metric::new("cyyber_build_info", "The version of cyyber.");
    build.add([("version", env!("CARGO_PKG_VERSION"))], 1.0);
    let passes = Passes::read(&context.paths.passes());
    let mut disk = Metric::new(
        "cyyber_disk_bytes",
        "Size of the file system of a directory.",
    );
    let mut free = Metric::new(
        "cyyber_disk_available_bytes",
        "Space available to cyyber in the file system of a directory, without what is reserved \
         for root.",
    );
    let saved = context.hypervisor()?.saved_memory_directory();
    let directories = [
        ("storage", Some(context.paths.storage().to_owned())),
        ("state", Some(context.paths.state().to_owned())),
        ("saved_memory", saved),
    ];
    for (name, directory) in directories {
        // A missing directory has no size.
        if let Some(stat) = directory.and_then(|it| rustix::fs::statvfs(&it).ok()) {
            let bytes = |blocks: u64| float(blocks.saturating_mul(stat.f_frsize));
            disk.add([("directory", name)], bytes(stat.f_blocks));
            free.add([("directory", name)], bytes(stat.f_bavail));
        }
    }
    let cpu = host::cpu()?;
    Ok(vec![
        build,
        Metric::new("cyyber_host_memory_bytes", "Memory of the host.").with(float(memory.total)),
        Metric::new(
            "cyyber_host_memory_available_bytes",
            "Memory of the host that new programs can use without swapping.",
        )
        .with(float(memory.available)),
        Metric::new("cyyber_host_cpus", "CPUs of the host.").with(float(cpu.count as u64)),
        Metric::new(
            "cyyber_host_cpu_busy_seconds_total",
            "Time that the host's CPUs were busy since boot, in total.",
        )
        .with(cpu.busy_seconds()),
        disk,
        free,
        Metric::new(
            "cyyber_reaper_last_pass_timestamp_seconds",
            "Time of the last complete pass of cyyber reap, in seconds since 1970.",
        )
        .with(passes.last().map(since_1970)),
        Metric::new(
            "cyyber_reaper_last_pass_duration_seconds",
            "How long the last complete pass of cyyber reap took.",
        )
        .with(passes.took_ms.map(seconds)),
    ])
}

fn since_1970(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}

/// The ledger, under its lock.
struct Counted {
    ledger: Ledger,
    zone: TimeZone,
    _lock: Lock,
}

impl Counted {
    fn begin(context: &Context) -> Option<Counted> {
        let begin = || -> Result<Counted> {
            let path = context.paths.ledger_lock();
            let _lock = Lock::take(&path, "the ledger", lock::PATIENCE)?;
            let mut ledger = Ledger::load(&context.paths);
            let zone = env::time_zone()?;
            super::report::read(context, &mut ledger, &zone)?;
            Ok(Counted {
                ledger,
                zone,
                _lock,
            })
        };
        let left_out = |error: &_| format!("figures from the journal are left out: {error:#}");
        let begun = begin().inspect_err(|error| context.output.warn(&left_out(error)));
        begun.ok()
    }

    /// Counts up to now, and saves the result.
    fn end<'a>(
        mut self,
        context: &Context,
        statuses: impl Iterator<Item = &'a InstanceStatus>,
    ) -> Ledger {
        let live = super::report::live_of(context, statuses);
        self.ledger.close(Some(live), context.time(), &self.zone);
        if let Err(error) = self.ledger.save(&context.paths) {
            // The next count reads the same lines again.
            context.output.warn(&format!(
                "failed to save the figures from the journal: {error}"
            ));
        }
        self.ledger
    }
}

/// Disk usage, and whether base images are unchanged.
fn images_of(context: &Context) -> Vec<Metric> {
    let mut bases = Metric::new("cyyber_base_bytes", "Size of a base image.");
    let mut changed = Metric::new(
        "cyyber_base_changed",
        "1 if the size of a base image changed since its build, or if somebody can write to it.",
    );
    for (lab, base) in builds::all(&context.paths).unwrap_or_default() {
        let labels = [("lab", lab.as_str()), ("build", &base.build)];
        if let Some(bytes) = images::allocated(&base.path) {
            bases.add(labels, float(bytes));
        }
        changed.add(labels, float(u64::from(base::is_changed(&base))));
    }
    let mut storage = Metric::new(
        "cyyber_storage_bytes",
        "Disk space used by base images, stages, disks of instances, or saved memory.",
    );
    let saved = context.hypervisor().ok();
    let saved = saved.and_then(Hypervisor::saved_memory_directory);
    let is_saved = |file: &str| {
        let name = Hypervisor::saved_memory_name(file);
        name.is_some_and(|name| name.parse::<InstanceName>().is_ok())
    };
    let any = |_: &str| true;
    let kinds: [(_, _, Choice); 4] = [
        ("bases", Some(context.paths.base_images()), &any),
        ("stages", Some(context.paths.stages()), &any),
        ("overlays", Some(context.paths.user_instances()), &any),
        ("saved_memory", saved, &is_saved),
    ];
    for (kind, directory, is_ours) in kinds {
        if let Some(bytes) = directory.and_then(|it| allocated_in(&it, is_ours)) {
            storage.add([("kind", kind)], float(bytes));
        }
    }
    vec![bases, changed, storage]
}

/// Whether a file is ours, by its name.
type Choice<'a> = &'a dyn Fn(&str) -> bool;

/// The space used by the files in `directory`; `None` if it is unreadable.
fn allocated_in(directory: &Path, is_ours: Choice) -> Option<u64> {
    let files = std::fs::read_dir(directory).ok()?;
    let sizes = files.filter_map(|file| {
        let file = file.ok()?;
        let is_ours = file.file_name().to_str().is_some_and(is_ours);
        is_ours.then(|| images::allocated(&file.path()))?
    });
    Some(sizes.fold(0, u64::saturating_add))
}

/// A counter of a lab.
type Counter = fn(&Account) -> f64;

const COUNTERS: [(&str, &str, Counter); 7] = [
    (
        "cyyber_memory_used_byte_seconds_total",
        "Memory of running instances multiplied by time.",
        |it| byte_seconds(it.used),
    ),
    (
        "cyyber_pauses_total",
        "Pauses, by the idle policy or by hand.",
        |it| float(it.pauses),
    ),
    (
        "cyyber_woken_too_soon_total",
        "Instances woken within 5 minutes after the idle policy paused or stopped them.",
        |it| float(it.too_soon),
    ),
    (
        "cyyber_reaper_failed_steps_total",
        "Steps of the idle policy that failed.",
        |it| float(it.failed_steps),
    ),
    ("cyyber_failed_builds_total", "Builds that failed.", |it| {
        float(it.failed_builds)
    }),
    ("cyyber_lessons_total", "Lessons that began.", |it| {
        float(it.lessons.begun)
    }),
    (
        "cyyber_lessons_not_ready_total",
        "Lessons that began before all instances were ready.",
        |it| float(it.lessons.begun.saturating_sub(it.lessons.all_ready)),
    ),
];

/// A histogram of a lab.
type Histogram = fn(&Account) -> &Durations;

const HISTOGRAMS: [(&str, &str, Histogram); 3] = [
    (
        "cyyber_resume_seconds",
        "Time to resume from a pause.",
        |it| &it.resumes,
    ),
    (
        "cyyber_start_seconds",
        "Time to power on, until the command ended.",
        |it| &it.starts,
    ),
    ("cyyber_build_seconds", "Time that builds took.", |it| {
        &it.builds
    }),
];

/// The kinds of failure that a start can have; see `journal::failure`.
const FAILURES: [&str; 4] = ["failed", "busy", "capacity", "unavailable"];

const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Figures computed from the journal. Events that have not happened yet in a lab are zero: the
/// growth of a series that begins with its first event would not be noticed.
fn of_ledger(context: &Context, ledger: &Ledger) -> Vec<Metric> {
    let none = Account::default();
    let configured = context.config.labs.iter();
    let configured = configured.map(|lab| (lab.lab_id.as_str(), &none));
    let counted = ledger.labs.iter().map(|(lab, sum)| (lab.as_str(), sum));
    let labs: BTreeMap<&str, &Account> = configured.chain(counted).collect();
    let mut metrics = Vec::new();
    for (name, help, value) in COUNTERS {
        let mut metric = Metric::new(name, help);
        for (lab, account) in &labs {
            metric.add([("lab", *lab)], value(account));
        }
        metrics.push(metric);
    }
    for (name, help, of) in HISTOGRAMS {
        let mut metric = Metric::histogram(name, help);
        for (lab, account) in &labs {
            let (buckets, sum) = of(account).histogram();
            metric.observe(("lab", lab), &buckets, of(account).count, sum);
        }
        metrics.push(metric);
    }
    let mut freed = Metric::new(
        "cyyber_memory_freed_byte_seconds_total",
        "Memory that the idle policy freed multiplied by time, by the state that it took \
         instances to.",
    );
    let mut states = Metric::new(
        "cyyber_instance_state_seconds_total",
        "Time that instances were in each state.",
    );
    let mut steps = Metric::new(
        "cyyber_reaper_steps_total",
        "Steps of the idle policy, by the state that they lead to.",
    );
    let mut failed = Metric::new(
        "cyyber_failed_starts_total",
        "Starts and resumes that failed, by the kind of failure.",
    );
    let mut for_lessons = Metric::new(
        "cyyber_lesson_starts_total",
        "Starts and resumes for lessons, by what became of them.",
    );
    let mut at_the_bell = Metric::new(
        "cyyber_lesson_instances_total",
        "Instances that were to be ready when lessons began, by whether they were.",
    );
    let mut week = Metric::new(
        "cyyber_use_seconds_total",
        "Time that instances were in use, by weekday and hour of this host's clock.",
    );
    for (lab, account) in labs {
        let lab = ("lab", lab);
        for state in [State::Paused, State::Stopped] {
            let value = account
                .freed
                .get(&state)
                .map_or(0.0, |it| byte_seconds(*it));
            freed.add([lab, ("to", state.as_str())], value);
        }
        for state in State::value_variants() {
            let value = account.ms.get(state).map_or(0.0, |it| seconds(*it));
            states.add([lab, ("state", state.as_str())], value);
        }
        for step in Rung::value_variants() {
            let value = account.steps.get(step).map_or(0.0, |it| float(*it));
            steps.add([lab, ("to", step.as_str())], value);
        }
        for code in FAILURES {
            let failures = account.failed_starts.get(code);
            let value = failures.map_or(0.0, |(count, _)| float(*count));
            failed.add([lab, ("code", code)], value);
        }
        for (outcome, count) in [
            ("done", account.for_lessons),
            ("failed", account.failed_for_lessons),
        ] {
            for_lessons.add([lab, ("outcome", outcome)], float(count));
        }
        for (ready, count) in [("yes", account.lessons.ready), ("no", account.lessons.late)] {
            at_the_bell.add([lab, ("ready", ready)], float(count));
        }
        // Most hours of a week stay empty.
        for (n, ms) in account.week.iter().enumerate().filter(|(_, ms)| **ms > 0) {
            let hour = n.rem_euclid(24).to_string();
            let day = WEEKDAYS.get(n.div_euclid(24)).copied().unwrap_or_default();
            week.add([lab, ("weekday", day), ("hour", &hour)], seconds(*ms));
        }
    }
    let unreadable = Metric::new(
        "cyyber_journal_unreadable_lines_total",
        "Lines of the journal that could not be parsed.",
    )
    .with(float(ledger.unreadable));
    metrics.extend([freed, states, steps, failed]);
    metrics.extend([for_lessons, at_the_bell, week, unreadable]);
    metrics
}

fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

/// From MiB × milliseconds.
fn byte_seconds(mib_ms: u64) -> f64 {
    float(mib_ms) / 1000.0 * float(MIB)
}

/// Every state, including those without instances: a series that comes and goes is hard to use.
fn of_states(seen: &[(InstanceStatus, Facts)]) -> Metric {
    let mut metric = Metric::new("cyyber_instances", "Instances by their state.");
    for state in State::value_variants() {
        let there = seen.iter().filter(|(status, _)| status.state == *state);
        metric.add([("state", state.as_str())], float(there.count() as u64));
    }
    metric
}

/// What the host saves.
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
    let merged = sharing::look().map(|sharing| float(sharing.saved));
    vec![
        Metric::new(
            "cyyber_memory_merged_bytes",
            "Memory of the host saved by merging equal pages (host.share_memory).",
        )
        .with(merged.ok()),
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

/// A figure of an instance, if known.
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
        |status, _| status.last_activity.map(since_1970),
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

/// Metrics of the gateway, if there is one. Figures that it no longer reports are left out.
fn of_gateway(context: &Context) -> Result<Vec<Metric>> {
    let Some(status) = Status::read(&context.paths)? else {
        return Ok(Vec::new());
    };
    let up = Metric::new("cyyber_gateway_up", "Whether the gateway runs.");
    if !tally::runs(&context.paths) {
        return Ok(vec![up.with(0.0)]);
    }
    let mut sessions = Metric::new("cyyber_gateway_sessions", "Open sessions at consoles.");
    let mut opened = Metric::new(
        "cyyber_gateway_sessions_total",
        "Sessions since the gateway was started.",
    );
    for (access, now, all) in [
        ("control", status.controlling, status.controlled),
        ("view", status.viewing, status.viewed),
    ] {
        sessions.add([("access", access)], float(now));
        opened.add([("access", access)], float(all));
    }
    let mut closed = Metric::new(
        "cyyber_gateway_closed_total",
        "Connections that ended or were refused, by close code.",
    );
    for (code, count) in &status.closed {
        closed.add([("code", &*code.to_string())], float(*count));
    }
    let sent = Metric::new("cyyber_gateway_sent_bytes_total", "Sent to browsers.");
    let sent = sent.with(float(status.sent_bytes));
    let name = "cyyber_gateway_received_bytes_total";
    let received = Metric::new(name, "Received from browsers.");
    let received = received.with(float(status.received_bytes));
    Ok(vec![up.with(1.0), sessions, opened, closed, sent, received])
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

/// Print nothing: cron would mail it.
impl Report for Written {}
