//! `cyyber report`

mod figures;
mod html;
mod plot;
mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use jiff::tz::TimeZone;

use crate::cli::Report as Options;
use crate::context::Context;
use crate::env;
use crate::files;
use crate::hypervisor::Detail;
use crate::instance::status::{InstanceStatus, statuses};
use crate::ledger::read::Outcome;
use crate::ledger::{Course, Ledger, Live};
use figures::{Figures, UseReport};

/// The number of steps of a plot over time.
const STEPS: u32 = 168;

pub fn run(context: &Context, options: &Options) -> Result<()> {
    let (mut ledger, zone) = (ledger(context, options), env::time_zone()?);
    read(context, &mut ledger, &zone)?;
    tell(context, options, ledger, live(context))
}

/// An empty ledger for a report.
pub fn ledger(context: &Context, options: &Options) -> Ledger {
    let (now, from) = (context.time(), context.time() - options.since.0);
    let mut ledger = Ledger::new(from);
    ledger.only = options.lab.as_ref().map(ToString::to_string);
    ledger.course = Some(Course::new(from, now, STEPS));
    ledger
}

/// Prints the report of what `ledger` has read. `live` are the facts about all instances from libvirt.
pub fn tell(
    context: &Context,
    options: &Options,
    mut ledger: Ledger,
    live: Result<BTreeMap<String, Live>>,
) -> Result<()> {
    let (now, zone) = (context.time(), env::time_zone()?);
    // Instances without an event in this period are not in the journal.
    let live = live.inspect_err(|error| {
        let left_out = "instances without an event in this period are left out";
        context.output.warn(&format!("{left_out}: {error:#}"));
    });
    ledger.close(live.ok(), now, &zone);
    if let Some(lab) = &options.lab
        && ledger.labs.is_empty()
    {
        context.config.lab(lab)?;
    }
    if ledger.unreadable > 0 {
        let what = "lines of the journal could not be parsed and are left out";
        context
            .output
            .warn(&format!("{} {what}", ledger.unreadable));
    }
    let report = UseReport::new(&ledger, options.lab.clone(), now);
    if let Some(file) = &options.html {
        let page = html::page(&report, &ledger, &zone)?;
        super::publish(file, "the report", &page, files::SHARED)?;
        if !context.output.is_json() {
            context.output.note(&format!("written: {}", file.display()));
            return Ok(());
        }
    }
    context.output.answer(&report)
}

/// Reads the new lines of the journal, and reports which of its files could not be read.
pub fn read(context: &Context, ledger: &mut Ledger, zone: &TimeZone) -> Result<()> {
    let outcome = ledger
        .read(&context.paths, zone, |lab| memory(context, lab))
        .context("failed to read the journal")?;
    warn(context, &outcome);
    Ok(())
}

/// The same for the journals of several hosts.
pub fn read_all(
    context: &Context,
    ledger: &mut Ledger,
    journals: &[(String, PathBuf)],
) -> Result<()> {
    let zone = env::time_zone()?;
    let outcome = ledger.read_all(journals, &zone, |lab| memory(context, lab));
    warn(context, &outcome);
    Ok(())
}

/// The memory of instances of `lab`, in MiB.
pub fn memory(context: &Context, lab: &str) -> Option<u64> {
    let lab = context.config.lab(&lab.parse().ok()?).ok()?;
    Some(u64::from(lab.memory_mb))
}

fn warn(context: &Context, outcome: &Outcome) {
    for trouble in &outcome.troubles {
        context.output.warn(&format!("the journal: {trouble}"));
    }
}

/// The sums as short texts.
pub fn headline(ledger: &Ledger) -> Vec<String> {
    Figures::new(&ledger.total()).headline()
}

/// The facts about all instances from libvirt.
fn live(context: &Context) -> Result<BTreeMap<String, Live>> {
    let all = context.hypervisor()?.survey(Detail::Power)?;
    Ok(live_of(
        context,
        statuses(context, &all, false, |_| {})?.iter(),
    ))
}

/// The same for instances whose status is known.
pub fn live_of<'a>(
    context: &Context,
    statuses: impl Iterator<Item = &'a InstanceStatus>,
) -> BTreeMap<String, Live> {
    let live = |status: &InstanceStatus| {
        let live = Live {
            lab: status.lab_id.to_string(),
            state: status.state,
            memory_mb: memory(context, status.lab_id.as_str()).unwrap_or(0),
            created: status.created,
        };
        (status.instance.clone(), live)
    };
    statuses.map(live).collect()
}
