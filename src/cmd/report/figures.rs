//! The figures of a report, as in its JSON.

use std::collections::BTreeMap;

use clap::ValueEnum;
use jiff::Timestamp;
use serde::Serialize;

use crate::ledger::durations::Durations;
use crate::ledger::{Account, Ledger};
use crate::names::{LabId, Rung, State};

/// The usage and the policy's steps in a period.
#[derive(Debug, Serialize)]
pub struct UseReport {
    /// The start of the period; not before the journal began.
    pub since: Timestamp,
    pub until: Timestamp,
    /// The lab, if the report is about one lab.
    pub lab_id: Option<LabId>,
    #[serde(flatten)]
    pub total: Figures,
    /// The one with the most memory used first.
    pub labs: Vec<LabFigures>,
    pub unreadable_lines: u64,
}

#[derive(Debug, Serialize)]
pub struct LabFigures {
    pub lab_id: String,
    #[serde(flatten)]
    pub figures: Figures,
}

#[derive(Debug, Serialize)]
pub struct Figures {
    pub use_hours: f64,
    pub memory_used_gib_hours: f64,
    /// Memory use without the idle policy.
    pub memory_without_policy_gib_hours: f64,
    pub memory_freed_gib_hours: BTreeMap<State, f64>,
    pub memory_saved_percent: Option<f64>,
    pub state_hours: BTreeMap<State, f64>,
    pub steps: BTreeMap<Rung, u64>,
    pub failed_steps: u64,
    pub pauses: u64,
    pub resumes: Times,
    pub starts: Times,
    /// How many instances were started for lessons.
    pub started_for_lessons: u64,
    /// How many lessons began, and for how many of them all instances were ready.
    pub lessons: u64,
    pub lessons_all_ready: u64,
    /// How many instances were to be ready for them, and how many were.
    pub lesson_instances: u64,
    pub lesson_instances_ready: u64,
    pub woken_too_soon: u64,
    pub woken_too_soon_percent: Option<f64>,
    pub failed_starts: Vec<FailedStarts>,
    pub builds: Times,
    pub failed_builds: u64,
    /// Hours of use by hour of the week, from Monday, midnight.
    pub hours_of_week: Vec<f64>,
}

/// The number of durations, their 50th and 95th percentile, and the longest.
#[derive(Debug, Serialize)]
pub struct Times {
    pub count: u64,
    pub p50_seconds: Option<f64>,
    pub p95_seconds: Option<f64>,
    pub longest_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
pub struct FailedStarts {
    pub code: String,
    pub count: u64,
    /// The reason of the last failure.
    pub reason: String,
}

impl UseReport {
    pub fn new(ledger: &Ledger, lab_id: Option<LabId>, until: Timestamp) -> UseReport {
        let figures = |(lab, account): (&String, &Account)| LabFigures {
            lab_id: lab.clone(),
            figures: Figures::new(account),
        };
        let mut labs: Vec<_> = ledger.labs.iter().map(figures).collect();
        let cost = |lab: &LabFigures| lab.figures.memory_used_gib_hours;
        labs.sort_by(|one, other| cost(other).total_cmp(&cost(one)));
        UseReport {
            since: ledger.from.min(until),
            until,
            lab_id,
            total: Figures::new(&ledger.total()),
            labs,
            unreadable_lines: ledger.unreadable,
        }
    }
}

impl Figures {
    pub fn new(account: &Account) -> Figures {
        let (used, freed) = (account.used, account.all_freed());
        let without = used.saturating_add(freed);
        let failed = account.failed_starts.iter();
        Figures {
            use_hours: hours(account.use_ms()),
            memory_used_gib_hours: gib_hours(used),
            memory_without_policy_gib_hours: gib_hours(without),
            memory_freed_gib_hours: by_key(&account.freed, gib_hours),
            memory_saved_percent: percent(freed, without),
            state_hours: by_key(&account.ms, hours),
            steps: Rung::value_variants()
                .iter()
                .map(|step| (*step, account.steps.get(step).copied().unwrap_or(0)))
                .collect(),
            failed_steps: account.failed_steps,
            pauses: account.pauses,
            resumes: Times::new(&account.resumes),
            starts: Times::new(&account.starts),
            started_for_lessons: account.for_lessons,
            lessons: account.lessons.begun,
            lessons_all_ready: account.lessons.all_ready,
            lesson_instances: account.lessons.ready + account.lessons.late,
            lesson_instances_ready: account.lessons.ready,
            woken_too_soon: account.too_soon,
            woken_too_soon_percent: percent(account.too_soon, account.taken_down()),
            failed_starts: failed
                .map(|(code, (count, reason))| FailedStarts {
                    code: code.clone(),
                    count: *count,
                    reason: reason.clone(),
                })
                .collect(),
            builds: Times::new(&account.builds),
            failed_builds: account.failed_builds,
            hours_of_week: account.week.iter().map(|ms| hours(*ms)).collect(),
        }
    }

    /// The total that the policy freed.
    pub fn freed(&self) -> f64 {
        self.memory_without_policy_gib_hours - self.memory_used_gib_hours
    }
}

impl Times {
    fn new(durations: &Durations) -> Times {
        Times {
            count: durations.count,
            p50_seconds: durations.quantile(0.5),
            p95_seconds: durations.quantile(0.95),
            longest_seconds: durations.quantile(1.0),
        }
    }
}

fn by_key<K: Copy + Ord>(of: &BTreeMap<K, u64>, unit: fn(u64) -> f64) -> BTreeMap<K, f64> {
    of.iter().map(|(key, value)| (*key, unit(*value))).collect()
}

fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| (part as f64 / whole as f64 * 1000.0).round() / 10.0)
}

fn hours(ms: u64) -> f64 {
    rounded(ms as f64 / 3_600_000.0)
}

/// From MiB × milliseconds.
pub fn gib_hours(mib_ms: u64) -> f64 {
    rounded(mib_ms as f64 / 1024.0 / 3_600_000.0)
}

/// Rounded to thousandths: more digits mean nothing.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
