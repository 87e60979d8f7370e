//! `cyyber instance start`

use anyhow::{Context as _, Result};

use super::single::{self, Single, Was};
use super::wake::{self, Woken, settled, wake};
use super::{access, capacity, create, define, memory, place, view};
use crate::context::Context;
use crate::hypervisor::{Domain, Facts, Power};
use crate::instance::InstanceName;
use crate::state::activity;
use crate::state::reservation::Reservation;
use crate::units::MIB;

pub fn run(context: &Context, name: &InstanceName) -> Result<Single> {
    let _lock = super::lock(context, name)?;
    let room = match context.hypervisor()?.find(name)? {
        Some(_) => None,
        None => {
            // Refused before anything is made for it.
            let memory = u64::from(context.config.lab(&name.lab)?.memory_mb) * MIB;
            capacity::admit(context, name, memory)?
        }
    };
    let (domain, made) = create::ensure(context, name)?;
    let start = Start {
        changed: made,
        room,
        as_it_was: false,
    };
    power_on(context, name, &domain, start)
}

/// What a command that powers an instance on did before, and what it wants.
#[derive(Debug, Default)]
pub struct Start {
    /// It changed something.
    pub changed: bool,
    /// It made room for the guest.
    pub room: Option<Reservation>,
    /// Saved memory that cannot be restored is an error, and not put aside.
    pub as_it_was: bool,
}

/// Brings `domain` to run, from whatever state it is in, and gives access to its console. The
/// caller holds the instance's lock.
pub fn power_on(
    context: &Context,
    name: &InstanceName,
    domain: &Domain,
    start: Start,
) -> Result<Single> {
    let before = settled(domain, name)?;
    let unusable = match before.saved {
        true => memory::unusable(context, name, domain)?,
        false => None,
    };
    if let (Some(why), true) = (&unusable, start.as_it_was) {
        return Err(memory::refused(name, why));
    }
    let boots = matches!(before.power, Power::Off | Power::Crashed)
        && (!before.saved || unusable.is_some());
    place::ensure_guarded(context)?;
    if boots && !start.changed {
        define::renew(context, name, domain)?;
    }
    // Before anything changes, so that a state directory that cannot be written stops it here.
    activity::touch(&context.paths.activity(name))
        .with_context(|| format!("failed to note the activity of {name}"))?;
    let room = match start.room {
        None => capacity::room_for(context, name, domain, &before)?,
        made => made,
    };
    let done = up(
        context,
        name,
        domain,
        before.clone(),
        unusable,
        start.changed,
    );
    drop(room);
    match done {
        Err(error) if before.id.is_some() => {
            let now = settled(domain, name)?;
            match now.id {
                // Its QEMU had died, and libvirt did not know that yet.
                None => {
                    let start = Start {
                        room: None,
                        ..start
                    };
                    power_on(context, name, domain, start)
                }
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
    unusable: Option<String>,
    changed: bool,
) -> Result<Single> {
    if let Some(why) = unusable {
        memory::set_aside(context, name, domain, &why)?;
        before.saved = false;
    }
    let was = match changed {
        true => Was::Absent,
        false => Was::In(view::state(context, name, &before)),
    };
    let woken = wake(context, name, domain, &before)?;
    let console = access::locate(context, name, &domain.xml()?)?;
    let after = super::facts(domain, name)?;
    let was_idle = wake::note(context, name, woken, &after, &console)?;
    let access = access::grant(context, domain, &console)?;
    let changed = changed || woken != Woken::Already || was_idle;
    context.warn_of_no_reaper(&name.lab);
    Ok(single::answer(context, name, changed, None, Some(access))?.after(was))
}
