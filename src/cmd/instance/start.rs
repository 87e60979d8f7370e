//! `cyyber instance start`

use anyhow::{Context as _, Result};

use super::view::{self, Single};
use super::wake::{self, Woken, settled, wake};
use super::{access, capacity, create, memory};
use crate::context::Context;
use crate::hypervisor::{Domain, Facts};
use crate::instance::InstanceName;
use crate::state::activity;
use crate::units::MIB;

pub fn run(context: &Context, name: &InstanceName) -> Result<Single> {
    let _lock = super::lock(context, name)?;
    if context.hypervisor()?.find(name)?.is_none() {
        // Refused before anything is made for it.
        let memory = u64::from(context.config.lab(&name.lab)?.memory_mb) * MIB;
        drop(capacity::admit(context, name, memory)?);
    }
    let (domain, made) = create::ensure(context, name)?;
    power_on(context, name, &domain, made)
}

/// Brings `domain` to run, from whatever state it is in, and gives access to its console. The
/// caller holds the instance's lock; `changed` says whether it changed something before.
pub fn power_on(
    context: &Context,
    name: &InstanceName,
    domain: &Domain,
    changed: bool,
) -> Result<Single> {
    let before = settled(domain, name)?;
    // Before anything changes, so that a state directory that cannot be written stops it here.
    activity::touch(&context.paths.activity(name))
        .with_context(|| format!("failed to note the activity of {name}"))?;
    match up(context, name, domain, before.clone(), changed) {
        Err(error) if before.id.is_some() => {
            let now = settled(domain, name)?;
            match now.id {
                // Its QEMU had died, and libvirt did not know that yet.
                None => up(context, name, domain, now, changed),
                Some(_) => Err(error),
            }
        }
        done => done,
    }
}

fn up(
    context: &Context,
    name: &InstanceName,
    domain: &Domain,
    mut before: Facts,
    changed: bool,
) -> Result<Single> {
    if before.saved
        && let Some(why) = memory::unusable(context, name, domain)?
    {
        memory::set_aside(context, name, domain, &why)?;
        before.saved = false;
    }
    let woken = wake(context, name, domain, &before)?;
    let console = access::locate(domain)?;
    let after = super::facts(domain, name)?;
    let was_idle = wake::note(context, name, woken, &after, &console)?;
    let access = access::grant(context, domain, &console)?;
    let changed = changed || woken != Woken::Already || was_idle;
    view::single(context, name, changed, None, Some(access))
}
