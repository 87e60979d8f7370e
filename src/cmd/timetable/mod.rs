//! `cyyber timetable`

mod table;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::cli::Timetable as Options;
use crate::context::Context;
use crate::host;
use crate::instance::admission::memory;
use crate::names::LabId;
use crate::reaper::lessons;
use crate::timetable::Taught;
use crate::units::{MIB, Patience};

/// The coming lessons.
pub fn run(context: &Context, options: &Options) -> Result<()> {
    show(context, Schedule::read(context, options.ahead.0)?)
}

/// The same on the head of several hosts, which together have `memory_mb`.
pub fn of_hosts(context: &Context, options: &Options, memory_mb: u64) -> Result<()> {
    let mut schedule = Schedule::read(context, options.ahead.0)?;
    schedule.host_memory_mb = Some(memory_mb);
    show(context, schedule)
}

fn show(context: &Context, schedule: Schedule) -> Result<()> {
    for trouble in &schedule.troubles {
        context.output.warn(trouble);
    }
    context.output.answer(&schedule)
}

/// The lessons in a period, and the memory that they need.
#[derive(Debug, Serialize)]
pub struct Schedule {
    since: Timestamp,
    until: Timestamp,
    lessons: Vec<Row>,
    peak: Option<Peak>,
    /// The memory that instances can use on this host.
    host_memory_mb: Option<u64>,
    /// What could not be read.
    pub troubles: Vec<String>,
}

/// A lesson.
#[derive(Debug, Clone, Serialize)]
struct Row {
    lab_id: LabId,
    from: Timestamp,
    to: Timestamp,
    /// When its instances are started, if they are.
    prewarm_at: Option<Timestamp>,
    roster: String,
    /// The number of users; `None` if the roster cannot be read.
    users: Option<usize>,
    /// The memory of all their instances.
    memory_mb: Option<u64>,
}

/// When lessons need the most memory.
#[derive(Debug, Serialize)]
struct Peak {
    at: Timestamp,
    instances: usize,
    memory_mb: u64,
}

impl Schedule {
    /// The present lessons and those that begin in this period.
    pub fn read(context: &Context, ahead: SignedDuration) -> Result<Schedule> {
        let now = context.time();
        let until = now.saturating_add(ahead)?;
        let (timetable, troubles) = lessons::read(context, now, until);
        let courses = context.config.timetable.iter().zip(&timetable.courses);
        let rows = courses.flat_map(|(course, taught)| {
            let roster = course.roster.as_path().display().to_string();
            rows(context, taught, &roster)
        });
        let mut rows: Vec<Row> = rows.collect();
        rows.sort_by_key(|row| (row.from, row.to));
        Ok(Schedule {
            since: now,
            until,
            peak: peak(&rows),
            lessons: rows,
            host_memory_mb: available(context),
            troubles,
        })
    }
}

fn rows(context: &Context, taught: &Taught, roster: &str) -> Vec<Row> {
    let policy = context.policy(&taught.lab);
    let lab = context.config.lab(&taught.lab).ok();
    let need = lab.map(|lab| memory::need(u64::from(lab.memory_mb) * MIB) / MIB);
    let users = taught.users.as_ref().ok().map(Vec::len);
    let all = taught.lessons.iter().flatten();
    let row = |lesson: &crate::timetable::Lesson| Row {
        lab_id: taught.lab.clone(),
        from: lesson.from,
        to: lesson.to,
        prewarm_at: match policy.prewarm {
            Patience::Never => None,
            Patience::After(before) => lesson.from.saturating_sub(before.0).ok(),
        },
        roster: roster.to_owned(),
        users,
        memory_mb: users.zip(need).map(|(users, need)| users as u64 * need),
    };
    all.map(row).collect()
}

/// The beginning of a lesson at which the instances that are up for lessons need the most memory.
fn peak(rows: &[Row]) -> Option<Peak> {
    let begins = |row: &Row| row.prewarm_at.unwrap_or(row.from);
    let at_once = |at: Timestamp| {
        let mut peak = Peak {
            at,
            instances: 0,
            memory_mb: 0,
        };
        for row in rows.iter().filter(|row| begins(row) <= at && at < row.to) {
            peak.instances += row.users.unwrap_or(0);
            peak.memory_mb += row.memory_mb.unwrap_or(0);
        }
        peak
    };
    let mut most: Option<Peak> = None;
    for peak in rows.iter().map(|row| at_once(begins(row))) {
        // The first of equal maxima.
        if most.as_ref().is_none_or(|it| peak.memory_mb > it.memory_mb) {
            most = Some(peak);
        }
    }
    most
}

/// The memory that instances can use on this host, in MiB.
fn available(context: &Context) -> Option<u64> {
    let is_local = |context: &Context| Some(context.hypervisor().ok()?.is_local());
    let limit = context.config.host.max_memory.map(|most| most.0);
    let host = match is_local(context) {
        Some(true) => host::memory().ok(),
        _ => None,
    };
    let host = host.map(|memory| memory.total.saturating_sub(memory::reserve(memory)));
    Some(host.into_iter().chain(limit).min()? / MIB)
}
