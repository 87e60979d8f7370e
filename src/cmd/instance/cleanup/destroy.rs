//! Destroying one instance, and nothing else.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::cmd::instance::place;
use crate::cmd::instance::traces::Traces;
use crate::cmd::instance::wake::settled;
use crate::context::Context;
use crate::files;
use crate::hypervisor::Domain;
use crate::instance::InstanceName;
use crate::state::activity;

/// Destroys the instance of `traces`, which were read under its lock and are ours. Killed in the
/// middle, the next cleanup finishes it: it is marked first, and the mark goes last.
pub fn destroy(context: &Context, traces: &Traces) -> Result<()> {
    let (name, paths) = (&traces.name, &context.paths);
    let mark = paths.destroying(name);
    activity::touch(&mark).with_context(|| format!("failed to mark {name}"))?;
    if let Some(domain) = context.hypervisor()?.find(name)? {
        remove_domain(&domain, name)?;
    }
    // An overlay is never removed under saved memory, which is gone by now.
    let files: [PathBuf; 6] = [
        paths.new_overlay(name),
        paths.overlay(name),
        paths.activity(name),
        paths.reservation(name),
        paths.keep(name),
        paths.record(name),
    ];
    for file in traces.memory.iter().chain(&files) {
        files::remove(file)?;
    }
    // Its user goes with its address: to the next one when nothing is left that is that user's.
    if let Err(error) = place::release(context, name) {
        // It is found and given back when addresses run out.
        context
            .output
            .detail(&format!("warning: {name} keeps its address: {error:#}"));
    }
    files::remove(&mark)?;
    Ok(())
}

/// Powers `domain` off, drops its saved memory and makes libvirt forget it.
pub fn remove_domain(domain: &Domain, name: &InstanceName) -> Result<()> {
    if settled(domain, name)?.id.is_some() {
        domain.power_off()?;
    }
    // A save that was under way may have ended only now.
    if settled(domain, name)?.saved {
        domain.drop_saved_memory()?;
    }
    domain.undefine()
}
