//! `cyyber instance reset`

use anyhow::{Context as _, Result};

use super::cleanup::destroy;
use super::define;
use super::disk;
use super::references::References;
use super::single::{self, Single, Was};
use super::suggest;
use super::traces::Traces;
use super::view;
use crate::context::Context;
use crate::files;
use crate::images::{base, builds, overlay};
use crate::instance::InstanceName;

pub fn run(context: &Context, name: &InstanceName, yes: bool) -> Result<Single> {
    context.config.lab(&name.lab)?;
    existing(context, name)?;
    if !yes {
        let lines = [format!(
            "{name} gets a clean disk on the current base image: everything in it is lost"
        )];
        let stop = context.interrupted()?;
        context.output.confirm(&lines, "Reset it?", stop)?;
    }
    let _lock = super::lock(context, name)?;
    let traces = existing(context, name)?;
    let was = traces.facts.as_ref().map_or(Was::Absent, |facts| {
        Was::In(view::state(context, name, facts))
    });
    let _held = builds::hold(&context.paths, &name.lab)?;
    let base = base::current(&context.paths, &name.lab)?;
    let size = disk::size(context, name, &base)?;
    // Ready before anything is given up, so that a full disk costs nothing.
    let new = overlay::prepare(&context.paths, name, &base, size)?;
    let replaced = give_up_old(context, &traces)
        .and_then(|()| overlay::replace(&context.paths, name, &new))
        .inspect_err(|_| overlay::discard(&new))
        .with_context(|| format!("failed to reset {name}"))?;
    // Under a new UUID: memory that was saved before can never wake up on this disk.
    define::define(context, name, &replaced, &base)?;
    let reason = format!("reset to build {}", base.build);
    Ok(single::answer(context, name, true, Some(reason), None)?.after(was))
}

/// The instance, which must be here, at least its disk, and be ours.
fn existing(context: &Context, name: &InstanceName) -> Result<Traces> {
    let traces = Traces::of(context, name)?.filter(|there| there.facts.is_some() || there.overlay);
    // A domain of somebody else's is an error rather than nothing.
    context.hypervisor()?.find(name)?;
    let traces = traces.ok_or_else(|| suggest::unknown(context, name))?;
    traces.ensure_ours(context, &References::new(context))?;
    Ok(traces)
}

/// Removes the domain, so that nothing stands on the old disk any more, and its saved memory.
fn give_up_old(context: &Context, traces: &Traces) -> Result<()> {
    if let Some(domain) = context.hypervisor()?.find(&traces.name)? {
        destroy::remove_domain(&domain, &traces.name)?;
    }
    for file in &traces.memory {
        files::remove(file)?;
    }
    Ok(())
}
