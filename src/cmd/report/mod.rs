//! `cyyber report`

mod figures;
mod html;
mod plot;
mod table;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use jiff::tz::TimeZone;

use crate::cli::Report as Options;
use crate::context::Context;
use crate::env;
use crate::files;
use crate::hypervisor::Detail;
use crate::instance::status::{InstanceStatus, statuses};
use crate::ledger::{Course, Ledger, Live};
use figures::{Figures, UseReport};

/// The number of steps of a plot over time.
const STEPS: u32 = 168;

pub fn run(context: &Context, options: &Options) -> Result<()> {
    let (now, zone) = (context.time(), env::time_zone()?);
    let from = now - options.since.0;
    let mut ledger = Ledger::new(from);
    ledger.only = options.lab.as_ref().map(ToString::to_string);
    ledger.course = Some(Course::new(from, now, STEPS));
    read(context, &mut ledger, &zone)?;
    // Instances without an event in this period are not in the journal.
    let live = live(context).inspect_err(|error| {
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
    let memory = |lab: &str| {
        let lab = context.config.lab(&lab.parse().ok()?).ok()?;
        Some(u64::from(lab.memory_mb))
    };
    let outcome = ledger
        .read(&context.paths, zone, memory)
        .context("failed to read the journal")?;
    for trouble in outcome.troubles {
        context.output.warn(&format!("the journal: {trouble}"));
    }
    Ok(())
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
        let lab = context.config.lab(&status.lab_id);
        let live = Live {
            lab: status.lab_id.to_string(),
            state: status.state,
            memory_mb: lab.map_or(0, |lab| lab.memory_mb.into()),
            created: status.created,
        };
        (status.instance.clone(), live)
    };
    statuses.map(live).collect()
}
