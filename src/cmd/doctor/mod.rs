//! `cyyber doctor`: is this host ready? It checks, and changes nothing.

mod cluster;
mod confinement;
mod directories;
mod finding;
mod gateway;
mod images;
mod libvirt;
mod limits;
mod machine;
mod reaper;
mod timetable;

use anyhow::Result;

use crate::cli::{Doctor, Global};
use crate::clock::Moment;
use crate::cluster::Place;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::output::Output;
use finding::{Check, Finding, Findings};

pub fn run(global: &Global, output: &Output, now: Moment, options: &Doctor) -> Result<()> {
    let (context, broken) = Context::of_host(global, output.clone(), now)?;
    context.require_everyone("cyyber doctor")?;
    let context = &context;
    let mut findings = vec![config(context, broken.as_ref())];
    findings.push(machine::virtualisation(context));
    let (libvirt, account) = libvirt::check(context);
    findings.extend(libvirt);
    if let Ok(hypervisor) = context.hypervisor() {
        findings.extend(confinement::check(context, hypervisor));
    }
    findings.extend(machine::programs());
    let account = account.map(|shared| confinement::account(context, shared));
    findings.extend(directories::check(context, account));
    findings.extend(limits::check(context));
    findings.extend(machine::room(context));
    findings.extend(machine::merging(context));
    findings.extend(images::check(context, options.verify));
    // A head has no instances, and each host runs its own passes.
    if !matches!(context.place(), Some(Place::Head(_))) {
        findings.push(reaper::check(context));
        findings.extend(timetable::check(context));
    }
    findings.extend(gateway::check(context));
    findings.extend(cluster::check(context));

    let report = Findings::of(findings, context.time());
    context.output.answer(&report)?;
    if report.ready {
        return Ok(());
    }
    let (failures, all) = (report.failures(), report.findings.len());
    let message = format!("this host is not ready: {failures} of {all} findings are failures");
    let hint = "each finding has its remedy; `make setup` applies most of them";
    Err(Fault::new(Kind::Failed, message).hint(hint).into())
}

fn config(context: &Context, broken: Option<&anyhow::Error>) -> Finding {
    if let Some(error) = broken {
        let remedy = "correct the file: man labs-config.json has every key";
        return Check("config").error(error, remedy);
    }
    let (file, labs) = (context.config.path.display(), context.config.labs.len());
    let s = if labs == 1 { "" } else { "s" };
    Check("config").ok(format!("{file}: {labs} lab{s}"))
}
